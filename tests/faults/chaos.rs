//! Many clients, and a node that is late, silent, torn off or wrong at random: every answer is the
//! answer to its own request, or one that says that there is none.
use crate::serves_again;
use crate::support::{
    Random, Request, ScriptedNode, Slipring, Step, TextClient, honest, number_from_environment, shown,
};
use std::sync::Mutex;
use std::time::Duration;

/// The reply says what was asked: a number comes back, a value names its key.
fn echo(request: &Request) -> Vec<Step> {
    match request.words()[0] {
        "incr" | "decr" => vec![Step::send(format!("{}\r\n", request.words()[2]))],
        "get" if request.line.contains("large") => {
            let mut reply = Vec::new();
            for key in request.keys() {
                let value = if key.starts_with("large") { large(key) } else { format!("value of {key}").into_bytes() };
                reply.extend_from_slice(format!("VALUE {key} 0 {}\r\n", value.len()).as_bytes());
                reply.extend_from_slice(&value);
                reply.extend_from_slice(b"\r\n");
            }
            reply.extend_from_slice(b"END\r\n");
            vec![Step::Send(reply)]
        }
        _ => honest(request),
    }
}

/// Mostly prompt, sometimes late by up to three time-outs, now and then worse.
fn moody(seed: u64) -> impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static {
    let random = Mutex::new(Random::new(seed));
    move |request| {
        let mut steps = echo(request);
        if request.line.contains("again") {
            return steps;
        }
        let mut random = random.lock().unwrap();
        match random.below(200) {
            0..140 => {}
            140..185 => steps.insert(0, Step::Pause(Duration::from_millis(random.below(100) as u64))),
            185..193 => steps.insert(0, Step::Pause(Duration::from_millis(random.below(300) as u64))),
            193 => steps = vec![Step::Silence],
            194 => steps = vec![Step::Close],
            195 => steps = vec![Step::Reset],
            _ => {
                // Torn off somewhere, at once or after a while.
                let Some(Step::Send(mut reply)) = steps.pop() else { return steps };
                reply.truncate(random.below(reply.len()));
                steps = vec![Step::Send(reply)];
                steps.push(Step::Pause(Duration::from_millis(random.below(2) as u64 * 200)));
                steps.push(if random.one_in(2) { Step::Close } else { Step::Reset });
            }
        }
        steps
    }
}

/// What a node holds under a key whose number says how long it is.
fn large(key: &str) -> Vec<u8> {
    let number: usize = key.trim_start_matches("large").parse().expect("a number");
    let length = number % 7 * 250_000;
    key.bytes().cycle().take(length).collect()
}

/// One client's requests, each of which can be told from every other. Gives how many were answered
/// by a node.
fn work(slipring: &Slipring, name: u64, rounds: u64, random: &mut Random) -> u64 {
    let mut client = slipring.client();
    let mut answered = 0;
    for round in 0..rounds {
        let depth = random.between(1, 4) as u64;
        let nonces: Vec<u64> = (0..depth).map(|step| name << 32 | round << 3 | step).collect();
        let kind = random.below(50);
        let mut requests = String::new();
        for nonce in &nonces {
            requests += &match kind {
                0..16 => format!("incr counter{} {nonce}\r\n", random.below(5)),
                16..32 => format!("get own{nonce}\r\n"),
                32..48 => format!("append quiet{nonce} 0 0 1 noreply\r\nx\r\nget own{nonce} shared\r\n"),
                _ => format!("get large{nonce}\r\n"),
            };
        }
        client.send(requests);
        if random.one_in(25) {
            client.abort();
            client = slipring.client();
            continue;
        }
        for nonce in &nonces {
            if kind < 16 {
                let reply = client.line();
                let own = reply == nonce.to_string();
                assert!(own || reply.starts_with("SERVER_ERROR proxy"), "incr {nonce}: {reply}");
                answered += u64::from(own);
                continue;
            }
            let own = if kind < 48 { format!("own{nonce}") } else { format!("large{nonce}") };
            let Some(found) = read(&mut client, &own) else {
                client = slipring.client();
                break;
            };
            answered += found;
        }
    }
    answered
}

/// The values of a `get` of this key and, perhaps, `shared`. `None`: the connection was closed in a
/// value that could not go on.
fn read(client: &mut TextClient, own: &str) -> Option<u64> {
    let mut found = 0;
    loop {
        let line = client.line_or_end()?;
        if line == "END" {
            return Some(found);
        }
        let key = line.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(key == own || key == "shared", "get {own}: {line}");
        let value = if key.starts_with("large") { large(&key) } else { format!("value of {key}").into_bytes() };
        assert_eq!(line, format!("VALUE {key} 0 {}", value.len()));
        let block = client.line_or_end()?;
        assert!(block.as_bytes() == value, "the value of another: {}", shown(block.as_bytes()));
        found += 1;
    }
}

fn weather(arguments: &[&str], seed: u64) {
    let nodes = [ScriptedNode::start(moody(seed)), ScriptedNode::start(moody(seed + 1))];
    let slipring = Slipring::with(&[nodes[0].address(), nodes[1].address()], arguments);
    let rounds = number_from_environment("SLIPRING_FAULTS_ROUNDS", 150);
    let answered: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=8)
            .map(|name| {
                let slipring = &slipring;
                scope.spawn(move || {
                    let mut random = Random::new(seed * 100 + name);
                    work(slipring, name, rounds, &mut random)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client that got its own answers")).sum()
    });
    println!("{answered} answers by a node, seed {seed}");
    assert!(answered > 0, "nothing was ever answered by a node");
    assert!(
        !slipring.output().contains("sent what answers no request"),
        "no node said anything wrong: {}",
        slipring.output()
    );
    for node in &nodes {
        let requests = node.requests();
        let mut appended: Vec<&str> =
            requests.iter().map(|r| r.line.as_str()).filter(|line| line.starts_with("app")).collect();
        let all = appended.len();
        appended.sort_unstable();
        appended.dedup();
        assert_eq!(appended.len(), all, "a write was sent twice");
    }
    serves_again(&slipring, 2);
}

fn seed() -> u64 {
    number_from_environment("SLIPRING_FAULTS_SEED", 1)
}

#[test]
fn in_any_weather_every_answer_is_that_of_its_own_request() {
    weather(&["--workers", "1", "--request-timeout", "100ms"], seed());
}

#[test]
fn in_any_weather_with_several_connections_and_no_merging_too() {
    let several = ["--workers", "1", "--connections-per-node", "3", "--merge-gets", "off"];
    weather(&[&several[..], &["--request-timeout", "100ms"]].concat(), seed() + 1_000);
}

#[test]
fn in_any_weather_with_two_workers_too() {
    weather(&["--workers", "2", "--request-timeout", "100ms", "--queue-timeout", "20ms"], seed() + 2_000);
}
