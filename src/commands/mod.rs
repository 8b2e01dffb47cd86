//! What the operator runs beside the sidecar: `check`, `locate`, `placements`, `detect`, `plan`, `reload`, `completions`,
//! `man`. Each prints and ends.

pub mod before;
pub mod check;
pub mod detect;
pub mod dump;
pub mod edits;
mod endpoint;
mod keys;
pub mod locate;
pub mod placements;
pub mod plan;
pub mod reload;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{self, Command, Config, Detect};
use crate::discovery::{self, Declared, Options, Source};
use crate::phrase;
use crate::routing::{Before, Node, NodeIndex, Phase, Placement, Plan, Topology, TopologyError};
use detect::Findings;
use dump::{Bounds, Held};
use edits::Places;

/// Between two lines about progress on a terminal.
const PROGRESS: Duration = Duration::from_millis(200);

/// Most keys that are read from a file.
const MAX_KEYS: usize = 10_000_000;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The source gave no list of nodes.
    #[error("{}", discovery::blamed(.source_name, .problem))]
    Source {
        /// The source as it shows itself.
        source_name: String,
        /// What it said.
        problem: String,
    },
    /// A node is not well; the table says which.
    #[error("{0} of {all} failed", all = counted(*.1, "node"))]
    Unwell(usize, usize),
    /// The nodes make no ring.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// There was no reload, or none that is known of.
    #[error(transparent)]
    Reload(#[from] reload::ReloadError),
    /// Neither arguments nor a file nor a pipe.
    #[error("no keys: name some, or give them on standard input, one a line")]
    NoKeys,
    /// A key that no client could store, and why.
    #[error("{}: {}", phrase::quoted(.0), .1)]
    Key(String, String),
    /// So many keys; what is wrong with them has been told.
    #[error("{0} keys are refused")]
    Refused(u64),
    /// The same of a line, by its number.
    #[error("line {0}: {1}")]
    Line(u64, String),
    /// A file and the option that names it, and what is wrong with it.
    #[error("{0}: {1}")]
    File(String, String),
    /// Some nodes could not be read, and the others have no key: how many, of how many, and which.
    #[error(
        "{0} of {all} could not be read, and there is no key on the others: nothing can be detected (--keys FILE asks \
         for the keys in a file): {2}",
        all = counted(*.1, "node")
    )]
    NothingRead(usize, usize, String),
    /// The nodes told of no key.
    #[error("the nodes hold no key: nothing can be detected")]
    NothingHeld,
    /// No node holds a key of the file.
    #[error("no node has any of the keys of {0}: nothing can be detected")]
    NothingKnown(String),
    /// Too few keys, or those of one node alone.
    #[error("these keys tell too little, so the result is uncertain")]
    TooFew,
    /// No placement.
    #[error("no placement explains where the keys are")]
    Unexplained,
    /// Another placement than the one that was to be verified.
    #[error("placement {0} put {1} of the keys where they are, less than {2}")]
    Unverified(String, String, String),
    /// The placement that was to be verified, with the nodes in another order.
    #[error(
        "placement {placement} depends on the order of the nodes, and the list is not in the client's order: in this order \
         it puts {share} of the keys where they are, less than {min}; with --node-order {order} it is {reordered}"
    )]
    Misordered {
        /// The placement as it was named.
        placement: String,
        /// What it explains in the given order, in percent.
        share: String,
        /// What it had to, in percent.
        min: String,
        /// The client's order, as `--node-order` takes it.
        order: String,
        /// What it explains in that, in percent.
        reordered: String,
    },
    /// Some nodes could not be read, or broke off: how many, of how many, and which.
    #[error("{0} of {all} could not be read, so the result is uncertain: {2}", all = counted(*.1, "node"))]
    Unread(usize, usize, String),
    /// No runtime, or nobody to print to.
    #[error("{}", phrase::of(.0))]
    Io(#[from] io::Error),
}

/// Runs the command of `config`, printing to `out`. `None` when it is the server that is to run. That nobody reads on is
/// no error.
///
/// # Errors
/// When the command fails: it has said why, or the error does.
pub fn run(config: &Config, out: &mut impl io::Write) -> Option<Result<(), CommandError>> {
    let options = &config.discovery;
    let done = match &config.command {
        Command::Serve { .. } | Command::Dev { .. } => return None,
        Command::Check { source } => check(source, config, out),
        Command::Locate { source, keys, json } => {
            topology(source, options, &config.placement).and_then(|topology| locate::run(&topology, keys, *json, out))
        }
        Command::Placements => out.write_all(placements::table().as_bytes()).map_err(CommandError::from),
        Command::Detect { source, how } => detect(source, options, &config.placement, how, out),
        Command::Plan { from, is_source, to, to_placement, keys } => {
            let to_placement = to_placement.as_ref().unwrap_or(&config.placement);
            let admin_port = config.admin_listen.first().map(SocketAddr::port).filter(|port| *port != 0);
            let places = Places::new(is_source.then_some(from), &options.before)
                .with_admin_port(admin_port.unwrap_or(config::ADMIN_PORT));
            plan((from, &places), to.as_deref(), options, (&config.placement, to_placement), keys.as_deref(), out)
        }
        Command::Completions { shell } => config::completions(*shell, out).map_err(CommandError::from),
        Command::Manual { command } => config::manual(command.as_deref(), out).map_err(CommandError::from),
        Command::Reload { pid } => reload(*pid, out),
    };
    Some(match done {
        Err(CommandError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    })
}

/// As long as the sidecar waits, where that was said: what it would give up on is not well.
fn patience(config: &Config) -> check::Patience {
    let given = |option, value| config.is_given(option).then_some(value);
    let default = check::Patience::default();
    check::Patience {
        connect: given("connect-timeout", config.connect_timeout).unwrap_or(default.connect),
        answer: given("request-timeout", config.request_timeout).unwrap_or(default.answer),
    }
}

fn check(source: &Source, config: &Config, out: &mut impl io::Write) -> Result<(), CommandError> {
    let (runtime, options, patience) = (runtime()?, &config.discovery, patience(config));
    let (nodes, declared) = runtime.block_on(read(source, options))?;
    writeln!(out, "source: {source}")?;
    let findings = runtime.block_on(check::run(&nodes, &options.secured, patience));
    out.write_all(check::table(&findings).as_bytes())?;
    let told = match config.admin_listen.first() {
        Some(admin) => runtime.block_on(before::ask(*admin)),
        None => Err("--admin-listen is off".to_owned()),
    };
    let now = built(&nodes, &config.placement)?;
    if let Some(declared) = declared {
        let now = now.with_before(Some(Arc::new(Before::new(declared.topology()?, declared.phase))));
        let old: Vec<Node> = now.old_nodes().map(|(_, node)| Node::clone(node)).collect();
        let found = runtime.block_on(check::run(&old, &options.secured, patience));
        out.write_all(before::report(&declared, (&declared.topology()?, &now), &found, &told).as_bytes())?;
    } else {
        out.write_all(before::report_of_none(&now, &told).as_bytes())?;
    }
    match findings.iter().filter(|finding| finding.fault.is_some()).count() {
        0 => Ok(()),
        failed => Err(CommandError::Unwell(failed, findings.len())),
    }
}

fn reload(pid: Option<i32>, out: &mut impl io::Write) -> Result<(), CommandError> {
    let outcome = runtime()?.block_on(reload::run(pid))?;
    Ok(writeln!(out, "{outcome}")?)
}

fn topology(source: &Source, options: &Options, placement: &Placement) -> Result<Topology, CommandError> {
    let nodes = runtime()?.block_on(nodes(source, options))?;
    Ok(built(&nodes, placement)?)
}

fn built(nodes: &[Node], placement: &Placement) -> Result<Topology, TopologyError> {
    Topology::placed(1, nodes.iter().cloned().map(Arc::new).collect(), &Arc::new(placement.clone()))
}

fn plan(
    (source, places): (&Source, &Places),
    to: Option<&[Node]>,
    options: &Options,
    (before, after): (&Placement, &Placement),
    keys: Option<&Path>,
    out: &mut impl io::Write,
) -> Result<(), CommandError> {
    let (from, declared) = runtime()?.block_on(read(source, options))?;
    // In the order that a sidecar would have them in.
    let known = match source {
        Source::Static(_) | Source::File(_) => &[][..],
        Source::Endpoint { .. } | Source::Dns { .. } | Source::Srv { .. } => &from,
    };
    let pins = if options.pinned.is_empty() { known } else { &options.pinned };
    let to = to.unwrap_or(&from);
    let (old, new) = (built(&from, before)?, built(&discovery::arranged(to.to_vec(), pins), after)?);
    let plan = match keys {
        Some(path) => Plan::of_keys(&old, &new, keys::file(path, MAX_KEYS)?.into_iter()),
        None => Plan::between(&old, &new, plan::SAMPLES),
    };
    let is_in_use = match &declared {
        Some(declared) => declared.topology()?.fingerprint() == old.fingerprint(),
        None => false,
    };
    let change = edits::Change { places, nodes: (&from, to), placements: (before, after) };
    let report = plan::report(&plan, before, after);
    let text = match declared {
        None => report + &change.report(&plan),
        Some(declared) if plan.moves_nothing() => {
            let left = if change.is_none() { change.left(&declared, is_in_use) } else { String::new() };
            report + &change.report(&plan) + &left
        }
        Some(declared) if declared.phase == Phase::Reading && is_in_use => {
            format!("edit 1 below is done already: the ring before is {declared}\n\n{report}{}", change.report(&plan))
        }
        // The edits of this change would replace it.
        Some(declared) => report + &change.after(&declared, is_in_use),
    };
    Ok(out.write_all(text.as_bytes())?)
}

fn detect(
    source: &Source,
    options: &Options,
    placement: &Placement,
    how: &Detect,
    out: &mut impl io::Write,
) -> Result<(), CommandError> {
    let known = how.keys.as_deref().map(|path| keys::file(path, MAX_KEYS)).transpose()?.unwrap_or_default();
    let runtime = runtime()?;
    let nodes: Vec<Arc<Node>> = runtime.block_on(nodes(source, options))?.into_iter().map(Arc::new).collect();
    let bounds = Bounds {
        keys: how.limit,
        ends_at: runtime.block_on(async { Instant::now() }) + how.time,
        known: Arc::new(known),
        progress: Arc::default(),
        secured: options.secured.clone(),
    };
    let reads = runtime.block_on(read_all(&nodes, &bounds));
    out.write_all(detect::readings(&reads).as_bytes())?;
    let unread: Vec<String> = reads.iter().filter(|read| read.is_unread).map(|read| read.node.clone()).collect();
    let absent: Vec<u16> = reads
        .iter()
        .zip(0..)
        .filter(|(read, _)| read.is_unread && read.keys.is_empty())
        .map(|(_, index)| index)
        .collect();
    let of_node =
        |(read, index): (dump::Read, u16)| read.keys.into_iter().map(move |key| Held { key, node: NodeIndex(index) });
    let held: Vec<Held> = reads.into_iter().zip(0..).flat_map(of_node).collect();
    if held.is_empty() {
        return Err(match &how.keys {
            _ if !unread.is_empty() => CommandError::NothingRead(unread.len(), nodes.len(), unread.join(", ")),
            Some(path) => CommandError::NothingKnown(path.display().to_string()),
            None => CommandError::NothingHeld,
        });
    }
    let verify = how.verify.as_ref().map(|verify| verify.clone().with_names_of(placement));
    let named: Vec<&Placement> = verify.iter().chain((!placement.is_by_hash()).then_some(placement)).collect();
    let findings = Findings::of(&held, &nodes, &named, placement);
    write!(out, "\n{}", findings.report(nodes.len(), &unread))?;
    if !findings.is_plausible() && !absent.is_empty() {
        let read: Vec<Arc<Node>> = nodes
            .iter()
            .zip(0..)
            .filter(|(_, index)| !absent.contains(index))
            .map(|(node, _)| Arc::clone(node))
            .collect();
        let held = detect::renumbered(&held, &nodes, &read);
        let without = Findings::of(&held, &read, &named, placement).report_without(&unread);
        out.write_all(without.unwrap_or_default().as_bytes())?;
    }
    // What they hold may tell of another placement.
    let certain = match unread.len() {
        0 if findings.tell_little(nodes.len()) => Err(CommandError::TooFew),
        0 if nodes.len() > 1 && !findings.is_plausible() => Err(CommandError::Unexplained),
        0 => Ok(()),
        count => Err(CommandError::Unread(count, nodes.len(), unread.join(", "))),
    };
    let Some(verify) = verify else { return certain };
    let share = findings.of_placement(&verify, &held, &nodes);
    if share >= how.min {
        certain?;
        return Ok(writeln!(out, "verified: {verify} {}", detect::percent(share))?);
    }
    let (placement, share, min) = (verify.to_string(), detect::percent(share), detect::percent(how.min));
    Err(match findings.in_another_order(&verify, how.min) {
        None => CommandError::Unverified(placement, share, min),
        Some((order, reordered)) => {
            CommandError::Misordered { placement, share, min, order, reordered: detect::percent(reordered) }
        }
    })
}

/// Reads all nodes at once, and tells on a terminal how far it is.
async fn read_all(nodes: &[Arc<Node>], bounds: &Bounds) -> Vec<dump::Read> {
    let tasks: Vec<_> = nodes.iter().map(|node| tokio::spawn(dump::read(Arc::clone(node), bounds.clone()))).collect();
    let told = tokio::spawn(tell_progress(bounds.clone()));
    let mut reads = Vec::with_capacity(tasks.len());
    for (task, node) in tasks.into_iter().zip(nodes) {
        let failed = |error: tokio::task::JoinError| dump::Read {
            node: node.name.to_string(),
            keys: Vec::new(),
            remark: Some(error.to_string()),
            is_unread: true,
        };
        reads.push(task.await.unwrap_or_else(failed));
    }
    told.abort();
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    reads
}

async fn tell_progress(bounds: Bounds) {
    if !io::stderr().is_terminal() {
        return;
    }
    loop {
        tokio::time::sleep(PROGRESS).await;
        let read = bounds.progress.load(Ordering::Relaxed);
        let _ = write!(io::stderr(), "\r{} keys read", plan::grouped(read as u64));
    }
}

async fn nodes(source: &Source, options: &Options) -> Result<Vec<Node>, CommandError> {
    read(source, options).await.map(|(nodes, _)| nodes)
}

/// The nodes, and the ring before.
async fn read(source: &Source, options: &Options) -> Result<(Vec<Node>, Option<Declared>), CommandError> {
    let read = discovery::read_once(source, options).await;
    read.map_err(|problem| CommandError::Source { source_name: source.to_string(), problem })
}

/// A number of things in words: `1 node`, `1,024 nodes`.
fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", plan::grouped(number as u64))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
