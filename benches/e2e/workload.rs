//! What is asked: the profiles, and every request and every right answer made beforehand, so that
//! the generator only copies and compares.

use crate::packets;
use crate::random::Random;

/// One kind of load.
#[derive(Debug)]
pub(crate) struct Profile {
    /// What the command line and the tables call it.
    pub(crate) name: &'static str,
    /// One line for the reader of the report.
    pub(crate) about: &'static str,
    /// Client connections, all opened before the measurement.
    pub(crate) connections: usize,
    /// Requests written at once on a connection; the next batch follows when all are answered.
    pub(crate) depth: usize,
    /// Keys of each get; above one, all are different and every one is stored.
    pub(crate) keys_per_get: usize,
    /// Sets in a hundred requests; the others are gets.
    pub(crate) sets_per_hundred: u64,
    /// If any, each request is so many sets without a reply and one with.
    pub(crate) silent_sets: usize,
    /// Bytes of every key; 10 at least.
    pub(crate) key_len: usize,
    /// Bytes of every value.
    pub(crate) value_len: usize,
    /// Keys stored before the load begins.
    pub(crate) key_count: usize,
    /// Each connection gets one key of its own, so that no two wait for the same value.
    pub(crate) own_keys: bool,
    /// Arrivals per second of an open loop; none means a closed loop.
    pub(crate) rate: Option<f64>,
}

/// What the others are made from.
pub(crate) const SMALL: Profile = Profile {
    name: "",
    about: "",
    connections: 1,
    depth: 1,
    keys_per_get: 1,
    sets_per_hundred: 10,
    silent_sets: 0,
    key_len: 15,
    value_len: 100,
    key_count: 10_000,
    own_keys: false,
    rate: None,
};

const fn large(connections: usize, value_len: usize) -> Profile {
    Profile { connections, value_len, sets_per_hundred: 0, key_count: connections, own_keys: true, ..SMALL }
}

/// All profiles, in the order they are run.
pub(crate) const PROFILES: &[Profile] = &[
    Profile { name: "L1", about: "1 connection; 100 B, 90/10 get/set", ..SMALL },
    Profile { name: "L50", about: "50 connections; 100 B, 90/10 get/set", connections: 50, ..SMALL },
    Profile {
        name: "P16",
        about: "50 connections × 16 pipelined; 100 B, 90/10 get/set; latency is from the write of the batch",
        connections: 50,
        depth: 16,
        ..SMALL
    },
    Profile {
        name: "M24",
        about: "10 connections, gets of 24 keys, all stored; one op is one whole get",
        connections: 10,
        keys_per_get: 24,
        sets_per_hundred: 0,
        ..SMALL
    },
    Profile {
        name: "O20k",
        about: "open loop: Poisson arrivals at 20,000 ops/s over 50 connections, latency from the intended send time; \
                100 B, 90/10 get/set",
        connections: 50,
        rate: Some(20_000.0),
        ..SMALL
    },
    Profile {
        name: "N64",
        about: "10 connections that fill the cache: 63 sets of 100 B with `noreply` and one without; one op is all 64",
        connections: 10,
        silent_sets: 63,
        ..SMALL
    },
    Profile { name: "V64K", about: "20 connections, each gets a value of 64 KiB of its own", ..large(20, 64 << 10) },
    Profile { name: "V512K", about: "4 connections, each gets a value of 512 KiB of its own", ..large(4, 512 << 10) },
];

/// What the clients of a load speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Text,
    Binary,
}

/// A request: an index into what the [`Dataset`] has ready.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Get(usize),
    Set(usize),
    Multiget(usize),
    /// Many sets, one reply.
    Bulk(usize),
}

/// What the bytes at the head of a connection's input are, for the request they must answer.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Not all there yet; right so far.
    Partial,
    /// The right answer, this long.
    Right(usize),
    /// A wrong answer that is one line or packet (a miss, an error): counted, and the connection
    /// goes on behind it.
    Wrong(usize),
    /// Anything else: where the next answer begins is unknown.
    OutOfStep,
}

const KEY_PREFIX: &str = "e2e:key:";
const KEY_DIGITS: usize = 7;
const VALUE: &[u8] = b"VALUE ";
const END: &[u8] = b"END\r\n";
const STORED: &[u8] = b"STORED\r\n";
/// Keys of a get, at most.
const MOST_KEYS: usize = 256;
/// Different multiget lines; one is drawn for each request.
const MULTIGETS: usize = 4096;
/// Different bulks of sets.
const BULKS: usize = 512;

/// Byte strings of one length, back to back.
struct Table {
    stride: usize,
    bytes: Vec<u8>,
}

impl Table {
    fn new(count: usize, make: impl Fn(usize) -> Vec<u8>) -> Self {
        let bytes: Vec<u8> = (0..count).flat_map(make).collect();
        Self { stride: bytes.len() / count, bytes }
    }

    fn row(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.stride..][..self.stride]
    }
}

struct Multiget {
    line: Vec<u8>,
    keys: Vec<usize>,
}

/// Every request of a profile and its right answer.
pub(crate) struct Dataset {
    dialect: Dialect,
    key_count: usize,
    key_len: usize,
    gets: Table,
    sets: Table,
    /// `VALUE … END`: the whole answer to the get of one key.
    hits: Table,
    /// The answer to a set.
    stored: Vec<u8>,
    multigets: Vec<Multiget>,
    bulks: Vec<Vec<u8>>,
    /// In binary, what a multiget is answered about each key, and its end.
    named_hits: Table,
    end: Vec<u8>,
}

impl Dataset {
    pub(crate) fn new(profile: &Profile, dialect: Dialect) -> Self {
        match dialect {
            Dialect::Text => Self::text(profile),
            Dialect::Binary => Self::binary(profile),
        }
    }

    fn binary(profile: &Profile) -> Self {
        let (count, len) = (profile.key_count, profile.value_len);
        let key = |i| key(i, profile.key_len);
        let value = |i| value(&key(i), len);
        let mut multigets = multigets(profile);
        for multiget in &mut multigets {
            let names: Vec<String> = multiget.keys.iter().map(|i| key(*i)).collect();
            multiget.line = packets::multiget(names.iter().map(String::as_bytes));
        }
        Self {
            dialect: Dialect::Binary,
            key_count: count,
            key_len: profile.key_len,
            gets: Table::new(count, |i| packets::get(key(i).as_bytes())),
            sets: Table::new(count, |i| packets::set(key(i).as_bytes(), &value(i))),
            hits: Table::new(count, |i| packets::hit(&value(i))),
            stored: packets::stored(),
            multigets,
            bulks: bulks(profile, |i, silent| match silent {
                true => packets::silent_set(key(i).as_bytes(), &value(i)),
                false => packets::set(key(i).as_bytes(), &value(i)),
            }),
            named_hits: Table::new(count, |i| packets::named_hit(key(i).as_bytes(), &value(i))),
            end: packets::end(),
        }
    }

    fn text(profile: &Profile) -> Self {
        let (count, len) = (profile.key_count, profile.value_len);
        let key = |i| key(i, profile.key_len);
        let set = |i, silent| {
            let mut line = format!("set {} 0 0 {len}{}\r\n", key(i), if silent { " noreply" } else { "" }).into_bytes();
            line.extend(value(&key(i), len));
            line.extend(b"\r\n");
            line
        };
        Self {
            dialect: Dialect::Text,
            key_count: count,
            key_len: profile.key_len,
            gets: Table::new(count, |i| format!("get {}\r\n", key(i)).into_bytes()),
            sets: Table::new(count, |i| set(i, false)),
            hits: Table::new(count, |i| {
                let mut reply = format!("VALUE {} 0 {len}\r\n", key(i)).into_bytes();
                reply.extend(value(&key(i), len));
                reply.extend(b"\r\n");
                reply.extend(END);
                reply
            }),
            stored: STORED.to_vec(),
            multigets: multigets(profile),
            bulks: bulks(profile, set),
            named_hits: Table::new(1, |_| Vec::new()),
            end: END.to_vec(),
        }
    }

    pub(crate) fn key_count(&self) -> usize {
        self.key_count
    }

    /// How long the right answer to a get or a set is.
    pub(crate) fn answer_len(&self, request: Request) -> usize {
        match request {
            Request::Get(_) => self.hits.stride,
            Request::Set(_) | Request::Multiget(_) | Request::Bulk(_) => self.stored.len(),
        }
    }

    /// The next request of this profile on the connection of this number.
    pub(crate) fn draw(&self, profile: &Profile, connection: usize, random: &mut Random) -> Request {
        if profile.own_keys {
            Request::Get(connection % self.key_count)
        } else if !self.bulks.is_empty() {
            Request::Bulk(random.index(self.bulks.len()))
        } else if random.below(100) < profile.sets_per_hundred {
            Request::Set(random.index(self.key_count))
        } else if self.multigets.is_empty() {
            Request::Get(random.index(self.key_count))
        } else {
            Request::Multiget(random.index(self.multigets.len()))
        }
    }

    /// The bytes to send.
    pub(crate) fn bytes(&self, request: Request) -> &[u8] {
        match request {
            Request::Get(key) => self.gets.row(key),
            Request::Set(key) => self.sets.row(key),
            Request::Multiget(index) => &self.multigets[index].line,
            Request::Bulk(index) => &self.bulks[index],
        }
    }

    /// Judges the head of `input` as the answer to `request`, byte for byte.
    pub(crate) fn check(&self, request: Request, input: &[u8]) -> Verdict {
        let same = match self.dialect {
            Dialect::Text => same,
            Dialect::Binary => packets::same,
        };
        match request {
            Request::Get(key) => same(self.hits.row(key), input),
            Request::Set(_) | Request::Bulk(_) => same(&self.stored, input),
            Request::Multiget(index) => {
                let keys = &self.multigets[index].keys;
                match self.dialect {
                    Dialect::Text => self.check_multiget(keys, input),
                    Dialect::Binary => {
                        let hits = keys.iter().map(|key| self.named_hits.row(*key));
                        packets::same_all(hits.chain([&*self.end]), input)
                    }
                }
            }
        }
    }

    /// Values may come in any order (they come grouped by node), each exactly once and all before
    /// the one `END`.
    fn check_multiget(&self, keys: &[usize], input: &[u8]) -> Verdict {
        let mut seen = [false; MOST_KEYS];
        let mut count = 0;
        let mut at = 0;
        loop {
            let rest = &input[at..];
            if count == keys.len() {
                return match same(END, rest) {
                    Verdict::Right(len) => Verdict::Right(at + len),
                    Verdict::Partial => Verdict::Partial,
                    Verdict::Wrong(_) | Verdict::OutOfStep => Verdict::OutOfStep,
                };
            }
            if !rest.starts_with(VALUE) {
                return match same(VALUE, rest) {
                    Verdict::Wrong(len) => Verdict::Wrong(at + len),
                    other => other,
                };
            }
            let Some(name) = rest.get(VALUE.len()..VALUE.len() + self.key_len) else {
                return Verdict::Partial;
            };
            // Mostly they come in the order asked.
            let position = |key: usize| match keys.get(count) {
                Some(next) if *next == key => Some(count),
                _ => keys.iter().position(|k| *k == key),
            };
            let Some(position) = key_index(name).and_then(position) else {
                return Verdict::OutOfStep;
            };
            let hit = self.hits.row(keys[position]);
            let block = &hit[..hit.len() - END.len()];
            match same(block, rest) {
                Verdict::Right(len) if !seen[position] => at += len,
                Verdict::Partial => return Verdict::Partial,
                _ => return Verdict::OutOfStep,
            }
            seen[position] = true;
            count += 1;
        }
    }
}

/// Compares the head of `input` with the only right bytes.
fn same(right: &[u8], input: &[u8]) -> Verdict {
    if input.starts_with(right) {
        return Verdict::Right(right.len());
    }
    if right.starts_with(input) {
        return Verdict::Partial;
    }
    match memchr::memchr(b'\n', input) {
        Some(_) if input.starts_with(VALUE) => Verdict::OutOfStep,
        Some(end) => Verdict::Wrong(end + 1),
        None if input.len() > 512 => Verdict::OutOfStep,
        None => Verdict::Partial,
    }
}

/// The number is at its end.
fn key(index: usize, len: usize) -> String {
    let prefix: String = KEY_PREFIX.chars().cycle().take(len - KEY_DIGITS).collect();
    format!("{prefix}{index:0KEY_DIGITS$}")
}

/// The number of a key; whether all of it is right is for who compares it whole.
fn key_index(name: &[u8]) -> Option<usize> {
    name.get(name.len().checked_sub(KEY_DIGITS)?..)?
        .iter()
        .try_fold(0_usize, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + usize::from(byte - b'0')))
}

/// A value that names its key over and over, so that no part of it fits another key.
fn value(key: &str, len: usize) -> Vec<u8> {
    key.bytes().chain([b'/']).cycle().take(len).collect()
}

fn multigets(profile: &Profile) -> Vec<Multiget> {
    assert!(profile.keys_per_get <= MOST_KEYS, "check_multiget marks no more keys");
    if profile.keys_per_get == 1 {
        return Vec::new();
    }
    let mut random = Random::new(24);
    let one = |_| {
        let mut keys = Vec::with_capacity(profile.keys_per_get);
        while keys.len() < profile.keys_per_get {
            let key = random.index(profile.key_count);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let names: Vec<String> = keys.iter().map(|k| key(*k, profile.key_len)).collect();
        Multiget { line: format!("get {}\r\n", names.join(" ")).into_bytes(), keys }
    };
    (0..MULTIGETS).map(one).collect()
}

fn bulks(profile: &Profile, set: impl Fn(usize, bool) -> Vec<u8>) -> Vec<Vec<u8>> {
    if profile.silent_sets == 0 {
        return Vec::new();
    }
    let mut random = Random::new(63);
    let one = |_| {
        (0..=profile.silent_sets).flat_map(|i| set(random.index(profile.key_count), i < profile.silent_sets)).collect()
    };
    (0..BULKS).map(one).collect()
}
