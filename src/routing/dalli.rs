//! dalli (Ruby): a ring of SHA-1 points on which a hash belongs to the last point *at or below* it.

use sha1::{Digest as _, Sha1};

use super::NodeIndex;
use super::scheme::Member;

/// Points of a node of mean weight.
const POINTS: u64 = 160;

/// The points, as of a ring on which a hash belongs to the first point at or above it.
pub(super) fn points(members: &[Member]) -> Vec<(u32, NodeIndex)> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let mut points = Vec::new();
    for (member, index) in members.iter().zip(0..) {
        let count = (members.len() as u64 * POINTS * u64::from(member.weight)).checked_div(total).unwrap_or(0);
        for i in 0..count {
            let digest = Sha1::digest(format!("{}:{i}", member.label).as_bytes());
            let point = digest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            points.push((point, NodeIndex(index)));
        }
    }
    points.sort_by_key(|(point, _)| *point);
    // An arc that begins at a point ends just before the next one; the last one's end is before the first.
    let ends = points.iter().cycle().skip(1).map(|(next, _)| next.wrapping_sub(1));
    points.iter().zip(ends).map(|(&(_, node), end)| (end, node)).collect()
}
