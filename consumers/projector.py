"""Consumer group `atlas-projector`: folds events and facts into the read model (see `fold`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from atlas.core.errors import LogUnavailable, OffsetOutOfRange, StaleWriter
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.clock import Clock
from atlas.ports.log import Log, Member, TopicPartition
from atlas.ports.read_model import ReadModel
from atlas.runtime.registry import Registry
from atlas.runtime.telemetry import Metrics
from consumers.fold import GROUP, Fold

_POLL_S: Final = 10.0
_COMMIT_EVERY_S: Final = 1.0
#: Beside a steady trickle a transaction for each batch would cost more than all else: what comes within this
#: time of a small one goes together. The first after a pause waits for nothing.
GATHER_S: Final = 0.01
_SMALL_RECORDS: Final = 200


class Projector:
    """Runs under a supervisor; any exception ends it, and a new run starts from the stored positions.

    Attributes:
        on_ahead: called when the log is found to end below those.

    Args:
        alone: a lock on the read model sees to it that there is one projector at a time. The group's
            protocol would make it wait for the session of one that was killed.
    """

    def __init__(
        self,
        log: Log,
        read_model: ReadModel,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        alone: bool = True,
    ) -> None:
        self._log, self._read_model, self._clock, self._alone = log, read_model, clock, alone
        self._fold = Fold(log, read_model, registry, clock, metrics)
        self._turn = asyncio.Lock()
        self.on_ahead: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Project for ever the shards that the group gives this member; alone, all of them.

        Raises:
            OffsetOutOfRange: the log has lost what is in the read model; `on_ahead` was called.
        """
        member = await self._log.join(GROUP, LIFECYCLE_TOPIC, self._alone)
        try:
            shards: frozenset[int] = frozenset()
            while True:
                shards = await self._project_while_held(member, shards)
        except OffsetOutOfRange:
            self.on_ahead()
            raise
        finally:
            await member.leave()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is folded inside; afterwards the store may be another one."""
        self._fold.stop.set()
        try:
            async with self._turn:
                yield
        finally:
            self._fold.stop.clear()

    async def _project_while_held(self, member: Member, shards: frozenset[int]) -> frozenset[int]:
        """Project these shards until the assignment is another one; returns that."""
        changed = asyncio.ensure_future(member.assignment_changed(shards))
        projecting = asyncio.ensure_future(self._project(member, shards) if shards else changed)
        try:
            await asyncio.wait({changed, projecting}, return_when=asyncio.FIRST_COMPLETED)
            if projecting.done() and projecting is not changed:
                projecting.result()
            return await changed
        finally:
            changed.cancel()
            projecting.cancel()
            await asyncio.gather(changed, projecting, return_exceptions=True)

    async def _project(self, member: Member, shards: frozenset[int]) -> None:
        while True:
            async with self._turn, self._fold.of(shards):
                await self._project_until_stopped(member, shards)
                await self._fold.applied()

    async def _project_until_stopped(self, member: Member, shards: frozenset[int]) -> None:
        fold = self._fold
        committed_s, committed = self._clock.monotonic_s(), fold.positions
        while not fold.stop.is_set():
            moved = committed is not fold.positions
            idle = not moved and not fold.is_applying
            read = await fold.step(_COMMIT_EVERY_S if moved else _POLL_S)
            if not read and idle:
                await self._check_store(shards)
            elif 0 < read < _SMALL_RECORDS:
                await asyncio.sleep(GATHER_S)
            if moved and not fold.is_applying and self._clock.monotonic_s() - committed_s >= _COMMIT_EVERY_S:
                committed_s, committed = self._clock.monotonic_s(), fold.positions
                await self._commit(member, shards)

    async def _check_store(self, shards: frozenset[int]) -> None:
        """While nothing comes, nothing else would tell that the store was lost, or restored from a copy."""
        positions = (await self._read_model.progress()).positions
        if any(positions.get(s, 0) != p for s, p in self._fold.positions.items() if s.partition in shards):
            raise StaleWriter("the read model is not where this projector left it")

    async def _commit(self, member: Member, shards: frozenset[int]) -> None:
        """Tell the group where the read model stands: for lag tools only, the truth lies with the rows."""
        offsets = {
            shard: self._fold.positions.get(TopicPartition(LIFECYCLE_TOPIC, shard), 0) for shard in shards
        }
        with suppress(LogUnavailable):
            await member.commit(offsets)

    def position(self) -> int:
        """Records folded; rises with every batch."""
        return sum(self._fold.positions.values())

    async def lag_records(self) -> int:
        """Records in the log that are not folded yet."""
        ends = await self._log.end_offsets(list(self._fold.positions))
        return sum(max(0, end - self._fold.positions.get(source, 0)) for source, end in ends.items())
