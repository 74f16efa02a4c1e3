"""Tables of the SQLite read model, and the terms its events are found by.

Scopes and topics have short numbers, given as they come: nothing that leaves the store, the digest
included, depends on them. Text compares bytewise (SQLite's default), so ids ascend by time.

`terms` is the inverted index for equality filters: (scope, term, event id). A term is a letter for the
kind, then the value; a metadata pair has its key's length in front, so that no two pairs are the same
text. Terms are made in SQL, for rows and for queries by the one table below: a batch's terms are one
statement, and a trim finds the same ones again.
"""

from __future__ import annotations

import hashlib
from typing import Final

from atlas.core.facts import CLOSING_CODES

#: What `routes_open` holds. Queries repeat it word for word, else SQLite does not use the index.
OPEN: Final = "status NOT IN ('delivered', 'failed')"

#: A row of `routes` or `attempts` is of an event's route, or of a notice on its way to an endpoint.
A_ROUTE: Final = "notice = ''"
A_NOTICE: Final = "notice <> ''"

#: A route that ended without an attempt.
CLOSED: Final = f"error_code IN {CLOSING_CODES!r}"
#: An attempt that delivered what was sent first, and no replay of it.
DELIVERED_FIRST: Final = "status = 'delivered' AND replay = 0"

DDL: Final = (
    # timed_ids: whether every event's id carries its received_at_ms, as ids are made (design section 6).
    # jobs_position: the control offset up to which requests are done with.
    """CREATE TABLE meta (incarnation TEXT NOT NULL, timed_ids INTEGER NOT NULL, jobs_position INTEGER)""",
    """CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE scopes (n INTEGER PRIMARY KEY, workspace_id TEXT NOT NULL, environment TEXT NOT NULL,
        UNIQUE (workspace_id, environment))""",
    """CREATE TABLE topics (n INTEGER PRIMARY KEY, topic TEXT NOT NULL UNIQUE)""",
    """CREATE TABLE positions (topic TEXT NOT NULL, partition INTEGER NOT NULL,
        next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID""",
    """CREATE TABLE epochs (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL)""",
    """CREATE TABLE trims (topic TEXT NOT NULL, partition INTEGER NOT NULL,
        before_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID""",
    """CREATE TABLE quarantine (topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
        reason TEXT NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (topic, partition, offset)) WITHOUT ROWID""",
    """CREATE TABLE events (scope INTEGER NOT NULL, id TEXT NOT NULL, stream TEXT NOT NULL,
        type TEXT NOT NULL, received_at_ms INTEGER NOT NULL, occurred_at TEXT NOT NULL,
        idempotency_key TEXT, actor_json TEXT, metadata_json TEXT, topic INTEGER NOT NULL,
        partition INTEGER NOT NULL, offset INTEGER NOT NULL, status TEXT NOT NULL,
        PRIMARY KEY (scope, id)) WITHOUT ROWID""",
    """CREATE INDEX events_by_status ON events (scope, status, id)""",
    """CREATE INDEX events_by_position ON events (topic, partition, offset)""",
    """CREATE TABLE routes (scope INTEGER NOT NULL, event_id TEXT NOT NULL, position INTEGER NOT NULL,
        target TEXT NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL, replay INTEGER NOT NULL,
        completed_at_ms INTEGER, next_attempt_at_ms INTEGER, error_code TEXT, error_message TEXT,
        due_at_ms INTEGER, parked INTEGER NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL,
        offset INTEGER NOT NULL, notice TEXT NOT NULL, outcome_json TEXT, base INTEGER NOT NULL, bulk TEXT,
        ordering_key TEXT, place INTEGER NOT NULL,
        PRIMARY KEY (scope, event_id, position, notice)) WITHOUT ROWID""",
    """CREATE INDEX routes_by_target ON routes (scope, target, event_id, status)""",
    f"""CREATE INDEX routes_by_status ON routes (scope, status, event_id) WHERE {A_ROUTE}""",
    f"""CREATE INDEX notices_by_endpoint ON routes (scope, target, notice) WHERE {A_NOTICE}""",
    f"""CREATE INDEX notices_open ON routes (scope, target, json_extract(outcome_json,
        '$.created_at_ms')) WHERE {A_NOTICE} AND {OPEN}""",
    f"""CREATE INDEX routes_closed ON routes (scope, target, completed_at_ms) WHERE {CLOSED}""",
    f"""CREATE INDEX routes_open ON routes (partition, scope, target, event_id, topic, offset)
        WHERE {OPEN}""",
    f"""CREATE INDEX routes_in_line ON routes (partition, scope, target, topic, ordering_key, place, offset)
        WHERE ordering_key IS NOT NULL AND {OPEN}""",
    """CREATE INDEX routes_of_lines_due ON routes (partition, scope, target, topic, ordering_key)
        WHERE ordering_key IS NOT NULL AND due_at_ms IS NOT NULL""",
    """CREATE INDEX routes_waiting ON routes (partition, scope, target, due_at_ms, offset)
        WHERE due_at_ms IS NOT NULL""",
    """CREATE INDEX routes_due ON routes (partition, due_at_ms) WHERE due_at_ms IS NOT NULL""",
    """CREATE TABLE attempts (scope INTEGER NOT NULL, event_id TEXT NOT NULL, partition INTEGER NOT NULL,
        offset INTEGER NOT NULL, target TEXT NOT NULL, attempt INTEGER NOT NULL, replay INTEGER NOT NULL,
        status TEXT NOT NULL, started_at_ms INTEGER NOT NULL, completed_at_ms INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL, http_status INTEGER, error_code TEXT, error_message TEXT,
        response_body TEXT, next_attempt_at_ms INTEGER, address TEXT, connect_ms REAL, tls_ms REAL,
        first_byte_ms REAL, notice TEXT NOT NULL,
        PRIMARY KEY (scope, event_id, partition, offset)) WITHOUT ROWID""",
    f"""CREATE INDEX attempts_of_notices ON attempts (scope, notice, attempt) WHERE {A_NOTICE}""",
    """CREATE INDEX attempts_failed ON attempts (scope, target, completed_at_ms)
        WHERE error_code IS NOT NULL""",
    f"""CREATE INDEX attempts_delivered ON attempts (scope, target, completed_at_ms)
        WHERE {DELIVERED_FIRST}""",
    # Routes by target and status, notices too: see `sqlite_tallies`.
    """CREATE TABLE tallies (scope INTEGER NOT NULL, target TEXT NOT NULL, status TEXT NOT NULL,
        n INTEGER NOT NULL, PRIMARY KEY (scope, target, status)) WITHOUT ROWID""",
    """CREATE INDEX tallies_empty ON tallies (n) WHERE n = 0""",
    """CREATE TABLE bulk_replays (scope INTEGER NOT NULL, id TEXT NOT NULL, after TEXT, through TEXT,
        matched INTEGER NOT NULL, replayed INTEGER NOT NULL, skipped INTEGER NOT NULL, done_at_ms INTEGER,
        PRIMARY KEY (scope, id)) WITHOUT ROWID""",
    """CREATE TABLE breakers (scope INTEGER NOT NULL, target TEXT NOT NULL, shard INTEGER NOT NULL,
        state TEXT NOT NULL, trips INTEGER NOT NULL, reason TEXT, opened_at_ms INTEGER,
        next_probe_at_ms INTEGER, revision INTEGER NOT NULL,
        PRIMARY KEY (scope, target, shard)) WITHOUT ROWID""",
    """CREATE TABLE terms (scope INTEGER NOT NULL, term TEXT NOT NULL, id TEXT NOT NULL,
        PRIMARY KEY (scope, term, id)) WITHOUT ROWID""",
)

#: Kind -> SQL that makes the term of it, given SQL for the value, or for key and value.
TERM: Final = {
    "stream": "'s' || {0}",
    "type": "'t' || {0}",
    "idempotency_key": "'i' || {0}",
    "actor_id": "'a' || {0}",
    "tenant_id": "'n' || {0}",
    "metadata": "'m' || length({0}) || ':' || {0} || {1}",
}

_COLUMN_TERMS: Final = " UNION ALL ".join(
    f"SELECT e.scope, {TERM[kind].format('e.' + kind)}, e.id FROM e WHERE e.{kind} IS NOT NULL"  # noqa: S608  # constants of this module
    for kind in ("stream", "type", "idempotency_key", "actor_id", "tenant_id")
)
#: scope, term, id of every term of the events in a common table `e` made of `TERM_COLUMNS`.
TERMS_OF_E: Final = (
    f"{_COLUMN_TERMS} UNION ALL SELECT e.scope, {TERM['metadata'].format('m.key', 'm.value')}, e.id"  # noqa: S608  # constants of this module
    " FROM e CROSS JOIN json_each(e.metadata_json) AS m"
)
TERM_COLUMNS: Final = """events.scope AS scope, events.id AS id, events.stream AS stream,
    events.type AS type, events.idempotency_key AS idempotency_key,
    json_extract(events.actor_json, '$.id') AS actor_id,
    json_extract(events.actor_json, '$.tenant_id') AS tenant_id, events.metadata_json AS metadata_json"""

#: Changes with every change of the tables or of the terms: a file of another version is made anew.
SCHEMA_VERSION: Final = (
    int.from_bytes(hashlib.sha256("\n".join((*DDL, TERMS_OF_E, TERM_COLUMNS)).encode()).digest()[:4], "big")
    & 0x7FFF_FFFF
    | 1
)
