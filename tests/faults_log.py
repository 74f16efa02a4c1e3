"""The raw topics, read from the embedded log's file by code of our own, past everything that Atlas knows.

The file is SQLite; a row of `batch` is a run of records of one partition from `base_offset` on, as msgpack:
[[key, value, [[header name, header value], ...]], ...].
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from tests.invariants_history import LogRecord

_ROWS: Final = (
    "SELECT name, partition, base_offset, timestamp_ms, body FROM batch JOIN topic ON topic.id = topic_id"
    " ORDER BY name, partition, base_offset"
)
_SCHEMA_HEADER: Final = "atlas-schema"


def copy_log(data_dir: Path, directory: Path) -> Path:
    """Copy the log of a process that is dead, as it died, so that reading it repairs nothing there."""
    directory.mkdir()
    for name in ("log.db", "log.db-wal"):
        if (data_dir / name).exists():
            shutil.copyfile(data_dir / name, directory / name)
    return directory / "log.db"


def read_log(path: Path) -> list[LogRecord]:
    """Every record, by topic, partition and offset; of a log that nobody else has open."""
    if not path.exists():
        return []  # killed before there was any
    with closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'batch'").fetchone():
            return []
        return list(_records(db))


def _records(db: sqlite3.Connection) -> Iterator[LogRecord]:
    for topic, partition, base_offset, timestamp_ms, body in db.execute(_ROWS):
        for offset, (_, value, headers) in enumerate(msgspec.msgpack.decode(body), base_offset):
            yield LogRecord(
                topic=topic,
                partition=partition,
                offset=offset,
                timestamp_ms=timestamp_ms,
                schema=dict(headers).get(_SCHEMA_HEADER, b"").decode(),
                value=value or b"",
            )
