"""What the component refuses: the build fails, and its error names the workload, the reason and the label that lets the
workload be. And what it cannot see."""

import copy
import os
import re

import pytest
import yaml

from cluster import render
from manifests import DEPLOY, template, with_components

VARIANTS = ["sidecar", "sidecar/discovery", "sidecar/dns", "sidecar/legacy"]
KINDS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
}
LOCALHOST = ["MEMCACHED_NODES", "MEMCACHED_PORT", "MEMCACHED_DISCOVERY_HOST"]
APP = {"name": "app", "image": "app"}
NAME = "slipring is the sidecar, memcached wants its port"
PORT = "11211 and 9150 are the sidecar's"


def with_port(port, **more):
    return {**APP, "ports": [{"containerPort": 8080}, {"containerPort": port, **more}]}


def called(name):
    return {"name": name, "image": "app"}


REFUSED = {
    "hostNetwork": ({"hostNetwork": True, "containers": [APP]}, "localhost is that of its machine, see node-local"),
    "for Windows": ({"os": {"name": "windows"}, "containers": [APP]}, "the sidecar is for Linux"),
    "on Windows": ({"nodeSelector": {"kubernetes.io/os": "windows"}, "containers": [APP]}, "the sidecar is for Linux"),
    "the sidecar's name": ({"containers": [called("slipring")]}, NAME),
    "the sidecar's name, second": ({"containers": [APP, called("slipring")]}, NAME),
    "the sidecar's name, init": ({"initContainers": [called("slipring")], "containers": [APP]}, NAME),
    "a memcached": ({"containers": [called("memcached")]}, NAME),
    "the data port": ({"containers": [with_port(11211)]}, PORT),
    "the admin port, second": ({"containers": [APP, {**with_port(9150, name="metrics"), "name": "other"}]}, PORT),
    "the data port, init": ({"initContainers": [{**with_port(11211), "name": "cache"}], "containers": [APP]}, PORT),
}
LONGER = ["MEMCACHED_NODES_LIMIT", "OLD_MEMCACHED_NODES", "MEMCACHED_PORT_2", "MEMCACHED_DISCOVERY_HOSTS", "A.MEMCACHED_PORT"]
# Close to that, and fine.
TAKEN = {
    "no hostNetwork": {"hostNetwork": False, "containers": [APP]},
    "for Linux": {"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "linux"}, "containers": [APP]},
    "names": {"containers": [called(name) for name in ["slipring-ui", "my-slipring", "memcached-1", "true", "null", "9150"]]},
    "images": {
        "containers": [
            {"name": f"app-{i}", "image": image}
            for i, image in enumerate(["slipring", "memcached:1.6", "true", "9150:1", "11211", "null", "r.example:9150/a@sha256:1"])
        ]
    },
    "ports": {"containers": [with_port(1121), {**with_port(112110, hostPort=9150), "name": "other"}]},
    "a variable of that value": {"containers": [{**APP, "env": [{"name": "PORT", "value": "11211"}]}]},
    "variables with longer names": {
        "containers": [{**APP, "env": [{"name": name, "value": "1"} for name in LONGER]}],
    },
    "no ports": {"containers": [{**APP, "ports": []}]},
}
# Kinds that the component does not reach: where the pod's spec is in theirs.
OTHERS = {
    ("v1", "Pod"): (),
    ("v1", "ReplicationController"): ("template", "spec"),
    ("argoproj.io/v1alpha1", "Rollout"): ("template", "spec"),
    ("apps.openshift.io/v1", "DeploymentConfig"): ("template", "spec"),
    ("apps.kruise.io/v1alpha1", "CloneSet"): ("template", "spec"),
    ("serving.knative.dev/v1", "Service"): ("template", "spec"),
    ("keda.sh/v1alpha1", "ScaledJob"): ("jobTargetRef", "template", "spec"),
}


def workload(kind, pod, label=None):
    spec = {"template": {"spec": copy.deepcopy(pod)}}
    metadata = {"name": "mine", "namespace": "shop"}
    if label:
        metadata["labels"] = {label: "false"}
    if kind == "CronJob":
        spec = {"jobTemplate": {"spec": spec}}
    return {"apiVersion": KINDS[kind], "kind": kind, "metadata": metadata, "spec": spec}


def build(directory, documents, components):
    (directory / "sources").mkdir()
    source = directory / "sources" / "app.yaml"
    source.write_text(yaml.safe_dump_all(documents))
    return list(yaml.safe_load_all(with_components(directory, [source], components)))


def refused(directory, documents, components):
    with pytest.raises(AssertionError) as error:
        build(directory, documents, components)
    return str(error.value)


def names(message, document, reason, label="inject"):
    """The error's own words, and then kustomize's name of the object."""
    version = document["apiVersion"].rpartition("/")
    assert re.search(
        rf"refused without the label slipring/{label}=false/.*{re.escape(reason)}' of object "
        rf"{document['kind']}\.{version[2]}\.({version[0]}|\[noGrp\])/mine\.shop: ",
        message,
    ), message


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, kind, tmp_path):
    pod, reason = REFUSED[what]
    document = workload(kind, pod)
    names(refused(tmp_path, [document], ["sidecar"]), document, reason)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_refused(kind, tmp_path):
    """Among others that are fine, it is the one that is named."""
    document = workload(kind, REFUSED["the data port"][0])
    fine = [workload(other, {"containers": [APP]}) for other in KINDS if other != kind]
    names(refused(tmp_path, [*fine, document], ["sidecar"]), document, PORT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_refuses(variant, tmp_path):
    document = workload("StatefulSet", REFUSED["the data port"][0])
    names(refused(tmp_path, [document], [variant]), document, PORT)


def every(pods, label=None):
    """A workload of each kind for each of them."""
    for kind in KINDS:
        for i, pod in enumerate(pods):
            document = workload(kind, pod, label)
            document["metadata"]["name"] = f"mine-{i}"
            yield document


def key(document):
    return document["kind"], document["metadata"]["name"]


def test_the_label_lets_it_be(tmp_path):
    documents = list(every([pod for pod, _ in REFUSED.values()], "slipring/inject"))
    made = build(tmp_path, documents, ["sidecar"])
    assert sorted(made, key=key) == sorted(documents, key=key)


def test_what_is_close_to_it_is_taken(tmp_path):
    """And nothing of it is changed but what every workload gets."""
    documents = list(every(TAKEN.values()))
    made = {key(document): document for document in build(tmp_path, documents, ["sidecar"])}
    assert len(made) == len(documents)
    for document in documents:
        found = made[key(document)]
        assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
        spec = template(found)["spec"]
        assert [c["name"] for c in spec.pop("initContainers")] == ["slipring"]
        spec.pop("volumes")
        for container in spec["containers"]:
            container["env"] = [entry for entry in container["env"] if entry["name"] not in LOCALHOST]
            if not container["env"]:
                del container["env"]
        assert spec == template(document)["spec"]


def other(version, kind):
    spec = {"containers": [APP]}
    for field in reversed(OTHERS[version, kind]):
        spec = {field: spec}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "mine", "namespace": "shop"}, "spec": spec}


def test_the_message_in_the_manual(tmp_path):
    text = re.search(r"```\n… (considering .*?): …\n```", (DEPLOY / "README.md").read_text(), re.S)[1]
    document = workload("StatefulSet", REFUSED["the data port"][0])
    document["metadata"] = {"name": "memcached"}
    assert text.replace("\n", " ") in refused(tmp_path, [document], ["sidecar"])


@pytest.mark.parametrize(("version", "kind"), OTHERS)
def test_kinds_that_it_does_not_reach(version, kind, tmp_path):
    document = other(version, kind)
    names(refused(tmp_path, [document], ["sidecar"]), document, "this kind gets no sidecar here, see inject")


def test_the_label_lets_other_kinds_be(tmp_path):
    documents = [other(*which) for which in OTHERS]
    for document in documents:
        document["metadata"]["labels"] = {"slipring/inject": "false"}
    assert sorted(build(tmp_path, documents, ["sidecar"]), key=key) == sorted(documents, key=key)


def test_a_rollout_of_a_deployment_is_taken(tmp_path):
    """Its pods are the Deployment's, which gets the sidecar. So is what only has the name of such a kind."""
    documents = [
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Rollout",
            "metadata": {"name": "mine"},
            "spec": {"workloadRef": {"kind": "Deployment", "name": "mine"}},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mine"}, "spec": {"ports": [{"port": 11211}]}},
    ]
    made = build(tmp_path, [workload("Deployment", {"containers": [APP]}), *documents], ["sidecar"])
    assert sorted((document for document in made if document["kind"] != "Deployment"), key=key) == documents
    (deployment,) = [document for document in made if document["kind"] == "Deployment"]
    assert template(deployment)["spec"]["initContainers"][0]["name"] == "slipring"


@pytest.mark.parametrize("kind", ["Job", "CronJob"])
def test_a_job_does_not_get_a_sidecar_that_keeps_it_from_ending(kind, tmp_path):
    document = workload(kind, {"containers": [APP]})
    names(refused(tmp_path, [document], ["sidecar/legacy"]), document, "a Job needs a native sidecar")


def test_the_memcached_of_the_example_is_refused(tmp_path):
    """In one kustomization with the app it would get a sidecar that wants its port."""
    source = DEPLOY / "example" / "memcached" / "statefulset.yaml"
    with pytest.raises(AssertionError, match=r"slipring/inject=false/.* of object StatefulSet\.v1\.apps/memcached\.") as error:
        with_components(tmp_path, [source], ["sidecar"])
    assert "memcached wants its port" in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind"), [("scrape", "Job"), ("port", "Deployment"), ("path", "DaemonSet"), ("port", "CronJob")]
)
def test_an_apps_own_scrape_annotations_are_not_overwritten(name, kind, tmp_path):
    document = workload(kind, {"containers": [APP]})
    template(document)["metadata"] = {"annotations": {f"prometheus.io/{name}": "8080"}}
    (tmp_path / "refused").mkdir()
    message = refused(tmp_path / "refused", [document], ["sidecar", "sidecar/scrape"])
    names(message, document, "the pod has annotations of its own", "scrape")
    document["metadata"]["labels"] = {"slipring/scrape": "false"}
    (made,) = build(tmp_path, [document], ["sidecar", "sidecar/scrape"])
    assert template(made)["metadata"]["annotations"] == {f"prometheus.io/{name}": "8080"}


BESIDE = ["cpu-limit", "tls", "tls/ca", "tls/certificate", "auth"]


@pytest.mark.parametrize("component", BESIDE)
@pytest.mark.parametrize("kind", ["Deployment", "Job", "CronJob"])
def test_what_is_for_the_sidecar_is_refused_without_one(kind, component, tmp_path):
    """Or before it, or with the other variant."""
    for i, order in enumerate([[component, ""], [component], ["legacy", component], ["", f"legacy/{component}"]]):
        if kind != "Deployment" and "legacy" in "".join(order):
            continue
        (tmp_path / str(i)).mkdir()
        components = [f"sidecar/{part}".rstrip("/") for part in order]
        message = refused(tmp_path / str(i), [workload(kind, {"containers": [APP]})], components)
        assert re.search(r"/spec/template/spec/(initContainers/0|containers/0)/name", message), message


# What kustomize cannot do, as deploy/README.md says.


def test_a_patch_beside_the_component_is_not_seen(tmp_path):
    """kustomize runs components before the patches of the same kustomization; those of a base come before both."""
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    for directory in (base, overlay, tmp_path / "seen"):
        directory.mkdir()
    document = workload("Deployment", {"containers": [APP]})
    (base / "app.yaml").write_text(yaml.safe_dump(document))
    patch = [{"op": "add", "path": "/spec/template/spec/hostNetwork", "value": True}]
    patches = [{"target": {"kind": "Deployment"}, "patch": yaml.safe_dump(patch)}]
    component = os.path.relpath(DEPLOY / "sidecar", overlay)
    (base / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["app.yaml"]}))
    made = {"resources": ["../base"], "components": [component]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({**made, "patches": patches}))
    (made_of,) = yaml.safe_load_all(render(overlay))
    spec = template(made_of)["spec"]
    assert spec["hostNetwork"] and spec["initContainers"][0]["name"] == "slipring"

    (base / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["app.yaml"], "patches": patches}))
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(made))
    with pytest.raises(AssertionError) as error:
        render(overlay)
    names(str(error.value), document, REFUSED["hostNetwork"][1])


def test_a_kind_that_nobody_told_it_of_is_left_alone(tmp_path):
    document = {
        "apiVersion": "example/v1",
        "kind": "Fleet",
        "metadata": {"name": "mine"},
        "spec": {"template": {"spec": {"containers": [APP]}}},
    }
    assert build(tmp_path, [document], ["sidecar"]) == [document]


def test_a_port_that_is_not_declared_is_not_seen(tmp_path):
    pod = {"containers": [{**APP, "args": ["--port=11211"]}]}
    (made,) = build(tmp_path, [workload("Deployment", pod)], ["sidecar"])
    assert template(made)["spec"]["initContainers"][0]["name"] == "slipring"
