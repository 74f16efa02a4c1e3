"""What the conformance suites are run over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atlas.adapters.sqlite_read_model import SqliteReadModel
from tests.conformance.read_model_samples import opened_as


@pytest.fixture(params=["memory", "file", "threads", "followed"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteReadModel]:
    async with opened_as(request.param, tmp_path / "read_model.db") as store:
        yield store
