//! What the fuzz targets check. Each takes any bytes and panics where a promise is broken.
//!
//! `tests/seeds.rs` runs the same code over the committed seeds with the stable toolchain; an input
//! that once failed becomes one of them.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a check ends at what it did not expect, and says so; it is module and library in one"
)]

mod client;
mod meta;
mod node;
mod packet;
#[path = "../../support/packets.rs"]
#[allow(dead_code, reason = "other tests look at answers with it")]
mod packets;
mod reply;
mod request;
mod world;

pub use packet::packet;
pub use reply::reply;
pub use request::request;
pub use world::core;

use std::collections::VecDeque;

use slipring::protocol::MAX_KEY;

/// The first line of any bytes, without its LF.
fn first_line(data: &[u8]) -> &[u8] {
    data.split(|&b| b == b'\n').next().unwrap_or_default()
}

/// What every key that is forwarded must be.
fn check_key(key: &[u8]) {
    assert!((1..=MAX_KEY).contains(&key.len()), "a key of {} bytes", key.len());
    assert!(!key.iter().any(|b| matches!(b, b' ' | b'\n' | 0)), "{:?}", show(key));
}

/// Bytes for people.
fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}

/// Takes so many bytes off the front.
fn cut(bytes: &mut VecDeque<u8>, count: usize) -> Vec<u8> {
    let (first, second) = bytes.as_slices();
    let from_first = count.min(first.len());
    let piece = [&first[..from_first], &second[..count - from_first]].concat();
    bytes.drain(..count);
    piece
}
