//! A server that does as it is told: a handshake that hangs, drips, is cut; garbage; sessions that are resumed; ends with
//! and without TLS' last word.
use crate::support::{Authority, Slipring, eventually};
use crate::{PATIENT, metric, wait_for_cause};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Accepts connections and leaves each to `serve`, on a thread of its own; the number of those before it comes with it.
/// It lives as long as the test's process.
fn server(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    server_at("127.0.0.1", serve)
}

fn server_at(host: &str, serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((host, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (stream, number) in listener.incoming().flatten().zip(0..) {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream, number));
        }
    });
    address
}

fn config(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(authority.file("node.pem")).expect("a file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(authority.file("node.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).expect("a certificate");
    config.ticketer = rustls::crypto::ring::Ticketer::new().expect("tickets");
    Arc::new(config)
}

/// Answers `version`, `get` (a miss), `set` and `quit` by TLS until the other side ends.
fn honest(stream: TcpStream, config: &Arc<ServerConfig>, mut after: impl FnMut(&str) -> After) {
    let tls = ServerConnection::new(Arc::clone(config)).expect("a session");
    let mut stream = rustls::StreamOwned::new(tls, stream);
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => received.extend_from_slice(&buffer[..read]),
        }
        while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = received.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let reply: &[u8] = match line.split(' ').next() {
                Some("version") => b"VERSION 1.6.18\r\n",
                Some("get") => b"END\r\n",
                // Behind it its block.
                Some("set") => b"",
                _ => b"STORED\r\n",
            };
            match after(&line) {
                After::Answer => stream.write_all(reply).expect("an answer"),
                After::Cut => return,
                After::End => {
                    stream.conn.send_close_notify();
                    let _ = stream.conn.write_tls(&mut stream.sock);
                    return;
                }
            }
        }
    }
}

/// What is done about a line.
enum After {
    Answer,
    /// The connection ends without TLS' last word.
    Cut,
    /// With it.
    End,
}

/// A discovery endpoint by TLS, that knows one node: by this name, at this address.
fn endpoint(config: Arc<ServerConfig>, name: &str, node: SocketAddr) -> SocketAddr {
    let list = format!("1\n{name}|{}|{}\n", node.ip(), node.port());
    let answer = format!("CONFIG cluster 0 {}\r\n{list}\r\nEND\r\n", list.len());
    server(move |stream, _| {
        let tls = ServerConnection::new(Arc::clone(&config)).expect("a session");
        let mut stream = rustls::StreamOwned::new(tls, stream);
        let mut question = [0; 128];
        while let Ok(1..) = stream.read(&mut question) {
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_discovery_endpoint_is_asked_by_tls_and_its_nodes_are_verified_by_their_names() {
    let authority = authority();
    authority.certify_as("named", "DNS:cache.test", 10, "ca");
    let node = crate::tls_node(&authority, "named", &[]);
    let ca = authority.file("ca.pem");
    let follow = |name: &str| {
        let address = endpoint(config(&authority, BOTH), name, node.address()).to_string();
        let tls = ["serve", "--discovery", &address, "--node-tls", "--node-tls-ca", &ca];
        Slipring::command(&[&tls[..], PATIENT].concat(), &[])
    };
    let right = follow("cache.test");
    right.wait_for_states("up", 1);
    right.client().ask("set a 0 0 1\r\n1\r\n", "STORED\r\n");
    wait_for_cause(&follow("other.test"), "its certificate is for another name");
}

fn start(authority: &Authority, address: SocketAddr, extra: &[&str]) -> Slipring {
    let ca = authority.file("ca.pem");
    Slipring::launch(&[address], &[&["--node-tls", "--node-tls-ca", &ca], extra].concat())
}

fn authority() -> Authority {
    let authority = Authority::new();
    authority.certify("node");
    authority
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn a_handshake_that_hangs_drips_or_is_cut() {
    let authority = authority();
    let hangs = server(|stream, _| {
        std::thread::sleep(Duration::from_secs(600));
        drop(stream);
    });
    let slipring = start(&authority, hangs, &["--connect-timeout", "300ms"]);
    wait_for_cause(&slipring, "no answer to the TLS handshake for 300 ms");
    assert!(metric(&slipring, r#"slipring_tls_handshakes_total{result="timeout",kind="none"}"#) >= 1.0);

    // One byte of a record whose end would come in days.
    let drips = server(|mut stream, _| {
        let record = [&[0x16, 3, 3, 0x40, 0][..], &[2, 0, 0x3f, 0xfc], &[0; 1000]].concat();
        for byte in record {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let slipring = start(&authority, drips, &["--connect-timeout", "300ms"]);
    wait_for_cause(&slipring, "no answer to the TLS handshake for 300 ms");

    let cuts = server(|mut stream, _| {
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello);
        let _ = stream.write_all(&[0x16, 3, 3, 0, 90, 2, 0, 0]);
    });
    let slipring = start(&authority, cuts, PATIENT);
    wait_for_cause(&slipring, "closed by it during the TLS handshake");

    let garbage = server(|mut stream, _| {
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello);
        let _ = stream.write_all(&[b'x'; 4096]);
        // It stays, so that what it said is not lost by a reset.
        let _ = stream.read(&mut hello);
    });
    let slipring = start(&authority, garbage, PATIENT);
    wait_for_cause(&slipring, "does not speak TLS");
    // None of these is asked in a tight loop.
    let tried = metric(&slipring, r#"slipring_tls_handshakes_total{result="not_tls",kind="none"}"#);
    assert!(tried < 200.0, "{tried} handshakes");
}

#[test]
fn versions_one_by_one() {
    let authority = authority();
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let config = config(&authority, versions);
        let address = server(move |stream, _| honest(stream, &config, |_| After::Answer));
        let slipring = start(&authority, address, PATIENT);
        slipring.wait_for_states("up", 1);
        assert!(slipring.client().get(&["a"]).is_empty());
    }
}

/// More than one, for a node that is lost again and again is asked ever more rarely.
const SERVERS: usize = 50;

#[test]
fn a_thousand_connections_resume_their_session() {
    let authority = Authority::new();
    let hosts: Vec<String> = (1..=SERVERS).map(|number| format!("127.0.1.{number}")).collect();
    let names: Vec<String> = hosts.iter().map(|host| format!("IP:{host}")).collect();
    authority.certify_as("node", &names.join(","), 10, "ca");
    let config = config(&authority, BOTH);
    // Every connection ends when it has said its version, with TLS' last word or without.
    let nodes = hosts.iter().map(|host| {
        let config = Arc::clone(&config);
        server_at(host, move |stream, number| {
            let mut versions = 0;
            honest(stream, &config, |_| {
                versions += 1;
                match (versions, number % 2) {
                    (1, _) => After::Answer,
                    (_, 0) => After::End,
                    _ => After::Cut,
                }
            });
        })
    });
    let nodes: Vec<SocketAddr> = nodes.collect();
    let ca = authority.file("ca.pem");
    let slipring = Slipring::launch(&nodes, &[&["--node-tls", "--node-tls-ca", &ca], PATIENT].concat());
    let resumed = || metric(&slipring, r#"slipring_tls_handshakes_total{result="ok",kind="resumed"}"#);
    let full = || metric(&slipring, r#"slipring_tls_handshakes_total{result="ok",kind="full"}"#);
    let mut memory = None;
    let mut number = 0;
    eventually_long("a thousand sessions are resumed", || {
        // Something for each node, and so an end of each connection.
        let keys: Vec<String> = (0..500).map(|key| format!("k{number}:{key}")).collect();
        number += 1;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        assert!(slipring.client().get(&keys).is_empty());
        let resumed = resumed();
        if resumed >= 100.0 {
            memory.get_or_insert_with(|| slipring.memory_kib("VmRSS"));
        }
        resumed >= 1000.0
    });
    // The first of each node, and one now and then whose node was asked again before its session was told.
    assert!(full() <= 2.0 * SERVERS as f64, "{} full handshakes", full());
    let grown = slipring.memory_kib("VmRSS").saturating_sub(memory.expect("a hundred come first"));
    assert!(grown < 4 << 10, "{grown} KiB more");
}

/// As `eventually`, for what a busy machine may need minutes for.
fn eventually_long(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(240);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn ends_are_told_apart() {
    let authority = authority();
    for (end, cause) in [(true, "closed by it"), (false, "cut off, without the end that TLS has")] {
        let config = config(&authority, BOTH);
        // The first connection serves one read and ends; then nobody is there any more.
        let address = server(move |stream, number| {
            if number > 0 {
                return;
            }
            honest(stream, &config, |line| match (line.starts_with("set"), end) {
                (false, _) => After::Answer,
                (true, true) => After::End,
                (true, false) => After::Cut,
            });
        });
        let slipring = start(&authority, address, &[PATIENT, &["--log-level", "debug"]].concat());
        slipring.wait_for_states("up", 1);
        let answer = slipring.client().ask_line("set a 0 0 1\r\n1\r\n");
        let said = if end { "closed the connection" } else { "cut the connection off" };
        assert!(answer.contains(said), "{answer} ({cause})");
    }
}

#[test]
fn a_log_in_that_hangs_or_is_answered_by_something_else() {
    let authority = authority();
    let passwords = authority.write("passwords", "app:hunter2\n");
    for (reply, cause) in [
        (&b""[..], "no answer to the authentication for 500 ms"),
        (b"STO", "no answer to the authentication for 500 ms"),
        (b"VERSION 1.6.18\r\n", "authentication answered out of step"),
        (b"STORED\r\nSTORED\r\n", "authentication answered out of step"),
        (b"CLIENT_ERROR authentication failure\r\n", "authentication refused"),
    ] {
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = Arc::clone(&heard);
        let address = server(move |mut stream, number| {
            let mut buffer = [0; 4096];
            let mut said = Vec::new();
            while !said.ends_with(b"app hunter2\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(read) => said.extend_from_slice(&buffer[..read]),
                }
            }
            let _ = stream.write_all(reply);
            // All that it ever says on this connection.
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                said.extend_from_slice(&buffer[..read]);
            }
            noted.lock().unwrap().push((number, said));
        });
        let slipring = Slipring::launch(&[address], &["--node-auth-file", &passwords, "--connect-timeout", "500ms"]);
        wait_for_cause(&slipring, cause);
        eventually("a connection is over", || !heard.lock().unwrap().is_empty());
        for (_, said) in heard.lock().unwrap().iter() {
            assert_eq!(String::from_utf8_lossy(said), "set auth 0 0 11\r\napp hunter2\r\n");
        }
        assert!(!slipring.output().contains("hunter2"), "{}", slipring.output());
    }
}
