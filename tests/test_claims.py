"""Claims: what an owner may do until it has heard who else claimed its shard, and how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from atlas.adapters.embedded_group import SESSION_TIMEOUT_S
from atlas.core.errors import UnknownTopic
from atlas.core.facts import LIFECYCLE_TOPIC, ShardClaimed
from atlas.ports.log import Batch, TopicPartition
from atlas.ports.sender import DeliveryResult
from atlas.runtime.claim_fold import GROUP
from atlas.runtime.claim_watch import PAUSE_S, Claim
from tests.sim_process import Process
from tests.simulation import OK, Sent, Simulation, answer_ok
from tests.test_takeover import check_attempts, check_rebuild
from tests.virtual_time import VirtualClock, pass_time, virtual_time


async def slow(sent: Sent) -> DeliveryResult:
    await pass_time(1)
    return OK


async def owner_of(sim: Simulation, name: str) -> Process:
    process = sim.process(name)
    await sim.until(lambda: [owner.owned for owner in process.deliverer.owners()] == [True] * sim.shards)
    return process


async def claims(sim: Simulation, shard: int) -> int:
    return sum(isinstance(fact, ShardClaimed) for _, fact in (await sim.facts())[shard])


@virtual_time
async def test_an_owner_that_wakes_starts_nothing_before_it_has_read_what_others_claimed(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """Its heartbeat is young again at once, and the shard its own: only the log tells of the other."""
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a", max_in_flight=1)
        await sim.stream("orders", ["wf_a"])
        first = await owner_of(sim, "first")
        sim.sender.targets["http://wf_a"] = slow
        ids = await sim.accept("orders", 20)
        await pass_time(3)
        first.pause()
        await pass_time(SESSION_TIMEOUT_S / 2 + 2)  # it goes on starting for half a session
        sim.sender.targets["http://wf_a"] = answer_ok
        second = sim.process("second")
        await sim.until_status(ids, "delivered")
        assert second.shards() == {0}
        await second.kill()
        await pass_time(2 * SESSION_TIMEOUT_S)
        sent = len(sim.sender.sent)
        for member in first.log.members:
            member.beating = True
        await pass_time(2 * SESSION_TIMEOUT_S)
        assert len(sim.sender.sent) == sent, "started what the other had brought to its end"
        first.resume()
        more = await sim.accept("orders", 5)
        await sim.until_status(more, "delivered", 30)
        assert len(sim.sender.sent) == sent + len(more)
        await check_attempts(sim, ids + more)
        await check_rebuild(sim)


@virtual_time
async def test_a_rebalance_costs_who_keeps_its_shard_a_look_and_no_claim(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        process = await owner_of(sim, "first")
        visitor = await sim.log.join(GROUP, LIFECYCLE_TOPIC)
        await visitor.assignment_changed(frozenset())
        [kept] = {0, 1} - visitor.assignment()
        [owner] = [owner for owner in process.deliverer.owners() if owner.shard == kept]
        assert not owner.may_start()
        await pass_time(PAUSE_S)
        assert owner.may_start()
        assert await claims(sim, kept) == 1
        await visitor.leave()
        ids = await sim.accept("orders", 20)
        await sim.until_status(ids, "delivered", 5)
        assert [await claims(sim, shard) for shard in (kept, 1 - kept)] == [1, 2]


@virtual_time
async def test_nobody_asks_the_log_while_nothing_happens(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        process = await owner_of(sim, "first")
        assert all(owner.may_start() for owner in process.deliverer.owners()), "the claim itself is a look"
        asked = 0
        end_offsets = sim.log.end_offsets

        async def counted(*arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            return await end_offsets(*arguments)

        process.log.end_offsets = counted
        await pass_time(60)
        assert asked == 0


@virtual_time
async def test_a_process_ends_also_while_its_owner_does(clock: VirtualClock, tmp_path: Path) -> None:
    """At whichever step of losing its claim: the cancellation must not get lost over it."""
    async with Simulation(clock, tmp_path, shards=1) as sim:
        for turns in range(25):
            process = await owner_of(sim, f"{turns}")
            await sim.claim(0, ShardClaimed(owner="foreign", at_ms=clock.now_ms()))
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(60):
                await process.kill()


@virtual_time
async def test_a_claim_that_cannot_be_appended_for_good_shows_and_is_tried_again(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulation(clock, tmp_path) as sim:

        async def append(*_: Any) -> int:
            raise UnknownTopic("somebody deleted it")

        with monkeypatch.context() as patch:
            patch.setattr(sim.log, "append", append)
            process = sim.process()
            await pass_time(2)
            assert set((await process.deliverer.checks()).values()) == {"restarting: UnknownTopic"}
        await sim.until(lambda: all(owner.owned for owner in process.deliverer.owners()), 10)


@virtual_time
async def test_certainty_comes_back_beside_a_flow_that_never_ends(clock: VirtualClock) -> None:
    """What is read is always a little behind the end: it need only pass the end that was told first."""
    source = TopicPartition(LIFECYCLE_TOPIC, 0)
    claim = Claim(source, epoch=9, term=1, on_replay=lambda *_: None)
    end, position = 20, 10
    for _ in range(5):
        if claim.doubts(2):
            claim.asked(2, end)
        position += 5
        end += 5
        claim.read(Batch(source, (), position))
    assert claim.term == 2
    claim.release()
