//! What clients do, by TLS and behind a log-in: small and large, one by one and in pipelines.
use crate::support::{Authority, Memcached, Random, Slipring, TextClient};
use crate::{metric, slipring, tls_node};

/// Sizes about the ends of a record, of memcached's buffer, and of what is streamed.
const SIZES: [usize; 12] = [0, 1, 1000, 16_300, 16_383, 16_384, 16_385, 32_768, 40_000, 300_000, 1_000_000, 3_000_000];

fn value(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    std::iter::repeat_with(|| random.next() as u8).take(size).collect()
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn expect(client: &mut TextClient, key: &str, value: &[u8]) {
    let got = client.get(&[key]);
    assert!(got.len() == 1 && got[0].data == value, "{} values of {key}, or another one", got.len());
}

/// Every size by itself, then as the beginning, the middle and the end of a pipeline: were a record to hold the end of a
/// value and the next request, memcached 1.6.18 would never answer that.
fn exchange(slipring: &Slipring) {
    let mut client = slipring.client();
    for (size, seed) in SIZES.into_iter().zip(1..) {
        let (key, value) = (format!("k{size}"), value(size, seed));
        client.send(set(&key, &value));
        assert_eq!(client.line(), "STORED");
        expect(&mut client, &key, &value);
        let burst = [
            &b"set first 0 0 1\r\nx\r\n"[..],
            &set(&key, &value),
            b"get first\r\n",
            &set("last", b"y"),
            b"delete last\r\n",
        ];
        client.send(burst.concat());
        assert_eq!(client.line(), "STORED");
        assert_eq!(client.line(), "STORED");
        assert_eq!(client.line(), "VALUE first 0 1");
        assert_eq!(client.line(), "x");
        assert_eq!(client.line(), "END");
        assert_eq!(client.line(), "STORED");
        assert_eq!(client.line(), "DELETED");
    }
    // Thousands of requests at once, of all lengths below a record.
    let mut random = Random::new(7);
    let values: Vec<Vec<u8>> = (0..2000).map(|seed| value(random.below(5000), seed)).collect();
    let burst: Vec<u8> = values.iter().zip(0..).flat_map(|(value, n)| set(&format!("p{n}"), value)).collect();
    std::thread::scope(|scope| {
        let mut writer = client.stream().try_clone().expect("a socket");
        scope.spawn(move || std::io::Write::write_all(&mut writer, &burst).expect("a client is read"));
        for _ in &values {
            assert_eq!(client.line(), "STORED");
        }
    });
    for (n, value) in values.iter().enumerate() {
        expect(&mut client, &format!("p{n}"), value);
    }
    client.send(b"version\r\n");
    assert_eq!(client.line(), "VERSION 1.6.18");
}

#[test]
fn by_tls() {
    let authority = Authority::new();
    authority.certify("node");
    let nodes: Vec<Memcached> = (0..2).map(|_| tls_node(&authority, "node", &["-I", "8m"])).collect();
    let slipring =
        slipring(&nodes.iter().collect::<Vec<_>>(), &["--node-tls", "--node-tls-ca", &authority.file("ca.pem")]);
    slipring.wait_for_states("up", 2);
    exchange(&slipring);
    assert!(metric(&slipring, r#"slipring_tls_handshakes_total{result="ok",kind="full"}"#) >= 2.0);
    assert_eq!(metric(&slipring, "slipring_tls_insecure"), 0.0);
    for node in &nodes {
        let series =
            format!(r#"slipring_tls_certificate_expiry_timestamp_seconds{{owner="node",node="{}"}}"#, node.address());
        assert_eq!(metric(&slipring, &series), authority.expiry("node") as f64);
    }
}

#[test]
fn behind_a_log_in() {
    let authority = Authority::new();
    let passwords = authority.write("passwords", "app:hunter2\n");
    let node = Memcached::secured(&["-Y", &passwords, "-I", "8m"]);
    let slipring = slipring(&[&node], &["--node-auth-file", &passwords, "--log-level", "trace"]);
    slipring.wait_for_states("up", 1);
    exchange(&slipring);
    secret_is_nowhere(&slipring);
}

#[test]
fn by_tls_behind_a_log_in_with_a_client_certificate() {
    let authority = Authority::new();
    authority.certify("node");
    authority.certify("app");
    let passwords = authority.write("passwords", "app:hunter2\n");
    let ca = authority.file("ca.pem");
    let wanted = format!("ssl_ca_cert={ca},ssl_verify_mode=3");
    let node = tls_node(&authority, "node", &["-I", "8m", "-Y", &passwords, "-o", &wanted]);
    let (certificate, key) = (authority.file("app.pem"), authority.file("app.key"));
    let arguments = ["--node-tls", "--node-tls-ca", &ca, "--node-auth-file", &passwords, "--log-level", "trace"];
    let own = ["--node-tls-cert", &certificate, "--node-tls-key", &key];
    let slipring = slipring(&[&node], &[&arguments[..], &own].concat());
    slipring.wait_for_states("up", 1);
    exchange(&slipring);
    let series = r#"slipring_tls_certificate_expiry_timestamp_seconds{owner="client",node=""}"#;
    assert_eq!(metric(&slipring, series), authority.expiry("app") as f64);
    secret_is_nowhere(&slipring);
}

/// It is not in the log, not shown by any page, and not in the cache: it was said once on each connection.
fn secret_is_nowhere(slipring: &Slipring) {
    for path in ["/config", "/ring", "/metrics", "/", "/hotkeys"] {
        let (status, body) = slipring.admin(path);
        assert!(status == 200 && !body.contains("hunter2"), "{path}: {status} {body}");
    }
    assert!(slipring.client().get(&["auth"]).is_empty());
    assert!(!slipring.output().contains("hunter2"), "{}", slipring.output());
}
