//! Clients that are not read: what they wait for ends, and whether they are still there is seen.

use std::sync::Arc;
use std::time::Duration;

use slipring::metrics::Reason;
use slipring::proxy::{ClientId, CloseReason};
use slipring::routing::{Node, Topology};

use super::{LARGE, Rig, set, value};

const MIB: usize = 1 << 20;

impl Rig {
    /// Clients that hold every own lane of a node and go on with their bodies.
    fn holders(&mut self) -> Vec<ClientId> {
        let holders: Vec<ClientId> = (0..3).map(|_| self.client()).collect();
        for holder in &holders {
            self.send(*holder, &set("held", 100 * MIB)[..100]);
        }
        holders
    }

    /// They move so many bytes each, every 100 ms.
    fn move_on(&mut self, holders: &[ClientId], bytes: usize, millis: u64) {
        for _ in 0..millis / 100 {
            for holder in holders {
                if !self.closed.contains(holder) {
                    self.send(*holder, "x".repeat(bytes));
                }
            }
            for lane in 1..self.lanes() {
                if self.is_open(lane) {
                    self.sent_bytes(lane);
                }
            }
            self.pass(100);
        }
    }

    fn unread(&self) -> Vec<ClientId> {
        let mut unread = Vec::new();
        self.core.unread_clients(&mut unread);
        unread
    }

    /// The first ring is known: one node.
    fn first_ring(&mut self) {
        self.topology = Arc::new(Topology::new(1, vec![Arc::new(Node::new("node-0", 11211, 1))]).unwrap());
        self.core.set_topology(Arc::clone(&self.topology), self.now());
        self.apply();
    }

    fn hangs_up(&mut self, client: ClientId) {
        self.core.client_hung_up(client, self.now());
        self.apply();
    }
}

#[test]
fn who_waits_and_has_sent_its_end_is_answered_after_the_queue_time_out_and_closed() {
    let mut rig = Rig::new(1);
    let holders = rig.holders();
    let (left, stays) = (rig.client(), rig.client());
    for client in [left, stays] {
        rig.send(client, [&b"get a\r\n"[..], &set("w", LARGE), b"set never 0 0 1\r\nx\r\n"].concat());
    }
    assert_eq!(rig.unread(), [left, stays]);
    // As long as holders move, one may wait.
    rig.move_on(&holders, 20_000, 1000);
    rig.sent(0);
    rig.reply(0, "END\r\nEND\r\n");
    rig.hangs_up(left);
    rig.move_on(&holders, 20_000, 200);
    assert_eq!(rig.got(left), "END\r\n", "what is on a lane is answered as ever");
    assert_eq!(rig.closed, []);
    rig.move_on(&holders, 20_000, 200);
    assert!(rig.got(left).starts_with("SERVER_ERROR proxy: "));
    assert_eq!(rig.closed, [left]);
    assert_eq!(rig.cells.closed_sum(CloseReason::Done), 1);
    assert_eq!(rig.unread(), [stays]);
    assert_eq!(rig.sent(0), "", "nothing behind it is carried out");
}

/// Nothing is in flight for it: without a tick of its own it would wait for ever.
#[test]
fn who_has_all_its_replies_and_takes_none_is_closed_in_the_end() {
    for (says_quit, hangs_up, millis) in [(true, false, 60_000), (true, true, 5000), (false, false, 5000)] {
        let mut rig = Rig::new(1);
        let client = rig.client();
        rig.send(client, "get a\r\n");
        rig.sent(0);
        rig.reply(0, [&*value("a", 1000), b"END\r\n"].concat());
        rig.core.client_blocked(client);
        if says_quit {
            rig.send(client, "quit\r\n");
        } else {
            rig.core.client_ended(client);
            rig.apply();
        }
        if hangs_up {
            rig.hangs_up(client);
        }
        rig.pass(millis - 100);
        assert_eq!(rig.closed, []);
        rig.pass(200);
        assert_eq!((&*rig.closed, rig.cells.closed_sum(CloseReason::NotReading)), (&[client][..], 1));
    }
}

#[test]
fn a_reset_of_one_that_is_not_read_frees_its_place() {
    let mut rig = Rig::new(1);
    let holders = rig.holders();
    let (gone, next) = (rig.client(), rig.client());
    rig.send(gone, &set("g", LARGE)[..100]);
    rig.send(next, &set("n", LARGE)[..100]);
    rig.core.client_gone(gone);
    rig.core.client_gone(holders[0]);
    rig.apply();
    assert!(rig.core.client_may_read(next), "the lane is its");
    assert_eq!(rig.unread(), []);
}

#[test]
fn a_full_lane_that_does_not_move_answers_who_waits_for_it_but_not_what_has_no_answer() {
    let mut rig = Rig::with(1, |settings| settings.request_timeout = Duration::from_secs(60));
    let fills = rig.client();
    while rig.core.client_may_read(fills) {
        rig.send(fills, format!("set k 0 0 100000 noreply\r\n{}\r\n", "v".repeat(100_000)));
    }
    let (reader, quiet) = (rig.client(), rig.client());
    rig.send(reader, "get a\r\nset b 0 0 1\r\nx\r\nmn\r\n");
    rig.send(quiet, "set c 0 0 1 noreply\r\nx\r\n");
    rig.pass(200);
    assert_eq!(rig.got(reader), "");
    rig.pass(800);
    assert_eq!(rig.got(reader), "END\r\nSERVER_ERROR proxy: node node-0:11211 takes no requests\r\nMN\r\n");
    assert!(rig.unread().contains(&quiet), "slowed down, not lost");
    rig.hangs_up(quiet);
    rig.pass(400);
    assert_eq!(rig.closed, [quiet], "it has left");
}

#[test]
fn a_body_that_finds_no_room_is_refused_in_the_end_and_what_lies_behind_it_is_carried_out() {
    let mut rig = Rig::with(1, |settings| settings.buffer_limit = 8 * MIB);
    let holders: Vec<ClientId> = (0..4).map(|_| rig.client()).collect();
    for holder in &holders {
        rig.send(*holder, &set("held", 900_000)[..500]);
    }
    let small = rig.client();
    let body = set("small", 900_000);
    let (first, rest) = body.split_at(500);
    rig.send(small, first);
    assert!(!rig.core.client_may_read(small));
    // At a good pace they keep their room.
    rig.move_on(&holders, 2_000, 5_000);
    assert_eq!(rig.closed, [] as [ClientId; 0]);
    rig.move_on(&holders, 2_000, 1_000);
    assert_eq!(rig.got(small), "SERVER_ERROR proxy: no room for the value in time\r\n");
    rig.send(small, [rest, b"mn\r\n"].concat());
    assert_eq!(rig.got(small), "MN\r\n");
    assert_eq!(rig.cells.soft_sum(|_, reason| reason == Reason::Memory), 1);
}

#[test]
fn a_drip_does_not_keep_what_others_wait_for() {
    // Room for a body.
    let mut rig = Rig::with(1, |settings| settings.buffer_limit = 8 * MIB);
    let holders: Vec<ClientId> = (0..4).map(|_| rig.client()).collect();
    for holder in &holders {
        rig.send(*holder, &set("held", 900_000)[..500]);
    }
    let small = rig.client();
    rig.send(small, &set("small", 900_000)[..500]);
    rig.move_on(&holders, 1, 5_300);
    assert_eq!(rig.cells.closed_sum(CloseReason::BodyStalled), 4);
    assert!(rig.core.client_may_read(small));
    // A lane.
    let mut rig = Rig::with(1, |settings| settings.queue_timeout = Duration::from_secs(30));
    let holders = rig.holders();
    let next = rig.client();
    rig.send(next, &set("n", LARGE)[..100]);
    rig.move_on(&holders[1..], 1, 4_800);
    assert_eq!(rig.closed, [] as [ClientId; 0]);
    rig.move_on(&holders[1..], 1, 800);
    assert_eq!(rig.cells.closed_sum(CloseReason::BodyStalled), 3);
    assert!(rig.core.client_may_read(next));
}

#[test]
fn after_this_process_stood_still_nobody_is_blamed() {
    let mut rig = Rig::with(1, |settings| settings.buffer_limit = 8 * MIB);
    let holders: Vec<ClientId> = (0..4).map(|_| rig.client()).collect();
    for holder in &holders {
        rig.send(*holder, &set("held", 900_000)[..500]);
    }
    let small = rig.client();
    rig.send(small, &set("small", 900_000)[..500]);
    rig.pass(100);
    // The tick that was due comes six seconds later; what clients sent meanwhile is read only then.
    rig.now += 6_000_000;
    rig.next = rig.core.tick(rig.now());
    rig.apply();
    assert_eq!(rig.closed, [] as [ClientId; 0]);
    for holder in &holders {
        rig.send(*holder, "x".repeat(70_000));
    }
    rig.pass(400);
    assert_eq!(rig.closed, [] as [ClientId; 0]);
    rig.pass(6_000);
    assert_eq!(rig.closed.len(), 4, "but the clocks run on");
}

const NO_NODE: &str = "SERVER_ERROR proxy: no node is known yet\r\n";

#[test]
fn before_the_first_ring_clients_wait_for_it() {
    let mut rig = Rig::new(0);
    let (one, other) = (rig.client(), rig.client());
    rig.send(one, "mn\r\nstats ring\r\nverbosity 1\r\nget a\r\nversion\r\n");
    assert!(rig.got(one).starts_with("MN\r\nSTAT "), "what needs no ring does not wait");
    rig.send(other, &set("b", LARGE)[..100]);
    rig.pass(200);
    assert_eq!((rig.got(one), rig.got(other)), (String::new(), String::new()));
    assert_eq!(rig.unread(), [one, other]);
    rig.first_ring();
    rig.send(other, "");
    assert_eq!(rig.unread(), []);
    assert!(rig.sent(0).contains("get a\r\n"));
    rig.reply(0, "END\r\n");
    assert!(rig.got(one).starts_with("END\r\nVERSION 1.6."));
    assert!(rig.sent(rig.lanes() - 1).starts_with("set b 0 0 "));
    rig.pass(1_000);
    assert_eq!(rig.cells.soft_sum(|_, reason| reason == Reason::NoRing), 0);
}

#[test]
fn where_the_first_ring_does_not_come_each_client_waits_once() {
    let mut rig = Rig::new(0);
    let early = rig.client();
    rig.send(early, "get a b\r\nset c 0 0 1\r\nx\r\nset d 0 0 1 noreply\r\nx\r\n");
    rig.pass(200);
    let late = rig.client();
    rig.send(late, "touch a 0\r\nflush_all\r\n");
    assert_eq!(rig.got(early), "");
    rig.pass(100);
    assert_eq!(rig.got(early), format!("END\r\n{NO_NODE}"));
    assert_eq!(rig.cells.soft_sum(|_, reason| reason == Reason::NoRing), 4);
    rig.send(early, "incr a 1\r\n");
    assert_eq!(rig.got(early), NO_NODE, "it has waited");
    assert_eq!(rig.unread(), [late], "it has not");
    rig.pass(200);
    assert_eq!(rig.got(late), format!("NOT_FOUND\r\n{NO_NODE}"));
    rig.first_ring();
    rig.send(early, "get a\r\n");
    assert_eq!(rig.sent(0), "get a\r\n");
}

#[test]
fn who_leaves_before_the_first_ring_is_let_go_and_who_ended_is_answered() {
    let mut rig = Rig::new(0);
    let (gone, ended, served) = (rig.client(), rig.client(), rig.client());
    for client in [gone, ended, served] {
        rig.send(client, "get a\r\nset b 0 0 1 noreply\r\nx\r\n");
    }
    rig.core.client_gone(gone);
    rig.hangs_up(ended);
    rig.hangs_up(served);
    assert_eq!(rig.unread(), [ended, served]);
    rig.core.client_ended(ended);
    rig.pass(300);
    assert_eq!(rig.got(ended), "END\r\n");
    assert_eq!(rig.closed, [gone, ended]);
    assert_eq!(rig.got(served), "END\r\n");
    rig.first_ring();
    assert_eq!(rig.sent(0), "");
}
