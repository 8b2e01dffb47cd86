//! What it gets: whether it may be so, and what is known from it.

use super::facts::{Facts, number_of};
use super::{Client, Expected, Kind, Known, line};
use crate::node::{MAX_ITEM, serials, show};

/// What a client is told whose wait has ended, for it has sent its end.
pub(super) const LEFT: &[u8] = b" given up, for its client has sent its end";

impl Client {
    /// Checks the reply to the oldest request; `None` while it is not whole.
    pub(super) fn reply(&mut self, head: &Expected, bytes: &[u8], facts: &mut Facts) -> Option<usize> {
        if let Some(form) = &head.meta {
            return self.meta_reply(head, form, bytes, facts);
        }
        match &head.kind {
            Kind::Read { keys, uniques } => self.read(head, keys, *uniques, bytes, facts),
            Kind::Stats => {
                let mut at = 0;
                loop {
                    let line = line(&bytes[at..])?;
                    at += line.len() + 2;
                    if line == b"END" {
                        return Some(at);
                    }
                    if line.starts_with(b"SERVER_ERROR proxy") {
                        let all = facts.all_nodes();
                        self.must_be_failure(line, head, &all, facts);
                        return Some(at);
                    }
                    assert!(line.starts_with(b"STAT "), "{:?} to stats", show(line));
                }
            }
            Kind::Flush => {
                let line = line(bytes)?;
                if line == b"OK" {
                    let claims = facts.claims.entry(("OK", Vec::new())).or_insert(0);
                    *claims += 1;
                    let flushes = facts.nodes.iter().map(|n| n.ledger.flushes);
                    // A node outside the ring is not flushed.
                    let all = facts.rings.len() == 1 && facts.rings[0].nodes().len() == facts.nodes.len();
                    let most = if all { flushes.min().unwrap() } else { flushes.sum() };
                    assert!(*claims <= most, "a false OK to flush_all");
                } else {
                    let early = facts.last_join.iter().any(|join| join.is_some_and(|at| head.asked <= at));
                    if !(early && line.ends_with(b" is down")) {
                        let all = facts.all_nodes();
                        self.must_be_failure(line, head, &all, facts);
                    }
                }
                Some(line.len() + 2)
            }
            Kind::Line(start) => {
                let line = line(bytes)?;
                // The node's word may come before the block's end.
                let failed = start.contains("chunk")
                    && (line.starts_with(b"SERVER_ERROR proxy")
                        || line == b"SERVER_ERROR object too large for cache"
                        || facts.lacks_meta(line));
                // Then what was there is gone.
                if failed && line == b"SERVER_ERROR object too large for cache" {
                    self.known.retain(|key, _| !key.ends_with(b"large"));
                }
                // One that has sent its end waits for nothing any more, not even behind what needs nobody.
                let left = self.fin && line.ends_with(LEFT);
                facts.without_room += u64::from(left);
                assert!(
                    line.starts_with(start.as_bytes()) || failed || left || head.optional,
                    "{:?}, expected {start}",
                    show(line)
                );
                Some(line.len() + 2)
            }
            Kind::Store { .. } | Kind::Delete(_) | Kind::Count { .. } | Kind::Touch(_) => {
                let line = line(bytes)?;
                self.learn(head, Some(line), facts);
                Some(line.len() + 2)
            }
            Kind::Debug => panic!("a meta request"),
        }
    }

    pub(super) fn must_be_failure(&self, line: &[u8], head: &Expected, nodes: &[usize], facts: &mut Facts) {
        let no_room = [
            &b" out of memory for the value"[..],
            b" has no free connection for the value",
            b" no room for the value in time",
            LEFT,
            b" an earlier request for the key was not answered in time",
        ];
        if no_room.iter().any(|text| line.ends_with(text)) {
            facts.without_room += 1;
            return;
        }
        if head.meta.is_some() && facts.lacks_meta(line) {
            return;
        }
        assert!(
            line.starts_with(b"SERVER_ERROR proxy: node ") || line.starts_with(b"SERVER_ERROR out of memory"),
            "client {}: {:?} to {:?}",
            self.number,
            show(line),
            head.kind
        );
        let text = show(line);
        let named = text.strip_prefix("SERVER_ERROR proxy: node ").and_then(|rest| rest.split_once(' '));
        let named = named.filter(|(name, _)| name.starts_with("node-")).map(|(name, what)| (number_of(name), what));
        let excused = match named {
            Some((node, what)) if nodes.contains(&node) => match what {
                "did not answer in time" => facts.late(node, head.asked),
                // A meta request waits where its node has not said its version on this connection, and one whose block has
                // come by then fails.
                "takes no requests" | "is down" if head.meta.is_some() && facts.unproven(node, head.asked) => true,
                // And while it is found out whether the node speaks the binary protocol.
                "takes no requests" if head.meta.is_some() && facts.in_doubt(node, head.asked) => true,
                "takes no requests" => facts.stuck(node, head.asked),
                _ => facts.restless(node, head.asked),
            },
            Some(_) => false,
            None => nodes.iter().any(|node| facts.restless(*node, head.asked)),
        };
        assert!(
            excused,
            "client {}: {text:?} without a cause, asked at {}, to {:?}; late {:?}, stuck {:?}, fault {:?}",
            self.number, head.asked, head.kind, facts.last_late, facts.last_stuck, facts.last_fault
        );
    }

    /// What the client is sure of, of a key that only it writes, when it asked in a ring: the node
    /// that was asked is the one that stored it.
    pub(super) fn sure(&self, key: &[u8], ring: usize, facts: &Facts) -> Option<&Option<Vec<u64>>> {
        let known = self.known.get(key)?;
        let asked = facts.only_owner(key, ring)?;
        let by_ledger = |serial| facts.nodes.iter().position(|node| node.ledger.stored.contains(&serial));
        let home = known.serial.and_then(by_ledger).or_else(|| facts.only_owner(key, known.ring))?;
        let losses: u64 = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
        let haunted = facts.last_haunted[home].is_some_and(|at| at >= known.asked);
        let shaken = haunted || known.unsure_since.is_some_and(|since| facts.restless(home, since));
        (asked == home && known.losses == losses && !shaken).then_some(&known.value)
    }

    pub(super) fn read(
        &mut self,
        head: &Expected,
        keys: &[Vec<u8>],
        uniques: bool,
        bytes: &[u8],
        facts: &mut Facts,
    ) -> Option<usize> {
        let mut at = 0;
        let mut missing = Vec::new();
        // Values come in the order of the keys: what is passed over is missing.
        let mut next = 0;
        let mut values = Vec::new();
        let mut failed = false;
        loop {
            let line = line(&bytes[at..])?;
            at += line.len() + 2;
            if line == b"END" {
                break;
            }
            let Some(rest) = line.strip_prefix(b"VALUE ") else {
                if line == b"SERVER_ERROR out of memory reading request" && keys.len() > 100 {
                    (self.refused, failed) = (true, true);
                    break;
                }
                let all = facts.all_nodes();
                self.must_be_failure(line, head, &all, facts);
                assert!(
                    facts.reads_fail || line.starts_with(b"SERVER_ERROR out"),
                    "an error line to a read: {}",
                    show(line)
                );
                failed = true;
                break;
            };
            let words: Vec<&[u8]> = rest.split(|&b| b == b' ').collect();
            assert_eq!(words.len(), if uniques { 4 } else { 3 }, "{:?}", show(line));
            let len: usize = std::str::from_utf8(words[2]).unwrap().parse().unwrap();
            let data = bytes.get(at..at + len + 2)?;
            let Some(place) = (next..keys.len()).find(|place| keys[*place] == words[0]) else {
                panic!(
                    "client {}: {:?} not asked for, or not in its turn, to {:?}",
                    self.number,
                    show(line),
                    keys.iter().map(|key| show(key)).collect::<Vec<_>>()
                );
            };
            missing.extend_from_slice(&keys[next..place]);
            next = place + 1;
            let key = keys[place].clone();
            assert_eq!(&data[len..], b"\r\n");
            if uniques {
                let unique = std::str::from_utf8(words[3]).unwrap().parse().unwrap();
                self.uniques.insert(key.clone(), unique);
            }
            values.push((key, at..at + len));
            at += len + 2;
        }
        for (key, range) in values {
            self.check_value(head, &key, &bytes[range], facts);
        }
        missing.extend_from_slice(&keys[next..]);
        for key in missing.iter().filter(|_| !failed) {
            self.check_miss(head, key, facts);
        }
        Some(at)
    }

    pub(super) fn check_value(&self, head: &Expected, key: &[u8], data: &[u8], facts: &Facts) {
        let found = match serials(key, data) {
            Ok(found) => found,
            Err(error) => panic!("client {}: {error}", self.number),
        };
        let later = self.expected.iter().skip(1).find(
            |later| matches!(&later.kind, Kind::Store { serial, key: other, .. } if *other == key && found.contains(serial)),
        );
        assert!(later.is_none(), "client {}: a read sees its later {later:?}", self.number);
        if let Some(sure) = self.sure(key, head.ring, facts) {
            let age = head.asked;
            assert_eq!(
                Some(&found),
                sure.as_ref(),
                "client {}: not its last value of {} (asked at {age})",
                self.number,
                show(key)
            );
        }
    }

    pub(super) fn check_miss(&self, head: &Expected, key: &[u8], facts: &mut Facts) {
        if let Some(Some(_)) = self.sure(key, head.ring, facts)
            && !facts.shaky(key, head)
        {
            facts.without_room += 1;
        }
    }

    /// Draws the conclusions of the reply to a change; `None` is a request without reply.
    pub(super) fn learn(&mut self, done: &Expected, line: Option<&[u8]>, facts: &mut Facts) {
        let (Kind::Store { key, .. } | Kind::Delete(key) | Kind::Count { key, .. } | Kind::Touch(key)) = &done.kind
        else {
            return;
        };
        // What was never on a connection must never be done.
        if let (Kind::Store { serial, .. } | Kind::Count { serial, .. }, Some(line)) = (&done.kind, line) {
            let never = [&b" takes no requests"[..], b" is down", b" does not accept in time"];
            if *serial > 0 && (never.iter().any(|end| line.ends_with(end)) || facts.lacks_meta(line)) {
                assert!(!facts.reached.contains(serial), "{:?} to {:?}, which was sent", show(line), done.kind);
                facts.unsent.insert(*serial);
            } else if line.ends_with(b" in time") {
                facts.unknown.insert(*serial);
            }
        }
        let own = key.starts_with(format!("c{}.", self.number).as_bytes());
        let before = self.sure(key, done.ring, facts).cloned();
        let soft = |client: &Self, line: &[u8], facts: &mut Facts| {
            let owners = facts.owners(key, done.ring);
            client.must_be_failure(line, done, &owners, facts);
        };
        // What the key is now; `None`: cannot be told.
        let after: Option<Option<Vec<u64>>> = match &done.kind {
            Kind::Store { verb, key, serial, len } => {
                let too_large = *len > MAX_ITEM;
                let line = match (line, &before) {
                    (Some(line), _) => line,
                    (None, _) if too_large => b"SERVER_ERROR object too large for cache",
                    (None, Some(None)) if ["replace", "append", "prepend"].contains(verb) => b"NOT_STORED",
                    (None, Some(Some(_))) if *verb == "add" => b"NOT_STORED",
                    (None, Some(_)) if *verb != "cas" => b"STORED",
                    (None, None) if *verb == "set" => b"STORED",
                    (None, _) => b"?",
                };
                let stored = line == b"STORED";
                if stored && done.quiet {
                    // Nobody said so.
                } else if stored && *serial > 0 {
                    let mut nodes = facts.nodes.iter();
                    assert!(nodes.any(|n| n.ledger.stored.contains(serial)), "a false STORED for {}", show(key));
                } else if stored {
                    facts.claim("STORED", key);
                }
                match (line, *verb) {
                    (b"STORED", "set" | "add" | "replace" | "cas") => {
                        if let Some(old) = &before {
                            let fits = match *verb {
                                "add" => old.is_none(),
                                "replace" | "cas" => old.is_some(),
                                _ => true,
                            };
                            assert!(fits, "{verb} of {} STORED over {old:?}", show(key));
                        }
                        Some(Some(vec![*serial]))
                    }
                    (b"STORED", _) => before.clone().map(|old| {
                        let mut all = old.expect("nothing to append to");
                        let at = if *verb == "append" { all.len() } else { 0 };
                        all.insert(at, *serial);
                        Some(all)
                    }),
                    (b"NOT_STORED", "add" | "replace" | "append" | "prepend") => {
                        if let Some(old) = &before {
                            assert_eq!(old.is_some(), *verb == "add", "NOT_STORED {}", show(key));
                        }
                        before.clone()
                    }
                    (b"EXISTS" | b"NOT_FOUND", "cas") => before.clone(),
                    (b"SERVER_ERROR object too large for cache", _) => {
                        assert!(too_large, "{len} bytes are not too large");
                        if *verb == "set" || done.meta.is_some() { Some(None) } else { before.clone() }
                    }
                    (b"?", _) => None,
                    _ => {
                        soft(self, line, facts);
                        None
                    }
                }
            }
            Kind::Delete(key) => match line {
                None => Some(None),
                Some(b"DELETED") => {
                    facts.claim("DELETED", key);
                    assert_ne!(before, Some(None), "{} was not there", show(key));
                    Some(None)
                }
                Some(b"NOT_FOUND") => {
                    assert!(!matches!(before, Some(Some(_))), "{} was there", show(key));
                    Some(None)
                }
                Some(line) => {
                    soft(self, line, facts);
                    None
                }
            },
            Kind::Touch(key) => {
                match line {
                    None => {}
                    Some(b"TOUCHED") => facts.claim("TOUCHED", key),
                    Some(b"NOT_FOUND") => {
                        let there = matches!(before, Some(Some(_)));
                        assert!(!there || facts.shaky(key, done), "{} was there", show(key));
                    }
                    Some(line) => soft(self, line, facts),
                }
                return;
            }
            Kind::Count { key, .. } => {
                match line {
                    None | Some(b"NOT_FOUND") => {}
                    Some(line) if line.iter().all(u8::is_ascii_digit) => facts.claim("COUNT", key),
                    Some(line) => soft(self, line, facts),
                }
                return;
            }
            _ => return,
        };
        if !own {
            return;
        }
        match after {
            None => {
                self.known.remove(key);
            }
            Some(value) => {
                let rests_on_before = !(matches!(&value, Some(all) if all.len() == 1) || value.is_none());
                let before = self.known.get(key);
                let unsure_since = if done.quiet {
                    Some(before.and_then(|b| b.unsure_since).unwrap_or(done.asked))
                } else if rests_on_before {
                    before.and_then(|b| b.unsure_since)
                } else {
                    None
                };
                let (asked, losses, ring) = (done.asked, done.losses, done.ring);
                let mut known = Known { value, unsure_since, asked, losses, ring, serial: None };
                match (&done.kind, &known.value) {
                    (Kind::Store { serial, .. }, Some(all)) if all.contains(serial) => known.serial = Some(*serial),
                    // It is what it was, where it was.
                    (Kind::Store { .. }, Some(_)) => {
                        known.ring = before.map_or(done.ring, |b| b.ring);
                        known.serial = before.and_then(|b| b.serial);
                    }
                    _ => {}
                }
                self.known.insert(key.clone(), known);
            }
        }
    }
}
