//! A client's command line: what is accepted means the same when it is sent on, and what is refused
//! says what to do with the block behind it.

use slipring::protocol::meta::request::{Meta, Verb};
use slipring::protocol::request::{Block, Change, ReadVerb, Refusal, Request, Store};

use slipring::protocol::text::request;
use slipring::protocol::{MAX_KEY, MAX_LINE, is_key_line};

use super::{check_key, first_line, show};

/// The first byte is the largest value that is forwarded, the rest a line.
pub fn request(data: &[u8]) {
    let Some((&limit, data)) = data.split_first() else { return };
    let max_value = [0, 100, 1 << 20, 128 << 20, usize::MAX][usize::from(limit) % 5];
    let raw = first_line(data);
    let line = request::trim(raw);
    assert!(raw.starts_with(line));
    match request::parse(line, max_value) {
        // What is accepted has no NUL in a key, and ends at one behind it.
        Ok(request) => accepted(request::until_nul(line), &request, max_value),
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
        Request::Meta(meta) => meta_accepted(line, &meta, max_value),
        Request::FlushAll { .. }
        | Request::Verbosity { .. }
        | Request::Version
        | Request::Discovery
        | Request::Stats(_)
        | Request::MetaNoop
        | Request::Quit => {}
    }
}

/// What is sent on means the same, and is answered by one reply whatever it finds.
fn meta_accepted(line: &[u8], meta: &Meta<'_>, max_value: usize) {
    check_key(meta.key);
    assert!(meta.len <= max_value && (meta.len == 0 || meta.verb == Verb::Set));
    let mut decoded = [0; MAX_KEY];
    let key = meta.routing_key(&mut decoded);
    assert!(!key.is_empty() && (meta.is_base64 || key == meta.key));
    if meta.is_base64 {
        assert_eq!(data_encoding::BASE64.encode(key).as_bytes(), meta.key);
    }
    let again = sent_on(|out| meta.write(out));
    let sent = words(&again);
    assert!(sent.len() <= 20, "more words than a node takes: {:?}", show(&again));
    let Ok(Request::Meta(same)) = request::parse(&again, max_value) else {
        panic!("{:?} is sent on as {:?}", show(line), show(&again));
    };
    assert!(!same.quiet && same.verb == meta.verb && same.key == meta.key && same.len == meta.len);
    assert_eq!(same.is_base64, meta.is_base64);
    if meta.verb == Verb::Debug {
        return;
    }
    let unread = meta.quiet && meta.verb == Verb::Arithmetic;
    let unsent = |flag: &[u8]| match flag[0] {
        b'q' => true,
        b'v' => unread,
        // Told here.
        b'k' => meta.keeps_key,
        _ => false,
    };
    let flags: Vec<&[u8]> = meta.flags().filter(|flag| !unsent(flag)).collect();
    let sent: Vec<&[u8]> = same.flags().collect();
    assert!(sent == flags || flags.is_empty() && sent == [b"P"] && meta.verb == Verb::Get, "{:?}", show(&again));
    assert_eq!((same.value, same.writes, same.mode), (meta.value && !unread, meta.writes, meta.mode));
    assert_eq!((same.is_conditional, same.creates), (meta.is_conditional, meta.creates));
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
    let is_quiet = |line| self::words(line).last() == Some(&b"noreply".as_slice());
    let said = is_quiet(line) || is_quiet(request::until_nul(line));
    assert!(!refusal.quiet || said, "{refusal:?} to {:?}", show(line));
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
        assert!((first == b"set" || first == b"ms") && refusal.is_too_large());
        assert!(refusal.stale_key().is_some_and(|key| !key.is_empty()));
    }
}
