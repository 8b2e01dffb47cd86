//! A node as one worker sees it: its lanes, its health, its version.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::health::Health;
use crate::metrics::{NodeCells, NodeState};
use crate::proxy::ids::{ClientId, UpstreamId};
use crate::routing::Node;
use crate::time::Tick;

/// Most own lanes per node and worker; further large values wait. With the lane that large values share, and a node's
/// shared lanes, it makes all of a worker's connections to a node.
pub(in crate::proxy) const MAX_OWN: usize = 3;

/// One node.
#[derive(Debug)]
pub(in crate::proxy) struct NodeEntry {
    pub(in crate::proxy) node: Arc<Node>,
    /// Where it counts.
    pub(in crate::proxy) cells: Arc<NodeCells>,
    /// The shared lanes, by number.
    pub(in crate::proxy) lanes: Vec<UpstreamId>,
    /// By which of them the clients of each go: by another while theirs takes no requests.
    pub(in crate::proxy) routes: Vec<UpstreamId>,
    /// Clients a write of whom was sent and given up, and until when its node may still carry it out.
    pub(in crate::proxy) lost_writes: HashMap<ClientId, Tick>,
    pub(in crate::proxy) health: Health,
    /// When a connection was last refused: what it had then is gone.
    pub(in crate::proxy) refused_at: Option<Tick>,
    pub(in crate::proxy) state: NodeState,
    /// What the node's `VERSION` said last.
    pub(in crate::proxy) version: Option<Version>,
    /// No merged group before this moment (a group was answered by an error line).
    pub(in crate::proxy) merges_again_at: Tick,
    /// The lane for everyone's reads of values that are known to be large, if there is one.
    pub(in crate::proxy) large: UpstreamId,
    /// Nobody waits before this moment until that lane has said its version (one was lost before it did).
    pub(in crate::proxy) no_large_until: Tick,
    pub(in crate::proxy) own: OwnLanes,
    pub(in crate::proxy) binary: BinaryLane,
    /// The connection that asks whether it still answers, while there is one.
    pub(in crate::proxy) probe: UpstreamId,
    /// It has answered keys in another order than that of their line: a miss is known at `END` only.
    pub(in crate::proxy) unordered: bool,
    pub(in crate::proxy) renewal: Renewal,
    /// It is not in the ring any more.
    pub(in crate::proxy) departed: bool,
    /// It is in the ring before only.
    pub(in crate::proxy) only_before: bool,
    /// It is down, for what listens there is this process.
    pub(in crate::proxy) is_itself: bool,
}

/// The lane by which a node without meta commands is asked in packets, and whether it can be.
#[derive(Debug)]
pub(in crate::proxy) struct BinaryLane {
    /// The last there was.
    pub(in crate::proxy) lane: UpstreamId,
    /// The node has answered by a packet.
    pub(in crate::proxy) is_spoken: bool,
    /// It has not: until then it is asked in classic words.
    pub(in crate::proxy) refused_until: Option<Tick>,
}

impl BinaryLane {
    /// Nothing is known of the node.
    pub(in crate::proxy) const UNKNOWN: Self = Self { lane: UpstreamId::NONE, is_spoken: false, refused_until: None };
}

/// Shared lanes that are replaced one by one.
#[derive(Debug)]
pub(in crate::proxy) struct Renewal {
    /// Those whose turn is still to come.
    pub(in crate::proxy) left: Vec<UpstreamId>,
    /// What takes the place of the first of them, once it is greeted.
    pub(in crate::proxy) fresh: UpstreamId,
    /// How often in a row that has failed.
    pub(in crate::proxy) failures: u32,
}

impl Default for Renewal {
    /// None is replaced.
    fn default() -> Self {
        Self { left: Vec::new(), fresh: UpstreamId::NONE, failures: 0 }
    }
}

/// The lanes of one node that are one client's own.
#[derive(Debug, Default)]
pub(in crate::proxy) struct OwnLanes {
    /// How many are in use.
    pub(in crate::proxy) busy: usize,
    /// Who waits for one, in the order they came.
    pub(in crate::proxy) waiting: VecDeque<Waiting>,
    /// When one was last given to somebody.
    pub(in crate::proxy) granted_at: Tick,
    /// When somebody was last seen waiting for one.
    pub(in crate::proxy) wanted_at: Tick,
    /// Connected, or about to be, and without work.
    pub(in crate::proxy) idle: Vec<UpstreamId>,
}

/// A client that waits for an own lane.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Waiting {
    pub(in crate::proxy) client: ClientId,
    pub(in crate::proxy) since_at: Tick,
    /// For its body; else for a key that it asks for again.
    pub(in crate::proxy) body: bool,
}

impl OwnLanes {
    /// None is used or awaited, and none is kept.
    pub(in crate::proxy) fn is_unused(&self) -> bool {
        self.busy == 0 && self.waiting.is_empty() && self.idle.is_empty()
    }
}

/// A memcached version: numbers to compare, text to show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) struct Version {
    number: [u32; 3],
    pub(in crate::proxy) text: String,
}

impl NodeEntry {
    pub(in crate::proxy) fn new(node: Arc<Node>, cells: Arc<NodeCells>) -> Self {
        Self {
            node,
            cells,
            lanes: Vec::new(),
            routes: Vec::new(),
            lost_writes: HashMap::new(),
            health: Health::default(),
            refused_at: None,
            state: NodeState::Connecting,
            version: None,
            merges_again_at: Tick(0),
            large: UpstreamId::NONE,
            no_large_until: Tick(0),
            own: OwnLanes::default(),
            binary: BinaryLane::UNKNOWN,
            probe: UpstreamId::NONE,
            unordered: false,
            renewal: Renewal::default(),
            departed: false,
            only_before: false,
            is_itself: false,
        }
    }
}

impl Version {
    /// Whether such a node knows the meta commands as they are today: earlier ones have the length of `ms` in a flag.
    pub(in crate::proxy) fn has_meta(&self) -> bool {
        self.number >= [1, 6, 10]
    }

    pub(in crate::proxy) fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut number = [0; 3];
        for (place, part) in number.iter_mut().zip(text.split('.')) {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next()?;
            *place = digits.parse().ok()?;
        }
        // Clients read `X.Y.Z` strictly: a suffix such as `-rc1` or `_beta` is left out.
        let text = format!("{}.{}.{}", number.first()?, number.get(1)?, number.get(2)?);
        Some(Self { number, text })
    }
}
