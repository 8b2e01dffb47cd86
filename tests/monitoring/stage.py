"""Two sidecars, one of them under load, and a real Prometheus that scrapes them every two seconds, with the
alert rules that are shipped. First all is well. Then a node is killed; another one joins, and one that
lies, but only one of the sidecars is told."""

import contextlib
import json
import pathlib
import shutil
import signal
import socket
import socketserver
import threading
import time
import urllib.parse
import urllib.request

from processes import PATIENCE, binary, eventually, free_port, memcached, running
from securing import Secrets

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "monitoring"
TARGET = {"namespace": "shop", "job": "web", "pod": "web-1"}
SECOND = "web-2"
MARK = "key-of-the-app"


def needs(program, package):
    path = shutil.which(program)
    assert path, f"no {program} in PATH; tests/run installs it (Debian's {package})"
    return path


def get(port, path, **parameters):
    query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}{query}", timeout=PATIENCE) as page:
        return page.read().decode()


class Load(threading.Thread):
    """Clients that come, ask for a bit of everything, and go, until told to stop."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.stopped = threading.Event()
        self.rounds = 0
        self.failed = None

    def run(self):
        try:
            while not self.stopped.is_set():
                with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), PATIENCE)) as connection:
                    for _ in range(20):
                        self.ask(connection)
                        time.sleep(0.005)
        except Exception as error:
            self.failed = error

    def ask(self, connection):
        """A pipeline of commands; `mn` is answered last."""
        self.rounds += 1
        number = f"{MARK}-number"
        lines = [f"set {number} 0 0 1\r\n7"]
        for i in range(self.rounds % 50, self.rounds % 50 + 20):
            key = f"{MARK}-{i}"
            lines += [f"set {key} 0 0 5\r\nhello", f"get {key}", f"get {key} {MARK}-absent {key}x", f"touch {key} 0"]
        lines += [f"gets {number}", f"incr {number} 1", f"delete {number}", f"no-such-command {MARK}", "mn"]
        connection.sendall("".join(line + "\r\n" for line in lines).encode())
        answer = b""
        while not answer.endswith(b"MN\r\n"):
            piece = connection.recv(1 << 16)
            assert piece, f"the connection was closed after {answer[-200:]}"
            answer += piece

    def stop(self):
        self.stopped.set()
        self.join(PATIENCE)
        assert self.failed is None, f"the load ended early: {self.failed!r}"


class Lie(socketserver.StreamRequestHandler):
    """A node that gives a value for a key that nobody asked for."""

    def handle(self):
        with contextlib.suppress(OSError):
            while line := self.rfile.readline():
                truth = line.startswith(b"version")
                self.wfile.write(b"VERSION 1.6.18\r\n" if truth else b"VALUE nobody-asked 0 1\r\nx\r\nEND\r\n")


@contextlib.contextmanager
def liar(port):
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Lie) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


class Prometheus:
    """Its HTTP interface."""

    def __init__(self, port):
        self.port = port

    def ask(self, what, **parameters):
        answer = json.loads(get(self.port, f"/api/v1/{what}", **parameters))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression):
        """The numbers, by label set; those that are not a number are left out."""
        samples = self.ask("query", query=expression)["result"]
        values = [(sample["metric"], float(sample["value"][1])) for sample in samples]
        return [(labels, value) for labels, value in values if value == value]

    def alerts(self):
        """The alerts that are pending or firing, and what they are about."""
        found = {}
        for alert in self.ask("alerts")["alerts"]:
            found.setdefault(alert["labels"]["alertname"], []).append({**alert["labels"], "is": alert["state"]})
        return found


class Scene:
    """What the tests look at."""

    def __init__(self, admin, watcher, nodes):
        self.admin = admin
        self.prometheus = watcher
        self.nodes = nodes
        _, _, self.lost, self.added, self.liar = nodes
        self.alerts_when_well = {}

    def scrape(self):
        return get(self.admin, "/metrics")


@contextlib.contextmanager
def sidecar(nodes_file, *arguments, nodes=3):
    listen, admin = free_port(), free_port()
    command = [binary(), "serve", "--nodes-file", str(nodes_file), *arguments]
    command += ["--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}"]
    with running(command, listen):

        def up():
            return [node["state"] for node in json.loads(get(admin, "/ring"))["nodes"]] == ["up"] * nodes

        eventually("all nodes are up", up)
        yield listen, admin


@contextlib.contextmanager
def prometheus(directory, pods):
    """`pods` are admin ports by the names of pods."""
    port = free_port()
    configuration = {
        # A scrape may take as long as one interval; one that takes longer has the series of its pod vanish until the next.
        "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},
        "rule_files": [str(SHIPPED / "alerts.yaml")],
        "scrape_configs": [
            {
                "job_name": TARGET["job"],
                "static_configs": [
                    {"targets": [f"127.0.0.1:{admin}"], "labels": {"namespace": TARGET["namespace"], "pod": pod}}
                    for pod, admin in pods.items()
                ],
            }
        ],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    command = [needs("prometheus", "prometheus"), f"--config.file={file}", "--log.level=warn"]
    command += [f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with running(command, port):
        yield Prometheus(port)


class Secured:
    """Two sidecars with nodes of their own, which take TLS alone and want to be logged in to; the certificate of the
    first one's node has three days, that of the second one's ten."""

    def __init__(self, admin, watcher, nodes):
        self.admin = admin
        self.prometheus = watcher
        self.nodes = nodes

    def scrape(self):
        return get(self.admin, "/metrics")


@contextlib.contextmanager
def secured(directory):
    with contextlib.ExitStack() as stack:
        pods, nodes = {}, []
        for pod, days in [(TARGET["pod"], 3), (SECOND, 10)]:
            port, secrets = free_port(), stack.enter_context(Secrets(days))
            stack.enter_context(running([*memcached(port), *secrets.of_node], port))
            nodes.append(f"127.0.0.1:{port}")
            file = directory / f"nodes-of-{pod}"
            file.write_text(nodes[-1])
            _, pods[pod] = stack.enter_context(sidecar(file, "--connect-timeout", "5s", *secrets.of_slipring, nodes=1))
        watcher = stack.enter_context(prometheus(directory, pods))
        scraped = 'count(slipring_tls_certificate_expiry_timestamp_seconds{owner="node"}) == 2'
        eventually("Prometheus has the time of both certificates", lambda: watcher.query(scraped), 0.2)
        yield Secured(pods[TARGET["pod"]], watcher, nodes)


@contextlib.contextmanager
def played(directory):
    needs("memcached", "memcached")
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(5)]
        names = [f"127.0.0.1:{port}" for port in ports]
        for port in [ports[0], ports[1], ports[3]]:
            stack.enter_context(running(memcached(port), port))
        doomed = stack.enter_context(contextlib.ExitStack())
        process = doomed.enter_context(running(memcached(ports[2]), ports[2]))
        stack.enter_context(liar(ports[4]))
        files = [directory / "nodes-1", directory / "nodes-2"]
        for file in files:
            file.write_text("\n".join(names[:3]))
        listen, admin = stack.enter_context(sidecar(files[0]))
        _, second = stack.enter_context(sidecar(files[1]))
        watcher = stack.enter_context(prometheus(directory, {TARGET["pod"]: admin, SECOND: second}))
        load = Load(listen)
        stack.callback(load.stop)
        load.start()
        scene = Scene(admin, watcher, names)

        def told(*alerts):
            eventually(f"there are the alerts {alerts}", lambda: watcher.alerts().keys() >= set(alerts), 0.2)

        # All is well.
        eventually("Prometheus has scraped often", lambda: len(watcher.query("count_over_time(up[1m]) > 3")) == 2, 0.2)
        scene.alerts_when_well = watcher.alerts()

        # A node stops answering, so that requests time out; then it dies.
        process.send_signal(signal.SIGSTOP)
        none = f'slipring_upstream_timeouts_total{{node="{names[2]}"}} 0\n'
        eventually("a request times out", lambda: none not in scene.scrape())
        doomed.close()
        told("SlipringNodeDown", "SlipringSoftFailures")

        # One that works and one that lies join.
        files[0].write_text("\n".join(names))
        eventually("the new node is used", lambda: watcher.query(f'{{node="{names[3]}", outcome="hit"}} > 0'), 0.2)
        told("SlipringRingsDiffer", "SlipringDesync")
        # The youngest series have rates, too.
        rated = f'count_over_time(slipring_upstream_desyncs_total{{node="{names[4]}"}}[10s]) > 2'
        eventually("there are rates", lambda: watcher.query(rated), 0.2)
        yield scene
