//! A connection, over TCP or a Unix socket, as the two halves that one task reads and another writes.
//!
//! An enum and not a trait object: a branch that is always predicted, no allocation.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
#[cfg(target_os = "linux")]
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::pipe::move_bytes;
use super::tls::{End, TlsReadHalf, TlsWriteHalf};
use crate::listener::Accepted;
use crate::proxy::Ends;

/// A node's machine that vanishes says nothing: an idle connection to it is probed after this silence, so often, and is
/// given up after about 6 s. Without, the first requests after a quiet night would find out, and a client that vanished
/// would hold its place for good. A probe is an empty segment that the other kernel answers: memcached never sees it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(3);
const KEEPALIVE_GAP: Duration = Duration::from_secs(1);
const KEEPALIVE_PROBES: u32 = 3;
/// Bytes that the node's kernel has not acknowledged for so long fail the connection; by default the kernel tries for a
/// quarter of an hour. It also counts for the probes, so it lies between the last of them and its time-out: were it
/// shorter, one lost probe would be enough. Nor must it come before the clocks of the requests, where those are long.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_millis(5500);

/// What the kernel keeps for a node besides what is on its way, in bytes; by default it is megabytes, which the
/// container's memory is charged with and the queue clock does not see.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 << 10;

/// What is asked of the kernel for what a node has sent and is not read yet, in bytes; it takes twice as much, overhead
/// included. For connections that wait for a slow reader: by default it grows to megabytes. Others are read at once, and
/// with so little a node would be woken for each part of a large value, which doubles its cost here.
const PAUSED_NODE_INPUT: usize = 128 << 10;
/// The same for the others while memory is wanted: as much as kernels give who does not ask for more than their default.
const NODE_INPUT: usize = 208 << 10;
/// The same for a client that sends large values, instead of what the listening socket gives it.
const CLIENT_INPUT: usize = 64 << 10;
/// What that may hold, in bytes.
pub(super) const WIDE_CLIENT_HELD: usize = 2 * CLIENT_INPUT;

/// What arrives.
#[derive(Debug)]
pub(super) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    /// Of nodes alone.
    Tls(Box<TlsReadHalf>),
}

/// What leaves; dropping it sends our end.
#[derive(Debug)]
pub(super) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    /// Of nodes alone; it is written by `flush_secured`.
    Tls(Box<TlsWriteHalf>),
}

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

/// The other side's end, which may lie behind bytes that are not read. Elsewhere only a reset shows itself.
#[cfg(target_os = "linux")]
const END: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const END: PollFlags = PollFlags::empty();

/// What has become of each of these connections: one system call for all, and it does not wait. Where it fails nothing
/// is known, and each is taken to be open.
pub(super) fn fates(halves: &[&WriteHalf]) -> Vec<Fate> {
    let mut polled: Vec<PollFd<'_>> = halves.iter().map(|half| PollFd::from_borrowed_fd(half.fd(), END)).collect();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut polled, Some(&now)).is_err() {
        return vec![Fate::Open; halves.len()];
    }
    let fate = |polled: &PollFd<'_>| match polled.revents() {
        found if found.contains(PollFlags::ERR) => Fate::Broken,
        found if found.intersects(END | PollFlags::HUP) => Fate::Ended,
        _ => Fate::Open,
    };
    polled.iter().map(fate).collect()
}

/// Makes a connection known to the runtime at hand.
pub(super) fn register(accepted: Accepted) -> io::Result<(ReadHalf, WriteHalf, Ends)> {
    Ok(match accepted {
        Accepted::Tcp(stream, ends) => {
            let (read, write) = split(TcpStream::from_std(stream)?);
            (read, write, ends)
        }
        Accepted::Unix(stream, ends) => {
            let (read, write) = UnixStream::from_std(stream)?.into_split();
            (ReadHalf::Unix(read), WriteHalf::Unix(write), ends)
        }
    })
}

/// The halves of a TCP connection.
pub(super) fn split(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
}

/// How it is noticed that the other side's machine has vanished, for nodes and for clients.
#[must_use]
pub fn keepalive() -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_GAP);
    keepalive.with_retries(KEEPALIVE_PROBES)
}

/// Sets what a connection to a node needs; `patience` is how long a reply may take.
pub(super) fn prepare_upstream(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // Where a sandbox knows none of these the clocks of the requests notice, too, only later.
    let _ = socket.set_tcp_keepalive(&keepalive());
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED.max(patience * 4)));
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
    }
    Ok(())
}

/// Bounds what a node that is not read may send.
pub(super) fn bound_paused_input(stream: &TcpStream) {
    // It saves memory only.
    let _ = SockRef::from(stream).set_recv_buffer_size(PAUSED_NODE_INPUT);
}

// === impl ReadHalf ===

impl ReadHalf {
    /// Reads once. A read that does not fill the buffer tells tokio that the socket is empty, so the
    /// next poll costs no call; `try_read` would not.
    #[inline]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(read) => Pin::new(read).poll_read(cx, buffer),
            Self::Unix(read) => Pin::new(read).poll_read(cx, buffer),
            Self::Tls(read) => read.poll_read(cx, buffer),
        }
    }

    /// More may wait to be read from now on. On a Unix socket the other side's limit holds.
    pub(super) fn widen(&self) {
        if let Self::Tcp(read) = self {
            let stream: &TcpStream = read.as_ref();
            let _ = SockRef::from(stream).set_recv_buffer_size(CLIENT_INPUT);
        }
    }

    /// Moves at most so many bytes into a pipe.
    pub(super) fn move_to(&self, pipe: &OwnedFd, most: usize) -> io::Result<usize> {
        match self {
            Self::Tcp(read) => {
                let stream: &TcpStream = read.as_ref();
                stream.try_io(Interest::READABLE, || move_bytes(stream, pipe, most))
            }
            Self::Unix(read) => {
                let stream: &UnixStream = read.as_ref();
                stream.try_io(Interest::READABLE, || move_bytes(stream, pipe, most))
            }
            // Only what is opened may pass.
            Self::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// How a session of TLS ended, where that was not by the node's last word.
    pub(super) fn end(&self) -> Option<End> {
        match self {
            Self::Tls(read) => read.end(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(read) => read.readable().await,
            Self::Unix(read) => read.readable().await,
            Self::Tls(read) => read.tcp().readable().await,
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(read) => read.try_read(buffer),
            Self::Unix(read) => read.try_read(buffer),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

// === impl WriteHalf ===

impl WriteHalf {
    /// Ready when there is room again, or an error to be met.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(write) => write.as_ref().poll_write_ready(cx),
            Self::Unix(write) => write.as_ref().poll_write_ready(cx),
            Self::Tls(write) => write.tcp().poll_write_ready(cx),
        }
    }

    /// Moves at most so many bytes out of a pipe.
    pub(super) fn move_from(&self, pipe: &OwnedFd, most: usize) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => {
                let stream: &TcpStream = write.as_ref();
                stream.try_io(Interest::WRITABLE, || move_bytes(pipe, stream, most))
            }
            Self::Unix(write) => {
                let stream: &UnixStream = write.as_ref();
                stream.try_io(Interest::WRITABLE, || move_bytes(pipe, stream, most))
            }
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(write) => write.as_ref().as_fd(),
            Self::Unix(write) => write.as_ref().as_fd(),
            Self::Tls(write) => write.tcp().as_fd(),
        }
    }

    /// Bounds what a node may have sent while it is not its turn to be read.
    pub(super) fn bound_input(&self) {
        let stream: &TcpStream = match self {
            Self::Tcp(write) => write.as_ref(),
            Self::Tls(write) => write.tcp(),
            Self::Unix(_) => return,
        };
        // It saves memory only.
        let _ = SockRef::from(stream).set_recv_buffer_size(NODE_INPUT);
    }

    /// The connection will end by a reset, so that the kernel drops what it holds for it.
    pub(super) fn end_by_reset(&self) -> io::Result<()> {
        let socket = match self {
            Self::Tcp(write) => SockRef::from(write.as_ref()),
            Self::Unix(write) => SockRef::from(write.as_ref()),
            Self::Tls(write) => SockRef::from(write.tcp()),
        };
        socket.set_linger(Some(Duration::ZERO))
    }

    #[inline]
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => write.try_write(bytes),
            Self::Unix(write) => write.try_write(bytes),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[inline]
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => write.try_write_vectored(slices),
            Self::Unix(write) => write.try_write_vectored(slices),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The same where more bytes follow at once: over TCP the kernel keeps these back to send them together.
    #[cfg(target_os = "linux")]
    pub(super) fn try_write_before_more(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Self::Tcp(write) = self else { return self.try_write_vectored(slices) };
        let stream: &TcpStream = write.as_ref();
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        stream.try_io(Interest::WRITABLE, || Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags)?))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn try_write_before_more(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write_vectored(slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_to_a_node_is_probed_and_has_its_clock() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare_upstream(&stream, Duration::from_millis(500)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_GAP);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
