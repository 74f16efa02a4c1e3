"""What one group commit of the embedded log carries: offsets, verdicts and rows, put together in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.log import NewRecord, Record

#: Records of one partition in one row, at most: bounds what reading one record costs.
BATCH_BYTES_MAX: Final = 256 * 1024
BATCH_RECORDS_MAX: Final = 1_000

_Packed = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
_pack = msgspec.msgpack.Encoder().encode
_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_unpack = msgspec.msgpack.Decoder(_Packed).decode


class Topic:
    """A topic's identity and, per partition, where its log starts, and where it ends for the writer."""

    def __init__(self, topic_id: int, name: str, partitions: int, retention_ms: int | None) -> None:
        self.id = topic_id
        self.name = name
        self.retention_ms = retention_ms
        self.starts = [0] * partitions
        self.ends = [0] * partitions


class Append(msgspec.Struct, frozen=True):
    """Append these records in one piece."""

    topic: Topic
    partition: int
    records: Sequence[NewRecord]


class Accept(msgspec.Struct, frozen=True):
    """Decide and append these candidates, each to the topic beside it."""

    candidates: Sequence[tuple[Topic, Candidate]]


class Committed(msgspec.Struct, frozen=True):
    """One partition's run of records in a finished group."""

    topic: Topic
    partition: int
    base_offset: int
    timestamp_ms: int
    records: Sequence[NewRecord]

    @property
    def next_offset(self) -> int:
        """Offset after the last record."""
        return self.base_offset + len(self.records)

    def row(self) -> tuple[Any, ...]:
        """Values of the `batch` table's columns."""
        body = _pack([(record.key, record.value, record.headers) for record in self.records])
        count = len(self.records)
        return (self.topic.id, self.partition, self.base_offset, count, self.timestamp_ms, body)


class Group(msgspec.Struct, frozen=True):
    """What a group commit did: a result for each request, in order, and what was appended."""

    results: Sequence[int | list[Outcome]]
    committed: Sequence[Committed]


class GroupWriting:
    """Offsets and verdicts of one group while it is put together."""

    def __init__(self, timestamp_ms: int) -> None:
        self.timestamp_ms = timestamp_ms
        self.known: dict[bytes, tuple[bytes, bytes]] = {}
        self.new_keys: list[tuple[bytes, bytes, bytes]] = []
        self._pending: dict[tuple[int, int], tuple[Topic, list[NewRecord]]] = {}

    def append(self, topic: Topic, partition: int, records: Sequence[NewRecord]) -> int:
        """Put records at the end of what the group appends there; returns their first offset."""
        slot = self._pending.get((topic.id, partition))
        if slot is None:
            slot = self._pending[topic.id, partition] = (topic, [])
        base_offset = topic.ends[partition] + len(slot[1])
        slot[1].extend(records)
        return base_offset

    def accept(self, topic: Topic, candidate: Candidate) -> Outcome:
        """Decide one candidate by the keys known, those of this group among them."""
        key = candidate.dedup_key
        if key is not None:
            stored = self.known.get(key)
            if stored is not None:
                return verdict_on(stored, candidate.payload_hash)
            self.known[key] = (candidate.payload_hash, candidate.response)
            self.new_keys.append((key, candidate.payload_hash, candidate.response))
        self.append(topic, candidate.partition, (candidate.record,))
        return Outcome(Verdict.APPENDED, candidate.response)

    def committed(self) -> list[Committed]:
        """The runs of records that the group appends."""
        runs: list[Committed] = []
        for (_, partition), (topic, records) in self._pending.items():
            base_offset = topic.ends[partition]
            for run in _runs(records):
                runs.append(Committed(topic, partition, base_offset, self.timestamp_ms, run))
                base_offset += len(run)
        return runs


def verdict_on(stored: tuple[bytes, bytes], payload_hash: bytes) -> Outcome:
    """The outcome for a key that is taken, with this (payload hash, response)."""
    if stored[0] != payload_hash:
        return Outcome(Verdict.CONFLICT)
    return Outcome(Verdict.REPLAYED, stored[1])


def unpack(base_offset: int, timestamp_ms: int, body: bytes, offset: int, end: int) -> list[Record]:
    """The records of a `batch` row from `offset` on and below `end`; not an object is made of the others."""
    skip = max(0, offset - base_offset)
    packed = _split(body)[skip : max(0, end - base_offset)]
    return [
        Record(at, timestamp_ms, value, key, headers)
        for at, (key, value, headers) in enumerate(map(_unpack, packed), base_offset + skip)
    ]


def _runs(records: list[NewRecord]) -> Iterator[list[NewRecord]]:
    run: list[NewRecord] = []
    size = 0
    for record in records:
        length = len(record.value or b"")
        if run and (size + length > BATCH_BYTES_MAX or len(run) == BATCH_RECORDS_MAX):
            yield run
            run, size = [], 0
        run.append(record)
        size += length
    if run:
        yield run
