//! The task of one connection to a node: it connects, reads, and hands the bytes to the core.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use super::sockets::{Read, Socket, insert, poll_read, poll_writable};
use super::stream::{self, ReadHalf};
use super::tls::{self, End};
use super::{Parts, Rim};
use crate::itself::Made;
use crate::phrase;
use crate::proxy::{FailReason, UpstreamId};
use crate::resolve;
use crate::routing::Node;
use crate::secured::Stream;

/// Others have their turn after so many reads that each filled the buffer: what came is written together.
const LONG_READS: u32 = 4;
/// What is read first of what may be a long value again: its `VALUE` line, in bytes. The rest passes without being copied.
const BEGINNING: usize = 16 << 10;
/// So many reads after a long value another one is reckoned with.
const RECKONED_READS: u32 = 4;

/// A node's socket as its task reads it.
pub(super) struct NodeReader {
    pub(super) half: ReadHalf,
    /// It had nothing more, and has been looked at once again since.
    looked_again: bool,
    /// Reads in which a long value is reckoned with.
    reckoned: u32,
}

impl Rim {
    pub(super) async fn upstream(self: Rc<Self>, id: UpstreamId, wait: Duration) {
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let (node, connected) = loop {
            let Some(node) = self.core.borrow().upstream_node(id) else { return };
            let connected = connect(&node, &self.parts).await;
            let Some(current) = self.core.borrow().upstream_node(id) else { return };
            // Whatever came of it, at an address the node has left meanwhile it counts for nothing.
            if (&current.host, current.port) == (&node.host, node.port) {
                break (node, connected);
            }
        };
        let failed = match &connected {
            Ok((_, made)) => made.is_itself().then_some(FailReason::Itself),
            Err(reason) => Some(*reason),
        };
        let (stream, made) = match (failed, connected) {
            (None, Ok(connected)) => connected,
            (reason, _) => {
                let reason = reason.unwrap_or(FailReason::Connect);
                tracing::debug!(node = %node.name, ?reason, "cannot connect");
                self.parts.node_failed.notify_one();
                self.core.borrow_mut().upstream_failed(id, reason, self.now());
                return self.apply();
            }
        };
        let pauses = self.core.borrow().upstream_pauses(id);
        if pauses {
            stream::bound_paused_input(stream.tcp());
        }
        let kept = if matches!(stream, Stream::Tls(_)) { tls::KEPT } else { 0 };
        let (half, write) = match stream {
            Stream::Plain(stream) => stream::split(stream),
            Stream::Tls(stream) => tls::split(*stream, &self.sealed),
        };
        let mut read = NodeReader { half, looked_again: false, reckoned: 0 };
        let mut socket = Socket::new(id, write, made);
        socket.is_bounded = pauses;
        insert(&self.upstreams, socket);
        {
            let mut core = self.core.borrow_mut();
            core.upstream_connected(id, self.now());
            core.upstream_sealed(id, kept);
        }
        self.apply();
        poll_fn(|cx| self.polls.time("upstream", || self.poll_upstream(id, &mut read, cx))).await;
    }

    fn poll_upstream(self: &Rc<Self>, id: UpstreamId, read: &mut NodeReader, cx: &mut Context<'_>) -> Poll<()> {
        if poll_writable(&self.upstreams, id, cx).is_ready() {
            self.core.borrow_mut().upstream_writable(id);
            self.apply();
        }
        let mut long = 0;
        loop {
            if !self.core.borrow_mut().upstream_may_read(id) {
                self.apply();
                return if self.core.borrow().has_upstream(id) { Poll::Pending } else { Poll::Ready(()) };
            }
            if long >= LONG_READS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.pass(id, read) {
                self.apply();
                // That was much already.
                (long, read.looked_again, read.reckoned) = (LONG_READS, false, RECKONED_READS);
                continue;
            }
            let mut scratch = self.scratch.borrow_mut();
            let mut space = scratch.space();
            if read.reckoned > 0 {
                space = space.get_mut(..BEGINNING).unwrap_or_default();
            }
            let most = space.len();
            let core = match poll_read(&mut read.half, space, cx) {
                Read::Pending => {
                    drop(scratch);
                    if self.core.borrow().holds_back() && !std::mem::replace(&mut read.looked_again, true) {
                        // Again when it is known what came meanwhile.
                        let _ = pin!(yield_now()).poll(cx);
                        return Poll::Pending;
                    }
                    self.core.borrow_mut().upstream_drained();
                    self.apply();
                    return Poll::Pending;
                }
                Read::Bytes(n) => {
                    long = if n == most { long + 1 } else { 0 };
                    read.reckoned = read.reckoned.saturating_sub(1);
                    read.looked_again = false;
                    let mut core = self.core.borrow_mut();
                    core.upstream_read(id, &mut scratch, n, self.now());
                    core
                }
                Read::End | Read::Failed => {
                    let sockets = self.upstreams.borrow();
                    let socket = sockets.get(id.index()).and_then(Option::as_ref).filter(|socket| socket.id == id);
                    let reason = socket.map_or(FailReason::Closed, Socket::closed);
                    let reason = match read.half.end() {
                        Some(End::Unsecured(why)) => {
                            self.parts.secured.refused(why);
                            FailReason::Unsecured(why)
                        }
                        Some(End::CutOff) if reason == FailReason::Closed => FailReason::CutOff,
                        _ => reason,
                    };
                    drop(sockets);
                    let mut core = self.core.borrow_mut();
                    core.upstream_failed(id, reason, self.now());
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

/// Why a connection could not be made.
fn unmade(error: &io::Error) -> FailReason {
    match error.raw_os_error() {
        _ if error.kind() == io::ErrorKind::ConnectionRefused => FailReason::Connect,
        Some(number) => FailReason::System(number),
        // The system's resolver has errors of its own, that have no number here.
        None if phrase::lookup(&error.to_string()) == Some(phrase::NAME_UNANSWERED) => FailReason::NameUnanswered,
        None => FailReason::NameNotFound,
    }
}

/// Connects, lets it be known, and makes it secure; all within the connect time-out.
async fn connect(node: &Node, parts: &Parts) -> Result<(Stream, Made), FailReason> {
    let limit = parts.settings.connect_timeout;
    let ends_at = Instant::now() + limit;
    let connecting = parts.itself.connecting();
    let connected = timeout_at(ends_at, reach(node, parts)).await.map_err(|_| FailReason::ConnectTimeout)?;
    let (stream, local, peer) = connected.map_err(|error| unmade(&error))?;
    let made = connecting.made(local, peer);
    if made.is_itself() {
        return Err(FailReason::Itself);
    }
    // Boxed, for plain nodes are not to carry it.
    let host = (node.certificate_name(), Some(&node.name));
    let opened = match parts.secured.is_plain() {
        true => Ok(Stream::Plain(stream)),
        false => Box::pin(parts.secured.open(stream, host, ends_at, limit)).await,
    };
    match opened {
        Ok(stream) => Ok((stream, made)),
        // It is told when it is accepted, and that may be only now.
        Err(_) if made.is_itself() => Err(FailReason::Itself),
        Err(why) => Err(FailReason::Unsecured(why)),
    }
}

async fn reach(node: &Node, parts: &Parts) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    let stream = resolve::connect(&node.host, node.port).await?;
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    // A port that nobody listens on may be the one this very attempt was given: then it has met itself.
    if local == peer {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream::prepare_upstream(&stream, parts.settings.request_timeout)?;
    Ok((stream, local, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_connection_could_not_be_made_is_known_apart() {
        let lookup = |text: &str| unmade(&io::Error::other(format!("failed to lookup address information: {text}")));
        assert_eq!(lookup("Name or service not known"), FailReason::NameNotFound);
        assert_eq!(lookup("Temporary failure in name resolution"), FailReason::NameUnanswered);
        assert_eq!(lookup("Try again"), FailReason::NameUnanswered);
        assert_eq!(unmade(&io::Error::from_raw_os_error(111)), FailReason::Connect);
        assert_eq!(unmade(&io::ErrorKind::ConnectionRefused.into()), FailReason::Connect);
        assert_eq!(unmade(&io::Error::from_raw_os_error(113)), FailReason::System(113));
    }
}
