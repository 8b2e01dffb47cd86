//! What a change of nodes or of the placement moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hashes::KeyHash;
use super::scheme::Map;
use super::{NodeIndex, Topology};

/// Longest cycle of remainders that is walked through.
const LONGEST_CYCLE: u64 = 1 << 22;

/// What a change moves.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The share of keys whose node is another, 0 to 1.
    pub moved: f64,
    /// The nodes of both, first those before, by their order.
    pub rows: Vec<Row>,
    /// How it is known.
    pub basis: Basis,
}

/// One node before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The node's identity.
    pub name: Arc<str>,
    /// Its share of all keys before, 0 to 1; `None` when it is new.
    pub before: Option<f64>,
    /// Its share after; `None` when it has left.
    pub after: Option<f64>,
}

/// How a [`Plan`] is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// From the placements themselves, for an even hash.
    Exact,
    /// By so many generated keys.
    Samples(u32),
    /// By so many keys of the user.
    Keys(u64),
}

/// Weights of pairs of old and new owner, by the numbers of the rows.
#[derive(Default)]
struct Flows {
    pairs: BTreeMap<(NodeIndex, NodeIndex), f64>,
}

// === impl Plan ===

impl Plan {
    /// What moves between two placements of all keys; by so many generated keys where they cannot be written down.
    #[must_use]
    pub fn between(before: &Topology, after: &Topology, samples: u32) -> Self {
        let exact = before.scheme.map().zip(after.scheme.map()).and_then(|(before, after)| exact(&before, &after));
        match exact {
            Some(flows) => flows.plan(before, after, Basis::Exact),
            None => {
                let keys = (0..samples).map(|i| format!("key:{i}").into_bytes());
                let (flows, _) = counted(before, after, keys);
                flows.plan(before, after, Basis::Samples(samples))
            }
        }
    }

    /// What moves of these keys.
    #[must_use]
    pub fn of_keys(before: &Topology, after: &Topology, keys: impl Iterator<Item = Vec<u8>>) -> Self {
        let (flows, count) = counted(before, after, keys);
        flows.plan(before, after, Basis::Keys(count))
    }

    /// Whether every key stays on its node.
    #[must_use]
    pub fn moves_nothing(&self) -> bool {
        self.moved <= 0.0
    }

    /// Whether keys move between nodes that are there before and after, and none came or left: with the same placement it is
    /// their order, or a weight.
    #[must_use]
    pub fn is_reordered(&self) -> bool {
        !self.moves_nothing() && self.rows.iter().all(|row| row.before.is_some() && row.after.is_some())
    }

    /// The share that must move, whatever the placement: what the nodes gain.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.rows.iter().map(|row| (row.after.unwrap_or(0.0) - row.before.unwrap_or(0.0)).max(0.0)).sum()
    }
}

fn counted(before: &Topology, after: &Topology, keys: impl Iterator<Item = Vec<u8>>) -> (Flows, u64) {
    let mut flows = Flows::default();
    let mut count = 0;
    for key in keys {
        count += 1;
        flows.add(before.route(&key), after.route(&key), 1.0);
    }
    (flows, count)
}

/// Both by the same hash of the same part of a key, so that each hash has a place in both.
fn exact(before: &Map, after: &Map) -> Option<Flows> {
    match (before, after) {
        (Map::Circle(hash, part, old), Map::Circle(other, other_part, new)) if (hash, part) == (other, other_part) => {
            circles(*hash, old, new)
        }
        (Map::Remainders(hash, part, old), Map::Remainders(other, other_part, new))
            if (hash, part) == (other, other_part) =>
        {
            remainders(*hash, old, new)
        }
        _ => None,
    }
}

/// Walks along both circles from end of an arc to end of an arc.
fn circles(hash: KeyHash, old: &[(u32, NodeIndex)], new: &[(u32, NodeIndex)]) -> Option<Flows> {
    let range = hash.range().unwrap_or(1 << 32).min(1 << 32);
    let (old_first, new_first) = (old.first()?.1, new.first()?.1);
    let mut flows = Flows::default();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut begin = 0;
    while begin < range {
        let end = |next: Option<&&(u32, NodeIndex)>| next.map_or(u64::MAX, |(point, _)| u64::from(*point) + 1);
        let owner = |next: Option<&&(u32, NodeIndex)>, first: NodeIndex| next.map_or(first, |(_, node)| *node);
        let (old_end, new_end) = (end(old.peek()), end(new.peek()));
        let stop = old_end.min(new_end).min(range);
        flows.add(owner(old.peek(), old_first), owner(new.peek(), new_first), (stop - begin) as f64);
        begin = stop;
        if old_end == stop {
            old.next();
        }
        if new_end == stop {
            new.next();
        }
    }
    Some(flows)
}

/// Walks through one cycle of both remainders.
fn remainders(hash: KeyHash, old: &[NodeIndex], new: &[NodeIndex]) -> Option<Flows> {
    let (a, b) = (old.len() as u64, new.len() as u64);
    let cycle = a / greatest_common_divisor(a, b) * b;
    let length = hash.range().map_or(cycle, |range| if range <= LONGEST_CYCLE { range } else { cycle });
    if length > LONGEST_CYCLE {
        return None;
    }
    let mut flows = Flows::default();
    let pairs = old.iter().cycle().zip(new.iter().cycle());
    for ((old, new), _) in pairs.zip(0..length) {
        flows.add(*old, *new, 1.0);
    }
    Some(flows)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { greatest_common_divisor(b, a % b) }
}

// === impl Flows ===

impl Flows {
    fn add(&mut self, old: NodeIndex, new: NodeIndex, weight: f64) {
        *self.pairs.entry((old, new)).or_default() += weight;
    }

    fn plan(&self, before: &Topology, after: &Topology, basis: Basis) -> Plan {
        let total: f64 = self.pairs.values().sum();
        let name = |topology: &Topology, index: NodeIndex| {
            topology.nodes().get(usize::from(index.0)).map(|node| Arc::clone(&node.name))
        };
        let mut rows: Vec<Row> = Vec::new();
        for node in before.nodes() {
            rows.push(Row { name: Arc::clone(&node.name), before: Some(0.0), after: None });
        }
        for node in after.nodes() {
            match rows.iter_mut().find(|row| row.name == node.name) {
                Some(row) => row.after = Some(0.0),
                None => rows.push(Row { name: Arc::clone(&node.name), before: None, after: Some(0.0) }),
            }
        }
        let mut moved = 0.0;
        for (&(old, new), weight) in &self.pairs {
            let share = if total > 0.0 { weight / total } else { 0.0 };
            let (old, new) = (name(before, old), name(after, new));
            if old != new {
                moved += share;
            }
            for row in &mut rows {
                if old.as_ref() == Some(&row.name) {
                    row.before = row.before.map(|sum| sum + share);
                }
                if new.as_ref() == Some(&row.name) {
                    row.after = row.after.map(|sum| sum + share);
                }
            }
        }
        Plan { moved, rows, basis }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Node, Placement};

    const SAMPLES: u32 = 100_000;

    fn topology(placement: &str, hosts: &[&str]) -> Topology {
        let placement: Placement = placement.parse().unwrap();
        let nodes = hosts.iter().map(|host| Arc::new(Node::new(host, 11211, 1))).collect();
        Topology::placed(1, nodes, &Arc::new(placement)).unwrap()
    }

    /// What is computed from the placements is what the keys do.
    #[test]
    fn the_exact_plan_is_that_of_very_many_keys() {
        for (before, after) in [
            ("ring", "ring"),
            ("gomemcache", "gomemcache"),
            ("python-memcached", "python-memcached"),
            ("twemproxy,hash=md5", "spymemcached-ketama"),
            ("dalli", "dalli"),
        ] {
            let (before, after) = (topology(before, &["a", "b", "c"]), topology(after, &["a", "b", "c", "d"]));
            let plan = Plan::between(&before, &after, SAMPLES);
            assert_eq!(plan.basis, Basis::Exact, "{}", before.placement());
            let keys = (0..100_000).map(|i| format!("user:{i}:profile").into_bytes());
            let counted = Plan::of_keys(&before, &after, keys);
            assert!((plan.moved - counted.moved).abs() < 0.01, "{}: {plan:?} {counted:?}", before.placement());
            for (one, other) in plan.rows.iter().zip(&counted.rows) {
                assert!((one.after.unwrap() - other.after.unwrap()).abs() < 0.01, "{plan:?} {counted:?}");
            }
            for (row, index) in plan.rows.iter().zip(0..) {
                assert!((row.after.unwrap() - after.share(NodeIndex(index))).abs() < 1e-9, "{plan:?}");
            }
        }
    }

    #[test]
    fn what_has_no_map_is_sampled_and_what_must_move_is_known() {
        let (before, after) = (topology("pymemcache", &["a", "b", "c"]), topology("pymemcache", &["a", "b", "d", "e"]));
        let plan = Plan::between(&before, &after, SAMPLES);
        assert_eq!(plan.basis, Basis::Samples(SAMPLES));
        // A key of a stays there if a is the highest of all five.
        assert!((plan.moved - 0.6).abs() < 0.01 && (plan.least() - 0.5).abs() < 0.01, "{plan:?}");
        assert_eq!(
            plan.rows.iter().map(|row| &*row.name).collect::<Vec<_>>(),
            ["a:11211", "b:11211", "c:11211", "d:11211", "e:11211"]
        );
        assert_eq!((plan.rows[2].after, plan.rows[3].before), (None, None));
        let modulo =
            Plan::between(&topology("gomemcache", &["a", "b", "c"]), &topology("gomemcache", &["a", "b"]), SAMPLES);
        assert!((modulo.moved - 2.0 / 3.0).abs() < 1e-6, "{modulo:?}");
    }
}
