"""The Python clients."""

import asyncio

from serving import TIMEOUT, Client, pairs, serve


class Pymemcache(Client):
    def __init__(self, host, port):
        from pymemcache.client.base import Client as Library

        super().__init__()
        library = self.library = Library(
            (host, port), connect_timeout=TIMEOUT, timeout=TIMEOUT, default_noreply=False, allow_unicode_keys=True
        )
        for op in ("set", "add", "replace", "append", "prepend", "get", "incr", "decr", "touch", "delete", "version"):
            setattr(self, op, getattr(library, op))

    def gets(self, key):
        value, self.uniques[key] = self.library.gets(key)
        return value

    def cas(self, key, value, seconds):
        return self.library.cas(key, value, self.uniques[key], seconds)

    def multiget(self, *keys):
        return self.library.get_many(keys)

    def multiset(self, *parts):
        # As by default.
        return self.library.set_many(pairs(parts), 1000, noreply=True) == []

    def quiet_set(self, key, value, seconds):
        self.library.set(key, value, seconds, noreply=True)

    def quiet_delete(self, key):
        self.library.delete(key, noreply=True)

    def stats(self):
        return {name.decode(): str(value).encode() for name, value in self.library.stats().items()}

    def flush(self):
        return self.library.flush_all()


class PythonMemcached(Client):
    def __init__(self, host, port):
        import memcache

        super().__init__()
        # A server that was given up would be left alone for a while.
        library = self.library = memcache.Client(
            [f"{host}:{port}"], socket_timeout=TIMEOUT, cache_cas=True, dead_retry=0
        )
        for op in ("append", "prepend", "get", "gets", "incr", "decr"):
            setattr(self, op, getattr(library, op))

    def yes(self, op, *arguments):
        return bool(getattr(self.library, op)(*arguments))

    def set(self, key, value, seconds):
        return self.yes("set", key, value, seconds)

    def add(self, key, value, seconds):
        return self.yes("add", key, value, seconds)

    def replace(self, key, value, seconds):
        return self.yes("replace", key, value, seconds)

    def append(self, key, value):
        return self.yes("append", key, value)

    def prepend(self, key, value):
        return self.yes("prepend", key, value)

    def cas(self, key, value, seconds):
        return self.yes("cas", key, value, seconds)

    def touch(self, key, seconds):
        return self.yes("touch", key, seconds)

    def delete(self, key):
        return self.yes("delete", key)

    def multiget(self, *keys):
        return self.library.get_multi(keys)

    def multiset(self, *parts):
        return self.library.set_multi(pairs(parts), 1000) == []

    def quiet_set(self, key, value, seconds):
        self.library.set(key, value, seconds, noreply=True)

    def quiet_delete(self, key):
        self.library.delete(key, noreply=True)

    def stats(self):
        [(_, stats)] = self.library.get_stats()
        return {name: value.encode() for name, value in stats.items()}

    def flush(self):
        self.library.flush_all()
        return True


class Pylibmc(Client):
    def __init__(self, host, port, binary=False):
        import pylibmc

        super().__init__()
        self.not_found = pylibmc.NotFound
        library = self.library = pylibmc.Client([f"{host}:{port}"], binary=binary)
        # In milliseconds and microseconds.
        library.behaviors = {"cas": True, "tcp_nodelay": True, "connect_timeout": TIMEOUT * 1000}
        library.behaviors = {"receive_timeout": TIMEOUT * 1_000_000, "send_timeout": TIMEOUT * 1_000_000}
        library.behaviors = {"_poll_timeout": TIMEOUT * 1000}
        for op in ("set", "add", "replace", "append", "prepend", "get", "incr", "decr", "delete"):
            setattr(self, op, getattr(library, op))

    def touch(self, key, seconds):
        # In binary libmemcached waits for more than the answer has, until this is over.
        self.library.behaviors = {"_poll_timeout": 2000}
        touched = self.library.touch(key, seconds)
        self.library.behaviors = {"_poll_timeout": TIMEOUT * 1000}
        return touched

    def gets(self, key):
        value, self.uniques[key] = self.library.gets(key)
        return value

    def cas(self, key, value, seconds):
        return self.library.cas(key, value, self.uniques[key], seconds)

    def multiget(self, *keys):
        return self.library.get_multi(keys)

    def multiset(self, *parts):
        return self.library.set_multi(pairs(parts), 1000) == []

    def quietly(self, op, *arguments):
        self.library.behaviors = {"_noreply": True}
        getattr(self.library, op)(*arguments)
        self.library.behaviors = {"_noreply": False}

    def quiet_set(self, key, value, seconds):
        self.quietly("set", key, value, seconds)

    def quiet_delete(self, key):
        self.quietly("delete", key)

    def stats(self):
        [(_, stats)] = self.library.get_stats()
        return {name: value if isinstance(value, bytes) else value.encode() for name, value in stats.items()}

    def flush(self):
        return self.library.flush_all()


class Asynchronous(Client):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()

    def run(self, coroutine):
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, TIMEOUT))


class Aiomcache(Asynchronous):
    def __init__(self, host, port):
        import aiomcache

        super().__init__()
        self.library = aiomcache.Client(host, port)

    def plain(self, op, key, *arguments):
        return self.run(getattr(self.library, op)(key.encode(), *arguments))

    def set(self, *arguments):
        return self.plain("set", *arguments)

    def add(self, *arguments):
        return self.plain("add", *arguments)

    def replace(self, *arguments):
        return self.plain("replace", *arguments)

    def append(self, *arguments):
        return self.plain("append", *arguments)

    def prepend(self, *arguments):
        return self.plain("prepend", *arguments)

    def get(self, *arguments):
        return self.plain("get", *arguments)

    def incr(self, *arguments):
        return self.plain("incr", *arguments)

    def decr(self, *arguments):
        return self.plain("decr", *arguments)

    def touch(self, *arguments):
        return self.plain("touch", *arguments)

    def delete(self, *arguments):
        return self.plain("delete", *arguments)

    def gets(self, key):
        value, self.uniques[key] = self.plain("gets", key)
        return value

    def cas(self, key, value, seconds):
        return self.plain("cas", key, value, self.uniques[key], seconds)

    def multiget(self, *keys):
        values = self.run(self.library.multi_get(*(key.encode() for key in keys)))
        return {key: value for key, value in zip(keys, values) if value is not None}

    def stats(self):
        return self.run(self.library.stats())

    def version(self):
        return self.run(self.library.version())

    def flush(self):
        self.run(self.library.flush_all())
        return True


class Emcache(Asynchronous):
    def __init__(self, host, port, autodiscovery=False):
        import emcache

        super().__init__()
        self.refusals = (emcache.NotStoredStorageCommandError, emcache.NotFoundCommandError)
        self.address = emcache.MemcachedHostAddress(host, port)
        # The one connection: what comes behind a quiet command is asked behind it.
        client = emcache.create_client(
            [self.address],
            timeout=TIMEOUT,
            connection_timeout=TIMEOUT,
            max_connections=1,
            autodiscovery=autodiscovery,
            autodiscovery_timeout=TIMEOUT,
        )
        self.library = self.run(client)

    def yes(self, op, key, *arguments, **more):
        try:
            self.run(getattr(self.library, op)(key.encode(), *arguments, **more))
        except self.refusals:
            return False
        return True

    def set(self, key, value, seconds):
        return self.yes("set", key, value, exptime=seconds)

    def add(self, key, value, seconds):
        return self.yes("add", key, value, exptime=seconds)

    def replace(self, key, value, seconds):
        return self.yes("replace", key, value, exptime=seconds)

    def append(self, key, value):
        return self.yes("append", key, value)

    def prepend(self, key, value):
        return self.yes("prepend", key, value)

    def touch(self, key, seconds):
        return self.yes("touch", key, seconds)

    def delete(self, key):
        return self.yes("delete", key)

    def get(self, key):
        item = self.run(self.library.get(key.encode()))
        return item and item.value

    def gets(self, key):
        item = self.run(self.library.gets(key.encode()))
        self.uniques[key] = item.cas
        return item.value

    def cas(self, key, value, seconds):
        return self.yes("cas", key, value, self.uniques[key], exptime=seconds)

    def gat(self, key, seconds):
        item = self.run(self.library.gat(seconds, key.encode()))
        return item and item.value

    def incr(self, key, number):
        return self.run(self.library.increment(key.encode(), number))

    def decr(self, key, number):
        return self.run(self.library.decrement(key.encode(), number))

    def multiget(self, *keys):
        items = self.run(self.library.get_many([key.encode() for key in keys]))
        return {key.decode(): item.value for key, item in items.items()}

    def quiet_set(self, key, value, seconds):
        self.yes("set", key, value, exptime=seconds, noreply=True)

    def quiet_delete(self, key):
        self.yes("delete", key, noreply=True)

    def where(self):
        """The address as the discovery gave it, or as we did."""
        return self.library.cluster_managment().nodes()[0]

    def stats(self):
        return {name: value.encode() for name, value in self.run(self.library.stats(self.where())).items()}

    def version(self):
        return self.run(self.library.version(self.where())).encode()

    def flush(self):
        self.run(self.library.flush_all(self.where()))
        return True


class Bmemcached(Client):
    def __init__(self, host, port):
        import bmemcached

        super().__init__()
        library = self.library = bmemcached.Client([f"{host}:{port}"], socket_timeout=TIMEOUT)
        for op in ("set", "add", "replace", "get", "delete"):
            setattr(self, op, getattr(library, op))

    def gets(self, key):
        value, self.uniques[key] = self.library.gets(key)
        return value

    def cas(self, key, value, seconds):
        return self.library.cas(key, value, self.uniques[key], seconds)

    # The one that does not store where nothing is; the client itself has no way to say so.
    def incr(self, key, number):
        return self.library.incr(key, number, default=0, time=0xFFFFFFFF)

    def decr(self, key, number):
        return self.library.decr(key, number, default=0, time=0xFFFFFFFF)

    def multiget(self, *keys):
        return self.library.get_multi(keys)

    def multiset(self, *parts):
        return self.library.set_multi(pairs(parts), 1000) == []

    def stats(self):
        [stats] = self.library.stats().values()
        return {name: value if isinstance(value, bytes) else value.encode() for name, value in stats.items()}

    def flush(self):
        return self.library.flush_all()


class MetaMemcache(Client):
    def __init__(self, host, port):
        from meta_memcache import CacheClient, ServerAddress, SetMode, connection_pool_factory_builder
        from meta_memcache.protocol import Key

        super().__init__()
        self.modes, self.named = SetMode, Key
        self.library = CacheClient.cache_client_from_servers(
            [ServerAddress(host, port)],
            connection_pool_factory_builder(
                max_pool_size=1,
                mark_down_period_s=0,
                connection_timeout=TIMEOUT,
                recv_timeout=TIMEOUT,
                # It is the kernel's buffer, too; with the default a large value takes half a minute.
                read_buffer_size=1 << 20,
            ),
        )

    def store(self, key, value, seconds, mode="SET", **more):
        return self.library.set(key, value, seconds, set_mode=self.modes[mode], **more)

    def set(self, key, value, seconds):
        return self.store(key, value, seconds)

    def add(self, key, value, seconds):
        return self.store(key, value, seconds, "ADD")

    def replace(self, key, value, seconds):
        return self.store(key, value, seconds, "REPLACE")

    def append(self, key, value):
        return self.store(key, value, 1000, "APPEND")

    def prepend(self, key, value):
        return self.store(key, value, 1000, "PREPEND")

    def get(self, key):
        return self.library.get(key)

    def gets(self, key):
        value, self.uniques[key] = self.library.get_cas(key)
        return value

    def cas(self, key, value, seconds):
        return self.store(key, value, seconds, cas_token=self.uniques[key])

    def incr(self, key, number):
        return self.library.delta_and_get(key, number)

    def decr(self, key, number):
        return self.library.delta_and_get(key, -number)

    def touch(self, key, seconds):
        return self.library.touch(key, seconds)

    def gat(self, key, seconds):
        return self.library.get(key, touch_ttl=seconds)

    def delete(self, key):
        return self.library.delete(key)

    def multiget(self, *keys):
        found = self.library.multi_get(keys)
        return {key.key: value for key, value in found.items() if value is not None}

    def quiet_set(self, key, value, seconds):
        self.store(key, value, seconds, no_reply=True)

    def quiet_delete(self, key):
        self.library.delete(key, no_reply=True)


CLIENTS = {
    "pymemcache": Pymemcache,
    "python-memcached": PythonMemcached,
    "pylibmc": Pylibmc,
    "pylibmc binary": lambda host, port: Pylibmc(host, port, binary=True),
    "aiomcache": Aiomcache,
    "emcache": Emcache,
    "emcache autodiscovery": lambda host, port: Emcache(host, port, autodiscovery=True),
    "bmemcached": Bmemcached,
    "meta-memcache": MetaMemcache,
}

serve(CLIENTS)
