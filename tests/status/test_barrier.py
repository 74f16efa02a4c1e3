"""How requests share their looks at the log, and that nobody is served one from before it arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from atlas.ports.log import Log, TopicPartition
from atlas.status.handlers import EventStatus
from tests.ingest.harness import FakeCall
from tests.ingest.test_single import EVENT
from tests.status.harness import StatusInstallation, body, status_installation
from tests.virtual_time import VirtualClock, settle, virtual_time


class SlowLog:
    """A log whose end takes until `go` to read, as over a network; all else is the log's own."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.go = asyncio.Event()
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def end_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self.reads += 1
        ends = await self._log.end_offsets(sources)
        await self.go.wait()
        return ends


def slow(status: StatusInstallation) -> SlowLog:
    log = SlowLog(status.atlas.log)
    status.handlers = EventStatus(replace(status.atlas.services, log=cast(Log, log)))
    return log


@virtual_time
async def test_a_burst_shares_its_reads(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        log = slow(status)
        first = [asyncio.create_task(status.ids()) for _ in range(50)]
        await settle()
        later = [asyncio.create_task(status.ids()) for _ in range(50)]
        await settle()
        assert log.reads == 1
        log.go.set()
        assert await asyncio.gather(*first, *later) == [[event_id]] * 100
        assert log.reads == 2


@virtual_time
async def test_a_read_under_way_serves_nobody_who_comes_later(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path, projecting=False) as status:
        log = slow(status)
        early = asyncio.create_task(status.page())
        await settle()
        event_id = await status.accepted(EVENT)
        late = asyncio.create_task(status.get(event_id))
        await settle()
        log.go.set()
        assert body(await early)["data"] == []
        status.project()
        assert (await late)["id"] == event_id


@virtual_time
async def test_a_log_that_does_not_answer(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        await status.projected()
        log = slow(status)
        reply = await status.page()
        assert [item["id"] for item in body(reply)["data"]] == [event_id]
        assert reply.headers == ((b"x-atlas-lag-ms", b"2000"),)
        assert 2.0 <= clock.monotonic_s() < 2.1
        log.go.set()
        assert await status.ids() == [event_id]


@virtual_time
async def test_a_reader_who_leaves_takes_nobody_along(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        log = slow(status)
        leaving = asyncio.create_task(status.handlers.list(FakeCall()))
        staying = asyncio.create_task(status.ids())
        await settle()
        leaving.cancel()
        log.go.set()
        assert await staying == [event_id]
        assert log.reads == 1
