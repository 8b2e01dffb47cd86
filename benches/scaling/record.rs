//! What came of each second of a run, and of the runs of a scenario.

use serde::{Deserialize, Serialize};

/// What was answered within a second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Second {
    pub(crate) gets: u64,
    pub(crate) hits: u64,
    pub(crate) writes: u64,
    /// Hits whose value had been replaced before it was asked for.
    pub(crate) old: u64,
    /// Such hits of keys that were last written while the sidecars had different rings.
    pub(crate) old_while_they_differ: u64,
    pub(crate) wrong: u64,
    pub(crate) errors: u64,
}

impl Second {
    /// In percent; none if nothing was asked.
    pub(crate) fn hit_rate(&self) -> Option<f64> {
        (self.gets > 0).then(|| 100.0 * self.hits as f64 / self.gets as f64)
    }
}

/// Something that was done in a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Seconds since its begin.
    pub(crate) at_s: f64,
    pub(crate) what: String,
}

/// A scenario with the ring before, or without.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) with: bool,
    pub(crate) seconds: Vec<Second>,
    pub(crate) marks: Vec<Mark>,
    /// The first of the marks that changes the ring.
    pub(crate) change: usize,
    /// The first answer that was wrong, old or an error.
    pub(crate) first_fault: Option<String>,
}

/// Seconds at the begin that are not looked at.
const WARM_UP: usize = 2;

impl Run {
    /// When the ring first changed, in seconds since the begin.
    pub(crate) fn changed_at_s(&self) -> f64 {
        self.marks.get(self.change).map_or(0.0, |mark| mark.at_s)
    }

    /// The whole seconds before anything was done.
    fn before(&self) -> &[Second] {
        let until = self.marks.first().map_or(0, |mark| mark.at_s as usize);
        self.seconds.get(WARM_UP..until).unwrap_or_default()
    }

    /// The hit rate of all seconds before anything was done, in percent.
    pub(crate) fn rate_before(&self) -> f64 {
        let (gets, hits) = self.before().iter().fold((0, 0), |(gets, hits), s| (gets + s.gets, hits + s.hits));
        100.0 * hits as f64 / gets.max(1) as f64
    }

    /// The seconds since then.
    fn after(&self) -> &[Second] {
        self.seconds.get(WARM_UP + self.before().len()..).unwrap_or_default()
    }

    /// The least hit rate of a second, before anything was done and since, in percent.
    pub(crate) fn lowest(&self) -> [f64; 2] {
        [self.before(), self.after()]
            .map(|seconds| seconds.iter().filter_map(Second::hit_rate).fold(100.0, |least: f64, rate| least.min(rate)))
    }

    /// Hits that are missing in all since, beside the rate before.
    pub(crate) fn hits_lost(&self) -> f64 {
        let rate = self.rate_before() / 100.0;
        self.after().iter().map(|s| s.gets as f64 * rate - s.hits as f64).sum::<f64>().max(0.0)
    }

    pub(crate) fn sum(&self, of: impl Fn(&Second) -> u64) -> u64 {
        self.seconds.iter().map(of).sum()
    }
}

/// What the hit rate of each second has to be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Bound {
    /// At most so many points below that before.
    PointsBelow(f64),
    /// At least this share of that before.
    Share(f64),
}

impl Bound {
    /// The least rate, in percent.
    pub(crate) fn least(self, before: f64) -> f64 {
        match self {
            Self::PointsBelow(points) => before - points,
            Self::Share(share) => before * share,
        }
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::PointsBelow(points) => format!("at most {points} points below before"),
            Self::Share(share) => format!("at least {:.0} % of before", share * 100.0),
        }
    }
}

/// A scenario, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) bound: Bound,
    /// UTC.
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) operations_per_second: f64,
    pub(crate) keys: usize,
    /// In which every key is stored anew, in seconds.
    pub(crate) round_s: f64,
    pub(crate) runs: Vec<Run>,
}

impl Outcome {
    pub(crate) fn run(&self, with: bool) -> Option<&Run> {
        self.runs.iter().find(|run| run.with == with)
    }

    /// What is missed of what is promised.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for run in &self.runs {
            let which = if run.with { "with the ring before" } else { "without it" };
            let mut none = |count: u64, what: &str| {
                if count > 0 {
                    missed.push(format!("{} {which}: {count} {what}", self.name));
                }
            };
            none(run.sum(|s| s.wrong), "wrong values");
            none(run.sum(|s| s.old), "old values of keys that no sidecar wrote while the rings differed");
            none(run.sum(|s| s.errors), "errors");
            let [_, lowest] = run.lowest();
            let least = self.bound.least(run.rate_before());
            if run.with && lowest < least {
                missed.push(format!(
                    "{} {which}: a second with a hit rate of {lowest:.2} %, wanted is {}: {least:.2} %",
                    self.name,
                    self.bound.name()
                ));
            }
        }
        missed
    }
}

/// The table of all that is kept.
pub(crate) fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "# Scaling without misses: hit rates\n\nMade by `cargo bench --bench scaling`; [what it does](../README.md#scaling-without-misses). The hit \
         rate is that of each second; lost are the hits that the rate before would have given in the rest of the run. Old values of keys that \
         were last written while the sidecars had different rings are counted by themselves.\n\n\
         | change | ring before | hit rate before (lowest second) | lowest second since | hits lost | old values | of keys written while the rings differed | wrong | errors | wanted |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        for run in &outcome.runs {
            let [before, since] = run.lowest();
            let wanted = match run.with {
                false => "–".to_owned(),
                true => {
                    let held = outcome.missed().is_empty();
                    format!("{}: {}", outcome.bound.name(), if held { "held" } else { "**missed**" })
                }
            };
            text += &format!(
                "| {} | {} | {:.2} % ({before:.2} %) | {since:.2} % | {:.0} | {} | {} | {} | {} | {wanted} |\n",
                outcome.title,
                if run.with { "declared" } else { "none" },
                run.rate_before(),
                run.hits_lost(),
                run.sum(|s| s.old),
                run.sum(|s| s.old_while_they_differ),
                run.sum(|s| s.wrong),
                run.sum(|s| s.errors),
            );
        }
    }
    for outcome in outcomes {
        text += &format!(
            "\n## {}\n\n![Hit rate per second]({name}.svg)\n\n{}, {}; {:.0} operations per second, {} keys, each stored anew every {:.0} s. \
             [Every second]({name}.json).\n",
            outcome.title,
            outcome.date,
            outcome.machine,
            outcome.operations_per_second,
            outcome.keys,
            outcome.round_s,
            name = format_args!("scaling-{}", outcome.name),
        );
    }
    text
}
