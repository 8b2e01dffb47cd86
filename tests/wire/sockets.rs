//! The sockets themselves: Unix sockets, the limit of clients, and the limit of descriptors.
use crate::support::{Memcached, Slipring, TextClient, eventually, free_port, run_to_end};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory of the test's own, gone with it; its path is short, as that of a Unix socket must be.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("slipring-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A path in it, and the same as `--listen` has it.
    fn socket(&self) -> (PathBuf, String) {
        let path = self.0.join("socket");
        let listen = format!("unix:{}", path.display());
        (path, listen)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    let file = fs::symlink_metadata(path).unwrap();
    assert!(file.file_type().is_socket());
    file.permissions().mode() & 0o777
}

/// A client that is served, once there is a place for it.
fn admitted(connect: impl Fn() -> TextClient) -> TextClient {
    let mut admitted = None;
    eventually("there is a place for a client", || {
        let mut client = connect();
        // One that is refused may find its request reset.
        let _ = client.send_if_taken(b"mn\r\n");
        let mut first = [0; 4];
        let served = client.stream().read_exact(&mut first).is_ok() && &first == b"MN\r\n";
        admitted = Some(client).filter(|_| served);
        served
    });
    admitted.unwrap()
}

#[test]
fn a_unix_socket_serves_as_tcp_does() {
    let node = Memcached::with(&["-I", "16m"]);
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    let mut slipring = Slipring::with(&[node.address()], &["--listen", &listen]);
    assert_eq!(mode(&path), 0o700, "memcached's default");
    slipring.wait_for_output(&listen);
    let mut client = TextClient::connect_unix(&path);
    client.set("k", "v");
    assert_eq!(slipring.client().get(&["k"])[0].data, b"v", "one proxy, two ways in");
    // A long pipeline, and values that are stored here, streamed, and read in many pieces.
    client.send("get k\r\n".repeat(5000)).expect("VALUE k 0 1\r\nv\r\nEND\r\n".repeat(5000));
    for size in [100_000, 1 << 20, 5 << 20] {
        let value = vec![b'x'; size];
        client.set("large", &value);
        assert!(client.get(&["large"])[0].data == value, "{size} bytes");
    }
    client.ask("touch nobody 0\r\n", "NOT_FOUND\r\n").in_step();
    // What is owed is answered after the end of the input, and behind `quit` comes the close.
    let owed = TextClient::connect_unix(&path).session(&[b"get k\r\nset l 0 0 1\r\nx\r\nget l"]);
    assert_eq!(owed, b"VALUE k 0 1\r\nv\r\nEND\r\nSTORED\r\n");
    client.send("get l\r\nquit\r\n").expect("VALUE l 0 1\r\nx\r\nEND\r\n").expect_closed();
    // Clients that leave in the middle.
    for request in ["set k 0 0 10\r\nhalf", "get k\r\nget k", "get large\r\n"] {
        TextClient::connect_unix(&path).send(request);
    }
    TextClient::connect_unix(&path).in_step();
    slipring.signal("INT");
    assert!(slipring.wait_for_end().success());
    assert!(!path.exists(), "the file goes with it");
}

#[test]
fn the_file_of_a_unix_socket_goes_however_it_is_told_to_end() {
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    for signals in [&["TERM"][..], &["TERM", "TERM"], &["INT"]] {
        let mut slipring = Slipring::command(&["dev", "--nodes", "1", "--listen", &listen], &[]);
        TextClient::connect_unix(&path).in_step();
        for signal in signals {
            slipring.signal(signal);
            // Two of the same that come at once are one.
            eventually("it was heard", || slipring.has_ended() || slipring.output().contains("draining"));
        }
        assert!(slipring.wait_for_end().success(), "{signals:?}");
        assert!(!path.exists(), "{signals:?}");
    }
}

#[test]
fn a_client_on_a_unix_socket_that_does_not_read_harms_only_itself() {
    let node = Memcached::start();
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    let slipring = Slipring::with(&[node.address()], &["--listen", &listen]);
    slipring.client().set("k", vec![b'x'; 500_000]);
    let mut slow = TextClient::connect_unix(&path);
    slow.send("get k\r\n".repeat(100));
    let mut bystander = TextClient::connect_unix(&path);
    for _ in 0..20 {
        assert_eq!(bystander.get(&["k"])[0].data.len(), 500_000);
    }
    for _ in 0..100 {
        assert_eq!(slow.values().unwrap()[0].data.len(), 500_000);
    }
    slow.in_step();
}

#[test]
fn the_mode_of_a_unix_socket_can_be_chosen() {
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    let slipring = Slipring::command(&["dev", "--nodes", "1", "--listen", &listen, "--unix-mode", "0666"], &[]);
    assert_eq!(mode(&path), 0o666);
    let mut client = TextClient::connect_unix(&path);
    client.set("k", "v");
    eventually("the banner is written", || slipring.output().contains("try "));
    let banner = slipring.output();
    assert!(banner.contains(&listen), "{banner}");
    assert!(banner.contains(&format!("nc -U {}\n", path.display())), "a line to try it with: {banner}");
}

#[test]
fn the_socket_of_a_crash_is_replaced() {
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    let arguments = ["dev", "--nodes", "1", "--listen", &listen];
    let mut crashed = Slipring::command(&arguments, &[]);
    crashed.kill();
    assert!(path.exists(), "a crash leaves it behind");
    let _slipring = Slipring::command(&arguments, &[]);
    TextClient::connect_unix(&path).in_step();
}

#[test]
fn a_socket_that_is_listened_on_is_taken_and_stays() {
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    let taken = UnixListener::bind(&path).unwrap();
    let arguments = ["dev", "--nodes", "1", "--listen", &listen, "--admin-listen", "off"];
    let refused = || {
        let output = run_to_end(&arguments, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(text.matches(&format!("{listen}: the socket is already taken")).count(), 1, "{text}");
    };
    refused();
    drop(taken.accept().unwrap());
    // Also when nobody accepts and the backlog is full: no waiting, and no mistaking it for a crash's.
    let small = socket2::SockRef::from(&taken);
    small.listen(0).unwrap();
    let _waiting: Vec<_> = (0..1).map(|_| TextClient::connect_unix(&path)).collect();
    refused();
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    fs::write(&path, "precious").unwrap();
    let link = directory.0.join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for listen in [listen, format!("unix:{}", link.display()), format!("unix:{}", directory.0.display())] {
        let output = run_to_end(&["dev", "--nodes", "1", "--listen", &listen, "--admin-listen", "off"], &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(&format!("{listen}: there is a file that is not a socket")), "{text}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(link.exists());
}

#[test]
fn a_socket_that_another_has_put_in_its_place_stays() {
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    let mut slipring = Slipring::command(&["dev", "--nodes", "1", "--listen", &listen], &[]);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    slipring.signal("INT");
    assert!(slipring.wait_for_end().success());
    assert!(path.exists(), "it is not ours to remove");
}

#[test]
fn clients_beyond_the_limit_are_told_so_and_closed() {
    let node = Memcached::start();
    let directory = Directory::new();
    let (path, listen) = directory.socket();
    let slipring = Slipring::with(&[node.address()], &["--max-connections", "3", "--listen", &listen]);
    let unix = || TextClient::connect_unix(&path);
    let mut clients = vec![admitted(|| slipring.client()), admitted(|| slipring.client()), admitted(unix)];
    for _ in 0..5 {
        for mut client in [slipring.client(), unix()] {
            assert_eq!(String::from_utf8_lossy(&client.rest()), "ERROR Too many open connections\r\n");
        }
    }
    for client in &mut clients {
        client.set("k", "v").in_step();
    }
    // One line says so, or one more for those that looked whether it accepts.
    slipring.wait_for_output("--max-connections is reached (3 clients)");
    let lines = slipring.output().matches("--max-connections is reached (3 clients)").count();
    assert!((1..=2).contains(&lines), "{}", slipring.output());
    clients.pop();
    clients.push(admitted(unix));
    for client in &mut clients {
        client.set("k", "v").in_step();
    }
}

#[test]
fn without_descriptors_clients_wait_and_those_that_are_connected_go_on() {
    let mut node = Memcached::start();
    let slipring = Slipring::with_files(64, &["serve", "--nodes", &node.address().to_string()]);
    slipring.wait_for_states("up", 1);
    slipring.wait_for_output("serving");
    let warnings = slipring.output().matches("leaves room for").count();
    assert_eq!(warnings, 1, "{}", slipring.output());
    let begun_at = Instant::now();
    let mut clients: Vec<TextClient> = (0..100).map(|_| slipring.client()).collect();
    for client in &mut clients {
        client.send("mn\r\n");
    }
    for client in &mut clients[..20] {
        client.expect("MN\r\n").set("k", "v");
    }
    eventually("it says so", || slipring.output().contains("cannot accept connections; slipring tries again"));
    // It does not spin: that would be a whole processor.
    let before = cpu_ticks(&slipring);
    std::thread::sleep(Duration::from_millis(500));
    assert!(cpu_ticks(&slipring) - before < 25, "{} of 50 ticks", cpu_ticks(&slipring) - before);
    // There are descriptors left for probes, and for a node that comes back.
    assert_eq!(slipring.admin("/healthz").0, 200);
    node.restart();
    slipring.wait_for_states("up", 1);
    eventually("the node is used again", || {
        clients[0].send("set k 0 0 1\r\nv\r\n");
        clients[0].line() == "STORED"
    });
    clients.drain(..80);
    for client in &mut clients {
        client.expect("MN\r\n").in_step();
    }
    drop(clients);
    slipring.client().set("k", "v");
    let most = 1 + begun_at.elapsed().as_secs() as usize / 10;
    let told = slipring.output().matches("cannot accept").count();
    assert!(told <= most, "once in ten seconds is enough: {}", slipring.output());
}

#[test]
fn without_any_descriptor_it_goes_on_too() {
    let node = Memcached::start();
    let slipring = Slipring::with_files(64, &["serve", "--nodes", &node.address().to_string()]);
    slipring.wait_for_states("up", 1);
    let mut bystander = slipring.client();
    bystander.set("k", "v");
    // They have gone for the proxy, which still listens to each for a moment, and holds its descriptor.
    let mut closed: Vec<TextClient> = (0..60).map(|_| slipring.client()).collect();
    for client in &mut closed {
        client.send("quit\r\n");
    }
    for _ in 0..100 {
        bystander.set("k", "v");
        assert_eq!(bystander.get(&["k"])[0].data, b"v");
    }
    for client in &mut closed {
        client.expect_closed();
    }
    eventually("the admin endpoint answers", || slipring.admin("/healthz").0 == 200);
    slipring.client().set("k", "v");
    assert!(!slipring.output().contains("Too many open files"), "they were reckoned with: {}", slipring.output());
}

#[test]
fn how_many_clients_there_is_room_for_follows_the_ring() {
    let node = Memcached::start();
    let list = Directory::new();
    let path = list.0.join("nodes");
    fs::write(&path, node.address().to_string()).unwrap();
    let slipring = Slipring::with_files(128, &["serve", "--nodes-file", &path.display().to_string()]);
    slipring.wait_for_states("up", 1);
    eventually("it reckons with one node", || {
        slipring.output().contains("room for 90 clients beside the connections to 1 node;")
    });
    // Nobody listens there; and these, too, need their descriptors.
    let more: Vec<String> = (1..=11).map(|last| format!("127.0.9.{last}:9")).collect();
    fs::write(&path, format!("{},{}", node.address(), more.join(","))).unwrap();
    eventually("it reckons with twelve", || {
        slipring.output().contains("room for 13 clients beside the connections to 12 nodes;")
    });
    let mut clients: Vec<TextClient> = (0..60).map(|_| slipring.client()).collect();
    for client in &mut clients {
        client.send("mn\r\n");
    }
    for client in &mut clients[..13] {
        client.expect("MN\r\n");
    }
    assert_eq!(slipring.admin("/healthz").0, 200);
    fs::write(&path, node.address().to_string()).unwrap();
    for client in &mut clients[13..] {
        client.expect("MN\r\n");
    }
    assert!(!slipring.output().contains("Too many open files"), "{}", slipring.output());
}

#[test]
fn without_the_descriptors_to_serve_a_client_it_says_so_and_ends() {
    let nodes = [(); 3].map(|()| Memcached::start());
    let names = nodes.each_ref().map(|node| node.address().to_string());
    let (one, three) = (names[0].clone(), names.join(","));
    serves_from_the_first_limit_with_which_it_starts(&["serve", "--nodes", &one, "--workers", "1"]);
    serves_from_the_first_limit_with_which_it_starts(&["serve", "--nodes", &one, "--workers", "2"]);
    serves_from_the_first_limit_with_which_it_starts(&["serve", "--nodes", &three, "--connections-per-node", "2"]);
    serves_from_the_first_limit_with_which_it_starts(&["dev", "--nodes", "2"]);
}

fn serves_from_the_first_limit_with_which_it_starts(arguments: &[&str]) {
    let directory = Directory::new();
    let log = directory.0.join("log");
    // How many are enough depends on how many it inherits.
    for files in 5..64 {
        let (port, admin) = (free_port(), free_port());
        let (listen, admin) = (port.on("127.0.0.1"), admin.on("127.0.0.1").to_string());
        let mut child = Slipring::few_files(files)
            .args(arguments)
            .args(["--listen", &listen.to_string(), "--admin-listen", &admin])
            .args(["--request-timeout", "30s", "--connect-timeout", "30s", "--queue-timeout", "30s"])
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut status = None;
        eventually("it serves or has ended", || {
            status = child.try_wait().unwrap();
            status.is_some() || fs::read_to_string(&log).unwrap().contains(" serving ")
        });
        let Some(status) = status else {
            let mut client = TextClient::connect(listen);
            client.set("k", "v");
            assert_eq!(client.get(&["k"])[0].data, b"v", "with {files} files");
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        };
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(1), "{files} files: {text}");
        let said = text.lines().filter(|line| line.starts_with("slipring: ")).count();
        assert_eq!(said, 1, "{files} files: {text}");
    }
    panic!("with 63 files it does not serve: {arguments:?}");
}

/// User and system time of the process, in ticks of 10 ms.
fn cpu_ticks(slipring: &Slipring) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", slipring.pid())).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_ascii_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}
