//! What each row does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::Options;
use crate::crowd::{Crowd, Item, Outcome, Role};
use crate::processes::{Contestant, Counts, Node, Started};

/// Just above and just below the default of `--bulk-above`.
const ABOVE: usize = 1_100_000;
const BELOW: usize = 1_000_000;
/// The default of `--max-value`.
const HUGE: usize = 128 << 20;

/// One number of a measurement.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// So many clients ask for the same value in the same moment.
    Herd { clients: usize, length: usize },
    /// Readers and setters of many values, as fast as they can.
    Flow { readers: usize, setters: usize, length: usize },
    /// Readers each of a value of its own.
    Own { clients: usize, length: usize },
    /// Clients each store and read a value of its own.
    Move { clients: usize, length: usize },
    /// Connections that ask, half of them for large values, and are aborted when the answer begins.
    Aborts { connections: usize },
    /// The table of small gets beside streams.
    Small,
}

/// A row of the report.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    /// For sliprings only.
    pub(crate) arguments: &'static [&'static str],
    /// The node takes TLS alone.
    pub(crate) tls: bool,
}

const fn row(name: &'static str, load: Load, arguments: &'static [&'static str]) -> Row {
    Row { name, load, arguments, tls: false }
}

pub(crate) const ROWS: &[Row] = &[
    row("herd-500", Load::Herd { clients: 500, length: ABOVE }, &[]),
    row("herd-1000", Load::Herd { clients: 1_000, length: ABOVE }, &[]),
    row("herd-2000", Load::Herd { clients: 2_000, length: ABOVE }, &[]),
    row("herd-20KB", Load::Herd { clients: 1_000, length: 20_000 }, &["--bulk-above", "16KiB"]),
    row("mixed", Load::Flow { readers: 20, setters: 5, length: ABOVE }, &[]),
    row("mixed-below", Load::Flow { readers: 20, setters: 5, length: BELOW }, &[]),
    row("readers", Load::Flow { readers: 100, setters: 0, length: ABOVE }, &[]),
    row("readers-100KB", Load::Flow { readers: 100, setters: 0, length: 100_000 }, &["--bulk-above", "64KiB"]),
    row("mixed-100KB", Load::Flow { readers: 20, setters: 5, length: 100_000 }, &["--bulk-above", "64KiB"]),
    row("size-64KiB", Load::Own { clients: 20, length: 64 << 10 }, &[]),
    row("size-512KiB", Load::Own { clients: 4, length: 512 << 10 }, &[]),
    // The node's one thread is busy with the memory of the others for longer than the usual time-outs.
    row(
        "memory",
        Load::Move { clients: 8, length: HUGE },
        &["--max-value", "128MiB", "--request-timeout", "30s", "--queue-timeout", "30s"],
    ),
    row("aborts", Load::Aborts { connections: 4_000 }, &[]),
    row("tls-100B", Load::Flow { readers: 45, setters: 5, length: 100 }, &[]).over_tls(),
    row("tls-64KiB", Load::Flow { readers: 45, setters: 5, length: 64 << 10 }, &[]).over_tls(),
    row("small", Load::Small, &[]),
];

impl Row {
    const fn over_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// What its node has: memory, and the largest item, in MiB.
    pub(crate) const fn node_mib(&self) -> (u32, u32) {
        // A value of 128 MiB exactly is more than an item of 128 MiB has room for.
        if matches!(self.load, Load::Move { .. }) { (2048, 130) } else { (1024, 16) }
    }

    pub(crate) const fn is_for(&self, contestant: Contestant) -> bool {
        match contestant {
            Contestant::Slipring | Contestant::Before => true,
            // A proxy that holds every value whole would need gigabytes for it.
            Contestant::Twemproxy => !self.tls && !matches!(self.load, Load::Move { .. }),
            _ => self.tls,
        }
    }

    pub(crate) fn measure(&self, options: &Options, contestant: Contestant, node: &Node) -> io::Result<Vec<Figure>> {
        let proxy = contestant.start(node, self.arguments)?;
        match self.load {
            Load::Herd { clients, length } => herd(options, &proxy, node, clients, length),
            Load::Flow { readers, setters, length } => {
                let roles = [vec![Role::Reader; readers], vec![Role::Setter; setters]].concat();
                flow(options, &proxy, node, &Item::some(64, length), &roles)
            }
            Load::Own { clients, length } => {
                let roles: Vec<Role> = (0..clients).map(Role::ReaderOf).collect();
                flow(options, &proxy, node, &Item::some(clients, length), &roles)
            }
            Load::Move { clients, length } => moves(options, &proxy, clients, length),
            Load::Aborts { connections } => aborts(options, &proxy, connections),
            Load::Small => Ok(Vec::new()),
        }
    }
}

const fn figure(name: &'static str, value: f64) -> Figure {
    Figure { name, value }
}

/// Of a load whose every answer should be right.
fn faults(outcome: &Outcome) -> [Figure; 4] {
    if let Some(error) = &outcome.first_error {
        eprintln!("an error line: {error}");
    }
    [
        figure("misses", outcome.misses as f64),
        figure("error lines", outcome.errors as f64),
        figure("clients closed", outcome.closed as f64),
        figure("clients unanswered", outcome.unanswered as f64),
    ]
}

/// What a proxy and its node have counted.
struct Marks {
    cpu: f64,
    node_cpu: f64,
    counts: Option<Counts>,
    written: f64,
}

impl Marks {
    fn of(proxy: &Started, node: &Node) -> io::Result<Self> {
        Ok(Self { cpu: proxy.cpu()?, node_cpu: node.cpu()?, counts: proxy.counts()?, written: node.written()? })
    }

    /// What the figures are of everything since then.
    fn since(&self, proxy: &Started, node: &Node, outcome: &Outcome) -> io::Result<Vec<Figure>> {
        let now = Self::of(proxy, node)?;
        // The node's figure has what a connection that was closed lost on its way, too.
        let mut figures =
            vec![figure("written by the node / delivered", (now.written - self.written) / outcome.received as f64)];
        if let (Some(before), Some(after)) = (self.counts, now.counts) {
            let received = after.received - before.received;
            figures.push(figure("read by slipring / delivered", received / (after.delivered - before.delivered)));
            figures.push(figure("connects", after.connects - before.connects));
            figures.push(figure("soft misses (memory)", after.soft_misses - before.soft_misses));
        }
        Ok(figures)
    }
}

fn herd(options: &Options, proxy: &Started, node: &Node, clients: usize, length: usize) -> io::Result<Vec<Figure>> {
    let items = [Item::new("herd", length)];
    items[0].store(proxy.address)?;
    let mut crowd = Crowd::connect(proxy.address, &items, &vec![Role::ReaderOf(0); clients])?;
    let witness = Witness::start(proxy.address)?;
    sleep(Duration::from_millis(300));
    let before = Marks::of(proxy, node)?;
    witness.forget();
    let outcome = crowd.once(options.limit())?;
    let longest = witness.end();
    let mut figures = vec![
        figure("all have it, s", outcome.elapsed.as_secs_f64()),
        figure("half have it, s", outcome.answered_at.get(clients / 2).map_or(f64::NAN, Duration::as_secs_f64)),
        figure("proxy CPU, s", proxy.cpu()? - before.cpu),
        figure("longest small set, ms", longest.as_secs_f64() * 1e3),
    ];
    figures.extend(faults(&outcome));
    figures.extend(before.since(proxy, node, &outcome)?);
    Ok(figures)
}

fn flow(options: &Options, proxy: &Started, node: &Node, items: &[Item], roles: &[Role]) -> io::Result<Vec<Figure>> {
    const WARM_UP: Duration = Duration::from_secs(1);
    for item in items {
        item.store(proxy.address)?;
    }
    let mut crowd = Crowd::connect(proxy.address, items, roles)?;
    crowd.run(WARM_UP, options.limit())?;
    let before = Marks::of(proxy, node)?;
    let outcome = crowd.run(Duration::from_secs_f64(options.seconds), options.limit())?;
    let seconds = outcome.elapsed.as_secs_f64();
    let operations = (outcome.values + outcome.stored) as f64;
    let mut figures = vec![figure("values/s", outcome.values as f64 / seconds)];
    if outcome.stored > 0 {
        figures.push(figure("sets/s", outcome.stored as f64 / seconds));
    }
    figures.push(figure("proxy CPU/op, us", (proxy.cpu()? - before.cpu) / operations * 1e6));
    figures.push(figure("node CPU/op, us", (node.cpu()? - before.node_cpu) / operations * 1e6));
    figures.push(figure("RSS, MiB", proxy.memory("VmRSS")?));
    figures.extend(faults(&outcome));
    figures.extend(before.since(proxy, node, &outcome)?);
    Ok(figures)
}

fn moves(options: &Options, proxy: &Started, clients: usize, length: usize) -> io::Result<Vec<Figure>> {
    let idle = proxy.memory("VmRSS")?;
    let data: Arc<[u8]> = b"0123456789abcdefghijklmnopqrstuvwxyz:".iter().copied().cycle().take(length).collect();
    let items: Vec<Item> = (0..clients).map(|number| Item::with(&format!("huge{number}"), Arc::clone(&data))).collect();
    let roles: Vec<Role> = (0..clients).map(Role::MoverOf).collect();
    let mut crowd = Crowd::connect(proxy.address, &items, &roles)?;
    Item::new("warm-up", 1).store(proxy.address)?;
    let mut stored = crowd.once(options.limit())?;
    let read = crowd.once(options.limit())?;
    let mut figures = vec![
        figure("RSS idle, MiB", idle),
        figure("RSS peak, MiB", proxy.memory("VmHWM")?),
        figure("stored", stored.stored as f64),
        figure("all stored, s", stored.elapsed.as_secs_f64()),
        figure("read", read.values as f64),
        figure("all read, s", read.elapsed.as_secs_f64()),
    ];
    figures.extend(faults(&Outcome {
        errors: stored.errors + read.errors,
        first_error: stored.first_error.take(),
        ..read
    }));
    Ok(figures)
}

fn aborts(options: &Options, proxy: &Started, connections: usize) -> io::Result<Vec<Figure>> {
    /// The storm is over when so many small sets in a row took less than this.
    const CALM: (u64, Duration) = (200, Duration::from_millis(50));
    let mut items = Item::some(16, ABOVE);
    items.extend((0..16).map(|number| Item::new(&format!("small{number}"), 100)));
    for item in &items {
        item.store(proxy.address)?;
    }
    let roles: Vec<Role> = (0..connections).map(|number| Role::ReaderOf(number % items.len())).collect();
    let crowd = Crowd::connect(proxy.address, &items, &roles)?;
    let witness = Witness::start(proxy.address)?;
    sleep(Duration::from_millis(300));
    let cpu = proxy.cpu()?;
    witness.forget();
    let start = Instant::now();
    crowd.abort(Duration::from_secs(10))?;
    while !witness.was_below(CALM.1, CALM.0) && start.elapsed() < options.limit() {
        sleep(Duration::from_millis(20));
    }
    let over = start.elapsed();
    let lost = witness.lost();
    Ok(vec![
        figure("longest small set, ms", witness.end().as_secs_f64() * 1e3),
        figure("small sets not STORED", lost as f64),
        figure("calm again after, s", over.as_secs_f64()),
        figure("proxy CPU, s", proxy.cpu()? - cpu),
    ])
}

/// A client that stores a small value every 2 ms, and how long it had to wait.
struct Witness {
    shared: Arc<Seen>,
    thread: JoinHandle<()>,
}

struct Seen {
    begin: Instant,
    stop: AtomicBool,
    /// Nanoseconds since `begin` at which the request was sent that waits; 0 for none.
    sent_at: AtomicU64,
    longest_ns: AtomicU64,
    /// Answers in a row that took less than [`Seen::calm_ns`].
    calm: AtomicU64,
    calm_ns: AtomicU64,
    lost: AtomicU64,
}

impl Seen {
    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }
}

impl Witness {
    fn start(proxy: SocketAddr) -> io::Result<Self> {
        let shared = Arc::new(Seen {
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            sent_at: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
            calm: AtomicU64::new(0),
            calm_ns: AtomicU64::new(u64::MAX),
            lost: AtomicU64::new(0),
        });
        let mut stream = TcpStream::connect(proxy)?;
        stream.set_nodelay(true)?;
        // Looks up now and then whether it is to stop.
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        let seen = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !seen.stop.load(Relaxed) {
                let sent_at = seen.now();
                seen.sent_at.store(sent_at, Relaxed);
                let stored = set(&mut stream, &seen);
                seen.sent_at.store(0, Relaxed);
                let took = seen.now() - sent_at;
                seen.longest_ns.fetch_max(took, Relaxed);
                if took < seen.calm_ns.load(Relaxed) && stored {
                    seen.calm.fetch_add(1, Relaxed);
                } else {
                    seen.calm.store(0, Relaxed);
                }
                if !stored {
                    seen.lost.fetch_add(1, Relaxed);
                }
                sleep(Duration::from_millis(2));
            }
        });
        Ok(Self { shared, thread })
    }

    /// What was before counts no more.
    fn forget(&self) {
        self.shared.longest_ns.store(0, Relaxed);
        self.shared.lost.store(0, Relaxed);
    }

    /// Whether so many in a row took less than `limit`, since this was asked first.
    fn was_below(&self, limit: Duration, count: u64) -> bool {
        let limit = limit.as_nanos() as u64;
        if self.shared.calm_ns.swap(limit, Relaxed) != limit {
            self.shared.calm.store(0, Relaxed);
        }
        self.shared.calm.load(Relaxed) >= count
    }

    /// How many were not stored.
    fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// The longest wait, that of a request that still waits included.
    fn end(self) -> Duration {
        let sent_at = self.shared.sent_at.load(Relaxed);
        let waits = if sent_at == 0 { 0 } else { self.shared.now() - sent_at };
        self.shared.stop.store(true, Relaxed);
        // A panic of it was told already.
        let _ = self.thread.join();
        Duration::from_nanos(self.shared.longest_ns.load(Relaxed).max(waits))
    }
}

/// One small set; whether it was stored.
fn set(stream: &mut TcpStream, seen: &Seen) -> bool {
    if stream.write_all(b"set witness 0 0 1\r\nx\r\n").is_err() {
        return false;
    }
    let mut reply = Vec::new();
    let mut piece = [0; 256];
    while !reply.ends_with(b"\r\n") && !seen.stop.load(Relaxed) {
        match stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(count) => reply.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
    }
    reply == b"STORED\r\n"
}
