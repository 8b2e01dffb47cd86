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
use std::time::Duration;

use super::failure::Failure;
use super::health::{Health, PROBE_GAP};
use super::lane::Kind;
use super::{Core, Effect, NodeId, Tick, UpstreamId, bulk};
use crate::metrics::{NodeCells, NodeState, Reason};
use crate::routing::{Node, Topology};

/// One node.
#[derive(Debug)]
pub(super) struct NodeEntry {
    pub(super) node: Arc<Node>,
    /// Where it counts.
    pub(super) cells: Arc<NodeCells>,
    /// The shared lanes, by number.
    pub(super) lanes: Vec<UpstreamId>,
    pub(super) health: Health,
    pub(super) state: NodeState,
    /// What the node's `VERSION` said last.
    pub(super) version: Option<Version>,
    /// No merged group before this moment (a group was answered by an error line).
    pub(super) no_merge_until: Tick,
    pub(super) bulk: bulk::Bulk,
    /// It is not in the ring any more.
    pub(super) departed: bool,
}

/// A memcached version: numbers to compare, text to show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    number: [u32; 3],
    text: String,
}

impl NodeEntry {
    fn new(node: Arc<Node>, cells: Arc<NodeCells>) -> Self {
        Self {
            node,
            cells,
            lanes: Vec::new(),
            health: Health::default(),
            state: NodeState::Connecting,
            version: None,
            no_merge_until: Tick(0),
            bulk: bulk::Bulk::default(),
            departed: false,
        }
    }
}

impl Version {
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut number = [0; 3];
        for (place, part) in number.iter_mut().zip(text.split('.')) {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next()?;
            *place = digits.parse().ok()?;
        }
        // Clients read `X.Y.Z` strictly: a suffix such as `-rc1` or `_beta` is left out.
        let text = format!("{}.{}.{}", number.first()?, number.get(1)?, number.get(2)?);
        Some(Self { number, text })
    }
}

impl Core {
    /// The node a key with this hash lives on; the key itself is asked for only where the placement needs it.
    #[inline]
    pub(super) fn owner<'key>(&self, hash: u64, key: impl FnOnce() -> &'key [u8]) -> NodeId {
        let index = self.topology.route_with(hash, key);
        self.ring.get(usize::from(index.0)).copied().unwrap_or(NodeId::NONE)
    }

    /// Takes another ring. What is in flight stays where it is; the next request is routed anew.
    pub fn set_topology(&mut self, topology: Arc<Topology>, now: Tick) {
        self.shared.now = now;
        self.topology = topology;
        self.join_nodes();
        let known: Vec<(NodeId, bool)> = self
            .nodes
            .iter()
            .map(|(key, entry)| (NodeId(key), !entry.departed && !self.ring.contains(&NodeId(key))))
            .collect();
        for (id, _) in known.iter().filter(|(_, leaves)| *leaves) {
            self.depart(*id);
        }
        for (id, _) in known {
            self.reroute_bodies(id);
            self.forget_departed(id);
        }
        self.finish_round();
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
            state = NodeState::Connecting;
        }
        let mut lanes = std::mem::take(&mut entry.lanes);
        for (index, lane) in lanes.iter_mut().enumerate() {
            match self.upstreams.get_mut(lane.0) {
                // One on which requests wait for a connection is connected to the new address.
                Some(up) if moved && (up.connected || up.fifo.len() <= 1) => {
                    let fresh = self.open_upstream(id, Kind::Shared, Duration::ZERO);
                    self.leave_lane(std::mem::replace(lane, fresh));
                }
                Some(up) if up.kind == Kind::Draining => {
                    up.kind = Kind::Shared;
                    // It may have been paused for the one reader it had; now others count on it.
                    self.shared.effects.push(Effect::WakeUpstream(*lane));
                }
                Some(up) if up.kind == Kind::Shared => {}
                // One connection probes a node that is down; the others wait for its answer.
                None if down && index > 0 => {}
                None if down => *lane = self.open_upstream(id, Kind::Shared, PROBE_GAP),
                // Gone, or taken over by a large value while the node was away.
                _ => *lane = self.open_upstream(id, Kind::Shared, Duration::ZERO),
            }
        }
        while lanes.len() < self.shared.settings.lanes.max(1) {
            lanes.push(self.open_upstream(id, Kind::Shared, Duration::ZERO));
        }
        if let Some(entry) = self.nodes.get_mut(id.0) {
            entry.lanes = lanes;
        }
        self.set_node_state(id, state);
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
                *lane = self.open_upstream(id, Kind::Shared, Duration::ZERO);
            }
        }
        if let Some(entry) = self.nodes.get_mut(id.0) {
            entry.lanes = lanes;
        }
    }

    /// A lane is no longer needed, for its node is elsewhere.
    fn leave_lane(&mut self, lane: UpstreamId) {
        self.release_waiters(lane);
        self.drain_all(lane, None);
        let Some(up) = self.upstreams.get_mut(lane.0) else { return };
        up.kind = Kind::Draining;
        if up.connected {
            self.release_lane(lane);
        } else {
            self.drop_upstream(lane, Failure::NONE);
        }
    }

    /// What is connected to a node is connected to where it was before.
    fn leave_address(&mut self, id: NodeId) {
        let lanes: Vec<UpstreamId> =
            self.upstreams.iter().filter(|(_, up)| up.node == id).map(|(key, _)| UpstreamId(key)).collect();
        for lane in lanes {
            if let Some(up) = self.upstreams.get_mut(lane.0) {
                up.moved |= up.connected;
            }
        }
        self.close_idle_of(id);
        self.shared.ask_for_tick();
    }

    /// A node has left the ring.
    fn depart(&mut self, id: NodeId) {
        let Some(entry) = self.nodes.get_mut(id.0) else { return };
        entry.departed = true;
        let lanes = entry.lanes.clone();
        for lane in lanes {
            // Those that wait for room here have another node now.
            self.release_waiters(lane);
            if let Some(up) = self.upstreams.get_mut(lane.0) {
                up.kind = Kind::Draining;
            }
            self.release_lane(lane);
        }
        self.close_idle_of(id);
        self.shared.ask_for_tick();
    }

    /// Forgets a node that has left, has no connection any more and is not to be asked again.
    pub(super) fn forget_departed(&mut self, id: NodeId) {
        let Some(entry) = self.nodes.get(id.0).filter(|entry| entry.departed) else { return };
        let awaited = || self.clients.iter().any(|(_, client)| client.bulk_reads.iter().any(|read| read.node() == id));
        if entry.bulk.is_unused() && !self.upstreams.iter().any(|(_, up)| up.node == id) && !awaited() {
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
            .map(|(key, up)| (UpstreamId(key), up.heard.max(up.wrote).after(patience) <= now))
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
