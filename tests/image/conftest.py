"""The image under test, built by the Dockerfile."""

import fcntl
import pathlib
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import podman


@pytest.fixture(scope="session")
def image():
    podman.CACHE.mkdir(parents=True, exist_ok=True)
    with open(podman.CACHE.parent / "podman.lock", "w") as lock:
        # Another tree's tests would give the name to another image.
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        podman.build()
        print(f"\nbuilt in {time.monotonic() - began:.0f} s")
        yield podman.inspected("image", podman.IMAGE)


@pytest.fixture(scope="session")
def binary(image, tmp_path_factory):
    """The image's binary, copied out of it."""
    path = tmp_path_factory.mktemp("image") / "slipring"
    with podman.container() as name:
        podman.podman("cp", f"{name}:/usr/local/bin/slipring", path)
    return path
