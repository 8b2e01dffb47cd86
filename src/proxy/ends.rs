//! The two ends of a client's connection.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;

/// The two ends of a client's connection, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// Nobody has said.
    #[default]
    Unknown,
    /// Over TCP.
    Tcp(TcpEnds),
    /// Over the Unix socket at this path.
    Unix(Arc<Path>),
}

/// Both addresses of a connection. Each idle client has them, so the usual ones are kept in twelve bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpEnds {
    /// Where the client is connected, and the client.
    V4(SocketAddrV4, SocketAddrV4),
    /// The same, by IPv6.
    V6(Box<(SocketAddr, SocketAddr)>),
}

/// An end in the words of memcached's `stats conns`.
struct Shown<'a>(&'a Ends, Option<SocketAddr>);

impl TcpEnds {
    /// Where the client is connected, and the client.
    #[must_use]
    pub fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        match (local, peer) {
            (SocketAddr::V4(local), SocketAddr::V4(peer)) => Self::V4(local, peer),
            _ => Self::V6(Box::new((local, peer))),
        }
    }

    /// Where the client is connected.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        match self {
            Self::V4(local, _) => (*local).into(),
            Self::V6(ends) => ends.0,
        }
    }

    /// The client.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match self {
            Self::V4(_, peer) => (*peer).into(),
            Self::V6(ends) => ends.1,
        }
    }
}

impl Ends {
    fn tcp(&self) -> Option<&TcpEnds> {
        match self {
            Self::Tcp(ends) => Some(ends),
            Self::Unknown | Self::Unix(_) => None,
        }
    }

    /// Where the client is connected, over TCP.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.tcp().map(TcpEnds::local)
    }

    /// Where the client is connected, for people.
    pub(super) fn shown_local(&self) -> impl fmt::Display {
        Shown(self, self.local())
    }

    /// The client, for people.
    pub(super) fn shown_peer(&self) -> impl fmt::Display {
        Shown(self, self.tcp().map(TcpEnds::peer))
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
