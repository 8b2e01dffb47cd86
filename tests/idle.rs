//! A sidecar that has nothing to do does nothing: no thread of it runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "test code: a panic is how it says no, and real processes need a real clock"
)]

mod support;

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use support::{Memcached, Slipring, TextClient, eventually};

/// How often each thread was taken off a CPU, by its own wish or not. A thread that ran at all in between has a higher
/// count.
fn switches(pid: u32) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut found: Vec<(String, u64)> = tasks
        .map(|task| {
            let path = task.unwrap().path();
            let status = fs::read_to_string(path.join("status")).unwrap();
            let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
            let name = fs::read_to_string(path.join("comm")).unwrap();
            let sum = counts.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum();
            (format!("{} {}", path.file_name().unwrap().display(), name.trim()), sum)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_sidecar_with_nothing_to_do_is_not_woken() {
    let nodes = [Memcached::start(), Memcached::start(), Memcached::start()];
    // The end of that is the last that the start wakes it for.
    let slipring =
        Slipring::with(&nodes.each_ref().map(Memcached::address), &["--ready-timeout", "1s", "--workers", "2"]);
    let mut clients: Vec<TextClient> = (0..10).map(|_| slipring.client()).collect();
    for client in &mut clients {
        client.send("set key 0 0 5\r\nvalue\r\nget key\r\n").expect("STORED\r\nVALUE key 0 5\r\nvalue\r\nEND\r\n");
    }
    sleep(Duration::from_secs(3));
    let mut before = switches(slipring.pid());
    eventually("all that the start and the clients began is done", || {
        sleep(Duration::from_secs(2));
        let now = switches(slipring.pid());
        let calm = now == before;
        before = now;
        calm
    });
    sleep(Duration::from_secs(10));
    assert_eq!(switches(slipring.pid()), before, "somebody was woken in ten seconds of nothing to do");
    // It is idle, not dead, and what it does then is seen.
    clients[0].send("get key\r\n").expect("VALUE key 0 5\r\nvalue\r\nEND\r\n");
    assert_ne!(switches(slipring.pid()), before, "a get wakes a worker");
}
