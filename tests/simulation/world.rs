//! The scheduler: drives the core as the rim does, one random step after another.
//!
//! As in the rim, a socket that the core does not want read is looked at again only when it is
//! woken, and one that took less than it was given only when it has room: a wake that is forgotten
//! is a client that hangs.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use slipring::config::OnNodeDown;
use slipring::metrics::{Cells, NodeState, Reason};
use slipring::proxy::{ClientId, CloseReason, Core, Effect, FailReason, OutBuf, ReadBuffer, Settings, UpstreamId};
use slipring::routing::{Node as Member, Placement, Topology};
use slipring::time::Tick;

use crate::Rng;
use crate::client::{Client, Ending, Facts, LARGE_KEYS, number_of, owner};
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
        // To one before 1.6 no meta command is sent.
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

    // === effects ===

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.core.take_effects(&mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::WakeClient(id) => {
                    if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
                        client.parked = false;
                    }
                }
                Effect::WakeUpstream(id) => {
                    if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
                        conn.parked = false;
                    }
                }
                Effect::Connect(id, wait) => {
                    let Some(node) = self.core.upstream_node(id) else { continue };
                    let node = number_of(&node.name);
                    self.links.insert(id, Link::new(node, self.facts.now));
                    self.connect(id, node, wait);
                }
                Effect::Tick(wait) => {
                    let running = self.timers.iter().any(|(_, t)| matches!(t, Timer::Tick));
                    assert!(!running, "a second tick beside the one that runs");
                    let at = self.now().after(wait).0;
                    self.timers.push((at, Timer::Tick));
                }
                Effect::CloseUpstream(id) | Effect::ResetUpstream(id) => {
                    let given_up = self.unlink(id);
                    if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
                        conn.closed = true;
                        conn.from_node.clear();
                        // What it was sent is answered as failed, and may be done at any time, or never.
                        conn.haunts = conn.spoilt || given_up;
                        if conn.deaf || conn.haunts && self.rng.one_in(2) {
                            conn.to_node.clear();
                        }
                    }
                    self.conns.retain(|c| !c.closed || !c.to_node.is_empty());
                }
                Effect::CloseClient(id) | Effect::ResetClient(id) => self.client_closed(id),
            }
        }
        self.effects = effects;
        assert!(!self.core.has_effects());
        self.core.check_invariants();
        self.check_memory();
    }

    /// What waits stays within the limit, but for one read of each client, and what the kernel holds for it.
    fn check_memory(&self) {
        let held = self.cells.sum(|cells| &cells.buffered) as usize;
        let slack = (self.clients.len() + 1) * SLACK;
        assert!(self.large || held <= self.buffer_limit + slack, "{held} bytes wait, of {}", self.buffer_limit);
    }

    /// The core closes a connection. Returns whether it was silent for too long.
    fn unlink(&mut self, id: UpstreamId) -> bool {
        // Closed in the round it was asked for in, it never was one.
        let Some(link) = self.links.remove(&id) else { return false };
        let silent = link.is_silent(self.drain_timeout, self.facts.now);
        let departed = !self.members().contains(&link.node);
        let late = self.in_tick && link.was_late(self.facts.now);
        if late && !departed && !self.large && self.state(link.node) < NodeState::Probing {
            assert!(self.is_hopeless(id, &link), "given up too early: {link:?} at {}", self.facts.now);
        }
        // Or all of its node's were.
        let down = !departed && self.state(link.node) >= NodeState::Probing;
        let given_up = late || silent && departed || down;
        if given_up {
            self.fault(link.node);
        }
        given_up
    }

    fn connect(&mut self, id: UpstreamId, node: usize, wait: Duration) {
        let latency = self.rng.below(5_000) as u64;
        let at = self.now().after(wait).0 + latency;
        self.timers.push((at, Timer::Connect(id, node)));
    }

    fn client_closed(&mut self, id: ClientId) {
        let Some(i) = self.clients.iter().position(|c| c.id == id) else {
            return;
        };
        let slow = [CloseReason::NotReading, CloseReason::BodyStalled];
        self.facts.too_slow |= slow.iter().any(|reason| self.cells.closed_sum(*reason) > 0);
        let client = &mut self.clients[i];
        client.closed = true;
        let all = client.kernel.len();
        client.take(all, &mut self.facts);
        let client = &self.clients[i];
        let closed = CloseReason::ALL.map(|reason| (reason.word(), self.cells.closed_sum(reason)));
        assert!(client.may_be_closed(&self.facts), "closed without a reason: {}, {closed:?}", client.describe());
        self.clients.swap_remove(i);
    }

    fn run_timers(&mut self) {
        while let Some(i) = self.timers.iter().position(|(at, _)| *at <= self.facts.now) {
            let (_, timer) = self.timers.swap_remove(i);
            match timer {
                Timer::Tick => {
                    self.in_tick = true;
                    self.look_at_links();
                    let next = self.core.tick(self.now());
                    self.look_after_unread();
                    self.look_for_outages();
                    if let Some(at) = next {
                        assert!(at > self.now(), "a tick that is due at once again");
                        self.timers.push((at.0, Timer::Tick));
                    }
                }
                Timer::Connect(id, node) if self.core.has_upstream(id) => self.accept(id, node),
                Timer::Fail(id, _, reason) => self.core.upstream_failed(id, reason, self.now()),
                Timer::Connect(..) => {}
            }
            self.carry_out();
            self.in_tick = false;
        }
    }

    /// As the rim: notices, about once a second, that clients which are not read have sent their end.
    fn look_after_unread(&mut self) {
        if self.looked_at + 750_000 > self.facts.now {
            return;
        }
        self.looked_at = self.facts.now;
        let mut unread = Vec::new();
        self.core.unread_clients(&mut unread);
        for id in unread {
            if let Some(client) = self.clients.iter_mut().find(|c| c.id == id && c.fin) {
                client.hung_up = true;
                self.core.client_hung_up(id, Tick(self.facts.now));
            }
        }
    }

    /// Notes which nodes have been slower than the clocks allow.
    fn look_at_links(&mut self) {
        let now = self.facts.now;
        for (id, link) in &mut self.links {
            // The core does not want to read it.
            if self.conns.iter().any(|c| c.id == *id && c.parked) {
                link.pause(now);
            }
            if link.is_late(self.facts.request_timeout, now) {
                self.facts.last_late[link.node] = Some(now);
            }
            if link.is_struck(self.facts.request_timeout, now) {
                self.silent[link.node] = true;
            }
            if link.is_stuck(self.facts.queue_timeout, now) {
                self.facts.last_stuck[link.node] = Some(now);
            }
        }
    }

    /// A clock makes a node down only when it was silent for a time-out and then did not answer on a connection of its
    /// own, or cannot be connected to.
    fn look_for_outages(&mut self) {
        let now = self.facts.now;
        for node in 0..self.up.len() {
            if !self.recovering[node] && self.state(node) >= NodeState::Probing {
                let links = || self.links.iter().filter(|(_, link)| link.node == node);
                let asked = links().any(|(_, link)| link.is_unwelcome(self.connect_timeout, now));
                let mut late = links().filter(|(_, link)| link.was_late(now));
                let cause = self.silent[node] && asked || late.any(|(id, link)| self.is_hopeless(*id, link));
                assert!(cause, "node {node} is down without a cause: silent {}", self.silent[node]);
                self.tally.probed += u64::from(asked);
                self.tally.outages += 1;
                self.fault(node);
            }
        }
    }

    fn is_hopeless(&self, id: UpstreamId, link: &Link) -> bool {
        let left = self.conns.iter().any(|c| c.id == id && c.left);
        link.is_hopeless(self.facts.request_timeout, left, self.facts.now)
    }

    fn state(&self, node: usize) -> NodeState {
        self.cells.node_state(&format!("node-{node}:11211"))
    }

    fn accept(&mut self, id: UpstreamId, node: usize) {
        if !self.up[node] {
            self.fault(node);
            if self.rng.one_in(3) {
                let at = self.facts.now + 1_000_000;
                self.timers.push((at, Timer::Fail(id, node, FailReason::ConnectTimeout)));
            } else {
                self.core.upstream_failed(id, FailReason::Connect, self.now());
            }
            return;
        }
        let mut conn = Conn {
            id,
            node,
            to_node: VecDeque::new(),
            from_node: VecDeque::new(),
            session: Session::new(),
            room: if self.calm { 300_000 } else { [50, 4_000, 300_000][self.rng.below(3)] },
            blocked: false,
            left: false,
            parked: false,
            closed: false,
            haunts: false,
            welcome: false,
            spoilt: false,
            deaf: false,
        };
        if self.stormy && self.rng.one_in(20) {
            self.fault(node);
            conn.spoilt = true;
            conn.from_node.extend(b"ERROR Too many open connections\r\n");
        }
        let spoilt = conn.spoilt;
        self.conns.push(conn);
        let link = self.links.get_mut(&id).unwrap();
        link.connect(self.facts.now);
        if spoilt {
            link.spoil();
        }
        self.core.upstream_connected(id, self.now());
    }

    // === clients ===

    fn connect_client(&mut self) {
        let id = self.core.client_connected();
        self.next_client += 1;
        let mut client = Client::new(id, self.next_client, &mut self.rng);
        if self.loaded && self.rng.one_in(3) {
            client.loads();
        }
        self.clients.push(client);
    }

    fn ask(&mut self, i: usize) {
        let client = &mut self.clients[i];
        if client.wants() {
            client.ask(&mut self.facts, &mut self.rng);
        }
    }

    fn read_client(&mut self, i: usize) {
        let waiting = self.clients[i].outbox.len();
        let piece = self.piece(waiting);
        let now = self.now();
        let client = &mut self.clients[i];
        if client.parked {
            return;
        }
        if !self.core.client_may_read(client.id) {
            client.parked = !self.core.client_turn(client.id, now);
        } else if piece > 0 {
            let bytes: Vec<u8> = client.outbox.drain(..piece).collect();
            self.moved += 1;
            if self.rng.one_in(2) {
                self.buffer.space()[..piece].copy_from_slice(&bytes);
                self.core.client_read(client.id, &mut self.buffer, piece, now);
            } else {
                self.core.client_input(client.id, &bytes, now);
            }
        } else if client.fin && !client.ended {
            (client.ended, client.hung_up) = (true, true);
            self.core.client_ended(client.id);
        }
        self.carry_out();
    }

    fn client_takes(&mut self, i: usize) {
        let client = &mut self.clients[i];
        if client.reads {
            let most = client.kernel.len();
            let bytes = if self.rng.one_in(2) { most } else { self.rng.below(most + 1) };
            client.take(bytes, &mut self.facts);
            self.moved += bytes as u64;
        }
    }

    fn client_pauses(&mut self, i: usize) {
        let client = &mut self.clients[i];
        client.reads = !client.reads || !self.rng.one_in(3);
    }

    fn vanish(&mut self, i: usize) {
        let client = self.clients.swap_remove(i);
        self.core.client_gone(client.id);
        self.carry_out();
    }

    // === writing ===

    fn flush(&mut self) {
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        self.core.take_dirty(&mut clients, &mut upstreams);
        for id in upstreams.drain(..) {
            self.flush_upstream(id);
        }
        for id in clients.drain(..) {
            self.flush_client(id);
        }
        self.core.reuse_dirty(clients, upstreams);
        self.carry_out();
    }

    fn flush_upstream(&mut self, id: UpstreamId) {
        let now = self.now();
        let Some(conn) = self.conns.iter_mut().find(|c| c.id == id && !c.blocked) else {
            return;
        };
        let most = if self.moods[conn.node].shuts > now.0 { 0 } else { conn.room };
        conn.left = false;
        while let Some(out) = self.core.upstream_out(id).filter(|out| !out.is_empty()) {
            let room = most.saturating_sub(conn.to_node.len());
            if room == 0 || self.rng.one_in(10) {
                (conn.blocked, conn.left) = (true, true);
                break;
            }
            let bytes = taken(out, room.min(1 + self.rng.below(64 << 10)));
            conn.to_node.extend(&bytes);
            self.links.get_mut(&id).unwrap().write(bytes.len(), now.0);
            self.core.upstream_written(id, bytes.len(), now);
        }
    }

    fn flush_client(&mut self, id: ClientId) {
        let now = self.now();
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id && !c.blocked) else {
            return;
        };
        while let Some(out) = self.core.client_out(id).filter(|out| !out.is_empty()) {
            let room = client.room.saturating_sub(client.kernel.len());
            if room == 0 || self.rng.one_in(10) {
                client.blocked = true;
                self.core.client_blocked(client.id);
                break;
            }
            let bytes = taken(out, room.min(1 + self.rng.below(64 << 10)));
            client.kernel.extend_from_slice(&bytes);
            self.core.client_written(id, bytes.len(), now);
        }
    }

    fn unblock(&mut self) {
        for conn in &mut self.conns {
            let shut = self.moods[conn.node].shuts > self.facts.now;
            if conn.blocked && conn.to_node.len() < conn.room && !conn.closed && !shut {
                conn.blocked = false;
                self.core.upstream_writable(conn.id);
            }
        }
        for client in &mut self.clients {
            if client.blocked && client.kernel.len() < client.room {
                client.blocked = false;
                self.core.client_writable(client.id);
            }
        }
        self.carry_out();
    }

    // === nodes ===

    fn run_node(&mut self, i: usize) {
        let waiting = self.conns[i].to_node.len();
        let piece = self.piece(waiting);
        let conn = &mut self.conns[i];
        if conn.deaf || self.moods[conn.node].stalls > self.facts.now {
            return;
        }
        let bytes: Vec<u8> = conn.to_node.drain(..piece).collect();
        if conn.haunts && piece > 0 {
            self.facts.last_haunted[conn.node] = Some(self.facts.now);
        }
        let node = &mut self.facts.nodes[conn.node];
        let hiccups = node.ledger.hiccups;
        self.moved += bytes.len() as u64;
        let mut out = Vec::new();
        conn.session.feed(node, &bytes, &mut out);
        if !conn.closed {
            conn.from_node.extend(out);
        }
        let (number, hiccups) = (conn.node, node.ledger.hiccups > hiccups);
        self.facts.look(number);
        if hiccups {
            self.fault(number);
        }
        self.conns.retain(|c| !c.closed || !c.to_node.is_empty());
    }

    fn read_conn(&mut self, i: usize) {
        let waiting = self.conns[i].from_node.len();
        let mut piece = self.piece(waiting);
        let now = self.now();
        let conn = &mut self.conns[i];
        if conn.parked || conn.closed {
            return;
        }
        if conn.deaf {
            piece = 0;
        } else if self.moods[conn.node].drips > now.0 {
            piece = piece.min(1);
        }
        if !self.core.upstream_may_read(conn.id) {
            conn.parked = true;
        } else if piece == 0 {
            self.core.upstream_drained();
        } else {
            let bytes: Vec<u8> = conn.from_node.drain(..piece).collect();
            conn.welcome |= bytes.contains(&b'\n');
            self.moved += 1;
            if let Some(link) = self.links.get_mut(&conn.id)
                && link.read(bytes.len(), &mut conn.session.answers, now.0)
            {
                self.silent[conn.node] = false;
            }
            if self.rng.one_in(2) {
                self.buffer.space()[..piece].copy_from_slice(&bytes);
                self.core.upstream_read(conn.id, &mut self.buffer, piece, now);
                if conn.from_node.is_empty() {
                    self.core.upstream_drained();
                }
            } else {
                self.core.upstream_input(conn.id, &bytes, now);
            }
        }
        self.carry_out();
    }

    // === faults ===

    fn fault(&mut self, node: usize) {
        self.facts.last_fault[node] = Some(self.facts.now);
        self.recovering[node] = true;
    }

    /// A node is sure to answer again once all its connections have proved themselves.
    fn watch_recovery(&mut self) {
        for node in 0..self.up.len() {
            if self.recovering[node] {
                self.fault(node);
                self.recovering[node] = self.is_unproven(node);
            }
            if self.joining[node] {
                self.facts.last_join[node] = Some(self.facts.now);
                self.joining[node] = self.is_unproven(node);
            }
        }
    }

    fn is_unproven(&self, node: usize) -> bool {
        let of_node = |id: UpstreamId, n: usize| n == node && self.core.has_upstream(id);
        let connecting = self.timers.iter().any(|(_, timer)| match timer {
            Timer::Connect(id, n) | Timer::Fail(id, n, _) => of_node(*id, *n),
            Timer::Tick => false,
        });
        let mut conns = self.conns.iter().filter(|c| of_node(c.id, c.node));
        // After an outage one answer is not enough.
        let probed = self.state(node) >= NodeState::Probing;
        connecting || probed || conns.any(|c| !c.welcome || c.spoilt)
    }

    // === the ring ===

    /// The nodes of the ring.
    fn members(&self) -> BTreeSet<usize> {
        self.facts.rings.last().unwrap().nodes().iter().map(|node| number_of(&node.name)).collect()
    }

    /// The ring changes: nodes leave, join, come back, change places or weights; or nothing changes.
    fn turn(&mut self) {
        let before = self.members();
        let old = self.facts.rings.last().unwrap().nodes();
        let mut list: Vec<(usize, u32)> = old.iter().map(|node| (number_of(&node.name), node.weight)).collect();
        let others: Vec<usize> = (0..self.up.len()).filter(|node| !before.contains(node)).collect();
        match self.rng.below(10) {
            0..4 if list.len() > 1 => drop(list.remove(self.rng.below(list.len()))),
            0..8 if !others.is_empty() => {
                let place = self.rng.below(list.len() + 1);
                list.insert(place, (others[self.rng.below(others.len())], 1));
            }
            // One takes the place of all.
            8 if !others.is_empty() => list = vec![(others[self.rng.below(others.len())], 1)],
            9 => {
                let place = self.rng.below(list.len());
                list[place].1 = 1 + self.rng.below(3) as u32;
            }
            _ => {
                let by = self.rng.below(list.len());
                list.rotate_left(by);
            }
        }
        self.facts.rings.push(ring(self.facts.rings.len() as u64 + 1, &self.placement, &list));
        for node in self.members().difference(&before) {
            self.joining[*node] = true;
            // Its connections fail, or the core remembers that they did.
            if !self.up[*node] || self.links.values().any(|link| link.node == *node) && self.recovering[*node] {
                self.fault(*node);
            }
        }
        let now = self.now();
        self.core.set_topology(Arc::clone(self.facts.rings.last().unwrap()), now);
        self.carry_out();
    }

    fn storm(&mut self) {
        let node = self.rng.below(self.up.len());
        match self.rng.below(6) {
            0 | 1 => {
                self.up[node] = !self.up[node];
                self.fault(node);
                if !self.up[node] {
                    if self.rng.one_in(2) {
                        self.facts.nodes[node].wipe();
                    }
                    while let Some(i) = self.conns.iter().position(|c| c.node == node) {
                        self.lose(i);
                    }
                }
            }
            2 | 3 => self.some_conn(Self::lose),
            4 => self.some_conn(|world, i| {
                let conn = &mut world.conns[i];
                if conn.closed {
                    return;
                }
                // Whatever stands at the head, this is not its answer.
                let nonsense: &[u8] = match world.rng.below(3) {
                    0 => b"VALUE nobody.asked.this 0 3\r\nxyz\r\n",
                    1 => b"GARBAGE\r\n",
                    _ => b"STORED \r\n",
                };
                conn.from_node.extend(nonsense);
                conn.spoilt = true;
                if let Some(link) = world.links.get_mut(&conn.id) {
                    link.spoil();
                }
                world.injected += 1;
                let node = conn.node;
                world.fault(node);
            }),
            // A long quiet time: everything recovers, and must be exact again.
            _ => {
                self.up.fill(true);
                self.moods.fill(Mood::default());
                self.lose_the_deaf();
                for _ in 0..100 {
                    self.facts.now += 300_000;
                    self.round();
                }
            }
        }
    }

    /// A node becomes slow in some way, for a while.
    fn change_mood(&mut self) {
        let node = self.rng.below(self.up.len());
        let most = [30_000, 1_000_000, 8_000_000][self.rng.below(3)];
        let until = self.facts.now + self.rng.below(most) as u64;
        let mood = &mut self.moods[node];
        match self.rng.below(if self.hasty { 7 } else { 6 }) {
            0 | 1 => mood.stalls = until,
            2 | 3 => mood.shuts = until,
            4 => mood.drips = until,
            5 => *mood = Mood { stalls: until, shuts: until, drips: 0 },
            // Only a clock ever ends such a connection.
            _ => self.some_conn(|world, i| world.conns[i].deaf = true),
        }
    }

    fn lose_the_deaf(&mut self) -> bool {
        let deaf = self.conns.iter().filter(|c| c.deaf).count();
        for _ in 0..deaf {
            let next = self.conns.iter().position(|c| c.deaf);
            next.into_iter().for_each(|i| self.lose(i));
        }
        deaf > 0
    }

    fn lose(&mut self, i: usize) {
        let conn = self.conns.swap_remove(i);
        self.fault(conn.node);
        if !conn.closed {
            self.core.upstream_failed(conn.id, FailReason::Closed, self.now());
            self.carry_out();
        }
    }

    // === the end ===

    /// Lets everything happen that can: nodes come back, clients read, bytes arrive.
    fn calm_down(&mut self) {
        self.up.fill(true);
        self.moods.fill(Mood::default());
        self.calm = true;
        for conn in &mut self.conns {
            conn.room = conn.room.max(300_000);
        }
        for client in &mut self.clients {
            client.room = client.room.max(300_000);
        }
        let mut quiet = 0;
        for round in 0.. {
            assert!(round < 200_000, "never comes to rest: {} {:?} {}", self.facts.now, self.timers, self.describe());
            for client in &mut self.clients {
                client.reads = true;
            }
            let before = self.moved;
            self.round();
            quiet = if self.moved == before { quiet + 1 } else { 0 };
            if quiet > 20 {
                // What a coin left for later is done; the next thing to happen is a timer.
                let Some(next) = self.timers.iter().map(|(at, _)| *at).min() else {
                    if self.lose_the_deaf() {
                        continue;
                    }
                    break;
                };
                self.facts.now = self.facts.now.max(next);
                quiet = 0;
            }
        }
    }

    /// Every node is silent for good, or drips: whoever asked is answered all the same, whatever it waits for.
    fn check_that_silence_is_answered(&mut self) {
        self.moods.fill(match self.rng.below(3) {
            0 => Mood { stalls: u64::MAX, shuts: u64::MAX, drips: 0 },
            1 => Mood { stalls: u64::MAX, shuts: 0, drips: 0 },
            _ => Mood { stalls: 0, shuts: 0, drips: u64::MAX },
        });
        let is_owed = |world: &Self| {
            // Who only stores and asks for no answer is slowed down for as long as a node takes nothing.
            let is_owed = |client: &&Client| client.owed() + if client.loads { 0 } else { client.outbox.len() } > 0;
            let mut owed = world.clients.iter().filter(is_owed).filter(|client| !client.is_cut());
            owed.next().map(Client::describe)
        };
        for client in &mut self.clients {
            client.room = client.room.max(300_000);
        }
        // What is taken, if anything, is taken at a good pace.
        self.calm = true;
        for conn in &mut self.conns {
            conn.room = conn.room.max(300_000);
        }
        let end = self.facts.now + 120_000_000;
        // Who asked for much is told of one after the other, and what drips in short replies moves.
        let last = end + 480_000_000;
        let mut blocked_at = HashMap::new();
        while self.facts.now < end || self.facts.now < last && is_owed(self).is_some() {
            // The kernel gives up a connection whose bytes nobody acknowledges.
            let now = self.facts.now;
            blocked_at.retain(|id, _| self.conns.iter().any(|conn| conn.id == *id && conn.blocked));
            for conn in self.conns.iter().filter(|conn| conn.blocked) {
                blocked_at.entry(conn.id).or_insert(now);
            }
            let given_up = |conn: &Conn| blocked_at.get(&conn.id).is_some_and(|at| at + KERNEL_PATIENCE <= now);
            while let Some(i) = self.conns.iter().position(given_up) {
                self.lose(i);
            }
            for client in &mut self.clients {
                client.reads = true;
            }
            self.facts.now += 50_000;
            self.round();
        }
        if let Some(client) = is_owed(self) {
            panic!("not answered: {client}\n{}", self.describe());
        }
    }

    /// Everything that is due, once.
    fn round(&mut self) {
        self.facts.now += 500;
        self.run_timers();
        self.flush();
        self.unblock();
        let conns: Vec<UpstreamId> = self.conns.iter().map(|c| c.id).collect();
        for id in conns {
            if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                self.run_node(i);
            }
            if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                self.read_conn(i);
            }
        }
        let clients: Vec<ClientId> = self.clients.iter().map(|c| c.id).collect();
        for id in clients {
            if let Some(i) = self.clients.iter().position(|c| c.id == id) {
                self.read_client(i);
            }
            if let Some(i) = self.clients.iter().position(|c| c.id == id) {
                self.client_takes(i);
            }
        }
        self.watch_recovery();
    }

    fn describe(&self) -> String {
        let conns = self.conns.iter().map(|c| {
            format!(
                "{:?}: node {}, {} bytes to it, {} from it, blocked {} parked {} closed {} deaf {}\n",
                c.id,
                c.node,
                c.to_node.len(),
                c.from_node.len(),
                c.blocked,
                c.parked,
                c.closed,
                c.deaf
            )
        });
        conns.chain([self.core.describe()]).collect()
    }

    fn check_nothing_is_owed(&mut self) {
        for client in &self.clients {
            let left = client.outbox.len() + client.owed() + client.kernel.len();
            assert_eq!(left, 0, "stuck: {}\n{}", client.describe(), self.describe());
            let must_end = client.ended || client.ending == Ending::Quits && client.left == 0;
            assert!(!must_end, "not closed: {}", client.describe());
        }
        let failed = |reason| !matches!(reason, Reason::Memory | Reason::NodeError);
        if !self.stormy && self.cells.soft_sum(|_, reason| failed(reason)) == 0 {
            let lost = |serial: &&u64| !self.facts.reached.contains(serial);
            let lost = self.facts.loaded.iter().filter(lost).count();
            let counted = Reason::ALL.map(|reason| (reason, self.cells.soft_sum(|_, other| other == reason)));
            assert_eq!(lost, 0, "lost, though their nodes were up: {counted:?}");
        }
        let desyncs = self.cells.sum(|c| &c.desyncs);
        assert!(desyncs <= self.injected, "{desyncs} desyncs, {} injected", self.injected);
        let connected = self.conns.iter().filter(|c| !c.closed).count();
        assert_eq!(connected, self.members().len() * self.lanes, "connections at rest");
        for node in self.members() {
            assert_eq!(self.state(node), NodeState::Up, "node {node} at rest");
            assert!(!self.recovering[node], "node {node} is not fully connected at rest");
        }
        let linked: BTreeSet<usize> = self.links.values().map(|link| link.node).collect();
        assert_eq!(linked, self.members(), "a connection to a node that has left");
        assert_eq!(self.links.len(), connected);
        assert_eq!(self.cells.sum(|c| &c.connections), self.clients.len() as u64);
        self.flush();
        assert!(!self.core.is_dirty());
    }

    /// Everybody leaves: no memory is held for anybody any more.
    fn check_nothing_is_left(&mut self) {
        let counted = self.cells.soft_sum(|_, reason| matches!(reason, Reason::Memory | Reason::Queue));
        let unexplained = self.facts.without_room;
        assert!(unexplained <= counted, "{unexplained} without a reason, {counted} for want of room");
        for client in std::mem::take(&mut self.clients) {
            self.core.client_gone(client.id);
        }
        self.carry_out();
        assert_eq!(self.cells.sum(|c| &c.buffered), 0, "memory that nobody holds");
    }

    /// Every node serves on every lane; and no bulk lane was lost on the way: as many large values
    /// pass as ever.
    fn check_that_all_nodes_serve(&mut self) {
        for node in &mut self.facts.nodes {
            node.hiccup = 0;
        }
        self.stormy = false;
        // What has been forgiven so far is not forgiven any more.
        self.facts.now += 1;
        self.probe(10, self.lanes);
        if self.cells.sum(|c| &c.bulk_transfers) > 0 {
            self.probe(self.facts.bulk_above + 10, 1);
        }
    }

    /// Stores and reads a value of a size on every node, by so many clients.
    fn probe(&mut self, size: usize, clients: usize) {
        let ring = Arc::clone(self.facts.rings.last().unwrap());
        for node in self.members() {
            for _ in 0..clients {
                let id = self.core.client_connected();
                self.next_client += 1;
                let mut client = Client::new(id, self.next_client, &mut self.rng);
                client.ending = Ending::Stays;
                client.left = 0;
                client.probe(&ring, node, size, &mut self.facts);
                self.clients.push(client);
            }
        }
        self.calm_down();
        self.check_nothing_is_owed();
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
