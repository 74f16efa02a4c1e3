"""Keys on their way into the index, once their records are in the log.

Keys are hashes, so that nearly each of them changes a page of the index that no other does, unless many go in
at once: 12 us of CPU time a key in groups of 1,000, and 4 us in groups of 20,000 (measured, of 400,000). And
nobody waits for it: until a key is in the index its claim tells of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from atlas.adapters.kafka_index import KeyIndex, TakenKey
from atlas.adapters.kafka_index_thread import IndexThread
from atlas.core.errors import LogUnavailable

#: Keys are written when there are so many...
GROUP_KEYS: Final = 10_000
#: ...or when the first of them has waited for so long.
LINGER_S: Final = 0.25
#: Keys that wait; past it no more are taken: the index is slower than the log, or fails.
WAITING_KEYS_MAX: Final = 100_000
#: Between two tries to write into an index that fails: its disk is full, say.
AGAIN_S: Final = 1.0


class Taking:
    """See the module.

    Attributes:
        failure: why they could not be written just now.
    """

    def __init__(self, index: IndexThread) -> None:
        self._index = index
        self.failure: LogUnavailable | None = None
        self._rows: list[TakenKey] = []
        self._written: list[Callable[[], None]] = []
        self._waiting = 0
        self._in_haste = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def full(self) -> bool:
        """Whether too many wait."""
        return self._waiting >= WAITING_KEYS_MAX

    def add(self, rows: Sequence[TakenKey], written: Callable[[], None]) -> None:
        """Have them written.

        Args:
            rows: of keys that were free.
            written: called once they are in the index.
        """
        self._rows += rows
        self._waiting += len(rows)
        self._written.append(written)
        if len(self._rows) >= GROUP_KEYS:
            self._in_haste.set()
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="write keys taken")

    async def close(self, deadline_s: float) -> None:
        """Write what waits, within that time; what is not written is read back at the next opening."""
        writing = self._writing
        if writing is not None:
            self._in_haste.set()
            await asyncio.wait([writing], timeout=deadline_s)
            writing.cancel()
            await asyncio.wait([writing])

    async def _write_all(self) -> None:
        while self._rows:
            try:
                async with asyncio.timeout(LINGER_S):
                    await self._in_haste.wait()
            except TimeoutError:
                pass
            else:
                self._in_haste.clear()
            rows, self._rows = self._rows, []
            written, self._written = self._written, []
            await self._write(rows)
            self._waiting -= len(rows)
            for tell in written:
                tell()
        self._writing = None

    async def _write(self, rows: Sequence[TakenKey]) -> None:
        take = KeyIndex.take
        while True:
            try:
                await self._index.run(partial(take, rows=rows))
                break
            except LogUnavailable as error:
                # Nothing is known to be written; should something be, it is no reason to fail for ever.
                self.failure, take = error, KeyIndex.take_if_free
            await asyncio.sleep(AGAIN_S)
        self.failure = None
