"""Three real memcached nodes and slipring in front of them, for client libraries that know nothing
of either. `SLIPRING_BIN` names the binary under test; `tests/run` sets it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

PATIENCE = 30
CLAIMS = []


def free_port():
    """A port below the range of outgoing connections; the UDP port of the same number, held until
    the end, tells other test processes that it is taken."""
    for port in range(12000 + os.getpid() * 257 % 20000, 32000 + 20000):
        port = 12000 + (port - 12000) % 20000
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.closing(socket.socket()) as probe:
            try:
                claim.bind(("127.0.0.1", port))
                probe.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
        CLAIMS.append(claim)
        return port
    raise RuntimeError("no free port")


def eventually(what, done):
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if done():
                return
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def accepts(port):
    socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    return True


@contextlib.contextmanager
def running(arguments, port):
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    try:
        eventually(f"{arguments[0]} accepts", lambda: process.poll() is not None or accepts(port))
        assert process.poll() is None, f"{arguments[0]} ended early"
        yield process
        assert process.poll() is None, f"{arguments[0]} died in the test"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def nodes():
    assert shutil.which("memcached"), "no memcached in PATH; tests/run installs it"
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        for port in ports:
            command = ["memcached", "-u", "nobody", "-t", "1", "-m", "256", "-U", "0"]
            stack.enter_context(running([*command, "-l", "127.0.0.1", "-p", str(port)], port))
        yield ports


@pytest.fixture(scope="session")
def port(nodes):
    binary = os.environ.get("SLIPRING_BIN")
    assert binary, "SLIPRING_BIN does not name a slipring; tests/run sets it"
    listen, admin = free_port(), free_port()
    command = [binary, "serve", "--nodes", ",".join(f"127.0.0.1:{port}" for port in nodes)]
    command += ["--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}"]
    with running(command, listen):

        def up():
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ring", timeout=PATIENCE) as page:
                return [node["state"] for node in json.load(page)["nodes"]] == ["up"] * 3

        eventually("all nodes are up", up)
        yield listen


@pytest.fixture(autouse=True)
def empty(port):
    """Each test begins with nothing stored."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        connection.sendall(b"flush_all\r\n")
        assert connection.recv(100) == b"OK\r\n"
