"""A workspace with a backlog, in virtual time: what it takes from others, what it keeps, in which order.

`scripts/bench --deliver --only fairness` measures the same with 100,000 deliveries, real sockets and a real
clock.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from atlas.core.entities import Scope
from atlas.core.facts import DeliveryParked
from atlas.core.limits import IN_FLIGHT_MAX
from atlas.core.retry import JITTER
from atlas.ports.sender import DeliveryResult
from atlas.runtime import waiting
from atlas.runtime.engine import LANE_MAX, QUEUED_MAX, UNDER_WAY_MAX
from atlas.runtime.lane import LANE_MIN, UNDER_WAY_MIN
from atlas.runtime.shares import Shares
from tests.simulation import OK, REFUSED, Sent, Simulation, refuse
from tests.virtual_time import VirtualClock, pass_time, virtual_time

BATCH = 500


async def hang_forever(sent: Sent) -> DeliveryResult:
    """A target that takes its whole time-out, and is not so far gone that its breaker opens."""
    await pass_time(5)
    return REFUSED


async def take_30_ms(sent: Sent) -> DeliveryResult:
    await pass_time(0.03)
    return OK


async def noisy_workspace(sim: Simulation, targets: int, **policy: Any) -> Scope:
    """Another workspace with a stream `flood` to so many targets that hang."""
    scope = await sim.workspace("ws_noisy")
    names = [f"wf_hangs_{number}" for number in range(targets)]
    for name in names:
        await sim.workflow(name, scope=scope, **policy)
        sim.sender.targets[f"http://{name}"] = hang_forever
    await sim.stream("flood", names, scope=scope)
    return scope


async def flood(sim: Simulation, scope: Scope, events: int) -> list[str]:
    ids: list[str] = []
    for _ in range(0, events, BATCH):
        ids += await sim.accept("flood", min(BATCH, events - len(ids)), scope=scope)
    return ids


async def parked(sim: Simulation) -> list[DeliveryParked]:
    return [fact for fact in await sim.every_fact() if isinstance(fact, DeliveryParked)]


async def waits_ms(sim: Simulation, bursts: int) -> list[int]:
    """Accept to first attempt of a steady flow of small bursts to `wf_calm`, ascending."""
    accepted: dict[str, int] = {}
    for _ in range(bursts):
        now_ms = sim.clock.now_ms()
        accepted |= dict.fromkeys(await sim.accept("calm", 5), now_ms)
        await pass_time(0.2)
    first = {s.event_id: s.at_ms for s in sim.sent_to("wf_calm") if s.attempt == 1}
    return sorted(first[event_id] - at_ms for event_id, at_ms in accepted.items())


@virtual_time
async def test_a_backlog_leaves_anothers_latency_within_twice_its_quiet_figure(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        scope = await noisy_workspace(sim, 3, retry_schedule_seconds=(1,) * 9)
        await sim.workflow("wf_calm", max_in_flight=2)
        sim.sender.targets["http://wf_calm"] = take_30_ms
        await sim.stream("calm", ["wf_calm"])
        process = sim.process(lane_max=100, queued_max=200)
        await pass_time(2)
        quiet = await waits_ms(sim, 40)
        await flood(sim, scope, 1_000)
        before = len(sim.sent_to("wf_hangs_0"))
        loaded = await waits_ms(sim, 100)
        p95_quiet, p95_loaded = (waits[int(len(waits) * 0.95)] for waits in (quiet, loaded))
        assert p95_quiet >= 30, "with two under way at a time a burst of five waits"
        assert p95_loaded <= 2 * p95_quiet
        assert loaded[-1] <= 2 * quiet[-1]
        assert process.engine.queued <= 200 + 4 * LANE_MIN
        assert len(sim.sent_to("wf_hangs_0")) - before >= 64, "the backlog is worked off all the while"


@virtual_time
async def test_many_targets_of_one_workspace_leave_room_in_memory_for_another(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        scope = await noisy_workspace(sim, 20, max_in_flight=1)
        await sim.workflow("wf_calm", max_in_flight=1)
        await sim.stream("calm", ["wf_calm"])
        process = sim.process(queued_max=1_000)
        await flood(sim, scope, 200)
        await pass_time(2)
        assert process.engine.queued <= 500 + 20 * LANE_MIN
        ids = await sim.accept("calm", 100)
        await sim.until(lambda: len(sim.sent_to("wf_calm")) == len(ids), 1)
        assert {fact.target for fact in await parked(sim)} & {"wf_calm"} == set()


@virtual_time
async def test_attempts_under_way_are_bounded_and_shared(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        targets, most = 10, 60
        scope = await noisy_workspace(sim, targets, max_in_flight=IN_FLIGHT_MAX)
        await sim.workflow("wf_calm", max_in_flight=IN_FLIGHT_MAX)
        sim.sender.targets["http://wf_calm"] = take_30_ms
        await sim.stream("calm", ["wf_calm"])
        process = sim.process(under_way_max=most)
        ids = await flood(sim, scope, 100)
        await pass_time(2)
        assert most // 2 <= process.engine.in_flight() <= most // 2 + targets * UNDER_WAY_MIN
        assert {s.url for s in sim.sender.sent} == {f"http://wf_hangs_{n}" for n in range(targets)}
        before_ms = clock.now_ms()
        await sim.accept("calm", 5)
        await sim.until(lambda: len(sim.sent_to("wf_calm")) == 5, 1)
        assert sim.sent_to("wf_calm")[-1].at_ms == before_ms
        sim.sender.targets.clear()

        async def all_delivered() -> bool:
            await sim.folded()
            found = [await sim.read_model.get((*scope, event_id)) for event_id in ids]
            return all(state is not None and state.status == "delivered" for state in found)

        await sim.until(all_delivered)
        assert process.engine.under_way.held == process.engine.memory.held == 0


@virtual_time
async def test_past_the_bound_a_route_is_parked_once_and_taken_up_in_order(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        scope = await noisy_workspace(sim, 1, max_in_flight=4, retry_schedule_seconds=(1,) * 9)
        process = sim.process(lane_max=50)
        ids = await flood(sim, scope, 1_000)
        await pass_time(20)
        assert process.engine.queued <= 50
        sim.sender.targets["http://wf_hangs_0"] = take_30_ms
        await sim.until(lambda: len({s.event_id for s in sim.sender.sent}) == len(ids))
        facts = [(fact.event_id, fact.target) for fact in await parked(sim)]
        assert len(facts) >= 900
        assert max(Counter(facts).values()) == 1
        shard = {e: (await sim.read_model.get((*scope, e))) for e in ids}
        for number in range(sim.shards):
            offsets = [
                state.offset
                for s in sim.sender.sent
                if s.attempt == 1 and (state := shard[s.event_id]) is not None and state.partition == number
            ]
            assert offsets == sorted(offsets)
            assert len(offsets) > 300


@virtual_time
async def test_retries_due_at_once_are_spread_and_stop_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    """While no deliverer ran, all of them came due."""
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_down", retry_schedule_seconds=(60, 60), max_in_flight=8)
        await sim.workflow("wf_calm")
        sim.sender.targets["http://wf_down"] = refuse
        await sim.stream("orders", ["wf_down"])
        await sim.stream("calm", ["wf_calm"])
        first = sim.process()
        ids = await sim.accept("orders", 1_000)
        await sim.until(lambda: len(sim.sender.sent) == len(ids))
        due_ms = [(await sim.attempts(event_id))[0].next_attempt_at_ms or 0 for event_id in ids]
        width_ms = 60_000 * JITTER
        seconds = Counter((due - min(due_ms)) // 1_000 for due in due_ms)
        assert max(due_ms) - min(due_ms) > 0.9 * width_ms
        assert max(seconds.values()) < 2 * len(ids) / (width_ms / 1_000)
        await first.kill()
        await pass_time(120)
        under_way = peak = 0

        async def count(sent: Sent) -> DeliveryResult:
            nonlocal under_way, peak
            under_way, peak = under_way + 1, max(peak, under_way + 1)
            await pass_time(0.02)
            under_way -= 1
            return OK

        sim.sender.targets["http://wf_down"] = count
        next_one = sim.process("next", lane_max=100)
        await sim.until(lambda: len(sim.sent_to("wf_down")) > len(ids))
        before_ms = clock.now_ms()
        await sim.accept("calm")
        await sim.until(lambda: bool(sim.sent_to("wf_calm")), 1)
        assert sim.sent_to("wf_calm")[0].at_ms == before_ms
        assert next_one.engine.queued <= 100
        await sim.until_status(ids, "delivered")
        assert peak == 8


@virtual_time
async def test_timers_in_memory_are_bounded_whatever_comes_due(clock: VirtualClock, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "TIMERS_MAX", 40)
        patch.setattr(waiting, "ROWS_MAX", 20)
        async with Simulation(clock, tmp_path) as sim:
            await sim.workflow("wf_down", retry_schedule_seconds=(20, 20, 20))
            sim.sender.targets["http://wf_down"] = refuse
            await sim.stream("orders", ["wf_down"])
            process = sim.process()
            ids = await sim.accept("orders", 400)
            await sim.until(lambda: len(sim.sender.sent) == len(ids))
            late = Counter[int]()
            for _ in range(700):
                await pass_time(0.1)
                for owner in process.deliverer.owners():
                    assert len(owner.waiting._timers) <= 40 + 20
            await sim.until_status(ids, "failed")
            for event_id in ids:
                attempts = await sim.attempts(event_id)
                for before, after in itertools.pairwise(attempts):
                    late[after.started_at_ms - (before.next_attempt_at_ms or 0)] += 1
            assert min(late) >= 0
            assert max(late) <= 1_000
            assert Counter(s.event_id for s in sim.sender.sent) == dict.fromkeys(ids, 4)


def test_nobody_holds_more_than_what_is_free() -> None:
    shares = Shares(120)
    held = Counter[str]()

    def fill(workspace_id: str) -> None:
        while held[workspace_id] < shares.bound(workspace_id, held[workspace_id]):
            shares.take(workspace_id)
            held[workspace_id] += 1

    fill("ws_a")
    assert held["ws_a"] == 60
    fill("ws_b")
    assert held["ws_b"] == 30
    for _ in range(30):
        shares.give_back("ws_a")
    held["ws_a"] -= 30
    fill("ws_b")
    assert (held["ws_b"], shares.held) == (45, 75)
    assert shares.bound("ws_c", 0) == 45


def test_what_a_process_holds_for_all_is_more_than_one_target_may() -> None:
    assert LANE_MAX < QUEUED_MAX // 2
    assert IN_FLIGHT_MAX < UNDER_WAY_MAX // 2
