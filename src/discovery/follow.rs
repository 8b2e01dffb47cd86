//! From what is known of the nodes to the ring the workers use.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;

use super::View;
use crate::routing::{Published, Topology};

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

/// The last changes of the ring, the newest first.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Turn>>);

impl History {
    fn turns(&self) -> MutexGuard<'_, VecDeque<Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, turn: Turn) {
        let mut turns = self.turns();
        turns.push_front(turn);
        turns.truncate(REMEMBERED);
    }

    /// The last changes, the newest first.
    pub fn list(&self) -> Vec<Turn> {
        self.turns().iter().cloned().collect()
    }
}

/// Publishes each new ring, and says in the log and in `history` what changed and why. `ready` is set
/// with the first. Ends when the source does.
pub async fn follow(
    mut views: watch::Receiver<Arc<View>>,
    ring: Arc<Published>,
    ready: Arc<AtomicBool>,
    history: Arc<History>,
) {
    let mut generation = None;
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        if generation != Some(view.generation) && !view.nodes.is_empty() {
            generation = Some(view.generation);
            publish(&view, &ring, &history);
            ready.store(true, Ordering::Relaxed);
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Builds the ring on the control thread: a hundred nodes take some milliseconds, none of a worker's.
fn publish(view: &View, ring: &Published, history: &History) {
    let old = ring.load();
    match Topology::new(old.version() + 1, view.nodes.iter().cloned().map(Arc::new).collect()) {
        Ok(new) => {
            // With the first ring no key moves: it had no place before.
            let moved = if old.nodes().is_empty() { 0.0 } else { old.moved(&new) };
            tracing::info!(
                from = %old.name(),
                to = %new.name(),
                version = new.version(),
                nodes = new.nodes().len(),
                moved = %format_args!("{:.1} %", 100.0 * moved),
                reason = %view.reason,
                "ring changed"
            );
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            history.note(Turn { at, version: new.version(), reason: view.reason.clone(), moved });
            ring.publish(new);
        }
        Err(error) => tracing::error!(%error, reason = %view.reason, "the ring stays as it is"),
    }
}
