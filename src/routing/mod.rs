//! Key → node. A [`Topology`] is immutable: a change of nodes builds a new one and swaps it in.

mod ring;

use std::{fmt, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use twox_hash::XxHash3_64;

use ring::Ring;

/// Largest number of nodes in a topology. Every worker keeps a connection to each, and a ring entry has ten bits for
/// the node.
pub const MAX_NODES: usize = 1024;

/// Largest weight of a node; the smallest is 1.
pub const MAX_WEIGHT: u32 = 1000;

/// One memcached server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Identity, which is what the ring hashes: `host:port`, host in lower case without trailing dot, IPv6 addresses
    /// in brackets and in their shortest form.
    pub name: Arc<str>,
    /// Host name or address to connect to; IPv6 without brackets.
    pub host: Arc<str>,
    /// TCP port, never 0 when it comes from a list.
    pub port: u16,
    /// Share of the keys relative to the other nodes, 1 to [`MAX_WEIGHT`]; the ring treats anything else as the
    /// nearest of these.
    pub weight: u32,
}

/// Position of a node in [`Topology::nodes`]; means nothing in another topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub u16);

/// Why nodes make no topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A ring without nodes would lose every key (invariant E).
    #[error("a ring needs at least one node")]
    Empty,
    /// More than [`MAX_NODES`].
    #[error("a ring has room for {MAX_NODES} nodes, not for {0}")]
    TooMany(usize),
}

/// A set of nodes and the placement of all keys on them.
#[derive(Debug)]
pub struct Topology {
    version: u64,
    fingerprint: u64,
    nodes: Box<[Arc<Node>]>,
    ring: Ring,
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
        Self { name: name.into(), host: host.into(), port, weight }
    }
}

impl Node {
    /// What is dialled: host and port, an IPv6 address in brackets.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
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
    /// Builds the ring. `version` counts the changes of this process; it is not part of the placement.
    ///
    /// Names are expected to be distinct: of two nodes with one name, one gets no keys. Takes about a millisecond
    /// for three nodes, so it belongs on the control thread.
    ///
    /// # Errors
    /// Without nodes, and with more than [`MAX_NODES`].
    pub fn new(version: u64, nodes: Vec<Arc<Node>>) -> Result<Self, TopologyError> {
        match nodes.len() {
            0 => Err(TopologyError::Empty),
            1..=MAX_NODES => {
                let ring = Ring::new(&nodes);
                Ok(Self { version, fingerprint: fingerprint(&nodes), nodes: nodes.into(), ring })
            }
            many => Err(TopologyError::TooMany(many)),
        }
    }

    /// What is known before the first ring: version 0, no nodes. Requests are answered as if their node were down.
    #[must_use]
    pub fn unknown() -> Self {
        Self { version: 0, fingerprint: 0, nodes: Box::default(), ring: Ring::new(&[]) }
    }

    /// The hash every placement starts from; kept by callers that need it twice.
    #[inline]
    #[must_use]
    pub fn hash(key: &[u8]) -> u64 {
        XxHash3_64::oneshot(key)
    }

    /// The node that owns a key. Never fails: there is always a node.
    #[inline]
    #[must_use]
    pub fn route(&self, key: &[u8]) -> NodeIndex {
        self.route_hash(Self::hash(key))
    }

    /// The node that owns the key with this [`hash`](Self::hash).
    #[inline]
    #[must_use]
    pub fn route_hash(&self, hash: u64) -> NodeIndex {
        self.ring.locate(hash)
    }

    /// The node that owns the key with this [`hash`](Self::hash); none only before the first ring is known.
    #[must_use]
    pub fn owner(&self, hash: u64) -> Option<&Arc<Node>> {
        self.nodes.get(usize::from(self.route_hash(hash).0))
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

    /// The exact share of all keys that a node owns, 0 to 1; 0 for an index of another topology.
    #[must_use]
    pub fn share(&self, node: NodeIndex) -> f64 {
        self.ring.share(node)
    }

    /// The share of the key space, 0 to 1, whose owner is another in `other`; by 65,536 evenly spread samples.
    #[must_use]
    pub fn moved(&self, other: &Self) -> f64 {
        const SAMPLES: u32 = 1 << 16;
        let moved = (0..SAMPLES).filter(|sample| {
            let hash = (u64::from(*sample) << 48) | (1 << 47);
            self.owner(hash).map(|node| &node.name) != other.owner(hash).map(|node| &node.name)
        });
        moved.count() as f64 / f64::from(SAMPLES)
    }

    /// What the placement occupies on the heap, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.ring.heap_bytes()
    }
}

fn fingerprint(nodes: &[Arc<Node>]) -> u64 {
    let mut lines: Vec<String> = nodes.iter().map(|node| format!("{}={}\n", node.name, node.weight)).collect();
    lines.sort_unstable();
    lines.insert(0, "ring\n".to_owned());
    XxHash3_64::oneshot(lines.concat().as_bytes())
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
            assert_eq!(topology.route(key.as_bytes()), topology.route_hash(Topology::hash(key.as_bytes())));
        }
    }
}
