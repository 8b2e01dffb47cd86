//! The keys of a client that are to be asked for again, each when its turn has come.
//!
//! A read may have thousands of them, and each value that comes meanwhile asks whether its key is one: nothing here looks
//! at all of them.

use std::collections::BTreeMap;

use crate::protocol::request::ReadVerb;
use crate::proxy::ids::{NodeId, Stage, UpstreamId};

/// A key whose value found no room, or is known to find none: it is asked for, alone, when its turn has come.
#[derive(Debug)]
pub(in crate::proxy) struct Again {
    pub(in crate::proxy) seq: u32,
    pub(in crate::proxy) place: u32,
    pub(in crate::proxy) node: NodeId,
    pub(in crate::proxy) verb: ReadVerb,
    pub(in crate::proxy) key: Box<[u8]>,
    pub(in crate::proxy) hash: u64,
    /// The line of its value when that passed by, of a meta command: a node tells one client alone that a stale value is
    /// its to renew, and it has told so to this one. Empty else.
    pub(in crate::proxy) told: Box<[u8]>,
    /// Which of the places of a key that has moved it is asked at.
    pub(in crate::proxy) stage: Stage,
    /// The lane of its own on which it was asked for; forgotten once that is answered.
    pub(in crate::proxy) lane: Option<UpstreamId>,
}

impl Again {
    /// Bytes of memory held, its places in the maps included.
    fn weight(&self) -> usize {
        size_of::<Self>() + size_of::<(u32, u32, u64, u32)>() + self.key.len() + self.told.len()
    }
}

/// See the module. An idle client has none, and pays a word for that.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Retries(Option<Box<Keys>>);

/// By order and not by hash: what is done in turn is the same in every run.
#[derive(Debug, Default)]
struct Keys {
    /// By slot and place.
    keys: BTreeMap<(u32, u32), Again>,
    /// How many have a hash.
    hashes: BTreeMap<u64, u32>,
    /// Those whose turn has come: the client waits for a lane of its own, or has it. There are few, for each must be
    /// answered before the next has its turn.
    due: Vec<(u32, u32)>,
    /// Bytes of memory held.
    weight: usize,
}

impl Retries {
    #[inline]
    pub(in crate::proxy) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of the keys has this hash.
    pub(in crate::proxy) fn has(&self, hash: u64) -> bool {
        self.0.as_ref().is_some_and(|keys| keys.hashes.contains_key(&hash))
    }

    /// Bytes of memory held.
    pub(in crate::proxy) fn weight(&self) -> usize {
        self.0.as_ref().map_or(0, |keys| size_of::<Keys>() + keys.weight)
    }

    /// One more: a place that is not among them.
    pub(in crate::proxy) fn push(&mut self, again: Again) {
        let at = (again.seq, again.place);
        debug_assert!(
            !self.0.as_ref().is_some_and(|keys| keys.keys.contains_key(&at)),
            "asked again twice at a time: {again:?}"
        );
        self.remove(at);
        let keys = self.0.get_or_insert_default();
        *keys.hashes.entry(again.hash).or_default() += 1;
        keys.weight += again.weight();
        keys.keys.insert(at, again);
    }

    fn remove(&mut self, at: (u32, u32)) -> Option<Again> {
        let removed = self.0.as_mut()?.remove(at);
        // The last one.
        if self.0.as_ref().is_some_and(|keys| keys.keys.is_empty()) {
            self.0 = None;
        }
        removed
    }

    /// A slot's place has its turn. Returns whether that is new of one of the keys.
    pub(in crate::proxy) fn has_turn(&mut self, at: (u32, u32)) -> bool {
        let Some(keys) = &mut self.0 else { return false };
        let is_new = !keys.due.contains(&at) && keys.keys.contains_key(&at);
        if is_new {
            keys.due.push(at);
        }
        is_new
    }

    /// Those that wait for a lane of their own.
    fn waiting(&self) -> impl Iterator<Item = &Again> {
        let keys = self.0.iter();
        keys.flat_map(|keys| keys.due.iter().filter_map(|at| keys.keys.get(at))).filter(|again| again.lane.is_none())
    }

    /// The node of the first key that waits for a lane of its own.
    pub(in crate::proxy) fn next_node(&self) -> Option<NodeId> {
        self.waiting().next().map(|again| again.node)
    }

    /// The first key that waits for a lane of its own of a node.
    pub(in crate::proxy) fn next_at(&self, node: NodeId) -> Option<&Again> {
        self.waiting().find(|again| again.node == node)
    }

    /// It has its lane.
    pub(in crate::proxy) fn begin(&mut self, node: NodeId, lane: UpstreamId) -> Option<&Again> {
        let at = self.next_at(node).map(|again| (again.seq, again.place))?;
        let again = self.0.as_mut()?.keys.get_mut(&at)?;
        again.lane = Some(lane);
        Some(again)
    }

    /// It gets none.
    pub(in crate::proxy) fn give_up(&mut self, node: NodeId) -> Option<Again> {
        let at = self.next_at(node).map(|again| (again.seq, again.place))?;
        self.remove(at)
    }

    /// What was told of a key when its value passed by.
    pub(in crate::proxy) fn told(&self, at: (u32, u32)) -> &[u8] {
        self.0.as_ref().and_then(|keys| keys.keys.get(&at)).map_or(&[], |again| &again.told)
    }

    /// What was asked for on a lane of its own is over.
    pub(super) fn landed(&mut self, lane: UpstreamId) {
        let landed = |keys: &Keys, at| keys.keys.get(at).is_some_and(|again| again.lane == Some(lane));
        let over: Vec<_> =
            self.0.iter().flat_map(|keys| keys.due.iter().filter(|at| landed(keys, at)).copied()).collect();
        for at in over {
            self.remove(at);
        }
    }

    /// All of them, by slot and place.
    pub(in crate::proxy) fn iter(&self) -> impl Iterator<Item = &Again> {
        self.0.iter().flat_map(|keys| keys.keys.values())
    }
}

impl Keys {
    fn remove(&mut self, at: (u32, u32)) -> Option<Again> {
        let again = self.keys.remove(&at)?;
        self.due.retain(|due| *due != at);
        self.weight -= again.weight();
        if let Some(count) = self.hashes.get_mut(&again.hash) {
            *count -= 1;
            if *count == 0 {
                self.hashes.remove(&again.hash);
            }
        }
        Some(again)
    }
}
