//! From what is known of the nodes to the ring the workers use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::View;
use crate::routing::{Published, Topology};

/// Publishes each new ring, and says in the log what changed and why. `ready` is set with the first.
/// Ends when the source does.
pub async fn follow(mut views: watch::Receiver<Arc<View>>, ring: Arc<Published>, ready: Arc<AtomicBool>) {
    let mut generation = None;
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        if generation != Some(view.generation) && !view.nodes.is_empty() {
            generation = Some(view.generation);
            publish(&view, &ring);
            ready.store(true, Ordering::Relaxed);
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Builds the ring on the control thread: a hundred nodes take some milliseconds, none of a worker's.
fn publish(view: &View, ring: &Published) {
    let old = ring.load();
    match Topology::new(old.version() + 1, view.nodes.iter().cloned().map(Arc::new).collect()) {
        Ok(new) => {
            tracing::info!(
                from = %old.name(),
                to = %new.name(),
                version = new.version(),
                nodes = new.nodes().len(),
                moved = %format_args!("{:.1} %", 100.0 * old.moved(&new)),
                reason = %view.reason,
                "ring changed"
            );
            ring.publish(new);
        }
        Err(error) => tracing::error!(%error, reason = %view.reason, "the ring stays as it is"),
    }
}
