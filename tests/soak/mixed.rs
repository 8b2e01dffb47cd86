//! Clients of all three dialects on the same keys.
//!
//! Each value says its key, its writer and the number of the write. What a read may find follows from what was done
//! before it ([`History`]) and from what its own connection did: order on one connection holds, so it sees what it wrote
//! last, or what somebody wrote later.
use super::dialect::{self, Answer, Client, Dialect, Request};
use super::history::History;
use super::support::{Link, Memcached, Pattern, Random, TextClient, mix, shown};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

const CONNECTIONS: usize = 48;
const KEYS: usize = 64;
/// The last of them have bytes that text cannot carry.
const ODD_KEYS: usize = 8;
const COUNTERS: usize = 4;

/// What all connections share.
struct Scene {
    address: SocketAddr,
    pattern: Pattern,
    history: History,
    /// As values name them, and as they are on the wire.
    keys: Vec<(String, Vec<u8>)>,
    counters: Vec<String>,
}

impl Scene {
    fn new(address: SocketAddr, operations: usize) -> Self {
        let keys = (0..KEYS).map(|at| {
            let name = format!("mixed:{at}");
            let wire = if at < KEYS - ODD_KEYS { name.clone() } else { format!("mixed \r\n\0{at}") };
            (name, wire.into_bytes())
        });
        Self {
            address,
            pattern: Pattern::new(),
            // What is in the pipelines when all is done, and what connections left in the middle had begun.
            history: History::new(KEYS, COUNTERS, operations + 500_000),
            keys: keys.collect(),
            counters: (0..COUNTERS).map(|at| format!("mixed:counter:{at}")).collect(),
        }
    }
}

/// What was asked, and what the answer must not be older than.
enum Asked {
    /// Keys and their floors, the first with this opaque, the others with those behind it.
    Get(Vec<(usize, u64)>, bool),
    Touch(usize, u64),
    /// Key and number of the write.
    Set(usize, u64),
    SetQuietly(usize, u64),
    Add(usize, u64),
    /// The number of what is to be replaced, too.
    Compare(usize, u64, u64),
    Delete(usize, u64),
    DeleteQuietly(usize, u64),
    /// The counter, and what it will be above.
    Count(usize, u64),
    CountQuietly(usize),
    Barrier,
}

struct Connection<'a> {
    scene: &'a Scene,
    dialect: Dialect,
    number: usize,
    random: Random,
    client: Client,
    opaque: u32,
    /// The time at which this connection was made: what this number wrote before was on another one.
    since: u64,
    /// By key: what a read on this connection may not be older than, the last own write, quiet ones not known to be done,
    /// and a value that was read, with its unique.
    floors: Vec<u64>,
    written: Vec<u64>,
    quiet: Vec<Vec<u64>>,
    uniques: Vec<Option<(u64, u64)>>,
    /// Quiet counts not known to be done.
    counted: Vec<u64>,
}

impl<'a> Connection<'a> {
    fn new(scene: &'a Scene, number: usize, seed: u64) -> Self {
        let dialect = [Dialect::Text, Dialect::Meta, Dialect::Binary][number % 3];
        Self {
            scene,
            dialect,
            number,
            random: Random::new(mix(seed ^ ((number as u64) << 32))),
            client: Client::new(dialect, TextClient::connect(scene.address)),
            opaque: 0,
            since: scene.history.now(),
            floors: vec![0; KEYS],
            written: vec![0; KEYS],
            quiet: vec![Vec::new(); KEYS],
            uniques: vec![None; KEYS],
            counted: vec![0; COUNTERS],
        }
    }

    fn key(&mut self) -> usize {
        self.random.below(if self.dialect == Dialect::Text { KEYS - ODD_KEYS } else { KEYS })
    }

    fn value(&self, key: usize, number: u64) -> Vec<u8> {
        self.scene.pattern.value(&self.scene.keys[key].0, number << 8 | self.number as u64)
    }

    fn write(&mut self, request: &Request<'_>, key: usize, out: &mut Vec<u8>) {
        let base64 = self.random.one_in(8) || key >= KEYS - ODD_KEYS;
        self.opaque = self.opaque.wrapping_add(1);
        dialect::write(self.dialect, request, &self.scene.keys[key].1, base64, self.opaque, out);
    }

    fn barrier(&mut self, out: &mut Vec<u8>) -> (u32, Asked) {
        self.opaque = self.opaque.wrapping_add(1);
        dialect::barrier(self.dialect, self.opaque, out);
        (self.opaque, Asked::Barrier)
    }

    /// One request into `out`.
    fn request(&mut self, out: &mut Vec<u8>, asked: &mut Vec<(u32, Asked)>) {
        let history = &self.scene.history;
        let key = self.key();
        let floor = history.floor(key);
        let what = match self.random.below(100) {
            0..12 => {
                let number = history.begin();
                self.write(&Request::Set(&self.value(key, number)), key, out);
                Asked::Set(key, number)
            }
            12..16 => {
                let number = history.begin();
                self.write(&Request::SetQuietly(&self.value(key, number)), key, out);
                Asked::SetQuietly(key, number)
            }
            16..19 => {
                let number = history.begin();
                self.write(&Request::Add(&self.value(key, number)), key, out);
                Asked::Add(key, number)
            }
            19..25 => {
                // Of something that was read, now or long ago.
                let Some((read, unique)) = self.uniques[key] else { return self.get(1, out, asked) };
                let number = history.begin();
                self.write(&Request::Compare(&self.value(key, number), unique), key, out);
                Asked::Compare(key, read, number)
            }
            25..28 => {
                let number = history.begin_delete(key);
                self.write(&Request::Delete, key, out);
                Asked::Delete(key, number)
            }
            28 => {
                let number = history.begin_delete(key);
                self.write(&Request::DeleteQuietly, key, out);
                Asked::DeleteQuietly(key, number)
            }
            29..32 => {
                self.write(&Request::Touch, key, out);
                Asked::Touch(key, floor)
            }
            32..35 => self.count(false, out),
            35 => self.count(true, out),
            36..44 => {
                let count = self.random.between(2, 24);
                return self.get(count, out, asked);
            }
            _ => return self.get(1, out, asked),
        };
        asked.push((self.opaque, what));
    }

    fn count(&mut self, quiet: bool, out: &mut Vec<u8>) -> Asked {
        let at = self.random.below(COUNTERS);
        let request = if quiet { Request::CountQuietly } else { Request::Count };
        let above = self.scene.history.count(at);
        self.opaque = self.opaque.wrapping_add(1);
        dialect::write(self.dialect, &request, self.scene.counters[at].as_bytes(), false, self.opaque, out);
        if quiet { Asked::CountQuietly(at) } else { Asked::Count(at, above) }
    }

    /// As clients ask for one key or many: one line in text, quiet ones and a barrier in the others.
    fn get(&mut self, count: usize, out: &mut Vec<u8>, asked: &mut Vec<(u32, Asked)>) {
        let keys: Vec<usize> = (0..count).map(|_| self.key()).collect();
        let floors = keys.iter().map(|&key| (key, self.scene.history.floor(key))).collect();
        let touch = self.random.one_in(8);
        let first = self.opaque.wrapping_add(1);
        if self.dialect == Dialect::Text {
            self.opaque = first;
            out.extend_from_slice(if touch { b"gats 0" } else { b"gets" });
            for &key in &keys {
                out.push(b' ');
                out.extend_from_slice(&self.scene.keys[key].1);
            }
            out.extend_from_slice(b"\r\n");
            return asked.push((first, Asked::Get(floors, false)));
        }
        let quiet = count > 1;
        for key in keys {
            self.write(&Request::Get { touch, quiet }, key, out);
        }
        asked.push((first, Asked::Get(floors, quiet)));
        if quiet {
            asked.push(self.barrier(out));
        }
    }

    // === verifying ===

    fn verify(&mut self, opaque: u32, asked: Asked) {
        let scene = self.scene;
        let wire = |key: usize| &*scene.keys[key].1;
        match asked {
            Asked::Barrier => self.client.barrier(opaque),
            Asked::Get(keys, quiet) => self.verify_get(opaque, &keys, quiet),
            Asked::Touch(key, floor) => match self.client.answer(opaque, wire(key)) {
                Answer::Missing => self.missed(key, floor),
                answer => assert_eq!(answer, Answer::Done, "touch"),
            },
            Asked::Set(key, number) => {
                assert_eq!(self.client.answer(opaque, wire(key)), Answer::Done, "set");
                self.done(key, number);
            }
            Asked::SetQuietly(key, number) => {
                assert_eq!(self.client.quiet_answer(opaque, wire(key)), None, "a quiet set");
                self.done_quietly(key, number);
            }
            Asked::Add(key, number) => match self.client.answer(opaque, wire(key)) {
                Answer::Refused => self.confirm(key),
                answer => {
                    assert_eq!(answer, Answer::Done, "add");
                    self.done(key, number);
                }
            },
            Asked::Compare(key, read, number) => match self.client.answer(opaque, wire(key)) {
                Answer::Refused | Answer::Missing => self.confirm(key),
                answer => {
                    assert_eq!(answer, Answer::Done, "cas");
                    self.check(key, scene.history.replaced(read));
                    self.done(key, number);
                }
            },
            Asked::Delete(key, number) => {
                let answer = self.client.answer(opaque, wire(key));
                assert!([Answer::Done, Answer::Missing].contains(&answer), "delete: {answer:?}");
                self.done(key, number);
            }
            Asked::DeleteQuietly(key, number) => {
                let answer = self.client.quiet_answer(opaque, wire(key));
                assert!([None, Some(Answer::Missing)].contains(&answer), "a quiet delete: {answer:?}");
                self.done_quietly(key, number);
            }
            Asked::Count(at, above) => {
                let answer = self.client.answer(opaque, scene.counters[at].as_bytes());
                let Answer::Number(number) = answer else { panic!("incr: {answer:?}") };
                for _ in 0..std::mem::take(&mut self.counted[at]) {
                    scene.history.counted(at);
                }
                self.check(at, scene.history.counted_to(at, number, above));
            }
            Asked::CountQuietly(at) => {
                let answer = self.client.quiet_answer(opaque, scene.counters[at].as_bytes());
                assert_eq!(answer, None, "a quiet incr");
                self.counted[at] += 1;
            }
        }
    }

    fn verify_get(&mut self, opaque: u32, keys: &[(usize, u64)], quiet: bool) {
        let scene = self.scene;
        let wire = |key: usize| &*scene.keys[key].1;
        if self.dialect == Dialect::Text {
            let wires: Vec<&[u8]> = keys.iter().map(|&(key, _)| wire(key)).collect();
            for (&(key, floor), answer) in keys.iter().zip(self.client.values(&wires)) {
                self.read(key, floor, answer);
            }
            return;
        }
        for (at, &(key, floor)) in keys.iter().enumerate() {
            let opaque = opaque.wrapping_add(at as u32);
            let answer = if quiet {
                self.client.quiet_answer(opaque, wire(key)).unwrap_or(Answer::Missing)
            } else {
                self.client.answer(opaque, wire(key))
            };
            self.read(key, floor, answer);
        }
    }

    fn read(&mut self, key: usize, floor: u64, answer: Answer) {
        let Answer::Found { data, unique } = answer else {
            assert_eq!(answer, Answer::Missing, "a read");
            return self.missed(key, floor);
        };
        self.confirm(key);
        let version = self.scene.pattern.version(&self.scene.keys[key].0, &data);
        let (number, writer) = (version >> 8, (version & 0xff) as usize);
        self.check(key, self.scene.history.found(number, floor.max(self.floors[key])));
        let own = writer == self.number && number >= self.since;
        if own && number < self.written[key] {
            self.check(key, Err(format!("found the own write {number}, older than {}", self.written[key])));
        }
        self.floors[key] = self.floors[key].max(number);
        self.uniques[key] = Some((number, unique));
    }

    fn missed(&mut self, key: usize, floor: u64) {
        self.confirm(key);
        self.check(key, self.scene.history.missed(key, floor.max(self.floors[key])));
    }

    fn check(&self, key: usize, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            panic!("{:?} connection {}, {key}: {what}", self.dialect, self.number);
        }
    }

    /// A write was answered.
    fn done(&mut self, key: usize, number: u64) {
        self.confirm(key);
        self.scene.history.done(key, number);
        self.floors[key] = self.floors[key].max(number);
        self.written[key] = number;
    }

    /// A write that is not answered. For others it is known to be done when something behind it of the same key is.
    fn done_quietly(&mut self, key: usize, number: u64) {
        self.floors[key] = self.floors[key].max(number);
        self.written[key] = number;
        self.quiet[key].push(number);
    }

    fn confirm(&mut self, key: usize) {
        for number in std::mem::take(&mut self.quiet[key]) {
            self.scene.history.done(key, number);
        }
    }

    // === pipelines ===

    /// A pipeline of requests, written while the answers are read; gives how many there were, a multiget being one.
    fn batch(&mut self) -> u64 {
        let count = match self.random.below(4) {
            0 => 1,
            1 => self.random.between(2, 8),
            _ => self.random.between(8, 40),
        };
        let (mut out, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..count {
            self.request(&mut out, &mut asked);
        }
        asked.push(self.barrier(&mut out));
        self.exchange(&out, asked);
        count as u64
    }

    fn exchange(&mut self, out: &[u8], asked: Vec<(u32, Asked)>) {
        let mut stream = self.client.stream.stream().try_clone().expect("a second handle");
        std::thread::scope(|scope| {
            // What fits into the sockets on the way needs no second thread.
            if out.len() < 32 << 10 {
                self.client.stream.send(out);
            } else {
                scope.spawn(move || std::io::Write::write_all(&mut stream, out).expect("the proxy reads"));
            }
            for (opaque, asked) in asked {
                self.verify(opaque, asked);
            }
        });
    }

    /// Leaves in the middle of a request or of an answer, and comes back as another.
    fn leave(&mut self) {
        let mut out = Vec::new();
        let in_request = self.random.one_in(2);
        if in_request {
            for _ in 0..self.random.between(1, 5) {
                let key = self.key();
                let number = self.scene.history.begin();
                self.write(&Request::Set(&self.value(key, number)), key, &mut out);
            }
            let cut = self.random.between(1, out.len() - 1);
            out.truncate(cut);
        } else {
            for _ in 0..self.random.between(1, 10) {
                self.get(20, &mut out, &mut Vec::new());
            }
        }
        // It may be refused for having been sent too late; nothing of it is looked at again.
        let _ = self.client.stream.send_if_taken(&out);
        if !in_request && self.random.one_in(2) {
            self.client.stream.take(1);
        }
        let random = self.random.clone();
        let old = std::mem::replace(self, Self { random, ..Self::new(self.scene, self.number, 0) });
        if self.random.one_in(2) {
            old.client.stream.abort();
        }
    }

    /// Counts once more, so that all quiet counts are known to be done.
    fn end(&mut self) {
        let (mut out, mut asked) = (Vec::new(), Vec::new());
        for at in 0..COUNTERS {
            let above = self.scene.history.count(at);
            self.opaque = self.opaque.wrapping_add(1);
            let key = self.scene.counters[at].as_bytes();
            dialect::write(self.dialect, &Request::Count, key, false, self.opaque, &mut out);
            asked.push((self.opaque, Asked::Count(at, above)));
        }
        self.exchange(&out, asked);
    }
}

/// So many operations through the proxy at this address; gives how many connections left in the middle.
fn run(address: SocketAddr, total: u64, seed: u64) -> u64 {
    let scene = Scene::new(address, total as usize);
    let mut setter = TextClient::connect(address);
    for counter in &scene.counters {
        setter.set(counter, "0");
    }
    let (done, left) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (scene, done, left) = (&scene, &done, &left);
            scope.spawn(move || {
                let mut connection = Connection::new(scene, number, seed);
                while done.load(Ordering::Relaxed) < total {
                    done.fetch_add(connection.batch(), Ordering::Relaxed);
                    // Half of the connections never leave.
                    if number % 2 == 0 && connection.random.one_in(30) {
                        connection.leave();
                        left.fetch_add(1, Ordering::Relaxed);
                    }
                }
                connection.end();
            });
        }
    });
    for (at, counter) in scene.counters.iter().enumerate() {
        let values = setter.get(&[counter]);
        let number = std::str::from_utf8(&values[0].data).ok().and_then(|digits| digits.trim_end().parse().ok());
        let number = number.unwrap_or_else(|| panic!("{counter} is {}", shown(&values[0].data)));
        scene.history.counter_is(at, number).unwrap_or_else(|what| panic!("{counter}: {what}"));
    }
    left.into_inner()
}

#[test]
fn clients_of_all_dialects_on_the_same_keys_and_nothing_is_wrong() {
    soak(&Link::Plain, super::operations(if cfg!(debug_assertions) { 200_000 } else { 2_000_000 }));
}

#[test]
fn over_tls_and_a_log_in_nothing_is_wrong_either() {
    soak(&Link::secured(), super::operations(if cfg!(debug_assertions) { 50_000 } else { 500_000 }));
}

fn soak(link: &Link, total: u64) {
    let seed = super::number_from_environment("SLIPRING_TEST_SEED", 1);
    println!("SLIPRING_SOAK_OPERATIONS={total} SLIPRING_TEST_SEED={seed}");
    let nodes = link.nodes(3, &[]);
    let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
    let slipring = link.slipring(&addresses, super::PATIENT);
    let left = run(slipring.address(), total, seed);
    println!("{total} operations in three dialects, {left} connections left in the middle");
    for node in &nodes {
        assert_eq!(node.stat("evictions"), 0, "the test's own assumption");
    }
}
