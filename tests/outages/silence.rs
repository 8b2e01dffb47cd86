//! A node behind a network that drops every packet and says nothing: no reset, no refusal, no answer.
//!
//! Two network namespaces of the test's own, joined by a pair of virtual interfaces. This test runs
//! itself again in the first, where the proxy, the load and the healthy nodes are; the sick node is in
//! the second. To cut it off, each side is told a link address for the other that nobody has: the
//! packets leave, arrive, and are for nobody. That needs no packet filter in the kernel, no further
//! program, and no root where users may make namespaces.
use crate::alone;
use crate::scenario::{flapping_time, outage_time, quiet_time, scenario};
use crate::support::{Link, Memcached};
use std::env;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const INSIDE: &str = "SLIPRING_TEST_IN_NAMESPACE";
const NEAR: &str = "10.213.7.1";
const FAR: &str = "10.213.7.2";
const NOBODY: &str = "02:00:00:00:00:99";

/// Runs a program of the system to its end.
fn run(words: &[&str]) -> Output {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    output
        .unwrap_or_else(|error| panic!("cannot start {}: {error}. The tests need it; tests/run installs it.", words[0]))
}

fn must(words: &[&str]) {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// How a program is started in a network namespace of its own, if the machine allows it.
fn unshare() -> Result<&'static [&'static str], String> {
    let ways: [&[&str]; 2] = [&["unshare", "--net"], &["unshare", "--user", "--map-root-user", "--net"]];
    let mut refusals = String::new();
    for way in ways {
        let output = run(&[way, &["ip", "link", "set", "lo", "up"]].concat());
        if output.status.success() {
            return Ok(way);
        }
        refusals.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    Err(refusals)
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_whose_packets_are_dropped_silently() {
    let _alone = alone();
    if env::var("SLIPRING_NO_NETNS").is_ok_and(|value| value == "1") {
        println!("NOT TESTED: a node whose packets are dropped silently, because of SLIPRING_NO_NETNS=1");
        return;
    }
    let way = unshare().unwrap_or_else(|refusals| {
        panic!(
            "no network namespace can be made here, which this test needs: {refusals}Run it as root, or allow \
             users to make namespaces, or set SLIPRING_NO_NETNS=1 to do without it."
        )
    });
    let mut inner = Command::new(way[0])
        .args(&way[1..])
        .arg(env::current_exe().unwrap())
        .args(["silence::inside_the_namespace", "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(180) + 2 * (outage_time() + quiet_time() + flapping_time());
    let status = loop {
        if let Some(status) = inner.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = inner.kill();
            let _ = inner.wait();
            panic!("the test in the namespace does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "the test in the namespace failed: its output is above");
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
        must(&["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &far.pid]);
        must(&["ip", "address", "add", &format!("{NEAR}/30"), "dev", "near"]);
        must(&["ip", "link", "set", "near", "up"]);
        far.inside(&["ip", "link", "set", "lo", "up"]);
        far.inside(&["ip", "address", "add", &format!("{FAR}/30"), "dev", "far"]);
        far.inside(&["ip", "link", "set", "far", "up"]);
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
    assert!(env::var_os(INSIDE).is_some(), "this runs in a network namespace: leave it to the test that makes one");
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
