//! Replies that are torn off, too long, too short or of the wrong shape: the connection is closed,
//! and nobody gets what is not his. (What is of the wrong shape at once is in `wire`.)
use crate::support::{Request, ScriptedNode, Slipring, Step, honest, shown};
use crate::{ANSWERS, MEDIUM, NEVER, SHORT, behind, expect_answer, expect_proxy_error, meet, serves_again, value_of};

/// Deals with what names `victim` in this way, and truthfully with all else.
fn with_victim(steps: &[Step]) -> impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static {
    let steps = steps.to_vec();
    move |request| if request.line.contains("victim") { steps.clone() } else { honest(request) }
}

/// A connection was counted as one that is out of step; the log says so a moment later.
fn out_of_step(slipring: &Slipring) -> bool {
    let metrics = slipring.admin("/metrics").1;
    let counted = |line: &&str| line.starts_with("slipring_upstream_desyncs_total{") && !line.ends_with(" 0");
    metrics.lines().any(|line| counted(&line))
}

/// A reply that is torn off after `cut` bytes: what its reader may be given of it.
fn expect_part(reply: &[u8], got: &[u8], cut: usize) {
    let header = reply.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let end = reply.len() - b"END\r\n".len();
    // Before the header is whole nothing has been given, and a miss is as good as any.
    let miss = cut < header && got == b"END\r\n";
    // A value that came whole may get its END.
    let whole = cut >= end && got == reply;
    let torn = got.len() <= cut && reply.starts_with(got);
    assert!(miss || whole || torn, "cut at {cut} of {}: {}", reply.len(), shown(got));
}

#[test]
fn a_reply_torn_off_anywhere_is_a_miss_or_a_visible_break() {
    let reply = value_of("victim").into_bytes();
    for end in [Step::Close, Step::Reset] {
        for cut in 1..reply.len() {
            let steps = [Step::send(&reply[..cut]), end.clone()];
            let (node, slipring) = behind(with_victim(&steps), &NEVER);
            let mut client = slipring.client();
            client.send("get victim\r\n").half_close();
            expect_part(&reply, &client.rest(), cut);
            node.wait_for_closes(1);
            serves_again(&slipring, 1);
            assert!(!out_of_step(&slipring), "what came was not wrong: {}", slipring.output());
        }
    }
}

#[test]
fn a_reply_that_stops_anywhere_is_a_miss_or_a_visible_break() {
    let reply = value_of("victim").into_bytes();
    for cut in [1, 5, 6, 10, 14, 18, 19, 20, 21, 25, 33, 34, 35, 36, 37, 38, 39, 40] {
        assert!(cut < reply.len());
        let (node, slipring) = behind(with_victim(&[Step::send(&reply[..cut]), Step::Silence]), &SHORT);
        let mut client = slipring.client();
        client.send("get victim\r\n").half_close();
        expect_part(&reply, &client.rest(), cut);
        node.wait_for_closes(1);
        serves_again(&slipring, 1);
        assert!(!out_of_step(&slipring), "what came was not wrong: {}", slipring.output());
    }
}

#[test]
fn an_answer_to_a_write_that_is_torn_off_is_not_an_answer() {
    for (request, answer) in ANSWERS.iter().filter(|(_, answer)| *answer != Some("END\r\n")) {
        let line = request.replace("KEY", "victim");
        let request_line = line.split("\r\n").next().unwrap();
        let whole = honest(&Request { line: request_line.to_owned(), block: Vec::new(), connection: 0 });
        let Some(Step::Send(whole)) = whole.first() else { panic!("{whole:?}") };
        // All but the LF, without which it may go on.
        for cut in [1, whole.len() - 1] {
            let begun = whole[..cut].to_vec();
            let torn = move |request: &Request| {
                if request.line.contains("victim") || request.line == "flush_all" {
                    return vec![Step::Send(begun.clone()), Step::Close];
                }
                honest(request)
            };
            let (node, slipring) = behind(torn, &NEVER);
            let mut client = slipring.client();
            client.send(&line);
            expect_answer(&mut client, request, *answer);
            client.in_step();
            node.wait_for_closes(1);
            serves_again(&slipring, 1);
        }
    }
}

#[test]
fn half_a_list_of_values_is_given_as_far_as_it_came_or_not_at_all() {
    let first = "VALUE victim 0 1\r\na\r\n";
    for rest in ["", "V", "VALUE victim2 0 1\r", "VALUE victim2 0 1\r\n", "VALUE victim2 0 1\r\nb", "E"] {
        let steps = [Step::send(format!("{first}{rest}")), Step::Close];
        let (_node, slipring) = behind(with_victim(&steps), &NEVER);
        let mut client = slipring.client();
        client.send("get victim victim2\r\n").half_close();
        let got = client.rest();
        let begun = rest.contains("1\r\n");
        let sent = format!("{first}{rest}");
        let closed = sent.as_bytes().starts_with(&got);
        let ended = !begun && got == format!("{first}END\r\n").as_bytes();
        let none = got == b"END\r\n";
        assert!(closed || ended || none, "{rest:?}: {}", shown(&got));
        serves_again(&slipring, 1);
    }
}

#[test]
fn a_length_that_is_too_short_is_never_a_value() {
    for lie in [
        "VALUE victim 0 0\r\nsecret\r\nEND\r\n",
        "VALUE victim 0 5\r\nsecret\r\nEND\r\n",
        "VALUE victim 0 6\r\nsecret\rEND\r\n",
        "VALUE victim 0 6\r\nsecret\nEND\r\n",
        "VALUE victim 0 6\r\nsecretEND\r\n",
    ] {
        let (node, slipring) = behind(with_victim(&[Step::send(lie)]), &NEVER);
        let mut client = slipring.client();
        let mut other = slipring.client();
        client.send("get victim\r\n").half_close();
        let got = client.rest();
        let torn = lie.as_bytes().starts_with(&got) && !got.ends_with(b"END\r\n");
        assert!(torn || got == b"END\r\n", "{lie:?}: {}", shown(&got));
        node.wait_for_closes(1);
        slipring.wait_for_output("sent what answers no request");
        serves_again(&slipring, 1);
        other.ask("get k\r\n", value_of("k")).in_step();
    }
}

#[test]
fn what_follows_a_value_that_agrees_with_its_length_is_given_to_nobody() {
    for rest in ["ret\r\nEND\r\n", "\r\nEND\r\n", "VALUE other 0 6\r\nsecret\r\nEND\r\n", "STORED\r\nEND\r\n"] {
        let value = "VALUE victim 0 3\r\nsec\r\n";
        let (node, slipring) = behind(with_victim(&[Step::send(format!("{value}{rest}"))]), &NEVER);
        let mut client = slipring.client();
        client.send("get victim\r\n").half_close();
        let got = client.rest();
        let torn = value.as_bytes().starts_with(&got);
        let whole = got == format!("{value}END\r\n").as_bytes();
        assert!(torn || whole || got == b"END\r\n", "{rest:?}: {}", shown(&got));
        node.wait_for_closes(1);
        slipring.wait_for_output("sent what answers no request");
        serves_again(&slipring, 1);
    }
}

#[test]
fn a_length_that_is_too_long_swallows_nobodys_reply() {
    // What is asked next is answered in the middle of what the node said would be a value. Each waits for a node's silence.
    std::thread::scope(|scope| {
        for length in [7, 60, 5_000, 900_000, 4_294_967_295_u64] {
            scope.spawn(move || swallows_nobodys_reply(length));
        }
    });
}

fn swallows_nobodys_reply(length: u64) {
    let lie = format!("VALUE victim 0 {length}\r\nsecret\r\nEND\r\n");
    let (node, slipring) = behind(with_victim(&[Step::send(&lie)]), &MEDIUM);
    let mut client = slipring.client();
    client.send("get victim\r\n");
    node.wait_for_answers(1);
    let mut others: Vec<_> = (0..3).map(|_| slipring.client()).collect();
    others[0].send("get k\r\n");
    others[1].send("set k 0 0 1\r\nx\r\n");
    others[2].send("incr k 1\r\n");
    // Its own lie at most, and what was said to be its value: never an end. One that nobody has room for is a miss.
    let got = client.half_close().rest();
    assert!(!got.ends_with(b"\r\nEND\r\n") || got.len() < length as usize, "{length}: {}", shown(&got));
    // A read that was behind it is asked again or a miss, a write is an error; the node has
    // done it, which nobody knows.
    others[0].send("mn\r\n");
    let reply = others[0].line();
    if reply != "END" {
        assert_eq!(reply, "VALUE k 0 10", "{length}");
        others[0].expect("value of k\r\nEND\r\n");
    }
    others[0].expect("MN\r\n");
    for (number, done) in [(1, "STORED"), (2, "1")] {
        let reply = others[number].line();
        // On another connection it is truly done.
        assert!(reply.starts_with("SERVER_ERROR proxy") || reply == done, "{length}: {reply}");
        others[number].in_step();
    }
    serves_again(&slipring, 1);
}

#[test]
fn a_length_beyond_all_numbers_is_out_of_step() {
    for length in ["4294967296", "9223372036854775807", "18446744073709551613", "18446744073709551615"] {
        let lie = format!("VALUE victim 0 {length}\r\nsecret\r\nEND\r\n");
        let (node, slipring) = behind(with_victim(&[Step::send(&lie)]), &NEVER);
        let mut client = slipring.client();
        client.ask("get victim\r\n", "END\r\n").in_step();
        node.wait_for_closes(1);
        slipring.wait_for_output("sent what answers no request");
        serves_again(&slipring, 1);
    }
}

#[test]
fn bytes_behind_the_answer_to_a_write_are_never_the_next_answer() {
    for (request, answer, lie) in [
        ("set victim 0 0 1\r\nx\r\n", "STORED\r\n", "STORED\r\nSTORED\r\n"),
        ("delete victim\r\n", "DELETED\r\n", "DELETED\r\nDELETED\r\n"),
        ("incr victim 1\r\n", "5\r\n", "5\r\n6\r\n"),
        ("touch victim 1\r\n", "TOUCHED\r\n", "TOUCHED\r\n\r\n"),
    ] {
        let (node, slipring) = behind(with_victim(&[Step::send(lie)]), &NEVER);
        let mut client = slipring.client();
        client.ask(request, answer);
        node.wait_for_closes(1);
        slipring.wait_for_output("sent what answers no request");
        serves_again(&slipring, 1);
        client.ask("delete k\r\n", "DELETED\r\n").in_step();
    }
}

#[test]
fn bytes_that_come_long_after_an_answer_are_never_the_next_answer() {
    let steps = [Step::send("END\r\n"), Step::Hold, Step::send("VALUE k 0 6\r\nsecret\r\nEND\r\n")];
    let (node, slipring) = behind(with_victim(&steps), &NEVER);
    let mut client = slipring.client();
    client.ask("get victim\r\n", "END\r\n").in_step();
    node.release();
    node.wait_for_closes(1);
    slipring.wait_for_output("sent what answers no request");
    serves_again(&slipring, 1);
    client.ask("get k\r\n", value_of("k")).in_step();
}

#[test]
fn a_late_reply_that_is_wrong_closes_the_connection_like_any_other() {
    for lie in ["VALUE other 0 6\r\nsecret\r\nEND\r\n", "STORED\r\n", "VALUE victim 0 3\r\nsecret\r\nEND\r\n"] {
        let (node, slipring) = behind(with_victim(&[Step::Hold, Step::send(lie)]), &MEDIUM);
        let mut client = slipring.client();
        client.ask("get victim\r\n", "END\r\n");
        client.send("get other\r\n");
        node.release();
        node.wait_for_closes(1);
        slipring.wait_for_output("sent what answers no request");
        let reply = client.line();
        // Asked again on the next connection, or a miss; never the value that came late.
        if reply != "END" {
            assert_eq!(reply, "VALUE other 0 14", "{lie:?}");
            client.expect("value of other\r\nEND\r\n");
        }
        client.in_step();
        serves_again(&slipring, 1);
    }
}

#[test]
fn a_merged_get_answered_with_another_key_gives_nobody_that_value() {
    for lie in [
        "VALUE victim0 0 3\r\nown\r\nVALUE stranger 0 6\r\nsecret\r\nEND\r\n",
        "VALUE victim0 0 3\r\nown\r\nVALUE victim0 0 6\r\nsecret\r\nEND\r\n",
        "VALUE victim 0 6\r\nsecret\r\nEND\r\n",
    ] {
        let (node, slipring) = behind(with_victim(&[Step::send(lie)]), &NEVER);
        let keys: Vec<String> = (0..5).map(|number| format!("victim{number}")).collect();
        let mut clients = meet(&slipring, &keys);
        let requests = node.wait_for_requests(1);
        assert_eq!(requests[0].keys().len(), 5, "they were merged: {requests:?}");
        for (number, client) in clients.iter_mut().enumerate() {
            client.half_close();
            let got = client.rest();
            let own = number == 0 && b"VALUE victim0 0 3\r\nown\r\nEND\r\n".starts_with(&got[..]);
            assert!(own || got == b"END\r\n", "{lie:?}, client {number}: {}", shown(&got));
        }
        slipring.wait_for_output("sent what answers no request");
        serves_again(&slipring, 1);
    }
}

#[test]
fn a_lie_closes_one_connection_and_not_those_of_other_nodes() {
    let liar = ScriptedNode::start(|request| {
        if request.words()[0] == "incr" { vec![Step::send("STORED\r\n")] } else { honest(request) }
    });
    let well = ScriptedNode::start(honest);
    let slipring = crate::one_worker(&[&liar, &well], &NEVER);
    let owned = crate::owned(&slipring, &[&liar, &well], "key");
    let mut client = slipring.client();
    client.send(format!("incr {} 1\r\n", owned[0][0]));
    expect_proxy_error(&mut client, "incr");
    client.ask(format!("incr {} 1\r\n", owned[1][0]), "1\r\n").in_step();
    liar.wait_for_closes(1);
    assert_eq!(well.closes(), 0);
    serves_again(&slipring, 2);
}
