"""The barrier: an answer never hides what was accepted before it was asked for (design section 9; G7, G8).

The end offsets of the caller's event topics are read after the request arrived, and the read model is
waited for until it has passed them. Requests of one scope share reads: one is under way at a time, and
whoever arrives meanwhile shares the next, which begins after all of them arrived. So a burst costs the
log no more than a lone reader does, and a lone reader waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from atlas.core.entities import Scope
from atlas.core.errors import LogError, Unavailable
from atlas.gateway.call import Services
from atlas.ports.log import TopicPartition

#: How long an answer waits for the projection.
BARRIER_MAX_S: Final = 2.0
#: How long an answer that is late already may look for how far behind the projection is.
_AGE_MAX_S: Final = 0.25
#: Partitions looked into for the oldest record: those furthest behind.
_AGE_PARTITIONS_MAX: Final = 16

_Ends = Mapping[TopicPartition, int]


class Barrier:
    """One per process."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock
        self._registry = services.registry
        self._log = services.log
        self._read_model = services.read_model
        self._next: dict[Scope, asyncio.Task[_Ends | None]] = {}
        self._running: dict[Scope, asyncio.Task[_Ends | None]] = {}

    async def lag_ms(self, scope: Scope) -> int:
        """Wait until the read model has passed what is in the scope's topics now.

        Returns:
            0 when it has. Else, after `BARRIER_MAX_S`, how far it is behind: the age of the oldest
            record not folded yet, as far as that can be told in a moment, and never less than the
            time waited. When the log itself could not say where it ends, nobody knows: then it is
            the whole of `BARRIER_MAX_S`.

        Raises:
            StoreUnavailable: the read model cannot answer now.
        """
        started_s = self._clock.monotonic_s()
        ends = await self._end_offsets(scope)
        if ends is None:
            return int(BARRIER_MAX_S * 1000)
        left_s = BARRIER_MAX_S - (self._clock.monotonic_s() - started_s)
        if not ends or await self._read_model.wait_past(ends, max(0.0, left_s)):
            return 0
        waited_ms = int((self._clock.monotonic_s() - started_s) * 1000)
        return max(1, waited_ms, await self._oldest_age_ms(ends))

    async def _end_offsets(self, scope: Scope) -> _Ends | None:
        shared = self._next.get(scope)
        if shared is None or shared.done():
            read = self._read(scope, self._running.get(scope))
            shared = self._next[scope] = asyncio.create_task(read, name="barrier")
        try:
            async with asyncio.timeout(BARRIER_MAX_S):
                return await asyncio.shield(shared)
        except TimeoutError:
            return None

    async def _read(self, scope: Scope, before: asyncio.Task[_Ends | None] | None) -> _Ends | None:
        if before is not None:
            await asyncio.wait([before])
        # From here on a newcomer's event may be missing from this read: it makes another.
        mine = self._running[scope] = self._next.pop(scope)
        try:
            await self._registry.catch_up()
            streams = self._registry.state.streams.get(scope, {}).values()
            shards = range(self._log.shards)
            return await self._log.end_offsets(
                [TopicPartition(stream.topic, shard) for stream in streams for shard in shards]
            )
        except (LogError, Unavailable):
            return None
        finally:
            if self._running.get(scope) is mine:
                del self._running[scope]

    async def _oldest_age_ms(self, ends: _Ends) -> int:
        positions = (await self._read_model.progress()).positions
        behind = {source: end - positions.get(source, 0) for source, end in ends.items()}
        furthest = sorted((s for s in behind if behind[s] > 0), key=behind.__getitem__, reverse=True)
        reads = [self._age_ms(s, positions.get(s, 0)) for s in furthest[:_AGE_PARTITIONS_MAX]]
        try:
            async with asyncio.timeout(_AGE_MAX_S):
                return max(await asyncio.gather(*reads), default=0)
        except TimeoutError:
            return 0

    async def _age_ms(self, source: TopicPartition, offset: int) -> int:
        try:
            record = await self._log.fetch(source, offset)
        except LogError:
            return 0
        return self._clock.now_ms() - record.timestamp_ms
