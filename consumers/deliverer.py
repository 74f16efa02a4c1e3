"""Consumer group `atlas-deliverer`: owns shards of the lifecycle topic and delivers what is in them."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from msgspec import Struct

from atlas.core.commands import Command
from atlas.core.control import Decision
from atlas.core.entities import Target
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.log import Member
from atlas.runtime.claim_fold import GROUP
from atlas.runtime.claim_watch import ClaimLost, ClaimWatch
from atlas.runtime.engine import Engine
from atlas.runtime.owner_services import OwnerServices
from atlas.runtime.patience import backoff_s
from atlas.runtime.shard_owner import ShardOwner
from atlas.runtime.supervisor import STABLE_S, describe

#: A shard whose owner failed is claimed again after this long, while it is still assigned.
RECLAIM_AFTER_S: Final = 0.5

#: A shard assigned but not owned for longer shows in `/readyz`: a claim and its fold take moments.
UNOWNED_MAX_S: Final = 5.0
#: A route that waits longer past its time, while its target's lane is idle, has been forgotten.
OVERDUE_MAX_MS: Final = 60_000

log_line = structlog.get_logger()


class Failure(Struct, frozen=True):
    """Why an owner ended, and when (monotonic)."""

    error: str
    at_s: float


class Deliverer:
    """Runs one owner for each shard that the group gives this member.

    Attributes:
        failures: of owners that ended with an error, by shard, until the next one is stable.
    """

    def __init__(self, services: OwnerServices) -> None:
        self.failures: dict[int, Failure] = {}
        self._unowned_since_s: dict[int, float] = {}
        self._services = services
        self._member: Member | None = None
        self._owners: dict[int, ShardOwner] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Deliver for ever."""
        member = self._member = await self._services.log.join(GROUP, LIFECYCLE_TOPIC)
        watch = ClaimWatch(self._services.log, member)
        self._services.registry.subscribe(self._folded)
        held: frozenset[int] = frozenset()
        try:
            while True:
                held = await member.assignment_changed(held)
                self._rearrange(member, watch, held)
        finally:
            self._services.registry.unsubscribe(self._folded)
            await self._end(list(self._tasks))
            await watch.close()
            self.failures.clear()
            await member.leave()

    @property
    def engine(self) -> Engine:
        """The lanes of this process."""
        return self._services.engine

    def owners(self) -> list[ShardOwner]:
        """The shards owned now."""
        return list(self._owners.values())

    async def checks(self) -> dict[str, str]:
        """For each shard assigned to this process, "ok" or why its deliveries do not get on.

        Without any it is ready all the same, as long as the group counts on it.
        """
        now_s = self._services.clock.monotonic_s()
        member = self._member
        if not self._tasks and (member is None or member.heartbeat_age_s() > member.session_timeout_s):
            return {"group": "not a member of its group"}
        for shard, failure in list(self.failures.items()):
            if self._owned(shard) and now_s - failure.at_s >= STABLE_S:
                del self.failures[shard]
        return {f"shard {shard}": await self._check(shard, now_s) for shard in sorted(self._tasks)}

    async def _check(self, shard: int, now_s: float) -> str:
        if shard in self.failures:
            return f"restarting: {self.failures[shard].error.partition(':')[0]}"
        if not self._owned(shard):
            unowned_s = now_s - self._unowned_since_s.setdefault(shard, now_s)
            return "ok" if unowned_s < UNOWNED_MAX_S else f"not owned for {unowned_s:.0f} s"
        self._unowned_since_s.pop(shard, None)
        due_ms = self._services.clock.now_ms() - OVERDUE_MAX_MS
        for *scope, target in await self._services.read_model.targets_waiting(shard, due_ms):
            if not self.engine.lane((scope[0], scope[1]), target).busy():
                return "what waits is not taken up"
        return "ok"

    def _owned(self, shard: int) -> bool:
        owner = self._owners.get(shard)
        return owner is not None and owner.owned

    def position(self) -> int:
        """Rises as events are read; a shard that is lost takes its part away."""
        return sum(owner.position() for owner in self.owners())

    async def lag_records(self) -> int:
        """Events in the shards owned that are not read yet."""
        return sum([await owner.lag_records() for owner in self.owners()])

    async def drain(self, timeout_s: float) -> None:
        """Before a planned end: start nothing new, let what is under way end, write it down."""
        engine = self._services.engine
        engine.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await engine.drained()
                flushes = [owner.flush() for owner in self.owners()]
                await asyncio.gather(*flushes, return_exceptions=True)  # the next owner folds the more
        except TimeoutError:
            log_line.warning("attempts cut off by the end; they will be repeated", count=engine.in_flight())
        await engine.abort()

    def _rearrange(self, member: Member, watch: ClaimWatch, held: frozenset[int]) -> None:
        for shard in set(self._tasks) - held:
            self._tasks.pop(shard).cancel()
            self.failures.pop(shard, None)
            self._unowned_since_s.pop(shard, None)
        for shard in held - set(self._tasks):
            owning = self._own(member, watch, shard)
            self._tasks[shard] = asyncio.create_task(owning, name=f"shard {shard}")

    async def _own(self, member: Member, watch: ClaimWatch, shard: int) -> None:
        """Until cancelled: a shard that is away for a moment may be back before anybody is told.

        A cancellation that meets an owner's own end is lost in its task group (CPython gh-116720), and the
        group's error comes instead: so ask whether this task is still the shard's.
        """
        tries, clock, me = 0, self._services.clock, asyncio.current_task()
        while self._tasks.get(shard) is me:
            if shard not in member.assignment():
                await asyncio.sleep(RECLAIM_AFTER_S)
                continue
            owner = self._owners[shard] = ShardOwner(self._services, member, watch, shard)
            started_s = clock.monotonic_s()
            try:
                await owner.run()
            except* ClaimLost:
                log_line.warning("claim lost", shard=shard)
            except* Exception as group:  # noqa: BLE001  # whatever ended it, the shard is claimed anew
                self._failed(shard, describe(group), group)
            finally:
                if self._owners.get(shard) is owner:
                    del self._owners[shard]
            tries = 0 if clock.monotonic_s() - started_s >= STABLE_S else tries + 1
            await asyncio.sleep(max(RECLAIM_AFTER_S, backoff_s(tries)))

    def _failed(self, shard: int, error: str, group: BaseException) -> None:
        self.failures[shard] = Failure(error, self._services.clock.monotonic_s())
        self._services.metrics.restarts.labels("shard owner").inc()
        log_line.error("shard owner failed", shard=shard, error=error, exc_info=group)

    async def _end(self, shards: list[int]) -> None:
        tasks = [self._tasks.pop(shard) for shard in shards]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _folded(self, command: Command, decision: Decision) -> None:
        if isinstance(decision, Target):
            self._services.engine.target_changed(decision.scope, decision.id)
            for owner in self.owners():
                owner.waiting.target_changed(decision.scope, decision.id)
