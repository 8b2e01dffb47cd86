//! The processes: one memcached, and in front of it one proxy (or two in a row) at a time; each is killed by its handle when that goes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::admin;
use crate::process::{Process, free_address};
use crate::secured::Files;

/// What is measured if no program is named.
pub(crate) const BUILT: &str = "built for this bench, optimised as what is shipped";
/// More than any row opens.
const CONNECTIONS: &str = "8192";

/// Who answers the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// The program under test: `SLIPRING_BIN`, or what cargo built for this bench.
    Slipring,
    /// Another slipring, named by `SLIPRING_BEFORE`.
    Before,
    Twemproxy,
    /// For nodes with TLS: what speaks it for an app that cannot, by itself and behind twemproxy.
    Haproxy,
    TwemproxyHaproxy,
    Stunnel,
    TwemproxyStunnel,
}

impl Contestant {
    const ALL: [Self; 7] = [
        Self::Slipring,
        Self::Before,
        Self::Twemproxy,
        Self::TwemproxyHaproxy,
        Self::TwemproxyStunnel,
        Self::Haproxy,
        Self::Stunnel,
    ];

    /// Those that can be run here, unless others are named.
    pub(crate) fn usual() -> Vec<Self> {
        let before = std::env::var_os("SLIPRING_BEFORE").is_some();
        Self::ALL.into_iter().filter(|contestant| before || *contestant != Self::Before).collect()
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Slipring => "slipring",
            Self::Before => "before",
            Self::Twemproxy => "twemproxy",
            Self::Haproxy => "haproxy",
            Self::TwemproxyHaproxy => "twemproxy+haproxy",
            Self::Stunnel => "stunnel",
            Self::TwemproxyStunnel => "twemproxy+stunnel",
        }
    }

    pub(crate) fn of_name(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|contestant| contestant.name() == name)
            .ok_or_else(|| "no such contestant".to_owned())
    }

    /// Whether it is a slipring.
    pub(crate) const fn is_slipring(self) -> bool {
        matches!(self, Self::Slipring | Self::Before)
    }

    /// Starts it in front of a node, a slipring with further arguments; it listens when this returns.
    pub(crate) fn start(self, node: &Node, arguments: &[&str]) -> io::Result<Started> {
        let address = free_address()?;
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_slipring"));
        let files = || node.files.as_ref().ok_or_else(|| io::Error::other("it is for nodes with TLS"));
        let alone = |(process, address)| Started { processes: vec![process], address, admin: None, config: None };
        let program = match self {
            Self::Twemproxy => return twemproxy(node.address, address),
            Self::Haproxy => return Ok(alone(files()?.haproxy(node.address)?)),
            Self::Stunnel => return Ok(alone(files()?.stunnel(node.address)?)),
            Self::TwemproxyHaproxy | Self::TwemproxyStunnel => {
                let (process, behind) = match self {
                    Self::TwemproxyHaproxy => files()?.haproxy(node.address)?,
                    _ => files()?.stunnel(node.address)?,
                };
                let mut started = twemproxy(behind, address)?;
                started.processes.push(process);
                return Ok(started);
            }
            Self::Slipring => std::env::var_os("SLIPRING_BIN").map_or_else(built, PathBuf::from),
            Self::Before => std::env::var_os("SLIPRING_BEFORE")
                .map(PathBuf::from)
                .ok_or_else(|| io::Error::other("SLIPRING_BEFORE names no program"))?,
        };
        let admin = free_address()?;
        let mut command = Command::new(program);
        command.args([
            "serve",
            "--nodes",
            &node.address.to_string(),
            "--workers",
            "1",
            "--max-connections",
            CONNECTIONS,
        ]);
        command.args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()]).args(arguments);
        command.args(node.files.iter().flat_map(Files::of_slipring));
        let process = Process::start(self.name(), command, address, None)?;
        Ok(Started { processes: vec![process], address, admin: Some(admin), config: None })
    }
}

fn twemproxy(node: SocketAddr, address: SocketAddr) -> io::Result<Started> {
    let config = std::env::temp_dir().join(format!("slipring-isolation-{}-{}.yml", std::process::id(), address.port()));
    let text = format!(
        "bench:\n  listen: {address}\n  hash: fnv1a_64\n  distribution: ketama\n  preconnect: true\n  \
         server_connections: 1\n  auto_eject_hosts: false\n  backlog: 4096\n  servers:\n    - {node}:1\n"
    );
    fs::write(&config, text)?;
    let mut command = Command::new("nutcracker");
    // At its best: buffers that fit large values, and from notices (5, the default) on it asks for the peer's name at
    // every request.
    command.arg("-c").arg(&config).args(["-a", "127.0.0.1", "-s", &free_address()?.port().to_string()]);
    command.args(["-m", "65536", "-v", "4"]);
    let process = Process::start("nutcracker", command, address, None)?;
    Ok(Started { processes: vec![process], address, admin: None, config: Some(config) })
}

/// A contestant that takes connections.
pub(crate) struct Started {
    /// One, or several in a row.
    processes: Vec<Process>,
    pub(crate) address: SocketAddr,
    admin: Option<SocketAddr>,
    config: Option<PathBuf>,
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(config) = &self.config {
            let _ = fs::remove_file(config);
        }
    }
}

/// What a slipring counts; the rows take differences.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Bytes from the node.
    pub(crate) received: f64,
    /// Bytes to clients.
    pub(crate) delivered: f64,
    /// Connections to the node that were tried.
    pub(crate) connects: f64,
    /// Keys that were misses for want of memory.
    pub(crate) soft_misses: f64,
}

impl Started {
    fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(|process| process.pid())
    }

    /// CPU time of the proxy in seconds.
    pub(crate) fn cpu(&self) -> io::Result<f64> {
        self.pids().map(cpu).sum()
    }

    /// Resident memory in MiB: now (`VmRSS`) or at its highest (`VmHWM`).
    pub(crate) fn memory(&self, field: &str) -> io::Result<f64> {
        let mut sum = 0.0;
        for pid in self.pids() {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let kib = status.lines().find_map(|line| {
                line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse::<f64>().ok()
            });
            sum += kib.ok_or_else(|| io::Error::other(format!("no {field}")))?;
        }
        Ok(sum / 1024.0)
    }

    /// The counters of a slipring.
    pub(crate) fn counts(&self) -> io::Result<Option<Counts>> {
        let Some(admin) = self.admin else { return Ok(None) };
        let metrics = admin::page(admin, "/metrics")?;
        let sum = |name: &str, label: &str| admin::sum(&metrics, name, label);
        Ok(Some(Counts {
            received: sum("slipring_upstream_received_bytes_total", ""),
            delivered: sum("slipring_client_sent_bytes_total", ""),
            connects: sum("slipring_upstream_connects_total", ""),
            soft_misses: sum("slipring_soft_failures_total", "reason=\"memory\""),
        }))
    }
}

/// CPU time of a process, all threads, user and system, in seconds: `schedstat` has the scheduler's own nanoseconds, where
/// `stat` counts in ticks of 10 ms.
fn cpu(pid: u32) -> io::Result<f64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let field = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        sum += field.ok_or_else(|| io::Error::other("schedstat without a run time"))?;
    }
    Ok(sum as f64 / 1e9)
}

/// A memcached with one thread.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    /// Where it is asked for its statistics, in clear.
    asked: SocketAddr,
    /// If it takes TLS alone.
    files: Option<Files>,
    process: Process,
}

impl Node {
    /// With so much memory, and items of at most so many MiB; with or without TLS.
    pub(crate) fn start(mib: u32, item_mib: u32, files: Option<Files>) -> io::Result<Self> {
        let address = free_address()?;
        let asked = if files.is_some() { free_address()? } else { address };
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-p", &address.port().to_string(), "-U", "0", "-t", "1", "-u", "nobody"]);
        command.args(["-m", &mib.to_string(), "-I", &format!("{item_mib}m"), "-c", CONNECTIONS]);
        command.args(files.iter().flat_map(|files| files.of_node(asked)));
        let process = Process::start("memcached", command, address, None)?;
        Ok(Self { address, asked, files, process })
    }

    /// CPU time, all threads, in seconds.
    pub(crate) fn cpu(&self) -> io::Result<f64> {
        cpu(self.process.pid())
    }

    /// Bytes that it has ever sent.
    pub(crate) fn written(&self) -> io::Result<f64> {
        let mut stream = TcpStream::connect(self.asked)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        // It closes behind the answer.
        stream.write_all(b"stats\r\nquit\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let value = page.lines().find_map(|line| line.strip_prefix("STAT bytes_written ")?.trim().parse().ok());
        value.ok_or_else(|| io::Error::other("no bytes_written"))
    }
}
