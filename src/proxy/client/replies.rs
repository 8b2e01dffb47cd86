//! The replies owed to one client, in the order of its requests.
//!
//! Each request has a slot. A slot is filled by a node's bytes or is born ready. Only the head slot writes to the
//! socket's queue; the others park what they get.
//!
//! A read has a place for each of its keys. Its values are sent in the order of the keys: one whose turn has not come
//! waits (`order.rs`), and a key is passed over once it is known to have no value. Its parts, one for each request that
//! was made of it, say when all is known; then `END` follows, or the error line of a part that failed.

use std::collections::VecDeque;

use super::gather::Gather;
use super::order::{Order, Turn};
use crate::metrics::Kind;
use crate::protocol::form::Form;
use crate::protocol::meta::classic;
use crate::protocol::meta::request::{self as meta_request, Meta};
use crate::proxy::buffer::{BufferPool, Input, OutBuf, Slice};
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

    fn push_slot(&mut self, stamp: Stamp, form: Form, read: Option<Read>) -> u32 {
        let seq = self.next_seq();
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
        let Some((_, slot)) = self.slot(seq).filter(|(_, slot)| !slot.done) else { return };
        match slot.form {
            Form::Text => self.deliver(seq, text, pool),
            Form::Meta { .. } | Form::KeptKey { .. } if slot.form.hides(text) => {}
            Form::Meta { .. } | Form::KeptKey { .. } => self.deliver(seq, text, pool),
            Form::Classic => {
                let mut line = pool.take();
                match slot.meta() {
                    Some(meta) => classic::answer(&meta, text.strip_suffix(b"\r\n").unwrap_or(text), &mut line),
                    None => line.extend_from_slice(text),
                }
                if !line.is_empty() {
                    self.deliver(seq, &line, pool);
                }
                pool.put(line);
            }
            Form::Binary(form) => {
                let mut packets = pool.take();
                form.say(text, &mut packets);
                if !packets.is_empty() {
                    self.deliver(seq, &packets, pool);
                }
                pool.put(packets);
            }
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

    /// Gives a slot bytes of its reply.
    #[inline]
    fn deliver(&mut self, seq: u32, bytes: &[u8], pool: &mut BufferPool) {
        if seq == self.base && !self.slots.is_empty() {
            self.out.append(bytes, pool);
        } else {
            self.park(seq, bytes, &[], pool);
        }
    }

    /// Parks bytes whose turn it is in a slot that is not the head.
    fn park(&mut self, seq: u32, bytes: &[u8], more: &[u8], pool: &mut BufferPool) {
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

    // === the values of a read ===

    /// A whole value has come for the key at a place: its `VALUE` line and its block.
    #[inline]
    pub(in crate::proxy) fn value(&mut self, seq: u32, place: u32, header: &[u8], block: &[u8], pool: &mut BufferPool) {
        let Some((_, slot)) = self.slot(seq) else { return };
        let Some(read) = slot.read.as_mut() else { return };
        read.found = true;
        match slot.form {
            Form::Text => self.give(seq, place, header, block, pool),
            Form::Meta { .. } | Form::KeptKey { .. } if slot.form.hides(header) => self.miss(seq, place, pool),
            Form::Meta { .. } => self.give(seq, place, header, block, pool),
            Form::Classic | Form::KeptKey { .. } => {
                let mut head = pool.take();
                let follows = slot.announce(header, &mut head);
                self.give(seq, place, &head, if follows { block } else { &[] }, pool);
                pool.put(head);
            }
            Form::Binary(form) => {
                let mut head = pool.take();
                let asked = slot.tail.as_deref().unwrap_or_default();
                let block = form.value(header, asked, block.strip_suffix(b"\r\n").unwrap_or(block), &mut head);
                if head.is_empty() {
                    self.miss(seq, place, pool);
                } else {
                    self.give(seq, place, &head, block, pool);
                }
                pool.put(head);
            }
        }
    }

    /// A whole value, as its client is sent it.
    #[inline]
    fn give(&mut self, seq: u32, place: u32, header: &[u8], block: &[u8], pool: &mut BufferPool) {
        let Some((index, slot)) = self.slot(seq) else { return };
        let Some(read) = slot.read.as_mut() else { return };
        if read.turn != place {
            self.change(seq, |slot, _| slot.extra(pool).order.park(place, header, block, pool));
            return;
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
            self.change(seq, |slot, head| slot.advance(head, pool));
        }
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

    /// How many of the last bytes of a piece its client is not sent: the CRLF that closes a value in text, or all of it.
    pub(in crate::proxy) fn left_out(&self, seq: u32, piece: usize, closing: usize) -> usize {
        let slot = self.slots.get(seq.wrapping_sub(self.base) as usize);
        match slot.map(|slot| slot.form) {
            Some(Form::Binary(_)) => closing,
            Some(Form::Classic) if slot.and_then(Slot::meta).is_some_and(|meta| !meta.value) => piece,
            _ => 0,
        }
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
        while let Some(slot) = self.slots.front_mut().filter(|slot| slot.done) {
            self.answered.push(slot.stamp);
            self.whole = true;
            let (form, read, tail) = (slot.form, slot.read, slot.tail.take());
            self.parked_held -= tail.as_ref().map_or(0, |tail| tail.len());
            let error = slot.extra.take().and_then(|mut extra| {
                self.parked_held -= extra.held();
                self.parked -= extra.queue.len() + extra.order.bytes();
                extra.queue.clear(pool);
                extra.order.clear(pool);
                self.gathered -= extra.gather.as_ref().map_or(0, |gather| gather.bytes());
                extra.error
            });
            if let Some(read) = read {
                match (form, error, tail) {
                    (Form::Binary(form), error, tail) => {
                        let mut packet = pool.take();
                        match error {
                            Some(text) => form.say(&text, &mut packet),
                            None if !read.found => form.miss(&tail.unwrap_or_default(), &mut packet),
                            None => {}
                        }
                        append(&mut self.out, &packet, pool);
                        pool.put(packet);
                    }
                    (_, Some(text), _) => self.out.append(&text, pool),
                    (form, None, Some(line)) if form.keeps_line() => {
                        if let Some(meta) = meta_of(&line).filter(|meta| !read.found && !meta.quiet) {
                            let mut miss = pool.take();
                            meta.soft_miss(&mut miss);
                            self.out.append(&miss, pool);
                            pool.put(miss);
                        }
                    }
                    (_, None, Some(tail)) if !read.found => self.out.append(&tail, pool),
                    _ => append(&mut self.out, form.end(read.found), pool),
                }
            } else if let Some(text) = error {
                self.out.append(&text, pool);
            }
            self.slots.pop_front();
            self.base = self.base.wrapping_add(1);
            self.take_parked(pool);
        }
        if self.slots.is_empty() && self.slots.capacity() > 64 {
            self.slots = VecDeque::new();
        }
    }

    /// What the new head has parked is sent.
    fn take_parked(&mut self, pool: &mut BufferPool) {
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

/// Adds what there is: an empty queue takes memory with its first byte.
#[inline]
fn append(out: &mut OutBuf, bytes: &[u8], pool: &mut BufferPool) {
    if !bytes.is_empty() {
        out.append(bytes, pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { kind: Kind::Other, arrived_at: Tick(0) };

    fn sent(replies: &mut Replies, pool: &mut BufferPool) -> String {
        let mut text = Vec::new();
        while !replies.out.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let filled = replies.out.slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
            replies.out.advance(bytes.len(), pool);
            text.extend(bytes);
        }
        replies.check();
        String::from_utf8(text).unwrap()
    }

    fn value(key: &str) -> (String, &'static [u8]) {
        (format!("VALUE {key} 0 1\r\n"), b"x\r\n")
    }

    fn give(replies: &mut Replies, seq: u32, place: u32, key: &str, pool: &mut BufferPool) {
        let (header, block) = value(key);
        replies.value(seq, place, header.as_bytes(), block, pool);
    }

    /// A read that went to so many nodes.
    fn read(replies: &mut Replies, parts: usize, pool: &mut BufferPool) -> u32 {
        let seq = replies.push_read(STAMP, Form::Text);
        for _ in 0..parts {
            replies.add_part(seq);
        }
        replies.close_read(seq, pool);
        seq
    }

    #[test]
    fn replies_leave_in_the_order_of_the_requests() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let first = replies.push(STAMP, Form::Text);
        replies.push_ready(b"MN\r\n", STAMP, Form::Text, &mut pool);
        let third = replies.push(STAMP, Form::Text);
        replies.answer(third, b"STORED\r\n", &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "");
        assert_eq!(replies.bytes(), 12);
        replies.answer(first, b"DELETED\r\n", &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "DELETED\r\nMN\r\nSTORED\r\n");
        assert!(replies.is_empty());
        assert_eq!(replies.held(), 0);
    }

    #[test]
    fn what_is_answered_is_not_answered_again() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let first = replies.push(STAMP, Form::Text);
        let second = replies.push(STAMP, Form::Text);
        replies.answer(second, b"SERVER_ERROR object too large for cache\r\n", &mut pool);
        replies.answer(second, b"CLIENT_ERROR bad data chunk\r\n", &mut pool);
        replies.answer(first, b"STORED\r\n", &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "STORED\r\nSERVER_ERROR object too large for cache\r\n");
        assert_eq!(replies.held(), 0);
    }

    #[test]
    fn values_leave_in_the_order_of_the_keys_and_are_held_for_the_end() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let seq = read(&mut replies, 2, &mut pool);
        give(&mut replies, seq, 1, "b", &mut pool);
        give(&mut replies, seq, 3, "d", &mut pool);
        replies.part_done(seq, &mut pool);
        assert_eq!(replies.out.len(), 0, "a is not known yet");
        give(&mut replies, seq, 0, "a", &mut pool);
        assert!(!replies.wants_flush(), "held until END");
        replies.miss(seq, 2, &mut pool);
        replies.part_done(seq, &mut pool);
        assert!(replies.wants_flush());
        let expected: String = ["a", "b", "d"].map(|key| value(key).0 + "x\r\n").concat();
        assert_eq!(sent(&mut replies, &mut pool), expected + "END\r\n");
        assert_eq!(replies.held(), 0);
    }

    #[test]
    fn an_error_takes_the_place_of_end_only_in_its_own_read() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let first = read(&mut replies, 2, &mut pool);
        let second = read(&mut replies, 1, &mut pool);
        replies.miss(second, 0, &mut pool);
        replies.part_done(second, &mut pool);
        give(&mut replies, first, 1, "b", &mut pool);
        replies.part_done(first, &mut pool);
        replies.fail(first, b"SERVER_ERROR proxy\r\n", &mut pool);
        replies.miss(first, 0, &mut pool);
        replies.part_done(first, &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "VALUE b 0 1\r\nx\r\nSERVER_ERROR proxy\r\nEND\r\n");
        assert_eq!(replies.held(), 0);
    }

    #[test]
    fn a_value_that_has_not_been_sent_can_be_taken_back_and_one_that_has_cannot() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let seq = read(&mut replies, 2, &mut pool);
        replies.begin(seq, 1, b"VALUE b 0 40000\r\n", &mut pool);
        replies.piece(seq, 1, Input::borrowed(&[b'b'; 30_000]), 0, &mut pool);
        assert!(!replies.cut_off(seq, 1, &mut pool));
        replies.miss(seq, 1, &mut pool);
        replies.part_done(seq, &mut pool);
        replies.begin(seq, 0, b"VALUE a 0 5\r\n", &mut pool);
        assert!(replies.cut_off(seq, 0, &mut pool));
        replies.piece(seq, 0, Input::borrowed(b"aaaaa\r\n"), 2, &mut pool);
        replies.end(seq, 0, &mut pool);
        replies.part_done(seq, &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "VALUE a 0 5\r\naaaaa\r\nEND\r\n");
        assert_eq!(replies.held(), 0);
    }

    #[test]
    fn values_that_wait_for_their_turn_give_way_and_are_missed() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let seq = read(&mut replies, 2, &mut pool);
        let large = vec![b'c'; 200_000];
        replies.value(seq, 1, b"VALUE b 0 1\r\n", b"b\r\n", &mut pool);
        replies.value(seq, 2, b"VALUE c 0 200000\r\n", &[&*large, b"\r\n"].concat(), &mut pool);
        assert_eq!(replies.waits_with_values(), Some(Tick(0)));
        assert!(replies.held() > 200_000);
        assert_eq!(replies.give_way(None, &mut pool), 2);
        assert!(replies.held() < 10_000 && replies.waits_with_values().is_none());
        replies.check();
        replies.value(seq, 0, b"VALUE a 0 1\r\n", b"a\r\n", &mut pool);
        replies.part_done(seq, &mut pool);
        replies.part_done(seq, &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "VALUE a 0 1\r\na\r\nEND\r\n");
        assert_eq!(replies.held(), 0);
    }

    #[test]
    fn a_value_that_came_before_its_turn_flows_on_when_that_comes() {
        let mut pool = BufferPool::default();
        let mut replies = Replies::default();
        let first = replies.push(STAMP, Form::Text);
        let seq = read(&mut replies, 2, &mut pool);
        replies.begin(seq, 1, b"VALUE b 0 6\r\n", &mut pool);
        replies.piece(seq, 1, Input::borrowed(b"bbb"), 0, &mut pool);
        replies.again(seq, 0, &mut pool);
        assert_eq!(replies.due(), None, "another reply is owed first");
        replies.answer(first, b"OK\r\n", &mut pool);
        assert_eq!(replies.due(), Some((seq, 0)));
        replies.asked(seq, 0);
        replies.part_done(seq, &mut pool);
        replies.miss(seq, 0, &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "OK\r\nVALUE b 0 6\r\nbbb");
        replies.piece(seq, 1, Input::borrowed(b"bbb\r\n"), 2, &mut pool);
        replies.end(seq, 1, &mut pool);
        replies.part_done(seq, &mut pool);
        assert!(!replies.is_empty(), "what was asked again is not over");
        replies.part_done(seq, &mut pool);
        assert_eq!(sent(&mut replies, &mut pool), "bbb\r\nEND\r\n");
        assert_eq!(replies.held(), 0);
    }
}
