//! What becomes of a connection that failed, and of what waited on it.

use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use super::lane::{Entry, Kind, Verb};
use super::{Core, Effect, NodeId, OnNodeDown, Tick, UpstreamId};
use crate::metrics::NodeState;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// The connection could not be made, or was refused by the node's first line.
    Connect,
    /// Not within the connect time-out.
    ConnectTimeout,
    /// Closed or reset by the node.
    Closed,
    /// A reply that cannot be the answer to what was asked.
    Desync,
}

impl FailReason {
    const fn text(self) -> &'static str {
        match self {
            Self::Connect => "cannot be reached",
            Self::ConnectTimeout => "does not accept in time",
            Self::Closed => "closed the connection",
            Self::Desync => "answered out of step",
        }
    }
}

impl Core {
    /// The connection is gone: it could not be made, or was closed.
    pub fn upstream_failed(&mut self, id: UpstreamId, reason: FailReason, now: Tick) {
        self.shared.now = now;
        self.fail_upstream(id, reason);
        self.finish_round();
    }

    /// Fails what waits on a connection, forgets it and, for a shared lane, opens the next.
    pub(super) fn fail_upstream(&mut self, id: UpstreamId, reason: FailReason) {
        let Some(up) = self.upstreams.get(id.0) else {
            return;
        };
        let (node, ready, kind, waiting) = (up.node, up.ready, up.kind, up.fifo.len());
        let unused = matches!(kind, Kind::Idle { .. });
        let name = self.nodes.get(node.0).map(|entry| Arc::clone(&entry.node.name)).unwrap_or_default();
        match reason {
            FailReason::Desync => {
                self.shared.cells().desyncs.add(1);
                tracing::error!(node = %name, waiting, "node answered out of step; connection closed");
            }
            _ if unused => {}
            _ => {
                self.shared.cells().upstream_failures.add(1);
                tracing::debug!(node = %name, waiting, reason = reason.text(), "connection to node lost");
            }
        }
        if kind == Kind::Shared {
            let wait = self.plan_reconnect(node, ready);
            let next = self.open_upstream(node, Kind::Shared, wait);
            self.replace_lane(node, id, next);
        }
        let text = format!("SERVER_ERROR proxy: node {name} {}\r\n", reason.text());
        self.drop_upstream(id, text.as_bytes());
    }

    fn plan_reconnect(&mut self, node: NodeId, ready: bool) -> Duration {
        let random = self.shared.random();
        let now = self.shared.now.0;
        let Some(entry) = self.nodes.get_mut(node.0) else {
            return Duration::ZERO;
        };
        let wait = entry.health.failed(ready, now, random);
        let state = if wait.is_zero() { NodeState::Connecting } else { NodeState::Down };
        self.set_node_state(node, state);
        wait
    }

    /// Forgets a connection; whatever still waits on it is answered as failed, `text` being the
    /// error line (with its CRLF) of those that get one.
    pub(super) fn drop_upstream(&mut self, id: UpstreamId, text: &[u8]) {
        let Some(mut up) = self.upstreams.remove(id.0) else {
            return;
        };
        self.shared.effects.push(Effect::CloseUpstream(id));
        if up.full {
            self.shared.full_lanes = self.shared.full_lanes.saturating_sub(1);
        }
        self.shared.resume.extend(up.waiters.drain(..));
        up.out.clear(&mut self.shared.pool);
        // A value that has begun cannot be taken back: the only honest end is to close its reader.
        if let Some((group, key)) = up.body_askers() {
            for member in group.askers(key).filter_map(|i| group.members.get(i)) {
                self.shared.finished.push(member.client);
            }
        }
        for entry in up.fifo.drain(..) {
            match entry {
                Entry::Version => {}
                Entry::Group(group) => self.fail_group(group, text),
                Entry::Single { client, seq, verb } => {
                    let soft = verb == Verb::Touch && self.shared.settings.on_node_down == OnNodeDown::Miss;
                    if soft {
                        self.shared.cells().soft_misses.add(1);
                    } else if !text.is_empty() {
                        // Without a text nobody is told anything: the answer came by another way.
                        self.shared.cells().soft_errors.add(1);
                    }
                    self.finish_single(client, seq, if soft { b"NOT_FOUND\r\n" } else { text });
                }
                Entry::Gather { client, seq, part, .. } => {
                    self.finish_gather(client, seq, part, Some(text), Some(NodeState::Down.word()));
                }
            }
        }
        self.bulk_lost(id, up.node, up.kind);
    }

    fn fail_group(&mut self, mut group: Box<Group>, text: &[u8]) {
        let Self { clients, shared, .. } = self;
        let miss = shared.settings.on_node_down == OnNodeDown::Miss;
        for member in &mut group.members {
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            client.in_flight = client.in_flight.saturating_sub(1);
            if !member.done {
                if miss {
                    shared.cells().soft_misses.add(u64::from(member.left));
                    client.replies.finish(member.seq, &mut shared.pool);
                } else {
                    shared.cells().soft_errors.add(1);
                    client.replies.fail_part(member.seq, text, &mut shared.pool);
                }
            }
            client.settle(member.client, shared);
        }
        shared.put_group(group);
    }
}
