//! The requests of a lane that wait for their reply, in the order they were put on it, each with the
//! place of its first byte in all that was ever queued on the lane.

use std::collections::VecDeque;

use super::lane::Entry;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    entries: VecDeque<(u64, Entry)>,
    /// How many were ever pushed.
    pushed: u64,
    /// Bytes of memory held by the groups among them whose line is closed.
    groups: usize,
}

fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Group(group) => group.weight,
        _ => 0,
    }
}

impl Fifo {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts an entry behind the others; `start` is the place of its first byte.
    #[inline]
    pub(super) fn push(&mut self, start: u64, entry: Entry) {
        self.pushed += 1;
        self.groups += weight(&entry);
        self.entries.push_back((start, entry));
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front().map(|(_, entry)| entry)
    }

    #[inline]
    pub(super) fn front_mut(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut().map(|(_, entry)| entry)
    }

    pub(super) fn back(&self) -> Option<&Entry> {
        self.entries.back().map(|(_, entry)| entry)
    }

    #[inline]
    pub(super) fn back_mut(&mut self) -> Option<&mut Entry> {
        self.entries.back_mut().map(|(_, entry)| entry)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Entry> {
        self.entries.get_mut(index).map(|(_, entry)| entry)
    }

    /// Where the entry at an index begins.
    #[inline]
    pub(super) fn start(&self, index: usize) -> Option<u64> {
        self.entries.get(index).map(|(start, _)| *start)
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.entries.pop_front()?;
        self.groups -= weight(&entry);
        Some(entry)
    }

    /// The last entry, a group, has closed its line.
    pub(super) fn closed(&mut self) {
        self.groups += self.back().map_or(0, weight);
    }

    /// Bytes of memory held.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.groups + self.entries.len() * size_of::<(u64, Entry)>()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().map(|(_, entry)| entry)
    }

    /// Takes all of them.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Entry> + use<> {
        self.groups = 0;
        std::mem::take(&mut self.entries).into_iter().map(|(_, entry)| entry)
    }

    /// How many were ever pushed.
    pub(super) const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The first entry whose first byte is not among the first `sent` bytes, as an index.
    pub(super) fn first_unsent(&self, sent: u64) -> usize {
        self.entries.partition_point(|(start, _)| *start < sent)
    }

    /// How many of the entries there are had been pushed when so many were.
    pub(super) fn older(&self, pushed: u64) -> usize {
        let newer = usize::try_from(self.pushed.saturating_sub(pushed)).unwrap_or(usize::MAX);
        self.entries.len().saturating_sub(newer)
    }

    /// Takes the entries with an index in `from..to` that `cut` agrees to; `end` is where the last of
    /// all entries ends. Returns them, with the ranges of their bytes; what stands behind moves
    /// forward by as much.
    pub(super) fn cut(
        &mut self,
        from: usize,
        to: usize,
        end: u64,
        cut: impl Fn(&Entry) -> bool,
    ) -> (Vec<Entry>, Vec<std::ops::Range<u64>>) {
        let (mut taken, mut ranges) = (Vec::new(), Vec::new());
        let behind = self.entries.split_off(from.min(self.entries.len()));
        let ends: Vec<u64> = behind.iter().skip(1).map(|(start, _)| *start).chain([end]).collect();
        let mut gone = 0;
        for (index, ((start, entry), end)) in (from..).zip(behind.into_iter().zip(ends)) {
            if index < to && cut(&entry) {
                gone += end - start;
                match ranges.last_mut() {
                    Some(std::ops::Range { end: last, .. }) if *last == start => *last = end,
                    _ => ranges.push(start..end),
                }
                self.groups -= weight(&entry);
                taken.push(entry);
            } else {
                self.entries.push_back((start - gone, entry));
            }
        }
        (taken, ranges)
    }
}
