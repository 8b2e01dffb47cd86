//! The default placement: a ring of XXH3 points, and a table that finds the owner of a hash in two cache lines.
//!
//! Point `i` of a node is the upper half of `xxh3_64("{name}-{i}")`; a hash belongs to the first point at or above
//! it, and past the last point to the first. A node's points depend on nothing but its name and its number of
//! points, so a node that comes or goes moves only the keys it gains or gives up.

use std::{fmt, io::Write as _};

use twox_hash::XxHash3_64;

use super::scheme::Member;
use super::{MAX_NODES, MAX_WEIGHT, NodeIndex};

/// Points of a node per unit of weight.
///
/// A node with `m` points owns its fair share with a relative deviation of about `1/√m`, here 1.6 %. The promise is
/// that no node of 3 to 20 equal ones gets more than 1.10 times the mean, i.e. 6.4 deviations: names that break it
/// will not be met. With 2,048 points it would be 4.5, which one set of names in some tens of thousands breaks.
const POINTS_PER_WEIGHT: u64 = 4096;

/// Points of a whole ring (2 MiB of entries). Beyond a total weight of 128 every doubling halves
/// [`POINTS_PER_WEIGHT`]; a change of nodes that crosses such a step moves up to half of the keys.
const MAX_POINTS: u64 = 1 << 19;

/// Low bits of an entry that hold the node; the rest holds the point without its upper `NODE_BITS` bits.
const NODE_BITS: u32 = MAX_NODES.ilog2();

const NODE_MASK: u32 = (1 << NODE_BITS) - 1;

/// Entries compared at once. Buckets hold 2 to 4 on average, and at most one in fifty holds more than this.
const WINDOW: usize = 8;

/// Length of the whole ring: points are 32 bits wide.
const CIRCLE: u64 = 1 << 32;

/// The ring, read-only once built.
///
/// ```text
///   hash ─▶ upper 32 bits = p ─▶ starts[p >> shift] ─▶ entries: │ point, low 22 bits │ node │ …
///                                     a bucket of 2 to 4 points ▲ first entry ≥ p wins
/// ```
/// The upper bits of a point are implied by its bucket, so point and owner share four bytes and one comparison.
pub(super) struct Ring {
    /// Sorted by point; then the first entry [`WINDOW`] times more, so that the search neither wraps around nor ends.
    entries: Box<[u32]>,
    /// Where the entries of a bucket begin; one more than there are buckets.
    starts: Box<[u32]>,
    /// How far a point is shifted down to give its bucket.
    shift: u32,
    /// Length of the arcs of each node, out of `length`.
    arcs: Box<[u64]>,
    /// Up to where there are hashes: [`CIRCLE`], or less.
    length: u64,
}

// === impl Ring ===

impl Ring {
    /// Builds the ring of up to [`MAX_NODES`] nodes; the caller has checked the number. Without nodes every hash has
    /// the index of a first node that is not there.
    pub(super) fn new(nodes: &[Member]) -> Self {
        debug_assert!(nodes.len() <= MAX_NODES, "the topology checks the number of nodes");
        Self::of(&sorted_points(nodes), nodes.len(), CIRCLE)
    }

    /// A ring of points that others have made, in any order; of equal ones the first counts. Hashes are below
    /// `range`, all 32 bits of them without one.
    pub(super) fn from_points(mut points: Vec<(u32, NodeIndex)>, nodes: usize, range: Option<u64>) -> Self {
        points.sort_by_key(|(point, _)| *point);
        points.dedup_by_key(|(point, _)| *point);
        Self::of(&points, nodes, range.unwrap_or(CIRCLE).min(CIRCLE))
    }

    /// `points` in order, without equal ones.
    fn of(points: &[(u32, NodeIndex)], nodes: usize, length: u64) -> Self {
        let bits = points.len().max(2).ilog2().saturating_sub(1).clamp(NODE_BITS, 20);
        let shift = u32::BITS - bits;

        let mut starts = Vec::with_capacity((1 << bits) + 1);
        let mut entries = Vec::with_capacity(points.len() + WINDOW);
        let mut arcs = vec![0; nodes];
        // Where the arc of a point begins: behind the point before it.
        let mut begin = 0;
        for &(point, node) in points {
            while starts.len() <= (point >> shift) as usize {
                starts.push(len_u32(&entries));
            }
            entries.push(point << NODE_BITS | u32::from(node.0));
            let end = (u64::from(point) + 1).min(length);
            if let Some(sum) = arcs.get_mut(usize::from(node.0)) {
                *sum += end - begin;
            }
            begin = end;
        }
        // What is past the last point belongs to the first.
        if let Some(sum) = points.first().and_then(|(_, node)| arcs.get_mut(usize::from(node.0))) {
            *sum += length - begin;
        }
        while starts.len() <= 1 << bits {
            starts.push(len_u32(&entries));
        }
        let first = entries.first().copied().unwrap_or(0);
        entries.resize(entries.len() + WINDOW, first);
        Self { entries: entries.into(), starts: starts.into(), shift, arcs: arcs.into(), length }
    }

    /// The owner of a hash, by its upper half.
    #[inline]
    pub(super) fn locate(&self, hash: u64) -> NodeIndex {
        self.at(upper_half(hash))
    }

    /// The owner of a place on the circle: that of the first point at or above it.
    #[inline]
    pub(super) fn at(&self, point: u32) -> NodeIndex {
        let bucket = (point >> self.shift) as usize;
        let needle = point << NODE_BITS;
        let Some(&[start, end]) = self.starts.get(bucket..bucket + 2) else {
            debug_assert!(false, "every bucket has a start and an end");
            return NodeIndex(0);
        };
        let (start, end) = (start as usize, end as usize);
        let below = match self.entries.get(start..).and_then(<[u32]>::first_chunk::<WINDOW>) {
            // Where in its bucket a hash falls is a coin toss to the branch predictor, and losing it costs more than
            // comparing a whole window. What lies behind the bucket is not in order and must not count.
            Some(window) if end - start <= WINDOW => {
                let lanes = window.iter().zip(0..);
                lanes.map(|(&e, lane)| usize::from((e < needle) & (lane < end - start))).sum()
            }
            _ => self.entries.get(start..end).map_or(0, |bucket| bucket.partition_point(|&e| e < needle)),
        };
        let entry = self.entries.get(start + below).copied().unwrap_or(0);
        NodeIndex((entry & NODE_MASK) as u16)
    }

    /// The exact share of all hashes that a node owns, 0 to 1.
    pub(super) fn share(&self, node: NodeIndex) -> f64 {
        self.arcs.get(usize::from(node.0)).map_or(0.0, |&arc| arc as f64 / self.length as f64)
    }

    /// All points in order, each with its owner.
    pub(super) fn points(&self) -> Vec<(u32, NodeIndex)> {
        let mut points = Vec::new();
        for (bucket, ends) in (0_u32..).zip(self.starts.windows(2)) {
            let &[start, end] = ends else { continue };
            // The bits of a point that its entry lacks are the upper ones of its bucket.
            let upper = bucket << self.shift & !(u32::MAX >> NODE_BITS);
            let entries = self.entries.get(start as usize..end as usize).unwrap_or_default();
            points.extend(entries.iter().map(|e| (upper | e >> NODE_BITS, NodeIndex((e & NODE_MASK) as u16))));
        }
        points
    }

    /// What the ring occupies on the heap, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.starts) + size_of_val(&*self.arcs)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The entries by the ten thousand would drown whatever else is printed.
        f.debug_struct("Ring").field("points", &self.entries.len().saturating_sub(WINDOW)).finish_non_exhaustive()
    }
}

/// All points in order, each with its owner. Of nodes that share a point the one whose name sorts first owns it, so
/// that the order in which nodes are listed decides nothing.
fn sorted_points(nodes: &[Member]) -> Vec<(u32, NodeIndex)> {
    let mut by_name: Vec<NodeIndex> = (0..nodes.len()).filter_map(|i| u16::try_from(i).ok()).map(NodeIndex).collect();
    by_name.sort_by_key(|index| nodes.get(usize::from(index.0)).map(|node| &node.label));

    let per_weight = points_per_weight(nodes.iter().map(|node| u64::from(weight(node))).sum());
    let mut ranked = Vec::new();
    for (rank, node) in by_name.iter().filter_map(|index| nodes.get(usize::from(index.0))).enumerate() {
        for_each_point(&node.label, per_weight * u64::from(weight(node)), |point| {
            ranked.push((point, rank));
        });
    }
    ranked.sort_unstable();
    ranked.dedup_by_key(|&mut (point, _)| point);
    ranked.into_iter().filter_map(|(point, rank)| Some((point, *by_name.get(rank)?))).collect()
}

/// Calls `f` with points 0 to `count` of the node `name`, unsorted.
fn for_each_point(name: &str, count: u64, mut f: impl FnMut(u32)) {
    let mut label = Vec::with_capacity(name.len() + 12);
    label.extend_from_slice(name.as_bytes());
    label.push(b'-');
    let stem = label.len();
    for i in 0..count {
        label.truncate(stem);
        // Writing to a vector cannot fail.
        let _ = write!(label, "{i}");
        f(upper_half(XxHash3_64::oneshot(&label)));
    }
}

/// Points per unit of weight in a ring of that total weight: the same for every ring up to 128.
fn points_per_weight(total_weight: u64) -> u64 {
    let mut points = POINTS_PER_WEIGHT;
    while points > 1 && points * total_weight > MAX_POINTS {
        points /= 2;
    }
    points
}

/// The weight the ring works with: whoever makes nodes by hand may not starve one or exhaust the memory.
fn weight(node: &Member) -> u32 {
    node.weight.clamp(1, MAX_WEIGHT)
}

fn upper_half(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn len_u32(entries: &[u32]) -> u32 {
    u32::try_from(entries.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
