//! Where clients connect.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::{Exit, FromEnvironment, PORT, source};

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:11211` and, where the machine has it, `[::1]:11211`.
    Localhost,
    /// An IP address and port; port 0 is any free port.
    Tcp(SocketAddr),
    /// The path of a Unix socket, absolute and short enough for one.
    Unix(PathBuf),
}

// === impl ListenAddress ===

impl ListenAddress {
    /// Whether a connection to `host` and `port`, made on this machine, arrives here. Of the addresses of the machine
    /// only those of loopback are known.
    pub(super) fn takes(&self, host: IpAddr, port: u16) -> bool {
        let here = |address: SocketAddr| {
            let (own, host) = (address.ip(), host.to_canonical());
            let same_family = own.is_ipv4() == host.is_ipv4();
            // "No address" stands for every one of ours when it is listened on, for loopback when it is dialled.
            let dialled = if host.is_unspecified() { own.is_loopback() } else { own == host };
            let any = own.is_unspecified() && (host.is_loopback() || host.is_unspecified());
            port == address.port() && same_family && (dialled || any)
        };
        match self {
            Self::Localhost => here((Ipv4Addr::LOCALHOST, PORT).into()) || here((Ipv6Addr::LOCALHOST, PORT).into()),
            Self::Tcp(address) => here(*address),
            Self::Unix(_) => false,
        }
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost => f.write_str("localhost"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The addresses, checked against each other.
pub(super) fn listen(items: &[ListenAddress], from_env: &FromEnvironment) -> Result<Vec<ListenAddress>, Exit> {
    let refuse = |problem: String| Exit::usage(&format!("{}: {problem}", source("listen", from_env)));
    let mut addresses = Vec::new();
    for item in items {
        let any_port = matches!(item, ListenAddress::Tcp(address) if address.port() == 0);
        if !any_port && addresses.contains(item) {
            return Err(refuse(format!("{item} is listed twice")));
        }
        addresses.push(item.clone());
    }
    let has_tcp = addresses.iter().any(|address| matches!(address, ListenAddress::Tcp(_)));
    if has_tcp && addresses.contains(&ListenAddress::Localhost) {
        return Err(refuse("localhost goes with no other IP:port".to_owned()));
    }
    Ok(addresses)
}
