//! Verified load on a fixed schedule: what is due is sent whether or not the answers before it came, so
//! nothing that is slow can hide by slowing the load down. Latency counts from when a request was due.
use crate::model::{Finding, Key};
use crate::support::{Pattern, Random, shown};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

/// Whoever waits longer than this for an answer waits for ever. Ten times the time-out of a request,
/// and so no measurement.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);

const KEYS: usize = 64;

/// Nodes, as bits.
pub(crate) type Mask = usize;

/// The part of a scenario in which a request was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Warm,
    /// All is well, and measured.
    Quiet,
    /// Trouble has begun; the proxy may not know yet.
    Falling,
    /// The proxy knows.
    Down,
    /// The trouble is over; the proxy may not know yet.
    Returning,
    /// All is well again.
    After,
}

impl Stage {
    pub(crate) const COUNT: usize = 6;
}

/// Whose keys a connection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the nodes that stay well only.
    Healthy,
    /// Of the nodes in trouble only.
    Sick,
    /// Of all nodes, many keys at a time.
    Mixed,
}

/// What the driver of a scenario tells a generator; it says when it has done it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    Stage(Stage),
    /// Send what is due.
    Go,
    /// Send nothing more, and wait for what is owed.
    Rest,
    /// These nodes were killed, and are not there yet again.
    Wiped(Mask),
    /// Nothing is on its way any more (at rest only).
    Settled,
    /// Read every key twice (at rest only).
    Sweep,
}

/// What was seen, for the table.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) kind: Kind,
    /// By [`Stage`], in nanoseconds from the time a request was due.
    pub(crate) latency: Vec<Histogram<u64>>,
    pub(crate) requests: u64,
    pub(crate) hits: u64,
    /// Writes that were acknowledged.
    pub(crate) written: u64,
    /// Misses and errors that a node's silence explains: on nodes in trouble, and on the others.
    pub(crate) refused: [u64; 2],
    /// The latter by [`Stage`].
    pub(crate) refused_while: [u64; Stage::COUNT],
    /// Answers about keys of nodes that stay well.
    pub(crate) healthy: u64,
    /// Reads that found a write which had been overtaken.
    pub(crate) late: u64,
    /// Connections closed in the middle of a value.
    pub(crate) cut: u64,
}

impl Tally {
    fn new(kind: Kind) -> Self {
        let empty = || Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        Self {
            kind,
            latency: (0..Stage::COUNT).map(|_| empty()).collect(),
            requests: 0,
            hits: 0,
            written: 0,
            refused: [0; 2],
            refused_while: [0; Stage::COUNT],
            healthy: 0,
            late: 0,
            cut: 0,
        }
    }
}

/// What the driver watches while the load runs: when the keys of the nodes in trouble were last
/// refused, and when they were last served, in nanoseconds since `start`.
pub(crate) struct Watch {
    pub(crate) start: Instant,
    pub(crate) refused: AtomicU64,
    pub(crate) first_served: AtomicU64,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), refused: AtomicU64::new(0), first_served: AtomicU64::new(u64::MAX) }
    }

    pub(crate) fn since_start(&self, now: Instant) -> u64 {
        now.duration_since(self.start).as_nanos() as u64
    }
}

#[derive(Debug)]
enum Asked {
    /// Each key once.
    Get(Vec<usize>),
    Set(usize, u64),
    /// With `noreply`: there is no answer to wait for.
    SetQuietly(usize, u64),
    Delete(usize),
    Touch(usize),
}

#[derive(Debug)]
struct Request {
    asked: Asked,
    due: Instant,
    stage: Stage,
    /// How often nodes had been wiped.
    wipes: u64,
}

/// What all connections of a generator share.
struct Scene<'a> {
    pattern: &'a Pattern,
    watch: &'a Watch,
    sick: Mask,
    stage: Stage,
    wipes: u64,
    tally: Tally,
}

impl Scene<'_> {
    /// An answer about a key of this node; true if it was refused.
    fn seen(&mut self, node: usize, refused: bool, stage: Stage, now: Instant) {
        let sick = self.sick & (1 << node) != 0;
        self.tally.healthy += u64::from(!sick);
        if refused {
            self.tally.refused[usize::from(!sick)] += 1;
            self.tally.refused_while[stage as usize] += u64::from(!sick);
        }
        if sick {
            let now = self.watch.since_start(now);
            if refused {
                self.watch.refused.fetch_max(now, Ordering::Relaxed);
            } else {
                self.watch.first_served.fetch_min(now, Ordering::Relaxed);
            }
        }
    }
}

struct Connection {
    name: String,
    address: SocketAddr,
    stream: TcpStream,
    keys: Vec<Key>,
    input: Vec<u8>,
    /// Bytes of `input` that are data.
    filled: usize,
    output: Vec<u8>,
    /// Bytes of `output` already sent.
    sent: usize,
    waits_to_write: bool,
    owed: VecDeque<Request>,
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the proxy accepts");
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

fn put(out: &mut Vec<u8>, pattern: &Pattern, key: &str, version: u64, noreply: &str) {
    let value = pattern.value(key, version);
    let flags = version % 1_000;
    out.extend_from_slice(format!("set {key} {flags} 0 {}{noreply}\r\n", value.len()).as_bytes());
    out.extend_from_slice(&value);
    out.extend_from_slice(b"\r\n");
}

/// One line without its end, and the bytes it took.
fn line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = input.iter().position(|&byte| byte == b'\n')?;
    assert!(end > 0 && input[end - 1] == b'\r', "a line without CR: {}", shown(input));
    Some((&input[..end - 1], end + 1))
}

impl Connection {
    fn new(name: String, address: SocketAddr, keys: Vec<Key>) -> Self {
        Self {
            name,
            address,
            stream: connect(address),
            keys,
            input: vec![0; 64 << 10],
            filled: 0,
            output: Vec::new(),
            sent: 0,
            waits_to_write: false,
            owed: VecDeque::new(),
        }
    }

    fn ask(&mut self, asked: Asked, due: Instant, scene: &mut Scene<'_>) {
        scene.tally.requests += 1;
        let out = &mut self.output;
        match &asked {
            Asked::Get(keys) => {
                out.extend_from_slice(if scene.tally.requests.is_multiple_of(4) { b"gets" } else { b"get" });
                for &at in keys {
                    out.push(b' ');
                    out.extend_from_slice(self.keys[at].name.as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
            Asked::Set(at, version) => put(out, scene.pattern, &self.keys[*at].name, *version, ""),
            Asked::SetQuietly(at, version) => put(out, scene.pattern, &self.keys[*at].name, *version, " noreply"),
            Asked::Delete(at) => out.extend_from_slice(format!("delete {}\r\n", self.keys[*at].name).as_bytes()),
            Asked::Touch(at) => out.extend_from_slice(format!("touch {} 0\r\n", self.keys[*at].name).as_bytes()),
        }
        self.owed.push_back(Request { asked, due, stage: scene.stage, wipes: scene.wipes });
        if self.owed.len() == 1 {
            // It may need no answer.
            self.take_answers(scene);
        }
    }

    /// Whatever is due now.
    fn ask_something(&mut self, random: &mut Random, due: Instant, scene: &mut Scene<'_>) {
        let at = random.below(self.keys.len());
        let many = if scene.tally.kind == Kind::Mixed { 40 } else { 10 };
        let asked = match random.below(100) {
            0..14 => Asked::Set(at, self.keys[at].next_version()),
            14..16 => Asked::SetQuietly(at, self.keys[at].next_version()),
            16..18 => Asked::Delete(at),
            18..20 => Asked::Touch(at),
            dice if dice < 20 + many => {
                let count = random.between(2, 12);
                let step = random.between(1, self.keys.len() / count);
                Asked::Get((0..count).map(|number| (at + number * step) % self.keys.len()).collect())
            }
            _ => Asked::Get(vec![at]),
        };
        self.ask(asked, due, scene);
    }

    /// Reads once, and takes every whole answer; gives whether the connection is still there.
    fn read(&mut self, scene: &mut Scene<'_>) -> bool {
        if self.filled == self.input.len() {
            self.input.resize(self.filled * 2, 0);
        }
        let open = match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => false,
            Ok(count) => {
                self.filled += count;
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::Interrupted => true,
            Err(_) => false,
        };
        self.take_answers(scene);
        open
    }

    fn take_answers(&mut self, scene: &mut Scene<'_>) {
        let now = Instant::now();
        let mut taken = 0;
        while let Some(request) = self.owed.pop_front() {
            let input = &self.input[taken..self.filled];
            let Some(length) = answer(&self.name, &mut self.keys, &request, input, now, scene) else {
                self.owed.push_front(request);
                break;
            };
            taken += length;
        }
        assert!(
            !self.owed.is_empty() || taken == self.filled,
            "out of step: {} was sent what it did not ask for: {}",
            self.name,
            shown(&self.input[taken..self.filled])
        );
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
    }

    /// The proxy closed it. It may do so in the middle of a value that its node did not finish, and
    /// nowhere else.
    fn closed(&mut self, scene: &mut Scene<'_>) {
        let front = self.owed.front();
        let rest = &self.input[..self.filled];
        let asks_the_sick = |keys: &[usize]| keys.iter().any(|&at| scene.sick & (1 << self.keys[at].node) != 0);
        let in_a_value = rest.starts_with(b"VALUE ")
            && front.is_some_and(|front| matches!(&front.asked, Asked::Get(keys) if asks_the_sick(keys)))
            && Values(rest).last().is_some_and(|value| value.is_err());
        assert!(in_a_value, "{} was closed, owed {front:?}, having {}", self.name, shown(rest));
        scene.tally.cut += 1;
        for request in std::mem::take(&mut self.owed) {
            match request.asked {
                Asked::Set(at, version) | Asked::SetQuietly(at, version) => self.keys[at].unknown(Some(version)),
                Asked::Delete(at) => self.keys[at].unknown(None),
                Asked::Get(_) | Asked::Touch(_) => {}
            }
        }
        self.stream = connect(self.address);
        self.filled = 0;
        self.output.clear();
        self.sent = 0;
        self.waits_to_write = false;
    }

    /// Writes once; true when all is with the kernel.
    fn flush(&mut self) -> bool {
        match self.stream.write(&self.output[self.sent..]) {
            Ok(count) => self.sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::Interrupted => {}
            // It was closed: reading says so, too, and says more.
            Err(_) => self.sent = self.output.len(),
        }
        if self.sent < self.output.len() {
            return false;
        }
        self.output.clear();
        self.sent = 0;
        true
    }
}

/// The blocks of a retrieval's answer, one after the other; an error is where it is not all there.
struct Values<'a>(&'a [u8]);

struct Block<'a> {
    key: &'a str,
    flags: u64,
    data: &'a [u8],
    length: usize,
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Block<'a>, ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.0.starts_with(b"VALUE ") {
            return None;
        }
        let input = std::mem::take(&mut self.0);
        let Some((line, head)) = line(input) else { return Some(Err(())) };
        let line = std::str::from_utf8(line).expect("our keys are text");
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("not a VALUE line: {line:?}"));
        assert!((4..=5).contains(&words.len()), "not a VALUE line: {line:?}");
        let end = head + number(3) as usize;
        if input.len() < end + 2 {
            return Some(Err(()));
        }
        assert!(&input[end..end + 2] == b"\r\n", "a block does not end in CR LF: {}", shown(&input[head..end + 2]));
        self.0 = &input[end + 2..];
        Some(Ok(Block { key: words[1], flags: number(2), data: &input[head..end], length: end + 2 }))
    }
}

/// Checks the answer at the beginning of the input, and gives its length; `None` if it is not all
/// there.
fn answer(
    name: &str,
    keys: &mut [Key],
    request: &Request,
    input: &[u8],
    now: Instant,
    scene: &mut Scene<'_>,
) -> Option<usize> {
    let since_wiped = request.wipes == scene.wipes;
    let length = match &request.asked {
        Asked::SetQuietly(at, version) => {
            let key = &mut keys[*at];
            if scene.sick & (1 << key.node) == 0 {
                key.may_hold(Some(*version));
            } else {
                key.unknown(Some(*version));
            }
            return Some(0);
        }
        Asked::Get(asked) => {
            let mut length = 0;
            let mut found = Vec::with_capacity(asked.len());
            for block in Values(input) {
                let Ok(block) = block else { return None };
                length += block.length;
                found.push(block);
            }
            let (end, last) = line(&input[length..])?;
            assert!(
                end == b"END",
                "out of step or refused: {name} asked {:?} and got {}",
                asked.iter().map(|&at| &keys[at].name).collect::<Vec<_>>(),
                shown(&input[length..])
            );
            for &at in asked {
                let key = &mut keys[at];
                let block = found.iter().position(|block| block.key == key.name).map(|place| found.swap_remove(place));
                let version = block.map(|block| {
                    let version = scene.pattern.version(&key.name, block.data);
                    assert_eq!(block.flags, version % 1_000, "another value's flags, at {}", key.name);
                    version
                });
                if !since_wiped {
                    key.found_before_wiped(version);
                    continue;
                }
                let finding = key.found(version);
                scene.tally.hits += u64::from(version.is_some());
                scene.tally.late += u64::from(finding == Finding::Late);
                scene.seen(key.node, finding == Finding::Refused, request.stage, now);
            }
            let unasked: Vec<&str> = found.iter().map(|block| block.key).collect();
            assert!(unasked.is_empty(), "out of step: {name} did not ask for {unasked:?}, or got it twice");
            length + last
        }
        asked @ (Asked::Set(..) | Asked::Delete(_) | Asked::Touch(_)) => {
            let (line, length) = line(input)?;
            let line = String::from_utf8_lossy(line);
            let (&at, value) = match asked {
                Asked::Set(at, version) => (at, Some(*version)),
                Asked::Delete(at) | Asked::Touch(at) => (at, None),
                Asked::Get(_) | Asked::SetQuietly(..) => unreachable!("they were dealt with above"),
            };
            let key = &mut keys[at];
            let wrong = |key: &Key| -> ! {
                panic!("out of step or wrong: {name} asked {asked:?} of {} and got {line:?}", key.name)
            };
            if let Asked::Touch(_) = asked {
                let existed = match &*line {
                    "TOUCHED" => true,
                    "NOT_FOUND" => false,
                    _ => wrong(key),
                };
                if since_wiped {
                    let finding = key.touched(existed);
                    scene.seen(key.node, finding == Finding::Refused, request.stage, now);
                }
            } else if line.starts_with("SERVER_ERROR proxy") {
                key.unknown(value);
                scene.seen(key.node, true, request.stage, now);
            } else {
                match (asked, &*line) {
                    (Asked::Set(..), "STORED") | (Asked::Delete(_), "DELETED" | "NOT_FOUND") => {}
                    _ => wrong(key),
                }
                match asked {
                    // It was done before the node lost everything or after.
                    _ if !since_wiped => key.unknown(value),
                    Asked::Set(..) => key.acknowledged(value),
                    _ => key.deleted(line == "DELETED"),
                }
                scene.tally.written += 1;
                scene.seen(key.node, false, request.stage, now);
            }
            length
        }
    };
    let latency = now.saturating_duration_since(request.due).as_nanos() as u64;
    scene.tally.latency[request.stage as usize].saturating_record(latency);
    Some(length)
}

/// Some connections of one kind, driven by one thread.
pub(crate) struct Generator<'a> {
    connections: Vec<Connection>,
    /// Whose turn it is.
    next: usize,
    epoll: OwnedFd,
    random: Random,
    gap: Duration,
    scene: Scene<'a>,
}

pub(crate) struct Plan<'a> {
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Requests per second of all of them.
    pub(crate) rate: u64,
    pub(crate) sick: Mask,
    pub(crate) owner: &'a dyn Fn(&str) -> usize,
    pub(crate) address: SocketAddr,
    pub(crate) seed: u64,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(plan: &Plan<'_>, pattern: &'a Pattern, watch: &'a Watch) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let connections: Vec<Connection> = (0..plan.connections)
            .map(|number| {
                let name = format!("{:?}:{number}", plan.kind);
                let fits = |key: &Key| match plan.kind {
                    Kind::Healthy => plan.sick & (1 << key.node) == 0,
                    Kind::Sick => plan.sick & (1 << key.node) != 0,
                    Kind::Mixed => true,
                };
                let keys = (0..100 * KEYS).map(|at| {
                    let key = format!("own:{name}:{at}");
                    let node = (plan.owner)(&key);
                    Key::new(key, node)
                });
                let keys: Vec<Key> = keys.filter(fits).take(KEYS).collect();
                assert_eq!(keys.len(), KEYS, "too few keys of such nodes");
                Connection::new(name, plan.address, keys)
            })
            .collect();
        for (index, connection) in connections.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &connection.stream, data, epoll::EventFlags::IN).unwrap();
        }
        Self {
            connections,
            next: 0,
            epoll,
            random: Random::new(plan.seed),
            gap: Duration::from_nanos(1_000_000_000 / plan.rate),
            scene: Scene {
                pattern,
                watch,
                sick: plan.sick,
                stage: Stage::Warm,
                wipes: 0,
                tally: Tally::new(plan.kind),
            },
        }
    }

    /// Follows orders until there is nobody left to give them.
    pub(crate) fn run(mut self, orders: &Receiver<Order>, done: &Sender<()>) -> Tally {
        // The default slack of 50 µs is as long as the gap between two requests.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).unwrap();
        self.store_all();
        let mut due = None;
        // The order that is done when nothing is owed.
        let mut resting = false;
        loop {
            match orders.try_recv() {
                Ok(order) => {
                    match order {
                        Order::Stage(stage) => self.scene.stage = stage,
                        Order::Go => due = Some(Instant::now()),
                        Order::Rest => due = None,
                        Order::Wiped(nodes) => self.wiped(nodes),
                        Order::Settled => self.keys().for_each(Key::settled),
                        Order::Sweep => self.sweep(),
                    }
                    resting = matches!(order, Order::Rest | Order::Sweep);
                    if !resting {
                        let _ = done.send(());
                    }
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return self.scene.tally,
            }
            let now = Instant::now();
            while let Some(at) = due
                && at <= now
            {
                self.next = (self.next + 1) % self.connections.len();
                self.connections[self.next].ask_something(&mut self.random, at, &mut self.scene);
                due = Some(at + self.gap);
            }
            self.flush();
            if resting && self.connections.iter().all(|connection| connection.owed.is_empty()) {
                resting = false;
                let _ = done.send(());
            }
            let pause = due.map_or(Duration::from_millis(1), |at| at.saturating_duration_since(Instant::now()));
            self.read(pause.min(Duration::from_millis(1)));
            self.nobody_waits_for_ever();
        }
    }

    fn keys(&mut self) -> impl Iterator<Item = &mut Key> {
        self.connections.iter_mut().flat_map(|connection| &mut connection.keys)
    }

    fn wiped(&mut self, nodes: Mask) {
        self.scene.wipes += 1;
        self.keys().filter(|key| nodes & (1 << key.node) != 0).for_each(Key::wiped);
    }

    fn store_all(&mut self) {
        for connection in &mut self.connections {
            for at in 0..connection.keys.len() {
                let version = connection.keys[at].next_version();
                connection.ask(Asked::Set(at, version), Instant::now(), &mut self.scene);
            }
        }
    }

    fn sweep(&mut self) {
        for connection in &mut self.connections {
            for _ in 0..2 {
                for first in (0..connection.keys.len()).step_by(8) {
                    let keys = (first..connection.keys.len().min(first + 8)).collect();
                    connection.ask(Asked::Get(keys), Instant::now(), &mut self.scene);
                }
            }
        }
    }

    fn flush(&mut self) {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if connection.output.is_empty() || connection.waits_to_write {
                continue;
            }
            if !connection.flush() {
                connection.waits_to_write = true;
                interest(&self.epoll, connection, index);
            }
        }
    }

    fn read(&mut self, pause: Duration) {
        let pause = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        let mut events = Vec::with_capacity(64);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {}", io::Error::from(error)),
        }
        for event in &events {
            let index = event.data.u64() as usize;
            let connection = &mut self.connections[index];
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) && connection.flush() {
                connection.waits_to_write = false;
                interest(&self.epoll, connection, index);
            }
            if flags != epoll::EventFlags::OUT && !connection.read(&mut self.scene) {
                epoll::delete(&self.epoll, &connection.stream).unwrap();
                connection.closed(&mut self.scene);
                let data = epoll::EventData::new_u64(index as u64);
                epoll::add(&self.epoll, &connection.stream, data, epoll::EventFlags::IN).unwrap();
            }
        }
    }

    fn nobody_waits_for_ever(&mut self) {
        for connection in &mut self.connections {
            let Some(front) = connection.owed.front() else { continue };
            if front.due.elapsed() < LONGEST {
                continue;
            }
            // This thread itself may not have run for so long.
            connection.read(&mut self.scene);
            if let Some(front) = connection.owed.front() {
                assert!(
                    front.due.elapsed() < LONGEST,
                    "{} waits since {LONGEST:?} for the answer to {:?}, asked while {:?}; {} requests behind it; having {}",
                    connection.name,
                    front.asked,
                    front.stage,
                    connection.owed.len() - 1,
                    shown(&connection.input[..connection.filled])
                );
            }
        }
    }
}

fn interest(epoll: &OwnedFd, connection: &Connection, index: usize) {
    let mut flags = epoll::EventFlags::IN;
    flags.set(epoll::EventFlags::OUT, connection.waits_to_write);
    epoll::modify(epoll, &connection.stream, epoll::EventData::new_u64(index as u64), flags).unwrap();
}
