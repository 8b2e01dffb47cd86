//! Requests that took long, or were given up: told of at most once a second for each kind.

use std::time::Duration;

use super::group::Group;
use super::lane::{Entry, Upstream};
use super::{Core, UpstreamId};
use crate::metrics::{Kind, hot};
use crate::protocol::command::Command;
use crate::routing::Topology;

/// Between two lines about requests of one kind.
const GAP: Duration = Duration::from_secs(1);

/// The key of a request on its way: all that is kept of it, and its text only where that may be told.
#[derive(Debug)]
pub(super) enum Asked {
    Hash(u64),
    Key(Box<[u8]>),
}

impl Asked {
    /// `line` is the request as it is sent: its second word is the key.
    #[inline]
    pub(super) fn new(hash: u64, line: &[u8], log_keys: bool) -> Self {
        if !log_keys {
            return Self::Hash(hash);
        }
        let key = line.split(u8::is_ascii_whitespace).nth(1);
        Self::Key(key.unwrap_or_default().into())
    }

    fn name(&self) -> String {
        match self {
            Self::Hash(hash) => hot::name(*hash, None),
            Self::Key(key) => hot::name(0, Some(key)),
        }
    }
}

impl Group {
    /// The first of its keys.
    fn name(&self, log_keys: bool) -> String {
        let key = self.text(0);
        hot::name(Topology::hash(key), log_keys.then_some(key))
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

    /// Tells of a request with an answer of one line; `start` is where its first byte was on the lane.
    #[cold]
    pub(super) fn tell_single(&self, id: UpstreamId, entry: &Entry, took: (u64, u64), start: u64) {
        let Entry::Single { command, asked, .. } = entry else { return };
        let end = self.upstreams.get(id.0).map_or(start, |up| up.fifo.start(0).unwrap_or_else(|| up.queued()));
        let bytes = end.saturating_sub(start);
        self.tell(id, "slow request", &Told { command: *command, keys: 1, key: asked.name(), bytes, took });
    }

    /// Tells of a read.
    #[cold]
    pub(super) fn tell_group(&self, id: UpstreamId, group: &Group, took: (u64, u64)) {
        self.tell(id, "slow request", &self.told(group, took));
    }

    fn told(&self, group: &Group, took: (u64, u64)) -> Told {
        let key = group.name(self.shared.settings.log_keys);
        Told { command: group.verb.into(), keys: group.len(), key, bytes: group.bytes, took }
    }

    /// Tells of a request that is given up: the entry at an index of a lane.
    #[cold]
    pub(super) fn tell_expired(&mut self, id: UpstreamId, index: usize) {
        if self.shared.settings.slow_request.is_none() {
            return;
        }
        let Some(fifo) = self.upstreams.get(id.0).map(|up| &up.fifo) else { return };
        let took = fifo.times(index).map_or((0, 0), |times| times.until(self.shared.now));
        let told = match fifo.get(index) {
            Some(Entry::Group(group)) => self.told(group, took),
            Some(Entry::Single { command, asked, .. }) => {
                let end = fifo.start(index + 1).or_else(|| self.upstreams.get(id.0).map(Upstream::queued));
                let bytes = end.zip(fifo.start(index)).map_or(0, |(end, start)| end - start);
                Told { command: *command, keys: 1, key: asked.name(), bytes, took }
            }
            _ => return,
        };
        if self.may_tell(told.command) {
            self.tell(id, "request timed out", &told);
        }
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
