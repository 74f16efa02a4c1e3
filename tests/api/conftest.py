"""Atlas as a process, and clients of it, for tests from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.atlas_process import SERVERS, new_workspace, running
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
