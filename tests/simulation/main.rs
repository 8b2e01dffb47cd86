//! The core under simulation: no socket, no clock, no sleep, the same run for the same seed.
//!
//! - `world` drives [`slipring::proxy::Core`] as the rim does, in front of `node`, a model of
//!   memcached, for `client`s that know what they must receive. Everything is delivered in pieces,
//!   in random order; connections break at any byte.
//! - `script` holds what a model cannot show: nodes that answer wrongly, and exact bytes on a lane.
//! - `split` says that chunking changes nothing.
//!
//! ```text
//! cargo test --test simulation                              # 256 seeds
//! SIMULATION_SEEDS=4096 cargo test --test simulation        # more of them
//! SIMULATION_SEED=77 cargo test --test simulation seeds     # the one that failed
//! ```

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends at what it did not expect, and says so"
)]

mod client;
mod node;
mod script;
mod split;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 256;

/// Numbers that a seed gives again: splitmix64.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    pub(crate) const fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) const fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Runs one seed; a failure says how to see it again.
fn run(seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
        println!("to replay: SIMULATION_SEED={seed} cargo test --test simulation seeds");
        resume_unwind(panic);
    }
}

#[test]
fn every_client_gets_its_own_replies_in_order_for_all_seeds() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return run(seed);
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let end = first + number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    run(seed);
                }
            });
        }
    });
}
