"""The one way facts of a shard reach the log: in order, one append at a time.

Order matters: a checkpoint queued after a fact lies after it in the log, so what the checkpoint calls
decided really lies before it. A failed append is tried again with the same facts for as long as the
shard is owned: it may have landed, and then the fold finds the repeats void.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from atlas.core.errors import LogUnavailable, OffsetOutOfRange
from atlas.core.facts import LIFECYCLE_SCHEMA, LIFECYCLE_TOPIC, SCHEMA_HEADER, LifecycleFact, encode
from atlas.ports.log import Log, NewRecord

#: Facts in one append, at most.
APPEND_MAX: Final = 1_000
#: Past this many facts waiting no new attempt starts, and no event is read (`room`): two appends full.
WAITING_MAX: Final = 2_000
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_HEADERS: Final = ((SCHEMA_HEADER, LIFECYCLE_SCHEMA),)


class FactWriter:
    """Queue of one shard's facts. `run` must be kept running by the owner.

    Attributes:
        failing: the last append failed; nothing new should be started.
        last_offset: offset of the newest fact known to be durable.
    """

    def __init__(self, log: Log, shard: int) -> None:
        self.failing = False
        self.last_offset = -1
        self._log = log
        self._shard = shard
        self._queue: deque[tuple[NewRecord, asyncio.Future[int]]] = deque()
        self._queued = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def room(self) -> bool:
        """Whether new attempts may start: their facts can be taken."""
        return not self.failing and len(self._queue) < WAITING_MAX

    async def drained(self) -> None:
        """Wait until nothing is waiting or under way."""
        await self._idle.wait()

    def put(self, fact: LifecycleFact, key: bytes) -> asyncio.Future[int]:
        """Queue a fact; the future gives its offset once it is durable."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((NewRecord(encode(fact), key, _HEADERS), done))
        self._queued.set()
        self._idle.clear()
        return done

    async def run(self) -> None:
        """Append for ever what is queued.

        Raises:
            OffsetOutOfRange: the log has lost facts, this owner's claim perhaps among them.
        """
        while True:
            self._queued.clear()
            if not self._queue:
                await self._queued.wait()
            batch = [self._queue.popleft() for _ in range(min(APPEND_MAX, len(self._queue)))]
            offset = await self._append([record for record, _ in batch])
            if offset <= self.last_offset:
                raise OffsetOutOfRange(f"shard {self._shard} has lost facts: {offset} is written once more")
            self.last_offset = offset + len(batch) - 1
            for index, (_, done) in enumerate(batch):
                if not done.done():
                    done.set_result(offset + index)
            if not self._queue:
                self._idle.set()

    def abandon(self) -> None:
        """The shard is lost: nobody need wait any longer."""
        while self._queue:
            _, done = self._queue.popleft()
            done.cancel()
        self._idle.set()

    async def _append(self, records: list[NewRecord]) -> int:
        tries = 0
        while True:
            try:
                offset = await self._log.append(LIFECYCLE_TOPIC, self._shard, records)
            except LogUnavailable:
                self.failing = True
                await asyncio.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
                tries += 1
            else:
                self.failing = False
                return offset
