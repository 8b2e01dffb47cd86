use super::super::request::{Header, parse};
use super::*;
use proptest::prelude::*;

fn packet(opcode: u8, cas: u64, action: Action<'_>, value_len: usize) -> Packet<'_> {
    Packet { opcode, opaque: 9, cas, quiet: opcode::is_quiet(opcode), action, value_len }
}

fn line(packet: &Packet<'_>) -> String {
    let mut out = Vec::new();
    write_line(packet, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn requests_become_the_lines_of_the_table() {
    let key = b"k".as_slice();
    let store = |verb, key| Action::Store { verb, key, flags: u32::MAX, exptime: 3600 };
    let count = |incr, initial| Action::Count { incr, key, delta: u64::MAX, initial };
    for (cas, action, value_len, wanted) in [
        (0, Action::Read { key, with_key: true, exptime: None }, 0, "mg k v f c\r\n"),
        (0, Action::Read { key: b"a b", with_key: true, exptime: None }, 0, "mg YSBi b v f c\r\n"),
        (0, Action::Read { key: b"a\x7f", with_key: false, exptime: Some(5) }, 0, "mg YX8= b v f c T5\r\n"),
        (0, Action::Touch { key, exptime: u32::MAX }, 0, "mg k f c T2147483647\r\n"),
        (0, Action::Touch { key: b"\0", exptime: 0 }, 0, "mg AA== b f c T0\r\n"),
        (0, store(StoreVerb::Set, key), 5, "ms k 5 F4294967295 T3600 c\r\n"),
        (7, store(StoreVerb::Set, key), 5, "ms k 5 F4294967295 T3600 c C7\r\n"),
        (0, store(StoreVerb::Add, b"\r\n"), 0, "ms DQo= 0 b F4294967295 T3600 c ME\r\n"),
        (0, store(StoreVerb::Replace, key), 5, "ms k 5 F4294967295 T3600 c MR\r\n"),
        (7, store(StoreVerb::Add, key), 5, "ms k 5 F4294967295 T3600 c C7\r\n"),
        (7, store(StoreVerb::Replace, key), 5, "ms k 5 F4294967295 T3600 c C7\r\n"),
        (0, Action::Join { verb: StoreVerb::Append, key }, 5, "ms k 5 c MA\r\n"),
        (7, Action::Join { verb: StoreVerb::Prepend, key }, 5, "ms k 5 c MP C7\r\n"),
        (0, Action::Delete { key: b"\xff\x80" }, 0, ""),
        (7, Action::Delete { key }, 0, "md k C7\r\n"),
        (0, count(true, None), 0, "ma k MI D18446744073709551615 v c\r\n"),
        (7, count(false, Some((3, 1 << 31))), 0, "ma k MD D18446744073709551615 v c N2147483647 J3 C7\r\n"),
        (0, Action::Flush { delay: None }, 0, "flush_all\r\n"),
        (0, Action::Flush { delay: Some(0) }, 0, "flush_all\r\n"),
        (0, Action::Flush { delay: Some(u32::MAX) }, 0, "flush_all 2147483647\r\n"),
    ] {
        let packet = packet(0, cas, action, value_len);
        if wanted.is_empty() {
            let mut out = Vec::new();
            write_line(&packet, &mut out).unwrap();
            assert_eq!(out, b"md \xff\x80\r\n", "high bytes are a key of text");
        } else {
            assert_eq!(line(&packet), wanted);
        }
    }
}

#[test]
fn a_key_that_base64_cannot_say_is_refused_and_nothing_is_written() {
    for (len, fits) in [(186, true), (187, false), (250, false)] {
        let key = [b" ", &vec![b'k'; len - 1][..]].concat();
        let mut out = b"before".to_vec();
        let set = Action::Store { verb: StoreVerb::Set, key: &key, flags: 0, exptime: 0 };
        let written = write_line(&packet(1, 0, set, 3), &mut out);
        assert_eq!(written, if fits { Ok(()) } else { Err(Refused::KeyTooLong) });
        assert_eq!(out == b"before", !fits);
        assert!(!fits || out.split(|&byte| byte == b' ').nth(1).unwrap().len() <= 250);
    }
    let plain = [b'k'; 250];
    assert!(line(&packet(4, 0, Action::Delete { key: &plain }, 0)).len() > 250);
    for action in
        [Action::Noop, Action::Version, Action::Quit, Action::Stat { group: b"" }, Action::Config { key: b"" }]
    {
        assert_eq!(write_line(&packet(0, 0, action, 0), &mut Vec::new()), Err(Refused::AnsweredHere));
    }
}

#[test]
fn flags_and_cas_survive_the_spaces_of_old_versions() {
    for (line, wanted) in [
        ("VALUE k 5 3 12", Some((5, 12))),
        ("VALUE k 4294967295 3 18446744073709551615", Some((u32::MAX, u64::MAX))),
        ("VALUE k 4294967301 3 1", Some((5, 1))),
        ("VALUE k 5 3", Some((5, 0))),
        ("VALUE k x 3 1", None),
        ("VA 3 f5 c12", Some((5, 12))),
        ("VA 3  f5  c12 ", Some((5, 12))),
        ("VA 3 c12 b W Z f5", Some((5, 12))),
        ("VA 3", Some((0, 0))),
        ("VA 3 fx", None),
        ("HD f5 c12", Some((5, 12))),
        ("HD ", Some((0, 0))),
        ("EN", None),
        ("", None),
    ] {
        assert_eq!(flags_and_cas(line.as_bytes()), wanted, "{line:?}");
    }
}

/// Status, cas and body of what is answered; `None` for silence.
fn said(opcode: u8, say: impl FnOnce(Form, &mut Vec<u8>)) -> Option<(u16, u64, Vec<u8>)> {
    let mut out = Vec::new();
    say(Form::new(opcode, 0x0102_0304), &mut out);
    let head = out.first_chunk::<24>()?;
    assert_eq!((head[0], head[1], &head[12..16]), (0x81, opcode, &[1, 2, 3, 4][..]));
    let body_len = u32::from_be_bytes(head[8..12].try_into().unwrap()) as usize;
    assert_eq!(out.len(), 24 + body_len);
    let cas = u64::from_be_bytes(head[16..].try_into().unwrap());
    Some((u16::from_be_bytes([head[6], head[7]]), cas, out[24..].to_vec()))
}

#[test]
fn answers_become_the_packets_of_the_table() {
    let exists = Some((2, 0, b"Data exists for key.".to_vec()));
    let not_found = Some((1, 0, b"Not found".to_vec()));
    let not_stored = Some((5, 0, b"Not stored.".to_vec()));
    let done = |cas| Some((0, cas, Vec::new()));
    for (opcode, line, wanted) in [
        (opcode::SET, "HD c12", done(12)),
        (opcode::SET, "HD  c12 ", done(12)),
        (opcode::SETQ, "HD c12", None),
        (opcode::SETQ, "EX c0", exists.clone()),
        (opcode::SET, "NF c0", not_found.clone()),
        (opcode::ADD, "NS c0", exists.clone()),
        (opcode::ADDQ, "NS c0", exists.clone()),
        (opcode::REPLACE, "NS c0", not_found.clone()),
        (opcode::REPLACEQ, "NS c0", not_found.clone()),
        (opcode::APPEND, "NS c0", not_stored.clone()),
        (opcode::PREPENDQ, "NS c0", not_stored),
        (opcode::DELETE, "HD ", done(0)),
        (opcode::DELETEQ, "HD ", None),
        (opcode::DELETEQ, "NF ", not_found.clone()),
        (opcode::DELETE, "EX", exists.clone()),
        (opcode::INCREMENTQ, "NF", not_found.clone()),
        (opcode::INCREMENT, "EX", exists),
        (opcode::TOUCH, "HD f5 c12", Some((0, 12, vec![0, 0, 0, 5]))),
        (opcode::TOUCH, "EN", not_found.clone()),
        (opcode::GETQ, "EN", None),
        (opcode::GATK, "EN", not_found),
        (opcode::FLUSH, "OK", done(0)),
        (opcode::FLUSHQ, "OK", None),
        (opcode::FLUSH, "CLIENT_ERROR flush_all not allowed", Some((0x20, 0, b"Auth failure.".to_vec()))),
        (opcode::SETQ, "SERVER_ERROR object too large for cache", Some((3, 0, b"Too large.".to_vec()))),
        (
            opcode::SET,
            "SERVER_ERROR out of memory storing object",
            Some((0x82, 0, b"Out of memory allocating item".to_vec())),
        ),
        (
            opcode::GET,
            "SERVER_ERROR out of memory writing get response",
            Some((0x82, 0, b"out of memory writing get response".to_vec())),
        ),
        (opcode::GETQ, "SERVER_ERROR proxy: node n is down", Some((0x84, 0, b"proxy: node n is down".to_vec()))),
        (opcode::SET, "ERROR", Some((0x84, 0, b"ERROR".to_vec()))),
        (opcode::SET, "what", Some((0x84, 0, b"what".to_vec()))),
        (opcode::SET, "", Some((0x84, 0, Vec::new()))),
        (
            opcode::DECREMENTQ,
            "CLIENT_ERROR cannot increment or decrement non-numeric value",
            Some((6, 0, b"Non-numeric server-side value for incr or decr".to_vec())),
        ),
    ] {
        assert_eq!(said(opcode, |form, out| form.answer(line.as_bytes(), out)), wanted, "{opcode:02x} {line:?}");
    }
    assert_eq!(said(opcode::SET, |form, out| form.error(b"proxy: lost", out)).unwrap().0, 0x84);
}

#[test]
fn numbers_values_and_misses_are_said_as_their_opcode_has_them() {
    let number = |opcode, digits: &[u8]| said(opcode, |form, out| form.number(b"VA 2 c12", digits, out));
    assert_eq!(number(opcode::INCREMENT, b"258"), Some((0, 12, vec![0, 0, 0, 0, 0, 0, 1, 2])));
    assert_eq!(number(opcode::DECREMENT, b"18446744073709551615").unwrap().2, [0xff; 8]);
    assert_eq!(number(opcode::DECREMENT, b"5  ").unwrap().2, [0, 0, 0, 0, 0, 0, 0, 5]);
    assert_eq!(number(opcode::INCREMENTQ, b"258"), None);
    assert_eq!(number(opcode::INCREMENTQ, b"x").unwrap().0, 0x84);

    let value = |opcode| {
        said(opcode, |form, out| {
            form.value_head(b"Hello", 0xdead_beef, 12, 5, out);
            out.extend_from_slice(b"World");
        })
    };
    for opcode in [opcode::GET, opcode::GETQ, opcode::GAT, opcode::GATQ] {
        assert_eq!(value(opcode), Some((0, 12, b"\xde\xad\xbe\xefWorld".to_vec())));
    }
    for opcode in [opcode::GETK, opcode::GETKQ, opcode::GATK, opcode::GATKQ] {
        assert_eq!(value(opcode), Some((0, 12, b"\xde\xad\xbe\xefHelloWorld".to_vec())));
    }

    let miss = |opcode| said(opcode, |form, out| form.miss(b"zz", out));
    assert_eq!(miss(opcode::GET), Some((1, 0, b"Not found".to_vec())));
    assert_eq!(miss(opcode::GETK), Some((1, 0, b"zz".to_vec())));
    assert_eq!(miss(opcode::GATK), Some((1, 0, b"zz".to_vec())));
    assert_eq!(miss(opcode::TOUCH), Some((1, 0, b"Not found".to_vec())));
    for opcode in 0..=u8::MAX {
        assert_eq!(Form::new(opcode, 0).is_hidden_miss(), miss(opcode).is_none());
    }
}

proptest! {
    #[test]
    fn any_packet_is_one_line_of_text(
        opcode in prop_oneof![0_u8..=0x24, any::<u8>()],
        extras in prop::sample::select(&[0_usize, 4, 8, 20][..]),
        cas: u64,
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let key_len = body.len().saturating_sub(extras);
        let mut bytes = vec![0x80, opcode];
        bytes.extend(u16::try_from(key_len).unwrap().to_be_bytes());
        bytes.extend([u8::try_from(extras).unwrap(), 0, 0, 0]);
        bytes.extend(u32::try_from(key_len + extras).unwrap().to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(cas.to_be_bytes());
        bytes.extend(body);
        let head_len = Header::read(&bytes).unwrap().unwrap().head_len();
        let Some(head) = bytes.get(..head_len) else { return Ok(()) };
        let Ok(packet) = parse(head, 1000) else { return Ok(()) };
        let mut out = Vec::new();
        if write_line(&packet, &mut out).is_err() {
            prop_assert!(out.is_empty());
            return Ok(());
        }
        prop_assert!(out.len() <= 450);
        let line = out.strip_suffix(b"\r\n").unwrap();
        prop_assert!(line.iter().all(|&byte| byte >= b' ' && byte != 0x7f));
        prop_assert!(line.split(|&byte| byte == b' ').all(|word| (1..=250).contains(&word.len())));
    }

    #[test]
    fn no_answer_panics(opcode: u8, line in prop::collection::vec(any::<u8>(), 0..80), more in "(VA|HD|VALUE|NS) .{0,30}") {
        for line in [&*line, more.as_bytes()] {
            for say in [Form::answer, Form::error, Form::miss] {
                let mut out = Vec::new();
                say(Form::new(opcode, 1), line, &mut out);
                prop_assert!(out.is_empty() || out.len() >= 24);
            }
            let mut out = Vec::new();
            Form::new(opcode, 1).number(line, line, &mut out);
        }
    }
}
