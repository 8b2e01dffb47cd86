//! `--check-generator`: the load of this bench beside that of memcaslap, through the same contestants.

use std::fmt::Write as _;
use std::fs;
use std::io;

use crate::Bench;
use crate::contestants::Contestant;
use crate::measure::cpu_ns;
use crate::memcaslap::{self, Until};
use crate::report::Figure;
use crate::workload::{Dataset, Profile, SMALL};

const PROFILE: Profile = Profile { name: "check", connections: 50, key_len: memcaslap::KEY_LEN, ..SMALL };
const GENERATORS: [&str; 2] = ["this bench", "memcaslap"];

/// Operations per second, and the CPU of proxy, nodes and generator in µs per operation.
type Figures = [f64; 4];

/// Runs both in turn and gives a table, if any contestant was a proxy.
pub(crate) fn check(bench: &mut Bench<'_>) -> io::Result<String> {
    // Without a proxy the connections of this bench are spread over the nodes; the other knows of one address.
    let all = bench.options.contestants.iter().copied();
    let contestants: Vec<Contestant> = all.filter(|contestant| *contestant != Contestant::Direct).collect();
    let mut found = vec![[Vec::new(), Vec::new()]; contestants.len()];
    for round in 0..bench.options.rounds as usize {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            let contestant = contestants[which];
            let dataset = Dataset::new(&PROFILE, contestant.dialect());
            let ours = bench.quiet_sample(contestant, &PROFILE, &dataset)?;
            let cpu = [ours.proxy_cpu.unwrap_or_default(), ours.node_cpu, ours.client_cpu];
            found[which][0].push([ours.ops_per_second, cpu[0], cpu[1], cpu[2]]);
            found[which][1].push(theirs(bench, contestant, &dataset)?);
        }
    }
    let mut out = format!(
        "\n### Two generators: {} connections, {} B, 90/10 get/set, keys of {} B\n\n\
         | contestant | generator | ops/s (min–max) | proxy µs/op (min–max) | nodes µs/op (min–max) | generator µs/op |\n\
         |---|---|---|---|---|---|\n",
        PROFILE.connections, PROFILE.value_len, PROFILE.key_len
    );
    for (contestant, found) in contestants.iter().zip(found) {
        for (generator, rounds) in GENERATORS.iter().zip(found) {
            let figure = |i: usize| Figure::of(rounds.iter().map(|figures: &Figures| figures[i]).collect());
            let [Some(rate), Some(proxy), Some(nodes), Some(client)] = [0, 1, 2, 3].map(figure) else { continue };
            let _ = writeln!(
                out,
                "| {} | {generator} | {} | {} | {} | {:.2} |",
                contestant.name(),
                rate.range(0),
                proxy.range(2),
                nodes.range(2),
                client.median
            );
        }
    }
    Ok(out)
}

fn theirs(bench: &Bench<'_>, contestant: Contestant, dataset: &Dataset) -> io::Result<Figures> {
    let (started, _) = bench.prepare(contestant, dataset, PROFILE.value_len)?;
    let (Some(proxy), Some(address)) = (&started.proxy, started.addresses.first()) else {
        return Err(io::Error::other("no proxy"));
    };
    let groups = [vec![proxy.pid()], bench.nodes.pids()];
    let cpu = || -> io::Result<[u64; 3]> { Ok([cpu_ns(&groups[0])?, cpu_ns(&groups[1])?, ended_children_ns()?]) };
    let before = cpu()?;
    let seconds = Until::Seconds(bench.options.seconds.ceil().max(1.0) as u64);
    let counted = memcaslap::run(*address, PROFILE.connections, PROFILE.value_len, seconds, bench.scratch.path())?;
    let after = cpu()?;
    if counted.misses > 0 {
        println!("\nmemcaslap {}: {} misses", contestant.name(), counted.misses);
    }
    let operations = (counted.gets + counted.sets).max(1) as f64;
    let [proxy, nodes, client] = [0, 1, 2].map(|i| (after[i] - before[i]) as f64 / 1e3 / operations);
    eprintln!("memcaslap {}: {:.0} ops/s", contestant.name(), counted.ops_per_second);
    Ok([counted.ops_per_second, proxy, nodes, client])
}

/// CPU time of all children that have been waited for; the kernel tells it in ticks of 10 ms.
fn ended_children_ns() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or_else(|| io::Error::other("a stat without a name"))?;
    let ticks: u64 = fields.split(' ').skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks * 10_000_000)
}
