//! The end: everything calms down, and what was owed has come.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use slipring::metrics::{NodeState, Reason};
use slipring::proxy::{ClientId, UpstreamId};

use super::{Conn, KERNEL_PATIENCE, Mood, World};
use crate::client::{Client, Ending};

impl World {
    /// Lets everything happen that can: nodes come back, clients read, bytes arrive.
    pub(super) fn calm_down(&mut self) {
        self.up.fill(true);
        self.moods.fill(Mood::default());
        self.calm = true;
        for conn in &mut self.conns {
            conn.room = conn.room.max(300_000);
        }
        for client in &mut self.clients {
            client.room = client.room.max(300_000);
        }
        let mut quiet = 0;
        for round in 0.. {
            assert!(round < 200_000, "never comes to rest: {} {:?} {}", self.facts.now, self.timers, self.describe());
            for client in &mut self.clients {
                client.reads = true;
            }
            let before = self.moved;
            self.round();
            quiet = if self.moved == before { quiet + 1 } else { 0 };
            if quiet > 20 {
                // What a coin left for later is done; the next thing to happen is a timer.
                let Some(next) = self.timers.iter().map(|(at, _)| *at).min() else {
                    if self.lose_the_deaf() {
                        continue;
                    }
                    break;
                };
                self.facts.now = self.facts.now.max(next);
                quiet = 0;
            }
        }
    }

    /// Every node is silent for good, or drips: whoever asked is answered all the same, whatever it waits for.
    pub(super) fn check_that_silence_is_answered(&mut self) {
        self.moods.fill(match self.rng.below(3) {
            0 => Mood { stalls: u64::MAX, shuts: u64::MAX, drips: 0 },
            1 => Mood { stalls: u64::MAX, shuts: 0, drips: 0 },
            _ => Mood { stalls: 0, shuts: 0, drips: u64::MAX },
        });
        let is_owed = |world: &Self| {
            // Who only stores and asks for no answer is slowed down for as long as a node takes nothing.
            let is_owed = |client: &&Client| client.owed() + if client.loads { 0 } else { client.outbox.len() } > 0;
            let mut owed = world.clients.iter().filter(is_owed).filter(|client| !client.is_cut());
            owed.next().map(Client::describe)
        };
        for client in &mut self.clients {
            client.room = client.room.max(300_000);
        }
        // What is taken, if anything, is taken at a good pace.
        self.calm = true;
        for conn in &mut self.conns {
            conn.room = conn.room.max(300_000);
        }
        let end = self.facts.now + 120_000_000;
        // Who asked for much is told of one after the other, and what drips in short replies moves.
        let last = end + 1_800_000_000;
        let mut blocked_at = HashMap::new();
        while self.facts.now < end || self.facts.now < last && is_owed(self).is_some() {
            // The kernel gives up a connection whose bytes nobody acknowledges.
            let now = self.facts.now;
            blocked_at.retain(|id, _| self.conns.iter().any(|conn| conn.id == *id && conn.blocked));
            for conn in self.conns.iter().filter(|conn| conn.blocked) {
                blocked_at.entry(conn.id).or_insert(now);
            }
            let given_up = |conn: &Conn| blocked_at.get(&conn.id).is_some_and(|at| at + KERNEL_PATIENCE <= now);
            while let Some(i) = self.conns.iter().position(given_up) {
                self.lose(i);
            }
            for client in &mut self.clients {
                client.reads = true;
            }
            self.facts.now += 50_000;
            self.round();
        }
        if let Some(client) = is_owed(self) {
            panic!("not answered: {client}\n{}", self.describe());
        }
    }

    /// Everything that is due, once.
    pub(super) fn round(&mut self) {
        self.facts.now += 500;
        self.run_timers();
        self.flush();
        self.unblock();
        let conns: Vec<UpstreamId> = self.conns.iter().map(|c| c.id).collect();
        for id in conns {
            if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                self.run_node(i);
            }
            if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                self.read_conn(i);
            }
        }
        let clients: Vec<ClientId> = self.clients.iter().map(|c| c.id).collect();
        for id in clients {
            if let Some(i) = self.clients.iter().position(|c| c.id == id) {
                self.read_client(i);
            }
            if let Some(i) = self.clients.iter().position(|c| c.id == id) {
                self.client_takes(i);
            }
        }
        self.watch_recovery();
    }

    pub(super) fn describe(&self) -> String {
        let conns = self.conns.iter().map(|c| {
            format!(
                "{:?}: node {}, {} bytes to it, {} from it, blocked {} parked {} closed {} deaf {}\n",
                c.id,
                c.node,
                c.to_node.len(),
                c.from_node.len(),
                c.blocked,
                c.parked,
                c.closed,
                c.deaf
            )
        });
        conns.chain([self.core.describe()]).collect()
    }

    pub(super) fn check_nothing_is_owed(&mut self) {
        for client in &self.clients {
            let left = client.outbox.len() + client.owed() + client.kernel.len();
            assert_eq!(left, 0, "stuck: {}\n{}", client.describe(), self.describe());
            let must_end = client.ended || client.ending == Ending::Quits && client.left == 0;
            assert!(!must_end, "not closed: {}", client.describe());
        }
        let failed = |reason| !matches!(reason, Reason::Memory | Reason::NodeError);
        if !self.stormy && self.cells.soft_sum(|_, reason| failed(reason)) == 0 {
            let lost = |serial: &&u64| !self.facts.reached.contains(serial);
            let lost = self.facts.loaded.iter().filter(lost).count();
            let counted = Reason::ALL.map(|reason| (reason, self.cells.soft_sum(|_, other| other == reason)));
            assert_eq!(lost, 0, "lost, though their nodes were up: {counted:?}");
        }
        let desyncs = self.cells.sum(|c| &c.desyncs);
        assert!(desyncs <= self.injected, "{desyncs} desyncs, {} injected", self.injected);
        let connected = self.conns.iter().filter(|c| !c.closed).count();
        let fewest = self.members().len() * self.lanes;
        // And one where packets are answered, if it was needed.
        let more = self.members().iter().filter(|node| self.facts.nodes[**node].answers_packets()).count();
        assert!(
            (fewest..=fewest + more).contains(&connected),
            "{connected} connections at rest: {fewest}, {more} more"
        );
        for node in self.members() {
            assert_eq!(self.state(node), NodeState::Up, "node {node} at rest");
            assert!(!self.recovering[node], "node {node} is not fully connected at rest");
        }
        let linked: BTreeSet<usize> = self.links.values().map(|link| link.node).collect();
        assert_eq!(linked, self.members(), "a connection to a node that has left");
        assert_eq!(self.links.len(), connected);
        assert_eq!(self.cells.sum(|c| &c.connections), self.clients.len() as u64);
        self.flush();
        assert!(!self.core.is_dirty());
    }

    /// Everybody leaves: no memory is held for anybody any more.
    pub(super) fn check_nothing_is_left(&mut self) {
        let counted = self.cells.soft_sum(|_, reason| matches!(reason, Reason::Memory | Reason::Queue));
        let unexplained = self.facts.without_room;
        assert!(unexplained <= counted, "{unexplained} without a reason, {counted} for want of room");
        for client in std::mem::take(&mut self.clients) {
            self.core.client_gone(client.id);
        }
        self.carry_out();
        assert_eq!(self.cells.sum(|c| &c.buffered), 0, "memory that nobody holds:\n{}", self.core.describe());
    }

    /// Every node serves on every lane; and no bulk lane was lost on the way: as many large values
    /// pass as ever.
    pub(super) fn check_that_all_nodes_serve(&mut self) {
        for node in &mut self.facts.nodes {
            node.hiccup = 0;
        }
        self.stormy = false;
        // What has been forgiven so far is not forgiven any more.
        self.facts.now += 1;
        self.probe(10, self.lanes);
        if self.cells.sum(|c| &c.bulk_transfers) > 0 {
            self.probe(self.facts.bulk_above + 10, 1);
        }
    }

    /// Stores and reads a value of a size on every node, by so many clients.
    fn probe(&mut self, size: usize, clients: usize) {
        let ring = Arc::clone(self.facts.rings.last().unwrap());
        for node in self.members() {
            for _ in 0..clients {
                let id = self.core.client_connected();
                self.next_client += 1;
                let mut client = Client::new(id, self.next_client, &mut self.rng);
                client.ending = Ending::Stays;
                client.left = 0;
                client.probe(&ring, node, size, &mut self.facts);
                self.clients.push(client);
            }
        }
        self.calm_down();
        self.check_nothing_is_owed();
    }
}
