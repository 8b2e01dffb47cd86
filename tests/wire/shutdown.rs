//! How it ends: the drain of SIGTERM, the end of SIGINT, and what is in flight meanwhile.
use crate::support::{Memcached, ScriptedNode, Slipring, Step, TextClient, binary, eventually, free_port, honest};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// So long must nobody have been connected.
const QUIET: Duration = Duration::from_secs(5);

/// Tells it to end, and waits until it has begun to.
fn terminate(slipring: &Slipring) {
    slipring.signal("TERM");
    eventually("it is not ready any more", || slipring.admin("/readyz").0 == 503);
}

/// A node that holds its answer to any request for the key `held`.
fn holding_node() -> ScriptedNode {
    ScriptedNode::start(|request| {
        let mut steps = honest(request);
        if request.line.contains("held") {
            steps.insert(0, Step::Hold);
        }
        steps
    })
}

#[test]
fn sigterm_drains_for_five_quiet_seconds_and_ends_with_success() {
    let node = Memcached::start();
    let mut slipring = Slipring::start(&[node.address()]);
    assert_eq!(slipring.admin("/readyz").0, 200);
    let told = Instant::now();
    terminate(&slipring);
    assert_eq!(slipring.admin("/healthz").0, 200, "it works: it is not to be restarted");
    slipring.client().set("k", "v");
    assert!(slipring.wait_for_end().success());
    assert!(told.elapsed() >= QUIET, "after {:?}", told.elapsed());
}

#[test]
fn an_application_that_connects_for_each_request_is_not_taken_for_gone() {
    let node = Memcached::start();
    let mut slipring = Slipring::start(&[node.address()]);
    terminate(&slipring);
    let mut last = Instant::now();
    for round in 0..6 {
        std::thread::sleep(Duration::from_millis(1500));
        last = Instant::now();
        slipring.client().set("k", round.to_string()).in_step();
        assert_eq!(slipring.admin("/readyz").0, 503);
    }
    assert!(slipring.wait_for_end().success());
    assert!(last.elapsed() >= QUIET, "{:?} after the last", last.elapsed());
}

#[test]
fn a_client_that_stays_is_served_until_the_drain_times_out() {
    let node = Memcached::start();
    let mut slipring = Slipring::with(&[node.address()], &["--drain-timeout-on-exit", "15s"]);
    let mut staying = slipring.client();
    staying.in_step();
    let told = Instant::now();
    terminate(&slipring);
    // Longer than it would wait for nobody; then there is time left for a machine that is busy.
    while told.elapsed() < QUIET + Duration::from_secs(1) {
        staying.set("k", "v").in_step();
        slipring.client().in_step();
        std::thread::sleep(Duration::from_millis(100));
    }
    staying.expect_closed();
    assert!(slipring.wait_for_end().success());
    assert!(
        slipring.output().contains("--drain-timeout-on-exit is over and clients are still connected"),
        "{}",
        slipring.output()
    );
}

#[test]
fn what_is_in_flight_when_the_drain_times_out_is_answered() {
    let node = holding_node();
    let arguments = ["--drain-timeout-on-exit", "100ms", "--request-timeout", "60s", "--queue-timeout", "60s"];
    let mut slipring = Slipring::with(&[node.address()], &arguments);
    let mut idle = slipring.client();
    idle.in_step();
    let mut client = slipring.client();
    client.send("get a held b\r\n");
    node.wait_for_holds(1);
    let mut half = slipring.client();
    half.ask("mn\r\nset whole 0 0 1\r\nx\r\nset half 0 0 10\r\nhalf", "MN\r\n");
    slipring.signal("TERM");
    eventually("the drain times out", || {
        slipring.output().contains("--drain-timeout-on-exit is over and clients are still connected")
    });
    idle.expect_closed();
    node.release();
    let keys: Vec<Vec<u8>> = client.values().unwrap().into_iter().map(|value| value.key).collect();
    assert_eq!(keys, [b"a".to_vec(), b"held".to_vec(), b"b".to_vec()]);
    client.expect_closed();
    half.expect("STORED\r\n").expect_closed();
    assert!(node.requests().iter().all(|request| !request.line.contains("half")), "what is half is not sent");
    assert!(slipring.wait_for_end().success());
    assert!(TcpStream::connect(slipring.address()).is_err());
}

#[test]
fn a_node_that_never_answers_does_not_hold_up_the_end() {
    let node = holding_node();
    let arguments = ["--drain-timeout-on-exit", "0s", "--request-timeout", "60s", "--queue-timeout", "60s"];
    let mut slipring = Slipring::with(&[node.address()], &arguments);
    let mut client = slipring.client();
    client.send("get held\r\n");
    node.wait_for_holds(1);
    slipring.signal("TERM");
    client.expect_closed();
    assert!(slipring.wait_for_end().success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let node = Memcached::start();
    for second in ["TERM", "INT"] {
        let mut slipring = Slipring::with(&[node.address()], &["--drain-timeout-on-exit", "60m"]);
        let mut client = slipring.client();
        client.in_step();
        terminate(&slipring);
        client.set("k", "v").in_step();
        // The same one at once would be the same order.
        std::thread::sleep(Duration::from_millis(1_100));
        slipring.signal(second);
        assert!(slipring.wait_for_end().success());
        client.expect_closed();
    }
}

#[test]
fn the_same_signal_at_once_is_the_same_order() {
    let node = Memcached::start();
    // On a machine that is busy the second one may come too late to be meant.
    let drains_on = (0..10).any(|_| {
        let slipring = Slipring::with(&[node.address()], &["--drain-timeout-on-exit", "60m"]);
        let mut client = slipring.client();
        client.in_step();
        terminate(&slipring);
        slipring.signal("TERM");
        eventually("it is heard", || {
            ["same signal", "second signal"].iter().any(|line| slipring.output().contains(line))
        });
        let drains_on = slipring.output().contains("the same signal came again within a second: ignored");
        if drains_on {
            client.set("k", "v").in_step();
            return true;
        }
        let mut slipring = slipring;
        assert!(slipring.wait_for_end().success());
        false
    });
    assert!(drains_on);
}

/// Kills what a test leaves behind when it fails.
struct Left(Pid);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn dev_ends_with_its_terminal() {
    let (listen, admin) = (free_port(), free_port());
    let (listen, admin) = (listen.on("127.0.0.1").to_string(), admin.on("127.0.0.1").to_string());
    let program = binary().get_program().to_string_lossy().into_owned();
    // A session of its own, and a terminal that goes with who holds its other end.
    // Whoever runs the tests may ignore SIGHUP, as nohup does, and would be respected.
    let line =
        format!("exec env --default-signal=HUP {program} dev --nodes 1 --listen {listen} --admin-listen {admin}");
    let mut terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("script");
    eventually("it serves", || TcpStream::connect(&listen).is_ok());
    let children = format!("/proc/{0}/task/{0}/children", terminal.id());
    let child = std::fs::read_to_string(children).unwrap();
    let pid = child.trim().parse().ok().and_then(Pid::from_raw).unwrap();
    let left = Left(pid);
    // While the terminal is there it is a wish to read the nodes again.
    kill_process(pid, Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    TextClient::connect(listen.parse().unwrap()).in_step();
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    eventually("it ends", || TcpStream::connect(&listen).is_err());
    drop(left);
}

#[test]
fn sigint_ends_it_when_what_is_in_flight_is_answered() {
    let node = Memcached::with(&["-I", "16m"]);
    let mut slipring = Slipring::with(&[node.address()], &["--drain-timeout-on-exit", "60m"]);
    let value = vec![b'x'; 3 << 20];
    let mut idle = slipring.client();
    idle.set("k", &value).in_step();
    let mut reading = slipring.client();
    reading.send("get k\r\n").take(1000);
    slipring.signal("INT");
    idle.expect_closed();
    let rest = reading.rest();
    assert!(
        1000 + rest.len() > value.len() && rest.ends_with(b"xx\r\nEND\r\n"),
        "all of the value: {} bytes",
        rest.len()
    );
    assert!(slipring.wait_for_end().success());
}

#[test]
fn dev_ends_at_once_when_interrupted() {
    let mut slipring = Slipring::command(&["dev", "--nodes", "2"], &[]);
    slipring.signal("INT");
    assert!(slipring.wait_for_end().success());
}

#[test]
fn nobody_ends_it_over_http() {
    let node = Memcached::start();
    let slipring = Slipring::start(&[node.address()]);
    let mut client = slipring.client();
    for path in ["/quit", "/quitquitquit"] {
        assert_eq!(slipring.ask_admin("POST", path).0, 405);
        assert_eq!(slipring.admin(path).0, 404);
    }
    assert_eq!(slipring.admin("/readyz").0, 200);
    client.set("k", "v").in_step();
    TextClient::connect(slipring.address()).in_step();
}
