//! The commands by name: what counts, logs and answers tell apart.

use super::request::{Change, ReadVerb, StoreVerb};

/// A command of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the commands of doc/protocol.txt by their own names")]
pub enum Command {
    Get,
    Gets,
    Gat,
    Gats,
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
    Delete,
    Incr,
    Decr,
    Touch,
    MetaGet,
    MetaSet,
    MetaDelete,
    MetaArithmetic,
    MetaDebug,
    FlushAll,
    Stats,
    /// What needs no node, and what is refused.
    Other,
}

impl Command {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::Get,
        Self::Gets,
        Self::Gat,
        Self::Gats,
        Self::Set,
        Self::Add,
        Self::Replace,
        Self::Append,
        Self::Prepend,
        Self::Cas,
        Self::Delete,
        Self::Incr,
        Self::Decr,
        Self::Touch,
        Self::MetaGet,
        Self::MetaSet,
        Self::MetaDelete,
        Self::MetaArithmetic,
        Self::MetaDebug,
        Self::FlushAll,
        Self::Stats,
        Self::Other,
    ];

    /// The meta commands.
    pub const META: [Self; 5] = [Self::MetaGet, Self::MetaSet, Self::MetaDelete, Self::MetaArithmetic, Self::MetaDebug];

    /// The word on the wire; `other` for the rest.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Gets => "gets",
            Self::Gat => "gat",
            Self::Gats => "gats",
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Cas => "cas",
            Self::Delete => "delete",
            Self::Incr => "incr",
            Self::Decr => "decr",
            Self::Touch => "touch",
            Self::MetaGet => "mg",
            Self::MetaSet => "ms",
            Self::MetaDelete => "md",
            Self::MetaArithmetic => "ma",
            Self::MetaDebug => "me",
            Self::FlushAll => "flush_all",
            Self::Stats => "stats",
            Self::Other => "other",
        }
    }

    /// Whether it reads keys.
    #[must_use]
    pub const fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Gets | Self::Gat | Self::Gats | Self::MetaGet)
    }
}

impl Command {
    /// Whether it stores a value.
    #[must_use]
    pub const fn is_store(self) -> bool {
        matches!(self, Self::Set | Self::Add | Self::Replace | Self::Append | Self::Prepend | Self::Cas | Self::MetaSet)
    }

    /// Whether it changes a value's expiry.
    #[must_use]
    pub const fn touches(self) -> bool {
        matches!(self, Self::Gat | Self::Gats | Self::Touch)
    }
}

impl From<ReadVerb> for Command {
    fn from(verb: ReadVerb) -> Self {
        match verb {
            ReadVerb::Get => Self::Get,
            ReadVerb::Gets => Self::Gets,
            ReadVerb::Gat(_) => Self::Gat,
            ReadVerb::Gats(_) => Self::Gats,
            ReadVerb::Meta { command, .. } => command,
        }
    }
}

impl From<StoreVerb> for Command {
    fn from(verb: StoreVerb) -> Self {
        match verb {
            StoreVerb::Set => Self::Set,
            StoreVerb::Add => Self::Add,
            StoreVerb::Replace => Self::Replace,
            StoreVerb::Append => Self::Append,
            StoreVerb::Prepend => Self::Prepend,
            StoreVerb::Cas => Self::Cas,
        }
    }
}

impl From<Change> for Command {
    fn from(change: Change) -> Self {
        match change {
            Change::Delete => Self::Delete,
            Change::Incr(_) => Self::Incr,
            Change::Decr(_) => Self::Decr,
            Change::Touch(_) => Self::Touch,
        }
    }
}
