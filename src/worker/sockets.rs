//! The sockets of connections to nodes by the index of their id, and what is done to one: wait for room, wake its task,
//! close it, read and write once.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::stream::{ReadHalf, WriteHalf};
use crate::itself::Made;
use crate::phrase;
use crate::proxy::{FailReason, MAX_SLICES, OutBuf, UpstreamId};

/// The writing half of a socket, and how its task is woken.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) id: UpstreamId,
    pub(super) write: WriteHalf,
    /// Wakes the task that reads this socket.
    task: Waker,
    /// The kernel took less than there was; the task waits for room.
    pub(super) blocked: bool,
    made: Made,
    /// What may wait to be read is bounded.
    pub(super) is_bounded: bool,
}

/// Sockets by the index of their id.
pub(super) type Sockets = RefCell<Vec<Option<Socket>>>;

/// What a poll of a socket found.
pub(super) enum Read {
    /// So many bytes, now in the buffer.
    Bytes(usize),
    End,
    Failed,
    /// Nothing now; the task is woken when there is.
    Pending,
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(id: UpstreamId, write: WriteHalf, made: Made) -> Self {
        Self { id, write, task: Waker::noop().clone(), blocked: false, made, is_bounded: false }
    }

    /// Why the other side has closed it.
    pub(super) fn closed(&self) -> FailReason {
        if self.made.is_itself() { FailReason::Itself } else { FailReason::Closed }
    }
}

/// Keeps the task's waker, and for a blocked socket waits for room. Ready when writes go on. Nothing
/// for a task whose socket is gone: its place may be another's.
pub(super) fn poll_writable(sockets: &Sockets, id: UpstreamId, cx: &mut Context<'_>) -> Poll<()> {
    let mut sockets = sockets.borrow_mut();
    let Some(socket) = sockets.get_mut(id.index()).and_then(Option::as_mut).filter(|socket| socket.id == id) else {
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
pub(super) fn block(socket: &mut Socket) {
    socket.blocked = true;
    socket.task.wake_by_ref();
}

pub(super) fn insert(sockets: &Sockets, socket: Socket) {
    let index = socket.id.index();
    let mut sockets = sockets.borrow_mut();
    if sockets.len() <= index {
        sockets.resize_with(index + 1, || None);
    }
    if let Some(place) = sockets.get_mut(index) {
        *place = Some(socket);
    }
}

pub(super) fn wake(sockets: &Sockets, id: UpstreamId) {
    if let Some(Some(socket)) = sockets.borrow().get(id.index())
        && socket.id == id
    {
        socket.task.wake_by_ref();
    }
}

pub(super) fn remove(sockets: &Sockets, id: UpstreamId) {
    let mut sockets = sockets.borrow_mut();
    if let Some(place) = sockets.get_mut(id.index())
        && let Some(socket) = place.take_if(|socket| socket.id == id)
    {
        socket.task.wake();
    }
}

/// The socket's end will be a reset, so that the kernel drops what it holds for it.
pub(super) fn reset(sockets: &Sockets, id: UpstreamId) {
    if let Some(Some(socket)) = sockets.borrow().get(id.index())
        && socket.id == id
        && let Err(error) = socket.write.end_by_reset()
    {
        tracing::debug!(error = phrase::of(&error), "cannot have a connection reset");
    }
}

/// Writes what waits, in one call.
pub(super) fn write(socket: &WriteHalf, out: &OutBuf) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    match out.slices(&mut slices) {
        1 => socket.try_write(slices.first().map_or(&[], |slice| slice)),
        filled => socket.try_write_vectored(slices.get(..filled).unwrap_or_default()),
    }
}

/// Reads once.
pub(super) fn poll_read(read: &mut ReadHalf, scratch: &mut [u8], cx: &mut Context<'_>) -> Read {
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
