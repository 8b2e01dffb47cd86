//! Ketama (Richard Jones, last.fm) and its relatives: points on a circle of 32 bits made from `name-i`; a key belongs
//! to the first point at or above its hash. What the clients differ in is the name, the hash of the points, their
//! number, and the hash of the key.

use md5::{Digest as _, Md5};
use sha1::Sha1;

use super::NodeIndex;
use super::hashes::{KeyHash, four, low};
use super::scheme::Member;

/// Digests of a node, four points each.
const DIGESTS: u32 = 40;

/// How the points of a name are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Points {
    /// 40 digests of `name-i` give four points each.
    Digests(Digest, Rounding),
    /// One point for each hash of `name-i`.
    Each(KeyHash, u32),
}

/// The digest that points are made of; its first 16 bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    Md5,
    Sha1,
}

/// How the number of digests follows from the weights. Where there are weights even equal ones may give 39 digests, by
/// the way in which the client rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// There are no weights.
    Unweighted,
    /// In single precision: libmemcached and twemproxy. 39 digests with 25, 47, 50 … nodes.
    Single,
    /// In double precision: hashring (JavaScript). 39 digests with 7, 14, 28 … nodes.
    Double,
}

// === impl Points ===

impl Points {
    /// The points of each member, in the order of the members.
    pub(super) fn of(self, members: &[Member]) -> Vec<(u32, NodeIndex)> {
        let total: u32 = members.iter().map(|member| member.weight).sum();
        let mut points = Vec::new();
        for (member, index) in members.iter().zip(0..) {
            let label = |i: u32| format!("{}-{i}", member.label);
            let mut push = |point: u32| points.push((point, NodeIndex(index)));
            match self {
                Self::Digests(digest, rounding) => {
                    let count = rounding.digests(member.weight, total, members.len());
                    (0..count).for_each(|i| digest.points(&label(i)).into_iter().for_each(&mut push));
                }
                Self::Each(hash, count) => (0..count).for_each(|i| push(low(hash.of(label(i).as_bytes())))),
            }
        }
        points
    }
}

impl Digest {
    fn points(self, text: &str) -> [u32; 4] {
        match self {
            Self::Md5 => four(&Md5::digest(text)),
            Self::Sha1 => four(&Sha1::digest(text)),
        }
    }
}

impl Rounding {
    /// The digests of a member, in the order of operations of those who compute them.
    #[allow(clippy::cast_possible_truncation, reason = "it is what the clients do")]
    fn digests(self, weight: u32, total: u32, members: usize) -> u32 {
        match self {
            Self::Unweighted => DIGESTS,
            Self::Single => {
                let part = weight as f32 / total as f32;
                // The sum is of doubles, and cut to single precision again before it is rounded down.
                let digests = f64::from(part * 160.0 / 4.0 * members as f32) + 1e-10;
                (digests as f32).floor() as u32
            }
            Self::Double => (f64::from(weight) / f64::from(total) * 40.0 * members as f64).floor() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_give_as_many_digests_as_the_clients_rounding() {
        let fewer = |rounding: Rounding, weight: u32| -> Vec<usize> {
            (1..=60).filter(|n| rounding.digests(weight, weight * u32::try_from(*n).unwrap(), *n) != 40).collect()
        };
        assert_eq!(fewer(Rounding::Unweighted, 1), [0; 0]);
        assert_eq!(fewer(Rounding::Single, 1), [25, 47, 50, 55]);
        assert_eq!(fewer(Rounding::Double, 1), [7, 14, 28, 49, 56]);
        for rounding in [Rounding::Single, Rounding::Double] {
            assert_eq!((rounding.digests(1, 4, 2), rounding.digests(3, 4, 2)), (20, 60));
        }
    }
}
