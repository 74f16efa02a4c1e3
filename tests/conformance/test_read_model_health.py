"""How a target is doing, as the read model has it: held against counting all routes anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from msgspec.structs import replace

from atlas.core.breaker import FRESH
from atlas.core.health import ERRORS_MAX, LATENCIES_MAX, TargetHealth, health_view, percentile
from atlas.core.lifecycle import FAILED, QUEUED, RouteState
from atlas.core.projection import AttemptState, EventState
from atlas.ports.read_model import Changes, ReadModel, Scope, Trim
from tests.conformance.read_model_samples import (
    NOW_MS,
    OTHER_SCOPES,
    SCOPE,
    TARGET,
    attempt,
    changes,
    delivered,
    event,
    parked,
    retrying,
    source_of,
    with_routes,
)

TARGETS = ("wf_a", "wf_b")


async def health(store: ReadModel, target: str = TARGET, scope: Scope = SCOPE) -> TargetHealth:
    return await store.target_health(scope, target, NOW_MS, ERRORS_MAX, LATENCIES_MAX)


def closed(target: str, at_ms: int) -> RouteState:
    return RouteState(
        target, FAILED, completed_at_ms=at_ms, error_code="target_disabled", error_message="Disabled."
    )


def failing(of: EventState, offset: int, at_ms: int) -> AttemptState:
    made = attempt(of, 1, offset)
    return replace(
        made,
        status="retry_scheduled",
        completed_at_ms=at_ms,
        error_code="upstream_status",
        error_message="503",
        http_status=503,
    )


async def test_nothing_is_known_of_a_target_that_never_had_a_route(store: ReadModel) -> None:
    assert await health(store) == TargetHealth(counts={}, oldest_open_ms=None, errors=[], latencies_ms=[])
    assert health_view(await health(store), FRESH) == {
        "counts": {"queued": 0, "processing": 0, "delivered": 0, "retry_scheduled": 0, "failed": 0},
        "oldest_undelivered_at": None,
        "last_errors": [],
        "breaker": {"state": "closed", "reason": None, "opened_at": None, "next_probe_at": None},
        "latency_ms": {"p50": None, "p95": None},
    }


def counted(states: Sequence[EventState], target: str, scope: Scope) -> Counter[str]:
    return Counter(
        route.status
        for state in states
        if (state.workspace_id, state.environment) == scope
        for route in state.routes
        if route.target == target
    )


async def test_counts_are_of_the_routes_that_there_are_whatever_becomes_of_them(store: ReadModel) -> None:
    chance = Random(7)
    kinds = (RouteState, delivered, lambda t: retrying(NOW_MS, t), lambda t: parked(NOW_MS, t))
    scopes = (SCOPE, *OTHER_SCOPES)
    states: dict[int, EventState] = {}
    for batch in range(12):
        for number in chance.sample(range(40), 15):
            routes = [chance.choice(kinds)(target) for target in TARGETS]
            made = states.get(number) or event(number, *routes, scope=scopes[number % 3])
            states[number] = with_routes(made, *routes)
        await store.apply(changes(states.values(), batch))
        for scope in scopes:
            for target in TARGETS:
                assert (await health(store, target, scope)).counts == counted(
                    list(states.values()), target, scope
                )
    source = source_of(next(s for s in states.values() if (s.workspace_id, s.environment) == SCOPE))
    await store.apply(Changes(trims=[Trim(source, 20, NOW_MS + 20)]))
    kept = [state for state in states.values() if source_of(state) != source or state.offset >= 20]
    for scope in scopes:
        assert (await health(store, "wf_a", scope)).counts == counted(kept, "wf_a", scope)


async def test_the_oldest_open_route_of_any_shard_and_the_newest_errors(store: ReadModel) -> None:
    states = [
        event(1, delivered()),
        event(2, retrying(NOW_MS + 9), partition=1),
        event(3, RouteState(TARGET)),
        event(4, closed(TARGET, NOW_MS + 500)),
        event(5, RouteState("wf_other")),
    ]
    errors = [failing(states[1], 10 + at, NOW_MS + at) for at in range(ERRORS_MAX)]
    await store.apply(replace(changes(states), attempts=errors))
    found = await health(store)
    assert found.oldest_open_ms == NOW_MS + 2
    assert [(e.code, e.at_ms - NOW_MS) for e in found.errors] == [
        ("target_disabled", 500),
        *(("upstream_status", at) for at in range(ERRORS_MAX - 1, 0, -1)),
    ]
    assert [e.event_id for e in found.errors[:2]] == [states[3].id, states[1].id]
    assert [(e.attempt, e.http_status) for e in found.errors[:2]] == [(None, None), (1, 503)]
    await store.apply(changes([with_routes(states[1], delivered()), with_routes(states[2], delivered())], 1))
    assert (await health(store)).oldest_open_ms is None


async def test_latency_is_of_first_deliveries_since_then(store: ReadModel) -> None:
    states = [event(number, delivered(), received_at_ms=NOW_MS - 1_000) for number in range(4)]
    made = [
        replace(attempt(states[0], 1, 0), completed_at_ms=NOW_MS - 1),  # too long ago
        replace(attempt(states[1], 1, 1), completed_at_ms=NOW_MS),
        replace(attempt(states[2], 1, 2), completed_at_ms=NOW_MS + 500),
        replace(attempt(states[3], 2, 3), completed_at_ms=NOW_MS + 900, replay=1),
        failing(states[3], 4, NOW_MS + 50),
    ]
    await store.apply(replace(changes(states), attempts=made))
    assert sorted((await health(store)).latencies_ms) == [1_000, 1_500]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [((), 50, None), ((7,), 50, 7), ((7,), 95, 7), ((1, 2), 50, 1), (range(1, 101), 95, 95), ((1, 9), 95, 9)],
)
def test_percentiles(values: Sequence[int], percent: int, expected: int | None) -> None:
    assert percentile(values, percent) == expected


async def test_a_queued_route_counts_before_anything_is_done_about_it(store: ReadModel) -> None:
    await store.apply(changes([event(1, RouteState(TARGET))]))
    assert (await health(store)).counts == {QUEUED: 1}
