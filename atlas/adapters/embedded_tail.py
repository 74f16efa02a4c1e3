"""The newest records, in memory: readers at the tail never touch the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from atlas.adapters.embedded_batches import Committed
from atlas.ports.log import Record, TopicPartition

#: Bytes of record values kept over all partitions.
TAIL_BYTES_MAX: Final = 8 * 1024 * 1024
#: Charged for each record besides its value.
_RECORD_OVERHEAD_BYTES: Final = 200


class Tail:
    """Runs of records by partition, the oldest dropped first once the bound is reached."""

    def __init__(self, bytes_max: int = TAIL_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._runs: dict[TopicPartition, deque[Committed]] = {}
        self._age: deque[tuple[TopicPartition, int]] = deque()

    def add(self, source: TopicPartition, run: Committed) -> None:
        """Keep a run that has just become durable."""
        size = sum(len(record.value or b"") + _RECORD_OVERHEAD_BYTES for record in run.records)
        self._runs.setdefault(source, deque()).append(run)
        self._age.append((source, size))
        self._bytes += size
        while self._bytes > self._bytes_max:
            oldest, dropped = self._age.popleft()
            self._runs[oldest].popleft()
            if not self._runs[oldest]:
                del self._runs[oldest]
            self._bytes -= dropped

    def read(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record] | None:
        """Records from `offset` on; None when the oldest run kept begins after it."""
        runs = self._runs.get(source)
        if not runs or runs[0].base_offset > offset:
            return None
        first = len(runs)
        while first and runs[first - 1].next_offset > offset:
            first -= 1
        found: list[Record] = []
        for run in islice(runs, first, None):
            skip = max(0, offset - run.base_offset)
            wanted = run.records[skip : skip + records_max - len(found)]
            found += [
                Record(offset, run.timestamp_ms, record.value, record.key, record.headers)
                for offset, record in enumerate(wanted, run.base_offset + skip)
            ]
            if len(found) >= records_max:
                break
        return found
