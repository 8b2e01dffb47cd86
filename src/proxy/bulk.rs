//! Values above 1 MiB: never held whole, and nobody waits behind them who need not.
//!
//! A large *body* waits, unread, until its client has nothing in flight, then streams through a bulk
//! lane that is that client's alone.
//!
//! A large *reply* shows itself at the head of a shared lane. The lane *turns*: a fresh lane takes
//! its place, and the reads of everyone else who has no write on it are asked again there. If only
//! the reader of the value is left and a bulk lane is free, the turned lane is its bulk lane and may
//! pause for it. Else the reader's own reads are asked again through a bulk lane when one is free,
//! and what is left of the turned lane is read to its end, never pausing, and closed.
//!
//! A client that changes lanes sends nothing new before everything it has in flight is answered
//! (invariant B).

use std::collections::VecDeque;
use std::time::Duration;

use super::client::{Large, Reading, Stall, Taken};
use super::failure::Failure;
use super::lane::{Entry, Kind};
use super::replies::Replies;
use super::slow::{self, Asked};
use super::table::Key;
use super::{ClientId, Core, NodeId, Tick, UpstreamId};
use crate::metrics::{NodeState, Outcome, Reason, Wait};
use crate::protocol::command::Command;
use crate::protocol::request::{ReadVerb, Store};
use crate::routing::Topology;

/// Most bytes of a streamed value that wait here, in either direction.
pub(super) const STREAM_BYTES: usize = 256 << 10;
/// Most bulk lanes per node and worker; further large values wait.
const MAX_BULK: usize = 4;
/// A bulk lane without work is kept this long.
const IDLE: Duration = Duration::from_secs(1);

/// The bulk lanes of one node.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// How many are in use.
    busy: usize,
    /// Clients that wait for one, in the order they came.
    waiting: VecDeque<ClientId>,
    /// Connected and without work.
    idle: Vec<UpstreamId>,
}

impl Bulk {
    /// Clients wait for a lane.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Nothing uses or awaits a bulk lane of this node.
    pub(super) fn is_unused(&self) -> bool {
        self.busy == 0 && self.waiting.is_empty() && self.idle.is_empty()
    }
}

/// The unanswered part of a read, to be asked again.
#[derive(Debug)]
pub(super) struct BulkRead {
    node: NodeId,
    seq: u32,
    verb: ReadVerb,
    keys: Vec<Vec<u8>>,
    /// Its client waits for a bulk lane of the node.
    queued: bool,
}

impl BulkRead {
    /// Bytes of memory held.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.keys.iter().map(|key| key.capacity() + size_of::<Vec<u8>>()).sum::<usize>()
    }

    /// The node that is asked again.
    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    /// Whether its turn has come: the reply it belongs to is its client's next. Says so once.
    pub(super) fn is_due(&mut self, replies: &Replies) -> bool {
        let due = !self.queued && replies.is_head(self.seq);
        self.queued |= due;
        due
    }
}

impl Core {
    /// The reply at the head of a lane announces a large value of the group's key `key`.
    pub(super) fn turn_lane(&mut self, id: UpstreamId, key: usize) {
        let Some(up) = self.upstreams.get(id.0) else { return };
        let (node, draining) = (up.node, up.kind == Kind::Draining);
        let writers: Vec<ClientId> =
            up.fifo.iter().filter(|entry| !matches!(entry, Entry::Group(_))).flat_map(Entry::clients).collect();
        let reader = up.body_askers().and_then(|(group, key)| {
            let mut askers = group.askers(key).filter_map(|i| group.members.get(i).map(|m| (m.client, m.seq)));
            askers.find(|(client, _)| self.clients.get(client.0).is_some())
        });
        let owner = reader.map(|(client, _)| client);
        self.shared.cells().bulk_transfers.add(1);
        if !draining {
            // A node that has left has no other lane for the bystanders, and nobody new comes to one
            // whose node is elsewhere.
            let fresh = self.fresh_lane(node, id);
            for (client, read) in self.take_reads(id, key, |c, _| Some(c) != owner && !writers.contains(&c)) {
                self.ask_again(client, fresh, &read);
            }
        }
        let others = self.drain_all(id, owner);
        let Some((owner, seq)) = reader else { return self.retire(id, others) };
        if draining && !others {
            // It may pause where it is.
            return;
        }
        if writers.contains(&owner) {
            // Its reads and writes stay in order where they are. With nobody else there it may pause.
            return self.set_kind(id, Kind::Retired);
        }
        // Only the reply that is next in its client's order holds a bulk lane. A client that held one
        // for a later reply could wait for the lane of the earlier one, and that for this one.
        let next = self.clients.get(owner.0).is_some_and(|client| client.replies.is_head(seq));
        let busy = self.nodes.get(node.0).map_or(MAX_BULK, |entry| entry.bulk.busy);
        let turns = next && !others && busy < MAX_BULK;
        // For the same reason its later reads leave with it, unless all it waits for comes by this lane.
        let whole = turns && self.waits_here_alone(owner, id);
        let reads = self.take_reads(id, key, |client, other| client == owner && !whole && !(turns && other == seq));
        if let Some(client) = self.clients.get_mut(owner.0) {
            client.bulk_reads.extend(reads.into_iter().map(|(_, read)| read));
            if !client.bulk_reads.is_empty() {
                client.stall = Stall::Bulk;
            }
        }
        if turns {
            if let Some(entry) = self.nodes.get_mut(node.0) {
                entry.bulk.busy += 1;
            }
            self.set_kind(id, Kind::Bulk { owner });
        } else {
            self.retire(id, others);
        }
        self.settle_client(owner);
    }

    /// Whether everything a client has in flight is on one lane.
    fn waits_here_alone(&self, id: ClientId, lane: UpstreamId) -> bool {
        let here = self
            .upstreams
            .get(lane.0)
            .map_or(0, |up| up.fifo.iter().flat_map(Entry::clients).filter(|c| *c == id).count());
        self.clients.get(id.0).is_some_and(|client| client.in_flight as usize == here && client.bulk_reads.is_empty())
    }

    /// Lets a lane run dry, or closes it when nobody waits on it.
    fn retire(&mut self, id: UpstreamId, others: bool) {
        if others {
            self.set_kind(id, Kind::Retired);
        } else {
            self.drop_upstream(id, Failure::NONE);
        }
    }

    fn set_kind(&mut self, id: UpstreamId, kind: Kind) {
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.kind = kind;
        }
    }

    /// Puts a fresh shared lane in the place of one that turns.
    fn fresh_lane(&mut self, node: NodeId, old: UpstreamId) -> UpstreamId {
        self.release_waiters(old);
        let idle = self.nodes.get_mut(node.0).and_then(|entry| entry.bulk.idle.pop());
        let fresh = match idle {
            Some(id) => {
                self.set_kind(id, Kind::Shared);
                id
            }
            None => self.open_upstream(node, Kind::Shared, Duration::ZERO),
        };
        self.set_kind(old, Kind::Retired);
        self.replace_lane(node, old, fresh);
        fresh
    }

    /// Every client that waits on a lane sends nothing new before it is answered. Returns whether
    /// there is one besides `owner`.
    pub(super) fn drain_all(&mut self, id: UpstreamId, owner: Option<ClientId>) -> bool {
        let Some(up) = self.upstreams.get(id.0) else {
            return false;
        };
        let mut others = false;
        for waiting in up.fifo.iter().flat_map(Entry::clients) {
            if let Some(client) = self.clients.get_mut(waiting.0) {
                client.draining = true;
                others |= Some(waiting) != owner;
            }
        }
        others
    }

    /// Takes the unanswered reads of some clients off a lane. `head` is the key whose value has just
    /// been announced: those that asked for it have not got it.
    fn take_reads(
        &mut self,
        id: UpstreamId,
        head: usize,
        takes: impl Fn(ClientId, u32) -> bool,
    ) -> Vec<(ClientId, BulkRead)> {
        let Self { upstreams, clients, shared, .. } = self;
        let mut taken = Vec::new();
        let Some(up) = upstreams.get_mut(id.0) else {
            return taken;
        };
        let node = up.node;
        for (place, entry) in up.fifo.iter_mut().enumerate() {
            let Entry::Group(group) = entry else { continue };
            for index in 0..group.members.len() {
                let asks_head = place == 0 && group.askers(head).any(|asker| asker == index);
                let first = asks_head.then(|| group.text(head).to_vec());
                let open = group.open_keys(index).map(<[u8]>::to_vec);
                let keys: Vec<Vec<u8>> = first.into_iter().chain(open).collect();
                let verb = group.verb;
                let Some(member) = group.members.get_mut(index) else {
                    continue;
                };
                let id = member.client;
                let seq = member.seq;
                let Some(client) = clients.get_mut(id.0).filter(|_| takes(id, seq)) else { continue };
                client.landed(group.expired);
                member.client = ClientId(Key::NONE);
                if !member.done {
                    member.done = true;
                    taken.push((id, BulkRead { node, seq, verb, keys, queued: false }));
                }
                client.settle(id, shared);
            }
        }
        taken
    }

    /// Asks again for what a client has not got, into the slot that waits for it.
    fn ask_again(&mut self, id: ClientId, lane: UpstreamId, read: &BulkRead) {
        let Self { upstreams, clients, shared, .. } = self;
        let (Some(client), Some(up)) = (clients.get_mut(id.0), upstreams.get_mut(lane.0)) else {
            return;
        };
        let room: usize = read.keys.iter().map(|key| key.len() + 1).sum();
        let merge = shared.settings.merge_gets && matches!(read.verb, ReadVerb::Get | ReadVerb::Gets);
        let joins = up.open_group().is_some_and(|group| merge && group.verb == read.verb && group.has_room(room));
        if !joins {
            let mut group = shared.group();
            group.reset(read.verb);
            up.push_group(group, shared);
        }
        let Some(group) = up.open_group() else { return };
        group.join(id, read.seq);
        client.in_flight += 1;
        for key in &read.keys {
            group.add(key, Topology::hash(key));
        }
        up.touch(lane, shared);
    }

    /// A client waits for a bulk lane of a node: for its large body, or for its next large read.
    pub(super) fn await_bulk(&mut self, id: ClientId, node: NodeId) {
        let Some(client) = self.clients.get_mut(id.0) else { return };
        client.stall = Stall::Bulk;
        if let Some(entry) = self.nodes.get_mut(node.0) {
            if entry.bulk.busy >= MAX_BULK {
                self.shared.cells().waits(Wait::Bulk);
            }
            entry.bulk.waiting.push_back(id);
        }
        self.grant(node);
    }

    /// A large read has become the next reply of its client.
    pub(super) fn queue_bulk_read(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id.0) else { return };
        let next = client.bulk_reads.iter().find(|read| read.queued).map(|read| read.node);
        if let Some(node) = next {
            self.await_bulk(id, node);
        }
    }

    /// The ring has changed: bodies that have not begun go to where their keys live now.
    pub(super) fn reroute_bodies(&mut self, node: NodeId) {
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        for id in std::mem::take(&mut entry.bulk.waiting) {
            let Some(client) = self.clients.get(id.0) else { continue };
            // Large reads stay: a part of a reply is asked where it was asked first.
            let to = client.awaiting_key().map_or(node, |(hash, line)| self.owner(hash, || slow::key_of(line)));
            if self.nodes.get(to.0).is_some() {
                self.await_bulk(id, to);
            }
        }
    }

    /// Closes the idle bulk lanes of a node.
    pub(super) fn close_idle_of(&mut self, node: NodeId) {
        let idle = self.nodes.get_mut(node.0).map(|entry| std::mem::take(&mut entry.bulk.idle));
        for id in idle.unwrap_or_default() {
            self.drop_upstream(id, Failure::NONE);
        }
    }

    /// Gives free bulk lanes to those that wait; where the node is down, answers them.
    pub(super) fn grant(&mut self, node: NodeId) {
        loop {
            let Some(entry) = self.nodes.get_mut(node.0) else {
                return;
            };
            let down = matches!(entry.state, NodeState::Down | NodeState::Probing);
            if entry.bulk.busy >= MAX_BULK && !down {
                return;
            }
            let Some(owner) = entry.bulk.waiting.pop_front() else {
                return;
            };
            if self.clients.get(owner.0).is_none() {
                continue;
            }
            if down {
                self.refuse_large(owner, node);
                continue;
            }
            entry.bulk.busy += 1;
            let idle = entry.bulk.idle.pop();
            let lane = match idle {
                Some(id) => {
                    self.set_kind(id, Kind::Bulk { owner });
                    id
                }
                None => self.open_upstream(node, Kind::Bulk { owner }, Duration::ZERO),
            };
            self.begin_bulk(owner, lane, node);
        }
    }

    /// The node that a client's large values wait for is down.
    fn refuse_large(&mut self, id: ClientId, node: NodeId) {
        let text = self.down_text(node);
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        let refused: Vec<BulkRead> =
            client.bulk_reads.extract_if(.., |read| read.queued && read.node == node).collect();
        for read in refused {
            shared.cells().soft(read.verb.into(), Reason::Down, read.keys.len() as u64, shared.misses());
            if shared.misses() {
                client.replies.finish(read.seq, &mut shared.pool);
            } else {
                client.replies.fail_part(read.seq, text.as_bytes(), &mut shared.pool);
            }
        }
        if client.bulk_reads.is_empty() {
            client.stall = Stall::Granted;
            shared.resume.push_back(id);
        }
        if let Some(large) = client.refuse_stream() {
            self.answer_down(id, node, large.quiet, large.command);
        }
        self.settle_client(id);
    }

    fn begin_bulk(&mut self, owner: ClientId, lane: UpstreamId, node: NodeId) {
        let Some(client) = self.clients.get_mut(owner.0) else { return };
        client.draining = true;
        client.fed = self.shared.now;
        let reads: Vec<BulkRead> = client.bulk_reads.extract_if(.., |read| read.queued && read.node == node).collect();
        if client.bulk_reads.is_empty() {
            // It goes on in its turn: with its body, or when its reads are answered.
            client.stall = Stall::Granted;
            self.shared.resume.push_back(owner);
        }
        if let Some((large, seq)) = client.begin_stream(lane, self.shared.now) {
            self.shared.cells().bulk_transfers.add(1);
            client.in_flight += 1;
            if let Some(up) = self.upstreams.get_mut(lane.0) {
                let asked = Asked::new(large.hash, &large.header, &self.shared.settings);
                let entry = Entry::Single { client: owner, seq, command: large.command, asked, expired: false };
                up.push(&large.header, entry, &mut self.shared);
                up.touch(lane, &mut self.shared);
            }
        }
        for read in &reads {
            self.ask_again(owner, lane, read);
        }
        self.settle_client(owner);
    }

    /// A large value of a group's key `key` begins. What its readers asked for earlier in the group
    /// and did not get is a miss, for nodes answer in the order asked. Told only at `END`, those
    /// slots would stand in the value's way, and all of it would have to be parked.
    pub(super) fn decide_misses(&mut self, id: UpstreamId, key: usize) {
        let Self { upstreams, clients, shared, .. } = self;
        let Some(Entry::Group(group)) = upstreams.get_mut(id.0).and_then(|up| up.fifo.front_mut()) else { return };
        for asker in group.askers(key).collect::<Vec<_>>() {
            let Some(reader) = group.members.get(asker).map(|member| member.client) else { continue };
            for index in 0..asker {
                let passed = !group.has_open_key(index, key);
                let Some(member) = group.members.get_mut(index) else { continue };
                let Some(client) = clients.get_mut(reader.0) else { continue };
                if passed && member.client == reader && !member.done {
                    member.done = true;
                    shared.cells().request(Command::from(group.verb), Outcome::Miss, u64::from(member.left));
                    client.replies.finish(member.seq, &mut shared.pool);
                    client.settle(reader, shared);
                }
            }
        }
    }

    /// The only client that waits for anything on a lane, and the slot that its arriving value goes to.
    /// Only for such a client is a lane ever paused.
    pub(super) fn sole_reader(&self, id: UpstreamId) -> Option<(ClientId, u32)> {
        let up = self.upstreams.get(id.0).filter(|up| up.kind != Kind::Shared)?;
        let (group, key) = up.body_askers()?;
        let readers = group.askers(key).filter_map(|i| group.members.get(i)).filter(|member| !member.done);
        let mut readers = readers.map(|member| (member.client, member.seq));
        let (Some((reader, seq)), None) = (readers.next(), readers.next()) else { return None };
        let alive = |client: ClientId| self.clients.get(client.0).is_some();
        let others = up.fifo.iter().flat_map(Entry::waiting).any(|client| client != reader && alive(client));
        // What it asked for earlier in the same group ends only behind this value.
        let earlier = |other: u32| other.wrapping_sub(seq) > u32::MAX / 2;
        let held = group.members.iter().any(|m| m.client == reader && !m.done && earlier(m.seq));
        (alive(reader) && !others && !held).then_some((reader, seq))
    }

    /// Whether a lane's reader has so much waiting that the node is to be read later.
    pub(super) fn reader_is_behind(&mut self, id: UpstreamId) -> bool {
        let Some((reader, seq)) = self.sole_reader(id) else { return false };
        let Some(client) = self.clients.get_mut(reader.0) else { return false };
        if client.replies.backlog(seq) < STREAM_BYTES {
            return false;
        }
        if !client.paused.contains(&id) {
            client.paused.push(id);
        }
        true
    }

    /// Something on a bulk or retired lane is over: closes it, or keeps it for the next, when nobody
    /// needs it any more.
    pub(super) fn release_lane(&mut self, id: UpstreamId) {
        let Some(up) = self.upstreams.get(id.0) else {
            return;
        };
        match up.kind {
            Kind::Shared | Kind::Idle { .. } => return,
            // What nobody waits for was promised all the same: a `noreply` of a client that left.
            Kind::Draining if !up.fifo.is_empty() => return,
            Kind::Draining => return self.drop_upstream(id, Failure::NONE),
            Kind::Bulk { .. } | Kind::Retired => {}
        }
        let needed = up.fifo.iter().flat_map(Entry::waiting).any(|client| self.clients.get(client.0).is_some());
        let Kind::Bulk { owner } = up.kind else {
            if !needed {
                self.drop_upstream(id, Failure::NONE);
            }
            return;
        };
        let streams = self.clients.get(owner.0).is_some_and(|client| client.streams_through(id));
        if needed || streams {
            return;
        }
        if !up.fifo.is_empty() {
            // Only what nobody waits for is still to come.
            return self.drop_upstream(id, Failure::NONE);
        }
        let (node, since) = (up.node, self.shared.now);
        if up.moved || self.nodes.get(node.0).is_some_and(|entry| entry.departed) {
            return self.drop_upstream(id, Failure::NONE);
        }
        self.set_kind(id, Kind::Idle { since });
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.bulk.busy = entry.bulk.busy.saturating_sub(1);
            entry.bulk.idle.push(id);
        }
        self.shared.ask_for_tick();
        self.grant(node);
    }

    /// A bulk lane is gone.
    pub(super) fn bulk_lost(&mut self, id: UpstreamId, node: NodeId, kind: Kind) {
        let Some(entry) = self.nodes.get_mut(node.0) else {
            return;
        };
        match kind {
            Kind::Bulk { owner } => {
                entry.bulk.busy = entry.bulk.busy.saturating_sub(1);
                if let Some(client) = self.clients.get_mut(owner.0)
                    && client.streams_through(id)
                {
                    client.stream_lost();
                }
                self.grant(node);
            }
            Kind::Idle { .. } => entry.bulk.idle.retain(|idle| *idle != id),
            Kind::Shared | Kind::Retired | Kind::Draining => {}
        }
        self.forget_departed(node);
    }

    /// A client has gone: a lane that worked for it alone is closed, whatever it was doing.
    pub(super) fn drop_lanes_of(&mut self, owner: ClientId) {
        let concerned: Vec<(UpstreamId, Kind)> = self
            .upstreams
            .iter()
            .filter(|(_, up)| up.kind == Kind::Bulk { owner } || up.kind == Kind::Retired)
            .map(|(key, up)| (UpstreamId(key), up.kind))
            .collect();
        for (id, kind) in concerned {
            match kind {
                Kind::Retired => self.release_lane(id),
                _ => self.drop_upstream(id, Failure::NONE),
            }
        }
    }

    /// The block of a streamed value does not end as it must: its request is never completed.
    pub(super) fn refuse_stream(&mut self, id: ClientId, lane: UpstreamId, seq: Option<u32>) {
        if let (Some(client), Some(seq)) = (self.clients.get_mut(id.0), seq) {
            client.replies.deliver(seq, b"CLIENT_ERROR bad data chunk\r\n", &mut self.shared.pool);
            client.replies.finish(seq, &mut self.shared.pool);
        }
        self.drop_upstream(lane, Failure::NONE);
    }

    /// Closes bulk lanes that nobody needed for a while. Returns whether others wait to be.
    pub(super) fn close_idle_bulk(&mut self) -> bool {
        let now = self.shared.now;
        let idle = |kind: Kind| match kind {
            Kind::Idle { since } => Some(since.after(IDLE)),
            _ => None,
        };
        let all: Vec<(UpstreamId, Tick)> =
            self.upstreams.iter().filter_map(|(key, up)| idle(up.kind).map(|until| (UpstreamId(key), until))).collect();
        for (id, _) in all.iter().filter(|(_, until)| *until <= now) {
            self.drop_upstream(*id, Failure::NONE);
        }
        all.iter().any(|(_, until)| *until > now)
    }

    /// A large value: it is not stored here but streamed, once nothing else of its client is in
    /// flight, through a bulk lane.
    pub(super) fn store_large(&mut self, id: ClientId, store: &Store<'_>) -> Taken {
        let Some(client) = self.clients.get_mut(id.0) else {
            return Taken::Yes(0);
        };
        if client.in_flight > 0 {
            client.stall = Stall::Drain;
            return Taken::Stalled;
        }
        let total = store.len as u64 + 2;
        let lane = client.lane;
        let hash = Topology::hash(store.key);
        let node = self.owner(hash, || store.key);
        self.shared.sample(store.key, hash);
        self.shared.cells().command(store.verb.into());
        if self.lane(node, lane).is_none() {
            self.answer_down(id, node, store.quiet, store.verb.into());
            if let Some(client) = self.clients.get_mut(id.0) {
                client.reading = Reading::Swallow(total);
            }
            return Taken::Yes(0);
        }
        let mut header = Vec::new();
        store.write(&mut header);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.reading = Reading::AwaitLane(Box::new(Large {
                header,
                hash: Topology::hash(store.key),
                quiet: store.quiet,
                command: store.verb.into(),
                total,
            }));
        }
        self.await_bulk(id, node);
        Taken::Yes(0)
    }

    /// Moves a piece of a large value to its lane. `None`: not now.
    pub(super) fn stream(&mut self, id: ClientId, rest: &[u8]) -> Option<usize> {
        let Self { clients, upstreams, shared, .. } = self;
        let client = clients.get_mut(id.0)?;
        let Reading::Stream { lane, left, seq } = &mut client.reading else {
            return None;
        };
        let (lane, seq) = (*lane, *seq);
        let Some(up) = upstreams.get_mut(lane.0) else {
            client.reading = Reading::Swallow(*left);
            return Some(0);
        };
        if up.out.len() >= STREAM_BYTES {
            client.stall = Stall::Lane;
            up.waiters.push_back(id);
            return None;
        }
        // The last two bytes go only when they are what they must be.
        let used = if *left > 2 {
            let used = usize::try_from(*left - 2).unwrap_or(usize::MAX).min(rest.len());
            up.out.append(rest.get(..used)?, &mut shared.pool);
            *left -= used as u64;
            used
        } else {
            let end = rest.get(..usize::try_from(*left).ok()?)?;
            if end != b"\r\n" {
                client.reading = Reading::Line;
                self.refuse_stream(id, lane, seq);
                return Some(end.len());
            }
            up.out.append(end, &mut shared.pool);
            client.reading = Reading::Line;
            // What follows waits for the answer: the next request may go by another lane.
            client.draining = true;
            end.len()
        };
        up.touch(lane, shared);
        self.release_lane(lane);
        Some(used)
    }
}
