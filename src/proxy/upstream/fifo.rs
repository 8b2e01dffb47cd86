//! The requests of a lane that wait for their reply, in the order they were put on it, each with the
//! place of its first byte in all that was ever queued on the lane, and with its times.

use std::collections::VecDeque;

use super::{Entry, Step};
use crate::time::Tick;

/// Memory for fewer entries than these counts for none: every lane keeps it.
const FEW: usize = 64;

#[derive(Debug)]
struct Place {
    start: u64,
    times: Times,
    entry: Entry,
}

/// How far a request came, and when.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Times {
    /// When it was put on the lane; once it was handed to the kernel, when that was.
    reached_at: Tick,
    /// How long it was in the queue, in microseconds; none before it is handed over.
    queued: Option<u32>,
}

impl Times {
    /// How long it was in the queue, and since when it is on the wire, in microseconds.
    pub(in crate::proxy) fn until(self, now: Tick) -> (u64, u64) {
        let here = now.0.saturating_sub(self.reached_at.0);
        match self.queued {
            Some(queued) => (u64::from(queued), here),
            None => (here, 0),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Fifo {
    entries: VecDeque<Place>,
    /// How many at the front have been handed to the kernel, or begun to be.
    begun: usize,
    /// How many were ever pushed.
    pushed: u64,
    /// Bytes of memory held by the groups among them whose line is closed, and by keys.
    apart: usize,
}

fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Group(group) => group.weight,
        Entry::Single { asked, .. } => asked.weight(),
        Entry::Step(step) => size_of::<Step>() + step.asked.weight(),
        _ => 0,
    }
}

impl Fifo {
    #[inline]
    pub(in crate::proxy) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts an entry behind the others; `start` is the place of its first byte.
    #[inline]
    pub(in crate::proxy) fn push(&mut self, start: u64, entry: Entry, now: Tick) {
        self.pushed += 1;
        self.apart += weight(&entry);
        self.entries.push_back(Place { start, times: Times { reached_at: now, queued: None }, entry });
    }

    /// The kernel has taken the first `sent` bytes: notes when, and says how long each that has begun by
    /// them was in the queue, in microseconds.
    #[inline]
    pub(in crate::proxy) fn note_sent(&mut self, sent: u64, now: Tick, mut queued: impl FnMut(u64)) {
        while let Some(place) = self.entries.get_mut(self.begun).filter(|place| place.start < sent) {
            let waited = now.0.saturating_sub(place.times.reached_at.0);
            queued(waited);
            place.times = Times { reached_at: now, queued: Some(u32::try_from(waited).unwrap_or(u32::MAX)) };
            self.begun += 1;
        }
    }

    pub(in crate::proxy) fn front(&self) -> Option<&Entry> {
        self.entries.front().map(|place| &place.entry)
    }

    #[inline]
    pub(in crate::proxy) fn front_mut(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut().map(|place| &mut place.entry)
    }

    pub(in crate::proxy) fn back(&self) -> Option<&Entry> {
        self.entries.back().map(|place| &place.entry)
    }

    #[inline]
    pub(in crate::proxy) fn back_mut(&mut self) -> Option<&mut Entry> {
        self.entries.back_mut().map(|place| &mut place.entry)
    }

    pub(in crate::proxy) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index).map(|place| &place.entry)
    }

    pub(in crate::proxy) fn get_mut(&mut self, index: usize) -> Option<&mut Entry> {
        self.entries.get_mut(index).map(|place| &mut place.entry)
    }

    /// How far the entry at an index came.
    pub(in crate::proxy) fn times(&self, index: usize) -> Option<Times> {
        self.entries.get(index).map(|place| place.times)
    }

    /// Where the entry at an index begins.
    #[inline]
    pub(in crate::proxy) fn start(&self, index: usize) -> Option<u64> {
        self.entries.get(index).map(|place| place.start)
    }

    /// Takes the first entry, with its times and where its first byte is.
    #[inline]
    pub(in crate::proxy) fn pop(&mut self) -> Option<(Entry, Times, u64)> {
        let Place { entry, times, start } = self.entries.pop_front()?;
        self.begun = self.begun.saturating_sub(1);
        self.apart -= weight(&entry);
        Some((entry, times, start))
    }

    /// The last entry, a group, has closed its line.
    pub(in crate::proxy) fn closed(&mut self) {
        self.apart += self.back().map_or(0, weight);
    }

    /// Bytes of memory held, those of a few entries apart, which are the lane's own. A capacity that was used is counted
    /// until it is given back ([`Fifo::rest`]), for a queue that grows doubles.
    #[inline]
    pub(in crate::proxy) fn held(&self) -> usize {
        self.apart + (self.entries.capacity() & !(FEW - 1)) * size_of::<Place>()
    }

    /// Bytes of memory that its entries need.
    #[inline]
    pub(in crate::proxy) fn load(&self) -> usize {
        self.apart + self.entries.len() * size_of::<Place>()
    }

    /// Makes room for one more entry by a quarter, not by as much again: for requests that fill many lanes at the same
    /// time.
    pub(in crate::proxy) fn grow(&mut self) {
        let len = self.entries.len();
        if len >= FEW && len == self.entries.capacity() {
            self.entries.reserve_exact(len / 4);
        }
    }

    /// Gives memory back that was needed by many more entries than there are. Returns whether there was some.
    pub(in crate::proxy) fn rest(&mut self) -> bool {
        let before = self.entries.capacity();
        if before >= FEW && self.entries.len() < before / 4 {
            self.entries.shrink_to((self.entries.len() * 2).next_power_of_two());
        }
        self.entries.capacity() < before
    }

    pub(in crate::proxy) fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().map(|place| &place.entry)
    }

    pub(in crate::proxy) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Entry> + ExactSizeIterator {
        self.entries.iter_mut().map(|place| &mut place.entry)
    }

    /// Takes all of them.
    pub(in crate::proxy) fn take(&mut self) -> impl Iterator<Item = Entry> + use<> {
        self.apart = 0;
        self.begun = 0;
        std::mem::take(&mut self.entries).into_iter().map(|place| place.entry)
    }

    /// How many were ever pushed.
    pub(in crate::proxy) const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The first entry whose first byte is not among the first `sent` bytes, as an index.
    pub(in crate::proxy) fn first_unsent(&self, sent: u64) -> usize {
        self.entries.partition_point(|place| place.start < sent)
    }

    /// Where the last entry begins that begins among the first `end` bytes, or right behind them.
    pub(in crate::proxy) fn last_start(&self, end: u64) -> Option<u64> {
        self.entries.partition_point(|place| place.start <= end).checked_sub(1).and_then(|index| self.start(index))
    }

    /// How many of the entries there are had been pushed when so many were.
    pub(in crate::proxy) fn older(&self, pushed: u64) -> usize {
        let newer = usize::try_from(self.pushed.saturating_sub(pushed)).unwrap_or(usize::MAX);
        self.entries.len().saturating_sub(newer)
    }

    /// Takes the entries with an index in `from..to` that `cut` agrees to; `end` is where the last of
    /// all entries ends. Returns them, with the ranges of their bytes; what stands behind moves
    /// forward by as much.
    pub(in crate::proxy) fn cut(
        &mut self,
        from: usize,
        to: usize,
        end: u64,
        cut: impl Fn(&Entry) -> bool,
    ) -> (Vec<Entry>, Vec<std::ops::Range<u64>>) {
        let (mut taken, mut ranges) = (Vec::new(), Vec::new());
        let behind = self.entries.split_off(from.min(self.entries.len()));
        let ends: Vec<u64> = behind.iter().skip(1).map(|place| place.start).chain([end]).collect();
        let mut gone = 0;
        for (index, (place, end)) in (from..).zip(behind.into_iter().zip(ends)) {
            let start = place.start;
            if index < to && cut(&place.entry) {
                gone += end - start;
                match ranges.last_mut() {
                    Some(std::ops::Range { end: last, .. }) if *last == start => *last = end,
                    _ => ranges.push(start..end),
                }
                self.apart -= weight(&place.entry);
                taken.push(place.entry);
            } else {
                self.entries.push_back(Place { start: start - gone, ..place });
            }
        }
        (taken, ranges)
    }
}
