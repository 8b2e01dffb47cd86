//! Key → node. A [`Topology`] is immutable: a change of nodes builds a new one and swaps it in.
//!
//! What a user has is a [`Preset`] (`presets.rs`), which with its options is a [`Placement`] (`placement.rs`); built for
//! nodes it is a `Scheme` (`scheme.rs`) of one of the families, each a file of its own.

mod before;
mod bmemcached;
mod dalli;
mod emcache;
mod hashes;
mod jump;
mod ketama;
mod mcrouter;
mod modulo;
mod perl_fast;
mod php_memcache;
mod placement;
mod plan;
mod presets;
mod pymemcache;
mod rendezvous;
mod ring;
mod scheme;

use std::{collections::HashSet, fmt, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use twox_hash::XxHash3_64;

use before::Beside;
pub use before::{Before, OldNode, Phase};
pub use placement::{NameFormat, NameFormatError, Placement, PlacementError};
pub use plan::{Basis, Plan, Row};
pub use presets::{PRESETS, Preset};
use scheme::{Map, Member, Scheme};

/// Largest number of nodes in a topology. Every worker keeps a connection to each, and a ring entry has ten bits for
/// the node.
pub const MAX_NODES: usize = 1024;

/// Largest weight of a node; the smallest is 1.
pub const MAX_WEIGHT: u32 = 1000;

/// Longest key of memcached, in bytes.
pub const MAX_KEY: usize = 250;

/// One memcached server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Identity, which is what the ring hashes: `host:port`, host in lower case without trailing dot, IPv6 addresses
    /// in brackets and in their shortest form; or the name that the user gave.
    pub name: Arc<str>,
    /// Whether the user gave the name.
    pub named: bool,
    /// Host name or address to connect to; IPv6 without brackets.
    pub host: Arc<str>,
    /// TCP port, never 0 when it comes from a list.
    pub port: u16,
    /// Share of the keys relative to the other nodes, 1 to [`MAX_WEIGHT`]; the ring treats anything else as the
    /// nearest of these.
    pub weight: u32,
    /// The name its certificate is to have, where that is not [`Node::identity`]: of a node that was found as one of a
    /// name's addresses, or that the user gave a name.
    pub certified: Option<Arc<str>>,
}

/// Position of a node in [`Topology::nodes`]; means nothing in another topology.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub u16);

/// Why nodes make no topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A ring without nodes would lose every key (invariant E).
    #[error("a ring needs at least one node")]
    Empty,
    /// More than [`MAX_NODES`].
    #[error("a ring has room for {MAX_NODES} nodes, not for {0}")]
    TooMany(usize),
    /// A node with a weight in a placement that has none: its client would have ignored or refused it.
    #[error("placement {placement} has no weights, but {node} has one")]
    Weighted {
        /// The preset.
        placement: &'static str,
        /// The first such node.
        node: Arc<str>,
    },
    /// Two nodes that the placement cannot tell apart.
    #[error("two nodes are both {0:?} to the placement: see --node-name-format")]
    SameName(String),
}

/// A set of nodes and the placement of all keys on them.
#[derive(Debug)]
pub struct Topology {
    version: u64,
    fingerprint: u64,
    placement: Arc<Placement>,
    nodes: Box<[Arc<Node>]>,
    scheme: Scheme,
    before: Option<Beside>,
}

/// The topology in use, for whoever asks, and its announcement to the workers. Readers never lock.
#[derive(Debug)]
pub struct Published {
    current: ArcSwap<Topology>,
    /// A `watch` loses no wake, and a worker that was busy sees the last one only.
    announced: watch::Sender<u64>,
}

impl Published {
    /// Publishes the first topology.
    #[must_use]
    pub fn new(topology: Topology) -> Self {
        let announced = watch::Sender::new(topology.version);
        Self { current: ArcSwap::from_pointee(topology), announced }
    }

    /// The topology in use.
    #[must_use]
    pub fn load(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// Puts another in its place and tells the workers.
    pub fn publish(&self, topology: Topology) {
        let version = topology.version;
        self.current.store(Arc::new(topology));
        self.announced.send_replace(version);
    }

    /// Is told of every change from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.announced.subscribe()
    }
}

// === impl Node ===

impl Node {
    /// A node whose name is made from its address. `host` is an IPv4 address, an IPv6 address without brackets, or a
    /// host name, which is not validated here.
    #[must_use]
    pub fn new(host: &str, port: u16, weight: u32) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let (host, name) = match host.parse() {
            Ok(IpAddr::V6(address)) => (address.to_string(), format!("[{address}]:{port}")),
            _ => {
                let name = format!("{host}:{port}");
                (host, name)
            }
        };
        Self { name: name.into(), named: false, host: host.into(), port, weight, certified: None }
    }

    /// The same node under a name that the user gave: what every placement hashes.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        // It may be dialled at an address later.
        let certified = Some(self.certificate_name().into());
        Self { name: name.into(), named: true, certified, ..self }
    }

    /// The same node, found as an address of `name`: that is what its certificate is to be for.
    #[must_use]
    pub fn certified_as(self, name: &str) -> Self {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        Self { certified: Some(name.into()), ..self }
    }

    /// The host name or address that its certificate is to be for.
    #[must_use]
    pub fn certificate_name(&self) -> &str {
        self.certified.as_deref().unwrap_or_else(|| self.identity())
    }

    /// The host as it was listed, whatever is dialled: that part of the identity. IPv6 without brackets.
    #[must_use]
    pub fn identity(&self) -> &str {
        if self.named {
            return &self.host;
        }
        let host = self.name.rsplit_once(':').map_or(&*self.name, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// What is dialled: host and port, an IPv6 address in brackets.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// As it is written in a list: host, port, and the name that the user gave.
    #[must_use]
    pub fn listed(&self) -> String {
        if self.named { format!("{}/{}", self.address(), self.name) } else { self.name.to_string() }
    }

    /// The whole entry of a list: [`listed`](Self::listed), and the weight unless it is 1. As it was before its name was
    /// resolved.
    #[must_use]
    pub fn entry(&self) -> String {
        let weight = if self.weight == 1 { String::new() } else { format!("={}", self.weight) };
        format!("{}{weight}", self.listed())
    }

    /// The same node, connected to at another host: its identity, and so its keys, stay.
    #[must_use]
    pub fn dialled_at(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

// === impl Topology ===

impl Topology {
    /// Builds the default ring. `version` counts the changes of this process; it is not part of the placement.
    ///
    /// Names are expected to be distinct: of two nodes with one name, one gets no keys. Takes about a millisecond
    /// for three nodes, so it belongs on the control thread.
    ///
    /// # Errors
    /// Without nodes, and with more than [`MAX_NODES`].
    pub fn new(version: u64, nodes: Vec<Arc<Node>>) -> Result<Self, TopologyError> {
        Self::placed(version, nodes, &Arc::default())
    }

    /// The same with another placement.
    ///
    /// # Errors
    /// Also with weights where the placement has none, and with nodes that it cannot tell apart.
    pub fn placed(version: u64, nodes: Vec<Arc<Node>>, placement: &Arc<Placement>) -> Result<Self, TopologyError> {
        match nodes.len() {
            0 => return Err(TopologyError::Empty),
            1..=MAX_NODES => {}
            many => return Err(TopologyError::TooMany(many)),
        }
        let weighted = nodes.iter().find(|node| node.weight > 1).filter(|_| !placement.has_weights());
        if let Some(node) = weighted {
            return Err(TopologyError::Weighted { placement: placement.preset(), node: Arc::clone(&node.name) });
        }
        let member =
            |node: &Arc<Node>| Member { label: placement.label(node), weight: node.weight.clamp(1, MAX_WEIGHT) };
        let members: Vec<Member> = nodes.iter().map(member).collect();
        if !placement.counts_order() && !placement.is_by_hash() {
            let mut seen = HashSet::new();
            if let Some(twice) = members.iter().find(|member| !seen.insert(&member.label)) {
                return Err(TopologyError::SameName(twice.label.clone()));
            }
        }
        let scheme = Scheme::new(placement.family(), placement.portion(), &members);
        let fingerprint = fingerprint(placement, &nodes, &members, &scheme);
        Ok(Self { version, fingerprint, scheme, placement: Arc::clone(placement), nodes: nodes.into(), before: None })
    }

    /// What is known before the first ring: version 0, no nodes. Requests are answered as if their node were down.
    #[must_use]
    pub fn unknown() -> Self {
        let (placement, scheme) = (Arc::default(), Scheme::unknown());
        Self { version: 0, fingerprint: 0, placement, nodes: Box::default(), scheme, before: None }
    }

    /// The hash of a key that every request has: of hot keys, of keys that are asked for together, and of the default
    /// placement.
    #[inline]
    #[must_use]
    pub fn hash(key: &[u8]) -> u64 {
        XxHash3_64::oneshot(key)
    }

    /// The node that owns a key. Never fails: there is always a node.
    #[inline]
    #[must_use]
    pub fn route(&self, key: &[u8]) -> NodeIndex {
        self.route_with(Self::hash(key), || key)
    }

    /// The node that owns the key with this [`hash`](Self::hash). The default placement does not ask for the key.
    #[inline]
    #[must_use]
    pub fn route_with<'key>(&self, hash: u64, key: impl FnOnce() -> &'key [u8]) -> NodeIndex {
        match &self.scheme {
            Scheme::Ring(ring) => ring.locate(hash),
            Scheme::Keyed(keyed) => keyed.locate(key()),
        }
    }

    /// Whether a placement, this or that of the ring before, asks for the key itself, and not for its hash alone.
    #[must_use]
    pub fn needs_key(&self) -> bool {
        matches!(self.scheme, Scheme::Keyed(_)) || self.before().is_some_and(|before| before.ring().needs_key())
    }

    /// The same nodes with the ring before a planned change beside them, or without.
    #[must_use]
    pub fn with_before(mut self, before: Option<Arc<Before>>) -> Self {
        self.before = before.map(|before| Beside::new(before, &self));
        self
    }

    /// The ring before a planned change, as long as it is declared. It is not part of the fingerprint.
    #[must_use]
    pub fn before(&self) -> Option<&Arc<Before>> {
        self.before.as_ref().map(Beside::before)
    }

    /// Whether a ring [`before`](Self::before) is declared that places keys as this one does: none has an old place.
    #[must_use]
    pub fn is_as_before(&self) -> bool {
        self.before.as_ref().is_some_and(Beside::is_equal)
    }

    /// The nodes of the ring [`before`](Self::before) that are not in this one.
    pub fn old_nodes(&self) -> impl Iterator<Item = (NodeIndex, &Arc<Node>)> {
        let nodes = self.before().into_iter().flat_map(|before| before.ring().nodes().iter().zip(0..));
        let is_here = |node: &Node| self.nodes.iter().any(|other| other.name == node.name);
        nodes.filter(move |(node, _)| !is_here(node)).map(|(node, index)| (NodeIndex(index), node))
    }

    /// The old place of a key whose owner here is `owner`: the node of the ring [`before`](Self::before) that had it. None
    /// where there is no ring before, where the key has not moved, and where the node's memory is gone.
    #[inline]
    #[must_use]
    pub fn old_place<'key>(&self, owner: NodeIndex, hash: u64, key: impl FnOnce() -> &'key [u8]) -> Option<NodeIndex> {
        self.before.as_ref().and_then(|beside| beside.old_place(owner, hash, key))
    }

    /// The node that owns a key; none only before the first ring is known.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> Option<&Arc<Node>> {
        self.nodes.get(usize::from(self.route(key).0))
    }

    /// How keys are placed.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The nodes in the order in which they were given; none only before the first ring is known.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The number given to [`new`](Self::new).
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Equal for two sidecars exactly when they place every key alike (placement, names and weights; not the order
    /// of the nodes). Shown as 16 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The ring's name for people and labels: 8 hex digits of the fingerprint.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:08x}", self.fingerprint >> 32)
    }

    /// The exact share of all keys that a node owns, 0 to 1, as far as the placement's hash is even; 0 for an index of
    /// another topology.
    #[must_use]
    pub fn share(&self, node: NodeIndex) -> f64 {
        self.scheme.share(node)
    }

    /// The share of the key space, 0 to 1, whose owner is another in `other`: exact where both can be written down, else
    /// by samples, few enough for the control thread.
    #[must_use]
    pub fn moved(&self, other: &Self) -> f64 {
        const SAMPLES: u32 = 1 << 14;
        Plan::between(self, other, SAMPLES).moved
    }

    /// What the placement occupies on the heap, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.scheme.heap_bytes()
    }
}

/// Made of what decides: where all hashes are, if that can be written down, else the algorithm and what it hashes.
///
/// The names of [`KeyHash`](hashes::KeyHash) and of the other parts are in it: renaming one changes the fingerprints that
/// sidecars of two versions compare.
fn fingerprint(placement: &Placement, nodes: &[Arc<Node>], members: &[Member], scheme: &Scheme) -> u64 {
    let name = |index: NodeIndex| nodes.get(usize::from(index.0)).map_or("", |node| &*node.name);
    let mut text;
    match scheme.map().filter(|_| !placement.is_by_hash()) {
        Some(Map::Circle(hash, portion, points)) => {
            text = format!("circle {hash:?} {portion:?}\n");
            points.iter().for_each(|(point, node)| text.push_str(&format!("{point:08x} {}\n", name(*node))));
        }
        Some(Map::Remainders(hash, portion, owners)) => {
            text = format!("remainders {hash:?} {portion:?}\n");
            owners.iter().for_each(|node| text.push_str(&format!("{}\n", name(*node))));
        }
        None => {
            let line = |(node, member): (&Arc<Node>, &Member)| match *member.label == *node.name {
                true => format!("{}={}\n", node.name, node.weight),
                false => format!("{}|{}={}\n", node.name, member.label, node.weight),
            };
            let mut lines: Vec<String> = nodes.iter().zip(members).map(line).collect();
            if !placement.counts_order() {
                lines.sort_unstable();
            }
            text = format!("{}\n{}", placement.canonical(), lines.concat());
        }
    }
    XxHash3_64::oneshot(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(names: &[(&str, u32)]) -> Topology {
        let nodes = names.iter().map(|(host, weight)| Arc::new(Node::new(host, 11211, *weight))).collect();
        Topology::new(7, nodes).unwrap()
    }

    #[test]
    fn no_nodes_and_too_many_nodes_make_no_topology() {
        assert_eq!(Topology::new(1, Vec::new()).unwrap_err(), TopologyError::Empty);
        let node = Arc::new(Node::new("a", 1, 1));
        let error = Topology::new(1, vec![node; MAX_NODES + 1]).unwrap_err();
        assert_eq!(error.to_string(), "a ring has room for 1024 nodes, not for 1025");
    }

    #[test]
    fn what_moves_is_the_share_of_the_node_that_joins() {
        let three = topology(&[("a", 1), ("b", 1), ("c", 1)]);
        let four = topology(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        assert!((three.moved(&four) - four.share(NodeIndex(3))).abs() < 0.01);
        assert_eq!(three.moved(&topology(&[("c", 1), ("a", 1), ("b", 1)])), 0.0);
        assert_eq!(Topology::unknown().moved(&three), 1.0);
    }

    #[test]
    fn names_are_normalised() {
        for (host, name) in [
            ("Cache-0.Example.COM.", "cache-0.example.com:11211"),
            ("10.0.0.2", "10.0.0.2:11211"),
            ("::1", "[::1]:11211"),
            ("FD00:0:0:0:0:0:0:2", "[fd00::2]:11211"),
        ] {
            assert_eq!(&*Node::new(host, 11211, 1).name, name);
        }
        assert_eq!(&*Node::new("FD00:0::2", 1, 1).host, "fd00::2");
    }

    #[test]
    fn the_fingerprint_sees_names_and_weights_but_not_order_or_version() {
        let base = topology(&[("a", 1), ("b", 2)]);
        assert_eq!(base.fingerprint(), topology(&[("b", 2), ("a", 1)]).fingerprint());
        assert_ne!(base.fingerprint(), topology(&[("a", 2), ("b", 1)]).fingerprint());
        assert_ne!(base.fingerprint(), topology(&[("a", 1), ("c", 2)]).fingerprint());
        assert_ne!(base.fingerprint(), topology(&[("a", 1)]).fingerprint());
        assert_eq!(base.version(), 7);
    }

    #[test]
    fn a_key_goes_where_its_hash_goes() {
        let topology = topology(&[("a", 1), ("b", 1), ("c", 1)]);
        for i in 0..1000 {
            let key = format!("key:{i}");
            let hash = Topology::hash(key.as_bytes());
            assert_eq!(topology.route(key.as_bytes()), topology.route_with(hash, || key.as_bytes()));
        }
    }
}
