//! How the nodes of a test are spoken to: what is right in clear is right over TLS and behind a log-in.
use super::{Authority, Memcached, Slipring};
use std::net::SocketAddr;

/// The user and the password.
const LOGIN: &str = "app:hunter2";

pub enum Link {
    /// In clear, by anybody.
    Plain,
    /// Over TLS, verified, by who is logged in.
    Secured(Authority),
}

impl Link {
    /// [`Link::Secured`], with a certificate and a password for its nodes.
    pub fn secured() -> Self {
        let authority = Authority::new();
        authority.certify("node");
        authority.write("passwords", &format!("{LOGIN}\n"));
        Self::Secured(authority)
    }

    /// A node with these further arguments. This must be there as long as the node is.
    pub fn node(&self, extra: &[&str]) -> Memcached {
        let Self::Secured(authority) = self else { return Memcached::with(extra) };
        let mut arguments = authority.tls_arguments("node");
        arguments.extend(["-Y".to_owned(), authority.file("passwords")]);
        arguments.extend(extra.iter().map(|&word| word.to_owned()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Memcached::with_door(&arguments, LOGIN)
    }

    /// So many of them.
    pub fn nodes(&self, count: usize, extra: &[&str]) -> Vec<Memcached> {
        (0..count).map(|_| self.node(extra)).collect()
    }

    /// Slipring in front of such nodes, all of them up.
    pub fn slipring(&self, nodes: &[SocketAddr], extra: &[&str]) -> Slipring {
        let arguments = self.arguments(extra);
        Slipring::with(nodes, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// These arguments of slipring, and those that such nodes need.
    pub fn arguments(&self, extra: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = extra.iter().map(|&word| word.to_owned()).collect();
        if let Self::Secured(authority) = self {
            let (ca, passwords) = (authority.file("ca.pem"), authority.file("passwords"));
            arguments.extend(["--node-tls", "--node-tls-ca", &ca, "--node-auth-file", &passwords].map(str::to_owned));
        }
        arguments
    }
}
