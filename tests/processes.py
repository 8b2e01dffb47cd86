"""Processes that tests start on ports of their own, and the waiting for them."""

import contextlib
import os
import socket
import subprocess
import time

# Seconds. It only decides how long a failing test takes: an API server on a busy machine needs more than half a minute.
PATIENCE = 120
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


def eventually(what, done, pause=0.01, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(OSError):
            if done():
                return
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(pause)


def accepts(port):
    socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    return True


@contextlib.contextmanager
def running(arguments, port, may_die=False):
    """The process, from the time it accepts connections; it must not end by itself, unless the test ends it."""
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    try:
        eventually(f"{arguments[0]} accepts", lambda: process.poll() is not None or accepts(port))
        assert process.poll() is None, f"{arguments[0]} ended early"
        yield process
        assert may_die or process.poll() is None, f"{arguments[0]} died in the test"
    finally:
        process.kill()
        process.wait()


def memcached(port):
    return ["memcached", "-u", "nobody", "-t", "1", "-m", "256", "-U", "0", "-l", "127.0.0.1", "-p", str(port)]


def binary():
    """The slipring under test."""
    path = os.environ.get("SLIPRING_BIN")
    assert path, "SLIPRING_BIN does not name a slipring; tests/run sets it"
    return path
