//! The in-memory nodes of `slipring dev`.
//!
//! Each is a real TCP server that speaks memcached's text protocol, classic and meta, so that the
//! proxy in front of it runs the very data path it runs in production. What is asked of a node in
//! ordinary use is answered byte for byte as memcached 1.6.18 answers (`tests/embedded.rs` compares
//! the two). It differs where memcached would execute a value as commands (invariant G: the block of
//! a refused storage line is swallowed here, or the connection closed) or a key as an answer, and in
//! what a node behind a router is never asked: the binary protocol, `watch`, `lru_crawler` and their
//! like are `ERROR`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod connection;
mod meta;
mod stats;
mod store;

use connection::Connection;
use store::Store;

use crate::phrase;
use crate::time::unix_seconds;

/// The version the nodes report: the memcached whose answers they give.
pub const VERSION: &str = "1.6.18";

/// The answer to `version`, without CRLF.
const VERSION_LINE: &str = "VERSION 1.6.18";

/// Most clients of one node at once: memcached's default.
const MAX_CONNECTIONS: usize = 1024;

/// Pause after a failed accept: out of file descriptors, the next try would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One in-memory node, bound and not yet running.
#[derive(Debug)]
pub struct EmbeddedNode {
    listener: TcpListener,
    local_addr: SocketAddr,
    shared: Arc<Shared>,
}

/// What the connections of a node have in common.
#[derive(Debug)]
struct Shared {
    /// Locked for one command on one key at a time and never across an await: that makes `incr`,
    /// `append` and `cas` atomic on any runtime.
    store: Mutex<Store>,
    local_addr: SocketAddr,
}

// === impl EmbeddedNode ===

impl EmbeddedNode {
    /// Binds a node to `addr` (port 0: any free one).
    ///
    /// `memory_bytes` bounds what is kept, keys and bookkeeping included. `max_value` bounds one
    /// item in bytes as memcached's `-I` does: value, key and 59 to 63 bytes more must fit (the
    /// default of memcached is 1 MiB). It is lowered to half of `memory_bytes`, memcached's own
    /// rule: an item must never push out all others.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(addr: SocketAddr, memory_bytes: u64, max_value: usize) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Self {
            listener,
            local_addr,
            shared: Arc::new(Shared { store: Mutex::new(Store::new(memory_bytes, max_value, now())), local_addr }),
        })
    }

    /// Where the node listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop` is cancelled, then drops the listener and all connections.
    ///
    /// Every connection is a `Send` task on the caller's runtime (`tokio::spawn`), owned by this
    /// future: dropping it ends them too.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    if connections.len() >= MAX_CONNECTIONS {
                        self.shared.turn_away(&socket);
                        continue;
                    }
                    // Replies are small and complete: waiting to fill a packet only delays them.
                    let _ = socket.set_nodelay(true);
                    let connection = Connection::new(socket, peer, Arc::clone(&self.shared));
                    connections.spawn(connection.run());
                }
                Err(error) => {
                    tracing::warn!(node = %self.local_addr, error = phrase::of(&error), "embedded node cannot accept");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The store. A panic elsewhere leaves no half-done change behind that a lock would protect
    /// from, so a poisoned lock is taken as it is.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn_away(&self, socket: &TcpStream) {
        let _ = socket.try_write(b"ERROR Too many open connections\r\n");
        self.store().counters.rejected_connections += 1;
    }
}

/// Seconds since 1970: memcached's clock has no finer step.
fn now() -> u64 {
    unix_seconds(SystemTime::now())
}
