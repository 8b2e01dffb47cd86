//! Lanes of one client's own: for a value that is too large to be kept for it, in either direction.
//!
//! Only such a lane ever pauses, for nobody else waits on it. A read goes there when its turn has come: a client that
//! held a lane for a later reply could wait for the lane of an earlier one, and that for this one. A body goes there when
//! nothing of its client for its key is under way on another lane. A client that waits for one is not read, and holds
//! nothing that others wait for.
//!
//! Longer than 500 lines: waiting for such a lane, having it and large bodies are one state machine.

use std::time::Duration;

use super::binary_lanes::Way;
use super::buffer::Input;
use super::client::{Arriving, Client, Large, Pace, Reading, Stall, Taken, Target};
use super::failure::Failure;
use super::handoff::{Handoff, Kind as HandoffKind, Plan};
use super::ids::{HandoffId, Part, Places, Stage};
use super::old_places::TWO_PLACES;
use super::upstream::node::{MAX_OWN, Waiting};
use super::upstream::{Asked, Entry, Role, STREAM_BYTES, Step, Upstream};
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::{NodeState, Reason, Wait};
use crate::time::Tick;

/// A lane for large values without work is kept this long.
const IDLE: Duration = Duration::from_secs(1);

/// What goes by an own lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Classic commands, which every node knows.
    Classic,
    /// Meta commands, which one without them would refuse, and whose block it would execute.
    Meta,
    /// Packets.
    Packets,
}

/// What there is for a client that waits.
enum Own {
    Lane(UpstreamId),
    /// Nothing yet.
    Later,
    /// A connection that does not know its command.
    NoMeta,
}

impl Core {
    // === waiting for one ===

    /// A client waits for an own lane of a node: for its large body, or for the key that it asks for again.
    fn await_own(&mut self, id: ClientId, node: NodeId, body: bool) {
        let Self { clients, nodes, shared, .. } = self;
        let (Some(client), Some(entry)) = (clients.get_mut(id.0), nodes.get_mut(node.0)) else { return };
        if body {
            client.stall = Stall::OwnLane;
        }
        if entry.own.busy >= MAX_OWN {
            shared.cells().waits(Wait::Bulk);
        }
        entry.own.waiting.push_back(Waiting { client: id, since_at: shared.now, body });
        shared.ask_for_tick();
        self.grant(node);
    }

    /// A key that a client asks for again has its turn.
    pub(super) fn ask_again(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id.0) else { return };
        if let Some(node) = client.again.next_node() {
            self.await_own(id, node, false);
        }
    }

    /// The ring has changed: bodies that have not begun go to where their keys live now.
    pub(super) fn reroute_bodies(&mut self, node: NodeId) {
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        for waiting in std::mem::take(&mut entry.own.waiting) {
            let Some(client) = self.clients.get(waiting.client.0) else { continue };
            // Reads stay: a part of a reply is asked where it was asked first.
            let key = client.awaiting_key().filter(|_| waiting.body);
            let to = key.map_or(node, |(hash, line)| self.owner_of_line(hash, line));
            if let Some(entry) = self.nodes.get_mut(to.0) {
                entry.own.waiting.push_back(waiting);
            }
        }
    }

    /// Gives free lanes to those that wait; where the node is down, answers them.
    pub(super) fn grant(&mut self, node: NodeId) {
        loop {
            let Some(entry) = self.nodes.get_mut(node.0) else {
                return;
            };
            let down = matches!(entry.state, NodeState::Down | NodeState::Probing);
            if entry.own.busy >= MAX_OWN && !down {
                return;
            }
            let departed = entry.departed;
            let Some(waiting) = entry.own.waiting.pop_front() else {
                return;
            };
            let Waiting { client: owner, body, .. } = waiting;
            let Some(client) = self.clients.get(owner.0) else { continue };
            if down {
                self.refuse_own(owner, node, body, Reason::Down);
                continue;
            }
            let (lane, asked) = (client.lane, client.waits_with_meta(node, body));
            let mut kind = Kind::Classic;
            if let Some(line) = &asked {
                // As its shared lane decides; where that is gone with its node, as the node was last.
                let way = match self.way(node, lane) {
                    Way::Down if departed && self.knew_meta(node) => Way::Lines(UpstreamId::NONE),
                    Way::Down if departed => Way::Packets(UpstreamId::NONE),
                    way => way,
                };
                if matches!(way, Way::Greeting(_) | Way::Down) {
                    // Until it has said which memcached it is.
                    return self.wait_on(node, waiting);
                }
                if !way.says(line) {
                    // It has become another memcached meanwhile.
                    self.refuse_own(owner, node, body, Reason::NodeError);
                    continue;
                }
                kind = match way {
                    Way::Packets(_) => Kind::Packets,
                    _ => Kind::Meta,
                };
            }
            match self.own_lane(node, owner, kind) {
                Own::Lane(lane) => self.begin_own(owner, lane, node, body),
                Own::Later => return self.wait_on(node, waiting),
                Own::NoMeta => self.refuse_own(owner, node, body, Reason::NodeError),
            }
        }
    }

    /// Who is first goes on waiting.
    fn wait_on(&mut self, node: NodeId, waiting: Waiting) {
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.own.waiting.push_front(waiting);
        }
    }

    /// A lane for a client, of which fewer than [`MAX_OWN`] are in use.
    ///
    /// All but classic commands go only by one that has been greeted: by one in packets that has answered by a packet, for
    /// where the node speaks text a value's lines would be commands; and meta commands by one that has said its version, for
    /// an older memcached does not know them, and would take their block for commands.
    fn own_lane(&mut self, node: NodeId, owner: ClientId, kind: Kind) -> Own {
        let is_binary = kind == Kind::Packets;
        let Self { nodes, upstreams, .. } = self;
        let Some(entry) = nodes.get_mut(node.0) else { return Own::Later };
        let is_alike = |id: &UpstreamId| upstreams.get(id.0).is_some_and(|up| up.is_binary == is_binary);
        let is_greeted = |id: &UpstreamId| upstreams.get(id.0).is_some_and(Upstream::is_greeted);
        let fits = |id: &UpstreamId| is_alike(id) && (kind == Kind::Classic || is_greeted(id));
        let found = entry.own.idle.iter().rposition(fits);
        let lane = match found.and_then(|at| entry.own.idle.get(at).copied()) {
            Some(lane) => lane,
            // One is on its way.
            None if entry.own.idle.iter().any(is_alike) => return Own::Later,
            None => {
                // Those of the other kind make room.
                let is_full = entry.own.busy + entry.own.idle.len() >= MAX_OWN;
                let surplus = is_full.then(|| entry.own.idle.pop()).flatten();
                self.drop_upstream(surplus.unwrap_or(UpstreamId::NONE), Failure::NONE);
                let lane = self.make_lane(node, Role::Own { owner: ClientId::NONE }, is_binary, Duration::ZERO);
                if let Some(entry) = self.nodes.get_mut(node.0) {
                    entry.own.idle.push(lane);
                }
                if kind != Kind::Classic {
                    self.shared.ask_for_tick();
                    return Own::Later;
                }
                lane
            }
        };
        let Self { nodes, upstreams, shared, .. } = self;
        let (Some(entry), Some(up)) = (nodes.get_mut(node.0), upstreams.get_mut(lane.0)) else { return Own::Later };
        if kind == Kind::Meta && !up.has_meta {
            return Own::NoMeta;
        }
        up.role = Role::Own { owner };
        entry.own.idle.retain(|idle| *idle != lane);
        entry.own.busy += 1;
        entry.own.granted_at = shared.now;
        Own::Lane(lane)
    }

    /// A client does not get the own lane it waits for: its large value is not read, or not stored.
    pub(super) fn refuse_own(&mut self, id: ClientId, node: NodeId, body: bool, reason: Reason) {
        let text = match reason {
            Reason::Down => self.down_text(node),
            Reason::NodeError => self.needs_meta(node),
            _ => format!("SERVER_ERROR proxy: node {} has no free connection for the value\r\n", self.node_name(node)),
        };
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        let again = if body { None } else { client.again.give_up(node) };
        if let Some(again) = again {
            if again.stage != Stage::Plain && again.verb.takes_steps() {
                client.moves.take(again.seq);
                client.steps_over(id, again.hash, shared);
            }
            let misses = shared.may_miss(again.verb);
            shared.cells().soft(again.verb.into(), reason, 1, misses);
            client.replies.asked(again.seq, again.place);
            if !misses {
                client.replies.fail(again.seq, text.as_bytes(), &mut shared.pool);
            }
            client.replies.miss(again.seq, again.place, &mut shared.pool);
            client.replies.part_done(again.seq, &mut shared.pool);
        } else if let Some(large) = body.then(|| client.refuse_stream()).flatten() {
            let target = large.target;
            client.stall = Stall::Granted;
            shared.resume.push_back(id);
            shared.cells().soft(target.command, reason, 1, false);
            self.answer_for(id, target, text.as_bytes());
        }
        self.settle_client(id);
        self.forget_departed(node);
    }

    /// Ends the waits in which nothing has moved for the queue time-out: no lane was given to anybody, and none of those
    /// who hold one has moved a good piece; and those of clients that have sent their end. Returns whether others wait.
    pub(super) fn check_own_waits(&mut self) -> bool {
        let (now, patience) = (self.shared.now, self.shared.settings.queue_timeout);
        let awaited: Vec<NodeId> =
            self.nodes.iter().filter(|(_, n)| !n.own.waiting.is_empty()).map(|(key, _)| NodeId(key)).collect();
        for node in &awaited {
            let held = |up: &Upstream| up.node == *node && up.is_own() && !up.is_idle();
            let own = self.upstreams.iter().filter(|(_, up)| held(up));
            let moved_at = own.map(|(_, up)| up.moved_at).max().unwrap_or_default();
            let Self { nodes, clients, .. } = self;
            let Some(entry) = nodes.get_mut(node.0) else { continue };
            entry.own.wanted_at = now;
            let moved_at = moved_at.max(entry.own.granted_at);
            let hung_up = |id: ClientId| clients.get(id.0).and_then(|client| client.hung_up_at);
            let over = |waiting: &Waiting| {
                let still = waiting.since_at.max(moved_at).after(patience) <= now;
                still || hung_up(waiting.client).is_some_and(|at| at.after(patience) <= now)
            };
            let (given_up, kept) = entry.own.waiting.drain(..).partition::<Vec<_>, _>(over);
            entry.own.waiting.extend(kept);
            for Waiting { client: id, body, .. } in given_up {
                self.refuse_own(id, *node, body, Reason::Queue);
                // Of one that has sent its end a body is the last that is looked at.
                let ended =
                    |client: &Client| client.hung_up_at.is_some() && matches!(client.reading, Reading::Swallow(_));
                if self.clients.get(id.0).is_some_and(ended) {
                    self.read_no_more(id);
                }
            }
        }
        for node in &awaited {
            // One that was to say its version may have been lost: another is opened, no sooner than now.
            self.grant(*node);
        }
        !awaited.is_empty()
    }

    // === having one ===

    fn begin_own(&mut self, owner: ClientId, lane: UpstreamId, node: NodeId, body: bool) {
        let Ok(places) = self.places_of_large(owner, body) else {
            // Its key has come to have two places while it waited.
            self.refuse_own(owner, node, body, Reason::NodeError);
            return self.release_lane(lane);
        };
        let before = self.topology.before().cloned();
        let Self { clients, upstreams, shared, groups, handoffs, .. } = self;
        let (Some(client), Some(up)) = (clients.get_mut(owner.0), upstreams.get_mut(lane.0)) else { return };
        client.last_read_at = shared.now;
        client.pace = Pace::begin(shared.now);
        client.in_flight += 1;
        shared.cells().bulk_transfers.add(1);
        let again = if body { None } else { client.again.begin(node, lane) };
        if let Some(again) = again {
            let (seq, place, hash) = (again.seq, again.place, again.hash);
            let mut group = groups.take(again.verb);
            group.join(owner, seq, again.stage);
            client.moves.reads += u32::from(again.stage != Stage::Plain);
            group.add(&again.key, hash, place);
            client.replies.asked(seq, place);
            client.note_elsewhere(lane, node, Some(seq), (hash, 0), true);
            up.push_group(group, shared);
            up.close_group(shared);
        } else if let Some((large, seq)) = body.then(|| client.begin_stream(lane, shared.now)).flatten() {
            // It goes on in its turn, with its body.
            client.stall = Stall::Granted;
            shared.resume.push_back(owner);
            let Target { hash, command, meta, .. } = large.target;
            client.note_elsewhere(lane, node, seq, (hash, 0), true);
            let asked = match up.is_binary {
                true => Asked::line(hash, &large.header, &shared.settings),
                false => Asked::new(hash, &large.header, &shared.settings),
            };
            let entry = match places.zip(before) {
                None => Entry::Single { client: owner, seq, command, asked, expired: false, meta },
                Some((places, before)) => {
                    let places = Places { new: node, ..places };
                    let target = large.target;
                    let mut handoff = Handoff::new(
                        HandoffKind::Set,
                        owner,
                        seq,
                        target,
                        client.lane,
                        places,
                        before,
                        &large.header,
                        None,
                    );
                    let weight = handoff.weight();
                    shared.budget.recharge(&mut handoff.held, weight);
                    client.moves.hold(hash);
                    client.recharge(shared);
                    let (part, handoff) = (Part::New, HandoffId(handoffs.insert(handoff)));
                    let step = Step { client: owner, seq, handoff, part, command, asked, expired: false, meta };
                    Entry::Step(Box::new(step))
                }
            };
            up.push(&large.header, entry, shared);
        } else {
            // It has gone on otherwise meanwhile.
            client.in_flight -= 1;
        }
        up.touch(lane, shared);
        self.settle_client(owner);
        self.release_lane(lane);
    }

    /// The places of the key of a large body that waits for its lane, if it has an old one. An error: it cannot be stored
    /// while its key has two.
    fn places_of_large(&self, owner: ClientId, body: bool) -> Result<Option<Places>, ()> {
        let key = self.clients.get(owner.0).filter(|_| body).and_then(|client| client.awaiting_key());
        match key.and_then(|(hash, line)| self.plan_of(hash, line)) {
            None => Ok(None),
            Some((plan, _)) if plan.is_of_new() => Ok(None),
            Some((Plan::Steps(HandoffKind::Set), places)) => Ok(Some(places)),
            Some(_) => Err(()),
        }
    }

    /// Whether the owner of a lane has so much waiting that the node is to be read later.
    pub(super) fn reader_is_behind(&mut self, id: UpstreamId) -> bool {
        let Some(Role::Own { owner }) = self.upstreams.get(id.0).map(|up| up.role) else { return false };
        let Some(client) = self.clients.get_mut(owner.0) else { return false };
        if client.replies.out.len() < STREAM_BYTES {
            return false;
        }
        if !client.paused.contains(&id) {
            client.paused.push(id);
        }
        true
    }

    /// Something on a lane is over: closes it, or keeps it for the next, when nobody needs it any more.
    pub(super) fn release_lane(&mut self, id: UpstreamId) {
        let Some(up) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let Role::Own { owner } = up.role else {
            if up.is_draining() && up.fifo.is_empty() {
                self.drop_upstream(id, Failure::NONE);
            } else if up.role == Role::Large {
                up.used_at = self.shared.now;
            }
            return;
        };
        if owner == ClientId::NONE {
            return;
        }
        let node = up.node;
        let streams = self.clients.get(owner.0).is_some_and(|client| client.streams_through(id));
        let pends = |entry: &Entry| !matches!(entry, Entry::Version) && !entry.is_expired();
        if streams || up.fifo.iter().any(pends) {
            return;
        }
        let pending = up.fifo.iter().any(Entry::is_expired);
        // Where only what nobody waits for is still to come, and where the node is elsewhere, nobody can use it.
        if pending || up.moved || up.outdated || self.nodes.get(node.0).is_none_or(|entry| entry.departed) {
            return self.drop_upstream(id, Failure::NONE);
        }
        up.role = Role::Own { owner: ClientId::NONE };
        up.used_at = self.shared.now;
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.own.busy = entry.own.busy.saturating_sub(1);
            entry.own.idle.push(id);
        }
        self.shared.ask_for_tick();
        self.grant(node);
    }

    /// A lane is gone.
    pub(super) fn lane_lost(&mut self, id: UpstreamId, node: NodeId, role: Role) {
        if let Some(entry) = self.nodes.get_mut(node.0) {
            match role {
                Role::Own { owner: ClientId::NONE } => entry.own.idle.retain(|idle| *idle != id),
                Role::Own { owner } => {
                    entry.own.busy = entry.own.busy.saturating_sub(1);
                    if let Some(client) = self.clients.get_mut(owner.0)
                        && client.streams_through(id)
                    {
                        client.stream_lost();
                    }
                    self.grant(node);
                }
                Role::Shared | Role::Large | Role::Binary | Role::Probe => {}
            }
        }
        self.forget_departed(node);
    }

    /// A client has gone: a lane that worked for it alone is closed, whatever it was doing.
    pub(super) fn drop_lanes_of(&mut self, owner: ClientId, lanes: &[UpstreamId]) {
        for id in lanes {
            if self.upstreams.get(id.0).is_some_and(|up| up.role == Role::Own { owner }) {
                self.drop_upstream(*id, Failure::NONE);
            }
        }
    }

    /// Closes the lanes of a node that nobody has.
    pub(super) fn close_idle_of(&mut self, node: NodeId) {
        let idle = self.nodes.get_mut(node.0).map(|entry| std::mem::take(&mut entry.own.idle));
        for id in idle.unwrap_or_default() {
            self.drop_upstream(id, Failure::NONE);
        }
    }

    /// Closes lanes for large values that nobody needed for a while. Returns whether others wait to be.
    pub(super) fn close_idle(&mut self) -> bool {
        let now = self.shared.now;
        let all: Vec<(UpstreamId, Tick)> = self
            .upstreams
            .iter()
            // One that has not said its version is waited for; its clock is that of every connection.
            .filter(|(_, up)| up.is_idle() && up.is_greeted() || up.role == Role::Large && up.fifo.is_empty())
            .map(|(key, up)| (UpstreamId(key), up.used_at.after(IDLE)))
            .collect();
        for (id, _) in all.iter().filter(|(_, until)| *until <= now) {
            self.drop_upstream(*id, Failure::NONE);
        }
        all.iter().any(|(_, until)| *until > now)
    }

    // === large bodies ===

    /// A large value: it is not stored here but streamed, once nothing else of its client for its key is in flight on
    /// another lane, through an own lane.
    pub(super) fn store_large(&mut self, id: ClientId, value: &Arriving<'_>) -> Taken {
        let total = value.total() as u64;
        let target = value.target;
        let hash = target.hash;
        let node = self.owner(hash, || value.key);
        let Some(client) = self.clients.get(id.0) else { return Taken::Yes(0) };
        let lane = self.lane(node, client.lane);
        if lane.is_some()
            && (self.waits_for_lost_write(id, node) || self.changes_lanes(id, node, UpstreamId::NONE, hash))
        {
            return Taken::Stalled;
        }
        if self.has_moves(id) && self.stalls_on_moves(id, value.key, hash, target.meta) {
            return Taken::Stalled;
        }
        let plan = self.plan_of(hash, value.header).filter(|(plan, _)| !plan.is_of_new());
        if let Some((plan, Places { old, .. })) = plan {
            let is_down = self.clients.get(id.0).is_none_or(|client| self.lane(old, client.lane).is_none());
            if plan != Plan::Steps(HandoffKind::Set) || is_down {
                // It cannot be kept for more than one step.
                self.shared.cells().command(target.command);
                if is_down {
                    self.answer_down(id, old, target);
                } else {
                    self.shared.cells().soft(target.command, Reason::NodeError, 1, false);
                    self.answer_for(id, target, TWO_PLACES.as_bytes());
                }
                if let Some(client) = self.clients.get_mut(id.0) {
                    client.reading = Reading::Swallow(total);
                }
                return Taken::Yes(0);
            }
        }
        self.shared.large_keys.remember(hash, value.len);
        self.shared.sample(value.key, hash);
        self.shared.cells().command(target.command);
        if lane.is_none() {
            self.answer_down(id, node, target);
            if let Some(client) = self.clients.get_mut(id.0) {
                client.reading = Reading::Swallow(total);
            }
            return Taken::Yes(0);
        }
        let (header, tail) = (value.header.to_vec(), value.tail.into());
        let large = Large { header, target, tail, total, is_closed: value.is_closed };
        if let Some(client) = self.clients.get_mut(id.0) {
            client.reading = Reading::AwaitLane(Box::new(large));
        }
        self.await_own(id, node, true);
        Taken::Yes(0)
    }

    /// Moves a piece of a large value to its lane. `None`: not now.
    pub(super) fn stream(&mut self, id: ClientId, rest: Input<'_>) -> Option<usize> {
        let Self { clients, upstreams, shared, .. } = self;
        let client = clients.get_mut(id.0)?;
        let Reading::Stream { lane, left, seq, is_closed } = &mut client.reading else {
            return None;
        };
        let (lane, seq, is_closed) = (*lane, *seq, *is_closed);
        let Some(up) = upstreams.get_mut(lane.0) else {
            client.reading = Reading::Swallow(*left);
            return Some(0);
        };
        if up.out.len() >= STREAM_BYTES || !up.out.is_empty() && shared.budget.is_spent() {
            client.stall = Stall::Lane;
            up.waiters.push_back(id);
            return None;
        }
        // The last two bytes go only when they are what they must be; in a packet, which has none behind its value, its last
        // one does.
        let end = match (is_closed, up.is_binary) {
            (false, _) => 0,
            (true, false) => 2,
            (true, true) => 3,
        };
        let used = if *left > end {
            let used = usize::try_from(*left - end).unwrap_or(usize::MAX).min(rest.bytes.len());
            up.out.take(rest.part(0..used), &mut shared.pool);
            *left -= used as u64;
            if *left == 0 {
                if !up.is_binary {
                    up.out.append(b"\r\n", &mut shared.pool);
                }
                client.reading = Reading::Line;
            }
            used
        } else {
            let end = rest.bytes.get(..usize::try_from(*left).ok()?)?;
            if !end.ends_with(b"\r\n") {
                client.reading = Reading::Line;
                self.refuse_stream(id, lane, seq);
                return Some(end.len());
            }
            let last = if up.is_binary { end.strip_suffix(b"\r\n").unwrap_or_default() } else { end };
            up.out.append(last, &mut shared.pool);
            client.reading = Reading::Line;
            end.len()
        };
        up.touch(lane, shared);
        self.release_lane(lane);
        Some(used)
    }

    /// The block of a streamed value does not end as it must: its request is never completed.
    fn refuse_stream(&mut self, id: ClientId, lane: UpstreamId, seq: Option<u32>) {
        if let (Some(client), Some(seq)) = (self.clients.get_mut(id.0), seq) {
            client.replies.answer(seq, b"CLIENT_ERROR bad data chunk\r\n", &mut self.shared.pool);
        }
        self.drop_upstream(lane, Failure::NONE);
    }
}
