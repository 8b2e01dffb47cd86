use super::*;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

/// A packet of these parts.
fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    bytes.extend([u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
    bytes.extend(u32::try_from(extras.len() + key.len() + value.len()).unwrap().to_be_bytes());
    bytes.extend(0x1122_3344_u32.to_be_bytes());
    bytes.extend(7_u64.to_be_bytes());
    bytes.extend([extras, key, value].concat());
    bytes
}

/// What is read of a packet given up to its value.
fn read(bytes: &[u8]) -> Result<Packet<'_>, Refusal<'_>> {
    let header = Header::read(bytes).unwrap().unwrap();
    parse(&bytes[..header.head_len()], MAX)
}

#[test]
fn a_set_is_read_as_it_stands_on_the_wire() {
    let bytes = b"\x80\x01\x00\x05\x08\x00\x00\x00\x00\x00\x00\x12\x11\x22\x33\x44\0\0\0\0\0\0\0\0\xde\xad\xbe\xef\0\0\x0e\x10HelloWorld";
    let header = Header::read(bytes).unwrap().unwrap();
    assert_eq!((header.head_len(), header.value_len()), (37, 5));
    let action = Action::Store { verb: StoreVerb::Set, key: b"Hello", flags: 0xdead_beef, exptime: 3600 };
    let wanted = Packet { opcode: 1, opaque: 0x1122_3344, cas: 0, quiet: false, action, value_len: 5 };
    assert_eq!(read(bytes), Ok(wanted));
    for cut in 0..HEADER_BYTES {
        assert_eq!(Header::read(&bytes[..cut]), None);
    }
}

#[test]
fn every_opcode_is_read() {
    let key = b"k".as_slice();
    let count = [&2_u64.to_be_bytes()[..], &3_u64.to_be_bytes(), &4_u32.to_be_bytes()].concat();
    let no_initial = [&2_u64.to_be_bytes()[..], &3_u64.to_be_bytes(), &[0xff; 4]].concat();
    let store = |verb| Action::Store { verb, key: b"k", flags: 5, exptime: 6 };
    let read_of = |with_key, exptime| Action::Read { key: b"k", with_key, exptime };
    let count_of = |incr, initial| Action::Count { incr, key: b"k", delta: 2, initial };
    let store_extras = [0, 0, 0, 5, 0, 0, 0, 6];
    let exptime = [0, 0, 0, 9];
    let none: &[u8] = &[];
    for (opcode, extras, key, action) in [
        (0x00, none, key, read_of(false, None)),
        (0x09, none, key, read_of(false, None)),
        (0x0c, none, key, read_of(true, None)),
        (0x0d, none, key, read_of(true, None)),
        (0x1d, &exptime, key, read_of(false, Some(9))),
        (0x1e, &exptime, key, read_of(false, Some(9))),
        (0x23, &exptime, key, read_of(true, Some(9))),
        (0x24, &exptime, key, read_of(true, Some(9))),
        (0x1c, &exptime, key, Action::Touch { key, exptime: 9 }),
        (0x01, &store_extras, key, store(StoreVerb::Set)),
        (0x11, &store_extras, key, store(StoreVerb::Set)),
        (0x02, &store_extras, key, store(StoreVerb::Add)),
        (0x12, &store_extras, key, store(StoreVerb::Add)),
        (0x03, &store_extras, key, store(StoreVerb::Replace)),
        (0x13, &store_extras, key, store(StoreVerb::Replace)),
        (0x0e, none, key, Action::Join { verb: StoreVerb::Append, key }),
        (0x19, none, key, Action::Join { verb: StoreVerb::Append, key }),
        (0x0f, none, key, Action::Join { verb: StoreVerb::Prepend, key }),
        (0x1a, none, key, Action::Join { verb: StoreVerb::Prepend, key }),
        (0x04, none, key, Action::Delete { key }),
        (0x14, none, key, Action::Delete { key }),
        (0x05, &count, key, count_of(true, Some((3, 4)))),
        (0x15, &no_initial, key, count_of(true, None)),
        (0x06, &no_initial, key, count_of(false, None)),
        (0x16, &count, key, count_of(false, Some((3, 4)))),
        (0x08, none, none, Action::Flush { delay: None }),
        (0x08, &exptime, none, Action::Flush { delay: Some(9) }),
        (0x18, none, none, Action::Flush { delay: None }),
        (0x0a, none, none, Action::Noop),
        (0x0b, none, none, Action::Version),
        (0x10, none, none, Action::Stat { group: none }),
        (0x10, none, b"items", Action::Stat { group: b"items" }),
        (0x07, none, none, Action::Quit),
        (0x17, none, none, Action::Quit),
        (0x60, none, b"cluster", Action::Config { key: b"cluster" }),
    ] {
        let bytes = packet(opcode, extras, key, b"");
        let quiet = [9, 0x0d, 0x1e, 0x24].contains(&opcode) || (0x11..=0x1a).contains(&opcode);
        let wanted = Packet { opcode, opaque: 0x1122_3344, cas: 7, quiet, action, value_len: 0 };
        assert_eq!(read(&bytes), Ok(wanted), "{opcode:02x}");
    }
}

#[test]
fn what_an_opcode_cannot_have_is_refused_by_the_header_alone() {
    let long = [b'k'; 251];
    let (invalid, unknown) = ((Status::InvalidArguments, true), (Status::UnknownCommand, false));
    for (opcode, extras, key, value, (status, close)) in [
        (0x00, 0, &long[..0], 0, invalid),
        (0x00, 0, &long, 0, invalid),
        (0x00, 4, b"k", 0, invalid),
        (0x0d, 0, b"k", 1, invalid),
        (0x01, 4, b"k", 3, invalid),
        (0x01, 8, b"", 3, invalid),
        (0x11, 8, &long, 3, invalid),
        (0x0e, 8, b"k", 3, invalid),
        (0x05, 16, b"k", 0, invalid),
        (0x05, 20, b"k", 1, invalid),
        (0x08, 8, b"", 0, invalid),
        (0x08, 0, b"k", 0, invalid),
        (0x0a, 0, b"k", 0, invalid),
        (0x0b, 0, b"", 1, invalid),
        (0x07, 4, b"", 0, invalid),
        (0x1c, 0, b"k", 0, invalid),
        // The value would be the next packet to memcached.
        (0x1d, 4, b"k", 30, invalid),
        (0x10, 0, b"k", 30, invalid),
        (0x20, 0, b"k", 0, invalid),
        (0x21, 0, b"", 3, invalid),
        (0x20, 0, b"", 0, unknown),
        (0x21, 0, b"PLAIN", 9, unknown),
        (0x22, 0, b"PLAIN", 9, unknown),
        (0x1b, 4, b"", 0, unknown),
        (0x99, 7, b"key", 1 << 20, unknown),
        (0x99, 0, &long, 0, invalid),
        (0x60, 4, b"k", 0, unknown),
        (0x60, 0, b"k", 9, unknown),
    ] {
        let bytes = packet(opcode, &vec![0; extras], key, &vec![0; value]);
        let header = Header::read(&bytes).unwrap().unwrap();
        let swallow = (bytes.len() - HEADER_BYTES) as u64;
        let wanted = Refusal { status, opcode, opaque: 0x1122_3344, swallow, close, stale: None };
        assert_eq!(header.check(), Err(wanted), "{opcode:02x}");
        let swallow = value as u64;
        assert_eq!(read(&bytes), Err(Refusal { swallow, ..wanted }), "{opcode:02x}");
    }
}

#[test]
fn lengths_that_exceed_the_body_are_an_unknown_command_that_closes() {
    for (key_len, extras_len, body_len) in [(5, 0, 3), (0, 8, 7), (65_535, 255, 0)] {
        let header = Header { opcode: 0, key_len, extras_len, body_len, opaque: 1, cas: 0 };
        let refusal = header.check().unwrap_err();
        assert_eq!((refusal.status, refusal.close), (Status::UnknownCommand, true));
    }
}

#[test]
fn a_value_over_the_limit_is_swallowed_and_only_set_drops_the_old_one() {
    let stale = Some(b"k".as_slice());
    for (opcode, extras, stale) in
        [(0x01, 8, stale), (0x11, 8, stale), (0x02, 8, None), (0x13, 8, None), (0x0e, 0, None)]
    {
        let bytes = packet(opcode, &[0; 8][..extras], b"k", &vec![0; MAX + 1]);
        let wanted = Refusal {
            status: Status::TooLarge,
            opcode,
            opaque: 0x1122_3344,
            swallow: MAX as u64 + 1,
            close: false,
            stale,
        };
        assert_eq!(read(&bytes), Err(wanted));
        assert_eq!(parse(&bytes, MAX), Err(wanted), "what is behind the head does not count");
        let fits = packet(opcode, &[0; 8][..extras], b"k", &vec![0; MAX]);
        assert_eq!(read(&fits).unwrap().value_len, MAX);
    }
}

#[test]
fn a_refusal_is_said_as_memcached_says_it() {
    let mut out = Vec::new();
    let bytes = packet(0x99, b"", b"k", b"value");
    read(&bytes).unwrap_err().write(&mut out);
    assert_eq!(out, b"\x81\x99\0\0\0\0\0\x81\0\0\0\x0f\x11\x22\x33\x44\0\0\0\0\0\0\0\0Unknown command");
}

proptest! {
    #[test]
    fn no_bytes_panic_and_lengths_add_up(
        opcode in prop_oneof![0_u8..=0x25, Just(0x60), any::<u8>()],
        extras_len in prop_oneof![Just(0_u8), Just(4), Just(8), Just(20), any::<u8>()],
        key_len in prop_oneof![0_u16..=260, any::<u16>()],
        value_len in prop_oneof![Just(0_u32), 0_u32..=100, any::<u32>()],
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        max_value in prop_oneof![Just(0_usize), 0_usize..=100, Just(usize::MAX)],
    ) {
        let mut head = vec![0x80, opcode];
        head.extend(key_len.to_be_bytes());
        head.extend([extras_len, 0, 0, 0]);
        head.extend(value_len.wrapping_add(u32::from(key_len)).wrapping_add(u32::from(extras_len)).to_be_bytes());
        head.extend([0; 12]);
        head.extend(bytes);
        let header = Header::read(&head).unwrap().unwrap();
        match parse(&head, max_value) {
            Ok(packet) => {
                prop_assert!(header.check().is_ok());
                prop_assert!(packet.value_len <= max_value);
                prop_assert_eq!(header.head_len() + packet.value_len, HEADER_BYTES + header.body_len);
                prop_assert!(packet.key().is_none_or(|key| key.len() == header.key_len && (1..=250).contains(&key.len())));
            }
            Err(refusal) => {
                prop_assert!(refusal.status != Status::Ok);
                let given = head.len().min(header.head_len()) - HEADER_BYTES;
                prop_assert_eq!(refusal.swallow, header.body_len.saturating_sub(given) as u64);
            }
        }
        if header.check().is_ok() {
            prop_assert!(header.head_len() <= 600);
        }
    }

    #[test]
    fn no_beginning_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let header = Header::read(&bytes);
        prop_assert_eq!(header.is_none(), bytes.len() < HEADER_BYTES);
        let _ = parse(&bytes, MAX);
    }
}
