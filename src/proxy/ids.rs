//! Who is meant: clients, connections to nodes, nodes.

use super::table::Key;

/// A client connection; finds nothing once the client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(pub(super) Key);

/// An upstream connection; finds nothing once it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub(super) Key);

/// A node, also one that has left the ring and still has requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeId(pub(super) Key);

impl NodeId {
    pub(super) const NONE: Self = Self(Key::NONE);
}

impl ClientId {
    pub(super) const NONE: Self = Self(Key::NONE);

    /// Small and unique among the living: the rim's index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.index()
    }
}

impl UpstreamId {
    pub(super) const NONE: Self = Self(Key::NONE);

    /// Small and unique among the living: the rim's index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.index()
    }
}
