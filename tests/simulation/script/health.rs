//! When a node counts as silent, and what it takes to be asked again.

use slipring::proxy::{FailReason, UpstreamId};

use super::Rig;

/// A node that takes connections and says nothing, of which so many clients, each on a lane of its own, ask a key.
fn silent(lanes: usize) -> (Rig, Vec<slipring::proxy::ClientId>) {
    let mut rig = Rig::with(1, |settings| settings.lanes = lanes);
    rig.mute = true;
    let clients: Vec<_> = (0..lanes).map(|_| rig.client()).collect();
    for (lane, client) in clients.iter().enumerate() {
        rig.send(*client, "get k\r\n");
        assert_eq!(rig.sent(lane), "get k\r\n");
    }
    (rig, clients)
}

#[test]
fn a_silent_node_is_down_within_900_ms_and_back_after_two_answers() {
    let mut rig = Rig::new(2);
    let client = rig.client();
    let key = rig.key(0, "k");
    rig.mute = true;
    rig.send(client, format!("get {key}\r\n"));
    rig.sent(0);
    rig.pass(600);
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.state(0), "up", "it is asked first");
    let asked = rig.newest(0);
    assert_eq!(rig.sent(asked), "version\r\n");
    rig.send(client, format!("delete {key}\r\n"));
    rig.sent(0);
    rig.pass(300);
    assert_eq!(rig.state(0), "down");
    assert!(!rig.is_open(0) && !rig.is_open(asked));
    assert_eq!(rig.got(client), "SERVER_ERROR proxy: node node-0:11211 does not answer\r\n");
    let probe = rig.newest(0);
    assert_eq!(rig.sent(probe), "version\r\n");
    rig.reply(probe, "VERSION 1.6.18\r\n");
    assert_eq!(rig.state(0), "probing", "it has answered once");
    rig.send(client, format!("get {key}\r\nset {key} 0 0 1\r\nx\r\n"));
    assert_eq!(rig.got(client), "END\r\nSERVER_ERROR proxy: node node-0:11211 is down\r\n");
    rig.pass(200);
    assert_eq!(rig.sent(probe), "version\r\n", "no request of a client among them");
    assert_eq!(rig.state(0), "probing");
    rig.reply(probe, "VERSION 1.6.18\r\n");
    assert_eq!(rig.state(0), "up");
    rig.send(client, format!("get {key}\r\n"));
    assert_eq!(rig.sent(probe), format!("get {key}\r\n"));
    assert_eq!(rig.state(1), "up", "nobody else was concerned");
}

#[test]
fn a_node_that_pauses_stays_however_many_lanes_it_has() {
    for lanes in 1..=3 {
        let (mut rig, clients) = silent(lanes);
        rig.pass(700);
        assert_eq!(rig.open_lanes(0), lanes + 1, "it is asked once");
        assert_eq!(rig.state(0), "up");
        let asked = rig.newest(0);
        rig.reply(asked, "VERSION 1.6.18\r\n");
        assert!(!rig.is_open(asked), "there is nothing more to ask");
        for (lane, client) in clients.iter().enumerate() {
            rig.reply(lane, "END\r\n");
            assert_eq!(rig.got(*client), "END\r\n");
            rig.send(*client, "delete k\r\n");
            rig.sent(lane);
            rig.reply(lane, "DELETED\r\n");
            assert_eq!(rig.got(*client), "DELETED\r\n");
        }
        rig.pass(2_000);
        assert_eq!((rig.state(0), rig.open_lanes(0)), ("up", lanes));
    }
}

#[test]
fn any_answer_on_any_lane_is_the_answer() {
    let (mut rig, _) = silent(2);
    rig.pass(600);
    let asked = rig.newest(0);
    assert!(asked > 1 && rig.is_open(asked));
    rig.reply(1, "END\r\n");
    assert!(!rig.is_open(asked), "nobody needs to ask any more");
    rig.pass(300);
    assert_eq!(rig.state(0), "up");
}

#[test]
fn a_node_that_answers_on_another_lane_meanwhile_is_not_asked() {
    let (mut rig, clients) = silent(2);
    for _ in 0..4 {
        rig.reply(1, "END\r\n");
        rig.pass(300);
        rig.send(clients[1], "get k\r\n");
        rig.sent(1);
    }
    assert_eq!(rig.lanes(), 2, "no connection was made");
}

#[test]
fn a_node_that_refuses_the_question_is_down() {
    for reason in [FailReason::Connect, FailReason::ConnectTimeout, FailReason::Closed] {
        let (mut rig, clients) = silent(2);
        rig.pass(600);
        rig.send(clients[0], "delete k\r\n");
        rig.sent(0);
        assert_eq!(rig.got(clients[0]), "END\r\n");
        let asked = rig.newest(0);
        rig.fail(asked, reason);
        assert_eq!(rig.state(0), "down");
        // It was sent: that it "cannot be reached" would say that it was not.
        assert_eq!(rig.got(clients[0]), "SERVER_ERROR proxy: node node-0:11211 does not answer\r\n");
        assert_eq!(rig.open_lanes(0), 1, "one connection probes it");
    }
}

#[test]
fn a_proxy_that_stood_still_itself_blames_nobody_before_it_has_read() {
    let (mut rig, _) = silent(1);
    rig.pass(600);
    let asked = rig.newest(0);
    assert!(asked > 0);
    rig.now += 5_000_000;
    rig.next = rig.core.tick(rig.now());
    rig.apply();
    assert_eq!(rig.state(0), "up");
    rig.reply(asked, "VERSION 1.6.18\r\n");
    rig.pass(100);
    assert_eq!(rig.state(0), "up");
}

#[test]
fn a_node_that_leaves_is_not_asked_any_more() {
    let (mut rig, _) = silent(1);
    rig.pass(600);
    let asked: UpstreamId = rig.lanes[rig.newest(0)].id;
    let none = slipring::routing::Topology::unknown();
    rig.core.set_topology(std::sync::Arc::new(none), rig.now());
    rig.apply();
    assert!(!rig.core.has_upstream(asked));
}
