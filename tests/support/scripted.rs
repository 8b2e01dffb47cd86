//! A node that does as it is told: it holds replies back, stalls, drips, tells lies and hangs up.

mod serve;

use super::PATIENCE;
use serve::serve;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// One request as the node saw it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The command line without its line end.
    pub line: String,
    /// The data block of a storage command, without its line end.
    pub block: Vec<u8>,
    /// Which of the accepted connections it came on, from 0.
    pub connection: usize,
}

impl Request {
    pub fn words(&self) -> Vec<&str> {
        self.line.split(' ').collect()
    }

    /// The keys of a retrieval line.
    pub fn keys(&self) -> Vec<&str> {
        let words = self.words();
        let first = if words[0].starts_with("gat") { 2 } else { 1 };
        words[first..].to_vec()
    }
}

/// What the node does about a request, in order.
#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// Waits for [`ScriptedNode::release`].
    Hold,
    /// Waits for so long.
    Pause(Duration),
    /// Reads on, and never says anything again on this connection.
    Silence,
    /// Hangs up.
    Close,
    /// Hangs up with a reset: what is still on its way may be lost.
    Reset,
}

impl Step {
    pub fn send(bytes: impl AsRef<[u8]>) -> Self {
        Self::Send(bytes.as_ref().to_vec())
    }

    /// Sends so many bytes at a time, with a pause before each piece.
    pub fn drip(bytes: impl AsRef<[u8]>, piece: usize, pause: Duration) -> Vec<Self> {
        bytes.as_ref().chunks(piece).flat_map(|piece| [Self::Pause(pause), Self::send(piece)]).collect()
    }
}

/// What a truthful node does: every key exists, and its value says which key it belongs to.
pub fn honest(request: &Request) -> Vec<Step> {
    let words = request.words();
    let reply = match words[0] {
        "get" | "gets" | "gat" | "gats" => {
            let cas = if words[0].ends_with('s') { " 7" } else { "" };
            let mut reply = String::new();
            for key in request.keys() {
                let value = format!("value of {key}");
                reply += &format!("VALUE {key} 0 {}{cas}\r\n{value}\r\n", value.len());
            }
            reply + "END\r\n"
        }
        "set" | "add" | "replace" | "append" | "prepend" | "cas" => "STORED\r\n".to_owned(),
        "delete" => "DELETED\r\n".to_owned(),
        "touch" => "TOUCHED\r\n".to_owned(),
        "incr" | "decr" => "1\r\n".to_owned(),
        "flush_all" | "verbosity" => "OK\r\n".to_owned(),
        "stats" => "STAT pid 1\r\nSTAT version 1.6.18\r\nSTAT curr_items 0\r\nEND\r\n".to_owned(),
        "mn" => "MN\r\n".to_owned(),
        "mg" | "ms" | "md" | "ma" => {
            let value = if words[0] == "ma" { "1".to_owned() } else { format!("value of {}", words[1]) };
            let gives = words.contains(&"v");
            let mut reply = if gives { format!("VA {}", value.len()) } else { "HD".to_owned() };
            for flag in &words[2..] {
                match &flag[..1] {
                    "O" => reply += &format!(" {flag}"),
                    "k" => reply += &format!(" k{}{}", words[1], if words.contains(&"b") { " b" } else { "" }),
                    _ => {}
                }
            }
            reply + "\r\n" + &if gives { value + "\r\n" } else { String::new() }
        }
        _ => "ERROR\r\n".to_owned(),
    };
    vec![Step::send(reply)]
}

type Script = dyn Fn(&Request) -> Vec<Step> + Send + Sync;

struct State {
    requests: Vec<Request>,
    /// How many of the requests have been dealt with: every step of their script is done.
    answered: usize,
    /// The connection that each `version` came on.
    versions: Vec<usize>,
    /// Everything received, `version` and line ends included.
    raw: Vec<u8>,
    /// Open connections, by number.
    open: Vec<Option<TcpStream>>,
    closed: usize,
    /// How many holds may pass.
    released: usize,
    /// How many holds were reached.
    held: usize,
    /// Nothing is read and nothing sent.
    frozen: bool,
    /// New connections are closed as soon as they are accepted.
    refusing: bool,
    /// One read takes no more than so many bytes, and comes so long after the one before.
    pace: Option<(usize, Duration)>,
    stop: bool,
}

struct Shared {
    version: Mutex<Vec<Step>>,
    script: Box<Script>,
    state: Mutex<State>,
    changed: Condvar,
}

impl State {
    /// The connections that were asked more than `version`.
    fn lanes(&self) -> std::collections::BTreeSet<usize> {
        self.requests.iter().map(|request| request.connection).collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panicking test must still be able to end its node.
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn wait<'a>(&'a self, what: &str, done: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain until the scripted node saw {what}; it saw {:?}", state.requests);
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|poison| poison.into_inner()).0;
        }
        state
    }

    /// Waits while the node is frozen. `false`: it is being dropped.
    fn thawed(&self) -> bool {
        let mut state = self.state();
        while state.frozen && !state.stop {
            state = self.changed.wait(state).unwrap_or_else(|poison| poison.into_inner());
        }
        !state.stop
    }

    /// Waits for so long. `false`: the node is being dropped.
    fn pause(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut state = self.state();
        while !state.stop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|poison| poison.into_inner()).0;
        }
        false
    }
}

/// A fake node on 127.0.0.1, a thread per connection.
pub struct ScriptedNode {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl ScriptedNode {
    /// Answers `version` with `VERSION 1.6.18` and the rest as `script` says.
    pub fn start(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::with_version(vec![Step::send("VERSION 1.6.18\r\n")], script)
    }

    /// As [`ScriptedNode::start`], with another way to answer `version`.
    pub fn with_version(version: Vec<Step>, script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), version, script)
    }

    /// As [`ScriptedNode::with_version`], where somebody listens already.
    pub fn on(
        listener: TcpListener,
        version: Vec<Step>,
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("a bound port");
        let shared = Arc::new(Shared {
            version: Mutex::new(version),
            script: Box::new(script),
            state: Mutex::new(State {
                requests: Vec::new(),
                answered: 0,
                versions: Vec::new(),
                raw: Vec::new(),
                open: Vec::new(),
                closed: 0,
                released: 0,
                held: 0,
                frozen: false,
                refusing: false,
                pace: None,
                stop: false,
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let mut state = accepting.state();
                if state.stop {
                    return;
                }
                let connection = state.open.len();
                if state.refusing {
                    state.open.push(None);
                    state.closed += 1;
                    drop(state);
                    accepting.changed.notify_all();
                    continue;
                }
                state.open.push(stream.try_clone().ok());
                drop(state);
                accepting.changed.notify_all();
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || {
                    serve(&shared, stream, connection);
                    let mut state = shared.state();
                    state.open[connection] = None;
                    state.closed += 1;
                    drop(state);
                    shared.changed.notify_all();
                });
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has seen at least `count` requests (`version` does not count); gives all.
    pub fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        self.shared.wait(&format!("{count} requests"), |state| state.requests.len() >= count).requests.clone()
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Every byte received so far, on all connections.
    pub fn raw(&self) -> Vec<u8> {
        self.shared.state().raw.clone()
    }

    /// Waits until `count` requests have been dealt with: all that is sent about them is sent.
    pub fn wait_for_answers(&self, count: usize) {
        drop(self.shared.wait(&format!("{count} answers"), |state| state.answered >= count));
    }

    /// The connection that each `version` so far came on.
    pub fn versions(&self) -> Vec<usize> {
        self.shared.state().versions.clone()
    }

    /// Waits until `version` was asked for `count` times; gives the connections it came on.
    pub fn wait_for_versions(&self, count: usize) -> Vec<usize> {
        self.shared.wait(&format!("version {count} times"), |state| state.versions.len() >= count).versions.clone()
    }

    /// From now on `version` is answered like this.
    pub fn set_version(&self, steps: Vec<Step>) {
        *self.shared.version.lock().unwrap_or_else(|poison| poison.into_inner()) = steps;
    }

    /// Stands still, as a stopped process does: nothing is read and nothing sent until
    /// [`ScriptedNode::thaw`], and connections are established all the same. (One read that waits
    /// already may still take a piece.)
    pub fn freeze(&self) {
        self.shared.state().frozen = true;
    }

    /// Goes on where it stood still.
    pub fn thaw(&self) {
        self.shared.state().frozen = false;
        self.shared.changed.notify_all();
    }

    /// Closes every new connection unread, or no longer does.
    pub fn refuse_connections(&self, refusing: bool) {
        self.shared.state().refusing = refusing;
    }

    /// Reads no more than `bytes` at a time from now on, each read so long after the one before.
    pub fn read_slowly(&self, bytes: usize, pause: Duration) {
        self.shared.state().pace = Some((bytes, pause));
    }

    /// How many replies were ever held back.
    pub fn holds(&self) -> usize {
        self.shared.state().held
    }

    /// Waits until `count` replies are being held back.
    pub fn wait_for_holds(&self, count: usize) {
        drop(self.shared.wait(&format!("{count} holds"), |state| state.held >= count));
    }

    /// Lets one held reply go (also one that is not held yet).
    pub fn release(&self) {
        self.shared.state().released += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until `count` connections were accepted.
    pub fn wait_for_connections(&self, count: usize) {
        drop(self.shared.wait(&format!("{count} connections"), |state| state.open.len() >= count));
    }

    /// Waits until `count` connections have ended, whoever ended them.
    pub fn wait_for_closes(&self, count: usize) {
        drop(self.shared.wait(&format!("{count} closes"), |state| state.closed >= count));
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// Whether the connection of this number was accepted and has not ended.
    pub fn is_open(&self, connection: usize) -> bool {
        self.shared.state().open.get(connection).is_some_and(Option::is_some)
    }

    /// How many connections there were that were asked more than `version`: a node that owes an answer for long is asked
    /// that on a connection of its own.
    pub fn lanes(&self) -> usize {
        self.shared.state().lanes().len()
    }

    /// How many of them have ended.
    pub fn lanes_closed(&self) -> usize {
        let state = self.shared.state();
        state.lanes().into_iter().filter(|lane| state.open.get(*lane).is_some_and(Option::is_none)).count()
    }

    /// How many connections have ended.
    pub fn closes(&self) -> usize {
        self.shared.state().closed
    }

    /// Hangs up on every open connection.
    pub fn hang_up(&self) {
        for stream in self.shared.state().open.iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends bytes nobody asked for, on every open connection.
    pub fn blurt(&self, bytes: &[u8]) {
        for stream in self.shared.state().open.iter_mut().flatten() {
            stream.write_all(bytes).expect("an open connection takes bytes");
        }
    }
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stop = true;
        for stream in state.open.iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the accepting thread, which then ends and closes the port.
        let _ = TcpStream::connect(self.address);
    }
}
