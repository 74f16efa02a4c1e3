"""Bulk replays in the whole of Atlas, in virtual time: each route once, however often owners are lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from atlas.core.commands import CancelReplay, DisableTarget, ReactivateTarget, StartReplay
from atlas.core.entities import BulkReplay
from atlas.core.facts import ReplayRequested, ShardClaimed
from atlas.core.projection import EventState
from atlas.core.replays import BulkProgress, Replay, replay_view
from atlas.ports.read_model import EventQuery
from tests.simulation import SCOPE, Simulation, answer_ok, refuse
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, virtual_time

EVENTS = 60


async def delivered(sim: Simulation, events: int = EVENTS) -> list[str]:
    """Two workflows, a stream with routes to both, and events that have ended there."""
    for target in ("wf_a", "wf_b"):
        await sim.workflow(target)
    await sim.stream("orders", ["wf_a", "wf_b"])
    sim.process()
    ids = await sim.accept("orders", events)
    await sim.until_status(ids, "delivered")
    await pass_time(1)
    sim.sender.sent.clear()
    return ids


async def start(sim: Simulation, **criteria: Any) -> BulkReplay:
    replay = BulkReplay(
        **{
            "id": sim.ids.new("rpl_"),
            "workspace_id": SCOPE[0],
            "environment": SCOPE[1],
            "rate_per_second": 100,
            "created_at_ms": sim.clock.now_ms(),
            **criteria,
        }
    )
    await sim.registry.propose(StartReplay(**sim.command(), replay=replay))
    return replay


async def progress(sim: Simulation, replay: BulkReplay) -> BulkProgress | None:
    return (await sim.read_model.bulk_replays(SCOPE)).get(replay.id)


async def shown(sim: Simulation, replay: BulkReplay) -> Replay:
    now = sim.registry.state.replay(SCOPE, replay.id)
    return replay_view(now, await progress(sim, replay), sim.clock.now_ms())


async def until_done(sim: Simulation, replay: BulkReplay, seconds: float = 120) -> Replay:
    async def done() -> bool:
        return (await shown(sim, replay))["status"] != "running"

    await sim.until(done, seconds)
    return await shown(sim, replay)


def sent(sim: Simulation) -> Counter[tuple[str, str]]:
    return Counter((each.event_id, each.url) for each in sim.sender.sent)


@virtual_time
async def test_everything_again_once(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await delivered(sim)
        replay = await start(sim)
        view = await until_done(sim, replay)
        assert (view["status"], view["matched"], view["replayed"], view["skipped"]) == (
            "completed",
            60,
            60,
            0,
        )
        await sim.until_status(ids, "delivered")
        assert sent(sim) == {(i, f"http://{t}"): 1 for i in ids for t in ("wf_a", "wf_b")}
        assert {each.attempt for each in sim.sender.sent} == {2}
        later = await sim.accept("orders", 3)
        await pass_time(60)
        assert sent(sim)[later[0], "http://wf_a"] == 1, "what comes later is no part of it"
        await check_rebuild(sim)


@virtual_time
async def test_only_what_is_meant(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await delivered(sim)
        sim.sender.targets["http://wf_b"] = refuse
        await sim.workflow("wf_once", retry_schedule_seconds=())
        sim.sender.targets["http://wf_once"] = refuse
        await sim.stream("failing", ["wf_a", "wf_once"])
        failing = await sim.accept("failing", 10)
        await sim.until_status(failing, "failed")
        sim.sender.targets.clear()
        sim.sender.sent.clear()
        view = await until_done(sim, await start(sim, status="failed"))
        assert (view["matched"], view["replayed"]) == (10, 10)
        await sim.until_status(failing, "delivered")
        assert set(sent(sim)) == {(i, "http://wf_once") for i in failing}, "what was delivered stays so"
        sim.sender.sent.clear()
        await until_done(sim, await start(sim, stream="orders", workflow_ids=("wf_b",)))
        await sim.until_status(ids, "delivered")
        assert set(sent(sim)) == {(i, "http://wf_b") for i in ids}
        assert (await until_done(sim, await start(sim, type="never.seen")))["matched"] == 0
        await pass_time(5)
        now_ms = clock.now_ms()
        assert (await until_done(sim, await start(sim, received_from_ms=now_ms)))["matched"] == 0
        assert (await until_done(sim, await start(sim, received_before_ms=now_ms)))["matched"] == 70


@virtual_time
async def test_a_disabled_targets_backlog_in_one_call(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await delivered(sim, 5)
        await sim.registry.propose(DisableTarget(**sim.scoped("wf_b"), reason="requested"))
        backlog = await sim.accept("orders", 40)
        await sim.until_status(backlog, "failed")
        early = await until_done(sim, await start(sim, workflow_ids=("wf_b",), status="failed"))
        assert (early["matched"], early["replayed"], early["skipped"]) == (40, 0, 40), "it is disabled still"
        await sim.registry.propose(ReactivateTarget(**sim.scoped("wf_b")))
        sim.sender.sent.clear()
        view = await until_done(sim, await start(sim, workflow_ids=("wf_b",), status="failed"))
        assert (view["matched"], view["replayed"], view["skipped"]) == (40, 40, 0)
        await sim.until_status(backlog, "delivered")
        assert sent(sim) == {(i, "http://wf_b"): 1 for i in backlog}


@pytest.mark.parametrize("lost_after_s", [0.0, 0.05, 0.3, 0.9, 1.7, 2.6])
@pytest.mark.parametrize("status", [None, "failed"])
@virtual_time
async def test_a_lost_owner_leaves_nothing_out_and_nothing_twice(
    clock: VirtualClock, tmp_path: Path, status: str | None, lost_after_s: float
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=())
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = refuse
        sim.process("first")
        ids = await sim.accept("orders", EVENTS)
        await sim.until_status(ids, "failed")
        sim.sender.targets["http://wf_a"] = answer_ok
        sim.sender.sent.clear()
        replay = await start(sim, status=status, rate_per_second=20)
        await pass_time(lost_after_s)
        await sim.processes[0].kill()
        sim.process("second")
        await pass_time(1.1)
        await sim.processes[-1].kill()
        sim.process("third")
        view = await until_done(sim, replay)
        assert (view["matched"], view["replayed"], view["skipped"]) == (EVENTS, EVENTS, 0)
        await sim.until_status(ids, "delivered")
        deliveries = {(each.event_id, each.delivery_id, each.attempt) for each in sim.sender.sent}
        assert len(deliveries) == EVENTS, "each route once more, and under one id"
        await check_rebuild(sim)


@virtual_time
async def test_the_rate_is_kept_and_cancelling_stops_it(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await delivered(sim, 100)
        replay = await start(sim, rate_per_second=10)
        await pass_time(4)
        facts = await sim.every_fact()
        requests = [fact for fact in facts if isinstance(fact, ReplayRequested)]
        assert 30 <= len(requests) <= 42
        cancel = CancelReplay(
            **sim.command(), workspace_id=SCOPE[0], environment=SCOPE[1], replay_id=replay.id
        )
        await sim.registry.propose(cancel)
        await pass_time(10)
        view = await shown(sim, replay)
        assert view["status"] == "cancelled"
        assert view["matched"] == 100
        assert view["replayed"] == len(sim.sender.sent) / 2 <= 46
        assert view["cancelled_at"] is not None


@virtual_time
async def test_two_at_once_each_have_their_turn(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await delivered(sim, 20)
        one, other = await start(sim), await start(sim, workflow_ids=("wf_a",))
        views = [await until_done(sim, each) for each in (one, other)]
        assert [view["status"] for view in views] == ["completed", "completed"]
        await sim.until_status(ids, "delivered")
        assert all(1 <= count <= 2 for count in sent(sim).values())


@virtual_time
async def test_a_batch_in_order_stays_in_order_at_any_rate(clock: VirtualClock, tmp_path: Path) -> None:
    """Its events share a millisecond, and the ids of those with keys are in no order."""
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", ordered=True)
        await sim.stream("orders", ["wf_a"])
        sim.process()
        await sim.registry.propose(DisableTarget(**sim.scoped("wf_a"), reason="requested"))
        ids = await sim.accept("orders", 60, ordering_key="k", key="batch")
        assert ids != sorted(ids)
        await sim.until_status(ids, "failed")
        await sim.registry.propose(ReactivateTarget(**sim.scoped("wf_a")))
        replay = await start(sim, status="failed", rate_per_second=20)
        await pass_time(1)
        assert 0 < len(sim.sender.sent) <= 24, "the rate holds all the same"
        await sim.processes[0].kill()
        sim.process()
        view = await until_done(sim, replay)
        assert (view["matched"], view["replayed"], view["skipped"]) == (60, 60, 0)
        await sim.until_status(ids, "delivered")
        assert list(dict.fromkeys(each.event_id for each in sim.sender.sent)) == ids


@pytest.mark.parametrize("criteria", [{"workflow_ids": ("wf_a",)}, {"workflow_ids": ("wf_a", "wf_b")}, {}])
@virtual_time
async def test_a_route_that_failed_is_meant_while_another_is_retried(
    clock: VirtualClock, tmp_path: Path, criteria: dict[str, Any]
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=())
        await sim.workflow("wf_b", retry_schedule_seconds=(600,))
        await sim.stream("orders", ["wf_a", "wf_b"])
        sim.sender.targets |= {"http://wf_a": refuse, "http://wf_b": refuse}
        sim.process()
        ids = await sim.accept("orders", 3)
        await sim.until_status(ids, "retried")
        sim.sender.targets.clear()
        sim.sender.sent.clear()
        view = await until_done(sim, await start(sim, status="failed", **criteria))
        assert (view["matched"], view["replayed"]) == (3, 3)
        await pass_time(1)
        assert sent(sim) == {(each, "http://wf_a"): 1 for each in ids}


@virtual_time
async def test_one_that_fails_holds_up_neither_the_others_nor_its_shard(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        ids = await delivered(sim)
        claims = sum(isinstance(fact, ShardClaimed) for fact in await sim.every_fact())
        listed, failing = sim.read_model.list, True

        async def fails_at_one(query: EventQuery) -> list[EventState]:
            if query.type == "at.fault" and failing:
                raise TypeError("a fault at the port")
            return await listed(query)

        sim.read_model.list = fails_at_one  # type: ignore[method-assign]  # a fault at the port
        broken = await start(sim, type="at.fault")
        assert (await until_done(sim, await start(sim)))["replayed"] == EVENTS
        await sim.until_status(await sim.accept("orders", 10), "delivered")
        assert sum(isinstance(fact, ShardClaimed) for fact in await sim.every_fact()) == claims
        assert (await shown(sim, broken))["status"] == "running"
        failing = False
        assert (await until_done(sim, broken))["matched"] == 0
        assert len(ids) == EVENTS
