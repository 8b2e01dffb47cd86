use super::*;

fn listed(text: &str) -> Result<Vec<String>, String> {
    let nodes = parse_nodes(text, 11211).map_err(|error| error.to_string())?;
    Ok(nodes.iter().map(|node| format!("{}={}", node.name, node.weight)).collect())
}

#[test]
fn every_form_of_a_node() {
    let label = "a".repeat(63);
    let long = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    assert_eq!(long.len(), 253);
    for (entry, expected) in [
        ("10.0.0.2", "10.0.0.2:11211=1"),
        ("10.0.0.2.", "10.0.0.2:11211=1"),
        ("10.0.0.3:11212", "10.0.0.3:11212=1"),
        ("10.0.0.3:11212=2", "10.0.0.3:11212=2"),
        ("10.0.0.3=1000", "10.0.0.3:11211=1000"),
        ("10.0.0.3:00080", "10.0.0.3:80=1"),
        ("10.0.0.3:65535", "10.0.0.3:65535=1"),
        ("::1", "[::1]:11211=1"),
        ("fd00:0::0:2=3", "[fd00::2]:11211=3"),
        ("[::1]", "[::1]:11211=1"),
        ("[::1]:1", "[::1]:1=1"),
        ("[FD00::A]:1=7", "[fd00::a]:1=7"),
        ("::ffff:10.0.0.1", "[::ffff:10.0.0.1]:11211=1"),
        ("10.0.0.2:11211/cache-a", "cache-a=1"),
        ("10.0.0.2/Server_1=3", "Server_1=3"),
        ("[::1]:1/10.0.0.9:11211", "10.0.0.9:11211=1"),
        ("localhost", "localhost:11211=1"),
        ("Cache-0.Example.COM.", "cache-0.example.com:11211=1"),
        ("my_cache.svc:11213", "my_cache.svc:11213=1"),
        ("7up.example", "7up.example:11211=1"),
        (long.as_str(), &format!("{long}:11211=1")),
    ] {
        assert_eq!(listed(entry), Ok(vec![expected.to_owned()]), "{entry}");
    }
}

#[test]
fn every_separator() {
    let expected: Vec<String> = ["a:11211=1", "b:1=1", "c:11211=2", "[::1]:11211=1"].map(str::to_owned).into();
    for text in
        ["a,b:1,c=2,::1", "a;b:1;c=2;::1", "a b:1 c=2 ::1", "a\nb:1\r\nc=2\n::1\n", " ,a, b:1;;\t c=2 ,\n[::1], "]
    {
        assert_eq!(listed(text), Ok(expected.clone()), "{text:?}");
    }
}

#[test]
fn the_default_port_is_the_one_given() {
    let nodes = parse_nodes("a,b:5", 22122).unwrap();
    assert_eq!(nodes.iter().map(|node| node.port).collect::<Vec<_>>(), [22122, 5]);
}

#[test]
fn what_is_wrong_is_named() {
    const FORM: &str = "expected host, host:port or [IPv6]:port, a name after '/', and a weight after '='";
    const NAME: &str = "a name has 1 to 253 letters, digits and ._:-";
    const HOST: &str = "not an IPv4 address, [IPv6] address or host name";
    const PORT: &str = "the port must be a number from 1 to 65535";
    const URL: &str = "expected host or host:port, not a URL";
    const WEIGHT: &str = "the weight must be a whole number from 1 to 1000";
    for (entry, problem) in [
        ("a:b:c", FORM),
        ("10.0.0.1:11211:3", FORM),
        ("[::1", FORM),
        ("[::1]11211", FORM),
        ("[10.0.0.1]:1", FORM),
        ("[localhost]:1", FORM),
        ("fe80::1%eth0", FORM),
        ("tcp://10.0.0.9:11211", URL),
        ("http://10.0.0.9", URL),
        ("10.0.0.2:11211/", NAME),
        ("10.0.0.2/a/b", NAME),
        ("10.0.0.2/ä", NAME),
        ("10.0.0.256", HOST),
        ("10.0.0", HOST),
        (":11211", HOST),
        ("a..b", HOST),
        (".", HOST),
        ("/b", HOST),
        ("späti", HOST),
        ("a\u{7}b", HOST),
        ("=2", HOST),
        ("-a", HOST),
        ("a-.b", HOST),
        ("a:0", PORT),
        ("a:65536", PORT),
        ("a:4294967297", PORT),
        ("a:99999999999999999999", PORT),
        ("a:", PORT),
        ("[::1]:", PORT),
        ("a:+80", PORT),
        ("a:-1", PORT),
        ("a:http", PORT),
        ("a=0", WEIGHT),
        ("a=1001", WEIGHT),
        ("a=-1", WEIGHT),
        ("a=1.5", WEIGHT),
        ("a=", WEIGHT),
        ("a=1=2", WEIGHT),
        ("a=99999999999", WEIGHT),
    ] {
        let expected = format!("node {}: {problem}", phrase::quoted(entry));
        assert_eq!(listed(entry), Err(expected.clone()));
        assert_eq!(listed(&format!("good,{entry},never")), Err(expected));
    }
}

#[test]
fn names_that_are_too_long_are_refused_in_a_short_line() {
    for name in ["a".repeat(64), format!("a.{}", "b.".repeat(130))] {
        let line = listed(&name).unwrap_err();
        assert!(line.starts_with("node \"a"), "{line}");
        assert!(line.len() < 160, "{line}");
    }
}

#[test]
fn one_server_written_in_two_ways_is_refused() {
    for (first, second) in
        [("localhost:1", "127.0.0.1:1"), ("127.0.0.1", "::ffff:127.0.0.1"), ("10.0.0.1/a", "[::ffff:10.0.0.1]:11211/b")]
    {
        let expected = format!("node {second:?} is the same server as {first:?}");
        assert_eq!(listed(&format!("{first} other {second}")), Err(expected));
    }
    assert!(listed("localhost:1 127.0.0.1:2 [::1]:1").is_ok());
}

#[test]
fn an_address_that_no_server_has_is_refused() {
    for (entry, kind) in [
        ("224.0.0.1", "it is a multicast group"),
        ("239.1.2.3:11211=2", "it is a multicast group"),
        ("[ff02::1]:1", "it is a multicast group"),
        ("::ffff:224.0.0.1", "it is a multicast group"),
        ("255.255.255.255", "it is the broadcast address"),
        ("0.0.0.0", "it is what is listened on, not connected to"),
        ("0.0.0.0/name", "it is what is listened on, not connected to"),
        ("[::]:11211", "it is what is listened on, not connected to"),
        ("::", "it is what is listened on, not connected to"),
    ] {
        let expected = format!("node {entry:?}: this is the address of no server: {kind}");
        assert_eq!(listed(entry), Err(expected.clone()));
        assert!(parse_server(entry.split(['=', '/']).next().unwrap(), 1).is_err(), "{entry}");
    }
    assert!(listed("223.255.255.255 240.0.0.1 0.0.0.1 fe80::1").is_ok());
}

#[test]
fn quotes_are_told_from_a_wrong_port() {
    for (entry, shown) in [("\"a:11211\"", "'\"a:11211\"'"), ("'a'", "\"'a'\""), ("a:11211\"", "'a:11211\"'")] {
        assert_eq!(listed(entry), Err(format!("node {shown}: quotes do not belong in the list")));
    }
}

#[test]
fn what_another_program_was_to_read_is_told_from_a_host() {
    for (list, entry, problem) in [
        ("$(CACHE_HOST):11211", "$(CACHE_HOST):11211", "this is a placeholder that nothing has replaced"),
        ("${NODES}", "${NODES}", "this is a placeholder"),
        ("$NODES", "$NODES", "this is a placeholder"),
        ("{{ .Values.nodes }}", "{{", "this is a placeholder"),
        ("<nodes>", "<nodes>", "this is a placeholder"),
        ("10.0.0.2:11211 1,10.0.0.3:11211 1", "1", "a number alone is no host; a weight is written =WEIGHT"),
        ("12345", "12345", "a number alone is no host"),
        ("a\\nb", "a\\nb", "not an IPv4 address"),
    ] {
        let error = listed(list).unwrap_err();
        assert!(error.starts_with(&format!("node \"{entry}\": {problem}")), "{list}: {error}");
    }
}

#[test]
fn a_word_that_belongs_elsewhere_is_told_from_a_wrong_port() {
    for (list, problem) in [
        ("ending:a,b", "node \"ending:a\": \"ending:\" stands before the list of the ring before"),
        ("a,ending: b", "node \"ending:\": \"ending:\" stands before"),
        (
            "endng:a",
            "node \"endng:a\": the most similar word is ending:, which stands before the list of the ring before",
        ),
        ("before: a", "node \"before:\": \"before:\" begins a line of a nodes file"),
        ("endng:10.0.0.2:11211", "node \"endng:10.0.0.2:11211\": the most similar word is ending:"),
        ("befor:a", "node \"befor:a\": the most similar word is before:, which begins a line of a nodes file"),
        ("placement-before:jump", "node \"placement-before:jump\": \"placement-before:\" begins a line"),
        ("nodes: a", "node \"nodes:\": there is no word \"nodes:\" here: the list is nodes alone"),
        ("servers: a", "node \"servers:\": there is no word"),
        ("server:http", "node \"server:http\": the port must be"),
        ("- a\n- b", "node \"-\": the list is no YAML; its nodes are separated by commas"),
    ] {
        let error = listed(list).unwrap_err();
        assert!(error.starts_with(problem), "{list}: {error}");
    }
    // Hosts of such names.
    assert!(listed("ending:11211,before:1,nodes:2,nodes,servers").is_ok());
}

#[test]
fn an_identity_listed_twice_is_refused_however_it_is_written() {
    for (text, second) in [
        ("a,b,a", "a"),
        ("a,A", "A"),
        ("a.example,a.example.", "a.example."),
        ("a,a:11211", "a:11211"),
        ("a=2,a=3", "a=3"),
        ("::1,[0:0::1]:11211", "[0:0::1]:11211"),
        ("a/x,a/y", "a/y"),
        ("a,a/y", "a/y"),
    ] {
        assert_eq!(listed(text), Err(format!("node {second:?} is listed twice")));
    }
    for (text, second) in [("a/x,b/x", "b/x"), ("a/b:11211,b", "b")] {
        assert_eq!(listed(text), Err(format!("node {second:?}: an earlier node has the same name")));
    }
    assert_eq!(listed("a:1,a:2").map(|nodes| nodes.len()), Ok(2));
}

#[test]
fn a_list_of_nothing_or_of_too_much_is_refused() {
    for text in ["", " ", ",;\n", "\t"] {
        assert_eq!(listed(text), Err("the list of nodes is empty".to_owned()));
    }
    let list = |n: usize| (0..n).map(|i| format!("n{i}")).collect::<Vec<_>>().join(",");
    assert_eq!(listed(&list(MAX_NODES)).map(|nodes| nodes.len()), Ok(MAX_NODES));
    assert_eq!(listed(&list(MAX_NODES + 1)), Err("the list has more than 1024 nodes".to_owned()));
}
