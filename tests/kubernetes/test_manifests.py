"""Everything in deploy/: against the published schemas and on a real API server, strict about unknown fields."""

import json
import os

import kubernetes_validate
import pytest
import yaml

from cluster import Refused, render
from manifests import DEPLOY, EXPECTED, kustomizations, loose, slipring_containers

# Kinds of other projects: no Kubernetes has them by itself.
FOREIGN = {("monitoring.coreos.com/v1", "PodMonitor"), ("monitoring.googleapis.com/v1", "PodMonitoring")}


def foreign(document):
    return (document["apiVersion"], document["kind"]) in FOREIGN


def sources():
    """What is applied with -k, what with -f, and what the component makes."""
    yield from ((name, lambda name=name: render(DEPLOY / name)) for name in kustomizations("Kustomization"))
    yield from ((name, lambda name=name: (DEPLOY / name).read_text()) for name in loose())
    for path in sorted(EXPECTED.glob("*.yaml")):
        yield f"expected {path.stem}", path.read_text


SOURCES = dict(sources())
APPLIED = [name for name in SOURCES if name != "expected sidecar-unfinished"]


def documents(name):
    found = [document for document in yaml.safe_load_all(SOURCES[name]()) if document]
    assert found, f"{name} is empty"
    return found


@pytest.mark.parametrize("name", APPLIED)
def test_fits_the_published_schemas(name):
    for document in documents(name):
        if not foreign(document):
            kubernetes_validate.validate(document, "1.36", strict=True)


@pytest.mark.parametrize("name", APPLIED)
def test_an_api_server_takes_it(name, server):
    mine = [document for document in documents(name) if not foreign(document)]
    namespaces = {document["metadata"]["namespace"] for document in mine if "namespace" in document["metadata"]}
    made = [document["metadata"]["name"] for document in mine if document["kind"] == "Namespace"]
    for namespace in namespaces | set(made):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        server.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    if mine:
        text = yaml.safe_dump_all(mine)
        server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


def test_both_are_strict(server):
    (document,) = [d for d in documents("network/admin.yaml")]
    document["spec"]["ingres"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.36", strict=True)
    with pytest.raises(Refused, match="ingres"):
        server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(document))


def test_an_image_of_ones_own_reaches_injected_pods(tmp_path):
    own = {"resources": [os.path.relpath(DEPLOY / "inject", tmp_path)]}
    own["images"] = [{"name": "slipring", "newName": "mirror/slipring", "newTag": "9"}]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    (container,) = slipring_containers(list(yaml.safe_load_all(render(tmp_path))))
    assert container["image"] == "mirror/slipring:9"


@pytest.mark.parametrize("name", ["monitoring/podmonitor.yaml", "monitoring/podmonitoring-gke.yaml"])
def test_the_monitors_find_the_sidecar(name):
    """They go by the name of a container's port; it must be that of every sidecar in deploy/, and of no other."""
    (monitor,) = documents(name)
    endpoints = monitor["spec"].get("podMetricsEndpoints") or monitor["spec"]["endpoints"]
    (port,) = {endpoint["port"] for endpoint in endpoints}
    assert {endpoint["path"] for endpoint in endpoints} == {"/metrics"}
    seen = 0
    for source in SOURCES:
        for container in slipring_containers(documents(source)):
            assert [p["containerPort"] for p in container["ports"] if p["name"] == port] == [9150], source
            seen += 1
    assert seen > 20
