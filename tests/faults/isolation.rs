//! A node that stalls delays its own requests and no others.
use crate::support::{ScriptedNode, Step, TextClient, eventually, honest};
use crate::{MEDIUM, NEVER, expect_proxy_error, one_worker, owned, serves_again, value_of};

/// Two truthful nodes until the first is frozen, and the keys of each.
fn two(arguments: &[&str]) -> ([ScriptedNode; 2], crate::Slipring, Vec<Vec<String>>) {
    let nodes = [ScriptedNode::start(honest), ScriptedNode::start(honest)];
    let both: Vec<&ScriptedNode> = nodes.iter().collect();
    let slipring = one_worker(&both, arguments);
    let owned = owned(&slipring, &both, "key");
    (nodes, slipring, owned)
}

#[test]
fn a_node_that_stalls_delays_no_reply_of_another() {
    let (nodes, slipring, owned) = two(&NEVER);
    nodes[0].freeze();
    let mut waiting: Vec<TextClient> = owned[0].iter().map(|_| slipring.client()).collect();
    for (client, key) in waiting.iter_mut().zip(&owned[0]) {
        client.send(format!("get {key}\r\n"));
    }
    let mut others: Vec<TextClient> = (0..8).map(|_| slipring.client()).collect();
    for round in 0..50 {
        for client in &mut others {
            let key = &owned[1][round % owned[1].len()];
            client.send(format!("get {key}\r\nset {key} 0 0 1\r\nx\r\nincr {key} 1\r\n"));
        }
        for client in &mut others {
            let key = &owned[1][round % owned[1].len()];
            client.expect(value_of(key)).expect("STORED\r\n1\r\n");
        }
    }
    // All of that came first: these are answered only now.
    nodes[0].thaw();
    for (client, key) in waiting.iter_mut().zip(&owned[0]) {
        client.expect(value_of(key)).in_step();
    }
    assert_eq!((nodes[0].closes(), nodes[1].closes()), (0, 0));
}

#[test]
fn a_node_that_takes_nothing_delays_no_reply_of_another() {
    let (nodes, slipring, owned) = two(&["--request-timeout", "60s", "--queue-timeout", "60s"]);
    nodes[0].freeze();
    // More than its connection and its queue hold, so that its writer is not read any more.
    let mut requests = Vec::new();
    for _ in 0..20 {
        requests.extend_from_slice(format!("set {} 0 0 900000\r\n", owned[0][0]).as_bytes());
        requests.resize(requests.len() + 900_000, b'x');
        requests.extend_from_slice(b"\r\n");
    }
    let mut writer = slipring.client();
    let mut sender = writer.stream().try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut sender, &requests));
        let mut other = slipring.client();
        for round in 0..40 {
            let key = &owned[1][round % owned[1].len()];
            other.ask(format!("get {key}\r\n"), value_of(key));
        }
        let mut large = slipring.client();
        large.set(&owned[1][0], vec![b'x'; 3 << 20]);
        // None of the writer's was answered, and all are carried out in the end.
        nodes[0].thaw();
        for _ in 0..20 {
            writer.expect("STORED\r\n");
        }
    });
    writer.in_step();
}

#[test]
fn a_multiget_over_a_node_that_stalls_has_the_values_of_the_others_and_its_end() {
    let (nodes, slipring, owned) = two(&MEDIUM);
    nodes[0].freeze();
    let mut client = slipring.client();
    for rotate in 0..2 {
        let mut keys: Vec<&str> = owned.iter().flatten().map(String::as_str).collect();
        keys.rotate_left(rotate * owned[0].len());
        let values = client.get(&keys);
        let found: Vec<String> = values.into_iter().map(|value| String::from_utf8(value.key).unwrap()).collect();
        let mut wanted = owned[1].clone();
        wanted.sort();
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(sorted, wanted, "each value of the other node, once");
        client.in_step();
    }
    nodes[0].thaw();
    serves_again(&slipring, 2);
}

#[test]
fn with_on_node_down_error_a_multiget_ends_in_the_error_of_the_node_that_stalls() {
    let (nodes, slipring, owned) = two(&[&MEDIUM[..], &["--on-node-down", "error"]].concat());
    nodes[0].freeze();
    let mut client = slipring.client();
    client.send(format!("get {} {} {}\r\n", owned[0][0], owned[1][0], owned[1][1]));
    client.expect(value_of(&owned[1][0]).replace("END\r\n", ""));
    client.expect(value_of(&owned[1][1]).replace("END\r\n", ""));
    expect_proxy_error(&mut client, "in place of END");
    client.in_step();
}

#[test]
fn what_a_client_asked_of_another_node_behind_one_that_stalls_comes_in_its_turn() {
    let (nodes, slipring, owned) = two(&MEDIUM);
    nodes[0].freeze();
    let mut client = slipring.client();
    let (stalled, well) = (&owned[0][0], &owned[1][0]);
    client.send(format!("get {well}\r\nget {stalled}\r\nget {well}\r\nincr {stalled} 1\r\nincr {well} 1\r\n"));
    client.expect(value_of(well)).expect("END\r\n").expect(value_of(well));
    expect_proxy_error(&mut client, "incr");
    client.expect("1\r\n").in_step();
    assert_eq!(nodes[1].requests().iter().filter(|request| request.line.starts_with("incr")).count(), 1);
}

#[test]
fn with_two_connections_to_a_node_one_that_stalls_does_not_hold_up_the_other() {
    // The node stalls on one connection only.
    let node = ScriptedNode::start(|request| {
        let mut steps = honest(request);
        if request.line.contains("slow") {
            steps.insert(0, Step::Hold);
        }
        steps
    });
    let slipring = one_worker(&[&node], &["--connections-per-node", "2", "--request-timeout", "60s"]);
    let mut clients: Vec<TextClient> = (0..4).map(|_| slipring.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask(format!("get key{number}\r\n"), value_of(&format!("key{number}")));
    }
    let lanes: Vec<usize> = node.requests().iter().map(|request| request.connection).collect();
    let stalled = lanes[0];
    let Some(other) = lanes.iter().position(|&lane| lane != stalled) else {
        panic!("all clients share one connection: {lanes:?}");
    };
    clients[0].send("get slow\r\n");
    node.wait_for_holds(1);
    for _ in 0..20 {
        clients[other].ask("get k\r\n", value_of("k"));
    }
    node.release();
    clients[0].expect(value_of("slow")).in_step();
}

#[test]
fn one_of_two_connections_that_falls_silent_is_replaced_and_the_node_stays_up() {
    let node = ScriptedNode::start(
        |request| {
            if request.line.contains("silent") { vec![Step::Silence] } else { honest(request) }
        },
    );
    let slipring = one_worker(&[&node], &[&["--connections-per-node", "2"], &MEDIUM[..]].concat());
    let mut clients: Vec<TextClient> = (0..4).map(|_| slipring.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask(format!("get key{number}\r\n"), value_of(&format!("key{number}")));
    }
    let lanes: Vec<usize> = node.requests().iter().map(|request| request.connection).collect();
    let other = lanes.iter().position(|&lane| lane != lanes[0]).expect("a client on the other connection");
    clients[0].ask("get silent\r\n", "END\r\n");
    // Answers on the other connection show meanwhile that the node lives.
    eventually("the silent connection is given up", || {
        clients[other].send("get k\r\n");
        clients[other].values().expect("a value, or a miss of a slow machine");
        !node.is_open(lanes[0])
    });
    assert!(!slipring.output().contains("is down"), "{}", slipring.output());
    clients[0].ask("get k\r\n", value_of("k")).in_step();
    clients[other].ask("get k\r\n", value_of("k")).in_step();
    assert!(node.is_open(lanes[other]), "the other connection was not touched");
}
