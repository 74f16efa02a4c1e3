"""Owners and consumers under faults: retention, claims, checkpoints, what shows and what heals."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from atlas.adapters.sqlite_read_model import open_read_model
from atlas.core import shard
from atlas.core.facts import (
    LIFECYCLE_TOPIC,
    DeliveryAttempted,
    DeliveryClosed,
    ShardCheckpoint,
    ShardClaimed,
)
from atlas.ports.log import Batch, Log, Reader, TopicPartition
from atlas.ports.sender import DeliveryResult
from atlas.runtime.claim_fold import GROUP
from atlas.runtime.readiness import STALLED_S, Readiness
from atlas.runtime.registry import Registry
from atlas.runtime.trimmer import TRIM_EVERY_S
from tests.sim_faults import FaultySimulation
from tests.simulation import GONE, OK, SCOPE, Sent, answer_down
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, virtual_time

DAY_S = 86_400


async def answer_gone(sent: Sent) -> DeliveryResult:
    return GONE


@virtual_time
async def test_what_retention_takes_is_closed_and_not_attempted_any_more(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=1, timeout_ms=30_000)
        await sim.stream("orders", ["wf_a"], retention_days=1)

        async def slow(sent: Sent) -> DeliveryResult:
            await pass_time(20)
            return OK

        sim.sender.targets["http://wf_a"] = slow
        process = sim.process(lane_max=5)
        ids = await sim.accept("orders", 20)
        await pass_time(TRIM_EVERY_S - 5)
        clock.jump(2 * DAY_S)
        await pass_time(30)
        under_way = len(sim.sender.sent)
        await pass_time(200)
        assert len(sim.sender.sent) == under_way < len(ids)
        facts = await sim.every_fact()
        closed = [fact.event_id for fact in facts if isinstance(fact, DeliveryClosed)]
        delivered = [fact.event_id for fact in facts if isinstance(fact, DeliveryAttempted)]
        assert sorted(closed + delivered) == sorted(ids), "each route ended once"
        process.name = "process"
        assert not sim.left_over()
        await check_rebuild(sim)


@virtual_time
async def test_trimming_waits_for_a_read_model_that_is_behind(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(DAY_S,) * 3)
        sim.sender.targets["http://wf_a"] = answer_down
        await sim.stream("orders", ["wf_a"], retention_days=1)
        process = sim.process()
        ids = await sim.accept("orders", 5)
        await sim.until_status(ids, "retried")
        await sim.kill_projector()
        clock.jump(1.01 * DAY_S)
        await pass_time(4 * TRIM_EVERY_S)
        assert process.deliverer.failures == {}
        sim.start_projector()
        await pass_time(4 * TRIM_EVERY_S)
        await sim.folded()
        assert (await sim.read_model.counts())["events"] == 0
        await check_rebuild(sim)


@virtual_time
async def test_a_claim_is_renewed_before_the_log_forgets_it(clock: VirtualClock, tmp_path: Path) -> None:
    """An owner that runs for months: its facts must not become void in a rebuild."""
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"], retention_days=90)
        sim.process()
        await pass_time(5)
        ids: list[str] = []
        for days in (60, 55):
            clock.jump(days * DAY_S)
            await pass_time(2 * TRIM_EVERY_S)
            ids = await sim.accept("orders", 10)
            await sim.until_status(ids, "delivered", 10)
        lifecycle = [TopicPartition(LIFECYCLE_TOPIC, shard) for shard in range(sim.shards)]
        assert all((await sim.log.start_offsets(lifecycle)).values()), "the first claims are gone"
        await check_rebuild(sim)
        assert (await sim.statuses(ids)) == {"delivered": 10}


@virtual_time
async def test_a_target_that_hangs_does_not_hold_the_checkpoint_back(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else takeovers take ever longer, and what is decided above the checkpoint fills the memory."""
    monkeypatch.setattr(shard, "DECIDED_MAX", 40)
    async with FaultySimulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_hangs", timeout_ms=30_000, max_in_flight=4, retry_schedule_seconds=())
        await sim.workflow("wf_quick")
        await sim.stream("orders", ["wf_hangs", "wf_quick"])

        async def hang_long(sent: Sent) -> DeliveryResult:
            await pass_time(30)
            return OK

        sim.sender.targets["http://wf_hangs"] = hang_long
        process = sim.process("first", lane_max=2_000)
        ids: list[str] = []
        for _ in range(40):
            ids += await sim.accept("orders", 8)
            await pass_time(0.5)
        lifecycle = TopicPartition(LIFECYCLE_TOPIC, 0)
        await pass_time(3)
        facts = (await sim.facts())[0]
        committed = await sim.log.committed(GROUP, lifecycle) or 0
        checkpoint = next(fact for offset, fact in facts if offset == committed)
        assert isinstance(checkpoint, ShardCheckpoint)
        assert sum(checkpoint.next_offsets.values()) > len(ids) - 40
        await process.kill()
        sim.processes.remove(process)
        sim.sender.targets.clear()
        sim.process("second", lane_max=2_000)
        await sim.until_status(ids, "delivered", 60)
        sent = Counter((s.event_id, s.url) for s in sim.sender.sent)
        assert sum(count - 1 for count in sent.values()) <= 4, "only what was cut off is repeated"
        await check_rebuild(sim)


@virtual_time
async def test_a_drain_during_the_claim_writes_no_checkpoint(clock: VirtualClock, tmp_path: Path) -> None:
    """It would know less than the one before."""
    async with FaultySimulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        first = sim.process("first")
        ids = await sim.accept("orders", 20)
        await sim.until_status(ids, "delivered")
        await pass_time(2)
        await first.kill()
        sim.faults.log_slow_s = 1.0
        for name in ("second", "third", "fourth"):
            process = sim.process(name)
            for _ in range(100):
                await process.deliverer.drain(0.05)
                await pass_time(0.1)
            await process.kill()
        facts = [fact for _, fact in (await sim.facts())[0]]
        checkpoints = [sum(f.next_offsets.values()) for f in facts if isinstance(f, ShardCheckpoint)]
        assert checkpoints == sorted(checkpoints)
        assert len([f for f in facts if isinstance(f, ShardClaimed)]) == 4


@virtual_time
async def test_an_owner_that_fails_again_and_again_shows_and_heals(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(70,))
        await sim.stream("orders", ["wf_a"])
        process = sim.process()
        await sim.until(lambda: process.shards() == {0, 1})
        assert await process.deliverer.checks() == {"shard 0": "ok", "shard 1": "ok"}
        await pass_time(1)
        sim.faults.store_broken = True
        sim.sender.targets["http://wf_a"] = answer_down
        ids = await sim.accept("orders", 10)
        await pass_time(60)
        assert set((await process.deliverer.checks()).values()) == {"restarting: RuntimeError"}
        claims = [fact for fact in await sim.every_fact() if isinstance(fact, ShardClaimed)]
        assert len(claims) < 60, "with back-off"
        sim.sender.targets.clear()
        sim.faults.store_broken = False
        await sim.until_status(ids, "delivered", 30)
        await pass_time(15)
        assert await process.deliverer.checks() == {"shard 0": "ok", "shard 1": "ok"}
        assert not sim.unhandled


@virtual_time
async def test_a_shard_nobody_can_claim_shows(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        sim.faults.append_refused = 1.0
        process = sim.process()
        await pass_time(3)
        assert set((await process.deliverer.checks()).values()) == {"ok"}
        await pass_time(6)
        assert set((await process.deliverer.checks()).values()) == {"not owned for 6 s"}
        sim.faults.heal()
        await pass_time(6)
        assert set((await process.deliverer.checks()).values()) == {"ok"}


@virtual_time
async def test_a_slow_target_does_not_make_the_process_unready(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", rate_limit_per_second=1)
        await sim.stream("orders", ["wf_a"])
        process = sim.process(lane_max=5)
        await sim.accept("orders", 300)
        for _ in range(10):
            await pass_time(20)
            assert set((await process.deliverer.checks()).values()) == {"ok"}
        assert await sim.read_model.oldest_overdue_ms(clock.now_ms()) > 100_000


@virtual_time
async def test_a_store_lost_while_nothing_comes_is_made_anew(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        ids = await sim.accept("orders", 10)
        await sim.until_status(ids, "delivered")
        await pass_time(60)
        sim.store.exchange(await open_read_model(None))
        await pass_time(15)
        assert len(await sim.read_model.load([(*SCOPE, event_id) for event_id in ids])) == len(ids)


@virtual_time
async def test_a_410_disables_its_target_also_when_the_log_is_away(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        await pass_time(3)

        async def gone(sent: Sent) -> DeliveryResult:
            sim.faults.append_refused = 1.0
            return GONE

        sim.sender.targets["http://wf_a"] = gone
        ids = await sim.accept("orders", 30)
        await pass_time(30)
        assert sim.registry.state.target(SCOPE, "wf_a").status == "enabled"
        sim.faults.heal()
        sim.sender.targets["http://wf_a"] = answer_gone
        await pass_time(10)
        assert sim.registry.state.target(SCOPE, "wf_a").disabled_reason == "gone"
        await sim.until_status(ids, "failed", 10)


@virtual_time
async def test_a_deliverer_that_cannot_join_leaves_no_listener(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        listeners = len(sim.registry._listeners)
        sim.faults.read_fails = 1.0
        sim.process()
        await pass_time(60)
        assert len(sim.registry._listeners) == listeners


@virtual_time
async def test_a_consumer_that_only_cannot_keep_up_makes_progress(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        ready = Readiness(sim.log, sim.registry, sim.read_model, sim.supervisor, clock, sim.metrics)
        position = 0

        async def lag_records() -> int:
            return 1_000 + round(clock.monotonic_s())

        ready.consumer("busy", lag_records, lambda: position)
        sim.supervisor.start("progress", ready.run)
        for _ in range(30):
            position += 1
            await pass_time(1)
        assert (await ready.report())["status"] == "ready"
        await pass_time(STALLED_S + 2)
        assert "no progress" in (await ready.report())["checks"]["busy progress"]


class _SlowLog:
    """Answers are true when they are given, and take their time to arrive."""

    def __init__(self, inner: Log) -> None:
        self._inner = inner

    async def end_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        ends = await self._inner.end_offsets(sources)
        await pass_time(0.2)
        return ends

    def reader(self) -> _SlowReader:
        return _SlowReader(self._inner.reader())


class _SlowReader:
    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    async def poll(self, records_max: int, timeout_s: float) -> list[Batch]:
        found = await self._inner.poll(records_max, timeout_s)
        await pass_time(0.5)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@virtual_time
async def test_catching_up_sees_what_was_there_when_it_began(clock: VirtualClock, tmp_path: Path) -> None:
    """A look at the end that was under way before may have been answered before."""
    async with FaultySimulation(clock, tmp_path) as sim:
        other = Registry(cast("Log", _SlowLog(sim.log)), clock)
        sim.supervisor.start("other", other.run)
        await pass_time(2)
        early = asyncio.create_task(other.catch_up())
        await pass_time(0.1)
        await sim.workflow("wf_a")
        await other.catch_up()
        assert "wf_a" in other.state.workflows[SCOPE]
        await early
