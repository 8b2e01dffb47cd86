"""deploy/sidecar as a team uses it: one line under `components:`. What comes out is compared with files;
UPDATE_EXPECTED=1 writes them."""

import difflib
import os
import pathlib
import re
import subprocess

import pytest
import yaml

from cluster import Refused, render
from manifests import (
    DEPLOY,
    EXPECTED,
    containers,
    kustomizations,
    pod_of,
    secured,
    slipring_containers,
    template,
    with_components,
)
from processes import binary, eventually

APPS = pathlib.Path(__file__).parent / "apps"
ALL = ["deployments", "sets", "jobs"]
CASES = {
    "sidecar": (ALL, ["sidecar"]),
    "sidecar-unfinished": (["unfinished"], ["sidecar"]),
    "discovery": (ALL, ["sidecar/discovery"]),
    "dns": (ALL, ["sidecar/dns"]),
    "legacy": (["deployments", "sets"], ["sidecar/legacy"]),
    "scrape": (ALL, ["sidecar", "sidecar/scrape"]),
    "cpu-limit": (ALL, ["sidecar", "sidecar/cpu-limit"]),
    "legacy-cpu-limit": (["deployments", "sets"], ["sidecar/legacy", "sidecar/legacy/cpu-limit"]),
    "tls": (ALL, ["sidecar/discovery", "sidecar/tls"]),
    "tls-ca": (["deployments"], ["sidecar", "sidecar/tls/ca"]),
    "secured": (ALL, ["sidecar/dns", "sidecar/tls/ca", "sidecar/tls/certificate", "sidecar/auth"]),
    "legacy-tls": (["deployments", "sets"], ["sidecar/legacy", "sidecar/legacy/tls"]),
    "legacy-secured": (
        ["deployments", "sets"],
        ["sidecar/legacy", "sidecar/legacy/tls/ca", "sidecar/legacy/tls/certificate", "sidecar/legacy/auth"],
    ),
}
LOCALHOST = {"MEMCACHED_NODES": "localhost", "MEMCACHED_PORT": "11211", "MEMCACHED_DISCOVERY_HOST": "localhost"}


def rendered(case, directory):
    apps, components = CASES[case]
    return with_components(directory, [APPS / f"{app}.yaml" for app in apps], components)


def has_sidecar(workload):
    return workload["metadata"].get("labels", {}).get("slipring/inject") != "false"


@pytest.mark.parametrize("case", CASES)
def test_renders_as_expected(case, tmp_path):
    text = rendered(case, tmp_path)
    path = EXPECTED / f"{case}.yaml"
    if os.environ.get("UPDATE_EXPECTED"):
        path.write_text(text)
    expected = path.read_text()
    difference = difflib.unified_diff(expected.splitlines(), text.splitlines(), "expected", "rendered", lineterm="")
    assert text == expected, "\n".join(difference)


@pytest.mark.parametrize("case", CASES)
def test_each_app_is_led_to_its_sidecar(case, tmp_path):
    """What the expected files should show, said once more by rule."""
    for workload in yaml.safe_load_all(rendered(case, tmp_path)):
        spec = template(workload)["spec"]
        names = [c["name"] for c in spec.get("initContainers") or []]
        ordinary = [c["name"] for c in spec["containers"]]
        if not has_sidecar(workload):
            assert "slipring" not in names + ordinary
            assert "MEMCACHED" not in str(spec)
            continue
        first, other = (ordinary, names) if case.startswith("legacy") else (names, ordinary)
        assert first[0] == "slipring" and (first + other).count("slipring") == 1
        assert template(workload)["metadata"]["labels"]["slipring/sidecar"] == "true"
        for container in ([] if case.startswith("legacy") else spec["initContainers"]) + spec["containers"]:
            if container["name"] == "slipring":
                assert container.get("restartPolicy") == (None if case.startswith("legacy") else "Always")
                continue
            env = [(entry["name"], entry.get("value"), "valueFrom" in entry) for entry in container["env"]]
            assert sorted(e for e in env if e[0] in LOCALHOST) == sorted((n, v, False) for n, v in LOCALHOST.items())


@pytest.mark.parametrize("case", [case for case in CASES if case != "sidecar-unfinished"])
def test_twice_is_once(case, tmp_path):
    """A base has the components, and an overlay has them again."""
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    base.mkdir()
    overlay.mkdir()
    once = rendered(case, base)
    components = [os.path.relpath(DEPLOY / component, overlay) for component in CASES[case][1]]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["../base"], "components": components}))
    assert list(yaml.safe_load_all(render(overlay))) == list(yaml.safe_load_all(once))


def test_an_image_and_settings_of_ones_own(tmp_path):
    """As README has it: a patch beside the component, and `images`."""
    with_components(tmp_path, [APPS / "sets.yaml"], ["sidecar"])
    path = tmp_path / "kustomization.yaml"
    patch = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "stateful"},
        "spec": {
            "template": {
                "spec": {
                    "initContainers": [
                        {"name": "slipring", "env": [{"name": "SLIPRING_ON_NODE_DOWN", "value": "error"}]}
                    ]
                }
            }
        },
    }
    own = {"images": [{"name": "slipring", "newName": "mirror/slipring", "newTag": "9"}]}
    own["patches"] = [{"patch": yaml.safe_dump(patch)}]
    path.write_text(path.read_text() + yaml.safe_dump(own))
    workloads = {workload["kind"]: template(workload)["spec"] for workload in yaml.safe_load_all(render(tmp_path))}
    for kind, spec in workloads.items():
        sidecar = spec["initContainers"][0]
        assert sidecar["name"] == "slipring" and sidecar["image"] == "mirror/slipring:9"
        env = {entry["name"]: entry.get("value") for entry in sidecar["env"]}
        assert env["MEMCACHED_NODES_FILE"] == "/etc/slipring"
        assert env.get("SLIPRING_ON_NODE_DOWN") == ("error" if kind == "StatefulSet" else None)


@pytest.mark.parametrize("case", [case for case in CASES if case != "sidecar-unfinished"])
def test_a_cluster_takes_it(case, server, tmp_path):
    """Also where pods are held to the strictest of the Pod Security Standards."""
    (tmp_path / "rendered.yaml").write_text(rendered(case, tmp_path))
    namespace = server.namespace(f"component-{case}", {"pod-security.kubernetes.io/enforce": "restricted"})
    server.kubectl("apply", "--validate=strict", "-n", namespace, "-f", str(tmp_path / "rendered.yaml"))
    for workload in yaml.safe_load_all((tmp_path / "rendered.yaml").read_text()):
        pod = pod_of(workload)
        for container in containers(pod):
            if container["name"] != "slipring":
                container["securityContext"] = {
                    "runAsNonRoot": True,
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                }
        stored = server.create(namespace, pod)
        assert [c["name"] for c in containers(stored)] == [c["name"] for c in containers(pod)]


LIMITS = {"limits": {"cpu": "1", "memory": "64Mi"}}


@pytest.mark.parametrize("case", ["sidecar", "cpu-limit", "legacy", "legacy-cpu-limit"])
def test_a_quota_of_cpu_limits(case, server, tmp_path):
    """Which wants a limit in every container: the app has one, and the sidecar with sidecar/cpu-limit."""
    namespace = server.namespace(f"quota-{case}", {})
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    quota = server.ask("POST", path, {"metadata": {"name": "cpu"}, "spec": {"hard": {"limits.cpu": "100"}}})
    # What the controller would do, that is not here.
    quota["status"] = {"hard": {"limits.cpu": "100"}, "used": {"limits.cpu": "0"}}
    server.ask("PUT", f"{path}/cpu/status", quota)
    made = {workload["metadata"]["name"]: workload for workload in yaml.safe_load_all(rendered(case, tmp_path))}
    pod = pod_of(made["bare"])
    for container in containers(pod):
        if container["name"] == "app":
            container["resources"] = LIMITS
    if case.endswith("cpu-limit"):
        eventually("the quota counts", lambda: counted(server, namespace, pod))
    else:
        missing = "must specify limits.cpu for: slipring"
        eventually("the quota refuses", lambda: missing in str(refusal(server, namespace, pod)))


def counted(server, namespace, pod):
    """That the server enforces the quota already, and takes the pod."""
    bare = {"metadata": {"generateName": "bare-"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    return refusal(server, namespace, bare) and not refusal(server, namespace, pod)


def refusal(server, namespace, pod):
    try:
        server.create(namespace, pod)
    except Refused as error:
        return str(error)


def test_the_legacy_sidecar_lasts_as_long_as_its_pod():
    """It gets SIGTERM with the app, which may take as long as its pod: no time is too short."""
    text = subprocess.run([binary(), "serve", "--help"], check=True, capture_output=True, text=True).stdout
    longest = re.search(r"after SIGTERM, 0s to (\w+);", text)[1]
    for workload in yaml.safe_load_all((EXPECTED / "legacy.yaml").read_text()):
        for container in slipring_containers(workload):
            environment = {entry["name"]: entry.get("value") for entry in container["env"]}
            assert environment["SLIPRING_DRAIN_TIMEOUT_ON_EXIT"] == longest
            for probe in ["startupProbe", "livenessProbe"]:
                assert container[probe]["terminationGracePeriodSeconds"] == 5


def test_a_pod_that_may_not_is_told(server):
    """That the namespaces of the test above are strict indeed."""
    namespace = server.namespace("strict", {"pod-security.kubernetes.io/enforce": "restricted"})
    with pytest.raises(Refused, match="violates PodSecurity"):
        server.create(namespace, {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": "a"}]}})


@pytest.mark.parametrize("made", [lambda variant: render(DEPLOY / variant), secured], ids=["plain", "secured"])
@pytest.mark.parametrize("level", ["restricted", "baseline", "privileged"])
@pytest.mark.parametrize(
    ("variant", "lowest"),
    [("node-local", "restricted"), ("node-local/host-port", "privileged"), ("node-local/socket", "privileged")],
)
def test_what_right_a_machines_slipring_needs(variant, lowest, level, made, server):
    """As the table of deploy/README.md says; Secrets need none."""
    namespace = f"{variant.replace('/', '-')}-{level}-{'secured' if made is secured else 'plain'}"
    server.namespace(namespace, {"pod-security.kubernetes.io/enforce": level})
    (daemon,) = [found for found in yaml.safe_load_all(made(variant)) if found["kind"] == "DaemonSet"]
    if lowest in ("restricted", level):
        server.create(namespace, pod_of(daemon))
    else:
        with pytest.raises(Refused, match="violates PodSecurity"):
            server.create(namespace, pod_of(daemon))


def test_no_component_is_forgotten():
    used = {component for _, components in CASES.values() for component in components}
    assert {name for name in kustomizations("Component") if "/parts/" not in name} == used
