//! Large values beside clients that do not read: no read without a key, and few connections to a node.
use crate::support::{Memcached, ScriptedNode, Slipring, Step, TextClient, honest, shown};
use std::net::Shutdown;

/// Less than the window that a client has at first, so that a value soon waits in the proxy.
const NARROW: usize = 4 << 10;

/// A value of so many bytes.
fn value(letter: u8, length: usize) -> Vec<u8> {
    vec![letter; length]
}

/// The answer to a `get` of one key: whether its whole value came, or none.
fn hit(client: &mut TextClient, letter: u8, length: usize) -> bool {
    match client.values() {
        Ok(values) if values.is_empty() => false,
        Ok(values) => {
            assert!(values.len() == 1 && values[0].data == value(letter, length), "not the value that was asked for");
            true
        }
        Err(line) => panic!("a valid get was answered {line:?}"),
    }
}

/// Clients that do not read hold the memory; the value of one finds no room just when another's, larger than that, comes.
fn without_room(slipring: &Slipring, attempts: usize) {
    for _ in 0..attempts {
        let mut hogs = Vec::new();
        for _ in 0..6 {
            let mut hog = TextClient::connect_narrow(slipring.address(), NARROW);
            hog.send("get m\r\n");
            // Its value is on its way, or will not come for want of memory: this is answered behind it at the node.
            slipring.client().ask("get none\r\n", "END\r\n");
            hogs.push(hog);
        }
        let (mut first, mut second) = (slipring.client(), slipring.client());
        first.in_step();
        second.in_step();
        slipring.while_stopped(|| {
            first.send("get mid\r\n");
            second.send("get big\r\n");
        });
        hit(&mut first, b'd', 900_000);
        hit(&mut second, b'b', 1_200_000);
        first.in_step();
        second.in_step();
        for hog in hogs {
            hog.abort();
        }
    }
}

const TIGHT: [&str; 4] = ["--workers", "1", "--buffer-limit", "8MiB"];

#[test]
fn a_get_whose_value_finds_no_room_is_a_value_or_a_miss_and_never_an_error() {
    let node = Memcached::with(&["-I", "8m"]);
    let slipring = Slipring::with(&[node.address()], &TIGHT);
    let mut client = slipring.client();
    client.set("m", value(b'm', 1_000_000)).set("mid", value(b'd', 900_000)).set("big", value(b'b', 1_200_000));
    without_room(&slipring, 30);
}

#[test]
fn no_read_without_a_key_ever_reaches_a_node() {
    let node = ScriptedNode::start(|request| {
        if request.words()[0] != "get" {
            return honest(request);
        }
        let mut reply = Vec::new();
        for key in request.keys() {
            let value = match key {
                "m" => value(b'm', 1_000_000),
                "mid" => value(b'd', 900_000),
                "big" => value(b'b', 1_200_000),
                _ => continue,
            };
            reply.extend_from_slice(format!("VALUE {key} 0 {}\r\n", value.len()).as_bytes());
            reply.extend_from_slice(&value);
            reply.extend_from_slice(b"\r\n");
        }
        reply.extend_from_slice(b"END\r\n");
        vec![Step::Send(reply)]
    });
    let slipring = Slipring::with(&[node.address()], &TIGHT);
    without_room(&slipring, 30);
    for request in node.requests() {
        assert!(request.words().len() > 1, "a node was asked for nothing: {:?}", request.line);
    }
}

/// Whether a read of the large value, a small write and another such read were all answered; if not, these bytes end in the
/// middle of those answers.
fn is_answered(mut received: &[u8], length: usize) -> bool {
    let value = [format!("VALUE large 0 {length}\r\n").as_bytes(), &value(b'x', length), b"\r\nEND\r\n"].concat();
    for place in 0..3 {
        if place == 1 {
            let Some(end) = received.iter().position(|&byte| byte == b'\n') else { return false };
            let (line, rest) = received.split_at(end + 1);
            assert!(line == b"STORED\r\n" || line.starts_with(b"SERVER_ERROR proxy"), "{}", shown(line));
            received = rest;
        } else if let Some(rest) = received.strip_prefix(b"END\r\n").or_else(|| received.strip_prefix(&value[..])) {
            received = rest;
        } else {
            assert!(value.starts_with(received), "{}", shown(received));
            return false;
        }
    }
    assert!(received.is_empty(), "more than was asked for: {}", shown(received));
    true
}

/// Clients that ask for a large value, write behind it and do not read: how many connections their node has at most.
fn connections_of(clients: usize, arguments: &[&str]) {
    const SHARED: u64 = 1;
    /// Those for large values, and one that asks whether the node lives.
    const MORE: u64 = 4 + 1;
    const LENGTH: usize = 1_500_000;
    let node = Memcached::with(&["-I", "8m"]);
    // On one connection, which counts itself each time.
    let mut observer = node.client();
    let mut look = || observer.stats("stats")["curr_connections"].parse::<u64>().expect("a number");
    // The node's threads may count a new one before the end of an old one: what is there is seen twice.
    let mut connections = || look().min(look());
    let idle = connections();
    // Who waits behind those that do not read has a miss soon: they are read one by one below.
    let slipring =
        Slipring::with(&[node.address()], &[&["--workers", "1", "--queue-timeout", "1s"], arguments].concat());
    let mut writer = slipring.client();
    writer.set("large", value(b'x', LENGTH));
    let mut seen = 0;
    let mut held: Vec<TextClient> = Vec::new();
    for number in 0..clients {
        let mut client = TextClient::connect_narrow(slipring.address(), NARROW);
        client.send(format!("get large\r\nset key{number} 0 0 1\r\nx\r\nget large\r\n"));
        held.push(client);
        // Others are served all the while; and this is answered behind the beginning of the value.
        writer.ask("get none\r\n", "END\r\n").set("small", "value");
        seen = seen.max(connections() - idle);
    }
    // One who did not read while others wanted the memory may have been closed; nobody gets what is no reply.
    let mut answered = 0;
    for mut client in held {
        // Of one that was closed by a reset there is no half left to close.
        let _ = client.stream().shutdown(Shutdown::Write);
        answered += usize::from(is_answered(&client.rest(), LENGTH));
        seen = seen.max(connections() - idle);
    }
    assert!(answered > 0, "every client was closed");
    assert!(seen <= SHARED + MORE, "{seen} connections to one node");
    slipring.wait_for_states("up", 1);
}

#[test]
fn clients_that_write_behind_large_values_and_do_not_read_cost_a_node_few_connections() {
    connections_of(150, &[]);
}

#[test]
fn a_larger_budget_lets_them_cost_no_more_connections() {
    connections_of(300, &["--buffer-limit", "1GiB"]);
}
