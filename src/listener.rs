//! Binds where clients connect, accepts, and hands each connection to the least loaded worker.
//!
//! A hash over the listening sockets of several workers would leave some without work: a sidecar
//! has a handful of long-lived connections.

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::config::Listen;
use crate::metrics::Cells;

/// The port clients know.
const PORT: u16 = 11211;
/// Connections the kernel completes before they are accepted; it caps this at `somaxconn`.
const BACKLOG: i32 = 1024;
/// The wait after a failed accept, such as when descriptors have run out.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What Linux answers where the kernel has no IPv6; std has no kind for it.
const EAFNOSUPPORT: i32 = 97;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(.error))]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "the port is already taken (choose another with --listen)".to_owned(),
        ErrorKind::PermissionDenied => "not permitted".to_owned(),
        _ => error.to_string(),
    }
}

/// Binds the data port.
///
/// # Errors
/// Where an address cannot be bound. Without explicit addresses the machine need not have `::1`.
pub fn bind_all(listen: &Listen) -> Result<Vec<std::net::TcpListener>, BindError> {
    match listen {
        Listen::Explicit(addresses) => addresses.iter().map(|address| bind(*address)).collect(),
        Listen::Default => {
            let mut bound = vec![bind((Ipv4Addr::LOCALHOST, PORT).into())?];
            match bind((Ipv6Addr::LOCALHOST, PORT).into()) {
                Ok(listener) => bound.push(listener),
                Err(BindError { error, .. }) if has_no_ipv6(&error) => {}
                Err(error) => return Err(error),
            }
            Ok(bound)
        }
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
        || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Binds one address.
///
/// # Errors
/// Where it cannot be bound.
pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A port whose last connections are in TIME_WAIT is free; one that is listened on is not.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error| BindError { address, error })
}

/// Where accepted connections go.
#[derive(Debug)]
pub struct Acceptor {
    /// One per worker, in their order.
    workers: Vec<mpsc::Sender<std::net::TcpStream>>,
    /// How many each has been given.
    handed: Box<[AtomicU64]>,
    /// Tells each worker's connections.
    cells: Arc<Cells>,
    /// Client connections at a time; more are told so and closed, as memcached does.
    max_connections: usize,
}

impl Acceptor {
    /// Hands connections to these workers, `max_connections` at a time.
    #[must_use]
    pub fn new(workers: Vec<mpsc::Sender<std::net::TcpStream>>, cells: Arc<Cells>, max_connections: usize) -> Self {
        let handed = workers.iter().map(|_| AtomicU64::new(0)).collect();
        Self { workers, handed, cells, max_connections }
    }

    /// Accepts until the task is dropped.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.hand_over(stream).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// A worker's connections, those included that it has not taken yet: in a burst they are most.
    fn load(&self, worker: usize) -> u64 {
        let cells = self.cells.worker(worker);
        let closed = cells.connections_total.get().saturating_sub(cells.connections.get());
        self.handed.get(worker).map_or(0, |handed| handed.load(Relaxed)).saturating_sub(closed)
    }

    async fn hand_over(&self, stream: tokio::net::TcpStream) {
        let Ok(stream) = stream.set_nodelay(true).and_then(|()| stream.into_std()) else {
            return;
        };
        if self.cells.sum(|cells| &cells.connections) >= self.max_connections as u64 {
            self.cells.rejected.add(1);
            let _ = (&stream).write_all(b"ERROR Too many open connections\r\n");
            return;
        }
        let least = (0..self.workers.len()).min_by_key(|index| self.load(*index)).unwrap_or_default();
        if let Some(handed) = self.handed.get(least) {
            handed.fetch_add(1, Relaxed);
        }
        if let Some(worker) = self.workers.get(least) {
            // Fails only when the worker has ended, and with it the process.
            let _ = worker.send(stream).await;
        }
    }
}
