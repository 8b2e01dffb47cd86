//! What a node's reply line says.
//!
//! Replies are matched to requests by position alone, so a line that cannot be an answer to the
//! request at the head of the queue means that the connection is out of step (invariant C).

use super::super::reply::Line;
use super::super::{MAX_KEY, number, space};

/// Longest reply line, in bytes, CRLF included. The longest there is: a `VALUE` line with a key of
/// 250 bytes, or an error text; `STAT` lines stay far below too.
pub const MAX_REPLY_LINE: usize = 2048;

/// Reads one reply line, given without its CRLF. `None` when it is no line memcached sends to the
/// requests we make.
#[inline]
#[must_use]
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    Some(match line.first()? {
        b'V' => match line.strip_prefix(b"VALUE ") {
            Some(rest) => value(rest)?,
            None => match line.strip_prefix(b"VA ") {
                Some(rest) => meta_value(rest)?,
                None => Line::Version(line.strip_prefix(b"VERSION ")?),
            },
        },
        b'E' => match line {
            b"END" => Line::End,
            b"EXISTS" => Line::Exists,
            _ if line.starts_with(b"ERROR") => Line::Error,
            [b'E', b'N'] | [b'E', b'N', b' ', ..] => Line::En,
            [b'E', b'X'] | [b'E', b'X', b' ', ..] => Line::Ex,
            _ => return None,
        },
        b'S' => match line {
            b"STORED" => Line::Stored,
            _ if line.starts_with(b"SERVER_ERROR") => Line::Error,
            _ => stat(line.strip_prefix(b"STAT ")?),
        },
        b'N' => match line {
            b"NOT_STORED" => Line::NotStored,
            b"NOT_FOUND" => Line::NotFound,
            [b'N', b'F'] | [b'N', b'F', b' ', ..] => Line::Nf,
            [b'N', b'S'] | [b'N', b'S', b' ', ..] => Line::Ns,
            _ => return None,
        },
        b'H' if matches!(line, [_, b'D'] | [_, b'D', b' ', ..]) => Line::Hd,
        b'M' => match line {
            b"MN" => Line::Mn,
            [_, b'E', b' ', ..] => Line::Me,
            _ => return None,
        },
        b'C' if line.starts_with(b"CLIENT_ERROR") => Line::Error,
        b'D' if line == b"DELETED" => Line::Deleted,
        b'T' if line == b"TOUCHED" => Line::Touched,
        b'O' if line == b"OK" => Line::Ok,
        b'R' if line == b"RESET" => Line::Reset,
        b'0'..=b'9' => {
            number::digits(line)?;
            Line::Number
        }
        _ => return None,
    })
}

#[inline]
fn value(rest: &[u8]) -> Option<Line<'_>> {
    let key_end = space(rest)?;
    let (key, rest) = rest.split_at_checked(key_end)?;
    let rest = rest.get(1..)?;
    let flags_end = space(rest)?;
    let (flags, rest) = rest.split_at_checked(flags_end)?;
    number::digits(flags)?;
    let rest = rest.get(1..)?;
    let len_end = space(rest).unwrap_or(rest.len());
    let (len, rest) = rest.split_at_checked(len_end)?;
    if let Some(unique) = rest.get(1..) {
        number::digits(unique)?;
    }
    let len = number::digits(len).filter(|&len| len <= u64::from(u32::MAX))?;
    (1..=MAX_KEY).contains(&key.len()).then_some(Line::Value { key, len })
}

/// `<bytes>[ <flag>…]`. 1.6.15 puts spaces where flags could be.
#[inline]
fn meta_value(rest: &[u8]) -> Option<Line<'_>> {
    let len = rest.split(|&byte| byte == b' ').next()?;
    let len = number::digits(len).filter(|&len| len <= u64::from(u32::MAX))?;
    Some(Line::Va { len })
}

fn stat(rest: &[u8]) -> Line<'_> {
    match memchr::memchr(b' ', rest) {
        Some(end) => {
            Line::Stat { name: rest.get(..end).unwrap_or_default(), value: rest.get(end + 1..).unwrap_or_default() }
        }
        None => Line::Stat { name: rest, value: &[] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_answer_is_recognised() {
        for (text, line) in [
            ("END", Line::End),
            ("STORED", Line::Stored),
            ("NOT_STORED", Line::NotStored),
            ("EXISTS", Line::Exists),
            ("NOT_FOUND", Line::NotFound),
            ("DELETED", Line::Deleted),
            ("TOUCHED", Line::Touched),
            ("OK", Line::Ok),
            ("RESET", Line::Reset),
            ("18446744073709551615", Line::Number),
            ("VERSION 1.6.18", Line::Version(b"1.6.18")),
            ("STAT pid 1", Line::Stat { name: b"pid", value: b"1" }),
            ("STAT libevent 2.1.12 stable", Line::Stat { name: b"libevent", value: b"2.1.12 stable" }),
            ("ERROR", Line::Error),
            ("ERROR Too many open connections", Line::Error),
            ("CLIENT_ERROR bad data chunk", Line::Error),
            ("SERVER_ERROR out of memory", Line::Error),
            ("HD", Line::Hd),
            ("HD ", Line::Hd),
            ("HD kfoo b O9", Line::Hd),
            ("VA 2", Line::Va { len: 2 }),
            ("VA 2 ", Line::Va { len: 2 }),
            ("VA 4294967295  s3 c400 W", Line::Va { len: 4_294_967_295 }),
            ("NS c0", Line::Ns),
            ("EX  ka O3", Line::Ex),
            ("NF ", Line::Nf),
            ("EN", Line::En),
            ("EN kmiss O9", Line::En),
            ("ME a exp=-1 la=0 cas=46 fetch=yes cls=1 size=61", Line::Me),
            ("MN", Line::Mn),
            ("VALUE k 0 5", Line::Value { key: b"k", len: 5 }),
            ("VALUE k 4294967295 1048576 18446744073709551615", Line::Value { key: b"k", len: 1_048_576 }),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(line), "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_doubt() {
        let long = format!("VALUE {} 0 1", "k".repeat(251));
        for text in [
            "",
            "END ",
            "end",
            "STOREDX",
            "VALUE",
            "VALUE k",
            "VALUE k 0",
            "VALUE k 0 x",
            "VALUE k 0 -1",
            "VALUE  0 1",
            "VALUE k 0 1 2 3",
            "VALUE k 0 1 ",
            "VALUE k 0 99999999999",
            "12a",
            "-5",
            "HDX",
            "VA",
            "VA ",
            "VA  2",
            "VA x",
            "VA -1",
            "VA 2x",
            "VA 4294967296",
            "EXX",
            "NFS",
            "ME",
            "MN x",
            &long,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&line);
            let mut value = b"VALUE ".to_vec();
            value.extend_from_slice(&line);
            if let Some(Line::Value { key, .. }) = parse(&value) {
                prop_assert!(!key.is_empty() && !key.contains(&b' '));
            }
        }
    }
}
