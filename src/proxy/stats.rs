//! The answers to `stats`: the sidecar's own counters, and the nodes' put together.
//!
//! Pure rendering: the nodes' replies come in as bytes. Some clients stop reading at any line that
//! contains `END`, so no line written here does but the last.

use std::collections::HashMap;

use crate::protocol::number;
use crate::protocol::reply::Line;
use crate::protocol::text::reply;

/// What one node answered to the `stats` command it was sent.
#[derive(Clone, Copy, Debug)]
pub struct NodeReport<'a> {
    /// `host:port`, or the name given to it.
    pub name: &'a str,
    /// `up`, `down` or `connecting`.
    pub state: &'static str,
    /// Why that is so; empty where nothing is wrong.
    pub cause: &'a str,
    /// `STAT <name> <value>\r\n` lines; an `END` is skipped. Empty when the node was not reached.
    pub stats: &'a [u8],
}

/// The sidecar's own figures, in memcached's words. Counters count from the start of the process and, for reads, keys, not
/// requests; the names that begin with `proxy_` are those of memcached's own proxy.
#[derive(Clone, Debug, Default)]
pub struct Sidecar {
    /// Process id.
    pub pid: u64,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Seconds since 1970.
    pub unix_time: u64,
    /// The lowest version among the nodes, `X.Y.Z`.
    pub version: String,
    /// CPU time in user mode, microseconds.
    pub rusage_user_micros: u64,
    /// CPU time in the kernel, microseconds.
    pub rusage_system_micros: u64,
    /// Most clients at once; 0 is no limit.
    pub max_connections: u64,
    /// Clients now.
    pub curr_connections: u64,
    /// Clients so far.
    pub total_connections: u64,
    /// Clients turned away at the limit.
    pub rejected_connections: u64,
    /// Keys asked for by `get` and `gets`.
    pub cmd_get: u64,
    /// Storage commands, `cas` included.
    pub cmd_set: u64,
    /// `flush_all`
    pub cmd_flush: u64,
    /// Keys of `touch`, `gat` and `gats`.
    pub cmd_touch: u64,
    /// Meta commands.
    pub cmd_meta: u64,
    /// Keys found.
    pub get_hits: u64,
    /// Keys not found.
    pub get_misses: u64,
    /// `delete` without the key.
    pub delete_misses: u64,
    /// `delete` with the key.
    pub delete_hits: u64,
    /// `incr` without the key.
    pub incr_misses: u64,
    /// `incr` done.
    pub incr_hits: u64,
    /// `decr` without the key.
    pub decr_misses: u64,
    /// `decr` done.
    pub decr_hits: u64,
    /// `cas` without the key.
    pub cas_misses: u64,
    /// `cas` that stored.
    pub cas_hits: u64,
    /// `cas` whose unique was an old one.
    pub cas_badval: u64,
    /// Keys touched.
    pub touch_hits: u64,
    /// Keys to touch that were not there.
    pub touch_misses: u64,
    /// Values refused for their length, here or by their node.
    pub store_too_large: u64,
    /// Bytes received from clients.
    pub bytes_read: u64,
    /// Bytes sent to clients.
    pub bytes_written: u64,
    /// Times that a client with more to say was left for the others' turn.
    pub conn_yields: u64,
    /// Worker threads.
    pub threads: u64,
    /// Commands of clients.
    pub proxy_conn_requests: u64,
    /// Requests, or keys of reads, that were answered by an error of the proxy.
    pub proxy_conn_errors: u64,
    /// Those that were answered without their node for want of memory.
    pub proxy_conn_oom: u64,
    /// Requests that wait for their nodes.
    pub proxy_req_active: u64,
    /// Changes of the ring after the first one.
    pub proxy_config_reloads: u64,
    /// Times that the source of nodes could not be read.
    pub proxy_config_reload_fails: u64,
    /// Nodes of the ring.
    pub proxy_backend_total: u64,
    /// Outages of nodes, once for each worker.
    pub proxy_backend_marked_bad: u64,
    /// Nodes of the ring that are not asked now.
    pub proxy_backend_failed: u64,
    /// What [`counted`] gave at the last `stats reset`; empty if there was none.
    pub before_reset: Vec<u64>,
}

/// Where a line of the general answer comes from.
enum Source {
    /// What is now.
    Own(fn(&Sidecar) -> u64),
    /// What was counted since the last `stats reset`.
    Counted(fn(&Sidecar) -> u64),
    /// Microseconds, shown as seconds with six decimals.
    Micros(fn(&Sidecar) -> u64),
    Version,
    /// The sum over the reachable nodes.
    Nodes,
    Always(u64),
}

/// The general answer, in memcached's order. Exporters and the memcached dashboards read these
/// names; lines about slabs, hash tables and the like say nothing about a router and are left
/// to `stats sum`. All of it fits into 4 KiB, whatever the figures: collectd reads no more.
const GENERAL: &[(&str, Source)] = &[
    ("pid", Source::Own(|s| s.pid)),
    ("uptime", Source::Own(|s| s.uptime_seconds)),
    ("time", Source::Own(|s| s.unix_time)),
    ("version", Source::Version),
    ("pointer_size", Source::Always(usize::BITS as u64)),
    ("rusage_user", Source::Micros(|s| s.rusage_user_micros)),
    ("rusage_system", Source::Micros(|s| s.rusage_system_micros)),
    ("max_connections", Source::Own(|s| s.max_connections)),
    ("curr_connections", Source::Own(|s| s.curr_connections)),
    ("total_connections", Source::Counted(|s| s.total_connections)),
    ("rejected_connections", Source::Counted(|s| s.rejected_connections)),
    ("connection_structures", Source::Own(|s| s.curr_connections)),
    ("cmd_get", Source::Counted(|s| s.cmd_get)),
    ("cmd_set", Source::Counted(|s| s.cmd_set)),
    ("cmd_flush", Source::Counted(|s| s.cmd_flush)),
    ("cmd_touch", Source::Counted(|s| s.cmd_touch)),
    ("cmd_meta", Source::Counted(|s| s.cmd_meta)),
    ("get_hits", Source::Counted(|s| s.get_hits)),
    ("get_misses", Source::Counted(|s| s.get_misses)),
    ("get_expired", Source::Nodes),
    ("get_flushed", Source::Nodes),
    ("delete_misses", Source::Counted(|s| s.delete_misses)),
    ("delete_hits", Source::Counted(|s| s.delete_hits)),
    ("incr_misses", Source::Counted(|s| s.incr_misses)),
    ("incr_hits", Source::Counted(|s| s.incr_hits)),
    ("decr_misses", Source::Counted(|s| s.decr_misses)),
    ("decr_hits", Source::Counted(|s| s.decr_hits)),
    ("cas_misses", Source::Counted(|s| s.cas_misses)),
    ("cas_hits", Source::Counted(|s| s.cas_hits)),
    ("cas_badval", Source::Counted(|s| s.cas_badval)),
    ("touch_hits", Source::Counted(|s| s.touch_hits)),
    ("touch_misses", Source::Counted(|s| s.touch_misses)),
    ("store_too_large", Source::Counted(|s| s.store_too_large)),
    ("store_no_memory", Source::Nodes),
    ("auth_cmds", Source::Always(0)),
    ("auth_errors", Source::Always(0)),
    ("bytes_read", Source::Counted(|s| s.bytes_read)),
    ("bytes_written", Source::Counted(|s| s.bytes_written)),
    ("limit_maxbytes", Source::Nodes),
    ("accepting_conns", Source::Always(1)),
    ("listen_disabled_num", Source::Always(0)),
    ("time_in_listen_disabled_us", Source::Always(0)),
    ("threads", Source::Own(|s| s.threads)),
    ("conn_yields", Source::Counted(|s| s.conn_yields)),
    ("lru_crawler_starts", Source::Nodes),
    ("malloc_fails", Source::Always(0)),
    ("bytes", Source::Nodes),
    ("curr_items", Source::Nodes),
    ("total_items", Source::Nodes),
    ("expired_unfetched", Source::Nodes),
    ("evicted_unfetched", Source::Nodes),
    ("evictions", Source::Nodes),
    ("reclaimed", Source::Nodes),
    ("crawler_reclaimed", Source::Nodes),
    ("crawler_items_checked", Source::Nodes),
    ("moves_to_cold", Source::Nodes),
    ("moves_to_warm", Source::Nodes),
    ("moves_within_lru", Source::Nodes),
    ("direct_reclaims", Source::Nodes),
    ("proxy_conn_requests", Source::Counted(|s| s.proxy_conn_requests)),
    ("proxy_conn_errors", Source::Counted(|s| s.proxy_conn_errors)),
    ("proxy_conn_oom", Source::Counted(|s| s.proxy_conn_oom)),
    ("proxy_req_active", Source::Own(|s| s.proxy_req_active)),
    ("proxy_config_reloads", Source::Counted(|s| s.proxy_config_reloads)),
    ("proxy_config_reload_fails", Source::Counted(|s| s.proxy_config_reload_fails)),
    ("proxy_backend_total", Source::Own(|s| s.proxy_backend_total)),
    ("proxy_backend_marked_bad", Source::Counted(|s| s.proxy_backend_marked_bad)),
    ("proxy_backend_failed", Source::Own(|s| s.proxy_backend_failed)),
];

/// The sidecar's counters: what `stats reset` takes away from them from then on.
#[must_use]
pub fn counted(sidecar: &Sidecar) -> Vec<u64> {
    let counter = |(_, source): &(&str, Source)| match source {
        Source::Counted(figure) => Some(figure(sidecar)),
        _ => None,
    };
    GENERAL.iter().filter_map(counter).collect()
}

/// What [`nodes`] tells of each node, besides its state.
const PER_NODE: &[&str] = &[
    "version",
    "uptime",
    "curr_connections",
    "curr_items",
    "total_items",
    "bytes",
    "limit_maxbytes",
    "evictions",
    "cmd_get",
    "cmd_set",
    "get_hits",
    "get_misses",
];

/// Answers `stats`: the sidecar's counters, and the sizes and losses of the reachable nodes added up (their `stats`).
pub fn general(out: &mut Vec<u8>, sidecar: &Sidecar, reports: &[NodeReport<'_>]) {
    let mut sums = Table::default();
    for report in reports {
        sums.add(report.stats, |name| {
            let wanted =
                GENERAL.iter().any(|(known, source)| matches!(source, Source::Nodes) && known.as_bytes() == name);
            wanted.then_some(Fold::Sum)
        });
    }
    let mut before_reset = sidecar.before_reset.iter();
    for (name, source) in GENERAL {
        let (millionths, decimals) = match source {
            Source::Version => {
                append_stat(out, name.as_bytes(), sidecar.version.as_bytes());
                continue;
            }
            Source::Own(figure) => (whole(figure(sidecar)), false),
            Source::Counted(figure) => {
                let before = before_reset.next().copied().unwrap_or(0);
                (whole(figure(sidecar).saturating_sub(before)), false)
            }
            Source::Micros(figure) => (u128::from(figure(sidecar)), true),
            Source::Always(value) => (whole(*value), false),
            Source::Nodes => (sums.value(name.as_bytes()), false),
        };
        append_figure(out, name.as_bytes(), millionths, decimals);
    }
    append_end(out);
}

/// Answers `stats nodes`: `STAT <node>.<field> <value>`, `<node>.state` for every node, `<node>.cause` for one that is
/// down. A node's name has dots and colons of its own, a field's name neither: the last dot is the one between them.
pub fn nodes(out: &mut Vec<u8>, reports: &[NodeReport<'_>]) {
    for report in reports {
        let mut line = |field: &str, value: &[u8]| {
            let name = [report.name.as_bytes(), b".", field.as_bytes()].concat();
            append_stat(out, &name, value);
        };
        line("state", report.state.as_bytes());
        if !report.cause.is_empty() {
            // What a stranger said may contain that word.
            line("cause", report.cause.replace("END", "End").as_bytes());
        }
        for field in PER_NODE {
            let found = lines(report.stats).find(|(name, _)| *name == field.as_bytes());
            if let Some((_, value)) = found {
                line(field, value);
            }
        }
    }
    append_end(out);
}

/// Answers `stats sum`: the nodes' own numeric counters added up.
///
/// What no sum describes: `pid` is left out, `pointer_size`, `time` and `hash_power_level` are the largest, `uptime` is
/// that of the node started last, `accepting_conns` is 0 as soon as one node accepts none. Text is left out.
pub fn sum(out: &mut Vec<u8>, reports: &[NodeReport<'_>]) {
    fold(out, reports, |name| {
        Some(match name {
            b"pid" => return None,
            b"pointer_size" | b"time" | b"hash_power_level" => Fold::Max,
            b"uptime" | b"accepting_conns" => Fold::Min,
            _ => Fold::Sum,
        })
    });
}

/// Answers `stats items`: per slab class, added up over the nodes; ages are the largest.
pub fn items(out: &mut Vec<u8>, reports: &[NodeReport<'_>]) {
    fold(out, reports, |name| {
        Some(match field(name) {
            b"age" | b"age_hot" | b"age_warm" | b"evicted_time" => Fold::Max,
            _ => Fold::Sum,
        })
    });
}

/// Answers `stats slabs`: per slab class, added up over the nodes; the shape of a class (`chunk_size`,
/// `chunks_per_page`) is the largest, `active_slabs` the number of classes that appear.
pub fn slabs(out: &mut Vec<u8>, reports: &[NodeReport<'_>]) {
    fold(out, reports, |name| {
        Some(match field(name) {
            b"chunk_size" | b"chunks_per_page" => Fold::Max,
            b"active_slabs" => Fold::Classes,
            _ => Fold::Sum,
        })
    });
}

/// Answers `stats settings`: those of the first reachable node, with the sidecar's own `maxconns`, which its clients meet.
pub fn settings(out: &mut Vec<u8>, sidecar: &Sidecar, reports: &[NodeReport<'_>]) {
    let reachable = reports.iter().map(|report| report.stats).find(|stats| lines(stats).next().is_some());
    append_figure(out, b"maxconns", whole(sidecar.max_connections), false);
    for (name, value) in lines(reachable.unwrap_or_default()) {
        if name != b"maxconns" {
            append_stat(out, name, value);
        }
    }
    append_end(out);
}

/// How the values of several nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    Sum,
    Max,
    Min,
    /// Not a value of any node: how many slab classes the table has.
    Classes,
}

/// One name and what has been gathered for it, in millionths.
struct Entry<'a> {
    name: &'a [u8],
    fold: Fold,
    millionths: u128,
    decimals: bool,
}

/// Names in the order of their first appearance.
#[derive(Default)]
struct Table<'a> {
    entries: Vec<Entry<'a>>,
    /// Where each name is: a node may have thousands.
    places: HashMap<&'a [u8], usize>,
}

// === impl Table ===

impl<'a> Table<'a> {
    /// Takes in the numbers of one node; `choose` says how, `None` leaves a name out.
    fn add(&mut self, stats: &'a [u8], choose: impl Fn(&[u8]) -> Option<Fold>) {
        // Nodes of one version send the same names in the same order: the entry wanted is nearly
        // always the one behind the last.
        let mut next = 0;
        for (name, value) in lines(stats) {
            let Some((millionths, decimals)) = millionths(value) else {
                continue;
            };
            let Some(fold) = choose(name) else { continue };
            let at = match self.entries.get(next) {
                Some(entry) if entry.name == name => Some(next),
                _ => self.places.get(name).copied(),
            };
            next = at.unwrap_or(self.entries.len()) + 1;
            match at.and_then(|at| self.entries.get_mut(at)) {
                Some(entry) => {
                    entry.decimals |= decimals;
                    entry.millionths = match fold {
                        Fold::Sum => entry.millionths.saturating_add(millionths),
                        Fold::Max | Fold::Classes => entry.millionths.max(millionths),
                        Fold::Min => entry.millionths.min(millionths),
                    };
                }
                None => {
                    self.places.insert(name, self.entries.len());
                    self.entries.push(Entry { name, fold, millionths, decimals });
                }
            }
        }
    }

    fn value(&self, name: &[u8]) -> u128 {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.map_or(0, |entry| entry.millionths)
    }

    /// Brings the lines of a slab class together, classes in order, lines without class last.
    /// Returns how many classes there are.
    fn group(&mut self) -> u64 {
        self.entries.sort_by_key(|entry| class(entry.name));
        let mut last = u64::MAX;
        let mut classes = 0;
        for entry in &self.entries {
            let class = class(entry.name);
            if class != last && class != u64::MAX {
                classes += 1;
                last = class;
            }
        }
        classes
    }
}

fn fold(out: &mut Vec<u8>, reports: &[NodeReport<'_>], choose: impl Fn(&[u8]) -> Option<Fold> + Copy) {
    let mut table = Table::default();
    for report in reports {
        table.add(report.stats, choose);
    }
    let classes = table.group();
    for entry in &table.entries {
        let millionths = match entry.fold {
            Fold::Classes => whole(classes),
            Fold::Sum | Fold::Max | Fold::Min => entry.millionths,
        };
        append_figure(out, entry.name, millionths, entry.decimals);
    }
    append_end(out);
}

/// The `STAT` lines of a node's reply. Anything else is passed over.
fn lines(stats: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    stats.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter_map(|line| {
        match reply::parse(line) {
            Some(Line::Stat { name, value }) => Some((name, value)),
            _ => None,
        }
    })
}

/// The slab class of `items:<class>:<field>` and `<class>:<field>`; `u64::MAX` without one.
fn class(name: &[u8]) -> u64 {
    let name = name.strip_prefix(b"items:").unwrap_or(name);
    let end = name.iter().position(|&b| b == b':').unwrap_or(0);
    let digits = name.get(..end).unwrap_or_default();
    number::digits(digits).unwrap_or(u64::MAX)
}

/// What stands behind the last colon.
fn field(name: &[u8]) -> &[u8] {
    name.rsplit(|&b| b == b':').next().unwrap_or(name)
}

/// Reads `12` or `0.006824` (up to six decimals) as millionths.
fn millionths(value: &[u8]) -> Option<(u128, bool)> {
    let Some(point) = value.iter().position(|&b| b == b'.') else {
        return Some((whole(number::digits(value)?), false));
    };
    let (before, after) = value.split_at(point);
    let after = after.get(1..).filter(|after| after.len() <= 6)?;
    let scale = 10_u64.pow(6 - u32::try_from(after.len()).ok()?);
    let part = u128::from(number::digits(after)?) * u128::from(scale);
    Some((whole(number::digits(before)?) + part, true))
}

const fn whole(value: u64) -> u128 {
    value as u128 * 1_000_000
}

fn append_figure(out: &mut Vec<u8>, name: &[u8], millionths: u128, decimals: bool) {
    let units = millionths / 1_000_000;
    let text = if decimals { format!("{units}.{:06}", millionths % 1_000_000) } else { units.to_string() };
    append_stat(out, name, text.as_bytes());
}

/// Appends one line. `END` inside it is written in lower case (a node named `BACKEND-1`, a path in
/// the settings), white space in a name as `_`: a client must find three words and the end where
/// they are.
pub(super) fn append_stat(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(b"STAT ");
    out.extend(name.iter().map(|&b| if b <= b' ' || b == 0x7f { b'_' } else { b }));
    out.push(b' ');
    out.extend_from_slice(value);
    let line = out.get_mut(start..).unwrap_or_default();
    let text = line.get_mut(5..).unwrap_or_default();
    if text.windows(3).any(|three| three == b"END") {
        text.make_ascii_lowercase();
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn append_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"END\r\n");
}

#[cfg(test)]
mod tests;
