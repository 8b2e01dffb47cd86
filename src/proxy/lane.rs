//! An upstream connection: its sending queue, its FIFO of requests that wait for their reply, and
//! how it lives.
//!
//! ```text
//!            Connect ──────▶ version\r\n first, requests queued behind it
//!               │
//!   Connecting ─┤ VERSION ─────────▶ Ready ──── reset, desync ──▶ closed, replaced by a new one
//!               │                                                  (at once, then with back-off)
//!               └ refused, time-out, not VERSION ──▶ closed; node Down: the next one takes no
//!                                                    request before its VERSION has come
//! ```
//! A lane that is closed is gone: its successor is another [`UpstreamId`], so nothing that is still
//! on its way from the old socket can be taken for the new one's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::clocks::Mark;
use super::fifo::{Fifo, Times};
use super::gather::End;
use super::group::{Group, Member};
use super::slow::Asked;
use super::table::Key;
use super::{ClientId, Core, Effect, NodeId, OutBuf, Shared, Tick, UpstreamId, bulk};
use crate::metrics::{DURATIONS, NodeCells, NodeOutcome, Outcome};
use crate::protocol::command::Command;
use crate::protocol::reply::Line;
use crate::routing::Node;

/// A lane takes no further request while so many bytes wait to be sent.
const LANE_BYTES: usize = 2 << 20;
/// Nor while so many requests wait for their reply.
const LANE_REQUESTS: usize = 16 << 10;
/// So many bytes of a reply are progress; a drip is not.
const PROGRESS: usize = 16 << 10;

/// What an upstream connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// For everyone.
    Shared,
    /// For the large value of one client (see `bulk.rs`).
    Bulk { owner: ClientId },
    /// A shared lane that a large value has taken over while others still wait on it; takes no new
    /// request and closes when its FIFO is empty.
    Retired,
    /// A shared lane of a node that has left the ring, or to an address its node has left: no new
    /// request; closes when its FIFO is empty, or when it has been silent for the drain time-out.
    Draining,
    /// A bulk lane without work; closes soon unless it is needed again.
    Idle { since: Tick },
}

impl Command {
    /// Whether a reply line has the shape of this command's answers, which are one line.
    pub(super) const fn allows(self, line: &Line<'_>) -> bool {
        let stores = matches!(self, Self::Set | Self::Add | Self::Replace | Self::Append | Self::Prepend);
        match line {
            Line::Error => true,
            Line::NotFound => !stores,
            Line::Stored | Line::NotStored => stores || matches!(self, Self::Cas),
            Line::Exists => matches!(self, Self::Cas),
            Line::Deleted => matches!(self, Self::Delete),
            Line::Number => matches!(self, Self::Incr | Self::Decr),
            Line::Touched => matches!(self, Self::Touch),
            _ => false,
        }
    }
}

/// What an answer of one line is, `raw` being its bytes.
pub(super) fn outcome(line: &Line<'_>, raw: &[u8]) -> Outcome {
    match line {
        Line::Stored => Outcome::Stored,
        Line::NotStored => Outcome::NotStored,
        Line::Exists => Outcome::Exists,
        Line::NotFound => Outcome::NotFound,
        Line::Error if raw.starts_with(b"SERVER_ERROR") => Outcome::ServerError,
        Line::Error => Outcome::ClientError,
        _ => Outcome::Ok,
    }
}

/// A request whose reply has not come. One that `expired` was answered here.
#[derive(Debug)]
pub(super) enum Entry {
    /// Our own first request on every connection.
    Version,
    /// A read, perhaps of several clients.
    Group(Box<Group>),
    /// A request with a reply of one line; `seq` is `None` for `noreply`.
    Single { client: ClientId, seq: Option<u32>, command: Command, asked: Asked, expired: bool },
    /// A node's part of a fan-out; `seq` is `None` for `noreply`.
    Gather { client: ClientId, seq: Option<u32>, part: usize, end: End, command: Command, expired: bool },
}

/// The value whose data block is arriving.
#[derive(Debug)]
pub(super) struct Body {
    /// Its key in the group at the head.
    pub(super) key: usize,
    /// Bytes to come, CRLF included.
    pub(super) left: u64,
    /// How many copies of them are kept here.
    pub(super) copies: usize,
}

impl Body {
    /// Bytes of memory that room is kept for.
    pub(super) fn expected(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX).saturating_mul(self.copies)
    }
}

/// An upstream connection: one lane.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) node: NodeId,
    pub(super) kind: Kind,
    /// `VERSION` has come: requests are put on it.
    pub(super) ready: bool,
    /// It is expected to be ready in a moment: requests are put on it meanwhile.
    pub(super) eager: bool,
    /// The socket is connected: its queue may be written.
    pub(super) connected: bool,
    /// It is connected to an address its node is no longer at: it finishes what is in flight.
    pub(super) moved: bool,
    pub(super) out: OutBuf,
    pub(super) fifo: Fifo,
    /// The last entry is a group whose line is not in `out` yet.
    pub(super) open: bool,
    /// When a byte last came.
    pub(super) heard: Tick,
    /// When the kernel last took a byte.
    pub(super) wrote: Tick,
    /// When a reply, or enough of one, was last read.
    pub(super) progress: Tick,
    /// Bytes read since then.
    unheeded: usize,
    /// When silence was last counted, and how often since a byte last came.
    pub(super) struck: Tick,
    pub(super) strikes: u32,
    pub(super) marks: VecDeque<Mark>,
    /// Not read, for its reader has too much waiting.
    pub(super) paused: bool,
    /// Bytes written so far.
    pub(super) sent: u64,
    /// The beginning of a reply line.
    pub(super) partial: Vec<u8>,
    /// Bytes of memory charged for it.
    pub(super) held: usize,
    /// Where it counts.
    pub(super) cells: Arc<NodeCells>,
    pub(super) body: Option<Body>,
    pub(super) dirty: bool,
    pub(super) full: bool,
    /// Clients that are not read until this lane has room, in the order they came.
    pub(super) waiters: VecDeque<ClientId>,
}

impl Upstream {
    /// The group that further keys may join, if the last entry is one that is not sent.
    pub(super) fn open_group(&mut self) -> Option<&mut Group> {
        match self.fifo.back_mut() {
            Some(Entry::Group(group)) if self.open => Some(group),
            _ => None,
        }
    }

    /// Begins a group; its line is queued when it is closed.
    pub(super) fn push_group(&mut self, group: Box<Group>, shared: &mut Shared) {
        self.close_group(shared);
        self.fifo.push(self.queued(), Entry::Group(group), shared.now);
        self.open = true;
    }

    /// Puts a group on this lane that was sent by another before.
    pub(super) fn push_again(&mut self, mut group: Box<Group>, shared: &mut Shared) {
        let start = self.queued();
        self.out.append(group.close(), &mut shared.pool);
        self.fifo.push(start, Entry::Group(group), shared.now);
    }

    /// Bytes ever queued.
    #[inline]
    pub(super) const fn queued(&self) -> u64 {
        self.sent + self.out.len() as u64
    }

    /// Queues the open group's line: nothing may join it any more.
    pub(super) fn close_group(&mut self, shared: &mut Shared) {
        if let (true, Some(Entry::Group(group))) = (self.open, self.fifo.back_mut()) {
            let (cells, keys) = (shared.cells(), group.len() as u64);
            cells.groups.add(1);
            cells.group_keys.add(keys);
            if group.members.len() > 1 {
                cells.merged_keys.add(keys);
            }
            self.out.append(group.close(), &mut shared.pool);
            self.fifo.closed();
        }
        self.open = false;
    }

    /// Puts a request behind what waits: its bytes and its entry.
    pub(super) fn push(&mut self, line: &[u8], entry: Entry, shared: &mut Shared) {
        self.close_group(shared);
        self.fifo.push(self.queued(), entry, shared.now);
        self.out.append(line, &mut shared.pool);
    }

    /// A reply is complete: counts how long the node took, and returns that with the time in the queue,
    /// in microseconds.
    #[inline]
    pub(super) fn answered(&self, times: Times, outcome: NodeOutcome, now: Tick) -> (u64, u64) {
        let (queued, wire) = times.until(now);
        self.ended(outcome);
        self.cells.duration.record(wire, &DURATIONS);
        (queued, wire)
    }

    /// A request to the node has ended.
    #[inline]
    pub(super) fn ended(&self, outcome: NodeOutcome) {
        if let Some(counter) = self.cells.requests.get(outcome as usize) {
            counter.add(1);
        }
    }

    /// So many bytes have come, and so many replies were completed by them.
    pub(super) fn note_progress(&mut self, bytes: usize, replies: usize, now: Tick) {
        self.heard = now;
        self.strikes = 0;
        self.unheeded += bytes;
        if replies > 0 || self.unheeded >= PROGRESS {
            self.unheeded = 0;
            self.progress = now;
        }
    }

    /// Whether what the node says can be an answer: a byte of the oldest request has left. (A node
    /// that is full says so before it is asked for its version.)
    #[inline]
    pub(super) fn may_speak(&self) -> bool {
        let asked = self.fifo.start(0).is_some_and(|start| self.sent > start);
        asked || matches!(self.fifo.front(), Some(Entry::Version))
    }

    /// Asks for a write, and notes whether the lane is at its limit.
    pub(super) fn touch(&mut self, id: UpstreamId, shared: &mut Shared) {
        shared.ask_for_tick();
        if !self.dirty && self.connected {
            self.dirty = true;
            shared.dirty_upstreams.push(id);
        }
        self.recharge(shared);
        if !self.full && self.kind == Kind::Shared && self.is_over(1) {
            self.full = true;
            shared.full_lanes += 1;
        }
    }

    /// Notes what this lane holds.
    #[inline]
    pub(super) fn recharge(&mut self, shared: &mut Shared) {
        let now = self.weight();
        shared.budget.recharge(&mut self.held, now);
    }

    /// Bytes of memory held.
    pub(super) fn weight(&self) -> usize {
        self.out.held() + self.partial.capacity() + self.fifo.held()
    }

    /// Whether it holds more than its limits, divided by `by`.
    fn is_over(&self, by: usize) -> bool {
        self.out.len() >= LANE_BYTES / by
            || self.fifo.len() >= LANE_REQUESTS / by
            || self.fifo.held() >= LANE_BYTES / by
    }

    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Whether a reply's data block is arriving.
    pub(super) const fn in_body(&self) -> bool {
        self.body.is_some()
    }

    /// The members the arriving value goes to.
    pub(super) fn body_askers(&self) -> Option<(&Group, usize)> {
        match (self.fifo.front(), &self.body) {
            (Some(Entry::Group(group)), Some(body)) => Some((group, body.key)),
            _ => None,
        }
    }
}

impl Entry {
    /// Every client that waits for this entry, as often as it counts in `in_flight`.
    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        let (single, members) = self.parties();
        single.into_iter().chain(members.iter().map(|member| member.client)).filter(|client| client.0 != Key::NONE)
    }

    /// Whether it was answered here, and only its reply is awaited, to be eaten.
    pub(super) fn is_expired(&self) -> bool {
        match self {
            Self::Version => false,
            Self::Group(group) => group.expired,
            Self::Single { expired, .. } | Self::Gather { expired, .. } => *expired,
        }
    }

    /// Whether somebody waits for the answer.
    pub(super) fn is_awaited(&self) -> bool {
        match self {
            Self::Version => false,
            Self::Group(group) => group.members.iter().any(|member| !member.done),
            Self::Single { seq, .. } | Self::Gather { seq, .. } => seq.is_some(),
        }
    }

    /// The clients whose answer is still to come by this entry.
    pub(super) fn waiting(&self) -> impl Iterator<Item = ClientId> + '_ {
        let (single, members) = self.parties();
        single.into_iter().chain(members.iter().filter(|member| !member.done).map(|member| member.client))
    }
}

impl Entry {
    fn parties(&self) -> (Option<ClientId>, &[Member]) {
        match self {
            Self::Version => (None, &[]),
            Self::Group(group) => (None, &group.members),
            Self::Single { client, .. } | Self::Gather { client, .. } => (Some(*client), &[]),
        }
    }
}

impl Core {
    /// Makes an upstream connection and asks the rim to connect it.
    pub(super) fn open_upstream(&mut self, node: NodeId, kind: Kind, wait: Duration) -> UpstreamId {
        let mut out = OutBuf::default();
        // The first reply proves that this is a memcached that takes us; requests follow at once.
        out.append(b"version\r\n", &mut self.shared.pool);
        let mut fifo = Fifo::default();
        let now = self.shared.now;
        fifo.push(0, Entry::Version, now);
        let cells = self.nodes.get(node.0).map(|entry| Arc::clone(&entry.cells)).unwrap_or_default();
        let id = UpstreamId(self.upstreams.insert(Upstream {
            node,
            kind,
            ready: false,
            eager: wait.is_zero(),
            connected: false,
            moved: false,
            out,
            fifo,
            open: false,
            heard: now,
            wrote: now,
            progress: now,
            unheeded: 0,
            struck: Tick(0),
            strikes: 0,
            marks: VecDeque::new(),
            paused: false,
            sent: 0,
            partial: Vec::new(),
            held: 0,
            cells,
            body: None,
            dirty: false,
            full: false,
            waiters: VecDeque::new(),
        }));
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.recharge(&mut self.shared);
        }
        self.shared.effects.push(Effect::Connect(id, wait));
        id
    }

    /// The lane of a node that a client's requests go to, unless the node cannot be asked.
    #[inline]
    pub(super) fn lane(&self, node: NodeId, lane: usize) -> Option<UpstreamId> {
        let id = *self.nodes.get(node.0)?.lanes.get(lane)?;
        let up = self.upstreams.get(id.0)?;
        (up.ready || up.eager).then_some(id)
    }

    /// The connection is established.
    pub fn upstream_connected(&mut self, id: UpstreamId, now: Tick) {
        self.shared.now = now;
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.connected = true;
            up.cells.connects[0].add(1);
            (up.heard, up.wrote, up.progress) = (now, now, now);
            up.touch(id, &mut self.shared);
        }
    }

    /// The node to connect to, as long as the connection is wanted.
    #[must_use]
    pub fn upstream_node(&self, id: UpstreamId) -> Option<Arc<Node>> {
        let node = self.upstreams.get(id.0)?.node;
        self.nodes.get(node.0).map(|entry| Arc::clone(&entry.node))
    }

    /// Whether the connection is still wanted.
    #[must_use]
    pub fn has_upstream(&self, id: UpstreamId) -> bool {
        self.upstreams.get(id.0).is_some()
    }

    /// What waits to be written to a node; closes the open group.
    pub fn upstream_out(&mut self, id: UpstreamId) -> Option<&OutBuf> {
        let up = self.upstreams.get_mut(id.0)?;
        up.dirty = false;
        up.close_group(&mut self.shared);
        up.recharge(&mut self.shared);
        Some(&up.out)
    }

    /// The kernel has taken so many bytes.
    pub fn upstream_written(&mut self, id: UpstreamId, bytes: usize, now: Tick) {
        self.shared.now = now;
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.out.advance(bytes, &mut self.shared.pool);
            up.sent += bytes as u64;
            up.wrote = now;
            up.cells.sent_bytes.add(bytes as u64);
            let queued = &self.shared.cells.worker(self.shared.worker).queued;
            up.fifo.note_sent(up.sent, now, |waited| queued.record(waited, &DURATIONS));
            self.relieve(id);
            self.finish_round();
        }
    }

    /// Writes go on: the socket has room again.
    pub fn upstream_writable(&mut self, id: UpstreamId) {
        if let Some(up) = self.upstreams.get_mut(id.0) {
            // A round that found the socket blocked has passed over what it was woken for.
            up.dirty = false;
            up.touch(id, &mut self.shared);
        }
    }

    /// Lets waiting clients go on when the lane has room again.
    pub(super) fn relieve(&mut self, id: UpstreamId) {
        let Some(up) = self.upstreams.get_mut(id.0) else {
            return;
        };
        up.recharge(&mut self.shared);
        let room = match up.kind {
            Kind::Shared | Kind::Draining => !up.is_over(2),
            _ => up.out.len() < bulk::STREAM_BYTES / 2,
        };
        if room {
            self.release_waiters(id);
        }
    }

    /// Lets every client go on that waits for a lane.
    pub(super) fn release_waiters(&mut self, id: UpstreamId) {
        let Some(up) = self.upstreams.get_mut(id.0) else {
            return;
        };
        if up.full {
            up.full = false;
            self.shared.full_lanes = self.shared.full_lanes.saturating_sub(1);
        }
        self.shared.resume.extend(up.waiters.drain(..));
    }

    /// Whether the rim should read from this node now.
    pub fn upstream_may_read(&mut self, id: UpstreamId) -> bool {
        let paused = match self.upstreams.get(id.0) {
            Some(up) => up.in_body() && self.reader_is_behind(id),
            None => return false,
        };
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.paused = paused;
        }
        !paused
    }

    /// Puts another connection in a lane's place.
    pub(super) fn replace_lane(&mut self, node: NodeId, old: UpstreamId, new: UpstreamId) {
        let Some(entry) = self.nodes.get_mut(node.0) else {
            return;
        };
        if let Some(place) = entry.lanes.iter_mut().find(|lane| **lane == old) {
            *place = new;
        }
    }
}
