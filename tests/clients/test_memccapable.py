"""libmemcached's own suite of the text and the binary protocol.

`memccapable` of libmemcached 1.1.4 has 27 tests of either. Text: version, quit, verbosity, set, get, gets, mget, flush,
add, replace, cas, delete, incr, decr, append, prepend (most of them with noreply too), and stat. Binary: noop, quit, set,
flush, add, replace, delete, get, getk, incr, decr, append, prepend (each with its quiet one), version and stat. A router
can pass every one of them, so there is none that is excused here, but for those that a memcached of that version does not
pass itself: before 1.6 the suite wants `version noreply` refused, and much of the rest is built on that test.
"""

import contextlib
import re
import shutil
import subprocess

import pytest
from places import TRIED, Places, relayed


@pytest.fixture(scope="module")
def places():
    with contextlib.ExitStack() as stack:
        yield Places(stack)


def failures(protocol, port):
    """The tests that did not pass."""
    only = {"ascii": "-a", "binary": "-b"}[protocol]
    command = ["memccapable", only, "-v", "-t", "30", "-h", "127.0.0.1", "-p", str(port)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    output = run.stdout + run.stderr
    print(output)
    # What went wrong comes without a line end of its own.
    results = re.findall(rf"({protocol} [a-z ]+?) +(\[pass\])?\s", output)
    assert len(results) == 27
    failed = {test for test, passed in results if not passed}
    assert (run.returncode == 0) == (not failed)
    return failed


@pytest.mark.parametrize("kind", TRIED)
@pytest.mark.parametrize("protocol", ["ascii", "binary"])
def test_memccapable_passes_every_test_of_the_protocol(places, protocol, kind):
    assert shutil.which("memccapable"), "no memccapable in PATH: libmemcached-tools has it"
    excused = set()
    if kind == "as 1.5.16":
        with relayed("as-1.5.16") as itself:
            excused = failures(protocol, itself)
    assert failures(protocol, places.port(kind)) <= excused
