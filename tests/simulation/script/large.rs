//! Large values: shared where they fit, asked again on a lane of their reader's own where they do not.

use std::sync::Arc;

use slipring::config::OnNodeDown;
use slipring::metrics::Reason;
use slipring::proxy::ClientId;
use slipring::routing::Topology;

use super::{HUGE, LARGE, Rig, set, value};

#[test]
fn a_large_value_moves_nobody_and_is_shared() {
    let mut rig = Rig::new(1);
    let (reader, twin, other, writer) = (rig.client(), rig.client(), rig.client(), rig.client());
    rig.send(reader, "get big\r\n");
    rig.send(twin, "get big\r\n");
    rig.send(other, "get small\r\n");
    assert_eq!(rig.sent(0), "get big small\r\n");
    rig.send(writer, "set w 0 0 1\r\n1\r\n");
    rig.send(other, "get other\r\n");
    rig.sent(0);
    let reply = [value("big", LARGE), b"END\r\n".to_vec()].concat();
    let (first, rest) = reply.split_at(1000);
    rig.reply(0, first);
    rig.send(writer, "get w\r\n");
    assert_eq!(rig.sent(0), "get w\r\n");
    rig.reply(0, &rest[..rest.len() - 5]);
    rig.reply(0, "VALUE small 0 1\r\nx\r\nEND\r\nSTORED\r\nVALUE other 0 1\r\ny\r\nEND\r\nVALUE w 0 1\r\n1\r\nEND\r\n");
    assert_eq!(rig.got(other), "VALUE small 0 1\r\nx\r\nEND\r\nVALUE other 0 1\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(writer), "STORED\r\nVALUE w 0 1\r\n1\r\nEND\r\n");
    rig.pass(100);
    let held = rig.cells.sum(|cells| &cells.buffered);
    assert!(held < 2 * LARGE as u64, "{held} bytes: one copy for both");
    assert!(rig.got_bytes(reader) == reply && rig.got_bytes(twin) == reply);
    assert_eq!(rig.lanes(), 1, "no connection was made");
    rig.pass(100);
    assert_eq!(rig.cells.sum(|cells| &cells.buffered), 0);
}

#[test]
fn a_read_of_a_large_value_waits_for_what_its_client_has_for_it_on_the_other_lane() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(other, "get big\r\n");
    rig.sent(0);
    rig.reply(0, [value("big", LARGE), b"END\r\n".to_vec()].concat());
    // Known to be large: but the client's own write is on the shared lane.
    rig.send(client, "append big 0 0 1 noreply\r\nx\r\nget big\r\ndelete big\r\nget small\r\n");
    assert_eq!(rig.sent(0), "append big 0 0 1\r\nx\r\n");
    assert_eq!(rig.lanes(), 1);
    rig.reply(0, "STORED\r\n");
    let large = rig.newest(0);
    assert_eq!((large, rig.sent(large)), (1, "get big\r\n".into()));
    assert_eq!(rig.sent(0), "", "its delete waits for its read");
    let whole = [&*value("big", LARGE), b"END\r\n"].concat();
    rig.reply(large, &whole);
    assert!(rig.got_bytes(client) == whole);
    assert_eq!(rig.sent(0), "delete big\r\nget small\r\n");
    rig.reply(0, "DELETED\r\nEND\r\n");
    assert_eq!(rig.got(client), "DELETED\r\nEND\r\n");
}

#[test]
fn a_value_too_large_to_be_kept_is_read_no_faster_than_its_client_takes_it() {
    let mut rig = Rig::new(1);
    let (client, other) = (rig.client(), rig.client());
    let reply = [&*value("big", HUGE), b"END\r\n"].concat();
    for round in 0..2 {
        rig.send(client, "get big\r\n");
        rig.send(other, "get small\r\n");
        if round == 0 {
            assert_eq!(rig.sent(0), "get big small\r\n");
            // Nobody knew: it passes, for others wait behind it.
            assert!(rig.try_reply(0, &reply[..reply.len() - 5]).is_empty(), "a shared lane is paused");
        } else {
            assert_eq!(rig.sent(0), "get small\r\n", "known to find no room, it is not asked for in vain");
        }
        rig.reply(0, "END\r\n");
        assert_eq!(rig.got(other), "END\r\n");
        let own = rig.newest(0);
        assert_eq!((own, rig.sent(own)), (1, "get big\r\n".into()));
        let mut left = rig.try_reply(own, &reply);
        assert!(reply.len() - left.len() < 512 << 10, "too much waits in memory");
        let mut got = Vec::new();
        while !left.is_empty() {
            rig.woken.clear();
            got.extend(rig.got_bytes(client));
            assert!(rig.woken.contains(&rig.lanes[own].id), "never read again");
            left = rig.try_reply(own, left);
        }
        got.extend(rig.got_bytes(client));
        assert!(got == reply);
    }
}

#[test]
fn a_read_with_a_write_of_its_client_behind_it_is_not_asked_again() {
    for fails in [false, true] {
        let mut rig = Rig::with(1, |settings| {
            settings.on_node_down = if fails { OnNodeDown::Error } else { OnNodeDown::Miss };
        });
        let (client, other) = (rig.client(), rig.client());
        rig.send(client, "get a big b\r\nset big 0 0 1 noreply\r\nx\r\n");
        rig.send(other, "get big\r\n");
        rig.sent(0);
        rig.reply(0, "VALUE a 0 1\r\n1\r\n");
        rig.try_reply(0, &value("big", HUGE));
        rig.reply(0, "VALUE b 0 1\r\n2\r\nEND\r\nSTORED\r\nVALUE big 0 1\r\nx\r\nEND\r\n");
        let end = if fails { "SERVER_ERROR proxy: out of memory for the value\r\n" } else { "END\r\n" };
        assert_eq!(rig.got(client), format!("VALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n2\r\n{end}"));
        assert_eq!(rig.got(other), "VALUE big 0 1\r\nx\r\nEND\r\n");
        assert_eq!(rig.lanes(), 1, "nothing is asked again");
        assert_eq!(rig.cells.soft_sum(|_, reason| reason == Reason::Memory), 1);
    }
}

#[test]
fn slow_readers_of_their_own_lanes_let_nobody_wait_for_ever() {
    let mut rig = Rig::new(1);
    let reply = value("big", HUGE);
    let holders: Vec<ClientId> = (0..3).map(|_| rig.client()).collect();
    for (n, &holder) in holders.iter().enumerate() {
        rig.send(holder, "get big\r\n");
        if n == 0 {
            rig.sent(0);
            rig.try_reply(0, &[&*reply, b"END\r\n"].concat());
        }
        let own = rig.newest(0);
        assert_eq!((own, rig.sent(own)), (n + 1, "get big\r\n".into()));
        assert!(!rig.try_reply(own, &reply).is_empty(), "it waits for its reader");
    }
    let waiting = rig.client();
    rig.send(waiting, "get big\r\n");
    for _ in 0..10 {
        // A drip: each takes a little, and nothing is read for it.
        for &holder in &holders {
            let now = rig.now();
            rig.core.client_written(holder, 100, now);
            rig.apply();
        }
        rig.pass(100);
    }
    assert_eq!(rig.got(waiting), "END\r\n");
    assert_eq!(rig.closed, []);
}

#[test]
fn a_key_that_was_large_and_is_not_any_more_is_asked_for_as_any_other() {
    for what in ["small", "gone", "deleted"] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        let large = [value("k", LARGE), b"END\r\n".to_vec()].concat();
        rig.send(client, "get k\r\n");
        rig.sent(0);
        rig.reply(0, &large);
        rig.got_bytes(client);
        if what == "deleted" {
            rig.send(client, "delete k\r\n");
            assert_eq!(rig.sent(0), "delete k\r\n");
            rig.reply(0, "DELETED\r\n");
        } else {
            rig.send(client, "get k\r\n");
            let lane = rig.newest(0);
            assert_eq!((lane, rig.sent(lane)), (1, "get k\r\n".into()), "{what}");
            rig.reply(lane, if what == "small" { "VALUE k 0 1\r\nx\r\nEND\r\n" } else { "END\r\n" });
        }
        rig.send(client, "get k\r\n");
        assert_eq!(rig.sent(0), "get k\r\n", "{what}");
    }
}

#[test]
fn what_is_asked_twice_and_finds_no_room_is_answered_in_order() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get big small\r\nget big\r\n");
    assert_eq!(rig.sent(0), "get big small big\r\n");
    rig.try_reply(0, &value("big", HUGE));
    // It has become small: but an answer to the second read must not be older than that to the first.
    rig.reply(0, "VALUE small 0 1\r\ns\r\nVALUE big 0 1\r\n1\r\nEND\r\n");
    let own = rig.newest(0);
    assert_eq!(rig.sent(own), "get big\r\n");
    rig.send(client, "set big 0 0 1\r\nx\r\n");
    assert_eq!(rig.sent(0), "", "its write waits");
    rig.reply(own, "VALUE big 0 1\r\n2\r\nEND\r\n");
    assert_eq!(rig.sent(own), "get big\r\n");
    rig.reply(own, "VALUE big 0 1\r\n3\r\nEND\r\n");
    let told = "VALUE big 0 1\r\n2\r\nVALUE small 0 1\r\ns\r\nEND\r\nVALUE big 0 1\r\n3\r\nEND\r\n";
    assert_eq!(rig.got(client), told);
    assert_eq!(rig.sent(0), "set big 0 0 1\r\nx\r\n");
}

#[test]
fn values_of_two_nodes_that_find_no_room_are_asked_again_in_their_turn() {
    let mut rig = Rig::new(2);
    let client = rig.client();
    let (a, b) = (rig.key(0, "a"), rig.key(1, "b"));
    rig.send(client, format!("get {b} {a}\r\n"));
    rig.sent(0);
    rig.sent(1);
    let (from_a, from_b) = (value(&a, HUGE), value(&b, HUGE));
    let (from_a, from_b) = ([&*from_a, b"END\r\n"].concat(), [&*from_b, b"END\r\n"].concat());
    // The second one comes first: it holds no lane that others might need.
    rig.try_reply(0, &from_a);
    assert_eq!(rig.lanes(), 2);
    rig.try_reply(1, &from_b);
    let mut got = Vec::new();
    for (node, key, reply) in [(1, &b, &from_b), (0, &a, &from_a)] {
        let lane = rig.newest(node);
        assert_eq!(rig.sent(lane), format!("get {key}\r\n"));
        let mut left = rig.try_reply(lane, reply);
        while !left.is_empty() {
            rig.woken.clear();
            let more = rig.got_bytes(client);
            assert!(!more.is_empty() && rig.woken.contains(&rig.lanes[lane].id), "it waits");
            got.extend(more);
            left = rig.try_reply(lane, left);
        }
        got.extend(rig.got_bytes(client));
    }
    assert!(got == [&from_b[..from_b.len() - 5], &from_a].concat());
}

#[test]
fn what_was_asked_before_and_behind_a_value_that_finds_no_room_keeps_its_place() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.send(client, "get missing\r\nget big\r\nget later\r\n");
    assert_eq!(rig.sent(0), "get missing big later\r\n");
    let big = [&*value("big", HUGE), b"END\r\n"].concat();
    rig.try_reply(0, &[&big[..big.len() - 5], b"VALUE later 0 1\r\nx\r\nEND\r\n"].concat());
    let own = rig.newest(0);
    let mut left = rig.try_reply(own, &big);
    let mut got = Vec::new();
    while !left.is_empty() {
        got.extend(rig.got_bytes(client));
        left = rig.try_reply(own, left);
    }
    got.extend(rig.got_bytes(client));
    assert!(got == [b"END\r\n", &*big, b"VALUE later 0 1\r\nx\r\nEND\r\n"].concat());
}

#[test]
fn at_most_three_large_bodies_pass_to_a_node_at_once() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..7).map(|_| rig.client()).collect();
    let bodies: Vec<Vec<u8>> = (0..7).map(|i| set(&format!("{i}-k"), LARGE)).collect();
    for (i, &client) in clients.iter().enumerate() {
        rig.send(client, &bodies[i][..100]);
    }
    assert_eq!(rig.open_lanes(0), 1 + 3);
    for (i, &client) in clients.iter().enumerate() {
        assert_eq!(rig.core.client_may_read(client), i < 3, "client {i}");
    }
    // Each that ends lets the next one begin, in the order they came.
    for i in 0..7 {
        for piece in bodies[i][100..].chunks(64 << 10) {
            rig.send(clients[i], piece);
            for lane in 1..rig.lanes.len() {
                rig.write(lane, usize::MAX);
            }
        }
        let lane = (1..rig.lanes.len()).find(|&l| rig.lanes[l].sent.ends_with(&bodies[i]));
        let lane = lane.unwrap_or_else(|| panic!("body {i} is not whole"));
        rig.reply(lane, "STORED\r\n");
        assert_eq!(rig.got(clients[i]), "STORED\r\n");
        assert_eq!(rig.open_lanes(0), 1 + 3);
        for (j, &client) in clients.iter().enumerate().skip(i + 1) {
            assert_eq!(rig.core.client_may_read(client), j < i + 4, "client {j}");
        }
    }
    // Nobody needs them: they close.
    assert_eq!(rig.ticks, 1, "one tick runs");
    rig.pass(2_000);
    assert_eq!(rig.next, None);
    assert_eq!(rig.open_lanes(0), 1);
    // And the next one to be idle asks for a tick again.
    rig.send(clients[0], &bodies[0]);
    let lane = rig.newest(0);
    rig.sent(lane);
    rig.reply(lane, "STORED\r\n");
    assert_eq!(rig.ticks, 2);
}

#[test]
fn who_waits_for_a_lane_of_its_own_is_answered_when_none_gets_free() {
    let mut rig = Rig::new(1);
    // Every own lane of the node is taken by bodies that do not move.
    let holders: Vec<ClientId> = (0..3).map(|_| rig.client()).collect();
    for &client in &holders {
        rig.send(client, &set("held", LARGE)[..100]);
    }
    let (reader, writer) = (rig.client(), rig.client());
    rig.send(reader, "get big\r\nget small\r\n");
    rig.sent(0);
    rig.reply(0, [value("big", HUGE), b"VALUE small 0 1\r\nx\r\nEND\r\n".to_vec()].concat());
    rig.send(writer, [set("w", LARGE), b"mn\r\n".to_vec()].concat());
    assert_eq!(rig.open_lanes(0), 1 + 3);
    rig.pass(200);
    assert_eq!((rig.got(reader), rig.got(writer)), (String::new(), String::new()));
    rig.pass(300);
    assert_eq!(rig.got(reader), "END\r\nVALUE small 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(writer), "SERVER_ERROR proxy: node node-0:11211 has no free connection for the value\r\nMN\r\n");
    assert_eq!(rig.closed, []);
}

#[test]
fn a_body_that_waits_goes_where_its_key_lives_after_a_ring_change_and_a_read_stays() {
    let mut rig = Rig::new(2);
    let holders: Vec<(ClientId, String)> = (0..3).map(|i| (rig.client(), rig.key(0, &format!("held{i}")))).collect();
    for (client, key) in &holders {
        rig.send(*client, &set(key, LARGE)[..100]);
    }
    let (reader, writer) = (rig.client(), rig.client());
    let (read, written) = (rig.key(0, "read"), rig.key(0, "written"));
    rig.send(reader, format!("get {read}\r\n"));
    rig.sent(0);
    let reply = [&*value(&read, HUGE), b"END\r\n"].concat();
    rig.reply(0, &reply);
    let body = set(&written, LARGE);
    rig.send(writer, &body[..100]);
    assert!(!rig.core.client_may_read(writer), "it waits for a lane");

    let stays = Arc::clone(&rig.topology.nodes()[1]);
    let now = rig.now();
    rig.core.set_topology(Arc::new(Topology::new(2, vec![stays]).unwrap()), now);
    rig.apply();
    let there = rig.newest(1);
    for piece in body[100..].chunks(64 << 10) {
        assert!(rig.core.client_may_read(writer), "it goes on at once");
        rig.send(writer, piece);
        rig.write(there, usize::MAX);
    }
    assert!(rig.sent_bytes(there) == body);
    rig.reply(there, "STORED\r\n");
    assert_eq!(rig.got(writer), "STORED\r\n");

    // A part of a reply is asked where it was asked first: with the first lane that is free.
    assert_eq!(rig.got(reader), "");
    let (client, key) = &holders[0];
    let lane = (0..rig.lanes.len()).find(|&lane| rig.lanes[lane].sent.starts_with(format!("set {key} ").as_bytes()));
    let lane = lane.unwrap();
    for piece in set(key, LARGE)[100..].chunks(64 << 10) {
        rig.send(*client, piece);
        rig.write(lane, usize::MAX);
    }
    rig.reply(lane, "STORED\r\n");
    let lane = rig.newest(0);
    assert_eq!(rig.sent(lane), format!("get {read}\r\n"));
    let mut left = rig.try_reply(lane, &reply);
    let mut got = rig.got_bytes(reader);
    while !left.is_empty() {
        left = rig.try_reply(lane, left);
        got.extend(rig.got_bytes(reader));
    }
    assert!(got == reply);
    assert_eq!(rig.closed, []);
}

#[test]
fn a_client_that_ends_in_the_middle_of_a_large_value_leaves_nothing_behind() {
    for early in [false, true] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        rig.send(client, &set("k", LARGE)[..5000]);
        let bulk = rig.newest(0);
        rig.sent(bulk);
        if early {
            rig.reply(bulk, "SERVER_ERROR object too large for cache\r\n");
        }
        rig.core.client_ended(client);
        rig.apply();
        if early {
            assert_eq!(rig.got(client), "SERVER_ERROR object too large for cache\r\n");
        }
        assert_eq!(rig.closed, [client]);
        assert_eq!(rig.open_lanes(0), 1, "its lane waits for the rest");
    }
}

#[test]
fn a_large_value_that_ends_wrongly_is_never_completed() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let mut body = set("k", LARGE);
    body.truncate(body.len() - 2);
    rig.send(client, &body);
    let bulk = rig.newest(0);
    rig.write(bulk, usize::MAX);
    rig.send(client, "XYmn\r\n");
    rig.write(bulk, usize::MAX);
    assert!(!rig.is_open(bulk));
    assert_eq!(rig.lanes[bulk].sent.len(), body.len());
    assert_eq!(rig.got(client), "CLIENT_ERROR bad data chunk\r\nMN\r\n");
}

/// Four clients could hold every own lane of one node for the second value of their multiget and
/// wait for one of the other node for the first; four others the other way round.
#[test]
fn large_values_asked_for_crosswise_do_not_wait_for_each_other() {
    let mut rig = Rig::with(2, |settings| {
        settings.lanes = 2;
        settings.merge_gets = false;
    });
    let clients: Vec<ClientId> = (0..8).map(|_| rig.client()).collect();
    let (a, b) = (rig.key(0, "a"), rig.key(1, "b"));
    for (i, &client) in clients.iter().enumerate() {
        // Even and odd clients keep to different lanes.
        let (first, second) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        rig.send(client, format!("get {first} {second}\r\n"));
    }
    let mut owed: Vec<Vec<u8>> = Vec::new();
    let mut got = 0;
    for round in 0..2000 {
        for lane in 0..rig.lanes() {
            owed.resize(rig.lanes(), Vec::new());
            for line in rig.sent(lane).lines() {
                let key = line.strip_prefix("get ").unwrap();
                owed[lane].extend([&*value(key, HUGE), b"END\r\n"].concat());
            }
            // At first only what is second in a multiget is answered: the even lane of node 1 and
            // the odd one of node 0, which are 2 and 1.
            if rig.is_open(lane) && (round > 100 || lane != 0 && lane != 3) {
                let bytes = std::mem::take(&mut owed[lane]);
                owed[lane] = rig.try_reply(lane, &bytes).to_vec();
            }
        }
        for &client in &clients {
            got += rig.got_bytes(client).len();
        }
    }
    let whole = value(&a, HUGE).len() + value(&b, HUGE).len() + 5;
    assert_eq!(got, clients.len() * whole, "they wait for each other");
}

#[test]
fn thousands_of_keys_that_find_no_room_are_answered_in_order() {
    const KEYS: usize = 2_000;
    const LEN: usize = 17 << 10;
    let mut rig = Rig::with(1, |settings| {
        settings.bulk_above = 16 << 10;
        settings.buffer_limit = 8 << 20;
    });
    let client = rig.client();
    let keys: Vec<String> = (0..KEYS).map(|n| format!("k{n}")).collect();
    rig.send(client, format!("get {}\r\n", keys.join(" ")));
    let (mut got, mut again) = (Vec::new(), 0);
    loop {
        let mut moved = false;
        for lane in 0..rig.lanes() {
            let sent = rig.sent(lane);
            for line in sent.lines() {
                moved = true;
                let asked = line.strip_prefix("get ").unwrap();
                again += usize::from(lane > 0);
                for key in asked.split(' ') {
                    rig.reply(lane, value(key, LEN));
                }
                rig.reply(lane, "END\r\n");
            }
        }
        // The client takes nothing before the whole line was answered.
        let taken = if moved && again == 0 { Vec::new() } else { rig.got_bytes(client) };
        if !moved && taken.is_empty() {
            break;
        }
        got.extend(taken);
    }
    let all: Vec<u8> = keys.iter().flat_map(|key| value(key, LEN)).chain(*b"END\r\n").collect();
    assert!(got == all, "{} bytes of {}", got.len(), all.len());
    assert!(again > KEYS / 2, "only {again} were asked again");
}
