//! What a node gets to see: gets that meet become one line, and nothing more than was asked.
use crate::support::{Memcached, ScriptedNode, Slipring, Step, TextClient, honest};
use std::collections::BTreeSet;

/// One `get` from each of `keys`, each on its own connection, all found in the same round.
fn meet(slipring: &Slipring, keys: &[String]) -> Vec<TextClient> {
    let mut clients: Vec<TextClient> = keys.iter().map(|_| slipring.client()).collect();
    for client in &mut clients {
        // Accepted and served: the stop below finds it waiting for a request.
        client.in_step();
    }
    slipring.while_stopped(|| {
        for (client, key) in clients.iter_mut().zip(keys) {
            client.send(format!("get {key}\r\n"));
        }
    });
    clients
}

fn expect_values(clients: &mut [TextClient], keys: &[String]) {
    for (client, key) in clients.iter_mut().zip(keys) {
        let value = format!("value of {key}");
        client.expect(format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len()));
        client.in_step();
    }
}

fn scripted(arguments: &[&str]) -> (ScriptedNode, Slipring) {
    let node = ScriptedNode::start(honest);
    let mut all = vec!["--workers", "1"];
    all.extend(arguments);
    let slipring = Slipring::with(&[node.address()], &all);
    (node, slipring)
}

#[test]
fn fifty_gets_that_meet_reach_the_node_as_one_line() {
    let (node, slipring) = scripted(&[]);
    let keys: Vec<String> = (0..50).map(|number| format!("key{number}")).collect();
    let mut clients = meet(&slipring, &keys);
    expect_values(&mut clients, &keys);
    let requests = node.requests();
    let lines: Vec<&str> = requests.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let asked: BTreeSet<&str> = requests[0].keys().into_iter().collect();
    let wanted: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(asked, wanted);
    assert_eq!(requests[0].keys().len(), 50, "no key travels that was not asked for");
}

#[test]
fn a_hot_key_asked_for_by_fifty_clients_travels_once() {
    let (node, slipring) = scripted(&[]);
    let keys = vec!["hot".to_owned(); 50];
    let mut clients = meet(&slipring, &keys);
    expect_values(&mut clients, &keys);
    let requests = node.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].line, "get hot");
}

#[test]
fn a_clients_own_repeats_travel_again() {
    let (node, slipring) = scripted(&[]);
    let mut client = slipring.client();
    client.send("get twice twice\r\n");
    assert_eq!(client.values().unwrap().len(), 2);
    client.in_step();
    let asked: usize = node.requests().iter().map(|request| request.keys().len()).sum();
    assert_eq!(asked, 2);
}

#[test]
fn with_merging_off_every_get_travels_alone() {
    let (node, slipring) = scripted(&["--merge-gets", "off"]);
    let keys: Vec<String> = (0..50).map(|number| format!("key{number}")).collect();
    let mut clients = meet(&slipring, &keys);
    expect_values(&mut clients, &keys);
    let requests = node.requests();
    assert_eq!(requests.len(), 50);
    assert!(requests.iter().all(|request| request.keys().len() == 1));
}

#[test]
fn only_the_same_verb_is_merged_and_the_order_stays_that_of_arrival() {
    let (node, slipring) = scripted(&[]);
    let mut client = slipring.client();
    client.in_step();
    client.send("get a\r\ngets b\r\nset a 0 0 1\r\nx\r\nget c\r\nget d\r\ngat 5 e\r\nget f\r\n");
    client.expect("VALUE a 0 10\r\nvalue of a\r\nEND\r\n");
    client.expect("VALUE b 0 10 7\r\nvalue of b\r\nEND\r\n");
    client.expect("STORED\r\n");
    client.expect("VALUE c 0 10\r\nvalue of c\r\nEND\r\n");
    client.expect("VALUE d 0 10\r\nvalue of d\r\nEND\r\n");
    client.expect("VALUE e 0 10\r\nvalue of e\r\nEND\r\n");
    client.expect("VALUE f 0 10\r\nvalue of f\r\nEND\r\n");
    let lines: Vec<String> = node.requests().into_iter().map(|request| request.line).collect();
    let merged = ["get a", "gets b", "set a 0 0 1", "get c d", "gat 5 e", "get f"];
    assert_eq!(lines, merged);
}

#[test]
fn misses_of_a_merged_group_are_misses_of_those_who_asked() {
    // Only keys with an even number exist.
    let node = ScriptedNode::start(|request| {
        if !request.line.starts_with("get ") {
            return honest(request);
        }
        let mut kept = request.clone();
        kept.line = "get".to_owned();
        for key in request.keys() {
            if key.trim_start_matches("key").parse::<u32>().is_ok_and(|number| number % 2 == 0) {
                kept.line += &format!(" {key}");
            }
        }
        honest(&kept)
    });
    let slipring = Slipring::with(&[node.address()], &["--workers", "1"]);
    let keys: Vec<String> = (0..50).map(|number| format!("key{}", number % 10)).collect();
    let mut clients = meet(&slipring, &keys);
    for (number, client) in clients.iter_mut().enumerate() {
        let key = &keys[number];
        if number % 2 == 0 {
            let value = format!("value of {key}");
            client.expect(format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len()));
        }
        client.expect("END\r\n").in_step();
    }
}

#[test]
fn gets_met_in_pipelines_of_many_clients_come_back_in_order() {
    let node = Memcached::start();
    let slipring = Slipring::start(&[node.address()]);
    let mut writer = slipring.client();
    for number in 0..20 {
        writer.set(&format!("key{number}"), format!("value{number}"));
    }
    let mut clients: Vec<TextClient> = (0..40).map(|_| slipring.client()).collect();
    for client in &mut clients {
        client.in_step();
    }
    let keys = |client: usize| (0..30).map(move |at| (client * 7 + at * 3) % 25);
    slipring.while_stopped(|| {
        for (number, client) in clients.iter_mut().enumerate() {
            let requests: String = keys(number).map(|key| format!("get key{key}\r\n")).collect();
            client.send(requests);
        }
    });
    for (number, client) in clients.iter_mut().enumerate() {
        for key in keys(number) {
            if key < 20 {
                let value = format!("value{key}");
                client.expect(format!("VALUE key{key} 0 {}\r\n{value}\r\n", value.len()));
            }
            client.expect("END\r\n");
        }
        client.in_step();
    }
}

#[test]
fn an_error_line_for_a_merged_group_is_a_miss_for_each_and_a_single_get_sees_it() {
    let error = "SERVER_ERROR out of memory writing get response\r\n";
    let node = ScriptedNode::start(move |request| {
        if request.line.starts_with("get ") {
            return vec![Step::send(error)];
        }
        honest(request)
    });
    let slipring = Slipring::with(&[node.address()], &["--workers", "1"]);
    let mut alone = slipring.client();
    alone.ask("get a\r\n", error).in_step();
    let keys: Vec<String> = (0..20).map(|number| format!("key{number}")).collect();
    for mut client in meet(&slipring, &keys) {
        let reply = client.line();
        assert!(reply == "END" || format!("{reply}\r\n") == error, "{reply}");
        client.in_step();
    }
    assert_eq!(node.closes(), 0, "an error line is an answer, not a doubt");
}

#[test]
fn noreply_never_reaches_a_node() {
    let (node, slipring) = scripted(&[]);
    let mut client = slipring.client();
    client.send(
        "set k 0 0 1 noreply\r\nx\r\nadd k 0 0 1 noreply\r\nx\r\ncas k 0 0 1 5 noreply\r\nx\r\n\
         append k 0 0 1 noreply\r\nx\r\ndelete k noreply\r\nincr k 1 noreply\r\n\
         touch k 1 noreply\r\nflush_all noreply\r\n",
    );
    client.in_step();
    let requests = node.wait_for_requests(8);
    for request in requests {
        assert!(!request.line.contains("noreply"), "{}", request.line);
    }
}

#[test]
fn lines_to_a_node_stay_below_its_limits() {
    let (node, slipring) = scripted(&[]);
    let mut client = slipring.client();
    let keys: Vec<String> = (0..2_000).map(|number| format!("{number:0100}")).collect();
    client.send(format!("get {}\r\n", keys.join(" ")));
    assert_eq!(client.values().unwrap().len(), 2_000);
    // 1.5.16 closes on a longer `gat` line that arrives split. Such a line may itself be 2,048
    // bytes and more, for it is a key list.
    client.send(format!("gat 5 {}\r\n", keys[..500].join(" ")));
    assert_eq!(client.values().unwrap().len(), 500);
    client.in_step();
    let mut asked = 0;
    for request in node.requests() {
        let limit = if request.line.starts_with("gat") { 1_000 } else { 16 << 10 };
        assert!(request.line.len() <= limit, "a line of {} bytes", request.line.len());
        asked += request.keys().len();
    }
    assert_eq!(asked, 2_500);
}

#[test]
fn version_is_the_lowest_of_the_nodes() {
    let old = ScriptedNode::with_version(vec![Step::send("VERSION 1.5.16\r\n")], honest);
    let new = ScriptedNode::with_version(vec![Step::send("VERSION 1.6.9\r\n")], honest);
    let newest = ScriptedNode::with_version(vec![Step::send("VERSION 1.6.18\r\n")], honest);
    let slipring = Slipring::start(&[newest.address(), new.address()]);
    slipring.client().ask("version\r\n", "VERSION 1.6.9\r\n");
    let slipring = Slipring::start(&[newest.address(), old.address(), new.address()]);
    slipring.client().ask("version\r\n", "VERSION 1.5.16\r\n");
}
