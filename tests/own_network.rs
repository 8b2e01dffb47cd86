//! The network that `cargo bench --bench e2e -- --own-network` makes for its nodes: its addresses are free, what goes there
//! passes a device, and nothing is left of it, even by a bench that was killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

#[path = "../benches/e2e/own_network.rs"]
mod own_network;
mod support;
#[path = "../benches/parts/veth.rs"]
mod veth;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use own_network::{OwnNetwork, device, free_pair, name};
use support::{eventually, in_a_namespace, must_be_in_a_namespace};
use veth::run;

const HELD: &str = "held_until_it_is_killed";

// === addresses and names ===

fn pair(second: u8, third: u8, last: u8) -> Option<[Ipv4Addr; 2]> {
    let first = if second == 254 { 169 } else { 10 };
    Some([last, last + 1].map(|last| Ipv4Addr::new(first, second, third, last)))
}

#[test]
fn a_pair_of_addresses_is_one_that_no_route_leads_to() {
    let usual = "default via 192.0.2.1 dev eth0 \n\
                 192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2 \n\
                 local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1 \n\
                 broadcast 192.0.2.255 dev eth0 table local proto kernel scope link src 192.0.2.2 \n";
    let with = |line: &str| free_pair(&format!("{usual}{line}\n"), 0);
    let first = pair(254, 77, 1);
    assert_eq!(free_pair("", 0), first, "where there is no route at all");
    assert_eq!(with(""), first);
    // Next to it, or to another part of the same private network.
    assert_eq!(with("169.254.169.254 via 192.0.2.1 dev eth0"), first);
    assert_eq!(with("169.254.77.4/30 dev e2e-1 proto kernel scope link src 169.254.77.5"), first);
    // The network, either address, a part.
    assert_eq!(with("169.254.77.0/30 dev e2e-1 proto kernel scope link src 169.254.77.1"), pair(254, 77, 5));
    assert_eq!(with("local 169.254.77.1 dev e2e-1 table local proto kernel scope host"), pair(254, 77, 5));
    assert_eq!(with("169.254.77.2/31 dev eth1"), pair(254, 77, 5));
    assert_eq!(with("unreachable 169.254.77.0/29"), pair(254, 77, 9));
    // All of the place.
    assert_eq!(with("169.254.0.0/16 dev eth0 scope link metric 1000"), pair(213, 77, 1));
    assert_eq!(with("169.254.0.0/16 dev eth0\n10.213.77.0/25 dev eth1"), pair(213, 77, 129));
    assert_eq!(with("169.254.0.0/16 dev eth0\n10.0.0.0/8 dev tun0"), None);
    // Default routes by other names.
    assert_eq!(with("0.0.0.0/1 dev tun0\n128.0.0.0/1 dev tun0\n0.0.0.0/0 dev tun0"), first);
}

#[test]
fn runs_side_by_side_begin_with_other_addresses() {
    assert_eq!(free_pair("", 1), pair(254, 77, 5));
    assert_eq!(free_pair("", 63), pair(254, 77, 253));
    assert_eq!(free_pair("", 64), pair(254, 77, 1));
    assert_eq!(free_pair("169.254.77.252/30 dev e2e-63", 63), pair(254, 77, 1), "around the end of the place");
}

#[test]
fn a_device_of_any_process_has_a_name_that_the_kernel_takes() {
    // The greatest process id of 64-bit Linux.
    let longest = device(1 << 22);
    assert!(longest.len() < 16, "{longest}");
}

// === the network itself ===

#[test]
fn nothing_is_left_of_the_network() {
    in_a_namespace("the network of --own-network", "inside_the_namespace", Duration::from_secs(180));
}

/// Names that `ip` gives, one in each line.
fn names(words: &[&str]) -> Vec<String> {
    let lines = run(words).unwrap();
    lines.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn namespaces() -> Vec<String> {
    names(&["ip", "netns", "list"])
}

/// The lines of the kernel's table of devices: a name and what it counts.
fn device_counts() -> Vec<(String, Vec<u64>)> {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap();
    let lines = table.lines().filter_map(|line| line.split_once(':'));
    let counts = |text: &str| text.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    lines.map(|(name, text)| (name.trim().to_owned(), counts(text))).collect()
}

fn devices() -> Vec<String> {
    device_counts().into_iter().map(|(name, _)| name).collect()
}

/// Bytes that a device has received and sent.
fn passed(device: &str) -> [u64; 2] {
    let (_, counts) = device_counts().into_iter().find(|(name, _)| name == device).unwrap();
    [counts[0], counts[8]]
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "run by nothing_is_left_of_the_network, in a network namespace"]
fn inside_the_namespace() {
    must_be_in_a_namespace();
    // Where `ip` keeps its namespaces: the machine's own are another matter.
    run(&["mount", "-t", "tmpfs", "none", "/run"]).unwrap();
    run(&["ip", "link", "set", "lo", "up"]).unwrap();
    what_goes_there_passes_the_device();
    what_is_left_of_a_run_of_the_same_id_is_no_matter();
    nothing_is_left_by_one_that_is_killed();
}

fn what_goes_there_passes_the_device() {
    const SIZE: usize = 100_000;
    let network = OwnNetwork::new().unwrap();
    let (id, address) = (std::process::id(), network.next_address());
    assert_ne!(network.next_address(), address, "each node has its own");
    let mut command = network.command("memcached");
    command.args(["-l", &address.ip().to_string(), "-p", &address.port().to_string(), "-U", "0", "-u", "root"]);
    let node = Ended(command.stdin(Stdio::null()).spawn().unwrap());
    eventually("the node accepts", || TcpStream::connect(address).is_ok());
    let became = fs::read_to_string(format!("/proc/{}/comm", node.0.id())).unwrap();
    assert_eq!(became.trim(), "memcached", "its CPU time is that of the process that was started");

    let before = passed(&device(id));
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let value = vec![b'v'; SIZE];
    client.write_all(&[format!("set k 0 0 {SIZE}\r\n").as_bytes(), &value, b"\r\n"].concat()).unwrap();
    client.read_exact(&mut [0; b"STORED\r\n".len()]).unwrap();
    client.write_all(b"get k\r\n").unwrap();
    client.read_exact(&mut vec![0; SIZE]).unwrap();
    let after = passed(&device(id));
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before >= SIZE as u64, "{before} and {after} bytes");
    }

    assert_eq!(namespaces(), [name(id)]);
    // With a node that still runs: an error may come at any time.
    drop(network);
    assert_eq!(namespaces(), [""; 0]);
    assert!(!devices().contains(&device(id)));
}

fn what_is_left_of_a_run_of_the_same_id_is_no_matter() {
    let id = std::process::id();
    run(&["ip", "netns", "add", &name(id)]).unwrap();
    run(&["ip", "link", "add", &device(id), "type", "veth", "peer", "name", "nodes", "netns", &name(id)]).unwrap();
    let network = OwnNetwork::new().unwrap();
    assert_eq!(namespaces(), [name(id)]);
    drop(network);
    assert_eq!(namespaces(), [""; 0]);
}

fn nothing_is_left_by_one_that_is_killed() {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args([HELD, "--exact", "--ignored", "--nocapture"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut bench = Ended(command.spawn().unwrap());
    let (of_it, device) = (name(bench.0.id()), device(bench.0.id()));
    let command_line = |id: &str| fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let node = || names(&["ip", "netns", "pids", &of_it]).into_iter().find(|id| command_line(id).starts_with("sleep"));
    eventually("a node runs in its network", || namespaces().contains(&of_it) && node().is_some());
    let node = node().unwrap();
    bench.0.kill().unwrap();
    bench.0.wait().unwrap();
    eventually("the network is removed", || namespaces().is_empty());
    eventually("the device is removed", || !devices().contains(&device));
    // An ended process that nobody has waited for yet has no command line.
    eventually("the node has ended", || command_line(&node).is_empty());
}

#[test]
#[ignore = "run by nothing_is_left_of_the_network, which kills it"]
fn held_until_it_is_killed() {
    must_be_in_a_namespace();
    let network = OwnNetwork::new().unwrap();
    let mut node = network.command("sleep");
    // Should it be left over, nobody waits for what it prints.
    node.arg("3600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _node = Ended(node.spawn().unwrap());
    // Until its end of the pipe is closed, should that be the first of the two to end.
    let _ = std::io::stdin().read(&mut [0; 1]);
}
