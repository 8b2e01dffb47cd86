//! The log when nobody reads it: a container's log pipe while the runtime or the disk behind it hangs.
use crate::sockets::Directory;
use crate::support::{Memcached, Slipring, eventually};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};

/// A pipe that is full, and the end that nobody reads yet.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    // The last bytes one by one: it is full only when not even one fits.
    for piece in [&[b'-'; 4096][..], b"-"] {
        loop {
            match writer.write(piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    // Who has the other handle waits.
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_data_nor_control_nor_the_end() {
    let (mut unread, stderr) = full_pipe();
    let mut node = Memcached::start();
    let nodes = node.address().to_string();
    let arguments = ["serve", "--nodes", &nodes, "--log-level", "debug", "--drain-timeout-on-exit", "0s"];
    let mut slipring = Slipring::logging_to(stderr, &arguments);
    slipring.wait_for_states("up", 1);
    let mut early = slipring.client();
    early.set("k", "v");
    // The worker has something to say, and the control thread.
    node.kill();
    slipring.wait_for_states("down", 1);
    early.ask("get k\r\n", "END\r\n").in_step();
    node.restart();
    slipring.wait_for_states("up", 1);
    let pid = Pid::from_raw(slipring.pid().try_into().unwrap()).unwrap();
    eventually("lines are lost, and counted", || {
        kill_process(pid, Signal::HUP).unwrap();
        let (status, metrics) = slipring.admin("/metrics");
        let dropped = metrics.lines().find_map(|line| line.strip_prefix("slipring_log_lines_dropped_total "));
        status == 200 && dropped.is_some_and(|dropped| dropped != "0")
    });
    assert_eq!(slipring.admin("/healthz").0, 200);
    early.set("k", "w").in_step();
    let mut late = slipring.client();
    assert_eq!(late.get(&["k"])[0].data, b"w");
    slipring.signal("TERM");
    assert_eq!(slipring.wait_for_end().code(), Some(0));
    // It was never read before its end.
    let mut first = [0; 4096];
    unread.read_exact(&mut first).unwrap();
    assert_eq!(first, [b'-'; 4096]);
}

#[test]
fn what_it_said_last_is_read_where_somebody_reads() {
    let (mut read, stderr) = std::io::pipe().unwrap();
    let node = Memcached::start();
    let mut slipring = Slipring::logging_to(stderr, &["serve", "--nodes", &node.address().to_string()]);
    slipring.signal("INT");
    assert_eq!(slipring.wait_for_end().code(), Some(0));
    let mut log = String::new();
    read.read_to_string(&mut log).unwrap();
    assert!(log.contains("serving") && log.trim_end().ends_with("ended"), "{log}");
}

#[test]
fn a_nodes_file_that_cannot_be_read_is_told_as_having_no_node_and_with_nodes_as_changing_nothing() {
    let node = Memcached::start();
    let list = Directory::new();
    let path = list.0.join("nodes");
    let slipring = Slipring::command(&["serve", "--nodes-file", &path.display().to_string()], &[]);
    slipring.wait_for_output(&format!(
        "there is no node: file {}: cannot be read: No such file or directory\n",
        path.display()
    ));
    fs::write(&path, node.address().to_string()).unwrap();
    slipring.wait_for_states("up", 1);
    fs::remove_file(&path).unwrap();
    slipring.wait_for_output("the source of nodes failed; the ring stays as it is");
    eventually("/ring says why", || slipring.admin("/ring").1.contains("cannot be read: "));
    slipring.client().set("k", "v");
}
