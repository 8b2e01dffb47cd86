//! `stats` in its forms.
use crate::support::{Memcached, ScriptedNode, Slipring, Step, TextClient, honest};
use crate::three_nodes_with;
use std::collections::BTreeMap;

fn number(stats: &BTreeMap<String, String>, name: &str) -> u64 {
    let value = stats.get(name).unwrap_or_else(|| panic!("no {name} in {stats:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}"))
}

fn filled() -> ([Memcached; 3], Slipring, TextClient) {
    filled_with(&[])
}

fn filled_with(arguments: &[&str]) -> ([Memcached; 3], Slipring, TextClient) {
    let (nodes, slipring) = three_nodes_with(arguments);
    let mut client = slipring.client();
    for at in 0..30 {
        client.set(&format!("key{at}"), "value");
    }
    for at in 0..40 {
        client.get(&[&format!("key{at}")]);
    }
    crate::support::eventually("who looked whether it accepts has gone", || {
        slipring.admin("/metrics").1.contains("\nslipring_client_connections 1\n")
    });
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

/// What prometheus/memcached_exporter 0.16 reads of `stats`; a name that is not there is a series that is not there. Those
/// of extstore are told by nodes that have it.
const EXPORTER: &str = "version uptime time get_hits get_misses delete_hits delete_misses incr_hits incr_misses \
    decr_hits decr_misses cas_hits cas_misses cas_badval touch_hits touch_misses cmd_flush cmd_set \
    proxy_conn_requests proxy_conn_errors proxy_conn_oom proxy_req_active proxy_config_reloads \
    proxy_config_reload_fails proxy_backend_total proxy_backend_marked_bad proxy_backend_failed \
    rusage_user rusage_system bytes limit_maxbytes curr_items total_items bytes_read bytes_written curr_connections \
    total_connections rejected_connections conn_yields listen_disabled_num evictions reclaimed store_too_large \
    store_no_memory lru_crawler_starts direct_reclaims crawler_items_checked crawler_reclaimed moves_to_cold \
    moves_to_warm moves_within_lru accepting_conns";

/// The same of `stats settings`.
const EXPORTER_SETTINGS: &str = "maxconns lru_crawler lru_crawler_sleep lru_crawler_tocrawl lru_maintainer_thread \
    hot_lru_pct warm_lru_pct hot_max_factor warm_max_factor";

/// What collectd's plugin reads of `stats`.
const COLLECTD: &str = "rusage_user rusage_system threads curr_items bytes limit_maxbytes curr_connections \
    listen_disabled_num cmd_get cmd_set cmd_flush cmd_touch incr_misses incr_hits decr_misses decr_hits get_hits \
    get_misses evictions delete_hits delete_misses bytes_read bytes_written";

#[test]
fn nothing_that_stock_collectors_read_is_missing() {
    let (nodes, _slipring, mut client) = filled();
    let (stats, settings) = (client.stats("stats"), client.stats("stats settings"));
    let names = |list: &'static str| list.split_whitespace();
    for name in names(EXPORTER).chain(names(COLLECTD)) {
        let value = stats.get(name).unwrap_or_else(|| panic!("no {name} in {stats:?}"));
        assert!(name == "version" || value.parse::<f64>().is_ok(), "{name} is {value:?}");
    }
    // Two whole numbers, as of seconds and microseconds.
    assert_eq!(stats["rusage_user"].split('.').count(), 2);
    for name in names(EXPORTER_SETTINGS) {
        assert!(settings.contains_key(name), "no {name} in {settings:?}");
    }
    assert_eq!(settings["lru_crawler"], "yes", "else the exporter reads none of it");
    // The memory of the nodes is for the nodes to tell.
    for name in ["lru_crawler_starts", "crawler_items_checked", "moves_to_cold", "moves_within_lru"] {
        assert!(number(&stats, name) <= sum(&nodes, name), "{name}");
    }
    client.stats("stats items");
    assert!(client.stats("stats slabs").contains_key("total_malloced"));
    // What memcached tells and a router can is there, too.
    let theirs: BTreeMap<String, String> = nodes[0].client().stats("stats");
    for name in
        theirs.keys().filter(|name| ["cmd_", "get_", "conn", "touch_", "cas_"].iter().any(|p| name.starts_with(p)))
    {
        assert!(stats.contains_key(name), "no {name}");
    }
}

#[test]
fn the_figures_of_a_proxy_are_in_the_names_of_memcacheds() {
    // Each worker marks a node, and in its own time.
    let (mut nodes, slipring, mut client) = filled_with(&["--workers", "1"]);
    let stats = client.stats("stats");
    assert_eq!(number(&stats, "proxy_conn_requests"), 30 + 40 + 1);
    assert_eq!(number(&stats, "proxy_backend_total"), 3);
    for name in ["proxy_backend_failed", "proxy_backend_marked_bad", "proxy_conn_errors", "proxy_config_reloads"] {
        assert_eq!(number(&stats, name), 0, "{name}");
    }
    nodes[0].kill();
    slipring.wait_for_states("down", 1);
    for at in 0..30 {
        client.ask_line(format!("delete key{at}\r\n"));
    }
    let stats = client.stats("stats");
    assert_eq!(number(&stats, "proxy_backend_failed"), 1);
    assert_eq!(number(&stats, "proxy_backend_marked_bad"), 1);
    let errors = number(&stats, "proxy_conn_errors");
    assert!(errors > 0 && errors < 30, "{errors} deletes were for the node that is down");
}

#[test]
fn stats_reset_resets_what_stats_tells_and_the_nodes() {
    let (nodes, slipring, mut client) = filled();
    client.ask("incr none 1\r\ntouch none 0\r\n", "NOT_FOUND\r\nNOT_FOUND\r\n");
    let before = client.stats("stats");
    let metrics = slipring.admin("/metrics").1;
    client.ask("stats reset\r\n", "RESET\r\n");
    let after = client.stats("stats");
    // As of memcached: what is now stays, what was counted is gone. Requests may be active that no client has sent: a
    // connection of another worker that is asked for its version.
    let stays = "pid uptime time version pointer_size rusage_user rusage_system max_connections curr_connections \
        connection_structures limit_maxbytes accepting_conns threads bytes curr_items proxy_req_active \
        proxy_backend_total proxy_backend_failed";
    for (name, value) in &before {
        if stays.split_whitespace().any(|stays| stays == name) {
            assert!(
                ["uptime", "time", "proxy_req_active"].contains(&&**name)
                    || name.starts_with("rusage")
                    || after[name] == *value,
                "{name}"
            );
        } else if ["bytes_read", "bytes_written", "proxy_conn_requests"].contains(&&**name) {
            assert!(number(&after, name) < 20, "{name} is {}: those of two requests", after[name]);
        } else {
            assert_eq!(after[name], "0", "{name}");
        }
    }
    assert_eq!(sum(&nodes, "cmd_set"), 0);
    client.get(&["key1", "none"]);
    let again = client.stats("stats");
    assert_eq!(
        ["cmd_get", "get_hits", "get_misses", "cmd_set"].map(|name| number(&again, name)),
        [2, 1, 1, 0],
        "it counts on"
    );
    // For Prometheus nothing went back.
    let name = "slipring_client_requests_total{command=\"set\",outcome=\"stored\"}";
    assert_eq!((series(&metrics, name), series(&slipring.admin("/metrics").1, name)), (30, 30));
    // Any worker tells the same.
    assert_eq!(number(&slipring.client().stats("stats"), "cmd_set"), 0);
    client.in_step();
}

#[test]
fn values_that_are_too_large_are_counted_wherever_they_are_refused() {
    let node = Memcached::start();
    let slipring = Slipring::with(&[node.address()], &["--max-value", "4MiB"]);
    let mut client = slipring.client();
    let refused = "SERVER_ERROR object too large for cache\r\n";
    // The node's word: stored here first, and streamed. Then our own.
    for size in [1 << 20, 2 << 20, 5 << 20] {
        let value = "x".repeat(size);
        client.ask(format!("set k 0 0 {size}\r\n{value}\r\n"), refused);
        client.send(format!("add k 0 0 {size} noreply\r\n{value}\r\n")).in_step();
    }
    let mut counted = 0;
    crate::support::eventually("all are counted", || {
        counted = number(&client.stats("stats"), "store_too_large");
        counted >= 6
    });
    assert_eq!(counted, 6);
}

#[test]
fn a_client_that_sends_much_lets_others_have_their_turn_and_that_is_counted() {
    let (_nodes, slipring, mut client) = filled();
    assert_eq!(number(&client.stats("stats"), "conn_yields"), 0);
    let value = vec![b'x'; 900_000];
    crate::support::eventually("more came at once than is read at once", || {
        // While it stands still more comes than it reads at once, however slow the sender is.
        slipring.signal("STOP");
        std::thread::scope(|scope| {
            scope.spawn(|| client.set("k", &value));
            std::thread::sleep(std::time::Duration::from_millis(100));
            slipring.signal("CONT");
        });
        number(&slipring.client().stats("stats"), "conn_yields") > 0
    });
}

#[test]
fn stats_conns_tells_who_is_connected() {
    let (_nodes, slipring, client) = filled();
    let mut asks = slipring.client();
    let mut half = slipring.client();
    half.send("set k 0 0 5\r\nab");
    let peer = |client: &TextClient| format!("tcp:{}", client.stream().local_addr().unwrap().as_socket().unwrap());
    let of = |stats: &BTreeMap<String, String>, client: &TextClient| {
        let (name, _) = stats.iter().find(|(name, value)| name.ends_with(":addr") && **value == peer(client))?;
        let of = |field: &str| stats[&name.replace(":addr", field)].clone();
        assert_eq!(of(":listen_addr"), format!("tcp:{}", slipring.address()));
        assert!(of(":secs_since_last_cmd").parse::<u64>().unwrap() < 60);
        Some(of(":state"))
    };
    crate::support::eventually("each is told in its state", || {
        let stats = asks.stats("stats conns");
        assert_eq!(stats.len() % 4, 0, "{stats:?}");
        let states = [&asks, &client, &half].map(|client| of(&stats, client).unwrap_or_default());
        states == ["conn_parse_cmd", "conn_read", "conn_nread"]
    });
    asks.in_step();
    drop(half);
    crate::support::eventually("who has gone is not told", || asks.stats("stats conns").len() == 8);
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
    let causes = stats.iter().filter(|(name, value)| name.ends_with(".cause") && !value.is_empty()).count();
    assert_eq!(causes, 1, "{stats:?}");
    client.in_step();
}

#[test]
fn stats_nodes_says_why_it_has_nothing_of_a_node() {
    let silent = ScriptedNode::start(|request| match request.line.as_str() {
        "stats" => vec![Step::Hold],
        _ => honest(request),
    });
    let closes = ScriptedNode::start(|request| match request.line.as_str() {
        "stats" => vec![Step::Close],
        _ => honest(request),
    });
    let clock = ["--workers", "1", "--request-timeout", "500ms"];
    for (node, cause) in [(&silent, "no answer to a request for 500 ms"), (&closes, "closed the connection")] {
        let slipring = Slipring::with(&[node.address()], &clock);
        let stats = slipring.client().stats("stats nodes");
        let of = |field: &str| stats[&format!("{}.{field}", node.address())].as_str();
        assert_eq!((of("state"), of("cause")), ("down", cause));
    }
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
