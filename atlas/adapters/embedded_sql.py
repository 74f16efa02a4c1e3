"""SQL of the embedded log's file: the schema, and inserts of many rows in few steps.

In CPython every SQLite step gives the GIL up and must win it back from a busy event loop (measured:
0.2 ms a commit when quiet, 11 ms beside a busy thread), so a group commit makes as few steps as it can.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

#: Rows in one statement: few enough sizes that all the statements stay prepared, and every small
#: number, so that a usual group takes one step.
ONE_STATEMENT_ROWS: Final = 32
CHUNKS: Final = (256, 128, 64, *range(ONE_STATEMENT_ROWS, 0, -1))

#: A row of `batch` is a run of records of one partition, as msgpack.
SCHEMA: Final = """
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
BATCH_COLUMNS: Final = ("topic_id", "partition", "base_offset", "records", "timestamp_ms", "body")


def insert(
    db: sqlite3.Connection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    are_large: bool = False,
) -> None:
    """Insert the rows, in order, in as few statements as the chunks allow.

    SQLite keeps a copy of what was bound to a statement last for as long as that is prepared: megabytes for
    every number of rows, where these are large. Then each statement is run a second time, with nothing.
    """
    done = 0
    for size in CHUNKS:
        while len(rows) - done >= size:
            values = [value for row in rows[done : done + size] for value in row]
            done += size
            if are_large:
                sql = _insert_sql(table, tuple(columns), size, "SELECT * FROM (VALUES {}) WHERE ?")
                db.execute(sql, [*values, True])
                db.execute(sql, [*[None] * len(values), False])
            else:
                db.execute(_insert_sql(table, tuple(columns), size, "VALUES {}"), values)


def chunks(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The keys for an `IN`, in few sizes, so that statements stay prepared: the last one fills them up."""
    for start in range(0, len(keys), CHUNKS[0]):
        part = keys[start : start + CHUNKS[0]]
        size = min(chunk for chunk in CHUNKS if chunk >= len(part))
        yield [*part, *[part[-1]] * (size - len(part))]


@functools.lru_cache(maxsize=256)
def _insert_sql(table: str, columns: tuple[str, ...], rows: int, what: str) -> str:
    marks = ",".join(["(" + ",".join("?" * len(columns)) + ")"] * rows)
    return f"INSERT INTO {table} ({','.join(columns)}) {what.format(marks)}"  # our own names
