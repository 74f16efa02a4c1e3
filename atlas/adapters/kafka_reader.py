"""Readers: positions in any number of partitions, without a group.

One fetch for each leader is always under way while there is room, so that records are here before they are
asked for. It waits at the broker until there is something; a partition assigned meanwhile is fetched beside
it, on another connection. Nothing moves a position but `poll` and `assign`: a poll that is cancelled loses
nothing, and what was fetched for a position that has moved since is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Final

from aiokafka.errors import KafkaError

from atlas.adapters.kafka_cluster import Cluster
from atlas.adapters.kafka_errors import unavailable, within
from atlas.adapters.kafka_fetch import Found, Nothing, fetch
from atlas.adapters.kafka_records import Chunk
from atlas.adapters.poll_share import poll_share
from atlas.core.errors import LogError, LogUnavailable, OffsetOutOfRange
from atlas.ports.log import Batch, TopicPartition

#: A fetch waits this long at the broker.
FETCH_WAIT_S: Final = 0.5
#: A poll that does not wait asks every leader once, within this.
LOOK_MAX_S: Final = 5.0
#: Fetched and not yet taken; no fetch is started past it.
BUFFERED_BYTES_MAX: Final = 16 * 1024 * 1024
#: Fetches under way to one broker, each on a connection of its own.
FETCHES_PER_BROKER_MAX: Final = 3
#: A position that lies beyond the end for so long lies there for good: leaders that change have settled.
BEYOND_S: Final = 1.0
#: A partition that cannot be read just now (no leader, no topic yet) is left alone for this long.
RETRY_S: Final = 0.2

_numbers: Final = count()


class KafkaReader:
    """Adapter of the `Reader` port. Only one task may poll it; any may assign."""

    def __init__(self, cluster: Cluster, on_close: Callable[[KafkaReader], None]) -> None:
        self._cluster, self._on_close = cluster, on_close
        self._name = f"reader {next(_numbers)}"
        #: The partitions take turns: who was served goes to the end.
        self._positions: dict[TopicPartition, int] = {}
        self._chunks: dict[TopicPartition, Chunk] = {}
        self._fetching: set[TopicPartition] = set()
        self._resting: set[TopicPartition] = set()
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._learning: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._failure: LogError | None = None
        #: Since when a partition's position has been found beyond the end.
        self._beyond_s: dict[TopicPartition, float] = {}
        self._closed = False

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._positions.update(positions)
        for source in positions:
            self._beyond_s.pop(source, None)
        self._wake.set()

    def unassign(self, sources: Iterable[TopicPartition]) -> None:
        for source in sources:
            self._positions.pop(source, None)
            self._chunks.pop(source, None)

    def position(self, source: TopicPartition) -> int:
        return self._positions[source]

    async def poll(self, records_max: int, timeout_s: float) -> list[Batch]:
        self._check_open()
        batches = self._take(records_max)
        if not batches and timeout_s <= 0:
            await self._look()
            self._check_open()
            batches = self._take(records_max)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while not batches and asyncio.get_running_loop().time() < deadline_s:
            self._wake.clear()
            self._start_fetches()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._wake.wait()
            except TimeoutError:
                break
            self._check_open()
            batches = self._take(records_max)
        self._start_fetches()
        return batches

    async def close(self) -> None:
        self._on_close(self)
        self.shut()

    def shut(self) -> None:
        """Stop reading; a poll under way, and every later one, says that the log is closed."""
        self._closed = True
        for task in [*self._tasks.values(), self._learning]:
            if task is not None:
                task.cancel()
        self._wake.set()

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed")

    # -- handing out --------------------------------------------------------------------------

    def _take(self, records_max: int) -> list[Batch]:
        """What is here, up to so many records, in turns."""
        batches: list[Batch] = []
        here = [source for source in self._positions if source in self._chunks]
        share = poll_share(records_max, len(here))
        for source in here:
            if records_max <= 0:
                break
            chunk = self._chunks[source]
            if chunk.position != self._positions[source]:
                del self._chunks[source]
                continue
            gap_from, records = chunk.gap_from, chunk.take(min(share, records_max))
            if chunk.is_empty:
                del self._chunks[source]
            records_max -= len(records)
            del self._positions[source]
            self._positions[source] = chunk.next_offset
            if records or gap_from is not None:
                batches.append(Batch(source, records, chunk.next_offset, gap_from))
        if not batches and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return batches

    def _keep(self, found: Mapping[TopicPartition, Found]) -> None:
        """Note what a fetch found; other fetches may have been quicker."""
        for source, what in found.items():
            if what is Nothing.BEYOND:
                self._note_beyond(source)
                continue
            self._beyond_s.pop(source, None)
            if isinstance(what, Chunk):
                moved = self._positions.get(source) != what.position
                if not moved and source not in self._chunks:
                    self._chunks[source] = what
            elif what is Nothing.HERE:
                self._rest(source)

    def _note_beyond(self, source: TopicPartition) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._beyond_s.setdefault(source, now_s) >= BEYOND_S and source in self._positions:
            position = self._positions[source]
            self._failure = OffsetOutOfRange(f"{source} was read up to {position}, beyond its end")
        self._rest(source)

    # -- fetching -----------------------------------------------------------------------------

    async def _look(self) -> None:
        """Ask every leader once, without waiting for records to come."""
        wanted = {source: at for source, at in self._positions.items() if source not in self._chunks}
        try:
            async with within(LOOK_MAX_S, "the log cannot be read"):
                leaders = await self._cluster.by_leader(wanted)
                asked = (
                    fetch(self._cluster, node, {source: wanted[source] for source in own}, 0, self._name)
                    for node, own in leaders.items()
                )
                for found in await asyncio.gather(*asked):
                    self._keep(found)
        except LogUnavailable:
            if not self._closed:
                raise

    def _start_fetches(self) -> None:
        if self._closed or sum(chunk.size_bytes for chunk in self._chunks.values()) > BUFFERED_BYTES_MAX:
            return
        busy = self._fetching | self._resting | self._chunks.keys()
        by_leader: dict[int, list[TopicPartition]] = {}
        unknown: set[str] = set()
        for source in self._positions:
            if source not in busy:
                leader = self._cluster.leader(source)
                if leader is None:
                    unknown.add(source.topic)
                    self._rest(source)
                else:
                    by_leader.setdefault(leader, []).append(source)
        if unknown and self._learning is None:
            self._learning = asyncio.create_task(self._learn(unknown), name=f"{self._name} metadata")
        for leader, sources in by_leader.items():
            self._start_fetch(leader, sources)

    def _start_fetch(self, leader: int, sources: list[TopicPartition]) -> None:
        for slot in range(FETCHES_PER_BROKER_MAX):
            if (leader, slot) not in self._tasks:
                positions = {source: self._positions[source] for source in sources}
                self._fetching.update(sources)
                task = asyncio.create_task(self._fetch(leader, slot, positions), name=f"{self._name} fetch")
                self._tasks[leader, slot] = task
                return

    async def _fetch(self, leader: int, slot: int, positions: Mapping[TopicPartition, int]) -> None:
        try:
            connection = f"{self._name}/{slot}"
            self._keep(await fetch(self._cluster, leader, positions, FETCH_WAIT_S, connection))
        except (KafkaError, OSError, TimeoutError) as error:
            self._failure = unavailable("the log cannot be read", error)
            for source in positions:
                self._cluster.forget(source.topic)
                self._rest(source)
        finally:
            self._fetching.difference_update(positions)
            del self._tasks[leader, slot]
            self._wake.set()

    async def _learn(self, topics: set[str]) -> None:
        """Ask who leads these topics."""
        try:
            async with within(LOOK_MAX_S, "the log cannot be read"):
                await self._cluster.refresh(topics)
        except LogUnavailable as error:
            self._failure = error
        finally:
            self._learning = None
            self._resting -= {source for source in self._resting if self._cluster.leader(source) is not None}
            self._wake.set()

    def _rest(self, source: TopicPartition) -> None:
        if source not in self._resting:
            self._resting.add(source)
            asyncio.get_running_loop().call_later(RETRY_S, self._rested, source)

    def _rested(self, source: TopicPartition) -> None:
        self._resting.discard(source)
        self._wake.set()
