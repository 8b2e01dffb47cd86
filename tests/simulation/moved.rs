//! A model check of moved keys: three sidecars over the core, in front of the same nodes, while a planned change goes
//! through its edits.
//!
//! Each sidecar sees the edits at its own time but in their order, and the next edit comes when all have seen the last.
//! Sidecars restart, each may be cut off from one node, nodes stall, die, return empty and evict; clients set, delete, add,
//! append, count and compare. What is checked, of sidecars that have seen the new ring:
//! - after a set, a delete or an append was acknowledged, no answer is older;
//! - a cas is not stored over something that was acknowledged after its value was read;
//! - an acknowledged increment is in every later answer of the same counter;
//! - a lock is held by one.
//!
//! What had no acknowledgement may be done, at any time or never, and is not checked. Two things are counted and allowed, for
//! what is read is older than what was acknowledged, but no sidecar that has the new ring has stored it after that:
//! - An old node restarts while some have swapped and others have not. Who was refused there takes its memory as lost, and
//!   until it has dialled it again it acknowledges without asking it. What one that has not swapped stores there meanwhile
//!   may then be read by one that was not refused.
//! - What was appended to a value whose `set` was never acknowledged goes with that value, when it is evicted; then its old
//!   place may still have what the `set` could not invalidate.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use slipring::metrics::Cells;
use slipring::proxy::{ClientId, Core, Effect, FailReason, Settings, UpstreamId};
use slipring::routing::{Before, Node as Member, Phase, Topology};
use slipring::time::Tick;

use crate::Rng;

const SEEDS: u64 = 256;
const SIDECARS: usize = 3;
/// A counter's value is its serial number times this, and its increments.
const COUNTER: u64 = 1_000_000;
/// From this edit on a sidecar has the new ring.
const SWAPPED: usize = 2;
const EDITS: usize = 5;

#[derive(Debug, Default)]
struct Node {
    items: BTreeMap<String, (String, u64)>,
    unique: u64,
    dead: bool,
    stalls_until: u64,
}

impl Node {
    fn put(&mut self, key: &str, data: String) {
        self.unique += 1;
        self.items.insert(key.to_owned(), (data, self.unique));
    }

    /// Acts on whole requests.
    fn feed(&mut self, bytes: &mut Vec<u8>, out: &mut Vec<u8>) {
        loop {
            let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") else { return };
            let line = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let stores = matches!(words[0], "set" | "add" | "append" | "cas");
            let len = if stores { words[4].parse::<usize>().unwrap() + 2 } else { 0 };
            if bytes.len() < end + 2 + len {
                return;
            }
            let data = String::from_utf8(bytes[end + 2..end + 2 + len].to_vec()).unwrap();
            let data = data.trim_end().to_owned();
            bytes.drain(..end + 2 + len);
            out.extend(self.act(&words, data).as_bytes());
        }
    }

    fn act(&mut self, words: &[&str], data: String) -> String {
        let key = words.get(1).copied().unwrap_or_default();
        let old = self.items.get(key).cloned();
        match (words[0], old) {
            ("version", _) => "VERSION 1.6.18\r\n".to_owned(),
            ("get" | "gets" | "gat", _) => {
                let first = if words[0] == "gat" { 2 } else { 1 };
                let mut all = String::new();
                for key in &words[first..] {
                    if let Some((data, unique)) = self.items.get(*key) {
                        let unique = if words[0] == "gets" { format!(" {unique}") } else { String::new() };
                        all += &format!("VALUE {key} 0 {}{unique}\r\n{data}\r\n", data.len());
                    }
                }
                all + "END\r\n"
            }
            ("mg", found) => if found.is_some() { "HD s1\r\n" } else { "EN\r\n" }.to_owned(),
            ("add", Some(_)) | ("append", None) => "NOT_STORED\r\n".to_owned(),
            ("append", Some((old, _))) => {
                self.put(key, format!("{old} {data}"));
                "STORED\r\n".to_owned()
            }
            ("cas" | "touch" | "delete" | "incr", None) => "NOT_FOUND\r\n".to_owned(),
            ("cas", Some((_, unique))) if unique.to_string() != words[5] => "EXISTS\r\n".to_owned(),
            ("set" | "add" | "cas", _) => {
                self.put(key, data);
                "STORED\r\n".to_owned()
            }
            ("touch", _) => "TOUCHED\r\n".to_owned(),
            ("delete", _) => {
                self.items.remove(key);
                "DELETED\r\n".to_owned()
            }
            ("incr", Some((old, _))) => {
                let new = old.parse::<u64>().unwrap() + words[2].parse::<u64>().unwrap();
                self.put(key, new.to_string());
                format!("{new}\r\n")
            }
            _ => panic!("a node was sent {words:?}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    Set,
    Delete,
    Append,
    /// Over this value; an empty one where it was read before the swap: then its unique may be another value's at the new
    /// place, as at any change of a ring.
    Cas {
        over: Vec<u64>,
    },
    Touch,
    Count,
    Create,
    ReadCounter,
    Lock,
    Unlock,
}

#[derive(Clone, Debug)]
struct Op {
    kind: Kind,
    key: String,
    serial: u64,
    began_at: u64,
    swapped: bool,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    asked: VecDeque<Op>,
    got: Vec<u8>,
    /// The last unique that it has read, of which key and value.
    unique: Option<(String, String, Vec<u64>)>,
}

#[derive(Debug)]
struct Conn {
    id: UpstreamId,
    node: usize,
    to_node: Vec<u8>,
    from_node: Vec<u8>,
    /// What the node has of a request that is not whole.
    begun: Vec<u8>,
    /// Its node has died, which nobody could say.
    broken: bool,
}

#[derive(Debug)]
enum Timer {
    Connect(UpstreamId),
    Fail(UpstreamId, FailReason),
    Tick,
}

#[derive(Debug)]
struct Sidecar {
    core: Core,
    edit: usize,
    clients: Vec<Client>,
    conns: Vec<Conn>,
    timers: Vec<(u64, Timer)>,
    /// The node that it cannot reach, and until when.
    cut: Option<(usize, u64)>,
}

/// A change, and what came of it.
#[derive(Clone, Debug)]
struct Write {
    op: Op,
    acknowledged_at: Option<u64>,
}

#[derive(Debug, Default)]
struct Facts {
    writes: BTreeMap<String, Vec<Write>>,
    /// The greatest acknowledged value of each counter, and when.
    counters: BTreeMap<u64, Vec<(u64, u64)>>,
    /// Who has a lock: since when, by which serial.
    locks: BTreeMap<String, (u64, u64)>,
    /// When locks were last lost: what was asked for before counts for none.
    lost_at: u64,
    told: u64,
    hits: u64,
    from_old: u64,
    /// Since the list was declared each node lost its memory first at this step.
    died_at: [Option<u64>; 4],
    /// Values of those that have not swapped that were read where they are older, for their node had restarted.
    after_restarts: u64,
    /// Values that were read where they are older than what was appended to a `set` in doubt.
    after_doubt: u64,
}

#[derive(Debug)]
struct World {
    rng: Rng,
    now: u64,
    /// Grows with every step: the order of what happens.
    step: u64,
    serial: u64,
    nodes: Vec<Node>,
    edits: Vec<Arc<Topology>>,
    /// The last edit that was made.
    edit: usize,
    sidecars: Vec<Sidecar>,
    /// What was on its way when a connection was given up.
    ghosts: Vec<(usize, Vec<u8>)>,
    facts: Facts,
    faults: bool,
}

fn ring(nodes: &[usize]) -> Topology {
    let nodes = nodes.iter().map(|n| Arc::new(Member::new(&format!("node-{n}"), 11211, 1))).collect();
    Topology::new(1, nodes).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // Out, another pool, or in.
        let (old, new): (&[usize], &[usize]) =
            [(&[0, 1][..], &[0, 1, 2, 3][..]), (&[0, 1], &[2, 3]), (&[0, 1, 2], &[2])][rng.below(3)];
        let before = Before::new(ring(old), Phase::Reading);
        let ending = before.in_phase(Phase::Ending);
        let before = Arc::new(before);
        let edits = vec![
            ring(old),
            ring(old).with_before(Some(Arc::clone(&before))),
            ring(new).with_before(Some(before)),
            ring(new).with_before(Some(Arc::new(ending))),
            ring(new),
        ];
        let edits: Vec<Arc<Topology>> = edits.into_iter().map(Arc::new).collect();
        let faults = !rng.one_in(4);
        let mut world = Self {
            rng,
            now: 1_000_000,
            step: 0,
            serial: 0,
            nodes: (0..4).map(|_| Node::default()).collect(),
            sidecars: Vec::new(),
            edits,
            edit: 0,
            ghosts: Vec::new(),
            facts: Facts::default(),
            faults,
        };
        for _ in 0..SIDECARS {
            let sidecar = world.start();
            world.sidecars.push(sidecar);
        }
        for s in 0..SIDECARS {
            world.apply(s);
        }
        world
    }

    /// One that starts sees what is declared now. What old nodes have lost is not known to it.
    fn start(&mut self) -> Sidecar {
        let topology = self.fresh(self.edit);
        let settings =
            Settings { seed: self.rng.next(), request_timeout: Duration::from_millis(200), ..Settings::default() };
        let core = Core::new(topology, settings, Arc::new(Cells::new(1)), 0);
        Sidecar { core, edit: self.edit, clients: Vec::new(), conns: Vec::new(), timers: Vec::new(), cut: None }
    }

    /// A topology of this process alone.
    fn fresh(&self, edit: usize) -> Arc<Topology> {
        let topology = &self.edits[edit];
        let Some(before) = topology.before() else { return Arc::clone(topology) };
        let numbers = |topology: &Topology| -> Vec<usize> {
            topology.nodes().iter().map(|node| node.host.strip_prefix("node-").unwrap().parse().unwrap()).collect()
        };
        let other = Before::new(ring(&numbers(before.ring())), before.phase());
        Arc::new(ring(&numbers(topology)).with_before(Some(Arc::new(other))))
    }

    fn apply(&mut self, s: usize) {
        let mut effects = Vec::new();
        loop {
            let sidecar = &mut self.sidecars[s];
            sidecar.core.take_effects(&mut effects);
            if effects.is_empty() {
                return;
            }
            for effect in effects.drain(..) {
                match effect {
                    Effect::Connect(id, wait) => {
                        let Some(node) = sidecar.core.upstream_node(id) else { continue };
                        let node: usize = node.host.strip_prefix("node-").unwrap().parse().unwrap();
                        let at = Tick(self.now).after(wait).0 + self.rng.below(2000) as u64;
                        sidecar.timers.push((at, Timer::Connect(id)));
                        let (to_node, from_node, begun) = (Vec::new(), Vec::new(), Vec::new());
                        sidecar.conns.push(Conn { id, node, to_node, from_node, begun, broken: false });
                    }
                    Effect::CloseUpstream(id) | Effect::ResetUpstream(id) => {
                        let Some(at) = sidecar.conns.iter().position(|conn| conn.id == id) else { continue };
                        let conn = sidecar.conns.swap_remove(at);
                        if conn.broken {
                            continue;
                        }
                        self.ghosts.push((conn.node, [conn.begun, conn.to_node].concat()));
                    }
                    Effect::CloseClient(id) | Effect::ResetClient(id) => sidecar.clients.retain(|c| c.id != id),
                    Effect::Tick(wait) => sidecar.timers.push((Tick(self.now).after(wait).0, Timer::Tick)),
                    Effect::WakeClient(id) => {
                        sidecar.core.client_turn(id, Tick(self.now));
                    }
                    Effect::WakeUpstream(_) => {}
                }
            }
        }
    }

    fn is_cut(&self, s: usize, node: usize) -> bool {
        self.sidecars[s].cut.is_some_and(|(cut, until)| cut == node && until > self.now)
    }

    fn timers(&mut self, s: usize) {
        let now = self.now;
        let Some(at) = self.sidecars[s].timers.iter().position(|(at, _)| *at <= now) else { return };
        let (_, timer) = self.sidecars[s].timers.swap_remove(at);
        match timer {
            Timer::Tick => {
                if let Some(at) = self.sidecars[s].core.tick(Tick(now)) {
                    self.sidecars[s].timers.push((at.0, Timer::Tick));
                }
            }
            Timer::Connect(id) => {
                let Some(node) = self.sidecars[s].conns.iter().find(|conn| conn.id == id).map(|conn| conn.node) else {
                    return;
                };
                if self.is_cut(s, node) {
                    self.sidecars[s].timers.push((now + 250_000, Timer::Fail(id, FailReason::ConnectTimeout)));
                } else if self.nodes[node].dead {
                    self.sidecars[s].core.upstream_failed(id, FailReason::Connect, Tick(now));
                } else {
                    self.sidecars[s].core.upstream_connected(id, Tick(now));
                }
            }
            Timer::Fail(id, reason) => self.sidecars[s].core.upstream_failed(id, reason, Tick(now)),
        }
        self.apply(s);
    }

    /// Writes what waits; the kernel takes all.
    fn flush(&mut self, s: usize) {
        let now = Tick(self.now);
        let Sidecar { core, conns, clients, .. } = &mut self.sidecars[s];
        let (mut dirty, mut lanes) = (Vec::new(), Vec::new());
        core.take_dirty(&mut dirty, &mut lanes);
        for id in lanes {
            while let Some(bytes) = core.upstream_out(id).map(all).filter(|bytes| !bytes.is_empty()) {
                core.upstream_written(id, bytes.len(), now);
                if let Some(conn) = conns.iter_mut().find(|conn| conn.id == id) {
                    conn.to_node.extend(bytes);
                }
            }
        }
        for id in dirty {
            while let Some(bytes) = core.client_out(id).map(all).filter(|bytes| !bytes.is_empty()) {
                core.client_written(id, bytes.len(), now);
                if let Some(client) = clients.iter_mut().find(|client| client.id == id) {
                    client.got.extend(bytes);
                }
            }
        }
        self.apply(s);
        self.hear(s);
    }

    fn run_node(&mut self, s: usize) {
        let count = self.sidecars[s].conns.len();
        if count == 0 {
            return;
        }
        let at = self.rng.below(count);
        let node = self.sidecars[s].conns[at].node;
        if self.is_cut(s, node) || self.nodes[node].stalls_until > self.now {
            return;
        }
        if self.sidecars[s].conns[at].broken {
            let conn = self.sidecars[s].conns.swap_remove(at);
            self.sidecars[s].core.upstream_failed(conn.id, FailReason::Closed, Tick(self.now));
            return self.apply(s);
        }
        if self.nodes[node].dead {
            return;
        }
        let conn = &mut self.sidecars[s].conns[at];
        let taken = if self.rng.one_in(3) { self.rng.below(conn.to_node.len() + 1) } else { conn.to_node.len() };
        conn.begun.extend(conn.to_node.drain(..taken));
        self.nodes[node].feed(&mut conn.begun, &mut conn.from_node);
    }

    fn read_node(&mut self, s: usize) {
        let count = self.sidecars[s].conns.len();
        if count == 0 {
            return;
        }
        let at = self.rng.below(count);
        if self.is_cut(s, self.sidecars[s].conns[at].node) || self.sidecars[s].conns[at].broken {
            return;
        }
        let conn = &mut self.sidecars[s].conns[at];
        let taken = if self.rng.one_in(3) { self.rng.below(conn.from_node.len() + 1) } else { conn.from_node.len() };
        let bytes: Vec<u8> = conn.from_node.drain(..taken).collect();
        let id = conn.id;
        if !bytes.is_empty() {
            self.sidecars[s].core.upstream_input(id, &bytes, Tick(self.now));
            self.apply(s);
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn ask(&mut self, s: usize) {
        if self.sidecars[s].clients.len() < 2 {
            let id = self.sidecars[s].core.client_connected();
            self.sidecars[s].clients.push(Client { id, asked: VecDeque::new(), got: Vec::new(), unique: None });
        }
        let c = self.rng.below(self.sidecars[s].clients.len());
        if self.sidecars[s].clients[c].asked.len() >= 3
            || !self.sidecars[s].core.client_may_read(self.sidecars[s].clients[c].id)
        {
            return;
        }
        let swapped = self.sidecars[s].edit >= SWAPPED;
        let serial = self.next_serial();
        let n = self.rng.below(3);
        let (v, c_key, l) = (format!("v{n}"), format!("c{n}"), format!("l{n}"));
        let data = |text: String| format!("{}\r\n{text}\r\n", text.len());
        let unique = self.sidecars[s].clients[c].unique.clone();
        let (kind, key, line) = match self.rng.below(24) {
            0..6 => (Kind::Get, v.clone(), format!("get {v}\r\n")),
            6..9 => (Kind::Get, v.clone(), format!("gets {v}\r\n")),
            9..12 => (Kind::Set, v.clone(), format!("set {v} 0 0 {}", data(serial.to_string()))),
            12 | 13 => (Kind::Delete, v.clone(), format!("delete {v}\r\n")),
            14 | 15 => (Kind::Append, v.clone(), format!("append {v} 0 0 {}", data(serial.to_string()))),
            16 => match unique {
                Some((key, unique, over)) => {
                    let text = serial.to_string();
                    let line = format!("cas {key} 0 0 {} {unique}\r\n{text}\r\n", text.len());
                    (Kind::Cas { over }, key, line)
                }
                None => return,
            },
            17 => (Kind::Touch, v.clone(), format!("touch {v} 0\r\n")),
            18 | 19 => (Kind::Count, c_key.clone(), format!("incr {c_key} 1\r\n")),
            20 => {
                let verb = if self.rng.one_in(3) { "set" } else { "add" };
                let line = format!("{verb} {c_key} 0 0 {}", data((serial * COUNTER).to_string()));
                (Kind::Create, c_key.clone(), line)
            }
            21 => (Kind::ReadCounter, c_key.clone(), format!("get {c_key}\r\n")),
            // Who has not swapped does not see what is locked at new places.
            _ if !swapped => return,
            22 => (Kind::Lock, l.clone(), format!("add {l} 0 0 {}", data(serial.to_string()))),
            _ => {
                // Whoever holds it.
                if !self.facts.locks.contains_key(&l) {
                    return;
                }
                self.facts.locks.remove(&l);
                (Kind::Unlock, l.clone(), format!("delete {l}\r\n"))
            }
        };
        let op = Op { kind, key, serial, began_at: self.step, swapped };
        let client = &mut self.sidecars[s].clients[c];
        if matches!(op.kind, Kind::Set | Kind::Delete | Kind::Append | Kind::Cas { .. }) {
            let write = Write { op: op.clone(), acknowledged_at: None };
            self.facts.writes.entry(op.key.clone()).or_default().push(write);
        }
        client.asked.push_back(op);
        let id = client.id;
        self.sidecars[s].core.client_input(id, line.as_bytes(), Tick(self.now));
        self.apply(s);
    }

    /// Looks at what clients have got.
    fn hear(&mut self, s: usize) {
        for c in 0..self.sidecars[s].clients.len() {
            loop {
                let client = &mut self.sidecars[s].clients[c];
                let Some(op) = client.asked.front().cloned() else {
                    assert!(client.got.is_empty(), "nobody asked: {:?}", String::from_utf8_lossy(&client.got));
                    break;
                };
                let text = String::from_utf8(client.got.clone()).unwrap();
                let reads = matches!(op.kind, Kind::Get | Kind::ReadCounter);
                let end =
                    if reads { text.find("END\r\n").map(|at| at + 5) } else { text.find("\r\n").map(|at| at + 2) };
                let Some(end) = end else { break };
                client.asked.pop_front();
                client.got.drain(..end);
                self.facts.told += 1;
                self.told(s, c, &op, &text[..end]);
            }
        }
    }

    fn told(&mut self, s: usize, c: usize, op: &Op, text: &str) {
        let step = self.step;
        match &op.kind {
            Kind::Get => {
                let mut lines = text.split("\r\n");
                let header: Vec<&str> = lines.next().unwrap().split(' ').collect();
                if header[0] != "VALUE" {
                    assert_eq!(text, "END\r\n", "{op:?}");
                    return;
                }
                assert_eq!(header[1], op.key);
                self.facts.hits += 1;
                let all: Vec<u64> = lines.next().unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
                if let Some(unique) = header.get(4) {
                    self.facts.from_old += u64::from(unique.parse::<u64>().unwrap() >> 52 == 1);
                    let over = if op.swapped { all.clone() } else { Vec::new() };
                    self.sidecars[s].clients[c].unique = Some((op.key.clone(), (*unique).to_owned(), over));
                }
                if op.swapped {
                    self.check_value(op, &all);
                }
            }
            Kind::Set | Kind::Delete | Kind::Append | Kind::Cas { .. } => {
                let done =
                    matches!(text, "STORED\r\n" | "DELETED\r\n") || text == "NOT_FOUND\r\n" && op.kind == Kind::Delete;
                let writes = self.facts.writes.get_mut(&op.key).unwrap();
                let at = writes.iter().position(|write| write.op.serial == op.serial).unwrap();
                if done {
                    writes[at].acknowledged_at = Some(step);
                    if let (Kind::Cas { over }, true) = (&op.kind, op.swapped)
                        && !over.is_empty()
                    {
                        self.check_value(op, over);
                    }
                } else if matches!(text, "NOT_STORED\r\n" | "EXISTS\r\n" | "NOT_FOUND\r\n") {
                    writes.remove(at);
                } else {
                    assert!(text.starts_with("SERVER_ERROR proxy"), "{op:?}: {text}");
                }
            }
            Kind::Touch | Kind::Create => {}
            Kind::Count => {
                if let Ok(value) = text.trim_end().parse::<u64>() {
                    self.check_counter(op, value, true);
                    self.facts.counters.entry(value / COUNTER).or_default().push((step, value));
                }
            }
            Kind::ReadCounter => {
                if let Some(value) = text.split("\r\n").nth(1).and_then(|value| value.parse::<u64>().ok()) {
                    self.check_counter(op, value, false);
                }
            }
            Kind::Lock => {
                if text == "STORED\r\n" {
                    if let Some((since, holder)) = self.facts.locks.get(&op.key) {
                        assert!(*since >= op.began_at, "{op:?} got a lock that {holder} has since {since}");
                    }
                    if op.began_at > self.facts.lost_at {
                        self.facts.locks.insert(op.key.clone(), (step, op.serial));
                    }
                } else if text != "NOT_STORED\r\n" {
                    // It may be stored, by nobody who knows.
                    assert!(text.starts_with("SERVER_ERROR proxy"), "{text}");
                }
            }
            Kind::Unlock => {}
        }
    }

    fn check_value(&mut self, op: &Op, all: &[u64]) {
        let old = &self.edits[0].nodes()[usize::from(self.edits[0].route(op.key.as_bytes()).0)];
        let died_at = self.facts.died_at[old.host[5..].parse::<usize>().unwrap()];
        let writes = &self.facts.writes[&op.key];
        let Some(base) = writes.iter().find(|write| write.op.serial == all[0]) else { panic!("{op:?} read {all:?}") };
        let Some(known_at) = base.acknowledged_at else { return };
        for write in writes.iter().filter(|write| write.op.swapped && write.op.began_at > known_at) {
            let replaces = matches!(write.op.kind, Kind::Set | Kind::Delete);
            if !replaces && !base.op.swapped {
                // Who has not swapped has stored it at the old place, beside what was changed at the new.
                continue;
            }
            let is_earlier = write.op.serial != op.serial && write.acknowledged_at.is_some_and(|at| at < op.began_at);
            let is_in = all.contains(&write.op.serial);
            if is_earlier && !is_in && !base.op.swapped && died_at.is_some_and(|at| at < known_at) {
                self.facts.after_restarts += 1;
                return;
            }
            let is_doubted = |set: &Write| {
                set.op.kind == Kind::Set
                    && set.acknowledged_at.is_none()
                    && write.acknowledged_at.is_some_and(|at| set.op.began_at < at)
            };
            if is_earlier && !is_in && !replaces && writes.iter().any(is_doubted) {
                self.facts.after_doubt += 1;
                return;
            }
            assert!(
                !is_earlier || is_in,
                "{op:?} read, or changed, {all:?}, of {base:?}, which is older than {write:?}"
            );
        }
    }

    fn check_counter(&self, op: &Op, value: u64, counts: bool) {
        if !op.swapped {
            return;
        }
        for (at, known) in self.facts.counters.get(&(value / COUNTER)).into_iter().flatten() {
            let is_later = *at < op.began_at;
            assert!(
                !is_later || if counts { value > *known } else { value >= *known },
                "{op:?}: {value} after {known}"
            );
        }
    }

    fn fault(&mut self) {
        let node = self.rng.below(4);
        match self.rng.below(7) {
            0..3 => self.nodes[node].stalls_until = self.now + [20_000, 250_000, 700_000][self.rng.below(3)],
            3 => {
                // It dies: all it had is gone, locks too.
                self.nodes[node].dead = true;
                self.nodes[node].items.clear();
                self.lose_locks();
                if self.edit > 0 {
                    self.facts.died_at[node].get_or_insert(self.step);
                }
                self.ghosts.retain(|(of, _)| *of != node);
                for s in 0..SIDECARS {
                    if self.is_cut(s, node) {
                        // Nobody says so.
                        self.sidecars[s].conns.iter_mut().filter(|c| c.node == node).for_each(|c| c.broken = true);
                        continue;
                    }
                    let ids: Vec<UpstreamId> =
                        self.sidecars[s].conns.iter().filter(|conn| conn.node == node).map(|conn| conn.id).collect();
                    for id in ids {
                        self.sidecars[s].core.upstream_failed(id, FailReason::Closed, Tick(self.now));
                        self.sidecars[s].conns.retain(|conn| conn.id != id);
                    }
                    self.apply(s);
                }
            }
            4 => self.nodes.iter_mut().for_each(|node| node.dead = false),
            5 => {
                let s = self.rng.below(SIDECARS);
                self.sidecars[s].cut = Some((node, self.now + [200_000, 700_000][self.rng.below(2)]));
            }
            _ => {
                // What its clients have asked has no answer.
                let s = self.rng.below(SIDECARS);
                let fresh = self.start();
                let gone = std::mem::replace(&mut self.sidecars[s], fresh);
                for conn in gone.conns {
                    self.ghosts.push((conn.node, [conn.begun, conn.to_node].concat()));
                }
                self.lose_locks();
                self.apply(s);
            }
        }
    }

    fn lose_locks(&mut self) {
        self.facts.locks.clear();
        self.facts.lost_at = self.step;
    }

    /// A node evicts a value; locks are spared.
    fn evict(&mut self) {
        let node = self.rng.below(4);
        let key = ["v0", "v1", "v2", "c0", "c1", "c2"][self.rng.below(6)];
        self.nodes[node].items.remove(key);
    }

    /// What was sent by a connection that was given up reaches its node late, or never; and sooner than the core takes for
    /// granted that it will not.
    fn haunt(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let at = self.rng.below(self.ghosts.len());
        let (node, mut bytes) = self.ghosts.swap_remove(at);
        if !self.nodes[node].dead && self.rng.one_in(2) {
            self.nodes[node].feed(&mut bytes, &mut Vec::new());
        }
    }

    fn turn(&mut self) {
        let s = self.rng.below(SIDECARS);
        if self.sidecars[s].edit < self.edit {
            self.sidecars[s].edit += 1;
            let edit = self.sidecars[s].edit;
            let topology = if edit == SWAPPED + 1 {
                // The same ring in another phase: what was lost stays lost.
                let now = self.sidecars[s].core.topology();
                match now.before() {
                    Some(before) => {
                        let ending = Arc::new(before.in_phase(Phase::Ending));
                        let numbers: Vec<usize> =
                            self.edits[edit].nodes().iter().map(|n| n.host[5..].parse().unwrap()).collect();
                        Arc::new(ring(&numbers).with_before(Some(ending)))
                    }
                    None => self.fresh(edit),
                }
            } else {
                self.fresh(edit)
            };
            self.sidecars[s].core.set_topology(topology, Tick(self.now));
            if edit + 1 == EDITS {
                // A lock that lives only at the old place ends with the window.
                self.lose_locks();
            }
            self.apply(s);
        } else if self.edit + 1 < EDITS && self.sidecars.iter().all(|sidecar| sidecar.edit == self.edit) {
            self.edit += 1;
        }
    }

    fn run(mut self, steps: usize) -> [u64; 5] {
        for _ in 0..steps {
            self.step += 1;
            self.now += self.rng.below(400) as u64;
            let s = self.rng.below(SIDECARS);
            match self.rng.below(100) {
                0..25 => self.ask(s),
                25..45 => self.flush(s),
                45..65 => self.run_node(s),
                65..85 => self.read_node(s),
                85..95 => self.timers(s),
                95 if self.faults && self.rng.one_in(10) => self.fault(),
                99 => self.evict(),
                96 => {
                    self.haunt();
                    if self.rng.one_in(8) {
                        self.nodes.iter_mut().for_each(|node| node.dead = false);
                    }
                }
                97 if self.rng.one_in(12) => self.turn(),
                98 if self.rng.one_in(20) => self.now += self.rng.below(300_000) as u64,
                _ => {}
            }
        }
        // All is well again: everything is answered.
        self.faults = false;
        for node in &mut self.nodes {
            (node.dead, node.stalls_until) = (false, 0);
        }
        for s in 0..SIDECARS {
            self.sidecars[s].cut = None;
        }
        for round in 0..200_000 {
            self.step += 1;
            self.now += 500;
            let s = round % SIDECARS;
            self.flush(s);
            for _ in 0..3 {
                self.run_node(s);
                self.read_node(s);
            }
            self.timers(s);
            if round % 64 == 0 && self.sidecars.iter().all(|s| s.clients.iter().all(|c| c.asked.is_empty())) {
                let Facts { told, hits, from_old, after_restarts, after_doubt, .. } = self.facts;
                return [told, hits, from_old, after_restarts, after_doubt];
            }
        }
        let all = self.sidecars.iter().map(|s| s.core.describe()).collect::<Vec<_>>().join("\n");
        panic!("something is never answered:\n{all}");
    }
}

fn all(out: &slipring::proxy::OutBuf) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 16];
    let filled = out.slices(&mut slices);
    slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
}

#[test]
fn what_was_acknowledged_holds_through_a_planned_change() {
    let run = |seed: u64| World::new(seed).run(20_000);
    if let Some(seed) = crate::number("MOVED_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let first = crate::number("MOVED_FIRST").unwrap_or(0);
    let count = crate::number("MOVED_SEEDS").unwrap_or(SEEDS);
    let (mut failed, mut sum) = (Vec::new(), [0; 5]);
    for seed in first..first + count {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(told) => sum.iter_mut().zip(told).for_each(|(sum, told)| *sum += told),
            Err(_) => {
                println!("to replay: MOVED_SEED={seed} cargo test --test simulation planned_change");
                failed.push(seed);
            }
        }
        if failed.len() >= 5 {
            break;
        }
    }
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    println!("answers, values, of old places by gets; older after a restart, after a set in doubt: {sum:?}");
    assert!(count < SEEDS || sum[..3].iter().all(|n| *n > 100), "too little happened: {sum:?}");
    // They are as rare as that, or something else hides there.
    assert!(sum[3] + sum[4] <= count.div_ceil(100), "older values: {sum:?}");
}
