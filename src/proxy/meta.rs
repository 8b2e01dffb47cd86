//! Meta commands: `mg ms md ma me` on their way down. `mn` needs no node: replies keep the order of the requests.
//!
//! Each is sent as it is, but for `q`: what it hides is left out here, so that every request on a lane has one reply. One
//! that may be answered by a value goes the way of a read of one key, its flags taken as a part of the key; it is never
//! merged, for its answer tells more than a value. The others are requests with a reply of one line.

use super::binary_lanes::Way;
use super::buffer::Input;
use super::client::replies::Stamp;
use super::client::{Arriving, Reading, Stall, Taken, Target};
use super::ids::Stage;
use super::large::Wanted;
use super::upstream::node::Version;
use super::{ClientId, Core, NodeId, UpstreamId};
use crate::metrics::{Reason, SIZES, Wait};
use crate::protocol::command::Command;
use crate::protocol::form::Form;
use crate::protocol::meta::classic::{Classic, classic};
use crate::protocol::meta::request::{Meta, Verb};
use crate::protocol::request::{Keys, ReadVerb, StoreVerb};
use crate::protocol::{MAX_KEY, binary};
use crate::routing::Topology;

/// Whether a node knows the meta commands, as far as a client is concerned.
pub(super) enum Speaks {
    Yes,
    /// It has not said which memcached it is, or not whether it speaks the binary protocol: the client waits.
    NotYet,
    /// It is told them in packets.
    InPackets(NodeId),
    /// Not even that.
    No(NodeId),
}

impl Core {
    /// `said` is the line.
    pub(super) fn meta(&mut self, id: ClientId, meta: &Meta<'_>, said: &[u8], after: Input<'_>) -> Taken {
        let mut decoded = [0; MAX_KEY];
        let key = meta.routing_key(&mut decoded);
        match self.speaks_meta(id, key, Topology::hash(key)) {
            Speaks::Yes => {}
            Speaks::NotYet => return Taken::Stalled,
            Speaks::InPackets(node) => {
                if let Some(flag) = binary::meta::unsaid(meta) {
                    return self.refuse_flag(id, meta, flag, node);
                }
            }
            Speaks::No(node) => return self.meta_in_classic(id, (meta, said), key, after, node),
        }
        if self.awaits_old(id, key, Topology::hash(key)) {
            return Taken::Stalled;
        }
        let mut line = std::mem::take(&mut self.shared.line);
        line.clear();
        meta.write(&mut line);
        let taken = match meta.verb {
            Verb::Get | Verb::Debug => self.meta_read(id, (meta, said), key, &line),
            Verb::Arithmetic if meta.tells_value() => self.meta_read(id, (meta, said), key, &line),
            Verb::Set => {
                let target = Target::meta(Topology::hash(key), Command::MetaSet, meta.quiet);
                let replaces = meta.mode == b'S';
                self.take_value(
                    id,
                    &Arriving { header: &line, key, len: meta.len, replaces, target, tail: &[], is_closed: true },
                    after,
                )
            }
            Verb::Delete | Verb::Arithmetic => self.meta_change(id, meta, key, &line),
        };
        self.shared.line = line;
        taken
    }

    /// One that its node cannot be told, for a flag.
    fn refuse_flag(&mut self, id: ClientId, meta: &Meta<'_>, flag: u8, node: NodeId) -> Taken {
        let what = if meta.verb == Verb::Debug { "me".to_owned() } else { char::from(flag).to_string() };
        let text = format!("CLIENT_ERROR {what} needs memcached 1.6 at node {}\r\n", self.node_name(node));
        self.meta_unasked(id, meta, Reason::NodeError, &text, false);
        Taken::Yes(0)
    }

    /// One for a node without meta commands that does not speak the binary protocol: what classic words can say.
    fn meta_in_classic(
        &mut self,
        id: ClientId,
        (meta, said): (&Meta<'_>, &[u8]),
        key: &[u8],
        after: Input<'_>,
        node: NodeId,
    ) -> Taken {
        let asked = match classic(meta, key) {
            Ok(asked) => asked,
            Err(flag) => return self.refuse_flag(id, meta, flag, node),
        };
        let form = Form::Classic;
        let target = Target { form, ..Target::text(Topology::hash(key), meta.verb.into(), false) };
        self.in_classic(id, asked, key, target, (said, true), after)
    }

    /// A request of another dialect in classic words. `tail` as in
    /// [`Replies::set_tail`](super::client::replies::Replies::set_tail); `is_closed`: its client closes a block with CRLF.
    pub(super) fn in_classic(
        &mut self,
        id: ClientId,
        asked: Classic<'_>,
        key: &[u8],
        target: Target,
        (tail, is_closed): (&[u8], bool),
        after: Input<'_>,
    ) -> Taken {
        let mut line = std::mem::take(&mut self.shared.line);
        line.clear();
        let taken = match asked {
            Classic::Read(verb) => self.read(id, verb, Keys::new(key), target.form, tail),
            Classic::Store(store) => {
                store.write(&mut line);
                let target = Target { command: store.verb.into(), ..target };
                let (len, replaces) = (store.len, store.verb == StoreVerb::Set);
                let header = &line;
                self.take_value(id, &Arriving { header, key, len, replaces, target, tail, is_closed }, after)
            }
            Classic::Change(change) => {
                let target = Target { command: change.into(), ..target };
                let stalls = self.stalls_on(id, key, target.hash, false);
                if !stalls {
                    self.shared.sample(key, target.hash);
                    self.shared.cells().command(target.command);
                    change.write(key, &mut line);
                    self.enqueue(id, &line, target, tail);
                }
                if stalls { Taken::Stalled } else { Taken::Yes(0) }
            }
        };
        self.shared.line = line;
        taken
    }

    /// Whether the node of a key knows the meta commands, or can be told them in packets. To one that does not know them,
    /// the block of an `ms` would be commands: so they wait until the connection has said its version, and go by that
    /// alone. Behind one address there may be several versions.
    pub(super) fn speaks_meta(&mut self, id: ClientId, key: &[u8], hash: u64) -> Speaks {
        let node = self.owner(hash, || key);
        self.node_speaks_meta(id, node)
    }

    /// Whether a client has to wait until the old place of a key has said its version.
    pub(super) fn awaits_old(&mut self, id: ClientId, key: &[u8], hash: u64) -> bool {
        let places = self.places(hash, || key);
        places.is_some_and(|places| matches!(self.node_speaks_meta(id, places.old), Speaks::NotYet))
    }

    /// Whether a node knows the meta commands.
    fn node_speaks_meta(&mut self, id: ClientId, node: NodeId) -> Speaks {
        let Some(client) = self.clients.get(id.0) else { return Speaks::Yes };
        let lane = match self.way(node, client.lane) {
            // One that is down is answered so.
            Way::Lines(_) | Way::Down => return Speaks::Yes,
            Way::Packets(_) => return Speaks::InPackets(node),
            Way::Lost | Way::Nowhere => return Speaks::No(node),
            Way::Greeting(lane) => lane,
        };
        self.await_greeting(id, lane);
        Speaks::NotYet
    }

    /// A client waits until a lane has said its version, or by a packet that it speaks like that.
    pub(super) fn await_greeting(&mut self, id: ClientId, lane: UpstreamId) {
        let Self { clients, upstreams, shared, .. } = self;
        if let (Some(client), Some(up)) = (clients.get_mut(id.0), upstreams.get_mut(lane.0)) {
            client.stall = Stall::Lane;
            shared.cells().waits(Wait::Lane);
            up.waiters.push_back(id);
        }
    }

    /// Whether a client has to wait until the node of a key has said its version.
    pub(super) fn awaits_version(&mut self, id: ClientId, key: &[u8], hash: u64) -> bool {
        matches!(self.speaks_meta(id, key, hash), Speaks::NotYet)
    }

    /// Whether a node has last said that it knows the meta commands. That no block is sent by: see [`Self::speaks_meta`].
    pub(super) fn knew_meta(&self, node: NodeId) -> bool {
        let entry = self.nodes.get(node.0);
        entry.and_then(|entry| entry.version.as_ref()).is_some_and(Version::has_meta)
    }

    /// What a client is told whose request was to go to a node as a meta command, which does not know them any more.
    pub(super) fn needs_meta(&self, node: NodeId) -> String {
        format!("SERVER_ERROR proxy: the request needs memcached 1.6 at node {}\r\n", self.node_name(node))
    }

    /// A command whose reply may be a value.
    fn meta_read(&mut self, id: ClientId, (meta, said): (&Meta<'_>, &[u8]), key: &[u8], line: &[u8]) -> Taken {
        if meta.keeps_key {
            return self.read_line(id, meta.read_verb(), key, line, Form::KeptKey { quiet: meta.quiet }, said);
        }
        let mut tail = self.shared.pool.take();
        if !meta.quiet && meta.tells_misses() {
            meta.soft_miss(&mut tail);
        }
        let form = Form::Meta { quiet: meta.quiet, reads: meta.verb != Verb::Arithmetic };
        let taken = self.read_line(id, meta.read_verb(), key, line, form, &tail);
        self.shared.pool.put(tail);
        taken
    }

    /// A line of a meta command that may be answered by a value, and how its client is answered; `tail` as in
    /// [`Replies::set_tail`](super::client::replies::Replies::set_tail).
    pub(super) fn read_line(
        &mut self,
        id: ClientId,
        verb: ReadVerb,
        key: &[u8],
        line: &[u8],
        form: Form,
        tail: &[u8],
    ) -> Taken {
        let hash = Topology::hash(key);
        // The verb and CRLF apart.
        let text = line.get(3..line.len().saturating_sub(2)).unwrap_or_default();
        if self.has_moves(id) {
            if self.stalls_on_moved_read(id, verb, key, hash) {
                self.hold_nothing(id);
                return Taken::Stalled;
            }
            if self.is_of_old(id, verb, hash, line, form, tail) {
                return Taken::Yes(0);
            }
        }
        let Some(client) = self.clients.get(id.0) else { return Taken::Yes(0) };
        let in_packets = self.in_packets(self.owner(hash, || key), client.lane).is_some();
        // A number is never large, even where the key had a large value. It goes by the shared lane, which has said that it
        // knows meta commands; the lane for large values may have been opened just now.
        let is_small = !matches!(verb, ReadVerb::Meta { verb: Verb::Get, .. });
        if self.stalls_on_full(id, key, hash, true)
            || verb.writes() && self.stalls_behind(id, key, hash, true)
            || (in_packets || is_small) && self.stalls_elsewhere(id, key, hash, true)
        {
            self.hold_nothing(id);
            return Taken::Stalled;
        }
        let Some(client) = self.clients.get(id.0) else { return Taken::Yes(0) };
        let lane = client.lane;
        let nothing_large =
            self.shared.large_keys.is_empty() && client.elsewhere.is_empty() && client.promised == 0 && !client.no_room;
        // In packets all values come by one lane; one that finds no room is asked for again.
        let plain = in_packets || is_small || nothing_large;
        if !plain && self.large_read_waits(id, verb, std::iter::once(Wanted { text, hash, key })) {
            return Taken::Stalled;
        }
        let Some(seq) = self.owe_read(id, verb, form, tail) else { return Taken::Yes(0) };
        self.shared.sample(key, hash);
        self.shared.cells().command(verb.into());
        self.shared.cells().multigets.record(1, &SIZES);
        let node = self.owner(hash, || key);
        let stage = self.stage_of(node, hash, || key);
        self.invalidate_beside(id, verb, text, hash, || key);
        let bare = self.begin_stages(id, seq, verb, text, hash, stage);
        let said = bare.as_deref().unwrap_or(text);
        let lost = self.read_key(id, seq, 0, node, verb, said, hash, lane, plain, stage).is_err();
        if lost && stage != Stage::Plain && verb.takes_steps() {
            self.end_stages(id, seq, hash);
        }
        let error = if lost { self.count_lost(verb, node, 1) } else { None };
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            if let Some(text) = error {
                client.replies.fail(seq, text.as_bytes(), &mut shared.pool);
            }
            client.replies.close_read(seq, &mut shared.pool);
            if !plain || in_packets || is_small {
                client.break_promise(shared);
            }
        }
        Taken::Yes(0)
    }

    /// A command without a block and with a reply of one line.
    fn meta_change(&mut self, id: ClientId, meta: &Meta<'_>, key: &[u8], line: &[u8]) -> Taken {
        let target = Target::meta(Topology::hash(key), meta.verb.into(), meta.quiet);
        if self.stalls_on(id, key, target.hash, true) {
            return Taken::Stalled;
        }
        self.shared.sample(key, target.hash);
        self.shared.cells().command(target.command);
        // With `I` the value stays, and with `C` or `x` it may.
        if meta.verb == Verb::Delete && !meta.flags().any(|flag| matches!(flag.first(), Some(b'I' | b'C' | b'x'))) {
            self.shared.large_keys.forget(target.hash);
        }
        self.enqueue(id, line, target, &[]);
        Taken::Yes(0)
    }

    /// Answers one that is not carried out: by `text`, or, where it `may_miss`, by a miss if it is a read.
    pub(super) fn meta_unasked(&mut self, id: ClientId, meta: &Meta<'_>, reason: Reason, text: &str, may_miss: bool) {
        let command = Command::from(meta.verb);
        self.shared.cells().command(command);
        if !matches!(meta.verb, Verb::Get | Verb::Debug) {
            self.shared.cells().soft(command, reason, 1, false);
            self.answer_for(id, Target::meta(0, command, meta.quiet), text.as_bytes());
            if let (Verb::Set, Some(client)) = (meta.verb, self.clients.get_mut(id.0)) {
                client.reading = Reading::Swallow(meta.len as u64 + 2);
            }
            return;
        }
        let misses = may_miss && self.shared.may_miss(meta.read_verb());
        self.shared.cells().soft(command, reason, 1, misses);
        let mut tail = Vec::new();
        if !meta.quiet && meta.tells_misses() {
            meta.soft_miss(&mut tail);
        }
        let form = Form::Meta { quiet: meta.quiet, reads: true };
        if let Some(seq) = self.owe_read(id, meta.read_verb(), form, &tail) {
            self.read_unasked(id, seq, (!misses).then_some(text));
        }
    }

    /// Owes the reply to a command that may be answered by a value.
    #[inline]
    pub(super) fn owe_read(&mut self, id: ClientId, verb: ReadVerb, form: Form, tail: &[u8]) -> Option<u32> {
        let Self { clients, shared, .. } = self;
        let client = clients.get_mut(id.0)?;
        let stamp = Stamp { kind: Command::from(verb).into(), arrived_at: shared.now };
        let seq = client.replies.push_read(stamp, form);
        if !tail.is_empty() {
            client.replies.set_tail(seq, tail);
        }
        Some(seq)
    }

    /// The answer to a read that is not carried out: by `text`, or by a miss where it `may_miss`.
    pub(super) fn read_unasked(&mut self, id: ClientId, seq: u32, text: Option<&str>) {
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            if let Some(text) = text {
                client.replies.fail(seq, text.as_bytes(), &mut shared.pool);
            }
            client.replies.close_read(seq, &mut shared.pool);
        }
    }
}

impl Meta<'_> {
    /// As one of the commands that are answered by values.
    fn read_verb(&self) -> ReadVerb {
        ReadVerb::Meta { verb: self.verb, command: self.verb.into(), writes: self.writes }
    }
}

impl From<Verb> for Command {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Get => Self::MetaGet,
            Verb::Set => Self::MetaSet,
            Verb::Delete => Self::MetaDelete,
            Verb::Arithmetic => Self::MetaArithmetic,
            Verb::Debug => Self::MetaDebug,
        }
    }
}
