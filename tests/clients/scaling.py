"""Three real nodes that become four, with the ring before written down or without it, while an app in two pods goes on.
Each pod has a sidecar that follows a file of its own: it sees each edit at its own time."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import urllib.request

from processes import PATIENCE, binary, eventually, free_port, memcached, running

# One worker: one that swaps later than another is as a pod that lags. And no miss because the machine is busy.
ARGUMENTS = ["--workers", "1", "--connect-timeout", "30s", "--request-timeout", "30s", "--queue-timeout", "30s"]
WORKERS = 2  # of each pod
ROUNDS = 4  # of each worker, until the next edit


def listed(ports):
    return ",".join(f"127.0.0.1:{port}" for port in ports)


def owners(nodes, keys):
    command = [binary(), "locate", "--nodes", nodes, "--json", *keys]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["node"] for line in lines]


class Pod:
    """A sidecar, and the gate of the app's workers beside it."""

    def __init__(self, stack, path, nodes):
        self.path = path
        self.write(nodes)
        self.port, self.admin = free_port(), free_port()
        command = [binary(), "serve", "--nodes-file", str(path), "--listen", f"127.0.0.1:{self.port}"]
        command += ["--admin-listen", f"127.0.0.1:{self.admin}", *ARGUMENTS]
        self.sidecar = stack.enter_context(running(command, self.port))
        self.changed, self.open, self.inside = threading.Condition(), True, 0
        eventually("the nodes are up", lambda: self.states() == {node: "up" for node in nodes.split(",")})

    def write(self, nodes, before=None):
        new = self.path.with_suffix(".new")
        new.write_text(nodes + (f"\nbefore: {before}\n" if before else "\n"))
        os.replace(new, self.path)

    def page(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=PATIENCE) as page:
            return page.read().decode()

    def states(self):
        return {node["name"]: node["state"] for node in json.loads(self.page("/ring"))["nodes"]}

    def metric(self, name):
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.page("/metrics"), re.MULTILINE)[1])

    def see(self, nodes, before, state):
        """The edit, and the wait for what shows that the sidecar has read it."""
        self.write(nodes, before)
        self.sidecar.send_signal(signal.SIGHUP)
        shown = f'slipring_before_state{{state="{state}"}}'
        all_up = {node: "up" for node in nodes.split(",")}
        eventually(f"{state}, {nodes}", lambda: self.metric(shown) == 1 and self.states() == all_up)

    @contextlib.contextmanager
    def turn(self):
        """What a worker does when its pod takes requests."""
        with self.changed:
            self.changed.wait_for(lambda: self.open)
            self.inside += 1
        try:
            yield
        finally:
            with self.changed:
                self.inside -= 1
                self.changed.notify_all()

    def shut(self):
        with self.changed:
            self.open = False
            assert self.changed.wait_for(lambda: self.inside == 0, PATIENCE), "a request hangs"

    def reopen(self):
        with self.changed:
            self.open = True
            self.changed.notify_all()


class Worker(threading.Thread):
    """Uses each of the app's keys, over and over, until the end."""

    def __init__(self, app, pod):
        super().__init__(daemon=True)
        self.app, self.pod, self.rounds, self.failed, self.over = app, pod, 0, None, threading.Event()

    def run(self):
        try:
            with self.app.client(self.pod.port) as client:
                while not self.over.is_set():
                    for key in self.app.keys:
                        with self.pod.turn():
                            client.use(key)
                    for key in self.app.held:
                        with self.pod.turn():
                            client.attempt(key)
                    self.rounds += 1
        except Exception as error:
            self.failed = error


def go_round(workers):
    wanted = [worker.rounds + ROUNDS + 1 for worker in workers]  # the one that has begun does not count

    def gone_round():
        if failed := [worker.failed for worker in workers if worker.failed]:
            raise AssertionError(f"workers failed: {failed}") from failed[0]
        return all(worker.rounds >= rounds for worker, rounds in zip(workers, wanted))

    eventually("each worker has gone round", gone_round, patience=4 * PATIENCE)


def until_hits_stand_still(pods, workers):
    def hits():
        return [pod.metric('slipring_before_reads_total{result="hit"}') for pod in pods]

    for _ in range(20):
        before = hits()
        go_round(workers)
        if hits() == before:
            return
    raise AssertionError(f"old places are still read: {before}, {hits()}")


def scale(make, directory, written_down):
    """An app, made by `make` of what tells whether a key moves, that has gone through a scaling. Its verdict is its own."""
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(4)]
        for port in ports:
            stack.enter_context(running(memcached(port), port))
        three, four = listed(ports[:3]), listed(ports)
        app = make(lambda keys: [old != new for old, new in zip(owners(three, keys), owners(four, keys))])
        pods = [Pod(stack, directory / f"nodes-{name}", three) for name in "ab"]
        workers = [Worker(app, pod) for pod in pods for _ in range(WORKERS)]

        def end():
            for worker in workers:
                worker.over.set()
            for pod in pods:
                pod.reopen()
            for worker in workers:
                worker.join(4 * PATIENCE)

        stack.callback(end)
        for worker in workers:
            worker.start()
        go_round(workers)

        # As "Scaling without misses" in deploy/OPERATING.md says; or the nodes alone.
        scaled = (four, three if written_down else None, "reading" if written_down else "none")
        edits = [(three, three, "reading"), scaled, (four, f"ending:{three}", "ending"), (four, None, "none")]
        for number, edit in enumerate(edits if written_down else [scaled]):
            if edit[2] == "ending":
                until_hits_stand_still(pods, workers)
            sooner, later = pods if number % 2 else reversed(pods)
            # What somebody holds through each pod while the edit comes; workers try to get it, too.
            held = [(stack.enter_context(app.client(pod.port)), key) for pod, key in zip((sooner, later), app.held)]
            for client, key in held:
                client.hold(key)
            if edit is scaled:
                # A pod that still has the old nodes when another one has the new ones does not agree with it about moved
                # keys, list before or not: nothing new is begun there. What was begun there ends there.
                later.shut()
            sooner.see(*edit)
            served = [worker for worker in workers if worker.pod is sooner or edit is not scaled]
            go_round(served)
            for client, key in held[1:]:
                client.release(key)
            go_round(served)
            later.see(*edit)
            later.reopen()
            go_round(workers)
            for client, key in held[:1]:
                client.release(key)
            go_round(workers)
            if edit is scaled:
                app.begin_windows()
                go_round(workers)
            elif number == 0:
                assert [pod.metric("slipring_before_moved_keyspace_ratio") for pod in pods] == [0, 0]
        end()
        failed = [worker.failed for worker in workers if worker.failed]
        assert failed == [] and not any(worker.is_alive() for worker in workers)
        for pod in pods if written_down else []:
            assert pod.metric('slipring_before_writes_total{result="lost"}') == 0
            assert pod.metric('slipring_before_writes_total{result="ok"}') > 0, "no write had an old place"
        with app.client(pods[0].port) as client:
            app.look(client)
        return app
