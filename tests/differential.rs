//! The same random sessions to a real memcached directly and through slipring: the answers must be
//! equal, byte for byte, the order of the `VALUE` blocks of one reply and repeated keys included; with
//! three nodes the uniques may differ (each node counts its own).
//!
//! A failure prints its seed and the shortest session found that still shows it.
//! `SLIPRING_TEST_SEED=n` runs that seed alone, `SLIPRING_TEST_SEEDS=n` runs so many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

#[path = "differential/binary.rs"]
mod binary;
#[path = "support/meta_streams.rs"]
mod meta_streams;
mod support;

use meta_streams::{Contents, masked};
use slipring::protocol::binary::opcode;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use support::packets::{Ask, ask, join, set, store, timed};
use support::{Memcached, Random, Slipring, TextClient, number_from_environment, shown};

// === the sessions ===

/// One request of a session: a line, and the block behind it.
type Piece = Vec<u8>;

/// What a session may contain.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Everything that is no deviation.
    Hostile,
    /// As `Hostile`, but no unique that could be right: three nodes count their own.
    HostileOverNodes,
    /// What a client library sends.
    Ordinary,
    /// Meta requests, and classic ones between them.
    Meta,
    /// As `Meta`, but no unique that could be right.
    MetaOverNodes,
    /// Packets.
    Binary,
    /// As `Binary`, but no unique that could be right.
    BinaryOverNodes,
}

impl Kind {
    fn is_binary(self) -> bool {
        matches!(self, Self::Binary | Self::BinaryOverNodes)
    }
}

const STORAGE: &[&str] = &["set", "set", "set", "set", "add", "replace", "append", "prepend"];
const KEYS: usize = 12;

struct Session<'a> {
    random: &'a mut Random,
    kind: Kind,
}

impl Session<'_> {
    fn pieces(random: &mut Random, kind: Kind) -> Vec<Piece> {
        if kind.is_binary() {
            return binary::pieces(random, kind == Kind::Binary);
        }
        let count = random.between(20, 200);
        let mut session = Session { random, kind };
        let mut pieces: Vec<Piece> = (0..count).map(|_| session.piece()).collect();
        if session.random.one_in(4) {
            pieces.push(b"quit\r\n".to_vec());
            pieces.push(b"get k1\r\n".to_vec());
        }
        pieces
    }

    fn hostile(&self) -> bool {
        self.kind != Kind::Ordinary
    }

    fn key(&mut self) -> Vec<u8> {
        if self.hostile() {
            match self.random.below(60) {
                0 => return vec![b'K'; 250],
                1 => return b"tab\there".to_vec(),
                2 => return b"\x01\x7f\x80\xff".to_vec(),
                3 => return b"cr\rhere".to_vec(),
                4 => return b"noreply".to_vec(),
                5 => return b"0".to_vec(),
                _ => {}
            }
        }
        format!("k{}", self.random.below(KEYS)).into_bytes()
    }

    /// A key for a line without a block, so it may be too long. (In a retrieval it may not, here:
    /// that is one of the deviations.)
    fn key_of_a_line(&mut self) -> Vec<u8> {
        if self.hostile() && self.random.one_in(80) {
            return vec![b'L'; self.random.between(251, 300)];
        }
        self.key()
    }

    fn flags(&mut self) -> &'static str {
        if self.hostile() {
            self.random.pick(&["0", "1", "4294967295", "4294967296", "007", "+5"])
        } else {
            self.random.pick(&["0", "1", "4294967295"])
        }
    }

    /// Never one that comes to pass while the test runs.
    fn exptime(&mut self) -> &'static str {
        if self.hostile() {
            self.random.pick(&[
                "0",
                "0",
                "0",
                "100000",
                "2592000",
                "2592001",
                "-1",
                "4102444800",
                "99999999999",
                "+100000",
            ])
        } else {
            self.random.pick(&["0", "0", "0", "100000", "-1"])
        }
    }

    fn number(&mut self) -> &'static str {
        if self.hostile() {
            self.random.pick(&[
                "0",
                "1",
                "10",
                "99",
                "18446744073709551616",
                "-1",
                "x",
                "1x",
                "+1",
                "007",
                "99999999999999999999999999",
            ])
        } else {
            self.random.pick(&["0", "1", "7", "99", "1000000"])
        }
    }

    fn block(&mut self) -> Vec<u8> {
        match self.random.below(10) {
            0 => Vec::new(),
            1 | 2 => self.random.below(1_000).to_string().into_bytes(),
            3 => b"9000000000".to_vec(),
            4 => b"\r\nget k1\r\nEND\r\nflush_all".to_vec(),
            5 => {
                let length = self.random.between(1, 20_000);
                (0..length).map(|_| self.random.next() as u8).collect()
            }
            _ => {
                let length = self.random.between(1, 40);
                (0..length).map(|_| b'a' + self.random.below(26) as u8).collect()
            }
        }
    }

    fn end(&mut self) -> &'static str {
        if self.hostile() && self.random.one_in(6) { self.random.pick(&["\n", " \r\n", "  \n"]) } else { "\r\n" }
    }

    fn noreply(&mut self) -> &'static str {
        match self.random.below(20) {
            0..=3 => " noreply",
            4 if self.hostile() => self.random.pick(&[" noreplY", " nOreply", " x"]),
            _ => "",
        }
    }

    fn space(&mut self) -> &'static str {
        if self.hostile() && self.random.one_in(15) { self.random.pick(&["  ", "    "]) } else { " " }
    }

    /// Words with spaces between them, and a line end.
    fn line(&mut self, words: &[&[u8]], noreply: &str) -> Piece {
        let mut line = Vec::new();
        if self.hostile() && self.random.one_in(40) {
            line.extend_from_slice(b"  ");
        }
        for (at, word) in words.iter().enumerate() {
            if at > 0 {
                let space = self.space();
                line.extend_from_slice(space.as_bytes());
            }
            line.extend_from_slice(word);
        }
        line.extend_from_slice(noreply.as_bytes());
        let end = self.end();
        line.extend_from_slice(end.as_bytes());
        line
    }

    fn piece(&mut self) -> Piece {
        if matches!(self.kind, Kind::Meta | Kind::MetaOverNodes) && !self.random.one_in(20) {
            let contents = Contents { uniques: self.kind == Kind::Meta, direct: false };
            let mut piece = Piece::new();
            meta_streams::request(&mut |n| self.random.below(n), contents, &mut piece);
            return piece;
        }
        if self.kind == Kind::Meta || self.kind == Kind::MetaOverNodes {
            return self.line(&[b"mn"], "");
        }
        match self.random.below(100) {
            0..30 => self.storage(),
            30..36 => self.cas(),
            36..62 => self.retrieval(),
            62..70 => self.arithmetic(),
            70..77 => {
                let key = self.key_of_a_line();
                let noreply = self.noreply();
                self.line(&[b"delete", &key], noreply)
            }
            77..83 => {
                let (key, exptime) = (self.key_of_a_line(), self.exptime());
                let noreply = self.noreply();
                self.line(&[b"touch", &key, exptime.as_bytes()], noreply)
            }
            83..85 => self.line(&[b"version"], ""),
            85..87 => self.line(&[b"mn"], ""),
            87 => {
                let noreply = self.noreply();
                // A level that makes memcached say nothing on its own output.
                self.line(&[b"verbosity", b"0"], noreply)
            }
            88 => {
                let noreply = if self.random.one_in(2) { " noreply" } else { "" };
                self.line(&[b"flush_all"], noreply)
            }
            _ if self.hostile() => self.oddity(),
            _ => self.retrieval(),
        }
    }

    /// How memcached stores a number that got shorter depends on who else holds the item at that
    /// moment: a reply that waits, or its own LRU thread. So no number here gets shorter.
    fn arithmetic(&mut self) -> Piece {
        let noreply = self.noreply();
        if self.random.one_in(2) {
            let verb = self.random.pick(&["incr", "decr"]);
            let key = format!("n{}", self.random.below(3));
            let mut piece = format!("add {key} 0 0 10\r\n5000000000\r\n").into_bytes();
            let delta = self.random.pick(&["0", "1", "99"]);
            piece.extend(self.line(&[verb.as_bytes(), key.as_bytes(), delta.as_bytes()], noreply));
            return piece;
        }
        let (key, number) = (self.key_of_a_line(), self.number());
        // Now and then a client waits for all it is owed before it goes on.
        let mut piece = barrier(self.random.next());
        piece.extend(self.line(&[b"incr", &key, number.as_bytes()], noreply));
        piece
    }

    fn storage(&mut self) -> Piece {
        let verb = self.random.pick(STORAGE);
        let (key, flags, exptime) = (self.key(), self.flags(), self.exptime());
        let block = self.block();
        let length = block.len().to_string();
        let noreply = self.noreply();
        let words = [verb.as_bytes(), &key, flags.as_bytes(), exptime.as_bytes(), length.as_bytes()];
        let mut piece = self.line(&words, noreply);
        piece.extend_from_slice(&block);
        if self.hostile() && self.random.one_in(25) {
            // Too short or too long by a few, or with another end: `bad data chunk`, and the rest
            // is what it is. It never reaches into the next request, which could become a line too
            // long to be anything.
            let chunk_end = self.random.pick(&["\nmn\r\n", "x\r\n", "mn\r\n", "\rmn\r\n", "..\r\nmn\r\n"]);
            piece.extend_from_slice(chunk_end.as_bytes());
        } else {
            piece.extend_from_slice(b"\r\n");
        }
        piece
    }

    fn cas(&mut self) -> Piece {
        let key = self.key();
        let unique = if self.kind == Kind::Hostile {
            self.random.between(1, 150).to_string()
        } else {
            "18446744073709551615".to_owned()
        };
        let block = self.block();
        let length = block.len().to_string();
        let noreply = if self.random.one_in(5) { " noreply" } else { "" };
        let words = [&b"cas"[..], &key, b"0", b"0", length.as_bytes(), unique.as_bytes()];
        let mut piece = self.line(&words, noreply);
        piece.extend_from_slice(&block);
        piece.extend_from_slice(b"\r\n");
        piece
    }

    fn retrieval(&mut self) -> Piece {
        let verb = self.random.pick(&["get", "get", "get", "gets", "gat", "gats"]);
        let count = match self.random.below(12) {
            0..6 => 1,
            6..10 => self.random.between(2, 6),
            10 => self.random.between(20, 40),
            _ if verb.starts_with("gat") => self.random.between(7, 30),
            _ => self.random.between(100, 1_500),
        };
        let mut words: Vec<Vec<u8>> = vec![verb.as_bytes().to_vec()];
        if verb.starts_with("gat") {
            words.push(self.exptime().as_bytes().to_vec());
        }
        for _ in 0..count {
            // Long keys only in short lists: a `gat` line must stay below 2,048 bytes, for
            // memcached's own sake.
            let key = if count < 7 {
                self.key()
            } else {
                let letter = self.random.pick(&["k", "k", "k", "n"]);
                format!("{letter}{}", self.random.below(2 * KEYS)).into_bytes()
            };
            words.push(key);
        }
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.line(&words, "")
    }

    /// Lines no client library sends. None has a block behind it.
    fn oddity(&mut self) -> Piece {
        let fixed: &[&str] = &[
            "",
            " ",
            "\r",
            "x",
            "GET k1",
            "gett k1",
            "ge",
            "get",
            "gets ",
            "gat",
            "gats",
            "gat 0",
            "gat x k1",
            "gats x k1",
            "gat k1",
            "incr",
            "incr k1",
            "incr k1 noreply",
            "decr k1 1 2 3",
            "delete",
            "delete k1 0",
            "delete k1 0 noreply",
            "delete k1 1",
            "delete k1 1 noreply",
            "delete k1 0 0",
            "delete k1 0 0 noreply",
            "delete noreply",
            "touch",
            "touch k1",
            "touch k1 x",
            "touch k1 x noreply",
            "touch k1 0 0 0",
            "incr k1 x noreply",
            "foo noreply",
            "noreply",
            "verbosity",
            "verbosity x",
            "verbosity 0 0",
            "verbosity 0 0 0",
            "verbosity noreply",
            "version x",
            "version noreply",
            "mn x",
            "flush_all x",
            "flush_all x noreply",
            "flush_all 0 0",
            "flush_all 0 0 0",
            "flush_all 1 2 noreply",
            "flush_all -1x",
            "quitt",
            "stats nonsense",
            "stats noreply",
            "STATS",
            "VALUE k1 0 1",
            "END",
            "STORED",
            "\x01\x02",
            "\t",
            "get\tk1",
            "\tget k1",
        ];
        let text = self.random.pick(fixed);
        let end = if self.random.one_in(4) { "\n" } else { "\r\n" };
        format!("{text}{end}").into_bytes()
    }
}

// === running and comparing ===

/// A request whose reply cannot be mistaken. What comes behind it is sent when that has come; the
/// empty lines are for a data chunk that wants two bytes more.
fn barrier(number: u64) -> Piece {
    format!("\r\n\r\nset B{number} 0 0 1 noreply\r\nx\r\nget B{number}\r\n").into_bytes()
}

/// The reply to the barrier that these bytes begin with, and the barrier's length.
fn barrier_in(piece: &[u8]) -> Option<(Vec<u8>, usize)> {
    if piece.starts_with(b"\x80") {
        return binary::barrier_in(piece);
    }
    let digits = piece.strip_prefix(b"\r\n\r\nset B")?.split(|&byte| byte == b' ').next()?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let reply = format!("VALUE B{number} 0 1\r\nx\r\nEND\r\n").into_bytes();
    Some((reply, barrier(number).len()))
}

/// What is sent in one go, cut anywhere, and the reply to wait for then.
struct Stretch {
    parts: Vec<Vec<u8>>,
    until: Option<Vec<u8>>,
}

fn stretches(pieces: &[Piece], kind: Kind, random: &mut Random) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut bytes = Vec::new();
    for piece in pieces {
        let mut piece = &piece[..];
        if let Some((reply, length)) = barrier_in(piece) {
            bytes.extend_from_slice(&piece[..length]);
            piece = &piece[length..];
            stretches.push(Stretch { parts: split(&bytes, random), until: Some(reply) });
            bytes.clear();
        }
        bytes.extend_from_slice(piece);
    }
    // A data chunk with a bad end may want two bytes more than the session has, and memcached loses
    // what it has not yet written when a connection ends within a request.
    bytes.extend_from_slice(&if kind.is_binary() { binary::end() } else { b"\r\n\r\nmn\r\n".to_vec() });
    stretches.push(Stretch { parts: split(&bytes, random), until: None });
    stretches
}

/// Cuts anywhere, requests or not.
fn split(mut rest: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let most = random.pick(&[1, 3, 40, 3_000, 100_000]);
    while !rest.is_empty() {
        // Single bytes are for the first part only: each costs a packet.
        let most = if parts.len() > 1_000 { 100_000 } else { most };
        let (part, left) = rest.split_at(random.between(1, most).min(rest.len()));
        parts.push(part.to_vec());
        rest = left;
    }
    parts
}

fn run(address: SocketAddr, stretches: &[Stretch]) -> Vec<u8> {
    let client = TextClient::connect(address);
    let (mut writer, mut stream) = (client.stream(), client.stream());
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        let (seen, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            for stretch in stretches {
                for part in &stretch.parts {
                    // It may have closed (`quit`): what it said is what counts.
                    if writer.write_all(part).is_err() {
                        return;
                    }
                }
                if stretch.until.is_some() && wait.recv().is_err() {
                    return;
                }
            }
            let _ = writer.shutdown(Shutdown::Write);
        });
        let mut awaited = stretches.iter().filter_map(|stretch| stretch.until.as_ref());
        let mut next = awaited.next();
        let mut searched = 0;
        let mut piece = [0; 64 << 10];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => received.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!(
                    "{error} after {} and waiting for {}",
                    shown(&received),
                    shown(next.map_or(b"the end", Vec::as_slice))
                ),
            }
            if let Some(reply) = next {
                if received[searched..].windows(reply.len()).any(|window| window == reply) {
                    searched = received.len();
                    next = awaited.next();
                    let _ = seen.send(());
                } else {
                    searched = received.len().saturating_sub(reply.len()).max(searched);
                }
            }
        }
        drop(seen);
    });
    received
}

/// The replies with what three nodes may do otherwise taken out: the uniques, for each node counts its own. Every block
/// stays where it is.
fn without_uniques(replies: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = replies;
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, behind) = rest.split_at(end);
        rest = behind;
        let words: Vec<&[u8]> = line.trim_ascii_end().split(|&byte| byte == b' ').collect();
        let length = (words[0] == b"VALUE" && words.len() >= 4)
            .then(|| std::str::from_utf8(words[3]).ok()?.parse::<usize>().ok())
            .flatten();
        let Some(length) = length else {
            out.extend_from_slice(line);
            continue;
        };
        let (data, behind) = rest.split_at((length + 2).min(rest.len()));
        rest = behind;
        let unique: &[u8] = if words.len() == 5 { b" unique" } else { b"" };
        out.extend([&words[..4].join(&b' '), unique, b"\r\n", data].concat());
    }
    out
}

/// Two fresh sides, and what both say to this session.
struct Trial {
    kind: Kind,
    nodes: usize,
    /// `slipring dev` instead of `serve` in front of memcached.
    embedded: bool,
}

impl Trial {
    fn differs(&self, pieces: &[Piece], split_seed: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        let parts = stretches(pieces, self.kind, &mut Random::new(split_seed));
        let alone = Memcached::start();
        let direct = run(alone.address(), &parts);
        let through = if self.embedded {
            run(Slipring::dev(self.nodes).address(), &parts)
        } else {
            let nodes: Vec<Memcached> = (0..self.nodes).map(|_| Memcached::start()).collect();
            let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
            run(Slipring::start(&addresses).address(), &parts)
        };
        let equal = match self.kind {
            Kind::Hostile | Kind::Binary => direct == through,
            Kind::BinaryOverNodes => binary::without_uniques(&direct) == binary::without_uniques(&through),
            Kind::Meta | Kind::MetaOverNodes => masked(&direct) == masked(&through),
            Kind::HostileOverNodes | Kind::Ordinary => without_uniques(&direct) == without_uniques(&through),
        };
        (!equal).then_some((direct, through))
    }

    /// Leaves out whatever can be left out with the difference still there.
    fn shortest(&self, mut pieces: Vec<Piece>, seed: u64) -> Vec<Piece> {
        let mut step = pieces.len() / 2;
        let mut tries = 0;
        while step > 0 && tries < 300 {
            let mut at = 0;
            while at < pieces.len() && tries < 300 {
                let mut fewer = pieces.clone();
                fewer.drain(at..(at + step).min(pieces.len()));
                tries += 1;
                if self.differs(&fewer, seed).is_some() {
                    pieces = fewer;
                } else {
                    at += step;
                }
            }
            step /= 2;
        }
        pieces
    }

    fn run_seeds(&self, default: u64) {
        let count = number_from_environment("SLIPRING_TEST_SEEDS", default);
        let seeds = match number_from_environment("SLIPRING_TEST_SEED", u64::MAX) {
            u64::MAX => 0..count,
            one => one..one + 1,
        };
        for seed in seeds {
            let pieces = Session::pieces(&mut Random::new(seed), self.kind);
            let Some(difference) = self.differs(&pieces, seed) else { continue };
            let pieces = self.shortest(pieces, seed);
            // Not every difference is there every time.
            let (direct, through) = self.differs(&pieces, seed).unwrap_or(difference);
            let comparable = |replies: Vec<u8>| match self.kind {
                Kind::BinaryOverNodes => binary::without_uniques(&replies),
                _ => replies,
            };
            let (direct, through) = (comparable(direct), comparable(through));
            let same = direct.iter().zip(&through).take_while(|(a, b)| a == b).count();
            let from = same.saturating_sub(60);
            panic!(
                "SLIPRING_TEST_SEED={seed}: the answers differ at byte {same}\nsession: {:?}\n\
                 memcached: {}\n slipring: {}",
                pieces.iter().map(|piece| shown(piece)).collect::<Vec<_>>(),
                shown(&direct[from..]),
                shown(&through[from..]),
            );
        }
    }
}

#[test]
fn random_sessions_get_the_same_bytes_through_one_node() {
    let trial = Trial { kind: Kind::Hostile, nodes: 1, embedded: false };
    trial.run_seeds(100);
}

#[test]
fn random_sessions_get_the_same_answers_over_three_nodes() {
    let trial = Trial { kind: Kind::HostileOverNodes, nodes: 3, embedded: false };
    trial.run_seeds(60);
}

#[test]
fn ordinary_sessions_cannot_tell_the_embedded_nodes_from_memcached() {
    let trial = Trial { kind: Kind::Ordinary, nodes: 3, embedded: true };
    trial.run_seeds(60);
}

#[test]
fn meta_sessions_get_the_same_bytes_through_one_node() {
    let trial = Trial { kind: Kind::Meta, nodes: 1, embedded: false };
    trial.run_seeds(100);
}

#[test]
fn meta_sessions_get_the_same_answers_over_three_nodes() {
    let trial = Trial { kind: Kind::MetaOverNodes, nodes: 3, embedded: false };
    trial.run_seeds(60);
}

#[test]
fn meta_sessions_cannot_tell_the_embedded_nodes_from_memcached() {
    let trial = Trial { kind: Kind::MetaOverNodes, nodes: 3, embedded: true };
    trial.run_seeds(60);
}

#[test]
fn binary_sessions_get_the_same_bytes_through_one_node() {
    let trial = Trial { kind: Kind::Binary, nodes: 1, embedded: false };
    trial.run_seeds(100);
}

#[test]
fn binary_sessions_get_the_same_answers_over_three_nodes() {
    let trial = Trial { kind: Kind::BinaryOverNodes, nodes: 3, embedded: false };
    trial.run_seeds(60);
}

#[test]
fn binary_sessions_cannot_tell_the_embedded_nodes_from_memcached() {
    let trial = Trial { kind: Kind::BinaryOverNodes, nodes: 3, embedded: true };
    trial.run_seeds(60);
}

#[test]
fn gets_and_cas_pairs_agree() {
    let nodes = [Memcached::start(), Memcached::start(), Memcached::start()];
    let addresses: Vec<SocketAddr> = nodes.iter().map(Memcached::address).collect();
    let slipring = Slipring::start(&addresses);
    let alone = Memcached::start();
    let mut random = Random::new(3);
    let mut sides = [alone.client(), slipring.client()];
    for round in 0..500 {
        let key = format!("k{}", random.below(10));
        let remembered = random.one_in(3);
        let spoiled = random.one_in(3);
        let replies = sides.each_mut().map(|client| {
            if remembered {
                client.set(&key, "start");
            }
            client.send(format!("gets {key}\r\n"));
            let values = client.values().unwrap();
            let unique = values.first().map_or(1, |value| value.cas.unwrap());
            if spoiled {
                client.send(format!("append {key} 0 0 1\r\nx\r\n"));
                client.line();
            }
            client.send(format!("cas {key} 0 0 3 {unique}\r\nnew\r\nget {key}\r\n"));
            (client.line(), client.values())
        });
        assert_eq!(replies[0], replies[1], "round {round}, {key}");
    }
}

// === the deviations ===

/// Where slipring answers otherwise than memcached 1.6.18, on purpose.
struct Deviation {
    name: &'static str,
    reason: &'static str,
    /// Sent on a fresh connection, with `mn` (a noop behind packets) and the end of the input behind it.
    request: fn() -> Vec<u8>,
    /// What memcached answers, packets as [`binary::as_lines`]; `None` where that depends on how what is sent falls.
    memcached: Option<&'static str>,
    slipring: Answer,
}

/// What slipring must answer. Whatever is not `Closed` is followed by the answer to `mn`.
enum Answer {
    Exactly(&'static str),
    /// `CLIENT_ERROR … not supported by proxy`.
    NotSupported,
    /// `CONFIG cluster …`
    Discovery,
    /// The same as a packet: one node, us.
    BinaryDiscovery,
    /// One error line, or none: it was asked to be quiet.
    ErrorOrNothing,
    /// Exactly this, and the connection was closed before the `mn`.
    Closed(&'static str),
}

impl Answer {
    fn is(&self, reply: &str) -> bool {
        if let Self::Closed(text) = self {
            return reply == *text;
        }
        let Some(reply) = reply.strip_suffix("MN\r\n") else {
            return false;
        };
        let lines = reply.matches('\n').count();
        match self {
            Self::Exactly(text) => reply == *text,
            Self::NotSupported => {
                lines == 1 && reply.starts_with("CLIENT_ERROR ") && reply.ends_with(" not supported by proxy\r\n")
            }
            Self::ErrorOrNothing => {
                reply.is_empty() || (lines == 1 && reply.contains("ERROR") && reply.ends_with("\r\n"))
            }
            Self::Discovery => reply.starts_with("CONFIG cluster 0 ") && reply.ends_with("\n\r\nEND\r\n"),
            Self::BinaryDiscovery => lines == 1 && reply.starts_with("60 0000 1\\n127.0.0.1|127.0.0.1|"),
            Self::Closed(_) => false,
        }
    }
}

const BAD_LINE: &str = "CLIENT_ERROR bad command line format\r\n";
const BAD_LINE_THEN_EXECUTED: &str = "CLIENT_ERROR bad command line format\r\nOK\r\nMN\r\n";
const EXECUTED: &str = "1.6.18 executes the block as commands; here it is swallowed";
const UNKNOWN: &str = "what follows may be the block or a request: nobody knows, so we close";
const ONE_SERVER: &str = "an order to one server; a router has many";

const DEVIATIONS: &[Deviation] = &[
    Deviation {
        name: "the block behind a key that is too long",
        reason: EXECUTED,
        request: || format!("set {} 0 0 9\r\nflush_all\r\n", "k".repeat(251)).into_bytes(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Exactly(BAD_LINE),
    },
    Deviation {
        name: "the block behind flags that are no number",
        reason: EXECUTED,
        request: || b"set k x 0 9\r\nflush_all\r\n".to_vec(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Exactly(BAD_LINE),
    },
    Deviation {
        name: "the block behind an exptime that is no number",
        reason: EXECUTED,
        request: || b"set k 0 x 9\r\nflush_all\r\n".to_vec(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Exactly(BAD_LINE),
    },
    Deviation {
        name: "the block behind a bad line that wants no reply",
        reason: EXECUTED,
        request: || b"set k 0 x 9 noreply\r\nflush_all\r\n".to_vec(),
        memcached: Some("OK\r\nMN\r\n"),
        slipring: Answer::ErrorOrNothing,
    },
    Deviation {
        name: "the block behind a cas unique that is no number",
        reason: EXECUTED,
        request: || b"cas k 0 0 9 x\r\nflush_all\r\n".to_vec(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Exactly(BAD_LINE),
    },
    Deviation {
        name: "the block behind a storage line with words too many",
        reason: EXECUTED,
        request: || b"set k 0 0 9 1 2 3\r\nflush_all\r\n".to_vec(),
        memcached: Some("ERROR\r\nOK\r\nMN\r\n"),
        slipring: Answer::ErrorOrNothing,
    },
    Deviation {
        name: "a length above INT_MAX - 2",
        reason: UNKNOWN,
        request: || b"set k 0 0 2147483646\r\nflush_all\r\n".to_vec(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Closed(BAD_LINE),
    },
    Deviation {
        name: "a length that is no number",
        reason: UNKNOWN,
        request: || b"set k 0 0 nine\r\nflush_all\r\n".to_vec(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Closed(BAD_LINE),
    },
    Deviation {
        name: "a negative length",
        reason: UNKNOWN,
        request: || b"set k 0 0 -1\r\nflush_all\r\n".to_vec(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Closed(BAD_LINE),
    },
    Deviation {
        name: "a storage line with words too few",
        reason: UNKNOWN,
        request: || b"set k 0 0\r\nflush_all\r\n".to_vec(),
        memcached: Some("ERROR\r\nOK\r\nMN\r\n"),
        slipring: Answer::Closed("ERROR\r\n"),
    },
    Deviation {
        name: "a cas without its unique",
        reason: EXECUTED,
        request: || b"cas k 0 0 9\r\nflush_all\r\n".to_vec(),
        memcached: Some("ERROR\r\nOK\r\nMN\r\n"),
        slipring: Answer::ErrorOrNothing,
    },
    Deviation {
        name: "a line of more than 2,048 bytes that is no key list",
        reason: "1.6.18 closes in silence, or not, as the packets fall; here it is said",
        request: || format!("delete k{}\r\n", " ".repeat(3_000)).into_bytes(),
        memcached: None,
        slipring: Answer::Closed("CLIENT_ERROR line too long\r\n"),
    },
    Deviation {
        name: "an over-long key in a retrieval behind other requests",
        reason: "1.6.18 drops the replies of the pipeline it has not yet written; here each comes",
        request: || format!("touch\r\ngats 0 a {}\r\n", "k".repeat(251)).into_bytes(),
        memcached: None,
        slipring: Answer::Exactly("ERROR\r\nCLIENT_ERROR bad command line format\r\n"),
    },
    Deviation {
        name: "the end of the input within a request",
        reason: "1.6.18 drops the replies it has not yet written; here each complete request is answered",
        request: || b"version\r\nset k 0 0 99\r\nhalf".to_vec(),
        memcached: None,
        slipring: Answer::Closed("VERSION 1.6.18\r\n"),
    },
    Deviation {
        name: "watch",
        reason: ONE_SERVER,
        request: || b"watch fetchers\r\n".to_vec(),
        memcached: None,
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "lru_crawler",
        reason: ONE_SERVER,
        request: || b"lru_crawler sleep 100\r\n".to_vec(),
        memcached: Some("OK\r\nMN\r\n"),
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "lru",
        reason: ONE_SERVER,
        request: || b"lru temp_ttl 100\r\n".to_vec(),
        memcached: None,
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "slabs",
        reason: ONE_SERVER,
        request: || b"slabs automove 1\r\n".to_vec(),
        memcached: Some("OK\r\nMN\r\n"),
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "cache_memlimit",
        reason: ONE_SERVER,
        request: || b"cache_memlimit 100\r\n".to_vec(),
        memcached: Some("OK\r\nMN\r\n"),
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "shutdown",
        reason: ONE_SERVER,
        request: || b"shutdown\r\n".to_vec(),
        memcached: Some("ERROR: shutdown not enabled\r\nMN\r\n"),
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "stats cachedump",
        reason: ONE_SERVER,
        request: || b"stats cachedump 1 1\r\n".to_vec(),
        memcached: Some("END\r\nMN\r\n"),
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "stats detail",
        reason: ONE_SERVER,
        request: || b"stats detail off\r\n".to_vec(),
        memcached: Some("OK\r\nMN\r\n"),
        slipring: Answer::NotSupported,
    },
    Deviation {
        name: "the block behind a meta set whose key is too long",
        reason: EXECUTED,
        request: || format!("ms {} 9 T0\r\nflush_all\r\n", "k".repeat(251)).into_bytes(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Exactly(BAD_LINE),
    },
    Deviation {
        name: "the block behind a meta set with flags too many",
        reason: EXECUTED,
        request: || format!("ms k 9{}\r\nflush_all\r\n", " c".repeat(17)).into_bytes(),
        memcached: Some("CLIENT_ERROR options flags too long\r\nOK\r\nMN\r\n"),
        slipring: Answer::Exactly("CLIENT_ERROR options flags too long\r\n"),
    },
    Deviation {
        name: "a meta set whose length is no number",
        reason: UNKNOWN,
        request: || b"ms k T0 9\r\nflush_all\r\n".to_vec(),
        memcached: Some(BAD_LINE_THEN_EXECUTED),
        slipring: Answer::Closed(BAD_LINE),
    },
    Deviation {
        name: "a meta set with a number behind its length",
        reason: UNKNOWN,
        request: || b"ms a 2 9\r\nflush_all\r\n".to_vec(),
        memcached: Some("CLIENT_ERROR invalid flag\r\nERROR\r\nMN\r\n"),
        slipring: Answer::Closed("CLIENT_ERROR invalid flag\r\n"),
    },
    Deviation {
        name: "a meta key in base64 as no encoder writes it",
        reason: "the key that is routed is the key that is stored; memcached reads something else than what is said",
        request: || b"mg Zg==Zg== b\r\n".to_vec(),
        memcached: Some("EN\r\nMN\r\n"),
        slipring: Answer::Exactly("CLIENT_ERROR error decoding key\r\n"),
    },
    Deviation {
        name: "a meta key with a line end, asked back",
        reason: "1.6.18 gives it as bytes, and one answer is two lines; here it comes in base64, as it was sent",
        request: || b"mg eA0KSEQ= b N0 k\r\n".to_vec(),
        memcached: Some("HD kx\r\nHD W\r\nMN\r\n"),
        slipring: Answer::Exactly("HD W keA0KSEQ= b\r\n"),
    },
    Deviation {
        name: "meta debug of a key with a line end",
        reason: "its answer has the key in it, as bytes",
        request: || b"me eA0KSEQ= b\r\n".to_vec(),
        memcached: Some("EN\r\nMN\r\n"),
        slipring: Answer::Exactly(BAD_LINE),
    },
    Deviation {
        name: "quiet meta arithmetic that creates its item",
        reason: "1.6.18 shows it, newer versions hide it; the node's answer does not tell it from one that does not",
        request: || b"ma k N0 q\r\n".to_vec(),
        memcached: Some("HD\r\nMN\r\n"),
        slipring: Answer::Exactly(""),
    },
    Deviation {
        name: "meta arithmetic with an opaque that is too long",
        reason: "1.6.18 has counted before it refuses",
        request: || format!("ms k 1\r\n1\r\nma k O{}\r\nmg k v\r\n", "o".repeat(32)).into_bytes(),
        memcached: Some("HD\r\nCLIENT_ERROR opaque token too long\r\nVA 1\r\n2\r\nMN\r\n"),
        slipring: Answer::Exactly("HD\r\nCLIENT_ERROR opaque token too long\r\nVA 1\r\n1\r\n"),
    },
    Deviation {
        name: "a NUL in a key",
        reason: "1.6.18 ends the line there, later nodes take it for a part of the key: none is asked for a half of it",
        request: || b"get none\0 k\r\nincr none\0 x\r\n".to_vec(),
        memcached: Some("END\r\nERROR\r\nMN\r\n"),
        slipring: Answer::Exactly("CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\n"),
    },
    Deviation {
        name: "the block behind a key with a NUL",
        reason: "as behind a key that is too long",
        request: || b"set none\0 0 0 9\r\nflush_all\r\n".to_vec(),
        memcached: Some("ERROR\r\nOK\r\nMN\r\n"),
        slipring: Answer::Exactly("CLIENT_ERROR bad command line format\r\n"),
    },
    Deviation {
        name: "auto-discovery",
        reason: "clients that ask a cluster who its nodes are stay with the sidecar",
        request: || b"config get cluster\r\n".to_vec(),
        memcached: Some("ERROR\r\nMN\r\n"),
        slipring: Answer::Discovery,
    },
    Deviation {
        name: "auto-discovery in binary",
        reason: "as in text",
        request: || ask(opcode::CONFIG_GET, "cluster").packet(1, 0),
        memcached: None,
        slipring: Answer::BinaryDiscovery,
    },
    Deviation {
        name: "an unknown opcode with a key",
        reason: "1.6.18 takes what is behind the packet for its body; here the body is swallowed",
        request: || Ask { extras: vec![0; 4], ..join(0x99, "key", "flush_all\r\n") }.packet(1, 0),
        memcached: None,
        slipring: Answer::Exactly("99 0081 Unknown command\r\n"),
    },
    Deviation {
        name: "a value behind a touch",
        reason: "1.6.18 takes it for the next packet",
        request: || Ask { value: ask(opcode::FLUSH, "").packet(2, 0), ..timed(opcode::TOUCH, "k", 0) }.packet(1, 0),
        memcached: Some("1c 0001 Not found\r\n08 0000\r\nMN\r\n"),
        slipring: Answer::Closed("1c 0004 Invalid arguments\r\n"),
    },
    Deviation {
        name: "a value behind a stat",
        reason: "1.6.18 takes it for the next packet",
        request: || join(opcode::STAT, "nonsense", ask(opcode::FLUSH, "").packet(2, 0)).packet(1, 0),
        memcached: Some("10 0001 Not found\r\n08 0000\r\nMN\r\n"),
        slipring: Answer::Closed("10 0004 Invalid arguments\r\n"),
    },
    Deviation {
        name: "a binary key of more than 186 bytes with a byte that text cannot carry",
        reason: "in base64 it would be longer than a key of text may be",
        request: || set([b' '; 187], "v").packet(1, 0),
        memcached: Some("01 0000\r\nMN\r\n"),
        slipring: Answer::Exactly("01 0004 Invalid arguments\r\n"),
    },
    Deviation {
        name: "what was there before a binary add that is too large",
        reason: "a node drops it behind every ms that is too large, behind binary only where it is Set",
        request: || {
            let large = store(opcode::ADD, "k", vec![b'x'; 1_100_000], 0, 0);
            [set("k", "v").packet(1, 0), large.packet(2, 0), ask(opcode::GET, "k").packet(3, 0)].concat()
        },
        memcached: Some("01 0000\r\n02 0003 Too large.\r\n00 0000 v\r\nMN\r\n"),
        slipring: Answer::Exactly("01 0000\r\n02 0003 Too large.\r\n00 0001 Not found\r\n"),
    },
    Deviation {
        name: "the end of the input within a packet",
        reason: "as within a request of text",
        request: || [ask(opcode::VERSION, "").packet(1, 0), set("k", [b'v'; 99]).packet(2, 0)[..90].to_vec()].concat(),
        memcached: None,
        slipring: Answer::Closed("0b 0000 1.6.18\r\n"),
    },
];

#[test]
fn every_deviation_is_as_the_table_says() {
    let mut wrong = Vec::new();
    for deviation in DEVIATIONS {
        let (name, reason) = (deviation.name, deviation.reason);
        let (alone, node) = (Memcached::start(), Memcached::start());
        let slipring = Slipring::start(&[node.address()]);
        let request = (deviation.request)();
        let ask = |client: TextClient| {
            if request.starts_with(b"\x80") {
                return binary::as_lines(&client.session(&[&request, &binary::end()]));
            }
            let reply = client.session(&[&request, b"mn\r\n"]);
            String::from_utf8_lossy(&reply).into_owned()
        };
        let (direct, through) = (ask(alone.client()), ask(slipring.client()));
        println!("{name} ({reason}):\n  memcached {direct:?}\n   slipring {through:?}");
        if deviation.memcached.is_some_and(|wanted| wanted != direct) {
            wrong.push(format!("{name}: memcached answers {direct:?}"));
        }
        if !deviation.slipring.is(&through) {
            wrong.push(format!("{name}: slipring answers {through:?}"));
        }
        if node.stat("cmd_flush") != 0 {
            wrong.push(format!("{name}: the block was executed"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
