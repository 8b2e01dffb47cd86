//! A node behind a network that drops every packet and says nothing: no reset, no refusal, no answer.
//!
//! Two network namespaces of the test's own, joined by a pair of virtual interfaces. This test runs
//! itself again in the first, where the proxy, the load and the healthy nodes are; the sick node is in
//! the second. To cut it off, each side is told a link address for the other that nobody has: the
//! packets leave, arrive, and are for nobody. That needs no packet filter in the kernel, no further
//! program, and no root where users may make namespaces.
use crate::alone;
use crate::scenario::{flapping_time, outage_time, quiet_time, scenario};
use crate::support::{Link, Memcached, in_a_namespace, must_be_in_a_namespace};
use crate::veth::{End, join, run};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NEAR: &str = "10.213.7.1";
const FAR: &str = "10.213.7.2";
const NOBODY: &str = "02:00:00:00:00:99";

fn must(words: &[&str]) {
    run(words).unwrap();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_whose_packets_are_dropped_silently() {
    let _alone = alone();
    let limit = Duration::from_secs(180) + 2 * (outage_time() + quiet_time() + flapping_time());
    in_a_namespace("a node whose packets are dropped silently", "silence::inside_the_namespace", limit);
}

/// The second namespace: it is there as long as a process is in it.
struct Far {
    holder: Child,
    pid: String,
}

impl Far {
    fn new() -> Self {
        let holder = Command::new("unshare").args(["--net", "sleep", "3600"]).stdin(Stdio::null()).spawn().unwrap();
        let pid = holder.id().to_string();
        let far = Self { holder, pid };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", far.pid);
        crate::support::eventually("the second namespace is there", || {
            std::fs::read_link(&path).is_ok_and(|other| other != own)
        });
        must(&["ip", "link", "set", "lo", "up"]);
        let near = End { device: "near", address: &format!("{NEAR}/30") };
        join(&far.pid, &far.entry(), near, End { device: "far", address: &format!("{FAR}/30") }).unwrap();
        far
    }

    /// What starts a program there.
    fn entry(&self) -> [&str; 4] {
        ["nsenter", "--net", "--target", &self.pid]
    }

    fn inside(&self, words: &[&str]) {
        must(&[&self.entry(), words].concat());
    }

    fn cut(&self) {
        let nobody =
            |peer, device| ["ip", "neighbour", "replace", peer, "lladdr", NOBODY, "nud", "permanent", "dev", device];
        must(&nobody(FAR, "near"));
        self.inside(&nobody(NEAR, "far"));
    }

    fn join(&self) {
        self.inside(&["ip", "neighbour", "delete", NEAR, "dev", "far"]);
        must(&["ip", "neighbour", "delete", FAR, "dev", "near"]);
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
#[ignore = "run by a_node_whose_packets_are_dropped_silently, in a network namespace"]
fn inside_the_namespace() {
    must_be_in_a_namespace();
    let far = Far::new();
    // Who is root here may be nobody else, if the namespace is a user's.
    let root: &[&str] = &["-u", "root"];
    let nodes = || {
        let sick = Memcached::elsewhere(FAR, &far.entry(), root);
        vec![sick, Memcached::with(root), Memcached::with(root)]
    };
    scenario("a node whose packets are dropped silently", &Link::Plain, nodes(), 0b001, &[], |stand| {
        far.cut();
        stand.last(outage_time());
        let returned = Instant::now();
        far.join();
        returned
    });
    // So short that most requests only wait: what the kernel held back arrives late and in order, and
    // what the proxy has given up behind it must not be sent.
    scenario("a node whose packets are dropped for 0.4 s of each second", &Link::Plain, nodes(), 0b001, &[], |stand| {
        stand.may_pass_unnoticed = true;
        let until = Instant::now() + flapping_time();
        loop {
            far.cut();
            stand.wait(Duration::from_millis(400));
            let returned = Instant::now();
            far.join();
            if Instant::now() >= until {
                return returned;
            }
            stand.wait(Duration::from_millis(600));
        }
    });
}
