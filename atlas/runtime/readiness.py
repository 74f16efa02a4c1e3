"""What `/readyz` answers: whether this process can append and is making progress, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from atlas.core import answers
from atlas.core.errors import AtlasError, StoreUnavailable
from atlas.ports.clock import Clock
from atlas.ports.log import Log
from atlas.ports.read_model import ReadModel
from atlas.runtime.registry import Registry
from atlas.runtime.supervisor import Supervisor
from atlas.runtime.telemetry import Metrics

#: An answer is reused for this long: the probe costs the log a commit.
CACHED_S: Final = 1.0
CHECK_MAX_S: Final = 2.0
#: Records waiting to be folded, without the fold moving for this long, are no progress.
STALLED_S: Final = 10.0
_SAMPLE_EVERY_S: Final = 1.0


class Readiness:
    """Checks of one process. `run` keeps the gauges of progress current."""

    def __init__(
        self,
        log: Log,
        registry: Registry,
        read_model: ReadModel,
        supervisor: Supervisor,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._log, self._registry, self._read_model = log, registry, read_model
        self._supervisor, self._clock, self._metrics = supervisor, clock, metrics
        self._consumers: dict[str, tuple[Callable[[], Awaitable[int]], Callable[[], int]]] = {}
        self._more: list[Callable[[], Awaitable[dict[str, str]]]] = []
        self._queues: dict[str, Callable[[], int]] = {}
        self._moved: dict[str, tuple[int, float]] = {}
        self._cached: tuple[float, answers.Readiness] | None = None

    def consumer(
        self, name: str, lag_records: Callable[[], Awaitable[int]], position: Callable[[], int]
    ) -> None:
        """Watch a consumer: it makes progress when it has no lag, or its position changes."""
        self._consumers[name] = (lag_records, position)

    def also(self, checks: Callable[[], Awaitable[dict[str, str]]]) -> None:
        """More checks: names, and "ok" or what is wrong."""
        self._more.append(checks)

    def queue(self, name: str, depth: Callable[[], int]) -> None:
        """Show a queue's depth."""
        self._queues[name] = depth

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            for name, (lag_records, position) in self._consumers.items():
                self._sample(name, await lag_records(), position())
            await self._sample_overdue()
            for name, depth in self._queues.items():
                self._metrics.queue_depth.labels(name).set(depth())
            await asyncio.sleep(_SAMPLE_EVERY_S)

    async def report(self) -> answers.Readiness:
        """`{"status": "ready" | "unready", "checks": {name: "ok" or what is wrong}}`."""
        now_s = self._clock.monotonic_s()
        if self._cached is None or now_s - self._cached[0] > CACHED_S:
            self._cached = (now_s, await self._check())
        return self._cached[1]

    async def _check(self) -> answers.Readiness:
        checks = {
            "log": await self._guarded(self._log.check()),
            "control": self._registry.not_ready() or "ok",
            "read model": await self._guarded(self._overdue_ms()),
        }
        for task in self._supervisor.statuses():
            checks[task.name] = "ok" if task.running else f"restarting: {_kind(task.last_error)}"
        for more in self._more:
            checks |= await self._asked(more)
        for name in self._consumers:
            if (stalled_s := self._stalled_s(name)) > STALLED_S:
                checks[f"{name} progress"] = f"no progress for {stalled_s:.0f} s"
        ready = all(answer == "ok" for answer in checks.values())
        return {"status": "ready" if ready else "unready", "checks": checks}

    async def _asked(self, more: Callable[[], Awaitable[dict[str, str]]]) -> dict[str, str]:
        try:
            async with asyncio.timeout(CHECK_MAX_S):
                return await more()
        except (AtlasError, TimeoutError) as error:
            return {"shards": str(error) or "no answer in time"}

    async def _guarded(self, check: Awaitable[object]) -> str:
        try:
            async with asyncio.timeout(CHECK_MAX_S):
                await check
        except (AtlasError, TimeoutError) as error:
            return str(error) or "no answer in time"
        return "ok"

    async def _overdue_ms(self) -> int:
        """The age of the oldest route that waits past its time, if only for room at its target."""
        return await self._read_model.oldest_overdue_ms(self._clock.now_ms())

    async def _sample_overdue(self) -> None:
        with suppress(StoreUnavailable):  # the check says so
            self._metrics.oldest_overdue.set(await self._overdue_ms() / 1000)

    def _sample(self, name: str, lag: int, position: int) -> None:
        self._metrics.lag.labels(name).set(lag)
        before, since_s = self._moved.get(name, (-1, 0.0))
        if lag == 0 or position != before:
            since_s = self._clock.monotonic_s()
        self._moved[name] = (position, since_s)

    def _stalled_s(self, name: str) -> float:
        if name not in self._moved:
            return 0.0
        return self._clock.monotonic_s() - self._moved[name][1]


def _kind(error: str | None) -> str:
    """The exception's type only: its text may name paths, or a workspace's data."""
    return (error or "starting").partition(":")[0]
