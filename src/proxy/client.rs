//! HOT: a client's bytes → requests → a node's lane.
//!
//! A request is acted on only when its line is whole and valid, and a stored value only when its
//! block has arrived and ends as it must. Route and enqueue are one step, so no request ever holds
//! an old ring.

use std::time::Duration;

use super::bulk::{self, BULK_VALUE, BulkRead};
use super::gather::{Gather, Gathering};
use super::replies::{Part, Replies};
use super::stats::Sidecar;
use super::upstream::{Entry, Verb};
use super::{ClientId, Core, Effect, NodeIndex, OnNodeDown, OutBuf, Shared, Tick, UpstreamId, node_index};
use crate::metrics::NodeState;
use crate::protocol::request::{self, Block, Change, Keys, ReadVerb, Refusal, Request, Stats, Store};
use crate::protocol::{MAX_KEY_LINE, MAX_LINE, is_key_line, number};
use crate::routing::Topology;

/// Most requests of one client that wait for their reply; what lies behind stays unparsed.
const MAX_PIPELINE: usize = 1024;
/// A client is not read while so many bytes of its replies wait.
const CLIENT_BYTES: usize = 1 << 20;
/// A client for which more than this waits is closed: it does not read, and what it asked for
/// arrives on lanes that others use too.
const CLIENT_LIMIT: usize = 32 << 20;
/// So many requests are always read ahead, however large the values.
const MIN_PIPELINE: usize = 16;
/// A value's size, in bytes, before a client has seen any.
const FIRST_GUESS: usize = 64 << 10;

/// What the next bytes of a client are.
#[derive(Debug)]
enum Reading {
    /// A command line.
    Line,
    /// The data block of a stored value.
    Body(Box<Body>),
    /// The block of a refused line: bytes to drop.
    Swallow(u64),
    /// The data block of a large value, not begun: waits for a bulk lane.
    AwaitLane(Box<Large>),
    /// The data block of a large value on its way through a bulk lane.
    Stream {
        lane: UpstreamId,
        /// Bytes to come, CRLF included.
        left: u64,
        /// The slot of its answer.
        seq: Option<u32>,
    },
}

/// Where a storage request goes, and who is told.
#[derive(Clone, Copy, Debug)]
struct Target {
    hash: u64,
    quiet: bool,
    verb: Verb,
}

/// A value that is forwarded once it has arrived.
#[derive(Debug)]
struct Body {
    /// The line as it is sent to the node.
    header: Vec<u8>,
    target: Target,
    /// The block so far.
    bytes: Vec<u8>,
    /// The block's length, CRLF included.
    total: usize,
}

/// A value that is too large to be stored here.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) header: Vec<u8>,
    pub(super) quiet: bool,
    pub(super) verb: Verb,
    /// The block's length, CRLF included.
    pub(super) total: u64,
}

/// Why a client's bytes are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    None,
    /// It has too many replies, or too large ones, waiting.
    Output,
    /// A lane it needs is full.
    Lane,
    /// Until nothing of it is in flight: it changes lanes.
    Drain,
    /// Until it gets a bulk lane.
    Bulk,
}

/// Whether more will come from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// It has sent its end; what it sent before is answered.
    Ended,
    /// `quit`: nothing further is looked at.
    Quit,
    /// A refused line of unknown extent: nothing further is looked at, and more may be on its way.
    Refused,
}

/// One client connection.
#[derive(Debug)]
pub(super) struct Client {
    /// What is not parsed yet.
    carry: Vec<u8>,
    /// How much of `carry` is known to hold no line end.
    scanned: usize,
    reading: Reading,
    pub(super) replies: Replies,
    /// FIFO entries that name this client, `noreply` and fan-out included.
    pub(super) in_flight: u32,
    pub(super) stall: Stall,
    input: Input,
    /// The shared lane it keeps to.
    lane: usize,
    dirty: bool,
    /// A lane whose reader it is and that is not read until it has room.
    pub(super) paused: Option<UpstreamId>,
    /// Large reads that wait for a bulk lane.
    pub(super) bulk_reads: Vec<BulkRead>,
    /// Moving average of the sizes of the values it got, in bytes.
    average: usize,
    closing: bool,
    /// It changes lanes: nothing new is sent before everything in flight is answered.
    pub(super) draining: bool,
}

/// What became of a request.
enum Taken {
    /// Acted on; so many bytes behind its line belonged to it.
    Yes(usize),
    /// Not now: the client's stall says why, and the line is read again afterwards.
    Stalled,
}

impl Client {
    fn new(lane: usize) -> Self {
        Self {
            carry: Vec::new(),
            scanned: 0,
            reading: Reading::Line,
            replies: Replies::default(),
            in_flight: 0,
            stall: Stall::None,
            input: Input::Open,
            lane,
            dirty: false,
            paused: None,
            bulk_reads: Vec::new(),
            average: FIRST_GUESS,
            closing: false,
            draining: false,
        }
    }

    /// Whether it must take replies before it may ask for more.
    fn is_behind(&self) -> bool {
        let slots = self.replies.len();
        slots >= MAX_PIPELINE
            || self.replies.bytes() >= CLIENT_BYTES
            || (slots >= MIN_PIPELINE && slots * self.average >= CLIENT_BYTES)
    }

    fn has_room(&self) -> bool {
        let slots = self.replies.len();
        slots <= MAX_PIPELINE / 2
            && self.replies.bytes() <= CLIENT_BYTES / 2
            && (slots <= MIN_PIPELINE / 2 || slots * self.average <= CLIENT_BYTES / 2)
    }

    /// A value of so many bytes is on its way to this client.
    pub(super) fn saw_value(&mut self, len: u64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(CLIENT_LIMIT);
        self.average = (self.average * 7 + len) / 8;
    }

    /// Notes what follows from a change of this client's replies: a write, a resumption, its end.
    #[inline]
    pub(super) fn settle(&mut self, id: ClientId, shared: &mut Shared) {
        if !self.dirty && self.replies.wants_flush() {
            self.dirty = true;
            shared.dirty_clients.push(id);
        }
        match self.stall {
            Stall::None => {}
            Stall::Output if self.has_room() => shared.resume.push_back(id),
            Stall::Drain if self.in_flight == 0 => shared.resume.push_back(id),
            Stall::Output | Stall::Drain | Stall::Lane | Stall::Bulk => {}
        }
        if self.input != Input::Open || self.replies.bytes() > CLIENT_LIMIT {
            self.settle_end(id, shared);
        }
    }

    fn settle_end(&mut self, id: ClientId, shared: &mut Shared) {
        if self.replies.bytes() > CLIENT_LIMIT {
            shared.cells().clients_too_slow.add(1);
            tracing::warn!(bytes = self.replies.bytes(), "client does not read its replies; closed");
            shared.finished.push(id);
            self.closing = true;
            return;
        }
        let parsed = match self.input {
            Input::Open => false,
            // Stalled requests of a client that has sent its end are still answered.
            Input::Ended => self.stall == Stall::None,
            Input::Quit | Input::Refused => true,
        };
        if parsed && !self.closing && self.replies.is_empty() && self.replies.out.is_empty() {
            self.closing = true;
            shared.finished.push(id);
        }
    }

    /// The lane a streamed value goes through.
    pub(super) fn streams_through(&self, lane: UpstreamId) -> bool {
        matches!(self.reading, Reading::Stream { lane: through, .. } if through == lane)
    }

    /// The streamed value's lane is gone: the rest of the block is dropped.
    pub(super) fn stream_lost(&mut self) {
        if let Reading::Stream { left, .. } = self.reading {
            self.reading = Reading::Swallow(left);
        }
    }

    /// Takes the large value that waits for a lane; it streams through `lane` from now on.
    pub(super) fn begin_stream(&mut self, lane: UpstreamId) -> Option<(Box<Large>, Option<u32>)> {
        match std::mem::replace(&mut self.reading, Reading::Line) {
            Reading::AwaitLane(large) => {
                let seq = (!large.quiet).then(|| self.replies.push(Part::Whole));
                self.reading = Reading::Stream { lane, left: large.total, seq };
                Some((large, seq))
            }
            other => {
                self.reading = other;
                None
            }
        }
    }
}

impl Core {
    /// A client has connected.
    pub fn client_connected(&mut self) -> ClientId {
        let lane = self.next_lane;
        self.next_lane = (lane + 1) % self.shared.settings.lanes.max(1);
        let cells = self.shared.cells();
        cells.connections.add(1);
        cells.connections_total.add(1);
        ClientId(self.clients.insert(Client::new(lane)))
    }

    /// Whether the rim should read from this client now.
    #[must_use]
    pub fn client_may_read(&self, id: ClientId) -> bool {
        self.clients.get(id.0).is_some_and(|client| client.stall == Stall::None && client.input == Input::Open)
    }

    /// Whether the client is still there.
    #[must_use]
    pub fn has_client(&self, id: ClientId) -> bool {
        self.clients.get(id.0).is_some()
    }

    /// Takes what a client sent. What cannot be acted on yet is kept.
    pub fn client_input(&mut self, id: ClientId, bytes: &[u8], now: Tick) {
        self.shared.now = now;
        self.shared.cells().bytes_read.add(bytes.len() as u64);
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        if client.carry.is_empty() {
            let used = self.parse(id, bytes);
            let Self { clients, shared, .. } = self;
            if let (Some(client), Some(rest @ [_, ..])) = (clients.get_mut(id.0), bytes.get(used..)) {
                if client.carry.capacity() == 0 {
                    client.carry = shared.pool.take();
                }
                client.carry.extend_from_slice(rest);
            }
        } else {
            client.carry.extend_from_slice(bytes);
            self.parse_carry(id);
        }
        self.settle_client(id);
        self.finish_round();
    }

    /// The client has sent its end: what is owed is answered, then it is closed.
    pub fn client_ended(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0)
            && client.input == Input::Open
        {
            client.input = Input::Ended;
        }
        self.settle_client(id);
        self.finish_round();
    }

    /// The connection is broken: whatever comes for it is swallowed.
    pub fn client_gone(&mut self, id: ClientId) {
        self.forget_client(id);
        self.finish_round();
    }

    /// What waits to be written to a client.
    pub fn client_out(&mut self, id: ClientId) -> Option<&OutBuf> {
        let client = self.clients.get_mut(id.0)?;
        client.dirty = false;
        Some(&client.replies.out)
    }

    /// The kernel has taken so many bytes.
    pub fn client_written(&mut self, id: ClientId, bytes: usize, now: Tick) {
        self.shared.now = now;
        self.shared.cells().bytes_written.add(bytes as u64);
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else {
            return;
        };
        client.replies.out.advance(bytes, &mut shared.pool);
        if let Some(lane) = client.paused
            && client.replies.bytes() < bulk::STREAM_BYTES / 2
        {
            client.paused = None;
            shared.effects.push(Effect::WakeUpstream(lane));
        }
        if client.replies.out.is_empty() {
            client.settle(id, shared);
            self.finish_round();
        }
    }

    /// Writes go on: the socket has room again.
    pub fn client_writable(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0) {
            // A round that found the socket blocked has passed over what it was woken for.
            client.dirty = false;
        }
        self.settle_client(id);
    }

    fn settle_client(&mut self, id: ClientId) {
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            client.settle(id, shared);
        }
    }

    /// Closes a client and forgets it.
    pub(super) fn forget_client(&mut self, id: ClientId) {
        let Some(mut client) = self.clients.remove(id.0) else {
            return;
        };
        self.shared.cells().connections.sub(1);
        self.shared.effects.push(Effect::CloseClient(id));
        client.replies.clear(&mut self.shared.pool);
        self.shared.pool.put(client.carry);
        if let Some(lane) = client.paused {
            self.shared.effects.push(Effect::WakeUpstream(lane));
        }
        self.drop_lanes_of(id);
    }

    /// A reason to wait has gone.
    pub(super) fn resume_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        match client.stall {
            Stall::Output if !client.has_room() => return,
            Stall::Drain if client.in_flight > 0 => return,
            Stall::Bulk | Stall::None => return,
            _ => {}
        }
        self.unstall(id);
    }

    /// Goes on with what a client has sent.
    pub(super) fn unstall(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        client.stall = Stall::None;
        self.parse_carry(id);
        self.settle_client(id);
        if self.client_may_read(id) {
            self.shared.effects.push(Effect::WakeClient(id));
        }
    }

    fn parse_carry(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let mut carry = std::mem::take(&mut client.carry);
        let used = self.parse(id, &carry);
        let Self { clients, shared, .. } = self;
        match clients.get_mut(id.0) {
            Some(client) if used < carry.len() => {
                carry.drain(..used);
                client.carry = carry;
            }
            _ => shared.pool.put(carry),
        }
    }

    /// Acts on whole requests at the beginning of `input`. Returns how many bytes they were.
    fn parse(&mut self, id: ClientId, input: &[u8]) -> usize {
        let mut at = 0;
        while at < input.len() {
            let Some(client) = self.clients.get_mut(id.0) else {
                return input.len();
            };
            if matches!(client.input, Input::Quit | Input::Refused) {
                return input.len();
            }
            client.draining &= client.in_flight > 0;
            if client.stall == Stall::None && matches!(client.reading, Reading::Line | Reading::Body(_)) {
                if client.draining {
                    client.stall = Stall::Drain;
                } else if client.is_behind() {
                    client.stall = Stall::Output;
                }
            }
            if client.stall != Stall::None {
                return at;
            }
            let rest = input.get(at..).unwrap_or_default();
            at += match &mut client.reading {
                Reading::Line => match self.parse_line(id, rest) {
                    Some(used) => used,
                    None => return at,
                },
                Reading::Swallow(left) => {
                    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= used as u64;
                    if *left == 0 {
                        client.reading = Reading::Line;
                    }
                    used
                }
                Reading::Body(body) => {
                    let used = (body.total - body.bytes.len()).min(rest.len());
                    body.bytes.extend_from_slice(rest.get(..used).unwrap_or_default());
                    if body.bytes.len() == body.total {
                        self.finish_body(id);
                    }
                    used
                }
                Reading::Stream { .. } => match self.stream(id, rest) {
                    Some(used) => used,
                    None => return at,
                },
                Reading::AwaitLane(_) => return at,
            };
        }
        // A value whose last bytes were taken while its lane was full waits without input.
        at
    }

    /// Acts on one line and what belongs to it. `None`: not whole, or not now.
    fn parse_line(&mut self, id: ClientId, rest: &[u8]) -> Option<usize> {
        let client = self.clients.get_mut(id.0)?;
        let known = client.scanned.min(rest.len());
        let end = memchr::memchr(b'\n', rest.get(known..)?).map(|end| known + end);
        let len = end.unwrap_or(rest.len());
        if len > MAX_LINE && (len > MAX_KEY_LINE || !is_key_line(rest)) {
            self.refuse(id, Refusal::line_too_long());
            return Some(rest.len());
        }
        let Some(end) = end else {
            client.scanned = rest.len();
            return None;
        };
        client.scanned = 0;
        let (line, after) = rest.split_at_checked(end + 1)?;
        let line = request::trim(line.strip_suffix(b"\n")?);
        match self.act(id, line, after) {
            Taken::Yes(more) => Some(end + 1 + more),
            Taken::Stalled => None,
        }
    }

    fn act(&mut self, id: ClientId, line: &[u8], after: &[u8]) -> Taken {
        match request::parse(line, self.shared.settings.max_value) {
            Ok(Request::Read { verb, keys }) => return self.read(id, verb, keys),
            Ok(Request::Store(store)) => return self.store(id, &store, after),
            Ok(Request::Change { change, key, quiet }) => {
                return self.change(id, change, key, quiet);
            }
            Ok(Request::FlushAll { delay, quiet }) => self.flush_all(id, delay, quiet),
            Ok(Request::Stats(what)) => self.stats(id, what),
            Ok(Request::Verbosity { quiet }) => self.answer(id, b"OK\r\n", quiet),
            Ok(Request::MetaNoop) => self.answer(id, b"MN\r\n", false),
            Ok(Request::Version) => {
                let text = format!("VERSION {}\r\n", self.lowest_version());
                self.answer(id, text.as_bytes(), false);
            }
            Ok(Request::Quit) => {
                if let Some(client) = self.clients.get_mut(id.0) {
                    client.input = Input::Quit;
                }
            }
            Err(refusal) => self.refuse(id, refusal),
        }
        Taken::Yes(0)
    }

    /// Answers in the client's turn, unless it asked for no answer.
    fn answer(&mut self, id: ClientId, text: &[u8], quiet: bool) {
        if let Some(client) = self.clients.get_mut(id.0)
            && !quiet
        {
            client.replies.push_ready(text, &mut self.shared.pool);
        }
    }

    fn refuse(&mut self, id: ClientId, refusal: Refusal<'_>) {
        if refusal.text.starts_with("SERVER_ERROR object too large") {
            self.shared.cells().stores_too_large.add(1);
        }
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
            client.replies.push_ready(&line, &mut self.shared.pool);
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
        if self.shared.full_lanes > 0 && keys.clone().any(|key| self.stalls_on(id, Topology::hash(key))) {
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
            let node = self.topology.route_hash(hash);
            match self.lane(node, lane) {
                Some(up) => self.ask(id, up, verb, key, hash, &mut first),
                None => {
                    missed += 1;
                    lost = Some(node);
                }
            }
        }
        let cells = self.shared.cells();
        cells.get_keys.add(count);
        if missed > 0 {
            cells.soft_misses.add(missed);
        }
        let error = lost.filter(|_| self.shared.settings.on_node_down == OnNodeDown::Error);
        let error = error.map(|node| self.down_text(node));
        let Some(client) = self.clients.get_mut(id.0) else {
            return Taken::Yes(0);
        };
        match error {
            Some(text) => {
                self.shared.cells().soft_errors.add(1);
                let seq = client.replies.push(Part::Values { first: first.is_none(), last: true });
                client.replies.fail_part(seq, text.as_bytes(), &mut self.shared.pool);
            }
            None if first.is_none() => client.replies.push_ready(b"END\r\n", &mut self.shared.pool),
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
            && nodes.get(usize::from(up.node.0)).is_some_and(|node| node.no_merge_until <= shared.now);
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
            let seq = client.replies.push(Part::Values { first: first.is_none(), last: false });
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
        if store.len > BULK_VALUE {
            return self.store_large(id, store);
        }
        let hash = Topology::hash(store.key);
        if self.stalls_on(id, hash) {
            return Taken::Stalled;
        }
        self.shared.cells().stores.add(1);
        let target = Target { hash, quiet: store.quiet, verb: store.verb.into() };
        let total = store.len + 2;
        let mut header = std::mem::take(&mut self.shared.line);
        header.clear();
        store.write(&mut header);
        if let Some(block) = after.get(..total) {
            self.forward_value(id, target, &header, block, None);
            self.shared.line = header;
            return Taken::Yes(total);
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            let bytes = Vec::with_capacity(total);
            client.reading = Reading::Body(Box::new(Body { header, target, bytes, total }));
        }
        Taken::Yes(0)
    }

    /// A stored value is complete.
    fn finish_body(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let Reading::Body(body) = std::mem::replace(&mut client.reading, Reading::Line) else {
            return;
        };
        let Body { header, target, bytes, .. } = *body;
        self.forward_value(id, target, &header, &[], Some(bytes));
        self.shared.line = header;
    }

    /// Forwards a storage request whose whole block is there: as a slice, or as a buffer of its own.
    ///
    /// A lane that has become full in the meantime takes this one more.
    fn forward_value(&mut self, id: ClientId, target: Target, header: &[u8], block: &[u8], owned: Option<Vec<u8>>) {
        let Target { hash, quiet, verb } = target;
        let bytes = owned.as_deref().unwrap_or(block);
        if !bytes.ends_with(b"\r\n") {
            return self.answer(id, b"CLIENT_ERROR bad data chunk\r\n", quiet);
        }
        let Some(up_id) = self.enqueue(id, hash, quiet, header, verb) else {
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
        if self.stalls_on(id, hash) {
            return Taken::Stalled;
        }
        if matches!(change, Change::Touch(_)) {
            self.shared.cells().touches.add(1);
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
        self.enqueue(id, Topology::hash(key), true, &line, Verb::Delete);
    }

    /// Puts a request for one node on its lane and owes its reply, or answers that the node is down.
    fn enqueue(&mut self, id: ClientId, hash: u64, quiet: bool, line: &[u8], verb: Verb) -> Option<UpstreamId> {
        let node = self.topology.route_hash(hash);
        let lane = self.clients.get(id.0)?.lane;
        let Some(up_id) = self.lane(node, lane) else {
            self.answer_down(id, node, quiet, verb);
            return None;
        };
        let Self { clients, upstreams, shared, .. } = self;
        let (client, up) = (clients.get_mut(id.0)?, upstreams.get_mut(up_id.0)?);
        let seq = (!quiet).then(|| client.replies.push(Part::Whole));
        client.in_flight += 1;
        up.push(line, Entry::Single { client: id, seq, verb }, shared);
        up.touch(up_id, shared);
        Some(up_id)
    }

    pub(super) fn answer_down(&mut self, id: ClientId, node: NodeIndex, quiet: bool, verb: Verb) {
        if verb == Verb::Touch && self.shared.settings.on_node_down == OnNodeDown::Miss {
            self.shared.cells().soft_misses.add(1);
            return self.answer(id, b"NOT_FOUND\r\n", quiet);
        }
        self.shared.cells().soft_errors.add(1);
        let text = self.down_text(node);
        self.answer(id, text.as_bytes(), quiet);
    }

    fn down_text(&self, node: NodeIndex) -> String {
        let name = self.nodes.get(usize::from(node.0)).map_or("", |entry| &entry.name);
        format!("SERVER_ERROR proxy: node {name} is down\r\n")
    }

    /// Whether the lane a key needs is at its limit; then the client waits for it.
    fn stalls_on(&mut self, id: ClientId, hash: u64) -> bool {
        if self.shared.full_lanes == 0 {
            return false;
        }
        let node = self.topology.route_hash(hash);
        let Some(lane) = self.clients.get(id.0).and_then(|client| self.lane(node, client.lane)) else {
            return false;
        };
        let (Some(client), Some(up)) = (self.clients.get_mut(id.0), self.upstreams.get_mut(lane.0)) else {
            return false;
        };
        if up.is_full() {
            client.stall = Stall::Lane;
            up.waiters.push_back(id);
        }
        up.is_full()
    }

    fn flush_all(&mut self, id: ClientId, delay: Option<i32>, quiet: bool) {
        self.shared.cells().flushes.add(1);
        if self.shared.settings.deny_flush_all {
            return self.answer(id, b"CLIENT_ERROR flush_all not allowed\r\n", quiet);
        }
        let mut line = b"flush_all".to_vec();
        if let Some(delay) = delay {
            line.push(b' ');
            number::append_signed(&mut line, i64::from(delay));
        }
        line.extend_from_slice(b"\r\n");
        self.fan_out(id, Gathering::Flush, &line, quiet);
    }

    fn stats(&mut self, id: ClientId, what: Stats) {
        let line: &[u8] = match what {
            Stats::General | Stats::Nodes | Stats::Sum => b"stats\r\n",
            Stats::Items => b"stats items\r\n",
            Stats::Slabs => b"stats slabs\r\n",
            Stats::Settings => b"stats settings\r\n",
            Stats::Reset => return self.fan_out(id, Gathering::Reset, b"stats reset\r\n", false),
            // One line each, the same for any router.
            Stats::Sizes => {
                return self.answer(id, b"STAT sizes_status disabled\r\nEND\r\n", false);
            }
            Stats::Conns => return self.answer(id, b"END\r\n", false),
        };
        let sidecar = Box::new(self.sidecar());
        self.fan_out(id, Gathering::Stats(what, sidecar), line, false);
    }

    /// Asks every node the same and answers once.
    fn fan_out(&mut self, id: ClientId, what: Gathering, line: &[u8], quiet: bool) {
        let Some(lane) = self.clients.get(id.0).map(|client| client.lane) else {
            return;
        };
        let mut gather = Box::new(Gather::new(what));
        let mut asked = Vec::new();
        for index in 0..self.nodes.len() {
            let node = node_index(index);
            let up = self.lane(node, lane);
            // Before the first connection there is nothing to wait for either.
            let ready = up.filter(|up| self.upstreams.get(up.0).is_some_and(|up| up.ready));
            let Some(entry) = self.nodes.get(index) else {
                continue;
            };
            match ready {
                Some(up) => asked.push((up, gather.expect(&entry.name))),
                None => {
                    let state = if entry.state == NodeState::Up { NodeState::Connecting } else { entry.state };
                    gather.unreachable(&entry.name, state.word(), self.down_text(node).as_bytes());
                }
            }
        }
        let Self { clients, upstreams, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else {
            return;
        };
        if gather.is_complete() {
            let mut text = Vec::new();
            gather.render(&mut text);
            return self.answer(id, &text, quiet);
        }
        let seq = (!quiet).then(|| client.replies.push_gather(gather));
        for (up_id, part) in asked {
            let Some(up) = upstreams.get_mut(up_id.0) else {
                continue;
            };
            client.in_flight += 1;
            up.push(line, Entry::Gather { client: id, seq, part }, shared);
            up.touch(up_id, shared);
        }
    }

    /// The figures of the whole process for `stats`.
    fn sidecar(&self) -> Sidecar {
        let cells = &self.shared.cells;
        let uptime = self.shared.now.0 / 1_000_000;
        let (user, system) = (self.shared.settings.cpu_time)();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Sidecar {
            pid: u64::from(self.shared.settings.pid),
            uptime_seconds: uptime,
            unix_time: self.shared.settings.started_at + uptime,
            version: self.lowest_version().to_owned(),
            rusage_user_micros: micros(user),
            rusage_system_micros: micros(system),
            max_connections: self.shared.settings.max_connections as u64,
            curr_connections: cells.sum(|c| &c.connections),
            total_connections: cells.sum(|c| &c.connections_total),
            rejected_connections: cells.rejected.get(),
            cmd_get: cells.sum(|c| &c.get_keys),
            cmd_set: cells.sum(|c| &c.stores),
            cmd_flush: cells.sum(|c| &c.flushes),
            cmd_touch: cells.sum(|c| &c.touches),
            cmd_meta: 0,
            get_hits: cells.sum(|c| &c.get_hits),
            get_misses: cells.sum(|c| &c.get_misses) + cells.sum(|c| &c.soft_misses),
            delete_misses: cells.sum(|c| &c.delete_misses),
            delete_hits: cells.sum(|c| &c.delete_hits),
            incr_misses: cells.sum(|c| &c.incr_misses),
            incr_hits: cells.sum(|c| &c.incr_hits),
            decr_misses: cells.sum(|c| &c.decr_misses),
            decr_hits: cells.sum(|c| &c.decr_hits),
            cas_misses: cells.sum(|c| &c.cas_misses),
            cas_hits: cells.sum(|c| &c.cas_hits),
            cas_badval: cells.sum(|c| &c.cas_mismatches),
            touch_hits: cells.sum(|c| &c.touch_hits),
            touch_misses: cells.sum(|c| &c.touch_misses),
            store_too_large: cells.sum(|c| &c.stores_too_large),
            bytes_read: cells.sum(|c| &c.bytes_read),
            bytes_written: cells.sum(|c| &c.bytes_written),
            threads: cells.workers() as u64,
        }
    }

    /// A large value: it is not stored here but streamed, once nothing else of its client is in
    /// flight, through a bulk lane.
    fn store_large(&mut self, id: ClientId, store: &Store<'_>) -> Taken {
        let Some(client) = self.clients.get_mut(id.0) else {
            return Taken::Yes(0);
        };
        if client.in_flight > 0 {
            client.stall = Stall::Drain;
            return Taken::Stalled;
        }
        let total = store.len as u64 + 2;
        let node = self.topology.route(store.key);
        let lane = client.lane;
        self.shared.cells().stores.add(1);
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
            client.reading =
                Reading::AwaitLane(Box::new(Large { header, quiet: store.quiet, verb: store.verb.into(), total }));
        }
        self.await_bulk(id, node);
        Taken::Yes(0)
    }

    /// Moves a piece of a large value to its lane. `None`: not now.
    fn stream(&mut self, id: ClientId, rest: &[u8]) -> Option<usize> {
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
        if up.out.len() >= bulk::STREAM_BYTES {
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
        self.release_bulk(lane);
        Some(used)
    }
}
