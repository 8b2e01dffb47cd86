//! `slipring detect`: which placement put the keys where the nodes hold them now. Reads only.
//!
//! Each node is asked on a connection of its own which keys it holds (`dump.rs`); then every placement is asked where it
//! would put them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::counted;
use super::dump::{Held, Read};
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
    /// The best first; of equal ones those with the given order of the nodes, then in the order of the presets.
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
        let mut candidates: Vec<Placement> =
            Placement::all().into_iter().map(|candidate| candidate.with_names_of(configured)).collect();
        // A preset that is named, too, keeps its rank: the same keys get the same recommendation.
        for named in named {
            match candidates.iter_mut().find(|candidate| candidate.to_string() == named.to_string()) {
                Some(candidate) => *candidate = (*named).clone(),
                None => candidates.push((*named).clone()),
            }
        }
        let mut matches: Vec<Match> =
            candidates.into_iter().filter_map(|placement| Match::of(placement, held, nodes)).collect();
        matches.sort_by_key(|found| (std::cmp::Reverse(found.keys), found.order.is_some()));
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

    /// The order of the nodes in which this placement explains at least this share of the keys (0 to 1), if it is not the
    /// given one, and the share.
    #[must_use]
    pub fn in_another_order(&self, placement: &Placement, least: f64) -> Option<(String, f64)> {
        let found = self.matches.iter().find(|found| found.placement.to_string() == placement.to_string())?;
        let order = found.order.as_ref().filter(|_| self.share(found) >= least)?;
        Some((listed(order), self.share(found)))
    }

    /// Whether a placement explains where the keys are.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        self.plausible().is_some()
    }

    /// The first match, if it explains where the keys are.
    fn plausible(&self) -> Option<&Match> {
        self.matches.first().filter(|best| self.share(best) >= PLAUSIBLE)
    }

    /// For people: what the read nodes tell when those that could not be read (`unread`) are left out of the list, where
    /// that explains the keys better: the client may not know them.
    #[must_use]
    pub fn report_without(&self, unread: &[String]) -> Option<String> {
        let best = self.plausible().filter(|_| self.holders > 1 && self.keys >= FEW)?;
        let order = best.order.as_ref().map_or_else(String::new, |order| format!(" --node-order {}", listed(order)));
        Some(format!(
            "without {}: {}{order} puts {} of these keys where they are. If the client does not have {} in its list, run \
             detect without {}\n",
            unread.join(", "),
            best.placement,
            percent(self.share(best)),
            if unread.len() == 1 { "that node" } else { "those nodes" },
            if unread.len() == 1 { "it" } else { "them" },
        ))
    }

    /// For people: the best, the next best, and the flags to use; `unread`: the nodes that could not be read whole.
    #[must_use]
    pub fn report(&self, nodes: usize, unread: &[String]) -> String {
        let Some(best) = self.matches.first() else { return "no placement can be built for these nodes\n".to_owned() };
        if nodes == 1 {
            return "one node holds every key: every placement fits\n".to_owned();
        }
        let keys = counted(self.keys, "key");
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
        if self.plausible().is_none() {
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
        if !unread.is_empty() {
            let _ = writeln!(
                text,
                "slipring could not read all keys of {}: a client may have put those by another placement",
                unread.join(", ")
            );
        }
        let is_certain = unread.is_empty() && !self.tell_little(nodes);
        let _ = write!(text, "{}: --placement {}", if is_certain { "use" } else { "uncertain" }, best.placement);
        if let Some(order) = &best.order {
            let _ = write!(text, " --node-order {}", listed(order));
        }
        text.push('\n');
        if best.order.is_some() {
            text.push_str(
                "this placement depends on the order of the nodes, and the client has them in another order than the list \
                 here: give --node-order, too, or list the nodes in that order\n",
            );
        }
        if !best.placement.limits().is_empty() {
            let _ = writeln!(text, "its limits: {}", best.placement.limits());
        }
        text
    }
}

/// As `--node-order` takes it.
fn listed(order: &[Arc<Node>]) -> String {
    order.iter().map(|node| node.listed()).collect::<Vec<_>>().join(",")
}

/// What was read of each node, for people.
#[must_use]
pub fn readings(reads: &[Read]) -> String {
    let width = reads.iter().map(|read| read.node.len()).max().unwrap_or(0);
    let mut text = "read only; nothing is written to the nodes\n".to_owned();
    for read in reads {
        let count = match (read.is_unread, read.keys.len()) {
            (true, 0) => "not read".to_owned(),
            (_, count) => counted(count, "key"),
        };
        let _ = write!(text, "{:width$}  {count}", read.node);
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
        let order = told_order(&topology, held, nodes);
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

/// The order of the nodes by which most keys of each number lie where they are. Numbers that no key tells of, such as that
/// of a node that could not be read, go to the nodes that are left, in the given order.
fn told_order(topology: &Topology, held: &[Held], nodes: &[Arc<Node>]) -> Vec<Arc<Node>> {
    let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for Held { key, node } in held {
        *counts.entry((usize::from(topology.route(key).0), usize::from(node.0))).or_default() += 1;
    }
    let mut pairs: Vec<((usize, usize), usize)> = counts.into_iter().collect();
    pairs.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut order: Vec<Option<&Arc<Node>>> = vec![None; nodes.len()];
    let mut left: Vec<Option<&Arc<Node>>> = nodes.iter().map(Some).collect();
    for ((number, node), _) in pairs {
        if let (Some(place @ None), Some(node @ Some(_))) = (order.get_mut(number), left.get_mut(node)) {
            *place = node.take();
        }
    }
    let mut left = left.into_iter().flatten();
    order.into_iter().filter_map(|place| place.or_else(|| left.next())).map(Arc::clone).collect()
}

/// The same holdings by the indices of another order.
pub(super) fn renumbered(held: &[Held], nodes: &[Arc<Node>], order: &[Arc<Node>]) -> Vec<Held> {
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
        let report = findings.report(nodes.len(), &[]);
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
        let report = Findings::of(&held, &nodes, &[], &Placement::default()).report(nodes.len(), &["b".to_owned()]);
        assert!(report.contains("\nuncertain: --placement pymemcache\n") && !report.contains("use:"), "{report}");
        assert!(report.contains("could not read all keys of b: "), "{report}");
    }

    #[test]
    fn the_order_is_found_out_though_a_node_was_not_read() {
        for placement in ["libmemcached", "memcached-proxy", "mcrouter"] {
            let (mut held, nodes) = written(placement, &[2, 0, 3, 1], 1000);
            held.retain(|held| held.node != NodeIndex(3));
            let report = Findings::of(&held, &nodes, &[], &Placement::default()).report(4, &["d".to_owned()]);
            let flag = "--node-order 10.0.0.4:11211,10.0.0.2:11211,10.0.0.5:11211,10.0.0.3:11211\n";
            assert!(report.contains(&format!("uncertain: --placement {placement} {flag}")), "{report}");
        }
    }

    #[test]
    fn what_is_named_does_not_change_what_is_recommended() {
        let (held, nodes) = written("gomemcache", &[1, 0, 2], 1000);
        let report = |named: &[&Placement]| Findings::of(&held, &nodes, named, &Placement::default()).report(3, &[]);
        for named in ["gomemcache", "modula", "ring"] {
            assert_eq!(report(&[&named.parse().unwrap()]), report(&[]), "{named}");
        }
        assert!(report(&[]).contains("another order than the list"), "{}", report(&[]));
    }

    #[test]
    fn nodes_that_the_client_does_not_have_are_left_out_on_trial() {
        let (held, read) = written("pymemcache", &[0, 1, 2], 1000);
        let mut all = read.clone();
        all.push(Arc::new(Node::new("10.0.0.9", 11211, 1)));
        let unread = ["10.0.0.9:11211".to_owned()];
        let of = |nodes: &[Arc<Node>]| Findings::of(&held, nodes, &[], &Placement::default());
        assert!(of(&all).plausible().is_none());
        let told = of(&read).report_without(&unread).unwrap();
        assert!(told.starts_with("without 10.0.0.9:11211: pymemcache puts 100.00 % of these keys"), "{told}");
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
        let report = |held: &[Held]| Findings::of(held, &nodes, &[], &Placement::default()).report(nodes.len(), &[]);
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
            let report = findings.report(nodes.len(), &[]);
            assert_eq!((report.contains("use:"), !findings.tell_little(3)), (certain, certain), "{report}");
        }
    }

    #[test]
    fn what_nothing_explains_is_said() {
        let (mut held, nodes) = written("pymemcache", &[0, 1, 2], 999);
        for held in &mut held {
            held.node = NodeIndex(u16::try_from((Topology::hash(&held.key) >> 8) % 3).unwrap());
        }
        let report = Findings::of(&held, &nodes, &[], &Placement::default()).report(3, &[]);
        assert!(report.contains("none of them explains where the keys are"), "{report}");
        assert!(!report.contains("use:"), "{report}");
    }

    #[test]
    fn a_placement_is_verified_in_the_given_order_alone() {
        let (held, nodes) = written("gomemcache", &[1, 0, 2], 1000);
        let placement: Placement = "gomemcache".parse().unwrap();
        let findings = Findings::of(&held, &nodes, &[&placement], &Placement::default());
        assert!(findings.of_placement(&placement, &held, &nodes) < 0.5);
        let order = "10.0.0.3:11211,10.0.0.2:11211,10.0.0.4:11211".to_owned();
        assert_eq!(findings.in_another_order(&placement, 1.0), Some((order, 1.0)));
        assert_eq!(findings.in_another_order(&"libmemcached".parse().unwrap(), 0.9), None);
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
