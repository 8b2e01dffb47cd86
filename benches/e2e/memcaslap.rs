//! A second load generator: `memcaslap` of Debian's libmemcached-tools.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Its keys are at least this long.
pub(crate) const KEY_LEN: usize = 17;
/// Keys of each connection that its gets are drawn from.
const WINDOW: &str = "1k";

/// How long it works.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// So many gets and sets, those before the first get included.
    #[allow(dead_code, reason = "tests/load_generator.rs has it count so")]
    Operations(u64),
    /// It knows whole seconds alone. What is on its way at the end is counted by nobody.
    Seconds(u64),
}

/// What it says that it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counted {
    pub(crate) gets: u64,
    pub(crate) sets: u64,
    pub(crate) misses: u64,
    /// Bytes of requests.
    pub(crate) sent: u64,
    /// Bytes of answers.
    pub(crate) received: u64,
    pub(crate) ops_per_second: f64,
}

/// Asks one address over so many connections from one thread: one set to nine gets, values of this many bytes, keys of
/// [`KEY_LEN`]. The directory takes its configuration.
pub(crate) fn run(
    address: SocketAddr,
    connections: usize,
    value_len: usize,
    until: Until,
    directory: &Path,
) -> io::Result<Counted> {
    let config = directory.join("memcaslap.conf");
    let distribution = format!("key\n{KEY_LEN} {KEY_LEN} 1\nvalue\n{value_len} {value_len} 1\ncmd\n0 0.1\n1 0.9\n");
    fs::write(&config, distribution)?;
    let mut command = Command::new("memcaslap");
    command.args(["-s", &address.to_string(), "-T", "1", "-c", &connections.to_string(), "-w", WINDOW]);
    match until {
        Until::Operations(count) => command.args(["-x", &count.to_string()]),
        Until::Seconds(seconds) => command.args(["-t", &format!("{seconds}s")]),
    };
    command.arg("-X").arg(value_len.to_string()).arg("-F").arg(&config).stdin(Stdio::null());
    let output = command.output().map_err(|error| io::Error::new(error.kind(), format!("memcaslap: {error}")))?;
    let said = String::from_utf8_lossy(&output.stdout);
    parse(&said).filter(|_| output.status.success()).ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("memcaslap ended with {}: {said:.400} {errors:.400}", output.status))
    })
}

fn parse(said: &str) -> Option<Counted> {
    let number = |name: &str| {
        let rest = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
        rest.trim().parse::<u64>().ok()
    };
    let (_, rate) = said.split_once("TPS: ")?;
    Some(Counted {
        gets: number("cmd_get")?,
        sets: number("cmd_set")?,
        misses: number("get_misses")?,
        sent: number("written_bytes")?,
        received: number("read_bytes")?,
        ops_per_second: rate.split_whitespace().next()?.parse().ok()?,
    })
}
