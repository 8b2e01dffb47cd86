//! Through sockets, bytes in and bytes out: slipring in front of real memcached nodes, and of a
//! scripted one for what a real node cannot be made to do.
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

mod auto_discovery;
mod causes;
mod commands;
mod doubt;
mod hostile;
mod itself;
mod large;
mod logging;
mod merging;
mod meta;
mod nodes;
mod observing;
mod order;
mod shutdown;
mod sockets;
mod startup;
mod statistics;

use support::{Memcached, Slipring};

/// One real node behind the proxy.
fn one_node() -> (Memcached, Slipring) {
    let node = Memcached::start();
    let slipring = Slipring::start(&[node.address()]);
    (node, slipring)
}

/// Three real nodes behind the proxy.
fn three_nodes() -> ([Memcached; 3], Slipring) {
    three_nodes_with(&[])
}

fn three_nodes_with(arguments: &[&str]) -> ([Memcached; 3], Slipring) {
    let nodes = [Memcached::start(), Memcached::start(), Memcached::start()];
    let addresses: Vec<_> = nodes.iter().map(Memcached::address).collect();
    let slipring = Slipring::with(&addresses, arguments);
    (nodes, slipring)
}
