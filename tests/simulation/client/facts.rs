//! What the whole simulated world knows, and what may be concluded from it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use slipring::routing::Topology;

use super::Expected;
use crate::node::{Node, Sight, show};

/// What the whole simulated world knows.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Microseconds.
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    /// When each node last failed, or was not yet fully connected again after that.
    pub(crate) last_fault: Vec<Option<u64>>,
    /// When each node was last new in the ring, and not yet fully connected.
    pub(crate) last_join: Vec<Option<u64>>,
    /// The time-outs, in microseconds.
    pub(crate) request_timeout: u64,
    pub(crate) queue_timeout: u64,
    /// When a connection of each node had last owed an answer for the whole time-out.
    pub(crate) last_late: Vec<Option<u64>>,
    /// When nothing had moved on a connection of each node for the whole queue time-out.
    pub(crate) last_stuck: Vec<Option<u64>>,
    /// When each node without meta commands last had a connection that had answered nothing: perhaps the one that asks
    /// whether it speaks the binary protocol.
    pub(crate) last_doubt: Vec<Option<u64>>,
    /// When each node last did what it was asked for on a connection that was given up long ago.
    pub(crate) last_haunted: Vec<Option<u64>>,
    /// Serial numbers of changes that have reached a node.
    pub(crate) reached: HashSet<u64>,
    /// Serial numbers of changes that clients were told had not been sent.
    pub(crate) unsent: HashSet<u64>,
    /// Serial numbers of changes that clients were told were not answered in time.
    pub(crate) unknown: HashSet<u64>,
    /// How often each change without a serial number was asked for and has not reached a node.
    pub(crate) asked: HashMap<(&'static str, Vec<u8>), u64>,
    /// How often each key that is asked for once has reached a node.
    pub(crate) reads: HashMap<Vec<u8>, u64>,
    /// Larger values, in bytes, are streamed.
    pub(crate) bulk_above: usize,
    /// Misses and errors that only a lack of room explains, or of a connection for a large value: the core has counted
    /// as many.
    pub(crate) without_room: u64,
    /// Every ring so far; the last one is in use.
    pub(crate) rings: Vec<Arc<Topology>>,
    /// `--on-node-down=error`.
    pub(crate) reads_fail: bool,
    /// What clients were told, by verb and key.
    pub(crate) claims: HashMap<(&'static str, Vec<u8>), u64>,
    pub(crate) next_serial: u64,
    /// Large values that may still be written, and asked for.
    pub(crate) large_writes: usize,
    pub(crate) large_reads: usize,
    /// Reads with a long line that may still be made.
    pub(crate) long_reads: usize,
    /// Serial numbers of what was stored without an answer by those who do nothing else.
    pub(crate) loaded: Vec<u64>,
    pub(crate) flushes: bool,
    /// Clients that the core closed for not reading.
    pub(crate) too_slow: bool,
}

impl Facts {
    pub(super) fn all_nodes(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// The nodes a key has lived on since so many rings ago were in use: what was asked since went
    /// to one of them.
    pub(super) fn owners(&self, key: &[u8], ring: usize) -> Vec<usize> {
        let mut owners: Vec<usize> = self.rings[ring..].iter().map(|ring| owner(ring, key)).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// The node a key has lived on all the time.
    pub(super) fn only_owner(&self, key: &[u8], ring: usize) -> Option<usize> {
        match *self.owners(key, ring) {
            [node] => Some(node),
            _ => None,
        }
    }

    /// Whether a line says that a node before 1.6 would have to know the meta commands.
    pub(super) fn lacks_meta(&self, line: &[u8]) -> bool {
        let text = show(line);
        let named = text.split_once(" needs memcached 1.6 at node ");
        named.is_some_and(|(what, name)| {
            (what.starts_with("CLIENT_ERROR ") || what == "SERVER_ERROR proxy: the request")
                && self.nodes[number_of(name)].version.starts_with("1.5")
        })
    }

    /// Whether a node may have been unreachable since a moment.
    pub(super) fn restless(&self, node: usize, since: u64) -> bool {
        self.last_fault[node].is_some_and(|fault| fault >= since)
    }

    /// Whether a node may have had a connection that was new since a moment.
    pub(super) fn unproven(&self, node: usize, since: u64) -> bool {
        self.restless(node, since) || self.last_join[node].is_some_and(|join| join >= since)
    }

    /// Whether a node may have let a request wait for its answer longer than the time-out.
    pub(super) fn late(&self, node: usize, since: u64) -> bool {
        self.last_late[node].is_some_and(|at| at >= since + self.request_timeout)
    }

    /// Whether a request may have waited to be sent to a node longer than the time-out.
    pub(super) fn stuck(&self, node: usize, since: u64) -> bool {
        self.last_stuck[node].is_some_and(|at| at >= since + self.queue_timeout)
    }

    /// Whether a request may have waited longer than the time-out for a node to say whether it speaks the binary protocol.
    pub(super) fn in_doubt(&self, node: usize, since: u64) -> bool {
        self.last_doubt[node].is_some_and(|at| at >= since + self.queue_timeout)
    }

    /// Whether a node that was asked for a key may have been unreachable, or slow.
    pub(super) fn shaky(&self, key: &[u8], head: &Expected) -> bool {
        let since = head.asked;
        let excused = |node| self.restless(node, since) || self.late(node, since) || self.stuck(node, since);
        self.owners(key, head.ring).iter().any(|node| excused(*node))
    }

    /// Looks at what has reached a node.
    pub(crate) fn look(&mut self, node: usize) {
        for sight in std::mem::take(&mut self.nodes[node].ledger.seen) {
            match sight {
                Sight::Serial(serial) => {
                    assert!(self.reached.insert(serial), "change {serial} has reached a node twice");
                    assert!(!self.unsent.contains(&serial), "change {serial} was sent after all");
                }
                Sight::Change(what, key) => {
                    let left = self.asked.get_mut(&(what, key.clone())).filter(|left| **left > 0);
                    let Some(left) = left else { panic!("{what} {} has reached a node too often", show(&key)) };
                    *left -= 1;
                }
                Sight::Once(key) => {
                    let seen = self.reads.entry(key.clone()).or_insert(0);
                    *seen += 1;
                    assert!(*seen <= 2, "a read of {} has reached a node {seen} times", show(&key));
                }
            }
        }
    }

    /// Counts what a client was told about a key, which cannot be more than what happened.
    pub(super) fn claim(&mut self, what: &'static str, key: &[u8]) {
        let entry = (what, key.to_vec());
        let done: u64 = self.nodes.iter().filter_map(|node| node.ledger.done.get(&entry)).sum();
        let claims = self.claims.entry(entry).or_insert(0);
        *claims += 1;
        assert!(*claims <= done, "a false {what} for {}", show(key));
    }
}

/// The number of the node a key lives on in one ring.
pub(crate) fn owner(ring: &Topology, key: &[u8]) -> usize {
    number_of(&ring.nodes()[usize::from(ring.route(key).0)].name)
}

/// The number in `node-2:11211`.
pub(crate) fn number_of(name: &str) -> usize {
    name["node-".len()..name.len() - ":11211".len()].parse().unwrap()
}
