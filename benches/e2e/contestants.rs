//! The processes: three memcached nodes and one proxy at a time, each killed by its id when its
//! guard goes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::peer::Peer;
use crate::workload::Dialect;

const NODES: usize = 3;
/// A process that does not listen, or cannot store, after this long has failed.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Who answers the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// No proxy: connection i goes to node i modulo 3 and asks that node for everything. A multiget
    /// is therefore one request to one node, which no router can have.
    Direct,
    Twemproxy,
    Slipring {
        merge_gets: bool,
    },
    /// Slipring as it is by default, asked in binary.
    SlipringBinary,
    /// What `--peer` says.
    Peer(&'static Peer),
}

impl Contestant {
    pub(crate) const ALL: [Self; 5] = [
        Self::Direct,
        Self::Twemproxy,
        Self::Slipring { merge_gets: true },
        Self::Slipring { merge_gets: false },
        Self::SlipringBinary,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Twemproxy => "twemproxy",
            Self::Slipring { merge_gets: true } => "slipring",
            Self::Slipring { merge_gets: false } => "slipring-nomerge",
            Self::SlipringBinary => "slipring-binary",
            Self::Peer(peer) => &peer.name,
        }
    }

    /// What its clients speak.
    pub(crate) fn dialect(self) -> Dialect {
        if self == Self::SlipringBinary { Dialect::Binary } else { Dialect::Text }
    }

    /// Starts the proxy, if there is one; it listens when this returns.
    pub(crate) fn start(self, nodes: &Nodes, scratch: &Scratch) -> io::Result<Started> {
        let address = match self {
            Self::Direct => {
                return Ok(Started { proxy: None, addresses: nodes.addresses.clone() });
            }
            Self::Twemproxy | Self::Slipring { .. } | Self::SlipringBinary | Self::Peer(_) => free_address()?,
        };
        let command = match self {
            Self::Slipring { merge_gets } => slipring(address, nodes, merge_gets)?,
            Self::SlipringBinary => slipring(address, nodes, true)?,
            Self::Peer(peer) => peer.command(address, &nodes.addresses, &scratch.path)?,
            Self::Direct | Self::Twemproxy => twemproxy(address, nodes, scratch)?,
        };
        let proxy = Process::start(self.name(), command, address, scratch)?;
        Ok(Started { proxy: Some(proxy), addresses: vec![address] })
    }
}

/// A contestant that takes connections.
pub(crate) struct Started {
    pub(crate) proxy: Option<Process>,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// The program under test: `SLIPRING_BIN`, or what cargo built for this bench.
pub(crate) fn slipring_path() -> Option<PathBuf> {
    std::env::var_os("SLIPRING_BIN")
        .map(PathBuf::from)
        .or_else(|| option_env!("CARGO_BIN_EXE_slipring").map(Into::into))
}

fn slipring(address: SocketAddr, nodes: &Nodes, merge_gets: bool) -> io::Result<Command> {
    let path = slipring_path().ok_or_else(|| io::Error::other("no slipring binary: set SLIPRING_BIN"))?;
    let list: Vec<String> = nodes.addresses.iter().map(ToString::to_string).collect();
    let mut command = Command::new(path);
    command
        .arg("serve")
        .args(["--nodes", &list.join(","), "--listen", &address.to_string()])
        .args(["--admin-listen", &free_address()?.to_string(), "--workers", "1"])
        .args(["--merge-gets", if merge_gets { "on" } else { "off" }]);
    Ok(command)
}

fn twemproxy(address: SocketAddr, nodes: &Nodes, scratch: &Scratch) -> io::Result<Command> {
    let servers: String = nodes.addresses.iter().map(|node| format!("    - {node}:1\n")).collect();
    let config = format!(
        "bench:\n  listen: {address}\n  hash: fnv1a_64\n  distribution: ketama\n  preconnect: true\n  \
         server_connections: 1\n  auto_eject_hosts: false\n  timeout: 1000\n  servers:\n{servers}"
    );
    let path = scratch.path.join("nutcracker.yml");
    fs::write(&path, config)?;
    let stats_port = free_address()?.port().to_string();
    let mut command = Command::new("nutcracker");
    command.arg("-c").arg(path).args(["-a", "127.0.0.1", "-s", &stats_port]);
    // At its best: from notices (5, the default) on, it asks for the peer's name at every request.
    command.args(["-v", "4"]);
    Ok(command)
}

/// The memcached nodes, one worker thread each.
pub(crate) struct Nodes {
    pub(crate) addresses: Vec<SocketAddr>,
    processes: Vec<Process>,
}

impl Nodes {
    pub(crate) fn start(scratch: &Scratch) -> io::Result<Self> {
        let mut nodes = Self { addresses: Vec::new(), processes: Vec::new() };
        for _ in 0..NODES {
            let address = free_address()?;
            let mut command = Command::new("memcached");
            command
                .args(["-l", "127.0.0.1", "-p", &address.port().to_string(), "-U", "0"])
                .args(["-t", "1", "-m", "256"]);
            if rustix::process::geteuid().is_root() {
                command.args(["-u", "nobody"]);
            }
            nodes.processes.push(Process::start("memcached", command, address, scratch)?);
            nodes.addresses.push(address);
        }
        Ok(nodes)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Empties the nodes, so that a contestant finds only what it stored itself.
    pub(crate) fn flush(&self) -> io::Result<()> {
        for address in &self.addresses {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"flush_all\r\n")?;
            let mut reply = [0; 4];
            stream.read_exact(&mut reply)?;
            if &reply != b"OK\r\n" {
                return Err(io::Error::other("flush_all was refused"));
            }
        }
        Ok(())
    }
}

/// A running program; killed and reaped when dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    fn start(name: &str, mut command: Command, address: SocketAddr, scratch: &Scratch) -> io::Result<Self> {
        let log = scratch.path.join(format!("{name}-{}.log", address.port()));
        let output = File::create(&log)?;
        command.env_remove("MEMCACHED_NODES").env_remove("MEMCACHED_PORT").env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display())))?;
        let mut process = Self { child };
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            let ended = process.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let how = ended.map_or("does not listen".to_owned(), |status| format!("ended ({status})"));
                return Err(io::Error::other(format!("{name} {how}: {}", last_line(&said))));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(no output)")
}

/// A directory for configurations and logs, removed when dropped.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("slipring-e2e-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// What a program says of itself, for the head of the report.
pub(crate) fn version(program: &Path) -> String {
    match Command::new(program).arg("-V").stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).lines().next().unwrap_or("(says nothing)").to_owned()
        }
        Err(error) => format!("{}: {error}", program.display()),
    }
}

/// Tries until it works or the start limit is over: a proxy listens before its nodes are connected.
pub(crate) fn patiently<T>(attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}
