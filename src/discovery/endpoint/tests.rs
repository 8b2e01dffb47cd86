use proptest::prelude::*;

use super::*;

/// A list as `version: name@dialled …`, the length in doubt marked by `?`; what is wrong otherwise.
fn read(bytes: &str, ended: bool) -> String {
    match parse_reply(bytes.as_bytes(), ended) {
        Reply::Cluster(cluster) => {
            let nodes: Vec<String> = cluster.nodes.iter().map(|node| format!(" {}@{}", node.name, node.host)).collect();
            format!("{}{}:{}", cluster.version, if cluster.exact { "" } else { "?" }, nodes.concat())
        }
        Reply::Partial => "partial".to_owned(),
        Reply::Nothing => "nothing".to_owned(),
        Reply::Refused(line) => format!("refused: {line}"),
        Reply::Malformed(problem) => format!("malformed: {problem}"),
    }
}

fn framed(payload: &str) -> String {
    format!("CONFIG cluster 0 {}\r\n{payload}\r\nEND\r\n", payload.len())
}

fn cluster(version: u64, nodes: &str) -> Cluster {
    let nodes = nodes.split_whitespace().map(|name| Node::new(name, 11211, 1)).collect();
    Cluster { version, nodes, exact: true }
}

#[test]
fn the_examples_of_the_documentation() {
    let one = "CONFIG cluster 0 28\r\n1\n127.0.0.1|127.0.0.1|11211\n\r\nEND\r\n";
    assert_eq!(read(one, false), "1: 127.0.0.1:11211@127.0.0.1");
    let three = "CONFIG cluster 0 74\r\n9\n10.0.0.2|10.0.0.2|11211 10.0.0.3|10.0.0.3|11211 \
                 10.0.0.4|10.0.0.4|11211\n\r\nEND\r\n";
    assert_eq!(read(three, false), "9: 10.0.0.2:11211@10.0.0.2 10.0.0.3:11211@10.0.0.3 10.0.0.4:11211@10.0.0.4");
    let old = "VALUE AmazonElastiCache:cluster 0 28\r\n1\n127.0.0.1|127.0.0.1|11211\n\r\nEND\r\n";
    assert_eq!(read(old, false), "1: 127.0.0.1:11211@127.0.0.1");
}

#[test]
fn members() {
    for (entry, expected) in [
        ("a.cache.example|10.0.0.1|1", "a.cache.example:1@10.0.0.1"),
        ("A.Cache.Example.|10.0.0.1|1", "a.cache.example:1@10.0.0.1"),
        ("a.cache.example||1", "a.cache.example:1@a.cache.example"),
        ("|10.0.0.1|1", "10.0.0.1:1@10.0.0.1"),
        ("10.0.0.2|10.0.0.1|1", "10.0.0.2:1@10.0.0.1"),
        ("|fd00::1|1", "[fd00::1]:1@fd00::1"),
        ("[fd00::1]|[fd00::1]|1", "[fd00::1]:1@fd00::1"),
        ("a|10.0.0.1|65535", "a:65535@10.0.0.1"),
    ] {
        assert_eq!(read(&framed(&format!("3\n{entry}\n")), false), format!("3: {expected}"), "{entry}");
    }
    for entry in [
        "a|10.0.0.1|0",
        "a|10.0.0.1|65536",
        "a|10.0.0.1|http",
        "a|10.0.0.1|+1",
        "a|10.0.0.1|",
        "a|10.0.0.1",
        "a|10.0.0.1|1|",
        "a|10.0.0.1|1|2",
        "||1",
        "a b|10.0.0.1|1",
        "a/b|10.0.0.1|1",
        "a|10.0.0|1",
        "a|0.0.0.0|1",
        "a|255.255.255.255|1",
        "a|224.0.0.1|1",
        "a|::|1",
        "a|ff02::1|1",
        "a|::ffff:0.0.0.0|1",
        "0.0.0.0||1",
        "a|b|1",
        "a:1",
    ] {
        let answer = read(&framed(&format!("3\ngood|10.0.0.9|1 {entry}\n")), false);
        assert!(answer.starts_with("malformed: not host|ip|port"), "{entry}: {answer}");
    }
}

#[test]
fn what_is_tolerated() {
    let expected = "7: a:1@10.0.0.1 b:1@10.0.0.2";
    for payload in [
        "7\na|10.0.0.1|1 b|10.0.0.2|1\n",
        "7\r\na|10.0.0.1|1 b|10.0.0.2|1\r\n",
        "7\na|10.0.0.1|1   b|10.0.0.2|1  \n",
        "7\n\na|10.0.0.1|1\nb|10.0.0.2|1\n\n",
        " 7 \n a|10.0.0.1|1 b|10.0.0.2|1",
        "7\na|10.0.0.1|1 b|10.0.0.2|1 a|10.0.0.1|1\n",
    ] {
        assert_eq!(read(&framed(payload), false), expected, "{payload:?}");
        let bare_line_feeds = framed(payload).replace("\r\n", "\n");
        assert_eq!(read(&bare_line_feeds, false).replace('?', ""), expected, "{payload:?}");
    }
    for length in ["1", "27", "29", "5000", "99999999999999999999", "-1", "x"] {
        let answer = format!("CONFIG cluster 0 {length}\r\n7\na|10.0.0.1|1\n\r\nEND\r\n");
        assert_eq!(read(&answer, false), "7?: a:1@10.0.0.1", "{length}");
    }
    assert_eq!(read("CONFIG cluster 0 15\r\n7\na|10.0.0.1|1\n\r\nEND", true), "7: a:1@10.0.0.1");
    assert_eq!(read("CONFIG cluster 0 15\r\n7\na|10.0.0.1|1\n\r\nEND", false), "partial");
}

#[test]
fn what_is_refused() {
    for (answer, expected) in [
        ("ERROR\r\n", "refused: ERROR"),
        ("SERVER_ERROR out of memory\r\n", "refused: SERVER_ERROR out of memory"),
        ("END\r\n", "nothing"),
        ("CONFIG cluster 0 2\r\n1\n\r\nEND\r\n", "malformed: the list is empty"),
        ("CONFIG cluster 0 3\r\n1\n\n\r\nEND\r\n", "malformed: the list is empty"),
        ("CONFIG cluster 0 0\r\n\r\nEND\r\n", "malformed: the version is not a number: \"\""),
        ("CONFIG cluster 0 15\r\nv\na|10.0.0.1|1\n\r\nEND\r\n", "malformed: the version is not a number: \"v\""),
        (
            "HTTP/1.1 400 Bad Request\r\n",
            "malformed: not an answer to `config get cluster`: \"HTTP/1.1 400 Bad Request\"",
        ),
        ("CONFIG cluster 0\r\n", "malformed: not an answer to `config get cluster`: \"CONFIG cluster 0\""),
    ] {
        assert_eq!(read(answer, false), expected);
    }
    let cut = "CONFIG cluster 0 74\r\n9\n10.0.0.2|10.0.0.2|112";
    assert_eq!(read(cut, false), "partial");
    assert_eq!(read(cut, true), "malformed: the answer ends before its END");
    assert_eq!(read("", false), "partial");
    let not_text = parse_reply(b"CONFIG cluster 0 9\r\n1\n\xff|\xff|1\n\r\nEND\r\n", false);
    assert_eq!(not_text, Reply::Malformed("the list is not text".to_owned()));
    let many: String = (0..=MAX_NODES).map(|n| format!("n{n}||1 ")).collect();
    assert!(read(&framed(&format!("1\n{many}\n")), false).contains("more than 1024"));
}

#[test]
fn a_higher_version_counts_and_a_lower_one_once_it_persists() {
    let mut versions = Versions::default();
    assert_eq!(versions.judge(&cluster(5, "a b")), Verdict::Adopt(Authority::Version));
    assert_eq!(versions.judge(&cluster(5, "a b")), Verdict::Known);
    assert_eq!(versions.judge(&cluster(6, "a b c")), Verdict::Adopt(Authority::Version));
    // Behind a load balancer, one that lags comes and goes.
    for _ in 0..3 {
        assert!(matches!(versions.judge(&cluster(5, "a b")), Verdict::Doubt(_)));
        assert!(matches!(versions.judge(&cluster(5, "a b")), Verdict::Doubt(_)));
        assert_eq!(versions.judge(&cluster(6, "a b c")), Verdict::Known);
    }
    let lower = "version 1 is lower than 6; read 1 of 3";
    assert_eq!(versions.judge(&cluster(1, "x")), Verdict::Doubt(lower.to_owned()));
    assert!(matches!(versions.judge(&cluster(1, "x")), Verdict::Doubt(_)));
    assert_eq!(versions.judge(&cluster(1, "x")), Verdict::Adopt(Authority::Hearsay));
    assert_eq!(versions.version(), Some(1));
}

#[test]
fn what_contradicts_itself_counts_once_it_is_repeated() {
    let mut versions = Versions::known(5, cluster(5, "a b").nodes);
    for list in ["b a", "a", "b a", "a"] {
        assert!(matches!(versions.judge(&cluster(5, list)), Verdict::Doubt(_)), "flapping");
    }
    assert_eq!(versions.judge(&cluster(5, "a")), Verdict::Adopt(Authority::Hearsay));
    let inexact = Cluster { exact: false, ..cluster(6, "a b") };
    assert!(matches!(versions.judge(&inexact), Verdict::Doubt(_)));
    assert_eq!(versions.judge(&inexact), Verdict::Adopt(Authority::Version));
    assert_eq!(versions.judge(&inexact), Verdict::Known);
}

proptest! {
    #[test]
    fn no_answer_is_read_before_it_is_whole(cut in 0_usize..80, garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
        let whole = framed("9\n10.0.0.2|10.0.0.2|11211 b||11211\n");
        let part = whole.as_bytes().get(..cut).unwrap_or_default();
        if cut < whole.len() {
            prop_assert_eq!(parse_reply(part, false), Reply::Partial);
        }
        let mut bytes = part.to_vec();
        bytes.extend_from_slice(&garbage);
        // Whatever it is, it is no panic and no empty list.
        for ended in [false, true] {
            if let Reply::Cluster(cluster) = parse_reply(&bytes, ended) {
                prop_assert!(!cluster.nodes.is_empty());
            }
        }
    }
}
