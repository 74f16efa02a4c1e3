"""What lies in Kafka: settings of our topics, and what foreign clients may have put into them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSecurity, KafkaSettings
from atlas.adapters.kafka_topics import APPEND_BYTES_MAX, durability
from atlas.adapters.system_clock import SystemClock
from atlas.core.errors import LogUnavailable, TopicRefused
from atlas.ports.log import NewRecord, TopicPartition
from tests.conformance.log_deployments import AT_ONCE_S, numbered, read_all, records, values
from tests.kafka.installation import READY_MAX_S
from tests.kafka_broker import shared_broker
from tests.processes import POLL_S

DAY_MS = 86_400_000


class Place:
    """A topic of a test's own on the shared broker."""

    def __init__(self, log: KafkaLog, bootstrap: str) -> None:
        self.log, self.bootstrap = log, bootstrap
        self.topic = f"contents-{uuid.uuid4().hex}"
        self.source = TopicPartition(self.topic, 0)

    async def read(self) -> list[bytes | None]:
        return values(await read_all(self.log, self.source))

    async def foreign(self, send: Callable[[Any], Awaitable[Any]], **options: Any) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, **options)
        await producer.start()
        try:
            await send(producer)
        finally:
            await producer.stop()

    async def settings(self) -> dict[str, str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            [found] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, self.topic)])
        finally:
            await admin.close()
        return {row[0]: row[1] for row in found.resources[0][4]}

    async def alter_as_operator(self, **changes: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, self.topic, changes)])
        finally:
            await admin.close()


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    bootstrap = shared_broker()
    log = await KafkaLog.open(KafkaSettings(bootstrap=bootstrap), SystemClock())
    try:
        yield Place(log, bootstrap)
    finally:
        await log.close()


# --- topics


async def test_a_topic_has_the_settings_of_the_design() -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 2, 17 * DAY_MS)
        found = await at.settings()
        assert found["message.timestamp.type"] == "LogAppendTime"
        assert found["cleanup.policy"] == "delete"
        assert found["retention.ms"] == str(17 * DAY_MS)
        assert int(found["segment.ms"]) <= DAY_MS
        assert found["min.insync.replicas"] == "1"  # there is one broker


async def test_retention_is_altered_and_an_operators_setting_stays() -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 1, None)
        assert (await at.settings())["retention.ms"] == "-1"
        await at.alter_as_operator(**{"flush.messages": "77"})
        await at.log.create_topic(at.topic, 1, 5 * DAY_MS)
        found = await at.settings()
        assert (found["retention.ms"], found["flush.messages"]) == (str(5 * DAY_MS), "77")
        assert found["message.timestamp.type"] == "LogAppendTime"


async def test_a_topic_with_another_number_of_partitions_is_refused() -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 2, None)
        with pytest.raises(TopicRefused, match="has 2 partitions where 3"):
            await at.log.create_topic(at.topic, 3, None)


async def test_an_error_inside_the_response_is_raised() -> None:
    async with place() as at:
        with pytest.raises(TopicRefused, match="InvalidTopic"):
            await at.log.create_topic("no/such/name", 1, None)
        with pytest.raises(TopicRefused, match="InvalidPartitions"):
            await at.log.create_topic(at.topic, 0, None)


async def test_a_new_topic_reaches_readers_already_waiting_within_a_second() -> None:
    async with place() as at:
        other = await KafkaLog.open(KafkaSettings(bootstrap=at.bootstrap), SystemClock())
        reader = other.reader()
        reader.assign({at.source: 0})
        waiting = asyncio.create_task(reader.poll(10, AT_ONCE_S))
        await asyncio.sleep(0)
        await at.log.create_topic(at.topic, 1, None)
        async with asyncio.timeout(1):
            await at.log.append(at.topic, 0, records("first"))
            [batch] = await waiting
        assert values(batch.records) == [b"first"]
        await other.close()


@pytest.mark.parametrize(
    ("brokers", "expected", "said"),
    [(1, (1, 1), "power cut"), (2, (2, 2), "fewer than 2"), (3, (3, 2), ""), (9, (3, 2), "")],
)
def test_a_smaller_cluster_is_told_what_it_costs(brokers: int, expected: tuple[int, int], said: str) -> None:
    replication, min_insync, notice = durability(KafkaSettings(bootstrap="x"), brokers)
    assert (replication, min_insync) == expected
    assert said in notice
    assert bool(notice) == bool(said)


def test_a_password_is_not_shown() -> None:
    settings = KafkaSettings(bootstrap="x", security=KafkaSecurity(username="u", password="secret-word"))
    assert "secret-word" not in f"{settings!r} {settings} {settings.security}"
    assert settings.client_options()["sasl_plain_password"] == "secret-word"


# --- appends


async def test_the_largest_append_and_one_past_it() -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 1, None)
        overhead = 96
        value = bytes(APPEND_BYTES_MAX // 2 - overhead)
        assert await at.log.append(at.topic, 0, records(value, value)) == 0
        with pytest.raises(LogUnavailable, match="in one piece"):
            await at.log.append(at.topic, 0, records(value, value + b"x"))
        assert await at.log.append(at.topic, 0, records("small")) == 2
        assert await at.read() == [value, value, b"small"]


# --- what foreign clients write


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_records_are_read(codec: str) -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 1, None)

        async def send(producer: Any) -> None:
            for number in range(50):
                await producer.send(at.topic, b"%d" % number * 100, partition=0)

        await at.foreign(send, compression_type=codec, linger_ms=50)
        assert await at.read() == [b"%d" % number * 100 for number in range(50)]


async def test_transactions_leave_holes_that_no_reader_stumbles_over() -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 1, None)

        async def send(producer: Any) -> None:
            for value in (b"one", b"two"):
                async with producer.transaction():
                    await producer.send(at.topic, value, partition=0)

        await at.foreign(send, transactional_id=at.topic)
        end = await end_at_last(at, 4)  # two of them are markers, which the broker writes after its answer
        assert await at.read() == [b"one", b"two"]
        reader = at.log.reader()
        reader.assign({at.source: 0})
        while reader.position(at.source) < end:
            await reader.poll(1, 0)
        assert await reader.poll(1, 0) == []
        await at.log.append(at.topic, 0, records("three"))
        [batch] = await reader.poll(1, AT_ONCE_S)
        assert (batch.gap_from, values(batch.records)) == (None, [b"three"])


async def end_at_last(at: Place, end: int) -> int:
    async with asyncio.timeout(READY_MAX_S):
        while (await at.log.end_offsets([at.source]))[at.source] < end:  # noqa: ASYNC110  # Kafka tells nobody
            await asyncio.sleep(POLL_S)
    return (await at.log.end_offsets([at.source]))[at.source]


async def test_a_record_that_cannot_be_decoded_comes_out_empty_and_stops_nobody() -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 1, None)
        await at.log.append(at.topic, 0, numbered(2))
        await produce_raw(at, undecodable())
        await at.log.append(at.topic, 0, numbered(1, 4))
        assert await at.read() == [b"0", b"1", None, None, b"4"]
        assert (await at.log.fetch(at.source, 3)).value is None


async def test_a_header_without_a_value_is_an_empty_one() -> None:
    async with place() as at:
        await at.log.create_topic(at.topic, 1, None)

        async def send(producer: Any) -> None:
            await producer.send(at.topic, b"v", partition=0, headers=[("h", None)])

        await at.foreign(send)
        found = await at.log.fetch(at.source, 0)
        assert NewRecord(found.value, found.key, found.headers) == NewRecord(b"v", None, (("h", b""),))


def undecodable() -> bytes:
    """Two records whose header's name is no UTF-8; the checksum holds."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    for offset in range(2):
        builder.append(offset, 0, None, b"foreign", [("@@@@", b"x")])
    batch = bytearray(bytes(builder.build()).replace(b"@@@@", b"\xff\xfe\xff\xfe"))
    batch[17:21] = calc_crc32c(batch[21:]).to_bytes(4, "big")
    return bytes(batch)


async def produce_raw(at: Place, batch: bytes) -> None:
    cluster = at.log.cluster
    await cluster.partitions(at.topic)
    node = cluster.leader(at.source)
    assert node is not None
    response = await cluster.send(node, ProduceRequest(None, -1, 5_000, [(at.topic, [(0, batch)])]))
    assert response.topics[0][1][0][1] == 0
