//! Slots with generations: an id of something that is gone finds nothing, also when its place is
//! taken again. That is how replies for a client that left are swallowed.

use slab::Slab;

/// A place and the generation of who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// Finds nothing.
    pub(super) const NONE: Self = Self { index: u32::MAX, generation: 0 };

    /// The place: small, and unique among what lives.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

#[derive(Debug)]
pub(super) struct Table<T> {
    slab: Slab<(u32, T)>,
    generation: u32,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self { slab: Slab::new(), generation: 0 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a table holds sockets: far fewer than 2^32")]
    pub(super) fn insert(&mut self, value: T) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let index = self.slab.insert((self.generation, value));
        Key { index: index as u32, generation: self.generation }
    }

    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.slab.get(key.index()).filter(|(generation, _)| *generation == key.generation).map(|(_, value)| value)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slab.get_mut(key.index()).filter(|(generation, _)| *generation == key.generation).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.index()).1)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slab.iter_mut().map(|(_, (_, value))| value)
    }

    #[expect(clippy::cast_possible_truncation, reason = "see insert")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slab
            .iter()
            .map(|(index, (generation, value))| (Key { index: index as u32, generation: *generation }, value))
    }
}
