//! Lanes in packets of one client's own, scripted by hand.
//!
//! What is said on them may hold lines, and a node that speaks text would carry those out: so nothing is, before the node has
//! answered by a packet on this very connection.

use super::super::{HUGE, LARGE, Rig};
use super::{GREETING, NODE, NOOP, NOT_FOUND, Sent, old, packet, renew};
use slipring::proxy::{ClientId, FailReason};

/// The text that a client gets for whom no connection was found.
fn none_free() -> String {
    format!("SERVER_ERROR proxy: node {NODE} has no free connection for the value\r\n")
}

fn needs() -> String {
    format!("SERVER_ERROR proxy: the request needs memcached 1.6 at node {NODE}\r\n")
}

/// A value in pieces.
fn feed(rig: &mut Rig, lane: usize, bytes: &[u8]) {
    bytes.chunks(60_000).for_each(|piece| rig.reply(lane, piece));
}

/// The own lane that a client's request opens, which is greeted before anything else is said on it.
fn opens(rig: &mut Rig, client: ClientId, request: impl AsRef<[u8]>) -> usize {
    let before = rig.lanes();
    rig.send(client, request);
    assert_eq!(rig.lanes(), before + 1);
    let own = rig.newest(0);
    assert_eq!(rig.sent_bytes(own), NOOP);
    own
}

#[test]
fn large_values_flow_and_one_without_room_is_asked_for_again_on_a_lane_of_its_own() {
    let (mut rig, _, binary) = old();
    let client = rig.client();
    rig.send(client, "mg a v k\r\n");
    let sent = Sent::one(&mut rig, binary);
    let large = vec![b'l'; LARGE];
    feed(&mut rig, binary, &sent.hit(&large));
    let told = rig.got(client);
    assert!(told.starts_with(&format!("VA {LARGE} ka\r\nlll")) && told.ends_with("lll\r\n"));
    assert_eq!(told.len(), format!("VA {LARGE} ka\r\n\r\n").len() + LARGE);
    rig.send(client, "mg big v\r\nmg a s\r\n");
    let sent = Sent::all(&mut rig, binary);
    feed(&mut rig, binary, &sent[0].hit(&vec![b'h'; HUGE]));
    rig.reply(binary, sent[1].hit(b"1"));
    assert_eq!(rig.got(client), "");
    let own = rig.newest(0);
    assert_eq!(rig.sent_bytes(own), NOOP);
    rig.reply(own, GREETING);
    let again = Sent::one(&mut rig, own);
    assert_eq!((again.opcode, &*again.key), (0x00, &b"big"[..]));
    rig.reply(own, again.hit(b"small"));
    assert_eq!(rig.got(client), "VA 5\r\nsmall\r\nHD s1\r\n");
}

#[test]
fn large_bodies_stream_without_their_last_line_end() {
    let (mut rig, text, _) = old();
    let client = rig.client();
    let body = vec![b'x'; LARGE];
    for good in [true, false] {
        let own = opens(&mut rig, client, format!("ms a {LARGE}\r\n"));
        rig.reply(own, GREETING);
        let mut got = rig.sent_bytes(own);
        for piece in [&body[..], if good { &b"\r\n"[..] } else { b"XY" }].concat().chunks(50_000) {
            rig.send(client, piece);
            got.extend(rig.sent_bytes(own));
        }
        let whole = 24 + 8 + 1 + LARGE;
        assert_eq!(got[1], 0x01);
        if good {
            assert_eq!(got.len(), whole);
            let set = Sent { opcode: 1, opaque: got[12..16].try_into().unwrap(), key: Vec::new(), value: Vec::new() };
            rig.reply(own, set.ok());
            assert_eq!(rig.got(client), "HD\r\n");
            // The next is in classic words: another lane.
            rig.send(client, format!("set a 0 0 {LARGE}\r\n"));
            let classic = rig.newest(0);
            assert!(classic != own && rig.is_open(own));
            let head = rig.sent_bytes(classic);
            assert_eq!(head, format!("version\r\nset a 0 0 {LARGE}\r\n").into_bytes());
            rig.reply(classic, "VERSION 1.5.16\r\nSERVER_ERROR object too large for cache\r\n");
            rig.send(client, [&body[..], b"\r\n"].concat());
            rig.got(client);
            while rig.open_lanes(0) > 2 {
                rig.pass(100);
            }
        } else {
            assert!(got.len() < whole && !rig.is_open(own), "never completed");
            assert_eq!(rig.got(client), "CLIENT_ERROR bad data chunk\r\n");
        }
    }
    assert_eq!(rig.sent(text), "");
}

/// Behind the address may be a node that speaks text only, though another connection has answered by a packet.
#[test]
fn a_lane_that_does_not_answer_by_a_packet_is_told_nothing_of_a_large_block() {
    let ways: [fn(&mut Rig, usize); 3] = [
        |rig, lane| rig.reply(lane, "ERROR\r\n"),
        |rig, lane| rig.reply(lane, [&[0x81, 0x0b][..], &[0; 22]].concat()),
        |rig, lane| rig.fail(lane, FailReason::Closed),
    ];
    let lines = "flush_all\r\n".repeat(1000);
    for (way, refuse) in ways.into_iter().enumerate() {
        let (mut rig, text, binary) = old();
        let client = rig.client();
        let own = opens(&mut rig, client, format!("ms a {LARGE}\r\n{lines}"));
        refuse(&mut rig, own);
        assert_eq!((rig.is_open(own), rig.sent_bytes(own), rig.got(client)), (false, vec![], String::new()), "{way}");
        assert_eq!((rig.is_open(binary), rig.state(0), rig.count(|c| &c.desyncs)), (true, "up", 0), "{way}");
        // Another one is tried. It is no worse for what the first was.
        rig.pass(100);
        let other = rig.newest(0);
        assert!(other != own && rig.open_lanes(0) == 3);
        assert_eq!(rig.sent_bytes(other), NOOP);
        rig.reply(other, &GREETING[..23]);
        assert_eq!(rig.sent_bytes(other), b"");
        rig.reply(other, &GREETING[23..]);
        let head = rig.sent_bytes(other);
        assert_eq!((head[1], &head[24 + 8..24 + 8 + 12]), (0x01, &b"aflush_all\r\n"[..]), "{way}");
        assert_eq!((rig.sent(text), rig.sent_bytes(binary)), (String::new(), vec![]));
    }
}

/// The key of a packet may be any bytes: a read may hold lines, too.
#[test]
fn a_lane_that_does_not_answer_by_a_packet_is_told_no_key() {
    let (mut rig, _, binary) = old();
    let client = rig.client();
    let key = b"\r\nflush_all\r\n";
    rig.send(client, packet(0x00, 1, &[], key, b""));
    let sent = Sent::one(&mut rig, binary);
    assert_eq!(sent.key, key);
    feed(&mut rig, binary, &sent.hit(&vec![b'h'; HUGE]));
    let own = rig.newest(0);
    assert_eq!(rig.sent_bytes(own), NOOP);
    rig.reply(own, "ERROR\r\n");
    assert_eq!((rig.sent_bytes(own), rig.is_open(own)), (vec![], false));
    rig.pass(100);
    let own = rig.newest(0);
    assert_eq!(rig.sent_bytes(own), NOOP);
    rig.reply(own, GREETING);
    let again = Sent::one(&mut rig, own);
    assert_eq!(again.key, key);
    rig.reply(own, again.reply(NOT_FOUND, &[], b"Not found"));
    assert_eq!(rig.got_bytes(client)[7], 1, "not found");
}

#[test]
fn who_waits_for_a_lane_that_never_answers_is_told_so_in_time() {
    for is_silent in [true, false] {
        let (mut rig, text, binary) = old();
        let client = rig.client();
        opens(&mut rig, client, format!("ms a {LARGE}\r\nflush_all\r\n"));
        let mut told = String::new();
        for _ in 0..20 {
            let own = rig.newest(0);
            if own != binary {
                let sent = rig.sent_bytes(own);
                assert!(sent.is_empty() || sent == NOOP, "{sent:?}");
                if !is_silent {
                    rig.reply(own, "ERROR\r\n");
                }
            }
            rig.pass(100);
            told += &rig.got(client);
        }
        assert_eq!(told, none_free());
        assert_eq!((rig.open_lanes(0), rig.is_open(text) && rig.is_open(binary)), (2, true));
    }
}

/// Clients whose large blocks take all own lanes.
fn fill(rig: &mut Rig) -> Vec<(ClientId, usize)> {
    let all = (0..3).map(|number| {
        let client = rig.client();
        let own = opens(rig, client, format!("ms b{number} {LARGE}\r\n"));
        rig.reply(own, GREETING);
        assert_eq!(rig.sent_bytes(own)[1], 0x01);
        (client, own)
    });
    all.collect()
}

/// What a large block waits for is first of all what its node is now.
#[test]
fn a_large_block_that_waits_while_its_node_stops_speaking_in_packets_is_refused() {
    for speaks in [true, false] {
        let (mut rig, text, binary) = old();
        let busy = fill(&mut rig);
        let client = rig.client();
        rig.send(client, format!("ms a {LARGE}\r\nflush_all\r\n"));
        rig.fail(binary, FailReason::Closed);
        rig.core.client_gone(busy[0].0);
        rig.apply();
        let binary = rig.newest(0);
        assert_eq!((rig.sent_bytes(binary), rig.got(client)), (NOOP.to_vec(), String::new()));
        if speaks {
            rig.reply(binary, GREETING);
            let own = rig.newest(0);
            assert!(own != binary && rig.sent_bytes(own) == NOOP);
            rig.reply(own, GREETING);
            assert_eq!(rig.sent_bytes(own)[1], 0x01);
        } else {
            rig.reply(binary, "ERROR\r\n");
            assert_eq!((rig.got(client), rig.open_lanes(0)), (needs(), 3));
        }
        assert_eq!(rig.sent(text), "");
    }
    // Or it has become one that knows the meta commands, which are said to it as they are.
    let (mut rig, text, binary) = old();
    let busy = fill(&mut rig);
    let client = rig.client();
    rig.send(client, format!("ms a {LARGE}\r\nflush_all\r\n"));
    rig.now += 2_000_000;
    let text = renew(&mut rig, text, "1.6.18");
    assert!(!rig.is_open(binary));
    rig.core.client_gone(busy[0].0);
    rig.apply();
    let own = rig.newest(0);
    assert_eq!(rig.sent(own), "version\r\n");
    rig.reply(own, "VERSION 1.6.18\r\n");
    assert_eq!((rig.sent(own), rig.sent(text)), (format!("ms a {LARGE}\r\nflush_all\r\n"), String::new()));
}

#[test]
fn own_lanes_of_the_other_kind_make_room_and_there_are_never_more_than_three() {
    let (mut rig, _, _) = old();
    let clients: Vec<ClientId> = (0..3).map(|_| rig.client()).collect();
    let body = "x".repeat(LARGE) + "\r\n";
    let finish = |rig: &mut Rig, owned: &[(ClientId, usize)]| {
        for (client, own) in owned {
            let mut got = rig.sent_bytes(*own);
            for piece in body.as_bytes().chunks(50_000) {
                rig.send(*client, piece);
                got.extend(rig.sent_bytes(*own));
            }
            if got[0] == 0x80 {
                let opaque = got[12..16].try_into().unwrap();
                rig.reply(*own, Sent { opcode: 1, opaque, key: Vec::new(), value: Vec::new() }.ok());
                assert_eq!(rig.got(*client), "HD\r\n");
            } else {
                rig.reply(*own, "VERSION 1.5.16\r\nSTORED\r\n");
                assert_eq!(rig.got(*client), "STORED\r\n");
            }
        }
    };
    for _ in 0..2 {
        let mut owned = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            rig.send(*client, format!("set t{number} 0 0 {LARGE}\r\n"));
            assert!(rig.open_lanes(0) <= 2 + 3);
            owned.push((*client, rig.newest(0)));
        }
        finish(&mut rig, &owned);
        owned.clear();
        for (number, client) in clients.iter().enumerate() {
            let own = opens(&mut rig, *client, format!("ms b{number} {LARGE}\r\n"));
            assert!(rig.open_lanes(0) <= 2 + 3);
            rig.reply(own, GREETING);
            owned.push((*client, own));
        }
        finish(&mut rig, &owned);
    }
}
