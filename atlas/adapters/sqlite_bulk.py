"""Bulk replays in the SQLite read model: how far each has come."""

from __future__ import annotations

import sqlite3
from typing import Final

from atlas.adapters.sqlite_queries import SCOPE
from atlas.core.replays import BulkProgress
from atlas.ports.read_model import Scope

_OF: Final = f"""SELECT id, after, through, matched, replayed, skipped, done_at_ms FROM bulk_replays
    WHERE scope = {SCOPE}"""  # noqa: S608  # constants of this module


def put(connection: sqlite3.Connection, scope: int, progress: BulkProgress) -> None:
    """What a fact said last."""
    counts = (progress.matched, progress.replayed, progress.skipped)
    row = (scope, progress.id, progress.after, progress.through, *counts, progress.done_at_ms)
    connection.execute("INSERT OR REPLACE INTO bulk_replays VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def of(connection: sqlite3.Connection, scope: Scope) -> dict[str, BulkProgress]:
    """See the port."""
    rows = connection.execute(_OF, {"workspace_id": scope[0], "environment": scope[1]}).fetchall()
    return {
        replay_id: BulkProgress(
            scope=scope,
            id=replay_id,
            after=after,
            through=through,
            matched=matched,
            replayed=replayed,
            skipped=skipped,
            done_at_ms=done_at_ms,
        )
        for replay_id, after, through, matched, replayed, skipped, done_at_ms in rows
    }
