//! Connections that are made anew, and the pieces in which requests are handed over to TLS.

use std::time::Duration;

use slipring::metrics::Unsecured;
use slipring::proxy::FailReason;

use super::{Rig, first, set};

/// The pieces in which what waits on a lane would be sealed, none longer than `most`.
fn records(rig: &mut Rig, lane: usize, most: usize) -> Vec<Vec<u8>> {
    let (id, now) = (rig.lanes[lane].id, rig.now());
    let mut records = Vec::new();
    while let Some((out, len)) = rig.core.upstream_record(id, most) {
        assert!((1..=most).contains(&len), "{len} of {most}");
        let record = first(out, len);
        assert_eq!(record.len(), len);
        rig.core.upstream_written(id, len, now);
        records.push(record);
    }
    records
}

#[test]
fn a_record_ends_where_a_request_does() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let small = set("s", 10);
    let large = set("l", 100);
    rig.send(client, [&small[..], &small, b"get a\r\n", &large, &small, b"delete b\r\n", &large].concat());
    let all = records(&mut rig, 0, 64);
    // The three small ones fit, the fourth is longer than a record and has its own; what stands behind it begins anew.
    let (one, two) = large.split_at(64);
    let wanted = [
        [&small[..], &small, b"get a\r\n"].concat(),
        one.to_vec(),
        two.to_vec(),
        [&small[..], b"delete b\r\n"].concat(),
    ];
    assert_eq!(all[..4], wanted);
    assert_eq!(all[4..].concat(), large);
    // Exactly as long as a record, and one byte longer.
    rig.send(client, [&small[..], &small, b"delete c\r\n"].concat());
    assert_eq!(records(&mut rig, 0, 2 * small.len()), [[&small[..], &small].concat(), b"delete c\r\n".to_vec()]);
    rig.send(client, [&small[..], &small].concat());
    assert_eq!(records(&mut rig, 0, 2 * small.len() - 1), [small.clone(), small]);
}

#[test]
fn the_rest_of_a_request_that_was_begun_goes_alone() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    let large = set("l", 100);
    rig.send(client, &large);
    let (id, now) = (rig.lanes[0].id, rig.now());
    let (_, len) = rig.core.upstream_record(id, 90).expect("it waits");
    rig.core.upstream_written(id, len, now);
    rig.send(client, "delete a\r\ndelete b\r\n");
    assert_eq!(records(&mut rig, 0, 90), [large[90..].to_vec(), b"delete a\r\ndelete b\r\n".to_vec()]);
}

#[test]
fn lanes_are_replaced_one_by_one_when_the_fresh_one_has_proved_itself() {
    let mut rig = Rig::with(1, |settings| settings.lanes = 2);
    let clients = [rig.client(), rig.client()];
    rig.send(clients[0], "set a 0 0 1\r\nx\r\n");
    rig.send(clients[1], "get b\r\n");
    assert_eq!((rig.sent(0).as_str(), rig.sent(1).as_str()), ("set a 0 0 1\r\nx\r\n", "get b\r\n"));
    rig.core.renew_lanes(rig.now());
    rig.apply();
    assert_eq!((rig.lanes(), rig.open_lanes(0), rig.state(0)), (4, 4, "up"), "the old ones owe something");
    // What is new goes by the fresh ones, behind what the same client has under way.
    rig.send(clients[0], "get a\r\n");
    rig.send(clients[1], "set b 0 0 1\r\ny\r\n");
    assert_eq!((rig.sent(0), rig.sent(1), rig.sent(2), rig.sent(3)), Default::default());
    rig.reply(0, "STORED\r\n");
    rig.reply(1, "END\r\n");
    assert_eq!(rig.open_lanes(0), 2);
    assert_eq!((rig.sent(2).as_str(), rig.sent(3).as_str()), ("get a\r\n", "set b 0 0 1\r\ny\r\n"));
    rig.reply(2, "VALUE a 0 1\r\nx\r\nEND\r\n");
    rig.reply(3, "STORED\r\n");
    assert_eq!(rig.got(clients[0]), "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(clients[1]), "END\r\nSTORED\r\n");
    // Idle ones are closed at once.
    rig.core.renew_lanes(rig.now());
    rig.apply();
    assert_eq!((rig.lanes(), rig.open_lanes(0)), (6, 2));
}

#[test]
fn a_fresh_lane_that_fails_harms_nobody_and_is_tried_again_ever_later() {
    let mut rig = Rig::new(1);
    let client = rig.client();
    rig.mute = true;
    rig.core.renew_lanes(rig.now());
    rig.apply();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let fresh = rig.newest(0);
        assert_ne!(fresh, 0);
        rig.longest_wait = Duration::ZERO;
        rig.fail(fresh, FailReason::Unsecured(Unsecured::LoginRefused));
        waits.push(rig.longest_wait.as_secs());
        assert_eq!((rig.state(0), rig.cause(0)), ("up", String::new()));
        rig.send(client, "get a\r\n");
        assert_eq!(rig.sent(0), "get a\r\n");
        rig.reply(0, "END\r\n");
        assert_eq!(rig.got(client), "END\r\n");
    }
    assert!(waits[0] >= 1 && waits[3] >= 8 && waits.is_sorted(), "{waits:?}");
    // The old one is lost: its successor is made with what is in force, and there is no more to be replaced.
    rig.mute = false;
    let fresh = rig.newest(0);
    rig.fail(0, FailReason::CutOff);
    rig.reply(fresh, "VERSION 1.6.18\r\n");
    assert_eq!((rig.open_lanes(0), rig.state(0)), (1, "up"));
}

#[test]
fn a_node_that_is_down_has_no_lane_to_be_replaced() {
    let mut rig = Rig::new(1);
    rig.mute = true;
    rig.now = 2_000_000;
    rig.core.renew_lanes(rig.now());
    rig.apply();
    // The last lane fails beyond hope while the fresh one is on its way.
    for _ in 0..20 {
        if rig.state(0) == "down" {
            break;
        }
        let lane = rig.lanes.iter().position(|lane| lane.open && lane.id == rig.lanes[0].id).unwrap_or(rig.newest(0));
        rig.fail(lane, FailReason::Connect);
    }
    assert_eq!(rig.state(0), "down");
    assert_eq!(rig.open_lanes(0), 1, "the probe alone");
    let lanes = rig.lanes();
    rig.core.renew_lanes(rig.now());
    rig.apply();
    assert_eq!(rig.lanes(), lanes);
}
