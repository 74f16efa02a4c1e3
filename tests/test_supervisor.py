"""The supervisor keeps tasks running, and ends them when it is told to."""

from __future__ import annotations

import asyncio

from atlas.core.errors import LogUnavailable
from atlas.runtime.supervisor import Supervisor
from atlas.runtime.telemetry import Metrics
from tests.virtual_time import VirtualClock, settle, virtual_time


@virtual_time
async def test_a_task_that_fails_over_its_end_is_not_started_again(clock: VirtualClock) -> None:
    """Its cancellation is gone by then: whoever waits for the end would wait for ever."""
    supervisor, starts = Supervisor(clock, Metrics()), 0

    async def run() -> None:
        nonlocal starts
        starts += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise LogUnavailable("nothing can be said good-bye to")

    supervisor.start("stubborn", run)
    await settle()
    async with asyncio.timeout(60):
        await supervisor.stop()
    assert starts == 1
