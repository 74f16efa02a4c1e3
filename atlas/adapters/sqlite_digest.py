"""A hash over every row of the SQLite read model that the log determines (guarantee G6).

Rows go in key order, scopes and topics by name, so that neither the order of arrival nor numbers given
on the way tell. Left out: the incarnation, positions (how far, not what), and when a record was
quarantined, which is the time of the fold.
"""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from atlas.ports.read_model import Comparison, Difference

#: Rows hashed at once: one string of JSON in memory.
CHUNK_ROWS: Final = 2_000


class _Table(NamedTuple):
    """`key` orders the rows of one scope, or of the whole table when there are no scopes in it."""

    name: str
    key: tuple[str, ...]
    columns: str
    scoped: bool = True


_TOPIC: Final = "(SELECT topic FROM topics WHERE n = x.topic)"
_TABLES: Final = (
    _Table(
        "events",
        ("id",),
        f"""x.id, x.stream, x.type, x.received_at_ms, x.occurred_at, x.idempotency_key, x.actor_json,
        x.metadata_json, {_TOPIC}, x.partition, x.offset, x.status""",
    ),
    _Table(
        "routes",
        ("event_id", "position", "notice"),
        f"""x.event_id, x.position, x.target, x.status, x.attempt, x.replay, x.completed_at_ms,
        x.next_attempt_at_ms, x.error_code, x.error_message, x.due_at_ms, x.parked, {_TOPIC},
        x.partition, x.offset, x.notice, x.outcome_json, x.base, x.bulk, x.ordering_key, x.place""",
    ),
    _Table(
        "attempts",
        ("event_id", "partition", "offset"),
        """x.event_id, x.partition, x.offset, x.target, x.attempt, x.replay, x.status, x.started_at_ms,
        x.completed_at_ms, x.duration_ms, x.http_status, x.error_code, x.error_message, x.response_body,
        x.next_attempt_at_ms, x.address, x.connect_ms, x.tls_ms, x.first_byte_ms,
        x.notice""",
    ),
    _Table("terms", ("term", "id"), "x.term, x.id"),
    _Table("tallies", ("target", "status"), "x.target, x.status, x.n"),
    _Table(
        "bulk_replays", ("id",), "x.id, x.after, x.through, x.matched, x.replayed, x.skipped, x.done_at_ms"
    ),
    _Table(
        "breakers",
        ("target", "shard"),
        "x.target, x.shard, x.state, x.trips, x.reason, x.opened_at_ms, x.next_probe_at_ms, x.revision",
    ),
    _Table("epochs", ("shard",), "x.shard, x.epoch", scoped=False),
    _Table("trims", ("topic", "partition"), "x.topic, x.partition, x.before_offset", scoped=False),
    _Table(
        "quarantine",
        ("topic", "partition", "offset"),
        "x.topic, x.partition, x.offset, x.reason",
        scoped=False,
    ),
)


#: Differences told of each table.
DIFFERENCES_MAX: Final = 10


def digest(connection: sqlite3.Connection) -> str:
    """The hash, in hexadecimal, of one snapshot of the store."""
    connection.execute("BEGIN")
    try:
        return digest_within(connection)
    finally:
        if connection.in_transaction:  # an error may have ended it
            connection.execute("ROLLBACK")


def _scopes(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
    query = "SELECT n, workspace_id, environment FROM scopes ORDER BY workspace_id, environment"
    return connection.execute(query).fetchall()


def digest_within(connection: sqlite3.Connection) -> str:
    """The same within a transaction of the caller's."""
    scopes = _scopes(connection)
    whole = hashlib.sha256()
    for table in _TABLES:
        whole.update(f"\n{table.name}".encode())
        for number, workspace_id, environment in scopes if table.scoped else [(None, "", "")]:
            name = f"\n{workspace_id}/{environment}"
            for rows in _chunks(connection, table, number):
                whole.update(f"{name}\n{rows}".encode())
    return whole.hexdigest()


def _chunks(connection: sqlite3.Connection, table: _Table, scope: int | None) -> Iterator[str]:
    """JSON of the rows, in key order; empty when there are none."""
    key = ", ".join(table.key)
    marks = ", ".join("?" * len(table.key))
    where = "scope = ?" if table.scoped else "? IS NULL"
    after: Sequence[object] = ()
    while True:
        bounds, parameters = where, [scope, *after]
        if after:
            bounds += f" AND ({key}) > ({marks})"
        end = connection.execute(
            f"SELECT {key} FROM {table.name} WHERE {bounds} ORDER BY {key} LIMIT 1 OFFSET {CHUNK_ROWS - 1}",  # noqa: S608  # constants of this module
            parameters,
        ).fetchone()
        # The chunk ends where the key says, so that aggregation sees exactly these rows, in order.
        [count, rows] = connection.execute(
            f"""SELECT count(*), json_group_array(json_array({table.columns})) FROM
            (SELECT * FROM {table.name} WHERE {bounds} ORDER BY {key} LIMIT {CHUNK_ROWS}) AS x""",  # noqa: S608  # constants of this module
            parameters,
        ).fetchone()
        if count:
            yield rows
        if end is None:
            return
        after = end


# -- where two stores differ


def compare(live: sqlite3.Connection, rebuilt: sqlite3.Connection) -> Comparison:
    """Two stores, each within a transaction."""
    digests = digest_within(live), digest_within(rebuilt)
    if digests[0] == digests[1]:
        return Comparison(*digests)
    names = {(workspace, environment) for _, workspace, environment in _scopes(live) + _scopes(rebuilt)}
    found: list[Difference] = []
    for table in _TABLES:
        of_table: Iterator[Difference] = itertools.chain.from_iterable(
            _differences(live, rebuilt, table, scope) for scope in (sorted(names) if table.scoped else [None])
        )
        found += itertools.islice(of_table, DIFFERENCES_MAX)
    return Comparison(*digests, found)


def _differences(
    live: sqlite3.Connection, rebuilt: sqlite3.Connection, table: _Table, scope: tuple[str, str] | None
) -> Iterator[Difference]:
    """Merges the rows of both, which come in key order."""
    name = "/".join(scope or ())
    left, right = _rows(live, table, scope), _rows(rebuilt, table, scope)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield Difference(table.name, name, one[0], "live")
            one = next(left, None)
        elif one is None or other[0] < one[0]:
            yield Difference(table.name, name, other[0], "rebuilt")
            other = next(right, None)
        else:
            if one[1] != other[1]:
                yield Difference(table.name, name, one[0], "both")
            one, other = next(left, None), next(right, None)


def _rows(
    connection: sqlite3.Connection, table: _Table, scope: tuple[str, str] | None
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Key and JSON of each row. SQLite orders text by its UTF-8 bytes, and so does Python: by code point."""
    number = "(SELECT n FROM scopes WHERE workspace_id = ? AND environment = ?)"
    where, parameters = (f"WHERE scope = {number}", scope) if scope else ("", ())
    key = ", ".join(f"x.{column}" for column in table.key)
    rows = connection.execute(
        f"SELECT {key}, json_array({table.columns}) FROM {table.name} AS x {where} ORDER BY {key}",  # noqa: S608  # constants of this module
        parameters,
    )
    return ((row[:-1], row[-1]) for row in rows)
