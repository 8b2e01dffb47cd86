//! HOT: a client's bytes → requests, and how a client lives.
//!
//! A request is acted on only when its line is whole and valid, and a stored value only when its
//! block has arrived and ends as it must. `requests.rs` acts on them.

use std::time::Duration;

use super::budget;
use super::bulk::{self, BulkRead};
use super::replies::{Part, Replies, Stamp};
use super::{ClientId, CloseReason, Core, Effect, OutBuf, Shared, Tick, UpstreamId};
use crate::metrics::{Kind, Wait};
use crate::protocol::command::Command;
use crate::protocol::request::{self, Refusal};
use crate::protocol::{MAX_KEY_LINE, MAX_LINE, is_key_line};

/// Most requests of one client that wait for their reply; what lies behind stays unparsed.
const MAX_PIPELINE: usize = 1024;
/// A client is not read while so many bytes of its replies wait.
const CLIENT_BYTES: usize = 1 << 20;
/// So many requests are always read ahead, however large the values.
const MIN_PIPELINE: usize = 4;
/// A costly request waits until fewer replies than this wait.
const FEW: usize = 16;
/// A line that grows beyond this is refused when memory is spent, in bytes.
const LONG_LINE: usize = 64 << 10;
/// A value's size, in bytes, before a client has seen any.
const FIRST_GUESS: usize = 64 << 10;

/// What the next bytes of a client are.
#[derive(Debug)]
pub(super) enum Reading {
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
pub(super) struct Target {
    pub(super) hash: u64,
    pub(super) quiet: bool,
    pub(super) command: Command,
}

/// A value that is forwarded once it has arrived.
#[derive(Debug)]
pub(super) struct Body {
    /// The line as it is sent to the node.
    pub(super) header: Vec<u8>,
    pub(super) target: Target,
    /// The block so far.
    pub(super) bytes: Vec<u8>,
    /// The block's length, CRLF included.
    pub(super) total: usize,
}

/// A value that is too large to be stored here.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) header: Vec<u8>,
    pub(super) hash: u64,
    pub(super) quiet: bool,
    pub(super) command: Command,
    /// The block's length, CRLF included.
    pub(super) total: u64,
}

/// Why a client's bytes are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    None,
    /// It has too many replies, or too large ones, waiting.
    Output,
    /// Until few replies wait: its next request costs more than others.
    Few,
    /// A lane it needs is full.
    Lane,
    /// Until nothing of it is in flight: it changes lanes.
    Drain,
    /// Until it gets a bulk lane.
    Bulk,
    /// Until there is room for its body, of so many bytes.
    Memory {
        body: usize,
    },
    /// It has got what it waited for, and goes on in its turn.
    Granted,
}

/// Whether more will come from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
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
    pub(super) reading: Reading,
    pub(super) replies: Replies,
    /// FIFO entries that name this client, `noreply` and fan-out included.
    pub(super) in_flight: u32,
    /// Those of them that were answered here.
    pub(super) orphans: u32,
    pub(super) stall: Stall,
    pub(super) input: Input,
    /// The shared lane it keeps to.
    pub(super) lane: usize,
    dirty: bool,
    /// Lanes whose reader it is and that are not read until it has room.
    pub(super) paused: Vec<UpstreamId>,
    /// Large reads that wait for a bulk lane.
    pub(super) bulk_reads: Vec<BulkRead>,
    /// Moving average of the sizes of the values it got, in bytes.
    average: usize,
    closing: bool,
    /// Bytes of memory charged for it.
    pub(super) held: usize,
    /// Of those, what is kept for the body that it sends.
    pub(super) reserved: usize,
    /// The kernel took less than there was.
    pub(super) blocked: bool,
    /// When it last took a byte.
    pub(super) took: Tick,
    /// When it last sent a byte, or was last waited for.
    pub(super) fed: Tick,
    /// It changes lanes: nothing new is sent before everything in flight is answered.
    pub(super) draining: bool,
}

/// What became of a request.
pub(super) enum Taken {
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
            orphans: 0,
            stall: Stall::None,
            input: Input::Open,
            lane,
            dirty: false,
            paused: Vec::new(),
            bulk_reads: Vec::new(),
            average: FIRST_GUESS,
            closing: false,
            held: 0,
            reserved: 0,
            blocked: false,
            took: Tick(0),
            fed: Tick(0),
            draining: false,
        }
    }

    /// Whether it must take replies before it may ask for more.
    fn is_behind(&self, spent: bool) -> bool {
        let slots = self.replies.len();
        spent && slots > 0
            || slots >= MAX_PIPELINE
            || self.replies.bytes() >= CLIENT_BYTES
            || (slots >= MIN_PIPELINE && slots * self.average >= CLIENT_BYTES)
    }

    fn has_room(&self, spent: bool) -> bool {
        let slots = self.replies.len();
        (!spent || slots == 0)
            && slots <= MAX_PIPELINE / 2
            && self.replies.bytes() <= CLIENT_BYTES / 2
            && (slots <= MIN_PIPELINE / 2 || slots * self.average <= CLIENT_BYTES / 2)
    }

    /// One entry less is in flight; `expired`: one that it had the answer to.
    #[inline]
    pub(super) fn landed(&mut self, expired: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.orphans = self.orphans.saturating_sub(u32::from(expired));
    }

    /// A value of so many bytes is on its way to this client.
    pub(super) fn saw_value(&mut self, len: u64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(CLIENT_BYTES);
        self.average = (self.average * 7 + len) / 8;
    }

    /// How many of the next bytes have room kept for them, or need little: they belong to a block.
    fn room(&self) -> usize {
        match &self.reading {
            Reading::Line | Reading::AwaitLane(_) => 0,
            Reading::Body(body) => body.total - body.bytes.len(),
            Reading::Swallow(left) | Reading::Stream { left, .. } => usize::try_from(*left).unwrap_or(usize::MAX),
        }
    }

    /// Notes what this client holds.
    #[inline]
    pub(super) fn recharge(&mut self, shared: &mut Shared) {
        let now = self.weight();
        shared.budget.recharge(&mut self.held, now);
    }

    /// Bytes of memory held.
    pub(super) fn weight(&self) -> usize {
        let body = match &self.reading {
            Reading::Body(body) => body.bytes.capacity() + body.header.capacity(),
            _ => 0,
        };
        let kernel = if self.blocked { budget::KERNEL } else { 0 };
        let reads = self.bulk_reads.iter().map(BulkRead::weight).sum::<usize>();
        self.carry.capacity() + self.replies.held() + body + reads + kernel
    }

    /// Notes what follows from a change of this client's replies: a write, a resumption, its end.
    #[inline]
    pub(super) fn settle(&mut self, id: ClientId, shared: &mut Shared) {
        for stamp in self.replies.take_answered() {
            shared.cells().took(stamp.kind, Duration::from_micros(shared.now.0.saturating_sub(stamp.at.0)));
        }
        self.recharge(shared);
        let spent = shared.budget.is_spent();
        if !self.dirty && self.replies.wants_flush() {
            self.dirty = true;
            shared.dirty_clients.push(id);
        }
        match self.stall {
            Stall::None => {}
            Stall::Output if self.has_room(spent) => shared.resume.push_back(id),
            Stall::Few if self.replies.len() < FEW => shared.resume.push_back(id),
            Stall::Drain if self.in_flight == 0 => shared.resume.push_back(id),
            Stall::Bulk if self.bulk_reads.iter_mut().any(|read| read.is_due(&self.replies)) => {
                shared.bulk_ready.push_back(id);
            }
            _ => {}
        }
        if self.input != Input::Open || self.held > 2 * shared.budget.share() {
            self.settle_end(id, shared);
        }
    }

    fn settle_end(&mut self, id: ClientId, shared: &mut Shared) {
        if self.held > 2 * shared.budget.share() {
            // What it asked for arrives on lanes that others use too.
            shared.finished.push((id, CloseReason::NotReading));
            self.closing = true;
            return;
        }
        let parsed = match self.input {
            Input::Open => false,
            // Stalled requests of a client that has sent its end are still answered.
            Input::Ended => self.stall == Stall::None,
            Input::Quit | Input::Refused => true,
        };
        // A streamed value that ends in the middle is never answered.
        let cut = matches!(self.reading, Reading::Stream { .. });
        // What it sent without asking for an answer is done all the same. What has expired is not waited for.
        let answered = self.replies.is_empty() && self.in_flight == self.orphans;
        if parsed && !self.closing && (answered || cut) && self.replies.out.is_empty() {
            self.closing = true;
            let reason = if self.input == Input::Refused { CloseReason::Protocol } else { CloseReason::Done };
            shared.finished.push((id, reason));
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

    /// The hash of the key whose large value waits for a lane, and the line that names it.
    pub(super) fn awaiting_key(&self) -> Option<(u64, &[u8])> {
        match &self.reading {
            Reading::AwaitLane(large) => Some((large.hash, &large.header)),
            _ => None,
        }
    }

    /// Takes the large value that waits for a lane; its block is dropped.
    pub(super) fn refuse_stream(&mut self) -> Option<Box<Large>> {
        match std::mem::replace(&mut self.reading, Reading::Line) {
            Reading::AwaitLane(large) => {
                self.reading = Reading::Swallow(large.total);
                Some(large)
            }
            other => {
                self.reading = other;
                None
            }
        }
    }

    /// Takes the large value that waits for a lane; it streams through `lane` from now on.
    pub(super) fn begin_stream(&mut self, lane: UpstreamId, now: Tick) -> Option<(Box<Large>, Option<u32>)> {
        match std::mem::replace(&mut self.reading, Reading::Line) {
            Reading::AwaitLane(large) => {
                let stamp = Stamp { kind: Kind::Store, at: now };
                let seq = (!large.quiet).then(|| self.replies.push(Part::Whole, stamp));
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

    /// Most bytes that the rim should read from this client at once.
    #[inline]
    #[must_use]
    pub fn client_most_read(&self, id: ClientId) -> usize {
        self.shared.budget.most_read(|| self.clients.get(id.0).map_or(0, Client::room))
    }

    /// Whether a client has so many replies waiting that a costly request has to wait too.
    pub(super) fn waits_for_replies(&mut self, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(id.0) else { return false };
        let waits = client.replies.len() >= FEW;
        if waits {
            client.stall = Stall::Few;
        }
        waits
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
        client.fed = now;
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

    /// Nothing further is read from any client: each is closed when it has what it is owed.
    pub fn end_clients(&mut self) {
        let ids: Vec<ClientId> = self.clients.iter().map(|(key, _)| ClientId(key)).collect();
        for id in ids {
            self.client_ended(id);
        }
    }

    /// The connection is broken: whatever comes for it is swallowed.
    pub fn client_gone(&mut self, id: ClientId) {
        self.close_client(id, CloseReason::Reset);
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
        client.replies.written(bytes, &mut shared.pool);
        client.took = now;
        client.blocked &= !client.replies.out.is_empty();
        client.recharge(shared);
        if client.replies.out.len() < bulk::STREAM_BYTES / 2 {
            shared.effects.extend(client.paused.drain(..).map(Effect::WakeUpstream));
        }
        if client.replies.out.is_empty() {
            client.settle(id, shared);
            self.finish_round();
        }
    }

    /// The kernel takes no more for now.
    pub fn client_blocked(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0) {
            client.blocked = true;
            client.recharge(&mut self.shared);
        }
    }

    /// Writes go on: the socket has room again.
    pub fn client_writable(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0) {
            // A round that found the socket blocked has passed over what it was woken for.
            client.dirty = false;
            client.blocked = false;
        }
        self.settle_client(id);
        self.finish_round();
    }

    pub(super) fn settle_client(&mut self, id: ClientId) {
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            client.settle(id, shared);
        }
    }

    /// Closes a client and forgets it.
    pub(super) fn close_client(&mut self, id: ClientId, reason: CloseReason) {
        let Some(mut client) = self.clients.remove(id.0) else {
            return;
        };
        let cells = self.shared.cells();
        cells.connections.sub(1);
        cells.closed(reason);
        match reason {
            // What the kernel holds for it would stay for as long as it does not read.
            CloseReason::NotReading => {
                tracing::warn!(bytes = client.held, "client does not read its replies; closed");
                self.shared.effects.push(Effect::ResetClient(id));
            }
            _ => self.shared.effects.push(Effect::CloseClient(id)),
        }
        self.shared.budget.recharge(&mut client.held, 0);
        self.release_body(client.reserved);
        client.replies.clear(&mut self.shared.pool);
        self.shared.pool.put(client.carry);
        self.shared.effects.extend(client.paused.drain(..).map(Effect::WakeUpstream));
        self.drop_lanes_of(id);
        for read in client.bulk_reads {
            self.forget_departed(read.node());
        }
    }

    /// A reason to wait has gone.
    pub(super) fn resume_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        match client.stall {
            Stall::Output if !client.has_room(self.shared.budget.is_spent()) => return,
            Stall::Few if client.replies.len() >= FEW => return,
            Stall::Drain if client.in_flight > 0 => return,
            Stall::Bulk | Stall::None | Stall::Memory { .. } => return,
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
        client.fed = self.shared.now;
        self.parse_carry(id);
        self.settle_client(id);
        if self.client_may_read(id) {
            self.shared.effects.push(Effect::WakeClient(id));
        }
    }

    pub(super) fn parse_carry(&mut self, id: ClientId) {
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
                } else if client.is_behind(self.shared.budget.is_spent()) {
                    client.stall = Stall::Output;
                    self.shared.cells().waits(Wait::Output);
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
        if end.is_none() && len > LONG_LINE && self.shared.budget.is_spent() {
            self.refuse(id, Refusal::no_memory());
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
}
