//! bmemcached's `DistributedClient` (uhashring): a ring of whole MD5 digests; a key belongs to the first point *above*
//! its own.

use md5::{Digest as _, Md5};

use super::NodeIndex;
use super::scheme::Member;

/// Points of a node.
const POINTS: u32 = 160;

/// The points in order.
#[derive(Debug)]
pub(super) struct Bmemcached {
    points: Box<[u128]>,
    /// Of the point at the same place.
    owners: Box<[NodeIndex]>,
    nodes: usize,
}

// === impl Bmemcached ===

impl Bmemcached {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut points = Vec::new();
        for (member, index) in members.iter().zip(0..) {
            points.extend((0..POINTS).map(|i| (number(format!("{}-{i}", member.label).as_bytes()), NodeIndex(index))));
        }
        points.sort_by_key(|(point, _)| *point);
        let (points, owners): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        Self { points: points.into(), owners: owners.into(), nodes: members.len() }
    }

    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let wanted = number(key);
        let at = self.points.partition_point(|point| *point <= wanted);
        self.owners.get(at).or_else(|| self.owners.first()).copied().unwrap_or_default()
    }

    /// The share of all hashes that each node owns.
    pub(super) fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.nodes];
        let mut previous = self.points.last().copied().unwrap_or_default();
        for (point, node) in self.points.iter().zip(&self.owners) {
            if let Some(share) = shares.get_mut(usize::from(node.0)) {
                *share += point.wrapping_sub(previous) as f64 / u128::MAX as f64;
            }
            previous = *point;
        }
        shares
    }
}

fn number(bytes: &[u8]) -> u128 {
    Md5::digest(bytes).first_chunk().map_or(0, |digest| u128::from_be_bytes(*digest))
}
