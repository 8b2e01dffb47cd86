"""The page from the source with answers made up here: what a real sidecar seldom says."""

import contextlib
import http.server
import json
import pathlib
import threading
import time

import pytest
from browser import Browser, Page

SOURCE = pathlib.Path(__file__).parents[2] / "src" / "admin" / "page.html"
STRANGE = ["<b>bold</b>", '"><img src=x onerror="document.title=1">', "&lt;\u202ednu'\\n", "k" * 250]
METRICS = """slipring_build_info{version="0.1.0"} 1
slipring_buffer_bytes 60
slipring_buffer_limit_bytes 100
"""


def ring(names, **more):
    node = {"address": "10.0.0.1:11211", "weight": 1, "share": 1 / len(names), "state": "up"}
    report = {"status": "healthy", "since": int(time.time()) - 500, "fingerprint": "0000001f", "version": 3}
    report |= {"source": "list", "nodes": [{"name": name, **node} for name in names], "pending": [], "changes": []}
    return {**report, "arcs": [i % len(names) for i in range(360)], **more}


def hot(keys, **more):
    keys = [{"key": key, "share": 0.125, "rate": 345.6, "node": node} for key, node in keys]
    return {"enabled": True, "sampled": 12345, "every": 64, "seconds": 60, "keys": keys, **more}


@contextlib.contextmanager
def serving(answers):
    """The page, and `answers`: path → what JSON to give, a text, or nothing: 404. They may change meanwhile."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = SOURCE.read_text() if self.path == "/" else answers.get(self.path)
            body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8" if self.path == "/" else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        browser.look(1200)
        yield browser


@contextlib.contextmanager
def shown(browser, answers):
    """The page when it has drawn the first answers."""
    with serving(answers) as address:
        browser.problems.clear()
        browser.look(1200)
        browser.open(address)
        page = Page(browser)
        page.wait("there is an answer", lambda seen: seen["nodes"])
        yield page
        assert browser.problems == []


def bad(names):
    """Everything that the page can show at once."""
    report = ring(names, status="degraded", last_error=f"no answer from {names[0]}")
    report["pending"] = [f"{names[-1]} missing since 12 s"]
    report["nodes"][0].update(state="down", since=int(time.time()) - 75)
    report["nodes"][1].update(state="connecting")
    report["changes"] = [{"at": int(time.time()), "version": 3, "reason": f"list: {names[1]} added", "moved": 0.25}]
    return {"/ring": report, "/metrics": METRICS, "/hotkeys": hot(zip(names, names, strict=True))}


def test_hot_keys_name_their_node(browser):
    keys = ["#1a2b3c4d5e6f7a8b", "#0000000000000001"]
    answers = {"/ring": ring(["a:1", "b:2"]), "/metrics": METRICS}
    answers["/hotkeys"] = hot(zip(keys, ["b:2", "gone:3"], strict=True))
    answers["/hotkeys"]["keys"].append({"key": "#lukewarm", "share": 0.009, "rate": 2, "node": "a:1"})
    with shown(browser, answers):
        assert browser.value("!document.querySelector('#hot').hidden")
        rows = "[...document.querySelectorAll('#keys tbody tr')]"
        cells = f"{rows}.map((row) => [...row.cells].map((cell) => cell.textContent))"
        # The number is that of the node's row and of its part of the ring; one that left has none.
        assert browser.value(cells) == [[keys[0] + "2b:2", "12.5 %", "346"], [keys[1] + "gone:3", "12.5 %", "346"]]
        said = browser.value("document.querySelector('#sampled').textContent")
        assert said.startswith("From 12,345 keys, one in 64 asked for in the last 60 s.") and "--log-keys" in said
    # In clear nobody needs to be told.
    answers["/hotkeys"] = hot([("session:1", "a:1")])
    with shown(browser, answers):
        assert "--log-keys" not in browser.value("document.querySelector('#sampled').textContent")


@pytest.mark.parametrize("off", [None, {"enabled": False, "sampled": 0, "every": 64, "seconds": 60, "keys": []}])
def test_without_hot_keys_there_is_no_card(browser, off):
    with shown(browser, {"/ring": ring(["a:1"]), "/metrics": METRICS, "/hotkeys": off}):
        assert browser.value("getComputedStyle(document.querySelector('#hot')).display") == "none"
    with shown(browser, {"/ring": ring(["a:1"]), "/metrics": METRICS, "/hotkeys": hot([])}):
        assert browser.value("document.querySelector('#keys').textContent").startswith("No key has 1 %")
        assert browser.value("getComputedStyle(document.querySelector('#hot')).display") == "block"


def test_strange_names_are_text(browser):
    with shown(browser, bad(STRANGE)) as page:
        assert list(page.seen["nodes"]) == STRANGE
        keys = "[...document.querySelectorAll('#keys td:first-child div > bdi')]"
        assert browser.value(f"{keys}.map((one) => one.textContent)") == STRANGE
        assert STRANGE[0] in page.seen["sentence"]
        assert STRANGE[1] in browser.value("document.querySelector('#changes').textContent")
        assert browser.value("document.querySelectorAll('b, img').length") == 0


def test_the_page_says_whose_it_is(browser):
    with shown(browser, {"/ring": ring(["a:1"], instance="shop/<b>app-1"), "/metrics": METRICS}):
        assert browser.value("document.querySelector('h1').textContent") == "slipring shop/<b>app-1"
    with shown(browser, {"/ring": ring(["a:1"]), "/metrics": METRICS}):
        assert browser.value("document.querySelector('h1').textContent.trim()") == "slipring"


def test_since_is_what_the_sidecar_says(browser):
    since = int(time.time()) - 75
    clock = time.strftime("%H:%M:%S", time.localtime(since))
    report = ring(["a:1", "b:2", "c:3"], status="degraded")
    report["nodes"][0].update(state="down", since=since)
    report["nodes"][1].update(since=since - 500)
    report["nodes"][2].update(since=since - 5)
    metrics = METRICS + f"process_start_time_seconds {since - 500}\n"
    with shown(browser, {"/ring": report, "/metrics": metrics}) as page:
        assert clock in page.seen["sentence"]
        assert clock in page.seen["nodes"]["a:1"]["State"]
        # It was something else before; the one between is up since the start.
        assert "since " in page.seen["nodes"]["c:3"]["State"]
        assert page.seen["nodes"]["b:2"]["State"] == "✓ up"
        # Of several the first.
        report["nodes"][1].update(state="down", since=since + 60)
        page.wait("two are down", lambda seen: "2 of 3 nodes are down" in seen["sentence"])
        assert clock in page.seen["sentence"]


def test_a_node_that_is_the_sidecar_itself_says_so(browser):
    report = ring(["a:1", "b:2"], status="degraded")
    report["nodes"][0].update(state="down", problem="is this sidecar itself")
    with shown(browser, {"/ring": report, "/metrics": METRICS}) as page:
        assert "is down: it is this sidecar itself" in page.seen["sentence"]
        assert "is this sidecar itself" in page.seen["nodes"]["a:1"]["State"]
        assert "itself" not in page.seen["nodes"]["b:2"]["State"]


@pytest.mark.parametrize("width", [320, 390, 641, 768, 901, 1200])
def test_it_fits(browser, width):
    long = [f"memcached-{i}.memcached.very-long-namespace.svc.cluster.local:11211" for i in range(4)]
    for names in [long, STRANGE]:
        with shown(browser, bad(names)) as page:
            browser.look(width, phone=width < 500)
            page.wait("it is laid out", lambda seen: browser.value("innerWidth") == width)
            assert page.seen["width"] <= width
            # Nor does a part of it reach beyond its card.
            cards = "[...document.querySelectorAll('.card')].filter((one) => one.scrollWidth > one.clientWidth)"
            assert browser.value(f"{cards}.map((one) => one.textContent)") == []


# Text that stands out less than 4.5 : 1 from what is behind it (WCAG 2, AA).
FAINT = """(() => {
  const parse = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.map((one) => (one / 255 <= 0.04045 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, style, noscript, svg")) continue;
    let back = element, opacity = 1;
    while (parse(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
    for (let one = element; one; one = one.parentElement) opacity *= getComputedStyle(one).opacity;
    const behind = parse(getComputedStyle(back).backgroundColor), front = parse(getComputedStyle(element).color);
    const mixed = front.slice(0, 3).map((one, i) => opacity * one + (1 - opacity) * behind[i]);
    const [high, low] = [light(mixed), light(behind)].sort((a, b) => b - a), contrast = (high + 0.05) / (low + 0.05);
    texts += 1;
    if (contrast < 4.5) found.push([walker.currentNode.data, contrast]);
  }
  return { texts, found };
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser, scheme):
    answers = bad(["a:1", "b:2", "c:3"])
    with shown(browser, answers) as page:
        browser.look(1200, scheme)
        back = "getComputedStyle(document.body).backgroundColor"
        assert (sum(map(int, browser.value(back)[4:-1].split(","))) > 400) == (scheme == "light")
        for what in ["warn", "bad", "good", "lost"]:
            if what == "bad":
                answers["/ring"]["status"] = "unhealthy"
            elif what == "good":
                answers["/ring"] = ring(["a:1", "b:2"])
            elif what == "lost":
                answers["/ring"] = None
            page.wait(f"the state is {what}", lambda seen: seen["state"] == what)
            faint = browser.value(FAINT)
            assert faint["texts"] > 30 and faint["found"] == [], what


def test_the_keyboard_suffices(browser):
    with shown(browser, {"/ring": ring(["a:1"]), "/metrics": METRICS}) as page:
        browser.press("Tab")
        assert browser.value("document.activeElement.id") == "pause"
        assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        browser.press("Enter", "\r")
        page.wait("it pauses", lambda seen: "(at " in seen["title"])
        browser.press("Enter", "\r")
        page.wait("it goes on", lambda seen: "(at " not in seen["title"])


def test_nothing_moves_for_those_who_do_not_want_it(browser):
    moving = "transitionDuration !== '0s' || animationName !== 'none'"
    styles = "[...document.querySelectorAll('*')].map((one) => getComputedStyle(one))"
    moves = f"{styles}.some(({{ transitionDuration, animationName }}) => {moving})"
    with shown(browser, {"/ring": ring(["a:1"]), "/metrics": METRICS}):
        assert browser.value(moves)
        browser.look(1200, motion="reduce")
        assert not browser.value(moves)
