//! The values of a read come in the order of its keys, repeats included, as from one memcached: some clients match them
//! by their place.
use crate::support::{Memcached, Random, Slipring, TextClient, Value};
use crate::{three_nodes, three_nodes_with};

const VERBS: [&str; 4] = ["get", "gets", "gat 1000", "gats 1000"];
/// Every key with a number below this is stored, and those up to twice of it are not.
const STORED: usize = 40;

fn value_of(number: usize) -> String {
    // Some are larger than others, so that they need more than one read.
    format!("value of key{number};").repeat(if number.is_multiple_of(7) { 300 } else { 1 })
}

fn fill(slipring: &Slipring) {
    let mut client = slipring.client();
    for number in 0..STORED {
        client.set(&format!("key{number}"), value_of(number));
    }
}

fn line(verb: &str, keys: &[usize]) -> String {
    let keys: String = keys.iter().map(|number| format!(" key{number}")).collect();
    format!("{verb}{keys}\r\n")
}

/// These values are those of the keys, in their order, as far as they are stored and `served`.
fn expect_in_order(values: &[Value], verb: &str, keys: &[usize], served: impl Fn(usize) -> bool) {
    let wanted: Vec<String> =
        keys.iter().filter(|&&number| number < STORED && served(number)).map(|number| format!("key{number}")).collect();
    let found: Vec<String> = values.iter().map(|value| String::from_utf8_lossy(&value.key).into_owned()).collect();
    assert_eq!(found, wanted, "{verb} {keys:?}");
    for value in values {
        let number = String::from_utf8_lossy(&value.key)["key".len()..].parse().unwrap();
        assert!(value.data == value_of(number).as_bytes(), "key{number} has another's value");
        assert_eq!(value.cas.is_some(), verb.starts_with("gets") || verb.starts_with("gats"));
    }
}

fn some_keys(random: &mut Random) -> Vec<usize> {
    let count = match random.below(8) {
        0 => random.between(20, 100),
        _ => random.between(1, 8),
    };
    // One of eight is asked for again at once.
    let mut keys: Vec<usize> = Vec::new();
    while keys.len() < count {
        let again = random.one_in(8).then(|| keys.last().copied()).flatten();
        keys.push(again.unwrap_or_else(|| random.below(STORED + STORED / 4)));
    }
    keys
}

#[test]
fn six_keys_over_three_nodes_come_as_they_were_asked_for() {
    let (_nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    let keys = ["a", "b", "c", "d", "e", "f"];
    for key in keys {
        client.set(key, key);
    }
    let block = |key: &str| format!("VALUE {key} 0 1\r\n{key}\r\n");
    for rotation in 0..keys.len() {
        let mut asked = keys;
        asked.rotate_left(rotation);
        let reply: String = asked.iter().map(|key| block(key)).collect();
        client.ask(format!("get {}\r\n", asked.join(" ")), reply + "END\r\n").in_step();
        asked.reverse();
        let reply: String = asked.iter().chain(&asked).map(|key| block(key)).collect();
        client.ask(format!("get {0} {0}\r\n", asked.join(" ")), reply + "END\r\n").in_step();
    }
}

/// Many lists, one client at a time.
fn alone(slipring: &Slipring, seed: u64) {
    fill(slipring);
    let mut random = Random::new(seed);
    let mut client = slipring.client();
    for _ in 0..200 {
        let (verb, keys) = (random.pick(&VERBS), some_keys(&mut random));
        client.send(line(verb, &keys));
        expect_in_order(&client.values().expect("values"), verb, &keys, |_| true);
        client.in_step();
    }
}

#[test]
fn lists_of_every_verb_over_three_nodes_come_in_order() {
    alone(&three_nodes().1, 1);
}

#[test]
fn lists_over_three_nodes_come_in_order_without_merging() {
    let (_nodes, slipring) = three_nodes_with(&["--merge-gets", "off"]);
    alone(&slipring, 2);
}

#[test]
fn the_same_keys_the_other_way_round_by_a_client_of_the_same_round() {
    let node = Memcached::start();
    let slipring = Slipring::with(&[node.address()], &["--workers", "1"]);
    fill(&slipring);
    for verb in VERBS {
        let lists = [[0, 1, 2], [2, 1, 0], [1, 0, 1], [2, 2, 0]];
        let mut clients = lists.map(|_| slipring.client());
        for client in &mut clients {
            client.in_step();
        }
        slipring.while_stopped(|| {
            for (client, keys) in clients.iter_mut().zip(&lists) {
                client.send(line(verb, keys));
            }
        });
        for (client, keys) in clients.iter_mut().zip(&lists) {
            expect_in_order(&client.values().expect("values"), verb, keys, |_| true);
            client.in_step();
        }
    }
}

/// Twenty clients, each with a pipeline of lists of the same few keys, all found in the same round.
fn met(slipring: &Slipring, seed: u64) {
    fill(slipring);
    let mut random = Random::new(seed);
    for _ in 0..5 {
        let mut clients: Vec<TextClient> = (0..20).map(|_| slipring.client()).collect();
        for client in &mut clients {
            client.in_step();
        }
        // Half of the rounds are of one verb, so that more is merged.
        let verbs: &[&str] = if random.one_in(2) { &VERBS } else { &VERBS[..1] };
        let asked: Vec<Vec<(&str, Vec<usize>)>> =
            clients.iter().map(|_| (0..10).map(|_| (random.pick(verbs), some_keys(&mut random))).collect()).collect();
        slipring.while_stopped(|| {
            for (client, requests) in clients.iter_mut().zip(&asked) {
                // One packet, if it fits.
                let lines: String = requests.iter().map(|(verb, keys)| line(verb, keys)).collect();
                client.send(lines);
            }
        });
        for (client, requests) in clients.iter_mut().zip(&asked) {
            for (verb, keys) in requests {
                expect_in_order(&client.values().expect("values"), verb, keys, |_| true);
            }
            client.in_step();
        }
    }
}

#[test]
fn lists_that_meet_before_one_node_come_in_the_order_of_each() {
    let node = Memcached::start();
    met(&Slipring::with(&[node.address()], &["--workers", "1"]), 3);
}

#[test]
fn lists_that_meet_before_three_nodes_come_in_the_order_of_each() {
    met(&three_nodes_with(&["--workers", "1"]).1, 4);
}

#[test]
fn lists_that_meet_come_in_order_without_merging() {
    met(&three_nodes_with(&["--workers", "1", "--merge-gets", "off"]).1, 5);
}

#[test]
fn lists_that_meet_come_in_order_when_most_values_are_large() {
    let arguments = ["--workers", "1", "--bulk-above", "16KiB"];
    let (_nodes, slipring) = three_nodes_with(&arguments);
    let mut client = slipring.client();
    let value = |number: usize| format!("{number};").repeat(if number.is_multiple_of(2) { 20_000 } else { 10 });
    for number in 0..12 {
        client.set(&format!("key{number}"), value(number));
    }
    let mut random = Random::new(6);
    for _ in 0..10 {
        let asked: Vec<Vec<usize>> =
            (0..8).map(|_| (0..random.between(2, 6)).map(|_| random.below(12)).collect()).collect();
        let mut clients: Vec<TextClient> = asked.iter().map(|_| slipring.client()).collect();
        for client in &mut clients {
            client.in_step();
        }
        slipring.while_stopped(|| {
            for (client, keys) in clients.iter_mut().zip(&asked) {
                client.send(line("get", keys));
            }
        });
        for (client, keys) in clients.iter_mut().zip(&asked) {
            for &number in keys {
                let value = value(number);
                client.expect(format!("VALUE key{number} 0 {}\r\n{value}\r\n", value.len()));
            }
            client.expect("END\r\n").in_step();
        }
    }
}

/// Which of the keys these nodes hold.
fn held(nodes: &[&Memcached]) -> Vec<bool> {
    let names: Vec<String> = (0..STORED).map(|number| format!("key{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut held = vec![false; STORED];
    for node in nodes {
        for value in node.client().get(&names) {
            held[String::from_utf8_lossy(&value.key)["key".len()..].parse::<usize>().unwrap()] = true;
        }
    }
    held
}

/// Lists while a node of three dies, and afterwards: what is served comes in order, and what does not is the dead
/// node's.
fn over_a_dead_node(on_node_down: &str) {
    let arguments = ["--workers", "1", "--on-node-down", on_node_down];
    let (mut nodes, slipring) = three_nodes_with(&arguments);
    fill(&slipring);
    let living = held(&[&nodes[0], &nodes[2]]);
    let mut random = Random::new(7);
    let mut clients: Vec<TextClient> = (0..8).map(|_| slipring.client()).collect();
    let mut dead = false;
    for round in 0..60 {
        let asked: Vec<(&str, Vec<usize>)> =
            clients.iter().map(|_| (random.pick(&VERBS), some_keys(&mut random))).collect();
        for (client, (verb, keys)) in clients.iter_mut().zip(&asked) {
            client.send(line(verb, keys)).send("mn\r\n");
        }
        if round == 20 {
            nodes[1].kill();
        }
        for (client, (verb, keys)) in clients.iter_mut().zip(&asked) {
            let wants_the_dead = keys.iter().any(|&number| number < STORED && !living[number]);
            let mut found: Vec<(String, Vec<u8>)> = Vec::new();
            let end = loop {
                let line = client.line();
                let Some(rest) = line.strip_prefix("VALUE ") else { break line };
                let words: Vec<&str> = rest.split(' ').collect();
                let mut data = client.take(words[2].parse::<usize>().unwrap() + 2);
                data.truncate(data.len() - 2);
                found.push((words[0].to_owned(), data));
            };
            match end.as_str() {
                "END" => {}
                error => {
                    assert!(error.starts_with("SERVER_ERROR proxy") && on_node_down == "error", "{error}");
                }
            }
            // What was found is a part of what was asked for, in its order, and lacks nothing of the living.
            let mut left = keys.iter().filter(|&&number| number < STORED);
            for (key, data) in &found {
                let number = loop {
                    let next = left.next().unwrap_or_else(|| panic!("{verb} {keys:?}: {key} is out of its place"));
                    if *key == format!("key{next}") {
                        break *next;
                    }
                    assert!(!living[*next], "{verb} {keys:?}: key{next} is missing, or {key} is out of its place");
                };
                assert!(*data == value_of(number).as_bytes(), "{key} has another's value");
            }
            assert!(left.all(|&number| !living[number]), "{verb} {keys:?}: the end is missing");
            if dead && wants_the_dead && on_node_down == "error" {
                assert_ne!(end, "END");
            }
            client.expect("MN\r\n");
        }
        if round == 40 {
            slipring.wait_for_states("down", 1);
            dead = true;
        }
    }
}

#[test]
fn what_is_served_while_a_node_dies_comes_in_order() {
    over_a_dead_node("miss");
}

#[test]
fn what_is_served_while_a_node_dies_comes_in_order_before_the_error() {
    over_a_dead_node("error");
}
