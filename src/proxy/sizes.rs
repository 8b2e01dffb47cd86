//! Which keys had large values lately: hashes and sizes, few and soon forgotten.
//!
//! It is fed by replies and by sets, and it is only a hint: a key it knows is asked for where large values travel, a key
//! it does not know, or has forgotten, is asked for where all others are.

/// Sets of [`WAYS`] places; 8 bytes a place, 8 KiB in all, and nothing before the first large value.
const SETS: usize = 256;
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Of the hash, the half that does not choose the set.
    tag: u32,
    /// In units of [`UNIT`], rounded up; 0 is nobody.
    size: u32,
}

/// Sizes are kept in units of so many bytes.
const UNIT: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LargeKeys {
    places: Vec<[Place; WAYS]>,
    /// How many are known.
    count: usize,
}

impl LargeKeys {
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of a hash")]
    const fn place(hash: u64) -> (usize, u32) {
        (hash as usize % SETS, (hash >> 32) as u32)
    }

    /// The size of a key's value, in bytes, if it was large lately.
    #[inline]
    pub(super) fn size(&self, hash: u64) -> Option<usize> {
        let (set, tag) = Self::place(hash);
        let place = self.places.get(set)?.iter().find(|place| place.size > 0 && place.tag == tag)?;
        Some(place.size as usize * UNIT)
    }

    /// A key has, or is given, a large value of so many bytes. The one of its set that was seen longest ago is forgotten.
    pub(super) fn remember(&mut self, hash: u64, size: usize) {
        if self.places.is_empty() {
            self.places = vec![[Place::default(); WAYS]; SETS];
        }
        let (set, tag) = Self::place(hash);
        let Some(places) = self.places.get_mut(set) else { return };
        let known = places.iter().position(|place| place.size > 0 && place.tag == tag);
        let last = known.unwrap_or(WAYS - 1);
        if known.is_none() && places.get(last).is_some_and(|place| place.size == 0) {
            self.count += 1;
        }
        // The newest first.
        if let Some(seen) = places.get_mut(..=last) {
            seen.rotate_right(1);
        }
        if let Some(first) = places.first_mut() {
            *first = Place { tag, size: u32::try_from(size.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX) };
        }
    }

    /// A key's value is not large any more.
    #[inline]
    pub(super) fn forget(&mut self, hash: u64) {
        if self.count == 0 {
            return;
        }
        let (set, tag) = Self::place(hash);
        let Some(places) = self.places.get_mut(set) else { return };
        if let Some(at) = places.iter().position(|place| place.size > 0 && place.tag == tag)
            && let Some(behind) = places.get_mut(at..)
        {
            self.count -= 1;
            if let Some(place) = behind.first_mut() {
                *place = Place::default();
            }
            behind.rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_known_and_few_are_kept() {
        let mut keys = LargeKeys::default();
        assert!(keys.is_empty() && keys.size(7).is_none());
        let hash = |n: u64| n << 32 | 7;
        for (n, size) in [(1, 1000), (2, 2000), (3, 3000), (4, 4000), (5, 5000)] {
            keys.remember(hash(n), size);
        }
        assert_eq!(keys.size(hash(1)), None, "the oldest has gone");
        assert_eq!(keys.size(hash(5)), Some(5056));
        keys.remember(hash(2), 70_000);
        keys.remember(hash(6), 1);
        assert_eq!(keys.size(hash(2)), Some(70_016), "seen again, it is not the oldest");
        assert_eq!(keys.size(hash(3)), None);
        assert_eq!(keys.size(hash(6)), Some(64));
        for n in 1..=6 {
            keys.forget(hash(n));
        }
        assert!(keys.is_empty());
    }
}
