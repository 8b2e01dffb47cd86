"""Moving in: real clients write to the nodes directly; behind slipring with the preset of their name
every key is a hit, and `slipring detect` names that preset."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import time

import memcache
import pylibmc
import pytest
from conftest import PATIENT
from processes import PATIENCE, binary, eventually, free_port, running
from pymemcache.client.hash import HashClient

KEYS = [f"item:{number}" for number in range(990)] + [f"user:{n}:profile-of-a-user-with-a-long-key" for n in range(10)]
BLOCKS = itertools.count(os.getpid() % 200 * 250)


def accepting(host, port):
    socket.create_connection((host, port), PATIENCE).close()
    return True


@contextlib.contextmanager
def some_nodes(count, port):
    """Real memcached on consecutive loopback addresses of our own, all on one port."""
    for block in BLOCKS:
        hosts = [f"127.{1 + block // 250 % 250}.{1 + block % 250}.{number}" for number in range(2, 2 + count)]
        with contextlib.ExitStack() as stack:
            try:
                for host in hosts:
                    with contextlib.closing(socket.socket()) as probe:
                        probe.bind((host, port))
            except OSError:
                continue
            for host in hosts:
                command = ["memcached", "-u", "nobody", "-t", "1", "-m", "64", "-U", "0", "-l", host, "-p", str(port)]
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
                stack.callback(process.wait)
                stack.callback(process.kill)
                eventually(f"{host} accepts", lambda host=host: accepting(host, port))
            yield hosts, port
            return


# With three nodes the port is the one that some clients leave out of a node's name.
@pytest.fixture(scope="module", params=[(3, 11211), (5, None)], ids=["3 nodes", "5 nodes, another port"])
def nodes_of_our_own(request):
    count, port = request.param
    with some_nodes(count, port or free_port()) as nodes:
        yield nodes


@pytest.fixture
def cluster(nodes_of_our_own):
    """The same nodes, empty."""
    hosts, port = nodes_of_our_own
    for host in hosts:
        assert exchange(host, port, b"flush_all\r\n", b"OK\r\n") == b"OK\r\n"
    # What was flushed in this second may still be listed.
    time.sleep(1.1)
    return hosts, port


def exchange(host, port, request, end):
    with contextlib.closing(socket.create_connection((host, port), PATIENCE)) as connection:
        connection.sendall(request)
        answer = b""
        while not answer.endswith(end):
            piece = connection.recv(1 << 16)
            assert piece, answer
            answer += piece
        return answer


def run(arguments, **more):
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, **more)
    assert done.returncode == 0, (arguments[0], done.stdout, done.stderr)
    return done.stdout


def pymemcache_writes(hosts, port, weights):
    # As in the example app before it moves.
    client = HashClient(
        [(host, port) for host in hosts],
        connect_timeout=3,
        timeout=20,
        retry_attempts=2,
        use_pooling=True,
        max_pool_size=20,
        ignore_exc=False,
    )
    for key in KEYS:
        assert client.set(key, key, noreply=False)
    client.close()


def pylibmc_writes(behaviors):
    def writes(hosts, port, weights):
        servers = [f"{host}:{port}:{weight}" for host, weight in zip(hosts, weights)]
        client = pylibmc.Client(servers, behaviors=behaviors)
        for key in KEYS:
            assert client.set(key, key)
        client.disconnect_all()

    return writes


def python_memcached_writes(hosts, port, weights):
    client = memcache.Client([(f"{host}:{port}", weight) for host, weight in zip(hosts, weights)], socket_timeout=20)
    for key in KEYS:
        assert client.set(key, key)
    client.disconnect_all()


def php_writes(construct):
    def writes(hosts, port, weights):
        servers = json.dumps([[host, port, weight] for host, weight in zip(hosts, weights)])
        script = (
            construct
            + "foreach (json_decode(file_get_contents('php://stdin')) as $k) { if (!$m->set($k, $k)) exit(3); }"
        )
        run(["php", "-d", "memcache.protocol=ascii", "-r", script, servers], input=json.dumps(KEYS))

    return writes


PHP_MEMCACHED = "$m = new Memcached(); %s $m->addServers(json_decode($argv[1]));"
PHP_MEMCACHE = (
    "$m = new Memcache();" "foreach (json_decode($argv[1]) as $s) $m->addServer($s[0], $s[1], true, $s[2]);"
)


def dalli_writes(hosts, port, weights):
    script = """
        require 'dalli'; require 'json'
        client = Dalli::Client.new(ARGV, socket_timeout: 20)
        JSON.parse($stdin.read).each { |key| client.set(key, key, 0, raw: true) or exit 3 }
    """
    servers = [f"{host}:{port}:{weight}" for host, weight in zip(hosts, weights)]
    run(["ruby", "-e", script, *servers], input=json.dumps(KEYS))


def perl_writes(construct):
    def writes(hosts, port, weights):
        script = construct + "while (<STDIN>) { chomp; $m->set($_, $_) or exit 3; }"
        servers = [f"{host}:{port}:{weight}" for host, weight in zip(hosts, weights)]
        run(["perl", "-e", script, *servers], input="\n".join(KEYS))

    return writes


PERL = (
    "use Cache::Memcached; my $m = Cache::Memcached->new({servers => "
    "[map { /(.*):(\\d+)$/ && ($2 == 1 ? $1 : [$1, $2]) } @ARGV]});"
)
PERL_FAST = (
    "use Cache::Memcached::Fast; my $m = Cache::Memcached::Fast->new({servers => "
    "[map { /(.*):\\d+$/ && $1 } @ARGV]%s});"
)


@contextlib.contextmanager
def twemproxy(hosts, port, weights, more, tmp):
    listen = free_port()
    lines = [f"a:\n  listen: 127.0.0.1:{listen}\n  timeout: 20000\n{more}  servers:\n"]
    lines += [f"   - {host}:{port}:{weight}\n" for host, weight in zip(hosts, weights)]
    path = tmp / "nutcracker.yml"
    path.write_text("".join(lines))
    statistics = free_port()
    command = ["nutcracker", "-c", str(path), "-s", str(statistics), "-a", "127.0.0.1", "-v", "0"]
    with running(command, listen):
        yield listen


def twemproxy_writes(more):
    def writes(hosts, port, weights, tmp):
        with twemproxy(hosts, port, weights, more, tmp) as listen:
            sets = b"".join(b"set %s 0 0 1\r\nx\r\n" % key.encode() for key in KEYS)
            answer = exchange("127.0.0.1", listen, sets + b"get none\r\n", b"END\r\n")
            assert answer == b"STORED\r\n" * len(KEYS) + b"END\r\n"

    return writes


# Who writes, the preset, and whether it has weights.
CLIENTS = {
    "pymemcache": (pymemcache_writes, "pymemcache", False),
    "pylibmc": (pylibmc_writes({}), "libmemcached", False),
    "pylibmc ketama": (pylibmc_writes({"ketama": True}), "libmemcached-ketama", False),
    "pylibmc ketama md5": (pylibmc_writes({"ketama": True, "hash": "md5"}), "libmemcached-ketama,hash=md5", False),
    "pylibmc weighted": (pylibmc_writes({"ketama_weighted": True}), "libmemcached-ketama-weighted", True),
    "python-memcached": (python_memcached_writes, "python-memcached", True),
    "php-memcached": (php_writes(PHP_MEMCACHED % ""), "libmemcached", False),
    "php-memcached libketama": (
        php_writes(PHP_MEMCACHED % "$m->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);"),
        "libmemcached-ketama-weighted",
        True,
    ),
    "php-memcache": (php_writes(PHP_MEMCACHE), "php-memcache", True),
    "php-memcache standard": (
        php_writes("ini_set('memcache.hash_strategy', 'standard');" + PHP_MEMCACHE),
        "php-memcache,strategy=standard",
        True,
    ),
    "dalli": (dalli_writes, "dalli", True),
    "perl": (perl_writes(PERL), "perl-cache-memcached", True),
    "perl fast": (perl_writes(PERL_FAST % ""), "perl-cache-memcached-fast", False),
    "perl fast ketama": (
        perl_writes(PERL_FAST % ", ketama_points => 150"),
        "perl-cache-memcached-fast,ketama-points=150",
        False,
    ),
    "twemproxy": (twemproxy_writes("  distribution: ketama\n  hash: fnv1a_64\n"), "twemproxy", True),
    "twemproxy modula": (
        twemproxy_writes("  distribution: modula\n  hash: md5\n"),
        "twemproxy,distribution=modula,hash=md5",
        True,
    ),
}


@contextlib.contextmanager
def slipring(hosts, port, placement, weights):
    listen = free_port()
    listed = ",".join(f"{host}:{port}={weight}" for host, weight in zip(hosts, weights))
    command = [binary(), "serve", "--nodes", listed, "--placement", placement, "--listen", f"127.0.0.1:{listen}"]
    with running([*command, "--admin-listen", "off", *PATIENT], listen):
        yield listen


def hits(listen):
    """How many of the keys are found."""

    def values():
        keys = b"".join(b"get %s\r\n" % key.encode() for key in KEYS)
        return exchange("127.0.0.1", listen, keys + b"mn\r\n", b"MN\r\n").count(b"VALUE ")

    return values()


def write(name, hosts, port, weights, tmp):
    writes, placement, _ = CLIENTS[name]
    writes(hosts, port, weights, tmp) if "twemproxy" in name else writes(hosts, port, weights)
    return placement


def up(listen):
    """The nodes answer; until then keys are misses."""
    eventually("the nodes answer", lambda: b"SERVER_ERROR" not in exchange("127.0.0.1", listen, b"stats sum\r\n", b"\r\n"))


@pytest.mark.parametrize("name", CLIENTS)
def test_what_a_client_has_written_is_found_and_its_preset_is_detected(name, cluster, tmp_path):
    hosts, port = cluster
    weights = [1] * len(hosts)
    placement = write(name, hosts, port, weights, tmp_path)
    with slipring(hosts, port, placement, weights) as listen:
        eventually("every key is a hit", lambda: hits(listen) == len(KEYS))
    listed = ",".join(f"{host}:{port}" for host in hosts)
    report = run([binary(), "detect", "--nodes", listed, "--verify", placement])
    best, *further = report.split("\n\n", 1)[1].splitlines()
    found = best.split(": ")[0]
    alike = [line for line in further if line.startswith(("the same place of every key:", "as good on these keys:"))]
    # Several clients share a placement: the one is named first, the others beside it.
    assert found == placement or any(placement in line.split(" ") for line in alike), report
    assert f": 100.00 % of {len(KEYS):,} keys" in best, report
    assert f"verified: {placement} 100.00 %" in report


@pytest.mark.parametrize("name", [name for name in CLIENTS if CLIENTS[name][2]])
def test_weights_count_as_they_do_for_the_client(name, cluster, tmp_path):
    hosts, port = cluster
    weights = [1 + number % 3 for number in range(len(hosts))]
    placement = write(name, hosts, port, weights, tmp_path)
    with slipring(hosts, port, placement, weights) as listen:
        eventually("every key is a hit", lambda: hits(listen) == len(KEYS))


def test_the_old_app_works_unmodified_with_one_node_in_its_list(cluster, tmp_path):
    hosts, port = cluster
    write("pymemcache", hosts, port, [1] * len(hosts), tmp_path)
    with slipring(hosts, port, "pymemcache", [1] * len(hosts)) as listen:
        eventually("the nodes answer", lambda: hits(listen) == len(KEYS))
        client = HashClient([("127.0.0.1", listen)], timeout=20)
        assert sorted(client.get_many(KEYS)) == sorted(KEYS)
        # What it writes now is found by those that have not moved yet, and what they delete is gone for it.
        client.set("item:new", "new", noreply=False)
        direct = HashClient([(host, port) for host in hosts], timeout=20)
        assert direct.get("item:new") == b"new"
        direct.delete("item:1", noreply=False)
        assert client.get("item:1") is None
        client.close()
        direct.close()


def test_the_order_is_found_out_and_pinned(cluster, tmp_path):
    hosts, port = cluster
    own = [*hosts[1:], hosts[0]]
    write("python-memcached", own, port, [1] * len(hosts), tmp_path)
    listed = ",".join(f"{host}:{port}" for host in hosts)
    report = run([binary(), "detect", "--nodes", listed])
    order = ",".join(f"{host}:{port}" for host in own)
    assert f"use: --placement python-memcached --node-order {order}" in report, report
    refused = subprocess.run(
        [binary(), "detect", "--nodes", listed, "--verify", "python-memcached"], capture_output=True, text=True
    )
    assert refused.returncode == 1 and "less than 99.00 %" in refused.stderr, refused
    run([binary(), "detect", "--nodes", listed, "--node-order", order, "--verify", "python-memcached"])
    located = run([binary(), "locate", "--nodes", listed, "--node-order", order, "--placement", "python-memcached", *KEYS])
    places = dict(line.split("  ") for line in located.splitlines()[1:])
    for key in KEYS[:50]:
        host = places[key].rsplit(":", 1)[0]
        assert b"VALUE" in exchange(host, port, b"get %s\r\n" % key.encode(), b"END\r\n")
