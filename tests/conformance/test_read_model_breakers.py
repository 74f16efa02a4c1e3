"""Circuit breakers in every adapter of the `ReadModel` port."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from atlas.core.breaker import FRESH, HALF_OPEN, OPEN, Breaker
from atlas.ports.read_model import Changes, ReadModel, Scope, ShardBreaker
from tests.conformance.read_model_samples import (
    NOW_MS,
    OTHER_SCOPES,
    SCOPE,
    TARGET,
    changes,
    event,
    parked,
    retrying,
)

OPENED = Breaker(
    state=OPEN, trips=2, reason="no answer", opened_at_ms=NOW_MS, next_probe_at_ms=NOW_MS + 5, revision=7
)
PROBING = replace(OPENED, state=HALF_OPEN, next_probe_at_ms=None)


def of_shard(
    shard: int, breaker: Breaker = OPENED, target: str = TARGET, scope: Scope = SCOPE
) -> ShardBreaker:
    return ShardBreaker(scope, target, shard, breaker)


async def test_what_was_said_last_of_a_shard_stays_until_it_closes(store: ReadModel) -> None:
    assert await store.breakers(SCOPE) == {}
    await store.apply(Changes(breakers=[of_shard(1)]))
    assert await store.breakers(SCOPE) == {TARGET: OPENED}
    assert await store.breakers_of(1) == [of_shard(1)]
    await store.apply(Changes(breakers=[of_shard(1, PROBING)]))
    assert await store.breakers_of(1) == [of_shard(1, PROBING)]
    await store.apply(Changes(breakers=[of_shard(1, FRESH)]))
    await store.apply(Changes(breakers=[of_shard(1, FRESH)]))
    assert await store.breakers(SCOPE) == {}
    assert await store.breakers_of(1) == []


async def test_each_shard_and_tenant_has_its_own(store: ReadModel) -> None:
    mine, other = of_shard(0), of_shard(1, PROBING, "wf_b")
    foreign = [of_shard(0, replace(OPENED, trips=9), scope=scope) for scope in OTHER_SCOPES]
    await store.apply(Changes(breakers=[mine, other, *foreign]))
    assert await store.breakers(SCOPE) == {TARGET: OPENED, "wf_b": PROBING}
    assert await store.breakers(SCOPE, 0) == {TARGET: OPENED}
    assert await store.breakers(SCOPE, 2) == {}
    assert await store.breakers(OTHER_SCOPES[0]) == {TARGET: replace(OPENED, trips=9)}
    assert {each.scope for each in await store.breakers_of(0)} == {SCOPE, *OTHER_SCOPES}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (PROBING, OPENED),
        (OPENED, replace(OPENED, opened_at_ms=NOW_MS - 1, next_probe_at_ms=NOW_MS + 6)),
        (OPENED, replace(PROBING, revision=8)),
    ],
    ids=["probed", "earlier probe", "of the target as it was"],
)
@pytest.mark.parametrize("turned", [False, True])
async def test_of_several_shards_the_worst_shows(
    store: ReadModel, better: Breaker, worse: Breaker, turned: bool
) -> None:
    found = (worse, better) if turned else (better, worse)
    await store.apply(Changes(breakers=[of_shard(shard, each) for shard, each in enumerate(found)]))
    assert await store.breakers(SCOPE) == {TARGET: worse}


async def test_what_an_open_breaker_keeps_is_not_late(store: ReadModel) -> None:
    states = [event(1, retrying(NOW_MS - 90), parked(NOW_MS - 20, "wf_b")), event(2, parked(NOW_MS - 50))]
    states.append(event(3, parked(NOW_MS - 40), partition=1))
    await store.apply(changes(states))
    assert await store.oldest_overdue_ms(NOW_MS) == 90
    await store.apply(Changes(breakers=[of_shard(0)]))
    assert await store.oldest_overdue_ms(NOW_MS) == 40, "of the other shard"
    await store.apply(Changes(breakers=[of_shard(1)]))
    assert await store.oldest_overdue_ms(NOW_MS) == 20, "of the other target"
    await store.apply(Changes(breakers=[of_shard(0, target="wf_b")]))
    assert await store.oldest_overdue_ms(NOW_MS) == 0
    await store.apply(Changes(breakers=[of_shard(0, FRESH)]))
    assert await store.oldest_overdue_ms(NOW_MS) == 90
