//! The scheduler: drives the core as the rim does, one random step after another.
//!
//! As in the rim, a socket that the core does not want read is looked at again only when it is
//! woken, and one that took less than it was given only when it has room: a wake that is forgotten
//! is a client that hangs.

mod effects;
mod faults;
mod rest;
mod sockets;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use slipring::config::OnNodeDown;
use slipring::metrics::{Cells, Reason};
use slipring::proxy::{Core, Effect, FailReason, OutBuf, ReadBuffer, Settings, UpstreamId};
use slipring::routing::{Node as Member, Placement, Topology};
use slipring::time::Tick;

use crate::Rng;
use crate::client::{Client, Ending, Facts, LARGE_KEYS, owner};
use crate::link::Link;
use crate::node::{Node, Session};

/// What a client may hold beyond what all may: a read, what is kept of one, and what the kernel holds for it, in bytes.
const SLACK: usize = 2 * (64 << 10) + (96 << 10);

/// After so many microseconds without an acknowledgement the kernel ends a connection.
const KERNEL_PATIENCE: u64 = 6_000_000;

/// A connection to a node, seen from the rim.
#[derive(Debug)]
struct Conn {
    id: UpstreamId,
    node: usize,
    to_node: VecDeque<u8>,
    from_node: VecDeque<u8>,
    session: Session,
    room: usize,
    blocked: bool,
    /// It was given more than it took, perhaps a part of a request.
    left: bool,
    parked: bool,
    /// The core has closed it; the node still takes what was sent.
    closed: bool,
    /// It was closed because it failed, not because it was not needed.
    haunts: bool,
    /// The core has read its first line.
    welcome: bool,
    /// Something was said on it that was not asked for.
    spoilt: bool,
    /// Its network is gone: bytes vanish both ways, and nobody says so.
    deaf: bool,
}

/// What ails a node; each until some moment, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    /// It neither reads nor answers.
    stalls: u64,
    /// Its sockets take nothing.
    shuts: u64,
    /// Its answers come byte by byte.
    drips: u64,
}

#[derive(Debug)]
enum Timer {
    Connect(UpstreamId, usize),
    /// A connection that is refused, or never made.
    Fail(UpstreamId, usize, FailReason),
    Tick,
}

#[derive(Debug)]
pub(crate) struct World {
    core: Core,
    cells: Arc<Cells>,
    facts: Facts,
    clients: Vec<Client>,
    conns: Vec<Conn>,
    links: HashMap<UpstreamId, Link>,
    timers: Vec<(u64, Timer)>,
    up: Vec<bool>,
    /// Nodes that have failed and are not fully connected again.
    recovering: Vec<bool>,
    /// Nodes that are new in the ring and not fully connected.
    joining: Vec<bool>,
    rng: Rng,
    effects: Vec<Effect>,
    lanes: usize,
    /// The end has come: nothing is slow any more.
    calm: bool,
    /// Nodes fail.
    stormy: bool,
    /// Nodes are slow, but do not fail.
    moody: bool,
    moods: Vec<Mood>,
    /// Whether a node was silent for a time-out since it last answered.
    silent: Vec<bool>,
    /// Microseconds.
    connect_timeout: u64,
    /// The clocks are those of real life.
    hasty: bool,
    /// Most microseconds of a step, and of a jump.
    pace: usize,
    leap: usize,
    /// The ring changes.
    turning: bool,
    placement: Arc<Placement>,
    /// Microseconds.
    drain_timeout: u64,
    /// Most bytes of an ordinary delivery.
    piece: usize,
    next_client: u64,
    most_clients: usize,
    injected: u64,
    steps: usize,
    /// Grows with everything that is delivered.
    moved: u64,
    tally: Tally,
    /// What the core does now, it does because of the time.
    in_tick: bool,
    /// What is read into, half of the time.
    buffer: ReadBuffer,
    /// When it was last looked for clients that have gone while they are not read.
    looked_at: u64,
    /// There are large values: their connections are given up sooner.
    large: bool,
    /// There are clients who only store, a lot.
    loaded: bool,
    buffer_limit: usize,
}

/// What has happened in a run, to see that the weather is not too mild.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Requests answered because their node was slow, or took nothing.
    pub(crate) expired: u64,
    pub(crate) unsent: u64,
    /// Changes among them that were done all the same.
    pub(crate) late: u64,
    pub(crate) strikes: u64,
    pub(crate) outages: u64,
    /// Outages among them that the node did not answer a question in.
    pub(crate) probed: u64,
    pub(crate) retries: u64,
    /// Pieces of values that passed by themselves.
    pub(crate) passed: u64,
    /// Requests that came in packets.
    pub(crate) packets: u64,
}

/// By the hash that every request has, and by the key itself: on a circle, by scores, by a remainder.
const PLACEMENTS: [&str; 6] = ["ring", "ring", "ring", "dalli", "pymemcache", "python-memcached"];

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let turning = rng.one_in(2);
        let count = if turning { 2 + rng.below(3) } else { 1 + rng.below(3) };
        // Many nodes, and clients who only store, a lot: more than there is memory for.
        let loaded = rng.one_in(6);
        let count = if loaded { count + 9 } else { count };
        let first = if turning { 1 + rng.below(count) } else { count };
        // Numbers of their own: the other choices of a seed stay what they are.
        let placement = PLACEMENTS[Rng::new(!seed).below(PLACEMENTS.len())].parse().unwrap();
        let placement = Arc::new(placement);
        let topology = ring(1, &placement, &(0..first).map(|node| (node, 1)).collect::<Vec<_>>());
        let drain_timeout = [0, 200, 1000, 5000][rng.below(4)];
        let lanes = 1 + rng.below(3);
        let reads_fail = rng.one_in(3);
        let hasty = rng.one_in(2);
        let pick = |rng: &mut Rng, from: [u64; 3]| if hasty { from[rng.below(3)] * 1000 } else { 3_600_000_000 };
        let request_timeout = pick(&mut rng, [50, 500, 2_000]);
        let queue_timeout = pick(&mut rng, [20, 250, 1_000]);
        let connect_timeout = [20, 250, 1_000][rng.below(3)] * 1000;
        let large = rng.one_in(2) && !loaded;
        let bulk_above = if large { [1 << 20, 16 << 10][rng.below(2)] } else { 1 << 20 };
        let settings = Settings {
            max_value: 128 << 20,
            bulk_above,
            buffer_limit: [2 << 20, 3 << 20, 8 << 20, 64 << 20, 64 << 20][rng.below(if loaded { 2 } else { 5 })],
            drain_timeout: Duration::from_millis(drain_timeout),
            lanes,
            merge_gets: !rng.one_in(4),
            on_node_down: if reads_fail { OnNodeDown::Error } else { OnNodeDown::Miss },
            started_at: 1_700_000_000,
            // Where nothing expires, no failure is without a fault.
            connect_timeout: Duration::from_micros(connect_timeout),
            request_timeout: Duration::from_micros(request_timeout),
            queue_timeout: Duration::from_micros(queue_timeout),
            seed,
            ..Settings::default()
        };
        let cells = Arc::new(Cells::new(1));
        let core = Core::new(Arc::clone(&topology), settings.clone(), Arc::clone(&cells), 0);
        let stormy = rng.one_in(2);
        // One before 1.6 is sent no meta command, but packets where it speaks them.
        let old = if rng.one_in(4) { "1.5.16" } else { "1.6.15" };
        let mut nodes: Vec<Node> =
            (0..count).map(|i| Node::new(["1.6.18", old, "1.6.10"][i % 3], seed + i as u64)).collect();
        if stormy && rng.one_in(2) {
            nodes[0].hiccup = 100;
        }
        for n in (0..LARGE_KEYS).filter(|_| large) {
            let key = format!("large.{n}").into_bytes();
            let size = bulk_above + rng.below(bulk_above);
            nodes[owner(&topology, &key)].put(&key, 1_000_000 + n as u64, size);
        }
        let facts = Facts {
            now: 0,
            nodes,
            last_fault: vec![None; count],
            last_join: vec![None; count],
            request_timeout,
            queue_timeout,
            last_late: vec![None; count],
            last_stuck: vec![None; count],
            last_doubt: vec![None; count],
            last_haunted: vec![None; count],
            reached: HashSet::new(),
            unsent: HashSet::new(),
            unknown: HashSet::new(),
            asked: HashMap::new(),
            reads: HashMap::new(),
            bulk_above,
            without_room: 0,
            rings: vec![topology],
            reads_fail,
            claims: HashMap::new(),
            next_serial: 0,
            large_writes: if large { 1 + rng.below(10) } else { 0 },
            large_reads: if large { 30 * (1 << 20) / bulk_above.max(100 << 10) } else { 0 },
            loaded: Vec::new(),
            long_reads: if rng.one_in(4) { 1 + rng.below(6) } else { 0 },
            flushes: rng.one_in(3),
            too_slow: false,
        };
        Self {
            core,
            cells,
            facts,
            clients: Vec::new(),
            conns: Vec::new(),
            links: HashMap::new(),
            timers: Vec::new(),
            up: vec![true; count],
            recovering: vec![false; count],
            joining: (0..count).map(|node| node < first).collect(),
            effects: Vec::new(),
            lanes,
            calm: false,
            stormy,
            moody: rng.one_in(2),
            moods: vec![Mood::default(); count],
            silent: vec![false; count],
            connect_timeout,
            hasty,
            pace: if hasty { [2_000, 200][rng.below(2)] } else { 2_000 },
            leap: if hasty { [30_000, 300_000, 5_000_000][rng.below(3)] } else { 3_000_000 },
            turning,
            placement,
            drain_timeout: drain_timeout * 1000,
            piece: [3, 40, 1000, 64 << 10][rng.below(4)],
            next_client: 0,
            most_clients: 1 + rng.below(12),
            injected: 0,
            steps: 1000 + rng.below(7000),
            moved: 0,
            tally: Tally::default(),
            in_tick: false,
            buffer: ReadBuffer::default(),
            looked_at: 0,
            large,
            loaded,
            buffer_limit: settings.buffer_limit,
            rng,
        }
    }

    pub(crate) fn run(mut self) -> Tally {
        self.carry_out();
        for _ in 0..self.steps {
            self.step();
        }
        if self.hasty && self.rng.one_in(3) {
            self.check_that_silence_is_answered();
        }
        self.calm_down();
        self.check_nothing_is_owed();
        self.check_that_all_nodes_serve();
        self.check_nothing_is_left();
        Tally {
            expired: self.cells.soft_sum(|_, reason| reason == Reason::Timeout),
            unsent: self.cells.soft_sum(|_, reason| reason == Reason::Queue),
            late: self.facts.unknown.intersection(&self.facts.reached).count() as u64,
            strikes: self.cells.node_sum(|n| &n.timeouts),
            retries: self.cells.sum(|c| &c.retries),
            packets: self.facts.nodes.iter().map(|node| node.ledger.packets).sum(),
            ..self.tally
        }
    }

    fn now(&self) -> Tick {
        Tick(self.facts.now)
    }

    fn step(&mut self) {
        self.facts.now += self.rng.below(self.pace) as u64;
        match self.rng.below(100) {
            0..2 if self.clients.len() < self.most_clients => self.connect_client(),
            0..25 => self.some_client(Self::ask),
            25..40 => self.some_client(Self::read_client),
            40..55 => self.flush(),
            55..67 => self.some_conn(Self::run_node),
            67..82 => self.some_conn(Self::read_conn),
            82..90 => self.some_client(Self::client_takes),
            90..92 => self.some_client(Self::client_pauses),
            92..94 => self.unblock(),
            94 => self.some_client(|world, i| {
                if world.clients[i].ending == Ending::Vanishes && world.rng.one_in(4) {
                    world.vanish(i);
                }
            }),
            95 if self.stormy => self.storm(),
            // What nodes are logged in to with has changed: nobody must notice.
            95 if self.rng.one_in(2) => {
                self.core.renew_lanes(self.now());
                self.carry_out();
            }
            97 if self.turning && self.rng.one_in(4) => {
                for _ in 0..1 + self.rng.below(3) {
                    self.turn();
                }
            }
            96 => self.facts.now += self.rng.below(self.leap) as u64,
            98 if self.moody && self.rng.one_in(3) => self.change_mood(),
            _ => self.run_timers(),
        }
        self.watch_recovery();
    }

    fn some_client(&mut self, act: impl Fn(&mut Self, usize)) {
        if !self.clients.is_empty() {
            let i = self.rng.below(self.clients.len());
            act(self, i);
        }
    }

    fn some_conn(&mut self, act: impl Fn(&mut Self, usize)) {
        if !self.conns.is_empty() {
            let i = self.rng.below(self.conns.len());
            act(self, i);
        }
    }

    /// How much is delivered at once: large queues go in large pieces.
    fn piece(&mut self, waiting: usize) -> usize {
        let most = if waiting > 16 << 10 { 64 << 10 } else { self.piece };
        match self.rng.below(10) {
            0 => 1.min(waiting),
            1..4 => waiting.min(64 << 10),
            _ => (1 + self.rng.below(most)).min(waiting),
        }
    }
}

/// A ring of nodes, by number and weight.
fn ring(version: u64, placement: &Arc<Placement>, list: &[(usize, u32)]) -> Arc<Topology> {
    let weight = |weight| if placement.has_weights() { weight } else { 1 };
    let member = |&(node, weighs): &(usize, u32)| Member::new(&format!("node-{node}"), 11211, weight(weighs));
    Arc::new(Topology::placed(version, list.iter().map(member).map(Arc::new).collect(), placement).unwrap())
}

/// The first bytes of what waits, at most so many.
fn taken(out: &OutBuf, most: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 8];
    let filled = out.slices(&mut slices);
    let bytes = slices[..filled].iter().flat_map(|s| s.iter().copied());
    bytes.take(most).collect()
}
