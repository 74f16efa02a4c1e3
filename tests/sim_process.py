"""One deliverer process of a simulation, and the faults that can befall it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atlas.ports.log import Log, Member, NewRecord, Reader
from atlas.runtime.attempt import Attempter
from atlas.runtime.engine import LANE_MAX, QUEUED_MAX, UNDER_WAY_MAX, Engine
from atlas.runtime.owner_services import OwnerServices
from atlas.runtime.supervisor import Supervisor
from atlas.runtime.telemetry import Metrics
from consumers.deliverer import Deliverer

if TYPE_CHECKING:
    from tests.simulation import Simulation


class Gate:
    """Open, or closed: then whatever comes to it waits."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def __call__(self) -> None:
        await self._open.wait()


class _GatedReader:
    def __init__(self, inner: Reader, gate: Gate) -> None:
        self._inner, self._gate = inner, gate

    async def poll(self, records_max: int, timeout_s: float) -> Any:
        found = await self._inner.poll(records_max, timeout_s)
        await self._gate()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class GatedLog:
    """The log as one process reaches it: behind a gate. Everything else is the log's own."""

    def __init__(self, inner: Log, gate: Gate) -> None:
        self._inner, self._gate = inner, gate
        self.members: list[Any] = []

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        await self._gate()
        offset = await self._inner.append(topic, partition, records)
        await self._gate()
        return offset

    async def join(self, group: str, topic: str, alone: bool = False) -> Member:
        member = await self._inner.join(group, topic, alone)
        self.members.append(member)
        return member

    def reader(self) -> Any:
        return _GatedReader(self._inner.reader(), self._gate)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Process:
    """One deliverer process."""

    def __init__(
        self,
        simulation: Simulation,
        name: str,
        lane_max: int = LANE_MAX,
        queued_max: int = QUEUED_MAX,
        under_way_max: int = UNDER_WAY_MAX,
    ) -> None:
        self.gate = Gate()
        self.metrics = Metrics()
        self.log: Any = GatedLog(simulation.log, self.gate)
        attempter = Attempter(
            self.log,
            simulation.sender,
            simulation.box,
            simulation.clock,
            simulation.random.random,
            self.metrics,
        )
        self.engine = Engine(
            simulation.registry,
            attempter,
            simulation.clock,
            lambda: simulation.ids.new("cmd_"),
            lane_max,
            queued_max,
            under_way_max,
        )
        self.deliverer = Deliverer(
            OwnerServices(
                log=self.log,
                read_model=simulation.read_model,
                registry=simulation.registry,
                engine=self.engine,
                clock=simulation.clock,
                metrics=self.metrics,
            )
        )
        self.name = name
        self._supervisor = Supervisor(simulation.clock, self.metrics)
        self._supervisor.start(name, self.deliverer.run)

    def pause(self) -> None:
        """SIGSTOP."""
        self.gate.close()
        for member in self.log.members:
            member.beating = False

    def resume(self) -> None:
        """SIGCONT."""
        for member in self.log.members:
            member.beating = True
        self.gate.open()

    async def kill(self) -> None:
        """SIGKILL: nothing is drained, and the group is told only by the silence."""
        for member in self.log.members:
            member.beating = False
        await self._supervisor.stop()
        await self.engine.abort()

    def shards(self) -> set[int]:
        """Shards it owns now."""
        return {owner.shard for owner in self.deliverer.owners()}
