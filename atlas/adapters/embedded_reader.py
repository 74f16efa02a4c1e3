"""Readers of the embedded log: from memory at the tail, from the file further back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from atlas.adapters.poll_share import poll_share
from atlas.core.errors import OffsetOutOfRange
from atlas.ports.log import Batch, Record, TopicPartition


class Source(Protocol):
    """What a reader needs of the log."""

    def check_open(self) -> None:
        """Raises LogUnavailable once the log is closed."""

    def bounds(self, source: TopicPartition) -> tuple[int, int] | None:
        """Start and end offset, or None for an unknown topic."""

    def tail(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record] | None:
        """Records kept in memory, or None."""

    async def read_file(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record]:
        """Records from the file."""


class EmbeddedReader:
    """Adapter of the `Reader` port. Only one task may poll it; any may assign."""

    def __init__(self, source: Source, on_close: Callable[[EmbeddedReader], None]) -> None:
        self._source = source
        self._on_close = on_close
        self._positions: dict[TopicPartition, int] = {}
        #: Partitions that may have something to return; in turns, the next one first.
        self._ready: dict[TopicPartition, None] = {}
        self._wake = asyncio.Event()

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._positions.update(positions)
        self._ready.update(dict.fromkeys(positions))
        self._wake.set()

    def unassign(self, sources: Iterable[TopicPartition]) -> None:
        for source in sources:
            self._positions.pop(source, None)
            self._ready.pop(source, None)

    def position(self, source: TopicPartition) -> int:
        return self._positions[source]

    def appended(self, source: TopicPartition) -> None:
        """Called by the log: this partition has new records."""
        if source in self._positions:
            self._ready[source] = None
            self._wake.set()

    def wake(self) -> None:
        """Called by the log: look again, whatever it is."""
        self._wake.set()

    async def poll(self, records_max: int, timeout_s: float) -> list[Batch]:
        batches = await self._collect(records_max)
        if batches or timeout_s <= 0:
            return batches
        try:
            async with asyncio.timeout(timeout_s):
                while not batches:
                    await self._wake.wait()
                    batches = await self._collect(records_max)
        except TimeoutError:
            return []
        return batches

    async def _collect(self, records_max: int) -> list[Batch]:
        """Read first, then advance all positions at once: a poll cancelled while it reads loses nothing.

        What was read of a partition assigned anew meanwhile is dropped.
        """
        self._wake.clear()
        self._source.check_open()
        read: list[tuple[int, Batch]] = []
        share = poll_share(records_max, len(self._ready))
        for source in list(self._ready):
            position = self._positions.get(source)
            if records_max <= 0 or position is None:
                continue
            batch = await self._read(source, position, min(share, records_max))
            read.append((position, batch))
            records_max -= len(batch.records)
        return [batch for position, batch in read if self._advance(position, batch)]

    async def _read(self, source: TopicPartition, position: int, records_max: int) -> Batch:
        start, end = self._source.bounds(source) or (position, position)
        if position > end:
            raise OffsetOutOfRange(f"{source} ends at {end}, and was read up to {position}")
        offset = max(position, start)
        records: Sequence[Record] = ()
        if offset < end:
            in_memory = self._source.tail(source, offset, records_max)
            if in_memory is None:
                records = await self._source.read_file(source, offset, records_max)
                start = (self._source.bounds(source) or (start, end))[0]  # trimmed while we read?
            else:
                records = in_memory
        first = records[0].offset if records else max(offset, start)
        next_offset = records[-1].offset + 1 if records else first
        return Batch(source, records, next_offset, position if first > position else None)

    def _advance(self, position: int, batch: Batch) -> bool:
        """Take note of what was read; False when there is nothing in it for the caller."""
        source = batch.source
        if self._positions.get(source) != position:
            return False
        bounds = self._source.bounds(source)
        self._positions[source] = batch.next_offset
        self._ready.pop(source, None)
        if bounds is not None and batch.next_offset < bounds[1]:
            self._ready[source] = None  # to the back: partitions take turns
        return batch.next_offset > position

    async def close(self) -> None:
        self._on_close(self)
