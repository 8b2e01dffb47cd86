//! The sockets of a worker by the index of their id, and what is done to one: wait for room, wake its task, close it, read
//! and write once.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::stream::{ReadHalf, WriteHalf};
use crate::itself::Made;
use crate::phrase;
use crate::proxy::{FailReason, MAX_SLICES, OutBuf};

/// The writing half of a socket, and how its task is woken.
#[derive(Debug)]
pub(super) struct Socket<Id> {
    pub(super) id: Id,
    pub(super) write: WriteHalf,
    /// Wakes the task that reads this socket.
    task: Waker,
    /// The kernel took less than there was; the task waits for room.
    pub(super) blocked: bool,
    /// Of a connection to a node; boxed, for each idle client would have room for it.
    made: Option<Box<Made>>,
    /// Of a connection to a node: what may wait to be read is bounded.
    pub(super) is_bounded: bool,
}

/// Sockets by the index of their id.
pub(super) type Sockets<Id> = RefCell<Vec<Option<Socket<Id>>>>;

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

impl<Id> Socket<Id> {
    pub(super) fn new(id: Id, write: WriteHalf, made: Option<Made>) -> Self {
        Self { id, write, task: Waker::noop().clone(), blocked: false, made: made.map(Box::new), is_bounded: false }
    }

    /// Why the other side has closed it.
    pub(super) fn closed(&self) -> FailReason {
        if self.made.as_ref().is_some_and(|made| made.is_itself()) { FailReason::Itself } else { FailReason::Closed }
    }
}

/// Keeps the task's waker, and for a blocked socket waits for room. Ready when writes go on. Nothing
/// for a task whose socket is gone: its place may be another's.
pub(super) fn poll_writable<Id>(
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
pub(super) fn block<Id>(socket: &mut Socket<Id>) {
    socket.blocked = true;
    socket.task.wake_by_ref();
}

pub(super) fn insert<Id>(sockets: &Sockets<Id>, index: usize, socket: Socket<Id>) {
    let mut sockets = sockets.borrow_mut();
    if sockets.len() <= index {
        sockets.resize_with(index + 1, || None);
    }
    if let Some(place) = sockets.get_mut(index) {
        *place = Some(socket);
    }
}

pub(super) fn wake<Id>(sockets: &Sockets<Id>, index: usize, is: impl Fn(&Socket<Id>) -> bool) {
    if let Some(Some(socket)) = sockets.borrow().get(index)
        && is(socket)
    {
        socket.task.wake_by_ref();
    }
}

pub(super) fn remove<Id>(sockets: &Sockets<Id>, index: usize, is: impl Fn(&Socket<Id>) -> bool) {
    let mut sockets = sockets.borrow_mut();
    if let Some(place) = sockets.get_mut(index)
        && let Some(socket) = place.take_if(|socket| is(socket))
    {
        socket.task.wake();
    }
}

/// The socket's end will be a reset, so that the kernel drops what it holds for it.
pub(super) fn reset<Id>(sockets: &Sockets<Id>, index: usize, is: impl Fn(&Socket<Id>) -> bool) {
    if let Some(Some(socket)) = sockets.borrow().get(index)
        && is(socket)
        && let Err(error) = socket.write.end_by_reset()
    {
        tracing::debug!(error = phrase::of(&error), "cannot have a connection reset");
    }
}

/// Writes what waits, in one call. `more` follows at once.
pub(super) fn write(socket: &WriteHalf, out: &OutBuf, more: bool) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    match out.slices(&mut slices) {
        filled if more => socket.try_write_before_more(slices.get(..filled).unwrap_or_default()),
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
