//! HOT: a request → its node → that node's lane.
//!
//! Route and enqueue are one step, so no request ever holds an old ring.

use super::client::{Body, Input, Reading, Stall, Taken, Target};
use super::lane::Entry;
use super::replies::{Part, Stamp};
use super::slow::{self, Asked};
use super::{ClientId, Core, NodeId, OnNodeDown, UpstreamId};
use crate::metrics::{Kind, Outcome, Reason, SIZES, Wait};
use crate::protocol::command::Command;
use crate::protocol::request::{self, Block, Change, Keys, ReadVerb, Refusal, Request, Store};
use crate::routing::Topology;

impl Core {
    pub(super) fn act(&mut self, id: ClientId, line: &[u8], after: &[u8]) -> Taken {
        match request::parse(line, self.shared.settings.max_value) {
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
                    client.input = Input::Quit;
                }
            }
            Err(refusal) => self.refuse(id, refusal),
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
            Block::Unknown => client.input = Input::Refused,
        }
    }

    /// Puts a read's keys on their nodes' lanes: one slot and one group per node (more where a line
    /// would become too long).
    fn read(&mut self, id: ClientId, verb: ReadVerb, keys: Keys<'_>) -> Taken {
        if self.shared.full_lanes > 0 && keys.clone().any(|key| self.stalls_on(id, key, Topology::hash(key))) {
            return Taken::Stalled;
        }
        let Some(lane) = self.clients.get(id.0).map(|client| client.lane) else {
            return Taken::Yes(0);
        };
        let mut lost = None;
        let mut count = 0_u64;
        let mut missed = 0_u64;
        let mut first = None;
        for key in keys {
            count += 1;
            let hash = Topology::hash(key);
            self.shared.sample(key, hash);
            let node = self.owner(hash, || key);
            match self.lane(node, lane) {
                Some(up) => self.ask(id, up, verb, key, hash, &mut first),
                None => {
                    missed += 1;
                    lost = Some(node);
                }
            }
        }
        let cells = self.shared.cells();
        cells.command(verb.into());
        cells.multigets.record(count, &SIZES);
        if let Some(node) = lost {
            cells.soft(verb.into(), self.down_reason(node), missed, self.shared.misses());
        }
        let error = lost.filter(|_| self.shared.settings.on_node_down == OnNodeDown::Error);
        let error = error.map(|node| self.down_text(node));
        let Some(client) = self.clients.get_mut(id.0) else {
            return Taken::Yes(0);
        };
        let stamp = Stamp { kind: Kind::Get, at: self.shared.now };
        match error {
            Some(text) => {
                let seq = client.replies.push(Part::Values { first: first.is_none(), last: true }, stamp);
                client.replies.fail_part(seq, text.as_bytes(), &mut self.shared.pool);
            }
            None if first.is_none() => client.replies.push_ready(b"END\r\n", stamp, &mut self.shared.pool),
            None => client.replies.close_read(),
        }
        Taken::Yes(0)
    }

    /// Adds one key of a read to its lane. `first` is the slot of the read's first part.
    #[inline]
    fn ask(&mut self, id: ClientId, up_id: UpstreamId, verb: ReadVerb, key: &[u8], hash: u64, first: &mut Option<u32>) {
        let Self { clients, upstreams, shared, nodes, .. } = self;
        let (Some(client), Some(up)) = (clients.get_mut(id.0), upstreams.get_mut(up_id.0)) else {
            return;
        };
        let merge = shared.settings.merge_gets
            && matches!(verb, ReadVerb::Get | ReadVerb::Gets)
            && nodes.get(up.node.0).is_some_and(|node| node.no_merge_until <= shared.now);
        // The open group's last member is this read's when its slot is not older than the first.
        let this_read = |seq: u32| first.is_some_and(|first| seq.wrapping_sub(first) < u32::MAX / 2);
        let mut own = false;
        let joins = up.open_group().is_some_and(|group| {
            own = group.members.last().is_some_and(|member| member.client == id && this_read(member.seq));
            group.verb == verb && group.has_room(key.len()) && (merge || own)
        });
        if !joins {
            own = false;
            let mut group = shared.group();
            group.reset(verb);
            up.push_group(group, shared);
        }
        let Some(group) = up.open_group() else { return };
        if !own {
            let stamp = Stamp { kind: Kind::Get, at: shared.now };
            let seq = client.replies.push(Part::Values { first: first.is_none(), last: false }, stamp);
            first.get_or_insert(seq);
            group.join(id, seq);
            client.in_flight += 1;
        }
        if !group.add(key, hash) {
            shared.cells().coalesced_keys.add(1);
        }
        up.touch(up_id, shared);
    }

    fn store(&mut self, id: ClientId, store: &Store<'_>, after: &[u8]) -> Taken {
        if store.len > self.shared.settings.bulk_above {
            return self.store_large(id, store);
        }
        let hash = Topology::hash(store.key);
        let total = store.len + 2;
        if self.stalls_on(id, store.key, hash) || (after.len() < total && !self.reserve_body(id, total)) {
            return Taken::Stalled;
        }
        self.shared.sample(store.key, hash);
        self.shared.cells().command(store.verb.into());
        let target = Target { hash, quiet: store.quiet, command: store.verb.into() };
        let mut header = std::mem::take(&mut self.shared.line);
        header.clear();
        store.write(&mut header);
        if let Some(block) = after.get(..total) {
            self.forward_value(id, target, &header, block, None);
            self.shared.line = header;
            // All of it came with what waited for room.
            self.end_body(id);
            return Taken::Yes(total);
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            let bytes = Vec::with_capacity(total);
            client.reading = Reading::Body(Box::new(Body { header, target, bytes, total }));
        }
        Taken::Yes(0)
    }

    /// A stored value is complete.
    pub(super) fn finish_body(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let Reading::Body(body) = std::mem::replace(&mut client.reading, Reading::Line) else {
            return;
        };
        let Body { header, target, bytes, .. } = *body;
        self.forward_value(id, target, &header, &[], Some(bytes));
        self.shared.line = header;
        self.end_body(id);
    }

    /// The room that was kept for a body is free.
    fn end_body(&mut self, id: ClientId) {
        let reserved = self.clients.get_mut(id.0).map_or(0, |client| std::mem::take(&mut client.reserved));
        if reserved > 0 {
            self.release_body(reserved);
        }
    }

    /// Forwards a storage request whose whole block is there: as a slice, or as a buffer of its own.
    ///
    /// A lane that has become full in the meantime takes this one more.
    fn forward_value(&mut self, id: ClientId, target: Target, header: &[u8], block: &[u8], owned: Option<Vec<u8>>) {
        let Target { hash, quiet, command } = target;
        let bytes = owned.as_deref().unwrap_or(block);
        if !bytes.ends_with(b"\r\n") {
            self.shared.cells().request(command, Outcome::ClientError, 1);
            return self.answer(id, Kind::Store, b"CLIENT_ERROR bad data chunk\r\n", quiet);
        }
        let Some(up_id) = self.enqueue(id, hash, quiet, header, command) else {
            return;
        };
        let Self { upstreams, shared, .. } = self;
        let Some(up) = upstreams.get_mut(up_id.0) else {
            return;
        };
        match owned {
            Some(buffer) if buffer.len() >= 16 << 10 => up.out.push(buffer),
            Some(buffer) => up.out.append(&buffer, &mut shared.pool),
            None => up.out.append(block, &mut shared.pool),
        }
        up.touch(up_id, shared);
    }

    fn change(&mut self, id: ClientId, change: Change, key: &[u8], quiet: bool) -> Taken {
        let hash = Topology::hash(key);
        if self.stalls_on(id, key, hash) {
            return Taken::Stalled;
        }
        self.shared.sample(key, hash);
        self.shared.cells().command(change.into());
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
        let node = self.owner(hash, || slow::key_of(line));
        let lane = self.clients.get(id.0)?.lane;
        let Some(up_id) = self.lane(node, lane) else {
            self.answer_down(id, node, quiet, command);
            return None;
        };
        let Self { clients, upstreams, shared, .. } = self;
        let (client, up) = (clients.get_mut(id.0)?, upstreams.get_mut(up_id.0)?);
        let stamp = Stamp { kind: command.into(), at: shared.now };
        let seq = (!quiet).then(|| client.replies.push(Part::Whole, stamp));
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
            Some(entry) => format!("SERVER_ERROR proxy: node {} is down\r\n", entry.node.name),
            None => "SERVER_ERROR proxy: no node is known yet\r\n".to_owned(),
        }
    }

    /// Whether any lane of a fan-out is at its limit; then the client waits for it.
    pub(super) fn stalls_on_any(&mut self, id: ClientId) -> bool {
        if self.shared.full_lanes == 0 {
            return false;
        }
        let Some(client) = self.clients.get_mut(id.0) else { return false };
        let lanes = self.ring.iter().filter_map(|node| self.nodes.get(node.0)?.lanes.get(client.lane));
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

    /// Whether the lane a key needs is at its limit; then the client waits for it.
    fn stalls_on(&mut self, id: ClientId, key: &[u8], hash: u64) -> bool {
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
