//! memcached's protocols: what bytes mean, borrowed and pure.
//!
//! Nothing here owns bytes, reads a clock or knows a socket. [`request`] and [`reply`] are what all dialects have in
//! common. [`text`] and [`meta`] read what clients send and nodes answer, and write what nodes are sent; [`binary`] reads
//! what clients send, and has the text in between. [`form`] is how a client wants its replies, [`dialect`] what it speaks
//! at all, [`command`] the commands by name, [`number`] the integers, `uniques` which place of a moved key a unique names.
//! The reference is memcached 1.6.18; where the proxy
//! is stricter, the comment says why.

pub mod binary;
pub mod command;
pub mod dialect;
pub mod form;
pub mod meta;
pub mod number;
pub mod reply;
pub mod request;
pub mod text;
pub(crate) mod uniques;

/// Longest key memcached accepts, in bytes (`KEY_MAX_LENGTH`).
pub const MAX_KEY: usize = 250;

/// Whether a request can name such a key.
#[must_use]
pub fn is_key(key: &[u8]) -> bool {
    let separates = |byte: &u8| [b' ', b'\r', b'\n', 0].contains(byte);
    (1..=MAX_KEY).contains(&key.len()) && !key.iter().any(separates)
}

/// Where the first space is.
#[inline]
pub(crate) fn space(bytes: &[u8]) -> Option<usize> {
    // In so few bytes memchr looks at one after the other, too, and more slowly.
    if bytes.len() < 16 { bytes.iter().position(|byte| *byte == b' ') } else { memchr::memchr(b' ', bytes) }
}

/// Longest command line, in bytes, of everything but key lists. memcached closes a connection that
/// shows no line end within 2048 buffered bytes.
pub const MAX_LINE: usize = 2048;

/// Longest `get`, `gets`, `gat` or `gats` line, in bytes: 10,000 keys of 250 bytes are 2.5 MB.
pub const MAX_KEY_LINE: usize = 4 << 20;

/// Most spaces before the verb of a line longer than [`MAX_LINE`], as in memcached.
const MAX_INDENT: usize = 100;

/// Whether a line may grow up to [`MAX_KEY_LINE`]. `head` is its beginning, at least [`MAX_LINE`]
/// bytes of it.
#[must_use]
pub fn is_key_line(head: &[u8]) -> bool {
    let start = head.iter().position(|&b| b != b' ').unwrap_or(head.len());
    let verbs = [b"get ".as_slice(), b"gets ", b"gat ", b"gats ", b"bget "];
    start <= MAX_INDENT && head.get(start..).is_some_and(|head| verbs.iter().any(|verb| head.starts_with(verb)))
}
