"""The example: an app that keeps what it reads in memcached through slipring, while the cache behind it changes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import scene
from pymemcache import serde
from pymemcache.client.hash import HashClient
from processes import binary, eventually, free_port, memcached, running

ITEMS = range(600)  # asked for by the test, each once at a time
LOAD = range(5000, 5100)  # asked for by users all the time
MISSED = "a fifth one is added"
KEPT = "a sixth one, ring before kept"


def test_users_see_no_error_while_the_cache_changes(example, capsys):
    with contextlib.ExitStack() as stack:
        users = scene.Users(example, LOAD)
        stack.callback(users.over.set)
        users.begin()

        # What was asked for once is served from the cache.
        users.phase("warming up")
        assert example.from_database(ITEMS) == set(ITEMS)
        users.go_round()
        users.phase("all well")
        assert example.from_database(ITEMS) == set()
        example.until_all_are_up()
        users.go_round()

        # A node hangs: its items are read from the database, all others still from the cache.
        before = example.owners(ITEMS)
        dead = before[ITEMS[0]]
        lost = {item for item in ITEMS if before[item] == dead}
        users.phase("a node hangs")
        os.kill(example.nodes[dead], signal.SIGSTOP)
        users.go_round()
        eventually("the page says so", lambda: example.page("/health") == {"status": "degraded", "down": [dead]}, 0.05)
        assert example.from_database(ITEMS) == lost

        # It is killed. That makes no difference.
        users.phase("it is killed")
        os.kill(example.nodes[dead], signal.SIGKILL)
        for _ in range(2):
            assert example.from_database(ITEMS) == lost
        page = example.page("/api/cache/stats")
        assert {name: node["state"] for name, node in page.items()} == {
            name: "down" if name == dead else "up" for name in example.nodes
        }
        assert page[dead]["curr_items"] is None
        users.go_round()

        # A node is added by an edit of the list: what it takes over is missed once, and nothing else.
        port = free_port()
        added = f"127.0.0.1:{port}"
        stack.enter_context(running(memcached(port), port))
        users.phase("another one is added")
        example.list.write_text(",".join([*example.nodes, added]))
        eventually("the new node is used", lambda: example.states().get(added) == "up")
        after = example.owners(ITEMS)
        moved = {item for item in ITEMS if after[item] != before[item]}
        assert {after[item] for item in moved} == {added}
        assert 0.15 < len(moved) / len(ITEMS) < 0.35, "a fourth of the keys moves to the fourth node"
        lost = {item for item in ITEMS if after[item] == dead}
        assert example.from_database(ITEMS) == moved | lost
        assert example.from_database(ITEMS) == lost
        assert example.page("/api/cache/stats").keys() == {*example.nodes, added}
        users.go_round()

        # The dead one is back, empty.
        users.phase("the first one is back")
        port = int(dead.split(":")[1])
        stack.enter_context(running(memcached(port), port))
        example.until_all_are_up()
        assert example.from_database(ITEMS) == lost
        users.go_round()
        users.phase("all well again")
        assert example.from_database(ITEMS) == set()
        users.go_round()

        # A fifth one is added as the fourth one was, and a sixth one with the ring before written down: what that one
        # takes over is not missed even once.
        nodes = [*example.nodes, added]
        shares = [len(moved) / len(ITEMS)]
        for name, written_down in [(MISSED, False), (KEPT, True)]:
            port = free_port()
            stack.enter_context(running(memcached(port), port))
            before = example.owners(ITEMS)
            users.phase(name)
            if written_down:
                example.list.with_name("MEMCACHED_NODES_BEFORE").write_text(",".join(nodes))
                eventually("it is read", lambda: example.ring_before() == ("reading", 0))
            nodes.append(f"127.0.0.1:{port}")
            example.list.write_text(",".join(nodes))
            eventually("the new node is used", lambda: example.states().get(nodes[-1]) == "up")
            after = example.owners(ITEMS)
            moved = {item for item in ITEMS if after[item] != before[item]}
            assert {after[item] for item in moved} == {nodes[-1]}
            shares.append(len(moved) / len(ITEMS))
            for _ in range(2):
                assert example.from_database(ITEMS) == (set() if written_down else moved)
                moved = set()
            users.go_round()
        users.end()
        state, moved_keyspace = example.ring_before()
        assert state == "reading" and moved_keyspace > 0

        # At rest each node's counters are what it tells one who connects to it, once nothing expires between the two
        # answers: the key of the app's own health check does so after ten seconds.
        page = {}

        def as_the_nodes_say():
            page.update(example.page("/api/cache/stats"))
            return page == {name: {"state": "up", **scene.counters(name)} for name in nodes}

        eventually("the page shows what the nodes say", as_the_nodes_say, 0.05)
        # What the last one has taken over is still at its old places: nothing was written since.
        assert all(page[name]["curr_items"] > 0 and page[name]["get_hits"] > 0 for name in nodes[:-1])

        with capsys.disabled():
            seen = users.report()
            print("keys that moved to each added node:", ", ".join(f"{share:.1%}" for share in shares))
        assert {answer.status for answers in seen.values() for answer in answers} == {200}
        assert {answer.source for name in ["all well again", KEPT] for answer in seen[name]} == {"cache"}
        assert {answer.source for answer in seen[MISSED]} == {"cache", "database"}


def test_without_the_sidecar_the_app_answers_from_the_database(example, capsys):
    assert example.from_database(ITEMS) == set(ITEMS)
    assert example.from_database(ITEMS) == set()
    with contextlib.ExitStack() as stack:
        users = scene.Users(example, LOAD)
        stack.callback(users.over.set)
        users.begin()
        users.go_round()
        users.phase("all well")
        users.go_round()

        users.phase("slipring is killed")
        os.kill(example.sidecar_pid, signal.SIGKILL)
        assert example.from_database(ITEMS) == set(ITEMS)
        assert example.page("/health")["error"]
        assert example.page("/api/cache/stats")["error"]
        users.go_round()

        # As kubelet would start it again. The nodes have kept what they had.
        users.phase("slipring is back")
        port = int(example.sidecar.split(":")[1])
        command = [binary(), "serve", "--nodes-file", str(example.list.parent), "--listen", example.sidecar]
        command += ["--admin-listen", example.admin.removeprefix("http://")]
        stack.enter_context(running(command, port))
        example.until_all_are_up()
        assert example.from_database(ITEMS) == set()
        users.go_round()
        users.end()
        with capsys.disabled():
            seen = users.report()
        assert {answer.status for answers in seen.values() for answer in answers} == {200}


def test_the_app_moves_warm_with_the_placement_of_its_old_client():
    """What it wrote while it hashed by itself is there when it no longer does; and what it writes now, if it moves back."""
    with scene.started(SLIPRING_PLACEMENT="pymemcache") as example:
        nodes = [(host, int(port)) for host, port in (node.split(":") for node in example.nodes)]
        before = HashClient(nodes, serde=serde.pickle_serde, timeout=20)
        for item in ITEMS:
            assert before.set(f"item:{item}", {"id": item, "name": f"Item {item}"}, expire=300, noreply=False)
        example.until_all_are_up()
        assert example.from_database(ITEMS) == set(), "not one is missing"
        assert example.from_database(LOAD) == set(LOAD)
        found = before.get_many([f"item:{item}" for item in LOAD])
        assert found == {f"item:{item}": {"id": item, "name": f"Item {item}"} for item in LOAD}
        before.close()


def refused(path=None, **arguments):
    """What `run` prints when it cannot start."""
    ports = {"app_port": free_port(), "port": free_port(), "admin_port": free_port(), "node_ports": free_port()}
    command = [sys.executable, str(scene.RUN)]
    for name, value in {**ports, **arguments}.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    environment = {**os.environ, "SLIPRING_BIN": binary(), "PATH": path or os.environ["PATH"]}
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 1
    return ended.stderr


def test_what_is_missing_is_said(tmp_path):
    assert "missing: memcached" in refused(path=str(tmp_path))
    with socket.socket() as holder:
        port = free_port()
        holder.bind(("127.0.0.1", port))
        holder.listen()
        for option in ["app_port", "port", "admin_port", "node_ports"]:
            name = "--" + option.replace("_", "-")
            assert refused(**{option: port}) == f"port {port} is taken: choose another by {name}, or end what listens there\n"
