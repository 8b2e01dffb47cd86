//! What the workers count.
//!
//! Each worker owns one block of cells and is the only one to write it, so counting is a plain load
//! and store; readers sum the blocks. Counters never go backwards while the process lives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::protocol::command::Command;

/// A number written by one thread and read by any.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: it is a load and a store.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away (gauges only); the owning worker only.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets a gauge; the owning worker only.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts nothing.
static NONE: Counter = Counter(AtomicU64::new(0));

/// Why something was answered without its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No ring is known yet.
    NoRing,
    /// The node is down.
    Down,
    /// The connection could not be made.
    Connect,
    /// The connection was lost.
    Lost,
    /// The node did not answer in time.
    Timeout,
    /// The node's connection did not take the request in time; it was not sent.
    Queue,
    /// The node answered out of step.
    Desync,
    /// The node answered an error to a read of several clients or nodes.
    NodeError,
    /// There was no memory for the value.
    Memory,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::NoRing,
        Self::Down,
        Self::Connect,
        Self::Lost,
        Self::Timeout,
        Self::Queue,
        Self::Desync,
        Self::NodeError,
        Self::Memory,
    ];
}

/// Why a client connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client was done: it sent its end, or `quit`.
    Done,
    /// The connection broke.
    Reset,
    /// The extent of what the client sent cannot be known.
    Protocol,
    /// It did not read its replies.
    NotReading,
    /// It began a body and did not go on.
    BodyStalled,
    /// A value that had begun could not be completed.
    ValueLost,
}

impl CloseReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Reset, Self::Protocol, Self::NotReading, Self::BodyStalled, Self::ValueLost];
}

/// How a worker sees a node. The node's reported state is the worst of the workers'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Answers.
    Up,
    /// The first connection is on its way; requests wait for it.
    #[default]
    Connecting,
    /// It has answered once since it was down; requests are still answered by the proxy.
    Probing,
    /// Requests are answered by the proxy until it has answered twice.
    Down,
}

impl NodeState {
    /// The word shown to people and programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Connecting => "connecting",
            Self::Probing => "probing",
            Self::Down => "down",
        }
    }
}

/// One worker's cells. Units: bytes where the name says so, else events.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each name is its meaning; the metrics issue adds the table of help texts")]
pub struct WorkerCells {
    pub connections: Counter,
    pub connections_total: Counter,
    pub bytes_read: Counter,
    pub bytes_written: Counter,
    /// Keys asked for by `get`, `gets`, `gat` and `gats`.
    pub get_keys: Counter,
    pub get_hits: Counter,
    pub get_misses: Counter,
    pub stores: Counter,
    /// Storage requests refused here because of their size.
    pub stores_too_large: Counter,
    pub touches: Counter,
    pub touch_hits: Counter,
    pub touch_misses: Counter,
    pub delete_hits: Counter,
    pub delete_misses: Counter,
    pub incr_hits: Counter,
    pub incr_misses: Counter,
    pub decr_hits: Counter,
    pub decr_misses: Counter,
    pub cas_hits: Counter,
    pub cas_misses: Counter,
    pub cas_mismatches: Counter,
    pub flushes: Counter,
    /// Replies swallowed because nobody waits for them (`noreply`, clients gone).
    pub dropped_replies: Counter,
    /// Upstream connections closed because they were out of step.
    pub desyncs: Counter,
    /// Upstream connections that failed otherwise.
    pub upstream_failures: Counter,
    /// Times that a node owed a reply and was silent for a request time-out.
    pub upstream_timeouts: Counter,
    /// Reads asked again because their connection was lost before a byte of the reply had come.
    pub retries: Counter,
    /// Keys that travelled in a group of more than one client.
    pub merged_keys: Counter,
    /// Keys given to a client from another client's request of the same round.
    pub coalesced_keys: Counter,
    /// Requests and replies that used a bulk lane.
    pub bulk_transfers: Counter,
    /// Bytes that wait in this worker; a gauge.
    pub buffered: Counter,
    /// Times that a client's body had to wait for memory.
    pub memory_waits: Counter,
    /// Closed client connections, by reason.
    closed: [Counter; CloseReason::ALL.len()],
    /// What was answered without its node, by command and reason; keys of reads, else requests.
    soft: [[Counter; Reason::ALL.len()]; Command::ALL.len()],
    /// How this worker sees the nodes, by name. Locked when a node's state changes, and to report it.
    nodes: Mutex<HashMap<Arc<str>, NodeState>>,
}

impl WorkerCells {
    fn nodes(&self) -> MutexGuard<'_, HashMap<Arc<str>, NodeState>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what is answered without its node.
    pub fn soft(&self, command: Command, reason: Reason, n: u64) {
        if let Some(counter) = self.soft.get(command as usize).and_then(|row| row.get(reason as usize)) {
            counter.add(n);
        }
    }

    /// Counts a client connection that is closed.
    pub fn closed(&self, reason: CloseReason) {
        if let Some(counter) = self.closed.get(reason as usize) {
            counter.add(1);
        }
    }

    /// Publishes a node's state.
    pub fn set_node(&self, name: &Arc<str>, state: NodeState) {
        self.nodes().insert(Arc::clone(name), state);
    }

    /// The node is in no ring and has no connection any more.
    pub fn forget_node(&self, name: &str) {
        self.nodes().remove(name);
    }
}

/// The cells of all workers.
#[derive(Debug)]
pub struct Cells {
    workers: Box<[WorkerCells]>,
    /// Told when a worker sees a node in another state.
    pub node_changed: Notify,
    /// Client connections refused at the limit; written by the acceptor alone.
    pub rejected: Counter,
}

impl Cells {
    /// Cells for so many workers, at least one.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let workers = (0..workers.max(1)).map(|_| WorkerCells::default()).collect();
        Self { workers, node_changed: Notify::new(), rejected: Counter::default() }
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The cells of one worker; the last one's for an index out of range.
    ///
    /// # Panics
    /// Never: there is at least one worker.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "the index is capped and there is at least one block")]
    pub fn worker(&self, index: usize) -> &WorkerCells {
        &self.workers[index.min(self.workers.len() - 1)]
    }

    /// The sum of one counter over the workers.
    pub fn sum(&self, counter: impl Fn(&WorkerCells) -> &Counter) -> u64 {
        self.workers.iter().map(|cells| counter(cells).get()).sum()
    }

    /// Client connections closed for a reason.
    pub fn closed_sum(&self, reason: CloseReason) -> u64 {
        self.sum(|cells| cells.closed.get(reason as usize).unwrap_or(&NONE))
    }

    /// What was answered without its node, so far as command and reason are wanted.
    pub fn soft_sum(&self, wanted: impl Fn(Command, Reason) -> bool) -> u64 {
        let all = Command::ALL.into_iter().flat_map(|command| Reason::ALL.map(|reason| (command, reason)));
        let counted = |(command, reason): (Command, Reason)| {
            self.sum(|cells| cells.soft.get(command as usize).and_then(|row| row.get(reason as usize)).unwrap_or(&NONE))
        };
        all.filter(|(command, reason)| wanted(*command, *reason)).map(counted).sum()
    }

    /// The worst state any worker sees a node in.
    #[must_use]
    pub fn node_state(&self, name: &str) -> NodeState {
        self.workers.iter().filter_map(|cells| cells.nodes().get(name).copied()).max().unwrap_or_default()
    }
}
