"""deploy/helm, by the real helm: linted, rendered, compared with what kustomize makes of the same files, and installed
on a real API server."""

import itertools
import json
import re
import subprocess
import tarfile

import kubernetes_validate
import pytest
import yaml

import cluster as api
from chart import CHART, NODE_LOCAL, Failed, by_name, environment, helm, kustomized, normal, settings, template
from manifests import DEPLOY, containers, secured, slipring_containers, with_components
from processes import binary, eventually

MONITORING = {f"monitoring.{part}.enabled": True for part in ["podMonitor", "podMonitoring", "alerts", "dashboard"]}
# The values for each part, by the directory that installs the same; None without it.
INJECT = {None: {"inject.enabled": False}, "inject": {}, "inject-v1beta1": {"inject.apiVersion": "v1beta1"}}
LOCAL = {
    None: {},
    "node-local": {"nodeLocal.enabled": True},
    "node-local/host-port": {"nodeLocal.enabled": True, "nodeLocal.access": "host-port"},
    "node-local/socket": {"nodeLocal.enabled": True, "nodeLocal.access": "socket"},
}


def combinations():
    """Each way to inject and none, each way to node-local and none, with and without monitoring."""
    for inject, local, monitoring in itertools.product(INJECT, LOCAL, [{}, MONITORING]):
        values = INJECT[inject] | LOCAL[local] | monitoring
        directories = [directory for directory in (inject, local) if directory]
        names = [*directories, *(["monitoring"] if monitoring else [])]
        yield pytest.param(values, directories, bool(monitoring), id="+".join(names) or "nothing")


def monitors(namespace):
    """What the files of deploy/monitoring are to become."""
    directory = DEPLOY / "monitoring"
    for name in ["podmonitor.yaml", "podmonitoring-gke.yaml"]:
        found = yaml.safe_load((directory / name).read_text())
        found["metadata"]["namespace"] = namespace
        yield found
    rules = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule"}
    rules["metadata"] = {"name": "slipring", "namespace": namespace}
    yield rules | {"spec": yaml.safe_load((directory / "alerts.yaml").read_text())}
    dashboard = {"apiVersion": "v1", "kind": "ConfigMap"}
    labels = {"grafana_dashboard": "1"}
    dashboard["metadata"] = {"name": "slipring-dashboard", "namespace": namespace, "labels": labels}
    yield dashboard | {"data": {"slipring.json": (directory / "dashboard.json").read_text()}}


@pytest.mark.parametrize(("values", "directories", "monitoring"), list(combinations()))
def test_the_same_as_by_kustomize(values, directories, monitoring):
    expected = [document for directory in directories for document in kustomized(directory, "somewhere")]
    expected += monitors("somewhere") if monitoring else []
    assert by_name(template(values, "somewhere")) == by_name(expected)


@pytest.mark.parametrize(("values", "directories", "monitoring"), list(combinations()))
def test_lint(values, directories, monitoring):
    helm("lint", "--strict", CHART, *settings(values))


@pytest.mark.parametrize("directory", list(LOCAL)[1:])
def test_a_variable_refers_to_those_before_it(directory):
    """The comparison overlooks their order."""
    own = {"SLIPRING_INSTANCE": "of $(POD_NAME)"}
    for chosen in (NODE_LOCAL | LOCAL[directory] | {"nodeLocal.env": own}, {"inject.env": own}):
        (container,) = slipring_containers(template(chosen))
        names = [entry["name"] for entry in container["env"]]
        assert len(set(names)) == len(names)
        for i, entry in enumerate(container["env"]):
            assert set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) <= set(names[:i]), entry


def test_the_dashboard_is_whole():
    """The comparison overlooks spaces."""
    (found,) = [document for document in template(MONITORING) if document["metadata"]["name"] == "slipring-dashboard"]
    assert json.loads(found["data"]["slipring.json"]) == json.loads(
        (DEPLOY / "monitoring" / "dashboard.json").read_text()
    )


def test_packed_it_stands_alone(tmp_path):
    helm("package", CHART, "--destination", tmp_path)
    (packed,) = tmp_path.glob("*.tgz")
    with tarfile.open(packed) as archive:
        members = archive.getmembers()
        archive.extractall(tmp_path, filter="data")
    assert all(member.isfile() for member in members)
    # It is kept in the cluster with each release, in a Secret of 1 MiB at most.
    assert packed.stat().st_size < 200_000
    everything = NODE_LOCAL | MONITORING | {"inject.enabled": True}
    assert template(everything, chart=packed) == template(everything)
    # Every file that is there is used, and none is a copy in the tree.
    files = [path for path in (CHART / "files").rglob("*") if not path.is_dir()]
    assert files and all(path.is_symlink() and path.resolve().is_relative_to(DEPLOY) for path in files)


def test_the_version_is_the_programs():
    said = subprocess.run([binary(), "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (said, said)


def sidecar(values):
    (container,) = slipring_containers(template(values))
    return container


BOTH = [("inject", {}), ("nodeLocal", NODE_LOCAL)]


@pytest.mark.parametrize(("part", "values"), BOTH)
@pytest.mark.parametrize(
    ("source", "variable", "value"),
    [
        ("discovery", "MEMCACHED_DISCOVERY_HOST", "10.0.0.9:11212"),
        ("dns", "SLIPRING_DNS", "srv:_memcached._tcp.memcached.cache.svc.cluster.local"),
    ],
)
def test_another_source_of_nodes(part, values, source, variable, value):
    usual = sidecar(values)
    documents = template(values | {f"{part}.{source}": value})
    (container,) = slipring_containers(documents)
    expected = environment(usual) | {variable: value, "MEMCACHED_NODES_BEFORE_FILE": "/etc/slipring"}
    del expected["MEMCACHED_NODES_FILE"]
    assert environment(container) == expected
    # For the ring before a planned change: a ConfigMap that need not be there.
    assert container["volumeMounts"] == usual["volumeMounts"]
    (owner,) = [document for document in documents if document["kind"] in ("PodTemplate", "DaemonSet")]
    spec = (owner["template"] if part == "inject" else owner["spec"]["template"])["spec"]
    volume = {"name": "memcached-config", "optional": True}
    assert spec["volumes"] == [{"name": "slipring-config", "configMap": volume}]


@pytest.mark.parametrize(("part", "values"), BOTH)
def test_another_config_map(part, values):
    documents = template(values | {f"{part}.configMap": "other"})
    (container,) = slipring_containers(documents)
    key = {"name": "other", "key": "SLIPRING_PLACEMENT", "optional": True}
    assert environment(container) == environment(sidecar(values)) | {"SLIPRING_PLACEMENT": {"configMapKeyRef": key}}
    (owner,) = [document for document in documents if document["kind"] in ("PodTemplate", "DaemonSet")]
    spec = (owner["template"] if part == "inject" else owner["spec"]["template"])["spec"]
    assert spec["volumes"] == [{"name": "slipring-config", "configMap": {"name": "other"}}]


@pytest.mark.parametrize(("part", "values"), BOTH)
def test_settings_of_the_container(part, values):
    chosen = {
        "image.repository": "registry.example/slipring",
        "image.tag": "9@sha256:" + "0" * 64,
        f"{part}.placement": "twemproxy,hash=md5",
        f"{part}.env": {"SLIPRING_MAX_CONNECTIONS": 1_000_000, "SLIPRING_LOG_KEYS": True, "SLIPRING_LOG_LEVEL": "off"},
        f"{part}.resources": {"requests": {"cpu": "1"}, "limits": {"memory": None}},
        f"{part}.patch": {},
    }
    usual, container = sidecar(values), sidecar(values | chosen)
    changed = {
        "SLIPRING_PLACEMENT": "twemproxy,hash=md5",
        "SLIPRING_MAX_CONNECTIONS": "1000000",
        "SLIPRING_LOG_KEYS": "true",
        "SLIPRING_LOG_LEVEL": "off",
    }
    assert environment(container) == environment(usual) | changed
    assert container["image"] == "registry.example/slipring:9@sha256:" + "0" * 64
    memory = usual["resources"]["requests"]["memory"]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": memory}, "limits": {}}
    same = usual.keys() - {"env", "image", "resources"}
    assert {key: container[key] for key in same} == {key: usual[key] for key in same}


# The values for what the components do, with the names of their Secrets.
SECURED = {"tls": True, "tlsCaSecret": "memcached-tls", "tlsCertificateSecret": "memcached-tls", "authSecret": "memcached-auth"}


def secured_values(part, values=SECURED):
    return {f"{part}.{name}": value for name, value in values.items()}


@pytest.mark.parametrize("directory", list(LOCAL)[1:])
def test_secured_nodes_as_by_the_components(directory):
    values = {"inject.enabled": False} | LOCAL[directory] | secured_values("nodeLocal")
    expected = [found for found in yaml.safe_load_all(secured(directory)) if found["kind"] != "Namespace"]
    assert by_name(template(values)) == by_name(expected)


def test_a_secured_sidecar_as_by_the_components(tmp_path):
    """What it is in a pod that the component changes, it is in the template that injected pods get."""
    app = tmp_path / "sources" / "app.yaml"
    app.parent.mkdir()
    pod = {"template": {"spec": {"containers": [{"name": "app", "image": "app"}]}}}
    app.write_text(yaml.safe_dump({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": pod}))
    components = ["sidecar", "sidecar/tls/ca", "sidecar/tls/certificate", "sidecar/auth"]
    (made,) = yaml.safe_load_all(with_components(tmp_path, [app], components))
    (found,) = [found for found in template(secured_values("inject")) if found["kind"] == "PodTemplate"]
    expected, spec = made["spec"]["template"]["spec"], found["template"]["spec"]
    assert normal(spec["initContainers"]) == normal(expected["initContainers"])
    assert normal(spec["volumes"]) == normal(expected["volumes"])


@pytest.mark.parametrize(("part", "values"), BOTH)
def test_secured_nodes(part, values):
    """Each value by itself, with Secrets of one's own, and beside another source of nodes."""
    usual, source = sidecar(values), {f"{part}.dns": "memcached"}
    for chosen, variables, secrets in [
        ({"tls": True}, {}, {}),
        ({"tls": True, "tlsName": "cache.example"}, {"TLS_NAME": "cache.example"}, {}),
        ({"tls": True, "tlsCaSecret": "own"}, {"TLS_CA": "/etc/slipring-ca/ca.crt"}, {"slipring-ca": "own"}),
        ({"authSecret": "own"}, {"AUTH_FILE": "/etc/slipring-auth/auth"}, {"slipring-auth": "own"}),
    ]:
        documents = template(values | source | secured_values(part, chosen))
        (container,) = slipring_containers(documents)
        added = {"SLIPRING_DNS": "memcached"} | ({"SLIPRING_NODE_TLS": "true"} if "tls" in chosen else {})
        added |= {f"SLIPRING_NODE_{name}": value for name, value in variables.items()}
        expected = environment(usual) | added
        del expected["MEMCACHED_NODES_FILE"]
        assert environment(container) == expected | {"MEMCACHED_NODES_BEFORE_FILE": "/etc/slipring"}
        assert [mount["name"] for mount in container["volumeMounts"]] == ["slipring-config", *secrets]
        (owner,) = [document for document in documents if document["kind"] in ("PodTemplate", "DaemonSet")]
        volumes = (owner["template"] if part == "inject" else owner["spec"]["template"])["spec"]["volumes"]
        secret_of = {volume["name"]: volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
        assert secret_of == secrets and len(volumes) == 1 + len(secrets)
    for name in ["tlsName", "tlsCaSecret", "tlsCertificateSecret"]:
        with pytest.raises(Failed, match=rf"{part}\.{name}: without effect unless given with {part}\.tls"):
            template(values | secured_values(part, {name: "a"}))


def test_nodes_make_the_config_map():
    values = NODE_LOCAL | {"nodeLocal.nodes": "10.0.0.2,10.0.0.3", "nodeLocal.port": 11212}
    made = by_name(template(values, "somewhere"))
    found = made.pop(("ConfigMap", "somewhere", "memcached-config"))
    assert found["data"] == {"MEMCACHED_NODES": "10.0.0.2,10.0.0.3", "MEMCACHED_PORT": "11212"}
    assert made == by_name(template(NODE_LOCAL, "somewhere"))
    before = {"nodeLocal.nodesBefore": "ending:10.0.0.2", "nodeLocal.placementBefore": "jump"}
    made = by_name(template(values | before, "somewhere"))[("ConfigMap", "somewhere", "memcached-config")]
    before = {"MEMCACHED_NODES_BEFORE": "ending:10.0.0.2", "SLIPRING_PLACEMENT_BEFORE": "jump"}
    assert made["data"] == found["data"] | before


def test_a_patch():
    """Of lists by name, with what is taken away; as kustomize does it."""
    pod = {
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "system-node-critical",
        "tolerations": None,
        "containers": [
            {"name": "slipring", "ports": [{"containerPort": 11211, "hostPort": 1}], "env": [], "stdin": True},
            {"name": "other", "image": "other"},
        ],
        "volumes": [{"name": "slipring-config", "$patch": "delete"}, {"name": "more", "emptyDir": {}}],
    }
    (plain,) = [d["spec"]["template"]["spec"] for d in template(NODE_LOCAL) if d["kind"] == "DaemonSet"]
    values = NODE_LOCAL | {"nodeLocal.patch": {"spec": {"template": {"spec": pod}}}}
    (made,) = [d["spec"]["template"]["spec"] for d in template(values) if d["kind"] == "DaemonSet"]
    del plain["tolerations"]
    plain["imagePullSecrets"] = pod["imagePullSecrets"]
    plain["priorityClassName"] = pod["priorityClassName"]
    plain["containers"][0]["ports"][0]["hostPort"] = 1
    plain["containers"][0]["env"] = []
    plain["containers"][0]["stdin"] = True
    plain["containers"].append(pod["containers"][1])
    plain["volumes"] = [pod["volumes"][1]]
    assert made == plain


def test_pull_secrets_and_namespaces_of_google():
    values = NODE_LOCAL | {"nodeLocal.imagePullSecrets": [{"name": "registry"}]}
    values |= {"monitoring.podMonitoring": {"enabled": True, "namespaces": ["shop", "cart"]}}
    documents = template(values)
    (daemon,) = [document for document in documents if document["kind"] == "DaemonSet"]
    assert daemon["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert [d["metadata"]["namespace"] for d in documents if d["kind"] == "PodMonitoring"] == ["shop", "cart"]


@pytest.mark.parametrize(("part", "values"), BOTH)
def test_one_source_of_nodes(part, values):
    wrong = {f"{part}.discovery": "a", f"{part}.dns": "b"}
    with pytest.raises(Failed, match=f"{part}.discovery and {part}.dns: only one may say who the nodes are"):
        template(values | wrong)
    if part == "nodeLocal":
        with pytest.raises(Failed, match="nodeLocal.nodes and nodeLocal.dns: only one"):
            template(values | {"nodeLocal.nodes": "a", "nodeLocal.dns": "b"})


@pytest.mark.parametrize(
    ("version", "api_version", "taken"),
    [
        ("1.36.0-gke.100", "v1", True),
        ("1.35.9", "v1", False),
        ("1.34.0", "v1beta1", True),
        ("1.33.4", "v1beta1", False),
    ],
)
def test_which_clusters_can_inject(version, api_version, taken):
    values = {"inject.apiVersion": api_version}
    more = ["--kube-version", version]
    if taken:
        assert template(values, more=more) == template(values)
    else:
        with pytest.raises(Failed, match=rf"needs Kubernetes 1\.3[46] .* is v{re.escape(version)}\. .*deploy/sidecar"):
            template(values, more=more)
        template(NODE_LOCAL, more=more)


FOREIGN = ("monitoring.coreos.com/v1", "monitoring.googleapis.com/v1")


@pytest.mark.parametrize(("values", "directories", "monitoring"), list(combinations()))
def test_fits_the_published_schemas(values, directories, monitoring):
    own = {"nodeLocal.nodes": "10.0.0.2"} if "nodeLocal.enabled" in values else {}
    own |= secured_values("inject") | secured_values("nodeLocal")
    for document in template(values | own):
        if document["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(document, "1.36", strict=True)


def definition(kind, group, plural):
    """As much of another project's kind as is needed to store one."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    metadata = {"name": f"{plural}.{group}"}
    kind = "CustomResourceDefinition"
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A cluster of its own, for what helm installs cannot belong to kubectl."""
    with api.cluster(tmp_path_factory.mktemp("helm")) as made:
        kinds = [("PodMonitor", "monitoring.coreos.com", "podmonitors")]
        kinds += [("PrometheusRule", "monitoring.coreos.com", "prometheusrules")]
        kinds += [("PodMonitoring", "monitoring.googleapis.com", "podmonitorings")]
        text = yaml.safe_dump_all(definition(*kind) for kind in kinds)
        made.kubectl("apply", "-f", "-", stdin=text)
        for _, group, plural in kinds:
            made.kubectl("wait", "--for=condition=established", f"crd/{plural}.{group}", "--timeout=120s")
        made.namespace("shop", {"slipring/inject": "true"})
        yield made


def test_installed_changed_and_taken_away(bare):
    reach = [f"--kube-apiserver=https://127.0.0.1:{bare.port}", f"--kube-ca-file={bare.certificate}"]
    reach += [f"--kube-token={api.TOKEN}", "--namespace=slipring"]
    everything = NODE_LOCAL | MONITORING | {"inject.enabled": True, "nodeLocal.nodes": "10.0.0.2"}
    pod = {"metadata": {"generateName": "pod-"}, "spec": {"containers": [{"name": "app", "image": "app"}]}}

    def injected():
        """The sidecar that a new pod would have, or none."""
        try:
            made = containers(bare.create("shop", pod, dry_run=True))
        except api.Refused as refused:
            return str(refused)
        return next((container for container in made if container["name"] == "slipring"), None)

    def image():
        found = injected()
        return found["image"] if isinstance(found, dict) else found

    notes = helm("install", "slipring", CHART, "--create-namespace", *reach, *settings(everything))
    assert "slipring/inject=true" in notes and "slipring.slipring:11211" in notes
    eventually("pods get the sidecar", lambda: image() == "slipring:0.1.0")
    # What is stored is what was rendered, with the API server's defaults; nothing was dropped without a word.
    stored = [
        document
        for document in yaml.safe_load_all(helm("get", "manifest", "slipring", *reach))
        if document and document["apiVersion"] not in FOREIGN
    ]
    assert by_name(stored) == by_name(d for d in template(everything) if d["apiVersion"] not in FOREIGN)
    for document in stored:
        where = ["-n", "slipring"] if document["metadata"].get("namespace") else []
        kept = json.loads(bare.kubectl("get", document["kind"], document["metadata"]["name"], *where, "-o", "json"))
        assert contains(normal(kept), normal(document)) is None
    for kind in ["podmonitor", "podmonitoring", "prometheusrule"]:
        bare.kubectl("get", kind, "slipring", "-n", "slipring")

    # A list of nodes and the sidecar are changed; what is switched off goes.
    changed = everything | {"nodeLocal.nodes": "10.0.0.3", "image.tag": "9", "monitoring.alerts.enabled": False}
    helm("upgrade", "slipring", CHART, *reach, *settings(changed | {"inject.dns": "memcached.cache"}))
    eventually("pods get the other sidecar", lambda: image() == "slipring:9")
    found = injected()
    assert environment(found)["SLIPRING_DNS"] == "memcached.cache"
    assert "MEMCACHED_NODES_FILE" not in environment(found)
    assert environment(found)["MEMCACHED_NODES_BEFORE_FILE"] == "/etc/slipring"
    data = json.loads(bare.kubectl("get", "configmap", "memcached-config", "-n", "slipring", "-o", "json"))["data"]
    assert data["MEMCACHED_NODES"] == "10.0.0.3"
    with pytest.raises(api.Refused, match="not found"):
        bare.kubectl("get", "prometheusrule", "slipring", "-n", "slipring")

    # A pod that sets its own is obeyed, as with deploy/inject; a wrong setting is refused.
    pod["metadata"]["annotations"] = {"slipring/config-map": "own", "slipring/memory": "128Mi"}
    found = injected()
    assert environment(found)["MEMCACHED_NODES_FILE"] == "/etc/slipring" and "SLIPRING_DNS" not in environment(found)
    assert "MEMCACHED_NODES_BEFORE_FILE" not in environment(found)
    assert found["resources"]["limits"] == {"memory": "128Mi"}
    pod["metadata"]["annotations"] = {"slipring/memory": "1"}
    # The check takes effect at its own time.
    eventually("settings are checked", lambda: "annotation slipring/memory: 32Mi to 16Gi" in str(injected()))
    del pod["metadata"]["annotations"]

    helm("uninstall", "slipring", *reach)
    eventually("pods are left alone", lambda: injected() is None)
    left = bare.kubectl("get", "daemonset,service,podtemplate,podmonitor,podmonitoring", "-n", "slipring", "-o", "name")
    assert left == ""


def contains(kept, wanted, path=""):
    """Where what is stored lacks something of what was wanted; None if nowhere."""
    if isinstance(wanted, dict):
        return next(filter(None, (contains(kept.get(k), v, f"{path}.{k}") for k, v in wanted.items())), None)
    if isinstance(wanted, list):
        pairs = itertools.zip_longest(kept, wanted)
        return next(filter(None, (contains(*pair, f"{path}[{i}]") for i, pair in enumerate(pairs))), None)
    return None if kept == wanted else f"{path}: {kept} is not {wanted}"


@pytest.mark.parametrize(("values", "directories", "monitoring"), list(combinations()))
def test_an_api_server_takes_it(values, directories, monitoring, bare):
    documents = template(values | secured_values("inject") | secured_values("nodeLocal"), "default")
    if documents:
        text = yaml.safe_dump_all(documents)
        bare.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
