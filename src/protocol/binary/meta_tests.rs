use super::super::request::{self as client_side, Action};
use super::*;
use crate::protocol::binary::reply::Reply;
use crate::protocol::meta::request::parse;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn asked(line: &str) -> Asked<'_> {
    Asked::read(line.as_bytes()).unwrap_or_else(|| panic!("{line}"))
}

/// The packet of a line, without its opaque.
fn packet(line: &str) -> String {
    let mut out = Vec::new();
    asked(line).write(&mut out);
    assert_eq!(out[12..16], asked(line).opaque().to_be_bytes());
    out.drain(12..16);
    hex(&out)
}

/// What is made of a reply; the part of the packet behind the line is the value.
fn told(line: &str, opcode: u8, status: Status, cas: u64, extras: &[u8], value: &[u8]) -> String {
    let asked = asked(line);
    let mut packet = Vec::new();
    Reply { opcode, opaque: asked.opaque(), status, cas, extras, key: &[], value }.write(&mut packet);
    let head = Head::read(&packet).unwrap();
    let (mut out, mut block) = (Vec::new(), Vec::new());
    match asked.body(&head).unwrap_or_else(|| panic!("{line} {head:?}")) {
        Body::Value(len) => {
            assert_eq!(len, value.len());
            asked.announce(&head, &packet[..HEADER_BYTES + FLAGS_BYTES], len, &mut out);
        }
        Body::Small(len) => {
            assert_eq!(HEADER_BYTES + len, packet.len());
            asked.say(&head, &packet, &mut out, &mut block);
        }
    }
    String::from_utf8([out, block].concat()).unwrap()
}

#[test]
fn commands_are_said_in_packets() {
    for (line, said) in [
        // Header without opaque, extras, key.
        ("mg Hello v", "8000 0005 00 00 0000 00000005 0000000000000000 48656c6c6f"),
        ("mg Hello v f c O1 k", "8000 0005 00 00 0000 00000005 0000000000000000 48656c6c6f"),
        ("mg zz P", "8000 0002 00 00 0000 00000002 0000000000000000 7a7a"),
        ("mg zz v T30", "801d 0002 04 00 0000 00000006 0000000000000000 0000001e 7a7a"),
        ("mg zz s T30", "801d 0002 04 00 0000 00000006 0000000000000000 0000001e 7a7a"),
        ("mg zz f c T30", "801c 0002 04 00 0000 00000006 0000000000000000 0000001e 7a7a"),
        // Over at once: a time long ago.
        ("mg zz v T-1", "801d 0002 04 00 0000 00000006 0000000000000000 00278d01 7a7a"),
        // A key of a space, CR, LF and NUL.
        ("mg IA0KAA== b v", "8000 0004 00 00 0000 00000004 0000000000000000 200d0a00"),
        (
            "ms Hello 5 F3735928559 T3600 c",
            "8001 0005 08 00 0000 00000012 0000000000000000 deadbeef 00000e10 48656c6c6f",
        ),
        ("ms zz 3", "8001 0002 08 00 0000 0000000d 0000000000000000 00000000 00000000 7a7a"),
        ("ms zz 3 MS C7", "8001 0002 08 00 0000 0000000d 0000000000000007 00000000 00000000 7a7a"),
        ("ms zz 3 C0", "8001 0002 08 00 0000 0000000d ffffffffffffffff 00000000 00000000 7a7a"),
        ("ms zz 3 ME", "8002 0002 08 00 0000 0000000d 0000000000000000 00000000 00000000 7a7a"),
        ("ms zz 3 ME C7", "8002 0002 08 00 0000 0000000d 0000000000000000 00000000 00000000 7a7a"),
        ("ms zz 3 MR", "8003 0002 08 00 0000 0000000d 0000000000000000 00000000 00000000 7a7a"),
        ("ms zz 3 MR C7", "8001 0002 08 00 0000 0000000d 0000000000000007 00000000 00000000 7a7a"),
        ("ms zz 3 MA F1 T1", "800e 0002 00 00 0000 00000005 0000000000000000 7a7a"),
        ("ms zz 3 MP C7", "800f 0002 00 00 0000 00000005 0000000000000007 7a7a"),
        ("md zz", "8004 0002 00 00 0000 00000002 0000000000000000 7a7a"),
        ("md zz C7", "8004 0002 00 00 0000 00000002 0000000000000007 7a7a"),
        ("ma zz", "8005 0002 14 00 0000 00000016 0000000000000000 0000000000000001 0000000000000000 ffffffff 7a7a"),
        (
            "ma zz MD D5 v N30 J9 C7",
            "8006 0002 14 00 0000 00000016 0000000000000007 0000000000000005 0000000000000009 0000001e 7a7a",
        ),
    ] {
        assert_eq!(packet(line), said.replace(' ', ""), "{line}");
    }
    let mut greeting = Vec::new();
    write_greeting(&mut greeting);
    assert_eq!(hex(&greeting), "800a00000000000000000000000000000000000000000000");
}

#[test]
fn what_packets_cannot_say_is_named() {
    for (line, flag) in [
        ("mg k v t", b't'),
        ("mg k h v", b'h'),
        ("mg k l", b'l'),
        ("mg k N30", b'N'),
        ("mg k R30 v", b'R'),
        ("mg k E5", b'E'),
        ("ms k 3 I", b'I'),
        ("ms k 3 MA N5", b'N'),
        ("md k I", b'I'),
        ("md k x", b'x'),
        ("md k T5", b'T'),
        ("ma k t", b't'),
        ("ma k T5", b'T'),
        ("me k", b'e'),
    ] {
        assert_eq!(unsaid(&parse(line.as_bytes(), 9).unwrap()), Some(flag), "{line}");
        assert!(Asked::read(line.as_bytes()).is_none(), "{line}");
    }
    for line in
        ["mg a v f c k s O1 q T3", "ms a 3 F1 T2 C3 c k O1 q MS", "md a C1 k O1 q", "ma a D1 J2 N3 v c k O1 q MD C5"]
    {
        assert_eq!(unsaid(&parse(line.as_bytes(), 9).unwrap()), None, "{line}");
    }
}

#[test]
fn answers_are_the_lines_of_meta_commands() {
    use Status::{Exists, Internal, NonNumeric, NotFound, NotStored, Ok, OutOfMemory, TooLarge};
    let flags = 0xdead_beef_u32.to_be_bytes();
    for (line, value, told_) in [
        ("mg a v", &b"World"[..], "VA 5\r\n"),
        ("mg a s v f c k O9", b"World", "VA 5 s5 f3735928559 c7 ka O9\r\n"),
        ("mg a s c", b"World", "HD s5 c7\r\n"),
        ("mg YQ== b v k", b"", "VA 0 kYQ== b\r\n"),
    ] {
        assert_eq!(told(line, opcode::GET, Ok, 7, &flags, value), told_, "{line}");
    }
    assert_eq!(told("mg a v T0", opcode::GAT, Ok, 7, &flags, b"x"), "VA 1\r\n");
    assert_eq!(told("mg a f c T0 O1", opcode::TOUCH, Ok, 7, &flags, b""), "HD f3735928559 c7 O1\r\n");
    for (line, opcode, status, told_) in [
        ("mg a v k O9", opcode::GET, NotFound, "EN ka O9\r\n"),
        ("mg a T0", opcode::TOUCH, NotFound, "EN\r\n"),
        ("ms a 3", opcode::SET, Ok, "HD\r\n"),
        ("ms a 3 c k O1 s", opcode::SET, Ok, "HD c7 ka O1 s3\r\n"),
        ("ms a 3 ME c", opcode::ADD, Exists, "NS c0\r\n"),
        ("ms a 3 ME C5", opcode::ADD, Exists, "NS\r\n"),
        ("ms a 3 MR", opcode::REPLACE, NotFound, "NS\r\n"),
        ("ms a 3 MA O1", opcode::APPEND, NotStored, "NS O1\r\n"),
        ("ms a 3 MP C5", opcode::PREPEND, Exists, "EX\r\n"),
        ("ms a 3 C5 c k", opcode::SET, Exists, "EX c0 ka\r\n"),
        ("ms a 3 C5", opcode::SET, NotFound, "NF\r\n"),
        ("ms a 3 C0", opcode::SET, Exists, "EX\r\n"),
        ("ms a 3 MR C5", opcode::SET, NotFound, "NF\r\n"),
        ("ms a 3", opcode::SET, TooLarge, "SERVER_ERROR object too large for cache\r\n"),
        ("ms a 3", opcode::SET, OutOfMemory, "SERVER_ERROR out of memory storing object\r\n"),
        ("md a k", opcode::DELETE, Ok, "HD ka\r\n"),
        ("md a", opcode::DELETE, NotFound, "NF\r\n"),
        ("md a C5 O1", opcode::DELETE, Exists, "EX O1\r\n"),
        ("ma a v", opcode::INCREMENT, NotFound, "NF\r\n"),
        ("ma a MD C5", opcode::DECREMENT, Exists, "EX\r\n"),
        ("ma a N0", opcode::INCREMENT, NotStored, "NS\r\n"),
        ("ma a", opcode::INCREMENT, NonNumeric, "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
        ("mg a v", opcode::GET, Internal, "SERVER_ERROR 1?2\r\n"),
    ] {
        let text: &[u8] = if status == Ok { b"" } else { b"1\n2" };
        assert_eq!(told(line, opcode, status, 7, &[], text), told_, "{line} {status:?}");
    }
    let number = 18_446_744_073_709_551_615_u64.to_be_bytes();
    assert_eq!(told("ma a v c O1", opcode::INCREMENT, Ok, 7, &[], &number), "VA 20 c7 O1\r\n18446744073709551615\r\n");
    assert_eq!(told("ma a O1", opcode::INCREMENT, Ok, 7, &[], &number), "HD O1\r\n");
}

#[test]
fn what_cannot_be_the_answer_is_doubt() {
    let asked = asked("mg a v");
    let good = Head { opcode: opcode::GET, extras_len: 4, body_len: 9, opaque: asked.opaque(), ..Head::default() };
    assert_eq!(asked.body(&good), Some(Body::Value(5)));
    let not_found = Head { status: Status::NotFound.code(), extras_len: 0, ..good };
    assert_eq!(asked.body(&not_found), Some(Body::Small(9)));
    for (wrong, head) in [
        ("another command's", Head { opcode: opcode::GETK, ..good }),
        ("another request's", Head { opaque: self::asked("mg b v").opaque(), ..good }),
        ("a key that nobody asked for", Head { key_len: 1, ..good }),
        ("no flags", Head { extras_len: 0, ..good }),
        ("shorter than its flags", Head { body_len: 3, ..good }),
        ("larger than a value can be", Head { body_len: MAX_VALUE + 5, ..good }),
        ("a long error", Head { body_len: MAX_TEXT + 1, ..not_found }),
        ("an error with flags", Head { extras_len: 4, ..not_found }),
    ] {
        assert_eq!(asked.body(&head), None, "{wrong}");
    }
    for (line, opcode) in [("ms a 3", opcode::SET), ("md a", opcode::DELETE), ("ma a", opcode::INCREMENT)] {
        let asked = self::asked(line);
        let head = Head { opcode, body_len: 1, opaque: asked.opaque(), ..Head::default() };
        assert_eq!(asked.body(&head), None, "{line}");
    }
    assert_eq!(Head::read(&[b'E'; 24]), None);
    assert!(Head::read(&[&[0x81, 0x0a][..], &[0; 22]].concat()).unwrap().is_greeting());
    assert!(!Head::read(&[&[0x81, 0x0b][..], &[0; 22]].concat()).unwrap().is_greeting());
}

proptest! {
    /// A client's packet that becomes a line and a packet again asks for the same.
    #[test]
    fn a_packet_travels_through_its_line(key in prop::collection::vec(any::<u8>(), 1..=250), cas: u64, choice in 0_usize..9, number: u64) {
        let exptime = (number >> 33) as u32;
        let mut extras = Vec::new();
        let opcode = [
            opcode::GETKQ, opcode::GATQ, opcode::TOUCH, opcode::SETQ, opcode::REPLACE, opcode::APPENDQ, opcode::DELETE,
            opcode::INCREMENTQ, opcode::DECREMENT,
        ][choice];
        match choice {
            1 | 2 => extras.extend(exptime.to_be_bytes()),
            3 | 4 => extras.extend([exptime.to_be_bytes(), exptime.to_be_bytes()].concat()),
            7 | 8 => extras.extend([&number.to_be_bytes()[..], &cas.to_be_bytes(), &exptime.to_be_bytes()].concat()),
            _ => {}
        }
        let cas = if choice > 2 { cas } else { 0 };
        let mut bytes = Vec::new();
        let body_len = extras.len() + key.len() + if matches!(choice, 3..=5) { 9 } else { 0 };
        write_head(&Head { opcode, key_len: key.len(), extras_len: extras.len(), status: 0, body_len, opaque: 1, cas }, REQUEST_MAGIC, &mut bytes);
        bytes.extend([extras, key].concat());
        let packet = client_side::parse(&bytes, 1 << 20).unwrap();
        let mut line = Vec::new();
        super::super::translate::write_long_line(&packet, &mut line).unwrap();
        let mut again = Vec::new();
        Asked::read(&line).unwrap().write(&mut again);
        let found = client_side::parse(&again, 1 << 20).unwrap();
        let expected = match packet.action {
            Action::Read { key, exptime, .. } => Action::Read { key, exptime, with_key: false },
            // With a cas any of the three is "compare and store".
            Action::Store { key, flags, exptime, .. } if cas != 0 => {
                Action::Store { verb: crate::protocol::request::StoreVerb::Set, key, flags, exptime }
            }
            other => other,
        };
        // Its flags are asked for, too; so is its value.
        let touches = matches!((expected, found.action), (Action::Touch { .. }, Action::Touch { .. }));
        prop_assert!(touches || found.action == expected, "{:?} {:?}", found, packet);
        prop_assert_eq!((found.key(), found.cas, found.value_len), (packet.key(), cas, packet.value_len));
        prop_assert!(!found.quiet);
    }
}
