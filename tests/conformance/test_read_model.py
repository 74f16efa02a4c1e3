"""What every adapter of the `ReadModel` port does: batches, fences, trims, waiting. Pages: the next file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from atlas.adapters.sqlite_read_model import POLL_S, open_read_model
from atlas.core.errors import StaleWriter, StoreUnavailable
from atlas.core.lifecycle import PROCESSING, RouteState
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import Advance, Changes, Quarantined, ReadModel, Trim, Waiting
from tests.conformance.read_model_samples import (
    NOW_MS,
    OTHER_SCOPES,
    SCOPE,
    TARGET,
    attempt,
    changes,
    delivered,
    event,
    everything,
    lifecycle,
    opened,
    parked,
    retrying,
    source_of,
    with_routes,
)
from tests.virtual_time import VirtualClock, pass_time, settle, virtual_time

# -- events and attempts


async def test_events_come_back_as_they_went_in(store: ReadModel) -> None:
    plain = event(1)
    full = event(
        2,
        delivered("wf_a"),
        retrying(NOW_MS + 30_000, "wf_b"),
        parked(NOW_MS, "wf_c"),
        actor={"id": "u_1", "tenant_id": "t_1"},
        metadata={"k": 'é"\\\x01\u2028😀'},
        idempotency_key="key-1",
        partition=3,
    )
    await store.apply(changes([plain, full]))
    assert await store.load([full.key, plain.key, event(3).key]) == {plain.key: plain, full.key: full}
    assert await store.get(full.key) == full
    assert await store.get(event(3).key) is None
    assert await store.load([]) == {}


async def test_a_changed_event_has_its_new_status_and_routes_and_is_found_as_before(store: ReadModel) -> None:
    first = event(1, RouteState("wf_a"), RouteState("wf_b"), metadata={"k": "v"})
    await store.apply(changes([first]))
    second = with_routes(first, delivered("wf_a"), retrying(NOW_MS + 1, "wf_b"))
    await store.apply(changes([second], 1))
    assert await store.get(first.key) == second
    query = replace(everything(), metadata={"k": "v"}, status=second.status)
    assert [found.id for found in await store.list(query)] == [first.id]
    assert await store.list(replace(query, status=first.status)) == []


@pytest.mark.parametrize("count", [1, 7, 8, 9, 33, 63, 64, 65, 129, 300, 513])
async def test_batches_of_every_size_are_applied_whole(store: ReadModel, count: int) -> None:
    batch = [event(number, delivered("wf_a"), delivered("wf_b")) for number in range(count)]
    made = [attempt(state, 1, state.offset) for state in batch]
    await store.apply(Changes(events=batch, attempts=made))
    assert await store.load([state.key for state in batch]) == {state.key: state for state in batch}
    counts = await store.counts()
    assert (counts["events"], counts["routes"], counts["attempts"]) == (count, 2 * count, count)


async def test_attempts_are_listed_oldest_first_and_only_the_events_own(store: ReadModel) -> None:
    mine, others = event(1, delivered()), event(2, delivered())
    elsewhere = event(1, delivered(), scope=OTHER_SCOPES[0])
    made = [attempt(mine, number, 100 - number) for number in (3, 2, 1)]
    strange = replace(made[0], offset=200, attempt=4, response_body="nul \x00, \x1b, \ufffd, 😀")
    strangers = [attempt(others, 1, 5), attempt(elsewhere, 1, 6)]
    await store.apply(Changes(events=[mine, others, elsewhere], attempts=[strange, *made, *strangers]))
    assert await store.attempts(mine.key) == [*made, strange]
    assert await store.attempts(event(9).key) == []


# -- positions, fences, progress


async def test_progress_tells_positions_epochs_and_trims(store: ReadModel) -> None:
    nothing = await store.progress()
    assert (nothing.positions, nothing.epochs, nothing.trimmed) == ({}, {}, {})
    source = source_of(event(1))
    await store.apply(
        Changes(
            advances=[Advance(lifecycle(0), 0, 7), Advance(source, 0, 9)],
            epochs={0: 3, 5: 1},
            trims=[Trim(source, 4, NOW_MS)],
        )
    )
    await store.apply(Changes(epochs={0: 2, 5: 8}, trims=[Trim(source, 2, NOW_MS)]))
    progress = await store.progress()
    assert progress.positions == {lifecycle(0): 7, source: 9}
    assert progress.epochs == {0: 3, 5: 8}
    assert progress.trimmed == {source: 4}
    assert progress.incarnation == nothing.incarnation


@pytest.mark.parametrize("stale", [0, 6, 8])
async def test_a_batch_from_elsewhere_changes_nothing_at_all(store: ReadModel, stale: int) -> None:
    source = source_of(event(1))
    await store.apply(Changes(events=[event(1)], advances=[Advance(lifecycle(0), 0, 7)]))
    before = await store.progress(), await store.digest(), await store.counts()
    batch = Changes(
        events=[event(2, delivered(), scope=("ws_new", "live"), stream="new-stream")],
        attempts=[attempt(event(2, delivered()), 1, 1)],
        trims=[Trim(source, 10, NOW_MS)],
        quarantined=[Quarantined(source, 3, "poison", NOW_MS)],
        advances=[Advance(source, 0, 5), Advance(lifecycle(0), stale, 9)],
        epochs={0: 9},
    )
    with pytest.raises(StaleWriter):
        await store.apply(batch)
    assert (await store.progress(), await store.digest(), await store.counts()) == before
    await store.apply(replace(batch, advances=[Advance(source, 0, 5), Advance(lifecycle(0), 7, 9)]))
    assert await store.get(batch.events[0].key) == batch.events[0]


async def test_a_partition_that_is_there_is_not_started_again(store: ReadModel) -> None:
    with pytest.raises(StaleWriter):
        await store.apply(Changes(advances=[Advance(lifecycle(0), 3, 4)]))
    await store.apply(Changes(advances=[Advance(lifecycle(0), 0, 4)]))
    with pytest.raises(StaleWriter):
        await store.apply(Changes(advances=[Advance(lifecycle(0), 0, 5)]))
    assert (await store.progress()).positions == {lifecycle(0): 4}


async def test_quarantined_records_are_kept_once(store: ReadModel) -> None:
    bad = Quarantined(lifecycle(1), 5, "tombstone", NOW_MS)
    await store.apply(Changes(quarantined=[bad]))
    before = await store.digest()
    await store.apply(Changes(quarantined=[replace(bad, at_ms=NOW_MS + 1)]))
    assert (await store.counts())["quarantine"] == 1
    assert await store.digest() == before  # when it was folded is not in the log


# -- waiting for the projection


async def test_wait_past_what_is_reached_already(store: ReadModel) -> None:
    assert await store.wait_past({}, 0)
    assert not await store.wait_past({lifecycle(0): 1}, 0)
    assert await store.wait_past({lifecycle(0): 0}, 0)
    await store.apply(changes([], 0))
    assert await store.wait_past({lifecycle(0): 1}, 0)
    assert not await store.wait_past({lifecycle(0): 1, lifecycle(1): 1}, 0)


@virtual_time
async def test_wait_past_wakes_at_once_or_gives_up_in_time(clock: VirtualClock) -> None:
    async with opened(None) as store:
        waits = [asyncio.ensure_future(store.wait_past({lifecycle(0): end}, 2.0)) for end in (1, 2)]
        await pass_time(1.01)  # between two polls
        assert not any(wait.done() for wait in waits)
        await store.apply(changes([]))
        await settle()
        assert waits[0].done()
        assert clock.monotonic_s() == pytest.approx(1.01)
        assert not waits[1].done()
        assert [await wait for wait in waits] == [True, False]
        assert clock.monotonic_s() == pytest.approx(2.0)


@virtual_time
async def test_wait_past_sees_what_another_process_applied(clock: VirtualClock, tmp_path: Path) -> None:
    path = tmp_path / "read_model.db"
    async with opened(path) as reader, opened(path) as projector:
        wait = asyncio.ensure_future(reader.wait_past({lifecycle(0): 1}, 2.0))
        await pass_time(0.1)
        await projector.apply(changes([event(1)]))
        await pass_time(2 * POLL_S)
        assert wait.done()
        assert await wait
        assert await reader.get(event(1).key) == event(1)


# -- routes that wait or are open


def ids(waiting: Waiting) -> list[str]:
    return [route.event_id for route in waiting.routes]


async def test_a_targets_waiting_routes_come_earliest_due_first(store: ReadModel) -> None:
    late, soon, first = event(1, retrying(30)), event(2, retrying(20)), event(3, parked(10))
    same = [event(number, retrying(20), partition=0) for number in (7, 5)]
    foreign = [
        event(1, retrying(5), partition=1),
        event(1, retrying(5), scope=OTHER_SCOPES[0]),
        event(8, retrying(5, "wf_other")),
        event(9, delivered()),
        event(10, RouteState(TARGET)),
    ]
    await store.apply(changes([late, soon, first, *same, *foreign]))
    found = await store.waiting_for(0, SCOPE, TARGET, 20, 100)
    assert ids(found) == [first.id, soon.id, same[1].id, same[0].id]
    assert found.incarnation == (await store.progress()).incarnation
    assert found.lifecycle_position == 1
    route = found.routes[0]
    assert (route.workspace_id, route.environment, route.topic, route.offset) == (*SCOPE, first.topic, 3)
    assert (route.target, route.attempt, route.replay) == (TARGET, 0, 0)
    assert (route.status, route.due_at_ms) == ("queued", 10)
    assert ids(await store.waiting_for(0, SCOPE, TARGET, 20, 2)) == [first.id, soon.id]
    assert ids(await store.waiting_for(0, SCOPE, TARGET, 9, 100)) == []
    assert ids(await store.waiting_for(0, SCOPE, TARGET, 20, 0)) == []


async def test_a_route_stops_waiting_when_it_changes(store: ReadModel) -> None:
    first = event(1, retrying(30))
    await store.apply(changes([first]))
    await store.apply(changes([with_routes(first, RouteState(TARGET, status=PROCESSING, attempt=2))], 1))
    assert ids(await store.waiting_for(0, SCOPE, TARGET, 99, 10)) == []
    await store.apply(changes([with_routes(first, delivered())], 2))
    assert (await store.waiting_for(0, SCOPE, TARGET, 99, 10)).lifecycle_position == 3


async def test_upcoming_are_the_shards_retries_of_any_target(store: ReadModel) -> None:
    batch = [event(due, retrying(due, f"wf_{due}")) for due in (40, 30, 20, 10)]
    await store.apply(changes([*batch, event(1, parked(25)), event(2, retrying(25), partition=1)]))
    assert [route.due_at_ms for route in (await store.upcoming(0, 10, 40, 10)).routes] == [20, 30, 40]
    assert [route.due_at_ms for route in (await store.upcoming(0, 9, 39, 2)).routes] == [10, 20]
    assert (await store.upcoming(7, 0, 99, 10)) == Waiting((await store.progress()).incarnation, 0, [])


async def test_targets_waiting_are_named_once(store: ReadModel) -> None:
    assert await store.targets_waiting(0, 100) == set()
    batch = [event(number, retrying(number, f"wf_{number % 3}")) for number in range(1, 40)]
    batch += [event(5, retrying(5, "wf_0"), scope=scope) for scope in OTHER_SCOPES]
    await store.apply(changes([*batch, event(1, retrying(1), partition=1)]))
    here = {(*SCOPE, f"wf_{number}") for number in range(3)}
    others = {(*scope, "wf_0") for scope in OTHER_SCOPES}
    assert await store.targets_waiting(0, 100) == here | others
    assert await store.targets_waiting(0, 2) == here - {(*SCOPE, "wf_0")}
    assert await store.targets_waiting(0, 0) == set()


async def test_open_below_is_about_one_partition_of_one_topic(store: ReadModel) -> None:
    batch = [event(number, RouteState("wf_a"), delivered("wf_b")) for number in (3, 2, 1)]
    other = [event(1, RouteState("wf_a"), stream="users"), event(1, RouteState("wf_a"), partition=1)]
    await store.apply(changes([*batch, *other]))
    found = await store.open_below(source_of(batch[0]), 3, 100)
    assert [(route.offset, route.target) for route in found.routes] == [(1, "wf_a"), (2, "wf_a")]
    assert len((await store.open_below(source_of(batch[0]), 4, 2)).routes) == 2
    assert (await store.open_below(TopicPartition("atlas.live.ws_none.none", 0), 9, 9)).routes == []


async def test_the_oldest_overdue_route_of_any_shard_counts(store: ReadModel) -> None:
    assert await store.oldest_overdue_ms(NOW_MS) == 0
    await store.apply(changes([event(1, retrying(NOW_MS)), event(2, retrying(NOW_MS - 50), partition=3)]))
    assert await store.oldest_overdue_ms(NOW_MS - 50) == 0
    assert await store.oldest_overdue_ms(NOW_MS + 7) == 57


# -- retention


async def test_a_trim_takes_everything_of_events_below_it(store: ReadModel) -> None:
    batch = [
        event(
            number, delivered(), actor={"id": "u"}, metadata={"k": str(number)}, idempotency_key=f"{number}"
        )
        for number in range(6)
    ]
    others = [event(1, delivered(), stream="users"), event(1, delivered(), partition=1)]
    made = [attempt(state, 1, state.offset) for state in [*batch, *others]]
    source = source_of(batch[0])
    bad = [Quarantined(source, offset, "poison", NOW_MS) for offset in (3, 4)]
    await store.apply(Changes(events=[*batch, *others], attempts=made, quarantined=bad))
    await store.apply(Changes(trims=[Trim(source, 4, NOW_MS + 4)]))
    kept = [*batch[4:], *others]
    assert set(await store.load([state.key for state in [*batch, *others]])) == {s.key for s in kept}
    assert await store.attempts(batch[3].key) == []
    async with opened(None) as fresh:
        await fresh.apply(
            Changes(events=kept, attempts=made[4:], quarantined=bad[1:], trims=[Trim(source, 4, NOW_MS + 4)])
        )
        assert await store.digest() == await fresh.digest()
        assert await store.counts() == await fresh.counts()


async def test_a_trim_covers_events_of_its_own_batch(store: ReadModel) -> None:
    state = event(1, delivered())
    await store.apply(Changes(events=[state], trims=[Trim(source_of(state), 2, NOW_MS + 2)]))
    assert await store.get(state.key) is None
    assert (await store.counts())["terms"] == 0


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    for path in (None, tmp_path / "read_model.db"):
        store = await open_read_model(path)
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.progress()
        with pytest.raises(StoreUnavailable):
            await store.apply(Changes())
