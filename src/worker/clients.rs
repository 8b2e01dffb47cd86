//! The sockets of clients, and their tasks, which are one task of the runtime.
//!
//! A task of the runtime for each would be a third more memory than all that is kept for an idle client, and there may be
//! thousands. Whose turn it is stands in a queue, first come, first served, as the runtime's own does.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
#[cfg(target_os = "linux")]
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustix::net::{Shutdown, shutdown};
use socket2::SockRef;
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::client::ClientTask;
use super::pipe::move_bytes;
use crate::listener::Accepted;
use crate::phrase;
use crate::proxy::{ClientId, Ends, MAX_SLICES, OutBuf};

/// What is asked of the kernel for what a client has sent that sends large values, in bytes, instead of what the listening
/// socket gives it.
const INPUT: usize = 64 << 10;
/// What that may hold, in bytes.
pub(super) const WIDE_HELD: usize = 2 * INPUT;

/// The other side's end, which may lie behind bytes that are not read. Elsewhere only a reset shows itself.
#[cfg(target_os = "linux")]
const END: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const END: PollFlags = PollFlags::empty();

/// What has become of a connection that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The other side is there.
    Open,
    /// It has sent its end: it has closed, or only its sending half.
    Ended,
    /// The connection is reset.
    Broken,
}

/// A connection, over TCP or a Unix socket.
///
/// An enum and not a trait object: a branch that is always predicted, no allocation.
#[derive(Debug)]
pub(super) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client's connection, and how its task is woken.
#[derive(Debug)]
pub(super) struct ClientSocket {
    id: ClientId,
    stream: ClientStream,
    task: Waker,
    /// The kernel took less than there was; the task waits for room.
    is_full: bool,
    /// The other side has ended it.
    is_over: bool,
    /// It has a large buffer of the kernel's.
    is_wide: bool,
}

/// The sockets of a worker, by the index of their id.
#[derive(Debug, Default)]
pub(super) struct Clients(RefCell<Vec<Option<ClientSocket>>>);

/// What one task of the runtime does for all of them.
#[derive(Default)]
pub(super) struct ClientTasks {
    tasks: RefCell<FuturesUnordered<ClientTask>>,
    /// Wakes it.
    waker: RefCell<Option<Waker>>,
}

/// What a read of a socket found.
pub(super) enum Read {
    /// So many bytes, now in the buffer.
    Bytes(usize),
    End,
    Failed,
    /// Nothing now; the task is woken when there is.
    Nothing,
}

// === impl ClientStream ===

impl ClientStream {
    /// Makes a connection known to the runtime at hand.
    ///
    /// # Errors
    /// Where the kernel waits for no more of them.
    pub(super) fn new(accepted: Accepted) -> io::Result<(Self, Ends)> {
        Ok(match accepted {
            Accepted::Tcp(stream, ends) => (Self::Tcp(TcpStream::from_std(stream)?), ends),
            Accepted::Unix(stream, ends) => (Self::Unix(UnixStream::from_std(stream)?), ends),
        })
    }

    /// Reads once. A read that does not fill the buffer tells tokio that the socket is empty, so the
    /// next poll costs no call; `try_read` would not.
    #[inline]
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    #[inline]
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    #[inline]
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    /// The same where more bytes follow at once: over TCP the kernel keeps these back to send them together.
    #[cfg(target_os = "linux")]
    fn try_write_before_more(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Self::Tcp(stream) = self else { return self.try_write_vectored(slices) };
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        stream.try_io(Interest::WRITABLE, || Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags)?))
    }

    #[cfg(not(target_os = "linux"))]
    fn try_write_before_more(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write_vectored(slices)
    }

    /// Moves at most so many bytes out of a pipe.
    pub(super) fn move_from(&self, pipe: &OwnedFd, most: usize) -> io::Result<usize> {
        let move_on = || move_bytes(pipe, self, most);
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, move_on),
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, move_on),
        }
    }

    /// Takes at most so many more bytes, until the other side's end.
    async fn drain(&self, mut left: usize) {
        let mut buffer = vec![0; 4096];
        while left > 0 {
            let read = match self {
                Self::Tcp(stream) if stream.readable().await.is_ok() => stream.try_read(&mut buffer),
                Self::Unix(stream) if stream.readable().await.is_ok() => stream.try_read(&mut buffer),
                _ => break,
            };
            match read {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    }
}

impl AsFd for ClientStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

// === impl ClientSocket ===

impl ClientSocket {
    /// Reads once.
    pub(super) fn poll_read(&mut self, space: &mut [u8], cx: &mut Context<'_>) -> Read {
        let mut buffer = ReadBuf::new(space);
        let read = match self.stream.poll_read(cx, &mut buffer) {
            Poll::Pending => return Read::Nothing,
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
        };
        self.is_over = !matches!(read, Ok(1..));
        match read {
            Ok(0) => Read::End,
            Ok(read) => Read::Bytes(read),
            Err(_) => Read::Failed,
        }
    }

    /// Keeps the task's waker, and where it is full waits for room. Ready when writes go on.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.task.will_wake(cx.waker()) {
            self.task.clone_from(cx.waker());
        }
        if !self.is_full {
            return Poll::Pending;
        }
        // An error shows itself at the next write, or as the end of what is read.
        let ready = match &self.stream {
            ClientStream::Tcp(stream) => stream.poll_write_ready(cx).map(|_| ()),
            ClientStream::Unix(stream) => stream.poll_write_ready(cx).map(|_| ()),
        };
        self.is_full = ready.is_pending();
        ready
    }

    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// It takes nothing more for now: its task waits for room.
    pub(super) fn fill(&mut self) {
        self.is_full = true;
        self.task.wake_by_ref();
    }

    /// Writes what waits, in one call. `more` follows at once.
    pub(super) fn write(&self, out: &OutBuf, more: bool) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        match out.slices(&mut slices) {
            filled if more => self.stream.try_write_before_more(slices.get(..filled).unwrap_or_default()),
            1 => self.stream.try_write(slices.first().map_or(&[], |slice| slice)),
            filled => self.stream.try_write_vectored(slices.get(..filled).unwrap_or_default()),
        }
    }

    /// More may wait to be read from now on; on a Unix socket the other side's limit holds.
    pub(super) fn widen(&mut self) {
        self.is_wide = true;
        let _ = SockRef::from(&self.stream).set_recv_buffer_size(INPUT);
    }

    pub(super) const fn stream(&self) -> &ClientStream {
        &self.stream
    }

    pub(super) const fn is_wide(&self) -> bool {
        self.is_wide
    }

    /// The other side has said its last word, or hears nothing more.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Sends our end, and takes at most so many more bytes, until the other side's.
    pub(super) fn end(self, most: usize) -> impl Future<Output = ()> {
        let _ = shutdown(&self.stream, Shutdown::Write);
        async move { self.stream.drain(most).await }
    }
}

// === impl Clients ===

impl Clients {
    pub(super) fn insert(&self, id: ClientId, stream: ClientStream) {
        let task = Waker::noop().clone();
        let socket = ClientSocket { id, stream, task, is_full: false, is_over: false, is_wide: false };
        let mut sockets = self.0.borrow_mut();
        if sockets.len() <= id.index() {
            sockets.resize_with(id.index() + 1, || None);
        }
        if let Some(place) = sockets.get_mut(id.index()) {
            *place = Some(socket);
        }
    }

    /// Its task is woken, and what is left of it is the caller's.
    pub(super) fn remove(&self, id: ClientId) -> Option<ClientSocket> {
        let socket = self.0.borrow_mut().get_mut(id.index())?.take_if(|socket| socket.id == id)?;
        socket.task.wake_by_ref();
        Some(socket)
    }

    /// Does something with the socket of a client that is there.
    #[inline]
    pub(super) fn with<T>(&self, id: ClientId, act: impl FnOnce(&mut ClientSocket) -> T) -> Option<T> {
        self.0.borrow_mut().get_mut(id.index())?.as_mut().filter(|socket| socket.id == id).map(act)
    }

    pub(super) fn wake(&self, id: ClientId) {
        self.with(id, |socket| socket.task.wake_by_ref());
    }

    /// The socket's end will be a reset, so that the kernel drops what it holds for it.
    pub(super) fn reset(&self, id: ClientId) {
        let set = self.with(id, |socket| SockRef::from(&socket.stream).set_linger(Some(Duration::ZERO)));
        if let Some(Err(error)) = set {
            tracing::debug!(error = phrase::of(&error), "cannot have a connection reset");
        }
    }

    /// What has become of each of these, as far as they are there: one system call for all, and it does not wait. Where it
    /// fails nothing is known, and each is taken to be open.
    pub(super) fn fates(&self, ids: &[ClientId]) -> Vec<(ClientId, Fate)> {
        let sockets = self.0.borrow();
        let known = |id: &ClientId| sockets.get(id.index()).and_then(Option::as_ref).filter(|s| s.id == *id);
        let (ids, mut polled): (Vec<ClientId>, Vec<PollFd<'_>>) =
            ids.iter().filter_map(|id| known(id).map(|socket| (*id, PollFd::new(&socket.stream, END)))).unzip();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_known = poll(&mut polled, Some(&now)).is_ok();
        let fate = |polled: &PollFd<'_>| match polled.revents() {
            _ if !is_known => Fate::Open,
            found if found.contains(PollFlags::ERR) => Fate::Broken,
            found if found.intersects(END | PollFlags::HUP) => Fate::Ended,
            _ => Fate::Open,
        };
        ids.into_iter().zip(polled.iter().map(fate)).collect()
    }
}

// === impl ClientTasks ===

impl ClientTasks {
    /// It has its first turn behind those that have one.
    pub(super) fn push(&self, task: ClientTask) {
        self.tasks.borrow().push(task);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Each that was woken has a turn; they never end. Where two want another turn at once the others of the runtime have
    /// theirs first.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        let mut tasks = self.tasks.borrow_mut();
        while let Poll::Ready(Some(())) = tasks.poll_next_unpin(cx) {}
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream as StdStream};
    use std::sync::Arc;

    use super::*;
    use crate::metrics::Cells;
    use crate::proxy::{Core, Settings};
    use crate::routing::Topology;

    /// A client's socket among others, its id, and its other end.
    fn connection(core: &mut Core, clients: &Clients) -> (ClientId, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        let id = core.client_connected();
        clients.insert(id, ClientStream::new(Accepted::Tcp(ours, Ends::Unknown)).unwrap().0);
        (id, listener.accept().unwrap().0)
    }

    fn core() -> Core {
        Core::new(Topology::unknown().into(), Settings::default(), Arc::new(Cells::new(1)), 0)
    }

    async fn read(clients: &Clients, id: ClientId, space: &mut [u8]) -> Option<usize> {
        poll_fn(|cx| match clients.with(id, |socket| socket.poll_read(space, cx)).unwrap() {
            Read::Bytes(read) => Poll::Ready(Some(read)),
            Read::End => Poll::Ready(None),
            Read::Failed => panic!("it is open"),
            Read::Nothing => Poll::Pending,
        })
        .await
    }

    #[tokio::test]
    async fn what_a_client_has_sent_before_its_end_is_read_before_it_is_over() {
        let (mut core, clients) = (core(), Clients::default());
        let (id, mut client) = connection(&mut core, &clients);
        client.write_all(b"0123456789").unwrap();
        drop(client);
        let mut space = [0; 8];
        assert_eq!(read(&clients, id, &mut space).await, Some(8));
        assert_eq!(read(&clients, id, &mut space).await, Some(2));
        assert_eq!(clients.with(id, |socket| socket.is_over()), Some(false));
        assert_eq!(read(&clients, id, &mut space).await, None);
        assert!(clients.remove(id).unwrap().is_over());
        assert!(clients.with(id, |_| ()).is_none() && clients.fates(&[id]).is_empty(), "it is gone");
    }

    #[tokio::test]
    async fn a_client_that_still_sends_is_told_our_end_and_heard_out() {
        let (mut core, clients) = (core(), Clients::default());
        let (id, mut client) = connection(&mut core, &clients);
        client.write_all(&[b'x'; 10_000]).unwrap();
        assert_eq!(clients.fates(&[id]), [(id, Fate::Open)]);
        let ended = tokio::spawn(clients.remove(id).unwrap().end(1 << 20));
        let client = tokio::task::spawn_blocking(move || {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "our end, not a reset");
            client.write_all(b"more").unwrap();
            client
        });
        let client = client.await.unwrap();
        assert!(!ended.is_finished(), "it may send more");
        drop(client);
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn the_place_of_one_that_is_gone_is_not_another_s() {
        let (mut core, clients) = (core(), Clients::default());
        let (gone, _first) = connection(&mut core, &clients);
        core.client_gone(gone);
        clients.remove(gone).unwrap();
        let (id, _second) = connection(&mut core, &clients);
        assert_eq!(id.index(), gone.index());
        assert!(clients.with(gone, |_| ()).is_none() && clients.remove(gone).is_none());
        assert!(clients.with(id, |_| ()).is_some());
    }
}
