//! A placement that is built: what finds the node of a key.

use super::bmemcached::Bmemcached;
use super::emcache::Emcache;
use super::hashes::{KeyHash, low};
use super::jump::Jump;
use super::mcrouter;
use super::modulo::Modulo;
use super::php_memcache::PhpMemcache;
use super::placement::{Family, Portion};
use super::pymemcache::Pymemcache;
use super::rendezvous::Rendezvous;
use super::ring::Ring;
use super::{NodeIndex, dalli, perl_fast};

/// A node as a family sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// What the family hashes of it.
    pub(super) label: String,
    /// Its weight, at least 1.
    pub(super) weight: u32,
}

/// A placement that is built.
#[derive(Debug)]
pub(super) enum Scheme {
    /// The default: by the hash that every request has anyway.
    Ring(Ring),
    /// By the key.
    Keyed(Box<Keyed>),
}

/// A placement that needs the key itself.
#[derive(Debug)]
pub(super) struct Keyed {
    portion: Portion,
    built: Built,
    shares: Box<[f64]>,
}

#[derive(Debug)]
enum Built {
    /// One node, which has every key.
    Sole,
    Circle(KeyHash, Ring),
    Modulo(Modulo),
    Jump(Jump),
    PhpMemcache(PhpMemcache),
    Pymemcache(Pymemcache),
    Rendezvous(Rendezvous),
    Ch3(mcrouter::Ch3),
    McrouterRendezvous(mcrouter::Rendezvous),
    Emcache(Emcache),
    Bmemcached(Bmemcached),
}

/// Where all hashes are, where that can be written down.
#[derive(Debug, PartialEq)]
pub(super) enum Map {
    /// Points in order; a hash belongs to the first at or above it, past the last to the first.
    Circle(KeyHash, Portion, Vec<(u32, NodeIndex)>),
    /// The owner of each remainder of a hash.
    Remainders(KeyHash, Portion, Vec<NodeIndex>),
}

// === impl Scheme ===

impl Scheme {
    /// What is there before the first ring is known.
    pub(super) fn unknown() -> Self {
        Self::Ring(Ring::new(&[]))
    }

    pub(super) fn new(family: &Family, portion: &Portion, members: &[Member]) -> Self {
        if *family == Family::Ring && portion.is_whole() {
            return Self::Ring(Ring::new(members));
        }
        let built = if members.len() <= 1 { Built::Sole } else { Built::new(family, members) };
        let shares = built.shares(members.len()).into();
        Self::Keyed(Box::new(Keyed { portion: portion.clone(), built, shares }))
    }

    /// The exact share of all keys that a node owns, 0 to 1, if the placement's hash is even.
    pub(super) fn share(&self, node: NodeIndex) -> f64 {
        match self {
            Self::Ring(ring) => ring.share(node),
            Self::Keyed(keyed) => keyed.shares.get(usize::from(node.0)).copied().unwrap_or(0.0),
        }
    }

    /// Where all hashes are, where that can be written down.
    pub(super) fn map(&self) -> Option<Map> {
        match self {
            Self::Ring(ring) => Some(Map::Circle(KeyHash::Xxh3High, Portion::default(), ring.points())),
            Self::Keyed(keyed) => match &keyed.built {
                Built::Circle(hash, ring) => Some(Map::Circle(*hash, keyed.portion.clone(), ring.points())),
                Built::Modulo(modulo) => {
                    Some(Map::Remainders(modulo.hash(), keyed.portion.clone(), modulo.buckets().to_vec()))
                }
                _ => None,
            },
        }
    }

    /// What it occupies on the heap, in bytes, as far as that is more than the nodes' names.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.heap_bytes(),
            Self::Keyed(keyed) => match &keyed.built {
                Built::Circle(_, ring) => ring.heap_bytes(),
                _ => size_of_val(&*keyed.shares),
            },
        }
    }
}

// === impl Keyed ===

impl Keyed {
    /// The owner of a key.
    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        self.portion.of(key, |key| self.built.locate(key))
    }
}

// === impl Built ===

impl Built {
    fn new(family: &Family, members: &[Member]) -> Self {
        let weights = || members.iter().map(|member| member.weight).collect::<Vec<_>>();
        let circle = |hash, points| Self::Circle(hash, Ring::from_points(points, members.len(), hash.range()));
        match *family {
            Family::Ring => Self::Circle(KeyHash::Xxh3High, Ring::new(members)),
            Family::Modulo { hash, .. } => Self::Modulo(Modulo::new(hash, &weights())),
            Family::Jump { seed } => Self::Jump(Jump::new(seed, members.len())),
            Family::Ketama { points, hash, .. } => circle(hash, points.of(members)),
            Family::Dalli => circle(KeyHash::Crc32, dalli::points(members)),
            Family::PerlFast { points } => circle(KeyHash::Crc32, perl_fast::points(members, points)),
            Family::PhpMemcache { hash } => Self::PhpMemcache(PhpMemcache::new(hash, members)),
            Family::Pymemcache => Self::Pymemcache(Pymemcache::new(members)),
            Family::Rendezvous => Self::Rendezvous(Rendezvous::new(members)),
            Family::Ch3 => Self::Ch3(mcrouter::Ch3::new(members.len())),
            Family::McrouterRendezvous => Self::McrouterRendezvous(mcrouter::Rendezvous::new(members)),
            Family::Emcache => Self::Emcache(Emcache::new(members)),
            Family::Bmemcached => Self::Bmemcached(Bmemcached::new(members)),
        }
    }

    fn locate(&self, key: &[u8]) -> NodeIndex {
        match self {
            Self::Sole => NodeIndex(0),
            Self::Circle(hash, ring) => ring.at(low(hash.of(key))),
            Self::Modulo(modulo) => modulo.locate(key),
            Self::Jump(jump) => jump.locate(key),
            Self::PhpMemcache(places) => places.locate(key),
            Self::Pymemcache(scores) => scores.locate(key),
            Self::Rendezvous(scores) => scores.locate(key),
            Self::Ch3(tree) => tree.locate(key),
            Self::McrouterRendezvous(scores) => scores.locate(key),
            Self::Emcache(scores) => scores.locate(key),
            Self::Bmemcached(circle) => circle.locate(key),
        }
    }

    fn shares(&self, nodes: usize) -> Vec<f64> {
        match self {
            Self::Circle(_, ring) => {
                (0..nodes).map(|i| u16::try_from(i).map_or(0.0, |i| ring.share(NodeIndex(i)))).collect()
            }
            Self::Modulo(modulo) => modulo.shares(),
            Self::PhpMemcache(places) => places.shares(),
            Self::Emcache(scores) => scores.shares(),
            Self::Bmemcached(circle) => circle.shares(),
            Self::Sole
            | Self::Jump(_)
            | Self::Pymemcache(_)
            | Self::Rendezvous(_)
            | Self::Ch3(_)
            | Self::McrouterRendezvous(_) => vec![1.0 / nodes.max(1) as f64; nodes],
        }
    }
}
