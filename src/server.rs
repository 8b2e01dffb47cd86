//! Puts the parts together: start order and stop order.
//!
//! The data port is bound before anything else, so that a taken port is one clear line and nothing
//! was started; then the ring, the workers, the acceptors, the admin endpoint.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminState, RingNode, RingReport};
use crate::config::{Command, Config};
use crate::discovery::{self, Options, Source};
use crate::embedded::EmbeddedNode;
use crate::listener::{self, Acceptor, BindError};
use crate::metrics::Cells;
use crate::proxy::Settings;
use crate::routing::{Node, NodeIndex, Published, Topology, TopologyError};
use crate::worker;

/// Largest item of an embedded node, in bytes: memcached's default (`-I 1m`).
const EMBEDDED_ITEM: usize = 1 << 20;

/// Longest silence of a node that has left the ring before what it still owes is given up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The nodes make no ring.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Threads, runtimes, signal handlers.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Runs until told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// When something needed at the start is missing.
pub fn run(config: Config) -> Result<(), RunError> {
    #[expect(clippy::disallowed_methods, reason = "the zero of the core's time")]
    let started = Instant::now();
    let listeners = listener::bind_all(&config.listen)?;
    let nodes = match &config.command {
        Command::Serve { source } => first_ring(source, &config.discovery)?,
        Command::Dev { nodes, node_memory } => start_embedded(*nodes, *node_memory)?,
    };
    let ring = Arc::new(Published::new(Topology::new(1, nodes.into_iter().map(Arc::new).collect())?));
    Builder::new_current_thread().enable_all().build()?.block_on(serve(config, listeners, ring, started))
}

async fn serve(
    config: Config,
    listeners: Vec<std::net::TcpListener>,
    ring: Arc<Published>,
    started: Instant,
) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let cells = Arc::new(Cells::new(config.workers));
    let parts = worker::Parts {
        ring: Arc::clone(&ring),
        node_failed: Arc::default(),
        settings: settings(&config),
        cells: Arc::clone(&cells),
        connect_timeout: config.connect_timeout,
        started,
    };
    let workers =
        (0..config.workers).map(|index| worker::spawn(index, parts.clone())).collect::<io::Result<Vec<_>>>()?;
    let addresses = listeners.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let acceptor = Arc::new(Acceptor {
        workers: workers.iter().map(|worker| worker.sender.clone()).collect(),
        cells: Arc::clone(&cells),
        max_connections: config.max_connections,
    });
    for listener in listeners {
        let accept = Arc::clone(&acceptor).run(TcpListener::from_std(listener)?);
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept));
    }
    let admin = config.admin_listen.and_then(bind_admin);
    let admin_address = admin.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = admin {
        tasks.spawn(admin::serve(listener, Arc::new(admin_state(Arc::clone(&ring), cells)), stop.clone()));
    }
    tracing::info!(listen = %join(&addresses), nodes = ring.load().nodes().len(), workers = workers.len(), "serving");
    if let Command::Dev { node_memory, .. } = config.command {
        // Nobody has to read it.
        let _ = io::stdout().write_all(banner(&addresses, &ring.load(), admin_address, node_memory).as_bytes());
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// The nodes at the start. They are not followed yet.
fn first_ring(source: &Source, options: &Options) -> Result<Vec<Node>, RunError> {
    if let Source::Static(nodes) = source {
        return Ok(nodes.clone());
    }
    let read = discovery::read_once(source, options);
    let nodes = Builder::new_current_thread().enable_all().build()?.block_on(read);
    nodes.map_err(|problem| io::Error::other(format!("{source}: {problem}")).into())
}

fn settings(config: &Config) -> Settings {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Settings {
        max_value: config.max_value,
        lanes: config.connections_per_node,
        drain_timeout: DRAIN_TIMEOUT,
        deny_flush_all: config.deny_flush_all,
        merge_gets: config.merge_gets,
        on_node_down: config.on_node_down,
        started_at: unix.as_secs(),
        pid: std::process::id(),
        max_connections: config.max_connections,
        cpu_time,
        seed: u64::from(unix.subsec_nanos()) << 32 | u64::from(std::process::id()),
    }
}

/// User and system CPU time of this process, to the kernel's tick of 10 ms; zero where there is no
/// `/proc`.
fn cpu_time() -> (Duration, Duration) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name in brackets, may hold anything; utime and stime are the 12th and
    // 13th behind it.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0_u64);
    (Duration::from_millis(ticks() * 10), Duration::from_millis(ticks() * 10))
}

/// The admin port is a convenience: taken, the data port serves on.
fn bind_admin(address: SocketAddr) -> Option<TcpListener> {
    let bound = listener::bind(address).map_err(|error| error.to_string());
    match bound.and_then(|listener| TcpListener::from_std(listener).map_err(|error| error.to_string())) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!("{error}; going on without the admin endpoint");
            None
        }
    }
}

fn admin_state(ring: Arc<Published>, cells: Arc<Cells>) -> AdminState {
    let report = move || {
        let topology = ring.load();
        let nodes = topology.nodes().iter().enumerate().map(|(index, node)| RingNode {
            name: node.name.to_string(),
            address: node.address(),
            weight: node.weight,
            share: u16::try_from(index).map_or(0.0, |index| topology.share(NodeIndex(index))),
            state: cells.node_state(&node.name).word(),
        });
        RingReport { fingerprint: topology.fingerprint(), version: topology.version(), nodes: nodes.collect() }
    };
    // The listener is bound and the ring is known by the time the endpoint answers at all.
    AdminState { ready: Arc::new(AtomicBool::new(true)), ring: Box::new(report) }
}

/// Starts the embedded nodes on a thread of their own: they stand in for other machines.
fn start_embedded(count: usize, memory: u64) -> io::Result<Vec<Node>> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("nodes".into()).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(sender.send(Err(error))),
        };
        runtime.block_on(async {
            let mut nodes = Vec::new();
            for _ in 0..count {
                match EmbeddedNode::bind((Ipv4Addr::LOCALHOST, 0).into(), memory, EMBEDDED_ITEM).await {
                    Ok(node) => nodes.push(node),
                    Err(error) => return drop(sender.send(Err(error))),
                }
            }
            let _ = sender.send(Ok(nodes.iter().map(EmbeddedNode::local_addr).collect::<Vec<_>>()));
            let tasks = TaskTracker::new();
            for node in nodes {
                tasks.spawn(node.run(CancellationToken::new()));
            }
            tasks.close();
            tasks.wait().await;
        });
    })?;
    let addresses = receiver.recv().map_err(io::Error::other)??;
    Ok(addresses.iter().map(|address| Node::new(&address.ip().to_string(), address.port(), 1)).collect())
}

fn banner(listen: &[SocketAddr], topology: &Topology, admin: Option<SocketAddr>, memory: u64) -> String {
    let nodes = topology.nodes();
    let names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
    let first = listen.first().map(SocketAddr::to_string).unwrap_or_default();
    let (host, port) = first.rsplit_once(':').unwrap_or_default();
    let admin = admin.map_or_else(|| "off".to_owned(), |address| format!("http://127.0.0.1:{}/ring", address.port()));
    format!(
        "slipring {} in front of {} in-memory nodes of {} MiB\n\
         \x20 listens on  {}\n\
         \x20 nodes       {}\n\
         \x20 admin       {admin}\n\
         \x20 try         printf 'set k 0 0 5\\r\\nhello\\r\\nget k\\r\\nquit\\r\\n' | nc {host} {port}\n",
        env!("CARGO_PKG_VERSION"),
        nodes.len(),
        memory >> 20,
        join(listen),
        names.join("  "),
    )
}

fn join(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join("  ")
}
