//! A client, and a plain reading of its bytes, which says what it may be told: whatever the pieces in
//! which the core gets them, the meaning is the same.
//!
//! Whether a quiet meta request was answered cannot be told from every reply. So all readings of what came are kept that
//! are possible: each is a place in what was asked, and what it claims counts once it is the only one.

mod packets;
mod replies;

use std::collections::VecDeque;

use slipring::protocol::binary::meta::Asked as InPackets;
use slipring::protocol::dialect::Dialect;
use slipring::protocol::meta::classic::{Classic, classic};
use slipring::protocol::meta::request::Meta;
use slipring::protocol::meta::request::Verb;
use slipring::protocol::request::{Block, Change, ReadVerb, Refusal, Request, Stats, StoreVerb};
use slipring::protocol::text::request;
use slipring::protocol::{MAX_KEY, MAX_KEY_LINE, MAX_LINE, is_key, is_key_line};
use slipring::proxy::{ClientId, Settings};

use super::meta::Asked;
use super::node::{Deed, Truth};
use super::show;
pub use replies::{BAD_CHUNK, TOO_LARGE, is_failure, is_unsent};

#[derive(Debug)]
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
    Meta(Asked),
    Packet(packets::Asked),
    Flush,
    StatsReset,
    Stats,
    Version,
    /// This line.
    Exact(&'static str),
}

impl Kind {
    /// Whether there may be no reply to it.
    fn is_quiet(&self) -> bool {
        matches!(self, Self::Meta(Asked { quiet: true, .. }) | Self::Packet(packets::Asked { quiet: true, .. }))
    }

    /// Whether its block has not ended.
    fn is_open(&self) -> bool {
        match self {
            Self::Store { good, .. } | Self::Meta(Asked { good, .. }) => good.is_none(),
            Self::Packet(asked) => !asked.whole,
            _ => false,
        }
    }
}

/// What a reply says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Something was done.
    Did(Deed, Vec<u8>),
    /// This change was never sent.
    Withdrawn(u64),
    /// So many values.
    Hits(usize),
}

/// What bytes are as the reply to a request.
pub enum Told {
    /// They are not whole.
    Wait,
    /// So many are the reply.
    Fits(usize, Vec<Claim>),
    /// They are none: why.
    Not(String),
}

/// A reading of the replies: how many of what is expected they answer, and what they claim. `None`: it depends.
type Place = (usize, Option<Vec<Claim>>);

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
    /// A packet of the binary protocol.
    Packet,
    /// The line that stands for a packet whose value of so many bytes is to come.
    Value {
        line: Vec<u8>,
        len: usize,
    },
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
    /// It is to send packets.
    pub in_packets: bool,
    /// Values it got.
    pub hits: usize,
    reading: Reading,
    /// What follows when something was swallowed is a packet.
    is_binary: bool,
    /// Sent and not read by the plain reading.
    bytes: Vec<u8>,
    received: Vec<u8>,
    expected: VecDeque<Kind>,
    /// What the block of an `ms` follows at a node without meta commands: its packet, or a line.
    others: Vec<Vec<u8>>,
    /// The readings of what was received that are possible.
    places: Vec<Place>,
}

/// What a node without meta commands is asked instead: a packet, or where it speaks text only a line, if they can say it.
fn otherwise(meta: &Meta<'_>, line: &[u8]) -> Vec<Vec<u8>> {
    in_classic(meta).into_iter().chain(in_packets(line)).collect()
}

fn in_packets(line: &[u8]) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    InPackets::read(line)?.write(&mut packet);
    Some(packet)
}

fn in_classic(meta: &Meta<'_>) -> Option<Vec<u8>> {
    let mut buffer = [0; MAX_KEY];
    let key = meta.routing_key(&mut buffer);
    let mut line = Vec::new();
    match classic(meta, key).ok()? {
        Classic::Read(_) => return None,
        Classic::Store(store) => store.write(&mut line),
        Classic::Change(change) => change.write(key, &mut line),
    }
    Some(line)
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
            in_packets: false,
            hits: 0,
            reading: Reading::Opening,
            is_binary: false,
            bytes: Vec::new(),
            received: Vec::new(),
            expected: VecDeque::new(),
            others: Vec::new(),
            places: vec![(0, Some(Vec::new()))],
        }
    }

    /// Replies that must come.
    pub fn owed(&self) -> usize {
        // A storage request whose block never ends may be answered, or not.
        let must = |kind: &&Kind| !kind.is_quiet() && !kind.is_open();
        let owed = |place: &Place| self.expected.iter().skip(place.0).filter(must).count();
        self.places.iter().map(owed).min().unwrap_or(0)
    }

    /// Requests whose answer has not come, as far as is known.
    pub fn asked(&self) -> usize {
        self.expected.len()
    }

    /// Whether the core closes it once everything is answered.
    pub fn is_over(&self) -> bool {
        self.ended || matches!(self.reading, Reading::Over)
    }

    /// Whether it stands in the middle of a block.
    pub fn in_block(&self) -> bool {
        matches!(self.reading, Reading::Block { .. } | Reading::Value { .. } | Reading::Swallow(_))
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

    /// Reads one line or packet, block or part of a block. `None`: there is none.
    fn read(&mut self, bytes: &[u8], settings: &Settings, truth: &mut Truth) -> Option<usize> {
        match &mut self.reading {
            _ if bytes.is_empty() => None,
            Reading::Opening => {
                let dialect = Dialect::of(*bytes.first()?);
                self.is_binary = dialect == Dialect::Binary;
                self.reading = match dialect {
                    Dialect::Text => Reading::Line,
                    Dialect::Binary => Reading::Packet,
                    Dialect::Tls => Reading::Over,
                };
                Some(0)
            }
            Reading::Over => Some(bytes.len()),
            Reading::Swallow(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= used as u64;
                if *left == 0 {
                    self.reading = if self.is_binary { Reading::Packet } else { Reading::Line };
                }
                Some(used)
            }
            Reading::Packet => self.packet(bytes, settings, truth),
            Reading::Value { line, len } => {
                let (value, line) = (bytes.get(..*len)?, std::mem::take(line));
                self.value_came(&line, value, truth);
                Some(value.len())
            }
            Reading::Block { line, total, answered } => {
                let block = bytes.get(..*total)?;
                let is_good = block.ends_with(b"\r\n");
                let asked = is_good.then(|| truth.ask_either(line, &std::mem::take(&mut self.others), block));
                if let (true, Some(Kind::Store { good, number, .. } | Kind::Meta(Asked { good, number, .. }))) =
                    (*answered, self.expected.back_mut())
                {
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
                self.others.clear();
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
            // Nobody has said where the client is connected.
            Request::Discovery => (Kind::Exact("ERROR"), false),
            Request::Stats(Stats::Reset) => (Kind::StatsReset, false),
            Request::Stats(_) => (Kind::Stats, false),
            Request::Meta(meta) => {
                let mut asked = Asked::new(&meta);
                meta.write(&mut line);
                if meta.verb == Verb::Set {
                    self.others = otherwise(&meta, &line);
                    self.reading = Reading::Block { line, total: meta.len + 2, answered: true };
                } else if meta.writes {
                    asked.number = Some(truth.ask_either(&line, &otherwise(&meta, &line), b""));
                } else {
                    truth.ask_read(&asked.key);
                }
                (Kind::Meta(asked), false)
            }
            Request::MetaNoop => (Kind::Exact("MN"), false),
            Request::Quit => return self.reading = Reading::Over,
        };
        if !quiet {
            self.expected.push_back(kind);
        }
    }

    fn refused(&mut self, refusal: &Refusal<'_>, truth: &mut Truth) {
        if let Some(key) = refusal.stale_key() {
            let mut line = Vec::new();
            if refusal.stale_is_base64 && !is_key(&key) {
                // Text cannot carry it.
                line.extend([b"md ", data_encoding::BASE64.encode(&key).as_bytes(), b" b\r\n"].concat());
            } else {
                Change::Delete.write(&key, &mut line);
            }
            truth.ask_either(&line, in_packets(&line).as_slice(), b"");
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

    /// What it waits for, for people.
    pub fn describe(&self) -> String {
        format!(
            "{:?}: {} owed, first {:?} at {:?}; {} more to send, fin {} ended {} parked {} blocked {}; received {:?}",
            self.id,
            self.owed(),
            self.expected.front(),
            self.places,
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
