//! A connection, over TCP or a Unix socket, as the two halves that one task reads and another writes.
//!
//! An enum and not a trait object: a branch that is always predicted, no allocation.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::listener::Accepted;

/// What arrives.
#[derive(Debug)]
pub(super) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// What leaves; dropping it sends our end.
#[derive(Debug)]
pub(super) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

/// Makes a connection known to the runtime at hand.
pub(super) fn register(accepted: Accepted) -> io::Result<(ReadHalf, WriteHalf)> {
    Ok(match accepted {
        Accepted::Tcp(stream) => split(TcpStream::from_std(stream)?),
        Accepted::Unix(stream) => {
            let (read, write) = UnixStream::from_std(stream)?.into_split();
            (ReadHalf::Unix(read), WriteHalf::Unix(write))
        }
    })
}

/// The halves of a TCP connection.
pub(super) fn split(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
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
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(read) => read.readable().await,
            Self::Unix(read) => read.readable().await,
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(read) => read.try_read(buffer),
            Self::Unix(read) => read.try_read(buffer),
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
        }
    }

    #[inline]
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => write.try_write(bytes),
            Self::Unix(write) => write.try_write(bytes),
        }
    }

    #[inline]
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => write.try_write_vectored(slices),
            Self::Unix(write) => write.try_write_vectored(slices),
        }
    }
}
