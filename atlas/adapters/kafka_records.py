"""Record batches as they come from a broker, made into records a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.record import MemoryRecords

from atlas.ports.log import Record


class Chunk:
    """What one fetch found in one partition, not yet handed out.

    A foreign batch that cannot be read (an unknown codec, a header name that is no UTF-8) must stop nobody:
    its records come out empty, at their offsets, for the consumer to put aside.

    Attributes:
        position: where a reader must stand to take the next record.
        next_offset: where it stands after everything taken so far.
        gap_from: set when the records between it and the first one here are gone.
    """

    def __init__(self, data: bytes, position: int, gap_from: int | None = None) -> None:
        self.size_bytes = len(data)
        self.next_offset = position
        self.gap_from = gap_from
        self.position = position if gap_from is None else gap_from
        self._records = self._decode(MemoryRecords(data), position)
        self._ahead = next(self._records, None)

    @property
    def is_empty(self) -> bool:
        """Whether there is no record left."""
        return self._ahead is None

    def take(self, records_max: int) -> list[Record]:
        """The next records; `next_offset` moves on."""
        taken: list[Record] = []
        if self._ahead is not None:
            taken.append(self._ahead)
            taken += islice(self._records, records_max - 1)
            self._ahead = next(self._records, None)
        if taken and self._ahead is not None:
            self.next_offset = taken[-1].offset + 1
        self.gap_from = None
        self.position = self.next_offset
        return taken

    def _decode(self, batches: Any, position: int) -> Iterator[Record]:
        while batches.has_next():
            batch = batches.next_batch()
            if not batch.is_control_batch:
                for record in _records_of(batch):
                    if record.offset >= position:
                        yield record
            # Compaction and control batches leave holes, at the end of a chunk too.
            self.next_offset = max(position, batch.next_offset)


def _records_of(batch: Any) -> Iterator[Record]:
    if not batch.validate_crc():
        raise CorruptRecordException(f"the batch at {batch.base_offset} does not match its checksum")
    expected = batch.base_offset
    try:
        for found in batch:
            yield Record(
                found.offset,
                found.timestamp,
                found.value,
                found.key,
                tuple((name, value or b"") for name, value in found.headers),
            )
            expected = found.offset + 1
    except (KafkaError, ValueError, RuntimeError):
        for offset in range(expected, batch.next_offset):
            yield Record(offset, batch.max_timestamp, None)
