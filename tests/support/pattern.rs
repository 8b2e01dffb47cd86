//! Values that a verifying load writes and knows again.
use super::{Random, mix, shown};

/// Of a value without its head.
const LARGEST: usize = 8 << 10;

/// Values that say which key and version they are, in every byte.
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new() -> Self {
        let mut random = Random::new(0x0005_3A95);
        Self((0..2 * LARGEST / 8).flat_map(|_| random.next().to_le_bytes()).collect())
    }

    pub fn value(&self, key: &str, version: u64) -> Vec<u8> {
        let seed = key.bytes().fold(mix(version), |state, byte| mix(state ^ u64::from(byte)));
        let most = if seed.is_multiple_of(64) { LARGEST } else { 400 };
        let length = (seed >> 8) as usize % most;
        let at = (seed >> 32) as usize % LARGEST;
        let mut value = format!("{key} {version} {length} ").into_bytes();
        value.extend_from_slice(&self.0[at..at + length]);
        value
    }

    /// The version of a whole value of this key.
    ///
    /// # Panics
    /// When it is torn, or another key's.
    pub fn version(&self, key: &str, data: &[u8]) -> u64 {
        let words: Vec<&[u8]> = data.splitn(3, |&byte| byte == b' ').collect();
        let version = words.get(1).and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        let Some(version) = version else { panic!("{key} is torn or another's: {}", shown(data)) };
        assert!(self.value(key, version) == data, "{key} is torn or another's: {}", shown(data));
        version
    }
}
