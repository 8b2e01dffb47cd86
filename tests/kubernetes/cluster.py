"""A real API server with etcd behind it, on loopback: what is applied and created is stored as admission leaves it.
There is no controller, no scheduler and no kubelet."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request

from processes import PATIENCE, eventually, free_port, running

TOKEN = "test"
# What deploy/inject-v1beta1 needs; since 1.36 the first is in force anyhow.
BETA = [
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
]
BUILD = pathlib.Path(__file__).parent / "apiserver" / "build"


@functools.cache
def tool(name):
    """A program of the Kubernetes version under test; built here if tests/run did not. KUBE_APISERVER names an API server
    of another version."""
    if name == "kube-apiserver" and os.environ.get("KUBE_APISERVER"):
        return os.environ["KUBE_APISERVER"]
    where = subprocess.run([BUILD], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return f"{where}/{name}"


def render(directory):
    """What `kubectl kustomize` makes of it."""
    done = subprocess.run([tool("kubectl"), "kustomize", directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Refused(Exception):
    """The API server's answer when it does not want something."""


class Cluster:
    def __init__(self, port, directory):
        self.port = port
        self.certificate = directory / "apiserver.crt"
        self.home = directory

    @functools.cached_property
    def tls(self):
        return ssl.create_default_context(cafile=self.certificate)

    def ask(self, method, path, body=None):
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self.tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(json.load(error)["message"]) from None

    def ready(self):
        if not self.certificate.exists():
            return False
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/readyz", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self.tls) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False

    def kubectl(self, *arguments, stdin=None):
        done = subprocess.run(
            [
                tool("kubectl"),
                f"--server=https://127.0.0.1:{self.port}",
                f"--certificate-authority={self.certificate}",
                f"--token={TOKEN}",
                f"--cache-dir={self.home}/kubectl",
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def namespace(self, name, labels):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.ask("POST", "/api/v1/namespaces", body)
        return name

    def create(self, namespace, pod, dry_run=False):
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.ask("POST", f"/api/v1/namespaces/{namespace}/pods{query}", pod)


def quietly(command, directory):
    """The same, with what it says in a file."""
    log = directory / f"{pathlib.Path(command[0]).name}.log"
    return ["sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", str(log), *command]


@contextlib.contextmanager
def cluster(directory):
    assert shutil.which("etcd"), "no etcd in PATH; tests/run installs it (Debian's etcd-server)"
    assert shutil.which("openssl"), "no openssl in PATH; tests/run installs it"
    client, peer, port = free_port(), free_port(), free_port()
    etcd = ["etcd", "--data-dir", f"{directory}/etcd", "--unsafe-no-fsync"]
    etcd += [f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}"]
    etcd += [f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}"]
    etcd += [f"--initial-cluster=default=http://127.0.0.1:{peer}"]
    key = f"{directory}/service-account.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (directory / "tokens").write_text(f'{TOKEN},test,test,"system:masters"\n')
    server = [tool("kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{client}", f"--cert-dir={directory}"]
    server += ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}"]
    server += [f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"]
    server += ["--service-account-issuer=https://test", "--service-cluster-ip-range=10.0.0.0/24"]
    server += ["--authorization-mode=AlwaysAllow", f"--token-auth-file={directory}/tokens"]
    server += ["--disable-admission-plugins=ServiceAccount", *BETA]
    with running(quietly(etcd, directory), client), running(quietly(server, directory), port):
        made = Cluster(port, directory)
        eventually("the API server is ready", made.ready)
        yield made
