//! One reply made of every node's: `flush_all` and the `stats` family.

use std::fmt::Write as _;
use std::time::Duration;

use super::client::Taken;
use super::lane::Entry;
use super::replies::Stamp;
use super::stats::{self, NodeReport, Sidecar};
use super::upstream::Desync;
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::{Kind, NodeOutcome, NodeState, Outcome};
use crate::protocol::command::Command;
use crate::protocol::number;
use crate::protocol::reply::Line;
use crate::protocol::request::Stats;
use crate::routing::NodeIndex;

/// Most bytes of `STAT` lines one node may send.
const MAX_PART: usize = 256 << 10;

/// What is gathered.
#[derive(Debug)]
pub(super) enum Gathering {
    /// `OK` when all said so, else the worst answer.
    Flush,
    /// `RESET`, likewise.
    Reset,
    /// The `STAT` lines of each node.
    Stats(Stats),
}

/// What a node's part ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `OK`
    Ok,
    /// `RESET`
    Reset,
    /// `STAT` lines and `END`
    Lines,
}

impl Gathering {
    const fn command(&self) -> Command {
        match self {
            Self::Flush => Command::FlushAll,
            Self::Reset | Self::Stats(_) => Command::Stats,
        }
    }

    const fn end(&self) -> End {
        match self {
            Self::Flush => End::Ok,
            Self::Reset => End::Reset,
            Self::Stats(_) => End::Lines,
        }
    }
}

#[derive(Debug)]
struct NodePart {
    name: String,
    state: &'static str,
    text: Vec<u8>,
}

/// A reply that several nodes contribute to.
#[derive(Debug)]
pub(super) struct Gather {
    what: Gathering,
    left: usize,
    /// The first error line, with its CRLF.
    error: Option<Vec<u8>>,
    parts: Vec<NodePart>,
    /// Bytes of all parts' texts so far.
    bytes: usize,
}

impl Gather {
    pub(super) const fn new(what: Gathering) -> Self {
        Self { what, left: 0, error: None, parts: Vec::new(), bytes: 0 }
    }

    /// Adds a node that was asked; its part arrives by [`Gather::line`] and [`Gather::finish`].
    pub(super) fn expect(&mut self, name: &str) -> usize {
        self.left += 1;
        self.add(name, "up")
    }

    /// Adds a node that cannot be asked.
    pub(super) fn unreachable(&mut self, name: &str, state: &'static str, error: &[u8]) {
        self.add(name, state);
        self.error.get_or_insert_with(|| error.to_vec());
    }

    fn add(&mut self, name: &str, state: &'static str) -> usize {
        self.parts.push(NodePart { name: name.to_owned(), state, text: Vec::new() });
        self.parts.len() - 1
    }

    /// One `STAT` line of a node, with its CRLF. No node has so many that they are more than
    /// [`MAX_PART`].
    fn line(&mut self, part: usize, line: &[u8]) -> Result<(), Desync> {
        self.bytes += line.len();
        let Some(part) = self.parts.get_mut(part) else { return Ok(()) };
        part.text.extend_from_slice(line);
        if part.text.len() > MAX_PART { Err(Desync) } else { Ok(()) }
    }

    /// A node has answered or failed. Returns whether all have.
    pub(super) fn finish(&mut self, part: usize, error: Option<&[u8]>, lost: Option<&'static str>) -> bool {
        if let Some(error) = error {
            self.error.get_or_insert_with(|| error.to_vec());
        }
        if let (Some(part), Some(state)) = (self.parts.get_mut(part), lost) {
            part.state = state;
            part.text.clear();
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Bytes gathered so far.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is waited for.
    pub(super) const fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The whole answer.
    fn render(&self, sidecar: &Sidecar, out: &mut Vec<u8>) {
        let reports: Vec<NodeReport<'_>> =
            self.parts.iter().map(|p| NodeReport { name: &p.name, state: p.state, stats: &p.text }).collect();
        match (&self.what, &self.error) {
            (Gathering::Flush | Gathering::Reset, Some(error)) => out.extend_from_slice(error),
            (Gathering::Flush, None) => out.extend_from_slice(b"OK\r\n"),
            (Gathering::Reset, None) => out.extend_from_slice(b"RESET\r\n"),
            (Gathering::Stats(what), _) => match what {
                Stats::General => stats::general(out, sidecar, &reports),
                Stats::Nodes => stats::nodes(out, &reports),
                Stats::Sum => stats::sum(out, &reports),
                Stats::Items => stats::items(out, &reports),
                Stats::Slabs => stats::slabs(out, &reports),
                Stats::Settings => stats::settings(out, sidecar, &reports),
                // Answered without asking a node.
                Stats::Sizes | Stats::Conns | Stats::Reset | Stats::Ring => out.extend_from_slice(b"END\r\n"),
            },
        }
    }
}

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
    pub(super) fn flush_all(&mut self, id: ClientId, delay: Option<i32>, quiet: bool) -> Taken {
        if self.stalls_on_any(id) {
            return Taken::Stalled;
        }
        self.shared.cells().command(Command::FlushAll);
        if self.shared.settings.deny_flush_all {
            self.shared.cells().request(Command::FlushAll, Outcome::ClientError, 1);
            self.answer(id, Kind::Other, b"CLIENT_ERROR flush_all not allowed\r\n", quiet);
            return Taken::Yes(0);
        }
        let mut line = b"flush_all".to_vec();
        if let Some(delay) = delay {
            line.push(b' ');
            number::append_signed(&mut line, i64::from(delay));
        }
        line.extend_from_slice(b"\r\n");
        self.fan_out(id, Gathering::Flush, &line, quiet);
        Taken::Yes(0)
    }

    pub(super) fn stats(&mut self, id: ClientId, what: Stats) -> Taken {
        // What nodes tell is kept until the last has: a few at a time are enough for anyone.
        if self.stalls_on_any(id) || self.waits_for_replies(id) {
            return Taken::Stalled;
        }
        self.shared.cells().command(Command::Stats);
        if matches!(what, Stats::Ring | Stats::Sizes | Stats::Conns) {
            self.shared.cells().request(Command::Stats, Outcome::Ok, 1);
        }
        match what {
            Stats::General | Stats::Nodes | Stats::Sum => {
                self.fan_out(id, Gathering::Stats(what), b"stats\r\n", false);
            }
            Stats::Items => self.fan_out(id, Gathering::Stats(what), b"stats items\r\n", false),
            Stats::Slabs => self.fan_out(id, Gathering::Stats(what), b"stats slabs\r\n", false),
            Stats::Settings => self.fan_out(id, Gathering::Stats(what), b"stats settings\r\n", false),
            Stats::Reset => self.fan_out(id, Gathering::Reset, b"stats reset\r\n", false),
            Stats::Ring => {
                let text = self.ring_lines();
                self.answer(id, Kind::Other, text.as_bytes(), false);
            }
            // One line each, the same for any router.
            Stats::Sizes => self.answer(id, Kind::Other, b"STAT sizes_status disabled\r\nEND\r\n", false),
            Stats::Conns => self.answer(id, Kind::Other, b"END\r\n", false),
        }
        Taken::Yes(0)
    }

    /// Asks every node the same and answers once.
    pub(super) fn fan_out(&mut self, id: ClientId, what: Gathering, line: &[u8], quiet: bool) {
        let Some(lane) = self.clients.get(id.0).map(|client| client.lane) else {
            return;
        };
        if self.ring.is_empty() && !matches!(what, Gathering::Stats(_)) {
            let text = self.down_text(NodeId::NONE);
            self.shared.cells().request(what.command(), Outcome::SoftError, 1);
            return self.answer(id, Kind::Other, text.as_bytes(), quiet);
        }
        let mut gather = Box::new(Gather::new(what));
        let mut asked = Vec::new();
        for &node in &self.ring {
            let up = self.lane(node, lane);
            let Some(entry) = self.nodes.get(node.0) else { continue };
            // Before the first connection there is nothing to wait for either; the next lane of a
            // node that answers is only a moment away.
            let answers = |up: &UpstreamId| self.upstreams.get(up.0).is_some_and(|up| up.ready);
            let ready = up.filter(|up| entry.state == NodeState::Up || answers(up));
            match ready {
                Some(up) => asked.push((up, gather.expect(&entry.node.name))),
                None => {
                    gather.unreachable(&entry.node.name, entry.state.word(), self.down_text(node).as_bytes());
                }
            }
        }
        let end = gather.what.end();
        let command = gather.what.command();
        if gather.is_complete() {
            let mut text = Vec::new();
            gather.render(&self.sidecar(), &mut text);
            self.shared.cells().request(command, gathered(&text), 1);
            return self.answer(id, Kind::Other, &text, quiet);
        }
        let Self { clients, upstreams, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        let stamp = Stamp { kind: Kind::Other, at: shared.now };
        let seq = (!quiet).then(|| client.replies.push_gather(gather, stamp));
        for (up_id, part) in asked {
            let Some(up) = upstreams.get_mut(up_id.0) else {
                continue;
            };
            client.in_flight += 1;
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
        text.push_str("END\r\n");
        text
    }

    /// The figures of the whole process for `stats`.
    fn sidecar(&self) -> Sidecar {
        let cells = &self.shared.cells;
        let uptime = self.shared.now.0 / 1_000_000;
        let (user, system) = (self.shared.settings.cpu_time)();
        let plain = |command: Command| command.is_read() && !command.touches();
        let missed = |outcome: Outcome| matches!(outcome, Outcome::Miss | Outcome::SoftMiss);
        let of = |command: Command, outcome: Outcome| cells.requests(|c, o| (c, o) == (command, outcome));
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Sidecar {
            pid: u64::from(self.shared.settings.pid),
            uptime_seconds: uptime,
            unix_time: self.shared.settings.started_at + uptime,
            version: self.lowest_version().to_owned(),
            rusage_user_micros: micros(user),
            rusage_system_micros: micros(system),
            max_connections: self.shared.settings.max_connections as u64,
            curr_connections: cells.sum(|c| &c.connections),
            total_connections: cells.sum(|c| &c.connections_total),
            rejected_connections: cells.rejected.get(),
            cmd_get: cells.requests(|command, _| command.is_read()),
            cmd_set: cells.requests(|command, _| command.is_store()),
            cmd_flush: cells.command_sum(Command::FlushAll),
            // As in memcached, `gat` counts as a touch too, and its hits and misses only there.
            cmd_touch: cells.requests(|command, _| command.touches()),
            cmd_meta: 0,
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
            threads: cells.workers() as u64,
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
                let Some((waiting, seq)) = self.clients.get_mut(client.0).zip(seq) else { return Ok(()) };
                let Some(gather) = waiting.replies.gather(seq) else { return Ok(()) };
                let result = gather.line(part, raw);
                waiting.replies.gathered(raw.len());
                self.settle_client(client);
                return result;
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
        if let Some(seq) = seq {
            self.finish_part(client, seq, part, error, None);
        }
        self.landed(client, expired);
        Ok(())
    }

    /// A node has answered its part, or is lost.
    pub(super) fn finish_part(
        &mut self,
        id: ClientId,
        seq: u32,
        part: usize,
        error: Option<&[u8]>,
        lost: Option<&'static str>,
    ) {
        let Some(client) = self.clients.get_mut(id.0) else { return };
        if client.replies.gather(seq).is_some_and(|gather| gather.finish(part, error, lost)) {
            let sidecar = self.sidecar();
            let Self { clients, shared, .. } = self;
            let Some(client) = clients.get_mut(id.0) else { return };
            let mut text = shared.pool.take();
            if let Some(gather) = client.replies.gather(seq) {
                gather.render(&sidecar, &mut text);
                shared.cells().request(gather.what.command(), gathered(&text), 1);
            }
            client.replies.deliver(seq, &text, &mut shared.pool);
            client.replies.finish(seq, &mut shared.pool);
            shared.pool.put(text);
        }
        self.settle_client(id);
    }
}
