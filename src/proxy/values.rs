//! HOT: the values of reads, from a lane to the places where they were asked for.
//!
//! # Which keys have no value
//! memcached answers the keys of a line in the order asked, so a key is passed over once a later one is answered, and
//! its readers go on. A node that has ever answered otherwise (a proxy may) has its misses decided at `END` only; so has
//! every node where gets are not merged, for there it may be a proxy.

use std::borrow::Cow;

use super::buffer::{Input, SHARE, SHARE_COPY};
use super::client::Client;
use super::ids::Stage;
use super::second_places::{Onward, Reader};
use super::shared::Shared;
use super::table::Table;
use super::upstream::group::{Found, Group};
use super::upstream::{Body, Entry, Role, Upstream};
use super::{CloseReason, Core, UpstreamId};
use crate::metrics::{Outcome, Reason};
use crate::protocol::command::Command;
use crate::protocol::meta::reply::as_first_told;
use crate::protocol::request::ReadVerb;
use crate::protocol::uniques;

/// What a reader is told when there is no room for a value, where errors are asked for.
pub(super) const NO_MEMORY: &[u8] = b"SERVER_ERROR proxy: out of memory for the value\r\n";
/// A value that flows as fast as it is read is written in pieces of so many bytes: each write wakes its reader, and who
/// waits for the rest of a value has little use for a part of it.
const FLOW: usize = 512 << 10;

/// The connection is out of step (invariant C).
#[derive(Debug)]
pub(super) struct Desync;

impl Core {
    /// A `VALUE` names a key further on, or further back, than the next: what that says of the others.
    pub(super) fn pass_over(&mut self, id: UpstreamId, found: Found) {
        if found.backwards {
            return self.note_disorder(id);
        }
        for key in found.from..found.key {
            // One after the other: a read must know of what it asks again before its last key ends it.
            let denied = self.pass_over_key(id, key);
            self.pass_by_all(id, &denied, &[]);
            self.pass_on(id, key);
        }
    }

    /// A key of the group at a lane's head has no value. Returns those who ask for it again for an earlier place.
    #[inline]
    fn pass_over_key(&mut self, id: UpstreamId, key: usize) -> Vec<(usize, Reader)> {
        let Self { upstreams, clients, shared, .. } = self;
        let mut denied = Vec::new();
        let Some(Upstream { in_order: true, fifo, .. }) = upstreams.get_mut(id.0) else { return denied };
        let Some(Entry::Group(group)) = fifo.front_mut() else { return denied };
        if !group.pass_over(key) {
            return denied;
        }
        let command = Command::from(group.verb);
        let early = group.members.len() > 1;
        let hash = group.hasher();
        let (members, askers, text) = group.split(key);
        for asker in askers {
            let Some(member) = members.get_mut(asker.member).filter(|member| !member.done) else { continue };
            member.left = member.left.saturating_sub(1);
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            if client.asks_again(|| hash(text)) {
                denied.push((key, member.reader(asker.place)));
                continue;
            }
            if member.stage != Stage::Plain {
                // In a moment, when the lane is free to be looked at.
                shared.passed_on.push((asker.member, asker.place));
                continue;
            }
            member.done = early && member.left == 0;
            shared.cells().request(command, Outcome::Miss, 1);
            client.saw_value(0);
            client.replies.miss(member.seq, asker.place, &mut shared.pool);
            if member.done {
                client.replies.part_done(member.seq, &mut shared.pool);
            }
            client.settle(member.client, shared);
        }
        denied
    }

    /// Those who asked for a key that was passed over, and that has moved, ask at its next place.
    fn pass_on(&mut self, id: UpstreamId, key: usize) {
        for (index, place) in std::mem::take(&mut self.shared.passed_on) {
            let Some(Upstream { fifo, node, .. }) = self.upstreams.get(id.0) else { return };
            let Some(Entry::Group(group)) = fifo.front() else { return };
            let Some(member) = group.members.get(index) else { continue };
            let (verb, hash, text, node) = (group.verb, group.hash(key), group.text(key).to_vec(), *node);
            let early = group.members.len() > 1;
            let reader = member.reader(place);
            let onward = self.ask_on(node, verb, &text, hash, reader);
            let Self { upstreams, clients, shared, .. } = self;
            let Some(Entry::Group(group)) = upstreams.get_mut(id.0).and_then(|up| up.fifo.front_mut()) else { return };
            let Some(member) = group.members.get_mut(index) else { continue };
            let Some(client) = clients.get_mut(reader.client.0) else { continue };
            if onward != Onward::Asked {
                shared.cells().request(Command::from(verb), Outcome::Miss, 1);
                client.saw_value(0);
                client.replies.miss(reader.seq, place, &mut shared.pool);
            }
            member.done = early && member.left == 0;
            if member.done {
                client.replies.part_done(reader.seq, &mut shared.pool);
            }
            client.settle(reader.client, shared);
        }
    }

    /// Readers that ask for a key again for an earlier place do so for the later one, too.
    fn pass_by_all(&mut self, id: UpstreamId, denied: &[(usize, Reader)], told: &[u8]) {
        for (key, reader) in denied {
            let head = self.upstreams.get(id.0).and_then(|up| up.fifo.front());
            let Some(Entry::Group(group)) = head else { return };
            let (verb, hash, text) = (group.verb, group.hash(*key), group.text(*key).to_vec());
            self.pass_by(id, verb, (&text, hash), &[*reader], told);
        }
    }

    /// A node does not answer in the order asked: from now on only `END` says what has no value.
    #[cold]
    fn note_disorder(&mut self, id: UpstreamId) {
        let Some(node) = self.upstreams.get(id.0).map(|up| up.node) else { return };
        if let Some(entry) = self.nodes.get_mut(node.0) {
            entry.unordered = true;
        }
        for up in self.upstreams.values_mut().filter(|up| up.node == node) {
            up.in_order = false;
        }
    }

    /// A value of `len` bytes, its `VALUE` line being `raw`. Returns how much of what is `behind` the line is its block,
    /// where all of that is there and little: else it comes by pieces.
    #[inline]
    pub(super) fn value(
        &mut self,
        id: UpstreamId,
        key: usize,
        raw: &[u8],
        len: u64,
        behind: Input<'_>,
    ) -> Result<usize, Desync> {
        let size = usize::try_from(len).ok().filter(|len| *len < SHARE);
        let Some((len, block)) = size.and_then(|len| Some((len, behind.bytes.get(..len + 2)?))) else {
            self.begin_value(id, key, raw, len);
            return Ok(0);
        };
        let Self { upstreams, clients, shared, .. } = self;
        let Some(Upstream { fifo, role, .. }) = upstreams.get_mut(id.0) else { return Err(Desync) };
        let Some(Entry::Group(group)) = fifo.front_mut() else { return Err(Desync) };
        if !block.ends_with(b"\r\n") {
            // Nobody was given any of it: it is a miss with the others that the connection still owes.
            group.reopen(key);
            return Err(Desync);
        }
        let own = matches!(role, Role::Own { .. });
        if *role != Role::Shared {
            shared.large_keys.forget(group.hash(key));
        }
        let (verb, command) = (group.verb, Command::from(group.verb));
        // A group of one passes its node's last word on, whatever it is; others need not wait.
        let early = group.members.len() > 1;
        let mut denied = Vec::new();
        let hash = group.hasher();
        let (members, askers, text) = group.split(key);
        for asker in askers {
            // Of one that was answered meanwhile the value is eaten.
            let Some(member) = members.get_mut(asker.member).filter(|member| !member.done) else { continue };
            member.left = member.left.saturating_sub(1);
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            if !own && client.asks_again(|| hash(text)) {
                denied.push((key, member.reader(asker.place)));
                continue;
            }
            member.done = early && member.left == 0;
            let marked =
                if member.stage == Stage::Old { from_old(raw, verb, shared) } else { Some(Cow::Borrowed(raw)) };
            let Some(raw) = marked else {
                shared.cells().request(command, Outcome::Miss, 1);
                client.replies.miss(member.seq, asker.place, &mut shared.pool);
                if member.done {
                    client.replies.part_done(member.seq, &mut shared.pool);
                }
                client.settle(member.client, shared);
                continue;
            };
            let fits = || shared.budget.has_room(len) && client.held + client.arriving + len <= shared.budget.share();
            if shared.budget.passes(len, client.held) || fits() {
                shared.cells().request(command, Outcome::Hit, 1);
                client.saw_value(len as u64);
                client.replies.value(member.seq, asker.place, &raw, block, &mut shared.pool);
            } else {
                go_without(client, member.seq, asker.place, verb, shared);
            }
            if member.done {
                client.replies.part_done(member.seq, &mut shared.pool);
            }
            client.settle(member.client, shared);
        }
        if !denied.is_empty() {
            self.pass_by_all(id, &denied, raw);
        }
        Ok(block.len())
    }

    /// A value begins that comes by pieces: decides towards whom. It is given to a reader only if there is room for all
    /// of it, which is kept from now on; one copy is shared by all.
    fn begin_value(&mut self, id: UpstreamId, key: usize, raw: &[u8], len: u64) {
        let Self { upstreams, clients, shared, .. } = self;
        let Some(Upstream { fifo, role, body, .. }) = upstreams.get_mut(id.0) else { return };
        let Some(Entry::Group(group)) = fifo.front_mut() else { return };
        let block = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(2);
        let large = len > shared.settings.bulk_above as u64;
        let hash = group.hash(key);
        if large {
            shared.large_keys.remember(hash, block - 2);
        } else {
            shared.large_keys.forget(hash);
        }
        shared.budget.pieces = shared.pool.pieces();
        let (verb, command) = (group.verb, Command::from(group.verb));
        let own = matches!(role, Role::Own { .. });
        let (mut accepted, mut denied) = (0, Vec::new());
        let (members, askers, _) = group.split(key);
        for asker in askers {
            let Some(member) = members.get_mut(asker.member).filter(|member| !member.done) else { continue };
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            if *role == Role::Large {
                // What was kept when it was asked for is taken anew, as much as it is.
                let reserved = client.take_reserved(id, member.seq, hash);
                client.unreserve(reserved);
                shared.budget.arriving -= reserved;
            }
            let copy = if accepted > 0 && block >= SHARE { 0 } else { block };
            let marked =
                if member.stage == Stage::Old { from_old(raw, verb, shared) } else { Some(Cow::Borrowed(raw)) };
            let Some(raw) = marked else {
                member.left = member.left.saturating_sub(1);
                denied.push((asker.member, false, member.reader(asker.place)));
                client.replies.miss(member.seq, asker.place, &mut shared.pool);
                client.settle(member.client, shared);
                continue;
            };
            let raw = &*raw;
            let fits = || shared.budget.has_room(copy) && client.charged() + block <= shared.budget.share();
            if own || !client.asks_again(|| hash) && (shared.budget.passes(block, client.held) || fits()) {
                accepted += 1;
                if !own {
                    client.reserve(block);
                    shared.budget.arriving += copy;
                }
                shared.cells().request(command, Outcome::Hit, 1);
                client.saw_value(len);
                let told = client.again.told((member.seq, asker.place));
                let raw = if told.is_empty() { Cow::Borrowed(raw) } else { as_first_told(told, raw) };
                client.replies.begin(member.seq, asker.place, &raw, &mut shared.pool);
                client.settle(member.client, shared);
            } else {
                member.left = member.left.saturating_sub(1);
                denied.push((asker.member, large || client.asks_again(|| hash), member.reader(asker.place)));
                if !large && !client.asks_again(|| hash) {
                    go_without(client, member.seq, asker.place, verb, shared);
                    client.settle(member.client, shared);
                }
            }
        }
        let copies = if own {
            0
        } else if block >= SHARE {
            accepted.min(1)
        } else {
            accepted
        };
        *body = Some(Body { key, left: block as u64, copies });
        if large {
            shared.cells().bulk_transfers.add(1);
        }
        if denied.is_empty() {
            return;
        }
        for (member, ..) in &denied {
            group.deny(key, *member);
        }
        let (hash, text) = (group.hash(key), group.text(key).to_vec());
        let again = denied.into_iter().filter(|(_, again, _)| *again).map(|(.., reader)| reader);
        self.pass_by(id, verb, (&text, hash), &again.collect::<Vec<_>>(), raw);
    }

    /// A piece of a value, for those towards whom it has begun. Returns how much of `input` it was.
    pub(super) fn value_piece(&mut self, id: UpstreamId, input: Input<'_>) -> Result<usize, Desync> {
        let Self { upstreams, clients, shared, .. } = self;
        let Upstream { fifo, role, body: place, .. } = upstreams.get_mut(id.0).ok_or(Desync)?;
        let Some(body) = place.as_mut() else { return Ok(0) };
        let Some(Entry::Group(group)) = fifo.front_mut() else { return Err(Desync) };
        let used = usize::try_from(body.left).unwrap_or(usize::MAX).min(input.bytes.len());
        let piece = input.part(0..used);
        check_end(body.left, piece.bytes)?;
        let data = usize::try_from(body.left.saturating_sub(2)).unwrap_or(usize::MAX);
        let closing = used.saturating_sub(data);
        body.left -= used as u64;
        shared.budget.arriving -= used * body.copies;
        let (key, ended) = (body.key, body.left == 0);
        let early = group.members.len() > 1;
        let own = matches!(role, Role::Own { .. });
        let (members, askers, _) = group.split(key);
        let readers = askers.clone().filter(|asker| asker.member < members.len()).take(2).count();
        let slice = (readers > 1 && used >= SHARE_COPY).then(|| shared.pool.share(piece));
        for asker in askers {
            // Of one that was answered meanwhile the rest is eaten.
            let Some(member) = members.get_mut(asker.member).filter(|member| !member.done) else { continue };
            if ended {
                member.left = member.left.saturating_sub(1);
                member.done = early && member.left == 0;
            }
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            if !own {
                client.unreserve(used);
            }
            match &slice {
                Some(slice) if client.replies.left_out(member.seq, used, closing) == 0 => {
                    client.replies.shared_piece(member.seq, asker.place, slice, &mut shared.pool);
                }
                _ => client.replies.piece(member.seq, asker.place, piece, closing, &mut shared.pool),
            }
            if ended {
                client.replies.end(member.seq, asker.place, &mut shared.pool);
            }
            if member.done {
                client.replies.part_done(member.seq, &mut shared.pool);
            }
            if shared.may_hold_back && !ended && client.replies.out.len() < FLOW {
                client.recharge(shared);
                shared.held_back.push(member.client);
            } else {
                client.settle(member.client, shared);
            }
        }
        if let Some(slice) = slice {
            shared.pool.release(slice);
        }
        let meta = group.verb.is_meta();
        if ended {
            *place = None;
            if meta {
                self.finish_group(id, None)?;
            }
        }
        Ok(used)
    }

    /// The rest of a value never comes, or not in time. Where a part of it has been sent it cannot be taken back: the
    /// only honest end is to close the reader. For the others it is a miss, as if it had not begun.
    pub(super) fn cut_off_value(&mut self, id: UpstreamId, reason: Reason, text: &[u8]) {
        let Self { upstreams, clients, shared, .. } = self;
        let Some(Upstream { fifo, role, body: Some(body), .. }) = upstreams.get_mut(id.0) else { return };
        let Some(Entry::Group(group)) = fifo.front_mut() else { return };
        let (key, left) = (body.key, usize::try_from(body.left).unwrap_or(usize::MAX));
        shared.budget.arriving -= body.expected();
        body.copies = 0;
        let own = matches!(role, Role::Own { .. });
        let verb = group.verb;
        let (members, askers, _) = group.split(key);
        for asker in askers {
            let Some(member) = members.get_mut(asker.member).filter(|member| !member.done) else { continue };
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            if !own {
                client.unreserve(left);
            }
            if client.replies.is_told_no_value(member.seq) {
                // It has its whole answer: that the node gave with the line.
                member.left = member.left.saturating_sub(1);
                member.done = member.left == 0;
                client.replies.end(member.seq, asker.place, &mut shared.pool);
                if member.done {
                    client.replies.part_done(member.seq, &mut shared.pool);
                }
                client.settle(member.client, shared);
                continue;
            }
            if client.replies.cut_off(member.seq, asker.place, &mut shared.pool) {
                shared.finished.push((member.client, CloseReason::ValueLost));
                continue;
            }
            member.left = member.left.saturating_sub(1);
            let misses = shared.may_miss(verb);
            shared.cells().soft(verb.into(), reason, 1, misses);
            if !misses {
                client.replies.fail(member.seq, text, &mut shared.pool);
            }
            client.replies.miss(member.seq, asker.place, &mut shared.pool);
            client.settle(member.client, shared);
        }
    }
}

/// There is no room for a value of a reader: a miss, or an error where errors are asked for.
pub(super) fn go_without(client: &mut Client, seq: u32, place: u32, verb: ReadVerb, shared: &mut Shared) {
    let misses = shared.may_miss(verb);
    shared.cells().soft(verb.into(), Reason::Memory, 1, misses);
    if !misses {
        client.replies.fail(seq, NO_MEMORY, &mut shared.pool);
    }
    client.replies.miss(seq, place, &mut shared.pool);
}

/// What a group's keys have no value of, as it is at the end: those who asked go on. Returns those who ask for one of
/// them again for an earlier place, and so do not; nobody where the lane is one client's `own`, for there it does. Where it
/// is `known` that nothing is there, those who may ask elsewhere are left to do so (`Shared::missed`).
pub(super) fn miss_open_keys(
    group: &mut Group,
    clients: &mut Table<Client>,
    shared: &mut Shared,
    own: bool,
    known: bool,
) -> Vec<(usize, Reader)> {
    let mut denied = Vec::new();
    for key in 0..group.len() {
        if !group.pass_over(key) {
            continue;
        }
        let hash = group.hasher();
        let (members, askers, text) = group.split(key);
        for asker in askers {
            let Some(member) = members.get_mut(asker.member).filter(|member| !member.done) else { continue };
            let Some(client) = clients.get_mut(member.client.0) else { continue };
            if !own && client.asks_again(|| hash(text)) {
                member.left = member.left.saturating_sub(1);
                denied.push((key, member.reader(asker.place)));
            } else if known && member.stage != Stage::Plain {
                shared.missed.push((key, asker.member, asker.place));
            } else {
                client.replies.miss(member.seq, asker.place, &mut shared.pool);
            }
        }
    }
    denied
}

/// The line of a value from an old place as its reader is told it, its unique marked; none where that cannot be told.
pub(super) fn from_old<'a>(raw: &'a [u8], verb: ReadVerb, shared: &Shared) -> Option<Cow<'a, [u8]>> {
    let told = match verb {
        ReadVerb::Get | ReadVerb::Gat(_) => Some(Cow::Borrowed(raw)),
        _ => uniques::marked(raw, shared.before_tag),
    };
    let [hits, misses, _] = &shared.cells().before_reads;
    if told.is_some() {
        hits.add(1);
    } else {
        misses.add(1);
    }
    told
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
