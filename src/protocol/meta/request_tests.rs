use proptest::prelude::*;

use super::*;

const MAX: usize = 1 << 20;

fn refusal(line: &str) -> Refusal<'_> {
    parse(line.as_bytes(), MAX).expect_err("a refusal")
}

fn meta(line: &str) -> Meta<'_> {
    parse(line.as_bytes(), MAX).expect("a request")
}

fn written(line: &str) -> String {
    let mut out = Vec::new();
    meta(line).write(&mut out);
    String::from_utf8(out).expect("text")
}

#[test]
fn a_request_is_read_whole() {
    let mg = meta("mg foo v f q N30 k Oabc");
    assert_eq!((mg.verb, mg.key, mg.flags), (Verb::Get, b"foo".as_slice(), b" v f q N30 k Oabc".as_slice()));
    assert!(mg.quiet && mg.value && mg.writes && mg.creates && !mg.is_base64);
    assert_eq!((mg.token(b'N'), mg.token(b'O'), mg.token(b'f')), (Some(&b"30"[..]), Some(&b"abc"[..]), Some(&b""[..])));
    assert_eq!(mg.token(b'x'), None);

    let ms = meta("ms foo 2 ME C7 I");
    assert_eq!((ms.verb, ms.len, ms.mode), (Verb::Set, 2, b'E'));
    assert!(ms.writes && ms.is_conditional && ms.invalidates && !ms.quiet);
    assert_eq!((meta("ms foo 2").mode, meta("ma foo").mode, meta("ma foo M-").mode), (b'S', b'I', b'-'));
}

#[test]
fn what_changes_something_writes() {
    for (line, writes) in [
        ("mg a", false),
        ("mg a v T30", false),
        ("mg a N0", true),
        ("mg a R30", true),
        ("mg a E1", true),
        ("ms a 0", true),
        ("md a", true),
        ("ma a", true),
        ("me a", false),
    ] {
        assert_eq!(meta(line).writes, writes, "{line:?}");
    }
}

#[test]
fn a_node_gets_single_spaces_and_no_q() {
    for (line, sent) in [
        ("mg  a   v  q   k ", "mg a v k\r\n"),
        ("mg a q8 v", "mg a v\r\n"),
        ("ms  a  +007  q T0", "ms a 7 T0\r\n"),
        ("ms a 3\tx", "ms a 3\r\n"),
        ("md a q", "md a\r\n"),
        ("ma a q", "ma a\r\n"),
        ("ma a v q", "ma a\r\n"),
        ("ma a v", "ma a v\r\n"),
        ("mg a v q", "mg a v\r\n"),
        // 1.6.15 refuses an `mg` without flags.
        ("mg a", "mg a P\r\n"),
        ("mg a q", "mg a P\r\n"),
        ("me a x y", "me a\r\n"),
        ("me Zm9v  b q", "me Zm9v b\r\n"),
        ("me Zm9v q b", "me Zm9v\r\n"),
    ] {
        assert_eq!(written(line), sent, "{line:?}");
    }
}

/// What memcached 1.6.18 says, asked line by line.
#[test]
fn refusals_have_memcacheds_words() {
    let long = "k".repeat(251);
    let opaque = "o".repeat(32);
    let flags = "c f h k l s t u v O1 P L C1 F1 I MS".to_owned();
    let cases = [
        ("mg".into(), "ERROR"),
        ("ms".into(), "ERROR"),
        ("md ".into(), "ERROR"),
        ("ma".into(), "ERROR"),
        ("me".into(), BAD_LINE),
        (format!("mg {long} c c"), BAD_LINE),
        (format!("ms {long} 1"), BAD_LINE),
        (format!("me {long}"), BAD_LINE),
        ("ms a".into(), BAD_LINE),
        ("ms a x".into(), BAD_LINE),
        ("ms a x c c".into(), BAD_LINE),
        ("ms a x MX".into(), BAD_LINE),
        ("ms a -1".into(), BAD_LINE),
        ("ms a 2147483646".into(), BAD_LINE),
        (format!("mg a {flags} J1 D1"), "CLIENT_ERROR options flags are too long"),
        (format!("md a {flags} J1 D1"), "CLIENT_ERROR options flags too long"),
        (format!("ma a {flags} J1 D1"), "CLIENT_ERROR options flags too long"),
        (format!("ms a 1 {flags} J1"), "CLIENT_ERROR options flags too long"),
        (format!("ms a x {flags} J1"), "CLIENT_ERROR options flags too long"),
        (format!("ma a {flags} J1"), "CLIENT_ERROR invalid mode for ma M token"),
        ("mg a c c".into(), DUPLICATE),
        ("mg a O1 O2".into(), DUPLICATE),
        ("mg a \u{7f}".into(), DUPLICATE),
        ("mg a é".into(), DUPLICATE),
        ("md a c c".into(), BAD_OR_DUPLICATE),
        ("ma a c c".into(), BAD_OR_DUPLICATE),
        ("mg a W".into(), BAD_FLAG),
        ("ms a 1 noreply".into(), BAD_FLAG),
        ("mg a \tv".into(), BAD_FLAG),
        ("md a S".into(), BAD_OR_DUPLICATE),
        ("mg !!!! b".into(), "CLIENT_ERROR error decoding key"),
        ("mg Zm9 b".into(), "CLIENT_ERROR error decoding key"),
        ("mg Zm9vYg b".into(), "CLIENT_ERROR error decoding key"),
        ("mg Zm-v b".into(), "CLIENT_ERROR error decoding key"),
        ("mg ==== b".into(), "CLIENT_ERROR error decoding key"),
        ("me a b".into(), BAD_LINE),
        ("md a b".into(), BAD_OR_DUPLICATE),
        ("mg a Tx b".into(), "CLIENT_ERROR error decoding key"),
        ("mg a b Tx".into(), BAD_TOKEN),
        ("mg a N".into(), BAD_TOKEN),
        ("mg a R5x".into(), BAD_TOKEN),
        ("ms a 3 C-1".into(), BAD_TOKEN),
        ("ms a 3 F-1".into(), BAD_LINE),
        ("ms a 3 Jx Fx".into(), "CLIENT_ERROR invalid numeric initial value"),
        ("ms a 3 Fx Jx".into(), "CLIENT_ERROR invalid numeric initial value"),
        ("ms a 3 Fx b".into(), "CLIENT_ERROR error decoding key"),
        ("ms a 3 Jx Tx".into(), BAD_TOKEN),
        ("ms a 3 Tx c c".into(), DUPLICATE),
        ("mg a D".into(), "CLIENT_ERROR invalid numeric delta value"),
        ("ma a Dx".into(), BAD_OR_DUPLICATE),
        ("ms a 3 M".into(), "CLIENT_ERROR incorrect length for M token"),
        ("ms a 3 MSS".into(), "CLIENT_ERROR incorrect length for M token"),
        ("ms a 3 MX".into(), "CLIENT_ERROR invalid mode for ms M token"),
        ("ms a 3 MX Tx".into(), BAD_TOKEN),
        ("ma a MS".into(), "CLIENT_ERROR invalid mode for ma M token"),
        ("ma a MII".into(), BAD_OR_DUPLICATE),
        (format!("mg a O{opaque}"), "CLIENT_ERROR opaque token too long"),
        (format!("ma a O{opaque}"), "CLIENT_ERROR opaque token too long"),
        ("mn".into(), "ERROR"),
    ];
    for (line, text) in cases {
        let found = refusal(&line);
        assert_eq!((found.text, found.quiet, found.stale), (text, false, None), "{line:?}");
    }
}

#[test]
fn what_memcached_takes_is_taken() {
    let key = "k".repeat(250);
    let opaque = "o".repeat(31);
    let flags = "c f h k l s t u v O1 P L C1 F1 I MS";
    for line in [
        format!("mg {key}"),
        format!("ms {key} 0"),
        format!("mg a {flags} J1"),
        format!("ms a 1 {flags}"),
        format!("mg a O{opaque}"),
        "mg a O".into(),
        "mg a MZ".into(),
        "mg a Pproxy=1 L".into(),
        "ms a 1 F4294967296 T-1 T".replace(" T ", " ").trim_end_matches(" T").into(),
        "md a x".into(),
        "ms a 2147483645 q".into(),
    ] {
        assert!(parse(line.as_bytes(), usize::MAX).is_ok(), "{line:?}");
    }
}

#[test]
fn the_block_of_a_refused_line_is_swallowed_where_its_length_is_beyond_doubt() {
    let long = "k".repeat(251);
    for (line, block) in [
        (format!("ms {long} 9 T0"), Block::Swallow(11)),
        ("ms a 9 c c".into(), Block::Swallow(11)),
        ("ms a 9 MX".into(), Block::Swallow(11)),
        ("ms a 9 noreply".into(), Block::Swallow(11)),
        (format!("ms a 9{}", " c".repeat(900)), Block::Swallow(11)),
        // The key "a 9" of 12 bytes: nobody knows.
        ("ms a 9 12 T0".into(), Block::Unknown),
        ("ms a".into(), Block::Unknown),
        ("ms a T0".into(), Block::Unknown),
        ("ms".into(), Block::Unknown),
        (format!("ms a x{}", " c".repeat(900)), Block::Unknown),
        ("mg a c c".into(), Block::None),
        (format!("md {long}"), Block::None),
    ] {
        assert_eq!(refusal(&line).block, block, "{line:?}");
    }
}

#[test]
fn a_value_too_large_leaves_no_old_one() {
    for (line, base64) in [("ms Zm9v 1048577 q", false), ("ms Zm9v 1048577 ME", false), ("ms Zm9v 1048577 b", true)] {
        let found = refusal(line);
        assert!(found.is_too_large() && !found.quiet);
        assert_eq!((found.block, found.stale), (Block::Swallow(1_048_579), Some(&b"Zm9v"[..])), "{line:?}");
        assert_eq!(found.stale_is_base64, base64, "{line:?}");
    }
    assert_eq!(refusal("ms a 1048577 MX").text, "CLIENT_ERROR invalid mode for ms M token");
    assert_eq!(meta("ms a 1048576").len, 1 << 20);
}

#[test]
fn a_base64_key_is_routed_by_its_bytes() {
    let longest = "QUFB".repeat(62);
    for (line, key) in [
        ("mg foo v".to_owned(), b"foo".to_vec()),
        ("mg Zm9v b".into(), b"foo".to_vec()),
        ("mg Zm9v v".into(), b"Zm9v".to_vec()),
        ("md AAECIA== b".into(), vec![0, 1, 2, b' ']),
        ("me Zm9vYg== b".into(), b"foob".to_vec()),
        (format!("ms {longest} 1 b"), vec![b'A'; 186]),
    ] {
        assert_eq!(meta(&line).routing_key(&mut [0; MAX_KEY]), key, "{line:?}");
    }
    // Each of these memcached reads as another text: what is stored would not be what is routed.
    for line in ["mg Zm9vYh== b", "mg Zg==Zg== b", "mg Zm9vYg==Zm9v b", "mg Zm9v\u{1} b", "mg Zm9v= b"] {
        assert_eq!(refusal(line).text, "CLIENT_ERROR error decoding key", "{line:?}");
    }
}

#[test]
fn a_miss_is_told_as_1_6_18_tells_it() {
    for (line, miss) in [
        ("mg a v", "EN\r\n"),
        ("mg a k v O9 q", "EN ka O9\r\n"),
        ("mg Zm9v O1 k b", "EN O1 kZm9v b\r\n"),
        ("mg a O", "EN O\r\n"),
        ("mg a c s t b".trim_end_matches(" b"), "EN\r\n"),
        ("me Zm9v b", "EN\r\n"),
    ] {
        let mut out = Vec::new();
        meta(line).soft_miss(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), miss, "{line:?}");
    }
}

/// `eA0KSEQ=` is `x\r\nHD`: memcached 1.6.18 answers `mg eA0KSEQ= b N30 k` by `HD kx` and `HD W`.
#[test]
fn a_key_with_a_line_end_is_never_asked_back() {
    assert_eq!(written("mg eA0KSEQ= b N30 k v"), "mg eA0KSEQ= b N30 v\r\n");
    assert_eq!(written("mg Zm9v b k"), "mg Zm9v b k\r\n");
    // These echo what was asked.
    assert_eq!(written("md eA0KSEQ= b k"), "md eA0KSEQ= b k\r\n");
    assert_eq!(refusal("me eA0KSEQ= b").text, BAD_LINE);

    let relayed = |line: &str, answer: &str| {
        let mut out = Vec::new();
        meta(line).relay(answer.as_bytes(), &mut out);
        String::from_utf8(out).expect("text")
    };
    assert_eq!(relayed("mg eA0KSEQ= b k v", "VA 1 W\r\n"), "VA 1 W keA0KSEQ= b\r\n");
    assert_eq!(relayed("mg eA0KSEQ= b k", "SERVER_ERROR x\r\n"), "SERVER_ERROR x\r\n");
    assert_eq!(relayed("mg Zm9v b k v", "VA 1 kZm9v b\r\n"), "VA 1 kZm9v b\r\n");
}

proptest! {
    #[test]
    fn no_line_panics_and_what_is_sent_says_the_same(
        verb in prop::sample::select(vec!["mg", "ms", "md", "ma", "me"]),
        words in prop::collection::vec(prop_oneof![
            "[bcfhklqstuv]",
            "[CDEFJNRT][0-9+-]{0,3}",
            "M[A-Z+-]{0,2}",
            "[OPL][ -~&&[^ ]]{0,33}",
            "[0-9]{1,7}",
            "[A-Za-z0-9+/]{4}(==)?",
            "[ -~&&[^ ]]{1,5}",
        ], 0..20),
    ) {
        let line = format!("{verb} {}", words.join("  "));
        if let Ok(first) = parse(line.as_bytes(), MAX) {
            let mut sent = Vec::new();
            first.write(&mut sent);
            prop_assert!(sent.ends_with(b"\r\n"));
            sent.truncate(sent.len() - 2);
            prop_assert!(!sent.contains(&b'\n'));
            let again = parse(&sent, MAX).expect("valid");
            prop_assert_eq!((again.verb, again.key, again.len, again.mode), (first.verb, first.key, first.len, first.mode));
            prop_assert!(!again.quiet);
            prop_assert_eq!(again.is_base64, first.is_base64);
            // Nor is a value asked for that would be hidden.
            let dropped = |flag: &&[u8]| match flag.first() {
                Some(b'q') => true,
                Some(b'k') => first.keeps_key,
                Some(b'v') => !first.tells_value(),
                _ => false,
            };
            let asked: Vec<&[u8]> = first.flags().filter(|flag| !dropped(flag)).collect();
            if first.verb != Verb::Debug && !asked.is_empty() {
                prop_assert_eq!(again.flags().collect::<Vec<_>>(), asked);
            }
            prop_assert!(!first.keeps_key || first.verb == Verb::Get);
            prop_assert!((1..=MAX_KEY).contains(&first.routing_key(&mut [0; MAX_KEY]).len()));
        }
    }

    #[test]
    fn no_bytes_panic(line in prop::collection::vec(any::<u8>(), 0..80)) {
        for verb in [b"mg ", b"ms ", b"md ", b"ma ", b"me "] {
            let _ = parse(&[verb.as_slice(), &line].concat(), MAX);
        }
    }
}
