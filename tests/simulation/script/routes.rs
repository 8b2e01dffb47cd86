//! Which lane a client goes by when its own is lost, and what it waits for.

use slipring::proxy::{ClientId, FailReason};

use super::Rig;

/// Two lanes, and the client of the second.
fn two() -> (Rig, ClientId) {
    let mut rig = Rig::with(1, |settings| settings.lanes = 2);
    rig.now = 2_000_000;
    let _first = rig.client();
    let second = rig.client();
    rig.mute = true;
    (rig, second)
}

#[test]
fn who_has_nothing_under_way_on_a_lost_lane_goes_by_another_at_once() {
    let (mut rig, client) = two();
    rig.fail(1, FailReason::Closed);
    assert_eq!(rig.state(0), "up", "a connection was lost, and the next is on its way");
    rig.send(client, "set a 0 0 1\r\nx\r\n");
    assert_eq!(rig.sent(0), "set a 0 0 1\r\nx\r\n");
    rig.reply(0, "STORED\r\n");
    for _ in 0..3 {
        let refused = rig.newest(0);
        rig.fail(refused, FailReason::Connect);
        assert_eq!(rig.state(0), "degraded", "it has fewer connections than it should");
        rig.send(client, "get a\r\n");
        assert_eq!(rig.sent(0), "get a\r\n");
        rig.reply(0, "END\r\n");
    }
    assert_eq!(rig.got(client), "STORED\r\nEND\r\nEND\r\nEND\r\n");
    let next = rig.newest(0);
    rig.reply(next, "VERSION 1.6.18\r\n");
    assert_eq!(rig.state(0), "up");
    rig.sent(next);
    rig.send(client, "get a\r\n");
    assert_eq!(rig.sent(next), "get a\r\n", "it goes back");
}

#[test]
fn a_lane_that_is_refused_again_and_again_concerns_nobody() {
    let mut rig = Rig::with(1, |settings| settings.lanes = 2);
    rig.mute = true;
    rig.fail(1, FailReason::Connect);
    rig.fail(rig.newest(0), FailReason::Connect);
    assert_eq!(rig.state(0), "degraded");
    let clients = [rig.client(), rig.client()];
    for client in clients {
        rig.send(client, "delete a\r\n");
        assert_eq!(rig.sent(0), "delete a\r\n");
        rig.reply(0, "DELETED\r\n");
        assert_eq!(rig.got(client), "DELETED\r\n");
    }
    // Without the last one that answers it is down.
    rig.fail(0, FailReason::Connect);
    assert_eq!(rig.state(0), "down");
}

#[test]
fn a_lane_that_is_refused_before_another_has_answered_is_no_outage() {
    let (mut rig, client) = two();
    rig.fail(0, FailReason::Closed);
    let first = rig.newest(0);
    rig.fail(1, FailReason::Closed);
    rig.fail(rig.newest(0), FailReason::Connect);
    assert_eq!(rig.state(0), "connecting", "the first may be all that it gives us");
    rig.send(client, "delete a\r\n");
    rig.sent(first);
    rig.reply(first, "VERSION 1.6.18\r\nDELETED\r\n");
    assert_eq!((rig.state(0), rig.got(client)), ("degraded", "DELETED\r\n".to_owned()));
}

#[test]
fn reads_of_a_lost_lane_are_asked_again_on_another_that_is_ready() {
    let (mut rig, client) = two();
    rig.send(client, "set b 0 0 1\r\nx\r\nget a\r\n");
    rig.sent(1);
    rig.fail(1, FailReason::Closed);
    assert_eq!(rig.sent(0), "get a\r\n");
    rig.send(client, "get b\r\n");
    assert_eq!(rig.sent(0), "get b\r\n", "what was sent is lost: the node has closed that connection");
    rig.reply(0, "VALUE a 0 1\r\ny\r\nEND\r\nEND\r\n");
    let lost = "SERVER_ERROR proxy: node node-0:11211 closed the connection\r\n";
    assert_eq!(rig.got(client), format!("{lost}VALUE a 0 1\r\ny\r\nEND\r\nEND\r\n"));
}

#[test]
fn who_goes_back_to_its_lane_waits_for_what_it_has_under_way_on_the_other() {
    for request in ["set a 0 0 5\r\nhello\r\n", "delete a\r\n", "get a\r\n", "flush_all\r\n"] {
        // Whole, or begun before the lane is ready and ended behind that.
        for before in [0, request.len() - 4] {
            let (mut rig, client) = two();
            rig.fail(1, FailReason::Closed);
            rig.send(client, "gat 1 a\r\n");
            assert_eq!(rig.sent(0), "gat 1 a\r\n");
            rig.send(client, &request[..before]);
            let next = rig.newest(0);
            rig.reply(next, "VERSION 1.6.18\r\n");
            rig.sent(next);
            rig.send(client, &request[before..]);
            assert_eq!((rig.sent(0), rig.sent(next)), (String::new(), String::new()), "{request} {before}");
            rig.reply(0, "END\r\n");
            assert_eq!(rig.sent(next), request);
        }
    }
}

#[test]
fn a_write_waits_until_one_that_was_sent_and_given_up_can_overtake_it_no_more() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "set a 0 0 1\r\nx\r\n");
    rig.send(other, "get b\r\n");
    rig.sent(0);
    while rig.is_open(0) {
        rig.pass(10);
        assert!(rig.now < 5_000_000, "it is given up at last");
    }
    assert_eq!(rig.state(0), "up", "it answers on other connections");
    rig.got(client);
    let next = rig.newest(0);
    rig.send(client, "set a 0 0 1\r\ny\r\n");
    rig.send(other, "set b 0 0 1\r\nz\r\n");
    assert_eq!(rig.sent(next), "set b 0 0 1\r\nz\r\n", "only a read of it was lost");
    rig.pass(200);
    assert_eq!(rig.sent(next), "");
    rig.pass(100);
    assert_eq!(rig.sent(next), "set a 0 0 1\r\ny\r\n");
}

#[test]
fn who_waits_for_a_lost_write_goes_on_when_the_node_leaves() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "set a 0 0 1\r\nx\r\n");
    rig.sent(0);
    rig.reply(0, "NONSENSE\r\n");
    rig.got(client);
    rig.send(client, "set a 0 0 1\r\ny\r\n");
    assert_eq!(rig.got(client), "");
    rig.core.set_topology(std::sync::Arc::new(slipring::routing::Topology::unknown()), rig.now());
    rig.apply();
    rig.pass(400);
    assert_eq!(rig.got(client), "SERVER_ERROR proxy: no node is known yet\r\n");
}
