//! The options are checked before anything is bound: one clear line, exit code 64, and never a secret in it.
use crate::support::{Authority, run_to_end};

fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = run_to_end(&[&["serve", "--nodes", "127.0.0.1:1"], arguments].concat(), environment);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn what_makes_no_sense_is_refused() {
    let authority = Authority::new();
    authority.certify("node");
    authority.certify("other");
    let (ca, pem) = (authority.file("ca.pem"), authority.file("node.pem"));
    let (key, other) = (authority.file("node.key"), authority.file("other.key"));
    let text = authority.write("text", "hunter2 is no certificate\n");
    let lines = authority.write("lines", "app:hunter2\napp:hunter3\n");
    let directory = authority.file("");
    let tls = "--node-tls";
    for (arguments, problem) in [
        (&["--node-tls-ca", &ca][..], "--node-tls-ca has no effect without --node-tls"),
        (&["--node-tls-name", "cache.test"], "--node-tls-name has no effect without --node-tls"),
        (&["--node-tls-insecure"], "--node-tls-insecure has no effect without --node-tls"),
        (&[tls, "--node-tls-cert", &pem], "--node-tls-cert needs --node-tls-key, too"),
        (&[tls, "--node-tls-key", &key], "--node-tls-key needs --node-tls-cert, too"),
        (&[tls, "--node-tls-cert", &pem, "--node-tls-key", &other], "not that of the certificate"),
        (&[tls, "--node-tls-cert", &key, "--node-tls-key", &key], "holds no certificate in PEM"),
        (&[tls, "--node-tls-cert", &pem, "--node-tls-key", &pem], "holds no private key in PEM"),
        (&[tls, "--node-tls-ca", &text], "holds no certificate in PEM"),
        (&[tls, "--node-tls-ca", "/nowhere"], "--node-tls-ca: cannot read /nowhere: No such file"),
        (&[tls, "--node-tls-ca", &directory], "no regular file"),
        (&[tls, "--node-tls-name", "no name"], "is no host name"),
        (&["--node-auth-file", "/nowhere"], "--node-auth-file: cannot read /nowhere: No such file"),
        (&["--node-auth-file", &text], "blanks"),
        (&["--node-auth-file", &lines], "several lines"),
    ] {
        let line = refused(arguments, &[]);
        assert!(line.contains(problem) && !line.contains("hunter"), "{arguments:?}: {line}");
    }
    let line = refused(&[], &[("SLIPRING_NODE_TLS_CA", &ca)]);
    assert!(line.contains("SLIPRING_NODE_TLS_CA has no effect"), "{line}");
    let line = refused(&[], &[("SLIPRING_NODE_AUTH_FILE", "/nowhere")]);
    assert!(line.contains("SLIPRING_NODE_AUTH_FILE: cannot read"), "{line}");
}
