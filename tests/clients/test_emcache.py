"""emcache with `autodiscovery=True`: it asks the address it is given who the nodes are, and uses what it is told."""

import asyncio

import emcache
import pytest

KEYS = [f"key:{number}".encode() for number in range(300)]


async def connected(port, **options):
    address = emcache.MemcachedHostAddress("127.0.0.1", port)
    return await emcache.create_client([address], timeout=20, autodiscovery=True, autodiscovery_timeout=20, **options)


def test_the_sidecar_is_the_only_node(port):
    async def session():
        # It asks again and again, and is told the same: its connections stay.
        client = await connected(port, autodiscovery_poll_interval=0.01)
        addresses = client.cluster_managment().nodes()
        assert [(address.address, address.port) for address in addresses] == [("127.0.0.1", port)]
        for key in KEYS:
            await client.set(key, b"value of " + key)
        found = await client.get_many(KEYS + [b"absent"])
        assert {key: item.value for key, item in found.items()} == {key: b"value of " + key for key in KEYS}
        assert client.cluster_managment().nodes() == addresses
        await client.close()

    asyncio.run(session())


def test_each_command(port):
    async def session():
        client = await connected(port)
        await client.set(b"k", b"1", flags=7)
        with pytest.raises(emcache.NotStoredStorageCommandError):
            await client.add(b"k", b"x")
        await client.append(b"k", b"2")
        await client.prepend(b"k", b"3")
        item = await client.gets(b"k", return_flags=True)
        assert (item.value, item.flags) == (b"312", 7)
        await client.cas(b"k", b"40", item.cas)
        assert await client.increment(b"k", 2) == 42
        assert await client.decrement(b"k", 1) == 41
        await client.touch(b"k", 100)
        assert (await client.gat(100, b"k")).value == b"41"
        await client.replace(b"k", b"x" * 900_000, noreply=True)
        assert len((await client.get(b"k")).value) == 900_000
        await client.delete(b"k")
        assert await client.get(b"k") is None
        address = emcache.MemcachedHostAddress("127.0.0.1", port)
        assert (await client.version(address)).startswith("1.6")
        assert (await client.stats(address))["proxy_backend_total"] == "3"
        await client.close()

    asyncio.run(session())


def test_another_address_is_used(nodes, serving):
    """It is the answer that it goes by, not the address that it was given."""

    async def session(port, told):
        client = await connected(port)
        (address,) = client.cluster_managment().nodes()
        assert (address.address, address.port) == ("127.0.0.1", told)
        await client.set(b"k", b"v")
        await client.close()

    told = nodes[0]
    with serving(nodes, "--answer-discovery", f"127.0.0.1:{told}") as (port, _):
        asyncio.run(session(port, told))
