//! Clocks: of what waits, of what is asked, of what moves.

use std::time::Duration;

use slipring::config::OnNodeDown;
use slipring::metrics::Reason;
use slipring::proxy::FailReason;

use super::{LARGE, Rig, set, value};

const TIMED_OUT: &str = "SERVER_ERROR proxy: node node-0:11211 did not answer in time\r\n";

#[test]
fn what_is_not_answered_in_time_is_answered_here_and_its_late_reply_is_eaten() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get a\r\nset a 0 0 1\r\nx\r\ntouch a 0\r\ndelete a noreply\r\n");
    rig.sent(0);
    rig.pass(400);
    assert_eq!(rig.got(client), "", "not before its time");
    rig.pass(200);
    assert_eq!(rig.got(client), format!("END\r\n{TIMED_OUT}NOT_FOUND\r\n"));
    rig.send(client, "get b\r\n");
    assert_eq!(rig.sent(0), "get b\r\n", "the connection stays");
    rig.reply(0, "VALUE a 0 1\r\nx\r\nEND\r\nSTORED\r\nTOUCHED\r\nDELETED\r\n");
    assert_eq!(rig.got(client), "");
    rig.reply(0, "VALUE b 0 1\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE b 0 1\r\ny\r\nEND\r\n");
    assert!(rig.is_open(0));
    assert_eq!(rig.count(|c| &c.desyncs), 0);
}

#[test]
fn a_value_that_moves_never_expires_nor_does_what_waits_behind_it() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "get a\r\n");
    rig.sent(0);
    rig.send(other, "delete b\r\n");
    rig.sent(0);
    rig.reply(0, "VALUE a 0 1000000\r\n");
    for _ in 0..50 {
        rig.pass(400);
        rig.reply(0, "x".repeat(20_000));
    }
    rig.reply(0, "\r\nEND\r\nDELETED\r\n");
    assert_eq!(rig.got(other), "DELETED\r\n");
    assert_eq!(rig.got(client).len(), "VALUE a 0 1000000\r\n\r\nEND\r\n".len() + 1_000_000);
}

/// Memcached answers `version` only when it has the whole body that came right behind it.
#[test]
fn a_body_that_comes_slowly_may_be_the_first_on_its_connection() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.mute = true;
    let set = set("a", LARGE);
    let mut pieces = set.chunks(100_000);
    rig.send(client, pieces.next().unwrap());
    let own = rig.newest(0);
    let mut sent = rig.sent_bytes(own);
    for piece in pieces {
        rig.pass(400);
        rig.send(client, piece);
        sent.extend(rig.sent_bytes(own));
    }
    assert!(sent.len() > set.len() && sent.ends_with(&set));
    rig.pass(400);
    rig.reply(own, "VERSION 1.6.18\r\nSTORED\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
    // When it is whole it is the node's turn.
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.mute = true;
    rig.send(client, set);
    let own = rig.newest(0);
    rig.sent_bytes(own);
    rig.pass(1200);
    assert!(rig.got(client).starts_with("SERVER_ERROR proxy: ") && !rig.is_open(own));
}

#[test]
fn a_value_that_drips_closes_its_reader_and_what_waits_behind_it_is_answered() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "get a\r\n");
    rig.sent(0);
    rig.send(other, "delete b\r\n");
    rig.sent(0);
    rig.reply(0, "VALUE a 0 100\r\n");
    for _ in 0..8 {
        rig.pass(100);
        rig.reply(0, "x");
    }
    assert_eq!(rig.closed, [client]);
    assert_eq!(rig.got(other), TIMED_OUT);
    assert!(rig.is_open(0), "it is not silent");
    rig.send(other, "get c\r\n");
    rig.sent(0);
    rig.reply(0, format!("{}\r\nEND\r\nDELETED\r\nVALUE c 0 1\r\nz\r\nEND\r\n", "x".repeat(92)));
    assert_eq!(rig.got(other), "VALUE c 0 1\r\nz\r\nEND\r\n");
}

#[test]
fn a_request_that_was_never_sent_and_expired_is_never_sent() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "set a 0 0 5\r\naaaaa\r\n");
    rig.write(0, 10);
    rig.send(client, "set b 0 0 5\r\nbbbbb\r\ndelete c noreply\r\nget d e\r\nincr f 1\r\nget g\r\n");
    rig.pass(400);
    let queued = "SERVER_ERROR proxy: node node-0:11211 takes no requests\r\n";
    assert_eq!(rig.got(client), "", "the first is sent in part, and has its turn");
    assert_eq!(rig.sent(0), "set a 0 0 5\r\naaaaa\r\ndelete c\r\n");
    rig.reply(0, "STORED\r\nDELETED\r\n");
    assert_eq!(rig.got(client), format!("STORED\r\n{queued}END\r\n{queued}END\r\n"));
    rig.send(client, "get h\r\n");
    assert_eq!(rig.sent(0), "get h\r\n");
    rig.reply(0, "END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
}

#[test]
fn who_joins_a_waiting_request_has_a_clock_of_its_own() {
    let mut rig = Rig::new(1);
    let (first, second) = (rig.client(), rig.client());
    rig.send(first, "get a\r\n");
    rig.pass(240);
    rig.send(second, "get b\r\n");
    rig.pass(100);
    assert_eq!(rig.got(first), "END\r\n", "its lane takes nothing");
    assert_eq!(rig.got(second), "", "it has waited for 100 ms");
    assert_eq!(rig.sent(0), "get b\r\n");
    rig.reply(0, "VALUE b 0 1\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(second), "VALUE b 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn a_request_that_expires_is_counted_once() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "delete a\r\ntouch a 0\r\n");
    rig.sent(0);
    rig.pass(1_200);
    assert_eq!(rig.got(client), format!("{TIMED_OUT}NOT_FOUND\r\n"));
    assert_eq!(rig.cells.soft_sum(|_, reason| reason == Reason::Timeout), 2);
}

#[test]
fn a_large_value_on_its_way_outlives_what_was_asked_behind_it_and_not_sent() {
    let mut rig = Rig::with(1, |settings| settings.on_node_down = OnNodeDown::Error);
    let client = rig.client();
    rig.send(client, "get big\r\ngat 0 b\r\n");
    rig.write(0, "get big\r\n".len());
    let most = value("big", LARGE);
    assert_eq!(rig.try_reply(0, &most[..100_000]), b"");
    rig.pass(350);
    assert_eq!(rig.closed, [], "a value is silent for less than its time-out");
    let mut got = rig.got_bytes(client);
    let mut rest = &most[100_000..];
    while !rest.is_empty() {
        rest = rig.try_reply(0, rest);
        got.extend(rig.got_bytes(client));
    }
    rig.reply(0, "END\r\n");
    got.extend(rig.got_bytes(client));
    let queued = b"END\r\nSERVER_ERROR proxy: node node-0:11211 takes no requests\r\n";
    assert!(got == [&*most, queued].concat(), "{} bytes", got.len());
}

#[test]
fn the_connection_of_one_large_value_says_nothing_of_the_nodes_health_and_lives_by_its_own() {
    let mut rig = Rig::new(1);
    rig.now = 2_000_000;
    rig.mute = true;
    let client = rig.client();
    let all = set("big", LARGE);
    let (first, rest) = all.split_at(1_000);
    rig.send(client, first);
    let bulk = rig.newest(0);
    rig.fail(0, FailReason::Closed);
    rig.fail(rig.newest(0), FailReason::Connect);
    assert_eq!(rig.state(0), "down");
    rig.reply(bulk, "VERSION 1.6.18\r\n");
    assert_eq!(rig.state(0), "down", "no probe has been answered");
    rig.sent(bulk);
    rig.pass(600);
    assert!(rig.is_open(bulk), "its client is slow, and nothing is owed");
    rig.send(client, rest);
    assert!(rig.sent_bytes(bulk).ends_with(b"\r\n"));
    rig.reply(bulk, "STORED\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
}

#[test]
fn a_connection_that_says_nothing_at_all_is_given_up_after_one_time_out() {
    let mut rig = Rig::new(1);
    rig.mute = true;
    rig.fail(0, FailReason::Closed);
    let silent = rig.newest(0);
    let client = rig.client();
    rig.send(client, "get a\r\n");
    rig.pass(400);
    assert!(rig.is_open(silent));
    rig.pass(200);
    assert!(!rig.is_open(silent));
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.state(0), "down");
}

#[test]
fn large_values_are_asked_for_once_and_cost_one_connection() {
    let mut rig = Rig::new(1);
    let (reader, other) = (rig.client(), rig.client());
    for round in 0..100 {
        rig.send(reader, "get large\r\n");
        rig.send(other, "delete k\r\n");
        let reads: Vec<usize> = (0..rig.lanes()).filter(|&lane| rig.sent(lane).contains("get large\r\n")).collect();
        let [lane] = reads[..] else { panic!("asked on {reads:?}") };
        assert_eq!(lane, usize::from(round > 0), "known to be large, it is asked where large values travel");
        if lane > 0 {
            rig.reply(0, "DELETED\r\n");
            assert_eq!(rig.got(other), "DELETED\r\n", "waits for nothing");
        }
        let reply = [value("large", LARGE), b"END\r\n".to_vec()].concat();
        rig.reply(lane, &reply);
        assert!(rig.got_bytes(reader) == reply);
        if lane == 0 {
            rig.reply(0, "DELETED\r\n");
            assert_eq!(rig.got(other), "DELETED\r\n");
        }
        assert!(rig.open_lanes(0) <= 2);
    }
    assert_eq!(rig.longest_wait, Duration::ZERO);
    rig.pass(2_000);
    assert_eq!(rig.open_lanes(0), 1, "nobody needs it");
}

#[test]
fn a_node_with_nothing_in_flight_is_not_looked_at() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.pass(100);
    assert_eq!(rig.next, None, "nothing waits");
    rig.send(client, "get a\r\n");
    assert!(rig.next.is_some());
    rig.sent(0);
    rig.reply(0, "END\r\n");
    rig.pass(100);
    assert_eq!(rig.next, None);
}

#[test]
fn a_reply_for_a_client_that_left_reaches_nobody() {
    let mut rig = Rig::new(1);
    let gone = rig.client();
    rig.send(gone, "get secret\r\nset a 0 0 1\r\nx\r\n");
    rig.core.client_gone(gone);
    rig.apply();
    let next = rig.client();
    assert_eq!(next.index(), gone.index(), "it sits in the same place");
    rig.send(next, "get other\r\n");
    assert_eq!(rig.sent(0), "get secret\r\nset a 0 0 1\r\nx\r\nget other\r\n");
    rig.reply(0, "VALUE secret 0 1\r\nx\r\nEND\r\nSTORED\r\nEND\r\n");
    assert_eq!(rig.got(next), "END\r\n");
}
