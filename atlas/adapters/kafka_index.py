"""The idempotency index of one gateway on Kafka: a SQLite file beside the log (design section 7).

A key is reserved before its record is sent, in the name of the producer incarnation that sends it, and taken
once the record is known to be in the log. A reservation that outlives its owner is in doubt. Keys taken lie
in `embedded_keys`' tables, dropped a whole one at a time; reservations in a small table of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from atlas.adapters.embedded_keys import KeyBuckets
from atlas.adapters.embedded_sql import insert
from atlas.adapters.kafka_producer import Owner
from atlas.ports.log import TopicPartition

_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "fullfsync=ON", "journal_size_limit=67108864")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS reservation (
    dedup_key BLOB PRIMARY KEY, payload_hash BLOB NOT NULL, response BLOB NOT NULL, digest BLOB NOT NULL,
    topic TEXT NOT NULL, partition INTEGER NOT NULL, noted_offset INTEGER NOT NULL,
    producer_id INTEGER NOT NULL, epoch INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reservation_by_owner ON reservation (producer_id, epoch, topic, partition);
"""
_COLUMNS: Final = (
    "dedup_key", "payload_hash", "response", "digest", "topic", "partition", "noted_offset", "producer_id",
    "epoch",
)  # fmt: skip
_KEYS_AT_ONCE: Final = 500


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """A key about to be used.

    Attributes:
        digest: names the record, so that it is recognised in the log.
        noted_offset: the record lies at or above it, if it landed at all.
        owner: the only one that may send it.
    """

    dedup_key: bytes
    payload_hash: bytes
    response: bytes
    digest: bytes
    source: TopicPartition
    noted_offset: int
    owner: Owner


class Taken(msgspec.Struct, frozen=True, gc=False):
    """The key is used, by a record in the log."""

    payload_hash: bytes
    response: bytes


class KeyIndex:
    """The file. One thread at a time; each call runs in the transaction of whoever calls."""

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in _PRAGMAS:
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        self._buckets = KeyBuckets(self._db)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; durable once it is over."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._buckets = KeyBuckets(self._db)  # it may have counted on a table that is not there now
            raise
        self._db.execute("COMMIT")

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Taken | Reservation]:
        """What is known of these keys; free ones are left out."""
        found: dict[bytes, Taken | Reservation] = {}
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            part = keys[start : start + _KEYS_AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"{_SELECT} WHERE dedup_key IN ({marks})", part)
            found.update((row[0], _reservation(row)) for row in rows)
        found.update((key, Taken(*stored)) for key, stored in self._buckets.find(keys).items())
        return found

    def reserve(self, rows: Sequence[Reservation]) -> dict[bytes, Taken | Reservation]:
        """Reserve those that are free; returns what is known of the others."""
        known = self.find([row.dedup_key for row in rows])
        free = [_row(row) for row in rows if row.dedup_key not in known]
        insert(self._db, "reservation", _COLUMNS, free)
        return known

    def take(self, rows: Sequence[Reservation]) -> None:
        """Their records are in the log."""
        held = self._held(rows)
        self.release(held)
        self._buckets.add([(row.dedup_key, row.payload_hash, row.response) for row in held], self._now_ms())

    def release(self, rows: Iterable[Reservation]) -> None:
        """Their records are not in the log, and never will be."""
        self._db.executemany(
            "DELETE FROM reservation WHERE dedup_key = ? AND producer_id = ? AND epoch = ?",
            [(row.dedup_key, *row.owner) for row in rows],
        )

    def settle(self, rows: Sequence[Reservation], landed: Collection[bytes]) -> None:
        """The doubt about these is over: the records with the digests in `landed` are in the log."""
        self.take([row for row in rows if row.digest in landed])
        self.release([row for row in rows if row.digest not in landed])

    def doubts(self) -> list[tuple[Owner, TopicPartition]]:
        """Who holds reservations, and where."""
        rows = self._db.execute("SELECT DISTINCT producer_id, epoch, topic, partition FROM reservation")
        return [(Owner(*row[:2]), TopicPartition(*row[2:])) for row in rows]

    def reserved_by(self, owner: Owner, source: TopicPartition) -> list[Reservation]:
        """That owner's reservations there."""
        where = "WHERE producer_id = ? AND epoch = ? AND topic = ? AND partition = ?"
        return [_reservation(row) for row in self._db.execute(f"{_SELECT} {where}", (*owner, *source))]

    def expire_step(self) -> bool:
        """Drop some keys whose time is over; False when there are none."""
        number = self._buckets.over(self._now_ms())
        if number is not None:
            self._buckets.expire_step(number)
        return number is not None

    def close(self) -> None:
        """Checkpoint and close the file."""
        self._db.close()

    def _held(self, rows: Sequence[Reservation]) -> list[Reservation]:
        """Those that are still reserved by the owner they name."""
        known = self.find([row.dedup_key for row in rows])
        held = []
        for row in rows:
            current = known.get(row.dedup_key)
            if isinstance(current, Reservation) and current.owner == row.owner:
                held.append(row)
        return held


_SELECT: Final = f"SELECT {','.join(_COLUMNS)} FROM reservation"  # noqa: S608  # our own names


def _row(row: Reservation) -> tuple[object, ...]:
    return (
        row.dedup_key,
        row.payload_hash,
        row.response,
        row.digest,
        *row.source,
        row.noted_offset,
        *row.owner,
    )


def _reservation(row: Sequence[object]) -> Reservation:
    key, payload_hash, response, digest, topic, partition, noted, producer_id, epoch = row
    place = {"source": (topic, partition), "owner": (producer_id, epoch), "noted_offset": noted}
    return msgspec.convert(
        {"dedup_key": key, "payload_hash": payload_hash, "response": response, "digest": digest, **place},
        Reservation,
        builtin_types=(bytes,),
    )
