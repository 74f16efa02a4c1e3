"""The embedded log's file: SQLite in WAL mode, one writing connection, one transaction per group.

Synchronous on purpose: `embedded_writer` runs it on a thread of its own, or inline in simulations.
Idempotency keys lie in the same file and the same transaction as the records: there is no state in
between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from atlas.adapters.embedded_batches import Accept, Append, Group, GroupWriting, Topic
from atlas.adapters.embedded_keys import KeyBuckets
from atlas.adapters.embedded_sql import BATCH_COLUMNS, ONE_STATEMENT_ROWS, SCHEMA, insert
from atlas.core.errors import LogUnavailable
from atlas.ports.acceptor import Outcome
from atlas.ports.log import TopicPartition

#: What one step of `delete_step` drops, at most (and one row of any size): some milliseconds of work.
DELETE_BYTES_MAX: Final = 1024 * 1024
DELETE_ROWS_MAX: Final = 256
#: Room that `probe` asks for.
PROBE_BYTES: Final = 64 * 1024
#: Of the bodies that one group commits: past it SQLite is made to forget them.
LARGE_BYTES: Final = 64 * 1024

_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",  # an fsync of the WAL before each COMMIT returns
    "fullfsync=ON",  # macOS: to the platter
    "secure_delete=OFF",
    "cache_size=-4096",  # KiB; the operating system caches the rest
    f"journal_size_limit={_WAL_LIMIT_BYTES}",
)

T = TypeVar("T")


class EmbeddedStore:
    """The writing connection. One thread at a time; every method leaves no transaction open.

    Raises:
        sqlite3.Error: the file cannot be opened, or is none of ours.
    """

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}
        self.last_timestamp_ms = 0
        self._now_ms = now_ms
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
        try:
            for pragma in _PRAGMAS:
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(SCHEMA)
            self._keys = KeyBuckets(self._db)
            self._load()
        except BaseException:
            self._db.close()
            raise

    def _load(self) -> None:
        for row in self._db.execute("SELECT id, name, partitions, retention_ms FROM topic"):
            self.topics[row[1]] = Topic(*row)
        by_id = {topic.id: topic for topic in self.topics.values()}
        trims = "SELECT topic_id, partition, start_offset, next_offset FROM log_start"
        for topic_id, partition, start, end in self._db.execute(trims):
            by_id[topic_id].starts[partition], by_id[topic_id].ends[partition] = start, end
        last = (
            "SELECT base_offset + records FROM batch WHERE topic_id = ? AND partition = ?"
            " ORDER BY base_offset DESC LIMIT 1"
        )
        for topic in by_id.values():
            for partition, known in enumerate(topic.ends):
                for (end,) in self._db.execute(last, (topic.id, partition)):
                    topic.ends[partition] = max(known, end)
        newest = (
            "SELECT timestamp_ms FROM (SELECT timestamp_ms FROM batch ORDER BY seq DESC LIMIT 1)"
            " UNION ALL SELECT value FROM meta WHERE key = 'trimmed_timestamp_ms'"
        )
        self.last_timestamp_ms = max((value for (value,) in self._db.execute(newest)), default=0)

    # -- records ------------------------------------------------------------------------------

    def commit(self, requests: Sequence[Append | Accept]) -> Group:
        """Make one group durable.

        Raises:
            LogUnavailable: nothing of it was appended (disk full, I/O error).
        """
        with self._translated():
            writing = GroupWriting(max(self._now_ms(), self.last_timestamp_ms))
            writing.known = self._keys.find(_dedup_keys(requests))
        results = [_decide(writing, request) for request in requests]
        committed = writing.committed()
        rows = [run.row() for run in committed]
        if writing.new_keys or len(rows) > ONE_STATEMENT_ROWS:
            self._transaction(lambda: self._insert(rows, writing))
        elif rows:
            with self._translated():
                self._insert_batches(rows)  # one statement is one transaction
        for run in committed:
            run.topic.ends[run.partition] = run.next_offset
            self.last_timestamp_ms = run.timestamp_ms
        return Group(results, committed)

    def _insert(self, rows: Sequence[tuple[Any, ...]], writing: GroupWriting) -> None:
        self._insert_batches(rows)
        if writing.new_keys:
            self._keys.add(writing.new_keys, writing.timestamp_ms)

    def _insert_batches(self, rows: Sequence[tuple[Any, ...]]) -> None:
        are_large = sum(len(body) for *_, body in rows) > LARGE_BYTES
        insert(self._db, "batch", BATCH_COLUMNS, rows, are_large)

    def find_key(self, dedup_key: bytes) -> tuple[bytes, bytes] | None:
        """Payload hash and frozen response of a dedup key, if it is taken."""
        return self._keys.find([dedup_key]).get(dedup_key)

    # -- retention ----------------------------------------------------------------------------

    def set_start(self, topic: Topic, partition: int, start: int) -> None:
        """Record where the partition's log starts now, if that is further on; what lies below is no
        longer served. The end and the newest time outlive the records they came from.
        """
        raise_start = (
            "INSERT INTO log_start (topic_id, partition, start_offset, next_offset) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET start_offset = MAX(start_offset, excluded.start_offset),"
            " next_offset = excluded.next_offset"
        )

        def work() -> None:
            self._db.execute(raise_start, (topic.id, partition, start, topic.ends[partition]))
            self._set_meta("trimmed_timestamp_ms", self.last_timestamp_ms)

        self._transaction(work)

    def delete_step(self, topic: Topic, partition: int, before_offset: int) -> bool:
        """Drop some whole batches below the offset, oldest first; False when none is left."""
        find = (
            "SELECT seq, base_offset + records, length(body) FROM batch"
            " WHERE topic_id = ? AND partition = ? AND base_offset < ? ORDER BY base_offset LIMIT ?"
        )

        def work() -> bool:
            limits = (before_offset, DELETE_ROWS_MAX + 1)
            dropped: list[int] = []
            size = 0
            for seq, next_offset, length in self._db.execute(find, (topic.id, partition, *limits)).fetchall():
                if next_offset > before_offset:
                    break
                if dropped and (size + length > DELETE_BYTES_MAX or len(dropped) == DELETE_ROWS_MAX):
                    return self._drop(dropped)
                dropped.append(seq)
                size += length
            self._drop(dropped)
            return False

        return self._transaction(work)

    def _drop(self, rows: Sequence[int]) -> bool:
        marks = ",".join("?" * len(rows))
        return bool(self._db.execute(f"DELETE FROM batch WHERE seq IN ({marks})", rows).rowcount)  # noqa: S608  # marks only

    def expire_keys_step(self) -> bool:
        """Drop some keys of a bucket whose time is over; False when there is no such bucket."""
        number = self._keys.over(self._now_ms())
        if number is None:
            return False
        self._transaction(lambda: self._keys.expire_step(number))
        return True

    # -- the rest -----------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int, retention_ms: int | None) -> Topic:
        """Create the topic or set its retention."""

        def work() -> Topic:
            known = self.topics.get(name)
            if known is None:
                sql = "INSERT INTO topic (name, partitions, retention_ms) VALUES (?, ?, ?) RETURNING id"
                [(topic_id,)] = self._db.execute(sql, (name, partitions, retention_ms)).fetchall()
                return Topic(topic_id, name, partitions, retention_ms)
            self._db.execute("UPDATE topic SET retention_ms = ? WHERE id = ?", (retention_ms, known.id))
            return known

        topic = self._transaction(work)
        topic.retention_ms = retention_ms
        self.topics[name] = topic
        return topic

    def store_offsets(self, group: str, topic: str, offsets: Iterable[tuple[int, int]]) -> None:
        """Store a consumer group's next offsets."""
        rows = [(group, topic, partition, offset) for partition, offset in offsets]
        sql = "INSERT OR REPLACE INTO group_offset VALUES (?, ?, ?, ?)"
        self._transaction(lambda: self._db.executemany(sql, rows))

    def stored_offset(self, group: str, source: TopicPartition) -> int | None:
        """A consumer group's stored next offset."""
        sql = "SELECT next_offset FROM group_offset WHERE consumer_group = ? AND topic = ? AND partition = ?"
        row = self._db.execute(sql, (group, *source)).fetchone()
        return None if row is None else int(row[0])

    def next_member(self) -> int:
        """A number that no member of any group had before, in this life of the process or another."""
        sql = (
            "INSERT INTO meta (key, value) VALUES ('members', 1)"
            " ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value"
        )
        return self._transaction(lambda: int(self._db.execute(sql).fetchall()[0][0]))

    def probe(self) -> None:
        """Commit a record's worth of new pages and their release, to prove that an append would work."""

        def work() -> None:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('probe', zeroblob(?))", (PROBE_BYTES,))
            self._set_meta("probe", self._now_ms())

        self._transaction(work)

    def close(self) -> None:
        """Checkpoint and close."""
        self._db.close()

    def _set_meta(self, key: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def _transaction(self, work: Callable[[], T]) -> T:
        buckets = self._keys.numbers
        try:
            with self._translated():
                self._db.execute("BEGIN IMMEDIATE")
                result = work()
                self._db.execute("COMMIT")
        except BaseException:
            self._keys.numbers = buckets
            self._roll_back()
            raise
        return result

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._db.in_transaction:  # an earlier roll-back failed
            self._roll_back()
        if self._db.in_transaction:
            raise LogUnavailable("the log's file cannot be rolled back")
        try:
            yield
        except sqlite3.Error as error:
            raise LogUnavailable(f"the log's file cannot be written: {error}") from error

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # the next transaction tries again; the caller hears of the first error


def _decide(writing: GroupWriting, request: Append | Accept) -> int | list[Outcome]:
    if isinstance(request, Append):
        return writing.append(request.topic, request.partition, request.records)
    return [writing.accept(*item) for item in request.candidates]


def _dedup_keys(requests: Sequence[Append | Accept]) -> list[bytes]:
    keys = {
        candidate.dedup_key: None
        for request in requests
        if isinstance(request, Accept)
        for _, candidate in request.candidates
        if candidate.dedup_key is not None
    }
    return list(keys)
