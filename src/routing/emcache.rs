//! emcache (Python): rendezvous by MurmurHash3 of key and node, of which a slip in operator precedence leaves the low
//! byte and a few signs. So many scores are equal, and the hash of the node decides.

use super::NodeIndex;
use super::scheme::Member;

/// Longest name that is kept in two words, in bytes; longer ones cost an allocation for each key.
const NAME: usize = 32;

/// Keys by which the shares are estimated: what the slip leaves favours some nodes.
const SAMPLES: u32 = 4096;

/// The nodes in order.
#[derive(Debug)]
pub(super) struct Emcache {
    nodes: Box<[Named]>,
}

#[derive(Debug)]
struct Named {
    name: Box<[u8]>,
    /// The name, little endian, if it is no longer than [`NAME`].
    words: [u128; 2],
    /// The score of the name alone.
    own: u32,
}

/// The state of MurmurHash3_x64_128.
#[derive(Debug, Clone, Copy, Default)]
struct State(u64, u64);

// === impl Emcache ===

impl Emcache {
    pub(super) fn new(members: &[Member]) -> Self {
        let named = members.iter().map(|member| {
            let name: Box<[u8]> = member.label.as_bytes().into();
            let own = reduced(State::default().finish(&name, name.len()));
            let (first, second) = name.split_at(name.len().min(16));
            Named { words: [word(first), word(second)], name, own }
        });
        Self { nodes: named.collect() }
    }

    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        // All nodes share the whole blocks of the key.
        let (blocks, odd) = key.as_chunks::<16>();
        let shared = blocks.iter().fold(State::default(), State::block);
        let odd_word = word(odd);
        let shift = u32::try_from(8 * odd.len()).unwrap_or(0);
        let mut best: Option<(u32, u32)> = None;
        let mut owner = NodeIndex(0);
        for (Named { name, words, own }, index) in self.nodes.iter().zip(0..) {
            let (len, whole) = (odd.len() + name.len(), key.len() + name.len());
            let score = if name.len() <= NAME {
                // The name behind the odd bytes, as three words.
                let [first, second] = *words;
                let carried = |word: u128| word.checked_shr(u128::BITS - shift).unwrap_or(0);
                let rest = [odd_word | first << shift, carried(first) | second << shift, carried(second)];
                shared.finish_words(rest, len, whole)
            } else {
                shared.finish(&[odd, name].concat(), whole)
            };
            let score = (reduced(score), *own);
            if best.is_none_or(|best| score > best) {
                (best, owner) = (Some(score), NodeIndex(index));
            }
        }
        owner
    }

    /// The share of all keys that each node owns, by samples.
    pub(super) fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.nodes.len()];
        for i in 0..SAMPLES {
            if let Some(share) = shares.get_mut(usize::from(self.locate(format!("key:{i}").as_bytes()).0)) {
                *share += 1.0 / f64::from(SAMPLES);
            }
        }
        shares
    }
}

/// Up to 16 bytes, little endian.
fn word(bytes: &[u8]) -> u128 {
    let mut room = [0; 16];
    for (place, byte) in room.iter_mut().zip(bytes) {
        *place = *byte;
    }
    u128::from_le_bytes(room)
}

/// What is left of the first word: the first byte with its sign, and the signs of the three behind it.
fn reduced(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    let sign = |byte: u8, mask: u32| if byte >= 0x80 { mask } else { 0 };
    i32::from(a.cast_signed()).cast_unsigned() | sign(b, 0xffff_ff00) | sign(c, 0xffff_0000) | sign(d, 0xff00_0000)
}

// === impl State ===

impl State {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;

    fn first(k: u64) -> u64 {
        k.wrapping_mul(Self::C1).rotate_left(31).wrapping_mul(Self::C2)
    }

    fn second(k: u64) -> u64 {
        k.wrapping_mul(Self::C2).rotate_left(33).wrapping_mul(Self::C1)
    }

    fn block(self, block: &[u8; 16]) -> Self {
        self.mix(u128::from_le_bytes(*block))
    }

    fn mix(self, word: u128) -> Self {
        let Self(mut h1, mut h2) = self;
        h1 = (h1 ^ Self::first(half(word))).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ Self::second(half(word >> 64))).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
        Self(h1, h2)
    }

    /// The first of the two words, after the rest of a message of `len` bytes.
    fn finish(self, rest: &[u8], len: usize) -> u64 {
        let (blocks, tail) = rest.as_chunks::<16>();
        blocks.iter().fold(self, Self::block).last(word(tail), len)
    }

    /// The same of a rest of `rest_len` bytes, below 48, in three words.
    fn finish_words(self, rest: [u128; 3], rest_len: usize, len: usize) -> u64 {
        let whole = rest_len / 16;
        let state = rest.iter().take(whole).fold(self, |state, word| state.mix(*word));
        state.last(rest.get(whole).copied().unwrap_or(0), len)
    }

    fn last(self, last: u128, len: usize) -> u64 {
        let Self(mut h1, mut h2) = self;
        h2 ^= Self::second(half(last >> 64)) ^ len as u64;
        h1 ^= Self::first(half(last)) ^ len as u64;
        h1 = h1.wrapping_add(h2);
        h2 = h2.wrapping_add(h1);
        mixed(h1).wrapping_add(mixed(h2))
    }
}

fn half(block: u128) -> u64 {
    (block & 0xffff_ffff_ffff_ffff) as u64
}

fn mixed(k: u64) -> u64 {
    let k = (k ^ (k >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let k = (k ^ (k >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn naive(labels: &[String], key: &str) -> usize {
        let hash = |text: String| murmur3::murmur3_x64_128(&mut Cursor::new(text.into_bytes()), 0).unwrap();
        let score = |text: String| reduced(half(hash(text)));
        let of = |i: usize| (score(format!("{key}{}", labels[i])), score(labels[i].clone()));
        // `max_by_key` would give the last of several.
        (0..labels.len()).rev().max_by_key(|&i| of(i)).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_what_the_definition_says(
            labels in proptest::collection::hash_set("[a-z0-9.]{1,36}", 1..20),
            key in "\\PC{1,60}",
        ) {
            let labels: Vec<String> = labels.into_iter().collect();
            let members: Vec<Member> = labels.iter().map(|label| Member { label: label.clone(), weight: 1 }).collect();
            prop_assert_eq!(usize::from(Emcache::new(&members).locate(key.as_bytes()).0), naive(&labels, &key));
        }
    }

    #[test]
    fn a_long_name_is_hashed_too() {
        let labels = ["a".repeat(400), "b".to_owned()];
        let members = labels.clone().map(|label| Member { label, weight: 1 });
        for key in ["k", "key:2", "a key that has more than sixteen bytes"] {
            assert_eq!(usize::from(Emcache::new(&members).locate(key.as_bytes()).0), naive(&labels, key));
        }
    }
}
