"""Replays of one event in virtual time: which routes go again, under which numbers and ids, and how often."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from atlas.core.facts import (
    LIFECYCLE_TOPIC,
    ReplayRequested,
)
from atlas.ports.sender import DeliveryResult
from atlas.runtime.replay_requests import replay_record
from tests.simulation import DOWN, OK, Sent, Simulation, answer_down, answer_ok
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, run_virtual, virtual_time


async def ask(
    sim: Simulation, event_id: str, *targets: str, at_once: bool = False, bulk: str | None = None
) -> None:
    """As a gateway does."""
    state = await sim.event(event_id)
    fact = ReplayRequested(
        event_id=event_id,
        topic=state.topic,
        offset=state.offset,
        targets=targets,
        at_ms=sim.clock.now_ms(),
        at_once=at_once,
        bulk=bulk,
    )
    await sim.log.append(LIFECYCLE_TOPIC, state.partition, [replay_record(fact)])


@virtual_time
async def test_a_delivered_route_goes_again_under_the_next_number_and_another_id(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        for target in ("wf_a", "wf_b"):
            await sim.workflow(target)
        await sim.stream("orders", ["wf_a", "wf_b"])
        sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "delivered")
        await ask(sim, event_id, "wf_a")
        assert (await sim.event(event_id)).status == "processing"
        await sim.until_status([event_id], "delivered", 10)
        first, second = sim.sent_to("wf_a")
        assert (first.attempt, second.attempt) == (1, 2)
        assert first.delivery_id != second.delivery_id
        assert first.body == second.body
        assert len(sim.sent_to("wf_b")) == 1
        assert [(a.target, a.attempt, a.replay) for a in await sim.attempts(event_id)][-1] == ("wf_a", 2, 1)
        await check_rebuild(sim)


@virtual_time
async def test_the_retry_budget_counts_from_the_replay(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(10, 20))
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = answer_down
        sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "failed")
        await ask(sim, event_id, "wf_a")
        await sim.until_status([event_id], "retried", 10)
        await sim.until_status([event_id], "failed")
        assert [sent.attempt for sent in sim.sent_to("wf_a")] == [1, 2, 3, 4, 5, 6]
        assert len({sent.delivery_id for sent in sim.sent_to("wf_a")}) == 2


@virtual_time
async def test_what_is_open_is_left_alone_but_a_retry_can_be_hastened(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(3_600,))
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = answer_down
        sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "retried")
        sim.sender.targets["http://wf_a"] = answer_ok
        await ask(sim, event_id, "wf_a")
        await pass_time(60)
        assert len(sim.sent_to("wf_a")) == 1
        await ask(sim, event_id, "wf_a", at_once=True)
        await sim.until_status([event_id], "delivered", 10)
        await pass_time(4_000)
        assert [sent.attempt for sent in sim.sent_to("wf_a")] == [1, 2]
        assert len({sent.delivery_id for sent in sim.sent_to("wf_a")}) == 1


@virtual_time
async def test_a_bulk_replay_replays_a_route_once(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "delivered")
        for bulk in ("rpl_1", "rpl_1", "rpl_2", "rpl_2"):
            await ask(sim, event_id, "wf_a", bulk=bulk)
            await sim.until_status([event_id], "delivered", 10)
        assert [sent.attempt for sent in sim.sent_to("wf_a")] == [1, 2, 3]
        await check_rebuild(sim)


@virtual_time
async def test_a_replay_asked_for_while_nobody_owns_the_shard_waits(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        first = sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "delivered")
        await first.kill()
        await ask(sim, event_id, "wf_a")
        await pass_time(60)
        sim.process()
        await sim.until_status([event_id], "delivered", 60)
        assert [sent.attempt for sent in sim.sent_to("wf_a")] == [1, 2]


@pytest.mark.parametrize("seed", range(4))
def test_numbers_stay_gapless_whatever_happens_to_the_owners(seed: int, tmp_path: Path) -> None:
    async def scenario(clock: VirtualClock) -> None:
        chance = random.Random(seed)
        async with Simulation(clock, tmp_path, seed=seed) as sim:

            async def flaky(_: Sent) -> DeliveryResult:
                await pass_time(chance.uniform(0, 0.3))
                return DOWN if chance.random() < 0.4 else OK

            await sim.workflow("wf_a", retry_schedule_seconds=(1, 2))
            sim.sender.targets["http://wf_a"] = flaky
            await sim.stream("orders", ["wf_a"])
            sim.process("first")
            sim.process("second")
            ids = await sim.accept("orders", 12)
            for _ in range(12):
                for event_id in chance.sample(ids, 4):
                    await ask(sim, event_id, "wf_a", at_once=chance.random() < 0.5)
                await pass_time(chance.uniform(0, 2))
                victim = chance.choice(sim.processes)
                if chance.random() < 0.5:
                    sim.processes.remove(victim)
                    await victim.kill()
                    sim.process()
                else:
                    victim.pause()
                    await pass_time(chance.uniform(0, 40))
                    victim.resume()
            await pass_time(600)
            for event_id in ids:
                assert (await sim.event(event_id)).status in {"delivered", "failed"}
                made = [attempt.attempt for attempt in await sim.attempts(event_id)]
                assert made == list(range(1, len(made) + 1))
            await check_rebuild(sim)

    run_virtual(scenario)
