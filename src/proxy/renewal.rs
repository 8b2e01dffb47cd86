//! Connections are made anew, one by one, while requests flow: what nodes are logged in to with has changed.
//!
//! A fresh lane is opened beside those there are, and takes the place of one of them when the node has said its version on
//! it; the old one takes nothing new and is closed when what is in flight on it is answered. So no request notices. Where
//! the fresh one fails nothing is lost: it is tried again, ever later, and the old ones serve on.

use std::time::Duration;

use super::fail_reason::FailReason;
use super::failure::Failure;
use super::upstream::{Role, Upstream};
use super::{Core, NodeId, UpstreamId};
use crate::time::Tick;

/// First pause before a fresh lane that failed is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Core {
    /// Makes all connections anew, those of each node one by one. A node that is not there is connected to with what is in
    /// force then anyway.
    pub fn renew_lanes(&mut self, now: Tick) {
        self.shared.now = now;
        let nodes: Vec<NodeId> = self.nodes.iter().map(|(key, _)| NodeId(key)).collect();
        for node in nodes {
            self.end_renewal(node);
            if let Some(entry) = self.nodes.get_mut(node.0).filter(|entry| !entry.departed && entry.state.is_serving())
            {
                entry.renewal.left.clone_from(&entry.lanes);
                self.renew_next(node);
            }
        }
        self.finish_round();
    }

    /// Opens the lane that takes the place of the next one.
    fn renew_next(&mut self, node: NodeId) {
        let now = self.shared.now;
        let Self { nodes, upstreams, .. } = self;
        let Some(entry) = nodes.get_mut(node.0) else { return };
        // One that has been replaced meanwhile is new already, and so is one that is not connected yet.
        let lanes = &entry.lanes;
        let is_old = |id: &UpstreamId| upstreams.get(id.0).is_some_and(Upstream::is_connected);
        entry.renewal.left.retain(|lane| lanes.contains(lane) && is_old(lane));
        if entry.renewal.left.is_empty() {
            return self.leave_others(node);
        }
        let wait = entry.health.take_token(now);
        self.open_fresh(node, wait);
    }

    fn open_fresh(&mut self, node: NodeId, wait: Duration) {
        let fresh = self.open_lane(node, Role::Shared, wait);
        if let Some(up) = self.upstreams.get_mut(fresh.0) {
            up.eager = false;
        }
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.renewal.fresh = fresh;
        }
    }

    /// A node has said its version on a lane: if that is the fresh one it takes the place of an old one.
    pub(super) fn renewed(&mut self, id: UpstreamId, node: NodeId) {
        let Some(entry) = self.nodes.get_mut(node.0).filter(|entry| entry.renewal.fresh == id) else { return };
        entry.renewal.fresh = UpstreamId::NONE;
        entry.renewal.failures = 0;
        let old = (!entry.renewal.left.is_empty()).then(|| entry.renewal.left.remove(0));
        let replaced = old.filter(|old| self.replace_lane(node, *old, id).is_some());
        let Some(old) = replaced else {
            // The old one was lost just now: its successor is new.
            self.drop_upstream(id, Failure::NONE);
            return self.renew_next(node);
        };
        if let Some(up) = self.upstreams.get_mut(old.0) {
            up.outdated = true;
            up.drain();
        }
        // Who has something in flight on the old one waits for that before it goes by the new one.
        self.reroute(node);
        self.release_waiters(old);
        self.show_serving(node);
        // At once where nothing is in flight on it; else with the last answer.
        self.release_lane(old);
        self.shared.ask_for_tick();
        self.renew_next(node);
    }

    /// All shared lanes are new: the others are opened anew when they are needed again.
    fn leave_others(&mut self, node: NodeId) {
        let Self { nodes, upstreams, .. } = self;
        let Some(entry) = nodes.get_mut(node.0) else { return };
        for (key, up) in upstreams.iter_mut().filter(|(_, up)| up.node == node && up.role != Role::Probe) {
            up.outdated |= !entry.lanes.contains(&UpstreamId(key));
        }
        self.leave_large(node);
        self.leave_binary(node);
        self.close_idle_of(node);
        self.shared.ask_for_tick();
    }

    /// Whether a lane is to take the place of another one.
    pub(super) fn is_fresh(&self, id: UpstreamId) -> bool {
        let node = self.upstreams.get(id.0).map_or(NodeId::NONE, |up| up.node);
        self.nodes.get(node.0).is_some_and(|entry| entry.renewal.fresh == id)
    }

    /// The fresh lane has failed: the old ones serve on.
    pub(super) fn fresh_failed(&mut self, id: UpstreamId, reason: FailReason) {
        let Some(node) = self.upstreams.get(id.0).map(|up| up.node) else { return };
        self.drop_upstream(id, Failure::NONE);
        let jitter = self.shared.random() % 1000;
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        entry.renewal.fresh = UpstreamId::NONE;
        entry.renewal.failures += 1;
        let failures = entry.renewal.failures;
        if failures == 1 {
            tracing::warn!(
                node = %entry.node.name,
                cause = %reason,
                "the new credentials do not work: connections made with the old ones stay in use, and slipring tries again"
            );
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(6)).min(LONGEST_PAUSE);
        self.open_fresh(node, pause + Duration::from_millis(jitter));
    }

    /// The lanes of a node are given up, or are new already.
    pub(super) fn end_renewal(&mut self, node: NodeId) {
        let renewal = self.nodes.get_mut(node.0).map(|entry| std::mem::take(&mut entry.renewal));
        if let Some(fresh) = renewal.map(|renewal| renewal.fresh).filter(|fresh| *fresh != UpstreamId::NONE) {
            self.drop_upstream(fresh, Failure::NONE);
        }
    }
}
