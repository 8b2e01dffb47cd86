//! One value, what is known of it, and what it weighs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::Expiry;

/// Longest relative expiry, in seconds (`REALTIME_MAXDELTA`): above it is a Unix time.
const MAX_RELATIVE: i32 = 60 * 60 * 24 * 30;

/// memcached's own bytes per item: header 48, unique 8, the key's NUL 1, the value's CRLF 2.
const HEADER: usize = 59;

/// Client flags other than 0 take four bytes more.
const FLAGS: usize = 4;

/// Bytes an item really costs here beside key and value: the cache's entry, its queues and map,
/// the allocator's rounding, the marks. Measured: 490 to 520 bytes of resident memory with
/// 200,000 items of 10 to 1,000 bytes; the marks are 48 more.
const OVERHEAD: usize = 560;

/// One value. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub(in super::super) struct Item {
    pub(in super::super) data: Bytes,
    /// The clients' own; opaque.
    pub(in super::super) flags: u32,
    /// The unique of `gets` and `cas`.
    pub(in super::super) unique: u64,
    /// Unix second from which on the item is gone; 0 is never.
    pub(in super::super) deadline: u64,
    /// Unix second of the write, for `flush_all`.
    pub(super) stored_at: u64,
    /// What the cache counts down: seconds from the last write or touch to the deadline.
    pub(super) lifetime: Option<Duration>,
    /// Shared by all clones of what was written once.
    pub(in super::super) marks: Arc<Marks>,
}

/// What the meta commands tell of an item beside its value. Written under the lock of the store only.
#[derive(Debug, Default)]
pub(in super::super) struct Marks {
    /// Unix second of the last read but the first, at first of the write.
    pub(in super::super) last_access_at: AtomicU64,
    /// It was read.
    pub(in super::super) is_fetched: AtomicBool,
    /// `md I`: readers are told to make a new one.
    pub(in super::super) is_stale: AtomicBool,
    /// One reader was told to make a new one.
    pub(in super::super) token_sent: AtomicBool,
    /// It was stored under a key in base64.
    pub(in super::super) is_base64: AtomicBool,
}

/// Frees the memory of expired items; see [`Item::lifetime`].
pub(super) struct Lifetime;

impl Expiry<Bytes, Item> for Lifetime {
    fn expire_after_create(&self, _: &Bytes, item: &Item, _: Instant) -> Option<Duration> {
        item.lifetime
    }

    fn expire_after_update(&self, _: &Bytes, item: &Item, _: Instant, _: Option<Duration>) -> Option<Duration> {
        item.lifetime
    }
}

// === impl Item ===

impl Item {
    pub(super) const fn is_dead(&self, now: u64) -> bool {
        self.deadline != 0 && self.deadline <= now
    }

    /// What an item counts against `-I`, in bytes.
    pub(in super::super) const fn size(&self, key: &[u8]) -> usize {
        item_size(key, self.flags, self.data.len())
    }

    /// A read, but those that leave no trace.
    pub(in super::super) fn fetched(&self, now: u64) {
        if self.marks.is_fetched.swap(true, Ordering::Relaxed) {
            self.marks.last_access_at.store(now, Ordering::Relaxed);
        }
    }
}

/// What an item counts against `-I`, in bytes.
pub(super) const fn item_size(key: &[u8], flags: u32, len: usize) -> usize {
    let flags = if flags == 0 { 0 } else { FLAGS };
    len.saturating_add(key.len() + HEADER + flags)
}

/// What an item counts against the memory limit, in bytes.
pub(super) const fn weight(key: &[u8], item: &Item) -> usize {
    key.len() + item.data.len() + OVERHEAD
}

/// The Unix second an expiry stands for: 0 never, negative at once, up to 30 days relative, else
/// absolute.
pub(in super::super) fn deadline(exptime: i32, now: u64) -> u64 {
    match u64::try_from(exptime) {
        Ok(0) => 0,
        Ok(seconds) if exptime <= MAX_RELATIVE => now.saturating_add(seconds),
        Ok(at) => at,
        Err(_) => now,
    }
}
