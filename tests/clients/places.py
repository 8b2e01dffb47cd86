"""Where clients are pointed at: slipring in front of three nodes of some kind, or a memcached itself."""

import contextlib
import pathlib
import sys

from conftest import serving
from processes import binary, free_port, memcached, running

RELAY = str(pathlib.Path(__file__).with_name("old_node.py"))
PATIENT = ["--request-timeout", "30s", "--queue-timeout", "30s"]


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


# The kinds of nodes.
KINDS = {
    "1.6.18": node,
    "as 1.5.16": lambda: relayed("as-1.5.16"),
    "no binary": lambda: node("-B", "ascii"),
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
            alone = THEMSELVES | EMBEDDED
            if place in alone:
                self.ports[place] = self.stack.enter_context(alone[place]())
            else:
                nodes = [self.stack.enter_context(KINDS[place]()) for _ in range(3)]
                self.ports[place], _ = self.stack.enter_context(serving(nodes, *PATIENT))
        return self.ports[place]
