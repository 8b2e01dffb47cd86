//! Meta commands in the words of nodes that have none, before memcached 1.6.10: what the classic commands can say.
//!
//! | meta | line to the node | what cannot be said |
//! |---|---|---|
//! | `mg` with v f c s k O q b T | `gets`, with T `gats` | t h l u N R E; a key that only base64 can say |
//! | `ms` with F T c k O q b C, modes S E A P R | `set add append prepend replace`, with C `cas` | I; C in another mode than S |
//! | `md` with k O q b | `delete` | C E I T x |
//! | `ma` with D v c k O q b, modes I and D | `incr`, `decr` | C E N J T t |
//! | `me` | | all |
//!
//! What is stored has no unique to tell: `c` is answered `c0`, as memcached does where nothing was stored. Nothing has that
//! one, so a client that stores with it later is told `EX`.

use super::super::number;
use super::super::request::{Change, ReadVerb, Store, StoreVerb};
use super::request::{Meta, Verb};

/// What a node without meta commands is asked instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classic<'a> {
    /// For one key; values come with their unique.
    Read(ReadVerb),
    /// The block follows.
    Store(Store<'a>),
    /// For one key.
    Change(Change),
}

/// A meta command said in classic words; `key` is what its key stands for.
///
/// # Errors
/// The flag, or the whole command by its letter, that cannot be said.
pub fn classic<'a>(meta: &Meta<'a>, key: &'a [u8]) -> Result<Classic<'a>, u8> {
    let known: &[u8] = match meta.verb {
        Verb::Get => b"vfcskOqbTPL",
        Verb::Set => b"FTCckOqbMPLs",
        Verb::Delete => b"kOqbPL",
        Verb::Arithmetic => b"DMvckOqbPL",
        Verb::Debug => return Err(b'e'),
    };
    let unknown = meta.flags().filter_map(|flag| flag.first().copied()).find(|letter| !known.contains(letter));
    if let Some(letter) = unknown {
        return Err(letter);
    }
    if meta.is_base64 && key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(b'b');
    }
    let signed = |flag| meta.token(flag).and_then(number::signed);
    #[expect(clippy::cast_possible_truncation, reason = "memcached keeps 32 bits of it")]
    let exptime = signed(b'T').map(|value| value as i32);
    Ok(match meta.verb {
        Verb::Get | Verb::Debug => Classic::Read(exptime.map_or(ReadVerb::Gets, ReadVerb::Gats)),
        Verb::Set => {
            let unique = meta.token(b'C').and_then(number::unsigned);
            let verb = match (meta.mode, unique) {
                (b'S', Some(_)) => StoreVerb::Cas,
                (_, Some(_)) => return Err(b'C'),
                (b'E', _) => StoreVerb::Add,
                (b'A', _) => StoreVerb::Append,
                (b'P', _) => StoreVerb::Prepend,
                (b'R', _) => StoreVerb::Replace,
                _ => StoreVerb::Set,
            };
            let flags = meta.token(b'F').and_then(number::unsigned).unwrap_or_default();
            let exptime = exptime.unwrap_or_default();
            Classic::Store(Store {
                verb,
                key,
                flags,
                exptime,
                len: meta.len,
                unique: unique.unwrap_or_default(),
                quiet: false,
            })
        }
        Verb::Delete => Classic::Change(Change::Delete),
        Verb::Arithmetic => {
            let delta = meta.token(b'D').and_then(number::unsigned).unwrap_or(1);
            Classic::Change(if matches!(meta.mode, b'D' | b'-') { Change::Decr(delta) } else { Change::Incr(delta) })
        }
    })
}

/// Appends what a meta client is told for a classic answer of one line, given without its CRLF; nothing where `q` hides
/// it. An error is told as it is.
pub fn answer(meta: &Meta<'_>, line: &[u8], out: &mut Vec<u8>) {
    let word: &[u8] = match line {
        b"STORED" | b"DELETED" | b"TOUCHED" => b"HD",
        b"NOT_STORED" => b"NS",
        b"EXISTS" => b"EX",
        b"NOT_FOUND" => b"NF",
        [b'0'..=b'9', ..] if meta.value => b"VA",
        [b'0'..=b'9', ..] => b"HD",
        _ => {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
            return;
        }
    };
    if meta.quiet && matches!(word, b"HD" | b"VA") {
        return;
    }
    out.extend_from_slice(word);
    // `decr` keeps the length that was stored, padded.
    let digits = line.trim_ascii_end();
    if word == b"VA" {
        out.push(b' ');
        number::append(out, digits.len() as u64);
    }
    for flag in meta.flags() {
        match flag.first() {
            Some(b's') => {
                out.extend_from_slice(b" s");
                number::append(out, meta.len as u64);
            }
            Some(b'O') => {
                out.push(b' ');
                out.extend_from_slice(flag);
            }
            Some(b'c') => out.extend_from_slice(b" c0"),
            Some(b'k') => meta.echo_key(out),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
    if word == b"VA" {
        out.extend_from_slice(digits);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the line in front of a value for a meta client, from the `VALUE` line of a node without its CRLF. Returns
/// whether the value follows.
pub fn announce(meta: &Meta<'_>, line: &[u8], out: &mut Vec<u8>) -> bool {
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let (flags, len, unique) = (words.next(), words.next(), words.next());
    out.extend_from_slice(if meta.value { b"VA" } else { b"HD" });
    let len = len.unwrap_or_default();
    if meta.value {
        out.push(b' ');
        out.extend_from_slice(len);
    }
    for flag in meta.flags() {
        let token = match flag.first() {
            Some(b'f') => flags,
            Some(b'c') => unique,
            Some(b's') => Some(len),
            Some(b'O') => flag.get(1..),
            Some(b'k') => {
                meta.echo_key(out);
                None
            }
            _ => None,
        };
        if let (Some(token), Some(letter)) = (token, flag.first()) {
            out.extend_from_slice(&[b' ', *letter]);
            out.extend_from_slice(token);
        }
    }
    out.extend_from_slice(b"\r\n");
    meta.value
}

#[cfg(test)]
mod tests {
    use super::super::request::parse;
    use super::*;

    fn meta(line: &str) -> Meta<'_> {
        parse(line.as_bytes(), 1 << 20).unwrap()
    }

    #[test]
    fn what_classic_words_can_say_is_said() {
        for (line, key, said) in [
            ("mg k v", "k", Classic::Read(ReadVerb::Gets)),
            ("mg k v T30 q", "k", Classic::Read(ReadVerb::Gats(30))),
            ("mg Zm9v b v k O1", "foo", Classic::Read(ReadVerb::Gets)),
            ("md k q", "k", Classic::Change(Change::Delete)),
            ("ma k D5 MD v", "k", Classic::Change(Change::Decr(5))),
            ("ma k", "k", Classic::Change(Change::Incr(1))),
        ] {
            assert_eq!(classic(&meta(line), key.as_bytes()), Ok(said), "{line}");
        }
        for (line, verb, flags, exptime, unique) in [
            ("ms k 3", StoreVerb::Set, 0, 0, 0),
            ("ms k 3 ME F7 T9", StoreVerb::Add, 7, 9, 0),
            ("ms k 3 C12", StoreVerb::Cas, 0, 0, 12),
        ] {
            let store = Store { verb, key: b"k", flags, exptime, len: 3, unique, quiet: false };
            assert_eq!(classic(&meta(line), b"k"), Ok(Classic::Store(store)), "{line}");
        }
    }

    #[test]
    fn what_they_cannot_say_is_named() {
        for (line, key, flag) in [
            ("mg k v t", "k", b't'),
            ("mg k v N30", "k", b'N'),
            ("mg ICA= b v", "  ", b'b'),
            ("ms k 3 I", "k", b'I'),
            ("ms k 3 ME C1", "k", b'C'),
            ("md k I", "k", b'I'),
            ("md k C1", "k", b'C'),
            ("ma k N0 J1", "k", b'N'),
            ("me k", "k", b'e'),
        ] {
            assert_eq!(classic(&meta(line), key.as_bytes()), Err(flag), "{line}");
        }
    }

    #[test]
    fn answers_are_those_of_the_meta_commands() {
        for (request, line, told) in [
            ("ms k 3", "STORED", "HD\r\n"),
            ("ms k 3 q", "STORED", ""),
            ("ms k 3 c", "STORED", "HD c0\r\n"),
            ("ms k 3 k O9 q", "NOT_STORED", "NS kk O9\r\n"),
            ("md k", "NOT_FOUND", "NF\r\n"),
            ("ma k v", "12", "VA 2\r\n12\r\n"),
            ("ma k O1", "12", "HD O1\r\n"),
            ("ma k q v", "12", ""),
            ("ms k 3 q", "SERVER_ERROR out of memory", "SERVER_ERROR out of memory\r\n"),
        ] {
            let mut out = Vec::new();
            answer(&meta(request), line.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), told, "{request} {line}");
        }
        for (request, line, told, value) in [
            ("mg k v", "VALUE k 7 3 12", "VA 3\r\n", true),
            ("mg k s v f c k O9", "VALUE k 7 3 12", "VA 3 s3 f7 c12 kk O9\r\n", true),
            ("mg k s", "VALUE k 7 3 12", "HD s3\r\n", false),
        ] {
            let mut out = Vec::new();
            assert_eq!(announce(&meta(request), line.as_bytes(), &mut out), value);
            assert_eq!(String::from_utf8(out).unwrap(), told, "{request}");
        }
    }
}
