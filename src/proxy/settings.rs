//! What the operator chose, as the core needs it.

use std::time::Duration;

use super::discovery_answer::DiscoveryAnswer;
use crate::config::OnNodeDown;

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest value, in bytes, that is forwarded.
    pub max_value: usize,
    /// Larger values, in bytes, travel on lanes apart; at most 1 MiB.
    pub bulk_above: usize,
    /// Longest silence of a node that has left the ring before what it still owes is given up.
    pub drain_timeout: Duration,
    /// Longest time in which a connection to a node is made, which the rim watches; and in which a node that has let a
    /// request time out answers on a new one, which the core does.
    pub connect_timeout: Duration,
    /// Longest silence of a node that owes a reply.
    pub request_timeout: Duration,
    /// Longest wait of a request that its lane does not take.
    pub queue_timeout: Duration,
    /// Most bytes for everything that waits, all workers together.
    pub buffer_limit: usize,
    /// Shared connections per node, at least 1.
    pub lanes: usize,
    /// Refuse `flush_all`.
    pub deny_flush_all: bool,
    /// `flush_all` empties the nodes of a ring before that shares no node with the ring, too.
    pub flush_before: bool,
    /// Concurrent single gets of one round travel as one multi-key get.
    pub merge_gets: bool,
    /// See [`OnNodeDown`].
    pub on_node_down: OnNodeDown,
    /// Unix time, in seconds, at [`Tick`](crate::time::Tick) 0.
    pub started_at: u64,
    /// Count which keys are asked for most.
    pub hot_keys: bool,
    /// Tell keys as they are, not by their hash.
    pub log_keys: bool,
    /// The placement asks for keys, not for their hash: samples keep them.
    pub placed_by_key: bool,
    /// Requests that take at least so long are counted and told of; nothing for none.
    pub slow_request: Option<Duration>,
    /// Shown by `stats`.
    pub pid: u32,
    /// Most client connections of the process; shown by `stats`.
    pub max_connections: usize,
    /// User and system CPU time of the process so far; asked for by `stats` alone.
    pub cpu_time: fn() -> (Duration, Duration),
    /// Where auto-discovery clients are sent.
    pub discovery_answer: DiscoveryAnswer,
    /// Seed of the reconnect jitter.
    pub seed: u64,
}

impl Settings {
    /// How often what is not an event is looked at, while there is something to look at: often enough
    /// for a clock to be late by little, rarely enough to cost nothing.
    pub(super) fn period(&self) -> Duration {
        let shortest = self.request_timeout.min(self.queue_timeout).min(self.connect_timeout);
        (shortest / 8).clamp(Duration::from_millis(2), Duration::from_millis(100))
    }
}

impl Default for Settings {
    /// What the options are when nobody says anything.
    fn default() -> Self {
        Self {
            max_value: 128 << 20,
            bulk_above: 1 << 20,
            drain_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_millis(250),
            request_timeout: Duration::from_millis(500),
            queue_timeout: Duration::from_millis(250),
            buffer_limit: 64 << 20,
            lanes: 1,
            deny_flush_all: false,
            flush_before: false,
            merge_gets: true,
            on_node_down: OnNodeDown::Miss,
            started_at: 0,
            hot_keys: true,
            log_keys: false,
            placed_by_key: false,
            slow_request: Some(Duration::from_millis(100)),
            pid: 1,
            max_connections: 4096,
            cpu_time: || (Duration::ZERO, Duration::ZERO),
            discovery_answer: DiscoveryAnswer::Here(None),
            seed: 1,
        }
    }
}
