//! What one client may see of keys that only it writes, while they change hands.
//!
//! The rule: a client's requests for a key take effect in their order on whichever node owns the key at
//! that moment, and each node keeps what it was told last. So while no swap that moves the key can have
//! fallen into a pipeline, a `get` gives exactly what its owner was told last: behind a `set` in the same
//! pipeline, the value of that `set`. Where one can have, it gives what one of the possible owners was
//! told last: the new value, an older one that a node kept from before it left, or nothing. Never
//! anything else.
use crate::support::Random;
use slipring::routing::{Node, NodeIndex, Topology};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const NODES: usize = 5;

/// The nodes of a ring, as bits.
pub(crate) type Mask = usize;

/// The rings in the order in which they were asked for.
pub(crate) struct History {
    masks: RwLock<Vec<Mask>>,
    /// All workers have this one or a later one.
    settled: AtomicUsize,
}

impl History {
    pub(crate) fn new(first: Mask) -> Self {
        Self { masks: RwLock::new(vec![first]), settled: AtomicUsize::new(0) }
    }

    /// Said before anyone can have the ring.
    pub(crate) fn begin(&self, mask: Mask) {
        self.masks.write().unwrap().push(mask);
    }

    /// Said when all have the last one.
    pub(crate) fn settle(&self) {
        self.settled.store(self.masks.read().unwrap().len() - 1, Ordering::SeqCst);
    }

    pub(crate) fn settled(&self) -> usize {
        self.settled.load(Ordering::SeqCst)
    }

    /// The rings that may have been in use since then.
    pub(crate) fn since(&self, settled: usize) -> BTreeSet<Mask> {
        self.masks.read().unwrap()[settled..].iter().copied().collect()
    }
}

/// Every ring there can be.
pub(crate) struct Rings {
    names: Vec<String>,
    topologies: Vec<Option<Topology>>,
}

impl Rings {
    pub(crate) fn new(addresses: &[SocketAddr]) -> Self {
        let node = |at: usize| Node::new(&addresses[at].ip().to_string(), addresses[at].port(), 1).into();
        let ring = |mask: Mask| (0..NODES).filter(|at| mask & (1 << at) != 0).map(node).collect();
        Self {
            names: addresses.iter().map(SocketAddr::to_string).collect(),
            topologies: (0..1 << NODES).map(|mask| Topology::new(1, ring(mask)).ok()).collect(),
        }
    }

    pub(crate) fn get(&self, mask: Mask) -> &Topology {
        self.topologies[mask].as_ref().expect("no ring is empty")
    }

    /// The list in some order.
    pub(crate) fn list(&self, mask: Mask, random: &mut Random) -> String {
        let mut names: Vec<&str> =
            (0..NODES).filter(|at| mask & (1 << at) != 0).map(|at| self.names[at].as_str()).collect();
        for last in (1..names.len()).rev() {
            names.swap(last, random.below(last + 1));
        }
        names.join(random.pick(&[",", "\n", " ; ", " # one more\n"]))
    }

    fn owner(&self, mask: Mask, key: &str) -> usize {
        let topology = self.get(mask);
        let NodeIndex(index) = topology.route(key.as_bytes());
        let name = &topology.nodes()[usize::from(index)].name;
        self.names.iter().position(|known| **known == **name).expect("one of ours")
    }
}

/// What was seen, for the end.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) operations: u64,
    /// Reads that could give one thing only.
    pub(crate) exact: u64,
    /// Of these, the ones behind a `set` of their key in the same pipeline.
    pub(crate) behind_set: u64,
    /// Reads a swap may have fallen before.
    pub(crate) unsure: u64,
    /// Values older than the client's own last write, from a node that came back.
    pub(crate) stale: u64,
}

/// A key nobody else writes.
pub(crate) struct Own {
    pub(crate) key: String,
    /// Its owner in each ring.
    owners: Vec<usize>,
    /// What each node may hold; one thing where that is known for sure.
    held: [Vec<Option<u64>>; NODES],
    /// The version written last.
    pub(crate) last: u64,
}

impl Own {
    pub(crate) fn new(key: String, rings: &Rings) -> Self {
        let owner = |mask| if mask == 0 { 0 } else { rings.owner(mask, &key) };
        let owners = (0..1 << NODES).map(owner).collect();
        Self { key, owners, held: std::array::from_fn(|_| vec![None]), last: 0 }
    }

    fn owners(&self, rings: &BTreeSet<Mask>) -> BTreeSet<usize> {
        rings.iter().map(|&mask| self.owners[mask]).collect()
    }

    /// It was told this, and has acknowledged it or will.
    pub(crate) fn told(&mut self, rings: &BTreeSet<Mask>, value: Option<u64>) {
        let owners = self.owners(rings);
        for &owner in &owners {
            if owners.len() == 1 {
                self.held[owner].clear();
            }
            if !self.held[owner].contains(&value) {
                self.held[owner].push(value);
            }
        }
        self.last = value.unwrap_or(self.last);
    }

    /// Whether it may be found so.
    fn may_be(&self, owners: &BTreeSet<usize>, found: Option<u64>) -> bool {
        owners.iter().any(|&owner| self.held[owner].contains(&found))
    }

    /// A read found this; `everything` are all rings there ever were.
    pub(crate) fn found(&mut self, rings: &BTreeSet<Mask>, found: Option<u64>, everything: &History, seen: &mut Seen) {
        let owners = self.owners(rings);
        assert!(
            self.may_be(&owners, found),
            "{} is {found:?}, version {} was written last; nodes {owners:?} of {:?}",
            self.key,
            self.last,
            self.held
        );
        if owners.len() == 1 {
            seen.exact += 1;
            self.held[*owners.first().unwrap()] = vec![found];
        } else {
            seen.unsure += 1;
        }
        if found.is_some_and(|found| found < self.last) {
            seen.stale += 1;
            assert!(self.owners(&everything.since(0)).len() > 1, "{} never moved and is stale", self.key);
        }
    }

    /// A `delete` found something, or nothing.
    pub(crate) fn deleted(&mut self, rings: &BTreeSet<Mask>, existed: bool) {
        let owners = self.owners(rings);
        let may_be = owners.iter().any(|&owner| self.held[owner].iter().any(|held| held.is_some() == existed));
        assert!(may_be, "{}: deleted {existed}; nodes {owners:?} of {:?}", self.key, self.held);
        self.told(rings, None);
    }

    /// Only one node can have had it.
    pub(crate) fn is_sure(&self, rings: &BTreeSet<Mask>) -> bool {
        self.owners(rings).len() == 1
    }
}
