//! The ring before a planned change: how it is declared and taken away while the sidecar runs, and what is shown of it.
use crate::support::{Memcached, Slipring, eventually, run_to_end};
use crate::{Directory, Ring, list, reload, replace, serves, try_reload, until, until_nodes};
use std::fs;
use std::path::Path;

fn start(arguments: &[&str]) -> Slipring {
    Slipring::command(&[&["serve"], arguments].concat(), &[])
}

/// What `/ring` says of the ring before: its state, its nodes, and whether it has vanished; nothing without one.
fn before(ring: &Ring) -> Option<(String, Vec<String>, bool)> {
    let before = ring.0["before"].as_object()?;
    let nodes = before["nodes"].as_array().unwrap().iter();
    let names = nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect();
    Some((before["state"].as_str().unwrap().to_owned(), names, before.contains_key("vanished")))
}

fn until_before(slipring: &Slipring, state: &str, nodes: &[&Memcached]) -> Ring {
    let names: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    let ring = until(slipring, &format!("the ring before is {state} {names:?}"), |ring| {
        before(ring).is_some_and(|(shown, listed, _)| shown == state && listed == names)
    });
    let (_, metrics) = slipring.admin("/metrics");
    for word in ["none", "reading", "ending"] {
        let line = format!("slipring_before_state{{state=\"{word}\"}} {}\n", u8::from(word == state));
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    assert!(metrics.contains(&format!("slipring_before_nodes {}\n", nodes.len())), "{metrics}");
    ring
}

fn until_none(slipring: &Slipring) -> Ring {
    let ring = until(slipring, "there is no ring before", |ring| before(ring).is_none());
    let (_, metrics) = slipring.admin("/metrics");
    assert!(metrics.contains("slipring_before_state{state=\"none\"} 1\n"), "{metrics}");
    assert!(metrics.contains("slipring_before_moved_keyspace_ratio 0\n"), "{metrics}");
    ring
}

fn moved(ring: &Ring) -> f64 {
    ring.0["before"]["moved"].as_f64().unwrap()
}

fn metric(slipring: &Slipring, name: &str) -> f64 {
    let (_, metrics) = slipring.admin("/metrics");
    let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("{name} in {metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn it_is_declared_and_ended_by_lines_of_the_file_of_the_nodes() {
    let [a, b, c] = [(); 3].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    let (three, four) = (list([&a, &b]), list([&a, &b, &c]));
    let write = |text: &str| replace(&path, text);
    write(&three);
    let slipring = start(&["--nodes-file", path.to_str().unwrap()]);
    until_nodes(&slipring, &[&a, &b]);
    let first = until_none(&slipring);
    // Written down: a new publication in which nothing has moved.
    write(&format!("{three}\nbefore: {three}\n"));
    let ring = until_before(&slipring, "reading", &[&a, &b]);
    assert_eq!((ring.version(), ring.text("fingerprint")), (first.version() + 1, first.text("fingerprint")));
    assert_eq!((moved(&ring), ring.0["before"]["fingerprint"].as_str().unwrap()), (0.0, &*ring.text("fingerprint")));
    slipring.wait_for_output("no key has an old place");
    // The change.
    write(&format!("{four}\nbefore: {three} # the old ones\n"));
    until_nodes(&slipring, &[&a, &b, &c]);
    let ring = until_before(&slipring, "reading", &[&a, &b]);
    assert!(moved(&ring) > 0.1 && moved(&ring) < 0.6, "{}", moved(&ring));
    assert!((metric(&slipring, "slipring_before_moved_keyspace_ratio") - moved(&ring)).abs() < 1e-9);
    assert!(ring.0["before"]["nodes"].as_array().unwrap().iter().all(|node| node["in_ring"] == true));
    let stats = slipring.client().stats("stats ring");
    assert_eq!([&stats["before_state"], &stats["before_nodes"]], ["reading", "2"]);
    assert_eq!(stats["before_fingerprint"], first.text("fingerprint"));
    serves(&slipring);
    // Where a moved key was is told, and of others nothing.
    let (mut had, mut had_none) = (0, 0);
    for number in 0..100 {
        let (_, place) = slipring.admin(&format!("/ring?key=key{number}"));
        let place: serde_json::Value = serde_json::from_str(&place).unwrap();
        match place["old_node"].as_str() {
            Some(old) => {
                assert_eq!(place["node"], c.address().to_string());
                assert!(three.contains(old), "{old}");
                had += 1;
            }
            None => had_none += 1,
        }
    }
    assert!(had > 0 && had_none > 0, "{had} {had_none}");
    // What makes no list changes nothing, by itself and when an operator insists.
    write(&format!("{four}\nbefore: {three}:x\n"));
    let ring = until(&slipring, "it is refused", |ring| ring.text("last_error").contains("ring before"));
    assert_eq!(before(&ring).unwrap().0, "reading");
    let told = try_reload(&slipring);
    assert!(told.status.code() == Some(1) && String::from_utf8_lossy(&told.stderr).contains("ring before"), "{told:?}");
    // And away, in two steps.
    write(&format!("{four}\nbefore: ending:{three}\n"));
    reload(&slipring);
    until_before(&slipring, "ending", &[&a, &b]);
    write(&four);
    reload(&slipring);
    let last = until_none(&slipring);
    assert_eq!(last.names().len(), 3);
    slipring.wait_for_output("the ring before has ended");
    assert!(!slipring.output().contains("vanished"), "{}", slipring.output());
    serves(&slipring);
}

#[test]
fn one_that_vanishes_is_invalidated_on_and_told_of() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    replace(&path, &format!("{}\nbefore: {}", list([&a, &b]), list([&a])));
    let slipring = start(&["--nodes-file", path.to_str().unwrap()]);
    until_nodes(&slipring, &[&a, &b]);
    until_before(&slipring, "reading", &[&a]);
    replace(&path, &list([&a, &b]));
    let ring = until(&slipring, "it has vanished", |ring| before(ring).is_some_and(|(.., vanished)| vanished));
    assert_eq!(before(&ring).unwrap().0, "ending");
    slipring.wait_for_output("has vanished without `ending:`");
    assert!(slipring.output().contains("for 5 min"), "{}", slipring.output());
    let told = String::from_utf8_lossy(&try_reload(&slipring).stdout).into_owned();
    assert!(told.contains("\nring before: vanished without `ending:`; ") && !told.contains("before: ending"), "{told}");
    // It comes back, and ends as it is to.
    replace(&path, &format!("{}\nbefore: {}", list([&a, &b]), list([&a])));
    until_before(&slipring, "reading", &[&a]);
    replace(&path, &format!("{}\nbefore: ending:{}", list([&a, &b]), list([&a])));
    until_before(&slipring, "ending", &[&a]);
    replace(&path, &list([&a, &b]));
    until_none(&slipring);
}

/// As kubelet changes a ConfigMap: another directory behind `..data`.
fn deliver(mount: &Path, generation: u32, keys: &[(&str, &str)]) {
    let inside = mount.join(format!("..generation_{generation}"));
    fs::create_dir(&inside).unwrap();
    for (key, text) in keys {
        fs::write(inside.join(key), text).unwrap();
    }
    std::os::unix::fs::symlink(&inside, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
}

#[test]
fn a_mounted_config_map_says_it_beside_nodes_of_any_source() {
    let [a, b, c] = [(); 3].map(|()| Memcached::start());
    let directory = Directory::new();
    let mount = directory.0.to_str().unwrap().to_owned();
    let (one, all) = (list([&a]), list([&a, &b]));
    deliver(&directory.0, 1, &[("MEMCACHED_NODES", &all)]);
    let by_file = start(&["--nodes-file", &mount]);
    // A list, whose ring before comes from the ConfigMap all the same: no restart is needed for its edits.
    let by_list = start(&["--nodes", &all, "--nodes-before-file", &mount]);
    for slipring in [&by_file, &by_list] {
        until_nodes(slipring, &[&a, &b]);
        until_none(slipring);
    }
    // Another pool that hashed otherwise; its port is that of the ConfigMap.
    let port = c.address().port().to_string();
    let pool =
        [("MEMCACHED_NODES_BEFORE", "127.0.0.1"), ("SLIPRING_PLACEMENT_BEFORE", "jump"), ("MEMCACHED_PORT", &port)];
    deliver(&directory.0, 2, &[&[("MEMCACHED_NODES", &*all)], &pool[..]].concat());
    for slipring in [&by_file, &by_list] {
        let ring = until_before(slipring, "reading", &[&c]);
        assert_eq!(ring.0["before"]["placement"], "jump");
        assert_eq!((moved(&ring), ring.0["before"]["nodes"][0]["in_ring"].as_bool()), (1.0, Some(false)));
        let (_, metrics) = slipring.admin("/metrics");
        assert!(metrics.contains("slipring_before_info{") && metrics.contains("placement=\"jump\""), "{metrics}");
    }
    // Nodes and ring before in one edit.
    deliver(&directory.0, 3, &[("MEMCACHED_NODES", &one), ("MEMCACHED_NODES_BEFORE", &format!("ending:{all}"))]);
    for slipring in [&by_file, &by_list] {
        until_before(slipring, "ending", &[&a, &b]);
    }
    until_nodes(&by_file, &[&a]);
    // A key that is blank is no ring before.
    deliver(&directory.0, 4, &[("MEMCACHED_NODES", &one), ("MEMCACHED_NODES_BEFORE", " \n")]);
    for slipring in [&by_file, &by_list] {
        until_none(slipring);
        serves(slipring);
    }
    // What is wrong with it is shown, and changes nothing.
    deliver(&directory.0, 5, &[("MEMCACHED_NODES", &one), ("MEMCACHED_NODES_BEFORE", "a:x")]);
    for slipring in [&by_file, &by_list] {
        let ring = until(slipring, "it is refused", |ring| ring.text("last_error").contains("ring before"));
        assert_eq!((before(&ring), ring.text("status")), (None, "degraded".to_owned()));
    }
}

#[test]
fn a_node_that_joins_with_values_in_it_is_told_of() {
    let [a, old, fresh] = [(); 3].map(|()| Memcached::start());
    let mut client = old.client();
    for number in 0..7 {
        client.set(&format!("long-ago-{number}"), "value");
    }
    let directory = Directory::new();
    let path = directory.path("nodes");
    replace(&path, &list([&a]));
    let slipring = start(&["--nodes-file", path.to_str().unwrap()]);
    until_nodes(&slipring, &[&a]);
    replace(&path, &list([&a, &old, &fresh]));
    let ring = until_nodes(&slipring, &[&a, &old, &fresh]);
    let joined = ring.0["changes"][0]["joined"].as_array().unwrap();
    assert_eq!((joined.len(), &joined[0]["node"]), (1, &serde_json::json!(old.address().to_string())));
    assert_eq!(joined[0]["items"], 7);
    assert!(ring.0["changes"][1].get("joined").is_none(), "the first ring");
    eventually("it is logged", || slipring.output().contains("a node joined with values in it"));
    // The sidecar itself counts what its nodes have: who flushed it would empty them all.
    replace(&path, &format!("{},{}", list([&a, &old, &fresh]), slipring.address()));
    let ring = until(&slipring, "it has itself as a node", |ring| ring.0["nodes"].as_array().unwrap().len() == 4);
    assert!(ring.0["changes"][0].get("joined").is_none(), "{}", ring.0["changes"][0]);
    // One that is in the ring before is no stranger.
    drop(slipring);
    replace(&path, &format!("{}\nbefore: {}", list([&a]), list([&a, &old])));
    let slipring = start(&["--nodes-file", path.to_str().unwrap()]);
    until_nodes(&slipring, &[&a]);
    replace(&path, &format!("{}\nbefore: {}", list([&a, &old]), list([&a, &old])));
    let ring = until_nodes(&slipring, &[&a, &old]);
    assert!(ring.0["changes"][0].get("joined").is_none(), "{}", ring.0["changes"]);
}

#[test]
fn check_warns_of_a_ring_before_that_is_of_no_use() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let dead = crate::support::free_port();
    let check = |before: &str, further: &[&str]| {
        let nodes = list([&a, &b]);
        let arguments = [&["check", "--nodes", &nodes, "--nodes-before", before], further].concat();
        let output = run_to_end(&arguments, &[]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = check(&list([&b, &a]), &["--admin-listen", "off"]);
    assert!(text.contains("ring before: 2 nodes by ring, reading; 0.0 % of the keys have an old place"), "{text}");
    assert!(text.contains("note: the ring before is the same as the ring in use"), "{text}");
    assert!(text.contains("whether reads still hit old places (--admin-listen is off): look at"), "{text}");
    let free = crate::support::free_port().on("127.0.0.1").to_string();
    let text = check(&list([&a]), &["--admin-listen", &free]);
    assert!(text.contains(&format!("(no sidecar answers at {free}, the address of --admin-listen: ")), "{text}");
    assert!(!text.contains("the exit code counts"), "{text}");
    let text = check(&format!("ending:{},{}", list([&a]), dead.on("127.0.0.1")), &["--admin-listen", "off"]);
    assert!(text.contains("2 nodes by ring, ending; ") && !text.contains("is the same as the ring in use"), "{text}");
    let warning = format!("warning: {} of the ring before does not answer", dead.on("127.0.0.1"));
    assert!(text.contains(&warning) && text.contains("connection refused"), "{text}");
    let end = "failed: 1 of 1 node that only the ring before has; the exit code tells of the nodes of the ring alone\n";
    assert!(text.ends_with(end), "{text}");
    // Beside a sidecar, which tells since when it stands.
    let slipring = start(&["--nodes", &list([&a, &b]), "--nodes-before", &list([&a])]);
    until_before(&slipring, "reading", &[&a]);
    let admin = slipring.admin_address().to_string();
    let text = check(&list([&a]), &["--admin-listen", &admin]);
    assert!(text.contains("ring before: 1 node by ring, reading; ") && !text.contains("warning"), "{text}");
    // An edit that ends the reads of old places while they hit.
    let (mut direct, mut client) = (a.client(), slipring.client());
    let hits = (0..100)
        .filter(|number| {
            let key = format!("old{number}");
            direct.set(&key, "value");
            assert_eq!(client.get(&[&key]).len(), 1, "{key}");
            let (_, place) = slipring.admin(&format!("/ring?key={key}"));
            place.contains("old_node")
        })
        .count();
    assert!(hits > 1, "{hits}");
    let warning = format!(
        "warning: {hits} reads have hit an old place in the last 10 min at the sidecar at {admin}, the last one"
    );
    let text = check(&list([&a]), &["--admin-listen", &admin]);
    assert!(!text.contains("warning"), "it goes on: {text}");
    let text = check(&format!("ending:{}", list([&a])), &["--admin-listen", &admin]);
    assert!(text.contains(&warning) && !text.contains("without `ending:`"), "{text}");
    let output = run_to_end(&["check", "--nodes", &list([&a, &b]), "--admin-listen", &admin], &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("warning: this edit takes the ring before, which the sidecar at ") && text.contains(&warning),
        "{text}"
    );
    assert!(!text.contains("another ring than"), "{text}");
    // An edit that moves keys and declares nothing.
    let output = run_to_end(&["check", "--nodes", &list([&b]), "--admin-listen", &admin], &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    let warning = format!("warning: these nodes make another ring than the sidecar at {admin} has, and no ring before");
    assert!(output.status.success() && text.contains(&warning), "{output:?}");
}

#[test]
fn the_log_tells_what_becomes_of_the_ring_before_and_not_of_a_ring_that_stays() {
    let a = Memcached::start();
    let directory = Directory::new();
    let path = directory.path("nodes");
    let one = list([&a]);
    replace(&path, &one);
    let slipring = start(&["--nodes-file", path.to_str().unwrap()]);
    // Else the first edit may be what is read first.
    slipring.wait_for_output(" ring changed ");
    for (further, phase, reason) in [
        (format!("before: {one}"), "reading", "ring before declared"),
        (format!("before: ending:{one}"), "ending", "ring before ends"),
        (String::new(), "none", "ring before taken away"),
    ] {
        replace(&path, &format!("{one}\n{further}\n"));
        slipring.wait_for_output(reason);
        let log = slipring.output();
        let line = log.lines().find(|line| line.contains(reason)).unwrap();
        assert!(line.contains("the ring before changed; the ring stays as it is ring="), "{line}");
        assert!(line.contains(&format!("phase=\"{phase}\"")) && !line.contains("moved="), "{line}");
    }
    assert_eq!(slipring.output().matches(" ring changed ").count(), 1, "the first: {}", slipring.output());
}

#[test]
fn plan_prints_the_edits_of_what_a_sidecar_has_now() {
    let directory = Directory::new();
    let path = directory.path("MEMCACHED_NODES");
    replace(&path, "10.0.0.2,10.0.0.3,10.0.0.4");
    let mount = directory.0.to_str().unwrap().to_owned();
    let plan = |further: &[&str]| {
        let output = run_to_end(&[&["plan"], further].concat(), &[("MEMCACHED_NODES_FILE", &mount)]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = plan(&["--to", "10.0.0.2,10.0.0.3,10.0.0.4,10.0.0.5"]);
    let before = "MEMCACHED_NODES_BEFORE: \"10.0.0.2:11211,10.0.0.3:11211,10.0.0.4:11211\"";
    let now = "MEMCACHED_NODES: \"10.0.0.2:11211,10.0.0.3:11211,10.0.0.4:11211,10.0.0.5:11211\"";
    for part in [before, now, "ending:10.0.0.2:11211", "kubectl get --raw", "Without the ring before: ", "With it: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.find(before) < text.find(now) && !text.contains("warning"), "{text}");
    let text = plan(&["--to-placement", "jump"]);
    assert!(
        text.contains("SLIPRING_PLACEMENT_BEFORE: \"ring\"") && text.contains("SLIPRING_PLACEMENT: \"jump\""),
        "{text}"
    );
    // One that stands already is to end first.
    replace(&path, "10.0.0.2\nbefore: 10.0.0.3");
    let text = plan(&["--to", "10.0.0.4"]);
    let edits = [
        "warning: a ring before is declared already",
        "2. Done already",
        "3. End",
        "ending:10.0.0.3:11211",
        "4. Remove",
    ];
    let at = edits.map(|edit| text.find(edit).unwrap_or_else(|| panic!("{edit}: {text}")));
    assert!(at.is_sorted() && !text.contains("Declare the ring before"), "{text}");
    // Of a change that is made already the last two edits are left.
    let text = plan(&["--to", "10.0.0.2"]);
    let edits =
        ["A change is under way already", "3. End", "ending:10.0.0.3:11211", "4. Remove MEMCACHED_NODES_BEFORE;"];
    let at = edits.map(|edit| text.find(edit).unwrap_or_else(|| panic!("{edit}: {text}")));
    assert!(at.is_sorted() && text.starts_with("no key moves (") && !text.contains("\n1. "), "{text}");
    // Unless it is that of this plan.
    replace(&path, "10.0.0.2\nbefore: 10.0.0.2");
    assert!(plan(&["--to", "10.0.0.4"]).starts_with("edit 1 below is done already: the ring before is "));
}

#[test]
fn moved_keys_are_hits_locks_and_counters_until_the_ring_before_ends() {
    const KEYS: usize = 600;
    let [a, b, c, d] = [(); 4].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    let (three, four) = (list([&a, &b, &c]), list([&a, &b, &c, &d]));
    replace(&path, &format!("{three}\nbefore: {three}\n"));
    let sidecars = [(); 2].map(|()| start(&["--nodes-file", path.to_str().unwrap()]));
    for slipring in &sidecars {
        until_before(slipring, "reading", &[&a, &b, &c]);
    }
    let mut first = sidecars[0].client();
    let name = |kind: &str, number: usize| format!("{kind}{number}");
    for number in 0..KEYS {
        first.set(&name("value", number), format!("v{number}"));
        first.set(&name("deleted", number), "old");
        first.set(&name("counter", number), "5");
        first.ask(format!("add lock{number} 0 0 1\r\n1\r\n"), "STORED\r\n");
    }
    replace(&path, &format!("{four}\nbefore: {three}\n"));
    for slipring in &sidecars {
        until_nodes(slipring, &[&a, &b, &c, &d]);
    }
    let mut second = sidecars[1].client();
    for number in 0..KEYS {
        first.ask(format!("delete deleted{number}\r\n"), "DELETED\r\n");
        second.ask(format!("add lock{number} 0 0 1\r\n1\r\n"), "NOT_STORED\r\n");
        first.ask(format!("incr counter{number} 2\r\n"), "7\r\n");
        second.ask(format!("decr counter{number} 1\r\n"), "6\r\n");
    }
    // Several in a request, in the order asked, those that are gone between them.
    for numbers in (0..KEYS).collect::<Vec<_>>().chunks(20) {
        let keys: Vec<String> =
            numbers.iter().flat_map(|number| [name("value", *number), name("deleted", *number)]).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for client in [&mut first, &mut second] {
            let found: Vec<String> =
                client.get(&keys).into_iter().map(|value| String::from_utf8(value.key).unwrap()).collect();
            let wanted: Vec<String> = numbers.iter().map(|number| name("value", *number)).collect();
            assert_eq!(found, wanted);
        }
    }
    let hits = metric(&sidecars[1], "slipring_before_reads_total{result=\"hit\"}");
    assert!(hits > KEYS as f64 / 20.0 && hits < KEYS as f64, "{hits}");
    // A quarter of them is written anew, by one; then the old places end.
    let rewritten = KEYS / 4;
    for number in 0..rewritten {
        second.set(&name("value", number), "new");
    }
    replace(&path, &format!("{four}\nbefore: ending:{three}\n"));
    for slipring in &sidecars {
        until_before(slipring, "ending", &[&a, &b, &c]);
    }
    replace(&path, &four);
    for slipring in &sidecars {
        until_none(slipring);
    }
    let mut missing = 0;
    for number in 0..KEYS {
        for client in [&mut first, &mut second] {
            let found = client.get(&[&name("value", number), &name("deleted", number)]);
            let wanted = if number < rewritten { "new".to_owned() } else { format!("v{number}") };
            match &found[..] {
                [value] => {
                    assert_eq!(
                        (&value.key[..], &value.data[..]),
                        (name("value", number).as_bytes(), wanted.as_bytes())
                    );
                }
                [] => missing += usize::from(number >= rewritten),
                more => panic!("{number}: {} values", more.len()),
            }
            assert!(number >= rewritten || !found.is_empty(), "{number} was written to where it is");
        }
    }
    assert!(missing > 0, "what nobody has written anew is where nobody looks any more");
}
