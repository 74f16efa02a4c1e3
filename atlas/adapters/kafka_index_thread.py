"""The thread that works on the idempotency index: while one transaction becomes durable, requests collect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from atlas.adapters.kafka_index import KeyIndex, Reservation
from atlas.core.errors import LogUnavailable

#: Calls waiting for their transaction; past it a call is refused at once.
WAITING_MAX: Final = 20_000

T = TypeVar("T")
_Call = tuple[Callable[[KeyIndex], Any], Sequence[asyncio.Future[Any]]]
_Rows = Callable[[KeyIndex, Sequence[Reservation]], Any]


class IndexThread:
    """Owns the index."""

    def __init__(self, index: KeyIndex) -> None:
        self._index = index
        self._thread = ThreadPoolExecutor(1, "atlas-key-index")
        self._waiting: list[_Call] = []
        self._rows: dict[_Rows, tuple[list[Reservation], list[asyncio.Future[Any]]]] = {}
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, work: Callable[[KeyIndex], T]) -> T:
        """Have it done in the next transaction; returns once that is durable.

        Raises:
            LogUnavailable: the index cannot take it.
        """
        self._check(len(self._waiting))
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, [done]))
        self._begin()
        return await done

    async def run_rows(
        self, work: Callable[[KeyIndex, Sequence[Reservation]], T], rows: Sequence[Reservation]
    ) -> T:
        """The same for work on rows of distinct keys: that of all callers is done at once.

        Every one of them gets what comes of all.

        Raises:
            LogUnavailable: the index cannot take it.
        """
        all_rows, waiters = self._rows.setdefault(work, ([], []))
        self._check(len(waiters))
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        all_rows.extend(rows)
        waiters.append(done)
        self._begin()
        return await done

    async def close(self) -> None:
        """Finish what was asked for, then close the file."""
        self._closed = True
        if self._working is not None:
            await asyncio.wait([self._working])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._index.close)
        self._thread.shutdown()

    def _check(self, waiting: int) -> None:
        if self._closed:
            raise LogUnavailable("the key index is closed")
        if waiting >= WAITING_MAX:
            raise LogUnavailable("too much waits for the key index")

    def _begin(self) -> None:
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="key index")

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or self._rows:
            calls, self._waiting = self._waiting, []
            groups, self._rows = self._rows, {}
            calls += [(_on(work, rows), waiters) for work, (rows, waiters) in groups.items()]
            try:
                results = await loop.run_in_executor(
                    self._thread, self._transact, [work for work, _ in calls]
                )
            except Exception as error:  # noqa: BLE001  # whatever it was, each waiter must be told
                for _, waiters in calls:
                    for done in waiters:
                        if not done.done():
                            done.set_exception(LogUnavailable(f"the key index failed: {error}"))
                continue
            for (_, waiters), result in zip(calls, results, strict=True):
                for done in waiters:
                    if not done.done():
                        done.set_result(result)
        self._working = None

    def _transact(self, works: Sequence[Callable[[KeyIndex], Any]]) -> list[Any]:
        with self._index.transaction():
            return [work(self._index) for work in works]


def _on(work: _Rows, rows: Sequence[Reservation]) -> Callable[[KeyIndex], Any]:
    return lambda index: work(index, rows)
