//! Requests that took long: counted, and told of at most once a second for each kind.

use std::time::Duration;

use super::{Core, UpstreamId};
use crate::metrics::Kind;
use crate::protocol::command::Command;

/// Between two lines about requests of one kind.
const GAP: Duration = Duration::from_secs(1);

impl Core {
    /// A node has answered a request for so many keys, after so many microseconds in the queue and on
    /// the wire.
    #[inline]
    pub(super) fn note_slow(&mut self, id: UpstreamId, command: Command, keys: usize, took: (u64, u64)) {
        let Some(limit) = self.shared.settings.slow_request else { return };
        if u128::from(took.0 + took.1) >= limit.as_micros() {
            self.tell_slow(id, command, keys, took);
        }
    }

    #[cold]
    fn tell_slow(&mut self, id: UpstreamId, command: Command, keys: usize, (queued, wire): (u64, u64)) {
        self.shared.cells().slow_requests.add(1);
        let now = self.shared.now;
        let Some(told) = self.shared.slow_told.get_mut(Kind::from(command) as usize) else { return };
        if told.0 > 0 && told.after(GAP) > now {
            return;
        }
        *told = now;
        let node = self.upstreams.get(id.0).and_then(|up| self.nodes.get(up.node.0)).map(|entry| &*entry.node.name);
        let millis = |micros: u64| micros as f64 / 1e3;
        tracing::warn!(
            command = command.word(),
            node = node.unwrap_or_default(),
            keys,
            queue_ms = millis(queued),
            wire_ms = millis(wire),
            "slow request"
        );
    }
}
