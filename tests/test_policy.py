"""A target's policy, changed by PATCH: in force at once, also for what waits already."""

from __future__ import annotations

from pathlib import Path

from atlas.core.commands import PatchTarget
from atlas.ports.sender import DeliveryResult
from tests.simulation import OK, Sent, Simulation, answer_down, hang
from tests.virtual_time import VirtualClock, pass_time, virtual_time

HOLD_S = 30


async def slow(sent: Sent) -> DeliveryResult:
    await pass_time(HOLD_S)
    return OK


@virtual_time
async def test_in_flight(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=2)
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = slow
        sim.process()
        await sim.accept("orders", 60)
        await pass_time(1)
        assert len(sim.sender.sent) == 2
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), max_in_flight=10))
        await pass_time(0.1)
        assert len(sim.sender.sent) == 10
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), max_in_flight=1))
        await pass_time(HOLD_S)
        assert len(sim.sender.sent) == 11, "the ten end, and one begins"


@virtual_time
async def test_rate(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", rate_limit_per_second=1)
        await sim.stream("orders", ["wf_a"])
        sim.process()
        ids = await sim.accept("orders", 500)
        await pass_time(3.5)
        assert len(sim.sender.sent) == 4
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), rate_limit_per_second=100))
        await pass_time(1)
        assert 100 <= len(sim.sender.sent) - 4 <= 102
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), rate_limit_per_second=None))
        await sim.until_status(ids, "delivered", 2)


@virtual_time
async def test_schedule_and_timeout(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(600, 600))
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = answer_down
        sim.process()
        [first] = await sim.accept("orders", 1)
        await sim.until_status([first], "retried")
        patch = PatchTarget(**sim.scoped("wf_a"), retry_schedule_seconds=(1,), timeout_ms=250)
        await sim.registry.propose(patch)
        [second] = await sim.accept("orders", 1)
        await sim.until_status([second], "failed", 5)
        assert [sent.event_id for sent in sim.sender.sent] == [first, second, second]
        assert [sent.timeout_ms for sent in sim.sender.sent] == [5_000, 250, 250]
        await sim.until_status([first], "failed", 700)


@virtual_time
async def test_a_schedule_holds_for_the_attempt_under_way(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(600,))
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = hang
        sim.process()
        ids = await sim.accept("orders", 3)
        await sim.until(lambda: len(sim.sender.sent) == 3)
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), retry_schedule_seconds=()))
        await sim.until_status(ids, "failed", 6)
