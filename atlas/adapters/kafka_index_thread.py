"""The thread that works on the idempotency index: while one transaction becomes durable, requests collect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from atlas.adapters.kafka_index import KeyIndex
from atlas.core.errors import LogUnavailable

#: Calls waiting for their transaction; past it a call is refused at once.
WAITING_MAX: Final = 20_000

T = TypeVar("T")
_Call = tuple[Callable[[KeyIndex], Any], asyncio.Future[Any]]


class IndexThread:
    """Owns the index."""

    def __init__(self, index: KeyIndex) -> None:
        self._index = index
        self._thread = ThreadPoolExecutor(1, "atlas-key-index")
        self._waiting: list[_Call] = []
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, work: Callable[[KeyIndex], T]) -> T:
        """Have it done in the next transaction; returns once that is durable.

        Raises:
            LogUnavailable: the index cannot take it.
        """
        if self._closed:
            raise LogUnavailable("the key index is closed")
        if len(self._waiting) >= WAITING_MAX:
            raise LogUnavailable("too much waits for the key index")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="key index")
        return await done

    async def close(self) -> None:
        """Finish what was asked for, then close the file."""
        self._closed = True
        if self._working is not None:
            await asyncio.wait([self._working])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._index.close)
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            calls, self._waiting = self._waiting, []
            try:
                results = await loop.run_in_executor(
                    self._thread, self._transact, [work for work, _ in calls]
                )
            except Exception as error:  # noqa: BLE001  # whatever it was, each waiter must be told
                for _, done in calls:
                    if not done.done():
                        done.set_exception(LogUnavailable(f"the key index failed: {error}"))
                continue
            for (_, done), result in zip(calls, results, strict=True):
                if not done.done():
                    done.set_result(result)
        self._working = None

    def _transact(self, works: Sequence[Callable[[KeyIndex], Any]]) -> list[Any]:
        with self._index.transaction():
            return [work(self._index) for work in works]
