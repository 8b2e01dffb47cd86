"""Where clients are pointed at: slipring in front of three nodes of some kind, or a memcached itself."""

import contextlib
import pathlib
import sys

from conftest import PATIENT, serving
from processes import binary, free_port, memcached, running
from securing import Secrets

RELAY = str(pathlib.Path(__file__).with_name("old_node.py"))


@contextlib.contextmanager
def node(*more):
    port = free_port()
    with running([*memcached(port), *more], port):
        yield port


@contextlib.contextmanager
def relayed(*traits):
    with node() as behind:
        port = free_port()
        with running([sys.executable, RELAY, str(port), str(behind), *traits], port):
            yield port


@contextlib.contextmanager
def dev():
    listen, admin = free_port(), free_port()
    command = [binary(), "dev", "--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}", *PATIENT]
    with running(command, listen):
        yield listen


@contextlib.contextmanager
def three(make, *arguments):
    """slipring in front of three nodes, each made by `make`."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(make()) for _ in range(3)]
        listen, _ = stack.enter_context(serving(nodes, *PATIENT, *arguments))
        yield listen


@contextlib.contextmanager
def secured():
    """Nodes that take TLS alone, and want to be logged in to."""
    with Secrets() as secrets, three(lambda: node(*secrets.of_node), *secrets.of_slipring) as listen:
        yield listen


# slipring in front of each kind of nodes.
KINDS = {
    "1.6.18": lambda: three(node),
    "as 1.5.16": lambda: three(lambda: relayed("as-1.5.16")),
    "no binary": lambda: three(lambda: node("-B", "ascii")),
    "TLS and log-in": secured,
}
# With nodes of its own.
EMBEDDED = {"dev": dev}
TRIED = [*KINDS, *EMBEDDED]
# Itself: what every answer is held against. Clients that ask for the nodes need one that tells them.
THEMSELVES = {"memcached": node, "memcached with discovery": lambda: relayed("discovery")}


class Places:
    """Made when they are first asked for, and there until the stack is closed."""

    def __init__(self, stack):
        self.stack, self.ports = stack, {}

    def port(self, place):
        if place not in self.ports:
            self.ports[place] = self.stack.enter_context((THEMSELVES | EMBEDDED | KINDS)[place]())
        return self.ports[place]
