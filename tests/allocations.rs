//! In its steady state the core allocates nothing for a small get: counted, not estimated.
//!
//! In a build that checks the invariants of the core after each step the checks themselves allocate, so there is nothing in
//! here then; `tests/run release` runs it.
#![cfg(not(debug_assertions))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it says no"
)]
#![allow(dead_code, reason = "the bench uses the rest of what they share")]

#[path = "../benches/parts/trip.rs"]
mod trip;

use std::hint::black_box;

use allocation_counter::measure;
use trip::{Proxy, Trip, gets, gets_of_one, multiget, set};

/// Trips before anything is counted: buffers grow to what the load needs, and what a client has seen decides how far it is
/// read ahead.
const WARM_UP: usize = 200;
/// Of each trip, so that what is allocated once in a while is seen.
const TRIPS: usize = 2_000;

/// Allocations while all of these trips are made, one after the other, many times.
fn allocations(proxy: &mut Proxy, trips: &[Trip]) -> u64 {
    // What the rim is to do.
    let mut effects = Vec::new();
    let mut all = |proxy: &mut Proxy, times: usize| {
        for trip in (0..times).flat_map(|_| trips) {
            proxy.round(trip);
            proxy.core.take_effects(&mut effects);
            effects.clear();
        }
    };
    let first = gets_of_one(proxy);
    (0..WARM_UP).for_each(|_| proxy.round(&first));
    all(proxy, WARM_UP);
    measure(|| all(proxy, TRIPS)).count_total
}

/// A get of each of many keys, of hits so long or of misses.
fn singles(proxy: &Proxy, value_len: Option<usize>) -> Vec<Trip> {
    let keys = (0..64).map(|i| format!("key:{i:08}"));
    let trips = keys.map(|key| {
        let request = format!("get {key}\r\n").into_bytes();
        let value = value_len.map(|len| trip::value(&key, len)).unwrap_or_default();
        let reply = [&*value, b"END\r\n"].concat();
        let owner = usize::from(proxy.topology.route(key.as_bytes()).0);
        let mut nodes = vec![(Vec::new(), Vec::new()); proxy.topology.nodes().len()];
        nodes[owner] = (request.clone(), reply.clone());
        Trip { request, nodes, answer: reply }
    });
    trips.collect()
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(black_box(Box::new(1)))).count_total, 1);
    assert_eq!(measure(|| drop(black_box(vec![black_box(1_u8); 3]))).count_total, 1);
    assert_eq!(measure(|| ()).count_total, 0);
}

#[test]
fn a_small_get_allocates_nothing() {
    for nodes in [1, 3] {
        for value_len in [None, Some(0), Some(1), Some(100), Some(1000)] {
            let mut proxy = Proxy::new(nodes);
            let trips = singles(&proxy, value_len);
            assert_eq!(allocations(&mut proxy, &trips), 0, "{nodes} nodes, values of {value_len:?} bytes");
        }
    }
}

#[test]
fn small_gets_of_a_pipeline_allocate_nothing() {
    assert_eq!(allocations(&mut Proxy::new(1), &[gets(64, 100)]), 0, "64 gets pipelined");
}

/// The figure of today: its lists are its own, and there is none for each key.
#[test]
fn a_get_of_24_keys_over_three_nodes_allocates_five_times_at_most() {
    let mut proxy = Proxy::new(3);
    let trips = [multiget(24, &proxy.topology)];
    let each = allocations(&mut proxy, &trips) as f64 / TRIPS as f64;
    assert!(each <= 5.0, "{each} allocations for one get of 24 keys");
}

#[test]
fn a_small_set_allocates_nothing() {
    let mut proxy = Proxy::new(1);
    assert_eq!(allocations(&mut proxy, &[set(100), gets_of_one(&Proxy::new(1))]), 0, "a set of 100 bytes, and a get");
}
