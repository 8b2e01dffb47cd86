//! Connections to nodes last for weeks, and a node shows its certificate when one is made: of a certificate that nears its
//! end it is looked from time to time whether the node has another one by now. Else what is shown of it, and the alert, would
//! be of one that was renewed long ago.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};

use super::Secured;
use crate::resolve;
use crate::routing::Published;
use crate::time::unix_seconds;

/// So long before its end a certificate is looked at again: twice as long as the alert has it.
const NEAR: Duration = Duration::from_secs(14 * 86_400);
/// Longest wait for a node.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the certificates of nodes that near their end, one node after the other, each time `interval` has passed; never
/// ends.
pub async fn look_after(secured: Secured, ring: Arc<Published>, interval: Duration) {
    if !secured.has_tls() {
        return;
    }
    loop {
        sleep(interval).await;
        let topology = ring.load();
        let near = secured.expired_by(unix_seconds(SystemTime::now()) + NEAR.as_secs());
        let old = topology.old_nodes().map(|(_, node)| node);
        for node in topology.nodes().iter().chain(old).filter(|node| near.contains(&node.name)) {
            let Ok(Ok(stream)) = timeout(PATIENCE, resolve::connect(&node.host, node.port)).await else { continue };
            if let Err(why) = secured.look(stream, (node.certificate_name(), &node.name), PATIENCE).await {
                tracing::debug!(node = %node.name, %why, "its certificate cannot be looked at");
            }
        }
    }
}
