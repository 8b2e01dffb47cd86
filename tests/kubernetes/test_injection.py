"""deploy/inject in force on a real API server. A pod is created in a namespace that is left alone, and where it asks
for the sidecar: what is stored must differ by exactly what is said here."""

import contextlib
import copy
import os
import pathlib
import re

import pytest
import yaml

from cluster import Refused
from manifests import DEPLOY, EXPECTED, containers, pod_of
from processes import eventually

APPS = pathlib.Path(__file__).parent / "apps"
LABEL = {"slipring/inject": "true"}
LOCALHOST = [
    {"name": "MEMCACHED_NODES", "value": "localhost"},
    {"name": "MEMCACHED_PORT", "value": "11211"},
    {"name": "MEMCACHED_DISCOVERY_HOST", "value": "localhost"},
]
FILE = {"name": "MEMCACHED_NODES_FILE", "value": "/etc/slipring"}


def placement(config_map="memcached-config"):
    key = {"name": config_map, "key": "SLIPRING_PLACEMENT", "optional": True}
    return {"name": "SLIPRING_PLACEMENT", "valueFrom": {"configMapKeyRef": key}}


DRAIN = {"name": "SLIPRING_DRAIN_TIMEOUT_ON_EXIT", "value": "0s"}


def field(name, path):
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


WHO = [
    field("POD_NAMESPACE", "metadata.namespace"),
    field("POD_NAME", "metadata.name"),
    {"name": "SLIPRING_INSTANCE", "value": "$(POD_NAMESPACE)/$(POD_NAME)"},
]
MOUNT = {"name": "slipring-config", "mountPath": "/etc/slipring"}
SCRAPE = {"prometheus.io/scrape": "true", "prometheus.io/port": "9150", "prometheus.io/path": "/metrics"}
TLS = {"name": "SLIPRING_NODE_TLS", "value": "true"}


def secret(volume, name, *keys):
    """The volume of a Secret: of these keys alone, closed to others unless it is that of an authority."""
    items = [{"key": key, "path": key} for key in keys]
    mode = 0o444 if volume == "slipring-ca" else 0o440
    return {"name": volume, "secret": {"defaultMode": mode, "items": items, "secretName": name}}


def mounted(volume):
    return {"name": volume, "mountPath": f"/etc/{volume}", "readOnly": True}


def file(variable, path):
    return {"name": variable, "value": f"/etc/slipring-{path}"}


AUTHORITY = file("SLIPRING_NODE_TLS_CA", "ca/ca.crt")
CERTIFICATE = [
    file("SLIPRING_NODE_TLS_CERT", "certificate/tls.crt"),
    file("SLIPRING_NODE_TLS_KEY", "certificate/tls.key"),
]
LOGIN = file("SLIPRING_NODE_AUTH_FILE", "auth/auth")
SHAPES = yaml.safe_load(
    """
bare:
  containers: [{name: app, image: app}]
many containers:
  containers: [{name: app, image: app}, {name: second, image: app}, {name: third, image: app}]
init containers:
  initContainers: [{name: migrate, image: app}, {name: other-sidecar, image: app, restartPolicy: Always}]
  containers: [{name: app, image: app}]
environment:
  initContainers:
    - {name: warm, image: app, envFrom: [{configMapRef: {name: memcached-config}}]}
  containers:
    - name: app
      image: app
      env:
        - {name: BEFORE, value: "1"}
        - {name: MEMCACHED_NODES, valueFrom: {configMapKeyRef: {name: memcached-config, key: MEMCACHED_NODES}}}
        - {name: MEMCACHED_PORT, value: "11212"}
        - {name: AFTER, value: $(MEMCACHED_NODES)}
    - {name: second, image: app, env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}
volumes:
  containers: [{name: app, image: app, volumeMounts: [{name: tmp, mountPath: /tmp}]}]
  volumes: [{name: tmp, emptyDir: {}}]
a volume of our name:
  containers: [{name: app, image: app}]
  volumes: [{name: slipring-config, configMap: {name: of-the-app}}]
much besides:
  serviceAccountName: someone
  hostAliases: [{ip: 10.1.2.3, hostnames: [db]}]
  nodeSelector: {disk: fast}
  os: {name: linux}
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 90
  tolerations: [{operator: Exists}]
  containers:
    - name: app
      image: app
      ports: [{containerPort: 8080, name: http}]
      readinessProbe: {httpGet: {path: /health, port: http}}
      resources: {requests: {cpu: 100m, memory: 128Mi}, limits: {cpu: 500m, memory: 256Mi}}
"""
)
ASKS = {"by the namespace": ("labelled", {}), "by a label": ("plain", LABEL), "by both": ("labelled", LABEL)}


@pytest.fixture
def pods(cluster):
    class Pods:
        """Creates pods, each under a name of its own."""

        def create(self, namespace, spec, labels=None, annotations=None):
            metadata = {"generateName": "pod-"}
            if labels:
                metadata["labels"] = labels
            if annotations:
                metadata["annotations"] = annotations
            return cluster.create(namespace, {"metadata": metadata, "spec": copy.deepcopy(spec)})

        @staticmethod
        def sidecar(env=(FILE, placement(), DRAIN, *WHO), mounts=True, resources=None):
            """The sidecar of the template, as it is stored in the cluster, with these settings."""
            template = cluster.ask("GET", "/api/v1/namespaces/slipring-inject/podtemplates/slipring")["template"]
            (made,) = template["spec"]["initContainers"]
            made["env"] = list(env)
            made["resources"] = resources or made["resources"]
            if not mounts:
                del made["volumeMounts"]
            return made

    return Pods()


def with_sidecar(plain, sidecar, config_map="memcached-config", scrape=True):
    """The pod, injected."""
    made = copy.deepcopy(plain)
    for container in containers(made):
        known = {entry["name"] for entry in LOCALHOST}
        container["env"] = LOCALHOST + [entry for entry in container.get("env", []) if entry["name"] not in known]
    made["spec"]["initContainers"] = [sidecar, *made["spec"].get("initContainers", [])]
    volumes = made["spec"].get("volumes", [])
    if config_map and all(volume["name"] != "slipring-config" for volume in volumes):
        volumes = [*volumes, {"name": "slipring-config", "configMap": {"defaultMode": 0o644, "name": config_map}}]
    if volumes:
        made["spec"]["volumes"] = volumes
    made["metadata"]["labels"] = {**made["metadata"].get("labels", {}), "slipring/sidecar": "true"}
    if scrape:
        made["metadata"]["annotations"] = {**made["metadata"].get("annotations", {}), **SCRAPE}
    return made


def essence(pod):
    """Of a stored pod all but what differs between any two."""
    kept = {key: value for key, value in pod["metadata"].items() if key in ("labels", "annotations")}
    kept["labels"] = {key: value for key, value in kept.get("labels", {}).items() if key != "slipring/inject"}
    return {"metadata": kept, "spec": pod["spec"]}


def same(stored, expected):
    assert essence(stored) == essence(expected)


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_injected(shape, ask, pods):
    namespace, labels = ASKS[ask]
    stored = pods.create(namespace, SHAPES[shape], labels)
    assert [c["name"] for c in containers(stored)].count("slipring") == 1
    same(stored, with_sidecar(pods.create("plain", SHAPES[shape]), pods.sidecar()))


def test_a_huge_pod(pods):
    """The server bounds what an expression may cost, and a pod that costs more would be refused."""
    env = [{"name": f"VARIABLE_{i}", "value": "x" * 100} for i in range(300)]
    spec = {
        "initContainers": [{"name": f"init-{i}", "image": "app", "env": env} for i in range(10)],
        "containers": [{"name": f"app-{i}", "image": "app", "env": env} for i in range(20)],
        "volumes": [{"name": f"volume-{i}", "emptyDir": {}} for i in range(50)],
    }
    annotations = {f"example/annotation-{i}": "x" * 500 for i in range(100)}
    plain = pods.create("plain", spec, None, annotations)
    same(pods.create("labelled", spec, None, annotations), with_sidecar(plain, pods.sidecar()))


def test_who_does_not_ask_is_left_alone(pods):
    assert all(c["name"] != "slipring" for c in containers(pods.create("plain", SHAPES["bare"])))


@pytest.mark.parametrize("namespace", ["plain", "labelled"])
def test_who_says_no_is_left_alone(namespace, pods):
    stored = pods.create(namespace, SHAPES["environment"], {"slipring/inject": "false"})
    same(stored, pods.create("plain", SHAPES["environment"]))


@pytest.mark.parametrize("place", ["initContainers", "containers"])
@pytest.mark.parametrize("ask", ASKS)
def test_a_sidecar_of_ones_own_is_left_alone(place, ask, pods):
    spec = copy.deepcopy(SHAPES["init containers"])
    spec[place].append({"name": "slipring", "image": "mine"})
    namespace, labels = ASKS[ask]
    same(pods.create(namespace, spec, labels), pods.create("plain", spec))


@pytest.mark.parametrize("ask", ASKS)
def test_created_again_from_what_is_stored(ask, pods):
    """As by `kubectl get -o yaml | kubectl create -f -`."""
    namespace, labels = ASKS[ask]
    stored = pods.create(namespace, SHAPES["environment"], labels)
    again = pods.create(namespace, stored["spec"], stored["metadata"]["labels"], stored["metadata"]["annotations"])
    same(again, stored)


@pytest.mark.parametrize(
    "special",
    [
        {"hostNetwork": True},
        {"os": {"name": "windows"}},
        {"nodeSelector": {"kubernetes.io/os": "windows"}},
    ],
    ids=str,
)
def test_pods_that_cannot_have_one(special, pods):
    """In a labelled namespace they are left alone; who asks for one by name is told."""
    spec = {**SHAPES["bare"], **special}
    same(pods.create("labelled", spec), pods.create("plain", spec))
    settings = {"slipring/memory": "128Mi"}
    same(pods.create("labelled", spec, None, settings), pods.create("plain", spec, None, settings))
    with pytest.raises(Refused, match="label slipring/inject: "):
        pods.create("plain", spec, LABEL)


LISTENERS = {
    "the data port": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 11211}]}]},
    "the admin port": {
        "containers": [
            {"name": "first", "image": "app"},
            {"name": "app", "image": "app", "ports": [{"containerPort": 80}, {"containerPort": 9150, "name": "metrics"}]},
        ]
    },
    "an init container": {
        "initContainers": [{"name": "app", "image": "app", "ports": [{"containerPort": 9150}]}],
        "containers": [{"name": "first", "image": "app"}],
    },
    "memcached": {"containers": [{"name": "app", "image": "mirror/memcached:1.6-alpine"}]},
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("what", LISTENERS)
def test_pods_that_want_its_ports_are_refused(what, ask, cluster, pods):
    """Where they are applied, too, and unless they say no."""
    namespace, labels = ASKS[ask]
    message = f"label slipring/inject{'' if labels else ' of the namespace'}: container app would listen on 11211 or 9150"
    with pytest.raises(Refused, match=message):
        pods.create(namespace, LISTENERS[what], labels)
    metadata = {"labels": {**labels, "app": "own"}}
    template = {"metadata": metadata, "spec": LISTENERS[what]}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "own"}}
    deployment["spec"] = {"selector": {"matchLabels": {"app": "own"}}, "template": template}
    with pytest.raises(Refused, match=f'deployments "own" is invalid.*{message}'):
        cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(deployment))
    metadata["labels"]["slipring/inject"] = "false"
    cluster.kubectl("apply", "-n", namespace, "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(deployment))
    same(pods.create("labelled", LISTENERS[what], {"slipring/inject": "false"}), pods.create("plain", LISTENERS[what]))


@pytest.mark.parametrize("image", ["memcached-exporter:1", "memcached.example/app", "my-memcached", "app/memcachedx@sha256:" + "1" * 64])
def test_images_that_are_no_memcached(image, pods):
    assert [c["name"] for c in containers(pods.create("labelled", {"containers": [{"name": "app", "image": image}]}))] == [
        "slipring",
        "app",
    ]


def test_who_is_left_alone_may_have_its_ports(pods):
    """In a labelled namespace."""
    for special in [{"hostNetwork": True}, {"os": {"name": "windows"}}]:
        spec = copy.deepcopy({**LISTENERS["the data port"], **special})
        same(pods.create("labelled", spec), pods.create("plain", spec))
    own = {"initContainers": [{"name": "slipring", "image": "mine"}], **LISTENERS["the data port"]}
    same(pods.create("labelled", own), pods.create("plain", own))


def test_a_mirror_pod_is_left_alone(cluster, pods):
    """kubelet's picture of a pod from a file; only a pod that is bound to a machine may be one."""
    machine = {"metadata": {"name": "machine"}}
    cluster.ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **machine})
    spec = {**SHAPES["bare"], "nodeName": "machine"}
    mark = {"kubernetes.io/config.mirror": "1"}
    same(pods.create("labelled", spec, None, mark), pods.create("plain", spec, None, mark))


@pytest.mark.parametrize("name", SCRAPE)
def test_an_apps_own_scrape_annotations_stay(name, pods):
    own = {name: "8080", "other": "x"}
    plain = pods.create("plain", SHAPES["bare"], None, own)
    stored = pods.create("labelled", SHAPES["bare"], None, own)
    assert stored["metadata"]["annotations"] == own
    same(stored, with_sidecar(plain, pods.sidecar(), scrape=False))


SETTINGS = {
    "config-map": ({"slipring/config-map": "other"}, {"env": [DRAIN, *WHO, FILE, placement("other")]}, "other"),
    "discovery": (
        {"slipring/discovery": "10.0.0.9:11212"},
        {"env": [DRAIN, *WHO, {"name": "MEMCACHED_DISCOVERY_HOST", "value": "10.0.0.9:11212"}], "mounts": False},
        None,
    ),
    "dns": (
        {"slipring/dns": "srv:_memcache._tcp.memcached.cache.svc.cluster.local"},
        {
            "env": [DRAIN, *WHO, {"name": "SLIPRING_DNS", "value": "srv:_memcache._tcp.memcached.cache.svc.cluster.local"}],
            "mounts": False,
        },
        None,
    ),
    "memory": (
        {"slipring/memory": "128Mi"},
        {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "128Mi"}}},
        "memcached-config",
    ),
    "cpu": (
        {"slipring/cpu": "250m"},
        {"resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}},
        "memcached-config",
    ),
    "cpu-limit": (
        {"slipring/cpu-limit": "500m"},
        {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}},
        "memcached-config",
    ),
    "config-map and placement": (
        {"slipring/config-map": "other", "slipring/placement": "dalli"},
        {"env": [DRAIN, *WHO, FILE, {"name": "SLIPRING_PLACEMENT", "value": "dalli"}]},
        "other",
    ),
    "placement": (
        {"slipring/placement": "twemproxy,hash=md5"},
        {"env": [FILE, DRAIN, *WHO, {"name": "SLIPRING_PLACEMENT", "value": "twemproxy,hash=md5"}]},
        "memcached-config",
    ),
    "nodes-before": (
        {"slipring/dns": "cache", "slipring/nodes-before": "ending:a,[::1]:2=3", "slipring/placement-before": "jump"},
        {
            "env": [
                DRAIN,
                *WHO,
                {"name": "SLIPRING_DNS", "value": "cache"},
                {"name": "MEMCACHED_NODES_BEFORE", "value": "ending:a,[::1]:2=3"},
                {"name": "SLIPRING_PLACEMENT_BEFORE", "value": "jump"},
            ],
            "mounts": False,
        },
        None,
    ),
    "on-node-down": (
        {"slipring/on-node-down": "error"},
        {"env": [FILE, placement(), DRAIN, *WHO, {"name": "SLIPRING_ON_NODE_DOWN", "value": "error"}]},
        "memcached-config",
    ),
    "log-level": (
        {"slipring/log-level": "debug"},
        {"env": [FILE, placement(), DRAIN, *WHO, {"name": "SLIPRING_LOG_LEVEL", "value": "debug"}]},
        "memcached-config",
    ),
    "all together": (
        {
            "slipring/discovery": "cache.example",
            "slipring/memory": "1Gi",
            "slipring/cpu": "1",
            "slipring/placement": "ring",
            "slipring/on-node-down": "miss",
            "slipring/log-level": "warn",
        },
        {
            "env": [
                DRAIN,
                *WHO,
                {"name": "MEMCACHED_DISCOVERY_HOST", "value": "cache.example"},
                {"name": "SLIPRING_PLACEMENT", "value": "ring"},
                {"name": "SLIPRING_ON_NODE_DOWN", "value": "miss"},
                {"name": "SLIPRING_LOG_LEVEL", "value": "warn"},
            ],
            "mounts": False,
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        },
        None,
    ),
}


@pytest.mark.parametrize(
    ("annotations", "env", "volumes"),
    [
        ({"slipring/tls": "true"}, [TLS], []),
        ({"slipring/tls": "false"}, [TLS | {"value": "false"}], []),
        (
            {"slipring/tls-name": "cache.example"},
            [{"name": "SLIPRING_NODE_TLS_NAME", "value": "cache.example"}, TLS],
            [],
        ),
        ({"slipring/tls-ca-secret": "own"}, [TLS, AUTHORITY], [secret("slipring-ca", "own", "ca.crt")]),
        (
            {"slipring/tls": "true", "slipring/tls-certificate-secret": "own"},
            [TLS, *CERTIFICATE],
            [secret("slipring-certificate", "own", "tls.crt", "tls.key")],
        ),
        ({"slipring/auth-secret": "own"}, [LOGIN], [secret("slipring-auth", "own", "auth")]),
        (
            {
                "slipring/tls-ca-secret": "one",
                "slipring/tls-certificate-secret": "one",
                "slipring/auth-secret": "another",
            },
            [TLS, AUTHORITY, *CERTIFICATE, LOGIN],
            [
                secret("slipring-ca", "one", "ca.crt"),
                secret("slipring-certificate", "one", "tls.crt", "tls.key"),
                secret("slipring-auth", "another", "auth"),
            ],
        ),
    ],
    ids=str,
)
def test_secured_nodes(annotations, env, volumes, pods):
    """Nothing is mounted but the keys of the Secrets that are named; for what is secret the group is root's."""
    made = pods.sidecar(env=[FILE, placement(), DRAIN, *WHO, *env])
    names = [volume["name"] for volume in volumes]
    made["volumeMounts"] += [mounted(name) for name in names]
    made["securityContext"]["runAsGroup"] = 65532 if set(names) <= {"slipring-ca"} else 0
    plain = pods.create("plain", SHAPES["volumes"], None, annotations)
    expected = with_sidecar(plain, made)
    expected["spec"]["volumes"] += volumes
    same(pods.create("labelled", SHAPES["volumes"], None, annotations), expected)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_are_obeyed(setting, pods):
    annotations, sidecar, config_map = SETTINGS[setting]
    made = pods.sidecar(**sidecar)
    if setting.startswith("config-map"):
        made["volumeMounts"] = [MOUNT]
    plain = pods.create("plain", SHAPES["volumes"], None, annotations)
    stored = pods.create("labelled", SHAPES["volumes"], None, annotations)
    same(stored, with_sidecar(plain, made, config_map))


def refusals():
    yield {"slipring/memroy": "64Mi"}, "unknown annotation slipring/memroy: .*slipring/memory"
    yield {"slipring/inject": "true"}, "unknown annotation slipring/inject: .*is a label"
    yield {"slipring/discovery": "a", "slipring/dns": "b"}, "slipring/discovery and slipring/dns: only one"
    yield {"slipring/config-map": "c", "slipring/dns": "a"}, "slipring/config-map and slipring/dns: only one"
    for value in ["", "Upper", "a_b", "-a", "a/b"]:
        yield {"slipring/config-map": value}, "annotation slipring/config-map: the name of a ConfigMap"
    for value in ["", "10.0.0.9,10.0.0.10", "host:", "host:port", "host:0", "http://host", "a b", "fd00::1"]:
        yield {"slipring/discovery": value}, "annotation slipring/discovery: host or host:port"
    for value in ["", "srv:name:11211", "srv:", "name:x", "a b"]:
        yield {"slipring/dns": value}, "annotation slipring/dns: name, name:port or srv:name"
    for value in ["", "64", "31Mi", "64MB", "17Gi", "-64Mi", "lots"]:
        yield {"slipring/memory": value}, "annotation slipring/memory: 32Mi to 16Gi"
    for value in ["", "9m", "50", "0", "-1", "half"]:
        yield {"slipring/cpu": value}, "annotation slipring/cpu: 10m to 16"
    for value in ["", "99m", "17", "-1", "none"]:
        yield {"slipring/cpu-limit": value}, "annotation slipring/cpu-limit: 100m to 16"
    yield {"slipring/cpu": "500m", "slipring/cpu-limit": "400m"}, "annotation slipring/cpu-limit: .*not less than slipring/cpu"
    for value in ["", "Ring", "ketchup", "dalli,", "dalli,x", "dalli, strip-prefix=a", "ring,"]:
        yield {"slipring/placement": value}, "annotation slipring/placement: NAME.*ring, pymemcache, "
        yield {"slipring/placement-before": value}, "annotation slipring/placement-before: NAME.*ring, pymemcache, "
    for value in ["", "ending:", "a,", "a!b"]:
        yield {"slipring/nodes-before": value}, "annotation slipring/nodes-before: a list of nodes, or ending:"
    for value in ["", "Miss", "fail"]:
        yield {"slipring/on-node-down": value}, "annotation slipring/on-node-down: miss or error"
    for value in ["", "verbose", "INFO"]:
        yield {"slipring/log-level": value}, "annotation slipring/log-level: off, error, warn, info, debug or trace"
    for value in ["", "True", "yes", "own-secret"]:
        yield {"slipring/tls": value}, "annotation slipring/tls: true or false"
    for value in ["", "a b", "*.example", "cache.example:11211", "-a", "a..b", ".", "x" * 64, ".".join(["x" * 60] * 5)]:
        yield {"slipring/tls-name": value}, "annotation slipring/tls-name: host name or address"
    for name in ["tls-ca-secret", "tls-certificate-secret", "auth-secret"]:
        for value in ["", "Upper", "a_b", "-a", "a/b", "user:password"]:
            yield {f"slipring/{name}": value}, f"annotation slipring/{name}: the name of a Secret"
    for name in ["tls-name", "tls-ca-secret", "tls-certificate-secret"]:
        yield {"slipring/tls": "false", f"slipring/{name}": "a"}, f'slipring/{name}: of no use where slipring/tls is "false"'
    yield {"slipring/tls-secret": "a"}, "unknown annotation slipring/tls-secret: .*slipring/tls-ca-secret"


@pytest.mark.parametrize("namespace", ["plain", "labelled"])
@pytest.mark.parametrize(("annotations", "message"), list(refusals()), ids=str)
def test_wrong_settings_are_refused(namespace, annotations, message, pods):
    with pytest.raises(Refused, match="slipring-check.*" + message):
        pods.create(namespace, SHAPES["bare"], None, annotations)


@pytest.mark.parametrize("value", ["", "yes", "True", "1"])
def test_a_wrong_label_is_refused(value, cluster, pods):
    with pytest.raises(Refused, match='label slipring/inject: "true" or "false"'):
        pods.create("plain", SHAPES["bare"], {"slipring/inject": value})
    with pytest.raises(Refused, match='label slipring/inject: "true" or "false"'):
        cluster.namespace("mistaken", {"slipring/inject": value})


def workloads():
    for app in ["deployments", "sets", "jobs"]:
        yield from yaml.safe_load_all((APPS / f"{app}.yaml").read_text())


@pytest.mark.parametrize("workload", list(workloads()), ids=lambda workload: workload["metadata"]["name"])
def test_what_makes_pods(workload, cluster):
    """It is stored as it is; the pods that its controller makes get the sidecar, in the labelled namespace."""
    cluster.kubectl("apply", "--validate=strict", "-n", "labelled", "-f", "-", stdin=yaml.safe_dump(workload))
    kind = workload["kind"].lower()
    shown = cluster.kubectl("get", "-n", "labelled", kind, workload["metadata"]["name"], "-o", "yaml")
    kept = yaml.safe_load(shown)
    assert "slipring-admin" not in str(kept)
    stored = cluster.create("labelled", pod_of(kept))
    names = [c["name"] for c in containers(stored)]
    wanted = [c["name"] for c in containers(pod_of(workload))]
    assert names == (wanted if workload["metadata"]["name"] == "without" else ["slipring", *wanted])


@pytest.mark.parametrize("workload", list(workloads()), ids=lambda workload: workload["metadata"]["name"])
def test_a_wrong_setting_is_refused_where_it_is_applied(workload, cluster):
    """Not only later, at the pods, where hardly anybody looks."""
    wrong = copy.deepcopy(workload)
    spec = wrong["spec"]["jobTemplate"]["spec"] if wrong["kind"] == "CronJob" else wrong["spec"]
    spec["template"].setdefault("metadata", {})["annotations"] = {"slipring/memory": "64"}
    with pytest.raises(Refused, match="annotation slipring/memory: 32Mi to 16Gi"):
        cluster.kubectl("apply", "-n", "plain", "-f", "-", stdin=yaml.safe_dump(wrong))


def test_what_is_wrong_may_leave(cluster):
    """A Deployment from before the check, which waits for its finalizer."""
    path = "/apis/apps/v1/namespaces/plain/deployments"
    (workload,) = [w for w in workloads() if w["metadata"]["name"] == "bare"]
    workload["metadata"].update(name="leaving", finalizers=["test/wait"])
    cluster.ask("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/slipring-check")
    try:
        workload["spec"]["template"]["metadata"]["annotations"] = {"slipring/memory": "64"}

        def accepted():
            try:
                return cluster.ask("POST", path, workload)
            except Refused:
                return False

        eventually("the check is gone", accepted)
    finally:

        cluster.kubectl("apply", "-k", str(DEPLOY / os.environ.get("INJECT", "inject")))
    patched = dict(cluster.ask("GET", f"{path}/leaving"))

    def refused():
        try:
            cluster.ask("PUT", f"{path}/leaving?dryRun=All", patched)
        except Refused:
            return True

    eventually("the check is back", refused)
    cluster.ask("DELETE", f"{path}/leaving")
    leaving = cluster.ask("GET", f"{path}/leaving")
    assert leaving["metadata"]["deletionTimestamp"]
    leaving["metadata"]["finalizers"] = []
    cluster.ask("PUT", f"{path}/leaving", leaving)
    with pytest.raises(Refused, match="not found"):
        cluster.ask("GET", f"{path}/leaving")


def test_the_same_sidecar_as_by_the_component(pods):
    """The two ways differ in who does it, not in what is done."""
    rendered = yaml.safe_load_all((EXPECTED / "sidecar.yaml").read_text())
    by_component = {workload["metadata"]["name"]: workload for workload in rendered}
    for workload in workloads():
        name = workload["metadata"]["name"]
        component, injected = pod_of(by_component[name]), pod_of(workload)
        component = pods.create("plain", component["spec"], component["metadata"]["labels"])
        injected = pods.create("labelled", injected["spec"], injected["metadata"]["labels"])
        for pod in (component, injected):
            for container in containers(pod)[0 if name == "without" else 1 :]:
                container["env"] = sorted(container.get("env", []), key=lambda entry: entry["name"])
            pod["spec"].get("volumes", []).sort(key=lambda volume: volume["name"])
            pod["metadata"].pop("annotations", None)
        same(component, injected)


TEMPLATE = "/api/v1/namespaces/slipring-inject/podtemplates"


@contextlib.contextmanager
def template_taken_away(cluster, in_its_place=None):
    """Until the end there is no template, or that one."""
    kept = cluster.ask("GET", f"{TEMPLATE}/slipring")
    for name in ["resourceVersion", "uid", "creationTimestamp", "managedFields"]:
        kept["metadata"].pop(name, None)
    cluster.ask("DELETE", f"{TEMPLATE}/slipring")
    try:
        if in_its_place:
            cluster.ask("POST", TEMPLATE, {"metadata": {"name": "slipring"}, "template": {"spec": in_its_place}})
        yield
    finally:
        if in_its_place:
            cluster.ask("DELETE", f"{TEMPLATE}/slipring")
        cluster.ask("POST", TEMPLATE, kept)
        eventually("pods get the old sidecar again", lambda: "MEMCACHED_NODES_FILE" in asks(cluster))


def asks(cluster):
    """What a pod that asks would get, as text."""
    try:
        pod = {"metadata": {"name": "a", "labels": LABEL}, "spec": SHAPES["bare"]}
        return str(cluster.create("plain", pod, dry_run=True)["spec"])
    except Refused as refused:
        return f"refused: {refused}"


def test_without_the_template_nobody_slips_through(cluster, pods):
    """A pod that asked for the sidecar and started without it would place its keys elsewhere than all others."""
    with template_taken_away(cluster):
        eventually("pods are refused", lambda: re.match("refused: .*param", asks(cluster)))
        plain = pods.create("plain", SHAPES["bare"])
        same(pods.create("labelled", SHAPES["bare"], {"slipring/inject": "false"}), plain)


def test_without_the_injection_nobody_slips_through(cluster, pods):
    """An API server without its feature gate takes the policy, and does nothing; so does a policy that never matches."""
    version = "v1beta1" if os.environ.get("INJECT") else "v1"
    path = f"/apis/admissionregistration.k8s.io/{version}/mutatingadmissionpolicies/slipring-inject"

    def set_conditions(change):
        policy = cluster.ask("GET", path)
        policy["spec"]["matchConditions"] = change(policy["spec"]["matchConditions"])
        cluster.ask("PUT", path, policy)

    def answers():
        for namespace, labels in ASKS.values():
            try:
                cluster.create(namespace, {"metadata": {"name": "a", "labels": labels}, "spec": SHAPES["bare"]}, dry_run=True)
                yield "taken"
            except Refused as error:
                yield str(error)

    never = {"name": "never", "expression": "false"}
    set_conditions(lambda conditions: [*conditions, never])
    try:
        ours = "this API server has injected nothing"
        eventually("all are refused", lambda: all(ours in answer for answer in answers()))
        pods.create("plain", SHAPES["bare"])
        pods.create("labelled", SHAPES["bare"], {"slipring/inject": "false"})
        pods.create("labelled", {**SHAPES["bare"], "hostNetwork": True})
        pods.create("labelled", {**SHAPES["bare"], "initContainers": [{"name": "slipring", "image": "mine"}]})
    finally:
        set_conditions(lambda conditions: [condition for condition in conditions if condition["name"] != "never"])
        eventually("all are injected again", lambda: set(answers()) == {"taken"})


def test_a_template_of_the_platforms_own(cluster, pods):
    """Another source, no ConfigMap, no resources: what a pod sets is still obeyed."""
    sidecar = {"name": "slipring", "image": "mirror/slipring:9", "restartPolicy": "Always"}
    sidecar["env"] = [{"name": "SLIPRING_DNS", "value": "memcached"}, {"name": "SLIPRING_WORKERS", "value": "2"}]
    spec = {"initContainers": [sidecar], "containers": [{"name": "app", "image": "app"}]}
    with template_taken_away(cluster, spec):
        eventually("pods get the other sidecar", lambda: "mirror/slipring:9" in asks(cluster))
        plain = pods.create("plain", SHAPES["bare"])
        (made,) = cluster.ask("GET", f"{TEMPLATE}/slipring")["template"]["spec"]["initContainers"]
        same(pods.create("labelled", SHAPES["bare"]), with_sidecar(plain, made, None))

        settings = {"slipring/config-map": "own", "slipring/memory": "1Gi", "slipring/cpu": "1"}
        made["env"] = [{"name": "SLIPRING_WORKERS", "value": "2"}, FILE]
        made["volumeMounts"] = [MOUNT]
        made["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
        plain["metadata"]["annotations"] = settings
        same(pods.create("labelled", SHAPES["bare"], None, settings), with_sidecar(plain, made, "own"))


def test_a_placement_in_the_template_is_that_of_every_pod(cluster, pods):
    """Also of those whose nodes come from elsewhere: only what refers to the ConfigMap goes with it."""
    sidecar = {"name": "slipring", "image": "mirror/slipring:10", "restartPolicy": "Always"}
    sidecar["env"] = [FILE, {"name": "SLIPRING_PLACEMENT", "value": "dalli"}]
    spec = {"initContainers": [sidecar], "containers": [{"name": "app", "image": "app"}]}
    with template_taken_away(cluster, spec):
        eventually("pods get the other sidecar", lambda: "mirror/slipring:10" in asks(cluster))
        for settings in [{"slipring/config-map": "own"}, {"slipring/discovery": "10.0.0.9"}]:
            (made, *_) = containers(pods.create("labelled", SHAPES["bare"], None, settings))
            placements = [entry for entry in made["env"] if entry["name"] == "SLIPRING_PLACEMENT"]
            assert placements == [{"name": "SLIPRING_PLACEMENT", "value": "dalli"}]


def test_a_secured_template(cluster, pods):
    """What it says of TLS and the log-in holds for every pod; a pod names other Secrets, or does without TLS. Nodes of its
    own are not told the log-in of others."""
    volumes = [
        secret("slipring-ca", "platform", "ca.crt"),
        secret("slipring-certificate", "platform", "tls.crt", "tls.key"),
        secret("slipring-auth", "platform", "auth"),
    ]
    sidecar = {"name": "slipring", "image": "mirror/slipring:11", "restartPolicy": "Always"}
    sidecar["env"] = [FILE, TLS, AUTHORITY, *CERTIFICATE, LOGIN]
    sidecar["volumeMounts"] = [MOUNT, *(mounted(volume["name"]) for volume in volumes)]
    config = {"name": "slipring-config", "configMap": {"name": "memcached-config"}}
    spec = {"initContainers": [sidecar], "containers": [{"name": "app", "image": "app"}], "volumes": [config, *volumes]}

    def found(annotations):
        pod = pods.create("labelled", SHAPES["bare"], None, annotations)
        made = containers(pod)[0]
        kept = [volume for volume in pod["spec"]["volumes"] if "secret" in volume]
        mounts = [mount["name"] for mount in made["volumeMounts"] if mount["name"] != "slipring-config"]
        assert [volume["name"] for volume in kept] == mounts
        return made, {volume["name"]: volume for volume in kept}

    with template_taken_away(cluster, spec):
        eventually("pods get the other sidecar", lambda: "mirror/slipring:11" in asks(cluster))
        made, kept = found({})
        assert made["env"] == sidecar["env"] and list(kept.values()) == volumes

        made, kept = found({"slipring/tls": "false"})
        assert made["env"] == [FILE, LOGIN, TLS | {"value": "false"}] and kept == {"slipring-auth": volumes[2]}

        dns = {"name": "SLIPRING_DNS", "value": "memcached"}
        made, kept = found({"slipring/dns": "memcached"})
        assert made["env"] == [TLS, AUTHORITY, *CERTIFICATE, dns] and list(kept.values()) == volumes[:2]
        made, kept = found({"slipring/dns": "memcached", "slipring/auth-secret": "own"})
        assert made["env"] == [TLS, AUTHORITY, *CERTIFICATE, dns, LOGIN]
        assert list(kept.values()) == [*volumes[:2], secret("slipring-auth", "own", "auth")]

        made, kept = found({"slipring/tls-certificate-secret": "own", "slipring/tls-name": "cache.example"})
        name = {"name": "SLIPRING_NODE_TLS_NAME", "value": "cache.example"}
        assert made["env"] == [FILE, AUTHORITY, LOGIN, name, TLS, *CERTIFICATE]
        own = secret("slipring-certificate", "own", "tls.crt", "tls.key")
        assert kept == {"slipring-ca": volumes[0], "slipring-auth": volumes[2], "slipring-certificate": own}
        # It had no securityContext.
        assert made["securityContext"] == {"runAsGroup": 0}
