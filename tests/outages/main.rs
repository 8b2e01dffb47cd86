//! Nodes that fall silent, die, flap and are cut off under load, and clients that harm: the slipring
//! binary over real memcached nodes. What must be right is asserted: every value, every answer, memory.
//! What is a time is printed in a table and not asserted, for it is the machine's as well.
//!
//! - `SLIPRING_OUTAGE_SECONDS` (3): how long a node is away
//! - `SLIPRING_OUTAGE_FLAPPING_SECONDS` (4): how long a node flaps, each second
//! - `SLIPRING_OUTAGE_QUIET_SECONDS` (2): how long the load runs before, for comparison
//! - `SLIPRING_OUTAGE_RATE` (20000; 1000 in a debug build, where `-- --ignored` runs them): requests per second
//! - `SLIPRING_NO_NETNS=1`: do without the test that needs a network namespace
//!
//! The full figures take some minutes: 10, 60, 10, `--release`, `--nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

#[path = "../support/mod.rs"]
mod support;

mod group;
mod load;
mod memory;
mod model;
mod nodes;
mod scenario;
mod silence;
#[path = "../../benches/parts/veth.rs"]
mod veth;

use std::sync::{Mutex, MutexGuard};

/// Held by each test that loads the machine, so that no two disturb one another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poison| poison.into_inner())
}
