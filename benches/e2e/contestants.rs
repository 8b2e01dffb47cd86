//! The processes: three memcached nodes and one proxy at a time, each killed by its id when its
//! guard goes.

use std::fmt::Display;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::node;
use crate::own_network::OwnNetwork;
use crate::peer::Peer;
use crate::process::{Process, START_LIMIT, free_address};
use crate::scratch::Scratch;
use crate::workload::Dialect;

/// Nodes of most contestants; those that scale have one more.
const NODES: usize = 3;
const NODE_MIB: u32 = 256;

/// What a buffer of twemproxy holds by default, in bytes.
const TWEMPROXY_BUFFER: usize = 16 << 10;

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
    /// Slipring as it is by default, with clients on its Unix socket.
    SlipringUnix,
    /// Slipring as it is by default, over a fourth node.
    SlipringFour,
    /// The same with the three as the ring before: a quarter of the keys has an old place. That is where their values are when
    /// the load begins.
    SlipringBefore,
    /// The same when all values have moved: it has stored them itself.
    SlipringMoved,
    /// What `--peer` says.
    Peer(&'static Peer),
}

impl Contestant {
    pub(crate) const ALL: [Self; 9] = [
        Self::Direct,
        Self::Twemproxy,
        Self::Slipring { merge_gets: true },
        Self::Slipring { merge_gets: false },
        Self::SlipringBinary,
        Self::SlipringUnix,
        Self::SlipringFour,
        Self::SlipringBefore,
        Self::SlipringMoved,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Twemproxy => "twemproxy",
            Self::Slipring { merge_gets: true } => "slipring",
            Self::Slipring { merge_gets: false } => "slipring-nomerge",
            Self::SlipringBinary => "slipring-binary",
            Self::SlipringUnix => "slipring-unix",
            Self::SlipringFour => "slipring-four",
            Self::SlipringBefore => "slipring-before",
            Self::SlipringMoved => "slipring-moved",
            Self::Peer(peer) => &peer.name,
        }
    }

    /// What its clients speak.
    pub(crate) fn dialect(self) -> Dialect {
        if self == Self::SlipringBinary { Dialect::Binary } else { Dialect::Text }
    }

    /// Who stores the keys, if it does not do that itself.
    pub(crate) fn filled_by(self) -> Option<Self> {
        (self == Self::SlipringBefore).then_some(Self::Slipring { merge_gets: true })
    }

    /// What starts the proxy, if there is one; values of this many bytes are its load.
    pub(crate) fn command(
        self,
        address: SocketAddr,
        nodes: &Nodes,
        scratch: &Scratch,
        value_len: usize,
    ) -> io::Result<Option<Command>> {
        let three = nodes.first_three();
        let command = match self {
            Self::Direct => return Ok(None),
            Self::Twemproxy => twemproxy(address, three, scratch, value_len)?,
            Self::Slipring { merge_gets: true } | Self::SlipringBinary => slipring(address, three, 1, &[])?,
            Self::SlipringUnix => {
                slipring(format!("{address},unix:{}", unix_socket(address, scratch).display()), three, 1, &[])?
            }
            Self::Slipring { merge_gets: false } => slipring(address, three, 1, &["--merge-gets", "off"])?,
            Self::SlipringFour => slipring(address, &nodes.addresses, 1, &[])?,
            Self::Peer(peer) => peer.command(address, three, scratch.path())?,
            Self::SlipringBefore | Self::SlipringMoved => {
                slipring(address, &nodes.addresses, 1, &["--nodes-before", &list(three)])?
            }
        };
        Ok(Some(command))
    }

    /// Starts the proxy, if there is one; it listens when this returns.
    pub(crate) fn start(self, nodes: &Nodes, scratch: &Scratch, value_len: usize) -> io::Result<Started> {
        let address = free_address()?;
        let Some(command) = self.command(address, nodes, scratch, value_len)? else {
            return Ok(Started { proxy: None, addresses: nodes.first_three().to_vec(), unix_socket: None });
        };
        let log = scratch.path().join(format!("{}-{}.log", self.name(), address.port()));
        let proxy = Process::start(self.name(), command, address, Some(&log))?;
        let unix_socket = (self == Self::SlipringUnix).then(|| unix_socket(address, scratch));
        Ok(Started { proxy: Some(proxy), addresses: vec![address], unix_socket })
    }
}

/// A contestant that takes connections.
pub(crate) struct Started {
    pub(crate) proxy: Option<Process>,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where its clients connect, in place of the addresses.
    pub(crate) unix_socket: Option<PathBuf>,
}

/// The Unix socket of a slipring that listens there, too.
fn unix_socket(address: SocketAddr, scratch: &Scratch) -> PathBuf {
    scratch.path().join(format!("{}.sock", address.port()))
}

/// The program under test: `SLIPRING_BIN`, or what cargo built for this bench.
pub(crate) fn slipring_path() -> Option<PathBuf> {
    std::env::var_os("SLIPRING_BIN")
        .map(PathBuf::from)
        .or_else(|| option_env!("CARGO_BIN_EXE_slipring").map(Into::into))
}

fn list(nodes: &[SocketAddr]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Slipring with so many workers, which listens there.
pub(crate) fn slipring(
    listen: impl Display,
    nodes: &[SocketAddr],
    workers: u32,
    arguments: &[&str],
) -> io::Result<Command> {
    let path = slipring_path().ok_or_else(|| io::Error::other("no slipring binary: set SLIPRING_BIN"))?;
    let mut command = Command::new(path);
    command
        .arg("serve")
        .args(["--nodes", &list(nodes), "--listen", &listen.to_string()])
        .args(["--admin-listen", &free_address()?.to_string(), "--workers", &workers.to_string()])
        .args(arguments);
    Ok(command)
}

fn twemproxy(address: SocketAddr, nodes: &[SocketAddr], scratch: &Scratch, value_len: usize) -> io::Result<Command> {
    let servers: String = nodes.iter().map(|node| format!("    - {node}:1\n")).collect();
    let config = format!(
        "bench:\n  listen: {address}\n  hash: fnv1a_64\n  distribution: ketama\n  preconnect: true\n  \
         server_connections: 1\n  auto_eject_hosts: false\n  timeout: 1000\n  servers:\n{servers}"
    );
    let path = scratch.path().join("nutcracker.yml");
    fs::write(&path, config)?;
    let stats_port = free_address()?.port().to_string();
    let mut command = Command::new("nutcracker");
    command.arg("-c").arg(path).args(["-a", "127.0.0.1", "-s", &stats_port]);
    // At its best: from notices (5, the default) on, it asks for the peer's name at every request.
    command.args(["-v", "4"]);
    // And with buffers that fit large values, where there are any.
    if value_len > TWEMPROXY_BUFFER {
        command.args(["-m", "65536"]);
    }
    Ok(command)
}

/// The memcached nodes, one worker thread each.
pub(crate) struct Nodes {
    pub(crate) addresses: Vec<SocketAddr>,
    processes: Vec<Process>,
}

impl Nodes {
    /// In this network, or on the loopback.
    pub(crate) fn start(network: Option<&OwnNetwork>, scratch: &Scratch) -> io::Result<Self> {
        Self::with(NODES + 1, &[], network, scratch)
    }

    /// So many, with these further arguments.
    pub(crate) fn with(
        count: usize,
        further: &[&str],
        network: Option<&OwnNetwork>,
        scratch: &Scratch,
    ) -> io::Result<Self> {
        let mut nodes = Self { addresses: Vec::new(), processes: Vec::new() };
        for _ in 0..count {
            let (process, address) = match network {
                None => node::start(NODE_MIB, further, scratch)?,
                Some(network) => {
                    let address = network.next_address();
                    let command = network.command("memcached");
                    (node::start_by(command, address, NODE_MIB, further, scratch)?, address)
                }
            };
            nodes.processes.push(process);
            nodes.addresses.push(address);
        }
        Ok(nodes)
    }

    fn first_three(&self) -> &[SocketAddr] {
        &self.addresses[..NODES]
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
