//! The same binary requests to one real memcached as they are, and to another in the text of `protocol::binary`: the
//! packets must be equal, byte for byte. Both count their uniques alike, so these are compared, too.
//!
//! A failure of the random streams prints their seed; `SLIPRING_TEST_SEED=n` runs that seed alone.
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

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use slipring::protocol::binary::reply::{Reply, Status};
use slipring::protocol::binary::request::{Action, Header, Packet, parse};
use slipring::protocol::binary::translate::{self, Form, Refused, flags_and_cas, is_odd, text_exptime};
use slipring::protocol::binary::{HEADER_BYTES, opcode};
use support::packets::{Ask, QUIET, Unique, ask, count, join, plain, set, store, timed};
use support::{Memcached, PATIENCE, Random, TextClient, number_from_environment, shown};

/// The largest value that is translated, unless a test is about it: what a node refuses is for the node to say.
const MAX_VALUE: usize = 128 << 20;

// === a client of the binary protocol ===

struct BinaryClient(TcpStream);

impl BinaryClient {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// One whole packet; `None` where the connection ends.
    fn packet(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HEADER_BYTES];
        match self.0.read_exact(&mut bytes) {
            Err(error) if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind()) => {
                return None;
            }
            read => read.unwrap(),
        }
        let body = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
        bytes.resize(HEADER_BYTES + body, 0);
        self.0.read_exact(&mut bytes[HEADER_BYTES..]).unwrap();
        Some(bytes)
    }

    /// All that is answered to a packet: up to a noop behind it, or to the end where one must come.
    fn ask(&mut self, packet: &[u8], ends: bool) -> Vec<u8> {
        const BARRIER: u32 = 0xfeed_beef;
        let mut bytes = packet.to_vec();
        if !ends {
            bytes.extend(ask(opcode::NOOP, "").packet(BARRIER, 0));
        }
        self.0.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        loop {
            match self.packet() {
                Some(packet) if packet[12..16] == BARRIER.to_be_bytes() => return answer,
                Some(packet) => answer.extend(packet),
                None if ends => return answer,
                None => panic!("closed by {} after {}", shown(packet), shown(&answer)),
            }
        }
    }

    /// The unique number of an item; 0 for none.
    fn unique(&mut self, key: &[u8]) -> u64 {
        if key.is_empty() || key.len() > 250 {
            return 0;
        }
        let answer = self.ask(&ask(opcode::GET, key).packet(0, 0), false);
        u64::from_be_bytes(answer[16..24].try_into().unwrap())
    }
}

// === the same by way of text ===

/// What the proxy does with one packet, as small as can be, and whether the connection ends behind it.
fn translated(node: &mut TextClient, packet: &[u8], max_value: usize) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let header = Header::read(packet).unwrap().unwrap();
    let request = header.check().and_then(|()| parse(&packet[..header.head_len()], max_value));
    match request {
        Err(refusal) => {
            refusal.write(&mut out);
            if let Some(key) = refusal.stale {
                node.ask_line([b"delete ", key, b"\r\n"].concat());
            }
            (out, refusal.close)
        }
        Ok(request) => {
            let value = &packet[header.head_len()..];
            assert_eq!(value.len(), request.value_len);
            let form = Form::from(&request);
            match request.action {
                Action::Noop | Action::Quit => form.done(0, &mut out),
                Action::Read { key, exptime, .. } if !is_odd(key) => merged(node, form, key, exptime, &mut out),
                _ => asked(node, form, &request, value, &mut out),
            }
            (out, request.action == Action::Quit)
        }
    }
}

/// A read of a key that text can carry.
fn merged(node: &mut TextClient, form: Form, key: &[u8], exptime: Option<u32>, out: &mut Vec<u8>) {
    let verb = exptime.map_or("gets ".into(), |exptime| format!("gats {} ", text_exptime(exptime)));
    node.send([verb.as_bytes(), key, b"\r\n"].concat());
    let line = line(node);
    if line == b"END" {
        return form.miss(key, out);
    }
    let (flags, cas) = flags_and_cas(&line).unwrap_or_else(|| panic!("{}", shown(&line)));
    let len = line.split(|&byte| byte == b' ').nth(3).unwrap();
    let block = block(node, len);
    assert_eq!(self::line(node), b"END");
    form.value_head(key, flags, cas, block.len(), out);
    out.extend(block);
}

/// Everything else.
fn asked(node: &mut TextClient, form: Form, request: &Packet<'_>, value: &[u8], out: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    translate::write_line(request, &mut bytes).unwrap();
    if matches!(request.action, Action::Store { .. } | Action::Join { .. }) {
        bytes.extend([value, b"\r\n"].concat());
    }
    node.send(bytes);
    let line = line(node);
    let mut words = line.split(|&byte| byte == b' ');
    match (words.next().unwrap(), request.action) {
        (b"VA", Action::Read { key, .. }) => {
            let block = block(node, words.next().unwrap());
            let (flags, cas) = flags_and_cas(&line).unwrap();
            form.value_head(key, flags, cas, block.len(), out);
            out.extend(block);
        }
        (b"VA", _) => {
            let digits = block(node, words.next().unwrap());
            form.number(&line, &digits, out);
        }
        (b"EN", Action::Read { key, .. }) => form.miss(key, out),
        _ => form.answer(&line, out),
    }
}

fn line(node: &mut TextClient) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(node.take(1));
    }
    line.truncate(line.len() - 2);
    line
}

fn block(node: &mut TextClient, len: &[u8]) -> Vec<u8> {
    let len: usize = std::str::from_utf8(len).unwrap().parse().unwrap();
    let mut block = node.take(len + 2);
    assert!(block.ends_with(b"\r\n"));
    block.truncate(len);
    block
}

// === both ===

/// Two nodes started alike: one is asked in binary, the other in text.
struct Pair {
    _nodes: [Memcached; 2],
    addresses: [SocketAddr; 2],
    direct: BinaryClient,
    text: TextClient,
    /// Connections beside them, to look at items.
    looking: [BinaryClient; 2],
    max_value: usize,
    opaque: u32,
    /// What was answered, for the tests that tell more than equality.
    last: Vec<u8>,
}

impl Pair {
    fn start(arguments: &[&str]) -> Self {
        // Their background threads hold items now and then, and a decr pads only what nobody holds.
        let arguments = [&["-o", "no_lru_maintainer,no_lru_crawler"], arguments].concat();
        let nodes = [Memcached::with(&arguments), Memcached::with(&arguments)];
        let addresses = [nodes[0].address(), nodes[1].address()];
        Self {
            _nodes: nodes,
            addresses,
            direct: BinaryClient::connect(addresses[0]),
            text: TextClient::connect(addresses[1]),
            looking: addresses.map(BinaryClient::connect),
            max_value: MAX_VALUE,
            opaque: 0x1234_5600,
            last: Vec::new(),
        }
    }

    /// # Panics
    /// When the two differ.
    fn ask(&mut self, ask: &Ask) -> &mut Self {
        self.opaque += 1;
        let packets: Vec<Vec<u8>> = (0..2)
            .map(|side| {
                let unique = match ask.unique {
                    Unique::None => 0,
                    Unique::Right => self.looking[side].unique(&ask.key),
                    Unique::Wrong => 987_654_321,
                };
                ask.packet(self.opaque, unique)
            })
            .collect();
        let (translated, ends) = translated(&mut self.text, &packets[1], self.max_value);
        let direct = self.direct.ask(&packets[0], ends);
        if ends {
            self.direct = BinaryClient::connect(self.addresses[0]);
        }
        assert_eq!(shown(&direct), shown(&translated), "direct, translated: {}", shown(&packets[0]));
        assert!(direct == translated, "values differ: {}", shown(&packets[0]));
        self.last = direct;
        self
    }

    fn all(&mut self, asks: &[Ask]) -> &mut Self {
        for ask in asks {
            self.ask(ask);
        }
        self
    }

    /// The last answer had this status; `None`: there was no answer.
    fn said(&mut self, status: Option<Status>) -> &mut Self {
        let said = self.last.get(6..8).map(|code| u16::from_be_bytes(code.try_into().unwrap()));
        assert_eq!(said, status.map(Status::code), "{}", shown(&self.last));
        self
    }

    /// Asked so, it is answered so.
    fn expect(&mut self, ask: &Ask, status: impl Into<Option<Status>>) -> &mut Self {
        self.ask(ask).said(status.into())
    }
}

/// Keys of text, and such that text cannot carry.
fn keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> =
        [&b"Hello"[..], b"noreply", b"\xff\x80\xc3\xa9", b"a b", b"\0", b"a\r\nflush_all\r\n", b"\t\x7f", b"=", b" "]
            .map(<[u8]>::to_vec)
            .to_vec();
    keys.extend([vec![b'k'; 250], vec![b' '; 186]]);
    keys
}

#[test]
fn every_opcode_hit_and_missed_loud_and_quiet_on_keys_of_all_kinds() {
    let mut pair = Pair::start(&[]);
    let opcodes: Vec<u8> = QUIET.iter().flat_map(|&(loud, quiet)| [loud, quiet]).chain([opcode::TOUCH]).collect();
    for key in keys() {
        for &opcode in &opcodes {
            for unique in [Unique::None, Unique::Right, Unique::Wrong] {
                // Of nothing, of a number, of something else.
                pair.ask(&plain(opcode, &key).naming(unique)).ask(&ask(opcode::GETK, &key));
                pair.ask(&set(&key, "42")).ask(&plain(opcode, &key).naming(unique)).ask(&ask(opcode::GETK, &key));
                pair.ask(&set(&key, "x\r\ny\0")).ask(&plain(opcode, &key).naming(unique)).ask(&ask(opcode::GET, &key));
                pair.ask(&ask(opcode::DELETEQ, &key));
            }
        }
    }
}

#[test]
fn the_table_row_by_row() {
    let mut pair = Pair::start(&[]);
    let key = "k";
    let numeric = |opcode, initial, exptime| count(opcode, "n", 7, initial, exptime);
    pair.expect(&ask(opcode::GET, key), Status::NotFound)
        .expect(&ask(opcode::GETQ, key), None)
        .expect(&ask(opcode::GETK, key), Status::NotFound)
        .expect(&timed(opcode::GATKQ, key, 60), None)
        .expect(&timed(opcode::TOUCH, key, 60), Status::NotFound)
        .expect(&store(opcode::REPLACE, key, "v", 1, 0), Status::NotFound)
        .expect(&store(opcode::REPLACEQ, key, "v", 1, 0), Status::NotFound)
        .expect(&join(opcode::APPEND, key, "v"), Status::NotStored)
        .expect(&join(opcode::PREPENDQ, key, "v").naming(Unique::Wrong), Status::NotStored)
        .expect(&set(key, "v").naming(Unique::Wrong), Status::NotFound)
        .expect(&store(opcode::ADD, key, "v", 1, 0).naming(Unique::Wrong), Status::NotFound)
        .expect(&ask(opcode::DELETEQ, key), Status::NotFound)
        .expect(&store(opcode::ADD, key, "v", 1, 0), Status::Ok)
        .expect(&store(opcode::ADD, key, "w", 1, 0), Status::Exists)
        .expect(&store(opcode::ADDQ, key, "w", 1, 0).naming(Unique::Wrong), Status::Exists)
        // The right one: it compares and stores, whatever the verb.
        .expect(&store(opcode::ADD, key, "w", 2, 0).naming(Unique::Right), Status::Ok)
        .expect(&store(opcode::REPLACEQ, key, "x", 3, 0).naming(Unique::Right), None)
        .expect(&store(opcode::REPLACE, key, "x", 3, 0).naming(Unique::Wrong), Status::Exists)
        .expect(&join(opcode::APPEND, key, "y").naming(Unique::Right), Status::Ok)
        .expect(&join(opcode::APPEND, key, "y").naming(Unique::Wrong), Status::Exists)
        .expect(&ask(opcode::GETKQ, key), Status::Ok)
        .expect(&timed(opcode::TOUCH, key, 60), Status::Ok)
        .expect(&ask(opcode::DELETE, key).naming(Unique::Wrong), Status::Exists)
        .expect(&ask(opcode::DELETE, key).naming(Unique::Right), Status::Ok)
        .expect(&numeric(opcode::INCREMENTQ, 9, u32::MAX), Status::NotFound)
        .expect(&numeric(opcode::INCREMENT, 9, 0).naming(Unique::Wrong), Status::Ok)
        .expect(&numeric(opcode::INCREMENT, 9, 0).naming(Unique::Wrong), Status::Exists)
        .expect(&numeric(opcode::DECREMENT, 9, 0).naming(Unique::Right), Status::Ok)
        .expect(&numeric(opcode::INCREMENTQ, 9, u32::MAX), None)
        .expect(&count(opcode::INCREMENT, "n", u64::MAX, 0, 0), Status::Ok)
        .expect(&set("n", "100"), Status::Ok)
        .expect(&count(opcode::DECREMENT, "n", 95, 0, 0), Status::Ok)
        .expect(&ask(opcode::GET, "n"), Status::Ok)
        .expect(&count(opcode::DECREMENTQ, "m", 1, u64::MAX, 3600), None)
        .expect(&count(opcode::INCREMENT, "m", 3, 0, 0), Status::Ok)
        .expect(&set("n", "9".repeat(20)), Status::Ok)
        .expect(&count(opcode::DECREMENTQ, "n", 1, 0, 0), Status::NonNumeric)
        .expect(&ask(opcode::NOOP, ""), Status::Ok)
        .expect(&ask(opcode::FLUSHQ, ""), None)
        .expect(&ask(opcode::GET, "n"), Status::NotFound)
        .expect(&set("n", "1"), Status::Ok)
        .expect(&timed(opcode::FLUSH, "", 0), Status::Ok)
        .expect(&ask(opcode::GET, "n"), Status::NotFound)
        .expect(&ask(opcode::QUITQ, ""), None)
        .expect(&ask(opcode::QUIT, ""), Status::Ok);
}

#[test]
fn expiries_are_unsigned_in_binary() {
    let mut pair = Pair::start(&[]);
    for (exptime, stays) in [
        (0, true),
        (3600, true),
        (2_592_000, true),
        (2_592_001, false),
        (1_000_000_000, false),
        (i32::MAX as u32, true),
        (1 << 31, true),
        (u32::MAX, true),
    ] {
        let there = if stays { Status::Ok } else { Status::NotFound };
        pair.expect(&store(opcode::SET, "k", "v", 0, exptime), Status::Ok).expect(&ask(opcode::GET, "k"), there);
        for touch in [opcode::TOUCH, opcode::GAT, opcode::GATK] {
            pair.ask(&set("k", "v")).expect(&timed(touch, "k", exptime), Status::Ok);
            pair.expect(&ask(opcode::GET, "k"), there);
        }
        if exptime != u32::MAX {
            pair.expect(&count(opcode::INCREMENT, "n", 1, 5, exptime), Status::Ok)
                .expect(&ask(opcode::GET, "n"), there);
            pair.ask(&ask(opcode::DELETE, "n"));
        }
    }
    // Last: what a far flush means to a memcached is the same in both.
    for delay in [3600, i32::MAX as u32, u32::MAX] {
        pair.all(&[set("k", "v"), timed(opcode::FLUSH, "", delay), ask(opcode::GET, "k")]);
    }
}

#[test]
fn what_is_refused_by_its_lengths() {
    let mut pair = Pair::start(&[]);
    let (invalid, unknown) = (Status::InvalidArguments, Status::UnknownCommand);
    let long = [b'k'; 251];
    for &opcode in QUIET.iter().flat_map(|(loud, quiet)| [loud, quiet]).chain(&[opcode::TOUCH]) {
        pair.expect(&plain(opcode, b""), invalid).expect(&plain(opcode, &long), invalid);
        pair.expect(&Ask { extras: vec![0; 3], ..plain(opcode, b"k") }, invalid);
    }
    for opcode in [opcode::NOOP, opcode::VERSION, opcode::QUIT, opcode::QUITQ, opcode::FLUSH, opcode::SASL_LIST] {
        pair.expect(&ask(opcode, "k"), invalid).expect(&join(opcode, "", "value"), invalid);
    }
    for opcode in [opcode::GET, opcode::GETKQ, opcode::DELETE, opcode::DELETEQ] {
        pair.expect(&join(opcode, "k", "value"), invalid);
    }
    pair.expect(&timed(opcode::VERSION, "", 1), invalid)
        .expect(&Ask { extras: vec![0; 8], ..ask(opcode::FLUSH, "") }, invalid)
        .expect(&Ask { value: b"1".to_vec(), ..count(opcode::INCREMENT, "k", 1, 1, 1) }, invalid)
        .expect(&timed(opcode::STAT, "", 1), invalid)
        .expect(&ask(opcode::STAT, long), invalid)
        .expect(&ask(0x99, long), invalid)
        .expect(&ask(opcode::SASL_AUTH, ""), invalid)
        .expect(&timed(opcode::SASL_STEP, "PLAIN", 1), invalid)
        .expect(&ask(opcode::SASL_LIST, ""), unknown)
        .expect(&join(opcode::SASL_AUTH, "PLAIN", "\0user\0password"), unknown)
        .expect(&join(opcode::SASL_STEP, "PLAIN", "\0user\0password"), unknown)
        // memcached swallows too little of these where they have extras or a key.
        .expect(&ask(0x1b, ""), unknown)
        .expect(&ask(0x1f, ""), unknown)
        .expect(&join(0x99, "", "flush_all\r\n"), unknown)
        .expect(&ask(0xff, ""), unknown);
    for (opcode, key_len, extras_len, body_len) in [(0x00, 5, 0, 3), (0x01, 1, 8, 8), (0x99, 300, 0, 0)] {
        let mut packet = ask(opcode, "").packet(7, 0);
        packet[2..4].copy_from_slice(&u16::to_be_bytes(key_len));
        packet[4] = extras_len;
        packet[8..12].copy_from_slice(&u32::to_be_bytes(body_len));
        packet.extend(vec![b'k'; usize::from(key_len) + usize::from(extras_len)]);
        let (said, ends) = translated(&mut pair.text, &packet, MAX_VALUE);
        assert!(ends);
        assert_eq!(BinaryClient::connect(pair.addresses[0]).ask(&packet, true), said);
        assert_eq!(said[7], 0x81);
    }
}

/// A node finds it too large, and so do we with the same limit: the same packets, and Set drops the old value.
#[test]
fn what_is_too_large() {
    let mut pair = Pair::start(&[]);
    let large = vec![b'x'; (1 << 20) + 1];
    for max_value in [MAX_VALUE, 1 << 20] {
        pair.max_value = max_value;
        for opcode in [opcode::SET, opcode::SETQ] {
            pair.expect(&set("k", "v"), Status::Ok)
                .expect(&store(opcode, "k", &large, 0, 0), Status::TooLarge)
                .expect(&ask(opcode::GET, "k"), Status::NotFound);
        }
        for opcode in [opcode::ADD, opcode::ADDQ, opcode::REPLACE, opcode::REPLACEQ] {
            pair.expect(&store(opcode, "k", &large, 0, 0), Status::TooLarge);
        }
        for opcode in [opcode::APPEND, opcode::APPENDQ, opcode::PREPEND, opcode::PREPENDQ] {
            pair.expect(&join(opcode, "k", &large), Status::TooLarge);
        }
    }
    // Two that fit alone and not together.
    let half = &large[..700_000];
    pair.expect(&set("k", half), Status::Ok)
        .expect(&join(opcode::APPEND, "k", half), Status::NotStored)
        .expect(&ask(opcode::GETK, "k"), Status::Ok);
}

/// The one place where text does something else: a value that only the node finds too large takes the old one with it in
/// every mode of `ms`, in binary for Set alone. The packets are equal; what is lost is a cached value, never a write.
#[test]
fn a_node_that_finds_a_value_too_large_drops_the_old_one() {
    let mut pair = Pair::start(&[]);
    let large = vec![b'x'; (1 << 20) + 1];
    for request in [
        store(opcode::ADD, "k", &large, 0, 0),
        store(opcode::REPLACE, "k", &large, 0, 0),
        join(opcode::APPEND, "k", &large),
        join(opcode::PREPEND, "k", &large),
    ] {
        pair.expect(&set("k", "v"), Status::Ok).expect(&request, Status::TooLarge);
        assert_ne!(pair.looking[0].unique(b"k"), 0);
        assert_eq!(pair.looking[1].unique(b"k"), 0);
        pair.direct.ask(&ask(opcode::DELETEQ, "k").packet(1, 0), false);
    }
}

#[test]
fn large_and_empty_values() {
    let mut pair = Pair::start(&[]);
    let large: Vec<u8> = (0..900_000_usize).map(|i| (i * 7 + i / 251) as u8).collect();
    for key in ["text", "odd key"] {
        for value in [&large[..], b"", b"\r\n"] {
            pair.expect(&set(key, value), Status::Ok);
            for read in [opcode::GET, opcode::GETK, opcode::GETQ, opcode::GETKQ, opcode::GAT, opcode::GATKQ] {
                pair.expect(&plain(read, key.as_bytes()), Status::Ok);
            }
            pair.expect(&join(opcode::APPENDQ, key, ""), None).expect(&join(opcode::PREPEND, key, "p"), Status::Ok);
            pair.expect(&ask(opcode::GET, key), Status::Ok);
        }
    }
}

#[test]
fn nodes_without_memory_without_flush_and_without_uniques() {
    let mut full = Pair::start(&["-M", "-m", "2"]);
    let value = vec![b'x'; 100_000];
    let mut refused = false;
    for i in 0..200 {
        full.ask(&set(format!("key {i}"), &value)).ask(&store(opcode::ADDQ, format!("key{i}"), &value, 0, 0));
        refused |= full.last.get(7) == Some(&0x82);
    }
    assert!(refused, "there was memory for 40 MB");

    let mut stubborn = Pair::start(&["-F"]);
    stubborn
        .expect(&ask(opcode::FLUSH, ""), Status::AuthError)
        .expect(&timed(opcode::FLUSHQ, "", 9), Status::AuthError);

    let mut without = Pair::start(&["-C"]);
    for key in ["k", "odd key"] {
        without
            .expect(&set(key, "1"), Status::Ok)
            .expect(&ask(opcode::GETK, key), Status::Ok)
            .expect(&timed(opcode::TOUCH, key, 9), Status::Ok)
            .expect(&count(opcode::INCREMENT, key, 9, 9, 9), Status::Ok)
            .expect(&ask(opcode::DELETE, key).naming(Unique::Wrong), Status::Exists)
            .expect(&ask(opcode::DELETE, key), Status::Ok);
        // A unique that such a node never gave: its binary side forgets it and stores, its text side says no.
        let packet = set(key, "2").packet(1, 987);
        assert_eq!(without.direct.ask(&packet, false)[7], 0);
        assert_eq!(translated(&mut without.text, &packet, MAX_VALUE).0[7], 1);
        without.looking[0].ask(&ask(opcode::DELETE, key).packet(1, 0), false);
    }
}

/// An odd key above 186 bytes is no request for a text node: refused here, and the connection stays open.
#[test]
fn an_odd_key_that_base64_cannot_say() {
    for (len, written) in [(186, Ok(())), (187, Err(Refused::KeyTooLong)), (250, Err(Refused::KeyTooLong))] {
        let packet = set(vec![b' '; len], "").packet(1, 0);
        let request = parse(&packet, MAX_VALUE).unwrap();
        assert_eq!(translate::write_line(&request, &mut Vec::new()), written);
    }
    let mut out = Vec::new();
    Form::new(opcode::SET, 1).refuse(Status::InvalidArguments, &mut out);
    let mut wanted = Vec::new();
    Reply::error(opcode::SET, 1, Status::InvalidArguments).write(&mut wanted);
    assert_eq!(out, wanted);
}

// === random streams ===

/// The largest counter of the streams. For those from 2⁶³ on memcached 1.6.18 looks for a minus sign up to the next NUL, beyond
/// the item, and calls them no numbers if it finds one in what lies there; the cases above have them in fresh memory.
const COUNTED: u64 = 1 << 62;

fn random(random: &mut Random) -> Ask {
    let keys = keys();
    let key = keys[random.below(keys.len())].clone();
    let pairs = QUIET[random.below(QUIET.len())];
    let chosen = random.pick(&[pairs.0, pairs.0, pairs.1, opcode::TOUCH, opcode::GETK, opcode::SET]);
    let unique = random.pick(&[Unique::None, Unique::None, Unique::Right, Unique::Wrong]);
    let value = match random.below(6) {
        0 => Vec::new(),
        1 => COUNTED.to_string().into_bytes(),
        2 => b"\r\nSTORED\r\nEN\r\n".to_vec(),
        3 => (0..random.below(3000)).map(|_| random.next() as u8).collect(),
        _ => random.below(100_000).to_string().into_bytes(),
    };
    let exptime = random.pick(&[0, 0, 0, 3600, 2_592_001, i32::MAX as u32, u32::MAX]);
    let request = match plain(chosen, &key) {
        Ask { extras, .. } if extras.len() == 20 => {
            let delta = random.pick(&[0, 1, 10, 99_999]);
            count(chosen, &key, delta, random.pick(&[0, 5, COUNTED]), exptime)
        }
        Ask { extras, .. } if extras.len() == 8 => store(chosen, &key, value, random.next() as u32, exptime),
        Ask { extras, .. } if extras.len() == 4 => timed(chosen, &key, exptime),
        Ask { value: joined, .. } if !joined.is_empty() => join(chosen, &key, value),
        other => other,
    };
    match random.below(200) {
        0 => ask(random.pick(&[opcode::FLUSH, opcode::FLUSHQ]), ""),
        1 => ask(random.pick(&[opcode::NOOP, opcode::QUIT, opcode::QUITQ]), ""),
        _ => request.naming(unique),
    }
}

#[test]
fn random_streams() {
    let only = number_from_environment("SLIPRING_TEST_SEED", 0);
    let count = number_from_environment("SLIPRING_TEST_SEEDS", 20);
    let mut with_uniques = Pair::start(&[]);
    let mut without = Pair::start(&["-C"]);
    for seed in (1..=count).filter(|&seed| only == 0 || seed == only).chain((only > count).then_some(only)) {
        println!("seed {seed}");
        let mut source = Random::new(seed);
        for _ in 0..300 {
            let request = random(&mut source);
            with_uniques.ask(&request);
            // Without uniques a flush knows items by the second they are from: no two nodes agree.
            if ![opcode::FLUSH, opcode::FLUSHQ].contains(&request.opcode) {
                without.ask(&request.naming(Unique::None));
            }
        }
    }
}
