//! The pipe by which the kernel moves bytes from one socket to another: they are not copied into this process, nor out of it.
//!
//! It is empty between two steps, so one is enough for a worker.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

#[cfg(target_os = "linux")]
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::Rim;
use super::node::NodeReader;
use crate::proxy::{FailReason, OutBuf, UpstreamId};

/// What it is asked to hold, in bytes: as much as anybody may have by default. Where there is less it is filled more often.
#[cfg(target_os = "linux")]
const CAPACITY: usize = 1 << 20;

/// A pipe, unless the kernel does not move bytes by one.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Option<(OwnedFd, OwnedFd)>,
    /// Something went wrong: it is not used any more.
    broken: Cell<bool>,
}

impl Pipe {
    /// Where none can be made everything is copied.
    #[cfg(target_os = "linux")]
    pub(super) fn new() -> Self {
        let ends = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok();
        if let Some((_, end)) = &ends {
            let _ = fcntl_setpipe_size(end, CAPACITY);
        }
        Self { ends, broken: Cell::new(false) }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> Self {
        Self { ends: None, broken: Cell::new(true) }
    }

    fn ends(&self) -> Option<&(OwnedFd, OwnedFd)> {
        self.ends.as_ref().filter(|_| !self.broken.get())
    }
}

/// Moves at most so many bytes, at least one of the ends being a pipe; does not wait.
#[cfg(target_os = "linux")]
pub(super) fn move_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn move_bytes(_: impl AsFd, _: impl AsFd, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether an error says that these sockets, or this sandbox, know nothing of it.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

impl Rim {
    /// Lets what a node has sent of a long value pass to its client. Returns whether anything was read: else it is to be
    /// read as usual.
    pub(super) fn pass(self: &Rc<Self>, id: UpstreamId, read: &NodeReader) -> bool {
        let passes = self.core.borrow().upstream_passes(id);
        let (Some((to, most)), Some((reader, writer))) = (passes, self.pipe.ends()) else { return false };
        let mut left = match read.half.move_to(writer, most) {
            Ok(moved) => moved,
            Err(error) => {
                self.pipe.broken.set(is_refused(&error));
                return false;
            }
        };
        // Nothing: the node has closed, which the usual read finds out.
        if left == 0 {
            return false;
        }
        // Before it what waits already.
        self.flush_client(to, true);
        let is_next = self.core.borrow_mut().client_out(to).is_some_and(OutBuf::is_empty);
        while is_next && left > 0 {
            match self.clients.with(to, |socket| socket.stream().move_from(reader, left)) {
                Some(Ok(moved @ 1..)) => {
                    left -= moved;
                    self.core.borrow_mut().upstream_passed(id, to, moved, self.now());
                }
                Some(Err(error)) => {
                    self.pipe.broken.set(is_refused(&error));
                    break;
                }
                _ => break,
            }
        }
        // What the client's kernel does not take waits here, as what is read does.
        while left > 0 {
            let mut scratch = self.scratch.borrow_mut();
            let space = scratch.space();
            let most = left.min(space.len());
            let Ok(taken @ 1..) = rustix::io::read(reader, space.get_mut(..most).unwrap_or_default()) else {
                // Then bytes are missing.
                self.pipe.broken.set(true);
                self.core.borrow_mut().upstream_failed(id, FailReason::Desync, self.now());
                break;
            };
            left -= taken;
            self.core.borrow_mut().upstream_read(id, &mut scratch, taken, self.now());
        }
        true
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as StdStream};

    use tokio::net::TcpStream;

    use super::super::clients::ClientStream;
    use super::super::stream::{ReadHalf, split};
    use super::*;

    /// A connection, and its other end.
    fn connection() -> (TcpStream, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        (TcpStream::from_std(ours).unwrap(), listener.accept().unwrap().0)
    }

    async fn readable(half: &ReadHalf) {
        let ReadHalf::Tcp(half) = half else { panic!("{half:?}") };
        half.readable().await.unwrap();
    }

    #[tokio::test]
    async fn bytes_pass_from_one_socket_to_another_and_the_end_is_told() {
        use std::io::{Read as _, Write as _};
        let (from, mut node) = connection();
        let (from, _keep) = split(from);
        let (to, mut client) = connection();
        let to = ClientStream::Tcp(to);
        let pipe = Pipe::new();
        let (reader, writer) = pipe.ends().unwrap();
        assert_eq!(from.move_to(writer, 10).unwrap_err().kind(), io::ErrorKind::WouldBlock, "nothing has come");
        node.write_all(b"0123456789").unwrap();
        readable(&from).await;
        assert_eq!(from.move_to(writer, 8).unwrap(), 8, "no more than was asked for");
        assert_eq!(to.move_from(reader, 8).unwrap(), 8);
        let mut got = [0; 8];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"01234567");
        drop(node);
        assert_eq!(from.move_to(writer, 8).unwrap(), 2);
        readable(&from).await;
        assert_eq!(from.move_to(writer, 8).unwrap(), 0, "the end");
    }
}
