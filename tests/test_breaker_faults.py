"""Circuit breakers when other things happen at the same time: changes, takeovers, clocks, replays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from atlas.core.breaker import FAILURES_MAX, OPEN, PROBE_AFTER_MAX_MS
from atlas.core.commands import DisableTarget, PatchTarget, ReactivateTarget
from atlas.core.facts import BreakerChanged, DeliveryParked
from atlas.core.murmur2 import partition_for
from atlas.ports.sender import DeliveryResult
from tests.simulation import DOWN, OK, SCOPE, Sent, Simulation, answer_down, hang
from tests.test_breaker import attempts, dead_target
from tests.test_replays import ask
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, virtual_time

DAY_S = 86_400


@virtual_time
async def test_a_dead_target_does_not_make_the_process_unready(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await dead_target(sim)
        for _ in range(30):
            await pass_time(11)
            checks = await sim.processes[0].deliverer.checks()
            assert set(checks.values()) == {"ok"}


@virtual_time
async def test_what_an_old_address_did_is_not_held_against_the_new_one(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=100, retry_schedule_seconds=(1,))
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = hang
        sim.process()
        await pass_time(1)
        ids = await sim.accept("orders", 100)
        await sim.until(lambda: len(sim.sender.sent) == 100)
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), url="http://wf_b"))
        late = await sim.accept("orders", 5)
        await sim.until_status([*ids, *late], "delivered", 10)
        facts = await sim.every_fact()
        assert not [fact for fact in facts if isinstance(fact, BreakerChanged)]


@virtual_time
async def test_an_answer_of_an_old_address_says_nothing_of_the_new_one(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async def late_ok(sent: Sent) -> DeliveryResult:
        await pass_time(4)
        return OK

    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=FAILURES_MAX + 1)
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets |= {"http://wf_a": late_ok, "http://wf_b": answer_down}
        sim.process()
        await pass_time(1)
        await sim.accept("orders", 1)
        await sim.until(lambda: len(sim.sender.sent) == 1)
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), url="http://wf_b"))
        await sim.accept("orders", 60)
        await pass_time(2)
        opened = (await sim.read_model.breakers(SCOPE))["wf_a"]
        await pass_time(3)
        still = (await sim.read_model.breakers(SCOPE))["wf_a"]
        assert still.opened_at_ms == opened.opened_at_ms


@pytest.mark.parametrize("how", ["patched", "reactivated"])
@virtual_time
async def test_a_target_changed_while_nobody_delivers_gets_its_chance_at_once(
    clock: VirtualClock, tmp_path: Path, how: str
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await dead_target(sim)
        await pass_time(200)
        probes = len(sim.sender.sent)
        await sim.until(lambda: len(sim.sender.sent) > probes)
        await pass_time(0.5)
        await sim.processes[0].kill()
        if how == "reactivated":
            await sim.registry.propose(DisableTarget(**sim.scoped("wf_dead"), reason="requested"))
            await sim.registry.propose(ReactivateTarget(**sim.scoped("wf_dead")))
        else:
            await sim.registry.propose(PatchTarget(**sim.scoped("wf_dead"), url="http://wf_alive"))
        sim.sender.targets.clear()
        sim.process("next")
        await sim.until_status(ids[-1:], "delivered", 15)  # the group notices after 10
        await sim.folded()
        assert await sim.read_model.breakers(SCOPE) == {}


@pytest.mark.parametrize("days", [1, -1])
@virtual_time
async def test_a_clock_that_is_set_holds_no_breaker_open(
    clock: VirtualClock, tmp_path: Path, days: int
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await dead_target(sim)
        await pass_time(100)
        clock.jump(days * DAY_S)
        await sim.accept("orders", 100)
        before = len(sim.sender.sent)
        await pass_time(100)
        assert 3 <= len(sim.sender.sent) - before <= 4, "probes go on, and no storm"
        shown = (await sim.read_model.breakers(SCOPE))["wf_dead"]
        assert shown.next_probe_at_ms is None or abs(shown.next_probe_at_ms - clock.now_ms()) < 40_000
        sim.sender.targets.clear()
        fresh = await sim.accept("orders", 1)
        await sim.until_status(fresh, "delivered", 40)
        if days > 0:
            await sim.until_ended(ids)


@virtual_time
async def test_the_facts_of_a_paused_owner_count_for_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await dead_target(sim)
        await pass_time(50)
        first = sim.processes[0]
        first.pause()
        sim.process("next")
        await sim.until(lambda: sim.processes[1].shards() == {0, 1}, 60)
        await pass_time(60)
        sim.sender.targets.clear()
        await sim.until_status(ids, "delivered", 120)
        await sim.folded()
        assert await sim.read_model.breakers(SCOPE) == {}
        sim.sender.targets["http://wf_dead"] = answer_down
        first.resume()
        await pass_time(120)
        await sim.folded()
        assert await sim.read_model.breakers(SCOPE) == {}, "nothing failed since"
        assert set(attempts(sim.sender.sent).values()) <= {1, 2}
        await check_rebuild(sim)


@virtual_time
async def test_thousands_of_routes_wait_and_come_back_within_the_targets_limits(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """First attempts, retries that fall due meanwhile, and replays: all are held, none is lost."""
    under_way = most = 0

    async def count(sent: Sent) -> DeliveryResult:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await pass_time(0.01)
        under_way -= 1
        return OK

    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=8, rate_limit_per_second=400, retry_schedule_seconds=(20,))
        await sim.stream("orders", ["wf_a"])
        sim.process(lane_max=200)
        before = await sim.accept("orders", 50)
        await sim.until_status(before, "delivered")
        sim.sender.targets["http://wf_a"] = answer_down
        ids = await sim.accept("orders", 3_000)
        await sim.until(lambda: len(sim.sent_to("wf_a")) >= 50 + FAILURES_MAX)
        for event_id in before:
            await ask(sim, event_id, "wf_a")
        await pass_time(300)
        assert len(sim.sent_to("wf_a")) - 50 <= FAILURES_MAX + 8 + 4 + 300_000 / PROBE_AFTER_MAX_MS
        facts = await sim.every_fact()
        parked = Counter(fact.event_id for fact in facts if isinstance(fact, DeliveryParked))
        assert len(parked) >= 2_900
        assert set(parked.values()) == {1}
        failed = {id_ for id_ in ids if (await sim.event(id_)).status == "failed"}
        sent_before = len(sim.sent_to("wf_a"))
        sim.sender.targets["http://wf_a"] = count
        alive = [event_id for event_id in ids if event_id not in failed]
        await sim.until_status([*before, *alive], "delivered", 120)
        assert most <= 8
        seconds = Counter(sent.at_ms // 1000 for sent in sim.sent_to("wf_a")[sent_before:])
        assert max(seconds.values()) <= 401
        assert set(attempts(sim.sent_to("wf_a")).values()) == {1}
        assert len(failed) <= 300_000 / PROBE_AFTER_MAX_MS + 8, "only by probes that were their last retry"
        await check_rebuild(sim)


@virtual_time
async def test_a_subscriber_that_is_down_is_told_later(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.endpoint("we_down", max_in_flight=4)
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://we_down"] = answer_down
        sim.process()
        await pass_time(1)
        ids = await sim.accept("orders", 200)
        await sim.until_status(ids, "delivered", 5)
        await pass_time(60)
        assert len(sim.sent_to("we_down")) <= FAILURES_MAX + 4 + 8
        assert (await sim.read_model.breakers(SCOPE))["we_down"].state == OPEN
        sim.sender.targets.clear()
        tried = len(sim.sent_to("we_down"))
        await sim.until(lambda: len({s.event_id for s in sim.sent_to("we_down")[tried:]}) == 200)
        await sim.folded()
        assert await sim.read_model.breakers(SCOPE) == {}


@virtual_time
async def test_each_process_learns_by_itself_and_the_worst_shows(clock: VirtualClock, tmp_path: Path) -> None:
    """A target that one process reaches and another does not."""
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])

        async def half_dead(sent: Sent) -> DeliveryResult:
            return DOWN if partition_for(sent.event_id.encode(), sim.shards) == 0 else OK

        sim.sender.targets["http://wf_a"] = half_dead
        for name in ("first", "second"):
            sim.process(name)
        await sim.until(lambda: all(len(process.shards()) == 1 for process in sim.processes), 60)
        ids = await sim.accept("orders", 200)
        await pass_time(3)
        reached = [id_ for id_ in ids if partition_for(id_.encode(), sim.shards) == 1]
        assert await sim.statuses(reached) == {"delivered": len(reached)}
        breakers = sim.read_model.breakers
        assert await breakers(SCOPE, 1) == {}
        assert await breakers(SCOPE, 0) == await breakers(SCOPE) != {}
        assert {process.engine.breakers_open() for process in sim.processes} == {0, 1}


@virtual_time
async def test_an_owner_gone_at_any_moment_leaves_no_storm_and_loses_nothing(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path, seed=7) as sim:
        ids = await dead_target(sim, 300)
        for turn in range(12):
            await pass_time(sim.random.random() * 20)
            await sim.processes[-1].kill()
            sim.process(f"owner {turn}")
        took_s = (clock.now_ms() - sim.sender.sent[0].at_ms) / 1000 + 60
        await pass_time(60)
        assert len(sim.sender.sent) <= FAILURES_MAX + 8 + 4 + 12 + took_s * 1000 / PROBE_AFTER_MAX_MS
        facts = await sim.every_fact()
        parked = Counter(fact.event_id for fact in facts if isinstance(fact, DeliveryParked))
        assert set(parked.values()) == {1}
        sim.sender.targets.clear()
        await sim.until_status(ids, "delivered", 120)
        await sim.folded()
        assert await sim.read_model.breakers(SCOPE) == {}
        await check_rebuild(sim)
