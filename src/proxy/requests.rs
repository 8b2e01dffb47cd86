//! HOT: a request → its node → that node's lane.
//!
//! Route and enqueue are one step, so no request ever holds an old ring.

use super::buffer::{Input, OutBuf};
use super::client::replies::Stamp;
use super::client::{self, Body, Reading, Stall, Taken, Target};
use super::upstream::{Asked, Entry, key_of};
use super::{ClientId, Core, ITSELF, NodeId, UpstreamId};
use crate::config::OnNodeDown;
use crate::metrics::{Kind, Outcome, Reason, SIZES, Wait};
use crate::protocol::command::Command;
use crate::protocol::request::{Block, Change, Keys, ReadVerb, Refusal, Request, Store, StoreVerb};
use crate::protocol::text::request;
use crate::routing::Topology;

impl Core {
    pub(super) fn act(&mut self, id: ClientId, line: &[u8], after: Input<'_>) -> Taken {
        let request = request::parse(line, self.shared.settings.max_value);
        if self.ring.is_empty() && self.stalls_on_ring(id, &request) {
            return Taken::Stalled;
        }
        match request {
            Ok(Request::Read { verb, keys }) => return self.read(id, verb, keys),
            Ok(Request::Store(store)) => return self.store(id, &store, after),
            Ok(Request::Change { change, key, quiet }) => {
                return self.change(id, change, key, quiet);
            }
            Ok(Request::FlushAll { delay, quiet }) => return self.flush_all(id, delay, quiet),
            Ok(Request::Stats(what)) => return self.stats(id, what),
            Ok(Request::Verbosity { quiet }) => self.answer_here(id, b"OK\r\n", quiet),
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
                if refusal.stale.is_some_and(|key| self.stalls_on(id, key, Topology::hash(key))) {
                    return Taken::Stalled;
                }
                self.refuse(id, refusal);
            }
        }
        Taken::Yes(0)
    }

    /// Answers in the client's turn, unless it asked for no answer.
    pub(super) fn answer(&mut self, id: ClientId, kind: Kind, text: &[u8], quiet: bool) {
        if let Some(client) = self.clients.get_mut(id.0)
            && !quiet
        {
            let stamp = Stamp { kind, at: self.shared.now };
            client.replies.push_ready(text, stamp, &mut self.shared.pool);
        }
    }

    /// Answers what needs no node.
    fn answer_here(&mut self, id: ClientId, text: &[u8], quiet: bool) {
        self.count_here(Outcome::Ok);
        self.answer(id, Kind::Other, text, quiet);
    }

    fn count_here(&self, outcome: Outcome) {
        self.shared.cells().command(Command::Other);
        self.shared.cells().request(Command::Other, outcome, 1);
    }

    pub(super) fn refuse(&mut self, id: ClientId, refusal: Refusal<'_>) {
        if refusal.is_too_large() {
            self.shared.cells().stores_too_large.add(1);
        }
        let server = refusal.text.starts_with("SERVER_ERROR");
        self.count_here(if server { Outcome::ServerError } else { Outcome::ClientError });
        if let Some(key) = refusal.stale {
            // As in memcached: what could not be stored must not leave the old value behind.
            self.invalidate(id, key);
        }
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        if !refusal.quiet && !refusal.text.is_empty() {
            let mut line = std::mem::take(&mut self.shared.line);
            line.clear();
            line.extend_from_slice(refusal.text.as_bytes());
            line.extend_from_slice(b"\r\n");
            let stamp = Stamp { kind: Kind::Other, at: self.shared.now };
            client.replies.push_ready(&line, stamp, &mut self.shared.pool);
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
    fn read(&mut self, id: ClientId, verb: ReadVerb, keys: Keys<'_>) -> Taken {
        if self.shared.full_lanes > 0 && keys.into_iter().any(|key| self.stalls_on_full(id, key, Topology::hash(key))) {
            // Who waits holds nothing that others wait for.
            if let Some(client) = self.clients.get_mut(id.0).filter(|client| client.promised > 0) {
                client.break_promise(&mut self.shared);
            }
            return Taken::Stalled;
        }
        let Some(client) = self.clients.get(id.0) else { return Taken::Yes(0) };
        let lane = client.lane;
        // Where nothing is large, and nothing is under way elsewhere, all keys go to the shared lanes.
        let plain =
            self.shared.large_keys.is_empty() && client.elsewhere.is_empty() && client.promised == 0 && !client.no_room;
        if !plain && self.large_read_waits(id, verb, keys) {
            return Taken::Stalled;
        }
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return Taken::Yes(0) };
        let seq = client.replies.push_read(Stamp { kind: Kind::Get, at: shared.now });
        let mut lost = None;
        let (mut count, mut missed) = (0_u32, 0_u64);
        for (key, place) in keys.zip(0..) {
            count = place + 1;
            let hash = Topology::hash(key);
            self.shared.sample(key, hash);
            let node = self.owner(hash, || key);
            if self.read_key(id, seq, place, node, verb, key, hash, lane, plain).is_err() {
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
    ) -> Result<Option<UpstreamId>, ()> {
        if !plain && self.read_large(id, seq, place, node, verb, key, hash) {
            return Ok(None);
        }
        if let Some(up) = self.lane(node, lane) {
            return Ok(self.ask(id, up, seq, place, verb, key, hash).then_some(up));
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            client.replies.miss(seq, place, &mut self.shared.pool);
        }
        Err(())
    }

    /// Counts keys of a read whose node cannot be asked. Returns the error line, where errors are asked for.
    pub(super) fn count_lost(&self, verb: ReadVerb, node: NodeId, missed: u64) -> Option<String> {
        self.shared.cells().soft(verb.into(), self.down_reason(node), missed, self.shared.misses());
        (self.shared.settings.on_node_down == OnNodeDown::Error).then(|| self.down_text(node))
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
    ) -> bool {
        let Self { clients, upstreams, shared, nodes, groups, .. } = self;
        let (Some(client), Some(up)) = (clients.get_mut(id.0), upstreams.get_mut(up_id.0)) else {
            return false;
        };
        let merge = shared.settings.merge_gets
            && matches!(verb, ReadVerb::Get | ReadVerb::Gets)
            && nodes.get(up.node.0).is_some_and(|node| node.no_merge_until <= shared.now);
        let mut own = false;
        let joins = up.open_group().is_some_and(|group| {
            own = group.members.last().is_some_and(|member| member.client == id && member.seq == seq);
            group.verb == verb && group.has_room(key.len()) && (merge || own)
        });
        if !joins {
            own = false;
            up.push_group(groups.take(verb), shared);
        }
        let Some(group) = up.open_group() else { return false };
        if !own {
            client.replies.add_part(seq);
            group.join(id, seq);
            client.in_flight += 1;
        }
        if !group.add(key, hash, place) {
            shared.cells().coalesced_keys.add(1);
        }
        up.touch(up_id, shared);
        !own
    }

    fn store(&mut self, id: ClientId, store: &Store<'_>, after: Input<'_>) -> Taken {
        if store.len > self.shared.settings.bulk_above {
            return self.store_large(id, store);
        }
        let hash = Topology::hash(store.key);
        let total = store.len + 2;
        if self.stalls_on(id, store.key, hash) || (after.bytes.len() < total && !self.reserve_body(id, total)) {
            return Taken::Stalled;
        }
        if store.verb == StoreVerb::Set {
            self.shared.large_keys.forget(hash);
        }
        self.shared.sample(store.key, hash);
        self.shared.cells().command(store.verb.into());
        let target = Target { hash, quiet: store.quiet, command: store.verb.into() };
        let mut header = std::mem::take(&mut self.shared.line);
        header.clear();
        store.write(&mut header);
        if after.bytes.len() >= total {
            let block = after.part(0..total);
            if block.bytes.ends_with(b"\r\n") {
                if let Some(up) = self.enqueue(id, hash, store.quiet, &header, target.command) {
                    let Self { upstreams, shared, .. } = self;
                    if let Some(lane) = upstreams.get_mut(up.0) {
                        lane.out.take(block, &mut shared.pool);
                        lane.touch(up, shared);
                    }
                }
            } else {
                self.refuse_block(id, target);
            }
            self.shared.line = header;
            // All of it came with what waited for room.
            self.end_body(id, total);
            return Taken::Yes(total);
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            let body = Body { header, target, block: OutBuf::default(), end: [0; 2], total };
            client.reading = Reading::Body(Box::new(body));
        }
        Taken::Yes(0)
    }

    /// Takes what came of a value that is stored here first. Returns how much of `rest` it was.
    pub(super) fn take_body(&mut self, id: ClientId, rest: Input<'_>) -> usize {
        let Some(client) = self.clients.get(id.0) else { return rest.bytes.len() };
        let Reading::Body(body) = &client.reading else { return 0 };
        // It goes on its way with its last byte: that is left where it is as long as it must not.
        let (hash, ends) = (body.target.hash, body.left() <= rest.bytes.len());
        let early = usize::from(ends && self.body_stalls(id, hash));
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return rest.bytes.len() };
        let Reading::Body(body) = &mut client.reading else { return 0 };
        let used = body.left().min(rest.bytes.len()) - early;
        let piece = rest.part(0..used);
        for byte in piece.bytes.get(used.saturating_sub(2)..).unwrap_or_default() {
            body.end = [body.end[1], *byte];
        }
        body.block.take(piece, &mut shared.pool);
        if client.reserved > 0 {
            shared.budget.arriving -= used;
        }
        if body.left() == 0 {
            self.finish_body(id);
        }
        used
    }

    /// Whether a body has to wait before its end.
    fn body_stalls(&mut self, id: ClientId, hash: u64) -> bool {
        let Some(header) = self.body(id).map(|body| std::mem::take(&mut body.header)) else { return false };
        let stalls = self.stalls_behind(id, key_of(&header), hash);
        if let Some(body) = self.body(id) {
            body.header = header;
        }
        stalls
    }

    /// The body of which a client has sent the beginning.
    fn body(&mut self, id: ClientId) -> Option<&mut Body> {
        match &mut self.clients.get_mut(id.0)?.reading {
            Reading::Body(body) => Some(body),
            _ => None,
        }
    }

    /// A body that waits before its end is not sent: it is answered, and its end dropped.
    pub(super) fn refuse_body(&mut self, id: ClientId, reason: Reason, text: &str) {
        let Some(body) = self.body(id) else { return };
        let (left, target) = (body.left(), body.target);
        let mut block = std::mem::take(&mut body.block);
        block.clear(&mut self.shared.pool);
        self.end_body(id, left);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.reading = Reading::Swallow(left as u64);
        }
        self.shared.cells().soft(target.command, reason, 1, false);
        self.answer(id, target.command.into(), text.as_bytes(), target.quiet);
    }

    /// A stored value is complete: forwards it.
    ///
    /// A lane that has become full in the meantime takes this one more.
    fn finish_body(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let Reading::Body(body) = std::mem::replace(&mut client.reading, Reading::Line) else {
            return;
        };
        let Body { header, target, mut block, end, .. } = *body;
        if end != *b"\r\n" {
            block.clear(&mut self.shared.pool);
            self.refuse_block(id, target);
        } else if let Some(up) = self.enqueue(id, target.hash, target.quiet, &header, target.command) {
            let Self { upstreams, shared, .. } = self;
            if let Some(lane) = upstreams.get_mut(up.0) {
                lane.out.join(block, &mut shared.pool);
                lane.touch(up, shared);
            }
        } else {
            block.clear(&mut self.shared.pool);
        }
        self.shared.line = header;
        self.end_body(id, 0);
    }

    /// A value's block does not end as it must.
    fn refuse_block(&mut self, id: ClientId, target: Target) {
        self.shared.cells().request(target.command, Outcome::ClientError, 1);
        self.answer(id, Kind::Store, b"CLIENT_ERROR bad data chunk\r\n", target.quiet);
    }

    /// The room that was kept for a body is free; so many bytes of it were still to come.
    fn end_body(&mut self, id: ClientId, to_come: usize) {
        let Self { clients, shared, .. } = self;
        let reserved = clients.get_mut(id.0).map_or(0, |client| std::mem::take(&mut client.reserved));
        if reserved > 0 {
            shared.budget.bodies -= reserved;
            shared.budget.arriving -= to_come;
        }
    }

    fn change(&mut self, id: ClientId, change: Change, key: &[u8], quiet: bool) -> Taken {
        let hash = Topology::hash(key);
        if self.stalls_on(id, key, hash) {
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
        self.enqueue(id, hash, quiet, &line, change.into());
        self.shared.line = line;
        Taken::Yes(0)
    }

    /// Deletes a key without an answer.
    fn invalidate(&mut self, id: ClientId, key: &[u8]) {
        let mut line = Vec::new();
        Change::Delete.write(key, &mut line);
        self.enqueue(id, Topology::hash(key), true, &line, Command::Delete);
    }

    /// Puts a request for one node on its lane and owes its reply, or answers that the node is down.
    fn enqueue(&mut self, id: ClientId, hash: u64, quiet: bool, line: &[u8], command: Command) -> Option<UpstreamId> {
        let node = self.owner(hash, || key_of(line));
        let lane = self.clients.get(id.0)?.lane;
        let Some(up_id) = self.lane(node, lane) else {
            self.answer_down(id, node, quiet, command);
            return None;
        };
        let Self { clients, upstreams, shared, .. } = self;
        let (client, up) = (clients.get_mut(id.0)?, upstreams.get_mut(up_id.0)?);
        let stamp = Stamp { kind: command.into(), at: shared.now };
        let seq = (!quiet).then(|| client.replies.push(stamp));
        client.in_flight += 1;
        let asked = Asked::new(hash, line, &shared.settings);
        up.push(line, Entry::Single { client: id, seq, command, asked, expired: false }, shared);
        up.touch(up_id, shared);
        Some(up_id)
    }

    pub(super) fn answer_down(&mut self, id: ClientId, node: NodeId, quiet: bool, command: Command) {
        let miss = command == Command::Touch && self.shared.misses();
        self.shared.cells().soft(command, self.down_reason(node), 1, miss);
        if miss {
            return self.answer(id, Kind::Touch, b"NOT_FOUND\r\n", quiet);
        }
        let text = self.down_text(node);
        self.answer(id, command.into(), text.as_bytes(), quiet);
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
        let lane = client.lane;
        for index in 0..self.ring.len() {
            let node = self.ring.get(index).copied().filter(|node| self.lane(*node, lane).is_some());
            if node.is_some_and(|node| self.waits_for_lost_write(id, node)) {
                return true;
            }
        }
        let Some(client) = self.clients.get_mut(id.0).filter(|_| self.shared.full_lanes > 0) else { return false };
        let lanes = self.ring.iter().filter_map(|node| self.nodes.get(node.0)?.routes.get(lane));
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
    /// this key is under way on another lane of the node.
    pub(super) fn stalls_on(&mut self, id: ClientId, key: &[u8], hash: u64) -> bool {
        self.stalls_on_full(id, key, hash) || self.stalls_behind(id, key, hash)
    }

    /// Whether a write has to wait for something of its client that is, or may be, under way elsewhere.
    fn stalls_behind(&mut self, id: ClientId, key: &[u8], hash: u64) -> bool {
        if self.stalls_elsewhere(id, key, hash) {
            return true;
        }
        let Some(client) = self.clients.get(id.0) else { return false };
        let lane = client.lane;
        let node = self.owner(hash, || key);
        self.lane(node, lane).is_some() && self.waits_for_lost_write(id, node)
    }

    /// Whether something of a client for a key is under way on another lane than the shared one; then it waits.
    pub(super) fn stalls_elsewhere(&mut self, id: ClientId, key: &[u8], hash: u64) -> bool {
        let Some(client) = self.clients.get(id.0).filter(|client| !client.elsewhere.is_empty()) else { return false };
        let node = self.owner(hash, || key);
        let waits = self.lane(node, client.lane).is_some_and(|lane| client.is_elsewhere(node, lane, Some(hash)));
        if let (true, Some(client)) = (waits, self.clients.get_mut(id.0)) {
            client.stall = Stall::LaneChange;
        }
        waits
    }

    /// Whether the lane a key needs is at its limit; then the client waits for it.
    pub(super) fn stalls_on_full(&mut self, id: ClientId, key: &[u8], hash: u64) -> bool {
        if self.shared.full_lanes == 0 {
            return false;
        }
        let node = self.owner(hash, || key);
        let Some(lane) = self.clients.get(id.0).and_then(|client| self.lane(node, client.lane)) else {
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
