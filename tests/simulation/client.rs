//! A client that asks at random and knows what it may be told.
//!
//! For keys that only it writes it knows the value, too, as long as the key's node was calm; for all
//! keys it can tell a value that is another's, torn, or claimed to be stored when it was not.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use slipring::proxy::ClientId;
use slipring::routing::Topology;

use self::meta::Form;
use crate::Rng;
use crate::node::{MAX_ITEM, Node, Sight, segment, serials, show};

mod meta;

/// Keys with large values that everyone uses.
pub(crate) const LARGE_KEYS: usize = 4;

/// What the whole simulated world knows.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Microseconds.
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    /// When each node last failed, or was not yet fully connected again after that.
    pub(crate) last_fault: Vec<Option<u64>>,
    /// When each node was last new in the ring, and not yet fully connected.
    pub(crate) last_join: Vec<Option<u64>>,
    /// The time-outs, in microseconds.
    pub(crate) request_timeout: u64,
    pub(crate) queue_timeout: u64,
    /// When a connection of each node had last owed an answer for the whole time-out.
    pub(crate) last_late: Vec<Option<u64>>,
    /// When nothing had moved on a connection of each node for the whole queue time-out.
    pub(crate) last_stuck: Vec<Option<u64>>,
    /// When each node last did what it was asked for on a connection that was given up long ago.
    pub(crate) last_haunted: Vec<Option<u64>>,
    /// Serial numbers of changes that have reached a node.
    pub(crate) reached: HashSet<u64>,
    /// Serial numbers of changes that clients were told had not been sent.
    pub(crate) unsent: HashSet<u64>,
    /// Serial numbers of changes that clients were told were not answered in time.
    pub(crate) unknown: HashSet<u64>,
    /// How often each change without a serial number was asked for and has not reached a node.
    pub(crate) asked: HashMap<(&'static str, Vec<u8>), u64>,
    /// How often each key that is asked for once has reached a node.
    pub(crate) reads: HashMap<Vec<u8>, u64>,
    /// Larger values, in bytes, are streamed.
    pub(crate) bulk_above: usize,
    /// Misses and errors that only a lack of room explains, or of a connection for a large value: the core has counted
    /// as many.
    pub(crate) without_room: u64,
    /// Every ring so far; the last one is in use.
    pub(crate) rings: Vec<Arc<Topology>>,
    /// `--on-node-down=error`.
    pub(crate) reads_fail: bool,
    /// What clients were told, by verb and key.
    pub(crate) claims: HashMap<(&'static str, Vec<u8>), u64>,
    pub(crate) next_serial: u64,
    /// Large values that may still be written, and asked for.
    pub(crate) large_writes: usize,
    pub(crate) large_reads: usize,
    /// Reads with a long line that may still be made.
    pub(crate) long_reads: usize,
    /// Serial numbers of what was stored without an answer by those who do nothing else.
    pub(crate) loaded: Vec<u64>,
    pub(crate) flushes: bool,
    /// Clients that the core closed for not reading.
    pub(crate) too_slow: bool,
}

impl Facts {
    fn all_nodes(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// The nodes a key has lived on since so many rings ago were in use: what was asked since went
    /// to one of them.
    fn owners(&self, key: &[u8], ring: usize) -> Vec<usize> {
        let mut owners: Vec<usize> = self.rings[ring..].iter().map(|ring| owner(ring, key)).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// The node a key has lived on all the time.
    fn only_owner(&self, key: &[u8], ring: usize) -> Option<usize> {
        match *self.owners(key, ring) {
            [node] => Some(node),
            _ => None,
        }
    }

    /// Whether a line says that a node before 1.6 would have to know the meta commands.
    fn lacks_meta(&self, line: &[u8]) -> bool {
        let text = show(line);
        let named = text.split_once(" needs memcached 1.6 at node ");
        named.is_some_and(|(what, name)| {
            (what.starts_with("CLIENT_ERROR ") || what == "SERVER_ERROR proxy: the request")
                && self.nodes[number_of(name)].version.starts_with("1.5")
        })
    }

    /// Whether a node may have been unreachable since a moment.
    fn restless(&self, node: usize, since: u64) -> bool {
        self.last_fault[node].is_some_and(|fault| fault >= since)
    }

    /// Whether a node may have had a connection that was new since a moment.
    fn unproven(&self, node: usize, since: u64) -> bool {
        self.restless(node, since) || self.last_join[node].is_some_and(|join| join >= since)
    }

    /// Whether a node may have let a request wait for its answer longer than the time-out.
    fn late(&self, node: usize, since: u64) -> bool {
        self.last_late[node].is_some_and(|at| at >= since + self.request_timeout)
    }

    /// Whether a request may have waited to be sent to a node longer than the time-out.
    fn stuck(&self, node: usize, since: u64) -> bool {
        self.last_stuck[node].is_some_and(|at| at >= since + self.queue_timeout)
    }

    /// Whether a node that was asked for a key may have been unreachable, or slow.
    fn shaky(&self, key: &[u8], head: &Expected) -> bool {
        let since = head.asked;
        let excused = |node| self.restless(node, since) || self.late(node, since) || self.stuck(node, since);
        self.owners(key, head.ring).iter().any(|node| excused(*node))
    }

    /// Looks at what has reached a node.
    pub(crate) fn look(&mut self, node: usize) {
        for sight in std::mem::take(&mut self.nodes[node].ledger.seen) {
            match sight {
                Sight::Serial(serial) => {
                    assert!(self.reached.insert(serial), "change {serial} has reached a node twice");
                    assert!(!self.unsent.contains(&serial), "change {serial} was sent after all");
                }
                Sight::Change(what, key) => {
                    let left = self.asked.get_mut(&(what, key.clone())).filter(|left| **left > 0);
                    let Some(left) = left else { panic!("{what} {} has reached a node too often", show(&key)) };
                    *left -= 1;
                }
                Sight::Once(key) => {
                    let seen = self.reads.entry(key.clone()).or_insert(0);
                    *seen += 1;
                    assert!(*seen <= 2, "a read of {} has reached a node {seen} times", show(&key));
                }
            }
        }
    }

    /// Counts what a client was told about a key, which cannot be more than what happened.
    fn claim(&mut self, what: &'static str, key: &[u8]) {
        let entry = (what, key.to_vec());
        let done: u64 = self.nodes.iter().filter_map(|node| node.ledger.done.get(&entry)).sum();
        let claims = self.claims.entry(entry).or_insert(0);
        *claims += 1;
        assert!(*claims <= done, "a false {what} for {}", show(key));
    }
}

/// The number of the node a key lives on in one ring.
pub(crate) fn owner(ring: &Topology, key: &[u8]) -> usize {
    number_of(&ring.nodes()[usize::from(ring.route(key).0)].name)
}

/// The number in `node-2:11211`.
pub(crate) fn number_of(name: &str) -> usize {
    name["node-".len()..name.len() - ":11211".len()].parse().unwrap()
}

/// What a client knows of a key that only it writes.
#[derive(Clone, Debug)]
struct Known {
    /// The serial numbers of its segments, or that there is none.
    value: Option<Vec<u64>>,
    /// When the oldest change was made that was not acknowledged.
    unsure_since: Option<u64>,
    /// When the last change was asked for.
    asked: u64,
    /// The node's losses when the oldest change that counts was asked for.
    losses: u64,
    /// The ring when the last change was asked for.
    ring: usize,
    /// The segment that was stored last: the ledgers tell where.
    serial: Option<u64>,
}

#[derive(Clone)]
enum Kind {
    Read {
        keys: Vec<Vec<u8>>,
        uniques: bool,
    },
    Store {
        verb: &'static str,
        key: Vec<u8>,
        serial: u64,
        len: usize,
    },
    Delete(Vec<u8>),
    Count {
        key: Vec<u8>,
        serial: u64,
    },
    Touch(Vec<u8>),
    /// A line that begins like this.
    Line(&'static str),
    Flush,
    Stats,
    /// `me`
    Debug,
}

#[derive(Clone, Debug)]
struct Expected {
    kind: Kind,
    /// Asked by a meta command.
    meta: Option<Form>,
    quiet: bool,
    asked: u64,
    /// The ring when it was asked: this one or a later one routed it.
    ring: usize,
    losses: u64,
    /// Cut off by the end of input: an answer may come, or not.
    optional: bool,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read { keys, .. } => {
                let keys: Vec<String> = keys.iter().map(|key| show(key)).collect();
                write!(f, "read of {}", keys.join(" "))
            }
            Self::Store { verb, key, len, .. } => write!(f, "{verb} {} {len}", show(key)),
            Self::Delete(key) => write!(f, "delete {}", show(key)),
            Self::Count { key, .. } => write!(f, "incr {}", show(key)),
            Self::Touch(key) => write!(f, "touch {}", show(key)),
            Self::Line(start) => write!(f, "what is answered {start}"),
            Self::Flush => write!(f, "flush_all"),
            Self::Stats => write!(f, "stats"),
            Self::Debug => write!(f, "me"),
        }
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Stays,
    Quits,
    /// Sends its end, perhaps in the middle of a request.
    HalfCloses,
    /// Resets the connection at some moment.
    Vanishes,
}

/// A client and its socket.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    number: u64,
    /// Sent and not taken by the core.
    pub(crate) outbox: VecDeque<u8>,
    pub(crate) ending: Ending,
    /// Requests still to be made.
    pub(crate) left: usize,
    /// Nothing follows the outbox.
    pub(crate) fin: bool,
    /// The core has been told so.
    pub(crate) ended: bool,
    /// The core knows that it has sent its end, which may lie behind what is not read.
    pub(crate) hung_up: bool,
    /// The rim does not read before it is woken.
    pub(crate) parked: bool,
    /// Written by the core, not taken by the client.
    pub(crate) kernel: Vec<u8>,
    /// How much of that there may be.
    pub(crate) room: usize,
    pub(crate) blocked: bool,
    pub(crate) reads: bool,
    pub(crate) closed: bool,
    received: Vec<u8>,
    expected: VecDeque<Expected>,
    known: HashMap<Vec<u8>, Known>,
    uniques: HashMap<Vec<u8>, u64>,
    depth: usize,
    /// It only stores, a lot, and asks for no answer.
    pub(crate) loads: bool,
    /// There was no memory for its key list: it is closed behind that answer.
    refused: bool,
}

const LONG: &str = "-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long";

impl Client {
    pub(crate) fn new(id: ClientId, number: u64, rng: &mut Rng) -> Self {
        Self {
            id,
            number,
            outbox: VecDeque::new(),
            ending: [Ending::Stays, Ending::Quits, Ending::HalfCloses, Ending::Vanishes][rng.below(4)],
            left: rng.below(120) + 1,
            fin: false,
            ended: false,
            hung_up: false,
            parked: false,
            kernel: Vec::new(),
            room: [100, 5_000, 100_000, 1_000_000][rng.below(4)],
            blocked: false,
            reads: true,
            closed: false,
            received: Vec::new(),
            expected: VecDeque::new(),
            known: HashMap::new(),
            uniques: HashMap::new(),
            depth: [1, 4, 40][rng.below(3)],
            loads: false,
            refused: false,
        }
    }

    /// It only stores, a lot, and asks for no answer.
    pub(crate) fn loads(&mut self) {
        (self.loads, self.depth, self.left, self.ending) = (true, usize::MAX, 100, Ending::Stays);
    }

    fn load(&mut self, facts: &mut Facts, rng: &mut Rng) {
        self.left -= 1;
        for _ in 0..20 {
            facts.next_serial += 1;
            let serial = facts.next_serial;
            facts.loaded.push(serial);
            let key = format!("load.{}", rng.below(300)).into_bytes();
            let data = segment(&key, serial, 4_000);
            let (asked, ring) = (facts.now, facts.rings.len() - 1);
            self.outbox.extend(format!("set {} 0 0 {} noreply\r\n", show(&key), data.len()).as_bytes());
            self.outbox.extend(&data);
            self.outbox.extend(b"\r\n");
            let kind = Kind::Store { verb: "set", key, serial, len: data.len() };
            let losses = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
            self.expected.push_back(Expected { kind, meta: None, quiet: true, asked, ring, losses, optional: false });
        }
    }

    /// Whether it wants to ask for more now.
    pub(crate) fn wants(&self) -> bool {
        self.left > 0 && !self.fin && !self.closed && self.expected.len() < self.depth
    }

    /// Its last request is cut off by its end.
    pub(crate) fn is_cut(&self) -> bool {
        self.outbox.is_empty() && self.expected.iter().all(|e| e.optional)
    }

    pub(crate) fn owed(&self) -> usize {
        self.expected.iter().filter(|e| !e.optional).count()
    }

    fn own_key(&self, rng: &mut Rng) -> Vec<u8> {
        let long = if rng.one_in(4) { LONG } else { "" };
        format!("c{}.{}{long}", self.number, rng.below(3)).into_bytes()
    }

    fn key(&self, facts: &mut Facts, rng: &mut Rng) -> Vec<u8> {
        match rng.below(24) {
            0..9 => self.own_key(rng),
            9..14 => b"hot".to_vec(),
            14..19 => format!("s.{}", rng.below(6)).into_bytes(),
            19 => format!("s.{}{LONG}{LONG}", rng.below(2)).into_bytes(),
            20..23 if facts.large_reads > 0 => {
                facts.large_reads -= 1;
                self.large_key(rng)
            }
            _ if rng.one_in(2) => {
                facts.next_serial += 1;
                format!("once.{}", facts.next_serial).into_bytes()
            }
            _ => b"nobody.writes.this".to_vec(),
        }
    }

    fn large_key(&self, rng: &mut Rng) -> Vec<u8> {
        if rng.one_in(3) {
            format!("c{}.large", self.number).into_bytes()
        } else {
            format!("large.{}", rng.below(LARGE_KEYS)).into_bytes()
        }
    }

    /// Makes one request: its bytes and what is expected.
    pub(crate) fn ask(&mut self, facts: &mut Facts, rng: &mut Rng) {
        if self.loads {
            return self.load(facts, rng);
        }
        self.left -= 1;
        if rng.one_in(3) {
            self.ask_meta(facts, rng);
            return self.leave_if_done();
        }
        let mut line = Vec::new();
        let mut quiet = false;
        let mut block = None;
        let gap: &[u8] = if rng.one_in(10) { b"   " } else { b" " };
        let word = |line: &mut Vec<u8>, word: &[u8]| {
            line.extend_from_slice(word);
            line.extend_from_slice(gap);
        };
        let last = self.left == 0 && self.ending == Ending::HalfCloses;
        let large = facts.large_writes > 0 && (last || rng.one_in(20));
        let kind = match if large { 50 } else { rng.below(100) } {
            0..48 => {
                let (verb, exptime, uniques) = match rng.below(10) {
                    0 => ("gets", None, true),
                    1 => ("gat", Some("0"), false),
                    2 => ("gats", Some("5000"), true),
                    3 if rng.one_in(4) => ("gat", Some("-1"), false),
                    _ => ("get", None, false),
                };
                let drops = exptime == Some("-1");
                let count = match rng.below(8) {
                    0 => 2 + rng.below(6),
                    1 => 2 + rng.below(60),
                    _ => 1,
                };
                let long = facts.long_reads > 0 && rng.one_in(20);
                let count = if long { [300, 5_000][rng.below(2)] + rng.below(1_000) } else { count };
                facts.long_reads -= usize::from(long);
                let keys: Vec<Vec<u8>> = (0..count)
                    .map(|_| match drops {
                        // Only what nobody is sure of.
                        true => b"hot".to_vec(),
                        false if long && count < 2_000 => {
                            format!("{}{LONG}{LONG}.{}", if rng.one_in(2) { "nobody" } else { "s.1" }, rng.below(9))
                                .into()
                        }
                        // The others may be large, and the same value comes as often as it is asked for.
                        false if long && !rng.one_in(200) => {
                            if rng.one_in(50) { &b"hot"[..] } else { b"none" }.to_vec()
                        }
                        false => self.key(facts, rng),
                    })
                    .collect();
                line.extend_from_slice(verb.as_bytes());
                for key in exptime.iter().map(|e| e.as_bytes()).chain(keys.iter().map(|k| &**k)) {
                    line.push(b' ');
                    line.extend_from_slice(key);
                }
                Kind::Read { keys, uniques }
            }
            48..80 => {
                let verb = ["set", "set", "set", "set", "add", "replace", "append", "prepend", "cas"][rng.below(9)];
                let (key, verb, fill) = if large {
                    facts.large_writes -= 1;
                    let size = facts.bulk_above - 100 + rng.below(facts.bulk_above);
                    let size = if rng.one_in(6) { MAX_ITEM + 100 } else { size };
                    let verb = if rng.one_in(4) { "add" } else { "set" };
                    (self.large_key(rng), verb, size)
                } else {
                    let key = match self.key(facts, rng) {
                        key if key.starts_with(b"large") || key.ends_with(b"large") => b"hot".to_vec(),
                        key => key,
                    };
                    let most = [1, 50, 1_000, 20_000, 150_000][rng.below(5)];
                    (key, verb, rng.below(most))
                };
                facts.next_serial += 1;
                let serial = facts.next_serial;
                let data = segment(&key, serial, fill);
                quiet = rng.one_in(4);
                let gone = key.starts_with(b"s.") && rng.one_in(10);
                word(&mut line, verb.as_bytes());
                word(&mut line, &key);
                word(&mut line, if rng.one_in(2) { b"0" } else { b"4294967295" });
                word(&mut line, if gone { b"-1" } else { b"0" });
                line.extend_from_slice(data.len().to_string().as_bytes());
                if verb == "cas" {
                    let unique = self.uniques.get(&key).copied().unwrap_or(1);
                    line.extend_from_slice(format!(" {unique}").as_bytes());
                }
                let len = data.len();
                let bad = rng.one_in(25);
                block = Some((data, bad));
                if bad { Kind::Line("CLIENT_ERROR bad data chunk") } else { Kind::Store { verb, key, serial, len } }
            }
            80..85 => {
                let key = self.key(facts, rng);
                quiet = rng.one_in(4);
                word(&mut line, b"delete");
                line.extend_from_slice(&key);
                *facts.asked.entry(("delete", key.clone())).or_insert(0) += 1;
                Kind::Delete(key)
            }
            85..89 => {
                let key = format!("n.{}", rng.below(3)).into_bytes();
                quiet = rng.one_in(4);
                if rng.one_in(3) {
                    let data = format!("{}000000000", 1 + (key[2] - b'0')).into_bytes();
                    line = [b"set ", &*key, b" 0 0 10"].concat();
                    block = Some((data, false));
                    Kind::Store { verb: "set", key, serial: 0, len: 10 }
                } else {
                    word(&mut line, if rng.one_in(3) { b"decr" } else { b"incr" });
                    word(&mut line, &key);
                    facts.next_serial += 1;
                    let serial = facts.next_serial;
                    line.extend_from_slice(serial.to_string().as_bytes());
                    Kind::Count { key, serial }
                }
            }
            89..92 => {
                let key = self.key(facts, rng);
                quiet = rng.one_in(4);
                word(&mut line, b"touch");
                word(&mut line, &key);
                line.extend_from_slice(b"0");
                *facts.asked.entry(("touch", key.clone())).or_insert(0) += 1;
                Kind::Touch(key)
            }
            92 => {
                line.extend_from_slice(b"version");
                Kind::Line("VERSION 1.")
            }
            93 => {
                line.extend_from_slice(b"mn");
                Kind::Line("MN")
            }
            94 => {
                line.extend_from_slice(b"verbosity 1");
                quiet = rng.one_in(2);
                Kind::Line("OK")
            }
            95 => {
                let what = ["", " items", " sum", " nodes", " slabs", " settings"][rng.below(6)];
                line.extend_from_slice(format!("stats{what}").as_bytes());
                Kind::Stats
            }
            96 if facts.flushes => {
                line.extend_from_slice(b"flush_all");
                quiet = rng.one_in(3);
                Kind::Flush
            }
            97 => {
                line = [b"get hot ", "x".repeat(251).as_bytes(), b" hot"].concat();
                Kind::Line("CLIENT_ERROR bad command line format")
            }
            98 => {
                line.extend_from_slice(b"set hot flags 0 9");
                block = Some((b"get hot\r\n".to_vec(), false));
                Kind::Line("CLIENT_ERROR bad command line format")
            }
            _ => {
                line.extend_from_slice(b"bogus");
                Kind::Line("ERROR")
            }
        };
        if quiet {
            line.extend_from_slice(b" noreply");
        }
        line.extend_from_slice(if rng.one_in(10) { b"\n" } else { b"\r\n" });
        if let Some((data, bad)) = block {
            line.extend_from_slice(&data);
            line.extend_from_slice(if bad { b"XY" } else { b"\r\n" });
        }
        let cut = last && rng.one_in(2);
        let losses = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
        let ring = facts.rings.len() - 1;
        self.expected.push_back(Expected { kind, meta: None, quiet, asked: facts.now, ring, losses, optional: cut });
        if cut {
            line.truncate(rng.below(line.len()));
        }
        self.outbox.extend(line);
        self.leave_if_done();
    }

    fn leave_if_done(&mut self) {
        if self.left == 0 {
            if self.ending == Ending::Quits {
                self.outbox.extend(b"quit\r\nget hot\r\n");
            }
            self.fin = self.ending != Ending::Vanishes;
            if self.ending == Ending::Stays {
                self.fin = false;
            }
        }
    }

    /// The client takes so many bytes of what has come, and checks them.
    pub(crate) fn take(&mut self, bytes: usize, facts: &mut Facts) {
        self.received.extend(self.kernel.drain(..bytes));
        if self.received.len() > 64 << 10 && !self.received.ends_with(b"\r\n") {
            // To look at all of a long reply with each of its parts would take long.
            return;
        }
        let received = std::mem::take(&mut self.received);
        let mut rest = &*received;
        loop {
            while self.expected.front().is_some_and(|e| e.quiet && !e.optional && e.meta.is_none()) {
                let done = self.expected.pop_front().unwrap();
                self.learn(&done, None, facts);
            }
            if rest.is_empty() {
                break;
            }
            let Some(head) = self.expected.front().cloned() else {
                panic!("a reply to nothing: {:?}", show(rest));
            };
            match self.reply(&head, rest, facts) {
                Some(used) => rest = &rest[used..],
                None => break,
            }
            self.expected.pop_front();
        }
        self.received = rest.to_vec();
    }

    /// Checks the reply to the oldest request; `None` while it is not whole.
    fn reply(&mut self, head: &Expected, bytes: &[u8], facts: &mut Facts) -> Option<usize> {
        if let Some(form) = &head.meta {
            return self.meta_reply(head, form, bytes, facts);
        }
        match &head.kind {
            Kind::Read { keys, uniques } => self.read(head, keys, *uniques, bytes, facts),
            Kind::Stats => {
                let mut at = 0;
                loop {
                    let line = line(&bytes[at..])?;
                    at += line.len() + 2;
                    if line == b"END" {
                        return Some(at);
                    }
                    if line.starts_with(b"SERVER_ERROR proxy") {
                        let all = facts.all_nodes();
                        self.must_be_failure(line, head, &all, facts);
                        return Some(at);
                    }
                    assert!(line.starts_with(b"STAT "), "{:?} to stats", show(line));
                }
            }
            Kind::Flush => {
                let line = line(bytes)?;
                if line == b"OK" {
                    let claims = facts.claims.entry(("OK", Vec::new())).or_insert(0);
                    *claims += 1;
                    let flushes = facts.nodes.iter().map(|n| n.ledger.flushes);
                    // A node outside the ring is not flushed.
                    let all = facts.rings.len() == 1 && facts.rings[0].nodes().len() == facts.nodes.len();
                    let most = if all { flushes.min().unwrap() } else { flushes.sum() };
                    assert!(*claims <= most, "a false OK to flush_all");
                } else {
                    let early = facts.last_join.iter().any(|join| join.is_some_and(|at| head.asked <= at));
                    if !(early && line.ends_with(b" is down")) {
                        let all = facts.all_nodes();
                        self.must_be_failure(line, head, &all, facts);
                    }
                }
                Some(line.len() + 2)
            }
            Kind::Line(start) => {
                let line = line(bytes)?;
                // The node's word may come before the block's end.
                let failed = start.contains("chunk")
                    && (line.starts_with(b"SERVER_ERROR proxy")
                        || line == b"SERVER_ERROR object too large for cache"
                        || facts.lacks_meta(line));
                assert!(
                    line.starts_with(start.as_bytes()) || failed || head.optional,
                    "{:?}, expected {start}",
                    show(line)
                );
                Some(line.len() + 2)
            }
            Kind::Store { .. } | Kind::Delete(_) | Kind::Count { .. } | Kind::Touch(_) => {
                let line = line(bytes)?;
                self.learn(head, Some(line), facts);
                Some(line.len() + 2)
            }
            Kind::Debug => panic!("a meta request"),
        }
    }

    fn must_be_failure(&self, line: &[u8], head: &Expected, nodes: &[usize], facts: &mut Facts) {
        let no_room = [
            &b" out of memory for the value"[..],
            b" has no free connection for the value",
            b" no room for the value in time",
            b" given up, for its client has sent its end",
            b" an earlier request for the key was not answered in time",
        ];
        if no_room.iter().any(|text| line.ends_with(text)) {
            facts.without_room += 1;
            return;
        }
        if head.meta.is_some() && facts.lacks_meta(line) {
            return;
        }
        assert!(
            line.starts_with(b"SERVER_ERROR proxy: node ") || line.starts_with(b"SERVER_ERROR out of memory"),
            "client {}: {:?} to {:?}",
            self.number,
            show(line),
            head.kind
        );
        let text = show(line);
        let named = text.strip_prefix("SERVER_ERROR proxy: node ").and_then(|rest| rest.split_once(' '));
        let named = named.filter(|(name, _)| name.starts_with("node-")).map(|(name, what)| (number_of(name), what));
        let excused = match named {
            Some((node, what)) if nodes.contains(&node) => match what {
                "did not answer in time" => facts.late(node, head.asked),
                // A meta request waits where its node has not said its version on this connection, and one whose block has
                // come by then fails.
                "takes no requests" | "is down" if head.meta.is_some() && facts.unproven(node, head.asked) => true,
                "takes no requests" => facts.stuck(node, head.asked),
                _ => facts.restless(node, head.asked),
            },
            Some(_) => false,
            None => nodes.iter().any(|node| facts.restless(*node, head.asked)),
        };
        assert!(
            excused,
            "client {}: {text:?} without a cause, asked at {}, to {:?}; late {:?}, stuck {:?}, fault {:?}",
            self.number, head.asked, head.kind, facts.last_late, facts.last_stuck, facts.last_fault
        );
    }

    /// What the client is sure of, of a key that only it writes, when it asked in a ring: the node
    /// that was asked is the one that stored it.
    fn sure(&self, key: &[u8], ring: usize, facts: &Facts) -> Option<&Option<Vec<u64>>> {
        let known = self.known.get(key)?;
        let asked = facts.only_owner(key, ring)?;
        let by_ledger = |serial| facts.nodes.iter().position(|node| node.ledger.stored.contains(&serial));
        let home = known.serial.and_then(by_ledger).or_else(|| facts.only_owner(key, known.ring))?;
        let losses: u64 = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
        let haunted = facts.last_haunted[home].is_some_and(|at| at >= known.asked);
        let shaken = haunted || known.unsure_since.is_some_and(|since| facts.restless(home, since));
        (asked == home && known.losses == losses && !shaken).then_some(&known.value)
    }

    fn read(
        &mut self,
        head: &Expected,
        keys: &[Vec<u8>],
        uniques: bool,
        bytes: &[u8],
        facts: &mut Facts,
    ) -> Option<usize> {
        let mut at = 0;
        let mut missing = Vec::new();
        // Values come in the order of the keys: what is passed over is missing.
        let mut next = 0;
        let mut values = Vec::new();
        let mut failed = false;
        loop {
            let line = line(&bytes[at..])?;
            at += line.len() + 2;
            if line == b"END" {
                break;
            }
            let Some(rest) = line.strip_prefix(b"VALUE ") else {
                if line == b"SERVER_ERROR out of memory reading request" && keys.len() > 100 {
                    (self.refused, failed) = (true, true);
                    break;
                }
                let all = facts.all_nodes();
                self.must_be_failure(line, head, &all, facts);
                assert!(
                    facts.reads_fail || line.starts_with(b"SERVER_ERROR out"),
                    "an error line to a read: {}",
                    show(line)
                );
                failed = true;
                break;
            };
            let words: Vec<&[u8]> = rest.split(|&b| b == b' ').collect();
            assert_eq!(words.len(), if uniques { 4 } else { 3 }, "{:?}", show(line));
            let len: usize = std::str::from_utf8(words[2]).unwrap().parse().unwrap();
            let data = bytes.get(at..at + len + 2)?;
            let Some(place) = (next..keys.len()).find(|place| keys[*place] == words[0]) else {
                panic!(
                    "client {}: {:?} not asked for, or not in its turn, to {:?}",
                    self.number,
                    show(line),
                    keys.iter().map(|key| show(key)).collect::<Vec<_>>()
                );
            };
            missing.extend_from_slice(&keys[next..place]);
            next = place + 1;
            let key = keys[place].clone();
            assert_eq!(&data[len..], b"\r\n");
            if uniques {
                let unique = std::str::from_utf8(words[3]).unwrap().parse().unwrap();
                self.uniques.insert(key.clone(), unique);
            }
            values.push((key, at..at + len));
            at += len + 2;
        }
        for (key, range) in values {
            self.check_value(head, &key, &bytes[range], facts);
        }
        missing.extend_from_slice(&keys[next..]);
        for key in missing.iter().filter(|_| !failed) {
            self.check_miss(head, key, facts);
        }
        Some(at)
    }

    fn check_value(&self, head: &Expected, key: &[u8], data: &[u8], facts: &Facts) {
        let found = match serials(key, data) {
            Ok(found) => found,
            Err(error) => panic!("client {}: {error}", self.number),
        };
        let later = self.expected.iter().skip(1).find(
            |later| matches!(&later.kind, Kind::Store { serial, key: other, .. } if *other == key && found.contains(serial)),
        );
        assert!(later.is_none(), "client {}: a read sees its later {later:?}", self.number);
        if let Some(sure) = self.sure(key, head.ring, facts) {
            let age = head.asked;
            assert_eq!(
                Some(&found),
                sure.as_ref(),
                "client {}: not its last value of {} (asked at {age})",
                self.number,
                show(key)
            );
        }
    }

    fn check_miss(&self, head: &Expected, key: &[u8], facts: &mut Facts) {
        if let Some(Some(_)) = self.sure(key, head.ring, facts)
            && !facts.shaky(key, head)
        {
            facts.without_room += 1;
        }
    }

    /// Draws the conclusions of the reply to a change; `None` is a request without reply.
    fn learn(&mut self, done: &Expected, line: Option<&[u8]>, facts: &mut Facts) {
        let (Kind::Store { key, .. } | Kind::Delete(key) | Kind::Count { key, .. } | Kind::Touch(key)) = &done.kind
        else {
            return;
        };
        // What was never on a connection must never be done.
        if let (Kind::Store { serial, .. } | Kind::Count { serial, .. }, Some(line)) = (&done.kind, line) {
            let never = [&b" takes no requests"[..], b" is down", b" does not accept in time"];
            if *serial > 0 && (never.iter().any(|end| line.ends_with(end)) || facts.lacks_meta(line)) {
                assert!(!facts.reached.contains(serial), "{:?} to {:?}, which was sent", show(line), done.kind);
                facts.unsent.insert(*serial);
            } else if line.ends_with(b" in time") {
                facts.unknown.insert(*serial);
            }
        }
        let own = key.starts_with(format!("c{}.", self.number).as_bytes());
        let before = self.sure(key, done.ring, facts).cloned();
        let soft = |client: &Self, line: &[u8], facts: &mut Facts| {
            let owners = facts.owners(key, done.ring);
            client.must_be_failure(line, done, &owners, facts);
        };
        // What the key is now; `None`: cannot be told.
        let after: Option<Option<Vec<u64>>> = match &done.kind {
            Kind::Store { verb, key, serial, len } => {
                let too_large = *len > MAX_ITEM;
                let line = match (line, &before) {
                    (Some(line), _) => line,
                    (None, _) if too_large => b"SERVER_ERROR object too large for cache",
                    (None, Some(None)) if ["replace", "append", "prepend"].contains(verb) => b"NOT_STORED",
                    (None, Some(Some(_))) if *verb == "add" => b"NOT_STORED",
                    (None, Some(_)) if *verb != "cas" => b"STORED",
                    (None, None) if *verb == "set" => b"STORED",
                    (None, _) => b"?",
                };
                let stored = line == b"STORED";
                if stored && done.quiet {
                    // Nobody said so.
                } else if stored && *serial > 0 {
                    let mut nodes = facts.nodes.iter();
                    assert!(nodes.any(|n| n.ledger.stored.contains(serial)), "a false STORED for {}", show(key));
                } else if stored {
                    facts.claim("STORED", key);
                }
                match (line, *verb) {
                    (b"STORED", "set" | "add" | "replace" | "cas") => {
                        if let Some(old) = &before {
                            let fits = match *verb {
                                "add" => old.is_none(),
                                "replace" | "cas" => old.is_some(),
                                _ => true,
                            };
                            assert!(fits, "{verb} of {} STORED over {old:?}", show(key));
                        }
                        Some(Some(vec![*serial]))
                    }
                    (b"STORED", _) => before.clone().map(|old| {
                        let mut all = old.expect("nothing to append to");
                        let at = if *verb == "append" { all.len() } else { 0 };
                        all.insert(at, *serial);
                        Some(all)
                    }),
                    (b"NOT_STORED", "add" | "replace" | "append" | "prepend") => {
                        if let Some(old) = &before {
                            assert_eq!(old.is_some(), *verb == "add", "NOT_STORED {}", show(key));
                        }
                        before.clone()
                    }
                    (b"EXISTS" | b"NOT_FOUND", "cas") => before.clone(),
                    (b"SERVER_ERROR object too large for cache", _) => {
                        assert!(too_large, "{len} bytes are not too large");
                        if *verb == "set" || done.meta.is_some() { Some(None) } else { before.clone() }
                    }
                    (b"?", _) => None,
                    _ => {
                        soft(self, line, facts);
                        None
                    }
                }
            }
            Kind::Delete(key) => match line {
                None => Some(None),
                Some(b"DELETED") => {
                    facts.claim("DELETED", key);
                    assert_ne!(before, Some(None), "{} was not there", show(key));
                    Some(None)
                }
                Some(b"NOT_FOUND") => {
                    assert!(!matches!(before, Some(Some(_))), "{} was there", show(key));
                    Some(None)
                }
                Some(line) => {
                    soft(self, line, facts);
                    None
                }
            },
            Kind::Touch(key) => {
                match line {
                    None => {}
                    Some(b"TOUCHED") => facts.claim("TOUCHED", key),
                    Some(b"NOT_FOUND") => {
                        let there = matches!(before, Some(Some(_)));
                        assert!(!there || facts.shaky(key, done), "{} was there", show(key));
                    }
                    Some(line) => soft(self, line, facts),
                }
                return;
            }
            Kind::Count { key, .. } => {
                match line {
                    None | Some(b"NOT_FOUND") => {}
                    Some(line) if line.iter().all(u8::is_ascii_digit) => facts.claim("COUNT", key),
                    Some(line) => soft(self, line, facts),
                }
                return;
            }
            _ => return,
        };
        if !own {
            return;
        }
        match after {
            None => {
                self.known.remove(key);
            }
            Some(value) => {
                let rests_on_before = !(matches!(&value, Some(all) if all.len() == 1) || value.is_none());
                let before = self.known.get(key);
                let unsure_since = if done.quiet {
                    Some(before.and_then(|b| b.unsure_since).unwrap_or(done.asked))
                } else if rests_on_before {
                    before.and_then(|b| b.unsure_since)
                } else {
                    None
                };
                let (asked, losses, ring) = (done.asked, done.losses, done.ring);
                let mut known = Known { value, unsure_since, asked, losses, ring, serial: None };
                match (&done.kind, &known.value) {
                    (Kind::Store { serial, .. }, Some(all)) if all.contains(serial) => known.serial = Some(*serial),
                    // It is what it was, where it was.
                    (Kind::Store { .. }, Some(_)) => {
                        known.ring = before.map_or(done.ring, |b| b.ring);
                        known.serial = before.and_then(|b| b.serial);
                    }
                    _ => {}
                }
                self.known.insert(key.clone(), known);
            }
        }
    }

    /// Whether the core had a reason to close this client.
    pub(crate) fn may_be_closed(&self, facts: &Facts) -> bool {
        // What lies behind a wait that was ended is not carried out.
        if facts.too_slow
            || self.refused
            || self.hung_up
            || (self.ended || self.ending == Ending::Quits) && self.owed() == 0
        {
            return true;
        }
        // A value had begun when its node was lost, or stopped: of the reply that is due, or of a later one.
        let broken = |node: &usize, since| facts.restless(*node, since) || facts.late(*node, since);
        self.expected.iter().any(|e| match &e.kind {
            Kind::Read { keys, .. } => {
                keys.iter().any(|key| facts.owners(key, e.ring).iter().any(|node| broken(node, e.asked)))
            }
            _ => false,
        })
    }

    /// Stores a value of a size on a node and reads it.
    pub(crate) fn probe(&mut self, ring: &Topology, node: usize, size: usize, facts: &mut Facts) {
        let keys = (0..).map(|i| format!("c{}.probe{i}", self.number).into_bytes());
        let key = keys.into_iter().find(|key| owner(ring, key) == node).unwrap();
        facts.next_serial += 1;
        let serial = facts.next_serial;
        let data = segment(&key, serial, size);
        let text = show(&key);
        self.outbox.extend(format!("set {text} 0 0 {}\r\n", data.len()).as_bytes());
        self.outbox.extend(&data);
        self.outbox.extend(format!("\r\nget {text}\r\n").as_bytes());
        let set = Kind::Store { verb: "set", key: key.clone(), serial, len: data.len() };
        let get = Kind::Read { keys: vec![key], uniques: false };
        for kind in [set, get] {
            let (asked, ring) = (facts.now, facts.rings.len() - 1);
            let losses = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
            self.expected.push_back(Expected { kind, meta: None, quiet: false, asked, ring, losses, optional: false });
        }
    }

    /// What it waits for, for people.
    pub(crate) fn describe(&self) -> String {
        let head = self.expected.front().map(|e| format!("{:?}", e.kind));
        let head = head.unwrap_or_default();
        format!(
            "client {} ({:?}): {} replies owed, first {}; sent {} more, fin {} ended {} parked {} closed {} blocked {}; received {:?}",
            self.number,
            self.ending,
            self.owed(),
            &head[..head.len().min(200)],
            self.outbox.len(),
            self.fin,
            self.ended,
            self.parked,
            self.closed,
            self.blocked,
            show(&self.received)
        )
    }
}

/// The first line of `bytes`, without its CRLF.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r");
    Some(line.unwrap_or_else(|| panic!("a reply line without CR: {:?}", show(bytes))))
}
