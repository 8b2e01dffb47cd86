//! `stats` in its forms.
use crate::support::{Memcached, Slipring, TextClient};
use crate::three_nodes;
use std::collections::BTreeMap;

fn number(stats: &BTreeMap<String, String>, name: &str) -> u64 {
    let value = stats.get(name).unwrap_or_else(|| panic!("no {name} in {stats:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}"))
}

fn filled() -> ([Memcached; 3], Slipring, TextClient) {
    let (nodes, slipring) = three_nodes();
    let mut client = slipring.client();
    for at in 0..30 {
        client.set(&format!("key{at}"), "value");
    }
    for at in 0..40 {
        client.get(&[&format!("key{at}")]);
    }
    (nodes, slipring, client)
}

fn sum(nodes: &[Memcached], name: &str) -> u64 {
    nodes.iter().map(|node| node.stat(name)).sum()
}

#[test]
fn stats_has_what_exporters_and_clients_need() {
    let (nodes, slipring, mut client) = filled();
    let stats = client.stats("stats");
    assert_eq!(number(&stats, "pid"), u64::from(slipring.pid()));
    assert_eq!(stats["version"], "1.6.18");
    assert!(number(&stats, "uptime") < 3_600);
    assert!(number(&stats, "time") > 1_700_000_000);
    assert_eq!(number(&stats, "curr_connections"), 1);
    assert!(number(&stats, "total_connections") >= 1);
    assert_eq!(number(&stats, "cmd_get"), 40);
    assert_eq!(number(&stats, "get_hits"), 30);
    assert_eq!(number(&stats, "get_misses"), 10);
    assert_eq!(number(&stats, "cmd_set"), 30);
    assert!(number(&stats, "bytes_read") > 30 * 20);
    assert!(number(&stats, "bytes_written") > 30 * 20);
    assert!(number(&stats, "threads") >= 1);
    assert_eq!(number(&stats, "curr_items"), 30);
    assert_eq!(number(&stats, "bytes"), sum(&nodes, "bytes"));
    assert_eq!(number(&stats, "limit_maxbytes"), 3 * (256 << 20));
    assert_eq!(number(&stats, "evictions"), 0);
    client.in_step();
}

#[test]
fn stats_keeps_answering_with_a_node_down() {
    let (mut nodes, slipring, mut client) = filled();
    let left = nodes[1].stat("curr_items") + nodes[2].stat("curr_items");
    nodes[0].kill();
    slipring.wait_for_states("down", 1);
    let stats = client.stats("stats");
    assert_eq!(number(&stats, "curr_items"), left);
    let stats = client.stats("stats nodes");
    let down = stats.iter().filter(|(_, value)| value.ends_with("down")).count();
    assert_eq!(down, 1, "{stats:?}");
    client.in_step();
}

#[test]
fn stats_nodes_says_how_each_node_is() {
    let (nodes, _slipring, mut client) = filled();
    let stats = client.stats("stats nodes");
    for node in &nodes {
        let name = node.address().to_string();
        let of_node = |field: &str| -> &str {
            let mut found = stats.iter().filter(|(stat, _)| stat.contains(&name) && stat.ends_with(field));
            let (_, value) = found.next().unwrap_or_else(|| panic!("no {field} of {name} in {stats:?}"));
            value
        };
        assert_eq!(of_node("state"), "up");
        for field in ["curr_items", "get_hits", "get_misses", "bytes"] {
            let wanted = node.stat(field);
            assert_eq!(of_node(field), wanted.to_string(), "{field} of {name}");
        }
    }
    client.in_step();
}

#[test]
fn stats_sum_adds_the_nodes_up() {
    let (nodes, _slipring, mut client) = filled();
    let stats = client.stats("stats sum");
    for name in ["curr_items", "cmd_set", "get_hits", "get_misses", "limit_maxbytes", "bytes"] {
        assert_eq!(number(&stats, name), sum(&nodes, name), "{name}");
    }
    client.in_step();
}

#[test]
fn stats_for_which_a_router_has_little_to_say_are_well_formed() {
    let (_nodes, _slipring, mut client) = filled();
    for command in ["stats items", "stats slabs", "stats settings"] {
        client.stats(command);
        client.in_step();
    }
    client.ask("stats nonsense\r\n", "ERROR\r\n");
    client.ask("stats noreply\r\n", "ERROR\r\n");
    client.in_step();
}

#[test]
fn stats_may_be_pipelined_with_other_requests() {
    let (_nodes, _slipring, mut client) = filled();
    client.send("get key1\r\nstats\r\nget key2\r\nstats sum\r\nmn\r\n");
    client.expect("VALUE key1 0 5\r\nvalue\r\nEND\r\n");
    let mut lines = 0;
    while client.line() != "END" {
        lines += 1;
    }
    assert!(lines > 10);
    client.expect("VALUE key2 0 5\r\nvalue\r\nEND\r\n");
    while client.line() != "END" {}
    client.expect("MN\r\n").in_step();
}
