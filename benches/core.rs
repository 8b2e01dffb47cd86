//! What the proxy's own code costs, without a socket: parse, route, a request's whole way through
//! the core and back, and a change of the ring. Every answer is compared.
//!
//! ```text
//! cargo bench --bench core
//! cargo bench --bench core -- 'route|get'
//! ```
//!
//! Machines are noisy, the number of instructions is not: `-- --rounds N NAME` makes N trips through the core and ends, to be
//! run by callgrind. The difference between two N is what so many trips cost (`benches/README.md`).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench ends at what it did not expect; criterion's macros make public items"
)]

#[path = "parts/trip.rs"]
mod trip;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use slipring::metrics::{Cells, DURATIONS, Exposition, Kind, Outcome, SIZES, Sources};
use slipring::protocol::command::Command;
use slipring::protocol::reply::Line;
use slipring::protocol::request::Request;
use slipring::protocol::text::reply;
use slipring::protocol::text::request;
use slipring::routing::{Node, PRESETS, Placement, Topology};
use trip::{NOW, Proxy, Trip, connect, gets, gets_of_one, multiget, ring, set, topology};

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let keys: Vec<String> = (0..24).map(|i| format!("key:{i:08}")).collect();
    let multiget = format!("get {}", keys.join(" "));
    let lines = [
        ("get", "get key:00000001", 1),
        ("get 24 keys", &*multiget, 24),
        ("gat", "gat 3600 key:00000001", 1),
        ("set", "set key:00000001 5 3600 1024", 0),
        ("cas noreply", "cas key:00000001 5 3600 1024 77 noreply", 0),
        ("delete", "delete key:00000001", 0),
        ("incr", "incr key:00000001 1", 0),
        ("touch", "touch key:00000001 3600", 0),
    ];
    for (name, line, keys) in lines {
        group.bench_function(name, |b| {
            b.iter(|| {
                let request = request::parse(black_box(line.as_bytes()), 1 << 20);
                let found = match request.expect("valid") {
                    Request::Read { keys, .. } => keys.count(),
                    Request::Store(store) => {
                        assert_eq!(store.len, 1024);
                        0
                    }
                    Request::Change { key, .. } => {
                        assert_eq!(key, b"key:00000001");
                        0
                    }
                    _ => usize::MAX,
                };
                assert_eq!(found, keys);
            });
        });
    }
    group.bench_function("reply VALUE", |b| {
        b.iter(|| {
            let line = reply::parse(black_box(b"VALUE key:00000001 0 100"));
            let expected = Line::Value { key: b"key:00000001", len: 100 };
            assert_eq!(line, Some(expected));
        });
    });
    group.finish();
}

/// The promise is less than 30 ns at 20 nodes, hash included.
fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for nodes in [3, 20] {
        let topology = topology(nodes);
        let keys: Vec<String> = (0..4096).map(|i| format!("key:{i:08}")).collect();
        let owners: Vec<_> = keys.iter().map(|k| topology.route(k.as_bytes())).collect();
        let mut i = 0;
        group.bench_function(format!("{nodes} nodes"), |b| {
            b.iter(|| {
                i = (i + 1) % keys.len();
                assert_eq!(topology.route(black_box(keys[i].as_bytes())), owners[i]);
            });
        });
    }
    group.finish();
}

/// Every preset at 20 nodes with keys of 30 bytes: none above 150 ns without a reason. The reasons are an MD5 or SHA-1
/// of the key (some 100 ns and more: a whole block for each key), and for emcache a 128-bit MurmurHash3 of 43 bytes for
/// each node, of which the nodes share one block in three. (The figures are those of an idle core; beside other work
/// they are up to three times as much, those of `ring` too.)
fn placements(c: &mut Criterion) {
    let mut group = c.benchmark_group("placement, 20 nodes");
    let nodes: Vec<_> = (0..20).map(|i| Arc::new(Node::new(&format!("10.0.0.{}", 2 + i), 11211, 1))).collect();
    let keys: Vec<String> = (0..4096).map(|i| format!("session:{i:08}:profile:en:v2")).collect();
    assert_eq!(keys[0].len(), 30);
    let further = [
        "libmemcached,hash=murmur",
        "libmemcached,hash=jenkins",
        "memcached-proxy,mode=ring",
        "mcrouter,hash=rendezvous",
        "perl-cache-memcached-fast,ketama-points=150",
        "spymemcached-ketama,hash=native",
        "twemproxy,hash-tag={}",
    ];
    for text in PRESETS.iter().map(|preset| preset.name).chain(further) {
        let placement: Arc<Placement> = Arc::new(text.parse().unwrap());
        let topology = Topology::placed(1, nodes.clone(), &placement).unwrap();
        let owners: Vec<_> = keys.iter().map(|k| topology.route(k.as_bytes())).collect();
        let mut i = 0;
        group.bench_function(text, |b| {
            b.iter(|| {
                i = (i + 1) % keys.len();
                assert_eq!(topology.route(black_box(keys[i].as_bytes())), owners[i]);
            });
        });
    }
    group.finish();
}

/// The whole ways that are measured: name, how many requests or keys it has, a proxy, the trip.
fn trips() -> [(&'static str, u64, Proxy, Trip); 4] {
    let three = Proxy::new(3);
    let keys = multiget(24, &three.topology);
    let mut trips = [
        ("get 100 B", 1, Proxy::new(1), gets(1, 100)),
        ("set 1 KiB", 1, Proxy::new(1), set(1024)),
        ("64 gets pipelined", 64, Proxy::new(1), gets(64, 100)),
        ("multiget 24 over 3 nodes", 24, three, keys),
    ];
    for (_, _, proxy, _) in &mut trips {
        // What clients have seen decides how far they are read ahead: that is learnt first.
        for _ in 0..100 {
            proxy.round(&gets_of_one(proxy));
        }
    }
    trips
}

fn round_trip(c: &mut Criterion) {
    let mut group = c.benchmark_group("core");
    for (name, elements, mut proxy, trip) in trips() {
        group.throughput(Throughput::Elements(elements));
        group.bench_function(name, |b| {
            b.iter(|| proxy.round(&trip));
        });
    }
    group.finish();
}

/// The promises are 20 ms for a ring of 100 nodes, off the data path, and 1 ms of a worker for a swap.
fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("change");
    let nodes: Vec<_> = topology(100).nodes().to_vec();
    let expected = topology(100);
    group.bench_function("ring of 100 nodes builds", |b| {
        b.iter(|| {
            let built = Topology::new(2, black_box(&nodes).clone()).unwrap();
            assert_eq!((built.fingerprint(), built.nodes().len()), (expected.fingerprint(), 100));
            assert_eq!(built.route(b"key:00000001"), expected.route(b"key:00000001"));
            built
        });
    });
    for nodes in [20, 100] {
        let mut proxy = Proxy::new(nodes);
        for _ in 0..100 {
            proxy.core.client_connected();
        }
        // The last node and another take turns.
        let other = ring((1..nodes).chain([nodes + 1]).collect());
        let rings = [Arc::clone(&proxy.topology), other];
        let state = RefCell::new((proxy.core, 0));
        group.bench_function(format!("swap of one node in {nodes}"), |b| {
            b.iter_batched(
                || {
                    let (core, swaps) = &mut *state.borrow_mut();
                    let (lanes, closed) = connect(core);
                    let each = usize::from(*swaps > 0);
                    assert_eq!((lanes.len(), closed), (each, each), "one lane made, one closed");
                    assert!(Arc::ptr_eq(core.topology(), &rings[*swaps % 2]));
                    *swaps += 1;
                    Arc::clone(&rings[*swaps % 2])
                },
                |next| state.borrow_mut().0.set_topology(next, NOW),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// What a get of one key costs to be counted, and what those who look cost.
fn observe(c: &mut Criterion) {
    let mut group = c.benchmark_group("observe");
    let topology = topology(20);
    let cells = Arc::new(Cells::new(4));
    for (worker, node) in (0..4).flat_map(|worker| topology.nodes().iter().map(move |node| (worker, node))) {
        cells.worker(worker).node(&node.name).duration.record(100, &DURATIONS);
    }
    let worker = cells.worker(0);
    let node = worker.node(&topology.nodes()[0].name);
    let mut micros = 0;
    group.bench_function("counting of one get", |b| {
        b.iter(|| {
            // Not always the same bucket.
            micros = (micros + 37) % 1000;
            let took = black_box(micros);
            worker.command(Command::Get);
            worker.multigets.record(1, &SIZES);
            worker.queued.record(took / 4, &DURATIONS);
            node.hits.add(1);
            node.requests[0].add(1);
            node.duration.record(took, &DURATIONS);
            worker.request(Command::Get, Outcome::Hit, 1);
            worker.took(Kind::Get, Duration::from_micros(took));
        });
        // In here: a filter may leave this one out.
        assert!(cells.requests(|_, outcome| outcome == Outcome::Hit) > 0);
    });
    let mut hash = 1_u64;
    group.bench_function("sample of a key, all different", |b| {
        b.iter(|| {
            hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
            worker.sampled(black_box(hash), None, NOW);
        });
    });
    group.bench_function("hot keys", |b| b.iter(|| cells.hot_keys(NOW, true, |_, _| String::new()).sampled));
    let sources = {
        let topology = Arc::clone(&topology);
        move || Sources {
            max_connections: 4096,
            buffer_limit: 64 << 20,
            nodes: topology.nodes().iter().map(|node| (node.name.to_string(), 0.05)).collect(),
            fingerprint: topology.name(),
            version: 1,
            placement: "ring".to_owned(),
            changes: vec![("added", 1)],
            changed_at: 0,
            moved: 0.0,
            source: "list",
            polls: vec![("unchanged", 1)],
            succeeded_at: 1,
            pending: 0,
            log_lines_dropped: 0,
            before: None,
            tls: None,
        }
    };
    let exposition = Exposition::new(cells, sources).unwrap();
    group.bench_function("scrape of 20 nodes and 4 workers", |b| {
        b.iter(|| {
            let text = exposition.text().unwrap();
            assert!(text.len() > 20 << 10);
        });
    });
    group.finish();
}

criterion_group!(benches, parse, route, placements, round_trip, change, observe);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == "--rounds") else {
        benches();
        return Criterion::default().configure_from_args().final_summary();
    };
    let (rounds, name) = (args[at + 1].parse().expect("a number"), &args[at + 2]);
    let (_, _, mut proxy, trip) =
        trips().into_iter().find(|(found, ..)| found == name).expect("a name of the group core");
    for _ in 0..rounds {
        proxy.round(&trip);
    }
}
