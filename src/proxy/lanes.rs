//! How lanes are opened, written and relieved; `upstream/` says what a lane is.

use std::sync::Arc;
use std::time::Duration;

use super::buffer::OutBuf;
use super::effect::Effect;
use super::upstream::{Role, STREAM_BYTES, Upstream};
use super::{Core, NodeId, UpstreamId};
use crate::metrics::DURATIONS;
use crate::routing::Node;
use crate::time::Tick;

impl Core {
    /// Makes a lane and asks the rim to connect it at once.
    pub(super) fn open_upstream(&mut self, node: NodeId, role: Role) -> UpstreamId {
        self.open_lane(node, role, Duration::ZERO)
    }

    /// Makes a lane and asks the rim to connect it, after a wait.
    pub(super) fn open_lane(&mut self, node: NodeId, role: Role, wait: Duration) -> UpstreamId {
        self.make_lane(node, role, role == Role::Binary, wait)
    }

    /// The same; `is_binary`: it is spoken to in packets.
    pub(super) fn make_lane(&mut self, node: NodeId, role: Role, is_binary: bool, wait: Duration) -> UpstreamId {
        let Self { nodes, upstreams, shared, .. } = self;
        let entry = nodes.get(node.0);
        let cells = entry.map(|entry| Arc::clone(&entry.cells)).unwrap_or_default();
        let mut up = Upstream::new(node, role, is_binary, cells, shared);
        up.eager = wait.is_zero();
        up.in_order = shared.settings.merge_gets && entry.is_none_or(|entry| !entry.unordered);
        up.recharge(shared);
        let id = UpstreamId(upstreams.insert(up));
        shared.effects.push(Effect::Connect(id, wait));
        id
    }

    /// The lane of a node that the requests of a client of lane `lane` go to, unless the node cannot be asked.
    #[inline]
    pub(super) fn lane(&self, node: NodeId, lane: usize) -> Option<UpstreamId> {
        let id = *self.nodes.get(node.0)?.routes.get(lane)?;
        let up = self.upstreams.get(id.0)?;
        up.takes_requests().then_some(id)
    }

    /// The connection is established.
    pub fn upstream_connected(&mut self, id: UpstreamId, now: Tick) {
        self.shared.now = now;
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.connected(now);
            up.cells.connects[0].add(1);
            up.touch(id, &mut self.shared);
        }
    }

    /// The node to connect to, as long as the connection is wanted.
    #[must_use]
    pub fn upstream_node(&self, id: UpstreamId) -> Option<Arc<Node>> {
        let node = self.upstreams.get(id.0)?.node;
        self.nodes.get(node.0).map(|entry| Arc::clone(&entry.node))
    }

    /// Whether a connection is left unread while its reader is slow; others never are.
    #[must_use]
    pub fn upstream_pauses(&self, id: UpstreamId) -> bool {
        self.upstreams.get(id.0).is_some_and(Upstream::is_own)
    }

    /// Whether the connection is still wanted.
    #[must_use]
    pub fn has_upstream(&self, id: UpstreamId) -> bool {
        self.upstreams.get(id.0).is_some()
    }

    /// What waits to be written to a node; closes the open group.
    pub fn upstream_out(&mut self, id: UpstreamId) -> Option<&OutBuf> {
        let up = self.upstreams.get_mut(id.0)?;
        up.dirty = false;
        up.close_group(&mut self.shared);
        up.recharge(&mut self.shared);
        Some(&up.out)
    }

    /// What waits to be written to a node, and how much of it is to be sent as one piece that the node takes in at once: as
    /// many whole requests as there are in `most` bytes, or a part of one that is longer, of it alone. Nothing when nothing
    /// waits.
    pub fn upstream_record(&mut self, id: UpstreamId, most: usize) -> Option<(&OutBuf, usize)> {
        let most = self.upstream_out(id).map_or(0, |out| out.len().min(most));
        let up = self.upstreams.get(id.0).filter(|_| most > 0)?;
        Some((&up.out, up.record(most)))
    }

    /// So many bytes of memory are held by the rim for this connection: for what comes by TLS, and for what was taken and
    /// waits for the kernel.
    pub fn upstream_sealed(&mut self, id: UpstreamId, bytes: usize) {
        if let Some(up) = self.upstreams.get_mut(id.0).filter(|up| up.sealed != bytes) {
            up.sealed = bytes;
            up.recharge(&mut self.shared);
        }
    }

    /// The kernel has taken so many bytes.
    pub fn upstream_written(&mut self, id: UpstreamId, bytes: usize, now: Tick) {
        self.shared.now = now;
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.out.advance(bytes, &mut self.shared.pool);
            up.sent += bytes as u64;
            up.note_written(bytes, now);
            up.cells.sent_bytes.add(bytes as u64);
            let queued = &self.shared.cells.worker(self.shared.worker).queued;
            up.fifo.note_sent(up.sent, now, |waited| queued.record(waited, &DURATIONS));
            self.relieve(id);
            self.finish_round();
        }
    }

    /// Writes go on: the socket has room again.
    pub fn upstream_writable(&mut self, id: UpstreamId) {
        if let Some(up) = self.upstreams.get_mut(id.0) {
            // A round that found the socket blocked has passed over what it was woken for.
            up.dirty = false;
            up.touch(id, &mut self.shared);
        }
    }

    /// Lets waiting clients go on when the lane has room again.
    pub(super) fn relieve(&mut self, id: UpstreamId) {
        let Some(up) = self.upstreams.get_mut(id.0) else {
            return;
        };
        up.recharge(&mut self.shared);
        let room = if up.is_own() { up.out.len() < STREAM_BYTES / 2 } else { !up.is_over(2) };
        if room {
            self.release_waiters(id);
        }
    }

    /// Lets every client go on that waits for a lane.
    pub(super) fn release_waiters(&mut self, id: UpstreamId) {
        let Some(up) = self.upstreams.get_mut(id.0) else {
            return;
        };
        if up.full {
            up.full = false;
            self.shared.full_lanes = self.shared.full_lanes.saturating_sub(1);
        }
        // This is done at every write and every reply, and to drain an empty queue is not free.
        if !up.waiters.is_empty() {
            self.shared.resume.extend(up.waiters.drain(..));
        }
    }

    /// Whether the rim should read from this node now.
    pub fn upstream_may_read(&mut self, id: UpstreamId) -> bool {
        let paused = match self.upstreams.get(id.0) {
            Some(up) => up.in_body() && up.is_own() && self.reader_is_behind(id),
            None => return false,
        };
        let Self { upstreams, shared, .. } = self;
        if let Some(up) = upstreams.get_mut(id.0).filter(|up| up.paused != paused) {
            up.paused = paused;
            up.recharge(shared);
        }
        if paused && self.holds_back() {
            // Its reader waits for what was held back until it would be read again.
            self.upstream_drained();
        }
        !paused
    }

    /// Puts another connection in a lane's place. Returns which it was.
    pub(super) fn replace_lane(&mut self, node: NodeId, old: UpstreamId, new: UpstreamId) -> Option<usize> {
        let entry = self.nodes.get_mut(node.0)?;
        let (index, place) = entry.lanes.iter_mut().enumerate().find(|(_, lane)| **lane == old)?;
        *place = new;
        Some(index)
    }
}
