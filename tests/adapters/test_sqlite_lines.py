"""What the questions about lines cost: a line, or the routes of a target, may be long."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import orjson
import pytest

from atlas.adapters import sqlite_queries
from atlas.adapters.sqlite_schema import DDL

LONG = 5_000
#: Of the virtual machine of SQLite; a walk along a line takes more than one for each of its routes.
STEPS_MAX = 2_000
OF_TARGET = {"shard": 0, "workspace_id": "ws_a", "environment": "live", "target": "wf_a", "limit": 100}


@pytest.fixture
def store() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    for statement in DDL:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('i', 1, 0)")
    connection.execute("INSERT INTO scopes VALUES (1, 'ws_a', 'live')")
    connection.execute("INSERT INTO topics VALUES (1, 't')")
    yield connection
    connection.close()


def put(store: sqlite3.Connection, key: str, offsets: range, due_ms: int | None = None) -> None:
    """Routes of one line, parked behind each other or, with a time, waiting for it."""
    store.executemany(
        """INSERT INTO routes (scope, event_id, position, target, status, attempt, replay, due_at_ms, parked,
        topic, partition, offset, notice, base, ordering_key, place)
        VALUES (1, ?, 0, 'wf_a', 'queued', 0, 0, ?, ?, 1, 0, ?, '', 0, ?, ?)""",
        [(f"evt_{n:09}", due_ms, due_ms is None, n, key, 2 * n + 1) for n in offsets],
    )


def steps(store: sqlite3.Connection, ask: Callable[[], object]) -> int:
    """How many steps a question takes."""
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    store.set_progress_handler(count, 1)
    ask()
    store.set_progress_handler(None, 1)
    return counted


def offsets(store: sqlite3.Connection, sql: str, **of_line: object) -> list[int]:
    [answer] = store.execute(sql, {**OF_TARGET, **of_line}).fetchone()
    return [route["offset"] for route in orjson.loads(answer)["routes"]]


@pytest.mark.parametrize("due_ms", [None, 7])
def test_a_long_line_is_not_walked(store: sqlite3.Connection, due_ms: int | None) -> None:
    put(store, "k", range(1), due_ms)
    put(store, "k", range(1, LONG))
    first = [0] if due_ms is None else []
    line = {"topic": "t", "ordering_key": "k", "limit": 1}
    assert offsets(store, sqlite_queries.NEXT_IN_LINE, **line) == first
    assert offsets(store, sqlite_queries.HEADS) == first
    assert steps(store, lambda: offsets(store, sqlite_queries.NEXT_IN_LINE, **line)) < STEPS_MAX
    assert steps(store, lambda: offsets(store, sqlite_queries.HEADS)) < STEPS_MAX


def test_the_first_of_each_line_whose_turn_it_is(store: sqlite3.Connection) -> None:
    put(store, "a", range(3))
    put(store, "b", range(3, 6))
    put(store, "b", range(6, 7), due_ms=7)
    put(store, "c", range(7, 8))
    assert sorted(offsets(store, sqlite_queries.HEADS)) == [0, 7]


def test_targets_are_found_without_walking_their_routes(store: sqlite3.Connection) -> None:
    put(store, "k", range(LONG), due_ms=7)
    found = {("ws_a", "live", "wf_a")}
    assert sqlite_queries.targets_in_line(store, 0) == found
    assert sqlite_queries.targets_waiting(store, 0, 7) == found
    assert sqlite_queries.targets_waiting(store, 0, 6) == set()
    assert steps(store, lambda: sqlite_queries.targets_in_line(store, 0)) < STEPS_MAX
    assert steps(store, lambda: sqlite_queries.targets_waiting(store, 0, 7)) < STEPS_MAX
