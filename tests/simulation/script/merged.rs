//! Merged gets.

use std::collections::HashMap;

use slipring::proxy::ClientId;

use super::{Rig, value};
use crate::Rng;

#[test]
fn gets_of_one_round_travel_as_one_request() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..50).map(|_| rig.client()).collect();
    for (i, &client) in clients.iter().enumerate() {
        rig.send(client, format!("get key-{i}\r\n"));
    }
    let keys: Vec<String> = (0..50).map(|i| format!(" key-{i}")).collect();
    assert_eq!(rig.sent(0), format!("get{}\r\n", keys.concat()));
    rig.reply(0, "VALUE key-3 0 1\r\nx\r\nVALUE key-49 7 2\r\nab\r\n");
    // Who has all it asked for, or is passed over, need not wait for the others.
    for (i, &client) in clients.iter().enumerate() {
        match i {
            3 => assert_eq!(rig.got(client), "VALUE key-3 0 1\r\nx\r\nEND\r\n"),
            49 => assert_eq!(rig.got(client), "VALUE key-49 7 2\r\nab\r\nEND\r\n"),
            _ => assert_eq!(rig.got(client), "END\r\n"),
        }
    }
    rig.reply(0, "END\r\n");
    assert!(clients.iter().all(|&client| rig.got(client).is_empty()));
}

#[test]
fn a_group_holds_what_was_asked_and_nothing_else() {
    let mut rng = Rng::new(5);
    for _ in 0..50 {
        let mut rig = Rig::new(1);
        let mut asked: HashMap<String, usize> = HashMap::new();
        for _ in 0..1 + rng.below(30) {
            let client = rig.client();
            let mut line = "get".to_owned();
            for _ in 0..1 + rng.below(20) {
                let key = format!("k{}", rng.below(40));
                line.push(' ');
                line.push_str(&key);
                *asked.entry(key).or_default() += 1;
            }
            line.push_str("\r\n");
            rig.send(client, line);
        }
        let sent = rig.sent(0);
        for line in sent.lines() {
            for key in line.strip_prefix("get ").unwrap().split(' ') {
                let left = asked.get_mut(key).expect("nobody asked for this");
                *left = left.checked_sub(1).expect("more often than asked");
            }
        }
        for key in asked.keys() {
            let word = |w: &str| w == key;
            assert!(sent.split_ascii_whitespace().any(word), "{key} was left out");
        }
    }
}

#[test]
fn a_key_two_clients_ask_for_in_one_round_travels_once() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get hot\r\n");
    rig.send(b, "get cold hot\r\n");
    assert_eq!(rig.sent(0), "get hot cold\r\n");
    assert_eq!(rig.count(|c| &c.coalesced_keys), 1);
    rig.reply(0, "VALUE hot 1 3\r\nabc\r\nEND\r\n");
    assert_eq!(rig.got(a), "VALUE hot 1 3\r\nabc\r\nEND\r\n");
    assert_eq!(rig.got(b), "VALUE hot 1 3\r\nabc\r\nEND\r\n");
}

#[test]
fn a_large_piece_of_a_shared_value_reaches_all_who_asked() {
    let mut rig = Rig::new(1);
    let clients: Vec<ClientId> = (0..5).map(|_| rig.client()).collect();
    for &client in &clients {
        rig.send(client, "get hot\r\n");
    }
    rig.core.client_gone(clients[2]);
    rig.sent(0);
    let reply = [&*value("hot", 50_000), b"END\r\n"].concat();
    for piece in reply.chunks(20_000) {
        rig.reply(0, piece);
    }
    for i in [0, 1, 3, 4] {
        assert_eq!(rig.got_bytes(clients[i]), reply);
    }
}

#[test]
fn a_clients_own_repeats_travel_again() {
    let mut rig = Rig::new(1);
    let a = rig.client();
    rig.send(a, "get k k\r\nget k\r\n");
    assert_eq!(rig.sent(0), "get k k k\r\n");
    rig.reply(0, "VALUE k 0 1\r\n1\r\nVALUE k 0 1\r\n2\r\nVALUE k 0 1\r\n3\r\nEND\r\n");
    assert_eq!(rig.got(a), "VALUE k 0 1\r\n1\r\nVALUE k 0 1\r\n2\r\nEND\r\nVALUE k 0 1\r\n3\r\nEND\r\n");
}

#[test]
fn only_gets_of_the_same_kind_travel_together() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a\r\n");
    rig.send(b, "gets b\r\n");
    rig.send(a, "get c\r\n");
    rig.send(b, "gat 10 d\r\n");
    rig.send(a, "gat 10 e\r\n");
    assert_eq!(rig.sent(0), "get a\r\ngets b\r\nget c\r\ngat 10 d\r\ngat 10 e\r\n");
    rig.reply(0, "END\r\nVALUE b 0 1 77\r\nx\r\nEND\r\nEND\r\nEND\r\nEND\r\n");
    assert_eq!(rig.got(a), "END\r\nEND\r\nEND\r\n");
    assert_eq!(rig.got(b), "VALUE b 0 1 77\r\nx\r\nEND\r\nEND\r\n");
}

#[test]
fn what_is_asked_behind_a_write_is_answered_behind_it() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get k\r\n");
    rig.send(b, "set k 0 0 1\r\nx\r\n");
    rig.send(a, "get k\r\n");
    rig.send(b, "get k\r\n");
    assert_eq!(rig.sent(0), "get k\r\nset k 0 0 1\r\nx\r\nget k\r\n");
    rig.reply(0, "END\r\nSTORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(a), "END\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(b), "STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn what_has_been_sent_takes_no_further_key() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a\r\n");
    rig.write(0, 3);
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a\r\nget b\r\n");
}

#[test]
fn without_merging_each_get_travels_alone() {
    let mut rig = Rig::with(1, |settings| settings.merge_gets = false);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a a2\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a a2\r\nget b\r\n");
}

#[test]
fn an_error_line_to_a_group_is_a_miss_for_all_and_stops_merging_for_a_second() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.client(), rig.client());
    rig.send(a, "get a\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a b\r\n");
    rig.reply(0, "SERVER_ERROR out of memory\r\n");
    assert_eq!(rig.got(a), "END\r\n");
    assert_eq!(rig.got(b), "END\r\n");
    assert!(rig.is_open(0), "an error line is an answer");
    // Asked alone, the error shows itself.
    rig.now += 999_999;
    rig.send(a, "get a\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a\r\nget b\r\n");
    rig.reply(0, "SERVER_ERROR out of memory\r\nVALUE b 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(a), "SERVER_ERROR out of memory\r\n");
    assert_eq!(rig.got(b), "VALUE b 0 1\r\nx\r\nEND\r\n");
    rig.now += 2;
    rig.send(a, "get a\r\n");
    rig.send(b, "get b\r\n");
    assert_eq!(rig.sent(0), "get a b\r\n");
}

#[test]
fn an_error_line_to_a_part_of_a_read_leaves_it_well_formed() {
    let mut rig = Rig::new(2);
    let client = rig.client();
    let (a, b) = (rig.key(0, "a"), rig.key(1, "b"));
    rig.send(client, format!("get {a} {b}\r\n"));
    rig.sent(0);
    rig.sent(1);
    rig.reply(0, "SERVER_ERROR busy\r\n");
    rig.reply(1, format!("VALUE {b} 0 1\r\nx\r\nEND\r\n"));
    assert_eq!(rig.got(client), format!("VALUE {b} 0 1\r\nx\r\nEND\r\n"));
}
