//! emcache (Python): rendezvous by MurmurHash3 of key and node, of which a slip in operator precedence leaves the low
//! byte and a few signs. So many scores are equal, and the hash of the node decides.

use super::scheme::Member;
use super::{MAX_KEY, NodeIndex};

/// Longest name that is hashed without an allocation, in bytes.
const NAME: usize = 304;

/// Keys by which the shares are estimated: what the slip leaves favours some nodes.
const SAMPLES: u32 = 4096;

/// The nodes in order, each with its name and that name's own score.
#[derive(Debug)]
pub(super) struct Emcache {
    nodes: Box<[(Box<[u8]>, u32)]>,
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
            (name, own)
        });
        Self { nodes: named.collect() }
    }

    pub(super) fn locate(&self, key: &[u8]) -> NodeIndex {
        // All nodes share the whole blocks of the key.
        let (blocks, odd) = key.as_chunks::<16>();
        let shared = blocks.iter().fold(State::default(), State::block);
        let mut rest = [0; 16 + NAME];
        for (place, byte) in rest.iter_mut().zip(odd) {
            *place = *byte;
        }
        let mut best: Option<(u32, u32)> = None;
        let mut owner = NodeIndex(0);
        for ((name, own), index) in self.nodes.iter().zip(0..) {
            let len = odd.len() + name.len();
            let score = match rest.get_mut(odd.len()..len) {
                Some(place) => {
                    place.copy_from_slice(name);
                    shared.finish(rest.get(..len).unwrap_or_default(), key.len() + name.len())
                }
                None => shared.finish(&[odd, name].concat(), key.len() + name.len()),
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

const _: () = assert!(MAX_KEY <= NAME, "a name is a host and a port");

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
        let word = u128::from_le_bytes(*block);
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
        let Self(mut h1, mut h2) = blocks.iter().fold(self, Self::block);
        let mut last = [0; 16];
        for (place, byte) in last.iter_mut().zip(tail) {
            *place = *byte;
        }
        let last = u128::from_le_bytes(last);
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
            labels in proptest::collection::hash_set("[a-z0-9.]{1,40}", 1..20),
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
