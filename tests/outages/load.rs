//! Verified load on a fixed schedule: what is due is sent whether or not the answers before it came, so
//! nothing that is slow can hide by slowing the load down. Latency counts from when a request was due.

mod connection;

use crate::model::Key;
use crate::support::{Pattern, Random, shown};
use connection::{Asked, Connection};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

/// Whoever waits longer than this for an answer waits for ever. Fifty times the time-out of a request, and so no
/// measurement; less than a driver waits for an order to be done, so that who waits is named.
pub(crate) const LONGEST: Duration = Duration::from_secs(25);

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
    /// From now on memory may be tight: a connection that takes nothing for a second may be closed, and on a busy machine
    /// that may be one of these.
    Tight,
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
    /// Those that were served, about keys of nodes that stay well, by [`Stage`].
    pub(crate) served_while: [u64; Stage::COUNT],
    /// Answers about keys of nodes that stay well.
    pub(crate) healthy: u64,
    /// Reads that found a write which had been overtaken.
    pub(crate) late: u64,
    /// Connections that were closed in the middle of a value, or while memory was tight.
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
            served_while: [0; Stage::COUNT],
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

/// What all connections of a generator share.
struct Scene<'a> {
    pattern: &'a Pattern,
    watch: &'a Watch,
    sick: Mask,
    tight: bool,
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
        } else {
            self.tally.served_while[stage as usize] += u64::from(!sick);
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
                tight: false,
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
                        Order::Tight => self.scene.tight = true,
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
