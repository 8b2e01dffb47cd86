//! The sending queue of both directions, and the pool its buffers come from.
//!
//! Small requests and replies are copied once, behind what already waits, so that one write carries
//! a whole round. Bodies that already lie in a buffer of their own are queued without a copy.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use memmap2::MmapMut;

/// Buffers that grew beyond this many bytes are freed instead of kept.
const KEEP_CAPACITY: usize = 64 << 10;
/// Most buffers kept for reuse by one worker: 64 × 64 KiB is 4 MiB at the very most.
const KEEP_BUFFERS: usize = 64;
/// A buffer is closed and a new one begun when it would grow beyond this, in bytes.
const SEGMENT: usize = 64 << 10;
/// Most slices one write carries; more wait for the next one.
pub const MAX_SLICES: usize = 64;
/// A socket is read into buffers of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Most of them kept for reuse by one worker: 1 MiB.
const KEEP_READ: usize = 16;
/// A value whose block is at least so long comes by pieces, one copy for all who asked, in bytes.
pub(super) const SHARE: usize = 16 << 10;
/// What came in one read and is at least so long is sent from where it was read, in bytes: shorter, it would hold much
/// more memory than it is.
const KEEP: usize = READ_BYTES / 4 * 3;
/// A shorter piece for several is copied once for all of them if it is at least so long.
pub(super) const SHARE_COPY: usize = 256;

/// Bytes of a piece.
#[derive(Debug)]
enum Memory {
    /// Pages of their own: the system has them back as soon as nobody needs them. On the heap the values of a busy minute
    /// would be kept for ever, for something small always lies behind them.
    Pages(MmapMut),
    Heap(Box<[u8]>),
}

impl Memory {
    /// Zeros that take no memory until they are written.
    fn pages(len: usize) -> Self {
        MmapMut::map_anon(len).map_or_else(|_| Self::Heap(vec![0; len].into()), Self::Pages)
    }
}

impl Deref for Memory {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Pages(pages) => pages,
            Self::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for Memory {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pages(pages) => pages,
            Self::Heap(bytes) => bytes,
        }
    }
}

/// Memory that a socket was read into, and who is still to be sent a part of it.
#[derive(Debug)]
struct Piece {
    bytes: Memory,
    /// Slices of it; the memory is charged while there is one.
    holders: Cell<usize>,
}

impl Piece {
    fn new(bytes: Memory) -> Self {
        Self { bytes, holders: Cell::new(0) }
    }
}

/// What the rim reads a socket into. What the core keeps of it stays where it is: the next read goes into other memory.
#[derive(Debug)]
pub struct ReadBuffer(Rc<Piece>);

impl Default for ReadBuffer {
    fn default() -> Self {
        Self(Rc::new(Piece::new(Memory::pages(READ_BYTES))))
    }
}

impl ReadBuffer {
    /// Where to read into. Nothing while the core keeps a part of it: see `Core::renew`.
    pub fn space(&mut self) -> &mut [u8] {
        Rc::get_mut(&mut self.0).map_or(&mut [], |piece| &mut piece.bytes)
    }

    /// The first `len` bytes, which were read.
    #[must_use]
    pub(super) fn input(&self, len: usize) -> Input<'_> {
        Input { bytes: self.0.bytes.get(..len).unwrap_or_default(), piece: Some(&self.0) }
    }
}

/// Bytes that were read, and the memory they lie in, which may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
    piece: Option<&'a Rc<Piece>>,
}

impl<'a> Input<'a> {
    /// Bytes in memory that is used again at once.
    pub(super) const fn borrowed(bytes: &'a [u8]) -> Self {
        Self { bytes, piece: None }
    }

    /// A part of it.
    #[inline]
    pub(super) fn part(self, range: Range<usize>) -> Self {
        Self { bytes: self.bytes.get(range).unwrap_or_default(), ..self }
    }

    /// All but the first `count` bytes.
    #[inline]
    pub(super) fn after(self, count: usize) -> Self {
        Self { bytes: self.bytes.get(count..).unwrap_or_default(), ..self }
    }
}

/// A part of a piece.
#[derive(Debug)]
pub(super) struct Slice {
    piece: Rc<Piece>,
    range: Range<usize>,
}

impl Slice {
    fn bytes(&self) -> &[u8] {
        self.piece.bytes.get(self.range.clone()).unwrap_or_default()
    }

    /// Its equal part of the memory, in bytes.
    fn part(&self) -> usize {
        self.piece.bytes.len() / self.piece.holders.get().max(1)
    }
}

/// Empty buffers of one worker, so that steady traffic allocates nothing and an idle connection
/// holds nothing; and the account of the pieces that are held.
#[derive(Debug, Default)]
pub struct BufferPool {
    buffers: Vec<Vec<u8>>,
    pieces: Vec<Rc<Piece>>,
    /// Bytes of the pieces of which a slice is held: each counts once, whoever holds it.
    held: usize,
}

impl BufferPool {
    /// An empty buffer, used before if there is one.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && buffer.capacity() <= KEEP_CAPACITY && self.buffers.len() < KEEP_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// Bytes of memory of all pieces that are held.
    pub(super) const fn pieces(&self) -> usize {
        self.held
    }

    /// Other memory for the next read, if some of this is kept.
    pub(super) fn renew(&mut self, buffer: &mut ReadBuffer) {
        if Rc::get_mut(&mut buffer.0).is_none() {
            *buffer = self.pieces.pop().map_or_else(ReadBuffer::default, ReadBuffer);
        }
    }

    /// One more holder of what was read, without a copy where it is long enough.
    pub(super) fn share(&mut self, input: Input<'_>) -> Slice {
        let place = input.piece.filter(|_| input.bytes.len() >= KEEP).and_then(|piece| {
            let start = (input.bytes.as_ptr() as usize).checked_sub(piece.bytes.as_ptr() as usize)?;
            let range = start..start + input.bytes.len();
            piece.bytes.get(range.clone()).map(|_| (Rc::clone(piece), range))
        });
        let (piece, range) =
            place.unwrap_or_else(|| (Rc::new(Piece::new(Memory::Heap(input.bytes.into()))), 0..input.bytes.len()));
        self.hold(piece, range)
    }

    /// One more holder.
    pub(super) fn again(&mut self, slice: &Slice) -> Slice {
        self.hold(Rc::clone(&slice.piece), slice.range.clone())
    }

    fn hold(&mut self, piece: Rc<Piece>, range: Range<usize>) -> Slice {
        if piece.holders.get() == 0 {
            self.held += piece.bytes.len();
        }
        piece.holders.set(piece.holders.get() + 1);
        Slice { piece, range }
    }

    /// One holder less.
    pub(super) fn release(&mut self, slice: Slice) {
        let Slice { mut piece, .. } = slice;
        let left = piece.holders.get().saturating_sub(1);
        piece.holders.set(left);
        if left > 0 {
            return;
        }
        self.held -= piece.bytes.len();
        // The rim may be reading its bytes still: then it goes on with it.
        let whole = piece.bytes.len() == READ_BYTES && Rc::get_mut(&mut piece).is_some();
        if whole && self.pieces.len() < KEEP_READ {
            self.pieces.push(piece);
        }
    }
}

/// A piece of the queue before its tail.
#[derive(Debug)]
enum Chunk {
    /// Ours alone; goes back to the pool once sent.
    Owned { buffer: Vec<u8>, sent: usize },
    /// Of what a socket was read into.
    Slice(Slice),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned { buffer, sent } => buffer.get(*sent..).unwrap_or_default(),
            Self::Slice(slice) => slice.bytes(),
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
    /// Bytes of memory held, those of slices apart.
    held: usize,
}

impl OutBuf {
    /// Bytes that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory held for what waits: whole buffers, however little is in them. Slices are charged where they are
    /// shared.
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

    /// Queues what was read: without a copy where it is long enough.
    pub(super) fn take(&mut self, input: Input<'_>, pool: &mut BufferPool) {
        if input.piece.is_some() && input.bytes.len() >= KEEP {
            let slice = pool.share(input);
            self.push_slice(slice);
        } else {
            self.append(input.bytes, pool);
        }
    }

    /// Queues a part of what a socket was read into.
    pub(super) fn push_slice(&mut self, slice: Slice) {
        self.close_tail();
        self.len += slice.range.len();
        self.chunks.push_back(Chunk::Slice(slice));
    }

    /// Moves all of another queue behind what waits.
    pub(super) fn join(&mut self, mut other: Self, pool: &mut BufferPool) {
        if other.chunks.is_empty() && other.len() < SHARE {
            self.append(other.tail.get(other.sent..).unwrap_or_default(), pool);
            return other.clear(pool);
        }
        other.close_tail();
        self.close_tail();
        self.len += other.len;
        self.held += other.held;
        // An emptied tail is no chunk.
        self.held -= other.tail.capacity();
        pool.put(std::mem::take(&mut other.tail));
        self.chunks.append(&mut other.chunks);
    }

    /// A copy of all that waits.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len);
        for chunk in &self.chunks {
            all.extend_from_slice(chunk.bytes());
        }
        all.extend_from_slice(self.tail.get(self.sent..).unwrap_or_default());
        all
    }

    /// Its equal part of the memory of slices, in bytes.
    pub(super) fn part(&self) -> usize {
        self.chunks.iter().map(|chunk| if let Chunk::Slice(slice) = chunk { slice.part() } else { 0 }).sum()
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

    /// The same for the first `most` bytes alone.
    pub fn slices_within<'a>(&'a self, slices: &mut [IoSlice<'a>], most: usize) -> usize {
        let tail = self.tail.get(self.sent..).filter(|tail| !tail.is_empty());
        let pieces = self.chunks.iter().map(Chunk::bytes).chain(tail);
        let (mut filled, mut left) = (0, most);
        for (place, piece) in slices.iter_mut().zip(pieces) {
            if left == 0 {
                break;
            }
            let piece = piece.get(..left).unwrap_or(piece);
            *place = IoSlice::new(piece);
            left -= piece.len();
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
                Chunk::Slice(slice) => slice.range.start += here,
            }
            left -= here;
            if chunk.bytes().is_empty() {
                match self.chunks.pop_front() {
                    Some(Chunk::Owned { buffer, .. }) => {
                        self.held -= buffer.capacity();
                        pool.put(buffer);
                    }
                    Some(Chunk::Slice(slice)) => pool.release(slice),
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
    pub fn cut(&mut self, ranges: &[Range<usize>], pool: &mut BufferPool) {
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
            if let Chunk::Slice(slice) = chunk {
                let end = at + slice.range.len();
                if !ranges.iter().any(|range| range.start < end && range.end > at) {
                    at = end;
                    continue;
                }
                let owned = Chunk::Owned { buffer: slice.bytes().to_vec(), sent: 0 };
                if let Chunk::Slice(slice) = std::mem::replace(chunk, owned) {
                    pool.release(slice);
                }
            }
            if let Chunk::Owned { buffer, sent } = chunk {
                at = from(buffer, *sent, at);
            }
        }
        from(&mut self.tail, self.sent, at);
        self.chunks.retain(|chunk| !chunk.bytes().is_empty());
        let held = self.chunks.iter().map(|chunk| match chunk {
            Chunk::Owned { buffer, .. } => buffer.capacity(),
            Chunk::Slice(_) => 0,
        });
        self.held = held.sum::<usize>() + self.tail.capacity();
        self.len -= ranges.iter().map(ExactSizeIterator::len).sum::<usize>();
        if self.len == 0 {
            self.clear(pool);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        while let Some(chunk) = self.chunks.pop_front() {
            match chunk {
                Chunk::Owned { buffer, .. } => pool.put(buffer),
                Chunk::Slice(slice) => pool.release(slice),
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
mod tests;
