"""The raw topics, read and written past Atlas's adapter with aiokafka as any foreign client would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from tests.invariants_history import LogRecord

READ_MAX_S: Final = 60.0
SCHEMA_HEADER: Final = "atlas-schema"
_OURS: Final = "atlas."
_POLL_MS: Final = 200


class Place(NamedTuple):
    """Where one record lies."""

    topic: str
    partition: int
    offset: int


class Foreign(NamedTuple):
    """A record as a foreign client writes it."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None
    schema: bytes | None = None


async def read_topics(bootstrap: str) -> dict[Place, LogRecord]:
    """Every record that the topics of Atlas hold now, by topic, partition and offset."""
    async with admin(bootstrap) as client:
        topics = [topic for topic in await client.list_topics() if topic.startswith(_OURS)]
        described = await client.describe_topics(topics)
    sources = [
        TopicPartition(each["topic"], partition["partition"])
        for each in described
        for partition in each["partitions"]
    ]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    async with asyncio.timeout(READ_MAX_S):
        await consumer.start()
        try:
            return await _read(consumer, sources)
        finally:
            await consumer.stop()


async def _read(consumer: Any, sources: Sequence[TopicPartition]) -> dict[Place, LogRecord]:
    consumer.assign(sources)
    starts, ends = await consumer.beginning_offsets(sources), await consumer.end_offsets(sources)
    for source in sources:
        consumer.seek(source, starts[source])
    left = {source for source in sources if starts[source] < ends[source]}
    found: dict[Place, LogRecord] = {}
    while left:
        for source, records in (await consumer.getmany(*left, timeout_ms=_POLL_MS)).items():
            found |= {Place(source.topic, source.partition, each.offset): _record(each) for each in records}
        left = {source for source in left if await consumer.position(source) < ends[source]}
    return dict(sorted(found.items()))


def _record(found: Any) -> LogRecord:
    return LogRecord(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        timestamp_ms=found.timestamp,
        schema=dict(found.headers).get(SCHEMA_HEADER, b"").decode(),
        value=found.value or b"",
    )


async def write(bootstrap: str, records: Iterable[Foreign]) -> list[Place]:
    """Append records; returns where they lie."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    async with asyncio.timeout(READ_MAX_S):
        await producer.start()
        try:
            sent = [await _send(producer, record) for record in records]
            return [Place(each.topic, each.partition, each.offset) for each in await asyncio.gather(*sent)]
        finally:
            await producer.stop()


async def _send(producer: Any, record: Foreign) -> Any:
    headers = [] if record.schema is None else [(SCHEMA_HEADER, record.schema)]
    return await producer.send(
        record.topic, record.value, record.key, partition=record.partition, headers=headers
    )


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    async with asyncio.timeout(READ_MAX_S):
        await client.start()
        try:
            yield client
        finally:
            await client.close()


async def delete_records(bootstrap: str, before: Mapping[tuple[str, int], int]) -> None:
    """Delete what lies below these offsets, by topic and partition."""
    async with admin(bootstrap) as client:
        rows = {TopicPartition(*source): RecordsToDelete(offset) for source, offset in before.items()}
        await client.delete_records(rows)


async def committed(bootstrap: str, group: str) -> dict[tuple[str, int], int]:
    """The offsets that a group has stored."""
    async with admin(bootstrap) as client:
        found = await client.list_consumer_group_offsets(group)
        return {tuple(source): each.offset for source, each in found.items()}
