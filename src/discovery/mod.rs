//! Who are the nodes? One source is asked again and again; what it says becomes the ring by the rules of
//! [`damping`], and is published as a [`View`].
//!
//! A source that fails, answers nonsense or answers nothing changes nothing (invariant E).

pub mod before;
mod control;
pub mod damping;
mod declaration;
mod dns;
pub mod endpoint;
mod file;
pub mod follow;
mod jitter;
mod names;
mod nodes;
mod order;
mod own;
pub mod probe;
mod slips;
pub mod snapshot;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::routing::{Node, Phase, Placement};
use crate::secured::Secured;
pub use before::{BeforeSource, Declared};
pub use damping::{Authority, Pending};
pub use nodes::{NodeListError, is_service_link, parse_nodes, parse_server};
pub use order::{arranged, unlisted};
pub use own::Own;
pub use slips::Variables;

/// Where the list of nodes comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A list that never changes; at least one, all different. Only where its names point may.
    Static(Vec<Node>),
    /// A file, or a directory with the keys `MEMCACHED_NODES` and `MEMCACHED_PORT`.
    File(PathBuf),
    /// A discovery endpoint.
    Endpoint {
        /// Host name or address, IPv6 without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// The ring until it answers; may be empty.
        first: Vec<Node>,
    },
    /// Each address of a name is a node.
    Dns {
        /// The name.
        name: String,
        /// The port of each.
        port: u16,
    },
    /// Each target of the SRV records of a name is a node.
    Srv {
        /// The name, such as `_memcache._tcp.cache.default.svc.cluster.local`.
        name: String,
    },
}

/// How the source is asked, and how it is believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Between two questions to a discovery endpoint, give or take a fifth. A DNS name is asked when its TTL has
    /// ended, but not before half of this and not after three times this.
    pub interval: Duration,
    /// How long a node that is no longer listed stays in the ring.
    pub removal_hold: Duration,
    /// Port of nodes named without one, in a file.
    pub node_port: u16,
    /// Where the last good ring is kept.
    pub state_dir: Option<PathBuf>,
    /// Longest wait for the source, per question.
    pub timeout: Duration,
    /// Longest wait for a node that is probed.
    pub probe_timeout: Duration,
    /// Between two reads of a file.
    pub file_interval: Duration,
    /// How much later a file that changed is read again, to be believed.
    pub file_confirm: Duration,
    /// Between two resolutions of the host names in a list or file, give or take a fifth.
    pub resolve_interval: Duration,
    /// Name servers; those of the system when empty.
    pub name_servers: Vec<SocketAddr>,
    /// Nodes that come first, in this order and under these names, whoever lists them.
    pub pinned: Vec<Node>,
    /// A list of nothing but these is no list.
    pub own: Own,
    /// Whether discovery keeps the order in which nodes came to be known: the placement counts them.
    pub keep_order: bool,
    /// Where keys are placed: a list that makes no ring there is not kept as the last good one.
    pub placement: Arc<Placement>,
    /// How a discovery endpoint, and nodes that are probed, are spoken to.
    pub secured: Secured,
    /// Where the ring before a planned change is declared.
    pub before: BeforeSource,
    /// Where keys lived, where a file does not say it.
    pub placement_before: Arc<Placement>,
    /// Variables that a mounted ConfigMap may hold, too.
    pub variables: Arc<Variables>,
}

/// What others may ask of the discovery, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Triggers {
    /// Read the source now and believe it at once: an operator's SIGHUP.
    pub reload: Arc<Notify>,
    /// Ask again soon: a connection to a node failed, so its address may have changed.
    pub resolve: Arc<Notify>,
}

/// What is known of the nodes.
#[derive(Debug, Clone)]
pub struct View {
    /// The ring as it should be now; empty only while none is known yet. Nodes keep their names while only the
    /// address that is dialled changes.
    pub nodes: Vec<Node>,
    /// Moves whenever `nodes` changes.
    pub generation: u64,
    /// Why it changed last, in one line.
    pub reason: String,
    /// What is in the ring and no longer listed, oldest first.
    pub pending: Vec<Pending>,
    /// Nodes of a list that are one server, a line each.
    pub alike: Vec<String>,
    /// The ring before a planned change, as long as it is in use.
    pub before: Option<BeforeView>,
    /// What was wrong when the file of the ring before was last read, if it has one of its own.
    pub before_error: Option<String>,
    /// How the source does.
    pub source: Status,
}

/// The ring before, as it is used now.
#[derive(Debug, Clone, PartialEq)]
pub struct BeforeView {
    /// At least one, each dialled where it is.
    pub nodes: Vec<Node>,
    /// Where keys lived.
    pub placement: Arc<Placement>,
    /// What old places are used for.
    pub phase: Phase,
    /// It is not declared any more, and was not ending.
    pub has_vanished: bool,
}

/// How a source does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The source, as it shows itself.
    pub source: String,
    /// Where the ring came from.
    pub origin: Origin,
    /// When it last gave a list that counts.
    pub last_success: Option<SystemTime>,
    /// What was wrong with its last answer; `None` after a good one.
    pub last_error: Option<String>,
    /// What kind of source it is: `list`, `file`, `endpoint`, `dns` or `srv`.
    pub kind: &'static str,
    /// How often it was asked.
    pub reads: u64,
    /// How often because an operator told it to.
    pub reloads: u64,
    /// How often it gave no list that counts.
    pub failures: u64,
    /// How often its list changed the ring, and how often it did not for a node that is held.
    pub changes: u64,
    /// See `changes`.
    pub holds: u64,
}

/// Where the ring came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// None is known yet.
    Nowhere,
    /// The list that stands in until the source answers.
    FirstList,
    /// The last good ring of an earlier run.
    Snapshot,
    /// The source.
    Source,
}

/// A list as a source gave it.
#[derive(Debug, Clone)]
struct Observation {
    /// At least one.
    nodes: Vec<Node>,
    authority: Authority,
    /// What gave it, for the reason of a change.
    why: String,
    /// How long it lasts, if it said so.
    ttl: Option<Duration>,
    /// The ring before, where the source says that, too.
    before: Option<Declared>,
}

/// Follows a source until `stop`, as a task on the caller's runtime. The first view is there at once: with the list
/// that was given, the last good ring, or without nodes.
///
/// Must be called within a tokio runtime.
#[must_use]
pub fn start(
    source: Source,
    options: Options,
    triggers: Triggers,
    stop: CancellationToken,
) -> watch::Receiver<Arc<View>> {
    let (control, view) = control::Control::new(source, options, triggers);
    tokio::spawn(stop.run_until_cancelled_owned(control.run()));
    view
}

/// Asks a source once, and takes what it says as it is: the nodes, and the ring before.
///
/// # Errors
/// One line that says what was wrong with its answer.
pub async fn read_once(source: &Source, options: &Options) -> Result<(Vec<Node>, Option<Declared>), String> {
    let before = match &options.before {
        BeforeSource::WithNodes => None,
        BeforeSource::List(declared) => Some(declared.clone()),
        BeforeSource::File(_, declared) => declared.clone()?,
    };
    let read = control::Reader::new(source, options).read(true, options).await?;
    Ok((read.nodes, before.or(read.before)))
}

/// What is wrong with a source, as it shows itself, or with the ring before beside it: in a line that names what is to be
/// mended.
#[must_use]
pub fn blamed(source: &str, problem: &str) -> String {
    if problem.starts_with(before::OWN_FILE) { problem.to_owned() } else { format!("{source}: {problem}") }
}

// === impl Source ===

impl Source {
    /// What kind of source it is, in one word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Static(_) => "list",
            Self::File(_) => "file",
            Self::Endpoint { .. } => "endpoint",
            Self::Dns { .. } => "dns",
            Self::Srv { .. } => "srv",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(_) => f.write_str("list"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Endpoint { host, port, .. } if host.contains(':') => write!(f, "discovery endpoint [{host}]:{port}"),
            Self::Endpoint { host, port, .. } => write!(f, "discovery endpoint {host}:{port}"),
            Self::Dns { name, port } => write!(f, "DNS {name}:{port}"),
            Self::Srv { name } => write!(f, "DNS srv:{name}"),
        }
    }
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            removal_hold: Duration::from_secs(30),
            node_port: 11211,
            state_dir: None,
            timeout: Duration::from_secs(2),
            probe_timeout: Duration::from_secs(1),
            file_interval: Duration::from_secs(1),
            file_confirm: Duration::from_millis(200),
            resolve_interval: Duration::from_secs(30),
            name_servers: Vec::new(),
            pinned: Vec::new(),
            own: Own::default(),
            keep_order: false,
            placement: Arc::default(),
            secured: Secured::default(),
            before: BeforeSource::default(),
            placement_before: Arc::default(),
            variables: Arc::default(),
        }
    }
}
