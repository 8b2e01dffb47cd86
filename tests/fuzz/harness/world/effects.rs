//! What the core asks of the rim: connections, closes and timers.

use std::collections::VecDeque;
use std::sync::Arc;

use slipring::proxy::{ClientId, Effect, FailReason, UpstreamId};

use super::{Conn, SCRATCH, Timer, World, number_of};

impl World<'_> {
    pub(super) fn carry_out(&mut self) {
        let mut effects = Vec::new();
        self.core.take_effects(&mut effects);
        for effect in effects {
            self.say(|| format!("    {effect:?}"));
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
                    let at = self.now().after(wait).0;
                    self.timers.push((at, Timer::Dial(id)));
                }
                Effect::Tick(wait) => {
                    let running = self.timers.iter().any(|(_, timer)| matches!(timer, Timer::Tick));
                    assert!(!running, "a second tick beside the one that runs");
                    let at = self.now().after(wait).0;
                    self.timers.push((at, Timer::Tick));
                }
                Effect::CloseUpstream(id) | Effect::ResetUpstream(id) => {
                    if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                        self.close_conn(i);
                    }
                }
                Effect::CloseClient(id) => self.client_closed(id, false),
                Effect::ResetClient(id) => self.client_closed(id, true),
            }
        }
        self.core.check_invariants();
    }

    /// The core has closed a connection, or the node. What was sent may still be acted on.
    pub(super) fn close_conn(&mut self, i: usize) {
        let mut conn = self.conns.swap_remove(i);
        if self.calm || self.schedule.below(2) == 0 {
            let node = &mut self.nodes[conn.node];
            conn.session.feed(node, &mut self.truth, conn.to_node.make_contiguous(), &self.keys, &mut Vec::new());
        }
    }

    /// The core has closed a client; with a reset what it has not taken is lost.
    fn client_closed(&mut self, id: ClientId, is_reset: bool) {
        let Some(i) = self.clients.iter().position(|c| c.id == id) else { return };
        let mut client = self.clients.swap_remove(i);
        if !is_reset {
            client.take(client.kernel.len(), &mut self.truth);
        }
        let done = client.is_over() && client.owed() + client.torn() == 0 && !is_reset;
        let excused = self.truth.shaken && !client.strict;
        assert!(done || excused, "closed without a reason: {}", client.describe());
    }

    pub(super) fn run_timers(&mut self) {
        while let Some(i) = self.next_timer().filter(|i| self.timers[*i].0 <= self.now) {
            let (_, timer) = self.timers.remove(i);
            match timer {
                Timer::Tick => {
                    if let Some(at) = self.core.tick(self.now()) {
                        assert!(at > self.now(), "a tick that is due at once again");
                        self.timers.push((at.0, Timer::Tick));
                    }
                }
                Timer::Dial(id) => self.dial(id),
                Timer::Dialled(id, host) => self.dialled(id, &host),
            }
            self.carry_out();
        }
    }

    pub(super) fn next_timer(&self) -> Option<usize> {
        (0..self.timers.len()).min_by_key(|i| self.timers[*i].0)
    }

    fn dial(&mut self, id: UpstreamId) {
        let Some(node) = self.core.upstream_node(id) else { return };
        let latency = if self.calm { 0 } else { self.schedule.pick(&[0, 0, 0, 200]) };
        self.timers.push((self.now + latency, Timer::Dialled(id, Arc::clone(&node.host))));
    }

    fn dialled(&mut self, id: UpstreamId, host: &str) {
        let Some(member) = self.core.upstream_node(id) else { return };
        if &*member.host != host {
            // The node is elsewhere by now.
            return self.dial(id);
        }
        let node = number_of(&member.name);
        if !self.up[node] {
            let reason = if self.schedule.below(2) == 0 { FailReason::Connect } else { FailReason::ConnectTimeout };
            return self.core.upstream_failed(id, reason, self.now());
        }
        let room = if self.calm { SCRATCH } else { self.schedule.pick(&[SCRATCH, 4000, 60]) };
        let drawn = if self.nodes[node].is_mixed { self.schedule.byte() } else { 0 };
        self.conns.push(Conn {
            id,
            node,
            to_node: VecDeque::new(),
            from_node: VecDeque::new(),
            session: self.nodes[node].accept(drawn.into(), &mut self.truth),
            room,
            blocked: false,
            parked: false,
            injected: Vec::new(),
        });
        self.core.upstream_connected(id, self.now());
    }
}
