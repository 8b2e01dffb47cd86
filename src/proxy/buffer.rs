//! The sending queue of both directions, and the pool its buffers come from.
//!
//! Small requests and replies are copied once, behind what already waits, so that one write carries
//! a whole round. Bodies that already lie in a buffer of their own are queued without a copy.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::{Buf, Bytes};

/// Buffers that grew beyond this many bytes are freed instead of kept.
const KEEP_CAPACITY: usize = 64 << 10;
/// Most buffers kept for reuse by one worker: 64 × 64 KiB is 4 MiB at the very most.
const KEEP_BUFFERS: usize = 64;
/// A buffer is closed and a new one begun when it would grow beyond this, in bytes.
const SEGMENT: usize = 64 << 10;
/// Most slices one write carries; more wait for the next one.
pub const MAX_SLICES: usize = 64;

/// Empty buffers of one worker, so that steady traffic allocates nothing and an idle connection
/// holds nothing.
#[derive(Debug, Default)]
pub struct BufferPool(Vec<Vec<u8>>);

impl BufferPool {
    /// An empty buffer, used before if there is one.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && buffer.capacity() <= KEEP_CAPACITY && self.0.len() < KEEP_BUFFERS {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// A piece of the queue before its tail.
#[derive(Debug)]
enum Chunk {
    /// Ours alone; goes back to the pool once sent.
    Owned { buffer: Vec<u8>, sent: usize },
    /// Shared between the clients that asked for the same key.
    Shared {
        bytes: Bytes,
        /// Its part of the memory.
        cost: usize,
    },
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned { buffer, sent } => buffer.get(*sent..).unwrap_or_default(),
            Self::Shared { bytes, .. } => bytes,
        }
    }
}

/// Bytes waiting to be written to one socket, in order.
#[derive(Debug, Default)]
pub struct OutBuf {
    chunks: VecDeque<Chunk>,
    /// Appended to; sent behind the chunks.
    tail: Vec<u8>,
    /// How much of `tail` is sent; more than 0 only while `chunks` is empty.
    sent: usize,
    len: usize,
    /// Bytes of memory held.
    held: usize,
}

impl OutBuf {
    /// Bytes that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory held for what waits: whole buffers, however little is in them.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `bytes` behind what waits.
    #[inline]
    pub fn append(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        if self.tail.len() + bytes.len() > SEGMENT && !self.tail.is_empty() {
            self.close_tail();
        }
        let before = self.tail.capacity();
        if before == 0 {
            self.tail = pool.take();
        }
        self.tail.extend_from_slice(bytes);
        self.held += self.tail.capacity() - before;
        self.len += bytes.len();
    }

    /// Queues a buffer without copying it.
    pub fn push(&mut self, buffer: Vec<u8>) {
        self.close_tail();
        self.len += buffer.len();
        self.held += buffer.capacity();
        self.chunks.push_back(Chunk::Owned { buffer, sent: 0 });
    }

    /// Queues bytes that others hold too, without copying them; `cost` is this one's part of the
    /// memory.
    pub fn push_shared(&mut self, bytes: Bytes, cost: usize) {
        self.close_tail();
        self.len += bytes.len();
        self.held += cost;
        self.chunks.push_back(Chunk::Shared { bytes, cost });
    }

    fn close_tail(&mut self) {
        if self.tail.len() > self.sent {
            let buffer = std::mem::take(&mut self.tail);
            self.chunks.push_back(Chunk::Owned { buffer, sent: self.sent });
        } else {
            self.tail.clear();
        }
        self.sent = 0;
    }

    /// Fills `slices` with what is to be written next; returns how many are filled.
    #[inline]
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = self.tail.get(self.sent..).filter(|tail| !tail.is_empty());
        let pieces = self.chunks.iter().map(Chunk::bytes).chain(tail);
        let mut filled = 0;
        for (place, piece) in slices.iter_mut().zip(pieces) {
            *place = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Drops the first `written` bytes, which the kernel has taken. Empty buffers go to the pool.
    #[inline]
    pub fn advance(&mut self, written: usize, pool: &mut BufferPool) {
        debug_assert!(written <= self.len, "more was written than waited");
        self.len -= written.min(self.len);
        let mut left = written;
        while left > 0 {
            let Some(chunk) = self.chunks.front_mut() else {
                self.sent += left;
                break;
            };
            let here = left.min(chunk.bytes().len());
            match chunk {
                Chunk::Owned { sent, .. } => *sent += here,
                Chunk::Shared { bytes, .. } => bytes.advance(here),
            }
            left -= here;
            if chunk.bytes().is_empty() {
                match self.chunks.pop_front() {
                    Some(Chunk::Owned { buffer, .. }) => {
                        self.held -= buffer.capacity();
                        pool.put(buffer);
                    }
                    Some(Chunk::Shared { cost, .. }) => self.held -= cost,
                    None => {}
                }
            }
        }
        if self.len == 0 {
            self.clear(pool);
        }
    }

    /// Takes ranges out of the middle. They count from the first byte that waits, ascend and do not
    /// touch one another.
    pub fn cut(&mut self, ranges: &[Range<usize>]) {
        let mut at = 0;
        let from = |buffer: &mut Vec<u8>, sent: usize, at: usize| {
            let end = at + buffer.len() - sent;
            // From the back, so that what is in front stays where it is.
            for range in ranges.iter().rev().filter(|range| range.start < end && range.end > at) {
                let place = |offset: usize| offset.clamp(at, end) - at + sent;
                buffer.drain(place(range.start)..place(range.end));
            }
            end
        };
        for chunk in &mut self.chunks {
            at = match chunk {
                Chunk::Owned { buffer, sent } => from(buffer, *sent, at),
                Chunk::Shared { bytes, .. } => {
                    let mut buffer = bytes.to_vec();
                    let end = from(&mut buffer, 0, at);
                    *bytes = buffer.into();
                    end
                }
            };
        }
        from(&mut self.tail, self.sent, at);
        self.chunks.retain(|chunk| !chunk.bytes().is_empty());
        let held = self.chunks.iter().map(|chunk| match chunk {
            Chunk::Owned { buffer, .. } => buffer.capacity(),
            Chunk::Shared { cost, .. } => *cost,
        });
        self.held = held.sum::<usize>() + self.tail.capacity();
        self.len -= ranges.iter().map(ExactSizeIterator::len).sum::<usize>();
    }

    /// Drops everything.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        while let Some(chunk) = self.chunks.pop_front() {
            if let Chunk::Owned { buffer, .. } = chunk {
                pool.put(buffer);
            }
        }
        if self.chunks.capacity() > MAX_SLICES {
            self.chunks = VecDeque::new();
        }
        pool.put(std::mem::take(&mut self.tail));
        self.sent = 0;
        self.len = 0;
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(out: &mut OutBuf, step: usize, pool: &mut BufferPool) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = out.slices(&mut slices);
            let written: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).take(step).collect();
            assert!(!written.is_empty());
            out.advance(written.len(), pool);
            all.extend(written);
        }
        all
    }

    proptest! {
        /// Whatever is queued comes out in order, however it was queued and however it is written.
        #[test]
        fn bytes_come_out_in_the_order_they_went_in(
            pieces in prop::collection::vec((0..3_u8, prop::collection::vec(any::<u8>(), 0..40_000)), 0..12),
            step in 1_usize..70_000,
            early in 0_usize..5_000,
        ) {
            let mut pool = BufferPool::default();
            let mut out = OutBuf::default();
            let mut expected = Vec::new();
            let mut found = Vec::new();
            for (how, bytes) in pieces {
                expected.extend_from_slice(&bytes);
                match how {
                    0 => out.append(&bytes, &mut pool),
                    1 => out.push(bytes),
                    _ => out.push_shared(Bytes::from(bytes), 1),
                }
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let filled = out.slices(&mut slices);
                let some: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).take(early).collect();
                out.advance(some.len(), &mut pool);
                found.extend(some);
            }
            prop_assert_eq!(out.len(), expected.len() - found.len());
            found.extend(drain(&mut out, step, &mut pool));
            prop_assert!(found == expected);
        }
    }

    proptest! {
        /// What is cut out of the middle is never sent, and all else is.
        #[test]
        fn a_cut_takes_its_ranges_and_nothing_else(
            pieces in prop::collection::vec((0..3_u8, prop::collection::vec(any::<u8>(), 0..40_000)), 1..8),
            cuts in prop::collection::vec((1_usize..30_000, 0_usize..30_000), 0..6),
            step in 1_usize..70_000,
            early in 0_usize..60_000,
        ) {
            let mut pool = BufferPool::default();
            let mut out = OutBuf::default();
            let mut expected = Vec::new();
            for (how, bytes) in pieces {
                expected.extend_from_slice(&bytes);
                match how {
                    0 => out.append(&bytes, &mut pool),
                    1 => out.push(bytes),
                    _ => out.push_shared(Bytes::from(bytes), 1),
                }
            }
            let early = early.min(expected.len());
            out.advance(early, &mut pool);
            expected.drain(..early);
            let mut ranges = Vec::new();
            let mut at = 0;
            for (gap, len) in cuts {
                let (start, end) = ((at + gap).min(expected.len()), (at + gap + len).min(expected.len()));
                if start < end {
                    ranges.push(start..end);
                }
                at = end + 1;
            }
            out.cut(&ranges);
            for range in ranges.iter().rev() {
                expected.drain(range.clone());
            }
            prop_assert_eq!(out.len(), expected.len());
            prop_assert!(drain(&mut out, step, &mut pool) == expected);
        }
    }

    #[test]
    fn an_emptied_queue_holds_no_buffer() {
        let mut pool = BufferPool::default();
        let mut out = OutBuf::default();
        out.append(b"hello", &mut pool);
        out.advance(5, &mut pool);
        assert_eq!(out.tail.capacity(), 0);
        assert_eq!(pool.0.len(), 1);
        out.append(b"again", &mut pool);
        assert_eq!(pool.0.len(), 0, "the buffer is used again");
    }
}
