"""The embedded log: adapter of the `Log` and `Acceptor` ports over one SQLite file.

`embedded_writer` commits groups of requests on a thread, `embedded_file` reads on others, and what is
new is kept in memory for readers at the tail. A request past its deadline is told so while its group
goes on: it is then in doubt, and may be sent again with its key. With `threads=False` everything runs
inline on the event loop, for simulations.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from atlas.adapters.embedded_batches import Accept, Append, Committed, Topic, verdict_on
from atlas.adapters.embedded_file import LogFile
from atlas.adapters.embedded_group import Coordinator
from atlas.adapters.embedded_reader import EmbeddedReader
from atlas.adapters.embedded_store import EmbeddedStore
from atlas.adapters.embedded_tail import Tail
from atlas.adapters.embedded_writer import Writer
from atlas.core.errors import LogUnavailable, OffsetOutOfRange, UnknownTopic
from atlas.ports.acceptor import Candidate, Outcome
from atlas.ports.clock import Clock
from atlas.ports.log import Member, NewRecord, Reader, Record, TopicPartition


class EmbeddedLog:
    """See the module. Make one with `open`; one process owns the file."""

    def __init__(self, store: EmbeddedStore, shards: int, clock: Clock, threads: bool) -> None:
        self._store = store
        self._shards = shards
        self._topics = dict(store.topics)
        #: What readers may see: the writer's own ends run ahead of it.
        self._ends = {topic.name: list(topic.ends) for topic in self._topics.values()}
        self._tail = Tail()
        self._readers: dict[EmbeddedReader, None] = {}
        self._coordinator = Coordinator(clock, lambda name: len(self._topic(name).ends))
        self._writer = Writer(store, self._publish, threads)
        self._file = LogFile(store.path, threads)
        self._closing: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path, clock: Clock, *, shards: int = 4, threads: bool = True) -> Self:
        """Open or create the log at `path`, and finish what a crash interrupted.

        Raises:
            LogUnavailable: the file cannot be opened.
        """
        try:
            store = EmbeddedStore(path, clock.now_ms)
        except sqlite3.Error as error:
            raise LogUnavailable(f"the log's file cannot be opened: {error}") from error
        log = cls(store, shards, clock, threads)
        try:
            for topic in store.topics.values():
                for partition, start in enumerate(topic.starts):
                    if start:
                        await log._delete_below(topic, partition, start)
        except LogUnavailable:
            pass  # the disk is full: reads go on, and the next trim takes this up
        return log

    @property
    def shards(self) -> int:
        return self._shards

    @property
    def newest_timestamp_ms(self) -> int:
        """Time of the newest record there ever was: the floor of the clock at start."""
        return self._store.last_timestamp_ms

    # -- writing ------------------------------------------------------------------------------

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        content = Append(self._topic(topic, partition), partition, records)
        offset: int = await self._writer.submit(content, _size(records))
        return offset

    async def accept(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        content = Accept([(self._topic(c.topic, c.partition), c) for c in candidates])
        size = _size([c.record for c in candidates])
        outcomes: list[Outcome] = await self._writer.submit(content, size)
        return outcomes

    async def find(self, dedup_key: bytes, payload_hash: bytes) -> Outcome | None:
        stored = await self._writer.task(lambda: self._store.find_key(dedup_key))
        return None if stored is None else verdict_on(stored, payload_hash)

    async def create_topic(self, topic: str, partitions: int, retention_ms: int | None) -> None:
        made = await self._writer.task(lambda: self._store.create_topic(topic, partitions, retention_ms))
        self._topics[topic] = made
        self._ends.setdefault(topic, [0] * len(made.ends))

    async def store_offsets(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Used by the group's members."""
        rows = list(offsets.items())
        await self._writer.task(lambda: self._store.store_offsets(group, topic, rows))

    async def committed(self, group: str, source: TopicPartition) -> int | None:
        return await self._writer.task(lambda: self._store.stored_offset(group, source))

    async def check(self) -> None:
        await self._writer.task(self._store.probe)

    async def join(self, group: str, topic: str, alone: bool = False) -> Member:
        self._topic(topic)
        number = await self._writer.task(self._store.next_member)
        return self._coordinator.join(group, topic, number, self, alone)

    def _publish(self, committed: Sequence[Committed]) -> None:
        """Called by the writer with what has become durable."""
        for run in committed:
            source = TopicPartition(run.topic.name, run.partition)
            self._ends[run.topic.name][run.partition] = run.next_offset
            self._tail.add(source, run)
            for reader in self._readers:
                reader.appended(source)

    # -- retention ----------------------------------------------------------------------------

    async def delete_records(self, source: TopicPartition, before_offset: int) -> None:
        topic = self._topic(*source)
        before = min(before_offset, self._ends[source.topic][source.partition])
        if before <= topic.starts[source.partition]:
            return
        await self._writer.task(lambda: self._store.set_start(topic, source.partition, before))
        topic.starts[source.partition] = max(before, topic.starts[source.partition])
        await self._delete_below(topic, source.partition, before)

    def not_ready(self) -> str | None:
        """Keys lie in the log's own file: they are as good as it is."""
        return None

    async def expire_keys(self) -> None:
        """Drop idempotency keys whose bucket is over, in bounded steps. To be called now and then.

        Raises:
            LogUnavailable: some are left; call it again later.
        """
        while await self._writer.task(self._store.expire_keys_step):
            pass

    async def _delete_below(self, topic: Topic, partition: int, before_offset: int) -> None:
        while await self._writer.task(lambda: self._store.delete_step(topic, partition, before_offset)):
            pass

    # -- reading ------------------------------------------------------------------------------

    def reader(self) -> Reader:
        made = EmbeddedReader(self, lambda reader: self._readers.pop(reader, None))
        self._readers[made] = None
        return made

    async def fetch(self, source: TopicPartition, offset: int) -> Record:
        start, end = self.bounds(source) or (0, 0)
        if not start <= offset < end:
            raise OffsetOutOfRange(f"{source} holds {start} to {end}, not {offset}")
        records = self.tail(source, offset, 1) or await self.read_file(source, offset, 1)
        if not records or records[0].offset != offset:
            raise OffsetOutOfRange(f"{source} no longer holds {offset}")
        return records[0]

    async def start_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {source: bounds[0] for source in sources if (bounds := self.bounds(source))}

    async def end_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {source: bounds[1] for source in sources if (bounds := self.bounds(source))}

    async def offset_at(self, source: TopicPartition, timestamp_ms: int) -> int:
        topic = self._topic(*source)
        start, end = self.bounds(source) or (0, 0)
        return await self._file.offset_at(topic.id, source.partition, start, end, timestamp_ms)

    def check_open(self) -> None:
        """Raises LogUnavailable once the log is closed."""
        if self._closed:
            raise LogUnavailable("the log is closed")

    def bounds(self, source: TopicPartition) -> tuple[int, int] | None:
        """Start and end offset; None for an unknown partition."""
        self.check_open()
        ends = self._ends.get(source.topic)
        if ends is None or not 0 <= source.partition < len(ends):
            return None
        return self._topics[source.topic].starts[source.partition], ends[source.partition]

    def tail(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record] | None:
        """Records kept in memory, or None."""
        return self._tail.read(source, offset, records_max)

    async def read_file(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record]:
        """Records from the file; fewer than asked for when they are big."""
        topic = self._topic(*source)
        end = self._ends[source.topic][source.partition]
        return await self._file.read(topic.id, source.partition, offset, end, records_max)

    # -- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close the log")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._coordinator.close()
        await self._writer.close()
        self._closed = True
        for reader in self._readers:
            reader.wake()
        await self._file.close()
        self._store.close()  # the last connection: it checkpoints and removes the WAL

    def _topic(self, name: str, partition: int = 0) -> Topic:
        topic = self._topics.get(name)
        if topic is None or not 0 <= partition < len(topic.ends):
            raise UnknownTopic(f"no topic {name!r} with a partition {partition}")
        return topic


def _size(records: Sequence[NewRecord]) -> int:
    return sum(len(record.value or b"") for record in records)
