"""The example as a user starts it, with `deploy/example/run`. `SLIPRING_BIN` names the binary under test; `tests/run`
sets it."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import scene


@pytest.fixture
def example():
    with scene.started() as example:
        yield example
