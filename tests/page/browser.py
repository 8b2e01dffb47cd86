"""A headless Chromium, driven by its DevTools protocol: JSON messages, each ended by a zero byte,
over a pair of pipes. No library needed."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
PATIENCE = 60


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
            stderr=subprocess.DEVNULL,
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
        # Asked to end: it then ends its helpers too, which a kill would leave behind for a while.
        self._session = {}
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def call(self, method, **parameters):
        """Sends one command and waits for its answer; notes the events that come before it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = json.loads(self._message(deadline, method))
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _message(self, deadline, method):
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium does not answer {method}"
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

    def look(self, width, scheme="light", phone=False):
        """As a window of that width, in light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path):
        """The whole page, not only what fits the window."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))
