"""libmemcached's own suite of the text protocol.

`memccapable -a` of libmemcached 1.1.4 has 27 tests: version, quit, verbosity, set, get, gets, mget,
flush, add, replace, cas, delete, incr, decr, append, prepend (most of them with noreply too), and
stat. A router can pass every one of them, so there is none that is excused here.
"""

import shutil
import subprocess


def test_memccapable_passes_every_test_of_the_text_protocol(port):
    assert shutil.which("memccapable"), "no memccapable in PATH: libmemcached-tools has it"
    command = ["memccapable", "-a", "-v", "-h", "127.0.0.1", "-p", str(port)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    output = run.stdout + run.stderr
    print(output)
    results = [line for line in output.splitlines() if line.startswith("ascii ")]
    failed = [line for line in results if not line.endswith("[pass]")]
    assert failed == []
    assert len(results) == 27
    assert run.returncode == 0
