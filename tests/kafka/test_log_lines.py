"""What a process writes to stderr while its broker is away."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.core.errors import LogError
from atlas.ports.log import TopicPartition
from atlas.runtime.telemetry import LIBRARY_LINES_MAX, LIBRARY_WINDOW_S, Metrics, configure_logging
from scripts.kafka_lib.broker import Broker
from tests.conformance.log_deployments import AT_ONCE_S, records
from tests.kafka_broker import own_broker

#: As much of aiokafka's as is waited for; without a bound all of it would be written.
FLOOD: Final = 120
#: Our own lines have bounds of their own: one a second for each member, and few others.
OWN_LINES_PER_SECOND_MAX: Final = 3.0


class Flood(logging.Handler):
    """Counts what aiokafka says, before anything is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[tuple[str, str], int] = {}
        self.enough = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        key = (record.name, str(record.msg))
        self.messages[key] = self.messages.get(key, 0) + 1
        if sum(self.messages.values()) >= FLOOD:
            self.enough.set()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = own_broker(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def stderr() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    writer = configure_logging(Metrics(), out)
    yield out
    writer.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


async def use_until_cancelled(log: KafkaLog, topic: str) -> None:
    """As busy as a gateway and a deliverer that give up for no error."""
    reader = log.reader()
    reader.assign({TopicPartition(topic, 0): 0})
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: reader.poll(10, 0.1),
        lambda: log.append(topic, 0, records("x")),
        log.check,
    ]
    for call in itertools.cycle(calls):
        try:
            await call()
        except LogError:
            await asyncio.sleep(0)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_broker_that_is_away_does_not_flood(broker: Broker, stderr: io.StringIO) -> None:
    log = await KafkaLog.open(KafkaSettings(bootstrap=broker.bootstrap()), SystemClock())
    await log.create_topic("orders", 1, None)
    member = await log.join("workers", "orders")
    async with asyncio.timeout(3 * AT_ONCE_S):
        await member.assignment_changed(frozenset())
    flood, library = Flood(), logging.getLogger("aiokafka")
    library.addHandler(flood)
    using = [asyncio.create_task(use_until_cancelled(log, "orders")) for _ in range(3)]
    started_s = time.monotonic()
    try:
        broker.kill()
        async with asyncio.timeout(60):
            await flood.enough.wait()
    finally:
        library.removeHandler(flood)
        for task in using:
            task.cancel()
        await asyncio.wait(using)
        await log.close()
    lasted_s = time.monotonic() - started_s
    lines: list[dict[str, Any]] = [json.loads(line) for line in stderr.getvalue().splitlines()]
    theirs = [line for line in lines if str(line.get("logger", "")).startswith("aiokafka")]
    windows = lasted_s / LIBRARY_WINDOW_S + 1
    assert 0 < len(theirs) <= LIBRARY_LINES_MAX * len(flood.messages) * windows
    assert len(theirs) < sum(flood.messages.values())
    assert len(lines) - len(theirs) <= OWN_LINES_PER_SECOND_MAX * (lasted_s + 1)
