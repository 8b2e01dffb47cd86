//! A client, and a plain reading of its bytes, which says what it may be told: whatever the pieces in
//! which the core gets them, the meaning is the same.

use std::collections::VecDeque;

use slipring::protocol::dialect::Dialect;
use slipring::protocol::request::{Block, Change, ReadVerb, Refusal, Request, Stats, StoreVerb};
use slipring::protocol::text::request;
use slipring::protocol::{MAX_KEY_LINE, MAX_LINE, is_key_line};
use slipring::proxy::{ClientId, Settings};

use super::node::{Deed, Truth, is_value_of};
use super::{cut, show};

#[derive(Clone, Debug)]
enum Kind {
    Read {
        keys: Vec<Vec<u8>>,
        uniques: bool,
    },
    Store {
        verb: StoreVerb,
        key: Vec<u8>,
        len: usize,
        /// Whether the block ended as it must, once it is whole.
        good: Option<bool>,
        /// The number of the change, if it did.
        number: Option<u64>,
    },
    Change {
        change: Change,
        key: Vec<u8>,
        number: u64,
    },
    Flush,
    StatsReset,
    Stats,
    Version,
    /// This line.
    Exact(&'static str),
}

#[derive(Debug, Default)]
enum Reading {
    /// What the first byte says.
    #[default]
    Opening,
    Line,
    /// The line of a storage request whose block is to come, with the block's length and CRLF.
    Block {
        line: Vec<u8>,
        total: usize,
        /// Whether its reply is the last one expected.
        answered: bool,
    },
    Swallow(u64),
    /// Nothing further is looked at.
    Over,
}

/// A client and its socket.
#[derive(Debug)]
pub struct Client {
    pub id: ClientId,
    /// Sent and not taken by the core.
    pub outbox: VecDeque<u8>,
    /// Nothing follows the outbox.
    pub fin: bool,
    /// The core has been told so.
    pub ended: bool,
    /// The rim does not read before it is woken.
    pub parked: bool,
    /// Written by the core, not taken by the client.
    pub kernel: VecDeque<u8>,
    /// How much of that there may be.
    pub room: usize,
    pub blocked: bool,
    /// It takes what comes.
    pub reads: bool,
    /// No excuse counts for what it is told.
    pub strict: bool,
    /// Values it got.
    pub hits: usize,
    reading: Reading,
    /// Sent and not read by the plain reading.
    bytes: Vec<u8>,
    received: Vec<u8>,
    expected: VecDeque<Kind>,
}

impl Client {
    pub fn new(id: ClientId, room: usize) -> Self {
        Self {
            id,
            outbox: VecDeque::new(),
            fin: false,
            ended: false,
            parked: false,
            kernel: VecDeque::new(),
            room,
            blocked: false,
            reads: true,
            strict: false,
            hits: 0,
            reading: Reading::Opening,
            bytes: Vec::new(),
            received: Vec::new(),
            expected: VecDeque::new(),
        }
    }

    /// Replies that must come.
    pub fn owed(&self) -> usize {
        // A storage request whose block never ends may be answered, or not.
        let open = matches!(self.expected.back(), Some(Kind::Store { good: None, .. }));
        self.expected.len() - usize::from(open)
    }

    /// Whether the core closes it once everything is answered.
    pub fn is_over(&self) -> bool {
        self.ended || matches!(self.reading, Reading::Over)
    }

    /// Whether it stands in the middle of a block.
    pub fn in_block(&self) -> bool {
        matches!(self.reading, Reading::Block { .. } | Reading::Swallow(_))
    }

    // === what it sends ===

    /// Sends bytes; they need not be whole requests.
    pub fn send(&mut self, bytes: &[u8], settings: &Settings, truth: &mut Truth) {
        if self.fin {
            return;
        }
        self.outbox.extend(bytes);
        self.bytes.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = &*bytes;
        while let Some(used) = self.read(rest, settings, truth) {
            rest = &rest[used..];
        }
        self.bytes = rest.to_vec();
    }

    /// Reads one line, block or part of a block. `None`: there is none.
    fn read(&mut self, bytes: &[u8], settings: &Settings, truth: &mut Truth) -> Option<usize> {
        match &mut self.reading {
            _ if bytes.is_empty() => None,
            Reading::Opening => {
                let is_text = Dialect::of(*bytes.first()?) == Dialect::Text;
                self.reading = if is_text { Reading::Line } else { Reading::Over };
                Some(0)
            }
            Reading::Over => Some(bytes.len()),
            Reading::Swallow(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= used as u64;
                if *left == 0 {
                    self.reading = Reading::Line;
                }
                Some(used)
            }
            Reading::Block { line, total, answered } => {
                let block = bytes.get(..*total)?;
                let is_good = block.ends_with(b"\r\n");
                let asked = is_good.then(|| truth.ask(line, block, 1));
                if let (true, Some(Kind::Store { good, number, .. })) = (*answered, self.expected.back_mut()) {
                    *good = Some(is_good);
                    *number = asked;
                }
                self.reading = Reading::Line;
                Some(block.len())
            }
            Reading::Line => {
                let end = bytes.iter().position(|&b| b == b'\n');
                let len = end.unwrap_or(bytes.len());
                if len > MAX_LINE && (len > MAX_KEY_LINE || !is_key_line(bytes)) {
                    self.refused(&Refusal::line_too_long(), truth);
                    return Some(bytes.len());
                }
                let line = request::trim(&bytes[..end?]);
                match request::parse(line, settings.max_value) {
                    Ok(request) => self.asks(&request, settings, truth),
                    Err(refusal) => self.refused(&refusal, truth),
                }
                Some(len + 1)
            }
        }
    }

    fn asks(&mut self, request: &Request<'_>, settings: &Settings, truth: &mut Truth) {
        let mut line = Vec::new();
        let (kind, quiet) = match *request {
            Request::Read { verb, keys } => {
                let keys: Vec<Vec<u8>> = keys.map(<[u8]>::to_vec).collect();
                keys.iter().for_each(|key| truth.ask_read(key));
                (Kind::Read { keys, uniques: matches!(verb, ReadVerb::Gets | ReadVerb::Gats(_)) }, false)
            }
            Request::Store(store) => {
                store.write(&mut line);
                self.reading = Reading::Block { line, total: store.len + 2, answered: !store.quiet };
                let key = store.key.to_vec();
                (Kind::Store { verb: store.verb, key, len: store.len, good: None, number: None }, store.quiet)
            }
            Request::Change { change, key, quiet } => {
                change.write(key, &mut line);
                let number = truth.ask(&line, b"", 1);
                (Kind::Change { change, key: key.to_vec(), number }, quiet)
            }
            Request::FlushAll { quiet, .. } if settings.deny_flush_all => {
                (Kind::Exact("CLIENT_ERROR flush_all not allowed"), quiet)
            }
            Request::FlushAll { delay, quiet } => {
                let delay = delay.map(|delay| format!(" {delay}")).unwrap_or_default();
                truth.ask(format!("flush_all{delay}\r\n").as_bytes(), b"", 3);
                (Kind::Flush, quiet)
            }
            Request::Verbosity { quiet } => (Kind::Exact("OK"), quiet),
            Request::Version => (Kind::Version, false),
            Request::Stats(Stats::Reset) => (Kind::StatsReset, false),
            Request::Stats(_) => (Kind::Stats, false),
            Request::MetaNoop => (Kind::Exact("MN"), false),
            Request::Quit => return self.reading = Reading::Over,
        };
        if !quiet {
            self.expected.push_back(kind);
        }
    }

    fn refused(&mut self, refusal: &Refusal<'_>, truth: &mut Truth) {
        if let Some(key) = refusal.stale {
            let mut line = Vec::new();
            Change::Delete.write(key, &mut line);
            truth.ask(&line, b"", 1);
        }
        if !refusal.quiet && !refusal.text.is_empty() {
            self.expected.push_back(Kind::Exact(refusal.text));
        }
        match refusal.block {
            Block::None => {}
            Block::Swallow(bytes) => self.reading = Reading::Swallow(bytes),
            Block::Unknown => self.reading = Reading::Over,
        }
    }

    // === what it gets ===

    /// Takes so many bytes of what has come, and checks them.
    pub fn take(&mut self, bytes: usize, truth: &mut Truth) {
        let bytes = cut(&mut self.kernel, bytes);
        self.received.extend_from_slice(&bytes);
        let received = std::mem::take(&mut self.received);
        let mut rest = &*received;
        while !rest.is_empty() {
            let Some(kind) = self.expected.front().cloned() else {
                panic!("a reply to nothing: {:?}", show(rest));
            };
            let Some(used) = self.reply(&kind, rest, truth) else { break };
            rest = &rest[used..];
            self.expected.pop_front();
        }
        self.received = rest.to_vec();
    }

    /// Checks the reply to the oldest request; `None` while it is not whole.
    fn reply(&mut self, kind: &Kind, bytes: &[u8], truth: &mut Truth) -> Option<usize> {
        if let Kind::Read { keys, uniques } = kind {
            return self.values(keys, *uniques, bytes, truth);
        }
        if let Kind::Stats = kind {
            return stats(bytes);
        }
        let line = line(bytes)?;
        let used = Some(line.len() + 2);
        let (shaken, lied) = (truth.shaken && !self.strict, truth.lied && !self.strict);
        let said = |all: &[&str]| all.iter().any(|one| one.as_bytes() == line);
        let failed = is_failure(line, lied);
        let unsent = [b" is down".as_slice(), b" takes no requests"].iter().any(|end| line.ends_with(end));
        if let (Kind::Store { number: Some(number), .. } | Kind::Change { number, .. }, true) = (kind, failed && unsent)
        {
            truth.withdraw(*number);
        }
        let fits = match kind {
            // Before the first ring is connected there is nobody to ask.
            Kind::Flush => said(&["OK"]) || failed,
            Kind::StatsReset => said(&["RESET"]) || failed,
            Kind::Version => line.starts_with(b"VERSION 1."),
            Kind::Exact(text) => said(&[text]),
            Kind::Store { verb, key, len, good, .. } => {
                let too_large = line == b"SERVER_ERROR object too large for cache" && *len > 1 << 20;
                match good {
                    _ if too_large => true,
                    Some(true) if line == b"STORED" => {
                        truth.claim(Deed::Stored, key);
                        true
                    }
                    Some(true) if lied => said(&["NOT_STORED", "EXISTS", "NOT_FOUND"]) || failed,
                    Some(true) => match verb {
                        StoreVerb::Set => failed && shaken,
                        StoreVerb::Cas => said(&["EXISTS", "NOT_FOUND"]) || failed && shaken,
                        _ => said(&["NOT_STORED"]) || failed && shaken,
                    },
                    Some(false) => said(&["CLIENT_ERROR bad data chunk"]) || failed && shaken || lied,
                    // A node may answer a large value before its end.
                    None => failed && shaken || lied,
                }
            }
            Kind::Change { change, key, .. } => {
                let deed = match change {
                    Change::Delete if said(&["DELETED"]) => Some(Deed::Deleted),
                    Change::Touch(_) if said(&["TOUCHED"]) => Some(Deed::Touched),
                    Change::Incr(_) | Change::Decr(_) if line.iter().all(u8::is_ascii_digit) => Some(Deed::Counted),
                    _ => None,
                };
                deed.into_iter().for_each(|deed| truth.claim(deed, key));
                deed.is_some() || said(&["NOT_FOUND"]) || failed && shaken
            }
            Kind::Read { .. } | Kind::Stats => true,
        };
        assert!(fits, "{:?} to {kind:?}", show(line));
        used
    }

    fn values(&mut self, keys: &[Vec<u8>], uniques: bool, bytes: &[u8], truth: &Truth) -> Option<usize> {
        let mut missing: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let mut at = 0;
        let mut found = Vec::new();
        loop {
            let line = line(&bytes[at..])?;
            at += line.len() + 2;
            if line == b"END" {
                break;
            }
            let Some(rest) = line.strip_prefix(b"VALUE ") else {
                let (shaken, lied) = (truth.shaken && !self.strict, truth.lied && !self.strict);
                assert!(shaken && is_failure(line, lied), "{:?} to a read", show(line));
                break;
            };
            let words: Vec<&[u8]> = rest.split(|&b| b == b' ').collect();
            assert!(words.len() == 3 + usize::from(uniques) || truth.lied, "{:?}", show(line));
            let Some(place) = missing.iter().position(|key| *key == words[0]) else {
                panic!("{:?} to a read of {:?}", show(line), show(&keys.join(&b' ')));
            };
            missing.swap_remove(place);
            let len: usize = std::str::from_utf8(words[2]).unwrap().parse().unwrap();
            // It must be the right one from its first byte, however long it claims to be.
            let data = &bytes[at..];
            let data = if data.len() < len { &data[..data.len().min(4096)] } else { &data[..len] };
            let is_own = is_value_of(words[0], data) || truth.poisoned.contains(words[0]);
            assert!(is_own, "{:?} is no value of {:?}", show(data), show(words[0]));
            let end = bytes.get(at + len..at + len + 2)?;
            assert_eq!(end, b"\r\n");
            found.push(words[0]);
            at += len + 2;
        }
        self.hits += found.len();
        Some(at)
    }

    /// What it waits for, for people.
    pub fn describe(&self) -> String {
        format!(
            "{:?}: {} owed, first {:?}; {} more to send, fin {} ended {} parked {} blocked {}; received {:?}",
            self.id,
            self.owed(),
            self.expected.front(),
            self.outbox.len(),
            self.fin,
            self.ended,
            self.parked,
            self.blocked,
            show(&self.received)
        )
    }

    /// Bytes it got that are no whole reply.
    pub fn torn(&self) -> usize {
        self.received.len()
    }
}

/// Whether a line says that a request failed: by the proxy, and where nodes lie by anyone.
fn is_failure(line: &[u8], lied: bool) -> bool {
    let starts: &[&str] = if lied { &["ERROR", "CLIENT_ERROR", "SERVER_ERROR"] } else { &["SERVER_ERROR proxy: "] };
    starts.iter().any(|start| line.starts_with(start.as_bytes()))
}

fn stats(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = line(&bytes[at..])?;
        at += line.len() + 2;
        if line == b"END" {
            return Some(at);
        }
        let words = line.split(|&b| b == b' ').count();
        let is_stat = line.starts_with(b"STAT ") && words > 2 && !line.windows(3).any(|three| three == b"END");
        assert!(is_stat, "{:?} to stats", show(line));
    }
}

/// The first line of `bytes`, without its CRLF.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    Some(bytes[..end].strip_suffix(b"\r").unwrap_or_else(|| panic!("a reply line without CR: {:?}", show(bytes))))
}
