"""A control fold of its own, for tests of what needs one and no more of Atlas."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Self

from atlas.adapters.kafka_recovery import AGAIN_S
from atlas.core.errors import LogError
from atlas.core.facts import CONTROL_TOPIC
from atlas.core.ids import IdSource
from atlas.ports.clock import Clock
from atlas.ports.log import Log
from atlas.runtime.producer_log import ProducerLog
from atlas.runtime.registry import Registry


class Control:
    """A registry that runs, over a log with or without a control topic.

    Attributes:
        producers: what the acceptor asks for.
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self.ids = IdSource(os.urandom, clock.now_ms)
        self.registry = Registry(log, clock)
        self.producers = ProducerLog(self.registry, self.ids, clock)
        self._running: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, log: Log, clock: Clock) -> Self:
        """Fold to the end of what is there."""
        control = cls(log, clock)
        await log.create_topic(CONTROL_TOPIC, 1, None)
        control._running = asyncio.create_task(control._run(), name="control fold")
        await control.registry.stands_at_end()
        return control

    async def _run(self) -> None:
        """As a supervisor would: a broker that is away ends the fold, and it begins again where it stood."""
        while True:
            with suppress(LogError):
                await self.registry.run()
            await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """Stop; to be done before the log is closed."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])
