//! Itself as a node: an application's own variable, `MEMCACHED_NODES=localhost`, that reached the sidecar.
use crate::support::{Memcached, Slipring, TextClient, eventually, free_port};
use std::fs;

/// A sample of the metrics, without labels.
fn metric(slipring: &Slipring, name: &str) -> u64 {
    let metrics = slipring.admin("/metrics").1;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    value.parse().unwrap()
}

/// The names of keys that live on a node.
fn key_of(slipring: &Slipring, node: &str) -> String {
    let keys = (0..1000).map(|number| format!("key{number}"));
    let lives_there =
        |key: &String| slipring.admin(&format!("/ring?key={key}")).1.contains(&format!("\"node\":\"{node}\""));
    keys.into_iter().find(lives_there).unwrap()
}

#[test]
fn a_node_that_is_this_sidecar_is_down_and_says_so_and_no_request_circles() {
    let node = Memcached::start();
    for (listen_host, node_host) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.3"), ("127.0.0.1", "localhost")] {
        let port = free_port();
        let listen = port.on(listen_host).to_string();
        let own = format!("{node_host}:{}", port.number());
        let nodes = format!("{own},{}", node.address());
        let many = ["--workers", "2", "--connections-per-node", "2"];
        let arguments = [&["serve", "--nodes", &nodes, "--listen", &listen][..], &many].concat();
        let slipring = Slipring::command(&arguments, &[]);
        slipring.wait_for_states("down", 1);
        slipring.wait_for_states("up", 1);
        let ring = slipring.ring();
        assert_eq!(ring.matches("\"cause\":\"isthissidecaritself\"").count(), 1, "{ring}");
        eventually("the log says so", || slipring.output().contains("is this sidecar itself"));
        let mut client = slipring.client();
        let key = key_of(&slipring, &own);
        let itself = format!("SERVER_ERROR proxy: node {own} is this sidecar itself");
        assert_eq!(client.ask_line(format!("set {key} 0 0 1\r\nv\r\n")), itself);
        client.ask(format!("get {key}\r\n"), "END\r\n");
        assert_eq!(client.ask_line("flush_all\r\n"), itself);
        client.set(&key_of(&slipring, &node.address().to_string()), "v");
        // However often it tried again: no connection of its own was taken for a client.
        let attempts = || {
            let metrics = slipring.admin("/metrics").1;
            let failed = format!("slipring_node_probes_total{{node=\"{own}\",result=\"failed\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&failed)).unwrap().parse::<u64>().unwrap()
        };
        eventually("it has tried again and again", || attempts() > 3);
        assert_eq!(metric(&slipring, "slipring_client_connections"), 1);
        // Of the four of the start some may be closed before they are accepted: such a one asks for a version.
        let commands = slipring.admin("/metrics").1;
        let versions =
            commands.lines().find_map(|line| line.strip_prefix("slipring_client_commands_total{command=\"other\"} "));
        assert!(versions.unwrap().parse::<u64>().unwrap() < 4, "{commands}");
    }
}

#[test]
fn a_file_that_becomes_this_sidecar_alone_changes_nothing_and_beside_another_recovers() {
    let node = Memcached::start();
    let port = free_port();
    let (own, other) = (port.on("127.0.0.1").to_string(), node.address().to_string());
    let path = std::env::temp_dir().join(format!("slipring-itself-{}", std::process::id()));
    fs::write(&path, &other).unwrap();
    let file = path.display().to_string();
    let slipring = Slipring::command(&["serve", "--nodes-file", &file, "--listen", &own], &[]);
    slipring.wait_for_states("up", 1);
    let mut client = TextClient::connect(own.parse().unwrap());
    // As a list that is given is refused.
    for alone in [own.clone(), format!("localhost:{}", port.number())] {
        fs::write(&path, &alone).unwrap();
        let problem = format!("{alone} is this sidecar itself, which listens there; name the memcached nodes");
        eventually("the source is said to be wrong", || slipring.admin("/ring").1.contains(&problem));
        slipring.wait_for_output(&problem);
        assert!(slipring.ring().contains(&format!("\"name\":\"{other}\"")), "{}", slipring.ring());
        client.set("k", "v");
    }
    fs::write(&path, format!("{own},{other}")).unwrap();
    slipring.wait_for_states("down", 1);
    slipring.wait_for_states("up", 1);
    let key = key_of(&slipring, &own);
    let itself = format!("SERVER_ERROR proxy: node {own} is this sidecar itself");
    eventually("the workers have it", || client.ask_line(format!("set {key} 0 0 1\r\nv\r\n")) == itself);
    fs::write(&path, &other).unwrap();
    eventually("the workers have it", || client.ask_line(format!("set {key} 0 0 1\r\nv\r\n")) == "STORED");
    assert_eq!(client.get(&["k"])[0].data, b"v");
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_first_list_of_this_sidecar_alone_is_no_ring() {
    let (port, nobody) = (free_port(), free_port().on("127.0.0.1").to_string());
    let own = port.on("127.0.0.1").to_string();
    let slipring = Slipring::command(&["serve", "--discovery", &nobody, "--nodes", &own, "--listen", &own], &[]);
    slipring.wait_for_output("is this sidecar itself");
    slipring.wait_for_output("there is no node");
    assert!(slipring.ring().contains("\"nodes\":[]"), "{}", slipring.ring());
}
