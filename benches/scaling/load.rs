//! The clients: an open loop of one thread, whose every answer is judged by the [`Ledger`].

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::thread::set_current_timer_slack;

use crate::ledger::{Answer, Asked, Ledger};
use crate::random::Random;
use crate::record::Second;
use crate::wire::{Wire, timespec};

/// Connections to each sidecar.
const CONNECTIONS: usize = 16;
/// Of a hundred requests; the others are gets, and each miss is followed by a set.
pub(crate) const SETS_PER_HUNDRED: u64 = 10;
const DELETES_PER_HUNDRED: u64 = 1;
/// Of a thousand keys, those that are deleted and not asked for since, in the long run.
pub(crate) const ABSENT_PER_THOUSAND: u64 = 10 * DELETES_PER_HUNDRED;
/// A request that waits for longer has no answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for the kernel: orders are looked at in between.
const PAUSE: Duration = Duration::from_millis(5);

enum Order {
    /// The sidecars may have different rings from now on, or have the same again.
    Differ(bool),
    /// The clients of this sidecar leave it, when they have what they asked for, for this address.
    Move(usize, SocketAddr),
    Stop,
}

/// What the clients had.
pub(crate) struct Found {
    pub(crate) seconds: Vec<Second>,
    pub(crate) first_fault: Option<String>,
}

/// The thread, and what it can be told.
pub(crate) struct Clients {
    orders: std::sync::mpsc::Sender<(Order, SyncSender<()>)>,
    thread: JoinHandle<io::Result<Found>>,
    pub(crate) begun_at: Instant,
}

impl Clients {
    /// Stores all keys through the first address; then asks all of them, so many requests per second.
    pub(crate) fn start(addresses: &[SocketAddr], ledger: Ledger, rate: f64) -> io::Result<Self> {
        store(&ledger, addresses[0])?;
        let (orders, taken) = channel();
        let begun_at = Instant::now();
        let mut load = Load::connect(addresses, ledger, rate, begun_at)?;
        let thread = std::thread::spawn(move || {
            // The default slack of 50 µs is as long as the mean gap between arrivals.
            set_current_timer_slack(NonZeroU64::new(1))?;
            load.drive(&taken)?;
            Ok(Found { seconds: load.seconds, first_fault: load.first_fault })
        });
        Ok(Self { orders, thread, begun_at })
    }

    fn tell(&self, order: Order) -> io::Result<()> {
        let (done, heard) = sync_channel(1);
        let sent = self.orders.send((order, done)).is_ok();
        if sent && heard.recv().is_ok() { Ok(()) } else { Err(io::Error::other("the clients have given up")) }
    }

    pub(crate) fn differ(&self, differ: bool) -> io::Result<()> {
        self.tell(Order::Differ(differ))
    }

    /// Returns when nobody is connected to the old address any more.
    pub(crate) fn move_to(&self, sidecar: usize, address: SocketAddr) -> io::Result<()> {
        self.tell(Order::Move(sidecar, address))
    }

    /// Waits for the last answers.
    pub(crate) fn stop(self) -> io::Result<Found> {
        // Whether it still listens is what joining tells.
        let _ = self.tell(Order::Stop);
        self.thread.join().map_err(|_| io::Error::other("the clients have panicked"))?
    }
}

/// Stores every first version.
fn store(ledger: &Ledger, address: SocketAddr) -> io::Result<()> {
    const BATCH: usize = 200;
    const STORED: &[u8] = b"STORED\r\n";
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let requests: Vec<Vec<u8>> = ledger.first().collect();
    for batch in requests.chunks(BATCH) {
        stream.write_all(&batch.concat())?;
        let mut replies = vec![0; batch.len() * STORED.len()];
        stream.read_exact(&mut replies)?;
        if replies != STORED.repeat(batch.len()) {
            return Err(io::Error::other(format!(
                "not all keys were stored: {:.200}",
                replies.escape_ascii().to_string()
            )));
        }
    }
    Ok(())
}

struct Client {
    wire: Wire,
    asked: VecDeque<(Asked, Instant)>,
}

struct Load {
    ledger: Ledger,
    rate: f64,
    begun_at: Instant,
    epoll: OwnedFd,
    /// By the index that the epoll tells.
    clients: Vec<Option<Client>>,
    /// The clients of each sidecar, and whose turn it is.
    routes: Vec<Vec<usize>>,
    turn: usize,
    /// Clients that leave, and who is told when they are gone.
    leaving: Vec<usize>,
    told: Option<SyncSender<()>>,
    random: Random,
    seconds: Vec<Second>,
    first_fault: Option<String>,
}

impl Load {
    fn connect(addresses: &[SocketAddr], ledger: Ledger, rate: f64, begun_at: Instant) -> io::Result<Self> {
        let mut load = Self {
            ledger,
            rate,
            begun_at,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clients: Vec::new(),
            routes: vec![Vec::new(); addresses.len()],
            turn: 0,
            leaving: Vec::new(),
            told: None,
            random: Random::new(1),
            seconds: Vec::new(),
            first_fault: None,
        };
        for (sidecar, address) in addresses.iter().enumerate() {
            load.open(sidecar, *address)?;
        }
        Ok(load)
    }

    fn open(&mut self, sidecar: usize, address: SocketAddr) -> io::Result<()> {
        self.routes[sidecar].clear();
        for _ in 0..CONNECTIONS {
            let index = self.clients.len();
            let wire = Wire::open(address, &self.epoll, index)?;
            self.clients.push(Some(Client { wire, asked: VecDeque::new() }));
            self.routes[sidecar].push(index);
        }
        Ok(())
    }

    fn drive(&mut self, orders: &Receiver<(Order, SyncSender<()>)>) -> io::Result<()> {
        let mut next = Instant::now();
        let mut events = Vec::with_capacity(256);
        let mut stopping = None;
        while stopping.is_none() || self.clients.iter().flatten().any(|client| !client.asked.is_empty()) {
            match orders.try_recv() {
                Ok((Order::Differ(differ), told)) => {
                    self.ledger.differ = differ;
                    let _ = told.send(());
                }
                Ok((Order::Move(sidecar, address), told)) => {
                    self.leaving = self.routes[sidecar].clone();
                    self.told = Some(told);
                    self.open(sidecar, address)?;
                }
                Ok((Order::Stop, told)) => stopping = Some(told),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            let mut now = Instant::now();
            if stopping.is_none() {
                while next <= now {
                    self.ask(next)?;
                    next += Duration::from_secs_f64(self.random.gap(self.rate));
                }
                now = Instant::now();
            }
            events.clear();
            let pause = next.saturating_duration_since(now).min(PAUSE);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timespec(pause))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.ready(usize::try_from(event.data.u64()).unwrap_or(usize::MAX), event.flags)?;
            }
            self.let_go()?;
            let waits = |client: &Client| client.asked.front().is_some_and(|(_, at)| at.elapsed() > PATIENCE);
            if events.is_empty() && self.clients.iter().flatten().any(waits) {
                return Err(io::Error::other(format!("no answer for {PATIENCE:?}")));
            }
        }
        Ok(())
    }

    /// Sends the next request.
    fn ask(&mut self, at: Instant) -> io::Result<()> {
        let draw = self.random.below(100);
        let key = self.random.index(self.ledger.count());
        let request = match draw {
            0..SETS_PER_HUNDRED => self.ledger.set_next(),
            draw if draw < SETS_PER_HUNDRED + DELETES_PER_HUNDRED => self.ledger.delete(key),
            _ => Some(self.ledger.get(key)),
        };
        // A write of that key is under way.
        let Some(request) = request else { return Ok(()) };
        let sidecar = self.random.index(self.routes.len());
        self.turn += 1;
        let index = self.routes[sidecar][self.turn % CONNECTIONS];
        self.send(index, request, at)
    }

    fn send(&mut self, index: usize, (asked, bytes): (Asked, Vec<u8>), at: Instant) -> io::Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        client.wire.push(&bytes);
        client.asked.push_back((asked, at));
        client.wire.flush(&self.epoll)
    }

    fn ready(&mut self, index: usize, flags: epoll::EventFlags) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        if flags.contains(epoll::EventFlags::OUT) {
            client.wire.flush(&self.epoll)?;
        }
        client.wire.fill()?;
        let second = usize::try_from(self.begun_at.elapsed().as_secs()).unwrap_or(0);
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        let counts = &mut self.seconds[second];
        let mut missed = Vec::new();
        let mut taken = 0;
        while let Some((asked, _)) = client.asked.front() {
            let asked = *asked;
            let Some((answer, len)) = self.ledger.judge(asked, &client.wire.input()[taken..])? else { break };
            taken += len;
            client.asked.pop_front();
            let get = matches!(asked, Asked::Get { .. });
            counts.gets += u64::from(get);
            counts.writes += u64::from(!get);
            let fault = match answer {
                Answer::Hit => {
                    counts.hits += 1;
                    None
                }
                Answer::Miss => {
                    if let Asked::Get { key, .. } = asked {
                        missed.push(key);
                    }
                    None
                }
                Answer::Old { unsettled: true } => {
                    counts.hits += 1;
                    counts.old_while_they_differ += 1;
                    None
                }
                Answer::Old { unsettled: false } => {
                    counts.hits += 1;
                    counts.old += 1;
                    Some(format!("{asked:?}: an older value"))
                }
                Answer::Wrong(what) => {
                    counts.wrong += 1;
                    Some(what)
                }
                Answer::Written => None,
                Answer::Error(what) => {
                    counts.errors += 1;
                    Some(format!("{asked:?}: {what}"))
                }
            };
            if let Some(fault) = fault {
                self.first_fault.get_or_insert_with(|| format!("in second {second}, {fault}"));
            }
        }
        client.wire.take(taken);
        if client.asked.is_empty() && !client.wire.input().is_empty() {
            return Err(io::Error::other("an answer that nobody asked for"));
        }
        for key in missed {
            if let Some(request) = self.ledger.set(key) {
                self.send(index, request, Instant::now())?;
            }
        }
        Ok(())
    }

    /// Closes those that leave and have their answers.
    fn let_go(&mut self) -> io::Result<()> {
        for index in std::mem::take(&mut self.leaving) {
            match &self.clients[index] {
                Some(client) if client.asked.is_empty() => {
                    client.wire.leave(&self.epoll)?;
                    self.clients[index] = None;
                }
                Some(_) => self.leaving.push(index),
                None => {}
            }
        }
        if self.leaving.is_empty() {
            self.told.take().map(|told| told.send(()));
        }
        Ok(())
    }
}
