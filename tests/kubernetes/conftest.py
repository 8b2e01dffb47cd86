"""One API server for all tests, with deploy/inject applied to it. `SLIPRING_BIN` names the binary under test;
`INJECT=inject-v1beta1` and `KUBE_APISERVER`, an API server of 1.34 or 1.35, try that one."""

import contextlib
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import cluster as api
from manifests import DEPLOY
from processes import eventually


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """As it is without slipring."""
    with api.cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(server):
    """With the injection of deploy/inject in force, and a namespace of each kind."""
    in_force(server, os.environ.get("INJECT", "inject"))
    return server


def in_force(server, directory):
    server.namespace("plain", {})
    server.namespace("labelled", {"slipring/inject": "true"})
    server.kubectl("apply", "--validate=strict", "-k", str(DEPLOY / directory))
    canary = {"metadata": {"name": "canary"}, "spec": {"containers": [{"name": "app", "image": "app"}]}}
    wrong = {"metadata": {"name": "canary", "labels": {"slipring/inject": "?"}}, "spec": canary["spec"]}
    # A policy takes effect a moment after it is stored, each at its own time; so does the label of a namespace.
    opted = {"metadata": {"name": "canary", "labels": {"slipring/inject": "true"}}, "spec": canary["spec"]}

    def injects(namespace, pod):
        with contextlib.suppress(api.Refused):  # the check is in force before the injection
            return "initContainers" in server.create(namespace, pod, dry_run=True)["spec"]

    port = {"metadata": {"name": "canary"}, "spec": {"containers": [{"name": "app", "image": "memcached"}]}}

    def refuses(namespace, pod):
        try:
            server.create(namespace, pod, dry_run=True)
        except api.Refused:
            return True

    eventually("pods of a labelled namespace are injected", lambda: injects("labelled", canary))
    eventually("labelled pods are injected", lambda: injects("plain", opted))
    eventually("settings are checked", lambda: refuses("plain", wrong))
    eventually("ports are checked", lambda: refuses("labelled", port))
