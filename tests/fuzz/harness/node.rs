//! A tiny memcached that answers truthfully, except where it is told to lie, and what is known of
//! the whole run: who asked for what, and what was really done.
//!
//! A node makes its values up: each names its key and who made it, and its filling looks like
//! protocol. So whatever clients store, every value that is delivered can be recognised.

mod lies;
mod packets;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use slipring::protocol::MAX_KEY;

use super::show;
pub use lies::Lie;
use packets::Packets;

/// The largest item of a node, in bytes.
const MAX_ITEM: usize = 2 << 20;
/// What is appended to grows no further than this, in bytes: a run is to be short.
pub const MAX_GROWN: usize = 100_000;

/// What a client can be told that must have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    Stored,
    Deleted,
    Touched,
    Counted,
}

/// What is known of the whole run.
#[derive(Debug, Default)]
pub struct Truth {
    /// Changes that clients have asked for and no node has been sent, by a hash of line and block.
    asked: BTreeMap<u64, i64>,
    /// The same in other words: those of a node without meta commands.
    otherwise: BTreeMap<u64, Vec<u64>>,
    /// Keys that clients have asked for.
    read: BTreeSet<Vec<u8>>,
    /// What was done and no client has been told.
    done: BTreeMap<(Deed, Vec<u8>), i64>,
    /// Keys that a node has lied about.
    pub poisoned: BTreeSet<Vec<u8>>,
    /// A node has lied.
    pub lied: bool,
    /// Something went wrong, or took long: requests may have failed.
    pub shaken: bool,
    /// A node has been one that knows no meta commands.
    pub had_old: bool,
    /// Made so far.
    values: u64,
}

fn hash(line: &[u8], block: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (line, block).hash(&mut hasher);
    hasher.finish()
}

impl Truth {
    /// A client asks for a change, once or on several nodes. `line` has its CRLF. Returns the
    /// number of the change.
    pub fn ask(&mut self, line: &[u8], block: &[u8], times: i64) -> u64 {
        let change = hash(line, block);
        *self.asked.entry(change).or_default() += times;
        change
    }

    /// The same for a change that a node without meta commands is asked for in one of `others`.
    pub fn ask_either(&mut self, line: &[u8], others: &[Vec<u8>], block: &[u8]) -> u64 {
        let change = self.ask(line, block, 1);
        for other in others {
            self.otherwise.entry(hash(other, block)).or_default().push(change);
        }
        change
    }

    /// A client is told that its change was never sent: then it never may be.
    pub fn withdraw(&mut self, change: u64) {
        // A lie may say the same.
        if self.lied {
            return;
        }
        let change = self.open(change, &[]).unwrap_or(change);
        let left = self.asked.entry(change).or_default();
        *left -= 1;
        assert!(*left >= 0, "a change is told never to have been sent, and was");
    }

    /// Which change that was asked for, and not sent yet, this one is, or may be one of `others`: itself, one of those, or one
    /// that is said as one of these is, for which this has been taken.
    fn open(&self, change: u64, others: &[u64]) -> Option<u64> {
        let is_open = |other: &&u64| self.asked.get(*other).is_some_and(|left| *left > 0);
        let candidates = || [&change].into_iter().chain(others);
        let alike =
            || self.otherwise.values().filter(|changes| candidates().any(|one| changes.contains(one))).flatten();
        candidates().find(is_open).or_else(|| alike().find(is_open)).copied()
    }

    pub fn ask_read(&mut self, key: &[u8]) {
        self.read.insert(key.to_vec());
    }

    /// A node is sent a change: never one that nobody asked for, and never one twice.
    pub fn sent(&mut self, line: &[u8], block: &[u8]) {
        let change = hash(line, block);
        let others = self.otherwise.get(&change).map_or(&[][..], Vec::as_slice);
        let change = self.open(change, others).unwrap_or(change);
        let left = self.asked.entry(change).or_default();
        *left -= 1;
        assert!(
            *left >= 0 || self.lied,
            "nobody asked for this, or not so often: {:?}, {} bytes",
            show(line),
            block.len()
        );
    }

    /// A node is asked for a key that a client has asked for.
    pub fn check_read(&self, key: &[u8]) {
        assert!(self.read.contains(key), "nobody asked for {:?}", show(key));
    }

    /// A new value.
    pub fn item(&mut self, flags: u32, len: usize) -> Item {
        self.values += 1;
        Item { flags, len, serial: self.values, encoded: false }
    }

    pub fn did(&mut self, deed: Deed, key: &[u8]) {
        *self.done.entry((deed, key.to_vec())).or_default() += 1;
    }

    /// A client is told that something was done.
    pub fn claim(&mut self, deed: Deed, key: &[u8]) {
        let left = self.done.entry((deed, key.to_vec())).or_default();
        *left -= 1;
        assert!(*left >= 0 || self.lied, "a false {deed:?} for {:?}", show(key));
    }
}

fn tile(key: &[u8], serial: u64) -> Vec<u8> {
    [b"<", key, format!("|{serial}>\r\nEND\r\nSTORED\r\n").as_bytes()].concat()
}

/// Whether a node made this value for this key.
pub fn is_value_of(key: &[u8], data: &[u8]) -> bool {
    let head = [b"<", key, b"|"].concat();
    let Some(rest) = data.strip_prefix(&*head) else { return head.starts_with(data) };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == rest.len() {
        return true;
    }
    let Ok(serial) = String::from_utf8_lossy(&rest[..digits]).parse() else { return false };
    // As long as it is, it repeats itself.
    let tile = tile(key, serial);
    let len = data.len();
    data.starts_with(&tile[..tile.len().min(len)])
        && (len < tile.len() || data[tile.len()..] == data[..len - tile.len()])
}

/// The unique of a value that a node made for this key, if the value is long enough to tell.
pub fn serial_of(key: &[u8], data: &[u8]) -> Option<u64> {
    let rest = data.strip_prefix(&*[b"<", key, b"|"].concat())?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let is_whole = rest.get(digits) == Some(&b'>');
    String::from_utf8_lossy(&rest[..digits]).parse().ok().filter(|_| is_whole)
}

#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub flags: u32,
    pub len: usize,
    pub serial: u64,
    /// It was stored under a key in base64, and names it so.
    pub encoded: bool,
}

impl Item {
    pub fn value(&self, key: &[u8]) -> Vec<u8> {
        let tile = tile(key, self.serial);
        let mut value = tile.repeat(self.len / tile.len() + 1);
        value.truncate(self.len);
        value
    }
}

/// The versions of memcached that a node may be; the first is the usual one.
const VERSIONS: [&str; 3] = ["1.6.18", "1.6.15", "1.5.16"];

/// Which memcached answers a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    /// Its place in [`VERSIONS`].
    version: usize,
    packets: Packets,
}

impl Kind {
    pub fn of(number: usize) -> Self {
        Self { version: number % VERSIONS.len(), packets: Packets::of(number / VERSIONS.len()) }
    }

    /// Whether it knows no meta commands.
    fn is_old(self) -> bool {
        self.version == 2
    }
}

/// What survives a node's connections.
#[derive(Debug, Default)]
pub struct Node {
    pub items: BTreeMap<Vec<u8>, Item>,
    /// What answers a connection that is made.
    pub usual: Kind,
    /// Behind its address are several, which share its items: each connection leads to one of any kind.
    pub is_mixed: bool,
    /// What answers the connection whose bytes are acted on.
    kind: Kind,
}

impl Node {
    /// A connection is made. Of a mixed node `drawn` says to what.
    pub fn accept(&self, drawn: usize, truth: &mut Truth) -> Session {
        let kind = if self.is_mixed { Kind::of(drawn) } else { self.usual };
        truth.had_old |= kind.is_old();
        Session { kind, ..Session::default() }
    }

    /// From now on it takes no longer than needed to say that it does not speak the binary protocol.
    pub fn calm_down(&mut self) {
        self.usual.packets = self.usual.packets.calm();
    }

    /// Whether it answers meta commands as 1.6.15 does.
    pub fn is_early(&self) -> bool {
        self.kind.version == 1
    }

    /// Has a value from the beginning.
    pub fn put(&mut self, key: &[u8], len: usize, truth: &mut Truth) {
        let item = truth.item(0, len);
        self.items.insert(key.to_vec(), item);
    }

    pub fn wipe(&mut self) {
        self.items.clear();
    }

    fn read(&mut self, keys: &[&[u8]], uniques: bool, drops: bool, truth: &Truth) -> Vec<u8> {
        let mut out = Vec::new();
        for &key in keys {
            truth.check_read(key);
            let Some(&item) = self.items.get(key) else { continue };
            let Item { flags, len, serial, .. } = item;
            out.extend_from_slice(b"VALUE ");
            out.extend_from_slice(key);
            out.extend_from_slice(format!(" {flags} {len}").as_bytes());
            if uniques {
                out.extend_from_slice(format!(" {serial}").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&item.value(key));
            out.extend_from_slice(b"\r\n");
            if drops {
                self.items.remove(key);
            }
        }
        out.extend_from_slice(b"END\r\n");
        out
    }

    fn store(&mut self, words: &[&[u8]], len: usize, truth: &mut Truth) -> &'static [u8] {
        let key = words[1];
        let old = self.items.get(key).copied();
        match (words[0], old) {
            (b"add", Some(_)) | (b"replace" | b"append" | b"prepend", None) => return b"NOT_STORED\r\n",
            (b"cas", None) => return b"NOT_FOUND\r\n",
            (b"cas", Some(item)) if item.serial.to_string().as_bytes() != words[5] => return b"EXISTS\r\n",
            _ => {}
        }
        let fresh = truth.item(number(words[2]) as u32, len);
        truth.did(Deed::Stored, key);
        let item = match (words[0], old) {
            (b"append" | b"prepend", Some(old)) => {
                Item { len: (old.len + len).min(MAX_GROWN), serial: fresh.serial, ..old }
            }
            _ => fresh,
        };
        if words[3].starts_with(b"-") {
            self.items.remove(key);
        } else {
            self.items.insert(key.to_vec(), item);
        }
        b"STORED\r\n"
    }

    fn line(&mut self, words: &[&[u8]], truth: &mut Truth) -> Vec<u8> {
        let key = words.get(1).copied().unwrap_or_default();
        let there = self.items.contains_key(key);
        match words[0] {
            b"get" | b"gets" => return self.read(&words[1..], words[0] == b"gets", false, truth),
            b"gat" | b"gats" => {
                return self.read(&words[2..], words[0] == b"gats", words[1].starts_with(b"-"), truth);
            }
            b"delete" if self.items.remove(key).is_some() => {
                truth.did(Deed::Deleted, key);
                b"DELETED\r\n".as_slice()
            }
            b"touch" if there => {
                number(words[2]);
                truth.did(Deed::Touched, key);
                b"TOUCHED\r\n"
            }
            b"incr" | b"decr" if there => {
                number(words[2]);
                truth.did(Deed::Counted, key);
                return format!("{}\r\n", truth.values).into_bytes();
            }
            b"delete" | b"touch" | b"incr" | b"decr" => b"NOT_FOUND\r\n",
            b"flush_all" => {
                self.items.clear();
                b"OK\r\n"
            }
            b"version" => return format!("VERSION {}\r\n", VERSIONS[self.kind.version]).into_bytes(),
            b"mg" | b"md" | b"ma" | b"me" => return self.meta(words, truth),
            b"stats" if key == b"reset" => b"RESET\r\n",
            b"stats" => b"STAT pid 7\r\nSTAT curr_items 3\r\nSTAT rusage_user 0.25\r\nSTAT libevent 2.1 END\r\nEND\r\n",
            _ => panic!("a node was sent {:?}", show(words[0])),
        }
        .to_vec()
    }
}

fn number(word: &[u8]) -> i128 {
    std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()).expect("a number")
}

#[derive(Debug, Default)]
enum Input {
    /// What the first byte says.
    #[default]
    Opening,
    Line,
    /// Bytes of a block and its CRLF; the line before it.
    Block(Vec<u8>, usize),
    Swallow(usize),
    Packets,
    /// Bytes to drop, of a packet.
    PacketRest(usize),
    /// A packet has come: it does not speak the binary protocol.
    Deaf,
}

/// One connection to a node.
#[derive(Debug, Default)]
pub struct Session {
    kind: Kind,
    input: Input,
    bytes: Vec<u8>,
    pub lie: Option<Lie>,
    /// The node has closed it.
    pub is_closed: bool,
    /// It has said a packet that is no answer to what was asked: the proxy has to close it.
    pub must_close: bool,
}

impl Session {
    /// Takes bytes and appends the replies to what is complete.
    pub fn feed(&mut self, node: &mut Node, truth: &mut Truth, bytes: &[u8], keys: &[Vec<u8>], out: &mut Vec<u8>) {
        node.kind = self.kind;
        self.bytes.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.bytes);
        let mut rest = &*buffer;
        loop {
            let reply = match &mut self.input {
                Input::Opening => {
                    let Some(first) = rest.first() else { break };
                    self.input = if *first == 0x80 { self.first_packet(truth, out) } else { Input::Line };
                    continue;
                }
                Input::Packets => {
                    let Some((used, swallowed, reply)) = packets::take(node, rest, truth) else { break };
                    rest = &rest[used..];
                    if swallowed > 0 {
                        self.input = Input::PacketRest(swallowed);
                    }
                    self.say_packet(reply, keys, out);
                    continue;
                }
                Input::PacketRest(left) => {
                    let used = (*left).min(rest.len());
                    *left -= used;
                    rest = &rest[used..];
                    if *left > 0 {
                        break;
                    }
                    self.input = Input::Packets;
                    continue;
                }
                Input::Deaf => {
                    rest = &[];
                    break;
                }
                Input::Line => {
                    let Some(end) = rest.iter().position(|&b| b == b'\n') else { break };
                    let (line, after) = rest.split_at(end + 1);
                    rest = after;
                    self.line(line, node, truth)
                }
                Input::Swallow(left) => {
                    let used = (*left).min(rest.len());
                    *left -= used;
                    rest = &rest[used..];
                    if *left > 0 {
                        break;
                    }
                    self.input = Input::Line;
                    None
                }
                Input::Block(line, len) => {
                    let Some((block, after)) = rest.split_at_checked(*len + 2) else { break };
                    rest = after;
                    truth.sent(line, block);
                    assert!(block.ends_with(b"\r\n"), "a block ends with CRLF");
                    let line = std::mem::take(line);
                    self.input = Input::Line;
                    let words: Vec<&[u8]> = line[..line.len() - 2].split(|&b| b == b' ').collect();
                    let len = block.len() - 2;
                    Some(if words[0] == b"ms" {
                        node.meta_store(&words, len, truth)
                    } else {
                        node.store(&words, len, truth).to_vec()
                    })
                }
            };
            if let Some(reply) = reply {
                self.say(reply, keys, truth, out);
            }
        }
        self.bytes = rest.to_vec();
    }

    /// Acts on a line, which has its CRLF. `None`: its block follows.
    fn line(&mut self, whole: &[u8], node: &mut Node, truth: &mut Truth) -> Option<Vec<u8>> {
        let line = whole.strip_suffix(b"\r\n").expect("a line ends with CRLF");
        let words: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
        assert!(words.iter().all(|word| !word.is_empty()) && !line.contains(&0), "{:?}", show(line));
        let is_meta = matches!(words[0], b"mg" | b"ms" | b"md" | b"ma" | b"me");
        assert!(!is_meta || !self.kind.is_old(), "a node before 1.6 was sent {:?}", show(line));
        // Behind a longer one it would take a block for commands.
        assert!(words.get(1).is_none_or(|key| key.len() <= MAX_KEY), "{:?}", show(line));
        assert!(
            words.len() < 2 || words.last() != Some(&b"noreply".as_slice()) || words[0].starts_with(b"g") || is_meta
        );
        match words[0] {
            b"get" | b"gets" => assert!(line.len() <= (8 << 10) + 260, "a group of {} bytes", line.len()),
            b"gat" | b"gats" => assert!(line.len() < 1000, "a gat of {} bytes", line.len()),
            b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => {
                assert_eq!(words.len(), if words[0] == b"cas" { 6 } else { 5 });
                let len = number(words[4]) as usize;
                if len > MAX_ITEM {
                    // As memcached: the answer comes before the block, which is swallowed.
                    if words[0] == b"set" {
                        node.items.remove(words[1]);
                    }
                    self.input = Input::Swallow(len + 2);
                    return Some(b"SERVER_ERROR object too large for cache\r\n".to_vec());
                }
                self.input = Input::Block(whole.to_vec(), len);
                return None;
            }
            b"ms" => {
                let len = number(words[2]) as usize;
                if len > MAX_ITEM {
                    self.input = Input::Swallow(len + 2);
                    return Some(b"SERVER_ERROR object too large for cache\r\n".to_vec());
                }
                self.input = Input::Block(whole.to_vec(), len);
                return None;
            }
            b"version" | b"stats" | b"mg" | b"md" | b"ma" | b"me" => {}
            _ => truth.sent(whole, b""),
        }
        Some(node.line(&words, truth))
    }
}
