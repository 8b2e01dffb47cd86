//! Millions of verified operations: no torn byte, no other key's value, no connection out of step.
//!
//! 64 connections with pipelines of mixed requests over three real nodes; some leave in the middle
//! of a request or of a reply. Each connection owns keys nobody else writes, of which it knows the
//! exact value at every moment, and shares others with everyone, of which any value must at least
//! be whole and be the key's own. Clients of text, meta and binary do the same on keys they share (`soak/mixed.rs`).
//!
//! `SLIPRING_SOAK_OPERATIONS` sets how many; 2,000,000 in a release build, and a quarter of that over TLS and a log-in to
//! the nodes. A debug build does 100,000 (200,000 in three dialects; over TLS a quarter): it is there to run the
//! invariant checks of the core over the same traffic, and they cost twenty times as much. `SLIPRING_SOAK_ADDRESS` has
//! the first of them done through a proxy that somebody else started, before nodes of which this knows nothing: they must
//! not evict.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

#[path = "soak/dialect.rs"]
mod dialect;
#[path = "soak/history.rs"]
mod history;
#[path = "soak/mixed.rs"]
mod mixed;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{Link, Memcached, Random, Slipring, TextClient, Value, mix, number_from_environment, shown};

const CONNECTIONS: u64 = 64;
const OWN_KEYS: usize = 100;
const SHARED_KEYS: usize = 64;
const LARGEST: usize = 300 << 10;
/// Handshakes count in it, and the machine is busy.
const PATIENT: &[&str] = &["--connect-timeout", "10s"];

// === values that say what they are ===

/// Random bytes that values are cut from: making and checking one is a copy or a comparison.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        let mut random = Random::new(0x5011_9197);
        let words = (2 * LARGEST).div_ceil(8);
        Self((0..words).flat_map(|_| random.next().to_le_bytes()).collect())
    }

    /// The value of this key in this version: a head that says both and the length, then bytes
    /// that depend on all three; cut where the value is shorter than its head.
    fn value(&self, key: &str, version: u64, length: usize) -> Vec<u8> {
        let mut value = format!("{key} {version} {length} ").into_bytes();
        let at = self.place(&value);
        if value.len() < length {
            let rest = length - value.len();
            value.extend_from_slice(&self.0[at..at + rest]);
        } else {
            // So short that it cannot name its key: then each byte depends on it.
            let mut bytes = Vec::with_capacity(length);
            let mut state = hash(key.as_bytes());
            while bytes.len() < length {
                state = mix(state);
                bytes.push(state as u8);
            }
            value = bytes;
        }
        value
    }

    fn place(&self, head: &[u8]) -> usize {
        (hash(head) % LARGEST as u64) as usize
    }

    /// Whether this is a whole value of this key, whichever its version.
    fn is_whole(&self, key: &str, data: &[u8]) -> bool {
        let head = &data[..data.len().min(80)];
        let words: Vec<&[u8]> = head.splitn(4, |&byte| byte == b' ').collect();
        let number = |at: usize| -> Option<u64> { std::str::from_utf8(words.get(at)?).ok()?.parse().ok() };
        if words.len() == 4
            && words[0] == key.as_bytes()
            && let (Some(version), Some(length)) = (number(1), number(2))
        {
            return length as usize == data.len() && self.value(key, version, data.len()) == data;
        }
        // The short form has no version: the bytes follow from key and length alone.
        data == self.value(key, u64::MAX, data.len())
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |state, &byte| mix(state ^ (u64::from(byte) << 32)))
}

/// 1 B to 300 KB, most of them small.
fn size(random: &mut Random) -> usize {
    match random.below(2_000) {
        0..1_300 => random.between(1, 200),
        1_300..1_900 => random.between(200, 2_000),
        1_900..1_980 => random.between(2_000, 17_000),
        1_980..1_998 => random.between(17_000, 70_000),
        _ => random.between(70_000, LARGEST),
    }
}

// === one connection ===

/// What a reply must be.
enum Wanted {
    Line(&'static str),
    /// The keys of a retrieval, each with what must be found there.
    Values(Vec<(String, Found)>),
    Number(u64),
}

enum Found {
    Nothing,
    Exactly(Arc<Vec<u8>>),
    /// Any value of this key, or none.
    Whatever,
}

struct Connection {
    number: u64,
    /// Goes up when this connection is thrown away: its keys are left behind with it, for nobody
    /// knows which of its last requests were done.
    life: u64,
    random: Random,
    pattern: Arc<Pattern>,
    address: SocketAddr,
    client: TextClient,
    /// The value of each own key, if it has one.
    own: Vec<Option<Arc<Vec<u8>>>>,
    counter: Option<u64>,
    version: u64,
}

impl Connection {
    fn new(number: u64, seed: u64, pattern: Arc<Pattern>, address: SocketAddr) -> Self {
        Self {
            number,
            life: 0,
            random: Random::new(mix(seed ^ (number << 32))),
            pattern,
            address,
            client: TextClient::connect(address),
            own: vec![None; OWN_KEYS],
            counter: None,
            version: 0,
        }
    }

    fn own_key(&self, at: usize) -> String {
        format!("own:{}:{}:{at}", self.number, self.life)
    }

    /// One request into `out`; what its reply must be, if it has one.
    fn request(&mut self, out: &mut Vec<u8>) -> Option<Wanted> {
        match self.random.below(100) {
            0..8 => {
                let noreply = self.random.one_in(4);
                self.set_own(out, noreply);
                (!noreply).then_some(Wanted::Line("STORED"))
            }
            8..12 => {
                let key = format!("shared:{}", self.random.below(SHARED_KEYS));
                let value = self.new_value(&key);
                put(out, "set", &key, &value, "");
                Some(Wanted::Line("STORED"))
            }
            12..14 => {
                let at = self.random.below(OWN_KEYS);
                let key = self.own_key(at);
                out.extend_from_slice(format!("delete {key}\r\n").as_bytes());
                let had = self.own[at].take().is_some();
                Some(Wanted::Line(if had { "DELETED" } else { "NOT_FOUND" }))
            }
            14..16 => {
                let at = self.random.below(OWN_KEYS);
                let key = self.own_key(at);
                let value = self.new_value(&key);
                put(out, "add", &key, &value, "");
                if self.own[at].is_some() {
                    return Some(Wanted::Line("NOT_STORED"));
                }
                self.own[at] = Some(Arc::new(value));
                Some(Wanted::Line("STORED"))
            }
            16..18 => {
                let at = self.random.below(OWN_KEYS);
                let key = self.own_key(at);
                out.extend_from_slice(format!("touch {key} 0\r\n").as_bytes());
                let has = self.own[at].is_some();
                Some(Wanted::Line(if has { "TOUCHED" } else { "NOT_FOUND" }))
            }
            18..21 => {
                let key = format!("counter:{}:{}", self.number, self.life);
                if let Some(count) = &mut self.counter {
                    *count += 3;
                    out.extend_from_slice(format!("incr {key} 3\r\n").as_bytes());
                    return Some(Wanted::Number(*count));
                }
                put(out, "set", &key, b"1000", "");
                self.counter = Some(1000);
                Some(Wanted::Line("STORED"))
            }
            21..29 => {
                let count = self.random.between(2, 24);
                Some(self.get(out, count))
            }
            _ => Some(self.get(out, 1)),
        }
    }

    fn new_value(&mut self, key: &str) -> Vec<u8> {
        self.version += 1;
        let length = size(&mut self.random);
        self.pattern.value(key, self.version, length)
    }

    fn set_own(&mut self, out: &mut Vec<u8>, noreply: bool) {
        let at = self.random.below(OWN_KEYS);
        let key = self.own_key(at);
        let value = self.new_value(&key);
        put(out, "set", &key, &value, if noreply { " noreply" } else { "" });
        self.own[at] = Some(Arc::new(value));
    }

    fn get(&mut self, out: &mut Vec<u8>, count: usize) -> Wanted {
        let mut wanted = Vec::with_capacity(count);
        out.extend_from_slice(if self.random.one_in(4) { b"gets" } else { b"get" });
        for _ in 0..count {
            let (key, value) = if self.random.one_in(3) {
                (format!("shared:{}", self.random.below(SHARED_KEYS)), Found::Whatever)
            } else {
                let at = self.random.below(OWN_KEYS);
                let found = self.own[at].clone().map_or(Found::Nothing, Found::Exactly);
                (self.own_key(at), found)
            };
            out.push(b' ');
            out.extend_from_slice(key.as_bytes());
            wanted.push((key, value));
        }
        out.extend_from_slice(b"\r\n");
        Wanted::Values(wanted)
    }

    fn verify(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Line(line) => assert_eq!(self.client.line(), line),
            Wanted::Number(number) => assert_eq!(self.client.line(), number.to_string()),
            Wanted::Values(keys) => {
                let values = self.client.values().expect("values and END");
                self.verify_values(keys, values);
            }
        }
    }

    fn verify_values(&self, mut keys: Vec<(String, Found)>, values: Vec<Value>) {
        for value in values {
            // Each mention may be answered once, in any order over the nodes.
            let Some(at) = keys.iter().position(|(key, _)| key.as_bytes() == value.key) else {
                panic!("{} was not asked for, or not so often", shown(&value.key));
            };
            let (key, wanted) = keys.swap_remove(at);
            match wanted {
                Found::Exactly(wanted) => {
                    assert!(*wanted == value.data, "{key} should be {}, is {}", shown(&wanted), shown(&value.data));
                }
                Found::Nothing => panic!("{key} has no value, and is {}", shown(&value.data)),
                Found::Whatever => assert!(
                    self.pattern.is_whole(&key, &value.data),
                    "{key} is torn or another's: {}",
                    shown(&value.data)
                ),
            }
        }
        for (key, wanted) in keys {
            // Nothing is evicted: the nodes have room for ten times as much.
            assert!(!matches!(wanted, Found::Exactly(_)), "{key} is missing");
        }
    }

    /// A pipeline of requests, written while the replies are read; gives how many there were.
    fn batch(&mut self) -> u64 {
        let count = match self.random.below(4) {
            0 => 1,
            1 => self.random.between(2, 8),
            _ => self.random.between(8, 40),
        };
        let mut out = Vec::new();
        let wanted: Vec<Wanted> = (0..count).filter_map(|_| self.request(&mut out)).collect();
        // What fits into the sockets on the way needs no second thread.
        if out.len() < 32 << 10 {
            self.client.send(&out);
            wanted.into_iter().for_each(|wanted| self.verify(wanted));
        } else {
            let mut stream = self.client.stream().try_clone().expect("a second handle");
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    std::io::Write::write_all(&mut stream, &out).expect("the proxy reads");
                });
                wanted.into_iter().for_each(|wanted| self.verify(wanted));
            });
        }
        count as u64
    }

    /// Leaves in the middle of a request or of a reply, and comes back as another.
    fn leave(&mut self) {
        let mut out = Vec::new();
        let in_request = self.random.one_in(2);
        if in_request {
            for _ in 0..self.random.between(1, 5) {
                self.set_own(&mut out, false);
            }
            let cut = self.random.between(1, out.len() - 1);
            out.truncate(cut.min(30_000));
        } else {
            for _ in 0..self.random.between(1, 10) {
                self.get(&mut out, 20);
            }
        }
        // It may be refused for having been sent too late; nothing of it is looked at again.
        let _ = self.client.send_if_taken(&out);
        if !in_request {
            self.client.take(1);
        }
        let fresh = TextClient::connect(self.address);
        let old = std::mem::replace(&mut self.client, fresh);
        if self.random.one_in(2) {
            old.abort();
        }
        self.life += 1;
        self.own = vec![None; OWN_KEYS];
        self.counter = None;
    }
}

fn put(out: &mut Vec<u8>, verb: &str, key: &str, value: &[u8], noreply: &str) {
    out.extend_from_slice(format!("{verb} {key} 0 0 {}{noreply}\r\n", value.len()).as_bytes());
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// How many there are to be.
fn operations(default: u64) -> u64 {
    number_from_environment("SLIPRING_SOAK_OPERATIONS", default)
}

#[test]
fn millions_of_operations_and_none_is_wrong() {
    let elsewhere = std::env::var("SLIPRING_SOAK_ADDRESS").ok().map(|word| word.parse().unwrap());
    soak(&Link::Plain, operations(if cfg!(debug_assertions) { 100_000 } else { 2_000_000 }), elsewhere);
}

#[test]
fn over_tls_and_a_log_in_none_is_wrong_either() {
    soak(&Link::secured(), operations(if cfg!(debug_assertions) { 25_000 } else { 500_000 }), None);
}

fn soak(link: &Link, total: u64, elsewhere: Option<SocketAddr>) {
    let seed = number_from_environment("SLIPRING_TEST_SEED", 1);
    println!("SLIPRING_SOAK_OPERATIONS={total} SLIPRING_TEST_SEED={seed}");
    // Room for all that the aborted lives leave behind: a miss is never an eviction.
    let nodes: Vec<Memcached> = match elsewhere {
        Some(_) => Vec::new(),
        None => link.nodes(3, &["-m", "1024"]),
    };
    let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
    let slipring = elsewhere.is_none().then(|| link.slipring(&addresses, PATIENT));
    let address = elsewhere.or(slipring.as_ref().map(Slipring::address)).unwrap();
    println!("through {address}");
    let pattern = Arc::new(Pattern::new());
    let done = AtomicU64::new(0);
    let left = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let pattern = Arc::clone(&pattern);
            let (done, left) = (&done, &left);
            scope.spawn(move || {
                let mut connection = Connection::new(number, seed, pattern, address);
                while done.load(Ordering::Relaxed) < total {
                    done.fetch_add(connection.batch(), Ordering::Relaxed);
                    // One life in a few hundred pipelines; half of the connections never leave.
                    if number % 2 == 0 && connection.random.one_in(100) {
                        connection.leave();
                        left.fetch_add(1, Ordering::Relaxed);
                    }
                }
                connection.client.send("get none\r\n").expect("END\r\n");
            });
        }
    });
    println!("{} operations, {} connections left in the middle", done.into_inner(), left.into_inner());
    for node in &nodes {
        assert_eq!(node.stat("evictions"), 0, "the test's own assumption");
    }
}

#[test]
fn the_check_itself_sees_a_torn_and_a_foreign_value() {
    let pattern = Pattern::new();
    for length in [1, 5, 30, 1_000, 70_000, LARGEST] {
        let value = pattern.value("shared:7", 3, length);
        assert_eq!(value.len(), length);
        assert!(pattern.is_whole("shared:7", &value));
        assert!(!pattern.is_whole("shared:8", &value), "another key's, {length} bytes");
        let mut torn = value.clone();
        torn[length / 2] ^= 1;
        assert!(!pattern.is_whole("shared:7", &torn), "one bit, {length} bytes");
        if length > 100 {
            let other = pattern.value("shared:7", 4, length);
            let spliced = [&value[..length / 2], &other[length / 2..]].concat();
            assert!(!pattern.is_whole("shared:7", &spliced), "two versions, {length} bytes");
            assert!(!pattern.is_whole("shared:7", &value[..length - 1]), "cut short");
        }
    }
}
