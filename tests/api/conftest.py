"""Atlas as a process, and clients of it, for tests from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.api.atlas_process import SERVERS, answered, every_page, new_workspace, running
from tests.api.fuzzed import LISTS, Fuzzed
from tests.api.receiver import Receiver
from tests.http_client import Client
from tests.processes import Dev


@pytest.fixture(scope="module", params=SERVERS)
def dev(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One process for a module, once for each server."""
    with running(tmp_path_factory.mktemp(request.param), request.param) as process:
        yield process


@pytest.fixture
def acme(dev: Dev) -> Iterator[Client]:
    """A workspace of its own for each test; the client has its live key."""
    _, live, _ = new_workspace(dev, "Acme")
    with live:
        yield live


@pytest.fixture(scope="module", params=SERVERS)
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """A process that may be sent anything. Afterwards it works, and it starts again over the same data."""
    directory = tmp_path_factory.mktemp(request.param)
    thin = 1 if request.param == SERVERS[0] else 6
    with Receiver() as receiver:
        with running(directory, request.param) as dev, closing(Fuzzed(dev, receiver, thin)) as fuzzed:
            yield fuzzed
            fuzzed.still_works()
        with running(directory, request.param) as again, Client(again.port, again.live_secret_key) as live:
            for where in LISTS:
                every_page(live, where)
            answered(live.get("/readyz"), 200)
