//! Bytes to and from the nodes, and what befalls these.

use std::time::Duration;

use slipring::proxy::{ClientId, FailReason, OutBuf, UpstreamId};

use super::super::node::{Kind, Lie};
use super::super::{cut, show};
use super::{Conn, World, taken, topology, write_size};

impl World<'_> {
    /// Writes what waits; the sockets whose bit is set are full after the first piece.
    pub(super) fn flush(&mut self, blocks: u16) {
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        self.core.take_dirty(&mut clients, &mut upstreams);
        let mut blocks = (0..16).map(|bit| blocks >> bit & 1 == 1).chain(std::iter::repeat(false));
        for id in upstreams.drain(..) {
            self.flush_upstream(id, blocks.next() == Some(true));
        }
        for id in clients.drain(..) {
            self.flush_client(id, blocks.next() == Some(true));
        }
        self.core.reuse_dirty(clients, upstreams);
        self.carry_out();
    }

    fn flush_upstream(&mut self, id: UpstreamId, blocks: bool) {
        let now = self.now();
        let Some(conn) = self.conns.iter_mut().find(|c| c.id == id && !c.blocked) else { return };
        while let Some(out) = self.core.upstream_out(id).filter(|out| !out.is_empty()) {
            let room = conn.room.saturating_sub(conn.to_node.len());
            if room == 0 || conn.blocked {
                conn.blocked = true;
                break;
            }
            conn.blocked = blocks;
            let bytes = taken(out, room.min(write_size(self.write, out)));
            conn.to_node.extend(&bytes);
            self.core.upstream_written(id, bytes.len(), now);
        }
    }

    fn flush_client(&mut self, id: ClientId, blocks: bool) {
        let now = self.now();
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id && !c.blocked) else { return };
        while let Some(out) = self.core.client_out(id).filter(|out| !out.is_empty()) {
            let room = client.room.saturating_sub(client.kernel.len());
            if room == 0 || client.blocked {
                client.blocked = true;
                self.core.client_blocked(id);
                break;
            }
            client.blocked = blocks;
            let bytes = taken(out, room.min(write_size(self.write, out)));
            client.kernel.extend(&bytes);
            self.core.client_written(id, bytes.len(), now);
        }
    }

    pub(super) fn unblock(&mut self) {
        for conn in &mut self.conns {
            if conn.blocked && conn.to_node.len() < conn.room {
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

    pub(super) fn run_node(&mut self, i: usize, piece: usize) {
        let conn = &mut self.conns[i];
        let bytes = cut(&mut conn.to_node, piece);
        self.moved += bytes.len() as u64;
        let id = conn.id;
        if !bytes.is_empty() {
            self.say(|| format!("{id:?} takes {}", show(&bytes)));
        }
        let conn = &mut self.conns[i];
        let mut out = Vec::new();
        conn.session.feed(&mut self.nodes[conn.node], &mut self.truth, &bytes, &self.keys, &mut out);
        if !out.is_empty() {
            conn.injected.clear();
        }
        conn.from_node.extend(&out);
        // Of several memcacheds behind one address another may answer the next connection: that, too, takes a while.
        self.hung_up |= self.nodes[conn.node].is_mixed && conn.session.is_deaf();
        if conn.session.is_closed {
            // A node that speaks text only, asked in packets. That is no fault.
            self.close(i);
        }
    }

    pub(super) fn read_conn(&mut self, i: usize, piece: usize) {
        let now = self.now();
        let conn = &mut self.conns[i];
        if conn.parked {
            return;
        }
        if !self.core.upstream_may_read(conn.id) {
            conn.parked = true;
        } else if piece > 0 && !self.pass(i, piece) {
            let conn = &mut self.conns[i];
            let bytes = cut(&mut conn.from_node, piece);
            self.moved += 1;
            let id = conn.id;
            self.say(|| format!("{id:?} says {}", show(&bytes)));
            self.core.upstream_input(id, &bytes, now);
            self.carry_out();
            let taken = |conn: &Conn| conn.id == id && conn.session.must_close && conn.from_node.is_empty();
            assert!(!self.conns.iter().any(taken), "another request's packet was taken: {}", self.describe());
        }
        self.carry_out();
    }

    /// A piece of a long value passes to its client by itself, as much as that one takes. Returns whether it did.
    fn pass(&mut self, i: usize, piece: usize) -> bool {
        let (id, now) = (self.conns[i].id, self.now());
        let Some((to, most)) = self.core.upstream_passes(id) else { return false };
        // In the end nothing is chosen any more.
        if !self.calm && self.schedule.below(4) == 0 {
            return false;
        }
        self.flush_client(to, false);
        let is_next = self.core.client_out(to).is_some_and(OutBuf::is_empty);
        let Some(client) = self.clients.iter().position(|client| client.id == to && is_next) else { return false };
        let client = &mut self.clients[client];
        let room = client.room.saturating_sub(client.kernel.len());
        let piece = piece.min(most).min(if client.blocked { 0 } else { room });
        if piece == 0 {
            return false;
        }
        let bytes = cut(&mut self.conns[i].from_node, piece);
        client.kernel.extend(&bytes);
        self.moved += 1;
        self.core.upstream_passed(id, to, bytes.len(), now);
        self.say(|| format!("{id:?} passes {} bytes to {to:?}", bytes.len()));
        true
    }

    /// Says something that was not asked for, or makes the next reply a lie.
    pub(super) fn lie(&mut self, i: usize) {
        self.truth.lied = true;
        self.truth.shaken = true;
        let what = self.schedule.byte();
        let conn = &mut self.conns[i];
        let lie = match what % 16 {
            0..4 => Lie::Length(i64::from(what >> 4) - 8),
            4..6 => Lie::OtherKey(usize::from(what >> 4)),
            6 => Lie::Silence,
            7 => Lie::Error,
            8 => Lie::Twice,
            9 => Lie::NoEnd,
            10..13 => {
                let lines: [&[u8]; 16] = [
                    b"END\r\n",
                    b"STORED\r\n",
                    b"VALUE a 0 3\r\nlie\r\n",
                    b"VALUE a 0 1048577\r\n",
                    b"ERROR Too many open connections\r\n",
                    b"NOT_FOUND\r\n",
                    b"STAT a b\r\n",
                    b"VALUE large 0 4294967295\r\n",
                    b"HD\r\n",
                    b"EN\r\n",
                    b"VA 3\r\nlie\r\n",
                    b"VA 1048577 c1\r\n",
                    b"NF O1\r\n",
                    b"HD O2 ka\r\n",
                    b"ME a exp=-1\r\n",
                    b"MN\r\n",
                ];
                let line = lines[usize::from(what >> 4) % lines.len()];
                if conn.session.speaks_packets() && what % 16 != 12 {
                    return self.inject(i, &packet(what));
                }
                return self.inject(i, line);
            }
            _ => {
                let len = self.schedule.below(32).min(self.schedule.0.len());
                let bytes = self.schedule.0.bytes(len).unwrap_or_default().to_vec();
                return self.inject(i, &bytes);
            }
        };
        conn.session.lie = Some(lie);
        let id = conn.id;
        self.say(|| format!("{id:?} will lie: {lie:?}"));
    }

    fn inject(&mut self, i: usize, bytes: &[u8]) {
        let conn = &mut self.conns[i];
        conn.from_node.extend(bytes);
        conn.injected.extend_from_slice(bytes);
        let id = conn.id;
        // What is said of these keys cannot be trusted.
        let injected = &*conn.injected;
        for at in 0..injected.len() {
            let rest = injected[at..].strip_prefix(b"VALUE ").unwrap_or_default();
            if let Some(end) = rest.iter().position(|&b| b == b' ') {
                self.truth.poisoned.insert(rest[..end].to_vec());
            }
        }
        self.say(|| format!("{id:?} will say {}", show(bytes)));
    }

    pub(super) fn lose(&mut self, i: usize) {
        self.truth.shaken = true;
        self.close(i);
    }

    fn close(&mut self, i: usize) {
        let id = self.conns[i].id;
        self.say(|| format!("{id:?} is lost"));
        self.hung_up = true;
        self.close_conn(i);
        self.core.upstream_failed(id, FailReason::Closed, self.now());
        self.carry_out();
    }

    pub(super) fn toggle_node(&mut self) {
        self.truth.shaken = true;
        let node = self.schedule.below(self.up.len());
        self.up[node] = !self.up[node];
        let how = self.schedule.byte();
        if how & 1 == 0 {
            self.nodes[node].wipe();
        }
        if how >= 192 && self.up[node] {
            self.nodes[node].usual = Kind::of(usize::from(how >> 1));
        }
        while let Some(i) = self.conns.iter().position(|c| c.node == node && !self.up[node]) {
            self.lose(i);
        }
    }

    /// The ring changes: a node leaves, joins or has another address.
    pub(super) fn turn(&mut self) {
        let node = self.schedule.below(self.ring.len());
        let place = self.schedule.pick(&[0, 1, 2]);
        let old = std::mem::replace(&mut self.ring[node], place);
        if self.ring.iter().all(|place| *place == 0) {
            self.ring[node] = old.max(1);
        }
        self.set_ring();
    }

    pub(super) fn set_ring(&mut self) {
        self.say(|| format!("the ring is {:?}", self.ring));
        // A connection that is silent for a moment may be given up.
        self.truth.shaken |= self.settings.drain_timeout < Duration::from_secs(1);
        self.core.set_topology(topology(&self.ring), self.now());
        self.carry_out();
    }
}

/// A packet of a node that nobody has asked for, or a piece of one.
fn packet(what: u8) -> Vec<u8> {
    let (opcode, extras, status, body): (u8, u8, u8, &[u8]) = match what >> 4 {
        0..4 => (0x0a, 0, 0, b""),
        4..8 => (0x01, 0, 0, b""),
        8..10 => (0x00, 0, 1, b"Not found"),
        10..12 => (0x00, 4, 0, b"\0\0\0\0lie"),
        12 => (0x05, 0, 0, b"\0\0\0\0\0\0\0\x07"),
        13 => (0x1c, 4, 0, b"\0\0\0\0"),
        14 => (0x04, 0, 0x84, b"gone\r\n"),
        _ => return vec![0x81; 12],
    };
    let mut out = vec![0x81, opcode, 0, 0, extras, 0, 0, status, 0, 0, 0, body.len() as u8];
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(body);
    out
}
