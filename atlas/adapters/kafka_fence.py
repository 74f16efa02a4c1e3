"""Doubt resolved: what a producer that is gone left behind in a partition, and nothing more after it.

Scanning to the current end is not enough: a request of the dead producer may still be on the wire and land
after the scan (tried: two records). So the partition's leader is first told of a newer epoch of the same
producer id, by a record that carries it: from then on it refuses the old one there. Whatever landed lies
before that record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from atlas.adapters.kafka_cluster import Answer, Cluster, by_topic
from atlas.adapters.kafka_errors import within
from atlas.adapters.kafka_offsets import END, list_offsets
from atlas.adapters.kafka_producer import Owner
from atlas.adapters.kafka_settings import REQUEST_TIMEOUT_S
from atlas.core.errors import LogUnavailable
from atlas.core.facts import FENCE_KEY, FENCE_SCHEMA, SCHEMA_HEADER, FenceRecord, encode
from atlas.ports.log import Log, NewRecord, Record, TopicPartition

FENCE_DEADLINE_S: Final = 10.0
#: Reading what lies between: bounded, and begun anew by whoever asks next.
SCAN_DEADLINE_S: Final = 60.0
DIGEST_BYTES: Final = 16
_ALL: Final = -1
_BATCH_BYTES_MAX: Final = 4_096
#: The leader has seen this fence already, or a newer one: DUPLICATE_SEQUENCE_NUMBER and
#: INVALID_PRODUCER_EPOCH (Kafka protocol guide, "Error codes").
_SHUT_OUT: Final = {46, 47}


def digest(record: NewRecord | Record) -> bytes:
    """Names a record by what is in it."""
    key, value = record.key, record.value
    text = b"-" if key is None else b"%d:%b" % (len(key), key)
    text += b"-" if value is None else b"%d:%b" % (len(value), value)
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


async def fence(
    cluster: Cluster, owner: Owner, sources: Iterable[TopicPartition]
) -> dict[TopicPartition, int]:
    """Shut that producer out of the partitions; everything it ever wrote lies below the offsets returned.

    Partitions that are not there, as every broker says, are left out.

    Raises:
        LogUnavailable: it is not known to be shut out of each.
    """
    sources = set(sources)

    def build(own: list[TopicPartition]) -> ProduceRequest:
        rows = by_topic((source, (batch,)) for source in own)
        return ProduceRequest(None, _ALL, int(REQUEST_TIMEOUT_S * 1_000), rows)

    def parse(response: Any) -> Iterator[Answer[None]]:
        for topic, partitions in response.topics:
            for partition, code, *_ in partitions:
                yield TopicPartition(topic, partition), 0 if code in _SHUT_OUT else code, None

    batch = _batch(owner)
    async with within(FENCE_DEADLINE_S, "a producer could not be fenced"):
        fenced = await cluster.ask_leaders(sources, build, parse)
        await _confirm_absent(cluster, sources - fenced.keys())
        found = await list_offsets(cluster, fenced, END)
    ends = {source: end for source, end in found.items() if end is not None}
    if ends.keys() != fenced.keys():
        raise LogUnavailable("a partition's end cannot be read")
    return ends


async def _confirm_absent(cluster: Cluster, sources: Collection[TopicPartition]) -> None:
    """Have every broker say so: one that is cut off from the others knows of no newer topic.

    Raises:
        LogUnavailable: one of them knows such a partition.
    """
    for node in cluster.nodes() if sources else ():
        there = await cluster.describe({source.topic for source in sources}, node)
        for topic, partition in sources:
            rows = there.get(topic)
            if rows is not None and (not rows or any(row[1] == partition for row in rows)):
                raise LogUnavailable(f"the brokers do not agree on whether there is {topic}")


async def landed(
    log: Log, source: TopicPartition, digests: Collection[bytes], first_offset: int, end_offset: int
) -> set[bytes]:
    """Which of these records lie in [first_offset, end_offset). What was trimmed there is not.

    Raises:
        LogUnavailable: it could not be read to the end.
    """
    found: set[bytes] = set()
    reader = log.reader()
    try:
        reader.assign({source: first_offset})
        async with within(SCAN_DEADLINE_S, "a partition could not be searched"):
            while reader.position(source) < end_offset and len(found) < len(digests):
                for batch in await reader.poll(500, REQUEST_TIMEOUT_S):
                    names = {digest(record) for record in batch.records if record.offset < end_offset}
                    found |= names & set(digests)
    finally:
        await reader.close()
    return found


def _batch(owner: Owner) -> bytes:
    """One record with the producer's next epoch: its first there, so its sequence starts at 0."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=owner.producer_id,
        producer_epoch=owner.epoch + 1,
        base_sequence=0,
        batch_size=_BATCH_BYTES_MAX,
    )
    value = encode(FenceRecord(producer_id=owner.producer_id, epoch=owner.epoch + 1))
    builder.append(0, None, FENCE_KEY, value, [(SCHEMA_HEADER, FENCE_SCHEMA)])
    return bytes(builder.build())
