"""The image of the Dockerfile, built and started without a registry and without a network.

The base image is made here: directories for the machine's own compiler, toolchain and fetched crates, which are
mounted into it while it builds. What podman keeps is outside the tree, for the next time.
"""

import contextlib
import hashlib
import inspect
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tomllib
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "slipring-tests" / "podman"
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
IMAGE = f"localhost/slipring:{VERSION}"
# Named, so that the layers with the dependencies are not thrown away.
STAGES = {stage: f"localhost/slipring-{stage}-stage" for stage in ("profile", "build")}
# What a release says of itself; the tests' own words, the same each time, so that nothing is built again.
REVISION, CREATED = "0123456789abcdef", "2001-02-03T04:05:06Z"
SOURCE = "https://example.com/slipring"
# One group of processes can have these on any machine; podman's own defaults need more than some grant.
ULIMITS = ["--ulimit", "nofile=8192:8192", "--ulimit", "nproc=1024:1024"]


def told(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()


def podman(*arguments):
    """The output of a podman command of ours; what went wrong, if it did."""
    assert os.geteuid() == 0, "a memory limit is for root to set: run these tests as root"
    assert shutil.which("podman"), "podman is missing; tests/run installs it"
    # vfs works on every file system, cgroupfs without systemd.
    own = ["--root", CACHE, "--runroot", "/run/slipring-tests/podman", "--tmpdir", "/run/slipring-tests/libpod"]
    own += ["--storage-driver=vfs", "--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none"]
    command = ["podman", *own, *arguments]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # Where a container is killed for its memory, a file that says so appears where it was started.
    place = pathlib.Path("/run/slipring-tests")
    place.mkdir(exist_ok=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, cwd=place)
    assert done.returncode == 0, f"podman {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def inspected(kind, name):
    return json.loads(podman(kind, "inspect", name))[0]


def base_image():
    """An image with nothing but places to mount at, and the links that /usr expects beside it."""
    compiler = shutil.which("cc")
    assert compiler, "cc is missing; tests/run installs it"
    versions = told("rustc", "-vV") + told(compiler, "--version") + inspect.getsource(base_image)
    name = "localhost/slipring-base:" + hashlib.sha256(versions.encode()).hexdigest()[:16]
    if name.split(":")[1] in podman("images", "--format", "{{.Tag}}", "localhost/slipring-base").split():
        return name
    packed = CACHE.parent / "base.tar"
    packed.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(packed, "w") as tar:
        for path in ("usr", "rust", "cargo", "etc/alternatives", "proc", "sys", "dev", "root", "tmp"):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
            tar.addfile(entry)
        links = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
        # /usr/bin/cc is a link to this.
        links["etc/alternatives/cc"] = os.path.realpath(compiler)
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        users = b"root:x:0:0:root:/root:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        tar.addfile(entry, io.BytesIO(users))
    environment = ["PATH=/rust/bin:/usr/bin:/bin", "CARGO_HOME=/cargo", "CARGO_NET_OFFLINE=true"]
    podman("import", *(f"--change=ENV {variable}" for variable in environment), packed, name)
    packed.unlink()
    return name


def build():
    """Builds the image; what was built before and has not changed is taken from there."""
    told("cargo", "fetch", "--locked", "--target", told("rustc", "--print", "host-tuple"))
    home = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    mounts = {"/usr": "/usr", told("rustc", "--print", "sysroot"): "/rust", home / "registry": "/cargo/registry"}
    # The machine's own sources of crates, if it has any, decide where fetched ones lie.
    mounts |= {home / name: f"/cargo/{name}" for name in ("config.toml", "config") if (home / name).is_file()}
    # The other format has no place for a HEALTHCHECK: one could not be seen.
    options = ["--network=none", "--format=docker", f"--build-arg=BUILD_IMAGE={base_image()}", *ULIMITS]
    options += [f"--volume={here}:{there}:ro" for here, there in mounts.items()]
    # What a build or a run that was killed has left would hold its image.
    for left in podman("ps", "--all", "--external", "--quiet").split():
        podman("rm", "--force", "--time=0", left)
    for stage, name in STAGES.items():
        podman("build", *options, f"--target={stage}", f"--tag={name}", ROOT)
    described = [f"--build-arg=REVISION={REVISION}", f"--build-arg=CREATED={CREATED}", f"--build-arg=SOURCE={SOURCE}"]
    podman("build", *options, *described, f"--tag={IMAGE}", ROOT)
    podman("image", "prune", "--force")


@contextlib.contextmanager
def container(*arguments, options=()):
    """The name of a container of the image that is created and not yet started; it is removed at the end."""
    name = podman("create", "--network=host", *ULIMITS, *options, IMAGE, *arguments)
    try:
        yield name
    finally:
        podman("rm", "--force", "--time=0", name)


def run(*arguments, options=()):
    """What the image writes when it is run with these arguments; it must end well."""
    return podman("run", "--rm", "--network=host", *ULIMITS, *options, IMAGE, *arguments)


def started(name):
    podman("start", name)
    return inspected("container", name)["State"]["Pid"]


def http(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as reply:
        return reply.read().decode()
