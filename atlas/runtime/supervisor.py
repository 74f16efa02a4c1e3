"""Supervision of a process's tasks: one that dies is restarted with back-off, and that can be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from msgspec import Struct

from atlas.ports.clock import Clock
from atlas.runtime.telemetry import Metrics

_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: A task that ran this long is healthy again: its next failure starts from the shortest back-off.
STABLE_S: Final = 10.0

log_line = structlog.get_logger()


class TaskStatus(Struct):
    """What is known of one supervised task."""

    name: str
    running: bool = False
    restarts: int = 0
    last_error: str | None = None


class Supervisor:
    """Keeps named coroutines running until `stop`."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock, self._metrics = clock, metrics
        self._statuses: dict[str, TaskStatus] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def statuses(self) -> list[TaskStatus]:
        """Every task, in the order they were started."""
        return list(self._statuses.values())

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run `run()` again and again."""
        status = self._statuses[name] = TaskStatus(name)
        self._tasks[name] = asyncio.create_task(self._keep(status, run), name=name)

    async def stop(self, *names: str) -> None:
        """Cancel these tasks, or all, and wait for them."""
        chosen = [self._tasks.pop(name) for name in (names or list(self._tasks)) if name in self._tasks]
        for task in chosen:
            task.cancel()
        await asyncio.gather(*chosen, return_exceptions=True)

    async def _keep(self, status: TaskStatus, run: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled, even if what runs answers its cancellation with an error of its own."""
        failures, me = 0, asyncio.current_task()
        while self._tasks.get(status.name) is me:
            started_s = self._clock.monotonic_s()
            status.running = True
            try:
                await run()
                status.last_error = "ended"
            except Exception as error:  # whatever ends a task, it is started again
                status.last_error = describe(error)
                log_line.error("task failed", task=status.name, error=status.last_error, exc_info=error)
            status.running = False
            if self._clock.monotonic_s() - started_s >= STABLE_S:
                failures = 0
            status.restarts += 1
            self._metrics.restarts.labels(status.name).inc()
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1


def describe(error: BaseException) -> str:
    """An exception's type and text; for a group, those of its first member."""
    if isinstance(error, BaseExceptionGroup):
        return describe(error.exceptions[0])
    return f"{type(error).__name__}: {error}"
