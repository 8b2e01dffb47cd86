"""The page at `/` in a real browser: three memcached nodes, slipring, some load; then a node dies and
comes back, and at last slipring itself dies.

`SLIPRING_BIN` names the binary under test; `tests/run` sets it. With `SLIPRING_SCREENSHOTS=1` the
pictures in deploy/monitoring/ are made again, which takes ten minutes more: the charts are to be full."""

import contextlib
import json
import os
import pathlib
import re
import socket
import threading
import time
import urllib.request

from browser import Browser, Page
from processes import PATIENCE, binary, eventually, free_port, memcached, running
from securing import Secrets, expiry

PICTURES = pathlib.Path(__file__).parents[2] / "deploy" / "monitoring"
HOT = "front-page"
TAKE_PICTURES = os.environ.get("SLIPRING_SCREENSHOTS") == "1"


def work(port, stop):
    """Sets and gets of 500 keys, a batch at a time, one key more often; what is answered does not matter."""
    connected = socket.create_connection(("127.0.0.1", port), PATIENCE)
    # At the end of the test slipring dies under it.
    with contextlib.closing(connected) as connection, contextlib.suppress(ConnectionError):
        turn = 0
        while not stop.wait(0.01):
            keys = [f"key:{(turn + i) % 500}" for i in range(20)] + [HOT] * 4
            lines = [f"set {key} 0 0 5\r\nvalue\r\n" for key in [*keys[:10], HOT]]
            lines += [f"get {key}\r\n" for key in keys]
            # `mn` is answered last, and by slipring itself.
            connection.sendall("".join([*lines, "mn\r\n"]).encode())
            received = b""
            while not received.endswith(b"MN\r\n"):
                more = connection.recv(1 << 16)
                if not more:
                    return
                received += more
            turn += 10


@contextlib.contextmanager
def load(port):
    stop = threading.Event()
    worker = threading.Thread(target=work, args=[port, stop])
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def figure(text):
    """The number a text begins with; -1 without one."""
    return float(text.replace(",", "").split(" ")[0]) if text[:1].isdigit() else -1


@contextlib.contextmanager
def sidecar(nodes, *arguments):
    listen, admin = free_port(), free_port()
    command = [binary(), "serve", "--nodes", ",".join(f"127.0.0.1:{port}" for port in nodes)]
    command += ["--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}"]
    # On a busy machine a node may be late; only one that is killed shall fail here.
    command += ["--request-timeout", "20s", "--queue-timeout", "20s", "--connect-timeout", "20s", "--slow-request", "0s", *arguments]
    with running(command, listen, may_die=True) as process:
        yield process, listen, f"http://127.0.0.1:{admin}"


def picture(browser, name, width, scheme="light", phone=False):
    if TAKE_PICTURES:
        browser.screenshot(PICTURES / f"page-{name}.png", width, scheme, phone)
        browser.look(1200)


def full(seen):
    """Whether the charts begin at their left edge."""
    begin = re.match(r"M(-?[0-9.]+) ", seen["charts"]["Requests/s"]["line"])
    return begin is not None and float(begin[1]) < 5


def switches(pid):
    """How often each worker went to sleep."""
    counts = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("worker-"):
            counts[task.name] = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M)[1]
    assert counts
    return counts


def commands(address):
    with urllib.request.urlopen(address + "/history", timeout=PATIENCE) as history:
        return json.load(history)["commands"]


def test_the_first_state_comes_with_the_page_and_the_past_costs_no_clock():
    ports = [free_port() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(running(memcached(port), port))
        process, listen, address = stack.enter_context(sidecar(ports))
        with load(listen):
            eventually("some slots are over", lambda: sum(n > 0 for n in commands(address)) >= 3, pause=0.5)

        # Whatever it asks for is never answered: it has what came with it.
        browser = stack.enter_context(Browser())
        browser.look(1200)
        silence = browser.call("Page.addScriptToEvaluateOnNewDocument", source="fetch = () => new Promise(() => {})")
        browser.open(address + "/")
        page = Page(browser)
        page.wait("all is well", lambda seen: seen["sentence"] == "All well" and seen["state"] == "good")
        assert [node["State"][:4] for node in page.seen["nodes"].values()] == ["✓ up"] * 3
        for chart in ["Requests/s", "Hit rate", "Latency", "Clients"]:
            assert page.seen["charts"][chart]["line"].count("L") >= 2, chart
        assert "version 1" in page.seen["facts"] and page.seen["ring"].startswith("3 nodes")
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=silence["identifier"])
        browser.open("about:blank")

        # With nothing to do no worker is awake, however long that lasts.
        before = {}

        def is_quiet():
            nonlocal before
            last, before = before, switches(process.pid)
            return last == before

        eventually("the workers sleep", is_quiet, pause=1)
        time.sleep(11)
        assert switches(process.pid) == before
        with socket.create_connection(("127.0.0.1", listen), PATIENCE) as client:
            client.sendall(b"get k\r\n")
            assert client.recv(100) == b"END\r\n"
        history = commands(address)
        last = max(i for i, count in enumerate(history) if count == 1)
        assert history[last - 1] == 0, history
        assert browser.problems == []


def test_the_page_shows_what_happens():
    ports = [free_port() for _ in range(3)]
    names = [f"127.0.0.1:{port}" for port in ports]
    with contextlib.ExitStack() as stack:
        memcacheds = [stack.enter_context(running(memcached(port), port, may_die=True)) for port in ports]
        process, listen, address = stack.enter_context(sidecar(ports))
        stack.enter_context(load(listen))
        browser = stack.enter_context(Browser())
        page = Page(browser)
        browser.look(1200)
        browser.open(address + "/")

        page.wait("all is well", lambda seen: seen["sentence"] == "All well" and seen["state"] == "good")
        assert page.seen["title"].startswith("✓ All well")
        assert list(page.seen["nodes"]) == names
        assert [node["State"][:4] for node in page.seen["nodes"].values()] == ["✓ up"] * 3
        with urllib.request.urlopen(address + "/ring", timeout=PATIENCE) as ring:
            assert json.load(ring)["fingerprint"] in page.seen["facts"]

        # The figures move, over several answers.
        page.wait("there is load", lambda seen: figure(seen["charts"]["Requests/s"]["now"]) > 10)
        page.wait("the keys are hit", lambda seen: figure(seen["charts"]["Hit rate"]["now"]) == 100)
        page.wait("latency is known", lambda seen: seen["charts"]["Latency"]["line"].count("L") >= 2)
        for name in names:
            page.wait(f"{name} works", lambda seen: figure(seen["nodes"][name]["Requests/s"]) > 1)
            page.wait(f"{name} has a latency", lambda seen: seen["nodes"][name]["p99"] != "–")
        with urllib.request.urlopen(f"{address}/ring?key={HOT}", timeout=PATIENCE) as place:
            place = json.load(place)
        page.wait("the hot key leads", lambda seen: seen["hot"] == [place["hash"], place["node"]])
        if TAKE_PICTURES:
            page.wait("the charts are full", full, patience=900)
        picture(browser, "light", 1200)

        memcacheds[1].kill()
        memcacheds[1].wait()
        page.wait("the node is down", lambda seen: f"Node {names[1]} is down: connection refused, since " in seen["sentence"])
        assert page.seen["title"].startswith(f"! {names[1]} is down")
        assert page.seen["nodes"][names[1]]["State"].startswith("✕ down")
        assert [page.seen["nodes"][name]["State"][:4] for name in (names[0], names[2])] == ["✓ up"] * 2
        assert "degraded since " in page.seen["since"]
        page.wait("the ring shows it", lambda seen: seen["ring"].startswith("3 nodes, 1 down"))
        page.wait("the requests suffer", lambda seen: "Soft failures: " in seen["sentence"])
        page.wait("writes to it are errors", lambda seen: "Errors: " in seen["sentence"])
        page.wait("the chart has them", lambda seen: figure(seen["charts"]["Errors/s"]["now"]) > 0)
        page.wait("nothing is under way to it", lambda seen: seen["nodes"][names[1]]["In flight"] == "0")
        if TAKE_PICTURES:
            time.sleep(20)
        picture(browser, "dark", 1200, "dark")
        picture(browser, "phone", 390, phone=True)
        browser.look(390, phone=True)
        page.wait("it fits a phone", lambda seen: seen["width"] <= 390)
        browser.look(1200)

        stack.enter_context(running(memcached(ports[1]), ports[1]))
        page.wait("the node is back", lambda seen: seen["nodes"][names[1]]["State"].startswith("✓ up"))
        page.wait("nobody says it is down", lambda seen: "is down" not in seen["sentence"])

        process.terminate()
        page.wait("it drains", lambda seen: seen["sentence"].startswith("Draining"))
        process.kill()
        page.wait("nobody answers", lambda seen: seen["sentence"].startswith("No answer since "))
        assert page.seen["state"] == "lost"
        assert browser.problems == []


def test_the_page_tells_when_the_certificate_of_a_node_expires():
    port = free_port()
    with contextlib.ExitStack() as stack:
        secrets = stack.enter_context(Secrets())
        stack.enter_context(running([*memcached(port), *secrets.of_node], port))
        _, listen, address = stack.enter_context(sidecar([port], *secrets.of_slipring))
        browser = stack.enter_context(Browser())
        page = Page(browser)
        browser.look(1200)
        browser.open(address + "/")
        clock = time.strftime("%H:%M:%S", time.localtime(expiry(secrets.file("node.pem"))))
        page.wait("it tells", lambda seen: f"TLSonthat of 127.0.0.1:{port} expires first: " in seen["facts"] and clock in seen["facts"])
        page.wait("all is well", lambda seen: seen["sentence"] == "All well")
        assert browser.problems == []
