//! What a model of memcached never does, and the exact bytes on a lane: scripted by hand.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use slipring::config::OnNodeDown;
use slipring::metrics::{Cells, Counter, Reason, WorkerCells};
use slipring::proxy::{ClientId, Core, Effect, FailReason, OutBuf, Settings, UpstreamId};
use slipring::routing::{Node, Topology};
use slipring::time::Tick;

use crate::Rng;

mod health;
mod key_lists;
mod memory;
mod meta;
mod placements;
mod routes;
mod waits;

/// A value that is streamed.
const LARGE: usize = (1 << 20) + 1;
/// One that no client's share of the memory can hold.
const HUGE: usize = 20 << 20;

#[derive(Debug)]
struct Lane {
    id: UpstreamId,
    node: usize,
    /// Written to the node and not yet looked at.
    sent: Vec<u8>,
    open: bool,
}

/// A core whose nodes and clients are the test's own hands. Connections are made, and prove
/// themselves, at once.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) core: Core,
    pub(crate) cells: Arc<Cells>,
    topology: Arc<Topology>,
    now: u64,
    lanes: Vec<Lane>,
    closed: Vec<ClientId>,
    ticks: usize,
    /// Longest time before a connection was to be made.
    longest_wait: Duration,
    /// When the core is to be called.
    next: Option<Tick>,
    /// Nodes take connections and say nothing.
    mute: bool,
    /// Lanes that are woken.
    woken: Vec<UpstreamId>,
    /// How often a client went on after others had their turn.
    turns: usize,
}

impl Rig {
    fn with(nodes: usize, change: impl FnOnce(&mut Settings)) -> Self {
        let nodes: Vec<Arc<Node>> = (0..nodes).map(|i| Arc::new(Node::new(&format!("node-{i}"), 11211, 1))).collect();
        let cells = Arc::new(Cells::new(1));
        // With none it is as before the first ring.
        let topology = Arc::new(Topology::new(1, nodes).unwrap_or_else(|_| Topology::unknown()));
        let mut settings = Settings { started_at: 1_700_000_000, ..Settings::default() };
        change(&mut settings);
        let mut rig = Self {
            core: Core::new(Arc::clone(&topology), settings, Arc::clone(&cells), 0),
            cells,
            topology,
            now: 0,
            lanes: Vec::new(),
            closed: Vec::new(),
            ticks: 0,
            longest_wait: Duration::ZERO,
            next: None,
            mute: false,
            woken: Vec::new(),
            turns: 0,
        };
        rig.apply();
        rig
    }

    pub(crate) fn new(nodes: usize) -> Self {
        Self::with(nodes, |_| {})
    }

    fn now(&self) -> Tick {
        Tick(self.now)
    }

    fn apply(&mut self) {
        while self.core.has_effects() {
            self.apply_once();
        }
    }

    fn apply_once(&mut self) {
        let mut effects = Vec::new();
        self.core.take_effects(&mut effects);
        for effect in effects {
            match effect {
                Effect::Connect(id, wait) => {
                    self.longest_wait = self.longest_wait.max(wait);
                    let Some(node) = self.core.upstream_node(id) else { continue };
                    let node = self.topology.nodes().iter().position(|other| other.name == node.name).unwrap();
                    self.lanes.push(Lane { id, node, sent: Vec::new(), open: true });
                    self.core.upstream_connected(id, Tick(self.now));
                    let lane = self.lanes.len() - 1;
                    self.write(lane, usize::MAX);
                    if self.mute {
                        continue;
                    }
                    let all = std::mem::take(&mut self.lanes[lane].sent);
                    self.lanes[lane].sent = all.strip_prefix(b"version\r\n").unwrap().to_vec();
                    self.reply(lane, b"VERSION 1.6.18\r\n");
                }
                Effect::CloseUpstream(id) | Effect::ResetUpstream(id) => {
                    for lane in self.lanes.iter_mut().filter(|lane| lane.id == id) {
                        lane.open = false;
                    }
                }
                Effect::CloseClient(id) | Effect::ResetClient(id) => self.closed.push(id),
                Effect::WakeUpstream(id) => self.woken.push(id),
                Effect::Tick(wait) => {
                    self.ticks += 1;
                    assert_eq!(self.next.replace(self.now().after(wait)), None, "a second tick");
                }
                Effect::WakeClient(id) => self.turns += usize::from(self.core.client_turn(id, Tick(self.now))),
            }
        }
    }

    /// Time goes by, and the clock ticks as the core asks.
    fn pass(&mut self, millis: u64) {
        let end = self.now + millis * 1000;
        while let Some(at) = self.next.filter(|at| at.0 <= end) {
            self.now = at.0;
            self.next = self.core.tick(at);
            self.apply();
        }
        self.now = end;
    }

    fn fail(&mut self, lane: usize, reason: FailReason) {
        self.core.upstream_failed(self.lanes[lane].id, reason, self.now());
        self.apply();
    }

    fn state(&self, node: usize) -> &'static str {
        self.cells.node_state(&format!("node-{node}:11211")).word()
    }

    fn client(&mut self) -> ClientId {
        self.core.client_connected()
    }

    pub(crate) fn send(&mut self, client: ClientId, bytes: impl AsRef<[u8]>) {
        self.core.client_input(client, bytes.as_ref(), self.now());
        self.apply();
    }

    fn write(&mut self, lane: usize, most: usize) {
        let id = self.lanes[lane].id;
        let mut left = most;
        while let Some(out) = self.core.upstream_out(id).filter(|out| !out.is_empty()) {
            let bytes = first(out, left);
            if bytes.is_empty() {
                break;
            }
            left -= bytes.len();
            self.lanes[lane].sent.extend_from_slice(&bytes);
            self.core.upstream_written(id, bytes.len(), Tick(self.now));
        }
        self.apply();
    }

    /// Writes what a lane has and gives what the node has got since the last look.
    pub(crate) fn sent(&mut self, lane: usize) -> String {
        self.write(lane, usize::MAX);
        String::from_utf8(std::mem::take(&mut self.lanes[lane].sent)).unwrap()
    }

    pub(crate) fn reply(&mut self, lane: usize, bytes: impl AsRef<[u8]>) {
        let (id, now) = (self.lanes[lane].id, self.now());
        self.core.upstream_input(id, bytes.as_ref(), now);
        self.apply();
    }

    /// Replies as the rim would: not while the core does not want to read. Returns what is left.
    fn try_reply<'a>(&mut self, lane: usize, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() && self.core.upstream_may_read(self.lanes[lane].id) {
            let (piece, rest) = bytes.split_at(bytes.len().min(64 << 10));
            self.reply(lane, piece);
            bytes = rest;
        }
        bytes
    }

    /// What a client has got since the last look.
    pub(crate) fn got_bytes(&mut self, client: ClientId) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(out) = self.core.client_out(client).filter(|out| !out.is_empty()) {
            let bytes = first(out, usize::MAX);
            let now = Tick(self.now);
            self.core.client_written(client, bytes.len(), now);
            all.extend(bytes);
        }
        self.apply();
        all
    }

    fn got(&mut self, client: ClientId) -> String {
        String::from_utf8(self.got_bytes(client)).unwrap()
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) fn node(&self, lane: usize) -> usize {
        self.lanes[lane].node
    }

    pub(crate) fn sent_bytes(&mut self, lane: usize) -> Vec<u8> {
        self.write(lane, usize::MAX);
        std::mem::take(&mut self.lanes[lane].sent)
    }

    fn is_open(&self, lane: usize) -> bool {
        self.lanes[lane].open
    }

    /// The newest open lane of a node.
    fn newest(&self, node: usize) -> usize {
        let of_node = |lane: &Lane| lane.open && lane.node == node;
        self.lanes.iter().rposition(of_node).unwrap()
    }

    fn open_lanes(&self, node: usize) -> usize {
        let of_node = |lane: &&Lane| lane.open && lane.node == node;
        self.lanes.iter().filter(of_node).count()
    }

    fn count(&self, counter: impl Fn(&WorkerCells) -> &Counter) -> u64 {
        self.cells.sum(counter)
    }

    /// A key of its own on a node.
    pub(crate) fn key(&self, node: usize, name: &str) -> String {
        (0..)
            .map(|i| format!("{name}-{i}"))
            .find(|key| usize::from(self.topology.route(key.as_bytes()).0) == node)
            .unwrap()
    }
}

fn first(out: &OutBuf, most: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 16];
    let filled = out.slices(&mut slices);
    let bytes = slices[..filled].iter().flat_map(|s| s.iter().copied());
    bytes.take(most).collect()
}

fn value(key: &str, len: usize) -> Vec<u8> {
    let mut out = format!("VALUE {key} 0 {len}\r\n").into_bytes();
    out.extend(std::iter::repeat_n(key.as_bytes()[0], len));
    out.extend_from_slice(b"\r\n");
    out
}

fn set(key: &str, len: usize) -> Vec<u8> {
    let mut out = format!("set {key} 0 0 {len}\r\n").into_bytes();
    out.extend(std::iter::repeat_n(key.as_bytes()[0], len));
    out.extend_from_slice(b"\r\n");
    out
}

// === doubt kills (invariant C) ===

/// Sends a request, lets the node say something that cannot be its answer, and gives what the client
/// got.
fn doubt(request: &str, answer: &str) -> String {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, request);
    rig.sent(0);
    rig.reply(0, answer);
    assert!(!rig.is_open(0), "{answer:?} to {request:?} is taken");
    assert_eq!(rig.count(|c| &c.desyncs), 1, "{answer:?} to {request:?}");
    assert_eq!(rig.open_lanes(0), 1, "another lane takes its place");
    rig.got(client)
}

#[test]
fn a_value_for_a_key_nobody_asked_for_reaches_nobody() {
    assert_eq!(doubt("get a\r\n", "VALUE b 0 1\r\nx\r\nEND\r\n"), "END\r\n");
    // The key was asked for, but once.
    let twice = "VALUE a 0 1\r\nx\r\nVALUE a 0 1\r\ny\r\nEND\r\n";
    assert_eq!(doubt("get a\r\n", twice), "VALUE a 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_reply_of_the_wrong_shape_ends_the_connection() {
    let lost = "SERVER_ERROR proxy: node node-0:11211 answered out of step\r\n";
    for (request, answer, told) in [
        ("set a 0 0 1\r\nx\r\n", "DELETED\r\n", lost),
        ("set a 0 0 1\r\nx\r\n", "END\r\n", lost),
        ("delete a\r\n", "STORED\r\n", lost),
        ("delete a\r\n", "5\r\n", lost),
        ("incr a 1\r\n", "OK\r\n", lost),
        ("touch a 1\r\n", "DELETED\r\n", "NOT_FOUND\r\n"),
        ("get a\r\n", "STORED\r\n", "END\r\n"),
        ("get a\r\n", "VERSION 1.6.18\r\n", "END\r\n"),
        ("get a\r\n", "END\n", "END\r\n"),
        ("get a\r\n", "\r\n", "END\r\n"),
        ("flush_all\r\n", "END\r\n", lost),
        ("flush_all\r\n", "STAT pid 1\r\n", lost),
        ("stats reset\r\n", "OK\r\n", lost),
    ] {
        assert_eq!(doubt(request, answer), told, "{answer:?} to {request:?}");
    }
    assert!(doubt("stats\r\n", "OK\r\n").ends_with("END\r\n"));
}

#[test]
fn a_line_that_never_ends_is_not_kept() {
    assert_eq!(doubt("get a\r\n", &"x".repeat(3000)), "END\r\n");
}

#[test]
fn bytes_that_nobody_waits_for_end_the_connection() {
    for bytes in ["STORED\r\n", "END\r\n", "ERROR\r\n", "\r\n"] {
        let mut rig = Rig::new(1);
        rig.reply(0, bytes);
        assert!(!rig.is_open(0), "{bytes:?}");
        assert_eq!(rig.count(|c| &c.desyncs), 1);
    }
}

#[test]
fn a_value_whose_block_does_not_end_closes_its_reader() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "get a\r\n");
    rig.sent(0);
    rig.send(other, "get b\r\n");
    rig.sent(0);
    rig.reply(0, "VALUE a 0 3\r\nxyz");
    assert_eq!(rig.got(client), "VALUE a 0 3\r\nxyz");
    rig.reply(0, "!!END\r\n");
    assert!(!rig.is_open(0));
    assert_eq!(rig.closed, [client], "what has begun cannot be taken back");
    assert_eq!(rig.got(other), "END\r\n");
}

#[test]
fn the_beginning_of_a_line_that_nobody_asked_for_is_doubt() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.reply(0, "5");
    assert!(!rig.is_open(0), "kept, it would make the 7 below a 57");
    rig.send(client, "incr a 1\r\n");
    let next = rig.newest(0);
    rig.sent(next);
    rig.reply(next, "7\r\n");
    assert_eq!(rig.got(client), "7\r\n");
}

#[test]
fn an_answer_to_what_was_not_sent_yet_is_doubt() {
    for (request, answer, told) in [
        ("get a\r\n", "END\r\n", "END\r\n"),
        ("set a 0 0 1\r\nx\r\n", "STORED\r\n", "SERVER_ERROR proxy: node node-0:11211 answered out of step\r\n"),
    ] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        rig.send(client, request);
        rig.reply(0, answer);
        assert!(!rig.is_open(0), "{answer:?} to {request:?}, which is not sent");
        assert_eq!(rig.got(client), told);
        // On the next lane all is well.
        rig.send(client, request);
        let lane = rig.newest(0);
        assert_eq!(rig.sent(lane), request);
        rig.reply(lane, answer);
        assert_eq!(rig.got(client), answer);
    }
}

// === merged gets ===

#[test]
fn gets_of_one_round_travel_as_one_request() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..50).map(|_| rig.client()).collect();
    for (i, &client) in clients.iter().enumerate() {
        rig.send(client, format!("get key-{i}\r\n"));
    }
    let keys: Vec<String> = (0..50).map(|i| format!(" key-{i}")).collect();
    assert_eq!(rig.sent(0), format!("get{}\r\n", keys.concat()));
    rig.reply(0, "VALUE key-3 0 1\r\nx\r\nVALUE key-49 7 2\r\nab\r\n");
    // Who has all it asked for, or is passed over, need not wait for the others.
    for (i, &client) in clients.iter().enumerate() {
        match i {
            3 => assert_eq!(rig.got(client), "VALUE key-3 0 1\r\nx\r\nEND\r\n"),
            49 => assert_eq!(rig.got(client), "VALUE key-49 7 2\r\nab\r\nEND\r\n"),
            _ => assert_eq!(rig.got(client), "END\r\n"),
        }
    }
    rig.reply(0, "END\r\n");
    assert!(clients.iter().all(|&client| rig.got(client).is_empty()));
}

#[test]
fn a_group_holds_what_was_asked_and_nothing_else() {
    let mut rng = Rng::new(5);
    for _ in 0..50 {
        let mut rig = Rig::new(1);
        let mut asked: HashMap<String, usize> = HashMap::new();
        for _ in 0..1 + rng.below(30) {
            let client = rig.client();
            let mut line = "get".to_owned();
            for _ in 0..1 + rng.below(20) {
                let key = format!("k{}", rng.below(40));
                line.push(' ');
                line.push_str(&key);
                *asked.entry(key).or_default() += 1;
            }
            line.push_str("\r\n");
            rig.send(client, line);
        }
        let sent = rig.sent(0);
        for line in sent.lines() {
            for key in line.strip_prefix("get ").unwrap().split(' ') {
                let left = asked.get_mut(key).expect("nobody asked for this");
                *left = left.checked_sub(1).expect("more often than asked");
            }
        }
        for key in asked.keys() {
            let word = |w: &str| w == key;
            assert!(sent.split_ascii_whitespace().any(word), "{key} was left out");
        }
    }
}

#[test]
fn a_key_two_clients_ask_for_in_one_round_travels_once() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get hot\r\n");
    rig.send(b, "get cold hot\r\n");
    assert_eq!(rig.sent(0), "get hot cold\r\n");
    assert_eq!(rig.count(|c| &c.coalesced_keys), 1);
    rig.reply(0, "VALUE hot 1 3\r\nabc\r\nEND\r\n");
    assert_eq!(rig.got(a), "VALUE hot 1 3\r\nabc\r\nEND\r\n");
    assert_eq!(rig.got(b), "VALUE hot 1 3\r\nabc\r\nEND\r\n");
}

#[test]
fn a_large_piece_of_a_shared_value_reaches_all_who_asked() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..5).map(|_| rig.client()).collect();
    for &client in &clients {
        rig.send(client, "get hot\r\n");
    }
    rig.core.client_gone(clients[2]);
    rig.sent(0);
    let reply = [&*value("hot", 50_000), b"END\r\n"].concat();
    for piece in reply.chunks(20_000) {
        rig.reply(0, piece);
    }
    for i in [0, 1, 3, 4] {
        assert_eq!(rig.got_bytes(clients[i]), reply);
    }
}

#[test]
fn a_clients_own_repeats_travel_again() {
    let mut rig = Rig::new(1);
    let a = rig.client();
    rig.send(a, "get k k\r\nget k\r\n");
    assert_eq!(rig.sent(0), "get k k k\r\n");
    rig.reply(0, "VALUE k 0 1\r\n1\r\nVALUE k 0 1\r\n2\r\nVALUE k 0 1\r\n3\r\nEND\r\n");
    assert_eq!(rig.got(a), "VALUE k 0 1\r\n1\r\nVALUE k 0 1\r\n2\r\nEND\r\nVALUE k 0 1\r\n3\r\nEND\r\n");
}

#[test]
fn only_gets_of_the_same_kind_travel_together() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a\r\n");
    rig.send(b, "gets b\r\n");
    rig.send(a, "get c\r\n");
    rig.send(b, "gat 10 d\r\n");
    rig.send(a, "gat 10 e\r\n");
    assert_eq!(rig.sent(0), "get a\r\ngets b\r\nget c\r\ngat 10 d\r\ngat 10 e\r\n");
    rig.reply(0, "END\r\nVALUE b 0 1 77\r\nx\r\nEND\r\nEND\r\nEND\r\nEND\r\n");
    assert_eq!(rig.got(a), "END\r\nEND\r\nEND\r\n");
    assert_eq!(rig.got(b), "VALUE b 0 1 77\r\nx\r\nEND\r\nEND\r\n");
}

#[test]
fn what_is_asked_behind_a_write_is_answered_behind_it() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get k\r\n");
    rig.send(b, "set k 0 0 1\r\nx\r\n");
    rig.send(a, "get k\r\n");
    rig.send(b, "get k\r\n");
    assert_eq!(rig.sent(0), "get k\r\nset k 0 0 1\r\nx\r\nget k\r\n");
    rig.reply(0, "END\r\nSTORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(a), "END\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(b), "STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn what_has_been_sent_takes_no_further_key() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a\r\n");
    rig.write(0, 3);
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a\r\nget b\r\n");
}

#[test]
fn without_merging_each_get_travels_alone() {
    let mut rig = Rig::with(1, |settings| settings.merge_gets = false);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a a2\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a a2\r\nget b\r\n");
}

#[test]
fn an_error_line_to_a_group_is_a_miss_for_all_and_stops_merging_for_a_second() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a b\r\n");
    rig.reply(0, "SERVER_ERROR out of memory\r\n");
    assert_eq!(rig.got(a), "END\r\n");
    assert_eq!(rig.got(b), "END\r\n");
    assert!(rig.is_open(0), "an error line is an answer");
    // Asked alone, the error shows itself.
    rig.now += 999_999;
    rig.send(a, "get a\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a\r\nget b\r\n");
    rig.reply(0, "SERVER_ERROR out of memory\r\nVALUE b 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(a), "SERVER_ERROR out of memory\r\n");
    assert_eq!(rig.got(b), "VALUE b 0 1\r\nx\r\nEND\r\n");
    rig.now += 2;
    rig.send(a, "get a\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a b\r\n");
}

#[test]
fn an_error_line_to_a_part_of_a_read_leaves_it_well_formed() {
    let mut rig = Rig::new(2);
    let client = rig.client();
    let (a, b) = (rig.key(0, "a"), rig.key(1, "b"));
    rig.send(client, format!("get {a} {b}\r\n"));
    rig.sent(0);
    rig.sent(1);
    rig.reply(0, "SERVER_ERROR busy\r\n");
    rig.reply(1, format!("VALUE {b} 0 1\r\nx\r\nEND\r\n"));
    assert_eq!(rig.got(client), format!("VALUE {b} 0 1\r\nx\r\nEND\r\n"));
}

// === lost connections ===

#[test]
fn what_waits_on_a_lost_connection_is_answered_at_once() {
    let lost = "SERVER_ERROR proxy: node node-0:11211 closed the connection\r\n";
    for (policy, touch) in [(OnNodeDown::Miss, "NOT_FOUND\r\n"), (OnNodeDown::Error, lost)] {
        let mut rig = Rig::with(1, |settings| settings.on_node_down = policy);
        let client = rig.client();
        rig.send(client, "set a 0 0 1\r\nx\r\ndelete a\r\ntouch a 0\r\nincr a 1 noreply\r\nmn\r\n");
        rig.sent(0);
        rig.fail(0, FailReason::Closed);
        assert_eq!(rig.got(client), format!("{lost}{lost}{touch}MN\r\n"));
    }
}

#[test]
fn a_read_is_asked_again_once_when_its_connection_is_lost_before_a_byte_of_its_reply() {
    for (policy, read) in [
        (OnNodeDown::Miss, "END\r\n"),
        (OnNodeDown::Error, "SERVER_ERROR proxy: node node-0:11211 closed the connection\r\n"),
    ] {
        let mut rig = Rig::with(1, |settings| settings.on_node_down = policy);
        rig.now = 2_000_000;
        let client = rig.client();
        rig.send(client, "get a b\r\ngat 7 c\r\nmn\r\n");
        rig.sent(0);
        rig.fail(0, FailReason::Closed);
        let again = rig.newest(0);
        // What is new comes behind what is asked again.
        rig.send(client, "get d\r\n");
        assert_eq!(rig.sent(again), "get a b\r\ngat 7 c\r\nget d\r\n");
        assert_eq!(rig.count(|c| &c.retries), 2);
        rig.reply(again, "VALUE b 0 1\r\ny\r\nEND\r\n");
        assert_eq!(rig.got(client), "VALUE b 0 1\r\ny\r\nEND\r\n");
        rig.now += 2_000_000;
        rig.fail(again, FailReason::Closed);
        let third = rig.newest(0);
        assert_eq!(rig.sent(third), "get d\r\n", "asked twice is enough");
        rig.reply(third, "END\r\n");
        assert_eq!(rig.got(client), format!("{read}MN\r\nEND\r\n"));
    }
}

#[test]
fn a_read_is_not_asked_again_behind_a_later_write_of_its_client() {
    for write in ["set a 0 0 1\r\nx\r\n", "delete a\r\n", "incr a 1\r\n", "set a 0 0 1 noreply\r\nx\r\n"] {
        let mut rig = Rig::new(1);
        rig.now = 2_000_000;
        let (writer, reader) = (rig.client(), rig.client());
        rig.send(writer, "get b\r\n");
        rig.sent(0);
        rig.send(writer, format!("get a\r\n{write}get c\r\n"));
        rig.sent(0);
        rig.send(reader, "get a\r\n");
        rig.sent(0);
        rig.fail(0, FailReason::Closed);
        let again = rig.newest(0);
        // Behind the write it may be asked, as the one of another client.
        assert_eq!(rig.sent(again), "get c\r\nget a\r\n", "{write:?}");
        rig.reply(again, "END\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
        let lost = "SERVER_ERROR proxy: node node-0:11211 closed the connection\r\n";
        let lost = if write.contains("noreply") { "" } else { lost };
        assert_eq!(rig.got(writer), format!("END\r\nEND\r\n{lost}END\r\n"), "{write:?}");
        assert_eq!(rig.got(reader), "VALUE a 0 1\r\nx\r\nEND\r\n");
    }
}

#[test]
fn a_read_whose_reply_has_begun_is_not_asked_again() {
    for begun in ["V", "VALUE a 0 1\r\nx\r\n", "VALUE a 0 1\r\nx\r\nE"] {
        let mut rig = Rig::new(1);
        rig.now = 2_000_000;
        let client = rig.client();
        rig.send(client, "get a b\r\n");
        rig.sent(0);
        rig.reply(0, begun);
        rig.fail(0, FailReason::Closed);
        let next = rig.newest(0);
        assert_eq!(rig.sent(next), "", "{begun:?}");
        assert!(rig.got(client).ends_with("END\r\n"), "{begun:?}");
        assert_eq!(rig.count(|c| &c.retries), 0, "{begun:?}");
    }
}

// === clocks ===

const TIMED_OUT: &str = "SERVER_ERROR proxy: node node-0:11211 did not answer in time\r\n";

#[test]
fn what_is_not_answered_in_time_is_answered_here_and_its_late_reply_is_eaten() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get a\r\nset a 0 0 1\r\nx\r\ntouch a 0\r\ndelete a noreply\r\n");
    rig.sent(0);
    rig.pass(400);
    assert_eq!(rig.got(client), "", "not before its time");
    rig.pass(200);
    assert_eq!(rig.got(client), format!("END\r\n{TIMED_OUT}NOT_FOUND\r\n"));
    rig.send(client, "get b\r\n");
    assert_eq!(rig.sent(0), "get b\r\n", "the connection stays");
    rig.reply(0, "VALUE a 0 1\r\nx\r\nEND\r\nSTORED\r\nTOUCHED\r\nDELETED\r\n");
    assert_eq!(rig.got(client), "");
    rig.reply(0, "VALUE b 0 1\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE b 0 1\r\ny\r\nEND\r\n");
    assert!(rig.is_open(0));
    assert_eq!(rig.count(|c| &c.desyncs), 0);
}

#[test]
fn a_value_that_moves_never_expires_nor_does_what_waits_behind_it() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "get a\r\n");
    rig.sent(0);
    rig.send(other, "delete b\r\n");
    rig.sent(0);
    rig.reply(0, "VALUE a 0 1000000\r\n");
    for _ in 0..50 {
        rig.pass(400);
        rig.reply(0, "x".repeat(20_000));
    }
    rig.reply(0, "\r\nEND\r\nDELETED\r\n");
    assert_eq!(rig.got(other), "DELETED\r\n");
    assert_eq!(rig.got(client).len(), "VALUE a 0 1000000\r\n\r\nEND\r\n".len() + 1_000_000);
}

#[test]
fn a_value_that_drips_closes_its_reader_and_what_waits_behind_it_is_answered() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "get a\r\n");
    rig.sent(0);
    rig.send(other, "delete b\r\n");
    rig.sent(0);
    rig.reply(0, "VALUE a 0 100\r\n");
    for _ in 0..8 {
        rig.pass(100);
        rig.reply(0, "x");
    }
    assert_eq!(rig.closed, [client]);
    assert_eq!(rig.got(other), TIMED_OUT);
    assert!(rig.is_open(0), "it is not silent");
    rig.send(other, "get c\r\n");
    rig.sent(0);
    rig.reply(0, format!("{}\r\nEND\r\nDELETED\r\nVALUE c 0 1\r\nz\r\nEND\r\n", "x".repeat(92)));
    assert_eq!(rig.got(other), "VALUE c 0 1\r\nz\r\nEND\r\n");
}

#[test]
fn a_request_that_was_never_sent_and_expired_is_never_sent() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "set a 0 0 5\r\naaaaa\r\n");
    rig.write(0, 10);
    rig.send(client, "set b 0 0 5\r\nbbbbb\r\ndelete c noreply\r\nget d e\r\nincr f 1\r\nget g\r\n");
    rig.pass(400);
    let queued = "SERVER_ERROR proxy: node node-0:11211 takes no requests\r\n";
    assert_eq!(rig.got(client), "", "the first is sent in part, and has its turn");
    assert_eq!(rig.sent(0), "set a 0 0 5\r\naaaaa\r\ndelete c\r\n");
    rig.reply(0, "STORED\r\nDELETED\r\n");
    assert_eq!(rig.got(client), format!("STORED\r\n{queued}END\r\n{queued}END\r\n"));
    rig.send(client, "get h\r\n");
    assert_eq!(rig.sent(0), "get h\r\n");
    rig.reply(0, "END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
}

#[test]
fn who_joins_a_waiting_request_has_a_clock_of_its_own() {
    let mut rig = Rig::new(1);
    let (first, second) = (rig.client(), rig.client());
    rig.send(first, "get a\r\n");
    rig.pass(240);
    rig.send(second, "get b\r\n");
    rig.pass(100);
    assert_eq!(rig.got(first), "END\r\n", "its lane takes nothing");
    assert_eq!(rig.got(second), "", "it has waited for 100 ms");
    assert_eq!(rig.sent(0), "get b\r\n");
    rig.reply(0, "VALUE b 0 1\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(second), "VALUE b 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn a_request_that_expires_is_counted_once() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "delete a\r\ntouch a 0\r\n");
    rig.sent(0);
    rig.pass(1_200);
    assert_eq!(rig.got(client), format!("{TIMED_OUT}NOT_FOUND\r\n"));
    assert_eq!(rig.cells.soft_sum(|_, reason| reason == Reason::Timeout), 2);
}

#[test]
fn a_large_value_on_its_way_outlives_what_was_asked_behind_it_and_not_sent() {
    let mut rig = Rig::with(1, |settings| settings.on_node_down = OnNodeDown::Error);
    let client = rig.client();
    rig.send(client, "get big\r\ngat 0 b\r\n");
    rig.write(0, "get big\r\n".len());
    let most = value("big", LARGE);
    assert_eq!(rig.try_reply(0, &most[..100_000]), b"");
    rig.pass(350);
    assert_eq!(rig.closed, [], "a value is silent for less than its time-out");
    let mut got = rig.got_bytes(client);
    let mut rest = &most[100_000..];
    while !rest.is_empty() {
        rest = rig.try_reply(0, rest);
        got.extend(rig.got_bytes(client));
    }
    rig.reply(0, "END\r\n");
    got.extend(rig.got_bytes(client));
    let queued = b"END\r\nSERVER_ERROR proxy: node node-0:11211 takes no requests\r\n";
    assert!(got == [&*most, queued].concat(), "{} bytes", got.len());
}

#[test]
fn the_connection_of_one_large_value_says_nothing_of_the_nodes_health_and_lives_by_its_own() {
    let mut rig = Rig::new(1);
    rig.now = 2_000_000;
    rig.mute = true;
    let client = rig.client();
    let all = set("big", LARGE);
    let (first, rest) = all.split_at(1_000);
    rig.send(client, first);
    let bulk = rig.newest(0);
    rig.fail(0, FailReason::Closed);
    rig.fail(rig.newest(0), FailReason::Connect);
    assert_eq!(rig.state(0), "down");
    rig.reply(bulk, "VERSION 1.6.18\r\n");
    assert_eq!(rig.state(0), "down", "no probe has been answered");
    rig.sent(bulk);
    rig.pass(600);
    assert!(rig.is_open(bulk), "its client is slow, and nothing is owed");
    rig.send(client, rest);
    assert!(rig.sent_bytes(bulk).ends_with(b"\r\n"));
    rig.reply(bulk, "STORED\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
}

#[test]
fn a_connection_that_says_nothing_at_all_is_given_up_after_one_time_out() {
    let mut rig = Rig::new(1);
    rig.mute = true;
    rig.fail(0, FailReason::Closed);
    let silent = rig.newest(0);
    let client = rig.client();
    rig.send(client, "get a\r\n");
    rig.pass(400);
    assert!(rig.is_open(silent));
    rig.pass(200);
    assert!(!rig.is_open(silent));
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.state(0), "down");
}

#[test]
fn large_values_are_asked_for_once_and_cost_one_connection() {
    let mut rig = Rig::new(1);
    let (reader, other) = (rig.client(), rig.client());
    for round in 0..100 {
        rig.send(reader, "get large\r\n");
        rig.send(other, "delete k\r\n");
        let reads: Vec<usize> = (0..rig.lanes()).filter(|&lane| rig.sent(lane).contains("get large\r\n")).collect();
        let [lane] = reads[..] else { panic!("asked on {reads:?}") };
        assert_eq!(lane, usize::from(round > 0), "known to be large, it is asked where large values travel");
        if lane > 0 {
            rig.reply(0, "DELETED\r\n");
            assert_eq!(rig.got(other), "DELETED\r\n", "waits for nothing");
        }
        let reply = [value("large", LARGE), b"END\r\n".to_vec()].concat();
        rig.reply(lane, &reply);
        assert!(rig.got_bytes(reader) == reply);
        if lane == 0 {
            rig.reply(0, "DELETED\r\n");
            assert_eq!(rig.got(other), "DELETED\r\n");
        }
        assert!(rig.open_lanes(0) <= 2);
    }
    assert_eq!(rig.longest_wait, Duration::ZERO);
    rig.pass(2_000);
    assert_eq!(rig.open_lanes(0), 1, "nobody needs it");
}

#[test]
fn a_node_with_nothing_in_flight_is_not_looked_at() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.pass(100);
    assert_eq!(rig.next, None, "nothing waits");
    rig.send(client, "get a\r\n");
    assert!(rig.next.is_some());
    rig.sent(0);
    rig.reply(0, "END\r\n");
    rig.pass(100);
    assert_eq!(rig.next, None);
}

#[test]
fn a_reply_for_a_client_that_left_reaches_nobody() {
    let mut rig = Rig::new(1);
    let gone = rig.client();
    rig.send(gone, "get secret\r\nset a 0 0 1\r\nx\r\n");
    rig.core.client_gone(gone);
    rig.apply();
    let next = rig.client();
    assert_eq!(next.index(), gone.index(), "it sits in the same place");
    rig.send(next, "get other\r\n");
    assert_eq!(rig.sent(0), "get secret\r\nset a 0 0 1\r\nx\r\nget other\r\n");
    rig.reply(0, "VALUE secret 0 1\r\nx\r\nEND\r\nSTORED\r\nEND\r\n");
    assert_eq!(rig.got(next), "END\r\n");
}

// === limits ===

#[test]
fn a_full_lane_stalls_its_clients_and_loses_nothing() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..3).map(|_| rig.client()).collect();
    let mut asked = 0;
    let mut waiting: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
    for n in 0..200 {
        for (c, queue) in waiting.iter_mut().enumerate() {
            let block = "v".repeat(10_000);
            queue.push(format!("set k-{c}-{n} 0 0 10000 noreply\r\n{block}\r\n").into_bytes());
            asked += 1;
        }
    }
    for queue in &mut waiting {
        queue.reverse();
    }
    // The node takes nothing: at some point none of them is read any more.
    let push = |rig: &mut Rig, waiting: &mut Vec<Vec<Vec<u8>>>| {
        let mut moved = false;
        for (c, queue) in waiting.iter_mut().enumerate() {
            if rig.core.client_may_read(clients[c])
                && let Some(bytes) = queue.pop()
            {
                rig.send(clients[c], bytes);
                moved = true;
            }
        }
        moved
    };
    while push(&mut rig, &mut waiting) {}
    assert!(waiting.iter().all(|queue| !queue.is_empty()), "never full");
    let queued = rig.core.upstream_out(rig.lanes[0].id).unwrap().len();
    assert!(queued < (2 << 20) + (200 << 10), "{queued} bytes wait");
    let mut next = [0; 3];
    let mut stored = 0;
    let mut tail = Vec::new();
    for _ in 0..10_000 {
        rig.write(0, 100_000);
        let bytes = std::mem::take(&mut rig.lanes[0].sent);
        tail.extend(bytes);
        while let Some(end) = tail.windows(2).position(|w| w == b"\r\n") {
            let line: Vec<u8> = tail.drain(..end + 2).take(end).collect();
            let line = String::from_utf8(line).unwrap();
            let Some(rest) = line.strip_prefix("set k-") else {
                assert_eq!(line.len(), 10_000, "a torn block");
                stored += 1;
                continue;
            };
            let mut words = rest.split(['-', ' ']).map(|w| w.parse::<usize>().unwrap());
            let (c, n) = (words.next().unwrap(), words.next().unwrap());
            assert_eq!(n, next[c], "client {c}: out of order");
            next[c] += 1;
        }
        push(&mut rig, &mut waiting);
        if stored == asked {
            break;
        }
    }
    assert_eq!(stored, asked, "lost on the way");
    rig.sent(0);
    rig.reply(0, "STORED\r\n".repeat(asked));
    assert!(rig.is_open(0));
    assert_eq!(rig.count(|c| &c.dropped_replies), asked as u64);
    for client in clients {
        rig.send(client, "mn\r\n");
        assert_eq!(rig.got(client), "MN\r\n");
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let mut sent = 0;
    while rig.core.client_may_read(client) {
        rig.send(client, "mn\r\n");
        sent += 1;
        assert!(sent < 10_000_000, "never stalled");
        if sent > 5_000 {
            break;
        }
    }
    // `MN` is four bytes: the pipeline's limit does not hold it, for nothing waits on a node.
    assert_eq!(rig.got(client).len(), sent * 4);
    rig.send(client, "get a\r\n".repeat(3_000));
    assert!(!rig.core.client_may_read(client));
    assert!(rig.sent(0).matches(" a").count() <= 1024, "all of them at once");
}

// === sockets that are full ===

/// As the rim: a socket that is full is passed over by the flusher, and announced when it has room.
#[test]
fn what_came_while_a_socket_was_full_is_sent_when_it_has_room() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let lane = rig.lanes[0].id;
    let dirty = |rig: &mut Rig| {
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        rig.core.take_dirty(&mut clients, &mut upstreams);
        (clients, upstreams)
    };
    dirty(&mut rig);
    rig.send(client, "get a\r\n");
    assert_eq!(dirty(&mut rig).1, [lane]);
    // The kernel takes a part.
    rig.core.upstream_out(lane);
    rig.core.upstream_written(lane, 3, Tick(0));
    rig.send(client, "get b\r\n");
    // Its turn comes, but it is full.
    assert_eq!(dirty(&mut rig).1, [lane]);
    rig.core.upstream_writable(lane);
    assert_eq!(dirty(&mut rig).1, [lane], "the lane is forgotten");
    rig.sent(0);

    rig.reply(0, "END\r\n");
    assert_eq!(dirty(&mut rig).0, [client]);
    rig.core.client_out(client);
    rig.core.client_written(client, 2, Tick(0));
    rig.reply(0, "END\r\n");
    assert_eq!(dirty(&mut rig).0, [client]);
    rig.core.client_writable(client);
    assert_eq!(dirty(&mut rig).0, [client], "the client is forgotten");
}

// === large values ===

#[test]
fn a_large_value_moves_nobody_and_is_shared() {
    let mut rig = Rig::new(1);
    let (reader, twin, other, writer) = (rig.client(), rig.client(), rig.client(), rig.client());
    rig.send(reader, "get big\r\n");
    rig.send(twin, "get big\r\n");
    rig.send(other, "get small\r\n");
    assert_eq!(rig.sent(0), "get big small\r\n");
    rig.send(writer, "set w 0 0 1\r\n1\r\n");
    rig.send(other, "get other\r\n");
    rig.sent(0);
    let reply = [value("big", LARGE), b"END\r\n".to_vec()].concat();
    let (first, rest) = reply.split_at(1000);
    rig.reply(0, first);
    rig.send(writer, "get w\r\n");
    assert_eq!(rig.sent(0), "get w\r\n");
    rig.reply(0, &rest[..rest.len() - 5]);
    rig.reply(0, "VALUE small 0 1\r\nx\r\nEND\r\nSTORED\r\nVALUE other 0 1\r\ny\r\nEND\r\nVALUE w 0 1\r\n1\r\nEND\r\n");
    assert_eq!(rig.got(other), "VALUE small 0 1\r\nx\r\nEND\r\nVALUE other 0 1\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(writer), "STORED\r\nVALUE w 0 1\r\n1\r\nEND\r\n");
    rig.pass(100);
    let held = rig.cells.sum(|cells| &cells.buffered);
    assert!(held < 2 * LARGE as u64, "{held} bytes: one copy for both");
    assert!(rig.got_bytes(reader) == reply && rig.got_bytes(twin) == reply);
    assert_eq!(rig.lanes(), 1, "no connection was made");
    rig.pass(100);
    assert_eq!(rig.cells.sum(|cells| &cells.buffered), 0);
}

#[test]
fn a_read_of_a_large_value_waits_for_what_its_client_has_for_it_on_the_other_lane() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(other, "get big\r\n");
    rig.sent(0);
    rig.reply(0, [value("big", LARGE), b"END\r\n".to_vec()].concat());
    // Known to be large: but the client's own write is on the shared lane.
    rig.send(client, "append big 0 0 1 noreply\r\nx\r\nget big\r\ndelete big\r\nget small\r\n");
    assert_eq!(rig.sent(0), "append big 0 0 1\r\nx\r\n");
    assert_eq!(rig.lanes(), 1);
    rig.reply(0, "STORED\r\n");
    let large = rig.newest(0);
    assert_eq!((large, rig.sent(large)), (1, "get big\r\n".into()));
    assert_eq!(rig.sent(0), "", "its delete waits for its read");
    let whole = [&*value("big", LARGE), b"END\r\n"].concat();
    rig.reply(large, &whole);
    assert!(rig.got_bytes(client) == whole);
    assert_eq!(rig.sent(0), "delete big\r\nget small\r\n");
    rig.reply(0, "DELETED\r\nEND\r\n");
    assert_eq!(rig.got(client), "DELETED\r\nEND\r\n");
}

#[test]
fn a_value_too_large_to_be_kept_is_read_no_faster_than_its_client_takes_it() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    let reply = [&*value("big", HUGE), b"END\r\n"].concat();
    for round in 0..2 {
        rig.send(client, "get big\r\n");
        rig.send(other, "get small\r\n");
        if round == 0 {
            assert_eq!(rig.sent(0), "get big small\r\n");
            // Nobody knew: it passes, for others wait behind it.
            assert!(rig.try_reply(0, &reply[..reply.len() - 5]).is_empty(), "a shared lane is paused");
        } else {
            assert_eq!(rig.sent(0), "get small\r\n", "known to find no room, it is not asked for in vain");
        }
        rig.reply(0, "END\r\n");
        assert_eq!(rig.got(other), "END\r\n");
        let own = rig.newest(0);
        assert_eq!((own, rig.sent(own)), (1, "get big\r\n".into()));
        let mut left = rig.try_reply(own, &reply);
        assert!(reply.len() - left.len() < 512 << 10, "too much waits in memory");
        let mut got = Vec::new();
        while !left.is_empty() {
            rig.woken.clear();
            got.extend(rig.got_bytes(client));
            assert!(rig.woken.contains(&rig.lanes[own].id), "never read again");
            left = rig.try_reply(own, left);
        }
        got.extend(rig.got_bytes(client));
        assert!(got == reply);
    }
}

#[test]
fn a_read_with_a_write_of_its_client_behind_it_is_not_asked_again() {
    for fails in [false, true] {
        let mut rig = Rig::with(1, |settings| {
            settings.on_node_down = if fails { OnNodeDown::Error } else { OnNodeDown::Miss };
        });
        let (client, other) = (rig.client(), rig.client());
        rig.send(client, "get a big b\r\nset big 0 0 1 noreply\r\nx\r\n");
        rig.send(other, "get big\r\n");
        rig.sent(0);
        rig.reply(0, "VALUE a 0 1\r\n1\r\n");
        rig.try_reply(0, &value("big", HUGE));
        rig.reply(0, "VALUE b 0 1\r\n2\r\nEND\r\nSTORED\r\nVALUE big 0 1\r\nx\r\nEND\r\n");
        let end = if fails { "SERVER_ERROR proxy: out of memory for the value\r\n" } else { "END\r\n" };
        assert_eq!(rig.got(client), format!("VALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n2\r\n{end}"));
        assert_eq!(rig.got(other), "VALUE big 0 1\r\nx\r\nEND\r\n");
        assert_eq!(rig.lanes(), 1, "nothing is asked again");
        assert_eq!(rig.cells.soft_sum(|_, reason| reason == Reason::Memory), 1);
    }
}

#[test]
fn slow_readers_of_their_own_lanes_let_nobody_wait_for_ever() {
    let mut rig = Rig::new(1);
    let reply = value("big", HUGE);
    let holders: Vec<ClientId> = (0..3).map(|_| rig.client()).collect();
    for (n, &holder) in holders.iter().enumerate() {
        rig.send(holder, "get big\r\n");
        if n == 0 {
            rig.sent(0);
            rig.try_reply(0, &[&*reply, b"END\r\n"].concat());
        }
        let own = rig.newest(0);
        assert_eq!((own, rig.sent(own)), (n + 1, "get big\r\n".into()));
        assert!(!rig.try_reply(own, &reply).is_empty(), "it waits for its reader");
    }
    let waiting = rig.client();
    rig.send(waiting, "get big\r\n");
    for _ in 0..10 {
        // A drip: each takes a little, and nothing is read for it.
        for &holder in &holders {
            let now = rig.now();
            rig.core.client_written(holder, 100, now);
            rig.apply();
        }
        rig.pass(100);
    }
    assert_eq!(rig.got(waiting), "END\r\n");
    assert_eq!(rig.closed, []);
}

#[test]
fn a_key_that_was_large_and_is_not_any_more_is_asked_for_as_any_other() {
    for what in ["small", "gone", "deleted"] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        let large = [value("k", LARGE), b"END\r\n".to_vec()].concat();
        rig.send(client, "get k\r\n");
        rig.sent(0);
        rig.reply(0, &large);
        rig.got_bytes(client);
        if what == "deleted" {
            rig.send(client, "delete k\r\n");
            assert_eq!(rig.sent(0), "delete k\r\n");
            rig.reply(0, "DELETED\r\n");
        } else {
            rig.send(client, "get k\r\n");
            let lane = rig.newest(0);
            assert_eq!((lane, rig.sent(lane)), (1, "get k\r\n".into()), "{what}");
            rig.reply(lane, if what == "small" { "VALUE k 0 1\r\nx\r\nEND\r\n" } else { "END\r\n" });
        }
        rig.send(client, "get k\r\n");
        assert_eq!(rig.sent(0), "get k\r\n", "{what}");
    }
}

#[test]
fn what_is_asked_twice_and_finds_no_room_is_answered_in_order() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get big small\r\nget big\r\n");
    assert_eq!(rig.sent(0), "get big small big\r\n");
    rig.try_reply(0, &value("big", HUGE));
    // It has become small: but an answer to the second read must not be older than that to the first.
    rig.reply(0, "VALUE small 0 1\r\ns\r\nVALUE big 0 1\r\n1\r\nEND\r\n");
    let own = rig.newest(0);
    assert_eq!(rig.sent(own), "get big\r\n");
    rig.send(client, "set big 0 0 1\r\nx\r\n");
    assert_eq!(rig.sent(0), "", "its write waits");
    rig.reply(own, "VALUE big 0 1\r\n2\r\nEND\r\n");
    assert_eq!(rig.sent(own), "get big\r\n");
    rig.reply(own, "VALUE big 0 1\r\n3\r\nEND\r\n");
    let told = "VALUE big 0 1\r\n2\r\nVALUE small 0 1\r\ns\r\nEND\r\nVALUE big 0 1\r\n3\r\nEND\r\n";
    assert_eq!(rig.got(client), told);
    assert_eq!(rig.sent(0), "set big 0 0 1\r\nx\r\n");
}

#[test]
fn values_of_two_nodes_that_find_no_room_are_asked_again_in_their_turn() {
    let mut rig = Rig::new(2);
    let client = rig.client();
    let (a, b) = (rig.key(0, "a"), rig.key(1, "b"));
    rig.send(client, format!("get {b} {a}\r\n"));
    rig.sent(0);
    rig.sent(1);
    let (from_a, from_b) = (value(&a, HUGE), value(&b, HUGE));
    let (from_a, from_b) = ([&*from_a, b"END\r\n"].concat(), [&*from_b, b"END\r\n"].concat());
    // The second one comes first: it holds no lane that others might need.
    rig.try_reply(0, &from_a);
    assert_eq!(rig.lanes(), 2);
    rig.try_reply(1, &from_b);
    let mut got = Vec::new();
    for (node, key, reply) in [(1, &b, &from_b), (0, &a, &from_a)] {
        let lane = rig.newest(node);
        assert_eq!(rig.sent(lane), format!("get {key}\r\n"));
        let mut left = rig.try_reply(lane, reply);
        while !left.is_empty() {
            rig.woken.clear();
            let more = rig.got_bytes(client);
            assert!(!more.is_empty() && rig.woken.contains(&rig.lanes[lane].id), "it waits");
            got.extend(more);
            left = rig.try_reply(lane, left);
        }
        got.extend(rig.got_bytes(client));
    }
    assert!(got == [&from_b[..from_b.len() - 5], &from_a].concat());
}

#[test]
fn what_was_asked_before_and_behind_a_value_that_finds_no_room_keeps_its_place() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get missing\r\nget big\r\nget later\r\n");
    assert_eq!(rig.sent(0), "get missing big later\r\n");
    let big = [&*value("big", HUGE), b"END\r\n"].concat();
    rig.try_reply(0, &[&big[..big.len() - 5], b"VALUE later 0 1\r\nx\r\nEND\r\n"].concat());
    let own = rig.newest(0);
    let mut left = rig.try_reply(own, &big);
    let mut got = Vec::new();
    while !left.is_empty() {
        got.extend(rig.got_bytes(client));
        left = rig.try_reply(own, left);
    }
    got.extend(rig.got_bytes(client));
    assert!(got == [b"END\r\n", &*big, b"VALUE later 0 1\r\nx\r\nEND\r\n"].concat());
}

#[test]
fn at_most_three_large_bodies_pass_to_a_node_at_once() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..7).map(|_| rig.client()).collect();
    let bodies: Vec<Vec<u8>> = (0..7).map(|i| set(&format!("{i}-k"), LARGE)).collect();
    for (i, &client) in clients.iter().enumerate() {
        rig.send(client, &bodies[i][..100]);
    }
    assert_eq!(rig.open_lanes(0), 1 + 3);
    for (i, &client) in clients.iter().enumerate() {
        assert_eq!(rig.core.client_may_read(client), i < 3, "client {i}");
    }
    // Each that ends lets the next one begin, in the order they came.
    for i in 0..7 {
        for piece in bodies[i][100..].chunks(64 << 10) {
            rig.send(clients[i], piece);
            for lane in 1..rig.lanes.len() {
                rig.write(lane, usize::MAX);
            }
        }
        let lane = (1..rig.lanes.len()).find(|&l| rig.lanes[l].sent.ends_with(&bodies[i]));
        let lane = lane.unwrap_or_else(|| panic!("body {i} is not whole"));
        rig.reply(lane, "STORED\r\n");
        assert_eq!(rig.got(clients[i]), "STORED\r\n");
        assert_eq!(rig.open_lanes(0), 1 + 3);
        for (j, &client) in clients.iter().enumerate().skip(i + 1) {
            assert_eq!(rig.core.client_may_read(client), j < i + 4, "client {j}");
        }
    }
    // Nobody needs them: they close.
    assert_eq!(rig.ticks, 1, "one tick runs");
    rig.pass(2_000);
    assert_eq!(rig.next, None);
    assert_eq!(rig.open_lanes(0), 1);
    // And the next one to be idle asks for a tick again.
    rig.send(clients[0], &bodies[0]);
    let lane = rig.newest(0);
    rig.sent(lane);
    rig.reply(lane, "STORED\r\n");
    assert_eq!(rig.ticks, 2);
}

#[test]
fn who_waits_for_a_lane_of_its_own_is_answered_when_none_gets_free() {
    let mut rig = Rig::new(1);
    // Every own lane of the node is taken by bodies that do not move.
    let holders: Vec<ClientId> = (0..3).map(|_| rig.client()).collect();
    for &client in &holders {
        rig.send(client, &set("held", LARGE)[..100]);
    }
    let (reader, writer) = (rig.client(), rig.client());
    rig.send(reader, "get big\r\nget small\r\n");
    rig.sent(0);
    rig.reply(0, [value("big", HUGE), b"VALUE small 0 1\r\nx\r\nEND\r\n".to_vec()].concat());
    rig.send(writer, [set("w", LARGE), b"mn\r\n".to_vec()].concat());
    assert_eq!(rig.open_lanes(0), 1 + 3);
    rig.pass(200);
    assert_eq!((rig.got(reader), rig.got(writer)), (String::new(), String::new()));
    rig.pass(300);
    assert_eq!(rig.got(reader), "END\r\nVALUE small 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(writer), "SERVER_ERROR proxy: node node-0:11211 has no free connection for the value\r\nMN\r\n");
    assert_eq!(rig.closed, []);
}

#[test]
fn a_client_that_ends_in_the_middle_of_a_large_value_leaves_nothing_behind() {
    for early in [false, true] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        rig.send(client, &set("k", LARGE)[..5000]);
        let bulk = rig.newest(0);
        rig.sent(bulk);
        if early {
            rig.reply(bulk, "SERVER_ERROR object too large for cache\r\n");
        }
        rig.core.client_ended(client);
        rig.apply();
        if early {
            assert_eq!(rig.got(client), "SERVER_ERROR object too large for cache\r\n");
        }
        assert_eq!(rig.closed, [client]);
        assert_eq!(rig.open_lanes(0), 1, "its lane waits for the rest");
    }
}

#[test]
fn a_large_value_that_ends_wrongly_is_never_completed() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let mut body = set("k", LARGE);
    body.truncate(body.len() - 2);
    rig.send(client, &body);
    let bulk = rig.newest(0);
    rig.write(bulk, usize::MAX);
    rig.send(client, "XYmn\r\n");
    rig.write(bulk, usize::MAX);
    assert!(!rig.is_open(bulk));
    assert_eq!(rig.lanes[bulk].sent.len(), body.len());
    assert_eq!(rig.got(client), "CLIENT_ERROR bad data chunk\r\nMN\r\n");
}

/// Four clients could hold every own lane of one node for the second value of their multiget and
/// wait for one of the other node for the first; four others the other way round.
#[test]
fn large_values_asked_for_crosswise_do_not_wait_for_each_other() {
    let mut rig = Rig::with(2, |settings| {
        settings.lanes = 2;
        settings.merge_gets = false;
    });
    let clients: Vec<ClientId> = (0..8).map(|_| rig.client()).collect();
    let (a, b) = (rig.key(0, "a"), rig.key(1, "b"));
    for (i, &client) in clients.iter().enumerate() {
        // Even and odd clients keep to different lanes.
        let (first, second) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        rig.send(client, format!("get {first} {second}\r\n"));
    }
    let mut owed: Vec<Vec<u8>> = Vec::new();
    let mut got = 0;
    for round in 0..2000 {
        for lane in 0..rig.lanes() {
            owed.resize(rig.lanes(), Vec::new());
            for line in rig.sent(lane).lines() {
                let key = line.strip_prefix("get ").unwrap();
                owed[lane].extend([&*value(key, HUGE), b"END\r\n"].concat());
            }
            // At first only what is second in a multiget is answered: the even lane of node 1 and
            // the odd one of node 0, which are 2 and 1.
            if rig.is_open(lane) && (round > 100 || lane != 0 && lane != 3) {
                let bytes = std::mem::take(&mut owed[lane]);
                owed[lane] = rig.try_reply(lane, &bytes).to_vec();
            }
        }
        for &client in &clients {
            got += rig.got_bytes(client).len();
        }
    }
    let whole = value(&a, HUGE).len() + value(&b, HUGE).len() + 5;
    assert_eq!(got, clients.len() * whole, "they wait for each other");
}
