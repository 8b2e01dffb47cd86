//! What can happen to the process of a node.
use crate::alone;
use crate::scenario::{flapping_time, outage_time, scenario};
use crate::support::Memcached;
use std::time::{Duration, Instant};

fn three() -> Vec<Memcached> {
    (0..3).map(|_| Memcached::start()).collect()
}

#[test]
fn a_node_that_stands_still() {
    let _alone = alone();
    scenario("a node stopped with SIGSTOP", three(), 0b001, &[], |stand| {
        stand.each_sick(|node| node.stop());
        stand.last(outage_time());
        let returned = Instant::now();
        stand.each_sick(|node| node.go_on());
        returned
    });
}

#[test]
fn a_node_that_is_killed_and_restarted() {
    let _alone = alone();
    scenario("a node killed with SIGKILL and restarted", three(), 0b010, &["--workers", "2"], |stand| {
        stand.each_sick(Memcached::kill);
        stand.last(outage_time());
        stand.wiped();
        let returned = Instant::now();
        stand.each_sick(Memcached::restart);
        returned
    });
}

#[test]
fn all_nodes_gone() {
    let _alone = alone();
    scenario("all nodes killed and restarted", three(), 0b111, &[], |stand| {
        stand.each_sick(Memcached::kill);
        stand.last(outage_time());
        stand.wiped();
        let returned = Instant::now();
        stand.each_sick(Memcached::restart);
        returned
    });
}

#[test]
fn a_node_that_is_killed_and_restarted_each_second() {
    let _alone = alone();
    scenario("a node killed and restarted each second", three(), 0b100, &[], |stand| {
        let until = Instant::now() + flapping_time();
        loop {
            stand.each_sick(Memcached::kill);
            stand.wait(Duration::from_secs(1));
            stand.wiped();
            let returned = Instant::now();
            stand.each_sick(Memcached::restart);
            if Instant::now() >= until {
                return returned;
            }
            stand.wait(Duration::from_secs(1));
        }
    });
}

#[test]
fn a_node_that_stands_still_each_second() {
    let _alone = alone();
    scenario("a node stopped and let go each second", three(), 0b001, &["--workers", "2"], |stand| {
        let until = Instant::now() + flapping_time();
        loop {
            stand.each_sick(|node| node.stop());
            stand.wait(Duration::from_secs(1));
            let returned = Instant::now();
            stand.each_sick(|node| node.go_on());
            if Instant::now() >= until {
                return returned;
            }
            stand.wait(Duration::from_secs(1));
        }
    });
}
