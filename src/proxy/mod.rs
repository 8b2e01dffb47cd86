//! The core: bytes and a time in, bytes out. No socket, clock, await or unsafe.
//!
//! The rim (`worker.rs`) feeds [`Core::client_input`] and [`Core::upstream_input`], writes what the
//! queues hold and carries out the [`Effect`]s. Everything between is plain `&mut` data, so the
//! whole proxy can be measured, simulated and fuzzed without a socket.
//!
//! # The way of a request
//! `client.rs` cuts a client's bytes into requests, routes each and puts it on a lane: a line in the
//! lane's sending queue and an entry in its FIFO. `upstream.rs` cuts a node's bytes into replies and
//! gives each to the entry at the FIFO's head. `replies.rs` keeps a client's replies in order.
//! `group.rs` is a merged get, `gather.rs` a fan-out, `bulk.rs` what is different about values above
//! 1 MiB.
//!
//! # Invariants
//! A to G of the design; [`Core::check_invariants`] checks what can be checked from the data.

mod budget;
mod buffer;
mod bulk;
mod client;
mod clocks;
mod failure;
mod fifo;
mod gather;
mod group;
mod health;
mod invariants;
mod lane;
mod nodes;
mod replies;
mod requests;
mod slow;
pub mod stats;
mod table;
mod upstream;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use buffer::{MAX_SLICES, OutBuf};
pub use failure::FailReason;
pub use table::Key;

use crate::config::OnNodeDown;
pub use crate::metrics::CloseReason;
use crate::metrics::{Cells, WorkerCells, hot};
use crate::routing::Topology;
use budget::Budget;
use buffer::BufferPool;
use client::Client;
use group::Group;
use lane::Upstream;
use nodes::NodeEntry;
use table::Table;

/// A client connection; finds nothing once the client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(Key);

/// An upstream connection; finds nothing once it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(Key);

/// A node, also one that has left the ring and still has requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeId(Key);

impl NodeId {
    const NONE: Self = Self(Key::NONE);
}

impl ClientId {
    /// Small and unique among the living: the rim's index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.index()
    }
}

impl UpstreamId {
    /// Small and unique among the living: the rim's index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.index()
    }
}

/// Microseconds since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// This moment and a while.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// What the core cannot do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read from this client again.
    WakeClient(ClientId),
    /// Read from this node again.
    WakeUpstream(UpstreamId),
    /// Connect to [`Core::upstream_node`] after a wait, and again if that is at another address
    /// meanwhile, then call [`Core::upstream_connected`] or [`Core::upstream_failed`].
    Connect(UpstreamId, Duration),
    /// Call [`Core::tick`] after this while, and again when it says. Asked for only while nobody
    /// does.
    Tick(Duration),
    /// Close this upstream connection; the core has forgotten it.
    CloseUpstream(UpstreamId),
    /// Close this client connection; the core has forgotten it. The client may still be sending: a
    /// close with unread input would reset the connection and could destroy the last answer on its
    /// way, so the rim sends our end and drops what comes for a moment.
    CloseClient(ClientId),
    /// Close this client connection by a reset; the core has forgotten it. What the kernel still holds
    /// for it is freed.
    ResetClient(ClientId),
}

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Largest value, in bytes, that is forwarded.
    pub max_value: usize,
    /// Larger values, in bytes, are streamed on connections of their own; at most 1 MiB.
    pub bulk_above: usize,
    /// Longest silence of a node that has left the ring before what it still owes is given up.
    pub drain_timeout: Duration,
    /// Longest silence of a node that owes a reply.
    pub request_timeout: Duration,
    /// Longest wait of a request that its lane does not take.
    pub queue_timeout: Duration,
    /// Most bytes for everything that waits, all workers together.
    pub buffer_limit: usize,
    /// Shared connections per node, at least 1.
    pub lanes: usize,
    /// Refuse `flush_all`.
    pub deny_flush_all: bool,
    /// Concurrent single gets of one round travel as one multi-key get.
    pub merge_gets: bool,
    /// See [`OnNodeDown`].
    pub on_node_down: OnNodeDown,
    /// Unix time, in seconds, at [`Tick`] 0.
    pub started_at: u64,
    /// Count which keys are asked for most.
    pub hot_keys: bool,
    /// Tell keys as they are, not by their hash.
    pub log_keys: bool,
    /// The placement asks for keys, not for their hash: samples keep them.
    pub placed_by_key: bool,
    /// Requests that take at least so long are counted and told of; nothing for none.
    pub slow_request: Option<Duration>,
    /// Shown by `stats`.
    pub pid: u32,
    /// Most client connections of the process; shown by `stats`.
    pub max_connections: usize,
    /// User and system CPU time of the process so far; asked for by `stats` alone.
    pub cpu_time: fn() -> (Duration, Duration),
    /// Seed of the reconnect jitter.
    pub seed: u64,
}

impl Settings {
    /// How often what is not an event is looked at, while there is something to look at: often enough
    /// for a clock to be late by little, rarely enough to cost nothing.
    fn period(&self) -> Duration {
        (self.request_timeout.min(self.queue_timeout) / 8).clamp(Duration::from_millis(2), Duration::from_millis(100))
    }
}

impl Default for Settings {
    /// What the options are when nobody says anything.
    fn default() -> Self {
        Self {
            max_value: 128 << 20,
            bulk_above: 1 << 20,
            drain_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_millis(500),
            queue_timeout: Duration::from_millis(250),
            buffer_limit: 64 << 20,
            lanes: 1,
            deny_flush_all: false,
            merge_gets: true,
            on_node_down: OnNodeDown::Miss,
            started_at: 0,
            hot_keys: true,
            log_keys: false,
            placed_by_key: false,
            slow_request: Some(Duration::from_millis(100)),
            pid: 1,
            max_connections: 4096,
            cpu_time: || (Duration::ZERO, Duration::ZERO),
            seed: 1,
        }
    }
}

/// What every part of the core may touch besides the connection at hand.
#[derive(Debug)]
struct Shared {
    pool: BufferPool,
    #[expect(clippy::vec_box, reason = "entries move through the FIFOs: a box keeps them small")]
    groups: Vec<Box<Group>>,
    /// The line under construction.
    line: Vec<u8>,
    /// The members a value goes to.
    askers: Vec<usize>,
    dirty_clients: Vec<ClientId>,
    dirty_upstreams: Vec<UpstreamId>,
    effects: Vec<Effect>,
    /// Clients whose reason to wait is gone, in the order it went.
    resume: VecDeque<ClientId>,
    /// Clients to be closed: drained, or doomed.
    finished: Vec<(ClientId, CloseReason)>,
    budget: Budget,
    cells: Arc<Cells>,
    worker: usize,
    now: Tick,
    settings: Settings,
    /// So many keys come before the next one that is sampled.
    unsampled: u32,
    /// When a slow request of each kind was last told of.
    slow_told: [Tick; 6],
    /// How many lanes are at their limit.
    full_lanes: usize,
    /// When the next tick is due.
    due: Tick,
    /// The last tick came so late that it blamed nobody.
    frozen: bool,
    /// The rim will call [`Core::tick`] without being asked again.
    ticking: bool,
    /// Clients whose large read has become the head of its replies: they may wait for a bulk lane.
    bulk_ready: VecDeque<ClientId>,
    random: u64,
}

impl Shared {
    fn cells(&self) -> &WorkerCells {
        self.cells.worker(self.worker)
    }

    /// Whether reads that cannot be answered are misses; else errors.
    fn misses(&self) -> bool {
        self.settings.on_node_down == OnNodeDown::Miss
    }

    /// A step of xorshift: jitter needs no better, and a simulation replays it.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Looks at one key in [`hot::EVERY`].
    #[inline]
    fn sample(&mut self, key: &[u8], hash: u64) {
        match self.unsampled.checked_sub(1) {
            Some(left) => self.unsampled = left,
            None => self.take_sample(key, hash),
        }
    }

    /// How many keys come before the next is random: else a client's own rhythm would choose.
    #[cold]
    fn take_sample(&mut self, key: &[u8], hash: u64) {
        let skip = u32::try_from(self.random() % u64::from(2 * hot::EVERY - 1)).unwrap_or_default();
        self.unsampled = if self.settings.hot_keys { skip } else { u32::MAX };
        if self.settings.hot_keys {
            let keeps = self.settings.log_keys || self.settings.placed_by_key;
            self.cells().sampled(hash, keeps.then_some(key), self.now);
        }
    }

    /// Asks for ticks, unless they come anyway.
    #[inline]
    fn ask_for_tick(&mut self) {
        if !self.ticking {
            self.ticking = true;
            self.due = self.now.after(self.settings.period());
            self.effects.push(Effect::Tick(self.settings.period()));
        }
    }

    fn group(&mut self) -> Box<Group> {
        self.groups.pop().unwrap_or_else(|| Box::new(Group::new()))
    }

    fn put_group(&mut self, group: Box<Group>) {
        if self.groups.len() < 64 {
            self.groups.push(group);
        }
    }
}

/// One worker's proxy.
#[derive(Debug)]
pub struct Core {
    topology: Arc<Topology>,
    nodes: Table<NodeEntry>,
    /// The nodes in the order of the topology's.
    ring: Vec<NodeId>,
    clients: Table<Client>,
    upstreams: Table<Upstream>,
    shared: Shared,
    next_lane: usize,
}

impl Core {
    /// A core that has no connection yet; the first effects ask for the lanes of each node.
    #[must_use]
    pub fn new(topology: Arc<Topology>, settings: Settings, cells: Arc<Cells>, worker: usize) -> Self {
        let shared = Shared {
            pool: BufferPool::default(),
            groups: Vec::new(),
            line: Vec::new(),
            askers: Vec::new(),
            dirty_clients: Vec::new(),
            dirty_upstreams: Vec::new(),
            effects: Vec::new(),
            resume: VecDeque::new(),
            finished: Vec::new(),
            budget: Budget::new(settings.buffer_limit),
            cells,
            worker,
            now: Tick(0),
            settings,
            unsampled: 0,
            slow_told: [Tick(0); 6],
            full_lanes: 0,
            due: Tick(0),
            frozen: false,
            ticking: false,
            bulk_ready: VecDeque::new(),
            random: settings.seed | 1,
        };
        let mut core = Self {
            topology,
            nodes: Table::new(),
            ring: Vec::new(),
            clients: Table::new(),
            upstreams: Table::new(),
            shared,
            next_lane: 0,
        };
        core.join_nodes();
        core
    }

    /// Moves the effects asked for since the last call to `into`.
    pub fn take_effects(&mut self, into: &mut Vec<Effect>) {
        into.append(&mut self.shared.effects);
    }

    /// Whether [`Core::take_effects`] would give something.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.shared.effects.is_empty()
    }

    /// Whether some socket has something to be written.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.shared.dirty_clients.is_empty() || !self.shared.dirty_upstreams.is_empty()
    }

    /// Moves the sockets that have something to be written to the given lists.
    pub fn take_dirty(&mut self, clients: &mut Vec<ClientId>, upstreams: &mut Vec<UpstreamId>) {
        clients.append(&mut self.shared.dirty_clients);
        upstreams.append(&mut self.shared.dirty_upstreams);
    }

    /// Gives the emptied lists back, so that the next round allocates none.
    pub fn reuse_dirty(&mut self, clients: Vec<ClientId>, upstreams: Vec<UpstreamId>) {
        if self.shared.dirty_clients.capacity() == 0 {
            self.shared.dirty_clients = clients;
        }
        if self.shared.dirty_upstreams.capacity() == 0 {
            self.shared.dirty_upstreams = upstreams;
        }
    }

    /// Does what is due. Returns when to call again, while there is anything to wait for.
    pub fn tick(&mut self, now: Tick) -> Option<Tick> {
        self.shared.now = now;
        let waiting = self.check_clocks() | self.check_memory() | self.close_idle_bulk() | self.close_silent();
        self.show_lanes();
        self.finish_round();
        self.shared.ticking = waiting;
        self.shared.due = now.after(self.shared.settings.period());
        waiting.then_some(self.shared.due)
    }

    /// Ends every public step: resumes clients whose turn has come, forgets those that are done.
    fn finish_round(&mut self) {
        loop {
            if let Some(id) = self.shared.bulk_ready.pop_front() {
                self.queue_bulk_read(id);
            } else if let Some(id) = self.shared.resume.pop_front() {
                self.resume_client(id);
            } else if let Some((id, reason)) = self.shared.finished.pop() {
                self.close_client(id, reason);
            } else {
                break;
            }
        }
        self.shared.tell_budget();
        #[cfg(debug_assertions)]
        self.check_invariants();
    }
}
