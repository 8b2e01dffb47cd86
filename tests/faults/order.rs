//! Values that come late, out of turn or not at all, and the order of those that are delivered.
use crate::support::{Request, ScriptedNode, Slipring, Step, TextClient, eventually, honest, shown};
use crate::{NEVER, behind, one_worker, owned, value_of};
use std::sync::atomic::{AtomicBool, Ordering};

/// One block of a reply.
fn block(key: &str) -> String {
    value_of(key).replace("END\r\n", "")
}

fn is_list(request: &Request) -> bool {
    request.words()[0] == "get" && request.keys().len() > 1
}

/// Answers the last key of a line first.
fn backwards(request: &Request) -> Vec<Step> {
    if !is_list(request) {
        return honest(request);
    }
    let mut steps: Vec<Step> = request.keys().iter().rev().map(|key| Step::send(block(key))).collect();
    steps.push(Step::send("END\r\n"));
    steps
}

/// The keys found, each with its own value.
fn found(client: &mut TextClient) -> Vec<String> {
    let values = client.values().expect("values and their end");
    values
        .into_iter()
        .map(|value| {
            let key = String::from_utf8(value.key).expect("a key of ours");
            assert_eq!(value.data, format!("value of {key}").into_bytes());
            key
        })
        .collect()
}

/// No doubt arose: the connection is the first one still.
fn undoubted(node: &ScriptedNode, slipring: &Slipring) {
    assert_eq!((node.closes(), node.connections()), (0, 1));
    let (_, metrics) = slipring.admin("/metrics");
    let desyncs = metrics.lines().find(|line| line.starts_with("slipring_upstream_desyncs_total{"));
    assert!(desyncs.is_some_and(|line| line.ends_with(" 0")), "{desyncs:?}");
}

#[test]
fn a_node_that_answers_out_of_turn_is_not_doubted_and_from_then_on_nothing_is_missing() {
    let (node, slipring) = behind(backwards, &NEVER);
    let mut client = slipring.client();
    let asked = ["a", "b", "c", "d"];
    let line = format!("get {}\r\n", asked.join(" "));
    // It was taken for a node that keeps the order: a key before one that is answered was a miss.
    client.send(&line);
    let first = found(&mut client);
    let mut left = asked.iter();
    assert!(first.iter().all(|key| left.any(|asked| asked == key)), "out of order: {first:?}");
    for _ in 0..20 {
        client.send(&line);
        assert_eq!(found(&mut client), asked);
        client.in_step();
    }
    undoubted(&node, &slipring);
}

#[test]
fn a_value_out_of_turn_is_waited_for_until_the_end() {
    let slow = AtomicBool::new(false);
    let (node, slipring) = behind(
        move |request| {
            let mut steps = backwards(request);
            // The first list is not held up: by it the node is known.
            if is_list(request) && slow.swap(true, Ordering::Relaxed) {
                let last = steps.len() - 2;
                steps.insert(last, Step::Hold);
            }
            steps
        },
        &NEVER,
    );
    let mut client = slipring.client();
    client.send("get a b c\r\n");
    found(&mut client);
    client.send("get a b c\r\n");
    node.wait_for_holds(1);
    node.release();
    assert_eq!(found(&mut client), ["a", "b", "c"]);
    client.in_step();
    undoubted(&node, &slipring);
}

#[test]
fn without_merging_a_node_may_answer_out_of_turn_from_the_first() {
    let (node, slipring) = behind(backwards, &[&NEVER[..], &["--merge-gets", "off"]].concat());
    let mut client = slipring.client();
    for _ in 0..20 {
        client.ask("get a b c a\r\n", ["a", "b", "c", "a"].map(block).concat() + "END\r\n").in_step();
    }
    undoubted(&node, &slipring);
}

#[test]
fn clients_that_meet_before_a_node_that_answers_out_of_turn_have_each_their_order() {
    let (node, slipring) = behind(backwards, &NEVER);
    let mut first = slipring.client();
    first.send("get a b\r\n");
    found(&mut first);
    let lists = [vec!["a", "b", "c"], vec!["c", "b", "a"], vec!["b"], vec!["c", "a", "c"]];
    let mut clients: Vec<TextClient> = lists.iter().map(|_| slipring.client()).collect();
    for client in &mut clients {
        client.in_step();
    }
    slipring.while_stopped(|| {
        for (client, keys) in clients.iter_mut().zip(&lists) {
            client.send(format!("get {}\r\n", keys.join(" ")));
        }
    });
    for (client, keys) in clients.iter_mut().zip(&lists) {
        assert_eq!(found(client), *keys);
        client.in_step();
    }
    undoubted(&node, &slipring);
}

#[test]
fn a_key_is_missed_as_soon_as_a_later_one_is_answered() {
    // So much that it is not held back to be written together with the end.
    let large = |key: &str| format!("VALUE {key} 0 20000\r\n{}\r\n", key.repeat(20_000));
    let (node, slipring) = behind(
        move |request| {
            if !is_list(request) {
                return honest(request);
            }
            // The first is not there.
            let (found, last) = (request.keys()[1], request.keys()[2]);
            vec![Step::send(large(found)), Step::Hold, Step::send(large(last)), Step::Hold, Step::send("END\r\n")]
        },
        &NEVER,
    );
    let mut client = slipring.client();
    client.send("get absent a b\r\n").expect(large("a"));
    node.release();
    client.expect(large("b"));
    node.release();
    client.expect("END\r\n").in_step();
    undoubted(&node, &slipring);
}

/// Two nodes: the first answers one list as told, and all else truthfully; the second holds back what it says about keys
/// that name `held`, as all of these do.
struct Two {
    torn: ScriptedNode,
    held: ScriptedNode,
    slipring: Slipring,
    /// Keys of `torn`, in the order of their numbers.
    of_torn: Vec<String>,
    /// A key whose value comes with [`ScriptedNode::release`] of `held`.
    late: String,
}

/// `tears` gives what the first list that the first node gets is answered with: its keys come as they stand in the line.
fn two(tears: impl Fn(&[&str]) -> Vec<Step> + Send + Sync + 'static, arguments: &[&str]) -> Two {
    let done = AtomicBool::new(false);
    let torn = ScriptedNode::start(move |request| {
        let tears_it = request.words()[0] == "get" && request.line.contains("held") && request.keys().len() < 10;
        if tears_it && !done.swap(true, Ordering::Relaxed) { tears(&request.keys()) } else { honest(request) }
    });
    let held = ScriptedNode::start(|request| {
        let mut steps = honest(request);
        if request.line.contains("held") && request.keys().len() < 10 {
            steps.insert(0, Step::Hold);
        }
        steps
    });
    let nodes = [&torn, &held];
    let slipring = one_worker(&nodes, &[&NEVER[..], arguments].concat());
    let mut owned = owned(&slipring, &nodes, "held");
    let late = owned[1].remove(0);
    let of_torn = owned.remove(0);
    Two { torn, held, slipring, of_torn, late }
}

impl Two {
    /// The end of the first node's connection was noticed: what is asked of it now goes to its next. (The other node
    /// may be holding back, so nothing is asked of that.)
    fn the_end_is_noticed(&self) {
        self.torn.wait_for_closes(1);
        let mut client = self.slipring.client();
        let key = &self.of_torn[3];
        eventually("the next connection serves", || {
            client.send(format!("get {key}\r\n"));
            found(&mut client) == [key.as_str()]
        });
    }
}

/// Half of the value of `key`, with its header.
fn half(key: &str) -> String {
    let block = block(key);
    block[..block.len() - 8].to_owned()
}

#[test]
fn values_that_are_whole_outlive_their_node_and_the_torn_one_is_as_if_it_had_not_begun() {
    for end in [Step::Close, Step::Reset] {
        let is_reset = matches!(end, Step::Reset);
        let two = two(
            move |keys| {
                vec![
                    Step::send(block(keys[0])),
                    Step::send(block(keys[1])),
                    Step::send(half(keys[2])),
                    Step::Hold,
                    end.clone(),
                ]
            },
            &[],
        );
        let mut client = two.slipring.client();
        let (first, second, third, fourth) = (&two.of_torn[0], &two.of_torn[1], &two.of_torn[2], &two.of_torn[3]);
        client.send(format!("get {first} {} {second} {third} {fourth}\r\n", two.late));
        two.held.wait_for_holds(1);
        two.torn.wait_for_holds(1);
        two.torn.release();
        two.the_end_is_noticed();
        two.held.release();
        if is_reset {
            // It may overtake the bytes before it, so each of these may be asked for again, or missing.
            let found = found(&mut client);
            let mut left = [first, &two.late, second, third, fourth].into_iter();
            assert!(found.iter().all(|key| left.any(|asked| asked == key)), "out of order: {found:?}");
            assert!(found.contains(&two.late), "a value of the other node is lost: {found:?}");
            client.in_step();
            continue;
        }
        client.expect(block(first) + &block(&two.late));
        let rest = found(&mut client);
        // The third and the fourth were asked again, or are misses.
        let mut left = [second, third, fourth].into_iter();
        assert!(rest.iter().all(|key| left.any(|asked| asked == key)), "out of order: {rest:?}");
        assert_eq!(rest.first(), Some(second), "a whole value is lost");
        client.in_step();
    }
}

#[test]
fn of_the_readers_of_a_torn_value_only_those_are_closed_towards_whom_it_had_begun() {
    let two = two(|keys| vec![Step::send(half(keys[0])), Step::Hold, Step::Close], &[]);
    let torn = &two.of_torn[0];
    let mut begun = two.slipring.client();
    let mut waiting = two.slipring.client();
    begun.in_step();
    waiting.in_step();
    two.slipring.while_stopped(|| {
        begun.send(format!("get {torn}\r\n"));
        waiting.send(format!("get {} {torn} {}\r\n", two.late, two.of_torn[1]));
    });
    two.held.wait_for_holds(1);
    two.torn.wait_for_holds(1);
    let header = half(torn);
    let header = &header[..header.find('\n').expect("a header") + 1];
    begun.expect(header);
    two.torn.release();
    let part = begun.rest();
    assert!(half(torn).as_bytes()[header.len()..].starts_with(&part), "{}", shown(&part));
    two.the_end_is_noticed();
    two.held.release();
    waiting.expect(block(&two.late));
    let rest = found(&mut waiting);
    let mut left = [torn, &two.of_torn[1]].into_iter();
    assert!(rest.iter().all(|key| left.any(|asked| asked == key)), "out of order: {rest:?}");
    waiting.in_step();
    assert_eq!(two.torn.connections(), 2, "no other connection was lost");
}

#[test]
fn with_on_node_down_error_a_torn_value_whose_turn_had_not_come_closes_nobody() {
    let tears = |keys: &[&str]| vec![Step::send(half(keys[0])), Step::Hold, Step::Close];
    let two = two(tears, &["--on-node-down", "error"]);
    let mut client = two.slipring.client();
    client.send(format!("get {} {}\r\n", two.late, two.of_torn[0]));
    two.held.wait_for_holds(1);
    two.torn.wait_for_holds(1);
    two.torn.release();
    two.the_end_is_noticed();
    two.held.release();
    client.expect(block(&two.late));
    let next = client.line();
    match next.split(' ').next() {
        Some("VALUE") => {
            assert_eq!(format!("{next}\r\n"), block(&two.of_torn[0]).split_inclusive('\n').next().unwrap());
            client.expect(block(&two.of_torn[0])[next.len() + 2..].to_owned() + "END\r\n");
        }
        _ => assert!(next.starts_with("SERVER_ERROR proxy"), "{next}"),
    }
    client.in_step();
}

#[test]
fn a_multiget_whose_node_loses_its_connection_comes_in_order() {
    let two = two(|_| vec![Step::Close], &[]);
    let mut client = two.slipring.client();
    let keys = [&two.of_torn[0], &two.late, &two.of_torn[1], &two.late, &two.of_torn[2]];
    client.send(format!("get {}\r\n", keys.map(String::as_str).join(" ")));
    two.held.wait_for_holds(1);
    two.the_end_is_noticed();
    two.held.release();
    // The client's own repeat may travel in a line of its own.
    two.held.release();
    assert_eq!(found(&mut client).iter().collect::<Vec<_>>(), keys);
    client.in_step();
}
