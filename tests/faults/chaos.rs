//! Many clients, and a node that is late, silent, torn off or wrong at random: every answer is the
//! answer to its own request, or one that says that there is none.
use crate::support::{Random, Request, ScriptedNode, Step, TextClient, honest, number_from_environment};
use crate::{one_worker, serves_again};
use std::sync::Mutex;
use std::time::Duration;

/// The reply says what was asked: a number comes back, a value names its key.
fn echo(request: &Request) -> Vec<Step> {
    match request.words()[0] {
        "incr" | "decr" => vec![Step::send(format!("{}\r\n", request.words()[2]))],
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

/// One client's requests, each of which can be told from every other. Gives how many were answered
/// by a node.
fn work(mut connect: impl FnMut() -> TextClient, name: u64, rounds: u64, random: &mut Random) -> u64 {
    let mut client = connect();
    let mut answered = 0;
    for round in 0..rounds {
        let nonce = (name << 32) | round;
        let depth = random.between(1, 4) as u64;
        let kind = random.below(3);
        let mut requests = String::new();
        for step in 0..depth {
            let nonce = nonce * 8 + step;
            requests += &match kind {
                0 => format!("incr counter{} {nonce}\r\n", random.below(5)),
                1 => format!("get own{nonce}\r\n"),
                _ => format!("get own{nonce} shared\r\n"),
            };
        }
        client.send(requests);
        for step in 0..depth {
            let nonce = nonce * 8 + step;
            if kind == 0 {
                let reply = client.line();
                let own = reply == nonce.to_string();
                assert!(own || reply.starts_with("SERVER_ERROR proxy"), "incr {nonce}: {reply}");
                answered += u64::from(own);
                continue;
            }
            match read(&mut client, &format!("own{nonce}")) {
                Some(found) => answered += found,
                None => {
                    client = connect();
                    break;
                }
            }
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
        let value = format!("value of {key}");
        assert_eq!(line, format!("VALUE {key} 0 {}", value.len()));
        let block = client.line_or_end()?;
        assert_eq!(block, value, "the value of another");
        found += 1;
    }
}

fn weather(arguments: &[&str], seed: u64) {
    let nodes = [ScriptedNode::start(moody(seed)), ScriptedNode::start(moody(seed + 1))];
    let slipring = one_worker(&[&nodes[0], &nodes[1]], arguments);
    let rounds = number_from_environment("SLIPRING_FAULTS_ROUNDS", 150);
    let answered: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=8)
            .map(|name| {
                let slipring = &slipring;
                scope.spawn(move || {
                    let mut random = Random::new(seed * 100 + name);
                    work(|| slipring.client(), name, rounds, &mut random)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client that got its own answers")).sum()
    });
    println!("{answered} answers by a node, seed {seed}");
    assert!(answered > 0, "nothing was ever answered by a node");
    serves_again(&slipring, 2);
}

#[test]
fn in_any_weather_every_answer_is_that_of_its_own_request() {
    weather(&["--request-timeout", "100ms"], number_from_environment("SLIPRING_FAULTS_SEED", 1));
}

#[test]
fn in_any_weather_with_several_connections_and_no_merging_too() {
    let arguments = ["--request-timeout", "100ms", "--connections-per-node", "3", "--merge-gets", "off"];
    weather(&arguments, number_from_environment("SLIPRING_FAULTS_SEED", 1) + 1_000);
}
