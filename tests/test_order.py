"""Order: events of one key reach an ordered workflow one after another, whatever happens meanwhile."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest

from atlas.core.commands import DeleteTarget, DisableTarget, PatchTarget, ReactivateTarget
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.core.projection import replay_request
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import Line, Waiting
from atlas.ports.sender import DeliveryResult
from atlas.runtime.lines import AHEAD
from atlas.runtime.replay_requests import replay_record
from tests.sim_faults import FaultySimulation
from tests.simulation import DOWN, OK, REFUSED, Sent, Simulation, answer_down, refuse
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, virtual_time

URL = "http://wf_a"


class Watched:
    """A receiver that sees to it that no two attempts of a key overlap, and remembers what came when."""

    def __init__(self, sim: Simulation, chance: Random | None = None, takes_s: float = 0.05) -> None:
        self.sim, self.chance, self.takes_s = sim, chance, takes_s
        self.key_of: dict[str, str] = {}
        self.under_way: dict[str, str] = {}
        self.overlaps: list[tuple[str, str]] = []
        self.acknowledged: dict[str, list[str]] = defaultdict(list)
        self.begun: dict[str, list[str]] = defaultdict(list)

    async def __call__(self, sent: Sent) -> DeliveryResult:
        key = self.key_of[sent.event_id]
        if key in self.under_way:
            self.overlaps.append((self.under_way[key], sent.event_id))
        if not self.begun[key] or self.begun[key][-1] != sent.event_id:
            self.begun[key].append(sent.event_id)
        self.under_way[key] = sent.event_id
        try:
            await pass_time(self.takes_s)
        finally:
            self.under_way.pop(key, None)
        if self.chance is not None and self.chance.random() < 0.4:
            return self.chance.choice([DOWN, REFUSED])
        self.acknowledged[key].append(sent.event_id)
        return OK

    async def accept(self, key: str, count: int = 1) -> list[str]:
        ids = await self.sim.accept("orders", count, ordering_key=key)
        self.key_of |= dict.fromkeys(ids, key)
        return ids


async def ordered(sim: Simulation, **fields: Any) -> None:
    await sim.workflow("wf_a", **{"ordered": True, "retry_schedule_seconds": (5,) * 20, **fields})
    await sim.stream("orders", ["wf_a"])


@virtual_time
async def test_the_next_goes_without_a_look_into_the_store(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await ordered(sim)
        watched = Watched(sim, takes_s=0.01)
        sim.sender.targets[URL] = watched
        sim.process()
        await pass_time(1)
        await sim.kill_projector()
        ids = await watched.accept("hot", 200)
        await sim.until(lambda: len(watched.acknowledged["hot"]) == len(ids), 2.5)
        assert watched.acknowledged["hot"] == ids
        assert watched.overlaps == []
        sim.start_projector()
        await sim.until_status(ids, "delivered")
        await check_rebuild(sim)


@virtual_time
async def test_of_a_line_that_was_parked_by_another_owner_many_are_read_at_once(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await ordered(sim)
        first, receiver = sim.process(), Watched(sim)
        sim.sender.targets[URL] = receiver
        ids = await receiver.accept("k", AHEAD * 3)
        await pass_time(1)
        await first.kill()
        receiver.under_way.clear()
        asked, ask = 0, sim.read_model.next_in_line

        async def counted(line: Line, limit: int) -> Waiting:
            nonlocal asked
            asked += 1
            return await ask(line, limit)

        sim.read_model.next_in_line = counted  # type: ignore[method-assign]  # the store as it is, overheard
        sim.process()
        await sim.until_status(ids, "delivered")
        assert receiver.overlaps == []
        assert list(dict.fromkeys(receiver.acknowledged["k"])) == ids
        assert 3 <= asked <= 6


@virtual_time
async def test_one_after_another_and_other_keys_do_not_wait(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim)
        watched = Watched(sim)
        sim.sender.targets[URL] = watched
        sim.process()
        await pass_time(1)
        busy = await watched.accept("busy", 30)
        free = [event_id for n in range(20) for event_id in await watched.accept(f"free {n}")]
        await pass_time(0.5)
        assert sum(event_id in {s.event_id for s in sim.sender.sent} for event_id in free) == 20
        await sim.until_status(busy, "delivered", 60)
        assert watched.acknowledged["busy"] == busy
        assert watched.overlaps == []
        await check_rebuild(sim)


@virtual_time
async def test_the_next_waits_through_all_retries_of_the_one_before(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim, retry_schedule_seconds=(60, 600))
        sim.sender.targets[URL] = refuse
        sim.process()
        first, second = await sim.accept("orders", 2, ordering_key="k")
        await pass_time(300)
        assert [s.event_id for s in sim.sender.sent] == [first, first]
        assert (await sim.event(second)).status == "accepted"
        sim.sender.targets.clear()
        await sim.until_status([first, second], "delivered", 900)
        assert [s.event_id for s in sim.sender.sent] == [first, first, first, second]


@virtual_time
async def test_a_final_failure_lets_the_next_go(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim, retry_schedule_seconds=(1,))
        sim.sender.targets[URL] = refuse
        sim.process()
        ids = await sim.accept("orders", 4, ordering_key="k")
        await sim.until_status(ids, "failed", 60)
        assert [(s.event_id, s.attempt) for s in sim.sender.sent] == [(i, n) for i in ids for n in (1, 2)]


@virtual_time
async def test_events_without_a_key_and_workflows_without_order_never_wait(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim)
        await sim.workflow("wf_free")
        await sim.stream("both", ["wf_a", "wf_free"])
        sim.sender.targets[URL] = refuse
        sim.process()
        await pass_time(1)
        await sim.accept("both", 5)
        await pass_time(0.1)
        assert len(sim.sender.sent) == 10
        keyed = await sim.accept("both", 5, ordering_key="k")
        await pass_time(0.1)
        sent = [(s.url, s.event_id) for s in sim.sender.sent[10:]]
        assert {event_id for url, event_id in sent if url == "http://wf_free"} == set(keyed)
        assert [event_id for url, event_id in sent if url == URL] == keyed[:1]


@pytest.mark.parametrize("how", ["disabled", "deleted"])
@virtual_time
async def test_a_line_to_a_target_that_takes_nothing_any_more_ends(
    clock: VirtualClock, tmp_path: Path, how: str
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim, retry_schedule_seconds=(600,))
        sim.sender.targets[URL] = refuse
        sim.process()
        ids = await sim.accept("orders", 200, ordering_key="k")
        await pass_time(1)
        scoped = sim.scoped("wf_a")
        disable = DisableTarget(**scoped, reason="requested")
        await sim.registry.propose(disable if how == "disabled" else DeleteTarget(**scoped))
        await sim.until_status(ids, "failed", 30)
        assert len(sim.sender.sent) == 1
        if how == "disabled":
            await sim.registry.propose(ReactivateTarget(**sim.scoped("wf_a")))
            sim.sender.targets.clear()
            more = await sim.accept("orders", 3, ordering_key="k")
            await sim.until_status(more, "delivered", 10)


@virtual_time
async def test_changing_the_mind_strands_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim, retry_schedule_seconds=(30,) * 5)
        sim.sender.targets[URL] = refuse
        sim.process()
        held = await sim.accept("orders", 5, ordering_key="k")
        await pass_time(1)
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), ordered=False))
        free = await sim.accept("orders", 5, ordering_key="k")
        await pass_time(1)
        assert {s.event_id for s in sim.sender.sent} == {held[0], *free}
        await sim.registry.propose(PatchTarget(**sim.scoped("wf_a"), ordered=True))
        held += await sim.accept("orders", 5, ordering_key="k")
        sim.sender.targets.clear()
        await sim.until_status([*held, *free], "delivered", 200)
        first = list(dict.fromkeys(s.event_id for s in sim.sender.sent if s.event_id in held))
        assert first == held


@virtual_time
async def test_a_replay_joins_behind_what_is_open(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim, retry_schedule_seconds=(20,) * 5)
        watched = Watched(sim)
        sim.sender.targets[URL] = watched
        sim.process()
        [old] = await watched.accept("k")
        await sim.until_status([old], "delivered")
        sim.sender.targets[URL] = refuse
        waiting = await watched.accept("k", 3)
        await pass_time(1)
        event = await sim.event(old)
        source = TopicPartition(event.topic, event.partition)
        end = (await sim.log.end_offsets([source]))[source]
        fact = replay_request(event, ("wf_a",), clock.now_ms(), end)
        await sim.log.append(LIFECYCLE_TOPIC, event.partition, [replay_record(fact)])
        await pass_time(1)
        later = await watched.accept("k", 2)
        sim.sender.targets[URL] = watched
        await sim.until_status([old, *waiting, *later], "delivered", 200)
        assert watched.acknowledged["k"] == [old, *waiting, old, *later]
        assert watched.overlaps == []
        await check_rebuild(sim)


@virtual_time
async def test_a_full_lane_and_an_open_breaker_keep_the_order(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await ordered(sim, retry_schedule_seconds=(5,) * 20, max_in_flight=2)
        watched = Watched(sim)
        sim.sender.targets[URL] = answer_down
        sim.process(lane_max=5)
        await pass_time(1)
        ids = {f"k{n}": [] for n in range(40)}  # type: dict[str, list[str]]
        for _ in range(3):
            for key, found in ids.items():
                found += await watched.accept(key)
        await pass_time(120)
        assert len(sim.sender.sent) < 60, "the breaker is open"
        sim.sender.targets[URL] = watched
        await sim.until_status([i for found in ids.values() for i in found], "delivered", 600)
        assert watched.acknowledged == ids
        assert watched.overlaps == []


@pytest.mark.parametrize("seed", range(12))
@virtual_time
async def test_order_holds_whoever_dies(clock: VirtualClock, tmp_path: Path, seed: int) -> None:
    async with Simulation(clock, tmp_path, seed=seed, shards=2) as sim:
        chance = Random(seed)
        await ordered(sim, retry_schedule_seconds=(1, 2) * 10, max_in_flight=4)
        watched = Watched(sim, chance, takes_s=0.2)
        sim.sender.targets[URL] = watched
        process = sim.process("0")
        ids: dict[str, list[str]] = defaultdict(list)
        for turn in range(1, 40):
            for _ in range(chance.randrange(4)):
                key = f"k{chance.randrange(6)}"
                ids[key] += await watched.accept(key, chance.randrange(1, 4))
            await pass_time(chance.uniform(0, 3))
            if chance.random() < 0.2:
                await process.kill()
                watched.under_way.clear()
                if chance.random() < 0.5:
                    await pass_time(chance.uniform(0, 5))
                process = sim.process(str(turn))
        watched.chance = None
        await sim.until_status([i for found in ids.values() for i in found], "delivered", 900)
        assert watched.overlaps == []
        for key, expected in ids.items():
            assert list(dict.fromkeys(watched.begun[key])) == expected, "first attempts in order"
            assert list(dict.fromkeys(watched.acknowledged[key])) == expected, "acknowledged in order"
        await check_rebuild(sim)
