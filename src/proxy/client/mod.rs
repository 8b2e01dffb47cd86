//! A client connection: what it has sent and is not parsed yet, what it waits for, and its replies in order.

pub(in crate::proxy) mod elsewhere;
pub(in crate::proxy) mod gather;
pub(in crate::proxy) mod key_list;
mod moves;
mod order;
mod reading;
pub(in crate::proxy) mod replies;
mod retries;
mod stall;

use std::time::Duration;

use thin_vec::ThinVec;

use super::account;
use super::ends::Ends;
use super::ids::{ClientId, NodeId, UpstreamId};
use super::shared::Shared;
use crate::metrics::{CloseReason, Kind};
use crate::protocol::request::ReadVerb;
use crate::time::Tick;
use elsewhere::Elsewhere;
use moves::Moves;
pub(in crate::proxy) use reading::{Arriving, Body, Large, Reading, Target};
use replies::{Replies, Stamp};
pub(in crate::proxy) use retries::Again;
use retries::Retries;
pub(in crate::proxy) use stall::Stall;

/// Most requests of one client that wait for their reply; what lies behind stays unparsed.
const MAX_PIPELINE: usize = 1024;
/// Answers that wait are charged before the next request is looked at once they are so many bytes.
pub(in crate::proxy) const UNCHARGED: usize = 4 << 10;
/// A client is not read while so many bytes of its replies wait.
const CLIENT_BYTES: usize = 1 << 20;
/// So many requests are always read ahead, however large the values.
const MIN_PIPELINE: usize = 4;
/// A costly request waits until fewer replies than this wait.
pub(in crate::proxy) const FEW: usize = 16;
/// A value's size, in bytes, before a client has seen any.
const FIRST_GUESS: usize = 64 << 10;

/// What became of a request.
#[derive(Debug)]
pub(in crate::proxy) enum Taken {
    /// Acted on; so many bytes behind its line belonged to it.
    Yes(usize),
    /// Not now: the client's stall says why, and the line is read again afterwards.
    Stalled,
}

/// How fast a client moves what it sends and takes, as long as it holds what others may wait for.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::proxy) struct Pace {
    /// Since when it is measured.
    pub(in crate::proxy) began_at: Tick,
    /// Bytes that it has sent, and taken, since then.
    pub(in crate::proxy) sent: usize,
    pub(in crate::proxy) taken: usize,
}

impl Pace {
    /// It is measured from now on.
    pub(in crate::proxy) const fn begin(now: Tick) -> Self {
        Self { began_at: now, sent: 0, taken: 0 }
    }
}

/// Whether more will come from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Input {
    Open,
    /// It has sent its end; what it sent before is answered.
    Ended,
    /// `quit`: nothing further is looked at.
    Quit,
    /// A refused line of unknown extent, or a protocol that is not spoken: nothing further is looked at, and more may be
    /// on its way.
    Refused,
}

/// One client connection.
#[derive(Debug)]
pub(in crate::proxy) struct Client {
    /// What is not parsed yet.
    pub(in crate::proxy) unparsed: Vec<u8>,
    /// How much of it is known to hold no line end.
    pub(in crate::proxy) scanned: usize,
    pub(in crate::proxy) reading: Reading,
    /// It speaks the binary protocol.
    pub(in crate::proxy) is_binary: bool,
    pub(in crate::proxy) replies: Replies,
    /// FIFO entries that name this client, `noreply` and fan-out included.
    pub(in crate::proxy) in_flight: u32,
    /// Those of them that were answered here.
    pub(in crate::proxy) orphans: u32,
    pub(in crate::proxy) stall: Stall,
    /// Since when, as long as it waits.
    pub(in crate::proxy) stalled_at: Option<Tick>,
    pub(in crate::proxy) input: Input,
    /// When it was first known to have sent its end, read or not.
    pub(in crate::proxy) hung_up_at: Option<Tick>,
    /// The shared lane it keeps to.
    pub(in crate::proxy) lane: usize,
    pub(in crate::proxy) dirty: bool,
    /// Lanes whose reader it is and that are not read until it has room.
    pub(in crate::proxy) paused: ThinVec<UpstreamId>,
    /// Keys that are to be asked for again.
    pub(in crate::proxy) again: Retries,
    /// What of it is under way on other lanes than the shared one it keeps to.
    pub(in crate::proxy) elsewhere: ThinVec<Elsewhere>,
    /// What of it is under way for keys that have moved.
    pub(in crate::proxy) moves: Moves,
    /// Moving average of the sizes of the values it got, in bytes.
    average: usize,
    closing: bool,
    /// Bytes of memory charged for it.
    pub(in crate::proxy) held: usize,
    /// Bytes that room is kept for: values on their way to it, and values that it has asked for.
    pub(in crate::proxy) arriving: usize,
    /// What is kept for the body that it sends, in bytes, come or not.
    pub(in crate::proxy) reserved: usize,
    /// What is kept for the large values that it asks for next, in bytes.
    pub(in crate::proxy) promised: usize,
    /// It has waited long enough for room for the large values that it asks for next: they go by a lane of its own.
    pub(in crate::proxy) no_room: bool,
    /// It has waited long enough for the first ring: it is answered without.
    pub(in crate::proxy) no_ring: bool,
    /// The kernel took less than there was.
    pub(in crate::proxy) blocked: bool,
    /// When it last took a byte.
    pub(in crate::proxy) last_write_at: Tick,
    /// When it last sent a byte, or was last waited for.
    pub(in crate::proxy) last_read_at: Tick,
    pub(in crate::proxy) pace: Pace,
    /// It could not be given the value at hand, and has a write behind it: set and cleared in one step of `large.rs`.
    pub(in crate::proxy) denied: bool,
    pub(in crate::proxy) writes_behind: bool,
    /// Entries that its requests to every node have put on lanes since others last had their turn.
    pub(in crate::proxy) fanned: usize,
    /// Told by `stats conns`, and to auto-discovery clients.
    pub(in crate::proxy) ends: Ends,
}

impl Client {
    pub(in crate::proxy) fn new(lane: usize) -> Self {
        Self {
            unparsed: Vec::new(),
            scanned: 0,
            reading: Reading::Opening,
            is_binary: false,
            replies: Replies::default(),
            in_flight: 0,
            orphans: 0,
            stall: Stall::None,
            stalled_at: None,
            input: Input::Open,
            hung_up_at: None,
            lane,
            dirty: false,
            paused: ThinVec::new(),
            again: Retries::default(),
            elsewhere: ThinVec::new(),
            moves: Moves::default(),
            average: FIRST_GUESS,
            closing: false,
            held: 0,
            arriving: 0,
            reserved: 0,
            promised: 0,
            no_room: false,
            no_ring: false,
            blocked: false,
            last_write_at: Tick(0),
            last_read_at: Tick(0),
            pace: Pace::default(),
            denied: false,
            writes_behind: false,
            fanned: 0,
            ends: Ends::Unknown,
        }
    }

    /// Whether it must take replies before it may ask for more.
    pub(in crate::proxy) fn is_behind(&self, spent: bool) -> bool {
        let slots = self.replies.len();
        // What nobody is told of waits, too; and what is answered and not taken yet.
        spent && (slots > 0 || self.in_flight > 0 || self.replies.bytes() > 0)
            || slots >= MAX_PIPELINE
            || self.replies.bytes() >= CLIENT_BYTES
            || (slots >= MIN_PIPELINE && slots * self.average >= CLIENT_BYTES)
    }

    pub(in crate::proxy) fn has_room(&self, spent: bool) -> bool {
        let slots = self.replies.len();
        (!spent || slots == 0 && self.in_flight == 0 && self.replies.bytes() == 0)
            && slots <= MAX_PIPELINE / 2
            && self.replies.bytes() <= CLIENT_BYTES / 2
            && (slots <= MIN_PIPELINE / 2 || slots * self.average <= CLIENT_BYTES / 2)
    }

    /// Whether there is room for a request of it to every node: all lanes may grow by one at the same time, each by a
    /// quarter. While nothing of it is in flight one may go.
    pub(in crate::proxy) fn may_ask_all(&self, budget: &account::Budget) -> bool {
        self.in_flight == 0 || budget.fits(budget.limit() / 4)
    }

    /// An entry of it on a lane is over; `expired`: one that it had the answer to. `seq` is its slot.
    #[inline]
    pub(in crate::proxy) fn landed(
        &mut self,
        id: ClientId,
        lane: UpstreamId,
        seq: Option<u32>,
        expired: bool,
        shared: &mut Shared,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.orphans = self.orphans.saturating_sub(u32::from(expired));
        if !self.elsewhere.is_empty() {
            self.landed_elsewhere(id, lane, seq, shared);
        }
    }

    /// A value of so many bytes is on its way to this client.
    #[inline]
    pub(in crate::proxy) fn saw_value(&mut self, len: u64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(CLIENT_BYTES);
        self.average = (self.average * 7 + len) / 8;
    }

    /// How many of the next bytes have room kept for them, or need little: they belong to a block.
    pub(in crate::proxy) fn room(&self) -> usize {
        match &self.reading {
            Reading::Opening | Reading::Line | Reading::Keys(_) | Reading::AwaitLane(_) => 0,
            Reading::Body(body) => body.left(),
            Reading::Swallow(left) | Reading::Stream { left, .. } => usize::try_from(*left).unwrap_or(usize::MAX),
        }
    }

    /// Notes what this client holds.
    #[inline]
    pub(in crate::proxy) fn recharge(&mut self, shared: &mut Shared) {
        let now = self.weight();
        shared.budget.recharge(&mut self.held, now);
    }

    /// Bytes of memory held, those of slices apart.
    #[inline]
    pub(in crate::proxy) fn weight(&self) -> usize {
        let body = match &self.reading {
            Reading::Body(body) => body.block.held() + body.header.capacity() + body.tail.len(),
            Reading::Keys(list) => list.weight(),
            _ => 0,
        };
        let unsent = if self.blocked { account::KERNEL } else { 0 };
        let unread = if self.stall == Stall::None { 0 } else { account::KERNEL_INPUT };
        let idle = self.again.is_empty() && self.elsewhere.is_empty() && !self.moves.has_steps();
        let rare = if idle { 0 } else { self.rare_weight() };
        self.unparsed.capacity() + self.replies.held() + body + rare + unsent + unread
    }

    #[cold]
    fn rare_weight(&self) -> usize {
        self.again.weight() + self.moves.weight() + self.elsewhere.iter().map(Elsewhere::weight).sum::<usize>()
    }

    /// What counts against its share of the memory, in bytes: what it holds, its equal part of what is shared, and
    /// what room is kept for.
    pub(in crate::proxy) fn charged(&self) -> usize {
        self.held + self.replies.part() + self.arriving
    }

    /// Room is kept for so many bytes.
    pub(in crate::proxy) const fn reserve(&mut self, bytes: usize) {
        self.arriving += bytes;
    }

    /// So many bytes for which room was kept have come, or never will.
    pub(in crate::proxy) const fn unreserve(&mut self, bytes: usize) {
        self.arriving = self.arriving.saturating_sub(bytes);
    }

    /// Room that was kept for large values it asks for, and that none of them needs, is free.
    pub(in crate::proxy) fn break_promise(&mut self, shared: &mut Shared) {
        let unused = std::mem::take(&mut self.promised);
        self.unreserve(unused);
        shared.budget.arriving -= unused;
        self.no_room = false;
    }

    /// Whether a key (by its hash) is to be asked for again for an earlier place, with whatever command.
    #[inline]
    pub(in crate::proxy) fn asks_again(&self, hash: impl FnOnce() -> u64) -> bool {
        !self.again.is_empty() && self.again.has(hash())
    }

    /// Room that is kept for what it sends or asks for next is free: it waits for something else.
    pub(in crate::proxy) fn give_room_back(&mut self, shared: &mut Shared) {
        self.break_promise(shared);
        if !matches!(self.reading, Reading::Body(_)) {
            shared.budget.arriving -= self.reserved;
            shared.budget.bodies -= std::mem::take(&mut self.reserved);
        }
    }

    /// Notes what follows from a change of this client's replies: a write, a resumption, its end.
    #[inline]
    pub(in crate::proxy) fn settle(&mut self, id: ClientId, shared: &mut Shared) {
        for stamp in self.replies.take_answered() {
            shared.cells().took(stamp.kind, Duration::from_micros(shared.now.0.saturating_sub(stamp.arrived_at.0)));
        }
        self.recharge(shared);
        if !self.dirty && self.replies.wants_flush() {
            self.dirty = true;
            shared.dirty_clients.push(id);
        }
        if self.stall != Stall::None {
            // Asked before the stall is noted: that may give room back.
            let spent = shared.budget.is_spent();
            self.note_stall(shared);
            let goes_on = match self.stall {
                Stall::Output => self.has_room(spent),
                Stall::FewReplies => self.replies.len() < FEW,
                Stall::Retry => self.again.is_empty(),
                Stall::AllLanes => self.may_ask_all(&shared.budget),
                Stall::Keys => self.goes_on(&shared.budget),
                _ => false,
            };
            if goes_on {
                shared.resume.push_back(id);
            }
        }
        if !self.again.is_empty() {
            self.look_for_due(id, shared);
        }
        if self.input != Input::Open || self.held > 2 * shared.budget.share() {
            self.settle_end(id, shared);
        }
    }

    /// It waits: its clocks run, and it holds nothing that others wait for.
    fn note_stall(&mut self, shared: &mut Shared) {
        if self.stall == Stall::Granted {
            return;
        }
        self.stalled_at.get_or_insert(shared.now);
        shared.ask_for_tick();
        if self.promised > 0 {
            self.break_promise(shared);
        }
        if self.reserved > 0 && matches!(self.reading, Reading::Line) {
            let unused = std::mem::take(&mut self.reserved);
            shared.budget.bodies -= unused;
            shared.budget.arriving -= unused;
        }
    }

    /// Whether it waits for something.
    pub(in crate::proxy) const fn is_waiting(&self) -> bool {
        !matches!(self.stall, Stall::None | Stall::Granted)
    }

    /// Says once that a key that is to be asked for again has its turn.
    fn look_for_due(&mut self, id: ClientId, shared: &mut Shared) {
        if let Some(due) = self.replies.due()
            && self.again.has_turn(due)
        {
            shared.due_again.push_back(id);
        }
    }

    /// Whether nothing further of it is acted on, and its socket takes nothing of what it is still owed.
    pub(in crate::proxy) fn takes_nothing_more(&self) -> bool {
        let is_last = match self.input {
            Input::Open => false,
            Input::Ended => !self.is_waiting(),
            Input::Quit | Input::Refused => true,
        };
        is_last && self.blocked
    }

    fn settle_end(&mut self, id: ClientId, shared: &mut Shared) {
        if self.takes_nothing_more() {
            shared.ask_for_tick();
        }
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
        // A streamed value that ends in the middle is never answered, and is the last.
        let (cut, quiet) = match self.reading {
            Reading::Stream { seq, .. } => (1, seq.is_none()),
            _ => (0, true),
        };
        // What it sent without asking for an answer is done all the same. What has expired is not waited for.
        let answered = self.replies.len() <= usize::from(!quiet)
            && self.in_flight <= self.orphans + cut
            && self.moves.steps() <= cut as usize;
        if parsed && !self.closing && answered && self.replies.out.is_empty() {
            self.closing = true;
            let reason = if self.input == Input::Refused { CloseReason::Protocol } else { CloseReason::Done };
            shared.finished.push((id, reason));
        }
    }

    /// Bytes of its body that room is kept for and that have not come.
    pub(in crate::proxy) fn body_to_come(&self) -> usize {
        match &self.reading {
            Reading::Body(body) if self.reserved > 0 => body.left(),
            // Its line is acted on in a moment.
            _ => self.reserved,
        }
    }

    /// The lane a streamed value goes through.
    pub(in crate::proxy) fn streams_through(&self, lane: UpstreamId) -> bool {
        matches!(self.reading, Reading::Stream { lane: through, .. } if through == lane)
    }

    /// The streamed value's lane is gone: the rest of the block is dropped.
    pub(in crate::proxy) fn stream_lost(&mut self) {
        if let Reading::Stream { left, .. } = self.reading {
            self.reading = Reading::Swallow(left);
        }
    }

    /// The line of the meta command for which it waits for an own lane of a node, if it is one: with its large body, or for
    /// a key that it asks for again.
    pub(in crate::proxy) fn waits_with_meta(&self, node: NodeId, body: bool) -> Option<Vec<u8>> {
        if body {
            return match &self.reading {
                Reading::AwaitLane(large) if large.target.meta => Some(large.header.clone()),
                _ => None,
            };
        }
        let again = self.again.next_at(node)?;
        let ReadVerb::Meta { verb, .. } = again.verb else { return None };
        Some([verb.word().as_bytes(), b" ", &again.key].concat())
    }

    /// The hash of the key whose large value waits for a lane, and the line that names it.
    pub(in crate::proxy) fn awaiting_key(&self) -> Option<(u64, &[u8])> {
        match &self.reading {
            Reading::AwaitLane(large) => Some((large.target.hash, &large.header)),
            _ => None,
        }
    }

    /// The hash of the key whose value is on its way from the client, and the line that names it.
    pub(in crate::proxy) fn storing_key(&self) -> Option<(u64, &[u8])> {
        match &self.reading {
            Reading::Body(body) => Some((body.target.hash, &body.header)),
            _ => self.awaiting_key(),
        }
    }

    /// Takes the large value that waits for a lane; its block is dropped.
    pub(in crate::proxy) fn refuse_stream(&mut self) -> Option<Box<Large>> {
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
    pub(in crate::proxy) fn begin_stream(&mut self, lane: UpstreamId, now: Tick) -> Option<(Box<Large>, Option<u32>)> {
        match std::mem::replace(&mut self.reading, Reading::Line) {
            Reading::AwaitLane(large) => {
                let stamp = Stamp { kind: Kind::Store, arrived_at: now };
                let seq = (!large.target.quiet).then(|| self.replies.push(stamp, large.target.form));
                if let Some(seq) = seq.filter(|_| !large.tail.is_empty()) {
                    self.replies.set_tail(seq, &large.tail);
                }
                self.reading = Reading::Stream { lane, left: large.total, seq, is_closed: large.is_closed };
                Some((large, seq))
            }
            other => {
                self.reading = other;
                None
            }
        }
    }
}
