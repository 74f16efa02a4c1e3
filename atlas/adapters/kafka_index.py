"""The idempotency index of one gateway on Kafka: a SQLite file beside the log (design section 7).

A key is reserved before its record is sent, in the name of the producer incarnation that sends it, and taken
once the record is known to be in the log. A reservation that outlives its owner is in doubt. Keys taken lie
in `embedded_keys`' tables, dropped a whole one at a time; reservations in a small table of their own.

Two more tables tell whether the file is whole (`kafka_standing`, `kafka_recovery`): the producers that it
knows, and those of them that can send nothing keyed any more; and for each partition the position below which
every keyed record is here, taken or reserved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from atlas.adapters.embedded_keys import BUCKET_MS, KeyBuckets
from atlas.adapters.embedded_sql import chunks, insert
from atlas.adapters.kafka_producer import Owner
from atlas.ports.log import TopicPartition

_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "fullfsync=ON", "journal_size_limit=67108864")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS reservation (
    dedup_key BLOB PRIMARY KEY, payload_hash BLOB NOT NULL, response BLOB NOT NULL, digest BLOB NOT NULL,
    topic TEXT NOT NULL, partition INTEGER NOT NULL, noted_offset INTEGER NOT NULL,
    producer_id INTEGER NOT NULL, epoch INTEGER NOT NULL
) WITHOUT ROWID;
DROP INDEX IF EXISTS reservation_by_owner;
CREATE TABLE IF NOT EXISTS owner (
    producer_id INTEGER NOT NULL, epoch INTEGER NOT NULL, is_over INTEGER NOT NULL,
    PRIMARY KEY (producer_id, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""
_COLUMNS: Final = (
    "dedup_key", "payload_hash", "response", "digest", "topic", "partition", "noted_offset", "producer_id",
    "epoch",
)  # fmt: skip
#: Statements kept prepared: a few, in each size of `embedded_sql.CHUNKS`.
_STATEMENTS_KEPT: Final = 512


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


class Restored(msgspec.Struct, frozen=True, gc=False):
    """A key that a record in the log was accepted with, at that time."""

    dedup_key: bytes
    payload_hash: bytes
    response: bytes
    received_ms: int


class KeyIndex:
    """The file. One thread at a time; each call runs in the transaction of whoever calls."""

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS_KEPT
        )
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
        for part in chunks(keys):
            rows = self._db.execute(f"{_SELECT} WHERE dedup_key IN ({_marks(part)})", part)
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
        self._drop([row.dedup_key for row in held])
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

    def open_owner(self, owner: Owner) -> None:
        """This producer may send keyed records from now on."""
        self._db.execute("INSERT OR IGNORE INTO owner VALUES (?, ?, 0)", owner)

    def owners_over(self) -> set[Owner]:
        """Producers that can send nothing any more whose key is not here."""
        return {Owner(*row) for row in self._db.execute(f"{_SELECT_OWNERS} WHERE is_over")}

    def end_owners(self, owners: Collection[Owner]) -> None:
        """All that these have sent is here, and they send no more; of others that are over nobody asks."""
        self._db.execute("DELETE FROM owner WHERE is_over")
        self._db.executemany("INSERT OR REPLACE INTO owner VALUES (?, ?, 1)", owners)

    def rest(self, positions: Mapping[TopicPartition, int]) -> None:
        """Nothing is on its way: producers without reservations are over."""
        self.advance(positions)
        held = (owner for owner, _ in self.doubts())
        over = {Owner(*row) for row in self._db.execute(_SELECT_OWNERS)}.difference(held)
        self._db.executemany("UPDATE owner SET is_over = 1 WHERE producer_id = ? AND epoch = ?", over)

    def positions(self) -> dict[TopicPartition, int]:
        """Of each partition: every keyed record below is here."""
        rows = self._db.execute("SELECT topic, partition, next_offset FROM position")
        return {TopicPartition(*row[:2]): row[2] for row in rows}

    def advance(self, positions: Mapping[TopicPartition, int]) -> None:
        """Move positions."""
        self._db.executemany(
            "INSERT OR REPLACE INTO position VALUES (?, ?, ?)",
            [(*source, next_offset) for source, next_offset in positions.items()],
        )

    def restore(self, rows: Iterable[Restored], positions: Mapping[TopicPartition, int]) -> int:
        """Take what the log says is taken and is not so here; the first record of a key counts.

        Returns:
            How many keys there were.
        """
        first: dict[bytes, Restored] = {}
        for row in rows:
            first.setdefault(row.dedup_key, row)
        known = self.find([*first])
        lacking = [row for row in first.values() if not isinstance(known.get(row.dedup_key), Taken)]
        # Whoever reserved it, for whatever record: the log has decided.
        self._drop([row.dedup_key for row in lacking])
        tables: dict[int, list[tuple[bytes, bytes, bytes]]] = {}
        for row in lacking:
            taken = (row.dedup_key, row.payload_hash, row.response)
            tables.setdefault(row.received_ms // BUCKET_MS, []).append(taken)
        for number, taken_then in tables.items():
            self._buckets.put_back(taken_then, number)
        self.advance(positions)
        return len(lacking)

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
        if self._all_held(rows):
            return [*rows]
        known = self.find([row.dedup_key for row in rows])
        held = []
        for row in rows:
            current = known.get(row.dedup_key)
            if isinstance(current, Reservation) and current.owner == row.owner:
                held.append(row)
        return held

    def _all_held(self, rows: Sequence[Reservation]) -> bool:
        """Whether none is missing, as nearly always; asked in one step, where `find` takes one for each."""
        if len({row.owner for row in rows}) != 1:
            return False
        count = 0
        for keys in chunks([row.dedup_key for row in rows]):
            where = f"WHERE dedup_key IN ({_marks(keys)}) AND producer_id = ? AND epoch = ?"
            sql = f"SELECT count(*) FROM reservation {where}"  # noqa: S608  # our own names
            count += self._db.execute(sql, (*keys, *rows[0].owner)).fetchone()[0]
        return count == len(rows)

    def _drop(self, keys: Sequence[bytes]) -> None:
        for part in chunks(keys):
            sql = f"DELETE FROM reservation WHERE dedup_key IN ({_marks(part)})"  # noqa: S608  # only marks
            self._db.execute(sql, part)


def _marks(keys: Sequence[bytes]) -> str:
    return ",".join("?" * len(keys))


_SELECT_OWNERS: Final = "SELECT producer_id, epoch FROM owner"
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


def _reservation(row: Sequence[Any]) -> Reservation:
    key, payload_hash, response, digest, topic, partition, noted, producer_id, epoch = row
    source, owner = TopicPartition(topic, partition), Owner(producer_id, epoch)
    return Reservation(key, payload_hash, response, digest, source, noted, owner)
