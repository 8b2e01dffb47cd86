//! Who the nodes are.

use super::*;

#[test]
fn node_lists() {
    let list = parsed("", &[("MEMCACHED_NODES", "10.0.0.2;10.0.0.3:11212=2\n[::1] b"), ("MEMCACHED_PORT", "22122")]);
    assert_eq!(names(&list), ["10.0.0.2:22122=1", "10.0.0.3:11212=2", "[::1]:22122=1", "b:22122=1"]);

    assert_eq!(refused("--nodes a,a:0", &[]), r#"--nodes: node "a:0": the port must be a number from 1 to 65535"#);
    assert_eq!(refused("", &[("MEMCACHED_NODES", "a\nb\na")]), r#"MEMCACHED_NODES: node "a" is listed twice"#);
    assert_eq!(refused("--nodes ,", &[]), "--nodes: the list of nodes is empty");
    assert_eq!(refused("--nodes=", &[("MEMCACHED_NODES", "a")]), "--nodes: the list of nodes is empty");
    let none = refused("", &[]);
    for hint in ["--nodes", "MEMCACHED_NODES", "slipring dev"] {
        assert!(none.contains(hint), "{none}");
    }
}

/// How the source shows itself, the nodes of its list behind it.
fn source_of(line: &str, env: Env<'_>) -> String {
    let config = parsed(line, env);
    let Command::Serve { source } = &config.command else { panic!("{config:?}") };
    let list = match source {
        Source::Static(_) | Source::Endpoint { .. } => names(&config).join(","),
        _ => String::new(),
    };
    format!("{source} {list}").trim_end().to_owned()
}

#[test]
fn one_source_says_who_the_nodes_are() {
    let nodes = ("MEMCACHED_NODES", "a");
    let host = ("MEMCACHED_DISCOVERY_HOST", "10.0.0.5");
    let dns = ("SLIPRING_DNS", "cache.example");
    let file = ("MEMCACHED_NODES_FILE", "/etc/nodes");
    for (line, env, expected) in [
        ("--nodes-file /etc/nodes", &[] as Env<'_>, "file /etc/nodes"),
        ("", &[file], "file /etc/nodes"),
        ("--discovery cfg.example", &[], "discovery endpoint cfg.example:11211"),
        ("--discovery [::1]:5", &[], "discovery endpoint [::1]:5"),
        ("", &[host, ("MEMCACHED_DISCOVERY_PORT", "7")], "discovery endpoint 10.0.0.5:7"),
        ("", &[host, nodes], "discovery endpoint 10.0.0.5:11211 a:11211=1"),
        ("--discovery x --nodes b", &[], "discovery endpoint x:11211 b:11211=1"),
        ("--dns cache.example:5", &[], "DNS cache.example:5"),
        ("--dns cache.example --node-port 6", &[], "DNS cache.example:6"),
        ("--dns srv:_memcache._tcp.Cache.example.", &[], "DNS srv:_memcache._tcp.cache.example."),
        ("--dns Cache.Example.:5", &[], "DNS cache.example.:5"),
        ("", &[dns], "DNS cache.example:11211"),
        // A flag silences the environment.
        ("--nodes b", &[nodes, host, dns, file], "list b:11211=1"),
        ("--discovery x", &[nodes, host, dns, file], "discovery endpoint x:11211"),
        ("--dns x", &[nodes, host, file, ("SLIPRING_DNS", "1.1.1.1")], "DNS x:11211"),
        ("--nodes-file x", &[nodes, host, dns], "file x"),
    ] {
        assert_eq!(source_of(line, env), expected, "{line} {env:?}");
    }
    for (line, env, expected) in [
        ("", &[nodes, dns] as Env<'_>, "MEMCACHED_NODES and SLIPRING_DNS: only one"),
        ("", &[host, file], "MEMCACHED_NODES_FILE and MEMCACHED_DISCOVERY_HOST: only one"),
        ("--nodes a --dns x", &[], "--nodes and --dns: only one"),
        ("", &[host, nodes, file], "MEMCACHED_NODES and MEMCACHED_NODES_FILE and MEMCACHED_DISCOVERY_HOST: only one"),
        ("--dns 10.0.0.1:11211", &[], "--dns: 10.0.0.1 is an address"),
        ("--dns srv:x:1", &[], "--dns: the port of srv:"),
        ("--discovery a=2", &[], "--discovery: node \"a=2\": not an"),
        ("", &[("MEMCACHED_DISCOVERY_HOST", "a=2")], "MEMCACHED_DISCOVERY_HOST: node \"a=2\": not an"),
        ("", &[], "no nodes"),
    ] {
        let text = refused(line, env);
        assert!(text.starts_with(expected), "{line} {env:?}: {text}");
    }
    let linked = [host, ("MEMCACHED_DISCOVERY_PORT", "tcp://10.0.0.9:11211")];
    assert_eq!(source_of("", &linked), "discovery endpoint 10.0.0.5:11211");
    assert_eq!(parsed("", &linked).warnings.len(), 1);
}

#[test]
fn what_discovery_is_told() {
    let line = "--nodes a --discovery-interval 1s --removal-hold 0s --state-dir /var/x --ready-timeout 60m \
                --drain-timeout 500ms --node-port 5";
    let config = parsed(line, &[("SLIPRING_DISCOVERY_INTERVAL", "2s")]);
    let expected = discovery::Options {
        interval: Duration::from_secs(1),
        removal_hold: Duration::ZERO,
        node_port: 5,
        state_dir: Some("/var/x".into()),
        own: localhost_own(),
        variables: config.discovery.variables.clone(),
        ..discovery::Options::default()
    };
    assert_eq!(config.discovery, expected);
    assert_eq!(config.warnings, ["--state-dir has no effect: after a restart the nodes are again those of --nodes"]);
    assert!(parsed("--nodes-file /x --state-dir /var/x", &[]).warnings.is_empty());
    let in_use =
        |line: &str, env: Env<'_>| parsed(line, env).discovery.variables.in_use.iter().cloned().collect::<Vec<_>>();
    let env = [("SLIPRING_PLACEMENT", "jump"), ("MEMCACHED_NODES_FILE", "/x"), ("SLIPRING_DNS", "")];
    assert_eq!(in_use("", &env), ["MEMCACHED_NODES_FILE", "SLIPRING_PLACEMENT"]);
    assert_eq!(in_use("--placement ring", &env), ["MEMCACHED_NODES_FILE"]);
    assert!(config.discovery.variables.known.contains("SLIPRING_DNS"));
    assert_eq!(config.ready_timeout, Duration::from_secs(3600));
    assert_eq!(config.drain_timeout, Duration::from_millis(500));
    for (variable, value) in [
        ("SLIPRING_DISCOVERY_INTERVAL", "999ms"),
        ("SLIPRING_REMOVAL_HOLD", "61m"),
        ("SLIPRING_READY_TIMEOUT", "10"),
        ("SLIPRING_DRAIN_TIMEOUT", "-1s"),
    ] {
        let text = refused("--nodes a", &[(variable, value)]);
        assert!(text.starts_with(&format!("invalid value '{value}' for {variable}")), "{text}");
    }
}

#[test]
fn a_list_of_nothing_but_ourselves_is_refused() {
    let own = "is this sidecar itself, which listens there; name the memcached nodes";
    assert_eq!(refused("", &[("MEMCACHED_NODES", "localhost")]), format!("MEMCACHED_NODES: localhost:11211 {own}"));
    for line in [
        "--nodes localhost",
        "--nodes localhost.,::1=3",
        "--nodes ::ffff:127.0.0.1",
        "--nodes localhost:5 --listen 127.0.0.1:5",
        "--nodes localhost:5,127.0.0.1:6 --listen [::1]:5,127.0.0.1:6",
        "--nodes 10.0.0.1:5 --listen 10.0.0.1:5",
        "--nodes 127.0.0.9:5 --listen 0.0.0.0:5",
        "--nodes localhost:5 --listen [::]:5",
    ] {
        let text = refused(line, &[]);
        assert!(text.starts_with("--nodes: ") && text.ends_with(own), "{line}: {text}");
    }
    for line in [
        "--nodes localhost,a",
        "--nodes localhost:11212",
        "--nodes 127.0.0.2",
        "--nodes localhost --listen 127.0.0.1:5",
        "--nodes localhost --listen unix:/s",
        "--nodes ::1 --listen 0.0.0.0:11211",
        "--nodes 10.0.0.1:5 --listen 0.0.0.0:5",
        "--nodes localhost --listen 127.0.0.1:0",
        "--nodes localhost.example",
    ] {
        parsed(line, &[]);
    }
    parsed("check --nodes localhost", &[]);
    parsed("--discovery d", &[("MEMCACHED_NODES", "localhost")]);
}

#[test]
fn a_pinned_order_with_a_node_that_the_list_does_not_have_is_warned_of() {
    let listed = ("MEMCACHED_NODES", "a,b/second");
    let pinned = |order: &'static str| parsed("", &[listed, ("SLIPRING_NODE_ORDER", order)]).warnings;
    assert_eq!(pinned("b,a"), [""; 0]);
    assert_eq!(pinned("b,c,a"), ["SLIPRING_NODE_ORDER names c:11211, which MEMCACHED_NODES does not"]);
    // An endpoint may yet tell of it.
    let discovered = [listed, ("MEMCACHED_DISCOVERY_HOST", "d"), ("SLIPRING_NODE_ORDER", "c")];
    assert_eq!(parsed("", &discovered).warnings, [""; 0]);
}

#[test]
fn a_list_given_twice_is_refused() {
    for (line, option) in [
        ("--nodes a --nodes b", "--nodes"),
        ("--nodes a,b --node-order a --node-order b", "--node-order"),
        ("--nodes a --nodes-before b --nodes-before c", "--nodes-before"),
        ("plan --from a --from b --to c", "--from"),
        ("plan --from a --to b --to c", "--to"),
    ] {
        let expected = format!(
            "the argument '{option} <LIST>' cannot be used multiple times; give all nodes in one list, separated by commas"
        );
        assert_eq!(refused(line, &[("MEMCACHED_NODES", "x")]), expected);
    }
}

#[test]
fn a_file_that_is_given_as_a_list_is_told_how_it_is_given() {
    let directory = std::env::temp_dir().join(format!("slipring-list-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let there = directory.join("old.nodes");
    std::fs::write(&there, "a").unwrap();
    let there = there.to_str().unwrap();
    for (line, env, expected) in [
        (
            "--nodes nodes.txt",
            &[] as Env<'_>,
            "--nodes: nodes.txt looks like a file, and a list of nodes is expected; a file is given as --nodes-file nodes.txt",
        ),
        ("--nodes ./nodes", &[], "--nodes: ./nodes looks like a file"),
        (
            "",
            &[("MEMCACHED_NODES", "/etc/memcached/nodes")],
            "MEMCACHED_NODES: /etc/memcached/nodes looks like a file, and a list of nodes is expected; a file is given as MEMCACHED_NODES_FILE=/etc/memcached/nodes",
        ),
        (
            "--nodes a --nodes-before old.yaml",
            &[],
            "--nodes-before: old.yaml looks like a file, and a list of nodes is expected; a file is given as --nodes-before-file old.yaml",
        ),
        ("--nodes a --nodes-before ending:old.txt", &[], "--nodes-before: old.txt looks like a file"),
        ("--nodes a", &[("MEMCACHED_NODES_BEFORE", there)], "MEMCACHED_NODES_BEFORE: "),
        (
            "--nodes a --node-order order.txt",
            &[],
            "--node-order: order.txt looks like a file, and a list of nodes is expected; a file is given as --node-order \"$(cat order.txt)\"",
        ),
        (
            "plan --nodes a --to nodes.txt",
            &[],
            "--to: nodes.txt looks like a file, and a list of nodes is expected; a file is given as --to \"$(cat nodes.txt)\"",
        ),
        (
            "plan --from nodes.txt --to a",
            &[],
            "--from: nodes.txt looks like a file, and a list of nodes is expected; a file is given as --nodes-file nodes.txt, without --from",
        ),
        // And the other way round.
        (
            "--nodes-file 10.0.0.2,10.0.0.3",
            &[],
            "--nodes-file: 10.0.0.2,10.0.0.3 is a list of nodes, and a file is expected; a list is given as --nodes",
        ),
        ("", &[("MEMCACHED_NODES_FILE", "a;b")], "MEMCACHED_NODES_FILE: a;b is a list of nodes"),
        (
            "--nodes a --nodes-before-file ending:10.0.0.2:11211",
            &[],
            "--nodes-before-file: ending:10.0.0.2:11211 is a list of nodes, and a file is expected; a list is given as --nodes-before",
        ),
        ("--discovery a,b", &[], "--discovery: one endpoint is expected, not a list"),
        ("--dns a,b", &[], "--dns: one name is expected, not a list"),
    ] {
        let text = refused(line, env);
        assert!(text.starts_with(expected), "{line} {env:?}: {text}");
    }
    // Of a plan a plain name, too: the tests run beside this file.
    assert!(refused("plan --nodes a --to LICENSE-MIT", &[]).starts_with("--to: LICENSE-MIT looks like a file"));
    parsed("--nodes LICENSE-MIT", &[]);
    // Hosts, though their names might be those of files.
    let list = "nodes.txt:11211 cache.example. data/a memcached";
    assert_eq!(names(&parsed("", &[("MEMCACHED_NODES", list)])).len(), 4);
    assert_eq!(parsed("--nodes-file nodes", &[]).command, Command::Serve { source: Source::File("nodes".into()) });
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_word_that_has_no_place_in_a_list_is_named() {
    for (line, env, expected) in [
        (
            "plan --nodes a --to ending:a,b",
            &[] as Env<'_>,
            "--to: node \"ending:a\": \"ending:\" stands before the list of the ring before",
        ),
        ("--nodes ending:a", &[], "--nodes: node \"ending:a\": \"ending:\" stands before the list of the ring before"),
        (
            "--nodes a --nodes-before endng:a",
            &[],
            "--nodes-before: \"endng:\" means nothing; the most similar word is ending:",
        ),
        ("", &[("MEMCACHED_NODES", "nodes: a")], "MEMCACHED_NODES: node \"nodes:\": there is no word \"nodes:\" here"),
        ("", &[("MEMCACHED_NODES", "- a\n- b")], "MEMCACHED_NODES: node \"-\": the list is no YAML"),
        ("", &[("MEMCACHED_NODES", "\"a\",\"b\"")], "MEMCACHED_NODES: node '\"a\"': quotes do not belong in the list"),
        (
            "--nodes a",
            &[("SLIPRING_PLACEMENT", "\"ring\"")],
            "invalid value '\"ring\"' for SLIPRING_PLACEMENT: no placement is called '\"ring\"'",
        ),
    ] {
        let text = refused(line, env);
        assert!(text.starts_with(expected), "{line} {env:?}: {text}");
    }
}
