//! What becomes of a connection that failed, and of what waited on it.

use std::collections::HashSet;

use super::effect::Effect;
use super::fail_reason::FailReason;
use super::ids::{Part, Stage};
use super::upstream::group::Group;
use super::upstream::node::BinaryLane;
use super::upstream::{Entry, Role};
use super::values::miss_open_keys;
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::{Cause, NodeOutcome, NodeState, Reason};
use crate::protocol::command::Command;
use crate::protocol::request::ReadVerb;
use crate::time::Tick;

/// What those are told that a request cannot be answered for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure<'a> {
    /// The error line, with its CRLF, for those that get one.
    pub(super) text: &'a [u8],
    pub(super) reason: Reason,
}

impl Failure<'_> {
    /// Nobody is told anything: the answer came by another way, or nobody is there.
    pub(super) const NONE: Failure<'static> = Failure { text: b"", reason: Reason::Lost };

    /// What is the matter with the node, without its name; nothing where nobody is told anything.
    fn what(&self) -> String {
        let text = String::from_utf8_lossy(self.text);
        let named = text.trim_end().strip_prefix("SERVER_ERROR proxy: node ").and_then(|text| text.split_once(' '));
        named.map_or_else(String::new, |(_, what)| what.to_owned())
    }
}

impl Core {
    /// The connection is gone: it could not be made, or was closed.
    pub fn upstream_failed(&mut self, id: UpstreamId, reason: FailReason, now: Tick) {
        self.shared.now = now;
        if let Some(up) = self.upstreams.get(id.0).filter(|_| reason == FailReason::Connect) {
            self.note_refused(up.node);
        }
        self.fail_upstream(id, reason);
        self.finish_round();
    }

    /// The error line that names a connection's node.
    pub(super) fn failure_text(&self, id: UpstreamId, what: &str) -> String {
        let name = self.upstreams.get(id.0).map(|up| self.node_name(up.node)).unwrap_or_default();
        format!("SERVER_ERROR proxy: node {name} {what}\r\n")
    }

    /// How a node is called; nothing for one that is forgotten.
    pub(super) fn node_name(&self, node: NodeId) -> &str {
        self.nodes.get(node.0).map(|entry| &*entry.node.name).unwrap_or_default()
    }

    /// Fails what waits on a connection, forgets it and, for a shared lane, opens the next.
    pub(super) fn fail_upstream(&mut self, id: UpstreamId, reason: FailReason) {
        let Some(up) = self.upstreams.get(id.0) else { return };
        let (node, role, idle, waiting) = (up.node, up.role, up.is_idle(), up.fifo.len());
        let draining = up.is_draining();
        match reason {
            FailReason::ConnectTimeout => up.cells.connects[2].add(1),
            reason if reason.is_unmade() => up.cells.connects[1].add(1),
            _ => {}
        }
        if up.is_binary && !up.is_greeted() {
            return self.binary_refused(id, reason);
        }
        let text = self.failure_text(id, reason.text());
        let name = self.node_name(node);
        let greeted = up.is_greeted();
        match reason {
            FailReason::Desync => {
                self.shared.cells().desyncs.add(1);
                up.cells.desyncs.add(1);
                // Of one that never said its version, the change of its state tells.
                let begins = greeted
                    && self
                        .nodes
                        .get(node.0)
                        .is_some_and(|entry| self.shared.cells.desync_begins(&entry.node.name, self.shared.now));
                if begins {
                    tracing::error!(
                        node = %name,
                        waiting,
                        "node sent what answers no request; slipring closed the connection; it only counts further ones"
                    );
                } else {
                    tracing::debug!(node = %name, waiting, "node sent what answers no request; slipring closed the connection");
                }
            }
            _ if idle => {}
            _ => {
                tracing::debug!(node = %name, waiting, reason = reason.text(), "connection to node lost");
            }
        }
        if self.is_fresh(id) {
            return self.fresh_failed(id, reason);
        }
        self.note_cause(id, reason);
        let failure = Failure { text: text.as_bytes(), reason: reason.reason() };
        match role {
            Role::Shared if !draining => self.replace_failed(id, reason),
            Role::Large if !greeted => self.large_unmade(node),
            Role::Large if reason.is_closed() => self.replace_large(id),
            // What was asked of the node before has reached it: it is not that it "cannot be reached".
            Role::Probe if !draining => {
                self.node_down(node, if reason == FailReason::Itself { reason } else { FailReason::Silent });
            }
            _ => {}
        }
        self.drop_upstream(id, failure);
    }

    /// A shared lane has failed: opens its successor, which takes the reads that may be asked again;
    /// or finds that the node is down.
    fn replace_failed(&mut self, id: UpstreamId, reason: FailReason) {
        let (random, now) = (self.shared.random(), self.shared.now);
        let Self { upstreams, nodes, .. } = self;
        let Some(up) = upstreams.get_mut(id.0) else { return };
        let (node, ready) = (up.node, up.is_greeted());
        // Nobody goes by it any more.
        up.drain();
        let Some(entry) = nodes.get_mut(node.0) else { return };
        let mut others = false;
        // One that is connected right now may be all that the node gives us.
        let mut pending = Vec::new();
        for lane in entry.lanes.iter().filter(|lane| **lane != id) {
            match upstreams.get(lane.0) {
                Some(up) if up.is_greeted() => others |= up.takes_requests(),
                Some(up) if !up.after_failure => pending.push(*lane),
                _ => {}
            }
        }
        // One that is lost again and again is down, however long each connection lasted.
        let wait = entry.health.failed(ready, now, random).max(entry.health.take_token(now));
        if reason == FailReason::Itself || (!wait.is_zero() && !others && pending.is_empty()) {
            return self.begin_outage(node, wait, reason);
        }
        let next = self.open_lane(node, Role::Shared, wait);
        if let Some(up) = self.upstreams.get_mut(next.0) {
            up.after_failure = !wait.is_zero();
            // Its clients go by the others until it is ready.
            up.eager &= !others;
        }
        for lane in pending.into_iter().filter(|_| !others) {
            if let Some(up) = self.upstreams.get_mut(lane.0) {
                up.eager = true;
            }
        }
        let index = self.replace_lane(node, id, next);
        self.reroute(node);
        if others {
            self.show_serving(node);
        } else {
            self.set_node_state(node, NodeState::Connecting);
        }
        if let (true, Some(lane)) = (reason.is_closed(), index.and_then(|index| self.lane(node, index))) {
            self.retry_reads(id, lane);
        }
    }

    /// A node has let a request time out and answered nothing meanwhile: it is asked whether it still answers at all.
    pub(super) fn open_probe(&mut self, node: NodeId) {
        self.close_probe(node);
        let probe = self.open_upstream(node, Role::Probe);
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.probe = probe;
        }
    }

    /// A node need not be asked whether it still answers.
    pub(super) fn close_probe(&mut self, node: NodeId) {
        let probe = self.nodes.get_mut(node.0).map(|entry| std::mem::replace(&mut entry.probe, UpstreamId::NONE));
        self.drop_upstream(probe.unwrap_or(UpstreamId::NONE), Failure::NONE);
    }

    /// A node is silent.
    pub(super) fn node_down(&mut self, node: NodeId, reason: FailReason) {
        let (random, now) = (self.shared.random(), self.shared.now);
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        entry.cells.probes[1].add(1);
        let wait = entry.health.failed(false, now, random).max(entry.health.take_token(now));
        self.begin_outage(node, wait, reason);
    }

    /// The node is asked nothing from now on: what waits for it fails, and one connection probes it.
    fn begin_outage(&mut self, node: NodeId, wait: std::time::Duration, reason: FailReason) {
        self.end_renewal(node);
        let probe = self.open_lane(node, Role::Shared, wait);
        if let (Some(entry), Some(up)) = (self.nodes.get(node.0), self.upstreams.get(probe.0)) {
            match entry.state {
                NodeState::Down | NodeState::Probing => up.cells.probes[1].add(1),
                _ => {
                    up.cells.ejected(reason.ejection());
                    self.shared.cells().ejections.add(1);
                }
            }
        }
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        entry.is_itself = reason == FailReason::Itself;
        let large = std::mem::replace(&mut entry.large, UpstreamId::NONE);
        entry.health.trusted();
        let asked = std::mem::replace(&mut entry.probe, UpstreamId::NONE);
        let binary = std::mem::replace(&mut entry.binary, BinaryLane::UNKNOWN).lane;
        let lanes: Vec<UpstreamId> = entry.lanes.iter().copied().chain([large, asked, binary]).collect();
        if let Some(first) = entry.lanes.first_mut() {
            *first = probe;
        }
        if let Some(up) = self.upstreams.get_mut(probe.0) {
            up.eager = false;
        }
        self.set_node_state(node, NodeState::Down);
        for lane in lanes {
            let text = self.failure_text(lane, reason.text());
            self.drop_upstream(lane, Failure { text: text.as_bytes(), reason: reason.reason() });
        }
        self.reroute(node);
        self.grant(node);
    }

    /// The lane that large values share is lost: its reads that may be asked again are, on the next one.
    fn replace_large(&mut self, id: UpstreamId) {
        let now = self.shared.now;
        let Some(up) = self.upstreams.get(id.0).filter(|up| up.is_greeted() && !up.is_draining()) else { return };
        let node = up.node;
        let Some(entry) = self.nodes.get_mut(node.0).filter(|entry| entry.state.is_serving()) else { return };
        if entry.large != id || !entry.health.take_token(now).is_zero() {
            return;
        }
        let next = self.open_upstream(node, Role::Large);
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.large = next;
        }
        self.retry_reads(id, next);
    }

    /// Moves the reads of a lost connection to its successor that may be asked again: not one byte of their reply has
    /// come, they have not been asked twice, and no write of who asks is behind them, which they would see.
    fn retry_reads(&mut self, id: UpstreamId, next: UpstreamId) {
        let Self { upstreams, clients, shared, groups, .. } = self;
        let Some(up) = upstreams.get_mut(id.0) else { return };
        up.close_group(shared);
        let begun = !up.partial.is_empty() || up.body.is_some();
        let mut again = Vec::new();
        let mut writers = HashSet::new();
        for (index, entry) in up.fifo.iter_mut().enumerate().rev() {
            let group = match entry {
                Entry::Group(group) => group,
                Entry::Single { client, .. } | Entry::Gather { client, .. } => {
                    writers.insert(*client);
                    continue;
                }
                Entry::Step(step) => {
                    writers.insert(step.client);
                    continue;
                }
                Entry::Version => continue,
            };
            if group.verb.writes() {
                writers.extend(group.members.iter().map(|member| member.client));
            }
            let mut awaited = group.members.iter().filter(|member| !member.done).peekable();
            if group.retried
                || group.verb.is_meta()
                || awaited.peek().is_none()
                || (index == 0 && (begun || group.is_touched()))
                || awaited.any(|member| writers.contains(&member.client))
            {
                continue;
            }
            let mut group = std::mem::replace(group, groups.take(ReadVerb::Get));
            group.retried = true;
            for member in &group.members {
                if let Some(client) = clients.get_mut(member.client.0) {
                    client.moved_elsewhere(id, next, Some(member.seq));
                    client.recharge(shared);
                }
            }
            again.push(group);
        }
        if again.is_empty() {
            return;
        }
        // What was put in their place has no member: nobody waits for it.
        let Some(up) = upstreams.get_mut(next.0) else { return };
        for group in again.into_iter().rev() {
            shared.cells().retries.add(1);
            up.push_again(group, shared);
        }
        up.touch(next, shared);
    }

    /// Forgets a connection; whatever still waits on it is answered as failed.
    pub(super) fn drop_upstream(&mut self, id: UpstreamId, failure: Failure<'_>) {
        if matches!(failure.reason, Reason::Timeout | Reason::Desync) {
            self.note_lost_writes(id);
        }
        self.cut_off_value(id, failure.reason, failure.text);
        let Some(mut up) = self.upstreams.remove(id.0) else { return };
        let owes = up.fifo.iter().any(|entry| !matches!(entry, Entry::Version));
        self.shared.effects.push(if owes { Effect::ResetUpstream(id) } else { Effect::CloseUpstream(id) });
        if up.full {
            self.shared.full_lanes = self.shared.full_lanes.saturating_sub(1);
        }
        self.shared.resume.extend(up.waiters.drain(..));
        up.out.clear(&mut self.shared.pool);
        self.shared.pool.put(std::mem::take(&mut up.partial));
        self.shared.budget.recharge(&mut up.held, 0);
        let entries: Vec<Entry> = up.fifo.take().collect();
        for entry in entries {
            if !entry.is_expired() && !matches!(entry, Entry::Version) {
                up.ended(NodeOutcome::Lost);
            }
            self.fail_entry(id, entry, failure);
        }
        self.lane_lost(id, up.node, up.role);
    }

    /// Answers those who wait for the entry at an index, if anybody still does. It stays: its reply is
    /// still to come.
    pub(super) fn orphan(&mut self, id: UpstreamId, index: usize, failure: Failure<'_>) {
        let entry = self.upstreams.get_mut(id.0).and_then(|up| up.fifo.get_mut(index));
        let Some(entry) = entry.filter(|entry| entry.is_awaited()) else { return };
        for id in entry.clients() {
            if let Some(client) = self.clients.get_mut(id.0) {
                client.orphans += 1;
            }
        }
        match entry {
            Entry::Version => {}
            Entry::Group(group) => {
                // Answered without the borrow of the lane, then put back.
                let mut taken = std::mem::replace(group, self.groups.take(ReadVerb::Get));
                taken.expired = true;
                self.answer_group(&mut taken, failure);
                let step = taken.step;
                if let Some(Entry::Group(group)) = self.upstreams.get_mut(id.0).and_then(|up| up.fifo.get_mut(index)) {
                    self.groups.put(std::mem::replace(group, taken));
                }
                if let Some(step) = step {
                    self.step_over(step, Part::LookUp, failure.into());
                }
            }
            Entry::Single { client, seq, command, expired, .. } => {
                *expired = true;
                let (client, seq, command) = (*client, *seq, *command);
                self.answer_single(client, seq, command, failure);
            }
            Entry::Step(step) => {
                step.expired = true;
                let (handoff, part) = (step.handoff, step.part);
                self.step_over(handoff, part, failure.into());
            }
            Entry::Gather { client, seq, part, command, expired, .. } => {
                *expired = true;
                let (client, seq, part, command) = (*client, *seq, *part, *command);
                self.answer_part(client, seq, part, command, failure);
            }
        }
    }

    /// Answers those who wait for an entry of a lane that will get no reply.
    pub(super) fn fail_entry(&mut self, lane: UpstreamId, entry: Entry, failure: Failure<'_>) {
        match entry {
            Entry::Version => {}
            Entry::Group(mut group) => {
                self.answer_group(&mut group, failure);
                if let Some(step) = group.step.filter(|_| !group.expired) {
                    self.step_over(step, Part::LookUp, failure.into());
                }
                for member in &group.members {
                    self.landed(lane, member.client, Some(member.seq), group.expired);
                }
                self.groups.put(group);
            }
            Entry::Single { client, seq, expired: true, .. } | Entry::Gather { client, seq, expired: true, .. } => {
                self.landed(lane, client, seq, true);
            }
            Entry::Single { client, seq, command, .. } => {
                self.answer_single(client, seq, command, failure);
                self.landed(lane, client, seq, false);
            }
            Entry::Step(step) => {
                if !step.expired {
                    self.step_over(step.handoff, step.part, failure.into());
                }
                self.landed(lane, step.client, step.seq, step.expired);
            }
            Entry::Gather { client, seq, part, command, .. } => {
                self.answer_part(client, seq, part, command, failure);
                self.landed(lane, client, seq, false);
            }
        }
    }

    /// An entry of a client on a lane is over; `expired`: one that it had the answer to.
    pub(super) fn landed(&mut self, lane: UpstreamId, id: ClientId, seq: Option<u32>, expired: bool) {
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            client.landed(id, lane, seq, expired, shared);
            client.settle(id, shared);
        }
    }

    fn answer_group(&mut self, group: &mut Group, failure: Failure<'_>) {
        let Self { clients, shared, .. } = self;
        let command = Command::from(group.verb);
        let _ = miss_open_keys(group, clients, shared, true, false);
        let steps = group.verb.takes_steps().then(|| group.hash(0));
        for member in group.members.iter_mut().filter(|member| member.stage != Stage::Plain) {
            if member.stage == Stage::Old
                && !member.done
                && let [.., errors] = &shared.cells().before_reads
            {
                errors.add(u64::from(member.left));
            }
            let steps = steps.filter(|_| !member.goes_on);
            if let Some(client) = clients.get_mut(member.client.0) {
                client.part_over(member.client, member.seq, &mut member.stage, steps, shared);
            }
        }
        for member in group.members.iter_mut().filter(|member| !member.done) {
            member.done = true;
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            let misses = shared.may_miss(group.verb);
            shared.cells().soft(command, failure.reason, u64::from(member.left), misses);
            // Of all it asked for it may have the values, or ask for them again: then only the last word is missing.
            if !misses && member.left > 0 {
                client.replies.fail(member.seq, failure.text, &mut shared.pool);
            }
            client.replies.part_done(member.seq, &mut shared.pool);
            client.settle(member.client, shared);
        }
    }

    fn answer_single(&mut self, id: ClientId, seq: Option<u32>, command: Command, failure: Failure<'_>) {
        let Self { clients, shared, .. } = self;
        if !failure.text.is_empty() {
            let miss = command == Command::Touch && shared.misses();
            shared.cells().soft(command, failure.reason, 1, miss);
        }
        let (Some(client), Some(seq)) = (clients.get_mut(id.0), seq) else { return };
        let soft = command == Command::Touch && shared.misses();
        client.replies.answer(seq, if soft { b"NOT_FOUND\r\n" } else { failure.text }, &mut shared.pool);
        client.settle(id, shared);
    }

    fn answer_part(&mut self, id: ClientId, seq: Option<u32>, part: usize, command: Command, failure: Failure<'_>) {
        self.shared.cells().soft(command, failure.reason, 1, false);
        if let Some(seq) = seq {
            let cause = match failure.reason {
                Reason::Timeout => Cause::Unanswered(self.shared.settings.request_timeout).to_string(),
                _ => failure.what(),
            };
            self.finish_part(id, seq, part, Some(failure.text), Some(cause));
        }
    }
}
