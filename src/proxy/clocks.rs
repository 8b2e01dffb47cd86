//! The clocks of requests, looked at by lane at each tick: no timer per request, no time per entry.
//!
//! Each tick leaves a mark at the lane: how many entries there were, and how many bytes had left.
//! What the mark of a time-out ago had seen has waited that long. A clock is late by at most two
//! ticks, never early.
//!
//! - *connect*: the rim's; what waits on the connection fails with it. A connection that asks whether a node still answers
//!   has it for its first answer, too.
//! - *queue*, of what is wholly unsent, while the lane moves nothing: it is cut out of the queue, for a
//!   `set` answered as failed must not be sent later. `noreply` has no such clock: nobody waits, and
//!   a bulk load is slowed down rather than lost. Where a node takes nothing any more, the kernel's
//!   clock on unacknowledged bytes ends the connection.
//! - *wire*, of what is wholly sent, while the lane makes no progress: it is answered, and stays as
//!   an orphan whose late reply is eaten in its turn.

use super::fail_reason::FailReason;
use super::failure::Failure;
use super::upstream::{Entry, Role};
use super::{Core, NodeId, UpstreamId};
use crate::metrics::{NodeOutcome, NodeState, Reason};

/// A lane that owes a reply and shows no byte is given up after so many time-outs.
const MAX_SILENT_TIMEOUTS: u32 = 3;
/// A lane whose replies drip, but never complete, is given up after so many time-outs.
const DRIPS: u32 = 10;

impl Core {
    /// Looks at the clocks of every lane. Returns whether something waits.
    pub(super) fn check_clocks(&mut self) -> bool {
        let lanes: Vec<UpstreamId> = self.upstreams.iter().map(|(key, _)| UpstreamId(key)).collect();
        for id in lanes {
            self.check_lane(id);
        }
        self.check_probes();
        self.send_probes();
        let lost = self.forget_lost_writes();
        let waits = lost || self.upstreams.iter().any(|(_, up)| !up.fifo.is_empty());
        waits || self.nodes.iter().any(|(_, entry)| entry.health.probe_at.is_some())
    }

    fn check_lane(&mut self, id: UpstreamId) {
        let (now, settings) = (self.shared.now, &self.shared.settings);
        let (request, queue) = (settings.request_timeout, settings.queue_timeout);
        let Some(up) = self.upstreams.get_mut(id.0) else { return };
        if !up.is_connected() || up.fifo.is_empty() || up.role == Role::Probe {
            up.clear_marks();
            return;
        }
        if up.is_binary && !up.is_greeted() {
            // Whether its node speaks like that is not known: nothing follows from its silence but that it does not.
            if up.last_read_at.max(up.last_write_at).after(settings.connect_timeout) <= now {
                self.fail_upstream(id, FailReason::Silent);
            }
            return;
        }
        let streams = match up.role {
            Role::Own { owner } => self.clients.get(owner.0).is_some_and(|client| client.streams_through(id)),
            _ => false,
        };
        let stuck = up.last_write_at.after(request) <= now;
        // Memcached says its version only when it has the whole body that came right behind the question.
        let withholds = streams && !up.is_greeted() && (up.out.is_empty() || !stuck);
        if up.paused || withholds {
            // We do not read it, or have not said all: its silence is ours.
            up.progress_at = now;
            up.last_read_at = now;
        }
        // Nobody joins what the mark has seen: who came later has not waited that long.
        up.close_group(&mut self.shared);
        let (wire, queued) = up.mark(now, request, queue);
        let still = up.progress_at.after(request) <= now;
        let silent = up.last_read_at.after(request) <= now;
        let expired = wire.map_or(0, |mark| up.sent_by(mark.sent, streams));
        let first_unsent = up.fifo.first_unsent(up.sent);
        let partly = first_unsent > 0 && up.end(first_unsent - 1, streams) > up.sent && !up.out.is_empty();
        // On an own lane nobody else is concerned. What has been sent in part can be neither cut out nor
        // left behind.
        let alone = expired > 0 && up.is_own();
        let drips = expired > 0 && !silent && up.progress_at.after(request * DRIPS) <= now;
        let hopeless = still && (!up.is_greeted() || alone || drips || (silent && partly && stuck));
        let is_silent_timeout = still && silent && expired > 0 && up.silence_counted_at.after(request) <= now;
        let moves = up.last_write_at.max(up.progress_at).after(queue) > now;
        let last = queued.map_or(0, |mark| up.fifo.older(mark.pushed));
        // A silent time-out gives up what has expired; those behind it may be young still.
        let given_up = match (hopeless, is_silent_timeout) {
            (true, _) => usize::MAX,
            (false, true) => expired,
            (false, false) => 0,
        };
        let oldest = up.fifo.iter().take(given_up).position(Entry::is_awaited);
        if let Some(first) = oldest {
            self.tell_expired(id, first);
        }
        if hopeless {
            return self.fail_upstream(id, FailReason::Silent);
        }
        if is_silent_timeout && self.count_silent_timeout(id) {
            return;
        }
        if still && expired > 0 {
            self.expire_sent(id, expired);
        }
        if !moves && last > first_unsent {
            self.expire_unsent(id, first_unsent, last);
        }
        self.relieve(id);
        self.release_lane(id);
    }

    /// A lane was silent for a time-out. Returns whether that was the end of it.
    fn count_silent_timeout(&mut self, id: UpstreamId) -> bool {
        let (now, timeout) = (self.shared.now, self.shared.settings.request_timeout);
        let Some(up) = self.upstreams.get_mut(id.0) else { return true };
        up.silence_counted_at = now;
        up.silent_timeouts += 1;
        let (node, silent_timeouts, moved) = (up.node, up.silent_timeouts, up.moved);
        up.cells.timeouts.add(1);
        // Of an address that a node has left, and of a node that has left, nothing follows.
        let entry = self.nodes.get_mut(node.0).filter(|entry| !moved && !entry.departed);
        if entry.is_some_and(|entry| entry.health.timed_out(now, timeout)) {
            self.open_probe(node);
        }
        if silent_timeouts >= MAX_SILENT_TIMEOUTS {
            self.fail_upstream(id, FailReason::Silent);
        }
        self.upstreams.get(id.0).is_none()
    }

    /// Answers the first entries of a lane; their replies, if they ever come, are eaten.
    fn expire_sent(&mut self, id: UpstreamId, count: usize) {
        let text = self.failure_text(id, "did not answer in time");
        let failure = Failure { text: text.as_bytes(), reason: Reason::Timeout };
        self.cut_off_value(id, failure.reason, failure.text);
        for index in 0..count {
            let up = self.upstreams.get(id.0);
            if let Some(up) = up.filter(|up| up.fifo.get(index).is_some_and(Entry::is_awaited)) {
                up.ended(NodeOutcome::Timeout);
                self.tell_expired(id, index);
                self.orphan(id, index, failure);
            }
        }
    }

    /// Takes requests that nobody wants sent any more out of a lane, and answers them.
    fn expire_unsent(&mut self, id: UpstreamId, from: usize, to: usize) {
        let text = self.failure_text(id, "takes no requests");
        let failure = Failure { text: text.as_bytes(), reason: Reason::Queue };
        let up = self.upstreams.get(id.0);
        let awaited = |index: &usize| up.and_then(|up| up.fifo.get(*index)).is_some_and(Entry::is_awaited);
        let Some(first) = (from..to).find(awaited) else { return };
        self.tell_expired(id, first);
        let Self { upstreams, shared, .. } = self;
        let Some(up) = upstreams.get_mut(id.0) else { return };
        up.close_group(shared);
        let (sent, end) = (up.sent, up.queued());
        let (cut, ranges) = up.fifo.cut(from, to, end, Entry::is_awaited);
        let offset = |place: u64| usize::try_from(place - sent).unwrap_or(usize::MAX);
        let ranges: Vec<_> = ranges.iter().map(|range| offset(range.start)..offset(range.end)).collect();
        up.out.cut(&ranges, &mut shared.pool);
        // Of an own lane: its last work is gone, and the rest of a body that was to be streamed is dropped.
        let over = up.is_own() && !up.fifo.iter().any(Entry::is_awaited);
        for _ in &cut {
            up.ended(NodeOutcome::Timeout);
        }
        for entry in cut {
            self.fail_entry(id, entry, failure);
        }
        if over {
            self.drop_upstream(id, Failure::NONE);
        }
    }

    /// Shows how much waits for each node, and how many connections there are.
    pub(super) fn show_lanes(&self) {
        for (_, entry) in self.nodes.iter() {
            entry.cells.rest();
        }
        for (_, up) in self.upstreams.iter() {
            let cells = &up.cells;
            // What asks for itself whether the node answers is no request.
            let asked = up.fifo.iter().filter(|entry| !matches!(entry, Entry::Version)).count();
            cells.inflight.add(asked as u64);
            cells.queued_bytes.add(up.out.len() as u64);
            let state = match up {
                up if up.is_draining() => 2,
                up if up.is_greeted() => 1,
                _ => 0,
            };
            if let Some(gauge) = cells.connections.get(state) {
                gauge.add(1);
            }
        }
    }

    /// Finds the nodes down that were asked whether they still answer, and have not.
    fn check_probes(&mut self) {
        let (now, patience) = (self.shared.now, self.shared.settings.connect_timeout);
        let silent = self.nodes.iter().filter(|(_, entry)| entry.health.is_silent(now, patience));
        let silent: Vec<NodeId> = silent.map(|(key, _)| NodeId(key)).collect();
        for node in silent {
            self.note_silence(node);
            self.node_down(node, FailReason::Silent);
        }
    }

    /// Asks for the second answer that ends an outage.
    fn send_probes(&mut self) {
        let now = self.shared.now;
        let due: Vec<UpstreamId> = self
            .nodes
            .iter()
            .filter(|(_, entry)| entry.state == NodeState::Probing && entry.health.probe_at.is_some_and(|at| at <= now))
            .filter_map(|(_, entry)| entry.lanes.first().copied())
            .collect();
        for id in due {
            let Self { upstreams, nodes, shared, .. } = self;
            let Some(up) = upstreams.get_mut(id.0) else { continue };
            if let Some(entry) = nodes.get_mut(up.node.0) {
                entry.health.probe_at = None;
            }
            up.progress_at = now;
            up.push(b"version\r\n", Entry::Version, shared);
            up.touch(id, shared);
        }
    }
}
