//! Rendezvous hashing of our own (Thaler and Ravishankar, 1998): the node with the highest score has the key. Nodes
//! come and go with no key moved but theirs, and the shares are even.

use twox_hash::XxHash3_64;

use super::NodeIndex;
use super::scheme::Member;

/// The hashes of the nodes' names.
#[derive(Debug)]
pub(super) struct Rendezvous {
    /// Name hash and node, by name: of equal scores the first one's counts.
    nodes: Box<[(u64, NodeIndex)]>,
}

// === impl Rendezvous ===

impl Rendezvous {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut named: Vec<_> = members.iter().zip((0..).map(NodeIndex)).collect();
        named.sort_by(|a, b| a.0.label.cmp(&b.0.label));
        let hashed = named.into_iter().map(|(member, index)| (XxHash3_64::oneshot(member.label.as_bytes()), index));
        Self { nodes: hashed.collect() }
    }

    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let hash = XxHash3_64::oneshot(key);
        let (mut best, mut owner) = (None, NodeIndex(0));
        for &(name, node) in &self.nodes {
            let score = mixed(hash ^ name);
            if best.is_none_or(|best| score > best) {
                (best, owner) = (Some(score), node);
            }
        }
        owner
    }
}

/// The finaliser of SplitMix64.
fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
