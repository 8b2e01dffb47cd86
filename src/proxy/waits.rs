//! The clocks of clients that are not read, and what the rim finds out about them; the table of all waits is at
//! [`Stall`].
//!
//! A client that is not read cannot say that it has gone. So the rim looks, about once a second, whether the sockets of
//! such clients have been reset or have got their end, without reading them.

use std::time::Duration;

use super::client::{self, Client, Reading, Stall};
use super::upstream::Upstream;
use super::{ClientId, CloseReason, Core, FailReason, UpstreamId};
use crate::metrics::Reason;
use crate::protocol::command::Command;
use crate::protocol::form::Form;
use crate::protocol::request::{Refusal, Request};
use crate::protocol::text::request;
use crate::time::Tick;

/// A client that has sent its end is closed when it takes nothing of its replies for so long. It is known by what its socket
/// takes, and that is in pieces of 64 KiB and more however steadily it reads: within the queue time-out one that reads 200
/// KB/s would seem to take nothing.
const AFTER_END: Duration = Duration::from_secs(5);
/// One that has said `quit` and not sent its end is still there.
const AFTER_QUIT: Duration = Duration::from_secs(60);

const LEFT: &str = "SERVER_ERROR proxy: given up, for its client has sent its end\r\n";
const BEHIND: &str = "SERVER_ERROR proxy: an earlier request for the key was not answered in time\r\n";

/// Why a wait is over.
enum Over {
    /// The client has sent its end.
    Left,
    /// What it waits for does not move.
    Still(String),
    /// The lane of its streamed body, which was answered early, takes nothing.
    Stuck(UpstreamId),
    /// It does not take what is the last that it gets.
    Deaf,
}

impl Core {
    /// Appends the clients that are not read: nobody would notice that they have gone.
    pub fn unread_clients(&self, into: &mut Vec<ClientId>) {
        let unread =
            self.clients.iter().filter(|(_, client)| client.is_waiting() || client.input != client::Input::Open);
        into.extend(unread.map(|(key, _)| ClientId(key)));
    }

    /// A client that is not read has sent its end, which may lie behind what is not read. It cannot be told from one that
    /// has closed: what it waits for ends after the queue time-out.
    pub fn client_hung_up(&mut self, id: ClientId, now: Tick) {
        self.shared.now = now;
        if let Some(client) = self.clients.get_mut(id.0) {
            client.hung_up_at.get_or_insert(now);
            self.shared.ask_for_tick();
        }
    }

    /// Ends the waits whose clocks have run out. Returns whether others wait.
    pub(super) fn check_waits(&mut self) -> bool {
        if self.ring.is_empty() {
            let (now, queue) = (self.shared.now, self.shared.settings.queue_timeout);
            self.end_ring_waits(|client| {
                client.no_ring = client.stalled_at.is_some_and(|at| at.after(queue) <= now);
                client.no_ring
            });
        }
        let mut waits = false;
        let mut over = Vec::new();
        for (key, client) in self.clients.iter() {
            let last = client.takes_nothing_more();
            if !client.is_waiting() && !last {
                continue;
            }
            waits = true;
            if let Some(why) = self.is_over(ClientId(key), client, last) {
                over.push((ClientId(key), why));
            }
        }
        for (id, why) in over {
            match why {
                Over::Left => self.give_up(id),
                Over::Still(text) => self.refuse_next(id, Reason::Queue, &text),
                Over::Stuck(lane) => self.fail_upstream(lane, FailReason::Silent),
                Over::Deaf => self.close_client(id, CloseReason::NotReading),
            }
        }
        waits
    }

    /// Whether a client's wait is over, as far as it is not for memory or for an own lane.
    fn is_over(&self, id: ClientId, client: &Client, last: bool) -> Option<Over> {
        let (now, queue) = (self.shared.now, self.shared.settings.queue_timeout);
        let since = client.stalled_at.unwrap_or(now);
        if last {
            let still_for = if client.hung_up_at.is_some() { AFTER_END.max(queue) } else { AFTER_QUIT };
            let since = client.last_write_at.max(client.hung_up_at.unwrap_or_default());
            return (since.after(still_for) <= now).then_some(Over::Deaf);
        }
        if let Reading::Stream { lane, .. } = client.reading {
            // The clocks of its own lane, but for one that has said its answer already and takes no more.
            let up = self.upstreams.get(lane.0).filter(|up| up.is_connected() && up.fifo.is_empty())?;
            let still = since.max(up.last_write_at).after(self.shared.settings.request_timeout) <= now;
            return still.then_some(Over::Stuck(lane));
        }
        if let Some(hung_up_at) = client.hung_up_at {
            let since = since.max(hung_up_at);
            // What is under way ends by the clocks of its lane, and the client is answered.
            let under_way = client.in_flight > client.orphans || !client.again.is_empty();
            let over = match client.stall {
                Stall::Output
                | Stall::FewReplies
                | Stall::AllLanes
                | Stall::Keys
                | Stall::LaneChange
                | Stall::Moves
                | Stall::Retry
                    if under_way =>
                {
                    false
                }
                Stall::Turn => false,
                // It has sent all and has nothing to do but read. One that has closed is reset by what it is sent.
                Stall::Output | Stall::FewReplies | Stall::AllLanes | Stall::Keys => {
                    let over = since.max(client.last_write_at).after(AFTER_END.max(queue)) <= now;
                    return over.then_some(Over::Deaf);
                }
                // In `own_lanes.rs`.
                Stall::OwnLane => false,
                // Nobody waits longer for it.
                Stall::Ring => false,
                _ => since.after(queue) <= now,
            };
            return over.then_some(Over::Left);
        }
        let moved_at = |up: &Upstream| up.last_write_at.max(up.progress_at);
        match client.stall {
            Stall::Lane if self.next_is_awaited(client) => {
                let lanes = self.upstreams.iter().map(|(_, up)| up).filter(|up| up.waiters.contains(&id));
                let lane = lanes.max_by_key(|up| moved_at(up))?;
                let still = since.max(moved_at(lane)).after(queue) <= now;
                let name = || self.node_name(lane.node);
                still.then(|| Over::Still(format!("SERVER_ERROR proxy: node {} takes no requests\r\n", name())))
            }
            Stall::LaneChange if self.next_is_awaited(client) => {
                let lanes = client.elsewhere.iter().filter_map(|other| self.upstreams.get(other.lane.0));
                let moved_at = lanes.map(moved_at).max().unwrap_or_default();
                let patience = self.shared.settings.request_timeout + queue;
                let still = since.max(moved_at).after(patience) <= now;
                still.then(|| Over::Still(BEHIND.to_owned()))
            }
            _ => None,
        }
    }

    /// Whether somebody waits for the answer to a client's next request.
    pub(super) fn next_is_awaited(&self, client: &Client) -> bool {
        match &client.reading {
            Reading::Body(body) => return !body.target.quiet,
            Reading::Keys(_) => return true,
            _ => {}
        }
        if client.is_binary {
            // An error is told whatever is quiet.
            return true;
        }
        let line = memchr::memchr(b'\n', &client.unparsed).and_then(|end| client.unparsed.get(..end));
        match line.map(|line| request::parse(request::trim(line), self.shared.settings.max_value)) {
            Some(Ok(Request::Store(store))) => !store.quiet,
            Some(Ok(
                Request::Change { quiet, .. } | Request::FlushAll { quiet, .. } | Request::Verbosity { quiet },
            )) => !quiet,
            Some(Err(refusal)) => !refusal.quiet,
            line => line.is_some(),
        }
    }

    /// A client that has sent its end has waited long enough: its next request is not carried out, nor what lies behind
    /// it.
    fn give_up(&mut self, id: ClientId) {
        self.refuse_next(id, Reason::Queue, LEFT);
        self.read_no_more(id);
    }

    /// Nothing further of a client is looked at: it is closed when it has what it is owed.
    pub(super) fn read_no_more(&mut self, id: ClientId) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        client.input = client::Input::Quit;
        client.reading = Reading::Line;
        shared.pool.put(std::mem::take(&mut client.unparsed));
        client.settle(id, shared);
    }

    /// A client's next request, or the body it has sent, does not get what it waits for: it is answered here, and the
    /// client goes on behind it.
    pub(super) fn refuse_next(&mut self, id: ClientId, reason: Reason, text: &str) {
        let Self { clients, shared, upstreams, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        match client.stall {
            Stall::Lane => upstreams.values_mut().for_each(|up| up.waiters.retain(|other| *other != id)),
            Stall::Memory { .. } => shared.budget.waiting.retain(|other| *other != id),
            _ => {}
        }
        client.stall = Stall::Granted;
        shared.resume.push_back(id);
        match client.reading {
            Reading::Opening | Reading::Line => {}
            Reading::Body(_) => {
                self.refuse_body(id, reason, text);
                return self.settle_client(id);
            }
            Reading::Keys(_) => {
                let len = self.give_up_keys(id, reason, text);
                if let Some(client) = self.clients.get_mut(id.0) {
                    client.unparsed.drain(..len.min(client.unparsed.len()));
                }
                return self.settle_client(id);
            }
            // What it waits with has its answer already.
            Reading::Swallow(_) | Reading::AwaitLane(_) | Reading::Stream { .. } => return,
        }
        let mut kept = std::mem::take(&mut client.unparsed);
        if client.is_binary {
            let used = self.refuse_next_packet(id, &kept, reason, text);
            kept.drain(..used);
        } else if let Some(end) = memchr::memchr(b'\n', &kept) {
            client.scanned = 0;
            self.answer_unasked(id, request::trim(kept.get(..end).unwrap_or_default()), reason, text);
            kept.drain(..=end);
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            client.unparsed = kept;
        }
        self.settle_client(id);
    }

    /// Answers a request that is not carried out.
    fn answer_unasked(&mut self, id: ClientId, line: &[u8], reason: Reason, text: &str) {
        let misses = self.shared.misses();
        let max_value = self.shared.settings.max_value;
        match request::parse(line, max_value) {
            Ok(Request::Read { verb, keys }) => {
                let Self { clients, shared, .. } = self;
                let Some(client) = clients.get_mut(id.0) else { return };
                shared.cells().command(verb.into());
                shared.cells().soft(verb.into(), reason, keys.into_iter().count() as u64, misses);
                let stamp = client::replies::Stamp { kind: crate::metrics::Kind::Get, arrived_at: shared.now };
                let seq = client.replies.push_read(stamp, Form::Text);
                if !misses {
                    client.replies.fail(seq, text.as_bytes(), &mut shared.pool);
                }
                client.replies.close_read(seq, &mut shared.pool);
            }
            Ok(Request::Store(store)) => {
                self.shared.cells().command(store.verb.into());
                self.shared.cells().soft(store.verb.into(), reason, 1, false);
                self.answer(id, Command::from(store.verb).into(), text.as_bytes(), store.quiet);
                if let Some(client) = self.clients.get_mut(id.0) {
                    client.reading = Reading::Swallow(store.len as u64 + 2);
                }
            }
            Ok(Request::Change { change, quiet, .. }) => {
                let command = Command::from(change);
                let miss = misses && command == Command::Touch;
                self.shared.cells().command(command);
                self.shared.cells().soft(command, reason, 1, miss);
                self.answer(id, command.into(), if miss { b"NOT_FOUND\r\n" } else { text.as_bytes() }, quiet);
            }
            Ok(Request::Meta(meta)) => self.meta_unasked(id, &meta, reason, text, true),
            Ok(Request::FlushAll { quiet, .. }) => {
                self.shared.cells().command(Command::FlushAll);
                self.shared.cells().soft(Command::FlushAll, reason, 1, false);
                self.answer(id, Command::FlushAll.into(), text.as_bytes(), quiet);
            }
            // It only waited for what it would have made of an old value.
            Err(refusal) => self.refuse(id, Refusal { stale: None, ..refusal }),
            // These need nobody else: they only waited behind what did.
            Ok(Request::Verbosity { quiet: true } | Request::Quit) => {}
            Ok(Request::Verbosity { .. } | Request::Version | Request::Discovery | Request::MetaNoop) => {
                self.shared.cells().command(Command::Other);
                self.shared.cells().soft(Command::Other, reason, 1, false);
                self.answer(id, Command::Other.into(), text.as_bytes(), false);
            }
            Ok(Request::Stats(_)) => {
                self.shared.cells().command(Command::Stats);
                self.shared.cells().soft(Command::Stats, reason, 1, false);
                self.answer(id, Command::Stats.into(), text.as_bytes(), false);
            }
        }
    }
}
