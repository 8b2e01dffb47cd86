//! The list of nodes as people write it: in a flag, a variable, a file.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dns::may_be_a_node;
use super::slips;
use crate::phrase;
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
    #[error("node {}: not an IPv4 address, [IPv6] address or host name", phrase::quoted(.0))]
    BadHost(String),
    /// More than one colon, but not an IPv6 address.
    #[error("node {}: expected host, host:port or [IPv6]:port, a name after '/', and a weight after '='", phrase::quoted(.0))]
    BadForm(String),
    /// A name with characters that no list or protocol could carry.
    #[error("node {}: a name has 1 to 253 letters, digits and ._:-", phrase::quoted(.0))]
    BadName(String),
    /// The port is no number from 1 to 65535.
    #[error("node {}: the port must be a number from 1 to 65535", phrase::quoted(.0))]
    BadPort(String),
    /// The weight is no number from 1 to [`MAX_WEIGHT`].
    #[error("node {}: the weight must be a whole number from 1 to {MAX_WEIGHT}", phrase::quoted(.0))]
    BadWeight(String),
    /// The same host and port as an earlier entry.
    #[error("node {} is listed twice", phrase::quoted(.0))]
    Duplicate(String),
    /// Another server with the name of an earlier entry.
    #[error("node {}: an earlier node has the same name", phrase::quoted(.0))]
    NameTwice(String),
    /// Another way to write an earlier entry's address.
    #[error("node {} is the same server as {}", phrase::quoted(.0), phrase::quoted(.1))]
    Same(String, String),
    /// An address that no server has.
    #[error("node {}: this is the address of no server: {}", phrase::quoted(.0), .1)]
    NoServer(String, &'static str),
    /// A URL, such as Kubernetes makes of a Service.
    #[error("node {}: expected host or host:port, not a URL", phrase::quoted(.0))]
    Url(String),
    /// A list that a shell or a file did not take the quotes from.
    #[error("node {}: quotes do not belong in the list", phrase::quoted(.0))]
    Quoted(String),
    /// A word with a colon that belongs elsewhere, and where.
    #[error("node {}: {}", phrase::quoted(.0), .1)]
    Word(String, String),
    /// What a template or a shell was to replace, such as `$(NODES)`.
    #[error("node {}: this is a placeholder that nothing has replaced", phrase::quoted(.0))]
    Placeholder(String),
    /// A number, such as other programs want behind a node and a blank.
    #[error("node {}: a number alone is no host; a weight is written =WEIGHT behind its node, a port :PORT", phrase::quoted(.0))]
    Number(String),
    /// What stands before an element of a list in YAML.
    #[error("node {}: the list is no YAML; its nodes are separated by commas, blanks or line ends", phrase::quoted(.0))]
    Yaml(String),
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
            | Self::Word(entry, _)
            | Self::Placeholder(entry)
            | Self::Number(entry)
            | Self::Yaml(entry)
            | Self::Url(entry)
            | Self::Quoted(entry) => entry,
        };
        self.to_string().replacen(&format!("node {}", phrase::quoted(entry)), place, 1)
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
    if ["$(", "${", "{{", "}}"].iter().any(|mark| entry.contains(mark)) || entry.starts_with(['$', '<']) {
        return Err(NodeListError::Placeholder(quote(entry)));
    }
    if number(entry).is_some() {
        return Err(NodeListError::Number(quote(entry)));
    }
    if entry == "-" {
        return Err(NodeListError::Yaml(quote(entry)));
    }
    if let Some(problem) = slips::of_entry(entry) {
        return Err(NodeListError::Word(quote(entry), problem));
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
    if text.contains(['=', '/']) && !text.contains("://") {
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
mod tests;
