//! The values of one read that came before their turn: one place for each of its keys, from the one whose turn it is.

use std::collections::VecDeque;

use crate::proxy::buffer::{BufferPool, OutBuf};

/// Small values that wait lie one behind the other up to so many bytes; further ones have memory of their own.
const SIDE: usize = 64 << 10;

/// What is known of one key of a read.
#[derive(Debug, Default)]
enum Place {
    /// Nothing yet.
    #[default]
    Open,
    /// It has no value.
    Missed,
    /// A whole small value among [`Order::side`].
    Side { start: u32, end: u32 },
    /// A whole small value.
    Small(Box<[u8]>),
    /// A whole large value.
    Whole(Box<OutBuf>),
    /// The beginning of a value.
    Begun(Box<OutBuf>),
    /// Its value found no room here: it is asked for again when its turn has come.
    Again,
}

/// See the module. Exists only for a read of which something came before its turn.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Those of the keys from `base` on.
    places: VecDeque<Place>,
    /// The key whose turn it was when this was last looked at: those before it are over.
    base: u32,
    side: Vec<u8>,
    /// How many values are there that are not sent.
    beside: usize,
    /// Memory of the values that lie apart, in bytes.
    apart: usize,
    /// Bytes that wait.
    bytes: usize,
}

/// What became of a key whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing is known of it yet.
    Waits,
    /// It has no value, or all of its value was sent.
    Passed,
    /// The beginning of its value was sent; the rest follows.
    Flows,
}

impl Order {
    /// For a read whose keys before `turn` are over.
    pub(super) fn since(turn: u32) -> Self {
        Self { base: turn, ..Self::default() }
    }

    /// Bytes of memory held, those of slices apart.
    pub(super) fn held(&self) -> usize {
        self.apart + self.side.capacity() + self.places.capacity() * size_of::<Place>()
    }

    /// Bytes that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its equal part of the memory of slices, in bytes.
    pub(super) fn part(&self) -> usize {
        let queues = self.places.iter().filter_map(|place| match place {
            Place::Whole(queue) | Place::Begun(queue) => Some(queue.part()),
            _ => None,
        });
        queues.sum()
    }

    /// Where the place of a key is kept; nowhere for one that is over.
    fn index(&self, place: u32) -> Option<usize> {
        place.checked_sub(self.base).map(|index| index as usize)
    }

    fn place(&mut self, place: u32) -> Option<&mut Place> {
        let index = self.index(place)?;
        self.places.get_mut(index)
    }

    fn set(&mut self, place: u32, what: Place) {
        let Some(index) = self.index(place) else { return };
        if self.places.len() <= index {
            self.places.resize_with(index + 1, Place::default);
        }
        if let Some(place) = self.places.get_mut(index) {
            *place = what;
        }
    }

    /// A key has its turn: nothing is kept of those before.
    fn move_to(&mut self, turn: u32) {
        while self.base < turn && self.places.pop_front().is_some() {
            self.base += 1;
        }
        self.base = self.base.max(turn);
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// A key has no value.
    pub(super) fn miss(&mut self, place: u32) {
        self.set(place, Place::Missed);
    }

    /// A key is to be asked for again.
    pub(super) fn again(&mut self, place: u32) {
        self.set(place, Place::Again);
    }

    /// Whether a key is to be asked for again.
    pub(super) fn is_again(&self, place: u32) -> bool {
        let index = self.index(place);
        index.is_some_and(|index| matches!(self.places.get(index), Some(Place::Again)))
    }

    /// A key that is to be asked for again has been.
    pub(super) fn asked(&mut self, place: u32) {
        self.set(place, Place::Open);
    }

    /// A whole value came.
    pub(super) fn park(&mut self, place: u32, header: &[u8], block: &[u8], pool: &mut BufferPool) {
        let len = header.len() + block.len();
        self.bytes += len;
        if self.side.len() + len <= SIDE {
            if self.side.capacity() == 0 {
                self.side = pool.take();
            }
            let start = self.side.len();
            self.side.extend_from_slice(header);
            self.side.extend_from_slice(block);
            let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let (start, end) = (offset(start), offset(start + len));
            self.beside += 1;
            self.set(place, Place::Side { start, end });
        } else {
            self.apart += len;
            self.set(place, Place::Small([header, block].concat().into()));
        }
    }

    /// A value has begun to come.
    pub(super) fn begin(&mut self, place: u32) {
        self.apart += size_of::<OutBuf>();
        self.set(place, Place::Begun(Box::default()));
    }

    /// Adds to a value that has begun to come.
    pub(super) fn add(&mut self, place: u32, pool: &mut BufferPool, add: impl FnOnce(&mut OutBuf, &mut BufferPool)) {
        let Some(Place::Begun(queue)) = self.place(place) else { return };
        let (len, held) = (queue.len(), queue.held());
        add(queue, pool);
        let (more, more_held) = (queue.len() - len, queue.held() - held);
        self.bytes += more;
        self.apart += more_held;
    }

    /// A value that has begun is whole.
    pub(super) fn end(&mut self, place: u32) {
        if let Some(found) = self.place(place) {
            *found = match std::mem::take(found) {
                Place::Begun(queue) => Place::Whole(queue),
                other => other,
            };
        }
    }

    /// A value that has begun never ends: what came of it is dropped.
    pub(super) fn cut_off(&mut self, place: u32, pool: &mut BufferPool) {
        if let Some(found @ Place::Begun(_)) = self.place(place)
            && let Place::Begun(mut queue) = std::mem::take(found)
        {
            self.bytes -= queue.len();
            self.apart -= queue.held() + size_of::<OutBuf>();
            queue.clear(pool);
        }
    }

    /// Drops the whole values that wait: they are missed. Returns how many there were.
    pub(super) fn give_way(&mut self, pool: &mut BufferPool) -> usize {
        let mut dropped = 0;
        for place in &mut self.places {
            match place {
                Place::Side { .. } => {}
                Place::Small(bytes) => {
                    self.apart -= bytes.len();
                    self.bytes -= bytes.len();
                }
                Place::Whole(queue) => {
                    self.apart -= queue.held() + size_of::<OutBuf>();
                    self.bytes -= queue.len();
                    queue.clear(pool);
                }
                Place::Open | Place::Missed | Place::Begun(_) | Place::Again => continue,
            }
            if let Place::Side { start, end } = place {
                self.bytes -= (*end - *start) as usize;
                self.beside -= 1;
            }
            *place = Place::Missed;
            dropped += 1;
        }
        if self.beside == 0 {
            pool.put(std::mem::take(&mut self.side));
        }
        dropped
    }

    /// It is a key's turn: what is here of its value goes to `out`; of one that is not whole only where it `may_flow`.
    pub(super) fn turn(&mut self, place: u32, may_flow: bool, out: &mut OutBuf, pool: &mut BufferPool) -> Turn {
        self.move_to(place);
        let Some(found) = self.places.front_mut() else { return Turn::Waits };
        if matches!(found, Place::Open | Place::Again) || matches!(found, Place::Begun(_)) && !may_flow {
            return Turn::Waits;
        }
        let (before, mut turn) = (out.len(), Turn::Passed);
        match std::mem::take(found) {
            Place::Side { start, end } => {
                out.append(self.side.get(start as usize..end as usize).unwrap_or_default(), pool);
                self.beside -= 1;
                if self.beside == 0 {
                    self.side.clear();
                }
            }
            Place::Small(bytes) => {
                self.apart -= bytes.len();
                out.append(&bytes, pool);
            }
            Place::Begun(queue) => {
                turn = Turn::Flows;
                self.apart -= queue.held() + size_of::<OutBuf>();
                out.join(*queue, pool);
            }
            Place::Whole(queue) => {
                self.apart -= queue.held() + size_of::<OutBuf>();
                out.join(*queue, pool);
            }
            Place::Open | Place::Missed | Place::Again => {}
        }
        self.bytes -= out.len() - before;
        turn
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        for place in self.places.drain(..) {
            if let Place::Whole(mut queue) | Place::Begun(mut queue) = place {
                queue.clear(pool);
            }
        }
        pool.put(std::mem::take(&mut self.side));
        (self.apart, self.bytes, self.beside) = (0, 0, 0);
    }
}
