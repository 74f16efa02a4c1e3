"""Where the suite of the `Log` and `Acceptor` ports runs: one deployment for each adapter.

A test is a coroutine function of a `Deployment`, decorated with `on_every_log`. All that is particular to
an adapter lies here; the tests know the ports alone.
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import uvloop

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.ports.acceptor import Acceptor
from atlas.ports.clock import Clock
from atlas.ports.log import Batch, Log, NewRecord, Reader, Record, TopicPartition
from tests.kafka.control import Control
from tests.kafka.namespace import NamespacedLog
from tests.kafka_broker import shared_broker
from tests.virtual_time import VirtualClock, pass_time, run_virtual

#: Real seconds in which a thing that happens "at once" must have happened, on the slowest machine.
AT_ONCE_S: Final = 10.0
#: A time-out that a test waits out.
SHORT_S: Final = 0.02


class AcceptingLog(Log, Acceptor, Protocol):
    """An adapter of both ports over one log."""


Test = Callable[["Deployment"], Coroutine[Any, Any, None]]


class Deployment(ABC):
    """A log that can be closed and opened again, and the clock it lives by."""

    log: AcceptingLog
    clock: Clock

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._topics = 0

    @abstractmethod
    def run(self, test: Test) -> None:
        """Open the log, run the test on a loop of its own, close the log."""

    @abstractmethod
    async def open(self) -> None:
        """Set `log`: a new client of the same log as before."""

    @abstractmethod
    async def tick(self) -> None:
        """Let the clock move on by a millisecond or more."""

    async def reopen(self) -> None:
        await self.log.close()
        await self.open()

    async def topic(self, partitions: int = 1) -> str:
        """A new topic, empty."""
        self._topics += 1
        name = f"conformance-{self._topics}"
        await self.log.create_topic(name, partitions, None)
        return name

    async def _run(self, test: Test) -> None:
        await self.open()
        try:
            await test(self)
        finally:
            await self.log.close()


class EmbeddedThreads(Deployment):
    """As in production: a writing thread, reading threads, uvloop, the machine's clock."""

    def run(self, test: Test) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self.clock = SystemClock()
            runner.run(self._run(test))

    async def open(self) -> None:
        self.log = await EmbeddedLog.open(self.directory / "log.db", self.clock)

    async def tick(self) -> None:
        before = self.clock.now_ms()
        while self.clock.now_ms() == before:  # noqa: ASYNC110  # nothing tells when the machine's clock moves
            await asyncio.sleep(0)


class EmbeddedInline(Deployment):
    """As in simulations: everything on one loop, in virtual time."""

    def run(self, test: Test) -> None:
        async def main(clock: VirtualClock) -> None:
            self.clock = clock
            await self._run(test)

        run_virtual(main)

    async def open(self) -> None:
        self.log = await EmbeddedLog.open(self.directory / "log.db", self.clock, threads=False)

    async def tick(self) -> None:
        await pass_time(0.001)


class Kafka(Deployment):
    """A real broker, shared with all other tests: topics and groups carry a name of this deployment's own."""

    def run(self, test: Test) -> None:
        self._settings = KafkaSettings(bootstrap=shared_broker(), shards=4)
        self._name = f"conformance-{uuid.uuid4().hex[:12]}-"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self.clock = SystemClock()
            runner.run(self._run(test))

    async def open(self) -> None:
        log = await KafkaLog.open(self._settings, self.clock)
        names = NamespacedLog(log, self._name)
        control = await Control.open(names, self.clock)
        path = self.directory / "keys.db"
        acceptor = await KafkaAcceptor.open(log, path, self.clock, control.producers)
        await acceptor.recovered()
        self.log = names.accepting(acceptor, control)

    async def tick(self) -> None:
        before = self.clock.now_ms()
        while self.clock.now_ms() == before:  # noqa: ASYNC110  # nothing tells when the machine's clock moves
            await asyncio.sleep(0)


DEPLOYMENTS: Final[dict[str, type[Deployment]]] = {
    "embedded-threads": EmbeddedThreads,
    "embedded-inline": EmbeddedInline,
    "kafka": Kafka,
}


#: A test that says when a record lands, to the turn: on Kafka a key is looked up first.
NOT_FOR: Final = {("kafka", "test_replays_and_conflicts_leave_offsets_alone")}


def on_every_log(test: Test) -> Callable[..., None]:
    """Decorator: the coroutine function is a test, run on every deployment."""

    kinds = [kind for kind in DEPLOYMENTS if (kind, test.__name__) not in NOT_FOR]

    @pytest.mark.parametrize("kind", kinds)
    def run(kind: str, tmp_path: Path) -> None:
        DEPLOYMENTS[kind](tmp_path).run(test)

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    run.__module__ = test.__module__
    return run


# --- what tests of a log say again and again


def records(*values: bytes | str) -> list[NewRecord]:
    return [NewRecord(value.encode() if isinstance(value, str) else value) for value in values]


def numbered(count: int, first: int = 0) -> list[NewRecord]:
    return records(*(f"{number}" for number in range(first, first + count)))


def values(found: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in found]


async def read_all(log: Log, source: TopicPartition, position: int = 0) -> list[Record]:
    """Everything the partition holds from that position on, through a reader of its own."""
    reader = log.reader()
    reader.assign({source: position})
    end = (await log.end_offsets([source]))[source]
    found: list[Record] = []
    while reader.position(source) < end:
        for batch in await reader.poll(500, AT_ONCE_S):
            found.extend(batch.records)
    await reader.close()
    return found


async def drain(reader: Reader, records_max: int = 1_000) -> list[Batch]:
    """Poll until there is nothing more just now."""
    batches: list[Batch] = []
    while more := await reader.poll(records_max, 0):
        batches.extend(more)
    return batches
