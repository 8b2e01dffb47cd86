//! Numbers that one thread writes and any reads, and their distribution over buckets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number written by one thread and read by any.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: it is a load and a store.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away (gauges only); the owning worker only.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets a gauge; the owning worker only.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts nothing.
pub(super) static NONE: Counter = Counter(AtomicU64::new(0));

/// The upper bounds of the buckets of durations, in microseconds; one more has no bound.
pub const DURATIONS: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];
/// The upper bounds of the buckets of sizes of multigets, in keys; one more has no bound.
pub const SIZES: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// Counts of values by bucket, and their sum.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// Values at most as large as the bound of the same index, and larger than the one before.
    buckets: [Counter; N],
    /// Larger values.
    above: Counter,
    sum: Counter,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            above: Counter::default(),
            sum: Counter::default(),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts a value, in the unit of the bounds. The owning worker only.
    #[inline]
    pub fn record(&self, value: u64, bounds: &[u64; N]) {
        let place = bounds.iter().position(|bound| value <= *bound);
        place.and_then(|place| self.buckets.get(place)).unwrap_or(&self.above).add(1);
        self.sum.add(value);
    }

    /// Adds what this has counted to `counts` (one more than there are bounds). Returns the sum of the
    /// values.
    pub(super) fn add_to(&self, counts: &mut [u64]) -> u64 {
        for (count, bucket) in counts.iter_mut().zip(self.buckets.iter().chain([&self.above])) {
            *count += bucket.get();
        }
        self.sum.get()
    }
}
