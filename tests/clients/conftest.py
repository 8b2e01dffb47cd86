"""Three real memcached nodes and slipring in front of them, for client libraries that know nothing
of either. `SLIPRING_BIN` names the binary under test; `tests/run` sets it."""

import contextlib
import json
import pathlib
import shutil
import socket
import sys
import urllib.request

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from processes import PATIENCE, binary, eventually, free_port, memcached, running

# No miss and no error because the machine is busy.
PATIENT = ["--connect-timeout", "30s", "--request-timeout", "30s", "--queue-timeout", "30s"]


@pytest.fixture(scope="session")
def nodes():
    assert shutil.which("memcached"), "no memcached in PATH; tests/run installs it"
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        for port in ports:
            stack.enter_context(running(memcached(port), port))
        yield ports


@contextlib.contextmanager
def serving(nodes, *arguments):
    """slipring in front of these nodes, all of them up: where clients connect, and the admin port."""
    listen, admin = free_port(), free_port()
    command = [binary(), "serve", "--nodes", ",".join(f"127.0.0.1:{port}" for port in nodes)]
    command += ["--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}", *arguments]
    with running(command, listen):

        def up():
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ring", timeout=PATIENCE) as page:
                return [node["state"] for node in json.load(page)["nodes"]] == ["up"] * len(nodes)

        eventually("all nodes are up", up)
        yield listen, admin


@pytest.fixture(scope="session", name="serving")
def serving_fixture():
    """For tests that want a slipring of their own."""
    return serving


@pytest.fixture(scope="session")
def port(nodes):
    with serving(nodes, *PATIENT) as (listen, _):
        yield listen


@pytest.fixture(autouse=True)
def empty(port):
    """Each test begins with nothing stored."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        connection.sendall(b"flush_all\r\n")
        assert connection.recv(100) == b"OK\r\n"
