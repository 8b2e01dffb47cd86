//! Meta requests: what a client may be told, and what a node answers.

use data_encoding::BASE64;
use slipring::protocol::MAX_KEY;
use slipring::protocol::meta::request::{Meta, Verb};

use super::client::{BAD_CHUNK, Claim, TOO_LARGE, Told, is_failure, is_unsent};
use super::node::{Deed, Item, MAX_GROWN, Node, Truth, is_value_of};
use super::show;

/// A meta request, and what became of it.
#[derive(Debug)]
pub struct Asked {
    verb: Verb,
    /// What it is stored under.
    pub key: Vec<u8>,
    pub quiet: bool,
    value: bool,
    len: usize,
    /// What a reply tells of it, in this order: opaque and key.
    identity: Vec<Vec<u8>>,
    /// A flag of it is known to newer nodes only.
    is_new: bool,
    /// The `M` and `N` of one that may find nothing to be done.
    mode: u8,
    is_conditional: bool,
    creates: bool,
    /// Whether the block ended as it must, once it is whole; without a block it did.
    pub good: Option<bool>,
    /// The number of the change, if it is one.
    pub number: Option<u64>,
}

impl Asked {
    pub fn new(meta: &Meta<'_>) -> Self {
        let mut line = Vec::new();
        meta.identify(&mut line);
        let identity: Vec<Vec<u8>> =
            words(&line).into_iter().filter(|word| !word.is_empty() && *word != b"b").map(<[u8]>::to_vec).collect();
        Self {
            verb: meta.verb,
            key: meta.routing_key(&mut [0; MAX_KEY]).to_vec(),
            quiet: meta.quiet,
            value: meta.value,
            len: meta.len,
            identity: if meta.verb == Verb::Debug { Vec::new() } else { identity },
            is_new: meta.verb != Verb::Debug && meta.flags().any(|flag| matches!(flag[0], b'E' | b'x')),
            mode: meta.mode,
            is_conditional: meta.is_conditional,
            creates: meta.creates,
            good: (meta.verb != Verb::Set).then_some(true),
            number: None,
        }
    }

    /// Reads a line, and what is behind it, as the reply.
    pub fn reply(&self, line: &[u8], behind: &[u8], shaken: bool, lied: bool, truth: &Truth) -> Told {
        let not = |why: &str| Told::Not(format!("{why}: {:?} to {self:?}", show(line)));
        let words = words(line);
        let used = line.len() + 2;
        if line.starts_with(b"ERROR") || line.starts_with(b"CLIENT_ERROR") || line.starts_with(b"SERVER_ERROR") {
            let (fits, unsent) = self.error(line, shaken, lied, truth);
            let claims = self.number.filter(|_| unsent).map(Claim::Withdrawn);
            return if fits { Told::Fits(used, claims.into_iter().collect()) } else { not("no failure") };
        }
        let is_new = self.is_new && !lied && !shaken;
        if self.good != Some(true) && !lied || is_new {
            return not("nothing was asked");
        }
        let is_hit = matches!(words[0], b"HD" | b"VA");
        let shown = match words[0] {
            b"EN" => self.verb == Verb::Debug || self.verb == Verb::Get && !self.quiet,
            b"HD" if self.value && matches!(self.verb, Verb::Get | Verb::Arithmetic) => false,
            b"HD" => self.verb == Verb::Get || self.verb != Verb::Debug && !self.quiet,
            b"VA" => self.value && (self.verb == Verb::Get || self.verb == Verb::Arithmetic && !self.quiet),
            b"NF" | b"NS" | b"EX" if lied => !matches!(self.verb, Verb::Get | Verb::Debug),
            b"NF" => match self.verb {
                Verb::Set => self.is_conditional,
                Verb::Delete => true,
                Verb::Arithmetic => !self.creates,
                Verb::Get | Verb::Debug => false,
            },
            b"NS" => self.verb == Verb::Set && self.mode != b'S',
            b"EX" => self.is_conditional && !matches!(self.verb, Verb::Get | Verb::Debug),
            b"ME" => self.verb == Verb::Debug,
            _ => false,
        };
        if !shown {
            return not("no such answer");
        }
        let told: Vec<&[u8]> =
            words.iter().skip(1).copied().filter(|word| matches!(word.first(), Some(b'O' | b'k'))).collect();
        // 1.6.15 leaves both out of a miss, and they are put there. A key with a line end is always put there, at the end.
        let is_told = |own: &Vec<u8>| told.iter().any(|told| *told == own || is_same_key(told, own));
        let own = told.len() == self.identity.len() && self.identity.iter().all(is_told);
        // Of a change the place alone says what is answered.
        let is_read = self.value && !self.quiet || matches!(self.verb, Verb::Get | Verb::Debug);
        let lie = lied
            && (!is_read
                || told.iter().all(|word| self.identity.iter().any(|own| own == word || is_same_key(word, own))));
        if words[0] != b"ME" && !own && !lie {
            return not("another's");
        }
        let mut claims = Vec::new();
        let deed = match self.verb {
            Verb::Set => Some(Deed::Stored),
            Verb::Delete => Some(Deed::Deleted),
            Verb::Arithmetic => Some(Deed::Counted),
            Verb::Get | Verb::Debug => None,
        };
        claims.extend(deed.filter(|_| is_hit).map(|deed| Claim::Did(deed, self.key.clone())));
        if words[0] != b"VA" {
            return Told::Fits(used, claims);
        }
        let len: usize = std::str::from_utf8(words[1]).unwrap().parse().unwrap();
        // It must be the right one from its first byte, however long it claims to be.
        let data = if behind.len() < len { &behind[..behind.len().min(4096)] } else { &behind[..len] };
        let is_own =
            if self.verb == Verb::Get { is_value_of(&self.key, data) } else { data.iter().all(u8::is_ascii_digit) };
        // A value does not name its key: of one that lies anything may come.
        if !is_own && !truth.lied {
            return not(&format!("{:?} is no value", show(data)));
        }
        match behind.get(len..len + 2) {
            None => Told::Wait,
            Some(b"\r\n") => {
                claims.push(Claim::Hits(1));
                Told::Fits(used + len + 2, claims)
            }
            Some(_) => not("a value without end"),
        }
    }

    /// Whether an error line may be the reply, and whether it says that the request was never sent.
    fn error(&self, line: &[u8], shaken: bool, lied: bool, truth: &Truth) -> (bool, bool) {
        let needs = b" needs memcached 1.6 at node node-";
        if line.windows(needs.len()).any(|part| part == needs) {
            // Or it has said another version than its own.
            return (truth.had_old || truth.lied, true);
        }
        let failed = is_failure(line, lied);
        let new = self.is_new && [b"CLIENT_ERROR invalid flag".as_slice(), INVALID].contains(&line);
        let fits = line == TOO_LARGE && self.len > 1 << 20
            || new
            || line == BAD_CHUNK && self.good == Some(false)
            // A node may answer a large value before its end.
            || failed && shaken
            || lied;
        (fits, failed && is_unsent(line))
    }
}

/// Whether two words name the same key, either perhaps in base64: a hit names it as it was stored.
fn is_same_key(one: &[u8], other: &[u8]) -> bool {
    let encodes = |encoded: &[u8], key: &[u8]| BASE64.decode(&encoded[1..]).is_ok_and(|decoded| decoded == key[1..]);
    one[0] == b'k' && other[0] == b'k' && (encodes(one, other) || encodes(other, one))
}

const INVALID: &[u8] = b"CLIENT_ERROR invalid or duplicate flag";

fn words(line: &[u8]) -> Vec<&[u8]> {
    line.split(|&b| b == b' ').collect()
}

/// The flags of a line behind its key, or its length, and what is wrong with them.
fn flags<'a>(words: &[&'a [u8]]) -> (Vec<&'a [u8]>, Option<&'static [u8]>) {
    let flags = words[if words[0] == b"ms" { 3 } else { 2 }..].to_vec();
    let short = matches!(words[0], b"md" | b"ma");
    let mut seen = Vec::new();
    for flag in &flags {
        assert!(flag[0] != b'q' && !seen.contains(&flag[0]), "{:?}", show(&words.join(&b' ')));
        seen.push(flag[0]);
    }
    // From 1.6.27 and 1.6.29 on.
    let is_new = flags.iter().any(|flag| matches!(flag[0], b'E' | b'x'));
    (flags, is_new.then_some(if short { INVALID } else { b"CLIENT_ERROR invalid flag" }))
}

/// What a line's key is stored under.
fn stored_key(words: &[&[u8]], flags: &[&[u8]]) -> Vec<u8> {
    if flags.iter().any(|flag| flag[0] == b'b') { BASE64.decode(words[1]).expect("base64") } else { words[1].to_vec() }
}

/// What a node of 1.6.18 answers; of 1.6.15 where `is_early`.
impl Node {
    /// A request without a block. `words` are its line.
    pub fn meta(&mut self, words: &[&[u8]], truth: &mut Truth) -> Vec<u8> {
        if words[0] == b"me" {
            assert!(matches!(words, [_, _] | [_, _, b"b"]));
            let key = stored_key(words, &words[2..]);
            truth.check_read(&key);
            let there = self.items.contains_key(&key);
            return if there { [b"ME ", words[1], b" exp=-1 la=0 cas=4\r\n"].concat() } else { b"EN\r\n".to_vec() };
        }
        let (flags, wrong) = flags(words);
        let token = |letter: u8| flags.iter().find(|flag| flag[0] == letter).map(|flag| &flag[1..]);
        let key = stored_key(words, &flags);
        if words[0] == b"mg" && [b'N', b'R', b'E'].iter().all(|letter| token(*letter).is_none()) {
            truth.check_read(&key);
        } else {
            truth.sent(&[&*words.join(&b' '), b"\r\n"].concat(), b"");
        }
        if words[0] == b"mg" && flags.is_empty() {
            assert!(!self.is_early(), "1.6.15 refuses mg without a flag");
        }
        if let Some(text) = wrong {
            return [text, b"\r\n"].concat();
        }
        let old = self.items.get(&key).copied();
        let unique = token(b'C').is_some_and(|token| old.is_some_and(|old| old.serial.to_string().as_bytes() != token));
        match (words[0], old) {
            (b"mg", None) if token(b'N').is_some() => {
                let item = Item { encoded: token(b'b').is_some(), ..truth.item(0, 0) };
                self.items.insert(key, item);
                self.found(words, &flags, item, b"")
            }
            (b"mg", None) => self.nothing(b"EN", words, &flags),
            (b"mg", Some(item)) => {
                let reply = self.found(words, &flags, item, &item.value(&key));
                if token(b'T').is_some_and(|ttl| ttl.starts_with(b"-")) {
                    self.items.remove(&key);
                }
                reply
            }
            (b"ma", None) if token(b'N').is_none() => self.nothing(b"NF", words, &flags),
            (b"md", None) => self.nothing(b"NF", words, &flags),
            (b"md" | b"ma", Some(_)) if unique => self.nothing(b"EX", words, &flags),
            (b"md", Some(_)) => {
                truth.did(Deed::Deleted, &key);
                // One that is marked as stale may be read.
                if token(b'I').is_none() {
                    self.items.remove(&key);
                }
                self.nothing(b"HD", words, &flags)
            }
            (b"ma", old) => {
                truth.did(Deed::Counted, &key);
                let item = old.unwrap_or_else(|| Item { encoded: token(b'b').is_some(), ..truth.item(0, 1) });
                self.items.insert(key, item);
                self.found(words, &flags, item, item.serial.to_string().as_bytes())
            }
            _ => panic!("a node was sent {:?}", show(words[0])),
        }
    }

    /// An `ms` with its block.
    pub fn meta_store(&mut self, words: &[&[u8]], len: usize, truth: &mut Truth) -> Vec<u8> {
        let (flags, wrong) = flags(words);
        if let Some(text) = wrong {
            return [text, b"\r\n"].concat();
        }
        let token = |letter: u8| flags.iter().find(|flag| flag[0] == letter).map(|flag| &flag[1..]);
        let key = stored_key(words, &flags);
        let old = self.items.get(&key).copied();
        let mode = token(b'M').unwrap_or(b"S");
        if let Some(unique) = token(b'C') {
            match old {
                None => return self.nothing(b"NF", words, &flags),
                Some(old) if old.serial.to_string().as_bytes() != unique => return self.nothing(b"EX", words, &flags),
                Some(_) => {}
            }
        }
        match (mode, old) {
            (b"E", Some(_)) | (b"R" | b"A" | b"P", None) => return self.nothing(b"NS", words, &flags),
            _ => {}
        }
        let client_flags = token(b'F').map_or(0, |token| std::str::from_utf8(token).unwrap().parse().unwrap());
        let fresh = Item { encoded: token(b'b').is_some(), ..truth.item(client_flags, len) };
        truth.did(Deed::Stored, &key);
        let item = match (mode, old) {
            (b"A" | b"P", Some(old)) => Item { len: (old.len + len).min(MAX_GROWN), serial: fresh.serial, ..old },
            _ => fresh,
        };
        if token(b'T').is_some_and(|ttl| ttl.starts_with(b"-")) {
            self.items.remove(&key);
        } else {
            self.items.insert(key, item);
        }
        self.nothing(b"HD", words, &flags)
    }

    /// The answer without a value, with key and opaque where they are asked for.
    fn nothing(&self, status: &[u8], words: &[&[u8]], flags: &[&[u8]]) -> Vec<u8> {
        let mut out = status.to_vec();
        if self.is_early() && status == b"EN" {
            return b"EN\r\n".to_vec();
        }
        if self.is_early() && words[0] != b"mg" {
            out.push(b' ');
        }
        for flag in flags {
            match flag[0] {
                b'O' => out.extend([b" ", *flag].concat()),
                b'k' => echo_key(words, flags, &mut out),
                b'c' if words[0] == b"ms" => {
                    let stored = self.items.get(&stored_key(words, flags)).filter(|_| status == b"HD");
                    out.extend(format!(" c{}", stored.map_or(0, |item| item.serial)).as_bytes());
                }
                _ => {}
            }
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// The answer with everything that is asked for.
    fn found(&self, words: &[&[u8]], flags: &[&[u8]], item: Item, value: &[u8]) -> Vec<u8> {
        let gives = flags.iter().any(|flag| flag[0] == b'v');
        // `ma` gives the key back as it was asked for, `mg` as it was stored.
        let encoded = if words[0] == b"ma" { flags.iter().any(|flag| flag[0] == b'b') } else { item.encoded };
        let mut out = if gives { format!("VA {}", value.len()).into_bytes() } else { b"HD".to_vec() };
        if self.is_early() && words[0] == b"ma" {
            out.push(b' ');
        }
        for flag in flags {
            let told = match flag[0] {
                b'O' => {
                    out.extend([b" ", *flag].concat());
                    continue;
                }
                b'k' if encoded => {
                    out.extend([b" k", BASE64.encode(&stored_key(words, flags)).as_bytes(), b" b"].concat());
                    continue;
                }
                b'k' => {
                    out.extend([b" k", &*stored_key(words, flags)].concat());
                    continue;
                }
                b'c' => format!("c{}", item.serial),
                b'f' => format!("f{}", item.flags),
                b's' => format!("s{}", item.len),
                b't' => "t-1".to_owned(),
                b'h' | b'l' => format!("{}0", char::from(flag[0])),
                _ => continue,
            };
            out.push(b' ');
            out.extend_from_slice(told.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if gives {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

fn echo_key(words: &[&[u8]], flags: &[&[u8]], out: &mut Vec<u8>) {
    out.extend([b" k", words[1]].concat());
    if flags.iter().any(|flag| flag[0] == b'b') {
        out.extend_from_slice(b" b");
    }
}
