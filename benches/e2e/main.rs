//! Slipring, twemproxy (Debian's `nutcracker`) and no proxy at all, side by side in front of three
//! real memcached nodes.
//!
//! ```text
//! cargo bench --bench e2e                   # everything: half an hour
//! cargo bench --bench e2e -- --one-core     # all processes on one CPU: software cost, least noise
//! cargo bench --bench e2e -- --two-cores    # the nodes on a CPU of their own, the rest on another
//! cargo bench --bench e2e -- --own-network  # the same with the nodes behind a virtual network device (root)
//! cargo bench --bench e2e -- --rounds 3 --seconds 1 --profiles L1,L50 --contestants twemproxy,slipring
//! cargo bench --bench e2e -- --one-core --profiles L50,P16,M24 --contestants slipring,slipring-binary
//! cargo bench --bench e2e -- --one-core --profiles L50,M24,O20k,N64 --contestants slipring-four,slipring-before,slipring-moved
//! SLIPRING_BIN=target/dist/slipring cargo bench --bench e2e -- --results benches/results    # the shipped binary, kept
//! cargo bench --bench e2e -- --one-core --footprint --rounds 3 --contestants twemproxy,slipring    # memory, start, wake-ups
//! cargo bench --bench e2e -- --one-core --curves --results benches/results    # cost per op against nodes, clients, sizes
//! cargo bench --bench e2e -- --one-core --check-generator --contestants twemproxy,slipring    # beside memcaslap
//! cargo bench --bench e2e -- --peer 'before=/path/of/slipring:--nodes {nodes} --listen {listen} --admin-listen {free}'
//! ```
//!
//! Needs `memcached` and, for its rows, `nutcracker` in PATH; `perf` (or `strace`) and the right to
//! trace for the system calls. Without `SLIPRING_BIN` (relative paths start at the package) slipring
//! is what cargo built for this bench. Everything listens on free loopback ports, but nodes with
//! `--own-network`, and is gone at the end.
//!
//! # How it measures
//! - The nodes run all the time; each proxy is started afresh for each measurement, the nodes are
//!   emptied, and all keys are stored through the contestant itself. Then the load runs shortly
//!   unmeasured, then measured.
//! - A round runs every contestant once, in an order that rotates from round to round; tables show
//!   medians of the rounds, with the least and the greatest in brackets.
//! - Before and after each measurement the busy time of the CPUs is read. Where others had more than a twentieth of it the
//!   measurement is repeated, three times at most; what stays noisy is said below its table.
//! - One generator thread. Every answer is compared byte for byte with the only right one (values
//!   name their key). A wrong, missing or unanswered one is counted in the last column and makes
//!   the bench exit with 1; nothing else does but a contestant that cannot be run. Timings are a
//!   report, never an assertion.
//! - CPU is the scheduler's run time of all threads of the processes, divided by the answers.
//!   System calls are counted in a pass of their own after the rounds, because counting disturbs.
//! - The resident set of `--footprint` is read 200 ms after the start, with 1,000 clients of which each has asked once, and
//!   10 s after the load `V512K`. The time to the first get is from before the program is started until a get is a hit, tried
//!   every 100 µs: the median of 20 starts. Wake-ups are the voluntary context switches of all threads in the 10 s after.
//! - `--check-generator` puts memcaslap, which checks nothing, beside this generator; it starts for each measurement, so that
//!   its figures have its start, too. That both count right is tested in `tests/load_generator.rs`.
//! - `direct` spreads its connections over the nodes, each asking one node for everything (with one
//!   connection: one node is all there is), so its multiget does a third of the fan-out of a
//!   router's.
//! - `slipring-binary` is slipring with clients that speak the binary protocol, asking for the same, and `slipring-unix` with
//!   clients that are connected to its Unix socket.
//! - `slipring-four` has a fourth node, and `slipring-before` besides the three as the ring before: the values of a quarter of
//!   the keys are at their old place when the load begins, and move when they are set. With `slipring-moved` all have moved
//!   before. What it costs is the difference.
//!
//! # How to read it
//! Compare within one run only. With free placement on few cores the generator, the proxy and the
//! nodes compete, and wake-ups across cores dominate with one client; `--one-core` is the better
//! view of CPU per op, free placement that of throughput. `--two-cores` is nearer to nodes on other machines: without a proxy
//! the generator has its CPU to itself, and a proxy is weighed with its own CPU time alone. `--own-network` is nearer still: what
//! goes to the nodes passes a network device; whose CPU time that is, `benches/README.md` says. In the closed loops latency is
//! little more than connections ÷ throughput; the tail is the open loop's (`O20k`), where a request that had to wait for its
//! turn counts from when it should have been sent.
#![expect(clippy::print_stdout, reason = "the report is what this program is for")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(clippy::indexing_slicing, reason = "a bench may panic; its indices come from its own tables")]
#![expect(clippy::cast_possible_truncation, reason = "its numbers are small")]

mod check;
mod contestants;
mod curves;
mod footprint;
mod load;
#[path = "../parts/machine.rs"]
mod machine;
mod measure;
mod memcaslap;
#[path = "../parts/node.rs"]
mod node;
mod own_network;
mod packets;
mod peer;
#[path = "../parts/plot.rs"]
mod picture;
mod placement;
#[path = "../parts/process.rs"]
mod process;
#[path = "../parts/random.rs"]
mod random;
mod report;
#[path = "../parts/scratch.rs"]
mod scratch;
#[path = "../parts/veth.rs"]
mod veth;
#[path = "../parts/wire.rs"]
mod wire;
mod workload;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use contestants::{Contestant, Nodes, Started, patiently, slipring_path, version};
use load::{Load, Outcome, ask_all};
use machine::{machine, today};
use measure::{Counter, Method, busy_ns, cpu_ns, memory_kib};
use own_network::OwnNetwork;
use peer::Peer;
use placement::Placement;
use report::{Row, Sample, Table, beside_peers, targets};
use scratch::Scratch;
use workload::{Dataset, Dialect, PROFILES, Profile, Request};

const WARM_UP: Duration = Duration::from_millis(300);
/// A measurement is repeated where others had more than this share of the CPUs.
const NOISE: f64 = 0.05;
/// How often, at most.
const REPEATS: u32 = 3;
/// A fresh proxy is left alone this long before its idle memory is read.
const SETTLE: Duration = Duration::from_millis(200);

/// Runs contestants side by side and prints a Markdown report.
#[derive(Debug, Parser)]
struct Options {
    /// Measurements of each contestant in each profile.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load in each.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Some of L1, L50, P16, M24, O20k, N64, V64K, V512K.
    #[arg(long, value_delimiter = ',', value_parser = profile)]
    profiles: Vec<&'static Profile>,
    /// Some of direct, twemproxy, slipring, slipring-nomerge, slipring-binary, slipring-unix, slipring-four,
    /// slipring-before, slipring-moved; all but the last three, if not given.
    #[arg(long, value_delimiter = ',', value_parser = contestant)]
    contestants: Vec<Contestant>,
    /// A further contestant: PATH is started with ARGS, separated by blanks, in which stand {listen} (or {host} and {port})
    /// for the address to listen on, {nodes} for the three nodes with commas between, {node1} {node2} {node3} for each,
    /// {free} for a further address, such as an admin port's, and {file:PATH} for a copy of that file in which all these
    /// are filled in. Repeatable; it runs beside --contestants, asked in text.
    #[arg(long, value_name = "NAME=PATH:ARGS", value_parser = Peer::parse)]
    peer: Vec<&'static Peer>,
    /// Writes the report and all its rounds into this directory, as Markdown and as JSON.
    #[arg(long, value_name = "DIRECTORY")]
    results: Option<PathBuf>,
    /// Pin everything, the generator too, to one CPU.
    #[arg(long)]
    one_core: bool,
    /// Pin the proxy and the generator to one CPU and the nodes to another: what the nodes do costs the proxy nothing, as
    /// where they are other machines.
    #[arg(long, conflicts_with = "one_core")]
    two_cores: bool,
    /// As --two-cores, with the nodes in a network namespace of their own, behind a pair of virtual interfaces: what goes to
    /// them passes a network device, as it would to other machines. Needs root and `ip` (iproute2).
    #[arg(long, conflicts_with_all = ["one_core", "two_cores"])]
    own_network: bool,
    /// Instead of all profiles: the load of this bench beside that of memcaslap, 50 connections through each proxy.
    #[arg(long, conflicts_with_all = ["profiles", "results"])]
    check_generator: bool,
    /// Instead of all profiles: memory of each proxy when idle, per idle client and after large values, the time from its
    /// start to its first get, and how often it is woken when there is nothing to do. A round takes half a minute each.
    #[arg(long, conflicts_with_all = ["profiles", "results", "check_generator"])]
    footprint: bool,
    /// Instead of all profiles: what slipring costs per operation against nodes, clients, workers, the length of keys, the
    /// keys of a get and the size of values; an SVG and a JSON file of each are written to --results. All, or some of
    /// nodes, clients, workers, keys, multiget, values.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_missing_value = "all", requires = "results",
        conflicts_with_all = ["profiles", "check_generator", "footprint"],
        value_parser = ["all", "nodes", "clients", "workers", "keys", "multiget", "values"])]
    curves: Vec<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    PROFILES.iter().find(|p| p.name == name).ok_or_else(|| "no such profile".to_owned())
}

fn contestant(name: &str) -> Result<Contestant, String> {
    Contestant::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| "no such contestant".to_owned())
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if !options.bench {
        println!("e2e takes minutes and real nodes; run it with `cargo bench --bench e2e`");
        return ExitCode::SUCCESS;
    }
    if options.profiles.is_empty() {
        options.profiles = PROFILES.iter().collect();
    }
    if options.contestants.is_empty() {
        let scaling = [Contestant::SlipringFour, Contestant::SlipringBefore, Contestant::SlipringMoved];
        options.contestants = Contestant::ALL.into_iter().filter(|contestant| !scaling.contains(contestant)).collect();
    }
    options.contestants.extend(options.peer.iter().map(|peer| Contestant::Peer(peer)));
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The whole report; true when every answer was right and every contestant ran.
fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    // For this process and all that it starts: thousands of clients have a descriptor each.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    // Before this process is bound to one CPU, which is what the number of CPUs is asked of.
    let machine = machine();
    let placement = Placement::of(options)?;
    let scratch = Scratch::new("e2e")?;
    let network = options.own_network.then(OwnNetwork::new).transpose()?;
    placement.of_nodes()?;
    let nodes = Nodes::start(network.as_ref(), &scratch)?;
    placement.of_the_rest()?;
    let method = Method::find();
    let mut report = String::new();
    // Each part is shown when it is there, for the whole takes minutes.
    let mut tell = |part: String| {
        print!("{part}");
        report += &part;
    };
    tell(head(options, &placement, &machine, method));
    let mut bench = Bench { options, nodes, network, scratch, placement, sound: true };
    if options.check_generator {
        tell(check::check(&mut bench)?);
        return Ok(bench.sound);
    }
    if !options.curves.is_empty() {
        let about = json!({ "date": today(), "machine": machine, "placement": bench.placement.about });
        tell(curves::curves(&mut bench, &about)?);
        return Ok(bench.sound);
    }
    if options.footprint {
        tell(footprint::footprint(&mut bench)?);
        return Ok(bench.sound);
    }
    let mut tables = Vec::new();
    for profile in &options.profiles {
        let table = bench.table(profile, method);
        tell(table.markdown(method.is_some()));
        tables.push(table);
    }
    tell(beside_peers(&tables));
    tell(targets(&tables));
    if let Some(directory) = &options.results {
        let all = json!({
            "date": today(),
            "machine": machine,
            "placement": bench.placement.about,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "peers": options.peer.iter().map(|peer| peer.shown()).collect::<Vec<_>>(),
            "profiles": tables.iter().map(Table::json).collect::<Vec<_>>(),
        });
        let name = bench.placement.file;
        fs::create_dir_all(directory)?;
        fs::write(directory.join(format!("{name}.md")), report.trim_start())?;
        fs::write(directory.join(format!("{name}.json")), serde_json::to_string(&all)? + "\n")?;
    }
    Ok(bench.sound)
}

/// A program without the directories of this machine.
fn shown(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let name = path.file_name().unwrap_or(path.as_os_str());
    path.strip_prefix(root)
        .unwrap_or_else(|_| if path.is_absolute() { Path::new(name) } else { path })
        .display()
        .to_string()
}

fn head(options: &Options, placement: &Placement, machine: &str, method: Option<Method>) -> String {
    let mut lines = vec![
        format!("\n## e2e: {} rounds of {} s, {}\n", options.rounds, options.seconds, placement.about),
        format!("- {}, {machine}", today()),
        format!("- 3 nodes `-t 1 -m 256`: {}", version(Path::new("memcached"))),
        format!("- twemproxy: {}", version(Path::new("nutcracker"))),
        format!("- slipring: {}", slipring_path().map_or("none".to_owned(), |path| shown(&path))),
    ];
    lines.extend(options.peer.iter().map(|peer| format!("- {}", peer.shown())));
    lines.push(format!(
        "- syscalls/op by: {}\n",
        method.map_or("n/a (neither perf nor strace may trace here)", Method::name)
    ));
    lines.join("\n")
}

struct Bench<'a> {
    options: &'a Options,
    nodes: Nodes,
    /// Where the nodes are, if not on the loopback.
    network: Option<OwnNetwork>,
    scratch: Scratch,
    placement: Placement,
    /// No wrong answer and no failed contestant so far.
    sound: bool,
}

impl Bench<'_> {
    fn table(&mut self, profile: &'static Profile, method: Option<Method>) -> Table {
        let datasets = [Dialect::Text, Dialect::Binary].map(|dialect| Dataset::new(profile, dialect));
        let dataset = |contestant: Contestant| &datasets[usize::from(contestant.dialect() == Dialect::Binary)];
        let mut rows: Vec<Row> = self.options.contestants.iter().map(|c| Row::new(*c)).collect();
        for round in 0..self.options.rounds as usize {
            // A contestant that failed is not tried again.
            rows.retain(|row| row.samples.len() == round);
            let count = rows.len();
            for turn in 0..count {
                let row = &mut rows[(round + turn) % count];
                let result = self.quiet_sample(row.contestant, profile, dataset(row.contestant));
                row.samples.extend(self.noted(row.contestant, profile, result));
            }
        }
        rows.retain(|row| !row.samples.is_empty());
        for row in rows.iter_mut().filter(|row| row.contestant != Contestant::Direct) {
            if let Some(method) = method {
                let result = self.syscalls(row.contestant, profile, dataset(row.contestant), method);
                row.syscalls_per_op = self.noted(row.contestant, profile, result);
            }
        }
        Table { profile, rows }
    }

    /// Reports a failure and goes on without.
    fn noted<T>(&mut self, contestant: Contestant, profile: &Profile, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                println!("\n{} left out of {}: {error}", contestant.name(), profile.name);
                self.sound = false;
                None
            }
        }
    }

    /// Starts a contestant over empty nodes and fills them through it. Gives back its idle memory
    /// too.
    fn prepare(
        &self,
        contestant: Contestant,
        dataset: &Dataset,
        value_len: usize,
    ) -> io::Result<(Started, Option<u64>)> {
        self.nodes.flush()?;
        if let Some(filler) = contestant.filled_by() {
            let filler = filler.start(&self.nodes, &self.scratch, value_len)?;
            patiently(|| ask_all(dataset, &filler.addresses, Request::Set))?;
        }
        let started = contestant.start(&self.nodes, &self.scratch, value_len)?;
        let mut idle = None;
        if let Some(proxy) = &started.proxy {
            sleep(SETTLE);
            idle = Some(memory_kib(proxy.pid(), "VmRSS")?);
        }
        let first = if contestant.filled_by().is_some() { Request::Get } else { Request::Set };
        patiently(|| ask_all(dataset, &started.addresses, first))?;
        Ok((started, idle))
    }

    /// One measurement while nobody else needs the CPUs, as far as that is to be had.
    fn quiet_sample(&mut self, contestant: Contestant, profile: &Profile, dataset: &Dataset) -> io::Result<Sample> {
        let mut best = self.sample(contestant, profile, dataset)?;
        for _ in 0..REPEATS {
            if best.foreign <= NOISE {
                break;
            }
            eprintln!("{} {}: others had {:.0} % of the CPUs", profile.name, contestant.name(), best.foreign * 100.0);
            let next = self.sample(contestant, profile, dataset)?;
            // Its answers count, whatever else is thrown away.
            let wrong = best.wrong + next.wrong;
            best = if next.foreign < best.foreign { next } else { best };
            best.wrong = wrong;
        }
        Ok(best)
    }

    fn sample(&mut self, contestant: Contestant, profile: &Profile, dataset: &Dataset) -> io::Result<Sample> {
        let (started, idle) = self.prepare(contestant, dataset, profile.value_len)?;
        let proxy = started.proxy.as_ref().map(|proxy| proxy.pid());
        let mut load = Load::connect(profile, dataset, &started.addresses, started.unix_socket.as_deref())?;
        let warm_up = load.run(WARM_UP)?;
        let groups = [proxy.into_iter().collect(), self.nodes.pids(), vec![std::process::id()]];
        let busy_before = busy_ns(&self.placement.all)?;
        let before = groups.each_ref().map(|pids| cpu_ns(pids));
        let outcome = load.run(Duration::from_secs_f64(self.options.seconds))?;
        let after = groups.each_ref().map(|pids| cpu_ns(pids));
        let busy_ns = busy_ns(&self.placement.all)? - busy_before;
        let mut per_op = [0.0; 3];
        let mut ours_ns = 0;
        for ((per_op, before), after) in per_op.iter_mut().zip(before).zip(after) {
            let ns = after? - before?;
            ours_ns += ns;
            *per_op = ns as f64 / 1e3 / outcome.operations.max(1) as f64;
        }
        let all_ns = outcome.elapsed.as_nanos() as f64 * f64::from(self.placement.all.count());
        let peak = proxy.map(|pid| memory_kib(pid, "VmHWM")).transpose()?;
        for part in [&warm_up, &outcome] {
            self.note_wrong(contestant, profile, part);
        }
        if outcome.operations == 0 {
            return Err(io::Error::other("not one right answer"));
        }
        let sample = Sample {
            ops_per_second: outcome.operations as f64 / outcome.elapsed.as_secs_f64(),
            latency: outcome.percentiles_us(),
            proxy_cpu: proxy.map(|_| per_op[0]),
            node_cpu: per_op[1],
            client_cpu: per_op[2],
            rss: idle.zip(peak).map(|(idle, peak)| [idle as f64 / 1024.0, peak as f64 / 1024.0]),
            foreign: busy_ns.saturating_sub(ours_ns) as f64 / all_ns,
            wrong: warm_up.wrong + outcome.wrong,
        };
        eprintln!("{} {}: {:.0} ops/s", profile.name, contestant.name(), sample.ops_per_second);
        Ok(sample)
    }

    /// System calls of the proxy per op.
    fn syscalls(
        &mut self,
        contestant: Contestant,
        profile: &Profile,
        dataset: &Dataset,
        method: Method,
    ) -> io::Result<f64> {
        let (started, _) = self.prepare(contestant, dataset, profile.value_len)?;
        let proxy = started.proxy.as_ref().ok_or_else(|| io::Error::other("no proxy to trace"))?;
        let mut load = Load::connect(profile, dataset, &started.addresses, started.unix_socket.as_deref())?;
        let warm_up = load.run(WARM_UP)?;
        let counter = Counter::start(method, proxy.pid())?;
        let outcome = load.run(Duration::from_secs_f64(self.options.seconds.min(1.0)))?;
        let calls = counter.stop()?;
        for part in [&warm_up, &outcome] {
            self.note_wrong(contestant, profile, part);
        }
        Ok(calls as f64 / outcome.operations.max(1) as f64)
    }

    fn note_wrong(&mut self, contestant: Contestant, profile: &Profile, outcome: &Outcome) {
        if outcome.wrong > 0 {
            self.sound = false;
            let first = outcome.first_wrong.as_deref().unwrap_or_default();
            println!("\n{} {}: {} wrong answers, the first: {first}", profile.name, contestant.name(), outcome.wrong);
        }
    }
}
