//! Uniques of values that are at the old place of their key, while a ring before is declared.
//!
//! A unique says which value of a key its reader has seen, and two nodes may give the same. So one that comes from an old
//! place is told with bit 52 set and four bits of the old ring's fingerprint in bits 48 to 51: a number that every client
//! can carry, for it is exact in a double. The node's own must be below 2⁴⁸; memcached counts them up from 1.

use std::borrow::Cow;

use crate::protocol::meta::request::Verb;
use crate::protocol::number;

/// A node's own uniques are below this.
const OWN: u64 = 1 << 48;
/// Set in every unique from an old place, and the highest bit that is.
const MARK: u64 = 1 << 52;

/// A unique of an old place as clients are told it; none for one that has no room for the mark. 0 stays: it says that
/// nothing was stored.
fn mark(unique: u64, tag: u8) -> Option<u64> {
    match unique {
        0 => Some(0),
        unique => (unique < OWN).then(|| unique | MARK | u64::from(tag & 15) << 48),
    }
}

/// Which place a unique is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The new one, or whichever the key has.
    New,
    /// The old one, where it is this.
    Old(u64),
    /// The old one of another ring: nothing has it any more.
    Nowhere,
}

impl From {
    /// `tag` is that of the ring before, if there is one.
    pub(crate) const fn of(unique: u64, tag: u8) -> Self {
        match unique >> 48 {
            high if high == 16 | (tag & 15) as u64 => Self::Old(unique & (OWN - 1)),
            16..=31 => Self::Nowhere,
            _ => Self::New,
        }
    }
}

/// A node's line, with its CRLF, with its unique marked, if it tells one. None where that cannot be.
pub(crate) fn marked(line: &[u8], tag: u8) -> Option<Cow<'_, [u8]>> {
    let body = line.strip_suffix(b"\r\n").unwrap_or(line);
    let is_value = body.starts_with(b"VALUE ");
    let told = |index: usize, word: &[u8]| match (is_value, word) {
        (true, digits) if index == 4 => number::digits(digits).map(|unique| (&b""[..], unique)),
        (false, [b'c', digits @ ..]) if index > 0 => number::digits(digits).map(|unique| (&b"c"[..], unique)),
        _ => None,
    };
    let words = || body.split(|byte| *byte == b' ').enumerate();
    let Some((at, (letter, unique))) = words().find_map(|(index, word)| Some((index, told(index, word)?))) else {
        return Some(Cow::Borrowed(line));
    };
    let unique = mark(unique, tag)?;
    let mut out = Vec::with_capacity(line.len() + 8);
    for (index, word) in words() {
        if index > 0 {
            out.push(b' ');
        }
        if index == at {
            out.extend_from_slice(letter);
            number::append(&mut out, unique);
        } else {
            out.extend_from_slice(word);
        }
    }
    out.extend_from_slice(b"\r\n");
    Some(Cow::Owned(out))
}

/// The place of the word in a request's line that names the unique it is done for: the last of `cas`, flag `C` of a meta
/// command. As in memcached a read ignores it, and to `ma` a 0 is none.
fn condition(line: &[u8]) -> Option<(usize, u64)> {
    let body = line.strip_suffix(b"\r\n").unwrap_or(line);
    let mut words = body.split(|byte| *byte == b' ').enumerate();
    let (_, word) = words.next()?;
    if word == b"cas" {
        let (at, unique) = words.nth(4)?;
        return Some((at, number::digits(unique)?));
    }
    let verb = Verb::of(word)?;
    if matches!(verb, Verb::Get | Verb::Debug) {
        return None;
    }
    let condition = words.skip(1).find_map(|(at, word)| {
        let digits = word.strip_prefix(b"C")?;
        Some((at, number::unsigned(digits)?))
    });
    condition.filter(|(_, unique)| *unique != 0 || verb != Verb::Arithmetic)
}

/// The unique that a request is done for, if it names one.
pub(crate) fn asked_for(line: &[u8]) -> Option<u64> {
    condition(line).map(|(_, unique)| unique)
}

/// The same request for another unique.
pub(crate) fn with(line: &[u8], unique: u64) -> Vec<u8> {
    let body = line.strip_suffix(b"\r\n").unwrap_or(line);
    let Some((at, _)) = condition(line) else { return line.to_vec() };
    let mut out = Vec::with_capacity(line.len());
    for (index, word) in body.split(|byte| *byte == b' ').enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        if index == at {
            out.extend_from_slice(if body.starts_with(b"cas ") { b"" } else { b"C" });
            number::append(&mut out, unique);
        } else {
            out.extend_from_slice(word);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A meta request without what makes it create what is missing: flags `N` and `J`. `line` may lack its verb: `first` is the
/// index of its first flag. None where it creates nothing.
pub(crate) fn without_creation(line: &[u8], first: usize) -> Option<Vec<u8>> {
    let body = line.strip_suffix(b"\r\n").unwrap_or(line);
    let words = || body.split(|byte| *byte == b' ').enumerate();
    let is_flag = |index: usize, word: &[u8], letter: u8| index >= first && word.first() == Some(&letter);
    if !words().any(|(index, word)| is_flag(index, word, b'N')) {
        return None;
    }
    let kept = words().filter(|(index, word)| !is_flag(*index, word, b'N') && !is_flag(*index, word, b'J'));
    let kept: Vec<&[u8]> = kept.map(|(_, word)| word).collect();
    let mut out = kept.join(&b' ');
    if kept.len() == first {
        // A bare `mg` is refused by 1.6.15; this flag every version takes and ignores.
        out.extend_from_slice(b" P");
    }
    if line.len() > body.len() {
        out.extend_from_slice(b"\r\n");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str, tag: u8) -> Option<String> {
        marked(line.as_bytes(), tag).map(|line| String::from_utf8(line.into_owned()).unwrap())
    }

    #[test]
    fn a_unique_of_an_old_place_says_so_wherever_it_is_told() {
        let seven = (7 | 1_u64 << 52 | 5_u64 << 48).to_string();
        for (line, expected) in [
            ("VALUE k 0 3 7\r\n", format!("VALUE k 0 3 {seven}\r\n")),
            ("VALUE c7 0 3 7\r\n", format!("VALUE c7 0 3 {seven}\r\n")),
            ("VALUE k 0 3\r\n", "VALUE k 0 3\r\n".to_owned()),
            ("VA 3 f0 c7 kc9 O1\r\n", format!("VA 3 f0 c{seven} kc9 O1\r\n")),
            ("HD c7\r\n", format!("HD c{seven}\r\n")),
            ("HD  c7\r\n", format!("HD  c{seven}\r\n")),
            ("NS c0\r\n", "NS c0\r\n".to_owned()),
            ("STORED\r\n", "STORED\r\n".to_owned()),
        ] {
            assert_eq!(told(line, 5), Some(expected), "{line:?}");
        }
        assert_eq!(told(&format!("VALUE k 0 3 {OWN}\r\n"), 5), None, "no room for the mark");
        assert_eq!(told(&format!("HD c{}\r\n", OWN - 1), 15), Some(format!("HD c{}\r\n", (1_u64 << 53) - 1)));
    }

    #[test]
    fn a_marked_unique_names_its_place() {
        let marked = mark(7, 5).unwrap();
        assert!(marked < 1 << 53, "exact in a double");
        assert_eq!(From::of(marked, 5), From::Old(7));
        assert_eq!(From::of(marked, 6), From::Nowhere);
        assert_eq!(From::of(7, 5), From::New);
        assert_eq!(From::of(1 << 53, 0), From::New);
        assert_eq!(From::of(u64::MAX, 15), From::New);
    }

    #[test]
    fn the_unique_of_a_request_is_read_and_put_back() {
        for (line, unique, back) in [
            ("cas k 0 0 3 12\r\n", Some(12), "cas k 0 0 3 7\r\n"),
            ("ms k 3 c C12 T0\r\n", Some(12), "ms k 3 c C7 T0\r\n"),
            ("md C5 C12\r\n", Some(12), "md C5 C7\r\n"),
            ("md C5\r\n", None, "md C5\r\n"),
            ("mg k v C12\r\n", None, "mg k v C12\r\n"),
            ("ma k C12\r\n", Some(12), "ma k C7\r\n"),
            ("ma k C0\r\n", None, "ma k C0\r\n"),
            ("set k 0 0 12\r\n", None, "set k 0 0 12\r\n"),
        ] {
            assert_eq!(asked_for(line.as_bytes()), unique, "{line}");
            assert_eq!(with(line.as_bytes(), 7), back.as_bytes(), "{line}");
        }
    }

    #[test]
    fn a_request_that_creates_can_be_made_one_that_does_not() {
        let without =
            |line: &str, first| without_creation(line.as_bytes(), first).map(|l| String::from_utf8(l).unwrap());
        assert_eq!(without("ma k N0 J5 D2 v\r\n", 2).as_deref(), Some("ma k D2 v\r\n"));
        assert_eq!(without("k N30 v", 1).as_deref(), Some("k v"));
        assert_eq!(without("k N30", 1).as_deref(), Some("k P"));
        assert_eq!(without("N1 v", 1), None, "that is the key");
        assert_eq!(without("ma k J5\r\n", 2), None);
    }
}
