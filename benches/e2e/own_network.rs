//! `--own-network`: a network namespace for the nodes, and a pair of virtual interfaces that leads there.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::veth::{End, join, run};

/// Where the two addresses are taken from, each 256 of them: the first pair that nothing on this machine leads to.
const PLACES: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 77, 0), Ipv4Addr::new(10, 213, 77, 0)];
/// Pairs in a place. A pair is a network of four addresses, the first and the last of which nobody has.
const PAIRS: u32 = 64;
const PAIR_LEN: u32 = 30;
/// Routes to more than this are default routes under another name (a VPN's 0.0.0.0/1): a pair takes nothing from them.
const WIDEST: u32 = 8;
/// What removes the namespace may take so long; it goes on when nobody waits for it.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// Waits until the bench has ended, however: its end of the pipe is closed then. Ctrl-C is not for this one.
const REMOVAL: &str = r#"
trap "" HUP INT TERM
read -r nothing
for pid in $(ip netns pids "$1"); do kill -KILL "$pid"; done
ip link delete "$2"
ip netns delete "$1"
"#;

/// The namespace and what leads there, as long as this lives.
pub(crate) struct OwnNetwork {
    name: String,
    /// Of all nodes.
    address: Ipv4Addr,
    /// Nobody else is there, so ports are counted.
    next_port: Cell<u16>,
    _removal: Removal,
}

impl OwnNetwork {
    pub(crate) fn new() -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(io::Error::other("--own-network makes a network namespace, which takes root"));
        }
        let routes = run(&["ip", "-4", "-o", "route", "show", "table", "all"]).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("--own-network needs `ip` in PATH (the package iproute2)"),
            _ => error,
        })?;
        Self::beside(&routes).map_err(|error| io::Error::other(format!("--own-network: {error}")))
    }

    fn beside(routes: &str) -> io::Result<Self> {
        let id = std::process::id();
        let [near, far] = free_pair(routes, id).ok_or_else(|| {
            io::Error::other("no free addresses: routes lead to all of 169.254.77.0/24 and 10.213.77.0/24")
        })?;
        let (name, device) = (name(id), device(id));
        // Only a run of the same id can have left these, if what removes them was killed, too.
        let _ = run(&["ip", "link", "delete", &device]);
        let _ = run(&["ip", "netns", "delete", &name]);
        let removal = Removal::of(&name, &device)?;
        run(&["ip", "netns", "add", &name])?;
        let of = |address: Ipv4Addr| format!("{address}/{PAIR_LEN}");
        let near = End { device: &device, address: &of(near) };
        join(&name, &["ip", "netns", "exec", &name], near, End { device: "nodes", address: &of(far) })?;
        Ok(Self { name, address: far, next_port: Cell::new(11_211), _removal: removal })
    }

    /// What starts a program there: it becomes that program.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// An address for one more node.
    pub(crate) fn next_address(&self) -> SocketAddr {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        (self.address, port).into()
    }
}

pub(crate) fn name(id: u32) -> String {
    format!("slipring-e2e-{id}")
}

/// The interface on this side. The kernel takes 15 bytes.
pub(crate) fn device(id: u32) -> String {
    format!("e2e-{id}")
}

/// Two addresses of a network that none of these routes leads to. Runs with other ids begin to look at other places.
pub(crate) fn free_pair(routes: &str, id: u32) -> Option<[Ipv4Addr; 2]> {
    let taken: Vec<(u32, u32)> = routes.lines().filter_map(destination).filter(|(_, len)| *len >= WIDEST).collect();
    let overlaps = |network: u32, (other, len): (u32, u32)| (network ^ other) >> (32 - len.min(PAIR_LEN)) == 0;
    let pairs = PLACES.into_iter().flat_map(|place| (0..PAIRS).map(move |n| u32::from(place) + 4 * ((id + n) % PAIRS)));
    let network = pairs.into_iter().find(|network| !taken.iter().any(|taken| overlaps(*network, *taken)))?;
    Some([Ipv4Addr::from(network + 1), Ipv4Addr::from(network + 2)])
}

/// What a line of `ip route` leads to, and the length of its prefix; `default` is none. The kind may stand before.
fn destination(line: &str) -> Option<(u32, u32)> {
    line.split_whitespace().take(2).find_map(|word| {
        let (address, len) = word.split_once('/').unwrap_or((word, "32"));
        Some((address.parse::<Ipv4Addr>().ok()?.into(), len.parse().ok()?))
    })
}

/// The process that removes the namespace with all that runs in it, and the pair: at the end, at an error, and when the bench
/// was interrupted or killed, too.
struct Removal {
    child: Child,
}

impl Removal {
    fn of(name: &str, device: &str) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", REMOVAL, "sh", name, device]).stdin(Stdio::piped());
        // In a group of its own, which a terminal's Ctrl-C does not reach. What is not there to be removed is no matter.
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Ok(Self { child: command.spawn()? })
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + REMOVAL_LIMIT;
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                eprintln!("e2e: the network namespace is not removed yet");
                return;
            }
            sleep(Duration::from_millis(5));
        }
    }
}
