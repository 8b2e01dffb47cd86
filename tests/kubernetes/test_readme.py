"""What deploy/README.md says in figures and tables."""

import base64
import contextlib
import math
import os
import pathlib
import re
import socket
import subprocess

import pytest
import yaml

from cluster import TOKEN, render, tool
from manifests import DEPLOY, slipring_containers
from processes import PATIENCE, binary, eventually, free_port, memcached, running

TEXT = (DEPLOY / "README.md").read_text()


def rows(heading, text=TEXT):
    """The rows of the table whose first heading that is, without the headings."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M)[1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def number(cell):
    return int(cell.replace(",", "").strip("| "))


def test_the_table_of_connections():
    (daemon,) = slipring_containers(list(yaml.safe_load_all(render(DEPLOY / "node-local"))))
    workers = int({entry["name"]: entry.get("value") for entry in daemon["env"]}["SLIPRING_WORKERS"])
    found = [[number(cell) for cell in row] for row in rows("pods")]
    assert [row[0] for row in found] == [100, 1_000, 10_000]
    for pods, machines, direct, sidecars, local in found:
        assert machines == math.ceil(pods / 30)
        assert (direct, sidecars, local) == (pods * 20, pods, machines * workers)


def connections(port):
    """How many memcached has besides the one that asks."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        connection.sendall(b"stats\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += connection.recv(1 << 16)
    return int(re.search(rb"STAT curr_connections (\d+)", answer)[1])


@pytest.mark.parametrize(("workers", "each"), [(1, 1), (2, 1), (2, 3)])
def test_the_arithmetic_of_connections(workers, each):
    """A slipring holds workers × connections per node to each node, whatever its clients."""
    nodes = [free_port(), free_port()]
    listen, admin = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(running(memcached(node), node))
        at_rest = [connections(node) for node in nodes]
        command = [binary(), "--nodes", ",".join(f"127.0.0.1:{node}" for node in nodes)]
        command += ["--workers", str(workers), "--connections-per-node", str(each)]
        command += ["--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}"]
        stack.enter_context(running(command, listen))
        for i in range(20):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", listen), PATIENCE))
            client.sendall(b"".join(b"get key-%d-%d\r\n" % (i, j) for j in range(20)))
            answer = b""
            while answer != b"END\r\n" * 20:
                answer += client.recv(1 << 16)
        for node, before in zip(nodes, at_rest):
            eventually("all are open", lambda: connections(node) - before == workers * each)


def test_the_table_of_annotations():
    """It names those that the check lets pass, and what stands for those that are not there."""
    check = (DEPLOY / "inject" / "check.yaml").read_text()
    known = re.search(r"name: known\s+expression: >-\s+\[(.*?)\]", check, re.S)[1]
    table = {row[0].strip("|` "): [cell.strip("|` ") for cell in row[1:]] for row in rows("annotation")}
    assert list(table) == re.findall(r"'([^']+)'", known)
    for name, (default, allowed) in table.items():
        if default != "–":
            assert f"[?'{name}'].orValue('{default}')" in check, name
        # What is allowed ends the text, or is followed by a list.
        message = re.search(rf"'annotation {name}: ([^']*?)(?:, not|' \+)", check)[1]
        assert set(re.findall(r"\w+", message)) <= set(re.findall(r"\w+", allowed)), name


def section(title):
    return re.search(rf"^## {title}\n(.*?)^## ", TEXT, re.M | re.S)[1]


def test_the_table_of_secured_nodes():
    """Each row says the same thing thrice: for the component, an injected pod and the chart."""
    check = (DEPLOY / "inject" / "check.yaml").read_text()
    files = {"SLIPRING_NODE_TLS_CA": "ca", "SLIPRING_NODE_TLS_CERT": "certificate", "SLIPRING_NODE_AUTH_FILE": "auth"}
    seen = set()
    for row in rows("the cache"):
        parts = [re.findall(r"`(.+?)`", cell) for cell in row[2:]]
        if not any(parts):
            continue
        ((component,), annotations, values) = parts
        seen.add(component)
        patch = yaml.safe_load((DEPLOY / component / "workload.yaml").read_text())["spec"]["template"]["spec"]
        env = {entry["name"] for entry in patch["initContainers"][0]["env"]}
        (kind,) = [files[name] for name in env if name in files] or ["tls"]
        annotation, value = yaml.safe_load(annotations[0]).popitem()
        assert f"'{annotation}'" in check and annotation == {"tls": "slipring/tls"}.get(
            kind, "slipring/auth-secret" if kind == "auth" else f"slipring/tls-{kind}-secret"
        )
        secrets = {volume["secret"]["secretName"] for volume in patch.get("volumes", [])} or {"true"}
        assert {value} == secrets
        chosen = {name: value for each in values for name, value in yaml.safe_load(each).items()}
        named = "authSecret" if kind == "auth" else f"tls{kind.capitalize()}Secret"
        assert chosen.get(named, "true") == value and chosen.get("tls", True) is True
    assert seen == {"sidecar/tls", "sidecar/tls/ca", "sidecar/tls/certificate", "sidecar/auth"}


def test_what_is_written_of_secured_nodes_works(server, tmp_path):
    """The commands make Secrets with the keys that are mounted; the kustomizations can be built."""
    text = section("Secured nodes")
    server.namespace("shop", {})
    for name in ["ca.crt", "tls.crt", "tls.key"]:
        (tmp_path / name).write_text(name)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.S)
    reach = f"--server=https://127.0.0.1:{server.port} --certificate-authority={server.certificate} --token={TOKEN}"
    script = f'kubectl() {{ {tool("kubectl")} {reach} "$@"; }}\n{commands}'
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]})
    stored = {name: server.ask("GET", f"/api/v1/namespaces/shop/secrets/memcached-{name}")["data"] for name in ["tls", "auth"]}
    assert stored["tls"].keys() == {"ca.crt", "tls.crt", "tls.key"}
    assert base64.b64decode(stored["auth"]["auth"]) == b"app:PASSWORD"
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    for number, block in enumerate(blocks):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "app.yaml").write_text((pathlib.Path(__file__).parent / "apps" / "sets.yaml").read_text())
        block.setdefault("resources", ["app.yaml"])
        own = yaml.safe_dump(block).replace("../deploy", os.path.relpath(DEPLOY, directory))
        (directory / "kustomization.yaml").write_text(own)
        made = slipring_containers(list(yaml.safe_load_all(render(directory))))
        assert made and all({"SLIPRING_NODE_TLS_CA", "SLIPRING_NODE_AUTH_FILE"} < names(each) for each in made)


def names(container):
    return {entry["name"] for entry in container["env"]}
