//! `nodes[hash(key) % n]`: the oldest placement and still the default of many clients. The order of the nodes is part
//! of it, and when their number changes nearly every key moves.

use super::NodeIndex;
use super::hashes::KeyHash;

/// The nodes by remainder.
#[derive(Debug)]
pub(super) struct Modulo {
    hash: KeyHash,
    /// Each node as often as its weight says; at least one entry.
    buckets: Box<[NodeIndex]>,
    nodes: usize,
}

// === impl Modulo ===

impl Modulo {
    /// `weights` in the order of the nodes, at least one; all 1 where the client has none.
    pub(super) fn new(hash: KeyHash, weights: &[u32]) -> Self {
        let repeated = weights.iter().zip(0..).flat_map(|(&weight, i)| (0..weight.max(1)).map(move |_| NodeIndex(i)));
        Self { hash, buckets: repeated.collect(), nodes: weights.len() }
    }

    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let bucket = self.hash.of(key) % (self.buckets.len().max(1) as u64);
        usize::try_from(bucket).ok().and_then(|bucket| self.buckets.get(bucket)).copied().unwrap_or_default()
    }

    /// The share of all hashes that each node owns.
    pub(super) fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.nodes];
        let buckets = self.buckets.len() as u64;
        for (node, bucket) in self.buckets.iter().zip(0_u64..) {
            let share = match self.hash.range() {
                // The low remainders come once more where the range is no multiple of the buckets.
                Some(range) => (range / buckets + u64::from(bucket < range % buckets)) as f64 / range as f64,
                None => 1.0 / buckets as f64,
            };
            if let Some(sum) = shares.get_mut(usize::from(node.0)) {
                *sum += share;
            }
        }
        shares
    }

    /// The owner of each remainder.
    pub(super) fn buckets(&self) -> &[NodeIndex] {
        &self.buckets
    }

    /// The hash whose remainder counts.
    pub(super) const fn hash(&self) -> KeyHash {
        self.hash
    }
}
