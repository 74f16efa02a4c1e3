"""Ownership of shards: killed, paused and woken owners, with the guarantees G3, G4, G6 checked each time."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from atlas.adapters.embedded_group import SESSION_TIMEOUT_S
from atlas.core.facts import DeliveryAttempted, ShardClaimed
from atlas.ports.sender import DeliveryResult
from consumers.projector import Projector
from tests.sim_process import Process
from tests.simulation import DOWN, OK, Sent, Simulation, answer_ok
from tests.virtual_time import VirtualClock, pass_time, run_virtual, virtual_time


async def two_owners(sim: Simulation) -> tuple[Process, Process]:
    first, second = sim.process("first"), sim.process("second")
    await sim.until(lambda: len(first.shards()) == len(second.shards()) == 1)
    return first, second


async def check_attempts(sim: Simulation, ids: list[str]) -> None:
    """G3, G4: terminal; numbers gapless and rising; the valid facts tell one story."""
    for event_id in ids:
        state = await sim.event(event_id)
        assert {route.status for route in state.routes} <= {"delivered", "failed"}, state
        attempts = await sim.attempts(event_id)
        for route in state.routes:
            numbers = [attempt.attempt for attempt in attempts if attempt.target == route.target]
            assert numbers == list(range(1, route.attempt + 1))
    deliveries = defaultdict(set)
    for sent in sim.sender.sent:
        deliveries[sent.delivery_id].add(sent.body)
    assert all(len(bodies) == 1 for bodies in deliveries.values()), "a delivery id with two bodies"


async def check_rebuild(sim: Simulation) -> None:
    """G6: the read model folded anew from the log equals the live one."""
    for process in sim.processes:
        await process.kill()
    await sim.folded()
    live, sim.read_model = sim.read_model, await sim.open_read_model()
    projector = Projector(sim.log, sim.read_model, sim.registry, sim.clock, sim.metrics)
    await sim.supervisor.stop("projector")
    sim.supervisor.start("rebuild", projector.run)
    await sim.folded()
    assert await sim.read_model.digest() == await live.digest()
    assert await sim.read_model.counts() == await live.counts()
    await live.close()


@virtual_time
async def test_a_killed_owners_work_goes_on_under_its_numbers(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        first, second = await two_owners(sim)

        async def never(sent: Sent) -> DeliveryResult:
            await pass_time(3_600)
            return OK

        sim.sender.targets["http://wf_a"] = never
        ids = await sim.accept("orders", 20)
        await pass_time(1)
        cut_off = {s.event_id for s in sim.sender.sent}
        assert cut_off == set(ids)
        sim.sender.targets["http://wf_a"] = answer_ok
        await first.kill()
        await second.kill()
        third = sim.process("third")
        await sim.until_status(ids, "delivered")
        assert third.shards() == {0, 1}
        assert {s.attempt for s in sim.sender.sent} == {1}
        assert len(sim.sender.sent) == 2 * len(ids)
        await check_attempts(sim, ids)
        await check_rebuild(sim)


@virtual_time
async def test_a_paused_owner_that_wakes_up_changes_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", timeout_ms=30_000)
        await sim.stream("orders", ["wf_a"])
        first, second = await two_owners(sim)
        answered: dict[str, list[str]] = defaultdict(list)

        async def behave(sent: Sent) -> DeliveryResult:
            tries = answered[sent.event_id]
            tries.append("first" if not tries else "second")
            if len(tries) == 1:
                await pass_time(1)
                return DOWN  # what the paused owner will say once it wakes up
            return OK

        sim.sender.targets["http://wf_a"] = behave
        ids = await sim.accept("orders", 40)
        await pass_time(0.5)
        first.pause()
        lost = first.shards()
        await pass_time(2 * SESSION_TIMEOUT_S)
        assert second.shards() == {0, 1}
        await sim.until_status(ids, "delivered")
        attempts_before = {event_id: await sim.attempts(event_id) for event_id in ids}
        first.resume()
        await pass_time(3 * SESSION_TIMEOUT_S)
        assert {event_id: await sim.attempts(event_id) for event_id in ids} == attempts_before
        facts = await sim.facts()
        for shard in lost:
            claims = [offset for offset, fact in facts[shard] if isinstance(fact, ShardClaimed)]
            late = [
                fact
                for offset, fact in facts[shard]
                if isinstance(fact, DeliveryAttempted) and fact.epoch != max(c for c in claims if c < offset)
            ]
            assert late, "the woken owner wrote, and it was void"
        assert first.shards() | second.shards() == {0, 1}
        assert not first.shards() & second.shards()
        await check_attempts(sim, ids)
        await check_rebuild(sim)


@virtual_time
async def test_no_attempt_starts_on_a_stale_heartbeat(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        process = sim.process()
        await sim.until(lambda: process.shards() == {0, 1})
        for member in process.log.members:
            member.beating = False
        await pass_time(SESSION_TIMEOUT_S / 2 + 1)
        await sim.accept("orders", 5)
        await pass_time(3)
        assert sim.sender.sent == []
        for member in process.log.members:
            member.beating = True
        await sim.until(lambda: len(sim.sender.sent) == 5)


@virtual_time
async def test_work_under_way_is_adopted_when_the_shard_comes_back(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", timeout_ms=30_000)
        await sim.stream("orders", ["wf_a"])

        async def slow(sent: Sent) -> DeliveryResult:
            await pass_time(10)
            return OK

        sim.sender.targets["http://wf_a"] = slow
        process = sim.process()
        await sim.until(lambda: process.shards() == {0, 1})
        ids = await sim.accept("orders", 10)
        await pass_time(1)
        claim = ShardClaimed(owner="foreign", at_ms=clock.now_ms())
        for shard in range(2):
            await sim.claim(shard, claim)
        await sim.until_status(ids, "delivered")
        assert len(sim.sender.sent) == len(ids), "nothing was sent twice"
        await check_attempts(sim, ids)


@pytest.mark.parametrize("seed", range(16))
def test_any_owners_killed_or_paused_at_any_moment(seed: int, tmp_path: Path) -> None:
    """Random faults from a seed, under load with failing targets; then everything ends well."""

    async def scenario(clock: VirtualClock) -> None:
        async with Simulation(clock, tmp_path, seed=seed) as sim:
            chance = sim.random

            async def flaky(sent: Sent) -> DeliveryResult:
                await pass_time(chance.choice([0.001, 0.05, 0.3, 2.0]))
                return OK if chance.random() < 0.6 else DOWN

            for target in ("wf_a", "wf_b"):
                await sim.workflow(target, retry_schedule_seconds=(1, 2, 4, 8, 16, 32, 64, 128))
                sim.sender.targets[f"http://{target}"] = flaky
            await sim.stream("orders", ["wf_a", "wf_b"])
            running = [sim.process("0")]
            ids: list[str] = []
            for step in range(1, 13):
                ids += await sim.accept("orders", chance.randrange(1, 15))
                await pass_time(chance.uniform(0, 4))
                victim = chance.choice(running)
                match chance.choice(["kill", "pause", "wake", "start", "nothing"]):
                    case "kill":
                        await victim.kill()
                        running.remove(victim)
                        running = running or [sim.process(str(step))]
                    case "pause":
                        victim.pause()
                        await pass_time(chance.uniform(0, 2 * SESSION_TIMEOUT_S))
                    case "wake":
                        for process in running:
                            process.resume()
                    case "start":
                        running.append(sim.process(str(step)))
            for process in running:
                process.resume()
            sim.sender.targets.clear()

            async def all_terminal() -> bool:
                return set(await sim.statuses(ids)) <= {"delivered", "failed"}

            await sim.until(all_terminal, 1_200)
            await check_attempts(sim, ids)
            await check_rebuild(sim)

    run_virtual(scenario)
