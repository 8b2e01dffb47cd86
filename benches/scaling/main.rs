//! What a planned change of the ring costs in hits, with the ring before declared and without: real memcacheds, three
//! sidecars, and clients whose every answer is checked.
//!
//! ```text
//! cargo bench --bench scaling                                        # all three changes: some ten minutes
//! cargo bench --bench scaling -- grow --seconds 20 --results /tmp    # one, shorter
//! cargo bench --bench scaling -- --slipring target/dist/slipring     # the shipped binary
//! ```
//!
//! Needs `memcached` in PATH. Without `--slipring` it is what cargo built for this bench. Everything listens on free loopback
//! ports and is gone at the end.
//!
//! # The changes
//! | name | change | the hit rate of every second is to be |
//! |---|---|---|
//! | `grow` | 3 nodes → 4 → 6 half a second later, the list before being the first three | at most 0.5 points below before |
//! | `placement` | `pymemcache` → `ring`, the sidecars being started anew one after another | at most 0.5 points below before |
//! | `pool` | 3 nodes → 5 others, then the three are stopped | at least 99 % of before |
//!
//! # How it measures
//! - Each sidecar has one worker and a nodes file of its own. An edit comes to one after the other, 300 ms apart, and the next
//!   edit when all show the last in `/ring`, as the manual says: the list before is opened, the ring is changed, the list is
//!   ended when it has given no hit for a second, and removed. Without the list there is only the change.
//! - One generator thread, an open loop of Poisson arrivals over 16 connections to each sidecar: 89 % gets of any key, 10 %
//!   sets, 1 % deletes. The sets go round: every key is stored anew once in `--seconds`, and there are as many keys as that
//!   makes. A get that misses is followed by a set. The share of deleted keys is in its steady state from the begin.
//! - Every value names its key and its version. A value that is older than the last write that was answered before it was
//!   asked for is an old one. Those of keys that were last written while the sidecars had different rings are counted by
//!   themselves: sidecars that lag behind read and write the old places alone, with a ring before and without.
//! - The bench ends with 1 when a hit rate with the list is below what is stated, when there is any other old value, or a
//!   wrong one, or an error, with the list or without.
//! - `scaling-NAME.svg` and `.json` and `scaling.md`, of all there are, are written into `--results`.
//!
//! The bounds hold for the defaults: what lag and the second change cost are shares of the round of the sets, so that a
//! shorter one makes them greater; and fewer operations make the hit rate of a second less certain.
#![expect(clippy::print_stdout, reason = "the report is what this program is for")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(clippy::indexing_slicing, reason = "a bench may panic; its indices come from its own tables")]
#![expect(clippy::cast_possible_truncation, reason = "its numbers are small")]

#[path = "../parts/admin.rs"]
mod admin;
mod cluster;
mod ledger;
mod load;
#[path = "../parts/machine.rs"]
mod machine;
#[path = "../parts/node.rs"]
mod node;
#[path = "../parts/plot.rs"]
mod picture;
mod plot;
#[path = "../parts/process.rs"]
mod process;
#[path = "../parts/random.rs"]
mod random;
mod record;
mod scenarios;
#[path = "../parts/scratch.rs"]
mod scratch;
#[path = "../parts/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

use clap::Parser;

use machine::{machine, today};
use record::{Outcome, markdown};
use scenarios::{Scenario, Settings};
use scratch::Scratch;

/// Changes the ring under load and records the hit rate of each second.
#[derive(Debug, Parser)]
struct Options {
    /// Some of grow, placement, pool; all, if none is named.
    #[arg(value_parser = Scenario::of_name)]
    scenarios: Vec<Scenario>,
    /// Operations per second, of all clients together.
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// Seconds in which every key is stored anew. A run takes some 1.5 times as long.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// The program under test.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_slipring"), hide_default_value = true)]
    slipring: PathBuf,
    /// Where the results go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"), hide_default_value = true)]
    results: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if !options.bench {
        println!("scaling takes minutes and real nodes; run it with `cargo bench --bench scaling`");
        return ExitCode::SUCCESS;
    }
    if options.scenarios.is_empty() {
        options.scenarios = Scenario::ALL.to_vec();
    }
    match run(&options) {
        Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
        Ok(missed) => {
            for what in missed {
                eprintln!("scaling: {what}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("scaling: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all that is asked for and keeps it; what is missed of what is promised.
fn run(options: &Options) -> io::Result<Vec<String>> {
    let scratch = Scratch::new("scaling")?;
    let settings = Settings {
        program: &options.slipring,
        scratch: &scratch,
        rate: options.rate,
        round: Duration::from_secs_f64(options.seconds),
    };
    fs::create_dir_all(&options.results)?;
    let mut missed = Vec::new();
    for scenario in &options.scenarios {
        let mut outcome = Outcome {
            name: scenario.name().to_owned(),
            title: scenario.title().to_owned(),
            bound: scenario.bound(),
            date: today(),
            machine: machine(),
            operations_per_second: settings.rate,
            keys: settings.keys(),
            round_s: options.seconds,
            runs: Vec::new(),
        };
        for with in [false, true] {
            eprintln!("{}, {} the ring before", scenario.title(), if with { "with" } else { "without" });
            let run = scenario.run(&settings, with)?;
            if let Some(fault) = &run.first_fault {
                eprintln!("the first fault: {fault}");
            }
            outcome.runs.push(run);
        }
        missed.extend(outcome.missed());
        let file = |ending: &str| options.results.join(format!("scaling-{}.{ending}", scenario.name()));
        fs::write(file("json"), serde_json::to_string(&outcome)? + "\n")?;
        fs::write(file("svg"), plot::svg(&outcome))?;
    }
    let text = markdown(&kept(&options.results)?);
    fs::write(options.results.join("scaling.md"), &text)?;
    println!("{text}");
    Ok(missed)
}

/// The outcomes that are in a directory, of this run and earlier ones.
fn kept(results: &Path) -> io::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for scenario in Scenario::ALL {
        match fs::read_to_string(results.join(format!("scaling-{}.json", scenario.name()))) {
            Ok(text) => outcomes.push(serde_json::from_str(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(outcomes)
}
