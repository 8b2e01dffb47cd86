//! A connection that is lost: which requests are asked again on the next one, and which never.
use crate::support::{Request, ScriptedNode, Step, TextClient, honest};
use crate::{ANSWERS, NEVER, behind, expect_answer, expect_proxy_error, meet, one_worker, serves_again, value_of};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ends the connection in this way on the first `count` requests that name `victim`.
fn losing(count: usize, end: &[Step]) -> impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static {
    let end = end.to_vec();
    let lost = AtomicUsize::new(0);
    move |request| {
        let names = request.line.contains("victim");
        if names && lost.fetch_add(1, Ordering::Relaxed) < count { end.clone() } else { honest(request) }
    }
}

/// The requests that name `victim`.
fn victims(requests: &[Request]) -> Vec<Request> {
    requests.iter().filter(|request| request.line.contains("victim")).cloned().collect()
}

const ENDS: [Step; 2] = [Step::Close, Step::Reset];

#[test]
fn a_read_lost_before_a_byte_of_its_reply_is_asked_once_more_on_a_fresh_connection() {
    for end in &ENDS {
        for (verb, cas) in [("get", ""), ("gets", " 7")] {
            let (node, slipring) = behind(losing(1, std::slice::from_ref(end)), &NEVER);
            let mut client = slipring.client();
            let reply = format!("VALUE victim 0 15{cas}\r\nvalue of victim\r\nEND\r\n");
            client.ask(format!("{verb} victim\r\n"), reply).in_step();
            let asked = victims(&node.requests());
            assert_eq!(asked.len(), 2, "{end:?}: {asked:?}");
            assert_ne!(asked[0].connection, asked[1].connection);
            assert_eq!(asked[0].line, asked[1].line);
        }
    }
}

#[test]
fn a_read_lost_twice_is_a_miss_and_not_asked_a_third_time() {
    for end in &ENDS {
        let (node, slipring) = behind(losing(usize::MAX, std::slice::from_ref(end)), &NEVER);
        let mut client = slipring.client();
        client.ask("get victim\r\n", "END\r\n").in_step();
        assert_eq!(victims(&node.requests()).len(), 2);
        serves_again(&slipring, 1);
        assert_eq!(victims(&node.requests()).len(), 2);
    }
}

#[test]
fn with_on_node_down_error_a_read_lost_twice_is_an_error() {
    let arguments = [&NEVER[..], &["--on-node-down", "error"]].concat();
    let (node, slipring) = behind(losing(usize::MAX, &[Step::Close]), &arguments);
    let mut client = slipring.client();
    client.send("get victim\r\n");
    expect_proxy_error(&mut client, "get");
    client.in_step();
    assert_eq!(victims(&node.requests()).len(), 2);
}

#[test]
fn a_read_whose_reply_had_begun_is_not_asked_again() {
    for begun in ["V", "VALUE vic", "VALUE victim 0 15\r", "E", "END\r"] {
        for end in &ENDS {
            let (node, slipring) = behind(losing(1, &[Step::send(begun), end.clone()]), &NEVER);
            let mut client = slipring.client();
            // A reset may overtake the bytes before it, and then none has come.
            client.send("get victim\r\n");
            let answer = client.line();
            let asked = victims(&node.requests()).len();
            match (end, answer.as_str()) {
                (_, "END") => assert_eq!(asked, 1, "{begun:?}"),
                (Step::Reset, "VALUE victim 0 15") => assert_eq!(asked, 2, "{begun:?}"),
                _ => panic!("{begun:?} and {end:?}: {answer}"),
            }
            serves_again(&slipring, 1);
        }
    }
}

#[test]
fn a_read_whose_value_had_begun_closes_its_client_and_is_not_asked_again() {
    for end in &ENDS {
        let begun = "VALUE victim 0 15\r\nval";
        let (node, slipring) = behind(losing(1, &[Step::send(begun), Step::Hold, end.clone()]), &NEVER);
        let mut client = slipring.client();
        client.send("get victim\r\n").expect("VALUE victim 0 15\r\n");
        node.release();
        let rest = client.rest();
        assert!(b"val".starts_with(&rest[..]), "{rest:?}");
        serves_again(&slipring, 1);
        assert_eq!(victims(&node.requests()).len(), 1);
    }
}

#[test]
fn no_write_is_ever_sent_twice() {
    for end in &ENDS {
        for (request, answer) in ANSWERS.iter().filter(|(_, answer)| *answer != Some("END\r\n")) {
            let (node, slipring) = behind(
                {
                    let end = end.clone();
                    move |request| {
                        if request.line.contains("victim") || request.line == "flush_all" {
                            return vec![end.clone()];
                        }
                        honest(request)
                    }
                },
                &NEVER,
            );
            let mut client = slipring.client();
            client.send(request.replace("KEY", "victim"));
            expect_answer(&mut client, request, *answer);
            client.in_step();
            serves_again(&slipring, 1);
            let line = request.split("\r\n").next().unwrap().replace("KEY", "victim");
            let copies = node.requests().iter().filter(|seen| seen.line == line).count();
            assert_eq!(copies, 1, "{line}");
        }
    }
}

#[test]
fn no_noreply_write_is_ever_sent_twice() {
    let (node, slipring) = behind(losing(1, &[Step::Close]), &NEVER);
    let mut client = slipring.client();
    client.send("append victim 0 0 1 noreply\r\nx\r\n").in_step();
    node.wait_for_closes(1);
    serves_again(&slipring, 1);
    assert_eq!(victims(&node.requests()).len(), 1);
}

#[test]
fn a_read_that_stores_a_new_time_is_asked_at_most_once_more() {
    for (request, reply) in [("gat 10 victim", ""), ("gats 10 victim", " 7")] {
        let (node, slipring) = behind(losing(1, &[Step::Close]), &NEVER);
        let mut client = slipring.client();
        client.send(format!("{request}\r\n"));
        let answer = client.line();
        if answer != "END" {
            assert_eq!(answer, format!("VALUE victim 0 15{reply}"));
            client.expect("value of victim\r\nEND\r\n");
        }
        client.in_step();
        let copies = victims(&node.requests()).len();
        assert_eq!(copies, if answer == "END" { 1 } else { 2 }, "{answer}");
    }
}

#[test]
fn every_member_of_a_merged_get_that_is_lost_gets_its_value_by_the_second_asking() {
    let (node, slipring) = behind(losing(1, &[Step::Close]), &NEVER);
    let mut keys: Vec<String> = (0..20).map(|number| format!("victim{number}")).collect();
    keys.extend((0..10).map(|_| "victim".to_owned()));
    let mut clients = meet(&slipring, &keys);
    for (client, key) in clients.iter_mut().zip(&keys) {
        client.expect(value_of(key)).in_step();
    }
    let asked = victims(&node.requests());
    assert!(asked[0].keys().len() > 1, "they were merged: {asked:?}");
    assert_eq!(asked[0].line, asked[1].line, "the same line again");
}

#[test]
fn reads_that_wait_behind_a_lost_one_are_asked_again_too_and_writes_are_not() {
    for end in &ENDS {
        let (node, slipring) =
            behind(losing(1, &[Step::Hold, end.clone()]), &[&NEVER[..], &["--merge-gets", "off"]].concat());
        let mut first = slipring.client();
        first.send("get victim\r\n");
        node.wait_for_holds(1);
        let mut readers: Vec<TextClient> = (0..5).map(|_| slipring.client()).collect();
        for (number, reader) in readers.iter_mut().enumerate() {
            reader.send(format!("get key{number}\r\n"));
        }
        let mut writer = slipring.client();
        writer.send("set stored 0 0 1\r\nx\r\nget stored\r\n");
        // What is sent now was sent before the end of the connection.
        for client in &mut readers {
            client.send("mn\r\n");
        }
        slipring.client().in_step();
        node.release();
        first.expect(value_of("victim")).in_step();
        for (number, reader) in readers.iter_mut().enumerate() {
            reader.expect(value_of(&format!("key{number}"))).expect("MN\r\n");
        }
        let stored = writer.line();
        writer.expect(value_of("stored")).in_step();
        let copies = node.requests().iter().filter(|request| request.line.starts_with("set ")).count();
        // It may not have been sent before the connection was lost.
        match stored.as_str() {
            "STORED" => assert_eq!(copies, 1),
            error => assert!(error.starts_with("SERVER_ERROR proxy") && copies <= 1, "{error}, {copies} copies"),
        }
    }
}

#[test]
fn a_read_behind_one_whose_reply_had_begun_is_asked_again() {
    let (node, slipring) = behind(
        losing(1, &[Step::send("VAL"), Step::Hold, Step::Close]),
        &[&NEVER[..], &["--merge-gets", "off"]].concat(),
    );
    let mut first = slipring.client();
    first.send("get victim\r\n");
    node.wait_for_holds(1);
    let mut second = slipring.client();
    second.send("get k\r\nmn\r\n");
    slipring.client().in_step();
    node.release();
    first.expect("END\r\n").in_step();
    second.expect(value_of("k")).expect("MN\r\n");
    assert_eq!(victims(&node.requests()).len(), 1);
}

#[test]
fn a_read_behind_a_write_of_the_same_client_comes_after_it_on_whatever_connection() {
    let (node, slipring) = behind(losing(1, &[Step::Close]), &NEVER);
    let mut client = slipring.client();
    client.send("get victim\r\nset victim2 0 0 1\r\nx\r\nget victim2\r\nmn\r\n");
    // The node may have done all of it: asked again, the first read could see what came later.
    client.expect("END\r\n");
    let stored = client.line();
    assert!(stored == "STORED" || stored.starts_with("SERVER_ERROR proxy"), "{stored}");
    client.expect(value_of("victim2")).expect("MN\r\n");
    let lines: Vec<String> = victims(&node.requests()).into_iter().map(|request| request.line).collect();
    let last = |wanted: &str| lines.iter().rposition(|line| line.starts_with(wanted));
    assert!(last("set victim2") < last("get victim2"), "{lines:?}");
}

#[test]
fn a_multiget_over_a_node_that_loses_the_connection_has_every_value() {
    let victim = ScriptedNode::start(losing(1, &[Step::Close]));
    let well = ScriptedNode::start(honest);
    let slipring = one_worker(&[&victim, &well], &NEVER);
    let keys: Vec<String> = (0..40).map(|number| format!("victim{number}")).collect();
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    let values = slipring.client().get(&names);
    assert_eq!(values.len(), keys.len());
    assert_eq!((victim.closes(), well.closes()), (1, 0));
}

#[test]
fn a_reset_of_an_idle_connection_is_noticed_by_nobody() {
    for end in &ENDS {
        let (node, slipring) = behind(
            {
                let end = end.clone();
                move |request| {
                    let mut steps = honest(request);
                    if request.line.contains("last") {
                        steps.push(end.clone());
                    }
                    steps
                }
            },
            &NEVER,
        );
        let mut client = slipring.client();
        // A reset may destroy the reply before it; that is for the tests above.
        client.send("get last\r\n");
        client.values().expect("a reply");
        node.wait_for_closes(1);
        for number in 0..10 {
            client.send(format!("get key{number}\r\n"));
            let values = client.values().expect("a reply");
            assert_eq!(values.len(), 1, "a read is asked on the next connection");
        }
        client.in_step();
    }
}
