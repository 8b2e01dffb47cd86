//! HOT: a request → its node → that node's lane.
//!
//! Route and enqueue are one step, so no request ever holds an old ring.
//!
//! Longer than 500 lines: the way of every kind of request, read in one sitting.

use super::binary_lanes::{Unsaid, Way};
use super::buffer::Input;
use super::client::replies::Stamp;
use super::client::{self, Reading, Stall, Taken, Target};
use super::ids::Stage;
use super::large::Wanted;
use super::upstream::group::Member;
use super::upstream::{Asked, Entry};
use super::{ClientId, Core, ITSELF, NodeId, UpstreamId};
use crate::metrics::{Kind, Outcome, Reason, SIZES, Wait};
use crate::protocol::binary::translate;
use crate::protocol::command::Command;
use crate::protocol::form::Form;
use crate::protocol::request::{Block, Change, Keys, ReadVerb, Refusal, Request};
use crate::protocol::text::request;
use crate::protocol::{is_key, meta};
use crate::routing::Topology;

impl Core {
    pub(super) fn act(&mut self, id: ClientId, line: &[u8], after: Input<'_>) -> Taken {
        let request = request::parse(line, self.shared.settings.max_value);
        if self.answers_discovery(id, &request) {
            return Taken::Yes(0);
        }
        if self.ring.is_empty() && self.needs_ring(&request) && self.stalls_on_ring(id) {
            return Taken::Stalled;
        }
        match request {
            Ok(Request::Read { verb, keys }) => return self.read(id, verb, keys, Form::Text, &[]),
            Ok(Request::Store(store)) => return self.store(id, &store, after),
            Ok(Request::Change { change, key, quiet }) => {
                return self.change(id, change, key, quiet);
            }
            Ok(Request::Meta(meta)) => return self.meta(id, &meta, line, after),
            Ok(Request::FlushAll { delay, quiet }) => return self.flush_all(id, delay, quiet, Form::Text),
            Ok(Request::Stats(what)) => return self.stats(id, what, Form::Text),
            Ok(Request::Verbosity { quiet }) => self.answer_here(id, b"OK\r\n", quiet),
            // Answered above.
            Ok(Request::Discovery) => {}
            Ok(Request::MetaNoop) => self.answer_here(id, b"MN\r\n", false),
            Ok(Request::Version) => {
                let text = format!("VERSION {}\r\n", self.lowest_version());
                self.answer_here(id, text.as_bytes(), false);
            }
            Ok(Request::Quit) => {
                self.count_here(Outcome::Ok);
                if let Some(client) = self.clients.get_mut(id.0) {
                    client.input = client::Input::Quit;
                }
            }
            Err(refusal) => {
                if let Some(key) = refusal.stale_key() {
                    let hash = Topology::hash(&key);
                    if self.stalls_on(id, &key, hash, false)
                        || refusal.stale_needs_base64() && self.awaits_version(id, &key, hash)
                    {
                        return Taken::Stalled;
                    }
                }
                self.refuse(id, refusal);
            }
        }
        Taken::Yes(0)
    }

    /// Answers in the client's turn, unless it asked for no answer.
    pub(super) fn answer(&mut self, id: ClientId, kind: Kind, text: &[u8], quiet: bool) {
        self.answer_in(id, kind, Form::Text, text, quiet);
    }

    /// The same for a request that was to be sent.
    pub(super) fn answer_for(&mut self, id: ClientId, target: Target, text: &[u8]) {
        self.answer_in(id, target.command.into(), target.form, text, target.quiet);
    }

    pub(super) fn answer_in(&mut self, id: ClientId, kind: Kind, form: Form, text: &[u8], quiet: bool) {
        if let Some(client) = self.clients.get_mut(id.0)
            && !quiet
        {
            let stamp = Stamp { kind, arrived_at: self.shared.now };
            client.replies.push_ready(text, stamp, form, &mut self.shared.pool);
        }
    }

    /// Answers what needs no node.
    fn answer_here(&mut self, id: ClientId, text: &[u8], quiet: bool) {
        self.count_here(Outcome::Ok);
        self.answer(id, Kind::Other, text, quiet);
    }

    pub(super) fn count_here(&self, outcome: Outcome) {
        self.shared.cells().command(Command::Other);
        self.shared.cells().request(Command::Other, outcome, 1);
    }

    pub(super) fn refuse(&mut self, id: ClientId, refusal: Refusal<'_>) {
        if refusal.is_too_large() {
            self.shared.cells().stores_too_large.add(1);
        }
        let server = refusal.text.starts_with("SERVER_ERROR");
        self.count_here(if server { Outcome::ServerError } else { Outcome::ClientError });
        if let Some(key) = refusal.stale_key() {
            // As in memcached: what could not be stored must not leave the old value behind.
            self.invalidate(id, &key);
        }
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        if !refusal.quiet && !refusal.text.is_empty() {
            let mut line = std::mem::take(&mut self.shared.line);
            line.clear();
            line.extend_from_slice(refusal.text.as_bytes());
            line.extend_from_slice(b"\r\n");
            let stamp = Stamp { kind: Kind::Other, arrived_at: self.shared.now };
            client.replies.push_ready(&line, stamp, Form::Text, &mut self.shared.pool);
            self.shared.line = line;
        }
        match refusal.block {
            Block::None => {}
            Block::Swallow(bytes) => client.reading = Reading::Swallow(bytes),
            Block::Unknown => client.input = client::Input::Refused,
        }
    }

    /// Puts a read's keys on their nodes' lanes: one slot, and one group per lane (more where a line
    /// would become too long).
    pub(super) fn read(&mut self, id: ClientId, verb: ReadVerb, keys: Keys<'_>, form: Form, tail: &[u8]) -> Taken {
        if self.shared.full_lanes > 0
            && keys.into_iter().any(|key| self.stalls_on_full(id, key, Topology::hash(key), false))
        {
            self.hold_nothing(id);
            return Taken::Stalled;
        }
        let Some(client) = self.clients.get(id.0) else { return Taken::Yes(0) };
        let lane = client.lane;
        if client.moves.has_steps() && keys.into_iter().any(|key| self.stalls_on_steps(id, Topology::hash(key))) {
            self.hold_nothing(id);
            return Taken::Stalled;
        }
        let Some(client) = self.clients.get(id.0) else { return Taken::Yes(0) };
        // Where nothing is large, and nothing is under way elsewhere, all keys go to the shared lanes.
        let plain =
            self.shared.large_keys.is_empty() && client.elsewhere.is_empty() && client.promised == 0 && !client.no_room;
        if !plain && self.large_read_waits(id, verb, keys.map(Wanted::from)) {
            return Taken::Stalled;
        }
        let Some(seq) = self.owe_read(id, verb, form, tail) else { return Taken::Yes(0) };
        let mut lost = None;
        let (mut count, mut missed) = (0_u32, 0_u64);
        let has_old_places = !self.old_ring.is_empty();
        for (key, place) in keys.zip(0..) {
            count = place + 1;
            let hash = Topology::hash(key);
            self.shared.sample(key, hash);
            let node = self.owner(hash, || key);
            let mut stage = Stage::Plain;
            if has_old_places {
                self.invalidate_beside(id, verb, key, hash, || key);
                stage = self.stage_of(node, hash, || key);
            }
            if self.read_key(id, seq, place, node, verb, key, hash, lane, plain, stage).is_err() {
                missed += 1;
                lost = Some(node);
            }
        }
        let cells = self.shared.cells();
        cells.command(verb.into());
        cells.multigets.record(u64::from(count), &SIZES);
        let error = lost.and_then(|node| self.count_lost(verb, node, missed));
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            if let Some(text) = error {
                client.replies.fail(seq, text.as_bytes(), &mut shared.pool);
            }
            client.replies.close_read(seq, &mut shared.pool);
            if !plain {
                client.break_promise(shared);
            }
        }
        Taken::Yes(0)
    }

    /// Who waits holds nothing that others wait for.
    pub(super) fn hold_nothing(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0).filter(|client| client.promised > 0) {
            client.break_promise(&mut self.shared);
        }
    }

    /// Asks for one key of a read where it lives. Returns the shared lane, where it begins a line there. An error: its
    /// node cannot be asked.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "who asks, where, for what, and where the answer goes")]
    pub(super) fn read_key(
        &mut self,
        id: ClientId,
        seq: u32,
        place: u32,
        node: NodeId,
        verb: ReadVerb,
        key: &[u8],
        hash: u64,
        lane: usize,
        plain: bool,
        stage: Stage,
    ) -> Result<Option<UpstreamId>, ()> {
        if !plain && self.read_large(id, seq, place, node, verb, key, hash, stage) {
            return Ok(None);
        }
        if let Some(up) = self.lane_for(node, lane, verb.is_meta()) {
            return Ok(self.ask(id, up, seq, place, verb, key, hash, stage).then_some(up));
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            client.replies.miss(seq, place, &mut self.shared.pool);
        }
        Err(())
    }

    /// Counts keys of a read whose node cannot be asked. Returns the error line, where errors are asked for.
    pub(super) fn count_lost(&self, verb: ReadVerb, node: NodeId, missed: u64) -> Option<String> {
        let misses = self.shared.may_miss(verb);
        self.shared.cells().soft(verb.into(), self.down_reason(node), missed, misses);
        (!misses).then(|| self.down_text(node))
    }

    /// Asks for one key of a read on a lane: its value goes to a place of a slot.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "who asks, where, for what, and where the answer goes")]
    pub(super) fn ask(
        &mut self,
        id: ClientId,
        up_id: UpstreamId,
        seq: u32,
        place: u32,
        verb: ReadVerb,
        key: &[u8],
        hash: u64,
        stage: Stage,
    ) -> bool {
        let Self { clients, upstreams, shared, nodes, groups, .. } = self;
        let (Some(client), Some(up)) = (clients.get_mut(id.0), upstreams.get_mut(up_id.0)) else {
            return false;
        };
        let merge = shared.settings.merge_gets
            && matches!(verb, ReadVerb::Get | ReadVerb::Gets)
            && nodes.get(up.node.0).is_some_and(|node| node.merges_again_at <= shared.now);
        let (is_binary, node) = (up.is_binary, up.node);
        let mut own = false;
        let joins = up.open_group().is_some_and(|group| {
            let is_own = |member: &Member| member.client == id && member.seq == seq && member.stage == stage;
            own = group.members.last().is_some_and(is_own);
            group.verb == verb && group.has_room(key.len()) && (merge || own)
        });
        if !joins {
            own = false;
            up.push_group(groups.take(verb), shared);
        }
        let Some(group) = up.open_group() else { return false };
        if !own {
            client.replies.add_part(seq);
            group.join(id, seq, stage);
            client.in_flight += 1;
            client.moves.reads += u32::from(stage != Stage::Plain);
            if is_binary {
                client.note_all(up_id, node);
                client.recharge(shared);
            }
        }
        if !group.add(key, hash, place) {
            shared.cells().coalesced_keys.add(1);
        }
        up.touch(up_id, shared);
        !own
    }

    fn change(&mut self, id: ClientId, change: Change, key: &[u8], quiet: bool) -> Taken {
        let hash = Topology::hash(key);
        if self.stalls_on(id, key, hash, false) {
            return Taken::Stalled;
        }
        self.shared.sample(key, hash);
        self.shared.cells().command(change.into());
        if change == Change::Delete {
            self.shared.large_keys.forget(hash);
        }
        let mut line = std::mem::take(&mut self.shared.line);
        line.clear();
        change.write(key, &mut line);
        self.enqueue(id, &line, Target::text(hash, change.into(), quiet), &[]);
        self.shared.line = line;
        Taken::Yes(0)
    }

    /// Deletes a key without an answer.
    pub(super) fn invalidate(&mut self, id: ClientId, key: &[u8]) {
        let mut line = Vec::new();
        let mut target = Target::text(Topology::hash(key), Command::Delete, true);
        if !is_key(key) {
            // No text has put it there.
            let node = self.owner(target.hash, || key);
            let Some(client) = self.clients.get(id.0) else { return };
            match self.known_way(node, client.lane) {
                Way::Packets(_) => {}
                Way::Lines(_) if key.len() <= translate::MAX_ODD_KEY => {}
                _ => return,
            }
            meta::request::write_delete(key, &mut line);
            target.meta = true;
        } else {
            Change::Delete.write(key, &mut line);
        }
        self.enqueue(id, &line, target, &[]);
    }

    /// Puts a request for one node on its lane and owes its reply, or answers that the node is down.
    pub(super) fn enqueue(&mut self, id: ClientId, line: &[u8], target: Target, tail: &[u8]) -> Option<UpstreamId> {
        if let Some((plan, places)) = self.plan_of(target.hash, line) {
            return self.hand_off(id, line, target, tail, plan, places, None);
        }
        self.enqueue_unmoved(id, line, target, tail)
    }

    /// The same of a key that has no old place.
    pub(super) fn enqueue_unmoved(
        &mut self,
        id: ClientId,
        line: &[u8],
        target: Target,
        tail: &[u8],
    ) -> Option<UpstreamId> {
        let Target { hash, command, meta, .. } = target;
        let node = self.owner_of_line(hash, line);
        let lane = self.clients.get(id.0)?.lane;
        let found = if meta { self.meta_lane(node, lane, line) } else { self.lane(node, lane).ok_or(Unsaid::Down) };
        let up_id = match found {
            Ok(lane) => lane,
            Err(Unsaid::Down) => {
                self.answer_down(id, node, target);
                return None;
            }
            Err(Unsaid::NoMeta) => {
                let text = self.needs_meta(node);
                self.shared.cells().soft(command, Reason::NodeError, 1, false);
                self.answer_for(id, target, text.as_bytes());
                return None;
            }
        };
        let Self { clients, upstreams, shared, .. } = self;
        let (client, up) = (clients.get_mut(id.0)?, upstreams.get_mut(up_id.0)?);
        let stamp = Stamp { kind: command.into(), arrived_at: shared.now };
        let seq = (!target.quiet).then(|| client.replies.push(stamp, target.form));
        if let Some(seq) = seq.filter(|_| !tail.is_empty()) {
            client.replies.set_tail(seq, tail);
        }
        client.in_flight += 1;
        let asked = if up.is_binary {
            client.note_all(up_id, node);
            client.recharge(shared);
            Asked::line(hash, line, &shared.settings)
        } else {
            Asked::new(hash, line, &shared.settings)
        };
        up.push(line, Entry::Single { client: id, seq, command, asked, expired: false, meta }, shared);
        up.touch(up_id, shared);
        Some(up_id)
    }

    pub(super) fn answer_down(&mut self, id: ClientId, node: NodeId, target: Target) {
        let command = target.command;
        let miss = command == Command::Touch && self.shared.misses();
        self.shared.cells().soft(command, self.down_reason(node), 1, miss);
        if miss {
            return self.answer_for(id, target, b"NOT_FOUND\r\n");
        }
        let text = self.down_text(node);
        self.answer_for(id, target, text.as_bytes());
    }

    fn down_reason(&self, node: NodeId) -> Reason {
        if self.nodes.get(node.0).is_some() { Reason::Down } else { Reason::NoRing }
    }

    pub(super) fn down_text(&self, node: NodeId) -> String {
        match self.nodes.get(node.0) {
            Some(entry) if entry.is_itself => format!("SERVER_ERROR proxy: node {} {ITSELF}\r\n", entry.node.name),
            Some(entry) => format!("SERVER_ERROR proxy: node {} is down\r\n", entry.node.name),
            None => "SERVER_ERROR proxy: no node is known yet\r\n".to_owned(),
        }
    }

    /// Whether any lane of a fan-out is at its limit, or its client has something under way on another lane; then the
    /// client waits.
    pub(super) fn stalls_on_any(&mut self, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(id.0) else { return false };
        if !client.elsewhere.is_empty() {
            client.stall = Stall::LaneChange;
            return true;
        }
        if !client.moves.is_empty() {
            client.stall = Stall::Moves;
            return true;
        }
        let lane = client.lane;
        let old: Vec<NodeId> = self.old_nodes().collect();
        for index in 0..self.ring.len() + old.len() {
            let node = self.ring.get(index).or_else(|| old.get(index - self.ring.len())).copied();
            let node = node.filter(|node| self.lane(*node, lane).is_some());
            if node.is_some_and(|node| self.waits_for_lost_write(id, node)) {
                return true;
            }
        }
        let Some(client) = self.clients.get_mut(id.0).filter(|_| self.shared.full_lanes > 0) else { return false };
        let lanes = self.ring.iter().chain(&old).filter_map(|node| self.nodes.get(node.0)?.routes.get(lane));
        for lane in lanes {
            if let Some(up) = self.upstreams.get_mut(lane.0).filter(|up| up.is_full()) {
                client.stall = Stall::Lane;
                self.shared.cells().waits(Wait::Lane);
                up.waiters.push_back(id);
                return true;
            }
        }
        false
    }

    /// Whether the client of a request for a key has to wait: its lane is at its limit, or something of the client for
    /// this key is under way on another lane of the node. `meta`: it is a meta command.
    pub(super) fn stalls_on(&mut self, id: ClientId, key: &[u8], hash: u64, meta: bool) -> bool {
        self.stalls_on_full(id, key, hash, meta)
            || self.stalls_behind(id, key, hash, meta)
            || self.has_moves(id) && self.stalls_on_moves(id, key, hash, meta)
    }

    /// Whether a write has to wait for something of its client that is, or may be, under way elsewhere.
    pub(super) fn stalls_behind(&mut self, id: ClientId, key: &[u8], hash: u64, meta: bool) -> bool {
        if self.stalls_elsewhere(id, key, hash, meta) {
            return true;
        }
        let Some(client) = self.clients.get(id.0).filter(|_| self.shared.lost_writes) else { return false };
        let lane = client.lane;
        let node = self.owner(hash, || key);
        self.lane(node, lane).is_some() && self.waits_for_lost_write(id, node)
    }

    /// Whether something of a client for a key is under way on another lane than the one it goes by; then it waits.
    #[inline]
    pub(super) fn stalls_elsewhere(&mut self, id: ClientId, key: &[u8], hash: u64, meta: bool) -> bool {
        let may = self.clients.get(id.0).is_some_and(|client| meta || !client.elsewhere.is_empty());
        may && self.has_elsewhere(id, key, hash, meta)
    }

    fn has_elsewhere(&mut self, id: ClientId, key: &[u8], hash: u64, meta: bool) -> bool {
        let Some(idle) = self.clients.get(id.0).map(|client| client.elsewhere.is_empty()) else { return false };
        let node = self.owner(hash, || key);
        self.stalls_elsewhere_at(id, node, hash, meta, idle)
    }

    /// The same of one node; `idle`: nothing of the client is elsewhere.
    pub(super) fn stalls_elsewhere_at(
        &mut self,
        id: ClientId,
        node: NodeId,
        hash: u64,
        meta: bool,
        idle: bool,
    ) -> bool {
        let Some(lane) = self.clients.get(id.0).map(|client| client.lane) else { return false };
        if meta && let Some(binary) = self.in_packets(node, lane) {
            return self.changes_lanes(id, node, binary, hash);
        }
        let Some(client) = self.clients.get(id.0).filter(|_| !idle) else { return false };
        let waits = self.lane(node, lane).is_some_and(|lane| client.is_elsewhere(node, lane, Some(hash)));
        if let (true, Some(client)) = (waits, self.clients.get_mut(id.0)) {
            client.stall = Stall::LaneChange;
        }
        waits
    }

    /// Whether the lane a key needs is at its limit; then the client waits for it.
    #[inline]
    pub(super) fn stalls_on_full(&mut self, id: ClientId, key: &[u8], hash: u64, meta: bool) -> bool {
        self.shared.full_lanes > 0 && self.needs_full(id, key, hash, meta)
    }

    fn needs_full(&mut self, id: ClientId, key: &[u8], hash: u64, meta: bool) -> bool {
        let node = self.owner(hash, || key);
        self.stalls_on_full_at(id, node, meta)
    }

    /// The same of the lane of one node.
    pub(super) fn stalls_on_full_at(&mut self, id: ClientId, node: NodeId, meta: bool) -> bool {
        let Some(lane) = self.clients.get(id.0).and_then(|client| self.lane_for(node, client.lane, meta)) else {
            return false;
        };
        let (Some(client), Some(up)) = (self.clients.get_mut(id.0), self.upstreams.get_mut(lane.0)) else {
            return false;
        };
        if up.is_full() {
            client.stall = Stall::Lane;
            self.shared.cells().waits(Wait::Lane);
            up.waiters.push_back(id);
        }
        up.is_full()
    }
}
