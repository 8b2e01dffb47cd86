//! What it gets, read against what it may be told.

use std::collections::BTreeMap;

use slipring::protocol::request::{Change, StoreVerb};

use super::super::node::{Deed, Truth, is_value_of};
use super::super::{cut, show};
use super::{Claim, Client, Kind, Told};

pub const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache";
pub const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk";

/// Whether a line says that a request failed: by the proxy, and where nodes lie by anyone.
pub fn is_failure(line: &[u8], lied: bool) -> bool {
    let starts: &[&str] = if lied { &["ERROR", "CLIENT_ERROR", "SERVER_ERROR"] } else { &["SERVER_ERROR proxy: "] };
    starts.iter().any(|start| line.starts_with(start.as_bytes()))
}

/// Whether it says that the request was never sent.
pub fn is_unsent(line: &[u8]) -> bool {
    [b" is down".as_slice(), b" takes no requests"].iter().any(|end| line.ends_with(end))
}

fn stats(bytes: &[u8]) -> Told {
    let mut at = 0;
    loop {
        let Some(line) = line(&bytes[at..]) else { return Told::Wait };
        at += line.len() + 2;
        if line == b"END" {
            return Told::Fits(at, Vec::new());
        }
        let words = line.split(|&b| b == b' ').count();
        if !line.starts_with(b"STAT ") || words < 3 || line.windows(3).any(|three| three == b"END") {
            return Told::Not(format!("{:?} to stats", show(line)));
        }
    }
}

/// The first line of `bytes`, without its CRLF.
pub(super) fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    Some(bytes[..end].strip_suffix(b"\r").unwrap_or_else(|| panic!("a reply line without CR: {:?}", show(bytes))))
}

impl Client {
    /// Takes so many bytes of what has come, and checks them.
    pub fn take(&mut self, bytes: usize, truth: &mut Truth) {
        let bytes = cut(&mut self.kernel, bytes);
        self.received.extend_from_slice(&bytes);
        let received = std::mem::take(&mut self.received);
        let mut rest = &*received;
        while !rest.is_empty() {
            let Some(used) = self.take_reply(rest, truth) else { break };
            rest = &rest[used..];
        }
        self.received = rest.to_vec();
    }

    /// Takes the next reply. `None`: it is not whole.
    fn take_reply(&mut self, bytes: &[u8], truth: &mut Truth) -> Option<usize> {
        let mut next: BTreeMap<usize, Option<Vec<Claim>>> = BTreeMap::new();
        let (mut used, mut wrong) = (0, Vec::new());
        for (place, claims) in &self.places {
            for (place, kind) in self.expected.iter().enumerate().skip(*place) {
                match self.reply(kind, bytes, truth) {
                    Told::Wait => return None,
                    Told::Not(why) => wrong.push(why),
                    Told::Fits(len, more) => {
                        used = len;
                        let all = claims.as_ref().map(|claims| [&**claims, &more].concat());
                        let old = next.insert(place + 1, all.clone());
                        if old.is_some_and(|old| old != all) {
                            next.insert(place + 1, None);
                        }
                    }
                }
                if !kind.is_quiet() {
                    break;
                }
            }
        }
        assert!(!next.is_empty(), "a reply to nothing: {:?}; {wrong:?}", show(bytes));
        self.places = next.into_iter().collect();
        if std::env::var_os("FUZZ_TRACE").is_some() {
            eprintln!("    {:?} takes {} at {:?}", self.id, show(&bytes[..used.min(60)]), self.places);
        }
        let sure = self.places.len() == 1;
        let done = self.places[0].0;
        self.expected.drain(..done);
        for (place, claims) in &mut self.places {
            *place -= done;
            if !sure {
                continue;
            }
            for claim in claims.replace(Vec::new()).unwrap_or_default() {
                match claim {
                    Claim::Did(deed, key) => truth.claim(deed, &key),
                    Claim::Withdrawn(number) => truth.withdraw(number),
                    Claim::Hits(count) => self.hits += count,
                }
            }
        }
        Some(used)
    }

    /// Reads bytes as the reply to a request.
    fn reply(&self, kind: &Kind, bytes: &[u8], truth: &Truth) -> Told {
        if let Kind::Read { keys, uniques } = kind {
            return self.values(keys, *uniques, bytes, truth);
        }
        if let Kind::Packet(asked) = kind {
            return asked.reply(bytes, truth.shaken && !self.strict, truth.lied && !self.strict, truth);
        }
        if let Kind::Stats = kind {
            let failed = truth.shaken && !self.strict && line(bytes).is_some_and(|line| is_failure(line, truth.lied));
            return if failed {
                Told::Fits(line(bytes).map_or(0, |line| line.len() + 2), Vec::new())
            } else {
                stats(bytes)
            };
        }
        let Some(line) = line(bytes) else { return Told::Wait };
        let (shaken, lied) = (truth.shaken && !self.strict, truth.lied && !self.strict);
        if let Kind::Meta(asked) = kind {
            return asked.reply(line, &bytes[line.len() + 2..], shaken, lied, truth);
        }
        let said = |all: &[&str]| all.iter().any(|one| one.as_bytes() == line);
        let failed = is_failure(line, lied);
        let lied_store = lied && (failed || said(&["STORED", "NOT_STORED", "EXISTS", "NOT_FOUND"]));
        let mut claims = Vec::new();
        if let (Kind::Store { number: Some(number), .. } | Kind::Change { number, .. }, true) =
            (kind, failed && is_unsent(line))
        {
            claims.push(Claim::Withdrawn(*number));
        }
        let fits = match kind {
            // Before the first ring is connected there is nobody to ask.
            Kind::Flush => said(&["OK"]) || failed,
            Kind::StatsReset => said(&["RESET"]) || failed,
            Kind::Version => line.starts_with(b"VERSION 1."),
            Kind::Exact(text) => said(&[text]),
            Kind::Store { verb, key, len, good, .. } => {
                let too_large = line == TOO_LARGE && *len > 1 << 20;
                match good {
                    _ if too_large => true,
                    Some(true) if line == b"STORED" => {
                        claims.push(Claim::Did(Deed::Stored, key.clone()));
                        true
                    }
                    Some(true) if lied => lied_store,
                    Some(true) => match verb {
                        StoreVerb::Set => failed && shaken,
                        StoreVerb::Cas => said(&["EXISTS", "NOT_FOUND"]) || failed && shaken,
                        _ => said(&["NOT_STORED"]) || failed && shaken,
                    },
                    Some(false) => line == BAD_CHUNK || failed && shaken || lied_store,
                    // A node may answer a large value before its end.
                    None => failed && shaken || lied_store,
                }
            }
            Kind::Change { change, key, .. } => {
                let deed = match change {
                    Change::Delete if said(&["DELETED"]) => Some(Deed::Deleted),
                    Change::Touch(_) if said(&["TOUCHED"]) => Some(Deed::Touched),
                    Change::Incr(_) | Change::Decr(_) if line.iter().all(u8::is_ascii_digit) => Some(Deed::Counted),
                    _ => None,
                };
                claims.extend(deed.map(|deed| Claim::Did(deed, key.clone())));
                deed.is_some() || said(&["NOT_FOUND"]) || failed && shaken
            }
            Kind::Read { .. } | Kind::Stats | Kind::Meta(_) | Kind::Packet(_) => true,
        };
        if fits { Told::Fits(line.len() + 2, claims) } else { Told::Not(format!("{:?} to {kind:?}", show(line))) }
    }

    fn values(&self, keys: &[Vec<u8>], uniques: bool, bytes: &[u8], truth: &Truth) -> Told {
        let mut missing: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let (mut at, mut found) = (0, 0);
        loop {
            let Some(line) = line(&bytes[at..]) else { return Told::Wait };
            at += line.len() + 2;
            if line == b"END" {
                break;
            }
            let Some(rest) = line.strip_prefix(b"VALUE ") else {
                let (shaken, lied) = (truth.shaken && !self.strict, truth.lied && !self.strict);
                if shaken && is_failure(line, lied) {
                    break;
                }
                return Told::Not(format!("{:?} to a read", show(line)));
            };
            let words: Vec<&[u8]> = rest.split(|&b| b == b' ').collect();
            if words.len() != 3 + usize::from(uniques) && !truth.lied {
                return Told::Not(show(line));
            }
            let Some(place) = missing.iter().position(|key| *key == words[0]) else {
                return Told::Not(format!("{:?} to a read of {:?}", show(line), show(&keys.join(&b' '))));
            };
            missing.swap_remove(place);
            let len: usize = std::str::from_utf8(words[2]).unwrap().parse().unwrap();
            // It must be the right one from its first byte, however long it claims to be.
            let data = &bytes[at..];
            let data = if data.len() < len { &data[..data.len().min(4096)] } else { &data[..len] };
            if !is_value_of(words[0], data) && !truth.poisoned.contains(words[0]) {
                return Told::Not(format!("{:?} is no value of {:?}", show(data), show(words[0])));
            }
            let Some(end) = bytes.get(at + len..at + len + 2) else { return Told::Wait };
            if end != b"\r\n" {
                return Told::Not(format!("a value of {:?} without end", show(words[0])));
            }
            found += 1;
            at += len + 2;
        }
        Told::Fits(at, vec![Claim::Hits(found)])
    }
}
