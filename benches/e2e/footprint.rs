//! `--footprint`: what a proxy costs that has nothing to do, and how soon it serves.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::contestants::{Contestant, Started, patiently};
use crate::load::{Load, ask_all};
use crate::measure::memory_kib;
use crate::process::{Process, START_LIMIT, free_address};
use crate::report::Figure;
use crate::workload::{Dataset, Dialect, PROFILES, Profile, Request, SMALL};
use crate::{Bench, SETTLE};

const CLIENTS: usize = 1_000;
/// Those that come before them: what a proxy has to load to serve anybody is not memory of a client.
const FIRST_CLIENTS: usize = 20;
/// A proxy is started so often for each round's median.
const STARTS: usize = 20;
/// Behind the work with large values, and without any.
const PAUSE: Duration = Duration::from_secs(10);
const NAMES: [&str; 5] = [
    "RSS idle, MiB",
    "RSS per idle client, KiB",
    "RSS 10 s after 512 KiB × 4, above idle, MiB",
    "exec to first served get, ms",
    "wake-ups in 10 s of nothing to do",
];

type Figures = [f64; NAMES.len()];

/// Measures every proxy in turn and gives a table.
pub(crate) fn footprint(bench: &mut Bench<'_>) -> io::Result<String> {
    let all = bench.options.contestants.iter().copied();
    let contestants: Vec<Contestant> = all
        .filter(|contestant| *contestant != Contestant::Direct && contestant.dialect() == Dialect::Text)
        .filter(|contestant| contestant.filled_by().is_none())
        .collect();
    let mut found: Vec<Vec<Figures>> = vec![Vec::new(); contestants.len()];
    for round in 0..bench.options.rounds as usize {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            let figures = measured(bench, contestants[which])?;
            eprintln!("{}: {figures:.2?}", contestants[which].name());
            found[which].push(figures);
        }
    }
    let names: Vec<&str> = contestants.iter().map(|contestant| contestant.name()).collect();
    let mut out = format!("\n### Footprint: median (min–max)\n\n| | {} |\n|---|", names.join(" | "));
    out += &"---|".repeat(names.len());
    out += "\n";
    for (i, name) in NAMES.iter().enumerate() {
        let cells = found.iter().map(|rounds| {
            let figure = Figure::of(rounds.iter().map(|figures| figures[i]).collect());
            figure.map_or_else(|| "–".to_owned(), |figure| figure.range(2))
        });
        let _ = writeln!(out, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    Ok(out)
}

fn measured(bench: &Bench<'_>, contestant: Contestant) -> io::Result<Figures> {
    let large = PROFILES.iter().find(|profile| profile.name == "V512K").ok_or_else(|| io::Error::other("no V512K"))?;
    let (started, _) = bench.prepare(contestant, &one_key(large), large.value_len)?;
    // What keys are stored with is not memory of the idle.
    drop(started);
    let first_get_ms = first_get_ms(bench, contestant)?;
    let (started, idle) = started_idle(bench, contestant, large)?;
    // Each asks once, as those in a pool of connections have.
    let address = started.addresses[0];
    let connect = |count| (0..count).map(|_| patiently(|| asked(address))).collect::<io::Result<Vec<_>>>();
    let first_clients = connect(FIRST_CLIENTS)?;
    sleep(SETTLE);
    let with_few = rss(&started)?;
    let clients = connect(CLIENTS)?;
    sleep(SETTLE);
    let per_client = (rss(&started)? - with_few) / CLIENTS as f64;
    drop((first_clients, clients, started));
    // Another one, that has not had so many clients.
    let (started, idle_again) = started_idle(bench, contestant, large)?;
    let address = started.addresses[0];
    let dataset = Dataset::new(large, Dialect::Text);
    ask_all(&dataset, &[address], Request::Set)?;
    let outcome =
        Load::connect(large, &dataset, &[address], None)?.run(Duration::from_secs_f64(bench.options.seconds))?;
    if outcome.wrong > 0 {
        return Err(io::Error::other(outcome.first_wrong.unwrap_or_default()));
    }
    sleep(PAUSE);
    let after = rss(&started)?;
    let before = switches(pid(&started)?)?;
    sleep(PAUSE);
    let wakes = switches(pid(&started)?)? - before;
    Ok([idle / 1024.0, per_client, (after - idle_again) / 1024.0, first_get_ms, wakes as f64])
}

/// One that was started and has nothing to do, and its resident set, in KiB.
fn started_idle(bench: &Bench<'_>, contestant: Contestant, profile: &Profile) -> io::Result<(Started, f64)> {
    let started = contestant.start(&bench.nodes, &bench.scratch, profile.value_len)?;
    sleep(SETTLE);
    let idle = rss(&started)?;
    Ok((started, idle))
}

fn pid(started: &Started) -> io::Result<u32> {
    started.proxy.as_ref().map(Process::pid).ok_or_else(|| io::Error::other("no proxy"))
}

/// KiB.
fn rss(started: &Started) -> io::Result<f64> {
    memory_kib(pid(started)?, "VmRSS").map(|kib| kib as f64)
}

fn one_key(profile: &Profile) -> Dataset {
    Dataset::new(&Profile { key_count: 1, value_len: SMALL.value_len, ..*profile }, Dialect::Text)
}

/// The median over [`STARTS`].
fn first_get_ms(bench: &Bench<'_>, contestant: Contestant) -> io::Result<f64> {
    let mut took_ms = Vec::new();
    for _ in 0..STARTS {
        let address = free_address()?;
        let Some(command) = contestant.command(address, &bench.nodes, &bench.scratch, SMALL.value_len)? else {
            return Err(io::Error::other("no proxy"));
        };
        let start = Instant::now();
        let _process = Process::spawn(command, None)?;
        while asked(address).is_err() {
            if start.elapsed() > START_LIMIT {
                return Err(io::Error::other(format!("{} serves nothing", contestant.name())));
            }
            sleep(Duration::from_micros(100));
        }
        took_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Figure::of(took_ms).map(|figure| figure.median).ok_or_else(|| io::Error::other("not one start"))
}

/// A connection whose first get was a hit.
fn asked(address: SocketAddr) -> io::Result<TcpStream> {
    let dataset = one_key(&SMALL);
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(dataset.bytes(Request::Get(0)))?;
    let mut answer = vec![0; dataset.answer_len(Request::Get(0))];
    stream.read_exact(&mut answer)?;
    match dataset.check(Request::Get(0), &answer) {
        crate::workload::Verdict::Right(_) => Ok(stream),
        _ => Err(io::Error::other("not the value")),
    }
}

/// How often threads of a process were taken off a CPU: a thread that was woken has a higher count when it sleeps again.
fn switches(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let counts = status.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}
