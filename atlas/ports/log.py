"""The log, as everything above the adapters sees it.

A topic is N partitions; a partition is an append-only sequence of records with gapless-enough, rising
offsets. Adapters: `embedded_log` (SQLite, one process), Apache Kafka. One conformance suite holds for all.

Guarantees every adapter gives:

* `append` returns only when the records are durable (embedded: fsynced; Kafka: acks=all), in one
  piece and in order, and returns the exact offset of the first of them.
* An `append` that raises `LogUnavailable` may still land later: the caller is in doubt.
* A (topic, partition, offset) never shows two values.
* A reader sees durable records only, in offset order, and is woken by an append at once.
* Deadlines belong to callers: every await here ends within the adapter's stated deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class NewRecord(msgspec.Struct, frozen=True, gc=False):
    """A record to append. `value` is None only for a tombstone, which Atlas itself never writes."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as read. `timestamp_ms` is the time of the append, by the log's clock."""

    offset: int
    timestamp_ms: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Batch(msgspec.Struct, frozen=True):
    """What one poll found in one partition.

    `next_offset` is where the reader now stands. `gap_from` is set when records between the old
    position and the first one here were trimmed before this reader saw them; `records` may then
    be empty.
    """

    source: TopicPartition
    records: Sequence[Record]
    next_offset: int
    gap_from: int | None = None


class Reader(Protocol):
    """Positions in any number of partitions, without a group."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Start, or move, reading these partitions at these offsets; keeps all others.

        A partition of a topic that is not there yet may be assigned: its records come once it is.
        """

    def unassign(self, sources: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions."""

    def position(self, source: TopicPartition) -> int:
        """The offset of the next record to be returned."""

    async def poll(self, records_max: int, timeout_s: float) -> list[Batch]:
        """Records from where the reader stands: at once when there are any, else at the first
        append, else an empty list after `timeout_s`. Partitions take turns, so that none starves.

        Raises:
            LogUnavailable: the log cannot be read now; the positions are unchanged.
            OffsetOutOfRange: a position lies beyond the end: the log has lost what was read of it. It does
                so until that is assigned anew.
        """

    async def close(self) -> None:
        """Release what the reader holds."""


class Member(Protocol):
    """One process's membership of a consumer group on one topic."""

    @property
    def id(self) -> str:
        """Unique among all members there ever were."""

    def assignment(self) -> frozenset[int]:
        """The partitions this member holds now."""

    async def assignment_changed(self, seen: frozenset[int]) -> frozenset[int]:
        """Wait until the assignment differs from `seen`; returns the new one."""

    def heartbeat_age_s(self) -> float:
        """Seconds (monotonic) since the group last confirmed this member."""

    @property
    def term(self) -> int:
        """Rises before others can be given what this member holds, other than by its silence, and before
        it is confirmed again after a silence in which they may have been. Within one term, from any
        confirmation to the session time-out after the last one, what it holds has been its alone.
        """

    @property
    def session_timeout_s(self) -> float:
        """After this long without a heartbeat the group gives the partitions to others."""

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Store the group's next offset of partitions held. Refused when they are not held now.

        Raises:
            StaleWriter: the group has taken one of these partitions away.
            LogUnavailable: not stored; nothing is lost, commit again later.
        """

    async def leave(self) -> None:
        """Give the partitions up at once."""


class Log(Protocol):
    """See the module docstring for what every adapter guarantees."""

    @property
    def shards(self) -> int:
        """Partitions of every event topic and of the lifecycle topic; fixed at installation."""

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        """Append in one piece; returns the first record's offset, durable.

        Raises:
            LogUnavailable: not known to have been appended.
            UnknownTopic: there is no such topic or partition.
        """

    async def fetch(self, source: TopicPartition, offset: int) -> Record:
        """Read one record.

        Raises:
            OffsetOutOfRange: it was trimmed, or is not there yet.
            LogUnavailable: the log cannot be read now.
        """

    def reader(self) -> Reader:
        """A new reader, assigned to nothing."""

    async def start_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset of the first record still there. Unknown topics are left out."""

    async def end_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset the next record will get. Unknown topics are left out."""

    async def offset_at(self, source: TopicPartition, timestamp_ms: int) -> int:
        """Offset of the first record appended at or after that time; the end if there is none."""

    async def create_topic(self, topic: str, partitions: int, retention_ms: int | None) -> None:
        """Create the topic, or, if it is there, only set its backstop retention.

        Raises:
            TopicRefused: the log refuses it, or one is there with another number of partitions.
            LogUnavailable: nobody can tell whether it was created; do it again.
        """

    async def delete_records(self, source: TopicPartition, before_offset: int) -> None:
        """Drop records below the offset, in bounded steps that do not hold appends up."""

    async def join(self, group: str, topic: str, alone: bool = False) -> Member:
        """Become a member of a consumer group that shares the topic's partitions.

        Args:
            alone: hold all partitions at once and until `leave`, without the group's protocol; the
                caller has made sure, by a lock, that it is the only one. The offsets are stored as the
                group's; while the group has members, storing them raises `LogUnavailable`.
        """

    async def committed(self, group: str, source: TopicPartition) -> int | None:
        """The group's stored next offset, or None."""

    async def check(self) -> None:
        """Prove that the log can take an append now (used by readiness).

        Raises:
            LogUnavailable: it cannot.
        """

    async def close(self) -> None:
        """Finish what is under way, then release everything."""
