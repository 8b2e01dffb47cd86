//! Values of 127 MiB from eight clients at once through one node, in a proxy that stays small.
//!
//! 128 MiB exactly is more than a node with `-I 128m` takes: the item's header and key count too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

mod support;

use std::time::Duration;
use support::{Link, Memcached, Random, Slipring, TextClient, eventually};

const CLIENTS: usize = 8;
const SIZE: usize = 127 << 20;
const PEAK_KIB: u64 = 32 << 10;

/// The bytes of a client's value repeat after this many: no power of two, so that a piece that is
/// lost, doubled or moved shows.
const PERIOD: usize = 65_521;

/// Two periods, so that a piece of up to one period can be compared wherever it begins.
fn pattern(client: usize) -> Vec<u8> {
    let mut random = Random::new(client as u64 + 1);
    let once: Vec<u8> = (0..PERIOD).map(|_| random.next() as u8).collect();
    [&once[..], &once[..]].concat()
}

fn send_value(client: &mut TextClient, pattern: &[u8], size: usize) {
    let mut done = 0;
    while done < size {
        let piece = PERIOD.min(size - done);
        let from = done % PERIOD;
        client.send(&pattern[from..from + piece]);
        done += piece;
    }
    client.send("\r\n");
}

fn read_value(client: &mut TextClient, pattern: &[u8], size: usize) {
    client.stream_through(size, |at, mut piece| {
        let mut at = at;
        while !piece.is_empty() {
            let from = at % PERIOD;
            let length = piece.len().min(PERIOD);
            assert!(piece[..length] == pattern[from..from + length], "the bytes from {at} on are not the value's");
            piece = &piece[length..];
            at += length;
        }
    });
    client.expect("\r\nEND\r\n");
}

#[test]
fn eight_clients_move_127_mib_values_through_one_node_and_the_proxy_stays_below_32_mib() {
    eight_clients_move_values(&Link::Plain, SIZE);
}

#[test]
fn over_tls_and_a_log_in_eight_clients_move_31_mib_values_and_the_proxy_stays_below_32_mib() {
    eight_clients_move_values(&Link::secured(), 31 << 20);
}

fn eight_clients_move_values(link: &Link, size: usize) {
    let node = link.node(&["-I", "128m", "-m", "2048"]);
    let slipring = link.slipring(&[node.address()], &["--max-value", "128MiB", "--connect-timeout", "10s"]);
    let mut bystander = slipring.client();
    bystander.set("small", "value");
    std::thread::scope(|scope| {
        let movers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut client = slipring.client();
                // Four move at a time; the others wait for them.
                client.set_patience(Duration::from_secs(300));
                scope.spawn(move || {
                    let pattern = pattern(number);
                    client.send(format!("set large{number} {number} 0 {size}\r\n"));
                    send_value(&mut client, &pattern, size);
                    client.expect("STORED\r\n");
                    client.send(format!("get large{number}\r\n"));
                    client.expect(format!("VALUE large{number} {number} {size}\r\n"));
                    read_value(&mut client, &pattern, size);
                    client.in_step();
                })
            })
            .collect();
        // Meanwhile small requests to the same node are served.
        let mut served = 0_u64;
        while movers.iter().any(|mover| !mover.is_finished()) {
            assert_eq!(bystander.get(&["small"])[0].data, b"value");
            served += 1;
        }
        println!("{served} small requests were served meanwhile");
        assert!(served > 0, "nobody else was served");
    });
    let peak = slipring.memory_kib("VmHWM");
    println!("the proxy's peak was {peak} KiB");
    assert!(peak < PEAK_KIB, "the proxy's peak was {peak} KiB");
}

#[test]
fn readers_of_one_large_value_at_different_speeds_all_get_it_whole() {
    readers_at_different_speeds(&Link::Plain);
}

#[test]
fn readers_at_different_speeds_get_it_whole_over_tls_and_a_log_in() {
    readers_at_different_speeds(&Link::secured());
}

fn readers_at_different_speeds(link: &Link) {
    let node = link.node(&["-I", "128m", "-m", "1024"]);
    let slipring = link.slipring(&[node.address()], &["--max-value", "128MiB", "--connect-timeout", "10s"]);
    let pattern = pattern(0);
    let mut writer = slipring.client();
    writer.send(format!("set large 0 0 {SIZE}\r\n"));
    send_value(&mut writer, &pattern, SIZE);
    writer.expect("STORED\r\n");
    let mut stalled = slipring.client();
    stalled.send("get large\r\n");
    // It has begun to get it, and now reads no further …
    stalled.expect(format!("VALUE large 0 {SIZE}\r\n"));
    // … while others read all of it, …
    for _ in 0..2 {
        let mut reader = slipring.client();
        reader.send("get large\r\n");
        reader.expect(format!("VALUE large 0 {SIZE}\r\n"));
        read_value(&mut reader, &pattern, SIZE);
        reader.set("small", "value").in_step();
    }
    // … and then it gets the rest.
    read_value(&mut stalled, &pattern, SIZE);
    stalled.in_step();
    let peak = slipring.memory_kib("VmHWM");
    assert!(peak < PEAK_KIB, "the proxy's peak was {peak} KiB");
}

/// What waited for its readers is given back when they have it, whatever was put into memory beside it meanwhile.
#[test]
fn memory_of_values_that_waited_is_given_back() {
    const READERS: usize = 16;
    const LARGE: usize = 8 << 20;
    let node = Memcached::with(&["-I", "16m", "-m", "1024"]);
    let slipring = Slipring::with(&[node.address()], &["--buffer-limit", "512MiB"]);
    let value = vec![b'v'; LARGE];
    let mut others: Vec<TextClient> = (0..READERS).map(|_| slipring.client()).collect();
    for (number, writer) in others.iter_mut().enumerate() {
        writer.send(format!("set large{number} 0 0 {LARGE}\r\n"));
        writer.send(&value);
        writer.send("\r\n");
        writer.expect("STORED\r\n");
    }
    let idle = slipring.memory_kib("VmRSS");
    let mut readers: Vec<TextClient> = (0..READERS).map(|_| slipring.client()).collect();
    for (number, reader) in readers.iter_mut().enumerate() {
        reader.send(format!("get large{number}\r\n"));
        reader.expect(format!("VALUE large{number} 0 {LARGE}\r\n"));
        // What is asked meanwhile takes memory between theirs.
        others[number].set("small", "value");
    }
    eventually("the values wait for their readers", || slipring.memory_kib("VmRSS") > idle + (64 << 10));
    for reader in &mut readers {
        let mut left = LARGE;
        reader.stream_through(LARGE, |_, piece| left -= piece.len());
        assert_eq!(left, 0);
        reader.expect("\r\nEND\r\n");
    }
    let most = idle + (8 << 10);
    eventually("their memory is given back", || slipring.memory_kib("VmRSS") < most);
    for client in &mut others {
        client.in_step();
    }
}
