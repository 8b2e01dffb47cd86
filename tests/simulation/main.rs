//! The core under simulation: no socket, no clock, no sleep, the same run for the same seed.
//!
//! - `world` drives [`slipring::proxy::Core`] as the rim does, in front of `node`, a model of
//!   memcached, for `client`s that know what they must receive. Everything is delivered in pieces,
//!   in random order; connections break at any byte, nodes stall, drip and crash, the ring changes.
//!   In half of the seeds the clocks are those of real life and time jumps; in the others nothing
//!   ever expires, so that no failure is without a fault.
//! - `link` measures from outside what the clocks go by: a request may be answered as expired only
//!   when its node was that slow.
//! - `script` holds what a model cannot show: nodes that answer wrongly, and exact bytes on a lane.
//! - `split` says that chunking changes nothing.
//!
//! ```text
//! cargo test --test simulation                              # 256 seeds
//! SIMULATION_SEEDS=4096 cargo test --test simulation        # more of them
//! SIMULATION_SEED=77 cargo test --test simulation seeds     # the one that failed
//! tests/simulate                                            # 10,000 fresh ones
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
mod link;
mod moved;
mod node;
#[allow(dead_code, unreachable_pub, reason = "it is the packets of all tests")]
#[path = "../support/packets.rs"]
mod packets;
mod script;
mod split;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Tally, World};

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

/// Enough failures: what they have in common shows by then.
const MOST_FAILURES: usize = 10;

#[test]
fn every_client_gets_its_own_replies_in_order_for_all_seeds() {
    if let Some(seed) = number("SIMULATION_SEED") {
        println!("{:?}", World::new(seed).run());
        return;
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let end = first + number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let tallies = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.lock().unwrap().len() >= MOST_FAILURES {
                        break;
                    }
                    if let Ok(tally) = catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
                        tallies.lock().unwrap().push(tally);
                    } else {
                        println!("to replay: SIMULATION_SEED={seed} cargo test --test simulation seeds");
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    let tallies = tallies.into_inner().unwrap();
    let sum = |part: fn(&Tally) -> u64| tallies.iter().map(part).sum::<u64>();
    let all = [
        ("expired", sum(|t| t.expired)),
        ("never sent", sum(|t| t.unsent)),
        ("done too late", sum(|t| t.late)),
        ("silences", sum(|t| t.strikes)),
        ("outages by the clock", sum(|t| t.outages)),
        ("unanswered probes", sum(|t| t.probed)),
        ("reads asked again", sum(|t| t.retries)),
        ("pieces that passed", sum(|t| t.passed)),
        ("packets", sum(|t| t.packets)),
    ];
    println!("{all:?}");
    assert!(end - first < SEEDS || all.iter().all(|(_, n)| *n > 0), "too little happened: {all:?}");
}
