"""Sessions, locks and counters of real apps go through a scaling with the ring before written down: none is broken. The
same scaling without it breaks each of them, which shows that they would tell."""

import collections
import contextlib
import itertools
import json
import pathlib
import subprocess
import threading
import time
import uuid

import pytest
from django.core.cache import CacheHandler
from processes import PATIENCE
from pymemcache.client.base import Client
from scaling import scale

TIMEOUT_SECONDS = 4 * PATIENCE


@pytest.fixture(autouse=True)
def empty():
    """These tests have nodes of their own."""


def chosen(moves, names, keys_of, wanted):
    """The first names whose keys move, or do not, as is wanted of each."""
    names = list(itertools.islice(names, 400))
    keys = [keys_of(name) for name in names]
    moved = iter(moves([key for of_name in keys for key in of_name]))
    kinds = collections.defaultdict(list)
    for name, of_name in zip(names, keys):
        kinds[tuple(next(moved) for _ in of_name)].append(name)
    return [kinds[kind].pop() for kind in wanted]


class App:
    """What the apps have in common: the keys that workers use, and those that somebody holds during an edit."""

    def __init__(self):
        self.keys, self.held, self.faults = [], [], []
        self.counts = collections.defaultdict(list)
        self.guard = threading.Lock()

    def begin_windows(self):
        """The nodes have been scaled: what lives for a while begins anew from here on."""

    def look(self, client):
        """The end: what is there now?"""

    def fault(self, what):
        with self.guard:
            self.faults.append(what)

    def counted(self, key, count):
        with self.guard:
            self.counts[key].append(count)

    def broken(self):
        """What went wrong. Of a counter each count from 1 on was given once, unless an increment was lost."""
        found = set(self.faults)
        for key, counts in self.counts.items():
            if sorted(counts) != list(range(1, len(counts) + 1)):
                found.add(f"{key} was counted {len(counts)} times, to {max(counts)}")
        return sorted(found)


class Sessions(App):
    """PHP's sessions with their locks: each use counts one in the session."""

    def __init__(self, moves, directory):
        super().__init__()
        self.directory = directory
        kinds = list(itertools.product([True, False], repeat=2))  # of a session and of its lock
        sessions = (f"session{number}" for number in itertools.count())
        found = chosen(
            moves,
            sessions,
            lambda name: [f"memc.sess.key.{name}", f"memc.sess.key.lock.{name}"],
            [*kinds, (True, True), (False, True)],
        )
        self.keys, self.held = found[:4], found[4:]

    @contextlib.contextmanager
    def client(self, port):
        script = pathlib.Path(__file__).with_name("sessions.php")
        command = ["php", str(script), str(port), str(self.directory)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield SessionClient(self, process)
        finally:
            process.kill()
            process.communicate()

    def look(self, client):
        for key in self.keys + self.held:
            client.use(key)


class SessionClient:
    def __init__(self, app, process):
        self.app, self.process = app, process

    def ask(self, verb, session):
        self.process.stdin.write(f"{verb} {session}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "PHP has ended"
        said = json.loads(line)
        if "count" in said:
            self.app.counted(session, said["count"])
            if not said["alone"]:
                self.app.fault(f"{session} was open twice")
        elif "done" not in said and (said, verb) != ({"locked": "as it may be"}, "try"):
            self.app.fault(f"{verb} {session}: {said}")

    def use(self, session):
        self.ask("visit", session)

    def attempt(self, session):
        self.ask("try", session)

    def hold(self, session):
        self.ask("open", session)

    def release(self, session):
        self.ask("close", session)


class Locks(App):
    """Locks by Django's `cache.add`, with the token of their holder."""

    def __init__(self, moves):
        super().__init__()
        locks = (f"lock:order:{number}" for number in itertools.count())
        found = chosen(moves, locks, lambda name: [f":1:{name}"], [(True,)] * 5 + [(False,)])
        self.keys, self.held = found[2:], found[:2]
        self.mutexes = {key: threading.Lock() for key in found}

    @contextlib.contextmanager
    def client(self, port):
        options = {"timeout": TIMEOUT_SECONDS, "connect_timeout": TIMEOUT_SECONDS}
        backend = "django.core.cache.backends.memcached.PyMemcacheCache"
        caches = {"default": {"BACKEND": backend, "LOCATION": f"127.0.0.1:{port}", "OPTIONS": options}}
        cache = CacheHandler(caches)["default"]
        yield LockClient(self, cache)
        cache.close()

    def look(self, client):
        for key in self.keys + self.held:
            assert client.take(key), f"{key} is still taken"
            client.release(key)


class LockClient:
    def __init__(self, app, cache):
        self.app, self.cache, self.tokens = app, cache, {}

    def take(self, key):
        token = str(uuid.uuid4())
        if not self.cache.add(key, token, timeout=3600):
            return False
        self.tokens[key] = token
        if not self.app.mutexes[key].acquire(blocking=False):
            self.app.fault(f"{key} had two holders")
            self.free(key)
            return False
        return True

    def hold(self, key):
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self.take(key):
            assert time.monotonic() < deadline, f"{key} stays taken"
            time.sleep(0.002)

    def free(self, key):
        """As careful apps do: a lock that is another one's by now stays."""
        token = self.tokens.pop(key)
        if self.cache.get(key) != token:
            self.app.fault(f"{key} was lost")
        elif not self.cache.delete(key):
            self.app.fault(f"{key} was not there to be deleted")

    def release(self, key):
        self.app.mutexes[key].release()
        self.free(key)

    def use(self, key):
        self.hold(key)
        time.sleep(0.001)
        self.release(key)

    def attempt(self, key):
        if self.take(key):
            self.release(key)


class Limits(App):
    """A rate limiter: each user may so much within a window of time, which is a counter that is added and incremented."""

    LIMIT = 20

    def __init__(self, moves):
        super().__init__()
        kinds = itertools.product([True, False], repeat=2)  # of the counter of the first window, and of the second
        users = (f"user{number}" for number in itertools.count())
        self.keys = chosen(moves, users, lambda name: [self.counter(name, 0), self.counter(name, 1)], kinds)
        self.window, self.granted = 0, collections.Counter()

    @staticmethod
    def counter(user, window):
        return f"rate:{user}:{window}"

    def begin_windows(self):
        """Those that began before the nodes were scaled are over before the old places are."""
        self.window = 1

    @contextlib.contextmanager
    def client(self, port):
        address = ("127.0.0.1", port)
        with contextlib.closing(Client(address, timeout=TIMEOUT_SECONDS, connect_timeout=TIMEOUT_SECONDS)) as client:
            yield LimitClient(self, client)

    def look(self, client):
        for user in self.keys:
            key = self.counter(user, self.window)
            if (found := client.cache.get(key)) != str(len(self.counts[key])).encode():
                self.fault(f"{key} is {found} after {len(self.counts[key])} increments")

    def broken(self):
        more = [f"{key} was granted {granted} times" for key, granted in self.granted.items() if granted > self.LIMIT]
        return super().broken() + more


class LimitClient:
    def __init__(self, app, cache):
        self.app, self.cache = app, cache

    def use(self, user):
        key = self.app.counter(user, self.app.window)
        self.cache.add(key, "0", expire=3600, noreply=False)
        count = self.cache.incr(key, 1)
        if count is None:
            return self.app.fault(f"{key} was gone")
        self.app.counted(key, count)
        if count <= self.app.LIMIT:
            with self.app.guard:
                self.app.granted[key] += 1


def apps(directory):
    return {
        "sessions of PHP": lambda moves: Sessions(moves, directory),
        "locks of Django": Locks,
        "a rate limiter": Limits,
    }


@pytest.mark.parametrize("name", apps(None))
def test_a_scaling_with_the_ring_before_breaks_nothing(name, tmp_path):
    app = scale(apps(tmp_path)[name], tmp_path, written_down=True)
    assert app.broken() == []


@pytest.mark.parametrize("name", apps(None))
def test_one_without_it_breaks_each(name, tmp_path):
    """What moved is gone, though its old node has it; so these tests can tell."""
    app = scale(apps(tmp_path)[name], tmp_path, written_down=False)
    assert app.broken() != []
