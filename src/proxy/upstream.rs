//! HOT: a node's bytes → replies → the entry at the head of the lane's FIFO → the clients.
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
use std::time::Duration;

use bytes::Bytes;

use super::group::{Group, Member};
use super::replies::Replies;
use super::table::Key;
use super::{ClientId, Core, Effect, NodeIndex, OnNodeDown, OutBuf, Shared, Tick, UpstreamId, Version, bulk};
use crate::metrics::{NodeState, WorkerCells};
use crate::protocol::reply::{self, Line, MAX_REPLY_LINE};
use crate::protocol::request::{Change, StoreVerb};

/// A lane takes no further request while so many bytes wait to be sent.
const LANE_BYTES: usize = 2 << 20;
/// Nor while so many requests wait for their reply.
const LANE_REQUESTS: usize = 16 << 10;
/// A piece of a value of at least this many bytes is shared, not copied, where several clients
/// asked for it.
const SHARE: usize = 4 << 10;
/// After an error line in a merged group the node gets no merged group for this long, so that a
/// lasting error shows itself as what it is.
const NO_MERGE: Duration = Duration::from_secs(1);

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
    /// A bulk lane without work; closes soon unless it is needed again.
    Idle { since: Tick },
}

/// What a single request may be answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Store,
    Cas,
    Delete,
    Incr,
    Decr,
    Touch,
}

impl From<StoreVerb> for Verb {
    fn from(verb: StoreVerb) -> Self {
        if verb == StoreVerb::Cas { Self::Cas } else { Self::Store }
    }
}

impl From<Change> for Verb {
    fn from(change: Change) -> Self {
        match change {
            Change::Delete => Self::Delete,
            Change::Incr(_) => Self::Incr,
            Change::Decr(_) => Self::Decr,
            Change::Touch(_) => Self::Touch,
        }
    }
}

impl Verb {
    /// Whether a reply line has the shape of this command's answers.
    const fn allows(self, line: &Line<'_>) -> bool {
        match line {
            Line::Error => true,
            Line::NotFound => true,
            Line::Stored | Line::NotStored | Line::Exists => matches!(self, Self::Store | Self::Cas),
            Line::Deleted => matches!(self, Self::Delete),
            Line::Number => matches!(self, Self::Incr | Self::Decr),
            Line::Touched => matches!(self, Self::Touch),
            _ => false,
        }
    }

    /// Counts an answer as memcached's `stats` does.
    fn count(self, line: &Line<'_>, cells: &WorkerCells) {
        let counter = match (self, line) {
            (Self::Cas, Line::Stored) => &cells.cas_hits,
            (Self::Cas, Line::Exists) => &cells.cas_mismatches,
            (Self::Cas, Line::NotFound) => &cells.cas_misses,
            (Self::Delete, Line::Deleted) => &cells.delete_hits,
            (Self::Delete, Line::NotFound) => &cells.delete_misses,
            (Self::Incr, Line::Number) => &cells.incr_hits,
            (Self::Incr, Line::NotFound) => &cells.incr_misses,
            (Self::Decr, Line::Number) => &cells.decr_hits,
            (Self::Decr, Line::NotFound) => &cells.decr_misses,
            (Self::Touch, Line::Touched) => &cells.touch_hits,
            (Self::Touch, Line::NotFound) => &cells.touch_misses,
            _ => return,
        };
        counter.add(1);
    }
}

/// A request whose reply has not come.
#[derive(Debug)]
pub(super) enum Entry {
    /// Our own first request on every connection.
    Version,
    /// A read, perhaps of several clients.
    Group(Box<Group>),
    /// A request with a reply of one line; `seq` is `None` for `noreply`.
    Single { client: ClientId, seq: Option<u32>, verb: Verb },
    /// A node's part of a fan-out; `seq` is `None` for `noreply`.
    Gather { client: ClientId, seq: Option<u32>, part: usize },
}

/// The value whose data block is arriving.
#[derive(Debug)]
struct Body {
    /// Its key in the group at the head.
    key: usize,
    /// Bytes to come, CRLF included.
    left: u64,
}

/// An upstream connection: one lane.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) node: NodeIndex,
    pub(super) kind: Kind,
    /// `VERSION` has come.
    pub(super) ready: bool,
    /// The socket is connected: its queue may be written.
    connected: bool,
    pub(super) out: OutBuf,
    pub(super) fifo: VecDeque<Entry>,
    /// The last entry is a group whose line is not in `out` yet.
    open: bool,
    /// The beginning of a reply line.
    partial: Vec<u8>,
    body: Option<Body>,
    dirty: bool,
    full: bool,
    /// Clients that are not read until this lane has room, in the order they came.
    pub(super) waiters: VecDeque<ClientId>,
}

/// The connection is out of step (invariant C).
#[derive(Debug)]
struct Desync;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// The connection could not be made, or was refused by the node's first line.
    Connect,
    /// Not within the connect time-out.
    ConnectTimeout,
    /// Closed or reset by the node.
    Closed,
    /// A reply that cannot be the answer to what was asked.
    Desync,
}

impl FailReason {
    const fn text(self) -> &'static str {
        match self {
            Self::Connect => "cannot be reached",
            Self::ConnectTimeout => "does not accept in time",
            Self::Closed => "closed the connection",
            Self::Desync => "answered out of step",
        }
    }
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
        self.fifo.push_back(Entry::Group(group));
        self.open = true;
    }

    /// Queues the open group's line: nothing may join it any more.
    pub(super) fn close_group(&mut self, shared: &mut Shared) {
        if let (true, Some(Entry::Group(group))) = (self.open, self.fifo.back_mut()) {
            if group.members.len() > 1 {
                shared.cells().merged_keys.add(group.len() as u64);
            }
            self.out.append(group.close(), &mut shared.pool);
        }
        self.open = false;
    }

    /// Puts a request behind what waits: its bytes and its entry.
    pub(super) fn push(&mut self, line: &[u8], entry: Entry, shared: &mut Shared) {
        self.close_group(shared);
        self.out.append(line, &mut shared.pool);
        self.fifo.push_back(entry);
    }

    /// Asks for a write, and notes whether the lane is at its limit.
    pub(super) fn touch(&mut self, id: UpstreamId, shared: &mut Shared) {
        if !self.dirty && self.connected {
            self.dirty = true;
            shared.dirty_upstreams.push(id);
        }
        if !self.full && self.kind == Kind::Shared && (self.out.len() >= LANE_BYTES || self.fifo.len() >= LANE_REQUESTS)
        {
            self.full = true;
            shared.full_lanes += 1;
        }
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
    pub(super) fn open_upstream(&mut self, node: NodeIndex, kind: Kind, wait: Duration) -> UpstreamId {
        let mut out = OutBuf::default();
        // The first reply proves that this is a memcached that takes us; requests follow at once.
        out.append(b"version\r\n", &mut self.shared.pool);
        let id = UpstreamId(self.upstreams.insert(Upstream {
            node,
            kind,
            ready: false,
            connected: false,
            out,
            fifo: VecDeque::from([Entry::Version]),
            open: false,
            partial: Vec::new(),
            body: None,
            dirty: false,
            full: false,
            waiters: VecDeque::new(),
        }));
        self.shared.effects.push(Effect::Connect(id, node, wait));
        id
    }

    /// The lane of a node that a client's requests go to, unless the node cannot be asked.
    #[inline]
    pub(super) fn lane(&self, node: NodeIndex, lane: usize) -> Option<UpstreamId> {
        let entry = self.nodes.get(usize::from(node.0))?;
        let id = *entry.lanes.get(lane)?;
        if entry.state == NodeState::Up {
            return Some(id);
        }
        // A node that is down is not asked through a connection that is yet to prove itself.
        let ready = self.upstreams.get(id.0).is_some_and(|up| up.ready);
        (ready || entry.state == NodeState::Connecting).then_some(id)
    }

    /// The connection is established.
    pub fn upstream_connected(&mut self, id: UpstreamId, now: Tick) {
        self.shared.now = now;
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.connected = true;
            up.touch(id, &mut self.shared);
        }
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
        Some(&up.out)
    }

    /// The kernel has taken so many bytes.
    pub fn upstream_written(&mut self, id: UpstreamId, bytes: usize, now: Tick) {
        self.shared.now = now;
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.out.advance(bytes, &mut self.shared.pool);
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
    fn relieve(&mut self, id: UpstreamId) {
        let Some(up) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let room = match up.kind {
            Kind::Shared => up.out.len() < LANE_BYTES / 2 && up.fifo.len() < LANE_REQUESTS / 2,
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

    /// Takes what a node sent.
    pub fn upstream_input(&mut self, id: UpstreamId, bytes: &[u8], now: Tick) {
        self.shared.now = now;
        if self.read_replies(id, bytes).is_err() {
            self.fail_upstream(id, FailReason::Desync);
        } else {
            self.relieve(id);
            self.release_bulk(id);
        }
        self.finish_round();
    }

    fn read_replies(&mut self, id: UpstreamId, bytes: &[u8]) -> Result<(), Desync> {
        let mut input = bytes;
        while !input.is_empty() {
            let Some(up) = self.upstreams.get_mut(id.0) else {
                return Ok(());
            };
            if up.body.is_some() {
                let used = self.deliver_body(id, input)?;
                input = input.get(used..).unwrap_or_default();
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                up.partial.extend_from_slice(input);
                return if up.partial.len() > MAX_REPLY_LINE { Err(Desync) } else { Ok(()) };
            };
            let (raw, rest) = input.split_at(end + 1);
            input = rest;
            if up.partial.is_empty() {
                self.reply_line(id, raw)?;
            } else {
                let mut line = std::mem::take(&mut up.partial);
                line.extend_from_slice(raw);
                self.reply_line(id, &line)?;
                line.clear();
                if let Some(up) = self.upstreams.get_mut(id.0) {
                    up.partial = line;
                }
            }
        }
        Ok(())
    }

    /// One line, with its CRLF, for the entry at the head.
    fn reply_line(&mut self, id: UpstreamId, raw: &[u8]) -> Result<(), Desync> {
        let line = raw.strip_suffix(b"\r\n").ok_or(Desync)?;
        let line = reply::parse(line).ok_or(Desync)?;
        let up = self.upstreams.get_mut(id.0).ok_or(Desync)?;
        if up.open && up.fifo.len() == 1 {
            // An answer to a request that has not been sent.
            return Err(Desync);
        }
        match up.fifo.front_mut().ok_or(Desync)? {
            Entry::Group(group) => match line {
                Line::Value { key, len } => {
                    let key = group.find(key).ok_or(Desync)?;
                    up.body = Some(Body { key, left: len + 2 });
                    if len > bulk::BULK_VALUE as u64 && up.kind == Kind::Shared {
                        self.turn_lane(id, key);
                    }
                    self.deliver_header(id, raw);
                    Ok(())
                }
                Line::End => self.finish_group(id, None),
                Line::Error => self.finish_group(id, Some(raw)),
                _ => Err(Desync),
            },
            &mut Entry::Single { client, seq, verb } => {
                if !verb.allows(&line) {
                    return Err(Desync);
                }
                up.fifo.pop_front();
                verb.count(&line, self.shared.cells());
                self.finish_single(client, seq, raw);
                Ok(())
            }
            &mut Entry::Gather { client, seq, part } => self.gather_line(id, client, seq, part, &line, raw),
            Entry::Version => match line {
                Line::Version(text) => {
                    up.fifo.pop_front();
                    up.ready = true;
                    let node = up.node;
                    self.node_answered(node, text);
                    Ok(())
                }
                // `ERROR Too many open connections`: refused, not out of step.
                Line::Error => {
                    self.fail_upstream(id, FailReason::Connect);
                    Ok(())
                }
                _ => Err(Desync),
            },
        }
    }

    fn node_answered(&mut self, node: NodeIndex, text: &[u8]) {
        if let Some(entry) = self.nodes.get_mut(usize::from(node.0)) {
            entry.health.succeeded();
            entry.version = Version::read(text);
        }
        self.set_node_state(node, NodeState::Up);
    }

    /// Gives a `VALUE` line to those who asked for the key.
    fn deliver_header(&mut self, id: UpstreamId, raw: &[u8]) {
        let Self { upstreams, clients, shared, .. } = self;
        let Some(up) = upstreams.get_mut(id.0) else {
            return;
        };
        let Some((group, key)) = up.body_askers() else {
            return;
        };
        let len = up.body.as_ref().map_or(0, |body| body.left);
        for member in group.askers(key).filter_map(|i| group.members.get(i)) {
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            shared.cells().get_hits.add(1);
            client.saw_value(len);
            client.replies.deliver(member.seq, raw, &mut shared.pool);
        }
    }

    /// Gives a piece of a value to those who asked for it. Returns how much of `input` it was.
    fn deliver_body(&mut self, id: UpstreamId, input: &[u8]) -> Result<usize, Desync> {
        let Self { upstreams, clients, shared, .. } = self;
        let up = upstreams.get_mut(id.0).ok_or(Desync)?;
        let Some(body) = up.body.as_mut() else {
            return Ok(0);
        };
        let Some(Entry::Group(group)) = up.fifo.front_mut() else {
            return Err(Desync);
        };
        let used = usize::try_from(body.left).unwrap_or(usize::MAX).min(input.len());
        let piece = input.get(..used).ok_or(Desync)?;
        check_end(body.left, piece)?;
        body.left -= used as u64;
        let ended = body.left == 0;
        let key = body.key;
        let shared_piece = (used >= SHARE && group.askers(key).nth(1).is_some()).then(|| Bytes::copy_from_slice(piece));
        // A group of one passes its node's last word on, whatever it is; others need not wait.
        let early = group.members.len() > 1;
        let mut askers = std::mem::take(&mut shared.askers);
        askers.extend(group.askers(key));
        for index in askers.drain(..) {
            let Some(member) = group.members.get_mut(index) else {
                continue;
            };
            if ended {
                member.left = member.left.saturating_sub(1);
            }
            let complete = early && member.left == 0 && !member.done;
            member.done |= complete;
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            match &shared_piece {
                Some(bytes) => client.replies.deliver_shared(member.seq, bytes.clone(), &mut shared.pool),
                None => client.replies.deliver(member.seq, piece, &mut shared.pool),
            }
            if complete {
                client.replies.finish(member.seq, &mut shared.pool);
            }
            client.settle(member.client, shared);
        }
        shared.askers = askers;
        if ended {
            up.body = None;
        }
        Ok(used)
    }

    /// The read at the head is over: `END`, or an error line.
    fn finish_group(&mut self, id: UpstreamId, error: Option<&[u8]>) -> Result<(), Desync> {
        let Self { upstreams, clients, shared, nodes, .. } = self;
        let up = upstreams.get_mut(id.0).ok_or(Desync)?;
        let Some(Entry::Group(mut group)) = up.fifo.pop_front() else {
            return Err(Desync);
        };
        let one = group.members.len() == 1;
        for member in &mut group.members {
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            client.in_flight = client.in_flight.saturating_sub(1);
            if !member.done {
                match error {
                    // Nobody else is concerned: the node's word reaches the client.
                    Some(text) if one && client.replies.is_alone(member.seq) => {
                        client.replies.fail_part(member.seq, text, &mut shared.pool);
                    }
                    Some(_) => {
                        shared.cells().soft_misses.add(u64::from(member.left));
                        client.replies.finish(member.seq, &mut shared.pool);
                    }
                    None => {
                        shared.cells().get_misses.add(u64::from(member.left));
                        client.replies.finish(member.seq, &mut shared.pool);
                    }
                }
            }
            client.settle(member.client, shared);
        }
        if error.is_some()
            && !one
            && let Some(node) = nodes.get_mut(usize::from(up.node.0))
        {
            node.no_merge_until = shared.now.after(NO_MERGE);
        }
        shared.put_group(group);
        Ok(())
    }

    /// The one line that answers a request. `raw` has its CRLF.
    pub(super) fn finish_single(&mut self, id: ClientId, seq: Option<u32>, raw: &[u8]) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else {
            shared.cells().dropped_replies.add(1);
            return;
        };
        client.in_flight = client.in_flight.saturating_sub(1);
        match seq {
            Some(seq) => {
                client.replies.deliver(seq, raw, &mut shared.pool);
                client.replies.finish(seq, &mut shared.pool);
            }
            None => shared.cells().dropped_replies.add(1),
        }
        client.settle(id, shared);
    }

    fn gather_line(
        &mut self,
        id: UpstreamId,
        client: ClientId,
        seq: Option<u32>,
        part: usize,
        line: &Line<'_>,
        raw: &[u8],
    ) -> Result<(), Desync> {
        let error = match line {
            Line::Stat { .. } => {
                if let (Some(client), Some(seq)) = (self.clients.get_mut(client.0), seq)
                    && let Some(gather) = client.replies.gather(seq)
                {
                    gather.line(part, raw);
                }
                return Ok(());
            }
            Line::Ok | Line::Reset | Line::End => None,
            Line::Error => Some(raw),
            _ => return Err(Desync),
        };
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.fifo.pop_front();
        }
        self.finish_gather(client, seq, part, error, None);
        Ok(())
    }

    fn finish_gather(
        &mut self,
        id: ClientId,
        seq: Option<u32>,
        part: usize,
        error: Option<&[u8]>,
        lost: Option<&'static str>,
    ) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else {
            return;
        };
        client.in_flight = client.in_flight.saturating_sub(1);
        if let Some(seq) = seq
            && let Some(gather) = client.replies.gather(seq)
            && gather.finish(part, error, lost)
        {
            let mut text = shared.pool.take();
            gather.render(&mut text);
            client.replies.deliver(seq, &text, &mut shared.pool);
            client.replies.finish(seq, &mut shared.pool);
            shared.pool.put(text);
        }
        client.settle(id, shared);
    }

    /// Whether the rim should read from this node now.
    pub fn upstream_may_read(&mut self, id: UpstreamId) -> bool {
        match self.upstreams.get(id.0) {
            Some(up) if up.in_body() => !self.reader_is_behind(id),
            Some(_) => true,
            None => false,
        }
    }

    /// The connection is gone: it could not be made, or was closed.
    pub fn upstream_failed(&mut self, id: UpstreamId, reason: FailReason, now: Tick) {
        self.shared.now = now;
        self.fail_upstream(id, reason);
        self.finish_round();
    }

    /// Fails what waits on a connection, forgets it and, for a shared lane, opens the next.
    pub(super) fn fail_upstream(&mut self, id: UpstreamId, reason: FailReason) {
        let Some(up) = self.upstreams.get(id.0) else {
            return;
        };
        let (node, ready, kind, waiting) = (up.node, up.ready, up.kind, up.fifo.len());
        let unused = matches!(kind, Kind::Idle { .. });
        let name = self.nodes.get(usize::from(node.0)).map(|entry| entry.name.clone()).unwrap_or_default();
        match reason {
            FailReason::Desync => {
                self.shared.cells().desyncs.add(1);
                tracing::error!(node = %name, waiting, "node answered out of step; connection closed");
            }
            _ if unused => {}
            _ => {
                self.shared.cells().upstream_failures.add(1);
                tracing::debug!(node = %name, waiting, reason = reason.text(), "connection to node lost");
            }
        }
        if kind == Kind::Shared {
            let wait = self.plan_reconnect(node, ready);
            let next = self.open_upstream(node, Kind::Shared, wait);
            self.replace_lane(node, id, next);
        }
        let text = format!("SERVER_ERROR proxy: node {name} {}\r\n", reason.text());
        self.drop_upstream(id, text.as_bytes());
    }

    fn plan_reconnect(&mut self, node: NodeIndex, ready: bool) -> Duration {
        let random = self.shared.random();
        let now = self.shared.now.0;
        let Some(entry) = self.nodes.get_mut(usize::from(node.0)) else {
            return Duration::ZERO;
        };
        let wait = entry.health.failed(ready, now, random);
        let state = if wait.is_zero() { NodeState::Connecting } else { NodeState::Down };
        self.set_node_state(node, state);
        wait
    }

    /// Puts another connection in a lane's place.
    pub(super) fn replace_lane(&mut self, node: NodeIndex, old: UpstreamId, new: UpstreamId) {
        let Some(entry) = self.nodes.get_mut(usize::from(node.0)) else {
            return;
        };
        if let Some(place) = entry.lanes.iter_mut().find(|lane| **lane == old) {
            *place = new;
        }
    }

    /// Forgets a connection; whatever still waits on it is answered as failed, `text` being the
    /// error line (with its CRLF) of those that get one.
    pub(super) fn drop_upstream(&mut self, id: UpstreamId, text: &[u8]) {
        let Some(mut up) = self.upstreams.remove(id.0) else {
            return;
        };
        self.shared.effects.push(Effect::CloseUpstream(id));
        if up.full {
            self.shared.full_lanes = self.shared.full_lanes.saturating_sub(1);
        }
        self.shared.resume.extend(up.waiters.drain(..));
        up.out.clear(&mut self.shared.pool);
        // A value that has begun cannot be taken back: the only honest end is to close its reader.
        if let Some((group, key)) = up.body_askers() {
            for member in group.askers(key).filter_map(|i| group.members.get(i)) {
                self.shared.finished.push(member.client);
            }
        }
        for entry in up.fifo.drain(..) {
            match entry {
                Entry::Version => {}
                Entry::Group(group) => self.fail_group(group, text),
                Entry::Single { client, seq, verb } => {
                    let soft = verb == Verb::Touch && self.shared.settings.on_node_down == OnNodeDown::Miss;
                    if soft {
                        self.shared.cells().soft_misses.add(1);
                    } else {
                        self.shared.cells().soft_errors.add(1);
                    }
                    self.finish_single(client, seq, if soft { b"NOT_FOUND\r\n" } else { text });
                }
                Entry::Gather { client, seq, part } => {
                    self.finish_gather(client, seq, part, Some(text), Some(NodeState::Down.word()));
                }
            }
        }
        self.bulk_lost(id, up.node, up.kind);
    }

    fn fail_group(&mut self, mut group: Box<Group>, text: &[u8]) {
        let Self { clients, shared, .. } = self;
        let miss = shared.settings.on_node_down == OnNodeDown::Miss;
        for member in &mut group.members {
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            client.in_flight = client.in_flight.saturating_sub(1);
            if !member.done {
                if miss {
                    shared.cells().soft_misses.add(u64::from(member.left));
                    client.replies.finish(member.seq, &mut shared.pool);
                } else {
                    shared.cells().soft_errors.add(1);
                    client.replies.fail_part(member.seq, text, &mut shared.pool);
                }
            }
            client.settle(member.client, shared);
        }
        shared.put_group(group);
    }

    /// Checks that counts kept twice agree.
    pub(super) fn check_counts(&self) {
        let mut in_flight = std::collections::HashMap::new();
        for (_, up) in self.upstreams.iter() {
            for client in up.fifo.iter().flat_map(Entry::clients) {
                *in_flight.entry(client).or_insert(0_u32) += 1;
            }
            let open = matches!(up.fifo.back(), Some(Entry::Group(_)));
            debug_assert!(!up.open || open, "an open group is the last entry");
        }
        for (key, client) in self.clients.iter() {
            let counted = in_flight.get(&ClientId(key)).copied().unwrap_or(0);
            debug_assert_eq!(client.in_flight, counted, "in flight of {key:?}");
            check_client(&client.replies);
        }
        let full = self.upstreams.iter().filter(|(_, up)| up.full).count();
        debug_assert_eq!(full, self.shared.full_lanes, "full lanes");
    }
}

fn check_client(replies: &Replies) {
    debug_assert!(!replies.is_empty() || replies.bytes() == replies.out.len(), "nothing is parked without a slot");
}

/// The last two bytes of a data block are CRLF, else the lengths do not mean what we think.
/// `left` counts from the beginning of `piece` to the block's end.
fn check_end(left: u64, piece: &[u8]) -> Result<(), Desync> {
    let from_end = |n: u64| left.checked_sub(n).and_then(|at| usize::try_from(at).ok()).and_then(|at| piece.get(at));
    match (from_end(2), from_end(1)) {
        (None | Some(b'\r'), None | Some(b'\n')) => Ok(()),
        _ => Err(Desync),
    }
}

impl Version {
    fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut number = [0; 3];
        for (place, part) in number.iter_mut().zip(text.split('.')) {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next()?;
            *place = digits.parse().ok()?;
        }
        // Clients read `X.Y.Z` strictly: a suffix such as `-rc1` or `_beta` is left out.
        let text = format!("{}.{}.{}", number.first()?, number.get(1)?, number.get(2)?);
        Some(Self { number, text })
    }
}
