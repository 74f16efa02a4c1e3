"""The embedded log's one writer: group commit on a thread of its own, or inline on the event loop.

While one transaction is being made durable, requests collect; the next takes them all. Other work
(retention, offsets, topics) goes between groups, one piece at a time: no append ever waits for more
than one of them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from atlas.adapters.embedded_batches import Accept, Append, Committed
from atlas.adapters.embedded_store import EmbeddedStore
from atlas.core.errors import LogError, LogUnavailable

#: A caller waits this long for its group, then gets `LogUnavailable`; the group goes on.
DEADLINE_S: Final = 10.0
#: Bytes of records waiting to be committed; past it an append is refused at once.
OUTSTANDING_BYTES_MAX: Final = 64 * 1024 * 1024
_SWEEP_S: Final = 0.25

T = TypeVar("T")


class _Task:
    def __init__(self, work: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        self.work, self.size, self.done = work, 0, done


class _Request:
    def __init__(self, content: Append | Accept, size: int, done: asyncio.Future[Any]) -> None:
        self.content, self.size, self.done = content, size, done


_Item = _Task | _Request


class Writer:
    """Owns the store.

    Args:
        store: used by the writer alone until it is closed.
        publish: called on the event loop with what a group appended, before its waiters resume.
        threads: False: everything runs on the event loop, for simulations.
    """

    def __init__(
        self, store: EmbeddedStore, publish: Callable[[Sequence[Committed]], None], threads: bool
    ) -> None:
        self._store = store
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Sequence[_Item] | None] = queue.SimpleQueue()
        self._collected: list[_Item] = []
        self._tasks: deque[_Task] = deque()  # the writing side's
        self._outstanding_bytes = 0
        self._deadlines: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._sweeping = False
        self._closed = False
        self._turn_due = False
        self._thread: threading.Thread | None = None
        if threads:
            self._thread = threading.Thread(target=self._run, name="atlas-log-write", daemon=True)
            self._thread.start()

    async def submit(self, content: Append | Accept, size: int) -> Any:
        """Have it committed with the next group; returns its result.

        Raises:
            LogUnavailable: it was not committed, or not within the deadline.
        """
        if self._outstanding_bytes + size > OUTSTANDING_BYTES_MAX:
            raise LogUnavailable("too much is waiting to be written")
        done: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue(_Request(content, size, done))
        return await done

    async def task(self, work: Callable[[], T]) -> T:
        """Have `work` done between groups.

        Raises:
            LogUnavailable: it failed, or was not done within the deadline.
        """
        done: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(_Task(work, done))
        return await done

    async def close(self) -> None:
        """Finish everything asked for; the store is then no longer used."""
        if self._closed:
            return
        self._closed = True
        if self._thread is None:
            while self._turn():
                pass
        else:
            self._hand_over()
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    # -- on the loop --------------------------------------------------------------------------

    def _enqueue(self, item: _Item) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed")
        self._outstanding_bytes += item.size
        self._deadlines.append((self._loop.time() + DEADLINE_S, item.done))
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP_S, self._sweep)
        self._collected.append(item)
        self._call_turn()

    def _call_turn(self) -> None:
        """Once for all that this turn of the loop asks for: fewer and larger groups, and the writer
        does not fight the loop for the GIL while there is more to come.
        """
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn if self._thread is None else self._hand_over)

    def _hand_over(self) -> None:
        self._turn_due = False
        if self._collected:
            self._queue.put(self._collected)
            self._collected = []

    def _sweep(self) -> None:
        """Fail waiters past their deadline; their group goes on."""
        now = self._loop.time()
        while self._deadlines and (self._deadlines[0][1].done() or self._deadlines[0][0] <= now):
            _, done = self._deadlines.popleft()
            if not done.done():
                done.set_exception(LogUnavailable("the log did not answer in time"))
        self._sweeping = bool(self._deadlines)
        if self._sweeping:
            self._loop.call_later(_SWEEP_S, self._sweep)

    def _settle(self, items: Sequence[_Item], results: Sequence[Any], committed: Sequence[Committed]) -> None:
        """Publish what is durable, then answer the waiters."""
        self._publish(committed)
        for item, result in zip(items, results, strict=True):
            self._outstanding_bytes -= item.size
            if item.done.done():
                continue
            if isinstance(result, LogError):
                item.done.set_exception(type(result)(*result.args))
            else:
                item.done.set_result(result)
        while self._deadlines and self._deadlines[0][1].done():
            self._deadlines.popleft()

    # -- on the writing side ------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            requests: list[_Request] = []
            while (going and not requests and not self._tasks) or not self._queue.empty():
                items = self._queue.get()
                if items is None:
                    going = False
                else:
                    self._sort(items, requests)
            self._write(requests, self._post)
        while self._tasks:
            self._write([], self._post)

    def _turn(self) -> bool:
        """Inline: one group and one task. Returns whether there was anything to do."""
        self._turn_due = False
        requests: list[_Request] = []
        self._sort(self._collected, requests)
        self._collected = []
        worked = bool(requests or self._tasks)
        self._write(requests, self._settle)
        if self._tasks and not self._closed:
            self._call_turn()
        return worked

    def _sort(self, items: Sequence[_Item], requests: list[_Request]) -> None:
        for item in items:
            if isinstance(item, _Request):
                requests.append(item)
            else:
                self._tasks.append(item)

    def _write(self, requests: list[_Request], answer: Callable[..., None]) -> None:
        """One transaction for all requests, then one task in a transaction of its own."""
        if requests:
            answer(requests, *self._commit(requests))
        if self._tasks:
            task = self._tasks.popleft()
            answer([task], [_attempt(task.work)], ())

    def _commit(self, requests: Sequence[_Request]) -> tuple[Sequence[Any], Sequence[Committed]]:
        group = _attempt(lambda: self._store.commit([request.content for request in requests]))
        if isinstance(group, LogError):
            return [group] * len(requests), ()
        return group.results, group.committed

    def _post(self, items: Sequence[_Item], results: Sequence[Any], committed: Sequence[Committed]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, items, results, committed)
        except RuntimeError:  # the loop was closed before the log: nobody is left to be told
            pass


def _attempt(work: Callable[[], T]) -> T | LogError:
    try:
        return work()
    except LogError as error:
        return error
    except Exception as error:  # noqa: BLE001  # whatever it was, each waiter must be told
        return LogUnavailable(f"{type(error).__name__}: {error}")
