//! HOT: a node's bytes → replies → the entry at the head of the lane's FIFO → the clients.

use std::time::Duration;

use bytes::Bytes;

use super::failure::FailReason;
use super::lane::{Body, Entry, Kind, outcome};
use super::nodes::Version;
use super::{ClientId, Core, Tick, UpstreamId, bulk};
use crate::metrics::{NodeOutcome, NodeState, Outcome, Reason};
use crate::protocol::command::Command;
use crate::protocol::reply::{self, Line, MAX_REPLY_LINE};

/// A piece of a value of at least this many bytes is shared, not copied, where several clients
/// asked for it.
const SHARE: usize = 4 << 10;
/// After an error line in a merged group the node gets no merged group for this long, so that a
/// lasting error shows itself as what it is.
const NO_MERGE: Duration = Duration::from_secs(1);

/// What a reader is told when there is no room for a value, where errors are asked for.
const NO_MEMORY: &[u8] = b"SERVER_ERROR proxy: out of memory for the value\r\n";

/// The connection is out of step (invariant C).
#[derive(Debug)]
pub(super) struct Desync;

impl Core {
    /// Takes what a node sent.
    pub fn upstream_input(&mut self, id: UpstreamId, bytes: &[u8], now: Tick) {
        self.shared.now = now;
        let before = self.upstreams.get(id.0).map_or(0, |up| up.fifo.len());
        if self.read_replies(id, bytes).is_err() {
            self.fail_upstream(id, FailReason::Desync);
        } else {
            if let Some(up) = self.upstreams.get_mut(id.0) {
                let replies = before.saturating_sub(up.fifo.len());
                up.note_progress(bytes.len(), replies, now);
                up.cells.received_bytes.add(bytes.len() as u64);
                if let (true, Some(entry)) = (replies > 0, self.nodes.get_mut(up.node.0)) {
                    entry.health.answered();
                }
            }
            self.relieve(id);
            self.release_lane(id);
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
                if !up.may_speak() {
                    // Kept, it would become the beginning of an answer.
                    return Err(Desync);
                }
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
        let line = raw.strip_suffix(b"\r\n").filter(|line| line.len() < MAX_REPLY_LINE).ok_or(Desync)?;
        let line = reply::parse(line).ok_or(Desync)?;
        let up = self.upstreams.get_mut(id.0).ok_or(Desync)?;
        if !up.may_speak() {
            return Err(Desync);
        }
        match up.fifo.front_mut().ok_or(Desync)? {
            Entry::Group(group) => match line {
                Line::Value { key, len } => {
                    let key = group.find(key).ok_or(Desync)?;
                    group.bytes += len;
                    up.cells.hits.add(1);
                    up.body = Some(Body { key, left: len + 2, copies: 0 });
                    if len > self.shared.settings.bulk_above as u64 {
                        let turns = matches!(up.kind, Kind::Shared | Kind::Draining);
                        self.decide_misses(id, key);
                        if turns {
                            self.turn_lane(id, key);
                        }
                    }
                    self.admit_value(id, len);
                    self.deliver_header(id, raw);
                    Ok(())
                }
                Line::End => self.finish_group(id, None),
                Line::Error => self.finish_group(id, Some(raw)),
                _ => Err(Desync),
            },
            &mut Entry::Single { client, seq, command, expired, .. } => {
                if !command.allows(&line) {
                    return Err(Desync);
                }
                let (entry, times, start) = up.fifo.pop().ok_or(Desync)?;
                if !expired {
                    let error = matches!(line, Line::Error);
                    let took =
                        up.answered(times, if error { NodeOutcome::Error } else { NodeOutcome::Ok }, self.shared.now);
                    up.cells.others.add(1);
                    self.shared.cells().request(command, outcome(&line, raw), 1);
                    if self.is_slow(command, took) {
                        self.tell_slow(id, &entry, took, start);
                    }
                }
                self.finish_single(client, seq, raw, expired);
                Ok(())
            }
            Entry::Gather { .. } => self.gather_line(id, &line, raw),
            Entry::Version => match line {
                Line::Version(text) => {
                    up.fifo.pop();
                    self.version_answered(id, text);
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

    /// A connection is validated.
    fn version_answered(&mut self, id: UpstreamId, text: &[u8]) {
        let now = self.shared.now;
        let Some(up) = self.upstreams.get_mut(id.0) else { return };
        let node = up.node;
        // A probe is a shared lane: that of a large value was asked for before the outage.
        let tells = up.kind == Kind::Shared && !up.moved;
        let Some(entry) = self.nodes.get_mut(node.0).filter(|entry| tells && !entry.departed) else {
            up.ready = true;
            return;
        };
        entry.version = Version::read(text);
        if matches!(entry.state, NodeState::Down | NodeState::Probing) {
            up.cells.probes[0].add(1);
        }
        if entry.state == NodeState::Down {
            // Once is not enough: a node that crashes again and again answers once each time.
            entry.health.probed(now);
            return self.set_node_state(node, NodeState::Probing);
        }
        up.ready = true;
        let back = entry.state == NodeState::Probing;
        entry.health.succeeded(now);
        self.set_node_state(node, NodeState::Up);
        if back {
            self.fill_lanes(node);
        }
    }

    /// A value of `len` bytes begins: those for whom there is no room get a miss, or an error where
    /// errors are asked for.
    fn admit_value(&mut self, id: UpstreamId, len: u64) {
        // A lane that waits for its only reader never brings more than a little.
        let waits = self.sole_reader(id).is_some();
        let Self { upstreams, clients, shared, .. } = self;
        let Some(up) = upstreams.get_mut(id.0) else { return };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let (Some(Entry::Group(group)), Some(body)) = (up.fifo.front_mut(), up.body.as_mut()) else { return };
        let mut askers = std::mem::take(&mut shared.askers);
        askers.extend(group.askers(body.key));
        let mut heads = 0;
        for index in askers.drain(..) {
            let Some(member) = group.members.get_mut(index).filter(|member| !member.done) else { continue };
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            // Those that get it at once share one copy.
            let copies = if client.replies.is_head(member.seq) && heads > 0 { 0 } else { 1 };
            let room = if waits { len.min(bulk::STREAM_BYTES) } else { len };
            if shared.budget.admits(room * copies, client.held) {
                heads += usize::from(client.replies.is_head(member.seq));
                if !waits {
                    body.copies += copies;
                    shared.budget.arriving += (len + 2) * copies;
                }
                continue;
            }
            shared.cells().soft(Command::from(group.verb), Reason::Memory, 1, shared.misses());
            member.left = member.left.saturating_sub(1);
            if !shared.misses() {
                member.done = true;
                client.replies.fail_part(member.seq, NO_MEMORY, &mut shared.pool);
                client.settle(member.client, shared);
            }
            group.deny(body.key, index);
        }
        shared.askers = askers;
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
        for member in group.askers(key).filter_map(|i| group.members.get(i)).filter(|member| !member.done) {
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            shared.cells().request(Command::from(group.verb), Outcome::Hit, 1);
            client.saw_value(len);
            client.replies.deliver(member.seq, raw, &mut shared.pool);
            client.recharge(shared);
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
        shared.budget.arriving -= used * body.copies;
        let ended = body.left == 0;
        let key = body.key;
        let readers = group.askers(key).filter(|asker| *asker < group.members.len()).count();
        let shared_piece = (used >= SHARE && readers > 1).then(|| Bytes::copy_from_slice(piece));
        let cost = used / readers.max(1);
        // A group of one passes its node's last word on, whatever it is; others need not wait.
        let early = group.members.len() > 1;
        let mut askers = std::mem::take(&mut shared.askers);
        askers.extend(group.askers(key));
        for index in askers.drain(..) {
            // Of one that was answered meanwhile the rest is eaten.
            let Some(member) = group.members.get_mut(index).filter(|member| !member.done) else {
                continue;
            };
            if ended {
                member.left = member.left.saturating_sub(1);
            }
            let complete = early && member.left == 0;
            member.done |= complete;
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            match &shared_piece {
                Some(bytes) => client.replies.deliver_shared(member.seq, bytes.clone(), cost, &mut shared.pool),
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
        let Some((Entry::Group(mut group), times, _)) = up.fifo.pop() else {
            return Err(Desync);
        };
        let command = Command::from(group.verb);
        let failed = error.map(|raw| outcome(&Line::Error, raw));
        let mut took = None;
        if !group.expired {
            up.cells.misses.add(if failed.is_none() { group.open() } else { 0 });
            let outcome = if failed.is_some() { NodeOutcome::Error } else { NodeOutcome::Ok };
            took = Some(up.answered(times, outcome, shared.now));
        }
        let one = group.members.len() == 1;
        for member in &mut group.members {
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            client.landed(group.expired);
            if !member.done {
                match error {
                    // Nobody else is concerned: the node's word reaches the client.
                    Some(text) if one && client.replies.is_alone(member.seq) => {
                        let failed = failed.unwrap_or(Outcome::ServerError);
                        shared.cells().request(command, failed, u64::from(member.left));
                        client.replies.fail_part(member.seq, text, &mut shared.pool);
                    }
                    Some(_) => {
                        shared.cells().soft(command, Reason::NodeError, u64::from(member.left), true);
                        client.replies.finish(member.seq, &mut shared.pool);
                    }
                    None => {
                        shared.cells().request(command, Outcome::Miss, u64::from(member.left));
                        if member.left > 0 {
                            client.saw_value(0);
                        }
                        client.replies.finish(member.seq, &mut shared.pool);
                    }
                }
            }
            client.settle(member.client, shared);
        }
        if error.is_some()
            && !one
            && let Some(node) = nodes.get_mut(up.node.0)
        {
            node.no_merge_until = shared.now.after(NO_MERGE);
        }
        if let Some(took) = took
            && self.is_slow(command, took)
        {
            self.tell_slow_group(id, &group, took);
        }
        self.shared.put_group(group);
        Ok(())
    }

    /// The one line that answers a request. `raw` has its CRLF.
    pub(super) fn finish_single(&mut self, id: ClientId, seq: Option<u32>, raw: &[u8], expired: bool) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else {
            shared.cells().dropped_replies.add(1);
            return;
        };
        client.landed(expired);
        match seq {
            Some(seq) => {
                client.replies.deliver(seq, raw, &mut shared.pool);
                client.replies.finish(seq, &mut shared.pool);
            }
            None => shared.cells().dropped_replies.add(1),
        }
        client.settle(id, shared);
    }
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
