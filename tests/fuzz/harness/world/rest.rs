//! The end: everything calms down, and what was owed has come.

use slipring::protocol::binary::opcode;
use slipring::proxy::{ClientId, UpstreamId};

use super::super::client::Client;
use super::super::node::Node;
use super::super::packets::{ask, set};
use super::{RECOVERY, SCRATCH, STEP, Timer, World, topology};

impl World<'_> {
    /// Everything that is due, once.
    pub(super) fn round(&mut self) {
        self.now += STEP;
        self.run_timers();
        self.flush(0);
        self.unblock();
        let conns: Vec<UpstreamId> = self.conns.iter().map(|c| c.id).collect();
        for id in conns {
            if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                self.run_node(i, self.conns[i].to_node.len());
            }
            if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                self.read_conn(i, self.conns[i].from_node.len().min(SCRATCH));
            }
        }
        let clients: Vec<ClientId> = self.clients.iter().map(|c| c.id).collect();
        for id in clients {
            let find = |world: &Self| world.clients.iter().position(|c| c.id == id);
            if let Some(i) = find(self) {
                self.read_client(i, self.clients[i].outbox.len().min(SCRATCH));
            }
            if let Some(i) = find(self).filter(|i| self.clients[*i].reads) {
                self.client_takes(i, self.clients[i].kernel.len());
            }
        }
    }

    /// Goes on until nothing moves any more.
    pub(super) fn rest(&mut self) {
        let (mut quiet, mut rounds, mut least) = (0, 0, usize::MAX);
        loop {
            // A backlog may take many, as long as it grows shorter.
            let left = self.clients.iter().map(|client| client.outbox.len() + client.owed()).sum();
            rounds = if left < least { 0 } else { rounds + 1 };
            least = least.min(left);
            assert!(rounds < 100_000, "never comes to rest: {}", self.describe());
            let before = self.moved;
            self.round();
            quiet = if self.moved == before { quiet + 1 } else { 0 };
            if quiet > 3 {
                return;
            }
        }
    }

    /// Lets everything happen that can: nodes come back and tell the truth, clients read.
    pub(super) fn calm_down(&mut self) {
        self.say(|| "calm".to_owned());
        self.calm = true;
        self.up.fill(true);
        self.write = SCRATCH;
        self.nodes.iter_mut().for_each(Node::calm_down);
        if self.ring.iter().all(|place| *place == 0) {
            self.ring.fill(1);
            self.set_ring();
        }
        for conn in &mut self.conns {
            conn.room = conn.room.max(SCRATCH);
            conn.session.lie = None;
        }
        for client in &mut self.clients {
            client.room = client.room.max(1 << 20);
            client.reads = true;
            // Who leaves a large value unfinished keeps its lane.
            client.fin |= client.in_block();
        }
        for (at, timer) in &mut self.timers {
            if let Timer::Dialled(..) = timer {
                *at = self.now;
            }
        }
        self.rest();
        let dials = self.timers.iter().any(|(_, timer)| matches!(timer, Timer::Dial(_)));
        if !self.truth.shaken && !dials && !self.hung_up {
            // Nothing went wrong: no time need pass. After a connection that is of no use another is made by the clock.
            self.check_nothing_is_owed();
        }
        let end = self.now + RECOVERY;
        while let Some(next) = self.next_timer().map(|i| self.timers[i].0).filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.rest();
        }
        self.now = end;
    }

    pub(super) fn describe(&self) -> String {
        let conns = self.conns.iter().map(|c| {
            let (to, from) = (c.to_node.len(), c.from_node.len());
            format!(
                "{:?}: node {}, {to} to it, {from} from it, blocked {} parked {}\n",
                c.id, c.node, c.blocked, c.parked
            )
        });
        let clients = self.clients.iter().map(|c| c.describe() + "\n");
        conns.chain(clients).chain([self.core.describe()]).collect()
    }

    /// Every client has got what it is owed, and is read.
    pub(super) fn check_nothing_is_owed(&mut self) {
        for client in &self.clients {
            let left = client.outbox.len() + client.owed() + client.kernel.len() + client.torn();
            let stuck = left > 0 || client.parked || client.is_over();
            assert!(!stuck, "stuck: {}\n{}", client.describe(), self.describe());
        }
        for conn in &self.conns {
            let left = conn.to_node.len() + conn.from_node.len();
            assert!(left == 0 && !conn.parked, "stuck: {}", self.describe());
        }
        assert!(!self.core.is_dirty());
        assert!(self.truth.lied || self.cells.sum(|c| &c.desyncs) == 0, "out of step without a lie");
    }

    /// Whatever happened, every node of the ring takes and gives values again, to who speaks classic words, meta or packets.
    pub(super) fn check_that_nodes_answer(&mut self) {
        let ring = topology(&self.ring);
        for place in 0..ring.nodes().len() {
            let on_node = |key: &String| usize::from(ring.route(key.as_bytes()).0) == place;
            let key = (0..).map(|n| format!("probe{n}")).find(on_node).unwrap();
            let i = self.strict_client();
            let len = 20.min(self.settings.max_value);
            let value = "x".repeat(len);
            self.send(i, format!("set {key} 0 0 {len}\r\n{value}\r\nget {key}\r\n").as_bytes());
            // Every node can be told these, if need be in classic words.
            self.send(i, format!("ms {key} {len} c\r\n{value}\r\nmg {key} v\r\n").as_bytes());
            self.rest();
            self.check_nothing_is_owed();
            assert_eq!(self.clients[i].hits, 2, "node {place} of {:?}", self.ring);
            let i = self.strict_client();
            let set = set(&key, &value).packet(1, 0);
            let get = ask(opcode::GETKQ, &key).packet(2, 0);
            self.send(i, &[set, get, ask(opcode::NOOP, "").packet(3, 0)].concat());
            self.rest();
            self.check_nothing_is_owed();
            assert_eq!(self.clients[i].hits, 1, "node {place} of {:?} in packets", self.ring);
        }
    }

    fn strict_client(&mut self) -> usize {
        let mut client = Client::new(self.core.client_connected(), SCRATCH);
        client.strict = true;
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// Who sends its end is closed, and who is told to end; nothing is left of it.
    pub(super) fn check_that_clients_can_go(&mut self) {
        for client in &mut self.clients {
            client.fin = true;
            client.ended = self.stops;
        }
        if self.stops {
            self.core.end_clients();
            self.carry_out();
        }
        self.rest();
        assert!(self.clients.is_empty(), "not closed: {}", self.describe());
        assert_eq!(self.cells.sum(|c| &c.connections), 0);
    }
}
