"""Faults at the ports, one by one and at random: what is accepted always ends, once, and is written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas.adapters.aes_secret_box import AesSecretBox
from atlas.core.commands import CreateTarget
from atlas.core.entities import SealedSecret, Workflow, secret_context
from atlas.ports.sender import DeliveryResult
from atlas.runtime.attempt import NOT_MADE
from atlas.runtime.lane import LANE_MIN
from tests.sim_chaos import run_chaos
from tests.sim_faults import FaultySimulation
from tests.simulation import OK, SCOPE, SECRET, Sent, answer_down, hang
from tests.virtual_time import VirtualClock, pass_time, run_virtual, virtual_time

DAY_S = 86_400


@virtual_time
async def test_a_secret_that_does_not_open_is_a_failed_attempt(clock: VirtualClock, tmp_path: Path) -> None:
    """The wrong master key: the route ends with a reason, and other targets notice nothing."""
    async with FaultySimulation(clock, tmp_path) as sim:
        foreign = AesSecretBox(bytes(32), sim.random.randbytes)
        sealed = SealedSecret(foreign.seal(SECRET, secret_context(*SCOPE, "wf_locked")))
        locked = Workflow(
            id="wf_locked",
            workspace_id=SCOPE[0],
            environment=SCOPE[1],
            url="http://wf_locked",
            secrets=(sealed,),
            created_at_ms=clock.now_ms(),
            max_in_flight=1,
            retry_schedule_seconds=(1,),
        )
        await sim.registry.propose(CreateTarget(**sim.command(), target=locked))
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_locked", "wf_a"])
        process = sim.process()
        ids = await sim.accept("orders", 5)
        await sim.until_status(ids, "failed", 30)
        for event_id in ids:
            routes = (await sim.event(event_id)).routes
            assert [(r.status, r.error_message, r.attempt) for r in routes] == [
                ("failed", NOT_MADE, 2),
                ("delivered", None, 1),
            ]
        assert {s.url for s in sim.sender.sent} == {"http://wf_a"}
        assert process.engine.in_flight() == process.engine.queued == 0


@virtual_time
async def test_a_sender_that_raises_costs_one_attempt(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=1, retry_schedule_seconds=(1,) * 3)
        await sim.stream("orders", ["wf_a"])
        sim.process()

        async def raise_once(sent: Sent) -> DeliveryResult:
            if sent.attempt == 1:
                raise RuntimeError("a bug")
            return DeliveryResult(http_status=200)

        sim.sender.targets["http://wf_a"] = raise_once
        ids = await sim.accept("orders", 5)
        await sim.until_status(ids, "delivered", 30)
        assert sorted(s.attempt for s in sim.sender.sent) == [1] * 5 + [2] * 5
        assert not sim.unhandled


ONE_BY_ONE = [
    ("append",),
    ("read",),
    ("slow",),
    ("store",),
    ("away",),
    ("projector",),
    ("exchange",),
    ("registry",),
    ("target",),
    ("gone", "nothing"),
    ("raise", "nothing"),
    ("jump", "retention"),
]
ALL = (*dict.fromkeys(kind for kinds in ONE_BY_ONE for kind in kinds), "kill", "pause", "start")


@pytest.mark.parametrize("kinds", ONE_BY_ONE, ids="-".join)
def test_each_fault_with_owners_killed(kinds: tuple[str, ...], tmp_path: Path) -> None:
    run_virtual(lambda clock: run_chaos(clock, tmp_path, 1, (*kinds, *kinds, "kill", "start"), steps=8))


@pytest.mark.parametrize("seed", range(6))
def test_all_faults_at_once(seed: int, tmp_path: Path) -> None:
    run_virtual(lambda clock: run_chaos(clock, tmp_path, seed, ALL))


@pytest.mark.parametrize("shards", [1, 12])
def test_one_shard_and_many(shards: int, tmp_path: Path) -> None:
    run_virtual(lambda clock: run_chaos(clock, tmp_path, 7, ALL, shards=shards))


@virtual_time
async def test_lanes_go_on_after_the_read_model_was_away(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=2)
        await sim.stream("orders", ["wf_a"])
        process = sim.process(lane_max=5)
        ids = await sim.accept("orders", 40)
        await sim.until(lambda: len(sim.sender.sent) > 10, 5)
        sim.faults.store_away = True
        await pass_time(120)
        sim.faults.store_away = False
        await sim.until_status(ids, "delivered", 60)
        assert len(sim.sender.sent) == len(ids)
        assert process.deliverer.failures == {}, "no owner was lost over it"


@virtual_time
async def test_retries_made_before_the_first_look_are_not_forgotten(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(1,))
        await sim.stream("orders", ["wf_a"])
        await sim.kill_projector()
        sim.process()
        await pass_time(1)
        sim.sender.targets["http://wf_a"] = answer_down
        ids = await sim.accept("orders", 5)
        await pass_time(0.5)
        sim.sender.targets.clear()
        await pass_time(30)
        assert len(sim.sender.sent) == 2 * len(ids), "the read model is not needed for that"
        sim.start_projector()
        await sim.until_status(ids, "delivered", 5)


@virtual_time
async def test_a_stale_read_model_brings_nothing_back(clock: VirtualClock, tmp_path: Path) -> None:
    """What the owner before delivered is still waiting in a store that has not folded that yet."""
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=1)
        await sim.stream("orders", ["wf_a"])

        async def slow(sent: Sent) -> DeliveryResult:
            await pass_time(0.2)
            return OK

        sim.sender.targets["http://wf_a"] = slow
        first = sim.process("first", lane_max=5)
        ids = await sim.accept("orders", 30)
        await sim.until(lambda: len(sim.sender.sent) == 5, 10)
        await sim.kill_projector()
        sent_before = len(sim.sender.sent)
        await pass_time(1)
        assert len(sim.sender.sent) > sent_before
        await first.kill()
        sim.process("second", lane_max=5)
        await pass_time(15)
        ids += await sim.accept("orders", 30)
        await pass_time(30)
        sim.start_projector()
        await sim.until_status(ids, "delivered")
        cut_off = 1
        assert len(sim.sender.sent) <= len(ids) + cut_off


@virtual_time
async def test_a_few_targets_that_hang_do_not_fill_the_memory(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        hanging = [f"wf_{number}" for number in range(8)]
        for target in hanging:
            await sim.workflow(target, max_in_flight=1, retry_schedule_seconds=())
            sim.sender.targets[f"http://{target}"] = hang
        await sim.workflow("wf_quick")
        await sim.stream("hanging", hanging)
        await sim.stream("quick", ["wf_quick"])
        process = sim.process(lane_max=1_000, queued_max=200)
        ids = await sim.accept("hanging", 60)
        await pass_time(5)
        half = 100  # one workspace holds no more than it leaves free
        assert half <= process.engine.queued <= half + len(hanging) * LANE_MIN
        for _ in range(3):
            before_ms = clock.now_ms()
            quick = await sim.accept("quick", LANE_MIN)
            await pass_time(0.01)
            assert {s.event_id for s in sim.sender.sent if s.at_ms - before_ms < 10} >= set(quick)
        sim.sender.targets.clear()
        await sim.until_ended(ids)


@virtual_time
async def test_a_lane_shared_by_shards_forgets_nothing_that_waits(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """While one shard looks for what waits, another fills the lane: what found no room is asked for again."""
    async with FaultySimulation(clock, tmp_path, shards=4) as sim:
        await sim.workflow("wf_a", max_in_flight=1)
        await sim.stream("orders", ["wf_a"])
        process = sim.process(lane_max=5)
        sim.faults.store_slow_s = 0.5
        ids: list[str] = []
        for _ in range(40):
            ids += await sim.accept("orders", 3)
            await pass_time(0.05)
        await sim.until_status(ids, "delivered", 300)
        sim.faults.heal()
        await pass_time(200)
        process.name = "process"
        assert not sim.left_over()
