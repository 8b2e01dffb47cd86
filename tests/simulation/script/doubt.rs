//! Doubt kills (invariant C).

use super::Rig;

/// Sends a request, lets the node say something that cannot be its answer, and gives what the client
/// got.
fn doubt(request: &str, answer: &str) -> String {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, request);
    rig.sent(0);
    rig.reply(0, answer);
    assert!(!rig.is_open(0), "{answer:?} to {request:?} is taken");
    assert_eq!(rig.count(|c| &c.desyncs), 1, "{answer:?} to {request:?}");
    assert_eq!(rig.open_lanes(0), 1, "another lane takes its place");
    rig.got(client)
}

#[test]
fn a_value_for_a_key_nobody_asked_for_reaches_nobody() {
    assert_eq!(doubt("get a\r\n", "VALUE b 0 1\r\nx\r\nEND\r\n"), "END\r\n");
    // The key was asked for, but once.
    let twice = "VALUE a 0 1\r\nx\r\nVALUE a 0 1\r\ny\r\nEND\r\n";
    assert_eq!(doubt("get a\r\n", twice), "VALUE a 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_reply_of_the_wrong_shape_ends_the_connection() {
    let lost = "SERVER_ERROR proxy: node node-0:11211 answered out of step\r\n";
    for (request, answer, told) in [
        ("set a 0 0 1\r\nx\r\n", "DELETED\r\n", lost),
        ("set a 0 0 1\r\nx\r\n", "END\r\n", lost),
        ("delete a\r\n", "STORED\r\n", lost),
        ("delete a\r\n", "5\r\n", lost),
        ("incr a 1\r\n", "OK\r\n", lost),
        ("touch a 1\r\n", "DELETED\r\n", "NOT_FOUND\r\n"),
        ("get a\r\n", "STORED\r\n", "END\r\n"),
        ("get a\r\n", "VERSION 1.6.18\r\n", "END\r\n"),
        ("get a\r\n", "END\n", "END\r\n"),
        ("get a\r\n", "\r\n", "END\r\n"),
        ("flush_all\r\n", "END\r\n", lost),
        ("flush_all\r\n", "STAT pid 1\r\n", lost),
        ("stats reset\r\n", "OK\r\n", lost),
    ] {
        assert_eq!(doubt(request, answer), told, "{answer:?} to {request:?}");
    }
    assert!(doubt("stats\r\n", "OK\r\n").ends_with("END\r\n"));
}

#[test]
fn a_line_that_never_ends_is_not_kept() {
    assert_eq!(doubt("get a\r\n", &"x".repeat(3000)), "END\r\n");
}

#[test]
fn bytes_that_nobody_waits_for_end_the_connection() {
    for bytes in ["STORED\r\n", "END\r\n", "ERROR\r\n", "\r\n"] {
        let mut rig = Rig::new(1);
        rig.reply(0, bytes);
        assert!(!rig.is_open(0), "{bytes:?}");
        assert_eq!(rig.count(|c| &c.desyncs), 1);
    }
}

#[test]
fn a_value_whose_block_does_not_end_closes_its_reader() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "get a\r\n");
    rig.sent(0);
    rig.send(other, "get b\r\n");
    rig.sent(0);
    rig.reply(0, "VALUE a 0 3\r\nxyz");
    assert_eq!(rig.got(client), "VALUE a 0 3\r\nxyz");
    rig.reply(0, "!!END\r\n");
    assert!(!rig.is_open(0));
    assert_eq!(rig.closed, [client], "what has begun cannot be taken back");
    assert_eq!(rig.got(other), "END\r\n");
}

#[test]
fn the_beginning_of_a_line_that_nobody_asked_for_is_doubt() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.reply(0, "5");
    assert!(!rig.is_open(0), "kept, it would make the 7 below a 57");
    rig.send(client, "incr a 1\r\n");
    let next = rig.newest(0);
    rig.sent(next);
    rig.reply(next, "7\r\n");
    assert_eq!(rig.got(client), "7\r\n");
}

#[test]
fn an_answer_to_what_was_not_sent_yet_is_doubt() {
    for (request, answer, told) in [
        ("get a\r\n", "END\r\n", "END\r\n"),
        ("set a 0 0 1\r\nx\r\n", "STORED\r\n", "SERVER_ERROR proxy: node node-0:11211 answered out of step\r\n"),
    ] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        rig.send(client, request);
        rig.reply(0, answer);
        assert!(!rig.is_open(0), "{answer:?} to {request:?}, which is not sent");
        assert_eq!(rig.got(client), told);
        // On the next lane all is well.
        rig.send(client, request);
        let lane = rig.newest(0);
        assert_eq!(rig.sent(lane), request);
        rig.reply(lane, answer);
        assert_eq!(rig.got(client), answer);
    }
}
