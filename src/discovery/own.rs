//! Nodes that are this sidecar: a list of nothing but these, which an application's own variable makes, can never serve.
//!
//! Known by the addresses alone. A node that is ourselves behind another name is found out when it is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::routing::Node;

/// What this sidecar listens on; nothing where that does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own(Vec<SocketAddr>);

impl Own {
    /// Those that listen there.
    #[must_use]
    pub const fn new(listen: Vec<SocketAddr>) -> Self {
        Self(listen)
    }

    /// Refuses a list of nothing but ourselves.
    ///
    /// # Errors
    /// One line that names the first of them.
    pub fn refuse(&self, nodes: &[Node]) -> Result<(), String> {
        match nodes.first().filter(|_| nodes.iter().all(|node| self.is(node))) {
            None => Ok(()),
            Some(first) => {
                Err(format!("{first} is this sidecar itself, which listens there; name the memcached nodes"))
            }
        }
    }

    /// Whether a node is one of these.
    pub(super) fn is(&self, node: &Node) -> bool {
        let hosts = match node.host.parse::<IpAddr>() {
            Ok(host) => vec![host],
            Err(_) if &*node.host == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Err(_) => Vec::new(),
        };
        hosts.into_iter().any(|host| self.0.iter().any(|own| takes(*own, host.to_canonical(), node.port)))
    }
}

/// Whether a connection to `host` and `port`, made on this machine, arrives at `own`. Of the addresses of the machine only
/// those of loopback are known.
fn takes(own: SocketAddr, host: IpAddr, port: u16) -> bool {
    let same_family = own.is_ipv4() == host.is_ipv4();
    // "No address" stands for every one of ours when it is listened on; no node has it.
    let any = own.ip().is_unspecified() && host.is_loopback();
    port == own.port() && same_family && (own.ip() == host || any)
}
