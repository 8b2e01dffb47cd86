//! A read whose line is long, and how far it was sent: no more of its keys are asked for at a time than a window.

use super::{CLIENT_BYTES, Client, Reading};
use crate::protocol::request::ReadVerb;
use crate::proxy::account::Budget;
use crate::proxy::ids::UpstreamId;

/// Most keys of one read that are asked for and not answered.
pub(in crate::proxy) const WINDOW: usize = 4096;
/// The same while there is no room for so many.
const NARROW_WINDOW: usize = 128;
/// What a key that is asked for is taken to need, in bytes: its place, its part of a line and of who asked.
const KEY_BYTES: usize = 128;

/// A long line. It stays where it was read to, at the beginning of what is not parsed, until all of it was sent.
#[derive(Debug)]
pub(in crate::proxy) struct KeyList {
    pub(in crate::proxy) verb: ReadVerb,
    /// The slot of the reply.
    pub(in crate::proxy) seq: u32,
    /// Where in the line the next key is, in bytes.
    pub(in crate::proxy) at: usize,
    /// Where the keys end.
    pub(in crate::proxy) end: usize,
    /// Where the line ends, its LF included.
    pub(in crate::proxy) len: usize,
    /// The place of the next key.
    pub(in crate::proxy) next: u32,
    /// The last two lines of it on each lane: how many entries had ever been put there when it was the last.
    lines: Vec<(UpstreamId, [u64; 2])>,
    /// It waits until fewer entries of its client than these are on lanes, for a lane has two lines of it.
    pub(in crate::proxy) until_fewer: Option<u32>,
}

impl KeyList {
    pub(in crate::proxy) const fn new(verb: ReadVerb, seq: u32, at: usize, end: usize, len: usize) -> Self {
        Self { verb, seq, at, end, len, next: 0, lines: Vec::new(), until_fewer: None }
    }

    /// Bytes of memory held, the line apart.
    pub(super) const fn weight(&self) -> usize {
        size_of::<Self>() + self.lines.capacity() * size_of::<(UpstreamId, [u64; 2])>()
    }

    /// Whether a lane has two lines of it; `over` is how many entries have left the lane.
    pub(in crate::proxy) fn has_two_lines(&self, lane: UpstreamId, over: u64) -> bool {
        self.lines.iter().any(|(other, [older, _])| *other == lane && *older > over)
    }

    /// One more line of it is on a lane, the last of so many entries that were ever put there.
    pub(in crate::proxy) fn note_line(&mut self, lane: UpstreamId, pushed: u64) {
        match self.lines.iter_mut().find(|(other, _)| *other == lane) {
            Some((_, lines)) => *lines = [lines[1], pushed],
            None => self.lines.push((lane, [0, pushed])),
        }
    }
}

impl Client {
    /// How many keys of its long line may be unanswered, and how many are.
    fn window(&self, list: &KeyList, budget: &Budget) -> (usize, usize) {
        let most = if budget.fits(WINDOW * KEY_BYTES) { WINDOW } else { NARROW_WINDOW };
        (most, list.next.wrapping_sub(self.replies.turn(list.seq)) as usize)
    }

    /// How many keys of its long line may be asked for now.
    pub(in crate::proxy) fn room_for_keys(&self, budget: &Budget) -> usize {
        let Reading::Keys(list) = &self.reading else { return 0 };
        let (most, unanswered) = self.window(list, budget);
        if self.replies.bytes() >= CLIENT_BYTES { 0 } else { most.saturating_sub(unanswered) }
    }

    /// Whether its long line goes on: half a window at once, for each step costs as much as a request.
    pub(in crate::proxy) fn goes_on(&self, budget: &Budget) -> bool {
        let Reading::Keys(list) = &self.reading else { return true };
        if let Some(entries) = list.until_fewer {
            return self.in_flight < entries;
        }
        let (most, unanswered) = self.window(list, budget);
        unanswered < most / 2 && self.replies.bytes() <= CLIENT_BYTES / 2
    }
}
