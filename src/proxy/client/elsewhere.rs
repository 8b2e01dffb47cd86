//! What of a client is under way on other lanes than the shared one it keeps to.
//!
//! A client's requests for one key must not overtake each other (invariant B). On one lane they cannot. A request for a
//! key goes to another lane of the node only when nothing of its client for that key is under way on the first; until
//! then the client waits. What is under way is noted here when a request leaves the shared lane, or when one is about to
//! and others stand on that lane.

use super::{Client, Stall};
use crate::proxy::ids::{ClientId, NodeId, UpstreamId};
use crate::proxy::shared::Shared;

/// Entries of one client on one lane.
#[derive(Debug)]
pub(in crate::proxy) struct Elsewhere {
    pub(in crate::proxy) lane: UpstreamId,
    pub(in crate::proxy) node: NodeId,
    /// Those of the request with this slot; `None`: whatever it has there.
    pub(in crate::proxy) request: Option<Request>,
    /// How many are not over.
    pub(in crate::proxy) entries: u32,
}

/// One request, and what it is about.
#[derive(Debug)]
pub(in crate::proxy) struct Request {
    /// Its slot, if it has one.
    pub(in crate::proxy) seq: Option<u32>,
    /// Hashes of its keys, and the room that is kept for each value, in bytes.
    pub(in crate::proxy) keys: Vec<(u64, usize)>,
}

impl Elsewhere {
    /// Bytes of memory held.
    pub(super) fn weight(&self) -> usize {
        let keys = self.request.as_ref().map_or(0, |request| request.keys.capacity());
        size_of::<Self>() + keys * size_of::<(u64, usize)>()
    }

    /// Whether one of the entries may be about a key.
    fn concerns(&self, hash: u64) -> bool {
        self.request.as_ref().is_none_or(|request| request.keys.iter().any(|(key, _)| *key == hash))
    }
}

impl Client {
    /// Whether something of it for a key, or for any, is under way at a node on another lane than this.
    pub(in crate::proxy) fn is_elsewhere(&self, node: NodeId, lane: UpstreamId, hash: Option<u64>) -> bool {
        self.elsewhere
            .iter()
            .any(|other| other.node == node && other.lane != lane && hash.is_none_or(|hash| other.concerns(hash)))
    }

    /// One of its requests puts an entry on a lane, for a key of which it expects so many bytes (for which room is kept
    /// from now on).
    pub(in crate::proxy) fn note_elsewhere(
        &mut self,
        lane: UpstreamId,
        node: NodeId,
        seq: Option<u32>,
        key: (u64, usize),
        new_entry: bool,
    ) {
        let same = |other: &&mut Elsewhere| {
            other.lane == lane && other.request.as_ref().is_some_and(|request| request.seq == seq)
        };
        match self.elsewhere.iter_mut().find(same) {
            Some(found) => {
                found.entries += u32::from(new_entry);
                if let Some(request) = &mut found.request {
                    request.keys.push(key);
                }
            }
            None => {
                let request = Some(Request { seq, keys: vec![key] });
                self.elsewhere.push(Elsewhere { lane, node, request, entries: 1 });
            }
        }
    }

    /// All it has on a lane, so many entries, is waited for before it goes to another lane of the node.
    pub(in crate::proxy) fn leave_lane(&mut self, lane: UpstreamId, node: NodeId, entries: u32) {
        let known = self.elsewhere.iter_mut().find(|other| other.lane == lane && other.request.is_none());
        match known {
            Some(known) => known.entries = entries,
            None => self.elsewhere.push(Elsewhere { lane, node, request: None, entries }),
        }
    }

    /// One more of its entries is on a lane, and all it has there is waited for before it goes to another of the node.
    pub(in crate::proxy) fn note_all(&mut self, lane: UpstreamId, node: NodeId) {
        let known = self.elsewhere.iter_mut().find(|other| other.lane == lane && other.request.is_none());
        match known {
            Some(known) => known.entries += 1,
            None => self.elsewhere.push(Elsewhere { lane, node, request: None, entries: 1 }),
        }
    }

    /// Takes the room that is kept for the value of a key that a request asked for on a lane.
    pub(in crate::proxy) fn take_reserved(&mut self, lane: UpstreamId, seq: u32, hash: u64) -> usize {
        let requests = self.elsewhere.iter_mut().filter(|other| other.lane == lane).filter_map(|o| o.request.as_mut());
        let mut keys = requests.filter(|request| request.seq == Some(seq)).flat_map(|request| &mut request.keys);
        let key = keys.find(|(key, reserved)| *key == hash && *reserved > 0);
        key.map_or(0, |(_, reserved)| std::mem::take(reserved))
    }

    /// An entry has moved from a lane that was lost to the next.
    pub(in crate::proxy) fn moved_elsewhere(&mut self, from: UpstreamId, to: UpstreamId, seq: Option<u32>) {
        let is = |other: &Elsewhere, lane: UpstreamId, any: bool| {
            other.lane == lane && other.request.as_ref().map_or(any, |request| !any && request.seq == seq)
        };
        for any in [true, false] {
            let Some(old) = self.elsewhere.iter_mut().find(|other| is(other, from, any)) else { continue };
            old.entries = old.entries.saturating_sub(1);
            let (node, spent) = (old.node, old.entries == 0);
            let keys = old.request.as_mut().map(|request| match spent {
                true => std::mem::take(&mut request.keys),
                // Their room is kept once.
                false => request.keys.iter().map(|(key, _)| (*key, 0)).collect(),
            });
            if spent {
                self.elsewhere.retain(|other| !is(other, from, any));
            }
            match self.elsewhere.iter_mut().find(|other| is(other, to, any)) {
                Some(new) => {
                    new.entries += 1;
                    if let (Some(request), Some(keys)) = (&mut new.request, keys) {
                        request.keys.extend(keys);
                    }
                }
                None => {
                    let request = keys.map(|keys| Request { seq, keys });
                    self.elsewhere.push(Elsewhere { lane: to, node, request, entries: 1 });
                }
            }
        }
    }

    /// An entry on a lane is over.
    pub(super) fn landed_elsewhere(&mut self, id: ClientId, lane: UpstreamId, seq: Option<u32>, shared: &mut Shared) {
        self.again.landed(lane);
        let mut freed = 0;
        let mut over = false;
        self.elsewhere.retain_mut(|other| {
            let concerned = other.lane == lane && other.request.as_ref().is_none_or(|request| request.seq == seq);
            if !concerned {
                return true;
            }
            other.entries = other.entries.saturating_sub(1);
            if other.entries > 0 {
                return true;
            }
            over = true;
            freed +=
                other.request.iter().flat_map(|request| &request.keys).map(|(_, reserved)| reserved).sum::<usize>();
            false
        });
        self.unreserve(freed);
        shared.budget.arriving -= freed;
        if over && self.stall == Stall::LaneChange {
            shared.resume.push_back(id);
        }
    }

    /// The client has gone: no room is kept for it any more.
    pub(in crate::proxy) fn forget_elsewhere(&mut self, shared: &mut Shared) {
        for other in self.elsewhere.drain(..) {
            let reserved = other.request.iter().flat_map(|request| &request.keys).map(|(_, reserved)| reserved);
            shared.budget.arriving -= reserved.sum::<usize>();
        }
    }
}
