//! Nodes that are spoken to by TLS, or that want to be logged in to: real memcached with `-Z`, `-Y` and both, and a server
//! that does as it is told for what a real one cannot be made to do.
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

mod endings;
mod handshakes;
mod options;
mod renewal;
mod traffic;

use support::{Authority, Memcached, Slipring, eventually};

/// Long enough for a handshake on a busy machine.
const PATIENT: &[&str] = &["--connect-timeout", "10s"];

/// A memcached that takes TLS alone, with these further arguments.
fn tls_node(authority: &Authority, certificate: &str, extra: &[&str]) -> Memcached {
    let arguments = tls_arguments(authority, certificate, extra);
    Memcached::secured(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn tls_arguments(authority: &Authority, certificate: &str, extra: &[&str]) -> Vec<String> {
    let mut arguments = authority.tls_arguments(certificate);
    arguments.extend(extra.iter().map(|&word| word.to_owned()));
    arguments
}

/// Slipring in front of these nodes, whatever their state, with these arguments.
fn slipring(nodes: &[&Memcached], extra: &[&str]) -> Slipring {
    let addresses: Vec<_> = nodes.iter().map(|node| node.address()).collect();
    Slipring::launch(&addresses, &[PATIENT, extra].concat())
}

/// The value of a metric, its labels included in the name.
fn metric(slipring: &Slipring, series: &str) -> f64 {
    let (status, text) = slipring.admin("/metrics");
    assert_eq!(status, 200);
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a number")
}

/// Waits until the only node is down for this cause.
fn wait_for_cause(slipring: &Slipring, cause: &str) {
    let squeezed: String = format!("\"cause\":\"{cause}\"").split_whitespace().collect();
    let mut ring = String::new();
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&format!("the node is down: {cause}"), || {
            ring = slipring.ring();
            ring.contains(&squeezed)
        });
    }));
    assert!(waited.is_ok(), "{ring}\n{}", slipring.output());
}
