//! What befalls the nodes and the ring.

use std::collections::BTreeSet;
use std::sync::Arc;

use slipring::metrics::NodeState;
use slipring::proxy::{FailReason, UpstreamId};

use super::{Mood, Timer, World, ring};
use crate::client::number_of;

impl World {
    pub(super) fn fault(&mut self, node: usize) {
        self.facts.last_fault[node] = Some(self.facts.now);
        self.recovering[node] = true;
    }

    /// A node is sure to answer again once all its connections have proved themselves.
    pub(super) fn watch_recovery(&mut self) {
        for node in 0..self.up.len() {
            if self.recovering[node] {
                self.fault(node);
                self.recovering[node] = self.is_unproven(node);
            }
            if self.joining[node] {
                self.facts.last_join[node] = Some(self.facts.now);
                self.joining[node] = self.is_unproven(node);
            }
        }
    }

    pub(super) fn is_unproven(&self, node: usize) -> bool {
        let of_node = |id: UpstreamId, n: usize| n == node && self.core.has_upstream(id);
        let connecting = self.timers.iter().any(|(_, timer)| match timer {
            Timer::Connect(id, n) | Timer::Fail(id, n, _) => of_node(*id, *n),
            Timer::Tick => false,
        });
        let mut conns = self.conns.iter().filter(|c| of_node(c.id, c.node));
        // After an outage one answer is not enough.
        let probed = self.state(node) >= NodeState::Probing;
        connecting || probed || conns.any(|c| !c.welcome || c.spoilt)
    }

    /// The nodes of the ring.
    pub(super) fn members(&self) -> BTreeSet<usize> {
        self.facts.rings.last().unwrap().nodes().iter().map(|node| number_of(&node.name)).collect()
    }

    /// The ring changes: nodes leave, join, come back, change places or weights; or nothing changes.
    pub(super) fn turn(&mut self) {
        let before = self.members();
        let old = self.facts.rings.last().unwrap().nodes();
        let mut list: Vec<(usize, u32)> = old.iter().map(|node| (number_of(&node.name), node.weight)).collect();
        let others: Vec<usize> = (0..self.up.len()).filter(|node| !before.contains(node)).collect();
        match self.rng.below(10) {
            0..4 if list.len() > 1 => drop(list.remove(self.rng.below(list.len()))),
            0..8 if !others.is_empty() => {
                let place = self.rng.below(list.len() + 1);
                list.insert(place, (others[self.rng.below(others.len())], 1));
            }
            // One takes the place of all.
            8 if !others.is_empty() => list = vec![(others[self.rng.below(others.len())], 1)],
            9 => {
                let place = self.rng.below(list.len());
                list[place].1 = 1 + self.rng.below(3) as u32;
            }
            _ => {
                let by = self.rng.below(list.len());
                list.rotate_left(by);
            }
        }
        self.facts.rings.push(ring(self.facts.rings.len() as u64 + 1, &self.placement, &list));
        for node in self.members().difference(&before) {
            self.joining[*node] = true;
            // Its connections fail, or the core remembers that they did.
            if !self.up[*node] || self.links.values().any(|link| link.node == *node) && self.recovering[*node] {
                self.fault(*node);
            }
        }
        let now = self.now();
        self.core.set_topology(Arc::clone(self.facts.rings.last().unwrap()), now);
        self.carry_out();
    }

    pub(super) fn storm(&mut self) {
        let node = self.rng.below(self.up.len());
        match self.rng.below(6) {
            0 | 1 => {
                self.up[node] = !self.up[node];
                self.fault(node);
                if !self.up[node] {
                    if self.rng.one_in(2) {
                        self.facts.nodes[node].wipe();
                    }
                    while let Some(i) = self.conns.iter().position(|c| c.node == node) {
                        self.lose(i);
                    }
                }
            }
            2 | 3 => self.some_conn(Self::lose),
            4 => self.some_conn(|world, i| {
                let conn = &mut world.conns[i];
                if conn.closed {
                    return;
                }
                // Whatever stands at the head, this is not its answer.
                let nonsense: &[u8] = match world.rng.below(3) {
                    0 => b"VALUE nobody.asked.this 0 3\r\nxyz\r\n",
                    1 => b"GARBAGE\r\n",
                    _ => b"STORED \r\n",
                };
                conn.from_node.extend(nonsense);
                conn.spoilt = true;
                if let Some(link) = world.links.get_mut(&conn.id) {
                    link.spoil();
                }
                world.injected += 1;
                let node = conn.node;
                world.fault(node);
            }),
            // A long quiet time: everything recovers, and must be exact again.
            _ => {
                self.up.fill(true);
                self.moods.fill(Mood::default());
                self.lose_the_deaf();
                for _ in 0..100 {
                    self.facts.now += 300_000;
                    self.round();
                }
            }
        }
    }

    /// A node becomes slow in some way, for a while.
    pub(super) fn change_mood(&mut self) {
        let node = self.rng.below(self.up.len());
        let most = [30_000, 1_000_000, 8_000_000][self.rng.below(3)];
        let until = self.facts.now + self.rng.below(most) as u64;
        let mood = &mut self.moods[node];
        match self.rng.below(if self.hasty { 7 } else { 6 }) {
            0 | 1 => mood.stalls = until,
            2 | 3 => mood.shuts = until,
            4 => mood.drips = until,
            5 => *mood = Mood { stalls: until, shuts: until, drips: 0 },
            // Only a clock ever ends such a connection.
            _ => self.some_conn(|world, i| world.conns[i].deaf = true),
        }
    }

    pub(super) fn lose_the_deaf(&mut self) -> bool {
        let deaf = self.conns.iter().filter(|c| c.deaf).count();
        for _ in 0..deaf {
            let next = self.conns.iter().position(|c| c.deaf);
            next.into_iter().for_each(|i| self.lose(i));
        }
        deaf > 0
    }

    pub(super) fn lose(&mut self, i: usize) {
        let conn = self.conns.swap_remove(i);
        self.fault(conn.node);
        if !conn.closed {
            self.core.upstream_failed(conn.id, FailReason::Closed, self.now());
            self.carry_out();
        }
    }
}
