"""The scene that all tests look at. `SLIPRING_BIN` names the binary under test; `tests/run` sets it."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import stage


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    with stage.played(tmp_path_factory.mktemp("monitoring")) as scene:
        yield scene


@pytest.fixture(scope="session")
def secured(tmp_path_factory):
    with stage.secured(tmp_path_factory.mktemp("secured")) as secured:
        yield secured
