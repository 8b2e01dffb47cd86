"""deploy/systemd/slipring.service: systemd understands it without a warning, and has little to add; its commands, with its
environment, do what it says. systemd itself is not started."""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import urllib.request

import pytest

from processes import PATIENCE, binary, eventually, free_port, memcached, running

DIRECTORY = pathlib.Path(__file__).parents[2] / "deploy" / "systemd"
TEXT = (DIRECTORY / "slipring.service").read_text()
INSTALLED = "/usr/local/bin/slipring"


def entries(name):
    return re.findall(rf"^{name}=(.*)$", TEXT, re.M)


def environment():
    return dict(assignment.split("=", 1) for line in entries("Environment") for assignment in line.split())


@pytest.fixture
def unit(tmp_path):
    """The unit, with the binary under test in the place of the one that is to be installed."""
    path = tmp_path / "slipring.service"
    path.write_text(TEXT.replace(INSTALLED, str(pathlib.Path(binary()).resolve())))
    return path


def analyze(*arguments):
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing; tests/run installs it"
    done = subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_systemd_understands_all_of_it(unit):
    assert analyze("verify", "--man=no", unit) == (0, "")
    unit.write_text(unit.read_text().replace("TimeoutStopSec", "TimeOutStopSec"))
    assert "TimeOutStopSec" in analyze("verify", "--man=no", unit)[1]


def test_it_is_closed(unit):
    """By systemd's own marks, of which 0 is the best and 100 the worst; a unit without hardening has 96."""
    code, said = analyze("security", "--offline=yes", "--no-pager", "--threshold=20", unit)
    assert code == 0, said


def test_its_commands_are_the_programs():
    assert entries("ExecStart") == [f"{INSTALLED} serve"]
    assert entries("ExecReload") == [f"{INSTALLED} reload --pid $MAINPID"]
    said = subprocess.run([binary(), "serve", "--help"], check=True, capture_output=True, text=True).stdout
    assert all(f"[env: {name}]" in said for name in environment())
    # Long enough for clients to leave, and not much longer.
    drain = int(re.search(r"\[env: SLIPRING_DRAIN_TIMEOUT_ON_EXIT\] \[default: (\d+)s\]", said)[1])
    assert entries("TimeoutStopSec") == [str(drain + 5)]


def test_a_wrong_option_is_not_tried_again():
    done = subprocess.run([binary(), "serve"], env={"MEMCACHED_NODES": "a:b"}, capture_output=True, timeout=PATIENCE)
    assert entries("RestartPreventExitStatus") == [str(done.returncode)]


def test_the_comment_installs_what_there_is():
    for path in re.findall(r"^# +install .*?(deploy/\S+)", TEXT, re.M):
        assert (DIRECTORY.parents[1] / path).is_file(), path
    assert len(re.findall(r"^# +install ", TEXT, re.M)) == 3


def test_start_reload_and_stop(tmp_path):
    """With its directories elsewhere, and its ports free ones."""
    node, other, data, admin = (free_port() for _ in range(4))
    directories = {"/run/slipring": "run", "/var/lib/slipring": "state", "/etc/slipring": "etc"}
    for name in directories.values():
        (tmp_path / name).mkdir()
    assert entries("RuntimeDirectory") == entries("StateDirectory") == ["slipring"]
    made = environment()
    for inside, name in directories.items():
        made = {key: value.replace(inside, str(tmp_path / name)) for key, value in made.items()}
    made["SLIPRING_LISTEN"] = made["SLIPRING_LISTEN"].replace("localhost", f"127.0.0.1:{data}")
    made["SLIPRING_ADMIN_LISTEN"] = made["SLIPRING_ADMIN_LISTEN"].replace("9150", str(admin))
    nodes = tmp_path / "etc" / "nodes"
    nodes.write_text((DIRECTORY / "nodes").read_text().replace("11212", str(node)))
    start = [binary(), *entries("ExecStart")[0].split()[1:]]

    def reload(pid):
        command = [binary(), *entries("ExecReload")[0].replace("$MAINPID", str(pid)).split()[1:]]
        return subprocess.run(command, env=made, capture_output=True, text=True, timeout=PATIENCE)

    def ring():
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ring", timeout=PATIENCE) as answer:
            return {each["name"]: each["state"] for each in json.load(answer)["nodes"]}

    with contextlib.ExitStack() as stack:
        for port in (node, other):
            stack.enter_context(running(memcached(port), port))
        command = ["env", "-i", *(f"{key}={value}" for key, value in made.items()), *start]
        process = stack.enter_context(running(command, admin, may_die=True))
        eventually("the node is up", lambda: ring() == {f"127.0.0.1:{node}": "up"})
        path = tmp_path / "run" / "socket"
        assert path.stat().st_mode & 0o777 == 0o777
        for family, address in [(socket.AF_UNIX, str(path)), (socket.AF_INET, ("127.0.0.1", data))]:
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(PATIENCE)
                client.connect(address)
                client.sendall(b"set k 0 0 5\r\nhello\r\nget k\r\n")
                with client.makefile("rb") as answers:
                    assert [answers.readline() for _ in range(3)] == [b"STORED\r\n", b"VALUE k 0 5\r\n", b"hello\r\n"]

        nodes.write_text(f"127.0.0.1:{node},127.0.0.1:{other}\n")
        done = reload(process.pid)
        assert done.returncode == 0 and "2 nodes" in done.stdout, done
        nodes.write_text("127.0.0.1:x\n")
        assert reload(process.pid).returncode == 1
        assert len(ring()) == 2
        assert list((tmp_path / "state").iterdir()), "the last good ring is kept"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert not path.exists()
