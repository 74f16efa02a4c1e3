"""One fetch: what one broker has at these positions."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Hashable, Mapping
from typing import Any, Final

from aiokafka.protocol.fetch import FetchRequest

from atlas.adapters.kafka_cluster import OFFSET_OUT_OF_RANGE, QUICK, Cluster, by_topic
from atlas.adapters.kafka_errors import is_passing, raise_code
from atlas.adapters.kafka_offsets import END, START, list_offsets
from atlas.adapters.kafka_records import Chunk
from atlas.adapters.kafka_settings import BACKOFF_S
from atlas.core.errors import UnknownTopic
from atlas.ports.log import Record, TopicPartition

#: Of one response; a record larger than that comes all the same, alone.
FETCH_BYTES_MAX: Final = 4 * 1024 * 1024
PARTITION_BYTES_MAX: Final = 1024 * 1024
_READ_UNCOMMITTED: Final = 0


class Nothing(enum.Enum):
    """Why there is no chunk."""

    YET = "at the end"
    HERE = "not to be read here now: ask again a little later"
    BEYOND = "beyond the end"


Found = Chunk | Nothing


async def fetch(
    cluster: Cluster,
    node: int,
    positions: Mapping[TopicPartition, int],
    wait_s: float,
    connection: Hashable,
) -> dict[TopicPartition, Found]:
    """Ask the broker that leads these partitions.

    A position below the log's start is moved up to it, and the chunk tells so.

    Args:
        wait_s: it answers at the latest after this, or at the first record.

    Raises:
        KafkaError: it cannot be reached, or refused for good.
    """
    answers = await _request(cluster, node, positions, wait_s, connection)
    found: dict[TopicPartition, Found] = {}
    for source, (code, data) in answers.items():
        if code == OFFSET_OUT_OF_RANGE:
            found[source] = await _after_gap(cluster, node, source, positions[source], connection)
        elif is_passing(code):
            cluster.forget(source.topic)
            found[source] = Nothing.HERE
        else:
            raise_code(code)
            found[source] = _chunk(data, positions[source])
    return found


async def _request(
    cluster: Cluster,
    node: int,
    positions: Mapping[TopicPartition, int],
    wait_s: float,
    connection: Hashable,
) -> dict[TopicPartition, tuple[int, bytes]]:
    topics = by_topic((source, (offset, PARTITION_BYTES_MAX)) for source, offset in positions.items())
    request = FetchRequest(int(wait_s * 1_000), 1, FETCH_BYTES_MAX, _READ_UNCOMMITTED, topics)
    response: Any = await cluster.send(node, request, connection)
    raise_code(getattr(response, "error_code", 0))
    return {
        TopicPartition(topic, row[0]): (row[1], row[-1] or b"")
        for topic, rows in response.topics
        for row in rows
    }


async def _after_gap(
    cluster: Cluster, node: int, source: TopicPartition, position: int, connection: Hashable
) -> Found:
    """The records that come after those trimmed before this reader saw them."""
    start = (await list_offsets(cluster, [source], START)).get(source)
    end = (await list_offsets(cluster, [source], END)).get(source)
    if start is None or end is None or start <= position <= end:
        return Nothing.HERE
    if position > end:
        return Nothing.BEYOND
    answers = await _request(cluster, node, {source: start}, 0, connection)
    code, data = answers[source]
    if code:
        return Nothing.HERE  # trimmed further meanwhile, or led by another
    return Chunk(data, start, gap_from=position)


def _chunk(data: bytes, position: int) -> Found:
    if not data:
        return Nothing.YET
    chunk = Chunk(data, position)
    return Nothing.YET if chunk.is_empty and chunk.next_offset == position else chunk


async def read_one(cluster: Cluster, source: TopicPartition, offset: int) -> Record | None:
    """The record at this offset; None when it is not there."""
    while True:
        leaders = await cluster.by_leader([source])
        if not leaders and await cluster.partitions(source.topic) <= source.partition:
            raise UnknownTopic(f"no partition {source}")
        for node in leaders:
            code, data = (await _request(cluster, node, {source: offset}, 0, QUICK))[source]
            if code == OFFSET_OUT_OF_RANGE:
                return None
            if not is_passing(code):
                raise_code(code)
                records = Chunk(data, offset).take(1)
                return records[0] if records and records[0].offset == offset else None
            cluster.forget(source.topic)
        await asyncio.sleep(BACKOFF_S)
