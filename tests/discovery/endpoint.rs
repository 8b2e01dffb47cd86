//! A discovery endpoint that does as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slipring::discovery::{Options, Origin, Source};
use slipring::routing::Node;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{Followed, PATIENCE, options, ring, run};

#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// These bytes, then it waits for the next question.
    Say(Vec<u8>),
    /// `ERROR` to the newer question, these bytes to the older one.
    Old(Vec<u8>),
    /// Each byte on its own, with a pause.
    Drip(Vec<u8>),
    /// These bytes, then the connection is closed.
    Cut(Vec<u8>),
    Hang,
    /// One after the other, one a question, again and again.
    Turns(Vec<Vec<u8>>),
}

pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Endpoint {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    pub(crate) async fn start_at(address: &str, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script));
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let script = shared.lock().unwrap().clone();
                tokio::spawn(play(stream, script, turn));
                turn += 1;
            }
        });
        Self { address, script }
    }

    pub(crate) fn now(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub(crate) fn source(&self, first: &[&str]) -> Source {
        let first = first.iter().map(|name| Node::new(name, 11211, 1)).collect();
        Source::Endpoint { host: self.address.ip().to_string(), port: self.address.port(), first }
    }
}

async fn play(mut stream: TcpStream, script: Script, turn: usize) {
    let mut question = [0; 128];
    while let Ok(read @ 1..) = stream.read(&mut question).await {
        let newer = question[..read].starts_with(b"config get cluster\r\n");
        let (bytes, pause, last) = match &script {
            Script::Say(bytes) => (bytes.clone(), Duration::ZERO, false),
            Script::Old(_) if newer => (b"ERROR\r\n".to_vec(), Duration::ZERO, false),
            Script::Old(bytes) => (bytes.clone(), Duration::ZERO, false),
            Script::Drip(bytes) => (bytes.clone(), Duration::from_millis(2), false),
            Script::Cut(bytes) => (bytes.clone(), Duration::ZERO, true),
            Script::Hang => std::future::pending().await,
            Script::Turns(all) => (all[turn % all.len()].clone(), Duration::ZERO, false),
        };
        let step = if pause.is_zero() { bytes.len().max(1) } else { 1 };
        for piece in bytes.chunks(step) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
        if last {
            return;
        }
    }
}

fn payload(version: u64, hosts: &[&str]) -> String {
    let members: Vec<String> = hosts.iter().map(|host| format!("{host}|127.0.0.1|11211")).collect();
    format!("{version}\n{}\n", members.join(" "))
}

pub(crate) fn config(version: u64, hosts: &[&str]) -> Vec<u8> {
    let payload = payload(version, hosts);
    format!("CONFIG cluster 0 {}\r\n{payload}\r\nEND\r\n", payload.len()).into_bytes()
}

#[test]
fn a_correct_endpoint_is_followed() {
    run(async {
        let endpoint = Endpoint::start(Script::Say(config(1, &["a", "b"]))).await;
        let mut followed = Followed::start(endpoint.source(&[]), options());
        assert_eq!((followed.ring(), followed.view().generation), (String::new(), 0));
        let view = followed.until_ring("a b").await;
        assert_eq!((&*view.nodes[0].host, view.source.origin), ("127.0.0.1", Origin::Source));
        endpoint.now(Script::Say(config(2, &["a", "b", "c"])));
        let grown = followed.until_ring("a b c").await;
        assert_eq!((grown.generation, grown.reason.as_str()), (view.generation + 1, "version 2: c:11211 added"));
        let later = followed.reads(3).await;
        assert_eq!(later.generation, grown.generation, "the same list again is no change");
    });
}

#[test]
fn an_endpoint_of_the_old_form_is_understood() {
    run(async {
        let payload = payload(1, &["a", "b"]);
        let old = format!("VALUE AmazonElastiCache:cluster 0 {}\r\n{payload}\r\nEND\r\n", payload.len());
        let endpoint = Endpoint::start(Script::Old(old.into_bytes())).await;
        Followed::start(endpoint.source(&[]), options()).until_ring("a b").await;
    });
}

#[test]
fn whatever_an_ill_endpoint_says_the_ring_stays() {
    run(async {
        let good = config(5, &["a", "b", "c"]);
        let endpoint = Endpoint::start(Script::Say(good.clone())).await;
        let mut followed = Followed::start(endpoint.source(&[]), options());
        let first = followed.until_ring("a b c").await;
        let mut garbage = vec![b'x'; 1 << 20];
        garbage[7] = 0;
        let mut header_and_garbage = b"CONFIG cluster 0 9999999\r\n1\n".to_vec();
        header_and_garbage.extend(vec![b'|'; 2 << 20]);
        for (script, error) in [
            (Script::Say(b"ERROR\r\n".to_vec()), "not a discovery endpoint"),
            (Script::Say(b"SERVER_ERROR busy\r\n".to_vec()), "SERVER_ERROR busy"),
            (Script::Old(b"END\r\n".to_vec()), "a plain memcached"),
            (Script::Say(config(6, &[])), "the list is empty"),
            (Script::Cut(good[..40].to_vec()), "before its END"),
            (Script::Cut(Vec::new()), "without an answer"),
            (Script::Hang, "no answer within"),
            (Script::Drip(vec![b' '; 100_000]), "no answer within"),
            (Script::Say(garbage), "longer than"),
            (Script::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), "not an answer to"),
            (Script::Say(header_and_garbage), "longer than"),
            (Script::Say(b"CONFIG cluster 0 5\r\n6\na|b|c\n\r\nEND\r\n".to_vec()), "not host|ip|port"),
            (Script::Say(config(4, &["a"])), "is lower than"),
        ] {
            endpoint.now(script);
            let view = followed.until_error(error).await;
            assert_eq!((ring(&view), view.generation), ("a b c".to_owned(), first.generation), "{error}");
            endpoint.now(Script::Say(good.clone()));
            followed.until("good again", |view| view.source.last_error.is_none()).await;
        }
        assert_eq!(followed.view().generation, first.generation);
    });
}

#[test]
fn a_slow_drip_within_the_limit_is_read() {
    run(async {
        let endpoint = Endpoint::start(Script::Drip(config(1, &["a"]))).await;
        Followed::start(endpoint.source(&[]), Options { timeout: PATIENCE, ..options() }).until_ring("a").await;
    });
}

#[test]
fn an_endpoint_that_flaps_adds_and_never_removes() {
    run(async {
        let turns = vec![config(8, &["a", "b", "c"]), config(7, &["a", "b"])];
        let endpoint = Endpoint::start(Script::Turns(turns)).await;
        let mut followed = Followed::start(endpoint.source(&[]), options());
        let view = followed.until_ring("a b c").await;
        let later = followed.reads(10).await;
        assert_eq!((ring(&later), later.generation, later.pending.len()), (ring(&view), view.generation, 0));
    });
}

#[test]
fn a_version_that_goes_backwards_counts_once_it_persists() {
    run(async {
        let endpoint = Endpoint::start(Script::Say(config(9, &["a"]))).await;
        let mut followed = Followed::start(endpoint.source(&[]), options());
        followed.until_ring("a").await;
        endpoint.now(Script::Say(config(1, &["a", "b"])));
        let view = followed.until_ring("a b").await;
        assert!(view.source.failures >= 2, "{view:?}");
    });
}

#[test]
fn a_wrong_length_is_believed_when_it_is_repeated() {
    run(async {
        let answer = b"CONFIG cluster 0 3\r\n7\na|127.0.0.1|11211\n\r\nEND\r\n";
        let endpoint = Endpoint::start(Script::Say(answer.to_vec())).await;
        let view = Followed::start(endpoint.source(&[]), options()).until_ring("a").await;
        assert!(view.source.reads >= 2);
    });
}

#[test]
fn an_operator_needs_no_second_read() {
    run(async {
        let endpoint = Endpoint::start(Script::Say(config(9, &["a", "b"]))).await;
        let slow = Options { interval: Duration::from_secs(600), ..options() };
        let mut followed = Followed::start(endpoint.source(&[]), slow);
        followed.until_ring("a b").await;
        endpoint.now(Script::Say(config(1, &["c"])));
        followed.triggers.reload.notify_one();
        followed.until_ring("c").await;
    });
}

#[test]
fn an_endpoint_that_refuses_is_asked_again_and_the_first_list_serves() {
    run(async {
        let endpoint = Endpoint::start(Script::Hang).await;
        // Bound and not listening: nobody else gets the port, and who connects is refused.
        let nobody = TcpSocket::new_v4().unwrap();
        nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = nobody.local_addr().unwrap();
        let source = Source::Endpoint {
            host: address.ip().to_string(),
            port: address.port(),
            first: vec![Node::new("first", 11211, 1)],
        };
        let mut followed = Followed::start(source, options());
        assert_eq!((followed.ring(), followed.view().source.origin), ("first".to_owned(), Origin::FirstList));
        followed.until_error("cannot connect").await;
        let view = followed.reads(3).await;
        assert_eq!(ring(&view), "first");
        // Where it answers, its first answer replaces the list at once.
        endpoint.now(Script::Say(config(1, &["a"])));
        Followed::start(endpoint.source(&["first"]), options()).until_ring("a").await;
    });
}

#[test]
fn probes_of_silent_nodes_keep_nobody_from_reading_the_source() {
    run(async {
        // They take connections, and never say a word.
        let silent: Vec<std::net::TcpListener> =
            (0..40).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let members: Vec<String> = silent.iter().map(|node| node.local_addr().unwrap().port()).map(member).collect();
        let answer = |version: u64, members: &str| {
            let payload = format!("{version}\n{members}\n");
            Script::Say(format!("CONFIG cluster 0 {}\r\n{payload}\r\nEND\r\n", payload.len()).into_bytes())
        };
        let endpoint = Endpoint::start(answer(1, &format!("a|127.0.0.1|1 {}", members.join(" ")))).await;
        let never = Options { probe_timeout: Duration::from_secs(3600), ..options() };
        let mut followed = Followed::start(endpoint.source(&[]), never);
        followed.until("all", |view| view.nodes.len() == 41).await;
        endpoint.now(answer(2, "a|127.0.0.1|1"));
        followed.until("missing", |view| view.pending.len() == 40).await;
        endpoint.now(answer(3, "a|127.0.0.1|1 b|127.0.0.1|1"));
        followed.until("another", |view| view.nodes.len() == 42).await;
        followed.triggers.reload.notify_one();
        followed.until_ring("a:1 b:1").await;
    });
}

fn member(port: u16) -> String {
    format!("silent|127.0.0.1|{port}")
}

#[test]
fn a_node_of_a_lower_list_goes_when_it_is_dead_and_stays_while_it_answers() {
    run(async {
        // The "node" only has to answer something.
        let alive = Endpoint::start(Script::Say(b"VERSION 1.6.15\r\n".to_vec())).await;
        let answer = |version: u64, members: &str| {
            let payload = format!("{version}\n{members}\n");
            Script::Say(format!("CONFIG cluster 0 {}\r\n{payload}\r\nEND\r\n", payload.len()).into_bytes())
        };
        let alive_member = format!("alive|127.0.0.1|{}", alive.address.port());
        let endpoint = Endpoint::start(answer(1, &format!("a|127.0.0.1|1 dead|127.0.0.1|1 {alive_member}"))).await;
        let mut followed = Followed::start(endpoint.source(&[]), options());
        followed.until("three", |view| view.nodes.len() == 3).await;
        endpoint.now(answer(2, "a|127.0.0.1|1"));
        let view = followed.until("the dead one gone", |view| view.nodes.len() == 2).await;
        assert!(view.reason.contains("dead:1 dropped (absent from a higher version"), "{}", view.reason);
        let view = followed.until("probed", |view| view.pending.iter().any(|node| node.answers.is_some())).await;
        let text = view.pending[0].text(tokio::time::Instant::now());
        assert!(text.contains("still answering"), "{text}");
        endpoint.now(answer(3, &format!("a|127.0.0.1|1 {alive_member}")));
        followed.until("kept", |view| view.pending.is_empty() && view.nodes.len() == 2).await;
        // Seconds after the list changed it dies.
        endpoint.now(answer(4, "a|127.0.0.1|1"));
        followed.until("held", |view| view.pending.iter().any(|node| node.answers == Some(true))).await;
        alive.now(Script::Hang);
        assert_eq!(ring(&*followed.until("gone", |view| view.nodes.len() == 1).await), "a:1");
    });
}
