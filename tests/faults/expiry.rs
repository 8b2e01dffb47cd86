//! A request that its node does not answer in time: the answer it gets, and what becomes of the
//! late reply.
use crate::support::{ScriptedNode, Step, TextClient, eventually, honest};
use crate::{
    ANSWERS, LIVES, MEDIUM, SHORT, behind, expect_answer, expect_proxy_error, meet, numbered, one_worker, slow,
    value_of,
};
use std::time::Duration;

/// Each request of the table from a client of its own, all waiting for a node that holds the first.
fn ask_all(slipring: &crate::Slipring, key: &str) -> Vec<TextClient> {
    let mut clients = Vec::new();
    for (request, _) in ANSWERS {
        let mut client = slipring.client();
        client.send(request.replace("KEY", key));
        clients.push(client);
    }
    clients
}

#[test]
fn each_request_that_expires_gets_the_answer_of_its_kind() {
    let (node, slipring) = behind(slow, &MEDIUM);
    let mut clients = ask_all(&slipring, "slow");
    for (client, (request, answer)) in clients.iter_mut().zip(ANSWERS) {
        expect_answer(client, request, *answer);
        client.in_step();
    }
    assert_eq!(node.lanes_closed(), 0, "one time-out closes no connection");
    assert_eq!(node.holds(), 1, "the node has answered nothing");
}

#[test]
fn with_on_node_down_error_reads_that_expire_are_errors_too() {
    let (node, slipring) = behind(slow, &[&MEDIUM[..], &["--on-node-down", "error"]].concat());
    let mut clients = ask_all(&slipring, "slow");
    for (client, (request, _)) in clients.iter_mut().zip(ANSWERS) {
        expect_proxy_error(client, request);
        client.in_step();
    }
    assert_eq!(node.lanes_closed(), 0);
}

#[test]
fn the_pipeline_of_one_client_expires_in_order() {
    let (node, slipring) = behind(slow, &MEDIUM);
    let mut client = slipring.client();
    let mut pipeline = String::new();
    for (request, _) in ANSWERS {
        pipeline += &request.replace("KEY", "slow");
        pipeline += "mn\r\n";
    }
    client.send(pipeline);
    for (request, answer) in ANSWERS {
        expect_answer(&mut client, request, *answer);
        client.expect("MN\r\n");
    }
    client.in_step();
    assert_eq!(node.lanes_closed(), 0);
}

#[test]
fn the_late_reply_of_an_expired_read_is_never_the_answer_to_the_next() {
    let numbered = numbered();
    let (node, slipring) = behind(
        move |request| {
            let mut steps = numbered(request);
            if request.line.contains("slow") {
                steps.insert(0, Step::Hold);
            }
            steps
        },
        &MEDIUM,
    );
    let mut client = slipring.client();
    client.ask("get slow\r\n", "END\r\n");
    assert_eq!(node.holds(), 1);
    node.release();
    node.wait_for_answers(1);
    // The same key again: request 0 was answered late, and this is request 1.
    node.release();
    client.ask("get slow\r\n", "VALUE slow 0 1\r\n1\r\nEND\r\n").in_step();
    assert_eq!(node.lanes_closed(), 0, "the late reply was eaten where it came");
    assert_eq!(node.lanes(), 1);
}

#[test]
fn the_late_reply_of_an_expired_read_is_eaten_before_the_answer_of_who_waits_behind_it() {
    let numbered = numbered();
    let (node, slipring) = behind(
        move |request| {
            let mut steps = numbered(request);
            if request.line.contains("slow") {
                steps.insert(0, Step::Hold);
            }
            steps
        },
        &MEDIUM,
    );
    let mut client = slipring.client();
    let mut other = slipring.client();
    client.ask("gets slow\r\n", "END\r\n");
    // These wait behind the expired one, whose reply comes only now.
    client.send("incr number 1\r\nget slower\r\n");
    node.release();
    node.release();
    client.expect("1\r\nVALUE slower 0 1\r\n2\r\nEND\r\n").in_step();
    other.ask("get other\r\n", "VALUE other 0 1\r\n3\r\nEND\r\n").in_step();
    assert_eq!(node.lanes_closed(), 0);
}

#[test]
fn late_replies_of_every_kind_are_eaten_in_order() {
    let (node, slipring) = behind(slow, &MEDIUM);
    let mut client = slipring.client();
    let mut others = ask_all(&slipring, "slow");
    let mut pipeline = String::new();
    for (request, _) in ANSWERS {
        pipeline += &request.replace("KEY", "slow");
    }
    client.send(&pipeline);
    for (request, answer) in ANSWERS {
        expect_answer(&mut client, request, *answer);
    }
    for (other, (request, answer)) in others.iter_mut().zip(ANSWERS) {
        expect_answer(other, request, *answer);
    }
    assert_eq!(node.lanes_closed(), 0);
    for _ in 0..2 * ANSWERS.len() {
        node.release();
    }
    node.wait_for_answers(2 * ANSWERS.len());
    for (number, other) in others.iter_mut().enumerate() {
        other.ask(format!("get key{number}\r\n"), value_of(&format!("key{number}"))).in_step();
    }
    client.ask("delete key\r\n", "DELETED\r\n").in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1), "all of it on the one connection");
}

#[test]
fn a_node_that_answers_a_second_late_is_late_for_nobody_else() {
    // The default time-out.
    let (node, slipring) = behind(
        |request| {
            let mut steps = honest(request);
            if request.line.contains("late") {
                steps.insert(0, Step::Pause(Duration::from_secs(1)));
            }
            steps
        },
        &LIVES,
    );
    let mut client = slipring.client();
    let mut other = slipring.client();
    client.ask("get late\r\n", "END\r\n").in_step();
    assert!(node.requests().len() == 1 && node.lanes_closed() == 0, "the node is still silent about it");
    node.wait_for_answers(1);
    other.ask("get other\r\n", value_of("other")).in_step();
    client.ask("get mine\r\n", value_of("mine")).in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn a_node_that_answers_a_write_a_second_late_is_never_said_to_have_done_it() {
    let (node, slipring) = behind(
        |request| {
            let mut steps = honest(request);
            if request.line.contains("late") {
                steps.insert(0, Step::Pause(Duration::from_secs(1)));
            }
            steps
        },
        &LIVES,
    );
    let mut client = slipring.client();
    client.send("set late 0 0 1\r\nx\r\n");
    expect_proxy_error(&mut client, "set");
    node.wait_for_answers(1);
    client.ask("delete other\r\n", "DELETED\r\n").in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn noreply_requests_expire_without_a_word_and_their_late_replies_are_eaten() {
    let (node, slipring) = behind(slow, &MEDIUM);
    let mut client = slipring.client();
    for (request, _) in ANSWERS.iter().filter(|(_, answer)| *answer != Some("END\r\n")) {
        client.send(request.replacen("\r\n", " noreply\r\n", 1).replace("KEY", "slow"));
    }
    // Behind them, one that says when the time-out is over.
    client.ask("get slow\r\n", "END\r\n").in_step();
    assert_eq!((node.holds(), node.lanes_closed()), (1, 0));
    for _ in 0..ANSWERS.len() {
        node.release();
    }
    client.ask("get k\r\n", value_of("k")).in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn a_client_that_leaves_after_its_request_expired_disturbs_nobody() {
    let (node, slipring) = behind(slow, &MEDIUM);
    let mut gone = slipring.client();
    gone.send("get slow\r\nset slow 0 0 1\r\nx\r\n");
    gone.expect("END\r\n");
    expect_proxy_error(&mut gone, "set");
    gone.abort();
    // It may well get the place of the one that left.
    let mut next = slipring.client();
    next.in_step();
    node.release();
    node.release();
    next.ask("get k\r\n", value_of("k")).in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn every_member_of_a_merged_get_that_expires_gets_a_miss() {
    let (node, slipring) = behind(slow, &MEDIUM);
    let mut keys: Vec<String> = (0..20).map(|number| format!("slow{number}")).collect();
    // And one that several ask for, which travels once.
    keys.extend((0..10).map(|_| "slow".to_owned()));
    let mut clients = meet(&slipring, &keys);
    for client in &mut clients {
        client.expect("END\r\n");
        client.in_step();
    }
    assert_eq!((node.holds(), node.lanes_closed()), (1, 0));
    assert!(node.requests()[0].keys().len() > 1, "they were merged: {:?}", node.requests());
    for _ in &keys {
        node.release();
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask(format!("get key{number}\r\n"), value_of(&format!("key{number}"))).in_step();
    }
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn nothing_expires_while_its_connection_makes_progress() {
    // The last reply takes longer than the time-out, each of them far less.
    let (node, slipring) = behind(
        |request| {
            let mut steps = honest(request);
            steps.insert(0, Step::Pause(Duration::from_millis(100)));
            steps
        },
        &[&MEDIUM[..], &["--merge-gets", "off"]].concat(),
    );
    let mut clients: Vec<TextClient> = (0..30).map(|_| slipring.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("get key{number}\r\n"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.expect(value_of(&format!("key{number}")));
    }
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn a_reply_that_drips_is_no_progress() {
    // Its header alone takes half a minute.
    let key = "k".repeat(250);
    let (node, slipring) = behind(
        |request| {
            let Some(Step::Send(reply)) = honest(request).pop() else { return Vec::new() };
            Step::drip(reply, 1, Duration::from_millis(120))
        },
        &MEDIUM,
    );
    let mut client = slipring.client();
    let mut other = slipring.client();
    client.send(format!("get {key}\r\n"));
    node.wait_for_requests(1);
    other.send("set other 0 0 1\r\nx\r\n");
    client.expect("END\r\n").in_step();
    expect_proxy_error(&mut other, "behind a drip");
    assert_eq!(node.requests().len(), 1, "the node still drips");
}

#[test]
fn a_line_that_drips_is_no_progress() {
    let (node, slipring) = behind(
        |request| {
            if request.line.starts_with("incr") {
                // A number may be long; nothing of it reaches anybody before its end.
                return Step::drip("1".repeat(300), 1, Duration::from_millis(100));
            }
            honest(request)
        },
        &MEDIUM,
    );
    let mut client = slipring.client();
    client.send("incr n 1\r\n");
    expect_proxy_error(&mut client, "incr");
    client.in_step();
    assert_eq!(node.requests().len(), 1);
}

#[test]
fn a_flush_of_all_nodes_that_one_of_them_does_not_answer_is_an_error() {
    let deaf = ScriptedNode::start(|request| match request.words()[0] {
        "flush_all" => vec![Step::Hold, Step::send("OK\r\n")],
        _ => honest(request),
    });
    let well = ScriptedNode::start(honest);
    let slipring = one_worker(&[&deaf, &well], &MEDIUM);
    let mut client = slipring.client();
    client.send("flush_all\r\n");
    expect_proxy_error(&mut client, "flush_all");
    client.in_step();
    assert_eq!(well.wait_for_requests(1)[0].line, "flush_all", "the other was flushed");
    assert_eq!(deaf.lanes_closed(), 0);
    deaf.release();
    deaf.release();
    client.ask("flush_all\r\n", "OK\r\n").in_step();
    assert_eq!((deaf.lanes_closed(), well.lanes_closed()), (0, 0));
}

#[test]
fn statistics_of_a_node_that_does_not_answer_leave_the_others_whole() {
    let deaf = ScriptedNode::start(|request| match request.words()[0] {
        "stats" => vec![Step::Hold, Step::send("STAT pid 1\r\nSTAT curr_items 500\r\nEND\r\n")],
        _ => honest(request),
    });
    let well = ScriptedNode::start(|request| match request.words()[0] {
        "stats" => vec![Step::send("STAT pid 1\r\nSTAT curr_items 20\r\nEND\r\n")],
        _ => honest(request),
    });
    let slipring = one_worker(&[&deaf, &well], &MEDIUM);
    let mut client = slipring.client();
    let stats = client.stats("stats");
    assert_eq!(stats["curr_items"], "20", "the sum of those that answered");
    client.in_step();
    deaf.release();
    deaf.release();
    let stats = client.stats("stats");
    assert_eq!(stats["curr_items"], "520", "the late answer of the first is not that of the second");
    client.in_step();
}

#[test]
fn half_a_list_of_statistics_is_not_taken_for_the_whole() {
    let (node, slipring) = behind(
        |request| match request.words()[0] {
            "stats" => vec![
                Step::send("STAT pid 1\r\nSTAT curr_items 500\r\n"),
                Step::Hold,
                Step::send("STAT bytes 1\r\nEND\r\n"),
            ],
            _ => honest(request),
        },
        &MEDIUM,
    );
    let mut client = slipring.client();
    // It ends, and what comes late is nobody's.
    client.stats("stats");
    client.in_step();
    assert_eq!(node.holds(), 1);
    node.release();
    client.ask("get k\r\n", value_of("k")).in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn a_request_that_expired_is_not_asked_again() {
    let (node, slipring) =
        behind(|request| if request.line.contains("slow") { vec![Step::Silence] } else { honest(request) }, &SHORT);
    let mut client = slipring.client();
    client.ask("get slow\r\n", "END\r\n").in_step();
    // The silent connection is given up, and what replaces it serves.
    node.wait_for_closes(1);
    crate::serves_again(&slipring, 1);
    let asked = node.requests().iter().filter(|request| request.line.contains("slow")).count();
    assert_eq!(asked, 1);
}

#[test]
fn a_connection_on_which_only_drips_come_is_given_up_in_the_end() {
    let key = "k".repeat(250);
    let (node, slipring) = behind(
        |request| {
            let Some(Step::Send(reply)) = honest(request).pop() else { return Vec::new() };
            match request.connection {
                0 => Step::drip(reply, 1, Duration::from_millis(120)),
                _ => vec![Step::Send(reply)],
            }
        },
        &SHORT,
    );
    let mut client = slipring.client();
    client.ask(format!("get {key}\r\n"), "END\r\n").in_step();
    eventually("the connection is given up", || node.lanes_closed() > 0);
    crate::serves_again(&slipring, 1);
    assert_eq!(node.requests().iter().filter(|request| request.line.contains(&key)).count(), 1);
}

#[test]
fn a_client_that_has_said_its_last_is_closed_when_its_last_request_has_expired() {
    for last in ["get slow\r\n", "get slow\r\nquit\r\n"] {
        let (node, slipring) = behind(slow, &MEDIUM);
        let mut client = slipring.client();
        client.send(last);
        if !last.contains("quit") {
            client.half_close();
        }
        assert_eq!(client.rest(), b"END\r\n");
        assert_eq!((node.holds(), node.lanes_closed()), (1, 0), "{last:?}: closed by the time-out, not later");
    }
}
