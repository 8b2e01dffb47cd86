"""The clients of the matrix: how each is started, and what it cannot do at all, with or without slipring."""

import dataclasses
import sys

from matrix import DRIVERS

DALLI_5 = (sys.executable, str(DRIVERS / "dalli5.py"))
GO = (str(DRIVERS / "go/driver"),)
NODE = ("node", str(DRIVERS / "node/driver.js"))
PERL = ("perl", str(DRIVERS / "perl.pl"))
PHP = ("php", str(DRIVERS / "php.php"))
PYTHON = (sys.executable, str(DRIVERS / "python.py"))
RUBY = ("ruby", str(DRIVERS / "ruby.rb"))
RUST = (str(DRIVERS / "rust/target/debug/driver"),)


def java(client):
    """Begins quickly; what it computes is little."""
    classes = DRIVERS / "java/target" / client
    return ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{classes}:{classes}/*", "Driver")


@dataclasses.dataclass(frozen=True)
class Client:
    name: str
    command: tuple
    protocol: str
    # Steps for which the library has no call.
    unsupported: frozenset = frozenset()
    # Steps that go wrong against memcached itself, and why.
    fails: dict = dataclasses.field(default_factory=dict, hash=False)
    # Steps in which slipring means to differ from memcached, and why.
    differs: dict = dataclasses.field(default_factory=dict, hash=False)
    # Asks the server that it is given for the nodes.
    discovers: bool = False
    # Kinds of nodes that cannot serve it, by whatever way, and why.
    unserved: dict = dataclasses.field(default_factory=dict, hash=False)


def client(name, command, protocol, unsupported="", fails=None, differs=None, discovers=False, unserved=None):
    unsupported = frozenset(unsupported.split())
    return Client(name, command, protocol, unsupported, fails or {}, differs or {}, discovers, unserved or {})


# The text protocol cannot carry these keys; what is sent is another command.
SENDS_ANY_KEY = {
    "key_with_a_space": "sends the key as it is",
    "key_with_a_line_end": "sends the key as it is",
}

CLIENTS = {
    one.name: one
    for one in [
        client("pymemcache", PYTHON, "text", "gat"),
        client("python-memcached", PYTHON, "text", "gat version"),
        client("pylibmc", PYTHON, "text", "gat version", SENDS_ANY_KEY),
        client(
            "pylibmc binary",
            PYTHON,
            "binary",
            "gat version",
            {"incr_of_a_word": "takes the answer for a failure of the server, and leaves it alone for a while"},
        ),
        client("aiomcache", PYTHON, "text", "gat multiset quiet_set quiet_delete"),
        client("emcache", PYTHON, "text", "multiset"),
        client("emcache autodiscovery", PYTHON, "text", "multiset", discovers=True),
        client(
            "bmemcached",
            PYTHON,
            "binary",
            "append prepend touch gat quiet_set quiet_delete version",
            {
                "delete_of_a_missing_key": "says it deleted the key",
                "too_long_a_key": "sends it, and the closed connection is not opened again at once",
            },
        ),
        client(
            "meta-memcache",
            PYTHON,
            "meta",
            "multiset stats version flush",
            unserved={"as 1.5.16": "asks every value for t, l and h, which no memcached before 1.6 can tell"},
        ),
        client("dalli 5 requests", DALLI_5, "meta"),
        client("npm memcached", NODE, "text", "gat multiset quiet_set quiet_delete"),
        client(
            "memjs",
            NODE,
            "binary",
            "cas cas_of_a_deleted_key gat quiet_set quiet_delete version",
            {
                "prepend": "sends an append",
                "incr_of_a_missing_key": "makes it 0",
            },
            {"too_long_a_key": "waits for ever for what it asks on a connection that closes behind an answer, as memcached's"},
        ),
        client("dalli", RUBY, "binary"),
        client("php memcached", PHP, "text", "gat", {"key_in_utf8": "refuses it"}),
        client("php memcached binary", PHP, "binary", "gat"),
        client(
            "php memcached sessions",
            PHP,
            "binary",
            # A session is read, written and destroyed; nothing else.
            "add replace append prepend cas cas_of_a_deleted_key incr decr incr_of_a_missing_key incr_of_a_word touch gat "
            "multiget multiset large_multiget quiet_set quiet_delete stats version flush",
            {
                "delete_of_a_missing_key": "says it destroyed the session",
                "longest_key": "puts more in front of it",
            },
        ),
        client("php memcache", PHP, "text", "touch gat multiset quiet_set quiet_delete"),
        client(
            "Cache::Memcached",
            PERL,
            "text",
            "cas cas_of_a_deleted_key touch gat multiset quiet_set quiet_delete version",
            differs=dict.fromkeys(
                ["key_with_a_space", "key_with_a_line_end"],
                "sends the key as it is; a memcached takes the value for commands, slipring closes the connection",
            ),
        ),
        client("Cache::Memcached::Fast", PERL, "text", "stats"),
        client("gomemcache", GO, "text", "multiset quiet_set quiet_delete stats version"),
        client(
            "rainycape/memcache",
            GO,
            "binary",
            "replace append prepend touch gat multiset quiet_set quiet_delete stats version",
        ),
        client(
            "couchbase/gomemcached",
            GO,
            "binary",
            "touch multiset",
            {"too_long_a_key": "sends it, and finds the connection closed only with the next call"},
        ),
        client(
            "memcache-rs",
            RUST,
            "text",
            "gat multiset quiet_set quiet_delete",
            {
                **dict.fromkeys(["add", "replace", "append", "prepend"], "takes NOT_STORED for yes"),
                "stats": "gives none",
            },
        ),
        client(
            "memcache-rs binary",
            RUST,
            "binary",
            "gat multiset quiet_set quiet_delete",
            {"prepend": "says it stored where nothing is", "incr_of_a_missing_key": "makes it 0"},
        ),
        client(
            "bmemcached-rs",
            RUST,
            "binary",
            "append prepend cas cas_of_a_deleted_key touch gat multiget multiset large_multiget quiet_set quiet_delete "
            "stats version flush",
            {
                "incr_of_a_word": "leaves the text of the error for the next answer",
                "delete_of_a_missing_key": "says it deleted the key",
            },
        ),
        client(
            "async-memcached",
            RUST,
            "text",
            "replace append prepend cas cas_of_a_deleted_key touch gat quiet_set",
            {"key_in_utf8": "cannot read an answer with such a key"},
        ),
        client("async-memcached meta", RUST, "meta", "touch"),
        client("spymemcached", java("spymemcached"), "text", "gat quiet_set quiet_delete"),
        client("spymemcached binary", java("spymemcached"), "binary", "quiet_set quiet_delete"),
        client("xmemcached", java("xmemcached"), "text", "gat multiset", {"incr_of_a_missing_key": "makes it 0"}),
        client("xmemcached binary", java("xmemcached"), "binary", "multiset", {"incr_of_a_missing_key": "makes it 0"}),
        client(
            "elasticache-java-cluster-client",
            java("elasticache"),
            "text",
            "quiet_set quiet_delete",
            discovers=True,
        ),
    ]
}
