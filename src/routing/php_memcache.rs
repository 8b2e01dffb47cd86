//! pecl memcache (PHP, without the d), strategy `consistent`: a ring that is looked at from 1,024 places only.

use super::NodeIndex;
use super::hashes::{KeyHash, low};
use super::ring::Ring;
use super::scheme::Member;

/// Points of a node per unit of weight.
const POINTS: u32 = 160;

const BUCKETS: u32 = 1024;

/// The owner of each of the places.
#[derive(Debug)]
pub(super) struct PhpMemcache {
    hash: KeyHash,
    buckets: Box<[NodeIndex]>,
    nodes: usize,
}

// === impl PhpMemcache ===

impl PhpMemcache {
    pub(super) fn new(hash: KeyHash, members: &[Member]) -> Self {
        let mut points = Vec::new();
        for (member, index) in members.iter().zip(0..) {
            for i in 0..POINTS * member.weight {
                let label = format!("{}-{i}", member.label);
                points.push((low(hash.of(label.as_bytes())), NodeIndex(index)));
            }
        }
        let ring = Ring::from_points(points, members.len(), hash.range());
        let buckets = (0..BUCKETS).map(|bucket| ring.at(bucket * (u32::MAX / BUCKETS))).collect();
        Self { hash, buckets, nodes: members.len() }
    }

    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let bucket = (low(self.hash.of(key)) % BUCKETS) as usize;
        self.buckets.get(bucket).copied().unwrap_or_default()
    }

    /// The share of all hashes that each node owns.
    pub(super) fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.nodes];
        for node in &self.buckets {
            if let Some(share) = shares.get_mut(usize::from(node.0)) {
                *share += 1.0 / f64::from(BUCKETS);
            }
        }
        shares
    }
}
