"""The threads that work on the idempotency index: while one piece of work is under way, requests collect.

Looking up never waits for writing: each has a thread and a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from atlas.adapters.kafka_index import KeyIndex, TakenKey
from atlas.core.errors import LogUnavailable

#: Calls waiting for their turn; past it a call is refused at once.
WAITING_MAX: Final = 20_000

T = TypeVar("T")


class IndexThread:
    """Owns the index."""

    def __init__(self, index: KeyIndex) -> None:
        self._index = index
        self._writing = _Turns("atlas-key-index", self._transact)
        self._finding = _Turns("atlas-key-index-find", self._find_all)

    async def run(self, work: Callable[[KeyIndex], T]) -> T:
        """Have it done in the next transaction; returns once that is over.

        Raises:
            LogUnavailable: the index cannot take it.
        """
        done: T = await self._writing.take(work)
        return done

    async def find(self, keys: Sequence[bytes]) -> dict[bytes, TakenKey]:
        """What the index holds of these keys, and maybe of others.

        Raises:
            LogUnavailable: the index cannot be read.
        """
        found: dict[bytes, TakenKey] = await self._finding.take(keys)
        return found

    async def close(self) -> None:
        """Finish what was asked for, then close the file."""
        await self._finding.close()
        await self._writing.close(self._index.close)

    def _transact(self, works: Sequence[Callable[[KeyIndex], Any]]) -> list[Any]:
        with self._index.transaction():
            return [work(self._index) for work in works]

    def _find_all(self, calls: Sequence[Sequence[bytes]]) -> list[dict[bytes, TakenKey]]:
        """Of all callers at once: each gets what was found for all."""
        found = self._index.find([key for keys in calls for key in keys])
        return [found] * len(calls)


class _Turns:
    """A thread that takes all that waits at once, and one result for each."""

    def __init__(self, name: str, work: Callable[[Sequence[Any]], list[Any]]) -> None:
        self._name, self._work = name, work
        self._thread = ThreadPoolExecutor(1, name)
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self, call: Any) -> Any:
        if self._closed:
            raise LogUnavailable("the key index is closed")
        if len(self._waiting) >= WAITING_MAX:
            raise LogUnavailable("too much waits for the key index")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, done))
        if self._working is None:
            self._working = asyncio.create_task(self._run(), name=self._name)
        return await done

    async def close(self, at_last: Callable[[], None] | None = None) -> None:
        """Finish what was asked for, then this, and end."""
        self._closed = True
        if self._working is not None:
            await asyncio.wait([self._working])
        if at_last is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, at_last)
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            work = partial(self._work, [call for call, _ in waiting])
            try:
                results = await loop.run_in_executor(self._thread, work)
            except Exception as error:  # noqa: BLE001  # whatever it was, each waiter must be told
                for _, done in waiting:
                    if not done.done():
                        done.set_exception(LogUnavailable(f"the key index failed: {error}"))
                continue
            for (_, done), result in zip(waiting, results, strict=True):
                if not done.done():
                    done.set_result(result)
        self._working = None
