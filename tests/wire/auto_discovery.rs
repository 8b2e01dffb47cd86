//! Auto-discovery clients are told to stay with the sidecar.
use crate::one_node;
use crate::support::{Memcached, Slipring, TextClient, free_port};
use std::net::SocketAddr;

/// What a client is told that asks by `config get cluster`, and by the old key.
fn told(host: &str, port: u16) -> (String, String) {
    let list = format!("1\n{host}|{host}|{port}\n");
    let answer = |word: &str| format!("{word} 0 {}\r\n{list}\r\nEND\r\n", list.len());
    (answer("CONFIG cluster"), answer("VALUE AmazonElastiCache:cluster"))
}

fn is_told(mut client: TextClient, host: &str, port: u16) {
    let (config, value) = told(host, port);
    client.ask("config get cluster\r\n", &config);
    // Some send a bare line feed.
    client.ask("config get cluster\n", &config);
    client.ask("get AmazonElastiCache:cluster\r\n", &value);
    client.ask(" get  AmazonElastiCache:cluster \r\n", &value).in_step();
}

#[test]
fn the_answer_is_the_address_where_the_client_is_connected() {
    assert_eq!(told("127.0.0.1", 11211).0, "CONFIG cluster 0 28\r\n1\n127.0.0.1|127.0.0.1|11211\n\r\nEND\r\n");
    let node = Memcached::start();
    let second = free_port();
    let everywhere = format!("0.0.0.0:{}", second.number());
    let slipring = Slipring::with(&[node.address()], &["--listen", &everywhere]);
    is_told(slipring.client(), "127.0.0.1", slipring.address().port());
    // It may be one of several that a socket listens on.
    for host in ["127.0.0.1", "127.0.0.7"] {
        is_told(TextClient::connect(second.on(host)), host, second.number());
    }
    assert_eq!(node.stat("cmd_get"), 0, "no node is asked");
}

#[test]
fn where_ipv4_is_not_spoken_the_first_such_address_is_told() {
    let node = Memcached::start();
    let (path, six) = (std::env::temp_dir().join(format!("slipring-{}-told", std::process::id())), free_port());
    let unix = format!("unix:{}", path.display());
    let address: SocketAddr = six.on("[::1]");
    let listen = ["--listen", &unix, "--listen", &address.to_string()];
    // The address of a test's sidecar is the last on its command line.
    let slipring = Slipring::with(&[node.address()], &listen);
    let (host, port) = ("127.0.0.1", slipring.address().port());
    is_told(TextClient::connect(address), host, port);
    is_told(TextClient::connect_unix(&path), host, port);
    drop(slipring);

    let nodes = node.address().to_string();
    let listen = ["serve", "--nodes", &nodes, "--listen", &unix];
    let slipring = Slipring::listening("[::1]", &listen, &[]);
    is_told(slipring.client(), "::1", slipring.address().port());
    // Nothing to be told: as by a memcached.
    let mut client = TextClient::connect_unix(&path);
    client.ask("config get cluster\r\nget AmazonElastiCache:cluster\r\n", "ERROR\r\nEND\r\n").in_step();
}

#[test]
fn another_address_can_be_told_or_none() {
    let node = Memcached::start();
    let slipring = Slipring::with(&[node.address()], &["--answer-discovery", "cache.example:11212"]);
    is_told(slipring.client(), "cache.example", 11212);
    let slipring = Slipring::with(&[node.address()], &["--answer-discovery=[fd00::5]:1"]);
    is_told(slipring.client(), "fd00::5", 1);
    let slipring = Slipring::with(&[node.address()], &["--answer-discovery", "off"]);
    let mut client = slipring.client();
    for _ in 0..2 {
        client.ask("config get cluster\r\n", "ERROR\r\n");
    }
    client.ask("get AmazonElastiCache:cluster\r\n", "END\r\n");
    client.set("AmazonElastiCache:cluster", "mine").in_step();
    assert_eq!(client.get(&["AmazonElastiCache:cluster"])[0].data, b"mine");
}

#[test]
fn nothing_else_is_an_answer() {
    let (node, slipring) = one_node();
    let mut client = slipring.client();
    for line in [
        "config",
        "config get",
        "config get other",
        "config get cluster x",
        "config set cluster 0 0",
        "config delete cluster",
        "CONFIG get cluster",
    ] {
        client.ask(format!("{line}\r\n"), "ERROR\r\n");
        node.client().ask(format!("{line}\r\n"), "ERROR\r\n");
    }
    // Elsewhere the key is one like any other.
    for line in [
        "gets AmazonElastiCache:cluster",
        "get AmazonElastiCache:cluster k",
        "get AmazonElastiCache:clusters",
        "gat 0 AmazonElastiCache:cluster",
    ] {
        client.ask(format!("{line}\r\n"), "END\r\n");
    }
    client.in_step();
}

#[test]
fn the_answer_needs_no_ring_and_keeps_its_place() {
    let (_node, slipring) = one_node();
    let (config, value) = told("127.0.0.1", slipring.address().port());
    let mut client = slipring.client();
    client.set("k", "v");
    client.send("get k\r\nconfig get cluster\r\nget k\r\nget AmazonElastiCache:cluster\r\nget k\r\n");
    let found = "VALUE k 0 1\r\nv\r\nEND\r\n";
    client.expect(format!("{found}{config}{found}{value}{found}")).in_step();

    // Nobody there who could say who the nodes are.
    let nobody = free_port();
    let discovery = format!("127.0.0.1:{}", nobody.number());
    let slipring = Slipring::command(&["serve", "--discovery", &discovery], &[]);
    is_told(slipring.client(), "127.0.0.1", slipring.address().port());
}
