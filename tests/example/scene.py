"""The running example, its users, and what they saw."""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from processes import PATIENCE, binary, eventually, free_port

RUN = pathlib.Path(__file__).parents[2] / "deploy" / "example" / "run"
AT_ONCE = 4
IN_A_ROW = 100  # requests of which the report tells the lowest hit rate

Answer = collections.namedtuple("Answer", "at status source seconds")


def get(url):
    """Status and parsed body. A request that hangs, or an app that is gone, is an exception."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


class Example:
    """What `run` says that it has started."""

    def __init__(self, printed):
        def found(pattern):
            match = re.search(pattern, printed, re.MULTILINE)
            assert match, f"{pattern} is not in {printed}"
            return match.groups()

        self.url, app = found(r"^app +(\S+)/api/items/1 \(pid (\d+)\)")
        self.sidecar, sidecar = found(r"^slipring +(\S+) \(pid (\d+)\)")
        self.admin = found(r"^admin page +(\S+)/$")[0]
        self.list = pathlib.Path(found(r"^list of nodes +(\S+)$")[0])
        nodes = re.findall(r"^node +(\S+) \(pid (\d+)\)", printed, re.MULTILINE)
        self.nodes = {name: int(pid) for name, pid in nodes}
        self.app_pid, self.sidecar_pid = int(app), int(sidecar)

    def left(self):
        """Which of its processes are there. A number may be another one's by now, so the port is looked for, too."""
        processes = {self.app_pid: self.url, self.sidecar_pid: self.sidecar}
        processes |= {pid: name for name, pid in self.nodes.items()}
        found = []
        for pid, address in processes.items():
            with contextlib.suppress(OSError):
                if address.rsplit(":")[-1] in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(pid)
        return found

    def page(self, path):
        """A page of the app, which never fails."""
        status, body = get(self.url + path)
        assert status == 200, f"{path}: {status}"
        return body

    def item(self, item):
        begun = time.monotonic()
        status, body = get(f"{self.url}/api/items/{item}")
        if status == 200:
            assert body["item"] == {"id": item, "name": f"Item {item}"}
        now = time.monotonic()
        return Answer(now, status, body and body["source"], now - begun)

    def from_database(self, items):
        """Asks for each item once; which of them did not come from the cache."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as users:
            answers = dict(zip(items, users.map(self.item, items)))
        assert {answer.status for answer in answers.values()} == {200}
        assert {answer.source for answer in answers.values()} <= {"cache", "database"}
        return {item for item, answer in answers.items() if answer.source == "database"}

    def owners(self, items):
        """Which node the key of each item lives on, by the list of nodes as it is now."""
        command = [binary(), "locate", "--nodes-file", str(self.list.parent), *(f"item:{item}" for item in items)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        found = dict(line.split() for line in lines if line.startswith("item:"))
        assert len(found) == len(items)
        return {item: found[f"item:{item}"] for item in items}

    def states(self):
        ring = get(f"{self.admin}/ring")[1]
        return {node["name"]: node["state"] for node in ring["nodes"]}

    def ring_before(self):
        """What old places are used for, and the share of the keys that has one."""
        before = get(f"{self.admin}/ring")[1].get("before")
        return before and (before["state"], before["moved"])

    def until_all_are_up(self):
        """For each worker of the sidecar, and for the app."""
        eventually("all nodes are up", lambda: set(self.states().values()) == {"up"}, 0.05)
        assert self.page("/health") == {"status": "healthy"}


def counters(node):
    """What the node says itself to one who connects to it, as the page did before there was a sidecar."""
    host, port = node.split(":")
    with contextlib.closing(socket.create_connection((host, int(port)), PATIENCE)) as connection:
        connection.sendall(b"stats\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            piece = connection.recv(1 << 16)
            assert piece
            answer += piece
    stats = dict(line.split()[1:3] for line in answer.decode().splitlines() if line.startswith("STAT "))
    return {name: int(stats[name]) for name in ["curr_items", "bytes", "get_hits", "get_misses"]}


class Users:
    """They ask for items, over and over, until the end."""

    def __init__(self, example, items):
        self.example = example
        self.items = items
        self.answers = []
        self.rounds = [0] * AT_ONCE
        self.failed = []
        self.phases = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(n,), daemon=True) for n in range(AT_ONCE)]

    def ask(self, user):
        """Each user has items of his own."""
        try:
            while not self.over.is_set():
                for item in self.items[user::AT_ONCE]:
                    self.over.wait(0.01)
                    self.answers.append(self.example.item(item))
                self.rounds[user] += 1
        except Exception as error:
            self.failed.append(error)

    def begin(self):
        for thread in self.threads:
            thread.start()

    def phase(self, name):
        """From here on another thing is tried."""
        self.phases.append((name, time.monotonic()))

    def go_round(self):
        """Each user asks for all of his items, from the first to the last."""
        wanted = [rounds + 2 for rounds in self.rounds]  # the one that has begun does not count
        eventually("each user has gone round", lambda: self.failed or all(map(int.__ge__, self.rounds, wanted)))

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE)
        assert not any(thread.is_alive() for thread in self.threads), "a request hangs"
        assert self.failed == []

    def report(self):
        """Prints a line for each phase; gives the answers of each."""
        found = {}
        ends = [begun for _, begun in self.phases[1:]] + [float("inf")]
        print(f"\n{'what users saw':30} requests  5xx  hit rate  lowest  slowest")
        for (name, begun), end in zip(self.phases, ends):
            answers = found[name] = [answer for answer in self.answers if begun <= answer.at < end]
            errors = sum(answer.status >= 500 for answer in answers)
            hits = [answer.source == "cache" for answer in answers]
            slowest = max(answer.seconds for answer in answers) * 1000
            rates = f"{sum(hits) / len(hits):8.1%} {lowest(hits):8.1%}"
            print(f"{name:30} {len(answers):8} {errors:4} {rates} {slowest:5.0f} ms")
        return found


def lowest(hits):
    """The lowest hit rate of `IN_A_ROW` requests that follow each other."""
    width = min(IN_A_ROW, len(hits))
    sums = [0, *itertools.accumulate(hits)]
    return min(after - before for before, after in zip(sums, sums[width:])) / width


@contextlib.contextmanager
def started(**environment):
    """The example on free ports; its processes are gone in the end."""
    ports = [str(free_port()) for _ in range(6)]
    command = [sys.executable, str(RUN), "--app-port", ports[0], "--port", ports[1], "--admin-port", ports[2]]
    command += ["--node-ports", ",".join(ports[3:])]
    environment = {**os.environ, "SLIPRING_BIN": binary(), **environment}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("Ctrl-C ends"):
                break
        assert "Ctrl-C ends" in printed, f"the example ended early: {printed}"
        example = Example(printed)
        try:
            assert len(example.left()) == 5
            yield example
            assert process.poll() is None, "the example ended before it was told to"
            process.send_signal(signal.SIGINT)
            assert process.wait(2 * PATIENCE) == 0
            assert example.left() == [], "it left a process behind"
            assert process.stdout.read().endswith("ended\n")
        finally:
            end(process)
            for pid in example.left():
                os.kill(pid, signal.SIGKILL)
    finally:
        end(process)


def end(process):
    """It ends what it has started."""
    process.terminate()
    try:
        process.wait(2 * PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
