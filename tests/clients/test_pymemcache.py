"""pymemcache: text protocol; set, delete and touch with `noreply` by default."""

import pytest
from pymemcache import serde
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

KEYS = [f"key:{number}" for number in range(300)]


@pytest.fixture
def client(port):
    client = Client(("127.0.0.1", port), timeout=20, connect_timeout=20)
    yield client
    client.quit()


def test_noreply_sets_are_read_back(client):
    for key in KEYS:
        client.set(key, "value of " + key)
    for key in KEYS:
        assert client.get(key) == b"value of " + key.encode()


def test_many(client):
    values = {key: key.encode() * 3 for key in KEYS}
    assert client.set_many(values) == []
    assert client.get_many(KEYS + ["absent"]) == values
    gets = client.gets_many(KEYS)
    assert {key: value for key, (value, _) in gets.items()} == values
    client.delete_many(KEYS[:100])
    assert sorted(client.get_many(KEYS)) == sorted(KEYS[100:])


def test_each_command_with_a_reply(client):
    assert client.set("k", "1", noreply=False) is True
    assert client.add("k", "x", noreply=False) is False
    assert client.replace("k", "2", noreply=False) is True
    assert client.replace("none", "2", noreply=False) is False
    assert client.append("k", "3", noreply=False) is True
    assert client.prepend("k", "1", noreply=False) is True
    assert client.get("k") == b"123"
    assert client.incr("k", 7) == 130
    assert client.decr("k", 30) == 100
    assert client.incr("none", 1) is None
    assert client.touch("k", 100, noreply=False) is True
    assert client.touch("none", 100, noreply=False) is False
    value, unique = client.gets("k")
    assert value == b"100"
    assert client.cas("k", "new", unique) is True
    assert client.cas("k", "newer", unique) is False
    assert client.cas("none", "x", b"1") is None
    assert client.delete("k", noreply=False) is True
    assert client.delete("k", noreply=False) is False
    assert client.get("k") is None
    assert client.get("k", "default") == "default"


def test_each_command_without_a_reply(client):
    client.set("k", "2", noreply=True)
    client.add("k", "x", noreply=True)
    client.append("k", "3", noreply=True)
    client.prepend("k", "1", noreply=True)
    client.incr("k", 1, noreply=True)
    client.decr("k", 2, noreply=True)
    client.touch("k", 100, noreply=True)
    assert client.get("k") == b"122"
    client.delete("k", noreply=True)
    assert client.get("k") is None


def test_a_value_that_is_too_large_is_said_and_the_connection_lives(client):
    client.set("k", b"x" * 1_000_000, noreply=False)
    assert len(client.get("k")) == 1_000_000
    with pytest.raises(MemcacheServerError, match="too large"):
        client.set("k", b"x" * (1 << 20), noreply=False)
    assert client.set("k", "small", noreply=False) is True
    assert client.get("k") == b"small"


def test_a_mistake_is_said_and_the_connection_lives(client):
    client.set("k", "text", noreply=False)
    with pytest.raises(MemcacheClientError):
        client.incr("k", 1)
    assert client.get("k") == b"text"


def test_version_stats_and_flush(client):
    assert client.version() == b"1.6.18"
    stats = client.stats()
    for name in [b"pid", b"uptime", b"version", b"curr_items", b"get_hits", b"threads"]:
        assert name in stats
    assert client.stats("settings") is not None
    client.set("k", "v", noreply=False)
    assert client.flush_all(noreply=False) is True
    assert client.get("k") is None


def test_objects_through_a_pool_as_users_have_it(port):
    pool = PooledClient(("127.0.0.1", port), max_pool_size=20, serde=serde.pickle_serde)
    pool.set("k", {"list": [1, 2, 3]}, expire=100)
    assert pool.get("k") == {"list": [1, 2, 3]}
    pool.close()
    hashed = HashClient(
        [("127.0.0.1", port)],
        serializer=serde.python_memcache_serializer,
        deserializer=serde.python_memcache_deserializer,
        connect_timeout=3,
        timeout=20,
        retry_attempts=2,
        use_pooling=True,
        max_pool_size=20,
        ignore_exc=True,
    )
    hashed.set("health_check", "ok", expire=10)
    assert hashed.get("health_check") == "ok"
    hashed.set_many({key: {"id": key} for key in KEYS}, expire=300)
    assert hashed.get_many(KEYS)[KEYS[7]] == {"id": KEYS[7]}
    hashed.close()
