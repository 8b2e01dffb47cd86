//! Who the nodes are, for auto-discovery clients: this sidecar alone.
//!
//! Such clients ask a cluster's endpoint `config get cluster` and connect to what it lists. Pointed at a sidecar they
//! are told to stay with it. One form suits all of them: the address in both of its fields, for some take the first and
//! some the second; version 1, for some refuse 0, and always the same, so that none ever connects anew; a line feed
//! behind the list, which some wait for, and no space.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ends::Ends;

/// Where auto-discovery clients are sent.
#[derive(Clone, Debug)]
pub enum DiscoveryAnswer {
    /// Nowhere: they are answered as by a memcached, which knows no cluster.
    Off,
    /// To where they are connected, or to this address where that is of no use to them: on a Unix socket, and on `::1`,
    /// for some understand nothing but IPv4.
    Here(Option<SocketAddr>),
    /// To this host and port.
    At(Arc<str>, u16),
}

impl DiscoveryAnswer {
    /// The list of nodes, as it stands behind `CONFIG` and `VALUE` lines and in the body of a binary answer, with the flags
    /// 0. Nothing where there is no address to be told.
    pub(super) fn payload(&self, ends: &Ends) -> Option<String> {
        let list = |host: &dyn std::fmt::Display, port| format!("1\n{host}|{host}|{port}\n");
        let address = match self {
            Self::Off => None,
            Self::At(host, port) => return Some(list(host, *port)),
            Self::Here(other) => match ends.local() {
                Some(local) if local.is_ipv4() || !local.ip().is_loopback() => Some(local),
                local => other.or(local),
            },
        };
        address.map(|address| list(&address.ip(), address.port()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::ends::TcpEnds;
    use super::*;

    fn tcp(local: &str) -> Ends {
        Ends::Tcp(TcpEnds::new(local.parse().unwrap(), "127.0.0.1:40000".parse().unwrap()))
    }

    #[test]
    fn clients_are_told_where_they_are_connected() {
        let unix = || Ends::Unix(Path::new("/run/slipring.sock").into());
        let here = DiscoveryAnswer::Here(Some("127.0.0.1:11211".parse().unwrap()));
        for (ends, list) in [
            (tcp("127.0.0.1:11212"), "1\n127.0.0.1|127.0.0.1|11212\n"),
            (tcp("10.0.0.5:11211"), "1\n10.0.0.5|10.0.0.5|11211\n"),
            (tcp("[fd00::5]:11211"), "1\nfd00::5|fd00::5|11211\n"),
            (tcp("[::1]:11213"), "1\n127.0.0.1|127.0.0.1|11211\n"),
            (unix(), "1\n127.0.0.1|127.0.0.1|11211\n"),
            (Ends::Unknown, "1\n127.0.0.1|127.0.0.1|11211\n"),
        ] {
            assert_eq!(here.payload(&ends).as_deref(), Some(list), "{ends:?}");
            assert_eq!(DiscoveryAnswer::Off.payload(&ends), None);
            let named = DiscoveryAnswer::At("cache.example".into(), 11214);
            assert_eq!(named.payload(&ends).as_deref(), Some("1\ncache.example|cache.example|11214\n"));
        }
        let nowhere_else = DiscoveryAnswer::Here(None);
        assert_eq!(nowhere_else.payload(&tcp("[::1]:11213")).as_deref(), Some("1\n::1|::1|11213\n"));
        assert_eq!(nowhere_else.payload(&unix()), None);
    }
}
