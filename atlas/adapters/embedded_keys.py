"""Idempotency keys of the embedded log: tables by time, beside the records, in the same transactions.

A key lies in the table of the time when it was taken. No look-up judges a key by its age: it is there
until its table, all of it past its time, is dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from atlas.adapters.embedded_sql import chunks, insert

#: A table of idempotency keys spans this long...
BUCKET_MS: Final = 6 * 3_600_000
#: ...and is dropped this long after its end, so that every key lives for at least 24 hours.
KEY_LIFETIME_MS: Final = 24 * 3_600_000
#: Keys that one step of `expire_step` drops, at most. Each lies on an index page of its own: a step
#: writes a few MB and takes some 10 ms.
EXPIRE_KEYS_MAX: Final = 512

_COLUMNS: Final = ("dedup_key", "payload_hash", "response")


class KeyBuckets:
    """The tables of keys. Called inside the store's transactions, but for `find`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'idempotency_*'"
        self.numbers = sorted(int(name.rpartition("_")[2]) for (name,) in db.execute(tables))

    def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
        """Payload hash and frozen response of those keys that are taken."""
        found: dict[bytes, tuple[bytes, bytes]] = {}
        if not self.numbers:
            return found
        for part in chunks(keys):
            for key, payload_hash, response in self._db.execute(self._find_sql(len(part)), part):
                found[key] = (payload_hash, response)
        return found

    def add(self, rows: Sequence[tuple[bytes, bytes, bytes]], now_ms: int) -> None:
        """Take these keys: (key, payload hash, response)."""
        number = now_ms // BUCKET_MS
        if not self.numbers or self.numbers[-1] < number:
            self._create(number)
        insert(self._db, f"idempotency_{self.numbers[-1]}", _COLUMNS, rows)

    def put_back(self, rows: Sequence[tuple[bytes, bytes, bytes]], number: int) -> None:
        """Take keys, free now, in the table of the time when they were taken: they live no longer for it."""
        if number not in self.numbers:
            self._create(number)
        insert(self._db, f"idempotency_{number}", _COLUMNS, rows)

    def over(self, now_ms: int) -> int | None:
        """The oldest table, when all of it is past its time."""
        if not self.numbers or (self.numbers[0] + 1) * BUCKET_MS + KEY_LIFETIME_MS > now_ms:
            return None
        return self.numbers[0]

    def expire_step(self, number: int) -> None:
        """Drop some keys of that table, or the table when it is empty."""
        clear = (
            f"DELETE FROM idempotency_{number} WHERE seq IN"  # noqa: S608  # our own integer
            f" (SELECT seq FROM idempotency_{number} ORDER BY seq LIMIT {EXPIRE_KEYS_MAX})"
        )
        if not self._db.execute(clear).rowcount:
            self._db.execute(f"DROP TABLE idempotency_{number}")
            self.numbers = [other for other in self.numbers if other != number]

    def _find_sql(self, size: int) -> str:
        names = ",".join(f"?{number}" for number in range(1, size + 1))
        columns = "dedup_key, payload_hash, response"
        arms = (f"SELECT {columns} FROM idempotency_{n} WHERE dedup_key IN ({names})" for n in self.numbers)  # noqa: S608  # our own integers
        return " UNION ALL ".join(arms)

    def _create(self, number: int) -> None:
        self._db.execute(
            f"CREATE TABLE idempotency_{number} ("
            "seq INTEGER PRIMARY KEY, dedup_key BLOB NOT NULL, payload_hash BLOB NOT NULL,"
            " response BLOB NOT NULL)"
        )
        self._db.execute(f"CREATE UNIQUE INDEX idempotency_{number}_key ON idempotency_{number} (dedup_key)")
        self.numbers = sorted([*self.numbers, number])
