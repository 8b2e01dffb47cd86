//! What the workers count, and how it is shown.
//!
//! Each worker owns one block of cells and is the only one to write it, so counting is a plain load
//! and store; readers sum the blocks. Counters never go backwards while the process lives.

mod cause;
mod collector;
mod counter;
pub mod history;
pub mod hot;
mod labels;
mod table;
mod unsecured;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::protocol::command::Command;
use crate::time::Tick;
use counter::NONE;
use history::{History, HistoryReport, Totals};
use hot::{HotKeys, Sketch};

pub use cause::{Cause, Span};
pub use collector::{BeforeNumbers, Exposition, Sources};
pub use counter::{Counter, DURATIONS, Histogram, SIZES};
pub use labels::{CloseReason, Kind, NodeOutcome, NodeState, Outcome, Reason, Wait};
pub use table::metric_table;
pub use unsecured::{TlsNumbers, Unsecured};

/// A node that leaves is forgotten at once where so many are known.
const MOST_KNOWN: usize = 256;

/// A node that was out of step is in step again when it has not been for so long.
const DESYNC_ENDS: Duration = Duration::from_secs(60);

/// What one worker counts of one node. Units: bytes where the name says so, else events.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each name is its meaning; table.rs has the help texts")]
pub struct NodeCells {
    state: Counter,
    /// Why the last connection to it failed. Locked when one fails, and to report.
    cause: Mutex<Option<Cause>>,
    /// Requests by [`NodeOutcome`].
    pub requests: [Counter; 4],
    pub hits: Counter,
    pub misses: Counter,
    /// Keys of requests that neither hit nor miss.
    pub others: Counter,
    pub duration: Histogram<14>,
    /// Requests that wait for their reply; a gauge, of the last tick.
    pub inflight: Counter,
    /// Bytes that wait to be sent; a gauge, of the last tick.
    pub queued_bytes: Counter,
    /// Connections that are made, that are used, that only finish what is in flight; gauges.
    pub connections: [Counter; 3],
    /// Connections that were made, refused, not made in time.
    pub connects: [Counter; 3],
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub timeouts: Counter,
    pub desyncs: Counter,
    /// Outages by cause: time-outs, not connectable, lost, out of step, this process itself.
    pub ejections: [Counter; 5],
    /// Answered, failed.
    pub probes: [Counter; 2],
    /// 1 while it is in the ring before only, else 0; a gauge.
    pub only_before: Counter,
}

impl NodeCells {
    /// How the worker sees the node.
    #[must_use]
    pub fn state(&self) -> NodeState {
        NodeState::ALL.into_iter().find(|state| *state as u64 == self.state.get()).unwrap_or_default()
    }

    /// The node went down, by its place among [`Self::ejections`].
    pub fn ejected(&self, cause: usize) {
        if let Some(counter) = self.ejections.get(cause) {
            counter.add(1);
        }
    }

    /// Nothing waits for it, and there is no connection to it.
    pub fn rest(&self) {
        for gauge in [&self.inflight, &self.queued_bytes].into_iter().chain(&self.connections) {
            gauge.set(0);
        }
    }

    /// Publishes why a connection to it has failed. Call before [`Self::set_state`]: who sees the state sees the cause.
    /// Returns whether it is another cause than before.
    pub fn set_cause(&self, cause: Cause) -> bool {
        let mut last = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_ref() != Some(&cause);
        *last = Some(cause);
        is_new
    }

    /// Why the last connection to it failed, whatever came after that.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes how the worker sees the node.
    pub fn set_state(&self, state: NodeState) {
        self.state.set(state as u64);
    }
}

/// One worker's cells. Units: bytes where the name says so, else events.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each name is its meaning; table.rs has the help texts")]
pub struct WorkerCells {
    pub connections: Counter,
    pub connections_total: Counter,
    /// Packets of the binary protocol that were acted on.
    pub packets: Counter,
    /// Sockets of clients that were closed; a closed client's stays for a moment.
    pub sockets_closed: Counter,
    pub bytes_read: Counter,
    pub bytes_written: Counter,
    /// Closed client connections, by reason.
    closed: [Counter; CloseReason::ALL.len()],
    /// Commands as they were sent.
    commands: [Counter; Command::ALL.len()],
    /// Keys of reads, else requests, by command and outcome.
    requests: [[Counter; Outcome::ALL.len()]; Command::ALL.len()],
    /// From a request's last byte to its whole answer, by [`Kind`], in microseconds.
    durations: [Histogram<14>; 6],
    /// Keys per read.
    pub multigets: Histogram<10>,
    /// Storage requests refused because of their size, here or by their node.
    pub stores_too_large: Counter,
    /// Times that a client that had more to say was left for the others' turn.
    pub yields: Counter,
    /// Times that a client was not read, by [`Wait`].
    waits: [Counter; 5],
    /// What was answered without its node, by command and reason; keys of reads, else requests.
    soft: [[Counter; Reason::ALL.len()]; Command::ALL.len()],
    /// Requests in the queue to their node, in microseconds.
    pub queued: Histogram<14>,
    /// Replies swallowed because nobody waits for them (`noreply`, clients gone).
    pub dropped_replies: Counter,
    /// Outages of nodes, also of those that are gone.
    pub ejections: Counter,
    /// Upstream connections closed because they were out of step.
    pub desyncs: Counter,
    /// Reads asked again because their connection was lost before a byte of the reply had come.
    pub retries: Counter,
    /// Gets as they were sent to nodes, and the keys in them.
    pub groups: Counter,
    pub group_keys: Counter,
    /// Keys that travelled in a group of more than one client.
    pub merged_keys: Counter,
    /// Keys given to a client from another client's request of the same round.
    pub coalesced_keys: Counter,
    /// Requests and replies that used a bulk lane.
    pub bulk_transfers: Counter,
    /// Requests that took longer than `--slow-request`.
    pub slow_requests: Counter,
    /// Keys that were asked of their old place: found, not found, not answered.
    pub before_reads: [Counter; 3],
    /// Writes of keys that have an old place: done at both, lost at the old.
    pub before_writes: [Counter; 2],
    /// Old nodes from which nothing is read any more, by [`Reason`]; the last for `flush_all`.
    before_reads_ended: [Counter; Reason::ALL.len() + 1],
    /// Bytes that wait in this worker; a gauge.
    pub buffered: Counter,
    /// The keys asked for most. Locked for a sample, and to report.
    hot: Mutex<Sketch>,
    /// What is counted by node. Locked when a ring comes or a node goes, and to report; who counts has an `Arc` of it.
    nodes: Mutex<HashMap<Arc<str>, Arc<NodeCells>>>,
}

impl WorkerCells {
    fn nodes(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<NodeCells>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one key in [`hot::EVERY`]; `key` only where keys may be told. One that comes while the keys are reported
    /// is left out: the worker waits for nobody.
    pub fn sampled(&self, hash: u64, key: Option<&[u8]>, now: Tick) {
        if let Ok(mut sketch) = self.hot.try_lock() {
            sketch.add(hash, key, now);
        }
    }

    /// Counts a command that was sent.
    #[inline]
    pub fn command(&self, command: Command) {
        if let Some(counter) = self.commands.get(command as usize) {
            counter.add(1);
        }
    }

    /// Counts how `n` requests (keys of reads) ended.
    #[inline]
    pub fn request(&self, command: Command, outcome: Outcome, n: u64) {
        if let Some(counter) = self.requests.get(command as usize).and_then(|row| row.get(outcome as usize)) {
            counter.add(n);
        }
    }

    /// Counts how long a request took.
    #[inline]
    pub fn took(&self, kind: Kind, time: Duration) {
        if let Some(histogram) = self.durations.get(kind as usize) {
            histogram.record(micros(time), &DURATIONS);
        }
    }

    /// Counts what is answered without its node; `miss` says how.
    pub fn soft(&self, command: Command, reason: Reason, n: u64, miss: bool) {
        if let Some(counter) = self.soft.get(command as usize).and_then(|row| row.get(reason as usize)) {
            counter.add(n);
        }
        self.request(command, if miss { Outcome::SoftMiss } else { Outcome::SoftError }, n);
    }

    /// Counts that nothing is read any more from an old node; without a reason it was flushed.
    pub fn before_reads_ended(&self, reason: Option<Reason>) {
        let place = reason.map_or(Reason::ALL.len(), |reason| reason as usize);
        if let Some(counter) = self.before_reads_ended.get(place) {
            counter.add(1);
        }
    }

    /// Counts that a client is not read.
    pub fn waits(&self, wait: Wait) {
        if let Some(counter) = self.waits.get(wait as usize) {
            counter.add(1);
        }
    }

    /// Counts a client connection that is closed.
    pub fn closed(&self, reason: CloseReason) {
        if let Some(counter) = self.closed.get(reason as usize) {
            counter.add(1);
        }
    }

    /// The cells of a node; the same ones again as long as it is not forgotten.
    pub fn node(&self, name: &Arc<str>) -> Arc<NodeCells> {
        let fresh = || {
            let cells = NodeCells::default();
            cells.set_state(NodeState::default());
            Arc::new(cells)
        };
        Arc::clone(self.nodes().entry(Arc::clone(name)).or_insert_with(fresh))
    }

    /// The node is in no ring and has no connection any more. What it did is shown for a while: who
    /// shows it forgets it, unless there are too many.
    pub fn node_left(&self, name: &str) {
        let mut nodes = self.nodes();
        if nodes.len() > MOST_KNOWN {
            nodes.remove(name);
        } else if let Some(node) = nodes.get(name) {
            node.rest();
            // Should it come back, it begins anew.
            node.set_state(NodeState::default());
        }
    }

    /// Nothing is known of the node any more.
    fn forget_node(&self, name: &str) {
        self.nodes().remove(name);
    }
}

/// Whole microseconds.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The cells of all workers.
#[derive(Debug)]
pub struct Cells {
    workers: Box<[WorkerCells]>,
    /// Told when a worker sees a node in another state, or for another cause.
    pub node_changed: Notify,
    /// When a connection to a node was last out of step, by the node's name.
    desynced_at: Mutex<HashMap<Arc<str>, Tick>>,
    /// Client connections refused at the limit; written by the acceptor alone.
    pub rejected: Counter,
    /// Times that the source of nodes could not be read; written by who watches the nodes alone.
    pub source_failures: Counter,
    /// What the counters of `stats` were when they were last reset.
    before_reset: Mutex<Vec<u64>>,
    /// The last ten minutes. Locked at each tick of a worker, and to report.
    history: Mutex<History>,
}

impl Cells {
    /// Cells for so many workers, at least one.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let workers = (0..workers.max(1)).map(|_| WorkerCells::default()).collect();
        Self {
            workers,
            node_changed: Notify::new(),
            desynced_at: Mutex::default(),
            rejected: Counter::default(),
            source_failures: Counter::default(),
            before_reset: Mutex::default(),
            history: Mutex::default(),
        }
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

    /// Commands as they were sent.
    pub fn command_sum(&self, command: Command) -> u64 {
        self.sum(|cells| cells.commands.get(command as usize).unwrap_or(&NONE))
    }

    /// Requests (keys of reads) of some commands that ended in some ways.
    pub fn requests(&self, wanted: impl Fn(Command, Outcome) -> bool) -> u64 {
        let all = Command::ALL.into_iter().flat_map(|command| Outcome::ALL.map(|outcome| (command, outcome)));
        all.filter(|(command, outcome)| wanted(*command, *outcome)).map(|(c, o)| self.request_sum(c, o)).sum()
    }

    fn request_sum(&self, command: Command, outcome: Outcome) -> u64 {
        let of = |cells: &WorkerCells| cells.requests.get(command as usize)?.get(outcome as usize).map(Counter::get);
        self.workers.iter().filter_map(of).sum()
    }

    /// Old nodes from which nothing is read any more, by the label of the reason.
    pub fn before_reads_ended(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let words = Reason::ALL.map(Reason::word).into_iter().chain(["flush_all"]);
        let sum = |place: usize| self.sum(|cells| cells.before_reads_ended.get(place).unwrap_or(&NONE));
        words.enumerate().map(move |(place, word)| (word, sum(place)))
    }

    /// What was answered without its node, so far as command and reason are wanted.
    pub fn soft_sum(&self, wanted: impl Fn(Command, Reason) -> bool) -> u64 {
        let all = Command::ALL.into_iter().flat_map(|command| Reason::ALL.map(|reason| (command, reason)));
        let counted = |(command, reason): (Command, Reason)| {
            self.sum(|cells| cells.soft.get(command as usize).and_then(|row| row.get(reason as usize)).unwrap_or(&NONE))
        };
        all.filter(|(command, reason)| wanted(*command, *reason)).map(counted).sum()
    }

    /// The counters of `stats` begin anew: these are their values. What is counted here goes on.
    pub fn reset_at(&self, counted: Vec<u64>) {
        *self.before_reset.lock().unwrap_or_else(PoisonError::into_inner) = counted;
    }

    /// The last values given to [`Self::reset_at`].
    #[must_use]
    pub fn before_reset(&self) -> Vec<u64> {
        self.before_reset.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings the history up to date. Who comes while another does so leaves it out: a worker waits for nobody.
    pub fn update_history(&self, now: Tick) {
        if let Ok(mut history) = self.history.try_lock() {
            history.update(now, &Totals::of(self));
        }
    }

    /// The last ten minutes; `now` is `unix` seconds of Unix time.
    #[must_use]
    pub fn history(&self, now: Tick, unix: f64) -> HistoryReport {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.update(now, &Totals::of(self));
        history.report(now, unix)
    }

    /// The sum of one counter over the nodes that are not forgotten, all workers together.
    pub fn node_sum(&self, counter: impl Fn(&NodeCells) -> &Counter) -> u64 {
        let of = |cells: &WorkerCells| cells.nodes().values().map(|node| counter(node).get()).sum::<u64>();
        self.workers.iter().map(of).sum()
    }

    /// The keys asked for most, all workers together, told as they are with `told`; `owner` is the node of a hash and,
    /// where it was kept, its key.
    pub fn hot_keys<'a>(&'a self, now: Tick, told: bool, owner: impl Fn(u64, Option<&[u8]>) -> String) -> HotKeys {
        let locked = |cells: &'a WorkerCells| cells.hot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sketches: Vec<_> = self.workers.iter().map(locked).collect();
        hot::report(sketches.iter_mut().map(|sketch| &mut **sketch), now, told, owner)
    }

    /// The worst state any worker sees a node in.
    #[must_use]
    pub fn node_state(&self, name: &str) -> NodeState {
        // A worker that does not know it yet is about to connect.
        let of = |cells: &WorkerCells| cells.nodes().get(name).map(|node| node.state()).unwrap_or_default();
        self.workers.iter().map(of).max().unwrap_or_default()
    }

    /// Why a node is down, or lacks connections; nothing while it is up, or about to be. Of several workers' causes the
    /// first one's that sees it in the worst state: they see the same node.
    #[must_use]
    pub fn node_cause(&self, name: &str) -> Option<Cause> {
        let known = self.workers.iter().filter_map(|cells| cells.nodes().get(name).map(Arc::clone));
        let failing = known.filter(|node| node.state().has_cause()).collect::<Vec<_>>();
        let worst = failing.iter().map(|node| node.state()).max()?;
        failing.iter().filter(|node| node.state() == worst).find_map(|node| node.cause())
    }

    /// A connection to a node was out of step. Returns whether that begins anew: no worker has seen it there for a while.
    pub fn desync_begins(&self, name: &Arc<str>, now: Tick) -> bool {
        let mut last = self.desynced_at.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MOST_KNOWN {
            last.retain(|_, at| at.after(DESYNC_ENDS) > now);
        }
        last.insert(Arc::clone(name), now).is_none_or(|at| at.after(DESYNC_ENDS) <= now)
    }
}
