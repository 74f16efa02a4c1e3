"""How a target is doing, asked of the SQLite read model: one statement, so all of it is of one snapshot.

What it costs does not grow with what is kept: tallies are looked up, the oldest open route is the first of
an index, and of errors and latencies only so many are read, from the newest back.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from atlas.adapters.sqlite_queries import CREATED, SCOPE
from atlas.adapters.sqlite_schema import A_NOTICE, CLOSED, DELIVERED_FIRST, OPEN
from atlas.core.entities import ENDPOINT_PREFIX
from atlas.core.health import TargetHealth
from atlas.ports.read_model import Scope

_decode = msgspec.json.Decoder(TargetHealth).decode

_ITS: Final = f"scope = {SCOPE} AND target = :target"
_COUNTS: Final = f"SELECT json_group_object(status, n) FROM tallies WHERE {_ITS}"  # noqa: S608  # constants of this module


def _failures(source: str, where: str, attempt: str) -> str:
    """The newest of one table; `UNION ALL` takes no LIMIT of its arms, but of what they select from."""
    return f"""SELECT * FROM (SELECT error_code, error_message, completed_at_ms, event_id, {attempt}
        FROM {source} WHERE {_ITS} AND {where}
        ORDER BY completed_at_ms DESC, event_id DESC LIMIT :errors_max)"""  # noqa: S608  # constants of this module


_ERRORS: Final = f"""SELECT json_group_array(json_array(error_code, coalesce(error_message, ''),
    completed_at_ms, event_id, attempt, http_status)) FROM (
        {_failures("attempts INDEXED BY attempts_failed", "error_code IS NOT NULL", "attempt, http_status")}
        UNION ALL {_failures("routes INDEXED BY routes_closed", CLOSED, "NULL, NULL")}
        ORDER BY completed_at_ms DESC, event_id DESC LIMIT :errors_max)"""  # noqa: S608  # constants of this module

_NEWEST: Final = f"""(SELECT * FROM attempts INDEXED BY attempts_delivered WHERE {_ITS}
    AND {DELIVERED_FIRST} AND completed_at_ms >= :since_ms
    ORDER BY completed_at_ms DESC LIMIT :latencies_max) AS a"""  # noqa: S608  # constants of this module

# Of a workflow: from when the event was received.
_OPEN_SHARDS: Final = f"""WITH RECURSIVE shards (shard) AS (
    SELECT min(partition) FROM routes INDEXED BY routes_open WHERE {OPEN} UNION ALL
    SELECT (SELECT min(partition) FROM routes INDEXED BY routes_open WHERE {OPEN} AND partition > shard)
        FROM shards WHERE shard IS NOT NULL)"""  # noqa: S608  # constants of this module
_OLDEST_EVENT: Final = f"""{_OPEN_SHARDS} SELECT min(e.received_at_ms) FROM shards CROSS JOIN events AS e
    ON e.scope = {SCOPE} AND e.id = (SELECT event_id FROM routes INDEXED BY routes_open
        WHERE partition = shard AND {_ITS} AND {OPEN} ORDER BY event_id LIMIT 1)"""  # noqa: S608  # constants of this module
_SINCE_RECEIVED: Final = f"""SELECT json_group_array(max(0, a.completed_at_ms - e.received_at_ms))
    FROM {_NEWEST} CROSS JOIN events AS e ON e.scope = a.scope AND e.id = a.event_id"""  # noqa: S608  # constants of this module

# Of an endpoint: from the outcome that it is told of.
_OLDEST_NOTICE: Final = f"""SELECT {CREATED} FROM routes INDEXED BY notices_open
    WHERE {_ITS} AND {A_NOTICE} AND {OPEN} ORDER BY {CREATED} LIMIT 1"""  # noqa: S608  # constants of this module
_SINCE_CREATED: Final = f"""SELECT json_group_array(max(0, a.completed_at_ms - {CREATED}))
    FROM {_NEWEST} CROSS JOIN routes ON routes.scope = a.scope AND routes.event_id = a.event_id
        AND routes.position = 0 AND routes.notice = a.notice"""  # noqa: S608  # constants of this module


def _health(oldest: str, latencies: str) -> str:
    return f"""SELECT json_object('counts', json(({_COUNTS})), 'oldest_open_ms', ({oldest}),
        'errors', json((SELECT json_group_array(json_object('code', value ->> 0, 'message', value ->> 1,
            'at_ms', value ->> 2, 'event_id', value ->> 3, 'attempt', value ->> 4,
            'http_status', value ->> 5)) FROM json_each(({_ERRORS})))),
        'latencies_ms', json(({latencies})))"""  # noqa: S608  # constants of this module


OF_WORKFLOW: Final = _health(_OLDEST_EVENT, _SINCE_RECEIVED)
OF_ENDPOINT: Final = _health(_OLDEST_NOTICE, _SINCE_CREATED)


def target_health(
    connection: sqlite3.Connection,
    scope: Scope,
    target: str,
    since_ms: int,
    errors_max: int,
    latencies_max: int,
) -> TargetHealth:
    """See the port."""
    sql = OF_ENDPOINT if target.startswith(ENDPOINT_PREFIX) else OF_WORKFLOW
    parameters = {
        "workspace_id": scope[0],
        "environment": scope[1],
        "target": target,
        "since_ms": since_ms,
        "errors_max": errors_max,
        "latencies_max": latencies_max,
    }
    [found] = connection.execute(sql, parameters).fetchone()
    return _decode(found)
