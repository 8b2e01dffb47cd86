"""The real slipring under what the manifests say: their environment, their ports, their probes. A misspelt variable
would go unnoticed in a cluster: the sidecar would start, with a default."""

import contextlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

import pytest
import yaml

from cluster import render
from manifests import DEPLOY, EXPECTED, containers, secured, slipring_containers
from processes import PATIENCE, binary, eventually, free_port, memcached, running


CHECK = (DEPLOY / "inject" / "check.yaml").read_text()


@pytest.fixture(scope="module")
def help_text():
    return subprocess.run([binary(), "serve", "--help"], check=True, capture_output=True, text=True).stdout


def variants():
    """Each different sidecar that deploy/ has to offer."""
    for path in sorted(EXPECTED.glob("*.yaml")):
        if path.stem != "scrape":  # adds nothing to the container
            yield path.stem, path.read_text
    for name in ["inject", "node-local", "node-local/host-port", "node-local/socket"]:
        yield name, lambda name=name: render(DEPLOY / name)
    for name in ["node-local", "node-local/host-port", "node-local/socket"]:
        yield f"{name} secured", lambda name=name: secured(name)


VARIANTS = dict(variants())


def sidecar(name):
    found = slipring_containers(list(yaml.safe_load_all(VARIANTS[name]())))
    assert found and all(container == found[0] for container in found), f"the sidecars of {name} differ"
    return found[0]


def secret_volumes(found):
    """Every volume of a Secret, at whatever depth, by its name."""
    if isinstance(found, list):
        return {name: volume for each in found for name, volume in secret_volumes(each).items()}
    if not isinstance(found, dict):
        return {}
    if "secret" in found and "name" in found:
        return {found["name"]: found["secret"]}
    return secret_volumes(list(found.values()))


def openssl(directory, *arguments):
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def secrets():
    """What the Secrets hold, and the files of the nodes: an authority, certificates of both sides, a log-in."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    # Not pytest's directory, which nobody else may enter: where the tests are root, memcached is somebody else.
    with tempfile.TemporaryDirectory(prefix="slipring-secrets-") as name:
        directory = pathlib.Path(name)
        made = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Authority", "-days", "9"]
        openssl(directory, "req", "-x509", *key, *made)
        for name in ["node", "tls"]:
            openssl(directory, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
            (directory / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
            by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-days", "9", "-extfile", f"{name}.ext"]
            openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *by)
        (directory / "auth").write_text("app:hunter2\n")
        for path in [directory, *directory.iterdir()]:
            path.chmod(0o755)
        yield directory


@pytest.fixture(scope="module")
def start_node(secrets):
    """Starts a memcached that asks for what a sidecar's environment is there for; each kind once."""
    with contextlib.ExitStack() as stack:
        started = {}

        def node(environment):
            options = []
            if environment.get("SLIPRING_NODE_TLS") == "true":
                tls = f"ssl_chain_cert={secrets}/node.crt,ssl_key={secrets}/node.key"
                if "SLIPRING_NODE_TLS_CERT" in environment:
                    tls += f",ssl_ca_cert={secrets}/ca.crt,ssl_verify_mode=3"
                options += ["-Z", "-o", tls]
            if "SLIPRING_NODE_AUTH_FILE" in environment:
                options += ["-Y", f"{secrets}/auth"]
            if tuple(options) not in started:
                port = free_port()
                stack.enter_context(running([*memcached(port), *options], port))
                started[tuple(options)] = port
            return started[tuple(options)]

        yield node


# The pod that stands for all.
FIELDS = {"metadata.namespace": "shop", "metadata.name": "app-1"}


class Machine:
    """What stands in for the pod: its ConfigMap, its Secrets, its paths, its ports."""

    def __init__(self, directory, node, secrets, volumes):
        self.directory, self.secrets, self.volumes = directory, secrets, volumes
        self.config_map = {
            "MEMCACHED_NODES": f"127.0.0.1:{node}",
            "MEMCACHED_PORT": str(node),
            "MEMCACHED_DISCOVERY_HOST": f"127.0.0.1:{free_port()}",  # nobody there: the list is the first ring
            "SLIPRING_DNS": f"localhost:{node}",
            "SLIPRING_PLACEMENT": "pymemcache",
        }
        self.data, self.admin = free_port(), free_port()

    def environment(self, container):
        made = {}
        for entry in container.get("env", []):
            value = entry.get("value")
            if value is None and "fieldRef" in entry["valueFrom"]:
                value = FIELDS[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            elif value is None:
                reference = entry["valueFrom"]["configMapKeyRef"]
                assert reference["name"] == "memcached-config"
                value = self.config_map[reference["key"]]
            # As the kubelet does: a reference to a variable further up.
            value = re.sub(r"\$\((\w+)\)", lambda name: made.get(name[1], name[0]), value)
            made[entry["name"]] = value
        for mount in container.get("volumeMounts", []):
            inside = self.directory / mount["mountPath"].strip("/").replace("/", "-")
            inside.mkdir()
            for name, value in made.items():
                made[name] = re.sub(rf"{mount['mountPath']}(?=/|$)", str(inside), value)
            if mount["name"] in self.volumes:
                volume = self.volumes[mount["name"]]
                for item in volume["items"]:
                    path = inside / item["path"]
                    path.write_bytes((self.secrets / item["key"]).read_bytes())
                    path.chmod(volume["defaultMode"])
            if mount["name"] == "slipring-config":
                for key, value in self.config_map.items():
                    (inside / key).write_text(value)
        return made


def http(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        return answer.status


@pytest.mark.parametrize("name", VARIANTS)
def test_its_environment_means_something(name, help_text):
    entries = sidecar(name).get("env", [])
    parts = {part for entry in entries for part in re.findall(r"\$\((\w+)\)", entry.get("value", ""))}
    for entry in entries:
        assert entry["name"] in parts or f"[env: {entry['name']}]" in help_text, entry["name"]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_placement_is_a_key_that_need_not_be_there(name):
    """A ConfigMap from before has none, and its pods start all the same."""
    (found,) = [entry for entry in sidecar(name)["env"] if entry["name"] == "SLIPRING_PLACEMENT"]
    key = {"name": "memcached-config", "key": "SLIPRING_PLACEMENT", "optional": True}
    assert found["valueFrom"] == {"configMapKeyRef": key}


@pytest.mark.parametrize("name", VARIANTS)
def test_its_ports_are_the_programs(name, help_text):
    container = sidecar(name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    admin = re.search(r"\[env: SLIPRING_ADMIN_LISTEN\] \[default: \S+:(\d+)\]", help_text)[1]
    assert ports.pop("slipring-admin") == int(environment.get("SLIPRING_ADMIN_LISTEN", admin).rpartition(":")[2])
    listen = environment.get("SLIPRING_LISTEN", "localhost:11211")
    assert ports == ({} if listen.startswith("unix:") else {"slipring": int(listen.rpartition(":")[2])})


SECRETS = {"slipring-ca": {"ca.crt"}, "slipring-certificate": {"tls.crt", "tls.key"}, "slipring-auth": {"auth"}}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_may_read_its_secrets_and_others_may_not(name):
    """The kubelet gives a Secret's files to root and its group, or that of the pod's fsGroup, which its processes have."""
    container, volumes = sidecar(name), secret_volumes(list(yaml.safe_load_all(VARIANTS[name]())))
    mounts = {mount["name"]: mount for mount in container.get("volumeMounts") or [] if mount["name"] != "slipring-config"}
    assert {mount for mount in mounts if mount in SECRETS} == volumes.keys()
    assert bool(volumes) == (name.endswith("secured") or name == "tls-ca")
    for volume, found in volumes.items():
        assert mounts[volume]["readOnly"] and "subPath" not in mounts[volume]
        assert {item["key"] for item in found["items"]} == SECRETS[volume]
        assert found["secretName"] == ("memcached-auth" if volume == "slipring-auth" else "memcached-tls")
        # A certificate of an authority is no secret, and needs no group.
        assert found["defaultMode"] == (0o444 if volume == "slipring-ca" else 0o440)
    user = container["securityContext"]
    is_group_root = volumes.keys() - {"slipring-ca"} != set() or user["runAsUser"] == 0
    assert user["runAsGroup"] == (0 if is_group_root else 65532)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_serves(name, start_node, secrets, tmp_path):
    container = sidecar(name)
    node = start_node({entry["name"]: entry.get("value") for entry in container["env"]})
    machine = Machine(tmp_path, node, secrets, secret_volumes(list(yaml.safe_load_all(VARIANTS[name]()))))
    environment = machine.environment(container)
    # The authorities of its system.
    environment["SSL_CERT_FILE"] = str(secrets / "ca.crt")
    wanted = environment.get("SLIPRING_LISTEN", "localhost")
    if wanted.startswith("unix:"):
        assert str(tmp_path) in wanted, "the socket is in no mounted directory"
        dial = (socket.AF_UNIX, wanted.removeprefix("unix:"))
    else:
        environment["SLIPRING_LISTEN"] = f"127.0.0.1:{machine.data}"
        dial = (socket.AF_INET, ("127.0.0.1", machine.data))
    environment["SLIPRING_ADMIN_LISTEN"] = f"127.0.0.1:{machine.admin}"
    said = tmp_path / "said"
    command = ["sh", "-c", 'said=$1; shift; exec "$@" 2>"$said"', "sh", str(said)]
    command += ["env", "-i", *(f"{key}={value}" for key, value in environment.items()), binary()]
    with running(command + container.get("args", []), machine.admin, may_die=True) as process:
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
            get = container[probe]["httpGet"]
            assert get["port"] == "slipring-admin"

            def succeeds(path=get["path"]):
                try:
                    return http(machine.admin, path) == 200
                except urllib.error.HTTPError:
                    return False

            eventually(f"{probe} succeeds", succeeds)
        with urllib.request.urlopen(f"http://127.0.0.1:{machine.admin}/ring", timeout=PATIENCE) as answer:
            ring = json.load(answer)
        assert (ring["instance"], ring["placement"]) == ("shop/app-1", "pymemcache")
        with socket.socket(dial[0], socket.SOCK_STREAM) as client:
            client.settimeout(PATIENCE)
            client.connect(dial[1])
            answers = client.makefile("rb")

            def stored():
                client.sendall(b"set k 0 0 5\r\nhello\r\n")
                return answers.readline() == b"STORED\r\n"

            eventually("the node is connected", stored)
            assert "may be read by every user" not in said.read_text()
            client.sendall(b"get k\r\n")
            assert [answers.readline() for _ in range(3)] == [b"VALUE k 0 5\r\n", b"hello\r\n", b"END\r\n"]
            process.send_signal(signal.SIGTERM)
            if container.get("restartPolicy") == "Always":
                # Nobody is waited for: the app of a native sidecar has ended.
                assert process.wait(PATIENCE) == 0
            else:
                # The app got its SIGTERM at the same time, and goes on for a while.
                eventually("it drains", lambda: unready(machine.admin))
                client.sendall(b"get k\r\n")
                assert answers.readline() == b"VALUE k 0 5\r\n"


def unready(port):
    try:
        return http(port, "/readyz") != 200
    except urllib.error.HTTPError as error:
        return error.code == 503


PLACEMENTS = re.findall(r"'([a-z0-9-]+)'", re.search(r"name: placements\n.*?\[(.*?)\]", CHECK, re.DOTALL)[1])
VALUES = {
    "MEMCACHED_DISCOVERY_HOST": ["10.0.0.9", "10.0.0.9:11212", "cache.example", "a-b.c_d.example:1", "[fd00::1]:11211"],
    "SLIPRING_DNS": ["memcached", "memcached.cache.svc.cluster.local:11211", "srv:_memcache._tcp.memcached.cache.svc."],
    "SLIPRING_PLACEMENT": [*PLACEMENTS, "twemproxy,distribution=modula,hash=md5,hash-tag={}", "dalli,strip_prefix=a:"],
    "MEMCACHED_NODES_BEFORE": ["a", "10.0.0.2:5=2;[fd00::1]:11211/x-1, b", "ending:a,b"],
    "SLIPRING_PLACEMENT_BEFORE": ["ring", "dalli,strip_prefix=a:"],
    "SLIPRING_ON_NODE_DOWN": ["miss", "error"],
    "SLIPRING_LOG_LEVEL": ["off", "error", "warn", "info", "debug", "trace"],
    "SLIPRING_NODE_TLS": ["true", "false"],
    "SLIPRING_NODE_TLS_NAME": ["localhost", "a-b.c_d.example", "10.0.0.9", "fd00::1", "x" * 63],
}
WRONG = {
    "MEMCACHED_DISCOVERY_HOST": ["host:port", "host:0", "a b"],
    "SLIPRING_DNS": ["srv:name:11211", "srv:", "name:x"],
    "SLIPRING_PLACEMENT": ["Ring", "ketchup", "dalli,", "dalli,hash=md5"],
    "MEMCACHED_NODES_BEFORE": ["ending:", "a,a", "a:x"],
    "SLIPRING_PLACEMENT_BEFORE": ["Ring", "dalli,hash=md5"],
    "SLIPRING_ON_NODE_DOWN": ["misses", "fail"],
    "SLIPRING_LOG_LEVEL": ["verbose"],
    "SLIPRING_NODE_TLS": ["yes", "2"],
    "SLIPRING_NODE_TLS_NAME": ["a b", "*.example", "cache.example:11211", "a..b", "x" * 64],
}


def options_of_the_policy():
    """Annotation by variable, as the policy has them."""
    text = (DEPLOY / "inject" / "inject.yaml").read_text()
    return {variable: name for name, variable in re.findall(r"\['(slipring/[a-z-]+)', '([A-Z_]+)'\]", text)}


def test_every_option_of_the_policy_is_tried(help_text):
    options = options_of_the_policy()
    assert options.keys() == VALUES.keys() == WRONG.keys()
    assert all(f"[env: {variable}]" in help_text for variable in options)


def test_the_check_knows_the_placements_of_the_program():
    listed = subprocess.run([binary(), "placements"], check=True, capture_output=True, text=True).stdout
    assert [line.split(" ")[0] for line in listed.splitlines()[2:] if re.match(r"[a-z]", line)] == PLACEMENTS


@pytest.mark.parametrize(("variable", "value"), [(n, v) for n, values in VALUES.items() for v in values])
def test_what_the_check_lets_pass_the_program_takes(variable, value, cluster):
    annotations = {options_of_the_policy()[variable]: value}
    spec = {"containers": [{"name": "app", "image": "app"}]}
    pod = cluster.create("labelled", {"metadata": {"generateName": "pod-", "annotations": annotations}, "spec": spec})
    (made,) = [container for container in containers(pod) if container["name"] == "slipring"]
    environment = {entry["name"]: entry.get("value", "") for entry in made["env"]}
    assert environment[variable] == value
    data, admin = free_port(), free_port()
    environment |= {"SLIPRING_LISTEN": f"127.0.0.1:{data}", "SLIPRING_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
    with running(["env", "-i", *(f"{name}={value}" for name, value in environment.items()), binary()], admin):
        assert http(admin, "/healthz") == 200


@pytest.mark.parametrize(("variable", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_what_the_program_refuses(variable, value):
    """That the values of the test above are not taken just because everything is."""
    environment = {variable: value}
    if variable not in ("MEMCACHED_DISCOVERY_HOST", "SLIPRING_DNS"):
        environment["MEMCACHED_NODES"] = "127.0.0.2"
    if variable == "SLIPRING_NODE_TLS_NAME":
        environment["SLIPRING_NODE_TLS"] = "true"
    done = subprocess.run([binary()], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 64 and variable in done.stderr
