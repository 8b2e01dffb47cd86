//! Reads of values above `--bulk-above`: shared by all who asked, never in the way of small ones, never more than there
//! is room for.
//!
//! A large value streams where it arrives, one copy for all who asked (`values.rs`). Whether it is begun towards a
//! reader is decided once, at its header: only if there is room for all of it, which is kept from then on. So a lane
//! that others use is never paused, and nobody's request is moved or asked again because somebody else's value is large.
//!
//! - A key that had a large value lately (`sizes.rs`) is asked for on the node's *large lane*, which all large values
//!   share, once its room is kept; until then its client is not read. So small requests do not stand behind large values
//!   that are known.
//! - Behind one address there may be several versions: a meta command waits until that lane has said which it leads to, and
//!   goes by its client's shared lane, which has, where that is one without meta commands or could not be made just now.
//! - A reader for whose value there is no room lets it pass. It asks for this key *again*, alone, when its turn has come,
//!   on a lane of its own (`own_lanes.rs`), which may pause. A read with a write of the same client behind it is not asked
//!   again, for it would see that write: it is a miss.

use std::time::Duration;

use super::client::{Again, Stall};
use super::ids::Stage;
use super::second_places::Reader;
use super::upstream::{Entry, Role, Upstream};
use super::values::go_without;
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::Wait;
use crate::protocol::request::ReadVerb;
use crate::routing::Topology;

/// After the lane that large values share was lost before it said its version, meta commands do not wait for another one
/// this long.
const NO_LARGE: Duration = Duration::from_secs(1);

/// A key that is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// As it is said to its node; of a meta command with its flags behind it.
    pub(super) text: &'a [u8],
    pub(super) hash: u64,
    /// What its place is found by.
    pub(super) key: &'a [u8],
}

impl<'a> From<&'a [u8]> for Wanted<'a> {
    fn from(key: &'a [u8]) -> Self {
        Self { text: key, hash: Topology::hash(key), key }
    }
}

impl Core {
    /// Whether a read has to wait: a key of it changes lanes while something of its client is under way on the other, or
    /// there is no room for its large values. Else the room is kept.
    pub(super) fn large_read_waits<'a>(
        &mut self,
        id: ClientId,
        verb: ReadVerb,
        keys: impl Iterator<Item = Wanted<'a>>,
    ) -> bool {
        let mut needed = 0;
        for Wanted { text, hash, key } in keys {
            let node = self.owner(hash, || key);
            let size = self.shared.large_keys.size(hash);
            if size.is_some() && verb.is_meta() && self.awaits_large_lane(id, node) {
                return true;
            }
            match size.filter(|_| self.goes_large(node, verb)) {
                Some(size) => {
                    let large = self.nodes.get(node.0).map_or(UpstreamId::NONE, |entry| entry.large);
                    if self.changes_lanes(id, node, large, hash) {
                        return true;
                    }
                    let travels = self.travels(id, node, verb, text, hash);
                    needed += if travels { 0 } else { size + 2 };
                }
                None if self.stalls_elsewhere(id, key, hash, verb.is_meta()) => return true,
                None => {}
            }
        }
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return false };
        if client.promised > 0 || client.no_room {
            return false;
        }
        // What goes beyond its share is asked for later, in its turn.
        let needed = needed.min(shared.budget.share().saturating_sub(client.charged()));
        shared.budget.pieces = shared.pool.pieces();
        if needed == 0 || shared.budget.waiting.is_empty() && shared.budget.has_room(needed) {
            client.promised = needed;
            client.reserve(needed);
            shared.budget.arriving += needed;
            return false;
        }
        client.stall = Stall::Memory { bytes: needed, body: false };
        client.last_read_at = shared.now;
        shared.budget.waiting.push_back(id);
        shared.cells().waits(Wait::Memory);
        shared.ask_for_tick();
        true
    }

    /// Whether a client waits before a request of it for a key goes to a lane `to` of the node that is not the shared one
    /// it keeps to: something of it may be under way on another.
    pub(super) fn changes_lanes(&mut self, id: ClientId, node: NodeId, to: UpstreamId, hash: u64) -> bool {
        let Some(client) = self.clients.get(id.0) else { return false };
        let mut waits = client.is_elsewhere(node, to, Some(hash));
        let elsewhere: u32 = client.elsewhere.iter().map(|other| other.entries).sum();
        if !waits && client.in_flight > elsewhere {
            let lane = self.nodes.get(node.0).and_then(|entry| entry.routes.get(client.lane)).copied();
            let up = lane.and_then(|lane| self.upstreams.get(lane.0).map(|up| (lane, up)));
            let entries =
                up.map_or(0, |(_, up)| up.fifo.iter().flat_map(Entry::clients).filter(|other| *other == id).count());
            waits = entries > 0;
            if let (true, Some(lane), Some(client)) = (waits, lane, self.clients.get_mut(id.0)) {
                client.leave_lane(lane, node, u32::try_from(entries).unwrap_or(u32::MAX));
                client.recharge(&mut self.shared);
            }
        }
        if let (true, Some(client)) = (waits, self.clients.get_mut(id.0)) {
            client.stall = Stall::LaneChange;
        }
        waits
    }

    /// Whether a large value that a client asks for is one that others have just asked for, too: it comes once for all.
    fn travels(&mut self, id: ClientId, node: NodeId, verb: ReadVerb, key: &[u8], hash: u64) -> bool {
        if !self.shared.settings.merge_gets || !matches!(verb, ReadVerb::Get | ReadVerb::Gets) {
            return false;
        }
        let lane = self.nodes.get(node.0).filter(|entry| entry.merges_again_at <= self.shared.now).map(|e| e.large);
        let up = lane.and_then(|lane| self.upstreams.get_mut(lane.0)).filter(|up| up.takes_requests());
        let group = up.and_then(|up| up.open_group());
        group.is_some_and(|group| group.verb == verb && group.has_room(key.len()) && group.travels(key, hash, id))
    }

    /// Asks for a key of a read that is known to be large. `false`: it is not, or its node cannot be asked.
    #[expect(clippy::too_many_arguments, reason = "who asks, where, for what, and where the answer goes")]
    pub(super) fn read_large(
        &mut self,
        id: ClientId,
        seq: u32,
        place: u32,
        node: NodeId,
        verb: ReadVerb,
        key: &[u8],
        hash: u64,
        stage: Stage,
    ) -> bool {
        let Some(size) = self.shared.large_keys.size(hash).filter(|_| self.goes_large(node, verb)) else {
            return false;
        };
        let lane = self.clients.get(id.0).and_then(|client| self.lane(node, client.lane));
        if lane.is_none() {
            return false;
        }
        let size = if self.travels(id, node, verb, key, hash) { 0 } else { size + 2 };
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return true };
        if client.promised < size {
            self.push_again(
                id,
                Again { seq, place, node, verb, key: key.into(), hash, told: Box::default(), stage, lane: None },
            );
            return true;
        }
        client.promised -= size;
        shared.cells().bulk_transfers.add(1);
        let lane = self.large_lane(node);
        let entry = self.ask(id, lane, seq, place, verb, key, hash, stage);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.note_elsewhere(lane, node, Some(seq), (hash, size), entry);
        }
        true
    }

    /// Whether a meta command for a large value has to wait until the lane that such values share has said its version.
    fn awaits_large_lane(&mut self, id: ClientId, node: NodeId) -> bool {
        let now = self.shared.now;
        let is_made = self.nodes.get(node.0).is_some_and(|entry| entry.no_large_until <= now);
        let Some(client) = self.clients.get(id.0).filter(|_| is_made) else { return false };
        if self.lane(node, client.lane).is_none() {
            return false;
        }
        let lane = self.large_lane(node);
        let waits = self.upstreams.get(lane.0).is_some_and(|up| !up.is_greeted());
        if waits {
            self.await_greeting(id, lane);
        }
        waits
    }

    /// Whether the lane that large values share takes such a command: what it leads to is known to know it.
    fn goes_large(&self, node: NodeId, verb: ReadVerb) -> bool {
        let large = || self.upstreams.get(self.nodes.get(node.0)?.large.0).filter(|up| up.takes_requests());
        !verb.is_meta() || large().is_some_and(|up| up.is_greeted() && up.has_meta)
    }

    /// The lane that large values share was lost before it said its version: meta commands go by others for a while.
    pub(super) fn large_unmade(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.no_large_until = self.shared.now.after(NO_LARGE);
        }
    }

    /// The lane of a node that all reads of large values share; opened when it is first needed.
    fn large_lane(&mut self, node: NodeId) -> UpstreamId {
        let known = self.nodes.get(node.0).map_or(UpstreamId::NONE, |entry| entry.large);
        if self.upstreams.get(known.0).is_some_and(|up| up.takes_requests()) {
            return known;
        }
        // One that drains since the node was away is taken back, as its other lanes are.
        let is_here = |up: &Upstream| up.node == node && up.role == Role::Large && up.is_draining() && !up.moved;
        let back = self.upstreams.iter().find(|(_, up)| is_here(up)).map(|(key, _)| UpstreamId(key));
        let lane = back.unwrap_or_else(|| self.open_upstream(node, Role::Large));
        if let Some(up) = self.upstreams.get_mut(lane.0) {
            up.revive();
        }
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.large = lane;
        }
        lane
    }

    /// A key of a read is to be asked for again when its turn has come.
    fn push_again(&mut self, id: ClientId, again: Again) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        client.replies.again(again.seq, again.place, &mut shared.pool);
        client.again.push(again);
    }

    /// There is no room for the value of a key, and there will be none.
    fn no_room_for(&mut self, id: ClientId, seq: u32, place: u32, verb: ReadVerb) {
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            go_without(client, seq, place, verb, shared);
        }
    }

    /// A key of a read passes by readers who are not given what came for it: there is no room for its value, or the same
    /// key is to be asked for again for an earlier place, and this answer must not be older than that one. Each asks again,
    /// or, with a write behind it, goes without. `told` is the line of the value, empty where it was a miss.
    pub(super) fn pass_by(
        &mut self,
        id: UpstreamId,
        verb: ReadVerb,
        (key, hash): (&[u8], u64),
        readers: &[Reader],
        told: &[u8],
    ) {
        // What the node says once it says to the one who asked; see `Again::told`.
        let told = if verb.is_meta() { told } else { &[] };
        let Self { upstreams, clients, .. } = self;
        let Some(up) = upstreams.get(id.0) else { return };
        let node = up.node;
        let mut alone = true;
        for reader in readers {
            if let Some(client) = clients.get_mut(reader.client.0) {
                client.denied = true;
                alone &= client.in_flight <= 1;
            }
        }
        if !alone {
            for id in up.fifo.iter().filter(|entry| entry.writes()).flat_map(Entry::clients) {
                if let Some(client) = clients.get_mut(id.0) {
                    client.writes_behind |= client.denied;
                }
            }
        }
        for Reader { client: reader, seq, place, stage } in readers {
            let Some(client) = self.clients.get(reader.0) else { continue };
            let storing = client.storing_key().is_some_and(|(hash, line)| self.owner_of_line(hash, line) == node);
            // What changes something is not done twice.
            if client.writes_behind || storing || verb.writes() {
                self.no_room_for(*reader, *seq, *place, verb);
            } else {
                let (seq, place, key) = (*seq, *place, key.into());
                let again = Again { seq, place, node, verb, key, hash, told: told.into(), stage: *stage, lane: None };
                self.push_again(*reader, again);
            }
        }
        for Reader { client: reader, .. } in readers {
            if let Some(client) = self.clients.get_mut(reader.0) {
                (client.denied, client.writes_behind) = (false, false);
            }
            self.settle_client(*reader);
        }
    }
}
