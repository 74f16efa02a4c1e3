"""The digest of every adapter of the `ReadModel` port: all that the log determines, and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from atlas.adapters import sqlite_digest
from atlas.adapters.sqlite_read_model import SqliteReadModel
from atlas.adapters.sqlite_writes import JOBS_KEPT
from atlas.core.breaker import OPEN, Breaker
from atlas.core.lifecycle import RouteState
from atlas.core.projection import EventState
from atlas.ports.read_model import (
    Advance,
    Changes,
    Comparison,
    Difference,
    Jobs,
    JobState,
    Quarantined,
    ReadModel,
    ShardBreaker,
    Trim,
)
from tests.conformance.read_model_samples import (
    NOW_MS,
    Deployment,
    attempt,
    event,
    events,
    lifecycle,
    opened,
    retrying,
    source_of,
    with_routes,
)


@given(batch=events(), data=st.data())
@settings(max_examples=40)
def test_the_digest_tells_what_is_there_not_how_it_came(batch: list[EventState], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(batch))
    cut = data.draw(st.integers(0, len(batch)))

    async def check() -> None:
        async with opened(None) as whole, opened(None) as parts:
            await whole.apply(Changes(events=batch, epochs={0: 1, 1: 2}))
            assert await whole.digest() != await parts.digest()
            early = [with_routes(s, *(RouteState(r.target) for r in s.routes)) for s in shuffled[:cut]]
            await parts.apply(Changes(events=early, epochs={1: 2}))
            await parts.apply(Changes(events=shuffled, epochs={0: 1}))
            assert await whole.digest() == await parts.digest()

    asyncio.run(check())


def changed(value: object) -> object:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else f"{value or ''}x"


EVENT = event(1, retrying(NOW_MS), actor={"id": "u"}, metadata={"k": "v"}, idempotency_key="k")
ATTEMPT = attempt(EVENT, 1, 7)
BREAKER = ShardBreaker(
    EVENT.key[:2],
    "wf_b",
    0,
    Breaker(state=OPEN, trips=1, reason="down", opened_at_ms=1, next_probe_at_ms=2, revision=3),
)
WHOLE = Changes(
    events=[EVENT],
    attempts=[ATTEMPT],
    quarantined=[Quarantined(lifecycle(0), 1, "poison", 1)],
    epochs={0: 1},
    trims=[Trim(source_of(EVENT), 1, 1)],
    breakers=[BREAKER],
)
VARIANTS = [
    *(
        replace(WHOLE, events=[replace(EVENT, **{field: changed(getattr(EVENT, field))})])
        for field in EVENT.__struct_fields__
        if field not in {"routes", "actor_json", "metadata_json"}
    ),
    *(replace(WHOLE, events=[replace(EVENT, **{field: "{}"})]) for field in ("actor_json", "metadata_json")),
    *(
        replace(
            WHOLE,
            events=[replace(EVENT, routes=(replace(route, **{field: changed(getattr(route, field))}),))],
        )
        for route in EVENT.routes
        for field in route.__struct_fields__
    ),
    *(
        replace(WHOLE, attempts=[replace(ATTEMPT, **{field: changed(getattr(ATTEMPT, field))})])
        for field in ATTEMPT.__struct_fields__
    ),
    *(
        replace(WHOLE, quarantined=[Quarantined(*bad, 1)])
        for bad in (
            (lifecycle(1), 1, "poison"),
            (lifecycle(0), 2, "poison"),
            (lifecycle(0), 1, "other"),
        )
    ),
    *(
        replace(WHOLE, breakers=[replace(BREAKER, breaker=breaker)])
        for breaker in (
            replace(BREAKER.breaker, **{field: changed(getattr(BREAKER.breaker, field))})
            for field in Breaker.__struct_fields__
            if field != "failures"
        )
    ),
    *(
        replace(WHOLE, breakers=[replace(BREAKER, **{field: value})])
        for field, value in (("shard", 1), ("target", "wf_c"))
    ),
    replace(WHOLE, epochs={1: 1}),
    replace(WHOLE, epochs={0: 2}),
    replace(WHOLE, trims=[Trim(source_of(EVENT), 0, 1)]),
    replace(WHOLE, trims=[Trim(lifecycle(0), 1, 1)]),
]


async def test_the_digest_holds_every_column() -> None:
    async def digest_of(one: Changes) -> str:
        async with opened(None) as store:
            await store.apply(replace(one, advances=[Advance(lifecycle(0), 0, 5)]))
            return await store.digest()

    seen = [await digest_of(one) for one in (WHOLE, *VARIANTS)]
    assert len(set(seen)) == len(seen)
    later = replace(WHOLE, quarantined=[Quarantined(lifecycle(0), 1, "poison", 2)])
    assert await digest_of(later) == seen[0]


async def test_the_digest_goes_through_every_chunk(store: ReadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_digest, "CHUNK_ROWS", 3)
    rows = [event(number, retrying(1), metadata={"k": "v"}) for number in range(10)]
    await store.apply(Changes(events=rows[:9]))  # whole chunks
    before = await store.digest()
    await store.apply(Changes(events=[with_routes(rows[8], retrying(2))]))
    changed_last = await store.digest()
    await store.apply(Changes(events=rows[9:]))
    assert len({before, changed_last, await store.digest()}) == 3


async def test_rebuilds_and_verifications_are_kept_and_in_no_digest(store: SqliteReadModel) -> None:
    await write_of(store).apply(Changes(events=[event(1)]))
    before = await store.digest()
    assert await store.jobs() == Jobs(None, {})
    begun = JobState(id="rbd_1", status="running", started_at_ms=NOW_MS)
    found = Comparison("aa", "bb", [Difference("events", "ws_a/live", ["evt_1", 3], "both")])
    other = JobState(id="vfy_1", status="completed", started_at_ms=NOW_MS, comparison=found)
    await write_of(store).note_jobs([begun, other])
    assert await store.jobs() == Jobs(None, {"rbd_1": begun, "vfy_1": other})
    done = replace(begun, status="failed", completed_at_ms=NOW_MS + 1, error="full")
    await write_of(store).note_jobs([done], 7)
    await write_of(store).note_jobs([])
    assert await store.jobs() == Jobs(7, {"rbd_1": done, "vfy_1": other})
    assert await store.digest() == before


async def test_the_oldest_jobs_are_forgotten(store: SqliteReadModel) -> None:
    many = [JobState(id=f"rbd_{n}", status="completed", started_at_ms=n) for n in range(JOBS_KEPT + 5)]
    await write_of(store).note_jobs(many)
    assert (await store.jobs()).states == {state.id: state for state in many[5:]}


def write_of(store: SqliteReadModel) -> SqliteReadModel:
    """Where the store is written."""
    return store.writer if isinstance(store, Deployment) else store
