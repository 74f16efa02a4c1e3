"""The log on Kafka while its broker dies, hangs, refuses and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from atlas.adapters import kafka_producer
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.core.errors import LogError, LogUnavailable
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.log import TopicPartition
from scripts.kafka_lib.broker import Broker
from tests.conformance.log_deployments import numbered, read_all, records, values
from tests.kafka_broker import own_broker
from tests.processes import POLL_S

pytestmark = [pytest.mark.slow]
#: After the broker answers again, everything works again within this.
RECOVERY_MAX_S = 30.0


@pytest.fixture(scope="module")
def module_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = own_broker(tmp_path_factory.mktemp("faults"))
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def broker(module_broker: Broker) -> Iterator[Broker]:
    module_broker.start()
    yield module_broker
    module_broker.resume()


def settings(broker: Broker, shards: int = 4) -> KafkaSettings:
    return KafkaSettings(bootstrap=broker.bootstrap(), shards=shards)


@asynccontextmanager
async def opened(broker: Broker) -> AsyncIterator[KafkaLog]:
    log = await KafkaLog.open(settings(broker), SystemClock())
    try:
        yield log
    finally:
        await log.close()


async def append_until_it_works(log: KafkaLog, topic: str) -> int:
    async with asyncio.timeout(RECOVERY_MAX_S):
        while True:
            try:
                return await log.append(topic, 0, records("again"))
            except LogUnavailable:
                continue


class Producers:
    """Several at once, each remembering what it was told."""

    def __init__(self, log: KafkaLog, topic: str) -> None:
        self.told: dict[int, bytes] = {}
        self.sent: set[bytes] = set()
        self.going = True
        self._log, self._topic = log, topic
        self._tasks = [asyncio.create_task(self._produce(name)) for name in range(8)]

    async def _produce(self, name: int) -> None:
        turn = 0
        while self.going:
            value = b"%d/%d" % (name, turn)
            turn += 1
            self.sent.add(value)
            try:
                self.told[await self._log.append(self._topic, 0, records(value))] = value
            except LogUnavailable:
                await asyncio.sleep(POLL_S)

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(RECOVERY_MAX_S):
            while len(self.told) < count:  # noqa: ASYNC110  # nothing else tells
                await asyncio.sleep(POLL_S)

    async def end(self) -> None:
        self.going = False
        await asyncio.gather(*self._tasks)


async def test_a_broker_killed_under_load_loses_and_doubles_nothing(broker: Broker) -> None:
    async with opened(broker) as log:
        await log.create_topic("killed", 1, None)
        source = TopicPartition("killed", 0)
        member = await log.join("killed-group", "killed")
        await member.assignment_changed(frozenset())
        producers = Producers(log, "killed")
        await producers.reach(500)
        broker.kill()
        with pytest.raises(LogUnavailable):
            await log.check()
        await asyncio.to_thread(broker.start)
        await producers.reach(len(producers.told) + 500)
        await producers.end()
        found = values(await read_all(log, source))
        assert {offset: found[offset] for offset in producers.told} == producers.told
        assert len(set(found)) == len(found)
        assert set(found) <= producers.sent
        await log.check()
        async with asyncio.timeout(RECOVERY_MAX_S):
            while member.heartbeat_age_s() > 1 or member.assignment() != {0}:  # noqa: ASYNC110  # nothing else tells
                await asyncio.sleep(POLL_S)
        await member.commit({0: 7})
        assert await log.committed("killed-group", source) == 7


async def test_a_reader_goes_on_where_it_stood_when_the_broker_is_back(broker: Broker) -> None:
    async with opened(broker) as log:
        await log.create_topic("read-on", 2, None)
        sources = [TopicPartition("read-on", partition) for partition in range(2)]
        reader = log.reader()
        reader.assign(dict.fromkeys(sources, 0))
        for partition in range(2):
            await log.append("read-on", partition, numbered(10))
        seen: list[tuple[int, int]] = []
        told = False

        async def read(count: int) -> None:
            nonlocal told
            async with asyncio.timeout(RECOVERY_MAX_S):
                while len(seen) < count:
                    try:
                        for batch in await reader.poll(7, 1.0):
                            assert batch.gap_from is None
                            seen.extend((batch.source.partition, record.offset) for record in batch.records)
                    except LogUnavailable:
                        told = True
                        await asyncio.sleep(POLL_S)

        await read(20)
        broker.kill()
        reading = asyncio.create_task(read(40))
        await asyncio.to_thread(broker.start)
        for partition in range(2):
            async with asyncio.timeout(RECOVERY_MAX_S):
                await log.append("read-on", partition, numbered(10))
        await reading
        assert told
        assert sorted(seen) == [(partition, offset) for partition in range(2) for offset in range(20)]


async def test_a_deadline_is_the_callers_and_the_batch_lands_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(broker) as log:
        await log.create_topic("paused", 1, None)
        assert await log.append("paused", 0, records("before")) == 0
        member = await log.join("paused-group", "paused")
        await member.assignment_changed(frozenset())
        monkeypatch.setattr(kafka_producer, "DEADLINE_S", 1.0)
        broker.pause()
        appends = [asyncio.create_task(log.append("paused", 0, records(f"{n}"))) for n in range(20)]
        async with asyncio.timeout(3):
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [LogUnavailable] * 20
        assert member.heartbeat_age_s() > 0.9
        broker.resume()
        offset = await append_until_it_works(log, "paused")
        found = values(await read_all(log, TopicPartition("paused", 0)))
        assert found[offset] == b"again"
        once = [value for value in found if value != b"again"]
        assert once == [b"before", *(b"%d" % n for n in range(20))]


async def test_what_is_outstanding_is_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_producer, "OUTSTANDING_BYTES_MAX", 1_000_000)
    value = bytes(100_000 - 96)  # with its overhead a tenth of the bound
    async with opened(broker) as log:
        await log.create_topic("bounded", 1, None)
        await log.append("bounded", 0, records("known"))
        broker.pause()
        waiting = [asyncio.create_task(log.append("bounded", 0, records(value))) for _ in range(10)]
        await asyncio.sleep(0)
        for turn in waiting:
            assert not turn.done()
        with pytest.raises(LogUnavailable, match="too much"):
            await log.append("bounded", 0, records(b""))
        broker.resume()
        await asyncio.gather(*waiting)
        await log.append("bounded", 0, records(value))


async def test_a_batch_that_is_refused_does_not_stop_the_next(broker: Broker) -> None:
    """Its producer's sequence is broken by then: the broker would refuse everything after it."""
    async with opened(broker) as log:
        await log.create_topic("refused", 1, None)
        await log.append("refused", 0, numbered(3))
        await log._topics._alter("refused", {"max.message.bytes": "1000"})
        with pytest.raises(LogUnavailable, match="in doubt"):
            await log.append("refused", 0, records(bytes(2_000)))
        assert await log.append("refused", 0, records("next")) == 3
        assert await log.append("refused", 0, records("and next")) == 4


async def test_close_is_bounded_while_the_broker_is_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_producer, "DEADLINE_S", 1.0)
    monkeypatch.setattr(kafka_producer, "_STOP_MAX_S", 1.0)
    for away in (broker.pause, broker.kill):
        broker.start()
        log = await KafkaLog.open(settings(broker), SystemClock())
        await log.create_topic("away", 1, None)
        member = await log.join("away-group", "away")
        await member.assignment_changed(frozenset())
        reader = log.reader()
        reader.assign({TopicPartition("away", 0): 0})
        polling = asyncio.create_task(reader.poll(1, 60))
        away()
        append = asyncio.create_task(log.append("away", 0, records("x")))
        await asyncio.sleep(0)
        async with asyncio.timeout(12):
            await log.close()
        for call in (polling, append):
            with pytest.raises(LogUnavailable):
                await call
        broker.resume()


async def test_nobody_at_the_address_is_said_at_once(broker: Broker) -> None:
    nobody = KafkaSettings(bootstrap="127.0.0.1:1")
    async with asyncio.timeout(5):
        with pytest.raises(LogUnavailable):
            await KafkaLog.open(nobody, SystemClock())


async def test_the_number_of_shards_is_verified_at_the_start(broker: Broker) -> None:
    async with opened(broker) as log:
        await log.create_topic(LIFECYCLE_TOPIC, 4, None)
    with pytest.raises(LogError, match="has 4 partitions, and the settings say 6"):
        await KafkaLog.open(settings(broker, shards=6), SystemClock())
    async with opened(broker) as log:
        with pytest.raises(LogError, match="fixed when Atlas is installed"):
            await log.create_topic(LIFECYCLE_TOPIC, 5, None)
