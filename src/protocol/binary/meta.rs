//! Meta commands in packets, for nodes that have none (before memcached 1.6.10) and speak the binary protocol; and what
//! those answer, as the lines of a node that has them. So a lane is the only place that knows of it.
//!
//! | meta | packet | what cannot be said |
//! |---|---|---|
//! | `mg` with v f c s k O q b | Get, with T GAT; with T and neither v nor s Touch | t h l u N R E C |
//! | `ms` with F T c s k O q b C, modes S E A P R | Set, Add, Append, Prepend, Replace | I N |
//! | `md` with C c k O q b | Delete | E I T x |
//! | `ma` with D J N v c k O q b C, modes I and D | Increment, Decrement | E T t |
//! | `me` | | all |
//!
//! Each packet is a loud one, so it has one reply. Its opaque is made of the line: a reply to another request than the one
//! whose turn it is shows itself, as a `VALUE` for another key does (invariant C).
//!
//! Binary has no unique 0: it means "any", where `C0` means one that no item has. So that is asked for with the largest
//! one, which no item has either. Its expiry has no sign: one that is over is said as a time long ago. `ms` in mode E does
//! not look at C, and with C mode R is mode S, as in memcached 1.6.18 (`proto_text.c`). The reference for the packets is
//! `memcached.c` of 1.5.16.

use std::borrow::Cow;

use data_encoding::BASE64;

use super::super::meta::request::{Meta, Verb};
use super::super::number;
use super::super::request::{Keys, TOO_LARGE};
use super::reply::Status;
use super::{HEADER_BYTES, REPLY_MAGIC, REQUEST_MAGIC, opcode};

/// Longest text of an error, in bytes: memcached's have less than 50.
const MAX_TEXT: usize = 1024;

/// Largest value, in bytes: what memcached's `-I` allows at most.
const MAX_VALUE: usize = 1 << 30;

/// Bytes of the flags in front of a value.
const FLAGS_BYTES: usize = 4;

/// An expiry, as a Unix time, that is over.
const LONG_AGO: u32 = 60 * 60 * 24 * 30 + 1;

/// The expiry of a counter that is not to be created.
const NEVER_CREATE: u32 = u32::MAX;

/// The flag of a meta command, or the whole command by its letter, that no packet can say.
#[must_use]
pub fn unsaid(meta: &Meta<'_>) -> Option<u8> {
    first_unsaid(meta.verb, meta.flags())
}

fn first_unsaid(verb: Verb, flags: Keys<'_>) -> Option<u8> {
    let known: &[u8] = match verb {
        Verb::Get => b"vfcskOqbTPL",
        Verb::Set => b"FTCcskOqbMPL",
        Verb::Delete => b"CckOqbPL",
        Verb::Arithmetic => b"DJNMvckOqbCPL",
        Verb::Debug => return Some(b'e'),
    };
    flags.into_iter().filter_map(|flag| flag.first().copied()).find(|letter| !known.contains(letter))
}

/// Appends the first request of a connection: whoever answers it by a packet speaks the binary protocol. It is a Noop, for
/// its opcode is a line feed: a node that takes it for text answers that line at once.
pub fn write_greeting(out: &mut Vec<u8>) {
    write_head(&Head { opcode: opcode::NOOP, ..Head::default() }, REQUEST_MAGIC, out);
}

/// The first 24 bytes of a reply, or of a packet to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    opcode: u8,
    key_len: usize,
    extras_len: usize,
    /// Of a reply.
    status: u16,
    body_len: usize,
    opaque: u32,
    cas: u64,
}

impl Head {
    /// Reads the beginning of a reply; `None` while there are fewer than 24 bytes, or where they begin otherwise.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [magic, opcode, k0, k1, extras_len, _, s0, s1, b0, b1, b2, b3, o0, o1, o2, o3, cas @ ..] =
            *bytes.first_chunk::<HEADER_BYTES>()?;
        (magic == REPLY_MAGIC).then(|| Self {
            opcode,
            key_len: usize::from(u16::from_be_bytes([k0, k1])),
            extras_len: usize::from(extras_len),
            status: u16::from_be_bytes([s0, s1]),
            body_len: usize::try_from(u32::from_be_bytes([b0, b1, b2, b3])).unwrap_or(usize::MAX),
            opaque: u32::from_be_bytes([o0, o1, o2, o3]),
            cas: u64::from_be_bytes(cas),
        })
    }

    /// Whether it is the answer to the [first request](write_greeting), with nothing behind it.
    #[must_use]
    pub fn is_greeting(&self) -> bool {
        *self == Self { opcode: opcode::NOOP, ..Self::default() }
    }
}

fn write_head(head: &Head, magic: u8, out: &mut Vec<u8>) {
    let lengths = (u16::try_from(head.key_len), u8::try_from(head.extras_len), u32::try_from(head.body_len));
    // Nothing can be larger: a key has 250 bytes, the extras 20, and a block is below 2 GiB.
    let (Ok(key_len), Ok(extras_len), Ok(body_len)) = lengths else { return };
    out.extend_from_slice(&[magic, head.opcode]);
    out.extend_from_slice(&key_len.to_be_bytes());
    out.extend_from_slice(&[extras_len, 0]);
    out.extend_from_slice(&head.status.to_be_bytes());
    out.extend_from_slice(&body_len.to_be_bytes());
    out.extend_from_slice(&head.opaque.to_be_bytes());
    out.extend_from_slice(&head.cas.to_be_bytes());
}

/// What follows the head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Four bytes of flags and a value of so many bytes: a read that was answered.
    Value(usize),
    /// So few bytes that they are waited for.
    Small(usize),
}

impl Body {
    /// Bytes of the packet that are needed before it can be acted on.
    #[must_use]
    pub const fn needed(self) -> usize {
        match self {
            Self::Value(_) => HEADER_BYTES + FLAGS_BYTES,
            Self::Small(len) => HEADER_BYTES + len,
        }
    }
}

/// A meta command as a line would have it, which may have any key of base64: it never travels so.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    line: &'a [u8],
    verb: Verb,
    key: &'a [u8],
    is_base64: bool,
    /// Bytes of the block of `ms`.
    len: usize,
    flags: Keys<'a>,
}

impl<'a> Asked<'a> {
    /// Of a line that was made for a node, with or without its CRLF. `None` for what is none, or what no packet can say.
    #[must_use]
    pub fn read(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let mut words = Keys::new(line);
        let verb = Verb::of(words.next()?)?;
        let key = words.next()?;
        let len = match verb {
            Verb::Set => usize::try_from(number::digits(words.next()?)?).ok()?,
            _ => 0,
        };
        let is_base64 = words.into_iter().any(|flag| flag == b"b");
        first_unsaid(verb, words).is_none().then_some(Self { line, verb, key, is_base64, len, flags: words })
    }

    fn token(&self, letter: u8) -> Option<&'a [u8]> {
        self.flags.into_iter().find_map(|flag| flag.split_first().filter(|(own, _)| **own == letter)).map(|(_, t)| t)
    }

    fn has(&self, letter: u8) -> bool {
        self.token(letter).is_some()
    }

    /// Whether its answer has a value.
    #[must_use]
    pub fn tells_value(&self) -> bool {
        self.has(b'v')
    }

    fn unsigned(&self, letter: u8) -> Option<u64> {
        self.token(letter).and_then(number::unsigned)
    }

    fn exptime(&self, letter: u8) -> Option<u32> {
        let seconds = self.token(letter).and_then(number::signed)?;
        #[expect(clippy::cast_possible_truncation, reason = "memcached keeps 32 bits of it")]
        let seconds = seconds as i32;
        Some(u32::try_from(seconds).unwrap_or(LONG_AGO))
    }

    fn mode(&self) -> u8 {
        let given = self.token(b'M').and_then(|mode| mode.first().copied());
        given.unwrap_or(if self.verb == Verb::Arithmetic { b'I' } else { b'S' })
    }

    /// The unique that the item must have; 0 for any.
    fn cas(&self) -> u64 {
        match self.unsigned(b'C') {
            None => 0,
            Some(_) if self.verb == Verb::Set && self.mode() == b'E' => 0,
            Some(0) => u64::MAX,
            Some(cas) => cas,
        }
    }

    fn opcode(&self) -> u8 {
        match (self.verb, self.mode()) {
            (Verb::Get | Verb::Debug, _) if !self.has(b'T') => opcode::GET,
            (Verb::Get | Verb::Debug, _) if self.has(b'v') || self.has(b's') => opcode::GAT,
            (Verb::Get | Verb::Debug, _) => opcode::TOUCH,
            (Verb::Set, b'E') => opcode::ADD,
            (Verb::Set, b'A') => opcode::APPEND,
            (Verb::Set, b'P') => opcode::PREPEND,
            (Verb::Set, b'R') if self.cas() == 0 => opcode::REPLACE,
            (Verb::Set, _) => opcode::SET,
            (Verb::Delete, _) => opcode::DELETE,
            (Verb::Arithmetic, b'D' | b'-') => opcode::DECREMENT,
            (Verb::Arithmetic, _) => opcode::INCREMENT,
        }
    }

    /// FNV-1a: tells this request from others.
    fn opaque(&self) -> u32 {
        self.line.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    }

    /// Appends the packet; behind that of `ms` the caller sends its block, without CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        let key = if self.is_base64 {
            Cow::Owned(BASE64.decode(self.key).unwrap_or_default())
        } else {
            Cow::Borrowed(self.key)
        };
        let opcode = self.opcode();
        let mut extras = [0; 20];
        let mut extras_len = 0;
        let mut extra = |bytes: &[u8]| {
            if let Some(room) = extras.get_mut(extras_len..extras_len + bytes.len()) {
                room.copy_from_slice(bytes);
                extras_len += bytes.len();
            }
        };
        match opcode {
            opcode::GAT | opcode::TOUCH => extra(&self.exptime(b'T').unwrap_or_default().to_be_bytes()),
            opcode::SET | opcode::ADD | opcode::REPLACE => {
                #[expect(clippy::cast_possible_truncation, reason = "such nodes keep 32 bits of it")]
                let flags = self.unsigned(b'F').unwrap_or_default() as u32;
                extra(&flags.to_be_bytes());
                extra(&self.exptime(b'T').unwrap_or_default().to_be_bytes());
            }
            opcode::INCREMENT | opcode::DECREMENT => {
                extra(&self.unsigned(b'D').unwrap_or(1).to_be_bytes());
                extra(&self.unsigned(b'J').unwrap_or_default().to_be_bytes());
                extra(&self.exptime(b'N').unwrap_or(NEVER_CREATE).to_be_bytes());
            }
            _ => {}
        }
        let body_len = extras_len + key.len() + self.len;
        let (opaque, cas) = (self.opaque(), self.cas());
        write_head(
            &Head { opcode, key_len: key.len(), extras_len, status: 0, body_len, opaque, cas },
            REQUEST_MAGIC,
            out,
        );
        out.extend_from_slice(extras.get(..extras_len).unwrap_or_default());
        out.extend_from_slice(&key);
    }

    /// What follows the head of the reply; `None`: it cannot be the reply to this.
    #[must_use]
    pub fn body(&self, head: &Head) -> Option<Body> {
        let Head { key_len, extras_len, body_len, .. } = *head;
        if (head.opcode, head.opaque) != (self.opcode(), self.opaque()) || key_len > 0 {
            return None;
        }
        let small = |len: usize| (extras_len == 0 && body_len == len).then_some(Body::Small(len));
        match self.verb {
            _ if head.status != Status::Ok.code() => {
                (extras_len == 0 && body_len <= MAX_TEXT).then_some(Body::Small(body_len))
            }
            Verb::Get | Verb::Debug => {
                let most = if head.opcode == opcode::TOUCH { 0 } else { MAX_VALUE };
                let len = body_len.checked_sub(FLAGS_BYTES).filter(|len| extras_len == FLAGS_BYTES && *len <= most)?;
                Some(Body::Value(len))
            }
            Verb::Arithmetic => small(8),
            Verb::Set | Verb::Delete => small(0),
        }
    }

    /// Appends the line that stands for the head of a read that was answered, and its CRLF. `packet` is its first
    /// [`Body::needed`] bytes, `len` the bytes of its value.
    pub fn announce(&self, head: &Head, packet: &[u8], len: usize, out: &mut Vec<u8>) {
        let flags =
            packet.get(HEADER_BYTES..).and_then(<[u8]>::first_chunk).map_or(0, |flags| u32::from_be_bytes(*flags));
        if self.tells_value() {
            out.extend_from_slice(b"VA ");
            number::append(out, len as u64);
        } else {
            out.extend_from_slice(b"HD");
        }
        self.return_flags(Some((flags, head.cas, len)), out);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the line that stands for any other reply, and its CRLF; and to `block` the one that follows the line, with
    /// its CRLF. `packet` is all of it.
    pub fn say(&self, head: &Head, packet: &[u8], out: &mut Vec<u8>, block: &mut Vec<u8>) {
        let body = packet.get(HEADER_BYTES..).unwrap_or_default();
        match self.word(head.status) {
            Some(b"HD") if self.verb == Verb::Arithmetic && self.tells_value() => {
                number::append(block, body.first_chunk().map_or(0, |number| u64::from_be_bytes(*number)));
                out.extend_from_slice(b"VA ");
                number::append(out, block.len() as u64);
                block.extend_from_slice(b"\r\n");
                self.return_flags(Some((0, head.cas, 0)), out);
            }
            Some(b"HD") => {
                out.extend_from_slice(b"HD");
                self.return_flags(Some((0, head.cas, self.len)), out);
            }
            Some(word) => {
                out.extend_from_slice(word);
                // 1.6.18 tells no unique but with `ms`.
                let told = (self.verb == Verb::Set).then_some((0, 0, self.len));
                self.return_flags(told, out);
            }
            None => self.error(head.status, body, out),
        }
        out.extend_from_slice(b"\r\n");
    }

    /// What a status means here; `None` for an error.
    fn word(&self, status: u16) -> Option<&'static [u8]> {
        const OK: u16 = Status::Ok.code();
        const NOT_FOUND: u16 = Status::NotFound.code();
        const EXISTS: u16 = Status::Exists.code();
        const NOT_STORED: u16 = Status::NotStored.code();
        Some(match (self.verb, status) {
            (_, OK) => b"HD",
            (Verb::Get, NOT_FOUND) => b"EN",
            // Without a unique: nothing to replace, or there already.
            (Verb::Set, NOT_FOUND | EXISTS) if self.cas() == 0 => b"NS",
            (Verb::Set | Verb::Delete | Verb::Arithmetic, NOT_FOUND) => b"NF",
            (Verb::Set | Verb::Delete | Verb::Arithmetic, EXISTS) => b"EX",
            (Verb::Set | Verb::Arithmetic, NOT_STORED) => b"NS",
            _ => return None,
        })
    }

    fn error(&self, status: u16, body: &[u8], out: &mut Vec<u8>) {
        const TOO_LARGE_STATUS: u16 = Status::TooLarge.code();
        const NON_NUMERIC: u16 = Status::NonNumeric.code();
        const OUT_OF_MEMORY: u16 = Status::OutOfMemory.code();
        match status {
            TOO_LARGE_STATUS => out.extend_from_slice(TOO_LARGE.as_bytes()),
            NON_NUMERIC => out.extend_from_slice(b"CLIENT_ERROR cannot increment or decrement non-numeric value"),
            OUT_OF_MEMORY if self.verb == Verb::Set => {
                out.extend_from_slice(b"SERVER_ERROR out of memory storing object");
            }
            OUT_OF_MEMORY => out.extend_from_slice(b"SERVER_ERROR out of memory"),
            _ => {
                out.extend_from_slice(b"SERVER_ERROR ");
                // Nothing that it says may end the line.
                out.extend(body.iter().map(|byte| if matches!(byte, b' '..=b'~') { *byte } else { b'?' }));
            }
        }
    }

    /// What is told of flags, unique and size, and whose answer it is, in the order asked.
    fn return_flags(&self, item: Option<(u32, u64, usize)>, out: &mut Vec<u8>) {
        let number = |letter: &[u8], value: u64, out: &mut Vec<u8>| {
            out.extend_from_slice(letter);
            number::append(out, value);
        };
        for flag in self.flags {
            match (flag.first(), item) {
                (Some(b'f'), Some((flags, ..))) if self.verb == Verb::Get => number(b" f", flags.into(), out),
                (Some(b'c'), Some((_, cas, _))) if self.verb != Verb::Delete => number(b" c", cas, out),
                (Some(b's'), Some((.., len))) => number(b" s", len as u64, out),
                (Some(b'O'), _) => {
                    out.push(b' ');
                    out.extend_from_slice(flag);
                }
                (Some(b'k'), _) => {
                    out.extend_from_slice(b" k");
                    out.extend_from_slice(self.key);
                    if self.is_base64 {
                        out.extend_from_slice(b" b");
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "meta_tests.rs"]
mod tests;
