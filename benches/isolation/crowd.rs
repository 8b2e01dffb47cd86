//! The load generator: one thread, one epoll, any number of clients, and one read per ready one. Of every piece that
//! arrives the beginning and the end are compared with what must stand there, and every length counts.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// What one read takes at most.
const PIECE: usize = 256 << 10;
/// So many bytes of each end of a piece are compared: all of them would cost as much as the proxies do.
const LOOK: usize = 64;
const TAIL: &[u8] = b"\r\nEND\r\n";

/// A key with its value.
pub(crate) struct Item {
    get: Vec<u8>,
    set: Vec<u8>,
    /// The line before the value.
    head: Vec<u8>,
    data: Arc<[u8]>,
}

impl Item {
    /// A value that no other key of the same kind has.
    pub(crate) fn new(key: &str, length: usize) -> Self {
        Self::with(key, format!("{key}:").bytes().cycle().take(length).collect())
    }

    pub(crate) fn with(key: &str, data: Arc<[u8]>) -> Self {
        let length = data.len();
        Self {
            get: format!("get {key}\r\n").into_bytes(),
            set: format!("set {key} 0 0 {length}\r\n").into_bytes(),
            head: format!("VALUE {key} 0 {length}\r\n").into_bytes(),
            data,
        }
    }

    pub(crate) fn some(count: usize, length: usize) -> Vec<Self> {
        (0..count).map(|number| Self::new(&format!("key{number}:{length}"), length)).collect()
    }

    /// What the answer to `get` has from its byte `at` on, up to the end of one of its three parts.
    fn answer(&self, at: usize) -> &[u8] {
        let behind = at.saturating_sub(self.head.len());
        if at < self.head.len() {
            &self.head[at..]
        } else if behind < self.data.len() {
            &self.data[behind..]
        } else {
            TAIL.get(behind - self.data.len()..).unwrap_or_default()
        }
    }

    fn answer_len(&self) -> usize {
        self.head.len() + self.data.len() + TAIL.len()
    }

    /// Stores it through `address`, patiently: a proxy listens before its node is connected.
    pub(crate) fn store(&self, address: SocketAddr) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            stream.write_all(&self.set)?;
            stream.write_all(&self.data)?;
            stream.write_all(b"\r\n")?;
            let mut reply = [0; 8];
            if stream.read_exact(&mut reply).is_ok() && &reply == b"STORED\r\n" {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("not stored: {}", reply.escape_ascii())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A seeded generator (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// What a client does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Gets of any item.
    Reader,
    /// Sets of any item.
    Setter,
    /// Gets of the item of this number.
    ReaderOf(usize),
    /// In turn a set and a get of the item of this number.
    MoverOf(usize),
}

/// What a run of the load gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Values that came whole.
    pub(crate) values: u64,
    pub(crate) stored: u64,
    pub(crate) misses: u64,
    /// Error lines.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
    /// Bytes that came.
    pub(crate) received: u64,
    /// Clients that were closed.
    pub(crate) closed: u64,
    /// Clients that still waited at the end of the patience.
    pub(crate) unanswered: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// When each answer had come.
    pub(crate) answered_at: Vec<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Get(usize),
    Set(usize),
}

struct Member {
    stream: TcpStream,
    role: Role,
    asked: Asked,
    /// Bytes of the request that were sent.
    sent: usize,
    /// Bytes of the value's answer that have come.
    come: usize,
    /// An answer that is one line, as far as it has come.
    line: Vec<u8>,
    waits_to_write: bool,
    open: bool,
    count: usize,
}

/// Clients of one proxy.
pub(crate) struct Crowd<'a> {
    items: &'a [Item],
    epoll: OwnedFd,
    members: Vec<Member>,
    random: Random,
    piece: Vec<u8>,
}

impl<'a> Crowd<'a> {
    pub(crate) fn connect(address: SocketAddr, items: &'a [Item], roles: &[Role]) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut members = Vec::new();
        for (index, role) in roles.iter().enumerate() {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            members.push(Member {
                stream,
                role: *role,
                asked: Asked::Nothing,
                sent: 0,
                come: 0,
                line: Vec::new(),
                waits_to_write: false,
                open: true,
                count: 0,
            });
        }
        Ok(Self { items, epoll, members, random: Random(1), piece: vec![0; PIECE] })
    }

    /// Everybody asks once; waits for the answers until `limit` is over.
    pub(crate) fn once(&mut self, limit: Duration) -> io::Result<Outcome> {
        self.drive(Duration::ZERO, limit)
    }

    /// Everybody asks again and again for so long; then waits for the answers that are owed, until `limit` more is over.
    pub(crate) fn run(&mut self, length: Duration, limit: Duration) -> io::Result<Outcome> {
        self.drive(length, limit)
    }

    fn drive(&mut self, length: Duration, limit: Duration) -> io::Result<Outcome> {
        let start = Instant::now();
        let mut outcome = Outcome::default();
        // Who still waits for an answer from before asks when it has come.
        let mut waiting = self.members.iter().filter(|member| member.open).count();
        let idle = |index: &usize| self.members[*index].open && self.members[*index].asked == Asked::Nothing;
        let mut todo: VecDeque<usize> = (0..self.members.len()).filter(idle).collect();
        let mut events = Vec::with_capacity(256);
        loop {
            while let Some(index) = todo.pop_front() {
                self.ask(index)?;
            }
            let passed = start.elapsed();
            if waiting == 0 {
                break;
            }
            if passed > length + limit {
                outcome.unanswered = waiting as u64;
                break;
            }
            wait(&self.epoll, &mut events)?;
            for event in &events {
                let (index, flags) = (event.data.u64() as usize, event.flags);
                if flags.contains(epoll::EventFlags::OUT) {
                    self.flush(index)?;
                }
                if flags == epoll::EventFlags::OUT || !self.receive(index, &mut outcome)? {
                    continue;
                }
                let passed = start.elapsed();
                outcome.elapsed = passed;
                outcome.answered_at.push(passed);
                if passed < length && self.members[index].open {
                    todo.push_back(index);
                } else {
                    waiting -= 1;
                }
            }
        }
        Ok(outcome)
    }

    /// Everybody asks, and aborts the connection with a reset as soon as some of the answer has come; those to whom nothing
    /// comes within `limit` abort it then.
    pub(crate) fn abort(mut self, limit: Duration) -> io::Result<()> {
        (0..self.members.len()).try_for_each(|index| self.ask(index))?;
        let start = Instant::now();
        let mut streams: Vec<Option<TcpStream>> = self.members.into_iter().map(|member| Some(member.stream)).collect();
        for stream in streams.iter().flatten() {
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
        let mut left = streams.len();
        let mut events = Vec::with_capacity(256);
        while left > 0 && start.elapsed() < limit {
            wait(&self.epoll, &mut events)?;
            for event in &events {
                let Some(mut stream) = streams[event.data.u64() as usize].take() else { continue };
                // The reset goes out with the drop.
                let _ = stream.read(&mut self.piece);
                left -= 1;
            }
        }
        Ok(())
    }

    fn ask(&mut self, index: usize) -> io::Result<()> {
        let any = self.random.below(self.items.len());
        let member = &mut self.members[index];
        member.count += 1;
        member.asked = match member.role {
            Role::Reader => Asked::Get(any),
            Role::Setter => Asked::Set(any),
            Role::ReaderOf(item) => Asked::Get(item),
            Role::MoverOf(item) if member.count % 2 == 1 => Asked::Set(item),
            Role::MoverOf(item) => Asked::Get(item),
        };
        (member.sent, member.come) = (0, 0);
        member.line.clear();
        self.flush(index)
    }

    fn flush(&mut self, index: usize) -> io::Result<()> {
        let member = &mut self.members[index];
        let parts: [&[u8]; 3] = match member.asked {
            Asked::Nothing => return Ok(()),
            Asked::Get(item) => [&self.items[item].get, b"", b""],
            Asked::Set(item) => [&self.items[item].set, &self.items[item].data, b"\r\n"],
        };
        let total: usize = parts.iter().map(|part| part.len()).sum();
        while member.sent < total {
            let mut skip = member.sent;
            let slices = parts.map(|part| {
                let skipped = skip.min(part.len());
                skip -= skipped;
                IoSlice::new(&part[skipped..])
            });
            match member.stream.write_vectored(&slices) {
                Ok(count) => member.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The read that follows sees the end.
                Err(_) => break,
            }
        }
        let waits = member.sent < total;
        if waits != member.waits_to_write {
            member.waits_to_write = waits;
            let flags = if waits { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(&self.epoll, &member.stream, epoll::EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    /// Reads once. Whether that was the end of what the client waited for.
    fn receive(&mut self, index: usize, outcome: &mut Outcome) -> io::Result<bool> {
        let member = &mut self.members[index];
        if !member.open {
            return Ok(false);
        }
        let count = match member.stream.read(&mut self.piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => 0,
        };
        if count == 0 {
            member.open = false;
            epoll::delete(&self.epoll, &member.stream)?;
            outcome.closed += 1;
            return Ok(member.asked != Asked::Nothing);
        }
        outcome.received += count as u64;
        let piece = &self.piece[..count];
        let item = match member.asked {
            Asked::Get(item) if member.line.is_empty() && (member.come > 0 || piece[0] == b'V') => &self.items[item],
            Asked::Get(_) | Asked::Set(_) => {
                member.line.extend_from_slice(piece);
                if !member.line.ends_with(b"\r\n") {
                    return Ok(false);
                }
                match (&member.line[..], member.asked) {
                    (b"END\r\n", Asked::Get(_)) => outcome.misses += 1,
                    (b"STORED\r\n", Asked::Set(_)) => outcome.stored += 1,
                    _ => {
                        outcome.errors += 1;
                        outcome.first_error.get_or_insert_with(|| member.line.escape_ascii().to_string());
                    }
                }
                member.asked = Asked::Nothing;
                return Ok(true);
            }
            Asked::Nothing => return Err(wrong("bytes that nobody asked for", piece)),
        };
        if member.come + count > item.answer_len() {
            return Err(wrong("more than the value", piece));
        }
        for from in [0, count.saturating_sub(LOOK)] {
            let mut seen = &piece[from..count.min(from + LOOK)];
            let mut at = member.come + from;
            while !seen.is_empty() {
                let wanted = item.answer(at);
                let same = wanted.len().min(seen.len());
                if seen[..same] != wanted[..same] {
                    return Err(wrong("not the value that was asked for", seen));
                }
                at += same;
                seen = &seen[same..];
            }
        }
        member.come += count;
        if member.come < item.answer_len() {
            return Ok(false);
        }
        member.asked = Asked::Nothing;
        outcome.values += 1;
        Ok(true)
    }
}

/// The next events, or none for a while.
fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>) -> io::Result<()> {
    events.clear();
    let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    match epoll::wait(epoll, spare_capacity(events), Some(&pause)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn wrong(what: &str, bytes: &[u8]) -> io::Error {
    io::Error::other(format!("{what}: {}", bytes[..bytes.len().min(100)].escape_ascii()))
}
