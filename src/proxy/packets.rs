//! Packets of the binary protocol on their way down.
//!
//! Nodes are asked in text: a read joins the merged `gets`, the rest becomes a meta command (`protocol/binary/translate`).
//! A node before 1.6.10 gets these commands, and the reads, in packets again, loud ones (`binary_lanes.rs`).
//! The reply is written in binary where it is put into the client's queue (`client/replies.rs`).

use super::buffer::Input;
use super::client::{self, Arriving, Reading, Taken, Target};
use super::meta::Speaks;
use super::{ClientId, Core, NodeId};
use crate::metrics::{Kind, Outcome, Reason};
use crate::protocol::binary::reply::{Reply, Status};
use crate::protocol::binary::request::{self, Action, Header, Packet, Refusal};
use crate::protocol::binary::{HEADER_BYTES, translate};
use crate::protocol::command::Command;
use crate::protocol::form::Form;
use crate::protocol::meta::classic::Classic;
use crate::protocol::meta::request::Verb;
use crate::protocol::request::{Change, Keys, ReadVerb, Request, Store, StoreVerb};
use crate::protocol::{is_key, text};
use crate::routing::Topology;

impl Core {
    /// Acts on one packet and its value. `None`: not whole, or not now.
    pub(super) fn parse_packet(&mut self, id: ClientId, input: Input<'_>) -> Option<usize> {
        let Ok(header) = Header::read(input.bytes)? else {
            // As memcached: out of step, closed without a word.
            if let Some(client) = self.clients.get_mut(id.0) {
                client.input = client::Input::Refused;
            }
            return Some(input.bytes.len());
        };
        if let Err(refusal) = header.check() {
            self.refuse_packet(id, &refusal);
            return Some(HEADER_BYTES);
        }
        let len = header.head_len();
        let head = input.bytes.get(..len)?;
        match self.packet(id, head, input.after(len)) {
            Taken::Yes(more) => {
                self.shared.cells().packets.add(1);
                Some(len + more)
            }
            Taken::Stalled => None,
        }
    }

    fn packet(&mut self, id: ClientId, head: &[u8], after: Input<'_>) -> Taken {
        let packet = match request::parse(head, self.shared.settings.max_value) {
            Ok(packet) => packet,
            Err(refusal) => {
                if let Some(key) = refusal.stale {
                    let hash = Topology::hash(key);
                    if self.stalls_on(id, key, hash, false) || !is_key(key) && self.awaits_version(id, key, hash) {
                        return Taken::Stalled;
                    }
                }
                self.refuse_packet(id, &refusal);
                return Taken::Yes(0);
            }
        };
        let flush = matches!(packet.action, Action::Flush { .. }) && !self.shared.settings.deny_flush_all;
        if self.ring.is_empty() && (packet.key().is_some() || flush) && self.stalls_on_ring(id) {
            return Taken::Stalled;
        }
        let form = Form::Binary(translate::Form::from(&packet));
        if let Some(key) = packet.key() {
            return self.packet_of_key(id, &packet, key, form, after);
        }
        let Packet { opcode, opaque, quiet, .. } = packet;
        match packet.action {
            Action::Flush { delay } => {
                return self.flush_all(id, delay.map(translate::text_exptime), false, form);
            }
            Action::Stat { group } => return self.packet_stats(id, &packet, group, form),
            Action::Version => {
                let version = self.lowest_version().to_owned();
                self.answer_packet(id, &Reply { value: version.as_bytes(), ..Reply::ok(opcode, opaque) });
            }
            Action::Quit => {
                if quiet {
                    self.count_here(Outcome::Ok);
                } else {
                    self.answer_packet(id, &Reply::ok(opcode, opaque));
                }
                if let Some(client) = self.clients.get_mut(id.0) {
                    client.input = client::Input::Quit;
                }
            }
            Action::Config { key } => match self.discovery_payload(id).filter(|_| key == b"cluster") {
                Some(nodes) => {
                    let reply = Reply { extras: &[0; 4], value: nodes.as_bytes(), ..Reply::ok(opcode, opaque) };
                    self.answer_packet(id, &reply);
                }
                // As memcached, which does not know it.
                None => self.answer_packet(id, &Reply::error(opcode, opaque, Status::UnknownCommand)),
            },
            _ => self.answer_packet(id, &Reply::ok(opcode, opaque)),
        }
        Taken::Yes(0)
    }

    /// One that is about a key.
    fn packet_of_key(&mut self, id: ClientId, packet: &Packet<'_>, key: &[u8], form: Form, after: Input<'_>) -> Taken {
        let hash = Topology::hash(key);
        let Some(client) = self.clients.get(id.0) else { return Taken::Yes(0) };
        let merges = !translate::is_odd(key) && self.in_packets(self.owner(hash, || key), client.lane).is_none();
        if let (Action::Read { exptime, .. }, true) = (packet.action, merges) {
            let verb = exptime.map_or(ReadVerb::Gets, |exptime| ReadVerb::Gats(translate::text_exptime(exptime)));
            return self.read(id, verb, Keys::new(key), form, told_of_miss(packet, false));
        }
        let in_packets = match self.speaks_meta(id, key, hash) {
            Speaks::Yes => false,
            Speaks::NotYet => return Taken::Stalled,
            Speaks::InPackets(_) => true,
            Speaks::No(node) => return self.packet_in_classic(id, packet, key, form, after, node),
        };
        if self.awaits_old(id, key, hash) {
            return Taken::Stalled;
        }
        let mut line = std::mem::take(&mut self.shared.line);
        line.clear();
        let said = match in_packets {
            true => translate::write_long_line(packet, &mut line),
            false => translate::write_line(packet, &mut line),
        };
        let taken = match said {
            Ok(()) => self.translated(id, packet, key, &line, form, after),
            Err(_) => {
                // In base64 the key is too long for a line.
                let Packet { opcode, opaque, .. } = *packet;
                self.answer_packet(id, &Reply::error(opcode, opaque, Status::InvalidArguments));
                self.swallow(id, packet.value_len as u64);
                Taken::Yes(0)
            }
        };
        self.shared.line = line;
        taken
    }

    /// One that is sent as the meta command `line`.
    fn translated(
        &mut self,
        id: ClientId,
        packet: &Packet<'_>,
        key: &[u8],
        line: &[u8],
        form: Form,
        after: Input<'_>,
    ) -> Taken {
        let command = Command::from(&packet.action);
        let hash = Topology::hash(key);
        let target = Target { hash, quiet: false, command, form, meta: true };
        match packet.action {
            Action::Delete { .. } => {
                if self.stalls_on(id, key, hash, true) {
                    return Taken::Stalled;
                }
                self.shared.sample(key, hash);
                self.shared.cells().command(command);
                self.shared.large_keys.forget(hash);
                self.enqueue(id, line, target, &[]);
                Taken::Yes(0)
            }
            Action::Store { .. } | Action::Join { .. } => {
                let replaces = matches!(packet.action, Action::Store { verb: StoreVerb::Set, .. });
                let len = packet.value_len;
                self.take_value(
                    id,
                    &Arriving { header: line, key, len, replaces, target, tail: &[], is_closed: false },
                    after,
                )
            }
            _ => self.read_line(id, packet.read_verb(), key, line, form, told_of_miss(packet, true)),
        }
    }

    /// One for a node without meta commands that does not speak the binary protocol: what classic words can say.
    fn packet_in_classic(
        &mut self,
        id: ClientId,
        packet: &Packet<'_>,
        key: &[u8],
        form: Form,
        after: Input<'_>,
        node: NodeId,
    ) -> Taken {
        let Some(asked) = packet.classic(key) else {
            let text = self.needs_meta(node);
            self.packet_unasked(id, packet, Reason::NodeError, &text, false);
            return Taken::Yes(0);
        };
        let target = Target { form, ..Target::text(Topology::hash(key), Command::from(&packet.action), false) };
        self.in_classic(id, asked, key, target, (&[], false), after)
    }

    fn packet_stats(&mut self, id: ClientId, packet: &Packet<'_>, group: &[u8], form: Form) -> Taken {
        let line = [b"stats ", group].concat();
        if let Ok(Request::Stats(what)) = text::request::parse(&line, 0) {
            return self.stats(id, what, form);
        }
        self.answer_packet(id, &Reply::error(packet.opcode, packet.opaque, Status::NotFound));
        Taken::Yes(0)
    }

    /// Answers one that is not carried out: by `text`, or, where it `may_miss`, by a miss if it is a read.
    pub(super) fn packet_unasked(
        &mut self,
        id: ClientId,
        packet: &Packet<'_>,
        reason: Reason,
        text: &str,
        may_miss: bool,
    ) {
        let form = Form::Binary(translate::Form::from(packet));
        let command = Command::from(&packet.action);
        self.shared.cells().command(command);
        let reads = matches!(packet.action, Action::Read { .. } | Action::Touch { .. });
        if reads {
            let misses = may_miss && self.shared.misses();
            self.shared.cells().soft(command, reason, 1, misses);
            if let Some(seq) = self.owe_read(id, packet.read_verb(), form, told_of_miss(packet, true)) {
                self.read_unasked(id, seq, (!misses).then_some(text));
            }
        } else {
            self.shared.cells().soft(command, reason, 1, false);
            self.answer_in(id, command.into(), form, text.as_bytes(), false);
        }
        self.swallow(id, packet.value_len as u64);
    }

    /// The next packet of a client does not get what it waits for. Returns how many of its bytes are answered.
    pub(super) fn refuse_next_packet(&mut self, id: ClientId, bytes: &[u8], reason: Reason, text: &str) -> usize {
        let Some(Ok(header)) = Header::read(bytes) else { return 0 };
        let Some(head) = bytes.get(..header.head_len()) else { return 0 };
        match request::parse(head, self.shared.settings.max_value) {
            Ok(packet) => self.packet_unasked(id, &packet, reason, text, true),
            // It only waited for what it would have made of an old value.
            Err(refusal) => self.refuse_packet(id, &Refusal { stale: None, ..refusal }),
        }
        head.len()
    }

    fn refuse_packet(&mut self, id: ClientId, refusal: &Refusal<'_>) {
        if refusal.status == Status::TooLarge {
            self.shared.cells().stores_too_large.add(1);
        }
        self.count_here(Outcome::ClientError);
        if let Some(key) = refusal.stale {
            // As in memcached: what could not be stored must not leave the old value behind.
            self.invalidate(id, key);
        }
        let mut packet = self.shared.pool.take();
        refusal.write(&mut packet);
        self.answer_in(id, Kind::Other, Form::Text, &packet, false);
        self.shared.pool.put(packet);
        if refusal.close {
            if let Some(client) = self.clients.get_mut(id.0) {
                client.input = client::Input::Refused;
            }
        } else {
            self.swallow(id, refusal.swallow);
        }
    }

    /// Answers what needs no node.
    fn answer_packet(&mut self, id: ClientId, reply: &Reply<'_>) {
        self.count_here(if reply.status == Status::Ok { Outcome::Ok } else { Outcome::ClientError });
        let mut packet = self.shared.pool.take();
        reply.write(&mut packet);
        self.answer_in(id, Kind::Other, Form::Text, &packet, false);
        self.shared.pool.put(packet);
    }

    /// So many of the next bytes of a client are dropped.
    fn swallow(&mut self, id: ClientId, bytes: u64) {
        if let Some(client) = self.clients.get_mut(id.0).filter(|_| bytes > 0) {
            client.reading = Reading::Swallow(bytes);
        }
    }
}

/// The key, where a client is told it and the answer of a node does not name it: a miss, and one that `is_meta`.
fn told_of_miss<'a>(packet: &Packet<'a>, is_meta: bool) -> &'a [u8] {
    match packet.action {
        Action::Read { key, with_key: true, .. } if is_meta || !packet.quiet => key,
        _ => &[],
    }
}

impl Packet<'_> {
    /// The same in classic words, where there are any; `key` is its key.
    fn classic<'a>(&self, key: &'a [u8]) -> Option<Classic<'a>> {
        if translate::is_odd(key) {
            return None;
        }
        let store = |verb, flags, exptime| {
            let (len, unique) = (self.value_len, self.cas);
            Classic::Store(Store { verb, key, flags, exptime, len, unique, quiet: false })
        };
        Some(match self.action {
            Action::Store { flags, exptime, .. } if self.cas != 0 => {
                store(StoreVerb::Cas, flags.into(), translate::text_exptime(exptime))
            }
            Action::Store { verb, flags, exptime, .. } => store(verb, flags.into(), translate::text_exptime(exptime)),
            Action::Touch { exptime, .. } => Classic::Change(Change::Touch(translate::text_exptime(exptime))),
            _ if self.cas != 0 => return None,
            Action::Join { verb, .. } => store(verb, 0, 0),
            Action::Delete { .. } => Classic::Change(Change::Delete),
            Action::Count { incr: true, delta, initial: None, .. } => Classic::Change(Change::Incr(delta)),
            Action::Count { delta, initial: None, .. } => Classic::Change(Change::Decr(delta)),
            _ => return None,
        })
    }

    /// As one of the commands that are answered by values.
    fn read_verb(&self) -> ReadVerb {
        let command = Command::from(&self.action);
        match self.action {
            Action::Count { .. } => ReadVerb::Meta { verb: Verb::Arithmetic, command, writes: true },
            _ => ReadVerb::Meta { verb: Verb::Get, command, writes: false },
        }
    }
}

impl From<&Action<'_>> for Command {
    fn from(action: &Action<'_>) -> Self {
        match *action {
            Action::Read { exptime: None, .. } => Self::Get,
            Action::Read { .. } => Self::Gat,
            Action::Touch { .. } => Self::Touch,
            Action::Store { verb, .. } | Action::Join { verb, .. } => verb.into(),
            Action::Delete { .. } => Self::Delete,
            Action::Count { incr: true, .. } => Self::Incr,
            Action::Count { .. } => Self::Decr,
            Action::Flush { .. } => Self::FlushAll,
            Action::Stat { .. } => Self::Stats,
            Action::Noop | Action::Version | Action::Quit | Action::Config { .. } => Self::Other,
        }
    }
}
