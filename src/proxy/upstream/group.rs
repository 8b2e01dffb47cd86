//! A merged get: what several clients asked of one node in one round, as one multi-key read.
//!
//! Keys are compared whole, never by a hash; the hash is only a hint where to look. A key that
//! members of different clients ask for travels once. A client's own repeats travel again, as many
//! times as it asked: holding back a copy for the second mention would cost memory.

use crate::protocol::meta::reply::may_answer;
use crate::protocol::number;
use crate::protocol::reply::Line;
use crate::protocol::request::ReadVerb;
use crate::proxy::ids::{ClientId, HandoffId, Stage};
use crate::routing::Topology;

/// A group's line grows no further than this, in bytes. Node latency stays even and one round's
/// reply stays small.
const MAX_GROUP_LINE: usize = 8 << 10;
/// The same for `gat` and `gats`: memcached 1.5.16 closes the connection when a longer one arrives
/// split.
const MAX_TOUCH_LINE: usize = 1000;
/// How many keys of a group are looked through for a key asked for twice.
const COALESCE_WINDOW: usize = 64;
/// Most clients that share one travelling key; the next one's travels again. Bounds the search for a
/// client's own repeats.
const MAX_WAITERS: u16 = 64;
/// The index of no member.
const NOBODY: u32 = u32::MAX;
/// Groups kept for reuse, and the memory of all of them, in bytes: one whose line is full of keys of one byte holds more
/// than 100 KiB, one that as many clients share 400.
const KEEP_GROUPS: usize = 64;
const KEEP_BYTES: usize = 1 << 20;
/// A group kept for reuse holds no line buffer above this, in bytes.
const KEEP_LINE: usize = 16 << 10;

/// One client request, or the part of it that goes to this node.
#[derive(Debug)]
pub(in crate::proxy) struct Member {
    pub(in crate::proxy) client: ClientId,
    /// The reply slot its values go to.
    pub(in crate::proxy) seq: u32,
    /// Keys not answered yet.
    pub(in crate::proxy) left: u32,
    /// Its slot is finished (or moved elsewhere).
    pub(in crate::proxy) done: bool,
    /// Which of the places of its keys this is, those that have several; once it is over none.
    pub(in crate::proxy) stage: Stage,
    /// It is asked at another place, too.
    pub(in crate::proxy) goes_on: bool,
}

/// What is known of a key that travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing.
    Open,
    /// Its value has begun to come.
    Answered,
    /// A later key of the line was answered: it has no value.
    PassedOver,
}

/// Who asked for a key: one of the members, and the key's place among all keys of that client's request.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Asker {
    /// Index of the member.
    pub(in crate::proxy) member: usize,
    pub(in crate::proxy) place: u32,
}

#[derive(Debug)]
struct Key {
    start: u32,
    len: u16,
    state: State,
    member: u32,
    place: u32,
    /// Index + 1 of the last further member that waits for it, whose next is the first; 0 is none.
    waiters: u32,
    /// How many wait.
    waiting: u16,
}

#[derive(Debug)]
struct Waiter {
    member: u32,
    place: u32,
    /// Index + 1 of who came next; of the last who came, of the first.
    next: u32,
}

/// Who asked for what in a group.
#[derive(Clone, Copy, Debug)]
struct Askers<'a> {
    keys: &'a [Key],
    waiters: &'a [Waiter],
}

impl<'a> Askers<'a> {
    /// Who asked for a key, in the order in which they came; the first is the member it travels for.
    #[inline]
    fn of(self, key: usize) -> impl Iterator<Item = Asker> + Clone + 'a {
        let key = self.keys.get(key);
        let first = key.map(|key| Asker { member: key.member as usize, place: key.place });
        let (mut at, waiting) = key.map_or((0, 0), |key| (key.waiters, key.waiting));
        let waiter = move |index: u32| self.waiters.get((index as usize).checked_sub(1)?);
        first.into_iter().chain((0..waiting).map_while(move |_| {
            at = waiter(at)?.next;
            waiter(at).map(|waiter| Asker { member: waiter.member as usize, place: waiter.place })
        }))
    }
}

/// The key that a `VALUE` names.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Found {
    pub(in crate::proxy) key: usize,
    /// The keys from here to `key` were not answered by it: where a node answers in the order asked they have no value.
    pub(in crate::proxy) from: usize,
    /// It was passed over: the node does not answer in the order asked, and those who asked have gone on.
    pub(in crate::proxy) late: bool,
    /// It stands before one that was answered before.
    pub(in crate::proxy) backwards: bool,
}

/// A read on its way.
#[derive(Debug)]
pub(in crate::proxy) struct Group {
    pub(in crate::proxy) verb: ReadVerb,
    /// The request line, closed by CRLF when it is sent; kept until `END`.
    line: Vec<u8>,
    keys: Vec<Key>,
    /// A part of the hash of each of the first [`COALESCE_WINDOW`] keys.
    tags: Vec<u32>,
    pub(in crate::proxy) members: Vec<Member>,
    waiters: Vec<Waiter>,
    /// Where the next `VALUE` is looked for first: nodes answer in the order asked.
    cursor: usize,
    /// Bytes of the values that have begun to come.
    pub(in crate::proxy) bytes: u64,
    /// It was sent before, by a connection that was lost.
    pub(in crate::proxy) retried: bool,
    /// It was answered here: its reply counts for nothing.
    pub(in crate::proxy) expired: bool,
    /// Bytes of memory it holds, once its line is closed.
    pub(in crate::proxy) weight: usize,
    /// It only asks for somebody else whether a key is there.
    pub(in crate::proxy) step: Option<HandoffId>,
    /// The hash of the key of a meta command, whose text here has its flags behind it.
    meta_hash: u64,
}

#[expect(clippy::cast_possible_truncation, reason = "a line is at most MAX_GROUP_LINE + one key, so are its counts")]
impl Group {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            verb: ReadVerb::Get,
            line: Vec::new(),
            keys: Vec::new(),
            tags: Vec::new(),
            members: Vec::new(),
            waiters: Vec::new(),
            cursor: 0,
            bytes: 0,
            retried: false,
            expired: false,
            weight: 0,
            step: None,
            meta_hash: 0,
        }
    }

    /// Makes a used group ready for another request.
    pub(in crate::proxy) fn reset(&mut self, verb: ReadVerb) {
        self.verb = verb;
        self.line.clear();
        if self.line.capacity() > KEEP_LINE {
            self.line = Vec::new();
        }
        self.keys.clear();
        self.tags.clear();
        self.members.clear();
        self.waiters.clear();
        self.cursor = 0;
        self.bytes = 0;
        self.retried = false;
        self.expired = false;
        self.weight = 0;
        self.step = None;
        let exptime = match verb {
            ReadVerb::Get => {
                self.line.extend_from_slice(b"get");
                return;
            }
            ReadVerb::Gets => {
                self.line.extend_from_slice(b"gets");
                return;
            }
            ReadVerb::Gat(exptime) => {
                self.line.extend_from_slice(b"gat ");
                exptime
            }
            ReadVerb::Gats(exptime) => {
                self.line.extend_from_slice(b"gats ");
                exptime
            }
            ReadVerb::Meta { verb, .. } => {
                self.line.extend_from_slice(verb.word().as_bytes());
                return;
            }
        };
        number::append_signed(&mut self.line, i64::from(exptime));
    }

    /// Whether a key of this length still fits.
    pub(in crate::proxy) fn has_room(&self, key: usize) -> bool {
        let limit = match self.verb {
            ReadVerb::Get | ReadVerb::Gets => MAX_GROUP_LINE,
            ReadVerb::Gat(_) | ReadVerb::Gats(_) => MAX_TOUCH_LINE,
            // One key each.
            ReadVerb::Meta { .. } => 0,
        };
        self.line.len() + key + 3 <= limit || self.keys.is_empty()
    }

    /// Whether the last who joined is this request of a client.
    pub(in crate::proxy) fn ends_with(&self, client: ClientId, seq: u32) -> bool {
        self.members.last().is_some_and(|member| member.client == client && member.seq == seq)
    }

    /// Adds a member; its keys follow by [`Group::add`].
    pub(in crate::proxy) fn join(&mut self, client: ClientId, seq: u32, stage: Stage) {
        self.members.push(Member { client, seq, left: 0, done: false, stage, goes_on: false });
    }

    /// Adds a key for the last member, at a place of its request. Returns whether it travels by itself (`false`: another
    /// client's key is shared).
    pub(in crate::proxy) fn add(&mut self, key: &[u8], hash: u64, place: u32) -> bool {
        let tag = hash as u32;
        self.meta_hash = hash;
        let Some(last) = self.members.len().checked_sub(1) else {
            return false;
        };
        let client = self.members.get(last).map(|member| member.client);
        if let Some(member) = self.members.get_mut(last) {
            member.left += 1;
        }
        let member = last as u32;
        // Most keys are new: whether a tag is there at all takes a fraction of the steps of the search for where.
        if last > 0 && self.tags.contains(&tag) {
            let found = self.tags.iter().enumerate().find_map(|(i, &other)| {
                (other == tag && self.key(i) == Some(key) && self.may_share(i, client)).then_some(i)
            });
            if let Some(shared) = found.and_then(|i| self.keys.get_mut(i)) {
                let index = self.waiters.len() as u32 + 1;
                let last = (shared.waiters as usize).checked_sub(1).and_then(|last| self.waiters.get_mut(last));
                let next = last.map_or(index, |last| std::mem::replace(&mut last.next, index));
                self.waiters.push(Waiter { member, place, next });
                shared.waiters = index;
                shared.waiting += 1;
                return false;
            }
        }
        self.line.push(b' ');
        let start = self.line.len() as u32;
        self.line.extend_from_slice(key);
        let len = key.len() as u16;
        self.keys.push(Key { start, len, state: State::Open, member, place, waiters: 0, waiting: 0 });
        if self.tags.len() < COALESCE_WINDOW {
            self.tags.push(tag);
        }
        true
    }

    /// Whether a client may wait for a key that others asked for: not when it asked itself.
    fn may_share(&self, key: usize, client: Option<ClientId>) -> bool {
        self.keys.get(key).is_some_and(|key| key.waiting < MAX_WAITERS)
            && self.askers(key).all(|asker| self.members.get(asker.member).map(|m| m.client) != client)
    }

    /// Who asked for a key, in the order in which they came; the first is the member it travels for.
    #[inline]
    pub(in crate::proxy) fn askers(&self, key: usize) -> impl Iterator<Item = Asker> + '_ {
        Askers { keys: &self.keys, waiters: &self.waiters }.of(key)
    }

    /// The members, to be told, those of them who asked for a key, and its text.
    #[inline]
    pub(in crate::proxy) fn split(
        &mut self,
        key: usize,
    ) -> (&mut [Member], impl Iterator<Item = Asker> + Clone + '_, &[u8]) {
        let found = self.keys.get(key).map(|key| key.start as usize..key.start as usize + usize::from(key.len));
        let text = found.and_then(|range| self.line.get(range)).unwrap_or_default();
        (&mut self.members, Askers { keys: &self.keys, waiters: &self.waiters }.of(key), text)
    }

    /// Whether a key of an unsent line is one that others asked for and that this client may share.
    pub(in crate::proxy) fn travels(&self, key: &[u8], hash: u64, client: ClientId) -> bool {
        let mut tags = self.tags.iter().take(COALESCE_WINDOW).enumerate();
        tags.any(|(i, tag)| *tag == hash as u32 && self.key(i) == Some(key) && self.may_share(i, Some(client)))
    }

    fn key(&self, i: usize) -> Option<&[u8]> {
        let key = self.keys.get(i)?;
        self.line.get(key.start as usize..key.start as usize + usize::from(key.len))
    }

    /// Closes the line; it is sent as it stands now.
    pub(in crate::proxy) fn close(&mut self) -> &[u8] {
        if !self.line.ends_with(b"\n") {
            self.line.extend_from_slice(b"\r\n");
            self.weight = self.held();
        }
        &self.line
    }

    /// The line as it was closed.
    pub(in crate::proxy) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Bytes of memory it holds.
    fn held(&self) -> usize {
        size_of::<Self>()
            + self.line.capacity()
            + self.keys.capacity() * size_of::<Key>()
            + self.tags.capacity() * size_of::<u32>()
            + self.members.capacity() * size_of::<Member>()
            + self.waiters.capacity() * size_of::<Waiter>()
    }

    /// The key a `VALUE` names: the first one asked for and not answered, from where the last was
    /// found. `None` is doubt.
    #[inline]
    pub(in crate::proxy) fn find(&mut self, key: &[u8]) -> Option<Found> {
        let (count, cursor) = (self.keys.len(), self.cursor);
        let asked = |group: &Self, i: &usize| {
            group.keys.get(*i).is_some_and(|k| k.state != State::Answered) && group.key(*i) == Some(key)
        };
        let ahead = (cursor..count).find(|i| asked(self, i));
        let found = match ahead {
            Some(found) => found,
            None => (0..cursor.min(count)).find(|i| asked(self, i))?,
        };
        let backwards = ahead.is_none();
        if !backwards {
            self.cursor = found + 1;
        }
        let state = self.keys.get_mut(found).map(|key| std::mem::replace(&mut key.state, State::Answered));
        let late = state == Some(State::PassedOver);
        Some(Found { key: found, from: if backwards { found } else { cursor }, late, backwards })
    }

    /// Notes that a key has no value. Returns whether that is new.
    #[inline]
    pub(in crate::proxy) fn pass_over(&mut self, key: usize) -> bool {
        self.keys.get_mut(key).is_some_and(|key| {
            let new = key.state == State::Open;
            if new {
                key.state = State::PassedOver;
            }
            new
        })
    }

    /// The value of a key did not come after all.
    pub(in crate::proxy) fn reopen(&mut self, key: usize) {
        if let Some(key) = self.keys.get_mut(key) {
            key.state = State::Open;
        }
    }

    /// The value of a key that was passed over is for nobody any more.
    pub(in crate::proxy) fn forget_askers(&mut self, key: usize) {
        if let Some(key) = self.keys.get_mut(key) {
            (key.member, key.waiters) = (NOBODY, 0);
        }
    }

    /// A member shall not get the value of a key.
    pub(in crate::proxy) fn deny(&mut self, key: usize, member: usize) {
        let Some(key) = self.keys.get_mut(key) else { return };
        if key.member as usize == member {
            key.member = NOBODY;
        }
        let mut at = key.waiters;
        for _ in 0..key.waiting {
            let Some(waiter) = (at as usize).checked_sub(1).and_then(|index| self.waiters.get_mut(index)) else {
                return;
            };
            if waiter.member as usize == member {
                waiter.member = NOBODY;
            }
            at = waiter.next;
        }
    }

    /// Whether a value of its reply has come.
    pub(in crate::proxy) const fn is_touched(&self) -> bool {
        self.cursor > 0
    }

    /// How many keys have no value, as it is at the end.
    pub(in crate::proxy) fn missed(&self) -> u64 {
        self.keys.iter().filter(|key| key.state != State::Answered).count() as u64
    }

    /// Shows the hash of each key of which nothing has come.
    pub(in crate::proxy) fn for_each_open(&self, mut show: impl FnMut(u64)) {
        for index in (0..self.keys.len()).filter(|i| self.keys.get(*i).is_some_and(|key| key.state == State::Open)) {
            show(self.hash(index));
        }
    }

    /// How many keys travel.
    pub(in crate::proxy) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The hash of a key by its index.
    pub(in crate::proxy) fn hash(&self, key: usize) -> u64 {
        if self.verb.is_meta() { self.meta_hash } else { Topology::hash(self.text(key)) }
    }

    /// The same, of a key whose text is at hand, where it is needed: it may cost some time.
    pub(in crate::proxy) fn hasher(&self) -> impl Fn(&[u8]) -> u64 + Copy + use<> {
        let meta = self.verb.is_meta().then_some(self.meta_hash);
        move |text| meta.unwrap_or_else(|| Topology::hash(text))
    }

    /// Whether a line may answer the meta command that this is.
    pub(in crate::proxy) fn may_be_answered(&self, line: &Line<'_>, raw: &[u8]) -> bool {
        let ReadVerb::Meta { verb, .. } = self.verb else { return false };
        may_answer(line, raw, verb, self.text(0))
    }

    /// A meta command is answered: not by a miss.
    pub(in crate::proxy) fn answer(&mut self) {
        self.cursor = 1;
        if let Some(key) = self.keys.first_mut() {
            key.state = State::Answered;
        }
    }

    /// The whole text of a key by its index; of a meta command with its flags behind it.
    pub(in crate::proxy) fn text(&self, key: usize) -> &[u8] {
        self.key(key).unwrap_or_default()
    }
}

/// Groups that are used again.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "entries move through the FIFOs: a box keeps them small")]
pub(in crate::proxy) struct GroupPool {
    groups: Vec<Box<Group>>,
    /// Bytes of memory that they hold.
    held: usize,
}

impl GroupPool {
    /// An empty group.
    #[inline]
    pub(in crate::proxy) fn take(&mut self, verb: ReadVerb) -> Box<Group> {
        let mut group = match self.groups.pop() {
            Some(group) => {
                self.held -= group.held();
                group
            }
            None => Box::new(Group::new()),
        };
        group.reset(verb);
        group
    }

    /// Takes a group back.
    #[inline]
    pub(in crate::proxy) fn put(&mut self, group: Box<Group>) {
        let held = group.held();
        if self.groups.len() < KEEP_GROUPS && self.held + held <= KEEP_BYTES {
            self.held += held;
            self.groups.push(group);
        }
    }
}

#[cfg(test)]
mod tests;
