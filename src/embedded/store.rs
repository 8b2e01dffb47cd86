//! What a node keeps: a bounded LRU cache with memcached's rules on top.
//!
//! The cache library bounds the memory, evicts the least recently used and frees what has expired.
//! Whether an item still counts is decided here, at the read, in memcached's whole seconds; every
//! method gets the time (Unix seconds) as an argument.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::protocol::number;
use crate::protocol::request::{Store as StoreLine, StoreVerb};

mod item;

pub(super) use item::{Item, deadline};
use item::{Lifetime, Marks, item_size, weight};

/// Bytes written after which the cache is told to evict at once; by itself it would let up to
/// several hundred writes wait, each of them perhaps 1 MiB.
const MAINTENANCE_BYTES: u64 = 1 << 20;

/// The direction and size of `incr` and `decr`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Wraps at 2⁶⁴.
    Up(u64),
    /// Stops at 0.
    Down(u64),
}

/// What came of `incr` and `decr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Value {
        value: u64,
        /// The item is the one it was, with all that is known of it.
        in_place: bool,
    },
    NotFound,
    NonNumeric,
    /// The unique is another one.
    Exists,
}

/// What `stats` counts, by memcached's names.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "memcached's own names")]
pub(super) struct Counters {
    pub(super) curr_connections: u64,
    pub(super) total_connections: u64,
    pub(super) rejected_connections: u64,
    pub(super) cmd_get: u64,
    pub(super) cmd_set: u64,
    pub(super) cmd_flush: u64,
    pub(super) cmd_touch: u64,
    pub(super) get_hits: u64,
    pub(super) get_misses: u64,
    pub(super) get_expired: u64,
    pub(super) get_flushed: u64,
    pub(super) delete_misses: u64,
    pub(super) delete_hits: u64,
    pub(super) incr_misses: u64,
    pub(super) incr_hits: u64,
    pub(super) decr_misses: u64,
    pub(super) decr_hits: u64,
    pub(super) cas_misses: u64,
    pub(super) cas_hits: u64,
    pub(super) cas_badval: u64,
    pub(super) touch_hits: u64,
    pub(super) touch_misses: u64,
    pub(super) store_too_large: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) total_items: u64,
    pub(super) cmd_meta: u64,
}

/// The items of one node.
pub(super) struct Store {
    cache: Cache<Bytes, Item>,
    /// Items pushed out for want of memory, and those freed after their expiry.
    evictions: Arc<AtomicU64>,
    reclaimed: Arc<AtomicU64>,
    memory_bytes: u64,
    max_item: usize,
    started: u64,
    last_unique: u64,
    /// `flush_all`: from this Unix second on, items written up to it are gone (0: no flush) …
    oldest_live: u64,
    /// … and those with a smaller unique.
    oldest_unique: u64,
    unmaintained: u64,
    pub(super) counters: Counters,
}

/// Sizes for `stats`, exact at the moment of asking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) items: u64,
    pub(super) bytes: u64,
    pub(super) memory_bytes: u64,
    pub(super) evictions: u64,
    pub(super) reclaimed: u64,
}

// === impl Store ===

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("items", &self.cache.entry_count()).finish_non_exhaustive()
    }
}

impl Store {
    /// `max_item` is lowered to half of `memory_bytes`.
    pub(super) fn new(memory_bytes: u64, max_item: usize, now: u64) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        let reclaimed = Arc::new(AtomicU64::new(0));
        let (evicted, expired) = (Arc::clone(&evictions), Arc::clone(&reclaimed));
        let cache = Cache::builder()
            .max_capacity(memory_bytes)
            .weigher(|key: &Bytes, item: &Item| u32::try_from(weight(key, item)).unwrap_or(u32::MAX))
            // The default policy may refuse a new key in favour of a popular old one; a memcached
            // always takes what was just set.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Lifetime)
            .eviction_listener(move |_, _, cause| match cause {
                RemovalCause::Size => {
                    evicted.fetch_add(1, Ordering::Relaxed);
                }
                RemovalCause::Expired => {
                    expired.fetch_add(1, Ordering::Relaxed);
                }
                RemovalCause::Explicit | RemovalCause::Replaced => {}
            })
            .build();
        let half = usize::try_from(memory_bytes / 2).unwrap_or(usize::MAX);
        Self {
            cache,
            evictions,
            reclaimed,
            memory_bytes,
            max_item: max_item.min(half),
            started: now,
            last_unique: 0,
            oldest_live: 0,
            oldest_unique: 0,
            unmaintained: 0,
            counters: Counters::default(),
        }
    }

    /// Largest item, in bytes, as `-I` counts.
    pub(super) const fn max_item(&self) -> usize {
        self.max_item
    }

    /// Bytes all items may take together.
    pub(super) const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Unix second of the start.
    pub(super) const fn started(&self) -> u64 {
        self.started
    }

    /// Whether a value of this length may be stored.
    pub(super) const fn fits(&self, key: &[u8], flags: u32, len: usize) -> bool {
        item_size(key, flags, len) <= self.max_item
    }

    /// `get`, `gets`
    pub(super) fn get(&mut self, key: &[u8], now: u64) -> Option<Item> {
        let item = self.live(key, now);
        self.counters.cmd_get += 1;
        if let Some(item) = &item {
            item.fetched(now);
            self.counters.get_hits += 1;
        } else {
            self.counters.get_misses += 1;
        }
        item
    }

    /// `touch`, `gat`, `gats`: a new expiry; the item as it was found.
    pub(super) fn touch(&mut self, key: &[u8], exptime: i32, now: u64) -> Option<Item> {
        self.counters.cmd_touch += 1;
        let Some(item) = self.live(key, now) else {
            self.counters.touch_misses += 1;
            return None;
        };
        self.counters.touch_hits += 1;
        item.fetched(now);
        let touched = Item { deadline: deadline(exptime, now), ..item.clone() };
        self.place(key, touched, now);
        Some(item)
    }

    /// The six storage commands; the answer's text.
    pub(super) fn store(&mut self, line: &StoreLine<'_>, data: Bytes, now: u64) -> &'static str {
        let key = line.key;
        let old = self.live(key, now);
        match (line.verb, &old) {
            (StoreVerb::Set, _) | (StoreVerb::Add, None) | (StoreVerb::Replace, Some(_)) => {}
            (StoreVerb::Append, Some(old)) => return stored(self.join(key, old, &old.data, &data, now)),
            (StoreVerb::Prepend, Some(old)) => return stored(self.join(key, old, &data, &old.data, now)),
            (StoreVerb::Add, Some(_)) | (StoreVerb::Replace | StoreVerb::Append | StoreVerb::Prepend, None) => {
                return "NOT_STORED";
            }
            (StoreVerb::Cas, None) => {
                self.counters.cas_misses += 1;
                return "NOT_FOUND";
            }
            (StoreVerb::Cas, Some(old)) if old.unique == line.unique => {
                self.counters.cas_hits += 1;
            }
            (StoreVerb::Cas, Some(_)) => {
                self.counters.cas_badval += 1;
                return "EXISTS";
            }
        }
        self.put(key, data, kept_flags(line.flags), deadline(line.exptime, now), now);
        "STORED"
    }

    /// Drops the key's old value: what a `set` too large for the cache leaves behind.
    pub(super) fn drop_stale(&mut self, key: &[u8]) {
        self.remove(key);
    }

    /// `delete`; whether there was something to delete.
    pub(super) fn delete(&mut self, key: &[u8], now: u64) -> bool {
        let found = self.live(key, now).is_some();
        if found {
            self.remove(key);
            self.counters.delete_hits += 1;
        } else {
            self.counters.delete_misses += 1;
        }
        found
    }

    /// `incr`, `decr`
    pub(super) fn count(&mut self, key: &[u8], step: Step, now: u64) -> Counted {
        let Some(old) = self.live(key, now) else {
            self.count_missed(step);
            return Counted::NotFound;
        };
        self.count_item(key, old, step, None, now)
    }

    /// There was nothing to count.
    pub(super) const fn count_missed(&mut self, step: Step) {
        match step {
            Step::Up(_) => self.counters.incr_misses += 1,
            Step::Down(_) => self.counters.decr_misses += 1,
        }
    }

    /// Counts a live item, if it has the unique asked for. A result not longer than the old text is written over it, the
    /// rest filled with spaces.
    pub(super) fn count_item(&mut self, key: &[u8], old: Item, step: Step, unique: Option<u64>, now: u64) -> Counted {
        // memcached keeps what is larger than half an item's limit in chunks, and never reads
        // those as numbers.
        if old.data.is_empty() || old.size(key) > self.max_item / 2 {
            return Counted::NonNumeric;
        }
        if unique.is_some_and(|unique| unique != old.unique) {
            return Counted::Exists;
        }
        // C's strtoull: a NUL ends the text.
        let text = old.data.split(|&b| b == 0).next().unwrap_or_default();
        let Some(value) = number::unsigned(text) else {
            return Counted::NonNumeric;
        };
        let value = match step {
            Step::Up(delta) => {
                self.counters.incr_hits += 1;
                value.wrapping_add(delta)
            }
            Step::Down(delta) => {
                self.counters.decr_hits += 1;
                value.saturating_sub(delta)
            }
        };
        let mut text = Vec::with_capacity(old.data.len().max(20));
        number::append(&mut text, value);
        let in_place = text.len() <= old.data.len();
        if in_place {
            text.resize(old.data.len(), b' ');
            let unique = self.next_unique();
            let data = Bytes::from(text);
            self.place(key, Item { data, unique, ..old }, now);
        } else {
            self.put(key, Bytes::from(text), old.flags, old.deadline, now);
        }
        Counted::Value { value, in_place }
    }

    /// `flush_all`. As in memcached, a later flush replaces an earlier one, also one that has
    /// begun.
    pub(super) fn flush_all(&mut self, delay: Option<i32>, now: u64) {
        self.counters.cmd_flush += 1;
        self.oldest_live = match delay {
            Some(delay) if delay > 0 => match deadline(delay, now) {
                // A Unix time before the start means nothing is flushed.
                at if at <= self.started => 0,
                at => at - 1,
            },
            _ => now.saturating_sub(1),
        };
        if self.oldest_live <= now {
            self.oldest_unique = self.next_unique();
        }
    }

    /// Catches up with the cache's bookkeeping, then reads it.
    pub(super) fn sizes(&mut self) -> Sizes {
        self.maintain();
        Sizes {
            items: self.cache.entry_count(),
            bytes: self.cache.weighted_size(),
            memory_bytes: self.memory_bytes,
            evictions: self.evictions.load(Ordering::Relaxed),
            reclaimed: self.reclaimed.load(Ordering::Relaxed),
        }
    }

    /// `stats reset`: the counters, not the sizes.
    pub(super) fn reset(&mut self) {
        self.counters = Counters { curr_connections: self.counters.curr_connections, ..Counters::default() };
        self.evictions.store(0, Ordering::Relaxed);
        self.reclaimed.store(0, Ordering::Relaxed);
    }

    /// The item, when it is neither expired nor flushed.
    pub(super) fn live(&mut self, key: &[u8], now: u64) -> Option<Item> {
        let item = self.cache.get(key)?;
        let flushed = self.oldest_live != 0
            && self.oldest_live <= now
            && (item.stored_at <= self.oldest_live || item.unique < self.oldest_unique);
        if flushed {
            self.counters.get_flushed += 1;
        } else if item.is_dead(now) {
            self.counters.get_expired += 1;
        } else {
            return Some(item);
        }
        self.remove(key);
        None
    }

    /// `append` and `prepend`, of which `head` and `tail` are the two values; whether there was room.
    pub(super) fn join(&mut self, key: &[u8], old: &Item, head: &[u8], tail: &[u8], now: u64) -> bool {
        let fits = self.fits(key, old.flags, head.len() + tail.len());
        if fits {
            let data = Bytes::from([head, tail].concat());
            self.put(key, data, old.flags, old.deadline, now);
        }
        fits
    }

    fn put(&mut self, key: &[u8], data: Bytes, flags: u32, deadline: u64, now: u64) {
        let item = self.item(data, flags, deadline, now);
        self.place(key, item, now);
    }

    /// A new item with the next unique, not yet in its place.
    pub(super) fn item(&mut self, data: Bytes, flags: u32, deadline: u64, now: u64) -> Item {
        let unique = self.next_unique();
        self.counters.total_items += 1;
        let marks = Arc::new(Marks { last_access_at: AtomicU64::new(now), ..Marks::default() });
        Item { data, flags, unique, deadline, stored_at: now, lifetime: None, marks }
    }

    /// Puts an item in the place of what the key had.
    pub(super) fn place(&mut self, key: &[u8], mut item: Item, now: u64) {
        if item.is_dead(now) {
            self.remove(key);
            return;
        }
        item.lifetime = (item.deadline != 0).then(|| Duration::from_secs(item.deadline.saturating_sub(now)));
        self.unmaintained += weight(key, &item) as u64;
        self.cache.insert(Bytes::copy_from_slice(key), item);
        if self.unmaintained >= MAINTENANCE_BYTES {
            self.maintain();
        }
    }

    /// Removes a key. The cache (moka 0.12.16) must have no update of it waiting then: it would
    /// subtract the waiting weight without ever having added it, and the drift would push out live
    /// values in the end.
    pub(super) fn remove(&mut self, key: &[u8]) {
        self.maintain();
        self.cache.invalidate(key);
    }

    fn maintain(&mut self) {
        self.cache.run_pending_tasks();
        self.unmaintained = 0;
    }

    /// The unique of the last write.
    pub(super) const fn last_unique(&self) -> u64 {
        self.last_unique
    }

    pub(super) const fn next_unique(&mut self) -> u64 {
        self.last_unique += 1;
        self.last_unique
    }
}

const fn stored(is_stored: bool) -> &'static str {
    if is_stored { "STORED" } else { "NOT_STORED" }
}

/// What memcached 1.6.18 keeps of a client's flags: the low 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what it does")]
pub(super) const fn kept_flags(flags: u64) -> u32 {
    flags as u32
}

#[cfg(test)]
mod tests;
