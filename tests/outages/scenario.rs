//! A scenario: a quiet time, trouble, the return, and the proof that all is well again, under load.
use crate::load::{Generator, Kind, Mask, Order, Plan, Stage, Tally, Watch};
use crate::support::{Link, Memcached, PATIENCE, Pattern, Slipring, eventually, mix, number_from_environment};
use hdrhistogram::Histogram;
use slipring::routing::{Node, NodeIndex, Topology};
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

/// What `--buffer-limit` is set to, and what else the process may take.
pub(crate) const BUDGET_MIB: u64 = 64;
pub(crate) const BESIDE_IT_MIB: u64 = 16;

/// After it the proxy should know of the trouble, and latency counts as that of a node known to be
/// down: the time-outs, and as much again for the machine.
const FALLING: Duration = Duration::from_millis(1_500);
/// So long without a refusal is normal.
const NORMAL: Duration = Duration::from_secs(1);

const CONNECTIONS: u64 = 16;

pub(crate) fn seconds(name: &str, default: u64) -> Duration {
    Duration::from_secs(number_from_environment(name, default))
}

/// How long the trouble lasts.
pub(crate) fn outage_time() -> Duration {
    seconds("SLIPRING_OUTAGE_SECONDS", 3)
}

pub(crate) fn flapping_time() -> Duration {
    seconds("SLIPRING_OUTAGE_FLAPPING_SECONDS", 4)
}

pub(crate) fn quiet_time() -> Duration {
    seconds("SLIPRING_OUTAGE_QUIET_SECONDS", 2)
}

/// Requests per second. The invariant checks of a debug build cost twenty times the work.
fn rate() -> u64 {
    number_from_environment("SLIPRING_OUTAGE_RATE", if cfg!(debug_assertions) { 1_000 } else { 20_000 })
}

/// One generator, from the driver's side.
struct Hand<'scope> {
    orders: Sender<Order>,
    done: Receiver<()>,
    thread: ScopedJoinHandle<'scope, Tally>,
}

/// All the load on one proxy.
pub(crate) struct Fleet<'scope> {
    hands: Vec<Hand<'scope>>,
}

impl<'scope> Fleet<'scope> {
    /// Connects the load, has it store its keys, and lets it run: most of it for keys of the nodes
    /// that stay well, an eighth for the others, an eighth for both.
    pub(crate) fn start<'env>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        address: SocketAddr,
        nodes: &[SocketAddr],
        sick: Mask,
        pattern: &'env Pattern,
        watch: &'env Watch,
    ) -> Self {
        let named = |address: &SocketAddr| Node::new(&address.ip().to_string(), address.port(), 1).into();
        let topology = Topology::new(1, nodes.iter().map(named).collect()).unwrap();
        let place: Vec<usize> = topology
            .nodes()
            .iter()
            .map(|node| nodes.iter().position(|address| *node.name == *address.to_string()).expect("one of ours"))
            .collect();
        let owner = |key: &str| {
            let NodeIndex(index) = topology.route(key.as_bytes());
            place[usize::from(index)]
        };
        let (all, eighth) = ((1 << nodes.len()) - 1, CONNECTIONS / 8);
        let parts: &[(Kind, u64)] = match sick {
            0 => &[(Kind::Healthy, 7 * eighth), (Kind::Mixed, eighth)],
            sick if sick == all => &[(Kind::Sick, 7 * eighth), (Kind::Mixed, eighth)],
            _ => &[(Kind::Healthy, 6 * eighth), (Kind::Sick, eighth), (Kind::Mixed, eighth)],
        };
        let seed = number_from_environment("SLIPRING_TEST_SEED", 1);
        let hands = parts.iter().map(|&(kind, connections)| {
            let plan = Plan {
                kind,
                connections: connections as usize,
                rate: rate() * connections / CONNECTIONS,
                sick,
                owner: &owner,
                address,
                seed: mix(seed ^ ((kind as u64 + 1) << 32)),
            };
            let generator = Generator::new(&plan, pattern, watch);
            let (orders, for_it) = channel();
            let (by_it, done) = channel();
            let thread = scope.spawn(move || generator.run(&for_it, &by_it));
            Hand { orders, done, thread }
        });
        let fleet = Self { hands: hands.collect() };
        fleet.all(Order::Go);
        fleet
    }

    /// Has all of them do this, and waits until it is done.
    pub(crate) fn all(&self, order: Order) {
        for hand in &self.hands {
            hand.orders.send(order).expect("the load works: what it says is above");
        }
        for hand in &self.hands {
            let done = hand.done.recv_timeout(PATIENCE);
            done.unwrap_or_else(|error| panic!("the load did not do {order:?}: {error}"));
        }
    }

    /// Lets the load run.
    pub(crate) fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            assert!(!self.hands.iter().any(|hand| hand.thread.is_finished()), "the load ended: what it says is above");
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// Ends it; what each generator saw.
    pub(crate) fn end(self) -> Vec<Tally> {
        let threads: Vec<_> = self.hands.into_iter().map(|hand| hand.thread).collect();
        threads.into_iter().map(|thread| thread.join().expect("the load works: what it says is above")).collect()
    }
}

/// What a scenario's trouble has at hand.
pub(crate) struct Stand<'a, 'scope> {
    pub(crate) nodes: &'a mut [Memcached],
    slipring: &'a Slipring,
    fleet: &'a Fleet<'scope>,
    sick: Mask,
    began: Instant,
    noticed: Option<Duration>,
    /// The trouble may be so short that nobody is refused anything.
    pub(crate) may_pass_unnoticed: bool,
}

impl Stand<'_, '_> {
    pub(crate) fn wait(&self, time: Duration) {
        self.fleet.wait(time);
    }

    /// The nodes in trouble have lost everything, and are not there yet again.
    pub(crate) fn wiped(&self) {
        self.fleet.all(Order::Wiped(self.sick));
    }

    pub(crate) fn each_sick(&mut self, mut act: impl FnMut(&mut Memcached)) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if self.sick & (1 << at) != 0 {
                act(node);
            }
        }
    }

    /// Waits until the proxy knows, and until the trouble has lasted so long.
    pub(crate) fn last(&mut self, time: Duration) {
        let well = self.nodes.len() - self.sick.count_ones() as usize;
        while self.slipring.ring().matches("\"state\":\"up\"").count() != well {
            let ring = self.slipring.ring();
            assert!(self.began.elapsed() < PATIENCE, "it does not notice that nodes are gone: {ring}");
            self.wait(Duration::from_millis(5));
        }
        self.noticed = Some(self.began.elapsed());
        self.wait(FALLING.saturating_sub(self.began.elapsed()));
        self.fleet.all(Order::Stage(Stage::Down));
        self.wait(time.saturating_sub(self.began.elapsed()));
    }
}

/// The load rests and nothing is on its way between the proxy and its nodes: no socket holds a byte.
fn settle(fleet: &Fleet<'_>, slipring: &Slipring, nodes: &[Memcached]) {
    fleet.all(Order::Rest);
    let ports: Vec<String> = nodes.iter().map(|node| format!(":{:04X}", node.address().port())).collect();
    // A node may be in another network namespace than the proxy.
    let mut tables: Vec<u32> = nodes.iter().map(Memcached::pid).collect();
    tables.push(slipring.pid());
    eventually("no socket holds bytes for a node or from one", || {
        tables.iter().all(|pid| {
            let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("a Linux /proc");
            table.lines().skip(1).all(|line| {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                let ours = |address: &str| ports.iter().any(|port| address.ends_with(port));
                // 0A is LISTEN, whose queue is the connections that wait to be accepted.
                !(ours(words[1]) || ours(words[2])) || words[4] == "00000000:00000000"
            })
        })
    });
    // What a node has read it does next.
    std::thread::sleep(Duration::from_millis(200));
    fleet.all(Order::Settled);
}

/// Runs the load through a quiet time, the trouble and the return of these nodes; prints a line of the table.
/// `trouble` ends with the nodes back, and gives the time of their return.
pub(crate) fn scenario(
    name: &str,
    link: &Link,
    mut nodes: Vec<Memcached>,
    sick: Mask,
    arguments: &[&str],
    trouble: impl FnOnce(&mut Stand<'_, '_>) -> Instant,
) {
    let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
    let budget = format!("{BUDGET_MIB}MiB");
    let slipring = link.slipring(&addresses, &[&["--buffer-limit", &budget], arguments].concat());
    let (pattern, watch) = (Pattern::new(), Watch::new());
    std::thread::scope(|scope| {
        let fleet = Fleet::start(scope, slipring.address(), &addresses, sick, &pattern, &watch);
        fleet.wait(Duration::from_millis(500));
        fleet.all(Order::Stage(Stage::Quiet));
        stay_quiet(&fleet, &watch);
        let quiet_kib = slipring.memory_kib("VmRSS");

        fleet.all(Order::Stage(Stage::Falling));
        let mut stand = Stand {
            nodes: &mut nodes,
            slipring: &slipring,
            fleet: &fleet,
            sick,
            began: Instant::now(),
            noticed: None,
            may_pass_unnoticed: false,
        };
        let returned = trouble(&mut stand);
        let (noticed, harmful) = (stand.noticed, !stand.may_pass_unnoticed);
        fleet.all(Order::Stage(Stage::Returning));
        watch.first_served.store(u64::MAX, Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        let normal = || {
            let last = watch.start + Duration::from_nanos(watch.refused.load(Ordering::Relaxed));
            last.max(returned).elapsed() > NORMAL && watch.first_served.load(Ordering::Relaxed) != u64::MAX
        };
        while !normal() {
            assert!(Instant::now() < deadline, "{PATIENCE:?} after the return it still refuses: {}", slipring.ring());
            fleet.wait(Duration::from_millis(20));
        }
        slipring.wait_for_states("up", addresses.len());
        let refused = Duration::from_nanos(watch.refused.load(Ordering::Relaxed));
        let back = (watch.start + refused).saturating_duration_since(returned);

        settle(&fleet, &slipring, &nodes);
        sweep(&fleet, &watch);
        fleet.all(Order::Stage(Stage::After));
        fleet.all(Order::Go);
        fleet.wait(quiet_time() / 2);
        fleet.all(Order::Rest);
        sweep(&fleet, &watch);
        slipring.client().in_step();
        let peak_kib = slipring.memory_kib("VmHWM");
        let tallies = fleet.end();

        // A real node never is. Where the proxy closed a connection because an answer did not fit, it
        // had lost count itself, and clients were spared by that only.
        let log = slipring.output();
        assert!(!log.contains("sent what answers no request"), "it lost count of what a node owes: {log}");
        for node in &nodes {
            assert_eq!(node.stat("evictions"), 0, "the test's own assumption");
        }
        report(name, &tallies, noticed, back, [quiet_kib, peak_kib]);
        judge(&tallies, harmful, peak_kib);
    });
}

/// A quiet time in which nothing is refused. What one of them has may be the machine's doing; what five have is not.
fn stay_quiet(fleet: &Fleet<'_>, watch: &Watch) {
    for _ in 0..5 {
        let before = watch.refused.load(Ordering::Relaxed);
        fleet.wait(quiet_time());
        if watch.refused.load(Ordering::Relaxed) == before {
            return;
        }
    }
    panic!("something is refused while all is well");
}

/// Every key is what it must be, and is served. What one sweep finds refused may be the machine's
/// doing; what five do is not.
fn sweep(fleet: &Fleet<'_>, watch: &Watch) {
    for _ in 0..5 {
        let before = watch.refused.load(Ordering::Relaxed);
        fleet.all(Order::Sweep);
        if watch.refused.load(Ordering::Relaxed) == before {
            return;
        }
    }
    panic!("reads are still refused although all nodes are up");
}

fn judge(tallies: &[Tally], harmful: bool, peak_kib: u64) {
    let sum = |of: &dyn Fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (hits, written, healthy) = (sum(&|tally| tally.hits), sum(&|tally| tally.written), sum(&|tally| tally.healthy));
    assert!(hits > 0 && written > 0, "the load tells nothing: {hits} hits, {written} writes");
    assert!(!harmful || sum(&|tally| tally.refused[0]) > 0, "nothing was refused: there was no trouble");
    // None of them has to be refused. A machine that stands still for as long as a time-out can make
    // it so, and one in ten says that it was not the machine.
    let refused = sum(&|tally| tally.refused[1]);
    assert!(refused * 10 <= healthy, "{refused} of {healthy} answers about healthy nodes were refusals");
    let most = (BUDGET_MIB + BESIDE_IT_MIB) << 10;
    assert!(peak_kib <= most, "the resident set reached {peak_kib} KiB, more than {most}");
}

pub(crate) fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

pub(crate) fn sum(tallies: &[Tally], kinds: &[Kind], stages: &[Stage]) -> Option<Histogram<u64>> {
    let mut sum = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    for tally in tallies.iter().filter(|tally| kinds.contains(&tally.kind)) {
        for &stage in stages {
            sum.add(&tally.latency[stage as usize]).unwrap();
        }
    }
    (!sum.is_empty()).then_some(sum)
}

/// p50, p99 and worst, in milliseconds.
pub(crate) fn spread(latency: Option<Histogram<u64>>) -> String {
    latency.map_or("–".to_owned(), |latency| {
        let at = |quantile| milliseconds(latency.value_at_quantile(quantile));
        format!("{:.3} / {:.3} / {:.1}", at(0.5), at(0.99), milliseconds(latency.max()))
    })
}

fn report(name: &str, tallies: &[Tally], noticed: Option<Duration>, back: Duration, memory: [u64; 2]) {
    use Kind::{Healthy, Mixed, Sick};
    use Stage::{After, Down, Falling, Quiet, Returning};
    let trouble = &[Falling, Down, Returning];
    let p99 = |stages| sum(tallies, &[Healthy], stages).map(|latency| latency.value_at_quantile(0.99) as f64);
    let ratio =
        p99(trouble).zip(p99(&[Quiet])).map_or("–".to_owned(), |(during, quiet)| format!("{:.2}", during / quiet));
    let total = |of: &dyn Fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    println!(
        "\n{name}: {} requests at {} per second, every answer as it must be",
        total(&|tally| tally.requests),
        rate()
    );
    println!("  latency in ms: p50 / p99 / worst, from the time a request was due");
    println!(
        "  | keys of          | quiet                 | trouble begins        | node known to be down | node returns          | after |"
    );
    for (label, kind) in [("healthy nodes", Healthy), ("nodes in trouble", Sick), ("all nodes", Mixed)] {
        let cells = [Quiet, Falling, Down, Returning, After].map(|stage| spread(sum(tallies, &[kind], &[stage])));
        println!("  | {label:16} | {} |", cells.map(|cell| format!("{cell:21}")).join(" | "));
    }
    println!("  p99 of healthy nodes in all of the trouble, divided by the quiet one: {ratio}");
    println!(
        "  the proxy knew after {}; last refusal {:.0} ms after the return",
        noticed.map_or("–".to_owned(), |noticed| format!("{:.0} ms", noticed.as_secs_f64() * 1e3)),
        back.as_secs_f64() * 1e3
    );
    println!(
        "  refused: {} about nodes in trouble, {} about healthy ones; late writes seen: {}; cut in the middle of a value: {}",
        total(&|tally| tally.refused[0]),
        total(&|tally| tally.refused[1]),
        total(&|tally| tally.late),
        total(&|tally| tally.cut)
    );
    println!(
        "  wrong values: 0; connections out of step: 0; resident set: {} KiB quiet, {} KiB at its peak",
        memory[0], memory[1]
    );
}
