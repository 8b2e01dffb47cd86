//! The replies owed to one client, in the order of its requests.
//!
//! Each request has a slot, or one per node it went to. A slot is filled by a node's bytes or is
//! born ready. Only the head slot writes to the socket's queue; the others park what they get.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Tick;
use super::buffer::{BufferPool, OutBuf};
use super::gather::Gather;
use crate::metrics::Kind;

/// Values of a read that waits for its other nodes are held back up to this many bytes, so that a
/// multiget costs one write.
const HOLD: usize = 16 << 10;
/// A parked reply of at least this many bytes is queued without copying it again.
const MOVE: usize = 16 << 10;

/// Where a slot stands in its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The whole answer.
    Whole,
    /// The values of a read from one node; `END` follows the last part.
    Values {
        /// The command's first part.
        first: bool,
        /// The command's last part.
        last: bool,
    },
}

/// What a reply answers, and since when it is owed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) kind: Kind,
    pub(super) at: Tick,
}

#[derive(Debug)]
struct Slot {
    stamp: Stamp,
    parked: Vec<u8>,
    done: bool,
    part: Part,
    gather: Option<Box<Gather>>,
    /// The error line this part of a read ends with, where errors are asked for.
    error: Option<Box<[u8]>>,
}

/// The queue of slots and what is ready to be written.
#[derive(Debug, Default)]
pub(super) struct Replies {
    slots: VecDeque<Slot>,
    /// The sequence number of the head slot.
    base: u32,
    pub(super) out: OutBuf,
    /// Bytes parked behind the head, and the memory they hold.
    parked: usize,
    parked_held: usize,
    /// Bytes gathered from nodes for replies that are made of several.
    gathered: usize,
    /// A whole reply is in `out`: it is not held back for the parts of the next.
    whole: bool,
    /// The error line that takes `END`'s place in the read now at the head.
    error: Option<Box<[u8]>>,
    /// What was answered since this was last taken.
    answered: Vec<Stamp>,
}

impl Replies {
    /// Slots not finished, or finished behind one that is not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes held for this client.
    pub(super) const fn bytes(&self) -> usize {
        self.out.len() + self.parked
    }

    /// Bytes of memory held for this client.
    pub(super) fn held(&self) -> usize {
        self.out.held() + self.parked_held + self.gathered + self.slots.len() * size_of::<Slot>()
    }

    /// So many bytes of a node's part were added to a gathered reply.
    pub(super) fn gathered(&mut self, bytes: usize) {
        self.gathered += bytes;
    }

    /// Whether this is the slot that is owed next.
    pub(super) fn is_head(&self, seq: u32) -> bool {
        seq == self.base && !self.slots.is_empty()
    }

    /// Bytes that wait ahead of what a slot gets next: in the socket's queue for the head, else
    /// parked in the slot itself.
    pub(super) fn backlog(&self, seq: u32) -> usize {
        match seq.wrapping_sub(self.base) {
            0 => self.out.len(),
            index => self.slots.get(index as usize).map_or(0, |slot| slot.parked.len()),
        }
    }

    /// The number the next slot gets.
    #[expect(clippy::cast_possible_truncation, reason = "slots are limited to MAX_PIPELINE")]
    pub(super) fn next_seq(&self) -> u32 {
        self.base.wrapping_add(self.slots.len() as u32)
    }

    /// Owes one more reply.
    pub(super) fn push(&mut self, part: Part, stamp: Stamp) -> u32 {
        let seq = self.next_seq();
        self.slots.push_back(Slot { stamp, parked: Vec::new(), done: false, part, gather: None, error: None });
        seq
    }

    /// Owes one reply that several nodes contribute to.
    pub(super) fn push_gather(&mut self, gather: Box<Gather>, stamp: Stamp) -> u32 {
        let seq = self.push(Part::Whole, stamp);
        if let Some(slot) = self.slots.back_mut() {
            slot.gather = Some(gather);
        }
        seq
    }

    /// Answers at once (in its turn): `text` with its CRLF.
    pub(super) fn push_ready(&mut self, text: &[u8], stamp: Stamp, pool: &mut BufferPool) {
        let seq = self.push(Part::Whole, stamp);
        self.deliver(seq, text, pool);
        self.finish(seq, pool);
    }

    /// Marks the last pushed slot as the last part of its read.
    pub(super) fn close_read(&mut self) {
        if let Some(Slot { part: Part::Values { last, .. }, .. }) = self.slots.back_mut() {
            *last = true;
        }
    }

    fn slot(&mut self, seq: u32) -> Option<(usize, &mut Slot)> {
        let index = seq.wrapping_sub(self.base) as usize;
        self.slots.get_mut(index).map(|slot| (index, slot))
    }

    /// Whether this slot is the whole of a read that went to one node alone: then an error line may
    /// pass through in place of `END`.
    pub(super) fn is_alone(&mut self, seq: u32) -> bool {
        self.slot(seq).is_some_and(|(_, slot)| match slot.part {
            Part::Whole => true,
            Part::Values { first, last } => first && last,
        })
    }

    pub(super) fn gather(&mut self, seq: u32) -> Option<&mut Gather> {
        self.slot(seq)?.1.gather.as_deref_mut()
    }

    /// Gives a slot bytes of its reply.
    #[inline]
    pub(super) fn deliver(&mut self, seq: u32, bytes: &[u8], pool: &mut BufferPool) {
        let Some((index, slot)) = self.slot(seq) else {
            return;
        };
        if index == 0 {
            self.out.append(bytes, pool);
            return;
        }
        let before = slot.parked.capacity();
        if before == 0 {
            slot.parked = pool.take();
        }
        slot.parked.extend_from_slice(bytes);
        let grown = slot.parked.capacity() - before;
        self.parked_held += grown;
        self.parked += bytes.len();
    }

    /// Gives a slot bytes that other clients get too; `cost` is this one's part of their memory.
    pub(super) fn deliver_shared(&mut self, seq: u32, bytes: Bytes, cost: usize, pool: &mut BufferPool) {
        match self.slot(seq) {
            Some((0, _)) => self.out.push_shared(bytes, cost),
            Some(_) => self.deliver(seq, &bytes, pool),
            None => {}
        }
    }

    /// A part of a read could not be answered and errors are asked for: `text` (with its CRLF) takes
    /// the place of the read's `END`.
    pub(super) fn fail_part(&mut self, seq: u32, text: &[u8], pool: &mut BufferPool) {
        if let Some((_, slot)) = self.slot(seq) {
            slot.error = Some(text.into());
        }
        self.finish(seq, pool);
    }

    /// Completes a slot; what stands at the head and is complete goes to the socket's queue.
    #[inline]
    pub(super) fn finish(&mut self, seq: u32, pool: &mut BufferPool) {
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
            let Some(slot) = self.slots.pop_front() else {
                break;
            };
            self.base = self.base.wrapping_add(1);
            self.gathered -= slot.gather.map_or(0, |gather| gather.bytes());
            if matches!(slot.part, Part::Whole | Part::Values { last: true, .. }) {
                self.whole = true;
                self.answered.push(slot.stamp);
            }
            if slot.error.is_some() {
                self.error = slot.error;
            }
            if let Part::Values { last: true, .. } = slot.part {
                match self.error.take() {
                    Some(text) => self.out.append(&text, pool),
                    None => self.out.append(b"END\r\n", pool),
                }
            }
            if let Some(next) = self.slots.front_mut() {
                let parked = std::mem::take(&mut next.parked);
                self.parked -= parked.len();
                self.parked_held -= parked.capacity();
                if parked.len() >= MOVE {
                    self.out.push(parked);
                } else if parked.capacity() > 0 {
                    self.out.append(&parked, pool);
                    pool.put(parked);
                }
            }
        }
        if self.slots.is_empty() && self.slots.capacity() > 64 {
            self.slots = VecDeque::new();
        }
    }

    /// What was answered since the last look.
    #[inline]
    pub(super) fn take_answered(&mut self) -> impl Iterator<Item = Stamp> + '_ {
        self.answered.drain(..)
    }

    /// Whether there is something worth a write now.
    #[inline]
    pub(super) fn wants_flush(&self) -> bool {
        let held = matches!(self.slots.front(), Some(Slot { part: Part::Values { first: false, .. }, .. }));
        !self.out.is_empty() && (!held || self.whole || self.out.len() >= HOLD)
    }

    /// The kernel has taken so many bytes.
    #[inline]
    pub(super) fn written(&mut self, bytes: usize, pool: &mut BufferPool) {
        self.out.advance(bytes, pool);
        self.whole &= !self.out.is_empty();
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        for slot in self.slots.drain(..) {
            pool.put(slot.parked);
        }
        self.out.clear(pool);
        (self.parked, self.parked_held, self.gathered) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { kind: Kind::Other, at: Tick(0) };

    fn sent(replies: &mut Replies, pool: &mut BufferPool) -> String {
        let mut text = Vec::new();
        while !replies.out.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let filled = replies.out.slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
            replies.out.advance(bytes.len(), pool);
            text.extend(bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn replies_leave_in_the_order_of_the_requests() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let first = replies.push(Part::Whole, STAMP);
        replies.push_ready(b"MN\r\n", STAMP, &mut pool);
        let third = replies.push(Part::Whole, STAMP);
        replies.deliver(third, b"STORED\r\n", &mut pool);
        replies.finish(third, &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "");
        assert_eq!(replies.bytes(), 12);
        replies.deliver(first, b"DELETED\r\n", &mut pool);
        replies.finish(first, &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "DELETED\r\nMN\r\nSTORED\r\n");
        assert!(replies.is_empty());
    }

    #[test]
    fn a_read_from_several_nodes_has_one_end_and_is_held_for_it() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let a = replies.push(Part::Values { first: true, last: false }, STAMP);
        let b = replies.push(Part::Values { first: false, last: false }, STAMP);
        replies.close_read();
        replies.deliver(b, b"VALUE b 0 0\r\n\r\n", &mut pool);
        replies.deliver(a, b"VALUE a 0 0\r\n\r\n", &mut pool);
        replies.finish(a, &mut pool);
        assert!(!replies.wants_flush(), "held until END");
        replies.finish(b, &mut pool);
        assert!(replies.wants_flush());
        assert_eq!(sent(&mut replies, &mut pool), "VALUE a 0 0\r\n\r\nVALUE b 0 0\r\n\r\nEND\r\n");
    }

    #[test]
    fn an_error_takes_the_place_of_end_only_in_its_own_read() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let a = replies.push(Part::Values { first: true, last: false }, STAMP);
        let b = replies.push(Part::Values { first: false, last: true }, STAMP);
        let c = replies.push(Part::Values { first: true, last: true }, STAMP);
        replies.finish(c, &mut pool);
        replies.deliver(b, b"VALUE b 0 0\r\n\r\n", &mut pool);
        replies.finish(b, &mut pool);
        replies.fail_part(a, b"SERVER_ERROR proxy\r\n", &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "VALUE b 0 0\r\n\r\nSERVER_ERROR proxy\r\nEND\r\n");
    }
}
