"""A log under a name of its own, so that tests that share a broker do not meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import msgspec

from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.ports.acceptor import Candidate, Outcome
from atlas.ports.log import Batch, Log, Member, NewRecord, Reader, Record, TopicPartition
from tests.kafka.control import Control


class NamespacedLog:
    """The same log with `prefix` before every topic and group."""

    def __init__(self, log: Log, prefix: str) -> None:
        self._log, self._prefix = log, prefix
        self._acceptor: KafkaAcceptor | None = None
        self._control: Control | None = None

    def accepting(self, acceptor: KafkaAcceptor, control: Control) -> Self:
        """Be the acceptor's port too; they are closed with it."""
        self._acceptor, self._control = acceptor, control
        return self

    def _in(self, source: TopicPartition) -> TopicPartition:
        return TopicPartition(self._prefix + source.topic, source.partition)

    def _out(self, source: TopicPartition) -> TopicPartition:
        return TopicPartition(source.topic.removeprefix(self._prefix), source.partition)

    @property
    def shards(self) -> int:
        return self._log.shards

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        return await self._log.append(self._prefix + topic, partition, records)

    async def fetch(self, source: TopicPartition, offset: int) -> Record:
        return await self._log.fetch(self._in(source), offset)

    def reader(self) -> Reader:
        return _NamespacedReader(self._log.reader(), self)

    async def start_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        found = await self._log.start_offsets(self._in(source) for source in sources)
        return {self._out(source): offset for source, offset in found.items()}

    async def end_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        found = await self._log.end_offsets(self._in(source) for source in sources)
        return {self._out(source): offset for source, offset in found.items()}

    async def offset_at(self, source: TopicPartition, timestamp_ms: int) -> int:
        return await self._log.offset_at(self._in(source), timestamp_ms)

    async def create_topic(self, topic: str, partitions: int, retention_ms: int | None) -> None:
        await self._log.create_topic(self._prefix + topic, partitions, retention_ms)

    async def delete_records(self, source: TopicPartition, before_offset: int) -> None:
        await self._log.delete_records(self._in(source), before_offset)

    async def join(self, group: str, topic: str, alone: bool = False) -> Member:
        return await self._log.join(self._prefix + group, self._prefix + topic, alone)

    async def committed(self, group: str, source: TopicPartition) -> int | None:
        return await self._log.committed(self._prefix + group, self._in(source))

    async def check(self) -> None:
        await self._log.check()

    async def close(self) -> None:
        if self._acceptor is not None:
            await self._acceptor.close()
        if self._control is not None:
            await self._control.close()
        await self._log.close()

    async def accept(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        assert self._acceptor is not None
        return await self._acceptor.accept(
            [msgspec.structs.replace(one, topic=self._prefix + one.topic) for one in candidates]
        )

    async def find(self, dedup_key: bytes, payload_hash: bytes) -> Outcome | None:
        assert self._acceptor is not None
        return await self._acceptor.find(dedup_key, payload_hash)


class _NamespacedReader:
    def __init__(self, reader: Reader, names: NamespacedLog) -> None:
        self._reader, self._names = reader, names

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._reader.assign({self._names._in(source): at for source, at in positions.items()})

    def unassign(self, sources: Iterable[TopicPartition]) -> None:
        self._reader.unassign([self._names._in(source) for source in sources])

    def position(self, source: TopicPartition) -> int:
        return self._reader.position(self._names._in(source))

    async def poll(self, records_max: int, timeout_s: float) -> list[Batch]:
        batches = await self._reader.poll(records_max, timeout_s)
        return [msgspec.structs.replace(batch, source=self._names._out(batch.source)) for batch in batches]

    async def close(self) -> None:
        await self._reader.close()
