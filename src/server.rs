//! Puts the parts together: start order and stop order.
//!
//! Signals are listened for before anything can be seen of it. The ports are bound next, so that a taken one is one
//! clear line and nothing was started_at, and nothing slow keeps a client or a probe from connecting; then the admin
//! endpoint, which answers whatever the nodes do, the ring, the workers, the acceptors.

mod condition;
mod told;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminState};
use crate::config::{AnswerDiscovery, Command, Config, ListenAddress};
use crate::descriptors;
use crate::discovery::follow::{self, History};
use crate::discovery::{self, Source, Triggers};
use crate::embedded::EmbeddedNode;
use crate::listener::{self, Acceptor, BindError, Listener};
use crate::metrics::{Cells, Exposition};
use crate::phrase;
use crate::proxy::{DiscoveryAnswer, Settings};
use crate::routing::{Node, Published, Topology, TopologyError};
use crate::secured;
use crate::shutdown::{self, Drained, Order, Signals};
use crate::worker::{self, pulse::Pulse};
use condition::Condition;

/// Largest item of an embedded node, in bytes: memcached's default (`-I 1m`).
const EMBEDDED_ITEM: usize = 1 << 20;
/// Descriptors of their runtime.
const EMBEDDED_OWN: usize = 5;

/// Between two looks at certificates of nodes that near their end.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(1800);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The nodes make no ring.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Fewer open files than it takes to serve one client.
    #[error("cannot start: the limit of {0} open files is too low: raise it (`ulimit -n`, or LimitNOFILE= of systemd)")]
    Files(u64),
    /// Threads, runtimes, signal handlers.
    #[error("cannot start: {}", phrase::of(.0))]
    Io(#[from] io::Error),
}

/// Runs until told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// When something needed at the start is missing.
pub fn run(config: Config) -> Result<(), RunError> {
    #[expect(clippy::disallowed_methods, reason = "the zero of the core's time")]
    let started_at = Instant::now();
    let files = descriptors::raise();
    if descriptors::too_few(files) {
        return Err(RunError::Files(files));
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Before anyone can see that it runs: unheard, a SIGHUP would end it.
    let signals = {
        let _entered = runtime.enter();
        Signals::listen(matches!(config.command, Command::Dev { .. }))?
    };
    let data = listener::bind_all(&config.listen, config.unix_mode)?;
    let bound = Bound { data, admin: bind_admin(&config.admin_listen), files };
    // It would listen, and never answer. Embedded nodes have a runtime, listen, and have the other end of each connection.
    let to_nodes = match &config.command {
        Command::Dev { nodes, .. } => EMBEDDED_OWN + nodes * (2 * config.connections_per_node + 1),
        Command::Serve { source: Source::Static(nodes) } => nodes.len() * config.connections_per_node,
        _ => config.connections_per_node,
    };
    if descriptors::too_few_to_serve(files, config.workers, to_nodes) {
        return Err(RunError::Files(files));
    }
    let source = match &config.command {
        Command::Serve { source } => source.clone(),
        Command::Dev { nodes, node_memory } => Source::Static(start_embedded(*nodes, *node_memory)?),
        // These end before a server is thought of.
        _ => return Ok(()),
    };
    let result = runtime.block_on(serve(config, source, bound, signals, started_at));
    // The resolution of a name may last; nobody waits for it any more.
    runtime.shutdown_background();
    result
}

/// What is there before anything that takes time.
struct Bound {
    data: Vec<Listener>,
    admin: Vec<std::net::TcpListener>,
    /// Most open files.
    files: u64,
}

async fn serve(
    config: Config,
    source: Source,
    bound: Bound,
    mut signals: Signals,
    started_at: Instant,
) -> Result<(), RunError> {
    let (stop, draining, ending) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let triggers = Triggers::default();
    let views = discovery::start(source, config.discovery.clone(), triggers.clone(), stop.clone());
    let ring = Arc::new(Published::new(Topology::unknown()));
    let cells = Arc::new(Cells::new(config.workers));
    let ready = Arc::new(AtomicBool::new(false));
    let history = Arc::new(History::default());
    let admin_address = bound.admin.first().and_then(|listener| listener.local_addr().ok());
    let condition =
        Condition::new(Arc::clone(&ring), views.clone(), Arc::clone(&cells), Arc::clone(&history), &config, started_at);
    let condition = Arc::new(condition);
    tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&condition).keep()));
    let (pulse, beats) = Pulse::new(config.workers);
    if !bound.admin.is_empty() {
        let of = |condition: &Arc<Condition>| Arc::clone(condition);
        let (sources, report, hot_keys) = (of(&condition), of(&condition), of(&condition));
        let (minutes, place) = (of(&condition), condition);
        let exposition = Exposition::new(Arc::clone(&cells), move || sources.sources()).map_err(io::Error::other)?;
        let state = AdminState {
            ready: Arc::clone(&ready),
            draining: draining.clone(),
            ending: ending.clone(),
            pulse,
            config: config.to_json(),
            ring: Box::new(move || report.report()),
            place: Box::new(move |key| place.place(key)),
            hot_keys: Box::new(move || hot_keys.hot_keys()),
            history: Box::new(move || minutes.minutes()),
            metrics: Box::new(move || exposition.text().map_err(|error| error.to_string())),
        };
        let state = Arc::new(state);
        for listener in bound.admin {
            tasks.spawn(admin::serve(TcpListener::from_std(listener)?, Arc::clone(&state), stop.clone()));
        }
    }
    // The first ring is there before the first worker asks, where its source has it at once.
    let placement = Arc::new(config.placement.clone());
    let (published, secured) = (Arc::clone(&ring), config.secured.clone());
    let own = config.discovery.own.clone();
    let follow = follow::follow(views, published, placement, Arc::clone(&ready), history, secured, own);
    tasks.spawn(stop.clone().run_until_cancelled_owned(follow));
    tokio::task::yield_now().await;
    tasks.spawn(draining.clone().run_until_cancelled_owned(be_ready_after(config.ready_timeout, ready)));
    let parts = worker::Parts {
        ring: Arc::clone(&ring),
        node_failed: Arc::clone(&triggers.resolve),
        settings: settings(&config, &bound.data),
        cells: Arc::clone(&cells),
        itself: Arc::default(),
        started_at,
        secured: config.secured.clone(),
    };
    tasks.spawn(stop.clone().run_until_cancelled_owned(secured::watch(config.secured.clone())));
    let look = secured::look_after(config.secured.clone(), Arc::clone(&ring), CERTIFICATE_LOOK);
    tasks.spawn(stop.clone().run_until_cancelled_owned(look));
    let workers = beats
        .into_iter()
        .zip(0..)
        .map(|(beat, index)| worker::spawn(index, parts.clone(), beat))
        .collect::<io::Result<Vec<_>>>()?;
    let (senders, ended): (Vec<_>, Vec<_>) = workers.into_iter().map(|worker| (worker.sender, worker.ended)).unzip();
    let acceptor = Arc::new(Acceptor::new(senders, cells, config.max_connections, parts.itself));
    let rings = ring.subscribe();
    let topology = ring.load();
    let nodes = topology.nodes().len();
    let mut room = Room { files: bound.files, config: config.clone(), told: None };
    acceptor.make_room(room.reckon(connected_to(&topology)));
    drop(topology);
    let keep = room.keep(Arc::clone(&ring), rings, Arc::downgrade(&acceptor));
    tasks.spawn(stop.clone().run_until_cancelled_owned(keep));
    let addresses: Vec<ListenAddress> = bound.data.iter().map(|listener| listener.address().clone()).collect();
    let accepting = Accepting::default();
    for listener in bound.data {
        let accept = Arc::clone(&acceptor).run(listener.register()?);
        accepting.tasks.spawn(accepting.stop.clone().run_until_cancelled_owned(accept));
    }
    tracing::info!(listen = %join(&addresses), nodes, workers = config.workers, instance = config.instance, "serving");
    if let Command::Dev { node_memory, .. } = config.command {
        let banner = banner(&addresses, &ring.load(), admin_address, node_memory);
        // Nobody has to read it: not even this thread waits for who does.
        std::thread::Builder::new().name("banner".into()).spawn(move || io::stdout().write_all(banner.as_bytes()))?;
    }
    let order = signals.next(&triggers).await;
    draining.cancel();
    tokio::select! {
        () = end(order, config.drain_timeout_on_exit, acceptor, accepting, ended, ending) => tracing::info!("ended"),
        () = signals.again(order, &triggers) => tracing::warn!("second signal: ending at once"),
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// The tasks that accept connections.
#[derive(Default)]
struct Accepting {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The stop order: clients go, then nobody is let in, then what is in flight is answered.
async fn end(
    order: Order,
    longest: Duration,
    acceptor: Arc<Acceptor>,
    accepting: Accepting,
    workers: Vec<oneshot::Receiver<()>>,
    ending: CancellationToken,
) {
    if order == Order::Drain {
        let longest_seconds = longest.as_secs_f64();
        tracing::info!(
            clients = acceptor.clients(),
            longest_seconds,
            "draining: slipring serves until its clients have disconnected"
        );
        match shutdown::drain(&acceptor, longest).await {
            Drained::Quiet => tracing::info!("all clients have disconnected"),
            // As it was told: a native sidecar outlives its clients, and does not wait for what is left of them.
            Drained::TimedOut(clients) if longest.is_zero() => {
                tracing::info!(clients, "ending without waiting for the connected clients");
            }
            Drained::TimedOut(clients) => {
                tracing::warn!(clients, "--drain-timeout-on-exit is over and clients are still connected");
            }
        }
    }
    accepting.stop.cancel();
    accepting.tasks.close();
    accepting.tasks.wait().await;
    ending.cancel();
    // With it go the last ways to the workers, which is their sign to finish.
    drop(acceptor);
    let all = async {
        for worker in workers {
            // An error says that it has ended, too.
            let _ = worker.await;
        }
    };
    if timeout(2 * worker::FINISH, all).await.is_err() {
        tracing::warn!("a worker did not end in time");
    }
}

/// How many clients there are descriptors for, whatever the ring.
struct Room {
    /// Most open files.
    files: u64,
    config: Config,
    /// What was last said of it.
    told: Option<u64>,
}

impl Room {
    /// Reckons with each ring. The acceptor's end is the workers' sign to finish: it is not held.
    async fn keep(mut self, ring: Arc<Published>, mut rings: watch::Receiver<u64>, acceptor: Weak<Acceptor>) {
        while rings.changed().await.is_ok() {
            let room = self.reckon(connected_to(&ring.load()));
            let Some(acceptor) = acceptor.upgrade() else { return };
            acceptor.make_room(room);
        }
    }

    /// Says so when it is less than was asked for, once for each that it comes to.
    fn reckon(&mut self, nodes: usize) -> u64 {
        let Self { files, config, told } = self;
        let room = descriptors::room(*files, config.workers, nodes, config.connections_per_node);
        if room < config.max_connections as u64 && *told != Some(room) {
            *told = Some(room);
            tracing::warn!(
                "the limit of {files} open files leaves room for {room} client{} beside the connections to {nodes} node{}; \
                 --max-connections is {}: further clients wait until one leaves (raise the limit by `ulimit -n`)",
                plural(room),
                plural(nodes as u64),
                config.max_connections
            );
        }
        room
    }
}

const fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// So many nodes are connected to: those of the ring, and those that only the ring before has.
fn connected_to(topology: &Topology) -> usize {
    topology.nodes().len() + topology.old_nodes().count()
}

/// Readiness must not stop a rollout because the cache is not there.
async fn be_ready_after(wait: Duration, ready: Arc<AtomicBool>) {
    tokio::time::sleep(wait).await;
    if !ready.swap(true, Ordering::Relaxed) {
        tracing::warn!("slipring knows no nodes after --ready-timeout; /readyz is 200 now, so that a rollout goes on");
    }
}

/// Where auto-discovery clients are sent that may not understand where they are connected.
fn first_ipv4(listeners: &[Listener]) -> Option<SocketAddr> {
    let mut addresses = listeners.iter().filter_map(|listener| match listener.address() {
        ListenAddress::Tcp(SocketAddr::V4(address)) => Some(*address),
        _ => None,
    });
    let address = addresses.next()?;
    // "No address" is every one of this machine's.
    let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST } else { *address.ip() };
    Some((ip, address.port()).into())
}

fn settings(config: &Config, listeners: &[Listener]) -> Settings {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Settings {
        max_value: config.max_value,
        bulk_above: config.bulk_above,
        hot_keys: config.hot_keys,
        log_keys: config.log_keys,
        placed_by_key: !config.placement.is_by_hash(),
        slow_request: (!config.slow_request.is_zero()).then_some(config.slow_request),
        lanes: config.connections_per_node,
        drain_timeout: config.drain_timeout,
        connect_timeout: config.connect_timeout,
        request_timeout: config.request_timeout,
        queue_timeout: config.queue_timeout,
        buffer_limit: config.buffer_limit,
        deny_flush_all: config.deny_flush_all,
        flush_before: config.flush_before,
        merge_gets: config.merge_gets,
        on_node_down: config.on_node_down,
        started_at: unix.as_secs(),
        pid: std::process::id(),
        max_connections: config.max_connections,
        cpu_time,
        discovery_answer: match &config.answer_discovery {
            AnswerDiscovery::On => DiscoveryAnswer::Here(first_ipv4(listeners)),
            AnswerDiscovery::At(host, port) => DiscoveryAnswer::At(Arc::clone(host), *port),
            AnswerDiscovery::Off => DiscoveryAnswer::Off,
        },
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

/// The admin port is a convenience: taken, the data port serves on. Of several addresses the machine need not have all:
/// many a pod has IPv4 or IPv6 alone.
fn bind_admin(addresses: &[SocketAddr]) -> Vec<std::net::TcpListener> {
    let (mut bound, mut missing) = (Vec::new(), Vec::new());
    for address in addresses {
        match listener::bind(*address, "--admin-listen") {
            Ok(listener) => bound.push(listener),
            Err(error) if error.is_missing() => missing.push(error),
            Err(error) => tracing::warn!("{error}; going on without the admin endpoint there"),
        }
    }
    if bound.is_empty() {
        for error in missing {
            tracing::warn!("{error}; going on without the admin endpoint there");
        }
    }
    bound
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

fn banner(listen: &[ListenAddress], topology: &Topology, admin: Option<SocketAddr>, memory: u64) -> String {
    let nodes = topology.nodes();
    let names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
    let target = match listen.first() {
        Some(ListenAddress::Tcp(address)) => format!("{} {}", address.ip(), address.port()),
        Some(ListenAddress::Unix(path)) => format!("-U {}", path.display()),
        Some(ListenAddress::Localhost(_)) | None => String::new(),
    };
    let admin = admin.map_or_else(|| "off".to_owned(), |address| format!("http://127.0.0.1:{}/", address.port()));
    format!(
        "slipring {} in front of {} in-memory nodes of {} MiB\n\
         \x20 listens on  {}\n\
         \x20 nodes       {}\n\
         \x20 admin       {admin}\n\
         \x20 try         printf 'set k 0 0 5\\r\\nhello\\r\\nget k\\r\\nquit\\r\\n' | nc {target}\n",
        env!("CARGO_PKG_VERSION"),
        nodes.len(),
        memory >> 20,
        join(listen),
        names.join("  "),
    )
}

fn join(addresses: &[ListenAddress]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join("  ")
}
