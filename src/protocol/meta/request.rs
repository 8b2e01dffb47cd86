//! What a meta command asks for: `<verb> <key> [<length>] <flag>*`.
//!
//! Everything is checked as memcached 1.6.18 checks it, in its order and with its words, before anything is sent: from 1.6.15
//! to 1.6.39 a node takes the block of a refused `ms` for commands when the key is too long, the flags are too many or the
//! length is bad.
//!
//! Stricter than memcached: base64 is read only as encoders write it (memcached ignores what follows a padding, and some
//! bytes that are no base64), so that the key that is routed is the key that is stored; an opaque that is too long is
//! refused before anything is changed (memcached has counted by then). A key in base64 may stand for bytes with a line end
//! in them. A node echoes the key of an item that was not stored as base64 (it was created by `mg N`, or appended to) as it
//! is, and one answer would be two lines, the second of the client's choosing: such a key is never asked back
//! ([`Meta::keeps_key`]), and `me` for it is refused.

use data_encoding::BASE64;

use super::super::request::{self, Block, Keys, Refusal};
use super::super::{MAX_KEY, number};

/// Longest opaque token, in bytes, its letter not counted. `doc/protocol.txt` says 32, all versions take 31.
const MAX_OPAQUE: usize = 31;

/// Most flags of a request without a block, 16 of one with: of the 20 places of `MFLAG_MAX_OPT_LENGTH` three are the verb,
/// the key and the end, and `ms` has its length in one.
const MAX_FLAGS: usize = 17;

/// Largest length memcached takes on a storage line (`INT_MAX - 2`).
const MAX_LENGTH: i64 = 2_147_483_645;

const ERROR: Refusal<'static> = Refusal::new("ERROR");
const BAD_FORMAT: Refusal<'static> = Refusal::new(BAD_LINE);
const BAD_LINE: &str = "CLIENT_ERROR bad command line format";
const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
const BAD_FLAG: &str = "CLIENT_ERROR invalid flag";
const DUPLICATE: &str = "CLIENT_ERROR duplicate flag";
/// What `md` and `ma` say whatever is wrong with a flag.
const BAD_OR_DUPLICATE: &str = "CLIENT_ERROR invalid or duplicate flag";

/// The meta commands that name a key. `mn` is [`Request::MetaNoop`](request::Request::MetaNoop).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `mg`
    Get,
    /// `ms`
    Set,
    /// `md`
    Delete,
    /// `ma`
    Arithmetic,
    /// `me`
    Debug,
}

impl Verb {
    /// By the word on the wire.
    #[must_use]
    pub const fn of(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"mg" => Self::Get,
            b"ms" => Self::Set,
            b"md" => Self::Delete,
            b"ma" => Self::Arithmetic,
            b"me" => Self::Debug,
            _ => return None,
        })
    }

    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Get => "mg",
            Self::Set => "ms",
            Self::Delete => "md",
            Self::Arithmetic => "ma",
            Self::Debug => "me",
        }
    }
}

/// A valid meta request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta<'a> {
    /// Which of the five.
    pub verb: Verb,
    /// As on the wire: 1 to 250 bytes without space, LF or NUL; base64 where `is_base64`.
    pub key: &'a [u8],
    /// Flag `b`: the key is the bytes that `key` encodes.
    pub is_base64: bool,
    /// `ms`: bytes of the data block, its closing CRLF not counted; else 0.
    pub len: usize,
    /// The rest of the line: every flag, `q` too, each checked ([`Meta::flags`]).
    pub flags: &'a [u8],
    /// Flag `q`: an expected answer is not sent ([`Form::hides`](super::super::form::Form::hides)). Never forwarded.
    pub quiet: bool,
    /// Flag `v`: a hit is answered by `VA` and a block.
    pub value: bool,
    /// It changes something whose loss must be an error: `ms`, `md`, `ma`, and `mg` with N, R or E. `mg` with T counts as
    /// the read that `gat` is.
    pub writes: bool,
    /// `mg` with flag `k` that is not forwarded since the key has a line end in it; [`Meta::relay`] puts it into the answer.
    pub keeps_key: bool,
    /// Flag `C`: done only if the unique matches (`ms`, `md`, `ma`).
    pub is_conditional: bool,
    /// Flag `I`: the value is marked stale instead of removed (`md`), or may be replaced by an older one (`ms`).
    pub invalidates: bool,
    /// Flag `N`: what is missing is created (`mg`, `ma`; `ms` that appends, from 1.6.20 on).
    pub creates: bool,
    /// The letter of flag `M`; `ms`: `S`, `E`, `A`, `P` or `R`, `ma`: `I`, `+`, `D` or `-`, where none is given the first.
    /// No meaning elsewhere.
    pub mode: u8,
}

impl<'a> Meta<'a> {
    /// The flags in the order given, each with its token: `T30`.
    #[must_use]
    pub const fn flags(&self) -> Keys<'a> {
        Keys::new(self.flags)
    }

    /// The token of a flag, empty where it has none; `None` where it is not given.
    #[must_use]
    pub fn token(&self, flag: u8) -> Option<&'a [u8]> {
        self.flags().find_map(|word| word.split_first().filter(|(letter, _)| **letter == flag).map(|(_, token)| token))
    }

    /// Appends the line as it is sent to a node, CRLF included: single spaces, a canonical length, no `q`, and no `v` where
    /// nobody is told the value ([`Meta::tells_value`]).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.verb.word().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.key);
        if self.verb == Verb::Set {
            out.push(b' ');
            number::append(out, self.len as u64);
        }
        if self.verb == Verb::Debug {
            // All else is ignored, and `b` is seen in this place only.
            out.extend_from_slice(if self.is_base64 { b" b\r\n" } else { b"\r\n" });
            return;
        }
        let mut bare = true;
        let forwarded = |flag: &&[u8]| match flag.first() {
            Some(b'q') => false,
            Some(b'k') => !self.keeps_key,
            Some(b'v') => self.tells_value(),
            _ => true,
        };
        for flag in self.flags().filter(forwarded) {
            out.push(b' ');
            out.extend_from_slice(flag);
            bare = false;
        }
        if bare && self.verb == Verb::Get {
            // 1.6.15 refuses `mg` without a flag; this one every version takes and ignores.
            out.extend_from_slice(b" P");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether its success is told with a value: flag `v`, but for an `ma` with `q`.
    #[must_use]
    pub const fn tells_value(&self) -> bool {
        self.value && !(self.quiet && matches!(self.verb, Verb::Arithmetic))
    }

    /// What the request is routed by: the bytes that a base64 key stands for (decoded into `buffer`), else the key itself.
    #[must_use]
    pub fn routing_key<'b>(&'b self, buffer: &'b mut [u8; MAX_KEY]) -> &'b [u8] {
        if !self.is_base64 {
            return self.key;
        }
        decode_key(self.key, buffer).unwrap_or(self.key)
    }

    /// Appends what 1.6.18 answers when the key is missing: `EN`, for `mg` with the key and the opaque where they are asked
    /// for, CRLF included. 1.6.15 leaves both out.
    pub fn soft_miss(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"EN");
        if self.verb == Verb::Get {
            self.identify(out);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether a miss is told with more than its two letters.
    #[must_use]
    pub fn tells_misses(&self) -> bool {
        self.verb == Verb::Get && self.flags().any(|flag| matches!(flag.first(), Some(b'k' | b'O')))
    }

    /// Appends what tells a client which request is answered: opaque and key, where they are asked for, in the order asked.
    pub fn identify(&self, out: &mut Vec<u8>) {
        for flag in self.flags() {
            match flag.first() {
                Some(b'O') => {
                    out.push(b' ');
                    out.extend_from_slice(flag);
                }
                Some(b'k') => self.echo_key(out),
                _ => {}
            }
        }
    }

    /// Appends the return flag `k` as memcached does: with `b` behind a key in base64.
    pub fn echo_key(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b" k");
        out.extend_from_slice(self.key);
        if self.is_base64 {
            out.extend_from_slice(b" b");
        }
    }

    /// Appends a node's answer line (CRLF included) as the client gets it.
    pub fn relay(&self, line: &[u8], out: &mut Vec<u8>) {
        let told = self.keeps_key && [b"HD", b"VA", b"EN"].iter().any(|word| line.starts_with(*word));
        match line.strip_suffix(b"\r\n").filter(|_| told) {
            Some(answer) => {
                out.extend_from_slice(answer);
                self.echo_key(out);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
}

/// Reads one meta line (already [trimmed](super::super::text::request::trim)). `max_value` is the largest data block, in
/// bytes, that is forwarded.
///
/// # Errors
/// The answer the client gets instead, and what to do with the bytes behind the line. `q` hides none of them.
pub fn parse(line: &[u8], max_value: usize) -> Result<Meta<'_>, Refusal<'_>> {
    let mut words = Keys::new(line);
    let verb = words.next().and_then(Verb::of).ok_or(ERROR)?;
    let Some(key) = words.next() else {
        return Err(match verb {
            Verb::Debug => BAD_FORMAT,
            // A block may follow whose length cannot be told.
            Verb::Set => ERROR.with_block(Block::Unknown),
            _ => ERROR,
        });
    };
    match verb {
        Verb::Set => set(key, words, max_value),
        Verb::Debug => debug(key, words),
        _ => {
            if key.len() > MAX_KEY {
                return Err(BAD_FORMAT);
            }
            let found = Flags::read(verb, key, words).map_err(Refusal::new)?;
            Ok(found.request(verb, key, 0, words))
        }
    }
}

fn debug<'a>(key: &'a [u8], rest: Keys<'a>) -> Result<Meta<'a>, Refusal<'a>> {
    let is_base64 = rest.first(1).next().is_some_and(|flag| flag == b"b");
    if key.len() > MAX_KEY {
        return Err(BAD_FORMAT);
    }
    if is_base64 && decode_key(key, &mut [0; MAX_KEY]).is_none_or(|key| key.contains(&b'\n')) {
        return Err(BAD_FORMAT);
    }
    Ok(Flags { is_base64, ..Flags::default() }.request(Verb::Debug, key, 0, rest))
}

fn set<'a>(key: &'a [u8], mut rest: Keys<'a>, max_value: usize) -> Result<Meta<'a>, Refusal<'a>> {
    let len = match rest.next().and_then(number::signed) {
        Some(len @ 0..=MAX_LENGTH) => usize::try_from(len).ok(),
        _ => None,
    };
    // A key with spaces shifts the length away from its place; no flag begins like a number.
    let shifted = |mut flags: Keys<'a>| flags.any(|flag| matches!(flag, [b'0'..=b'9' | b'+' | b'-', ..]));
    let block = match len {
        Some(len) if !shifted(rest) => Block::Swallow(len as u64 + 2),
        _ => Block::Unknown,
    };
    let refuse = |text| Refusal::new(text).with_block(block);
    if key.len() > MAX_KEY {
        return Err(refuse(BAD_LINE));
    }
    let found = Flags::read(Verb::Set, key, rest);
    let Some(len) = len else {
        return Err(refuse(if found == Err(TOO_MANY_FLAGS) { TOO_MANY_FLAGS } else { BAD_LINE }));
    };
    let request = found.map_err(refuse)?.request(Verb::Set, key, len, rest);
    if len > max_value {
        // In every mode: memcached 1.6.18 asks for none.
        return Err(Refusal { stale: Some(key), stale_is_base64: request.is_base64, ..refuse(request::TOO_LARGE) });
    }
    Ok(request)
}

const TOO_MANY_FLAGS: &str = "CLIENT_ERROR options flags too long";

/// What the flags of a line say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flags {
    is_base64: bool,
    has_line_end: bool,
    asks_key: bool,
    quiet: bool,
    value: bool,
    changes_when_read: bool,
    is_conditional: bool,
    invalidates: bool,
    creates: bool,
    mode: Option<u8>,
}

impl Flags {
    /// Checks them in memcached's order: how many, then one after the other; a letter that is unknown or comes twice ends
    /// it, of several bad tokens the last one is told, then mode and opaque.
    fn read(verb: Verb, key: &[u8], rest: Keys<'_>) -> Result<Self, &'static str> {
        let most = if verb == Verb::Set { MAX_FLAGS - 1 } else { MAX_FLAGS };
        if rest.into_iter().nth(most).is_some() {
            return Err(if verb == Verb::Get { "CLIENT_ERROR options flags are too long" } else { TOO_MANY_FLAGS });
        }
        let short = matches!(verb, Verb::Delete | Verb::Arithmetic);
        let mut found = Self::default();
        let mut seen = 0_u128;
        let mut bad_token = None;
        for flag in rest {
            let Some((&letter, token)) = flag.split_first() else { continue };
            let place = 1_u128.checked_shl(u32::from(letter)).filter(|_| letter < 127).unwrap_or(u128::MAX);
            if seen & place != 0 || place == u128::MAX {
                return Err(if short { BAD_OR_DUPLICATE } else { DUPLICATE });
            }
            seen |= place;
            let bad = found.flag(letter, token, key);
            if bad == Some(BAD_FLAG) {
                return Err(if short { BAD_OR_DUPLICATE } else { BAD_FLAG });
            }
            // A bad F has no words of its own.
            bad_token = if bad == Some(BAD_LINE) { bad_token.or(bad) } else { bad.or(bad_token) };
        }
        if let Some(text) = bad_token {
            return Err(if short { BAD_OR_DUPLICATE } else { text });
        }
        match (verb, found.mode) {
            (Verb::Set, Some(mode)) if !b"EAPRS".contains(&mode) => {
                return Err("CLIENT_ERROR invalid mode for ms M token");
            }
            (Verb::Arithmetic, Some(mode)) if !b"I+D-".contains(&mode) => {
                return Err("CLIENT_ERROR invalid mode for ma M token");
            }
            _ => {}
        }
        if rest.into_iter().any(|flag| flag.starts_with(b"O") && flag.len() > 1 + MAX_OPAQUE) {
            return Err("CLIENT_ERROR opaque token too long");
        }
        Ok(found)
    }

    /// One flag; what is wrong with it. memcached takes every letter with every command.
    fn flag(&mut self, letter: u8, token: &[u8], key: &[u8]) -> Option<&'static str> {
        let unsigned = number::unsigned(token).is_some();
        match letter {
            b'b' => {
                self.is_base64 = true;
                let mut buffer = [0; MAX_KEY];
                let Some(key) = decode_key(key, &mut buffer) else { return Some("CLIENT_ERROR error decoding key") };
                self.has_line_end = key.contains(&b'\n');
            }
            b'k' => self.asks_key = true,
            b'q' => self.quiet = true,
            b'v' => self.value = true,
            b'I' => self.invalidates = true,
            b'N' | b'R' | b'T' => {
                self.creates |= letter == b'N';
                self.changes_when_read |= letter != b'T';
                return number::signed(token).is_none().then_some(BAD_TOKEN);
            }
            b'C' => {
                self.is_conditional = true;
                return (!unsigned).then_some(BAD_TOKEN);
            }
            // From 1.6.27 on: the unique that the item gets.
            b'E' => {
                self.changes_when_read = true;
                return (!unsigned).then_some(BAD_TOKEN);
            }
            b'F' => return (!unsigned).then_some(BAD_LINE),
            b'J' => return (!unsigned).then_some("CLIENT_ERROR invalid numeric initial value"),
            b'D' => return (!unsigned).then_some("CLIENT_ERROR invalid numeric delta value"),
            b'M' => match token {
                &[mode] => self.mode = Some(mode),
                _ => return Some("CLIENT_ERROR incorrect length for M token"),
            },
            // Opaque; hints for routers; what is asked for; `x` from 1.6.27 on.
            b'O' | b'P' | b'L' | b'c' | b'f' | b'h' | b'l' | b's' | b't' | b'u' | b'x' => {}
            _ => return Some(BAD_FLAG),
        }
        None
    }

    fn request<'a>(self, verb: Verb, key: &'a [u8], len: usize, flags: Keys<'a>) -> Meta<'a> {
        Meta {
            verb,
            key,
            is_base64: self.is_base64,
            len,
            flags: flags.rest(),
            quiet: self.quiet,
            value: self.value,
            writes: match verb {
                Verb::Get => self.changes_when_read,
                Verb::Debug => false,
                Verb::Set | Verb::Delete | Verb::Arithmetic => true,
            },
            keeps_key: verb == Verb::Get && self.asks_key && self.has_line_end,
            is_conditional: self.is_conditional,
            invalidates: self.invalidates,
            creates: self.creates,
            mode: self.mode.unwrap_or(if verb == Verb::Arithmetic { b'I' } else { b'S' }),
        }
    }
}

/// The key of a line as it is sent, where that is in base64: the bytes that it stands for.
#[must_use]
pub fn encoded_key(line: &[u8]) -> Option<Vec<u8>> {
    let mut words = Keys::new(line);
    Verb::of(words.next()?)?;
    let key = words.next()?;
    words.any(|flag| flag.starts_with(b"b")).then(|| BASE64.decode(key).ok())?
}

/// Appends the line that deletes a key of any bytes, which is to be one of at most 186.
pub fn write_delete(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"md ");
    out.extend_from_slice(BASE64.encode(key).as_bytes());
    out.extend_from_slice(b" b\r\n");
}

/// The bytes a key in base64 stands for, decoded into the front of `buffer`; `None` where it is not base64 as encoders write
/// it.
#[must_use]
pub fn decode_key<'b>(key: &[u8], buffer: &'b mut [u8; MAX_KEY]) -> Option<&'b [u8]> {
    // Padding within the text would begin another text, which memcached does not read.
    let padded = key.strip_suffix(b"=").unwrap_or(key);
    let text = padded.strip_suffix(b"=").unwrap_or(padded);
    if text.is_empty() || text.contains(&b'=') {
        return None;
    }
    let room = buffer.get_mut(..BASE64.decode_len(key.len()).ok()?)?;
    let len = BASE64.decode_mut(key, room).ok()?;
    buffer.get(..len)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
