//! Processes the tests start, and kill again by their own handle.
use super::{TextClient, eventually};
use socket2::{Domain, Socket, Type};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The slipring under test.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    // Whatever MEMCACHED_* or SLIPRING_* the caller's shell has must not reach it.
    command.env_clear();
    command
}

/// Runs slipring with arguments it is expected to end on.
///
/// # Panics
/// When it does not end by itself.
pub fn run_to_end(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut child = binary()
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the slipring binary starts");
    let deadline = std::time::Instant::now() + super::PATIENCE;
    while child.try_wait().expect("a child can be waited for").is_none() {
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
            let output = child.wait_with_output().expect("a killed child ends");
            panic!("slipring {arguments:?} did not end by itself: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("an ended child has output")
}

/// A port that no other test uses while this lives: the socket that holds the UDP port of the same
/// number is the sign of it, to other test processes too.
pub struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The address on this host (an IPv6 one in brackets).
    pub fn on(&self, host: &str) -> SocketAddr {
        format!("{host}:{}", self.number).parse().expect("an address")
    }
}

/// A port nobody listens on, below the range the kernel gives to outgoing connections: none of
/// those can take it between this call and the bind it is meant for, or while a node is down.
///
/// # Panics
/// When there is none left.
pub fn free_port() -> Port {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // Test processes that run side by side start in different places.
        let port = FIRST + (std::process::id().wrapping_mul(257).wrapping_add(step)) % COUNT;
        let number = u16::try_from(port).expect("a port is below 65536");
        let Ok(claim) = UdpSocket::bind(("127.0.0.1", number)) else {
            continue;
        };
        let port = Port { number, _claim: claim };
        // Bound and not listening: a child that another thread forks at this moment holds a copy,
        // and nobody may be able to connect to that.
        let probe = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        probe.set_reuse_address(true).expect("SO_REUSEADDR");
        if probe.bind(&port.on("127.0.0.1").into()).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// A child of ours. It is killed when this is dropped, and a child that died by itself makes the
/// test that owns it fail: a crash must not look like a closed connection.
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Its end was ours: no complaint about it.
    ended: bool,
}

impl Process {
    fn start(name: &str, command: Command) -> Self {
        Self::start_logging_to(name, command, None)
    }

    /// As [`Process::start`], with its standard error elsewhere.
    fn start_logging_to(name: &str, mut command: Command, stderr: Option<Stdio>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}.log", std::process::id()));
        let file = File::create(&log).expect("a log file can be made");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file can be shared"))
            .stderr(stderr.unwrap_or_else(|| file.into()))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}. The tests need it; tests/run installs it."));
        Self { name: name.to_owned(), child, log, ended: false }
    }

    fn wait_until_it_accepts(&mut self, address: SocketAddr) {
        let name = self.name.clone();
        eventually(&format!("{name} accepts on {address}"), || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("{name} ended early with {status}: {}", self.output());
            }
            TcpStream::connect(address).is_ok()
        });
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends it a signal, named without its SIG.
    fn signal(&self, name: &str) {
        // The shell's own `kill`: a machine without procps has it too.
        let script = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh");
        assert!(status.success(), "{script}");
    }

    /// Stops it (SIGSTOP): its sockets still take what fits into them, and nobody answers.
    fn stop(&self) {
        self.signal("STOP");
        // Every thread of it: one that is still on its way to the stop may take some of what is sent.
        let tasks = format!("/proc/{}/task", self.child.id());
        eventually(&format!("{} stands still", self.name), || {
            fs::read_dir(&tasks).expect("its /proc").flatten().all(|task| {
                // A thread that is gone is still enough.
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
            })
        });
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually(&format!("{} ends", self.name), || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        self.ended = true;
        status.expect("it has ended")
    }

    /// Ends it; gives how it had ended before, if it had.
    fn kill(&mut self) -> Option<ExitStatus> {
        let died = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let died = died.filter(|_| !self.ended);
        self.ended = true;
        died
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let died = self.kill();
        let output = self.output();
        let _ = fs::remove_file(&self.log);
        if std::thread::panicking() {
            let end = died.map_or("was running".to_owned(), |status| format!("died with {status}"));
            eprintln!("--- {} {end}; its output:\n{output}---", self.name);
        } else if let Some(status) = died {
            panic!("{} died in the test with {status}: {output}", self.name);
        }
    }
}

/// A real memcached.
pub struct Memcached {
    process: Option<Process>,
    /// What starts it, if not we ourselves.
    starter: Vec<String>,
    host: String,
    port: Port,
    extra: Vec<String>,
    /// It answers nobody who does not speak TLS, or is not logged in.
    secured: bool,
    /// A second port of a secured one, for the test's own questions: in clear, for who logs in with this.
    door: Option<(Port, String)>,
}

impl Memcached {
    /// One thread, 256 MiB, on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// As [`Memcached::start`], with further arguments, which win.
    pub fn with(extra: &[&str]) -> Self {
        Self::elsewhere("127.0.0.1", &[], extra)
    }

    /// As [`Memcached::with`], on this host and started by this command, which must become it and
    /// not its parent.
    pub fn elsewhere(host: &str, starter: &[&str], extra: &[&str]) -> Self {
        Self::launch(host, starter, extra, false, None)
    }

    /// As [`Memcached::with`], of one that cannot be asked for its statistics just so.
    pub fn secured(extra: &[&str]) -> Self {
        Self::launch("127.0.0.1", &[], extra, true, None)
    }

    /// As [`Memcached::secured`], of one that takes this `user:password`: it can be asked, by a second port.
    pub fn with_door(extra: &[&str], login: &str) -> Self {
        Self::launch("127.0.0.1", &[], extra, true, Some((free_port(), login.to_owned())))
    }

    fn launch(host: &str, starter: &[&str], extra: &[&str], secured: bool, door: Option<(Port, String)>) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let mut node = Self {
            process: None,
            starter: owned(starter),
            host: host.to_owned(),
            port: free_port(),
            extra: owned(extra),
            secured,
            door,
        };
        node.restart();
        node
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a memcached that was not killed")
    }

    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    /// Stops it (SIGSTOP) until [`Memcached::go_on`]: it takes connections and requests, for those
    /// the kernel takes, and answers nothing.
    pub fn stop(&self) {
        self.running().stop();
    }

    pub fn go_on(&self) {
        self.running().signal("CONT");
    }

    /// Kills it, if it runs: connections to it are reset, its data is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let died = process.kill();
            let output = process.output();
            assert!(died.is_none(), "memcached died before it was killed: {output}");
        }
    }

    /// Makes it read its certificates anew, or its passwords (SIGHUP is for both).
    pub fn signal(&self, name: &str) {
        self.running().signal(name);
    }

    /// Starts it on the port it had, with these further arguments in place of the former.
    pub fn restart_with(&mut self, extra: &[&str]) {
        self.extra = extra.iter().map(|&word| word.to_owned()).collect();
        self.restart();
    }

    /// Starts it on the port it had, empty.
    pub fn restart(&mut self) {
        self.kill();
        let port = self.port.number().to_string();
        let mut words = self.starter.iter().map(String::as_str).chain(["memcached"]);
        let mut command = Command::new(words.next().expect("memcached at least"));
        command.args(words);
        // `-u` is only looked at when started by root, who may not run it.
        command.args(["-u", "nobody", "-t", "1", "-m", "256", "-c", "4096"]);
        command.args(["-p", &port, "-l", &self.host, "-U", "0"]);
        command.args(&self.extra);
        if let Some((door, _)) = &self.door {
            command.args(["-l", &format!("notls:{}", door.on(&self.host))]);
        }
        let mut process = Process::start("memcached", command);
        process.wait_until_it_accepts(self.address());
        if let Some((door, _)) = &self.door {
            process.wait_until_it_accepts(door.on(&self.host));
        }
        let pid = u64::from(process.child.id());
        self.process = Some(process);
        let is_mute = self.secured && self.door.is_none();
        assert!(is_mute || self.stat("pid") == pid, "another memcached has the port {port}");
    }

    pub fn address(&self) -> SocketAddr {
        self.port.on(&self.host)
    }

    /// A connection straight to it, past the proxy; in clear and logged in.
    pub fn client(&self) -> TextClient {
        let Some((door, login)) = &self.door else { return TextClient::connect(self.address()) };
        let mut client = TextClient::connect(door.on(&self.host));
        let login = login.replace(':', " ");
        client.send(format!("set auth 0 0 {}\r\n{login}\r\n", login.len())).expect("STORED\r\n");
        client
    }

    /// One of its statistics.
    pub fn stat(&self, name: &str) -> u64 {
        self.client().stats("stats")[name].parse().expect("a number")
    }
}

/// The proxy under test.
pub struct Slipring {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    _ports: [Port; 2],
}

impl Slipring {
    /// `slipring serve` in front of these nodes, all of them up.
    pub fn start(nodes: &[SocketAddr]) -> Self {
        Self::with(nodes, &[])
    }

    /// As [`Slipring::start`], with further arguments.
    pub fn with(nodes: &[SocketAddr], extra: &[&str]) -> Self {
        let slipring = Self::launch(nodes, extra);
        slipring.wait_for_states("up", nodes.len());
        slipring
    }

    /// Started and accepting; its nodes may be in any state.
    pub fn launch(nodes: &[SocketAddr], extra: &[&str]) -> Self {
        let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
        let nodes = nodes.join(",");
        let mut arguments = vec!["serve", "--nodes", &nodes];
        arguments.extend(extra);
        Self::command(&arguments, &[])
    }

    /// `slipring dev` with `nodes` embedded nodes.
    pub fn dev(nodes: usize) -> Self {
        let slipring = Self::command(&["dev", "--nodes", &nodes.to_string()], &[]);
        slipring.wait_for_states("up", nodes);
        slipring
    }

    /// Any long-running command; `--listen` and `--admin-listen` are added.
    pub fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::listening("127.0.0.1", arguments, environment)
    }

    /// As [`Slipring::command`], with no more than so many open files.
    pub fn with_files(files: u32, arguments: &[&str]) -> Self {
        Self::launch_as(Self::few_files(files), "127.0.0.1", arguments, &[])
    }

    /// Slipring with no more than so many open files, none of them inherited but the standard streams; its
    /// arguments are to be added.
    pub fn few_files(files: u32) -> Command {
        // The runner of the tests may leave some of its own open.
        let close = "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd>&-\"; done;";
        let mut command = Command::new("sh");
        command.env_clear();
        command.args(["-c", &format!("{close} ulimit -n {files} && exec \"$0\" \"$@\"")]).arg(binary().get_program());
        command
    }

    /// As [`Slipring::command`], with its log written there.
    pub fn logging_to(stderr: impl Into<Stdio>, arguments: &[&str]) -> Self {
        Self::spawn(binary(), "127.0.0.1", arguments, &[], Some(stderr.into()))
    }

    /// As [`Slipring::command`], on this host (an IPv6 one in brackets).
    pub fn listening(host: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch_as(binary(), host, arguments, environment)
    }

    /// As [`Slipring::command`], a member from its first page on of the control group that has
    /// this file of members.
    pub fn in_group(members: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.env_clear();
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(members).arg(binary().get_program());
        Self::launch_as(command, "127.0.0.1", arguments, &[])
    }

    fn launch_as(command: Command, host: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn(command, host, arguments, environment, None)
    }

    fn spawn(
        mut command: Command,
        host: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        stderr: Option<Stdio>,
    ) -> Self {
        let ports = [free_port(), free_port()];
        let (address, admin) = (ports[0].on(host), ports[1].on("127.0.0.1"));
        command.args(arguments);
        command.args(["--listen", &address.to_string()]);
        command.args(["--admin-listen", &admin.to_string()]);
        // A node of a test is slow on purpose, or because the machine is busy: only the tests of the clocks have the
        // clocks of users. A flag wins over these.
        if !matches!(env!("CARGO_CRATE_NAME"), "faults" | "outages") {
            command.envs([("SLIPRING_REQUEST_TIMEOUT", "30s"), ("SLIPRING_QUEUE_TIMEOUT", "30s")]);
        }
        command.envs(environment.iter().copied());
        let mut process = Process::start_logging_to("slipring", command, stderr);
        process.wait_until_it_accepts(address);
        process.wait_until_it_accepts(admin);
        Self { process, address, admin, _ports: ports }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn client(&self) -> TextClient {
        TextClient::connect(self.address)
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        self.process.wait_for_end()
    }

    /// Kills it (SIGKILL): nothing of it is put in order.
    pub fn kill(&mut self) {
        let died = self.process.kill();
        assert!(died.is_none(), "it had ended before");
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.child.try_wait().expect("a child can be waited for").is_some()
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// What it has written to its standard output and error so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// The whole lines of that: one that has no end yet is still being written.
    pub fn output_lines(&self) -> Vec<String> {
        let output = self.output();
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits until it has written this: the log is written by a thread of its own, when it has its turn.
    pub fn wait_for_output(&self, part: &str) {
        eventually(&format!("it says {part:?}"), || self.output().contains(part));
    }

    /// Where the admin port is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// `GET path` at the admin address: status and body.
    pub fn admin(&self, path: &str) -> (u16, String) {
        self.ask_admin("GET", path)
    }

    /// A request without a body at the admin address: status and body.
    pub fn ask_admin(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("the admin port accepts");
        stream.set_read_timeout(Some(super::PATIENCE)).expect("a time-out can be set");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .expect("the admin port reads");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("the admin port answers and closes");
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let status = reply.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        match (status, body) {
            (Some(status), Some(body)) => (status, body),
            _ => panic!("{method} {path} was answered {reply:?}"),
        }
    }

    /// `/ring` without white space, so that a test can look for `"state":"up"`.
    pub fn ring(&self) -> String {
        let (status, body) = self.admin("/ring");
        assert_eq!(status, 200, "/ring: {body}");
        body.split_whitespace().collect()
    }

    /// Waits until exactly `count` nodes of the ring are in `state`; those of the ring before do not count.
    pub fn wait_for_states(&self, state: &str, count: usize) {
        eventually(&format!("{count} nodes are {state}"), || {
            let ring: serde_json::Value = serde_json::from_str(&self.ring()).expect("JSON");
            let nodes = ring["nodes"].as_array().expect("nodes");
            nodes.iter().filter(|node| node["state"] == state).count() == count
        });
    }

    /// The highest resident set it ever had, in KiB (`VmHWM`), or the present one (`VmRSS`).
    pub fn memory_kib(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).expect("a Linux /proc");
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {field} in {path}"))
    }

    /// Stops the process (SIGSTOP) while `meanwhile` runs: all that is sent to it in between waits
    /// in its sockets and is found there in one round. It must fit into them.
    pub fn while_stopped<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        self.process.stop();
        let result = meanwhile();
        // The kernel of a busy machine may come later than the sender to put it there.
        eventually("all that was sent has arrived", || unacknowledged_bytes(self.address.port()) == 0);
        self.process.signal("CONT");
        result
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}

/// What was sent by IPv4 to a port of this machine, and did not arrive yet.
fn unacknowledged_bytes(port: u16) -> u64 {
    let table = fs::read_to_string("/proc/net/tcp").expect("a Linux /proc");
    let sent_to = |line: &str| {
        let mut fields = line.split_whitespace().skip(2);
        let (to, _, queues) = (fields.next()?, fields.next()?, fields.next()?);
        let unacknowledged = queues.split(':').next()?;
        to.ends_with(&format!(":{port:04X}")).then(|| u64::from_str_radix(unacknowledged, 16).expect("a length"))
    };
    table.lines().skip(1).filter_map(sent_to).sum()
}
