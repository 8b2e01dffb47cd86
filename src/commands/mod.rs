//! What the operator runs beside the sidecar: `check`, `locate`, `reload`. Each prints and ends.

pub mod check;
pub mod locate;
pub mod reload;

use std::io;

use crate::config::{Command, Config};
use crate::discovery::{self, Options, Source};
use crate::routing::{Node, Topology, TopologyError};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The source gave no list of nodes.
    #[error("{source_name}: {problem}")]
    Source {
        /// The source as it shows itself.
        source_name: String,
        /// What it said.
        problem: String,
    },
    /// A node is not well; the table says which.
    #[error("{0} of {1} nodes failed")]
    Unwell(usize, usize),
    /// The nodes make no ring.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The signal could not be sent.
    #[error(transparent)]
    Reload(#[from] reload::ReloadError),
    /// No runtime, or nobody to print to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the command of `config`, printing to `out`. `None` when it is the server that is to run.
///
/// # Errors
/// When the command fails: it has said why, or the error does.
pub fn run(config: &Config, out: &mut impl io::Write) -> Option<Result<(), CommandError>> {
    match &config.command {
        Command::Serve { .. } | Command::Dev { .. } => None,
        Command::Check { source } => Some(check(source, &config.discovery, out)),
        Command::Locate { source, keys } => Some(locate(source, &config.discovery, keys, out)),
        Command::Reload { pid } => Some(reload::run(*pid).map_err(CommandError::from)),
    }
}

fn check(source: &Source, options: &Options, out: &mut impl io::Write) -> Result<(), CommandError> {
    let runtime = runtime()?;
    let nodes = runtime.block_on(nodes(source, options))?;
    writeln!(out, "source: {source}")?;
    let findings = runtime.block_on(check::run(&nodes));
    out.write_all(check::table(&findings).as_bytes())?;
    match findings.iter().filter(|finding| finding.fault.is_some()).count() {
        0 => Ok(()),
        failed => Err(CommandError::Unwell(failed, findings.len())),
    }
}

fn locate(source: &Source, options: &Options, keys: &[String], out: &mut impl io::Write) -> Result<(), CommandError> {
    let nodes = runtime()?.block_on(nodes(source, options))?;
    let topology = Topology::new(1, nodes.into_iter().map(Into::into).collect())?;
    Ok(out.write_all(locate::table(&topology, keys).as_bytes())?)
}

async fn nodes(source: &Source, options: &Options) -> Result<Vec<Node>, CommandError> {
    if let Source::Static(nodes) = source {
        return Ok(nodes.clone());
    }
    let read = discovery::read_once(source, options).await;
    read.map_err(|problem| CommandError::Source { source_name: source.to_string(), problem })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
