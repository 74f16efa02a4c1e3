"""Retention of one shard: only its owner trims (design sections 4 and 5).

Open routes of what goes are closed first, then the trim is written down, then the records are dropped:
a crash in between repeats the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from atlas.core.entities import Stream
from atlas.core.errors import AtlasError
from atlas.core.facts import LIFECYCLE_TOPIC, RecordsTrimmed
from atlas.ports.clock import Clock
from atlas.ports.log import Log, TopicPartition
from atlas.ports.read_model import ReadModel, WaitingRoute
from atlas.runtime.patience import patiently

TRIM_EVERY_S: Final = 60.0
LIFECYCLE_RETENTION_MS: Final = 110 * 86_400_000
CLAIM_AGE_MAX_MS: Final = 10 * 86_400_000
#: Records in one trim: the read model forgets them in one transaction (measured: 50 us an event).
PORTION_RECORDS: Final = 5_000
_ROWS_MAX: Final = 1_000

log_line = structlog.get_logger()


class TrimmingOwner(Protocol):
    """The owner as this module needs it."""

    @property
    def shard(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    @property
    def last_offset(self) -> int:
        """Offset of the newest own fact known to be durable."""

    def streams(self) -> Iterable[Stream]:
        """All streams, archived ones included."""

    async def expire(
        self, source: TopicPartition, before_offset: int, routes: Iterable[WaitingRoute]
    ) -> None:
        """From here on nothing of the partition below the offset is attempted. Close these routes of it as
        `payload_expired`, but those whose attempt is under way; returns when that is durable.
        """

    def renew(self) -> None:
        """Give the claim up for a new one."""

    async def write(self, fact: RecordsTrimmed) -> int:
        """Append the trim; returns its offset."""


class Trimmer:
    """Trims now and then what is past retention.

    Args:
        gap: set when records were found to be gone: their open routes are closed at once.
    """

    def __init__(
        self, owner: TrimmingOwner, log: Log, read_model: ReadModel, clock: Clock, gap: asyncio.Event
    ) -> None:
        self._owner, self._log, self._read_model, self._clock = owner, log, read_model, clock
        self._gap = gap

    async def run(self) -> None:
        """Trim for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TRIM_EVERY_S):
                    await self._gap.wait()
            self._gap.clear()
            if await patiently(self._claim_is_old):
                self._owner.renew()
            try:
                await self.trim()
            except AtlasError as error:
                log_line.warning("trimming put off", shard=self._owner.shard, error=str(error))

    async def _claim_is_old(self) -> bool:
        """A fact whose claim is gone is void in a rebuild: claims are renewed long before they go."""
        lifecycle = TopicPartition(LIFECYCLE_TOPIC, self._owner.shard)
        before = await self._log.offset_at(lifecycle, self._clock.now_ms() - CLAIM_AGE_MAX_MS)
        return before > self._owner.epoch

    async def trim(self) -> None:
        """Trim every event topic's partition, and the lifecycle partition, once."""
        now_ms = self._clock.now_ms()
        for stream in list(self._owner.streams()):
            source = TopicPartition(stream.topic, self._owner.shard)
            await self._trim(source, now_ms - stream.retention_ms)
        lifecycle = TopicPartition(LIFECYCLE_TOPIC, self._owner.shard)
        before = await self._log.offset_at(lifecycle, now_ms - LIFECYCLE_RETENTION_MS)
        await self._log.delete_records(lifecycle, before)

    async def _trim(self, source: TopicPartition, before_ms: int) -> None:
        starts = await self._log.start_offsets([source])
        if source not in starts:
            return
        end_offset = await self._log.offset_at(source, before_ms)
        if starts[source]:
            await self._close_below(source, starts[source])  # what the log's own retention took
        for start in range(starts[source], end_offset, PORTION_RECORDS):
            await self._trim_below(source, min(start + PORTION_RECORDS, end_offset), before_ms)

    async def _close_below(self, source: TopicPartition, before_offset: int) -> None:
        while True:
            open_routes = await self._read_model.open_below(source, before_offset, _ROWS_MAX)
            if not open_routes.routes:
                return
            await self._owner.expire(source, before_offset, open_routes.routes)
            await self._folded(max(open_routes.lifecycle_position, self._owner.last_offset))

    async def _trim_below(self, source: TopicPartition, before_offset: int, before_ms: int) -> None:
        await self._close_below(source, before_offset)
        await self._owner.write(
            RecordsTrimmed(
                epoch=self._owner.epoch,
                topic=source.topic,
                before_offset=before_offset,
                before_ms=before_ms,
                at_ms=self._clock.now_ms(),
            )
        )
        await self._log.delete_records(source, before_offset)

    async def _folded(self, offset: int) -> None:
        lifecycle = TopicPartition(LIFECYCLE_TOPIC, self._owner.shard)
        if not await self._read_model.wait_past({lifecycle: offset + 1}, TRIM_EVERY_S):
            raise AtlasError("the read model does not keep up: nothing is trimmed")
