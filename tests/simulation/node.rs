//! A model of memcached 1.6: a map and the replies of the text protocol; `meta` has those of the meta commands, `packets`
//! those of the binary protocol, in which nodes before 1.6 are asked that speak it.
//!
//! It is strict: what the proxy must never send (an unknown word, `noreply`, a line that is too
//! long) ends the test. And it keeps a ledger of what it really did, so that a client can tell a
//! false `STORED` from a true one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;

use crate::Rng;

mod meta;
mod packets;

use packets::Packets;

/// The model's largest item, in bytes.
pub(crate) const MAX_ITEM: usize = 3 << 20;

/// A value names its key, who wrote it and how long it is; its filling looks like protocol.
/// Appended values are several such segments.
pub(crate) fn segment(key: &[u8], serial: u64, fill: usize) -> Vec<u8> {
    let mut out = b"<".to_vec();
    out.extend_from_slice(key);
    out.extend_from_slice(format!("|{serial}|{fill}|").as_bytes());
    let tile = tile(serial);
    let end = out.len() + fill;
    while out.len() < end {
        let left = end - out.len();
        out.extend_from_slice(&tile[..tile.len().min(left)]);
    }
    out.push(b'>');
    out
}

fn tile(serial: u64) -> Vec<u8> {
    format!("{serial}\r\nEND\r\nget hot\r\nSTORED\r\nVALUE hot 0 1\r\n\0").into_bytes()
}

/// Reads a value back: the serial numbers of its segments.
pub(crate) fn serials(key: &[u8], mut data: &[u8]) -> Result<Vec<u64>, String> {
    let mut all = Vec::new();
    let torn = |what: &str| Err(format!("{what} in a value of {}", show(key)));
    while !data.is_empty() {
        let Some(rest) = data.strip_prefix(b"<").and_then(|d| d.strip_prefix(key)) else {
            return torn("another key's or torn bytes");
        };
        let mut words = rest.splitn(4, |&b| b == b'|').skip(1);
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
        let (Some(serial), Some(fill)) = (number(), number()) else {
            return torn("no serial");
        };
        let Some((filling, rest)) = words.next().and_then(|rest| rest.split_at_checked(fill as usize)) else {
            return torn("too few bytes");
        };
        let tile = tile(serial);
        if filling.chunks(tile.len()).any(|chunk| chunk != &tile[..chunk.len()]) {
            return torn("wrong filling");
        }
        let Some(rest) = rest.strip_prefix(b">") else {
            return torn("no end");
        };
        all.push(serial);
        data = rest;
    }
    Ok(all)
}

pub(crate) fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned()
}

#[derive(Debug, Default)]
struct Item {
    flags: u32,
    data: Vec<u8>,
    unique: u64,
}

/// A request that has reached a node, as far as one can be told from another.
#[derive(Debug)]
pub(crate) enum Sight {
    /// A change with its serial number.
    Serial(u64),
    /// A change of a key that has none.
    Change(&'static str, Vec<u8>),
    /// A read of a key that is asked for once.
    Once(Vec<u8>),
}

/// What has happened, for the clients to compare with what they were told.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The segments that were stored.
    pub(crate) stored: HashSet<u64>,
    /// Changes by verb and key.
    pub(crate) done: HashMap<(&'static str, Vec<u8>), u64>,
    pub(crate) flushes: u64,
    /// How often everything was lost.
    pub(crate) wipes: u64,
    /// Error lines given without cause.
    pub(crate) hiccups: u64,
    /// Requests that came in packets.
    pub(crate) packets: u64,
    /// What has reached the node and was not looked at.
    pub(crate) seen: Vec<Sight>,
}

/// One node: what survives its connections.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) version: &'static str,
    packets: Packets,
    /// How many connections were begun by a packet.
    asked: u64,
    /// How often its version was asked.
    greeted: u64,
    items: HashMap<Vec<u8>, Item>,
    unique: u64,
    pub(crate) ledger: Ledger,
    /// One request in so many gets an error line; 0 is none.
    pub(crate) hiccup: usize,
    pub(crate) rng: Rng,
}

#[derive(Debug)]
enum Input {
    Line,
    Block {
        words: Vec<Vec<u8>>,
        total: usize,
    },
    Swallow(usize),
    Packets,
    /// Bytes to drop, of a packet.
    PacketRest(usize),
    /// Nothing is taken.
    Deaf,
}

/// One connection to a node.
#[derive(Debug)]
pub(crate) struct Session {
    input: Input,
    /// It has said another version than its node's, and has the meta commands.
    is_new: bool,
    bytes: Vec<u8>,
    taken: u64,
    said: u64,
    /// Where each request ended in what was taken, and its answer in what was said.
    pub(crate) answers: VecDeque<(u64, u64)>,
}

impl Node {
    pub(crate) fn new(version: &'static str, seed: u64) -> Self {
        let rng = Rng::new(seed);
        let packets = Packets::of(seed);
        Self {
            version,
            packets,
            asked: 0,
            greeted: 0,
            items: HashMap::new(),
            unique: 0,
            ledger: Ledger::default(),
            hiccup: 0,
            rng,
        }
    }

    pub(crate) fn wipe(&mut self) {
        self.items.clear();
        self.ledger.wipes += 1;
    }

    /// Has a value from the beginning.
    pub(crate) fn put(&mut self, key: &[u8], serial: u64, fill: usize) {
        self.unique += 1;
        let item = Item { flags: 0, data: segment(key, serial, fill), unique: self.unique };
        self.items.insert(key.to_vec(), item);
    }

    fn note(&mut self, what: &'static str, key: &[u8]) {
        *self.ledger.done.entry((what, key.to_vec())).or_insert(0) += 1;
    }

    fn hiccups(&mut self) -> bool {
        let now = self.hiccup > 0 && self.rng.one_in(self.hiccup);
        self.ledger.hiccups += u64::from(now);
        now
    }

    fn read(&mut self, keys: &[Vec<u8>], uniques: bool, exptime: Option<i64>, out: &mut Vec<u8>) {
        for key in keys.iter().filter(|key| key.starts_with(b"once.")) {
            self.ledger.seen.push(Sight::Once(key.clone()));
        }
        for key in keys {
            if self.hiccups() {
                return out.extend_from_slice(b"SERVER_ERROR out of memory writing get response\r\n");
            }
            let Some(item) = self.items.get(key) else {
                continue;
            };
            out.extend_from_slice(b"VALUE ");
            out.extend_from_slice(key);
            let mut rest = format!(" {} {}", item.flags, item.data.len());
            if uniques {
                let _ = write!(rest, " {}", item.unique);
            }
            out.extend_from_slice(rest.as_bytes());
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&item.data);
            out.extend_from_slice(b"\r\n");
            if exptime.is_some_and(|at| at < 0) {
                self.items.remove(key);
            }
        }
        out.extend_from_slice(b"END\r\n");
    }

    fn store(&mut self, words: &[Vec<u8>], data: &[u8]) -> &'static [u8] {
        let unique = words.get(5).map(|word| &**word);
        let flags = text(&words[2]).parse().unwrap();
        self.keep(&words[0], &words[1], flags, words[3].starts_with(b"-"), unique, data)
    }

    /// Stores, as the classic command `verb` does; `drops`: it expires at once.
    fn keep(
        &mut self,
        verb: &[u8],
        key: &Vec<u8>,
        flags: u32,
        drops: bool,
        unique: Option<&[u8]>,
        data: &[u8],
    ) -> &'static [u8] {
        let all = match serials(key, data) {
            Ok(all) => all,
            Err(error) if !data.iter().all(u8::is_ascii_digit) => panic!("a node got {error}"),
            Err(_) => Vec::new(),
        };
        self.ledger.seen.extend(all.iter().filter(|serial| **serial > 0).map(|serial| Sight::Serial(*serial)));
        let old = self.items.get(key);
        match (verb, old) {
            (b"add", Some(_)) | (b"replace" | b"append" | b"prepend", None) => {
                return b"NOT_STORED\r\n";
            }
            (b"cas", None) => return b"NOT_FOUND\r\n",
            (b"cas", Some(item)) if Some(item.unique.to_string().as_bytes()) != unique => {
                return b"EXISTS\r\n";
            }
            _ => {}
        }
        self.unique += 1;
        let unique = self.unique;
        self.ledger.stored.extend(all);
        self.note("STORED", key);
        let item = self.items.entry(key.clone()).or_default();
        item.unique = unique;
        match verb {
            b"append" => item.data.extend_from_slice(data),
            b"prepend" => item.data = [data, &item.data].concat(),
            _ => {
                item.flags = flags;
                item.data = data.to_vec();
            }
        }
        if drops {
            self.items.remove(key);
        }
        b"STORED\r\n"
    }

    /// What `incr` or `decr` answers, without CRLF.
    fn count(&mut self, grows: bool, key: &Vec<u8>, delta: &[u8]) -> Vec<u8> {
        let delta: u64 = text(delta).parse().unwrap();
        self.ledger.seen.push(Sight::Serial(delta));
        self.unique += 1;
        let unique = self.unique;
        let Some(item) = self.items.get_mut(key) else {
            return b"NOT_FOUND".to_vec();
        };
        let Ok(old) = text(&item.data).parse::<u64>() else {
            return b"CLIENT_ERROR cannot increment or decrement non-numeric value".to_vec();
        };
        let new = if grows { old.wrapping_add(delta) } else { old.saturating_sub(delta) };
        item.data = new.to_string().into_bytes();
        item.unique = unique;
        let told = item.data.clone();
        self.note("COUNT", key);
        told
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

impl Session {
    pub(crate) const fn new() -> Self {
        Self { input: Input::Line, is_new: false, bytes: Vec::new(), taken: 0, said: 0, answers: VecDeque::new() }
    }

    /// Takes bytes and appends the replies to what was complete.
    pub(crate) fn feed(&mut self, node: &mut Node, bytes: &[u8], out: &mut Vec<u8>) {
        self.bytes.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.bytes);
        let mut rest = &*buffer;
        let begin = out.len();
        if self.taken == 0 && rest.first() == Some(&0x80) && matches!(self.input, Input::Line) {
            self.input = node.first_packet(out);
        }
        loop {
            let before = out.len();
            match &mut self.input {
                Input::Line => {
                    let Some(end) = rest.iter().position(|&b| b == b'\n') else {
                        break;
                    };
                    let line = rest[..end].strip_suffix(b"\r").expect("a line ends with CRLF");
                    rest = &rest[end + 1..];
                    self.line(node, line, out);
                }
                Input::Packets => {
                    let Some((used, swallowed)) = packets::take(node, rest, out) else { break };
                    rest = &rest[used..];
                    if swallowed > 0 {
                        self.input = Input::PacketRest(swallowed);
                    }
                }
                Input::Deaf => {
                    // It speaks text, and would carry out the lines inside.
                    let told = self.taken as usize + buffer.len();
                    assert!(told <= packets::HEADER, "{told} bytes to a node that has not answered by a packet");
                    rest = &[];
                    break;
                }
                Input::PacketRest(left) => {
                    let used = (*left).min(rest.len());
                    *left -= used;
                    rest = &rest[used..];
                    if *left > 0 {
                        break;
                    }
                    self.input = Input::Packets;
                }
                Input::Swallow(left) => {
                    let used = (*left).min(rest.len());
                    *left -= used;
                    rest = &rest[used..];
                    if *left > 0 {
                        break;
                    }
                    self.input = Input::Line;
                }
                Input::Block { total, .. } => {
                    if rest.len() < *total {
                        break;
                    }
                    let (block, after) = rest.split_at(*total);
                    rest = after;
                    let Input::Block { words, .. } = std::mem::replace(&mut self.input, Input::Line) else {
                        break;
                    };
                    let data = block.strip_suffix(b"\r\n").expect("a block ends with CRLF");
                    if node.hiccups() {
                        out.extend_from_slice(b"SERVER_ERROR out of memory storing object\r\n");
                    } else if words[0] == b"ms" {
                        node.meta_store(&words, data, out);
                    } else {
                        out.extend_from_slice(node.store(&words, data));
                    }
                }
            }
            if out.len() > before {
                let taken = (buffer.len() - rest.len()) as u64;
                self.answers.push_back((self.taken + taken, self.said + (out.len() - begin) as u64));
            }
        }
        self.taken += (buffer.len() - rest.len()) as u64;
        self.said += (out.len() - begin) as u64;
        self.bytes = rest.to_vec();
    }

    fn line(&mut self, node: &mut Node, line: &[u8], out: &mut Vec<u8>) {
        assert!(!line.contains(&0), "a NUL reached a node");
        let words: Vec<Vec<u8>> = line.split(|&b| b == b' ').map(<[u8]>::to_vec).collect();
        assert!(words.iter().all(|word| !word.is_empty()), "{}", show(line));
        assert_ne!(words.last().unwrap(), b"noreply", "noreply was forwarded");
        match &*words[0] {
            b"get" | b"gets" => {
                assert!(line.len() <= (8 << 10) + 260, "a group of {} bytes", line.len());
                node.read(&words[1..], words[0] == b"gets", None, out);
            }
            b"gat" | b"gats" => {
                assert!(line.len() < 1000, "a gat of {} bytes", line.len());
                let exptime = text(&words[1]).parse().unwrap();
                // An `mg` that only touches is said so to a node without meta commands.
                for key in words[2..].iter().filter(|key| node.items.contains_key(*key)).cloned().collect::<Vec<_>>() {
                    node.note("TOUCHED", &key);
                }
                node.read(&words[2..], words[0] == b"gats", Some(exptime), out);
            }
            b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => {
                assert_eq!(words.len(), if words[0] == b"cas" { 6 } else { 5 });
                let len: usize = text(&words[4]).parse().unwrap();
                if len > MAX_ITEM {
                    // As memcached: the answer comes before the block, which is swallowed, and a
                    // `set` takes the old value with it.
                    if words[0] == b"set" {
                        node.items.remove(&words[1]);
                    }
                    out.extend_from_slice(b"SERVER_ERROR object too large for cache\r\n");
                    self.input = Input::Swallow(len + 2);
                } else {
                    self.input = Input::Block { words, total: len + 2 };
                }
            }
            b"delete" => {
                node.ledger.seen.push(Sight::Change("delete", words[1].clone()));
                let reply: &[u8] = if node.items.remove(&words[1]).is_some() {
                    node.note("DELETED", &words[1]);
                    b"DELETED\r\n"
                } else {
                    b"NOT_FOUND\r\n"
                };
                out.extend_from_slice(reply);
            }
            b"touch" => {
                node.ledger.seen.push(Sight::Change("touch", words[1].clone()));
                let reply: &[u8] = if node.items.contains_key(&words[1]) {
                    node.note("TOUCHED", &words[1]);
                    if words[2].starts_with(b"-") {
                        node.items.remove(&words[1]);
                    }
                    b"TOUCHED\r\n"
                } else {
                    b"NOT_FOUND\r\n"
                };
                out.extend_from_slice(reply);
            }
            b"incr" | b"decr" => {
                out.extend(node.count(words[0] == b"incr", &words[1], &words[2]));
                out.extend_from_slice(b"\r\n");
            }
            b"mg" | b"md" | b"ma" | b"me" => {
                assert!(!node.is_old() || self.is_new, "a node before 1.6 was sent {:?}", show(line));
                node.meta(&words, out);
            }
            b"ms" => {
                assert!(!node.is_old() || self.is_new, "a node before 1.6 was sent {:?}", show(line));
                let len: usize = text(&words[2]).parse().unwrap();
                if len > MAX_ITEM {
                    node.refuse_large(&words);
                    out.extend_from_slice(b"SERVER_ERROR object too large for cache\r\n");
                    self.input = Input::Swallow(len + 2);
                } else {
                    self.input = Input::Block { words, total: len + 2 };
                }
            }
            b"flush_all" => {
                node.items.clear();
                node.ledger.flushes += 1;
                out.extend_from_slice(b"OK\r\n");
            }
            b"version" => {
                node.greeted += 1;
                self.is_new |= node.is_mixed() && node.greeted.is_multiple_of(3);
                let version = if self.is_new { "1.6.18" } else { node.version };
                out.extend_from_slice(format!("VERSION {version}\r\n").as_bytes());
            }
            b"stats" if words.get(1).is_some_and(|word| word == b"reset") => {
                out.extend_from_slice(b"RESET\r\n");
            }
            b"stats" => {
                let stats = format!(
                    "STAT curr_items {}\r\nSTAT bytes 5\r\nSTAT version {}\r\nEND\r\n",
                    node.items.len(),
                    node.version
                );
                out.extend_from_slice(stats.as_bytes());
            }
            _ => panic!("a node was sent {:?}", show(line)),
        }
    }
}
