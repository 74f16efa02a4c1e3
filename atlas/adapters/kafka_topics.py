"""Topics: created with their settings, altered, trimmed, and looked at before the first append."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteRecordsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from atlas.adapters.kafka_cluster import Answer, Cluster, by_topic
from atlas.adapters.kafka_errors import is_passing, raise_code
from atlas.adapters.kafka_offsets import END, list_offsets
from atlas.adapters.kafka_settings import BACKOFF_S, REQUEST_TIMEOUT_S, KafkaSettings
from atlas.core.errors import TopicRefused
from atlas.ports.log import TopicPartition

#: The largest batch a topic takes: a request of 8 MiB becomes one, with what its envelopes add.
APPEND_BYTES_MAX: Final = 16 * 1024 * 1024
#: Records go by whole segments: with this, at most a day late.
SEGMENT_MS_MAX: Final = 86_400_000
_FOREVER: Final = -1
_TOPIC_EXISTS: Final = 36
_TOPIC_RESOURCE: Final = 2
_SET: Final = 0
_REQUEST_TIMEOUT_MS: Final = int(REQUEST_TIMEOUT_S * 1_000)


def topic_settings(retention_ms: int | None, min_insync: int) -> dict[str, str]:
    """What Atlas sets on each of its topics (design section 5).

    Args:
        retention_ms: None: records stay for ever.
    """
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(_FOREVER if retention_ms is None else retention_ms),
        "retention.bytes": str(_FOREVER),
        "segment.ms": str(SEGMENT_MS_MAX),
        "max.message.bytes": str(APPEND_BYTES_MAX),
        "min.insync.replicas": str(min_insync),
        "unclean.leader.election.enable": "false",
    }


def durability(settings: KafkaSettings, brokers: int) -> tuple[int, int, str]:
    """Replication and `min.insync.replicas` on that many brokers, and what is lost if it is less than asked.

    Durability goes before availability: the second falls only when it must.
    """
    replication = min(settings.replication, brokers)
    min_insync = min(settings.min_insync, replication)
    if replication == settings.replication:
        return replication, min_insync, ""
    cost = (
        "an acknowledged event lives in one broker's memory until its disk has it: "
        "a power cut can lose it, a lost disk loses everything"
        if replication == 1
        else f"it takes no event while fewer than {min_insync} of them run"
    )
    notice = (
        f"Kafka has {brokers} of {settings.replication} brokers asked for: new topics get {replication} "
        f"{'copy' if replication == 1 else 'copies'} and min.insync.replicas {min_insync}; {cost}"
    )
    return replication, min_insync, notice


class Topics:
    """Creates and alters topics. Errors are aiokafka's, or `TopicRefused`, which will not pass."""

    def __init__(self, cluster: Cluster, settings: KafkaSettings) -> None:
        self._cluster, self._settings = cluster, settings
        self.replication, self.min_insync, self.notice = durability(settings, len(cluster.nodes()))

    async def create(self, topic: str, partitions: int, retention_ms: int | None) -> None:
        """Create the topic and wait until every broker knows it, or set the settings of the one there is.

        Raises:
            TopicRefused: it is refused for good, or there is one with another number of partitions.
        """
        settings = topic_settings(retention_ms, self.min_insync)
        while True:
            code = await self._create(topic, partitions, settings)
            if code == _TOPIC_EXISTS:
                await self._check_partitions(topic, partitions)
                # By the copies that it has, not by the brokers that happen to run.
                _, min_insync, _ = durability(self._settings, await self._copies(topic))
                await self._alter(topic, topic_settings(retention_ms, min_insync))
                return
            if code == 0:
                await self._await_everywhere(topic, partitions)
                return
            if not is_passing(code):
                raise TopicRefused(f"the topic {topic} is refused: {for_code(code).__name__}")
            await asyncio.sleep(BACKOFF_S)

    async def trim(self, source: TopicPartition, before_offset: int) -> bool:
        """Drop records below the offset, or all where it lies beyond the end. False: unknown partition."""
        ends = await list_offsets(self._cluster, [source], END)
        before = min(before_offset, ends.get(source) or 0)

        def build(own: list[TopicPartition]) -> DeleteRecordsRequest:
            return DeleteRecordsRequest(by_topic((each, (before,)) for each in own), _REQUEST_TIMEOUT_MS)

        def parse(response: Any) -> Iterator[Answer[int]]:
            for topic, rows, *_ in response.topics:
                for partition, low_watermark, code, *_ in rows:
                    yield TopicPartition(topic, partition), code, low_watermark

        return bool(await self._cluster.ask_leaders([source], build, parse))

    async def _create(self, topic: str, partitions: int, settings: Mapping[str, str]) -> int:
        row: tuple[Any, ...] = (topic, partitions, self.replication, [], list(settings.items()))
        request = CreateTopicsRequest([row], _REQUEST_TIMEOUT_MS, False)
        response = await self._send_to_any(request)
        [(_, code, *_)] = response.topic_errors  # it raises nothing: errors are in here
        return int(code)

    async def _alter(self, topic: str, settings: Mapping[str, str]) -> None:
        changes = [(name, _SET, value) for name, value in settings.items()]
        response = await self._send_to_any(_AlterRequest([(_TOPIC_RESOURCE, topic, changes)]))
        for code, *_ in response.responses:
            if code and not is_passing(code):
                raise TopicRefused(f"the settings of {topic} are refused: {for_code(code).__name__}")
            raise_code(code)

    async def _send_to_any(self, request: Any) -> Any:
        """With KRaft every broker passes such requests on to the controller."""
        while True:
            for node in self._cluster.nodes():
                try:
                    return await self._cluster.send(node, request)
                except KafkaError as error:
                    if not error.retriable:
                        raise
            await asyncio.sleep(BACKOFF_S)

    async def _check_partitions(self, topic: str, partitions: int) -> None:
        self._cluster.forget(topic)
        found = await self._cluster.partitions(topic)
        if found and found != partitions:
            raise TopicRefused(
                f"the topic {topic} has {found} partitions where {partitions} are asked for: the number of "
                "shards is fixed when Atlas is installed"
            )

    async def _copies(self, topic: str) -> int:
        while True:
            rows = (await self._cluster.describe([topic])).get(topic, ())
            if rows:
                return min(len(replicas) for _, _, _, replicas, *_ in rows)
            await asyncio.sleep(BACKOFF_S)

    async def _await_everywhere(self, topic: str, partitions: int) -> None:
        for node in self._cluster.nodes():
            while True:
                found = await self._cluster.describe([topic], node)
                if _is_ready(found.get(topic, ()), partitions):
                    break
                await asyncio.sleep(BACKOFF_S / 10)
        await self._cluster.refresh([topic])


def _is_ready(rows: Any, partitions: int) -> bool:
    return len(rows) == partitions and all(code == 0 and leader >= 0 for code, _, leader, *_ in rows)


# IncrementalAlterConfigs (KIP-339), which aiokafka lacks. AlterConfigs, which it has, puts every setting it
# is not told back to its default: an operator's own would be lost.


class _AlterResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "responses",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class _AlterRequestV0(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _AlterResponse
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                (
                    "configs",
                    Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8"))),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class _AlterRequest(Request[_AlterRequestV0]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY: ClassVar[int] = 44

    def __init__(self, resources: list[tuple[int, str, list[tuple[str, int, str]]]]) -> None:
        self._resources = resources

    def build(self, request_struct_class: type[_AlterRequestV0]) -> _AlterRequestV0:
        return request_struct_class(self._resources, False)
