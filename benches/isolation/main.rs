//! What large values and storms of clients cost everybody, beside twemproxy (Debian's `nutcracker`).
//!
//! ```text
//! cargo bench --bench isolation                                  # every row: an hour or so
//! cargo bench --bench isolation -- --rows herd,mixed --rounds 1  # those whose names begin so
//! cargo bench --bench isolation -- --rows small --seconds 5      # the table in deploy/OPERATING.md
//! cargo bench --bench isolation -- --rows tls                    # nodes that take TLS alone
//! SLIPRING_BIN=target/dist/slipring cargo bench --bench isolation -- --rows aborts
//! SLIPRING_BEFORE=/path/of/another/slipring cargo bench --bench isolation -- --rows size
//! ```
//!
//! Needs `memcached` in PATH and, for their columns, `nutcracker`, `haproxy` and `stunnel4`; for nodes with TLS `openssl`.
//! Without `SLIPRING_BIN` slipring is what cargo built for this bench. Everything listens on free loopback ports and is gone
//! at the end.
//!
//! # The rows
//! | row | load |
//! |---|---|
//! | `herd-500` `herd-1000` `herd-2000` | so many clients ask for the same 1.1 MB value at once |
//! | `herd-20KB` | 1,000 clients ask for the same 20 KB, slipring with `--bulk-above 16KiB` |
//! | `mixed` | 20 readers and 5 setters of 64 values of 1.1 MB |
//! | `mixed-below` | the same with 1.0 MB, just below the default of `--bulk-above` |
//! | `readers` | 100 readers of 64 values of 1.1 MB |
//! | `readers-100KB` `mixed-100KB` | the same with 100 KB, slipring with `--bulk-above 64KiB` |
//! | `size-64KiB` | 20 readers, each of a value of its own |
//! | `size-512KiB` | 4 readers, each of a value of its own |
//! | `memory` | 8 clients each store and read a value of 128 MiB |
//! | `aborts` | 4,000 connections ask, half of them for one of 16 values of 1.1 MB, and are reset when the answer begins |
//! | `tls-100B` `tls-64KiB` | 45 readers and 5 setters of 64 values of that size, from a node that takes TLS alone |
//! | `small` | 100 B gets beside streams, by `--bulk-above` |
//!
//! # How it measures
//! - One memcached (`-t 1`) per row; each proxy is started afresh for each measurement and the values are stored through
//!   it. A round runs every contestant once, in an order that rotates from round to round, so that a noisy machine is noisy
//!   for all; tables show medians of the rounds, with the least and the greatest in brackets.
//! - One generator thread reads as fast as it can. The ends of every piece of every answer are compared; a wrong byte ends
//!   the bench. Misses, error lines, clients that were closed and clients without an answer are counted.
//! - In flows everything is counted after a second of the same load, so connects are those of the steady state.
//! - "written by the node / delivered" is what the node says it has sent over what came to the clients: a connection that
//!   is closed in the middle loses bytes that only the node knows of. "read by slipring / delivered" is slipring's own view.
//! - The witness of `herd` and `aborts` stores a small value every 2 ms on a connection of its own; its longest wait is
//!   told, that of a request that still waits at the end included.
//! - Over TLS the node's certificate is verified by all; HAProxy and stunnel carry a connection to the node for each of
//!   theirs, so that those of twemproxy in front of them (the ring, as it is done today) share one, and those of clients do
//!   not. The CPU of two in a row is added up. HAProxy has one thread, as twemproxy and slipring's one worker do; stunnel
//!   has one for each connection.
//! - A measurement gives up after `--limit` seconds.
//!
//! Compare within one run only; timings are a report, never an assertion.
#![expect(clippy::print_stdout, reason = "the report is what this program is for")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(clippy::unwrap_used, reason = "a bench may panic")]
#![expect(clippy::indexing_slicing, reason = "a bench may panic; its indices come from its own tables")]
#![expect(clippy::cast_possible_truncation, reason = "its numbers are small")]

#[path = "../parts/admin.rs"]
mod admin;
mod crowd;
#[path = "../parts/process.rs"]
mod process;
mod processes;
mod rows;
mod secured;
mod small;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use processes::{Contestant, Node};
use rows::{Figure, Load, ROWS, Row};
use secured::Files;

/// Runs contestants side by side and prints Markdown tables.
#[derive(Debug, Parser)]
struct Options {
    /// Rows whose names are or begin with one of these; all, if not given.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Measurements of each contestant in each row.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load, where a row is no single event.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds after which a measurement waits no longer.
    #[arg(long, default_value_t = 150.0)]
    limit: f64,
    /// Some of slipring, before, twemproxy; for nodes with TLS, twemproxy+haproxy, twemproxy+stunnel, haproxy, stunnel.
    #[arg(long, value_delimiter = ',', value_parser = Contestant::of_name)]
    contestants: Vec<Contestant>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.limit)
    }

    fn wants(&self, row: &Row) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| row.name.starts_with(name.as_str()))
    }
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if !options.bench {
        println!("isolation takes minutes and a real node; run it with `cargo bench --bench isolation`");
        return ExitCode::SUCCESS;
    }
    if options.contestants.is_empty() {
        options.contestants = Contestant::usual();
    }
    if let Some(name) = options.rows.iter().find(|name| !ROWS.iter().any(|row| row.name.starts_with(name.as_str()))) {
        eprintln!("isolation: no row is called {name}");
        return ExitCode::FAILURE;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isolation: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    // For this process and all that it starts: thousands of clients have a descriptor each.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let given = std::env::var("SLIPRING_BIN").ok();
    println!("slipring: {}", given.unwrap_or_else(|| processes::BUILT.to_owned()));
    for row in ROWS.iter().filter(|row| options.wants(row)) {
        println!("\n## {}: {:?} {}", row.name, row.load, row.arguments.join(" "));
        if matches!(row.load, Load::Small) {
            small::table(options)?;
            continue;
        }
        let (mib, item_mib) = row.node_mib();
        let files = if row.tls { Some(Files::new()?) } else { None };
        let node = Node::start(mib, item_mib, files)?;
        let contestants: Vec<Contestant> = options.contestants.iter().copied().filter(|c| row.is_for(*c)).collect();
        let mut found: Vec<Vec<Vec<Figure>>> = contestants.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds as usize {
            for turn in 0..contestants.len() {
                let which = (round + turn) % contestants.len();
                let figures = row.measure(options, contestants[which], &node)?;
                let first =
                    figures.first().map_or(String::new(), |first| format!("{}: {:.3}", first.name, first.value));
                eprintln!("{} {}: {first}", row.name, contestants[which].name());
                found[which].push(figures);
            }
        }
        print(&contestants, &found);
    }
    Ok(())
}

/// A figure a line, a contestant a column.
fn print(contestants: &[Contestant], found: &[Vec<Vec<Figure>>]) {
    let names: Vec<&str> = contestants.iter().map(|contestant| contestant.name()).collect();
    println!("\n| | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    let all = found.iter().flatten().flatten();
    let mut lines: Vec<&str> = Vec::new();
    for figure in all {
        if !lines.contains(&figure.name) {
            lines.push(figure.name);
        }
    }
    for line in lines {
        let cells = found.iter().map(|rounds| {
            let of_line = rounds.iter().flatten().filter(|figure| figure.name == line);
            let mut values: Vec<f64> = of_line.map(|figure| figure.value).collect();
            values.sort_by(f64::total_cmp);
            match values[..] {
                [] => "–".to_owned(),
                [one] => show(one),
                [least, .., greatest] if least == greatest => show(least),
                [least, .., greatest] => {
                    format!("{} ({}–{})", show(values[values.len() / 2]), show(least), show(greatest))
                }
            }
        });
        println!("| {line} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

/// Three digits, or all before the point.
fn show(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
