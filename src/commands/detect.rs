//! `slipring detect`: which placement put the keys where the nodes hold them now. Reads only.
//!
//! Each node is asked on a connection of its own which keys it holds (`dump.rs`); then every placement is asked where it
//! would put them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use super::dump::{Held, Read};
use super::plan::grouped;
use crate::routing::{Node, NodeIndex, Placement, Topology};

/// A placement that explains less than this share of the keys is none that was used.
const PLAUSIBLE: f64 = 0.9;

/// How well a placement explains where the keys are.
#[derive(Debug, Clone)]
pub struct Match {
    /// The placement.
    pub placement: Placement,
    /// Keys that it puts where they are.
    pub keys: usize,
    /// The order of the nodes with which it does, if that is not the given one.
    pub order: Option<Vec<Arc<Node>>>,
    /// Equal for matches that place alike.
    fingerprint: u64,
}

/// Fewer keys than this may lie by chance where a placement puts them: there are dozens of placements, and few nodes.
const FEW: usize = 30;

/// What was found.
#[derive(Debug)]
pub struct Findings {
    /// The best first; of equal ones in the order of the presets.
    pub matches: Vec<Match>,
    /// Keys that were compared.
    pub keys: usize,
    /// Nodes that hold them.
    pub holders: usize,
}

// === impl Findings ===

impl Findings {
    /// Tries every placement, and those that the user names.
    #[must_use]
    pub fn of(held: &[Held], nodes: &[Arc<Node>], named: &[&Placement], configured: &Placement) -> Self {
        let mut candidates: Vec<Placement> = Placement::all();
        candidates.retain(|candidate| named.iter().all(|named| named.to_string() != candidate.to_string()));
        let own = named.iter().map(|placement| (*placement).clone());
        let all = candidates.into_iter().map(|candidate| candidate.with_names_of(configured)).chain(own);
        let mut matches: Vec<Match> = all.filter_map(|placement| Match::of(placement, held, nodes)).collect();
        matches.sort_by_key(|found| std::cmp::Reverse(found.keys));
        let holders: BTreeSet<NodeIndex> = held.iter().map(|held| held.node).collect();
        Self { matches, keys: held.len(), holders: holders.len() }
    }

    /// Too few keys, or those of one node alone: placements that have nothing in common would explain them as well.
    #[must_use]
    pub const fn tell_little(&self, nodes: usize) -> bool {
        nodes > 1 && (self.keys < FEW || self.holders < 2)
    }

    fn share(&self, found: &Match) -> f64 {
        found.keys as f64 / self.keys.max(1) as f64
    }

    /// The share of keys that a placement explains, 0 to 1, with the nodes in the given order.
    #[must_use]
    pub fn of_placement(&self, placement: &Placement, held: &[Held], nodes: &[Arc<Node>]) -> f64 {
        let found = Match::in_given_order(placement.clone(), held, nodes);
        found.map_or(0.0, |found| self.share(&found))
    }

    /// For people: the best, the next best, and the flags to use; `is_whole`: every node was read.
    #[must_use]
    pub fn report(&self, nodes: usize, is_whole: bool) -> String {
        let Some(best) = self.matches.first() else { return "no placement can be built for these nodes\n".to_owned() };
        if nodes == 1 {
            return "one node holds every key: every placement fits\n".to_owned();
        }
        let keys = counted(self.keys);
        let equals = self.matches.iter().skip(1).filter(|other| other.keys == best.keys);
        let (alike, as_good): (Vec<&Match>, Vec<&Match>) =
            equals.partition(|other| other.fingerprint == best.fingerprint);
        let next = self.matches.iter().find(|other| other.keys < best.keys);
        let next = next
            .map_or_else(String::new, |next| format!("; next best {} ({})", percent(self.share(next)), next.placement));
        let mut text = format!("{}: {} of {keys}{next}\n", best.placement, percent(self.share(best)));
        if self.holders == 1 {
            text.push_str(
                "all keys came from one node: a placement that puts nearly all keys there fits them as well. Find out why \
                 the other nodes listed none\n",
            );
        } else if self.keys < FEW {
            let _ = writeln!(text, "with fewer than {FEW} keys a placement may fit by chance");
        }
        if self.share(best) < PLAUSIBLE {
            text.push_str(
                "none of them explains where the keys are. Several clients that place differently? Nodes that the client \
                 knows by other names (--node-name-format, host:port/name in the list) or with weights? A key prefix that \
                 it does not hash (--placement NAME,strip-prefix=…)? Failover for a while? A list of nodes that is not the \
                 client's?\n",
            );
            return text;
        }
        for (heading, matches) in [("the same place of every key", alike), ("as good on these keys", as_good)] {
            if !matches.is_empty() {
                let names: Vec<String> = matches.iter().map(|other| other.placement.to_string()).collect();
                let _ = writeln!(text, "{heading}: {}", names.join(" "));
            }
        }
        let is_certain = is_whole && !self.tell_little(nodes);
        let _ = write!(text, "{}: --placement {}", if is_certain { "use" } else { "uncertain" }, best.placement);
        if let Some(order) = &best.order {
            let names: Vec<String> = order.iter().map(|node| node.listed()).collect();
            let _ = write!(text, " --node-order {}", names.join(","));
        }
        text.push('\n');
        if !best.placement.limits().is_empty() {
            let _ = writeln!(text, "its limits: {}", best.placement.limits());
        }
        text
    }
}

/// A number of keys in words.
fn counted(keys: usize) -> String {
    let plural = if keys == 1 { "" } else { "s" };
    format!("{} key{plural}", grouped(keys as u64))
}

/// What was read of each node, for people.
#[must_use]
pub fn readings(reads: &[Read]) -> String {
    let width = reads.iter().map(|read| read.node.len()).max().unwrap_or(0);
    let mut text = "read only; nothing is written to the nodes\n".to_owned();
    for read in reads {
        let _ = write!(text, "{:width$}  {}", read.node, counted(read.keys.len()));
        match &read.remark {
            Some(remark) => writeln!(text, "; {remark}"),
            None => writeln!(text),
        }
        .unwrap_or_default();
    }
    text
}

// === impl Match ===

impl Match {
    /// The better of the given order and the one that the keys themselves tell of, where the order counts.
    fn of(placement: Placement, held: &[Held], nodes: &[Arc<Node>]) -> Option<Self> {
        let given = Self::in_given_order(placement, held, nodes)?;
        if !given.placement.counts_order() || given.keys == held.len() {
            return Some(given);
        }
        let topology = Topology::placed(1, nodes.to_vec(), &Arc::new(given.placement.clone())).ok()?;
        let Some(order) = told_order(&topology, held, nodes) else { return Some(given) };
        let Some(told) = Self::in_given_order(given.placement.clone(), &renumbered(held, nodes, &order), &order) else {
            return Some(given);
        };
        Some(if told.keys > given.keys { Self { order: Some(order), ..told } } else { given })
    }

    fn in_given_order(placement: Placement, held: &[Held], nodes: &[Arc<Node>]) -> Option<Self> {
        let topology = Topology::placed(1, nodes.to_vec(), &Arc::new(placement.clone())).ok()?;
        let keys = held.iter().filter(|held| topology.route(&held.key) == held.node).count();
        Some(Self { placement, keys, order: None, fingerprint: topology.fingerprint() })
    }
}

/// The order of the nodes by which most keys of each number lie where they are, if each node has one number.
fn told_order(topology: &Topology, held: &[Held], nodes: &[Arc<Node>]) -> Option<Vec<Arc<Node>>> {
    let mut counts = vec![vec![0_usize; nodes.len()]; nodes.len()];
    for Held { key, node } in held {
        let row = counts.get_mut(usize::from(topology.route(key).0));
        if let Some(count) = row.and_then(|row| row.get_mut(usize::from(node.0))) {
            *count += 1;
        }
    }
    let most = |row: &Vec<usize>| row.iter().enumerate().max_by_key(|(_, count)| **count).map(|(node, _)| node);
    let order: Vec<usize> = counts.iter().filter_map(most).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let whole = sorted.len() == nodes.len();
    whole.then(|| order.iter().filter_map(|node| nodes.get(*node).cloned()).collect())
}

/// The same holdings by the indices of another order.
fn renumbered(held: &[Held], nodes: &[Arc<Node>], order: &[Arc<Node>]) -> Vec<Held> {
    let place = |node: NodeIndex| {
        let name = nodes.get(usize::from(node.0)).map(|node| &node.name);
        let at = order.iter().position(|other| Some(&other.name) == name);
        at.and_then(|at| u16::try_from(at).ok()).map_or(node, NodeIndex)
    };
    held.iter().map(|held| Held { key: held.key.clone(), node: place(held.node) }).collect()
}

/// Two decimals, and never 100 % of what is less.
pub(super) fn percent(share: f64) -> String {
    let hundredths = (share * 10_000.0).floor();
    format!("{:.2} %", hundredths / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<Arc<Node>> {
        (0..count).map(|i| Arc::new(Node::new(&format!("10.0.0.{}", 2 + i), 11211, 1))).collect()
    }

    /// Where these keys are when a client with this placement, and its own order of the nodes, has written them.
    fn written(placement: &str, order: &[usize], keys: usize) -> (Vec<Held>, Vec<Arc<Node>>) {
        let nodes = nodes(order.len());
        let own = order.iter().map(|i| Arc::clone(&nodes[*i])).collect();
        let topology = Topology::placed(1, own, &Arc::new(placement.parse().unwrap())).unwrap();
        let held = (0..keys).map(|i| {
            let key = format!("item:{i}").into_bytes();
            let node = u16::try_from(order[usize::from(topology.route(&key).0)]).unwrap();
            Held { key, node: NodeIndex(node) }
        });
        (held.collect(), nodes)
    }

    fn found(placement: &str, order: &[usize]) -> (Findings, String) {
        let (held, nodes) = written(placement, order, 1000);
        let findings = Findings::of(&held, &nodes, &[], &Placement::default());
        let report = findings.report(nodes.len(), true);
        (findings, report)
    }

    #[test]
    fn each_preset_is_found_and_named_first_or_beside_one_that_places_alike() {
        for placement in Placement::all() {
            let text = placement.to_string();
            let (held, _) = written(&text, &[0, 1, 2], 1000);
            let most = (0..3).map(|node| held.iter().filter(|held| held.node.0 == node).count()).max().unwrap();
            if most > 800 {
                // Such as 15 bits of hash on a ring of 32: a placement so uneven cannot be told from others.
                continue;
            }
            let (findings, report) = found(&text, &[0, 1, 2]);
            assert_eq!(findings.matches[0].keys, 1000, "{text}: {report}");
            let named = report.lines().take(3).any(|line| line.split([' ', ':']).any(|word| word == text));
            assert!(named, "{text}: {report}");
        }
        let (_, report) = found("pymemcache", &[0, 1, 2]);
        assert!(report.starts_with("pymemcache: 100.00 % of 1,000 keys; next best"), "{report}");
        assert!(report.contains("use: --placement pymemcache\n"), "{report}");
    }

    #[test]
    fn what_some_nodes_tell_alone_is_uncertain() {
        let (held, nodes) = written("pymemcache", &[0, 1, 2], 1000);
        let report = Findings::of(&held, &nodes, &[], &Placement::default()).report(nodes.len(), false);
        assert!(report.contains("\nuncertain: --placement pymemcache\n") && !report.contains("use:"), "{report}");
    }

    #[test]
    fn the_order_of_the_nodes_is_found_out() {
        for placement in ["libmemcached", "python-memcached", "memcached-proxy", "mcrouter"] {
            let (_, report) = found(placement, &[2, 0, 3, 1]);
            assert!(report.starts_with(&format!("{placement}: 100.00 %")), "{report}");
            let flag = "--node-order 10.0.0.4:11211,10.0.0.2:11211,10.0.0.5:11211,10.0.0.3:11211";
            assert!(report.contains(flag), "{report}");
        }
    }

    #[test]
    fn keys_of_one_node_alone_are_said_to_tell_little() {
        const SAID: &str = "all keys came from one node";
        let (mut held, nodes) = written("pymemcache", &[0, 1, 2], 1000);
        let report = |held: &[Held]| Findings::of(held, &nodes, &[], &Placement::default()).report(nodes.len(), true);
        held.retain(|held| held.node != NodeIndex(0));
        assert!(!report(&held).contains(SAID), "{}", report(&held));
        held.retain(|held| held.node == NodeIndex(2));
        assert!(report(&held).contains(SAID), "{}", report(&held));
        assert!(!report(&held).contains("use:"), "{}", report(&held));
    }

    #[test]
    fn few_keys_are_said_to_tell_little() {
        for (keys, certain) in [(1, false), (FEW - 1, false), (FEW, true)] {
            let (held, nodes) = written("pymemcache", &[0, 1, 2], keys);
            let findings = Findings::of(&held, &nodes, &[], &Placement::default());
            let report = findings.report(nodes.len(), true);
            assert_eq!((report.contains("use:"), !findings.tell_little(3)), (certain, certain), "{report}");
        }
    }

    #[test]
    fn what_nothing_explains_is_said() {
        let (mut held, nodes) = written("pymemcache", &[0, 1, 2], 999);
        for held in &mut held {
            held.node = NodeIndex(u16::try_from((Topology::hash(&held.key) >> 8) % 3).unwrap());
        }
        let report = Findings::of(&held, &nodes, &[], &Placement::default()).report(3, true);
        assert!(report.contains("none of them explains where the keys are"), "{report}");
        assert!(!report.contains("use:"), "{report}");
    }

    #[test]
    fn a_placement_is_verified_in_the_given_order_alone() {
        let (held, nodes) = written("gomemcache", &[1, 0, 2], 1000);
        let placement: Placement = "gomemcache".parse().unwrap();
        let findings = Findings::of(&held, &nodes, &[&placement], &Placement::default());
        assert!(findings.of_placement(&placement, &held, &nodes) < 0.5);
        assert!(
            (findings.of_placement(
                &placement,
                &renumbered(&held, &nodes, &[1, 0, 2].map(|i| Arc::clone(&nodes[i]))),
                &[1, 0, 2].map(|i| Arc::clone(&nodes[i]))
            ) - 1.0)
                .abs()
                < 1e-9
        );
        assert_eq!(percent(0.999_999), "99.99 %");
    }
}
