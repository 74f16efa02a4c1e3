"""Deliveries of one process: a lane for each target, shared by the process's shards.

A lane admits `max_in_flight` attempts at a time and `rate_limit_per_second` a second, first come first
served; lanes never wait for each other, so a target that hangs delays nobody else. Memory and attempts under
way are bounded for all of them together, and divided by `shares`. What does not fit in a lane's memory is
parked in the log and comes back from the store (`refill`), in order: while a shard has routes of this target
in the store, its fresh ones park behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from atlas.core.commands import DisableTarget
from atlas.core.entities import ENABLED, Scope, Target
from atlas.core.errors import ApiError, LogError, Unavailable
from atlas.core.facts import (
    PAYLOAD_EXPIRED,
    TARGET_DELETED,
    TARGET_DISABLED,
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryFact,
)
from atlas.core.lifecycle import RETRY_SCHEDULED
from atlas.ports.clock import Clock
from atlas.runtime.attempt import Attempter, disables_target
from atlas.runtime.lane import Lane
from atlas.runtime.patience import backoff_s
from atlas.runtime.registry import Registry
from atlas.runtime.shares import Shares
from atlas.runtime.work import LaneKey, Owner, Work, WorkKey

#: Routes waiting in memory for one target.
LANE_MAX: Final = 2_048
#: Routes waiting in memory for all targets, divided as `shares` says (but see `LANE_MIN`).
QUEUED_MAX: Final = 20_000
#: Attempts under way for all targets, divided alike (but see `UNDER_WAY_MIN`): each has a socket.
UNDER_WAY_MAX: Final = 4_096
#: Bytes of payload kept with them; past it a payload is fetched from the log when its turn comes.
QUEUED_BYTES_MAX: Final = 16 * 1024 * 1024
#: Outcomes kept for shards that were lost and may come back to this process.
ORPHANS_MAX: Final = 10_000
#: Idle lanes are dropped past this many.
LANES_MAX: Final = 10_000
#: After an attempt that could not be made: the log could not be read.
_AGAIN_S: Final = 0.5

Outcome = tuple[DeliveryFact, ...]
log_line = structlog.get_logger()


class Engine:
    """All lanes of a process.

    Attributes:
        memory: routes waiting in memory, over all lanes.
        under_way: attempts under way, over all lanes.
        lane_max: routes waiting in memory for one target.
        draining: nothing new is started.
    """

    def __init__(
        self,
        registry: Registry,
        attempter: Attempter,
        clock: Clock,
        new_id: Callable[[], str],
        lane_max: int = LANE_MAX,
        queued_max: int = QUEUED_MAX,
        under_way_max: int = UNDER_WAY_MAX,
    ) -> None:
        self.clock, self.uniform01 = clock, attempter.uniform01
        self.lane_max = lane_max
        self.memory, self.under_way = Shares(queued_max), Shares(under_way_max)
        self._queued_bytes = 0
        self.draining = False
        self._registry, self._attempter, self._new_id = registry, attempter, new_id
        self._lanes: dict[LaneKey, Lane] = {}
        self._here: dict[WorkKey, Work] = {}
        self._orphans: dict[WorkKey, Outcome] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        """Routes waiting in memory."""
        return self.memory.held

    def lane(self, scope: Scope, target: str) -> Lane:
        """The target's lane."""
        key = (*scope, target)
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= LANES_MAX:
                self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.idle()}
            lane = self._lanes[key] = Lane(self, key)
        return lane

    def target(self, scope: Scope, target: str) -> Target | None:
        """The target as the control fold has it now."""
        return self._registry.state.find_target(scope, target)

    def breakers_open(self) -> int:
        """Targets to which nothing but probes is sent."""
        return sum(not lane.breaker.closed for lane in self._lanes.values())

    def in_flight(self) -> int:
        """Attempts under way."""
        return len(self._tasks)

    def adopt(self, work: Work) -> bool:
        """Take over, for a new owner in this process, what is under way or has just ended.

        Only the very attempt that the route wants next: another owner may have made it meanwhile.
        """
        ended = self._orphans.pop(work.key, None)
        if ended is not None and getattr(ended[0], "attempt", work.attempt) == work.attempt:
            self._settle(work, ended)
            return True
        present = self._here.get(work.key)
        if present is None or present.attempt != work.attempt:
            return False
        present.owner = work.owner
        return True

    def offer(self, work: Work) -> bool:
        """Take a route up now; False when there is no room: it must wait in the store."""
        lane = self.lane(work.scope, work.target)
        if lane.full() or (work.first and work.owner in lane.blocked):
            return False
        self._here[work.key] = work
        lane.push(work)
        return True

    def hold(self, work: Work) -> None:
        """Count a work that waits in memory, and its payload if there is room for it."""
        self.memory.take(work.scope[0])
        if work.record is not None and self._queued_bytes + len(work.record.data) > QUEUED_BYTES_MAX:
            work.record = None
        self._queued_bytes += len(work.record.data) if work.record else 0

    def release(self, work: Work) -> None:
        """A work no longer waits."""
        self.memory.give_back(work.scope[0])
        self._queued_bytes -= len(work.record.data) if work.record else 0

    def close(self, work: Work, code: str) -> None:
        """End a route without an attempt."""
        self.forget(work)
        self._settle(work, (self._attempter.closed(work, code),))

    def expire(self, work: Work) -> None:
        """End a route whose record goes; one under way ends by itself, and is left to do so."""
        present = self._here.get(work.key)
        if present is None or not present.under_way:
            self._here.pop(work.key, None)
            self.close(work, PAYLOAD_EXPIRED)

    def holds(self, work: Work) -> bool:
        """Whether this very work stands for its route here: else another took its place, or it ended."""
        return self._here.get(work.key) is work

    def has(self, key: WorkKey) -> bool:
        """Whether the route waits here or is under way."""
        return key in self._here

    def forget(self, work: Work) -> None:
        """The route is no longer here."""
        if self._here.get(work.key) is work:
            del self._here[work.key]

    def first_attempts(self, owner: Owner) -> list[Work]:
        """What came straight from the event topic, and waits here or is under way."""
        return [work for work in self._here.values() if work.first and work.owner is owner]

    def lost(self, owner: Owner) -> None:
        """A shard was lost: nothing of it waits here any more."""
        for lane in self._lanes.values():
            lane.unspill(owner)
            lane.breaker.lost(owner)

    def target_changed(self, scope: Scope, target: str) -> None:
        """The control fold changed a target: whatever its breaker held against it may be over."""
        lane = self._lanes.get((*scope, target))
        if lane is not None:
            lane.changed()

    def wants_refill(self, lane: Lane) -> None:
        for owner in list(lane.spilled):
            owner.refill(lane)

    def start(self, lane: Lane, work: Work, to: Target) -> None:
        """Run an attempt as a task of its own."""
        task = asyncio.get_running_loop().create_task(self._run(lane, work, to))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drained(self) -> None:
        """Wait until no attempt is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abort(self) -> None:
        """Cancel what is under way: it is repeated under its own number by the next owner."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, lane: Lane, work: Work, to: Target) -> None:
        try:
            fact = await self._attempter.attempt(work, to, lambda: self.target(work.scope, work.target))
        except Exception as error:  # nothing is known to have been sent: the same attempt again, later
            if not isinstance(error, LogError):
                log_line.error("attempt broke off", event_id=work.event_id, exc_info=error)
            lane.ended()
            work.under_way = False
            lane.breaker.broke_off(work)
            lane.queue.append(work)
            self.hold(work)
            lane.pump_in(_AGAIN_S)
            return
        except asyncio.CancelledError:
            self.forget(work)
            lane.ended()
            raise
        lane.ended()
        self.forget(work)
        lane.breaker.ended(work, fact, to.revision)
        self._finish(work, to, fact)
        lane.pump()

    def _finish(self, work: Work, to: Target, fact: DeliveryAttempted | DeliveryClosed) -> None:
        facts: Outcome = (fact,)
        if isinstance(fact, DeliveryAttempted) and fact.outcome == RETRY_SCHEDULED:
            now = self.target(work.scope, work.target)
            if now is None or now.status != ENABLED:
                code = TARGET_DELETED if now is None else TARGET_DISABLED
                facts = (fact, self._attempter.closed(work, code))
        self._settle(work, facts)
        reason = disables_target(fact)
        if reason is not None:
            self._disable(to, reason)

    def _settle(self, work: Work, facts: Outcome) -> None:
        if not work.owner.closed:
            work.owner.settle(work, *facts)
            return
        self._orphans[work.key] = facts
        if len(self._orphans) > ORPHANS_MAX:
            del self._orphans[next(iter(self._orphans))]

    def _disable(self, to: Target, reason: str) -> None:
        now = self.target(to.scope, to.id)
        if now is None or now.revision != to.revision:
            return  # it has changed since: of many that answered 410, the first has disabled it
        command = DisableTarget(
            id=self._new_id(),
            at_ms=self.clock.now_ms(),
            workspace_id=to.workspace_id,
            environment=to.environment,
            target_id=to.id,
            reason=reason,
            revision=to.revision,
        )
        task = asyncio.get_running_loop().create_task(self._propose(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _propose(self, command: DisableTarget) -> None:
        """Until it is decided; a proposal that was decided already is decided alike again."""
        tries = 0
        while True:
            try:
                await self._registry.propose(command)
            except Unavailable:
                await asyncio.sleep(backoff_s(tries))
                tries += 1
                continue
            except ApiError as error:
                log_line.warning("target not disabled", target=command.target_id, error=error.code)
            return
