//! Puts the parts together: start order and stop order.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Command, Config};
use crate::listener::{self, Acceptor, BindError};
use crate::metrics::Cells;
use crate::proxy::Settings;
use crate::routing::{Node, Topology, TopologyError};
use crate::worker;

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

/// Runs until told to stop.
///
/// # Errors
/// When something needed at the start is missing.
pub fn run(config: Config) -> Result<(), RunError> {
    #[expect(clippy::disallowed_methods, reason = "the zero of the core's time")]
    let started = Instant::now();
    let listeners = listener::bind_all(&config.listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(config, listeners, started))
}

async fn serve(
    config: Config,
    listeners: Vec<std::net::TcpListener>,
    started: Instant,
) -> Result<(), RunError> {
    let nodes: Vec<Node> = match &config.command {
        Command::Serve { nodes } => nodes.clone(),
        Command::Dev { .. } => Vec::new(),
    };
    let topology = Arc::new(Topology::new(1, nodes.into_iter().map(Arc::new).collect())?);
    let cells = Arc::new(Cells::new(config.workers, topology.nodes().len()));
    let parts = worker::Parts {
        topology: Arc::clone(&topology),
        settings: settings(&config),
        cells: Arc::clone(&cells),
        connect_timeout: config.connect_timeout,
        started,
    };
    let workers = (0..config.workers)
        .map(|index| worker::spawn(index, parts.clone()))
        .collect::<io::Result<Vec<_>>>()?;
    let acceptor = Arc::new(Acceptor {
        workers: workers.iter().map(|worker| worker.sender.clone()).collect(),
        cells: Arc::clone(&cells),
        max_connections: config.max_connections,
    });
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(Arc::clone(&acceptor).run(listener));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn settings(config: &Config) -> Settings {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Settings {
        max_value: config.max_value,
        lanes: config.connections_per_node,
        deny_flush_all: config.deny_flush_all,
        merge_gets: config.merge_gets,
        on_node_down: config.on_node_down,
        started_at: unix.as_secs(),
        pid: std::process::id(),
        max_connections: config.max_connections,
        seed: unix.as_nanos().try_into().unwrap_or(1) ^ u64::from(std::process::id()),
    }
}
