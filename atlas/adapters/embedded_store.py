"""The embedded log's file: SQLite in WAL mode, one writing connection, one transaction per group.

Synchronous on purpose: `EmbeddedLog` runs it on a thread of its own, or inline in simulations. A row of
`batch` is a run of records of one partition, as msgpack: in CPython every SQLite step gives the GIL up
and must win it back from a busy event loop (measured: 0.2 ms a commit when quiet, 11 ms beside a busy
thread), so a group commit makes as few steps as it can, whatever number of records it carries.

Idempotency keys lie in the same file and the same transaction as the records: there is no state in
between. They are kept in tables by time, and expire only by dropping a whole table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from atlas.core.errors import LogUnavailable
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.log import NewRecord, TopicPartition

#: A table of idempotency keys spans this long...
BUCKET_MS: Final = 6 * 3_600_000
#: ...and is dropped this long after its end, so that every key lives for at least 24 hours.
KEY_LIFETIME_MS: Final = 24 * 3_600_000

#: Records of one partition in one row, at most: bounds what reading one record costs.
BATCH_BYTES_MAX: Final = 256 * 1024
BATCH_RECORDS_MAX: Final = 1_000
#: What one step of `delete_step` drops, at most: a step takes a few milliseconds.
DELETE_BYTES_MAX: Final = 1024 * 1024
DELETE_ROWS_MAX: Final = 256

_CHUNKS: Final = (256, 32, 4, 1)
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topic (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL, retention_ms INTEGER
);
CREATE TABLE IF NOT EXISTS log_start (
    topic_id INTEGER NOT NULL, partition INTEGER NOT NULL, start_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, PRIMARY KEY (topic_id, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch (
    seq INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, partition INTEGER NOT NULL,
    base_offset INTEGER NOT NULL, records INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS batch_by_offset ON batch (topic_id, partition, base_offset);
CREATE TABLE IF NOT EXISTS group_offset (
    consumer_group TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, PRIMARY KEY (consumer_group, topic, partition)
) WITHOUT ROWID;
"""

_Packed = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[_Packed]).decode

T = TypeVar("T")


class Topic:
    """A topic's identity and, per partition, where its log starts and ends for the writer."""

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


class Group(msgspec.Struct, frozen=True):
    """What a group commit did: a result for each request, in order, and what was appended."""

    results: Sequence[int | list[Outcome]]
    committed: Sequence[Committed]


def unpack(body: bytes) -> list[_Packed]:
    """The records of a `batch` row as (key, value, headers)."""
    return _unpack(body)


class EmbeddedStore:
    """The writing connection. One thread at a time; every method leaves no transaction open."""

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}
        self.last_timestamp_ms = 0
        self._now_ms = now_ms
        self._db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "fullfsync=ON",
            "secure_delete=OFF",
            f"journal_size_limit={_WAL_LIMIT_BYTES}",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        self._buckets = self._load()

    def _load(self) -> list[int]:
        for row in self._db.execute("SELECT id, name, partitions, retention_ms FROM topic"):
            self.topics[row[1]] = Topic(*row)
        by_id = {topic.id: topic for topic in self.topics.values()}
        for topic_id, partition, start, end in self._db.execute("SELECT * FROM log_start"):
            topic = by_id[topic_id]
            topic.starts[partition], topic.ends[partition] = start, end
        ends = "SELECT topic_id, partition, MAX(base_offset + records) FROM batch GROUP BY 1, 2"
        for topic_id, partition, end in self._db.execute(ends):
            topic = by_id[topic_id]
            topic.ends[partition] = max(topic.ends[partition], end)
        newest = "SELECT timestamp_ms FROM batch ORDER BY seq DESC LIMIT 1"
        for (timestamp_ms,) in self._db.execute(newest):
            self.last_timestamp_ms = timestamp_ms
        tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'idempotency_*'"
        return sorted(int(name.rpartition("_")[2]) for (name,) in self._db.execute(tables))

    def commit(self, requests: Sequence[Append | Accept]) -> Group:
        """Make one group durable.

        Raises:
            LogUnavailable: nothing of it was appended (disk full, I/O error).
        """
        group = self._transaction(lambda: self._append_group(requests))
        for run in group.committed:
            run.topic.ends[run.partition] = run.base_offset + len(run.records)
        return group

    def _append_group(self, requests: Sequence[Append | Accept]) -> Group:
        writing = _GroupWriting(max(self._now_ms(), self.last_timestamp_ms))
        keys = {
            candidate.dedup_key: None
            for request in requests
            if isinstance(request, Accept)
            for _, candidate in request.candidates
            if candidate.dedup_key is not None
        }
        if keys:
            self._bucket_for(writing.timestamp_ms)
            writing.known = self.find_keys(list(keys))
        results: list[int | list[Outcome]] = []
        for request in requests:
            if isinstance(request, Append):
                results.append(writing.append(request.topic, request.partition, request.records))
            else:
                results.append([writing.accept(*item) for item in request.candidates])
        committed = writing.committed()
        self._insert("batch", _BATCH_COLUMNS, _batch_rows(committed))
        if writing.new_keys:
            self._insert(f"idempotency_{self._buckets[-1]}", _KEY_COLUMNS, writing.new_keys)
        self.last_timestamp_ms = writing.timestamp_ms
        return Group(results, committed)

    def find_keys(self, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
        """Payload hash and frozen response of those dedup keys that are taken."""
        found: dict[bytes, tuple[bytes, bytes]] = {}
        for start in range(0, len(keys), _CHUNKS[0]):
            part = keys[start : start + _CHUNKS[0]]
            size = min(chunk for chunk in _CHUNKS if chunk >= len(part))
            padded = [*part, *[part[-1]] * (size - len(part))]
            for key, payload_hash, response in self._db.execute(self._find_sql(size), padded):
                found[key] = (payload_hash, response)
        return found

    def _find_sql(self, size: int) -> str:
        names = ",".join(f"?{number}" for number in range(1, size + 1))
        columns = "dedup_key, payload_hash, response"
        arms = (f"SELECT {columns} FROM idempotency_{n} WHERE dedup_key IN ({names})" for n in self._buckets)  # noqa: S608  # our own integers
        return " UNION ALL ".join(arms) or f"SELECT 0, 0, 0 WHERE 0 IN ({names})"  # noqa: S608  # as above

    def _bucket_for(self, now_ms: int) -> None:
        number = now_ms // BUCKET_MS
        if self._buckets and self._buckets[-1] >= number:
            return
        self._db.execute(
            f"CREATE TABLE idempotency_{number} ("
            "seq INTEGER PRIMARY KEY, dedup_key BLOB NOT NULL, payload_hash BLOB NOT NULL, response BLOB NOT NULL)"
        )
        self._db.execute(f"CREATE UNIQUE INDEX idempotency_{number}_key ON idempotency_{number} (dedup_key)")
        self._buckets.append(number)

    def _insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        done = 0
        for size in _CHUNKS:
            while len(rows) - done >= size:
                values = [value for row in rows[done : done + size] for value in row]
                marks = ",".join(["(" + ",".join("?" * len(columns)) + ")"] * size)
                sql = f"INSERT INTO {table} ({','.join(columns)}) VALUES {marks}"  # noqa: S608  # our own names
                self._db.execute(sql, values)
                done += size

    def create_topic(self, name: str, partitions: int, retention_ms: int | None) -> Topic:
        """Create the topic or set its retention."""

        def work() -> Topic:
            known = self.topics.get(name)
            if known is None:
                sql = "INSERT INTO topic (name, partitions, retention_ms) VALUES (?, ?, ?) RETURNING id"
                (topic_id,) = self._db.execute(sql, (name, partitions, retention_ms)).fetchone()
                return Topic(topic_id, name, partitions, retention_ms)
            self._db.execute("UPDATE topic SET retention_ms = ? WHERE id = ?", (retention_ms, known.id))
            return known

        topic = self._transaction(work)
        topic.retention_ms = retention_ms
        self.topics[name] = topic
        return topic

    def set_start(self, topic: Topic, partition: int, start: int) -> None:
        """Record where the partition's log starts now; records below are no longer served."""
        row = (topic.id, partition, start, topic.ends[partition])
        sql = "INSERT OR REPLACE INTO log_start VALUES (?, ?, ?, ?)"
        self._transaction(lambda: self._db.execute(sql, row))

    def delete_step(self, topic: Topic, partition: int, before_offset: int) -> bool:
        """Drop some whole batches below the offset, oldest first; False when none is left."""
        find = (
            "SELECT seq, length(body) FROM batch WHERE topic_id = ? AND partition = ?"
            " AND base_offset + records <= ? ORDER BY base_offset LIMIT ?"
        )

        def work() -> bool:
            rows = self._db.execute(find, (topic.id, partition, before_offset, DELETE_ROWS_MAX)).fetchall()
            dropped: list[int] = []
            size = 0
            for seq, length in rows:
                if dropped and size + length > DELETE_BYTES_MAX:
                    break
                dropped.append(seq)
                size += length
            marks = ",".join("?" * len(dropped))
            self._db.execute(f"DELETE FROM batch WHERE seq IN ({marks})", dropped)  # noqa: S608  # marks only
            return len(dropped) < len(rows) or len(rows) == DELETE_ROWS_MAX

        return self._transaction(work)

    def expire_keys_step(self) -> bool:
        """Drop some keys of a bucket whose time is over; False when there is no such bucket."""
        if not self._buckets or (self._buckets[0] + 1) * BUCKET_MS + KEY_LIFETIME_MS > self._now_ms():
            return False
        number = self._buckets[0]
        clear = (
            f"DELETE FROM idempotency_{number} WHERE seq IN"  # noqa: S608  # our own integer
            f" (SELECT seq FROM idempotency_{number} ORDER BY seq LIMIT {DELETE_ROWS_MAX * 4})"
        )

        def work() -> bool:
            if self._db.execute(clear).rowcount:
                return False
            self._db.execute(f"DROP TABLE idempotency_{number}")
            return True

        if self._transaction(work):
            del self._buckets[0]
        return True

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

    def probe(self) -> None:
        """Commit something, to prove that a commit works."""
        sql = "INSERT OR REPLACE INTO meta VALUES ('probed_at_ms', ?)"
        self._transaction(lambda: self._db.execute(sql, (self._now_ms(),)))

    def close(self) -> None:
        """Checkpoint and close."""
        self._db.close()

    def _transaction(self, work: Callable[[], T]) -> T:
        buckets = list(self._buckets)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            result = work()
            self._db.execute("COMMIT")
        except BaseException as error:
            self._buckets = buckets
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise LogUnavailable(f"the log's file cannot be written: {error}") from error
            raise
        return result


_BATCH_COLUMNS: Final = ("topic_id", "partition", "base_offset", "records", "timestamp_ms", "body")
_KEY_COLUMNS: Final = ("dedup_key", "payload_hash", "response")


class _GroupWriting:
    """Offsets and verdicts of one group while it is put together."""

    def __init__(self, timestamp_ms: int) -> None:
        self.timestamp_ms = timestamp_ms
        self.known: dict[bytes, tuple[bytes, bytes]] = {}
        self.new_keys: list[tuple[bytes, bytes, bytes]] = []
        self._pending: dict[tuple[int, int], tuple[Topic, list[NewRecord]]] = {}

    def append(self, topic: Topic, partition: int, records: Sequence[NewRecord]) -> int:
        slot = self._pending.get((topic.id, partition))
        if slot is None:
            slot = self._pending[topic.id, partition] = (topic, [])
        base_offset = topic.ends[partition] + len(slot[1])
        slot[1].extend(records)
        return base_offset

    def accept(self, topic: Topic, candidate: Candidate) -> Outcome:
        key = candidate.dedup_key
        if key is not None:
            stored = self.known.get(key)
            if stored is not None:
                if stored[0] != candidate.payload_hash:
                    return Outcome(Verdict.CONFLICT)
                return Outcome(Verdict.REPLAYED, stored[1])
            self.known[key] = (candidate.payload_hash, candidate.response)
            self.new_keys.append((key, candidate.payload_hash, candidate.response))
        self.append(topic, candidate.partition, (candidate.record,))
        return Outcome(Verdict.APPENDED, candidate.response)

    def committed(self) -> list[Committed]:
        runs: list[Committed] = []
        for (_, partition), (topic, records) in self._pending.items():
            base_offset = topic.ends[partition]
            for run in _runs(records):
                runs.append(Committed(topic, partition, base_offset, self.timestamp_ms, run))
                base_offset += len(run)
        return runs


def _runs(records: list[NewRecord]) -> Iterable[list[NewRecord]]:
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


def _batch_rows(committed: Sequence[Committed]) -> list[tuple[Any, ...]]:
    return [
        (
            run.topic.id,
            run.partition,
            run.base_offset,
            len(run.records),
            run.timestamp_ms,
            _pack([(record.key, record.value, record.headers) for record in run.records]),
        )
        for run in committed
    ]
