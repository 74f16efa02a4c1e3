"""Order where replays, an open breaker and a long line meet it: one attempt of a key at a time, none lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.core.projection import replay_request
from atlas.ports.log import TopicPartition
from atlas.ports.sender import DeliveryResult
from atlas.runtime.replay_requests import replay_record
from tests.simulation import DOWN, OK, REFUSED, Sent, Simulation, answer_ok, refuse
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, virtual_time

URL = "http://wf_a"


class Receiver:
    """Takes its time, answers as told by event, and remembers when each attempt began and ended."""

    def __init__(self, takes_s: float = 0.2) -> None:
        self.takes_s = takes_s
        self.answers: dict[str, DeliveryResult] = {}
        self.at_once = self.at_once_max = 0
        self.begun: list[str] = []

    async def __call__(self, sent: Sent) -> DeliveryResult:
        self.begun.append(sent.event_id)
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        await pass_time(self.takes_s)
        self.at_once -= 1
        return self.answers.get(sent.event_id, OK)


async def end_of(sim: Simulation, event_id: str) -> int:
    event = await sim.event(event_id)
    source = TopicPartition(event.topic, event.partition)
    return (await sim.log.end_offsets([source]))[source]


async def ask(sim: Simulation, event_id: str, end: int | None = None) -> None:
    """As a gateway does, with the end of the partition as it was then."""
    event = await sim.event(event_id)
    end = await end_of(sim, event_id) if end is None else end
    fact = replay_request(event, ("wf_a",), sim.clock.now_ms(), end)
    await sim.log.append(LIFECYCLE_TOPIC, event.partition, [replay_record(fact)])


async def begin(
    sim: Simulation, count: int, takes_s: float = 0.2, **fields: Any
) -> tuple[Receiver, list[str]]:
    """A workflow that keeps order, and events of one key delivered to it."""
    await sim.workflow("wf_a", **{"ordered": True, "retry_schedule_seconds": (20,) * 10, **fields})
    await sim.stream("orders", ["wf_a"])
    receiver = Receiver(takes_s)
    sim.sender.targets[URL] = receiver
    sim.process()
    await pass_time(20)
    ids = await sim.accept("orders", count, ordering_key="k")
    await sim.until_status(ids, "delivered", 60)
    receiver.begun.clear()
    return receiver, ids


@virtual_time
async def test_all_replays_of_a_key_go_one_after_another(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        receiver, ids = await begin(sim, 5)
        for event_id in ids:
            await ask(sim, event_id)
        await sim.until_status(ids, "delivered", 60)
        assert receiver.begun == ids
        assert receiver.at_once_max == 1
        await check_rebuild(sim)


@virtual_time
async def test_a_replay_behind_one_under_way_goes_when_that_has_ended(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        receiver, [old] = await begin(sim, 1, takes_s=2.0)
        (new,) = await sim.accept("orders", ordering_key="k")
        await pass_time(0.5)
        await ask(sim, old)
        await sim.until_status([old, new], "delivered", 60)
        assert receiver.begun == [new, old]
        assert receiver.at_once_max == 1


@virtual_time
async def test_an_event_waits_for_a_replay_under_way(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        receiver, [old] = await begin(sim, 1, takes_s=2.0)
        await ask(sim, old)
        await pass_time(0.5)
        assert receiver.begun == [old]
        (new,) = await sim.accept("orders", ordering_key="k")
        await sim.until_status([old, new], "delivered", 60)
        assert receiver.begun == [old, new]
        assert receiver.at_once_max == 1


@virtual_time
async def test_an_event_waits_for_a_replay_that_is_retried(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        receiver, [old] = await begin(sim, 1)
        receiver.answers[old] = REFUSED
        await ask(sim, old)
        await pass_time(2)
        (new,) = await sim.accept("orders", ordering_key="k")
        await pass_time(5)
        assert receiver.begun == [old]
        receiver.answers.clear()
        await sim.until_status([old, new], "delivered", 60)
        assert receiver.begun == [old, old, new]


@virtual_time
async def test_a_replay_asked_for_later_goes_later(clock: VirtualClock, tmp_path: Path) -> None:
    """Both find the same end of the partition: nothing was accepted between them."""
    async with Simulation(clock, tmp_path, shards=1) as sim:
        receiver, [one, two] = await begin(sim, 2, takes_s=2.0)
        await ask(sim, two)
        await pass_time(0.5)
        await ask(sim, one)
        await sim.until_status([one, two], "delivered", 60)
        assert receiver.begun == [two, one]
        assert receiver.at_once_max == 1


@virtual_time
async def test_a_replay_does_not_pass_an_event_that_came_before_its_request(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """The gateway asked where the partition ends, then an event came, and then the request landed."""
    async with Simulation(clock, tmp_path, shards=1) as sim:
        receiver, [old] = await begin(sim, 1, takes_s=2.0)
        end = await end_of(sim, old)
        (new,) = await sim.accept("orders", ordering_key="k")
        await pass_time(0.5)
        assert receiver.begun == [new]
        await ask(sim, old, end)
        await sim.until_status([old, new], "delivered", 60)
        assert receiver.begun == [new, old]
        assert receiver.at_once_max == 1


@virtual_time
async def test_a_retry_holds_a_replay_back_over_a_takeover(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        receiver, [old] = await begin(sim, 1)
        end = await end_of(sim, old)
        (new,) = await sim.accept("orders", ordering_key="k")
        receiver.answers[new] = REFUSED
        await sim.until_status([new], "retried", 10)
        await sim.processes[0].kill()
        await ask(sim, old, end)
        sim.process("1")
        await pass_time(10)
        assert receiver.begun == [new]
        receiver.answers.clear()
        await sim.until_status([old, new], "delivered", 60)
        assert receiver.begun == [new, new, old]


@virtual_time
async def test_a_line_whose_first_was_put_back_by_the_breaker_goes_on(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """The released routes wait in the lane's memory when the breaker opens."""
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a", ordered=True, retry_schedule_seconds=(5,) * 50, max_in_flight=2)
        await sim.stream("orders", ["wf_a"])
        receiver = Receiver(0.01)
        sim.sender.targets[URL] = receiver
        sim.process()
        await pass_time(20)
        ids = []
        for n in range(60):
            ids += await sim.accept("orders", 3, ordering_key=f"k{n}")
        await pass_time(0.2)
        receiver.takes_s = 1.0
        receiver.answers = dict.fromkeys(ids, DOWN)
        await pass_time(120)
        receiver.answers, receiver.takes_s = {}, 0.01
        await sim.until_status(ids, "delivered", 900)


@virtual_time
async def test_replays_put_back_by_the_breaker_go_on(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a", ordered=True, retry_schedule_seconds=(5,) * 50, max_in_flight=1)
        await sim.stream("orders", ["wf_a"])
        receiver = Receiver(0.01)
        sim.sender.targets[URL] = receiver
        sim.process()
        await pass_time(20)
        ids = [event_id for n in range(40) for event_id in await sim.accept("orders", ordering_key=f"k{n}")]
        await sim.until_status(ids, "delivered", 60)
        receiver.answers, receiver.takes_s = dict.fromkeys(ids, DOWN), 0.5
        for event_id in ids:
            await ask(sim, event_id)
        await pass_time(120)
        receiver.answers, receiver.takes_s = {}, 0.01
        await sim.until_status(ids, "delivered", 900)


@virtual_time
async def test_what_is_remembered_of_open_lines_is_bounded(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.runtime.lines.OPEN_MAX", 50)
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a", ordered=True, retry_schedule_seconds=(30,) * 10)
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets[URL] = refuse
        process = sim.process()
        await pass_time(20)
        ids = []
        for _ in range(10):
            ids += await sim.accept("orders", 50, ordering_key="k")
        await pass_time(20)
        (owner,) = process.deliverer.owners()
        assert not owner.waiting.lines.loaded
        assert len(owner.waiting.lines) <= 5, "the line, and whose turn it is"
        sim.sender.targets[URL] = answer_ok
        await sim.until_status(ids, "delivered", 900)
        assert list(dict.fromkeys(s.event_id for s in sim.sender.sent)) == ids
