//! Perl's Cache::Memcached::Fast with `ketama_points`: each point is the CRC-32 of the one before it, continued.

use crc32fast::Hasher;

use super::NodeIndex;
use super::scheme::Member;

/// The points of each member: `count` times its weight.
pub(super) fn points(members: &[Member], count: u32) -> Vec<(u32, NodeIndex)> {
    let mut points = Vec::new();
    for (member, index) in members.iter().zip(0..) {
        let base = crc32fast::hash(member.label.as_bytes());
        let mut point = 0_u32;
        for _ in 0..count * member.weight {
            let mut hasher = Hasher::new_with_initial(base);
            hasher.update(&point.to_le_bytes());
            point = hasher.finalize();
            points.push((point, NodeIndex(index)));
        }
    }
    points
}
