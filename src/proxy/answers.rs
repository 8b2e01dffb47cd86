//! HOT: a node's bytes → replies → the entry at the head of the lane's FIFO → the clients (`values.rs`: the values of
//! reads).
//!
//! Longer than 500 lines: each kind of entry has its answer here, in one match.

use std::borrow::Cow;
use std::time::Duration;

use super::buffer::{Input, ReadBuffer};
use super::fail_reason::FailReason;
use super::handoff::Said;
use super::ids::{NodeId, Part, Stage};
use super::second_places::{Onward, Reader};
use super::upstream::fifo::Times;
use super::upstream::group::Group;
use super::upstream::node::Version;
use super::upstream::{Entry, Role, Step};
use super::values::{Desync, from_old, miss_open_keys};
use super::{ClientId, Core, UpstreamId};
use crate::metrics::{NodeOutcome, NodeState, Outcome, Reason};
use crate::protocol::command::Command;
use crate::protocol::reply::Line;
use crate::protocol::request::{ReadVerb, TOO_LARGE};
use crate::protocol::text::reply::{self, MAX_REPLY_LINE};
use crate::time::Tick;

/// After an error line in a merged group the node gets no merged group for this long, so that a
/// lasting error shows itself as what it is.
const NO_MERGE: Duration = Duration::from_secs(1);

/// The longest number of a counter: 64 bits.
const MAX_DIGITS: u64 = 20;

/// The miss of the meta commands, with nothing told besides.
const EN: &[u8] = b"EN\r\n";

impl Command {
    /// Whether a reply line has the shape of this command's answers, which are one line; `meta`: the node was asked by a
    /// meta command.
    pub(super) const fn allows(self, line: &Line<'_>, meta: bool) -> bool {
        if meta {
            return match line {
                Line::Ns => !matches!(self, Self::MetaDelete | Self::Delete),
                _ => matches!(line, Line::Error | Line::Hd | Line::Ex | Line::Nf),
            };
        }
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
        Line::NotStored | Line::Ns => Outcome::NotStored,
        Line::Exists | Line::Ex => Outcome::Exists,
        Line::NotFound | Line::Nf => Outcome::NotFound,
        Line::En => Outcome::Miss,
        Line::Error if raw.starts_with(b"SERVER_ERROR") => Outcome::ServerError,
        Line::Error => Outcome::ClientError,
        _ => Outcome::Ok,
    }
}

impl Core {
    /// Takes what a node sent.
    pub fn upstream_input(&mut self, id: UpstreamId, bytes: &[u8], now: Tick) {
        self.take_upstream_input(id, Input::borrowed(bytes), now);
    }

    /// Takes the first `len` bytes of a buffer, which a node sent; the core may keep a part of it where it is.
    /// A value that goes on may be held back until [`Core::upstream_drained`] is called.
    pub fn upstream_read(&mut self, id: UpstreamId, buffer: &mut ReadBuffer, len: usize, now: Tick) {
        self.shared.may_hold_back = true;
        self.take_upstream_input(id, buffer.input(len), now);
        self.shared.pool.renew(buffer);
    }

    fn take_upstream_input(&mut self, id: UpstreamId, input: Input<'_>, now: Tick) {
        self.shared.now = now;
        let before = self.upstreams.get(id.0).map_or(0, |up| up.fifo.len());
        if self.read_replies(id, input).is_err() {
            self.fail_upstream(id, FailReason::Desync);
        } else {
            let replies = before.saturating_sub(self.upstreams.get(id.0).map_or(0, |up| up.fifo.len()));
            self.note_received(id, input.bytes.len(), replies);
            self.relieve(id);
            self.release_lane(id);
        }
        self.shared.may_hold_back = false;
        self.finish_round();
    }

    /// A node has sent so many bytes, and by them given so many replies.
    pub(super) fn note_received(&mut self, id: UpstreamId, bytes: usize, replies: usize) {
        let now = self.shared.now;
        let Some(up) = self.upstreams.get_mut(id.0) else { return };
        let progress = up.note_progress(bytes, replies, now) && !up.moved;
        up.cells.received_bytes.add(bytes as u64);
        let node = up.node;
        if let (true, Some(entry)) = (progress, self.nodes.get_mut(node.0))
            && entry.health.answered(now)
        {
            self.close_probe(node);
        }
    }

    /// Whether something is held back for what nodes may have to say.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        !self.shared.held_back.is_empty()
    }

    /// There is nothing to read from a node now: what was held back for that is written.
    pub fn upstream_drained(&mut self) {
        if !self.shared.held_back.is_empty() {
            self.write_held_back();
            self.finish_round();
        }
    }

    fn write_held_back(&mut self) {
        while let Some(id) = self.shared.held_back.pop() {
            self.settle_client(id);
        }
    }

    fn read_replies(&mut self, id: UpstreamId, input: Input<'_>) -> Result<(), Desync> {
        if self.upstreams.get(id.0).is_some_and(|up| up.is_binary) {
            return self.read_packets(id, input);
        }
        let mut at = 0;
        while at < input.bytes.len() {
            let rest = input.after(at);
            let Some(up) = self.upstreams.get_mut(id.0) else {
                return Ok(());
            };
            if up.body.is_some() {
                at += self.value_piece(id, rest)?;
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest.bytes) else {
                if !up.may_speak() {
                    // Kept, it would become the beginning of an answer.
                    return Err(Desync);
                }
                if up.partial.capacity() == 0 {
                    up.partial = self.shared.pool.take();
                }
                up.partial.extend_from_slice(rest.bytes);
                return if up.partial.len() > MAX_REPLY_LINE { Err(Desync) } else { Ok(()) };
            };
            let raw = rest.bytes.get(..=end).ok_or(Desync)?;
            let behind = rest.after(end + 1);
            at += end + 1;
            if up.partial.is_empty() {
                at += self.reply_line(id, raw, behind)?;
            } else {
                let mut kept = std::mem::take(&mut up.partial);
                kept.extend_from_slice(raw);
                let line_len = memchr::memchr(b'\n', &kept).map_or(kept.len(), |end| end + 1);
                let (line, number) = kept.split_at(line_len);
                if number.is_empty() {
                    at += self.reply_line(id, line, behind)?;
                } else if self.reply_line(id, line, Input::borrowed(number))? != number.len() {
                    return Err(Desync);
                }
                self.shared.pool.put(kept);
            }
        }
        Ok(())
    }

    /// One line, with its CRLF, for the entry at the head. Returns how much of what is `behind` it belonged to it: a
    /// whole value, or the beginning of a number, which is kept with its line until it is whole.
    pub(super) fn reply_line(&mut self, id: UpstreamId, raw: &[u8], behind: Input<'_>) -> Result<usize, Desync> {
        let line = raw.strip_suffix(b"\r\n").filter(|line| line.len() < MAX_REPLY_LINE);
        let Some(line) = line.and_then(reply::parse) else {
            self.keep_answer(id, raw);
            return Err(Desync);
        };
        let up = self.upstreams.get_mut(id.0).ok_or(Desync)?;
        if !up.may_speak() {
            return Err(Desync);
        }
        match up.fifo.front_mut().ok_or(Desync)? {
            Entry::Group(group) if group.verb.is_meta() => match line {
                _ if !group.may_be_answered(&line, raw) => Err(Desync),
                // Clients of another dialect are told it in other bytes, and quiet ones not at all.
                Line::Va { len }
                    if group.verb.counts() && len <= MAX_DIGITS && behind.bytes.len() as u64 <= len + 1 =>
                {
                    up.partial = self.shared.pool.take();
                    up.partial.extend_from_slice(raw);
                    up.partial.extend_from_slice(behind.bytes);
                    Ok(behind.bytes.len())
                }
                Line::Va { len } => {
                    group.answer();
                    group.bytes += len;
                    up.cells.hits.add(1);
                    let taken = self.value(id, 0, raw, len, behind)?;
                    if taken > 0 {
                        self.finish_group(id, None)?;
                    }
                    Ok(taken)
                }
                Line::Error => self.finish_group(id, Some(raw)).map(|()| 0),
                _ => self.meta_line(id, &line, raw),
            },
            Entry::Group(group) => match line {
                Line::Value { key, len } => {
                    let found = group.find(key).ok_or(Desync)?;
                    group.bytes += len;
                    up.cells.hits.add(1);
                    if found.late {
                        group.forget_askers(found.key);
                    }
                    if found.from != found.key || found.backwards {
                        self.pass_over(id, found);
                    }
                    self.value(id, found.key, raw, len, behind)
                }
                Line::End => self.finish_group(id, None).map(|()| 0),
                Line::Error => self.finish_group(id, Some(raw)).map(|()| 0),
                _ => Err(Desync),
            },
            &mut Entry::Single { client, seq, command, expired, meta, .. } => {
                if !command.allows(&line, meta) {
                    return Err(Desync);
                }
                let (entry, times, start) = up.fifo.pop().ok_or(Desync)?;
                if !expired {
                    self.shared.cells().request(command, outcome(&line, raw), 1);
                    self.count_line(id, (&entry, times, start), command, &line, raw);
                }
                self.finish_single(id, client, seq, raw, expired);
                Ok(0)
            }
            Entry::Step(step) => {
                let &mut Step { client, seq, handoff, part, command, expired, meta, .. } = &mut **step;
                let fits = match part {
                    Part::LookUp => matches!(line, Line::Hd | Line::En | Line::Error),
                    _ => command.allows(&line, meta),
                };
                if !fits {
                    return Err(Desync);
                }
                let (entry, times, start) = up.fifo.pop().ok_or(Desync)?;
                if !expired {
                    self.count_line(id, (&entry, times, start), command, &line, raw);
                    self.step_over(handoff, part, Said::of(&line, raw));
                }
                self.landed(id, client, seq, expired);
                Ok(0)
            }
            Entry::Gather { .. } => self.gather_line(id, &line, raw).map(|()| 0),
            Entry::Version => match line {
                Line::Version(text) => {
                    up.fifo.pop();
                    self.version_answered(id, text);
                    Ok(0)
                }
                // `ERROR Too many open connections`: refused, not out of step.
                Line::Error => {
                    self.keep_answer(id, raw);
                    self.fail_upstream(id, FailReason::Connect);
                    Ok(0)
                }
                _ => {
                    self.keep_answer(id, raw);
                    Err(Desync)
                }
            },
        }
    }

    /// The line that answers a meta command that might have been answered by a value.
    fn meta_line(&mut self, id: UpstreamId, line: &Line<'_>, raw: &[u8]) -> Result<usize, Desync> {
        let Self { upstreams, clients, shared, .. } = self;
        let up = upstreams.get_mut(id.0).ok_or(Desync)?;
        let own = up.is_own();
        let Some(Entry::Group(group)) = up.fifo.front_mut() else { return Err(Desync) };
        let missed = matches!(line, Line::En);
        let (verb, hash) = (group.verb, group.hash(0));
        let node = up.node;
        let (mut denied, mut onward) = (Vec::new(), None);
        // memcached before 1.6.16 leaves out what was asked to be told with a miss.
        if raw != EN && !group.expired {
            if !missed {
                group.answer();
                up.cells.others.add(1);
            }
            let command = Command::from(verb);
            let (members, askers, _) = group.split(0);
            for asker in askers {
                let Some(member) = members.get_mut(asker.member).filter(|member| !member.done) else { continue };
                let Some(client) = clients.get_mut(member.client.0) else { continue };
                if missed && matches!(member.stage, Stage::New | Stage::Old) {
                    // It is asked for elsewhere, or missed, where the group ends.
                    continue;
                }
                if verb.counts() && matches!(line, Line::Nf) && matches!(member.stage, Stage::New | Stage::Old) {
                    // It is asked for elsewhere, below.
                    onward = Some((asker.member, member.reader(asker.place)));
                    continue;
                }
                // It must not be older than the answer that an earlier place is still to get.
                let is_denied = !own && client.asks_again(|| hash);
                if !missed {
                    member.left = member.left.saturating_sub(1);
                    if is_denied {
                        denied.push(member.reader(asker.place));
                    } else {
                        shared.cells().request(command, outcome(line, raw), 1);
                    }
                }
                if is_denied {
                    // Of a miss `finish_group` takes care, as of every key without a value.
                    continue;
                }
                let marked = if member.stage == Stage::Old && !missed {
                    from_old(raw, verb, shared).unwrap_or(Cow::Borrowed(EN))
                } else {
                    Cow::Borrowed(raw)
                };
                client.replies.value(member.seq, asker.place, &marked, b"", &mut shared.pool);
            }
        }
        if let Some((index, reader)) = onward {
            let text = group.text(0).to_vec();
            self.count_onward(id, node, (verb, &text, hash), (index, reader), (line, raw));
        } else if !denied.is_empty() {
            let text = group.text(0).to_vec();
            self.pass_by(id, verb, (&text, hash), &denied, &[]);
        }
        self.finish_group(id, None).map(|()| 0)
    }

    /// A connection is validated.
    fn version_answered(&mut self, id: UpstreamId, text: &[u8]) {
        let now = self.shared.now;
        let Some(up) = self.upstreams.get_mut(id.0) else { return };
        let node = up.node;
        // A probe is a shared lane: that of a large value was asked for before the outage.
        let tells = up.role == Role::Shared && !up.is_draining();
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        let version = Version::read(text);
        up.has_meta = version.as_ref().is_some_and(Version::has_meta);
        if !up.moved && entry.version != version {
            entry.version = version;
            self.leave_binary(node);
        }
        let Self { nodes, upstreams, .. } = self;
        let (Some(up), Some(entry)) = (upstreams.get_mut(id.0), nodes.get_mut(node.0)) else { return };
        if up.role == Role::Probe {
            // It still answers: that is all there was to ask.
            up.cells.probes[0].add(1);
            entry.health.answered(now);
            return self.close_probe(node);
        }
        if !tells || entry.departed {
            // A node that comes back while this lane drains is known by it.
            up.greeted();
            // A large value may have waited for this one's version, in either direction.
            self.release_waiters(id);
            return self.grant(node);
        }
        if matches!(entry.state, NodeState::Down | NodeState::Probing) {
            up.cells.probes[0].add(1);
        }
        if entry.state == NodeState::Down {
            // Once is not enough: a node that crashes again and again answers once each time.
            entry.health.probed(now);
            return self.set_node_state(node, NodeState::Probing);
        }
        up.greeted();
        // It may be another memcached.
        entry.binary.refused_until = None;
        let back = entry.state == NodeState::Probing;
        entry.health.succeeded(now);
        self.close_probe(node);
        if back {
            self.fill_lanes(node);
        }
        self.show_serving(node);
        self.reroute(node);
        // A large value may have waited for its version.
        self.grant(node);
        self.renewed(id, node);
    }

    /// A request has its answer, a line: counts it for the lane, and tells of it if it was slow. `start` is where its first byte
    /// was in what the lane has sent.
    #[inline]
    fn count_line(
        &mut self,
        id: UpstreamId,
        (entry, times, start): (&Entry, Times, u64),
        command: Command,
        line: &Line<'_>,
        raw: &[u8],
    ) {
        let Some(up) = self.upstreams.get_mut(id.0) else { return };
        let error = matches!(line, Line::Error);
        let took = up.answered(times, if error { NodeOutcome::Error } else { NodeOutcome::Ok }, self.shared.now);
        up.cells.others.add(1);
        if error && raw.starts_with(TOO_LARGE.as_bytes()) {
            self.shared.cells().stores_too_large.add(1);
        }
        if self.is_slow(command, took) {
            self.tell_slow(id, entry, took, start);
        }
    }

    /// The read at the head is over: `END`, or an error line.
    pub(super) fn finish_group(&mut self, id: UpstreamId, error: Option<&[u8]>) -> Result<(), Desync> {
        let Self { upstreams, clients, shared, .. } = self;
        let up = upstreams.get_mut(id.0).ok_or(Desync)?;
        let Some((Entry::Group(mut group), times, _)) = up.fifo.pop() else {
            return Err(Desync);
        };
        let command = Command::from(group.verb);
        let failed = error.map(|raw| outcome(&Line::Error, raw));
        let mut took = None;
        if !group.expired {
            let missed = group.missed();
            up.cells.misses.add(if failed.is_none() { missed } else { 0 });
            let outcome = if failed.is_some() { NodeOutcome::Error } else { NodeOutcome::Ok };
            took = Some(up.answered(times, outcome, shared.now));
            let own = up.is_own();
            if missed > 0 && up.role != Role::Shared && failed.is_none() {
                // What is gone is not large.
                group.for_each_open(|hash| shared.large_keys.forget(hash));
            }
            let node = up.node;
            let known = failed.is_none();
            let denied = if missed > 0 { miss_open_keys(&mut group, clients, shared, own, known) } else { Vec::new() };
            for (key, reader) in denied {
                let text = group.text(key).to_vec();
                self.pass_by(id, group.verb, (&text, group.hash(key)), &[reader], &[]);
            }
            if !self.shared.missed.is_empty() {
                for (key, index, place) in std::mem::take(&mut self.shared.missed) {
                    self.miss_onward(node, &mut group, key, index, place);
                }
            }
            if let Some(step) = group.step {
                let said = match error {
                    Some(raw) => Said::Error(raw.to_vec().into()),
                    None if group.is_touched() => Said::There(Cow::default()),
                    None => Said::Missing(Cow::default()),
                };
                self.step_over(step, Part::LookUp, said);
            }
        }
        let Self { upstreams, clients, shared, nodes, .. } = self;
        let up = upstreams.get_mut(id.0).ok_or(Desync)?;
        let one = group.members.len() == 1;
        let steps = group.verb.takes_steps().then(|| group.hash(0));
        for member in &mut group.members {
            let Some(client) = clients.get_mut(member.client.0) else {
                continue;
            };
            client.landed(member.client, id, Some(member.seq), group.expired, shared);
            if member.stage != Stage::Plain {
                let steps = steps.filter(|_| !member.goes_on);
                client.part_over(member.client, member.seq, &mut member.stage, steps, shared);
            }
            if !member.done {
                let left = u64::from(member.left);
                match error {
                    // Nobody else is concerned: the node's word reaches the client.
                    Some(text) if one && client.replies.is_alone(member.seq) => {
                        shared.cells().request(command, failed.unwrap_or(Outcome::ServerError), left);
                        client.replies.fail(member.seq, text, &mut shared.pool);
                    }
                    Some(_) => shared.cells().soft(command, Reason::NodeError, left, true),
                    None => {
                        shared.cells().request(command, Outcome::Miss, left);
                        if left > 0 {
                            client.saw_value(0);
                        }
                    }
                }
                client.replies.part_done(member.seq, &mut shared.pool);
            }
            client.settle(member.client, shared);
        }
        if error.is_some()
            && !one
            && let Some(node) = nodes.get_mut(up.node.0)
        {
            node.merges_again_at = shared.now.after(NO_MERGE);
        }
        let slow = took.filter(|took| self.is_slow(command, *took));
        if let Some(took) = slow {
            self.tell_slow_group(id, &group, took);
        }
        self.groups.put(group);
        Ok(())
    }

    /// A number was to be made of what is not there, and has another place.
    fn count_onward(
        &mut self,
        id: UpstreamId,
        node: NodeId,
        (verb, text, hash): (ReadVerb, &[u8], u64),
        (index, reader): (usize, Reader),
        (line, raw): (&Line<'_>, &[u8]),
    ) {
        let told = self.ask_on(node, verb, text, hash, reader);
        let Self { upstreams, clients, shared, .. } = self;
        let group = upstreams.get_mut(id.0).and_then(|up| up.fifo.front_mut());
        if let Some(Entry::Group(group)) = group
            && let Some(member) = group.members.get_mut(index)
        {
            member.left = member.left.saturating_sub(1);
            member.goes_on = told == Onward::Asked;
        }
        let Some(client) = clients.get_mut(reader.client.0) else { return };
        match told {
            Onward::Asked => {}
            Onward::Nowhere => {
                shared.cells().request(Command::from(verb), outcome(line, raw), 1);
                client.replies.value(reader.seq, reader.place, raw, b"", &mut shared.pool);
            }
            Onward::Failed => client.replies.miss(reader.seq, reader.place, &mut shared.pool),
        }
    }

    /// A key of a read has no value where it was asked for, and has another place.
    fn miss_onward(&mut self, node: NodeId, group: &mut Group, key: usize, index: usize, place: u32) {
        let Some(member) = group.members.get(index) else { return };
        let reader = member.reader(place);
        let text = group.text(key).to_vec();
        let onward = self.ask_on(node, group.verb, &text, group.hash(key), reader);
        let Self { clients, shared, .. } = self;
        let (Some(client), Some(member)) = (clients.get_mut(reader.client.0), group.members.get_mut(index)) else {
            return;
        };
        match onward {
            Onward::Asked => {
                member.left = member.left.saturating_sub(1);
                member.goes_on = true;
            }
            Onward::Nowhere => client.replies.miss(reader.seq, place, &mut shared.pool),
            Onward::Failed => {
                member.left = member.left.saturating_sub(1);
                client.replies.miss(reader.seq, place, &mut shared.pool);
            }
        }
    }

    /// The one line that answers a request. `raw` has its CRLF.
    fn finish_single(&mut self, lane: UpstreamId, id: ClientId, seq: Option<u32>, raw: &[u8], expired: bool) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else {
            shared.cells().dropped_replies.add(1);
            return;
        };
        client.landed(id, lane, seq, expired, shared);
        match seq.filter(|_| !expired) {
            Some(seq) => {
                client.replies.answer(seq, raw, &mut shared.pool);
            }
            None => shared.cells().dropped_replies.add(1),
        }
        client.settle(id, shared);
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, reply};

    #[test]
    fn a_meta_command_of_one_line_is_told_its_own_answers_only() {
        let answers =
            ["HD", "VA 1", "EN", "NF", "NS", "EX", "ME a", "MN", "ERROR", "END", "STORED", "VALUE a 0 1", "1"];
        let stores = ["HD", "NF", "NS", "EX", "ERROR"];
        let deletes = ["HD", "NF", "EX", "ERROR"];
        for (command, told) in [
            (Command::MetaSet, &stores[..]),
            (Command::MetaArithmetic, &stores),
            (Command::MetaDelete, &deletes),
            // Of the binary protocol, which is asked in meta commands.
            (Command::Add, &stores),
            (Command::Delete, &deletes),
        ] {
            let is_told = |answer: &&str| command.allows(&reply::parse(answer.as_bytes()).unwrap(), true);
            let found: Vec<&str> = answers.into_iter().filter(is_told).collect();
            assert_eq!(found, told, "{command:?}");
        }
    }
}
