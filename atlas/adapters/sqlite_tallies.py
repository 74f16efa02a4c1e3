"""How many routes each target has in which status, kept by the batches that change them.

Counting when asked takes 130 ms for every million routes; a trigger takes 12 us for every event. A batch
takes its routes out of the tallies as they were, and puts them in as they are: two statements, whatever its
size. Rows of nothing go, so that tallies depend on the routes alone, and the digest may hold them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from atlas.adapters.sqlite_schema import A_ROUTE

#: Scope, event id and notice ('' for the routes of the event itself).
Key = tuple[int, str, str]

_PUT: Final = "ON CONFLICT (scope, target, status) DO UPDATE SET n = n + excluded.n"
_OF_KEYS: Final = f"""INSERT INTO tallies SELECT r.scope, r.target, r.status, :sign * count(*)
    FROM json_each(:keys) AS k CROSS JOIN routes AS r
        ON r.scope = json_extract(k.value, '$[0]') AND r.event_id = json_extract(k.value, '$[1]')
        AND r.notice = json_extract(k.value, '$[2]')
    GROUP BY r.scope, r.target, r.status {_PUT}"""  # noqa: S608  # constants of this module
_SWEEP: Final = "DELETE FROM tallies WHERE n = 0"


def keys_of(rows: Iterable[Key]) -> str:
    """The routes a batch is about to change, for `take` and `put`."""
    return orjson.dumps(list(rows)).decode()


def take(connection: sqlite3.Connection, keys: str) -> None:
    """Before the batch: these routes count no longer."""
    connection.execute(_OF_KEYS, {"keys": keys, "sign": -1})


def put(connection: sqlite3.Connection, keys: str) -> None:
    """After the batch: they count as they are now."""
    connection.execute(_OF_KEYS, {"keys": keys, "sign": 1})
    connection.execute(_SWEEP)


def take_trimmed(connection: sqlite3.Connection, trimmed: str, parameters: Mapping[str, Any]) -> None:
    """Before a step of a trim deletes routes: those of the events that `trimmed` selects."""
    connection.execute(
        f"""INSERT INTO tallies SELECT scope, target, status, -count(*) FROM routes
        WHERE scope = :scope AND event_id IN (SELECT id FROM events WHERE {trimmed} AND scope = :scope)
        GROUP BY scope, target, status {_PUT}""",  # noqa: S608  # constants of the caller
        parameters,
    )
    connection.execute(_SWEEP)


#: For tests: what the tallies have to be.
COUNTED: Final = f"""SELECT scope, target, status, count(*) FROM routes WHERE {A_ROUTE} OR notice <> ''
    GROUP BY scope, target, status ORDER BY scope, target, status"""  # noqa: S608  # constants of this module
