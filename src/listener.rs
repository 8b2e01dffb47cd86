//! Binds where clients connect, accepts, and hands each connection to the least loaded worker.
//!
//! A hash over the listening sockets of several workers would leave some without work: a sidecar
//! has a handful of long-lived connections.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::config::ListenAddress;
use crate::itself::Itself;
use crate::log::{Onset, Pace};
use crate::metrics::Cells;
use crate::phrase;
use crate::proxy::{Ends, TcpEnds};
use crate::worker::keepalive;

/// Connections the kernel completes before they are accepted; it caps this at `somaxconn`.
const BACKLOG: i32 = 1024;
/// The wait after a failed accept, such as when descriptors have run out.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Between two lines in the log about the same trouble with accepting.
const LOG_GAP: Duration = Duration::from_secs(10);
/// Between two lines in the log about clients that are refused.
const REFUSED_GAP: Duration = Duration::from_secs(60);
/// Bytes that the kernel takes for a client beyond what it can send now. Without a limit it took 4 MB for one that does
/// not read, which the container's memory limit counts and our own buffers' limit does not; with this, 32 KB. The sender
/// does not run dry: we are woken when half of it is gone.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 16 << 10;

/// What is asked of the kernel for what a client has sent and is not read yet, in bytes; it takes twice as much, overhead
/// included. By default it is 128 KiB for each client whose body waits for room, which the container's memory limit counts.
/// Set before a client connects, for its first window is what it may send unread. Who sends much at once gets more, as long
/// as there is some ([`crate::worker`]).
#[cfg(target_os = "linux")]
const INPUT_BYTES: usize = 8 << 10;
/// The same for what a client does not acknowledge, as while its machine is away: by default up to 4 MB. With less than
/// this, large values wait for acknowledgements that the other side delays.
#[cfg(target_os = "linux")]
const OUTPUT_BYTES: usize = 208 << 10;
/// The same for what a client on a Unix socket does not read.
const UNIX_OUTPUT_BYTES: usize = 32 << 10;

/// What Linux answers where the kernel has no IPv6; std has no kind for it.
const EAFNOSUPPORT: i32 = 97;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(.address, .option, .error))]
pub struct BindError {
    address: ListenAddress,
    /// The option that names it.
    option: &'static str,
    error: io::Error,
}

// === impl BindError ===

impl BindError {
    /// Whether the machine has no such address, or nothing of its kind.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
            || self.error.raw_os_error() == Some(EAFNOSUPPORT)
    }
}

/// The option for where clients connect.
const LISTEN: &str = "--listen";

fn reason(address: &ListenAddress, option: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            let what = if matches!(address, ListenAddress::Unix(_)) { "socket" } else { "port" };
            format!(
                "the {what} is already taken, perhaps by a slipring that still serves its last clients (wait, or choose another \
                 with {option})"
            )
        }
        ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        ErrorKind::NotFound => "its directory does not exist".to_owned(),
        ErrorKind::PermissionDenied => "not permitted".to_owned(),
        _ => phrase::of(error),
    }
}

// === binding ===

/// A socket that clients connect to. Dropping it closes it; the file of a Unix socket goes with it.
#[derive(Debug)]
pub struct Listener {
    /// Held for its end. First: while the socket lives its inode cannot be another's.
    _file: Option<SocketFile>,
    socket: Socket,
    address: ListenAddress,
}

/// A [`Listener`] that the runtime knows.
#[derive(Debug)]
pub struct Incoming {
    _file: Option<SocketFile>,
    socket: IncomingSocket,
    address: ListenAddress,
}

#[derive(Debug)]
enum IncomingSocket {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<Path>),
}

/// The file of a Unix socket that is ours; dropping it removes it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: when another process has put its own socket in this place, that one stays.
    identity: (u64, u64),
}

/// Binds the data ports and sockets.
///
/// # Errors
/// Where an address cannot be bound. For `localhost` the machine need have but one of `127.0.0.1` and `::1`.
pub fn bind_all(addresses: &[ListenAddress], unix_mode: u32) -> Result<Vec<Listener>, BindError> {
    let mut bound = Vec::new();
    for address in addresses {
        match address {
            ListenAddress::Tcp(address) => match Listener::tcp(*address) {
                Ok(listener) => bound.push(listener),
                // All addresses of a kind, of which this machine has none, beside others.
                Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && !bound.is_empty() && error.is_missing() => {}
                Err(error) => return Err(error),
            },
            ListenAddress::Unix(path) => bound.push(Listener::unix(path, unix_mode)?),
            ListenAddress::Localhost(_) => {
                let mut missing = None;
                for address in address.addresses() {
                    match Listener::tcp(address) {
                        Ok(listener) => bound.push(listener),
                        Err(error) if error.is_missing() && missing.is_none() => missing = Some(error),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
    Ok(bound)
}

/// Binds one TCP address that `option` names.
///
/// # Errors
/// Where it cannot be bound.
pub fn bind(address: SocketAddr, option: &'static str) -> Result<std::net::TcpListener, BindError> {
    open_tcp(address).map(Into::into).map_err(|error| BindError { address: ListenAddress::Tcp(address), option, error })
}

fn open_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are in TIME_WAIT is free; one that is listened on is not.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit all of these: no call for each of them.
    socket.set_tcp_nodelay(true)?;
    // A client whose machine vanishes without a word would hold its place for good.
    if let Err(error) = socket.set_tcp_keepalive(&keepalive()) {
        tracing::debug!(error = phrase::of(&error), "clients are not probed");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT_BYTES) {
        // Sandboxes may not know it; it saves memory only.
        tracing::debug!(error = phrase::of(&error), "no limit for unsent bytes");
    }
    #[cfg(target_os = "linux")]
    {
        // They save memory only, too.
        let _ = socket.set_recv_buffer_size(INPUT_BYTES);
        let _ = socket.set_send_buffer_size(OUTPUT_BYTES);
        // To a client on this machine there is no path that could be congested: the plainest algorithm, which every kernel has.
        // Others (BBR is the default of some hosts) pace what they send, which large values wait for.
        if address.ip().is_loopback() {
            let _ = socket.set_tcp_congestion(b"reno");
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn open_unix(path: &Path, mode: u32) -> io::Result<(Socket, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(&fs::symlink_metadata(path)?) };
    // Until it listens nobody can connect: at no moment is it open to more than it should be.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok((socket, file))
}

/// Makes room for a Unix socket. What a crash left behind is removed; what somebody listens on, or is no socket, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("there is a file that is not a socket"));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose backlog is full would hold us up.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        // It answers, or would if it had time; or it is a socket of another type.
        _ => Err(ErrorKind::AddrInUse.into()),
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

// === impl Listener ===

impl Listener {
    fn tcp(address: SocketAddr) -> Result<Self, BindError> {
        let open = || {
            let socket = open_tcp(address)?;
            let address = socket.local_addr()?.as_socket().unwrap_or(address);
            Ok(Self { _file: None, socket, address: ListenAddress::Tcp(address) })
        };
        open().map_err(|error| BindError { address: ListenAddress::Tcp(address), option: LISTEN, error })
    }

    fn unix(path: &Path, mode: u32) -> Result<Self, BindError> {
        let address = ListenAddress::Unix(path.to_owned());
        match open_unix(path, mode) {
            Ok((socket, file)) => Ok(Self { _file: Some(file), socket, address }),
            Err(error) => Err(BindError { address, option: LISTEN, error }),
        }
    }

    /// Where clients connect: the port is the one they must use.
    #[must_use]
    pub const fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Makes it known to the runtime at hand, which must be tokio's.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn register(self) -> io::Result<Incoming> {
        let Self { _file, socket, address } = self;
        let socket = match address {
            ListenAddress::Unix(ref path) => {
                IncomingSocket::Unix(UnixListener::from_std(socket.into())?, path.as_path().into())
            }
            ListenAddress::Localhost(_) | ListenAddress::Tcp(_) => {
                IncomingSocket::Tcp(TcpListener::from_std(socket.into())?)
            }
        };
        Ok(Incoming { _file, socket, address })
    }
}

// === impl Incoming ===

impl Incoming {
    async fn accept(&self) -> io::Result<Accepted> {
        // The worker that gets it has a runtime of its own.
        match &self.socket {
            IncomingSocket::Tcp(socket) => {
                let stream = socket.accept().await?.0.into_std()?;
                let ends = stream.peer_addr().and_then(|peer| Ok(Ends::Tcp(TcpEnds::new(stream.local_addr()?, peer))));
                // One that is closed already has none.
                Ok(Accepted::Tcp(stream, ends.unwrap_or_default()))
            }
            IncomingSocket::Unix(socket, path) => {
                let stream = socket.accept().await?.0.into_std()?;
                // Nothing is inherited here.
                let _ = SockRef::from(&stream).set_send_buffer_size(UNIX_OUTPUT_BYTES);
                Ok(Accepted::Unix(stream, Ends::Unix(Arc::clone(path))))
            }
        }
    }
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // Left behind, it is as after a crash.
            let _ = fs::remove_file(&self.path);
        }
    }
}

// === accepting ===

/// A client's connection that no runtime knows yet; it does not block.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP, without Nagle's delay.
    Tcp(std::net::TcpStream, Ends),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream, Ends),
}

/// Where accepted connections go.
#[derive(Debug)]
pub struct Acceptor {
    /// One per worker, in their order.
    workers: Vec<mpsc::Sender<Accepted>>,
    /// How many each has been given.
    handed: Box<[AtomicU64]>,
    /// Tells each worker's connections.
    cells: Arc<Cells>,
    /// Client connections at a time; more are told so and closed, as memcached does.
    max_connections: usize,
    /// Client sockets at a time that there are descriptors for; more wait in the backlog.
    room: AtomicU64,
    /// The connections to nodes: none of them is a client.
    itself: Arc<Itself>,
    /// Clients are refused at `max_connections`.
    refuses: Mutex<Onset>,
}

impl Acceptor {
    /// Hands connections to these workers, `max_connections` at a time; none before there is [room](Self::make_room).
    /// What is a connection of `itself` is closed.
    #[must_use]
    pub fn new(
        workers: Vec<mpsc::Sender<Accepted>>,
        cells: Arc<Cells>,
        max_connections: usize,
        itself: Arc<Itself>,
    ) -> Self {
        let handed = workers.iter().map(|_| AtomicU64::new(0)).collect();
        Self {
            workers,
            handed,
            cells,
            max_connections,
            room: AtomicU64::new(0),
            itself,
            refuses: Mutex::new(Onset::every(REFUSED_GAP)),
        }
    }

    /// From now on there are descriptors for so many clients at a time. Those that are connected stay.
    pub fn make_room(&self, room: u64) {
        self.room.store(room, Relaxed);
    }

    /// Accepts until the task is dropped.
    pub async fn run(self: Arc<Self>, incoming: Incoming) {
        let mut pace = Pace::every(LOG_GAP);
        loop {
            let accepted =
                if self.sockets() < self.room.load(Relaxed) { incoming.accept().await } else { Err(no_room()) };
            match accepted {
                // Its end is what who made it is told by.
                Ok(stream) if self.is_ours(&stream) => drop(stream),
                Ok(stream) => self.hand_over(stream).await,
                // The client gave up before it was accepted: nothing is wrong here.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Those that are connected go on; those to come wait in the backlog meanwhile.
                    if pace.allows(Instant::now()) {
                        tracing::warn!(error = phrase::of(&error), on = %incoming.address, "cannot accept connections; slipring tries again");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Connections so far, refused ones aside.
    pub fn handed(&self) -> u64 {
        self.handed.iter().map(|handed| handed.load(Relaxed)).sum()
    }

    /// Connections at present, those included that no worker has taken yet.
    pub fn clients(&self) -> u64 {
        (0..self.workers.len()).map(|worker| self.load(worker)).sum()
    }

    /// Sockets at present, those included of clients that are closed and listened to for a last moment.
    fn sockets(&self) -> u64 {
        self.handed().saturating_sub(self.cells.sum(|cells| &cells.sockets_closed))
    }

    fn is_ours(&self, stream: &Accepted) -> bool {
        let Accepted::Tcp(_, Ends::Tcp(ends)) = stream else { return false };
        self.itself.is_ours(ends.peer(), ends.local())
    }

    /// A worker's connections, those included that it has not taken yet: in a burst they are most.
    fn load(&self, worker: usize) -> u64 {
        let cells = self.cells.worker(worker);
        let closed = cells.connections_total.get().saturating_sub(cells.connections.get());
        self.handed.get(worker).map_or(0, |handed| handed.load(Relaxed)).saturating_sub(closed)
    }

    fn refuses(&self) -> MutexGuard<'_, Onset> {
        self.refuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hand_over(&self, stream: Accepted) {
        if self.clients() >= self.max_connections as u64 {
            self.cells.rejected.add(1);
            if self.refuses().begins(Instant::now()) {
                tracing::warn!(
                    "--max-connections is reached ({} clients): further clients are refused; this is logged once a minute \
                     at most",
                    self.max_connections
                );
            }
            return stream.refuse();
        }
        self.refuses().ends();
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

fn no_room() -> io::Error {
    io::Error::other("no open files are left for further clients")
}

// === impl Accepted ===

impl Accepted {
    /// What memcached says when it is full. A client that cannot take it is closed without.
    fn refuse(self) {
        const FULL: &[u8] = b"ERROR Too many open connections\r\n";
        fn say(mut stream: impl Read + Write) {
            let _ = stream.write_all(FULL);
            // A connection with something unread is reset when it is closed, and its client may not see the answer.
            let _ = stream.read(&mut [0; 4096]);
        }
        match self {
            Self::Tcp(stream, _) => say(stream),
            Self::Unix(stream, _) => say(stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_names_the_option_to_choose_another_with() {
        let first = bind("127.0.0.1:0".parse().unwrap(), LISTEN).unwrap();
        first.set_nonblocking(false).unwrap();
        let error = bind(first.local_addr().unwrap(), "--admin-listen").unwrap_err().to_string();
        assert!(
            error.contains("the port is already taken, perhaps by a slipring that still serves its last clients"),
            "{error}"
        );
        assert!(error.ends_with("(wait, or choose another with --admin-listen)"), "{error}");
        let error = bind("192.0.2.1:0".parse().unwrap(), LISTEN).unwrap_err().to_string();
        assert!(error.ends_with("this machine does not have that address"), "{error}");
        let nowhere = ListenAddress::Unix("/nowhere/of/slipring/socket".into());
        let error = bind_all(&[nowhere], 0o660).unwrap_err().to_string();
        assert!(error.ends_with("its directory does not exist"), "{error}");
    }

    #[test]
    fn an_accepted_connection_inherits_what_the_listener_has() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), LISTEN).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(3));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
        #[cfg(target_os = "linux")]
        {
            assert_eq!(accepted.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
            assert_eq!(accepted.recv_buffer_size().unwrap(), 2 * INPUT_BYTES);
            assert_eq!(accepted.send_buffer_size().unwrap(), 2 * OUTPUT_BYTES);
            assert_eq!(congestion(&accepted), "reno");
        }
    }

    /// Its algorithm of congestion control.
    #[cfg(target_os = "linux")]
    fn congestion(socket: &Socket) -> String {
        String::from_utf8(socket.tcp_congestion().unwrap()).unwrap().trim_end_matches('\0').to_owned()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn clients_from_elsewhere_are_sent_to_as_the_host_has_it() {
        let everywhere = Socket::from(bind("0.0.0.0:0".parse().unwrap(), LISTEN).unwrap());
        let plain = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        assert_eq!(congestion(&everywhere), congestion(&plain));
    }
}
