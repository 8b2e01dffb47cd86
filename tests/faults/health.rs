//! When a node is given up, what it sees meanwhile, and what it must do to be asked again.
use crate::support::{ScriptedNode, Slipring, Step, eventually, free_port, honest};
use crate::{ANSWERS, MEDIUM, SHORT, behind, expect_answer, one_worker, owned, serves_again, slow, value_of};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const VERSION: &str = "VERSION 1.6.18\r\n";

/// Every request of the table, many times over, is answered though no node takes it.
fn answered_without_a_node(slipring: &Slipring) {
    let mut client = slipring.client();
    for _ in 0..3 {
        for (request, answer) in ANSWERS {
            client.send(request.replace("KEY", "unseen"));
            expect_answer(&mut client, request, *answer);
        }
    }
    client.in_step();
}

#[test]
fn a_node_that_falls_silent_goes_down_and_its_connection_is_given_up() {
    let (node, slipring) = behind(honest, &MEDIUM);
    let mut client = slipring.client();
    client.ask("get k\r\n", value_of("k"));
    node.freeze();
    client.ask("get k\r\n", "END\r\n").in_step();
    slipring.wait_for_states("down", 1);
    answered_without_a_node(&slipring);
    node.thaw();
    node.wait_for_closes(1);
    serves_again(&slipring, 1);
    assert!(!node.requests().iter().any(|request| request.line.contains("unseen")), "{:?}", node.requests());
}

#[test]
fn a_real_memcached_that_is_stopped_goes_down_and_serves_again_when_it_goes_on() {
    let node = crate::support::Memcached::start();
    let slipring = Slipring::with(&[node.address()], &[&["--workers", "1"], &MEDIUM[..]].concat());
    let mut client = slipring.client();
    client.set("k", "kept");
    node.stop();
    client.ask("get k\r\n", "END\r\n").in_step();
    slipring.wait_for_states("down", 1);
    answered_without_a_node(&slipring);
    node.go_on();
    slipring.wait_for_states("up", 1);
    eventually("its value is found again", || client.get(&["k"]).first().is_some_and(|value| value.data == b"kept"));
    client.set("k", "new").in_step();
    assert_eq!(node.stat("cmd_flush"), 0, "what was answered for a node that is down never reaches it");
}

#[test]
fn a_node_that_takes_connections_and_says_nothing_is_down_from_the_start() {
    let node = ScriptedNode::with_version(vec![Step::Silence], honest);
    let slipring = Slipring::launch(&[node.address()], &[&["--workers", "1"], &SHORT[..]].concat());
    // Before that is known, a request waits for it; then it is answered like the rest.
    slipring.client().ask("get early\r\n", "END\r\n").in_step();
    slipring.wait_for_states("down", 1);
    answered_without_a_node(&slipring);
    assert!(!node.requests().iter().any(|request| request.line.contains("unseen")), "{:?}", node.requests());
    node.set_version(vec![Step::send(VERSION)]);
    serves_again(&slipring, 1);
}

#[test]
fn a_node_that_says_version_and_nothing_else_gets_no_answer_believed() {
    // The probes succeed, so it comes and goes; nobody gets more than a miss or an error by that.
    let (node, slipring) = behind(|_| vec![Step::Silence], &SHORT);
    let mut client = slipring.client();
    for (request, answer) in ANSWERS {
        client.send(request.replace("KEY", "k"));
        expect_answer(&mut client, request, *answer);
    }
    client.in_step();
    assert!(node.connections() > 0);
}

#[test]
fn a_node_that_is_down_sees_nothing_but_version() {
    let node = ScriptedNode::with_version(vec![Step::send("ERROR Too many open connections\r\n"), Step::Close], honest);
    let slipring = Slipring::launch(&[node.address()], &["--workers", "1", "--request-timeout", "60s"]);
    slipring.wait_for_states("up", 0);
    let before = node.wait_for_versions(1).len();
    eventually("it was asked three times more", || {
        answered_without_a_node(&slipring);
        node.versions().len() >= before + 3
    });
    assert!(node.requests().is_empty(), "{:?}", node.requests());
    // Each asking was on a connection of its own.
    let versions = node.versions();
    assert!(versions.windows(2).all(|pair| pair[0] != pair[1]), "{versions:?}");
    node.set_version(vec![Step::send(VERSION)]);
    serves_again(&slipring, 1);
}

#[test]
fn a_node_is_up_again_only_after_two_answers_on_one_probe_connection() {
    let full = vec![Step::send("ERROR Too many open connections\r\n"), Step::Close];
    let node = ScriptedNode::with_version(full, honest);
    let slipring = Slipring::launch(&[node.address()], &["--workers", "1", "--request-timeout", "60s"]);
    node.wait_for_versions(2);
    // From here on each answer has to be allowed.
    node.set_version(vec![Step::Hold, Step::send(VERSION)]);
    node.wait_for_holds(1);
    let first = node.versions().len();
    let never_up = || {
        let ring = slipring.ring();
        assert!(ring.contains(r#""state":"down""#) || ring.contains(r#""state":"probing""#), "{ring}");
        answered_without_a_node(&slipring);
        assert!(node.requests().is_empty());
    };
    never_up();
    node.release();
    let versions = node.wait_for_versions(first + 1);
    node.wait_for_holds(2);
    assert_eq!(versions[first - 1], versions[first], "the second is asked on the same connection");
    let ring = slipring.ring();
    assert!(ring.contains(r#""state":"probing""#), "{ring}");
    never_up();
    node.set_version(vec![Step::send(VERSION)]);
    node.release();
    serves_again(&slipring, 1);
}

#[test]
fn a_probe_whose_second_answer_fails_starts_again() {
    let full = vec![Step::send("ERROR Too many open connections\r\n"), Step::Close];
    let node = ScriptedNode::with_version(full.clone(), honest);
    let slipring = Slipring::launch(&[node.address()], &["--workers", "1", "--request-timeout", "60s"]);
    node.wait_for_versions(2);
    node.set_version(vec![Step::Hold, Step::send(VERSION)]);
    node.wait_for_holds(1);
    // The first answer is good, the second is not.
    node.set_version(full);
    let so_far = node.versions().len();
    node.release();
    // Another connection, and so it is still not up.
    let versions = node.wait_for_versions(so_far + 2);
    assert_eq!(versions[so_far - 1], versions[so_far]);
    assert_ne!(versions[so_far], versions[so_far + 1]);
    answered_without_a_node(&slipring);
    assert_eq!(slipring.ring().matches(r#""state":"up""#).count(), 0);
    assert!(node.requests().is_empty());
    node.set_version(vec![Step::send(VERSION)]);
    serves_again(&slipring, 1);
}

#[test]
fn a_hundred_requests_that_expire_together_are_one_failure() {
    let (node, slipring) = behind(slow, &[&MEDIUM[..], &["--merge-gets", "off"]].concat());
    let mut clients: Vec<_> = (0..100).map(|_| slipring.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("get slow{number}\r\n"));
    }
    for client in &mut clients {
        client.expect("END\r\n");
    }
    assert!(slipring.ring().contains(r#""state":"up""#), "{}", slipring.ring());
    assert_eq!(node.lanes_closed(), 0);
    for _ in &clients {
        node.release();
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask(format!("get key{number}\r\n"), value_of(&format!("key{number}"))).in_step();
    }
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn a_node_that_answers_now_and_then_does_not_go_down() {
    // Every second request expires; between two time-outs there is always an answer.
    let (node, slipring) = behind(slow, &MEDIUM);
    let mut client = slipring.client();
    for _ in 0..5 {
        client.ask("get slow\r\n", "END\r\n");
        node.release();
        client.ask("get k\r\n", value_of("k")).in_step();
        assert!(slipring.ring().contains(r#""state":"up""#), "{}", slipring.ring());
    }
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn the_keys_of_a_node_that_is_down_stay_where_they_are() {
    let nodes = [ScriptedNode::start(honest), ScriptedNode::start(honest)];
    let both: Vec<&ScriptedNode> = nodes.iter().collect();
    let slipring = one_worker(&both, &MEDIUM);
    let owned = owned(&slipring, &both, "key");
    let mut client = slipring.client();
    nodes[0].freeze();
    client.ask(format!("get {}\r\n", owned[0][0]), "END\r\n");
    slipring.wait_for_states("down", 1);
    let before = nodes[1].requests().len();
    for key in &owned[0] {
        client.ask(format!("get {key}\r\n"), "END\r\n");
        client.send(format!("set {key} 0 0 1\r\nx\r\n"));
        crate::expect_proxy_error(&mut client, "set");
    }
    assert_eq!(nodes[1].requests().len(), before, "no key moves to another node");
    for key in &owned[1] {
        client.ask(format!("get {key}\r\n"), value_of(key));
    }
    client.in_step();
    nodes[0].thaw();
    slipring.wait_for_states("up", 2);
    for key in owned[0].iter().chain(&owned[1]) {
        eventually("every key is served where it was", || client.get(&[key]).len() == 1);
    }
    let sets = nodes.iter().flat_map(ScriptedNode::requests).filter(|request| request.line.starts_with("set ")).count();
    assert_eq!(sets, 0, "what was answered for a node that is down is not done later");
}

#[test]
fn a_node_that_nobody_listens_for_is_down_and_comes_up_when_somebody_does() {
    let port = free_port();
    let address = port.on("127.0.0.1");
    let slipring = Slipring::launch(&[address], &["--workers", "1", "--request-timeout", "60s"]);
    slipring.wait_for_states("down", 1);
    answered_without_a_node(&slipring);
    let node = ScriptedNode::on(TcpListener::bind(address).unwrap(), vec![Step::send(VERSION)], honest);
    serves_again(&slipring, 1);
    let versions = node.versions();
    assert!(versions.iter().filter(|connection| **connection == versions[0]).count() >= 2, "{versions:?}");
    assert!(!node.requests().iter().any(|request| request.line.contains("unseen")));
}

#[test]
fn a_node_that_resets_every_connection_goes_down_and_comes_back() {
    let node = ScriptedNode::with_version(vec![Step::Reset], honest);
    let slipring = Slipring::launch(&[node.address()], &["--workers", "1", "--request-timeout", "60s"]);
    slipring.wait_for_states("down", 1);
    answered_without_a_node(&slipring);
    assert!(node.requests().is_empty(), "{:?}", node.requests());
    node.set_version(vec![Step::send(VERSION)]);
    serves_again(&slipring, 1);
}

/// A listener whose queue is full: nobody is refused, and nobody gets through.
fn deaf_listener() -> (TcpListener, Vec<Socket>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap();
    let fill = |_| {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        // Established as long as there is room, and then for ever on its way.
        let _ = filler.connect(&address);
        filler
    };
    let fillers = (0..4).map(fill).collect();
    (socket.into(), fillers)
}

#[test]
fn a_node_whose_host_drops_what_it_is_sent_is_down_after_the_connect_time_out() {
    let (listener, fillers) = deaf_listener();
    let address = listener.local_addr().unwrap();
    let slipring = Slipring::launch(&[address], &["--workers", "1", "--request-timeout", "60s"]);
    slipring.client().ask("get early\r\n", "END\r\n").in_step();
    slipring.wait_for_states("down", 1);
    answered_without_a_node(&slipring);
    drop(fillers);
    let node = ScriptedNode::on(listener, vec![Step::send(VERSION)], honest);
    serves_again(&slipring, 1);
    assert!(!node.requests().iter().any(|request| request.line.contains("unseen")));
}

#[test]
fn a_lasting_outage_costs_the_node_few_connections() {
    let node = ScriptedNode::with_version(vec![Step::Close], honest);
    let slipring = Slipring::launch(&[node.address()], &["--workers", "1"]);
    slipring.wait_for_states("down", 1);
    for _ in 0..20 {
        answered_without_a_node(&slipring);
        std::thread::sleep(Duration::from_millis(50));
    }
    // A second or so at pauses of 100 ms and more; a slow machine makes it fewer.
    let connections = node.connections();
    assert!(connections < 200, "{connections} connections");
    assert!(node.requests().is_empty());
}
