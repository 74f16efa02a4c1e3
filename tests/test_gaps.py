"""Records that went before their owner had read or decided them: Kafka's own retention, or an operator."""

from __future__ import annotations

from pathlib import Path

from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.log import TopicPartition
from atlas.runtime.claim_fold import GROUP
from atlas.runtime.trimmer import TRIM_EVERY_S
from tests.sim_faults import FaultySimulation
from tests.simulation import Simulation, answer_down
from tests.virtual_time import VirtualClock, pass_time, virtual_time


async def drop(sim: Simulation, stream: str) -> None:
    """All records of a stream, behind everybody's back."""
    [topic] = [s.topic for s in sim.registry.state.streams["ws_sim", "live"].values() if s.name == stream]
    sources = [TopicPartition(topic, shard) for shard in range(sim.shards)]
    for source, end in (await sim.log.end_offsets(sources)).items():
        await sim.log.delete_records(source, end)


@virtual_time
async def test_what_went_unread_is_closed_counted_and_what_comes_is_delivered(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(3_600,))
        sim.sender.targets["http://wf_a"] = answer_down
        await sim.stream("orders", ["wf_a"])
        first = sim.process("first")
        waiting = await sim.accept("orders", 10)
        await sim.until_status(waiting, "retried")
        await pass_time(5)
        await first.kill()
        unread = await sim.accept("orders", 10)
        await sim.folded()
        await drop(sim, "orders")
        second = sim.process("second")
        fresh = await sim.accept("orders", 10)
        await pass_time(2 * TRIM_EVERY_S)
        for event_id in waiting + unread:
            [route] = (await sim.event(event_id)).routes
            assert (route.status, route.error_code) == ("failed", "payload_expired")
        assert second.metrics.lost_records.labels(GROUP)._value.get() == len(unread)
        assert await sim.statuses(fresh) == {"retried": 10}


@virtual_time
async def test_a_checkpoint_that_could_not_be_stored_is_stored_later(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """Also when nothing comes any more: a takeover would fold all again."""
    async with FaultySimulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        sim.faults.commit_fails = 1.0
        ids = await sim.accept("orders", 10)
        await sim.until_status(ids, "delivered")
        await pass_time(30)
        written = len((await sim.facts())[0])
        sim.faults.heal()
        await pass_time(10)
        assert len((await sim.facts())[0]) == written, "it is there already"
        assert await sim.log.committed(GROUP, TopicPartition(LIFECYCLE_TOPIC, 0)) == written - 1
