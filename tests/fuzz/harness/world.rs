//! The whole core, driven as the rim drives it by a schedule that the input spells.
//!
//! Each step takes a byte that says what happens and a few that say to whom and how much. When the
//! bytes are used up everything calms down: nodes come back and tell the truth, sockets take what
//! they are given, time passes. Then every reply that is owed must have come.
//!
//! As in the rim, a socket that the core does not want read is looked at again only when it is
//! woken, and one that took less than it was given only when it has room.

mod clients;
mod effects;
mod packets;
mod rest;
mod sockets;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arbitrary::Unstructured;
use slipring::config::OnNodeDown;
use slipring::metrics::Cells;
use slipring::proxy::{Core, MAX_SLICES, OutBuf, Settings, UpstreamId};
use slipring::routing::{Node as Member, Topology};
use slipring::time::Tick;

use super::client::Client;
use super::node::{Kind, Node, Session, Truth};

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
    /// Meta requests and packets that were asked.
    opaques: usize,
    /// In the end the worker stops, else the clients leave.
    stops: bool,
    /// The end has come: nothing is slow any more.
    calm: bool,
    /// A node has closed a connection, or made us close it.
    hung_up: bool,
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
            match first >> 6 {
                3 => node.usual = Kind::of(usize::from(first >> 3) + number),
                2 => node.is_mixed = first >> 3 & 1 << number == 0,
                _ => {}
            }
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
            hung_up: false,
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
