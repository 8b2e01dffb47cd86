"""What is shipped in deploy/monitoring, against a running sidecar and a real Prometheus."""

import json
import re
import subprocess

import pytest
import yaml
from processes import eventually
from stage import MARK, ROOT, SECOND, SHIPPED, TARGET, needs

PORT_NAME = "slipring-admin"

# Every metric with its labels, and what these may be; what is not here must not be in a scrape.
NODE = r"127\.0\.0\.1:\d+"
READS = "get gets gat gats"
COMMAND = f"{READS} set add replace append prepend cas delete incr decr touch mg ms md ma me flush_all stats"
METRICS = {
    "slipring_build_info": {"version": r"\d+\.\d+\.\d+\S*"},
    "slipring_client_connections": {},
    "slipring_client_connections_total": {},
    "slipring_client_connections_closed_total": {"reason": "done reset protocol not_reading body_stalled value_lost"},
    "slipring_client_connections_rejected_total": {},
    "slipring_client_connections_limit": {},
    "slipring_client_requests_total": {
        "command": COMMAND + " other",
        "outcome": "hit miss stored not_stored exists not_found ok client_error server_error soft_miss soft_error",
    },
    "slipring_client_commands_total": {"command": COMMAND + " other"},
    "slipring_client_protocol_commands_total": {"protocol": "text meta binary"},
    "slipring_client_multiget_keys": {},
    "slipring_client_request_duration_seconds": {"command": "get store delete arith touch other"},
    "slipring_client_received_bytes_total": {},
    "slipring_client_sent_bytes_total": {},
    "slipring_upstream_requests_total": {"node": NODE, "outcome": "ok error timeout lost"},
    "slipring_upstream_key_operations_total": {"node": NODE, "outcome": "hit miss other"},
    "slipring_upstream_request_duration_seconds": {"node": NODE},
    "slipring_upstream_queue_duration_seconds": {},
    "slipring_upstream_inflight_requests": {"node": NODE},
    "slipring_upstream_queued_bytes": {"node": NODE},
    "slipring_upstream_connections": {"node": NODE, "state": "connecting ready draining"},
    "slipring_upstream_connects_total": {"node": NODE, "result": "ok refused timeout"},
    "slipring_upstream_received_bytes_total": {"node": NODE},
    "slipring_upstream_sent_bytes_total": {"node": NODE},
    "slipring_upstream_timeouts_total": {"node": NODE},
    "slipring_upstream_desyncs_total": {"node": NODE},
    "slipring_node_state": {"node": NODE, "state": "up degraded connecting probing down"},
    "slipring_node_ejections_total": {"node": NODE, "reason": "timeout refused lost desync itself"},
    "slipring_node_probes_total": {"node": NODE, "result": "ok failed"},
    "slipring_node_ring_share_ratio": {"node": NODE},
    "slipring_ring_nodes": {},
    "slipring_ring_info": {"fingerprint": r"[0-9a-f]{8}", "version": r"\d+", "placement": "ring"},
    "slipring_ring_changes_total": {"reason": "added removed replaced edited"},
    "slipring_ring_last_change_timestamp_seconds": {},
    "slipring_ring_moved_keyspace_ratio": {},
    "slipring_discovery_polls_total": {
        "source": "list file endpoint dns srv",
        "result": "unchanged changed held rejected error",
    },
    "slipring_discovery_last_success_timestamp_seconds": {"source": "list file endpoint dns srv"},
    "slipring_discovery_pending_removals": {},
    "slipring_before_state": {"state": "none reading ending"},
    "slipring_before_moved_keyspace_ratio": {},
    "slipring_before_nodes": {},
    "slipring_before_reads_total": {"result": "hit miss error"},
    "slipring_before_writes_total": {"result": "ok lost"},
    "slipring_before_reads_ended_total": {
        "reason": "no_ring down connect lost timeout queue desync node_error memory flush_all",
    },
    "slipring_soft_failures_total": {
        "command": COMMAND,
        "reason": "no_ring down connect lost timeout queue desync node_error memory",
    },
    "slipring_retries_total": {},
    "slipring_get_groups_total": {},
    "slipring_get_group_keys_total": {},
    "slipring_merged_keys_total": {},
    "slipring_coalesced_keys_total": {},
    "slipring_discarded_replies_total": {},
    "slipring_buffer_bytes": {},
    "slipring_buffer_limit_bytes": {},
    "slipring_backpressure_waits_total": {"reason": "output lane bulk memory ring"},
    "slipring_slow_requests_total": {},
    "slipring_log_lines_dropped_total": {},
}
# With TLS these as well.
METRICS_OF_TLS = {
    "slipring_tls_handshakes_total": {
        "result": "ok certificate not_tls timeout closed refused failed",
        "kind": "full resumed none",
    },
    "slipring_tls_certificate_expiry_timestamp_seconds": {"owner": "node", "node": NODE},
    "slipring_tls_insecure": {},
}

ALERTS = SHIPPED / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((SHIPPED / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def promtool(*arguments, text=None):
    command = [needs("promtool", "prometheus"), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions():
    """Every expression that is shipped, by where it is."""
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)
    yield from ((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"])
    yield from ((item["label"], query) for item, query in choices())


def choices():
    """The variables of the dashboard that are asked from Prometheus, and their queries."""
    items = DASHBOARD["templating"]["list"]
    return [(item, item["query"]["query"]) for item in items if item["type"] == "query"]


def samples(scrape):
    """Metric and labels of each line. A part of a histogram counts as the histogram."""
    for line in scrape.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""))
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            if f"# TYPE {family} histogram" in scrape:
                labels.pop("le", None)
                name = family
            yield name, labels


# The scrape.


def test_the_targets_are_up(scene):
    targets = scene.prometheus.ask("targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 2
    up = scene.prometheus.query("min_over_time(up[5m])")
    assert {labels["pod"]: value for labels, value in up} == {TARGET["pod"]: 1, SECOND: 1}


def test_the_scrape_is_clean(scene):
    assert promtool("check", "metrics", text=scene.scrape()) == ""


def check_scrape(scrape, agreed, nodes):
    """All that is in it is agreed; gives the names that are in it."""
    seen = set()
    for name, labels in samples(scrape):
        if name.startswith("process_"):
            assert labels == {}, name
            continue
        assert name in agreed, f"{name} is not agreed"
        assert labels.keys() == agreed[name].keys(), name
        for label, value in labels.items():
            allowed = agreed[name][label]
            assert value in allowed.split() or re.fullmatch(allowed, value), f"{name}: {label}={value}"
            assert label != "node" or value in nodes, f"{name}: {value} is no node"
        seen.add(name)
    return seen


def test_the_scrape_holds_what_is_agreed_and_nothing_else(scene):
    assert check_scrape(scene.scrape(), METRICS, scene.nodes) == METRICS.keys()


def test_with_tls_the_scrape_holds_more(secured):
    assert check_scrape(secured.scrape(), METRICS | METRICS_OF_TLS, secured.nodes) >= METRICS_OF_TLS.keys()
    assert promtool("check", "metrics", text=secured.scrape()) == ""


def test_no_key_is_in_the_scrape(scene):
    assert MARK not in scene.scrape()


# The alerts.


def test_the_rules_are_valid():
    promtool("check", "rules", str(ALERTS))


def test_the_rules_fire_and_stay_silent():
    promtool("test", "rules", str(SHIPPED / "alerts.test.yaml"))


def test_each_rule_is_tested_both_ways():
    cases = yaml.safe_load((SHIPPED / "alerts.test.yaml").read_text())["tests"]
    for rule in RULES:
        own = [case for case in cases if case["name"].startswith(rule["alert"] + " ")]
        fires = [any(check.get("exp_alerts") for check in case["alert_rule_test"]) for case in own]
        assert set(fires) == {True, False}, rule["alert"]
        assert all(check["alertname"] == rule["alert"] for case in own for check in case["alert_rule_test"])


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_says_what_to_do(rule):
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert f"`{rule['alert']}`" in (ROOT / "deploy" / "monitoring" / "README.md").read_text()


def test_prometheus_evaluates_the_rules(scene):
    (group,) = scene.prometheus.ask("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in RULES]
    assert [(rule["health"], rule.get("lastError")) for rule in group["rules"]] == [("ok", None)] * len(RULES)


def test_alerts_tell_what_is_wrong_and_nothing_else(scene):
    maybe = {"SlipringNodeSlow"}  # on a busy machine any node may be slow for a moment
    assert scene.alerts_when_well.keys() <= maybe
    alerts = scene.prometheus.alerts()
    sure = {"SlipringRingsDiffer", "SlipringNodeDown", "SlipringSoftFailures", "SlipringDesync"}
    assert sure <= alerts.keys() <= sure | maybe
    down = {alert["node"] for alert in alerts["SlipringNodeDown"]}
    assert scene.lost in down and down <= {scene.lost, scene.liar}
    (desync,) = alerts["SlipringDesync"]
    assert (desync["node"], desync["is"]) == (scene.liar, "firing")
    (failures,) = alerts["SlipringSoftFailures"]
    assert failures["job"] == TARGET["job"]
    (differ,) = alerts["SlipringRingsDiffer"]
    assert differ["namespace"] == TARGET["namespace"]


def test_a_certificate_that_expires_within_a_week_is_told(secured):
    eventually("there is the alert", lambda: "SlipringCertificateExpires" in secured.prometheus.alerts(), 0.2)
    (expires,) = secured.prometheus.alerts()["SlipringCertificateExpires"]
    # Of the two nodes the one with three days; the alert is told when it has lasted for a while.
    about = {"node": secured.nodes[0], "owner": "node", "namespace": TARGET["namespace"], "job": TARGET["job"]}
    assert about.items() <= expires.items() and expires["is"] == "pending"


# The dashboard.


def test_the_dashboard_is_sound():
    names = {item["name"] for item in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "namespace", "job", "pod"}
    assert [item["type"] for item in DASHBOARD["templating"]["list"]].count("datasource") == 1
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, f"{panel['title']} overlaps"
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@pytest.mark.parametrize("choice", ["all", "one"])
@pytest.mark.parametrize("panel", PANELS, ids=[f"{panel['id']}: {panel['title']}" for panel in PANELS])
def test_a_panel_has_data(scene, panel, choice):
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", "10s")
        for name, value in TARGET.items():
            expression = expression.replace(f"${name}", ".*" if choice == "all" else value)
        assert "$" not in expression, expression
        assert scene.prometheus.query(expression), expression


def test_the_choices_of_the_dashboard_have_values(scene):
    for item, query in choices():
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        assert label == item["name"]
        selector = re.sub(r"\$\w+", ".*", selector)
        values = scene.prometheus.ask(f"label/{label}/values", **{"match[]": selector})
        assert values == [TARGET[label]] + ([SECOND] if label == "pod" else [])


def test_the_metrics_tell_what_happened(scene):
    def query(expression):
        return [labels for labels, _ in scene.prometheus.query(expression) if labels.get("pod", TARGET["pod"]) == TARGET["pod"]]

    assert query(f'slipring_node_state{{node="{scene.lost}", state="down"}} == 1')
    assert query(f'slipring_node_state{{node="{scene.added}", state="up"}} == 1')
    assert query(f'slipring_upstream_timeouts_total{{node="{scene.lost}"}} > 0')
    assert query(f'sum(slipring_node_ejections_total{{node="{scene.lost}"}}) > 0')
    assert query('sum(slipring_soft_failures_total{reason="down"}) > 0')
    assert query('sum(slipring_client_requests_total{outcome="soft_miss"}) > 0')
    assert query('sum(slipring_client_requests_total{outcome="soft_error"}) > 0')
    assert query(f'slipring_upstream_desyncs_total{{node="{scene.liar}"}} > 0')
    assert query('slipring_ring_nodes == 5 and on () sum(slipring_ring_changes_total) > 0')
    assert query("slipring_ring_moved_keyspace_ratio > 0.3 < 0.5")


# Names, manifests and README.


def test_every_metric_that_is_named_is_in_a_scrape(scene, secured):
    present = {name for name, _ in samples(scene.scrape() + secured.scrape())}
    for where, expression in expressions():
        for name in re.findall(r"\b(?:slipring|process)_\w+", expression):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in present or family in present, f"{where}: {name}"


@pytest.mark.parametrize(
    ("file", "kind", "endpoints"),
    [
        ("podmonitor.yaml", "monitoring.coreos.com/v1 PodMonitor", "podMetricsEndpoints"),
        ("podmonitoring-gke.yaml", "monitoring.googleapis.com/v1 PodMonitoring", "endpoints"),
    ],
)
def test_a_manifest_scrapes_by_the_name_of_the_port(file, kind, endpoints):
    (manifest,) = yaml.safe_load_all((SHIPPED / file).read_text())
    assert f"{manifest['apiVersion']} {manifest['kind']}" == kind
    (endpoint,) = manifest["spec"][endpoints]
    assert endpoint == {"port": PORT_NAME, "path": "/metrics", "interval": "15s"}
    assert manifest["spec"]["selector"] == {}
    assert len(PORT_NAME) <= 15, "Kubernetes takes no longer name of a port"


def test_the_commands_of_the_readme_wrap_the_rules():
    section = (ROOT / "deploy" / "monitoring" / "README.md").read_text()
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", section, re.S) if "alerts.yaml" in block]
    script = "kubectl() { cat; echo; echo ---; }\n" + commands
    done = subprocess.run(["sh", "-ec", script], cwd=ROOT, capture_output=True, text=True, check=True)
    wrapped = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    assert [(manifest["apiVersion"], manifest["kind"]) for manifest in wrapped] == [
        ("monitoring.coreos.com/v1", "PrometheusRule"),
        ("monitoring.googleapis.com/v1", "Rules"),
    ]
    for manifest in wrapped:
        assert manifest["spec"] == yaml.safe_load(ALERTS.read_text())
