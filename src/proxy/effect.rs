//! What the core asks the rim for.

use std::time::Duration;

use super::ids::{ClientId, UpstreamId};

/// What the core cannot do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read from this client again; where it is not to be read, call
    /// [`Core::client_turn`](super::Core::client_turn) when others had their turn.
    WakeClient(ClientId),
    /// Read from this node again.
    WakeUpstream(UpstreamId),
    /// Connect to [`Core::upstream_node`](super::Core::upstream_node) after a wait, and again if that is at another
    /// address meanwhile, then call [`Core::upstream_connected`](super::Core::upstream_connected) or
    /// [`Core::upstream_failed`](super::Core::upstream_failed).
    Connect(UpstreamId, Duration),
    /// Call [`Core::tick`](super::Core::tick) after this while, and again when it says. Asked for only while nobody
    /// does.
    Tick(Duration),
    /// Close this upstream connection; the core has forgotten it.
    CloseUpstream(UpstreamId),
    /// Close this upstream connection by a reset; the core has forgotten it, and has answered for what was sent and is
    /// not answered. What the kernel still holds must not reach the node later: it could overtake what goes through the
    /// next connection.
    ResetUpstream(UpstreamId),
    /// Close this client connection; the core has forgotten it. The client may still be sending: a
    /// close with unread input would reset the connection and could destroy the last answer on its
    /// way, so the rim sends our end and drops what comes for a moment.
    CloseClient(ClientId),
    /// Close this client connection by a reset; the core has forgotten it. What the kernel still holds
    /// for it is freed.
    ResetClient(ClientId),
}
