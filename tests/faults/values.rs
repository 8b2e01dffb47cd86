//! Values that stall, drip or move slowly: a value that has begun cannot be taken back.
use crate::support::{Request, ScriptedNode, Step, TextClient, honest, shown};
use crate::{MEDIUM, NEVER, SHORT, behind, expect_proxy_error, meet, serves_again, value_of};
use std::time::Duration;

/// More than this and a value has a connection of its own.
const BULK: usize = 1 << 20;

/// A truthful reply whose one value is so long, cut in two in the middle of the value.
fn halves(key: &str, length: usize) -> (Vec<u8>, Vec<u8>) {
    let mut reply = format!("VALUE {key} 0 {length}\r\n").into_bytes();
    reply.extend((0..length).map(|at| b'a' + (at % 23) as u8));
    reply.extend_from_slice(b"\r\nEND\r\n");
    let rest = reply.split_off(reply.len() - length / 2);
    (reply, rest)
}

/// Holds back the second half of the value of every key that names `large`, of so many bytes.
fn half_of_large(length: usize) -> impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static {
    move |request| {
        if request.words()[0] != "get" || !request.line.contains("large") {
            return honest(request);
        }
        let (first, second) = halves(request.keys()[0], length);
        vec![Step::Send(first), Step::Hold, Step::Send(second)]
    }
}

/// The client is closed in the middle of a value of so many bytes that has begun.
fn expect_torn(client: &mut TextClient, length: usize) {
    let reply = client.rest();
    let (first, _) = halves("large", length);
    let begun = first.splitn(2, |&byte| byte == b'\n').nth(1).expect("a header line");
    assert!(begun.starts_with(&reply), "{} of {}", shown(&reply), shown(begun));
}

fn whole(key: &str, length: usize) -> Vec<u8> {
    let (first, second) = halves(key, length);
    [first, second].concat()
}

/// The value has begun: its header has reached the client.
fn begun(client: &mut TextClient, key: &str, length: usize) {
    client.expect(format!("VALUE {key} 0 {length}\r\n"));
}

#[test]
fn a_value_that_stalls_closes_its_reader_and_those_behind_it_get_their_answers() {
    for length in [1_000, 100_000, BULK - 100] {
        let (node, slipring) = behind(half_of_large(length), &MEDIUM);
        let mut reader = slipring.client();
        reader.send("get large\r\n");
        begun(&mut reader, "large", length);
        let mut others: Vec<TextClient> = (0..4).map(|_| slipring.client()).collect();
        others[0].send("get k\r\n");
        others[1].send("touch k 1\r\n");
        others[2].send("set k 0 0 1\r\nx\r\n");
        others[3].send("delete k\r\n");
        expect_torn(&mut reader, length);
        others[0].expect("END\r\n");
        others[1].expect("NOT_FOUND\r\n");
        expect_proxy_error(&mut others[2], "set");
        expect_proxy_error(&mut others[3], "delete");
        for other in &mut others {
            other.in_step();
        }
        assert_eq!((node.holds(), node.lanes_closed()), (1, 0), "one time-out closes no connection");
        // What is left of the value, and the late replies behind it, are nobody's.
        node.release();
        node.wait_for_answers(5);
        others[0].ask("get k\r\n", value_of("k")).in_step();
        assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
    }
}

#[test]
fn every_reader_of_a_key_asked_for_by_several_is_closed_when_its_value_stalls() {
    let (node, slipring) = behind(half_of_large(100_000), &MEDIUM);
    let mut clients = meet(&slipring, &vec!["large".to_owned(); 5]);
    for client in &mut clients {
        begun(client, "large", 100_000);
    }
    for client in &mut clients {
        expect_torn(client, 100_000);
    }
    assert_eq!((node.holds(), node.lanes_closed()), (1, 0));
    for _ in 0..5 {
        node.release();
    }
    serves_again(&slipring, 1);
}

#[test]
fn a_client_that_pipelined_behind_a_value_that_stalls_is_closed_and_its_late_replies_are_nobodys() {
    let (node, slipring) = behind(half_of_large(100_000), &MEDIUM);
    let mut reader = slipring.client();
    reader.send("get large\r\nget a\r\nincr n 1\r\n");
    begun(&mut reader, "large", 100_000);
    expect_torn(&mut reader, 100_000);
    let mut next = slipring.client();
    next.in_step();
    node.release();
    next.ask("get b\r\n", value_of("b")).in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn of_a_merged_get_only_the_readers_of_the_value_that_stalls_are_closed() {
    let large = halves("large", 100_000);
    let (node, slipring) = behind(
        move |request| {
            let mut steps = Vec::new();
            for key in request.keys() {
                match key {
                    "large" => {
                        steps.extend([Step::send(&large.0), Step::Hold, Step::send(&large.1)]);
                        // Without its END; that is behind the last.
                        let Some(Step::Send(rest)) = steps.last_mut() else { continue };
                        rest.truncate(rest.len() - b"END\r\n".len());
                    }
                    _ => steps.push(Step::send(value_of(key).replace("END\r\n", ""))),
                }
            }
            steps.push(Step::send("END\r\n"));
            steps
        },
        &MEDIUM,
    );
    let keys = ["a", "b", "large", "c", "d"].map(str::to_owned);
    let mut clients = meet(&slipring, &keys);
    let asked = node.wait_for_requests(1)[0].clone();
    assert_eq!(asked.keys().len(), 5, "they were merged: {asked:?}");
    let place = asked.keys().iter().position(|key| *key == "large").unwrap();
    begun(&mut clients[2], "large", 100_000);
    for (key, client) in keys.iter().zip(&mut clients) {
        if key == "large" {
            expect_torn(client, 100_000);
        } else if asked.keys()[..place].contains(&key.as_str()) {
            client.expect(value_of(key)).in_step();
        } else {
            client.expect("END\r\n").in_step();
        }
    }
    assert_eq!((node.holds(), node.lanes_closed()), (1, 0));
    node.release();
    clients[0].ask("get k\r\n", value_of("k")).in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn a_large_value_that_comes_late_is_eaten() {
    for length in [100_000, 3 * BULK] {
        let reply = whole("large", length);
        let (node, slipring) = behind(
            move |request| {
                if !request.line.contains("large") {
                    return honest(request);
                }
                vec![Step::Hold, Step::Send(reply.clone())]
            },
            &MEDIUM,
        );
        let mut client = slipring.client();
        client.ask("get large\r\n", "END\r\n").in_step();
        assert_eq!((node.holds(), node.lanes_closed()), (1, 0));
        node.release();
        node.wait_for_answers(1);
        client.ask("get k\r\n", value_of("k")).in_step();
        slipring.client().ask("get k\r\n", value_of("k")).in_step();
    }
}

#[test]
fn a_large_store_behind_a_read_that_expired_is_answered() {
    let (node, slipring) = behind(
        |request| {
            if request.line == "get slow" { vec![Step::Silence] } else { honest(request) }
        },
        &SHORT,
    );
    let mut client = slipring.client();
    client.ask("get slow\r\n", "END\r\n");
    let length = 3 * BULK;
    client.send(format!("set large 0 0 {length}\r\n")).send(vec![b'x'; length]).send("\r\n");
    let reply = client.line();
    let stored = node.requests().iter().any(|request| request.block.len() == length);
    assert!(reply.starts_with("SERVER_ERROR proxy") || (reply == "STORED" && stored), "{reply}");
    client.in_step();
    serves_again(&slipring, 1);
}

#[test]
fn a_large_store_that_its_node_stops_taking_is_an_error_and_its_block_is_swallowed() {
    let (node, slipring) = behind(honest, &SHORT);
    node.freeze();
    let mut client = slipring.client();
    // More than all sockets on the way hold; and no line of it is ever executed.
    let block = "\r\nflush_all\r\ndelete witness".repeat(2 << 20);
    client.send(format!("set large 0 0 {}\r\n", block.len())).send(&block).send("\r\n");
    expect_proxy_error(&mut client, "set");
    client.in_step();
    node.thaw();
    serves_again(&slipring, 1);
    let seen: Vec<String> = node.requests().into_iter().map(|request| request.line).collect();
    assert!(seen.iter().all(|line| line == "get again"), "{seen:?}");
}

#[test]
fn a_value_that_drips_closes_its_reader() {
    let key = "large";
    let (node, slipring) = behind(
        move |request| {
            if !request.line.contains(key) {
                return honest(request);
            }
            // 16 KiB would take half an hour.
            let (first, second) = halves(key, 100_000);
            let mut steps = vec![Step::Send(first)];
            steps.extend(Step::drip(second, 1, Duration::from_millis(100)));
            steps
        },
        &MEDIUM,
    );
    let mut reader = slipring.client();
    reader.send("get large\r\n");
    begun(&mut reader, key, 100_000);
    let mut other = slipring.client();
    other.send("get k\r\n");
    let reply = reader.rest();
    assert!(!reply.ends_with(b"END\r\n"), "{}", shown(&reply));
    other.expect("END\r\n").in_step();
    assert_eq!(node.requests().len(), 1, "the node still drips");
}

#[test]
fn a_value_whose_end_stalls_closes_its_reader_or_is_whole() {
    let length = 100;
    let reply = whole("large", length);
    // Within the last bytes of the block, its line end, and the reply's.
    std::thread::scope(|scope| {
        for cut in (reply.len() - 10)..reply.len() {
            let reply = &reply;
            scope.spawn(move || cut_at(reply, cut));
        }
    });
}

/// The node says so many bytes of a reply, and the rest after the time-out.
fn cut_at(reply: &[u8], cut: usize) {
    let (first, second) = (reply[..cut].to_vec(), reply[cut..].to_vec());
    let (node, slipring) = behind(
        move |request| {
            if !request.line.contains("large") {
                return honest(request);
            }
            vec![Step::Send(first.clone()), Step::Hold, Step::Send(second.clone())]
        },
        &MEDIUM,
    );
    let mut reader = slipring.client();
    reader.send("get large\r\n");
    let text = String::from_utf8(reply.to_vec()).unwrap();
    let mut given = 0;
    for wanted in text.lines() {
        let Some(line) = reader.line_or_end() else { break };
        assert_eq!(line, wanted, "cut at {cut}");
        given += 1;
    }
    // A value that came whole may be given with an END, for that is true.
    let block = cut >= reply.len() - b"END\r\n".len();
    assert!(block || given < 3, "cut at {cut} of {}", reply.len());
    assert_eq!(node.lanes_closed(), 0, "one time-out closes no connection");
    node.release();
    let mut next = slipring.client();
    next.ask("get k\r\n", value_of("k")).in_step();
    assert_eq!((node.lanes_closed(), node.lanes()), (0, 1));
}

#[test]
fn a_large_value_that_keeps_moving_never_expires_nor_does_what_waits_behind_it() {
    for length in [640 << 10, BULK + (64 << 10)] {
        let reply = whole("large", length);
        let sent = reply.clone();
        let (node, slipring) = behind(
            move |request| {
                if !request.line.contains("large") {
                    return honest(request);
                }
                // A small part of a time-out between the pieces, several time-outs for all of them.
                Step::drip(&sent, 16 << 10, Duration::from_millis(100))
            },
            &MEDIUM,
        );
        let mut reader = slipring.client();
        reader.send("get large\r\n");
        node.wait_for_requests(1);
        let mut others: Vec<TextClient> = (0..3).map(|_| slipring.client()).collect();
        others[0].send("get k\r\n");
        others[1].send("set k 0 0 1\r\nx\r\n");
        others[2].send("incr k 1\r\n");
        reader.expect(&reply).in_step();
        others[0].expect(value_of("k")).in_step();
        others[1].expect("STORED\r\n").in_step();
        others[2].expect("1\r\n").in_step();
    }
}

#[test]
fn nobody_waits_behind_a_value_that_is_known_to_be_large() {
    let length = 3 * BULK;
    // It travels where large values do, and stalls there.
    let (node, slipring) = behind(half_of_large(length), &NEVER);
    slipring.client().set("large", vec![b'x'; length]);
    let mut reader = slipring.client();
    reader.send("get large\r\n");
    begun(&mut reader, "large", length);
    let mut other = slipring.client();
    other.ask("get k\r\n", value_of("k")).in_step();
    // Only now comes the rest.
    node.release();
    let header = format!("VALUE large 0 {length}\r\n").len();
    reader.expect(&whole("large", length)[header..]).in_step();
}

#[test]
fn a_value_that_is_known_to_be_large_and_stalls_closes_its_reader_alone() {
    let length = 3 * BULK;
    let (node, slipring) = behind(half_of_large(length), &MEDIUM);
    let mut bystander = slipring.client();
    bystander.set("k", "x").set("large", vec![b'x'; length]);
    let mut reader = slipring.client();
    reader.send("get large\r\n");
    begun(&mut reader, "large", length);
    bystander.ask("get k\r\n", value_of("k")).in_step();
    expect_torn(&mut reader, length);
    bystander.ask("get k\r\n", value_of("k")).in_step();
    assert_eq!(node.holds(), 1);
    slipring.wait_for_states("up", 1);
}

#[test]
fn a_reader_that_is_slow_itself_loses_nothing_by_the_time_out() {
    // The node sends all of it at once; it is the client who takes longer than the time-out.
    let length = 24 * BULK;
    let reply = whole("large", length);
    let sent = reply.clone();
    let (node, slipring) = behind(
        move |request| {
            if !request.line.contains("large") {
                return honest(request);
            }
            vec![Step::Send(sent.clone())]
        },
        &MEDIUM,
    );
    let mut reader = slipring.client();
    reader.send("get large\r\n");
    begun(&mut reader, "large", length);
    let mut bystander = slipring.client();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(500));
        bystander.ask("get k\r\n", value_of("k")).in_step();
    }
    let header = format!("VALUE large 0 {length}\r\n").len();
    reader.expect(&reply[header..]).in_step();
    // It has passed once, for nobody knew that no client's share of the memory can hold it.
    assert_eq!(node.requests().iter().filter(|request| request.line.contains("large")).count(), 2);
}

#[test]
fn a_large_value_a_node_takes_slowly_is_stored() {
    let node = ScriptedNode::start(honest);
    let slipring = crate::one_worker(&[&node], &["--request-timeout", "60s", "--queue-timeout", "2s"]);
    // Six seconds, so several time-outs, and never half of one without a byte.
    node.read_slowly(16 << 10, Duration::from_millis(5));
    let mut writer = slipring.client();
    let length = 8 * BULK;
    let mut request = format!("set large 0 0 {length}\r\n").into_bytes();
    request.resize(request.len() + length, b'x');
    request.extend_from_slice(b"\r\n");
    writer.send(&request).expect("STORED\r\n").in_step();
    assert_eq!(node.requests()[0].block.len(), length);
}
