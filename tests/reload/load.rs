//! A thousand swaps under a load that checks every reply.
use crate::model::{History, Mask, NODES, Own, Rings, Seen};
use crate::support::{Memcached, Pattern, Random, Slipring, TextClient, eventually, mix, number_from_environment};
use crate::{Directory, reload, replace};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const CONNECTIONS: u64 = 16;
const OWN_KEYS: usize = 48;
const SHARED_KEYS: usize = 64;
/// More than there are workers: the acceptor spreads them.
const PROBES: usize = 8;
const WORKERS: &str = "2";

/// A request, and what its reply means.
enum Asked {
    Set(usize, u64),
    SetQuietly(usize, u64),
    Delete(usize),
    /// Own keys, and whether each is read behind a `set` in the same pipeline; shared keys.
    Get(Vec<(usize, bool)>, Vec<usize>),
    SetShared,
}

enum Reply {
    None,
    Line(String),
    /// Key and data.
    Values(Vec<(String, Vec<u8>)>),
}

struct Connection<'a> {
    number: u64,
    random: Random,
    client: TextClient,
    pattern: &'a Pattern,
    history: &'a History,
    own: Vec<Own>,
    version: u64,
    seen: Seen,
}

impl Connection<'_> {
    fn put(&mut self, out: &mut Vec<u8>, key: &str, noreply: &str) -> u64 {
        self.version += 1;
        // Shared keys have several writers: no two write the same.
        let version = self.version * CONNECTIONS + self.number;
        let value = self.pattern.value(key, version);
        out.extend_from_slice(format!("set {key} 0 0 {}{noreply}\r\n", value.len()).as_bytes());
        out.extend_from_slice(&value);
        out.extend_from_slice(b"\r\n");
        version
    }

    fn get(&mut self, out: &mut Vec<u8>, own: &[usize], written: &BTreeSet<usize>, shared: usize) -> Asked {
        let own: BTreeSet<usize> = own.iter().copied().collect();
        let shared: BTreeSet<usize> = (0..shared).map(|_| self.random.below(SHARED_KEYS)).collect();
        let mut keys: Vec<String> = own.iter().map(|&at| self.own[at].key.clone()).collect();
        keys.extend(shared.iter().map(|at| format!("shared:{at}")));
        out.extend_from_slice(format!("get {}\r\n", keys.join(" ")).as_bytes());
        Asked::Get(own.into_iter().map(|at| (at, written.contains(&at))).collect(), shared.into_iter().collect())
    }

    fn requests(&mut self, out: &mut Vec<u8>, asked: &mut Vec<Asked>, written: &mut BTreeSet<usize>) {
        let at = self.random.below(OWN_KEYS);
        let key = self.own[at].key.clone();
        match self.random.below(20) {
            // A `set` and right behind it its `get`.
            0..5 => {
                let version = self.put(out, &key, "");
                asked.push(Asked::Set(at, version));
                written.insert(at);
                asked.push(self.get(out, &[at], written, 0));
            }
            5..7 => {
                let version = self.put(out, &key, " noreply");
                asked.push(Asked::SetQuietly(at, version));
                written.insert(at);
                asked.push(self.get(out, &[at], written, 0));
            }
            7..14 => asked.push(self.get(out, &[at], written, 0)),
            14..16 => {
                let own: Vec<usize> = (0..self.random.between(1, 8)).map(|_| self.random.below(OWN_KEYS)).collect();
                let shared = self.random.between(1, 8);
                asked.push(self.get(out, &own, written, shared));
            }
            16 => {
                out.extend_from_slice(format!("delete {key}\r\n").as_bytes());
                asked.push(Asked::Delete(at));
                written.insert(at);
            }
            17 => {
                let key = format!("shared:{}", self.random.below(SHARED_KEYS));
                self.put(out, &key, "");
                asked.push(Asked::SetShared);
            }
            _ => asked.push(self.get(out, &[], written, 1)),
        }
    }

    /// One pipeline: written, all its replies read, then checked.
    fn pipeline(&mut self) {
        let length = self.random.pick(&[1, 2, 8, 32, 48]);
        let (mut out, mut asked, mut written) = (Vec::new(), Vec::new(), BTreeSet::new());
        // So little that the sockets on the way hold it while nobody reads the replies.
        while asked.len() < length && out.len() < 24 << 10 {
            self.requests(&mut out, &mut asked, &mut written);
        }
        let settled = self.history.settled();
        self.client.send(&out);
        let replies: Vec<Reply> = asked.iter().map(|asked| reply(&mut self.client, asked)).collect();
        let rings = self.history.since(settled);
        self.seen.operations += asked.len() as u64;
        for (asked, reply) in asked.into_iter().zip(replies) {
            self.check(&rings, asked, reply);
        }
    }

    fn check(&mut self, rings: &BTreeSet<Mask>, asked: Asked, reply: Reply) {
        match (asked, reply) {
            (Asked::Set(at, version), Reply::Line(line)) => {
                assert_eq!(line, "STORED", "set of {}", self.own[at].key);
                self.own[at].told(rings, Some(version));
            }
            (Asked::SetQuietly(at, version), Reply::None) => self.own[at].told(rings, Some(version)),
            (Asked::SetShared, Reply::Line(line)) => assert_eq!(line, "STORED", "set of a shared key"),
            (Asked::Delete(at), Reply::Line(line)) => match line.as_str() {
                "DELETED" => self.own[at].deleted(rings, true),
                "NOT_FOUND" => self.own[at].deleted(rings, false),
                other => panic!("delete of {}: {other}", self.own[at].key),
            },
            (Asked::Get(own, shared), Reply::Values(mut values)) => {
                let mut take = |key: &str| {
                    let at = values.iter().position(|(found, _)| found == key)?;
                    Some(self.pattern.version(key, &values.swap_remove(at).1))
                };
                for (at, behind_set) in own {
                    let own = &mut self.own[at];
                    let found = take(&own.key);
                    own.found(rings, found, self.history, &mut self.seen);
                    self.seen.behind_set += u64::from(behind_set && own.is_sure(rings));
                }
                for at in shared {
                    take(&format!("shared:{at}"));
                }
                assert!(values.is_empty(), "not asked for, or twice: {values:?}");
            }
            _ => unreachable!("a reply is read as its request says"),
        }
    }
}

fn reply(client: &mut TextClient, asked: &Asked) -> Reply {
    match asked {
        Asked::SetQuietly(..) => Reply::None,
        Asked::Get(..) => {
            let values = client.values().unwrap_or_else(|line| panic!("a get was answered {line:?}"));
            Reply::Values(values.into_iter().map(|value| (String::from_utf8(value.key).unwrap(), value.data)).collect())
        }
        _ => Reply::Line(client.line()),
    }
}

/// Who fails must not leave the others at work.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Writes rings into the file, has them read, and knows when all workers have them.
struct Swapper<'a> {
    slipring: &'a Slipring,
    file: std::path::PathBuf,
    rings: &'a Rings,
    history: &'a History,
    random: Random,
    probes: Vec<TextClient>,
    mask: Mask,
}

impl Swapper<'_> {
    fn ask_for(&mut self, mask: Mask) {
        self.history.begin(mask);
        replace(&self.file, &self.rings.list(mask, &mut self.random));
        reload(self.slipring);
    }

    fn settle(&mut self, mask: Mask) {
        let name = self.rings.get(mask).name();
        for probe in &mut self.probes {
            eventually("each worker has the ring", || probe.stats("stats ring")["ring_fingerprint"] == name);
        }
        self.mask = mask;
        self.history.settle();
    }

    /// One swap or two on each other's heels; gives how many.
    fn swap(&mut self) -> u64 {
        let other = loop {
            let other = match self.random.below(3) {
                // One more, one less.
                0 | 1 => self.mask ^ (1 << self.random.below(NODES)),
                _ => self.random.between(1, (1 << NODES) - 1),
            };
            if other != 0 && other != self.mask {
                break other;
            }
        };
        match self.random.below(6) {
            // The same list, or its nodes in another order.
            0 => {
                let same = self.mask;
                self.ask_for(same);
                self.settle(same);
                1
            }
            1 => {
                let passing = self.random.between(1, (1 << NODES) - 1);
                // To see the last one must mean that the one before is past.
                let last = if passing == other { self.mask ^ other } else { other };
                if passing == self.mask || last == 0 || last == passing || last == self.mask {
                    return 0;
                }
                self.ask_for(passing);
                self.ask_for(last);
                self.settle(last);
                2
            }
            _ => {
                self.ask_for(other);
                self.settle(other);
                1
            }
        }
    }
}

/// Connections to this port, those that are already closed by both aside.
fn connections_to(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("a Linux /proc");
    let remote = format!(":{port:04X}");
    let to_it = |line: &&str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // 06 is TIME_WAIT: the kernel's alone.
        words.len() > 3 && words[2].ends_with(&remote) && words[3] != "06"
    };
    table.lines().skip(1).filter(to_it).count()
}

fn descriptors(slipring: &Slipring) -> usize {
    fs::read_dir(format!("/proc/{}/fd", slipring.pid())).expect("its /proc").count()
}

#[test]
fn clients_do_not_notice_a_thousand_swaps() {
    let swaps = number_from_environment("SLIPRING_RELOAD_SWAPS", if cfg!(debug_assertions) { 60 } else { 1_000 });
    let seed = number_from_environment("SLIPRING_TEST_SEED", 1);
    println!("SLIPRING_RELOAD_SWAPS={swaps} SLIPRING_TEST_SEED={seed}");
    let nodes: Vec<Memcached> = (0..NODES).map(|_| Memcached::start()).collect();
    let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
    let rings = Rings::new(&addresses);
    let first = 0b111;
    let (history, pattern, directory) = (History::new(first), Pattern::new(), Directory::new());
    let file = directory.path("nodes");
    let mut random = Random::new(seed);
    replace(&file, &rings.list(first, &mut random));
    let path = file.to_str().unwrap().to_owned();
    // What only time brings is no complaint here: a machine that stands still for a moment makes a request slow, or a
    // connection late.
    let patient = ["--connect-timeout", "30s", "--slow-request", "0s"];
    let slipring =
        Slipring::command(&[&["serve", "--nodes-file", &path, "--workers", WORKERS][..], &patient].concat(), &[]);
    slipring.wait_for_states("up", 3);
    let idle = descriptors(&slipring);
    let (over, total) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 5]);
    let mut warm = 0;
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        for number in 0..CONNECTIONS {
            let (history, pattern, rings) = (&history, &pattern, &rings);
            let (over, total, address) = (&over, &total, slipring.address());
            let own = (0..OWN_KEYS).map(|at| Own::new(format!("own:{number}:{at}"), rings)).collect();
            let mut connection = Connection {
                number,
                random: Random::new(mix(seed ^ ((number + 1) << 32))),
                client: TextClient::connect(address),
                pattern,
                history,
                own,
                version: 0,
                seen: Seen::default(),
            };
            scope.spawn(move || {
                let _ends = Ends(over);
                while !over.load(Ordering::SeqCst) {
                    connection.pipeline();
                }
                connection.client.in_step();
                let Seen { operations, exact, behind_set, unsure, stale } = connection.seen;
                for (total, count) in total.iter().zip([operations, exact, behind_set, unsure, stale]) {
                    total.fetch_add(count, Ordering::SeqCst);
                }
            });
        }
        let probes = (0..PROBES).map(|_| slipring.client()).collect();
        let mut swapper =
            Swapper { slipring: &slipring, file, rings: &rings, history: &history, random, probes, mask: first };
        let mut done = 0;
        while done < swaps && !over.load(Ordering::SeqCst) {
            if warm == 0 && done >= swaps / 5 {
                warm = slipring.memory_kib("VmRSS");
            }
            done += swapper.swap();
            std::thread::sleep(Duration::from_millis(40));
        }
        // In the end two of five are left.
        swapper.ask_for(0b00110);
        swapper.settle(0b00110);
    });
    let [operations, exact, behind_set, unsure, stale] = total.map(AtomicU64::into_inner);
    let end = slipring.memory_kib("VmRSS");
    println!(
        "{operations} operations; of the reads {exact} could find one thing only ({behind_set} of them behind their own \
         set), {unsure} had a swap near, {stale} found an older value on a node that came back; {warm} KiB, {end} KiB"
    );
    assert!(exact > 0 && behind_set > 0, "the load tells nothing: {exact} {behind_set}");
    for (at, node) in nodes.iter().enumerate().filter(|(at, _)| 0b00110 & (1 << at) == 0) {
        let port = node.address().port();
        eventually(&format!("no connection is left to removed node {at}"), || connections_to(port) == 0);
    }
    eventually("no descriptor is left behind", || descriptors(&slipring) <= idle);
    assert!(end <= warm + warm / 4 + (8 << 10), "memory grew from {warm} to {end} KiB");
    for node in &nodes {
        assert_eq!(node.stat("evictions"), 0, "the test's own assumption");
    }
    let log = slipring.output();
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
        // Nodes come and go with what they hold, and each that comes is told of.
        .filter(|line| !line.contains("a node joined with values in it"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_check_itself_sees_what_it_must_not() {
    let addresses: Vec<SocketAddr> = (1..=5).map(|port| ([127, 0, 0, 1], port).into()).collect();
    let rings = Rings::new(&addresses);
    let history = History::new(0b1);
    let mut own = Own::new("k".to_owned(), &rings);
    let (one, other, either) = (BTreeSet::from([0b1]), BTreeSet::from([0b10]), BTreeSet::from([0b1, 0b10]));
    let refuses = |own: &mut Own, rings: &BTreeSet<Mask>, found| {
        let found = || own.found(rings, found, &history, &mut Seen::default());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(found)).is_err()
    };
    own.told(&one, Some(1));
    own.told(&one, Some(2));
    assert!(refuses(&mut own, &one, Some(1)) && refuses(&mut own, &one, None), "overtaken");
    own.told(&other, Some(3));
    history.begin(0b10);
    assert!(refuses(&mut own, &either, Some(1)) && refuses(&mut own, &either, None), "neither has it");
    assert!(!refuses(&mut own, &either, Some(2)) && !refuses(&mut own, &either, Some(3)), "one of them has it");
    assert!(!refuses(&mut own, &one, Some(2)) && refuses(&mut own, &one, Some(3)), "a node that came back");
    let pattern = Pattern::new();
    let value = pattern.value("k", 7);
    assert_eq!(pattern.version("k", &value), 7);
    for wrong in [pattern.value("l", 7), [&value[..value.len() - 1], b"?"].concat(), Vec::new()] {
        assert!(std::panic::catch_unwind(|| pattern.version("k", &wrong)).is_err());
    }
}
