//! The task of one client's connection: it reads and hands the bytes to the core.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;

use super::Rim;
use super::sockets::{Read, Socket, insert, poll_read, poll_writable};
use super::stream::{self, ReadHalf, WriteHalf};
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

/// A client's socket as its task reads it.
struct Reader {
    half: ReadHalf,
    /// It has a large buffer of the kernel's.
    is_wide: bool,
}

impl Rim {
    /// Takes a client's connection. What is to be run for it is small, for there may be thousands that are idle.
    pub(super) fn client(
        self: Rc<Self>,
        half: ReadHalf,
        write: WriteHalf,
        ends: Ends,
    ) -> impl Future<Output = ()> + 'static {
        let id = self.core.borrow_mut().client_connected();
        self.core.borrow_mut().client_ends(id, ends, self.now());
        insert(&self.clients, id.index(), Socket::new(id, write, None));
        let mut read = Reader { half, is_wide: false };
        async move {
            poll_fn(|cx| self.polls.time("client", || self.poll_client(id, &mut read, cx))).await;
            Box::pin(self.let_go(read)).await;
        }
    }

    /// The core has forgotten a client. Where more of its bytes may be on their way, a close would reset the connection and
    /// could destroy our last words.
    async fn let_go(self: Rc<Self>, read: Reader) {
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
}
