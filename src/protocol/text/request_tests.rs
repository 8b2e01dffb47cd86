use super::*;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

fn refusal(line: &[u8]) -> Refusal<'_> {
    parse(trim(line), MAX).expect_err("a refusal")
}

fn store_of(line: &[u8]) -> Store<'_> {
    match parse(trim(line), MAX) {
        Ok(Request::Store(store)) => store,
        other => panic!("not a storage request: {other:?}"),
    }
}

#[test]
fn a_storage_line_is_read_and_written_in_canonical_form() {
    for (line, forwarded) in [
        ("set k 0 0 5\r", "set k 0 0 5\r\n"),
        ("  set   k  0  0  5  ", "set k 0 0 5\r\n"),
        ("set k 0 0 5 noreply", "set k 0 0 5\r\n"),
        ("set k 0 0 5 noreplY", "set k 0 0 5\r\n"),
        ("set k +1 -1 +5", "set k 1 -1 5\r\n"),
        // Flags above 32 bits are the node's to judge.
        ("set k 4294967296 99999999999 5", "set k 4294967296 1215752191 5\r\n"),
        ("set k 18446744073709551615 0 5", "set k 18446744073709551615 0 5\r\n"),
        ("cas k 1 2 3 18446744073709551615 noreply", "cas k 1 2 3 18446744073709551615\r\n"),
        ("prepend k\x01\t 0 0 0", "prepend k\x01\t 0 0 0\r\n"),
    ] {
        let mut out = Vec::new();
        store_of(line.as_bytes()).write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), forwarded, "{line:?}");
        assert_eq!(store_of(line.as_bytes()).quiet, line.ends_with("noreply"), "{line:?}");
    }
}

#[test]
fn the_block_of_a_refused_storage_line_is_swallowed_or_the_connection_closes() {
    let long = "k".repeat(251);
    for (line, text, block) in [
        (format!("set {long} 0 0 9"), "CLIENT_ERROR bad command line format", Block::Swallow(11)),
        ("set k x 0 9".into(), "CLIENT_ERROR bad command line format", Block::Swallow(11)),
        ("set k 0 x 9".into(), "CLIENT_ERROR bad command line format", Block::Swallow(11)),
        ("set k 0 0 9 a b".into(), "ERROR", Block::Swallow(11)),
        ("cas k 0 0 9".into(), "ERROR", Block::Swallow(11)),
        ("cas k 0 0 9 x".into(), "CLIENT_ERROR bad command line format", Block::Swallow(11)),
        // A key with a space: the length is not where it seems to be.
        ("set my key 0 0 5".into(), "CLIENT_ERROR bad command line format", Block::Unknown),
        ("set k 0 0 -1".into(), "CLIENT_ERROR bad command line format", Block::Unknown),
        ("set k 0 0 2147483646".into(), "CLIENT_ERROR bad command line format", Block::Unknown),
        ("set k 0 0 4294967301".into(), "CLIENT_ERROR bad command line format", Block::Unknown),
        ("set k 0 0 99999999999999999999".into(), "CLIENT_ERROR bad command line format", Block::Unknown),
        ("set k 0 0 x".into(), "CLIENT_ERROR bad command line format", Block::Unknown),
        ("set 0 0 5".into(), "ERROR", Block::Unknown),
        ("set".into(), "ERROR", Block::Unknown),
        // What the numbers would be but for the NUL is known.
        ("set k\0 0 0 5".into(), "CLIENT_ERROR bad command line format", Block::Swallow(7)),
        ("cas k\0x 0 0 5 1".into(), "CLIENT_ERROR bad command line format", Block::Swallow(7)),
        ("set k\0 0 0 9999999".into(), "CLIENT_ERROR bad command line format", Block::Swallow(10_000_001)),
        ("set k\0 0 0 x".into(), "CLIENT_ERROR bad command line format", Block::Unknown),
        ("set k\0 0 0".into(), "ERROR", Block::Unknown),
        ("set\0 k 0 0 5".into(), "ERROR", Block::Unknown),
        ("set k 18446744073709551616 0 5".into(), "CLIENT_ERROR bad command line format", Block::Swallow(7)),
        ("set k -1 0 5".into(), "CLIENT_ERROR bad command line format", Block::Swallow(7)),
    ] {
        let refused = refusal(line.as_bytes());
        assert_eq!((refused.text, refused.block), (text, block), "{line:?}");
    }
}

#[test]
fn a_value_over_the_limit_is_refused_and_only_set_drops_the_old_value() {
    for (verb, stale) in [("set", Some(b"k".as_slice())), ("add", None), ("append", None)] {
        let line = format!("{verb} k 0 0 1048577 noreply");
        let refused = refusal(line.as_bytes());
        assert_eq!(refused.text, "SERVER_ERROR object too large for cache");
        assert_eq!((refused.block, refused.quiet, refused.stale), (Block::Swallow(1_048_579), true, stale));
    }
    assert_eq!(store_of(b"set k 0 0 1048576").len, MAX);
}

#[test]
fn reads_keep_every_key_in_order() {
    for (line, verb, keys) in [
        ("get a", ReadVerb::Get, vec!["a"]),
        ("  get  a   b a ", ReadVerb::Get, vec!["a", "b", "a"]),
        ("bget a", ReadVerb::Get, vec!["a"]),
        ("gets noreply", ReadVerb::Gets, vec!["noreply"]),
        ("gat -1 a b", ReadVerb::Gat(-1), vec!["a", "b"]),
        ("gats 100 a", ReadVerb::Gats(100), vec!["a"]),
        ("gat 100", ReadVerb::Gat(100), vec![]),
        ("get a\r\r", ReadVerb::Get, vec!["a\r"]),
    ] {
        match parse(trim(line.as_bytes()), MAX) {
            Ok(Request::Read { verb: found, keys: list }) => {
                assert_eq!(found, verb, "{line:?}");
                assert_eq!(list.map(String::from_utf8_lossy).collect::<Vec<_>>(), keys, "{line:?}");
            }
            other => panic!("{line:?}: {other:?}"),
        }
    }
}

#[test]
fn one_long_key_refuses_the_whole_list() {
    let line = format!("get {}{}", "k ".repeat(9_999), "x".repeat(251));
    assert_eq!(refusal(line.as_bytes()), BAD_FORMAT);
}

#[test]
fn other_commands_are_read_as_memcached_reads_them() {
    let ok: [(&str, Request<'_>); 21] = [
        ("delete k", Request::Change { change: Change::Delete, key: b"k", quiet: false }),
        ("delete k 0", Request::Change { change: Change::Delete, key: b"k", quiet: false }),
        ("delete k noreply", Request::Change { change: Change::Delete, key: b"k", quiet: true }),
        ("delete k 0 noreply", Request::Change { change: Change::Delete, key: b"k", quiet: true }),
        ("delete noreply", Request::Change { change: Change::Delete, key: b"noreply", quiet: false }),
        ("incr k 5 x", Request::Change { change: Change::Incr(5), key: b"k", quiet: false }),
        ("decr k 5 noreply", Request::Change { change: Change::Decr(5), key: b"k", quiet: true }),
        ("touch k -1", Request::Change { change: Change::Touch(-1), key: b"k", quiet: false }),
        ("flush_all", Request::FlushAll { delay: None, quiet: false }),
        ("flush_all noreply", Request::FlushAll { delay: None, quiet: true }),
        ("flush_all 10 noreply", Request::FlushAll { delay: Some(10), quiet: true }),
        ("flush_all 1 2", Request::FlushAll { delay: Some(1), quiet: false }),
        ("verbosity 1", Request::Verbosity { quiet: false }),
        ("version x y", Request::Version),
        ("stats", Request::Stats(Stats::General)),
        ("quit x", Request::Quit),
        ("mn x", Request::MetaNoop),
        ("config get cluster", Request::Discovery),
        // Behind the key, and where there is none, a NUL ends the line.
        ("touch k -1\0 x", Request::Change { change: Change::Touch(-1), key: b"k", quiet: false }),
        ("version\0 x", Request::Version),
        ("quit\0", Request::Quit),
    ];
    for (line, request) in ok {
        assert_eq!(parse(trim(line.as_bytes()), MAX), Ok(request), "{line:?}");
    }
    for (line, refused) in [
        ("", ERROR),
        ("  ", ERROR),
        ("a", ERROR),
        ("get", ERROR),
        ("gat", ERROR),
        ("gat x k", BAD_EXPTIME),
        ("GET a", ERROR),
        ("foo", ERROR),
        ("foo noreply", ERROR),
        ("delete", ERROR),
        ("delete a 1", BAD_DELETE),
        ("delete a 0 0", BAD_DELETE),
        ("delete a b noreply", BAD_DELETE.quiet_if(true)),
        ("delete a b c noreply", ERROR),
        ("incr k", ERROR),
        ("incr k x", BAD_DELTA),
        ("incr k -1", BAD_DELTA),
        ("incr k noreply", BAD_DELTA.quiet_if(true)),
        ("incr k 1 2 noreply", ERROR),
        ("touch k x noreply", BAD_EXPTIME.quiet_if(true)),
        ("touch k", ERROR),
        ("flush_all x", BAD_EXPTIME),
        ("flush_all 1 2 noreply", ERROR),
        ("verbosity", ERROR),
        ("verbosity x", BAD_FORMAT),
        ("verbosity noreply", BAD_FORMAT.quiet_if(true)),
        ("stats noreply", ERROR),
        ("config", ERROR),
        ("config get", ERROR),
        ("config get other", ERROR),
        ("config get cluster x", ERROR),
        ("config set cluster", ERROR),
        ("watch fetchers", Refusal::new("CLIENT_ERROR watch not supported by proxy")),
        ("GET / HTTP/1.1", Refusal::new("").with_block(Block::Unknown)),
        ("get / HTTP/1.1 x", ERROR),
    ] {
        if line.starts_with("get /") {
            assert!(parse(trim(line.as_bytes()), MAX).is_ok(), "a key may look like anything");
        } else {
            assert_eq!(refusal(line.as_bytes()), refused, "{line:?}");
        }
    }
}

#[test]
fn a_key_called_noreply_is_deleted_with_an_answer() {
    let mut out = Vec::new();
    Change::Delete.write(b"noreply", &mut out);
    assert_eq!(out, b"delete noreply 0\r\n");
}

#[test]
fn a_nul_in_a_key_is_refused_as_a_long_key_is() {
    let long = "k".repeat(251);
    for line in [
        "get k",
        "gets k",
        "bget k",
        "get a k b",
        "gat 0 k",
        "gats 0 a k",
        "delete k",
        "delete k 0",
        "delete k noreply",
        "incr k 1",
        "decr k 1 noreply",
        "touch k 0",
        "touch k 0 noreply",
        "touch k x",
        "touch k",
        "gat x k",
        "incr k x noreply",
        "incr k",
        "delete k 1",
        "set k x 0 5",
        "set k 0 0 x",
        "set k 0 0 9999999",
        "set k 0 0",
        "set k 0 0 5",
        "add k 0 0 5 noreply",
        "replace k 0 0 5",
        "append k 0 0 5",
        "prepend k 0 0 5",
        "cas k 0 0 5 1",
        "cas k 0 0 5 1 noreply",
    ] {
        let (verb, rest) = line.split_once(' ').unwrap();
        let with = |key: &str| format!("{verb} {}", rest.replacen('k', key, 1));
        let wanted = with(&long);
        for key in ["k\0", "\0k", "k\0k"] {
            let line = with(key);
            assert_eq!(refusal(line.as_bytes()), refusal(wanted.as_bytes()), "{line:?}");
        }
    }
    // The same in a long line of keys.
    assert_eq!(parse_key_list(b"get a b\0 c"), Err(BAD_FORMAT));
    assert_eq!(parse_key_list(b"gat 0 a\0"), Err(BAD_FORMAT));
    assert_eq!(parse_key_list(b"get\0 a"), Err(ERROR));
}

#[test]
fn refused_commands_are_silent_where_memcached_is() {
    for (line, quiet) in [
        ("cache_memlimit 64", false),
        ("cache_memlimit 64 noreply", true),
        ("cache_memlimit noreply", true),
        ("cache_memlimit 64 x noreply", false),
        ("slabs automove 1 noreply", true),
        ("slabs automove noreply", true),
        ("slabs automove 1", false),
        ("slabs reassign 1 2 noreply", false),
        ("slabs noreply", false),
        ("lru mode flat noreply", true),
        ("lru tune 10 10 1 1 noreply", true),
        ("lru noreply", true),
        ("lru mode flat", false),
        ("extstore free_memchunks 1 1 noreply", true),
        ("watch fetchers noreply", true),
        ("watch fetchers", false),
        ("lru_crawler enable noreply", false),
        ("refresh_certs noreply", false),
        ("shutdown noreply", false),
        ("debugtime p noreply", false),
        ("misbehave noreply", false),
        ("stats cachedump 1 1 noreply", false),
        ("foo noreply", false),
    ] {
        assert_eq!(refusal(line.as_bytes()).quiet, quiet, "{line:?}");
    }
}

proptest! {
    #[test]
    fn no_line_panics_and_no_forwarded_line_holds_a_line_end(line in prop::collection::vec(any::<u8>(), 0..300)) {
        let line: Vec<u8> = line.into_iter().filter(|&b| b != b'\n').collect();
        let mut out = Vec::new();
        match parse(trim(&line), MAX) {
            Ok(Request::Store(store)) => store.write(&mut out),
            Ok(Request::Change { change, key, .. }) => change.write(key, &mut out),
            _ => out.extend_from_slice(b"\r\n"),
        }
        prop_assert_eq!(memchr::memchr(b'\n', &out), Some(out.len() - 1));
        prop_assert!(!out.contains(&0));
    }

    #[test]
    fn a_written_storage_line_reads_back_the_same(
        key in "[!-~]{1,250}", flags: u64, exptime: i32, len in 0..MAX, unique: u64, verb in 0..6_u8,
    ) {
        let verb = [StoreVerb::Set, StoreVerb::Add, StoreVerb::Replace, StoreVerb::Append, StoreVerb::Prepend, StoreVerb::Cas][usize::from(verb)];
        let unique = if verb == StoreVerb::Cas { unique } else { 0 };
        let store = Store { verb, key: key.as_bytes(), flags, exptime, len, unique, quiet: false };
        let mut out = Vec::new();
        store.write(&mut out);
        prop_assert_eq!(parse(trim(&out[..out.len() - 1]), MAX), Ok(Request::Store(store)));
    }
}

proptest! {
    /// A long line of keys is read as any other, by another way.
    #[test]
    fn a_key_list_is_read_as_a_line_is(
        indent in 0..3_usize,
        verb in prop::sample::select(vec!["get", "gets", "gat", "gats", "bget"]),
        words in prop::collection::vec((1..3_usize, prop::sample::select(vec![1_usize, 5, 249, 250, 251]), any::<bool>()), 0..20),
    ) {
        let words = words.into_iter().map(|(gap, len, digit)| {
            " ".repeat(gap) + &(if digit { "1" } else { "k" }).repeat(len)
        });
        let line = " ".repeat(indent) + verb + &words.collect::<String>();
        let as_line = parse(line.as_bytes(), MAX);
        let as_list = parse_key_list(line.as_bytes()).map(|(verb, keys)| Request::Read { verb, keys });
        prop_assert_eq!(as_list, as_line);
    }
}

#[test]
fn the_first_keys_of_a_list_are_a_list() {
    let keys = Keys::new(b" a  bb ccc ");
    let of = |keys: Keys<'static>| keys.map(<[u8]>::to_vec).collect::<Vec<_>>();
    for count in 0..5 {
        assert_eq!(of(keys.first(count)), of(keys)[..count.min(3)]);
    }
}
