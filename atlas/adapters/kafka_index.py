"""The idempotency index of one gateway on Kafka: a SQLite file beside the log (design section 7).

It is folded from the log, and nothing in it has to be durable before anything else: a key goes in once its
record is known to be in the log, and with it, or later, the *position* of the partition, below which every
keyed record is here. SQLite keeps its transactions in order through a power cut, though it may lose the last
of them; so whatever is found after a crash is the index of an earlier time, and its positions say of which.
What lies above them is read back from the log at every opening (`kafka_recovery`), once nobody can append
there any more; and the producers of which that is known are kept here too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from atlas.adapters.embedded_keys import BUCKET_MS, KeyBuckets
from atlas.adapters.kafka_producer import Owner
from atlas.ports.log import TopicPartition

_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=NORMAL", "fullfsync=ON", "journal_size_limit=67108864")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS owner (
    producer_id INTEGER NOT NULL, epoch INTEGER NOT NULL, is_over INTEGER NOT NULL,
    PRIMARY KEY (producer_id, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""
#: Statements kept prepared: a few, in each size of `embedded_sql.CHUNKS`.
_STATEMENTS_KEPT: Final = 512


class TakenKey(NamedTuple):
    """A key that is used, by a record in the log: a row of the index."""

    dedup_key: bytes
    payload_hash: bytes
    response: bytes


class Restored(msgspec.Struct, frozen=True, gc=False):
    """A key that a record in the log was accepted with, at that time."""

    key: TakenKey
    received_ms: int


class KeyIndex:
    """The file. One thread may `find`, beside one that writes, each call in the transaction of its caller."""

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._db, self._reading = _connect(path), _connect(path)
        self._db.executescript(_SCHEMA)
        self._buckets = KeyBuckets(self._db)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite may have ended it itself
                self._db.execute("ROLLBACK")
            self._buckets = KeyBuckets(self._db)  # it may have counted on a table that is not there now
            raise

    def find(self, keys: Sequence[bytes]) -> dict[bytes, TakenKey]:
        """What is known of these keys; free ones are left out."""
        self._reading.execute("BEGIN")
        try:
            found = KeyBuckets(self._reading).find(keys)  # the other connection makes and drops tables
        finally:
            self._reading.execute("COMMIT")
        return {key: TakenKey(key, *stored) for key, stored in found.items()}

    def take(self, rows: Sequence[TakenKey]) -> None:
        """The records of these keys, which were free, are in the log."""
        self._buckets.add(sorted(rows), self._now_ms())

    def take_if_free(self, rows: Sequence[TakenKey]) -> None:
        """The same where the log may have been read up to these records meanwhile."""
        known = self._buckets.find([row.dedup_key for row in rows])
        self.take([row for row in rows if row.dedup_key not in known])

    def open_owner(self, owner: Owner) -> None:
        """This producer may send keyed records from now on."""
        self._db.execute("INSERT OR IGNORE INTO owner VALUES (?, ?, 0)", owner)

    def owners_over(self) -> set[Owner]:
        """Producers that can send nothing any more whose key is not here."""
        rows = self._db.execute("SELECT producer_id, epoch FROM owner WHERE is_over")
        return {Owner(*row) for row in rows}

    def end_owners(self, owners: Collection[Owner]) -> None:
        """All that these have sent is here, and they send no more; of others that are over nobody asks."""
        self._db.execute("DELETE FROM owner WHERE is_over")
        self._db.executemany("INSERT OR REPLACE INTO owner VALUES (?, ?, 1)", owners)

    def rest(self, positions: Mapping[TopicPartition, int]) -> None:
        """Nothing is on its way, and all of it is here: the producers are over."""
        self.advance(positions)
        self._db.execute("UPDATE owner SET is_over = 1")

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
            first.setdefault(row.key.dedup_key, row)
        known = self._buckets.find([*first])
        tables: dict[int, list[TakenKey]] = {}
        for row in first.values():
            if row.key.dedup_key not in known:
                tables.setdefault(row.received_ms // BUCKET_MS, []).append(row.key)
        for number, taken_then in tables.items():
            self._buckets.put_back(taken_then, number)
        self.advance(positions)
        return sum(map(len, tables.values()))

    def expire_step(self) -> bool:
        """Drop some keys whose time is over; False when there are none."""
        number = self._buckets.over(self._now_ms())
        if number is not None:
            self._buckets.expire_step(number)
        return number is not None

    def close(self) -> None:
        """Checkpoint and close the file."""
        self._reading.close()
        self._db.close()


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS_KEPT
    )
    for pragma in _PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    return db
