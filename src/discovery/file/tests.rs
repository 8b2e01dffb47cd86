use super::*;

fn listed(list: &str, port: Option<&str>) -> Result<String, String> {
    let content = Content { list: list.to_owned(), port: port.map(str::to_owned), ..Content::default() };
    let listed = parse(&content, Holds::Nodes, 5, &Arc::default())?;
    Ok(listed.nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>().join(" "))
}

#[test]
fn lists_with_comments_and_ports() {
    for (list, port, expected) in [
        ("a,b", None, "a:5 b:5"),
        ("# nodes\na # first\nb:7;c\n\n#d\n", None, "a:5 b:7 c:5"),
        ("\u{feff}a\r\nb\r\n", None, "a:5 b:5"),
        ("a", Some("11212\n"), "a:11212"),
        ("a", Some(" "), "a:5"),
        ("a,b:7", Some("tcp://10.0.0.9:11211\n"), "a:5 b:7"),
    ] {
        assert_eq!(listed(list, port), Ok(expected.to_owned()), "{list:?}");
    }
}

#[test]
fn what_makes_no_list_is_named() {
    for (list, port, problem) in [
        ("", None, "the list of nodes is empty"),
        ("# a\n", None, "the list of nodes is empty"),
        ("a,\u{0}", None, "not an IPv4 address"),
        ("a", Some("http://10.0.0.9:11211"), "MEMCACHED_PORT must be a number"),
        ("a", Some("0"), "MEMCACHED_PORT must be a number"),
    ] {
        let error = listed(list, port).unwrap_err();
        assert!(error.contains(problem), "{list:?}: {error}");
    }
}

#[test]
fn what_a_file_holds_is_not_shown_and_a_slip_is() {
    let refused = |list: &str, holds: Holds| {
        let content = match holds {
            Holds::Nodes => Content { list: list.to_owned(), is_file: true, ..Content::default() },
            Holds::Before => Content { before: Some(list.to_owned()), is_file: true, ..Content::default() },
        };
        parse(&content, holds, 5, &Arc::default()).unwrap_err()
    };
    for (list, expected) in [
        ("root:secret:0:0\n", "line 1, entry 1: expected host, host:port or [IPv6]:port, a name"),
        ("# one\na,b\n\nbefore: a\nc, user:secret", "line 5, entry 2: the port must be a number from 1 to 65535"),
        ("secret secret", "line 1, entry 2 is listed twice"),
        ("localhost:1\n127.0.0.1:1", "line 2, entry 1 is the same server as an earlier entry"),
        ("a\nbefor: b", "line 2: it begins with \"befor:\", which means nothing; the most similar word is before:"),
        (
            "MEMCACHED_NODES=secret",
            "line 1: it begins with MEMCACHED_NODES: the file holds the list alone, without a name",
        ),
    ] {
        let error = refused(list, Holds::Nodes);
        assert!(error.starts_with(expected) && !error.contains("secret"), "{list:?}: {error}");
    }
    for (list, expected) in [
        ("a\n- b", "line 2: it is no YAML"),
        ("nodes:\n", "line 1: it begins with \"nodes:\", which means nothing"),
        ("a\nuser: secret", "line 2: a blank follows its first colon"),
        ("a\nbefore: b,\n  secret", "line 2: the ring before is one line, which a comma at its end does not continue"),
        ("a,ending:b", "line 1, entry 2: \"ending:\" stands before the list of the ring before"),
        ("\"secret\"", "line 1, entry 1: quotes do not belong"),
    ] {
        let error = refused(list, Holds::Nodes);
        assert!(error.starts_with(expected) && !error.contains("secret"), "{list:?}: {error}");
    }
    for (list, expected) in [
        ("# old\nbefore: secret", "line 2: it begins with \"before:\"; the ring before is written here"),
        ("endng:secret", "\"endng:\" means nothing; the most similar word is ending:"),
        ("- secret", "line 1: it is no YAML"),
    ] {
        let error = refused(list, Holds::Before);
        assert!(error.starts_with(expected) && !error.contains("secret"), "{list:?}: {error}");
    }
    let error = refused("a,secret:x", Holds::Before);
    assert_eq!(error, "an entry of the list: the port must be a number from 1 to 65535");
}

#[test]
fn a_change_that_is_met_is_a_problem_only_where_it_lasts() {
    let mut file = ListFile::new(Path::new("/nodes"), Holds::Nodes, &Options::default());
    let mut said = |look: Result<Look, &str>| {
        let listed = file.take(look.map_err(str::to_owned))?;
        Ok::<_, String>(listed.nodes.iter().map(|node| node.host.to_string()).collect::<Vec<_>>().join(" "))
    };
    let changed = |list: &str| Ok(Look::Changed(Content { list: list.to_owned(), ..Content::default() }));
    let (changing, ok) = (|| Ok(Look::Changing), |nodes: &str| Ok(nodes.to_owned()));
    assert_eq!(said(changed("a")), ok("a"));
    // An edit in two steps, which two looks meet.
    assert_eq!([said(changing()), said(changing()), said(changed("a,b"))], [ok("a"), ok("a"), ok("a b")]);
    // One that does not end is told of, each time as long as it lasts.
    let restless = [(); 4].map(|()| said(changing()));
    let problem = || Err("changing while it is read".to_owned());
    assert_eq!(restless, [ok("a b"), ok("a b"), problem(), problem()]);
    assert_eq!([said(Ok(Look::Unchanged)), said(changing())], [ok("a b"), ok("a b")]);
    // What is wrong stays so while it is mended: else it would be told anew.
    let gone = || Err("it is gone".to_owned());
    assert_eq!([said(Err("it is gone")), said(changing()), said(changed("c"))], [gone(), gone(), ok("c")]);
}

#[test]
fn a_placement_of_no_ring_before_is_noticed() {
    for (list, is_lone) in
        [("a\nplacement-before: jump", true), ("a\nplacement-before: jump\nbefore: b", false), ("a", false)]
    {
        let content = Content { list: list.to_owned(), is_file: true, ..Content::default() };
        let listed = parse(&content, Holds::Nodes, 5, &Arc::default()).unwrap();
        assert_eq!(listed.has_lone_placement, is_lone, "{list:?}");
    }
}

/// Nodes and ring before of a list, of the keys beside it, and of a file of its own.
fn both(list: &str, before: Option<&str>, placement: Option<&str>, holds: Holds) -> Result<String, String> {
    let [before, placement_before] = [before, placement].map(|text| text.map(str::to_owned));
    let content = Content { list: list.to_owned(), before, placement_before, ..Content::default() };
    let listed = parse(&content, holds, 5, &Arc::default())?;
    let nodes = listed.nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>().join(" ");
    Ok(format!("{nodes} | {}", listed.before.map(|before| before.to_string()).unwrap_or_default()))
}

#[test]
fn the_ring_before_is_a_line_or_a_key() {
    use Holds::{Before, Nodes};
    for (list, before, placement, holds, expected) in [
        ("a,b", None, None, Nodes, "a:5 b:5 | "),
        ("a,b\n before: a # the first one\nc", None, None, Nodes, "a:5 b:5 c:5 | a:5 by ring"),
        ("before: ending:a,b\na", None, None, Nodes, "a:5 | ending:a:5,b:5 by ring"),
        ("a\nplacement-before: jump\nbefore:a", None, None, Nodes, "a:5 | a:5 by jump"),
        ("a\nbefore:\n", None, None, Nodes, "a:5 | "),
        ("a", Some("ending: a;b:7\n"), Some("pymemcache\n"), Nodes, "a:5 | ending:a:5,b:7 by pymemcache"),
        ("a", Some("# nothing"), Some("pymemcache"), Nodes, "a:5 | "),
        ("a", None, Some("rnig"), Nodes, "a:5 | "),
        ("", Some("a\nb # two"), None, Before, " | a:5,b:5 by ring"),
        ("", None, None, Before, " | "),
    ] {
        assert_eq!(both(list, before, placement, holds), Ok(expected.to_owned()), "{list:?} {before:?}");
    }
    for (list, before, placement, problem) in [
        ("a\nbefore: a\nbefore: b", None, None, "ring before: the ring before is given twice"),
        ("a\nbefore: a", Some("a"), None, "ring before: the ring before is given twice"),
        ("a", Some("a:x"), None, "ring before: node \"a:x\": the port"),
        ("a", Some("ending:"), None, "ring before: the list of nodes is empty"),
        ("a", Some("endng:a"), None, "ring before: \"endng:\" means nothing; the most similar word is ending:"),
        ("a\nbefore: endng:a", None, None, "ring before: \"endng:\" means nothing; the most similar word is ending:"),
        ("a", Some("before: a"), None, "ring before: line 1: it begins with \"before:\""),
        ("a", Some("a"), Some("rnig"), "ring before: no placement is called \"rnig\""),
        ("a", Some("a=2"), Some("gomemcache"), "ring before: placement gomemcache has no weights"),
        ("before: a", None, None, "the list of nodes is empty"),
    ] {
        let error = both(list, before, placement, Holds::Nodes).unwrap_err();
        assert!(error.starts_with(problem), "{list:?} {before:?}: {error}");
    }
}
