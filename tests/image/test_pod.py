"""The image under a pod's constraints: what the sidecar's limit of 64 MiB must bear without the kernel killing it."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import podman
import pytest
from group import Group, Watch
from processes import accepts, eventually, free_port, memcached, running
from talk import Client

MIB = 1 << 20
LIMIT = 64 * MIB
# Anything that a container of ours may not do, it may not do here.
CONSTRAINTS = [
    "--user=65532:65532",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    f"--memory={LIMIT}",
    f"--memory-swap={LIMIT}",
]
NODES = 3


class Pod:
    def __init__(self, name, pid, port, admin, nodes):
        self.name, self.pid, self.port, self.admin, self.nodes = name, pid, port, admin, nodes
        self.group = Group(pid)

    def metric(self, name):
        return int(re.search(rf"^{name} (\d+)$", podman.http(self.admin, "/metrics"), re.M)[1])

    def resident(self):
        """The most memory that the process had, in bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)[1]) << 10

    @contextlib.contextmanager
    def bearing(self, what):
        """What happens here must leave the container as it was; prints its memory."""
        failures = self.group.failures()
        with Watch(self.group) as watch:
            yield
        state = podman.inspected("container", self.name)
        print(
            f"\n{what}: at most {watch.charged >> 10} KiB charged, {watch.sockets >> 10} KiB of it sockets;"
            f" resident set so far {self.resident() >> 10} KiB, group's own peak so far {self.group.peak() >> 10} KiB;"
            f" limit met {self.group.failures() - failures} times"
        )
        assert state["State"]["Status"] == "running", state["State"]
        assert (state["State"]["Pid"], state["RestartCount"]) == (self.pid, 0)
        assert self.group.kills() == 0
        assert 0 < watch.sockets < watch.charged
        # Where sockets count against the limit, this is what would be held against it.
        assert watch.charged < LIMIT
        assert podman.http(self.admin, "/healthz")


@pytest.fixture(scope="module")
def pod(image):
    ports = [free_port() for _ in range(NODES)]
    port, admin = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        for node in ports:
            # Room for values of 128 MiB, and for all that the soak leaves behind.
            sized = memcached(node) + ["-m", "2048", "-I", "160m", "-c", "4096"]
            stack.enter_context(running(sized, node))
        serve = ["serve", "--nodes", ",".join(f"127.0.0.1:{node}" for node in ports)]
        serve += ["--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"]
        # A node of a test is slow because the machine is busy.
        serve += ["--request-timeout=30s", "--queue-timeout=30s"]
        name = stack.enter_context(podman.container(*serve, options=CONSTRAINTS))
        podman.podman("init", name)
        Group(podman.inspected("container", name)["State"]["Pid"]).count_sockets()
        pod = Pod(name, podman.started(name), port, admin, ports)
        eventually("it accepts", lambda: accepts(port) and accepts(admin))
        eventually("the nodes are up", lambda: podman.http(admin, "/ring").count('"state":"up"') == NODES)
        yield pod


def test_the_constraints_hold(pod):
    proc = pathlib.Path(f"/proc/{pod.pid}")
    status = dict(re.findall(r"^(\w+):\s*(.*)$", (proc / "status").read_text(), re.M))
    assert status["Uid"].split() == status["Gid"].split() == ["65532"] * 4
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert int(status[f"Cap{kind}"], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "no filter of system calls"
    mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    assert [fields[5].split(",")[0] for fields in mounts if fields[4] == "/"] == ["ro"]
    limits = (proc / "limits").read_text()
    assert re.search(r"^Max open files +8192 +8192 ", limits, re.M), limits
    assert re.search(r"^Max processes +1024 +1024 ", limits, re.M), limits
    assert pod.group.limit() == LIMIT
    inside = proc / "root/sys/fs/cgroup" / ("memory/memory.limit_in_bytes" if pod.group.old else "memory.max")
    assert int(inside.read_text()) == LIMIT, "what the process itself reads"
    assert pod.metric("slipring_buffer_limit_bytes") == LIMIT // 10 * 4


def test_the_limit_is_enforced_here(image):
    """Where the kernel ignored the limit, nothing below would mean anything."""
    port, limit = free_port(), 32 * MIB
    # In-memory nodes, which hold what they are given.
    hoard = ["dev", "--nodes=1", "--node-memory=1GiB", "--listen", f"127.0.0.1:{port}", "--admin-listen=off"]
    options = [f"--memory={limit}", f"--memory-swap={limit}"]
    with podman.container(*hoard, options=options) as name:
        podman.started(name)
        eventually("it accepts", lambda: accepts(port))
        with pytest.raises((AssertionError, OSError)), Client(port) as client:
            for number in range(1000):
                client.stored(f"key{number}", os.urandom(MIB // 2))

        def ended():
            return podman.inspected("container", name)["State"]["Status"] == "exited"

        eventually("it is killed", ended, pause=0.1)
        state = podman.inspected("container", name)["State"]
        # Not `OOMKilled`: podman does not always learn of it.
        assert state["ExitCode"] == 128 + signal.SIGKILL, state


def test_the_soak(pod):
    with pod.bearing("soak"):
        environment = dict(os.environ, SLIPRING_SOAK_ADDRESS=f"127.0.0.1:{pod.port}", SLIPRING_SOAK_OPERATIONS="500000")
        command = ["cargo", "test", "--locked", "--release", "--test", "soak", "--", "--exact", "--nocapture"]
        done = subprocess.run(
            [*command, "millions_of_operations_and_none_is_wrong"],
            cwd=podman.ROOT, env=environment, capture_output=True, text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"through 127.0.0.1:{pod.port}" in done.stdout and "test result: ok. 1 passed" in done.stdout, done.stdout
        print("\n" + re.search(r"^\d+ operations, .*$", done.stdout, re.M)[0])
    for node in pod.nodes:
        with Client(node) as direct:
            assert direct.stats()["evictions"] == "0", "the soak's own assumption"


def test_values_of_128_mib_by_several_clients(pod):
    size, clients = 128 * MIB, 6
    # Repeats after no power of two, so that a piece that is lost, doubled or moved shows.
    once = os.urandom(65_521)
    pattern = memoryview(once * 33)
    wrong, barrier = [], threading.Barrier(clients)

    def pieces():
        for at in range(0, size, 65_521 * 16):
            yield at, min(65_521 * 16, size - at)

    def move(number):
        try:
            with Client(pod.port) as client:
                client.socket.settimeout(300)
                barrier.wait(60)
                client.socket.sendall(f"set large{number} {number} 0 {size}\r\n".encode())
                for _, length in pieces():
                    client.socket.sendall(pattern[number : number + length])
                client.socket.sendall(b"\r\n")
                client.expect(b"STORED\r\n")
                barrier.wait(300)
                # The first one's is read by all, too.
                for whose in (number, 0):
                    client.socket.sendall(f"get large{whose}\r\n".encode())
                    client.expect(f"VALUE large{whose} {whose} {size}\r\n".encode())
                    for at, length in pieces():
                        assert client.reader.read(length) == pattern[whose : whose + length], f"{whose}, from {at} on"
                    client.expect(b"\r\n")
                    client.expect(b"END\r\n")
        except (AssertionError, OSError, threading.BrokenBarrierError) as error:
            wrong.append(f"client {number}: {error!r}")
            barrier.abort()

    with pod.bearing(f"{clients} clients with values of 128 MiB"):
        movers = [threading.Thread(target=move, args=[number]) for number in range(clients)]
        for mover in movers:
            mover.start()
        served = 0
        with Client(pod.port) as bystander:
            bystander.stored("small", b"value")
            while any(mover.is_alive() for mover in movers):
                assert bystander.get("small") == b"value"
                served += 1
                time.sleep(0.001)
        print(f"\n{served} small gets were served meanwhile")
        assert not wrong, wrong
        assert served > 0


def test_a_thousand_clients_that_never_read(pod):
    count, values = 1000, 64

    def value(number):
        return (f"<{number}>".encode() * MIB)[:MIB]

    with pod.bearing(f"{count} clients that never read"), contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(pod.port))
        for number in range(values):
            client.stored(f"big:{number}", value(number))
        client.stored("small", b"value")
        got, missed, slowest = 0, 0, 0.0

        def look():
            nonlocal got, missed, slowest
            began = time.monotonic()
            found = client.get("small")
            slowest = max(slowest, time.monotonic() - began)
            assert found in (b"value", None)
            got, missed = got + (found is not None), missed + (found is None)

        silent = []
        for number in range(count):
            one = stack.enter_context(socket.socket())
            # What lies with the reader is not the proxy's burden: let it be little.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", pod.port))
            one.sendall(f"get big:{number % values}\r\nget big:{(number * 7 + 1) % values}\r\n".encode())
            silent.append(one)
            look()
        for _ in range(2000):
            look()
            time.sleep(0.001)
        connected = pod.metric("slipring_client_connections")
        print(f"\n{got} gets of another client were answered, {missed} missed, the slowest took {slowest * 1000:.0f} ms;"
              f" {connected} clients still connected, {pod.metric('slipring_buffer_bytes') >> 10} KiB buffered")
        assert missed * 10 <= got
    # It serves on, values of that size included.
    eventually("they are gone", lambda: pod.metric("slipring_client_connections") < 10)
    with Client(pod.port) as client:
        for number in range(values):
            assert client.get(f"big:{number}") == value(number)


def test_a_thousand_clients_in_the_middle_of_a_set(pod):
    count, length = 1000, MIB
    with pod.bearing(f"{count} clients in the middle of a set of 1 MiB"), contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(pod.port))
        client.stored("small", b"value")
        half = b"x" * (length // 2)
        for number in range(count):
            one = stack.enter_context(socket.socket())
            one.connect(("127.0.0.1", pod.port))
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                request = f"set half:{number} 0 0 {length}\r\n".encode() + half
                while request:
                    request = request[one.send(request) :]
        for _ in range(500):
            assert client.get("small") == b"value"
            time.sleep(0.001)
