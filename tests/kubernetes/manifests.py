"""What is in deploy/, and what kustomize makes of it."""

import functools
import os
import pathlib
import tempfile

import yaml

from cluster import render

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXPECTED = pathlib.Path(__file__).parent / "expected"


def kustomizations(kind):
    """The directories in deploy/ with a kustomization of that kind."""
    found = []
    for path in sorted(DEPLOY.rglob("kustomization.yaml")):
        if yaml.safe_load(path.read_text())["kind"] == kind:
            found.append(path.parent.relative_to(DEPLOY).as_posix())
    return found


def loose():
    """The manifests in deploy/ that no kustomization lists: each is applied by itself. The chart is helm's."""
    chart = DEPLOY / "helm"
    listed = {path for path in DEPLOY.rglob("kustomization.yaml") for path in path.parent.rglob("*.yaml")}
    return sorted(
        path.relative_to(DEPLOY).as_posix()
        for path in DEPLOY.rglob("*.yaml")
        if path not in listed
        and chart not in path.parents
        and any("apiVersion" in (found or {}) for found in yaml.safe_load_all(path.read_text()))
    )


def with_components(directory, resources, components):
    """A team's own kustomization, rendered: its resources and the line for the component."""
    for source in resources:
        (directory / source.name).write_text(source.read_text())
    text = yaml.safe_dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [source.name for source in resources],
            "components": [os.path.relpath(DEPLOY / component, directory) for component in components],
        }
    )
    (directory / "kustomization.yaml").write_text(text)
    return render(directory)


# What a machine's slipring needs for nodes that want everything; deploy/README.md has them, too.
SECURED = ["sidecar/legacy/tls/ca", "sidecar/legacy/tls/certificate", "sidecar/legacy/auth"]


@functools.cache
def secured(directory):
    """A DaemonSet of deploy/node-local with these components, rendered."""
    with tempfile.TemporaryDirectory() as name:
        own = {"resources": [os.path.relpath(DEPLOY / directory, name)]}
        own["components"] = [os.path.relpath(DEPLOY / component, name) for component in SECURED]
        (pathlib.Path(name) / "kustomization.yaml").write_text(yaml.safe_dump(own))
        return render(name)


def template(workload):
    """The pod template in a workload, whatever its kind."""
    spec = workload["spec"]
    return spec["jobTemplate"]["spec"]["template"] if workload["kind"] == "CronJob" else spec["template"]


def pod_of(workload):
    """The pod that a controller would make of it."""
    made = template(workload)
    labels = dict(made.get("metadata", {}).get("labels", {}))
    if workload["kind"] in ("Job", "CronJob"):
        labels["batch.kubernetes.io/job-name"] = workload["metadata"]["name"]
    metadata = {"generateName": workload["metadata"]["name"] + "-", "labels": labels}
    annotations = made.get("metadata", {}).get("annotations")
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made["spec"]}


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def slipring_containers(found):
    """Every container called slipring, at whatever depth."""
    if isinstance(found, list):
        return [container for each in found for container in slipring_containers(each)]
    if not isinstance(found, dict):
        return []
    if found.get("name") == "slipring" and "image" in found:
        return [found]
    return [container for each in found.values() for container in slipring_containers(each)]
