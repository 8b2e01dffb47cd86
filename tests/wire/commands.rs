//! The classic commands, as memcached 1.6.18 answers them.
use crate::support::{Memcached, Slipring, shown};
use crate::{one_node, three_nodes};

/// Request and reply, in order, on one connection. Every classic command with each of its
/// outcomes; what carries `noreply` has no reply.
const SESSION: &[(&str, &str)] = &[
    ("get a\r\n", "END\r\n"),
    ("gets a\r\n", "END\r\n"),
    ("set a 5 0 3\r\nabc\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
    ("set a 4294967295 100 0\r\n\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 4294967295 0\r\n\r\nEND\r\n"),
    ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("add b 0 0 1\r\nx\r\n", "STORED\r\n"),
    ("replace nothing 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("replace b 7 0 2\r\nyy\r\n", "STORED\r\n"),
    ("append nothing 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("append b 0 0 2\r\nzz\r\n", "STORED\r\n"),
    ("prepend nothing 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("prepend b 0 0 2\r\nww\r\n", "STORED\r\n"),
    ("get b\r\n", "VALUE b 7 6\r\nwwyyzz\r\nEND\r\n"),
    ("cas nothing 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n"),
    ("cas b 0 0 1 18446744073709551615\r\nx\r\n", "EXISTS\r\n"),
    ("delete nothing\r\n", "NOT_FOUND\r\n"),
    ("delete b\r\n", "DELETED\r\n"),
    ("get b\r\n", "END\r\n"),
    ("delete a 0\r\n", "DELETED\r\n"),
    ("delete a 1\r\n", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"),
    ("set n 0 0 2\r\n10\r\n", "STORED\r\n"),
    ("incr n 5\r\n", "15\r\n"),
    ("decr n 6\r\n", "9\r\n"),
    ("get n\r\n", "VALUE n 0 2\r\n9 \r\nEND\r\n"),
    ("decr n 100\r\n", "0\r\n"),
    ("incr n 18446744073709551615\r\n", "18446744073709551615\r\n"),
    ("incr n 2\r\n", "1\r\n"),
    ("incr nothing 1\r\n", "NOT_FOUND\r\n"),
    ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("set text 0 0 2\r\nab\r\n", "STORED\r\n"),
    ("incr text 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    ("touch text 100\r\n", "TOUCHED\r\n"),
    ("touch nothing 100\r\n", "NOT_FOUND\r\n"),
    ("touch text x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("gat 100 text\r\n", "VALUE text 0 2\r\nab\r\nEND\r\n"),
    ("gat 100 nothing\r\n", "END\r\n"),
    ("gats 100 nothing\r\n", "END\r\n"),
    ("gat x text\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("touch text -1\r\n", "TOUCHED\r\n"),
    ("get text\r\n", "END\r\n"),
    ("set gone 0 -1 1\r\nx\r\n", "STORED\r\n"),
    ("get gone\r\n", "END\r\n"),
    ("version\r\n", "VERSION 1.6.18\r\n"),
    ("verbosity 1\r\n", "OK\r\n"),
    ("verbosity\r\n", "ERROR\r\n"),
    ("verbosity x\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("mn\r\n", "MN\r\n"),
    ("flush_all\r\n", "OK\r\n"),
    ("flush_all 0\r\n", "OK\r\n"),
    ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("get n\r\n", "END\r\n"),
    // Without replies: what each did is seen in the reads.
    ("set q 1 0 1 noreply\r\n5\r\n", ""),
    ("get q\r\n", "VALUE q 1 1\r\n5\r\nEND\r\n"),
    ("add q 0 0 1 noreply\r\nx\r\n", ""),
    ("replace q 2 0 1 noreply\r\n6\r\n", ""),
    ("append q 0 0 1 noreply\r\n7\r\n", ""),
    ("prepend q 0 0 1 noreply\r\n4\r\n", ""),
    ("cas q 0 0 1 18446744073709551615 noreply\r\nx\r\n", ""),
    ("incr q 1 noreply\r\n", ""),
    ("decr q 2 noreply\r\n", ""),
    ("touch q 100 noreply\r\n", ""),
    ("get q\r\n", "VALUE q 2 3\r\n466\r\nEND\r\n"),
    ("delete q noreply\r\n", ""),
    ("get q\r\n", "END\r\n"),
    ("touch q x noreply\r\n", ""),
    ("incr q x noreply\r\n", ""),
    ("verbosity 1 noreply\r\n", ""),
    ("set r 0 0 1\r\nx\r\n", "STORED\r\n"),
    ("flush_all noreply\r\n", ""),
    ("get r\r\n", "END\r\n"),
    // Not a command, not in capitals, not complete.
    ("\r\n", "ERROR\r\n"),
    ("nonsense\r\n", "ERROR\r\n"),
    ("GET a\r\n", "ERROR\r\n"),
    ("get\r\n", "ERROR\r\n"),
    ("delete\r\n", "ERROR\r\n"),
    ("incr a\r\n", "ERROR\r\n"),
    ("touch a\r\n", "ERROR\r\n"),
    ("noreply\r\n", "ERROR\r\n"),
    ("get noreply\r\n", "END\r\n"),
    // Line ends and spaces.
    ("set s 0 0 1\nx\r\n", "STORED\r\n"),
    ("get s\n", "VALUE s 0 1\r\nx\r\nEND\r\n"),
    ("  get   s  \r\n", "VALUE s 0 1\r\nx\r\nEND\r\n"),
    ("set  s   0 0 1  \r\ny\r\n", "STORED\r\n"),
    ("set s 0 0 1 noreply \r\nz\r\n", ""),
    ("get s s\r\n", "VALUE s 0 1\r\nz\r\nVALUE s 0 1\r\nz\r\nEND\r\n"),
    ("delete  s \n", "DELETED\r\n"),
    ("\n", "ERROR\r\n"),
];

#[test]
fn every_classic_command_answers_as_memcached_does() {
    let (_node, slipring) = one_node();
    let mut client = slipring.client();
    for (request, reply) in SESSION {
        client.ask(request, reply);
    }
    client.in_step();
    client.send("quit\r\n").expect_closed();
}

#[test]
fn every_classic_command_answers_the_same_over_three_nodes() {
    let (_nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    for (request, reply) in SESSION {
        client.ask(request, reply);
    }
    client.in_step();
}

#[test]
fn a_whole_session_may_be_pipelined() {
    let (_nodes, slipring) = three_nodes();
    let requests: String = SESSION.iter().map(|(request, _)| *request).collect();
    let replies: String = SESSION.iter().map(|(_, reply)| *reply).collect();
    let mut client = slipring.client();
    for _ in 0..20 {
        client.send(&requests);
    }
    for _ in 0..20 {
        client.expect(&replies);
    }
    client.in_step();
}

#[test]
fn a_session_may_be_split_at_every_byte() {
    let (_nodes, slipring) = three_nodes();
    let requests: String = SESSION.iter().map(|(request, _)| *request).collect();
    let replies: String = SESSION.iter().map(|(_, reply)| *reply).collect();
    // Byte by byte …
    let mut client = slipring.client();
    for byte in requests.as_bytes() {
        client.send([*byte]);
    }
    client.expect(&replies).in_step();
    // … and in two parts, cut at each place in turn. The answer to what is complete shows that the
    // first part has been taken by itself.
    let request = b"set k 0 0 5\r\nhello\r\nget k\r\n";
    for cut in 0..request.len() {
        client.send("mn\r\n").send(&request[..cut]);
        client.expect("MN\r\n");
        client.send(&request[cut..]);
        client.expect("STORED\r\nVALUE k 0 5\r\nhello\r\nEND\r\n");
    }
    client.in_step();
}

#[test]
fn gets_and_cas_agree_through_the_proxy() {
    let (_nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    for number in 0..50 {
        let key = format!("key{number}");
        client.set(&key, "old");
        client.send(format!("gets {key}\r\n"));
        let unique = client.values().unwrap()[0].cas.expect("gets gives a unique");
        client.ask(format!("cas {key} 0 0 3 {unique}\r\nnew\r\n"), "STORED\r\n");
        client.ask(format!("cas {key} 0 0 3 {unique}\r\nbad\r\n"), "EXISTS\r\n");
        client.ask(format!("get {key}\r\n"), format!("VALUE {key} 0 3\r\nnew\r\nEND\r\n"));
        client.send(format!("gats 100 {key}\r\n"));
        let again = client.values().unwrap()[0].cas.expect("gats gives a unique");
        assert_ne!(again, unique, "a write changes the unique");
    }
}

#[test]
fn a_half_closed_connection_gets_its_answers() {
    let (_node, slipring) = one_node();
    let mut client = slipring.client();
    client.send("set k 0 0 5\r\nhello\r\nget k\r\nversion\r\n").half_close();
    client.expect("STORED\r\nVALUE k 0 5\r\nhello\r\nEND\r\nVERSION 1.6.18\r\n");
    client.expect_closed();
    // The same, with more to say than one write takes.
    let value = vec![b'v'; 300_000];
    slipring.client().set("large", &value);
    let mut client = slipring.client();
    client.send("get large large large large\r\nmn\r\n").half_close();
    let values = client.values().unwrap();
    assert_eq!(values.len(), 4);
    assert!(values.iter().all(|found| found.data == value));
    client.expect("MN\r\n").expect_closed();
}

#[test]
fn quit_answers_what_came_before_it_and_nothing_after() {
    let (_node, slipring) = one_node();
    let mut client = slipring.client();
    client.send("set k 0 0 1\r\nx\r\nget k\r\nquit\r\nget k\r\n");
    client.expect("STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    client.expect_closed();
}

#[test]
fn a_multiget_of_ten_thousand_keys_over_three_nodes_ends_once() {
    let (nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    let mut sets = String::new();
    for number in 0..10_000 {
        sets += &format!("set multi:{number} {number} 0 5 noreply\r\n{number:05}\r\n");
    }
    client.send(&sets).in_step();
    let keys: Vec<String> = (0..10_000).map(|number| format!("multi:{number}")).collect();
    let line = format!("get {} absent\r\n", keys.join(" "));
    for _ in 0..3 {
        client.send(&line);
        let mut values = client.values().unwrap();
        assert_eq!(values.len(), 10_000);
        values.sort_by_key(|value| value.flags);
        for (number, value) in values.iter().enumerate() {
            assert_eq!(shown(&value.key), shown(keys[number].as_bytes()));
            assert_eq!(value.data, format!("{number:05}").as_bytes());
            assert_eq!(value.flags as usize, number);
        }
        client.in_step();
    }
    for node in &nodes {
        assert!(node.stat("curr_items") > 1_000, "each node holds its part");
    }
}

#[test]
fn a_key_mentioned_twice_is_answered_twice() {
    let (_nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    client.set("a", "1").set("b", "2").set("c", "3");
    let values = client.get(&["a", "b", "a", "none", "c", "a", "b", "none"]);
    let mut keys: Vec<&[u8]> = values.iter().map(|value| value.key.as_slice()).collect();
    keys.sort_unstable();
    assert_eq!(keys, [b"a", b"a", b"a", b"b", b"b", b"c"]);
    client.in_step();
}

#[test]
fn an_over_long_key_as_the_ten_thousandth_means_one_error_line_and_no_value() {
    let (_nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    client.set("a", "1");
    for verb in ["get", "gets"] {
        let line = format!("{verb} {}{}\r\n", "a ".repeat(9_999), "k".repeat(251));
        client.ask(line, "CLIENT_ERROR bad command line format\r\n");
        client.in_step();
    }
    let line = format!("gat 0 {}{}\r\n", "a ".repeat(500), "k".repeat(251));
    client.ask(line, "CLIENT_ERROR bad command line format\r\n");
    client.in_step();
}

#[test]
fn a_key_of_250_bytes_is_the_longest() {
    let (_node, slipring) = one_node();
    let mut client = slipring.client();
    let longest = "k".repeat(250);
    client.set(&longest, "x");
    assert_eq!(client.get(&[&longest]).len(), 1);
    let refused = "CLIENT_ERROR bad command line format\r\n";
    for line in ["get K\r\n", "delete K\r\n", "incr K 1\r\n", "touch K 1\r\n", "gat 1 K\r\n"] {
        client.ask(line.replace('K', &"k".repeat(251)), refused);
    }
    client.in_step();
}

#[test]
fn a_large_multiget_of_gat_touches_every_key() {
    let (_nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    let keys: Vec<String> = (0..150).map(|number| format!("key:{number:04}")).collect();
    for key in &keys {
        client.set(key, key);
    }
    client.send(format!("gat -1 {}\r\n", keys.join(" ")));
    assert_eq!(client.values().unwrap().len(), 150);
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(client.get(&names).len(), 0, "each of them has expired now");
    client.in_step();
}

#[test]
fn values_of_every_awkward_size_come_back_whole() {
    let (_node, slipring) = one_node();
    let mut client = slipring.client();
    for size in [0, 1, 2, 1023, 4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 262_144, 1_000_000] {
        let value: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
        client.set("k", &value);
        let found = client.get(&["k"]);
        assert!(found[0].data == value, "{size} bytes");
    }
    // Values that look like the protocol.
    for value in ["END\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n", "\r\n", "\r\n\r\n", "flush_all\r\n", "\0\n\r"] {
        client.set("k", value);
        assert_eq!(client.get(&["k"])[0].data, value.as_bytes());
    }
    client.in_step();
}

#[test]
fn an_object_too_large_for_its_node_is_refused_byte_for_byte_and_the_connection_lives() {
    let (node, slipring) = one_node();
    let mut client = slipring.client();
    // The largest value of a key of one byte with -I 1m, and one more (FACTS 2.2).
    for (size, reply) in [
        (1_048_516, "STORED\r\n"),
        (1_048_517, "SERVER_ERROR object too large for cache\r\n"),
        (1 << 20, "SERVER_ERROR object too large for cache\r\n"),
        ((1 << 20) + 1, "SERVER_ERROR object too large for cache\r\n"),
        (5 << 20, "SERVER_ERROR object too large for cache\r\n"),
    ] {
        let mut request = format!("set k 0 0 {size}\r\n").into_bytes();
        request.resize(request.len() + size, b'x');
        request.extend_from_slice(b"\r\n");
        client.ask(&request, reply);
        client.in_step();
    }
    assert!(client.get(&["k"]).is_empty(), "a refused set removes the old value");
    client.set("k", "again");
    assert_eq!(node.client().get(&["k"])[0].data, b"again");
}

#[test]
fn a_value_above_the_configured_maximum_is_refused_here() {
    let node = Memcached::with(&["-I", "8m"]);
    let slipring = Slipring::with(&[node.address()], &["--max-value", "2MiB"]);
    let mut client = slipring.client();
    client.set("k", vec![b'x'; 2 << 20]);
    for noreply in ["", " noreply"] {
        let mut request = format!("set other 0 0 {}{noreply}\r\n", (2 << 20) + 1).into_bytes();
        request.resize(request.len() + (2 << 20) + 1, b'x');
        request.extend_from_slice(b"\r\n");
        client.send(&request);
        if noreply.is_empty() {
            client.expect("SERVER_ERROR object too large for cache\r\n");
        }
        client.in_step();
    }
    assert!(node.client().get(&["other"]).is_empty());
    assert_eq!(client.get(&["k"])[0].data.len(), 2 << 20);
}
