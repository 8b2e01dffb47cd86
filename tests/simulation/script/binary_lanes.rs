//! Nodes that have no meta commands, asked in packets: scripted by hand.

use std::sync::Arc;

use super::Rig;
use slipring::config::OnNodeDown;
use slipring::proxy::FailReason;
use slipring::routing::Topology;

mod own;

const NODE: &str = "node-0:11211";
pub(super) const NOOP: [u8; 24] = [0x80, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// What it answers to that.
pub(super) const GREETING: [u8; 24] = [0x81, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NOT_FOUND: u16 = 1;

/// A packet on a lane.
#[derive(Clone, Debug)]
struct Sent {
    opcode: u8,
    opaque: [u8; 4],
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Sent {
    /// Those that a lane was sent since the last look.
    fn all(rig: &mut Rig, lane: usize) -> Vec<Self> {
        let bytes = rig.sent_bytes(lane);
        let mut rest = &*bytes;
        let mut all = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[0], 0x80, "{rest:?}");
            let key_len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            let extras = usize::from(rest[4]);
            let body = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
            let key = rest[24 + extras..24 + extras + key_len].to_vec();
            let value = rest[24 + extras + key_len..24 + body].to_vec();
            all.push(Self { opcode: rest[1], opaque: rest[12..16].try_into().unwrap(), key, value });
            rest = &rest[24 + body..];
        }
        all
    }

    /// The only one.
    fn one(rig: &mut Rig, lane: usize) -> Self {
        let all = Self::all(rig, lane);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    fn reply(&self, status: u16, extras: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![0x81, self.opcode, 0, 0, extras.len() as u8, 0];
        out.extend_from_slice(&status.to_be_bytes());
        out.extend_from_slice(&((extras.len() + value.len()) as u32).to_be_bytes());
        out.extend_from_slice(&self.opaque);
        out.extend_from_slice(&7_u64.to_be_bytes());
        out.extend_from_slice(extras);
        out.extend_from_slice(value);
        out
    }

    fn ok(&self) -> Vec<u8> {
        self.reply(0, &[], &[])
    }

    fn hit(&self, value: &[u8]) -> Vec<u8> {
        self.reply(0, &[0, 0, 0, 5], value)
    }
}

/// A node of a version whose connections are proved by hand, and its shared lane.
fn rig_of(version: &str) -> (Rig, usize) {
    let mut rig = Rig::new(1);
    rig.now = 2_000_000;
    rig.mute = true;
    let lane = renew(&mut rig, 0, version);
    (rig, lane)
}

/// A node's shared lane is lost, and another one takes its place.
fn renew(rig: &mut Rig, lane: usize, version: &str) -> usize {
    rig.fail(lane, FailReason::Closed);
    let next = rig.newest(0);
    assert_eq!(rig.sent(next), "version\r\n");
    rig.reply(next, format!("VERSION {version}\r\n"));
    next
}

/// One that speaks the binary protocol: its shared lane, and the one in packets.
fn old() -> (Rig, usize, usize) {
    let (mut rig, text) = rig_of("1.5.16");
    let client = rig.client();
    rig.send(client, "mg k v\r\n");
    let binary = rig.newest(0);
    assert_eq!(rig.sent_bytes(binary), NOOP);
    rig.reply(binary, GREETING);
    let get = Sent::one(&mut rig, binary);
    assert_eq!((get.opcode, &*get.key), (0x00, &b"k"[..]));
    rig.reply(binary, get.reply(NOT_FOUND, &[], b"Not found"));
    assert_eq!(rig.got(client), "EN\r\n");
    (rig, text, binary)
}

/// A loud or quiet packet of a client.
fn packet(opcode: u8, opaque: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = (extras.len() + key.len() + value.len()) as u32;
    let mut out = vec![0x80, opcode];
    out.extend_from_slice(&(key.len() as u16).to_be_bytes());
    out.extend_from_slice(&[extras.len() as u8, 0, 0, 0]);
    out.extend_from_slice(&body.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, opaque, 0, 0, 0, 0, 0, 0, 0, 0]);
    [&out, extras, key, value].concat()
}

#[test]
fn who_asks_first_waits_until_the_node_has_answered_by_a_packet() {
    let (mut rig, text) = rig_of("1.5.16");
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "ms a 1 c O1\r\nx\r\nmg a v f c k\r\n");
    rig.send(other, packet(0x11, 9, &[0; 8], b"b", b"value"));
    let binary = rig.newest(0);
    assert_eq!(rig.open_lanes(0), 2, "one lane for all");
    assert_eq!((rig.sent_bytes(binary), rig.sent(text)), (NOOP.to_vec(), String::new()));
    rig.reply(binary, &GREETING[..10]);
    assert_eq!(rig.sent_bytes(binary), b"");
    rig.reply(binary, &GREETING[10..]);
    let sent = Sent::all(&mut rig, binary);
    let shown: Vec<(u8, &[u8], &[u8])> = sent.iter().map(|s| (s.opcode, &*s.key, &*s.value)).collect();
    let expected: [(u8, &[u8], &[u8]); 3] = [(0x01, b"a", b"x"), (0x00, b"a", b""), (0x01, b"b", b"value")];
    assert_eq!(shown, expected);
    // Byte by byte.
    let replies = [sent[0].ok(), sent[1].hit(b"x"), sent[2].reply(3, &[], b"Too large.")].concat();
    replies.iter().for_each(|byte| rig.reply(binary, [*byte]));
    assert_eq!(rig.got(client), "HD c7 O1\r\nVA 1 f5 c7 ka\r\nx\r\n");
    let told = rig.got_bytes(other);
    assert_eq!((told[1], told[7], &told[24..]), (0x11, 3, &b"Too large."[..]));
    assert_eq!(rig.sent(text), "");
}

#[test]
fn a_node_that_does_not_answer_by_a_packet_is_asked_in_classic_words() {
    let ways: [fn(&mut Rig, usize); 5] = [
        |rig, lane| rig.reply(lane, "ERROR\r\n"),
        |rig, lane| rig.reply(lane, [&[0x81, 0x0b][..], &[0; 22]].concat()),
        |rig, lane| rig.fail(lane, FailReason::Closed),
        |rig, lane| rig.fail(lane, FailReason::Connect),
        |rig, _| rig.pass(260),
    ];
    for (way, refuse) in ways.into_iter().enumerate() {
        let (mut rig, mut text) = rig_of("1.5.16");
        let (client, other) = (rig.client(), rig.client());
        rig.send(client, "ms a 1 c\r\nx\r\n");
        rig.send(other, packet(0x01, 9, &[0; 8], b"b", b"y"));
        let binary = rig.newest(0);
        rig.sent_bytes(binary);
        refuse(&mut rig, binary);
        assert_eq!(rig.sent(text), "set a 0 0 1\r\nx\r\nset b 0 0 1\r\ny\r\n", "{way}");
        rig.reply(text, "STORED\r\nSTORED\r\n");
        assert_eq!((rig.got(client), rig.got_bytes(other).len()), ("HD c0\r\n".to_owned(), 24));
        assert_eq!((rig.is_open(binary), rig.open_lanes(0), rig.count(|c| &c.desyncs)), (false, 1, 0), "{way}");
        rig.send(client, "ms a 1 I\r\nx\r\nmg a v t\r\n");
        let needs = |what| format!("CLIENT_ERROR {what} needs memcached 1.6 at node {NODE}\r\n");
        assert_eq!(rig.got(client), needs("I") + &needs("t"));
        // By its next connection it may be another memcached.
        rig.now += 2_000_000;
        text = renew(&mut rig, text, "1.5.16");
        rig.send(client, "md a\r\n");
        let binary = rig.newest(0);
        assert_eq!((rig.sent(text), rig.sent_bytes(binary)), (String::new(), NOOP.to_vec()));
    }
}

/// A node may give a value and then say that it had no memory for the rest. That ends a classic reply; to a binary or meta
/// client it would be a second answer, taken for that to its next request.
#[test]
fn an_error_behind_a_value_is_no_second_answer() {
    let (mut rig, text) = rig_of("1.5.16");
    let (binary, meta) = (rig.client(), rig.client());
    rig.send(binary, packet(0x00, 9, &[], b"a", b""));
    assert_eq!(rig.sent(text), "gets a\r\n");
    rig.reply(text, "VALUE a 5 1 7\r\nx\r\nSERVER_ERROR out of memory writing get response\r\n");
    let told = rig.got_bytes(binary);
    assert_eq!((told.len(), told[1], told[15], told.last()), (24 + 4 + 1, 0x00, 9, Some(&b'x')));
    rig.send(meta, "mg a v\r\n");
    let packets = rig.newest(0);
    rig.reply(packets, "ERROR\r\n");
    assert_eq!(rig.sent(text), "gets a\r\n");
    rig.reply(text, "VALUE a 5 1 7\r\nx\r\nSERVER_ERROR out of memory writing get response\r\n");
    assert_eq!(rig.got(meta), "VA 1\r\nx\r\n");
}

/// In classic words the node is asked for the value, too, which its client did not want.
#[test]
fn an_answer_that_tells_no_value_is_whole_though_that_never_is() {
    for reads_fail in [false, true] {
        let mut rig = Rig::with(1, |settings| {
            settings.on_node_down = if reads_fail { OnNodeDown::Error } else { OnNodeDown::Miss };
        });
        rig.now = 2_000_000;
        rig.mute = true;
        let text = renew(&mut rig, 0, "1.5.16");
        let client = rig.client();
        rig.send(client, "mg a s\r\n");
        let binary = rig.newest(0);
        rig.reply(binary, "ERROR\r\n");
        assert_eq!(rig.sent(text), "gets a\r\n");
        rig.reply(text, "VALUE a 0 200000 7\r\nxxx");
        assert_eq!(rig.got(client), "HD s200000\r\n");
        rig.fail(text, FailReason::Closed);
        rig.send(client, "mn\r\n");
        assert_eq!((rig.got(client), rig.closed.len()), ("MN\r\n".to_owned(), 0), "{reads_fail}");
    }
}

/// It may have had no room for one more connection.
#[test]
fn a_node_that_did_not_answer_by_a_packet_is_asked_again_after_a_while() {
    let ways: [fn(&mut Rig, usize); 3] = [
        |rig, _| rig.pass(300),
        |rig, lane| rig.fail(lane, FailReason::Closed),
        |rig, lane| rig.reply(lane, "ERROR Too many open connections\r\n"),
    ];
    for (way, refuse) in ways.into_iter().enumerate() {
        let (mut rig, text) = rig_of("1.5.16");
        let client = rig.client();
        let asked_in_packets = |rig: &mut Rig| {
            rig.send(client, "md a\r\n");
            let classic = rig.sent(text);
            if classic.is_empty() {
                let binary = rig.newest(0);
                assert_eq!(rig.sent_bytes(binary), NOOP, "{way}");
                refuse(rig, binary);
                assert_eq!(rig.sent(text), "delete a\r\n", "{way}");
            }
            rig.reply(text, "DELETED\r\n");
            assert_eq!(rig.got(client), "HD\r\n", "{way}");
            classic.is_empty()
        };
        assert!(asked_in_packets(&mut rig) && !asked_in_packets(&mut rig), "{way}");
        rig.now += 11_000_000;
        assert!(asked_in_packets(&mut rig), "{way}");
        rig.now += 11_000_000;
        // One that says no twice is asked seldom.
        assert_eq!(asked_in_packets(&mut rig), way == 0, "{way}");
        rig.now += 300_000_000;
        assert!(asked_in_packets(&mut rig), "{way}");
    }
}

#[test]
fn what_packets_cannot_say_is_refused_and_its_block_is_no_command() {
    let (mut rig, text, binary) = old();
    let client = rig.client();
    let needs = |what| format!("CLIENT_ERROR {what} needs memcached 1.6 at node {NODE}\r\n");
    rig.send(client, "mg a v t\r\nms a 11 I\r\nflush_all\r\n\r\nma a q N0 t\r\nme a\r\nmn\r\n");
    assert_eq!(rig.got(client), [needs("t"), needs("I"), needs("t"), needs("me"), "MN\r\n".to_owned()].concat());
    assert_eq!((rig.sent(text), rig.sent_bytes(binary)), (String::new(), Vec::new()));
}

#[test]
fn requests_of_a_client_for_a_key_keep_their_order_across_the_lanes() {
    for (first, second) in
        [("set a 0 0 1\r\nx\r\n", "mg a v\r\n"), ("get a\r\n", "ms a 1\r\nx\r\n"), ("incr a 1\r\n", "ma a\r\n")]
    {
        let (mut rig, text, binary) = old();
        let (client, other) = (rig.client(), rig.client());
        rig.send(client, [first, second].concat());
        rig.send(other, second);
        assert_eq!(rig.sent(text), first);
        assert_eq!(Sent::all(&mut rig, binary).len(), 1, "the other client's: {first:?}");
        rig.reply(
            text,
            ["STORED\r\n", "END\r\n", "5\r\n"]
                [usize::from(first.starts_with('g')) + 2 * usize::from(first.starts_with('i'))],
        );
        assert_eq!(&*Sent::one(&mut rig, binary).key, b"a");
    }
    for second in ["get a\r\n", "set a 0 0 1\r\ny\r\n", "delete a\r\n", "flush_all\r\n"] {
        // Whole, or begun before the first is answered and ended behind that.
        for before in [second.len(), second.len() - 3] {
            let (mut rig, text, binary) = old();
            let client = rig.client();
            rig.send(client, "ms a 1\r\nx\r\nmg b\r\n");
            rig.send(client, &second[..before]);
            let sent = Sent::all(&mut rig, binary);
            rig.reply(binary, sent[0].ok());
            rig.send(client, &second[before..]);
            assert_eq!(rig.sent(text), "", "{second:?} {before}");
            rig.reply(binary, sent[1].hit(b"unasked"));
            assert_eq!(rig.sent(text), second);
        }
    }
    // What is asked in packets does not wait for itself, however its blocks are cut.
    let (mut rig, _, binary) = old();
    let client = rig.client();
    for piece in ["ms a 1\r\nx\r\nms a 1\r", "\ny\r", "\nmg a v\r\nms a 5\r\n12345\r\n"] {
        rig.send(client, piece);
    }
    assert_eq!(Sent::all(&mut rig, binary).len(), 4);
}

#[test]
fn a_lane_that_is_lost_answers_for_what_was_on_it_and_another_takes_its_place() {
    let (mut rig, text, binary) = old();
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "mg a v O1\r\nms a 1 q\r\nx\r\nmn\r\n");
    rig.send(other, packet(0x0c, 9, &[], b"b", b""));
    let sent = Sent::all(&mut rig, binary);
    // In the middle of the first.
    rig.reply(binary, &sent[0].hit(b"value")[..20]);
    rig.fail(binary, FailReason::Closed);
    let lost = format!("SERVER_ERROR proxy: node {NODE} closed the connection\r\n");
    assert_eq!(rig.got(client), format!("EN O1\r\n{lost}MN\r\n"));
    assert_eq!(&rig.got_bytes(other)[..8], [0x81, 0x0c, 0, 1, 0, 0, 0, 1]);
    assert_eq!((rig.state(0), rig.open_lanes(0)), ("up", 1));
    rig.send(client, "mg a v\r\n");
    let next = rig.newest(0);
    assert_eq!((rig.sent(text), rig.sent_bytes(next)), (String::new(), NOOP.to_vec()));
    rig.reply(next, GREETING);
    let get = Sent::one(&mut rig, next);
    rig.reply(next, get.hit(b"y"));
    assert_eq!(rig.got(client), "VA 1\r\ny\r\n");
}

#[test]
fn a_packet_that_cannot_be_the_answer_ends_the_lane_and_reaches_nobody() {
    type Lie<'a> = &'a dyn Fn(&Sent) -> Vec<u8>;
    let other = |sent: &Sent| Sent { opaque: [1, 2, 3, 4], ..sent.clone() };
    let lies: [(&str, Lie<'_>); 8] = [
        ("a line", &|_| b"VA 1\r\nx\r\n".to_vec()),
        ("a request's magic", &|sent| [&[0x80], &sent.hit(b"x")[1..]].concat()),
        ("another's opaque", &|sent| other(sent).hit(b"x")),
        ("another command", &|sent| Sent { opcode: 0x0c, ..sent.clone() }.hit(b"x")),
        ("no flags", &|sent| sent.reply(0, &[], b"x")),
        ("an impossible length", &|sent| [&sent.hit(b"x")[..8], &[0xff; 4], &sent.hit(b"x")[12..]].concat()),
        ("a long error", &|sent| sent.reply(0x84, &[], &[b'x'; 5000])),
        ("twice", &|sent| sent.reply(NOT_FOUND, &[], b"Not found").repeat(2)),
    ];
    for (what, lie) in lies {
        let (mut rig, text, binary) = old();
        let client = rig.client();
        rig.send(client, "mg a v\r\n");
        let sent = Sent::one(&mut rig, binary);
        rig.reply(binary, lie(&sent));
        assert_eq!((rig.got(client), rig.is_open(binary)), ("EN\r\n".to_owned(), false), "{what}");
        assert_eq!((rig.count(|c| &c.desyncs), rig.is_open(text)), (1, true), "{what}");
    }
    // What nobody asked for.
    let (mut rig, _, binary) = old();
    rig.reply(binary, GREETING);
    assert_eq!((rig.is_open(binary), rig.count(|c| &c.desyncs)), (false, 1));
}

#[test]
fn a_silent_lane_has_the_clocks_of_all_lanes() {
    let (mut rig, _, binary) = old();
    let client = rig.client();
    rig.send(client, "md a\r\n");
    let sent = Sent::one(&mut rig, binary);
    rig.pass(700);
    let late = format!("SERVER_ERROR proxy: node {NODE} did not answer in time\r\n");
    assert_eq!(rig.got(client), late);
    // Its late answer is eaten in its turn.
    rig.reply(binary, sent.ok());
    rig.send(client, "mg a s\r\n");
    let sent = Sent::one(&mut rig, binary);
    rig.reply(binary, sent.hit(b"12"));
    assert_eq!((rig.got(client), rig.is_open(binary)), ("HD s2\r\n".to_owned(), true));
}

#[test]
fn a_block_that_comes_while_the_lane_is_lost_is_no_command() {
    let (mut rig, text, binary) = old();
    let client = rig.client();
    rig.send(client, "ms a 11\r\nflush");
    rig.fail(binary, FailReason::Closed);
    rig.send(client, "_all\r\n\r\nmn\r\n");
    assert_eq!(rig.got(client), format!("SERVER_ERROR proxy: node {NODE} is down\r\nMN\r\n"));
    assert_eq!(rig.sent(text), "");
}

fn swap(rig: &mut Rig, topology: Arc<Topology>) {
    rig.core.set_topology(topology, rig.now());
    rig.apply();
}

#[test]
fn the_lane_of_a_node_that_leaves_finishes_and_is_taken_back_when_it_returns() {
    let (mut rig, _, binary) = old();
    let client = rig.client();
    let here = Arc::clone(rig.core.topology());
    rig.send(client, "ms a 1\r\nx\r\n");
    let sent = Sent::one(&mut rig, binary);
    swap(&mut rig, Arc::new(Topology::unknown()));
    swap(&mut rig, Arc::clone(&here));
    let text = rig.newest(0);
    rig.sent(text);
    rig.reply(text, "VERSION 1.5.16\r\n");
    rig.send(client, "mg a v\r\n");
    let get = Sent::one(&mut rig, binary);
    rig.reply(binary, [sent.ok(), get.hit(b"x")].concat());
    assert_eq!(rig.got(client), "HD\r\nVA 1\r\nx\r\n");
    rig.send(client, "ms a 1\r\ny\r\n");
    let sent = Sent::one(&mut rig, binary);
    swap(&mut rig, Arc::new(Topology::unknown()));
    assert!(rig.is_open(binary));
    rig.reply(binary, sent.ok());
    assert_eq!((rig.got(client), rig.is_open(binary)), ("HD\r\n".to_owned(), false));
}

#[test]
fn the_lane_of_a_node_that_has_become_another_is_closed() {
    let (mut rig, text, binary) = old();
    let client = rig.client();
    rig.now += 2_000_000;
    let text = renew(&mut rig, text, "1.6.18");
    assert!(!rig.is_open(binary));
    rig.send(client, "mg a v t\r\n");
    assert_eq!(rig.sent(text), "mg a v t\r\n");
    // A lane that nobody has answered yet goes, too, and who waits for it goes on.
    let (mut rig, text) = rig_of("1.5.16");
    let client = rig.client();
    rig.send(client, "mg a v\r\n");
    let binary = rig.newest(0);
    rig.now += 2_000_000;
    let text = renew(&mut rig, text, "1.6.18");
    assert_eq!((rig.is_open(binary), rig.sent(text)), (false, "mg a v\r\n".to_owned()));
}

#[test]
fn an_outage_closes_the_lane_and_the_next_one_is_greeted_anew() {
    let (mut rig, text, binary) = old();
    rig.fail(text, FailReason::Connect);
    rig.fail(rig.newest(0), FailReason::Connect);
    assert_eq!((rig.state(0), rig.is_open(binary)), ("down", false));
    let client = rig.client();
    rig.send(client, "mg a v\r\nmd a\r\n");
    assert_eq!(rig.got(client), format!("EN\r\nSERVER_ERROR proxy: node {NODE} is down\r\n"));
}

#[test]
fn reads_of_a_binary_client_go_by_the_lane_in_packets_once_it_is_there() {
    let (mut rig, text) = rig_of("1.5.16");
    let client = rig.client();
    let get = packet(0x0d, 3, &[], b"a", b"");
    rig.send(client, &get);
    assert_eq!(rig.sent(text), "gets a\r\n", "merged with others");
    rig.reply(text, "END\r\n");
    let long = vec![b' '; 250];
    rig.send(client, packet(0x04, 4, &[], &long, b""));
    let binary = rig.newest(0);
    rig.sent_bytes(binary);
    rig.reply(binary, GREETING);
    let delete = Sent::one(&mut rig, binary);
    assert_eq!((delete.opcode, &delete.key), (0x04, &long));
    rig.reply(binary, delete.ok());
    rig.send(client, &get);
    let sent = Sent::one(&mut rig, binary);
    assert_eq!((sent.opcode, rig.sent(text)), (0x00, String::new()), "loud");
    rig.reply(binary, sent.hit(b"xyz"));
    let told = rig.got_bytes(client);
    // Behind the answer to the delete.
    let hit = &told[24..];
    assert_eq!((told[1], hit[1], hit[15], &hit[24..]), (0x04, 0x0d, 3, &b"\0\0\0\x05axyz"[..]));
}

#[test]
fn a_full_lane_makes_its_clients_wait() {
    let (mut rig, _, binary) = old();
    let (client, other) = (rig.client(), rig.client());
    let block = "x".repeat(1 << 20);
    for _ in 0..3 {
        rig.send(client, format!("ms a {}\r\n{block}\r\n", block.len()));
    }
    rig.send(other, "md b\r\n");
    let sent = Sent::all(&mut rig, binary);
    assert!(sent.len() >= 2, "{}", sent.len());
    for request in &sent {
        let reply = if request.opcode == 4 { request.reply(NOT_FOUND, &[], b"") } else { request.ok() };
        rig.reply(binary, reply);
    }
    let rest = Sent::all(&mut rig, binary);
    assert_eq!(sent.len() + rest.len(), 4);
    for request in &rest {
        let reply = if request.opcode == 4 { request.reply(NOT_FOUND, &[], b"") } else { request.ok() };
        rig.reply(binary, reply);
    }
    assert_eq!((rig.got(client), rig.got(other)), ("HD\r\n".repeat(3), "NF\r\n".to_owned()));
}
