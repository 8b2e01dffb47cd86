//! Binary requests in the text of nodes from 1.6.10 on, and what those answer in binary.
//!
//! | binary | line to the node | its answer |
//! |---|---|---|
//! | Get, GetK, GAT, GATK | merged into `gets` and `gats` by the caller; an odd key: `mg <key> b v f c [T<exptime>]` | `VALUE k flags n cas`, `VA n f<flags> c<cas>`; nothing, `EN` |
//! | Touch | `mg <key> f c T<exptime>` | `HD f<flags> c<cas>`, `EN` |
//! | Set, Add, Replace | `ms <key> <n> F<flags> T<exptime> c [ME] [MR]`, with a cas `C<cas>` in place of the mode | `HD c<cas>`, `NS`, `EX`, `NF` |
//! | Append, Prepend | `ms <key> <n> c MA` or `MP` `[C<cas>]` | the same |
//! | Delete | `md <key> [C<cas>]` | `HD`, `EX`, `NF` |
//! | Increment, Decrement | `ma <key> MI` or `MD` `D<delta> v c [N<exptime> J<initial>] [C<cas>]` | `VA n c<cas>` and the digits, `EX`, `NF`, an error |
//! | Flush | `flush_all [delay]` to every node | `OK` |
//!
//! From 1.6.10 on, and not from 1.6.0: before it `ms` has its length in a flag `S`, and a line that it refuses lets the
//! block behind it be read as commands; keys in base64 are as old.
//!
//! memcached's binary side takes a cas to mean "compare and store" whatever the verb: an Add with the right one stores.
//! So the mode is left out then (`ms ME C` does not store).
//!
//! One thing differs: where a node finds a value too large, `ms` drops the old one in every mode, binary only for Set.

use super::super::request::StoreVerb;
use super::super::{MAX_KEY, number};
use super::opcode;
use super::reply::{Reply, Status};
use super::request::{Action, Packet};
use data_encoding::BASE64;

/// Longest key, in bytes, that base64 can say: its 248 characters are a key of text, and 187 bytes would make 252.
pub const MAX_ODD_KEY: usize = 186;

/// Characters of the longest key in base64.
const MAX_BASE64: usize = 336;

/// An expiry as text can say it: signed there, unsigned in binary. Above 2147483647 it is that, for memcached's text side
/// would expire at once where its binary side means a time after 2038.
#[must_use]
pub fn text_exptime(exptime: u32) -> i32 {
    i32::try_from(exptime).unwrap_or(i32::MAX)
}

/// Why a packet has no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The key needs base64 and is above [`MAX_ODD_KEY`]: a node would refuse the line and take the block behind it for
    /// commands. [`Status::InvalidArguments`], and the connection stays open.
    #[error("a key of more than 186 bytes that needs base64")]
    KeyTooLong,
    /// No node is asked by a line of one key: noop, version, stat, quit, config.
    #[error("a packet that is answered here")]
    AnsweredHere,
}

/// Whether text cannot carry a key: it has a space, a control character or DEL. It travels in base64, and is never merged.
#[must_use]
pub fn is_odd(key: &[u8]) -> bool {
    key.iter().any(|&byte| byte <= b' ' || byte == 0x7f)
}

/// Appends the line that asks a node, with its CRLF; nothing when refused. Behind an `ms` line the caller sends
/// [`Packet::value_len`] bytes of block and CRLF. Never more than 450 bytes.
///
/// A read is written as `mg` whatever its key; those that are not [odd](is_odd) are cheaper merged.
///
/// # Errors
/// Why there is no line.
pub fn write_line(packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), Refused> {
    write(packet, MAX_ODD_KEY, out)
}

/// The same for a line that does not travel as it is ([`meta`](super::meta)): its key may be of any length.
///
/// # Errors
/// As [`write_line`], but for [`Refused::KeyTooLong`].
pub fn write_long_line(packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), Refused> {
    write(packet, MAX_KEY, out)
}

/// `most` is the longest key, in bytes, that may be in base64.
fn write(packet: &Packet<'_>, most: usize, out: &mut Vec<u8>) -> Result<(), Refused> {
    match packet.action {
        Action::Read { key, exptime, .. } => {
            begin(b"mg ", key, None, most, out)?;
            out.extend_from_slice(b" v f c");
            if let Some(exptime) = exptime {
                number(b" T", u64::from(text_exptime(exptime).unsigned_abs()), out);
            }
        }
        Action::Touch { key, exptime } => {
            begin(b"mg ", key, None, most, out)?;
            number(b" f c T", u64::from(text_exptime(exptime).unsigned_abs()), out);
        }
        Action::Store { verb, key, flags, exptime } => {
            begin(b"ms ", key, Some(packet.value_len), most, out)?;
            number(b" F", u64::from(flags), out);
            number(b" T", u64::from(text_exptime(exptime).unsigned_abs()), out);
            out.extend_from_slice(b" c");
            match verb {
                _ if packet.cas != 0 => {}
                StoreVerb::Add => out.extend_from_slice(b" ME"),
                StoreVerb::Replace => out.extend_from_slice(b" MR"),
                _ => {}
            }
            compare(packet.cas, out);
        }
        Action::Join { verb, key } => {
            begin(b"ms ", key, Some(packet.value_len), most, out)?;
            out.extend_from_slice(if verb == StoreVerb::Append { b" c MA" } else { b" c MP" });
            compare(packet.cas, out);
        }
        Action::Delete { key } => {
            begin(b"md ", key, None, most, out)?;
            compare(packet.cas, out);
        }
        Action::Count { incr, key, delta, initial } => {
            begin(b"ma ", key, None, most, out)?;
            number(if incr { b" MI D" } else { b" MD D" }, delta, out);
            out.extend_from_slice(b" v c");
            if let Some((initial, exptime)) = initial {
                number(b" N", u64::from(text_exptime(exptime).unsigned_abs()), out);
                number(b" J", initial, out);
            }
            compare(packet.cas, out);
        }
        Action::Flush { delay } => match delay {
            None | Some(0) => out.extend_from_slice(b"flush_all"),
            Some(delay) => number(b"flush_all ", u64::from(text_exptime(delay).unsigned_abs()), out),
        },
        Action::Noop | Action::Version | Action::Stat { .. } | Action::Quit | Action::Config { .. } => {
            return Err(Refused::AnsweredHere);
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends word, key, the length of a block, and the flag that says the key is in base64.
fn begin(word: &[u8], key: &[u8], block_len: Option<usize>, most: usize, out: &mut Vec<u8>) -> Result<(), Refused> {
    let mut text = [0; MAX_BASE64];
    let odd = is_odd(key);
    let key = if odd {
        if key.len() > most {
            return Err(Refused::KeyTooLong);
        }
        let text = text.get_mut(..BASE64.encode_len(key.len())).ok_or(Refused::KeyTooLong)?;
        BASE64.encode_mut(key, text);
        &*text
    } else {
        key
    };
    out.extend_from_slice(word);
    out.extend_from_slice(key);
    if let Some(len) = block_len {
        number(b" ", len as u64, out);
    }
    if odd {
        out.extend_from_slice(b" b");
    }
    Ok(())
}

fn compare(cas: u64, out: &mut Vec<u8>) {
    if cas != 0 {
        number(b" C", cas, out);
    }
}

fn number(flag: &[u8], value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(flag);
    number::append(out, value);
}

/// Flags and cas of a value, from a node's `VALUE <key> <flags> <bytes> [<cas>]`, `VA <bytes> …` or `HD …`; `None` for any
/// other line. What it does not say is 0. Of flags above 32 bits, which newer nodes may have, binary carries the low half.
#[must_use]
pub fn flags_and_cas(line: &[u8]) -> Option<(u32, u64)> {
    let mut words = words(line);
    let (flags, cas) = match words.next()? {
        b"VALUE" => {
            let flags = number::digits(words.nth(1)?)?;
            (flags, words.nth(1).map_or(Some(0), number::digits)?)
        }
        b"VA" => returned(words.skip(1))?,
        b"HD" => returned(words)?,
        _ => return None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "as memcached's binary side has it")]
    let flags = flags as u32;
    Some((flags, cas))
}

/// The flags `f` and `c` of a meta answer.
fn returned<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<(u64, u64)> {
    let (mut flags, mut cas) = (0, 0);
    for word in words {
        match word {
            [b'f', digits @ ..] => flags = number::digits(digits)?,
            [b'c', digits @ ..] => cas = number::digits(digits)?,
            _ => {}
        }
    }
    Some((flags, cas))
}

/// Between any number of spaces: 1.6.15 has two in places, or one at the end.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ').filter(|word| !word.is_empty())
}

/// Which packet an answer belongs to: all that is kept of it while a node is asked.
///
/// Every method appends one whole packet, or nothing where the opcode is quiet about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    opcode: u8,
    opaque: u32,
}

impl Form {
    /// Of a packet with these two.
    #[must_use]
    pub const fn new(opcode: u8, opaque: u32) -> Self {
        Self { opcode, opaque }
    }

    /// As the client sent it.
    #[must_use]
    pub const fn opcode(self) -> u8 {
        self.opcode
    }

    /// Returned unchanged.
    #[must_use]
    pub const fn opaque(self) -> u32 {
        self.opaque
    }

    /// Whether a miss is answered by silence.
    #[must_use]
    pub const fn is_hidden_miss(self) -> bool {
        matches!(self.opcode, opcode::GETQ | opcode::GETKQ | opcode::GATQ | opcode::GATKQ)
    }

    const fn returns_key(self) -> bool {
        matches!(self.opcode, opcode::GETK | opcode::GETKQ | opcode::GATK | opcode::GATKQ)
    }

    /// Says what a node's line says, given without its CRLF, about anything but a value or a number: `HD`, `NS`, `EX`,
    /// `NF`, `EN`, `OK`, the classic words, an error. (`EN` to a read is better said by [`Form::miss`], which knows the
    /// key.) A line that is none of these becomes an error with it as text.
    pub fn answer(self, line: &[u8], out: &mut Vec<u8>) {
        match words(line).next().unwrap_or_default() {
            b"HD" if self.opcode == opcode::TOUCH => match flags_and_cas(line) {
                Some((flags, cas)) => self.value_head(&[], flags, cas, 0, out),
                None => self.error(line, out),
            },
            b"HD" => self.done(returned(words(line)).map_or(0, |(_, cas)| cas), out),
            b"OK" | b"STORED" | b"DELETED" | b"TOUCHED" => self.done(0, out),
            b"EN" | b"END" => self.miss(&[], out),
            b"NF" | b"NOT_FOUND" => self.refuse(Status::NotFound, out),
            b"EX" | b"EXISTS" => self.refuse(Status::Exists, out),
            b"NS" | b"NOT_STORED" => self.refuse(
                match self.opcode {
                    opcode::ADD | opcode::ADDQ => Status::Exists,
                    opcode::REPLACE | opcode::REPLACEQ => Status::NotFound,
                    _ => Status::NotStored,
                },
                out,
            ),
            _ => self.error(line, out),
        }
    }

    /// Success with nothing but a cas to say; hidden where quiet.
    pub fn done(self, cas: u64, out: &mut Vec<u8>) {
        if !opcode::is_quiet(self.opcode) {
            Reply { cas, ..Reply::ok(self.opcode, self.opaque) }.write(out);
        }
    }

    /// The number behind a node's `VA n c<cas>`; hidden where quiet.
    pub fn number(self, line: &[u8], digits: &[u8], out: &mut Vec<u8>) {
        match (flags_and_cas(line), number::digits(digits.trim_ascii_end())) {
            (Some(_), Some(_)) if opcode::is_quiet(self.opcode) => {}
            (Some((_, cas)), Some(number)) => {
                Reply { cas, value: &number.to_be_bytes(), ..Reply::ok(self.opcode, self.opaque) }.write(out);
            }
            _ => self.error(line, out),
        }
    }

    /// No such key: hidden where quiet, the key in place of the text where the opcode returns it.
    pub fn miss(self, key: &[u8], out: &mut Vec<u8>) {
        let miss = Reply::error(self.opcode, self.opaque, Status::NotFound);
        if self.is_hidden_miss() {
            return;
        }
        if self.returns_key() && !key.is_empty() { Reply { key, value: &[], ..miss } } else { miss }.write(out);
    }

    /// An error line of a node or of our own, with or without its first word, in memcached's status for it; any other is
    /// 0084 with its text. Quiet opcodes say errors, too.
    pub fn error(self, text: &[u8], out: &mut Vec<u8>) {
        let text = text.strip_prefix(b"SERVER_ERROR ").or(text.strip_prefix(b"CLIENT_ERROR ")).unwrap_or(text);
        let status = match text {
            _ if text.starts_with(b"object too large") => Status::TooLarge,
            // memcached says what it had no memory for.
            _ if text.get(..13).is_some_and(|text| text.eq_ignore_ascii_case(b"out of memory")) => Status::OutOfMemory,
            b"cannot increment or decrement non-numeric value" => Status::NonNumeric,
            b"flush_all not allowed" => Status::AuthError,
            _ => Status::Internal,
        };
        let value = match (status, text) {
            // What it says in binary when there is no memory for a value.
            (Status::OutOfMemory, b"out of memory storing object") => b"Out of memory allocating item",
            (Status::OutOfMemory | Status::Internal, text) => text,
            _ => status.text().as_bytes(),
        };
        Reply { value, ..Reply::error(self.opcode, self.opaque, status) }.write(out);
    }

    /// `status` in memcached's words.
    pub fn refuse(self, status: Status, out: &mut Vec<u8>) {
        Reply::error(self.opcode, self.opaque, status).write(out);
    }

    /// What stands in front of a value of `len` bytes that was read: header, flags, and the key where the opcode returns
    /// it. The caller sends the value behind it.
    pub fn value_head(self, key: &[u8], flags: u32, cas: u64, len: usize, out: &mut Vec<u8>) {
        let extras = flags.to_be_bytes();
        let key = if self.returns_key() { key } else { &[] };
        Reply { cas, extras: &extras, key, ..Reply::ok(self.opcode, self.opaque) }.write_head(len, out);
    }
}

impl From<&Packet<'_>> for Form {
    fn from(packet: &Packet<'_>) -> Self {
        Self::new(packet.opcode, packet.opaque)
    }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
