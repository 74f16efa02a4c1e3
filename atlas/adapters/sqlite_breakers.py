"""Circuit breakers in the SQLite read model: a row for each target and shard whose breaker is not closed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from atlas.adapters.sqlite_queries import SCOPE
from atlas.core.breaker import CLOSED, Breaker
from atlas.ports.read_model import Scope, ShardBreaker

_COLUMNS: Final = "b.state, b.trips, b.reason, b.opened_at_ms, b.next_probe_at_ms, b.revision"
#: Of several shards the worst comes last, and stays.
_OF: Final = f"""SELECT b.target, {_COLUMNS} FROM breakers AS b
    WHERE b.scope = {SCOPE} AND (:shard IS NULL OR b.shard = :shard)
    ORDER BY b.target, b.revision, b.state = 'open', b.next_probe_at_ms, b.shard"""  # noqa: S608  # constants of this module
_OF_SHARD: Final = f"""SELECT s.workspace_id, s.environment, b.target, {_COLUMNS} FROM breakers AS b
    JOIN scopes AS s ON s.n = b.scope WHERE b.shard = :shard"""  # noqa: S608  # constants of this module


def put(connection: sqlite3.Connection, scope: int, each: ShardBreaker) -> None:
    """What a fact said last."""
    breaker, key = each.breaker, (scope, each.target, each.shard)
    if breaker.state == CLOSED:
        connection.execute("DELETE FROM breakers WHERE scope = ? AND target = ? AND shard = ?", key)
        return
    times = (breaker.opened_at_ms, breaker.next_probe_at_ms)
    row = (*key, breaker.state, breaker.trips, breaker.reason, *times, breaker.revision)
    connection.execute("INSERT OR REPLACE INTO breakers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def of(connection: sqlite3.Connection, scope: Scope, shard: int | None) -> dict[str, Breaker]:
    """See the port."""
    parameters = {"workspace_id": scope[0], "environment": scope[1], "shard": shard}
    return {target: _breaker(row) for target, *row in connection.execute(_OF, parameters).fetchall()}


def of_shard(connection: sqlite3.Connection, shard: int) -> list[ShardBreaker]:
    """See the port."""
    rows = connection.execute(_OF_SHARD, {"shard": shard}).fetchall()
    return [
        ShardBreaker((workspace_id, environment), target, shard, _breaker(row))
        for workspace_id, environment, target, *row in rows
    ]


def _breaker(row: Sequence[Any]) -> Breaker:
    state, trips, reason, opened_at_ms, next_probe_at_ms, revision = row
    return Breaker(
        state=state,
        trips=trips,
        reason=reason,
        opened_at_ms=opened_at_ms,
        next_probe_at_ms=next_probe_at_ms,
        revision=revision,
    )
