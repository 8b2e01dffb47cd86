//! What it asks.

use super::facts::Facts;
use super::{Client, Ending, Expected, Kind, LARGE_KEYS, LONG};
use crate::Rng;
use crate::node::{MAX_ITEM, segment, show};

impl Client {
    fn load(&mut self, facts: &mut Facts, rng: &mut Rng) {
        self.left -= 1;
        for _ in 0..20 {
            facts.next_serial += 1;
            let serial = facts.next_serial;
            facts.loaded.push(serial);
            let key = format!("load.{}", rng.below(300)).into_bytes();
            let data = segment(&key, serial, 4_000);
            let (asked, ring) = (facts.now, facts.rings.len() - 1);
            self.outbox.extend(format!("set {} 0 0 {} noreply\r\n", show(&key), data.len()).as_bytes());
            self.outbox.extend(&data);
            self.outbox.extend(b"\r\n");
            let kind = Kind::Store { verb: "set", key, serial, len: data.len() };
            let losses = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
            self.expected.push_back(Expected { kind, meta: None, quiet: true, asked, ring, losses, optional: false });
        }
    }

    fn own_key(&self, rng: &mut Rng) -> Vec<u8> {
        let long = if rng.one_in(4) { LONG } else { "" };
        format!("c{}.{}{long}", self.number, rng.below(3)).into_bytes()
    }

    pub(super) fn key(&self, facts: &mut Facts, rng: &mut Rng) -> Vec<u8> {
        match rng.below(24) {
            0..9 => self.own_key(rng),
            9..14 => b"hot".to_vec(),
            14..19 => format!("s.{}", rng.below(6)).into_bytes(),
            19 => format!("s.{}{LONG}{LONG}", rng.below(2)).into_bytes(),
            20..23 if facts.large_reads > 0 => {
                facts.large_reads -= 1;
                self.large_key(rng)
            }
            _ if rng.one_in(2) => {
                facts.next_serial += 1;
                format!("once.{}", facts.next_serial).into_bytes()
            }
            _ => b"nobody.writes.this".to_vec(),
        }
    }

    pub(super) fn large_key(&self, rng: &mut Rng) -> Vec<u8> {
        if rng.one_in(3) {
            format!("c{}.large", self.number).into_bytes()
        } else {
            format!("large.{}", rng.below(LARGE_KEYS)).into_bytes()
        }
    }

    /// Makes one request: its bytes and what is expected.
    pub(crate) fn ask(&mut self, facts: &mut Facts, rng: &mut Rng) {
        if self.loads {
            return self.load(facts, rng);
        }
        self.left -= 1;
        if rng.one_in(3) {
            self.ask_meta(facts, rng);
            return self.leave_if_done();
        }
        let mut line = Vec::new();
        let mut quiet = false;
        let mut block = None;
        let gap: &[u8] = if rng.one_in(10) { b"   " } else { b" " };
        let word = |line: &mut Vec<u8>, word: &[u8]| {
            line.extend_from_slice(word);
            line.extend_from_slice(gap);
        };
        let last = self.left == 0 && self.ending == Ending::HalfCloses;
        let large = facts.large_writes > 0 && (last || rng.one_in(20));
        let kind = match if large { 50 } else { rng.below(100) } {
            0..48 => {
                let (verb, exptime, uniques) = match rng.below(10) {
                    0 => ("gets", None, true),
                    1 => ("gat", Some("0"), false),
                    2 => ("gats", Some("5000"), true),
                    3 if rng.one_in(4) => ("gat", Some("-1"), false),
                    _ => ("get", None, false),
                };
                let drops = exptime == Some("-1");
                let count = match rng.below(8) {
                    0 => 2 + rng.below(6),
                    1 => 2 + rng.below(60),
                    _ => 1,
                };
                let long = facts.long_reads > 0 && rng.one_in(20);
                let count = if long { [300, 5_000][rng.below(2)] + rng.below(1_000) } else { count };
                facts.long_reads -= usize::from(long);
                let keys: Vec<Vec<u8>> = (0..count)
                    .map(|_| match drops {
                        // Only what nobody is sure of.
                        true => b"hot".to_vec(),
                        false if long && count < 2_000 => {
                            format!("{}{LONG}{LONG}.{}", if rng.one_in(2) { "nobody" } else { "s.1" }, rng.below(9))
                                .into()
                        }
                        // The others may be large, and the same value comes as often as it is asked for.
                        false if long && !rng.one_in(200) => {
                            if rng.one_in(50) { &b"hot"[..] } else { b"none" }.to_vec()
                        }
                        false => self.key(facts, rng),
                    })
                    .collect();
                line.extend_from_slice(verb.as_bytes());
                for key in exptime.iter().map(|e| e.as_bytes()).chain(keys.iter().map(|k| &**k)) {
                    line.push(b' ');
                    line.extend_from_slice(key);
                }
                Kind::Read { keys, uniques }
            }
            48..80 => {
                let verb = ["set", "set", "set", "set", "add", "replace", "append", "prepend", "cas"][rng.below(9)];
                let (key, verb, fill) = if large {
                    facts.large_writes -= 1;
                    let size = facts.bulk_above - 100 + rng.below(facts.bulk_above);
                    let size = if rng.one_in(6) { MAX_ITEM + 100 } else { size };
                    let verb = if rng.one_in(4) { "add" } else { "set" };
                    (self.large_key(rng), verb, size)
                } else {
                    let key = match self.key(facts, rng) {
                        key if key.starts_with(b"large") || key.ends_with(b"large") => b"hot".to_vec(),
                        key => key,
                    };
                    let most = [1, 50, 1_000, 20_000, 150_000][rng.below(5)];
                    (key, verb, rng.below(most))
                };
                facts.next_serial += 1;
                let serial = facts.next_serial;
                let data = segment(&key, serial, fill);
                quiet = rng.one_in(4);
                let gone = key.starts_with(b"s.") && rng.one_in(10);
                word(&mut line, verb.as_bytes());
                word(&mut line, &key);
                word(&mut line, if rng.one_in(2) { b"0" } else { b"4294967295" });
                word(&mut line, if gone { b"-1" } else { b"0" });
                line.extend_from_slice(data.len().to_string().as_bytes());
                if verb == "cas" {
                    let unique = self.uniques.get(&key).copied().unwrap_or(1);
                    line.extend_from_slice(format!(" {unique}").as_bytes());
                }
                let len = data.len();
                let bad = rng.one_in(25);
                block = Some((data, bad));
                if bad { Kind::Line("CLIENT_ERROR bad data chunk") } else { Kind::Store { verb, key, serial, len } }
            }
            80..85 => {
                let key = self.key(facts, rng);
                quiet = rng.one_in(4);
                word(&mut line, b"delete");
                line.extend_from_slice(&key);
                *facts.asked.entry(("delete", key.clone())).or_insert(0) += 1;
                Kind::Delete(key)
            }
            85..89 => {
                let key = format!("n.{}", rng.below(3)).into_bytes();
                quiet = rng.one_in(4);
                if rng.one_in(3) {
                    let data = format!("{}000000000", 1 + (key[2] - b'0')).into_bytes();
                    line = [b"set ", &*key, b" 0 0 10"].concat();
                    block = Some((data, false));
                    Kind::Store { verb: "set", key, serial: 0, len: 10 }
                } else {
                    word(&mut line, if rng.one_in(3) { b"decr" } else { b"incr" });
                    word(&mut line, &key);
                    facts.next_serial += 1;
                    let serial = facts.next_serial;
                    line.extend_from_slice(serial.to_string().as_bytes());
                    Kind::Count { key, serial }
                }
            }
            89..92 => {
                let key = self.key(facts, rng);
                quiet = rng.one_in(4);
                word(&mut line, b"touch");
                word(&mut line, &key);
                line.extend_from_slice(b"0");
                *facts.asked.entry(("touch", key.clone())).or_insert(0) += 1;
                Kind::Touch(key)
            }
            92 => {
                line.extend_from_slice(b"version");
                Kind::Line("VERSION 1.")
            }
            93 => {
                line.extend_from_slice(b"mn");
                Kind::Line("MN")
            }
            94 => {
                line.extend_from_slice(b"verbosity 1");
                quiet = rng.one_in(2);
                Kind::Line("OK")
            }
            95 => {
                let what = ["", " items", " sum", " nodes", " slabs", " settings"][rng.below(6)];
                line.extend_from_slice(format!("stats{what}").as_bytes());
                Kind::Stats
            }
            96 if facts.flushes => {
                line.extend_from_slice(b"flush_all");
                quiet = rng.one_in(3);
                Kind::Flush
            }
            97 => {
                line = [b"get hot ", "x".repeat(251).as_bytes(), b" hot"].concat();
                Kind::Line("CLIENT_ERROR bad command line format")
            }
            98 => {
                line.extend_from_slice(b"set hot flags 0 9");
                block = Some((b"get hot\r\n".to_vec(), false));
                Kind::Line("CLIENT_ERROR bad command line format")
            }
            _ => {
                line.extend_from_slice(b"bogus");
                Kind::Line("ERROR")
            }
        };
        if quiet {
            line.extend_from_slice(b" noreply");
        }
        line.extend_from_slice(if rng.one_in(10) { b"\n" } else { b"\r\n" });
        if let Some((data, bad)) = block {
            line.extend_from_slice(&data);
            line.extend_from_slice(if bad { b"XY" } else { b"\r\n" });
        }
        let cut = last && rng.one_in(2);
        let losses = facts.nodes.iter().map(|n| n.ledger.flushes + n.ledger.wipes).sum();
        let ring = facts.rings.len() - 1;
        self.expected.push_back(Expected { kind, meta: None, quiet, asked: facts.now, ring, losses, optional: cut });
        if cut {
            line.truncate(rng.below(line.len()));
        }
        self.outbox.extend(line);
        self.leave_if_done();
    }

    fn leave_if_done(&mut self) {
        if self.left == 0 {
            if self.ending == Ending::Quits {
                self.outbox.extend(b"quit\r\nget hot\r\n");
            }
            self.fin = self.ending != Ending::Vanishes;
            if self.ending == Ending::Stays {
                self.fin = false;
            }
        }
    }
}
