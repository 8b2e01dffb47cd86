//! What a model of memcached never does, and the exact bytes on a lane: scripted by hand.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use slipring::metrics::{Cells, Counter, WorkerCells};
use slipring::proxy::{ClientId, Core, Effect, FailReason, OutBuf, Settings, UpstreamId};
use slipring::routing::{Before, Node, Topology};
use slipring::time::Tick;

mod before;
mod binary_lanes;
mod causes;
mod clocks;
mod doubt;
mod health;
mod key_lists;
mod large;
mod limits;
mod lost;
mod memory;
mod merged;
mod meta;
mod placements;
mod renewal;
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
    /// The ring before, once it is declared.
    before: Option<Arc<Before>>,
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
            before: None,
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

    /// Why the node is in its state; nothing while it is up.
    fn cause(&self, node: usize) -> String {
        let cause = self.cells.node_cause(&format!("node-{node}:11211"));
        cause.map(|cause| cause.to_string()).unwrap_or_default()
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
