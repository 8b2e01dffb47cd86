//! What a client's command line asks for.
//!
//! A line is acted on only when it is whole and valid. Whatever a refused storage line announces as
//! its data block is never taken for commands: the block is swallowed where its length is beyond
//! doubt, else the connection is closed behind the answer ([`Block`]).

use super::{MAX_KEY, number};

/// Largest length memcached takes on a storage line (`INT_MAX - 2`).
const MAX_LENGTH: i64 = 2_147_483_645;

/// What to do with a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the commands of doc/protocol.txt by their own names")]
pub enum StoreVerb {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
}

impl StoreVerb {
    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Cas => "cas",
        }
    }
}

/// A storage line: `<verb> <key> <flags> <exptime> <bytes> [<unique>] [noreply]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store<'a> {
    /// Which of the six.
    pub verb: StoreVerb,
    /// 1 to 250 bytes without space, LF or NUL.
    pub key: &'a [u8],
    /// Opaque to memcached; 1.6.18 keeps the low 32 bits.
    pub flags: u32,
    /// Seconds, or a Unix time above 30 days; truncated to 32 bits as memcached does.
    pub exptime: i32,
    /// Bytes of the data block, its closing CRLF not counted.
    pub len: usize,
    /// The unique value of `cas`, else 0.
    pub unique: u64,
    /// `noreply`: the client gets no answer. Never forwarded.
    pub quiet: bool,
}

impl Store<'_> {
    /// Appends the line as it is sent to a node: canonical numbers, no `noreply`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.verb.word().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.key);
        out.push(b' ');
        number::append(out, u64::from(self.flags));
        out.push(b' ');
        number::append_signed(out, i64::from(self.exptime));
        out.push(b' ');
        number::append(out, self.len as u64);
        if self.verb == StoreVerb::Cas {
            out.push(b' ');
            number::append(out, self.unique);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The four commands that read several keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadVerb {
    /// `get`
    Get,
    /// `gets`: values with their unique
    Gets,
    /// `gat`: as `get`, and sets a new expiry
    Gat(i32),
    /// `gats`: as `gets`, and sets a new expiry
    Gats(i32),
}

/// A command that changes one key and carries no data block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `delete <key>`
    Delete,
    /// `incr <key> <delta>`
    Incr(u64),
    /// `decr <key> <delta>`
    Decr(u64),
    /// `touch <key> <exptime>`
    Touch(i32),
}

impl Change {
    /// Appends the line as it is sent to a node.
    pub fn write(self, key: &[u8], out: &mut Vec<u8>) {
        let word: &[u8] = match self {
            Self::Delete => b"delete ",
            Self::Incr(_) => b"incr ",
            Self::Decr(_) => b"decr ",
            Self::Touch(_) => b"touch ",
        };
        out.extend_from_slice(word);
        out.extend_from_slice(key);
        match self {
            // From 1.6.40 on a last word `noreply` counts even where it is the key: the node would
            // stay silent. With the old time argument behind it the key is a key in all versions.
            Self::Delete if key == b"noreply" => out.extend_from_slice(b" 0"),
            Self::Delete => {}
            Self::Incr(delta) | Self::Decr(delta) => {
                out.push(b' ');
                number::append(out, delta);
            }
            Self::Touch(exptime) => {
                out.push(b' ');
                number::append_signed(out, i64::from(exptime));
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What `stats` is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the sub-commands by their own names")]
pub enum Stats {
    /// Without argument: the sidecar's counters and the nodes' sizes.
    General,
    /// Ours: one line per node and figure.
    Nodes,
    /// Ours: the nodes' numeric counters added up.
    Sum,
    /// Ours: the ring's name, version and shares.
    Ring,
    Items,
    Slabs,
    Settings,
    Sizes,
    Conns,
    Reset,
}

/// A valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// One of the four reads; `keys` is the rest of the line, each key checked ([`Keys`]).
    Read {
        /// Which of the four.
        verb: ReadVerb,
        /// The keys, separated by spaces.
        keys: Keys<'a>,
    },
    /// A storage command; its block follows.
    Store(Store<'a>),
    /// `delete`, `incr`, `decr` or `touch`.
    Change {
        /// Which of the four.
        change: Change,
        /// 1 to 250 bytes without space, LF or NUL.
        key: &'a [u8],
        /// `noreply`.
        quiet: bool,
    },
    /// `flush_all [delay]`
    FlushAll {
        /// Seconds to wait; `None` is the bare command.
        delay: Option<i32>,
        /// `noreply`.
        quiet: bool,
    },
    /// `verbosity <level>`: accepted and without effect.
    Verbosity {
        /// `noreply`.
        quiet: bool,
    },
    /// `version`
    Version,
    /// `stats […]`
    Stats(Stats),
    /// `mn`: the barrier of the meta protocol, `MN`.
    MetaNoop,
    /// `quit`
    Quit,
}

/// What follows a refused line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Nothing: the next line is a command.
    None,
    /// A data block of this many bytes, CRLF included, to be swallowed.
    Swallow(u64),
    /// A data block may follow whose length cannot be told: close behind the answer.
    Unknown,
}

/// A line that is not acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The answer, without CRLF; empty for none.
    pub text: &'static str,
    /// The client said `noreply`: no answer.
    pub quiet: bool,
    /// What to do with what follows.
    pub block: Block,
    /// A `set` that is too large removes the key's old value, as in memcached.
    pub stale: Option<&'a [u8]>,
}

impl Refusal<'_> {
    const fn new(text: &'static str) -> Self {
        Self { text, quiet: false, block: Block::None, stale: None }
    }

    /// Whether it is the size of the value that is refused.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.text == TOO_LARGE.text
    }

    /// The answer to a line longer than [`MAX_LINE`](super::MAX_LINE). memcached closes without a
    /// word; what the rest of the line is cannot be told, so the connection is closed here too.
    #[must_use]
    pub const fn line_too_long() -> Refusal<'static> {
        Refusal::new("CLIENT_ERROR line too long").with_block(Block::Unknown)
    }

    /// The answer to a key list for which there is no memory, in memcached's words; it closes the
    /// connection behind it too.
    #[must_use]
    pub const fn no_memory() -> Refusal<'static> {
        Refusal::new("SERVER_ERROR out of memory reading request").with_block(Block::Unknown)
    }

    const fn quiet_if(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    const fn with_block(mut self, block: Block) -> Self {
        self.block = block;
        self
    }
}

const ERROR: Refusal<'static> = Refusal::new("ERROR");
const BAD_FORMAT: Refusal<'static> = Refusal::new("CLIENT_ERROR bad command line format");
const BAD_EXPTIME: Refusal<'static> = Refusal::new("CLIENT_ERROR invalid exptime argument");
const BAD_DELTA: Refusal<'static> = Refusal::new("CLIENT_ERROR invalid numeric delta argument");
const BAD_DELETE: Refusal<'static> =
    Refusal::new("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
const TOO_LARGE: Refusal<'static> = Refusal::new("SERVER_ERROR object too large for cache");

/// The keys of a read, in the order asked, repeats included. Never longer than [`MAX_KEY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a>(&'a [u8]);

impl<'a> Keys<'a> {
    /// Those of a part of a line that was checked.
    #[must_use]
    pub const fn new(checked: &'a [u8]) -> Self {
        Self(checked)
    }

    /// What is left of the line.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The first `count` of them.
    #[must_use]
    pub fn first(self, count: usize) -> Self {
        let mut behind = self;
        if let Some(last) = count.checked_sub(1) {
            behind.nth(last);
        } else {
            return Self(&[]);
        }
        Self(self.0.get(..self.0.len() - behind.0.len()).unwrap_or_default())
    }

    /// Whether none is too long: one step a byte, however short they are.
    fn are_valid(self) -> bool {
        let mut longest = 0;
        self.0.iter().fold(0_usize, |run, byte| {
            let run = if *byte == b' ' { 0 } else { run + 1 };
            longest = longest.max(run);
            run
        });
        longest <= MAX_KEY
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&b| b != b' ')?;
        let rest = self.0.get(start..)?;
        let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        let (key, tail) = rest.split_at(end);
        self.0 = tail;
        Some(key)
    }
}

/// Cuts a line as memcached does: one CR before the LF is dropped, a NUL ends the line.
///
/// `raw` is everything before the LF.
#[inline]
#[must_use]
pub fn trim(raw: &[u8]) -> &[u8] {
    let line = raw.strip_suffix(b"\r").unwrap_or(raw);
    match memchr::memchr(0, line) {
        Some(end) => line.get(..end).unwrap_or_default(),
        None => line,
    }
}

/// Most words of a line that are looked at; the longest valid line but a key list has seven.
const MAX_WORDS: usize = 8;

/// The first words of a line, and how many there are (counted up to one more than are kept).
struct Words<'a> {
    words: [&'a [u8]; MAX_WORDS],
    count: usize,
}

impl<'a> Words<'a> {
    fn split(line: &'a [u8]) -> Self {
        let mut words = [&[] as &[u8]; MAX_WORDS];
        let mut count = 0;
        for word in Keys(line) {
            if let Some(place) = words.get_mut(count) {
                *place = word;
                count += 1;
            } else {
                count += 1;
                break;
            }
        }
        Self { words, count }
    }

    fn get(&self, i: usize) -> &'a [u8] {
        self.words.get(i).copied().unwrap_or_default()
    }

    /// memcached looks for `noreply` in the last word, whatever its place.
    fn quiet(&self) -> bool {
        self.count <= MAX_WORDS && self.get(self.count.wrapping_sub(1)) == b"noreply"
    }
}

/// Reads one command line (already [`trim`]med). `max_value` is the largest data block, in bytes,
/// that is forwarded.
///
/// # Errors
/// The answer the client gets instead, and what to do with the bytes behind the line.
#[inline]
pub fn parse(line: &[u8], max_value: usize) -> Result<Request<'_>, Refusal<'_>> {
    // Reads are most of the traffic and the only lines with more than a few words.
    let mut rest = Keys(line);
    match rest.next() {
        Some(b"get" | b"bget") => read(ReadVerb::Get, rest),
        Some(b"gets") => read(ReadVerb::Gets, rest),
        _ => parse_words(&Words::split(line), line, max_value),
    }
}

fn read<'a>(verb: ReadVerb, keys: Keys<'a>) -> Result<Request<'a>, Refusal<'a>> {
    let mut count = 0_usize;
    for key in keys {
        if key.len() > MAX_KEY {
            return Err(BAD_FORMAT);
        }
        count += 1;
    }
    match verb {
        // `gat <exptime>` alone is an empty read in 1.6: `END`.
        ReadVerb::Get | ReadVerb::Gets if count == 0 => Err(ERROR),
        _ => Ok(Request::Read { verb, keys }),
    }
}

/// The same for a long line of keys ([`is_key_line`](super::is_key_line)), in a time that goes by its bytes and not by its
/// keys.
///
/// # Errors
/// As [`parse`].
pub fn parse_key_list(line: &[u8]) -> Result<(ReadVerb, Keys<'_>), Refusal<'_>> {
    let mut keys = Keys(line);
    let verb = match keys.next() {
        Some(b"get" | b"bget") => ReadVerb::Get,
        Some(b"gets") => ReadVerb::Gets,
        Some(word @ (b"gat" | b"gats")) => {
            let exptime = exptime(keys.next().ok_or(ERROR)?).ok_or(BAD_EXPTIME)?;
            if word == b"gat" { ReadVerb::Gat(exptime) } else { ReadVerb::Gats(exptime) }
        }
        _ => return Err(ERROR),
    };
    if !keys.are_valid() {
        return Err(BAD_FORMAT);
    }
    match verb {
        ReadVerb::Get | ReadVerb::Gets if Iterator::count(keys.first(1)) == 0 => Err(ERROR),
        _ => Ok((verb, keys)),
    }
}

fn parse_words<'a>(words: &Words<'a>, line: &'a [u8], max_value: usize) -> Result<Request<'a>, Refusal<'a>> {
    let count = words.count;
    let verb = words.get(0);
    // No command is shorter than two bytes.
    if verb.len() < 2 {
        return Err(ERROR);
    }
    match verb {
        b"set" => store(StoreVerb::Set, words, max_value),
        b"add" => store(StoreVerb::Add, words, max_value),
        b"replace" => store(StoreVerb::Replace, words, max_value),
        b"append" => store(StoreVerb::Append, words, max_value),
        b"prepend" => store(StoreVerb::Prepend, words, max_value),
        b"cas" => store(StoreVerb::Cas, words, max_value),
        b"gat" | b"gats" => {
            if count < 2 {
                return Err(ERROR);
            }
            let exptime = exptime(words.get(1)).ok_or(BAD_EXPTIME)?;
            let mut keys = Keys(line);
            keys.nth(1);
            read(if verb == b"gat" { ReadVerb::Gat(exptime) } else { ReadVerb::Gats(exptime) }, keys)
        }
        b"delete" => delete(words),
        b"incr" | b"decr" | b"touch" => change(words),
        b"flush_all" => flush_all(words),
        b"verbosity" => match count {
            2 | 3 => {
                let quiet = words.quiet();
                number::unsigned(words.get(1)).ok_or(BAD_FORMAT.quiet_if(quiet))?;
                Ok(Request::Verbosity { quiet })
            }
            _ => Err(ERROR),
        },
        b"version" => Ok(Request::Version),
        b"stats" => stats(words),
        b"mn" => Ok(Request::MetaNoop),
        b"quit" => Ok(Request::Quit),
        b"ms" => {
            let block = match number::signed(words.get(2)) {
                Some(len @ 0..=MAX_LENGTH) => Block::Swallow(len.unsigned_abs() + 2),
                _ => Block::Unknown,
            };
            Err(Refusal::new("CLIENT_ERROR ms not supported by proxy").with_block(block))
        }
        _ => Err(unsupported(verb).map_or_else(
            || {
                // A browser or a probe speaking HTTP: memcached closes without an answer. It looks
                // at the last word, and only where no letter branch has answered before.
                let answered_before = matches!(verb.first(), Some(b'g' | b's' | b'a' | b'c' | b'i' | b'd' | b't'));
                let last = Keys(line).last().unwrap_or_default();
                if !answered_before && last.starts_with(b"HTTP/") {
                    Refusal::new("").with_block(Block::Unknown)
                } else {
                    ERROR
                }
            },
            Refusal::new,
        )),
    }
}

/// Commands memcached knows and a router cannot do.
fn unsupported(verb: &[u8]) -> Option<&'static str> {
    Some(match verb {
        b"mg" => "CLIENT_ERROR mg not supported by proxy",
        b"md" => "CLIENT_ERROR md not supported by proxy",
        b"ma" => "CLIENT_ERROR ma not supported by proxy",
        b"me" => "CLIENT_ERROR me not supported by proxy",
        b"watch" => "CLIENT_ERROR watch not supported by proxy",
        b"lru" => "CLIENT_ERROR lru not supported by proxy",
        b"lru_crawler" => "CLIENT_ERROR lru_crawler not supported by proxy",
        b"slabs" => "CLIENT_ERROR slabs not supported by proxy",
        b"cache_memlimit" => "CLIENT_ERROR cache_memlimit not supported by proxy",
        b"extstore" => "CLIENT_ERROR extstore not supported by proxy",
        b"refresh_certs" => "CLIENT_ERROR refresh_certs not supported by proxy",
        b"shutdown" => "CLIENT_ERROR shutdown not supported by proxy",
        b"debugtime" => "CLIENT_ERROR debugtime not supported by proxy",
        b"misbehave" => "CLIENT_ERROR misbehave not supported by proxy",
        _ => return None,
    })
}

/// `safe_strtol`: read as 64 bits, kept as 32.
fn exptime(token: &[u8]) -> Option<i32> {
    #[expect(clippy::cast_possible_truncation, reason = "memcached assigns strtol's long to an int32_t")]
    number::signed(token).map(|value| value as i32)
}

fn store<'a>(verb: StoreVerb, words: &Words<'a>, max_value: usize) -> Result<Request<'a>, Refusal<'a>> {
    let needed = if verb == StoreVerb::Cas { 6 } else { 5 };
    let count = words.count;
    let key = words.get(1);
    let flags = number::unsigned(words.get(2));
    let exptime = exptime(words.get(3));
    let len = match number::signed(words.get(4)) {
        Some(len @ 0..=MAX_LENGTH) => usize::try_from(len).ok(),
        _ => None,
    };
    // The words of a key with spaces shift the length away from its place. It is beyond doubt only
    // where the line has its exact number of words, or numbers in all three places.
    let exact = count == needed || (count == needed + 1 && words.quiet());
    let block = match len {
        Some(len) if count >= 5 && (exact || (flags.is_some() && exptime.is_some())) => Block::Swallow(len as u64 + 2),
        _ => Block::Unknown,
    };
    if count != needed && count != needed + 1 {
        return Err(ERROR.with_block(block));
    }
    let quiet = words.quiet();
    let refuse = |refusal: Refusal<'static>| refusal.quiet_if(quiet).with_block(block);
    if key.len() > MAX_KEY {
        return Err(refuse(BAD_FORMAT));
    }
    let (Some(flags), Some(exptime), Some(len)) = (flags, exptime, len) else {
        return Err(refuse(BAD_FORMAT));
    };
    let unique = match verb {
        StoreVerb::Cas => number::unsigned(words.get(5)).ok_or_else(|| refuse(BAD_FORMAT))?,
        _ => 0,
    };
    if len > max_value {
        let stale = (verb == StoreVerb::Set).then_some(key);
        return Err(Refusal { stale, ..refuse(TOO_LARGE) });
    }
    #[expect(clippy::cast_possible_truncation, reason = "memcached keeps the low 32 bits of the flags")]
    let flags = flags as u32;
    Ok(Request::Store(Store { verb, key, flags, exptime, len, unique, quiet }))
}

fn delete<'a>(words: &Words<'a>) -> Result<Request<'a>, Refusal<'a>> {
    let key = words.get(1);
    let quiet = match words.count {
        // `delete noreply` deletes the key "noreply".
        2 => false,
        3 if words.quiet() => true,
        3 if words.get(2) == b"0" => false,
        4 if words.get(2) == b"0" && words.quiet() => true,
        3 | 4 => return Err(BAD_DELETE.quiet_if(words.quiet())),
        _ => return Err(ERROR),
    };
    if key.len() > MAX_KEY {
        return Err(BAD_FORMAT.quiet_if(quiet));
    }
    Ok(Request::Change { change: Change::Delete, key, quiet })
}

fn change<'a>(words: &Words<'a>) -> Result<Request<'a>, Refusal<'a>> {
    if words.count != 3 && words.count != 4 {
        return Err(ERROR);
    }
    let quiet = words.quiet();
    let key = words.get(1);
    if key.len() > MAX_KEY {
        return Err(BAD_FORMAT.quiet_if(quiet));
    }
    let change = match words.get(0) {
        b"touch" => Change::Touch(exptime(words.get(2)).ok_or(BAD_EXPTIME.quiet_if(quiet))?),
        verb => {
            let delta = number::unsigned(words.get(2)).ok_or(BAD_DELTA.quiet_if(quiet))?;
            if verb == b"incr" { Change::Incr(delta) } else { Change::Decr(delta) }
        }
    };
    Ok(Request::Change { change, key, quiet })
}

fn flush_all<'a>(words: &Words<'a>) -> Result<Request<'a>, Refusal<'a>> {
    if words.count > 3 {
        return Err(ERROR);
    }
    let quiet = words.quiet();
    let bare = words.count == if quiet { 2 } else { 1 };
    let delay = if bare { None } else { Some(exptime(words.get(1)).ok_or(BAD_EXPTIME.quiet_if(quiet))?) };
    Ok(Request::FlushAll { delay, quiet })
}

fn stats<'a>(words: &Words<'a>) -> Result<Request<'a>, Refusal<'a>> {
    Ok(Request::Stats(match words.get(1) {
        b"" => Stats::General,
        b"nodes" => Stats::Nodes,
        b"sum" => Stats::Sum,
        b"ring" => Stats::Ring,
        b"items" => Stats::Items,
        b"slabs" => Stats::Slabs,
        b"settings" => Stats::Settings,
        b"sizes" => Stats::Sizes,
        b"conns" => Stats::Conns,
        b"reset" => Stats::Reset,
        b"cachedump" => {
            return Err(Refusal::new("CLIENT_ERROR stats cachedump not supported by proxy"));
        }
        b"detail" => {
            return Err(Refusal::new("CLIENT_ERROR stats detail not supported by proxy"));
        }
        b"extstore" => {
            return Err(Refusal::new("CLIENT_ERROR stats extstore not supported by proxy"));
        }
        _ => return Err(ERROR),
    }))
}

#[cfg(test)]
mod tests;
