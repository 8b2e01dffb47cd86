//! pymemcache's `HashClient`: the node with the highest MurmurHash3 of `node-key` has the key.
//!
//! Computed for each node that would cost some 25 ns a node. What the nodes share is computed once: the hash of a
//! node's own part is known beforehand, and of the key's part all nodes whose names have the same length modulo 4 see
//! the same words, so that the scores of eight nodes are computed side by side.

use wide::u32x8;

use super::hashes::little_endian;
use super::scheme::Member;
use super::{MAX_KEY, NodeIndex};

/// Nodes whose scores are computed side by side.
const LANES: usize = 8;

/// MurmurHash3: what a word is multiplied by before it is mixed in.
const SCRAMBLE: [u32; 2] = [0xcc9e_2d51, 0x1b87_3593];

/// Added to a state with each word.
const MIX: u32 = 0xe654_6b64;

/// Up to eight nodes whose names have the same length modulo 4; spare lanes repeat the first.
#[derive(Debug)]
struct Group {
    /// Bytes of a name, its dash included, behind its last whole word: 0 to 3.
    odd: usize,
    /// The hash of a name's whole words.
    states: u32x8,
    /// What follows them, little endian.
    tails: u32x8,
    /// Bytes of a name, its dash included.
    lengths: u32x8,
    /// Rank of the name among all (of equal scores the greater name's counts), and the node.
    ranks: u32x8,
}

/// The nodes, by the lengths of their names.
#[derive(Debug)]
pub(super) struct Pymemcache {
    groups: Box<[Group]>,
}

// === impl Pymemcache ===

impl Pymemcache {
    pub(super) fn new(members: &[Member]) -> Self {
        let names: Vec<Vec<u8>> = members.iter().map(|member| characters(&format!("{}-", member.label))).collect();
        let mut by_name: Vec<usize> = (0..members.len()).collect();
        by_name.sort_by(|a, b| members.get(*a).map(|a| &a.label).cmp(&members.get(*b).map(|b| &b.label)));
        let mut groups = Vec::new();
        for odd in 0..4 {
            let of_these: Vec<(u32, &Vec<u8>)> = (0_u32..)
                .zip(&by_name)
                .filter_map(|(rank, &index)| Some((rank << 16 | u32::try_from(index).ok()?, names.get(index)?)))
                .filter(|(_, name)| name.len() % 4 == odd)
                .collect();
            groups.extend(of_these.chunks(LANES).map(|names| Group::new(odd, names)));
        }
        Self { groups: groups.into() }
    }

    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        let mut narrow = [0; MAX_KEY];
        let key = if key.is_ascii() { key } else { narrowed(key, &mut narrow) };
        let len = u32::try_from(key.len()).unwrap_or(u32::MAX);
        let mut best = (u32x8::splat(0), u32x8::splat(0));
        let mut words = [0; MAX_KEY / 4 + 1];
        let mut made = None;
        for group in &self.groups {
            let room = (4 - group.odd) % 4;
            let (head, rest) = key.split_at(room.min(key.len()));
            let (whole, tail) = rest.as_chunks::<4>();
            if made != Some(group.odd) {
                for (word, bytes) in words.iter_mut().zip(whole) {
                    *word = scrambled(u32::from_le_bytes(*bytes));
                }
                made = Some(group.odd);
            }
            let scores = group.scores(len, head, words.get(..whole.len()).unwrap_or_default(), tail);
            best = better(best, (scores, group.ranks));
        }
        let (scores, ranks) = (best.0.to_array(), best.1.to_array());
        let (_, rank) = scores.into_iter().zip(ranks).max().unwrap_or_default();
        NodeIndex((rank & 0xffff) as u16)
    }
}

// === impl Group ===

impl Group {
    /// At most [`LANES`] names, each with its rank and node.
    fn new(odd: usize, names: &[(u32, &Vec<u8>)]) -> Self {
        let mut lanes = [[0; LANES]; 4];
        let [states, tails, lengths, ranks] = &mut lanes;
        let places = states.iter_mut().zip(tails).zip(lengths).zip(ranks);
        for ((((state, tail), length), place), (rank, name)) in places.zip(names.iter().cycle()) {
            let (whole, odd) = name.as_chunks::<4>();
            *state = whole.iter().fold(0, |h, word| mixed(h, scrambled(u32::from_le_bytes(*word))));
            *tail = little_endian(odd);
            *length = u32::try_from(name.len()).unwrap_or(u32::MAX);
            *place = *rank;
        }
        let [states, tails, lengths, ranks] = lanes.map(u32x8::from);
        Self { odd, states, tails, lengths, ranks }
    }

    /// The scores for a key: `head` fills the names' last words, `words` are the whole ones behind it.
    #[inline]
    fn scores(&self, len: u32, head: &[u8], words: &[u32], tail: &[u8]) -> u32x8 {
        let mut h = self.states;
        let mut last = u32x8::splat(0);
        if self.odd > 0 {
            let joint = u32x8::splat(little_endian(head) << (8 * self.odd));
            let joined = (self.tails | joint) * u32x8::splat(SCRAMBLE[0]);
            let joined = (joined << 15 | joined >> 17) * u32x8::splat(SCRAMBLE[1]);
            if self.odd + head.len() == 4 {
                h = mixed_lanes(h, joined);
            } else {
                last = joined;
            }
        }
        for &word in words {
            h = mixed_lanes(h, u32x8::splat(word));
        }
        if !tail.is_empty() {
            last = u32x8::splat(scrambled(little_endian(tail)));
        }
        h = h ^ last ^ (self.lengths + u32x8::splat(len));
        h = (h ^ (h >> 16)) * u32x8::splat(0x85eb_ca6b);
        h = (h ^ (h >> 13)) * u32x8::splat(0xc2b2_ae35);
        h ^ (h >> 16)
    }
}

/// The greater score of each lane, and of equal ones the greater rank.
#[inline]
fn better(one: (u32x8, u32x8), other: (u32x8, u32x8)) -> (u32x8, u32x8) {
    let scores = one.0.max(other.0);
    let none = u32x8::splat(0);
    let rank = |(score, rank): (u32x8, u32x8)| score.cmp_eq(scores).blend(rank, none);
    (scores, rank(one).max(rank(other)))
}

#[inline]
fn scrambled(word: u32) -> u32 {
    word.wrapping_mul(SCRAMBLE[0]).rotate_left(15).wrapping_mul(SCRAMBLE[1])
}

#[inline]
fn mixed(h: u32, scrambled: u32) -> u32 {
    (h ^ scrambled).rotate_left(13).wrapping_mul(5).wrapping_add(MIX)
}

/// The same of all lanes. Five times is a shift and a sum: that is one instruction each, a product is many.
#[inline]
fn mixed_lanes(h: u32x8, scrambled: u32x8) -> u32x8 {
    let h = h ^ scrambled;
    let h = h << 13 | h >> 19;
    (h << 2) + h + u32x8::splat(MIX)
}

/// What the client hashes of a text: the low byte of each character.
fn characters(text: &str) -> Vec<u8> {
    text.chars().map(|c| (u32::from(c) & 0xff) as u8).collect()
}

/// The same of a key, which comes as UTF-8; one that does not is taken as it is.
fn narrowed<'a>(key: &'a [u8], room: &'a mut [u8; MAX_KEY]) -> &'a [u8] {
    let Ok(text) = std::str::from_utf8(key) else { return key };
    let mut len = 0;
    for (place, c) in room.iter_mut().zip(text.chars()) {
        *place = (u32::from(c) & 0xff) as u8;
        len += 1;
    }
    room.get(..len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// By the definition, with a MurmurHash3 of others.
    fn naive(labels: &[String], key: &str) -> usize {
        let score = |label: &String| {
            let bytes = characters(&format!("{label}-{key}"));
            murmur3::murmur3_32(&mut Cursor::new(bytes), 0).unwrap()
        };
        (0..labels.len()).max_by_key(|&i| (score(&labels[i]), &labels[i])).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_what_the_definition_says(
            labels in proptest::collection::hash_set("[a-z0-9.:]{1,20}", 1..40),
            key in "\\PC{1,60}",
        ) {
            let labels: Vec<String> = labels.into_iter().collect();
            let members: Vec<Member> = labels.iter().map(|label| Member { label: label.clone(), weight: 1 }).collect();
            let found = Pymemcache::new(&members).locate(key.as_bytes());
            prop_assert_eq!(usize::from(found.0), naive(&labels, &key));
        }
    }

    #[test]
    fn of_equal_scores_the_greater_name_counts() {
        // Two names that are the same to a hash of low bytes.
        let members = ["a\u{131}", "a1"].map(|label| Member { label: label.to_owned(), weight: 1 });
        let found = Pymemcache::new(&members).locate(b"key");
        assert_eq!(found, NodeIndex(0));
    }
}
