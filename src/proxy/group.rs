//! A merged get: what several clients asked of one node in one round, as one multi-key read.
//!
//! Keys are compared whole, never by a hash; the hash is only a hint where to look. A key that
//! members of different clients ask for travels once. A client's own repeats travel again, as many
//! times as it asked: holding back a copy for the second mention would cost memory.

use super::ClientId;
use crate::protocol::{number, request::ReadVerb};

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
/// A group kept for reuse holds no line buffer above this, in bytes.
const KEEP_LINE: usize = 16 << 10;

/// One client request, or the part of it that goes to this node.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) client: ClientId,
    /// The reply slot its values go to.
    pub(super) seq: u32,
    /// Keys not answered yet.
    pub(super) left: u32,
    /// Its slot is finished (or moved elsewhere).
    pub(super) done: bool,
}

#[derive(Debug)]
struct Key {
    start: u32,
    len: u16,
    answered: bool,
    member: u32,
    /// Index + 1 of the first further member that waits for it; 0 is none.
    waiters: u32,
    waiting: u16,
}

#[derive(Debug)]
struct Waiter {
    member: u32,
    next: u32,
}

/// A read on its way.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) verb: ReadVerb,
    /// The request line, closed by CRLF when it is sent; kept until `END`.
    line: Vec<u8>,
    keys: Vec<Key>,
    tags: Vec<u32>,
    pub(super) members: Vec<Member>,
    waiters: Vec<Waiter>,
    /// Where the next `VALUE` is looked for first: nodes answer in the order asked.
    cursor: usize,
    /// Bytes of the values that have begun to come.
    pub(super) bytes: u64,
    /// It was sent before, by a connection that was lost.
    pub(super) retried: bool,
    /// It was answered here: its reply counts for nothing.
    pub(super) expired: bool,
    /// Bytes of memory it holds, once its line is closed.
    pub(super) weight: usize,
}

#[expect(clippy::cast_possible_truncation, reason = "a line is at most MAX_GROUP_LINE + one key, so are its counts")]
impl Group {
    pub(super) fn new() -> Self {
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
        }
    }

    /// Makes a used group ready for another request.
    pub(super) fn reset(&mut self, verb: ReadVerb) {
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
        };
        number::append_signed(&mut self.line, i64::from(exptime));
    }

    /// Whether a key of this length still fits.
    pub(super) fn has_room(&self, key: usize) -> bool {
        let limit = match self.verb {
            ReadVerb::Get | ReadVerb::Gets => MAX_GROUP_LINE,
            ReadVerb::Gat(_) | ReadVerb::Gats(_) => MAX_TOUCH_LINE,
        };
        self.line.len() + key + 3 <= limit || self.keys.is_empty()
    }

    /// Adds a member; its keys follow by [`Group::add`].
    pub(super) fn join(&mut self, client: ClientId, seq: u32) {
        self.members.push(Member { client, seq, left: 0, done: false });
    }

    /// Adds a key for the last member. Returns whether it travels by itself (`false`: another
    /// client's key is shared).
    pub(super) fn add(&mut self, key: &[u8], hash: u64) -> bool {
        let tag = hash as u32;
        let Some(last) = self.members.len().checked_sub(1) else {
            return false;
        };
        let client = self.members.get(last).map(|member| member.client);
        if let Some(member) = self.members.get_mut(last) {
            member.left += 1;
        }
        let member = last as u32;
        if last > 0 {
            let found = self.tags.iter().take(COALESCE_WINDOW).enumerate().find_map(|(i, &other)| {
                (other == tag && self.key(i) == Some(key) && self.may_share(i, client)).then_some(i)
            });
            if let Some(shared) = found.and_then(|i| self.keys.get_mut(i)) {
                self.waiters.push(Waiter { member, next: shared.waiters });
                shared.waiters = self.waiters.len() as u32;
                shared.waiting += 1;
                return false;
            }
        }
        self.line.push(b' ');
        let start = self.line.len() as u32;
        self.line.extend_from_slice(key);
        self.keys.push(Key { start, len: key.len() as u16, answered: false, member, waiters: 0, waiting: 0 });
        if self.tags.len() < COALESCE_WINDOW {
            self.tags.push(tag);
        }
        true
    }

    /// Whether a client may wait for a key that others asked for: not when it asked itself.
    fn may_share(&self, key: usize, client: Option<ClientId>) -> bool {
        self.keys.get(key).is_some_and(|key| key.waiting < MAX_WAITERS)
            && self.askers(key).all(|member| self.members.get(member).map(|m| m.client) != client)
    }

    /// The members that asked for a key, the one it travels for first.
    pub(super) fn askers(&self, key: usize) -> impl Iterator<Item = usize> + '_ {
        let key = self.keys.get(key);
        let mut next = key.map_or(0, |key| key.waiters);
        key.map(|key| key.member as usize).into_iter().chain(std::iter::from_fn(move || {
            let waiter = self.waiters.get((next as usize).checked_sub(1)?)?;
            next = waiter.next;
            Some(waiter.member as usize)
        }))
    }

    fn key(&self, i: usize) -> Option<&[u8]> {
        let key = self.keys.get(i)?;
        self.line.get(key.start as usize..key.start as usize + usize::from(key.len))
    }

    /// Closes the line; it is sent as it stands now.
    pub(super) fn close(&mut self) -> &[u8] {
        if !self.line.ends_with(b"\n") {
            self.line.extend_from_slice(b"\r\n");
            self.weight = size_of::<Self>()
                + self.line.capacity()
                + self.keys.capacity() * size_of::<Key>()
                + self.tags.capacity() * size_of::<u32>()
                + self.members.capacity() * size_of::<Member>()
                + self.waiters.capacity() * size_of::<Waiter>();
        }
        &self.line
    }

    /// The key a `VALUE` names: the first one asked for and not answered, from where the last was
    /// found. `None` is doubt.
    pub(super) fn find(&mut self, key: &[u8]) -> Option<usize> {
        let count = self.keys.len();
        let open = |group: &Self, i: usize| group.keys.get(i).is_some_and(|k| !k.answered) && group.key(i) == Some(key);
        let found = (self.cursor..count).chain(0..self.cursor.min(count)).find(|&i| open(self, i))?;
        self.cursor = found + 1;
        if let Some(key) = self.keys.get_mut(found) {
            key.answered = true;
        }
        Some(found)
    }

    /// A member shall not get the value of a key.
    pub(super) fn deny(&mut self, key: usize, member: usize) {
        let Some(key) = self.keys.get_mut(key) else { return };
        if key.member as usize == member {
            key.member = NOBODY;
        }
        let mut next = key.waiters;
        while let Some(waiter) = (next as usize).checked_sub(1).and_then(|index| self.waiters.get_mut(index)) {
            if waiter.member as usize == member {
                waiter.member = NOBODY;
            }
            next = waiter.next;
        }
    }

    /// Whether a value of its reply has come.
    pub(super) const fn is_touched(&self) -> bool {
        self.cursor > 0
    }

    /// How many keys have not been answered.
    pub(super) fn open(&self) -> u64 {
        self.keys.iter().filter(|key| !key.answered).count() as u64
    }

    /// How many keys travel.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys of a member that are not answered, in the order asked.
    pub(super) fn open_keys(&self, member: usize) -> impl Iterator<Item = &[u8]> {
        (0..self.keys.len()).filter_map(move |i| {
            let open = self.keys.get(i).is_some_and(|key| !key.answered);
            (open && self.askers(i).any(|m| m == member)).then(|| self.key(i)).flatten()
        })
    }

    /// Whether a member waits for a key behind this one.
    pub(super) fn has_open_key(&self, member: usize, after: usize) -> bool {
        (after + 1..self.keys.len()).any(|i| {
            let open = self.keys.get(i).is_some_and(|key| !key.answered);
            open && self.askers(i).any(|asker| asker == member)
        })
    }

    /// The whole text of a key by its index.
    pub(super) fn text(&self, key: usize) -> &[u8] {
        self.key(key).unwrap_or_default()
    }
}
