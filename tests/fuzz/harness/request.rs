//! A client's command line: what is accepted means the same when it is sent on, and what is refused
//! says what to do with the block behind it.

use slipring::protocol::request::{Block, Change, ReadVerb, Refusal, Request, Store};

use slipring::protocol::text::request;
use slipring::protocol::{MAX_LINE, is_key_line};

use super::{check_key, first_line, show};

/// The first byte is the largest value that is forwarded, the rest a line.
pub fn request(data: &[u8]) {
    let Some((&limit, data)) = data.split_first() else { return };
    let max_value = [0, 100, 1 << 20, 128 << 20, usize::MAX][usize::from(limit) % 5];
    let raw = first_line(data);
    let line = request::trim(raw);
    assert!(raw.starts_with(line) && !line.contains(&0));
    match request::parse(line, max_value) {
        Ok(request) => accepted(line, &request, max_value),
        Err(refusal) => refused(line, &refusal),
    }
}

fn words(line: &[u8]) -> Vec<&[u8]> {
    line.split(|&b| b == b' ').filter(|word| !word.is_empty()).collect()
}

fn accepted(line: &[u8], request: &Request<'_>, max_value: usize) {
    let words = words(line);
    match *request {
        Request::Read { verb, keys } => {
            let skip = if matches!(verb, ReadVerb::Gat(_) | ReadVerb::Gats(_)) { 2 } else { 1 };
            let found: Vec<&[u8]> = keys.collect();
            assert_eq!(found, words[skip..]);
            found.iter().for_each(|key| check_key(key));
            let indent = line.iter().take_while(|b| **b == b' ').count();
            assert!(is_key_line(line) || indent > 100, "{:?} may not be long", show(line));
        }
        Request::Store(store) => {
            check_key(store.key);
            assert!(store.len <= max_value);
            assert!(!store.quiet || words.last() == Some(&b"noreply".as_slice()));
            let again = sent_on(|out| store.write(out));
            let expected = Store { quiet: false, ..store };
            assert_eq!(request::parse(&again, max_value), Ok(Request::Store(expected)), "{:?}", show(line));
        }
        Request::Change { change, key, quiet } => {
            check_key(key);
            assert!(!quiet || words.last() == Some(&b"noreply".as_slice()));
            let again = sent_on(|out| change.write(key, out));
            let expected = Request::Change { change, key, quiet: false };
            assert_eq!(request::parse(&again, max_value), Ok(expected), "{:?}", show(line));
            // A node of any version must take the last word for what it is here.
            let last = again.rsplit(|&b| b == b' ').next();
            assert!(change != Change::Delete || last != Some(b"noreply"), "{:?} is quiet to some", show(&again));
        }
        Request::FlushAll { .. }
        | Request::Verbosity { .. }
        | Request::Version
        | Request::Stats(_)
        | Request::MetaNoop
        | Request::Quit => {}
    }
}

/// The line as a node gets it, without its CRLF: one line, with single spaces, not too long.
fn sent_on(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    assert!(out.len() <= MAX_LINE);
    let line = out.strip_suffix(b"\r\n").expect("a line ends with CRLF");
    assert!(line.split(|&b| b == b' ').all(|word| !word.is_empty() && !word.contains(&b'\n') && !word.contains(&0)));
    line.to_vec()
}

fn refused(line: &[u8], refusal: &Refusal<'_>) {
    let words = words(line);
    let first = words.first().copied().unwrap_or_default();
    assert!(!refusal.text.contains(['\r', '\n']));
    let known = ["ERROR", "CLIENT_ERROR ", "SERVER_ERROR "].iter().any(|start| refusal.text.starts_with(start));
    assert!(known || refusal.text.is_empty() && refusal.block == Block::Unknown, "{refusal:?}");
    assert!(!refusal.quiet || words.last() == Some(&b"noreply".as_slice()), "{refusal:?} to {:?}", show(line));
    match refusal.block {
        // The block behind a storage line is never taken for commands.
        Block::None => {
            assert!(!matches!(first, b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" | b"ms"));
        }
        Block::Swallow(bytes) => assert!((2..=2_147_483_647).contains(&bytes), "{bytes} to swallow"),
        Block::Unknown => {}
    }
    if let Some(key) = refusal.stale {
        check_key(key);
        assert!(first == b"set" && refusal.is_too_large());
    }
}
