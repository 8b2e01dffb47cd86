//! What a client's command line asks for.
//!
//! A line is acted on only when it is whole and valid. Whatever a refused storage line announces as
//! its data block is never taken for commands: the block is swallowed where its length is beyond
//! doubt, else the connection is closed behind the answer ([`Block`]).

use super::super::meta::request::Verb;
use super::super::request::{self, Block, Change, Keys, ReadVerb, Refusal, Request, Stats, Store, StoreVerb};
use super::super::{MAX_KEY, meta, number};

/// Largest length memcached takes on a storage line (`INT_MAX - 2`).
const MAX_LENGTH: i64 = 2_147_483_645;

const ERROR: Refusal<'static> = Refusal::new("ERROR");
const BAD_FORMAT: Refusal<'static> = Refusal::new("CLIENT_ERROR bad command line format");
const BAD_EXPTIME: Refusal<'static> = Refusal::new("CLIENT_ERROR invalid exptime argument");
const BAD_DELTA: Refusal<'static> = Refusal::new("CLIENT_ERROR invalid numeric delta argument");
const BAD_DELETE: Refusal<'static> =
    Refusal::new("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
const TOO_LARGE: Refusal<'static> = Refusal::new(request::TOO_LARGE);

impl Store<'_> {
    /// Appends the line as it is sent to a node: canonical numbers, no `noreply`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.verb.word().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.key);
        out.push(b' ');
        number::append(out, self.flags);
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

/// Cuts a line as memcached does: one CR before the LF is dropped.
///
/// `raw` is everything before the LF.
#[inline]
#[must_use]
pub fn trim(raw: &[u8]) -> &[u8] {
    raw.strip_suffix(b"\r").unwrap_or(raw)
}

/// Cuts a line at its first NUL, as memcached 1.6.18 does. Later ones take it for a byte of a word.
#[inline]
#[must_use]
pub fn until_nul(line: &[u8]) -> &[u8] {
    memchr::memchr(0, line).and_then(|end| line.get(..end)).unwrap_or(line)
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
        for word in Keys::new(line) {
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
    match memchr::memchr(0, line) {
        None => parse_line(line, max_value),
        Some(_) => parse_with_nul(line, max_value),
    }
}

/// A NUL inside a key: to some nodes the key ends there, to others it does not. It is refused as a key that is too long
/// is. Elsewhere a NUL ends the line.
#[cold]
fn parse_with_nul(line: &[u8], max_value: usize) -> Result<Request<'_>, Refusal<'_>> {
    let mut words = Keys::new(line);
    let verb = words.next();
    let has_nul = match verb {
        Some(b"get" | b"gets" | b"bget") => true,
        Some(b"gat" | b"gats") => !words.next().is_some_and(|exptime| exptime.contains(&0)),
        Some(
            b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" | b"delete" | b"incr" | b"decr" | b"touch"
            | b"mg" | b"ms" | b"md" | b"ma" | b"me",
        ) => words.next().is_some_and(|key| key.contains(&0)),
        _ => false,
    };
    if !has_nul {
        return parse_line(until_nul(line), max_value);
    }
    // What it would be but for the NUL tells what to do with what follows.
    Err(match parse_line(line, max_value) {
        Ok(Request::Store(Store { len, quiet, .. })) => {
            BAD_FORMAT.quiet_if(quiet).with_block(Block::Swallow(len as u64 + 2))
        }
        Ok(Request::Change { quiet, .. }) => BAD_FORMAT.quiet_if(quiet),
        Ok(Request::Meta(meta)) if meta.verb == Verb::Set => BAD_FORMAT.with_block(Block::Swallow(meta.len as u64 + 2)),
        Ok(Request::Meta(_)) => BAD_FORMAT,
        // None of the others has a key.
        Ok(
            Request::Read { .. }
            | Request::FlushAll { .. }
            | Request::Verbosity { .. }
            | Request::Version
            | Request::Discovery
            | Request::Stats(_)
            | Request::MetaNoop
            | Request::Quit,
        ) => BAD_FORMAT,
        // What is behind a key is looked at after it.
        Err(Refusal { text, quiet, block, .. })
            if [BAD_DELTA.text, TOO_LARGE.text].contains(&text)
                || (text == BAD_EXPTIME.text && verb == Some(b"touch")) =>
        {
            BAD_FORMAT.quiet_if(quiet).with_block(block)
        }
        Err(refusal) => refusal,
    })
}

#[inline]
fn parse_line(line: &[u8], max_value: usize) -> Result<Request<'_>, Refusal<'_>> {
    // Reads are most of the traffic and the only lines with more than a few words.
    let mut rest = Keys::new(line);
    match rest.next() {
        Some(b"get" | b"bget") => read(ReadVerb::Get, rest),
        Some(b"gets") => read(ReadVerb::Gets, rest),
        _ => parse_words(&Words::split(line), line, max_value),
    }
}

fn read<'a>(verb: ReadVerb, keys: Keys<'a>) -> Result<Request<'a>, Refusal<'a>> {
    if !keys.are_valid() {
        return Err(BAD_FORMAT);
    }
    match verb {
        // `gat <exptime>` alone is an empty read in 1.6: `END`.
        ReadVerb::Get | ReadVerb::Gets if keys.are_none() => Err(ERROR),
        _ => Ok(Request::Read { verb, keys }),
    }
}

/// The same for a long line of keys ([`is_key_line`](crate::protocol::is_key_line)), in a time that
/// goes by its bytes and not by its keys.
///
/// # Errors
/// As [`parse`].
pub fn parse_key_list(line: &[u8]) -> Result<(ReadVerb, Keys<'_>), Refusal<'_>> {
    let mut keys = Keys::new(line);
    let verb = match keys.next() {
        Some(b"get" | b"bget") => ReadVerb::Get,
        Some(b"gets") => ReadVerb::Gets,
        Some(word @ (b"gat" | b"gats")) => {
            let exptime = exptime(keys.next().ok_or(ERROR)?).ok_or(BAD_EXPTIME)?;
            if word == b"gat" { ReadVerb::Gat(exptime) } else { ReadVerb::Gats(exptime) }
        }
        _ => return Err(ERROR),
    };
    if !keys.are_valid() || memchr::memchr(0, line).is_some() {
        return Err(BAD_FORMAT);
    }
    match verb {
        ReadVerb::Get | ReadVerb::Gets if keys.are_none() => Err(ERROR),
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
            let mut keys = Keys::new(line);
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
        b"config" if count == 3 && (words.get(1), words.get(2)) == (b"get", b"cluster") => Ok(Request::Discovery),
        b"stats" => stats(words),
        b"mn" => Ok(Request::MetaNoop),
        b"quit" => Ok(Request::Quit),
        b"mg" | b"ms" | b"md" | b"ma" | b"me" => meta::request::parse(line, max_value).map(Request::Meta),
        _ => Err(unsupported(verb).map_or_else(
            || {
                // A browser or a probe speaking HTTP: memcached closes without an answer. It looks
                // at the last word, and only where no letter branch has answered before.
                let answered_before = matches!(verb.first(), Some(b'g' | b's' | b'a' | b'c' | b'i' | b'd' | b't'));
                let last = Keys::new(line).last().unwrap_or_default();
                if !answered_before && last.starts_with(b"HTTP/") {
                    Refusal::new("").with_block(Block::Unknown)
                } else {
                    ERROR
                }
            },
            |text| Refusal::new(text).quiet_if(heeds_noreply(words)),
        )),
    }
}

/// Whether memcached looks for `noreply` in such a line, and finds it: tried on 1.6.18. To the others of the commands
/// that are refused it is a word like any other, and they answer.
fn heeds_noreply(words: &Words<'_>) -> bool {
    let looks = match words.get(0) {
        b"cache_memlimit" => words.count <= 3,
        b"slabs" => words.get(1) == b"automove",
        b"lru" | b"extstore" | b"watch" => true,
        _ => false,
    };
    looks && words.quiet()
}

/// Commands memcached knows and a router cannot do.
fn unsupported(verb: &[u8]) -> Option<&'static str> {
    Some(match verb {
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
#[path = "request_tests.rs"]
mod tests;
