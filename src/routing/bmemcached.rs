//! bmemcached's `DistributedClient` (uhashring): a ring of whole MD5 digests; a key belongs to the first point *above*
//! its own.

use md5::{Digest as _, Md5};

use super::NodeIndex;
use super::scheme::Member;

/// Points of a node.
const POINTS: u32 = 160;

/// Upper bits of a digest by which the search begins.
const BITS: u32 = 12;

/// The points in order.
#[derive(Debug)]
pub(super) struct Bmemcached {
    points: Box<[u128]>,
    /// Of the point at the same place.
    owners: Box<[NodeIndex]>,
    /// By the upper bits of a digest: the first point that has them, or greater ones.
    starts: Box<[usize]>,
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
        let (points, owners): (Vec<u128>, Vec<_>) = points.into_iter().unzip();
        let begin = |upper: u128| points.partition_point(|point| point >> (u128::BITS - BITS) < upper);
        let starts = (0..1 << BITS).map(begin).collect();
        Self { points: points.into(), owners: owners.into(), starts, nodes: members.len() }
    }

    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let wanted = number(key);
        let upper = usize::try_from(wanted >> (u128::BITS - BITS)).unwrap_or(0);
        let start = self.starts.get(upper).copied().unwrap_or(0);
        let behind = self.points.get(start..).unwrap_or_default();
        let at = start + behind.iter().take_while(|point| **point <= wanted).count();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_first_point_above_a_key() {
        let members: Vec<Member> =
            ["a:1", "b:1", "c:1"].map(|label| Member { label: label.to_owned(), weight: 1 }).into();
        let circle = Bmemcached::new(&members);
        for i in 0..20_000 {
            let key = format!("key:{i}").into_bytes();
            let naive = circle.points.iter().position(|point| *point > number(&key)).unwrap_or(0);
            assert_eq!(circle.locate(&key), circle.owners[naive], "key:{i}");
        }
    }
}
