"""Circuit breakers in the whole of Atlas, in virtual time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from atlas.core.breaker import FAILURES_MAX, HALF_OPEN, OPEN, PROBE_AFTER_MAX_MS
from atlas.core.commands import DeleteTarget, DisableTarget, PatchTarget
from atlas.core.facts import BreakerChanged, DeliveryParked
from tests.simulation import SCOPE, Sent, Simulation, answer_down, hang, refuse
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, virtual_time

MANY = 400


async def dead_target(sim: Simulation, events: int = MANY) -> list[str]:
    await sim.workflow("wf_dead", max_in_flight=8)
    await sim.stream("orders", ["wf_dead"])
    sim.sender.targets["http://wf_dead"] = answer_down
    sim.process()
    await pass_time(1)
    ids = await sim.accept("orders", events)
    await sim.until(lambda: len(sim.sender.sent) >= FAILURES_MAX)
    return ids


def attempts(sent: list[Sent]) -> Counter[tuple[str, int]]:
    return Counter((each.event_id, each.attempt) for each in sent)


@virtual_time
async def test_a_dead_target_is_only_probed_and_everything_comes_when_it_is_back(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await dead_target(sim)
        await pass_time(300)
        assert len(sim.sender.sent) <= FAILURES_MAX + 8 + 4 + 300_000 / PROBE_AFTER_MAX_MS
        open_now = (await sim.read_model.breakers(SCOPE))["wf_dead"]
        assert open_now.state == OPEN
        assert open_now.next_probe_at_ms is not None
        assert 0 < open_now.next_probe_at_ms - clock.now_ms() <= PROBE_AFTER_MAX_MS * 1.1
        facts = await sim.every_fact()
        parked = Counter(fact.event_id for fact in facts if isinstance(fact, DeliveryParked))
        assert set(parked.values()) == {1}, "a parked route is parked once, whatever the probes do"
        sim.sender.targets.clear()
        back_ms, before = clock.now_ms(), len(sim.sender.sent)
        await sim.until_status(ids, "delivered", 60 + PROBE_AFTER_MAX_MS / 1000)
        assert set(attempts(sim.sender.sent).values()) == {1}
        assert await sim.read_model.breakers(SCOPE) == {}
        probe = sim.sender.sent[before]
        assert probe.at_ms - back_ms <= PROBE_AFTER_MAX_MS * 1.1
        assert sim.sender.sent[before + 9].at_ms > probe.at_ms - 1, "the others wait for the probe's answer"


@virtual_time
async def test_what_was_parked_comes_back_in_order(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_dead", max_in_flight=1, retry_schedule_seconds=(600,))
        await sim.stream("orders", ["wf_dead"])
        sim.sender.targets["http://wf_dead"] = answer_down
        sim.process()
        await pass_time(1)
        failing = await sim.accept("orders", FAILURES_MAX)
        await sim.until(lambda: len(sim.sender.sent) == FAILURES_MAX)
        parked = [event_id for _ in range(30) for event_id in await sim.accept("orders", 1)]
        await pass_time(0.1)
        assert len(sim.sender.sent) == FAILURES_MAX
        sim.sender.targets.clear()
        await sim.until_status(parked, "delivered", 60)
        assert [sent.event_id for sent in sim.sender.sent[FAILURES_MAX:]] == parked
        await sim.until_status(failing, "delivered", 700)


@virtual_time
async def test_the_next_owner_begins_where_the_last_one_stood(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await dead_target(sim)
        await pass_time(100)
        await sim.processes[0].kill()
        before = len(sim.sender.sent)
        sim.process("next")
        await pass_time(100)
        assert len(sim.sender.sent) - before <= 3 + 100_000 / PROBE_AFTER_MAX_MS, "no storm at a takeover"
        assert (await sim.read_model.breakers(SCOPE))["wf_dead"].state in (OPEN, HALF_OPEN)
        sim.sender.targets.clear()
        await sim.until_status(ids, "delivered", 120)
        assert await sim.read_model.breakers(SCOPE) == {}


@virtual_time
async def test_a_change_of_the_target_closes_it_at_once(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await dead_target(sim)
        await pass_time(100)
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_dead"), url="http://wf_alive"))
        await sim.until_status(ids[-1:], "delivered", 2)
        await sim.until_ended(ids, 120)
        await sim.folded()
        assert await sim.read_model.breakers(SCOPE) == {}


@pytest.mark.parametrize("how", ["disabled", "deleted"])
@virtual_time
async def test_of_a_target_that_takes_nothing_any_more_no_breaker_is_left(
    clock: VirtualClock, tmp_path: Path, how: str
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await dead_target(sim)
        await pass_time(20)
        scoped = sim.scoped("wf_dead")
        command = DisableTarget(**scoped, reason="requested") if how == "disabled" else DeleteTarget(**scoped)
        await sim.registry.propose(command)
        await sim.until_status(ids, "failed", 30)
        await sim.folded()
        assert await sim.read_model.breakers(SCOPE) == {}


@virtual_time
async def test_it_is_no_ones_business_but_the_targets(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_fine")
        await sim.stream("fine", ["wf_fine"])
        await dead_target(sim)
        before_ms = clock.now_ms()
        ids = await sim.accept("fine", 50)
        await sim.until_status(ids, "delivered", 5)
        assert max(s.at_ms for s in sim.sender.sent if s.url == "http://wf_fine") - before_ms < 50


@virtual_time
async def test_a_target_that_refuses_is_there(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(1,))
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = refuse
        sim.process()
        ids = await sim.accept("orders", 100)
        await sim.until_status(ids, "failed", 60)
        facts = await sim.every_fact()
        assert not [fact for fact in facts if isinstance(fact, BreakerChanged)]


@virtual_time
async def test_a_probe_that_hangs_holds_the_others_back_until_its_time_is_out(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await dead_target(sim)
        await pass_time(60)
        sim.sender.targets["http://wf_dead"] = hang
        before = len(sim.sender.sent)
        await sim.until(lambda: len(sim.sender.sent) > before)
        await pass_time(4)
        assert len(sim.sender.sent) == before + 1
        assert (await sim.read_model.breakers(SCOPE))["wf_dead"].state == HALF_OPEN


@virtual_time
async def test_a_rebuilt_store_has_the_same_breakers(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await dead_target(sim)
        await pass_time(50)
        await check_rebuild(sim)
