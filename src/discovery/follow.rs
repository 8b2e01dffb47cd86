//! From what is known of the nodes to the ring the workers use.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use super::View;
use crate::routing::{Placement, Published, Topology};
use crate::time::unix_seconds;

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

/// Publishes each new ring in this placement, and says in the log and in `history` what changed and why. `ready` is set
/// with the first. Ends when the source does.
pub async fn follow(
    mut views: watch::Receiver<Arc<View>>,
    ring: Arc<Published>,
    placement: Arc<Placement>,
    ready: Arc<AtomicBool>,
    history: Arc<History>,
) {
    let mut generation = None;
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        if generation != Some(view.generation) && !view.nodes.is_empty() {
            generation = Some(view.generation);
            if publish(&view, &ring, &placement, &history) {
                ready.store(true, Ordering::Relaxed);
            }
        }
        history.past().reloads = view.source.reloads;
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Builds the ring, if the nodes make one, on the control thread: a hundred nodes take some milliseconds, none of a worker's.
fn publish(view: &View, ring: &Published, placement: &Arc<Placement>, history: &History) -> bool {
    let old = ring.load();
    match Topology::placed(old.version() + 1, view.nodes.iter().cloned().map(Arc::new).collect(), placement) {
        Ok(new) => {
            // With the first ring no key moves: it had no place before.
            let change = (!old.nodes().is_empty()).then(|| Change::between(&old, &new));
            let moved = change.map_or(0.0, |_| old.moved(&new));
            tracing::info!(
                from = %old.name(),
                to = %new.name(),
                version = new.version(),
                nodes = new.nodes().len(),
                moved = %format_args!("{:.1} %", 100.0 * moved),
                reason = %view.reason,
                "ring changed"
            );
            let at = unix_seconds(SystemTime::now());
            history.note(Turn { at, version: new.version(), reason: view.reason.clone(), moved }, change);
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
    use crate::routing::Node;

    #[test]
    fn a_list_that_makes_no_ring_is_kept_in_mind_until_one_does() {
        let view = |generation, weight| View {
            nodes: vec![Node::new("a", 1, 1), Node::new("b", 1, weight)],
            generation,
            reason: "file".to_owned(),
            pending: Vec::new(),
            alike: Vec::new(),
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
        };
        let (ring, history) = (Published::new(Topology::unknown()), History::default());
        let placement = Arc::new("gomemcache".parse().unwrap());
        assert!(publish(&view(1, 1), &ring, &placement, &history));
        assert_eq!(history.refusal(), None);
        assert!(!publish(&view(2, 3), &ring, &placement, &history));
        let refusal = history.refusal().unwrap();
        assert_eq!(refusal, "placement gomemcache has no weights, but b:1 has one");
        assert_eq!(ring.load().version(), 1, "the ring stays as it is");
        assert!(publish(&view(3, 1), &ring, &placement, &history));
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
}
