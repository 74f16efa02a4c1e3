"""Pages of events from every adapter of the `ReadModel` port, held against the definitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from atlas.adapters import sqlite_pages
from atlas.adapters.sqlite_read_model import SqliteReadModel
from atlas.core.ids import TIME_MS_MAX, event_id
from atlas.core.lifecycle import FAILED, RouteState
from atlas.core.projection import EventState
from atlas.ports.read_model import Changes, EventQuery, ReadModel
from tests.conformance.read_model_samples import (
    NOW_MS,
    OTHER_SCOPES,
    SCOPE,
    STREAM,
    changes,
    delivered,
    event,
    events,
    everything,
    opened,
    opened_as,
    page_of,
    queries,
    retrying,
)


@pytest.fixture(params=["memory", "threads", "followed"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteReadModel]:
    async with opened_as(request.param, tmp_path / "read_model.db") as store:
        yield store


def failed(target: str) -> RouteState:
    return RouteState(target, status=FAILED, attempt=1)


BATCH = [
    event(
        1,
        delivered("wf_a"),
        retrying(NOW_MS, "wf_b"),
        kind="order.paid",
        actor={"id": "u_1", "tenant_id": "t_1"},
        metadata={"region": "eu", "tier": "1"},
        idempotency_key="key-1",
    ),
    event(2, retrying(NOW_MS, "wf_a"), delivered("wf_b"), actor={"id": "t_1"}, metadata={"region": "us"}),
    event(3, failed("wf_a"), failed("wf_b"), actor={"tenant_id": "u_1"}, metadata={"tier": "eu"}),
    event(4, kind="order.paid", metadata={"region": "eu"}, idempotency_key="key-2"),
]
FILTERS: list[tuple[dict[str, object], list[int]]] = [
    ({}, [1, 2, 3, 4]),
    ({"type": "order.paid"}, [1, 4]),
    ({"type": "order"}, []),
    ({"status": "retried"}, [1, 2]),
    ({"status": "delivered"}, [4]),
    ({"workflow_id": "wf_a"}, [1, 2, 3]),
    ({"workflow_id": "wf_c"}, []),
    ({"route_status": "failed"}, [3]),
    ({"route_status": "delivered"}, [1, 2]),
    ({"workflow_id": "wf_a", "route_status": "delivered"}, [1]),
    ({"workflow_id": "wf_b", "route_status": "delivered"}, [2]),
    ({"actor_id": "u_1"}, [1]),
    ({"tenant_id": "u_1"}, [3]),
    ({"idempotency_key": "key-1"}, [1]),
    ({"metadata": {"region": "eu"}}, [1, 4]),
    ({"metadata": {"region": "eu", "tier": "1"}}, [1]),
    ({"metadata": {"region": "eu", "tier": "eu"}}, []),
    ({"received_from_ms": NOW_MS + 2}, [2, 3, 4]),
    ({"received_before_ms": NOW_MS + 2}, [1]),
    ({"received_from_ms": NOW_MS + 2, "received_before_ms": NOW_MS + 4}, [2, 3]),
    ({"received_from_ms": NOW_MS + 2, "received_before_ms": NOW_MS + 2}, []),
    ({"received_from_ms": -1, "received_before_ms": TIME_MS_MAX + 10}, [1, 2, 3, 4]),
    ({"received_from_ms": TIME_MS_MAX + 10}, []),
    ({"received_before_ms": -1}, []),
    ({"after_id": BATCH[1].id}, [3, 4]),
    ({"after_id": BATCH[3].id}, []),
    ({"visible_after_ms": {STREAM: NOW_MS + 3}}, [3, 4]),
    ({"visible_after_ms": {}}, []),
    ({"visible_after_ms": {"other": 0}}, []),
    ({"limit": 0}, []),
    ({"limit": 3}, [1, 2, 3]),
    ({"type": "order.paid", "status": "delivered", "metadata": {"region": "eu"}, "limit": 1}, [4]),
]


@pytest.mark.parametrize(("filters", "numbers"), FILTERS)
async def test_a_page_holds_what_the_filters_say(
    store: ReadModel, filters: dict[str, object], numbers: list[int]
) -> None:
    noise = [replace(state, workspace_id="ws_other", topic=state.topic + "x") for state in BATCH]
    await store.apply(changes([*reversed(BATCH), *noise]))
    query = replace(everything(), **filters)
    found = await store.list(query)
    assert [state.offset for state in found] == numbers
    assert found == page_of(BATCH, query)


@pytest.mark.parametrize(
    ("held", "asked"),
    [({"k": "1"}, {"k1": ""}), ({"k": ""}, {"": "k"}), ({"1": ":x"}, {"1:": "x"}), ({"k": "v"}, {"K": "v"})],
)
async def test_pairs_that_look_alike_are_not_taken_for_each_other(
    store: ReadModel, held: dict[str, str], asked: dict[str, str]
) -> None:
    await store.apply(changes([event(1, metadata=held)]))
    assert await store.list(replace(everything(), metadata=asked)) == []
    assert len(await store.list(replace(everything(), metadata=held))) == 1


@pytest.mark.parametrize("many", [1, 2, 16, 17, 150])
@pytest.mark.parametrize("rare", [False, True])
async def test_each_stream_has_a_retention_of_its_own(store: ReadModel, many: int, rare: bool) -> None:
    names = [f"stream-{number}" for number in range(many)]
    batch = [
        event(at, stream=name, metadata={"k": "rare" if at == 2 and number % 2 else "common"})
        for number, name in enumerate(names)
        for at in range(4)
    ]
    hidden = [event(at, stream="hidden") for at in range(4)]
    await store.apply(changes([*batch, *hidden]))
    visible = {name: NOW_MS + number % 4 for number, name in enumerate(names)}
    query = replace(everything(limit=1_000), visible_after_ms=visible, metadata={"k": "rare"} if rare else {})
    found = await store.list(query)
    assert found == page_of(batch, query)
    assert (found != []) == (many > 1 or not rare)
    paged = replace(query, limit=3, after_id=found[0].id if found else None)
    assert await store.list(paged) == page_of(batch, paged)


@given(
    batch=events(),
    asked=st.lists(queries(), min_size=1, max_size=8),
    count_max=st.sampled_from([1, 3, 1_024]),
)
@example(batch=BATCH, asked=[replace(everything(), workflow_id="wf_a", status="failed")], count_max=1)
@settings(max_examples=150)
def test_any_filters_together_mean_what_each_means(
    batch: list[EventState], asked: list[EventQuery], count_max: int
) -> None:
    async def check() -> None:
        async with opened(None) as store:
            await store.apply(Changes(events=batch))
            for query in asked:
                assert await store.list(query) == page_of(batch, query)

    with pytest.MonkeyPatch.context() as patch:  # long lists in a small store: other walks are chosen
        patch.setattr(sqlite_pages, "COUNT_MAX", count_max)
        asyncio.run(check())


@given(batch=events(), limit=st.integers(1, 7))
@settings(max_examples=40)
def test_a_walk_finds_every_event_once_while_others_arrive(batch: list[EventState], limit: int) -> None:
    async def check() -> None:
        async with opened(None) as store:
            await store.apply(Changes(events=batch))
            query = replace(everything(limit=limit), visible_after_ms={"orders": 0, "users": 0, "a-b": 0})
            seen: list[EventState] = []
            number = 1_000
            while page := await store.list(query):
                seen += page
                query = replace(query, after_id=page[-1].id)
                number += 1
                if number < 1_010:
                    await store.apply(Changes(events=[event(number)]))
            before = [state for state in seen if state.offset < 1_000]
            assert before == page_of(batch, replace(query, after_id=None, limit=10_000))
            assert len({state.id for state in seen}) == len(seen)

    asyncio.run(check())


async def test_an_event_with_several_such_routes_is_listed_once(store: ReadModel) -> None:
    await store.apply(changes([event(1, failed("wf_a"), failed("wf_b"), failed("wf_c"))]))
    assert len(await store.list(replace(everything(), route_status="failed"))) == 1


async def test_times_hold_even_for_ids_that_do_not_carry_them(store: ReadModel) -> None:
    odd = [replace(event(number), id=event_id(NOW_MS - 10**9 * number, bytes(10))) for number in (1, 2, 3)]
    await store.apply(changes([*odd, event(4)]))
    for filters in ({"received_from_ms": NOW_MS + 2}, {"received_before_ms": NOW_MS + 3}):
        query = replace(everything(), **filters)
        assert await store.list(query) == page_of([*odd, event(4)], query) != []


@pytest.mark.parametrize("scope", OTHER_SCOPES)
async def test_one_scope_never_sees_anothers(store: ReadModel, scope: tuple[str, str]) -> None:
    mine = event(1, retrying(NOW_MS), metadata={"k": "v"}, actor={"id": "u"})
    workspace_id, environment = scope
    twin = replace(mine, workspace_id=workspace_id, environment=environment, type="theirs")
    await store.apply(changes([mine, twin]))
    for query in (
        everything(),
        replace(everything(), metadata={"k": "v"}),
        replace(everything(), actor_id="u", workflow_id="wf_billing", route_status="retry_scheduled"),
        replace(everything(), status="retried"),
    ):
        assert await store.list(query) == [replace(mine, routes=())]
        assert await store.list(replace(query, scope=scope)) == [replace(twin, routes=())]
        assert await store.list(replace(query, scope=("ws_none", "live"))) == []
    assert await store.get(mine.key) == mine
    assert await store.get(twin.key) == twin
    waiting = await store.waiting_for(0, scope, "wf_billing", NOW_MS, 10)
    assert [(route.workspace_id, route.environment) for route in waiting.routes] == [scope]
    assert scope != SCOPE
