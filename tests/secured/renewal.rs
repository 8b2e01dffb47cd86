//! Certificates and passwords change while a load runs that checks every answer: no request fails.
use crate::support::{Authority, Memcached, Pattern, Random, Slipring, eventually};
use crate::{PATIENT, metric, slipring, tls_arguments, tls_node};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: u64 = 8;
/// Requests that a client sends at once.
const BURST: u64 = 32;

/// Clients that write and read keys of their own in pipelines, and check each answer, until `stop`: so many a second of all
/// together, or as many as the machine can. It counts the answers.
fn load(slipring: &Slipring, rate: Option<u64>, stop: &AtomicBool, done: &AtomicU64) {
    let pattern = Pattern::new();
    let gap = rate.map(|rate| Duration::from_secs(1) * (CLIENTS * BURST) as u32 / rate as u32);
    let begun_at = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (pattern, mut client) = (&pattern, slipring.client());
            scope.spawn(move || {
                let mut random = Random::new(number + 1);
                for version in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Some(gap) = gap {
                        std::thread::sleep((begun_at + gap * version as u32).saturating_duration_since(Instant::now()));
                    }
                    let keys: Vec<String> =
                        (0..BURST / 2).map(|_| format!("c{number}:{}", random.below(200))).collect();
                    let mut burst = Vec::new();
                    for key in &keys {
                        let value = pattern.value(key, version);
                        burst.extend(format!("set {key} 0 0 {}\r\n", value.len()).as_bytes());
                        burst.extend(&value);
                        burst.extend(format!("\r\nget {key}\r\n").as_bytes());
                    }
                    client.send(&burst);
                    for key in &keys {
                        assert_eq!(client.line(), "STORED", "{key}");
                        let values = client.values().expect("a reply to a get");
                        assert!(values.len() == 1 && values[0].data == pattern.value(key, version), "{key}");
                        done.fetch_add(2, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Runs `steps` beside the load.
fn under_load(slipring: &Slipring, rate: Option<u64>, steps: impl FnOnce(&AtomicU64)) {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun_at = Instant::now();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load(slipring, rate, &stop, &done));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steps(&done)));
        stop.store(true, Ordering::Relaxed);
        load.join().expect("every answer is right");
        outcome.expect("the steps are done");
    });
    let (answers, seconds) = (done.load(Ordering::Relaxed), begun_at.elapsed().as_secs_f64());
    let wanted = rate.map_or_else(String::new, |rate| format!(" of the {rate} that were wanted"));
    println!("{answers} answers, each right; {:.0} a second{wanted}", answers as f64 / seconds);
}

/// Waits until so many more answers have been checked.
fn more(done: &AtomicU64, count: u64) {
    let before = done.load(Ordering::Relaxed);
    eventually(&format!("{count} more answers"), || done.load(Ordering::Relaxed) >= before + count);
}

fn full(slipring: &Slipring) -> f64 {
    metric(slipring, r#"slipring_tls_handshakes_total{result="ok",kind="full"}"#)
}

#[test]
fn certificates_are_rotated_under_load() {
    let authority = Authority::new();
    authority.certify("node");
    authority.certify("app");
    let ca = authority.file("ca.pem");
    let wanted = format!("ssl_ca_cert={ca},ssl_verify_mode=3");
    let nodes: Vec<Memcached> = (0..2).map(|_| tls_node(&authority, "node", &["-o", &wanted])).collect();
    let (certificate, key) = (authority.file("app.pem"), authority.file("app.key"));
    let own = ["--node-tls-cert", &certificate, "--node-tls-key", &key, "--workers", "2"];
    let arguments = [&["--node-tls", "--node-tls-ca", &ca, "--connections-per-node", "2"][..], &own].concat();
    let slipring = slipring(&nodes.iter().collect::<Vec<_>>(), &arguments);
    slipring.wait_for_states("up", 2);
    let lanes = 2.0 * 2.0 * 2.0;
    eventually("every lane is there", || full(&slipring) >= lanes);
    let expiry = r#"slipring_tls_certificate_expiry_timestamp_seconds{owner="client",node=""}"#;
    under_load(&slipring, None, |done| {
        for round in 1..=3 {
            more(done, 2000);
            let before = full(&slipring);
            authority.certify_as("next", "DNS:app.test", 10 + round, "ca");
            // As a Secret is mounted: one file after the other, and what does not fit together changes nothing.
            authority.write("app.pem", &authority.read("next.pem"));
            authority.write("app.key", &authority.read("next.key"));
            eventually("our new certificate is in use", || {
                metric(&slipring, expiry) == authority.expiry("next") as f64
            });
            eventually("every lane is new", || full(&slipring) >= before + lanes);
            more(done, 2000);
        }
    });
    let (_, text) = slipring.admin("/metrics");
    assert!(!text.contains("slipring_soft_failures_total{"), "{text}");
    assert!(slipring.output().contains("slipring replaces its connections one by one"));
    slipring.wait_for_states("up", 2);
}

/// Requests a second, of all clients together.
const RATE: u64 = if cfg!(debug_assertions) { 2_000 } else { 20_000 };

/// The user of the test's own questions to the nodes.
const TESTER: &str = "tester:door";

/// What the nodes show and ask for and what we show, trust and say is replaced three times, by whoever runs it as it has to
/// be done: the nodes know the new password before we say it, and we the new authority before the nodes show what it signed.
#[test]
fn certificates_passwords_and_the_authority_are_rotated_at_a_steady_rate() {
    let authority = Authority::new();
    authority.found("other");
    authority.certify("node");
    authority.certify("app");
    let ca = authority.file("ca.pem");
    let trusted = authority.write("trusted", &authority.read("ca.pem"));
    let of_nodes = authority.write("of-nodes", &format!("{TESTER}\napp:hunter0\n"));
    let ours = authority.write("ours", "app:hunter0\n");
    let wanted = format!("ssl_ca_cert={ca},ssl_verify_mode=3");
    let node_arguments = tls_arguments(&authority, "node", &["-Y", &of_nodes, "-o", &wanted]);
    let node_arguments: Vec<&str> = node_arguments.iter().map(String::as_str).collect();
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::with_door(&node_arguments, TESTER)).collect();
    let (certificate, key) = (authority.file("app.pem"), authority.file("app.key"));
    let own = ["--node-tls-cert", &certificate, "--node-tls-key", &key, "--node-auth-file", &ours];
    let arguments =
        [&["--node-tls", "--node-tls-ca", &trusted, "--connections-per-node", "2", "--workers", "2"], &own[..]];
    let slipring = Slipring::launch(
        &nodes.iter().map(Memcached::address).collect::<Vec<_>>(),
        &[PATIENT, &["--log-level", "debug"], &arguments.concat()].concat(),
    );
    slipring.wait_for_states("up", 2);
    let lanes = 2.0 * 2.0;
    let made = || nodes.iter().map(|node| connects(&slipring, node)).collect::<Vec<_>>();
    let all_new = |before: &[f64]| made().iter().zip(before).all(|(now, before)| *now >= before + lanes);
    eventually("every lane is there", || all_new(&[0.0, 0.0]));
    let expiry = |owner: &str, node: &str| {
        metric(
            &slipring,
            &format!(r#"slipring_tls_certificate_expiry_timestamp_seconds{{owner="{owner}",node="{node}"}}"#),
        )
    };
    under_load(&slipring, Some(RATE), |done| {
        for round in 1..=3 {
            more(done, RATE / 2);
            let signs = if round == 2 {
                let before = made();
                authority.write("trusted", &(authority.read("ca.pem") + &authority.read("other.pem")));
                eventually("every lane is made by who trusts both", || all_new(&before));
                "other"
            } else {
                "ca"
            };
            authority.certify_as("next-node", "IP:127.0.0.1", 20 + round, signs);
            authority.write("node.pem", &authority.read("next-node.pem"));
            authority.write("node.key", &authority.read("next-node.key"));
            let (old, new) = (format!("app:hunter{}", round - 1), format!("app:hunter{round}"));
            authority.write("of-nodes", &format!("{TESTER}\n{old}\n{new}\n"));
            for node in &nodes {
                node.signal("HUP");
                node.client().ask("refresh_certs\r\n", "OK\r\n");
            }
            more(done, RATE / 2);

            let before = made();
            authority.certify_as("next", "DNS:app.test", 10 + round, "ca");
            authority.write("app.pem", &authority.read("next.pem"));
            authority.write("ours", &format!("{new}\n"));
            authority.write("app.key", &authority.read("next.key"));
            eventually("our new certificate is in use", || expiry("client", "") == authority.expiry("next") as f64);
            eventually("every lane is new", || all_new(&before));
            for node in &nodes {
                let shown = || expiry("node", &node.address().to_string());
                eventually("its new certificate was seen", || shown() == authority.expiry("next-node") as f64);
            }
            more(done, RATE / 2);
            authority.write("of-nodes", &format!("{TESTER}\n{new}\n"));
            nodes.iter().for_each(|node| node.signal("HUP"));
        }
        more(done, RATE);
    });
    let (_, text) = slipring.admin("/metrics");
    assert!(!text.contains("slipring_soft_failures_total{"), "{text}");
    assert!(!slipring.output().contains("hunter"), "{}", slipring.output());
    slipring.wait_for_states("up", 2);
}

#[test]
fn what_is_wrong_changes_nothing_and_is_told_once() {
    let authority = Authority::new();
    let passwords = authority.write("passwords", "app:hunter2\n");
    let ours = authority.write("ours", "app:hunter2\n");
    let node = Memcached::secured(&["-Y", &passwords]);
    let slipring = slipring(&[&node], &["--node-auth-file", &ours]);
    slipring.wait_for_states("up", 1);
    under_load(&slipring, None, |done| {
        authority.write("ours", "hunter2\n");
        slipring.wait_for_output("one line user:password is expected; the credentials in use stay in use");
        more(done, 1000);
        std::fs::remove_file(&ours).expect("the file is there");
        slipring.wait_for_output("No such file or directory; the credentials in use stay in use");
        more(done, 1000);
        // A password that the node does not know: the old connections serve on.
        authority.write("ours", "app:hunter3\n");
        slipring.wait_for_output("the new credentials do not work");
        more(done, 2000);
        slipring.wait_for_states("up", 1);
        // It learns it.
        let before = connects(&slipring, &node);
        authority.write("passwords", "app:hunter3\n");
        node.signal("HUP");
        eventually("a lane made with the new password", || connects(&slipring, &node) > before);
        more(done, 2000);
    });
    let output = slipring.output();
    assert!(!output.contains("hunter"), "{output}");
    assert_eq!(output.matches("one line user:password is expected").count(), 1, "{output}");
    assert_eq!(output.matches("the new credentials do not work").count(), 1, "{output}");
    assert!(!slipring.admin("/metrics").1.contains("slipring_soft_failures_total{"), "{output}");
}

fn connects(slipring: &Slipring, node: &Memcached) -> f64 {
    metric(slipring, &format!(r#"slipring_upstream_connects_total{{node="{}",result="ok"}}"#, node.address()))
}

#[test]
fn an_authority_is_replaced_by_another() {
    let authority = Authority::new();
    authority.found("other");
    authority.certify("node");
    authority.certify_as("moved", "IP:127.0.0.1", 10, "other");
    authority.write("trusted", &authority.read("ca.pem"));
    let mut node = tls_node(&authority, "node", &[]);
    let slipring = slipring(&[&node], &["--node-tls", "--node-tls-ca", &authority.file("trusted")]);
    slipring.wait_for_states("up", 1);
    let arguments = tls_arguments(&authority, "moved", &[]);
    node.restart_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    crate::wait_for_cause(&slipring, "its certificate is signed by an unknown authority");
    authority.write("trusted", &(authority.read("ca.pem") + &authority.read("other.pem")));
    slipring.wait_for_states("up", 1);
    slipring.client().ask("set a 0 0 1\r\n1\r\n", "STORED\r\n");
}

#[test]
fn a_certificate_of_a_node_that_nears_its_end_is_looked_at_again() {
    use slipring::routing::{Node, Published, Topology};
    use slipring::secured::{Options, Secured, TlsOptions, look_after};
    use std::sync::Arc;
    use std::time::Duration;

    let authority = Authority::new();
    authority.certify_as("node", "IP:127.0.0.1", 3, "ca");
    let node = tls_node(&authority, "node", &[]);
    let address = node.address();
    let tls = TlsOptions { ca: Some(authority.file("ca.pem").into()), ..TlsOptions::default() };
    let secured = Secured::new(Options { tls: Some(tls), auth_file: None }).expect("an authority");
    let member = Arc::new(Node::new("127.0.0.1", address.port(), 1));
    let name = Arc::clone(&member.name);
    let ring = Arc::new(Published::new(Topology::new(1, vec![member]).expect("a ring")));
    let shown = || secured.numbers(|_| true).expect("TLS").nodes.first().map(|(_, at)| *at);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // A lane is made, and lasts.
        let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let ends_at = tokio::time::Instant::now() + Duration::from_secs(20);
        let opened = secured.open(stream, ("127.0.0.1", Some(&name)), ends_at, Duration::from_secs(20)).await;
        let _lane = opened.expect("a lane");
        assert_eq!(shown(), Some(authority.expiry("node")));
        // The node has another certificate from now on.
        authority.certify_as("next", "IP:127.0.0.1", 90, "ca");
        authority.write("node.pem", &authority.read("next.pem"));
        authority.write("node.key", &authority.read("next.key"));
        refresh(&authority, address).await;
        let look = look_after(secured.clone(), Arc::clone(&ring), Duration::from_millis(20));
        let seen = async {
            while shown() != Some(authority.expiry("next")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = look => panic!("it never ends"),
            seen = tokio::time::timeout(crate::support::PATIENCE, seen) => seen.expect("the new certificate is seen"),
        }
    });
}

/// Has a memcached read its certificate again.
async fn refresh(authority: &Authority, address: std::net::SocketAddr) {
    use slipring::secured::{Options, Secured, TlsOptions};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let tls = TlsOptions { ca: Some(authority.file("ca.pem").into()), ..TlsOptions::default() };
    let secured = Secured::new(Options { tls: Some(tls), auth_file: None }).expect("an authority");
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let ends_at = tokio::time::Instant::now() + Duration::from_secs(20);
    let opened = secured.open(stream, ("127.0.0.1", None), ends_at, Duration::from_secs(20)).await;
    let mut stream = opened.expect("a connection");
    stream.write_all(b"refresh_certs\r\n").await.expect("it is read");
    stream.flush().await.expect("it is read");
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).await.expect("an answer");
    assert_eq!(&answer[..read], b"OK\r\n");
}
