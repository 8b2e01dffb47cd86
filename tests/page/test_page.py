"""The page at `/` in a real browser: three memcached nodes, slipring, some load; then a node dies and
comes back, and at last slipring itself dies.

`SLIPRING_BIN` names the binary under test; `tests/run` sets it. With `SLIPRING_SCREENSHOTS=1` the
pictures in deploy/monitoring/ are made again, which takes two minutes of load."""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import urllib.request

from browser import Browser
from processes import PATIENCE, eventually, free_port, memcached, running

PICTURES = pathlib.Path(__file__).parents[2] / "deploy" / "monitoring"
TAKE_PICTURES = os.environ.get("SLIPRING_SCREENSHOTS") == "1"


def work(port, stop):
    """Sets and gets of 500 keys, a batch at a time; what is answered does not matter."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        turn = 0
        while not stop.wait(0.01):
            keys = [f"key:{(turn + i) % 500}" for i in range(20)]
            lines = [f"set {key} 0 0 5\r\nvalue\r\n" for key in keys[:10]]
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


# All that the test looks at, as one value.
SEEN = """(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const text = (selector, within = document) => within.querySelector(selector).textContent;
  const nodes = {}, charts = {};
  for (const row of all("#rows tr"))
    nodes[text("bdi", row)] = Object.fromEntries(all("td", row).map((cell) => [cell.dataset.label, cell.textContent]));
  for (const chart of all(".chart"))
    charts[text("h3", chart)] = { now: text(".big", chart), line: chart.querySelector("path").getAttribute("d") };
  return {
    title: document.title, state: document.documentElement.dataset.state, nodes, charts,
    sentence: text("#sentence"), since: text("#since"), facts: text("#facts"),
    ring: document.querySelector("#ring").getAttribute("aria-label"), width: document.documentElement.scrollWidth,
  };
})()"""


class Page:
    """What the page says."""

    def __init__(self, browser):
        self.browser = browser
        self.seen = {}

    def wait(self, what, done):
        """Until it is as it should be; else fails with what the page says instead."""

        def look():
            self.seen = self.browser.value(SEEN)
            return done(self.seen)

        try:
            eventually(what, look)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page: {self.seen}") from None


def figure(text):
    """The number a text begins with; -1 without one."""
    return float(text.replace(",", "").split(" ")[0]) if text[:1].isdigit() else -1


@contextlib.contextmanager
def sidecar(nodes):
    binary = os.environ.get("SLIPRING_BIN")
    assert binary, "SLIPRING_BIN does not name a slipring; tests/run sets it"
    listen, admin = free_port(), free_port()
    command = [binary, "serve", "--nodes", ",".join(f"127.0.0.1:{port}" for port in nodes)]
    command += ["--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}"]
    with running(command, listen, may_die=True) as process:
        yield process, listen, f"http://127.0.0.1:{admin}"


def picture(browser, name, width, scheme="light", phone=False):
    if TAKE_PICTURES:
        browser.look(width, scheme, phone)
        browser.screenshot(PICTURES / f"page-{name}.png")
        browser.look(1200)


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
        assert [node["State"] for node in page.seen["nodes"].values()] == ["✓ up"] * 3
        with urllib.request.urlopen(address + "/ring", timeout=PATIENCE) as ring:
            assert json.load(ring)["fingerprint"] in page.seen["facts"]

        # The figures move, over several answers.
        page.wait("there is load", lambda seen: figure(seen["charts"]["Requests/s"]["now"]) > 10)
        page.wait("the keys are hit", lambda seen: figure(seen["charts"]["Hit rate"]["now"]) == 100)
        page.wait("latency is known", lambda seen: seen["charts"]["Latency"]["line"].count("L") >= 2)
        for name in names:
            page.wait(f"{name} works", lambda seen: figure(seen["nodes"][name]["Requests/s"]) > 1)
            assert page.seen["nodes"][name]["p99"] != "–", page.seen
        if TAKE_PICTURES:
            time.sleep(100)
        picture(browser, "light", 1200)

        memcacheds[1].kill()
        memcacheds[1].wait()
        page.wait("the node is down", lambda seen: f"Node {names[1]} is down, since " in seen["sentence"])
        assert page.seen["title"].startswith(f"! {names[1]} is down")
        assert page.seen["nodes"][names[1]]["State"].startswith("✕ down")
        assert [page.seen["nodes"][name]["State"] for name in (names[0], names[2])] == ["✓ up"] * 2
        assert "degraded since " in page.seen["since"]
        page.wait("the ring shows it", lambda seen: seen["ring"].startswith("3 nodes, 1 down"))
        page.wait("the requests suffer", lambda seen: "Soft failures: " in seen["sentence"])
        if TAKE_PICTURES:
            time.sleep(15)
        picture(browser, "dark", 1200, "dark")
        picture(browser, "phone", 390, phone=True)
        browser.look(390, phone=True)
        page.wait("it fits a phone", lambda seen: seen["width"] <= 390)
        browser.look(1200)

        stack.enter_context(running(memcached(ports[1]), ports[1]))
        page.wait("the node is back", lambda seen: seen["nodes"][names[1]]["State"] == "✓ up")
        page.wait("nobody says it is down", lambda seen: "is down" not in seen["sentence"])

        process.kill()
        page.wait("nobody answers", lambda seen: seen["sentence"].startswith("No answer since "))
        assert page.seen["state"] == "lost"
        assert browser.problems == []
