//! The task of one client's connection: it reads and hands the bytes to the core.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::timeout;

use super::Rim;
use super::clients::{ClientSocket, ClientStream, Read, WIDE_HELD};
use crate::proxy::{ClientId, Ends};

/// How long, and for how many bytes, a closed client is listened to after our last word, so that
/// a reset does not overtake it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;
/// A client of whom so many bytes are read at once, and more, sends large values or long pipelines: it gets a larger buffer
/// of the kernel's, as long as all of these are at most this part of the memory limit. With small ones alone a client
/// sends large values at half the speed; with large ones for all, a thousand clients in the middle of a value are 120 MiB.
const MUCH: usize = 4 << 10;
const WIDE_PART: usize = 8;

/// What is to be run for a client is small, for there may be thousands that are idle.
pub(super) struct ClientTask {
    rim: Rc<Rim>,
    id: ClientId,
}

impl Future for ClientTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.rim.polls.time("client", || self.rim.poll_client(self.id, cx))
    }
}

impl Rim {
    /// Takes a client's connection.
    pub(super) fn client(self: &Rc<Self>, stream: ClientStream, ends: Ends) -> ClientTask {
        let mut core = self.core.borrow_mut();
        let id = core.client_connected();
        core.client_ends(id, ends, self.now());
        self.open.set(self.open.get() + 1);
        self.clients.insert(id, stream);
        ClientTask { rim: Rc::clone(self), id }
    }

    /// The core has forgotten a client. Where more of its bytes may be on their way, a close would reset the connection and
    /// could destroy our last words.
    pub(super) fn let_go(self: &Rc<Self>, id: ClientId) {
        let Some(socket) = self.clients.remove(id) else { return };
        if socket.is_over() {
            let is_wide = socket.is_wide();
            drop(socket);
            return self.closed(is_wide);
        }
        let (rim, is_wide) = (Rc::clone(self), socket.is_wide());
        let end = socket.end(LINGER_BYTES);
        spawn_local(async move {
            let _ = timeout(LINGER, end).await;
            rim.closed(is_wide);
        });
    }

    /// A client's socket is closed.
    fn closed(&self, was_wide: bool) {
        self.wide.set(self.wide.get().saturating_sub(usize::from(was_wide)));
        self.open.set(self.open.get().saturating_sub(1));
        self.parts.cells.worker(self.index).sockets_closed.add(1);
    }

    /// A client sends much: lets more of it wait in the kernel, if it may.
    fn widen(&self, id: ClientId) {
        if self.clients.with(id, |socket| socket.is_wide()) != Some(false) {
            return;
        }
        let workers = self.parts.cells.workers().max(1);
        let most = self.parts.settings.buffer_limit / WIDE_PART / WIDE_HELD / workers;
        if self.wide.get() < most {
            self.wide.set(self.wide.get() + 1);
            self.clients.with(id, ClientSocket::widen);
        }
    }

    fn poll_client(self: &Rc<Self>, id: ClientId, cx: &mut Context<'_>) -> Poll<()> {
        if self.clients.with(id, |socket| socket.poll_room(cx).is_ready()) == Some(true) {
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
            let space = space.get_mut(..most).unwrap_or_default();
            let core = match self.clients.with(id, |socket| socket.poll_read(space, cx)) {
                None | Some(Read::Nothing) => return Poll::Pending,
                Some(Read::Bytes(read)) => {
                    full = read == most;
                    if read > MUCH {
                        self.widen(id);
                    }
                    let mut core = self.core.borrow_mut();
                    core.client_read(id, &mut scratch, read, self.now());
                    core
                }
                Some(Read::End) => {
                    let mut core = self.core.borrow_mut();
                    core.client_ended(id);
                    core
                }
                Some(Read::Failed) => {
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
}
