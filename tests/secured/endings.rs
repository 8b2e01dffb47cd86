//! Every way in which a node is not secured as it should be: the node is down, and the cause says why.
use crate::support::{Authority, Memcached, Slipring, run_to_end};
use crate::{PATIENT, metric, slipring, tls_node, wait_for_cause};

/// `slipring check` of one node: its output.
fn check(node: &Memcached, arguments: &[&str]) -> String {
    let address = node.address().to_string();
    let output = run_to_end(&[&["check", "--nodes", &address], arguments].concat(), &[]);
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_certificate_that_does_not_do() {
    let authority = Authority::new();
    authority.found("stranger");
    authority.certify_as("expired", "IP:127.0.0.1", -1, "ca");
    authority.certify_as("elsewhere", "DNS:elsewhere.test,IP:127.0.0.9", 10, "ca");
    authority.certify_as("foreign", "IP:127.0.0.1", 10, "stranger");
    authority.certify_with("above", "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:TRUE\n");
    authority.certify_with("nameless", "");
    authority.certify_with("of-a-client", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=clientAuth\n");
    authority.certify_with("odd", "subjectAltName=IP:127.0.0.1\n1.2.3.4=critical,ASN1:NULL\n");
    let arguments = ["--node-tls", "--node-tls-ca", &authority.file("ca.pem")];
    for (certificate, cause) in [
        ("expired", "its certificate has expired"),
        ("elsewhere", "its certificate is for another name"),
        ("foreign", "its certificate is signed by an unknown authority"),
        ("above", "its certificate is a CA certificate"),
        ("nameless", "its certificate is of X.509 version 1, without names"),
        ("of-a-client", "its certificate is not for servers"),
        ("odd", "its certificate is not acceptable"),
    ] {
        let node = tls_node(&authority, certificate, &[]);
        let slipring = slipring(&[&node], &arguments);
        wait_for_cause(&slipring, cause);
        slipring.wait_for_output(&format!("cause=\"{cause}\""));
        assert!(metric(&slipring, r#"slipring_tls_handshakes_total{result="certificate",kind="none"}"#) >= 1.0);
        assert_eq!(metric(&slipring, r#"slipring_tls_handshakes_total{result="ok",kind="full"}"#), 0.0);
        assert!(slipring.client().ask_line("set a 0 0 1\r\n1\r\n").starts_with("SERVER_ERROR"));
        let table = check(&node, &arguments);
        assert!(table.contains(cause) && table.contains("1 of 1 node failed"), "{table}");
    }
}

#[test]
fn a_name_is_given_and_verification_can_be_left_out() {
    let authority = Authority::new();
    authority.certify_as("elsewhere", "DNS:elsewhere.test", 10, "ca");
    let ca = authority.file("ca.pem");
    let node = tls_node(&authority, "elsewhere", &[]);
    let named = slipring(&[&node], &["--node-tls", "--node-tls-ca", &ca, "--node-tls-name", "elsewhere.test"]);
    named.wait_for_states("up", 1);
    assert!(!named.output().contains("not verified"));
    let insecure = slipring(&[&node], &["--node-tls", "--node-tls-insecure"]);
    insecure.wait_for_states("up", 1);
    insecure.client().ask("set a 0 0 1\r\n1\r\n", "STORED\r\n");
    assert_eq!(insecure.output().matches("certificates of nodes are not verified").count(), 1);
    assert_eq!(metric(&insecure, "slipring_tls_insecure"), 1.0);
    assert!(!insecure.output().contains("is not used"), "{}", insecure.output());
    // An authority beside it verifies nothing.
    let both = slipring(&[&node], &["--node-tls", "--node-tls-insecure", "--node-tls-ca", &ca]);
    both.wait_for_output("slipring trusts whatever answers at their addresses; --node-tls-ca is not used");
    // By the name it is listed by.
    let listed = format!("localhost:{}", node.address().port());
    let output = run_to_end(&["check", "--nodes", &listed, "--node-tls", "--node-tls-ca", &ca], &[]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && table.contains("for another name"), "{table}");
}

#[test]
fn without_a_file_those_are_trusted_that_the_system_trusts() {
    let authority = Authority::new();
    authority.certify("node");
    let node = tls_node(&authority, "node", &[]);
    let address = node.address().to_string();
    let arguments = [&["serve", "--nodes", &address, "--node-tls"], PATIENT].concat();
    let ca = authority.file("ca.pem");
    let trusting = Slipring::command(&arguments, &[("SSL_CERT_FILE", &ca)]);
    trusting.wait_for_states("up", 1);
    // A system without any, as the image is one: those that Mozilla trusts.
    let image = Slipring::command(&arguments, &[("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")]);
    wait_for_cause(&image, "its certificate is signed by an unknown authority");
}

#[test]
fn a_secret_that_everybody_may_read_is_told_once() {
    let authority = Authority::new();
    authority.certify("node");
    authority.certify("app");
    let node = tls_node(&authority, "node", &["-Y", &authority.write("passwords", "app:hunter2\n")]);
    let (ca, ours) = (authority.file("ca.pem"), authority.write("ours", "app:hunter2\n"));
    let (certificate, key) = (authority.file("app.pem"), authority.file("app.key"));
    let tls = ["--node-tls", "--node-tls-ca", &ca, "--node-tls-cert", &certificate, "--node-tls-key", &key];
    let arguments = [&tls[..], &["--node-auth-file", &ours]].concat();
    let told = |mode: u32| {
        for file in [&ours, &key] {
            let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
            std::fs::set_permissions(file, mode).expect("permissions can be set");
        }
        let slipring = slipring(&[&node], &arguments);
        slipring.wait_for_states("up", 1);
        let output = slipring.output();
        [&ours, &key].map(|file| output.matches(&format!("{file} may be read by every user of this machine")).count())
    };
    assert_eq!(told(0o644), [1, 1]);
    assert_eq!(told(0o640), [0, 0]);
}

#[test]
fn a_client_certificate_is_wanted() {
    let authority = Authority::new();
    authority.certify("node");
    authority.found("stranger");
    authority.certify("app");
    authority.certify_as("foreign", "DNS:app.test", 10, "stranger");
    let ca = authority.file("ca.pem");
    let wanted = format!("ssl_ca_cert={ca},ssl_verify_mode=3");
    let node = tls_node(&authority, "node", &["-o", &wanted]);
    let arguments = ["--node-tls", "--node-tls-ca", &ca];
    let without = slipring(&[&node], &arguments);
    wait_for_cause(&without, "wants a client certificate, or another one");
    let table = check(&node, &arguments);
    assert!(table.contains("wants a client certificate") && table.contains("--node-tls-cert"), "{table}");
    let own = |name: &str| [authority.file(&format!("{name}.pem")), authority.file(&format!("{name}.key"))];
    let with = |[certificate, key]: &[String; 2]| {
        slipring(&[&node], &[&arguments[..], &["--node-tls-cert", certificate, "--node-tls-key", key]].concat())
    };
    wait_for_cause(&with(&own("foreign")), "wants a client certificate, or another one");
    let right = with(&own("app"));
    right.wait_for_states("up", 1);
    right.client().ask("set a 0 0 1\r\n1\r\n", "STORED\r\n");
}

#[test]
fn one_side_has_tls_and_the_other_has_not() {
    let authority = Authority::new();
    authority.certify("node");
    let plain = Memcached::start();
    let arguments = ["--node-tls", "--node-tls-ca", &authority.file("ca.pem")];
    let secured = slipring(&[&plain], &arguments);
    wait_for_cause(&secured, "does not speak TLS");
    assert!(metric(&secured, r#"slipring_tls_handshakes_total{result="not_tls",kind="none"}"#) >= 1.0);
    let table = check(&plain, &arguments);
    assert!(table.contains("does not speak TLS") && table.contains("leave out --node-tls"), "{table}");
    let tls = tls_node(&authority, "node", &[]);
    let unsecured = slipring(&[&tls], &[]);
    wait_for_cause(&unsecured, "closed by it before it said its version");
    let table = check(&tls, &[]);
    assert!(table.contains("--node-tls"), "{table}");
    // A plain sidecar shows no series of TLS.
    let (_, text) = unsecured.admin("/metrics");
    assert!(!text.contains("slipring_tls"), "{text}");
}

#[test]
fn a_log_in_that_is_missing_wrong_or_needless() {
    let authority = Authority::new();
    let passwords = authority.write("passwords", "app:hunter2\n");
    let wrong = authority.write("wrong", "app:hunter3\n");
    let node = Memcached::secured(&["-Y", &passwords]);
    let without = slipring(&[&node], &[]);
    wait_for_cause(&without, "authentication wanted");
    let refused = slipring(&[&node], &["--node-auth-file", &wrong]);
    wait_for_cause(&refused, "authentication refused");
    refused.wait_for_output("authentication refused");
    assert!(!refused.output().contains("hunter3"), "{}", refused.output());
    let table = check(&node, &["--node-auth-file", &wrong]);
    assert!(table.contains("authentication refused") && !table.contains("hunter"), "{table}");
    // It comes back by itself when the node knows the password.
    authority.write("passwords", "app:hunter3\n");
    node.signal("HUP");
    refused.wait_for_states("up", 1);
    // memcached without authentication takes it for a `set`.
    let plain = Memcached::start();
    slipring(&[&plain], &["--node-auth-file", &passwords]).wait_for_states("up", 1);
    assert_eq!(plain.client().get(&["auth"]).len(), 1, "anyone can get it");
    let table = check(&plain, &["--node-auth-file", &passwords]);
    assert!(table.contains("no authentication: it kept user and password") && !table.contains("hunter"), "{table}");
    assert_eq!(plain.client().get(&["auth"]).len(), 0, "it is deleted");
}

#[test]
fn check_shows_what_was_agreed_on() {
    let authority = Authority::new();
    authority.certify("node");
    let node = tls_node(&authority, "node", &[]);
    let table = check(&node, &["--node-tls", "--node-tls-ca", &authority.file("ca.pem")]);
    assert!(table.contains("TLSv1.3 TLS13_AES") && table.contains("  ok"), "{table}");
    assert!(table.contains("O=Tests") && table.contains("CN=node") && table.contains("expires 20"), "{table}");
}

#[test]
fn the_discovery_endpoint_and_detect_speak_as_the_lanes_do() {
    let authority = Authority::new();
    authority.certify("node");
    let ca = authority.file("ca.pem");
    let passwords = authority.write("passwords", "app:hunter2\n");
    let node = tls_node(&authority, "node", &["-Y", &passwords]);
    let arguments = ["--node-tls", "--node-tls-ca", &ca, "--node-auth-file", &passwords];
    let proxy = slipring(&[&node], &arguments);
    proxy.wait_for_states("up", 1);
    for key in ["one", "two", "three"] {
        proxy.client().ask(format!("set {key} 0 0 1\r\n1\r\n"), "STORED\r\n");
    }
    let address = node.address().to_string();
    let output = run_to_end(&[&["detect", "--nodes", &address], &arguments[..]].concat(), &[]);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("3 keys") || text.contains(" 3 "), "{text}");
    // memcached is no discovery endpoint, and says so by TLS.
    let output = run_to_end(&[&["check", "--discovery", &address], &arguments[..]].concat(), &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("not a discovery endpoint"), "{text}");
    let output = run_to_end(&["check", "--discovery", &address, "--node-tls", "--node-tls-ca", &ca], &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("unauthenticated"), "{text}");
}
