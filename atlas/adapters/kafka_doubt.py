"""Keys whose records may have landed or not, settled: into keys that are taken, or free (design section 7).

A doubt outlives a process only in the log: whoever opens the index next shuts out this process's producers
and reads what they sent (`kafka_recovery`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import structlog
from msgspec import Struct

from atlas.adapters.kafka_fence import fence, landed
from atlas.adapters.kafka_index import KeyIndex, TakenKey
from atlas.adapters.kafka_index_thread import IndexThread
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_producer import Owner
from atlas.core.errors import LogError
from atlas.ports.log import TopicPartition

#: Between two tries while the log is away.
RESOLVE_AGAIN_S: Final = 1.0
#: Keys kept in doubt; past it no more are taken.
KEYS_IN_DOUBT_MAX: Final = 100_000

#: A producer that is gone, and a partition in which it left keys undecided.
Doubt = tuple[Owner, TopicPartition]

log_line = structlog.get_logger()


class DoubtfulKeys(Struct, frozen=True):
    """What one append left undecided.

    Attributes:
        by_digest: the keys, by what names their records in the log.
        first_offset: the records lie at or above it, if they landed at all.
        settled: called once it is decided, and in the index.
    """

    by_digest: Mapping[bytes, TakenKey]
    first_offset: int
    settled: Callable[[], None]


class Doubts:
    """Settles doubts, each once at a time."""

    def __init__(self, log: KafkaLog, index: IndexThread) -> None:
        self._log, self._index = log, index
        self._left: dict[Doubt, list[DoubtfulKeys]] = {}
        self._doubt_by_key: dict[bytes, Doubt] = {}
        self._resolving: dict[Doubt, asyncio.Task[None]] = {}
        self._at_last: dict[Doubt, asyncio.Task[None]] = {}

    def full(self) -> bool:
        """Whether there are too many to take the risk of more."""
        return len(self._doubt_by_key) >= KEYS_IN_DOUBT_MAX

    def add(self, doubt: Doubt, keys: DoubtfulKeys) -> None:
        """Have it settled in the background, however long the log is away."""
        self._left.setdefault(doubt, []).append(keys)
        for key in keys.by_digest.values():
            self._doubt_by_key[key.dedup_key] = doubt
        if doubt not in self._at_last:
            task = asyncio.create_task(self._resolve_at_last(doubt), name=f"settle {doubt} at last")
            self._at_last[doubt] = task

    async def resolve(self, keys: Sequence[bytes]) -> None:
        """Settle whatever is in doubt about these keys: the index tells of them then.

        Raises:
            LogUnavailable: it could not be settled now.
        """
        for doubt in {self._doubt_by_key[key] for key in keys if key in self._doubt_by_key}:
            await self._resolve(doubt)

    async def close(self) -> None:
        """Stop; what is not settled is so at the next opening."""
        tasks = [*self._at_last.values(), *self._resolving.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _resolve(self, doubt: Doubt) -> None:
        task = self._resolving.get(doubt)
        if task is None:
            task = asyncio.create_task(self._settle(doubt), name=f"settle {doubt}")
            self._resolving[doubt] = task
            task.add_done_callback(lambda done: self._settled(doubt, done))
        await asyncio.shield(task)

    async def _resolve_at_last(self, doubt: Doubt) -> None:
        try:
            while doubt in self._left:
                try:
                    await self._resolve(doubt)
                except LogError:
                    await asyncio.sleep(RESOLVE_AGAIN_S)
        finally:
            del self._at_last[doubt]

    def _settled(self, doubt: Doubt, task: asyncio.Task[None]) -> None:
        del self._resolving[doubt]
        heard(task)

    async def _settle(self, doubt: Doubt) -> None:
        owner, source = doubt
        self._log.producer.give_up(owner)
        while appends := [*self._left.get(doubt, ())]:
            names = {digest: key for append in appends for digest, key in append.by_digest.items()}
            found: set[bytes] = set()
            end_offset = (await fence(self._log.cluster, owner, [source])).get(source)
            if end_offset is not None:  # else it was deleted, with whatever landed there
                # One beyond the end is of a log that has lost its end since.
                first_offset = min(end_offset, *(append.first_offset for append in appends))
                found = await landed(self._log, source, names.keys(), first_offset, end_offset)
            await self._index.run(partial(KeyIndex.take_if_free, rows=[names[each] for each in found]))
            for append in appends:
                self._left[doubt].remove(append)
                append.settled()
            for key in names.values():
                del self._doubt_by_key[key.dedup_key]
            log_line.warning("keys in doubt settled", source=source, keys=len(names), landed=len(found))
        self._left.pop(doubt, None)


def heard(task: asyncio.Task[Any]) -> None:
    """Its failure was told to whoever waited; if nobody did, nobody need be told."""
    if not task.cancelled():
        task.exception()
