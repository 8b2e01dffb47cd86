//! The lane in packets of a node that has no meta commands: memcached before 1.6.10, Memorystore's default.
//!
//! What classic words cannot say is asked of such a node by the binary protocol: for meta clients, and for binary ones. The
//! core makes the meta command that it would send to another node; the lane writes it as a packet
//! (`protocol/binary/meta.rs`), and here the packet that answers becomes the line a node with meta commands would have
//! given, and goes the way of all lines. So nothing above knows of it. A large body, and a value that its reader takes too
//! slowly, go by lanes in packets of one client's own, each greeted before anything else is said on it: to a node that
//! speaks text the lines of a value would be commands.
//!
//! - The lane is opened when it is first needed, one for each node and worker. Who needs it waits until the node has
//!   answered a Noop by a packet. Another first byte, a close, or silence for the connect time-out says that it does not
//!   speak like that: then it is asked in classic words, until it has greeted us on another connection, or is another
//!   memcached. Where no connection was made, or nothing said, that may have been chance: it is asked again after a while.
//! - Behind one address there may be several versions: a client goes by it whose own shared connection has said that it has
//!   no meta commands.
//! - Nothing is merged. The reads of a binary client go by this lane too, once it is there, with its writes: they need not
//!   wait for each other.
//! - The order of a client's requests for one key holds: what it has on this lane is counted, all keys together, and what
//!   goes by another lane of the node waits for all of it, and the other way round. That costs a client only what mixes
//!   classic words with others, and no list of keys.
//! - Known large values do not go apart: who asks for others behind them waits for them.

use std::time::Duration;

use super::buffer::{Input, SHARE};
use super::fail_reason::FailReason;
use super::failure::Failure;
use super::upstream::node::BinaryLane;
use super::upstream::{Entry, Role, Upstream};
use super::values::Desync;
use super::{Core, NodeId, UpstreamId};
use crate::metrics::Reason;
use crate::protocol::MAX_KEY;
use crate::protocol::binary::meta::{Asked, Body, Head};
use crate::protocol::binary::{HEADER_BYTES, REPLY_MAGIC};
use crate::protocol::request::{Keys, ReadVerb};

/// A node that did not answer by a packet is asked again after so long: it may have had no room for one more connection.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The same where it has answered otherwise, or closed, twice in a row.
const ASK_SELDOM: Duration = Duration::from_secs(300);

/// How a client's meta commands reach a node. The version of the connection that the client keeps to decides: behind one
/// address there may be several.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// As they are, by the client's shared lane.
    Lines(UpstreamId),
    /// By the lane in packets.
    Packets(UpstreamId),
    /// That is known when this lane has been greeted.
    Greeting(UpstreamId),
    /// In packets, when there is a lane for them again.
    Lost,
    /// Neither: the node is asked in classic words.
    Nowhere,
    /// The client's shared lane takes nothing.
    Down,
}

impl Way {
    /// Whether a meta command, given as its line with or without its CRLF, can be said like that.
    pub(super) fn says(self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        match self {
            Self::Lines(_) => Keys::new(line).nth(1).is_some_and(|key| key.len() <= MAX_KEY),
            Self::Packets(_) => Asked::read(line).is_some(),
            _ => false,
        }
    }
}

/// Why a request is not put on a lane.
pub(super) enum Unsaid {
    /// Its node cannot be asked.
    Down,
    /// Its node does not know it.
    NoMeta,
}

impl Core {
    // === which lane ===

    /// How the meta commands of a client of lane `lane` reach a node, as far as that is known.
    #[inline]
    pub(super) fn known_way(&self, node: NodeId, lane: usize) -> Way {
        let lines = self.lane(node, lane).and_then(|lane| Some((lane, self.upstreams.get(lane.0)?)));
        let (Some((lane, up)), Some(entry)) = (lines, self.nodes.get(node.0)) else { return Way::Down };
        if !up.is_greeted() {
            return Way::Greeting(lane);
        }
        if up.has_meta {
            return Way::Lines(lane);
        }
        let BinaryLane { lane, is_spoken, .. } = entry.binary;
        match self.upstreams.get(lane.0) {
            Some(up) if up.is_greeted() && up.takes_requests() => Way::Packets(lane),
            _ if is_spoken => Way::Lost,
            _ => Way::Nowhere,
        }
    }

    /// The same; where it can only be in packets their lane is opened.
    pub(super) fn way(&mut self, node: NodeId, lane: usize) -> Way {
        match self.known_way(node, lane) {
            Way::Lost | Way::Nowhere => match self.binary_lane(node) {
                Some(lane) if self.upstreams.get(lane.0).is_some_and(Upstream::is_greeted) => Way::Packets(lane),
                Some(lane) => Way::Greeting(lane),
                None => Way::Nowhere,
            },
            way => way,
        }
    }

    /// The lane in packets by which the meta commands of a client of lane `lane` go, if they do.
    #[inline]
    pub(super) fn in_packets(&self, node: NodeId, lane: usize) -> Option<UpstreamId> {
        match self.known_way(node, lane) {
            Way::Packets(lane) => Some(lane),
            _ => None,
        }
    }

    /// The lane by which a request of a client of lane `lane` goes; `meta`: it is a meta command.
    #[inline]
    pub(super) fn lane_for(&self, node: NodeId, lane: usize, meta: bool) -> Option<UpstreamId> {
        if meta { self.lane_for_meta(node, lane) } else { self.lane(node, lane) }
    }

    #[inline(never)]
    fn lane_for_meta(&self, node: NodeId, lane: usize) -> Option<UpstreamId> {
        match self.known_way(node, lane) {
            Way::Lines(lane) | Way::Packets(lane) => Some(lane),
            _ => None,
        }
    }

    /// The lane by which a meta command goes to a node that was not asked whether it knows it when the command was accepted:
    /// its block came first, or it is asked on.
    pub(super) fn meta_lane(&self, node: NodeId, lane: usize, line: &[u8]) -> Result<UpstreamId, Unsaid> {
        match self.known_way(node, lane) {
            way @ (Way::Lines(lane) | Way::Packets(lane)) if way.says(line) => Ok(lane),
            // The connection was lost meanwhile: which memcached answers next is not known.
            Way::Greeting(_) | Way::Lost | Way::Down => Err(Unsaid::Down),
            // Its key went to another node meanwhile, or the node is another memcached.
            Way::Lines(_) | Way::Packets(_) | Way::Nowhere => Err(Unsaid::NoMeta),
        }
    }

    /// The lane by which a node can be asked for one key of a read, given with its flags; else why it cannot, and what the
    /// client is told.
    pub(super) fn lane_that_says(
        &self,
        node: NodeId,
        lane: usize,
        verb: ReadVerb,
        text: &[u8],
    ) -> Result<UpstreamId, (Reason, String)> {
        let found = match verb {
            ReadVerb::Meta { verb, .. } => self.meta_lane(node, lane, &[verb.word().as_bytes(), b" ", text].concat()),
            _ => self.lane(node, lane).ok_or(Unsaid::Down),
        };
        found.map_err(|unsaid| match unsaid {
            Unsaid::Down => (Reason::Down, self.down_text(node)),
            Unsaid::NoMeta => (Reason::NodeError, self.needs_meta(node)),
        })
    }

    /// The lane in packets of a node that has no meta commands, ready or not, opened when it is first needed. `None`: the
    /// node does not speak like that.
    pub(super) fn binary_lane(&mut self, node: NodeId) -> Option<UpstreamId> {
        let now = self.shared.now;
        let Self { nodes, upstreams, .. } = self;
        let binary = &mut nodes.get_mut(node.0)?.binary;
        if binary.refused_until.is_some_and(|until| until > now) {
            return None;
        }
        if upstreams.get(binary.lane.0).is_some_and(|up| !up.is_draining()) {
            return Some(binary.lane);
        }
        // One that drains since the node was away is taken back, as its other lanes are.
        let is_here =
            |up: &Upstream| up.node == node && up.role == Role::Binary && up.is_draining() && !up.moved && !up.outdated;
        let back = upstreams.iter().find(|(_, up)| is_here(up)).map(|(key, _)| UpstreamId(key));
        let lane = match back {
            Some(lane) => lane,
            None => {
                let wait = nodes.get_mut(node.0)?.health.take_token(now);
                self.open_lane(node, Role::Binary, wait)
            }
        };
        let Self { nodes, upstreams, .. } = self;
        let (Some(up), Some(entry)) = (upstreams.get_mut(lane.0), nodes.get_mut(node.0)) else { return None };
        up.revive();
        (entry.binary.lane, entry.binary.is_spoken) = (lane, entry.binary.is_spoken || up.is_greeted());
        Some(lane)
    }

    // === whether it is spoken ===

    /// A node has answered by a packet.
    fn binary_greeted(&mut self, id: UpstreamId) {
        let Self { nodes, upstreams, .. } = self;
        let Some(up) = upstreams.get_mut(id.0) else { return };
        let node = up.node;
        up.fifo.pop();
        up.greeted();
        if let Some(entry) = nodes.get_mut(node.0).filter(|entry| entry.binary.lane == id) {
            entry.binary.is_spoken = true;
            entry.binary.refused_until = None;
        }
        self.release_waiters(id);
        // A large value may have waited for it.
        self.grant(node);
    }

    /// A node did not answer by a packet: who waited for that goes on without. Of a client's own lane nothing follows but
    /// that it is gone: another connection may lead elsewhere.
    pub(super) fn binary_refused(&mut self, id: UpstreamId, reason: FailReason) {
        let now = self.shared.now;
        let Self { nodes, upstreams, .. } = self;
        let Some(node) = upstreams.get(id.0).map(|up| up.node) else { return };
        let entry = nodes.get_mut(node.0).filter(|entry| entry.binary.lane == id);
        let is_shared = entry.is_some();
        if let Some(entry) = entry {
            let is_again = entry.binary.refused_until.is_some();
            let is_sure = matches!(reason, FailReason::Desync | FailReason::Closed);
            let until = now.after(if is_sure && is_again { ASK_SELDOM } else { ASK_AGAIN });
            entry.binary = BinaryLane { refused_until: Some(until), ..BinaryLane::UNKNOWN };
            if !is_again {
                let name = &entry.node.name;
                tracing::info!(node = %name, "node takes no connection in the binary protocol; it is asked in classic commands");
            }
        }
        self.drop_upstream(id, Failure::NONE);
        if is_shared {
            self.grant(node);
        }
    }

    /// A node is another one, elsewhere or gone: its lane in packets takes nothing new.
    pub(super) fn leave_binary(&mut self, node: NodeId) {
        let Some(entry) = self.nodes.get_mut(node.0) else { return };
        let lane = std::mem::replace(&mut entry.binary, BinaryLane::UNKNOWN).lane;
        self.release_waiters(lane);
        let Some(up) = self.upstreams.get_mut(lane.0) else { return };
        if !up.is_greeted() {
            return self.drop_upstream(lane, Failure::NONE);
        }
        up.drain();
        self.release_lane(lane);
    }

    // === what it answers ===

    /// A node's packets → the lines that stand for them.
    pub(super) fn read_packets(&mut self, id: UpstreamId, input: Input<'_>) -> Result<(), Desync> {
        let mut at = 0;
        while at < input.bytes.len() {
            let rest = input.after(at);
            let Self { upstreams, shared, .. } = self;
            let Some(up) = upstreams.get_mut(id.0) else { return Ok(()) };
            if let Some(body) = &up.body {
                let left = usize::try_from(body.left).unwrap_or(usize::MAX).saturating_sub(2);
                at += self.packet_piece(id, left, rest)?;
                continue;
            }
            if up.unasked > 0 {
                let passed = up.unasked.min(rest.bytes.len());
                up.unasked -= passed;
                at += passed;
                continue;
            }
            if !up.may_speak() {
                return Err(Desync);
            }
            if up.partial.capacity() == 0 {
                up.partial = shared.pool.take();
            }
            let needed = needed(up)?;
            let missing = needed.saturating_sub(up.partial.len()).min(rest.bytes.len());
            up.partial.extend_from_slice(rest.bytes.get(..missing).unwrap_or_default());
            at += missing;
            if up.partial.first() != Some(&REPLY_MAGIC) {
                return Err(Desync);
            }
            // With its header it is known how much more is needed.
            if up.partial.len() < needed.max(HEADER_BYTES) || up.partial.len() < self::needed(up)? {
                continue;
            }
            let packet = std::mem::take(&mut up.partial);
            at += self.node_packet(id, &packet, input.after(at))?;
            self.shared.pool.put(packet);
        }
        Ok(())
    }

    /// A piece of a value of which `left` bytes are to come. Returns how much of `rest` it was.
    fn packet_piece(&mut self, id: UpstreamId, left: usize, rest: Input<'_>) -> Result<usize, Desync> {
        let used = left.min(rest.bytes.len());
        self.value_piece(id, rest.part(0..used))?;
        if used == left {
            // As a line has it behind its value.
            self.value_piece(id, Input::borrowed(b"\r\n"))?;
        }
        Ok(used)
    }

    /// A packet, as far as it is needed. Returns how much of what is `behind` it belonged to it: a whole value.
    fn node_packet(&mut self, id: UpstreamId, packet: &[u8], behind: Input<'_>) -> Result<usize, Desync> {
        let head = Head::read(packet).ok_or(Desync)?;
        let entry = self.upstreams.get(id.0).and_then(|up| up.fifo.front()).ok_or(Desync)?;
        if matches!(entry, Entry::Version) {
            self.binary_greeted(id);
            return Ok(0);
        }
        let asked = entry.line().and_then(Asked::read).ok_or(Desync)?;
        let (mut line, mut block) = (self.shared.pool.take(), self.shared.pool.take());
        let mut used = 0;
        let mut unasked = 0;
        let body = asked.body(&head).ok_or(Desync)?;
        match body {
            Body::Small(_) => asked.say(&head, packet, &mut line, &mut block),
            Body::Value(len) => {
                asked.announce(&head, packet, len, &mut line);
                match behind.bytes.get(..len).filter(|_| len < SHARE) {
                    _ if !asked.tells_value() => unasked = len,
                    Some(value) => {
                        used = len;
                        block.extend_from_slice(value);
                        block.extend_from_slice(b"\r\n");
                    }
                    // It comes by pieces.
                    None => {}
                }
            }
        }
        self.reply_line(id, &line, Input::borrowed(&block))?;
        self.shared.pool.put(line);
        self.shared.pool.put(block);
        if let Some(up) = self.upstreams.get_mut(id.0) {
            up.unasked = unasked;
        }
        Ok(used)
    }
}

/// How many bytes of the packet that is arriving are needed before it can be acted on.
fn needed(up: &Upstream) -> Result<usize, Desync> {
    let Some(head) = Head::read(&up.partial) else { return Ok(HEADER_BYTES) };
    match up.fifo.front().ok_or(Desync)? {
        Entry::Version => head.is_greeting().then_some(HEADER_BYTES).ok_or(Desync),
        entry => {
            let asked = entry.line().and_then(Asked::read).ok_or(Desync)?;
            Ok(asked.body(&head).ok_or(Desync)?.needed())
        }
    }
}
