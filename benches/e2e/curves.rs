//! `--curves`: what slipring costs per operation, against one thing after the other, as pictures.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::contestants::{Nodes, patiently, slipring};
use crate::load::{Load, ask_all};
use crate::measure::cpu_ns;
use crate::picture::{Area, Picture};
use crate::process::{Process, free_address};
use crate::report::Figure;
use crate::workload::{Dataset, Dialect, Profile, Request, SMALL};
use crate::{Bench, WARM_UP};

const AREA: Area = Area { width: 760.0, height: 380.0, left: 60.0, right: 40.0, top: 46.0, bottom: 66.0 };
const COLOURS: [&str; 3] = ["#0b62c4", "#d1421f", "#2c8a3d"];
const ROUNDS: usize = 3;
const SECONDS: f64 = 1.0;
/// More than any point opens.
const CONNECTIONS: &str = "8192";
/// All values of a point take this much at most.
const DATA_BYTES: usize = 32 << 20;

/// One place on a line.
struct Point {
    x: usize,
    profile: Profile,
    nodes: usize,
    workers: u32,
    merge_gets: &'static str,
}

const POINT: Point = Point { x: 0, profile: FIFTY, nodes: 3, workers: 1, merge_gets: "on" };
const FIFTY: Profile = Profile { name: "curve", connections: 50, ..SMALL };

struct Curve {
    name: &'static str,
    title: &'static str,
    /// Each has a name, for the legend.
    lines: Vec<(&'static str, Vec<Point>)>,
}

fn curve(name: &'static str, title: &'static str, xs: &[usize], point: impl Fn(usize) -> Point) -> Curve {
    let points = xs.iter().map(|x| Point { x: *x, ..point(*x) }).collect();
    Curve { name, title, lines: vec![("slipring", points)] }
}

fn lines(name: &'static str, title: &'static str, xs: &[usize], each: &[(&'static str, u32, &'static str)]) -> Curve {
    let line = |&(label, workers, merge_gets): &(&'static str, u32, &'static str)| {
        let point = |x: &usize| Point { x: *x, profile: clients(*x), workers, merge_gets, ..POINT };
        (label, xs.iter().map(point).collect())
    };
    Curve { name, title, lines: each.iter().map(line).collect() }
}

const fn clients(connections: usize) -> Profile {
    Profile { connections, ..FIFTY }
}

fn all() -> Vec<Curve> {
    vec![
        curve("nodes", "nodes; 50 clients", &[3, 20, 100], |nodes| Point { nodes, ..POINT }),
        lines(
            "clients",
            "clients",
            &[1, 10, 50, 200, 1000, 5000],
            &[("merging on", 1, "on"), ("merging off", 1, "off")],
        ),
        lines("workers", "clients, by workers", &[10, 50, 200], &[("1 worker", 1, "on"), ("2 workers", 2, "on")]),
        curve("keys", "bytes of a key; 50 clients", &[10, 40, 100, 250], |key_len| Point {
            profile: Profile { key_len, ..FIFTY },
            ..POINT
        }),
        curve("multiget", "keys of each get; 10 clients", &[1, 5, 24, 100, 200], |keys_per_get| Point {
            profile: Profile { keys_per_get, sets_per_hundred: 0, connections: 10, ..SMALL },
            ..POINT
        }),
        curve(
            "values",
            "bytes of a value; 10 clients",
            &[1, 100, 1 << 10, 10 << 10, 64 << 10, 256 << 10, 1 << 20],
            |len| {
                let key_count = (DATA_BYTES / len).clamp(16, SMALL.key_count);
                Point { profile: Profile { value_len: len, key_count, connections: 10, ..SMALL }, ..POINT }
            },
        ),
    ]
}

/// µs of the proxy, µs of the nodes, operations per second.
type Figures = [f64; 3];

/// Measures all curves, or those that are named, and writes an SVG and a JSON file of each.
pub(crate) fn curves(bench: &mut Bench<'_>, about: &Value) -> io::Result<String> {
    let directory = bench.options.results.as_deref().ok_or_else(|| io::Error::other("--curves needs --results"))?;
    fs::create_dir_all(directory)?;
    let mut out = "\n### Proxy CPU per operation, µs: median of three rounds of a second\n\n".to_owned();
    for curve in all().into_iter().filter(|curve| bench.options.curves.iter().any(|n| n == curve.name || n == "all")) {
        // Only as many as there have to be: each of them is woken by its clock.
        let most = curve.lines.iter().flat_map(|(_, points)| points).map(|point| point.nodes).max().unwrap_or(3);
        bench.placement.of_nodes()?;
        let nodes = Nodes::with(most, &["-I", "4m", "-c", CONNECTIONS], bench.network.as_ref(), &bench.scratch)?;
        bench.placement.of_the_rest()?;
        let mut kept = Vec::new();
        for (label, points) in &curve.lines {
            let mut found: Vec<Vec<Figures>> = vec![Vec::new(); points.len()];
            for _ in 0..ROUNDS {
                for (point, found) in points.iter().zip(&mut found) {
                    found.push(measured(bench, point, &nodes)?);
                }
            }
            kept.push((*label, points.iter().map(|point| point.x).collect::<Vec<_>>(), found));
        }
        write(directory, &curve, &kept, about)?;
        for (label, xs, found) in &kept {
            let median = |rounds: &Vec<Figures>| figure(rounds, 0).map_or(f64::NAN, |figure| figure.median);
            let cells = xs.iter().zip(found).map(|(x, rounds)| format!("{x}: {:.2}", median(rounds)));
            out += &format!("- {}, {label}: {}\n", curve.title, cells.collect::<Vec<_>>().join(", "));
        }
    }
    Ok(out)
}

fn figure(rounds: &[Figures], of: usize) -> Option<Figure> {
    Figure::of(rounds.iter().map(|figures| figures[of]).collect())
}

fn measured(bench: &mut Bench<'_>, point: &Point, nodes: &Nodes) -> io::Result<Figures> {
    nodes.flush()?;
    let address = free_address()?;
    let arguments = ["--merge-gets", point.merge_gets, "--max-connections", CONNECTIONS];
    let command = slipring(address, &nodes.addresses[..point.nodes], point.workers, &arguments)?;
    let log = bench.scratch.path().join(format!("curve-{}.log", address.port()));
    let proxy = Process::start("slipring", command, address, Some(&log))?;
    let dataset = Dataset::new(&point.profile, Dialect::Text);
    patiently(|| ask_all(&dataset, &[address], Request::Set))?;
    let mut load = Load::connect(&point.profile, &dataset, &[address], None)?;
    let warm_up = load.run(WARM_UP)?;
    let cpu = || -> io::Result<[u64; 2]> { Ok([cpu_ns(&[proxy.pid()])?, cpu_ns(&nodes.pids())?]) };
    let before = cpu()?;
    let outcome = load.run(Duration::from_secs_f64(SECONDS))?;
    let after = cpu()?;
    for part in [&warm_up, &outcome] {
        if part.wrong > 0 {
            bench.sound = false;
            println!("\n{} wrong answers, the first: {}", part.wrong, part.first_wrong.as_deref().unwrap_or_default());
        }
    }
    let operations = outcome.operations.max(1) as f64;
    let [proxy, nodes] = [0, 1].map(|i| (after[i] - before[i]) as f64 / 1e3 / operations);
    eprintln!("{}: {proxy:.2} µs", point.x);
    Ok([proxy, nodes, operations / outcome.elapsed.as_secs_f64()])
}

type Kept = (&'static str, Vec<usize>, Vec<Vec<Figures>>);

fn write(directory: &Path, curve: &Curve, kept: &[Kept], about: &Value) -> io::Result<()> {
    let lines = kept.iter().map(|(label, xs, found)| {
        let points = xs.iter().zip(found).map(|(x, rounds)| {
            let each = |of: usize| rounds.iter().map(|figures| figures[of]).collect::<Vec<_>>();
            json!({ "x": x, "proxy_cpu_us_per_op": each(0), "node_cpu_us_per_op": each(1), "ops_per_second": each(2) })
        });
        json!({ "line": label, "points": points.collect::<Vec<_>>() })
    });
    let all = json!({ "curve": curve.title, "about": about, "lines": lines.collect::<Vec<_>>() });
    let file = |ending: &str| directory.join(format!("curve-{}.{ending}", curve.name));
    fs::write(file("json"), serde_json::to_string(&all)? + "\n")?;
    fs::write(file("svg"), svg(curve, kept))
}

/// Both axes are logarithmic: what costs twice as much is as far above everywhere.
fn svg(curve: &Curve, kept: &[Kept]) -> String {
    let median = |rounds: &Vec<Figures>| figure(rounds, 0).map_or(1.0, |figure| figure.median).max(0.01);
    let xs = || kept.iter().flat_map(|(_, xs, _)| xs.iter().map(|x| *x as f64));
    let costs = || kept.iter().flat_map(|(_, _, found)| found.iter().map(median));
    let [from, to] = [xs().fold(f64::MAX, f64::min), xs().fold(0.0, f64::max)];
    // From a power of two to another.
    let [least, most] = [costs().fold(f64::MAX, f64::min).log2().floor(), costs().fold(0.0, f64::max).log2().ceil()];
    let most = most.max(least + 1.0);
    let x = |value: f64| AREA.x((value / from).ln() / (to / from).ln());
    let y = |cost: f64| AREA.y(1.0 - (cost.log2() - least) / (most - least));
    let mut picture = Picture::new(AREA, &format!("Proxy CPU per operation (µs), by {}", curve.title));
    let mut power = least;
    while power <= most {
        picture.level(y(power.exp2()), power.exp2());
        power += 1.0;
    }
    for (index, (label, xs, found)) in kept.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        picture.line(colour, xs.iter().zip(found).map(|(at, rounds)| (x(*at as f64), y(median(rounds)))));
        picture.legend(AREA.left + 200.0 * index as f64, colour, label);
        for at in xs.iter().filter(|_| index == 0) {
            picture.below(x(*at as f64), at);
        }
    }
    picture.end()
}
