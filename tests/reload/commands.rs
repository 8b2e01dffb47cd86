//! What an operator runs beside the sidecar.
use crate::support::{Memcached, ScriptedNode, Slipring, Step, binary, eventually, free_port, honest, run_to_end};
use crate::{Directory, Ring, list, reload, replace, serves, try_reload, until_nodes};
use std::net::TcpStream;
use std::process::{Output, Stdio};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn check_is_content_with_nodes_that_store_and_give_back() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let version = a.client().ask_line("version\r\n").strip_prefix("VERSION ").unwrap().to_owned();
    let directory = Directory::new();
    let path = directory.path("nodes");
    replace(&path, &list([&a, &b]));
    let path = path.to_str().unwrap();
    let nodes = list([&a, &b]);
    // With flags, and with the sidecar's own environment.
    for (arguments, environment) in [
        (&["check", "--nodes", &nodes][..], &[][..]),
        (&["check", "--nodes-file", path], &[]),
        (&["check"], &[("MEMCACHED_NODES", nodes.as_str())]),
        (&["check"], &[("MEMCACHED_NODES_FILE", path)]),
    ] {
        let output = run_to_end(arguments, environment);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        for node in [&a, &b] {
            let name = node.address().to_string();
            let text = out(&output);
            let line = text.lines().find(|line| line.starts_with(&name)).unwrap();
            assert!(line.contains(&version) && line.ends_with("ok"), "{line}");
        }
    }
    assert_eq!(a.stat("curr_items") + b.stat("curr_items"), 0, "it takes away what it put there");
}

#[test]
fn check_tells_a_sidecar_of_this_machine_from_a_node() {
    let node = Memcached::start();
    let slipring = Slipring::command(&["serve", "--nodes", &node.address().to_string()], &[]);
    let itself = slipring.address().to_string();
    let output = run_to_end(&["check", "--nodes", &itself], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(out(&output).contains("is a slipring of this machine, not a memcached"), "{output:?}");
}

#[test]
fn check_names_the_node_that_fails_and_what_it_usually_means() {
    let well = Memcached::start();
    let nobody = free_port();
    let stranger = ScriptedNode::with_version(vec![Step::send("220 smtp.example.com\r\n")], honest);
    let silent = ScriptedNode::with_version(vec![Step::Hold], honest);
    let full = ScriptedNode::start(|_| vec![Step::send("SERVER_ERROR out of memory storing object\r\n")]);
    let web = ScriptedNode::with_version(
        vec![Step::send("HTTP/1.1 400 Bad Request\r\nContent-Length: 4"), Step::Close],
        honest,
    );
    let half = ScriptedNode::with_version(vec![Step::send("RFB 003.008"), Step::Close], honest);
    let tls = ScriptedNode::with_version(vec![Step::send(b"\x15\x03\x01\x00\x02\x02\x46"), Step::Close], honest);
    let login = ScriptedNode::with_version(vec![Step::send("CLIENT_ERROR unauthenticated\r\n")], honest);
    let closes = ScriptedNode::with_version(vec![Step::Close], honest);
    let crowded =
        ScriptedNode::with_version(vec![Step::send("ERROR Too many open connections\r\n"), Step::Close], honest);
    for (bad, fault, hint) in [
        (web.address(), "unexpected answer \"HTTP/1.1 400 Bad Request\"", "something else listens there"),
        (half.address(), "unexpected answer \"RFB 003.008\"", "something else listens there"),
        (tls.address(), "TLS expected", "TLS"),
        (login.address(), "authentication wanted", "authentication"),
        (crowded.address(), "too many open connections", "memcached -c"),
        (closes.address(), "closed the connection", "something else listens there"),
        (nobody.on("127.0.0.1"), "refused", "wrong port"),
        (stranger.address(), "unexpected answer", "something else listens there"),
        (silent.address(), "connected, but no answer", "hangs or is overloaded"),
        (full.address(), "out of memory", "full"),
    ] {
        let output = run_to_end(&["check", "--nodes", &format!("{},{bad}", well.address())], &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = out(&output);
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.starts_with(&bad.to_string())).unwrap();
        assert!(lines[at].contains(fault) && lines[at + 1].contains(hint), "{text}");
        assert!(
            lines.iter().any(|line| line.starts_with(&well.address().to_string()) && line.ends_with("ok")),
            "{text}"
        );
        assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 2"), "{output:?}");
    }
}

#[test]
fn check_waits_as_long_as_the_sidecar_would_where_that_is_said() {
    let silent = ScriptedNode::with_version(vec![Step::Hold], honest);
    let address = silent.address().to_string();
    let check = ["check", "--nodes", &address];
    for (further, environment, limit) in [
        (&["--request-timeout", "300ms"][..], &[][..], "300 ms"),
        (&[], &[("SLIPRING_REQUEST_TIMEOUT", "3s")], "3 s"),
        (&["--connect-timeout", "1s"], &[], "2 s"),
    ] {
        let output = run_to_end(&[&check, further].concat(), environment);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(out(&output).contains(&format!("connected, but no answer within {limit}\n")), "{output:?}");
    }
}

#[test]
fn a_source_without_a_list_is_an_error_that_names_it() {
    let directory = Directory::new();
    let path = directory.path("none");
    let nobody = free_port().on("127.0.0.1").to_string();
    for source in [["--nodes-file", path.to_str().unwrap()], ["--discovery", &nobody]] {
        for command in [&["check"][..], &["locate", "key"]] {
            let output = run_to_end(&[command, &source].concat(), &[]);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains(source[1]), "{output:?}");
        }
    }
}

#[test]
fn reload_has_the_file_read_and_says_when_there_is_nobody() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    replace(&path, &list([&a]));
    let slipring = Slipring::command(&["serve", "--nodes-file", path.to_str().unwrap()], &[]);
    until_nodes(&slipring, &[&a]);
    let mut before = slipring.client();
    before.set("before", "the swap");
    replace(&path, &list([&a, &b]));
    reload(&slipring);
    until_nodes(&slipring, &[&a, &b]);
    before.in_step();
    slipring.wait_for_output("reading the source of nodes again");
    slipring.wait_for_output("ring changed");
    let again = ["reload", "--pid", &slipring.pid().to_string()];
    let output = run_to_end(&again, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = out(&output);
    let ring = told.strip_prefix("2 nodes, ring ").and_then(|rest| rest.strip_suffix(", nothing changed\n"));
    assert!(ring.is_some_and(|ring| slipring.ring().contains(&format!("\"fingerprint\":\"{ring}\""))), "{told}");
    eventually("what a reload moves is told", || {
        replace(&path, &list([&a, &b]));
        reload(&slipring);
        replace(&path, &list([&a]));
        let told = out(&run_to_end(&again, &[]));
        // Where the machine is busy the file may have been read by itself before that.
        let moved = told.ends_with(" % of the keys moved\n");
        assert!(told.starts_with("1 node, ring ") && (moved || told.ends_with(", nothing changed\n")), "{told}");
        moved
    });
    // A list that is refused.
    replace(&path, "a:b:c");
    let output = run_to_end(&again, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("line 1, entry 1: expected host, host:port") && !told.contains("a:b:c"), "{told}");
    assert!(told.contains("the ring stays as it is: 1 node, ring "), "{told}");
    // Another program is not hung up.
    let output = run_to_end(&["reload", "--pid", &a.pid().to_string()], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is \"memcached\", not a slipring"), "{output:?}");
    a.client().in_step();
    // Nor another command of this one.
    let mut locate =
        binary().args(["locate", "--nodes", "a"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let output = run_to_end(&["reload", "--pid", &locate.id().to_string()], &[]);
    drop(locate.stdin.take());
    let ended = locate.wait().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("another command of slipring"), "{output:?}");
    assert_eq!(ended.code(), Some(0));
    // No process has the largest number there is.
    let output = run_to_end(&["reload", "--pid", &i32::MAX.to_string()], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&i32::MAX.to_string()), "{output:?}");
    assert_eq!(run_to_end(&["reload", "--pid", "0"], &[]).status.code(), Some(64));
}

#[test]
fn reload_names_several_by_where_they_listen_without_those_that_drain() {
    let node = Memcached::start();
    let nodes = node.address().to_string();
    let [first, second, drains] = [(); 3].map(|()| Slipring::command(&["serve", "--nodes", &nodes], &[]));
    let mut last = drains.client();
    last.in_step();
    drains.signal("TERM");
    eventually("it drains", || Ring::of(&drains).0["draining"] == true);
    let output = run_to_end(&["reload"], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // Those of other tests may be among them.
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = |slipring: &Slipring| {
        let (pid, listen, admin) = (slipring.pid(), slipring.address(), slipring.admin_address());
        format!("\n  {pid}: --listen {listen}, --admin-listen {admin}\n")
    };
    assert!(told.contains("several run here: name one of them with --pid:\n"), "{told}");
    assert!(told.contains(&line(&first)) && told.contains(&line(&second)), "{told}");
    assert!(!told.contains(&line(&drains)), "{told}");
    last.in_step();
}

#[test]
fn reload_says_that_no_list_has_been_read_yet() {
    let directory = Directory::new();
    let path = directory.path("none");
    let slipring = Slipring::command(&["serve", "--nodes-file", path.to_str().unwrap()], &[]);
    let output = try_reload(&slipring);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.ends_with("; no list of nodes has been read yet\n") && !told.contains("ring 0"), "{told}");
}

#[test]
fn reload_says_when_another_sidecar_has_the_admin_address() {
    let node = Memcached::start();
    let nodes = node.address().to_string();
    let first = Slipring::command(&["serve", "--nodes", &nodes], &[]);
    let (port, admin) = (free_port(), first.admin_address().to_string());
    let listen = port.on("127.0.0.1");
    let mut second = binary()
        .args(["serve", "--nodes", &nodes, "--listen", &listen.to_string(), "--admin-listen", &admin])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let result = std::panic::catch_unwind(|| {
        eventually("the second accepts", || TcpStream::connect(listen).is_ok());
        let output = run_to_end(&["reload", "--pid", &second.id().to_string()], &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(&format!("another slipring, process {}, listens there", first.pid())), "{told}");
        TcpStream::connect(listen).unwrap();
    });
    second.kill().unwrap();
    second.wait().unwrap();
    result.unwrap();
    reload(&first);
}

#[test]
fn reload_and_ring_say_that_a_list_makes_no_ring() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    replace(&path, &list([&a]));
    let arguments = ["serve", "--nodes-file", path.to_str().unwrap(), "--placement", "gomemcache"];
    let slipring = Slipring::command(&arguments, &[]);
    let first = until_nodes(&slipring, &[&a]);
    let again = ["reload", "--pid", &slipring.pid().to_string()];
    replace(&path, &format!("{},{}=2", a.address(), b.address()));
    // It may have been read by itself before that, and is no news to the second.
    for _ in 0..2 {
        let output = run_to_end(&again, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let problem = format!("placement gomemcache has no weights, but {} has one", b.address());
        assert!(told.contains(&format!("{problem}; the ring stays as it is: 1 node, ring ")), "{told}");
        let ring = Ring::of(&slipring);
        assert_eq!((ring.text("last_error"), ring.text("status")), (problem, "degraded".to_owned()));
        assert_eq!((ring.names(), ring.version()), (first.names(), first.version()));
    }
    replace(&path, &list([&a, &b]));
    let output = run_to_end(&again, &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(until_nodes(&slipring, &[&a, &b]).text("last_error"), "");
}

#[test]
fn a_hangup_means_reload_for_a_static_list_too_and_ends_nothing() {
    let node = Memcached::start();
    let slipring = Slipring::start(&[node.address()]);
    for _ in 0..5 {
        reload(&slipring);
    }
    serves(&slipring);
}

#[test]
fn a_hangup_as_early_as_the_port_accepts_does_not_end_it() {
    let node = Memcached::start();
    for _ in 0..10 {
        let port = free_port();
        let listen = port.on("127.0.0.1");
        let mut child = binary()
            .args(["serve", "--nodes", &node.address().to_string(), "--admin-listen", "off"])
            .args(["--listen", &listen.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id().try_into().ok().and_then(rustix::process::Pid::from_raw).unwrap();
        let result = std::panic::catch_unwind(|| {
            eventually("the data port accepts", || TcpStream::connect(listen).is_ok());
            rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
            crate::support::TextClient::connect(listen).in_step();
        });
        let died = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(died.is_none(), "ended by a hangup: {died:?}");
        result.unwrap();
    }
}
