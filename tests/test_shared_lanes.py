"""Lanes that several shards of a process share: what holds one shard up is no matter of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from atlas.core.errors import LogUnavailable
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.log import NewRecord
from tests.simulation import Simulation
from tests.virtual_time import VirtualClock, pass_time, virtual_time


@virtual_time
async def test_a_shard_whose_facts_cannot_be_written_holds_up_no_other(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lifecycle partition without a leader: its routes wait in the same lanes as everybody's."""
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=1)
        await sim.stream("orders", ["wf_a"])
        process = sim.process()
        await sim.until(lambda: [owner.owned for owner in process.deliverer.owners()] == [True, True])
        append = process.log.append

        async def without_first(topic: str, partition: int, records: Sequence[NewRecord]) -> int:
            if (topic, partition) == (LIFECYCLE_TOPIC, 0):
                raise LogUnavailable("no leader")
            return int(await append(topic, partition, records))

        with monkeypatch.context() as patch:
            patch.setattr(process.log, "append", without_first)
            ids = await sim.accept("orders", 40)
            await pass_time(5)
            of_second = {record.offset for record in await sim.records(sim.sources()[-1])}
            assert (await sim.statuses(ids))["delivered"] == len(of_second) > 10
        await sim.until_status(ids, "delivered", 30)
        assert len(sim.sender.sent) == len(ids)
