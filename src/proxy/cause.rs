//! Why a connection to a node failed, kept for who asks why the node is down.

use super::fail_reason::FailReason;
use super::upstream::{Entry, Role};
use super::{Core, NodeId, UpstreamId};
use crate::metrics::{Cause, NodeState};

/// So many bytes of it are kept: more than are shown.
const KEPT: usize = 100;

impl Core {
    /// A connection was answered by something else than a version: what that was, if it was that.
    pub(super) fn keep_answer(&mut self, id: UpstreamId, raw: &[u8]) {
        let Some(up) = self.upstreams.get_mut(id.0) else { return };
        // What follows a version may be a client's value, which is nobody else's business.
        if !up.is_greeted() && matches!(up.fifo.front(), Some(Entry::Version)) && up.partial.is_empty() {
            up.partial.extend_from_slice(raw.get(..raw.len().min(KEPT)).unwrap_or_default());
        }
    }

    /// A connection has failed: publishes why, as far as it says something about the node.
    pub(super) fn note_cause(&mut self, id: UpstreamId, reason: FailReason) {
        let settings = &self.shared.settings;
        let Some(up) = self.upstreams.get(id.0) else { return };
        if up.is_draining() || !matches!(up.role, Role::Shared | Role::Probe) {
            return;
        }
        let Some(entry) = self.nodes.get(up.node.0) else { return };
        let is_new = !up.is_greeted() && entry.state != NodeState::Probing;
        let cause = match reason {
            // The beginning of a line, too: it may have hung up in the middle of it.
            FailReason::Connect | FailReason::Closed | FailReason::CutOff | FailReason::Desync
                if is_new && !up.partial.is_empty() =>
            {
                Cause::answered(&up.partial)
            }
            FailReason::Connect => Cause::Refused,
            FailReason::NameNotFound => Cause::NameNotFound,
            FailReason::NameUnanswered => Cause::NameUnanswered,
            FailReason::System(number) => Cause::System(number),
            FailReason::ConnectTimeout => Cause::NotConnected(settings.connect_timeout),
            FailReason::Silent => Cause::Unanswered(settings.request_timeout),
            // One that has said it before is no other program: it is about to end.
            FailReason::Closed | FailReason::CutOff if is_new && entry.version.is_none() => Cause::ClosedEarly,
            FailReason::Closed => Cause::Closed,
            FailReason::CutOff => Cause::CutOff,
            FailReason::Unsecured(why) => Cause::Unsecured(why),
            FailReason::Desync => Cause::OutOfStep,
            FailReason::Itself => Cause::Itself,
        };
        if entry.cells.set_cause(cause) {
            self.shared.cells.node_changed.notify_one();
        }
    }

    /// A node let a request time out, and did not answer a question of our own either.
    pub(super) fn note_silence(&mut self, node: NodeId) {
        let cause = Cause::Unanswered(self.shared.settings.request_timeout);
        if self.nodes.get(node.0).is_some_and(|entry| entry.cells.set_cause(cause)) {
            self.shared.cells.node_changed.notify_one();
        }
    }
}
