//! Bytes in both directions: what clients send and take, what nodes read and answer.

use slipring::proxy::{ClientId, OutBuf, UpstreamId};

use super::{World, taken};
use crate::client::Client;

impl World {
    pub(super) fn connect_client(&mut self) {
        let id = self.core.client_connected();
        self.next_client += 1;
        let mut client = Client::new(id, self.next_client, &mut self.rng);
        if self.loaded && self.rng.one_in(3) {
            client.loads();
        }
        self.clients.push(client);
    }

    pub(super) fn ask(&mut self, i: usize) {
        let client = &mut self.clients[i];
        if client.wants() {
            client.ask(&mut self.facts, &mut self.rng);
        }
    }

    pub(super) fn read_client(&mut self, i: usize) {
        let waiting = self.clients[i].outbox.len();
        let piece = self.piece(waiting);
        let now = self.now();
        let client = &mut self.clients[i];
        if client.parked {
            return;
        }
        if !self.core.client_may_read(client.id) {
            client.parked = !self.core.client_turn(client.id, now);
        } else if piece > 0 {
            let bytes: Vec<u8> = client.outbox.drain(..piece).collect();
            self.moved += 1;
            if self.rng.one_in(2) {
                self.buffer.space()[..piece].copy_from_slice(&bytes);
                self.core.client_read(client.id, &mut self.buffer, piece, now);
            } else {
                self.core.client_input(client.id, &bytes, now);
            }
        } else if client.fin && !client.ended {
            (client.ended, client.hung_up) = (true, true);
            self.core.client_ended(client.id);
        }
        self.carry_out();
    }

    pub(super) fn client_takes(&mut self, i: usize) {
        let client = &mut self.clients[i];
        if client.reads {
            let most = client.kernel.len();
            let bytes = if self.rng.one_in(2) { most } else { self.rng.below(most + 1) };
            client.take(bytes, &mut self.facts);
            self.moved += bytes as u64;
        }
    }

    pub(super) fn client_pauses(&mut self, i: usize) {
        let client = &mut self.clients[i];
        client.reads = !client.reads || !self.rng.one_in(3);
    }

    pub(super) fn vanish(&mut self, i: usize) {
        let client = self.clients.swap_remove(i);
        self.core.client_gone(client.id);
        self.carry_out();
    }

    pub(super) fn flush(&mut self) {
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        self.core.take_dirty(&mut clients, &mut upstreams);
        for id in upstreams.drain(..) {
            self.flush_upstream(id);
        }
        for id in clients.drain(..) {
            self.flush_client(id);
        }
        self.core.reuse_dirty(clients, upstreams);
        self.carry_out();
    }

    fn flush_upstream(&mut self, id: UpstreamId) {
        let now = self.now();
        let Some(conn) = self.conns.iter_mut().find(|c| c.id == id && !c.blocked) else {
            return;
        };
        let most = if self.moods[conn.node].shuts > now.0 { 0 } else { conn.room };
        conn.left = false;
        while let Some(out) = self.core.upstream_out(id).filter(|out| !out.is_empty()) {
            let room = most.saturating_sub(conn.to_node.len());
            if room == 0 || self.rng.one_in(10) {
                (conn.blocked, conn.left) = (true, true);
                break;
            }
            let bytes = taken(out, room.min(1 + self.rng.below(64 << 10)));
            conn.to_node.extend(&bytes);
            self.links.get_mut(&id).unwrap().write(bytes.len(), now.0);
            self.core.upstream_written(id, bytes.len(), now);
        }
    }

    fn flush_client(&mut self, id: ClientId) {
        let now = self.now();
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id && !c.blocked) else {
            return;
        };
        while let Some(out) = self.core.client_out(id).filter(|out| !out.is_empty()) {
            let room = client.room.saturating_sub(client.kernel.len());
            if room == 0 || self.rng.one_in(10) {
                client.blocked = true;
                self.core.client_blocked(client.id);
                break;
            }
            let bytes = taken(out, room.min(1 + self.rng.below(64 << 10)));
            client.kernel.extend_from_slice(&bytes);
            self.core.client_written(id, bytes.len(), now);
        }
    }

    pub(super) fn unblock(&mut self) {
        for conn in &mut self.conns {
            let shut = self.moods[conn.node].shuts > self.facts.now;
            if conn.blocked && conn.to_node.len() < conn.room && !conn.closed && !shut {
                conn.blocked = false;
                self.core.upstream_writable(conn.id);
            }
        }
        for client in &mut self.clients {
            if client.blocked && client.kernel.len() < client.room {
                client.blocked = false;
                self.core.client_writable(client.id);
            }
        }
        self.carry_out();
    }

    pub(super) fn run_node(&mut self, i: usize) {
        let waiting = self.conns[i].to_node.len();
        let piece = self.piece(waiting);
        let conn = &mut self.conns[i];
        if conn.deaf || self.moods[conn.node].stalls > self.facts.now {
            return;
        }
        let bytes: Vec<u8> = conn.to_node.drain(..piece).collect();
        if conn.haunts && piece > 0 {
            self.facts.last_haunted[conn.node] = Some(self.facts.now);
        }
        let node = &mut self.facts.nodes[conn.node];
        let hiccups = node.ledger.hiccups;
        self.moved += bytes.len() as u64;
        let mut out = Vec::new();
        conn.session.feed(node, &bytes, &mut out);
        if !conn.closed {
            conn.from_node.extend(out);
        }
        let (number, hiccups) = (conn.node, node.ledger.hiccups > hiccups);
        self.facts.look(number);
        if hiccups {
            self.fault(number);
        }
        self.conns.retain(|c| !c.closed || !c.to_node.is_empty());
    }

    pub(super) fn read_conn(&mut self, i: usize) {
        let waiting = self.conns[i].from_node.len();
        let mut piece = self.piece(waiting);
        let now = self.now();
        let conn = &mut self.conns[i];
        if conn.parked || conn.closed {
            return;
        }
        if conn.deaf {
            piece = 0;
        } else if self.moods[conn.node].drips > now.0 {
            piece = piece.min(1);
        }
        if !self.core.upstream_may_read(conn.id) {
            conn.parked = true;
        } else if piece == 0 {
            self.core.upstream_drained();
        } else if !self.pass(i, piece) {
            let bytes = self.take_from_node(i, piece);
            let conn = &mut self.conns[i];
            conn.welcome |= bytes.contains(&b'\n');
            if self.rng.one_in(2) {
                self.buffer.space()[..piece].copy_from_slice(&bytes);
                self.core.upstream_read(conn.id, &mut self.buffer, piece, now);
                if conn.from_node.is_empty() {
                    self.core.upstream_drained();
                }
            } else {
                self.core.upstream_input(conn.id, &bytes, now);
            }
        }
        self.carry_out();
    }

    fn take_from_node(&mut self, i: usize, piece: usize) -> Vec<u8> {
        let conn = &mut self.conns[i];
        self.moved += 1;
        if let Some(link) = self.links.get_mut(&conn.id)
            && link.read(piece, &mut conn.session.answers, self.facts.now)
        {
            self.silent[conn.node] = false;
        }
        conn.from_node.drain(..piece).collect()
    }

    /// A piece of a long value passes to its client by itself, as much as that one takes. Returns whether it did.
    fn pass(&mut self, i: usize, piece: usize) -> bool {
        let (id, now) = (self.conns[i].id, self.now());
        let Some((to, most)) = self.core.upstream_passes(id).filter(|_| self.rng.one_in(2)) else { return false };
        self.flush_client(to);
        let is_next = self.core.client_out(to).is_some_and(OutBuf::is_empty);
        let Some(client) = self.clients.iter().position(|client| client.id == to && is_next) else { return false };
        let room = self.clients[client].room.saturating_sub(self.clients[client].kernel.len());
        let piece = piece.min(most).min(room);
        if piece == 0 {
            return false;
        }
        let bytes = self.take_from_node(i, piece);
        self.clients[client].kernel.extend_from_slice(&bytes);
        self.core.upstream_passed(id, to, piece, now);
        self.tally.passed += 1;
        true
    }
}
