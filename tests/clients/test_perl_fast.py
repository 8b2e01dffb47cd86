"""Perl's Cache::Memcached::Fast: it matches the values of a multiget to the keys by their place in the reply."""

import pathlib
import re
import subprocess
import urllib.request

import pytest
from conftest import PATIENT
from processes import PATIENCE

SCRIPT = pathlib.Path(__file__).with_name("fast.pl")
# So that processes that ask at once share what merges their gets.
ONE_WORKER = ["--workers", "1", *PATIENT]
METHODS = ["get_multi", "gets_multi", "gat_multi", "gats_multi"]


def ask(port, keys, size, loads, processes=1):
    """So many processes at once, each with these loads: the keys that were asked for, wrong and missing, by load."""
    commands = [
        ["perl", str(SCRIPT), str(port), str(seed), str(keys), str(size), *loads] for seed in range(1, processes + 1)
    ]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    results = {load: [0, 0, 0] for load in loads}
    try:
        for process in running:
            output, errors = process.communicate(timeout=600)
            print(output, errors)
            assert process.returncode == 0, f"{errors} (libcache-memcached-fast-perl is needed; tests/run installs it)"
            lines = re.findall(r"^(\S+) asked (\d+) wrong (\d+) missing (\d+)$", output, re.MULTILINE)
            assert [line[0] for line in lines] == loads
            for load, *counts in lines:
                results[load] = [sum(pair) for pair in zip(results[load], map(int, counts))]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return results


def all_right(results):
    return {load: (0, 0) for load in results} == {load: tuple(counts[1:]) for load, counts in results.items()}


@pytest.mark.parametrize("size", [100, 4096])
@pytest.mark.parametrize("count", [1, 3])
def test_twenty_thousand_multigets_of_two_processes(nodes, serving, count, size):
    with serving(nodes[:count], *ONE_WORKER) as (port, _):
        results = ask(port, 1000, size, ["get_multi:5:10000"], processes=2)
    assert all_right(results), f"asked, wrong, missing: {results}"


@pytest.mark.parametrize("size", [100, 4096])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_every_method_of_many_keys(nodes, serving, count, processes, size):
    loads = [f"{method}:5:500" for method in METHODS] + [f"{method}:200:50" for method in METHODS]
    loads += ["cas_multi:5:200", "cas_multi:200:10"]
    with serving(nodes[:count], *ONE_WORKER) as (port, _):
        results = ask(port, 1000, size, loads, processes)
    assert all_right(results), f"asked, wrong, missing: {results}"


def soft_misses(admin):
    """Keys that were answered as misses for want of memory, and for any other reason."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=PATIENCE) as page:
        text = page.read().decode()
    counts = {"memory": 0, "other": 0}
    pattern = r'^slipring_soft_failures_total\{command="\w+",reason="(\w+)"\} (\S+)$'
    for reason, count in re.findall(pattern, text, re.MULTILINE):
        counts["memory" if reason == "memory" else "other"] += int(float(count))
    return counts


@pytest.mark.parametrize("count", [1, 3])
def test_values_that_do_not_fit_the_budget_are_misses_and_counted(nodes, serving, count):
    with serving(nodes[:count], *ONE_WORKER, "--buffer-limit", "64MiB") as (port, admin):
        results = ask(port, 200, 100_000, ["get_multi:200:20", "gets_multi:200:20"], processes=2)
        counted = soft_misses(admin)
    wrong, missing = (sum(counts[place] for counts in results.values()) for place in (1, 2))
    assert (wrong, counted["other"]) == (0, 0), f"asked, wrong, missing: {results}; counted {counted}"
    assert missing == counted["memory"], f"asked, wrong, missing: {results}; counted {counted}"
