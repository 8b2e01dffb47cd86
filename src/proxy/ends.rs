//! The two ends of a client's connection.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// The two ends of a client's connection, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// Nobody has said.
    #[default]
    Unknown,
    /// Over TCP.
    Tcp {
        /// Where the client is connected.
        local: SocketAddr,
        /// The client.
        peer: SocketAddr,
    },
    /// Over the Unix socket at this path.
    Unix(Arc<Path>),
}

/// An end in the words of memcached's `stats conns`.
struct Shown<'a>(&'a Ends, Option<SocketAddr>);

impl Ends {
    /// Where the client is connected, over TCP.
    pub(super) const fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { local, .. } => Some(*local),
            Self::Unknown | Self::Unix(_) => None,
        }
    }

    /// Where the client is connected, for people.
    pub(super) fn shown_local(&self) -> impl fmt::Display {
        Shown(self, self.local())
    }

    /// The client, for people.
    pub(super) fn shown_peer(&self) -> impl fmt::Display {
        match self {
            Self::Tcp { peer, .. } => Shown(self, Some(*peer)),
            Self::Unknown | Self::Unix(_) => Shown(self, None),
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (_, Some(address)) if address.is_ipv6() => write!(f, "tcp6:{address}"),
            (_, Some(address)) => write!(f, "tcp:{address}"),
            (Ends::Unix(path), None) => write!(f, "unix:{}", path.display()),
            (_, None) => f.write_str("unknown"),
        }
    }
}
