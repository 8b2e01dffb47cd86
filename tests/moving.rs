//! Moving in, by the binary: `locate`, `placements`, `plan`, `detect` against live nodes, and a sidecar with the
//! placement of another client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;

use slipring::routing::{Node, Placement, Topology};
use support::{Memcached, ScriptedNode, Slipring, Step, binary, eventually, free_port, honest, run_to_end};

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slipring-moving-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// With this on standard input.
fn piped(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = binary();
    let stdio = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = stdio.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn topology(placement: &str, nodes: &[&str]) -> Topology {
    let node = |name: &&str| {
        let (host, port) = name.rsplit_once(':').unwrap();
        Arc::new(Node::new(host, port.parse().unwrap(), 1))
    };
    let placement: Placement = placement.parse().unwrap();
    Topology::placed(1, nodes.iter().map(node).collect(), &Arc::new(placement)).unwrap()
}

const NODES: &str = "10.0.0.2,10.0.0.3,10.0.0.4";

#[test]
fn locate_tells_of_many_keys_from_standard_input() {
    let expected = topology("pymemcache", &["10.0.0.2:11211", "10.0.0.3:11211", "10.0.0.4:11211"]);
    let keys: Vec<String> = (0..20_000).map(|i| format!("item:{i}")).collect();
    let arguments = ["locate", "--nodes", NODES, "--placement", "pymemcache"];
    let output = piped(&arguments, keys.join("\n").as_bytes());
    assert!(output.status.success() && output.stderr.is_empty(), "{}", error(&output));
    let text = out(&output);
    assert_eq!(text.lines().count(), keys.len());
    for (key, line) in keys.iter().zip(text.lines()) {
        assert_eq!(line, format!("{key}  {}", expected.owner(key.as_bytes()).unwrap()));
    }
    let json = out(&piped(&[&arguments[..], &["--json"]].concat(), b"item:1\nq\"\xff\r\n"));
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["key"], "item:1");
    assert_eq!(lines[0]["node"], expected.owner(b"item:1").unwrap().address());
    assert_eq!(lines[1]["key"], "q\"\u{fffd}");
    assert_eq!(lines[1].as_object().unwrap().len(), 2);
    // Named nodes are told by address.
    let named = run_to_end(&["locate", "--json", "--nodes", "10.0.0.2:5/cache-a", "k"], &[]);
    assert_eq!(out(&named), "{\"key\":\"k\",\"node\":\"10.0.0.2:5\"}\n");
}

#[test]
fn locate_refuses_what_no_client_can_store() {
    let long = "k".repeat(251);
    let output = run_to_end(&["locate", "--nodes", NODES, ""], &[]);
    assert!(output.status.code() == Some(1) && error(&output).contains("at least one byte"), "{output:?}");
    for (key, problem) in [(" ", "blank"), (&*long, "251 bytes, more than 250")] {
        let output = run_to_end(&["locate", "--nodes", NODES, key], &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(error(&output).contains(problem), "{output:?}");
        let output = piped(&["locate", "--nodes", NODES], format!("good\n{key}\n").as_bytes());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(error(&output).contains("line 2: ") && error(&output).contains(problem), "{output:?}");
    }
    // Those that can be stored have their answer all the same.
    let output = run_to_end(&["locate", "--nodes", NODES, "first", &long, "last"], &[]);
    assert_eq!((output.status.code(), out(&output).lines().count()), (Some(1), 3), "{output:?}");
    assert!(out(&output).contains("\nfirst  10.0.0.") && out(&output).contains("\nlast  10.0.0."), "{output:?}");
    assert!(error(&output).lines().count() == 1 && error(&output).contains("251 bytes, more than 250"), "{output:?}");
    let lines = format!("{long}\nfirst\n \nlast\n{}", " \n".repeat(100));
    for further in [&[][..], &["--json"]] {
        let output = piped(&[&["locate", "--nodes", NODES], further].concat(), lines.as_bytes());
        assert_eq!((output.status.code(), out(&output).lines().count()), (Some(1), 2), "{output:?}");
        let told = error(&output);
        assert!(
            told.contains("slipring: line 1: the key has 251") && told.contains("slipring: line 3: the key"),
            "{told}"
        );
        assert!(told.lines().count() < 15 && told.ends_with("slipring: 102 keys are refused\n"), "{told}");
    }
    assert!(run_to_end(&["locate", "--nodes", NODES, &"k".repeat(250)], &[]).status.success());
}

#[test]
fn a_pipe_that_nobody_reads_to_its_end_is_quiet() {
    let mut command = binary();
    let stdio =
        command.args(["locate", "--nodes", NODES]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = stdio.spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let writer = std::thread::spawn(move || {
        let line = b"a key that makes a line of some length\n".repeat(1000);
        // Until nobody reads any more.
        while stdin.write_all(&line).is_ok() {}
    });
    let mut first = String::new();
    BufReader::new(stdout).read_line(&mut first).unwrap();
    assert!(first.contains("10.0.0."), "{first}");
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn wrong_placements_are_named_with_the_nearest() {
    for (arguments, problem) in [
        (&["--placement", "pymemcahce"][..], "perhaps pymemcache is meant"),
        (&["--placement", "dalli,hash=md5"], "placement dalli has no option \"hash\""),
        (
            &["--placement", "gomemcache", "--nodes", "a=2,b"],
            "--nodes: placement gomemcache has no weights, but a:11211",
        ),
        (&["--placement", "pymemcache", "--node-name-format", "{hots}"], "expected a text with {host}"),
        (&["--node-order", "a=2"], "--node-order: a:11211 has a weight"),
        (&["--node-order", "a:x"], "--node-order: node \"a:x\""),
    ] {
        let nodes = if arguments.contains(&"--nodes") { &[][..] } else { &["--nodes", "a,b"] };
        for command in ["serve", "locate", "check", "detect"] {
            let output = run_to_end(&[&[command], nodes, arguments].concat(), &[]);
            assert_eq!(output.status.code(), Some(64), "{output:?}");
            assert!(error(&output).contains(problem), "{command} {arguments:?}: {}", error(&output));
        }
    }
    let output = run_to_end(&["serve"], &[("MEMCACHED_NODES", "a"), ("SLIPRING_PLACEMENT", "ketchup")]);
    assert!(error(&output).contains("SLIPRING_PLACEMENT: no placement is called \"ketchup\""), "{}", error(&output));
}

#[test]
fn placements_are_listed_and_a_plan_is_told() {
    let text = out(&run_to_end(&["placements"], &[]));
    assert!(text.contains("\npymemcache\n") && text.contains("\nlibmemcached *\n"), "{text}");
    let plan = ["plan", "--from", "a,b,c", "--to", "a,b,c,d"];
    let text = out(&run_to_end(&plan, &[]));
    assert!(text.contains("of the keys move (exactly, from the placement; placement ring)"), "{text}");
    assert!(!text.contains("warning"), "{text}");
    let text = out(&run_to_end(&[&plan[..], &["--placement", "libmemcached"]].concat(), &[]));
    assert!(text.starts_with("75.00 % of the keys move") && text.contains("warning: "), "{text}");
    let keys = Scratch::new("plan", "one\ntwo\nthree\nfour\n");
    let text = out(&run_to_end(&[&plan[..], &["--keys", keys.path()]].concat(), &[("SLIPRING_PLACEMENT", "dalli")]));
    assert!(text.contains("(of 4 keys; placement dalli)"), "{text}");
    let bad = Scratch::new("plan-bad", "one\n \n");
    let output = run_to_end(&[&plan[..], &["--keys", bad.path()]].concat(), &[]);
    assert!(error(&output).contains(&format!("{}: line 2", bad.path())), "{output:?}");
    let output = run_to_end(&["plan", "--from", "a", "--to", "b:x"], &[]);
    assert_eq!((output.status.code(), error(&output).contains("--to: node \"b:x\"")), (Some(64), true), "{output:?}");
}

/// Stores keys where a client with this placement would have put them.
fn fill(nodes: &[Memcached], placement: &str, keys: &[String]) {
    let names: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    let topology = topology(placement, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut clients: Vec<_> = nodes.iter().map(Memcached::client).collect();
    for key in keys {
        clients[usize::from(topology.route(key.as_bytes()).0)].set(key, "v");
    }
}

fn listed(nodes: &[Memcached]) -> String {
    nodes.iter().map(|node| node.address().to_string()).collect::<Vec<_>>().join(",")
}

#[test]
fn detect_names_the_placement_and_touches_nothing() {
    let nodes = [(); 3].map(|()| Memcached::start());
    // Some that the node has to encode.
    let odd = ["schlüssel", "a%20b", "100%", "a+b=c&d", "鍵", "/api?x=1"].map(str::to_owned);
    let keys: Vec<String> = (0..600).map(|i| format!("user:{i}")).chain(odd).collect();
    fill(&nodes, "pymemcache", &keys);
    let before: Vec<u64> = nodes.iter().flat_map(|node| [node.stat("cmd_get"), node.stat("cmd_set")]).collect();
    let nodes_option = listed(&nodes);
    let output = run_to_end(&["detect", "--nodes", &nodes_option], &[]);
    assert!(output.status.success(), "{output:?}");
    let text = out(&output);
    assert!(text.starts_with("read only; nothing is written to the nodes\n"), "{text}");
    assert!(text.contains("\n\npymemcache: 100.00 % of 606 keys; next best "), "{text}");
    assert!(text.contains("\nuse: --placement pymemcache\n"), "{text}");
    assert!(error(&output).is_empty(), "no progress where there is no terminal: {}", error(&output));
    let after: Vec<u64> = nodes.iter().flat_map(|node| [node.stat("cmd_get"), node.stat("cmd_set")]).collect();
    assert_eq!(before, after);
    // For pipelines.
    let verify = |placement: &str, min: &str| {
        run_to_end(&["detect", "--nodes", &nodes_option, "--verify", placement, "--min", min], &[])
    };
    assert!(verify("pymemcache", "1").status.success());
    let refused = verify("dalli", "0.9");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(error(&refused).contains("placement dalli put ") && error(&refused).contains("less than 90.00 %"));
    // A bound that nothing is measured by is a slip.
    let alone = run_to_end(&["detect", "--nodes", &nodes_option, "--min", "0.9"], &[]);
    assert_eq!(alone.status.code(), Some(64), "{alone:?}");
    assert!(error(&alone).contains("--verify"), "{alone:?}");
    // Bounded by number.
    let text = out(&run_to_end(&["detect", "--nodes", &nodes_option, "--limit", "50"], &[]));
    assert!(text.contains("50 keys; cut off at 50\n") && text.contains("pymemcache: 100.00 % of 150 keys"), "{text}");
}

#[test]
fn what_is_detected_while_a_node_does_not_answer_is_uncertain() {
    let mut nodes = [(); 3].map(|()| Memcached::start());
    let keys: Vec<String> = (0..600).map(|i| format!("user:{i}")).collect();
    fill(&nodes, "pymemcache", &keys);
    let nodes_option = listed(&nodes);
    let file = Scratch::new("uncertain", &keys.join("\n"));
    let dead = nodes[1].address().to_string();
    nodes[1].kill();
    let verify = ["--verify", "pymemcache"];
    for further in [&[][..], &verify, &["--keys", file.path()], &["--keys", file.path(), "--verify", "pymemcache"]] {
        let output = run_to_end(&[&["detect", "--nodes", &nodes_option], further].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = out(&output);
        assert!(text.contains("\nuncertain: --placement pymemcache\n"), "{text}");
        assert!(!text.contains("verified") && !text.contains("\nuse:"), "{text}");
        let told = error(&output);
        assert!(told.contains("1 of 3 nodes could not be read, so the result is uncertain: "), "{told}");
        assert!(told.trim_end().ends_with(&dead), "{told}");
        assert!(text.contains(&format!("could not read all keys of {dead}: ")), "{text}");
    }
    let output = run_to_end(&["detect", "--nodes", &dead], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(out(&output).contains(&format!("{dead}  not read; connection refused\n")), "{output:?}");
    assert!(error(&output).contains("1 of 1 node could not be read, and there is no key on the others"), "{output:?}");
    // What is refuted is refuted.
    let output = run_to_end(&["detect", "--nodes", &nodes_option, "--verify", "dalli"], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(error(&output).contains("placement dalli put "), "{output:?}");
    // A node that is merely empty has told so.
    nodes[1].restart();
    let output = run_to_end(&[&["detect", "--nodes", &nodes_option][..], &verify].concat(), &[]);
    assert!(output.status.success() && out(&output).contains("\nverified: pymemcache 100.00 %\n"), "{output:?}");
}

#[test]
fn detect_tells_of_a_node_that_the_client_does_not_have() {
    let nodes = [(); 2].map(|()| Memcached::start());
    let keys: Vec<String> = (0..600).map(|i| format!("user:{i}")).collect();
    fill(&nodes, "dalli", &keys);
    let nobody = free_port().on("127.0.0.1").to_string();
    let output = run_to_end(&["detect", "--nodes", &format!("{},{nobody}", listed(&nodes))], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told =
        format!("\nwithout {nobody}: dalli puts 100.00 % of these keys where they are. If the client does not have");
    assert!(out(&output).contains(&told), "{output:?}");
}

#[test]
fn detect_fails_where_no_placement_explains_the_keys() {
    let nodes = [(); 3].map(|()| Memcached::start());
    let mut clients = nodes.each_ref().map(Memcached::client);
    for i in 0..300 {
        clients[i % 3].set(&format!("user:{i}"), "v");
    }
    let output = run_to_end(&["detect", "--nodes", &listed(&nodes)], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(out(&output).contains("none of them explains where the keys are"), "{output:?}");
    assert!(error(&output).contains("no placement explains where the keys are"), "{output:?}");
}

#[test]
fn a_key_that_is_too_long_is_not_called_one_with_a_space() {
    let output = run_to_end(&["locate", &"x".repeat(251), "--nodes", "127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = error(&output);
    assert!(told.contains("the key has 251 bytes, more than 250") && !told.contains("space"), "{told}");
}

#[test]
fn detect_tells_that_the_order_of_the_list_is_not_the_clients() {
    let mut nodes = [(); 3].map(|()| Memcached::start());
    let keys: Vec<String> = (0..600).map(|i| format!("user:{i}")).collect();
    fill(&nodes, "gomemcache", &keys);
    let own = listed(&nodes);
    nodes.rotate_left(1);
    let given = listed(&nodes);
    let detect = |further: &[&str]| run_to_end(&[&["detect", "--nodes", &given], further].concat(), &[]);
    let (plain, verified) = (detect(&[]), detect(&["--verify", "gomemcache"]));
    assert_eq!((plain.status.code(), verified.status.code()), (Some(0), Some(1)), "{plain:?} {verified:?}");
    assert_eq!(out(&plain), out(&verified), "the recommendation is the same");
    let flags =
        format!("\nuse: --placement gomemcache --node-order {own}\nthis placement depends on the order of the nodes");
    assert!(out(&plain).contains(&flags), "{plain:?}");
    let told = error(&verified);
    assert!(told.contains("placement gomemcache depends on the order of the nodes, and the list is not in"), "{told}");
    assert!(told.contains(&format!("less than 99.00 %; with --node-order {own} it is 100.00 %")), "{told}");
    let output = detect(&["--verify", "gomemcache", "--node-order", &own]);
    assert!(output.status.success() && out(&output).contains("verified: gomemcache 100.00 %"), "{output:?}");
}

#[test]
fn what_is_detected_while_a_node_breaks_off_is_uncertain() {
    let nodes = [(); 2].map(|()| Memcached::start());
    let broken = ScriptedNode::start(|request| match request.line.as_str() {
        "lru_crawler metadump all" => {
            vec![Step::send("key=told exp=-1 la=1 cas=1 fetch=no cls=1 size=60\r\n"), Step::Close]
        }
        _ => honest(request),
    });
    let names = [nodes[0].address().to_string(), nodes[1].address().to_string(), broken.address().to_string()];
    let topology = topology("pymemcache", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut clients = nodes.each_ref().map(Memcached::client);
    for i in 0..300 {
        let key = format!("user:{i}");
        if let Some(client) = clients.get_mut(usize::from(topology.route(key.as_bytes()).0)) {
            client.set(&key, "v");
        }
    }
    for further in [&[][..], &["--verify", "pymemcache", "--min", "0.5"]] {
        let output = run_to_end(&[&["detect", "--nodes", &names.join(",")], further].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = out(&output);
        assert!(text.contains("1 key; cut off: the connection was closed"), "{text}");
        assert!(text.contains("\nuncertain: ") && !text.contains("verified"), "{text}");
        assert!(error(&output).contains("1 of 3 nodes could not be read"), "{output:?}");
    }
}

#[test]
fn detect_asks_for_the_keys_of_a_file_where_the_nodes_do_not_tell_theirs() {
    let nodes = [(); 3].map(|()| Memcached::with(&["-o", "no_lru_crawler"]));
    let keys: Vec<String> = (0..400).map(|i| format!("user:{i}")).collect();
    fill(&nodes, "dalli", &keys);
    let nodes_option = listed(&nodes);
    let file = Scratch::new("probe", &format!("{}\nnobody-has-this\n", keys.join("\n")));
    let before: u64 = nodes.iter().map(|node| node.stat("get_hits")).sum();
    let text = out(&run_to_end(&["detect", "--nodes", &nodes_option, "--keys", file.path()], &[]));
    assert!(text.contains("dalli: 100.00 % of 400 keys"), "{text}");
    assert!(text.contains("of 401 asked for, as it answered metadump with"), "{text}");
    assert_eq!(nodes.iter().map(|node| node.stat("get_hits")).sum::<u64>(), before, "no value is fetched");
    let output = run_to_end(&["detect", "--nodes", &nodes_option], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(out(&output).contains("not read; it answered metadump with"), "{output:?}");
    assert!(error(&output).contains("--keys FILE"), "{output:?}");
}

/// A node whose crawler says this.
fn tells(answer: &'static str, then: Step) -> ScriptedNode {
    ScriptedNode::start(move |request| match request.line.as_str() {
        "lru_crawler metadump all" => vec![Step::send(answer), then.clone()],
        _ => honest(request),
    })
}

#[test]
fn what_a_node_tells_wrongly_or_in_part_is_said() {
    const TWO: &str = "key=user%3A1 exp=-1 la=1 cas=1 fetch=no cls=1 size=63\r\nkey=user%3A2 exp=-1 la=1 cas=2 fetch=no cls=1 size=63\r\n";
    for (node, said) in [
        (tells(TWO, Step::Close), "2 keys; cut off: the connection was closed"),
        (
            tells("CLIENT_ERROR bad\u{7}thing\r\n", Step::Pause(std::time::Duration::ZERO)),
            "not read; it answered metadump with \"CLIENT_ERROR bad?thing\"",
        ),
        (tells(TWO, Step::Hold), "2 keys; cut off: the time was over (--time)"),
        (ScriptedNode::start(|_| vec![Step::Close]), "not read; the connection was closed"),
    ] {
        let output = run_to_end(&["detect", "--nodes", &node.address().to_string(), "--time", "1s"], &[]);
        assert!(out(&output).contains(said), "{said}: {output:?}");
    }
    // Old nodes have no `me`: the values are read over.
    let old = ScriptedNode::with_version(vec![Step::send("VERSION 1.5.16\r\n")], |request| match request.words()[0] {
        "get" => vec![Step::send("VALUE user:1 0 5\r\nEND\r\n\r\nEND\r\n")],
        _ => vec![Step::send("ERROR\r\n")],
    });
    let file = Scratch::new("old", "user:1\nuser:2\n");
    let output = run_to_end(&["detect", "--nodes", &old.address().to_string(), "--keys", file.path()], &[]);
    assert!(out(&output).contains("1 key; of 2 asked for"), "{output:?}");
    assert!(out(&output).contains("one node holds every key"), "{output:?}");
}

#[test]
fn a_plan_that_moves_nothing_says_so() {
    let plan = |arguments: &[&str]| {
        let output = run_to_end(&[&["plan", "--placement", "gomemcache"], arguments].concat(), &[]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        out(&output)
    };
    for arguments in [
        &["--from", "a,b", "--to", "a,b"][..],
        // As the sidecar pins them.
        &["--nodes", "a,b", "--to", "b,a", "--node-order", "a,b"],
    ] {
        let text = plan(arguments);
        assert!(text.starts_with("no key moves (exactly") && !text.contains("warning"), "{text}");
        assert!(
            text.ends_with("\nNo key moves: the nodes and the placement are the same before and after.\n"),
            "{text}"
        );
    }
    let text = plan(&["--from", "a,b", "--to", "b,a"]);
    assert!(text.contains("\nwarning: the nodes are the same in another order"), "{text}");
}

#[test]
fn a_list_given_twice_is_refused() {
    let output = run_to_end(&["locate", "--nodes", "a", "--nodes", "b", "k"], &[]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(
        error(&output).contains("'--nodes <LIST>' cannot be used multiple times; give all nodes in one"),
        "{output:?}"
    );
}

#[test]
fn keys_with_spaces_are_located_and_warned_of() {
    let output = run_to_end(&["locate", "--nodes", NODES, "a b"], &[]);
    assert!(output.status.success() && out(&output).contains("\na b  10.0.0."), "{output:?}");
    assert!(error(&output).contains("1 key with a space or a NUL, first in \"a b\": only binary"), "{output:?}");
    let output = piped(&["locate", "--nodes", NODES], b"good\nitem:1 \nitem 2\n");
    assert!(output.status.success() && out(&output).lines().count() == 3, "{output:?}");
    assert!(error(&output).contains("2 keys with a space or a NUL, first in line 2: only binary"), "{output:?}");
}

#[test]
fn a_sidecar_has_the_placement_and_says_so() {
    let nodes = [(); 3].map(|()| Memcached::start());
    let keys: Vec<String> = (0..300).map(|i| format!("user:{i}")).collect();
    fill(&nodes, "libmemcached-ketama-weighted", &keys);
    let addresses = nodes.each_ref().map(Memcached::address);
    let slipring = Slipring::with(&addresses, &["--placement", "libmemcached-ketama-weighted", "--log-keys"]);
    let mut client = slipring.client();
    for key in &keys {
        assert_eq!(client.get(&[key]).len(), 1, "{key}");
    }
    // Multigets, writes and deletes go there as well.
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(client.get(&asked).len(), keys.len());
    client.set("user:1", "new");
    client.ask("delete user:2\r\n", "DELETED\r\n");
    let held: usize = nodes.iter().map(|node| node.client().get(&["user:1", "user:2"]).len()).sum();
    assert_eq!(held, 1, "the value was replaced where it was, and the other is gone");
    let stats = client.stats("stats ring");
    assert_eq!(stats["ring_placement"], "libmemcached-ketama-weighted");
    let (_, metrics) = slipring.admin("/metrics");
    assert!(metrics.contains("placement=\"libmemcached-ketama-weighted\""), "{metrics}");
    let (_, ring) = slipring.admin("/ring");
    let ring: serde_json::Value = serde_json::from_str(&ring).unwrap();
    assert_eq!(ring["placement"], "libmemcached-ketama-weighted");
    assert_eq!(ring["fingerprint"], stats["ring_fingerprint"]);
    let (_, place) = slipring.admin("/ring?key=user:7");
    let located = run_to_end(
        &["locate", "--nodes", &listed(&nodes), "--placement", "libmemcached-ketama-weighted", "user:7"],
        &[],
    );
    let node = out(&located).lines().last().unwrap().strip_prefix("user:7  ").unwrap().to_owned();
    assert!(place.contains(&format!("\"node\":\"{node}\"")), "{place} {node}");
    assert!(out(&located).starts_with(&format!("ring {} with 3 nodes, placement", stats["ring_fingerprint"])));
    // Hot keys know their node, though it does not follow from their hash.
    eventually("user:7 is hot", || {
        for _ in 0..200 {
            client.get(&["user:7"]);
        }
        let (_, hot) = slipring.admin("/hotkeys");
        let hot: serde_json::Value = serde_json::from_str(&hot).unwrap();
        let found = hot["keys"].as_array().unwrap().iter().find(|key| key["key"] == "user:7").cloned();
        found.is_some_and(|key| key["node"] == node.as_str())
    });
}

#[test]
fn large_values_go_where_the_placement_says() {
    let nodes = [(); 3].map(|()| Memcached::with(&["-I", "8m"]));
    let addresses = nodes.each_ref().map(Memcached::address);
    let slipring = Slipring::with(&addresses, &["--placement", "python-memcached"]);
    let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let topology = topology("python-memcached", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = slipring.client();
    let value = vec![b'x'; 3 << 20];
    for key in ["large:1", "large:2", "large:3", "large:4"] {
        client.set(key, &value);
        let owner = usize::from(topology.route(key.as_bytes()).0);
        assert_eq!(nodes[owner].client().get(&[key]).len(), 1, "{key}");
        assert_eq!(client.get(&[key])[0].data.len(), value.len());
    }
}

#[test]
fn a_list_that_the_placement_cannot_take_changes_nothing() {
    let nodes = [(); 2].map(|()| Memcached::start());
    let file = Scratch::new("weights", &listed(&nodes));
    let slipring = Slipring::command(&["serve", "--nodes-file", file.path(), "--placement", "gomemcache"], &[]);
    slipring.wait_for_states("up", 2);
    std::fs::write(&file.0, format!("{},{}=3", nodes[0].address(), nodes[1].address())).unwrap();
    slipring.signal("HUP");
    eventually("it is said", || slipring.output().contains("placement gomemcache has no weights"));
    let mut client = slipring.client();
    client.set("k", "v");
    assert_eq!(client.get(&["k"]).len(), 1);
}
