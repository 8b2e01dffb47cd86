//! The values of a read on their way into its slot: each waits until every key before it is answered or known to have
//! none.

use super::{Read, Replies, Slot};
use crate::protocol::form::Form;
use crate::proxy::buffer::{BufferPool, Input, OutBuf, Slice};
use crate::time::Tick;

impl Replies {
    /// Gives a slot bytes of its reply.
    #[inline]
    pub(super) fn deliver(&mut self, seq: u32, bytes: &[u8], pool: &mut BufferPool) {
        if seq == self.base && !self.slots.is_empty() {
            self.out.append(bytes, pool);
        } else {
            self.park(seq, bytes, &[], pool);
        }
    }

    /// Parks bytes whose turn it is in a slot that is not the head.
    pub(super) fn park(&mut self, seq: u32, bytes: &[u8], more: &[u8], pool: &mut BufferPool) {
        self.change(seq, |slot, _| match &mut slot.extra {
            Some(extra) => {
                extra.queue.append(bytes, pool);
                extra.queue.append(more, pool);
            }
            None => {
                if slot.parked.capacity() == 0 {
                    slot.parked = pool.take();
                }
                slot.parked.extend_from_slice(bytes);
                slot.parked.extend_from_slice(more);
            }
        });
    }

    /// A whole value has come for the key at a place: its `VALUE` line and its block.
    #[inline]
    pub(in crate::proxy) fn value(&mut self, seq: u32, place: u32, header: &[u8], block: &[u8], pool: &mut BufferPool) {
        match self.slot(seq) {
            Some((_, Slot { form: Form::Text, .. })) => self.give(seq, place, header, block, pool),
            _ => self.value_in_dialect(seq, place, header, block, pool),
        }
    }

    /// The same, of another dialect than classic text.
    fn value_in_dialect(&mut self, seq: u32, place: u32, header: &[u8], block: &[u8], pool: &mut BufferPool) {
        let Some((_, slot)) = self.slot(seq) else { return };
        let Some(read) = slot.read.as_mut() else { return };
        read.found = true;
        let mut head = Vec::new();
        let (header, block) = match slot.form {
            Form::Meta { .. } | Form::KeptKey { .. } if slot.form.hides(header) => return self.miss(seq, place, pool),
            Form::Text | Form::Meta { .. } => (header, block),
            Form::Classic | Form::KeptKey { .. } => {
                head = pool.take();
                let follows = slot.announce(header, &mut head);
                (&*head, if follows { block } else { &[] })
            }
            Form::Binary(form) => {
                head = pool.take();
                let asked = slot.tail.as_deref().unwrap_or_default();
                let block = form.value(header, asked, block.strip_suffix(b"\r\n").unwrap_or(block), &mut head);
                if head.is_empty() {
                    pool.put(head);
                    return self.miss(seq, place, pool);
                }
                (&*head, block)
            }
        };
        self.give(seq, place, header, block, pool);
        pool.put(head);
    }

    /// A whole value, as its client is sent it.
    #[inline]
    fn give(&mut self, seq: u32, place: u32, header: &[u8], block: &[u8], pool: &mut BufferPool) {
        let Some((index, slot)) = self.slot(seq) else { return };
        let Some(read) = slot.read.as_mut() else { return };
        read.found = true;
        if read.turn != place {
            return self.keep(seq, place, header, block, pool);
        }
        read.turn += 1;
        let ordered = slot.extra.is_some();
        if index == 0 {
            self.out.append(header, pool);
            self.out.append(block, pool);
        } else {
            self.park(seq, header, block, pool);
        }
        if ordered {
            self.advance(seq, pool);
        }
    }

    /// A whole value came before its turn.
    fn keep(&mut self, seq: u32, place: u32, header: &[u8], block: &[u8], pool: &mut BufferPool) {
        self.change(seq, |slot, _| slot.extra(pool).order.park(place, header, block, pool));
    }

    /// The turn has moved in a read of which something came before its turn.
    fn advance(&mut self, seq: u32, pool: &mut BufferPool) {
        self.change(seq, |slot, head| slot.advance(head, pool));
    }

    /// The value of the key at a place begins to come, with its `VALUE` line.
    pub(in crate::proxy) fn begin(&mut self, seq: u32, place: u32, header: &[u8], pool: &mut BufferPool) {
        if let Some((_, Slot { form: Form::Binary(form), tail, .. })) = self.slot(seq) {
            let mut head = pool.take();
            form.announce(header, tail.as_deref().unwrap_or_default(), &mut head);
            self.begin_as(seq, place, &head, pool);
            pool.put(head);
        } else if let Some((_, slot)) = self.slot(seq).filter(|(_, slot)| slot.form.keeps_line()) {
            let mut head = pool.take();
            slot.announce(header, &mut head);
            self.begin_as(seq, place, &head, pool);
            pool.put(head);
        } else {
            self.begin_as(seq, place, header, pool);
        }
    }

    fn begin_as(&mut self, seq: u32, place: u32, header: &[u8], pool: &mut BufferPool) {
        self.change(seq, |slot, head| match (&mut slot.read, head) {
            (Some(read), Some(out)) if read.turn == place => {
                read.flows = true;
                out.append(header, pool);
            }
            _ => {
                let order = &mut slot.extra(pool).order;
                order.begin(place);
                order.add(place, pool, |queue, pool| queue.append(header, pool));
            }
        });
    }

    /// A piece of the value at a place that has begun. So many of its last bytes are of the CRLF that closes the block.
    pub(in crate::proxy) fn piece(
        &mut self,
        seq: u32,
        place: u32,
        piece: Input<'_>,
        closing: usize,
        pool: &mut BufferPool,
    ) {
        let left_out = self.left_out(seq, piece.bytes.len(), closing);
        let piece = if left_out > 0 { piece.part(0..piece.bytes.len().saturating_sub(left_out)) } else { piece };
        if !piece.bytes.is_empty() {
            self.add(seq, place, pool, |out, pool| out.take(piece, pool));
        }
    }

    /// Whether the value at a place is sent as it comes: nothing of the client's stands before it.
    pub(in crate::proxy) fn flows(&self, seq: u32, place: u32) -> bool {
        let head = self.slots.front().filter(|slot| seq == self.base && slot.form != Form::Classic);
        head.and_then(|slot| slot.read).is_some_and(|read| read.flows && read.turn == place)
    }

    /// How many of the last bytes of a piece its client is not sent: the CRLF that closes a value in text, or all of it.
    pub(in crate::proxy) fn left_out(&self, seq: u32, piece: usize, closing: usize) -> usize {
        let slot = self.slots.get(seq.wrapping_sub(self.base) as usize);
        match slot.map(|slot| slot.form) {
            Some(Form::Binary(_)) => closing,
            Some(Form::Classic) if self.is_told_no_value(seq) => piece,
            _ => 0,
        }
    }

    /// Whether a slot's client is not told the value that its node was asked for.
    pub(in crate::proxy) fn is_told_no_value(&self, seq: u32) -> bool {
        let slot = self.slots.get(seq.wrapping_sub(self.base) as usize).filter(|slot| slot.form == Form::Classic);
        slot.and_then(Slot::meta).is_some_and(|meta| !meta.value)
    }

    /// The same, of memory that others hold too.
    pub(in crate::proxy) fn shared_piece(&mut self, seq: u32, place: u32, slice: &Slice, pool: &mut BufferPool) {
        self.add(seq, place, pool, |out, pool| {
            let slice = pool.again(slice);
            out.push_slice(slice);
        });
    }

    fn add(&mut self, seq: u32, place: u32, pool: &mut BufferPool, add: impl FnOnce(&mut OutBuf, &mut BufferPool)) {
        self.change(seq, |slot, head| match (&slot.read, head) {
            (Some(Read { turn, flows: true, .. }), Some(out)) if *turn == place => add(out, pool),
            _ => slot.extra(pool).order.add(place, pool, add),
        });
    }

    /// The value at a place is whole.
    pub(in crate::proxy) fn end(&mut self, seq: u32, place: u32, pool: &mut BufferPool) {
        self.change(seq, |slot, head| {
            let Some(read) = &mut slot.read else { return };
            read.found = true;
            if read.flows && read.turn == place {
                read.flows = false;
                read.turn += 1;
            } else if let Some(extra) = &mut slot.extra {
                extra.order.end(place);
            }
            slot.advance(head, pool);
        });
    }

    /// The rest of the value at a place never comes. Returns whether a part of it has been sent; else it is as if it
    /// had not begun.
    pub(in crate::proxy) fn cut_off(&mut self, seq: u32, place: u32, pool: &mut BufferPool) -> bool {
        let sent = self.change(seq, |slot, _| {
            let sent = slot.read.is_some_and(|read| read.flows && read.turn == place);
            if let (false, Some(extra)) = (sent, &mut slot.extra) {
                extra.order.cut_off(place, pool);
            }
            sent
        });
        sent.unwrap_or(false)
    }

    /// The key at a place has no value.
    #[inline]
    pub(in crate::proxy) fn miss(&mut self, seq: u32, place: u32, pool: &mut BufferPool) {
        let Some((_, slot)) = self.slot(seq) else { return };
        let Some(read) = slot.read.as_mut().filter(|read| read.turn <= place) else { return };
        let next = read.turn == place;
        if next {
            read.turn += 1;
        }
        if !next || slot.extra.is_some() {
            self.change(seq, |slot, head| {
                if !next {
                    slot.extra(pool).order.miss(place);
                }
                slot.advance(head, pool);
            });
        }
    }

    /// The value of the key at a place found no room: it is to be asked for again in its turn. The read is not over
    /// before.
    pub(in crate::proxy) fn again(&mut self, seq: u32, place: u32, pool: &mut BufferPool) {
        self.change(seq, |slot, _| {
            if let Some(read) = &mut slot.read {
                read.parts += 1;
                read.several = true;
            }
            slot.extra(pool).order.again(place);
        });
    }

    /// The key whose value is to be asked for again now, for its turn has come.
    pub(in crate::proxy) fn due(&self) -> Option<(u32, u32)> {
        let slot = self.slots.front()?;
        let (read, extra) = (slot.read?, slot.extra.as_ref()?);
        extra.order.is_again(read.turn).then_some((self.base, read.turn))
    }

    /// It has been asked for again; the part that [`Replies::again`] added is done when that is answered.
    pub(in crate::proxy) fn asked(&mut self, seq: u32, place: u32) {
        self.change(seq, |slot, _| {
            if let Some(extra) = &mut slot.extra {
                extra.order.asked(place);
            }
        });
    }

    /// Since when values of the oldest read wait that came before their turn; `None` where none does.
    pub(in crate::proxy) fn waits_with_values(&self) -> Option<Tick> {
        if self.parked == 0 {
            return None;
        }
        let waits = |slot: &&Slot| slot.extra.as_ref().is_some_and(|extra| extra.order.bytes() > 0);
        self.slots.iter().find(waits).map(|slot| slot.stamp.arrived_at)
    }

    /// Values that came before their turn give way to who finds no room: their keys are missed, or `error` takes the place
    /// of their read's `END`. Returns how many they were.
    pub(in crate::proxy) fn give_way(&mut self, error: Option<&[u8]>, pool: &mut BufferPool) -> usize {
        let mut all = 0;
        for index in 0..self.slots.len() {
            let seq = self.base.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX));
            let dropped = self.change(seq, |slot, _| {
                let Some(extra) = &mut slot.extra else { return 0 };
                let dropped = extra.order.give_way(pool);
                if let (true, Some(text)) = (dropped > 0, error) {
                    extra.error = Some(text.into());
                }
                dropped
            });
            all += dropped.unwrap_or_default();
        }
        all
    }
}
