"""Servers of the rows: one that computes, one that takes its time, and any other by its flags."""

import pytest

from live_server import stories_with_template
from row_tools import KEY, Row, RowServer, end_of_server


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return stories_with_template(tmp_path_factory.mktemp("rows-model") / "stories")


@pytest.fixture(scope="module")
def real_row(model, tmp_path_factory):
    """stories260K, computed, behind a key."""
    with RowServer(model, tmp_path_factory.mktemp("real"), "-t", "1", "--max-num-seqs", "32",
                   key=KEY) as server:
        yield Row(server, victim_tokens=160)
        end_of_server(server)


@pytest.fixture(scope="module")
def slow_row(model, tmp_path_factory):
    """A step each 10 ms, a short queue: there is time to leave, to wait and to be refused."""
    with RowServer(model, tmp_path_factory.mktemp("slow"), "--executor", "fake", "--fake-step-us",
                   "10000", "--max-num-seqs", "6", "--max-queued-requests", "4") as server:
        yield Row(server, victim_tokens=24)
        end_of_server(server)


@pytest.fixture
def server(real_row):
    """The computing server; whatever a test does to it harms nobody else."""
    with real_row.unharmed() as server:
        yield server


@pytest.fixture
def slow(slow_row):
    with slow_row.unharmed() as server:
        yield server


@pytest.fixture
def start(model, tmp_path):
    """start("--flag", ..., model=, key=): another server, which ends with the test."""
    servers = []

    def started(*flags, of=None, key=None):
        folder = tmp_path / f"server{len(servers)}"
        servers.append(RowServer(of or model, folder, *flags, key=key))
        return servers[-1]

    yield started
    for each in servers:
        each.kill()
