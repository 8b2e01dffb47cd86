//! Meta commands: what only a node that is told what to do can show.
use crate::support::{Memcached, Request, ScriptedNode, Slipring, Step, TextClient, honest};
use crate::three_nodes;

const OLD: &str = "VERSION 1.5.16\r\n";
/// In base64 (flag `b`): a key that would be a command, written as it is.
const COMMAND: &str = "YQ0KZmx1c2hfYWxsDQo=";

fn lines(node: &ScriptedNode) -> Vec<String> {
    node.requests().into_iter().map(|request| request.line).collect()
}

#[test]
fn a_node_before_1_6_is_asked_in_classic_words_and_sent_no_block_for_a_command() {
    let node = ScriptedNode::with_version(vec![Step::send(OLD)], honest);
    let slipring = Slipring::start(&[node.address()]);
    let needs = |what: &str| format!("CLIENT_ERROR {what} needs memcached 1.6 at node {}\r\n", node.address());
    let mut client = slipring.client();
    client.ask("ms k 11 T0 c O1\r\nflush_all\r\n\r\n", "HD c0 O1\r\n");
    client.ask("ms k 11 q\r\nflush_all\r\n\r\nmn\r\n", "MN\r\n");
    client.ask("mg k v s k\r\n", "VA 10 s10 kk\r\nvalue of k\r\n").ask("mg aw== b s\r\n", "HD s10\r\n");
    // What they cannot say is refused, and its block is no command.
    client.ask("ms k 11 I\r\nflush_all\r\n\r\n", needs("I")).ask("ms k 11 C1 ME q\r\nflush_all\r\n\r\n", needs("C"));
    client.ask("mg k v t\r\n", needs("t")).ask("mg k N30 q\r\n", needs("N")).ask("me k\r\n", needs("me"));
    client.ask("mg IA== b v\r\n", needs("b"));
    // Larger than what is stored before it is sent.
    let block = "flush_all\r\n".repeat(200_000);
    client.ask(format!("ms k {} I\r\n{block}\r\n", block.len()), needs("I"));
    client.ask("get k\r\n", "VALUE k 0 10\r\nvalue of k\r\nEND\r\n");
    assert_eq!(lines(&node), ["set k 0 0 11", "set k 0 0 11", "gets k", "gets k", "get k"]);
}

/// Has a node that says its version late to a client's `ms`; gives what the client is told.
fn told_late(version: &'static str) -> (ScriptedNode, String) {
    let node = ScriptedNode::start(|request| match &*request.line {
        "delete die" => vec![Step::Close],
        _ => honest(request),
    });
    let patient = ["--workers", "1", "--queue-timeout", "60s", "--connect-timeout", "5s"];
    let slipring = Slipring::with(&[node.address()], &patient);
    let mut client = slipring.client();
    // The connection that took its place has said nothing yet.
    node.set_version(vec![Step::Hold, Step::send(version)]);
    assert!(client.ask_line("delete die\r\n").starts_with("SERVER_ERROR proxy: node "));
    node.wait_for_holds(1);
    client.send("ms k 9\r\nflush_all\r\nmn\r\n");
    // Others wait for nobody; and what this one has sent is known by now.
    let mut other = slipring.client();
    other.ask("mn\r\n", "MN\r\n");
    assert!(!lines(&node).iter().any(|line| line.starts_with("ms")), "sent to a node of which nothing is known");
    node.set_version(vec![Step::send(version)]);
    node.release();
    let told = client.line();
    client.expect("MN\r\n");
    (node, told)
}

#[test]
fn an_ms_waits_until_its_connection_has_said_its_version() {
    let (node, told) = told_late("VERSION 1.6.15\r\n");
    assert_eq!(told, "HD");
    assert!(node.requests().iter().any(|request| request.line == "ms k 9" && request.block == b"flush_all"));
    let (node, told) = told_late(OLD);
    assert_eq!(told, "HD");
    assert_eq!(lines(&node), ["delete die", "set k 0 0 9"]);
}

/// Hangs up on everything but `version`.
fn dies(_: &Request) -> Vec<Step> {
    vec![Step::Close]
}

#[test]
fn what_a_lost_node_was_asked_is_a_miss_for_a_read_and_an_error_for_a_write() {
    let node = ScriptedNode::start(dies);
    let slipring = Slipring::start(&[node.address()]);
    let mut client = slipring.client();
    client.ask("mg k v\r\n", "EN\r\n").ask("mg k v O7 k\r\n", "EN O7 kk\r\n").ask("mg a2V5 b k\r\n", "EN ka2V5 b\r\n");
    client.ask("mg k v q k\r\nmn\r\n", "MN\r\n").ask("mg k T30\r\n", "EN\r\n").ask("me k\r\n", "EN\r\n");
    for request in ["mg k v N30", "mg k R30 q", "ma k v", "ma k v q", "ma k", "md k q", "ms k 1\r\nx", "ms k 1 q\r\nx"]
    {
        let line = client.ask_line(format!("{request}\r\n"));
        assert!(line.starts_with("SERVER_ERROR proxy: node "), "{line:?} to {request:?}");
        client.in_step();
    }
}

#[test]
fn a_node_that_is_down_is_answered_for_at_once() {
    let (mut nodes, slipring) = three_nodes();
    nodes[1].kill();
    slipring.wait_for_states("down", 1);
    let mut client = slipring.client();
    let lost = (0..)
        .map(|number| format!("k{number}"))
        .find(|key| client.ask_line(format!("md {key}\r\n")).starts_with("SERVER_ERROR proxy: node "));
    let lost = lost.unwrap();
    client.ask(format!("mg {lost} v O1\r\nmg {lost} v q\r\nmg {lost} k q\r\nmn\r\n"), "EN O1\r\nMN\r\n");
    for request in ["mg K v N30", "ma K v q", "md K q", "ms K 1 T0\r\nx", "ms K 1 q\r\nx"] {
        let line = client.ask_line(format!("{}\r\n", request.replace('K', &lost)));
        assert!(line.ends_with(" is down"), "{line:?} to {request:?}");
        client.in_step();
    }
}

#[test]
fn reads_of_a_lost_node_are_errors_where_errors_are_asked_for() {
    let node = ScriptedNode::start(dies);
    let slipring = Slipring::with(&[node.address()], &["--on-node-down", "error"]);
    let mut client = slipring.client();
    for request in ["mg k v", "mg k v q", "mg k", "me k", "ms k 1 q\r\nx"] {
        let line = client.ask_line(format!("{request}\r\n"));
        assert!(line.starts_with("SERVER_ERROR proxy: node "), "{line:?} to {request:?}");
        client.in_step();
    }
}

#[test]
fn a_large_value_that_its_reader_does_not_take_is_in_nobodys_way() {
    const LENGTH: usize = 3_000_000;
    let node = Memcached::with(&["-I", "8m"]);
    let slipring = Slipring::with(&[node.address()], &["--workers", "1", "--buffer-limit", "8MiB"]);
    let mut other = slipring.client();
    let value = vec![b'v'; LENGTH];
    other.ask([format!("ms large {LENGTH}\r\n").as_bytes(), &value, b"\r\n"].concat(), "HD\r\n");
    other.ask("ms small 5\r\nvalue\r\n", "HD\r\n");
    let mut slow = TextClient::connect_narrow(slipring.address(), 4 << 10);
    slow.send("mg large v O1\r\nmg small v O2\r\nmg large s O3\r\nmg large v k q O4\r\nmn\r\n");
    for number in 0..50 {
        other.ask(format!("mg small v O{number}\r\n"), format!("VA 5 O{number}\r\nvalue\r\n"));
        other.ask(format!("mg none v q O{number}\r\nmn\r\n"), "MN\r\n");
    }
    let large = |flags: &str| [format!("VA {LENGTH} {flags}\r\n").as_bytes(), &value, b"\r\n"].concat();
    slow.expect(large("O1")).expect("VA 5 O2\r\nvalue\r\n").expect(format!("HD s{LENGTH} O3\r\n"));
    slow.expect(large("klarge O4")).expect("MN\r\n");
}

#[test]
fn a_quiet_batch_over_three_nodes_keeps_its_order() {
    let (_nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    let mut batch = String::new();
    let mut wanted = String::new();
    for number in 0..300 {
        if number % 3 == 0 {
            client.ask(format!("ms k{number} 3 q\r\nabc\r\nmn\r\n"), "MN\r\n");
            wanted += &format!("VA 3 O{number}\r\nabc\r\n");
        } else if number % 7 == 0 {
            // An error is told, and a miss is not.
            batch += &format!("md none{number} q O{number}\r\n");
            wanted += &format!("NF O{number}\r\n");
        }
        batch += &format!("mg k{number} v q O{number}\r\n");
    }
    client.ask(batch + "mn\r\n", wanted + "MN\r\n");
}

#[test]
fn what_a_miss_of_1_6_15_leaves_out_is_told_all_the_same() {
    let node = ScriptedNode::with_version(vec![Step::send("VERSION 1.6.15\r\n")], |request| {
        vec![Step::send(if request.line.starts_with("mg") { "EN\r\n" } else { "NF \r\n" })]
    });
    let slipring = Slipring::start(&[node.address()]);
    let mut client = slipring.client();
    client.ask("mg k v k O7\r\n", "EN kk O7\r\n").ask("mg k\r\n", "EN\r\n").ask("md k\r\n", "NF \r\n");
    assert_eq!(lines(&node), ["mg k v k O7", "mg k P", "md k"]);
}

#[test]
fn a_reply_that_names_another_request_is_doubt() {
    for (request, reply, told) in [
        ("mg k v O7\r\n", "VA 3 O8\r\nabc\r\n", "EN O7\r\n"),
        ("mg k v k\r\n", "VA 3 kj\r\nabc\r\n", "EN kk\r\n"),
        ("mg k v\r\n", "HD\r\n", "EN\r\n"),
        ("mg k s\r\n", "VA 3\r\nabc\r\n", "EN\r\n"),
        ("me k\r\n", "ME j exp=-1\r\n", "EN\r\n"),
    ] {
        let node = ScriptedNode::start(move |_| vec![Step::send(reply)]);
        let slipring = Slipring::with(&[node.address()], &["--workers", "1"]);
        slipring.client().ask(request, told);
        node.wait_for_closes(1);
    }
}

#[test]
fn a_key_in_base64_is_never_written_as_it_is() {
    let node = ScriptedNode::start(honest);
    let slipring = Slipring::with(&[node.address()], &["--max-value", "1024"]);
    let mut client = slipring.client();
    client
        .ask(format!("ms {COMMAND} 2 b\r\nxy\r\n"), "HD\r\n")
        .ask(format!("mg {COMMAND} b k\r\n"), format!("HD k{COMMAND} b\r\n"));
    // Too large: the old value is removed.
    let block = "x".repeat(2_000);
    for key in [COMMAND, "a2V5"] {
        client.ask(format!("ms {key} 2000 b\r\n{block}\r\n"), "SERVER_ERROR object too large for cache\r\n");
    }
    client.ask("ma k v q\r\nmn\r\n", "MN\r\n");
    let sent =
        [&format!("ms {COMMAND} 2 b"), &format!("mg {COMMAND} b"), &format!("md {COMMAND} b"), "delete key", "ma k"];
    assert_eq!(lines(&node), sent);
}
