//! A node that is found at another address.

use std::time::Duration;

use super::*;
use crate::metrics::Cells;
use crate::proxy::{ClientId, Effect, FailReason, OutBuf, Settings};

/// A core with one node, and what it asked for last.
struct Bench {
    core: Core,
    effects: Vec<Effect>,
    version: u64,
    now: Tick,
}

fn at(version: u64, host: &str) -> Arc<Topology> {
    let node = Node::new("cache-0.cache", 11211, 1).dialled_at(host);
    Arc::new(Topology::new(version, vec![Arc::new(node)]).unwrap())
}

fn bytes(out: &OutBuf) -> Vec<u8> {
    let mut slices = [std::io::IoSlice::new(&[]); crate::proxy::MAX_SLICES];
    let filled = out.slices(&mut slices);
    slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect()
}

impl Bench {
    fn new(host: &str) -> Self {
        let settings = Settings { seed: 7, ..Settings::default() };
        let core = Core::new(at(1, host), settings, Arc::new(Cells::new(1)), 0);
        Self { core, effects: Vec::new(), version: 1, now: Tick(1) }
    }

    fn moved_to(&mut self, host: &str) {
        self.version += 1;
        self.core.set_topology(at(self.version, host), self.now);
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.effects.clear();
        self.core.take_effects(&mut self.effects);
        self.effects.clone()
    }

    /// The connections that were asked for.
    fn asked(&mut self) -> Vec<UpstreamId> {
        let connects = self.effects().into_iter();
        connects.filter_map(|effect| if let Effect::Connect(id, _) = effect { Some(id) } else { None }).collect()
    }

    fn connect(&mut self, id: UpstreamId) {
        self.core.upstream_connected(id, self.now);
        assert_eq!(self.sent(id), b"version\r\n");
        self.answer(id, b"VERSION 1.6.15\r\n");
    }

    fn dialled(&self, id: UpstreamId) -> Option<String> {
        self.core.upstream_node(id).map(|node| node.host.to_string())
    }

    fn sent(&mut self, id: UpstreamId) -> Vec<u8> {
        let all = self.core.upstream_out(id).map(bytes).unwrap_or_default();
        self.core.upstream_written(id, all.len(), self.now);
        all
    }

    fn answer(&mut self, id: UpstreamId, reply: &[u8]) {
        self.core.upstream_input(id, reply, self.now);
    }

    fn ask(&mut self, id: ClientId, request: &[u8]) {
        self.core.client_input(id, request, self.now);
    }

    fn told(&mut self, id: ClientId) -> Vec<u8> {
        let all = self.core.client_out(id).map(bytes).unwrap_or_default();
        self.core.client_written(id, all.len(), self.now);
        all
    }
}

#[test]
fn what_is_in_flight_is_answered_where_it_was_asked_and_the_next_goes_to_the_new_address() {
    let mut bench = Bench::new("10.0.0.1");
    let old = bench.asked()[0];
    bench.connect(old);
    let (writer, reader) = (bench.core.client_connected(), bench.core.client_connected());
    bench.ask(writer, b"set k 0 0 1\r\nx\r\n");
    assert_eq!(bench.sent(old), b"set k 0 0 1\r\nx\r\n");
    bench.moved_to("10.0.0.2");
    let fresh = bench.asked()[0];
    assert_eq!(bench.dialled(fresh).as_deref(), Some("10.0.0.2"));
    assert!(bench.core.has_upstream(old));
    bench.connect(fresh);
    bench.ask(reader, b"get k\r\n");
    bench.ask(writer, b"get k\r\n");
    assert_eq!(bench.sent(fresh), b"get k\r\n", "the writer's waits for its set");
    assert_eq!(bench.sent(old), b"");
    bench.answer(fresh, b"END\r\n");
    bench.effects();
    bench.answer(old, b"STORED\r\n");
    assert!(bench.effects().contains(&Effect::CloseUpstream(old)));
    assert_eq!(bench.sent(fresh), b"get k\r\n", "now it goes, and to the new address");
    bench.answer(fresh, b"VALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(bench.told(writer), b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(bench.told(reader), b"END\r\n");
}

#[test]
fn an_idle_connection_to_the_old_address_closes_at_once() {
    let mut bench = Bench::new("10.0.0.1");
    let old = bench.asked()[0];
    bench.connect(old);
    bench.moved_to("10.0.0.2");
    assert!(!bench.core.has_upstream(old));
    let fresh = bench.asked()[0];
    bench.connect(fresh);
    bench.moved_to("10.0.0.2");
    assert!(bench.effects().is_empty(), "the same address again is no change");
}

#[test]
fn a_connection_under_way_with_requests_goes_to_the_new_address() {
    let mut bench = Bench::new("10.0.0.1");
    let lane = bench.asked()[0];
    let client = bench.core.client_connected();
    bench.ask(client, b"get k\r\n");
    bench.moved_to("10.0.0.2");
    assert_eq!((bench.asked(), bench.dialled(lane).as_deref()), (Vec::new(), Some("10.0.0.2")));
    bench.core.upstream_connected(lane, bench.now);
    assert_eq!(bench.sent(lane), b"version\r\nget k\r\n");
}

#[test]
fn a_node_that_is_down_is_tried_at_once_at_its_new_address() {
    let mut bench = Bench::new("10.0.0.1");
    let first = bench.asked()[0];
    bench.core.upstream_failed(first, FailReason::Connect, bench.now);
    let waiting = bench.asked()[0];
    bench.moved_to("10.0.0.2");
    assert_eq!(bench.dialled(waiting), None);
    let effects = bench.effects();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Connect(_, Duration::ZERO))), "{effects:?}");
}

#[test]
fn an_old_address_that_is_silent_is_given_up_after_the_drain_time_out() {
    let mut bench = Bench::new("10.0.0.1");
    let old = bench.asked()[0];
    bench.connect(old);
    let client = bench.core.client_connected();
    bench.ask(client, b"delete k\r\n");
    bench.sent(old);
    bench.moved_to("10.0.0.2");
    let effects = bench.effects();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Tick(_))), "{effects:?}");
    bench.now = Tick(4_000_000);
    assert!(bench.core.tick(bench.now).is_some());
    assert!(bench.core.has_upstream(old));
    bench.now = Tick(6_000_000);
    bench.core.tick(bench.now);
    assert!(!bench.core.has_upstream(old));
    assert!(bench.told(client).starts_with(b"SERVER_ERROR proxy: node "));
}

#[test]
fn a_large_body_ends_at_the_old_address_and_the_next_begins_at_the_new_one() {
    const LARGE: usize = 2 << 20;
    let mut bench = Bench::new("10.0.0.1");
    let shared = bench.asked()[0];
    bench.connect(shared);
    let client = bench.core.client_connected();
    let header = format!("set k 0 0 {LARGE}\r\n").into_bytes();
    bench.ask(client, &header);
    let bulk = bench.asked()[0];
    bench.connect_bulk(bulk, &header);
    bench.moved_to("10.0.0.2");
    assert!(bench.core.has_upstream(bulk), "it is in use");
    assert!(!bench.core.has_upstream(shared));
    let mut left = LARGE;
    while left > 0 {
        let piece = vec![b'x'; left.min(64 << 10)];
        bench.ask(client, &piece);
        left -= piece.len();
        bench.sent(bulk);
    }
    bench.ask(client, b"\r\n");
    bench.sent(bulk);
    bench.answer(bulk, b"STORED\r\n");
    assert_eq!(bench.told(client), b"STORED\r\n");
    assert!(!bench.core.has_upstream(bulk), "not kept for the next");
    bench.effects();
    bench.ask(client, &header);
    let next = bench.asked()[0];
    assert_eq!(bench.dialled(next).as_deref(), Some("10.0.0.2"));
}

impl Bench {
    fn connect_bulk(&mut self, id: UpstreamId, header: &[u8]) {
        self.core.upstream_connected(id, self.now);
        assert_eq!(self.sent(id), [b"version\r\n", header].concat());
        self.answer(id, b"VERSION 1.6.15\r\n");
    }
}
