//! Whether a reply is a meta request's own, and what a node would say that is not asked.

use std::borrow::Cow;

use data_encoding::BASE64;

use super::super::reply::Line;
use super::super::request::Keys;
use super::request::{Verb, parse};

/// Whether a reply line, read as `line`, may answer a meta request that may be answered by a value, or an error line. Its
/// shape is that of the command's answers, and where it names a key or an opaque they are the request's own. `asked` is the
/// request's line without its verb: `key flag…`.
///
/// Anything else is out of step, as a `VALUE` for another key is (invariant C). What names nothing is the answer by its
/// place alone: nobody asked for more, or it is an `EN` of memcached before 1.6.16.
///
/// A hit names its key as it was when it was stored, in base64 or not. From an item that `N` has made, or that has grown,
/// versions up to 1.6.18 tell it as it is, with spaces perhaps; one that holds a LF breaks the line, and is out of step.
#[must_use]
pub fn may_answer(line: &Line<'_>, raw: &[u8], verb: Verb, asked: &[u8]) -> bool {
    // No more than the line's end: a key may end in white space.
    let raw = raw.strip_suffix(b"\n").map_or(raw, |raw| raw.strip_suffix(b"\r").unwrap_or(raw));
    let mut flags = Keys::new(asked);
    let key = flags.next().unwrap_or_default();
    let has = |letter: u8| flags.into_iter().any(|flag| flag.first() == Some(&letter));
    let shape = match (verb, line) {
        (_, Line::Error) => return true,
        (Verb::Get, Line::Hd) => !has(b'v'),
        (Verb::Get, Line::Va { .. }) => has(b'v'),
        (Verb::Get | Verb::Debug, Line::En) => true,
        (Verb::Arithmetic, Line::Va { .. } | Line::Ns | Line::Ex | Line::Nf) => true,
        (Verb::Debug, Line::Me) => true,
        _ => false,
    };
    if !shape {
        return false;
    }
    let decoded = has(b'b').then(|| BASE64.decode(key).ok()).flatten();
    let decoded = decoded.as_deref();
    let is_key = |named: &[u8]| match decoded {
        Some(decoded) => named == key || named == decoded,
        None => named == key || BASE64.decode(named).is_ok_and(|decoded| decoded == key),
    };
    if matches!(line, Line::Me) {
        let named = raw.get(3..).unwrap_or_default();
        let first = Keys::new(named).next().unwrap_or_default();
        return is_key(first) || decoded.is_some_and(|decoded| behind(named, decoded).is_some());
    }
    let told = |word: &[u8]| match word.split_first() {
        Some((b'k', named)) => has(b'k') && is_key(named),
        Some((b'O', _)) => flags.into_iter().any(|flag| flag == word),
        _ => true,
    };
    if Keys::new(raw).skip(1).all(told) {
        return true;
    }
    // Its words may be parts of the key.
    let around = decoded.filter(|_| has(b'k')).and_then(|decoded| {
        let needle = [b" k", decoded].concat();
        let at = memchr::memmem::find(raw, &needle)?;
        let (before, rest) = raw.split_at_checked(at)?;
        Some((before, behind(rest, &needle)?))
    });
    around.is_some_and(|(before, rest)| Keys::new(before).skip(1).chain(Keys::new(rest)).all(told))
}

/// What is behind these whole words, if they are the first.
fn behind<'a>(text: &'a [u8], words: &[u8]) -> Option<&'a [u8]> {
    text.strip_prefix(words).filter(|rest| rest.first().is_none_or(|byte| *byte == b' '))
}

/// The line of a value that was asked for twice, with what the node says only the first time: that a stale value is the
/// asker's to renew (`W`, the second time `Z`), and that it was not fetched before (`h0`). `first` and `second` are the two
/// lines; one whose unique or length has changed is another value's, and stays.
#[must_use]
pub fn as_first_told<'a>(first: &[u8], second: &'a [u8]) -> Cow<'a, [u8]> {
    let has = |line: &[u8], word: &[u8]| Keys::new(line.trim_ascii_end()).skip(2).any(|other| other == word);
    let unique = |line: &[u8]| Keys::new(line).skip(2).find(|word| word.first() == Some(&b'c')).map(<[u8]>::to_vec);
    if Keys::new(first).nth(1) != Keys::new(second).nth(1) || unique(first) != unique(second) {
        return Cow::Borrowed(second);
    }
    let mut line = Cow::Borrowed(second);
    for (once, later) in [(b"W".as_slice(), b"Z".as_slice()), (b"h0", b"h1")] {
        if has(first, once) && has(&line, later) && !has(&line, once) {
            let words = line.split(|byte| *byte == b' ');
            let end = |word: &[u8]| word.len() - word.trim_ascii_end().len();
            let said = words.enumerate().map(|(index, word)| match word.trim_ascii_end() == later && index > 1 {
                true => [once, word.get(word.len() - end(word)..).unwrap_or_default()].concat(),
                false => word.to_vec(),
            });
            line = Cow::Owned(said.collect::<Vec<_>>().join(&b' '));
        }
    }
    line
}

/// What a client is told that a node would have said: `word` of the meta commands, or `classic`, with CRLF. `line` is the
/// request.
#[must_use]
pub fn say(line: &[u8], is_meta: bool, word: &[u8], classic: &[u8]) -> Vec<u8> {
    let request = is_meta.then(|| parse(line.strip_suffix(b"\r\n").unwrap_or(line), usize::MAX).ok()).flatten();
    let mut out = Vec::new();
    let Some(request) = request else {
        out.extend_from_slice(if is_meta { word } else { classic });
        out.extend_from_slice(b"\r\n");
        return out;
    };
    out.extend_from_slice(word);
    for flag in request.flags() {
        match flag.first() {
            Some(b'O') => {
                out.push(b' ');
                out.extend_from_slice(flag);
            }
            Some(b'k') => request.echo_key(&mut out),
            Some(b'c') if request.verb == Verb::Set => out.extend_from_slice(b" c0"),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::text::reply::parse;
    use super::super::request::Verb;

    fn may_answer(line: &str, verb: Verb, asked: &str) -> bool {
        super::may_answer(&parse(line.as_bytes()).unwrap(), line.as_bytes(), verb, asked.as_bytes())
    }

    #[test]
    fn a_reply_names_its_own_request_or_none() {
        for line in ["VA 2 ka O7", "VA 2 s2 c5 ka O7", "EN", "EN ka O7", "VA 2", "VA 2  ka O7", "SERVER_ERROR kb"] {
            assert!(may_answer(line, Verb::Get, "a v k O7"), "{line}");
        }
        for line in ["VA 2 kb O7", "VA 2 ka O8", "EN kab", "VA 1 k", "VA 1 O", "EN O77"] {
            assert!(!may_answer(line, Verb::Get, "a v k O7"), "{line}");
        }
        assert!(!may_answer("VA 2 ka", Verb::Get, "a v"), "nobody asked for the key");
        assert!(!may_answer("VA 2 O7", Verb::Get, "a v"), "nobody gave an opaque");
        assert!(may_answer("VA 2 kYQ== b", Verb::Get, "YQ== v k b"));
        // Stored in the other form.
        assert!(may_answer("VA 2 ka", Verb::Get, "YQ== v k b"));
        assert!(may_answer("VA 2 kYQ== b", Verb::Get, "a v k"));
        assert!(may_answer("ME a exp=-1", Verb::Debug, "YQ== b"));
        assert!(!may_answer("VA 2 kb", Verb::Get, "YQ== v k b"));
        assert!(!may_answer("VA 2 ka", Verb::Get, "YQ== v k"));
        // As 1.6.18 names it once it has grown: " k 1".
        assert!(may_answer("VA 0 c7 k k 1 O3 W", Verb::Get, "IGsgMQ== b v N30 c k O3"));
        assert!(!may_answer("VA 0 c7 k k 1 O4 W", Verb::Get, "IGsgMQ== b v N30 c k O3"));
        assert!(!may_answer("VA 0 c7 k k 2 O3 W", Verb::Get, "IGsgMQ== b v N30 c k O3"));
        assert!(may_answer("ME  k 1 exp=-1", Verb::Debug, "IGsgMQ== b"));
        assert!(!may_answer("ME  k 2 exp=-1", Verb::Debug, "IGsgMQ== b"));
        // It ends in white space, and the line with it.
        for (key, asked) in
            [("a ", "YSA= b s k"), ("a\r", "YQ0= b s k"), ("a\t", "YQk= b s k"), ("a\r\r", "YQ0N b s k")]
        {
            assert!(may_answer(&format!("HD s1 k{key}\r\n"), Verb::Get, asked), "{key:?}");
            assert!(may_answer(&format!("HD s1 k{key}"), Verb::Get, asked) || key.ends_with('\r'), "{key:?}");
            assert!(may_answer(&format!("ME {key}\r\n"), Verb::Debug, asked), "{key:?}");
            assert!(!may_answer("HD s1 ka\r\n", Verb::Get, asked), "{key:?}");
        }
    }

    #[test]
    fn what_a_node_says_once_reaches_who_had_to_ask_twice() {
        let told = |first: &str, second: &str| {
            String::from_utf8(super::as_first_told(first.as_bytes(), second.as_bytes()).into_owned()).unwrap()
        };
        assert_eq!(told("VA 9 c7 W X\r\n", "VA 9 c7 X Z\r\n"), "VA 9 c7 X W\r\n");
        assert_eq!(told("VA 9 h0 kZ X W\r\n", "VA 9 h1 kZ X Z\r\n"), "VA 9 h0 kZ X W\r\n");
        assert_eq!(told("VA 9 h1 Z X\r\n", "VA 9 h1 Z X\r\n"), "VA 9 h1 Z X\r\n");
        assert_eq!(told("VA 9 c7 W\r\n", "VA 9 c8 Z\r\n"), "VA 9 c8 Z\r\n", "another value, another winner");
        assert_eq!(told("VA 9 W\r\n", "VA 8 Z\r\n"), "VA 8 Z\r\n");
        assert_eq!(told("VA 9 W\r\n", "VA 9\r\n"), "VA 9\r\n");
    }

    #[test]
    fn a_reply_has_the_shape_of_its_command() {
        for (verb, asked, good) in [
            (Verb::Get, "a v", &["VA 2", "EN"][..]),
            (Verb::Get, "a s", &["HD s2", "EN"]),
            (Verb::Arithmetic, "a v N0", &["VA 2", "NS", "EX", "NF"]),
            (Verb::Debug, "a", &["ME a exp=-1", "EN"]),
        ] {
            for line in ["VA 2", "HD s2", "EN", "NS", "EX", "NF", "ME a exp=-1", "ME ab exp=-1", "MN", "END", "STORED"]
            {
                assert_eq!(may_answer(line, verb, asked), good.contains(&line), "{line} to {verb:?} {asked}");
            }
        }
    }
}
