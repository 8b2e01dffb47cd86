//! An upstream connection, a *lane*: its sending queue, its FIFO of requests that wait for their reply, what it is for
//! and where it stands.
//!
//! ```text
//!   Dialling ── connected ──▶ Greeting ── VERSION ──▶ Serving        `version\r\n` is the first request of each;
//!                                │  ▲                  │  ▲          others are queued behind it
//!              its node left the │  │ the node is back │  │
//!              ring, or the      ▼  │                  ▼  │
//!              address           Draining ─────────────┘            nothing new; closed when its FIFO is empty
//! ```
//! A lane in packets is greeted by a Noop instead, and what is queued on it is said in packets: it takes meta commands only.
//! From each of them a lane is closed when it fails (refused, time-out, not `VERSION`, reset, desync) or is not needed.
//! A lane that is closed is gone: its successor is another [`UpstreamId`], so nothing that is still on its way from the
//! old socket can be taken for the new one's.

mod asked;
mod entry;
pub(in crate::proxy) mod fifo;
pub(in crate::proxy) mod group;
pub(in crate::proxy) mod health;
mod marks;
pub(in crate::proxy) mod node;
mod said;

use std::collections::VecDeque;
use std::sync::Arc;

use super::account;
use super::buffer::OutBuf;
use super::ids::{ClientId, NodeId, UpstreamId};
use super::shared::Shared;
use crate::metrics::{DURATIONS, NodeCells, NodeOutcome};
use crate::protocol::binary::meta;
use crate::time::Tick;
pub(in crate::proxy) use asked::{Asked, key_of};
pub(in crate::proxy) use entry::{Entry, Step};
use fifo::{Fifo, Times};
use group::Group;
use marks::Mark;
use said::say;

/// A lane takes no further request while so many bytes wait to be sent.
const LANE_BYTES: usize = 2 << 20;
/// Nor while so many requests wait for their reply.
const LANE_REQUESTS: usize = 16 << 10;
/// Most bytes of a streamed value that wait on a lane of its own, in either direction.
pub(in crate::proxy) const STREAM_BYTES: usize = 256 << 10;
/// So many bytes of a reply are progress; a drip is not.
const PROGRESS: usize = 16 << 10;

/// What a lane is for. It never changes, but that an own lane changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Role {
    /// For everyone.
    Shared,
    /// For everyone's reads of values that are known to be large.
    Large,
    /// For everyone's requests to a node without meta commands that classic words cannot say: it is spoken to in packets.
    Binary,
    /// For nobody: it asks a node that has let a request time out whether it still answers at all.
    Probe,
    /// For one large value of one client: the only lane that may pause, for it alone waits there.
    Own {
        /// [`ClientId::NONE`] while nobody needs it.
        owner: ClientId,
    },
}

/// Where a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Stage {
    /// The connection is asked for.
    Dialling,
    /// It is made, and `VERSION` is awaited.
    Greeting,
    /// `VERSION` has come.
    Serving,
    /// Its node is not in the ring any more, or not at that address: it finishes what is in flight.
    Draining,
}

impl Stage {
    /// The legal transitions.
    const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Dialling, Self::Greeting)
                | (Self::Greeting, Self::Serving)
                | (Self::Dialling | Self::Greeting | Self::Serving, Self::Draining)
                // The node is back in the ring while the lane drains.
                | (Self::Draining, Self::Dialling | Self::Greeting | Self::Serving)
        )
    }
}

/// The value whose data block is arriving.
#[derive(Debug)]
pub(in crate::proxy) struct Body {
    /// Its key in the group at the head.
    pub(in crate::proxy) key: usize,
    /// Bytes to come, CRLF included.
    pub(in crate::proxy) left: u64,
    /// How many copies of them are kept here.
    pub(in crate::proxy) copies: usize,
}

impl Body {
    /// Bytes of memory that room is kept for.
    pub(in crate::proxy) fn expected(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX).saturating_mul(self.copies)
    }
}

/// One lane.
#[derive(Debug)]
pub(in crate::proxy) struct Upstream {
    pub(in crate::proxy) node: NodeId,
    pub(in crate::proxy) role: Role,
    /// It is spoken to in packets.
    pub(in crate::proxy) is_binary: bool,
    stage: Stage,
    /// Where it stood when it began to drain.
    drained_at_stage: Stage,
    /// What it is connected to has said that it knows the meta commands.
    pub(in crate::proxy) has_meta: bool,
    /// It is expected to be ready in a moment: requests are put on it meanwhile.
    pub(in crate::proxy) eager: bool,
    /// It takes the place of one that could not be made, or was lost again and again.
    pub(in crate::proxy) after_failure: bool,
    /// It is connected to an address its node is no longer at: it finishes what is in flight.
    pub(in crate::proxy) moved: bool,
    /// It was logged in to with what is no longer in force: it finishes what is in flight.
    pub(in crate::proxy) outdated: bool,
    /// The node answers keys in the order of their line: see `values.rs`.
    pub(in crate::proxy) in_order: bool,
    pub(in crate::proxy) out: OutBuf,
    pub(in crate::proxy) fifo: Fifo,
    /// The last entry is a group whose line is not in `out` yet.
    pub(in crate::proxy) open: bool,
    /// When a byte last came.
    pub(in crate::proxy) last_read_at: Tick,
    /// When the kernel last took a byte.
    pub(in crate::proxy) last_write_at: Tick,
    /// When a reply, or enough of one, was last read.
    pub(in crate::proxy) progress_at: Tick,
    /// Bytes read since then.
    bytes_since_progress: usize,
    /// When silence was last counted, and how often since a byte last came.
    pub(in crate::proxy) silence_counted_at: Tick,
    pub(in crate::proxy) silent_timeouts: u32,
    marks: VecDeque<Mark>,
    /// Not read, for its reader has too much waiting.
    pub(in crate::proxy) paused: bool,
    /// When a good piece was last read from it, or of a body written to it; its pauses do not count.
    pub(in crate::proxy) moved_at: Tick,
    /// When it was last needed; of an own lane that nobody has, and of the lane of large values.
    pub(in crate::proxy) used_at: Tick,
    /// Bytes written so far.
    pub(in crate::proxy) sent: u64,
    /// Bytes of memory that the rim holds for it.
    pub(in crate::proxy) sealed: usize,
    /// The beginning of a reply line.
    pub(in crate::proxy) partial: Vec<u8>,
    /// Bytes of memory charged for it.
    pub(in crate::proxy) held: usize,
    /// Where it counts.
    pub(in crate::proxy) cells: Arc<NodeCells>,
    pub(in crate::proxy) body: Option<Body>,
    /// Bytes to come of a value in a packet that nobody asked for.
    pub(in crate::proxy) unasked: usize,
    pub(in crate::proxy) dirty: bool,
    pub(in crate::proxy) full: bool,
    /// Clients that are not read until this lane has room, in the order they came.
    pub(in crate::proxy) waiters: VecDeque<ClientId>,
}

impl Upstream {
    /// A lane whose connection is asked for; the memory it holds is not charged yet.
    pub(in crate::proxy) fn new(
        node: NodeId,
        role: Role,
        is_binary: bool,
        cells: Arc<NodeCells>,
        shared: &mut Shared,
    ) -> Self {
        let mut out = OutBuf::default();
        // The first reply proves that this is a memcached that takes us; requests follow at once.
        if is_binary {
            let mut packet = shared.pool.take();
            meta::write_greeting(&mut packet);
            out.append(&packet, &mut shared.pool);
            shared.pool.put(packet);
        } else {
            out.append(b"version\r\n", &mut shared.pool);
        }
        let mut fifo = Fifo::default();
        let now = shared.now;
        fifo.push(0, Entry::Version, now);
        Self {
            node,
            role,
            is_binary,
            stage: Stage::Dialling,
            drained_at_stage: Stage::Dialling,
            has_meta: false,
            eager: true,
            after_failure: false,
            moved: false,
            outdated: false,
            in_order: true,
            out,
            fifo,
            open: false,
            last_read_at: now,
            last_write_at: now,
            progress_at: now,
            bytes_since_progress: 0,
            silence_counted_at: Tick(0),
            silent_timeouts: 0,
            marks: VecDeque::new(),
            paused: false,
            moved_at: now,
            used_at: now,
            sent: 0,
            sealed: 0,
            partial: Vec::new(),
            held: 0,
            cells,
            body: None,
            unasked: 0,
            dirty: false,
            full: false,
            waiters: VecDeque::new(),
        }
    }

    // === where it stands ===

    fn enter(&mut self, next: Stage) {
        debug_assert!(self.stage.may_become(next), "a lane goes from {:?} to {next:?}", self.stage);
        self.stage = next;
    }

    /// The connection is made: its queue may be written.
    pub(in crate::proxy) fn connected(&mut self, now: Tick) {
        if self.stage == Stage::Draining {
            self.drained_at_stage = Stage::Greeting;
        } else {
            self.enter(Stage::Greeting);
        }
        (self.last_read_at, self.last_write_at, self.progress_at) = (now, now, now);
    }

    /// `VERSION` has come.
    pub(in crate::proxy) fn greeted(&mut self) {
        match self.stage {
            Stage::Draining => self.drained_at_stage = Stage::Serving,
            Stage::Serving => {}
            _ => self.enter(Stage::Serving),
        }
    }

    /// It takes nothing new.
    pub(in crate::proxy) fn drain(&mut self) {
        if self.stage != Stage::Draining {
            self.drained_at_stage = self.stage;
            self.enter(Stage::Draining);
        }
    }

    /// Its node is back.
    pub(in crate::proxy) fn revive(&mut self) {
        if self.stage == Stage::Draining {
            self.enter(self.drained_at_stage);
        }
    }

    const fn stage_but_for_draining(&self) -> Stage {
        match self.stage {
            Stage::Draining => self.drained_at_stage,
            stage => stage,
        }
    }

    /// The connection is made.
    #[inline]
    pub(in crate::proxy) const fn is_connected(&self) -> bool {
        !matches!(self.stage_but_for_draining(), Stage::Dialling)
    }

    /// `VERSION` has come.
    #[inline]
    pub(in crate::proxy) const fn is_greeted(&self) -> bool {
        matches!(self.stage_but_for_draining(), Stage::Serving)
    }

    pub(in crate::proxy) const fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Draining)
    }

    /// Whether requests are put on it.
    #[inline]
    pub(in crate::proxy) const fn takes_requests(&self) -> bool {
        matches!(self.stage, Stage::Serving) || self.eager && !matches!(self.stage, Stage::Draining)
    }

    /// It is one client's own.
    pub(in crate::proxy) const fn is_own(&self) -> bool {
        matches!(self.role, Role::Own { .. })
    }

    /// An own lane that nobody has.
    pub(in crate::proxy) fn is_idle(&self) -> bool {
        self.role == Role::Own { owner: ClientId::NONE }
    }

    // === requests ===

    /// The group that further keys may join, if the last entry is one that is not sent.
    #[inline]
    pub(in crate::proxy) fn open_group(&mut self) -> Option<&mut Group> {
        match self.fifo.back_mut() {
            Some(Entry::Group(group)) if self.open => Some(group),
            _ => None,
        }
    }

    /// Begins a group; its line is queued when it is closed.
    pub(in crate::proxy) fn push_group(&mut self, group: Box<Group>, shared: &mut Shared) {
        self.close_group(shared);
        self.fifo.push(self.queued(), Entry::Group(group), shared.now);
        self.open = true;
    }

    /// Puts a group on this lane that was sent by another before.
    pub(in crate::proxy) fn push_again(&mut self, mut group: Box<Group>, shared: &mut Shared) {
        self.close_group(shared);
        let start = self.queued();
        self.out.append(group.close(), &mut shared.pool);
        self.fifo.push(start, Entry::Group(group), shared.now);
    }

    /// Bytes ever queued.
    #[inline]
    pub(in crate::proxy) const fn queued(&self) -> u64 {
        self.sent + self.out.len() as u64
    }

    /// Queues the open group's line: nothing may join it any more.
    pub(in crate::proxy) fn close_group(&mut self, shared: &mut Shared) {
        if let (true, Some(Entry::Group(group))) = (self.open, self.fifo.back_mut()) {
            let (cells, keys) = (shared.cells(), group.len() as u64);
            debug_assert!(keys > 0, "a read without a key");
            cells.groups.add(1);
            cells.group_keys.add(keys);
            if group.members.len() > 1 {
                cells.merged_keys.add(keys);
            }
            say(group.close(), self.is_binary, &mut self.out, shared);
            self.fifo.closed();
        }
        self.open = false;
    }

    /// Puts a request behind what waits: its bytes and its entry.
    pub(in crate::proxy) fn push(&mut self, line: &[u8], entry: Entry, shared: &mut Shared) {
        self.close_group(shared);
        self.fifo.push(self.queued(), entry, shared.now);
        say(line, self.is_binary, &mut self.out, shared);
    }

    /// A reply is complete: counts how long the node took, and returns that with the time in the queue,
    /// in microseconds.
    #[inline]
    pub(in crate::proxy) fn answered(&self, times: Times, outcome: NodeOutcome, now: Tick) -> (u64, u64) {
        let (queued, wire) = times.until(now);
        self.ended(outcome);
        self.cells.duration.record(wire, &DURATIONS);
        (queued, wire)
    }

    /// A request to the node has ended.
    #[inline]
    pub(in crate::proxy) fn ended(&self, outcome: NodeOutcome) {
        if let Some(counter) = self.cells.requests.get(outcome as usize) {
            counter.add(1);
        }
    }

    /// So many bytes have come, and so many replies were completed by them. Returns whether that is progress.
    pub(in crate::proxy) fn note_progress(&mut self, bytes: usize, replies: usize, now: Tick) -> bool {
        self.last_read_at = now;
        self.silent_timeouts = 0;
        self.bytes_since_progress += bytes;
        let progress = replies > 0 || self.bytes_since_progress >= PROGRESS;
        if progress {
            self.bytes_since_progress = 0;
            (self.progress_at, self.moved_at) = (now, now);
        }
        progress
    }

    /// The kernel has taken so many bytes. On an own lane a good piece of a body is progress: nobody else's request is
    /// judged by it.
    #[inline]
    pub(in crate::proxy) fn note_written(&mut self, bytes: usize, now: Tick) {
        self.last_write_at = now;
        if self.is_own() {
            self.bytes_since_progress += bytes;
            if self.bytes_since_progress >= PROGRESS {
                self.bytes_since_progress = 0;
                self.moved_at = now;
            }
        }
    }

    /// Whether what the node says can be an answer: a byte of the oldest request has left. (A node
    /// that is full says so before it is asked for its version.)
    #[inline]
    pub(in crate::proxy) fn may_speak(&self) -> bool {
        let asked = self.fifo.start(0).is_some_and(|start| self.sent > start);
        asked || matches!(self.fifo.front(), Some(Entry::Version))
    }

    /// How many of the first `most` bytes that wait are to go as one: those of whole requests; of one whose beginning is
    /// sent the rest, without what stands behind it; of one that is longer than `most` as many.
    pub(in crate::proxy) fn record(&self, most: usize) -> usize {
        let end = self.sent + most as u64;
        let (first, last) = match self.fifo.start(self.fifo.first_unsent(self.sent)) {
            // What waits belongs to the last request, whose body may be streamed still.
            None => return most,
            Some(first) => (first, if self.queued() <= end { Some(end) } else { self.fifo.last_start(end) }),
        };
        let whole = if first > self.sent { Some(first.min(end)) } else { last.filter(|last| *last > self.sent) };
        whole.and_then(|end| usize::try_from(end - self.sent).ok()).map_or(most, |bytes| bytes.min(most))
    }

    /// Asks for a write, and notes whether the lane is at its limit.
    pub(in crate::proxy) fn touch(&mut self, id: UpstreamId, shared: &mut Shared) {
        shared.ask_for_tick();
        if !self.dirty && self.is_connected() {
            self.dirty = true;
            shared.dirty_upstreams.push(id);
        }
        self.recharge(shared);
        if !self.full && matches!(self.role, Role::Shared | Role::Binary) && self.is_over(1) {
            self.full = true;
            shared.full_lanes += 1;
        }
    }

    /// Notes what this lane holds.
    #[inline]
    pub(in crate::proxy) fn recharge(&mut self, shared: &mut Shared) {
        let now = self.weight();
        shared.budget.recharge(&mut self.held, now);
    }

    /// Gives memory back that a load has left.
    pub(in crate::proxy) fn rest(&mut self, shared: &mut Shared) {
        if self.fifo.rest() {
            self.recharge(shared);
        }
    }

    /// Bytes of memory held, those of slices apart.
    pub(in crate::proxy) fn weight(&self) -> usize {
        let unread = if self.paused { account::KERNEL_NODE } else { 0 };
        self.out.held() + self.partial.capacity() + self.fifo.held() + unread + self.sealed
    }

    /// Whether it holds more than its limits, divided by `by`.
    pub(in crate::proxy) fn is_over(&self, by: usize) -> bool {
        self.out.len() >= LANE_BYTES / by
            || self.fifo.len() >= LANE_REQUESTS / by
            || self.fifo.load() >= LANE_BYTES / by
    }

    pub(in crate::proxy) const fn is_full(&self) -> bool {
        self.full
    }

    /// Whether a reply's data block is arriving.
    pub(in crate::proxy) const fn in_body(&self) -> bool {
        self.body.is_some()
    }
}
