//! From what is known of the nodes to the ring the workers use.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{BeforeView, Own, View, probe};
use crate::routing::{Before, Node, Placement, Published, Topology, TopologyError};
use crate::secured::Secured;
use crate::time::unix_seconds;

/// Longest wait for nodes that join, which are asked what they hold before the ring has them.
const JOINING: Duration = Duration::from_millis(500);
/// Most nodes that are asked.
const MOST_ASKED: usize = 64;

/// So many changes are remembered.
const REMEMBERED: usize = 10;

/// A change of the ring.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    /// Unix time, in seconds.
    pub at: u64,
    /// The number of the new ring.
    pub version: u64,
    /// Why, in one line.
    pub reason: String,
    /// Share of the key space that moved, 0 to 1.
    pub moved: f64,
    /// Nodes that joined with values in them; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<Joined>,
}

/// A node that joined a ring with values in it: some of them may be of a time when the node was in the ring before, or of
/// somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Joined {
    /// The node's name.
    pub node: String,
    /// How many values it had just before; other sidecars may have been faster, and stored some of them.
    pub items: u64,
}

/// What is kept in mind of the ring before.
#[derive(Clone, Copy, Debug, Default)]
pub struct BeforeFacts {
    /// Since when it is in its phase, in seconds of Unix time.
    pub since: u64,
    /// Share of the key space that has an old place, 0 to 1.
    pub moved: f64,
}

/// What happened to the list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Nodes came.
    Added,
    /// Nodes left.
    Removed,
    /// Some came, others left.
    Replaced,
    /// The same nodes have other weights or addresses.
    Edited,
}

impl Change {
    /// The labels, in the order of the numbers.
    const WORDS: [&'static str; 4] = ["added", "removed", "replaced", "edited"];

    fn between(old: &Topology, new: &Topology) -> Self {
        let lacks = |one: &Topology, other: &Topology| {
            let has = |name: &str| other.nodes().iter().any(|node| *node.name == *name);
            one.nodes().iter().any(|node| !has(&node.name))
        };
        match (lacks(new, old), lacks(old, new)) {
            (true, false) => Self::Added,
            (false, true) => Self::Removed,
            (true, true) => Self::Replaced,
            (false, false) => Self::Edited,
        }
    }
}

/// How the ring has changed.
#[derive(Debug, Default)]
pub struct History(Mutex<Past>);

#[derive(Debug, Default)]
struct Past {
    /// The last changes, the newest first.
    turns: VecDeque<Turn>,
    /// All changes after the first ring, by [`Change`].
    counts: [u64; 4],
    /// How often the source was read because an operator told so; the ring is what that made of it.
    reloads: u64,
    /// Why the last list made no ring; nothing if it did.
    refusal: Option<String>,
    /// Of the ring before.
    before: BeforeFacts,
}

impl History {
    fn past(&self) -> MutexGuard<'_, Past> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, turn: Turn, change: Option<Change>) {
        let mut past = self.past();
        past.refusal = None;
        past.turns.push_front(turn);
        past.turns.truncate(REMEMBERED);
        if let Some(count) = change.and_then(|change| past.counts.get_mut(change as usize)) {
            *count += 1;
        }
    }

    /// How often the source was read because an operator told so, as far as the ring shows it.
    pub fn reloads(&self) -> u64 {
        self.past().reloads
    }

    /// Why the last list that the source gave made no ring in the placement; nothing if it did.
    pub fn refusal(&self) -> Option<String> {
        self.past().refusal.clone()
    }

    /// Of the ring before, as long as there is one.
    pub fn before(&self) -> BeforeFacts {
        self.past().before
    }

    /// The last changes, the newest first.
    pub fn list(&self) -> Vec<Turn> {
        self.past().turns.iter().cloned().collect()
    }

    /// How often the ring has changed after the first one, by what happened to the list of nodes.
    pub fn counts(&self) -> [(&'static str, u64); 4] {
        let counts = self.past().counts;
        std::array::from_fn(|i| {
            (Change::WORDS.get(i).copied().unwrap_or_default(), counts.get(i).copied().unwrap_or(0))
        })
    }
}

/// Publishes each new ring in this placement, with the ring before beside it, and says in the log and in `history` what
/// changed and why. `ready` is set with the first. Nodes that join it later are asked, as they are `secured`, whether they
/// hold values; `own` is not, for it counts what its nodes have. Ends when the source does.
pub async fn follow(
    mut views: watch::Receiver<Arc<View>>,
    ring: Arc<Published>,
    placement: Arc<Placement>,
    ready: Arc<AtomicBool>,
    history: Arc<History>,
    secured: Secured,
    own: Own,
) {
    let mut generation = None;
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        if generation != Some(view.generation) && !view.nodes.is_empty() {
            generation = Some(view.generation);
            let joined = holding(joining(&view, &ring.load(), &own), &secured).await;
            if publish(&view, &ring, &placement, joined, &history) {
                ready.store(true, Ordering::Relaxed);
            }
        }
        history.past().reloads = view.source.reloads;
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Nodes that come to a ring that is there, and were in none that is known.
fn joining(view: &View, old: &Topology, own: &Own) -> Vec<Node> {
    if old.nodes().is_empty() {
        return Vec::new();
    }
    let is_known = |node: &Node| {
        let before = view.before.iter().flat_map(|before| &before.nodes);
        old.nodes().iter().map(|node| &**node).chain(before).any(|known| known.name == node.name)
    };
    view.nodes.iter().filter(|node| !is_known(node) && !own.is(node)).take(MOST_ASKED).cloned().collect()
}

/// Those of them that hold values, each told of.
async fn holding(nodes: Vec<Node>, secured: &Secured) -> Vec<Joined> {
    let mut asked = JoinSet::new();
    for node in nodes {
        let secured = secured.clone();
        asked.spawn(async move {
            let items = probe::items(&node, &secured, JOINING).await.filter(|items| *items > 0)?;
            Some(Joined { node: node.name.to_string(), items })
        });
    }
    let mut joined: Vec<Joined> = asked.join_all().await.into_iter().flatten().collect();
    joined.sort_unstable_by(|one, other| one.node.cmp(&other.node));
    for Joined { node, items } in &joined {
        tracing::warn!(
            node,
            items,
            "a node joined with values in it: clients may read old ones from it (send flush_all to such a node before it \
             joins)"
        );
    }
    joined
}

/// The ring before as the view has it, with what is known of its nodes.
fn before(view: &BeforeView, known: Option<&Arc<Before>>) -> Result<Arc<Before>, TopologyError> {
    let ring = Topology::placed(0, view.nodes.iter().cloned().map(Arc::new).collect(), &view.placement)?;
    let is_same =
        |known: &&Arc<Before>| known.ring().fingerprint() == ring.fingerprint() && known.ring().nodes() == ring.nodes();
    Ok(Arc::new(match known {
        Some(known) if is_same(&known) => known.in_phase(view.phase),
        Some(known) => known.followed_by(ring, view.phase),
        None => Before::new(ring, view.phase),
    }))
}

/// Tells what the ring before comes to, where that is another than it was, and keeps it in mind.
fn note_before(old: &Topology, new: &Topology, at: u64, history: &History) {
    let name = |topology: &Topology| topology.before().map(|before| (before.ring().fingerprint(), before.phase()));
    let Some(before) = new.before() else {
        history.past().before = BeforeFacts::default();
        return;
    };
    let moved = before.ring().moved(new);
    let (from, to) = (before.ring().name(), new.name());
    if new.is_as_before() {
        if !old.is_as_before() {
            tracing::info!(before = %from, "the ring before is the same as the ring in use: no key has an old place");
        }
    } else if name(old) != name(new) || old.fingerprint() != new.fingerprint() {
        let moved = format_args!("{:.1} %", 100.0 * moved);
        let phase = before.phase().word();
        tracing::info!(before = %from, now = %to, phase, %moved, "keys have an old place");
    }
    let mut past = history.past();
    past.before.moved = moved;
    if name(old) != name(new) {
        past.before.since = at;
    }
}

/// Builds the ring, if the nodes make one, on the control thread: a hundred nodes take some milliseconds, none of a worker's.
fn publish(view: &View, ring: &Published, placement: &Arc<Placement>, joined: Vec<Joined>, history: &History) -> bool {
    let old = ring.load();
    let built = Topology::placed(old.version() + 1, view.nodes.iter().cloned().map(Arc::new).collect(), placement);
    let built = built.and_then(|new| {
        let before = view.before.as_ref().map(|view| before(view, old.before())).transpose()?;
        Ok(new.with_before(before))
    });
    match built {
        Ok(new) => {
            // With the first ring no key moves: it had no place before. Nor does one where the ring before alone is another.
            let is_same = old.fingerprint() == new.fingerprint() && old.nodes() == new.nodes();
            let change = (!old.nodes().is_empty() && !is_same).then(|| Change::between(&old, &new));
            let moved = change.map_or(0.0, |_| old.moved(&new));
            if is_same {
                // Nothing moved. What it comes to is told by `note_before`.
                tracing::info!(
                    ring = %new.name(),
                    version = new.version(),
                    phase = new.before().map_or("none", |before| before.phase().word()),
                    reason = %view.reason,
                    "the ring before changed; the ring stays as it is"
                );
            } else {
                tracing::info!(
                    from = %old.name(),
                    to = %new.name(),
                    version = new.version(),
                    nodes = new.nodes().len(),
                    moved = %format_args!("{:.1} %", 100.0 * moved),
                    reason = %view.reason,
                    "ring changed"
                );
            }
            let at = unix_seconds(SystemTime::now());
            history.note(Turn { at, version: new.version(), reason: view.reason.clone(), moved, joined }, change);
            note_before(&old, &new, at, history);
            ring.publish(new);
            true
        }
        Err(error) => {
            tracing::error!(%error, reason = %view.reason, "the ring stays as it is");
            history.past().refusal = Some(error.to_string());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{Origin, Status};
    use crate::routing::NodeIndex;
    use crate::routing::Phase;

    fn view(nodes: Vec<Node>, generation: u64, before: Option<BeforeView>) -> View {
        View {
            nodes,
            generation,
            reason: "file".to_owned(),
            pending: Vec::new(),
            alike: Vec::new(),
            before,
            before_error: None,
            source: Status {
                source: "file /nodes".to_owned(),
                origin: Origin::Source,
                last_success: None,
                last_error: None,
                kind: "file",
                reads: generation,
                reloads: 0,
                failures: 0,
                changes: generation,
                holds: 0,
            },
        }
    }

    fn nodes(hosts: &[&str]) -> Vec<Node> {
        hosts.iter().map(|host| Node::new(host, 1, 1)).collect()
    }

    fn before_of(hosts: &[&str], phase: Phase) -> Option<BeforeView> {
        Some(BeforeView { nodes: nodes(hosts), placement: Arc::default(), phase, has_vanished: false })
    }

    #[test]
    fn a_list_that_makes_no_ring_is_kept_in_mind_until_one_does() {
        let view = |generation, weight| view(vec![Node::new("a", 1, 1), Node::new("b", 1, weight)], generation, None);
        let (ring, history) = (Published::new(Topology::unknown()), History::default());
        let placement = Arc::new("gomemcache".parse().unwrap());
        let publish = |view: &View| publish(view, &ring, &placement, Vec::new(), &history);
        assert!(publish(&view(1, 1)));
        assert_eq!(history.refusal(), None);
        assert!(!publish(&view(2, 3)));
        let refusal = history.refusal().unwrap();
        assert_eq!(refusal, "placement gomemcache has no weights, but b:1 has one");
        assert_eq!(ring.load().version(), 1, "the ring stays as it is");
        assert!(publish(&view(3, 1)));
        assert_eq!(history.refusal(), None);
    }

    #[test]
    fn a_change_is_what_happened_to_the_list() {
        let ring = |nodes: &[(&str, u32)]| {
            let node = |(host, weight): &(&str, u32)| Arc::new(Node::new(host, 1, *weight));
            Topology::new(1, nodes.iter().map(node).collect()).unwrap()
        };
        let old = ring(&[("a", 1), ("b", 1)]);
        for (new, change) in [
            (ring(&[("a", 1), ("b", 1), ("c", 1)]), Change::Added),
            (ring(&[("b", 1)]), Change::Removed),
            (ring(&[("b", 1), ("c", 1)]), Change::Replaced),
            (ring(&[("b", 1), ("a", 2)]), Change::Edited),
        ] {
            assert_eq!(Change::between(&old, &new), change);
        }
    }
    #[test]
    fn the_ring_before_goes_with_every_ring_and_keeps_what_is_known_of_its_nodes() {
        let (ring, history, placement) = (Published::new(Topology::unknown()), History::default(), Arc::default());
        let publish = |hosts: &[&str], before: Option<BeforeView>| {
            assert!(publish(&view(nodes(hosts), 1, before), &ring, &placement, Vec::new(), &history));
            ring.load()
        };
        let lost = |topology: &Topology| topology.before().unwrap().node(NodeIndex(0)).unwrap().has_reads_ended();
        let first = publish(&["a", "b"], before_of(&["a", "b"], Phase::Reading));
        assert_eq!((first.version(), history.before().moved), (1, 0.0));
        assert!(history.before().since > 0 && first.before().unwrap().node(NodeIndex(0)).unwrap().end_reads());
        let grown = publish(&["a", "b", "c"], before_of(&["a", "b"], Phase::Reading));
        assert!(lost(&grown) && (0.2..0.45).contains(&history.before().moved), "{:?}", history.before());
        assert_eq!(history.counts()[0], ("added", 1));
        // The ring before alone changes: a new publication, and no key moves.
        let ending = publish(&["a", "b", "c"], before_of(&["a", "b"], Phase::Ending));
        assert!(lost(&ending) && ending.before().unwrap().phase() == Phase::Ending);
        let turns = history.list();
        assert_eq!((turns[0].version, turns[0].moved, turns[1].moved > 0.2), (3, 0.0, true));
        assert_eq!(history.counts().iter().map(|(_, count)| count).sum::<u64>(), 1);
        assert!(lost(&publish(&["a", "b", "c"], before_of(&["a", "x"], Phase::Reading))), "of another list, too");
        assert!(publish(&["a", "b", "c"], None).before().is_none());
        assert!(history.before().moved == 0.0 && history.before().since == 0);
        assert!(!lost(&publish(&["a", "b", "c"], before_of(&["a"], Phase::Reading))), "begun anew");
    }

    #[test]
    fn those_that_join_are_new_to_the_ring_and_to_the_ring_before() {
        let names = |found: Vec<Node>| found.iter().map(|node| node.name.to_string()).collect::<Vec<_>>();
        let old = Topology::new(1, nodes(&["a", "b"]).into_iter().map(Arc::new).collect()).unwrap();
        let view = view(nodes(&["b", "c", "d"]), 2, before_of(&["d"], Phase::Reading));
        assert_eq!(names(joining(&view, &old, &Own::default())), ["c:1"]);
        assert!(joining(&view, &Topology::unknown(), &Own::default()).is_empty(), "the first ring");
    }
}
