//! THE RIM: a thread, a runtime, one task for all clients and one for each connection to a node.
//!
//! The only part of the data path that knows sockets. A task reads a few times per poll into the worker's one
//! buffer and hands the bytes to the core; what the core queues is written by the *flusher*, a task
//! that the first enqueue of a round wakes. The runtime's queue is a plain FIFO, so the flusher runs
//! behind every task of the same round, and one write carries all they queued.
//!
//! The core is borrowed at the top of a step and never across an await; its effects are carried out
//! after the borrow ends.

mod alarm;
mod client;
mod clients;
mod flusher;
mod node;
mod pipe;
mod poll_clock;
pub mod pulse;
mod sockets;
mod stream;
mod tls;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::coop::unconstrained;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::itself::Itself;
use crate::listener::Accepted;
use crate::metrics::Cells;
use crate::phrase;
use crate::proxy::{ClientId, Core, Effect, ReadBuffer, Settings};
use crate::routing::Published;
use crate::secured::Secured;
use crate::time::Tick;
use alarm::Alarm;
use clients::{ClientStream, ClientTasks, Clients, Fate};
use pipe::Pipe;
use poll_clock::PollClock;
use pulse::Beat;
use sockets::{Sockets, remove, reset, wake};
pub use stream::keepalive;

/// Tasks that run before the runtime asks for new events while some are always ready. Streams of
/// large values are: each of their polls reads up to 256 KiB, or lets up to 1 MiB pass, and a small request waits for so
/// many of them twice. It does not cut a round short: what becomes ready runs behind the flusher.
const EVENT_INTERVAL: u32 = 31;
/// Most names of nodes that are resolved at a time; each holds a thread while its name server hangs.
const LOOKUPS: usize = 64;
/// At the end: how long what is in flight may take to be answered and to reach its client.
pub const FINISH: Duration = Duration::from_secs(1);
/// How often it is looked whether that is so.
const FINISH_LOOK: Duration = Duration::from_millis(5);
/// How often it is looked, at most, whether clients that are not read are still there: with a tick's delay they are
/// noticed within a second.
const LOOK: Duration = Duration::from_millis(750);
/// Connections handed over and not yet taken.
const HANDOVER: usize = 1024;

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The ring, and its changes.
    pub ring: Arc<Published>,
    /// Poked when a connection to a node fails: its name may have another address by now.
    pub node_failed: Arc<Notify>,
    /// What the operator chose.
    pub settings: Settings,
    /// Where it counts.
    pub cells: Arc<Cells>,
    /// Every connection to a node, for who accepts clients.
    pub itself: Arc<Itself>,
    /// The zero of the core's time.
    pub started_at: Instant,
    /// How nodes are spoken to.
    pub secured: Secured,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    /// Client connections go here. When every sender is dropped the worker answers what is in flight, for at most
    /// [`FINISH`], and ends.
    pub sender: mpsc::Sender<Accepted>,
    /// Done, with an error or without, when it has ended.
    pub ended: oneshot::Receiver<()>,
}

/// Starts a worker.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(index: usize, parts: Parts, beat: Beat) -> io::Result<Worker> {
    let (sender, receiver) = mpsc::channel(HANDOVER);
    let (end, ended) = oneshot::channel();
    let runtime = move || {
        Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .event_interval(EVENT_INTERVAL)
            .max_blocking_threads(LOOKUPS)
            .build_local(LocalOptions::default())
    };
    // Only there can it be made, and only then is it known whether there were descriptors for it.
    let (started, start) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        // Who waits for it goes on whatever it hears.
        let _ = started.send(Ok(()));
        runtime.block_on(run(index, parts, receiver, beat));
        drop(end);
        // The resolution of a name may last; nobody waits for it any more.
        runtime.shutdown_background();
    })?;
    start.recv().map_err(io::Error::other)??;
    Ok(Worker { sender, ended })
}

async fn run(index: usize, parts: Parts, mut receiver: mpsc::Receiver<Accepted>, beat: Beat) {
    // First subscribed, then read: a change in between is seen twice, never missed.
    let changes = parts.ring.subscribe();
    let core = Core::new(parts.ring.load(), parts.settings.clone(), Arc::clone(&parts.cells), index);
    let rim = Rc::new(Rim {
        core: RefCell::new(core),
        scratch: RefCell::default(),
        pipe: Pipe::new(),
        alarm: Alarm::new(),
        sealed: tls::room(),
        clients: Clients::default(),
        upstreams: RefCell::default(),
        flusher: RefCell::new(Waker::noop().clone()),
        flusher_woken: Cell::new(false),
        effects: RefCell::default(),
        unwritten: RefCell::default(),
        polls: PollClock::default(),
        looked_at: Cell::new(Tick::default()),
        open: Cell::new(0),
        wide: Cell::new(0),
        index,
        parts,
    });
    let flusher = Rc::clone(&rim);
    let tasks = Rc::new(ClientTasks::default());
    let polled = Rc::clone(&tasks);
    // Without the runtime's budget for a task, which is meant for one client.
    spawn_local(unconstrained(poll_fn(move |cx| polled.poll(cx))));
    spawn_local(poll_fn(move |cx| flusher.polls.time("flush", || flusher.poll_flush(cx))));
    rim.apply();
    spawn_local(Rc::clone(&rim).follow(changes));
    if let Some(changes) = rim.parts.secured.subscribe() {
        spawn_local(Rc::clone(&rim).renew(changes));
    }
    spawn_local(beat.answer());
    while let Some(accepted) = receiver.recv().await {
        match ClientStream::new(accepted) {
            Ok((stream, ends)) => tasks.push(rim.client(stream, ends)),
            Err(error) => {
                // It has come and gone: who counts those that are connected must not wait for it.
                rim.parts.cells.worker(index).connections_total.add(1);
                rim.parts.cells.worker(index).sockets_closed.add(1);
                tracing::warn!(error = phrase::of(&error), "client connection lost at hand-over");
            }
        }
    }
    let _ = timeout(FINISH, rim.finish()).await;
}

/// What the tasks of one worker share.
struct Rim {
    core: RefCell<Core>,
    /// What sockets are read into: stays in the L2 cache as long as the core keeps nothing of it.
    scratch: RefCell<ReadBuffer>,
    /// By which long values pass from one socket to another.
    pipe: Pipe,
    /// By which its ticks come.
    alarm: Alarm,
    /// What is read by TLS goes by it.
    sealed: tls::Sealed,
    clients: Clients,
    upstreams: Sockets,
    flusher: RefCell<Waker>,
    flusher_woken: Cell<bool>,
    effects: RefCell<Vec<Effect>>,
    /// Clients whose turn to be written to comes in the flusher's next poll.
    unwritten: RefCell<VecDeque<ClientId>>,
    polls: PollClock,
    /// When it was last looked whether clients that are not read are still there.
    looked_at: Cell<Tick>,
    /// Client sockets that are not closed yet; longer than the core knows them.
    open: Cell<usize>,
    /// Clients that have a large buffer of the kernel's for what they send.
    wide: Cell<usize>,
    /// The worker's number.
    index: usize,
    parts: Parts,
}

impl Rim {
    fn now(&self) -> Tick {
        Tick::default().after(self.parts.started_at.elapsed())
    }

    /// Carries out what the core asked for, and wakes the flusher when there is something to write.
    fn apply(self: &Rc<Self>) {
        let mut core = self.core.borrow_mut();
        if core.has_effects() {
            let mut effects = self.effects.take();
            core.take_effects(&mut effects);
            drop(core);
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
            self.effects.replace(effects);
            core = self.core.borrow_mut();
        }
        if core.is_dirty() && !self.flusher_woken.replace(true) {
            self.flusher.borrow().wake_by_ref();
        }
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::WakeClient(id) => self.clients.wake(id),
            Effect::WakeUpstream(id) => wake(&self.upstreams, id),
            Effect::Connect(id, wait) => {
                spawn_local(Rc::clone(self).upstream(id, wait));
            }
            Effect::Tick(wait) => {
                spawn_local(Rc::clone(self).tick(wait));
            }
            Effect::CloseClient(id) => self.let_go(id),
            Effect::ResetClient(id) => {
                self.clients.reset(id);
                self.let_go(id);
            }
            // Dropping the writing half sends our end; the task drops the rest.
            Effect::CloseUpstream(id) => remove(&self.upstreams, id),
            Effect::ResetUpstream(id) => {
                reset(&self.upstreams, id);
                remove(&self.upstreams, id);
            }
        }
    }

    /// Reads nothing new, and waits until what is in flight has been answered and every client closed.
    async fn finish(self: &Rc<Self>) {
        while self.open.get() > 0 {
            // Each time: one that was handed over last may only now be known to the core.
            self.core.borrow_mut().end_clients();
            self.apply();
            sleep(FINISH_LOOK).await;
        }
    }

    /// Takes each new ring between two rounds.
    async fn follow(self: Rc<Self>, mut changes: watch::Receiver<u64>) {
        while changes.changed().await.is_ok() {
            let topology = self.parts.ring.load();
            self.core.borrow_mut().set_topology(topology, self.now());
            self.apply();
        }
    }

    /// Makes the connections to nodes anew with each change of what they are logged in to with.
    async fn renew(self: Rc<Self>, mut changes: watch::Receiver<u64>) {
        while changes.changed().await.is_ok() {
            self.core.borrow_mut().renew_lanes(self.now());
            self.apply();
        }
    }

    async fn tick(self: Rc<Self>, wait: Duration) {
        let mut next = Some(self.now().after(wait));
        while let Some(at) = next {
            self.alarm.wait(Duration::from_micros(at.0.saturating_sub(self.now().0))).await;
            next = self.polls.time("tick", || {
                let next = self.core.borrow_mut().tick(self.now());
                self.parts.cells.update_history(self.now());
                self.look_after_unread();
                self.bound_nodes();
                self.apply();
                next
            });
        }
    }

    /// Looks, now and then, whether clients that are not read have gone: nothing else would say so.
    fn look_after_unread(&self) {
        let now = self.now();
        if self.looked_at.get().after(LOOK) > now {
            return;
        }
        self.looked_at.set(now);
        let mut unread = Vec::new();
        self.core.borrow().unread_clients(&mut unread);
        if unread.is_empty() {
            return;
        }
        let fates = self.clients.fates(&unread);
        let mut core = self.core.borrow_mut();
        for (id, fate) in fates {
            match fate {
                Fate::Open => {}
                Fate::Ended => core.client_hung_up(id, now),
                Fate::Broken => core.client_gone(id),
            }
        }
    }

    /// Memory is wanted: what waits to be read from nodes is bounded, for as long as these connections live. It costs
    /// large values a sixth of their speed, and else the kernel keeps megabytes for each whenever this thread has to wait
    /// for a processor.
    fn bound_nodes(&self) {
        if !self.core.borrow().is_memory_wanted() {
            return;
        }
        for socket in self.upstreams.borrow_mut().iter_mut().flatten().filter(|socket| !socket.is_bounded) {
            socket.is_bounded = true;
            socket.write.bound_input();
        }
    }
}
