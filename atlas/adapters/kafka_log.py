"""The log on Apache Kafka: adapter of the `Log` port (design sections 4 and 5).

`kafka_producer` appends, `kafka_reader` reads, `kafka_group` holds memberships, and `kafka_cluster` carries
every other request. Every await ends within a deadline stated here or in one of them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

import structlog

from atlas.adapters.kafka_cluster import Cluster
from atlas.adapters.kafka_errors import within
from atlas.adapters.kafka_fetch import read_one
from atlas.adapters.kafka_group import COMMIT_DEADLINE_S, KafkaMember
from atlas.adapters.kafka_offsets import END, START, list_offsets, store_offsets, stored_offset
from atlas.adapters.kafka_producer import KafkaProducer
from atlas.adapters.kafka_reader import KafkaReader
from atlas.adapters.kafka_settings import REQUEST_TIMEOUT_S, KafkaSettings
from atlas.adapters.kafka_topics import Topics
from atlas.adapters.sole_member import SoleMember
from atlas.core.errors import LogError, LogUnavailable, OffsetOutOfRange, UnknownTopic
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.clock import Clock
from atlas.ports.log import Member, NewRecord, Reader, Record, TopicPartition

OPEN_DEADLINE_S: Final = 15.0
READ_DEADLINE_S: Final = 5.0
#: Creating a topic waits for every broker to know it.
ADMIN_DEADLINE_S: Final = 15.0
#: A log whose appends have been waiting for longer than this takes none.
STALLED_S: Final = REQUEST_TIMEOUT_S

log_line = structlog.get_logger()


class KafkaLog:
    """See the module. Make one with `open`.

    Attributes:
        cluster, producer: for the acceptor, which shares them.
        notice: what this cluster cannot give of what was asked for, and what that costs; else empty.
    """

    def __init__(self, settings: KafkaSettings, cluster: Cluster, topics: Topics, clock: Clock) -> None:
        self._settings, self.cluster, self._topics, self._clock = settings, cluster, topics, clock
        self.notice = topics.notice
        self.producer = KafkaProducer(settings)
        self._readers: set[KafkaReader] = set()
        self._members: set[KafkaMember] = set()
        self._calls: set[asyncio.Task[object]] = set()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: KafkaSettings, clock: Clock) -> Self:
        """Connect, and check that the cluster fits the settings.

        Raises:
            LogUnavailable: no broker answers.
            LogError: the brokers refuse our name, or we their certificate; or the lifecycle topic has another
                number of partitions than there are shards.
        """
        cluster = Cluster(settings)
        try:
            async with within(OPEN_DEADLINE_S, "Kafka cannot be reached"):
                await cluster.start()
                partitions = await cluster.partitions(LIFECYCLE_TOPIC)
            if partitions not in {0, settings.shards}:
                raise LogError(
                    f"{LIFECYCLE_TOPIC} has {partitions} partitions, and the settings say {settings.shards} "
                    "shards: their number is fixed when Atlas is installed"
                )
            log = cls(settings, cluster, Topics(cluster, settings), clock)
            await log.producer.start()
        except BaseException:
            await cluster.close()
            raise
        if log.notice:
            log_line.warning("fewer brokers than asked for", notice=log.notice)
        return log

    @property
    def shards(self) -> int:
        return self._settings.shards

    @property
    def cluster_id(self) -> str:
        """Unlike that of any other cluster there ever was."""
        return self.cluster.id

    # -- writing ------------------------------------------------------------------------------

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        source = TopicPartition(topic, partition)
        await self.require(source)
        if not records:
            return (await self.end_offsets([source]))[source]
        return await self.producer.append(source, records)

    async def check(self) -> None:
        async with self._call(READ_DEADLINE_S, "the log is not ready"):
            found = await self.cluster.describe([LIFECYCLE_TOPIC])
        stalled_s = self.producer.stalled_s
        if stalled_s > STALLED_S:
            raise LogUnavailable(f"an append has been waiting for {stalled_s:.0f} s")
        for _, partition, leader, _, in_sync, *_ in found.get(LIFECYCLE_TOPIC, ()):
            if leader < 0 or len(in_sync) < self._topics.min_insync:
                raise LogUnavailable(f"{LIFECYCLE_TOPIC}-{partition} has {len(in_sync)} copies in sync")

    # -- topics and retention -----------------------------------------------------------------

    async def create_topic(self, topic: str, partitions: int, retention_ms: int | None) -> None:
        async with self._call(ADMIN_DEADLINE_S, f"the topic {topic} may not have been made"):
            await self._topics.create(topic, partitions, retention_ms)

    async def delete_records(self, source: TopicPartition, before_offset: int) -> None:
        async with self._call(ADMIN_DEADLINE_S, "records may not have been deleted"):
            known = await self._topics.trim(source, before_offset)
        if not known:
            raise UnknownTopic(f"no partition {source}")

    # -- reading ------------------------------------------------------------------------------

    def reader(self) -> Reader:
        made = KafkaReader(self.cluster, self._readers.discard)
        self._readers.add(made)
        if self._closing is not None:
            made.shut()
        return made

    async def fetch(self, source: TopicPartition, offset: int) -> Record:
        async with self._call(READ_DEADLINE_S, "the record cannot be read"):
            record = await read_one(self.cluster, source, offset)
        if record is None:
            raise OffsetOutOfRange(f"{source} does not hold {offset}")
        return record

    async def start_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._offsets(sources, START)

    async def end_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._offsets(sources, END)

    async def offset_at(self, source: TopicPartition, timestamp_ms: int) -> int:
        async with self._call(READ_DEADLINE_S, "the offset of a time cannot be read"):
            # The end first: a record appended in between is then not skipped.
            ends = await list_offsets(self.cluster, [source], END)
            found = await list_offsets(self.cluster, [source], max(0, timestamp_ms))
        end, at = ends.get(source), found.get(source)
        if end is None:
            raise UnknownTopic(f"no partition {source}")
        return end if at is None else at

    async def _offsets(self, sources: Iterable[TopicPartition], which: int) -> dict[TopicPartition, int]:
        async with self._call(READ_DEADLINE_S, "offsets cannot be read"):
            found = await list_offsets(self.cluster, sources, which)
        return {source: offset for source, offset in found.items() if offset is not None}

    # -- groups -------------------------------------------------------------------------------

    async def join(self, group: str, topic: str, alone: bool = False) -> Member:
        await self.require(TopicPartition(topic, 0))
        if alone:
            return await self._join_alone(group, topic)
        member = KafkaMember(self._settings, group, topic, self._clock)
        self._members.add(member)
        return member

    async def _join_alone(self, group: str, topic: str) -> Member:
        async with self._call(READ_DEADLINE_S, "the topic cannot be looked up"):
            partitions = await self.cluster.partitions(topic)

        async def store(offsets: Mapping[int, int]) -> None:
            rows = {TopicPartition(topic, partition): offset for partition, offset in offsets.items()}
            async with self._call(COMMIT_DEADLINE_S, "the offsets were not stored"):
                await store_offsets(self.cluster, group, rows)

        return SoleMember(f"{group}-{uuid.uuid4().hex}", partitions, store)

    async def committed(self, group: str, source: TopicPartition) -> int | None:
        async with self._call(READ_DEADLINE_S, "the stored offset cannot be read"):
            return await stored_offset(self.cluster, group, source)

    # -- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close the log")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for reader in self._readers:
            reader.shut()
        leaving = [asyncio.create_task(member.leave()) for member in self._members]
        await self.producer.close()
        if self._calls or leaving:
            await asyncio.wait([*self._calls, *leaving], timeout=READ_DEADLINE_S)
        await self.cluster.close()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise LogUnavailable("the log is closed")

    async def require(self, source: TopicPartition) -> None:
        """Make sure of a partition before something is sent there.

        Raises:
            UnknownTopic: there is none.
            LogUnavailable: nobody can tell.
        """
        self._check_open()
        if self.cluster.leader(source) is not None:
            return
        async with self._call(READ_DEADLINE_S, "the topic cannot be looked up"):
            partitions = await self.cluster.partitions(source.topic)
            if not 0 <= source.partition < partitions:
                await self.cluster.refresh([source.topic])
                partitions = await self.cluster.partitions(source.topic)
        if not 0 <= source.partition < partitions:
            raise UnknownTopic(f"no topic {source.topic!r} with a partition {source.partition}")

    @asynccontextmanager
    async def _call(self, deadline_s: float, what: str) -> AsyncIterator[None]:
        """One call of the port: refused once closed, waited for by `close`, bounded, errors translated."""
        self._check_open()
        task = asyncio.current_task()
        outermost = task is not None and task not in self._calls
        if task is not None:
            self._calls.add(task)
        try:
            async with within(deadline_s, what):
                yield
        finally:
            if task is not None and outermost:
                self._calls.discard(task)
