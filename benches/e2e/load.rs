//! The load generator: one thread, one epoll, one read per ready connection, and every byte of
//! every answer compared.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::thread::set_current_timer_slack;

use crate::random::Random;
use crate::wire::{Wire, timespec};
use crate::workload::{Dataset, Profile, Request, Verdict};

/// Silence after which the answers still owed are given up and counted as wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one run of the load gave.
pub(crate) struct Outcome {
    /// Requests answered rightly.
    pub(crate) operations: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Wrong, missing and unanswered ones.
    pub(crate) wrong: u64,
    /// The first wrong one, to be shown to a human.
    pub(crate) first_wrong: Option<String>,
    /// Nanoseconds per request.
    pub(crate) latency: Histogram<u64>,
}

impl Outcome {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            operations: 0,
            elapsed: Duration::ZERO,
            wrong: 0,
            first_wrong: None,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?,
        })
    }

    /// Percentiles 50, 99 and 99.9 of the latency, in µs.
    pub(crate) fn percentiles_us(&self) -> [f64; 3] {
        [0.5, 0.99, 0.999].map(|share| self.latency.value_at_quantile(share) as f64 / 1e3)
    }

    /// Counts one right answer.
    pub(crate) fn right(&mut self, latency: Duration) {
        self.operations += 1;
        self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    fn wrong(&mut self, count: usize, what: impl FnOnce() -> String) {
        if count > 0 {
            self.wrong += count as u64;
            self.first_wrong.get_or_insert_with(what);
        }
    }
}

struct Expected {
    request: Request,
    /// When it was sent or, in an open loop, should have been.
    since: Instant,
}

struct Connection {
    wire: Wire,
    expected: VecDeque<Expected>,
    /// Closed after a wrong answer or by the peer; never used again.
    lost: bool,
}

impl Connection {
    fn push(&mut self, dataset: &Dataset, request: Request, since: Instant) {
        self.wire.push(dataset.bytes(request));
        self.expected.push_back(Expected { request, since });
    }

    /// Takes every whole answer off the input.
    fn settle(&mut self, dataset: &Dataset, now: Instant, outcome: &mut Outcome) -> io::Result<()> {
        let mut at = 0;
        while let Some(next) = self.expected.front() {
            let input = &self.wire.input()[at..];
            match dataset.check(next.request, input) {
                Verdict::Partial => break,
                Verdict::Right(len) => {
                    outcome.right(now.duration_since(next.since));
                    at += len;
                }
                Verdict::Wrong(len) => {
                    outcome.wrong(1, || describe(dataset, next.request, input));
                    at += len;
                }
                Verdict::OutOfStep => {
                    return Err(io::Error::other(describe(dataset, next.request, input)));
                }
            }
            self.expected.pop_front();
        }
        let rest = &self.wire.input()[at..];
        if self.expected.is_empty() && !rest.is_empty() {
            let unasked = rest.escape_ascii();
            return Err(io::Error::other(format!("unasked bytes: {:.200}", unasked.to_string())));
        }
        self.wire.take(at);
        Ok(())
    }
}

fn describe(dataset: &Dataset, request: Request, input: &[u8]) -> String {
    format!("{:.100} -> {:.200}", show(dataset.bytes(request)), show(input))
}

fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}

/// The connections of one profile, open to one contestant.
pub(crate) struct Load<'a> {
    profile: &'a Profile,
    dataset: &'a Dataset,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    random: Random,
}

/// Whether and when another request is due.
enum Source {
    /// As soon as a connection has its answers.
    Closed,
    /// At times of its own, taken by whichever connection has been idle longest.
    Open { rate: f64, next: Instant, due: VecDeque<Instant>, idle: VecDeque<usize> },
}

impl<'a> Load<'a> {
    /// Opens all connections, the i-th to the address i modulo their number; or all to a Unix socket.
    pub(crate) fn connect(
        profile: &'a Profile,
        dataset: &'a Dataset,
        addresses: &[SocketAddr],
        unix_socket: Option<&Path>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let connections = addresses
            .iter()
            .cycle()
            .take(profile.connections)
            .enumerate()
            .map(|(index, address)| {
                let wire = match unix_socket {
                    None => Wire::open(*address, &epoll, index)?,
                    Some(path) => Wire::over(UnixStream::connect(path)?.into(), &epoll, index)?,
                };
                Ok(Connection { wire, expected: VecDeque::new(), lost: false })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { profile, dataset, epoll, connections, random: Random::new(1) })
    }

    /// Sends requests for `duration`, then waits for the answers still owed.
    pub(crate) fn run(&mut self, duration: Duration) -> io::Result<Outcome> {
        // The default slack of 50 µs is as long as the mean gap between arrivals. Processes inherit
        // it, so it is changed only for as long as none is started.
        if self.profile.rate.is_some() {
            set_current_timer_slack(NonZeroU64::new(1))?;
        }
        let outcome = self.drive(duration);
        if self.profile.rate.is_some() {
            set_current_timer_slack(None)?;
        }
        outcome
    }

    fn drive(&mut self, duration: Duration) -> io::Result<Outcome> {
        let start = Instant::now();
        let deadline = start + duration;
        let mut outcome = Outcome::new()?;
        let mut source = self.source(start);
        if matches!(source, Source::Closed) {
            for index in 0..self.connections.len() {
                self.send_batch(index, start, &mut outcome)?;
            }
        }
        let mut events = Vec::with_capacity(256);
        let mut progress = start;
        let mut now = start;
        loop {
            now = self.arrivals(&mut source, now, deadline, &mut outcome)?;
            let owed: usize = self.connections.iter().map(|c| c.expected.len()).sum();
            let (waiting, wake) = match &source {
                Source::Closed => (0, None),
                Source::Open { due, next, .. } => (due.len(), (*next < deadline).then_some(*next)),
            };
            if owed + waiting == 0 && wake.is_none() {
                break;
            }
            if now.duration_since(progress) > PATIENCE || self.connections.iter().all(|c| c.lost) {
                outcome.wrong((owed + waiting).max(1), || format!("no answer for {PATIENCE:?}"));
                break;
            }
            let pause = wake.map_or(PATIENCE, |next| next.saturating_duration_since(now));
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timespec(pause))) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let index = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                now = self.ready(index, event.flags, &mut outcome)?;
                progress = now;
                if self.connections[index].lost || !self.connections[index].expected.is_empty() {
                    continue;
                }
                match &mut source {
                    Source::Closed if now < deadline => {
                        self.send_batch(index, now, &mut outcome)?;
                    }
                    Source::Closed => {}
                    Source::Open { idle, .. } => idle.push_back(index),
                }
            }
            if events.is_empty() {
                now = Instant::now();
            }
        }
        outcome.elapsed = progress.duration_since(start);
        Ok(outcome)
    }

    fn source(&self, start: Instant) -> Source {
        match self.profile.rate {
            None => Source::Closed,
            Some(rate) => {
                let idle = (0..self.connections.len()).filter(|i| !self.connections[*i].lost).collect();
                Source::Open { rate, next: start, due: VecDeque::new(), idle }
            }
        }
    }

    /// Open loop: sends what is due on idle connections; gives back the time.
    fn arrivals(
        &mut self,
        source: &mut Source,
        now: Instant,
        deadline: Instant,
        outcome: &mut Outcome,
    ) -> io::Result<Instant> {
        let Source::Open { rate, next, due, idle } = source else {
            return Ok(now);
        };
        while *next <= now && *next < deadline {
            due.push_back(*next);
            *next += Duration::from_secs_f64(self.random.gap(*rate));
        }
        if due.is_empty() {
            return Ok(now);
        }
        while !due.is_empty() {
            let Some(index) = idle.pop_front() else { break };
            if let Some(intended) = due.pop_front() {
                let request = self.dataset.draw(self.profile, index, &mut self.random);
                self.connections[index].push(self.dataset, request, intended);
                self.send(index, outcome)?;
            }
        }
        Ok(Instant::now())
    }

    fn send_batch(&mut self, index: usize, now: Instant, outcome: &mut Outcome) -> io::Result<()> {
        if self.connections[index].lost {
            return Ok(());
        }
        for _ in 0..self.profile.depth {
            let request = self.dataset.draw(self.profile, index, &mut self.random);
            self.connections[index].push(self.dataset, request, now);
        }
        self.send(index, outcome)
    }

    fn send(&mut self, index: usize, outcome: &mut Outcome) -> io::Result<()> {
        match self.connections[index].wire.flush(&self.epoll) {
            Ok(()) => Ok(()),
            Err(error) => self.lose(index, &error, outcome),
        }
    }

    /// Serves one ready connection; gives back the time its answers were read.
    fn ready(&mut self, index: usize, flags: epoll::EventFlags, outcome: &mut Outcome) -> io::Result<Instant> {
        if flags.contains(epoll::EventFlags::OUT) {
            self.send(index, outcome)?;
        }
        let connection = &mut self.connections[index];
        if connection.lost || flags == epoll::EventFlags::OUT {
            return Ok(Instant::now());
        }
        let read = connection.wire.fill();
        let now = Instant::now();
        if let Err(error) = read.and_then(|()| connection.settle(self.dataset, now, outcome)) {
            self.lose(index, &error, outcome)?;
        }
        Ok(now)
    }

    /// Gives a connection up with all it owes. Losing one is itself a fault.
    fn lose(&mut self, index: usize, error: &io::Error, outcome: &mut Outcome) -> io::Result<()> {
        let connection = &mut self.connections[index];
        outcome.wrong(connection.expected.len().max(1), || format!("connection lost: {error}"));
        connection.expected.clear();
        connection.lost = true;
        connection.wire.leave(&self.epoll)
    }
}

/// Asks each of the addresses this of every key, and checks every answer.
pub(crate) fn ask_all(dataset: &Dataset, addresses: &[SocketAddr], request: fn(usize) -> Request) -> io::Result<()> {
    const BATCH: usize = 200;
    for address in addresses {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let requests: Vec<Request> = (0..dataset.key_count()).map(request).collect();
        for batch in requests.chunks(BATCH) {
            let bytes: Vec<u8> = batch.iter().flat_map(|request| dataset.bytes(*request)).copied().collect();
            stream.write_all(&bytes)?;
            for request in batch {
                let mut reply = vec![0; dataset.answer_len(*request)];
                stream.read_exact(&mut reply)?;
                if !matches!(dataset.check(*request, &reply), Verdict::Right(_)) {
                    return Err(io::Error::other(describe(dataset, *request, &reply)));
                }
            }
        }
    }
    Ok(())
}
