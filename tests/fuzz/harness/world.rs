//! The whole core, driven as the rim drives it by a schedule that the input spells.
//!
//! Each step takes a byte that says what happens and a few that say to whom and how much. When the
//! bytes are used up everything calms down: nodes come back and tell the truth, sockets take what
//! they are given, time passes. Then every reply that is owed must have come.
//!
//! As in the rim, a socket that the core does not want read is looked at again only when it is
//! woken, and one that took less than it was given only when it has room.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arbitrary::Unstructured;
use slipring::config::OnNodeDown;
use slipring::metrics::Cells;
use slipring::proxy::{ClientId, Core, Effect, FailReason, MAX_SLICES, OutBuf, Settings, UpstreamId};
use slipring::routing::{Node as Member, Topology};
use slipring::time::Tick;

use super::client::Client;
use super::node::{Lie, Node, Session, Truth};
use super::{cut, show};

const MAX_CLIENTS: usize = 6;
/// A step without a jump, in microseconds: all steps of a run are shorter than any time-out.
const STEP: u64 = 5;
/// Bytes that one read or write moves at most, as in the rim.
const SCRATCH: usize = 64 << 10;
/// What is done in the end is done in this time, in microseconds, however long the back-off is.
const RECOVERY: u64 = 120_000_000;

/// Runs the core through a schedule.
pub fn core(data: &[u8]) {
    World::new(data).run();
}

/// Bytes as numbers; zeros when there are none left.
#[derive(Debug)]
struct Schedule<'a>(Unstructured<'a>);

impl Schedule<'_> {
    fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// How many of so many bytes are moved.
    fn piece(&mut self, waiting: usize) -> usize {
        let n = match self.byte() {
            0 => 1,
            code @ 1..80 => usize::from(code),
            code @ 80..120 => usize::from(code) * 100,
            _ => SCRATCH,
        };
        n.min(waiting)
    }
}

/// A connection to a node, seen from the rim.
#[derive(Debug)]
struct Conn {
    id: UpstreamId,
    node: usize,
    to_node: VecDeque<u8>,
    from_node: VecDeque<u8>,
    session: Session,
    room: usize,
    blocked: bool,
    parked: bool,
    /// What was injected since the node's last own word.
    injected: Vec<u8>,
}

#[derive(Debug)]
enum Timer {
    Dial(UpstreamId),
    /// The connection to this host is made, or fails.
    Dialled(UpstreamId, Arc<str>),
    Tick,
}

#[derive(Debug)]
struct World<'a> {
    schedule: Schedule<'a>,
    core: Core,
    cells: Arc<Cells>,
    settings: Settings,
    truth: Truth,
    now: u64,
    clients: Vec<Client>,
    conns: Vec<Conn>,
    nodes: Vec<Node>,
    up: Vec<bool>,
    /// For each node: 0 is not in the ring, else the number of its address.
    ring: Vec<u8>,
    timers: Vec<(u64, Timer)>,
    keys: Vec<Vec<u8>>,
    /// Most bytes of a write.
    write: usize,
    /// Large values that may still be asked for or sent.
    large: usize,
    /// Meta requests that were asked.
    opaques: usize,
    /// In the end the worker stops, else the clients leave.
    stops: bool,
    /// The end has come: nothing is slow any more.
    calm: bool,
    /// Grows with everything that is delivered.
    moved: u64,
    trace: bool,
}

impl<'a> World<'a> {
    fn new(data: &'a [u8]) -> Self {
        let mut schedule = Schedule(Unstructured::new(data));
        let count = 1 + schedule.below(3);
        let mut settings = Settings {
            max_value: schedule.pick(&[128 << 20, 128 << 20, 1500, 0]),
            drain_timeout: Duration::from_millis(schedule.pick(&[5000, 200, 0])),
            request_timeout: Duration::from_millis(schedule.pick(&[500, 50])),
            queue_timeout: Duration::from_millis(schedule.pick(&[250, 50])),
            // The last is less than can be chosen, but here little is in flight.
            buffer_limit: schedule.pick(&[64 << 20, 8 << 20, 3 << 20, 1_500_000]),
            lanes: 1 + schedule.below(2),
            deny_flush_all: schedule.below(8) == 7,
            merge_gets: schedule.below(4) != 3,
            on_node_down: schedule.pick(&[OnNodeDown::Miss, OnNodeDown::Error]),
            started_at: 1_700_000_000,
            ..Settings::default()
        };
        // A list of nodes, or none before the first change of the ring.
        let first = schedule.byte();
        let known = first % 8 != 7;
        let ring: Vec<u8> = (0..count).map(|_| u8::from(known)).collect();
        let mut truth = Truth::default();
        truth.shaken = !known || settings.buffer_limit < 64 << 20;
        let keys = keys();
        let mut nodes: Vec<Node> = (0..count).map(|_| Node::default()).collect();
        for (number, node) in nodes.iter_mut().enumerate() {
            // Most are of the usual version.
            node.set_version(if first >> 6 == 3 { usize::from(first >> 3) + number } else { 0 }, &mut truth);
            for (key, len) in keys.iter().zip([0, 10, 3000, 20_000, 100, 70_000]) {
                node.put(key, len, &mut truth);
            }
            node.put(b"large", (1 << 20) + 1000, &mut truth);
            node.put(b"larger", (1 << 20) + 300_000, &mut truth);
        }
        let write = schedule.pick(&[SCRATCH, 1000, 40, 3]);
        // Small values stand for large ones, else a run would be long.
        settings.bulk_above = schedule.pick(&[1 << 20, 20_000, 1000, 0]);
        let stops = schedule.below(2) == 1;
        let cells = Arc::new(Cells::new(1));
        Self {
            core: Core::new(topology(&ring), settings.clone(), Arc::clone(&cells), 0),
            cells,
            settings,
            truth,
            now: 0,
            clients: Vec::new(),
            conns: Vec::new(),
            nodes,
            up: vec![true; count],
            ring,
            timers: Vec::new(),
            keys,
            write,
            stops,
            large: 6,
            opaques: 0,
            calm: false,
            moved: 0,
            trace: std::env::var_os("FUZZ_TRACE").is_some(),
            schedule,
        }
    }

    fn run(mut self) {
        self.carry_out();
        while !self.schedule.0.is_empty() {
            self.step();
        }
        self.calm_down();
        self.check_nothing_is_owed();
        self.check_that_nodes_answer();
        self.check_that_clients_can_go();
    }

    fn now(&self) -> Tick {
        Tick(self.now)
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9} {}", self.now, what());
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let step = self.schedule.byte();
        match step % 64 {
            0..2 if self.clients.len() < MAX_CLIENTS => self.connect_client(),
            // The seeds are older than the meta commands, and have 200.
            2..16 if step >= 192 && step != 200 && step != 202 => self.some_client(Self::ask_meta),
            2..16 => self.some_client(Self::ask),
            16..20 => self.some_client(Self::babble),
            20..26 => self.some_client(|world, i| {
                let piece = world.schedule.piece(world.clients[i].outbox.len());
                world.read_client(i, piece);
            }),
            26..32 => {
                let blocks = u16::from_le_bytes([self.schedule.byte(), self.schedule.byte()]);
                self.flush(blocks);
            }
            32..38 => self.some_conn(|world, i| {
                let piece = world.schedule.piece(world.conns[i].to_node.len());
                world.run_node(i, piece);
            }),
            38..44 => self.some_conn(|world, i| {
                let piece = world.schedule.piece(world.conns[i].from_node.len());
                world.read_conn(i, piece);
            }),
            44..47 => self.some_client(|world, i| {
                let piece = world.schedule.piece(world.clients[i].kernel.len());
                world.client_takes(i, piece);
            }),
            47 => self.some_client(|world, i| world.clients[i].reads ^= true),
            48 => self.unblock(),
            49 => self.some_client(|world, i| world.clients[i].fin = true),
            50 => self.some_client(|world, i| {
                let client = world.clients.swap_remove(i);
                world.say(|| format!("{:?} is gone", client.id));
                world.core.client_gone(client.id);
                world.carry_out();
            }),
            51..53 => self.some_conn(Self::lie),
            53 => self.some_conn(Self::lose),
            54 => self.toggle_node(),
            55 => self.turn(),
            56 => self.run_timers(),
            57 => {
                let jump = self.schedule.pick(&[1_000, 60_000, 300_000, 1_000_000, 6_000_000, 100_000_000]);
                self.truth.shaken = true;
                self.now += jump;
                self.run_timers();
            }
            _ => self.round(),
        }
    }

    fn some_client(&mut self, act: impl FnOnce(&mut Self, usize)) {
        if self.clients.is_empty() {
            return self.connect_client();
        }
        let i = self.schedule.below(self.clients.len());
        act(self, i);
    }

    fn some_conn(&mut self, act: impl FnOnce(&mut Self, usize)) {
        if self.conns.is_empty() {
            return self.run_timers();
        }
        let i = self.schedule.below(self.conns.len());
        act(self, i);
    }

    // === effects ===

    fn carry_out(&mut self) {
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
    fn close_conn(&mut self, i: usize) {
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

    // === time ===

    fn run_timers(&mut self) {
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

    fn next_timer(&self) -> Option<usize> {
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
        self.conns.push(Conn {
            id,
            node,
            to_node: VecDeque::new(),
            from_node: VecDeque::new(),
            session: Session::default(),
            room,
            blocked: false,
            parked: false,
            injected: Vec::new(),
        });
        self.core.upstream_connected(id, self.now());
    }

    // === clients ===

    fn connect_client(&mut self) {
        let room = self.schedule.pick(&[SCRATCH, 1 << 20, 5000, 50]);
        self.clients.push(Client::new(self.core.client_connected(), room));
    }

    fn send(&mut self, i: usize, bytes: &[u8]) {
        let client = &mut self.clients[i];
        client.send(bytes, &self.settings, &mut self.truth);
        let id = client.id;
        self.say(|| format!("{id:?} sends {}", show(bytes)));
    }

    /// Sends whatever the schedule holds.
    fn babble(&mut self, i: usize) {
        let len = self.schedule.below(48).min(self.schedule.0.len());
        let mut bytes = self.schedule.0.bytes(len).unwrap_or_default().to_vec();
        if self.schedule.below(2) == 0 {
            bytes.extend_from_slice(b"\r\n");
        }
        self.send(i, &bytes);
    }

    fn key(&mut self) -> Vec<u8> {
        let n = self.schedule.below(16);
        match self.keys.get(n) {
            Some(key) => key.clone(),
            None if n >= 14 && self.large > 0 => {
                self.large -= 1;
                [b"large".as_slice(), b"larger"][n - 14].to_vec()
            }
            None => self.keys[0].clone(),
        }
    }

    /// Sends one request, most of the time a good one.
    fn ask(&mut self, i: usize) {
        let kind = self.schedule.byte();
        let line = match kind % 32 {
            0..10 => [b"get ", &*self.key()].concat(),
            10..14 => {
                let verb: &[u8] = self.schedule.pick(&[b"get", b"gets", b"gat 0", b"gats -1"]);
                let count = self.schedule.pick(&[2, 3, 5, 40, 200]);
                let first = self.schedule.below(self.keys.len());
                let all = (first..first + count).map(|n| &*self.keys[n % self.keys.len()]);
                std::iter::once(verb).chain(all).collect::<Vec<_>>().join(&b' ')
            }
            14..24 => return self.ask_store(i),
            24 => [b"delete ", &*self.key()].concat(),
            25 => [b"incr ", &*self.key(), b" 5"].concat(),
            26 => [b"touch ", &*self.key(), b" 0"].concat(),
            27 => b"flush_all".to_vec(),
            28 => self.schedule.pick(&[b"stats".as_slice(), b"stats nodes", b"stats reset", b"stats sum"]).to_vec(),
            29 => self.schedule.pick(&[b"version".as_slice(), b"verbosity 1", b"nonsense", b"get"]).to_vec(),
            30 => b"mn".to_vec(),
            _ => self.schedule.pick(&[b"mn".as_slice(), b"quit", b"set k 0 0", b"GET / HTTP/1.1"]).to_vec(),
        };
        let quiet = kind >= 224 && (24..28).contains(&(kind % 32));
        self.send(i, &[&*line, if quiet { b" noreply\r\n" } else { b"\r\n" }].concat());
    }

    fn ask_store(&mut self, i: usize) {
        let verb = self.schedule.pick(&["set", "set", "set", "add", "replace", "append", "prepend", "cas"]);
        let key = self.key();
        let how = self.schedule.byte();
        let mut len = self.schedule.pick(&[1, 10, 100, 1400, 5000, 30_000, 1 << 20, (1 << 20) + 1]);
        if len >= 1 << 20 && !key.starts_with(b"large") {
            // Multigets repeat the others: a run would take seconds.
            len = 50;
        }
        let flags = self.schedule.pick(&["0", "4294967295"]);
        let exptime = self.schedule.pick(&["0", "0", "0", "-1"]);
        let unique = if verb == "cas" { " 3" } else { "" };
        let quiet = if how & 3 == 3 { " noreply" } else { "" };
        let mut bytes = format!("{verb} ").into_bytes();
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(format!(" {flags} {exptime} {len}{unique}{quiet}\r\n").as_bytes());
        // The block looks like requests, which are done only where a block before it did not end. Of a
        // large one there would be too many.
        let filling: &[u8] =
            if len < 1 << 20 { b"delete a\r\nset a 0 0 1\r\nx\r\nflush_all\r\n" } else { b"set a 0 0 1 " };
        let skip = usize::from(how) % filling.len();
        bytes.extend_from_slice(&filling.repeat(len / filling.len() + 2)[skip..skip + len]);
        match how % 16 {
            // It does not end as it must, or it does not end.
            5 => bytes.extend_from_slice(b"xy"),
            6 => {}
            _ => bytes.extend_from_slice(b"\r\n"),
        }
        self.send(i, &bytes);
    }

    /// Sends one meta request, most of the time a good one.
    fn ask_meta(&mut self, i: usize) {
        let verb = self.schedule.pick(&["mg", "mg", "mg", "mg", "ms", "ms", "ms", "md", "ma", "ma", "me", "mn"]);
        let mut key = self.key();
        let (how, what) = (self.schedule.byte(), self.schedule.byte());
        let mut line = verb.as_bytes().to_vec();
        let mut flags: Vec<Vec<u8>> = Vec::new();
        if how & 7 == 7 {
            if how & 8 == 8 {
                // A key that text cannot carry.
                key = b"\0 x\r\nflush_all\r\n".to_vec();
            }
            if key.len() <= 180 {
                key = data_encoding::BASE64.encode(&key).into_bytes();
                flags.push(b"b".to_vec());
            }
        }
        line.extend([b" ", &*key].concat());
        let mut len = 0;
        if verb == "ms" {
            len = self.schedule.pick(&[1, 10, 100, 1400, 5000, 30_000, 1 << 20, (1 << 20) + 1]);
            if len >= 1 << 20 && !key.starts_with(b"large") {
                len = 50;
            }
            line.extend_from_slice(format!(" {len}").as_bytes());
        }
        self.opaques += 1;
        let own: [&str; 4] = match verb {
            "mg" => ["v", "T0", "N30", "T-1"],
            "ms" => ["ME", "MA", "C3", "T-1"],
            "md" => ["C3", "I", "T30", "C1"],
            _ => ["v", "N0", "D5", "J7"],
        };
        let opaque = format!("O{}", self.opaques);
        let asked: [&str; 8] =
            [own[0], own[1], own[2], own[3], "k", &opaque, "q", ["c", "s", "f", "E9"][usize::from(how >> 6)]];
        for (bit, flag) in asked.iter().enumerate() {
            let twice = flags.iter().any(|other| other[0] == flag.as_bytes()[0]);
            if what >> bit & 1 == 1 && !twice {
                flags.push(flag.as_bytes().to_vec());
            }
        }
        for flag in flags {
            line.extend([b" ", &*flag].concat());
        }
        line.extend_from_slice(b"\r\n");
        if verb == "ms" {
            let filling: &[u8] = b"mg a v\r\nms a 1\r\nx\r\nflush_all\r\n";
            line.extend_from_slice(&filling.repeat(len / filling.len() + 1)[..len]);
            line.extend_from_slice(if how & 0x38 == 0x30 { b"xy" } else { b"\r\n" });
        }
        self.send(i, &line);
    }

    fn read_client(&mut self, i: usize, piece: usize) {
        let now = self.now();
        let client = &mut self.clients[i];
        if client.parked {
            return;
        }
        if !self.core.client_may_read(client.id) {
            client.parked = !self.core.client_turn(client.id, now);
        } else if piece > 0 {
            let bytes = cut(&mut client.outbox, piece);
            self.moved += 1;
            self.core.client_input(client.id, &bytes, now);
        } else if client.outbox.is_empty() && client.fin && !client.ended {
            client.ended = true;
            self.core.client_ended(client.id);
        }
        self.carry_out();
    }

    fn client_takes(&mut self, i: usize, bytes: usize) {
        self.moved += bytes as u64;
        self.clients[i].take(bytes, &mut self.truth);
    }

    // === writing ===

    /// Writes what waits; the sockets whose bit is set are full after the first piece.
    fn flush(&mut self, blocks: u16) {
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

    fn unblock(&mut self) {
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

    // === nodes ===

    fn run_node(&mut self, i: usize, piece: usize) {
        let conn = &mut self.conns[i];
        let bytes = cut(&mut conn.to_node, piece);
        self.moved += bytes.len() as u64;
        let mut out = Vec::new();
        conn.session.feed(&mut self.nodes[conn.node], &mut self.truth, &bytes, &self.keys, &mut out);
        if !out.is_empty() {
            conn.injected.clear();
        }
        conn.from_node.extend(&out);
    }

    fn read_conn(&mut self, i: usize, piece: usize) {
        let now = self.now();
        let conn = &mut self.conns[i];
        if conn.parked {
            return;
        }
        if !self.core.upstream_may_read(conn.id) {
            conn.parked = true;
        } else if piece > 0 {
            let bytes = cut(&mut conn.from_node, piece);
            self.moved += 1;
            let id = conn.id;
            self.say(|| format!("{id:?} says {}", show(&bytes)));
            self.core.upstream_input(id, &bytes, now);
        }
        self.carry_out();
    }

    /// Says something that was not asked for, or makes the next reply a lie.
    fn lie(&mut self, i: usize) {
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

    fn lose(&mut self, i: usize) {
        self.truth.shaken = true;
        let id = self.conns[i].id;
        self.say(|| format!("{id:?} is lost"));
        self.close_conn(i);
        self.core.upstream_failed(id, FailReason::Closed, self.now());
        self.carry_out();
    }

    fn toggle_node(&mut self) {
        self.truth.shaken = true;
        let node = self.schedule.below(self.up.len());
        self.up[node] = !self.up[node];
        let how = self.schedule.byte();
        if how & 1 == 0 {
            self.nodes[node].wipe();
        }
        if how >= 192 && self.up[node] {
            self.nodes[node].set_version(usize::from(how >> 1), &mut self.truth);
        }
        while let Some(i) = self.conns.iter().position(|c| c.node == node && !self.up[node]) {
            self.lose(i);
        }
    }

    /// The ring changes: a node leaves, joins or has another address.
    fn turn(&mut self) {
        let node = self.schedule.below(self.ring.len());
        let place = self.schedule.pick(&[0, 1, 2]);
        let old = std::mem::replace(&mut self.ring[node], place);
        if self.ring.iter().all(|place| *place == 0) {
            self.ring[node] = old.max(1);
        }
        self.set_ring();
    }

    fn set_ring(&mut self) {
        self.say(|| format!("the ring is {:?}", self.ring));
        // A connection that is silent for a moment may be given up.
        self.truth.shaken |= self.settings.drain_timeout < Duration::from_secs(1);
        self.core.set_topology(topology(&self.ring), self.now());
        self.carry_out();
    }

    // === the end ===

    /// Everything that is due, once.
    fn round(&mut self) {
        self.now += STEP;
        self.run_timers();
        self.flush(0);
        self.unblock();
        let conns: Vec<UpstreamId> = self.conns.iter().map(|c| c.id).collect();
        for id in conns {
            if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                self.run_node(i, self.conns[i].to_node.len());
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
    fn rest(&mut self) {
        let mut quiet = 0;
        for rounds in 0.. {
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
    fn calm_down(&mut self) {
        self.say(|| "calm".to_owned());
        self.calm = true;
        self.up.fill(true);
        self.write = SCRATCH;
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
        if !self.truth.shaken && !dials {
            // Nothing went wrong: no time need pass.
            self.check_nothing_is_owed();
        }
        let end = self.now + RECOVERY;
        while let Some(next) = self.next_timer().map(|i| self.timers[i].0).filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.rest();
        }
        self.now = end;
    }

    fn describe(&self) -> String {
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
    fn check_nothing_is_owed(&mut self) {
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

    /// Whatever happened, every node of the ring takes and gives values again.
    fn check_that_nodes_answer(&mut self) {
        let ring = topology(&self.ring);
        for place in 0..ring.nodes().len() {
            let on_node = |key: &String| usize::from(ring.route(key.as_bytes()).0) == place;
            let key = (0..).map(|n| format!("probe{n}")).find(on_node).unwrap();
            let mut client = Client::new(self.core.client_connected(), SCRATCH);
            client.strict = true;
            self.clients.push(client);
            let i = self.clients.len() - 1;
            let len = 20.min(self.settings.max_value);
            let value = "x".repeat(len);
            self.send(i, format!("set {key} 0 0 {len}\r\n{value}\r\nget {key}\r\n").as_bytes());
            self.rest();
            self.check_nothing_is_owed();
            assert_eq!(self.clients[i].hits, 1, "node {place} of {:?}", self.ring);
        }
    }

    /// Who sends its end is closed, and who is told to end; nothing is left of it.
    fn check_that_clients_can_go(&mut self) {
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

/// Keys that a careless comparison could take for one another, and the longest.
fn keys() -> Vec<Vec<u8>> {
    let long = [b"long".as_slice(), &[b'l'; 246]].concat();
    let all: [&[u8]; 8] = [b"a", b"ab", b"abc", b"noreply", b"0", b"t\tb", b"VALUE", &long];
    all.iter().map(|key| key.to_vec()).collect()
}

/// The ring of some nodes at some addresses. To build one takes longer than a run, so each is kept.
fn topology(ring: &[u8]) -> Arc<Topology> {
    static BUILT: Mutex<BTreeMap<Vec<u8>, Arc<Topology>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || {
        let member = |(number, place): (usize, &u8)| {
            let node = Member::new(&format!("node-{number}"), 11211, 1);
            (*place > 0).then(|| Arc::new(node.dialled_at(&format!("address-{place}"))))
        };
        let members: Vec<Arc<Member>> = ring.iter().enumerate().filter_map(member).collect();
        Arc::new(Topology::new(1, members).unwrap_or_else(|_| Topology::unknown()))
    };
    Arc::clone(built.entry(ring.to_vec()).or_insert_with(build))
}

/// The number in `node-2:11211`.
fn number_of(name: &str) -> usize {
    name["node-".len()..name.len() - ":11211".len()].parse().unwrap()
}

/// A few bytes at a time, but not of what is long.
fn write_size(most: usize, out: &OutBuf) -> usize {
    if out.len() > 4000 { SCRATCH } else { most }
}

/// The first bytes of what waits, at most so many.
fn taken(out: &OutBuf, most: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let filled = out.slices(&mut slices);
    let mut bytes = Vec::new();
    for slice in &slices[..filled] {
        bytes.extend_from_slice(&slice[..slice.len().min(most - bytes.len())]);
    }
    bytes
}
