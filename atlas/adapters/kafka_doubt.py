"""Reservations whose producer is gone, settled: into keys that are taken, or free (design section 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog

from atlas.adapters.kafka_fence import fence, landed
from atlas.adapters.kafka_index import KeyIndex, Reservation
from atlas.adapters.kafka_index_thread import IndexThread
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_producer import Owner
from atlas.core.errors import LogError
from atlas.ports.log import TopicPartition

#: Between two tries while the log is away.
RESOLVE_AGAIN_S: Final = 1.0

#: A producer that is gone, and a partition in which it holds reservations.
Doubt = tuple[Owner, TopicPartition]

log_line = structlog.get_logger()


class Doubts:
    """Settles doubts, each once at a time."""

    def __init__(self, log: KafkaLog, index: IndexThread) -> None:
        self._log, self._index = log, index
        self._resolving: dict[Doubt, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def resolve(self, doubt: Doubt) -> None:
        """Settle all that this producer left undecided in this partition.

        Raises:
            LogUnavailable: it could not be settled now.
        """
        task = self._resolving.get(doubt)
        if task is None:
            task = asyncio.create_task(self._settle(*doubt), name=f"settle {doubt}")
            self._resolving[doubt] = task
            task.add_done_callback(lambda done: self._settled(doubt, done))
        await asyncio.shield(task)

    def resolve_at_last(self, doubt: Doubt) -> None:
        """Settle it in the background, however long the log is away."""
        task = asyncio.create_task(self._resolve_at_last(doubt), name=f"settle {doubt} at last")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Stop; what is not settled is so at the next start."""
        tasks = [*self._background, *self._resolving.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _resolve_at_last(self, doubt: Doubt) -> None:
        while True:
            try:
                return await self.resolve(doubt)
            except LogError:
                await asyncio.sleep(RESOLVE_AGAIN_S)

    def _settled(self, doubt: Doubt, task: asyncio.Task[None]) -> None:
        del self._resolving[doubt]
        heard(task)

    async def _settle(self, owner: Owner, source: TopicPartition) -> None:
        self._log.producer.give_up(owner)
        if not await self._reserved(owner, source):
            return
        found: set[bytes] = set()
        end_offset = (await fence(self._log.cluster, owner, [source])).get(source)
        rows = await self._reserved(owner, source)
        if end_offset is not None:  # else it was deleted, with whatever landed there
            first_offset = min((row.noted_offset for row in rows), default=end_offset)
            found = await landed(self._log, source, {row.digest for row in rows}, first_offset, end_offset)
        await self._index.run(partial(KeyIndex.settle, rows=rows, landed=found))
        log_line.warning("keys in doubt settled", source=source, keys=len(rows), landed=len(found))

    async def _reserved(self, owner: Owner, source: TopicPartition) -> Sequence[Reservation]:
        return await self._index.run(partial(KeyIndex.reserved_by, owner=owner, source=source))


def heard(task: asyncio.Task[Any]) -> None:
    """Its failure was told to whoever waited; if nobody did, nobody need be told."""
    if not task.cancelled():
        task.exception()
