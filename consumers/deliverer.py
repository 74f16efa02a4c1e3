"""Consumer group `atlas-deliverer`: owns shards of the lifecycle topic and delivers what is in them."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from atlas.core.commands import Command
from atlas.core.control import Decision
from atlas.core.entities import Workflow
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.log import Member
from atlas.runtime.engine import Engine
from atlas.runtime.shard_owner import GROUP, ClaimLost, OwnerServices, ShardOwner
from atlas.runtime.supervisor import describe

#: A shard whose owner failed is claimed again after this long, while it is still assigned.
RECLAIM_AFTER_S: Final = 0.5

log_line = structlog.get_logger()


class Deliverer:
    """Runs one owner for each shard that the group gives this member.

    Attributes:
        failures: owners that ended with an error, by shard, since the last one that claimed.
    """

    def __init__(self, services: OwnerServices) -> None:
        self.failures: dict[int, str] = {}
        self._services = services
        self._owners: dict[int, ShardOwner] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Deliver for ever."""
        self._services.registry.subscribe(self._folded)
        member = await self._services.log.join(GROUP, LIFECYCLE_TOPIC)
        held: frozenset[int] = frozenset()
        try:
            while True:
                held = await member.assignment_changed(held)
                self._rearrange(member, held)
        finally:
            self._services.registry.unsubscribe(self._folded)
            await self._end(list(self._tasks))
            await member.leave()

    @property
    def engine(self) -> Engine:
        """The lanes of this process."""
        return self._services.engine

    def owners(self) -> list[ShardOwner]:
        """The shards owned now."""
        return list(self._owners.values())

    async def drain(self, timeout_s: float) -> None:
        """Before a planned end: start nothing new, let what is under way end, write it down."""
        engine = self._services.engine
        engine.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await engine.drained()
                await asyncio.gather(*(owner.flush() for owner in self.owners()))
        except TimeoutError:
            log_line.warning("attempts cut off by the end; they will be repeated", count=engine.in_flight())
        await engine.abort()

    def _rearrange(self, member: Member, held: frozenset[int]) -> None:
        for shard in set(self._tasks) - held:
            self._tasks.pop(shard).cancel()
        for shard in held - set(self._tasks):
            self._tasks[shard] = asyncio.create_task(self._own(member, shard), name=f"shard {shard}")

    async def _own(self, member: Member, shard: int) -> None:
        """Until cancelled: a shard that is away for a moment may be back before anybody is told."""
        while True:
            if shard not in member.assignment():
                await asyncio.sleep(RECLAIM_AFTER_S)
                continue
            owner = self._owners[shard] = ShardOwner(self._services, member, shard)
            try:
                await owner.run()
            except* ClaimLost:
                log_line.warning("claim lost", shard=shard)
            except* Exception as group:  # whatever ended it, the shard is claimed anew
                self.failures[shard] = describe(group)
                log_line.error("shard owner failed", shard=shard, error=describe(group), exc_info=group)
            finally:
                if self._owners.get(shard) is owner:
                    del self._owners[shard]
            await asyncio.sleep(RECLAIM_AFTER_S)

    async def _end(self, shards: list[int]) -> None:
        tasks = [self._tasks.pop(shard) for shard in shards]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _folded(self, command: Command, decision: Decision) -> None:
        if isinstance(decision, Workflow):
            self._services.engine.target_changed(decision.scope, decision.id)
            for owner in self.owners():
                owner.waiting.target_changed(decision.scope, decision.id)
