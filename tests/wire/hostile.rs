//! No value is ever executed, no input takes the proxy or another client down.
use crate::support::{Memcached, ScriptedNode, Slipring, TextClient, eventually, honest};
use crate::{one_node, three_nodes};

const BAD_LINE: &str = "CLIENT_ERROR bad command line format\r\n";

/// Storage lines that are refused although their length is known: the block must be swallowed.
/// `{n}` stands for the length of the block, `{K}` for a key of 251 bytes.
const REFUSED_WITH_A_KNOWN_LENGTH: &[&str] = &[
    "set {K} 0 0 {n}",
    "add {K} 0 0 {n}",
    "replace {K} 0 0 {n}",
    "append {K} 0 0 {n}",
    "prepend {K} 0 0 {n}",
    "cas {K} 0 0 {n} 1",
    "set k x 0 {n}",
    "set k -1 0 {n}",
    "set k 0 x {n}",
    "add k 0x 0 {n}",
    "replace k 0 never {n}",
    "append k x y {n}",
    "prepend k . 0 {n}",
    "cas k x 0 {n} 1",
    "cas k 0 0 {n} x",
    "cas k 0 0 {n} -",
];

#[test]
fn the_block_behind_a_refused_storage_line_is_never_executed() {
    let (node, slipring) = one_node();
    let mut client = slipring.client();
    client.set("witness", "here");
    let block = "flush_all\r\nset witness 0 0 3\r\nbad\r\ndelete witness";
    for line in REFUSED_WITH_A_KNOWN_LENGTH {
        let line = line.replace("{K}", &"k".repeat(251)).replace("{n}", &block.len().to_string());
        client.send(format!("{line}\r\n{block}\r\n"));
        let reply = client.line();
        assert!(reply.starts_with("CLIENT_ERROR "), "{line}: {reply}");
        client.in_step();
        // Asked for quiet, it must still not be executed.
        client.send(format!("{line} noreply\r\n{block}\r\nmn\r\n"));
        let reply = client.line();
        if reply != "MN" {
            assert!(reply.starts_with("CLIENT_ERROR "), "{line} noreply: {reply}");
            client.expect("MN\r\n");
        }
    }
    assert_eq!(client.get(&["witness"])[0].data, b"here");
    assert_eq!(node.stat("cmd_flush"), 0, "the node never saw a flush_all");
}

#[test]
fn who_speaks_tls_is_closed_at_once_and_told_of_once() {
    let (_node, slipring) = one_node();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\nget k\r\n";
    for opening in [&hello[..], b"\x16"] {
        let mut client = slipring.client();
        client.send(opening);
        assert_eq!(client.rest(), b"", "closed without a word");
    }
    let what = "a client speaks TLS";
    slipring.wait_for_output(what);
    assert_eq!(slipring.output().matches(what).count(), 1, "{}", slipring.output());
    let (_, metrics) = slipring.admin("/metrics");
    let count = "\nslipring_client_connections_closed_total{reason=\"protocol\"} 2\n";
    assert!(metrics.contains(count), "{metrics}");
    // Only the first byte of a connection is looked at.
    let mut client = slipring.client();
    client.ask("x\r\n", "ERROR\r\n").ask("\x16\x03\x01\r\n", "ERROR\r\n").send(b"\x80\x0b\r\n").expect("ERROR\r\n");
    client.in_step();
}

#[test]
fn a_storage_line_of_unknown_length_is_answered_and_the_connection_closed() {
    let (node, slipring) = one_node();
    slipring.client().set("witness", "here");
    for length in [
        "-1",
        "x",
        "1x",
        "2147483646",
        "2147483647",
        "2147483648",
        "4294967296",
        "4294967306",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "-9223372036854775808",
    ] {
        for rest in ["", " noreply"] {
            let mut client = slipring.client();
            client.send(format!("set k 0 0 {length}{rest}\r\nflush_all\r\nflush_all\r\n"));
            let reply = client.rest();
            let reply = String::from_utf8_lossy(&reply);
            assert!(
                reply == BAD_LINE || (reply.is_empty() && !rest.is_empty()),
                "a length of {length}{rest}: {reply:?}"
            );
        }
    }
    assert_eq!(slipring.client().get(&["witness"])[0].data, b"here");
    assert_eq!(node.stat("cmd_flush"), 0);
}

#[test]
fn a_too_large_value_sent_with_noreply_is_swallowed_whole() {
    let (node, slipring) = one_node();
    let mut client = slipring.client();
    client.set("witness", "here");
    let commands = "\r\nflush_all\r\ndelete witness".repeat(60_000);
    client.send(format!("set k 0 0 {} noreply\r\n{commands}\r\n", commands.len()));
    client.in_step();
    assert_eq!(client.get(&["witness"])[0].data, b"here");
    assert_eq!(node.stat("cmd_flush"), 0);
}

#[test]
fn a_bad_data_chunk_consumes_what_memcached_consumes() {
    let (node, slipring) = one_node();
    let script: &[(&str, &str)] = &[
        ("set s 0 0 3\r\nabcdef\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        ("get s\r\n", "END\r\n"),
        ("set s 0 0 3\r\nabc\n\nmn\r\n", "CLIENT_ERROR bad data chunk\r\nMN\r\n"),
        ("set s 0 0 4\r\nab\r\nmn\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        ("get s\r\n", "END\r\n"),
    ];
    for mut client in [node.client(), slipring.client()] {
        for (request, reply) in script {
            client.ask(request, reply);
        }
        client.in_step();
    }
}

#[test]
fn a_key_with_a_nul_is_refused_and_nothing_of_it_travels() {
    let node = ScriptedNode::start(honest);
    let slipring = Slipring::with(&[node.address()], &["--max-value", "1024"]);
    let mut client = slipring.client();
    let refused = "CLIENT_ERROR bad command line format\r\n";
    let long: Vec<u8> = [b"get ".as_slice(), &b"b ".repeat(2000), b"b\0 b\r\n"].concat();
    for request in [
        b"get a\0b c\r\n".as_slice(),
        b"get \0b\r\n",
        b"gets b c\0\r\n",
        b"gat 0 b\0\r\n",
        b"delete a\0b\r\n",
        b"incr b\0 1\r\n",
        b"touch b\0 1\r\n",
        // The block is no command, whatever its size.
        b"set b\0 0 0 11\r\nget bcbcbcb\r\n",
        b"cas \0b 0 0 5 1\r\nget b\r\n",
        &[b"set b\0 0 0 2000\r\n".as_slice(), &b"get b\r\n.".repeat(250), b"\r\n"].concat(),
        &long,
    ] {
        client.ask(request, refused).in_step();
    }
    client.ask(b"delete b\0 noreply\r\nset b\0 0 0 5 noreply\r\nget b\r\nmn\r\n", "MN\r\n");
    // Behind the key it ends the line.
    client.ask(b"set k 0 0 1\0 noreply\r\nx\r\n", "STORED\r\n");
    client.ask(b"touch k 0\0b\r\n", "TOUCHED\r\n");
    client.ask(b"\0get a\r\n", "ERROR\r\n");
    client.in_step();
    assert!(!node.raw().contains(&0), "no NUL reaches a node");
    for request in node.requests() {
        assert!(!request.line.contains('b'), "{:?}", request.line);
    }
}

#[test]
fn a_refused_command_says_nothing_where_it_says_noreply() {
    let (node, slipring) = one_node();
    for line in [
        "cache_memlimit 64 noreply",
        "cache_memlimit x noreply",
        "slabs automove 1 noreply",
        "slabs automove 9 noreply",
        "lru mode flat noreply",
        "lru tune 10 10 1 1 noreply",
        "lru x noreply",
        "extstore free_memchunks 1 1 noreply",
        "extstore x noreply",
        "watch x noreply",
    ] {
        for mut client in [node.client(), slipring.client()] {
            client.ask(format!("{line}\r\nmn\r\n"), "MN\r\n");
        }
    }
    // To these it is a word like any other: they answer, there and here.
    for line in [
        "cache_memlimit 64 x noreply",
        "slabs reassign 1 2 noreply",
        "slabs noreply",
        "lru_crawler enable noreply",
        "lru_crawler crawl 1 noreply",
        "refresh_certs noreply",
        "shutdown noreply",
        "debugtime p noreply",
        "misbehave noreply",
        "stats detail noreply",
        "foo noreply",
    ] {
        for mut client in [node.client(), slipring.client()] {
            let line = client.ask_line(format!("{line}\r\n"));
            assert!(line.to_uppercase().contains("ERROR"), "{line:?}");
            client.in_step();
        }
    }
}

#[test]
fn a_line_of_a_mebibyte_without_an_end_is_refused_in_bounded_memory() {
    let (_node, slipring) = one_node();
    let flood = |start: &str, size: usize| -> String {
        let mut client = slipring.client();
        let mut line = start.as_bytes().to_vec();
        line.resize(size, b'a');
        // It may close before it has read all of it.
        let _ = client.send_if_taken(&line);
        String::from_utf8_lossy(&client.rest()).into_owned()
    };
    for start in ["", "a", "set ", "delete ", "set k 0 0 ", "version "] {
        let reply = flood(start, 1 << 20);
        assert_eq!(reply, "CLIENT_ERROR line too long\r\n", "{start:?}");
    }
    // Key lists may be 4 MiB long; a key of that length never is one.
    for start in ["get ", "gets ", "gat 0 "] {
        let reply = flood(start, 6 << 20);
        assert!(reply.starts_with("CLIENT_ERROR ") && reply.ends_with("\r\n"), "{reply:?}");
    }
    let peak = slipring.memory_kib("VmHWM");
    assert!(peak < 64 << 10, "the peak was {peak} KiB");
    slipring.client().in_step();
}

#[test]
fn a_client_that_leaves_in_mid_request_changes_nothing() {
    let (node, slipring) = one_node();
    let mut bystander = slipring.client();
    bystander.set("k", "old");
    let requests: &[&str] = &[
        "g",
        "get k",
        "set k 0 0 10\r",
        "set k 0 0 10\r\n",
        "set k 0 0 10\r\nhalf",
        "set k 0 0 4\r\nfull",
        "set k 0 0 4\r\nfull\r",
        "set k 0 0 10 noreply\r\nhalf",
        "set k 0 0 500000\r\nhalf",
        "incr k 1",
    ];
    for (number, request) in requests.iter().enumerate() {
        let mut client = slipring.client();
        client.send(request);
        match number % 2 {
            0 => client.half_close().expect_closed(),
            _ => client.abort(),
        }
        assert_eq!(bystander.get(&["k"])[0].data, b"old", "{request:?}");
    }
    // Also when the value was large enough to have been on its way already.
    let node_large = Memcached::with(&["-I", "16m"]);
    let slipring_large = Slipring::start(&[node_large.address()]);
    let mut bystander_large = slipring_large.client();
    bystander_large.set("k", "old");
    for reset in [false, true] {
        let mut client = slipring_large.client();
        client.send("set k 0 0 8000000\r\n").send(vec![b'x'; 3 << 20]);
        if reset {
            client.abort();
        } else {
            drop(client);
        }
        let found = bystander_large.get(&["k"]);
        assert!(found.is_empty() || found[0].data == b"old");
        bystander_large.set("k", "old").in_step();
    }
    assert_eq!(node.stat("curr_items"), 1);
    bystander.in_step();
}

#[test]
fn a_client_that_stalls_in_mid_value_holds_nobody_up() {
    let (_node, slipring) = one_node();
    let mut stalled = slipring.client();
    stalled.send("set k 0 0 10\r\nhalf");
    let mut large = slipring.client();
    large.send("set large 0 0 900000\r\n").send(vec![b'x'; 500_000]);
    let mut bystander = slipring.client();
    for _ in 0..100 {
        bystander.set("other", "value").get(&["other", "k"]);
    }
    stalled.send(" whole\r\n").expect("STORED\r\n");
    large.send(vec![b'x'; 400_000]).send("\r\n").expect("STORED\r\n");
    assert_eq!(bystander.get(&["k"])[0].data, b"half whole");
}

#[test]
fn words_only_a_single_server_can_obey_are_refused_and_the_connection_stays() {
    let (node, slipring) = one_node();
    let mut client = slipring.client();
    client.set("witness", "here");
    for line in [
        "watch",
        "watch fetchers",
        "lru_crawler enable",
        "lru_crawler metadump all",
        "lru tune 10 25 0.1 2.0",
        "slabs reassign 1 2",
        "slabs automove 0",
        "cache_memlimit 8",
        "shutdown",
        "shutdown graceful",
        "extstore free_memchunks 1 1",
        "refresh_certs",
        "stats cachedump 1 1",
        "stats detail on",
        "stats detail dump",
    ] {
        let reply = client.ask_line(format!("{line}\r\n"));
        assert!(reply.starts_with("CLIENT_ERROR ") && reply.ends_with("not supported by proxy"), "{line}: {reply}");
        client.in_step();
    }
    assert_eq!(client.get(&["witness"])[0].data, b"here");
    assert_eq!(node.client().get(&["witness"])[0].data, b"here");
}

#[test]
fn refused_meta_commands_are_refused_whole() {
    let (node, slipring) = one_node();
    let mut client = slipring.client();
    client.set("k", "old");
    for (request, answer, block) in [
        ("mg k Z", "CLIENT_ERROR invalid flag", None),
        ("md k k k", "CLIENT_ERROR invalid or duplicate flag", None),
        ("ms k 9 Tx", "CLIENT_ERROR bad token in command line format", Some("flush_all")),
        ("ms k 9 T0 T0", "CLIENT_ERROR duplicate flag", Some("flush_all")),
    ] {
        client.send(format!("{request}\r\n"));
        if let Some(block) = block {
            client.send(format!("{block}\r\n"));
        }
        assert_eq!(client.line(), answer, "{request}");
        client.in_step();
    }
    for request in ["ms k", "ms k x", "ms k -1", "ms k with space 9"] {
        let mut client = slipring.client();
        client.send(format!("{request}\r\nflush_all\r\n"));
        assert!(client.line().contains("ERROR"), "{request}");
        client.expect_closed();
    }
    assert_eq!(client.get(&["k"])[0].data, b"old");
    assert_eq!(node.stat("cmd_flush"), 0);
}

#[test]
fn keys_with_control_bytes_are_keys() {
    let (node, slipring) = one_node();
    // As memcached takes them: all but space, LF, NUL, and a CR before the LF.
    for byte in (1..=255u8).filter(|byte| !b" \n\r".contains(byte)) {
        let key = [b'k', byte, b'k'];
        let line = |verb: &str, rest: &str| {
            let mut line = verb.as_bytes().to_vec();
            line.extend_from_slice(&key);
            line.extend_from_slice(rest.as_bytes());
            line
        };
        let mut through = slipring.client();
        through.ask(line("set ", " 0 0 1\r\nx\r\n"), "STORED\r\n");
        let mut direct = node.client();
        let found = line("VALUE ", " 0 1\r\nx\r\nEND\r\n");
        through.ask(line("get ", "\r\n"), &found);
        direct.ask(line("get ", "\r\n"), &found);
        through.ask(line("delete ", "\r\n"), "DELETED\r\n");
    }
}

#[test]
fn binary_looking_and_random_bytes_do_no_harm() {
    let (_nodes, slipring) = three_nodes();
    let mut bystander = slipring.client();
    bystander.set("k", "v");
    let mut random = crate::support::Random::new(7);
    for _ in 0..200 {
        let length = random.between(1, 300);
        let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let client = TextClient::connect(slipring.address());
        // Whatever it says: it ends, because we half-close.
        client.session(&[&noise]);
    }
    assert_eq!(bystander.get(&["k"]).len(), 1);
    bystander.in_step();
}

#[test]
fn a_thousand_half_commands_cost_little_memory() {
    let (_node, slipring) = one_node();
    let before = slipring.memory_kib("VmRSS");
    let mut clients: Vec<TextClient> = (0..500).map(|_| slipring.client()).collect();
    for client in &mut clients {
        client.send("set k 0 0 900000\r\nhalf");
    }
    let mut bystander = slipring.client();
    bystander.in_step();
    let after = slipring.memory_kib("VmRSS");
    assert!(after < before + (64 << 10), "500 half commands took {} KiB", after - before);
    drop(clients);
    eventually("a client is served again", || {
        bystander.ask("get k\r\n", "END\r\n");
        true
    });
}
