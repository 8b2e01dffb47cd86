//! The ring before a planned change, and with it the old place of the keys that the change moves.
//!
//! A miss at a key's new owner may mean that the key was deleted there. So the old owner may be asked only while every
//! sidecar that writes to the new one invalidates the old one, too. Nobody knows that but the operator, who declares the
//! ring before, and takes it away in two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Node, NodeIndex, Topology};

/// What old places are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For everything: reads that miss at the new place are asked there, too.
    Reading,
    /// Nothing is read there any more, for other sidecars may be about to forget them; invalidations and look-ups go on.
    Ending,
}

/// What is known of one old node, by all workers. It never becomes more: what was lost once stays lost.
#[derive(Debug, Default)]
pub struct OldNode {
    reads_ended: AtomicBool,
    flushed: AtomicBool,
    gone: AtomicBool,
}

/// The ring before, as long as it is declared.
#[derive(Debug)]
pub struct Before {
    ring: Arc<Topology>,
    phase: Phase,
    nodes: Arc<[Arc<OldNode>]>,
}

/// The ring before beside the ring in use.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    before: Arc<Before>,
    /// Of each of its nodes the index in the ring in use, if it is there, too.
    same: Box<[Option<NodeIndex>]>,
    /// Both place every key alike: nothing has moved yet, or any more.
    is_equal: bool,
}

// === impl Phase ===

impl Phase {
    /// What it is called in metrics, `/ring` and `stats ring`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Ending => "ending",
        }
    }
}

// === impl OldNode ===

impl OldNode {
    /// Ends the reads from this node, for an invalidation was lost there. Returns whether they had not ended yet.
    pub fn end_reads(&self) -> bool {
        !self.reads_ended.swap(true, Relaxed)
    }

    /// The node has refused a connection, so its memory is gone: it is no place of any key from now on, even if it
    /// returns. Returns whether that was not known yet.
    pub fn forget(&self) -> bool {
        !self.gone.swap(true, Relaxed)
    }

    /// A client has flushed everything, and this node was left out: what it has is read no more, and holds up no `add`.
    /// Returns whether reads had not ended yet.
    pub fn leave_out_of_flush(&self) -> bool {
        self.flushed.store(true, Relaxed);
        self.end_reads()
    }

    /// Whether a client has flushed everything but this node.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.flushed.load(Relaxed)
    }

    /// Whether an invalidation was lost here, or it was left out of a flush.
    #[must_use]
    pub fn has_reads_ended(&self) -> bool {
        self.reads_ended.load(Relaxed)
    }

    /// Whether its memory is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }
}

// === impl Before ===

impl Before {
    /// The ring before, with all its nodes in use.
    #[must_use]
    pub fn new(ring: Topology, phase: Phase) -> Self {
        let nodes = ring.nodes().iter().map(|_| Arc::default()).collect();
        Self { ring: Arc::new(ring), phase, nodes }
    }

    /// Another ring in the place of this one, such as the same nodes at other addresses; what is known of its nodes, by
    /// name, stays known.
    #[must_use]
    pub fn followed_by(&self, ring: Topology, phase: Phase) -> Self {
        let known = |name: &str| {
            let mut nodes = self.ring.nodes().iter().zip(self.nodes.iter());
            nodes.find(|(node, _)| &*node.name == name).map(|(_, known)| Arc::clone(known))
        };
        let nodes = ring.nodes().iter().map(|node| known(&node.name).unwrap_or_default()).collect();
        Self { ring: Arc::new(ring), phase, nodes }
    }

    /// The same ring in another phase; what is known of its nodes stays known.
    #[must_use]
    pub fn in_phase(&self, phase: Phase) -> Self {
        Self { ring: Arc::clone(&self.ring), phase, nodes: Arc::clone(&self.nodes) }
    }

    /// Its nodes and their placement.
    #[must_use]
    pub fn ring(&self) -> &Topology {
        &self.ring
    }

    /// What it is used for now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What is known of one of its nodes; none for an index of another ring.
    #[must_use]
    pub fn node(&self, index: NodeIndex) -> Option<&OldNode> {
        self.nodes.get(usize::from(index.0)).map(|node| &**node)
    }

    /// Whether values may be read from one of its nodes.
    #[must_use]
    pub fn may_read(&self, index: NodeIndex) -> bool {
        self.phase == Phase::Reading && self.node(index).is_some_and(|node| !node.has_reads_ended() && !node.is_gone())
    }

    /// Four bits of the ring's fingerprint, by which a unique says that it is from an old place of this ring.
    #[must_use]
    pub fn tag(&self) -> u8 {
        (self.ring.fingerprint() >> 60) as u8
    }
}

// === impl Beside ===

impl Beside {
    pub(super) fn new(before: Arc<Before>, now: &Topology) -> Self {
        let same = before.ring.nodes.iter().map(|node| same_node(now, node)).collect();
        let is_equal = before.ring.fingerprint() == now.fingerprint();
        Self { before, same, is_equal }
    }

    pub(super) fn before(&self) -> &Arc<Before> {
        &self.before
    }

    pub(super) fn is_equal(&self) -> bool {
        self.is_equal
    }

    /// The old place of a key that is at `owner` now, unless it is the same node, or no place any more.
    pub(super) fn old_place<'key>(
        &self,
        owner: NodeIndex,
        hash: u64,
        key: impl FnOnce() -> &'key [u8],
    ) -> Option<NodeIndex> {
        if self.is_equal {
            return None;
        }
        let old = self.before.ring.route_with(hash, key);
        let stays = *self.same.get(usize::from(old.0))? == Some(owner);
        (!stays && !self.before.node(old)?.is_gone()).then_some(old)
    }
}

/// The node of a ring that is this node of the ring before: that of its name, else one that is dialled at the same place. A
/// server that is listed in another way than before is no old place of its own keys: a write would delete what it wrote.
fn same_node(now: &Topology, node: &Node) -> Option<NodeIndex> {
    let find = |is: &dyn Fn(&Node) -> bool| now.nodes.iter().zip(0..).find(|(other, _)| is(other)).map(|(_, at)| at);
    let by_name = find(&|other| other.name == node.name);
    by_name.or_else(|| find(&|other| (&other.host, other.port) == (&node.host, node.port))).map(NodeIndex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(hosts: &[&str]) -> Topology {
        let nodes = hosts.iter().map(|host| Arc::new(Node::new(host, 11211, 1))).collect();
        Topology::new(1, nodes).unwrap()
    }

    fn places(topology: &Topology, keys: u32) -> Vec<(String, Option<String>)> {
        let name = |topology: &Topology, index: NodeIndex| topology.nodes()[usize::from(index.0)].name.to_string();
        let place = |at: u32| {
            let key = format!("key:{at}");
            let (hash, owner) = (Topology::hash(key.as_bytes()), topology.route(key.as_bytes()));
            let old = topology.old_place(owner, hash, || key.as_bytes());
            (name(topology, owner), old.map(|old| name(topology.before().unwrap().ring(), old)))
        };
        (0..keys).map(place).collect()
    }

    #[test]
    fn keys_that_moved_have_an_old_place_and_no_others() {
        let before = Arc::new(Before::new(topology(&["a", "b", "c"]), Phase::Reading));
        // Another order, so that equal indices are other nodes.
        let now = topology(&["d", "c", "b", "a"]).with_before(Some(Arc::clone(&before)));
        let places = places(&now, 4_000);
        let moved = places.iter().filter(|(_, old)| old.is_some()).count();
        assert!((moved as f64 / 4_000.0 - now.share(NodeIndex(0))).abs() < 0.03, "{moved}");
        for (owner, old) in &places {
            assert_eq!(old.is_some(), owner == "d:11211");
        }
        assert!(topology(&["a"]).old_place(NodeIndex(0), 1, || b"key").is_none());
    }

    #[test]
    fn what_is_lost_stays_lost_in_every_phase() {
        let before = Before::new(topology(&["a", "b"]), Phase::Reading);
        let (a, b) = (NodeIndex(0), NodeIndex(1));
        assert!(before.may_read(a) && before.may_read(b) && !before.may_read(NodeIndex(2)));
        let ending = before.in_phase(Phase::Ending);
        assert!(!ending.may_read(a));
        assert!(ending.node(a).unwrap().end_reads() && !before.node(a).unwrap().end_reads());
        assert!(ending.node(b).unwrap().forget() && !before.node(b).unwrap().forget());
        let again = ending.in_phase(Phase::Reading);
        assert!(!again.may_read(a) && !again.may_read(b));
        let now = topology(&["c"]).with_before(Some(Arc::new(again)));
        // Writes go on invalidating what may be read no more; what is gone is no place.
        assert!(places(&now, 100).iter().all(|(_, old)| old.as_deref().is_none_or(|old| old == "a:11211")));
        assert!(places(&now, 100).iter().any(|(_, old)| old.is_some()));
    }
    #[test]
    fn equal_rings_move_nothing_and_another_name_is_no_other_server() {
        let listed = |names: &[(&str, &str)]| {
            let node = |(host, name): &(&str, &str)| Arc::new(Node::new(host, 11211, 1).named(name));
            Topology::new(1, names.iter().map(node).collect()).unwrap()
        };
        let before = Arc::new(Before::new(topology(&["a", "b"]), Phase::Reading));
        let now = topology(&["b", "a"]).with_before(Some(Arc::clone(&before)));
        assert!(places(&now, 200).iter().all(|(_, old)| old.is_none()));
        assert!(now.old_nodes().next().is_none());
        // The same two servers under other names: a key whose server stays has not moved.
        let now = listed(&[("a", "x"), ("b", "y")]).with_before(Some(before));
        let places = places(&now, 200);
        let server = |name: &str| if name == "x" { "a:11211" } else { "b:11211" };
        assert!(places.iter().any(|(_, old)| old.is_some()) && places.iter().any(|(_, old)| old.is_none()));
        assert!(places.iter().all(|(owner, old)| old.as_deref() != Some(server(owner))));
        assert_eq!(now.old_nodes().count(), 2);
    }

    #[test]
    fn what_is_known_of_a_node_outlives_a_change_of_the_list() {
        let before = Before::new(topology(&["a", "b"]), Phase::Reading);
        assert!(before.node(NodeIndex(1)).unwrap().end_reads());
        let next = before.followed_by(topology(&["c", "b"]), Phase::Reading);
        assert!(next.may_read(NodeIndex(0)) && !next.may_read(NodeIndex(1)));
        // Both speak of the same node.
        assert!(next.node(NodeIndex(1)).unwrap().forget() && before.node(NodeIndex(1)).unwrap().is_gone());
    }
}
