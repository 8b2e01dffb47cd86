//! Requests to every node at once: `flush_all` and the `stats` family.

use std::fmt::Write as _;
use std::time::Duration;

use super::client::gather::{Gather, Gathering};
use super::client::replies::Stamp;
use super::client::{Stall, Taken};
use super::stats::{self, Sidecar};
use super::upstream::Entry;
use super::values::Desync;
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::{Kind, NodeOutcome, Outcome, Reason, Wait};
use crate::protocol::command::Command;
use crate::protocol::form::Form;
use crate::protocol::number;
use crate::protocol::reply::{End, Line};
use crate::protocol::request::Stats;
use crate::routing::NodeIndex;

/// How a reply that was put together here ends its request.
fn gathered(text: &[u8]) -> Outcome {
    match text {
        _ if text.starts_with(b"SERVER_ERROR proxy") => Outcome::SoftError,
        _ if text.starts_with(b"SERVER_ERROR") => Outcome::ServerError,
        _ if text.starts_with(b"CLIENT_ERROR") || text.starts_with(b"ERROR") => Outcome::ClientError,
        _ => Outcome::Ok,
    }
}

impl Core {
    pub(super) fn flush_all(&mut self, id: ClientId, delay: Option<i32>, quiet: bool, form: Form) -> Taken {
        if self.shared.settings.deny_flush_all {
            // No node is asked, so there is nothing to wait for.
            self.shared.cells().command(Command::FlushAll);
            self.shared.cells().request(Command::FlushAll, Outcome::ClientError, 1);
            self.answer_in(id, Kind::Other, form, b"CLIENT_ERROR flush_all not allowed\r\n", quiet);
            return Taken::Yes(0);
        }
        // An answer is made of every node's, and takes memory for each.
        if self.waits_for_others(id) || self.stalls_on_any(id) || self.finds_no_room(id) {
            return Taken::Stalled;
        }
        if !quiet && self.waits_for_replies(id) {
            return Taken::Stalled;
        }
        self.shared.cells().command(Command::FlushAll);
        let mut line = b"flush_all".to_vec();
        if let Some(delay) = delay {
            line.push(b' ');
            number::append_signed(&mut line, i64::from(delay));
        }
        line.extend_from_slice(b"\r\n");
        self.fan_out(id, Gathering::Flush, &line, quiet, form);
        Taken::Yes(0)
    }

    pub(super) fn stats(&mut self, id: ClientId, what: Stats, form: Form) -> Taken {
        // What nodes tell is kept until the last has: a few at a time are enough for anyone.
        if self.waits_for_others(id) || self.stalls_on_any(id) || self.finds_no_room(id) || self.waits_for_replies(id) {
            return Taken::Stalled;
        }
        self.shared.cells().command(Command::Stats);
        if matches!(what, Stats::Ring | Stats::Sizes | Stats::Conns) {
            self.shared.cells().request(Command::Stats, Outcome::Ok, 1);
        }
        match what {
            Stats::General | Stats::Nodes | Stats::Sum => {
                self.fan_out(id, Gathering::Stats(what), b"stats\r\n", false, form);
            }
            Stats::Items => self.fan_out(id, Gathering::Stats(what), b"stats items\r\n", false, form),
            Stats::Slabs => self.fan_out(id, Gathering::Stats(what), b"stats slabs\r\n", false, form),
            Stats::Settings => self.fan_out(id, Gathering::Stats(what), b"stats settings\r\n", false, form),
            Stats::Reset => {
                // First: the answer tells what could not be reset.
                let counted = stats::counted(&self.sidecar(&Gathering::Stats(Stats::General)));
                self.shared.cells.reset_at(counted);
                self.fan_out(id, Gathering::Reset, b"stats reset\r\n", false, form);
            }
            Stats::Ring => {
                let text = self.ring_lines();
                self.answer_in(id, Kind::Other, form, text.as_bytes(), false);
            }
            // One line, the same for any router.
            Stats::Sizes => self.answer_in(id, Kind::Other, form, b"STAT sizes_status disabled\r\nEND\r\n", false),
            Stats::Conns => {
                let text = self.conns_lines(id);
                self.answer_in(id, Kind::Other, form, &text, false);
            }
        }
        Taken::Yes(0)
    }

    /// Whether a client waits with a request to every node.
    fn finds_no_room(&mut self, id: ClientId) -> bool {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return false };
        let waits = !client.may_ask_all(&shared.budget);
        if waits {
            client.stall = Stall::AllLanes;
            shared.cells().waits(Wait::Output);
        }
        waits
    }

    /// Asks every node the same and answers once.
    pub(super) fn fan_out(&mut self, id: ClientId, what: Gathering, line: &[u8], quiet: bool, form: Form) {
        let Some(lane) = self.clients.get(id.0).map(|client| client.lane) else {
            return;
        };
        if self.ring.is_empty() && !matches!(what, Gathering::Stats(_)) {
            let text = self.down_text(NodeId::NONE);
            self.shared.cells().request(what.command(), Outcome::SoftError, 1);
            return self.answer_in(id, Kind::Other, form, text.as_bytes(), quiet);
        }
        let mut gather = Box::new(Gather::new(what));
        let mut asked = Vec::new();
        let old = if matches!(what, Gathering::Flush) { self.flush_old() } else { Vec::new() };
        for &node in self.ring.iter().chain(&old) {
            let up = self.lane(node, lane);
            let Some(entry) = self.nodes.get(node.0) else { continue };
            // Before the first connection there is nothing to wait for either; the next lane of a
            // node that answers is only a moment away.
            let answers = |up: &UpstreamId| self.upstreams.get(up.0).is_some_and(|up| up.is_greeted());
            let ready = up.filter(|up| entry.state.is_serving() || answers(up));
            match ready {
                // Nobody sees who was asked without an answer.
                Some(up) => asked.push((up, gather.expect(if quiet { "" } else { &entry.node.name }))),
                None => {
                    let cause = entry.cells.cause().filter(|_| entry.state.has_cause());
                    let cause = cause.map(|cause| cause.to_string()).unwrap_or_default();
                    gather.unreachable(&entry.node.name, entry.state.word(), cause, self.down_text(node).as_bytes());
                }
            }
        }
        let end = gather.what.end();
        let command = gather.what.command();
        if gather.is_complete() {
            let mut text = Vec::new();
            gather.render(&self.sidecar(&gather.what), &mut text);
            self.shared.cells().request(command, gathered(&text), 1);
            return self.answer_in(id, Kind::Other, form, &text, quiet);
        }
        let Self { clients, upstreams, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        client.fanned += asked.len();
        let stamp = Stamp { kind: Kind::Other, arrived_at: shared.now };
        let seq = (!quiet).then(|| client.replies.push_gather(gather, stamp, form, &mut shared.pool));
        for (up_id, part) in asked {
            let Some(up) = upstreams.get_mut(up_id.0) else {
                continue;
            };
            client.in_flight += 1;
            up.fifo.grow();
            up.push(line, Entry::Gather { client: id, seq, part, end, command, expired: false }, shared);
            up.touch(up_id, shared);
        }
    }

    /// The answer to `stats ring`.
    fn ring_lines(&self) -> String {
        let topology = &self.topology;
        let mut text = format!(
            "STAT ring_fingerprint {}\r\nSTAT ring_version {}\r\nSTAT ring_placement {}\r\nSTAT ring_nodes {}\r\n",
            topology.name(),
            topology.version(),
            topology.placement(),
            topology.nodes().len(),
        );
        for (node, index) in topology.nodes().iter().zip(0..) {
            let _ = write!(text, "STAT {}.share {:.6}\r\n", node.name, topology.share(NodeIndex(index)));
        }
        if let Some(before) = topology.before() {
            let ring = before.ring();
            let _ = write!(
                text,
                "STAT before_state {}\r\nSTAT before_fingerprint {}\r\nSTAT before_placement {}\r\nSTAT before_nodes {}\r\n",
                before.phase().word(),
                ring.name(),
                ring.placement(),
                ring.nodes().len(),
            );
        }
        text.push_str("END\r\n");
        text
    }

    /// The figures of the whole process, as far as what is gathered shows them: they are read and summed up for it.
    fn sidecar(&self, what: &Gathering) -> Sidecar {
        let max_connections = self.shared.settings.max_connections as u64;
        if !matches!(what, Gathering::Stats(Stats::General)) {
            return Sidecar { max_connections, ..Sidecar::default() };
        }
        let cells = &self.shared.cells;
        let uptime = self.shared.now.0 / 1_000_000;
        let (user, system) = (self.shared.settings.cpu_time)();
        let plain = |command: Command| command.is_read() && !command.touches();
        let missed = |outcome: Outcome| matches!(outcome, Outcome::Miss | Outcome::SoftMiss);
        let of = |command: Command, outcome: Outcome| cells.requests(|c, o| (c, o) == (command, outcome));
        let failed = self.ring.iter().filter_map(|node| self.nodes.get(node.0)).filter(|node| !node.state.is_serving());
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Sidecar {
            pid: u64::from(self.shared.settings.pid),
            uptime_seconds: uptime,
            unix_time: self.shared.settings.started_at + uptime,
            version: self.lowest_version().to_owned(),
            rusage_user_micros: micros(user),
            rusage_system_micros: micros(system),
            max_connections,
            curr_connections: cells.sum(|c| &c.connections),
            total_connections: cells.sum(|c| &c.connections_total),
            rejected_connections: cells.rejected.get(),
            cmd_get: cells.requests(|command, _| command.is_read()),
            cmd_set: cells.requests(|command, _| command.is_store()),
            cmd_flush: cells.command_sum(Command::FlushAll),
            // As in memcached, `gat` counts as a touch too, and its hits and misses only there.
            cmd_touch: cells.requests(|command, _| command.touches()),
            cmd_meta: Command::META.into_iter().map(|command| cells.command_sum(command)).sum(),
            get_hits: cells.requests(|command, outcome| plain(command) && outcome == Outcome::Hit),
            get_misses: cells.requests(|command, outcome| plain(command) && missed(outcome)),
            delete_misses: of(Command::Delete, Outcome::NotFound),
            delete_hits: of(Command::Delete, Outcome::Ok),
            incr_misses: of(Command::Incr, Outcome::NotFound),
            incr_hits: of(Command::Incr, Outcome::Ok),
            decr_misses: of(Command::Decr, Outcome::NotFound),
            decr_hits: of(Command::Decr, Outcome::Ok),
            cas_misses: of(Command::Cas, Outcome::NotFound),
            cas_hits: of(Command::Cas, Outcome::Stored),
            cas_badval: of(Command::Cas, Outcome::Exists),
            touch_hits: cells
                .requests(|command, outcome| command.touches() && matches!(outcome, Outcome::Hit | Outcome::Ok)),
            touch_misses: cells
                .requests(|command, outcome| command.touches() && (missed(outcome) || outcome == Outcome::NotFound)),
            store_too_large: cells.sum(|c| &c.stores_too_large),
            bytes_read: cells.sum(|c| &c.bytes_read),
            bytes_written: cells.sum(|c| &c.bytes_written),
            conn_yields: cells.sum(|c| &c.yields),
            threads: cells.workers() as u64,
            proxy_conn_requests: Command::ALL.into_iter().map(|command| cells.command_sum(command)).sum(),
            proxy_conn_errors: cells.requests(|_, outcome| outcome == Outcome::SoftError),
            proxy_conn_oom: cells.soft_sum(|_, reason| reason == Reason::Memory),
            proxy_req_active: cells.node_sum(|node| &node.inflight),
            proxy_config_reloads: self.topology.version().saturating_sub(1),
            proxy_config_reload_fails: cells.source_failures.get(),
            proxy_backend_total: self.topology.nodes().len() as u64,
            proxy_backend_marked_bad: cells.sum(|c| &c.ejections),
            proxy_backend_failed: failed.count() as u64,
            before_reset: cells.before_reset(),
        }
    }

    /// A line of a node's part, for a client that may be gone.
    pub(super) fn gather_line(&mut self, id: UpstreamId, line: &Line<'_>, raw: &[u8]) -> Result<(), Desync> {
        let Some(up) = self.upstreams.get_mut(id.0) else { return Ok(()) };
        let Some(&Entry::Gather { client, seq, part, end, command, expired }) = up.fifo.front() else {
            return Err(Desync);
        };
        let error = match (line, end) {
            (Line::Stat { .. }, End::Lines) => {
                let waiting = self.clients.get_mut(client.0).filter(|_| !expired);
                let Some((waiting, seq)) = waiting.zip(seq) else { return Ok(()) };
                let Some(gather) = waiting.replies.gather(seq) else { return Ok(()) };
                let before = gather.bytes();
                let fits = gather.line(part, raw);
                let more = gather.bytes() - before;
                waiting.replies.gathered(more);
                waiting.recharge(&mut self.shared);
                return fits.then_some(()).ok_or(Desync);
            }
            (Line::Ok, End::Ok) | (Line::Reset, End::Reset) | (Line::End, End::Lines) => None,
            (Line::Error, _) => Some(raw),
            _ => return Err(Desync),
        };
        let (entry, times, start) = up.fifo.pop().ok_or(Desync)?;
        if !expired {
            let outcome = if error.is_some() { NodeOutcome::Error } else { NodeOutcome::Ok };
            let took = up.answered(times, outcome, self.shared.now);
            if self.is_slow(command, took) {
                self.tell_slow(id, &entry, took, start);
            }
        }
        if let Some(seq) = seq.filter(|_| !expired) {
            self.finish_part(client, seq, part, error, None);
        }
        self.landed(id, client, seq, expired);
        Ok(())
    }

    /// A node has answered its part, or is lost.
    pub(super) fn finish_part(
        &mut self,
        id: ClientId,
        seq: u32,
        part: usize,
        error: Option<&[u8]>,
        lost: Option<String>,
    ) {
        let Some(client) = self.clients.get_mut(id.0) else { return };
        let mut done = None;
        if let Some(gather) = client.replies.gather(seq) {
            let before = gather.bytes();
            done = gather.finish(part, error, lost).then_some(gather.what);
            let more = gather.bytes() - before;
            client.replies.gathered(more);
        }
        if let Some(what) = done {
            let sidecar = self.sidecar(&what);
            let Self { clients, shared, .. } = self;
            let Some(client) = clients.get_mut(id.0) else { return };
            let mut text = shared.pool.take();
            if let Some(gather) = client.replies.gather(seq) {
                gather.render(&sidecar, &mut text);
                shared.cells().request(gather.what.command(), gathered(&text), 1);
            }
            client.replies.answer(seq, &text, &mut shared.pool);
            shared.pool.put(text);
        }
        self.settle_client(id);
    }
}
