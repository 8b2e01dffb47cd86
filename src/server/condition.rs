//! What is seen of the whole: node states, status, ring, hot keys. It is put together here, on the control thread, for
//! the admin endpoint; and each change of a node is told, once, whatever the number of workers.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::told::Told;
use crate::admin::{BeforeNode, Place, RingBefore, RingNode, RingReport};
use crate::config::Config;
use crate::discovery::View;
use crate::discovery::follow::History;
use crate::key_name::key_name;
use crate::log;
use crate::metrics::history::HistoryReport;
use crate::metrics::hot::HotKeys;
use crate::metrics::{BeforeNumbers, Cells, NodeState, Sources};
use crate::routing::{Before, Node, NodeIndex, OldNode, Phase, Published, Topology};
use crate::secured::Secured;
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
    secured: Secured,
    /// The zero of the workers' time.
    started_at: std::time::Instant,
    now: Mutex<Now>,
}

/// What was seen when last looked, each since when in seconds of Unix time.
#[derive(Debug)]
struct Now {
    /// One word for the whole.
    status: (&'static str, u64),
    /// The nodes of the ring and of the ring before, by name.
    nodes: HashMap<Arc<str>, Seen>,
    /// When it is to be looked again, whatever changes meanwhile.
    look_at: Option<Instant>,
}

/// A node when last looked at.
#[derive(Clone, Debug, Default)]
struct Seen {
    state: NodeState,
    since: u64,
    told: Told,
}

impl Condition {
    pub(super) fn new(
        ring: Arc<Published>,
        views: watch::Receiver<Arc<View>>,
        cells: Arc<Cells>,
        history: Arc<History>,
        config: &Config,
        started_at: std::time::Instant,
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
            secured: config.secured.clone(),
            started_at,
            now: Mutex::new(Now {
                status: (UNHEALTHY, unix_seconds(SystemTime::now())),
                nodes: HashMap::new(),
                look_at: None,
            }),
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
            before: topology.before().map(|before| self.numbers_of(before)),
            tls: self.secured.numbers(|name| all_nodes(&topology).any(|node| *node.name == *name)),
        }
    }

    fn numbers_of(&self, before: &Before) -> BeforeNumbers {
        BeforeNumbers {
            state: before.phase().word(),
            fingerprint: before.ring().name(),
            placement: before.ring().placement().to_string(),
            moved: self.history.before().moved,
            nodes: before.ring().nodes().iter().map(|node| node.name.to_string()).collect(),
        }
    }

    /// Looks again whenever a node or what is known of the nodes changes.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut views = self.views.clone();
        loop {
            let look_at = self.look().look_at;
            let again = async {
                match look_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = self.cells.node_changed.notified() => {}
                () = again => {}
            }
        }
    }

    /// Looks at the nodes, tells of each that has changed, and returns what is seen.
    fn look(&self) -> MutexGuard<'_, Now> {
        let (topology, view) = (self.ring.load(), Arc::clone(&self.views.borrow()));
        self.cells.source_failures.set(view.source.failures);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut now.nodes);
        now.look_at = None;
        for node in all_nodes(&topology) {
            let state = self.cells.node_state(&node.name);
            let fresh = || Seen { since: unix_seconds(SystemTime::now()), ..Seen::default() };
            let mut seen = before.remove(&node.name).unwrap_or_else(fresh);
            if state != seen.state {
                (seen.state, seen.since) = (state, unix_seconds(SystemTime::now()));
            }
            let cause = state.has_cause().then(|| self.cells.node_cause(&node.name)).flatten();
            seen.told.tell(&node.name, state, cause.as_ref(), Instant::now());
            now.look_at = now.look_at.into_iter().chain(seen.told.due(state, cause.as_ref())).min();
            now.nodes.insert(Arc::clone(&node.name), seen);
        }
        let is_well = self.last_error(&view).is_none() && view.pending.is_empty();
        let word = self.status(&topology, &now.nodes, is_well);
        if now.status.0 != word {
            now.status = (word, unix_seconds(SystemTime::now()));
        }
        now
    }

    /// What is wrong with the last answer of the source: it is none, or makes no ring.
    fn last_error(&self, view: &View) -> Option<String> {
        let errors = [view.source.last_error.clone(), view.before_error.clone()];
        errors.into_iter().flatten().next().or_else(|| self.history.refusal())
    }

    pub(super) fn report(&self) -> RingReport {
        let seen = self.look();
        let (topology, view) = (self.ring.load(), Arc::clone(&self.views.borrow()));
        let nodes = topology.nodes().iter().zip(0..);
        let nodes = nodes.map(|(node, index)| self.report_node(node, topology.share(NodeIndex(index)), &seen));
        let now = Instant::now();
        RingReport {
            status: seen.status.0,
            since: seen.status.1,
            // The endpoint knows.
            draining: false,
            instance: self.instance.clone(),
            pid: std::process::id(),
            fingerprint: topology.name(),
            placement: self.placement.clone(),
            version: topology.version(),
            source: view.source.source.clone(),
            last_error: self.last_error(&view),
            reloads: self.history.reloads(),
            nodes: nodes.collect(),
            before: topology.before().map(|before| self.report_before(&topology, before, &view, &seen)),
            pending: view.pending.iter().map(|pending| pending.text(now)).collect(),
            alike: view.alike.clone(),
            changes: self.history.list(),
        }
    }

    fn report_node(&self, node: &Node, share: f64, seen: &Now) -> RingNode {
        let (state, since) = seen.nodes.get(&node.name).map(|seen| (seen.state, seen.since)).unwrap_or_default();
        RingNode {
            name: node.name.to_string(),
            address: node.address(),
            weight: node.weight,
            share,
            state: state.word(),
            since,
            cause: self.cells.node_cause(&node.name).filter(|_| state.has_cause()).map(|cause| cause.to_string()),
        }
    }

    fn report_before(&self, topology: &Topology, before: &Before, view: &View, seen: &Now) -> RingBefore {
        let (ring, facts) = (before.ring(), self.history.before());
        let nodes = ring.nodes().iter().zip(0..).map(|(node, index)| {
            let known = before.node(NodeIndex(index));
            BeforeNode {
                node: self.report_node(node, ring.share(NodeIndex(index)), seen),
                in_ring: topology.nodes().iter().any(|other| other.name == node.name),
                reads_ended: known.is_some_and(OldNode::has_reads_ended),
                gone: known.is_some_and(OldNode::is_gone),
            }
        });
        RingBefore {
            state: before.phase().word(),
            since: facts.since,
            // The view may be ahead of the ring.
            vanished: before.phase() == Phase::Ending && view.before.as_ref().is_some_and(|view| view.has_vanished),
            fingerprint: ring.name(),
            placement: ring.placement().to_string(),
            moved: facts.moved,
            nodes: nodes.collect(),
        }
    }

    /// One word for the whole: `unhealthy` when no key can be had; `degraded` when some cannot, a node lacks connections, an
    /// old place cannot be invalidated, or the source of nodes does not answer.
    fn status(&self, topology: &Topology, seen: &HashMap<Arc<str>, Seen>, source_is_well: bool) -> &'static str {
        let state =
            |node: &Node| seen.get(&node.name).map_or_else(|| self.cells.node_state(&node.name), |seen| seen.state);
        let nodes: Vec<NodeState> = topology.nodes().iter().map(|node| state(node)).collect();
        let is_gone = |index| topology.before().and_then(|before| before.node(index)).is_some_and(OldNode::is_gone);
        let old = topology.old_nodes().filter(|(index, _)| !is_gone(*index)).map(|(_, node)| state(node));
        status(&nodes, old, source_is_well)
    }

    /// Where a key lives; nothing before the first ring is known.
    pub(super) fn place(&self, key: &[u8]) -> Option<Place> {
        let topology = self.ring.load();
        let hash = Topology::hash(key);
        let node = topology.owner(key)?;
        let old = topology.old_place(topology.route(key), hash, || key);
        let old = old.and_then(|old| topology.before()?.ring().nodes().get(usize::from(old.0)));
        Some(Place {
            key: key_name(hash, Some(key)),
            hash: key_name(hash, None),
            node: node.name.to_string(),
            address: node.address(),
            state: self.cells.node_state(&node.name).word(),
            fingerprint: topology.name(),
            old_node: old.map(|node| node.name.to_string()),
            note: None,
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
        self.cells.hot_keys(self.tick(), self.log_keys, name)
    }

    /// What the charts of the page show.
    pub(super) fn minutes(&self) -> HistoryReport {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The page needs no microseconds.
        self.cells.history(self.tick(), (unix.as_secs_f64() * 1e3).round() / 1e3)
    }

    /// The workers' time.
    fn tick(&self) -> Tick {
        Tick::default().after(self.started_at.elapsed())
    }
}

const UNHEALTHY: &str = "unhealthy";

/// The nodes of the ring, and those that only the ring before has.
fn all_nodes(topology: &Topology) -> impl Iterator<Item = &Arc<Node>> {
    topology.nodes().iter().chain(topology.old_nodes().map(|(_, node)| node))
}

/// See [`Condition::status`]; of nodes of the ring, and of those that only the ring before has.
fn status(nodes: &[NodeState], mut old: impl Iterator<Item = NodeState>, source_is_well: bool) -> &'static str {
    let is_down = |state: &NodeState| *state >= NodeState::Probing;
    let down = nodes.iter().filter(|state| is_down(state)).count();
    let short = nodes.contains(&NodeState::Degraded);
    if down == nodes.len() {
        UNHEALTHY
    } else if down > 0 || short || !source_is_well || old.any(|state| is_down(&state) || state == NodeState::Degraded) {
        "degraded"
    } else {
        "healthy"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NodeState::{Connecting, Degraded, Down, Up};

    #[test]
    fn an_old_node_that_is_down_degrades_and_nothing_more() {
        for (nodes, old, source_is_well, expected) in [
            (&[Up, Up][..], &[][..], true, "healthy"),
            (&[Up, Connecting], &[Up], true, "healthy"),
            (&[Up, Up], &[Down], true, "degraded"),
            (&[Up, Degraded], &[], true, "degraded"),
            (&[Up, Down], &[Up], true, "degraded"),
            (&[Up], &[], false, "degraded"),
            (&[Down, Down], &[Up], true, "unhealthy"),
            (&[], &[Up], true, "unhealthy"),
        ] {
            assert_eq!(status(nodes, old.iter().copied(), source_is_well), expected, "{nodes:?} {old:?}");
        }
    }
}
