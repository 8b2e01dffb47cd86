//! What is seen of the whole: node states, status, ring, hot keys. It is put together here, on the control thread, for
//! the admin endpoint; and each change of a node is told, once, whatever the number of workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use crate::admin::{Place, RingNode, RingReport};
use crate::config::Config;
use crate::discovery::View;
use crate::discovery::follow::History;
use crate::key_name::key_name;
use crate::log;
use crate::metrics::hot::HotKeys;
use crate::metrics::{Cells, NodeState, Sources};
use crate::proxy::ITSELF;
use crate::routing::{NodeIndex, Published, Topology};
use crate::time::{Tick, unix_seconds};

/// How the whole is, and since when; the control thread alone changes it.
#[derive(Debug)]
pub(super) struct Condition {
    ring: Arc<Published>,
    views: watch::Receiver<Arc<View>>,
    cells: Arc<Cells>,
    history: Arc<History>,
    /// `--max-connections` and `--buffer-limit`.
    limits: (usize, usize),
    hot_keys: bool,
    /// `--log-keys`
    log_keys: bool,
    /// `--placement`
    placement: String,
    /// `--instance`
    instance: Option<String>,
    /// The zero of the workers' time.
    started_at: Instant,
    now: Mutex<Now>,
}

/// What was seen when last looked, each since when in seconds of Unix time.
#[derive(Debug)]
struct Now {
    /// One word for the whole.
    status: (&'static str, u64),
    /// The nodes of the ring, by name.
    nodes: HashMap<Arc<str>, (NodeState, u64)>,
}

impl Condition {
    pub(super) fn new(
        ring: Arc<Published>,
        views: watch::Receiver<Arc<View>>,
        cells: Arc<Cells>,
        history: Arc<History>,
        config: &Config,
        started_at: Instant,
    ) -> Self {
        Self {
            ring,
            views,
            cells,
            history,
            limits: (config.max_connections, config.buffer_limit),
            hot_keys: config.hot_keys,
            log_keys: config.log_keys,
            placement: config.placement.to_string(),
            instance: config.instance.clone(),
            started_at,
            now: Mutex::new(Now { status: (UNHEALTHY, unix_seconds(SystemTime::now())), nodes: HashMap::new() }),
        }
    }

    /// What a scrape shows besides the workers' cells.
    pub(super) fn sources(&self) -> Sources {
        let (topology, view) = (self.ring.load(), Arc::clone(&self.views.borrow()));
        let nodes = topology.nodes().iter().zip(0..);
        let last = self.history.list().into_iter().next();
        let source = &view.source;
        let unchanged = source.reads.saturating_sub(source.failures + source.changes + source.holds);
        Sources {
            max_connections: self.limits.0,
            buffer_limit: self.limits.1,
            nodes: nodes.map(|(node, index)| (node.name.to_string(), topology.share(NodeIndex(index)))).collect(),
            fingerprint: topology.name(),
            version: topology.version(),
            placement: self.placement.clone(),
            changes: self.history.counts().to_vec(),
            changed_at: last.as_ref().map_or(0, |turn| turn.at),
            moved: last.map_or(0.0, |turn| turn.moved),
            source: source.kind,
            polls: vec![
                ("unchanged", unchanged),
                ("changed", source.changes),
                ("held", source.holds),
                ("error", source.failures),
            ],
            succeeded_at: source.last_success.map_or(0, unix_seconds),
            pending: view.pending.len(),
            log_lines_dropped: log::lines_dropped(),
        }
    }

    /// Looks again whenever a node or what is known of the nodes changes.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut views = self.views.clone();
        loop {
            drop(self.look());
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = self.cells.node_changed.notified() => {}
            }
        }
    }

    /// Looks at the nodes, tells of each that has changed, and returns what is seen.
    fn look(&self) -> MutexGuard<'_, Now> {
        let (topology, view) = (self.ring.load(), Arc::clone(&self.views.borrow()));
        self.cells.source_failures.set(view.source.failures);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut now.nodes);
        for node in topology.nodes() {
            let state = self.cells.node_state(&node.name);
            let (was, since) =
                before.get(&node.name).copied().unwrap_or((NodeState::default(), unix_seconds(SystemTime::now())));
            if state != was {
                tell(&node.name, state, self.problem(&node.name, state));
            }
            let since = if state == was { since } else { unix_seconds(SystemTime::now()) };
            now.nodes.insert(Arc::clone(&node.name), (state, since));
        }
        let word = status(&now.nodes, &view);
        if now.status.0 != word {
            now.status = (word, unix_seconds(SystemTime::now()));
        }
        now
    }

    /// What is wrong with a node, where that is known to be no fault of the node.
    fn problem(&self, node: &str, state: NodeState) -> Option<&'static str> {
        (state >= NodeState::Probing && self.cells.node_is_itself(node)).then_some(ITSELF)
    }

    pub(super) fn report(&self) -> RingReport {
        let seen = self.look();
        let (topology, view) = (self.ring.load(), Arc::clone(&self.views.borrow()));
        let nodes = topology.nodes().iter().zip(0..).map(|(node, index)| {
            let (state, since) = seen.nodes.get(&node.name).copied().unwrap_or_default();
            RingNode {
                name: node.name.to_string(),
                address: node.address(),
                weight: node.weight,
                share: topology.share(NodeIndex(index)),
                state: state.word(),
                since,
                problem: self.problem(&node.name, state),
            }
        });
        let now = tokio::time::Instant::now();
        RingReport {
            status: seen.status.0,
            since: seen.status.1,
            instance: self.instance.clone(),
            fingerprint: topology.name(),
            placement: self.placement.clone(),
            version: topology.version(),
            source: view.source.source.clone(),
            last_error: view.source.last_error.clone(),
            nodes: nodes.collect(),
            pending: view.pending.iter().map(|pending| pending.text(now)).collect(),
            changes: self.history.list(),
            arcs: arcs(&topology),
        }
    }

    /// Where a key lives; nothing before the first ring is known.
    pub(super) fn place(&self, key: &[u8]) -> Option<Place> {
        let topology = self.ring.load();
        let hash = Topology::hash(key);
        let node = topology.owner(key)?;
        Some(Place {
            key: key_name(hash, Some(key)),
            hash: key_name(hash, None),
            node: node.name.to_string(),
            address: node.address(),
            state: self.cells.node_state(&node.name).word(),
            fingerprint: topology.name(),
        })
    }

    pub(super) fn hot_keys(&self) -> HotKeys {
        if !self.hot_keys {
            return HotKeys::default();
        }
        let topology = self.ring.load();
        let name = |hash, key: Option<&[u8]>| {
            let index = topology.route_with(hash, || key.unwrap_or_default());
            topology.nodes().get(usize::from(index.0)).map(|node| node.name.to_string()).unwrap_or_default()
        };
        self.cells.hot_keys(Tick::default().after(self.started_at.elapsed()), self.log_keys, name)
    }
}

/// The one line about a node that has changed.
fn tell(node: &str, state: NodeState, problem: Option<&str>) {
    match state {
        NodeState::Up => tracing::info!(node, "node is up"),
        NodeState::Degraded => tracing::warn!(node, "node is degraded: some connections to it cannot be made"),
        NodeState::Connecting => tracing::info!(node, "connecting to node again"),
        NodeState::Probing => tracing::debug!(node, "node answers a probe"),
        NodeState::Down => match problem {
            Some(problem) => tracing::warn!(node, "node is down: {problem}"),
            None => tracing::warn!(node, "node is down"),
        },
    }
}

/// Who owns each of 360 equal slices of the key space, where the slice begins: an index into the nodes.
fn arcs(topology: &Topology) -> Vec<u16> {
    const SLICES: u32 = 360;
    let known = !topology.nodes().is_empty();
    known.then(|| topology.slices(SLICES)).into_iter().flatten().map(|node| node.0).collect()
}

const UNHEALTHY: &str = "unhealthy";

/// One word for the whole: `unhealthy` when no key can be had; `degraded` when some cannot, a node lacks connections, or
/// the source of nodes does not answer.
fn status(nodes: &HashMap<Arc<str>, (NodeState, u64)>, view: &View) -> &'static str {
    let down = nodes.values().filter(|(state, _)| *state >= NodeState::Probing).count();
    let short = nodes.values().any(|(state, _)| *state == NodeState::Degraded);
    if down == nodes.len() {
        UNHEALTHY
    } else if down > 0 || short || view.source.last_error.is_some() || !view.pending.is_empty() {
        "degraded"
    } else {
        "healthy"
    }
}
