//! The replies owed to one client, in the order of its requests.
//!
//! Each request has a slot. A slot is filled by a node's bytes or is born ready. Only the head slot writes to the
//! socket's queue; the others park what they get.
//!
//! A read has a place for each of its keys. Its values are sent in the order of the keys: one whose turn has not come
//! waits (`order.rs`), and a key is passed over once it is known to have no value. Its parts, one for each request that
//! was made of it, say when all is known; then `END` follows, or the error line of a part that failed.

mod dialects;
mod values;

use std::collections::VecDeque;

use super::gather::Gather;
use super::order::{Order, Turn};
use crate::metrics::Kind;
use crate::protocol::form::Form;
use crate::protocol::meta::classic;
use crate::protocol::meta::request::{self as meta_request, Meta};
use crate::proxy::buffer::{BufferPool, OutBuf};
use crate::time::Tick;

/// Values of a read that waits for its other nodes are held back up to this many bytes, so that a
/// multiget costs one write.
const HOLD: usize = 16 << 10;
/// A parked reply of at least this many bytes is queued without copying it again.
const MOVE: usize = 16 << 10;

/// What a reply answers, and since when it is owed.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Stamp {
    pub(in crate::proxy) kind: Kind,
    pub(in crate::proxy) arrived_at: Tick,
}

/// What few slots need.
#[derive(Debug, Default)]
struct Extra {
    /// What waits to be sent behind the slots before, in the order of the keys.
    queue: OutBuf,
    order: Order,
    gather: Option<Box<Gather>>,
    /// The error line that takes `END`'s place.
    error: Option<Box<[u8]>>,
}

impl Extra {
    fn held(&self) -> usize {
        size_of::<Self>() + self.queue.held() + self.order.held()
    }
}

/// Where a read stands.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    /// The key whose value is sent next.
    turn: u32,
    /// Parts that are not done.
    parts: u32,
    /// There was more than one part: a part's error line cannot stand for all of it.
    several: bool,
    /// The value of the key whose turn it is has begun to be sent.
    flows: bool,
    /// A value was given, or what stands for one.
    found: bool,
}

#[derive(Debug)]
struct Slot {
    stamp: Stamp,
    form: Form,
    /// What its client is told besides of a key that has no value; or, where that is kept, the line of its request.
    tail: Option<Box<[u8]>>,
    /// A read, and where it stands.
    read: Option<Read>,
    done: bool,
    /// What waits to be sent behind the slots before; with [`Extra`], its queue.
    parked: Vec<u8>,
    extra: Option<Box<Extra>>,
}

/// The meta command of a line that was accepted before.
fn meta_of(line: &[u8]) -> Option<Meta<'_>> {
    meta_request::parse(line, usize::MAX).ok()
}

impl Slot {
    /// The meta command that is answered, where its node was asked in other words.
    fn meta(&self) -> Option<Meta<'_>> {
        self.tail.as_deref().filter(|_| self.form.keeps_line()).and_then(meta_of)
    }

    /// Appends the line in front of a value, made of the node's. Returns whether the value is sent behind it.
    fn announce(&self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(meta) = self.meta() else { return false };
        if self.form == Form::Classic {
            classic::announce(&meta, line.strip_suffix(b"\r\n").unwrap_or(line), out)
        } else {
            meta.relay(line, out);
            true
        }
    }

    /// Bytes parked, and the memory they hold.
    fn load(&self) -> (usize, usize) {
        let extra = self.extra.as_ref();
        let bytes = extra.map_or(0, |extra| extra.queue.len() + extra.order.bytes());
        let tail = self.tail.as_ref().map_or(0, |tail| tail.len());
        (self.parked.len() + bytes, self.parked.capacity() + tail + extra.map_or(0, |extra| extra.held()))
    }

    fn extra(&mut self, pool: &mut BufferPool) -> &mut Extra {
        let parked = &mut self.parked;
        let turn = self.read.map_or(0, |read| read.turn);
        self.extra.get_or_insert_with(|| {
            let mut extra = Box::new(Extra { order: Order::since(turn), ..Extra::default() });
            if parked.capacity() > 0 {
                extra.queue.append(parked, pool);
                pool.put(std::mem::take(parked));
            }
            extra
        })
    }

    /// Sends, or parks in the order of the keys, what is known: from the key whose turn it is to the first of which
    /// nothing is.
    fn advance(&mut self, head: Option<&mut OutBuf>, pool: &mut BufferPool) {
        let (Some(read), Some(extra)) = (&mut self.read, &mut self.extra) else { return };
        let Extra { queue, order, .. } = &mut **extra;
        let may_flow = head.is_some();
        let out = head.unwrap_or(queue);
        loop {
            match order.turn(read.turn, may_flow, out, pool) {
                Turn::Waits => return,
                Turn::Passed => read.turn += 1,
                Turn::Flows => {
                    read.flows = true;
                    return;
                }
            }
        }
    }
}

/// The queue of slots and what is ready to be written.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Replies {
    slots: VecDeque<Slot>,
    /// The sequence number of the head slot.
    base: u32,
    pub(in crate::proxy) out: OutBuf,
    /// Bytes parked behind the head, or before their turn, and the memory they hold.
    parked: usize,
    parked_held: usize,
    /// Bytes of memory of what is gathered from nodes for replies that are made of several.
    gathered: usize,
    /// A whole reply is in `out`: it is not held back for the parts of the next.
    whole: bool,
    /// What was answered since this was last taken.
    answered: Vec<Stamp>,
}

impl Replies {
    /// Slots not finished, or finished behind one that is not.
    pub(in crate::proxy) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes held for this client.
    pub(in crate::proxy) const fn bytes(&self) -> usize {
        self.out.len() + self.parked
    }

    /// Bytes of memory held for this client, those of slices apart.
    pub(in crate::proxy) fn held(&self) -> usize {
        self.out.held() + self.parked_held + self.gathered + self.slots.len() * size_of::<Slot>()
    }

    /// Its equal part of the memory that is shared, in bytes.
    pub(in crate::proxy) fn part(&self) -> usize {
        let parked = |slot: &Slot| slot.extra.as_ref().map_or(0, |extra| extra.queue.part() + extra.order.part());
        self.out.part() + if self.parked > 0 { self.slots.iter().map(parked).sum() } else { 0 }
    }

    /// What is kept twice agrees.
    pub(in crate::proxy) fn check(&self) {
        let loads = self.slots.iter().map(Slot::load);
        let (bytes, held) = loads.fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1));
        debug_assert_eq!((self.parked, self.parked_held), (bytes, held), "what is parked");
    }

    /// A gathered reply takes so many bytes more.
    pub(in crate::proxy) fn gathered(&mut self, bytes: usize) {
        self.gathered += bytes;
    }

    /// The number the next slot gets.
    #[expect(clippy::cast_possible_truncation, reason = "slots are limited to MAX_PIPELINE")]
    pub(in crate::proxy) fn next_seq(&self) -> u32 {
        self.base.wrapping_add(self.slots.len() as u32)
    }

    /// Owes one more reply.
    #[inline]
    pub(in crate::proxy) fn push(&mut self, stamp: Stamp, form: Form) -> u32 {
        self.push_slot(stamp, form, None)
    }

    #[inline]
    fn push_slot(&mut self, stamp: Stamp, form: Form, read: Option<Read>) -> u32 {
        let seq = self.next_seq();
        // Most clients ask for one thing at a time, and thousands may be idle.
        if self.slots.capacity() == 0 {
            self.slots.reserve_exact(1);
            self.answered.reserve_exact(1);
        }
        self.slots.push_back(Slot { stamp, form, tail: None, read, done: false, parked: Vec::new(), extra: None });
        seq
    }

    /// What the client is told besides of a key that has no value; or, where that is kept, the line of its request.
    pub(in crate::proxy) fn set_tail(&mut self, seq: u32, tail: &[u8]) {
        self.change(seq, |slot, _| slot.tail = Some(tail.into()));
    }

    /// Owes the reply to a read. It is open until [`Replies::close_read`]: its parts may still be added.
    #[inline]
    pub(in crate::proxy) fn push_read(&mut self, stamp: Stamp, form: Form) -> u32 {
        self.push_slot(stamp, form, Some(Read { turn: 0, parts: 1, several: false, flows: false, found: false }))
    }

    /// Owes one reply that several nodes contribute to.
    pub(in crate::proxy) fn push_gather(
        &mut self,
        gather: Box<Gather>,
        stamp: Stamp,
        form: Form,
        pool: &mut BufferPool,
    ) -> u32 {
        let seq = self.push(stamp, form);
        self.gathered += gather.bytes();
        self.change(seq, |slot, _| slot.extra(pool).gather = Some(gather));
        seq
    }

    /// Answers at once (in its turn): `text` with its CRLF.
    pub(in crate::proxy) fn push_ready(&mut self, text: &[u8], stamp: Stamp, form: Form, pool: &mut BufferPool) {
        let seq = self.push(stamp, form);
        self.answer(seq, text, pool);
    }

    /// The line that answers a request, with its CRLF, or the lines. What has its answer keeps it: a node may refuse a large
    /// value before its block is found to end badly.
    #[inline]
    pub(in crate::proxy) fn answer(&mut self, seq: u32, text: &[u8], pool: &mut BufferPool) {
        match self.slot(seq) {
            None | Some((_, Slot { done: true, .. })) => return,
            Some((_, Slot { form: Form::Text, .. })) => self.deliver(seq, text, pool),
            _ => self.answer_in_dialect(seq, text, pool),
        }
        self.finish(seq, pool);
    }

    #[inline]
    fn slot(&mut self, seq: u32) -> Option<(usize, &mut Slot)> {
        let index = seq.wrapping_sub(self.base) as usize;
        self.slots.get_mut(index).map(|slot| (index, slot))
    }

    /// Changes a slot, and keeps the account of what is parked. The second argument is the socket's queue, for the head.
    fn change<T>(&mut self, seq: u32, change: impl FnOnce(&mut Slot, Option<&mut OutBuf>) -> T) -> Option<T> {
        let index = seq.wrapping_sub(self.base) as usize;
        let slot = self.slots.get_mut(index)?;
        let before = slot.load();
        let result = change(slot, (index == 0).then_some(&mut self.out));
        let after = slot.load();
        self.parked = self.parked + after.0 - before.0;
        self.parked_held = self.parked_held + after.1 - before.1;
        Some(result)
    }

    /// One more request is made of a read.
    #[inline]
    pub(in crate::proxy) fn add_part(&mut self, seq: u32) {
        if let Some((_, Slot { read: Some(read), .. })) = self.slot(seq) {
            // The part that keeps the read open counts while it is.
            read.several |= read.parts > 1;
            read.parts += 1;
        }
    }

    /// Parts of a read follow when others are over: none stands for all of it.
    pub(in crate::proxy) fn read_by_parts(&mut self, seq: u32) {
        if let Some((_, Slot { read: Some(read), .. })) = self.slot(seq) {
            read.several = true;
        }
    }

    /// The key of a read whose value is sent next.
    pub(in crate::proxy) fn turn(&self, seq: u32) -> u32 {
        let slot = self.slots.get(seq.wrapping_sub(self.base) as usize);
        slot.and_then(|slot| slot.read).map_or(0, |read| read.turn)
    }

    /// Places kept for keys of a read.
    pub(in crate::proxy) fn places(&self, seq: u32) -> usize {
        let slot = self.slots.get(seq.wrapping_sub(self.base) as usize);
        slot.and_then(|slot| slot.extra.as_ref()).map_or(0, |extra| extra.order.len())
    }

    /// All parts of a read have been added.
    #[inline]
    pub(in crate::proxy) fn close_read(&mut self, seq: u32, pool: &mut BufferPool) {
        self.part_done(seq, pool);
    }

    /// A request that was made of a read is over: nothing further comes by it.
    #[inline]
    pub(in crate::proxy) fn part_done(&mut self, seq: u32, pool: &mut BufferPool) {
        if let Some((_, Slot { read: Some(read), .. })) = self.slot(seq) {
            read.parts = read.parts.saturating_sub(1);
            if read.parts == 0 {
                self.finish(seq, pool);
            }
        }
    }

    /// Whether this read went to one node alone: then an error line may pass through in place of `END`.
    pub(in crate::proxy) fn is_alone(&mut self, seq: u32) -> bool {
        self.slot(seq).is_some_and(|(_, slot)| slot.read.is_none_or(|read| !read.several))
    }

    pub(in crate::proxy) fn gather(&mut self, seq: u32) -> Option<&mut Gather> {
        self.slot(seq)?.1.extra.as_mut()?.gather.as_deref_mut()
    }

    /// A part of a read could not be answered and errors are asked for: `text` (with its CRLF) takes the place of the
    /// read's `END`.
    pub(in crate::proxy) fn fail(&mut self, seq: u32, text: &[u8], pool: &mut BufferPool) {
        self.change(seq, |slot, _| slot.extra(pool).error = Some(text.into()));
    }

    // === the end of a reply ===

    /// Completes a slot; what stands at the head and is complete goes to the socket's queue.
    #[inline]
    pub(in crate::proxy) fn finish(&mut self, seq: u32, pool: &mut BufferPool) {
        let Some((index, slot)) = self.slot(seq) else {
            return;
        };
        slot.done = true;
        if index == 0 {
            self.release(pool);
        }
    }

    fn release(&mut self, pool: &mut BufferPool) {
        while self.slots.front().is_some_and(|slot| slot.done) {
            let Some(slot) = self.slots.pop_front() else { return };
            self.base = self.base.wrapping_add(1);
            self.answered.push(slot.stamp);
            self.whole = true;
            match slot {
                // As most are.
                Slot { form: Form::Text, read: Some(read), tail: None, extra: None, .. } => {
                    self.out.append(Form::Text.end(read.found), pool);
                }
                Slot { read: None, tail: None, extra: None, .. } => {}
                slot => self.end_slot(slot, pool),
            }
            self.take_parked(pool);
        }
        if self.slots.is_empty() && self.slots.capacity() > 64 {
            self.slots = VecDeque::new();
        }
    }

    /// What the new head has parked is sent.
    #[inline]
    fn take_parked(&mut self, pool: &mut BufferPool) {
        if self.slots.front().is_some_and(|slot| slot.parked.capacity() > 0 || slot.extra.is_some()) {
            self.send_parked(pool);
        }
    }

    fn send_parked(&mut self, pool: &mut BufferPool) {
        let Some(slot) = self.slots.front_mut() else { return };
        let parked = std::mem::take(&mut slot.parked);
        self.parked -= parked.len();
        self.parked_held -= parked.capacity();
        if parked.len() >= MOVE {
            self.out.push(parked);
        } else if parked.capacity() > 0 {
            self.out.append(&parked, pool);
            pool.put(parked);
        }
        if slot.extra.is_some() {
            self.change(self.base, |slot, head| {
                if let (Some(extra), Some(out)) = (&mut slot.extra, head) {
                    out.join(std::mem::take(&mut extra.queue), pool);
                    slot.advance(Some(out), pool);
                }
            });
        }
    }

    /// What was answered since the last look.
    #[inline]
    pub(in crate::proxy) fn take_answered(&mut self) -> impl Iterator<Item = Stamp> + '_ {
        self.answered.drain(..)
    }

    /// Whether there is something worth a write now.
    #[inline]
    pub(in crate::proxy) fn wants_flush(&self) -> bool {
        let held = || self.slots.front().and_then(|slot| slot.read).is_some_and(|read| read.several);
        !self.out.is_empty() && (self.whole || self.out.len() >= HOLD || !held())
    }

    /// The kernel has taken so many bytes.
    #[inline]
    pub(in crate::proxy) fn written(&mut self, bytes: usize, pool: &mut BufferPool) {
        self.out.advance(bytes, pool);
        self.whole &= !self.out.is_empty();
    }

    /// Drops everything.
    pub(in crate::proxy) fn clear(&mut self, pool: &mut BufferPool) {
        for slot in self.slots.drain(..) {
            pool.put(slot.parked);
            if let Some(mut extra) = slot.extra {
                extra.queue.clear(pool);
                extra.order.clear(pool);
            }
        }
        self.out.clear(pool);
        (self.parked, self.parked_held, self.gathered) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests;
