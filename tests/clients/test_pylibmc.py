"""pylibmc: libmemcached's text protocol."""

import pylibmc
import pytest

KEYS = [f"key:{number}" for number in range(300)]


@pytest.fixture
def client(port):
    client = pylibmc.Client([f"127.0.0.1:{port}"], binary=False)
    client.behaviors = {"cas": True, "tcp_nodelay": True}
    yield client
    client.disconnect_all()


def test_single_commands(client):
    assert client.set("k", b"1") is True
    assert client.add("k", b"x") is False
    assert client.replace("k", b"2") is True
    assert client.replace("none", b"2") is False
    assert client.append("k", b"3") is True
    assert client.prepend("k", b"1") is True
    assert client.get("k") == b"123"
    assert client.get("none") is None
    assert "k" in client
    assert client.delete("k") is True
    assert client.delete("k") is False


def test_numbers_keep_their_type(client):
    client.set("n", 41)
    assert client.incr("n") == 42
    assert client.decr("n", 2) == 40
    assert client.get("n") == 40
    with pytest.raises(pylibmc.NotFound):
        client.incr("none")


def test_cas(client):
    client.set("k", b"old")
    value, unique = client.gets("k")
    assert value == b"old"
    assert client.cas("k", b"new", unique) is True
    assert client.cas("k", b"newer", unique) is False
    assert client.get("k") == b"new"


def test_many(client):
    values = {key: key * 3 for key in KEYS}
    assert client.set_multi(values) == []
    assert client.get_multi(KEYS + ["absent"]) == values
    assert client.delete_multi(KEYS[:100])
    assert sorted(client.get_multi(KEYS)) == sorted(KEYS[100:])


def test_touch_and_expiry(client):
    client.set("k", b"v", time=100)
    assert client.touch("k", 200)
    assert client.get("k") == b"v"
    assert not client.touch("none", 200)


def test_sizes(client):
    for size in [0, 1, 1023, 65_536, 1_000_000]:
        client.set("k", b"x" * size)
        assert client.get("k") == b"x" * size
    client.set("k", "word " * 400_000, min_compress_len=1000)
    assert client.get("k") == "word " * 400_000
    with pytest.raises(pylibmc.Error):
        client.set("k", b"x" * (1 << 20))
    client.set("k", b"small")
    assert client.get("k") == b"small"


def test_stats_and_flush(client):
    [(_, stats)] = client.get_stats()
    assert stats["version"] in ("1.6.18", b"1.6.18")
    assert "curr_items" in stats
    client.set("k", b"v")
    assert client.flush_all()
    assert client.get("k") is None


def test_a_client_made_for_many_servers(port):
    client = pylibmc.Client([f"127.0.0.1:{port}"], behaviors={"ketama": True, "dead_timeout": 5})
    values = {key: [key, 1, None] for key in KEYS}
    client.set_multi(values)
    assert client.get_multi(KEYS) == values
