"""The page from the source with answers made up here: what a real sidecar seldom says."""

import contextlib
import http.server
import json
import pathlib
import re
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
    node = {"address": "10.0.0.1:11211", "weight": 1, "share": 1 / max(1, len(names)), "state": "up"}
    report = {"status": "healthy", "since": int(time.time()) - 500, "fingerprint": "0000001f", "version": 3}
    report |= {"source": "list", "nodes": [{"name": name, **node} for name in names], "pending": [], "changes": []}
    return {**report, **more}


COUNTED = ["commands", "keys", "hits", "lookups", "client_errors", "server_errors", "soft_failures", "before_hits"]
BOUNDS = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1]


def history(slots=121, **more):
    """So many slots in which nothing happened, the last one 2 s old."""
    report = {"now": time.time(), "slot_seconds": 5, "last_slot_seconds": 2}
    report |= {name: [0] * slots for name in [*COUNTED, "connections", "buffer_bytes"]}
    report |= {"durations": [[0] * (len(BOUNDS) + 1)] * slots, "duration_bounds": BOUNDS}
    return report | more


def hot(keys, **more):
    keys = [{"key": key, "share": 0.125, "rate": 345.6, "node": node} for key, node in keys]
    return {"enabled": True, "sampled": 12345, "every": 64, "seconds": 60, "keys": keys, **more}


@contextlib.contextmanager
def serving(answers):
    """The page, and `answers`: path → what JSON to give, a text, or nothing: 404. They may change meanwhile."""
    answers.setdefault("/history", history())

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
def shown(browser, answers, done=lambda seen: seen["nodes"]):
    """The page when it has drawn the first answers."""
    with serving(answers) as address:
        browser.problems.clear()
        browser.look(1200)
        browser.open(address)
        page = Page(browser)
        page.wait("there is an answer", done)
        yield page
        assert browser.problems == []


def bad(names):
    """Everything that the page can show at once."""
    report = ring(names, status="degraded", last_error=f"no answer from {names[0]}")
    report["pending"] = [f"{names[-1]} missing for 12 s"]
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


def test_a_node_that_is_down_says_why(browser):
    cause = 'answered "<b>HTTP/1.1 400</b> ' + "x" * 45 + '"'
    report = ring(["a:1", "b:2"], status="degraded")
    report["nodes"][0].update(state="down", cause=cause)
    with shown(browser, {"/ring": report, "/metrics": METRICS}) as page:
        assert cause in page.seen["nodes"]["a:1"]["State"]
        assert f"Node a:1 is down: {cause}" in page.seen["sentence"]
        # One piece of the ring for each, and stripes on it.
        assert browser.value("document.querySelectorAll('#ring circle').length") == 3
        assert browser.value("document.querySelectorAll('td b').length") == 0
        for width in (1200, 768, 360):
            browser.look(width)
            fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            page.wait(f"it fits at {width} px", lambda seen: browser.value(fits))


def test_the_ring_before_says_what_it_still_gives(browser):
    node = {"address": "10.0.0.1:11211", "weight": 1, "share": 0.5, "state": "up", "since": 1}
    old = [node | {"name": "a:1", "in_ring": True}, node | {"name": "x:9", "in_ring": False, "state": "down"}]
    before = {"state": "reading", "since": int(time.time()) - 60, "fingerprint": "0000001e", "placement": "ring"}
    report = ring(["a:1", "b:2"], before=before | {"moved": 0.25, "nodes": old})
    reads = "slipring_before_reads_total"
    counted = lambda hits, misses: METRICS + f'{reads}{{result="hit"}} {hits}\n{reads}{{result="miss"}} {misses}\n'
    answers = {"/ring": report, "/metrics": counted(100, 100)}
    said = lambda: browser.value("document.querySelector('#before').textContent")
    with shown(browser, answers) as page:
        assert said() == "25 % of the keys have an old place; no such key was missed lately."
        nodes = browser.value("document.querySelector('#old').textContent")
        assert "a:1 in the ring; x:9 down." in nodes
        assert "Of the ring before x:9 is down: writes" in browser.value("document.querySelector('#sentence').textContent")
        answers["/metrics"] = counted(181, 119)
        page.wait("the share is told", lambda _: "81 %" in said())
        assert said() == "25 % of the keys have an old place; it answers 81 % of their misses."
        # Its memory is gone: nothing is wrong any more.
        old[1] |= {"gone": True}
        before["vanished"] = True
        answers["/ring"] = ring(["a:1"], before=before | {"state": "ending", "moved": 0.25, "nodes": old})
        page.wait("it ends", lambda _: "nothing is read there any more" in said())
        old_ring = browser.value("document.querySelector('#old').textContent")
        assert "x:9 down, its memory is gone" in old_ring
        # It vanished, and did not end as it is to.
        assert "(vanished without “ending:” " in old_ring and "(ending" not in old_ring, old_ring
        assert said().endswith("it is invalidated until five minutes after the ring before vanished."), said()
        sentence = browser.value("document.querySelector('#sentence').textContent")
        assert "has vanished" in sentence and "Of the ring before" not in sentence
        answers["/ring"] = ring(["a:1"])
        page.wait("there is none any more", lambda _: said() == "")
        report = ring(["a:1"])
        report["changes"] = [{"at": 1, "version": 3, "reason": "file: b:2 added", "moved": 0.5}]
        report["changes"][0]["joined"] = [{"node": "b:2", "items": 1234}]
        answers["/ring"] = report
        changes = lambda: browser.value("document.querySelector('#changes').textContent")
        page.wait("who joined with values is told", lambda _: "b:2 had 1,234 values in it" in changes())


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
    report["nodes"][0].update(state="down", cause="is this sidecar itself")
    with shown(browser, {"/ring": report, "/metrics": METRICS}) as page:
        assert "is down: is this sidecar itself" in page.seen["sentence"]
        assert "is this sidecar itself" in page.seen["nodes"]["a:1"]["State"]
        assert "itself" not in page.seen["nodes"]["b:2"]["State"]


FACTS = "Object.fromEntries([...document.querySelectorAll('#facts dt')].map((one) => [one.textContent, one.nextSibling.textContent]))"


def test_tls_tells_what_expires_first(browser):
    answers = {"/ring": ring(["a:1"]), "/metrics": METRICS}
    soon, late = int(time.time()) + 86400, int(time.time()) + 10 * 86400
    clock = time.strftime("%H:%M:%S", time.localtime(soon))

    def expiry(owner, node, at):
        return f'slipring_tls_certificate_expiry_timestamp_seconds{{owner="{owner}",node="{node}"}} {at}\n'

    def tls(*lines, insecure=0):
        answers["/metrics"] = METRICS + f"slipring_tls_insecure {insecure}\n" + "".join(lines)
        with shown(browser, answers, lambda seen: seen["facts"]):
            return browser.value(FACTS)["TLS"]

    with shown(browser, answers, lambda seen: seen["facts"]):
        assert "TLS" not in browser.value(FACTS)
    assert tls() == "onno certificate seen yet"
    told = tls(expiry("node", "a:1", late), expiry("node", "<b>:2", soon), expiry("client", "", late))
    assert told.startswith("onthat of <b>:2 expires first: ") and clock in told
    told = tls(expiry("node", "a:1", late), expiry("client", "", soon))
    assert told.startswith("onour certificate expires first: ") and clock in told
    assert tls(insecure=1).startswith("certificates of nodes are not verified")


@pytest.mark.parametrize("width", [320, 390, 641, 768, 901, 1181, 1200])
def test_it_fits(browser, width):
    long = [f"memcached-{i}.memcached.very-long-namespace.svc.cluster.local:11211" for i in range(4)]
    for names in [long, STRANGE]:
        with shown(browser, bad(names)) as page:
            browser.look(width, phone=width < 500)
            page.wait("it is laid out", lambda seen: seen["window"] == width)
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


WIDTHS = [360, 768, 1024, 1440, 1920]
USUAL = ["127.0.0.1:11211", "10.128.100.200:11211", "memcached-0.memcached.shop:11211"]


def many():
    """500 nodes, some of those in the middle in trouble; the first 64 have figures, and one of them errors."""
    report = ring([f"10.0.{i // 250}.{i % 250}:11211" for i in range(500)], status="degraded")
    for index, state in [(300, "connecting"), (301, "degraded"), (302, "down"), (77, "down"), (400, "probing")]:
        report["nodes"][index].update(state=state, cause="connection refused")
    names = [node["name"] for node in report["nodes"]]
    report["changes"] = [{"at": int(time.time()), "version": 3, "reason": "file: " + ", ".join(f"{name} added" for name in names), "moved": 1}]
    report["pending"] = [f"10.1.0.{i}:11211 missing for 12 s" for i in range(100)]
    return report


CASES = {
    "all is well": ring(USUAL),
    "a node is down": {**bad(USUAL)["/ring"], "nodes": [{**node, "cause": "no answer for 500 ms"} for node in bad(USUAL)["/ring"]["nodes"]]},
    "it drains": ring(USUAL, draining=True),
    "there is no node": ring([], status="unhealthy", last_error="/etc/nodes: no such file or directory"),
    "500 nodes": many(),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_fit_to_be_seen(browser, case):
    answers = {"/ring": CASES[case], "/metrics": METRICS, "/hotkeys": hot([("#1a2b3c4d5e6f7a8b", USUAL[2])])}
    with shown(browser, answers, lambda seen: seen["facts"]) as page:
        # The last is the narrowest that has columns.
        for width in [*WIDTHS, 1181]:
            for scheme in ["light", "dark"]:
                browser.look(width, scheme, phone=width < 500)
                page.wait("it is laid out", lambda seen: seen["window"] == width)
                assert page.seen["width"] <= width
                faint = browser.value(FAINT)
                assert faint["texts"] > 20 and faint["found"] == [], (width, scheme)
            cards = "[...document.querySelectorAll('.card')].filter((one) => one.scrollWidth > one.clientWidth)"
            assert browser.value(f"{cards}.map((one) => one.textContent)") == [], width
            # A usual name is in one piece.
            broken = "[...document.querySelectorAll('#rows th > bdi')].filter((one) => one.getClientRects().length > 1)"
            assert browser.value(f"{broken}.map((one) => one.textContent)") == [], width
            assert browser.value("document.documentElement.scrollHeight") < 3500, width
        # On a phone it begins with the nodes; the ring is small, and comes later.
        browser.look(360, phone=True, height=740)
        page.wait("it is laid out", lambda seen: seen["window"] == 360)
        place = "document.querySelector('{}').getBoundingClientRect()"
        assert browser.value(place.format("#ring") + ".height") <= 150
        assert browser.value("document.querySelector('#none').checkVisibility()") == (page.seen["nodes"] == {})
        if page.seen["nodes"]:
            top = browser.value(place.format("#rows tr") + ".top")
            # What is said above them may take a line more, for it has times in it.
            assert top < 740 * 2 / 3 and browser.value(place.format("#ring") + ".top") > top


def test_of_many_nodes_those_in_trouble_come_first(browser):
    report = many()
    metrics = METRICS + "".join(f'slipring_upstream_requests_total{{node="{node["name"]}",outcome="timeout"}} %d\n' for node in report["nodes"][:64])
    answers = {"/ring": report, "/metrics": metrics % ((0,) * 64)}
    with shown(browser, answers) as page:
        names = [node["name"] for node in report["nodes"]]
        worst = [names[index] for index in (77, 302, 400, 301, 300)]
        assert list(page.seen["nodes"]) == worst + names[:7]
        said = "document.querySelector('#fold').textContent"
        assert browser.value(said) == "Show the other 488: all are up"
        # The eleventh begins to fail.
        answers["/metrics"] = metrics % tuple(9 * (i == 10) for i in range(64))
        page.wait("it comes behind those", lambda seen: list(seen["nodes"]) == [*worst, names[10], *names[:6]])
        # So it is with what changed; and that which is unfolded stays so.
        assert browser.value("document.querySelector('#changes summary').textContent") == "and 494 more"
        browser.value("document.querySelector('#changes summary').click()")
        browser.value("document.querySelector('#fold').click()")
        page.wait("all are there", lambda seen: len(seen["nodes"]) == 500)
        assert browser.value("document.querySelector('#fold').getAttribute('aria-expanded')") == "true"
        browser.value("document.querySelector('#fold').click()")
        page.wait("they are folded", lambda seen: len(seen["nodes"]) == 12)
        for node in report["nodes"]:
            node.update(state="down")
        page.wait("all are down", lambda seen: browser.value(said) == "Show the other 488: 488 of them not up")
        assert browser.value("document.querySelector('#changes details').open")
        assert names[499] in browser.value("document.querySelector('#changes').textContent")
    # Where there are few, nothing is hidden.
    with shown(browser, {"/ring": ring([f"node-{i}:1" for i in range(24)]), "/metrics": METRICS}) as page:
        assert len(page.seen["nodes"]) == 24
        assert browser.value("getComputedStyle(document.querySelector('#fold')).display") == "none"


def points(line):
    """What a line goes through, by its pieces."""
    pieces = re.findall(r"([ML])(-?[0-9.]+) (-?[0-9.]+)h0", line)
    return [(kind, float(x), float(y)) for kind, x, y in pieces]


def test_charts_are_full_at_once_and_have_a_time_axis(browser):
    now = time.time()
    counted = [100] * 121
    counted[60] = 1000
    record = history(now=now, commands=counted, keys=counted, lookups=[10 * (i != 30) for i in range(121)], hits=[5] * 121)
    answers = {"/ring": ring(["a:1"]), "/metrics": METRICS, "/history": record}
    with shown(browser, answers) as page:
        line = points(page.seen["charts"]["Requests/s"]["line"])
        # 120 slots, each in its middle, and now.
        assert len(line) == 121 and line[0][1] < 2 and line[-1][1] == 240
        assert page.seen["charts"]["Requests/s"]["now"] == f"{200 / 7:.0f}"
        top = min(line, key=lambda point: point[2])
        assert top == line[60] and abs(top[1] - (240 - 240 * (2 + 59.5 * 5) / 600)) < 0.1
        # What nobody asked for has no hit rate: the line is interrupted there.
        rates = points(page.seen["charts"]["Hit rate"]["line"])
        assert len(rates) == 120 and [i for i, point in enumerate(rates) if point[0] == "M"] == [0, 30]
        spans = "[...document.querySelectorAll('.chart:first-child .times span')]"
        times = browser.value(f"{spans}.map((one) => [one.textContent, parseFloat(one.style.left)])")
        assert times[-1][0] == "now" and len(times) >= 4
        for text, left in times[:-1]:
            at = now - 600 * (1 - left / 100)
            assert text == time.strftime("%H:%M", time.localtime(at + 0.5)) and abs((at + 30) % 120 - 30) < 1


def test_a_sidecar_that_began_a_moment_ago_has_few_points(browser):
    answers = {"/ring": ring(["a:1"]), "/metrics": METRICS, "/history": history(2, commands=[50, 0])}
    with shown(browser, answers) as page:
        assert len(points(page.seen["charts"]["Requests/s"]["line"])) == 2
        answers["/history"] = history(1, last_slot_seconds=0, commands=[1])
        page.wait("it began anew", lambda seen: len(points(seen["charts"]["Requests/s"]["line"])) == 1)
        assert page.seen["charts"]["Requests/s"]["now"] == "1"


def test_what_goes_wrong_is_said_at_once(browser):
    record = history(keys=[100] * 121, soft_failures=[40] * 121, server_errors=[20] * 121, client_errors=[10] * 121)
    with shown(browser, {"/ring": ring(["a:1"]), "/metrics": METRICS, "/history": record}) as page:
        for text in ["Soft failures: 40 %", "Errors: 20 %", "Client errors: 10 %"]:
            assert text in page.seen["sentence"]
    with shown(browser, {"/ring": ring(["a:1"]), "/metrics": METRICS, "/history": None}) as page:
        assert "/history gives no figures: HTTP 404" in page.seen["sentence"]


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
