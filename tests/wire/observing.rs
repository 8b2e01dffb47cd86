//! What an operator sees: hot keys, slow requests, changes of state, health, the configuration.
use crate::support::{Memcached, ScriptedNode, Slipring, Step, TextClient, eventually, honest};
use crate::three_nodes_with;
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

fn json(slipring: &Slipring, path: &str) -> Value {
    let (status, body) = slipring.admin(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// The log, an object a line.
fn logged(slipring: &Slipring, message: &str) -> Vec<Value> {
    let log = slipring.output_lines();
    let lines: Vec<Value> =
        log.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    lines.into_iter().filter(|line| line["message"] == message).collect()
}

/// One key in four is `hot`, in its turn or by a rhythm of the client's own.
fn ask_for_hot_keys(client: &mut TextClient) {
    for round in 0..400 {
        let mut requests = String::new();
        for i in 0..5 {
            requests += &format!("get hot cold:{round}:{i} also:{round}:{i}\r\nset stored:{round}:{i} 0 0 1\r\nx\r\n");
        }
        client.ask(requests, "END\r\nSTORED\r\n".repeat(5));
    }
}

#[test]
fn hot_keys_are_found_on_all_workers_and_shown_by_their_hash() {
    let (_nodes, slipring) = three_nodes_with(&["--workers", "2"]);
    // Both connected, so that each worker has one.
    for client in &mut [slipring.client(), slipring.client()] {
        ask_for_hot_keys(client);
    }
    let place = json(&slipring, "/ring?key=hot");
    assert_eq!(place["key"], "hot");
    let report = json(&slipring, "/hotkeys");
    let hot = &report["keys"][0];
    assert_eq!((&hot["key"], &hot["node"]), (&place["hash"], &place["node"]), "{report}");
    let share = hot["share"].as_f64().unwrap();
    // 500 samples of 16,000 keys: far beyond chance.
    assert!(share > 0.15 && share < 0.35, "{report}");
    let sampled = report["sampled"].as_u64().unwrap();
    assert!(sampled > 350 && sampled < 650, "{report}");
    assert_eq!(report["enabled"], true);
    assert!(!report.to_string().contains("hot"), "{report}");
    assert!(!slipring.admin("/metrics").1.contains(place["hash"].as_str().unwrap()));
}

#[test]
fn hot_keys_are_shown_as_they_are_where_that_is_allowed_and_not_counted_where_they_are_off() {
    let (_nodes, slipring) = three_nodes_with(&["--log-keys"]);
    ask_for_hot_keys(&mut slipring.client());
    assert_eq!(json(&slipring, "/hotkeys")["keys"][0]["key"], "hot");
    let (_nodes, slipring) = three_nodes_with(&["--hot-keys=off"]);
    ask_for_hot_keys(&mut slipring.client());
    let off = json(&slipring, "/hotkeys");
    assert_eq!((&off["enabled"], off["keys"].as_array().unwrap().len()), (&Value::Bool(false), 0));
}

#[test]
fn a_key_is_where_ring_says() {
    let (nodes, slipring) = three_nodes_with(&[]);
    let mut client = slipring.client();
    for at in 0..20 {
        let key = format!("key:{at}");
        client.set(&key, "v");
        let place = json(&slipring, &format!("/ring?key={key}"));
        let node = nodes.iter().find(|node| node.address().to_string() == place["address"]).expect("a node of ours");
        assert_eq!(node.client().get(&[&key]).len(), 1, "{place}");
    }
    // Keys that only binary clients have, as `slipring locate` takes them.
    let place = json(&slipring, "/ring?key=a%20b");
    assert!(place["key"] == "a b" && place["note"].as_str().unwrap().contains("only binary clients"), "{place}");
    assert_eq!(slipring.admin("/ring?key=%20").0, 400);
}

/// A node that takes 150 ms for what has `slow` in its line, and never answers what has `never`.
fn sluggish() -> ScriptedNode {
    ScriptedNode::start(|request| {
        let mut steps = honest(request);
        if request.line.contains("slow") {
            steps.insert(0, Step::Pause(Duration::from_millis(150)));
        }
        if request.line.contains("never") {
            steps = vec![Step::Silence];
        }
        steps
    })
}

#[test]
fn slow_requests_are_told_of_once_a_second_for_each_kind() {
    let node = sluggish();
    let slipring = Slipring::with(&[node.address()], &["--log-format", "json"]);
    let mut client = slipring.client();
    let place = json(&slipring, "/ring?key=slow:1");
    client.ask("set slow:1 0 0 500\r\n".to_owned() + &"x".repeat(500) + "\r\n", "STORED\r\n");
    // All ten wait for the first, and are answered at once.
    client.send("delete slow:2\r\n".to_owned() + &"delete behind\r\n".repeat(9)).expect("DELETED\r\n".repeat(10));
    let value = client.get(&["slow:1", "quick"]);
    let size: usize = value.iter().map(|value| value.data.len()).sum();
    eventually("the get is told of", || logged(&slipring, "slow request").iter().any(|line| line["command"] == "get"));
    let lines = logged(&slipring, "slow request");
    let first = |command: &str| lines.iter().find(|line| line["command"] == command).expect("a line of each kind");
    let [set, delete, get] = ["set", "delete", "get"].map(first);
    let seen = |line: &Value| {
        let wire = line["wire_ms"].as_f64().unwrap();
        assert!(wire >= 149.0 && line["level"] == "WARN", "{line}");
        assert!(line["queue_ms"].as_f64().unwrap() < wire, "{line}");
        assert_eq!(line["node"], node.address().to_string(), "{line}");
        (line["command"].as_str().unwrap().to_owned(), line["keys"].as_u64().unwrap(), line["bytes"].as_u64().unwrap())
    };
    assert_eq!(seen(set), ("set".to_owned(), 1, 20 + 502));
    assert_eq!(seen(delete), ("delete".to_owned(), 1, 15));
    assert_eq!(seen(get), ("get".to_owned(), 2, size as u64));
    assert_eq!((&set["key"], &get["key"]), (&place["hash"], &place["hash"]));
    assert!(!slipring.output().contains("slow:"), "keys are hashed");
    assert!(slipring.admin("/metrics").1.contains("\nslipring_slow_requests_total 12\n"), "all are counted");
    let deletes = lines.iter().filter(|line| line["command"] == "delete").count();
    assert!(deletes < 5, "of ten, all but one or two are passed over: {lines:?}");
}

#[test]
fn keys_are_logged_where_that_is_allowed_and_requests_without_an_answer_too() {
    let node = sluggish();
    let clocks = ["--log-format=json", "--log-keys", "--request-timeout=2s"];
    let slipring = Slipring::with(&[node.address()], &clocks);
    let mut client = slipring.client();
    client.ask("incr slow:1 1\r\n", "1\r\n");
    client.ask("get never:1\r\n", "END\r\n");
    eventually("both are told of", || {
        !logged(&slipring, "slow request").is_empty() && !logged(&slipring, "request timed out").is_empty()
    });
    assert_eq!(logged(&slipring, "slow request")[0]["key"], "slow:1");
    let lines = logged(&slipring, "request timed out");
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((&line["command"], &line["key"]), (&Value::from("get"), &Value::from("never:1")));
    assert!(line["wire_ms"].as_f64().unwrap() >= 1_999.0, "{line}");
}

#[test]
fn only_what_waited_a_whole_time_out_is_told_as_timed_out() {
    let node = sluggish();
    let slipring = Slipring::with(&[node.address()], &["--log-format=json", "--log-keys", "--request-timeout=1s"]);
    let mut client = slipring.client();
    client.ask("get never:1\r\n", "END\r\n");
    // Young still when the lane has been silent for a second time-out.
    std::thread::sleep(Duration::from_millis(600));
    client.ask("get never:2\r\n", "END\r\n");
    eventually("one is told of", || !logged(&slipring, "request timed out").is_empty());
    let lines = logged(&slipring, "request timed out");
    assert_eq!(lines[0]["key"], "never:1");
    for line in &lines {
        assert!(line["wire_ms"].as_f64().unwrap() >= 999.0, "{lines:?}");
    }
}

#[test]
fn nothing_is_told_of_slow_requests_where_they_are_off() {
    let node = sluggish();
    let slipring =
        Slipring::with(&[node.address()], &["--log-format=json", "--slow-request=0s", "--request-timeout=2s"]);
    let mut client = slipring.client();
    client.ask("delete slow:1\r\n", "DELETED\r\n").ask("get never:1\r\n", "END\r\n");
    assert_eq!(logged(&slipring, "slow request").len() + logged(&slipring, "request timed out").len(), 0);
}

#[test]
fn that_clients_do_not_read_is_told_once_and_each_of_them_counted() {
    let (_nodes, slipring) = three_nodes_with(&["--log-format", "json", "--buffer-limit", "8MiB"]);
    slipring.client().set("large", "x".repeat(900 << 10));
    // They ask for more than there is room for, and read nothing: who moves nothing is closed, down to half of the limit.
    let deaf = || {
        let mut client = TextClient::connect_narrow(slipring.address(), 8 << 10);
        client.send("get large\r\n".repeat(8));
        client
    };
    let closed = || {
        let metrics = slipring.admin("/metrics").1;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("slipring_client_connections_closed_total{reason=\"not_reading\"} "));
        line.expect("the series").parse::<u32>().expect("a number")
    };
    // What finds no room is a miss, so the first of them may leave too little for a second to be closed: others follow.
    let mut clients: Vec<TextClient> = (0..20).map(|_| deaf()).collect();
    eventually("several are closed", || {
        clients.extend((clients.len() < 1_000).then(deaf));
        closed() > 1
    });
    drop(clients);
    let told =
        || slipring.output().lines().filter(|line| line.contains("a client that does not read its replies")).count();
    eventually("that is told of", || told() > 0);
    assert_eq!(told(), 1);
}

#[test]
fn a_change_of_state_is_one_line_and_a_request_none() {
    let (mut nodes, slipring) = three_nodes_with(&["--workers", "2", "--log-format", "json", "--slow-request", "0s"]);
    eventually("each node is told to be up", || logged(&slipring, "node is up").len() == 3);
    let mut clients: Vec<TextClient> = (0..4).map(|_| slipring.client()).collect();
    let lines = slipring.output().lines().count();
    for client in &mut clients {
        for at in 0..200 {
            client.set(&format!("k{at}"), "v");
        }
    }
    assert_eq!(slipring.output().lines().count(), lines, "{}", slipring.output());
    let name = nodes[0].address().to_string();
    nodes[0].kill();
    slipring.wait_for_states("down", 1);
    for client in &mut clients {
        for at in 0..200 {
            client.get(&[&format!("k{at}")]);
        }
    }
    nodes[0].restart();
    slipring.wait_for_states("up", 3);
    let of = |message: &str| logged(&slipring, message).into_iter().filter(|line| line["node"] == *name).count();
    eventually("it is told to be up again", || of("node is up") == 2);
    assert_eq!(of("node is down"), 1);
    assert!(slipring.output().lines().count() <= lines + 4, "{}", slipring.output());
}

#[test]
fn the_configuration_is_shown_with_where_each_option_came_from() {
    let node = Memcached::start();
    let address = node.address().to_string();
    let environment = [("SLIPRING_WORKERS", "2"), ("MEMCACHED_NODES", &*address)];
    let slipring = Slipring::command(&["serve", "--max-connections", "77"], &environment);
    let config = json(&slipring, "/config");
    let option = |name: &str| {
        let options = config["options"].as_array().unwrap();
        options.iter().find(|option| option["option"] == name).unwrap_or_else(|| panic!("no {name}: {config}")).clone()
    };
    assert_eq!((&option("workers")["value"], &option("workers")["from"]), (&"2".into(), &"SLIPRING_WORKERS".into()));
    assert_eq!((&option("nodes")["value"], &option("nodes")["from"]), (&address.into(), &"MEMCACHED_NODES".into()));
    assert_eq!(option("max-connections")["from"], "flag");
    assert_eq!(option("ready-timeout")["from"], "default");
    assert_eq!(config["workers"], 2);
}

#[test]
fn hostile_admin_clients_hold_up_neither_data_nor_probes() {
    let (_nodes, slipring) = three_nodes_with(&[]);
    let (attack, attackers) = (AtomicBool::new(true), AtomicUsize::new(0));
    // Whoever says half a word, asks and does not read, talks without end, or talks nonsense; more of them than there are
    // places, and each that is closed comes again at once. What cannot be sent any more was refused.
    let hold = |kind: usize| {
        while attack.load(Relaxed) {
            let Ok(mut stream) = TcpStream::connect(slipring.admin_address()) else { continue };
            attackers.fetch_add(1, Relaxed);
            let _ = match kind {
                0 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
                1 => stream.write_all(&[b'x'; 64 << 10]),
                2 => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
                _ => stream.write_all(b"GET /hea"),
            };
            stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
            let mut is_open = true;
            while attack.load(Relaxed) && is_open {
                let read = stream.read(&mut [0; 4096]);
                is_open = read.map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |count| count > 0);
            }
        }
    };
    std::thread::scope(|scope| {
        for kind in 0..43 {
            let hold = &hold;
            scope.spawn(move || hold(kind));
        }
        // So that a failure ends the attack, too.
        let _over = Over(&attack);
        let mut client = slipring.client();
        eventually("every place has been taken many times", || attackers.load(Relaxed) > 100);
        for round in 0..5 {
            for at in 0..100 {
                client.set(&format!("k{round}:{at}"), "v");
            }
            for path in ["/healthz", "/readyz"] {
                eventually("a probe is answered", || {
                    let mut reply = String::new();
                    TcpStream::connect(slipring.admin_address()).is_ok_and(|mut stream| {
                        let asked = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
                        asked.is_ok() && stream.read_to_string(&mut reply).is_ok() && reply.ends_with("\r\n\r\nok\n")
                    })
                });
            }
        }
        client.in_step();
    });
    assert!(slipring.memory_kib("VmHWM") < 32 << 10, "{} KiB", slipring.memory_kib("VmHWM"));
    assert!(slipring.admin("/metrics").1.contains("\nslipring_client_connections_total "));
}

/// Ends the attack.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}
