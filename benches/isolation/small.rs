//! What small gets feel while others stream large values from and to the same node, by where a value begins to travel on
//! a connection of its own (`--bulk-above`), beside the node alone and the other contestants: the table in deploy/OPERATING.md.
//!
//! Ten clients ask for 100 B values, each again 2 ms after it asked before, or when it has its answer, if that takes longer;
//! four clients stream as fast as they can, which takes all of two cores: were the small ones counted from when they are due,
//! a backlog would be measured that the node alone has, too. Every answer is checked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Options;
use crate::processes::{Contestant, Node};

const SMALL_CLIENTS: usize = 10;
const STREAMS: usize = 4;
/// Between two requests of a small client.
const PACE: Duration = Duration::from_millis(2);
const LIMITS: [&str; 3] = ["64KiB", "256KiB", "1MiB"];
const SIZES: [(&str, usize); 3] = [("64 KiB", 64 << 10), ("512 KiB", 512 << 10), ("8 MiB", 8 << 20)];

/// Who answers, and at which limit.
#[derive(Clone, Copy)]
enum Column {
    NoProxy,
    Through(Contestant, Option<&'static str>),
}

impl Column {
    fn name(self) -> String {
        match self {
            Self::NoProxy => "no proxy".to_owned(),
            Self::Through(contestant, None) => contestant.name().to_owned(),
            Self::Through(contestant, Some(limit)) => format!("{}, above {limit}", contestant.name()),
        }
    }
}

/// Prints the table: the rows are its own.
pub(crate) fn table(options: &Options) -> io::Result<()> {
    let node = Node::start(512, 16, None)?;
    let mut columns = vec![Column::NoProxy];
    for contestant in &options.contestants {
        match contestant {
            Contestant::Twemproxy => columns.push(Column::Through(*contestant, None)),
            _ if contestant.is_slipring() => {
                columns.extend(LIMITS.map(|limit| Column::Through(*contestant, Some(limit))));
            }
            _ => {}
        }
    }
    let names: Vec<String> = columns.iter().map(|column| column.name()).collect();
    println!("\n| streams | {} |\n|---|{}", names.join(" | "), "---|".repeat(columns.len()));
    row(options, &columns, &node, "none", None)?;
    for (name, size) in SIZES {
        row(options, &columns, &node, &format!("gets of {name}"), Some((size, false)))?;
        row(options, &columns, &node, &format!("sets of {name}"), Some((size, true)))?;
    }
    println!("\nEach: p50 / p99 of 100 B gets in ms, and MiB/s streamed; medians of {} rounds.", options.rounds);
    Ok(())
}

fn row(
    options: &Options,
    columns: &[Column],
    node: &Node,
    name: &str,
    streams: Option<(usize, bool)>,
) -> io::Result<()> {
    let mut found = vec![Vec::new(); columns.len()];
    for round in 0..options.rounds as usize {
        for turn in 0..columns.len() {
            let which = (round + turn) % columns.len();
            let sample = measure(options, columns[which], node, streams)?;
            found[which].push(sample);
        }
    }
    let cells = found.iter().map(|samples| {
        let median = |of: fn(&[f64; 3]) -> f64| {
            let mut all: Vec<f64> = samples.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        format!("{:.2} / {:.1}, {:.0}", median(|s| s[0]), median(|s| s[1]), median(|s| s[2]))
    });
    println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    Ok(())
}

/// p50 and p99 in milliseconds, and MiB streamed per second.
fn measure(options: &Options, column: Column, node: &Node, streams: Option<(usize, bool)>) -> io::Result<[f64; 3]> {
    // Everything is answered in the end, however busy the machine: a time-out would be a wrong answer.
    let patient = ["--request-timeout", "20s", "--queue-timeout", "20s"];
    let proxy = match column {
        Column::NoProxy => None,
        Column::Through(contestant, limit) => {
            let limit = limit.map(|limit| ["--bulk-above", limit]).unwrap_or_default();
            let arguments: Vec<_> = patient.into_iter().chain(limit).filter(|argument| !argument.is_empty()).collect();
            Some(contestant.start(node, &arguments)?)
        }
    };
    let listen = proxy.as_ref().map_or(node.address, |proxy| proxy.address);
    let stop = Arc::new(AtomicBool::new(false));
    let streamed = Arc::new(AtomicU64::new(0));
    let mut streaming = Vec::new();
    if let Some((size, sets)) = streams {
        for stream in 0..STREAMS {
            let (stop, streamed) = (Arc::clone(&stop), Arc::clone(&streamed));
            streaming.push(thread::spawn(move || stream_values(listen, stream, size, sets, &stop, &streamed)));
        }
        sleep(Duration::from_millis(300));
    }
    let before = streamed.load(Relaxed);
    let begin = Instant::now();
    let length = Duration::from_secs_f64(options.seconds);
    let small: Vec<_> = (0..SMALL_CLIENTS).map(|n| thread::spawn(move || ask_small(listen, n, length))).collect();
    let mut all = Histogram::<u64>::new(3).unwrap();
    for client in small {
        all.add(client.join().unwrap()).unwrap();
    }
    let moved = (streamed.load(Relaxed) - before) as f64 / begin.elapsed().as_secs_f64() / f64::from(1 << 20);
    stop.store(true, Relaxed);
    for stream in streaming {
        stream.join().unwrap();
    }
    let at = |quantile| all.value_at_quantile(quantile) as f64 / 1e6;
    Ok([at(0.5), at(0.99), moved])
}

fn ask_small(proxy: SocketAddr, number: usize, length: Duration) -> Histogram<u64> {
    let mut client = Client::connect(proxy);
    let key = format!("small:{number}");
    let value = format!("{key}:{}", "x".repeat(100));
    client.set(&key, value.as_bytes());
    let mut latency = Histogram::new(3).unwrap();
    let begin = Instant::now();
    // Spread over the interval, so that the clients do not ask in step.
    let mut due = begin + PACE * u32::try_from(number).unwrap() / u32::try_from(SMALL_CLIENTS).unwrap();
    while due < begin + length {
        sleep(due.saturating_duration_since(Instant::now()));
        assert!(client.get(&key).as_deref() == Some(value.as_bytes()), "a wrong answer");
        latency.record(u64::try_from(due.elapsed().as_nanos()).unwrap()).unwrap();
        due = (due + PACE).max(Instant::now());
    }
    latency
}

fn stream_values(proxy: SocketAddr, number: usize, size: usize, sets: bool, stop: &AtomicBool, streamed: &AtomicU64) {
    let mut client = Client::connect(proxy);
    let key = format!("large:{number}:{size}");
    let value = key.bytes().cycle().take(size).collect::<Vec<_>>();
    client.set(&key, &value);
    while !stop.load(Relaxed) {
        if sets {
            client.set(&key, &value);
        } else {
            assert!(client.get(&key).as_deref() == Some(value.as_slice()), "a wrong large answer");
        }
        streamed.fetch_add(size as u64, Relaxed);
    }
}

struct Client {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Client {
    fn connect(proxy: SocketAddr) -> Self {
        let write = TcpStream::connect(proxy).unwrap();
        write.set_nodelay(true).unwrap();
        write.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { read: BufReader::with_capacity(64 << 10, write.try_clone().unwrap()), write }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        line
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        let request = [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        self.write.write_all(&request).unwrap();
        assert_eq!(self.line(), "STORED\r\n");
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.write.write_all(format!("get {key}\r\n").as_bytes()).unwrap();
        let line = self.line();
        let len: usize = line.strip_prefix(&format!("VALUE {key} 0 "))?.trim().parse().ok()?;
        let mut value = vec![0; len + "\r\nEND\r\n".len()];
        self.read.read_exact(&mut value).unwrap();
        value.truncate(len);
        Some(value)
    }
}
