"""Reads of the embedded log's file, on read-only connections beside the writer's."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from atlas.adapters.embedded_batches import unpack
from atlas.core.errors import LogUnavailable
from atlas.ports.log import Record

#: One read returns about this much, at most (and one row of any size).
READ_BYTES_MAX: Final = 1024 * 1024
#: A caller waits this long for a read, then gets `LogUnavailable`.
READ_DEADLINE_S: Final = 10.0
_READERS: Final = 2

_FROM: Final = (
    "SELECT base_offset, records, timestamp_ms, body FROM batch WHERE topic_id = ?1 AND partition = ?2"
    " AND base_offset >= COALESCE((SELECT MAX(base_offset) FROM batch WHERE topic_id = ?1"
    " AND partition = ?2 AND base_offset <= ?3), ?3) AND base_offset < ?4 ORDER BY base_offset"
)
_FIRST: Final = "SELECT MAX(base_offset) FROM batch WHERE topic_id = ? AND partition = ? AND base_offset <= ?"
_AT: Final = (
    "SELECT base_offset, records, timestamp_ms FROM batch WHERE topic_id = ? AND partition = ?"
    " AND base_offset >= ? ORDER BY base_offset LIMIT 1"
)

_Row = tuple[int, int, int, bytes]
T = TypeVar("T")


class LogFile:
    """Reads by topic id and partition. `threads=False` reads on the event loop, for simulations."""

    def __init__(self, path: Path, threads: bool) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"
        self._pool = ThreadPoolExecutor(_READERS, "atlas-log-read") if threads else None
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    async def read(self, topic_id: int, partition: int, offset: int, end: int, limit: int) -> list[Record]:
        """Up to `limit` records from `offset` on, below `end`; fewer if they are big.

        Raises:
            LogUnavailable: the file cannot be read now.
        """

        def rows(db: sqlite3.Connection) -> list[_Row]:
            return _read_rows(db, (topic_id, partition, offset, end), limit)

        found: list[Record] = []
        for base_offset, _, timestamp_ms, body in await self._run(rows):
            found += unpack(base_offset, timestamp_ms, body, offset, offset + limit)
        return found

    async def offset_at(self, topic_id: int, partition: int, start: int, end: int, timestamp_ms: int) -> int:
        """Offset between `start` and `end` of the first record as young as that; else `end`.

        Times rise with offsets (the writer sees to it), so this halves the range at every look.

        Raises:
            LogUnavailable: the file cannot be read now.
        """

        def search(db: sqlite3.Connection) -> int:
            [(first,)] = db.execute(_FIRST, (topic_id, partition, start))
            low, high = (start if first is None else first), end
            while low < high:
                middle = (low + high) // 2
                row = db.execute(_AT, (topic_id, partition, middle)).fetchone()
                if row is None or row[0] >= high or row[2] >= timestamp_ms:
                    high = middle  # no older batch begins here or later
                else:
                    low = row[0] + row[1]
            return max(low, start)

        return await self._run(search)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def with_connection() -> T:
            return work(self._connection())

        if self._closed:
            raise LogUnavailable("the log is closed")
        try:
            if self._pool is None:
                return with_connection()
            async with asyncio.timeout(READ_DEADLINE_S):
                return await asyncio.get_running_loop().run_in_executor(self._pool, with_connection)
        except (sqlite3.Error, TimeoutError) as error:
            raise LogUnavailable(f"the log's file cannot be read: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            self._connections.append(db)
        return db

    async def close(self) -> None:
        """Finish the reads under way, then close the connections."""
        self._closed = True
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown)
        for db in self._connections:
            db.close()


def _read_rows(db: sqlite3.Connection, where: tuple[int, int, int, int], limit: int) -> list[_Row]:
    rows: list[_Row] = []
    size, wanted_end = 0, where[2] + limit
    cursor = db.execute(_FROM, where)
    for row in cursor:
        rows.append(row)
        size += len(row[3])
        if size >= READ_BYTES_MAX or row[0] + row[1] >= wanted_end:
            break
    cursor.close()
    return rows
