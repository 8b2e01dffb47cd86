//! A discovery endpoint that does as it is told, before real nodes.
use crate::support::{Memcached, Port, Slipring, TextClient, eventually, free_port};
use crate::{Directory, Ring, serves, until, until_nodes};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone)]
enum Answer {
    Say(Vec<u8>),
    /// `ERROR` to the newer question, this to the older one.
    Old(Vec<u8>),
    /// Not a word.
    Silence,
    Close,
}

struct State {
    answer: Answer,
    /// Every line received.
    lines: Vec<String>,
    open: Vec<TcpStream>,
    stop: bool,
}

struct Endpoint {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl Endpoint {
    fn start(port: &Port, answer: Answer) -> Self {
        let address = port.on("127.0.0.1");
        let listener = TcpListener::bind(address).unwrap();
        let state = Arc::new(Mutex::new(State { answer, lines: Vec::new(), open: Vec::new(), stop: false }));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = locked(&shared);
                if state.stop {
                    return;
                }
                state.open.push(stream.try_clone().unwrap());
                drop(state);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer_on(stream, &shared));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    fn now(&self, answer: Answer) {
        locked(&self.state).answer = answer;
    }

    /// Nothing but the question was ever asked of it.
    fn was_only_asked_for_the_list(&self) {
        let lines: HashSet<String> = locked(&self.state).lines.drain(..).collect();
        assert!(lines.contains("config get cluster"), "{lines:?}");
        for line in lines {
            let known = ["config get cluster", "get AmazonElastiCache:cluster", "quit"];
            assert!(known.contains(&line.as_str()), "{line:?} came to the endpoint");
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        state.stop = true;
        for stream in &state.open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        let _ = TcpStream::connect(self.address);
        // The port must be free again when this is gone.
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn answer_on(mut stream: TcpStream, shared: &Mutex<State>) {
    let Ok(reading) = stream.try_clone() else { return };
    for line in BufReader::new(reading).lines() {
        let Ok(line) = line else { break };
        let mut state = locked(shared);
        state.lines.push(line.clone());
        let answer = state.answer.clone();
        drop(state);
        let bytes = match answer {
            Answer::Old(_) if line.starts_with("config") => b"ERROR\r\n".to_vec(),
            Answer::Say(bytes) | Answer::Old(bytes) => bytes,
            Answer::Silence => continue,
            Answer::Close => break,
        };
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn payload(version: u64, nodes: &[&Memcached]) -> String {
    // As Memorystore says it: the address in both fields.
    let members: Vec<String> =
        nodes.iter().map(|node| format!("127.0.0.1|127.0.0.1|{}", node.address().port())).collect();
    format!("{version}\n{}\n", members.join(" "))
}

fn config(version: u64, nodes: &[&Memcached]) -> Answer {
    let payload = payload(version, nodes);
    Answer::Say(format!("CONFIG cluster 0 {}\r\n{payload}\r\nEND\r\n", payload.len()).into_bytes())
}

fn follow(port: &Port, extra: &[&str]) -> Slipring {
    let address = port.on("127.0.0.1").to_string();
    let mut arguments = vec!["serve", "--discovery", &address, "--discovery-interval", "1s"];
    arguments.extend(extra);
    Slipring::command(&arguments, &[])
}

#[test]
fn without_an_endpoint_it_answers_and_with_one_it_serves() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let port = free_port();
    let patient = follow(&port, &["--ready-timeout", "60m"]);
    let hasty = follow(&port, &["--ready-timeout", "0s"]);
    assert_eq!(patient.admin("/readyz").0, 503);
    assert_eq!(patient.admin("/healthz").0, 200);
    eventually("it is ready all the same", || hasty.admin("/readyz").0 == 200);
    let asks = |client: &mut TextClient| {
        client.ask("get key\r\n", "END\r\n").ask("get one two three\r\n", "END\r\n");
        let refused = client.ask_line("set key 0 0 5\r\nvalue\r\n");
        assert!(refused.starts_with("SERVER_ERROR proxy"), "{refused}");
        let refused = client.ask_line("delete key\r\n");
        assert!(refused.starts_with("SERVER_ERROR proxy"), "{refused}");
        client.ask("touch key 0\r\n", "NOT_FOUND\r\n").in_step();
    };
    let mut clients = [patient.client(), hasty.client()];
    clients.iter_mut().for_each(asks);
    let ring = until(&patient, "the trouble is shown", |ring| ring.text("last_error").contains("cannot connect"));
    assert_eq!((ring.text("status"), ring.names().len()), ("unhealthy".to_owned(), 0));
    assert_eq!(patient.admin("/readyz").0, 503);
    let endpoint = Endpoint::start(&port, config(1, &[&a, &b]));
    for (slipring, client) in [&patient, &hasty].into_iter().zip(&mut clients) {
        until_nodes(slipring, &[&a, &b]);
        assert_eq!(slipring.admin("/readyz").0, 200);
        // The connection from before is as good as a new one.
        client.set("key", "value");
        assert_eq!(client.get(&["key"])[0].data, b"value");
        serves(slipring);
    }
    endpoint.was_only_asked_for_the_list();
}

#[test]
fn scaling_out_and_in_is_followed_and_dead_nodes_go_at_once() {
    let [a, mut b, mut c] = [(); 3].map(|()| Memcached::start());
    let port = free_port();
    let endpoint = Endpoint::start(&port, config(1, &[&a, &b]));
    // Nothing here waits for the hold to end.
    let slipring = follow(&port, &["--removal-hold", "60m"]);
    until_nodes(&slipring, &[&a, &b]);
    let mut client = slipring.client();
    endpoint.now(config(2, &[&a, &b, &c]));
    until_nodes(&slipring, &[&a, &b, &c]);
    serves(&slipring);
    client.in_step();
    // From three to one, below half: the nodes are dead and a higher version says so.
    b.kill();
    c.kill();
    endpoint.now(config(3, &[&a]));
    until_nodes(&slipring, &[&a]);
    serves(&slipring);
    client.in_step();
    // The list changes first, and the node dies later.
    b.restart();
    endpoint.now(config(4, &[&a, &b]));
    until_nodes(&slipring, &[&a, &b]);
    endpoint.now(config(5, &[&a]));
    until(&slipring, "it is pending", |ring| ring.pending().iter().any(|text| text.contains("still answering")));
    assert_eq!(Ring::of(&slipring).names().len(), 2);
    b.kill();
    let ring = until_nodes(&slipring, &[&a]);
    assert!(ring.pending().is_empty());
    serves(&slipring);
    endpoint.was_only_asked_for_the_list();
}

#[test]
fn a_removed_node_that_still_answers_is_held_and_shown() {
    let [a, b, c] = [(); 3].map(|()| Memcached::start());
    let port = free_port();
    let endpoint = Endpoint::start(&port, config(1, &[&a, &b, &c]));
    let long = follow(&port, &["--removal-hold", "60m"]);
    let short = follow(&port, &["--removal-hold", "2s"]);
    let before = until_nodes(&long, &[&a, &b, &c]);
    until_nodes(&short, &[&a, &b, &c]);
    endpoint.now(config(2, &[&a, &b]));
    let ring = until(&long, "it is pending", |ring| ring.pending().iter().any(|text| text.contains("still answering")));
    let text = &ring.pending()[0];
    assert!(text.starts_with(&format!("{} missing for ", c.address())), "{text}");
    assert!(text.contains("dropped in "), "{text}");
    assert_eq!((ring.names(), ring.version()), (before.names(), before.version()));
    assert_eq!(ring.text("status"), "degraded");
    // Its hold ends.
    let ring = until_nodes(&short, &[&a, &b]);
    assert!(ring.pending().is_empty());
    assert_eq!(ring.text("status"), "healthy");
    long.wait_for_output("missing for");
    // It is listed again before its hold ended: it was never away.
    endpoint.now(config(3, &[&a, &b, &c]));
    let ring = until(&long, "nothing is pending", |ring| ring.pending().is_empty());
    assert_eq!((ring.names(), ring.version()), (before.names(), before.version()));
    until_nodes(&short, &[&a, &b, &c]);
    serves(&long);
    serves(&short);
    endpoint.was_only_asked_for_the_list();
}

#[test]
fn whatever_the_endpoint_says_the_ring_and_the_traffic_stay() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let port = free_port();
    let good = config(5, &[&a, &b]);
    let endpoint = Endpoint::start(&port, good.clone());
    let slipring = follow(&port, &["--removal-hold", "0s"]);
    let first = until_nodes(&slipring, &[&a, &b]);
    let mut client = slipring.client();
    client.set("there", "before");
    let old = Answer::Old(b"END\r\n".to_vec());
    let cut = payload(6, &[&a]);
    let cut = format!("CONFIG cluster 0 {}\r\n{}", cut.len(), &cut[..cut.len() / 2]).into_bytes();
    for answer in [
        Answer::Silence,
        Answer::Close,
        Answer::Say(b"CONFIG cluster 0 2\r\n6\n\r\nEND\r\n".to_vec()),
        Answer::Say(b"CONFIG cluster 0 0\r\n\r\nEND\r\n".to_vec()),
        Answer::Say(b"ERROR\r\n".to_vec()),
        Answer::Say(cut),
        Answer::Say(vec![b'x'; 1 << 20]),
        Answer::Say(vec![0; 2 << 20]),
        old,
    ] {
        endpoint.now(answer);
        let ring = until(&slipring, "the trouble is shown", |ring| !ring.text("last_error").is_empty());
        assert_eq!((ring.version(), ring.names()), (first.version(), first.names()), "{}", ring.text("last_error"));
        assert_eq!((ring.text("status"), slipring.admin("/readyz").0), ("degraded".to_owned(), 200));
        assert_eq!(client.get(&["there"])[0].data, b"before");
        serves(&slipring);
        endpoint.now(good.clone());
        until(&slipring, "it is well again", |ring| ring.text("last_error").is_empty());
    }
    endpoint.was_only_asked_for_the_list();
    drop(endpoint);
    let ring = until(&slipring, "it is gone", |ring| ring.text("last_error").contains("cannot connect"));
    assert_eq!((ring.version(), ring.names()), (first.version(), first.names()));
    serves(&slipring);
}

#[test]
fn the_old_form_of_the_answer_is_followed_too() {
    let a = Memcached::start();
    let port = free_port();
    let payload = payload(1, &[&a]);
    let old = format!("VALUE AmazonElastiCache:cluster 0 {}\r\n{payload}\r\nEND\r\n", payload.len());
    let endpoint = Endpoint::start(&port, Answer::Old(old.into_bytes()));
    let slipring = follow(&port, &[]);
    until_nodes(&slipring, &[&a]);
    serves(&slipring);
    endpoint.was_only_asked_for_the_list();
}

#[test]
fn the_last_good_ring_serves_after_a_restart_without_an_endpoint() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let (port, directory) = (free_port(), Directory::new());
    let endpoint = Endpoint::start(&port, config(1, &[&a, &b]));
    let state = ["--state-dir", directory.0.to_str().unwrap(), "--ready-timeout", "60m"];
    let first = follow(&port, &state);
    let ring = until_nodes(&first, &[&a, &b]);
    first.client().set("kept", "value");
    eventually("the snapshot is written", || directory.path("last-good.json").exists());
    endpoint.was_only_asked_for_the_list();
    drop((first, endpoint));
    let second = follow(&port, &state);
    let again = until_nodes(&second, &[&a, &b]);
    assert_eq!(again.text("fingerprint"), ring.text("fingerprint"));
    eventually("it is ready", || second.admin("/readyz").0 == 200);
    assert_eq!(second.client().get(&["kept"])[0].data, b"value");
    serves(&second);
    until(&second, "the trouble is shown", |ring| ring.text("last_error").contains("cannot connect"));
    second.wait_for_output("last good ring of an earlier run");
    // The endpoint comes back with another list.
    let endpoint = Endpoint::start(&port, config(2, &[&b]));
    until(&second, "it is asked again", |ring| ring.text("last_error").is_empty());
    endpoint.was_only_asked_for_the_list();
}
