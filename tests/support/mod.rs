//! What the black-box tests are made of: real memcached processes, the slipring binary, a blocking
//! text client, a scripted node for what a real one cannot be made to do, and a seeded generator.
//!
//! Every wait here ends: a read after [`PATIENCE`], a loop after a deadline. A part that is missing
//! (no `memcached` in `PATH`) is a failure that says so, never a skipped test.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test crate uses its own part of this module")]

mod authority;
mod client;
mod link;
mod namespace;
pub mod packets;
mod pattern;
mod process;
mod random;
mod scripted;

pub use authority::Authority;
pub use client::{TextClient, Value, shown};
pub use link::Link;
pub use namespace::{in_a_namespace, must_be_in_a_namespace};
pub use pattern::Pattern;
pub use process::{Memcached, Port, Slipring, binary, free_port, run_to_end};
pub use random::{Random, mix};
pub use scripted::{Request, ScriptedNode, Step, honest};

use std::time::{Duration, Instant};

/// Longest wait for anything that has to happen, in a test that will pass. Generous on purpose:
/// it only decides how long a failing test takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `done` holds, asking again every few milliseconds (for what another process does
/// there is no event to wait on).
///
/// # Panics
/// When it does not hold within [`PATIENCE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A number from the environment, or the default.
///
/// # Panics
/// When the variable is set to something that is not a number.
pub fn number_from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}
