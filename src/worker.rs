//! THE RIM: a thread, a runtime, and one small task per socket.
//!
//! The only data-path file that knows sockets. A task reads once per poll into the worker's one
//! buffer and hands the bytes to the core; what the core queues is written by the *flusher*, a task
//! that the first enqueue of a round wakes. The runtime's queue is a plain FIFO, so the flusher runs
//! behind every task of the same round, and one write carries all they queued.
//!
//! The core is borrowed at the top of a step and never across an await; its effects are carried out
//! after the borrow ends.

mod poll_clock;
pub mod pulse;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use crate::itself::{Itself, Made};
use crate::listener::Accepted;
use crate::metrics::Cells;
use crate::proxy::{ClientId, Core, Effect, Ends, FailReason, MAX_SLICES, OutBuf, ReadBuffer, Settings, UpstreamId};
use crate::resolve;
use crate::routing::{Node, Published};
use crate::time::Tick;
use poll_clock::PollClock;
use pulse::Beat;
pub use stream::keepalive;
use stream::{Fate, ReadHalf, WriteHalf};

/// Tasks that run before the runtime asks for new events while some are always ready. Streams of
/// large values are: each of their polls moves 64 KiB, and a small request waits for so many of
/// them twice. It does not cut a round short: what becomes ready runs behind the flusher.
const EVENT_INTERVAL: u32 = 31;
/// Most names of nodes that are resolved at a time; each holds a thread while its name server hangs.
const LOOKUPS: usize = 64;
/// The flusher writes so many bytes to clients in one poll, and a little more: else a large value that many clients asked
/// for would keep all others waiting while it is copied to each.
const FLUSH_BYTES: usize = 2 << 20;
/// How long, and for how many bytes, a closed client is listened to after our last word, so that
/// a reset does not overtake it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;
/// At the end: how long what is in flight may take to be answered and to reach its client.
pub const FINISH: Duration = Duration::from_secs(1);
/// How often it is looked whether that is so.
const FINISH_LOOK: Duration = Duration::from_millis(5);
/// How often it is looked, at most, whether clients that are not read are still there: with a tick's delay they are
/// noticed within a second.
const LOOK: Duration = Duration::from_millis(750);
/// A client of whom so many bytes are read at once, and more, sends large values or long pipelines: it gets a larger buffer
/// of the kernel's, as long as all of these are at most this part of the memory limit. With small ones alone a client
/// sends large values at half the speed; with large ones for all, a thousand clients in the middle of a value are 120 MiB.
const MUCH: usize = 4 << 10;
const WIDE_PART: usize = 8;
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
        clients: RefCell::default(),
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
    spawn_local(poll_fn(move |cx| flusher.polls.time("flush", || flusher.poll_flush(cx))));
    rim.apply();
    spawn_local(Rc::clone(&rim).follow(changes));
    spawn_local(beat.answer());
    while let Some(accepted) = receiver.recv().await {
        match stream::register(accepted) {
            Ok((read, write, ends)) => {
                rim.open.set(rim.open.get() + 1);
                spawn_local(Rc::clone(&rim).client(read, write, ends));
            }
            Err(error) => {
                // It has come and gone: who counts those that are connected must not wait for it.
                rim.parts.cells.worker(index).connections_total.add(1);
                rim.parts.cells.worker(index).sockets_closed.add(1);
                tracing::warn!(%error, "client connection lost at hand-over");
            }
        }
    }
    let _ = timeout(FINISH, rim.finish()).await;
}

/// The writing half of a socket, and how its task is woken.
#[derive(Debug)]
struct Socket<Id> {
    id: Id,
    write: WriteHalf,
    /// Wakes the task that reads this socket.
    task: Waker,
    /// The kernel took less than there was; the task waits for room.
    blocked: bool,
    /// Of a connection to a node.
    made: Option<Made>,
    /// Of a connection to a node: what may wait to be read is bounded.
    is_bounded: bool,
}

/// Sockets by the index of their id.
type Sockets<Id> = RefCell<Vec<Option<Socket<Id>>>>;

/// What the tasks of one worker share.
struct Rim {
    core: RefCell<Core>,
    /// What sockets are read into: stays in the L2 cache as long as the core keeps nothing of it.
    scratch: RefCell<ReadBuffer>,
    clients: Sockets<ClientId>,
    upstreams: Sockets<UpstreamId>,
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

/// A client's socket as its task reads it.
struct Reader {
    half: ReadHalf,
    /// It has a large buffer of the kernel's.
    is_wide: bool,
}

/// A node's socket as its task reads it.
struct NodeReader {
    half: ReadHalf,
    /// It had nothing more, and has been looked at once again since.
    looked_again: bool,
}

/// What a poll of a socket found.
enum Read {
    /// So many bytes, now in the buffer.
    Bytes(usize),
    End,
    Failed,
    /// Nothing now; the task is woken when there is.
    Pending,
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
            Effect::WakeClient(id) => wake(&self.clients, id.index(), |socket| socket.id == id),
            Effect::WakeUpstream(id) => wake(&self.upstreams, id.index(), |socket| socket.id == id),
            Effect::Connect(id, wait) => {
                spawn_local(Rc::clone(self).upstream(id, wait));
            }
            Effect::Tick(wait) => {
                spawn_local(Rc::clone(self).tick(wait));
            }
            // Dropping the writing half sends our end; the task drops the rest.
            Effect::CloseClient(id) => remove(&self.clients, id.index(), |s| s.id == id),
            Effect::ResetClient(id) => {
                reset(&self.clients, id.index(), |s| s.id == id);
                remove(&self.clients, id.index(), |s| s.id == id);
            }
            Effect::CloseUpstream(id) => remove(&self.upstreams, id.index(), |s| s.id == id),
            Effect::ResetUpstream(id) => {
                reset(&self.upstreams, id.index(), |s| s.id == id);
                remove(&self.upstreams, id.index(), |s| s.id == id);
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

    async fn tick(self: Rc<Self>, wait: Duration) {
        let mut next = Some(self.now().after(wait));
        while let Some(at) = next {
            sleep(Duration::from_micros(at.0.saturating_sub(self.now().0))).await;
            next = self.polls.time("tick", || {
                let next = self.core.borrow_mut().tick(self.now());
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
        let fates: Vec<(ClientId, Fate)> = {
            let sockets = self.clients.borrow();
            let known = |id: &ClientId| sockets.get(id.index()).and_then(Option::as_ref).filter(|s| s.id == *id);
            let (ids, halves): (Vec<ClientId>, Vec<&WriteHalf>) =
                unread.iter().filter_map(|id| known(id).map(|socket| (*id, &socket.write))).unzip();
            ids.into_iter().zip(stream::fates(&halves)).collect()
        };
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

    // === clients ===

    async fn client(self: Rc<Self>, half: ReadHalf, write: WriteHalf, ends: Ends) {
        let mut read = Reader { half, is_wide: false };
        let id = self.core.borrow_mut().client_connected();
        self.core.borrow_mut().client_ends(id, ends, self.now());
        insert(&self.clients, id.index(), Socket::new(id, write, None));
        poll_fn(|cx| self.polls.time("client", || self.poll_client(id, &mut read, cx))).await;
        // The core has forgotten the client. Where more of its bytes may be on their way, a close
        // would reset the connection and could destroy our last words.
        let mut left = LINGER_BYTES;
        let drain = async {
            let mut buffer = vec![0; 4096];
            while left > 0 && read.half.readable().await.is_ok() {
                match read.half.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => left = left.saturating_sub(n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        };
        let _ = timeout(LINGER, drain).await;
        self.wide.set(self.wide.get().saturating_sub(usize::from(read.is_wide)));
        drop(read);
        self.open.set(self.open.get().saturating_sub(1));
        self.parts.cells.worker(self.index).sockets_closed.add(1);
    }

    /// A client sends much: lets more of it wait in the kernel, if it may.
    fn widen(&self, read: &mut Reader) {
        if read.is_wide {
            return;
        }
        let workers = self.parts.cells.workers().max(1);
        let most = self.parts.settings.buffer_limit / WIDE_PART / stream::WIDE_CLIENT_HELD / workers;
        if self.wide.get() < most {
            self.wide.set(self.wide.get() + 1);
            read.is_wide = true;
            read.half.widen();
        }
    }

    fn poll_client(self: &Rc<Self>, id: ClientId, read: &mut Reader, cx: &mut Context<'_>) -> Poll<()> {
        if poll_writable(&self.clients, id.index(), cx, |socket| socket.id == id).is_ready() {
            self.core.borrow_mut().client_writable(id);
            self.apply();
        }
        let (mut full, mut had_turn) = (false, false);
        loop {
            if !self.core.borrow().client_may_read(id) {
                if !had_turn && self.core.borrow_mut().client_turn(id, self.now()) {
                    had_turn = true;
                    self.apply();
                    continue;
                }
                return if self.core.borrow().has_client(id) { Poll::Pending } else { Poll::Ready(()) };
            }
            if full {
                // One read per poll: the others have their turn, and the flusher its round.
                self.parts.cells.worker(self.index).yields.add(1);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut scratch = self.scratch.borrow_mut();
            let space = scratch.space();
            let most = self.core.borrow().client_most_read(id).min(space.len());
            let core = match poll_read(&mut read.half, space.get_mut(..most).unwrap_or_default(), cx) {
                Read::Pending => return Poll::Pending,
                Read::Bytes(n) => {
                    full = n == most;
                    if n > MUCH {
                        self.widen(read);
                    }
                    let mut core = self.core.borrow_mut();
                    core.client_read(id, &mut scratch, n, self.now());
                    core
                }
                Read::End => {
                    let mut core = self.core.borrow_mut();
                    core.client_ended(id);
                    core
                }
                Read::Failed => {
                    let mut core = self.core.borrow_mut();
                    core.client_gone(id);
                    core
                }
            };
            let more = core.has_effects() || core.is_dirty();
            drop((core, scratch));
            if more {
                self.apply();
            }
        }
    }

    // === nodes ===

    async fn upstream(self: Rc<Self>, id: UpstreamId, wait: Duration) {
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let (node, connected) = loop {
            let Some(node) = self.core.borrow().upstream_node(id) else { return };
            let connected = timeout(self.parts.settings.connect_timeout, connect(&node, &self.parts)).await;
            let Some(current) = self.core.borrow().upstream_node(id) else { return };
            // Whatever came of it, at an address the node has left meanwhile it counts for nothing.
            if (&current.host, current.port) == (&node.host, node.port) {
                break (node, connected);
            }
        };
        let reason = match &connected {
            Ok(Ok((_, made))) => made.is_itself().then_some(FailReason::Itself),
            Ok(Err(error)) => {
                tracing::debug!(node = %node.name, %error, "cannot connect");
                Some(FailReason::Connect)
            }
            Err(_) => Some(FailReason::ConnectTimeout),
        };
        if let Some(reason) = reason {
            self.parts.node_failed.notify_one();
            self.core.borrow_mut().upstream_failed(id, reason, self.now());
            return self.apply();
        }
        let Ok(Ok((stream, made))) = connected else { return };
        let pauses = self.core.borrow().upstream_pauses(id);
        if pauses {
            stream::bound_paused_input(&stream);
        }
        let (half, write) = stream::split(stream);
        let mut read = NodeReader { half, looked_again: false };
        insert(&self.upstreams, id.index(), Socket { is_bounded: pauses, ..Socket::new(id, write, Some(made)) });
        self.core.borrow_mut().upstream_connected(id, self.now());
        self.apply();
        poll_fn(|cx| self.polls.time("upstream", || self.poll_upstream(id, &mut read, cx))).await;
    }

    fn poll_upstream(self: &Rc<Self>, id: UpstreamId, read: &mut NodeReader, cx: &mut Context<'_>) -> Poll<()> {
        if poll_writable(&self.upstreams, id.index(), cx, |socket| socket.id == id).is_ready() {
            self.core.borrow_mut().upstream_writable(id);
            self.apply();
        }
        let mut full = false;
        loop {
            if !self.core.borrow_mut().upstream_may_read(id) {
                self.apply();
                return if self.core.borrow().has_upstream(id) { Poll::Pending } else { Poll::Ready(()) };
            }
            if full {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut scratch = self.scratch.borrow_mut();
            let space = scratch.space();
            let most = space.len();
            let core = match poll_read(&mut read.half, space, cx) {
                Read::Pending => {
                    drop(scratch);
                    if self.core.borrow().holds_back() && !std::mem::replace(&mut read.looked_again, true) {
                        // Again when it is known what came meanwhile.
                        let _ = pin!(yield_now()).poll(cx);
                        return Poll::Pending;
                    }
                    self.core.borrow_mut().upstream_drained();
                    self.apply();
                    return Poll::Pending;
                }
                Read::Bytes(n) => {
                    full = n == most;
                    read.looked_again = false;
                    let mut core = self.core.borrow_mut();
                    core.upstream_read(id, &mut scratch, n, self.now());
                    core
                }
                Read::End | Read::Failed => {
                    let sockets = self.upstreams.borrow();
                    let socket = sockets.get(id.index()).and_then(Option::as_ref).filter(|socket| socket.id == id);
                    let reason = socket.map_or(FailReason::Closed, Socket::closed);
                    drop(sockets);
                    let mut core = self.core.borrow_mut();
                    core.upstream_failed(id, reason, self.now());
                    core
                }
            };
            let more = core.has_effects() || core.is_dirty();
            drop((core, scratch));
            if more {
                self.apply();
            }
        }
    }

    // === writing ===

    fn poll_flush(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.flusher.borrow().will_wake(cx.waker()) {
            self.flusher.replace(cx.waker().clone());
        }
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        self.core.borrow_mut().take_dirty(&mut clients, &mut upstreams);
        // Nodes first: their work overlaps with our writes to clients.
        for id in upstreams.drain(..) {
            self.flush_upstream(id);
        }
        let mut unwritten = self.unwritten.borrow_mut();
        let mut left = FLUSH_BYTES;
        if unwritten.is_empty() {
            let mut waiting = clients.drain(..);
            while left > 0
                && let Some(id) = waiting.next()
            {
                left = left.saturating_sub(self.flush_client(id));
            }
            unwritten.extend(waiting);
        } else {
            unwritten.extend(clients.drain(..));
            while left > 0
                && let Some(id) = unwritten.pop_front()
            {
                left = left.saturating_sub(self.flush_client(id));
            }
        }
        self.core.borrow_mut().reuse_dirty(clients, upstreams);
        if unwritten.is_empty() {
            self.flusher_woken.set(false);
        } else {
            // Others have their turn before the rest is written.
            cx.waker().wake_by_ref();
        }
        drop(unwritten);
        self.apply();
        Poll::Pending
    }

    fn flush_upstream(&self, id: UpstreamId) {
        let mut sockets = self.upstreams.borrow_mut();
        let Some(Some(socket)) = sockets.get_mut(id.index()) else {
            return;
        };
        if socket.id != id || socket.blocked {
            return;
        }
        let mut core = self.core.borrow_mut();
        while let Some(out) = core.upstream_out(id).filter(|out| !out.is_empty()) {
            match write(&socket.write, out) {
                Ok(written) => core.upstream_written(id, written, self.now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return block(socket),
                Err(_) => return core.upstream_failed(id, socket.closed(), self.now()),
            }
        }
    }

    /// Writes what waits for a client. Returns how many bytes were written.
    fn flush_client(&self, id: ClientId) -> usize {
        let mut sockets = self.clients.borrow_mut();
        let Some(socket) = sockets.get_mut(id.index()).and_then(Option::as_mut).filter(|s| s.id == id && !s.blocked)
        else {
            return 0;
        };
        let mut core = self.core.borrow_mut();
        let mut all = 0;
        while let Some(out) = core.client_out(id).filter(|out| !out.is_empty()) {
            match write(&socket.write, out) {
                Ok(written) => {
                    all += written;
                    core.client_written(id, written, self.now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    core.client_blocked(id);
                    block(socket);
                    break;
                }
                Err(_) => {
                    core.client_gone(id);
                    break;
                }
            }
        }
        all
    }
}

// === impl Socket ===

impl<Id> Socket<Id> {
    fn new(id: Id, write: WriteHalf, made: Option<Made>) -> Self {
        Self { id, write, task: Waker::noop().clone(), blocked: false, made, is_bounded: false }
    }

    /// Why the other side has closed it.
    fn closed(&self) -> FailReason {
        if self.made.as_ref().is_some_and(Made::is_itself) { FailReason::Itself } else { FailReason::Closed }
    }
}

/// Keeps the task's waker, and for a blocked socket waits for room. Ready when writes go on. Nothing
/// for a task whose socket is gone: its place may be another's.
fn poll_writable<Id>(
    sockets: &Sockets<Id>,
    index: usize,
    cx: &mut Context<'_>,
    is: impl Fn(&Socket<Id>) -> bool,
) -> Poll<()> {
    let mut sockets = sockets.borrow_mut();
    let Some(socket) = sockets.get_mut(index).and_then(Option::as_mut).filter(|socket| is(socket)) else {
        return Poll::Pending;
    };
    if !socket.task.will_wake(cx.waker()) {
        socket.task.clone_from(cx.waker());
    }
    if !socket.blocked {
        return Poll::Pending;
    }
    // An error shows itself at the next write, or as the end of what is read.
    let ready = socket.write.poll_write_ready(cx).map(|_| ());
    socket.blocked = ready.is_pending();
    ready
}

/// The socket is full: its task waits for room.
fn block<Id>(socket: &mut Socket<Id>) {
    socket.blocked = true;
    socket.task.wake_by_ref();
}

fn insert<Id>(sockets: &Sockets<Id>, index: usize, socket: Socket<Id>) {
    let mut sockets = sockets.borrow_mut();
    if sockets.len() <= index {
        sockets.resize_with(index + 1, || None);
    }
    if let Some(place) = sockets.get_mut(index) {
        *place = Some(socket);
    }
}

fn wake<Id>(sockets: &Sockets<Id>, index: usize, is: impl Fn(&Socket<Id>) -> bool) {
    if let Some(Some(socket)) = sockets.borrow().get(index)
        && is(socket)
    {
        socket.task.wake_by_ref();
    }
}

fn remove<Id>(sockets: &Sockets<Id>, index: usize, is: impl Fn(&Socket<Id>) -> bool) {
    let mut sockets = sockets.borrow_mut();
    if let Some(place) = sockets.get_mut(index)
        && let Some(socket) = place.take_if(|socket| is(socket))
    {
        socket.task.wake();
    }
}

/// The socket's end will be a reset, so that the kernel drops what it holds for it.
fn reset<Id>(sockets: &Sockets<Id>, index: usize, is: impl Fn(&Socket<Id>) -> bool) {
    if let Some(Some(socket)) = sockets.borrow().get(index)
        && is(socket)
        && let Err(error) = socket.write.end_by_reset()
    {
        tracing::debug!(%error, "cannot have a connection reset");
    }
}

/// Writes what waits, in one call.
fn write(socket: &WriteHalf, out: &OutBuf) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    match out.slices(&mut slices) {
        1 => socket.try_write(slices.first().map_or(&[], |slice| slice)),
        filled => socket.try_write_vectored(slices.get(..filled).unwrap_or_default()),
    }
}

/// Reads once.
fn poll_read(read: &mut ReadHalf, scratch: &mut [u8], cx: &mut Context<'_>) -> Read {
    let mut buffer = ReadBuf::new(scratch);
    match read.poll_read(cx, &mut buffer) {
        Poll::Pending => Read::Pending,
        Poll::Ready(Err(_)) => Read::Failed,
        Poll::Ready(Ok(())) => match buffer.filled().len() {
            0 => Read::End,
            n => Read::Bytes(n),
        },
    }
}

/// Connects, and lets it be known.
async fn connect(node: &Node, parts: &Parts) -> io::Result<(TcpStream, Made)> {
    let connecting = parts.itself.connecting();
    let stream = resolve::connect(&node.host, node.port).await?;
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    // A port that nobody listens on may be the one this very attempt was given: then it has met itself.
    if local == peer {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream::prepare_upstream(&stream, parts.settings.request_timeout)?;
    Ok((stream, connecting.made(local, peer)))
}
