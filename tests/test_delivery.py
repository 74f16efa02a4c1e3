"""Deliveries in virtual time: schedule, limits, disabling, hanging targets, backlog, restart."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from atlas.core.commands import DeleteTarget, DisableTarget, ReactivateTarget
from atlas.core.facts import DeliveryParked, DeliveryStarted
from atlas.core.retry import DEFAULT_SCHEDULE_S, JITTER
from atlas.ports.sender import DeliveryResult
from tests.simulation import DOWN, GONE, OK, SCOPE, Sent, Simulation, answer_down, answer_ok, hang, refuse
from tests.virtual_time import VirtualClock, pass_time, virtual_time

DAY_S = 86_400


@virtual_time
async def test_a_first_attempt_starts_at_once(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        await pass_time(5)
        before_ms = clock.now_ms()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "delivered")
        assert [(s.event_id, s.attempt, s.at_ms) for s in sim.sender.sent] == [(event_id, 1, before_ms)]


@virtual_time
async def test_a_new_streams_first_event_is_delivered_at_once(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        sim.process()
        await pass_time(5)
        await sim.stream("late", ["wf_a"])
        before_ms = clock.now_ms()
        await sim.accept("late")
        await sim.until(lambda: bool(sim.sender.sent), 5)
        assert sim.sender.sent[0].at_ms == before_ms


@virtual_time
async def test_the_whole_schedule_of_a_day(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        sim.sender.targets["http://wf_a"] = answer_down
        await sim.stream("orders", ["wf_a"])
        sim.process()
        (event_id,) = await sim.accept("orders")
        await pass_time(30)
        assert (await sim.event(event_id)).status == "retried"
        await pass_time(1.1 * DAY_S)
        state = await sim.event(event_id)
        assert (state.status, state.routes[0].attempt, state.routes[0].error_code) == (
            "failed",
            len(DEFAULT_SCHEDULE_S) + 1,
            "upstream_status",
        )
        sent = sim.sender.sent
        assert [s.attempt for s in sent] == list(range(1, 10))
        assert len({s.delivery_id for s in sent}) == 1
        assert len({s.body for s in sent}) == 1
        for (earlier, later), base_s in zip(itertools.pairwise(sent), DEFAULT_SCHEDULE_S, strict=True):
            waited_s = (later.at_ms - earlier.at_ms) / 1000
            assert base_s <= waited_s <= base_s * (1 + JITTER) + 0.1
        recorded = await sim.attempts(event_id)
        assert [(a.attempt, a.status) for a in recorded] == [
            *[(number, "retry_scheduled") for number in range(1, 9)],
            (9, "failed"),
        ]
        for attempt, made in zip(recorded[1:], sent[1:], strict=True):
            assert 0 <= made.at_ms - (recorded[attempt.attempt - 2].next_attempt_at_ms or 0) <= 100


@virtual_time
async def test_a_target_that_hangs_delays_no_other(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_hangs", retry_schedule_seconds=(1,) * 3)
        await sim.workflow("wf_quick")
        sim.sender.targets["http://wf_hangs"] = hang
        await sim.stream("orders", ["wf_hangs", "wf_quick"])
        sim.process(lane_max=300)
        await pass_time(1)
        accepted_ms = clock.now_ms()
        ids = await sim.accept("orders", 300)
        await pass_time(0.01)
        ids += await sim.accept("orders", 100)
        await sim.until(lambda: len(quick(sim.sender.sent)) == len(ids))
        assert max(s.at_ms for s in quick(sim.sender.sent)) - accepted_ms < 50
        facts = await sim.every_fact()
        parked = [(f.event_id, f.target) for f in facts if isinstance(f, DeliveryParked)]
        assert parked, "past the lane's bound a route waits in the log"
        assert len(parked) == len(set(parked))
        assert {target for _, target in parked} == {"wf_hangs"}
        assert any(isinstance(fact, DeliveryStarted) for fact in facts)
        sim.sender.targets.clear()
        await sim.until_status(ids, "delivered")
        tried = Counter((s.event_id, s.attempt) for s in sim.sender.sent if s.url == "http://wf_hangs")
        assert set(tried.values()) == {1}


def quick(sent: list[Sent]) -> list[Sent]:
    return [s for s in sent if s.url == "http://wf_quick"]


@virtual_time
async def test_in_flight_and_rate_limits_hold(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_two", max_in_flight=2)
        await sim.workflow("wf_ten", rate_limit_per_second=10)
        under_way = peak = 0

        async def slow(sent: Sent) -> DeliveryResult:
            nonlocal under_way, peak
            under_way += 1
            peak = max(peak, under_way)
            await pass_time(0.5)
            under_way -= 1
            return OK

        sim.sender.targets["http://wf_two"] = slow
        await sim.stream("orders", ["wf_two", "wf_ten"])
        sim.process()
        ids = await sim.accept("orders", 40)
        await sim.until_status(ids, "delivered")
        assert peak == 2
        starts = [s.at_ms for s in sim.sender.sent if s.url == "http://wf_ten"]
        for index, start in enumerate(starts[10:]):
            assert start - starts[index] >= 990


@virtual_time
async def test_a_410_fails_the_route_and_disables_the_target(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        answers = iter([DOWN, GONE])

        async def behave(sent: Sent) -> DeliveryResult:
            return next(answers)

        sim.sender.targets["http://wf_a"] = behave
        sim.process()
        (waiting,) = await sim.accept("orders")
        await sim.until_status([waiting], "retried")
        (gone,) = await sim.accept("orders")
        await sim.until_status([gone], "failed")
        route = (await sim.event(gone)).routes[0]
        assert (route.error_code, route.attempt) == ("upstream_gone", 1)
        await sim.until_status([waiting], "failed", 5)
        route = (await sim.event(waiting)).routes[0]
        assert (route.error_code, route.attempt) == ("target_disabled", 1)
        workflow = sim.registry.state.target(SCOPE, "wf_a")
        assert (workflow.status, workflow.disabled_reason) == ("disabled", "gone")
        assert workflow.disabled_at_ms is not None
        (new,) = await sim.accept("orders")
        await sim.until_status([new], "failed", 5)
        route = (await sim.event(new)).routes[0]
        assert (route.error_code, route.attempt) == ("target_disabled", 0)
        await sim.registry.propose(ReactivateTarget(**sim.scoped("wf_a")))
        sim.sender.targets["http://wf_a"] = answer_ok
        (again,) = await sim.accept("orders")
        await sim.until_status([again], "delivered", 5)
        assert len(sim.sender.sent) == 3


@virtual_time
async def test_disabled_and_deleted_targets_end_their_open_routes(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        for target in ("wf_a", "wf_b"):
            await sim.workflow(target)
            sim.sender.targets[f"http://{target}"] = refuse
        await sim.stream("orders", ["wf_a", "wf_b"])
        sim.process()
        ids = await sim.accept("orders", 50)
        await sim.until_status(ids, "retried")
        disable = DisableTarget(**sim.scoped("wf_a"), reason="requested")
        await sim.registry.propose(disable)
        await sim.registry.propose(DeleteTarget(**sim.scoped("wf_b")))
        await sim.until_status(ids, "failed", 5)
        for event_id in ids:
            routes = (await sim.event(event_id)).routes
            assert [r.error_code for r in routes] == ["target_disabled", "target_deleted"]
            assert [r.attempt for r in routes] == [1, 1]
        assert len(sim.sender.sent) == 100


@virtual_time
async def test_pending_retries_survive_a_restart(clock: VirtualClock, tmp_path: Path) -> None:
    ids: list[str] = []
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        sim.sender.targets["http://wf_a"] = answer_down
        await sim.stream("orders", ["wf_a"])
        process = sim.process()
        ids = await sim.accept("orders", 20)
        await sim.until_status(ids, "retried")
        await process.kill()
        await pass_time(20)
        sim.sender.targets.clear()
        sim.process("next")
        await sim.until_status(ids, "delivered")
        by_event = Counter(s.event_id for s in sim.sender.sent)
        assert set(by_event.values()) == {2}
        retried = [s for s in sim.sender.sent if s.attempt == 2]
        first = {s.event_id: s for s in sim.sender.sent if s.attempt == 1}
        for sent in retried:
            assert 30_000 <= sent.at_ms - first[sent.event_id].at_ms <= 33_100
            assert sent.delivery_id == first[sent.event_id].delivery_id


@virtual_time
async def test_a_hundred_thousand_retries_due_at_once_are_all_made_and_spread(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """A thousandth of it in the suite: the same bounds, lane by lane."""
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(60,), max_in_flight=4)
        await sim.workflow("wf_fresh")
        sim.sender.targets["http://wf_a"] = refuse
        await sim.stream("orders", ["wf_a"])
        await sim.stream("fresh", ["wf_fresh"])
        sim.process(lane_max=100)
        ids = await sim.accept("orders", 1_000)
        await sim.until_status(ids, "retried")
        under_way = peak = 0

        async def slow(sent: Sent) -> DeliveryResult:
            nonlocal under_way, peak
            under_way += 1
            peak = max(peak, under_way)
            await pass_time(0.02)
            under_way -= 1
            return OK

        sim.sender.targets["http://wf_a"] = slow
        await pass_time(61)
        before_ms = clock.now_ms()
        (fresh,) = await sim.accept("fresh")
        await sim.until_status([fresh], "delivered", 5)
        assert next(s for s in sim.sender.sent if s.event_id == fresh).at_ms - before_ms < 50
        await sim.until_status(ids, "delivered")
        assert peak <= 4
