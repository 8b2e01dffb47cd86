//! The answers of other dialects than classic text, and the ends of replies that hold more than most.

use super::{Replies, Slot, meta_of};
use crate::protocol::form::Form;
use crate::protocol::meta::classic;
use crate::proxy::buffer::{BufferPool, OutBuf};

impl Replies {
    /// As [`Replies::answer`], of another dialect than classic text.
    pub(super) fn answer_in_dialect(&mut self, seq: u32, text: &[u8], pool: &mut BufferPool) {
        let Some((_, slot)) = self.slot(seq) else { return };
        match slot.form {
            Form::Meta { .. } | Form::KeptKey { .. } if slot.form.hides(text) => {}
            Form::Text | Form::Meta { .. } | Form::KeptKey { .. } => self.deliver(seq, text, pool),
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
    }

    /// Ends the reply of a slot that was at the head, whatever its dialect, and gives back what it holds.
    pub(super) fn end_slot(&mut self, slot: Slot, pool: &mut BufferPool) {
        let Slot { form, read, tail, extra, .. } = slot;
        self.parked_held -= tail.as_ref().map_or(0, |tail| tail.len());
        let error = extra.and_then(|mut extra| {
            self.parked_held -= extra.held();
            self.parked -= extra.queue.len() + extra.order.bytes();
            extra.queue.clear(pool);
            extra.order.clear(pool);
            self.gathered -= extra.gather.as_ref().map_or(0, |gather| gather.bytes());
            extra.error
        });
        let Some(read) = read else {
            if let Some(text) = error {
                self.out.append(&text, pool);
            }
            return;
        };
        // Of all but classic commands a value is the one answer, whatever the node says behind it.
        let error = error.filter(|_| form == Form::Text || !read.found);
        match (form, error, tail) {
            (Form::Binary(form), error, tail) => {
                let mut packet = pool.take();
                match error {
                    _ if read.found => {}
                    Some(text) => form.say(&text, &mut packet),
                    None => form.miss(&tail.unwrap_or_default(), &mut packet),
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
    }
}

/// Adds what there is: an empty queue takes memory with its first byte.
#[inline]
fn append(out: &mut OutBuf, bytes: &[u8], pool: &mut BufferPool) {
    if !bytes.is_empty() {
        out.append(bytes, pool);
    }
}
