//! Values that clients send: kept until they are whole, or streamed on a lane of their own.

use super::buffer::{Input, OutBuf};
use super::client::{Arriving, Body, Reading, Taken, Target};
use super::upstream::key_of;
use super::{ClientId, Core};
use crate::metrics::{Outcome, Reason};
use crate::protocol::request::{Store, StoreVerb};
use crate::routing::Topology;

impl Core {
    pub(super) fn store(&mut self, id: ClientId, store: &Store<'_>, after: Input<'_>) -> Taken {
        let mut header = std::mem::take(&mut self.shared.line);
        header.clear();
        store.write(&mut header);
        let value = Arriving {
            header: &header,
            key: store.key,
            len: store.len,
            replaces: store.verb == StoreVerb::Set,
            target: Target::text(Topology::hash(store.key), store.verb.into(), store.quiet),
            tail: &[],
            is_closed: true,
        };
        let taken = self.take_value(id, &value, after);
        self.shared.line = header;
        taken
    }

    /// Takes the value behind a storage line, as far as it is there.
    pub(super) fn take_value(&mut self, id: ClientId, value: &Arriving<'_>, after: Input<'_>) -> Taken {
        if value.len > self.shared.settings.bulk_above {
            return self.store_large(id, value);
        }
        let Arriving { header, key, target, .. } = *value;
        let hash = target.hash;
        let total = value.total();
        if self.stalls_on(id, key, hash, target.meta) || (after.bytes.len() < total && !self.reserve_body(id, total)) {
            return Taken::Stalled;
        }
        if value.replaces {
            self.shared.large_keys.forget(hash);
        }
        self.shared.sample(key, hash);
        self.shared.cells().command(target.command);
        if after.bytes.len() >= total {
            let block = after.part(0..total);
            if !value.is_closed || block.bytes.ends_with(b"\r\n") {
                let up = match self.plan_of(hash, header) {
                    None => self.enqueue_unmoved(id, header, target, value.tail),
                    Some((plan, places)) => {
                        let kept = plan.keeps_block().then(|| whole_block(block.bytes.to_vec(), value.is_closed));
                        self.hand_off(id, header, target, value.tail, plan, places, kept)
                    }
                };
                if let Some(up) = up {
                    let Self { upstreams, shared, .. } = self;
                    if let Some(lane) = upstreams.get_mut(up.0) {
                        // A packet has no CRLF behind its value.
                        let block = if lane.is_binary { block.part(0..value.len) } else { block };
                        lane.out.take(block, &mut shared.pool);
                        if !value.is_closed && !lane.is_binary {
                            lane.out.append(b"\r\n", &mut shared.pool);
                        }
                        lane.touch(up, shared);
                    }
                }
            } else {
                self.refuse_block(id, target);
            }
            // All of it came with what waited for room.
            self.end_body(id, total);
            return Taken::Yes(total);
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            let body = Body {
                header: header.to_vec(),
                target,
                block: OutBuf::default(),
                end: [0; 2],
                total,
                tail: value.tail.into(),
                is_closed: value.is_closed,
            };
            client.reading = Reading::Body(Box::new(body));
        }
        Taken::Yes(0)
    }

    /// Takes what came of a value that is stored here first. Returns how much of `rest` it was.
    pub(super) fn take_body(&mut self, id: ClientId, rest: Input<'_>) -> usize {
        let Some(client) = self.clients.get(id.0) else { return rest.bytes.len() };
        let Reading::Body(body) = &client.reading else { return 0 };
        // It goes on its way with its last byte: that is left where it is as long as it must not.
        let (target, ends) = (body.target, body.left() <= rest.bytes.len());
        let early = usize::from(ends && self.body_stalls(id, target));
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return rest.bytes.len() };
        let Reading::Body(body) = &mut client.reading else { return 0 };
        let used = body.left().min(rest.bytes.len()) - early;
        let piece = rest.part(0..used);
        for byte in piece.bytes.get(used.saturating_sub(2)..).unwrap_or_default() {
            body.end = [body.end[1], *byte];
        }
        body.block.take(piece, &mut shared.pool);
        if client.reserved > 0 {
            shared.budget.arriving -= used;
        }
        if body.left() == 0 {
            self.finish_body(id);
        }
        used
    }

    /// Whether a body has to wait before its end.
    fn body_stalls(&mut self, id: ClientId, target: Target) -> bool {
        let Some(header) = self.body(id).map(|body| std::mem::take(&mut body.header)) else { return false };
        let stalls = self.stalls_behind(id, &key_of(&header), target.hash, target.meta);
        if let Some(body) = self.body(id) {
            body.header = header;
        }
        stalls
    }

    /// The body of which a client has sent the beginning.
    fn body(&mut self, id: ClientId) -> Option<&mut Body> {
        match &mut self.clients.get_mut(id.0)?.reading {
            Reading::Body(body) => Some(body),
            _ => None,
        }
    }

    /// A body that waits before its end is not sent: it is answered, and its end dropped.
    pub(super) fn refuse_body(&mut self, id: ClientId, reason: Reason, text: &str) {
        let Some(body) = self.body(id) else { return };
        let (left, target) = (body.left(), body.target);
        let mut block = std::mem::take(&mut body.block);
        block.clear(&mut self.shared.pool);
        self.end_body(id, left);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.reading = Reading::Swallow(left as u64);
        }
        self.shared.cells().soft(target.command, reason, 1, false);
        self.answer_for(id, target, text.as_bytes());
    }

    /// A stored value is complete: forwards it.
    ///
    /// A lane that has become full in the meantime takes this one more.
    fn finish_body(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let Reading::Body(body) = std::mem::replace(&mut client.reading, Reading::Line) else {
            return;
        };
        let Body { header, target, mut block, end, total, is_closed, tail } = *body;
        if is_closed && end != *b"\r\n" {
            block.clear(&mut self.shared.pool);
            self.refuse_block(id, target);
            self.end_body(id, 0);
            return;
        }
        let up = match self.plan_of(target.hash, &header) {
            None => self.enqueue_unmoved(id, &header, target, &tail),
            Some((plan, places)) => {
                let kept = plan.keeps_block().then(|| whole_block(block.to_vec(), is_closed));
                self.hand_off(id, &header, target, &tail, plan, places, kept)
            }
        };
        if let Some(up) = up {
            let Self { upstreams, shared, .. } = self;
            if let Some(lane) = upstreams.get_mut(up.0) {
                if is_closed && lane.is_binary {
                    // A packet has no CRLF behind its value.
                    block.cut(std::slice::from_ref(&(total - 2..total)), &mut shared.pool);
                }
                lane.out.join(block, &mut shared.pool);
                if !is_closed && !lane.is_binary {
                    lane.out.append(b"\r\n", &mut shared.pool);
                }
                lane.touch(up, shared);
            }
        } else {
            block.clear(&mut self.shared.pool);
        }
        self.end_body(id, 0);
    }

    /// A value's block does not end as it must.
    fn refuse_block(&mut self, id: ClientId, target: Target) {
        self.shared.cells().request(target.command, Outcome::ClientError, 1);
        self.answer_for(id, target, b"CLIENT_ERROR bad data chunk\r\n");
    }

    /// The room that was kept for a body is free; so many bytes of it were still to come.
    fn end_body(&mut self, id: ClientId, to_come: usize) {
        let Self { clients, shared, .. } = self;
        let reserved = clients.get_mut(id.0).map_or(0, |client| std::mem::take(&mut client.reserved));
        if reserved > 0 {
            shared.budget.bodies -= reserved;
            shared.budget.arriving -= to_come;
        }
    }
}

/// A value as the storage commands of lines send it, its CRLF included; `is_closed`: it has that already.
fn whole_block(mut value: Vec<u8>, is_closed: bool) -> Box<[u8]> {
    if !is_closed {
        value.extend_from_slice(b"\r\n");
    }
    value.into()
}
