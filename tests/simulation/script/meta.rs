//! Meta commands, scripted by hand.

use super::{HUGE, LARGE, Rig, value};
use slipring::config::OnNodeDown;
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
fn the_longest_key_is_said_whatever_follows_it() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let key = "k".repeat(250);
    for line in [format!("md {key}\r\n"), format!("md {key} I\r\n"), format!("ms {key} 1\r\nx\r\n")] {
        rig.send(client, &line);
        assert_eq!(rig.sent(0), line);
        rig.reply(0, "HD\r\n");
        assert_eq!(rig.got(client), "HD\r\n");
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
    rig.core.client_gone(clients[0]);
    rig.apply();
    // It could still be said in packets.
    let binary = rig.newest(0);
    assert_eq!(rig.sent_bytes(binary)[..2], [0x80, 0x0a]);
    let lanes = rig.lanes();
    rig.reply(binary, "ERROR\r\n");
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

/// The rest of what passed by never comes: its asker has asked again meanwhile, and has its whole answer.
#[test]
fn a_value_that_was_asked_for_again_is_no_failure_where_it_passed_by() {
    for request in ["mg big v\r\n", "get big\r\n"] {
        let mut rig = Rig::with(1, |settings| settings.on_node_down = OnNodeDown::Error);
        let client = rig.client();
        rig.send(client, request);
        assert_eq!(rig.sent(0), request);
        let (head, end) = if request.starts_with("mg") { ("VA", "") } else { ("VALUE big 0", "END\r\n") };
        let reply = format!("{head} {HUGE}\r\n{}\r\n{end}", "x".repeat(HUGE));
        rig.try_reply(0, &reply.as_bytes()[..5000]);
        let own = rig.newest(0);
        assert_eq!(rig.sent(own), request);
        let (mut left, mut got) = (reply.as_bytes(), String::new());
        while !left.is_empty() {
            left = rig.try_reply(own, left);
            got += &rig.got(client);
        }
        for _ in 0..4 {
            rig.pass(300);
        }
        rig.send(client, "mn\r\n");
        got += &rig.got(client);
        assert!(got == format!("{reply}MN\r\n"), "{} … {}", &got[..40], &got[got.len() - 90..]);
    }
}

/// Behind an address may be several versions, one after the other or at the same time: each connection says its own.
#[test]
fn a_block_goes_only_by_a_connection_that_has_said_that_it_knows_the_command() {
    let mut rig = Rig::new(1);
    rig.mute = true;
    let clients: Vec<ClientId> = (0..2).map(|_| rig.client()).collect();
    for client in &clients {
        rig.send(*client, format!("ms k {LARGE}\r\n{}", "flush_all\r\n".repeat(10)));
    }
    let own = rig.newest(0);
    assert_eq!(rig.open_lanes(0), 2, "one is opened, and asked what it is");
    assert_eq!(rig.sent(own), "version\r\n");
    rig.reply(own, "VERSION 1.5.16\r\n");
    assert_eq!(rig.sent(own), "");
    for client in &clients {
        assert_eq!(rig.got(*client), NEEDS);
        rig.send(*client, "x".repeat(LARGE - 110) + "\r\nmn\r\n");
        assert_eq!(rig.got(*client), "MN\r\n");
    }
    assert_eq!(rig.sent(own), "");
}

#[test]
fn a_large_block_follows_the_version_of_its_own_connection() {
    let mut rig = Rig::new(1);
    rig.mute = true;
    let client = rig.client();
    rig.send(client, format!("ms k {LARGE}\r\nxx"));
    let own = rig.newest(0);
    assert_eq!(rig.sent(own), "version\r\n");
    rig.reply(own, "VERSION 1.6.18\r\n");
    assert_eq!(rig.sent(own), format!("ms k {LARGE}\r\nxx"));
    rig.send(client, "x".repeat(LARGE - 2) + "\r\n");
    rig.sent(own);
    rig.reply(own, "HD\r\n");
    assert_eq!(rig.got(client), "HD\r\n");
    // A connection that is lost before it has said anything: the client is told so in time.
    let other = rig.client();
    rig.send(client, format!("ms k {LARGE}\r\n"));
    rig.send(other, format!("ms l {LARGE}\r\n"));
    let lane = rig.newest(0);
    assert_ne!(lane, own);
    rig.fail(lane, FailReason::Closed);
    for _ in 0..10 {
        rig.pass(100);
    }
    assert!(rig.got(other).ends_with("has no free connection for the value\r\n"));
}

#[test]
fn of_two_connections_to_several_versions_each_is_asked_what_it_knows() {
    let mut rig = Rig::with(1, |settings| settings.lanes = 2);
    let clients: Vec<ClientId> = (0..2).map(|_| rig.client()).collect();
    // Both are up; then the first is replaced, and behind the address is an older one, too.
    rig.mute = true;
    rig.fail(0, FailReason::Closed);
    let lane = rig.newest(0);
    rig.sent(lane);
    rig.reply(lane, "VERSION 1.5.16\r\n");
    for client in &clients {
        rig.send(*client, "ms k 11 T0\r\nflush_all\r\n\r\nmn\r\n");
    }
    assert_eq!(rig.sent(lane), "");
    assert_eq!(rig.sent(1), "ms k 11 T0\r\nflush_all\r\n\r\n");
    // The other one may say it in packets, should its node speak those.
    let binary = rig.newest(0);
    assert_eq!(rig.sent_bytes(binary).len(), 24);
    rig.reply(binary, [&[0x81, 0x0a][..], &[0; 22]].concat());
    let head = rig.sent_bytes(binary);
    assert_eq!((head[1], &head[24 + 8..]), (0x01, &b"kflush_all\r\n"[..]));
    assert_eq!(rig.sent(lane) + &rig.sent(1), "");
}

/// A miss that tells what was asked for is given as a line: that, too, may be older than an answer that is still to come.
#[test]
fn a_miss_with_its_key_waits_for_an_earlier_read_of_the_same_key() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get big\r\nmg big v k\r\n");
    assert_eq!(rig.sent(0), "get big\r\nmg big v k\r\n");
    rig.try_reply(0, &value("big", HUGE));
    rig.reply(0, "END\r\nEN kbig\r\n");
    assert_eq!(rig.got(client), "");
    let own = rig.newest(0);
    assert_eq!(rig.sent(own), "get big\r\n");
    rig.reply(own, "VALUE big 0 2\r\n22\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE big 0 2\r\n22\r\nEND\r\n");
    assert_eq!(rig.sent(own), "mg big v k\r\n");
    rig.reply(own, "EN kbig\r\n");
    assert_eq!(rig.got(client), "EN kbig\r\n");
    rig.send(client, "mn\r\n");
    assert_eq!(rig.got(client), "MN\r\n");
}

/// A node of which a client's shared lane has said that it knows the meta commands, and a key whose value was large. What is
/// behind its address is proved by hand from now on.
fn with_large() -> (Rig, ClientId) {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "mg big v\r\n");
    assert_eq!(rig.sent(0), "mg big v\r\n");
    rig.reply(0, va(LARGE));
    assert!(rig.got_bytes(client) == va(LARGE));
    rig.mute = true;
    (rig, client)
}

fn va(len: usize) -> Vec<u8> {
    [format!("VA {len}\r\n").as_bytes(), &vec![b'v'; len], b"\r\n"].concat()
}

/// Another connection may lead to a memcached that does not know them.
#[test]
fn a_read_of_a_large_value_waits_until_the_lane_of_large_values_has_said_its_version() {
    for (version, told) in [("1.6.18", true), ("1.5.16", false)] {
        let (mut rig, client) = with_large();
        rig.send(client, "mg big v\r\nmg small v\r\n");
        let large = rig.newest(0);
        assert_eq!((rig.sent(large), rig.sent(0)), ("version\r\n".into(), String::new()), "{version}");
        rig.reply(large, "VERSION ");
        assert_eq!((rig.sent(large), rig.sent(0)), (String::new(), String::new()), "{version}");
        rig.reply(large, format!("{version}\r\n"));
        let small = "mg small v\r\n";
        let (by_large, by_shared) = if told { ("mg big v\r\n", "") } else { ("", "mg big v\r\n") };
        assert_eq!((rig.sent(large), rig.sent(0)), (by_large.into(), format!("{by_shared}{small}")), "{version}");
        if told {
            rig.reply(0, "EN\r\n");
            rig.reply(large, va(LARGE));
        } else {
            rig.reply(0, [&*va(LARGE), b"EN\r\n"].concat());
        }
        assert!(rig.got_bytes(client) == [&*va(LARGE), b"EN\r\n"].concat(), "{version}");
        // Classic commands every memcached knows.
        rig.send(client, "get big\r\n");
        assert_eq!((rig.sent(large), rig.sent(0)), ("get big\r\n".into(), String::new()), "{version}");
    }
}

#[test]
fn a_read_of_a_large_value_goes_on_where_the_lane_of_large_values_is_not_to_be_had() {
    for reason in [FailReason::Closed, FailReason::Connect] {
        let (mut rig, client) = with_large();
        for _ in 0..2 {
            rig.send(client, "mg big v\r\n");
            let large = rig.newest(0);
            if large != 0 && rig.is_open(large) {
                assert_eq!((rig.sent(large), rig.sent(0)), ("version\r\n".into(), String::new()));
                rig.fail(large, reason);
            }
            assert_eq!((rig.open_lanes(0), rig.sent(0)), (1, "mg big v\r\n".into()), "by the shared lane, at once");
            rig.reply(0, va(LARGE));
            assert!(rig.got_bytes(client) == va(LARGE));
        }
        // After a while it is tried again.
        rig.pass(1000);
        rig.send(client, "mg big v\r\n");
        let large = rig.newest(0);
        assert_eq!((rig.sent(large), rig.sent(0)), ("version\r\n".into(), String::new()));
        // One that says nothing is waited for no longer than the queue time-out.
        let mut told = String::new();
        for _ in 0..20 {
            rig.pass(100);
            told += &rig.got(client);
        }
        assert_eq!(told, "EN\r\n");
        assert_eq!(rig.sent(0), "");
    }
}

#[test]
fn a_value_without_room_is_asked_for_again_by_a_lane_that_has_said_its_version() {
    for (version, told) in [("1.6.18", "VA 1\r\nv\r\n"), ("1.5.16", "EN\r\n")] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        rig.send(client, "mg big v\r\n");
        assert_eq!(rig.sent(0), "mg big v\r\n");
        rig.mute = true;
        rig.try_reply(0, &va(HUGE));
        let own = rig.newest(0);
        assert_eq!((rig.sent(own), rig.got(client)), ("version\r\n".into(), String::new()), "{version}");
        rig.reply(own, format!("VERSION {version}\r\n"));
        if version == "1.6.18" {
            assert_eq!(rig.sent(own), "mg big v\r\n");
            rig.reply(own, va(1));
        }
        assert_eq!((rig.got(client), rig.sent(own)), (told.into(), String::new()), "{version}");
    }
}
