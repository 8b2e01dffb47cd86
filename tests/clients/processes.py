"""Processes under test and beside it, on ports of their own."""

import contextlib
import os
import socket
import subprocess
import time

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


def memcached(port):
    """The command of a node on that port."""
    options = ["-u", "nobody", "-t", "1", "-m", "256", "-U", "0"]
    return ["memcached", *options, "-l", "127.0.0.1", "-p", str(port)]


@contextlib.contextmanager
def running(arguments, port, may_die=False):
    """A process that accepts at the port, until the end of the block."""
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    try:
        eventually(f"{arguments[0]} accepts", lambda: process.poll() is not None or accepts(port))
        assert process.poll() is None, f"{arguments[0]} ended early"
        yield process
        assert may_die or process.poll() is None, f"{arguments[0]} died in the test"
    finally:
        process.kill()
        process.wait()
