//! Why a node is down.

use std::sync::Arc;

use slipring::proxy::FailReason;
use slipring::routing::{Node, Topology};

use super::Rig;

/// A node whose connection is made and waits for its version.
fn greeting() -> Rig {
    let mut rig = Rig::with(1, |_| {});
    assert_eq!((rig.state(0), rig.cause(0)), ("up", String::new()));
    rig.mute = true;
    rig.fail(0, FailReason::Closed);
    assert_eq!((rig.state(0), rig.cause(0)), ("connecting", String::new()), "one that is lost is no outage");
    rig
}

#[test]
fn what_a_connection_fails_of_is_the_cause() {
    for (reason, cause) in [
        (FailReason::Connect, "connection refused"),
        (FailReason::NameNotFound, "name not found"),
        (FailReason::NameUnanswered, "name servers do not answer"),
        (FailReason::System(113), "No route to host"),
        (FailReason::ConnectTimeout, "no answer for 250 ms"),
        (FailReason::Closed, "closed by it"),
        (FailReason::Itself, "is this sidecar itself"),
    ] {
        let mut rig = greeting();
        rig.fail(rig.newest(0), reason);
        assert_eq!((rig.state(0), rig.cause(0)), ("down", cause.to_owned()));
        // The newest one counts.
        rig.fail(rig.newest(0), FailReason::Connect);
        assert_eq!(rig.cause(0), "connection refused");
    }
}

#[test]
fn one_that_has_never_said_its_version_may_be_another_program() {
    let mut rig = Rig::new(0);
    rig.mute = true;
    rig.topology = Arc::new(Topology::new(1, vec![Arc::new(Node::new("node-0", 11211, 1))]).unwrap());
    rig.core.set_topology(Arc::clone(&rig.topology), rig.now());
    rig.apply();
    rig.fail(rig.newest(0), FailReason::Closed);
    assert_eq!((rig.state(0), &*rig.cause(0)), ("down", "closed by it before it said its version"));
}

#[test]
fn what_comes_instead_of_a_version_is_the_cause() {
    for (answer, closed, cause) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], false, r#"answered "HTTP/1.1 400 Bad Request""#),
        (b"220 smtp.example.com ESMTP\n", false, r#"answered "220 smtp.example.com ESMTP""#),
        (b"STORED\r\n", false, r#"answered "STORED""#),
        (b"ERROR Too many open connections\r\n", false, "too many open connections (memcached's -c)"),
        (b"CLIENT_ERROR unauthenticated\r\n", false, "authentication wanted"),
        // It hangs up in the middle of a line.
        (b"\x15\x03\x03\x00\x02\x02\x46", true, "TLS expected"),
        (b"RFB 003.008", true, r#"answered "RFB 003.008""#),
    ] {
        for pieces in [1, 2] {
            let mut rig = greeting();
            let lane = rig.newest(0);
            let (first, second) = answer.split_at(if pieces == 1 { 0 } else { 4 });
            for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
                rig.core.upstream_input(rig.lanes[lane].id, piece, rig.now());
                rig.apply();
            }
            if closed {
                rig.fail(lane, FailReason::Closed);
            }
            assert!(!rig.is_open(lane) || closed);
            assert_eq!((rig.state(0), &*rig.cause(0)), ("down", cause), "{pieces} pieces");
        }
    }
}

#[test]
fn silence_is_a_cause_and_nothing_of_a_clients_is() {
    let mut rig = greeting();
    rig.pass(1_000);
    assert_eq!((rig.state(0), &*rig.cause(0)), ("down", "no answer to a request for 500 ms"));

    let mut rig = Rig::new(1);
    let client = rig.client();
    for round in 0..2 {
        rig.mute = round > 0;
        rig.send(client, "get k\r\n");
        let lane = rig.newest(0);
        rig.sent(lane);
        rig.core.upstream_input(rig.lanes[lane].id, b"a secret\r\n", rig.now());
        rig.apply();
    }
    assert_eq!((rig.state(0), &*rig.cause(0)), ("down", "answered out of step"));
}

#[test]
fn a_node_that_is_up_again_has_no_cause() {
    let mut rig = greeting();
    rig.fail(rig.newest(0), FailReason::Closed);
    let probe = rig.newest(0);
    rig.reply(probe, "VERSION 1.6.18\r\n");
    assert_eq!((rig.state(0), &*rig.cause(0)), ("probing", "closed by it"));
    rig.pass(200);
    rig.reply(probe, "VERSION 1.6.18\r\n");
    assert_eq!((rig.state(0), &*rig.cause(0)), ("up", ""));
}
