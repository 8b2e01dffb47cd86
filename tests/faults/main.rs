//! Nodes that stall, drip, truncate, lie, reset and fall silent: what clients get then, and what
//! never reaches anybody.
//!
//! No test measures time. A time-out is either short, and the node acts only after the answer that
//! the time-out gives; or so long that an answer cannot be owed to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

#[path = "../support/mod.rs"]
mod support;

mod chaos;
mod expiry;
mod health;
mod isolation;
mod lanes;
mod left;
mod lies;
mod order;
mod overtaking;
mod queue;
mod retry;
mod values;

use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Request, ScriptedNode, Slipring, Step, TextClient, eventually, honest};

/// A time-out that expires as soon as may be.
const SHORT: [&str; 2] = ["--request-timeout", "200ms"];
/// One that leaves time, after the answer it gives, to act before the connection is given up: two
/// further periods. A node that still answers then has time to show it, on a busy machine too.
const MEDIUM: [&str; 4] = ["--request-timeout", "2s", LIVES[0], LIVES[1]];
/// So long a node that let a request expire may take to say that it lives.
const LIVES: [&str; 2] = ["--connect-timeout", "2s"];
/// One that expires in no test that passes.
const NEVER: [&str; 2] = ["--request-timeout", "60s"];

/// One worker in front of one node that does as `script` says.
fn behind(
    script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    arguments: &[&str],
) -> (ScriptedNode, Slipring) {
    let node = ScriptedNode::start(script);
    let slipring = one_worker(&[&node], arguments);
    (node, slipring)
}

/// One worker in front of these nodes, all of them up.
fn one_worker(nodes: &[&ScriptedNode], arguments: &[&str]) -> Slipring {
    let addresses: Vec<_> = nodes.iter().map(|node| node.address()).collect();
    Slipring::with(&addresses, &[&["--workers", "1"], arguments].concat())
}

/// Tells the truth, but holds back the reply to what names `slow`.
fn slow(request: &Request) -> Vec<Step> {
    let mut steps = honest(request);
    if request.line.contains("slow") {
        steps.insert(0, Step::Hold);
    }
    steps
}

/// A script whose every value and number is how many requests came before: no reply can be taken
/// for another.
fn numbered() -> impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static {
    let count = AtomicUsize::new(0);
    move |request| {
        let number = count.fetch_add(1, Ordering::Relaxed).to_string();
        match request.words()[0] {
            "get" | "gets" | "gat" | "gats" => {
                let cas = if request.words()[0].ends_with('s') { " 7" } else { "" };
                let value = |key| format!("VALUE {key} 0 {}{cas}\r\n{number}\r\n", number.len());
                let values: String = request.keys().into_iter().map(value).collect();
                vec![Step::send(values + "END\r\n")]
            }
            "incr" | "decr" => vec![Step::send(number + "\r\n")],
            _ => honest(request),
        }
    }
}

/// The truthful reply to a `get` of one key.
fn value_of(key: &str) -> String {
    let value = format!("value of {key}");
    format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len())
}

/// The proxy's own error, and nothing but that line.
fn expect_proxy_error(client: &mut TextClient, what: &str) {
    let reply = client.line();
    assert!(reply.starts_with("SERVER_ERROR proxy"), "{what}: {reply}");
}

/// What slipring answers for a node that does not: `None` is the proxy's `SERVER_ERROR`.
const ANSWERS: &[(&str, Option<&str>)] = &[
    ("get KEY\r\n", Some("END\r\n")),
    ("gets KEY\r\n", Some("END\r\n")),
    ("gat 10 KEY\r\n", Some("END\r\n")),
    ("gats 10 KEY\r\n", Some("END\r\n")),
    ("get KEY a KEY b\r\n", Some("END\r\n")),
    ("touch KEY 10\r\n", Some("NOT_FOUND\r\n")),
    ("set KEY 0 0 1\r\nx\r\n", None),
    ("add KEY 0 0 1\r\nx\r\n", None),
    ("replace KEY 0 0 1\r\nx\r\n", None),
    ("append KEY 0 0 1\r\nx\r\n", None),
    ("prepend KEY 0 0 1\r\nx\r\n", None),
    ("cas KEY 0 0 1 1\r\nx\r\n", None),
    ("incr KEY 1\r\n", None),
    ("decr KEY 1\r\n", None),
    ("delete KEY\r\n", None),
    ("flush_all\r\n", None),
];

/// Reads the answer of that table.
fn expect_answer(client: &mut TextClient, request: &str, answer: Option<&str>) {
    match answer {
        Some(line) => {
            let line = line.trim_end();
            assert_eq!(client.line(), line, "{request:?}");
        }
        None => expect_proxy_error(client, request),
    }
}

/// One `get` from each of `keys`, each on its own connection, all found in the same round.
fn meet(slipring: &Slipring, keys: &[String]) -> Vec<TextClient> {
    let mut clients: Vec<TextClient> = keys.iter().map(|_| slipring.client()).collect();
    for client in &mut clients {
        // Accepted and served: the stop below finds it waiting for a request.
        client.in_step();
    }
    slipring.while_stopped(|| {
        for (client, key) in clients.iter_mut().zip(keys) {
            client.send(format!("get {key}\r\n"));
        }
    });
    clients
}

/// After whatever happened: the node is up, and a key of its own has its value.
fn serves_again(slipring: &Slipring, nodes: usize) {
    slipring.wait_for_states("up", nodes);
    let mut client = slipring.client();
    eventually("the node serves again", || {
        client.send("get again\r\n");
        let values = client.values().expect("a read is a value or a miss");
        values.first().is_some_and(|value| value.data == b"value of again")
    });
    client.in_step();
}

/// The keys of `prefix` that each of these nodes owns, as the nodes see it (they must be truthful).
fn owned(slipring: &Slipring, nodes: &[&ScriptedNode], prefix: &str) -> Vec<Vec<String>> {
    let keys: Vec<String> = (0..64).map(|number| format!("{prefix}{number}")).collect();
    let mut client = slipring.client();
    client.send(format!("get {}\r\n", keys.join(" ")));
    assert_eq!(client.values().expect("values").len(), keys.len());
    let owned: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let requests = node.requests();
            let asked = requests.iter().filter(|request| request.line.starts_with("get "));
            let asked: Vec<&str> = asked.flat_map(Request::keys).collect();
            keys.iter().filter(|key| asked.contains(&key.as_str())).cloned().collect()
        })
        .collect();
    assert!(owned.iter().all(|keys| keys.len() > 3), "every node has its share: {owned:?}");
    owned
}
