//! HOT: a client's bytes → requests, and how a client lives.
//!
//! A request is acted on only when its line is whole and valid, and a stored value only when its
//! block has arrived and ends as it must. `requests.rs` acts on them.

use std::sync::Once;

use super::buffer::{Input, OutBuf, ReadBuffer};
use super::client::{self, Client, FEW, Reading, Stall, Taken, UNCHARGED};
use super::effect::Effect;
use super::upstream::STREAM_BYTES;
use super::{ClientId, CloseReason, Core, Ends, UpstreamId};
use crate::metrics::Wait;
use crate::protocol::dialect::Dialect;
use crate::protocol::request::Refusal;
use crate::protocol::text::request;
use crate::protocol::{MAX_KEY_LINE, MAX_LINE, is_key_line};
use crate::time::Tick;

/// A line that grows beyond this is refused when memory is spent, in bytes; what is kept grows by quarters from there on.
const LONG_LINE: usize = 64 << 10;
/// A read whose line is longer than this is sent by windows, in bytes.
const SHORT_READ: usize = 16 << 10;

/// A client goes on in its next poll when its requests to every node have put so many entries on lanes.
const STEP_ENTRIES: usize = 4096;

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

    /// The two ends of its connection are known.
    pub fn client_ends(&mut self, id: ClientId, ends: Ends, now: Tick) {
        if let Some(client) = self.clients.get_mut(id.0) {
            client.ends = ends;
            client.last_read_at = now;
        }
    }

    /// Whether the rim should read from this client now.
    #[must_use]
    pub fn client_may_read(&self, id: ClientId) -> bool {
        self.clients.get(id.0).is_some_and(|client| client.stall == Stall::None && client.input == client::Input::Open)
    }

    /// Whether a client has so many replies waiting that a costly request has to wait too.
    pub(super) fn waits_for_replies(&mut self, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(id.0) else { return false };
        let waits = client.replies.len() >= FEW;
        if waits {
            client.stall = Stall::FewReplies;
        }
        waits
    }

    /// Whether a client has asked every node so often that others have their turn first.
    pub(super) fn waits_for_others(&mut self, id: ClientId) -> bool {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return false };
        let waits = client.fanned >= STEP_ENTRIES;
        if waits {
            client.fanned = 0;
            client.stall = Stall::Turn;
            shared.cells().yields.add(1);
            shared.effects.push(Effect::WakeClient(id));
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
        self.take_client_input(id, Input::borrowed(bytes), now);
    }

    /// Takes the first `len` bytes of a buffer, which a client sent; the core may keep a part of it where it is.
    pub fn client_read(&mut self, id: ClientId, buffer: &mut ReadBuffer, len: usize, now: Tick) {
        self.take_client_input(id, buffer.input(len), now);
        self.shared.pool.renew(buffer);
    }

    fn take_client_input(&mut self, id: ClientId, input: Input<'_>, now: Tick) {
        self.shared.now = now;
        self.shared.cells().bytes_read.add(input.bytes.len() as u64);
        // Also where no node is asked: whoever keeps a record of the traffic is called by the tick.
        self.shared.ask_for_tick();
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        client.last_read_at = now;
        client.pace.sent += input.bytes.len();
        if client.unparsed.is_empty() {
            let used = self.parse(id, input);
            let Self { clients, shared, .. } = self;
            if let (Some(client), Some(rest @ [_, ..])) = (clients.get_mut(id.0), input.bytes.get(used..)) {
                if client.unparsed.capacity() == 0 {
                    client.unparsed = shared.pool.take();
                }
                keep(&mut client.unparsed, rest);
            }
        } else {
            keep(&mut client.unparsed, input.bytes);
            self.parse_kept(id);
        }
        self.settle_client(id);
        self.finish_round();
    }

    /// The client has sent its end: what is owed is answered, then it is closed.
    pub fn client_ended(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0)
            && client.input == client::Input::Open
        {
            client.input = client::Input::Ended;
            client.hung_up_at.get_or_insert(self.shared.now);
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
        self.client_took(id, bytes, true, now);
    }

    /// A client's kernel has taken so many bytes: of what is `queued` for it, or as they came.
    #[inline]
    pub(super) fn client_took(&mut self, id: ClientId, bytes: usize, queued: bool, now: Tick) {
        self.shared.now = now;
        self.shared.cells().bytes_written.add(bytes as u64);
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else {
            return;
        };
        if queued {
            client.replies.written(bytes, &mut shared.pool);
        }
        client.last_write_at = now;
        client.pace.taken += bytes;
        client.blocked &= !client.replies.out.is_empty();
        client.recharge(shared);
        if client.replies.out.len() < STREAM_BYTES / 2 {
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
            if client.takes_nothing_more() {
                self.shared.ask_for_tick();
            }
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
                self.tell_not_reading(client.held);
                self.shared.effects.push(Effect::ResetClient(id));
            }
            _ => self.shared.effects.push(Effect::CloseClient(id)),
        }
        let shared = &mut self.shared;
        shared.budget.recharge(&mut client.held, 0);
        shared.budget.arriving -= client.body_to_come() + client.promised;
        shared.budget.bodies -= client.reserved;
        let stream = if let Reading::Stream { lane, .. } = client.reading { Some(lane) } else { None };
        let lanes: Vec<UpstreamId> = client.elsewhere.iter().map(|other| other.lane).chain(stream).collect();
        client.forget_elsewhere(shared);
        if let Reading::Body(body) = &mut client.reading {
            body.block.clear(&mut shared.pool);
        }
        client.replies.clear(&mut shared.pool);
        shared.pool.put(client.unparsed);
        shared.effects.extend(client.paused.drain(..).map(Effect::WakeUpstream));
        self.drop_lanes_of(id, &lanes);
        for again in client.again.iter() {
            self.forget_departed(again.node);
        }
    }

    /// A reason to wait has gone.
    pub(super) fn resume_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        match client.stall {
            Stall::Output if !client.has_room(self.shared.budget.is_spent()) => return,
            Stall::FewReplies if client.replies.len() >= FEW => return,
            Stall::Retry if !client.again.is_empty() => return,
            Stall::AllLanes if !client.may_ask_all(&self.shared.budget) => return,
            Stall::Keys if !client.goes_on(&self.shared.budget) => return,
            Stall::OwnLane | Stall::None | Stall::Memory { .. } | Stall::Turn => return,
            _ => {}
        }
        self.unstall(id);
    }

    /// A client was woken: it goes on, if it waited until others had their turn. Returns whether it did.
    pub fn client_turn(&mut self, id: ClientId, now: Tick) -> bool {
        let waits = self.clients.get(id.0).is_some_and(|client| client.stall == Stall::Turn);
        if waits {
            self.shared.now = now;
            self.unstall(id);
            self.finish_round();
        }
        waits
    }

    /// Goes on with what a client has sent.
    pub(super) fn unstall(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        client.stall = Stall::None;
        client.stalled_at = None;
        client.last_read_at = self.shared.now;
        self.parse_kept(id);
        self.settle_client(id);
        if self.client_may_read(id) {
            self.shared.effects.push(Effect::WakeClient(id));
        }
    }

    /// Acts on what was kept.
    pub(super) fn parse_kept(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let mut kept = std::mem::take(&mut client.unparsed);
        let used = self.parse(id, Input::borrowed(&kept));
        let Self { clients, shared, .. } = self;
        match clients.get_mut(id.0) {
            Some(client) if used < kept.len() => {
                if kept.capacity() > LONG_LINE && (kept.len() - used) * 4 < kept.capacity() {
                    // A long line has gone: what is behind it needs little.
                    kept = kept.split_off(used);
                } else {
                    kept.drain(..used);
                }
                client.unparsed = kept;
            }
            _ => shared.pool.put(kept),
        }
    }

    /// Acts on whole requests at the beginning of `input`. Returns how many bytes they were.
    fn parse(&mut self, id: ClientId, input: Input<'_>) -> usize {
        let mut at = 0;
        while at < input.bytes.len() {
            let Some(client) = self.clients.get_mut(id.0) else {
                return input.bytes.len();
            };
            if matches!(client.input, client::Input::Quit | client::Input::Refused) {
                return input.bytes.len();
            }
            if client.stall == Stall::None && matches!(client.reading, Reading::Line) {
                // What is answered at once counts as it comes: a read has thousands of requests, each with a longer answer.
                if client.replies.bytes() >= UNCHARGED {
                    client.recharge(&mut self.shared);
                }
                // Who was given room does not wait for it, though it was the last.
                let spent = self.shared.budget.is_spent() && client.reserved + client.promised == 0;
                if !client.again.is_empty() {
                    client.stall = Stall::Retry;
                } else if client.is_behind(spent) {
                    client.stall = Stall::Output;
                    self.shared.cells().waits(Wait::Output);
                }
                if client.stall != Stall::None && client.reserved + client.promised > 0 {
                    client.give_room_back(&mut self.shared);
                }
            }
            if client.stall != Stall::None {
                return at;
            }
            let rest = input.after(at);
            at += match &mut client.reading {
                Reading::Opening => {
                    self.open_dialect(id, rest.bytes);
                    0
                }
                Reading::Line if client.is_binary => match self.parse_packet(id, rest) {
                    Some(used) => used,
                    None => return at,
                },
                Reading::Line => match self.parse_line(id, rest) {
                    Some(used) => used,
                    None => return at,
                },
                Reading::Swallow(left) => {
                    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.bytes.len());
                    *left -= used as u64;
                    if *left == 0 {
                        client.reading = Reading::Line;
                    }
                    used
                }
                Reading::Keys(_) => match self.send_keys(id, rest.bytes) {
                    Some(used) => used,
                    None => return at,
                },
                Reading::Body(_) => self.take_body(id, rest),
                Reading::Stream { .. } => match self.stream(id, rest) {
                    Some(used) => used,
                    None => return at,
                },
                Reading::AwaitLane(_) => return at,
            };
        }
        at
    }

    /// The first bytes of a client: a protocol that is not spoken here is not waited for until the client gives up.
    fn open_dialect(&mut self, id: ClientId, bytes: &[u8]) {
        static TOLD: Once = Once::new();
        let (Some(client), Some(first)) = (self.clients.get_mut(id.0), bytes.first()) else { return };
        client.reading = Reading::Line;
        match Dialect::of(*first) {
            Dialect::Text => {}
            Dialect::Binary => client.is_binary = true,
            Dialect::Tls => {
                client.input = client::Input::Refused;
                // Clients come again at once: the metric counts them.
                let what = "a client speaks TLS, which slipring does not speak to clients: switch it off in the client";
                TOLD.call_once(|| tracing::warn!("{what}; slipring closes such clients"));
            }
        }
    }

    /// Acts on one line and what belongs to it. `None`: not whole, or not now.
    fn parse_line(&mut self, id: ClientId, input: Input<'_>) -> Option<usize> {
        let rest = input.bytes;
        let client = self.clients.get_mut(id.0)?;
        let known = client.scanned.min(rest.len());
        let end = memchr::memchr(b'\n', rest.get(known..)?).map(|end| known + end);
        let len = end.unwrap_or(rest.len());
        if len > MAX_LINE {
            return self.parse_long_line(id, input, end);
        }
        let Some(end) = end else {
            client.scanned = rest.len();
            return None;
        };
        client.scanned = 0;
        let line = request::trim(rest.get(..end)?);
        match self.act(id, line, input.after(end + 1)) {
            Taken::Yes(more) => Some(end + 1 + more),
            Taken::Stalled => None,
        }
    }

    /// The same for a line that is too long for all but a read; `end` is where its LF is.
    fn parse_long_line(&mut self, id: ClientId, input: Input<'_>, end: Option<usize>) -> Option<usize> {
        let rest = input.bytes;
        let len = end.unwrap_or(rest.len());
        if len > MAX_KEY_LINE || !is_key_line(rest) {
            self.refuse(id, Refusal::line_too_long());
            return Some(rest.len());
        }
        if end.is_none() && len > LONG_LINE && self.shared.budget.is_spent() {
            self.refuse(id, Refusal::no_memory());
            return Some(rest.len());
        }
        let client = self.clients.get_mut(id.0)?;
        client.scanned = if end.is_some() { 0 } else { rest.len() };
        let end = end?;
        let line = request::trim(rest.get(..end)?);
        if line.len() <= SHORT_READ {
            return match self.act(id, line, input.after(end + 1)) {
                Taken::Yes(more) => Some(end + 1 + more),
                Taken::Stalled => None,
            };
        }
        match request::parse_key_list(line) {
            Ok((verb, keys)) => {
                if self.ring.is_empty() && self.stalls_on_ring(id) {
                    return None;
                }
                self.begin_keys(id, verb, keys, line.len(), end + 1);
                Some(0)
            }
            Err(refusal) => {
                self.refuse(id, refusal);
                Some(end + 1)
            }
        }
    }
}

/// Keeps what cannot be acted on yet. A long line costs little more than its bytes.
fn keep(unparsed: &mut Vec<u8>, bytes: &[u8]) {
    let len = unparsed.len() + bytes.len();
    if len > unparsed.capacity().max(LONG_LINE) {
        unparsed.reserve_exact(bytes.len().max(unparsed.len() / 4));
    }
    unparsed.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::Cells;
    use crate::proxy::Settings;
    use crate::routing::{Node, Topology};

    #[test]
    fn what_is_answered_here_is_followed_by_one_tick_too() {
        let topology = Topology::new(1, vec![Arc::new(Node::new("a", 1, 1))]).unwrap();
        let mut core = Core::new(Arc::new(topology), Settings::default(), Arc::new(Cells::new(1)), 0);
        let (mut effects, mut now) = (Vec::new(), Tick(1));
        core.take_effects(&mut effects);
        let lane = effects.iter().find_map(|effect| if let Effect::Connect(id, _) = effect { Some(*id) } else { None });
        core.upstream_connected(lane.unwrap(), now);
        core.upstream_written(lane.unwrap(), b"version\r\n".len(), now);
        core.upstream_input(lane.unwrap(), b"VERSION 1.6.15\r\n", now);
        let client = core.client_connected();
        for _ in 0..2 {
            while let Some(due) = core.tick(now) {
                now = due;
            }
            core.take_effects(&mut effects);
            effects.clear();
            core.client_input(client, b"mn\r\nmn\r\n", now);
            core.take_effects(&mut effects);
            let ticks = effects.iter().filter(|effect| matches!(effect, Effect::Tick(_)));
            assert_eq!(ticks.count(), 1, "{effects:?}");
        }
    }
}
