"""What is asked of every client, once for all of them. A step asks the client through its driver (`matrix.py`), raises
`Wrong` at an answer that is not as it must be, and notes what it saw: that must be the same through slipring as from a
memcached itself."""

import base64
import contextlib
import random
import re
import time

from processes import PATIENCE

HELD = 100_000  # seconds: longer than any run, on a busy machine too
BRIEF = 1


class Wrong(Exception):
    pass


class Unsupported(Exception):
    pass


class Refused:
    """An exception of the client library, or an answer that says no. What it says is for people only: libraries
    word the same answer of two protocols differently."""

    def __init__(self, said=""):
        self.said = said

    def __repr__(self):
        return f"refused ({self.said})" if self.said else "refused"

    def __eq__(self, other):
        return isinstance(other, Refused)


def brief(what):
    text = repr(what)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"


def incompressible(seed, size):
    """Hardly so: some clients compress what they store. And in text, as there is one that writes any other byte as
    two."""
    return base64.b64encode(random.Random(seed).randbytes(size))[:size]


class Asker:
    """How steps ask. `call` asks the driver; the keys begin with the prefix and belong to this client alone."""

    def __init__(self, call, prefix):
        self.call = call
        self.prefix = prefix
        self.seen = []
        self.spare = 0

    def key(self, name):
        return f"{self.prefix}:{name}"

    def ask(self, op, *arguments):
        answer = self.call(op, *arguments)
        self.seen.append((op, answer))
        return answer

    def expect(self, wanted, op, *arguments):
        answer = self.ask(op, *arguments)
        # True is 1 in Python.
        if type(answer) is not type(wanted) or answer != wanted:
            raise Wrong(f"{op} {brief(arguments)} gave {brief(answer)}, not {brief(wanted)}")

    def refuses(self, op, *arguments):
        """No, in whatever way the client says it: false, nothing, an exception."""
        answer = self.ask(op, *arguments)
        if not (answer is False or answer is None or isinstance(answer, Refused)):
            raise Wrong(f"{op} {brief(arguments)} gave {brief(answer)}, which is no refusal")

    def works(self):
        """The connection is in step: a fresh value is stored and read back."""
        self.spare += 1
        value = f"still here {self.spare}".encode()
        self.expect(True, "set", self.key("spare"), value, HELD)
        self.expect(value, "get", self.key("spare"))


class Steps(Asker):
    """In the order in which they are taken."""

    def set(self):
        key = self.key("set")
        self.expect(True, "set", key, b"first", HELD)
        self.expect(b"first", "get", key)
        self.expect(True, "set", key, b"second", 0)
        self.expect(b"second", "get", key)

    def get(self):
        self.expect(None, "get", self.key("never"))

    def every_byte(self):
        value = bytes(range(256)) + b"\r\nEND\r\nVALUE x 0 1\r\nVA 1\r\n\x80\x81"
        self.expect(True, "set", self.key("bytes"), value, HELD)
        self.expect(value, "get", self.key("bytes"))

    def add(self):
        key = self.key("add")
        self.expect(True, "add", key, b"first", HELD)
        self.refuses("add", key, b"second", HELD)
        self.expect(b"first", "get", key)

    def replace(self):
        key = self.key("replace")
        self.refuses("replace", key, b"none", HELD)
        self.expect(None, "get", key)
        self.expect(True, "set", key, b"first", HELD)
        self.expect(True, "replace", key, b"second", HELD)
        self.expect(b"second", "get", key)

    def append(self):
        key = self.key("append")
        self.refuses("append", key, b"none")
        self.expect(None, "get", key)
        self.expect(True, "set", key, b"front", HELD)
        self.expect(True, "append", key, b"-back")
        self.expect(b"front-back", "get", key)

    def prepend(self):
        key = self.key("prepend")
        self.refuses("prepend", key, b"none")
        self.expect(None, "get", key)
        self.expect(True, "set", key, b"back", HELD)
        self.expect(True, "prepend", key, b"front-")
        self.expect(b"front-back", "get", key)

    def cas(self):
        key = self.key("cas")
        self.expect(True, "set", key, b"first", HELD)
        self.expect(b"first", "gets", key)
        self.expect(True, "cas", key, b"second", HELD)
        self.expect(b"second", "gets", key)
        self.expect(True, "set", key, b"other", HELD)
        self.refuses("cas", key, b"third", HELD)
        self.expect(b"other", "get", key)

    def cas_of_a_deleted_key(self):
        key = self.key("casdel")
        self.expect(True, "set", key, b"first", HELD)
        self.expect(b"first", "gets", key)
        self.expect(True, "delete", key)
        self.refuses("cas", key, b"second", HELD)
        self.expect(None, "get", key)

    def incr(self):
        key = self.key("incr")
        self.expect(True, "set", key, b"10", HELD)
        self.expect(17, "incr", key, 7)
        self.expect(18, "incr", key, 1)
        self.expect(b"18", "get", key)

    def decr(self):
        key = self.key("decr")
        self.expect(True, "set", key, b"10", HELD)
        self.expect(7, "decr", key, 3)
        self.expect(0, "decr", key, 100)

    def incr_of_a_missing_key(self):
        self.refuses("incr", self.key("nonumber"), 1)
        self.refuses("decr", self.key("nonumber"), 1)

    def incr_of_a_word(self):
        self.expect(True, "set", self.key("word"), b"word", HELD)
        self.refuses("incr", self.key("word"), 1)
        self.expect(b"word", "get", self.key("word"))

    def touch(self):
        key = self.key("touch")
        self.expect(True, "set", key, b"value", HELD)
        self.expect(True, "touch", key, HELD)
        self.expect(b"value", "get", key)
        self.refuses("touch", self.key("notouch"), HELD)

    def gat(self):
        key = self.key("gat")
        self.expect(True, "set", key, b"value", HELD)
        self.expect(b"value", "gat", key, HELD)
        self.expect(None, "gat", self.key("nogat"), HELD)

    def delete(self):
        key = self.key("delete")
        self.expect(True, "set", key, b"value", HELD)
        self.expect(True, "delete", key)
        self.expect(None, "get", key)

    def delete_of_a_missing_key(self):
        self.refuses("delete", self.key("nodelete"))

    def multiget(self):
        values = {self.key(f"many:{number}"): f"value {number}".encode() * (number % 7) for number in range(200)}
        for key, value in values.items():
            self.expect(True, "set", key, value, HELD)
        absent = [self.key(f"absent:{number}") for number in range(20)]
        asked = [*values, *absent]
        random.Random(14).shuffle(asked)
        self.expect(values, "multiget", *asked)
        self.expect({}, "multiget", *absent)

    def multiset(self):
        values = {self.key(f"multi:{number}"): f"value {number}".encode() for number in range(200)}
        self.expect(True, "multiset", *[part for pair in values.items() for part in pair])
        for key in list(values)[::39]:
            self.expect(values[key], "get", key)
        self.expect(values[list(values)[-1]], "get", list(values)[-1])

    def large(self):
        value = incompressible(900, 900_000)
        self.expect(True, "set", self.key("large"), value, HELD)
        self.expect(value, "get", self.key("large"))

    def large_multiget(self):
        values = {self.key(f"large:{number}"): incompressible(number, 100_000) for number in range(9)}
        for key, value in values.items():
            self.expect(True, "set", key, value, HELD)
        self.expect(values, "multiget", *values)

    def empty(self):
        self.expect(True, "set", self.key("empty"), b"", HELD)
        self.expect(b"", "get", self.key("empty"))

    def too_large(self):
        key = self.key("toolarge")
        self.refuses("set", key, incompressible(2, 1_500_000), HELD)
        self.works()

    def longest_key(self):
        key = self.key("k" * 250)[:250]
        self.expect(True, "set", key, b"value", HELD)
        self.expect(b"value", "get", key)

    def too_long_a_key(self):
        """Refused, by the client or later; some clients shorten it and say nothing."""
        key = self.key("k" * 251)[:251]
        if self.ask("set", key, b"value", HELD) is True:
            self.expect(b"value", "get", key)
        else:
            self.works()
            self.refuses("get", key)
        self.works()

    def odd_key(self):
        key = self.key("""/a?b=c&d[0]=%20#{'"`\\|,;.~^$*()<>@!+-=_}""")
        self.expect(True, "set", key, b"odd", HELD)
        self.expect(b"odd", "get", key)
        with contextlib.suppress(Unsupported):
            self.expect({key: b"odd"}, "multiget", key)
        self.expect(True, "delete", key)

    def key_in_utf8(self):
        key = self.key("schlüssel-鍵-🔑")
        self.expect(True, "set", key, b"utf-8", HELD)
        self.expect(b"utf-8", "get", key)

    def key_with_a_space(self):
        """The binary protocol can carry it, and meta commands in base64; others refuse it before or after sending."""
        key = self.key("with space")
        if self.ask("set", key, b"spaced", HELD) is True:
            self.expect(b"spaced", "get", key)
        self.works()

    def key_with_a_line_end(self):
        key = self.key("line\r\nend")
        if self.ask("set", key, b"lines", HELD) is True:
            self.expect(b"lines", "get", key)
        self.works()

    def quiet_set(self):
        key = self.key("quiet")
        for number in range(50):
            self.call("quiet_set", key, f"value {number}".encode(), HELD)
        self.expect(b"value 49", "get", key)

    def quiet_delete(self):
        key = self.key("quietdelete")
        self.expect(True, "set", key, b"value", HELD)
        self.call("quiet_delete", key)
        self.expect(None, "get", key)

    def stats(self):
        answer = self.call("stats")
        wanted = ["pid", "uptime", "version", "curr_items", "cmd_get", "get_hits"]
        if not isinstance(answer, dict) or not answer.keys() >= set(wanted):
            raise Wrong(f"stats is {brief(answer)}, which lacks some of {wanted}")
        self.works()

    def version(self):
        answer = self.call("version")
        if not isinstance(answer, bytes) or not re.fullmatch(rb"\d+\.\d+\.\d+", answer):
            raise Wrong(f"version is {brief(answer)}")
        self.works()

    def expiry_stores(self):
        """What `expiry` looks at later."""
        self.expect(True, "set", self.key("held"), b"value", HELD)
        self.expect(True, "set", self.key("brief"), b"value", BRIEF)
        for op in ("touch", "gat"):
            try:
                self.expect(True, "set", self.key(f"brief-{op}"), b"value", HELD)
                self.call(op, self.key(f"brief-{op}"), BRIEF)
            except Unsupported:
                self.expect(True, "delete", self.key(f"brief-{op}"))


class LaterSteps(Asker):
    """Taken when every client has been through `Steps`: other clients' values must not be flushed away, nor every client
    be waited for."""

    def expiry(self):
        """What was stored for a second is gone, what was stored for longer is not."""
        for name in ("brief", "brief-touch", "brief-gat"):
            deadline = time.monotonic() + PATIENCE
            while (answer := self.call("get", self.key(name))) is not None:
                if isinstance(answer, Refused) or time.monotonic() > deadline:
                    raise Wrong(f"{name} is still {brief(answer)}")
                time.sleep(0.1)
        self.expect(b"value", "get", self.key("held"))

    def flush(self):
        self.expect(True, "set", self.key("flush"), b"value", HELD)
        self.expect(True, "flush")
        self.expect(None, "get", self.key("flush"))
        self.works()


def names(steps):
    return [name for name in vars(steps) if not name.startswith("_")]
