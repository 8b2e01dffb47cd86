//! What may happen often and is told of seldom: requests that took long or were given up, at most once a second for each
//! kind, and clients that do not read.

use std::time::Duration;

use super::upstream::Entry;
use super::upstream::group::Group;
use super::{Core, UpstreamId};
use crate::key_name::key_name;
use crate::metrics::Kind;
use crate::protocol::command::Command;
use crate::protocol::request::Keys;

/// Between two lines about requests of one kind.
const GAP: Duration = Duration::from_secs(1);

/// The same for clients that do not read.
const NOT_READING_GAP: Duration = Duration::from_secs(60);

impl Group {
    /// The first of its keys.
    fn name(&self, log_keys: bool) -> String {
        // Of a meta command without its flags.
        let key = if self.verb.is_meta() { Keys::new(self.text(0)).next().unwrap_or_default() } else { self.text(0) };
        key_name(self.hash(0), log_keys.then_some(key))
    }
}

/// What is told of a request.
struct Told {
    command: Command,
    keys: usize,
    /// Of several the first.
    key: String,
    /// Of a read's values, or of another request, its value included.
    bytes: u64,
    /// In the queue and on the wire, in microseconds.
    took: (u64, u64),
}

impl Core {
    /// Whether a request that was answered after so many microseconds in the queue and on the wire is to be told of.
    #[inline]
    pub(super) fn is_slow(&mut self, command: Command, took: (u64, u64)) -> bool {
        let Some(limit) = self.shared.settings.slow_request else { return false };
        u128::from(took.0 + took.1) >= limit.as_micros() && self.count_slow(command)
    }

    #[cold]
    fn count_slow(&mut self, command: Command) -> bool {
        self.shared.cells().slow_requests.add(1);
        self.may_tell(command)
    }

    /// Whether the last line about a request of this kind was written long enough ago.
    fn may_tell(&mut self, command: Command) -> bool {
        let now = self.shared.now;
        let Some(told) = self.shared.slow_told.get_mut(Kind::from(command) as usize) else { return false };
        if told.0 > 0 && told.after(GAP) > now {
            return false;
        }
        *told = now;
        true
    }

    /// Tells of a client that is closed since it does not read its replies, of which `bytes` are kept. Many may be, at once:
    /// a line a minute says so, and the metric of closed clients counts them.
    #[cold]
    pub(super) fn tell_not_reading(&mut self, bytes: usize) {
        let now = self.shared.now;
        if self.shared.not_reading_told_at.is_none_or(|told_at| told_at.after(NOT_READING_GAP) <= now) {
            self.shared.not_reading_told_at = Some(now);
            tracing::warn!(
                bytes,
                "slipring closed a client that does not read its replies; for a minute it only counts further ones"
            );
        }
    }

    /// Tells of a slow request that has left its lane; `start` is where its first byte was there.
    #[cold]
    pub(super) fn tell_slow(&self, id: UpstreamId, entry: &Entry, took: (u64, u64), start: u64) {
        let end = self.upstreams.get(id.0).map_or(start, |up| up.fifo.start(0).unwrap_or_else(|| up.queued()));
        if let Some(told) = self.told(entry, end.saturating_sub(start), took) {
            self.tell(id, "slow request", &told);
        }
    }

    /// Tells of a slow read.
    #[cold]
    pub(super) fn tell_slow_group(&self, id: UpstreamId, group: &Group, took: (u64, u64)) {
        self.tell(id, "slow request", &self.told_group(group, took));
    }

    /// Tells of a request that is given up: the entry at an index of a lane.
    #[cold]
    pub(super) fn tell_expired(&mut self, id: UpstreamId, index: usize) {
        if self.shared.settings.slow_request.is_none() {
            return;
        }
        let Some(up) = self.upstreams.get(id.0) else { return };
        let took = up.fifo.times(index).map_or((0, 0), |times| times.until(self.shared.now));
        let start = up.fifo.start(index).unwrap_or_default();
        let end = up.fifo.start(index + 1).unwrap_or_else(|| up.queued());
        let told = up.fifo.get(index).and_then(|entry| self.told(entry, end.saturating_sub(start), took));
        if let Some(told) = told
            && self.may_tell(told.command)
        {
            self.tell(id, "request timed out", &told);
        }
    }

    /// `sent` are the bytes of the request.
    fn told(&self, entry: &Entry, sent: u64, took: (u64, u64)) -> Option<Told> {
        match entry {
            Entry::Group(group) => Some(self.told_group(group, took)),
            Entry::Single { command, asked, .. } => {
                Some(Told { command: *command, keys: 1, key: asked.name(), bytes: sent, took })
            }
            Entry::Step(step) => {
                Some(Told { command: step.command, keys: 1, key: step.asked.name(), bytes: sent, took })
            }
            Entry::Gather { command, .. } => {
                Some(Told { command: *command, keys: 0, key: String::new(), bytes: sent, took })
            }
            Entry::Version => None,
        }
    }

    fn told_group(&self, group: &Group, took: (u64, u64)) -> Told {
        let key = group.name(self.shared.settings.log_keys);
        Told { command: group.verb.into(), keys: group.len(), key, bytes: group.bytes, took }
    }

    fn tell(&self, id: UpstreamId, what: &str, told: &Told) {
        let node = self.upstreams.get(id.0).and_then(|up| self.nodes.get(up.node.0)).map(|entry| &*entry.node.name);
        let millis = |micros: u64| micros as f64 / 1e3;
        tracing::warn!(
            command = told.command.word(),
            node = node.unwrap_or_default(),
            key = told.key,
            keys = told.keys,
            bytes = told.bytes,
            queue_ms = millis(told.took.0),
            wire_ms = millis(told.took.1),
            "{what}"
        );
    }
}
