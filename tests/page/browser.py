"""A headless Chromium, driven by its DevTools protocol: JSON messages, each ended by a zero byte,
over a pair of pipes. No library needed."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

from processes import eventually

NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
PATIENCE = 60
# A picture needs a frame, and nothing in the protocol says that one will come.
FRAME_PATIENCE = 20
FRAME_TRIES = 5
CLOSE_PATIENCE = 10


class Silence(AssertionError):
    """No answer in time."""


class Browser:
    """One page. What went wrong inside it gathers in `problems`."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        assert program, f"no Chromium in PATH ({', '.join(NAMES)}); tests/run installs chromium-headless-shell"
        self.problems = []
        self._profile = tempfile.TemporaryDirectory(prefix="slipring-page-", ignore_cleanup_errors=True)
        self._session, self._number, self._read = {}, 0, b""
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # No sandbox: it does not start as root or in most containers, and the page is our own.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options += ["--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank"]
        # It reads from descriptor 3 and writes to 4. Not sh: some know descriptors of one digit only.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *options],
            pass_fds=[theirs_in, theirs_out],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A group of its own: the program may be a script that starts the real one, and has helpers.
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self):
        try:
            pages = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
            attached = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
            self._session = {"sessionId": attached["sessionId"]}
            for domain in ["Page", "Runtime", "Log"]:
                self.call(f"{domain}.enable")
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        self._session = {}
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close", patience=CLOSE_PATIENCE)
        try:
            self._process.wait(CLOSE_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def call(self, method, patience=PATIENCE, **parameters):
        """Sends one command and waits for its answer; notes the events that come before it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + patience
        while True:
            answer = json.loads(self._message(deadline, method))
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _message(self, deadline, method):
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Silence(f"Chromium does not answer {method}")
            more = os.read(self._from, 1 << 16)
            assert more, "Chromium ended"
            self._read += more
        message, self._read = self._read.split(b"\0", 1)
        return message

    def _note(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(parameters["exceptionDetails"])
        # The policy's refusals; failed requests are the test's own doing.
        if event.get("method") == "Log.entryAdded" and parameters["entry"]["source"] == "security":
            self.problems.append(parameters["entry"])

    def open(self, address):
        """Loads a page and waits until its script has begun."""
        answer = self.call("Page.navigate", url=address)
        assert "errorText" not in answer, f"{address}: {answer['errorText']}"
        deadline = time.monotonic() + PATIENCE
        while self.value("location.href + ' ' + document.readyState") != f"{address} complete":
            assert time.monotonic() < deadline, f"{address} does not load"
            time.sleep(0.05)

    def value(self, expression):
        """What a JavaScript expression comes to in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def look(self, width, scheme="light", phone=False, height=800, motion="no-preference"):
        """As a window of that size, in light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        features = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", motion)]
        self.call("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features])

    def press(self, key, text=""):
        """A key of the keyboard, down and up."""
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text if kind == "keyDown" else "",
                      windowsVirtualKeyCode={"Tab": 9, "Enter": 13}[key])

    def screenshot(self, path, width, scheme="light", phone=False):
        """The whole page. The answer waits for the next frame, and where the machine is busy that frame may be
        lost: the window is then made a little taller, which makes a new one, and asked for again."""
        self.look(width, scheme, phone)
        for turn in range(FRAME_TRIES):
            self.look(width, scheme, phone, height=self.value("document.documentElement.scrollHeight") + turn)
            with contextlib.suppress(Silence):
                shot = self.call("Page.captureScreenshot", patience=FRAME_PATIENCE, format="png", optimizeForSpeed=False)
                break
        else:
            raise Silence(f"no picture in {FRAME_TRIES} times {FRAME_PATIENCE} s")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


# All that the test looks at, as one value.
SEEN = """(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const text = (selector, within = document) => within.querySelector(selector).textContent;
  const nodes = {}, charts = {};
  for (const row of all("#rows tr"))
    nodes[text("bdi", row)] = Object.fromEntries(all("td", row).map((cell) => [cell.dataset.label, cell.textContent]));
  for (const chart of all(".chart"))
    charts[text("h3", chart)] = { now: text(".big", chart), line: chart.querySelector("path:not(.grid)").getAttribute("d") };
  return {
    title: document.title, state: document.documentElement.dataset.state, nodes, charts,
    hot: all("#keys tr:first-child bdi").map((one) => one.textContent), sentence: text("#sentence"), since: text("#since"), facts: text("#facts"),
    ring: document.querySelector("#ring").getAttribute("aria-label"), width: document.documentElement.scrollWidth,
    window: innerWidth,
  };
})()"""


class Page:
    """What slipring's page says."""

    def __init__(self, browser):
        self.browser = browser
        self.seen = {}

    def wait(self, what, done, patience=PATIENCE):
        """Until it is as it should be; else fails with what the page says instead."""

        def look():
            self.seen = self.browser.value(SEEN)
            return done(self.seen)

        try:
            # Not more often: each look has the browser lay out the page.
            eventually(what, look, pause=0.2, patience=patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page: {self.seen}") from None
