"""A small web app that keeps what it reads from its database in memcached, through slipring at localhost.

It has no list of nodes and hashes nothing: one plain client, one address. Whatever goes wrong with the cache, the app
answers from the database.
"""

import os
import time

from flask import Flask, jsonify
from pymemcache import serde
from pymemcache.client.base import PooledClient

EXPIRE = 300  # seconds

app = Flask(__name__)

# The sidecar. The variable is for trying it with another port; in a pod nobody sets it.
cache = PooledClient(
    os.environ.get("CACHE_ADDRESS") or "localhost:11211",
    serde=serde.pickle_serde,  # as before: what reads the nodes in another way still understands the values
    # The sidecar answers for a node that is silent after 0.5 s. Longer than that, it is the sidecar that hangs.
    connect_timeout=1,
    timeout=1,
    max_pool_size=20,  # at least as many as the threads of the server: one too many is an error, not a wait
)


def read_from_database(item):
    """Stands for a query."""
    time.sleep(0.01)
    return {"id": item, "name": f"Item {item}"}


def through_cache(key, read):
    """What is cached for the key, or what `read` gives, and which of them it was. Never fails for the cache's sake."""
    try:
        value = cache.get(key)
    except Exception:
        # No sidecar: nor is there one to write to. So no request waits for it twice.
        return read(), "database"
    if value is not None:
        return value, "cache"
    value = read()
    try:
        # With a reply: when it is here, the value is there for a get on any connection.
        cache.set(key, value, expire=EXPIRE, noreply=False)
    except Exception:
        # Its node is down: it is not cached, that is all, and the sidecar has logged it. (A *delete* that fails is
        # another matter: the old value may still be there when the node comes back.)
        pass
    return value, "database"


def nodes():
    """What the sidecar says of each node: `state`, and the node's own counters if it answers."""
    found = {}
    for name, value in cache.stats("nodes").items():
        node, _, field = name.decode().rpartition(".")
        found.setdefault(node, {})[field] = value.decode() if isinstance(value, bytes) else value
    return found


@app.get("/api/items/<int:item>")
def get_item(item):
    value, source = through_cache(f"item:{item}", lambda: read_from_database(item))
    return jsonify(item=value, source=source)


@app.get("/health")
def health():
    """For probes and for people. Always 200: a cache that is down is no reason to restart this pod, nor to take it out
    of service. It says how the cache is: `degraded` when a node is down, or what is written is not read back."""
    try:
        down = [name for name, node in nodes().items() if node["state"] != "up"]
        if down:
            return jsonify(status="degraded", down=down)
        cache.set("health_check", "ok", expire=10, noreply=False)
        return jsonify(status="healthy" if cache.get("health_check") == "ok" else "degraded")
    except Exception as error:
        return jsonify(status="degraded", error=str(error))


@app.get("/api/cache/stats")
def cache_stats():
    """Each node's counters. The sidecar asks the nodes; a node that is down has a state and no counters."""
    shown = ("state", "curr_items", "bytes", "get_hits", "get_misses")
    try:
        return jsonify({name: {field: node.get(field) for field in shown} for name, node in nodes().items()})
    except Exception as error:
        return jsonify(error=str(error))
