//! The one table of metrics: names, kinds, labels and help texts. That of deploy/monitoring/README.md is made from it.

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Counter,
    Gauge,
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) sort: Sort,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, sort: Sort::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, sort: Sort::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, sort: Sort::Histogram, labels, help }
}

/// All metrics of ours; those of the process come from the `prometheus` crate.
pub(super) const FAMILIES: &[Family] = &[
    gauge("slipring_build_info", &["version"], "Always 1"),
    gauge("slipring_client_connections", &[], "Clients connected now"),
    counter("slipring_client_connections_total", &[], "Clients accepted"),
    counter("slipring_client_connections_closed_total", &["reason"], "Clients closed"),
    counter("slipring_client_connections_rejected_total", &[], "Clients refused at --max-connections"),
    gauge("slipring_client_connections_limit", &[], "--max-connections"),
    counter("slipring_client_requests_total", &["command", "outcome"], "Requests answered; keys for reads"),
    counter("slipring_client_commands_total", &["command"], "Commands as sent; a read of many keys is one"),
    counter(
        "slipring_client_protocol_commands_total",
        &["protocol"],
        "Commands by the protocol that the client speaks",
    ),
    histogram("slipring_client_multiget_keys", &[], "Keys per read"),
    histogram(
        "slipring_client_request_duration_seconds",
        &["command"],
        "From a request's last byte to its whole answer",
    ),
    counter("slipring_client_received_bytes_total", &[], "Bytes from clients"),
    counter("slipring_client_sent_bytes_total", &[], "Bytes to clients"),
    counter("slipring_upstream_requests_total", &["node", "outcome"], "Requests to nodes; a merged get is one"),
    counter("slipring_upstream_key_operations_total", &["node", "outcome"], "Keys asked of nodes"),
    histogram(
        "slipring_upstream_request_duration_seconds",
        &["node"],
        "From handing a request to the kernel to the end of its reply",
    ),
    histogram(
        "slipring_upstream_queue_duration_seconds",
        &[],
        "How long requests to nodes waited to be handed to the kernel",
    ),
    gauge("slipring_upstream_inflight_requests", &["node"], "Requests that wait for their reply"),
    gauge("slipring_upstream_queued_bytes", &["node"], "Bytes that wait to be sent"),
    gauge("slipring_upstream_connections", &["node", "state"], "Connections to nodes"),
    counter("slipring_upstream_connects_total", &["node", "result"], "Connections that were tried"),
    counter("slipring_upstream_received_bytes_total", &["node"], "Bytes from nodes"),
    counter("slipring_upstream_sent_bytes_total", &["node"], "Bytes to nodes"),
    counter(
        "slipring_upstream_timeouts_total",
        &["node"],
        "Times that a node owed a reply and was silent for --request-timeout",
    ),
    counter("slipring_upstream_desyncs_total", &["node"], "Connections closed because a reply could not be the answer"),
    gauge(
        "slipring_node_state",
        &["node", "state"],
        "1 for the worst state that a worker sees the node in; before besides, where only the ring before has it",
    ),
    counter("slipring_node_ejections_total", &["node", "reason"], "Times that the node went down, once per worker"),
    counter("slipring_node_probes_total", &["node", "result"], "Probes of the node while it was silent or down"),
    counter(
        "slipring_tls_handshakes_total",
        &["result", "kind"],
        "TLS handshakes with nodes; kind is full or resumed of those that succeeded; with --node-tls",
    ),
    gauge(
        "slipring_tls_certificate_expiry_timestamp_seconds",
        &["owner", "node"],
        "When a certificate expires: that of a node as it was last shown, or our own (owner is client); with --node-tls",
    ),
    gauge("slipring_tls_insecure", &[], "1 with --node-tls-insecure, else 0; with --node-tls"),
    gauge("slipring_node_ring_share_ratio", &["node"], "Share of the key space, 0 to 1"),
    gauge("slipring_ring_nodes", &[], "Nodes in the ring"),
    gauge(
        "slipring_ring_info",
        &["fingerprint", "version", "placement"],
        "Always 1; equal fingerprints place keys alike",
    ),
    counter("slipring_ring_changes_total", &["reason"], "Rings after the first, by what happened to the list of nodes"),
    gauge("slipring_ring_last_change_timestamp_seconds", &[], "When the ring last changed"),
    gauge("slipring_ring_moved_keyspace_ratio", &[], "Share of the key space that the last change moved, 0 to 1"),
    gauge("slipring_before_state", &["state"], "1 for what old places are used for: none, reading or ending"),
    gauge("slipring_before_info", &["fingerprint", "placement"], "Always 1; absent without a ring before"),
    gauge("slipring_before_moved_keyspace_ratio", &[], "Share of the key space that has an old place, 0 to 1"),
    gauge("slipring_before_nodes", &[], "Nodes of the ring before"),
    counter("slipring_discovery_polls_total", &["source", "result"], "Answers of the source of nodes"),
    gauge("slipring_discovery_last_success_timestamp_seconds", &["source"], "When the source last gave a good answer"),
    gauge("slipring_discovery_pending_removals", &[], "Nodes that are held though no longer listed"),
    counter(
        "slipring_soft_failures_total",
        &["command", "reason"],
        "What was answered without its node; keys for reads",
    ),
    counter("slipring_retries_total", &[], "Reads asked again after their connection was lost"),
    counter("slipring_get_groups_total", &[], "Reads as sent to nodes"),
    counter("slipring_get_group_keys_total", &[], "Keys in them"),
    counter("slipring_merged_keys_total", &[], "Those of them that travelled with keys of other requests"),
    counter("slipring_coalesced_keys_total", &[], "Keys that travelled for several clients, each after the first"),
    counter("slipring_before_reads_total", &["result"], "Keys that were asked of their old place"),
    counter(
        "slipring_before_writes_total",
        &["result"],
        "Writes of keys that have an old place; lost: its old value may still be there",
    ),
    counter(
        "slipring_before_reads_ended_total",
        &["reason"],
        "Old nodes from which nothing is read any more, for an invalidation was lost there or they were flushed",
    ),
    counter("slipring_discarded_replies_total", &[], "Replies of nodes that nobody waited for: noreply, clients gone"),
    gauge("slipring_buffer_bytes", &[], "Memory of everything that waits"),
    gauge("slipring_buffer_limit_bytes", &[], "--buffer-limit"),
    counter("slipring_backpressure_waits_total", &["reason"], "Times that a client was not read for a while"),
    counter(
        "slipring_slow_requests_total",
        &[],
        "Replies of nodes that took --slow-request or longer; what got none is in the timeouts",
    ),
    counter("slipring_log_lines_dropped_total", &[], "Lines of the log that were lost, for nobody read it"),
];

/// Every metric as a Markdown table. deploy/monitoring/README.md holds it, a test compares them.
#[must_use]
pub fn metric_table() -> String {
    let row = |family: &Family| {
        let sort = match family.sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
            Sort::Histogram => "histogram",
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {sort} | {} | {} |\n", family.name, labels.join(" "), family.help)
    };
    let rows: String = FAMILIES.iter().map(row).collect();
    format!("| metric | kind | labels | meaning |\n|---|---|---|---|\n{rows}")
}
