//! Large values of one node while another owes an answer that nobody waits for any more.
use crate::support::{Memcached, Request, ScriptedNode, Slipring, Step, TextClient, honest};
use crate::{MEDIUM, one_worker, owned, value_of};
use std::time::Duration;

/// Has a connection of its own.
const LARGE: usize = 2 << 20;

fn large() -> Vec<u8> {
    vec![b'x'; LARGE]
}

/// Two truthful nodes, the first of which deals with a lone get by `stalls`; a key of each.
fn two(
    stalls: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
) -> (ScriptedNode, ScriptedNode, Slipring, [String; 2]) {
    let stalling = ScriptedNode::start(move |request| {
        if request.words()[0] == "get" && request.keys().len() == 1 { stalls(request) } else { honest(request) }
    });
    let well = ScriptedNode::start(|request| {
        if request.words()[0] != "get" || request.keys().len() > 1 {
            return honest(request);
        }
        let header = format!("VALUE {} 0 {LARGE}\r\n", request.keys()[0]);
        vec![Step::Send([header.as_bytes(), &large(), b"\r\nEND\r\n"].concat())]
    });
    let nodes = [&stalling, &well];
    let slipring = one_worker(&nodes, &MEDIUM);
    let owned = owned(&slipring, &nodes, "key");
    let keys = [owned[0][0].clone(), owned[1][0].clone()];
    (stalling, well, slipring, keys)
}

/// Asks for what expires one whole time-out from now; whatever is answered before it did not wait for that.
fn clock(slipring: &Slipring, lost: &str) -> TextClient {
    let mut client = slipring.client();
    client.send(format!("get {lost}\r\n"));
    client
}

fn expect_unanswered(clock: &TextClient) {
    let stream = clock.stream();
    stream.set_nonblocking(true).expect("O_NONBLOCK");
    let early = stream.peek(&mut [std::mem::MaybeUninit::uninit(); 1]);
    assert!(early.is_err(), "it waited longer than a later request to the node that does not answer");
    stream.set_nonblocking(false).expect("no O_NONBLOCK");
}

/// A client whose request to the first node has expired stores a large value in the second, and reads it.
fn store_and_read(slipring: &Slipring, [lost, kept]: &[String; 2]) {
    let mut client = slipring.client();
    client.ask(format!("get {lost}\r\n"), "END\r\n");
    let clock = clock(slipring, lost);
    client.set(kept, large());
    let header = format!("VALUE {kept} 0 {LARGE}\r\n");
    client.ask(format!("get {kept}\r\n"), [header.as_bytes(), &large(), b"\r\nEND\r\n"].concat());
    expect_unanswered(&clock);
    client.in_step();
}

#[test]
fn a_large_value_of_one_node_does_not_wait_for_an_expired_request_to_a_silent_one() {
    let (silent, _well, slipring, keys) = two(|_| vec![Step::Silence]);
    store_and_read(&slipring, &keys);
    assert_eq!(silent.lanes_closed(), 0, "the silent connection was not given up yet");
}

#[test]
fn a_large_value_of_one_node_does_not_wait_for_an_expired_request_to_one_that_drips() {
    // So slowly that even the value does not begin before the request has expired; some twenty seconds in all.
    let (_dripping, _well, slipring, keys) = two(|request| {
        let reply = format!("VALUE {} 0 50\r\n{}\r\nEND\r\n", request.keys()[0], "x".repeat(50));
        Step::drip(reply, 1, Duration::from_millis(250))
    });
    store_and_read(&slipring, &keys);
}

#[test]
fn a_large_value_of_one_node_does_not_wait_for_an_expired_request_to_one_that_is_stopped() {
    let nodes = [Memcached::with(&["-I", "8m"]), Memcached::with(&["-I", "8m"])];
    let addresses: Vec<_> = nodes.iter().map(Memcached::address).collect();
    // The node counts as up while it is stopped, or its requests would be answered at once.
    let slow = ["--workers", "1", "--connect-timeout", "60s", MEDIUM[0], MEDIUM[1]];
    let slipring = Slipring::with(&addresses, &slow);
    let mut client = slipring.client();
    let names: Vec<String> = (0..40).map(|number| format!("key{number}")).collect();
    for name in &names {
        client.set(name, "value");
    }
    let keys = nodes.each_ref().map(|node| {
        let mut direct = node.client();
        names.iter().find(|name| !direct.get(&[name]).is_empty()).expect("a key of each").clone()
    });
    nodes[0].stop();
    store_and_read(&slipring, &keys);
    nodes[0].go_on();
    slipring.wait_for_states("up", 2);
}

#[test]
fn a_node_that_refuses_one_of_two_connections_serves_every_client_by_the_other() {
    let node = ScriptedNode::start(|request| match request.line.as_str() {
        "delete cut" => vec![Step::Close],
        _ => honest(request),
    });
    let slipring = one_worker(&[&node], &["--connections-per-node", "2", "--request-timeout", "60s"]);
    let mut clients = [slipring.client(), slipring.client()];
    for client in &mut clients {
        client.ask("get k\r\n", value_of("k"));
    }
    node.set_version(vec![Step::send("ERROR Too many open connections\r\n"), Step::Close]);
    clients[1].send("delete cut\r\n");
    crate::expect_proxy_error(&mut clients[1], "delete");
    for _ in 0..50 {
        for client in &mut clients {
            client.ask("get k\r\n", value_of("k"));
        }
    }
    slipring.wait_for_states("degraded", 1);
    assert!(slipring.ring().contains(r#""status":"degraded""#), "{}", slipring.ring());
    for client in &mut clients {
        client.ask("get k\r\n", value_of("k"));
    }
    node.set_version(vec![Step::send("VERSION 1.6.18\r\n")]);
    slipring.wait_for_states("up", 1);
    for client in &mut clients {
        client.ask("get k\r\n", value_of("k")).in_step();
    }
}
