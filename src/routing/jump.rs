//! Jump consistent hash (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014): the default
//! pool of memcached's own proxy. Nodes may be appended and taken from the end; the order is part of it.

use twox_hash::XxHash3_64;

use super::NodeIndex;

/// A number of nodes, and the seed of the key's XXH3.
#[derive(Debug)]
pub(super) struct Jump {
    seed: u64,
    nodes: u16,
}

// === impl Jump ===

impl Jump {
    pub(super) fn new(seed: u64, nodes: usize) -> Self {
        Self { seed, nodes: u16::try_from(nodes).unwrap_or(u16::MAX) }
    }

    #[allow(clippy::cast_possible_truncation, reason = "it is what the algorithm does")]
    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let mut hash = XxHash3_64::oneshot_with_seed(self.seed, key);
        let (mut bucket, mut next) = (0, 0_u64);
        while next < u64::from(self.nodes) {
            bucket = next;
            hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
            // The algorithm is defined by this division of doubles, and by its cutting off.
            next = ((bucket + 1) as f64 * ((1_u64 << 31) as f64 / ((hash >> 33) + 1) as f64)) as u64;
        }
        NodeIndex(u16::try_from(bucket).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appended_node_takes_its_share_and_moves_no_other_key() {
        for n in 1..40 {
            let (before, after) = (Jump::new(0, n), Jump::new(0, n + 1));
            for i in 0..500 {
                let key = format!("key:{i}");
                let (was, is) = (before.locate(key.as_bytes()), after.locate(key.as_bytes()));
                assert!(is == was || usize::from(is.0) == n, "{key}: {was:?} of {n}, then {is:?}");
            }
        }
    }
}
