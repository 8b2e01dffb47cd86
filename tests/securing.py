"""Certificates and passwords for nodes that take TLS alone and want to be logged in to, made by openssl."""

import pathlib
import shutil
import ssl
import subprocess
import tempfile

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*arguments):
    """What it says."""
    assert shutil.which("openssl"), "no openssl in PATH; tests/run installs it"
    done = subprocess.run(["openssl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def expiry(certificate):
    """When it expires, in seconds of Unix time."""
    return ssl.cert_time_to_seconds(openssl("x509", "-noout", "-enddate", "-in", certificate).strip().removeprefix("notAfter="))


class Secrets:
    """An authority, a certificate of it for 127.0.0.1, valid for so many days, and a password, in a directory that is
    there inside `with`."""

    def __init__(self, days=10):
        self.days = days

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="slipring-secrets-")
        # memcached runs as another user where the tests run as root.
        pathlib.Path(self._directory.name).chmod(0o755)
        self.ca = self.file("ca.pem")
        openssl("req", "-x509", *KEY, "-keyout", self.file("ca.key"), "-out", self.ca, "-subj", "/CN=Tests", "-days", "30")
        request, extensions = self.file("node.csr"), self.written("node.ext", "subjectAltName=IP:127.0.0.1\n")
        chain, key = self.file("node.pem"), self.file("node.key")
        openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", "/CN=node")
        signed_by = ["-CA", self.ca, "-CAkey", self.file("ca.key"), "-days", str(self.days)]
        openssl("x509", "-req", "-in", request, "-out", chain, "-extfile", extensions, *signed_by)
        pathlib.Path(key).chmod(0o644)
        passwords = self.written("passwords", "app:hunter2\n")
        self.tls_of_node = ["-Z", "-o", f"ssl_chain_cert={chain},ssl_key={key}"]
        self.tls_of_slipring = ["--node-tls", "--node-tls-ca", self.ca]
        self.of_node = [*self.tls_of_node, "-Y", passwords]
        self.of_slipring = [*self.tls_of_slipring, "--node-auth-file", passwords]
        return self

    def __exit__(self, *_):
        self._directory.cleanup()

    def file(self, name):
        return str(pathlib.Path(self._directory.name) / name)

    def written(self, name, content):
        pathlib.Path(self.file(name)).write_text(content)
        return self.file(name)
