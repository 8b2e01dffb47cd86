//! The same requests by meta commands.
//!
//! Behind each quiet one is an `mn`: what has not been answered when `MN` comes was done, or is a miss.

use data_encoding::BASE64;

use super::reply::LEFT;
use super::{Client, Ending, Expected, Facts, Kind, line};
use crate::Rng;
use crate::node::{MAX_ITEM, segment, show};

/// How a request was asked.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// It is answered by a value.
    value: bool,
    /// A read that changes what it reads: its loss is an error.
    writes: bool,
    /// What its reply names, in this order.
    names: Vec<Vec<u8>>,
}

impl Client {
    /// Makes one meta request: its bytes and what is expected.
    pub(super) fn ask_meta(&mut self, facts: &mut Facts, rng: &mut Rng) {
        let large = facts.large_writes > 0 && rng.one_in(20);
        let mut value = false;
        let mut writes = false;
        let mut flags: Vec<String> = Vec::new();
        let mut block = None;
        let key = |client: &Self, facts: &mut Facts, rng: &mut Rng| {
            // Text cannot carry the last.
            if rng.one_in(12) { format!("c{}.\0\r\n m", client.number).into_bytes() } else { client.key(facts, rng) }
        };
        let (verb, key, kind) = match if large { 50 } else { rng.below(100) } {
            0..48 => {
                let key = key(self, facts, rng);
                value = !rng.one_in(5);
                flags.extend(["v".to_owned()].into_iter().filter(|_| value));
                flags.extend(["c", "s", "f", "t"].into_iter().filter(|_| rng.one_in(3)).map(str::to_owned));
                let mut keys = vec![key];
                match rng.below(12) {
                    0 if value => (writes, _) = (true, flags.push("T0".to_owned())),
                    // Only what nobody is sure of.
                    1 => (keys[0], writes, _) = (b"hot".to_vec(), true, flags.push("N30".to_owned())),
                    2 if value => (keys[0], _) = (b"hot".to_vec(), flags.push("T-1".to_owned())),
                    _ => {}
                }
                ("mg", keys[0].clone(), Kind::Read { keys, uniques: false })
            }
            48..76 => {
                let verb = ["set", "set", "set", "set", "add", "replace", "append", "prepend", "cas"][rng.below(9)];
                let (key, verb, fill) = if large {
                    facts.large_writes -= 1;
                    let size = facts.bulk_above - 100 + rng.below(facts.bulk_above);
                    let size = if rng.one_in(6) { MAX_ITEM + 100 } else { size };
                    (self.large_key(rng), if rng.one_in(4) { "add" } else { "set" }, size)
                } else {
                    let key = match key(self, facts, rng) {
                        key if key.starts_with(b"large") || key.ends_with(b"large") => b"hot".to_vec(),
                        key => key,
                    };
                    let most = [1, 50, 1_000, 20_000, 150_000][rng.below(5)];
                    (key, verb, rng.below(most))
                };
                facts.next_serial += 1;
                let serial = facts.next_serial;
                let data = segment(&key, serial, fill);
                match verb {
                    "add" => flags.push("ME".to_owned()),
                    "replace" => flags.push("MR".to_owned()),
                    "append" => flags.push("MA".to_owned()),
                    "prepend" => flags.push("MP".to_owned()),
                    "cas" => flags.push(format!("C{}", self.uniques.get(&key).copied().unwrap_or(1))),
                    _ if rng.one_in(3) => flags.push("MS".to_owned()),
                    _ => {}
                }
                flags.extend(["F4294967295", "T0", "c"].into_iter().filter(|_| rng.one_in(3)).map(str::to_owned));
                let (len, bad) = (data.len(), rng.one_in(25));
                block = Some((data, bad));
                let store = Kind::Store { verb, key: key.clone(), serial, len };
                ("ms", key, if bad { Kind::Line("CLIENT_ERROR bad data chunk") } else { store })
            }
            76..82 => {
                let key = key(self, facts, rng);
                *facts.asked.entry(("delete", key.clone())).or_insert(0) += 1;
                ("md", key.clone(), Kind::Delete(key))
            }
            82..88 => {
                let key = format!("n.{}", rng.below(3)).into_bytes();
                value = rng.one_in(2);
                facts.next_serial += 1;
                let serial = facts.next_serial;
                flags.push(format!("D{serial}"));
                flags.extend(
                    ["MD", "v"]
                        .into_iter()
                        .zip([rng.one_in(3), value])
                        .filter(|(_, is)| *is)
                        .map(|(flag, _)| flag.to_owned()),
                );
                ("ma", key.clone(), Kind::Count { key, serial })
            }
            88..92 => {
                let key = key(self, facts, rng);
                flags.push("T0".to_owned());
                // Behind a large value that is asked for again it is asked again, too: it changes nothing twice. Any value may
                // be large where the limit is low.
                let most = if key.starts_with(b"large.") || facts.bulk_above < 1 << 20 { 2 } else { 1 };
                *facts.asked.entry(("touch", key.clone())).or_insert(0) += most;
                ("mg", key.clone(), Kind::Touch(key))
            }
            92..95 => ("me", key(self, facts, rng), Kind::Debug),
            95 => ("mg", b"hot q q".to_vec(), Kind::Line("CLIENT_ERROR duplicate flag")),
            96 => ("md", b"hot z".to_vec(), Kind::Line("CLIENT_ERROR invalid or duplicate flag")),
            97 => {
                block = Some((b"mg hot v\r\nflush_all\r\n".to_vec(), false));
                flags.push("Mx".to_owned());
                ("ms", b"hot".to_vec(), Kind::Line("CLIENT_ERROR invalid mode for ms M token"))
            }
            _ => ("mg", "x".repeat(251).into_bytes(), Kind::Line("CLIENT_ERROR bad command line format")),
        };
        // A node would name such a key as it is, and one answer would be two lines.
        let kind = if verb == "me" && key.contains(&b'\n') {
            Kind::Line("CLIENT_ERROR bad command line format")
        } else {
            kind
        };
        let refused = matches!(kind, Kind::Line(_));
        let mut word = key.clone();
        let needs_base64 = key.contains(&0);
        if needs_base64 || !refused && key.len() <= 186 && rng.one_in(5) {
            word = BASE64.encode(&key).into_bytes();
            flags.insert(0, "b".to_owned());
        }
        let quiet = !refused && verb != "me" && rng.one_in(3);
        let mut names = Vec::new();
        if !refused && verb != "me" && rng.one_in(2) {
            facts.next_serial += 1;
            flags.push(format!("O{}", facts.next_serial));
            names.push(flags.last().unwrap().clone().into_bytes());
        }
        if !refused && verb != "me" && rng.one_in(3) {
            flags.push("k".to_owned());
            names.push([b"k", &*word].concat());
        }
        if quiet {
            flags.push("q".to_owned());
        }
        let mut line = [verb.as_bytes(), b" ", &*word].concat();
        if let Some((data, _)) = &block {
            line.extend_from_slice(format!(" {}", data.len()).as_bytes());
        }
        for flag in flags {
            line.extend_from_slice(if rng.one_in(10) { b"  " } else { b" " });
            line.extend_from_slice(flag.as_bytes());
        }
        line.extend_from_slice(if rng.one_in(10) { b"\n" } else { b"\r\n" });
        if let Some((data, bad)) = block {
            line.extend_from_slice(&data);
            line.extend_from_slice(if bad { b"XY" } else { b"\r\n" });
        }
        let cut = self.left == 0 && self.ending == Ending::HalfCloses && !quiet && rng.one_in(2);
        let losses = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
        let (asked, ring) = (facts.now, facts.rings.len() - 1);
        let meta = (!refused).then_some(Form { value, writes, names });
        self.expected.push_back(Expected { kind, meta, quiet, asked, ring, losses, optional: cut });
        if cut {
            line.truncate(rng.below(line.len()));
        }
        self.outbox.extend(line);
        if quiet {
            self.outbox.extend(b"mn\r\n");
            let kind = Kind::Line("MN");
            self.expected.push_back(Expected { kind, meta: None, quiet: false, asked, ring, losses, optional: false });
        }
    }

    /// Checks the reply to a meta request; `None` while it is not whole.
    pub(super) fn meta_reply(
        &mut self,
        asked: &Expected,
        form: &Form,
        bytes: &[u8],
        facts: &mut Facts,
    ) -> Option<usize> {
        let line = line(bytes)?;
        let used = Some(line.len() + 2);
        // By the `MN` behind it at the latest a client knows what became of it.
        let head = &Expected { quiet: false, ..asked.clone() };
        if asked.quiet && line == b"MN" {
            match &head.kind {
                Kind::Read { keys, .. } => self.check_miss(head, &keys[0], facts),
                Kind::Touch(_) => self.learn(head, Some(b"NOT_FOUND"), facts),
                Kind::Delete(_) => self.learn(head, Some(b"DELETED"), facts),
                Kind::Count { .. } => self.learn(head, Some(b"1"), facts),
                _ => self.learn(head, Some(b"STORED"), facts),
            }
            return Some(0);
        }
        let is_error = [&b"SERVER_ERROR"[..], b"CLIENT_ERROR"].iter().any(|start| line.starts_with(start));
        // Of one that has sent its end: what lies behind a quiet read that missed is not carried out.
        let hides_miss = asked.quiet && !facts.reads_fail && !form.writes && matches!(head.kind, Kind::Read { .. });
        if hides_miss && self.fin && line.ends_with(LEFT) {
            return Some(0);
        }
        if is_error {
            if let Kind::Read { .. } | Kind::Debug = &head.kind {
                let all = facts.all_nodes();
                self.must_be_failure(line, head, &all, facts);
                let may = facts.reads_fail || form.writes || facts.lacks_meta(line);
                assert!(may || line.starts_with(b"SERVER_ERROR out"), "an error line to a read: {}", show(line));
            } else {
                self.learn(head, Some(line), facts);
            }
            return used;
        }
        assert!(line != b"ERROR", "a meta command that its node does not know: {head:?}");
        let mut words = line.split(|&b| b == b' ').filter(|word| !word.is_empty());
        let status = words.next().unwrap();
        let told: Vec<&[u8]> = words.filter(|word| matches!(word[0], b'O' | b'k')).collect();
        assert!(status == b"ME" || told == form.names, "client {}: {:?} to {head:?}", self.number, show(line));
        let mut data = None;
        if status == b"VA" {
            assert!(form.value, "a value to {head:?}");
            let len: usize = show(line.split(|&b| b == b' ').nth(1).unwrap()).parse().unwrap();
            let block = bytes.get(line.len() + 2..line.len() + 2 + len + 2)?;
            assert_eq!(&block[len..], b"\r\n");
            data = Some(&block[..len]);
        }
        let hidden = asked.quiet && (status == b"EN" || !matches!(head.kind, Kind::Read { .. } | Kind::Touch(_)));
        let success = matches!(status, b"EN" | b"HD" | b"VA");
        assert!(!(hidden && success), "client {}: {:?} to the quiet {head:?}", self.number, show(line));
        match (&head.kind, status, data) {
            (Kind::Read { keys, .. }, b"VA", Some(data)) => {
                self.check_value(head, &keys[0], data, facts);
                let unique = line.split(|&b| b == b' ').find_map(|word| word.strip_prefix(b"c"));
                if let Some(unique) = unique.filter(|_| !form.writes) {
                    self.uniques.insert(keys[0].clone(), show(unique).parse().unwrap());
                }
            }
            (Kind::Read { keys, .. }, b"HD", None) if !form.value => {
                let sure = self.sure(&keys[0], head.ring, facts);
                assert!(!matches!(sure, Some(None)), "client {}: {} is not there", self.number, show(&keys[0]));
            }
            (Kind::Read { keys, .. }, b"EN", None) => self.check_miss(head, &keys[0], facts),
            (Kind::Debug, b"ME" | b"EN", None) => {}
            (Kind::Touch(_), b"HD", None) => self.learn(head, Some(b"TOUCHED"), facts),
            (Kind::Touch(_), b"EN", None) => self.learn(head, Some(b"NOT_FOUND"), facts),
            (Kind::Delete(_), b"HD", None) => self.learn(head, Some(b"DELETED"), facts),
            (Kind::Delete(_) | Kind::Count { .. }, b"NF", None) => self.learn(head, Some(b"NOT_FOUND"), facts),
            (Kind::Count { .. }, b"HD", None) if !form.value => self.learn(head, Some(b"1"), facts),
            (Kind::Count { .. }, b"VA", Some(data)) => self.learn(head, Some(data), facts),
            (Kind::Store { .. }, b"HD", None) => self.learn(head, Some(b"STORED"), facts),
            (Kind::Store { .. }, b"NS", None) => self.learn(head, Some(b"NOT_STORED"), facts),
            (Kind::Store { .. }, b"EX", None) => self.learn(head, Some(b"EXISTS"), facts),
            (Kind::Store { .. }, b"NF", None) => self.learn(head, Some(b"NOT_FOUND"), facts),
            _ => panic!("client {}: {:?} to {head:?}", self.number, show(line)),
        }
        used.map(|used| used + data.map_or(0, |data| data.len() + 2))
    }
}
