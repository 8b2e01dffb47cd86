//! How far a lane was at the last ticks: what a mark of a time-out ago had seen has waited that long.

use std::time::Duration;

use super::Upstream;
use crate::time::Tick;

/// How far a lane was at a tick.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Mark {
    taken_at: Tick,
    /// Entries ever put on it.
    pub(in crate::proxy) pushed: u64,
    /// Bytes ever written.
    pub(in crate::proxy) sent: u64,
}

impl Upstream {
    /// Moves the marks on; returns the one of so long ago.
    pub(in crate::proxy) fn mark(
        &mut self,
        now: Tick,
        request: Duration,
        queue: Duration,
    ) -> (Option<Mark>, Option<Mark>) {
        let old = |wait: Duration| move |mark: &&Mark| mark.taken_at.after(wait) <= now;
        let wire = self.marks.iter().rev().find(old(request)).copied();
        let queued = self.marks.iter().rev().find(old(queue)).copied();
        // Only the newest that both clocks can use is needed.
        while self.marks.get(1).is_some_and(|mark| mark.taken_at.after(request.max(queue)) <= now) {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark { taken_at: now, pushed: self.fifo.pushed(), sent: self.sent });
        (wire, queued)
    }

    /// Nothing waits.
    pub(in crate::proxy) fn clear_marks(&mut self) {
        self.marks.clear();
    }

    /// Where the entry at an index ends; nowhere yet while more of it may come.
    pub(in crate::proxy) fn end(&self, index: usize, streams: bool) -> u64 {
        match self.fifo.start(index + 1) {
            Some(next) => next,
            None if self.open || streams => u64::MAX,
            None => self.queued(),
        }
    }

    /// How many entries at the front were wholly sent when `sent` bytes were.
    pub(in crate::proxy) fn sent_by(&self, sent: u64, streams: bool) -> usize {
        let begun = self.fifo.first_unsent(sent);
        // The last of them may have been sent in part.
        if begun > 0 && self.end(begun - 1, streams) > sent { begun - 1 } else { begun }
    }
}
