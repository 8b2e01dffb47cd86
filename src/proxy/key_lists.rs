//! Reads whose line is long: limits hold within a request, too.
//!
//! A line that is whole and valid is sent by windows. Places, and entries on lanes, exist only for the keys of it that are
//! asked for and not answered: at most a window of them ([`WINDOW`]), and on a lane at most two lines at a time. Meanwhile
//! the client is not read, and nothing behind the line is looked at, so all that holds for one read holds for its windows.

use super::client::key_list::{KeyList, WINDOW};
use super::client::replies::Stamp;
use super::client::{Reading, Stall};
use super::effect::Effect;
use super::large::Wanted;
use super::{ClientId, Core, UpstreamId};
use crate::metrics::{Kind, Reason, SIZES};
use crate::protocol::form::Form;
use crate::protocol::request::{Keys, ReadVerb};
use crate::routing::Topology;

/// Why no further key is asked for now.
enum Stop {
    /// All have been.
    Done,
    /// The window is full, or this step has done enough.
    Window,
    /// The lane of the next key has two lines already.
    Lines,
    /// The lane of the next key is at its limit: the client waits for it.
    Lane,
}

impl Core {
    /// A long line is whole and valid. `end` is where its keys end, `len` where it does.
    pub(super) fn begin_keys(&mut self, id: ClientId, verb: ReadVerb, keys: Keys<'_>, end: usize, len: usize) {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return };
        shared.cells().command(verb.into());
        let seq = client.replies.push_read(Stamp { kind: Kind::Get, arrived_at: shared.now }, Form::Text);
        client.replies.read_by_parts(seq);
        let list = KeyList::new(verb, seq, end.saturating_sub(keys.rest().len()), end, len);
        client.reading = Reading::Keys(Box::new(list));
    }

    /// Asks for the next keys of a long line. Returns its length once all have been asked for; else the client waits.
    pub(super) fn send_keys(&mut self, id: ClientId, line: &[u8]) -> Option<usize> {
        let Self { clients, shared, .. } = self;
        let client = clients.get_mut(id.0)?;
        let Reading::Keys(list) = &mut client.reading else { return Some(0) };
        list.until_fewer = None;
        let (verb, seq, first) = (list.verb, list.seq, list.next);
        let mut keys = Keys::new(line.get(list.at..list.end).unwrap_or_default());
        if !client.again.is_empty() {
            client.stall = Stall::Retry;
            return None;
        }
        if client.moves.has_steps() {
            client.stall = Stall::Moves;
            return None;
        }
        // Those of nodes that cannot be asked need no room, but time.
        let room = client.room_for_keys(&shared.budget).min(WINDOW);
        let lane = client.lane;
        let plain = shared.large_keys.is_empty() && client.elsewhere.is_empty();
        if !plain && self.large_read_waits(id, verb, keys.first(room).map(Wanted::from)) {
            return None;
        }
        let (mut asked, mut missed, mut lost) = (0_u32, 0, None);
        let stop = loop {
            let before = keys;
            let Some(key) = keys.next() else { break Stop::Done };
            let stop = if asked as usize >= room {
                Some(Stop::Window)
            } else {
                let hash = Topology::hash(key);
                self.stop_at(id, lane, key, hash).or_else(|| {
                    self.shared.sample(key, hash);
                    let node = self.owner(hash, || key);
                    let stage = self.stage_of(node, hash, || key);
                    self.invalidate_beside(id, verb, key, hash, || key);
                    match self.read_key(id, seq, first + asked, node, verb, key, hash, lane, plain, stage) {
                        Ok(Some(up)) => self.note_line(id, up),
                        Ok(None) => {}
                        Err(()) => {
                            missed += 1;
                            lost = Some(node);
                        }
                    }
                    None
                })
            };
            if let Some(stop) = stop {
                keys = before;
                break stop;
            }
            asked += 1;
        };
        let error = lost.and_then(|node| self.count_lost(verb, node, missed));
        let Self { clients, shared, .. } = self;
        let client = clients.get_mut(id.0)?;
        if let Some(text) = error {
            client.replies.fail(seq, text.as_bytes(), &mut shared.pool);
        }
        if !plain {
            // Who waits holds nothing that others wait for.
            client.break_promise(shared);
        }
        let Reading::Keys(list) = &mut client.reading else { return Some(0) };
        list.next = first + asked;
        list.at = list.end.saturating_sub(keys.rest().len());
        match stop {
            Stop::Done => {
                let (len, count) = (list.len, list.next);
                client.reading = Reading::Line;
                client.replies.close_read(seq, &mut shared.pool);
                shared.cells().multigets.record(u64::from(count), &SIZES);
                return Some(len);
            }
            Stop::Lane => return None,
            Stop::Lines => list.until_fewer = Some(client.in_flight),
            Stop::Window => {}
        }
        if client.goes_on(&shared.budget) {
            // It has done enough for one step.
            client.stall = Stall::Turn;
            shared.effects.push(Effect::WakeClient(id));
        } else {
            client.stall = Stall::Keys;
        }
        None
    }

    /// What is left of a long line is not asked for: its keys are misses, or the read fails. Returns the line's length.
    pub(super) fn give_up_keys(&mut self, id: ClientId, reason: Reason, text: &str) -> usize {
        let Self { clients, shared, .. } = self;
        let Some(client) = clients.get_mut(id.0) else { return 0 };
        let Reading::Keys(list) = std::mem::replace(&mut client.reading, Reading::Line) else { return 0 };
        let keys = Keys::new(client.unparsed.get(list.at..list.end).unwrap_or_default());
        shared.cells().soft(list.verb.into(), reason, keys.count() as u64, shared.misses());
        if !shared.misses() {
            client.replies.fail(list.seq, text.as_bytes(), &mut shared.pool);
        }
        client.replies.close_read(list.seq, &mut shared.pool);
        list.len
    }

    /// Whether a key cannot be asked for now on the lane that is shared.
    fn stop_at(&mut self, id: ClientId, lane: usize, key: &[u8], hash: u64) -> Option<Stop> {
        if self.stalls_on_full(id, key, hash, false) {
            return Some(Stop::Lane);
        }
        let up_id = self.lane(self.owner(hash, || key), lane)?;
        let (client, up) = (self.clients.get(id.0)?, self.upstreams.get_mut(up_id.0)?);
        let Reading::Keys(list) = &client.reading else { return None };
        let joins = up
            .open_group()
            .is_some_and(|group| group.verb == list.verb && group.ends_with(id, list.seq) && group.has_room(key.len()));
        if joins {
            return None;
        }
        let over = up.fifo.pushed().saturating_sub(up.fifo.len() as u64);
        // What was cut out of the queue has gone, too: then its client has fewer entries.
        (client.in_flight > 0 && list.has_two_lines(up_id, over)).then_some(Stop::Lines)
    }

    /// A key of a long line has begun a line on a lane.
    fn note_line(&mut self, id: ClientId, up_id: UpstreamId) {
        let Self { clients, upstreams, .. } = self;
        let (Some(client), Some(up)) = (clients.get_mut(id.0), upstreams.get(up_id.0)) else { return };
        if let Reading::Keys(list) = &mut client.reading {
            list.note_line(up_id, up.fifo.pushed());
        }
    }
}
