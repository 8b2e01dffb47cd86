//! The list of nodes as people write it: in a flag, a variable, a file.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dns::may_be_a_node;
use crate::routing::{MAX_NODES, MAX_WEIGHT, Node};

/// Longest host name DNS can carry, in bytes.
const MAX_HOST: usize = 253;

/// Longest label of a host name, in bytes.
const MAX_LABEL: usize = 63;

/// Why a list of nodes was refused: one line that names the offending entry as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeListError {
    /// Nothing but separators.
    #[error("the list of nodes is empty")]
    Empty,
    /// More than [`MAX_NODES`] entries.
    #[error("the list has more than {MAX_NODES} nodes")]
    TooMany,
    /// Neither an address nor a host name.
    #[error("node {0:?}: not an IPv4 address, [IPv6] address or host name")]
    BadHost(String),
    /// More than one colon, but not an IPv6 address.
    #[error("node {0:?}: expected host, host:port or [IPv6]:port, a name after '/', and a weight after '='")]
    BadForm(String),
    /// A name with characters that no list or protocol could carry.
    #[error("node {0:?}: a name has 1 to 253 letters, digits and ._:-")]
    BadName(String),
    /// The port is no number from 1 to 65535.
    #[error("node {0:?}: the port must be a number from 1 to 65535")]
    BadPort(String),
    /// The weight is no number from 1 to [`MAX_WEIGHT`].
    #[error("node {0:?}: the weight must be a number from 1 to {MAX_WEIGHT}")]
    BadWeight(String),
    /// The same host and port as an earlier entry.
    #[error("node {0:?} is listed twice")]
    Duplicate(String),
    /// Another server with the name of an earlier entry.
    #[error("node {0:?}: an earlier node has the same name")]
    NameTwice(String),
    /// Another way to write an earlier entry's address.
    #[error("node {0:?} is the same server as {1:?}")]
    Same(String, String),
    /// An address that no server has.
    #[error("node {0:?}: this is the address of no server: {1}")]
    NoServer(String, &'static str),
    /// A URL, such as Kubernetes makes of a Service.
    #[error("node {0:?}: expected host or host:port, not a URL")]
    Url(String),
    /// A list that a shell or a file did not take the quotes from.
    #[error("node {0:?}: quotes do not belong into the list")]
    Quoted(String),
}

/// Reads a list of nodes: `host`, `host:port`, `IPv6`, `[IPv6]` or `[IPv6]:port`, each with an optional `/name` and an
/// optional `=weight`, separated by commas, semicolons and white space. Nodes without a port get `default_port`,
/// without a weight 1.
///
/// # Errors
/// [`NodeListError`], at the first entry that is wrong.
pub fn parse_nodes(text: &str, default_port: u16) -> Result<Vec<Node>, NodeListError> {
    let mut nodes = Vec::new();
    add_nodes(entries(text), default_port, &mut nodes)?;
    Ok(nodes)
}

/// The entries of a list.
pub(super) fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c == ';' || c.is_whitespace()).filter(|entry| !entry.is_empty())
}

/// Reads entries into `nodes`, which is empty; when one is wrong, it holds those before it.
pub(super) fn add_nodes<'a>(
    entries: impl Iterator<Item = &'a str>,
    default_port: u16,
    nodes: &mut Vec<Node>,
) -> Result<(), NodeListError> {
    let mut names = HashSet::new();
    let mut servers = HashMap::new();
    for entry in entries {
        if nodes.len() == MAX_NODES {
            return Err(NodeListError::TooMany);
        }
        let node = parse_node(entry, default_port)?;
        let first = servers.insert(server(&node), (node.address(), entry));
        match first {
            Some((address, first)) if address != node.address() => {
                return Err(NodeListError::Same(quote(entry), quote(first)));
            }
            Some(_) => return Err(NodeListError::Duplicate(quote(entry))),
            None if !names.insert(node.name.to_string()) => return Err(NodeListError::NameTwice(quote(entry))),
            None => {}
        }
        nodes.push(node);
    }
    if nodes.is_empty() { Err(NodeListError::Empty) } else { Ok(()) }
}

// === impl NodeListError ===

impl NodeListError {
    /// The line with a place instead of the entry: what stands in the wrong file may be a secret.
    pub(super) fn at(&self, place: &str) -> String {
        let entry = match self {
            Self::Empty | Self::TooMany => return self.to_string(),
            Self::Same(..) => return format!("{place} is the same server as an earlier entry"),
            Self::BadHost(entry)
            | Self::BadForm(entry)
            | Self::BadName(entry)
            | Self::BadPort(entry)
            | Self::BadWeight(entry)
            | Self::Duplicate(entry)
            | Self::NameTwice(entry)
            | Self::NoServer(entry, _)
            | Self::Url(entry)
            | Self::Quoted(entry) => entry,
        };
        self.to_string().replacen(&format!("node {entry:?}"), place, 1)
    }
}

/// A node's address in the one form of those that are surely the same server.
fn server(node: &Node) -> (String, u16) {
    let host = match node.host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) if &*node.host == "localhost" => Ipv4Addr::LOCALHOST.to_string(),
        Err(_) => node.host.to_string(),
    };
    (host, node.port)
}

pub(super) fn parse_node(entry: &str, default_port: u16) -> Result<Node, NodeListError> {
    if entry.contains(['"', '\'']) {
        return Err(NodeListError::Quoted(quote(entry)));
    }
    if entry.contains("://") {
        return Err(NodeListError::Url(quote(entry)));
    }
    let (address, weight) = match entry.split_once('=') {
        Some((address, weight)) => {
            let weight = number(weight).filter(|weight| (1..=MAX_WEIGHT).contains(weight));
            (address, weight.ok_or_else(|| NodeListError::BadWeight(quote(entry)))?)
        }
        None => (entry, 1),
    };
    let (address, name) = address.split_once('/').map_or((address, None), |(address, name)| (address, Some(name)));
    let (host, port) = split_port(address).ok_or_else(|| NodeListError::BadForm(quote(entry)))?;
    let port = match port {
        Some(port) => number(port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| NodeListError::BadPort(quote(entry)))?,
        None => default_port,
    };
    if !is_host(host) {
        return Err(NodeListError::BadHost(quote(entry)));
    }
    if let Some(address) = host.parse::<IpAddr>().ok().filter(|address| !may_be_a_node(*address)) {
        return Err(NodeListError::NoServer(quote(entry), kind(address)));
    }
    let node = Node::new(host, port, weight);
    match name {
        None => Ok(node),
        Some(name) if is_name(name) => Ok(node.named(name)),
        Some(_) => Err(NodeListError::BadName(quote(entry))),
    }
}

/// Whether this is no port but what Kubernetes sets for a Service: for one called `memcached`, every pod has
/// `MEMCACHED_PORT=tcp://10.0.0.9:11211`.
#[must_use]
pub fn is_service_link(port: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| port.starts_with(scheme))
}

/// Reads `host`, `host:port` and `[IPv6]:port` of a server that is asked who the nodes are.
///
/// # Errors
/// [`NodeListError`], when it is none of these.
pub fn parse_server(text: &str, default_port: u16) -> Result<(String, u16), NodeListError> {
    if text.contains(['=', '/']) {
        return Err(NodeListError::BadHost(quote(text)));
    }
    parse_node(text, default_port).map(|node| (node.host.to_string(), node.port))
}

/// What an address stands for that is no server's.
fn kind(address: IpAddr) -> &'static str {
    match address.to_canonical() {
        address if address.is_multicast() => "it is a multicast group",
        address if address.is_unspecified() => "it is what is listened on, not connected to",
        _ => "it is the broadcast address",
    }
}

/// Splits `host`, `host:port`, `IPv6`, `[IPv6]` and `[IPv6]:port`; what is in brackets must be an IPv6 address.
fn split_port(address: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
        return host.parse::<Ipv6Addr>().is_ok().then_some((host, port));
    }
    match address.split_once(':') {
        None => Some((address, None)),
        Some((_, rest)) if rest.contains(':') => address.parse::<Ipv6Addr>().is_ok().then_some((address, None)),
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// What twemproxy and others take for a server's name.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
    (1..=MAX_HOST).contains(&name.len()) && name.bytes().all(fits)
}

/// Underscores are no letters of host names, but Docker Compose and others use them.
pub(super) fn is_host(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    // "10.0.0.256" and "10.0.0" are addresses gone wrong, though their bytes would do for a name.
    let has_letter = name.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'.');
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (name.parse::<std::net::Ipv4Addr>().is_ok() || has_letter) && name.len() <= MAX_HOST && name.split('.').all(label)
}

/// Digits only: `str::parse` would also take a sign.
pub(super) fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// An entry for an error line, which stays one short line whatever was in the environment.
pub(super) fn quote(entry: &str) -> String {
    const LONGEST: usize = 80;
    if entry.chars().count() <= LONGEST {
        return entry.to_owned();
    }
    entry.chars().take(LONGEST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Result<Vec<String>, String> {
        let nodes = parse_nodes(text, 11211).map_err(|error| error.to_string())?;
        Ok(nodes.iter().map(|node| format!("{}={}", node.name, node.weight)).collect())
    }

    #[test]
    fn every_form_of_a_node() {
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(long.len(), 253);
        for (entry, expected) in [
            ("10.0.0.2", "10.0.0.2:11211=1"),
            ("10.0.0.2.", "10.0.0.2:11211=1"),
            ("10.0.0.3:11212", "10.0.0.3:11212=1"),
            ("10.0.0.3:11212=2", "10.0.0.3:11212=2"),
            ("10.0.0.3=1000", "10.0.0.3:11211=1000"),
            ("10.0.0.3:00080", "10.0.0.3:80=1"),
            ("10.0.0.3:65535", "10.0.0.3:65535=1"),
            ("::1", "[::1]:11211=1"),
            ("fd00:0::0:2=3", "[fd00::2]:11211=3"),
            ("[::1]", "[::1]:11211=1"),
            ("[::1]:1", "[::1]:1=1"),
            ("[FD00::A]:1=7", "[fd00::a]:1=7"),
            ("::ffff:10.0.0.1", "[::ffff:10.0.0.1]:11211=1"),
            ("10.0.0.2:11211/cache-a", "cache-a=1"),
            ("10.0.0.2/Server_1=3", "Server_1=3"),
            ("[::1]:1/10.0.0.9:11211", "10.0.0.9:11211=1"),
            ("localhost", "localhost:11211=1"),
            ("Cache-0.Example.COM.", "cache-0.example.com:11211=1"),
            ("my_cache.svc:11213", "my_cache.svc:11213=1"),
            ("7up.example", "7up.example:11211=1"),
            (long.as_str(), &format!("{long}:11211=1")),
        ] {
            assert_eq!(listed(entry), Ok(vec![expected.to_owned()]), "{entry}");
        }
    }

    #[test]
    fn every_separator() {
        let expected: Vec<String> = ["a:11211=1", "b:1=1", "c:11211=2", "[::1]:11211=1"].map(str::to_owned).into();
        for text in
            ["a,b:1,c=2,::1", "a;b:1;c=2;::1", "a b:1 c=2 ::1", "a\nb:1\r\nc=2\n::1\n", " ,a, b:1;;\t c=2 ,\n[::1], "]
        {
            assert_eq!(listed(text), Ok(expected.clone()), "{text:?}");
        }
    }

    #[test]
    fn the_default_port_is_the_one_given() {
        let nodes = parse_nodes("a,b:5", 22122).unwrap();
        assert_eq!(nodes.iter().map(|node| node.port).collect::<Vec<_>>(), [22122, 5]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        const FORM: &str = "expected host, host:port or [IPv6]:port, a name after '/', and a weight after '='";
        const NAME: &str = "a name has 1 to 253 letters, digits and ._:-";
        const HOST: &str = "not an IPv4 address, [IPv6] address or host name";
        const PORT: &str = "the port must be a number from 1 to 65535";
        const URL: &str = "expected host or host:port, not a URL";
        const WEIGHT: &str = "the weight must be a number from 1 to 1000";
        for (entry, problem) in [
            ("a:b:c", FORM),
            ("10.0.0.1:11211:3", FORM),
            ("[::1", FORM),
            ("[::1]11211", FORM),
            ("[10.0.0.1]:1", FORM),
            ("[localhost]:1", FORM),
            ("fe80::1%eth0", FORM),
            ("tcp://10.0.0.9:11211", URL),
            ("http://10.0.0.9", URL),
            ("10.0.0.2:11211/", NAME),
            ("10.0.0.2/a/b", NAME),
            ("10.0.0.2/ä", NAME),
            ("10.0.0.256", HOST),
            ("10.0.0", HOST),
            ("12345", HOST),
            (":11211", HOST),
            ("a..b", HOST),
            (".", HOST),
            ("/b", HOST),
            ("späti", HOST),
            ("a\u{7}b", HOST),
            ("=2", HOST),
            ("-", HOST),
            ("-a", HOST),
            ("a-.b", HOST),
            ("a:0", PORT),
            ("a:65536", PORT),
            ("a:4294967297", PORT),
            ("a:99999999999999999999", PORT),
            ("a:", PORT),
            ("[::1]:", PORT),
            ("a:+80", PORT),
            ("a:-1", PORT),
            ("a:http", PORT),
            ("a=0", WEIGHT),
            ("a=1001", WEIGHT),
            ("a=-1", WEIGHT),
            ("a=1.5", WEIGHT),
            ("a=", WEIGHT),
            ("a=1=2", WEIGHT),
            ("a=99999999999", WEIGHT),
        ] {
            let expected = format!("node {entry:?}: {problem}");
            assert_eq!(listed(entry), Err(expected.clone()));
            assert_eq!(listed(&format!("good,{entry},never")), Err(expected));
        }
    }

    #[test]
    fn names_that_are_too_long_are_refused_in_a_short_line() {
        for name in ["a".repeat(64), format!("a.{}", "b.".repeat(130))] {
            let line = listed(&name).unwrap_err();
            assert!(line.starts_with("node \"a"), "{line}");
            assert!(line.len() < 160, "{line}");
        }
    }

    #[test]
    fn one_server_written_in_two_ways_is_refused() {
        for (first, second) in [
            ("localhost:1", "127.0.0.1:1"),
            ("127.0.0.1", "::ffff:127.0.0.1"),
            ("10.0.0.1/a", "[::ffff:10.0.0.1]:11211/b"),
        ] {
            let expected = format!("node {second:?} is the same server as {first:?}");
            assert_eq!(listed(&format!("{first} other {second}")), Err(expected));
        }
        assert!(listed("localhost:1 127.0.0.1:2 [::1]:1").is_ok());
    }

    #[test]
    fn an_address_that_no_server_has_is_refused() {
        for (entry, kind) in [
            ("224.0.0.1", "it is a multicast group"),
            ("239.1.2.3:11211=2", "it is a multicast group"),
            ("[ff02::1]:1", "it is a multicast group"),
            ("::ffff:224.0.0.1", "it is a multicast group"),
            ("255.255.255.255", "it is the broadcast address"),
            ("0.0.0.0", "it is what is listened on, not connected to"),
            ("0.0.0.0/name", "it is what is listened on, not connected to"),
            ("[::]:11211", "it is what is listened on, not connected to"),
            ("::", "it is what is listened on, not connected to"),
        ] {
            let expected = format!("node {entry:?}: this is the address of no server: {kind}");
            assert_eq!(listed(entry), Err(expected.clone()));
            assert!(parse_server(entry.split(['=', '/']).next().unwrap(), 1).is_err(), "{entry}");
        }
        assert!(listed("223.255.255.255 240.0.0.1 0.0.0.1 fe80::1").is_ok());
    }

    #[test]
    fn quotes_are_told_from_a_wrong_port() {
        for entry in ["\"a:11211\"", "'a'", "a:11211\""] {
            assert_eq!(listed(entry), Err(format!("node {entry:?}: quotes do not belong into the list")));
        }
    }

    #[test]
    fn an_identity_listed_twice_is_refused_however_it_is_written() {
        for (text, second) in [
            ("a,b,a", "a"),
            ("a,A", "A"),
            ("a.example,a.example.", "a.example."),
            ("a,a:11211", "a:11211"),
            ("a=2,a=3", "a=3"),
            ("::1,[0:0::1]:11211", "[0:0::1]:11211"),
            ("a/x,a/y", "a/y"),
            ("a,a/y", "a/y"),
        ] {
            assert_eq!(listed(text), Err(format!("node {second:?} is listed twice")));
        }
        for (text, second) in [("a/x,b/x", "b/x"), ("a/b:11211,b", "b")] {
            assert_eq!(listed(text), Err(format!("node {second:?}: an earlier node has the same name")));
        }
        assert_eq!(listed("a:1,a:2").map(|nodes| nodes.len()), Ok(2));
    }

    #[test]
    fn a_list_of_nothing_or_of_too_much_is_refused() {
        for text in ["", " ", ",;\n", "\t"] {
            assert_eq!(listed(text), Err("the list of nodes is empty".to_owned()));
        }
        let list = |n: usize| (0..n).map(|i| format!("n{i}")).collect::<Vec<_>>().join(",");
        assert_eq!(listed(&list(MAX_NODES)).map(|nodes| nodes.len()), Ok(MAX_NODES));
        assert_eq!(listed(&list(MAX_NODES + 1)), Err("the list has more than 1024 nodes".to_owned()));
    }
}
