//! The ring before a planned change: what moved keys are asked of their new and of their old place, a script for each row of
//! the table in `src/proxy/handoff.rs`, and for reads.

use std::sync::Arc;

use slipring::config::OnNodeDown;
use slipring::proxy::{FailReason, Settings};
use slipring::routing::{Before, Phase, Topology};

use super::binary_lanes::{GREETING, NOOP};
use super::{LARGE, Rig, set, value};

/// The lanes of the old and of the new pool: every key has moved.
const OLD: usize = 0;
const NEW: usize = 1;

const TWO_PLACES: &str = "SERVER_ERROR proxy: not possible for a key with an old place (--nodes-before)\r\n";

impl Rig {
    /// All keys have moved from node 0 to node 1.
    fn moved_with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut rig = Self::with(2, change);
        rig.before = Some(Arc::new(Before::new(rig.part(&[0]), Phase::Reading)));
        rig.declare(Phase::Reading);
        rig
    }

    fn moved() -> Self {
        Self::moved_with(|_| {})
    }

    fn part(&self, nodes: &[usize]) -> Topology {
        let nodes = nodes.iter().map(|node| Arc::clone(&self.topology.nodes()[*node])).collect();
        Topology::new(self.core.topology().version() + 1, nodes).unwrap()
    }

    fn declare(&mut self, phase: Phase) {
        let before = Arc::new(self.before.as_ref().unwrap().in_phase(phase));
        let topology = self.part(&[1]).with_before(Some(Arc::clone(&before)));
        self.before = Some(before);
        let now = self.now();
        self.core.set_topology(Arc::new(topology), now);
        self.apply();
    }

    /// What both nodes have got since the last look: old, new.
    fn both(&mut self) -> [String; 2] {
        [self.sent(OLD), self.sent(NEW)]
    }

    /// One node is asked this and answers; the other is asked nothing.
    #[track_caller]
    fn asked(&mut self, lane: usize, line: &str, answer: &str) {
        let both = self.both();
        assert_eq!(both[lane], line);
        assert_eq!(both[1 - lane], "", "the other place");
        self.reply(lane, answer);
    }

    fn before_reads(&self) -> [u64; 3] {
        [0, 1, 2].map(|i| self.count(|c| &c.before_reads[i]))
    }

    fn before_writes(&self) -> [u64; 2] {
        [0, 1].map(|i| self.count(|c| &c.before_writes[i]))
    }

    fn has_reads_ended(&self) -> bool {
        self.before.as_ref().unwrap().node(slipring::routing::NodeIndex(0)).unwrap().has_reads_ended()
    }
}

#[test]
fn a_read_that_misses_is_asked_of_the_old_place_in_the_same_place_of_the_reply() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "get a b c\r\nmn\r\n");
    rig.asked(NEW, "get a b c\r\n", "VALUE b 0 1\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(client), "");
    rig.asked(OLD, "get a c\r\n", "VALUE c 0 1\r\nz\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE b 0 1\r\ny\r\nVALUE c 0 1\r\nz\r\nEND\r\nMN\r\n");
    assert_eq!(rig.both(), ["", ""]);
    assert_eq!(rig.before_reads(), [1, 1, 0]);
}

#[test]
fn reads_of_many_clients_stay_merged_at_the_old_place_and_a_hot_key_travels_once() {
    let mut rig = Rig::moved();
    let clients = [rig.client(), rig.client(), rig.client()];
    for (client, keys) in clients.into_iter().zip(["hot", "cold", "hot"]) {
        rig.send(client, format!("get {keys}\r\n"));
    }
    rig.asked(NEW, "get hot cold\r\n", "END\r\n");
    rig.asked(OLD, "get hot cold\r\n", "VALUE hot 0 1\r\nx\r\nEND\r\n");
    assert_eq!(
        clients.map(|client| rig.got(client)),
        ["VALUE hot 0 1\r\nx\r\nEND\r\n", "END\r\n", "VALUE hot 0 1\r\nx\r\nEND\r\n"]
    );
}

#[test]
fn a_meta_read_that_misses_is_asked_of_the_old_place() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "mg a v k O1\r\nmg b v q\r\nmg c s\r\nmn\r\n");
    rig.asked(NEW, "mg a v k O1\r\nmg b v\r\nmg c s\r\n", "EN ka O1\r\nEN\r\nEN\r\n");
    rig.asked(OLD, "mg a v k O1\r\nmg b v\r\nmg c s\r\n", "VA 1 ka O1\r\nx\r\nEN\r\nHD s3\r\n");
    assert_eq!(rig.got(client), "VA 1 ka O1\r\nx\r\nHD s3\r\nMN\r\n");
}

#[test]
fn a_large_value_streams_from_the_old_place() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "get a\r\n");
    rig.asked(NEW, "get a\r\n", "END\r\n");
    let large = value("a", LARGE);
    assert_eq!(rig.sent(OLD), "get a\r\n");
    rig.reply(OLD, &large);
    rig.reply(OLD, "END\r\n");
    assert!(rig.got_bytes(client) == [&*large, b"END\r\n"].concat());
    // It is known to be large now: that does not keep it from being found.
    rig.send(client, "get a\r\n");
    let lane = rig.newest(1);
    assert_eq!(rig.sent(lane), "get a\r\n");
    rig.reply(lane, "END\r\n");
    assert_eq!(rig.sent(OLD), "get a\r\n");
    rig.reply(OLD, "VALUE a 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE a 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_failed_read_is_not_asked_of_the_old_place() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "get a\r\n");
    rig.asked(NEW, "get a\r\n", "SERVER_ERROR out of memory writing get response\r\n");
    assert_eq!(rig.got(client), "SERVER_ERROR out of memory writing get response\r\n");
    rig.send(client, "get a\r\n");
    rig.sent(NEW);
    rig.pass(1000);
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.sent(OLD), "");
}

#[test]
fn an_old_place_that_is_silent_or_down_is_a_miss() {
    for (policy, told) in [
        (OnNodeDown::Miss, "END\r\n"),
        (OnNodeDown::Error, "SERVER_ERROR proxy: node node-0:11211 did not answer in time\r\n"),
    ] {
        let mut rig = Rig::moved_with(|settings| settings.on_node_down = policy);
        let client = rig.client();
        rig.send(client, "get a\r\n");
        rig.asked(NEW, "get a\r\n", "END\r\n");
        assert_eq!(rig.sent(OLD), "get a\r\n");
        rig.pass(700);
        assert_eq!(rig.got(client), told);
        assert_eq!(rig.before_reads(), [0, 0, 1]);
        assert!(!rig.has_reads_ended(), "nothing was lost there");
    }
}

#[test]
fn a_set_is_answered_when_the_old_place_has_dropped_its_value() {
    for (answer, told) in [
        ("STORED\r\n", "STORED\r\n"),
        ("SERVER_ERROR out of memory storing object\r\n", "SERVER_ERROR out of memory storing object\r\n"),
    ] {
        let mut rig = Rig::moved();
        let client = rig.client();
        rig.send(client, "set a 0 0 1\r\nx\r\n");
        rig.asked(NEW, "set a 0 0 1\r\nx\r\n", answer);
        assert_eq!(rig.got(client), "");
        rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
        assert_eq!(rig.got(client), told);
        assert_eq!(rig.before_writes(), [1, 0]);
    }
}

#[test]
fn a_meta_set_and_a_quiet_one_drop_the_old_value_too() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "ms a 1 c O1\r\nx\r\n");
    rig.asked(NEW, "ms a 1 c O1\r\nx\r\n", "HD c7 O1\r\n");
    rig.asked(OLD, "delete a\r\n", "NOT_FOUND\r\n");
    assert_eq!(rig.got(client), "HD c7 O1\r\n");
    rig.send(client, "ms AAE= 1 b q\r\nx\r\nmn\r\n");
    rig.asked(NEW, "ms AAE= 1 b\r\nx\r\n", "HD\r\n");
    rig.asked(OLD, "md AAE= b\r\n", "NF\r\n");
    rig.send(client, "set b 0 0 1 noreply\r\nx\r\nget b\r\n");
    rig.asked(NEW, "set b 0 0 1\r\nx\r\n", "STORED\r\n");
    // The read waits until both places have answered.
    rig.asked(OLD, "delete b\r\n", "DELETED\r\n");
    rig.asked(NEW, "get b\r\n", "VALUE b 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(client), "MN\r\nVALUE b 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_lost_invalidation_is_an_error_and_ends_the_reads_from_there() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "set a 0 0 1\r\nx\r\n");
    rig.asked(NEW, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    assert_eq!(rig.sent(OLD), "delete a\r\n");
    rig.pass(700);
    assert_eq!(rig.got(client), "SERVER_ERROR proxy: node node-0:11211 did not answer in time\r\n");
    assert!(rig.has_reads_ended());
    assert_eq!(rig.before_writes(), [0, 1]);
    assert_eq!(rig.cells.before_reads_ended().find(|(reason, _)| *reason == "timeout"), Some(("timeout", 1)));
    rig.reply(OLD, "DELETED\r\n");
    rig.send(client, "get b\r\nincr b 1\r\n");
    rig.asked(NEW, "get b\r\nincr b 1\r\n", "END\r\nNOT_FOUND\r\n");
    assert_eq!(rig.got(client), "END\r\nNOT_FOUND\r\n");
    // Invalidations go on.
    rig.send(client, "set a 0 0 1\r\ny\r\n");
    rig.asked(NEW, "set a 0 0 1\r\ny\r\n", "STORED\r\n");
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
}

#[test]
fn a_set_that_timed_out_drops_the_old_value_all_the_same() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "set a 0 0 1\r\nx\r\n");
    rig.sent(NEW);
    rig.pass(700);
    assert_eq!(rig.got(client), "");
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    assert_eq!(rig.got(client), "SERVER_ERROR proxy: node node-1:11211 did not answer in time\r\n");
}

#[test]
fn a_set_of_a_client_that_has_left_drops_the_old_value_all_the_same() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "set a 0 0 1\r\nx\r\n");
    rig.core.client_gone(client);
    rig.asked(NEW, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    assert_eq!(rig.before_writes(), [1, 0]);
}

#[test]
fn a_large_set_streams_and_drops_the_old_value() {
    let mut rig = Rig::moved();
    let client = rig.client();
    let request = set("a", LARGE);
    rig.send(client, &request);
    let lane = rig.newest(1);
    assert!(rig.sent_bytes(lane) == request);
    rig.reply(lane, "STORED\r\n");
    assert_eq!(rig.got(client), "");
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
    // What would be needed twice cannot be so large.
    let append = [b"append", request.strip_prefix(b"set").unwrap()].concat();
    rig.send(client, append);
    assert_eq!(rig.got(client), TWO_PLACES);
    assert_eq!(rig.both(), ["", ""]);
}

#[test]
fn a_delete_goes_to_both_places_and_is_done_when_both_have_answered() {
    for (new, old, told) in [
        ("DELETED", "NOT_FOUND", "DELETED"),
        ("NOT_FOUND", "DELETED", "DELETED"),
        ("NOT_FOUND", "NOT_FOUND", "NOT_FOUND"),
        ("DELETED", "SERVER_ERROR x", "SERVER_ERROR x"),
        ("SERVER_ERROR x", "DELETED", "SERVER_ERROR x"),
    ] {
        for first in [OLD, NEW] {
            let mut rig = Rig::moved();
            let client = rig.client();
            rig.send(client, "delete a\r\n");
            assert_eq!(rig.both(), ["delete a\r\n", "delete a\r\n"]);
            let answers = [old, new];
            rig.reply(first, format!("{}\r\n", answers[first]));
            assert_eq!(rig.got(client), "");
            rig.reply(1 - first, format!("{}\r\n", answers[1 - first]));
            assert_eq!(rig.got(client), format!("{told}\r\n"));
            assert_eq!(rig.has_reads_ended(), old.starts_with("SERVER"));
        }
    }
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "md a k O1 I T30\r\n");
    assert_eq!(rig.both(), ["md a k O1 I T30\r\n", "md a k O1 I T30\r\n"]);
    rig.reply(OLD, "HD ka O1\r\n");
    rig.reply(NEW, "NF ka O1\r\n");
    assert_eq!(rig.got(client), "HD ka O1\r\n");
}

#[test]
fn an_add_is_looked_up_at_the_old_place_first() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "add a 0 0 1\r\nx\r\n");
    rig.asked(OLD, "mg a s\r\n", "HD s1\r\n");
    assert_eq!(rig.got(client), "NOT_STORED\r\n");
    rig.send(client, "add a 0 0 1\r\nx\r\n");
    rig.asked(OLD, "mg a s\r\n", "EN\r\n");
    rig.asked(NEW, "add a 0 0 1\r\nx\r\n", "STORED\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
    rig.send(client, "ms a 1 ME k O1 c\r\nx\r\n");
    rig.asked(OLD, "mg a s\r\n", "HD s1\r\n");
    assert_eq!(rig.got(client), "NS ka O1 c0\r\n");
    // A look-up that is lost goes no further.
    rig.send(client, "add a 0 0 1\r\nx\r\n");
    assert_eq!(rig.sent(OLD), "mg a s\r\n");
    rig.pass(700);
    assert_eq!(rig.got(client), "SERVER_ERROR proxy: node node-0:11211 did not answer in time\r\n");
    assert_eq!(rig.sent(NEW), "");
    assert!(!rig.has_reads_ended(), "nothing was to be invalidated");
}

#[test]
fn what_needs_an_old_value_is_done_where_it_is() {
    for (request, missing, done) in [
        ("incr a 1\r\n", "NOT_FOUND\r\n", "8\r\n"),
        ("touch a 30\r\n", "NOT_FOUND\r\n", "TOUCHED\r\n"),
        ("append a 0 0 1\r\nx\r\n", "NOT_STORED\r\n", "STORED\r\n"),
        ("replace a 0 0 1\r\nx\r\n", "NOT_STORED\r\n", "STORED\r\n"),
        ("ms a 1 MA\r\nx\r\n", "NS\r\n", "HD\r\n"),
        ("ma a D3\r\n", "NF\r\n", "HD\r\n"),
    ] {
        let mut rig = Rig::moved();
        let client = rig.client();
        rig.send(client, request);
        rig.asked(NEW, request, done);
        assert_eq!(rig.got(client), done);
        rig.send(client, request);
        rig.asked(NEW, request, missing);
        rig.asked(OLD, request, done);
        assert_eq!(rig.got(client), done);
        rig.send(client, request);
        rig.asked(NEW, request, missing);
        rig.asked(OLD, request, missing);
        rig.asked(NEW, request, missing);
        assert_eq!(rig.got(client), missing);
        // An old place that does not answer: nobody knows, and nothing is done twice.
        rig.send(client, request);
        rig.asked(NEW, request, missing);
        assert_eq!(rig.sent(OLD), request);
        rig.pass(700);
        let told = rig.got(client);
        assert!(
            if request.starts_with("touch") { told == missing } else { told.starts_with("SERVER_ERROR") },
            "{told}"
        );
        assert_eq!(rig.sent(NEW), "", "{request}");
    }
}

#[test]
fn what_creates_what_is_missing_does_so_last() {
    let mut rig = Rig::moved();
    let client = rig.client();
    for request in ["ma a N30 J5 D2 v c\r\n", "ma a N30 J5 D2\r\n"] {
        let bare = request.replace(" N30 J5", "");
        rig.send(client, request);
        rig.asked(NEW, &bare, "NF\r\n");
        rig.asked(OLD, &bare, "NF\r\n");
        let done = if request.contains('v') { "VA 1 c9\r\n5\r\n" } else { "HD\r\n" };
        rig.asked(NEW, request, done);
        assert_eq!(rig.got(client), done);
    }
    rig.send(client, "mg a v N30\r\nget a\r\n");
    rig.asked(NEW, "mg a v\r\n", "EN\r\n");
    rig.asked(OLD, "mg a v\r\n", "EN\r\n");
    rig.asked(NEW, "mg a v N30\r\n", "VA 0 W\r\n\r\n");
    // The next for this key waited.
    rig.asked(NEW, "get a\r\n", "VALUE a 0 0\r\n\r\nEND\r\n");
    assert_eq!(rig.got(client), "VA 0 W\r\n\r\nVALUE a 0 0\r\n\r\nEND\r\n");
    rig.send(client, "gat 30 a\r\n");
    rig.asked(NEW, "gat 30 a\r\n", "END\r\n");
    rig.asked(OLD, "gat 30 a\r\n", "END\r\n");
    rig.asked(NEW, "gat 30 a\r\n", "END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
}

#[test]
fn uniques_of_the_old_place_are_marked_and_name_it() {
    let mut rig = Rig::moved();
    let tag = rig.before.as_ref().unwrap().tag();
    let marked = 7 | 1 << 52 | u64::from(tag) << 48;
    let client = rig.client();
    rig.send(client, "gets a\r\nmg a v c\r\nmg a c\r\n");
    rig.asked(NEW, "gets a\r\nmg a v c\r\nmg a c\r\n", "END\r\nEN\r\nEN\r\n");
    rig.asked(OLD, "gets a\r\nmg a v c\r\nmg a c\r\n", "VALUE a 0 1 7\r\nx\r\nEND\r\nVA 1 c7\r\nx\r\nHD c7\r\n");
    assert_eq!(rig.got(client), format!("VALUE a 0 1 {marked}\r\nx\r\nEND\r\nVA 1 c{marked}\r\nx\r\nHD c{marked}\r\n"));
    rig.send(client, format!("cas a 0 0 1 {marked}\r\ny\r\n"));
    rig.asked(NEW, "mg a s\r\n", "EN\r\n");
    rig.asked(OLD, "cas a 0 0 1 7\r\ny\r\n", "STORED\r\n");
    rig.send(client, format!("ms a 1 C{marked} c\r\ny\r\n"));
    rig.asked(NEW, "mg a s\r\n", "EN\r\n");
    rig.asked(OLD, "ms a 1 C7 c\r\ny\r\n", "HD c8\r\n");
    assert_eq!(rig.got(client), format!("STORED\r\nHD c{}\r\n", marked + 1));
    // The new place has another value: nobody would read what is changed at the old.
    rig.send(client, format!("cas a 0 0 1 {marked}\r\ny\r\n"));
    rig.asked(NEW, "mg a s\r\n", "HD s1\r\n");
    assert_eq!(rig.got(client), "EXISTS\r\n");
    // It has gone from there: what is at the new place is another value.
    for (found, told) in [("HD s1\r\n", "EXISTS\r\n"), ("EN\r\n", "NOT_FOUND\r\n")] {
        rig.send(client, format!("cas a 0 0 1 {marked}\r\ny\r\n"));
        rig.asked(NEW, "mg a s\r\n", "EN\r\n");
        rig.asked(OLD, "cas a 0 0 1 7\r\ny\r\n", "NOT_FOUND\r\n");
        rig.asked(NEW, "mg a s\r\n", found);
        assert_eq!(rig.got(client), told);
    }
    // What appends says it in another way than what replaces.
    rig.send(client, format!("ms a 1 MA C{marked} k\r\ny\r\n"));
    rig.asked(NEW, "mg a s\r\n", "EN\r\n");
    rig.asked(OLD, "ms a 1 MA C7 k\r\ny\r\n", "NS ka\r\n");
    rig.asked(NEW, "mg a s\r\n", "EN\r\n");
    assert_eq!(rig.got(client), "NS ka\r\n");
    // What creates does so where nothing is, at the new place.
    rig.send(client, format!("ma a C{marked} N0 J3\r\n"));
    rig.asked(NEW, "mg a s\r\n", "EN\r\n");
    rig.asked(OLD, "ma a C7\r\n", "NF\r\n");
    rig.asked(NEW, "mg a s\r\n", "EN\r\n");
    rig.asked(NEW, &format!("ma a C{marked} N0 J3\r\n"), "HD\r\n");
    assert_eq!(rig.got(client), "HD\r\n");
    // Those of the new place, and of a ring that is no more.
    rig.send(client, "cas a 0 0 1 7\r\ny\r\n");
    rig.asked(NEW, "cas a 0 0 1 7\r\ny\r\n", "EXISTS\r\n");
    let other = marked ^ 1 << 48;
    rig.send(client, format!("cas a 0 0 1 {other}\r\ny\r\n"));
    assert_eq!(rig.got(client), "EXISTS\r\nEXISTS\r\n");
    // One that has no room for the mark is a miss.
    rig.send(client, "gets a\r\n");
    rig.asked(NEW, "gets a\r\n", "END\r\n");
    rig.asked(OLD, "gets a\r\n", format!("VALUE a 0 1 {}\r\nx\r\nEND\r\n", 1_u64 << 48).as_str());
    assert_eq!(rig.got(client), "END\r\n");
    // A delete for a unique of the new place.
    rig.send(client, "md a C7\r\n");
    rig.asked(NEW, "md a C7\r\n", "HD\r\n");
    rig.asked(OLD, "delete a\r\n", "NOT_FOUND\r\n");
    rig.send(client, "md a C7\r\n");
    rig.asked(NEW, "md a C7\r\n", "EX\r\n");
    assert_eq!(rig.got(client), "HD\r\nEX\r\n");
    assert_eq!(rig.both(), ["", ""]);
}

#[test]
fn a_unique_of_the_new_place_is_another_one_where_only_the_old_has_the_key() {
    for (request, missing, exists, done) in [
        ("cas a 0 0 1 7\r\ny\r\n", "NOT_FOUND\r\n", "EXISTS\r\n", "STORED\r\n"),
        ("ms a 1 k C7\r\ny\r\n", "NF ka\r\n", "EX ka\r\n", "HD ka\r\n"),
        ("ma a C7\r\n", "NF\r\n", "EX\r\n", "HD\r\n"),
        ("md a C7\r\n", "NF\r\n", "EX\r\n", "HD\r\n"),
    ] {
        let mut rig = Rig::moved();
        let client = rig.client();
        let invalidated = |rig: &mut Rig| {
            if request.starts_with("md") {
                rig.asked(OLD, "delete a\r\n", "NOT_FOUND\r\n");
            }
        };
        rig.send(client, request);
        rig.asked(NEW, request, done);
        invalidated(&mut rig);
        assert_eq!(rig.got(client), done);
        rig.send(client, request);
        rig.asked(NEW, request, missing);
        rig.asked(OLD, "mg a s\r\n", "HD s1\r\n");
        assert_eq!(rig.got(client), exists);
        // What was stored at the new place meanwhile is found there.
        for (last, deletes) in [(missing, false), (exists, false), (done, true)] {
            rig.send(client, request);
            rig.asked(NEW, request, missing);
            rig.asked(OLD, "mg a s\r\n", "EN\r\n");
            rig.asked(NEW, request, last);
            if deletes {
                invalidated(&mut rig);
            }
            assert_eq!(rig.got(client), last);
        }
        rig.send(client, request);
        rig.asked(NEW, request, missing);
        assert_eq!(rig.sent(OLD), "mg a s\r\n");
        rig.pass(700);
        assert_eq!(rig.got(client), "SERVER_ERROR proxy: node node-0:11211 did not answer in time\r\n");
        assert_eq!(rig.both(), ["", ""], "nothing is done twice");
        assert!(!rig.has_reads_ended());
        rig.reply(OLD, "EN\r\n");
        // What nobody reads there any more is not there.
        rig.declare(Phase::Ending);
        rig.send(client, request);
        rig.asked(NEW, request, missing);
        assert_eq!(rig.got(client), missing);
        assert_eq!(rig.both(), ["", ""]);
    }
}

#[test]
fn the_requests_of_a_client_for_a_key_keep_their_order() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "get a\r\nset a 0 0 1\r\nx\r\nget a\r\nget b\r\n");
    rig.asked(NEW, "get a\r\n", "END\r\n");
    // The write waits for the read, which is asked at the old place still.
    rig.asked(OLD, "get a\r\n", "VALUE a 0 1\r\no\r\nEND\r\n");
    rig.asked(NEW, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    rig.asked(NEW, "get a b\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
    rig.asked(OLD, "get b\r\n", "END\r\n");
    assert_eq!(rig.got(client), "VALUE a 0 1\r\no\r\nEND\r\nSTORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nEND\r\n");
    // Others do not wait.
    let other = rig.client();
    rig.send(client, "incr a 1\r\n");
    rig.send(other, "get a\r\n");
    assert_eq!(rig.sent(NEW), "incr a 1\r\nget a\r\n");
}

#[test]
fn a_bulk_of_quiet_sets_is_under_way_at_the_same_time() {
    let mut rig = Rig::moved();
    let client = rig.client();
    let all: String = (0..300).map(|n| format!("set k{n} 0 0 1 noreply\r\nx\r\n")).collect();
    rig.send(client, &all);
    let first = rig.sent(NEW);
    assert_eq!(first.matches("set ").count(), 256);
    rig.reply(NEW, "STORED\r\n".repeat(256));
    assert_eq!(rig.sent(OLD).matches("delete ").count(), 256);
    rig.reply(OLD, "NOT_FOUND\r\n".repeat(256));
    assert_eq!(rig.sent(NEW).matches("set ").count(), 44);
}

#[test]
fn an_old_node_that_is_down_fails_the_writes_and_misses_the_reads() {
    let mut rig = Rig::moved();
    rig.mute = true;
    let client = rig.client();
    rig.fail(OLD, FailReason::Silent);
    rig.pass(1000);
    let down = rig.newest(0);
    rig.send(client, "set a 0 0 1\r\nx\r\ndelete a\r\nadd a 0 0 1\r\nx\r\n");
    assert_eq!(rig.got(client).matches("SERVER_ERROR proxy: node node-0:11211 ").count(), 3);
    assert_eq!(rig.sent(NEW), "", "nothing is begun that cannot be ended");
    rig.send(client, "get a\r\nincr a 1\r\n");
    assert_eq!(rig.sent(NEW), "get a\r\n");
    rig.reply(NEW, "END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.sent(NEW), "incr a 1\r\n");
    rig.reply(NEW, "NOT_FOUND\r\n");
    assert!(rig.got(client).starts_with("SERVER_ERROR"));
    assert!(!rig.sent(down).contains("delete"));
}

#[test]
fn an_old_node_that_refuses_is_no_place_any_more() {
    let mut rig = Rig::moved();
    rig.mute = true;
    let client = rig.client();
    rig.send(client, "incr a 1\r\n");
    rig.asked(NEW, "incr a 1\r\n", "NOT_FOUND\r\n");
    rig.sent(OLD);
    rig.fail(OLD, FailReason::Connect);
    // It was under way there: what it had is gone, and so the new place is asked once more.
    rig.asked(NEW, "incr a 1\r\n", "NOT_FOUND\r\n");
    assert_eq!(rig.got(client), "NOT_FOUND\r\n");
    rig.send(client, "get a\r\nset a 0 0 1\r\nx\r\ndelete a\r\n");
    assert_eq!(rig.sent(NEW), "get a\r\nset a 0 0 1\r\nx\r\ndelete a\r\n");
    rig.reply(NEW, "END\r\nSTORED\r\nDELETED\r\n");
    assert_eq!(rig.got(client), "END\r\nSTORED\r\nDELETED\r\n");
}

/// Other sidecars knew the ring before by then, took what the node had as gone, and left no delete there.
#[test]
fn an_old_node_that_refused_shortly_before_its_ring_was_declared_is_no_place_either() {
    for (minutes, is_place) in [(4, false), (6, true)] {
        let mut rig = Rig::with(2, |_| {});
        rig.fail(OLD, FailReason::Connect);
        rig.pass(minutes * 60_000);
        rig.before = Some(Arc::new(Before::new(rig.part(&[0]), Phase::Reading)));
        rig.declare(Phase::Reading);
        let (client, old) = (rig.client(), rig.newest(0));
        rig.sent(old);
        rig.send(client, "get a\r\n");
        rig.asked(NEW, "get a\r\n", "END\r\n");
        assert_eq!(rig.sent(old), if is_place { "get a\r\n" } else { "" });
        assert_eq!(rig.got(client), if is_place { "" } else { "END\r\n" });
    }
}

/// The value at the old place is neither hidden by one that is made anew, nor is one made beside what the new place has.
#[test]
fn a_conditional_request_that_creates_does_so_only_where_nothing_is() {
    for last in ["HD\r\n", "EX\r\n"] {
        let mut rig = Rig::moved();
        let client = rig.client();
        rig.send(client, "ma a C9 N0 J5 c\r\n");
        rig.asked(NEW, "ma a C9 c\r\n", "NF\r\n");
        rig.asked(OLD, "mg a s\r\n", "HD s1\r\n");
        // Of these memcached tells no unique.
        assert_eq!(rig.got(client), "EX\r\n");
        rig.send(client, "ma a C9 N0 J5\r\n");
        rig.asked(NEW, "ma a C9\r\n", "NF\r\n");
        rig.asked(OLD, "mg a s\r\n", "EN\r\n");
        rig.asked(NEW, "ma a C9 N0 J5\r\n", last);
        assert_eq!(rig.got(client), last);
        assert_eq!(rig.both(), ["", ""]);
    }
    let mut rig = Rig::moved();
    let client = rig.client();
    // That names a unique of the old place.
    rig.send(client, "mg a c\r\n");
    rig.asked(NEW, "mg a c\r\n", "EN\r\n");
    rig.asked(OLD, "mg a c\r\n", "HD c7\r\n");
    let told = rig.got(client);
    let marked = told.trim().strip_prefix("HD c").unwrap();
    rig.send(client, format!("ma a C{marked} N0 J5\r\n"));
    rig.asked(NEW, "mg a s\r\n", "EN\r\n");
    rig.asked(OLD, "ma a C7\r\n", "NF\r\n");
    rig.asked(NEW, "mg a s\r\n", "HD s1\r\n");
    assert_eq!(rig.got(client), "EX\r\n");
    // A lock is held wherever it is, whatever unique is named.
    for unique in ["9", marked] {
        rig.send(client, format!("ms a 1 ME C{unique}\r\nx\r\n"));
        rig.asked(OLD, "mg a s\r\n", "HD s1\r\n");
        assert_eq!(rig.got(client), "NS\r\n");
    }
    // With its answer it cannot be kept for another step.
    rig.send(client, "ma a v C9 N0 J5\r\n");
    assert_eq!(rig.got(client), TWO_PLACES);
    assert_eq!(rig.both(), ["", ""]);
    // Once nothing is read there it is as with one place, and leaves nothing older.
    rig.declare(Phase::Ending);
    rig.send(client, "ma a C9 N0 J5\r\n");
    rig.asked(NEW, "ma a C9\r\n", "NF\r\n");
    rig.asked(NEW, "ma a C9 N0 J5\r\n", "HD\r\n");
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    assert_eq!(rig.got(client), "HD\r\n");
}

/// Such a request travels as a read does, and keeps no line of its own.
#[test]
fn a_conditional_count_that_is_answered_by_its_value_exists_where_only_the_old_place_has_the_key() {
    let other = u64::MAX;
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "ma a v C9 T30 c O1\r\n");
    rig.asked(NEW, "ma a v C9 T30 c O1\r\n", "NF O1\r\n");
    rig.asked(OLD, &format!("ma a v C{other} T30 c O1\r\n"), "EX O1\r\n");
    assert_eq!(rig.got(client), "EX O1\r\n");
    // What was made at the new place meanwhile is found there.
    rig.send(client, "ma a v C9\r\nmg a v\r\n");
    rig.asked(NEW, "ma a v C9\r\n", "NF\r\n");
    rig.asked(OLD, &format!("ma a v C{other}\r\n"), "NF\r\n");
    rig.asked(NEW, "ma a v C9\r\n", "VA 1\r\n6\r\n");
    rig.asked(NEW, "mg a v\r\n", "VA 1\r\n6\r\n");
    assert_eq!(rig.got(client), "VA 1\r\n6\r\nVA 1\r\n6\r\n");
    // Once nothing is read there it is as with one place.
    rig.declare(Phase::Ending);
    rig.send(client, "ma a v C9\r\n");
    rig.asked(NEW, "ma a v C9\r\n", "NF\r\n");
    assert_eq!(rig.got(client), "NF\r\n");
    assert_eq!(rig.both(), ["", ""]);
}

#[test]
fn what_the_old_place_refuses_for_what_it_is_counts_as_no_lost_write() {
    let mut rig = Rig::moved();
    let client = rig.client();
    let refused = "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
    rig.send(client, "incr a 1\r\n");
    rig.asked(NEW, "incr a 1\r\n", "NOT_FOUND\r\n");
    rig.asked(OLD, "incr a 1\r\n", refused);
    assert_eq!(rig.got(client), refused);
    assert_eq!(rig.before_writes(), [1, 0]);
}

#[test]
fn what_memcached_takes_for_no_condition_is_none_here() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "mg a v C9\r\n");
    rig.asked(NEW, "mg a v C9\r\n", "EN\r\n");
    rig.asked(OLD, "mg a v C9\r\n", "VA 1\r\nx\r\n");
    assert_eq!(rig.got(client), "VA 1\r\nx\r\n");
    for (request, missing) in [("ma a C0\r\n", "NF\r\n"), ("ms a 1 MA C0\r\nx\r\n", "NS\r\n")] {
        rig.send(client, request);
        rig.asked(NEW, request, missing);
        rig.asked(OLD, request, "HD\r\n");
        assert_eq!(rig.got(client), "HD\r\n");
    }
}

/// The old node has no meta commands: what packets cannot say is not put on its lane, where it would stand before others'.
#[test]
fn a_read_that_the_old_node_cannot_be_asked_is_a_miss_at_once() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.mute = true;
    rig.fail(OLD, FailReason::Closed);
    let text = rig.newest(0);
    assert_eq!(rig.sent(text), "version\r\n");
    rig.reply(text, "VERSION 1.5.16\r\n");
    rig.send(client, "mg b v\r\n");
    let packets = rig.newest(0);
    assert_eq!(rig.sent_bytes(packets), NOOP);
    rig.reply(packets, GREETING);
    assert_eq!(rig.sent(NEW), "mg b v\r\n");
    rig.reply(NEW, "EN\r\n");
    // What it can be asked it is asked.
    let asked = rig.sent_bytes(packets);
    assert_eq!((asked[1], &asked[24..]), (0, &b"b"[..]));
    let mut missing = [0x81, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    missing[12..16].copy_from_slice(&asked[12..16]);
    rig.reply(packets, missing);
    assert_eq!(rig.got(client), "EN\r\n");
    for request in ["mg a v t\r\n", "mg a v h\r\n"] {
        rig.send(client, request);
        assert_eq!(rig.sent(NEW), request);
        rig.reply(NEW, "EN\r\n");
        assert_eq!(rig.got(client), "EN\r\n");
    }
    rig.send(client, "ma a v t N0\r\n");
    assert_eq!(rig.sent(NEW), "ma a v t\r\n");
    rig.reply(NEW, "NF\r\n");
    assert_eq!(rig.got(client), "SERVER_ERROR proxy: the request needs memcached 1.6 at node node-0:11211\r\n");
    assert!(rig.sent_bytes(packets).is_empty(), "nothing is sent to the old node");
    rig.send(client, "mg b v\r\n");
    assert_eq!(rig.sent(NEW), "mg b v\r\n");
    rig.reply(NEW, "EN\r\n");
    assert!(!rig.sent_bytes(packets).is_empty(), "others go on there");
}

#[test]
fn at_the_end_nothing_is_read_there_and_invalidations_go_on() {
    let mut rig = Rig::moved();
    rig.declare(Phase::Ending);
    let client = rig.client();
    rig.send(client, "get a\r\nma a N0 J5 v\r\n");
    // What is created now is not to leave an older one there, which others may still read.
    assert_eq!(rig.both(), ["delete a\r\n", "get a\r\nma a N0 J5 v\r\n"]);
    rig.reply(NEW, "END\r\nVA 1\r\n5\r\n");
    rig.reply(OLD, "DELETED\r\n");
    rig.send(client, "set a 0 0 1\r\nx\r\n");
    rig.asked(NEW, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    rig.send(client, "add a 0 0 1\r\nx\r\n");
    rig.asked(OLD, "mg a s\r\n", "HD s1\r\n");
    assert_eq!(rig.got(client), "END\r\nVA 1\r\n5\r\nSTORED\r\nNOT_STORED\r\n");
}

#[test]
fn a_write_that_is_under_way_when_the_ring_before_is_taken_away_is_no_error() {
    let mut rig = Rig::moved();
    rig.declare(Phase::Ending);
    let clients = [rig.client(), rig.client()];
    rig.send(clients[0], "set a 0 0 1\r\nx\r\n");
    rig.send(clients[1], "incr b 1\r\n");
    assert_eq!(rig.both(), ["", "set a 0 0 1\r\nx\r\nincr b 1\r\n"]);
    // The old node leaves; nobody reads there.
    let topology = rig.part(&[1]);
    let now = rig.now();
    rig.core.set_topology(Arc::new(topology), now);
    rig.apply();
    rig.reply(NEW, "STORED\r\n2\r\n");
    assert_eq!(clients.map(|client| rig.got(client)), ["STORED\r\n", "2\r\n"]);
    assert_eq!((rig.before_writes()[1], rig.has_reads_ended()), (0, false));
}

#[test]
fn keys_that_have_not_moved_are_asked_at_their_one_place() {
    let mut rig = Rig::new(4);
    let before = Arc::new(Before::new(rig.part(&[0, 1, 2]), Phase::Reading));
    let topology = rig.part(&[0, 1, 2, 3]).with_before(Some(Arc::clone(&before)));
    rig.core.set_topology(Arc::new(topology), rig.now());
    rig.apply();
    assert_eq!(rig.lanes(), 4, "no node is joined twice");
    let (stays, moves) = (rig.key(1, "k"), rig.key(3, "k"));
    let old = usize::from(before.ring().route(moves.as_bytes()).0);
    let client = rig.client();
    rig.send(client, format!("get {stays} {moves}\r\n"));
    assert_eq!(rig.sent(1), format!("get {stays}\r\n"));
    assert_eq!(rig.sent(3), format!("get {moves}\r\n"));
    rig.reply(1, "END\r\n");
    rig.reply(3, "END\r\n");
    assert_eq!(rig.sent(old), format!("get {moves}\r\n"));
    rig.reply(old, "END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    rig.send(client, format!("set {stays} 0 0 1\r\nx\r\n"));
    assert_eq!(rig.sent(1), format!("set {stays} 0 0 1\r\nx\r\n"));
    rig.reply(1, "STORED\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
    rig.send(client, "flush_all\r\n");
    for lane in 0..4 {
        assert_eq!(rig.sent(lane), "flush_all\r\n");
        rig.reply(lane, "OK\r\n");
    }
    assert_eq!(rig.got(client), "OK\r\n");
}

#[test]
fn a_flush_reaches_the_nodes_of_the_ring_before_but_not_another_pool() {
    let mut rig = Rig::new(2);
    let before = Arc::new(Before::new(rig.part(&[0, 1]), Phase::Reading));
    let topology = rig.part(&[1]).with_before(Some(before));
    rig.core.set_topology(Arc::new(topology), rig.now());
    rig.apply();
    let client = rig.client();
    rig.send(client, "flush_all\r\n");
    assert_eq!([rig.sent(0), rig.sent(1)], ["flush_all\r\n", "flush_all\r\n"]);
    rig.reply(1, "OK\r\n");
    assert_eq!(rig.got(client), "");
    rig.reply(0, "OK\r\n");
    assert_eq!(rig.got(client), "OK\r\n");
    // Another pool, where the operator said so.
    let mut rig = Rig::moved_with(|settings| settings.flush_before = true);
    let client = rig.client();
    rig.send(client, "flush_all\r\n");
    assert_eq!([rig.sent(NEW), rig.sent(OLD)], ["flush_all\r\n", "flush_all\r\n"]);
    rig.reply(NEW, "OK\r\n");
    assert_eq!(rig.got(client), "");
    rig.reply(OLD, "OK\r\n");
    assert_eq!(rig.got(client), "OK\r\n");
    assert!(!rig.has_reads_ended());
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "flush_all\r\n");
    rig.asked(NEW, "flush_all\r\n", "OK\r\n");
    assert_eq!(rig.got(client), "OK\r\n");
    assert!(rig.has_reads_ended());
    assert_eq!(rig.cells.before_reads_ended().last(), Some(("flush_all", 1)));
}

#[test]
fn a_delete_that_is_refused_for_what_it_is_loses_no_invalidation() {
    let mut rig = Rig::moved();
    let client = rig.client();
    let refused = "CLIENT_ERROR invalid or duplicate flag\r\n";
    for order in [[OLD, NEW], [NEW, OLD]] {
        rig.send(client, "md a x\r\n");
        assert_eq!(rig.both(), ["md a x\r\n", "md a x\r\n"]);
        order.into_iter().for_each(|place| rig.reply(place, refused));
        assert_eq!(rig.got(client), refused);
        assert!(!rig.has_reads_ended());
    }
    // Where the other has done it, it is lost.
    rig.send(client, "md a x\r\n");
    rig.both();
    rig.reply(NEW, "HD\r\n");
    rig.reply(OLD, refused);
    assert_eq!(rig.got(client), refused);
    assert!(rig.has_reads_ended());
}

#[test]
fn a_set_that_is_refused_for_what_it_is_leaves_the_old_value_and_another_failure_does_not() {
    let mut rig = Rig::moved();
    let client = rig.client();
    let refused = "CLIENT_ERROR invalid flag\r\n";
    rig.send(client, "ms a 1 x\r\ny\r\n");
    rig.asked(NEW, "ms a 1 x\r\ny\r\n", refused);
    assert_eq!(rig.got(client), refused);
    assert_eq!(rig.both(), ["", ""]);
    // Where a node has no room, it drops the old value, as the other place must.
    let full = "SERVER_ERROR out of memory storing object\r\n";
    rig.send(client, "ms a 1\r\ny\r\n");
    rig.asked(NEW, "ms a 1\r\ny\r\n", full);
    rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
    assert_eq!(rig.got(client), full);
    assert_eq!(rig.before_writes(), [2, 0]);
}

/// An invalidation is lost at the old place, and the old place is back.
fn after_a_lost_one() -> (Rig, slipring::proxy::ClientId) {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "set a 0 0 1 noreply\r\nx\r\n");
    rig.asked(NEW, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    rig.asked(OLD, "delete a\r\n", "SERVER_ERROR out of memory\r\n");
    assert!(rig.has_reads_ended());
    (rig, client)
}

#[test]
fn what_is_done_after_a_lost_invalidation_leaves_nothing_older_there() {
    for (request, sent, answer) in [
        ("replace a 0 0 1\r\ny\r\n", "replace a 0 0 1\r\ny\r\n", "STORED\r\n"),
        ("append a 0 0 1\r\ny\r\n", "append a 0 0 1\r\ny\r\n", "STORED\r\n"),
        ("incr a 1\r\n", "incr a 1\r\n", "2\r\n"),
        ("touch a 1\r\n", "touch a 1\r\n", "TOUCHED\r\n"),
        ("cas a 0 0 1 7\r\ny\r\n", "cas a 0 0 1 7\r\ny\r\n", "STORED\r\n"),
        ("ms a 1 MR\r\ny\r\n", "ms a 1 MR\r\ny\r\n", "HD\r\n"),
        ("ms a 1 C7\r\ny\r\n", "ms a 1 C7\r\ny\r\n", "HD\r\n"),
        ("ma a\r\n", "ma a\r\n", "HD\r\n"),
    ] {
        let (mut rig, client) = after_a_lost_one();
        rig.send(client, request);
        rig.asked(NEW, sent, answer);
        assert_eq!(rig.got(client), "", "{request}");
        rig.asked(OLD, "delete a\r\n", "DELETED\r\n");
        assert_eq!(rig.got(client), answer, "{request}");
        // And fails where that fails.
        rig.send(client, request);
        rig.asked(NEW, sent, answer);
        rig.asked(OLD, "delete a\r\n", "SERVER_ERROR out of memory\r\n");
        assert_eq!(rig.got(client), "SERVER_ERROR out of memory\r\n", "{request}");
    }
    // What was not done, or not found, changes nothing.
    let (mut rig, client) = after_a_lost_one();
    rig.send(client, "replace a 0 0 1\r\ny\r\ncas b 0 0 1 7\r\ny\r\n");
    rig.asked(NEW, "replace a 0 0 1\r\ny\r\ncas b 0 0 1 7\r\ny\r\n", "NOT_STORED\r\nEXISTS\r\n");
    assert_eq!(rig.got(client), "NOT_STORED\r\nEXISTS\r\n");
    // Reads that change something take a delete along.
    for (request, answer) in [("gat 1 a\r\n", "END\r\n"), ("mg a v T1\r\n", "EN\r\n"), ("ma a v\r\n", "NF\r\n")] {
        rig.send(client, request);
        assert_eq!(rig.both(), ["delete a\r\n", request]);
        rig.reply(OLD, "NOT_FOUND\r\n");
        rig.reply(NEW, answer);
        assert_eq!(rig.got(client), answer);
    }
}

#[test]
fn an_add_after_a_flush_is_not_held_up_by_what_another_pool_still_has() {
    let mut rig = Rig::moved();
    let client = rig.client();
    rig.send(client, "flush_all\r\n");
    rig.asked(NEW, "flush_all\r\n", "OK\r\n");
    rig.send(client, "add a 0 0 1\r\nx\r\nms b 1 ME\r\nx\r\n");
    assert_eq!(rig.both(), ["", "add a 0 0 1\r\nx\r\nms b 1 ME\r\nx\r\n"]);
    rig.reply(NEW, "STORED\r\nHD\r\n");
    rig.asked(OLD, "delete a\r\ndelete b\r\n", "DELETED\r\nNOT_FOUND\r\n");
    assert_eq!(rig.got(client), "OK\r\nSTORED\r\nHD\r\n");
}

#[test]
fn nobody_waits_for_the_deletes_that_reads_take_along() {
    let (mut rig, client) = after_a_lost_one();
    let keys: Vec<String> = (0..400).map(|number| format!("k{number}")).collect();
    rig.send(client, format!("gat 1 {}\r\nset k7 0 0 1\r\nx\r\n", keys.join(" ")));
    assert!(rig.sent(NEW).ends_with("\r\nset k7 0 0 1\r\nx\r\n"), "the client's next is under way");
    let deletes: String = keys.iter().map(|key| format!("delete {key}\r\n")).collect();
    assert_eq!(rig.sent(OLD), deletes);
}
