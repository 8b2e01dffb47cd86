"""Each runs literally, in a network namespace of its own: there the ports that README names are free."""

import pathlib
import re
import subprocess

import pytest

from processes import PATIENCE, binary

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

# Waits for a port, in the shell's own words; sixty seconds at most.
WAIT = """
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
ip link set lo up
wait_for() {
    for _ in $(seq 600); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.1
    done
    echo "nobody listens at $1" >&2
    return 1
}
"""
# Until the nodes are up: what comes sooner waits for them, and no longer than --queue-timeout.
UP = """
wait_for 9150
python3 - <<'end'
import json, time, urllib.request
while True:
    ring = json.load(urllib.request.urlopen("http://127.0.0.1:9150/ring", timeout=60))
    if {node["state"] for node in ring["nodes"]} == {"up"}:
        break
    time.sleep(0.05)
end
"""
# What /ring says of its nodes: one line each.
NODES = """
python3 - <<'end'
import json, urllib.request
ring = json.load(urllib.request.urlopen("http://127.0.0.1:9150/ring", timeout=60))
for node in ring["nodes"]:
    print(node["name"], node["weight"])
end
"""


def blocks(section):
    """The commands of a section: one text for each block."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)


def unshare():
    """How this user makes a network namespace."""
    ways = [["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]]
    for way in ways:
        if subprocess.run([*way, "true"], capture_output=True).returncode == 0:
            return way
    raise AssertionError("no network namespace can be made: run the tests as root")


def run(script):
    """What a script prints that runs alone with its network."""
    home = pathlib.Path(binary()).parent
    script = f'PATH="{home}:$PATH"\n{WAIT}{script}'
    done = subprocess.run(
        [*unshare(), "bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE * 3
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_command_and_its_line_to_try():
    first, line, *_ = blocks("Try it")
    assert first.split() == "cargo run --release -- dev".split()
    # `nc` ends by itself: the line ends in `quit`.
    said = run(f"{first.strip()} >/dev/null 2>&1 &\nwait_for 11211\n{UP}{line}kill %1\nwait %1")
    assert said == "STORED\nVALUE k 0 5\nhello\nEND\n", said


def test_the_banner_gives_the_line_of_the_readme():
    _, line, *_ = blocks("Try it")
    banner = run("slipring dev 2>&1 &\nwait_for 11211\nwait_for 9150\nkill %1\nwait %1")
    assert line.strip() in banner, banner


@pytest.mark.parametrize(
    ("block", "nodes"),
    [
        (0, ["10.0.0.2:11211 1", "10.0.0.3:11212 1", "cache.internal:11211 2"]),
        (1, ["10.0.0.2:11211 1", "10.0.0.3:11211 1"]),
    ],
)
def test_the_nodes_that_are_named(block, nodes):
    command = blocks("Use it")[block].strip()
    said = run(f"{command} 2>/dev/null &\nwait_for 9150\n{NODES}kill %1\nwait %1")
    assert said.splitlines() == nodes


def test_the_parts_of_the_second_command():
    """`tests/run` runs every part that it says it has, and refuses what is none."""
    assert blocks("Try it")[2].split() == ["tests/run"]
    told = subprocess.run(["tests/run", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0
    script = (ROOT / "tests" / "run").read_text()
    parts = re.search(r"^all=\((.*)\)$", script, re.M)[1].split()
    assert re.findall(r"^  (\w+) {2,}", told.stdout, re.M) == parts
    for part in parts:
        assert re.search(rf"^{part}\(\) [{{(]", script, re.M), part
    lanes = " ".join(re.findall(r"^lane ([\w ]+?)(?: &)?$", script, re.M)).split()
    assert sorted(lanes) == sorted(parts)
    refused = subprocess.run(["tests/run", "nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 64 and "no part is called nonsense" in refused.stdout + refused.stderr


def test_the_commands_that_there_are():
    """The table of commands is that of the program."""
    told = subprocess.run([binary(), "--help"], capture_output=True, text=True, check=True).stdout
    declared = re.search(r"^Commands:\n((?:  .*\n)+)", told, re.M)[1]
    declared = {name for name in re.findall(r"^  (\w+)", declared, re.M)} - {"help"}
    table = set(re.findall(r"^\| `slipring (\w+)", README, re.M))
    assert table == declared
