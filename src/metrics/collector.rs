//! What a scrape gets: the workers' cells summed up, and what the control thread knows.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};
use rustix::time::{ClockId, clock_gettime};

use super::table::{FAMILIES, Sort};
use super::{
    Cells, CloseReason, DURATIONS, Kind, NodeCells, NodeOutcome, NodeState, Outcome, Reason, SIZES, TlsNumbers, Wait,
};
use crate::protocol::command::Command;

/// Most nodes with a label of their own; the others' numbers are summed up as `other`.
const MOST_NODES: usize = 64;
/// How long the series of a node that has left are still shown.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What a scrape needs besides the cells.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--max-connections`
    pub max_connections: usize,
    /// `--buffer-limit`, in bytes.
    pub buffer_limit: usize,
    /// The nodes of the ring, with their share.
    pub nodes: Vec<(String, f64)>,
    /// The ring's fingerprint.
    pub fingerprint: String,
    /// The ring's number.
    pub version: u64,
    /// How keys are placed.
    pub placement: String,
    /// Rings after the first, by what happened to the list of nodes.
    pub changes: Vec<(&'static str, u64)>,
    /// Unix time of the last change, in seconds; 0 before the first.
    pub changed_at: u64,
    /// Share of the key space it moved.
    pub moved: f64,
    /// The kind of the source of nodes.
    pub source: &'static str,
    /// Its answers by result.
    pub polls: Vec<(&'static str, u64)>,
    /// Unix time of its last good answer, in seconds; 0 before the first.
    pub succeeded_at: u64,
    /// Nodes held though no longer listed.
    pub pending: usize,
    /// Lines of the log that were lost.
    pub log_lines_dropped: u64,
    /// The ring before, as long as it is in use.
    pub before: Option<BeforeNumbers>,
    /// What is known of TLS; nothing where nodes are spoken to without.
    pub tls: Option<TlsNumbers>,
}

/// What is known of the ring before.
#[derive(Clone, Debug, Default)]
pub struct BeforeNumbers {
    /// `reading` or `ending`.
    pub state: &'static str,
    /// Its fingerprint.
    pub fingerprint: String,
    /// How keys were placed.
    pub placement: String,
    /// Share of the key space that has an old place.
    pub moved: f64,
    /// Its nodes.
    pub nodes: Vec<String>,
}

/// The metrics in Prometheus' text format.
pub struct Exposition {
    registry: Registry,
}

impl Sources {
    fn has_node(&self, name: &str) -> bool {
        self.nodes.iter().any(|(node, _)| node == name)
    }

    /// Whether only the ring before has it.
    fn is_old_node(&self, name: &str) -> bool {
        let mut old = self.before.iter().flat_map(|before| &before.nodes);
        old.any(|node| node == name) && !self.has_node(name)
    }
}

impl Exposition {
    /// Shows these cells; `sources` is asked at each scrape.
    ///
    /// # Errors
    /// Never with the names of this crate: they are all different.
    pub fn new(
        cells: Arc<Cells>,
        sources: impl Fn() -> Sources + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let ours = Workers { cells, sources: Box::new(sources), left: Mutex::default() };
        registry.register(Box::new(ours))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self { registry })
    }

    /// The whole page.
    ///
    /// # Errors
    /// Where a family cannot be written as text; never with our own.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut families = self.registry.gather();
        // The process collector counts whole seconds: a rate over them is 0 or 1.
        let cpu = families.iter_mut().find(|family| family.name() == "process_cpu_seconds_total");
        for metric in cpu.into_iter().flat_map(|family| family.mut_metric().iter_mut()) {
            let mut counter = Counter::default();
            counter.set_value(cpu_seconds());
            metric.set_counter(counter);
        }
        let mut text = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

/// CPU time of this process, user and system, in seconds with their fraction.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

struct Workers {
    cells: Arc<Cells>,
    sources: Box<dyn Fn() -> Sources + Send + Sync>,
    /// Nodes that are in no ring, and since when.
    left: Mutex<HashMap<String, Instant>>,
}

/// The families under construction, in the order of the table.
struct Page {
    metrics: BTreeMap<&'static str, Vec<Metric>>,
}

impl Page {
    fn add(&mut self, name: &'static str, labels: &[&str], fill: impl FnOnce(&mut Metric)) {
        let family = FAMILIES.iter().find(|family| family.name == name);
        debug_assert!(family.is_some_and(|family| family.labels.len() == labels.len()), "{name} {labels:?}");
        let names = family.map_or(&[][..], |family| family.labels);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(names.iter().zip(labels).map(pair).collect());
        fill(&mut metric);
        self.metrics.entry(name).or_default().push(metric);
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating point")]
    fn count(&mut self, name: &'static str, labels: &[&str], value: u64) {
        self.add(name, labels, |metric| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
    }

    fn show(&mut self, name: &'static str, labels: &[&str], value: f64) {
        self.add(name, labels, |metric| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    /// `counts` has one more than `bounds`; the sum and the bounds are divided by `unit`.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating point")]
    fn histogram(&mut self, name: &'static str, labels: &[&str], bounds: &[u64], counts: &[u64], sum: u64, unit: f64) {
        self.add(name, labels, |metric| {
            let mut all = 0;
            let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
                all += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound as f64 / unit);
                bucket.set_cumulative_count(all);
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(counts.iter().sum());
            histogram.set_sample_sum(sum as f64 / unit);
            metric.set_histogram(histogram);
        });
    }

    fn finish(mut self) -> Vec<MetricFamily> {
        let families = FAMILIES.iter().filter_map(|family| {
            let metrics = self.metrics.remove(family.name)?;
            let mut shown = MetricFamily::default();
            shown.set_name(family.name.to_owned());
            shown.set_help(family.help.to_owned());
            shown.set_field_type(match family.sort {
                Sort::Counter => MetricType::COUNTER,
                Sort::Gauge => MetricType::GAUGE,
                Sort::Histogram => MetricType::HISTOGRAM,
            });
            shown.set_metric(metrics);
            Some(shown)
        });
        families.collect()
    }
}

/// The nodes beyond the limit, as one.
const OTHER: &str = "other";

/// Microseconds per second.
const MICROS: f64 = 1e6;

impl Workers {
    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating point")]
    fn page(&self) -> Page {
        let sources = (self.sources)();
        let cells = &self.cells;
        let mut page = Page { metrics: BTreeMap::new() };
        page.show("slipring_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
        page.show("slipring_client_connections", &[], cells.sum(|c| &c.connections) as f64);
        page.count("slipring_client_connections_total", &[], cells.sum(|c| &c.connections_total));
        for reason in CloseReason::ALL {
            let count = cells.closed_sum(reason);
            page.count("slipring_client_connections_closed_total", &[reason.word()], count);
        }
        page.count("slipring_client_connections_rejected_total", &[], cells.rejected.get());
        page.show("slipring_client_connections_limit", &[], sources.max_connections as f64);
        page.count("slipring_log_lines_dropped_total", &[], sources.log_lines_dropped);
        self.requests(&mut page);
        page.count("slipring_client_received_bytes_total", &[], cells.sum(|c| &c.bytes_read));
        page.count("slipring_client_sent_bytes_total", &[], cells.sum(|c| &c.bytes_written));
        self.nodes(&mut page, &sources);
        if let Some(tls) = &sources.tls {
            self.tls(&mut page, tls);
        }
        self.ring(&mut page, &sources);
        page.count("slipring_retries_total", &[], cells.sum(|c| &c.retries));
        page.count("slipring_get_groups_total", &[], cells.sum(|c| &c.groups));
        page.count("slipring_get_group_keys_total", &[], cells.sum(|c| &c.group_keys));
        page.count("slipring_merged_keys_total", &[], cells.sum(|c| &c.merged_keys));
        page.count("slipring_coalesced_keys_total", &[], cells.sum(|c| &c.coalesced_keys));
        for (index, result) in ["hit", "miss", "error"].into_iter().enumerate() {
            let count = cells.sum(|c| c.before_reads.get(index).unwrap_or(&super::NONE));
            page.count("slipring_before_reads_total", &[result], count);
        }
        for (index, result) in ["ok", "lost"].into_iter().enumerate() {
            let count = cells.sum(|c| c.before_writes.get(index).unwrap_or(&super::NONE));
            page.count("slipring_before_writes_total", &[result], count);
        }
        for (reason, count) in cells.before_reads_ended() {
            page.count("slipring_before_reads_ended_total", &[reason], count);
        }
        page.count("slipring_discarded_replies_total", &[], cells.sum(|c| &c.dropped_replies));
        page.show("slipring_buffer_bytes", &[], cells.sum(|c| &c.buffered) as f64);
        page.show("slipring_buffer_limit_bytes", &[], sources.buffer_limit as f64);
        for wait in Wait::ALL {
            let waits =
                cells.workers.iter().filter_map(|cells| cells.waits.get(wait as usize)).map(super::Counter::get);
            page.count("slipring_backpressure_waits_total", &[wait.word()], waits.sum());
        }
        page.count("slipring_slow_requests_total", &[], cells.sum(|c| &c.slow_requests));
        page
    }

    fn requests(&self, page: &mut Page) {
        let cells = &self.cells;
        for command in Command::ALL {
            for outcome in Outcome::ALL {
                let count = cells.request_sum(command, outcome);
                // Of the many pairs few make sense: those that never happened are not shown.
                if count > 0 {
                    page.count("slipring_client_requests_total", &[command.word(), outcome.word()], count);
                }
            }
            page.count("slipring_client_commands_total", &[command.word()], cells.command_sum(command));
            for reason in Reason::ALL {
                let count = cells.soft_sum(|c, r| (c, r) == (command, reason));
                if count > 0 {
                    page.count("slipring_soft_failures_total", &[command.word(), reason.word()], count);
                }
            }
        }
        let all: u64 = Command::ALL.into_iter().map(|command| cells.command_sum(command)).sum();
        let meta: u64 = Command::META.into_iter().map(|command| cells.command_sum(command)).sum();
        let binary = cells.sum(|c| &c.packets);
        let text = all.saturating_sub(meta + binary);
        for (protocol, count) in [("text", text), ("meta", meta), ("binary", binary)] {
            page.count("slipring_client_protocol_commands_total", &[protocol], count);
        }
        let mut sizes = [0; SIZES.len() + 1];
        let sum = cells.workers.iter().map(|cells| cells.multigets.add_to(&mut sizes)).sum();
        page.histogram("slipring_client_multiget_keys", &[], &SIZES, &sizes, sum, 1.0);
        for (kind, word) in Kind::WORDS.into_iter().enumerate() {
            let mut counts = [0; DURATIONS.len() + 1];
            let histograms = cells.workers.iter().filter_map(|cells| cells.durations.get(kind));
            let sum = histograms.map(|histogram| histogram.add_to(&mut counts)).sum();
            page.histogram("slipring_client_request_duration_seconds", &[word], &DURATIONS, &counts, sum, MICROS);
        }
        let mut counts = [0; DURATIONS.len() + 1];
        let sum = cells.workers.iter().map(|cells| cells.queued.add_to(&mut counts)).sum();
        page.histogram("slipring_upstream_queue_duration_seconds", &[], &DURATIONS, &counts, sum, MICROS);
    }

    /// The cells of each node by the name it is shown by: those in the ring first, and those that left
    /// lately; beyond the limit all together.
    #[expect(clippy::disallowed_methods, reason = "how long a series is still shown")]
    fn known(&self, sources: &Sources) -> BTreeMap<String, Vec<Arc<NodeCells>>> {
        let mut all: BTreeMap<String, Vec<Arc<NodeCells>>> = BTreeMap::new();
        for cells in &self.cells.workers {
            // Nothing is made while it is locked: a worker may wait for it.
            let nodes: Vec<_> = cells.nodes().iter().map(|(name, node)| (Arc::clone(name), Arc::clone(node))).collect();
            for (name, node) in nodes {
                all.entry(name.to_string()).or_default().push(node);
            }
        }
        let now = Instant::now();
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let in_ring = |name: &str| sources.has_node(name) || sources.is_old_node(name);
        left.retain(|name, _| all.contains_key(name) && !in_ring(name));
        let mut shown = BTreeMap::new();
        let mut others = Vec::new();
        // Those in the ring come first.
        let (members, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| in_ring(name));
        for (name, cells) in members.into_iter().chain(gone) {
            if !in_ring(&name) && left.entry(name.clone()).or_insert(now).elapsed() > REMEMBERED {
                for worker in &self.cells.workers {
                    worker.forget_node(&name);
                }
            } else if shown.len() < MOST_NODES {
                shown.insert(name, cells);
            } else {
                others.extend(cells);
            }
        }
        if !others.is_empty() {
            shown.insert(OTHER.to_owned(), others);
        }
        shown
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating point")]
    fn nodes(&self, page: &mut Page, sources: &Sources) {
        const CONNECTIONS: [&str; 3] = ["connecting", "ready", "draining"];
        const CONNECTS: [&str; 3] = ["ok", "refused", "timeout"];
        const EJECTIONS: [&str; 5] = ["timeout", "refused", "lost", "desync", "itself"];
        const PROBES: [&str; 2] = ["ok", "failed"];
        for (name, cells) in self.known(sources) {
            let name = name.as_str();
            let sum = |of: &dyn Fn(&NodeCells) -> &super::Counter| cells.iter().map(|node| of(node).get()).sum::<u64>();
            #[expect(clippy::indexing_slicing, reason = "the words are as many as the counters")]
            for (index, word) in NodeOutcome::WORDS.into_iter().enumerate() {
                page.count("slipring_upstream_requests_total", &[name, word], sum(&|n| &n.requests[index]));
            }
            page.count("slipring_upstream_key_operations_total", &[name, "hit"], sum(&|n| &n.hits));
            page.count("slipring_upstream_key_operations_total", &[name, "miss"], sum(&|n| &n.misses));
            page.count("slipring_upstream_key_operations_total", &[name, "other"], sum(&|n| &n.others));
            let mut counts = [0; DURATIONS.len() + 1];
            let took = cells.iter().map(|node| node.duration.add_to(&mut counts)).sum();
            page.histogram("slipring_upstream_request_duration_seconds", &[name], &DURATIONS, &counts, took, MICROS);
            page.show("slipring_upstream_inflight_requests", &[name], sum(&|n| &n.inflight) as f64);
            page.show("slipring_upstream_queued_bytes", &[name], sum(&|n| &n.queued_bytes) as f64);
            #[expect(clippy::indexing_slicing, reason = "the words are as many as the counters")]
            {
                for (index, word) in CONNECTIONS.into_iter().enumerate() {
                    let count = sum(&|n| &n.connections[index]) as f64;
                    page.show("slipring_upstream_connections", &[name, word], count);
                }
                for (index, word) in CONNECTS.into_iter().enumerate() {
                    page.count("slipring_upstream_connects_total", &[name, word], sum(&|n| &n.connects[index]));
                }
                for (index, word) in EJECTIONS.into_iter().enumerate() {
                    page.count("slipring_node_ejections_total", &[name, word], sum(&|n| &n.ejections[index]));
                }
                for (index, word) in PROBES.into_iter().enumerate() {
                    page.count("slipring_node_probes_total", &[name, word], sum(&|n| &n.probes[index]));
                }
            }
            page.count("slipring_upstream_received_bytes_total", &[name], sum(&|n| &n.received_bytes));
            page.count("slipring_upstream_sent_bytes_total", &[name], sum(&|n| &n.sent_bytes));
            page.count("slipring_upstream_timeouts_total", &[name], sum(&|n| &n.timeouts));
            page.count("slipring_upstream_desyncs_total", &[name], sum(&|n| &n.desyncs));
            let worst = match name {
                OTHER => cells.iter().map(|node| node.state()).max().unwrap_or_default(),
                _ => self.cells.node_state(name),
            };
            for state in NodeState::ALL {
                let is = if state == worst { 1.0 } else { 0.0 };
                page.show("slipring_node_state", &[name, state.word()], is);
            }
            if sources.is_old_node(name) {
                page.show("slipring_node_state", &[name, "before"], 1.0);
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating point")]
    #[expect(clippy::unused_self, reason = "one of a kind")]
    fn tls(&self, page: &mut Page, tls: &TlsNumbers) {
        for (result, kind, count) in &tls.handshakes {
            page.count("slipring_tls_handshakes_total", &[result, kind], *count);
        }
        let expiry = "slipring_tls_certificate_expiry_timestamp_seconds";
        for (node, at) in tls.nodes.iter().take(MOST_NODES) {
            page.show(expiry, &["node", node], *at as f64);
        }
        // The first of those that have no series of their own: that is what an alert is for.
        if let Some(first) = tls.nodes.iter().skip(MOST_NODES).map(|(_, at)| *at).min() {
            page.show(expiry, &["node", OTHER], first as f64);
        }
        if let Some(at) = tls.client {
            page.show(expiry, &["client", ""], at as f64);
        }
        page.show("slipring_tls_insecure", &[], if tls.is_insecure { 1.0 } else { 0.0 });
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating point")]
    #[expect(clippy::unused_self, reason = "one of a kind")]
    fn ring(&self, page: &mut Page, sources: &Sources) {
        let mut others = 0.0;
        for (index, (name, share)) in sources.nodes.iter().enumerate() {
            if index < MOST_NODES {
                page.show("slipring_node_ring_share_ratio", &[name], *share);
            } else {
                others += share;
            }
        }
        if others > 0.0 {
            page.show("slipring_node_ring_share_ratio", &[OTHER], others);
        }
        page.show("slipring_ring_nodes", &[], sources.nodes.len() as f64);
        let version = sources.version.to_string();
        page.show("slipring_ring_info", &[&sources.fingerprint, &version, &sources.placement], 1.0);
        for (reason, count) in &sources.changes {
            page.count("slipring_ring_changes_total", &[reason], *count);
        }
        page.show("slipring_ring_last_change_timestamp_seconds", &[], sources.changed_at as f64);
        page.show("slipring_ring_moved_keyspace_ratio", &[], sources.moved);
        let before = sources.before.as_ref();
        let now = before.map_or("none", |before| before.state);
        for state in ["none", "reading", "ending"] {
            page.show("slipring_before_state", &[state], if state == now { 1.0 } else { 0.0 });
        }
        if let Some(before) = before {
            page.show("slipring_before_info", &[&before.fingerprint, &before.placement], 1.0);
        }
        page.show("slipring_before_moved_keyspace_ratio", &[], before.map_or(0.0, |before| before.moved));
        page.show("slipring_before_nodes", &[], before.map_or(0.0, |before| before.nodes.len() as f64));
        for (result, count) in &sources.polls {
            page.count("slipring_discovery_polls_total", &[sources.source, result], *count);
        }
        let at = sources.succeeded_at as f64;
        page.show("slipring_discovery_last_success_timestamp_seconds", &[sources.source], at);
        page.show("slipring_discovery_pending_removals", &[], sources.pending as f64);
    }
}

impl Collector for Workers {
    fn desc(&self) -> Vec<&Desc> {
        // What is collected is checked against the table instead.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.page().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_has_its_fraction() {
        let exposition = Exposition::new(Arc::new(Cells::new(1)), Sources::default).unwrap();
        let text = String::from_utf8(exposition.text().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total ")).unwrap();
        // Whole nanoseconds at least: a test has used some and not exactly a second.
        let seconds: f64 = line.parse().unwrap();
        assert!(seconds > 0.0 && seconds.fract() > 0.0, "{line}");
    }
}
