"""python-memcached: text protocol, with a space behind each storage line."""

import memcache
import pytest

KEYS = [f"key:{number}" for number in range(300)]


@pytest.fixture
def client(port):
    client = memcache.Client([f"127.0.0.1:{port}"], socket_timeout=20, cache_cas=True)
    yield client
    client.disconnect_all()


def test_single_commands(client):
    assert client.set("k", "1")
    assert not client.add("k", "x")
    assert client.replace("k", "2")
    assert not client.replace("none", "2")
    assert client.append("k", "3")
    assert client.prepend("k", "1")
    assert client.get("k") == "123"
    assert client.get("none") is None
    assert client.incr("k", 7) == 130
    assert client.decr("k", 30) == 100
    assert client.incr("none") is None
    assert client.touch("k", 100)
    assert client.delete("k")
    assert client.get("k") is None


def test_cas(client):
    client.set("k", "old")
    assert client.gets("k") == "old"
    assert client.cas("k", "new")
    client.set("k", "other")
    assert not client.cas("k", "newer")
    assert client.get("k") == "other"


def test_many(client):
    values = {key: {"id": key} for key in KEYS}
    assert client.set_multi(values) == []
    assert client.get_multi(KEYS + ["absent"]) == values
    assert client.delete_multi(KEYS[:100])
    assert sorted(client.get_multi(KEYS)) == sorted(KEYS[100:])


def test_sizes(client):
    for size in [0, 1, 1023, 65_536, 1_000_000]:
        client.set("k", "x" * size)
        assert client.get("k") == "x" * size
    assert not client.set("k", "x" * (1 << 20))
    assert client.set("k", "small")
    assert client.get("k") == "small"


def test_stats_and_flush(client):
    [(_, stats)] = client.get_stats()
    assert stats["version"] == "1.6.18"
    assert client.get_stats("settings")
    client.get_slab_stats()
    client.set("k", "v")
    client.flush_all()
    assert client.get("k") is None
