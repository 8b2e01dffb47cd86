//! What can happen to the process of a node.
use crate::alone;
use crate::scenario::{flapping_time, outage_time, scenario};
use crate::support::{Link, Memcached};
use std::time::{Duration, Instant};

fn three() -> Vec<Memcached> {
    Link::Plain.nodes(3, &[])
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_that_stands_still() {
    stands_still("a node stopped with SIGSTOP", &Link::Plain);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_that_stands_still_over_tls_and_a_log_in() {
    stands_still("over TLS and a log-in, a node stopped with SIGSTOP", &Link::secured());
}

fn stands_still(name: &str, link: &Link) {
    let _alone = alone();
    scenario(name, link, link.nodes(3, &[]), 0b001, &[], |stand| {
        stand.each_sick(|node| node.stop());
        stand.last(outage_time());
        let returned = Instant::now();
        stand.each_sick(|node| node.go_on());
        returned
    });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_that_is_killed_and_restarted() {
    is_killed_and_restarted("a node killed with SIGKILL and restarted", &Link::Plain);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_that_is_killed_and_restarted_over_tls_and_a_log_in() {
    is_killed_and_restarted("over TLS and a log-in, a node killed with SIGKILL and restarted", &Link::secured());
}

fn is_killed_and_restarted(name: &str, link: &Link) {
    let _alone = alone();
    scenario(name, link, link.nodes(3, &[]), 0b010, &["--workers", "2"], |stand| {
        stand.each_sick(Memcached::kill);
        stand.last(outage_time());
        stand.wiped();
        let returned = Instant::now();
        stand.each_sick(Memcached::restart);
        returned
    });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn all_nodes_gone() {
    let _alone = alone();
    scenario("all nodes killed and restarted", &Link::Plain, three(), 0b111, &[], |stand| {
        stand.each_sick(Memcached::kill);
        stand.last(outage_time());
        stand.wiped();
        let returned = Instant::now();
        stand.each_sick(Memcached::restart);
        returned
    });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_that_is_killed_and_restarted_each_second() {
    let _alone = alone();
    scenario("a node killed and restarted each second", &Link::Plain, three(), 0b100, &[], |stand| {
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
#[cfg_attr(debug_assertions, ignore = "under full load: in a release build")]
fn a_node_that_stands_still_each_second() {
    let _alone = alone();
    scenario("a node stopped and let go each second", &Link::Plain, three(), 0b001, &["--workers", "2"], |stand| {
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
