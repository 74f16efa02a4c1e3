"""What one projector batch does to the tables. Jobs for `sqlite_driver`, each within one transaction.

Rows go in many to a statement (`_CHUNKS`), or as one JSON parameter where they are few. An event that is
new gets its terms; of one that is known only status and routes change, for its record never does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import msgspec
import orjson

from atlas.adapters import sqlite_breakers, sqlite_bulk, sqlite_tallies
from atlas.adapters.sqlite_schema import DDL, SCHEMA_VERSION, TERM_COLUMNS, TERMS_OF_E
from atlas.core.errors import AtlasError, StaleWriter
from atlas.core.ids import ENTROPY_BYTES, TIME_MS_MAX, event_id
from atlas.core.lifecycle import RouteState
from atlas.core.notices import NoticeState
from atlas.core.projection import AttemptState, EventState
from atlas.ports.read_model import Changes, JobState, Scope, Trim

#: Rows in a statement, whose text and compiled form are cached for these sizes only. 512 rows of the
#: widest table are 8,704 parameters; SQLite takes 32,766.
_CHUNKS: Final = (512, 128, 32, 8, 1)
#: Rebuilds and verifications whose outcome is kept.
JOBS_KEPT: Final = 1_000
#: Events that one step of a trim removes: bounds what SQLite keeps aside for it.
TRIM_STEP_EVENTS: Final = 5_000

_NOTICE_COLUMN: Final = 16
_TIME_CHARS: Final = len("evt_") + 10
Row = tuple[Any, ...]


class UnknownSchema(AtlasError):
    """The file has tables of another version."""


# -- making the store


def ensure_schema(connection: sqlite3.Connection, incarnation: str) -> None:
    """Make the tables if the file is empty.

    Raises:
        UnknownSchema: it has other tables.
    """
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    if version or connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise UnknownSchema(f"schema version {version}, not {SCHEMA_VERSION}")
    for statement in DDL:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES (?, 1, NULL)", (incarnation,))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


# -- rows by the many


@cache
def _insert(into: str, on_conflict: str, columns: int, rows: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return f"INSERT INTO {into} VALUES {','.join([row] * rows)} ON CONFLICT {on_conflict}"  # noqa: S608  # constants of this module


def _chunks(rows: int) -> Iterator[int]:
    """Sizes of the statements that take so many rows; the last one may be larger than what is left."""
    while rows > 0:
        enough = min((size for size in _CHUNKS if size >= rows), default=_CHUNKS[0])
        size = enough if enough <= 2 * rows else max(size for size in _CHUNKS if size <= rows)
        yield size
        rows -= size


def _insert_rows(connection: sqlite3.Connection, into: str, on_conflict: str, rows: Sequence[Row]) -> None:
    start = 0
    for size in _chunks(len(rows)):
        chunk = rows[start : start + size]
        start += size
        parameters = [value for row in chunk for value in row]
        # A second copy of a row changes nothing, and costs less than another statement.
        parameters += rows[-1] * (size - len(chunk))
        connection.execute(_insert(into, on_conflict, len(rows[0]), size), parameters)


def _json(rows: Iterable[Sequence[object]]) -> str:
    return orjson.dumps(list(rows)).decode()


# -- a batch

_EVENT_CHANGED: Final = """(scope, id) DO UPDATE SET status = excluded.status
    WHERE status <> excluded.status"""
_ROUTE_CHANGED: Final = """(scope, event_id, position, notice) DO UPDATE SET
    target = excluded.target, status = excluded.status, attempt = excluded.attempt,
    replay = excluded.replay, completed_at_ms = excluded.completed_at_ms,
    next_attempt_at_ms = excluded.next_attempt_at_ms, error_code = excluded.error_code,
    error_message = excluded.error_message, due_at_ms = excluded.due_at_ms, parked = excluded.parked,
    base = excluded.base, bulk = excluded.bulk, place = excluded.place"""

_NEW_KEYS: Final = """SELECT json_group_array(json(k.value)) FROM json_each(?) AS k
    WHERE NOT EXISTS (SELECT 1 FROM events WHERE scope = json_extract(k.value, '$[0]')
        AND id = json_extract(k.value, '$[1]'))"""
_ADD_TERMS: Final = f"""INSERT INTO terms (scope, term, id)
    WITH e AS MATERIALIZED (SELECT {TERM_COLUMNS} FROM json_each(?) AS k CROSS JOIN events
        ON events.scope = json_extract(k.value, '$[0]') AND events.id = json_extract(k.value, '$[1]'))
    SELECT * FROM ({TERMS_OF_E}) WHERE true ON CONFLICT DO NOTHING"""  # noqa: S608  # constants of this module

_START_POSITIONS: Final = """INSERT INTO positions
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), 0 FROM json_each(?)
    WHERE json_extract(value, '$[2]') = 0 ON CONFLICT DO NOTHING"""
_ADVANCE: Final = """UPDATE positions SET next_offset = json_extract(a.value, '$[3]') FROM json_each(?) AS a
    WHERE positions.topic = json_extract(a.value, '$[0]')
    AND positions.partition = json_extract(a.value, '$[1]')
    AND positions.next_offset = json_extract(a.value, '$[2]')"""
_EPOCHS: Final = """INSERT INTO epochs
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?) WHERE true
    ON CONFLICT (shard) DO UPDATE SET epoch = max(epoch, excluded.epoch)"""
_QUARANTINE: Final = """INSERT INTO quarantine
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?) WHERE true
    ON CONFLICT DO NOTHING"""


class BatchWriter:
    """Applies batches; knows the numbers of scopes and topics. `forget` after a batch that failed."""

    def __init__(self) -> None:
        self._names = _Names()

    def forget(self) -> None:
        """Numbers given in a transaction that was rolled back mean nothing."""
        self._names = _Names()

    def apply(self, connection: sqlite3.Connection, changes: Changes) -> None:
        """The job.

        Raises:
            StaleWriter: a position is not where the batch expects it.
        """
        names = self._names
        _fence(connection, changes)
        _put_events(connection, names, changes.events)
        if changes.notices:
            rows = [_notice_row(names, connection, notice) for notice in changes.notices]
            _put_routes(connection, rows)
        if changes.attempts:
            rows = [_attempt_row(names.scope(connection, (a.workspace_id, a.environment)), a)
                    for a in changes.attempts]  # fmt: skip
            _insert_rows(connection, "attempts", "DO NOTHING", rows)
        if changes.epochs:
            connection.execute(_EPOCHS, (_json(changes.epochs.items()),))
        if changes.quarantined:
            bad = [(*q.source, q.offset, q.reason, q.at_ms) for q in changes.quarantined]
            connection.execute(_QUARANTINE, (_json(bad),))
        for progress in changes.bulk_replays:
            sqlite_bulk.put(connection, names.scope(connection, progress.scope), progress)
        for each in changes.breakers:
            sqlite_breakers.put(connection, names.scope(connection, each.scope), each)
        for trim in changes.trims:
            _trim(connection, trim)


class _Names:
    """Numbers of scopes and topics, made as they come."""

    def __init__(self) -> None:
        self._scopes: dict[Scope, int] = {}
        self._topics: dict[str, int] = {}

    def scope(self, connection: sqlite3.Connection, scope: Scope) -> int:
        number = self._scopes.get(scope)
        if number is None:
            connection.execute(
                "INSERT INTO scopes (workspace_id, environment) VALUES (?, ?) ON CONFLICT DO NOTHING", scope
            )
            query = "SELECT n FROM scopes WHERE workspace_id = ? AND environment = ?"
            [number] = connection.execute(query, scope).fetchone()
            self._scopes[scope] = number
        return number

    def topic(self, connection: sqlite3.Connection, topic: str) -> int:
        number = self._topics.get(topic)
        if number is None:
            connection.execute("INSERT INTO topics (topic) VALUES (?) ON CONFLICT DO NOTHING", (topic,))
            [number] = connection.execute("SELECT n FROM topics WHERE topic = ?", (topic,)).fetchone()
            self._topics[topic] = number
        return number


def _fence(connection: sqlite3.Connection, changes: Changes) -> None:
    if not changes.advances:
        return
    rows = _json((*a.source, a.expected, a.next_offset) for a in changes.advances)
    connection.execute(_START_POSITIONS, (rows,))
    if connection.execute(_ADVANCE, (rows,)).rowcount != len(changes.advances):
        raise StaleWriter("the read model has moved on from where this batch starts")


def _put_events(connection: sqlite3.Connection, names: _Names, events: Sequence[EventState]) -> None:
    if not events:
        return
    event_rows: list[Row] = []
    route_rows: list[Row] = []
    timed = True
    for event in events:
        scope = names.scope(connection, (event.workspace_id, event.environment))
        topic = names.topic(connection, event.topic)
        event_rows.append(_event_row(scope, topic, event))
        route_rows += _route_rows(scope, topic, event)
        timed = timed and event.id.startswith(id_time_prefix(event.received_at_ms))
    keys = _json(row[:2] for row in event_rows)
    [new_keys] = connection.execute(_NEW_KEYS, (keys,)).fetchone()
    _insert_rows(connection, "events", _EVENT_CHANGED, event_rows)
    _put_routes(connection, route_rows)
    if new_keys != "[]":
        connection.execute(_ADD_TERMS, (new_keys,))
    if not timed:
        connection.execute("UPDATE meta SET timed_ids = 0")


def _put_routes(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    keys = sqlite_tallies.keys_of({(row[0], row[1], row[_NOTICE_COLUMN]) for row in rows})
    sqlite_tallies.take(connection, keys)
    _insert_rows(connection, "routes", _ROUTE_CHANGED, rows)
    sqlite_tallies.put(connection, keys)


@lru_cache(maxsize=1_024)
def id_time_prefix(time_ms: int) -> str:
    """What every event id made in this millisecond starts with; sorts before all of them."""
    return event_id(max(0, min(time_ms, TIME_MS_MAX)), bytes(ENTROPY_BYTES))[:_TIME_CHARS]


def _event_row(scope: int, topic: int, event: EventState) -> Row:
    return (
        scope,
        event.id,
        event.stream,
        event.type,
        event.received_at_ms,
        event.occurred_at,
        event.idempotency_key,
        event.actor_json,
        event.metadata_json,
        topic,
        event.partition,
        event.offset,
        event.status,
    )


def _route_rows(scope: int, topic: int, event: EventState) -> list[Row]:
    return [
        (
            scope,
            event.id,
            position,
            *_route_columns(route),
            topic,
            event.partition,
            event.offset,
            "",
            None,
            route.base,
            route.bulk,
            route.ordering_key,
            route.place,
        )
        for position, route in enumerate(event.routes)
    ]


def _notice_row(names: _Names, connection: sqlite3.Connection, notice: NoticeState) -> Row:
    return (
        names.scope(connection, (notice.workspace_id, notice.environment)),
        notice.event_id,
        0,
        *_route_columns(notice.route),
        names.topic(connection, notice.topic),
        notice.partition,
        notice.offset,
        notice.id,
        msgspec.json.encode(notice.outcome).decode(),
        notice.route.base,
        notice.route.bulk,
        None,
        0,
    )


def _route_columns(route: RouteState) -> Row:
    return (
        route.target,
        route.status,
        route.attempt,
        route.replay,
        route.completed_at_ms,
        route.next_attempt_at_ms,
        route.error_code,
        route.error_message,
        route.due_at_ms,
        route.parked,
    )


def _attempt_row(scope: int, attempt: AttemptState) -> Row:
    return (
        scope,
        attempt.event_id,
        attempt.partition,
        attempt.offset,
        attempt.target,
        attempt.attempt,
        attempt.replay,
        attempt.status,
        attempt.started_at_ms,
        attempt.completed_at_ms,
        attempt.duration_ms,
        attempt.http_status,
        attempt.error_code,
        attempt.error_message,
        attempt.response_body,
        attempt.next_attempt_at_ms,
        attempt.address,
        attempt.connect_ms,
        attempt.tls_ms,
        attempt.first_byte_ms,
        attempt.notice or "",
    )


# -- retention

_TRIMMED: Final = """events.topic = (SELECT n FROM topics WHERE topic = :topic)
    AND events.partition = :partition AND events.offset < :step"""
_STEP: Final = f"""SELECT events.offset FROM events WHERE {_TRIMMED}
    ORDER BY events.offset LIMIT 1 OFFSET {TRIM_STEP_EVENTS}"""  # noqa: S608  # constants of this module
_SCOPES: Final = f"SELECT DISTINCT events.scope FROM events WHERE {_TRIMMED}"  # noqa: S608  # constants of this module
# Scope by scope (a topic has one): with the scope inside the IN, SQLite would use the index up to there
# only, and go through all the rest of the scope.
_DELETES: Final = (
    f"""WITH e AS MATERIALIZED (SELECT {TERM_COLUMNS} FROM events WHERE {_TRIMMED} AND scope = :scope),
    found (scope, term, id) AS MATERIALIZED ({TERMS_OF_E})
    DELETE FROM terms WHERE scope = :scope AND (term, id) IN (SELECT term, id FROM found)""",  # noqa: S608  # constants of this module
    f"""DELETE FROM attempts WHERE scope = :scope AND event_id IN
    (SELECT id FROM events WHERE {_TRIMMED} AND scope = :scope)""",  # noqa: S608  # constants of this module
    f"""DELETE FROM routes WHERE scope = :scope AND event_id IN
    (SELECT id FROM events WHERE {_TRIMMED} AND scope = :scope)""",  # noqa: S608  # constants of this module
)
_DELETE_EVENTS: Final = f"DELETE FROM events WHERE {_TRIMMED}"  # noqa: S608  # constants of this module


def _trim(connection: sqlite3.Connection, trim: Trim) -> None:
    topic, partition = trim.source
    where = {"topic": topic, "partition": partition}
    connection.execute(
        """INSERT INTO trims VALUES (:topic, :partition, :before) ON CONFLICT (topic, partition)
        DO UPDATE SET before_offset = max(before_offset, excluded.before_offset)""",
        {**where, "before": trim.before_offset},
    )
    # A rebuild never meets the records that were trimmed, so what they left goes too.
    connection.execute(
        "DELETE FROM quarantine WHERE topic = :topic AND partition = :partition AND offset < :before",
        {**where, "before": trim.before_offset},
    )
    more = True
    while more:
        found = connection.execute(_STEP, {**where, "step": trim.before_offset}).fetchone()
        more = found is not None
        step = {**where, "step": found[0] if found else trim.before_offset}
        for [scope] in connection.execute(_SCOPES, step).fetchall():
            sqlite_tallies.take_trimmed(connection, _TRIMMED, {**step, "scope": scope})
            for statement in _DELETES:
                connection.execute(statement, {**step, "scope": scope})
        connection.execute(_DELETE_EVENTS, step)


# -- what is not from the log


_STARTED: Final = "json_extract(state, '$.started_at_ms')"
_FORGET_JOBS: Final = f"""DELETE FROM jobs WHERE {_STARTED} <
    (SELECT {_STARTED} FROM jobs ORDER BY 1 DESC LIMIT 1 OFFSET ?)"""  # noqa: S608  # constants of this module


def note_jobs(connection: sqlite3.Connection, states: Sequence[JobState], position: int | None) -> None:
    """Replace these states; move the position unless it is None. The oldest beyond `JOBS_KEPT` go."""
    for state in states:
        row = (state.id, msgspec.json.encode(state).decode())
        connection.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", row)
    connection.execute(_FORGET_JOBS, (JOBS_KEPT - 1,))
    if position is not None:
        connection.execute("UPDATE meta SET jobs_position = ?", (position,))
