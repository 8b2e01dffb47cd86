//! How it starts, and the one clear line when it does not.
use crate::sockets::Directory;
use crate::support::{Memcached, PATIENCE, Slipring, TextClient, binary, eventually, free_port, run_to_end};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::thread;

fn one_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "one line is enough: {text}");
    assert!(!text.contains("panicked"), "{text}");
    lines[0].to_owned()
}

#[test]
fn a_wrong_option_ends_with_one_line_that_names_it_and_exit_code_64() {
    let cases: &[(&[&str], &str)] = &[
        (&["--nodes", "10.0.0.1,10.0.0.1"], "10.0.0.1"),
        (&["--nodes", "10.0.0.1:11211,10.0.0.2,10.0.0.1"], "10.0.0.1"),
        (&["--nodes", ""], "nodes"),
        (&["--nodes", " , ;\n"], "nodes"),
        (&["--nodes", "10.0.0.1:0"], "10.0.0.1:0"),
        (&["--nodes", "10.0.0.1:65536"], "65536"),
        (&["--nodes", "10.0.0.1:port"], "10.0.0.1:port"),
        (&["--nodes", "10.0.0.1=0"], "10.0.0.1=0"),
        (&["--nodes", "10.0.0.1=-1"], "10.0.0.1=-1"),
        (&["--nodes", "10.0.0.1=heavy"], "10.0.0.1=heavy"),
        (&["--nodes", "10.0.0.1="], "10.0.0.1="),
        (&["--nodes", "[::1"], "[::1"),
        (&["--nodes", "10.0.0.1", "--node-port", "0"], "0"),
        (&["--nodes", "10.0.0.1", "--listen", "nowhere"], "nowhere"),
        (&["--nodes", "10.0.0.1", "--listen", "127.0.0.1:5", "--admin-listen", "127.0.0.1:5"], "127.0.0.1:5"),
        (&["--nodes", "10.0.0.1", "--workers", "0"], "0"),
        (&["--nodes", "10.0.0.1", "--connections-per-node", "0"], "0"),
        (&["--nodes", "10.0.0.1", "--max-value", "much"], "much"),
        (&["--nodes", "10.0.0.1", "--merge-gets", "perhaps"], "perhaps"),
        (&["--nodes", "10.0.0.1", "--on-node-down", "panic"], "panic"),
        (&["--nodes", "10.0.0.1", "--no-such-option"], "--no-such-option"),
        (&["--nodes", "10.0.0.1,224.0.0.1"], "224.0.0.1"),
        (&["--nodes", "0.0.0.0"], "0.0.0.0"),
        (&["--nodes", "localhost"], "localhost:11211 is this sidecar itself"),
        (&[], "node"),
    ];
    for (arguments, token) in cases {
        let mut all = vec!["serve"];
        all.extend(*arguments);
        let output = run_to_end(&all, &[]);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        let line = one_line(&output);
        assert!(line.contains(token), "{arguments:?}: {line}");
    }
}

#[test]
fn a_wrong_environment_ends_with_exit_code_64_too() {
    for (environment, token) in [
        (&[("MEMCACHED_NODES", "10.0.0.1:0")][..], "10.0.0.1:0"),
        (&[("MEMCACHED_NODES", "10.0.0.1"), ("MEMCACHED_PORT", "eleven")], "eleven"),
        (&[("MEMCACHED_NODES", "10.0.0.1"), ("SLIPRING_WORKERS", "many")], "many"),
    ] {
        let output = run_to_end(&["serve"], environment);
        assert_eq!(output.status.code(), Some(64), "{environment:?}: {output:?}");
        let line = one_line(&output);
        assert!(line.contains(token), "{environment:?}: {line}");
    }
}

#[test]
fn a_port_that_is_taken_ends_with_one_line_and_not_with_success() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = free_port();
    let admin = port.on("127.0.0.1").to_string();
    for start in [&["serve", "--nodes", "127.0.0.1:9"][..], &["dev", "--nodes", "1"]] {
        let mut arguments = start.to_vec();
        arguments.extend(["--listen", &address, "--admin-listen", &admin]);
        let output = run_to_end(&arguments, &[]);
        assert_ne!(output.status.code(), Some(0), "{output:?}");
        assert!(output.status.code().is_some(), "it ended by itself: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<&str> = text.lines().filter(|line| line.contains(&address)).collect();
        assert_eq!(errors.len(), 1, "{text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn a_taken_admin_port_does_not_keep_the_data_port_from_serving() {
    let node = Memcached::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap().to_string();
    let port = free_port();
    let listen = port.on("127.0.0.1").to_string();
    let mut child = crate::support::binary()
        .args(["serve", "--nodes", &node.address().to_string()])
        .args(["--listen", &listen, "--admin-listen", &admin])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = listen.parse().unwrap();
    let result = std::panic::catch_unwind(|| {
        crate::support::eventually("the data port accepts", || std::net::TcpStream::connect(address).is_ok());
        TextClient::connect(address).in_step();
    });
    child.kill().unwrap();
    child.wait().unwrap();
    result.unwrap();
}

#[test]
fn it_listens_on_the_ipv6_loopback_too() {
    let node = Memcached::start();
    let nodes = node.address().to_string();
    let slipring = Slipring::listening("[::1]", &["serve", "--nodes", &nodes], &[]);
    slipring.wait_for_states("up", 1);
    let mut client = slipring.client();
    client.set("k", "v");
    assert_eq!(client.get(&["k"])[0].data, b"v");
}

#[test]
fn localhost_with_a_port_is_both_loopback_addresses() {
    let (node, port) = (Memcached::start(), free_port());
    let listen = format!("localhost:{}", port.number());
    let mut child = binary()
        .args(["serve", "--nodes", &node.address().to_string(), "--admin-listen", "off"])
        .env("SLIPRING_LISTEN", &listen)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let result = std::panic::catch_unwind(|| {
        let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
        for host in ["127.0.0.1", "[::1]"].into_iter().take(if has_ipv6 { 2 } else { 1 }) {
            eventually(&format!("it accepts on {host}"), || TcpStream::connect(port.on(host)).is_ok());
            TextClient::connect(port.on(host)).in_step();
        }
    });
    child.kill().unwrap();
    child.wait().unwrap();
    result.unwrap();
}

#[test]
fn the_admin_endpoint_listens_on_several_addresses_and_goes_without_those_that_are_not_there() {
    let node = Memcached::start();
    let nodes = node.address().to_string();
    let ports = [free_port(), free_port()];
    let second = ports[0].on("[::1]");
    // An address for documentation: no machine has it.
    let list = format!("{second},[2001:db8::1]:{}", ports[1].on("127.0.0.1").port());
    let slipring = Slipring::command(&["serve", "--nodes", &nodes, "--admin-listen", &list], &[]);
    slipring.wait_for_states("up", 1);
    assert_eq!(slipring.admin("/readyz").0, 200);
    let mut admin = std::net::TcpStream::connect(second).unwrap();
    admin.set_read_timeout(Some(PATIENCE)).unwrap();
    admin.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn listen_may_be_given_more_than_once() {
    let node = Memcached::start();
    let nodes = node.address().to_string();
    let port = free_port();
    let second = port.on("[::1]").to_string();
    let slipring = Slipring::command(&["serve", "--nodes", &nodes, "--listen", &second], &[]);
    slipring.wait_for_states("up", 1);
    slipring.client().set("k", "v");
    let mut client = TextClient::connect(second.parse().unwrap());
    assert_eq!(client.get(&["k"])[0].data, b"v");
}

#[test]
fn the_environment_names_the_nodes_as_users_have_them_today() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let names: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    let list = format!("{};{} {}=2\n{}", names[0], names[1], names[2], names[3]);
    let slipring = Slipring::command(
        &["serve"],
        &[("MEMCACHED_NODES", list.as_str()), ("MEMCACHED_PORT", "tcp://10.0.0.9:11211")],
    );
    slipring.wait_for_states("up", 4);
    let ring = slipring.ring();
    for name in &names {
        assert!(ring.contains(&format!("\"name\":\"{name}\"")), "{ring}");
    }
    assert_eq!(ring.matches("\"weight\":2").count(), 1, "{ring}");
    assert!(ring.contains("\"fingerprint\":"), "{ring}");
    slipring.wait_for_output("serving");
    let warnings = slipring.output().matches("MEMCACHED_PORT").count();
    assert_eq!(warnings, 1, "one warning: {}", slipring.output());
    slipring.client().set("k", "v");
}

#[test]
fn the_port_that_kubernetes_sets_is_ignored_in_a_mounted_directory_too() {
    let node = Memcached::start();
    let directory = std::env::temp_dir().join(format!("slipring-linked-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("MEMCACHED_NODES"), node.address().ip().to_string()).unwrap();
    std::fs::write(directory.join("MEMCACHED_PORT"), "tcp://10.0.0.9:11211\n").unwrap();
    let path = directory.to_str().unwrap();
    let port = node.address().port().to_string();
    let slipring = Slipring::command(&["serve", "--nodes-file", path, "--node-port", &port], &[]);
    slipring.wait_for_states("up", 1);
    slipring.client().set("k", "v");
    slipring
        .wait_for_output(&format!("MEMCACHED_PORT=tcp://10.0.0.9:11211 in {path} ignored: it is what Kubernetes sets"));
    let warnings = slipring.output().matches("MEMCACHED_PORT").count();
    assert_eq!(warnings, 1, "one warning: {}", slipring.output());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_key_of_a_mounted_directory_that_is_ignored_is_told_of_once() {
    let node = Memcached::start();
    let directory = std::env::temp_dir().join(format!("slipring-slips-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let write = |key: &str, text: &str| std::fs::write(directory.join(key), text).unwrap();
    write("MEMCACHED_NODES", &node.address().to_string());
    write("MEMCACHED_DISCOVERY_HOST", "10.0.0.9");
    write("SLIPRING_PLACEMENT", "jump");
    write("SLIPRING_MAX_VALUE", "1m");
    write("SLIPRING_PLACEMENT_BEFORE", "jump");
    let path = directory.to_str().unwrap();
    let environment = [("MEMCACHED_NODES_FILE", path), ("SLIPRING_PLACEMENT", "jump")];
    let slipring = Slipring::command(&["serve"], &environment);
    slipring.wait_for_states("up", 1);
    let lines = [
        format!(
            "SLIPRING_MAX_VALUE in {path} ignored: slipring does not read this key there; set it as a variable of the container"
        ),
        format!("SLIPRING_PLACEMENT_BEFORE in {path} ignored: it has no effect without MEMCACHED_NODES_BEFORE"),
    ];
    for line in &lines {
        slipring.wait_for_output(line);
    }
    // An operator who writes down the ring before, and slips.
    write("MEMCACHED_NODES_BEFOR", "127.0.0.1:1");
    let line = "MEMCACHED_NODES_BEFOR in ";
    slipring.wait_for_output(line);
    let log = slipring.output();
    assert!(log.contains("ignored: there is no such key; the most similar one is MEMCACHED_NODES_BEFORE"), "{log}");
    assert_eq!(log.matches(line).count(), 1, "{log}");
    // The container has this one as a variable; that one is the application's.
    assert!(!log.contains("SLIPRING_PLACEMENT in ") && !log.contains("MEMCACHED_DISCOVERY_HOST"), "{log}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn memcached_port_is_the_port_of_nodes_named_without_one() {
    let node = Memcached::start();
    let port = node.address().port().to_string();
    let environment = [("MEMCACHED_NODES", "127.0.0.1"), ("MEMCACHED_PORT", port.as_str())];
    let slipring = Slipring::command(&["serve"], &environment);
    slipring.wait_for_states("up", 1);
    slipring.client().set("k", "v");
    assert_eq!(node.client().get(&["k"]).len(), 1);
}

#[test]
fn a_flag_wins_over_the_environment() {
    let node = Memcached::start();
    let nodes = node.address().to_string();
    let environment = [("MEMCACHED_NODES", "127.0.0.1:9,127.0.0.1:10")];
    let slipring = Slipring::command(&["serve", "--nodes", &nodes], &environment);
    slipring.wait_for_states("up", 1);
    slipring.client().set("k", "v");
}

#[test]
fn the_admin_port_says_whether_it_lives_and_is_ready() {
    let node = Memcached::start();
    let slipring = Slipring::start(&[node.address()]);
    assert_eq!(slipring.admin("/healthz").0, 200);
    assert_eq!(slipring.admin("/readyz").0, 200);
    assert_eq!(slipring.admin("/no-such-page").0, 404);
    let ring = slipring.ring();
    for field in ["fingerprint", "version", "nodes", "name", "address", "weight", "share", "state"] {
        assert!(ring.contains(&format!("\"{field}\":")), "{field}: {ring}");
    }
}

#[test]
fn a_cache_that_is_down_does_not_make_it_unready() {
    let nowhere = free_port();
    let never_up = Slipring::launch(&[nowhere.on("127.0.0.1")], &[]);
    never_up.wait_for_states("down", 1);
    let mut node = Memcached::start();
    let slipring = Slipring::start(&[node.address()]);
    node.kill();
    slipring.wait_for_states("down", 1);
    for slipring in [never_up, slipring] {
        assert_eq!(slipring.admin("/healthz").0, 200);
        assert_eq!(slipring.admin("/readyz").0, 200);
        slipring.client().ask("get k\r\n", "END\r\n").in_step();
    }
}

#[test]
fn discovery_that_never_answers_keeps_nobody_from_starting() {
    // It takes connections, and is silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    // TEST-NET-1: nobody ever answers from there.
    for source in [["--discovery", &endpoint], ["--discovery", "192.0.2.1"], ["--dns", "nobody.invalid"]] {
        let mut arguments = vec!["serve", "--ready-timeout", "2s", "--queue-timeout", "50ms"];
        arguments.extend(source);
        let slipring = Slipring::command(&arguments, &[]);
        assert_eq!(slipring.admin("/healthz").0, 200, "{source:?}");
        slipring.client().ask("get k\r\n", "END\r\n").in_step();
        assert!(slipring.client().ask_line("set k 0 0 1\r\nv\r\n").starts_with("SERVER_ERROR proxy"));
        eventually("it is ready without a ring", || slipring.admin("/readyz").0 == 200);
    }
}

#[test]
fn who_comes_before_discovery_has_answered_is_served_when_it_has() {
    let node = Memcached::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (answer, go_on) = mpsc::channel::<()>();
    let port = node.address().port();
    thread::spawn(move || {
        // It takes connections, and says nothing before it may.
        let _ = go_on.recv();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let nodes = format!("1\nlocalhost|127.0.0.1|{port}\n");
                while let Ok(1..) = stream.read(&mut [0; 128]) {
                    let _ = write!(stream, "CONFIG cluster 0 {}\r\n{nodes}\r\nEND\r\n", nodes.len());
                }
            });
        }
    });
    // Nobody's wait ends before the answer.
    let patient = ["--discovery-interval", "1s", "--queue-timeout", "60s"];
    let slipring = Slipring::command(&[&["serve", "--discovery", &endpoint], &patient[..]].concat(), &[]);
    let (mut writer, mut other) = (slipring.client(), slipring.client());
    writer.send("set k 0 0 1\r\nv\r\nget k\r\n");
    other.in_step();
    let waits = || {
        let (_, metrics) = slipring.admin("/metrics");
        metrics.contains("slipring_backpressure_waits_total{reason=\"ring\"} 1\n")
    };
    eventually("it waits for the ring", waits);
    answer.send(()).unwrap();
    writer.expect("STORED\r\nVALUE k 0 1\r\nv\r\nEND\r\n").in_step();
    let (_, metrics) = slipring.admin("/metrics");
    let mut told = metrics.lines().filter(|line| line.contains("reason=\"no_ring\""));
    assert!(told.all(|line| line.ends_with(" 0")), "{metrics}");
}

#[test]
fn dev_serves_from_embedded_nodes_with_nothing_installed() {
    let slipring = Slipring::dev(3);
    slipring.wait_for_output("printf");
    let banner = slipring.output();
    assert!(banner.contains(&slipring.address().to_string()), "{banner}");
    assert!(banner.contains("printf"), "a line to try it with: {banner}");
    let mut client = slipring.client();
    for number in 0..100 {
        client.set(&format!("key{number}"), format!("value{number}"));
    }
    let keys: Vec<String> = (0..100).map(|number| format!("key{number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(client.get(&keys).len(), 100);
    client.ask("delete key1\r\n", "DELETED\r\n");
    client.ask("incr key2 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
    client.ask("flush_all\r\n", "OK\r\n");
    assert!(client.get(&keys).is_empty());
    let version = client.ask_line("version\r\n");
    assert!(version.starts_with("VERSION 1.6."), "{version}");
    client.in_step();
}

#[test]
fn a_slip_in_the_ring_before_is_the_same_in_a_mounted_directory_and_in_a_file_of_its_own() {
    let node = Memcached::start();
    let nodes = node.address().to_string();
    let directory = Directory::new();
    let (mounted, own) = (directory.0.join("mounted"), directory.0.join("before"));
    std::fs::create_dir(&mounted).unwrap();
    std::fs::write(mounted.join("MEMCACHED_NODES"), &nodes).unwrap();
    let by_key = mounted.join("MEMCACHED_NODES_BEFORE");
    let (mounted, own_path) = (mounted.to_str().unwrap(), own.to_str().unwrap());
    let slip = "\"endng:\" means nothing; the most similar word is ending:";
    for (arguments, written, said) in [
        (&["--nodes-file", mounted][..], &by_key, format!("file {mounted}: ring before: {slip}")),
        (&["--nodes", &nodes, "--nodes-before-file", own_path], &own, format!("ring before in {own_path}: {slip}")),
    ] {
        std::fs::write(written, format!("endng:{nodes}")).unwrap();
        for command in [&["check"][..], &["locate", "k"], &["plan", "--to", "10.0.0.9"]] {
            let output = run_to_end(&[command, arguments].concat(), &[]);
            assert_eq!((output.status.code(), one_line(&output)), (Some(1), format!("slipring: {said}")), "{output:?}");
        }
        let slipring = Slipring::command(&[&["serve"], arguments].concat(), &[]);
        slipring.wait_for_output(&format!("there is no node: {said}\n"));
        eventually("/ring says why", || slipring.admin("/ring").1.contains("the most similar word is ending:"));
        assert!(slipring.admin("/ring").1.contains("\"nodes\":[]"), "{}", slipring.admin("/ring").1);
        std::fs::write(written, format!("ending:{nodes}")).unwrap();
        slipring.wait_for_states("up", 1);
        slipring.client().set("k", "v");
        assert!(slipring.admin("/ring").1.contains("\"state\":\"ending\""), "{}", slipring.admin("/ring").1);
    }
}

/// What it printed and logged.
fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_the_system_says_is_told_without_its_number_and_a_path_once() {
    let directory = Directory::new();
    let path = |name: &str| directory.0.join(name).to_str().unwrap().to_owned();
    let (none, turning, file, empty) = (path("none"), path("turning"), path("file"), path("empty"));
    std::os::unix::fs::symlink(&turning, &turning).unwrap();
    std::fs::write(&file, "127.0.0.1:9").unwrap();
    std::fs::create_dir(&empty).unwrap();
    let nobody = free_port().on("127.0.0.1").to_string();
    let (below, socket) = (path("file/below"), format!("unix:{}", path("none/socket")));
    let largest = i32::MAX.to_string();
    for (arguments, code, said) in [
        (&["check", "--nodes-file", &none][..], 1, "cannot be read: No such file or directory"),
        (&["locate", "k", "--nodes-file", &turning], 1, "cannot be read: Too many levels of symbolic links"),
        (&["locate", "k", "--nodes-file", &below], 1, "cannot be read: Not a directory"),
        (&["plan", "--to", "a", "--nodes-file", &empty], 1, "cannot be read: there is no file MEMCACHED_NODES in it"),
        (&["check", "--nodes", "a", "--nodes-before-file", &turning], 1, "cannot be read: Too many levels"),
        (&["check", "--discovery", &nobody], 1, "cannot connect: Connection refused"),
        (&["check", "--nodes", "a", "--node-tls", "--node-tls-ca", &none], 64, "cannot read "),
        (&["check", "--nodes", "a", "--node-auth-file", &empty], 64, "it is no regular file"),
        (&["plan", "--from", "a", "--to", "b", "--keys", &none], 1, "cannot read it: No such file or directory"),
        (&["plan", "--from", "a", "--to", "b", "--keys", &empty], 1, "Is a directory"),
        (&["detect", "--nodes", &nobody, "--keys", &none], 1, "cannot read it: No such file or directory"),
        (&["detect", "--nodes", &nobody], 1, "connection refused"),
        (&["check", "--nodes", &nobody], 1, "connection refused"),
        (&["reload", "--pid", &largest], 1, "No such process"),
        // An address for documentation: no machine has it.
        (
            &["serve", "--nodes", "a", "--listen", "192.0.2.1:11211", "--admin-listen", "off"],
            1,
            "this machine does not have that address",
        ),
        (&["serve", "--nodes", "a", "--listen", &socket, "--admin-listen", "off"], 1, "its directory does not exist"),
        (
            &["serve", "--nodes", "a", "--listen", &format!("unix:{below}"), "--admin-listen", "off"],
            1,
            "Not a directory",
        ),
    ] {
        let output = run_to_end(arguments, &[]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let told = all(&output);
        assert!(told.contains(said) && !told.contains("(os error"), "{arguments:?}: {told}");
        let line = one_line(&output);
        for path in [&none, &turning, &empty, &below] {
            assert!(line.matches(path.as_str()).count() <= 1, "{line}");
        }
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = crate::support::binary().arg("man").stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), one_line(&output)), (Some(1), "slipring: No space left on device".to_owned()));
    // And in the log, and what the page shows.
    let slipring = Slipring::command(&["serve", "--nodes-file", &turning, "--state-dir", &below], &[]);
    slipring.wait_for_output(&format!("there is no node: file {turning}: cannot be read: Too many levels"));
    slipring.wait_for_output("cannot read the last good ring from --state-dir");
    eventually("/ring says why", || {
        slipring.admin("/ring").1.contains("cannot be read: Too many levels of symbolic links")
    });
    std::fs::remove_file(&turning).unwrap();
    std::fs::write(&turning, "127.0.0.1:9").unwrap();
    slipring.wait_for_output("cannot write the last good ring to --state-dir");
    let told = slipring.output() + &slipring.admin("/ring").1;
    assert!(told.contains("Not a directory") && !told.contains("(os error"), "{told}");
}
