//! Discovery against servers that behave, lag, flap, lie and hang: what the view did each time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, also in its helpers"
)]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use slipring::discovery::{self, Options, Origin, Source, Triggers, View};
use slipring::routing::{Node, Topology};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything to happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options {
        interval: Duration::from_millis(40),
        removal_hold: Duration::from_secs(600),
        timeout: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(200),
        file_interval: Duration::from_millis(20),
        file_confirm: Duration::from_millis(20),
        ..Options::default()
    }
}

/// A source that is followed, and what may be asked of it.
struct Followed {
    views: watch::Receiver<Arc<View>>,
    triggers: Triggers,
    _stop: tokio_util::sync::DropGuard,
}

impl Followed {
    fn start(source: Source, options: Options) -> Self {
        let (triggers, stop) = (Triggers::default(), CancellationToken::new());
        let views = discovery::start(source, options, triggers.clone(), stop.clone());
        Self { views, triggers, _stop: stop.drop_guard() }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    fn ring(&self) -> String {
        ring(&self.view())
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Arc<View>) -> bool) -> Arc<View> {
        let waited = tokio::time::timeout(PATIENCE, self.views.wait_for(condition)).await;
        match waited.map(|view| Arc::clone(&view.unwrap())) {
            Ok(view) => view,
            Err(_) => panic!("never: {what}; {:?}", self.view()),
        }
    }

    async fn until_ring(&mut self, expected: &str) -> Arc<View> {
        self.until(expected, |view| ring(view) == expected).await
    }

    async fn until_error(&mut self, part: &str) -> Arc<View> {
        let has = |view: &Arc<View>| view.source.last_error.as_ref().is_some_and(|error| error.contains(part));
        self.until(part, has).await
    }

    /// So many further reads, whatever they say.
    async fn reads(&mut self, more: u64) -> Arc<View> {
        let reads = self.view().source.reads + more;
        self.until("reads", |view| view.source.reads > reads).await
    }
}

fn ring(view: &View) -> String {
    let names: Vec<&str> = view.nodes.iter().map(|node| node.name.trim_end_matches(":11211")).collect();
    names.join(" ")
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

// === A discovery endpoint that does as it is told ===

#[derive(Debug, Clone)]
enum Script {
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

struct Endpoint {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Endpoint {
    async fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    async fn start_at(address: &str, script: Script) -> Self {
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

    fn now(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn source(&self, first: &[&str]) -> Source {
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

fn config(version: u64, hosts: &[&str]) -> Vec<u8> {
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
            (Script::Say(config(4, &["a"])), "ring stays as it is"),
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
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

// === A name server that does as it is told ===

#[derive(Debug, Clone)]
enum Zone {
    /// Addresses of any name, and their TTL.
    Addresses(Vec<Ipv4Addr>, u32),
    /// SRV targets under a name that begins with `_`, each with its address.
    Services(Vec<(&'static str, Ipv4Addr)>),
    /// The same, but no target has an address.
    Unresolved(Vec<(&'static str, Ipv4Addr)>),
    /// Bytes that are no answer.
    Garbage,
    /// This response code and nothing else.
    Code(u8),
    Silent,
}

struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    /// How many questions were answered, or left unanswered on purpose.
    asked: watch::Receiver<u64>,
}

impl NameServer {
    async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(zone));
        let shared = Arc::clone(&zone);
        let (count, asked) = watch::channel(0);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((read, peer)) = socket.recv_from(&mut buffer).await {
                let answer = dns_answer(&buffer[..read], &shared.lock().unwrap().clone());
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, peer).await;
                }
                count.send_modify(|asked| *asked += 1);
            }
        });
        Self { address, zone, asked }
    }

    /// Until so many more questions have come.
    async fn questions(&mut self, more: u64) {
        let enough = *self.asked.borrow() + more;
        tokio::time::timeout(PATIENCE, self.asked.wait_for(|asked| *asked >= enough)).await.unwrap().unwrap();
    }

    fn now(&self, zone: Zone) {
        *self.zone.lock().unwrap() = zone;
    }

    fn options(&self) -> Options {
        Options { name_servers: vec![self.address], ..options() }
    }
}

/// A name in wire form.
fn dns_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

fn dns_answer(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    const A: u16 = 1;
    const SRV: u16 = 33;
    let mut end = 12;
    let mut labels = Vec::new();
    while query[end] != 0 {
        let label = &query[end + 1..end + 1 + usize::from(query[end])];
        labels.push(String::from_utf8_lossy(label).into_owned());
        end += 1 + label.len();
    }
    let asked = u16::from_be_bytes([query[end + 1], query[end + 2]]);
    let name = labels.join(".");
    let address = |ip: &Ipv4Addr| (A, ip.octets().to_vec());
    let (code, ttl, records) = match zone {
        Zone::Silent => return None,
        Zone::Garbage => return Some([&query[..2], &[0xff; 40]].concat()),
        Zone::Unresolved(_) if asked != SRV => (3, 0, Vec::new()),
        Zone::Code(code) => (*code, 0, Vec::new()),
        Zone::Addresses(list, ttl) if asked == A => (0, *ttl, list.iter().map(address).collect()),
        Zone::Addresses(..) => (0, 0, Vec::new()),
        Zone::Services(list) | Zone::Unresolved(list) if asked == SRV => {
            let record = |(target, _): &(&str, Ipv4Addr)| {
                let mut data = vec![0, 0, 0, 50];
                data.extend(11211_u16.to_be_bytes());
                data.extend(dns_name(target));
                (SRV, data)
            };
            (0, 0, list.iter().map(record).collect())
        }
        Zone::Services(list) if asked == A => {
            (0, 0, list.iter().filter(|(target, _)| *target == name).map(|(_, ip)| address(ip)).collect())
        }
        Zone::Services(_) | Zone::Unresolved(_) => (0, 0, Vec::new()),
    };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1]);
    answer.extend((records.len() as u16).to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(&query[12..end + 5]);
    for (kind, data) in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(u32::to_be_bytes(ttl));
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

fn cache() -> Source {
    Source::Dns { name: "cache.example.".to_owned(), port: 11211 }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, 9, last)
}

#[test]
fn addresses_of_a_name_are_nodes_whatever_their_order() {
    run(async {
        let server = NameServer::start(Zone::Addresses(vec![ip(2), ip(1)], 0)).await;
        let mut followed = Followed::start(cache(), server.options());
        let view = followed.until_ring("127.9.9.1 127.9.9.2").await;
        server.now(Zone::Addresses(vec![ip(1), ip(2)], 0));
        assert_eq!(followed.reads(3).await.generation, view.generation);
        server.now(Zone::Addresses(vec![ip(3), ip(1), ip(2)], 0));
        followed.until_ring("127.9.9.1 127.9.9.2 127.9.9.3").await;
        // What no server has is no node, whatever else is there.
        server.now(Zone::Addresses(vec![ip(4), Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, ip(1), ip(2), ip(3)], 0));
        followed.until_ring("127.9.9.1 127.9.9.2 127.9.9.3 127.9.9.4").await;
    });
}

#[test]
fn whatever_an_ill_name_server_says_the_ring_stays() {
    run(async {
        let good = Zone::Addresses(vec![ip(1), ip(2)], 0);
        let server = NameServer::start(good.clone()).await;
        let mut followed = Followed::start(cache(), server.options());
        let first = followed.until_ring("127.9.9.1 127.9.9.2").await;
        for (zone, error) in [
            (Zone::Code(3), "NXDOMAIN"),
            (Zone::Code(2), "Server Failure"),
            (Zone::Code(5), "Refused"),
            (Zone::Silent, ""),
            (Zone::Garbage, ""),
            (Zone::Addresses(Vec::new(), 0), "no such records"),
            (Zone::Addresses(vec![Ipv4Addr::UNSPECIFIED], 0), "0.0.0.0 is no address of a node"),
            (Zone::Addresses(vec![Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)], 0), "224.0.0.1 is no address"),
        ] {
            server.now(zone.clone());
            let ill = |view: &Arc<View>| {
                let problem = view.source.last_error.as_deref();
                problem.is_some_and(|problem| problem.to_lowercase().contains(&error.to_lowercase()))
            };
            let view = followed.until(error, ill).await;
            assert_eq!((view.generation, view.pending.len()), (first.generation, 0), "{zone:?}");
            server.now(good.clone());
            followed.until("good again", |view| view.source.last_error.is_none()).await;
        }
    });
}

#[test]
fn a_shrinking_answer_is_held_and_then_halved_at_most() {
    run(async {
        let server = NameServer::start(Zone::Addresses((1..=4).map(ip).collect(), 0)).await;
        let hold = Options { removal_hold: Duration::from_millis(300), ..server.options() };
        let mut followed = Followed::start(cache(), hold);
        followed.until("four", |view| view.nodes.len() == 4).await;
        server.now(Zone::Addresses(vec![ip(1)], 0));
        let view = followed.until("pending", |view| view.pending.len() == 3).await;
        assert_eq!(view.nodes.len(), 4);
        followed.until("halved", |view| view.nodes.len() == 2).await;
        assert_eq!(followed.reads(5).await.nodes.len(), 2);
        // An operator says that it is meant.
        followed.triggers.reload.notify_one();
        followed.until_ring("127.9.9.1").await;
    });
}

#[test]
fn a_long_ttl_is_kept_to_and_a_failed_connection_asks_at_once() {
    run(async {
        let server = NameServer::start(Zone::Addresses(vec![ip(1)], 3600)).await;
        let slow = Options { interval: Duration::from_secs(30), ..server.options() };
        let mut followed = Followed::start(cache(), Options { interval: Duration::from_secs(5), ..slow });
        followed.until_ring("127.9.9.1").await;
        server.now(Zone::Addresses(vec![ip(1), ip(2)], 3600));
        followed.triggers.resolve.notify_one();
        let view = followed.until_ring("127.9.9.1 127.9.9.2").await;
        assert_eq!(view.source.reads, 2);
    });
}

/// A rolling restart of a StatefulSet: each pod is away for a while and comes back elsewhere under its name.
#[test]
fn a_rolling_restart_behind_srv_moves_no_key() {
    const PODS: [&str; 3] = ["cache-0.cache.example", "cache-1.cache.example", "cache-2.cache.example"];
    run(async {
        let mut pods = vec![(PODS[0], ip(1)), (PODS[1], ip(2)), (PODS[2], ip(3))];
        let server = NameServer::start(Zone::Services(pods.clone())).await;
        let source = Source::Srv { name: "_memcache._tcp.cache.example.".to_owned() };
        let mut followed = Followed::start(source, server.options());
        let rings = Rings::of(&followed);
        let dials =
            |view: &View, address: IpAddr| view.nodes.iter().filter(|node| *node.host == *address.to_string()).count();
        let whole = PODS.join(" ");
        followed.until("all", |view| ring(view) == whole && dials(view, ip(3).into()) == 1).await;
        for pod in 0..3 {
            let away = pods.remove(pod);
            server.now(Zone::Services(pods.clone()));
            let view = followed.until("away", |view| view.pending.len() == 1).await;
            assert_eq!(ring(&view), whole);
            // Listed again before it has an address, or its name is forgotten by one of the name servers.
            pods.insert(pod, away);
            server.now(Zone::Unresolved(pods.clone()));
            followed.until("listed", |view| view.pending.is_empty()).await;
            let generation = followed.reads(2).await.generation;
            for ill in [Zone::Code(3), Zone::Code(2), Zone::Silent, Zone::Garbage, Zone::Services(Vec::new())] {
                server.now(ill);
                let failures = followed.view().source.failures;
                let view = followed.until("ill", |view| view.source.failures > failures + 1).await;
                assert_eq!((view.generation, view.pending.len()), (generation, 0));
            }
            pods.remove(pod);
            let back = ip(10 + u8::try_from(pod).unwrap());
            pods.insert(pod, (away.0, back));
            server.now(Zone::Services(pods.clone()));
            let view = followed.until("back", |view| view.pending.is_empty() && dials(view, back.into()) == 1).await;
            assert_eq!(ring(&view), whole, "only the address moved");
        }
        assert_eq!(rings.seen(), 1, "no key moved");
    });
}

/// The fingerprints of every ring that was published.
struct Rings(Arc<Mutex<BTreeSet<u64>>>);

impl Rings {
    fn of(followed: &Followed) -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let (mut views, shared) = (followed.views.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            while views.changed().await.is_ok() {
                let nodes: Vec<Arc<Node>> = views.borrow_and_update().nodes.iter().cloned().map(Arc::new).collect();
                if let Ok(topology) = Topology::new(1, nodes) {
                    shared.lock().unwrap().insert(topology.fingerprint());
                }
            }
        });
        Self(seen)
    }

    fn seen(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[test]
fn a_ttl_of_nothing_is_no_reason_to_ask_without_pause() {
    run(async {
        let server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let (started, interval) = (tokio::time::Instant::now(), Duration::from_millis(100));
        let mut followed = Followed::start(cache(), Options { interval, ..server.options() });
        let reads = followed.reads(10).await.source.reads;
        let least = (interval / 2).mul_f64(0.8) * u32::try_from(reads - 1).unwrap();
        assert!(started.elapsed() >= least, "{reads} reads in {:?}", started.elapsed());
    });
}

// === Host names in a list ===

const NAME: &str = "cache-0.example";

fn hosts(view: &View) -> String {
    view.nodes.iter().map(|node| &*node.host).collect::<Vec<_>>().join(" ")
}

fn named(port: u16) -> Source {
    Source::Static(vec![Node::new(NAME, port, 1), Node::new("127.9.9.99", 11211, 1)])
}

#[test]
fn a_listed_name_that_points_elsewhere_is_dialled_there() {
    run(async {
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options { resolve_interval: Duration::from_millis(50), ..server.options() };
        let mut followed = Followed::start(named(11211), often);
        let rings = Rings::of(&followed);
        server.questions(3).await;
        let first = followed.view();
        assert_eq!((hosts(&first), first.generation), (format!("{NAME} 127.9.9.99"), 1), "it is still there");
        server.now(Zone::Addresses(vec![ip(2)], 0));
        let view = followed.until("moved", |view| hosts(view) == "127.9.9.2 127.9.9.99").await;
        assert_eq!((ring(&view), view.generation), (ring(&first), 2));
        assert_eq!(view.reason, "host names: order, weights or addresses changed");
        for zone in [
            Zone::Code(3),
            Zone::Code(2),
            Zone::Silent,
            Zone::Garbage,
            Zone::Addresses(Vec::new(), 0),
            // The address that is dialled is among these.
            Zone::Addresses(vec![ip(1), ip(2)], 3600),
        ] {
            server.now(zone.clone());
            server.questions(5).await;
            assert_eq!(followed.view().generation, 2, "{zone:?}");
        }
        server.now(Zone::Addresses(vec![ip(3), ip(1)], 0));
        followed.until("another that was known", |view| hosts(view) == "127.9.9.1 127.9.9.99").await;
        followed.triggers.reload.notify_one();
        followed.reads(0).await;
        assert_eq!((followed.view().generation, rings.seen()), (3, 1), "no key moved");
    });
}

#[test]
fn a_failed_connection_resolves_a_listed_name_soon() {
    run(async {
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        // Without the failed connection it would take longer than anybody waits here.
        let slow = Options { resolve_interval: PATIENCE * 2, ..server.options() };
        let mut followed = Followed::start(named(11211), slow);
        server.questions(1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.now(Zone::Addresses(vec![ip(2)], 0));
        for _ in 0..20 {
            followed.triggers.resolve.notify_one();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        followed.until("moved", |view| hosts(view) == "127.9.9.2 127.9.9.99").await;
        assert!(*server.asked.borrow() <= 4, "{} questions", *server.asked.borrow());
    });
}

#[test]
fn of_several_addresses_one_that_answers_is_dialled() {
    run(async {
        let script = || Script::Say(b"VERSION 1.6.15\r\n".to_vec());
        let first = Endpoint::start_at("127.9.9.51:0", script()).await;
        let port = first.address.port();
        let Ok(listener) = TcpListener::bind(("127.9.9.50", port)).await else { panic!("port {port} is taken") };
        drop(listener);
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options { resolve_interval: Duration::from_millis(50), ..server.options() };
        let mut followed = Followed::start(named(port), often);
        server.questions(2).await;
        server.now(Zone::Addresses(vec![ip(50), ip(51)], 0));
        followed.until("the one that answers", |view| hosts(view) == "127.9.9.51 127.9.9.99").await;
        first.now(Script::Hang);
        let _second = Endpoint::start_at(&format!("127.9.9.50:{port}"), script()).await;
        server.questions(3).await;
        assert_eq!(followed.view().generation, 2, "nobody complained");
        followed.triggers.resolve.notify_one();
        followed.until("the other", |view| hosts(view) == "127.9.9.50 127.9.9.99").await;
    });
}

#[test]
fn addresses_in_a_list_are_not_asked_for() {
    run(async {
        let server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options { resolve_interval: Duration::from_millis(10), ..server.options() };
        let nodes = vec![Node::new("127.9.9.1", 11211, 1), Node::new("::1", 11211, 1)];
        let followed = Followed::start(Source::Static(nodes), often);
        followed.triggers.resolve.notify_one();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((*server.asked.borrow(), followed.view().generation), (0, 1));
    });
}

#[test]
fn names_in_a_file_are_followed_and_kept_as_names() {
    run(async {
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let scratch = Scratch::new("names");
        let path = scratch.write("nodes", NAME);
        let often = Options {
            resolve_interval: Duration::from_millis(50),
            state_dir: Some(scratch.0.clone()),
            ..server.options()
        };
        let mut followed = Followed::start(Source::File(path), often.clone());
        followed.until_ring(NAME).await;
        server.questions(2).await;
        server.now(Zone::Addresses(vec![ip(2)], 0));
        followed.until("moved", |view| hosts(view) == "127.9.9.2").await;
        scratch.write("nodes", &format!("{NAME},127.9.9.7"));
        let view = followed.until_ring(&format!("{NAME} 127.9.9.7")).await;
        assert_eq!(hosts(&view), "127.9.9.2 127.9.9.7", "another list, the same place");
        followed.reads(2).await;
        let kept = std::fs::read_to_string(scratch.0.join("last-good.json")).unwrap();
        assert!(!kept.contains("127.9.9.2"), "{kept}");
        // A name server that does not answer keeps no file from being read.
        server.now(Zone::Silent);
        server.questions(1).await;
        scratch.write("nodes", "127.9.9.8");
        followed.until_ring("127.9.9.8").await;
    });
}

// === Files ===

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slipring-discovery-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// As kubelet does: a new directory, and a symlink renamed over the old one.
    fn mount(&self, generation: &str, keys: &[(&str, &str)]) {
        let directory = self.0.join(generation);
        std::fs::create_dir(&directory).unwrap();
        for (key, value) in keys {
            std::fs::write(directory.join(key), value).unwrap();
            let _ = std::os::unix::fs::symlink(Path::new("..data").join(key), self.0.join(key));
        }
        std::os::unix::fs::symlink(generation, self.0.join("..tmp")).unwrap();
        std::fs::rename(self.0.join("..tmp"), self.0.join("..data")).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_is_followed_however_it_changes() {
    run(async {
        let scratch = Scratch::new("file");
        let path = scratch.write("nodes", "# the cache\na\nb # second\n");
        let mut followed = Followed::start(Source::File(path.clone()), options());
        followed.until_ring("a b").await;
        scratch.write("nodes", "a,b,c");
        followed.until_ring("a b c").await;
        let draft = scratch.write("draft", "a;c");
        std::fs::rename(draft, &path).unwrap();
        let view = followed.until_ring("a c").await;
        assert_eq!((view.pending.len(), view.reason.as_str()), (0, "file: b:11211 dropped"), "meant, so at once");
        let generation = view.generation;
        for (text, error) in [("", "empty"), ("a,b:", "port"), ("a c c", "twice"), ("\u{0}", "IPv4")] {
            scratch.write("nodes", text);
            let view = followed.until_error(error).await;
            assert_eq!((ring(&view), view.generation), ("a c".to_owned(), generation), "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ring(&*followed.until_error("cannot read").await), "a c");
        scratch.write("nodes", "d");
        followed.until_ring("d").await;
    });
}

#[test]
fn the_first_read_of_a_file_counts_at_once_and_a_change_when_it_is_read_twice() {
    run(async {
        let scratch = Scratch::new("first");
        let path = scratch.write("nodes", "a");
        // Nothing is ever confirmed.
        let options = Options { file_confirm: Duration::from_secs(3600), ..options() };
        let mut followed = Followed::start(Source::File(path), options.clone());
        followed.until_ring("a").await;
        scratch.write("nodes", "a,b");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(followed.ring(), "a", "the change is not believed yet");
        // One that is not there at the start is no first read: whoever writes it may be half way through.
        let late = scratch.0.join("late");
        let mut followed = Followed::start(Source::File(late), options);
        followed.until_error("cannot read").await;
        scratch.write("late", "a");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(followed.ring(), "");
    });
}

#[test]
fn a_pipe_in_the_place_of_the_file_is_not_waited_for() {
    run(async {
        let scratch = Scratch::new("pipe");
        let path = scratch.write("nodes", "a");
        let mut followed = Followed::start(Source::File(path.clone()), options());
        followed.until_ring("a").await;
        std::fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        followed.until_error("no regular file").await;
        assert_eq!(followed.ring(), "a");
    });
}

#[test]
fn a_mounted_config_map_is_followed_as_a_file_and_as_a_directory() {
    run(async {
        let scratch = Scratch::new("mount");
        scratch.mount("..1", &[("MEMCACHED_NODES", "a,b"), ("MEMCACHED_PORT", "11212")]);
        let mut file = Followed::start(Source::File(scratch.0.join("MEMCACHED_NODES")), options());
        let mut directory = Followed::start(Source::File(scratch.0.clone()), options());
        file.until_ring("a b").await;
        directory.until_ring("a:11212 b:11212").await;
        scratch.mount("..2", &[("MEMCACHED_NODES", "a,b,c"), ("MEMCACHED_PORT", "11213")]);
        std::fs::remove_dir_all(scratch.0.join("..1")).unwrap();
        file.until_ring("a b c").await;
        directory.until_ring("a:11213 b:11213 c:11213").await;
    });
}

#[test]
fn a_reload_reads_a_file_at_once_and_unconfirmed() {
    run(async {
        let scratch = Scratch::new("reload");
        let path = scratch.write("nodes", "a");
        let mut followed = Followed::start(Source::File(path), options());
        followed.until_ring("a").await;
        drop(followed);
        let path = scratch.write("nodes", "a");
        let slow = Options { file_interval: Duration::from_secs(600), ..options() };
        let mut followed = Followed::start(Source::File(path), slow);
        followed.until_ring("a").await;
        scratch.write("nodes", "b");
        followed.triggers.reload.notify_one();
        followed.until_ring("b").await;
    });
}

// === The last good ring ===

#[test]
fn a_restart_serves_the_last_good_ring_until_the_source_answers() {
    run(async {
        let scratch = Scratch::new("state");
        let kept = Options { state_dir: Some(scratch.0.clone()), ..options() };
        let endpoint = Endpoint::start(Script::Say(config(5, &["a", "b"]))).await;
        let mut followed = Followed::start(endpoint.source(&[]), kept.clone());
        followed.until_ring("a b").await;
        followed.reads(2).await;
        drop(followed);
        endpoint.now(Script::Hang);
        let mut followed = Followed::start(endpoint.source(&["first"]), kept.clone());
        assert_eq!((followed.ring(), followed.view().source.origin), ("a b".to_owned(), Origin::Snapshot));
        // A version lower than the one that was kept is one that lags.
        endpoint.now(Script::Say(config(4, &["a"])));
        followed.until_error("version 4 is lower than 5").await;
        assert_eq!(followed.ring(), "a b");
        endpoint.now(Script::Say(config(6, &["a", "b", "c"])));
        followed.until_ring("a b c").await;
        // By then it is kept: two that write at a time would be two sidecars with one directory.
        followed.reads(2).await;
        drop(followed);
        // Neither is a file that is not there yet a reason to serve nothing.
        let source = Source::File(scratch.write("nodes", "x"));
        let mut followed = Followed::start(source.clone(), kept.clone());
        followed.until_ring("x").await;
        followed.reads(1).await;
        drop(followed);
        std::fs::remove_file(scratch.0.join("nodes")).unwrap();
        let mut followed = Followed::start(source, kept.clone());
        assert_eq!(followed.ring(), "x");
        followed.until_error("cannot read").await;
        scratch.write("nodes", "y");
        followed.until_ring("y").await;
        drop(followed);
        // Another source's ring is none of ours, and a broken one is no reason not to start.
        let other = Followed::start(cache(), kept.clone());
        assert_eq!(other.ring(), "");
        scratch.write("last-good.json", "{");
        assert_eq!(Followed::start(endpoint.source(&["first"]), kept).ring(), "first");
    });
}
