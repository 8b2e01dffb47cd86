//! Why a connection to a node is closed.

use std::fmt;

use crate::metrics::{Reason, Unsecured};

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// Nobody listens there, or it was refused by the node's first line.
    Connect,
    /// The node's name has no address.
    NameNotFound,
    /// Nobody says whether the node's name has an address.
    NameUnanswered,
    /// The operating system cannot make the connection, by the number of its error.
    System(i32),
    /// Not within the connect time-out.
    ConnectTimeout,
    /// Closed or reset by the node.
    Closed,
    /// It owed replies and said nothing, or took nothing, for too long.
    Silent,
    /// A reply that cannot be the answer to what was asked.
    Desync,
    /// What listens there is this process.
    Itself,
    /// TLS, or the log-in, failed.
    Unsecured(Unsecured),
    /// The connection ended without the last word that TLS has.
    CutOff,
}

impl FailReason {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Connect | Self::NameNotFound | Self::NameUnanswered | Self::System(_) => "cannot be reached",
            Self::ConnectTimeout => "does not accept in time",
            Self::Closed => "closed the connection",
            Self::Silent => "does not answer",
            Self::Desync => "answered out of step",
            Self::Itself => ITSELF,
            Self::Unsecured(_) => "cannot be spoken to securely",
            Self::CutOff => "cut the connection off",
        }
    }

    /// The place of an outage among its causes.
    pub(super) const fn ejection(self) -> usize {
        match self {
            Self::Silent => 0,
            Self::Closed | Self::CutOff => 2,
            Self::Desync => 3,
            Self::Itself => 4,
            _ => 1,
        }
    }

    /// No connection was made.
    pub(super) const fn is_unmade(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::NameNotFound
                | Self::NameUnanswered
                | Self::System(_)
                | Self::ConnectTimeout
                | Self::Unsecured(_)
        )
    }

    /// The node, or what is between, has closed a connection that was used.
    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Closed | Self::CutOff)
    }

    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Closed | Self::CutOff => Reason::Lost,
            Self::Silent => Reason::Timeout,
            Self::Desync => Reason::Desync,
            _ => Reason::Connect,
        }
    }
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsecured(why) => why.fmt(f),
            reason => f.write_str(reason.text()),
        }
    }
}

/// What is wrong with a node that is this process.
pub const ITSELF: &str = "is this sidecar itself";
