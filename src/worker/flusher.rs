//! What the core has queued goes to the sockets, once per round.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Rim;
use super::clients::ClientSocket;
use super::sockets::{block, write};
use super::stream::WriteHalf;
use super::tls::{BATCH, KEPT, RECORD, TlsWriteHalf};
use crate::proxy::{ClientId, Core, UpstreamId};
use crate::time::Tick;

/// The flusher writes so many bytes to clients in one poll, and a little more: else a large value that many clients asked
/// for would keep all others waiting while it is copied to each.
const FLUSH_BYTES: usize = 2 << 20;

/// Writes what waits for a node by TLS.
///
/// # Errors
/// `WouldBlock` while the socket is full, though nothing may wait in the core; else the connection is broken.
fn seal_and_write(core: &mut Core, write: &TlsWriteHalf, id: UpstreamId, now: Tick) -> io::Result<()> {
    loop {
        let flushed = write.flush();
        core.upstream_sealed(id, KEPT + if flushed.is_err() { BATCH } else { 0 });
        flushed?;
        let mut left = BATCH;
        while left > 0
            && let Some((out, record)) = core.upstream_record(id, RECORD)
        {
            let sealed = write.seal(out, record)?;
            left = left.saturating_sub(sealed);
            core.upstream_written(id, sealed, now);
        }
        if left == BATCH {
            return Ok(());
        }
    }
}

impl Rim {
    pub(super) fn poll_flush(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.flusher.borrow().will_wake(cx.waker()) {
            self.flusher.replace(cx.waker().clone());
        }
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        self.core.borrow_mut().take_dirty(&mut clients, &mut upstreams);
        // Nodes first: their work overlaps with our writes to clients.
        for id in upstreams.drain(..) {
            self.flush_upstream(id);
        }
        let mut unwritten = self.unwritten.borrow_mut();
        let mut left = FLUSH_BYTES;
        if unwritten.is_empty() {
            let mut waiting = clients.drain(..);
            while left > 0
                && let Some(id) = waiting.next()
            {
                left = left.saturating_sub(self.flush_client(id, false));
            }
            unwritten.extend(waiting);
        } else {
            unwritten.extend(clients.drain(..));
            while left > 0
                && let Some(id) = unwritten.pop_front()
            {
                left = left.saturating_sub(self.flush_client(id, false));
            }
        }
        self.core.borrow_mut().reuse_dirty(clients, upstreams);
        if unwritten.is_empty() {
            self.flusher_woken.set(false);
        } else {
            // Others have their turn before the rest is written.
            cx.waker().wake_by_ref();
        }
        drop(unwritten);
        self.apply();
        Poll::Pending
    }

    fn flush_upstream(&self, id: UpstreamId) {
        let mut sockets = self.upstreams.borrow_mut();
        let Some(Some(socket)) = sockets.get_mut(id.index()) else {
            return;
        };
        if socket.id != id || socket.blocked {
            return;
        }
        let mut core = self.core.borrow_mut();
        if let WriteHalf::Tls(write) = &socket.write {
            return match seal_and_write(&mut core, write, id, self.now()) {
                Ok(()) => {}
                // One that is broken may have said why before, which who reads it finds out at once.
                Err(_) => block(socket),
            };
        }
        while let Some(out) = core.upstream_out(id).filter(|out| !out.is_empty()) {
            match write(&socket.write, out) {
                Ok(written) => core.upstream_written(id, written, self.now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return block(socket),
                Err(_) => return core.upstream_failed(id, socket.closed(), self.now()),
            }
        }
    }

    /// Writes what waits for a client. Returns how many bytes were written. `more` follows at once: the kernel waits for it.
    pub(super) fn flush_client(&self, id: ClientId, more: bool) -> usize {
        self.clients.with(id, |socket| self.write_client(id, socket, more)).unwrap_or(0)
    }

    fn write_client(&self, id: ClientId, socket: &mut ClientSocket, more: bool) -> usize {
        if socket.is_full() {
            return 0;
        }
        let mut core = self.core.borrow_mut();
        let mut all = 0;
        while let Some(out) = core.client_out(id).filter(|out| !out.is_empty()) {
            match socket.write(out, more) {
                Ok(written) => {
                    all += written;
                    core.client_written(id, written, self.now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    core.client_blocked(id);
                    socket.fill();
                    break;
                }
                Err(_) => {
                    core.client_gone(id);
                    break;
                }
            }
        }
        all
    }
}
