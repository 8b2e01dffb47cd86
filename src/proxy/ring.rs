//! The nodes as one worker sees them, and the swap of the ring.
//!
//! Nodes are matched by identity. One that stays keeps its connections and its health; one that
//! leaves gets no new request, finishes what is in flight and is closed; one that comes back while
//! it drains takes its lanes back, else a `get` on a new connection could overtake the `set` before
//! it.
//!
//! One that stays but is found at another address gets fresh connections there, while the old ones
//! finish what is in flight. Both addresses may be one server's, so a client with something in
//! flight on an old one sends nothing new before that is answered (invariant B).

use std::sync::Arc;

use super::client::{Client, Stall};
use super::failure::Failure;
use super::upstream::health::{Health, PROBE_GAP};
use super::upstream::key_of;
use super::upstream::node::NodeEntry;
use super::upstream::{Entry, Role};
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::{NodeState, Reason, Wait};
use crate::protocol::request::{Refusal, Request, Stats};
use crate::routing::{Node, Topology};
use crate::time::Tick;

impl Core {
    /// The node a key with this hash lives on; the key itself is asked for only where the placement needs it.
    #[inline]
    pub(super) fn owner<'key>(&self, hash: u64, key: impl FnOnce() -> &'key [u8]) -> NodeId {
        let index = self.topology.route_with(hash, key);
        self.ring.get(usize::from(index.0)).copied().unwrap_or(NodeId::NONE)
    }

    /// The same for the key that a request line names.
    #[inline]
    pub(super) fn owner_of_line(&self, hash: u64, line: &[u8]) -> NodeId {
        // Only a placement by the key itself looks at it: it may have to be decoded.
        if !self.topology.needs_key() {
            return self.owner(hash, || &[]);
        }
        let key = key_of(line);
        self.owner(hash, || &key)
    }

    /// Takes another ring. What is in flight stays where it is; the next request is routed anew.
    pub fn set_topology(&mut self, topology: Arc<Topology>, now: Tick) {
        self.shared.now = now;
        let had_before = self.topology.before().is_some();
        self.topology = topology;
        if self.ring.is_empty() {
            self.end_ring_waits(|_| true);
        }
        self.join_nodes();
        if !had_before && !self.topology.is_as_before() {
            self.forget_refused();
        }
        let known: Vec<(NodeId, bool)> = self
            .nodes
            .iter()
            .map(|(key, entry)| (NodeId(key), !entry.departed && !self.has_place(NodeId(key))))
            .collect();
        for (id, _) in known.iter().filter(|(_, leaves)| *leaves) {
            self.depart(*id);
        }
        for (id, _) in &known {
            self.reroute_bodies(*id);
        }
        for (id, _) in known {
            self.grant(id);
            self.forget_departed(id);
        }
        self.finish_round();
    }

    /// Whether a request has to wait for the first ring, which is not known yet: clients that connect while their sidecar
    /// starts shall not be told that every write has failed.
    #[cold]
    pub(super) fn needs_ring(&self, request: &Result<Request<'_>, Refusal<'_>>) -> bool {
        match request {
            Ok(Request::FlushAll { .. }) => !self.shared.settings.deny_flush_all,
            Ok(
                Request::Read { .. }
                | Request::Store(_)
                | Request::Change { .. }
                | Request::Meta(_)
                | Request::Stats(Stats::Reset),
            ) => true,
            Err(refusal) => refusal.stale.is_some(),
            Ok(_) => false,
        }
    }

    /// There is no ring yet: whether a client waits for it.
    pub(super) fn stalls_on_ring(&mut self, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(id.0).filter(|client| !client.no_ring) else { return false };
        client.stall = Stall::Ring;
        self.shared.cells().waits(Wait::Ring);
        true
    }

    /// Lets those go on who wait for the first ring, and of whom `over` holds.
    pub(super) fn end_ring_waits(&mut self, over: impl Fn(&mut Client) -> bool) {
        let Self { clients, shared, .. } = self;
        for (key, client) in clients.iter_mut() {
            if client.stall == Stall::Ring && over(client) {
                client.stall = Stall::Granted;
                shared.resume.push_back(ClientId(key));
            }
        }
    }

    /// The ring in use.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Gives every node of the topology an entry and its lanes.
    pub(super) fn join_nodes(&mut self) {
        let topology = Arc::clone(&self.topology);
        self.ring = topology.nodes().iter().map(|node| self.join_node(node)).collect();
        let before = topology.before();
        self.shared.before_tag = before.map_or(0, |before| before.tag());
        let nodes = before.map_or(&[][..], |before| before.ring().nodes());
        self.old_ring = nodes.iter().map(|node| self.join_old_node(node)).collect();
        for (key, entry) in self.nodes.iter_mut() {
            let id = NodeId(key);
            entry.only_before = !self.ring.contains(&id) && self.old_ring.contains(&id);
            entry.cells.only_before.set(u64::from(entry.only_before));
        }
    }

    /// One of the ring before. A node that is in the ring, too, has been joined as it is there.
    fn join_old_node(&mut self, node: &Arc<Node>) -> NodeId {
        let known = self.ring.iter().find(|id| self.nodes.get(id.0).is_some_and(|entry| entry.node.name == node.name));
        known.copied().unwrap_or_else(|| self.join_node(node))
    }

    /// Whether keys live on a node, now or before.
    fn has_place(&self, node: NodeId) -> bool {
        self.ring.contains(&node) || self.old_ring.contains(&node)
    }

    fn join_node(&mut self, node: &Arc<Node>) -> NodeId {
        let known = self.nodes.iter().find(|(_, entry)| entry.node.name == node.name).map(|(key, _)| NodeId(key));
        // Asked for each time: those of a node that had left long ago may be others now.
        let cells = self.shared.cells().node(&node.name);
        let fresh = || NodeEntry::new(Arc::clone(node), Arc::clone(&cells));
        let id = known.unwrap_or_else(|| NodeId(self.nodes.insert(fresh())));
        let Some(entry) = self.nodes.get_mut(id.0) else { return id };
        entry.cells = cells;
        let moved = (&entry.node.host, entry.node.port) != (&node.host, node.port);
        entry.node = Arc::clone(node);
        entry.departed = false;
        let mut state = entry.state;
        let down = !moved && matches!(state, NodeState::Down | NodeState::Probing);
        if moved {
            // What went wrong at the old address says nothing of the new one.
            entry.health = Health::default();
            entry.refused_at = None;
            state = NodeState::Connecting;
            self.close_probe(id);
            self.end_renewal(id);
        }
        let Some(entry) = self.nodes.get_mut(id.0) else { return id };
        let (mut lanes, mut health) = (std::mem::take(&mut entry.lanes), std::mem::take(&mut entry.health));
        let now = self.shared.now;
        for (index, lane) in lanes.iter_mut().enumerate() {
            match self.upstreams.get_mut(lane.0) {
                // One on which requests wait for a connection is connected to the new address.
                Some(up) if moved && (up.is_connected() || up.fifo.len() <= 1) => {
                    let fresh = self.open_upstream(id, Role::Shared);
                    self.leave_lane(std::mem::replace(lane, fresh));
                }
                Some(up) => {
                    up.revive();
                    if up.is_greeted() && state == NodeState::Connecting {
                        // It answered while its node was away.
                        health.succeeded(now);
                        state = NodeState::Up;
                    }
                }
                // One connection probes a node that is down; the others wait for its answer.
                None if down && index > 0 => {}
                None if down => *lane = self.open_lane(id, Role::Shared, PROBE_GAP),
                None => *lane = self.open_upstream(id, Role::Shared),
            }
        }
        while lanes.len() < self.shared.settings.lanes.max(1) {
            lanes.push(self.open_upstream(id, Role::Shared));
        }
        if let Some(entry) = self.nodes.get_mut(id.0) {
            (entry.lanes, entry.health) = (lanes, health);
        }
        if state.is_serving() {
            self.show_serving(id);
        } else {
            self.set_node_state(id, state);
        }
        self.reroute(id);
        if moved {
            self.leave_address(id);
        }
        id
    }

    /// A node is back: the lanes that were given up are opened again.
    pub(super) fn fill_lanes(&mut self, id: NodeId) {
        let Some(entry) = self.nodes.get(id.0) else { return };
        let mut lanes = entry.lanes.clone();
        for lane in &mut lanes {
            if self.upstreams.get(lane.0).is_none() {
                *lane = self.open_upstream(id, Role::Shared);
                // The one that has answered serves all until it is ready.
                if let Some(up) = self.upstreams.get_mut(lane.0) {
                    up.eager = false;
                }
            }
        }
        if let Some(entry) = self.nodes.get_mut(id.0) {
            entry.lanes = lanes;
        }
    }

    /// A lane is no longer needed, for its node is elsewhere. Who has something in flight on it waits for that before it
    /// sends anything to the node by another lane: both addresses may be one server's.
    fn leave_lane(&mut self, lane: UpstreamId) {
        self.release_waiters(lane);
        let Self { upstreams, clients, shared, .. } = self;
        let Some(up) = upstreams.get_mut(lane.0) else { return };
        let node = up.node;
        let mut all: Vec<ClientId> = up.fifo.iter().flat_map(Entry::clients).collect();
        all.sort_unstable_by_key(|id| id.index());
        for entries in all.chunk_by(|a, b| a == b) {
            if let Some(client) = entries.first().and_then(|id| clients.get_mut(id.0)) {
                client.leave_lane(lane, node, u32::try_from(entries.len()).unwrap_or(u32::MAX));
                client.recharge(shared);
            }
        }
        let connected = up.is_connected();
        up.drain();
        if connected {
            self.release_lane(lane);
        } else {
            self.drop_upstream(lane, Failure::NONE);
        }
    }

    /// What is connected to a node is connected to where it was before.
    fn leave_address(&mut self, id: NodeId) {
        for up in self.upstreams.values_mut().filter(|up| up.node == id) {
            up.moved |= up.is_connected();
        }
        self.leave_large(id);
        self.leave_binary(id);
        self.close_idle_of(id);
        self.shared.ask_for_tick();
    }

    /// A node has left the ring.
    fn depart(&mut self, id: NodeId) {
        let Some(entry) = self.nodes.get_mut(id.0) else { return };
        entry.departed = true;
        entry.health.trusted();
        let lost: Vec<ClientId> = entry.lost_writes.keys().copied().collect();
        let lanes = entry.lanes.clone();
        self.resume_after_lost_write(lost);
        self.close_probe(id);
        self.end_renewal(id);
        for lane in lanes {
            // Those that wait for room here have another node now.
            self.release_waiters(lane);
            if let Some(up) = self.upstreams.get_mut(lane.0) {
                up.drain();
            }
            self.release_lane(lane);
        }
        self.leave_large(id);
        self.leave_binary(id);
        self.close_idle_of(id);
        self.shared.ask_for_tick();
    }

    /// The lane that large values share takes nothing new.
    pub(super) fn leave_large(&mut self, id: NodeId) {
        let Some(entry) = self.nodes.get_mut(id.0) else { return };
        let large = std::mem::replace(&mut entry.large, UpstreamId::NONE);
        if let Some(up) = self.upstreams.get_mut(large.0) {
            up.drain();
            self.release_waiters(large);
            self.release_lane(large);
        }
    }

    /// Forgets a node that has left, has no connection any more and is not to be asked again.
    pub(super) fn forget_departed(&mut self, id: NodeId) {
        let Some(entry) = self.nodes.get(id.0).filter(|entry| entry.departed) else { return };
        let awaited = || self.clients.iter().any(|(_, client)| client.again.iter().any(|again| again.node == id));
        if entry.own.is_unused()
            && entry.lost_writes.is_empty()
            && !self.upstreams.iter().any(|(_, up)| up.node == id)
            && !awaited()
        {
            self.shared.cells().node_left(&entry.node.name);
            self.nodes.remove(id.0);
        }
    }

    /// Gives up connections to departed nodes, and to addresses that nodes have left, that have been
    /// silent too long. Returns whether there are others.
    pub(super) fn close_silent(&mut self) -> bool {
        let (now, patience) = (self.shared.now, self.shared.settings.drain_timeout);
        let departed = |node: NodeId| self.nodes.get(node.0).is_none_or(|entry| entry.departed);
        // A connection that waits for its slow reader is not silent.
        let paused = |id: UpstreamId| self.clients.iter().any(|(_, client)| client.paused.contains(&id));
        let all: Vec<(UpstreamId, bool)> = self
            .upstreams
            .iter()
            .filter(|(_, up)| up.moved || departed(up.node))
            .map(|(key, up)| (UpstreamId(key), up.last_read_at.max(up.last_write_at).after(patience) <= now))
            .map(|(id, silent)| (id, silent && !paused(id)))
            .collect();
        for (id, _) in all.iter().filter(|(_, silent)| *silent) {
            let text = b"SERVER_ERROR proxy: node has left and does not answer\r\n";
            self.drop_upstream(*id, Failure { text, reason: Reason::Timeout });
        }
        all.iter().any(|(_, silent)| !silent)
    }

    /// Reports a node's state when it changes.
    pub(super) fn set_node_state(&mut self, node: NodeId, state: NodeState) {
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        entry.cells.set_state(state);
        if entry.state != state {
            entry.state = state;
            self.shared.cells.node_changed.notify_one();
        }
    }

    /// The lowest version among the nodes: clients switch features by it. Never our own.
    pub(super) fn lowest_version(&self) -> &str {
        let nodes = self.ring.iter().filter_map(|id| self.nodes.get(id.0));
        nodes.filter_map(|node| node.version.as_ref()).min().map_or("1.6.0", |version| &version.text)
    }
}

#[cfg(test)]
mod tests;
