"""The Helm chart in deploy/helm, what helm makes of it, and what kustomize makes of the same files."""

import functools
import json
import pathlib
import re
import subprocess

import yaml

from cluster import render
from manifests import DEPLOY

CHART = DEPLOY / "helm"
# The values for node-local alone.
NODE_LOCAL = {"inject.enabled": False, "nodeLocal.enabled": True}
BUILD = pathlib.Path(__file__).parent / "helm" / "build"


class Failed(Exception):
    """What helm said when it failed."""


@functools.cache
def helm_binary():
    where = subprocess.run([BUILD], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return f"{where}/helm"


def helm(*arguments):
    done = subprocess.run([helm_binary(), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise Failed(done.stdout + done.stderr)
    return done.stdout


def settings(values):
    return [part for name, value in values.items() for part in ("--set-json", f"{name}={json.dumps(value)}")]


def template(values, namespace="slipring", chart=CHART, more=()):
    """The documents that helm renders."""
    text = helm("template", "slipring", chart, "--namespace", namespace, *settings(values), *more)
    return [document for document in yaml.safe_load_all(text) if document]


def kustomized(directory, namespace):
    """The same from kustomize, as if it were for that namespace, which helm makes itself if it is told to."""
    own = "slipring-inject" if directory.startswith("inject") else "slipring"
    found = [document for document in yaml.safe_load_all(render(DEPLOY / directory)) if document["kind"] != "Namespace"]
    return [in_namespace(document, own, namespace) for document in found]


def in_namespace(found, own, other):
    if isinstance(found, dict):
        moved = {key: in_namespace(value, own, other) for key, value in found.items()}
        return moved | ({"namespace": other} if moved.get("namespace") == own else {})
    if isinstance(found, list):
        return [in_namespace(each, own, other) for each in found]
    # A Service's name has its namespace in it.
    return re.sub(rf"^slipring\.{own}:", f"slipring.{other}:", found) if isinstance(found, str) else found


def normal(found):
    """Without what means nothing: the order of what has a name, and how expressions are broken into lines."""
    if isinstance(found, dict):
        return {key: normal(value) for key, value in found.items()}
    if isinstance(found, list):
        named = all(isinstance(each, dict) and "name" in each for each in found)
        return [normal(each) for each in (sorted(found, key=lambda each: each["name"]) if named else found)]
    return re.sub(r"\s+", " ", found) if isinstance(found, str) else found


def by_name(documents):
    """Each document, normalised, by what tells it apart."""
    found = {}
    for document in map(normal, documents):
        metadata = document["metadata"]
        if "AdmissionPolicy" in document["kind"]:
            metadata.pop("namespace", None)  # kustomize does not know that there is none
        key = (document["kind"], metadata.get("namespace"), metadata["name"])
        assert key not in found, key
        found[key] = document
    return found


def environment(container):
    """Its variables: a text, or where it comes from."""
    found = {}
    for entry in container["env"]:
        name, (key, value) = entry["name"], *(pair for pair in entry.items() if pair[0] != "name")
        assert key in ("value", "valueFrom") and name not in found, entry
        found[name] = value
    return found
