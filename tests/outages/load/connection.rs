//! One connection of the load: what it asks, and how what it is answered is checked.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::{Kind, Scene, Stage};
use crate::model::{Finding, Key};
use crate::support::{Pattern, Random, shown};

#[derive(Debug)]
pub(super) enum Asked {
    /// Each key once.
    Get(Vec<usize>),
    Set(usize, u64),
    /// With `noreply`: there is no answer to wait for.
    SetQuietly(usize, u64),
    Delete(usize),
    Touch(usize),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) asked: Asked,
    pub(super) due: Instant,
    pub(super) stage: Stage,
    /// How often nodes had been wiped.
    wipes: u64,
}

pub(super) struct Connection {
    pub(super) name: String,
    address: SocketAddr,
    pub(super) stream: TcpStream,
    pub(super) keys: Vec<Key>,
    pub(super) input: Vec<u8>,
    /// Bytes of `input` that are data.
    pub(super) filled: usize,
    pub(super) output: Vec<u8>,
    /// Bytes of `output` already sent.
    sent: usize,
    pub(super) waits_to_write: bool,
    pub(super) owed: VecDeque<Request>,
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the proxy accepts");
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

fn put(out: &mut Vec<u8>, pattern: &Pattern, key: &str, version: u64, noreply: &str) {
    let value = pattern.value(key, version);
    let flags = version % 1_000;
    out.extend_from_slice(format!("set {key} {flags} 0 {}{noreply}\r\n", value.len()).as_bytes());
    out.extend_from_slice(&value);
    out.extend_from_slice(b"\r\n");
}

/// One line without its end, and the bytes it took.
fn line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = input.iter().position(|&byte| byte == b'\n')?;
    assert!(end > 0 && input[end - 1] == b'\r', "a line without CR: {}", shown(input));
    Some((&input[..end - 1], end + 1))
}

impl Connection {
    pub(super) fn new(name: String, address: SocketAddr, keys: Vec<Key>) -> Self {
        Self {
            name,
            address,
            stream: connect(address),
            keys,
            input: vec![0; 64 << 10],
            filled: 0,
            output: Vec::new(),
            sent: 0,
            waits_to_write: false,
            owed: VecDeque::new(),
        }
    }

    pub(super) fn ask(&mut self, asked: Asked, due: Instant, scene: &mut Scene<'_>) {
        scene.tally.requests += 1;
        let out = &mut self.output;
        match &asked {
            Asked::Get(keys) => {
                out.extend_from_slice(if scene.tally.requests.is_multiple_of(4) { b"gets" } else { b"get" });
                for &at in keys {
                    out.push(b' ');
                    out.extend_from_slice(self.keys[at].name.as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
            Asked::Set(at, version) => put(out, scene.pattern, &self.keys[*at].name, *version, ""),
            Asked::SetQuietly(at, version) => put(out, scene.pattern, &self.keys[*at].name, *version, " noreply"),
            Asked::Delete(at) => out.extend_from_slice(format!("delete {}\r\n", self.keys[*at].name).as_bytes()),
            Asked::Touch(at) => out.extend_from_slice(format!("touch {} 0\r\n", self.keys[*at].name).as_bytes()),
        }
        self.owed.push_back(Request { asked, due, stage: scene.stage, wipes: scene.wipes });
        if self.owed.len() == 1 {
            // It may need no answer.
            self.take_answers(scene);
        }
    }

    /// Whatever is due now.
    pub(super) fn ask_something(&mut self, random: &mut Random, due: Instant, scene: &mut Scene<'_>) {
        let at = random.below(self.keys.len());
        let many = if scene.tally.kind == Kind::Mixed { 40 } else { 10 };
        let asked = match random.below(100) {
            0..14 => Asked::Set(at, self.keys[at].next_version()),
            14..16 => Asked::SetQuietly(at, self.keys[at].next_version()),
            16..18 => Asked::Delete(at),
            18..20 => Asked::Touch(at),
            dice if dice < 20 + many => {
                let count = random.between(2, 12);
                let step = random.between(1, self.keys.len() / count);
                Asked::Get((0..count).map(|number| (at + number * step) % self.keys.len()).collect())
            }
            _ => Asked::Get(vec![at]),
        };
        self.ask(asked, due, scene);
    }

    /// Reads once, and takes every whole answer; gives whether the connection is still there.
    pub(super) fn read(&mut self, scene: &mut Scene<'_>) -> bool {
        if self.filled == self.input.len() {
            self.input.resize(self.filled * 2, 0);
        }
        let open = match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => false,
            Ok(count) => {
                self.filled += count;
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::Interrupted => true,
            Err(_) => false,
        };
        self.take_answers(scene);
        open
    }

    fn take_answers(&mut self, scene: &mut Scene<'_>) {
        let now = Instant::now();
        let mut taken = 0;
        while let Some(request) = self.owed.pop_front() {
            let input = &self.input[taken..self.filled];
            let Some(length) = answer(&self.name, &mut self.keys, &request, input, now, scene) else {
                self.owed.push_front(request);
                break;
            };
            taken += length;
        }
        assert!(
            !self.owed.is_empty() || taken == self.filled,
            "out of step: {} was sent what it did not ask for: {}",
            self.name,
            shown(&self.input[taken..self.filled])
        );
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
    }

    /// The proxy closed it. It may do so in the middle of a value that its node did not finish, or before an answer that
    /// was not taken while memory is tight, and nowhere else.
    pub(super) fn closed(&mut self, scene: &mut Scene<'_>) {
        let front = self.owed.front();
        let rest = &self.input[..self.filled];
        let asks_the_sick = |keys: &[usize]| keys.iter().any(|&at| scene.sick & (1 << self.keys[at].node) != 0);
        let in_a_value = rest.starts_with(b"VALUE ")
            && front.is_some_and(|front| matches!(&front.asked, Asked::Get(keys) if asks_the_sick(keys)))
            && Values(rest).last().is_some_and(|value| value.is_err());
        let not_taken = scene.tight && front.is_some();
        assert!(in_a_value || not_taken, "{} was closed, owed {front:?}, having {}", self.name, shown(rest));
        scene.tally.cut += 1;
        for request in std::mem::take(&mut self.owed) {
            match request.asked {
                Asked::Set(at, version) | Asked::SetQuietly(at, version) => self.keys[at].unknown(Some(version)),
                Asked::Delete(at) => self.keys[at].unknown(None),
                Asked::Get(_) | Asked::Touch(_) => {}
            }
        }
        self.stream = connect(self.address);
        self.filled = 0;
        self.output.clear();
        self.sent = 0;
        self.waits_to_write = false;
    }

    /// Writes once; true when all is with the kernel.
    pub(super) fn flush(&mut self) -> bool {
        match self.stream.write(&self.output[self.sent..]) {
            Ok(count) => self.sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::Interrupted => {}
            // It was closed: reading says so, too, and says more.
            Err(_) => self.sent = self.output.len(),
        }
        if self.sent < self.output.len() {
            return false;
        }
        self.output.clear();
        self.sent = 0;
        true
    }
}

/// The blocks of a retrieval's answer, one after the other; an error is where it is not all there.
struct Values<'a>(&'a [u8]);

struct Block<'a> {
    key: &'a str,
    flags: u64,
    data: &'a [u8],
    length: usize,
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Block<'a>, ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.0.starts_with(b"VALUE ") {
            return None;
        }
        let input = std::mem::take(&mut self.0);
        let Some((line, head)) = line(input) else { return Some(Err(())) };
        let line = std::str::from_utf8(line).expect("our keys are text");
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("not a VALUE line: {line:?}"));
        assert!((4..=5).contains(&words.len()), "not a VALUE line: {line:?}");
        let end = head + number(3) as usize;
        if input.len() < end + 2 {
            return Some(Err(()));
        }
        assert!(&input[end..end + 2] == b"\r\n", "a block does not end in CR LF: {}", shown(&input[head..end + 2]));
        self.0 = &input[end + 2..];
        Some(Ok(Block { key: words[1], flags: number(2), data: &input[head..end], length: end + 2 }))
    }
}

/// Checks the answer at the beginning of the input, and gives its length; `None` if it is not all
/// there.
fn answer(
    name: &str,
    keys: &mut [Key],
    request: &Request,
    input: &[u8],
    now: Instant,
    scene: &mut Scene<'_>,
) -> Option<usize> {
    let since_wiped = request.wipes == scene.wipes;
    let length = match &request.asked {
        Asked::SetQuietly(at, version) => {
            let key = &mut keys[*at];
            if scene.sick & (1 << key.node) == 0 {
                key.may_hold(Some(*version));
            } else {
                key.unknown(Some(*version));
            }
            return Some(0);
        }
        Asked::Get(asked) => {
            let mut length = 0;
            let mut found = Vec::with_capacity(asked.len());
            for block in Values(input) {
                let Ok(block) = block else { return None };
                length += block.length;
                found.push(block);
            }
            let (end, last) = line(&input[length..])?;
            assert!(
                end == b"END",
                "out of step or refused: {name} asked {:?} and got {}",
                asked.iter().map(|&at| &keys[at].name).collect::<Vec<_>>(),
                shown(&input[length..])
            );
            for &at in asked {
                let key = &mut keys[at];
                let block = found.iter().position(|block| block.key == key.name).map(|place| found.swap_remove(place));
                let version = block.map(|block| {
                    let version = scene.pattern.version(&key.name, block.data);
                    assert_eq!(block.flags, version % 1_000, "another value's flags, at {}", key.name);
                    version
                });
                if !since_wiped {
                    key.found_before_wiped(version);
                    continue;
                }
                let finding = key.found(version);
                scene.tally.hits += u64::from(version.is_some());
                scene.tally.late += u64::from(finding == Finding::Late);
                scene.seen(key.node, finding == Finding::Refused, request.stage, now);
            }
            let unasked: Vec<&str> = found.iter().map(|block| block.key).collect();
            assert!(unasked.is_empty(), "out of step: {name} did not ask for {unasked:?}, or got it twice");
            length + last
        }
        asked @ (Asked::Set(..) | Asked::Delete(_) | Asked::Touch(_)) => {
            let (line, length) = line(input)?;
            let line = String::from_utf8_lossy(line);
            let (&at, value) = match asked {
                Asked::Set(at, version) => (at, Some(*version)),
                Asked::Delete(at) | Asked::Touch(at) => (at, None),
                Asked::Get(_) | Asked::SetQuietly(..) => unreachable!("they were dealt with above"),
            };
            let key = &mut keys[at];
            let wrong = |key: &Key| -> ! {
                panic!("out of step or wrong: {name} asked {asked:?} of {} and got {line:?}", key.name)
            };
            if let Asked::Touch(_) = asked {
                let existed = match &*line {
                    "TOUCHED" => true,
                    "NOT_FOUND" => false,
                    _ => wrong(key),
                };
                if since_wiped {
                    let finding = key.touched(existed);
                    scene.seen(key.node, finding == Finding::Refused, request.stage, now);
                }
            } else if line.starts_with("SERVER_ERROR proxy") {
                key.unknown(value);
                scene.seen(key.node, true, request.stage, now);
            } else {
                match (asked, &*line) {
                    (Asked::Set(..), "STORED") | (Asked::Delete(_), "DELETED" | "NOT_FOUND") => {}
                    _ => wrong(key),
                }
                match asked {
                    // It was done before the node lost everything or after.
                    _ if !since_wiped => key.unknown(value),
                    Asked::Set(..) => key.acknowledged(value),
                    _ => key.deleted(line == "DELETED"),
                }
                scene.tally.written += 1;
                scene.seen(key.node, false, request.stage, now);
            }
            length
        }
    };
    let latency = now.saturating_duration_since(request.due).as_nanos() as u64;
    scene.tally.latency[request.stage as usize].saturating_record(latency);
    Some(length)
}
