"""What is particular to the SQLite read model: its file, its threads, its query plans."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from atlas.adapters import sqlite_health, sqlite_pages, sqlite_queries, sqlite_writes
from atlas.adapters.sqlite_driver import AiosqliteDriver, InlineDriver, SqliteDriver
from atlas.adapters.sqlite_read_model import SqliteReadModel
from atlas.core.errors import StoreUnavailable
from atlas.ports.read_model import Changes, Trim
from tests.conformance.read_model_samples import (
    NOW_MS,
    attempt,
    changes,
    event,
    everything,
    lifecycle,
    opened,
    retrying,
    source_of,
)

BOTH = pytest.mark.parametrize("threads", [False, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read_model.db"


# -- threads


async def test_a_job_past_its_deadline_is_cut_short_and_rolled_back(path: Path) -> None:
    def count_for_ever(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO epochs VALUES (9, 9)")
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        ).fetchone()

    async with opened(path, threads=True) as store:
        for run in (store._driver.write, store._driver.read):
            with pytest.raises(StoreUnavailable):
                await run(count_for_ever, 0.02)
        assert (await store.progress()).epochs == {}
        await store.apply(changes([event(1)]))


async def test_a_job_whose_caller_left_before_it_began_never_begins(path: Path) -> None:
    held = threading.Event()
    ran: list[object] = []
    async with opened(path, threads=True) as store:
        first = asyncio.ensure_future(store._driver.write(lambda _: held.wait(10)))
        second = asyncio.ensure_future(store._driver.write(ran.append))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        held.set()
        await first
        await store._driver.write(lambda _: None)
        assert ran == []


async def test_readers_see_only_what_is_committed(path: Path) -> None:
    written, look = threading.Event(), threading.Event()

    def slowly(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO epochs VALUES (1, 5)")
        written.set()
        assert look.wait(10)

    async with opened(path, threads=True) as store:
        write = asyncio.ensure_future(store._driver.write(slowly))
        assert await asyncio.to_thread(written.wait, 10)
        assert (await store.progress()).epochs == {}
        look.set()
        await write
        assert (await store.progress()).epochs == {1: 5}


@pytest.mark.parametrize("driver_type", [AiosqliteDriver, InlineDriver])
async def test_errors_of_a_job_pass_and_roll_back(path: Path, driver_type: type[SqliteDriver]) -> None:
    driver = InlineDriver(path) if driver_type is InlineDriver else await AiosqliteDriver.connect(path)

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE t (a)")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await driver.write(failing)
    with pytest.raises(StoreUnavailable, match="no such table"):
        await driver.read(lambda connection: connection.execute("SELECT * FROM t"))
    await driver.close()


# -- how it finds things


async def plan_of(store: SqliteReadModel, sql: str, parameters: object) -> list[str]:
    def explain(connection: sqlite3.Connection) -> list[str]:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]  # type: ignore[arg-type]  # a mapping or a sequence

    return await store._driver.read(explain)


@pytest.mark.parametrize("streams", [1, 2, 16, 17])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"type": "order.paid"},
        {"status": "delivered"},
        {"status": "failed"},
        {"workflow_id": "wf_a"},
        {"route_status": "delivered"},
        {"workflow_id": "wf_a", "route_status": "failed"},
        {"actor_id": "u"},
        {"tenant_id": "t"},
        {"idempotency_key": "k"},
        {"metadata": {"k": "v"}},
        {"metadata": {"k": "v", "l": "w"}, "type": "order.paid", "workflow_id": "wf_a", "status": "failed"},
        {"received_from_ms": NOW_MS, "received_before_ms": NOW_MS + 9},
    ],
)
async def test_no_page_scans_or_sorts_a_table(streams: int, filters: dict[str, object]) -> None:
    async with opened(None) as store:
        visible = {f"stream-{number}": 0 for number in range(streams)}
        query = replace(everything(), visible_after_ms=visible, after_id=event(1).id, **filters)
        page = sqlite_pages.Page(query, timed_ids=True)
        walks = len(page._filters) + bool(page._streams)
        for shortest in range(max(1, walks)):
            measures = [(0 if number == shortest else 9, "") for number in range(walks)]
            measures += measures[-1:] * (len(page._streams) - 1)
            sql, parameters = page.sql(measures if walks > 1 else []), {**page.parameters, "visible": "{}"}
            plan = await plan_of(store, sql, parameters)
            merges = shortest == len(page._filters) and streams in range(2, 17)
            for step in plan:
                assert not step.startswith("SCAN") or is_small(step), plan
                assert "TEMP B-TREE" not in step or merges, plan


@pytest.mark.parametrize("sql", [sqlite_health.OF_WORKFLOW, sqlite_health.OF_ENDPOINT])
async def test_the_health_of_a_target_neither_scans_a_table_nor_sorts_one(sql: str) -> None:
    names = ("workspace_id", "environment", "target", "since_ms", "errors_max", "latencies_max")
    async with opened(None) as store:
        plan = await plan_of(store, sql, dict.fromkeys(names, 0))
    bounded = {"SCAN shards", "SCAN a"}  # one row a shard; as many attempts as latencies are asked for
    for step in plan:
        assert not step.startswith("SCAN") or is_small(step) or step in bounded, plan
    assert any("attempts USING INDEX attempts_delivered (scope=? AND target=?" in step for step in plan)
    for before, step in itertools.pairwise(plan):
        assert "TEMP B-TREE" not in step or before.startswith("SCAN ("), "only what a LIMIT has let through"


def is_small(step: str) -> bool:
    """A scan of what is no table: JSON given, one page, the streams that are visible, one constant row."""
    words = step.split()
    return words[1] in {"e", "json_each", "visible", "CONSTANT"} or words[1].startswith("(")


@pytest.mark.parametrize(
    ("sql", "key", "sorts"),
    [
        (sqlite_queries.WAITING_FOR, "partition=? AND scope=? AND target=? AND due_at_ms>?", False),
        (sqlite_queries.UPCOMING, "partition=? AND due_at_ms>? AND due_at_ms<?", False),
        (sqlite_queries.OPEN_BELOW, "partition=?", True),  # all that is open in the shard
        (sqlite_queries._TARGETS_WAITING, "partition=? AND scope=? AND target>?", False),
        (sqlite_queries._OLDEST_NOT_KEPT, "(partition,scope,target,due_at_ms)>(?,?,?,?)", False),
        (sqlite_queries._OLDEST_DUE, "partition=? AND due_at_ms>?", False),
        (sqlite_queries._LOAD, "scope=? AND event_id=?", False),
        (sqlite_queries._ATTEMPTS, "scope=? AND event_id=?", False),
    ],
)
async def test_every_question_goes_straight_to_its_rows(sql: str, key: str, sorts: bool) -> None:
    names = ("shard", "workspace_id", "environment", "target", "until_ms", "after_ms", "limit", "topic")
    asked = dict.fromkeys((*names, "before_offset", "event_id", "keys"), 0)
    async with opened(None) as store:
        plan = await plan_of(store, sql, asked)
    tables = [step for step in plan if step.startswith(("SEARCH routes", "SEARCH attempts"))]
    assert any(f"({key}" in step for step in tables), plan
    assert not any(step.startswith(("SCAN routes", "SCAN attempts", "SCAN events")) for step in plan), plan
    assert any("TEMP B-TREE" in step for step in plan) == sorts, plan


@pytest.mark.parametrize(
    ("sql", "search"),
    list(
        zip(
            (*sqlite_writes._DELETES, sqlite_writes._DELETE_EVENTS),
            (
                "SEARCH terms USING PRIMARY KEY (scope=? AND term=? AND id=?)",
                "SEARCH attempts USING PRIMARY KEY (scope=? AND event_id=?)",
                "SEARCH routes USING PRIMARY KEY (scope=? AND event_id=?)",
                "SEARCH events USING INDEX events_by_position (topic=? AND partition=? AND offset<?)",
            ),
            strict=True,
        )
    ),
)
async def test_a_trim_goes_straight_to_what_it_deletes(sql: str, search: str) -> None:
    async with opened(None) as store:
        plan = await plan_of(store, sql, {"topic": "t", "partition": 0, "step": 9, "scope": 1})
        assert search in [step.replace("COVERING ", "") for step in plan], plan


async def test_a_trim_larger_than_one_step_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [event(number, retrying(NOW_MS), metadata={"k": "v"}) for number in range(12)]
    monkeypatch.setattr(sqlite_writes, "_STEP", sqlite_writes._STEP.replace("OFFSET 5000", "OFFSET 3"))
    async with opened(None) as store:
        made = [attempt(state, 1, state.offset) for state in batch]
        await store.apply(Changes(events=batch, attempts=made))
        await store.apply(Changes(trims=[Trim(source_of(batch[0]), 11, NOW_MS + 11)]))
        assert await store.counts() == {"events": 1, "routes": 1, "attempts": 1, "terms": 3, "quarantine": 0}
        assert (await store.waiting_for(0, ("ws_acme", "live"), "wf_billing", NOW_MS, 99)).routes[
            0
        ].offset == 11
        assert (await store.upcoming(0, 0, NOW_MS, 99)).lifecycle_position == 0
        assert not await store.wait_past({lifecycle(0): 1}, 0)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (0, []),
        (1, [1]),
        (2, [1, 1]),
        (3, [1, 1, 1]),
        (4, [8]),
        (8, [8]),
        (9, [8, 1]),
        (63, [32, 32]),
        (64, [128]),
        (500, [512]),
        (512, [512]),
        (513, [512, 1]),
        (2_000, [512, 512, 512, 512]),
    ],
)
def test_rows_go_in_few_statements_of_few_sizes(rows: int, sizes: list[int]) -> None:
    assert list(sqlite_writes._chunks(rows)) == sizes
