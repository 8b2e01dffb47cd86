//! Where clients connect.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::cli::AdminListen;
use super::{Exit, FromEnvironment, PORT, source};

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1` and `[::1]` with this port, as far as the machine has them.
    Localhost(u16),
    /// An IP address and port; port 0 is any free port.
    Tcp(SocketAddr),
    /// The path of a Unix socket, absolute and short enough for one.
    Unix(PathBuf),
}

// === impl ListenAddress ===

impl ListenAddress {
    /// The TCP addresses it stands for.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Localhost(port) => vec![(Ipv4Addr::LOCALHOST, *port).into(), (Ipv6Addr::LOCALHOST, *port).into()],
            Self::Tcp(address) => vec![*address],
            Self::Unix(_) => Vec::new(),
        }
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(PORT) => f.write_str("localhost"),
            Self::Localhost(port) => write!(f, "localhost:{port}"),
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
    let is_localhost = |address: &ListenAddress| matches!(address, ListenAddress::Localhost(_));
    let tcp = addresses.iter().filter(|address| !matches!(address, ListenAddress::Unix(_)));
    if tcp.count() > 1 && addresses.iter().any(is_localhost) {
        return Err(refuse("localhost goes with no other IP:port".to_owned()));
    }
    Ok(addresses)
}

/// The same for the admin endpoint, and against those where clients connect.
pub(super) fn admin_listen(
    items: &[AdminListen],
    clients: &[ListenAddress],
    from_env: &FromEnvironment,
) -> Result<Vec<SocketAddr>, Exit> {
    let refuse = |problem: String| Exit::usage(&format!("{}: {problem}", source("admin-listen", from_env)));
    let mut addresses = Vec::new();
    for AdminListen(item) in items {
        let Some(address) = *item else {
            if items.len() > 1 {
                return Err(refuse("off goes with no address".to_owned()));
            }
            continue;
        };
        if address.port() != 0 && addresses.contains(&address) {
            return Err(refuse(format!("{address} is listed twice")));
        }
        let mut taken = clients.iter().flat_map(ListenAddress::addresses);
        if let Some(taken) = taken.find(|taken| overlap(*taken, address)) {
            let listen = source("listen", from_env);
            return Err(refuse(format!("{address} takes the port of {taken}, where clients connect ({listen})")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Whether one of them leaves no room for the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_port = one.port() == other.port() && one.port() != 0;
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    same_port && one.is_ipv4() == other.is_ipv4() && (any || one.ip() == other.ip())
}
