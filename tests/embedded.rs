//! The embedded nodes beside a real memcached 1.6.18: the same bytes in, the same bytes out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, also in its helpers"
)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use slipring::embedded::EmbeddedNode;
use tokio_util::sync::CancellationToken;

#[path = "support/meta_streams.rs"]
mod meta_streams;

#[path = "embedded/meta.rs"]
mod meta;

mod support;

use meta_streams::masked;
use support::{PATIENCE, Port, free_port};

const ANY: &str = "127.0.0.1:0";
const MIB: usize = 1 << 20;

/// A real memcached, ended with the test.
struct Memcached {
    child: Child,
    addr: SocketAddr,
    _port: Port,
}

impl Memcached {
    fn start() -> Self {
        let claimed = free_port();
        let addr = claimed.on("127.0.0.1");
        let port = addr.port().to_string();
        let child = Command::new("memcached")
            .args(["-l", "127.0.0.1", "-p", &port, "-U", "0", "-m", "64"])
            .args(["-u", "nobody"])
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests compare with Debian's `memcached`: install it");
        let memcached = Self { child, addr, _port: claimed };
        let start = SystemTime::now();
        while TcpStream::connect(addr).is_err() {
            assert!(start.elapsed().unwrap() < PATIENCE, "memcached does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        memcached
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An embedded node on a thread of its own.
struct Embedded {
    addr: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = runtime.block_on(EmbeddedNode::bind(ANY.parse().unwrap(), 64 * MIB as u64, MIB)).unwrap();
        let addr = node.local_addr();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || runtime.block_on(node.run(stopped)));
        Self { addr, stop, thread: Some(thread) }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// SplitMix64: the tests print the seed, and the seed is the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const END_MARK: &[u8] = b"MN\r\n";

/// Sends `stream` in the pieces given by `cuts`, then `mn`; reads up to its `MN`, or the end.
fn exchange(addr: SocketAddr, stream: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = socket.try_clone().unwrap();
    let mut whole = stream.to_vec();
    whole.extend_from_slice(b"mn\r\n");
    let cuts = cuts.to_vec();
    let sender = std::thread::spawn(move || {
        let mut from = 0;
        for to in cuts.into_iter().chain([whole.len()]) {
            if writer.write_all(&whole[from..to]).is_err() {
                return;
            }
            from = to;
        }
    });
    let mut got = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !got.ends_with(END_MARK) {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {}", String::from_utf8_lossy(&got[got.len().saturating_sub(200)..])),
        }
    }
    sender.join().unwrap();
    got
}

fn ask(addr: SocketAddr, stream: &[u8]) -> String {
    String::from_utf8_lossy(&exchange(addr, stream, &[])).into_owned()
}

fn key(random: &mut Random) -> String {
    match random.below(30) {
        0 => "k".repeat(250),
        1 => "tab\tand\rcr".into(),
        2 => "\u{e9}\u{7f}\u{1}".into(),
        3 => "noreply".into(),
        _ => format!("k{}", random.below(6)),
    }
}

fn data(random: &mut Random) -> Vec<u8> {
    match random.below(24) {
        0..=11 => random.pick(NUMBERS).as_bytes().to_vec(),
        12 => {
            let len = [20_000, 70_000, 600_000, 1_048_512, 1_048_516, 1_048_517][random.below(6)];
            vec![b'x'; len]
        }
        _ => {
            let len = random.below(3_000);
            (0..len).map(|_| random.next() as u8).collect()
        }
    }
}

// None from 2⁶³ on: memcached looks for a minus sign in those, past the end of the item.
const NUMBERS: &[&str] =
    &["0", "1", "9", "99", "100", " 7", "7 ", "7 x", "x", "", "-1", "+3", "4294967295", "18446744073709551616", "007"];

// Nothing that ends while the test runs; `flush_all 1` would need both clocks in step.
const TIMES: &[&str] = &["0", "0", "0", "1000", "2592000", "-1", "2592001", "2000000000", "99999999999", "+0"];

const DELTAS: &[&str] = &["0", "1", "1", "95", "4294967296", "-1", "x", "", "18446744073709551616", "+2"];

/// Lines memcached refuses, or answers without touching a key; none opens a data block.
const ODD: &[&str] = &[
    "",
    " ",
    "GET k1",
    "get",
    "gets ",
    "gat",
    "gat 0",
    "gat x k1",
    "gats",
    "incr n1",
    "incr n1 1 2",
    "incr n1 1 2 3",
    "touch k1",
    "touch k1 x",
    "touch k1 x noreply",
    "delete",
    "delete k1 0",
    "delete k1 1",
    "delete k1 0 noreply",
    "delete k1 1 noreply",
    "delete k1 2 3 4",
    "version",
    "version x",
    "verbosity",
    "verbosity x",
    "verbosity 1",
    "verbosity 1 noreply",
    "verbosity 1 2 3",
    "flush_all x",
    "flush_all 1 2 3",
    "stats foo",
    "stats noreply",
    "nonsense",
    "nonsense noreply",
    "get noreply",
    "config get cluster",
];

/// A key of `incr` and `decr` alone, never read: memcached pads a shorter number with spaces only
/// when nothing else refers to the item, be it a reply still being sent or its LRU's own queue.
fn counter(random: &mut Random) -> String {
    format!("n{}", random.below(3))
}

fn store_line(random: &mut Random, out: &mut Vec<u8>) {
    let verb = random.pick(&["set", "set", "set", "add", "replace", "append", "prepend", "cas"]);
    let data = data(random);
    let flags = random.pick(&["0", "0", "5", "4294967295", "4294967296", "+1"]);
    let mut line = format!(
        "{verb} {} {flags} {} {}",
        if random.one_in(4) { counter(random) } else { key(random) },
        random.pick(TIMES),
        data.len()
    );
    if verb == "cas" {
        let _ = write!(line, " {}", random.below(60));
    }
    if random.one_in(6) {
        line.push_str(" noreply");
    }
    out.extend_from_slice(line.as_bytes());
    end_line(random, out);
    out.extend_from_slice(&data);
    match random.below(40) {
        // A bad data chunk: three bytes more than announced, the last of them a command line.
        0 => out.extend_from_slice(b"abc\r\n"),
        _ => out.extend_from_slice(b"\r\n"),
    }
}

fn end_line(random: &mut Random, out: &mut Vec<u8>) {
    out.extend_from_slice(match random.below(8) {
        0 => b"\n".as_slice(),
        1 => b"  \r\n",
        _ => b"\r\n",
    });
}

fn command(random: &mut Random, out: &mut Vec<u8>) {
    let mut line = match random.below(20) {
        0..=6 => return store_line(random, out),
        7..=12 => {
            let mut line = random.pick(&["get", "gets", "get"]).to_owned();
            let count = if random.one_in(40) { 200 } else { 1 + random.below(5) };
            for _ in 0..count {
                line.push(' ');
                line.push_str(&key(random));
            }
            line
        }
        13 => format!("{} {} {} {}", random.pick(&["gat", "gats"]), random.pick(TIMES), key(random), key(random)),
        14 | 15 => format!("{} {} {}", random.pick(&["incr", "decr"]), counter(random), random.pick(DELTAS)),
        16 => format!("touch {} {}", key(random), random.pick(TIMES)),
        17 => format!("delete {}", key(random)),
        18 if random.one_in(4) => random.pick(&["flush_all", "flush_all 0", "flush_all -1"]).to_owned(),
        _ => random.pick(ODD).to_owned(),
    };
    if random.one_in(8) && !line.starts_with("get") && !line.is_empty() {
        line.push_str(" noreply");
    }
    if random.one_in(12) {
        line = format!("  {}", line.replace(' ', "   "));
    }
    out.extend_from_slice(line.as_bytes());
    end_line(random, out);
}

fn compare(seed: u64, reference: SocketAddr, node: SocketAddr, command: fn(&mut Random, &mut Vec<u8>)) {
    let mut random = Random(seed);
    let mut stream = Vec::new();
    for _ in 0..300 {
        command(&mut random, &mut stream);
    }
    let mut cuts: Vec<usize> = (0..random.below(60)).map(|_| random.below(stream.len())).collect();
    cuts.sort_unstable();
    let expected = masked(&exchange(reference, &stream, &cuts));
    let got = masked(&exchange(node, &stream, &cuts));
    if expected != got {
        let at = expected.iter().zip(&got).position(|(a, b)| a != b).unwrap_or(expected.len().min(got.len()));
        let part = |bytes: &[u8]| {
            let from = at.saturating_sub(300).min(bytes.len());
            let to = (at + 100).min(bytes.len());
            String::from_utf8_lossy(&bytes[from..to]).into_owned()
        };
        panic!("seed {seed}: differs at byte {at}\nmemcached: {:?}\nembedded:  {:?}", part(&expected), part(&got));
    }
    assert!(got.ends_with(END_MARK), "seed {seed}: closed by both before its end");
}

#[test]
fn random_streams_get_the_bytes_memcached_gives() {
    let memcached = Memcached::start();
    let embedded = Embedded::start();
    for seed in 0..150 {
        compare(seed, memcached.addr, embedded.addr, command);
    }
}

#[test]
fn single_streams_get_the_bytes_memcached_gives() {
    let big = |verb: &str, tail: &str| format!("{verb} k 0 0 1048576{tail}\r\n{}\r\nget k\r\n", "x".repeat(MIB));
    let long_get = format!("get {}k1\r\n", "miss ".repeat(20_000));
    let over_long = format!("get {}{}\r\n", "k ".repeat(9_999), "o".repeat(251));
    let memcached = Memcached::start();
    let embedded = Embedded::start();
    let chunked = |len: usize| {
        let text = "7 ".repeat(len / 2);
        format!("set k 0 0 {}\r\n{text}\r\nincr k 1\r\n", text.len())
    };
    for stream in [
        &chunked(524_288 - 60),
        &chunked(524_288 - 58),
        "set k 0 0 3\r\nabc\r\n",
        &big("set", ""),
        "set k 0 0 3\r\nabc\r\n",
        &big("replace", ""),
        &big("set", " noreply"),
        &long_get,
        &over_long,
        // A flush of later times brings back what an earlier one had hidden.
        "set k 0 0 1\r\n1\r\nflush_all\r\nflush_all 100000\r\nget k\r\ngets k\r\n",
        "flush_all 2592001\r\nget k\r\nflush_all noreply\r\nget k\r\n",
        "set k 3 0 3\r\n100\r\ndecr k 1\r\nincr k 5\r\nincr k 900\r\ngets k\r\n",
        "set k 0 0 1\r\n1\r\nincr k 18446744073709551615\r\ndecr k 18446744073709551615\r\n",
        "set k 3 0 3\r\n7 x\r\nincr k 1\r\nget k\r\n",
        "set k 3 0 20\r\n18446744073709551615\r\nincr k 1\r\ngets k\r\n",
        "set k 0 0 3\r\nabcdef\r\nget k\r\n",
        "set k 0 0 3 noreply\r\nabcdef\r\nget k\r\n",
        "set k 0 0 3\r\nabc\nget k\r\nget k\r\n",
        "get k\0 tail\r\nget a\0\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "version\r\nquit\r\nversion\r\n",
        "quit now\r\n",
        "stats sizes\r\nstats reset\r\n",
        "bget k\r\n",
    ] {
        assert_eq!(ask(memcached.addr, stream.as_bytes()), ask(embedded.addr, stream.as_bytes()), "{stream:.80?}");
    }
    // A line without end: both close.
    let endless = "k".repeat(1 << 16);
    assert_eq!(exchange(embedded.addr, endless.as_bytes(), &[3_000]), b"");
    assert_eq!(exchange(memcached.addr, endless.as_bytes(), &[3_000]), b"");
}

/// Where the answers differ, and why.
#[test]
fn no_block_is_executed_and_no_reply_lost() {
    let long = "k".repeat(251);
    let memcached = Memcached::start();
    let embedded = Embedded::start();
    for (stream, theirs, ours) in [
        (
            format!("set {long} 0 0 9\r\nflush_all\r\n"),
            "CLIENT_ERROR bad command line format\r\nOK\r\nMN\r\n",
            "CLIENT_ERROR bad command line format\r\nMN\r\n",
        ),
        (
            "set k x 0 7\r\nversion\r\n".into(),
            "CLIENT_ERROR bad command line format\r\nVERSION 1.6.18\r\nMN\r\n",
            "CLIENT_ERROR bad command line format\r\nMN\r\n",
        ),
        ("set k 0 0 7 a b\r\nversion\r\n".into(), "ERROR\r\nVERSION 1.6.18\r\nMN\r\n", "ERROR\r\nMN\r\n"),
        // The length is in doubt: the connection ends.
        (
            "set k 0 0 x\r\nversion\r\n".into(),
            "CLIENT_ERROR bad command line format\r\nVERSION 1.6.18\r\nMN\r\n",
            "CLIENT_ERROR bad command line format\r\n",
        ),
        ("set k 0\r\n".into(), "ERROR\r\nMN\r\n", "ERROR\r\n"),
        // memcached 1.6.18 loses the replies still waiting in front of an over-long read.
        (
            format!("version\r\nget k {long}\r\n"),
            "CLIENT_ERROR bad command line format\r\nMN\r\n",
            "VERSION 1.6.18\r\nCLIENT_ERROR bad command line format\r\nMN\r\n",
        ),
        // What a node behind a router is never asked.
        ("stats nodes\r\nstats sum\r\n".into(), "ERROR\r\nERROR\r\nMN\r\n", "ERROR\r\nERROR\r\nMN\r\n"),
    ] {
        assert_eq!(ask(memcached.addr, stream.as_bytes()), theirs, "{stream:?}");
        assert_eq!(ask(embedded.addr, stream.as_bytes()), ours, "{stream:?}");
    }
}

fn names(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("STAT "))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect()
}

#[test]
fn stats_have_memcacheds_names_and_counts() {
    let memcached = Memcached::start();
    let embedded = Embedded::start();
    let work = "get a b c a\r\ngets a\r\ngat 0 a b\r\ntouch a 0\r\n\
        touch q 0\r\ncas a 0 0 1 9999\r\nx\r\n\
        cas q 0 0 1 1\r\nx\r\ndelete q\r\nset q 0 0 1\r\n1\r\ndelete q\r\n\
        mg a\r\nmg q\r\nmg a T0\r\nmg q T0\r\nmg v N0\r\nmd a C9\r\nmd a I\r\nmd v\r\nmd q\r\nma q\r\nma q MD\r\nma q N0\r\n\
        md q\r\nms a 1 C999\r\n1\r\nms q 1 C9\r\n1\r\nms a 1 C1 I\r\n1\r\nms a 1 ME\r\n1\r\nms a 1 MA\r\n1\r\nme a\r\nme q\r\nflush_all\r\nget a\r\n\
        add a 0 0 1\r\n1\r\nadd a 0 0 1\r\n1\r\nset a 0 0 1\r\nabc\r\n\
        set a 0 0 1048576\r\n";
    let work = format!("{work}{}\r\nset a 0 0 1\r\n1\r\n", "x".repeat(MIB));
    let mut counted = Vec::new();
    for addr in [memcached.addr, embedded.addr] {
        // Apart from the reads: memcached counts in place only what no pending answer refers to.
        ask(addr, b"set a 0 0 1\r\n1\r\nincr a 1\r\nincr q 1\r\ndecr a 1\r\ndecr q 1\r\n");
        ask(addr, work.as_bytes());
        let text = ask(addr, b"stats\r\n");
        let figures: Vec<String> = text
            .lines()
            .filter(|line| {
                ["cmd_", "get_", "delete_", "incr_", "decr_", "cas_", "touch_", "store_"]
                    .iter()
                    .any(|name| line.starts_with(&format!("STAT {name}")))
                    || line.starts_with("STAT total_items")
                    || line.starts_with("STAT curr_items")
            })
            .map(str::to_owned)
            .collect();
        counted.push(figures);
    }
    assert_eq!(counted[0], counted[1]);
    for stats in ["stats", "stats settings", "stats items", "stats slabs"] {
        let theirs = names(&ask(memcached.addr, format!("{stats}\r\n").as_bytes()));
        let ours = ask(embedded.addr, format!("{stats}\r\n").as_bytes());
        assert!(ours.ends_with("END\r\nMN\r\n"), "{stats}: {ours}");
        let mut from = 0;
        for name in names(&ours) {
            let at = theirs[from..].iter().position(|theirs| *theirs == name);
            from += at.unwrap_or_else(|| panic!("{stats}: {name} is unknown or out of order")) + 1;
        }
    }
    assert!(ask(embedded.addr, b"stats conns\r\n").ends_with("END\r\nMN\r\n"));
}

#[test]
fn a_client_that_closes_its_half_gets_what_it_is_owed() {
    let embedded = Embedded::start();
    let mut socket = TcpStream::connect(embedded.addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"set k 0 0 5\r\nhello\r\nget k\r\nget half a li").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    socket.read_to_string(&mut got).unwrap();
    assert_eq!(got, "STORED\r\nVALUE k 0 5\r\nhello\r\nEND\r\n");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let embedded = Embedded::start();
    let value = vec![b'x'; 500_000];
    let mut stream = b"set k 0 0 500000\r\n".to_vec();
    stream.extend_from_slice(&value);
    stream.extend_from_slice(b"\r\n");
    assert_eq!(exchange(embedded.addr, &stream, &[]), b"STORED\r\nMN\r\n");
    let mut greedy = TcpStream::connect(embedded.addr).unwrap();
    greedy.write_all(format!("get{}\r\n", " k".repeat(2_000)).as_bytes()).unwrap();
    assert_eq!(exchange(embedded.addr, b"get no\r\n", &[]), b"END\r\nMN\r\n");
    // Its thousand megabytes come when it reads after all.
    greedy.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = [0; 17];
    greedy.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"VALUE k 0 500000\r");
}
