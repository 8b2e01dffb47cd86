//! A node that is down says why: in the log, once, and in `/ring`.
use crate::support::{Memcached, Request, ScriptedNode, Slipring, Step, eventually, free_port, honest};
use serde_json::Value;

/// What is logged of nodes at INFO and above, an object a line.
fn told(slipring: &Slipring) -> Vec<Value> {
    let log = slipring.output_lines();
    let lines =
        log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
    lines.filter(|line| line["node"].is_string()).collect()
}

/// The cause of the first node in `/ring`.
fn cause(slipring: &Slipring) -> Value {
    let ring: Value = serde_json::from_str(&slipring.admin("/ring").1).unwrap();
    ring["nodes"][0]["cause"].clone()
}

/// How often the nodes were tried again in vain.
fn failed_probes(slipring: &Slipring) -> u64 {
    let metrics = slipring.admin("/metrics").1;
    let lines = metrics.lines().filter(|line| line.starts_with("slipring_node_probes_total{"));
    let failed = lines.filter(|line| line.contains("result=\"failed\""));
    failed.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Two workers in front of what listens there, which is no node: one line says why, at this level, however often it is
/// tried.
fn is_down_for(address: std::net::SocketAddr, level: &str, phrase: &str) {
    let arguments = ["--workers", "2", "--log-format", "json", "--request-timeout", "500ms"];
    let slipring = Slipring::launch(&[address], &arguments);
    eventually("it is down and says why", || cause(&slipring) == phrase);
    eventually("it is tried again and again", || failed_probes(&slipring) >= 6);
    let lines = told(&slipring);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&level.into(), &"node is down".into()), "{lines:#?}");
    assert_eq!(lines[0]["cause"], phrase);
    assert_eq!(cause(&slipring), phrase);
}

#[test]
fn another_cause_of_the_same_outage_is_one_line_more() {
    let node = ScriptedNode::with_version(vec![Step::Close], honest);
    let arguments = ["--workers", "2", "--log-format", "json", "--request-timeout", "500ms"];
    let slipring = Slipring::launch(&[node.address()], &arguments);
    let early = "closed by it before it said its version";
    eventually("it is down and says why", || cause(&slipring) == early);
    // Both workers come to see it, and then others.
    let later = [
        (vec![Step::send("CLIENT_ERROR unauthenticated\r\n")], "authentication wanted"),
        (vec![Step::Close], early),
        (vec![Step::send("HTTP/1.1 400 Bad Request\r\n")], "answered \"HTTP/1.1 400 Bad Request\""),
    ];
    for (answer, phrase) in later {
        node.set_version(answer);
        let failed = failed_probes(&slipring);
        eventually("it is down for another cause", || {
            cause(&slipring) == phrase && failed_probes(&slipring) >= failed + 4
        });
    }
    let lines = told(&slipring);
    let lines: Vec<_> = lines.iter().map(|line| (line["message"].as_str().unwrap(), line["cause"].clone())).collect();
    let wanted = [("node is down", early), ("node is still down", "authentication wanted")];
    assert_eq!(lines, wanted.map(|(message, cause)| (message, Value::from(cause))));
}

fn stranger(answer: &[u8]) -> ScriptedNode {
    ScriptedNode::with_version(vec![Step::send(answer), Step::Close], honest)
}

#[test]
fn something_else_that_listens_there_is_one_error_that_shows_what_it_said() {
    let web = stranger(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request");
    is_down_for(web.address(), "ERROR", "answered \"HTTP/1.1 400 Bad Request\"");
    let tls = stranger(b"\x15\x03\x03\x00\x02\x02\x46");
    is_down_for(tls.address(), "ERROR", "TLS expected");
}

#[test]
fn a_node_that_wants_a_login_says_so() {
    // So says memcached 1.6 with `-Y`.
    let node = ScriptedNode::with_version(vec![Step::send("CLIENT_ERROR unauthenticated\r\n")], honest);
    is_down_for(node.address(), "ERROR", "authentication wanted");
}

#[test]
fn a_node_that_has_no_room_for_a_connection_says_so() {
    let node = Memcached::with(&["-c", "64"]);
    // Whoever holds them: no place is left.
    let mut clients: Vec<_> = (0..80).map(|_| node.client()).collect();
    let refused = clients.last_mut().unwrap().line();
    assert_eq!(refused, "ERROR Too many open connections");
    is_down_for(node.address(), "WARN", "too many open connections (memcached's -c)");
}

#[test]
fn a_node_that_is_not_there_hangs_up_or_says_nothing_is_a_warning() {
    let nobody = free_port();
    is_down_for(nobody.on("127.0.0.1"), "WARN", "connection refused");
    let closes = ScriptedNode::with_version(vec![Step::Close], honest);
    is_down_for(closes.address(), "WARN", "closed by it before it said its version");
    let silent = ScriptedNode::with_version(vec![Step::Silence], honest);
    is_down_for(silent.address(), "WARN", "no answer to a request for 500 ms");
}

#[test]
fn a_connection_that_is_closed_and_made_anew_is_no_line() {
    let node = ScriptedNode::start(honest);
    let slipring = Slipring::launch(&[node.address()], &["--workers", "1", "--log-format", "json"]);
    eventually("it is told to be up", || told(&slipring).len() == 1);
    // One that has lasted a second is replaced at once.
    std::thread::sleep(std::time::Duration::from_millis(1_200));
    node.hang_up();
    node.wait_for_versions(2);
    slipring.wait_for_states("up", 1);
    slipring.client().ask("get k\r\n", "VALUE k 0 10\r\nvalue of k\r\nEND\r\n");
    assert_eq!(told(&slipring).len(), 1, "{:#?}", told(&slipring));
}

#[test]
fn a_node_that_lies_for_ever_is_one_error() {
    let lies = |_: &Request| vec![Step::send("a lie\r\n")];
    let node = ScriptedNode::start(lies);
    let slipring = Slipring::launch(&[node.address()], &["--workers", "2", "--log-format", "json"]);
    let desyncs = || {
        let metrics = slipring.admin("/metrics").1;
        let lines = metrics.lines().filter(|line| line.starts_with("slipring_upstream_desyncs_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let mut clients = [slipring.client(), slipring.client()];
    eventually("it has lied to everybody", || {
        for client in &mut clients {
            client.ask("get k\r\n", "END\r\n");
        }
        desyncs() >= 4
    });
    let errors = told(&slipring).into_iter().filter(|line| line["level"] == "ERROR").count();
    assert_eq!(errors, 1, "{:#?}", told(&slipring));
}

#[test]
fn a_killed_node_says_why_until_it_is_back() {
    let mut node = Memcached::start();
    let slipring = Slipring::start(&[node.address()]);
    node.kill();
    eventually("it is refused", || cause(&slipring) == "connection refused");
    node.restart();
    slipring.wait_for_states("up", 1);
    assert_eq!(cause(&slipring), Value::Null);
}
