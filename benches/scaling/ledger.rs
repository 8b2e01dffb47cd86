//! What each key may hold: every write has a version of its own, and a key has one write under way at most, so that an
//! answer older than the last write that was answered before the question is known to be old.

use std::io;

use crate::random::Random;

const VALUE_LEN: usize = 100;
const END: &[u8] = b"END\r\n";

#[derive(Clone, Debug, Default)]
struct Key {
    /// The version of the last write that was begun.
    begun: u32,
    /// Of the last one that was answered.
    answered: u32,
    writing: bool,
    /// It was written while the sidecars had different rings, and not again since. Old values of such keys are possible, with
    /// a ring before and without: a sidecar that lags behind knows only the old places.
    unsettled: bool,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Get { key: usize, oldest: u32, unsettled: bool },
    Set { key: usize, version: u32, differ: bool },
    Delete { key: usize, version: u32, differ: bool },
}

/// What an answer was.
#[derive(Debug)]
pub(crate) enum Answer {
    Hit,
    Miss,
    /// A value that a write had replaced before it was asked for.
    Old {
        unsettled: bool,
    },
    /// Bytes that nobody has written for this key.
    Wrong(String),
    Written,
    /// An error line.
    Error(String),
}

pub(crate) struct Ledger {
    keys: Vec<Key>,
    /// The next key to be stored anew.
    next: usize,
    /// Sidecars may have different rings now.
    pub(crate) differ: bool,
}

impl Ledger {
    /// All keys but this share have their first version, which is to be stored: those that were deleted and not asked for
    /// since.
    pub(crate) fn new(count: usize, absent_per_thousand: u64) -> Self {
        let mut random = Random::new(7);
        let key = |_| {
            let version = u32::from(random.below(1000) >= absent_per_thousand);
            Key { begun: version, answered: version, ..Key::default() }
        };
        Self { keys: (0..count).map(key).collect(), next: 0, differ: false }
    }

    pub(crate) fn count(&self) -> usize {
        self.keys.len()
    }

    /// The sets of all first versions.
    pub(crate) fn first(&self) -> impl Iterator<Item = Vec<u8>> {
        self.keys.iter().enumerate().filter(|(_, key)| key.answered == 1).map(|(index, _)| set(index, 1))
    }

    pub(crate) fn get(&self, key: usize) -> (Asked, Vec<u8>) {
        let Key { answered, unsettled, .. } = self.keys[key];
        (Asked::Get { key, oldest: answered, unsettled }, format!("get {}\r\n", name(key)).into_bytes())
    }

    /// The set of a key, unless a write of it is under way.
    pub(crate) fn set(&mut self, key: usize) -> Option<(Asked, Vec<u8>)> {
        let version = self.begin(key)?;
        Some((Asked::Set { key, version, differ: self.differ }, set(key, version)))
    }

    /// The set of the key whose turn it is: each key has one, once in a round.
    pub(crate) fn set_next(&mut self) -> Option<(Asked, Vec<u8>)> {
        self.next = (self.next + 1) % self.keys.len();
        self.set(self.next)
    }

    pub(crate) fn delete(&mut self, key: usize) -> Option<(Asked, Vec<u8>)> {
        let version = self.begin(key)?;
        Some((Asked::Delete { key, version, differ: self.differ }, format!("delete {}\r\n", name(key)).into_bytes()))
    }

    fn begin(&mut self, key: usize) -> Option<u32> {
        let state = &mut self.keys[key];
        if state.writing {
            return None;
        }
        state.writing = true;
        state.begun += 1;
        // Until it is answered while all have one ring.
        state.unsettled |= self.differ;
        Some(state.begun)
    }

    /// Judges the answer at the head of the input and says how long it is; none while it is not whole.
    ///
    /// # Errors
    /// When the bytes are no answer to this request, so that where the next one begins is unknown.
    pub(crate) fn judge(&mut self, asked: Asked, input: &[u8]) -> io::Result<Option<(Answer, usize)>> {
        let Some(line) = memchr::memchr(b'\n', input).map(|end| end + 1) else { return Ok(None) };
        let error = || Answer::Error(show(&input[..line]));
        match asked {
            Asked::Get { key, oldest, unsettled } => {
                if input.starts_with(END) {
                    return Ok(Some((Answer::Miss, line)));
                }
                if !input.starts_with(b"VALUE ") {
                    return Ok(Some((error(), line)));
                }
                if input[..line] != *format!("VALUE {} 0 {VALUE_LEN}\r\n", name(key)).as_bytes() {
                    return Err(io::Error::other(format!("get {} -> {}", name(key), show(&input[..line]))));
                }
                let whole = line + VALUE_LEN + 2 + END.len();
                let Some(block) = input.get(line..whole) else { return Ok(None) };
                let (data, end) = block.split_at(VALUE_LEN);
                if end != b"\r\nEND\r\n" {
                    return Err(io::Error::other(format!("get {} -> {}", name(key), show(block))));
                }
                let Key { begun, unsettled: now, .. } = self.keys[key];
                let answer = match version(key, data) {
                    Some(version) if version > begun => {
                        Answer::Wrong(format!("a version never written: {}", show(data)))
                    }
                    Some(version) if version < oldest => Answer::Old { unsettled: unsettled || now },
                    Some(_) => Answer::Hit,
                    None => Answer::Wrong(format!("for {}: {}", name(key), show(data))),
                };
                Ok(Some((answer, whole)))
            }
            Asked::Set { key, version, differ } | Asked::Delete { key, version, differ } => {
                let rights: &[&[u8]] = match asked {
                    Asked::Set { .. } => &[b"STORED\r\n"],
                    _ => &[b"DELETED\r\n", b"NOT_FOUND\r\n"],
                };
                let state = &mut self.keys[key];
                state.writing = false;
                if !rights.contains(&&input[..line]) {
                    return Ok(Some((error(), line)));
                }
                state.answered = version;
                state.unsettled = differ || self.differ;
                Ok(Some((Answer::Written, line)))
            }
        }
    }
}

fn name(key: usize) -> String {
    format!("scaling:{key:07}")
}

/// The value names its key and its version over and over.
fn value(key: usize, version: u32) -> Vec<u8> {
    format!("{}:{version:08}/", name(key)).into_bytes().into_iter().cycle().take(VALUE_LEN).collect()
}

/// The version of a value of this key; none if it is none of its values.
fn version(key: usize, data: &[u8]) -> Option<u32> {
    let from = name(key).len() + 1;
    let version = std::str::from_utf8(data.get(from..from + 8)?).ok()?.parse().ok()?;
    (data == value(key, version)).then_some(version)
}

fn set(key: usize, version: u32) -> Vec<u8> {
    let mut request = format!("set {} 0 0 {VALUE_LEN}\r\n", name(key)).into_bytes();
    request.extend(value(key, version));
    request.extend(b"\r\n");
    request
}

fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].trim_ascii_end().escape_ascii().to_string()
}
