//! What the benches measure by is measured here: the load generator of `benches/e2e` counts what the servers count, as a
//! second generator does (memcaslap); its percentiles are right, and so are the figures of CPU time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]
// Those parts of the bench, which uses more of them than the tests do.
#![allow(dead_code, reason = "the bench uses the rest")]

#[path = "../benches/e2e/load.rs"]
mod load;
#[path = "../benches/e2e/measure.rs"]
mod measure;
#[path = "../benches/e2e/memcaslap.rs"]
mod memcaslap;
#[path = "../benches/e2e/packets.rs"]
mod packets;
#[path = "../benches/parts/random.rs"]
mod random;
mod support;
#[path = "../benches/parts/wire.rs"]
mod wire;
#[path = "../benches/e2e/workload.rs"]
mod workload;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use load::{Load, Outcome, ask_all};
use measure::cpu_ns;
use memcaslap::Until;
use rustix::thread::{CpuSet, sched_getaffinity};
use support::{Memcached, ScriptedNode, Slipring, Step, eventually};
use workload::{Dataset, Dialect, PROFILES, Profile, Request, SMALL};

const A_WHILE: Duration = Duration::from_millis(300);

// === what is counted ===

/// What a node has counted, and the length of the page that says so.
#[derive(Clone, Copy, Debug)]
struct Counts {
    gets: u64,
    hits: u64,
    sets: u64,
    read: u64,
    written: u64,
    page: u64,
}

fn counts(node: &Memcached) -> Counts {
    let stats = node.client().stats("stats");
    let page = stats.iter().map(|(name, value)| "STAT  \r\n".len() + name.len() + value.len()).sum::<usize>();
    let number = |name: &str| stats[name].parse().unwrap();
    Counts {
        gets: number("cmd_get"),
        hits: number("get_hits"),
        sets: number("cmd_set"),
        read: number("bytes_read"),
        written: number("bytes_written"),
        page: (page + "END\r\n".len()) as u64,
    }
}

/// What nodes have counted between two looks, less what the looks themselves were.
fn between(before: &[Counts], after: &[Counts]) -> Counts {
    let sum = |of: fn(&Counts) -> u64| after.iter().map(of).sum::<u64>() - before.iter().map(of).sum::<u64>();
    let looks = before.len() as u64 * "stats\r\n".len() as u64;
    Counts {
        gets: sum(|c| c.gets),
        hits: sum(|c| c.hits),
        sets: sum(|c| c.sets),
        read: sum(|c| c.read) - looks,
        // A page is counted when it has been written: the first is in the second.
        written: sum(|c| c.written) - before.iter().map(|c| c.page).sum::<u64>(),
        page: 0,
    }
}

/// One in ten, by chance: six deviations are never seen.
fn assert_a_tenth(sets: u64, all: u64, who: &str) {
    let (sets, all) = (sets as f64, all as f64);
    let deviation = (all * 0.1 * 0.9).sqrt();
    assert!((sets - all * 0.1).abs() < 6.0 * deviation, "{who}: {sets} sets of {all} requests");
}

fn assert_sound(outcome: &Outcome, who: &str) {
    assert_eq!(outcome.wrong, 0, "{who}: {:?}", outcome.first_wrong);
    assert!(outcome.operations > 0, "{who}: nothing was done");
    assert_eq!(outcome.latency.len(), outcome.operations, "{who}: each answer has its latency");
}

fn dataset_through(profile: &Profile, dialect: Dialect, address: SocketAddr) -> Dataset {
    let dataset = Dataset::new(profile, dialect);
    ask_all(&dataset, &[address], Request::Set).unwrap();
    dataset
}

#[test]
fn each_kind_of_load_is_counted_as_the_node_counts_it() {
    let node = Memcached::start();
    for (profile, dialect) in PROFILES.iter().flat_map(|profile| [(profile, Dialect::Text), (profile, Dialect::Binary)])
    {
        let who = format!("{} in {dialect:?}", profile.name);
        let dataset = dataset_through(profile, dialect, node.address());
        let mut load = Load::connect(profile, &dataset, &[node.address()], None).unwrap();
        let before = counts(&node);
        let outcome = load.run(A_WHILE).unwrap();
        let seen = between(&[before], &[counts(&node)]);
        assert_sound(&outcome, &who);
        let operations = outcome.operations;
        assert_eq!(seen.gets, seen.hits, "{who}: all is stored");
        let length = |request| dataset.bytes(request).len() as u64;
        if profile.silent_sets > 0 {
            let each = profile.silent_sets as u64 + 1;
            assert_eq!((seen.gets, seen.sets), (0, operations * each), "{who}");
            assert_eq!(seen.written, operations * dataset.answer_len(Request::Set(0)) as u64, "{who}");
        } else if profile.keys_per_get > 1 {
            assert_eq!((seen.gets, seen.sets), (operations * profile.keys_per_get as u64, 0), "{who}");
            assert_eq!(seen.read, operations * length(Request::Multiget(0)), "{who}: all are of one length");
        } else {
            assert_eq!(seen.gets + seen.sets, operations, "{who}");
            let wanted = u64::from(profile.sets_per_hundred > 0);
            assert_eq!(u64::from(seen.sets > 0), wanted, "{who}");
            if wanted == 1 {
                assert_a_tenth(seen.sets, operations, &who);
            }
            let asked = seen.gets * length(Request::Get(0)) + seen.sets * length(Request::Set(0));
            assert_eq!(seen.read, asked, "{who}: bytes of requests");
            let answer = |request| dataset.answer_len(request) as u64;
            let answered = seen.gets * answer(Request::Get(0)) + seen.sets * answer(Request::Set(0));
            assert_eq!(seen.written, answered, "{who}: bytes of answers");
        }
    }
}

/// A directory of a test, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_second_generator_counts_as_the_node_does_and_asks_for_the_same_mixture() {
    let directory = Directory::new("memcaslap");
    let node = Memcached::start();
    let before = counts(&node);
    let theirs = memcaslap::run(node.address(), 10, 100, Until::Operations(20_000), &directory.0).unwrap();
    let seen = between(&[before], &[counts(&node)]);
    assert_eq!((theirs.gets, theirs.sets, theirs.misses), (seen.gets, seen.sets, seen.gets - seen.hits));
    assert_eq!((theirs.gets + theirs.sets, theirs.misses), (20_000, 0));
    assert_eq!((theirs.sent, theirs.received), (seen.read, seen.written));
    assert_a_tenth(theirs.sets, theirs.gets + theirs.sets, "memcaslap");
    // Of requests of the same form ours are as long as theirs.
    let profile = Profile { key_len: memcaslap::KEY_LEN, connections: 10, ..SMALL };
    let dataset = dataset_through(&profile, Dialect::Text, node.address());
    let length = |request| dataset.bytes(request).len() as u64;
    let answer = |request| dataset.answer_len(request) as u64;
    assert_eq!(theirs.sent, theirs.gets * length(Request::Get(0)) + theirs.sets * length(Request::Set(0)));
    assert_eq!(theirs.received, theirs.gets * answer(Request::Get(0)) + theirs.sets * answer(Request::Set(0)));
}

/// The requests of these commands that a slipring has answered: all, and the reads that were hits.
fn answered(slipring: &Slipring) -> [u64; 2] {
    let (_, metrics) = slipring.admin("/metrics");
    let of = |part: &str| -> u64 {
        let lines = metrics.lines().filter(|line| line.starts_with("slipring_client_requests_total{"));
        lines
            .filter(|line| line.contains(part))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    [of(""), of("outcome=\"hit\"")]
}

#[test]
fn both_generators_count_behind_slipring_what_slipring_and_its_nodes_count() {
    let directory = Directory::new("memcaslap-slipring");
    let nodes = [Memcached::start(), Memcached::start(), Memcached::start()];
    let addresses = nodes.each_ref().map(Memcached::address);
    let all = || nodes.iter().map(counts).collect::<Vec<_>>();
    // With merged gets one node's answer may be several clients', and is counted once.
    for merge in ["off", "on"] {
        let slipring = Slipring::with(&addresses, &["--merge-gets", merge]);
        let profile = Profile { key_len: memcaslap::KEY_LEN, connections: 50, ..SMALL };
        let dataset = dataset_through(&profile, Dialect::Text, slipring.address());
        let mut load = Load::connect(&profile, &dataset, &[slipring.address()], None).unwrap();

        let (before, [asked, hits]) = (all(), answered(&slipring));
        let outcome = load.run(A_WHILE).unwrap();
        assert_sound(&outcome, "ours");
        let (seen, [asked_then, hits_then]) = (between(&before, &all()), answered(&slipring));
        assert_eq!(asked_then - asked, outcome.operations, "ours, merging {merge}");
        assert_eq!(hits_then - hits + seen.sets, outcome.operations, "ours, merging {merge}: gets and sets");
        assert_a_tenth(seen.sets, outcome.operations, "ours");

        let (before, [asked, hits]) = (all(), answered(&slipring));
        let theirs = memcaslap::run(slipring.address(), 50, 100, Until::Operations(20_000), &directory.0).unwrap();
        let (seen_of_theirs, [asked_then, hits_then]) = (between(&before, &all()), answered(&slipring));
        assert_eq!(theirs.misses, 0);
        assert_eq!(asked_then - asked, theirs.gets + theirs.sets, "theirs, merging {merge}");
        assert_eq!((hits_then - hits, seen_of_theirs.sets), (theirs.gets, theirs.sets), "theirs, merging {merge}");
        if merge == "off" {
            assert_eq!((seen.gets + seen.sets, seen.gets), (outcome.operations, seen.hits), "ours");
            assert_eq!((seen_of_theirs.gets, seen_of_theirs.hits), (theirs.gets, theirs.gets), "theirs");
        } else {
            assert!(seen.gets <= outcome.operations - seen.sets && seen_of_theirs.gets <= theirs.gets);
        }
    }
}

/// What is done in place of the right answer about a key.
type Fault = fn(&str, String) -> Vec<Step>;

#[test]
fn an_answer_that_is_not_right_is_counted_as_wrong() {
    let one = Profile { sets_per_hundred: 0, key_count: 1, ..SMALL };
    let right =
        |key: &str| format!("VALUE {key} 0 100\r\n{}\r\nEND\r\n", format!("{key}/").repeat(7).get(..100).unwrap());
    let wrong: [(&str, Fault); 6] = [
        ("a miss", |_, _| vec![Step::send("END\r\n")]),
        ("an error", |_, _| vec![Step::send("SERVER_ERROR out of memory\r\n")]),
        ("another byte", |_, right| vec![Step::send(right.replacen('/', "|", 1))]),
        ("another key", |key, right| vec![Step::send(right.replacen(key, &key.replace('0', "1"), 1))]),
        ("one byte too many", |_, right| vec![Step::send(right + "\n")]),
        ("the end of the connection", |_, _| vec![Step::Close]),
    ];
    for (what, steps) in wrong {
        let count = std::sync::atomic::AtomicU32::new(0);
        let node = ScriptedNode::start(move |request| {
            let honest = right(request.keys()[0]);
            // The third answer.
            let third = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 2;
            if third { steps(request.keys()[0], honest) } else { vec![Step::send(honest)] }
        });
        let dataset = Dataset::new(&one, Dialect::Text);
        let mut load = Load::connect(&one, &dataset, &[node.address()], None).unwrap();
        let outcome = load.run(A_WHILE).unwrap();
        assert_eq!(outcome.wrong, 1, "{what}: {:?}", outcome.first_wrong);
        assert!(outcome.operations >= 2, "{what}: the answers before were right");
        assert_eq!(outcome.latency.len(), outcome.operations, "{what}");
    }
}

// === latency ===

fn microseconds(values: impl IntoIterator<Item = u64>) -> [f64; 3] {
    let mut outcome = Outcome::new().unwrap();
    values.into_iter().for_each(|value| outcome.right(Duration::from_micros(value)));
    outcome.percentiles_us()
}

#[test]
fn percentiles_are_those_of_the_distribution() {
    let near = |found: [f64; 3], wanted: [f64; 3]| {
        // Three digits.
        let same = found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() <= wanted / 1000.0);
        assert!(same, "{found:?} in place of {wanted:?}");
    };
    near(microseconds([70]), [70.0; 3]);
    near(microseconds(1..=1000), [500.0, 990.0, 999.0]);
    near(microseconds((1..=1000).rev()), [500.0, 990.0, 999.0]);
    // One in a hundred is not yet above percentile 99; two are.
    near(microseconds([vec![10; 990], vec![5000; 10]].concat()), [10.0, 10.0, 5000.0]);
    near(microseconds([vec![10; 980], vec![5000; 20]].concat()), [10.0, 5000.0, 5000.0]);
    near(microseconds([vec![10; 9990], vec![5000; 10]].concat()), [10.0, 10.0, 10.0]);
    near(microseconds([vec![10; 499], vec![2_000_000; 501]].concat()), [2e6; 3]);
}

/// Stands before a node, and passes nothing on for so long after the first byte has come on a connection.
fn stalling(node: SocketAddr, stall: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(node).unwrap();
        let mut first = [0; 4096];
        let count = client.read(&mut first).unwrap();
        thread::sleep(stall);
        server.write_all(&first[..count]).unwrap();
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut client, &mut server);
        let _ = server.shutdown(Shutdown::Both);
    });
    address
}

#[test]
fn an_open_loop_counts_the_wait_of_requests_that_could_not_be_sent() {
    const STALL: Duration = Duration::from_millis(600);
    let node = Memcached::start();
    let open = Profile { rate: Some(1000.0), ..SMALL };
    let dataset = dataset_through(&open, Dialect::Text, node.address());
    let run = |profile: &Profile| {
        let address = stalling(node.address(), STALL);
        Load::connect(profile, &dataset, &[address], None).unwrap().run(STALL).unwrap()
    };
    let outcome = run(&open);
    assert_sound(&outcome, "open");
    // They come by chance, whatever the server does: as many as there were milliseconds, give or take six deviations.
    let operations = outcome.operations as f64;
    assert!((operations - 600.0).abs() < 6.0 * 600_f64.sqrt(), "{operations} requests in 600 ms, 1,000 a second");
    // Nothing came back before the end of the stall: half of the requests waited for half of it at least, less what chance
    // moves the middle one. A longer stall makes it more.
    let [median, p99, _] = outcome.percentiles_us();
    assert!(median >= 200_000.0, "the median is {median} µs behind a stall of {STALL:?}");
    assert!(p99 >= 500_000.0, "percentile 99 is {p99} µs behind a stall of {STALL:?}");
    assert!(outcome.latency.max() >= 600_000_000 && outcome.latency.min() < outcome.latency.max());
    // A closed loop has one request that waits, and asks no more meanwhile.
    let outcome = run(&SMALL);
    assert_sound(&outcome, "closed");
    assert!(outcome.latency.max() >= 599_000_000, "the first request waits, too");
    assert_eq!(outcome.operations, 1, "no time is left for a second");
}

// === CPU time ===

/// A shell that burns a second of CPU time and stands still then.
struct Burner(Child);

impl Burner {
    fn start() -> Self {
        let script = "ulimit -S -t 1; trap 'kill -STOP $$' XCPU; while :; do :; done";
        let shell = Self(Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap());
        eventually("a second of CPU time is burnt", || shell.stat()[0] == "T");
        shell
    }

    /// The fields of its `/proc/PID/stat` behind the name.
    fn stat(&self) -> Vec<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect()
    }

    /// What the kernel says in ticks of 10 ms, user and system.
    fn ticks(&self) -> u64 {
        self.stat()[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn cpu_time_is_what_processes_have_used() {
    let all = sched_getaffinity(None).unwrap();
    let busy_before = measure::busy_ns(&all).unwrap();
    let [one, other] = [Burner::start(), Burner::start()];
    let busy = measure::busy_ns(&all).unwrap() - busy_before;
    let ids = [one.0.id(), other.0.id()];
    for burner in [&one, &other] {
        let ns = cpu_ns(&[burner.0.id()]).unwrap();
        // The kernel judges the limit by samples: where others want the CPU, too, they are not exact.
        assert!((600_000_000..1_700_000_000).contains(&ns), "{ns} ns of CPU time in place of a second");
        let ticks = burner.ticks() * 10_000_000;
        assert!(ns.abs_diff(ticks) <= 30_000_000, "{ns} ns of CPU time, {ticks} by another count");
    }
    let sum: u64 = ids.iter().map(|id| cpu_ns(&[*id]).unwrap()).sum();
    assert_eq!(cpu_ns(&ids).unwrap(), sum, "of several processes it is the sum");
    assert_eq!(cpu_ns(&[]).unwrap(), 0);
    // Samples again, of two seconds in all, and whatever others used.
    assert!(busy >= sum / 2, "the CPUs were busy for {busy} ns, these two alone for {sum}");
    assert_eq!(measure::busy_ns(&CpuSet::new()).unwrap(), 0, "no CPU is not busy");
}

#[test]
fn cpu_time_of_a_program_with_threads_is_that_of_all_of_them() {
    let node = Memcached::start();
    let profile = Profile { connections: 20, ..SMALL };
    let dataset = dataset_through(&profile, Dialect::Text, node.address());
    Load::connect(&profile, &dataset, &[node.address()], None).unwrap().run(Duration::from_secs(1)).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    let ns = cpu_ns(&[node.pid()]).unwrap();
    assert!(ticks > 0 && ns.abs_diff(ticks * 10_000_000) <= 40_000_000, "{ns} ns of CPU time, {ticks} ticks of 10 ms");
}
