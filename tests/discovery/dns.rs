//! A name server that does as it is told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slipring::discovery::{Options, Source, View};
use slipring::routing::{Node, Topology};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::{Followed, PATIENCE, options, ring, run};

#[derive(Debug, Clone)]
pub(crate) enum Zone {
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

pub(crate) struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    /// How many questions were answered, or left unanswered on purpose.
    pub(crate) asked: watch::Receiver<u64>,
}

impl NameServer {
    pub(crate) async fn start(zone: Zone) -> Self {
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
    pub(crate) async fn questions(&mut self, more: u64) {
        let enough = *self.asked.borrow() + more;
        tokio::time::timeout(PATIENCE, self.asked.wait_for(|asked| *asked >= enough)).await.unwrap().unwrap();
    }

    pub(crate) fn now(&self, zone: Zone) {
        *self.zone.lock().unwrap() = zone;
    }

    pub(crate) fn options(&self) -> Options {
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

pub(crate) fn cache() -> Source {
    Source::Dns { name: "cache.example.".to_owned(), port: 11211 }
}

pub(crate) fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, 9, last)
}

#[test]
fn addresses_of_a_name_are_nodes_whatever_their_order() {
    run(async {
        let server = NameServer::start(Zone::Addresses(vec![ip(2), ip(1)], 0)).await;
        let mut followed = Followed::start(cache(), server.options());
        let view = followed.until_ring("127.9.9.1 127.9.9.2").await;
        // By TLS they show a certificate for the name, not for an address.
        assert!(view.nodes.iter().all(|node| node.certificate_name() == "cache.example"));
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
            (Zone::Code(3), "name not found"),
            (Zone::Code(2), "Server Failure"),
            (Zone::Code(5), "Refused"),
            (Zone::Silent, "name servers do not answer"),
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
        let view = followed.until("all", |view| ring(view) == whole && dials(view, ip(3).into()) == 1).await;
        // By TLS each shows a certificate for the name that it is the target by, not for the address that is dialled.
        let certified: Vec<&str> = view.nodes.iter().map(|node| node.certificate_name()).collect();
        assert_eq!(certified.join(" "), whole);
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
pub(crate) struct Rings(Arc<Mutex<BTreeSet<u64>>>);

impl Rings {
    pub(crate) fn of(followed: &Followed) -> Self {
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

    pub(crate) fn seen(&self) -> usize {
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
