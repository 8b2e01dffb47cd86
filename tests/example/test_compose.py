"""deploy/example/compose.yaml, by the library that `docker compose` reads its files with; and slipring with what it says
there. Containers are not started: their images would have to be fetched."""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import urllib.request

import pytest
import yaml

from processes import PATIENCE, binary, eventually, free_port, memcached, running

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "example"
BUILD = pathlib.Path(__file__).parent / "compose" / "build"


@pytest.fixture(scope="module")
def reader():
    return subprocess.run([BUILD], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def read(reader, path):
    command = [reader, "-format", "json", path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True)


@pytest.fixture(scope="module")
def services(reader):
    done = read(reader, EXAMPLE / "compose.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["services"]


def test_the_reader_is_strict(reader, tmp_path):
    text = (EXAMPLE / "compose.yaml").read_text()
    assert text.count("mem_limit:") == 1
    (tmp_path / "compose.yaml").write_text(text.replace("mem_limit:", "memlimit:"))
    done = read(reader, tmp_path / "compose.yaml")
    assert done.returncode != 0 and "memlimit" in done.stderr + done.stdout


def test_services_name_services(services):
    """Which the reader leaves to who starts them."""
    for service in services.values():
        named = {*service.get("depends_on", {}), *re.findall("^service:(.*)", service.get("network_mode", ""))}
        assert named <= services.keys()


def test_what_it_builds_and_mounts_is_there(services):
    for service in services.values():
        if "build" in service:
            assert (pathlib.Path(service["build"]["context"]) / "Dockerfile").is_file()
        for volume in service.get("volumes", []):
            assert volume["read_only"] and pathlib.Path(volume["source"]).is_dir()
    assert pathlib.Path(services["slipring"]["build"]["context"]) == ROOT
    # The same images as in Kubernetes.
    deployment = yaml.safe_load((EXAMPLE / "deployment.yaml").read_text())
    assert services["app"]["image"] == deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    said = subprocess.run([binary(), "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    assert services["slipring"]["image"] == f"slipring:{said}"


def test_the_app_finds_the_sidecar_at_localhost(services):
    """As in a pod: one network, to which the app's port belongs, too. Nothing is open but to this machine."""
    app, sidecar = services["app"], services["slipring"]
    assert app["network_mode"] == "service:slipring" and "ports" not in app
    assert {(port["host_ip"], port["target"]) for port in sidecar["ports"]} == {("127.0.0.1", 8080), ("127.0.0.1", 9150)}
    assert 'bind = "0.0.0.0:8080"' in (EXAMPLE / "app" / "gunicorn.conf.py").read_text()
    assert not any("ports" in service for name, service in services.items() if name.startswith("memcached"))


def test_the_nodes_are_those_that_run(services):
    listed = (EXAMPLE / "nodes" / "MEMCACHED_NODES").read_text().strip().split(",")
    memcacheds = {name: service for name, service in services.items() if name.startswith("memcached")}
    assert listed == [name for name, service in memcacheds.items() if "profiles" not in service]
    assert services["slipring"]["depends_on"].keys() == set(listed)
    # The comment says how the one that is left joins.
    text = (EXAMPLE / "compose.yaml").read_text()
    more = re.search(r"--profile (\w+) up --detach (\S+)", text)
    assert memcacheds[more[2]]["profiles"] == [more[1]]
    written = re.search(r"echo (\S+) > (\S+)", text)
    assert written[1].split(",") == [*listed, more[2]]
    assert (ROOT / written[2]).is_file()


def test_slipring_with_its_environment(services, tmp_path):
    """The directory of nodes stands where it is mounted; a list that is written there is obeyed."""
    sidecar = services["slipring"]
    (volume,) = sidecar["volumes"]
    mounted = tmp_path / "mounted"
    shutil.copytree(volume["source"], mounted)
    environment = {name: value.replace(volume["target"], str(mounted)) for name, value in sidecar["environment"].items()}
    assert str(mounted) in environment.values()
    said = subprocess.run([binary(), "serve", "--help"], check=True, capture_output=True, text=True).stdout
    assert all(f"[env: {name}]" in said for name in environment)
    ports = [free_port(), free_port()]
    data, admin = free_port(), free_port()
    environment |= {"SLIPRING_LISTEN": f"127.0.0.1:{data}", "SLIPRING_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
    command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), binary()]

    def nodes():
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ring", timeout=PATIENCE) as answer:
            return {node["name"]: node["state"] for node in json.load(answer)["nodes"]}

    # Here the names of the services lead nowhere: the file gives them addresses.
    def write(*ports):
        text = ",".join(f"127.0.0.1:{port}/memcached-{i + 1}" for i, port in enumerate(ports))
        (mounted / "MEMCACHED_NODES").write_text(text + "\n")

    write(ports[0])
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(running(memcached(port), port))
        process = stack.enter_context(running(command, admin, may_die=True))
        eventually("the node is up", lambda: nodes() == {"memcached-1": "up"})
        write(*ports)
        eventually("the other one has joined", lambda: nodes() == {"memcached-1": "up", "memcached-2": "up"})
        process.terminate()
        # The app has been stopped before.
        assert process.wait(PATIENCE) == 0
