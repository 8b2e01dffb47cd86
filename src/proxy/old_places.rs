//! The old places of keys that have moved, as long as a ring before is declared: where they are, and whether they may be
//! used.
//!
//! `handoff.rs` and `second_places.rs` have what is done there.

use std::time::Duration;

use super::client::Stall;
use super::handoff::{self, Plan};
use super::ids::{Places, Stage};
use super::upstream::key_of;
use super::{ClientId, Core, NodeId};
use crate::metrics::{Reason, Wait};
use crate::routing::{Before, NodeIndex, OldNode};

/// What a client is told of a request that cannot be done while its key has two places.
pub(super) const TWO_PLACES: &str = "SERVER_ERROR proxy: not possible for a key with an old place (--nodes-before)\r\n";

/// In so much time every sidecar sees an edit of the declaration: the kubelet takes about two minutes.
const SEEN_BY_ALL: Duration = Duration::from_secs(300);

impl Core {
    /// The places of a key that lives on `owner` now, if it has an old one. A node whose memory is gone is one while it
    /// answers: others, who have not noticed, may read there what somebody without the new ring has stored since.
    #[inline]
    pub(super) fn places_beside<'key>(
        &self,
        owner: NodeId,
        hash: u64,
        key: impl FnOnce() -> &'key [u8],
    ) -> Option<Places> {
        if self.old_ring.is_empty() {
            return None;
        }
        let before = self.topology.before()?;
        let index = before.ring().route_with(hash, key);
        let old = *self.old_ring.get(usize::from(index.0))?;
        if old == owner {
            return None;
        }
        let is_gone = before.node(index).is_none_or(OldNode::is_gone);
        (!is_gone || self.answers(old)).then_some(Places { new: owner, old, index })
    }

    /// The places of a key, if it has an old one.
    #[inline]
    pub(super) fn places<'key>(&self, hash: u64, key: impl Fn() -> &'key [u8]) -> Option<Places> {
        if self.old_ring.is_empty() {
            return None;
        }
        self.places_beside(self.owner(hash, &key), hash, key)
    }

    /// Whether a node has answered on one of its shared lanes.
    #[cold]
    fn answers(&self, node: NodeId) -> bool {
        let lanes = self.nodes.get(node.0).map(|entry| &*entry.routes).unwrap_or_default();
        lanes.iter().any(|lane| self.upstreams.get(lane.0).is_some_and(|up| up.is_greeted() && up.takes_requests()))
    }

    /// The same of the key that a line names.
    fn places_of_line(&self, hash: u64, line: &[u8]) -> Option<Places> {
        if !self.topology.needs_key() {
            return self.places(hash, || &[]);
        }
        let key = key_of(line);
        self.places(hash, || &key)
    }

    /// Whether values may be read from an old place now.
    pub(super) fn may_read_old(&self, index: NodeIndex) -> bool {
        self.topology.before().is_some_and(|before| before.may_read(index))
    }

    /// Where a read asks first for a key that lives on `owner` now.
    #[inline]
    pub(super) fn stage_of<'key>(&self, owner: NodeId, hash: u64, key: impl FnOnce() -> &'key [u8]) -> Stage {
        let reads = self.places_beside(owner, hash, key).is_some_and(|places| self.may_read_old(places.index));
        if reads { Stage::New } else { Stage::Plain }
    }

    /// What is done with a request, given as its line, if its key has an old place.
    #[inline]
    pub(super) fn plan_of(&self, hash: u64, line: &[u8]) -> Option<(Plan, Places)> {
        if self.old_ring.is_empty() { None } else { self.plan_if_moved(hash, line) }
    }

    fn plan_if_moved(&self, hash: u64, line: &[u8]) -> Option<(Plan, Places)> {
        let places = self.places_of_line(hash, line)?;
        let before = self.topology.before()?;
        Some((handoff::plan(line, before, places.index), places))
    }

    /// Whether keys may have old places, or something of a client for such is under way.
    #[inline]
    pub(super) fn has_moves(&self, id: ClientId) -> bool {
        !self.old_ring.is_empty() || self.clients.get(id.0).is_some_and(|client| !client.moves.is_empty())
    }

    /// Whether a read of a key has to wait for steps of an earlier request of its client for it.
    pub(super) fn stalls_on_steps(&mut self, id: ClientId, hash: u64) -> bool {
        let Some(client) = self.clients.get_mut(id.0) else { return false };
        let waits = client.moves.stops(hash, false);
        if waits {
            client.stall = Stall::Moves;
        }
        waits
    }

    /// Whether a request that changes something has to wait: for earlier ones of its client, or for its way to the old place
    /// of its key. `meta`: it is a meta command.
    pub(super) fn stalls_on_moves(&mut self, id: ClientId, key: &[u8], hash: u64, meta: bool) -> bool {
        let places = self.places(hash, || key);
        let Some(client) = self.clients.get_mut(id.0) else { return false };
        if client.moves.stops(hash, places.is_some()) {
            client.stall = Stall::Moves;
            self.shared.cells().waits(Wait::Lane);
            return true;
        }
        let idle = client.elsewhere.is_empty();
        let Some(Places { old, .. }) = places else { return false };
        (self.shared.full_lanes > 0 && self.stalls_on_full_at(id, old, meta))
            || ((meta || !idle) && self.stalls_elsewhere_at(id, old, hash, meta, idle))
            || self.waits_for_lost_write(id, old)
    }

    /// The nodes of the ring before that are not in the ring, and whose memory is not gone.
    pub(super) fn old_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let is_gone = |index: u16| {
            self.topology.before().and_then(|before| before.node(NodeIndex(index))).is_none_or(OldNode::is_gone)
        };
        let only = (0..).zip(&self.old_ring).filter(move |(index, node)| !self.ring.contains(node) && !is_gone(*index));
        only.map(|(_, node)| *node)
    }

    /// The nodes that are flushed besides those of the ring. Another pool is flushed where the operator said so; else nothing
    /// is read there any more.
    pub(super) fn flush_old(&self) -> Vec<NodeId> {
        let is_other_pool = !self.old_ring.iter().any(|node| self.ring.contains(node));
        if !is_other_pool || self.shared.settings.flush_before {
            return self.old_nodes().collect();
        }
        let Some(before) = self.topology.before() else { return Vec::new() };
        for (index, node) in (0..).zip(&self.old_ring) {
            if before.node(NodeIndex(index)).is_some_and(OldNode::leave_out_of_flush) {
                self.shared.cells().before_reads_ended(None);
                tracing::warn!(
                    node = %self.node_name(*node),
                    "slipring did not send flush_all to this node of the ring before, and no longer reads there"
                );
            }
        }
        Vec::new()
    }

    /// A node has refused a connection: what it had before is gone.
    #[cold]
    pub(super) fn note_refused(&mut self, node: NodeId) {
        let now = self.shared.now;
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.refused_at = Some(now);
        }
        self.forget_nodes(|other| other == node);
    }

    /// This process sees a ring before for the first time, and its keys have moved already: nodes of it that refused
    /// connections shortly before are no place of any key. Others had that ring by then, have taken what the nodes had as
    /// gone, and did not invalidate what was stored there since. Where the ring before is declared in an edit of its own,
    /// before the change, this is not needed: until every process has it, nobody's keys have moved.
    pub(super) fn forget_refused(&self) {
        let now = self.shared.now;
        self.forget_nodes(|node| {
            let refused_at = self.nodes.get(node.0).and_then(|entry| entry.refused_at);
            refused_at.is_some_and(|at| at.after(SEEN_BY_ALL) > now)
        });
    }

    fn forget_nodes(&self, is_gone: impl Fn(NodeId) -> bool) {
        let Some(before) = self.topology.before() else { return };
        for (index, node) in (0..).zip(&self.old_ring).filter(|(_, node)| is_gone(**node)) {
            if before.node(NodeIndex(index)).is_some_and(OldNode::forget) {
                tracing::warn!(
                    node = %self.node_name(*node),
                    "node of the ring before has refused connections: slipring takes its values as lost and does not read there"
                );
            }
        }
    }

    /// An invalidation was lost at an old node: nothing is read there from now on.
    #[cold]
    pub(super) fn end_reads(&self, before: &Before, index: NodeIndex, node: NodeId, reason: Reason) {
        if before.node(index).is_some_and(|old| old.end_reads()) {
            self.shared.cells().before_reads_ended(Some(reason));
            tracing::warn!(
                node = %self.node_name(node),
                reason = reason.word(),
                "slipring could not invalidate a key at this node of the ring before, and no longer reads there"
            );
        }
    }
}
