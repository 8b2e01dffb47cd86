//! Requests for moved keys, step by step; `handoff.rs` says which step follows.
//!
//! A step is an entry on a shared lane like any other, with its clocks. What came of it is told to the request it belongs to,
//! which asks the next or answers its client. It goes on when its client has left: a value that was stored must not leave an
//! older one behind.

use std::borrow::Cow;

use super::answers::outcome;
use super::binary_lanes::Way;
use super::client::Target;
use super::client::replies::Stamp;
use super::failure::Failure;
use super::handoff::{Handoff, Kind, Next, Plan, Said};
use super::ids::{HandoffId, Part, Places, Stage};
use super::old_places::TWO_PLACES;
use super::upstream::{Asked, Entry, Step, Upstream, key_of};
use super::{ClientId, Core, UpstreamId};
use crate::metrics::{Outcome, Reason};
use crate::protocol::command::Command;
use crate::protocol::is_key;
use crate::protocol::meta::reply::say;
use crate::protocol::meta::request as meta;
use crate::protocol::request::{Change, ReadVerb};
use crate::protocol::text::reply;

impl From<Failure<'_>> for Said {
    fn from(failure: Failure<'_>) -> Self {
        Self::Lost(failure.reason, failure.text.to_vec().into())
    }
}

impl Core {
    /// Begins with a request for a key that has an old place. Returns the lane on which its line was put, where its value is
    /// to follow there.
    #[expect(clippy::too_many_arguments, reason = "who asks for what, and where it is")]
    pub(super) fn hand_off(
        &mut self,
        id: ClientId,
        line: &[u8],
        target: Target,
        tail: &[u8],
        plan: Plan,
        places: Places,
        block: Option<Box<[u8]>>,
    ) -> Option<UpstreamId> {
        let kind = match plan {
            Plan::Steps(kind) => kind,
            Plan::Exists => {
                let text = say(line, target.meta, b"EX", b"EXISTS");
                self.shared.cells().request(target.command, Outcome::Exists, 1);
                self.answer_at_once(id, target, tail, &text);
                return None;
            }
            Plan::Refused => {
                self.shared.cells().soft(target.command, Reason::NodeError, 1, false);
                self.answer_at_once(id, target, tail, TWO_PLACES.as_bytes());
                return None;
            }
        };
        let before = self.topology.before().cloned()?;
        let lane = self.clients.get(id.0)?.lane;
        let handoff = Handoff::new(kind, id, None, target, lane, places, before, line, block);
        // As for any node that is down: nothing is begun that cannot be ended.
        let needed: &[Part] = match kind {
            Kind::Set | Kind::DoneIf => &[Part::New, Part::Invalidate],
            Kind::Delete => &[Part::New, Part::Old],
            Kind::Add => &[Part::LookUp, Part::New],
            Kind::OfNew | Kind::Change => &[Part::New],
            Kind::OfOld => &[Part::LookUp, Part::Old],
            Kind::Invalidate => &[],
        };
        for part in needed {
            if let Err(said) = self.lane_of(&handoff, *part) {
                let text = if let Said::Lost(_, text) = said { text } else { Cow::default() };
                match self.lane(handoff.place(*part), lane) {
                    Some(_) => {
                        self.shared.cells().soft(target.command, Reason::NodeError, 1, false);
                        self.answer_at_once(id, target, tail, &text);
                    }
                    None => self.answer_down(id, handoff.place(*part), target),
                }
                return None;
            }
        }
        let hid = self.keep_handoff(id, handoff, tail, true);
        let mut first = None;
        for part in Handoff::begins_with(kind) {
            match self.ask_part(hid, *part, true) {
                Ok(up) => first = first.or(Some(up)),
                Err(said) => self.step_over(hid, *part, said),
            }
        }
        // A value that was kept has gone with its step; only that of a `Set` is still to follow.
        first.filter(|_| kind == Kind::Set)
    }

    /// Answers a request that no node is asked, whose client may have been told in other words.
    fn answer_at_once(&mut self, id: ClientId, target: Target, tail: &[u8], text: &[u8]) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0).filter(|_| !target.quiet) else { return };
        let stamp = Stamp { kind: target.command.into(), arrived_at: shared.now };
        let seq = client.replies.push(stamp, target.form);
        if !tail.is_empty() {
            client.replies.set_tail(seq, tail);
        }
        client.replies.answer(seq, text, &mut shared.pool);
    }

    /// Keeps a request on its way; `owes`: its answer is owed from now on.
    pub(super) fn keep_handoff(&mut self, id: ClientId, mut handoff: Handoff, tail: &[u8], owes: bool) -> HandoffId {
        let Self { clients, shared, handoffs, .. } = self;
        let target = handoff.target;
        if let Some(client) = clients.get_mut(id.0) {
            if owes && !target.quiet {
                let seq =
                    client.replies.push(Stamp { kind: target.command.into(), arrived_at: shared.now }, target.form);
                if !tail.is_empty() {
                    client.replies.set_tail(seq, tail);
                }
                handoff.seq = Some(seq);
            }
            if handoff.kind != Kind::Invalidate {
                client.moves.hold(target.hash);
            }
            client.recharge(shared);
        }
        let weight = handoff.weight();
        shared.budget.recharge(&mut handoff.held, weight);
        shared.ask_for_tick();
        HandoffId(handoffs.insert(handoff))
    }

    /// The lane by which a part would be asked.
    fn lane_of(&self, handoff: &Handoff, part: Part) -> Result<UpstreamId, Said> {
        let (node, lane) = (handoff.place(part), handoff.lane);
        let down = || Said::Lost(Reason::Down, self.down_text(node).into_bytes().into());
        if !handoff.is_meta(part) {
            return self.lane(node, lane).ok_or_else(down);
        }
        let line = handoff.line_of(part);
        match self.known_way(node, lane) {
            way @ (Way::Lines(lane) | Way::Packets(lane)) if way.says(&line) => Ok(lane),
            Way::Greeting(_) | Way::Lost | Way::Down => Err(down()),
            _ => Err(Said::Lost(Reason::NodeError, self.needs_meta(node).into_bytes().into())),
        }
    }

    /// Deletes a key at its old place, for what is done at the new by another way. Nobody waits for it: what its client asks of
    /// the old place later goes by the same lane. Where that has no room the invalidation is lost, as any may be.
    pub(super) fn invalidate_old(&mut self, id: ClientId, key: &[u8], hash: u64, places: Places) {
        let Places { old, index, .. } = places;
        let Some(before) = self.topology.before().cloned() else { return };
        let Some(lane) = self.clients.get(id.0).map(|client| client.lane) else { return };
        if self.lane(old, lane).and_then(|up| self.upstreams.get(up.0)).is_some_and(Upstream::is_full) {
            let [_, lost] = &self.shared.cells().before_writes;
            lost.add(1);
            return self.end_reads(&before, index, old, Reason::Queue);
        }
        let mut line = Vec::new();
        if is_key(key) {
            Change::Delete.write(key, &mut line);
        } else {
            meta::write_delete(key, &mut line);
        }
        let target = Target::text(hash, Command::Delete, true);
        let handoff = Handoff::new(Kind::Invalidate, id, None, target, lane, places, before, &line, None);
        let hid = self.keep_handoff(id, handoff, &[], false);
        if let Err(said) = self.ask_part(hid, Part::Invalidate, true) {
            self.step_over(hid, Part::Invalidate, said);
        }
    }

    /// Asks for a part; `first`: the request begins with it. An error: it cannot be asked.
    fn ask_part(&mut self, hid: HandoffId, part: Part, first: bool) -> Result<UpstreamId, Said> {
        let Some(handoff) = self.handoffs.get(hid.0) else { return Err(Said::from(Failure::NONE)) };
        if !first
            && matches!(part, Part::New | Part::Again)
            && self.owner_of_line(handoff.target.hash, &handoff.line) != handoff.new
        {
            let text = b"SERVER_ERROR proxy: the ring has changed\r\n";
            return Err(Said::Lost(Reason::Down, text.as_slice().into()));
        }
        let up_id = self.lane_of(handoff, part)?;
        if part == Part::LookUp {
            return self.look_up(hid, up_id);
        }
        let (command, meta) = (handoff.command_of(part), handoff.is_meta(part));
        let (client, seq, hash, node) = (handoff.client, handoff.seq, handoff.target.hash, handoff.place(part));
        let Self { clients, upstreams, shared, handoffs, .. } = self;
        let (Some(up), Some(handoff)) = (upstreams.get_mut(up_id.0), handoffs.get(hid.0)) else {
            return Err(Said::from(Failure::NONE));
        };
        let line = handoff.line_of(part);
        let asked = match up.is_binary {
            true => Asked::line(hash, &line, &shared.settings),
            false => Asked::new(hash, &line, &shared.settings),
        };
        if let Some(client) = clients.get_mut(client.0) {
            client.in_flight += 1;
            if up.is_binary {
                client.note_all(up_id, node);
                client.recharge(shared);
            }
        }
        let step = Step { client, seq, handoff: hid, part, command, asked, expired: false, meta };
        let entry = Entry::Step(Box::new(step));
        up.push(&line, entry, shared);
        if let Some(block) = handoff.block.as_ref().filter(|_| part != Part::Invalidate) {
            // A packet has no CRLF behind its value.
            let block = if up.is_binary { block.strip_suffix(b"\r\n").unwrap_or(block) } else { block };
            up.out.append(block, &mut shared.pool);
        }
        up.touch(up_id, shared);
        Ok(up_id)
    }

    /// Asks whether the key is there.
    fn look_up(&mut self, hid: HandoffId, up_id: UpstreamId) -> Result<UpstreamId, Said> {
        let Self { clients, upstreams, shared, handoffs, groups, .. } = self;
        let (Some(up), Some(handoff)) = (upstreams.get_mut(up_id.0), handoffs.get(hid.0)) else {
            return Err(Said::from(Failure::NONE));
        };
        let written = handoff.line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let written = written.strip_suffix(b"\r\n").unwrap_or(written);
        let body = handoff.line.strip_suffix(b"\r\n").unwrap_or(&handoff.line);
        let is_base64 = handoff.target.meta && body.split(|byte| *byte == b' ').skip(2).any(|flag| flag == b"b");
        let key = key_of(&handoff.line);
        let (client, seq, hash) = (handoff.client, handoff.seq, handoff.target.hash);
        if up.has_meta {
            let line = [&b"mg "[..], written, if is_base64 { &b" b s\r\n"[..] } else { b" s\r\n" }].concat();
            let asked = Asked::new(hash, &line, &shared.settings);
            if let Some(client) = clients.get_mut(client.0) {
                client.in_flight += 1;
            }
            let (part, command) = (Part::LookUp, Command::MetaGet);
            let step = Step { client, seq, handoff: hid, part, command, asked, expired: false, meta: true };
            let entry = Entry::Step(Box::new(step));
            up.push(&line, entry, shared);
        } else if !is_key(&key) {
            let text = b"SERVER_ERROR proxy: the key cannot be looked up at its other place\r\n";
            return Err(Said::Lost(Reason::NodeError, text.as_slice().into()));
        } else {
            // Of a node without meta commands the value comes with the answer, and is thrown away.
            let mut group = groups.take(ReadVerb::Get);
            group.step = Some(hid);
            group.join(ClientId::NONE, 0, Stage::Plain);
            group.add(&key, hash, 0);
            up.push_group(group, shared);
            up.close_group(shared);
        }
        up.touch(up_id, shared);
        Ok(up_id)
    }

    /// A part of a request has its answer, or will get none.
    pub(super) fn step_over(&mut self, hid: HandoffId, part: Part, said: Said) {
        let (mut part, mut said) = (part, said);
        loop {
            let Some(handoff) = self.handoffs.get(hid.0) else { return };
            let index = handoff.index;
            // Not at the old places of another ring before.
            let is_declared =
                self.topology.before().is_some_and(|before| std::ptr::eq(before.ring(), handoff.before.ring()));
            let may_read = is_declared && self.may_read_old(index);
            let Self { handoffs, shared, .. } = self;
            let Some(handoff) = handoffs.get_mut(hid.0) else { return };
            let next = handoff.next(part, said, may_read);
            let weight = handoff.weight();
            shared.budget.recharge(&mut handoff.held, weight);
            match next {
                Next::Wait => return,
                Next::Answer(said) => return self.end_handoff(hid, said),
                Next::Ask(next) => match self.ask_part(hid, next, false) {
                    Ok(_) => return,
                    // The ring before was taken away meanwhile, and its node with it: nobody reads there any more.
                    Err(_) if next == Part::Invalidate && self.topology.before().is_none() => {
                        (part, said) = (next, Said::Missing(Cow::default()));
                    }
                    Err(failed) => (part, said) = (next, failed),
                },
            }
        }
    }

    /// A request is over: answers its client.
    fn end_handoff(&mut self, hid: HandoffId, said: Said) {
        let Some(mut handoff) = self.handoffs.remove(hid.0) else { return };
        self.shared.budget.recharge(&mut handoff.held, 0);
        let Target { command, hash, .. } = handoff.target;
        if let Some(counter) = self.shared.cells().before_writes.get(usize::from(handoff.lost.is_some())) {
            counter.add(1);
        }
        if let Some(reason) = handoff.lost.filter(|_| handoff.is_stale) {
            self.end_reads(&handoff.before, handoff.index, handoff.old, reason);
        }
        let Self { clients, shared, .. } = self;
        let mut soft = false;
        match &said {
            // The read beside it is what is counted.
            _ if handoff.kind == Kind::Invalidate => {}
            Said::There(raw) | Said::Missing(raw) | Said::Error(raw) => {
                let line = raw.strip_suffix(b"\r\n").and_then(reply::parse);
                if let Some(line) = line {
                    shared.cells().request(command, outcome(&line, raw), 1);
                }
            }
            // Nobody is told.
            Said::Lost(_, text) if text.is_empty() => {}
            Said::Lost(reason, _) => {
                soft = command == Command::Touch && shared.misses();
                shared.cells().soft(command, *reason, 1, soft);
            }
        }
        let (Said::There(text) | Said::Missing(text) | Said::Error(text) | Said::Lost(_, text)) = said;
        let Some(client) = clients.get_mut(handoff.client.0) else { return };
        match handoff.seq {
            Some(seq) => client.replies.answer(seq, if soft { b"NOT_FOUND\r\n" } else { &text }, &mut shared.pool),
            None if handoff.kind == Kind::Invalidate => {}
            None => shared.cells().dropped_replies.add(1),
        }
        if handoff.kind != Kind::Invalidate {
            client.steps_over(handoff.client, hash, shared);
        }
        client.settle(handoff.client, shared);
    }
}
