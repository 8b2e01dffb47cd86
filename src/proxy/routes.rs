//! Which shared lane of a node a client's requests go by.
//!
//! By its own, as long as that takes requests. While it does not, for it was lost and its successor is not ready, by
//! another one that does: nothing of the client is under way on a lane that is lost, but what was moved with it. When its
//! own is ready again, the client goes back; what it has under way on the other is waited for, as when a node changes its
//! address (`elsewhere.rs`).
//!
//! One order is not kept by that: a write that was sent on a lane that *we* gave up may still lie in front of a node that
//! was silent, and be carried out after a newer one. So its client's next write to this node waits for the connect
//! time-out. Where the node closed the connection it has read what it will ever read.

use super::client::Stall;
use super::upstream::{Entry, Upstream};
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::NodeState;

impl Core {
    /// A lane of a node takes requests from now on, or takes none any more: chooses the lanes of all clients anew.
    pub(super) fn reroute(&mut self, node: NodeId) {
        let Self { nodes, upstreams, .. } = self;
        let Some(entry) = nodes.get_mut(node.0) else { return };
        let takes = |id: &UpstreamId| upstreams.get(id.0).is_some_and(Upstream::takes_requests);
        let ready = |id: &UpstreamId| takes(id) && upstreams.get(id.0).is_some_and(Upstream::is_greeted);
        let route = |(index, own): (usize, &UpstreamId)| {
            // The next ones first: the clients of several lanes are spread over the others.
            let others = || entry.lanes.iter().cycle().skip(index + 1).take(entry.lanes.len());
            let now = entry.routes.get(index).filter(|id| takes(id));
            let other = || now.or_else(|| others().find(|id| ready(id))).or_else(|| others().find(|id| takes(id)));
            if takes(own) { *own } else { other().copied().unwrap_or(*own) }
        };
        let routes: Vec<UpstreamId> = entry.lanes.iter().enumerate().map(route).collect();
        let before = std::mem::replace(&mut entry.routes, routes.clone());
        let mut left: Vec<UpstreamId> =
            before.iter().zip(&routes).filter(|(old, new)| old != new).map(|(old, _)| *old).collect();
        left.dedup();
        for lane in left {
            self.note_left(node, lane);
        }
    }

    /// Clients that go by another lane now wait for what they have under way on this one.
    fn note_left(&mut self, node: NodeId, lane: UpstreamId) {
        let Self { nodes, upstreams, clients, shared, .. } = self;
        let (Some(entry), Some(up)) = (nodes.get(node.0), upstreams.get_mut(lane.0)) else { return };
        let mut all: Vec<ClientId> = up.fifo.iter().flat_map(Entry::clients).collect();
        all.sort_unstable_by_key(|id| id.index());
        for entries in all.chunk_by(|a, b| a == b) {
            let client = entries.first().and_then(|id| clients.get_mut(id.0));
            let Some(client) = client.filter(|client| entry.routes.get(client.lane) != Some(&lane)) else { continue };
            client.leave_lane(lane, node, u32::try_from(entries.len()).unwrap_or(u32::MAX));
            client.recharge(shared);
        }
        // Those that wait for room here have room elsewhere.
        self.release_waiters(lane);
    }

    /// Shows whether a node that answers has all its lanes.
    pub(super) fn show_serving(&mut self, node: NodeId) {
        let Some(entry) = self.nodes.get(node.0) else { return };
        let lanes = || entry.lanes.iter().filter_map(|id| self.upstreams.get(id.0));
        let short = lanes().any(|up| up.after_failure && !up.is_greeted());
        self.set_node_state(node, if short { NodeState::Degraded } else { NodeState::Up });
    }

    /// A lane is given up: what its clients have sent on it, and is no read, may still be carried out.
    pub(super) fn note_lost_writes(&mut self, id: UpstreamId) {
        let Self { nodes, upstreams, clients, shared, .. } = self;
        let Some(up) = upstreams.get(id.0) else { return };
        let Some(entry) = nodes.get_mut(up.node.0) else { return };
        let until = shared.now.after(shared.settings.connect_timeout);
        for index in 0..up.fifo.first_unsent(up.sent) {
            let Some(lost) = up.fifo.get(index).filter(|entry| entry.writes()) else { continue };
            for client in lost.clients().filter(|client| clients.get(client.0).is_some()) {
                entry.lost_writes.insert(client, until);
                shared.lost_writes = true;
                shared.ask_for_tick();
            }
        }
    }

    /// Whether a write of a client to a node may still be carried out that was given up; then it waits.
    pub(super) fn waits_for_lost_write(&mut self, id: ClientId, node: NodeId) -> bool {
        let Some(entry) = self.nodes.get(node.0).filter(|entry| !entry.lost_writes.is_empty()) else { return false };
        let Some(client) = self.clients.get_mut(id.0) else { return false };
        let now = self.shared.now;
        let waits = entry.lost_writes.get(&id).is_some_and(|until| *until > now);
        if waits {
            client.stall = Stall::LostWrite;
        }
        waits
    }

    /// Lets clients go on that wait for a lost write.
    pub(super) fn resume_after_lost_write(&mut self, clients: impl IntoIterator<Item = ClientId>) {
        let waits = |id: &ClientId| self.clients.get(id.0).is_some_and(|client| client.stall == Stall::LostWrite);
        self.shared.resume.extend(clients.into_iter().filter(waits));
    }

    /// Lets those go on whose lost writes are not to be feared any more. Returns whether there are others.
    pub(super) fn forget_lost_writes(&mut self) -> bool {
        let now = self.shared.now;
        let some: Vec<NodeId> =
            self.nodes.iter().filter(|(_, entry)| !entry.lost_writes.is_empty()).map(|(key, _)| NodeId(key)).collect();
        let mut waits = false;
        for node in some {
            let Some(entry) = self.nodes.get_mut(node.0) else { continue };
            let over: Vec<ClientId> =
                entry.lost_writes.extract_if(|_, until| *until <= now).map(|(id, _)| id).collect();
            waits |= !entry.lost_writes.is_empty();
            self.resume_after_lost_write(over);
            self.forget_departed(node);
        }
        self.shared.lost_writes = waits;
        waits
    }
}
