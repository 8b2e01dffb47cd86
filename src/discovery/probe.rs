//! Is anybody there? Asked of nodes that are no longer listed, before they are dropped.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::resolve;
use crate::routing::Node;
use crate::secured::Secured;

/// Most probes at once: a list that lost everything must not open a thousand connections.
const AT_ONCE: usize = 32;

/// Most bytes of an answer to `stats`; those of memcached have three thousand.
const MAX_STATS: usize = 64 << 10;

/// Connects and asks for the version; true when anything at all is answered within the limit. So it is where we have no
/// descriptor to ask with: then nothing is known against the node.
///
/// Behind TLS another server may be at its address by now, or one that we do not trust: such a one is not the node.
pub async fn answers(node: &Node, secured: &Secured, limit: Duration) -> bool {
    let ends_at = Instant::now() + limit;
    let attempt = async {
        let stream = resolve::connect(&node.host, node.port).await?;
        let opened = secured.open(stream, (node.certificate_name(), None), ends_at, limit).await;
        let Ok(mut stream) = opened else { return Ok(false) };
        stream.write_all(b"version\r\n").await?;
        stream.flush().await?;
        Ok(stream.read(&mut [0; 64]).await? > 0)
    };
    match timeout_at(ends_at, attempt).await {
        Ok(answered) => answered.unwrap_or_else(|error: io::Error| is_ours(&error)),
        Err(_) => false,
    }
}

/// Asks for the number of its values (`curr_items` of `stats`); `None` when that is not answered within the limit.
pub async fn items(node: &Node, secured: &Secured, limit: Duration) -> Option<u64> {
    let ends_at = Instant::now() + limit;
    let attempt = async {
        let stream = resolve::connect(&node.host, node.port).await.ok()?;
        let mut stream = secured.open(stream, (node.certificate_name(), None), ends_at, limit).await.ok()?;
        stream.write_all(b"stats\r\n").await.ok()?;
        stream.flush().await.ok()?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 2048]);
        while !answer.ends_with(b"END\r\n") && answer.len() < MAX_STATS {
            match stream.read(&mut buffer).await.ok()? {
                0 => return None,
                read => answer.extend_from_slice(buffer.get(..read)?),
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        answer.lines().find_map(|line| line.strip_prefix("STAT curr_items ")?.trim().parse().ok())
    };
    timeout_at(ends_at, attempt).await.ok().flatten()
}

/// Whether it is for want of a descriptor.
fn is_ours(error: &io::Error) -> bool {
    let none = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|error| none.contains(&error))
}

/// Probes under way, and those to come: nobody waits for all of them.
#[derive(Debug)]
pub(super) struct Probes {
    limit: Duration,
    secured: Secured,
    left: VecDeque<Node>,
    running: JoinSet<(Node, bool)>,
}

impl Probes {
    pub(super) fn new(limit: Duration, secured: Secured) -> Self {
        Self { limit, secured, left: VecDeque::new(), running: JoinSet::new() }
    }

    /// Probes these, unless others are still under way.
    pub(super) fn begin(&mut self, nodes: Vec<Node>) {
        if self.left.is_empty() && self.running.is_empty() {
            self.left = nodes.into();
        }
    }

    /// The next of them, and what was found; `None` when there is none. May be given up and called again.
    pub(super) async fn next(&mut self) -> Option<(Node, bool)> {
        loop {
            while self.running.len() < AT_ONCE
                && let Some(node) = self.left.pop_front()
            {
                let (limit, secured) = (self.limit, self.secured.clone());
                self.running.spawn(async move {
                    let answers = answers(&node, &secured, limit).await;
                    (node, answers)
                });
            }
            if let Ok(found) = self.running.join_next().await? {
                return Some(found);
            }
        }
    }
}
