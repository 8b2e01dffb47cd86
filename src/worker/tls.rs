//! A connection to a node by TLS: the socket's bytes are records, the core's are what is in them.
//!
//! The handshake is over before a connection comes here (`secured/dial.rs`). One task reads it and the flusher writes it,
//! as with every other socket; both go by the one session of rustls, which they share.
//!
//! # Records end where requests do
//! memcached 1.6.18 reads the block of a value from the TLS library by its length, and then waits for its *socket*: it does
//! not look whether the library has more. Where one record holds the end of a value and the beginning of the next request,
//! that request lies in the library until more comes from us, which may be never: the node stalls. It reads other requests
//! into a buffer of 16 KiB, and stalls in the same way if what is left of that is less than what the record holds. So a
//! record holds whole requests, at most 16 KiB of them, and one that is longer has records of its own. Where requests end
//! the core knows ([`Core::upstream_record`](crate::proxy::Core::upstream_record)).
//!
//! # Memory
//! What a session holds is bounded, and the core, which counts it, is told of it: room for a record that has come in part,
//! which rustls keeps for the next one ([`KEPT`]), and, while the socket takes nothing, up to [`BATCH`] of records that wait to
//! be written. What is opened and does not fit into what is read, less than a record, stays until the next read; a lane that
//! pauses is charged for more than that.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read as _, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::ClientConnection;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::{TcpStream, tcp};
use tokio_rustls::client::TlsStream;

use super::stream::{ReadHalf, WriteHalf};
use crate::metrics::Unsecured;
use crate::proxy::{MAX_SLICES, OutBuf, READ_BYTES};

/// Most bytes of a record, before it is sealed (RFC 8446, section 5.1).
pub(super) const RECORD: usize = 16 << 10;
/// So many bytes are sealed before they are written: four records by one system call.
pub(super) const BATCH: usize = 4 * RECORD;

/// So many bytes rustls keeps for what comes, as long as a connection lasts: a record and what is around it.
pub(super) const KEPT: usize = RECORD + 512;

/// What is read from sockets before it is opened: one for all connections of a worker, for it is empty between two steps.
pub(super) type Sealed = Rc<RefCell<Vec<u8>>>;

/// A session, and what went wrong with it.
#[derive(Debug)]
struct Session {
    tls: ClientConnection,
    end: Option<End>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By TLS itself, for this reason.
    Unsecured(Unsecured),
    /// The connection ended without the node's last word: it may have lost something before.
    CutOff,
}

/// What arrives.
#[derive(Debug)]
pub(super) struct TlsReadHalf {
    half: tcp::OwnedReadHalf,
    session: Rc<RefCell<Session>>,
    sealed: Sealed,
}

/// What leaves.
#[derive(Debug)]
pub(super) struct TlsWriteHalf {
    half: tcp::OwnedWriteHalf,
    session: Rc<RefCell<Session>>,
}

/// Room for what is read from sockets by TLS.
pub(super) fn room() -> Sealed {
    // It is filled up when it is first needed: plain nodes do not pay for it.
    Rc::default()
}

/// The halves of a connection whose handshake is over.
pub(super) fn split(stream: TlsStream<TcpStream>, sealed: &Sealed) -> (ReadHalf, WriteHalf) {
    let (stream, mut tls) = stream.into_inner();
    // What waits to be written is bounded here.
    tls.set_buffer_limit(None);
    sealed.borrow_mut().resize(READ_BYTES, 0);
    let (read, write) = stream.into_split();
    let session = Rc::new(RefCell::new(Session { tls, end: None }));
    let reader = TlsReadHalf { half: read, session: Rc::clone(&session), sealed: Rc::clone(sealed) };
    (ReadHalf::Tls(Box::new(reader)), WriteHalf::Tls(Box::new(TlsWriteHalf { half: write, session })))
}

// === impl Session ===

impl Session {
    /// Moves what is opened into `buffer`. Returns whether the node has said its last word, and that was all.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        while buffer.remaining() > 0 {
            match self.tls.reader().read(buffer.initialize_unfilled()) {
                Ok(0) => return Ok(true),
                Ok(read) => buffer.advance(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Opens what came from the socket.
    fn open(&mut self, mut sealed: &[u8], buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        while !sealed.is_empty() {
            if self.tls.read_tls(&mut sealed)? == 0 {
                // Behind its last word the node has nothing to say.
                return Ok(());
            }
            if let Err(error) = self.tls.process_new_packets() {
                self.end = Some(End::Unsecured(Unsecured::from(&error)));
                return Err(io::Error::other(error));
            }
            // As it comes, for rustls takes no more while a record's worth is left with it.
            self.take(buffer)?;
        }
        Ok(())
    }
}

// === impl TlsReadHalf ===

impl TlsReadHalf {
    /// Reads once from the socket, or more often where that brought no whole record.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut session = self.session.borrow_mut();
        let before = buffer.filled().len();
        loop {
            let ended = session.take(buffer)?;
            if ended || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            let mut room = self.sealed.borrow_mut();
            // No more than there is place for: what is left over then is less than a record, which the session keeps.
            let most = buffer.remaining().min(room.len());
            let mut sealed = ReadBuf::new(room.get_mut(..most).unwrap_or_default());
            ready!(Pin::new(&mut self.half).poll_read(cx, &mut sealed))?;
            if sealed.filled().is_empty() {
                session.end = Some(End::CutOff);
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Err(error) = session.open(sealed.filled(), buffer) {
                // The node is told why, if it takes it.
                let _ = session.tls.write_tls(&mut Raw(self.half.as_ref()));
                return Poll::Ready(Err(error));
            }
        }
    }

    /// How it ended, where that was not by the node's last word.
    pub(super) fn end(&self) -> Option<End> {
        self.session.borrow().end
    }
}

// === impl TlsWriteHalf ===

impl TlsWriteHalf {
    /// Writes the records that wait. Done when there is none any more.
    ///
    /// # Errors
    /// `WouldBlock` while the socket is full; else it is broken.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        while session.tls.wants_write() {
            session.tls.write_tls(&mut Raw(self.tcp()))?;
        }
        Ok(())
    }

    /// Seals the first `most` bytes of what waits, at most [`RECORD`], as one record. Returns how many that were.
    ///
    /// # Errors
    /// When the session has ended.
    pub(super) fn seal(&self, out: &OutBuf, most: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let used = out.slices_within(&mut slices, most.min(RECORD));
        self.session.borrow_mut().tls.writer().write_vectored(slices.get(..used).unwrap_or_default())
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        self.half.as_ref()
    }
}

impl Drop for TlsWriteHalf {
    /// Our last word, if the socket takes it; one that ends by a reset drops it.
    fn drop(&mut self) {
        let mut session = self.session.borrow_mut();
        session.tls.send_close_notify();
        let _ = session.tls.write_tls(&mut Raw(self.half.as_ref()));
    }
}

/// A socket as rustls writes to it.
struct Raw<'a>(&'a TcpStream);

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
