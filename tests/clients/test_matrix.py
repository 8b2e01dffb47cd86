"""The matrix: every client library, each step, on every kind of nodes: the answers are those of one memcached."""

import contextlib

import pytest
from clients import CLIENTS
from matrix import LaterSteps, Run, Steps, report
from places import TRIED, Places


class Matrix:
    def __init__(self, stack):
        self.stack, self.places, self.runs = stack, Places(stack), {}

    def run(self, client, place):
        if (client, place) not in self.runs:
            # Short, so that the longest key has room for it, and free of what a key may not have.
            run = Run(client, self.places.port(place), f"c{list(CLIENTS).index(client.name)}")
            self.stack.callback(run.close)
            self.runs[client, place] = run
        return self.runs[client, place]

    def report(self, name, kind, steps, only=None):
        client = CLIENTS[name]
        itself = "memcached with discovery" if client.discovers else "memcached"
        return report(client, kind, steps, self.run(client, itself), self.run(client, kind), only)


@pytest.fixture(scope="module")
def matrix():
    with contextlib.ExitStack() as stack:
        yield Matrix(stack)


@pytest.fixture(autouse=True)
def empty():
    """Nothing is thrown away between these tests: they have places of their own, and look at values again later."""


@pytest.mark.parametrize("kind", TRIED)
@pytest.mark.parametrize("name", CLIENTS)
def test_every_answer_is_that_of_a_memcached(matrix, name, kind):
    assert matrix.report(name, kind, Steps) == []


# Values of every client have expired by then; and from here on they are flushed away.
@pytest.mark.parametrize("kind", TRIED)
@pytest.mark.parametrize("name", CLIENTS)
def test_values_expire(matrix, name, kind):
    matrix.report(name, kind, Steps)
    assert matrix.report(name, kind, LaterSteps, ["expiry"]) == []


@pytest.mark.parametrize("kind", TRIED)
@pytest.mark.parametrize("name", CLIENTS)
def test_flush(matrix, name, kind):
    assert matrix.report(name, kind, LaterSteps, ["flush"]) == []
