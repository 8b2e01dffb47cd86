//! Is anybody there? Asked of nodes that are no longer listed, before they are dropped.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::routing::Node;

/// Most probes at once: a list that lost everything must not open a thousand connections.
const AT_ONCE: usize = 32;

/// Connects and asks for the version; true when anything at all is answered within the limit.
pub async fn answers(node: &Node, limit: Duration) -> bool {
    let attempt = async {
        let mut stream = TcpStream::connect((&*node.host, node.port)).await.ok()?;
        stream.write_all(b"version\r\n").await.ok()?;
        let read = stream.read(&mut [0; 64]).await.ok()?;
        (read > 0).then_some(())
    };
    matches!(tokio::time::timeout(limit, attempt).await, Ok(Some(())))
}

/// Probes several; each with what was found.
pub(super) async fn all(nodes: Vec<Node>, limit: Duration) -> Vec<(Node, bool)> {
    let mut left = nodes.into_iter();
    let mut probes = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while probes.len() < AT_ONCE
            && let Some(node) = left.next()
        {
            probes.spawn(async move {
                let answers = answers(&node, limit).await;
                (node, answers)
            });
        }
        match probes.join_next().await {
            Some(Ok(result)) => found.push(result),
            Some(Err(_)) => {}
            None => return found,
        }
    }
}
