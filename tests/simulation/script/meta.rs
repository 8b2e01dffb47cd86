//! Meta commands, scripted by hand.

use super::{HUGE, LARGE, Rig, value};
use slipring::proxy::{ClientId, FailReason};

const NEEDS: &str = "SERVER_ERROR proxy: the request needs memcached 1.6 at node node-0:11211\r\n";

#[test]
fn an_answer_is_never_older_than_that_to_an_earlier_read_whatever_asks() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get big\r\nmg big v O1\r\nmg big s\r\nmg none v k\r\n");
    assert_eq!(rig.sent(0), "get big\r\nmg big v O1\r\nmg big s\r\nmg none v k\r\n");
    // It finds no room, and is asked for again: by then it may have changed.
    rig.try_reply(0, &value("big", HUGE));
    rig.reply(0, "END\r\nVA 1 O1\r\n1\r\nHD s1\r\nEN knone\r\n");
    assert_eq!(rig.got(client), "");
    let own = rig.newest(0);
    for (asked, reply, told) in [
        ("get big\r\n", "VALUE big 0 2\r\n22\r\nEND\r\n", "VALUE big 0 2\r\n22\r\nEND\r\n"),
        ("mg big v O1\r\n", "VA 2 O1\r\n33\r\n", "VA 2 O1\r\n33\r\n"),
        ("mg big s\r\n", "HD s2\r\n", "HD s2\r\nEN knone\r\n"),
    ] {
        assert_eq!(rig.sent(own), asked);
        rig.reply(own, reply);
        assert_eq!(rig.got(client), told);
    }
}

#[test]
fn a_block_that_comes_while_its_node_becomes_older_is_no_command() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "ms k 11 q\r\nflush");
    rig.send(other, "ms k 11\r\nflush");
    rig.mute = true;
    rig.fail(0, FailReason::Closed);
    let lane = rig.newest(0);
    assert_eq!(rig.sent(lane), "version\r\n");
    // Nobody knows which memcached that is.
    rig.send(client, "_all\r\n\r\nmn\r\n");
    assert_eq!(rig.got(client), "SERVER_ERROR proxy: node node-0:11211 is down\r\nMN\r\n");
    rig.reply(lane, "VERSION 1.5.16\r\n");
    rig.send(other, "_all\r\n\r\nmn\r\n");
    assert_eq!(rig.got(other), format!("{NEEDS}MN\r\n"));
    assert_eq!(rig.sent(lane), "");
}

#[test]
fn a_large_block_that_waits_while_its_node_becomes_older_is_no_command() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..4).map(|_| rig.client()).collect();
    for (number, client) in clients.iter().enumerate() {
        rig.send(*client, format!("ms k{number} {LARGE}\r\n"));
    }
    assert_eq!(rig.open_lanes(0), 1 + 3, "the last waits for a lane");
    rig.mute = true;
    rig.fail(0, FailReason::Closed);
    let lane = rig.newest(0);
    rig.sent(lane);
    rig.reply(lane, "VERSION 1.5.16\r\n");
    let lanes = rig.lanes();
    rig.core.client_gone(clients[0]);
    rig.apply();
    assert_eq!(rig.got(clients[3]), NEEDS);
    assert_eq!(rig.lanes(), lanes, "no lane is opened for it");
    rig.send(clients[3], ["x".repeat(LARGE).as_str(), "\r\nmn\r\n"].concat());
    assert_eq!(rig.got(clients[3]), "MN\r\n");
}

/// A node tells one client alone that a stale value is its to renew. The value passes by once, for it finds no room, and is
/// asked for again: by then the node says that somebody else renews it.
#[test]
fn a_large_stale_value_is_its_askers_to_renew_though_it_is_asked_for_twice() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "mg big v c h\r\n");
    assert_eq!(rig.sent(0), "mg big v c h\r\n");
    let reply = |flags: &str| format!("VA {HUGE} {flags}\r\n{}\r\n", "x".repeat(HUGE)).into_bytes();
    rig.try_reply(0, &reply("c7 h0 X W"));
    assert_eq!(rig.got(client), "");
    let own = rig.newest(0);
    assert_eq!(rig.sent(own), "mg big v c h\r\n");
    rig.try_reply(own, &reply("c7 h1 X Z"));
    let got = rig.got(client);
    assert!(got.starts_with(&format!("VA {HUGE} c7 h0 X W\r\nxxx")), "{}", &got[..60.min(got.len())]);
}
