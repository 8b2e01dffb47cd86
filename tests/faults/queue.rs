//! Requests that their connection does not take: they are answered, and never sent after that.
use crate::support::{ScriptedNode, TextClient, eventually, honest};
use crate::{NEVER, Slipring, expect_proxy_error, one_worker, value_of};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

/// How many sets fill a connection, its sockets and the queue in front of them many times over.
const SETS: usize = 20;
const BLOCK: usize = 900 << 10;

/// So many stores of 900 KiB under `fill0`, `fill1` and so on.
fn fill(count: usize, options: &str) -> Vec<u8> {
    let mut requests = Vec::new();
    for number in 0..count {
        requests.extend_from_slice(format!("set fill{number} 0 0 {BLOCK}{options}\r\n").as_bytes());
        requests.resize(requests.len() + BLOCK, b'x');
        requests.extend_from_slice(b"\r\n");
    }
    requests
}

/// A node that answers nothing but `version` before it is thawed, and takes no second connection.
fn full(arguments: &[&str]) -> (ScriptedNode, Slipring) {
    let node = ScriptedNode::start(honest);
    let slipring = one_worker(&[&node], arguments);
    node.freeze();
    // What reaches it at all reaches it on the first connection.
    node.refuse_connections(true);
    (node, slipring)
}

/// Lets the node read all that was sent to it on its first connection.
fn read_all(node: &ScriptedNode, slipring: &Slipring) {
    node.thaw();
    node.refuse_connections(false);
    slipring.wait_for_states("up", 1);
    let mut client = slipring.client();
    eventually("a set reaches the node", || {
        client.send("set last 0 0 1\r\nx\r\n");
        client.line() == "STORED"
    });
    let requests = node.requests();
    let last = requests.iter().find(|request| request.line.starts_with("set last ")).expect("the last set");
    if last.connection != 0 {
        // The first was given up; the node has read it to its end when it closes it, too.
        eventually("the first connection has ended", || !node.is_open(0));
    }
}

fn contains(all: &[u8], wanted: &str) -> bool {
    all.windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

/// Which of the filling sets the node has read whole, in order.
fn filled(node: &ScriptedNode) -> Vec<String> {
    let requests = node.requests();
    let sets = requests.iter().filter(|request| request.line.starts_with("set fill"));
    sets.map(|request| request.words()[1].to_owned()).collect()
}

#[test]
fn what_expires_unsent_is_answered_and_never_sent() {
    let (node, slipring) = full(&["--request-timeout", "1s"]);
    let mut client = slipring.client();
    let mut requests = fill(SETS, "");
    requests.extend_from_slice(b"set unsent 0 0 1\r\nx\r\ndelete unsent\r\nget unsent\r\ntouch unsent 1\r\n");
    let mut sender = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&requests).unwrap());
        for number in 0..SETS {
            expect_proxy_error(&mut client, &format!("set {number}"));
        }
        expect_proxy_error(&mut client, "the set behind them");
        expect_proxy_error(&mut client, "the delete behind them");
        client.expect("END\r\nNOT_FOUND\r\n");
    });
    client.in_step();
    read_all(&node, &slipring);
    assert!(!contains(&node.raw(), "unsent"), "what was answered for the node was sent to it later");
    // It got what was sent first, and nothing that was behind what was not sent.
    let wanted: Vec<String> = (0..filled(&node).len()).map(|number| format!("fill{number}")).collect();
    assert_eq!(filled(&node), wanted);
    assert!(wanted.len() < SETS, "not all of it was sent");
    client.ask("get k\r\n", value_of("k")).in_step();
}

#[test]
fn with_on_node_down_error_a_read_that_expires_unsent_is_an_error() {
    let (node, slipring) = full(&["--request-timeout", "1s", "--on-node-down", "error"]);
    let mut client = slipring.client();
    let mut requests = fill(SETS, "");
    requests.extend_from_slice(b"get unsent\r\ntouch unsent 1\r\n");
    let mut sender = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&requests).unwrap());
        for number in 0..SETS + 2 {
            expect_proxy_error(&mut client, &format!("request {number}"));
        }
    });
    client.in_step();
    read_all(&node, &slipring);
    assert!(!contains(&node.raw(), "unsent"));
}

#[test]
fn requests_of_many_clients_that_expire_unsent_are_never_sent() {
    let (node, slipring) = full(&["--request-timeout", "1s"]);
    let mut writer = slipring.client();
    let requests = fill(SETS, "");
    let mut sender = writer.stream().try_clone().unwrap();
    let mut refused = BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&requests).unwrap());
        // The first of its sets is answered: by then the connection was full.
        expect_proxy_error(&mut writer, "set 0");
        let mut clients: Vec<TextClient> = (0..20).map(|_| slipring.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("set other{number} 0 0 1\r\nx\r\nget other{number}\r\n"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            expect_proxy_error(client, "a set");
            refused.insert(format!("other{number}"));
            client.expect("END\r\n").in_step();
        }
        for number in 1..SETS {
            expect_proxy_error(&mut writer, &format!("set {number}"));
        }
    });
    read_all(&node, &slipring);
    for request in node.requests() {
        let key = request.words()[1].to_owned();
        assert!(!refused.contains(&key), "{:?} was sent after it was refused", request.line);
    }
}

#[test]
fn noreply_stores_wait_for_a_node_that_takes_nothing_for_longer_than_the_queue_time_out() {
    let (node, slipring) = full(&[&NEVER[..], &["--queue-timeout", "100ms"]].concat());
    let mut client = slipring.client();
    let requests = fill(SETS, " noreply");
    let mut sender = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&requests).unwrap());
        // Many queue time-outs.
        std::thread::sleep(Duration::from_millis(1_500));
        node.thaw();
    });
    // Behind all of it, on the same connection; it has a queue clock, so it may have to ask again.
    eventually("a read of the same client reaches the node", || !client.get(&["last"]).is_empty());
    let wanted: Vec<String> = (0..SETS).map(|number| format!("fill{number}")).collect();
    assert_eq!(filled(&node), wanted, "a bulk load is pushed back, not thinned out");
    assert_eq!((node.closes(), node.connections()), (0, 1));
}

#[test]
fn a_bulk_load_to_a_node_that_takes_it_slowly_is_stored_whole() {
    const LOAD: usize = 6;
    let node = ScriptedNode::start(honest);
    let slipring = one_worker(&[&node], &["--request-timeout", "60s", "--queue-timeout", "2s"]);
    // Some 600 KiB a second: what the kernel would keep by default takes longer than the time-out.
    node.read_slowly(16 << 10, Duration::from_millis(25));
    let mut client = slipring.client();
    let requests = fill(LOAD, "");
    let mut sender = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&requests).unwrap());
        for _ in 0..LOAD {
            client.expect("STORED\r\n");
        }
    });
    client.in_step();
    assert_eq!((node.closes(), node.connections()), (0, 1));
}

#[test]
fn after_a_full_connection_every_answer_is_again_that_of_its_own_request() {
    let (node, slipring) = full(&["--request-timeout", "1s"]);
    let mut client = slipring.client();
    let requests = fill(SETS, "");
    let mut sender = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&requests).unwrap());
        for number in 0..SETS {
            expect_proxy_error(&mut client, &format!("set {number}"));
        }
    });
    read_all(&node, &slipring);
    for number in 0..50 {
        client.ask(format!("get key{number}\r\n"), value_of(&format!("key{number}")));
        client.ask("delete k\r\n", "DELETED\r\n").ask("touch k 1\r\n", "TOUCHED\r\n");
    }
    client.in_step();
}
