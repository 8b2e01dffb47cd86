//! A network namespace for a test: the program of the test runs itself again in one.
#![allow(clippy::print_stdout, reason = "what is not tested is said")]

use std::env;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const INSIDE: &str = "SLIPRING_TEST_IN_NAMESPACE";

fn run(words: &[&str]) -> Output {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    output
        .unwrap_or_else(|error| panic!("cannot start {}: {error}. The tests need it; tests/run installs it.", words[0]))
}

/// How a program is started in a network namespace of its own, if the machine allows it. It may mount what it likes there.
fn unshare() -> Result<&'static [&'static str], String> {
    let ways: [&[&str]; 2] =
        [&["unshare", "--net", "--mount"], &["unshare", "--user", "--map-root-user", "--net", "--mount"]];
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

/// Runs an ignored test of this program in a network namespace, as root there, with its loopback still down.
/// `SLIPRING_NO_NETNS=1` does without, and says what is not tested.
///
/// # Panics
/// When no namespace can be made, or the test fails or does not end.
pub fn in_a_namespace(what: &str, test: &str, limit: Duration) {
    if env::var("SLIPRING_NO_NETNS").is_ok_and(|value| value == "1") {
        println!("NOT TESTED: {what}, because of SLIPRING_NO_NETNS=1");
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
        .arg(env::current_exe().expect("this program has a path"))
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .spawn()
        .expect("unshare has just been started");
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = inner.try_wait().expect("a child can be waited for") {
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

/// # Panics
/// When this is not what [`in_a_namespace`] runs.
pub fn must_be_in_a_namespace() {
    assert!(env::var_os(INSIDE).is_some(), "this runs in a network namespace: leave it to the test that makes one");
}
