//! Medians of the rounds as Markdown, beside the peers and the targets; and all rounds as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::NOISE;
use crate::contestants::Contestant;
use crate::workload::Profile;

/// What one contestant did in one round of one profile.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) ops_per_second: f64,
    /// Percentiles 50, 99 and 99.9 in µs.
    pub(crate) latency: [f64; 3],
    /// µs per op; none without a proxy.
    pub(crate) proxy_cpu: Option<f64>,
    /// µs per op, all nodes together.
    pub(crate) node_cpu: f64,
    /// µs per op of the generator.
    pub(crate) client_cpu: f64,
    /// MiB before the first client and at the highest.
    pub(crate) rss: Option<[f64; 2]>,
    /// The part of the CPUs' time that was spent for others.
    pub(crate) foreign: f64,
    pub(crate) wrong: u64,
}

/// All rounds of one contestant in one profile.
pub(crate) struct Row {
    pub(crate) contestant: Contestant,
    pub(crate) samples: Vec<Sample>,
    /// From the traced pass.
    pub(crate) syscalls_per_op: Option<f64>,
}

impl Row {
    pub(crate) fn new(contestant: Contestant) -> Self {
        Self { contestant, samples: Vec::new(), syscalls_per_op: None }
    }

    fn figure(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<Figure> {
        Figure::of(self.samples.iter().filter_map(of).collect())
    }

    fn operations(&self) -> Option<Figure> {
        self.figure(|s| Some(s.ops_per_second))
    }

    fn proxy_cpu(&self) -> Option<Figure> {
        self.figure(|s| s.proxy_cpu)
    }

    fn node_cpu(&self) -> Option<Figure> {
        self.figure(|s| Some(s.node_cpu))
    }
}

/// All contestants in one profile.
pub(crate) struct Table {
    pub(crate) profile: &'static Profile,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    fn row(&self, contestant: Contestant) -> Option<&Row> {
        self.rows.iter().find(|row| row.contestant == contestant)
    }
}

/// Median, least and greatest of the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Figure {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Self { median, min, max })
    }

    pub(crate) fn range(self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }
}

fn text<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

impl Table {
    /// Its medians as Markdown. `traced`: system calls were counted.
    pub(crate) fn markdown(&self, traced: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "\n### {}: {}\n", self.profile.name, self.profile.about);
        let _ = writeln!(
            out,
            "| {} | ops/s (min–max) | ×direct | ×twemproxy | p50 µs | p99 µs (min–max) | p99.9 µs (min–max) \
             | proxy µs/op (min–max) | nodes µs/op (min–max) | client µs/op | syscalls/op | RSS idle MiB \
             | RSS peak MiB | wrong |",
            self.profile.name
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        for row in &self.rows {
            let times = |other: Contestant| {
                let base = self.row(other).and_then(Row::operations);
                text(row.operations().zip(base), |(ours, base)| format!("{:.2}", ours.median / base.median))
            };
            let latency = |i: usize| row.figure(|s| s.latency.get(i).copied());
            let syscalls = match (row.syscalls_per_op, traced, row.contestant) {
                (Some(calls), ..) => format!("{calls:.2}"),
                (None, false, _) => "n/a".to_owned(),
                (None, true, _) => "–".to_owned(),
            };
            let rss = |i: usize| row.figure(|s| s.rss.map(|rss| rss[i]));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {syscalls} | {} | {} | {} |",
                row.contestant.name(),
                text(row.operations(), |f| f.range(0)),
                times(Contestant::Direct),
                times(Contestant::Twemproxy),
                text(latency(0), |f| format!("{:.0}", f.median)),
                text(latency(1), |f| f.range(0)),
                text(latency(2), |f| f.range(0)),
                text(row.proxy_cpu(), |f| f.range(2)),
                text(row.node_cpu(), |f| f.range(2)),
                text(row.figure(|s| Some(s.client_cpu)), |f| format!("{:.2}", f.median)),
                text(rss(0), |f| format!("{:.1}", f.median)),
                text(rss(1), |f| format!("{:.1}", f.median)),
                row.samples.iter().map(|s| s.wrong).sum::<u64>(),
            );
        }
        for row in &self.rows {
            if let Some(foreign) = row.figure(|s| Some(s.foreign)).filter(|foreign| foreign.max > NOISE) {
                let (name, percent) = (row.contestant.name(), foreign.max * 100.0);
                let _ = writeln!(out, "\n{name}: in its noisiest round others had {percent:.0} % of the CPUs.");
            }
            let busy = row.figure(|s| Some(s.client_cpu * s.ops_per_second / 1e6)).map_or(0.0, |f| f.median);
            if busy > 0.85 {
                let name = row.contestant.name();
                let _ = writeln!(
                    out,
                    "\n{name}: the generator was busy {:.0} % of the time, so it may be the limit.",
                    busy * 100.0
                );
            }
        }
        out
    }

    /// All its rounds.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let samples = row.samples.iter().map(|sample| {
                json!({
                    "ops_per_second": sample.ops_per_second,
                    "latency_us": { "p50": sample.latency[0], "p99": sample.latency[1], "p99.9": sample.latency[2] },
                    "proxy_cpu_us_per_op": sample.proxy_cpu,
                    "node_cpu_us_per_op": sample.node_cpu,
                    "client_cpu_us_per_op": sample.client_cpu,
                    "rss_mib": sample.rss.map(|[idle, peak]| json!({ "idle": idle, "peak": peak })),
                    "foreign_cpu_share": sample.foreign,
                    "wrong": sample.wrong,
                })
            });
            json!({
                "contestant": row.contestant.name(),
                "syscalls_per_op": row.syscalls_per_op,
                "rounds": samples.collect::<Vec<_>>(),
            })
        });
        json!({ "profile": self.profile.name, "about": self.profile.about, "rows": rows.collect::<Vec<_>>() })
    }
}

/// Slipring as it is by default.
const SLIPRING: Contestant = Contestant::Slipring { merge_gets: true };

/// A figure that is compared, its name, and whether more of it is better.
type Compared = (&'static str, fn(&Sample) -> Option<f64>, bool);

const COMPARED: [Compared; 5] = [
    ("ops/s", |s| Some(s.ops_per_second), true),
    ("proxy CPU per op", |s| s.proxy_cpu, false),
    ("node CPU per op", |s| Some(s.node_cpu), false),
    ("p99", |s| s.latency.get(1).copied(), false),
    ("p99.9", |s| s.latency.get(2).copied(), false),
];

/// Slipring as it is by default beside the best of the peers in each figure: twemproxy and those of `--peer`. Inside what
/// that peer's rounds range over it is a tie.
pub(crate) fn beside_peers(tables: &[Table]) -> String {
    let is_peer = |row: &&Row| matches!(row.contestant, Contestant::Twemproxy | Contestant::Peer(_));
    if !tables.iter().any(|table| table.rows.iter().any(|row| is_peer(&row)) && table.row(SLIPRING).is_some()) {
        return String::new();
    }
    let names: Vec<&str> = COMPARED.iter().map(|(name, ..)| *name).collect();
    let mut out = format!("\n### Beside the best peer in each figure\n\n| | {} |\n|---|", names.join(" | "));
    out += &"---|".repeat(names.len());
    out += "\n";
    for table in tables {
        let Some(ours) = table.row(SLIPRING) else { continue };
        let cells = COMPARED.iter().map(|(_, of, more_is_better)| {
            let peers = table.rows.iter().filter(is_peer);
            let figures = peers.filter_map(|row| Some((row.contestant.name(), row.figure(of)?)));
            let best = if *more_is_better {
                figures.max_by(|a, b| a.1.median.total_cmp(&b.1.median))
            } else {
                figures.min_by(|a, b| a.1.median.total_cmp(&b.1.median))
            };
            text(ours.figure(of).zip(best), |(ours, (name, best))| {
                let tie = if (best.min..=best.max).contains(&ours.median) { ", a tie" } else { "" };
                format!("{:.2} × {name}{tie}", ours.median / best.median)
            })
        });
        let _ = writeln!(out, "| {} | {} |", table.profile.name, cells.collect::<Vec<_>>().join(" | "));
    }
    out
}

/// What a target looks at.
#[derive(Clone, Copy)]
enum Measure {
    Operations,
    ProxyCpu,
    NodeCpu,
    P99,
    Syscalls,
    IdleRss,
}

/// Who is judged beside whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Text clients of slipring beside those of twemproxy.
    Twemproxy,
    /// Binary clients of slipring beside text clients of it.
    Text,
    /// Slipring with a ring before beside one without.
    NoRingBefore,
}

impl Beside {
    fn judges(self, contestant: Contestant) -> bool {
        match self {
            Self::Twemproxy => matches!(contestant, Contestant::Slipring { .. }),
            Self::Text => contestant == Contestant::SlipringBinary,
            Self::NoRingBefore => matches!(contestant, Contestant::SlipringBefore | Contestant::SlipringMoved),
        }
    }

    fn whom(self) -> Contestant {
        match self {
            Self::Twemproxy => Contestant::Twemproxy,
            Self::Text => SLIPRING,
            Self::NoRingBefore => Contestant::SlipringFour,
        }
    }
}

struct Target {
    profile: &'static str,
    measure: Measure,
    at_least: bool,
    limit: f64,
    beside: Beside,
}

const TARGETS: &[Target] = &[
    Target { profile: "L50", measure: Measure::Operations, at_least: true, limit: 1.15, beside: Beside::Twemproxy },
    Target { profile: "L50", measure: Measure::ProxyCpu, at_least: false, limit: 1.00, beside: Beside::Twemproxy },
    Target { profile: "L50", measure: Measure::NodeCpu, at_least: false, limit: 0.65, beside: Beside::Twemproxy },
    Target { profile: "L1", measure: Measure::ProxyCpu, at_least: false, limit: 1.00, beside: Beside::Twemproxy },
    Target { profile: "M24", measure: Measure::ProxyCpu, at_least: false, limit: 1.00, beside: Beside::Twemproxy },
    Target { profile: "L1", measure: Measure::Syscalls, at_least: false, limit: 6.5, beside: Beside::Twemproxy },
    Target { profile: "L50", measure: Measure::Syscalls, at_least: false, limit: 2.5, beside: Beside::Twemproxy },
    Target { profile: "P16", measure: Measure::Syscalls, at_least: false, limit: 0.3, beside: Beside::Twemproxy },
    Target { profile: "L1", measure: Measure::IdleRss, at_least: false, limit: 5.0, beside: Beside::Twemproxy },
    Target { profile: "L50", measure: Measure::ProxyCpu, at_least: false, limit: 1.15, beside: Beside::Text },
    // They merge as text does: what is more is noise.
    Target { profile: "L50", measure: Measure::NodeCpu, at_least: false, limit: 1.05, beside: Beside::Text },
    Target { profile: "L50", measure: Measure::ProxyCpu, at_least: false, limit: 1.15, beside: Beside::NoRingBefore },
    Target { profile: "M24", measure: Measure::ProxyCpu, at_least: false, limit: 1.15, beside: Beside::NoRingBefore },
    Target { profile: "O20k", measure: Measure::ProxyCpu, at_least: false, limit: 1.15, beside: Beside::NoRingBefore },
    Target { profile: "L50", measure: Measure::P99, at_least: false, limit: 1.20, beside: Beside::NoRingBefore },
    Target { profile: "O20k", measure: Measure::P99, at_least: false, limit: 1.20, beside: Beside::NoRingBefore },
    Target { profile: "N64", measure: Measure::Operations, at_least: true, limit: 0.70, beside: Beside::NoRingBefore },
];

impl Target {
    fn name(&self) -> String {
        let what = match self.measure {
            Measure::Operations => "ops/s",
            Measure::ProxyCpu => "proxy CPU per op",
            Measure::NodeCpu => "node CPU per op",
            Measure::P99 => "p99",
            Measure::Syscalls => "syscalls per op",
            Measure::IdleRss => return format!("idle RSS, MiB | ≤ {:.1}", self.limit),
        };
        let than = match self.measure {
            Measure::Syscalls | Measure::IdleRss => String::new(),
            _ => format!(" × {}", self.beside.whom().name()),
        };
        format!("{}: {what}{than} | {} {:.2}", self.profile, if self.at_least { "≥" } else { "≤" }, self.limit)
    }

    /// The figure to judge: a ratio of medians with the range of the rounds' own ratios, or a plain
    /// figure.
    fn judge(&self, tables: &[Table], contestant: Contestant) -> String {
        if !self.beside.judges(contestant) {
            return "–".to_owned();
        }
        let Some(figure) = self.figure(tables, contestant) else {
            return "n/a".to_owned();
        };
        let met = if self.at_least { figure.median >= self.limit } else { figure.median <= self.limit };
        format!("{} {}", figure.range(3), if met { "pass" } else { "**miss**" })
    }

    fn figure(&self, tables: &[Table], contestant: Contestant) -> Option<Figure> {
        let table = tables.iter().find(|table| table.profile.name == self.profile)?;
        let ours = table.row(contestant)?;
        let of: fn(&Sample) -> Option<f64> = match self.measure {
            Measure::Syscalls => return Figure::of(vec![ours.syscalls_per_op?]),
            Measure::IdleRss => return ours.figure(|s| s.rss.map(|rss| rss[0])),
            Measure::Operations => |s| Some(s.ops_per_second),
            Measure::ProxyCpu => |s| s.proxy_cpu,
            Measure::NodeCpu => |s| Some(s.node_cpu),
            Measure::P99 => |s| Some(s.latency[1]),
        };
        let theirs = table.row(self.beside.whom())?;
        let pairs = ours.samples.iter().zip(&theirs.samples);
        let mut ratio = Figure::of(pairs.filter_map(|(a, b)| Some(of(a)? / of(b)?)).collect())?;
        ratio.median = ours.figure(of)?.median / theirs.figure(of)?.median;
        Some(ratio)
    }
}

/// The figures that prove the shape of the data path. A report: nothing fails here.
pub(crate) fn targets(tables: &[Table]) -> String {
    let judged: Vec<Contestant> = Contestant::ALL
        .into_iter()
        .filter(|c| TARGETS.iter().any(|target| target.beside.judges(*c)))
        .filter(|c| tables.iter().any(|table| table.row(*c).is_some()))
        .collect();
    let mut out = "\n### Targets (default settings: `slipring`)\n\n".to_owned();
    if judged.is_empty() {
        return out + "No slipring contestant ran: nothing to judge.\n";
    }
    let names: Vec<&str> = judged.iter().map(|c| c.name()).collect();
    let _ = writeln!(out, "| target | limit | {} |", names.join(" | "));
    let _ = writeln!(out, "|---|---|{}", "---|".repeat(names.len()));
    for target in TARGETS {
        let verdicts: Vec<String> = judged.iter().map(|c| target.judge(tables, *c)).collect();
        let _ = writeln!(out, "| {} | {} |", target.name(), verdicts.join(" | "));
    }
    out
}
