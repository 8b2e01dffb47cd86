//! The load by which the compiler learns what is hot, for profile-guided optimisation: the Dockerfile runs it.
//!
//! `train SLIPRING MEMCACHED COUNTS` starts a slipring that was built to count how often each part of it runs. First it does so
//! again and again with nothing to do but to answer a probe, then once in front of three nodes, and sends requests of every
//! common kind; at last in front of nodes with TLS and a log-in. It checks all answers, and ends slipring by SIGTERM, upon which
//! it writes its counts: `idle-*`, `load-*` and `secured-*` in the directory COUNTS. The numbers of starts and requests are
//! fixed. `train order IDLE LOAD ALL` reads the counts of the first, of the first two, and of all, as `llvm-profdata show
//! --all-functions --counts` prints them, and writes a linker script that puts what has run side by side. It is built where the
//! image is built, by the compiler alone: the standard library must do.

#![expect(clippy::disallowed_methods, reason = "it waits")]
#![expect(clippy::indexing_slicing, reason = "its indices are its own")]
#![expect(clippy::cast_possible_truncation, reason = "its numbers are small")]

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For a start, an answer, and the end: on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);
const NODES: usize = 3;
const STARTS: usize = 5;
/// Of the standard library and of glibc, which come compiled and are not counted, what a proxy hardly ever runs: what names the
/// functions of a panic, and what looks up, prints and converts in ways that Rust does not ask for. Without these lists all of
/// both would be in memory. A name that does not exist, as in another libc, does no harm.
const SELDOM_OF_STD: [&str; 5] = ["5gimli", "9addr2line", "14rustc_demangle", "11miniz_oxide", "12backtrace_rs"];
const SELDOM_OF_LIBC: &str = "gconv_* wfile* wgenops *printf* getaddrinfo strto[dfl]* strtol?_l res_* resolv_conf dns-* nss_* \
    files-* nscd_* dcigettext loadmsgcat loadlocale localealias plural l10nflist ifaddrs check_pf tsearch mul_n *-sse2* *-sse4* \
    *-ssse3* dl-deps dl-close dl-profile dl-version dl-cache canonicalize getcwd msort";
const CLIENTS: usize = 50;
const KEYS: usize = 2_000;
const SMALL_BYTES: usize = 100;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["order", idle, load, all] => order([idle, load, all], io::stdout().lock()),
        [slipring, memcached, counts] => train(slipring, memcached, counts),
        _ => {
            eprintln!("usage: train SLIPRING MEMCACHED COUNTS, or train order IDLE LOAD ALL >SCRIPT");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Puts functions that have run side by side, for pages of the others need not be in memory: what only TLS runs, then what only a
/// load does, and at last what a sidecar runs that has nothing to do; the most frequent are where these two meet.
fn order(counts: [&str; 3], mut script: impl Write) -> Result<(), Box<dyn Error>> {
    let [idle, load, all] = counts.map(frequencies);
    let (idle, load, all) = (idle?, load?, all?);
    let (mut idle, busy): (Vec<_>, Vec<_>) = all.iter().partition(|(name, _)| idle.contains_key(*name));
    let (mut load, secured): (Vec<_>, Vec<_>) = busy.into_iter().partition(|(name, _)| load.contains_key(*name));
    // Where the nodes could not speak TLS nothing of it has run.
    if idle.len() < 500 || load.is_empty() {
        return Err(format!("only {} functions have run idle, and {} under the load", idle.len(), load.len()).into());
    }
    load.sort_by_key(|(_, most)| **most);
    idle.sort_by_key(|(_, most)| Reverse(**most));
    // The cryptography is not counted, for most of it is assembly.
    writeln!(script, "SECTIONS {{ .text.secured : {{ *libring-*:*(.text .text.*)")?;
    for (name, _) in secured {
        writeln!(script, "{}", sections_of(name))?;
    }
    writeln!(script, "}} .text.run : {{")?;
    for (name, _) in load.into_iter().chain(idle) {
        writeln!(script, "{}", sections_of(name))?;
    }
    // What comes compiled is not counted, and what is the same as another function may have only the other's name.
    for small in [".text*._R*7raw_vec*", ".text*._ZN5alloc7raw_vec*", ".text*._ZN4core3str*", ".text*._ZN5tokio4time*"]
    {
        writeln!(script, "*({small})")?;
    }
    writeln!(script, "*crt*.o(.text)")?;
    writeln!(script, "}} .text.seldom : {{")?;
    for part in SELDOM_OF_STD {
        writeln!(script, "*(.text*._R*{part}[0-9]*)")?;
    }
    for object in SELDOM_OF_LIBC.split_whitespace() {
        writeln!(script, "*libc.a:{object}.o(.text .text.*)")?;
    }
    writeln!(script, "}} .text.uncounted : {{")?;
    writeln!(script, "*(.text*._R*)")?;
    writeln!(script, "*lib[cm]*.a:*(.text .text.*)")?;
    writeln!(script, "}} }} INSERT AFTER .text;")?;
    Ok(())
}

/// Where a function may be: the compiler has already put `hot` and `unlikely` before the names of some; a number is behind names
/// that are there twice.
fn sections_of(name: &str) -> String {
    format!("*(.text.hot.{name} .text.{name} .text.unlikely.{name} .text.{name}.*)")
}

/// The functions that have run, and how often the part of each that ran most did.
fn frequencies(path: &str) -> io::Result<BTreeMap<String, u64>> {
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut name = "";
    for line in fs::read_to_string(path)?.lines() {
        if let Some(blocks) = line.strip_prefix("    Block counts: [") {
            let counts = blocks.trim_end_matches(']').split(", ").filter_map(|count| count.parse().ok());
            let most = counts.max().unwrap_or(0);
            if most > 0 {
                let known = found.entry(name.to_owned()).or_default();
                *known = most.max(*known);
            }
        } else if let Some(named) = line.strip_prefix("  ").and_then(|line| line.strip_suffix(':')) {
            // Before the name of one that is not seen elsewhere stands its module.
            name = named.rsplit(';').next().unwrap_or_default();
        }
    }
    Ok(found)
}

fn train(slipring: &str, memcached: &str, counts: &str) -> Result<(), Box<dyn Error>> {
    let (listen, admin) = (free_address()?, free_address()?);
    let start = |counted: &str, nodes: &str, more: &[&str]| {
        let mut command = Command::new(slipring);
        command.args(["serve", "--workers", "1", "--nodes", nodes]);
        command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]);
        // The clocks of a program that counts all it does.
        command.args(["--request-timeout", "30s", "--connect-timeout", "30s", "--queue-timeout", "30s"]);
        command.args(["--drain-timeout-on-exit", "0s"]).args(more);
        // Runs of the same program are added up in one file.
        command.env("LLVM_PROFILE_FILE", format!("{counts}/{counted}-%m.profraw"));
        Running::start(command, listen)
    };
    let (_nodes, names) = started(memcached, &[])?;
    for round in 0..STARTS {
        // The last one has a node that is down.
        let (counted, down) = if round + 1 < STARTS { ("idle", "") } else { ("load", ",127.0.0.1:1") };
        let mut proxy = start(counted, &format!("{names}{down}"), &[])?;
        page(admin, "/healthz")?;
        // Some ticks of a worker.
        sleep(Duration::from_millis(200));
        proxy.end()?;
    }

    let mut proxy = start("load", &names, &[])?;
    let mut clients = (0..CLIENTS).map(|_| connected(listen)).collect::<io::Result<Vec<_>>>()?;
    text(&mut clients)?;
    meta(&mut clients)?;
    large(&mut clients)?;
    binary(listen)?;
    for path in ["/healthz", "/metrics", "/metrics", "/ring", "/metrics"] {
        page(admin, path)?;
    }
    drop(clients);
    proxy.end()?;

    let help = Command::new(memcached).arg("-h").output()?;
    if !String::from_utf8_lossy(&help.stdout).contains("enable-ssl") {
        eprintln!("train: {memcached} was built without TLS: what TLS runs is not counted");
        return Ok(());
    }
    let secrets = Secrets::new()?;
    let [chain, key, ca, passwords] = ["node.pem", "node.key", "ca.pem", "passwords"].map(|name| secrets.path(name));
    let files = format!("ssl_chain_cert={chain},ssl_key={key}");
    let (_nodes, names) = started(memcached, &["-Z", "-o", &files, "-Y", &passwords])?;
    let mut proxy = start("secured", &names, &["--node-tls", "--node-tls-ca", &ca, "--node-auth-file", &passwords])?;
    let mut clients = (0..CLIENTS).map(|_| connected(listen)).collect::<io::Result<Vec<_>>>()?;
    for number in 0..KEYS {
        round(&mut clients[..1], |_| vec![set(&key_of(number), SMALL_BYTES)])?;
    }
    for number in 0..200 {
        round(&mut clients, |client| vec![mixed(number * CLIENTS + client)])?;
    }
    drop(clients);
    proxy.end()
}

/// Nodes, and the list of them.
fn started(memcached: &str, options: &[&str]) -> io::Result<(Vec<Running>, String)> {
    let nodes = (0..NODES).map(|_| node(memcached, options)).collect::<io::Result<Vec<_>>>()?;
    let (nodes, names): (Vec<_>, Vec<_>) = nodes.into_iter().map(|(node, address)| (node, address.to_string())).unzip();
    Ok((nodes, names.join(",")))
}

// === what is asked ===

/// Bytes to send, and the right answer.
type Step = (Vec<u8>, Vec<u8>);

fn key_of(number: usize) -> String {
    format!("key:{:012}", number % KEYS)
}

fn value(len: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(len).collect()
}

fn set(key: &str, len: usize) -> Step {
    let mut request = format!("set {key} 0 0 {len}\r\n").into_bytes();
    request.extend(value(len));
    request.extend(b"\r\n");
    (request, b"STORED\r\n".to_vec())
}

fn get(keys: &[String], len: usize) -> Step {
    let mut answer = Vec::new();
    for key in keys {
        answer.extend(format!("VALUE {key} 0 {len}\r\n").into_bytes());
        answer.extend(value(len));
        answer.extend(b"\r\n");
    }
    answer.extend(b"END\r\n");
    (format!("get {}\r\n", keys.join(" ")).into_bytes(), answer)
}

/// Nine gets to a set.
fn mixed(number: usize) -> Step {
    // Neighbours are not of neighbouring keys.
    let spread = key_of(number.wrapping_mul(7919));
    if number % 10 == 9 { set(&spread, SMALL_BYTES) } else { get(&[spread], SMALL_BYTES) }
}

fn line(request: &str, answer: &str) -> Step {
    (request.as_bytes().to_vec(), answer.as_bytes().to_vec())
}

fn text(clients: &mut [TcpStream]) -> Result<(), Box<dyn Error>> {
    for number in 0..KEYS {
        round(&mut clients[..1], |_| vec![set(&key_of(number), SMALL_BYTES)])?;
    }
    for number in 0..10_000 {
        round(&mut clients[..1], |_| vec![mixed(number)])?;
    }
    for number in 0..2_000 {
        round(clients, |client| vec![mixed(number * CLIENTS + client)])?;
    }
    for number in 0..150 {
        round(clients, |client| (0..16).map(|step| mixed((number * CLIENTS + client) * 16 + step)).collect())?;
    }
    for number in 0..600 {
        let keys = |client| (0..24).map(|step| key_of((number * CLIENTS + client) * 31 + step)).collect::<Vec<_>>();
        round(&mut clients[..10], |client| vec![get(&keys(client), SMALL_BYTES)])?;
    }
    for number in 0..100 {
        let own = |client| format!("own:{client}:{number}");
        round(clients, |client| {
            vec![
                line(&format!("get {}\r\n", own(client)), "END\r\n"),
                line(&format!("set {} 0 0 1 noreply\r\n1\r\n", own(client)), ""),
                line(&format!("incr {} 1\r\n", own(client)), "2\r\n"),
                line(&format!("touch {} 60\r\n", own(client)), "TOUCHED\r\n"),
                line(&format!("delete {}\r\n", own(client)), "DELETED\r\n"),
            ]
        })?;
    }
    Ok(())
}

fn meta(clients: &mut [TcpStream]) -> Result<(), Box<dyn Error>> {
    let mut found = format!("VA {SMALL_BYTES}\r\n").into_bytes();
    found.extend(value(SMALL_BYTES));
    found.extend(b"\r\n");
    let stored = |key: &str| {
        let mut request = format!("ms {key} {SMALL_BYTES}\r\n").into_bytes();
        request.extend(value(SMALL_BYTES));
        request.extend(b"\r\n");
        (request, b"HD\r\n".to_vec())
    };
    for number in 0..500 {
        round(clients, |client| {
            let key = key_of((number * CLIENTS + client).wrapping_mul(7919));
            let read = (format!("mg {key} v\r\n").into_bytes(), found.clone());
            if (number + client) % 10 == 9 { vec![stored(&key)] } else { vec![read] }
        })?;
    }
    Ok(())
}

fn large(clients: &mut [TcpStream]) -> Result<(), Box<dyn Error>> {
    for (len, rounds) in [(4 << 10, 100), (64 << 10, 30), (512 << 10, 10)] {
        let clients = &mut clients[..8];
        let own = |client: usize| format!("large:{len}:{client}");
        round(clients, |client| vec![set(&own(client), len)])?;
        for _ in 0..rounds {
            round(clients, |client| vec![get(&[own(client)], len)])?;
        }
    }
    Ok(())
}

fn binary(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut clients = (0..CLIENTS).map(|_| connected(address)).collect::<io::Result<Vec<_>>>()?;
    for number in 0..300 {
        for (client, stream) in clients.iter_mut().enumerate() {
            let key = key_of((number * CLIENTS + client).wrapping_mul(7919));
            let sets = (number + client) % 10 == 9;
            stream.write_all(&if sets {
                packet(1, &[0; 8], &key, &value(SMALL_BYTES))
            } else {
                packet(0, &[], &key, &[])
            })?;
        }
        for stream in &mut clients {
            let mut header = [0; 24];
            stream.read_exact(&mut header)?;
            let len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            let mut body = vec![0; len as usize];
            stream.read_exact(&mut body)?;
            if (header[0], header[6], header[7]) != (0x81, 0, 0) {
                return Err(format!("a packet was answered {header:x?}").into());
            }
        }
    }
    Ok(())
}

fn packet(opcode: u8, extras: &[u8], key: &str, value: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 24];
    (packet[0], packet[1], packet[3], packet[4]) = (0x80, opcode, key.len() as u8, extras.len() as u8);
    packet[8..12].copy_from_slice(&((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    packet.extend([extras, key.as_bytes(), value].concat());
    packet
}

fn page(admin: SocketAddr, path: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = connected(admin)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(format!("{path}: {}", String::from_utf8_lossy(&answer)).into()),
    }
}

/// Each client sends its steps; then all answers are read and compared.
fn round(clients: &mut [TcpStream], steps: impl Fn(usize) -> Vec<Step>) -> Result<(), Box<dyn Error>> {
    let mut answers = Vec::new();
    for (client, stream) in clients.iter_mut().enumerate() {
        let (requests, wanted): (Vec<_>, Vec<_>) = steps(client).into_iter().unzip();
        stream.write_all(&requests.concat())?;
        answers.push((requests, wanted.concat()));
    }
    for (stream, (requests, wanted)) in clients.iter_mut().zip(answers) {
        let mut answer = vec![0; wanted.len()];
        stream.read_exact(&mut answer)?;
        if answer != wanted {
            let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            return Err(format!("{:?} was answered {:?}", shown(&requests.concat()), shown(&answer)).into());
        }
    }
    Ok(())
}

// === what is started ===

/// A program; killed and reaped when dropped.
struct Running(Child);

impl Running {
    /// Starts it, and waits until it accepts connections.
    fn start(mut command: Command, address: SocketAddr) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = Self(command.spawn()?);
        let begun_at = Instant::now();
        while TcpStream::connect(address).is_err() {
            if running.0.try_wait()?.is_some() || begun_at.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("{} does not listen", command.get_program().display())));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(running)
    }

    /// Asks it to end, and waits until it has.
    fn end(&mut self) -> Result<(), Box<dyn Error>> {
        // The shell's own: there may be no other.
        Command::new("sh").args(["-c", &format!("kill -TERM {}", self.0.id())]).status()?;
        let begun_at = Instant::now();
        while begun_at.elapsed() < PATIENCE {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("it ended by {status}").into()),
                None => sleep(Duration::from_millis(20)),
            }
        }
        Err("it does not end".into())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority, a certificate of it for 127.0.0.1, and a password, in a directory that goes with this.
struct Secrets(PathBuf);

impl Secrets {
    fn new() -> Result<Self, Box<dyn Error>> {
        let secrets = Self(std::env::temp_dir().join(format!("slipring-train-{}", std::process::id())));
        fs::create_dir(&secrets.0)?;
        // The system's may not be there.
        let configuration = secrets.path("openssl.cnf");
        fs::write(
            &configuration,
            "[req]\ndistinguished_name=name\nx509_extensions=authority\n[name]\n[authority]\nbasicConstraints=critical,CA:TRUE\n",
        )?;
        fs::write(secrets.path("node.ext"), "subjectAltName=IP:127.0.0.1\n")?;
        fs::write(secrets.path("passwords"), "app:trained\n")?;
        let [ca, ca_key, request] = ["ca.pem", "ca.key", "node.csr"].map(|name| secrets.path(name));
        let [chain, key, extensions] = ["node.pem", "node.key", "node.ext"].map(|name| secrets.path(name));
        let of_curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
        let made = [
            [&["req", "-x509"][..], &of_curve, &[&ca_key, "-out", &ca, "-subj", "/CN=Trained", "-days", "2"]],
            [&["req"], &of_curve, &[&key, "-out", &request, "-subj", "/CN=node"]],
            [
                &["x509", "-req", "-in", &request, "-out", &chain, "-extfile", &extensions],
                &["-CA", &ca, "-CAkey", &ca_key],
                &["-CAcreateserial", "-days", "2"],
            ],
        ];
        for arguments in made {
            let mut command = Command::new("openssl");
            command.args(arguments.concat()).env("OPENSSL_CONF", &configuration).stdin(Stdio::null());
            let done = command.output();
            let done = done.map_err(|error| format!("openssl: {error}"))?;
            if !done.status.success() {
                return Err(format!("openssl: {}", String::from_utf8_lossy(&done.stderr)).into());
            }
        }
        Ok(secrets)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn node(memcached: &str, options: &[&str]) -> io::Result<(Running, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new(memcached);
    command.args(options);
    command.args(["-l", "127.0.0.1", "-p", &address.port().to_string(), "-U", "0", "-t", "1", "-u", "root"]);
    Ok((Running::start(command, address)?, address))
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn connected(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
