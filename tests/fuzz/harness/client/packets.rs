//! A client of the binary protocol: a plain reading of its packets, and what it may be told.
//!
//! Every answer names opcode and opaque of its request, and is a whole packet, whatever the nodes say.

use slipring::protocol::binary::request::{Action, Header, Packet, Refusal, parse};
use slipring::protocol::binary::translate::{MAX_ODD_KEY, is_odd, text_exptime, write_long_line};
use slipring::protocol::binary::{HEADER_BYTES, opcode};
use slipring::protocol::meta::request::{parse as parse_meta, write_delete};
use slipring::protocol::request::{Change, Request, Stats, StoreVerb};
use slipring::protocol::text::request;
use slipring::protocol::{MAX_KEY, is_key};
use slipring::proxy::Settings;

use super::super::node::{Deed, Truth, is_value_of, serial_of};
use super::super::show;
use super::{Claim, Client, Kind, Reading, Told, in_packets, is_failure, is_unsent, otherwise};

const OK: u16 = 0x00;
const NOT_FOUND: u16 = 0x01;
const EXISTS: u16 = 0x02;
const TOO_LARGE: u16 = 0x03;
const INVALID: u16 = 0x04;
const NOT_STORED: u16 = 0x05;
const DENIED: u16 = 0x20;
const UNKNOWN: u16 = 0x81;
const FAILED: u16 = 0x84;

/// What memcached says to a status.
fn text(status: u16) -> &'static [u8] {
    match status {
        OK => b"",
        NOT_FOUND => b"Not found",
        EXISTS => b"Data exists for key.",
        TOO_LARGE => b"Too large.",
        INVALID => b"Invalid arguments",
        NOT_STORED => b"Not stored.",
        DENIED => b"Auth failure.",
        UNKNOWN => b"Unknown command",
        _ => panic!("nobody is refused by {status:#x}"),
    }
}

#[derive(Debug)]
enum What {
    Read {
        with_key: bool,
    },
    Touch,
    Store(StoreVerb),
    Join,
    Delete,
    Count {
        creates: bool,
    },
    Flush,
    Stats {
        resets: bool,
    },
    Version,
    /// This status alone, in memcached's words.
    Exact(u16),
}

/// A request, and what became of it.
#[derive(Debug)]
pub struct Asked {
    opcode: u8,
    opaque: u32,
    cas: u64,
    what: What,
    /// It may be answered by silence.
    pub quiet: bool,
    key: Vec<u8>,
    len: usize,
    /// Its value has come, if it has one.
    pub whole: bool,
    /// The number of the change, if it is one.
    number: Option<u64>,
}

impl Asked {
    fn exact(opcode: u8, opaque: u32, status: u16) -> Self {
        let what = What::Exact(status);
        Self { opcode, opaque, cas: 0, what, quiet: false, key: Vec::new(), len: 0, whole: true, number: None }
    }

    fn new(packet: &Packet<'_>, settings: &Settings) -> Self {
        let exact = |status| Self::exact(packet.opcode, packet.opaque, status);
        let what = match packet.action {
            Action::Read { with_key, .. } => What::Read { with_key },
            Action::Touch { .. } => What::Touch,
            Action::Store { verb, .. } => What::Store(verb),
            Action::Join { .. } => What::Join,
            Action::Delete { .. } => What::Delete,
            Action::Count { initial, .. } => What::Count { creates: initial.is_some() },
            Action::Flush { .. } if settings.deny_flush_all => return exact(DENIED),
            Action::Flush { .. } => What::Flush,
            Action::Version => What::Version,
            Action::Stat { group } => match request::parse(&[b"stats ", group].concat(), 0) {
                Ok(Request::Stats(stats)) => What::Stats { resets: stats == Stats::Reset },
                _ => return exact(NOT_FOUND),
            },
            Action::Noop | Action::Quit => return exact(OK),
            // Nobody has said where the client is connected.
            Action::Config { .. } => return exact(UNKNOWN),
        };
        let stores = matches!(what, What::Store(_) | What::Join);
        Self {
            what,
            cas: packet.cas,
            quiet: packet.quiet,
            key: packet.key().unwrap_or_default().to_vec(),
            len: packet.value_len,
            whole: !stores,
            ..exact(OK)
        }
    }
}

// === what it sends ===

impl Client {
    /// Reads a packet as far as its value, or refuses it. `None`: it is not whole.
    pub(super) fn packet(&mut self, bytes: &[u8], settings: &Settings, truth: &mut Truth) -> Option<usize> {
        let Ok(header) = Header::read(bytes)? else {
            self.reading = Reading::Over;
            return Some(bytes.len());
        };
        if let Err(refusal) = header.check() {
            self.refused_packet(&refusal, truth);
            return Some(HEADER_BYTES);
        }
        let head = bytes.get(..header.head_len())?;
        match parse(head, settings.max_value) {
            Ok(packet) => self.asks_packet(&packet, settings, truth),
            Err(refusal) => self.refused_packet(&refusal, truth),
        }
        Some(head.len())
    }

    fn refused_packet(&mut self, refusal: &Refusal<'_>, truth: &mut Truth) {
        if let Some(key) = refusal.stale {
            let mut line = Vec::new();
            if is_key(key) {
                Change::Delete.write(key, &mut line);
            } else {
                write_delete(key, &mut line);
            }
            truth.ask_either(&line, in_packets(&line).as_slice(), b"");
        }
        let Refusal { status, opcode, opaque, .. } = *refusal;
        self.expected.push_back(Kind::Packet(Asked::exact(opcode, opaque, status.code())));
        if refusal.close {
            self.reading = Reading::Over;
        } else if refusal.swallow > 0 {
            self.reading = Reading::Swallow(refusal.swallow);
        }
    }

    fn asks_packet(&mut self, packet: &Packet<'_>, settings: &Settings, truth: &mut Truth) {
        let mut asked = Asked::new(packet, settings);
        let mut line = Vec::new();
        match packet.action {
            Action::Read { key, .. } => truth.ask_read(key),
            Action::Touch { key, exptime } => {
                truth.ask_read(key);
                // Where a node can be asked in classic words only.
                Change::Touch(text_exptime(exptime)).write(key, &mut line);
                asked.number = Some(truth.ask(&line, b"", 1));
            }
            Action::Delete { .. } | Action::Count { .. } => {
                write_long_line(packet, &mut line).unwrap();
                asked.number = Some(truth.ask_either(&line, &others(&line), b""));
            }
            Action::Store { .. } | Action::Join { .. } => write_long_line(packet, &mut line).unwrap(),
            Action::Flush { delay } if !settings.deny_flush_all => {
                let delay = delay.map(|delay| format!(" {}", text_exptime(delay))).unwrap_or_default();
                truth.ask(format!("flush_all{delay}\r\n").as_bytes(), b"", 3);
            }
            Action::Quit => self.reading = Reading::Over,
            _ => {}
        }
        let stores = !asked.whole;
        if packet.opcode != opcode::QUITQ {
            self.expected.push_back(Kind::Packet(asked));
        }
        if stores && packet.value_len == 0 {
            self.value_came(&line, b"", truth);
        } else if stores {
            self.reading = Reading::Value { line, len: packet.value_len };
        }
    }

    /// The value of the packet that is asked for by `line` is whole.
    pub(super) fn value_came(&mut self, line: &[u8], value: &[u8], truth: &mut Truth) {
        let asked = truth.ask_either(line, &others(line), &[value, b"\r\n"].concat());
        // Else it is answered already.
        if let Some(Kind::Packet(Asked { whole, number, .. })) = self.expected.back_mut() {
            *whole = true;
            *number = Some(asked);
        }
        self.reading = Reading::Packet;
    }
}

/// What a node without meta commands is asked instead of this line.
fn others(line: &[u8]) -> Vec<Vec<u8>> {
    match parse_meta(request::trim(line.strip_suffix(b"\n").unwrap()), usize::MAX) {
        Ok(meta) => otherwise(&meta, line),
        // A key in base64 that is too long to travel so.
        Err(_) => in_packets(line).into_iter().collect(),
    }
}

// === what it is told ===

/// A packet, perhaps without the end of its value.
#[derive(Debug)]
struct Answer<'a> {
    status: u16,
    cas: u64,
    extras: &'a [u8],
    key: &'a [u8],
    value: &'a [u8],
    /// Bytes of all of it.
    len: usize,
    is_whole: bool,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The packet at the front of some bytes; `None` where its value has not begun.
fn read<'a>(asked: &Asked, bytes: &'a [u8]) -> Option<Result<Answer<'a>, String>> {
    let head = bytes.first_chunk::<HEADER_BYTES>()?;
    if (head[0], head[5]) != (0x81, 0) {
        return Some(Err(format!("no packet: {}", show(bytes))));
    }
    if head[1] != asked.opcode || number(&head[12..16]) != u64::from(asked.opaque) {
        // Said of each of many.
        return Some(Err("another's".to_owned()));
    }
    let (key_at, value_at) = (HEADER_BYTES + usize::from(head[4]), number(&head[2..4]) as usize);
    let value_at = key_at + value_at;
    let len = HEADER_BYTES + number(&head[8..12]) as usize;
    if len < value_at {
        return Some(Err(format!("lengths that do not fit: {}", show(bytes))));
    }
    let extras = bytes.get(HEADER_BYTES..key_at)?;
    Some(Ok(Answer {
        status: number(&head[6..8]) as u16,
        cas: number(&head[16..]),
        extras,
        key: bytes.get(key_at..value_at)?,
        value: &bytes[value_at..len.min(bytes.len())],
        len,
        is_whole: bytes.len() >= len,
    }))
}

impl Asked {
    /// Reads bytes as the reply.
    pub fn reply(&self, bytes: &[u8], shaken: bool, lied: bool, truth: &Truth) -> Told {
        let answer = match read(self, bytes) {
            None => return Told::Wait,
            Some(Err(why)) => return Told::Not(why),
            Some(Ok(answer)) => answer,
        };
        if answer.status == OK
            && let What::Stats { resets } = self.what
        {
            return self.stats(bytes, resets && !lied);
        }
        if answer.status == OK && matches!(self.what, What::Read { .. }) {
            return self.value(&answer, lied, truth);
        }
        if !answer.is_whole {
            return Told::Wait;
        }
        let fits =
            if answer.status == OK { self.is_done(&answer, lied) } else { self.error(&answer, shaken, lied, truth) };
        if !fits {
            return Told::Not(format!("{answer:?} to {self:?}"));
        }
        let deed = match self.what {
            What::Store(_) | What::Join => Some(Deed::Stored),
            What::Delete => Some(Deed::Deleted),
            What::Count { .. } => Some(Deed::Counted),
            _ => None,
        };
        let done = deed.filter(|_| answer.status == OK).map(|deed| Claim::Did(deed, self.key.clone()));
        let withdrawn = self.number.filter(|_| self.is_unsent(&answer)).map(Claim::Withdrawn);
        Told::Fits(answer.len, done.into_iter().chain(withdrawn).collect())
    }

    /// A value that was read. It must be the right one from its first byte, however long it claims to be.
    fn value(&self, answer: &Answer<'_>, lied: bool, truth: &Truth) -> Told {
        let not = |why: &str| Told::Not(format!("{why}: {answer:?} to {self:?}"));
        let What::Read { with_key } = self.what else { return not("no read") };
        if answer.extras.len() != 4 || answer.key != if with_key { &*self.key } else { b"" } {
            return not("another shape");
        }
        let data = if answer.is_whole { answer.value } else { &answer.value[..answer.value.len().min(4096)] };
        // A value that is not asked for in a classic line does not name its key.
        let excused = lied && (truth.had_old || is_odd(&self.key)) || truth.poisoned.contains(&self.key);
        if !excused && !is_value_of(&self.key, data) {
            return not("no value");
        }
        if !excused && !lied && serial_of(&self.key, data).is_some_and(|serial| serial != answer.cas) {
            return not("another value's unique");
        }
        if answer.is_whole { Told::Fits(answer.len, vec![Claim::Hits(1)]) } else { Told::Wait }
    }

    /// Whether it is told that it was done.
    fn is_done(&self, answer: &Answer<'_>, lied: bool) -> bool {
        let lens = (answer.extras.len(), answer.key.len(), answer.value.len());
        match self.what {
            What::Touch => lens == (4, 0, 0),
            What::Count { .. } => lens == (0, 0, 8) && !self.quiet,
            What::Store(_) | What::Join => lens == (0, 0, 0) && !self.quiet && (self.whole || lied),
            What::Delete => lens == (0, 0, 0) && !self.quiet && (answer.cas == 0 || lied),
            What::Flush => lens == (0, 0, 0) && !self.quiet,
            What::Exact(status) => lens == (0, 0, 0) && status == OK,
            What::Version => answer.value.starts_with(b"1.") && lens.0 + lens.1 == 0,
            What::Read { .. } | What::Stats { .. } => false,
        }
    }

    fn error(&self, answer: &Answer<'_>, shaken: bool, lied: bool, truth: &Truth) -> bool {
        let Answer { status, value, .. } = *answer;
        if !answer.extras.is_empty() || answer.cas != 0 {
            return false;
        }
        let is_read = matches!(self.what, What::Read { .. });
        if let (What::Read { with_key: true }, NOT_FOUND) = (&self.what, status) {
            return !self.quiet && answer.key == self.key && value.is_empty();
        }
        if !answer.key.is_empty() || is_read && self.quiet && status == NOT_FOUND {
            return false;
        }
        let has_key = !self.key.is_empty();
        let is_fan_out = matches!(self.what, What::Flush | What::Stats { resets: true });
        if status == FAILED {
            if value.starts_with(b"proxy: the request needs memcached 1.6 at node node-") {
                return has_key && (truth.had_old || truth.lied);
            }
            let is_failure = is_failure(&[b"SERVER_ERROR ", value].concat(), false);
            let is_asked = !matches!(self.what, What::Exact(_) | What::Version);
            // Before the first ring is connected there is nobody to ask.
            return is_asked && (lied || is_failure && (shaken || is_fan_out));
        }
        if let What::Exact(exact) = self.what {
            return status == exact && value == text(status);
        }
        if lied && (has_key || is_fan_out) {
            return true;
        }
        if status == INVALID {
            // In base64 it is too long, and the node has to be asked so.
            return is_odd(&self.key) && self.key.len() > MAX_ODD_KEY && value == text(status);
        }
        let fits = match (&self.what, status) {
            (What::Store(_) | What::Join, TOO_LARGE) => self.len > 1 << 20,
            (_, TOO_LARGE) => false,
            (What::Read { .. } | What::Touch | What::Delete, NOT_FOUND) => true,
            (What::Count { creates }, NOT_FOUND) => !creates,
            (What::Store(verb), NOT_FOUND) => *verb == StoreVerb::Replace || self.cas != 0,
            (What::Store(verb), EXISTS) => *verb == StoreVerb::Add || self.cas != 0,
            (What::Join, NOT_STORED) => true,
            (What::Join, NOT_FOUND) | (What::Join | What::Delete | What::Count { .. }, EXISTS) => self.cas != 0,
            _ => false,
        };
        fits && value == text(status) && (self.whole || status == TOO_LARGE)
    }

    /// Whether an answer says that the request was never sent.
    fn is_unsent(&self, answer: &Answer<'_>) -> bool {
        match answer.status {
            FAILED => is_unsent(answer.value) || answer.value.starts_with(b"proxy: the request needs"),
            INVALID => !matches!(self.what, What::Exact(_)),
            _ => false,
        }
    }

    /// One packet for each line, and an empty one.
    fn stats(&self, bytes: &[u8], is_empty: bool) -> Told {
        let mut at = 0;
        loop {
            match read(self, &bytes[at..]) {
                None => return Told::Wait,
                Some(Err(why)) => return Told::Not(why),
                Some(Ok(answer)) if !answer.is_whole => return Told::Wait,
                Some(Ok(answer)) => {
                    at += answer.len;
                    if answer.status != OK || !answer.extras.is_empty() || answer.cas != 0 {
                        return Told::Not(format!("{answer:?} to {self:?}"));
                    }
                    if answer.key.is_empty() && answer.value.is_empty() {
                        return Told::Fits(at, Vec::new());
                    }
                    if answer.key.is_empty() || answer.key.len() > MAX_KEY || is_empty {
                        return Told::Not(format!("{answer:?} to {self:?}"));
                    }
                }
            }
        }
    }
}
