"""Topics are reconciled from the fold: a crash between a stream's decision and its topic heals itself."""

from __future__ import annotations

from pathlib import Path

from atlas.core.commands import CreateStream
from atlas.core.entities import Stream
from atlas.ports.log import TopicPartition
from atlas.runtime.topics import RECONCILE_EVERY_S, TopicReconciler
from tests.simulation import SCOPE, Simulation
from tests.virtual_time import VirtualClock, pass_time, virtual_time


@virtual_time
async def test_a_stream_without_a_topic_gets_it(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        sim.process()
        made = Stream(
            id=sim.ids.new("stm_"),
            workspace_id=SCOPE[0],
            environment=SCOPE[1],
            name="orders",
            description=None,
            retention_days=1,
            default_routes=("wf_a",),
            created_at_ms=clock.now_ms(),
        )
        await sim.registry.propose(CreateStream(**sim.command(), stream=made, streams_max=100))
        source = TopicPartition(made.topic, 0)
        assert await sim.log.end_offsets([source]) == {}
        sim.supervisor.start("topics", TopicReconciler(sim.log, sim.registry).run)
        await pass_time(RECONCILE_EVERY_S)
        assert await sim.log.end_offsets([source]) == {source: 0}
        ids = await sim.accept("orders", 5)
        await sim.until_status(ids, "delivered", 5)
