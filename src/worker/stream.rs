//! A connection to a node as the two halves that one task reads and another writes.
//!
//! An enum and not a trait object: a branch that is always predicted, no allocation.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::{TcpStream, tcp};

use super::pipe::move_bytes;
use super::tls::{End, TlsReadHalf, TlsWriteHalf};

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

/// What arrives.
#[derive(Debug)]
pub(super) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Tls(Box<TlsReadHalf>),
}

/// What leaves; dropping it sends our end.
#[derive(Debug)]
pub(super) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    /// It is written by `seal_and_write`.
    Tls(Box<TlsWriteHalf>),
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
            Self::Tls(read) => read.poll_read(cx, buffer),
        }
    }

    /// Moves at most so many bytes into a pipe.
    pub(super) fn move_to(&self, pipe: &OwnedFd, most: usize) -> io::Result<usize> {
        match self {
            Self::Tcp(read) => {
                let stream: &TcpStream = read.as_ref();
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
            Self::Tcp(_) => None,
        }
    }
}

// === impl WriteHalf ===

impl WriteHalf {
    /// Ready when there is room again, or an error to be met.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(write) => write.as_ref().poll_write_ready(cx),
            Self::Tls(write) => write.tcp().poll_write_ready(cx),
        }
    }

    /// Bounds what a node may have sent while it is not its turn to be read.
    pub(super) fn bound_input(&self) {
        let stream: &TcpStream = match self {
            Self::Tcp(write) => write.as_ref(),
            Self::Tls(write) => write.tcp(),
        };
        // It saves memory only.
        let _ = SockRef::from(stream).set_recv_buffer_size(NODE_INPUT);
    }

    /// The connection will end by a reset, so that the kernel drops what it holds for it.
    pub(super) fn end_by_reset(&self) -> io::Result<()> {
        let socket = match self {
            Self::Tcp(write) => SockRef::from(write.as_ref()),
            Self::Tls(write) => SockRef::from(write.tcp()),
        };
        socket.set_linger(Some(Duration::ZERO))
    }

    #[inline]
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => write.try_write(bytes),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[inline]
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => write.try_write_vectored(slices),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
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
