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

/// The value of a series of `/metrics`, by its whole name with labels.
fn series(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find(|line| line.rsplit_once(' ').is_some_and(|(series, _)| series == name));
    let value = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).rsplit(' ').next().unwrap();
    value.parse::<f64>().unwrap_or_else(|_| panic!("{name} is {value}")) as u64
}

/// Of all series that begin so, the sum.
fn total(metrics: &str, begin: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with(begin)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap() as u64).sum()
}

#[test]
fn metrics_and_stats_agree_on_a_known_load() {
    let (_nodes, slipring, mut client) = filled();
    assert!(client.ask_line("incr key0 1\r\n").starts_with("CLIENT_ERROR"));
    for request in [
        "add key1 0 0 1\r\nx\r\n",
        "replace none 0 0 1\r\nx\r\n",
        "cas key2 0 0 1 999999\r\nx\r\n",
        "cas none 0 0 1 1\r\nx\r\n",
    ] {
        client.ask_line(request);
    }
    for request in [
        "delete key3\r\n",
        "delete key3\r\n",
        "touch key4 0\r\n",
        "touch none 0\r\n",
        "verbosity 1\r\n",
        "nonsense\r\n",
    ] {
        client.ask_line(request);
    }
    client.get(&["key5", "key6", "none", "key3"]);
    let stats = client.stats("stats");
    let metrics = slipring.admin("/metrics").1;
    let requests = |command: &str, outcome: &str| {
        series(&metrics, &format!("slipring_client_requests_total{{command=\"{command}\",outcome=\"{outcome}\"}}"))
    };
    for (name, command, outcome, expected) in [
        ("get_hits", "get", "hit", 32),
        ("get_misses", "get", "miss", 12),
        ("cas_badval", "cas", "exists", 1),
        ("cas_misses", "cas", "not_found", 1),
        ("delete_hits", "delete", "ok", 1),
        ("delete_misses", "delete", "not_found", 1),
        ("touch_hits", "touch", "ok", 1),
        ("touch_misses", "touch", "not_found", 1),
    ] {
        assert_eq!(number(&stats, name), expected, "{name}");
        assert_eq!(requests(command, outcome), expected, "{command} {outcome}");
    }
    assert_eq!(requests("set", "stored"), 30);
    assert_eq!(requests("add", "not_stored"), 1);
    assert_eq!(requests("replace", "not_stored"), 1);
    assert_eq!(requests("incr", "client_error"), 1);
    assert_eq!(requests("other", "ok"), 1);
    assert_eq!(requests("other", "client_error"), 1);
    assert_eq!(number(&stats, "cmd_set"), 34);
    assert_eq!(number(&stats, "cmd_get"), 44);
    assert_eq!(series(&metrics, "slipring_client_commands_total{command=\"get\"}"), 41);
    assert_eq!(series(&metrics, "slipring_client_multiget_keys_count"), 41);
    assert_eq!(series(&metrics, "slipring_client_multiget_keys_bucket{le=\"1\"}"), 40);
    assert_eq!(series(&metrics, "slipring_client_multiget_keys_bucket{le=\"5\"}"), 41);
    assert_eq!(series(&metrics, "slipring_client_connections"), number(&stats, "curr_connections"));
    // Every request has its time, and every key its node.
    assert_eq!(series(&metrics, "slipring_client_request_duration_seconds_count{command=\"get\"}"), 41);
    assert_eq!(series(&metrics, "slipring_client_request_duration_seconds_count{command=\"store\"}"), 34);
    assert_eq!(total(&metrics, "slipring_upstream_key_operations_total"), 44 + 34 + 1 + 2 + 2);
    assert_eq!(total(&metrics, "slipring_upstream_desyncs_total"), 0);
    assert_eq!(series(&metrics, "slipring_ring_nodes"), 3);
    client.in_step();
}

#[test]
fn durations_are_those_of_the_node() {
    use crate::support::{ScriptedNode, Step, honest};
    use std::time::Duration;
    let node = ScriptedNode::start(|request| {
        let mut steps = honest(request);
        if request.line.starts_with("delete") {
            steps.insert(0, Step::Pause(Duration::from_millis(60)));
        }
        steps
    });
    let slipring = Slipring::with(&[node.address()], &["--slow-request", "60s"]);
    let mut client = slipring.client();
    for _ in 0..5 {
        client.ask("delete k\r\n", "DELETED\r\n");
    }
    let metrics = slipring.admin("/metrics").1;
    let name = node.address().to_string();
    let bucket = |le: &str| {
        let name = format!("slipring_upstream_request_duration_seconds_bucket{{node=\"{name}\",le=\"{le}\"}}");
        series(&metrics, &name)
    };
    assert_eq!(bucket("0.05"), 0, "each took 60 ms");
    assert_eq!(bucket("+Inf"), 5);
    assert_eq!(series(&metrics, "slipring_client_request_duration_seconds_bucket{command=\"delete\",le=\"0.05\"}"), 0);
    assert_eq!(series(&metrics, "slipring_client_request_duration_seconds_count{command=\"delete\"}"), 5);
    assert_eq!(series(&metrics, "slipring_slow_requests_total"), 0, "the limit is 60 s");
}
