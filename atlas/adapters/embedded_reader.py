"""Readers of the embedded log: from memory at the tail, from the file further back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from atlas.ports.log import Batch, Record, TopicPartition


class Source(Protocol):
    """What a reader needs of the log."""

    def bounds(self, source: TopicPartition) -> tuple[int, int] | None:
        """Start and end offset, or None for an unknown topic."""

    def tail(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record] | None:
        """Records kept in memory, or None."""

    async def read_file(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record]:
        """Records from the file."""


class EmbeddedReader:
    """Adapter of the `Reader` port. Not for use by two tasks at once."""

    def __init__(self, source: Source, on_close: Callable[[EmbeddedReader], None]) -> None:
        self._source = source
        self._on_close = on_close
        self._positions: dict[TopicPartition, int] = {}
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
        self._wake.clear()
        batches: list[Batch] = []
        exhausted: list[TopicPartition] = []
        for source in list(self._ready):
            if records_max <= 0:
                break
            batch = await self._read(source, records_max)
            if batch is None:
                exhausted.append(source)
            else:
                batches.append(batch)
                records_max -= len(batch.records)
        self._move(batches, exhausted)
        return batches

    async def _read(self, source: TopicPartition, records_max: int) -> Batch | None:
        bounds = self._source.bounds(source)
        position = self._positions.get(source)
        if bounds is None or position is None:
            return None
        start, end = bounds
        gap_from = position if position < start else None
        offset = max(position, start)
        if offset >= end:
            return None if gap_from is None else Batch(source, (), offset, gap_from)
        records = self._source.tail(source, offset, records_max)
        if records is None:
            records = await self._source.read_file(source, offset, records_max)
        if records and records[0].offset > offset:  # trimmed while we read
            gap_from = position
        next_offset = records[-1].offset + 1 if records else offset
        return Batch(source, records, next_offset, gap_from) if records or gap_from is not None else None

    def _move(self, batches: list[Batch], exhausted: list[TopicPartition]) -> None:
        """Advance all positions at once, so that a cancelled poll loses nothing."""
        for source in exhausted:
            self._forget_if_done(source)
        for batch in batches:
            if batch.source in self._positions:
                self._positions[batch.source] = batch.next_offset
                self._ready.pop(batch.source, None)
                self._ready[batch.source] = None  # to the back: partitions take turns
                self._forget_if_done(batch.source)

    def _forget_if_done(self, source: TopicPartition) -> None:
        bounds = self._source.bounds(source)
        if bounds is None or self._positions.get(source, bounds[1]) >= bounds[1]:
            self._ready.pop(source, None)

    async def close(self) -> None:
        self._on_close(self)


