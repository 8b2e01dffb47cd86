//! Who is meant: clients, connections to nodes, nodes.

use super::table::Key;
use crate::routing::NodeIndex;

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

/// A request for a moved key that takes several steps; finds nothing once it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HandoffId(pub(super) Key);

/// Both places of a key that has an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Where it lives now.
    pub(super) new: NodeId,
    pub(super) old: NodeId,
    /// Which of the nodes of the ring before the old one is.
    pub(super) index: NodeIndex,
}

/// What one step of such a request is (`handoff.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The request at the new place.
    New,
    /// The request at the old one.
    Old,
    /// Whether the key is there, wherever it matters.
    LookUp,
    /// A delete at the old place.
    Invalidate,
    /// The request at the new place once more.
    Again,
}

/// Where a key of a read is asked for, if it has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has one place, or is not asked for at another.
    #[default]
    Plain,
    /// At its new place; where it is missing the old one is asked.
    New,
    /// At its old place.
    Old,
    /// At its new place once more.
    Again,
}
