"""Readers of the embedded log when the log moves under them."""

from __future__ import annotations

from collections.abc import Sequence

from atlas.adapters.embedded_reader import EmbeddedReader
from atlas.ports.log import Batch, Record, TopicPartition

SOURCE = TopicPartition("t", 0)


class Trimmed:
    """A log of 10 records whose start moves to `start_then` while somebody reads its file."""

    def __init__(self, start_then: int, read: Sequence[int]) -> None:
        self.start, self.start_then, self.offsets = 0, start_then, read

    def check_open(self) -> None:
        pass

    def bounds(self, source: TopicPartition) -> tuple[int, int] | None:
        return self.start, 10

    def tail(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record] | None:
        return None

    async def read_file(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record]:
        self.start = self.start_then
        return [Record(offset, 0, b"") for offset in self.offsets]


async def poll(log: Trimmed, position: int) -> list[Batch]:
    reader = EmbeddedReader(log, lambda _: None)
    reader.assign({SOURCE: position})
    return await reader.poll(100, 0)


async def test_all_that_was_asked_for_is_trimmed_while_it_is_read() -> None:
    [batch] = await poll(Trimmed(10, ()), 2)
    assert (len(batch.records), batch.gap_from, batch.next_offset) == (0, 2, 10)


async def test_some_is_trimmed_before_it_is_read() -> None:
    [batch] = await poll(Trimmed(5, range(5, 10)), 2)
    assert (batch.gap_from, batch.records[0].offset, batch.next_offset) == (2, 5, 10)


async def test_some_is_trimmed_after_it_was_read() -> None:
    [batch] = await poll(Trimmed(5, range(2, 10)), 2)
    assert (batch.gap_from, batch.records[0].offset, batch.next_offset) == (None, 2, 10)
