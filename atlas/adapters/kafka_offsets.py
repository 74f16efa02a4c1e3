"""Where partitions begin and end, where a time lies in them, and what groups have stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest

from atlas.adapters.kafka_cluster import Answer, Cluster, by_topic
from atlas.adapters.kafka_errors import raise_code
from atlas.adapters.kafka_settings import BACKOFF_S
from atlas.ports.log import TopicPartition

#: Times with a meaning of their own (Kafka protocol guide, ListOffsets).
END: Final = -1
START: Final = -2
#: As an offset: there is none. As a generation: the sender is no member.
_NONE: Final = -1


async def list_offsets(
    cluster: Cluster, sources: Iterable[TopicPartition], timestamp_ms: int
) -> dict[TopicPartition, int | None]:
    """Offset of each partition's first record of that time or later, or its `START` or `END`.

    None where no record is as young; unknown partitions are left out.
    """

    def build(own: list[TopicPartition]) -> OffsetRequest:
        return OffsetRequest(-1, 0, by_topic((source, (timestamp_ms,)) for source in own))

    def parse(response: Any) -> Iterator[Answer[int | None]]:
        for topic, partitions in response.topics:
            for partition, code, _, offset, *_ in partitions:
                yield TopicPartition(topic, partition), code, None if offset == _NONE else offset

    return await cluster.ask_leaders(sources, build, parse)


async def stored_offset(cluster: Cluster, group: str, source: TopicPartition) -> int | None:
    """A group's next offset of a partition, or None.

    The very first use of a cluster's groups takes a second: Kafka makes the topic that holds them.
    """
    request = OffsetFetchRequest(group, [(source.topic, [source.partition])])
    while True:
        try:
            response = await cluster.send(await cluster.coordinator(group), request)
            raise_code(response.error_code)
            [(_, [(_, offset, _, code)])] = response.topics
            raise_code(code)
            return None if offset == _NONE else int(offset)
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(BACKOFF_S)


async def store_offsets(cluster: Cluster, group: str, offsets: Mapping[TopicPartition, int]) -> None:
    """Store a group's next offsets as somebody who is no member of it: taken while the group has none."""
    rows = by_topic((source, (offset, "")) for source, offset in offsets.items())
    request = OffsetCommitRequest(group, _NONE, "", OffsetCommitRequest.DEFAULT_RETENTION_TIME, rows)
    while True:
        try:
            response = await cluster.send(await cluster.coordinator(group), request)
            for _, partitions in response.topics:
                for _, code in partitions:
                    raise_code(code)
            return
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(BACKOFF_S)
