//! mcrouter: its default hash `Ch3`, and `Rendezvous`.

use super::NodeIndex;
use super::hashes::murmur64a;
use super::scheme::Member;

/// Seed of the hash that makes the bits of a walk, and that of a node's tag.
const SEED: u64 = 4_193_360_111;

/// Seed of a key's hash.
const KEY_SEED: u64 = 2_718_281_828;

/// Distance of the bits that one attempt takes.
const SHIFT: usize = 23;

/// Walks that lead past the last node are begun anew; after so many the first node has the key.
const TRIES: usize = 32;

/// `Ch3`: a walk down a binary tree of nodes, guided by the bits of the key.
#[derive(Debug)]
pub(super) struct Ch3 {
    nodes: u32,
}

/// `Rendezvous`: the highest score has the key.
#[derive(Debug)]
pub(super) struct Rendezvous {
    /// Hashes of the nodes' tags.
    tags: Box<[u64]>,
}

/// The bits of a key, made as they are asked for: each word is the hash of the one before it.
struct Bits {
    first: u64,
    /// The word that was asked for last, and its number.
    word: u64,
    number: usize,
}

// === impl Bits ===

impl Bits {
    fn new(key: &[u8]) -> Self {
        let first = murmur64a(key, SEED);
        Self { first, word: first, number: 0 }
    }

    fn get(&mut self, index: usize) -> u32 {
        let number = index / 64;
        // A walk that begins anew begins in the first word.
        if number < self.number {
            (self.word, self.number) = (self.first, 0);
        }
        while self.number < number {
            self.word = murmur64a(&self.word.to_le_bytes(), SEED);
            self.number += 1;
        }
        ((self.word >> (index % 64)) & 1) as u32
    }
}

// === impl Ch3 ===

impl Ch3 {
    pub(super) fn new(nodes: usize) -> Self {
        Self { nodes: u32::try_from(nodes).unwrap_or(u32::MAX) }
    }

    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        if self.nodes <= 1 {
            return NodeIndex(0);
        }
        let mut bits = Bits::new(key);
        // Levels of the tree.
        let mut depth = (u32::BITS - (self.nodes - 1).leading_zeros()) as usize;
        let mut at = depth;
        for _ in 0..TRIES {
            // Down to the level on which the key's node lies.
            while bits.get(at) == 0 {
                depth -= 1;
                if depth == 0 {
                    return NodeIndex(0);
                }
                at = depth;
            }
            at += SHIFT;
            let mut number = 1;
            for _ in 1..depth {
                number = number << 1 | bits.get(at);
                at += SHIFT;
            }
            if number < self.nodes {
                return NodeIndex(u16::try_from(number).unwrap_or_default());
            }
        }
        NodeIndex(0)
    }
}

// === impl Rendezvous ===

impl Rendezvous {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { tags: members.iter().map(|member| murmur64a(member.label.as_bytes(), SEED)).collect() }
    }

    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let key = murmur64a(key, KEY_SEED);
        let (mut best, mut owner) = (-1.0, NodeIndex(0));
        for (&tag, index) in self.tags.iter().zip(0..) {
            // Compared as doubles: of scores that are the same then the later node's counts.
            let score = mixed(tag, key) as f64;
            if score >= best {
                (best, owner) = (score, NodeIndex(index));
            }
        }
        owner
    }
}

/// CityHash's way of making 64 bits of 128.
fn mixed(upper: u64, lower: u64) -> u64 {
    const MUL: u64 = 0x9ddf_ea08_eb38_2d69;
    let a = (lower ^ upper).wrapping_mul(MUL);
    let b = (upper ^ a ^ (a >> 47)).wrapping_mul(MUL);
    (b ^ (b >> 47)).wrapping_mul(MUL)
}
