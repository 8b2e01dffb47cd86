//! What the core asks of the rim: connections, closes and timers.

use std::collections::VecDeque;
use std::time::Duration;

use slipring::metrics::NodeState;
use slipring::proxy::{ClientId, CloseReason, Effect, FailReason, UpstreamId};
use slipring::time::Tick;

use super::{Conn, SLACK, Timer, World};
use crate::client::number_of;
use crate::link::Link;
use crate::node::Session;

impl World {
    pub(super) fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.core.take_effects(&mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::WakeClient(id) => {
                    if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
                        client.parked = false;
                    }
                }
                Effect::WakeUpstream(id) => {
                    if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
                        conn.parked = false;
                    }
                }
                Effect::Connect(id, wait) => {
                    let Some(node) = self.core.upstream_node(id) else { continue };
                    let node = number_of(&node.name);
                    self.links.insert(id, Link::new(node, self.facts.now));
                    self.connect(id, node, wait);
                }
                Effect::Tick(wait) => {
                    let running = self.timers.iter().any(|(_, t)| matches!(t, Timer::Tick));
                    assert!(!running, "a second tick beside the one that runs");
                    let at = self.now().after(wait).0;
                    self.timers.push((at, Timer::Tick));
                }
                Effect::CloseUpstream(id) | Effect::ResetUpstream(id) => {
                    let given_up = self.unlink(id);
                    if let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) {
                        conn.closed = true;
                        conn.from_node.clear();
                        // What it was sent is answered as failed, and may be done at any time, or never.
                        conn.haunts = conn.spoilt || given_up;
                        if conn.deaf || conn.haunts && self.rng.one_in(2) {
                            conn.to_node.clear();
                        }
                    }
                    self.conns.retain(|c| !c.closed || !c.to_node.is_empty());
                }
                Effect::CloseClient(id) | Effect::ResetClient(id) => self.client_closed(id),
            }
        }
        self.effects = effects;
        assert!(!self.core.has_effects());
        self.core.check_invariants();
        self.check_memory();
    }

    /// What waits stays within the limit, but for one read of each client, and what the kernel holds for it.
    fn check_memory(&self) {
        let held = self.cells.sum(|cells| &cells.buffered) as usize;
        let slack = (self.clients.len() + 1) * SLACK;
        assert!(self.large || held <= self.buffer_limit + slack, "{held} bytes wait, of {}", self.buffer_limit);
    }

    /// The core closes a connection. Returns whether it was silent for too long.
    fn unlink(&mut self, id: UpstreamId) -> bool {
        // Closed in the round it was asked for in, it never was one.
        let Some(link) = self.links.remove(&id) else { return false };
        let silent = link.is_silent(self.drain_timeout, self.facts.now);
        let departed = !self.members().contains(&link.node);
        let late = self.in_tick && link.was_late(self.facts.now);
        if late && !departed && !self.large && self.state(link.node) < NodeState::Probing {
            assert!(self.is_hopeless(id, &link), "given up too early: {link:?} at {}", self.facts.now);
        }
        // Or all of its node's were.
        let down = !departed && self.state(link.node) >= NodeState::Probing;
        let given_up = late || silent && departed || down;
        if given_up {
            self.fault(link.node);
        }
        given_up
    }

    fn connect(&mut self, id: UpstreamId, node: usize, wait: Duration) {
        let latency = self.rng.below(5_000) as u64;
        let at = self.now().after(wait).0 + latency;
        self.timers.push((at, Timer::Connect(id, node)));
    }

    fn client_closed(&mut self, id: ClientId) {
        let Some(i) = self.clients.iter().position(|c| c.id == id) else {
            return;
        };
        let slow = [CloseReason::NotReading, CloseReason::BodyStalled];
        self.facts.too_slow |= slow.iter().any(|reason| self.cells.closed_sum(*reason) > 0);
        let client = &mut self.clients[i];
        client.closed = true;
        let all = client.kernel.len();
        client.take(all, &mut self.facts);
        let client = &self.clients[i];
        let closed = CloseReason::ALL.map(|reason| (reason.word(), self.cells.closed_sum(reason)));
        assert!(client.may_be_closed(&self.facts), "closed without a reason: {}, {closed:?}", client.describe());
        self.clients.swap_remove(i);
    }

    pub(super) fn run_timers(&mut self) {
        while let Some(i) = self.timers.iter().position(|(at, _)| *at <= self.facts.now) {
            let (_, timer) = self.timers.swap_remove(i);
            match timer {
                Timer::Tick => {
                    self.in_tick = true;
                    self.look_at_links();
                    let next = self.core.tick(self.now());
                    self.look_after_unread();
                    self.look_for_outages();
                    if let Some(at) = next {
                        assert!(at > self.now(), "a tick that is due at once again");
                        self.timers.push((at.0, Timer::Tick));
                    }
                }
                Timer::Connect(id, node) if self.core.has_upstream(id) => self.accept(id, node),
                Timer::Fail(id, _, reason) => self.core.upstream_failed(id, reason, self.now()),
                Timer::Connect(..) => {}
            }
            self.carry_out();
            self.in_tick = false;
        }
    }

    /// As the rim: notices, about once a second, that clients which are not read have sent their end.
    fn look_after_unread(&mut self) {
        if self.looked_at + 750_000 > self.facts.now {
            return;
        }
        self.looked_at = self.facts.now;
        let mut unread = Vec::new();
        self.core.unread_clients(&mut unread);
        for id in unread {
            if let Some(client) = self.clients.iter_mut().find(|c| c.id == id && c.fin) {
                client.hung_up = true;
                self.core.client_hung_up(id, Tick(self.facts.now));
            }
        }
    }

    /// Notes which nodes have been slower than the clocks allow.
    fn look_at_links(&mut self) {
        let now = self.facts.now;
        for (id, link) in &mut self.links {
            // The core does not want to read it.
            if self.conns.iter().any(|c| c.id == *id && c.parked) {
                link.pause(now);
            }
            if link.is_late(self.facts.request_timeout, now) {
                self.facts.last_late[link.node] = Some(now);
            }
            if link.is_struck(self.facts.request_timeout, now) {
                self.silent[link.node] = true;
            }
            if link.is_stuck(self.facts.queue_timeout, now) {
                self.facts.last_stuck[link.node] = Some(now);
            }
        }
        for node in (0..self.up.len()).filter(|node| self.facts.nodes[*node].is_old()) {
            if self.is_unproven(node) {
                self.facts.last_doubt[node] = Some(now);
            }
        }
    }

    /// A clock makes a node down only when it was silent for a time-out and then did not answer on a connection of its
    /// own, or cannot be connected to.
    fn look_for_outages(&mut self) {
        let now = self.facts.now;
        for node in 0..self.up.len() {
            if !self.recovering[node] && self.state(node) >= NodeState::Probing {
                let links = || self.links.iter().filter(|(_, link)| link.node == node);
                let asked = links().any(|(_, link)| link.is_unwelcome(self.connect_timeout, now));
                let mut late = links().filter(|(_, link)| link.was_late(now));
                let cause = self.silent[node] && asked || late.any(|(id, link)| self.is_hopeless(*id, link));
                assert!(cause, "node {node} is down without a cause: silent {}", self.silent[node]);
                self.tally.probed += u64::from(asked);
                self.tally.outages += 1;
                self.fault(node);
            }
        }
    }

    fn is_hopeless(&self, id: UpstreamId, link: &Link) -> bool {
        let left = self.conns.iter().any(|c| c.id == id && c.left);
        link.is_hopeless(self.facts.request_timeout, left, self.facts.now)
    }

    pub(super) fn state(&self, node: usize) -> NodeState {
        self.cells.node_state(&format!("node-{node}:11211"))
    }

    fn accept(&mut self, id: UpstreamId, node: usize) {
        if !self.up[node] {
            self.fault(node);
            if self.rng.one_in(3) {
                let at = self.facts.now + 1_000_000;
                self.timers.push((at, Timer::Fail(id, node, FailReason::ConnectTimeout)));
            } else {
                self.core.upstream_failed(id, FailReason::Connect, self.now());
            }
            return;
        }
        let mut conn = Conn {
            id,
            node,
            to_node: VecDeque::new(),
            from_node: VecDeque::new(),
            session: Session::new(),
            room: if self.calm { 300_000 } else { [50, 4_000, 300_000][self.rng.below(3)] },
            blocked: false,
            left: false,
            parked: false,
            closed: false,
            haunts: false,
            welcome: false,
            spoilt: false,
            deaf: false,
        };
        if self.stormy && self.rng.one_in(20) {
            self.fault(node);
            conn.spoilt = true;
            conn.from_node.extend(b"ERROR Too many open connections\r\n");
        }
        let spoilt = conn.spoilt;
        self.conns.push(conn);
        let link = self.links.get_mut(&id).unwrap();
        link.connect(self.facts.now);
        if spoilt {
            link.spoil();
        }
        self.core.upstream_connected(id, self.now());
    }
}
