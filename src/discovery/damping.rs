//! Absence is not removal: what a source says becomes a ring only by these rules. A pure function of events and time.
//!
//! - What is listed is in the ring at once; a node that is listed again is kept, whatever was said in between.
//! - An operator (a file, SIGHUP) is believed at once and in full.
//! - A node absent from a *higher version* of the discovery endpoint goes at once when a probe fails, and after the
//!   hold while it still answers. Other absences wait for the whole hold: a restarting pod is absent *and* silent.
//! - The ring never falls below half of its largest size of the last ten minutes, unless an operator, or a higher
//!   version together with failed probes, says so.
//! - The ring is never emptied (invariant E).
//! - Where the placement counts nodes, discovery appends what is new and keeps the order it knows: two answers may list
//!   the same nodes in two orders. An operator's order counts.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::order::rank;
use crate::routing::Node;

/// How long the ring's size is remembered for the floor of half of it.
pub const MEMORY: Duration = Duration::from_secs(600);

/// How far a list may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Somebody meant it: a file, SIGHUP, the first answer after a list that was only to bridge the start.
    Operator,
    /// A higher version of the discovery endpoint.
    Version,
    /// DNS, and whatever else a discovery endpoint says.
    Hearsay,
}

/// A node that is no longer listed and still in the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its identity.
    pub node: String,
    /// Since when it is not listed.
    pub missing_at: Instant,
    /// What the last probe found; `None` before the first.
    pub answers: Option<bool>,
    /// When it is dropped, if nothing changes; `None` while the ring would become too small.
    pub dropped_at: Option<Instant>,
}

/// Why and how the ring changed, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change(pub String);

/// The ring as it should be, and what is about to leave it.
#[derive(Debug)]
pub struct Damping {
    hold: Duration,
    ring: Vec<Node>,
    /// The order of the last list: the ring takes it once nothing is pending.
    listed: Vec<Node>,
    /// Only an operator changes the order.
    keep_order: bool,
    /// Nodes that come first, in this order.
    pinned: Vec<Node>,
    missing: BTreeMap<Arc<str>, Missing>,
    /// Until when the ring had which size; later ones are smaller, for a smaller one before a larger one never counts.
    sizes: VecDeque<(Instant, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    missing_at: Instant,
    by_version: bool,
    answers: Option<bool>,
}

// === impl Pending ===

impl Pending {
    /// For people: `10.0.0.4:11211 missing for 12 s, still answering, dropped in 18 s`.
    #[must_use]
    pub fn text(&self, now: Instant) -> String {
        let probe = match self.answers {
            None => "not yet probed",
            Some(true) => "still answering",
            Some(false) => "not answering",
        };
        let end = match self.dropped_at {
            Some(at) => format!("dropped in {} s", at.saturating_duration_since(now).as_secs_f64().ceil()),
            None => "kept, because the ring would fall below half of its size".to_owned(),
        };
        let missing = now.saturating_duration_since(self.missing_at).as_secs();
        format!("{} missing for {missing} s, {probe}, {end}", self.node)
    }
}

// === impl Missing ===

impl Missing {
    /// A higher version and a failed probe agree: the node is gone.
    fn is_gone(self) -> bool {
        self.by_version && self.answers == Some(false)
    }
}

// === impl Damping ===

impl Damping {
    /// A ring without nodes; `hold` is how long a missing node is kept.
    #[must_use]
    pub fn new(hold: Duration) -> Self {
        Self {
            hold,
            ring: Vec::new(),
            listed: Vec::new(),
            keep_order: false,
            pinned: Vec::new(),
            missing: BTreeMap::new(),
            sizes: VecDeque::new(),
        }
    }

    /// The same, with the order of its nodes kept when `keep` is said, but for those that are pinned.
    #[must_use]
    pub fn ordered(self, keep: bool, pinned: Vec<Node>) -> Self {
        Self { keep_order: keep, pinned, ..self }
    }

    /// The ring; empty only before the first list.
    #[must_use]
    pub fn ring(&self) -> &[Node] {
        &self.ring
    }

    /// Takes a list that a source gave. An empty one changes nothing.
    pub fn observe(&mut self, nodes: &[Node], authority: Authority, now: Instant) -> Option<Change> {
        if nodes.is_empty() {
            return None;
        }
        let before = self.ring.clone();
        self.listed = nodes.to_vec();
        let listed: HashMap<&str, &Node> = nodes.iter().map(|node| (&*node.name, node)).collect();
        self.missing.retain(|name, _| !listed.contains_key(&**name));
        for node in &mut self.ring {
            if let Some(current) = listed.get(&*node.name) {
                *node = (*current).clone();
                continue;
            }
            let first = Missing { missing_at: now, by_version: false, answers: None };
            let missing = self.missing.entry(Arc::clone(&node.name)).or_insert(first);
            missing.by_version |= authority == Authority::Version;
        }
        let known: HashSet<&str> = before.iter().map(|node| &*node.name).collect();
        self.ring.extend(nodes.iter().filter(|node| !known.contains(&*node.name)).cloned());
        self.settle(&before, authority, now)
    }

    /// Takes what a probe of a missing node found. Of any other node it says nothing.
    pub fn probed(&mut self, node: &str, answers: bool, now: Instant) -> Option<Change> {
        self.missing.get_mut(node)?.answers = Some(answers);
        self.tick(now)
    }

    /// Drops what is due.
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        let before = self.ring.clone();
        self.settle(&before, Authority::Hearsay, now)
    }

    /// The nodes to probe.
    #[must_use]
    pub fn missing(&self) -> Vec<Node> {
        self.ring.iter().filter(|node| self.missing.contains_key(&node.name)).cloned().collect()
    }

    /// What is missing, oldest first.
    #[must_use]
    pub fn pending(&self, now: Instant) -> Vec<Pending> {
        let mut room = self.ring.len().saturating_sub(self.floor(now));
        let mut pending = Vec::new();
        for (name, missing) in self.by_age() {
            let at = if missing.is_gone() { now } else { missing.missing_at + self.hold };
            let may_go = missing.is_gone() || room > 0;
            room = room.saturating_sub(1);
            pending.push(Pending {
                node: name.to_string(),
                missing_at: missing.missing_at,
                answers: missing.answers,
                dropped_at: may_go.then_some(at),
            });
        }
        pending
    }

    /// When [`tick`](Self::tick) has something to do next.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.pending(now).iter().filter_map(|pending| pending.dropped_at).min()
    }

    /// Drops what may go, and says how the ring now differs from `before`.
    fn settle(&mut self, before: &[Node], authority: Authority, now: Instant) -> Option<Change> {
        self.remember(now);
        let known: HashSet<&str> = before.iter().map(|node| &*node.name).collect();
        let added = self.ring.iter().filter(|node| !known.contains(&*node.name));
        let mut parts: Vec<String> = added.map(|node| format!("{} added", node.name)).collect();
        if authority == Authority::Operator {
            parts.extend(self.missing.keys().map(|name| format!("{name} dropped")));
            self.missing.clear();
        } else {
            self.drop_due(now, &mut parts);
        }
        let takes_order = authority == Authority::Operator || !self.keep_order;
        if takes_order && self.missing.is_empty() && !self.listed.is_empty() {
            self.ring.clone_from(&self.listed);
        }
        self.ring.sort_by_key(|node| rank(node, &self.pinned));
        self.remember(now);
        if self.ring == before {
            return None;
        }
        parts.extend(self.edited(before));
        if parts.is_empty() {
            parts.push("order changed".to_owned());
        }
        Some(Change(parts.join(", ")))
    }

    /// What is told of nodes that are still there, and otherwise than they were.
    fn edited(&self, before: &[Node]) -> Vec<String> {
        let old: HashMap<&str, &Node> = before.iter().map(|node| (&*node.name, node)).collect();
        let mut told = Vec::new();
        for node in &self.ring {
            let Some(old) = old.get(&*node.name) else { continue };
            if old.address() != node.address() {
                told.push(format!("{} moved from {} to {}", node.name, old.address(), node.address()));
            }
            if old.weight != node.weight {
                told.push(format!("weight of {} changed from {} to {}", node.name, old.weight, node.weight));
            }
        }
        told
    }

    fn drop_due(&mut self, now: Instant, why: &mut Vec<String>) {
        let floor = self.floor(now);
        for (name, missing) in self.by_age() {
            let held = now.saturating_duration_since(missing.missing_at) >= self.hold;
            let reason = if missing.is_gone() {
                "absent from a higher version and not answering"
            } else if held && self.ring.len() > floor {
                "missing for the whole hold"
            } else {
                continue;
            };
            if self.ring.len() == 1 {
                return;
            }
            self.missing.remove(&name);
            self.ring.retain(|node| node.name != name);
            why.push(format!("{name} dropped ({reason})"));
        }
    }

    fn by_age(&self) -> Vec<(Arc<str>, Missing)> {
        let mut list: Vec<_> = self.missing.iter().map(|(name, missing)| (Arc::clone(name), *missing)).collect();
        list.sort_by_key(|(_, missing)| missing.missing_at);
        list
    }

    /// Half of the largest ring of the last ten minutes, rounded up; at least 1.
    fn floor(&self, now: Instant) -> usize {
        let mut remembered = self.sizes.iter().filter(|(until, _)| now.saturating_duration_since(*until) <= MEMORY);
        let largest = remembered.next().map_or(0, |(_, size)| *size).max(self.ring.len());
        largest.div_ceil(2).max(1)
    }

    /// Notes the size of the ring, and forgets what is too old or too small to count.
    fn remember(&mut self, now: Instant) {
        // The last size lasted until now.
        if let Some((until, _)) = self.sizes.back_mut() {
            *until = now;
        }
        let size = self.ring.len();
        while self.sizes.back().is_some_and(|(_, smaller)| *smaller <= size) {
            self.sizes.pop_back();
        }
        self.sizes.push_back((now, size));
        while self.sizes.front().is_some_and(|(until, _)| now.saturating_duration_since(*until) > MEMORY) {
            self.sizes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
