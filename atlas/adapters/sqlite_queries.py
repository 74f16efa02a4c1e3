"""Questions to the SQLite read model whose SQL does not depend on what is asked. Jobs that only read.

Each answer comes as one row of JSON (see `sqlite_driver` for what a row costs), decoded straight into
the port's types; and each is one statement, so what it holds is of one snapshot.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from atlas.adapters.sqlite_schema import A_NOTICE, A_ROUTE, OPEN
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.core.notices import NoticeState
from atlas.core.projection import AttemptState, EventState
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import EventKey, Jobs, NoticeAttempt, NoticeKey, Progress, Waiting

decode_events = msgspec.json.Decoder(list[EventState]).decode
_decode_attempts = msgspec.json.Decoder(list[AttemptState]).decode
_decode_notices = msgspec.json.Decoder(list[NoticeState]).decode
_decode_deliveries = msgspec.json.Decoder(list[NoticeAttempt]).decode
_decode_waiting = msgspec.json.Decoder(Waiting).decode

Parameters = Mapping[str, object]


def _object(fields: Iterable[str], **given: str) -> str:
    """SQL for a JSON object of these columns; `given` maps further fields to SQL."""
    columns = {name.rpartition(".")[2]: name for name in fields} | given
    return "json_object(" + ", ".join(f"'{field}', {sql}" for field, sql in columns.items()) + ")"


def event_object(workspace_id: str, environment: str, routes: str) -> str:
    """SQL for an `EventState` of `events AS e` joined with `topics AS t`, given SQL for the rest."""
    return _object(
        (
            "e.id",
            "e.stream",
            "e.type",
            "e.received_at_ms",
            "e.occurred_at",
            "e.idempotency_key",
            "e.actor_json",
            "e.metadata_json",
            "t.topic",
            "e.partition",
            "e.offset",
            "e.status",
        ),
        workspace_id=workspace_id,
        environment=environment,
        routes=routes,
    )


_ROUTE_FIELDS: Final = (
    "r.target",
    "r.status",
    "r.attempt",
    "r.replay",
    "r.completed_at_ms",
    "r.next_attempt_at_ms",
    "r.error_code",
    "r.error_message",
    "r.due_at_ms",
    "r.base",
    "r.bulk",
    "r.ordering_key",
    "r.place",
)
_ROUTE: Final = _object(_ROUTE_FIELDS, parked="json(CASE WHEN r.parked THEN 'true' ELSE 'false' END)")
_ROUTES: Final = f"""json((SELECT json_group_array({_ROUTE}) FROM (SELECT * FROM routes
    WHERE routes.scope = e.scope AND routes.event_id = e.id AND routes.{A_ROUTE}
    ORDER BY routes.position LIMIT -1) AS r))"""  # noqa: S608  # constants of this module
_LOAD: Final = f"""SELECT json_group_array({event_object("s.workspace_id", "s.environment", _ROUTES)})
    FROM json_each(:keys) AS k
    CROSS JOIN scopes AS s ON s.workspace_id = json_extract(k.value, '$[0]')
        AND s.environment = json_extract(k.value, '$[1]')
    CROSS JOIN events AS e ON e.scope = s.n AND e.id = json_extract(k.value, '$[2]')
    CROSS JOIN topics AS t ON t.n = e.topic"""  # noqa: S608  # constants of this module

#: SQL for the number of the scope asked for; NULL, which equals nothing, when it has no events.
SCOPE: Final = "(SELECT n FROM scopes WHERE workspace_id = :workspace_id AND environment = :environment)"

_ATTEMPT_FIELDS: Final = (
    "a.event_id",
    "a.partition",
    "a.offset",
    "a.target",
    "a.attempt",
    "a.replay",
    "a.status",
    "a.started_at_ms",
    "a.completed_at_ms",
    "a.duration_ms",
    "a.http_status",
    "a.error_code",
    "a.error_message",
    "a.response_body",
    "a.next_attempt_at_ms",
    "a.address",
    "a.connect_ms",
    "a.tls_ms",
    "a.first_byte_ms",
)
_ATTEMPT: Final = _object(
    _ATTEMPT_FIELDS,
    workspace_id=":workspace_id",
    environment=":environment",
    notice="nullif(a.notice, '')",
)
_ATTEMPTS: Final = f"""SELECT json_group_array({_ATTEMPT}) FROM (SELECT * FROM attempts
    WHERE scope = {SCOPE} AND event_id = :event_id AND {A_ROUTE}
    ORDER BY partition, offset LIMIT -1) AS a"""  # noqa: S608  # constants of this module

_POSITIONS: Final = """SELECT json_group_array(json_array(p.topic, p.partition, p.next_offset))
    FROM positions AS p"""
_PROGRESS: Final = f"""SELECT json_array(
    (SELECT incarnation FROM meta), json(({_POSITIONS})),
    json((SELECT json_group_array(json_array(shard, epoch)) FROM epochs)),
    json((SELECT json_group_array(json_array(topic, partition, before_offset)) FROM trims)))"""  # noqa: S608  # constants of this module


def _ask(connection: sqlite3.Connection, sql: str, parameters: Parameters) -> Any:
    [answer] = connection.execute(sql, parameters).fetchone()
    return answer


def load(connection: sqlite3.Connection, keys: Sequence[EventKey]) -> dict[EventKey, EventState]:
    """The states of those events that are there."""
    found = decode_events(_ask(connection, _LOAD, {"keys": orjson.dumps(keys).decode()}))
    return {event.key: event for event in found}


def attempts(connection: sqlite3.Connection, key: EventKey) -> list[AttemptState]:
    """Every attempt of an event, oldest first."""
    workspace_id, environment, event_id = key
    parameters = {"workspace_id": workspace_id, "environment": environment, "event_id": event_id}
    return _decode_attempts(_ask(connection, _ATTEMPTS, parameters))


def positions(connection: sqlite3.Connection) -> dict[TopicPartition, int]:
    """Next offset by partition."""
    return _by_partition(orjson.loads(_ask(connection, _POSITIONS, {})))


def progress(connection: sqlite3.Connection) -> Progress:
    """Where the store stands."""
    incarnation, reached, epochs, trimmed = orjson.loads(_ask(connection, _PROGRESS, {}))
    return Progress(incarnation, _by_partition(reached), dict(epochs), _by_partition(trimmed))


def _by_partition(rows: Iterable[tuple[str, int, int]]) -> dict[TopicPartition, int]:
    return {TopicPartition(topic, partition): offset for topic, partition, offset in rows}


# -- notices

_NOTICE: Final = _object(
    ("s.workspace_id", "s.environment", "r.event_id", "t.topic", "r.partition", "r.offset"),
    id="r.notice",
    outcome="json(r.outcome_json)",
    route=f"json({_ROUTE})",
)
_LOAD_NOTICES: Final = f"""SELECT json_group_array({_NOTICE})
    FROM json_each(:keys) AS k
    CROSS JOIN scopes AS s ON s.workspace_id = json_extract(k.value, '$[0]')
        AND s.environment = json_extract(k.value, '$[1]')
    CROSS JOIN routes AS r ON r.scope = s.n AND r.event_id = json_extract(k.value, '$[2]')
        AND r.position = 0 AND r.notice = json_extract(k.value, '$[3]')
    CROSS JOIN topics AS t ON t.n = r.topic"""  # noqa: S608  # constants of this module
#: When the outcome was, of which a notice tells.
CREATED: Final = "json_extract(outcome_json, '$.created_at_ms')"
# As many notices as could fill the page, then their attempts: the caller cuts off what is too much.
_DELIVERIES: Final = f"""SELECT json_group_array(json_object('attempt', json({_ATTEMPT}),
        'outcome', json(d.outcome_json))) FROM
    (SELECT * FROM routes INDEXED BY notices_by_endpoint WHERE scope = {SCOPE} AND target = :endpoint
        AND {A_NOTICE} AND attempt > 0 AND notice > :after ORDER BY notice LIMIT :limit) AS d
    CROSS JOIN attempts AS a INDEXED BY attempts_of_notices
        ON a.scope = d.scope AND a.notice = d.notice AND a.{A_NOTICE}"""  # noqa: S608  # constants of this module


def load_notices(connection: sqlite3.Connection, keys: Sequence[NoticeKey]) -> dict[NoticeKey, NoticeState]:
    """The states of those notices that are there."""
    found = _decode_notices(_ask(connection, _LOAD_NOTICES, {"keys": orjson.dumps(keys).decode()}))
    return {notice.key: notice for notice in found}


def deliveries(
    connection: sqlite3.Connection, scope: tuple[str, str], endpoint: str, after: str | None, limit: int
) -> list[NoticeAttempt]:
    """Attempts of the endpoint's next `limit` notices, in order."""
    parameters = {
        "workspace_id": scope[0],
        "environment": scope[1],
        "endpoint": endpoint,
        "after": after or "",
        "limit": limit,
    }
    return _decode_deliveries(_ask(connection, _DELIVERIES, parameters))


# -- routes that wait or are open

_WAITING_ROUTE: Final = _object(
    (
        "s.workspace_id",
        "s.environment",
        "r.event_id",
        "t.topic",
        "r.offset",
        "r.target",
        "r.attempt",
        "r.replay",
        "r.status",
        "r.base",
        "r.ordering_key",
    ),
    in_line="json(CASE WHEN r.parked AND r.due_at_ms IS NULL THEN 'true' ELSE 'false' END)",
    due_at_ms="coalesce(r.due_at_ms, 0)",
    notice="nullif(r.notice, '')",
    outcome="json(r.outcome_json)",
)


def _waiting(routes: str) -> str:
    """SQL for a `Waiting` of the rows of `routes` that this selects, in its order."""
    return _waiting_of(f"SELECT routes.* FROM routes {routes}")  # noqa: S608  # constants of this module


def _waiting_of(rows: str) -> str:
    return f"""SELECT json_object(
        'incarnation', (SELECT incarnation FROM meta),
        'lifecycle_position', coalesce((SELECT next_offset FROM positions
            WHERE topic = '{LIFECYCLE_TOPIC}' AND partition = :shard), 0),
        'routes', json((SELECT json_group_array({_WAITING_ROUTE}) FROM
            ({rows} LIMIT :limit) AS r
            CROSS JOIN scopes AS s ON s.n = r.scope CROSS JOIN topics AS t ON t.n = r.topic)))"""  # noqa: S608  # constants of this module


WAITING_FOR: Final = _waiting(
    f"""INDEXED BY routes_waiting WHERE partition = :shard AND scope = {SCOPE} AND target = :target
    AND due_at_ms IS NOT NULL AND due_at_ms <= :until_ms ORDER BY due_at_ms, offset, event_id"""
)
UPCOMING: Final = _waiting(
    """INDEXED BY routes_due WHERE partition = :shard AND due_at_ms IS NOT NULL
    AND due_at_ms > :after_ms AND due_at_ms <= :until_ms AND status = 'retry_scheduled'
    ORDER BY due_at_ms"""
)
OPEN_BELOW: Final = _waiting(
    f"""INDEXED BY routes_open WHERE partition = :shard AND {OPEN} AND offset < :before_offset
    AND topic = (SELECT n FROM topics WHERE topics.topic = :topic) ORDER BY offset, position"""  # noqa: S608  # constants of this module
)

_LINES: Final = f"""INDEXED BY routes_in_line WHERE partition = :shard AND ordering_key IS NOT NULL
    AND {OPEN}"""
_LINES_OF: Final = f"{_LINES} AND scope = {SCOPE} AND target = :target"
_IN_LINE: Final = f"{_LINES_OF} AND parked AND due_at_ms IS NULL"
_LINE_TOPIC: Final = (
    "topic = (SELECT n FROM topics WHERE topics.topic = :topic) AND ordering_key = :ordering_key"
)
_DUE: Final = f"""INDEXED BY routes_of_lines_due WHERE partition = :shard
    AND ordering_key IS NOT NULL AND due_at_ms IS NOT NULL AND scope = {SCOPE} AND target = :target"""
#: Open routes that keep order.
LINES: Final = _waiting(_LINES)
#: Of a line where none has its turn, and waits for its time or for room: a replay may have a place before it.
NEXT_IN_LINE: Final = _waiting_of(
    f"""SELECT routes.* FROM (SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM routes {_DUE} AND {_LINE_TOPIC}))
    CROSS JOIN routes {_LINES_OF} AND {_LINE_TOPIC} ORDER BY place, offset"""  # noqa: S608  # constants of this module
)
IN_LINE: Final = _waiting(f"{_IN_LINE} ORDER BY place, offset")
# A line may be long: step from line to line, not from row to row. (A comparison of two columns at once would
# begin with all rows of the line before.)
_TOPIC_AFTER: Final = f"""(SELECT topic FROM routes {_LINES_OF} AND topic > t.of_topic
    ORDER BY topic LIMIT 1)"""  # noqa: S608  # constants of this module
_KEYS_OF: Final = f"SELECT ordering_key FROM routes {_LINES_OF} AND topic ="  # noqa: S608  # constants of this module
_SAME_LINE: Final = "x.topic = l.of_topic AND x.ordering_key = l.of_key"
HEADS: Final = _waiting_of(
    f"""WITH RECURSIVE t (of_topic) AS (
        SELECT 0 UNION ALL SELECT {_TOPIC_AFTER} FROM t WHERE t.of_topic IS NOT NULL),
    l (of_topic, of_key) AS (
        SELECT t.of_topic, ({_KEYS_OF} t.of_topic ORDER BY ordering_key LIMIT 1) FROM t UNION ALL
        SELECT l.of_topic, ({_KEYS_OF} l.of_topic AND ordering_key > l.of_key ORDER BY ordering_key LIMIT 1)
        FROM l WHERE l.of_key IS NOT NULL)
    SELECT x.* FROM l CROSS JOIN routes AS x {_LINES_OF} AND {_SAME_LINE} AND parked AND due_at_ms IS NULL
        AND (place, offset) = (SELECT place, offset FROM routes AS x {_LINES_OF} AND {_SAME_LINE}
            ORDER BY place, offset LIMIT 1)
        AND NOT EXISTS (SELECT 1 FROM routes AS x {_DUE} AND {_SAME_LINE})"""  # noqa: S608  # constants of this module
)

# 100,000 retries may wait for a handful of targets: step from target to target, not from row to row.
_NEXT_TARGET: Final = """FROM routes INDEXED BY routes_waiting WHERE partition = :shard
    AND due_at_ms IS NOT NULL AND scope = w.scope AND target > w.target ORDER BY target LIMIT 1"""
_TARGETS_WAITING: Final = f"""WITH RECURSIVE w (scope, target) AS (
    SELECT n, '' FROM scopes UNION ALL
    SELECT w.scope, (SELECT target {_NEXT_TARGET}) FROM w WHERE w.target IS NOT NULL)
    SELECT json_group_array(json_array(s.workspace_id, s.environment, w.target))
    FROM w CROSS JOIN scopes AS s ON s.n = w.scope
    WHERE EXISTS (SELECT 1 FROM routes INDEXED BY routes_waiting WHERE partition = :shard
        AND scope = w.scope AND target = w.target AND due_at_ms IS NOT NULL AND due_at_ms <= :until_ms)"""  # noqa: S608  # constants of this module
_OLDEST_OF_ALL: Final = """WITH RECURSIVE shards (shard) AS (
    SELECT min(partition) FROM routes INDEXED BY routes_due WHERE due_at_ms IS NOT NULL UNION ALL
    SELECT (SELECT min(partition) FROM routes INDEXED BY routes_due
        WHERE due_at_ms IS NOT NULL AND partition > shard) FROM shards WHERE shard IS NOT NULL)
    SELECT min((SELECT min(due_at_ms) FROM routes INDEXED BY routes_due
        WHERE partition = shard AND due_at_ms IS NOT NULL)) FROM shards"""
# The oldest of each shard and target, without what an open breaker keeps: one step for each, 3 us.
_OLDEST_NOT_KEPT: Final = """WITH RECURSIVE w (row) AS (
    SELECT json_array(-1, 0, '') UNION ALL
    SELECT (SELECT json_array(partition, scope, target, due_at_ms) FROM routes INDEXED BY routes_waiting
        WHERE due_at_ms IS NOT NULL AND (partition, scope, target, due_at_ms) >
            (json_extract(w.row, '$[0]'), json_extract(w.row, '$[1]'), json_extract(w.row, '$[2]'), 1 << 62)
        ORDER BY partition, scope, target, due_at_ms LIMIT 1) FROM w WHERE w.row IS NOT NULL)
    SELECT min(json_extract(w.row, '$[3]')) FROM w WHERE NOT EXISTS (SELECT 1 FROM breakers AS b
        WHERE b.scope = json_extract(w.row, '$[1]') AND b.target = json_extract(w.row, '$[2]')
            AND b.shard = json_extract(w.row, '$[0]'))"""
_OLDEST_DUE: Final = f"""SELECT CASE WHEN EXISTS (SELECT 1 FROM breakers)
    THEN ({_OLDEST_NOT_KEPT}) ELSE ({_OLDEST_OF_ALL}) END"""  # noqa: S608  # constants of this module


def waiting(connection: sqlite3.Connection, sql: str, parameters: Parameters) -> Waiting:
    """One of the four questions above."""
    return _decode_waiting(_ask(connection, sql, parameters))


def targets_waiting(connection: sqlite3.Connection, shard: int, until_ms: int) -> set[tuple[str, str, str]]:
    """(workspace, environment, target) of those with routes due by then."""
    found = _ask(connection, _TARGETS_WAITING, {"shard": shard, "until_ms": until_ms})
    return {tuple(row) for row in orjson.loads(found)}


_NEXT_LINED: Final = f"""FROM routes INDEXED BY routes_in_line WHERE partition = :shard
    AND ordering_key IS NOT NULL AND {OPEN} AND scope = w.scope AND target > w.target
    ORDER BY target LIMIT 1"""
_TARGETS_IN_LINE: Final = f"""WITH RECURSIVE w (scope, target) AS (
    SELECT n, '' FROM scopes UNION ALL
    SELECT w.scope, (SELECT target {_NEXT_LINED}) FROM w WHERE w.target IS NOT NULL)
    SELECT json_group_array(json_array(s.workspace_id, s.environment, w.target))
    FROM w CROSS JOIN scopes AS s ON s.n = w.scope WHERE w.target > ''"""  # noqa: S608  # constants of this module


def targets_in_line(connection: sqlite3.Connection, shard: int) -> set[tuple[str, str, str]]:
    """(workspace, environment, target) of those with open routes that keep order."""
    return {tuple(row) for row in orjson.loads(_ask(connection, _TARGETS_IN_LINE, {"shard": shard}))}


def oldest_due_ms(connection: sqlite3.Connection) -> int | None:
    """When the route that has waited longest, and not for a breaker, was, or will be, due."""
    due_ms: int | None = _ask(connection, _OLDEST_DUE, {})
    return due_ms


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows by table."""
    tables = ("events", "routes", "attempts", "terms", "quarantine")
    columns = ", ".join(f"'{table}', (SELECT count(*) FROM {table})" for table in tables)  # noqa: S608  # constants of this module
    rows: dict[str, int] = orjson.loads(_ask(connection, f"SELECT json_object({columns})", {}))
    return rows


_JOBS: Final = """SELECT json_object('position', (SELECT jobs_position FROM meta), 'states',
    json((SELECT json_group_object(id, json(state)) FROM jobs)))"""
_decode_jobs = msgspec.json.Decoder(Jobs).decode


def jobs(connection: sqlite3.Connection) -> Jobs:
    """Rebuilds and verifications."""
    return _decode_jobs(_ask(connection, _JOBS, {}))
