//! Several nodes: how many connections each sees, what happens when one dies and comes back.
use crate::support::{Memcached, Slipring, TextClient, eventually};
use crate::{three_nodes, three_nodes_with};
use std::collections::BTreeMap;

/// Stores `count` keys; gives for each node the keys it owns, as the nodes themselves say.
fn spread(nodes: &[Memcached], slipring: &Slipring, count: usize) -> Vec<Vec<String>> {
    let mut client = slipring.client();
    let keys: Vec<String> = (0..count).map(|number| format!("key{number}")).collect();
    for key in &keys {
        client.set(key, format!("value of {key}"));
    }
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    let owned: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let values = node.client().get(&names);
            values.into_iter().map(|value| String::from_utf8(value.key).unwrap()).collect()
        })
        .collect();
    assert_eq!(owned.iter().map(Vec::len).sum::<usize>(), count, "each key has one owner");
    for keys in &owned {
        assert!(keys.len() > count / 10, "every node has its share: {owned:?}");
    }
    owned
}

fn connections_seen_with(workers: usize, lanes: usize, arguments: &[&str]) {
    let nodes = [Memcached::start(), Memcached::start(), Memcached::start()];
    // What a node counts without the proxy: the one who asks, and its own listener maybe.
    let idle: Vec<u64> = nodes.iter().map(|node| node.stat("curr_connections")).collect();
    let addresses: Vec<_> = nodes.iter().map(Memcached::address).collect();
    let slipring = Slipring::with(&addresses, arguments);
    let seen =
        || -> Vec<u64> { nodes.iter().zip(&idle).map(|(node, idle)| node.stat("curr_connections") - idle).collect() };
    let wanted = vec![(workers * lanes) as u64; 3];
    eventually("every lane is open", || seen() == wanted);
    let mut clients: Vec<TextClient> = Vec::new();
    for total in [64, 1_000] {
        while clients.len() < total {
            clients.push(slipring.client());
        }
        for round in 0..3 {
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(format!("set key{number} 0 0 1\r\n{round}\r\nget key{number}\r\n"));
            }
            for (number, client) in clients.iter_mut().enumerate() {
                client.expect("STORED\r\n");
                client.expect(format!("VALUE key{number} 0 1\r\n{round}\r\nEND\r\n"));
            }
        }
        assert_eq!(seen(), wanted, "with {total} clients");
    }
    for node in &nodes {
        let opened = node.stat("total_connections");
        // Each `stat` above was a connection too; none of the thousand clients was.
        assert!(opened < 500, "{opened} connections were ever opened to a node");
    }
}

#[test]
fn sixty_four_and_a_thousand_clients_share_one_connection_per_node() {
    connections_seen_with(1, 1, &["--workers", "1"]);
}

#[test]
fn two_workers_with_two_lanes_each_make_four_connections_per_node() {
    connections_seen_with(2, 2, &["--workers", "2", "--connections-per-node", "2"]);
}

#[test]
fn what_a_dead_node_held_misses_and_the_rest_is_served_until_it_is_back() {
    let (mut nodes, slipring) = three_nodes();
    let owned = spread(&nodes, &slipring, 90);
    let mut client = slipring.client();
    nodes[1].kill();
    slipring.wait_for_states("down", 1);
    let lost = &owned[1][0];
    client.ask(format!("get {lost}\r\n"), "END\r\n");
    client.ask(format!("gets {lost}\r\n"), "END\r\n");
    client.ask(format!("gat 10 {lost}\r\n"), "END\r\n");
    client.ask(format!("gats 10 {lost}\r\n"), "END\r\n");
    client.ask(format!("touch {lost} 10\r\n"), "NOT_FOUND\r\n");
    for request in [
        "set K 0 0 1\r\nx\r\n",
        "add K 0 0 1\r\nx\r\n",
        "replace K 0 0 1\r\nx\r\n",
        "append K 0 0 1\r\nx\r\n",
        "prepend K 0 0 1\r\nx\r\n",
        "cas K 0 0 1 1\r\nx\r\n",
        "incr K 1\r\n",
        "decr K 1\r\n",
        "delete K\r\n",
    ] {
        let reply = client.ask_line(request.replace('K', lost));
        assert!(reply.starts_with("SERVER_ERROR proxy"), "{request:?}: {reply}");
        client.in_step();
        // Told not to say anything, it says nothing.
        let quiet = request.replacen("\r\n", " noreply\r\n", 1).replace('K', lost);
        client.send(quiet).in_step();
    }
    let reply = client.ask_line("flush_all 1000000\r\n");
    assert!(reply.starts_with("SERVER_ERROR"), "not every node was flushed: {reply}");
    // A multiget has the values of the living, in one well-formed reply.
    let all: Vec<&str> = owned.iter().flatten().map(String::as_str).collect();
    let values = client.get(&all);
    let found: BTreeMap<Vec<u8>, Vec<u8>> = values.into_iter().map(|value| (value.key, value.data)).collect();
    assert_eq!(found.len(), owned[0].len() + owned[2].len());
    for key in owned[0].iter().chain(&owned[2]) {
        assert_eq!(found[key.as_bytes()], format!("value of {key}").as_bytes());
    }
    client.set(&owned[0][0], "still written");
    assert_eq!(client.ask_line("version\r\n"), "VERSION 1.6.18");
    // Back, and empty.
    nodes[1].restart();
    slipring.wait_for_states("up", 3);
    client.ask(format!("get {lost}\r\n"), "END\r\n");
    client.set(lost, "new");
    assert_eq!(client.get(&[lost])[0].data, b"new");
    assert_eq!(nodes[1].client().get(&[lost])[0].data, b"new", "the key lives where it lived");
}

#[test]
fn with_on_node_down_error_reads_of_a_dead_node_say_so() {
    let (mut nodes, slipring) = three_nodes_with(&["--on-node-down", "error"]);
    let owned = spread(&nodes, &slipring, 60);
    let mut client = slipring.client();
    nodes[2].kill();
    slipring.wait_for_states("down", 1);
    for request in ["get K\r\n", "gets K\r\n", "gat 10 K\r\n", "touch K 10\r\n"] {
        let reply = client.ask_line(request.replace('K', &owned[2][0]));
        assert!(reply.starts_with("SERVER_ERROR proxy"), "{request:?}: {reply}");
        client.in_step();
    }
    // In a multiget the error stands where END would, behind whatever was found.
    client.send(format!("get {} {} {}\r\n", owned[0][0], owned[2][0], owned[1][0]));
    let error = client.values().expect_err("an error line instead of END");
    assert!(error.starts_with("SERVER_ERROR proxy"), "{error}");
    client.in_step();
    assert_eq!(client.get(&[&owned[0][0], &owned[1][0]]).len(), 2);
}

#[test]
fn a_node_killed_under_load_never_costs_a_client_its_connection() {
    let (mut nodes, slipring) = three_nodes();
    let owned = spread(&nodes, &slipring, 60);
    let all: Vec<&str> = owned.iter().flatten().map(String::as_str).collect();
    let line = format!("get {}\r\n", all.join(" "));
    let mut clients: Vec<TextClient> = (0..8).map(|_| slipring.client()).collect();
    for round in 0..60 {
        for client in &mut clients {
            client.send(&line).send(format!("set {} 0 0 1\r\nx\r\n", owned[0][round % 5]));
        }
        if round == 20 {
            nodes[0].kill();
        }
        if round == 40 {
            nodes[0].restart();
        }
        for client in &mut clients {
            for value in client.values().expect("a well-formed reply") {
                let key = String::from_utf8(value.key).unwrap();
                let whole = format!("value of {key}");
                assert!(value.data == whole.as_bytes() || value.data == b"x");
            }
            let reply = client.line();
            assert!(reply == "STORED" || reply.starts_with("SERVER_ERROR proxy"), "{reply}");
        }
    }
    slipring.wait_for_states("up", 3);
    for client in &mut clients {
        client.in_step();
        client.set(&owned[0][0], "new");
    }
}

#[test]
fn no_node_at_all_still_answers() {
    let mut node = Memcached::start();
    node.kill();
    let slipring = Slipring::launch(&[node.address()], &[]);
    slipring.wait_for_states("down", 1);
    let mut client = slipring.client();
    client.ask("get k\r\n", "END\r\n");
    client.ask("version\r\n", "VERSION 1.6.0\r\n");
    let reply = client.ask_line("set k 0 0 1\r\nx\r\n");
    assert!(reply.starts_with("SERVER_ERROR proxy"), "{reply}");
    assert!(client.stats("stats").contains_key("version"));
    node.restart();
    slipring.wait_for_states("up", 1);
    client.set("k", "x").ask("version\r\n", "VERSION 1.6.18\r\n");
}

#[test]
fn flush_all_reaches_every_node_and_says_ok_once() {
    let (nodes, slipring) = three_nodes();
    let owned = spread(&nodes, &slipring, 60);
    let all: Vec<&str> = owned.iter().flatten().map(String::as_str).collect();
    let mut client = slipring.client();
    client.ask("flush_all\r\n", "OK\r\n").in_step();
    assert!(client.get(&all).is_empty());
    for node in &nodes {
        assert_eq!(node.stat("cmd_flush"), 1);
        assert!(node.client().get(&all).is_empty());
    }
    // With a delay, and without an answer.
    client.set(all[0], "x");
    client.ask("flush_all 100000\r\n", "OK\r\n");
    assert_eq!(client.get(&[all[0]]).len(), 1);
    client.send("flush_all noreply\r\n").in_step();
    assert!(client.get(&[all[0]]).is_empty());
    client.send("flush_all 100000 noreply\r\n").in_step();
    for node in &nodes {
        eventually("each node was flushed four times", || node.stat("cmd_flush") == 4);
    }
}

#[test]
fn flush_all_can_be_denied() {
    let (nodes, slipring) = three_nodes_with(&["--deny-flush-all"]);
    let mut client = slipring.client();
    client.set("k", "v");
    for request in ["flush_all\r\n", "flush_all 10\r\n"] {
        let reply = client.ask_line(request);
        assert!(reply.starts_with("CLIENT_ERROR "), "{reply}");
        client.in_step();
    }
    client.send("flush_all noreply\r\n");
    client.send("mn\r\n");
    let reply = client.line();
    assert!(reply == "MN" || reply.starts_with("CLIENT_ERROR "), "{reply}");
    if reply != "MN" {
        client.expect("MN\r\n");
    }
    assert_eq!(client.get(&["k"]).len(), 1);
    for node in &nodes {
        assert_eq!(node.stat("cmd_flush"), 0);
    }
}
