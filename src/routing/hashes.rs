//! The key hashes of other clients, bit for bit as they are on x86-64.
//!
//! Where a crate has the hash it is used. The others are written here from their published descriptions: Bob Jenkins'
//! one-at-a-time and lookup3, Paul Hsieh's SuperFastHash, Austin Appleby's MurmurHash2 and 64A, and the FNV variants
//! with the twists their users have given them. Clients written in C hash `char`, which is signed there: a byte from
//! 0x80 on counts as a negative number. (On arm64 it is unsigned, and the same client places such keys elsewhere.)

use md5::{Digest as _, Md5};
use sha1::Sha1;
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use twox_hash::XxHash3_64;

/// What makes a number of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyHash {
    /// Jenkins' one-at-a-time: libmemcached's default.
    OneAtATime,
    /// The upper half of CRC-32 without its sign bit.
    Crc15,
    /// The same, with 1 in place of 0.
    Crc15Nonzero,
    /// CRC-32 of IEEE 802.3, as in zlib.
    Crc32,
    /// The same without its sign bit.
    Crc31,
    /// CRC-16 in a register of 32 bits that nobody masks: twemproxy's.
    Crc16,
    /// The first four bytes of MD5, little endian.
    Md5,
    /// The first four bytes of SHA-1, little endian.
    Sha1,
    /// The lower half of 64-bit FNV-1.
    Fnv1W64,
    /// What libmemcached and twemproxy call 64-bit FNV-1a: it has 32 bits.
    Fnv1aW64,
    /// 32-bit FNV-1.
    Fnv1W32,
    /// 32-bit FNV-1a.
    Fnv1aW32,
    /// MurmurHash2 with libmemcached's seed.
    Murmur2,
    /// lookup3 with libmemcached's start value.
    Jenkins,
    /// SuperFastHash.
    Hsieh,
    /// Java's `String.hashCode`, read as unsigned.
    Java,
    /// The same, its absolute value.
    JavaAbsolute,
    /// spymemcached's FNV: over UTF-16 units, in 64 bits, cut to 32 at the end.
    SpyFnv1W32,
    /// See [`SpyFnv1W32`](Self::SpyFnv1W32).
    SpyFnv1aW32,
    /// See [`SpyFnv1W32`](Self::SpyFnv1W32).
    SpyFnv1W64,
    /// See [`SpyFnv1W32`](Self::SpyFnv1W32).
    SpyFnv1aW64,
    /// SipHash-1-3 of a Rust `str`, its closing 0xff included, with the keys 0 and 0.
    RustStr,
    /// XXH3 in 64 bits.
    Xxh3,
    /// The lower half of XXH3.
    Xxh3W32,
    /// The upper half of XXH3: that of our own ring.
    Xxh3High,
}

impl KeyHash {
    /// The number of a key.
    #[inline]
    pub(super) fn of(self, key: &[u8]) -> u64 {
        match self {
            Self::OneAtATime => one_at_a_time(key).into(),
            Self::Crc15 => crc15(key).into(),
            Self::Crc15Nonzero => crc15(key).max(1).into(),
            Self::Crc32 => crc32fast::hash(key).into(),
            Self::Crc31 => (crc32fast::hash(key) & 0x7fff_ffff).into(),
            Self::Crc16 => crc16(key).into(),
            Self::Md5 => first(&Md5::digest(key)).into(),
            Self::Sha1 => first(&Sha1::digest(key)).into(),
            Self::Fnv1W64 => fnv1_64(key).into(),
            Self::Fnv1aW64 => key.iter().fold(0x8422_2325_u32, |h, &b| (h ^ signed(b)).wrapping_mul(0x1b3)).into(),
            Self::Fnv1W32 => key.iter().fold(FNV_32, |h, &b| h.wrapping_mul(FNV_32_PRIME) ^ signed(b)).into(),
            Self::Fnv1aW32 => fnv1a_32(key).into(),
            Self::Murmur2 => murmur2(key).into(),
            Self::Jenkins => lookup3(key).into(),
            Self::Hsieh => hsieh(key).into(),
            Self::Java => java(key).into(),
            Self::JavaAbsolute => java(key).cast_signed().unsigned_abs().into(),
            Self::SpyFnv1W32 => spy(key, FNV_32.into(), |h, unit| h.wrapping_mul(FNV_32_PRIME.into()) ^ unit),
            Self::SpyFnv1aW32 => spy(key, FNV_32.into(), |h, unit| (h ^ unit).wrapping_mul(FNV_32_PRIME.into())),
            Self::SpyFnv1W64 => spy(key, FNV_64, |h, unit| h.wrapping_mul(FNV_64_PRIME) ^ unit),
            Self::SpyFnv1aW64 => spy(key, FNV_64, |h, unit| (h ^ unit).wrapping_mul(FNV_64_PRIME)),
            Self::RustStr => rust_str(key),
            Self::Xxh3 => XxHash3_64::oneshot(key),
            Self::Xxh3W32 => low(XxHash3_64::oneshot(key)).into(),
            Self::Xxh3High => XxHash3_64::oneshot(key) >> 32,
        }
    }

    /// How many different numbers there are, if they are fewer than 2^64.
    pub(super) const fn range(self) -> Option<u64> {
        match self {
            Self::Crc15 | Self::Crc15Nonzero => Some(1 << 15),
            Self::Crc31 | Self::JavaAbsolute => Some(1 << 31),
            Self::RustStr | Self::Xxh3 => None,
            _ => Some(1 << 32),
        }
    }
}

const FNV_32: u32 = 2_166_136_261;
const FNV_32_PRIME: u32 = 16_777_619;
const FNV_64: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_64_PRIME: u64 = 0x100_0000_01b3;

/// A C `char` of x86-64 as an `int`.
fn signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

/// The lower half.
pub(super) fn low(wide: u64) -> u32 {
    (wide & 0xffff_ffff) as u32
}

/// The first four bytes, little endian.
pub(super) fn first(digest: &[u8]) -> u32 {
    digest.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The four points of a digest: its first 16 bytes in groups of four, little endian.
pub(super) fn four(digest: &[u8]) -> [u32; 4] {
    let (words, _) = digest.as_chunks::<4>();
    std::array::from_fn(|i| words.get(i).map_or(0, |word| u32::from_le_bytes(*word)))
}

fn crc15(key: &[u8]) -> u32 {
    (crc32fast::hash(key) >> 16) & 0x7fff
}

/// `fnv1_64` of libmemcached and twemproxy.
fn fnv1_64(key: &[u8]) -> u32 {
    let widened = |b: u8| i64::from(b.cast_signed()).cast_unsigned();
    low(key.iter().fold(FNV_64, |h, &b| h.wrapping_mul(FNV_64_PRIME) ^ widened(b)))
}

/// Also the hash of php-memcache's points.
pub(super) fn fnv1a_32(key: &[u8]) -> u32 {
    key.iter().fold(FNV_32, |h, &b| (h ^ signed(b)).wrapping_mul(FNV_32_PRIME))
}

fn one_at_a_time(key: &[u8]) -> u32 {
    let mut h = 0_u32;
    for &b in key {
        h = h.wrapping_add(signed(b));
        h = h.wrapping_add(h << 10);
        h ^= h >> 6;
    }
    h = h.wrapping_add(h << 3);
    h ^= h >> 11;
    h.wrapping_add(h << 15)
}

/// CCITT's table, but what is shifted out of the lower half stays.
fn crc16(key: &[u8]) -> u32 {
    key.iter().fold(0_u32, |crc, &b| {
        let mut entry = (((crc >> 8) ^ u32::from(b)) & 0xff) << 8;
        for _ in 0..8 {
            entry = if entry & 0x8000 == 0 { entry << 1 } else { (entry << 1) ^ 0x1021 };
        }
        (crc << 8) ^ (entry & 0xffff)
    })
}

/// MurmurHash2; the seed depends on the length.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let len = low(key.len() as u64);
    let mut h = 0xdead_beef_u32.wrapping_mul(len) ^ len;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let k = u32::from_le_bytes(*word).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M);
    }
    if !tail.is_empty() {
        h = (h ^ little_endian(tail)).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

/// MurmurHash64A, mcrouter's.
pub(super) fn murmur64a(key: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut h = seed ^ (key.len() as u64).wrapping_mul(M);
    let (words, tail) = key.as_chunks::<8>();
    for word in words {
        let k = u64::from_le_bytes(*word).wrapping_mul(M);
        h = (h ^ (k ^ (k >> 47)).wrapping_mul(M)).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        h = (h ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    h = (h ^ (h >> 47)).wrapping_mul(M);
    h ^ (h >> 47)
}

/// Up to four bytes, little endian.
pub(super) fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, &b| (word << 8) | u32::from(b))
}

/// `hashlittle` of lookup3, with 13 to start from.
fn lookup3(key: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(low(key.len() as u64)).wrapping_add(13);
    let (mut a, mut b, mut c) = (start, start, start);
    if key.is_empty() {
        return c;
    }
    let word = |bytes: &[u8], at: usize| {
        let rest = bytes.get(at..).unwrap_or_default();
        little_endian(rest.get(..4).unwrap_or(rest))
    };
    let mut rest = key;
    // The last block, whole or not, is mixed otherwise.
    while rest.len() > 12 {
        let (block, after) = rest.split_at(12);
        a = a.wrapping_add(word(block, 0));
        b = b.wrapping_add(word(block, 4));
        c = c.wrapping_add(word(block, 8));
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        rest = after;
    }
    a = a.wrapping_add(word(rest, 0));
    b = b.wrapping_add(word(rest, 4));
    c = c.wrapping_add(word(rest, 8));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// SuperFastHash, from 0.
fn hsieh(key: &[u8]) -> u32 {
    let half = |bytes: &[u8]| little_endian(bytes);
    let (blocks, tail) = key.as_chunks::<4>();
    let mut h = 0_u32;
    for [p, q, r, s] in blocks {
        h = h.wrapping_add(half(&[*p, *q]));
        let mixed = (half(&[*r, *s]) << 11) ^ h;
        h = (h << 16) ^ mixed;
        h = h.wrapping_add(h >> 11);
    }
    match tail {
        [p, q, r] => {
            h = h.wrapping_add(half(&[*p, *q]));
            h ^= h << 16;
            h ^= signed(*r) << 18;
            h = h.wrapping_add(h >> 11);
        }
        [p, q] => {
            h = h.wrapping_add(half(&[*p, *q]));
            h ^= h << 11;
            h = h.wrapping_add(h >> 17);
        }
        [p] => {
            // Of its bytes this is the one that twemproxy reads without a sign.
            h = h.wrapping_add(u32::from(*p));
            h ^= h << 10;
            h = h.wrapping_add(h >> 1);
        }
        _ => {}
    }
    h ^= h << 3;
    h = h.wrapping_add(h >> 5);
    h ^= h << 4;
    h = h.wrapping_add(h >> 17);
    h ^= h << 25;
    h.wrapping_add(h >> 6)
}

/// Calls `f` with the UTF-16 units of a key, as Java and JavaScript see it; what is not UTF-8 is U+FFFD to them.
fn utf16(key: &[u8], mut f: impl FnMut(u16)) {
    if key.is_ascii() {
        return key.iter().for_each(|&b| f(b.into()));
    }
    for chunk in key.utf8_chunks() {
        chunk.valid().encode_utf16().for_each(&mut f);
        if !chunk.invalid().is_empty() {
            f(0xfffd);
        }
    }
}

fn java(key: &[u8]) -> u32 {
    let mut h = 0_u32;
    utf16(key, |unit| h = h.wrapping_mul(31).wrapping_add(unit.into()));
    h
}

fn spy(key: &[u8], start: u64, step: impl Fn(u64, u64) -> u64) -> u64 {
    let mut h = start;
    utf16(key, |unit| h = step(h, unit.into()));
    low(h).into()
}

fn rust_str(key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(key);
    hasher.write_u8(0xff);
    hasher.finish()
}
