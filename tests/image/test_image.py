"""What the image is: its labels, its size, a binary that needs nothing; and that it serves."""

import contextlib
import json
import os
import pathlib
import re
import socket
import statistics
import struct
import subprocess
import threading
import time
import tomllib

import podman
import pytest
from processes import eventually, free_port, memcached, running
from securing import Secrets
from talk import Client

OF_OURS = "org.opencontainers.image."


def test_the_labels_say_what_cargo_toml_says(image):
    package = tomllib.loads((podman.ROOT / "Cargo.toml").read_text())["package"]
    labels = {name.removeprefix(OF_OURS): text for name, text in image["Labels"].items() if name.startswith(OF_OURS)}
    assert labels == {
        "title": package["name"],
        "description": package["description"],
        "version": package["version"],
        "licenses": package["license"],
        "source": podman.SOURCE,
        "revision": podman.REVISION,
        "created": podman.CREATED,
    }
    assert podman.IMAGE.endswith(f"/slipring:{package['version']}")


def test_it_runs_slipring_as_a_numbered_user_and_has_no_health_check(image):
    config = image["Config"]
    assert config["User"] == image["User"] == "65532:65532"
    assert config["Entrypoint"] == ["slipring"]
    assert "Cmd" not in config and "Shell" not in config
    assert set(config["ExposedPorts"]) == {"11211/tcp", "9150/tcp"}
    assert not [name for name in (*image, *config) if name.lower() == "healthcheck"]
    assert podman.run("--version") == f"slipring {podman.VERSION}"


def test_the_image_is_below_8_mb_and_holds_one_file(image, binary):
    size, of_binary = image["Size"], binary.stat().st_size
    print(f"\nimage {size} bytes, binary {of_binary} bytes")
    assert size < 8_000_000
    with podman.container() as name:
        root = pathlib.Path(podman.podman("mount", name))
        files = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        podman.podman("unmount", name)
    # The others are the empty ones that podman mounts over.
    assert [name for name in files if (name.split("/")[0] not in ("etc", "dev", "run"))] == ["usr/local/bin/slipring"]


def test_the_binary_needs_no_library_and_no_loader(binary):
    headers = podman.told("readelf", "--wide", "--program-headers", "--dynamic", binary)
    sections = podman.told("readelf", "--wide", "--sections", binary)
    listed = podman.told("ldd", binary)
    print(f"\nldd: {listed}\nNEEDED: {headers.count('(NEEDED)')}, INTERP: {headers.count('INTERP')}")
    assert "LOAD" in headers and ".text" in sections
    assert "INTERP" not in headers and "(NEEDED)" not in headers, headers
    assert listed == "statically linked"
    assert ".symtab" not in sections and ".debug_" not in sections, f"it is not stripped:\n{sections}"


def test_what_the_load_of_its_build_has_run_lies_together(binary):
    sections = podman.told("readelf", "--wide", "--sections", binary)
    sizes = {name: int(size, 16) for name, size in re.findall(r"(\.text\S*) +PROGBITS +\S+ +\S+ (\S+)", sections)}
    print(f"\n{sizes}")
    assert sizes.keys() == {".text", ".text.secured", ".text.run", ".text.seldom", ".text.uncounted"}
    assert min(sizes[".text"], sizes[".text.run"]) > 1_000_000
    # What only TLS runs; and of glibc and of the standard library alone.
    assert min(sizes[".text.secured"], sizes[".text.seldom"], sizes[".text.uncounted"]) > 300_000


def test_a_value_goes_through_it(image):
    node, port = free_port(), free_port()
    with running(memcached(node), node):
        serve = ["--nodes", f"127.0.0.1:{node}", "--listen", f"127.0.0.1:{port}", "--admin-listen=off"]
        with podman.container(*serve) as name:
            podman.started(name)
            eventually("it accepts", lambda: Client(port).close() is None)
            with Client(port) as client:
                client.stored("key", b"value")
                assert client.get("key") == b"value"
            with Client(node) as direct:
                assert direct.get("key") == b"value"


def idle(binary, of_node, of_slipring):
    """The resident memory, in KiB, of the binary in front of three nodes that has served one request."""
    nodes, port, admin = [free_port() for _ in range(3)], free_port(), free_port()
    serve = [binary, "--nodes", ",".join(f"127.0.0.1:{node}" for node in nodes), *of_slipring]
    serve += ["--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}", "--workers=1"]
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(running([*memcached(node), *of_node], node))
        process = stack.enter_context(running(serve, port))

        def up():
            return [one["state"] for one in json.loads(podman.http(admin, "/ring"))["nodes"]] == ["up"] * 3

        eventually("the nodes are up", up)
        with Client(port) as client:
            client.stored("key", b"value")
            assert client.get("key") == b"value"
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M)[1])


def test_an_idle_sidecar_is_below_4_5_mib_and_below_7_in_front_of_secured_nodes(binary):
    with Secrets() as secrets:
        plain = min(idle(binary, [], []) for _ in range(3))
        secured = min(idle(binary, secrets.of_node, secrets.of_slipring) for _ in range(3))
    print(f"\nidle: {plain} KiB in front of plain nodes, {secured} KiB by TLS and log-in")
    assert plain < 4.5 * 1024
    assert secured < 7 * 1024


@pytest.mark.parametrize("platform", ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-gnu", "aarch64-unknown-linux-musl"])
def test_nothing_is_particular_to_the_platform_of_this_machine(platform):
    """As far as can be seen without a compiler for the other: no C but that of `ring`, which is made for all of these and
    needs nothing but the compiler; no code for one kind of processor."""
    flat = ["--edges=normal,build", "--prefix=none", "--format={p}"]

    def names(*more):
        lines = podman.told("cargo", "tree", "--locked", "--target", platform, *flat, *more).splitlines()
        return {line.split()[0] for line in lines if line}

    needed = names()
    assert {"slipring", "tokio"} <= needed
    assert not needed & {"cmake", "bindgen", "pkg-config"}, "it needs more than a C compiler for that platform"
    assert names("--invert=cc", "--depth=1") == {"cc", "ring"}
    sources = list((podman.ROOT / "src").rglob("*.rs"))
    assert sources
    assert not [path for path in sources if re.search(r"target_arch|core::arch|std::arch", path.read_text())]


def test_help_prints_and_its_time(binary):
    """The time is for the record."""
    spent = []
    for _ in range(200):
        began = time.perf_counter()
        done = subprocess.run([binary, "--help"], capture_output=True, text=True)
        spent.append((time.perf_counter() - began) * 1000)
        assert done.returncode == 0 and "slipring" in done.stdout
    print(f"\n--help: median {statistics.median(spent):.2f} ms, least {min(spent):.2f} ms, most {max(spent):.2f} ms")


# === names, where there is no system around the binary ===


class Names(threading.Thread):
    """A name server on port 53 of a loopback address that knows one name."""

    KNOWN = ["cache", "example"]

    def __init__(self):
        super().__init__(daemon=True)
        self.asked = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        self.socket.bind((self.address, 53))

    def run(self):
        while True:
            question, asker = self.socket.recvfrom(512)
            labels, at = [], 12
            while question[at]:
                labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
                at += 1 + question[at]
            (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
            self.asked.append((".".join(labels), kind))
            known = labels == self.KNOWN
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 1]) if known and kind == 1 else b""
            flags = 0x8180 if known else 0x8183
            head = question[:2] + struct.pack(">HHHHH", flags, 1, 1 if answer else 0, 0, 0)
            self.socket.sendto(head + question[12 : at + 5] + answer, asker)


@pytest.fixture(scope="module")
def names():
    server = Names()
    server.start()
    return server


@pytest.mark.parametrize("host, asks", [("localhost", False), ("hosts.example", False), ("cache.example", True)])
def test_a_node_is_found_by_the_name_that_hosts_or_dns_give_it(image, names, host, asks):
    node, port, admin = free_port(), free_port(), free_port()
    options = ["--add-host=hosts.example:127.0.0.1", f"--dns={names.address}", "--dns-search=."]
    before = len(names.asked)
    with running(memcached(node), node):
        checked = podman.run("check", "--nodes", f"{host}:{node}", options=options)
        assert re.search(rf"^{host}:{node} +127\.0\.0\.1:{node} .* ok$", checked, re.M), checked
        asked = [name for name, _ in names.asked[before:]]
        assert (host in asked) == asks, f"{host} was {'not ' if asks else ''}asked for: {asked}"
        serve(host, node, port, admin, ["--nodes", f"{host}:{node}"], options)


def test_nodes_are_found_by_dns(image, names):
    node, port, admin = free_port(), free_port(), free_port()
    with running(memcached(node), node):
        serve("127.0.0.1", node, port, admin, ["--dns", f"cache.example.:{node}"], [f"--dns={names.address}"])


def serve(name, node, port, admin, source, options):
    """A value goes to the node that the ring calls by this name."""
    listen = ["--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"]
    with podman.container(*source, *listen, options=options) as container:
        podman.started(container)

        def up():
            nodes = json.loads(podman.http(admin, "/ring"))["nodes"]
            return [(one["name"], one["state"]) for one in nodes] == [(f"{name}:{node}", "up")]

        eventually(f"{name} is up", up)
        with Client(port) as client:
            client.stored("key", b"value")
            assert client.get("key") == b"value"
