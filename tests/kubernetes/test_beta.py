"""deploy/inject-v1beta1 on an API server that serves the beta API: the same injection. There is no server of 1.34 here;
tests/kubernetes/conftest.py says how to try one."""

import pytest
import yaml

import cluster as api
from conftest import in_force
from manifests import DEPLOY, ROOT
from test_injection import LISTENERS, SHAPES, essence

GROUP = "admissionregistration.k8s.io"
KINDS = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"]


@pytest.fixture(scope="module")
def beta(tmp_path_factory):
    """An API server of its own, which has never seen deploy/inject."""
    with api.cluster(tmp_path_factory.mktemp("beta")) as made:
        in_force(made, "inject-v1beta1")
        yield made


def documents(directory):
    found = list(yaml.safe_load_all(api.render(DEPLOY / directory)))
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def test_it_differs_in_the_version_alone():
    stable, beta = documents("inject"), documents("inject-v1beta1")
    assert stable.keys() == beta.keys()
    changed = [which for which in stable if stable[which] != beta[which]]
    assert {kind for kind, _ in changed} == {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"}
    for which in changed:
        assert stable[which].pop("apiVersion") == f"{GROUP}/v1"
        assert beta[which].pop("apiVersion") == f"{GROUP}/v1beta1"
        assert stable[which] == beta[which]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pod_gets_the_same(shape, beta, cluster):
    def injected(server):
        return server.create("labelled", {"metadata": {"generateName": "pod-"}, "spec": SHAPES[shape]})

    assert essence(injected(beta)) == essence(injected(cluster))


def test_wrong_pods_are_refused(beta):
    for pod, message in [
        ({"metadata": {"annotations": {"slipring/memory": "64"}}, "spec": SHAPES["bare"]}, "annotation slipring/memory"),
        ({"metadata": {}, "spec": LISTENERS["the data port"]}, "label slipring/inject of the namespace"),
    ]:
        pod["metadata"]["name"] = "wrong"
        with pytest.raises(api.Refused, match=message):
            beta.create("labelled", pod)


def test_the_stable_one_takes_its_place(beta):
    """When the cluster is 1.36: the objects are the same."""

    def uids():
        return {
            item["metadata"]["name"]: item["metadata"]["uid"]
            for kind in KINDS
            for item in beta.ask("GET", f"/apis/{GROUP}/v1/{kind}")["items"]
        }

    before = uids()
    assert len(before) == 3
    beta.kubectl("apply", "--validate=strict", "-k", str(DEPLOY / "inject"))
    assert uids() == before
    pod = beta.create("labelled", {"metadata": {"generateName": "pod-"}, "spec": SHAPES["bare"]})
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["slipring"]


@pytest.mark.parametrize("path", ["deploy/README.md", "deploy/inject-v1beta1/kustomization.yaml"])
def test_the_flags_are_those_of_this_server(path):
    assert all(flag in (ROOT / path).read_text() for flag in api.BETA)


def test_no_function_is_newer_than_the_beta():
    """A policy of 1.34 does not know how to flatten a list; the server under test does."""
    for document in documents("inject-v1beta1").values():
        if document["kind"] == "MutatingAdmissionPolicy":
            assert ".flatten()" not in str(document)
