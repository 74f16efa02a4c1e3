"""Deliveries of one process: a lane for each target, shared by the process's shards.

A lane admits `max_in_flight` attempts at a time and `rate_limit_per_second` a second, first come first
served; lanes never wait for each other, so a target that hangs delays nobody else. What does not fit in
a lane's memory is parked in the log and comes back from the store (`refill`), in order: while a shard
has routes of this target in the store, its fresh ones park behind them.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
from atlas.runtime.patience import backoff_s
from atlas.runtime.registry import Registry
from atlas.runtime.work import LaneKey, Owner, Work, WorkKey

#: Routes waiting in memory for one target.
LANE_MAX: Final = 2_048
#: Routes waiting in memory for all targets. A lane may hold as many as this leaves free, so that a few
#: targets that hang never fill it; a lane with next to nothing may always hold `LANE_MIN`.
QUEUED_MAX: Final = 20_000
LANE_MIN: Final = 16
#: Bytes of payload kept with them; past it a payload is fetched from the log when its turn comes.
QUEUED_BYTES_MAX: Final = 16 * 1024 * 1024
#: Outcomes kept for shards that were lost and may come back to this process.
ORPHANS_MAX: Final = 10_000
#: Idle lanes are dropped past this many.
LANES_MAX: Final = 10_000
_STARVED_S: Final = 0.05
#: After an attempt that could not be made: the log could not be read.
_AGAIN_S: Final = 0.5

Outcome = tuple[DeliveryFact, ...]
log_line = structlog.get_logger()


class Lane:
    """What waits for one target in this process.

    Attributes:
        spilled: shards that have routes of this target waiting in the store only.
    """

    def __init__(self, engine: Engine, key: LaneKey) -> None:
        self.key = key
        self.queue: deque[Work] = deque()
        self.in_flight = 0
        self.spilled: dict[Owner, int] = {}
        self._engine = engine
        self._next_start_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def scope(self) -> Scope:
        return (self.key[0], self.key[1])

    @property
    def target(self) -> str:
        return self.key[2]

    def idle(self) -> bool:
        return not self.queue and not self.in_flight and not self.spilled

    def busy(self) -> bool:
        """Whether something waits in memory, or is under way."""
        return bool(self.queue or self.in_flight)

    def full(self) -> bool:
        return len(self.queue) >= self._limit()

    def low(self) -> bool:
        """Whether it is time to bring back what waits in the store."""
        return len(self.queue) <= (self._limit() - 1) // 2

    def _limit(self) -> int:
        engine = self._engine
        return min(engine.lane_max, max(LANE_MIN, engine.queued_max - engine.queued))

    def spill(self, owner: Owner) -> None:
        """Something of this shard now waits in the store only."""
        self.spilled[owner] = self.spilled.get(owner, 0) + 1

    def push(self, work: Work) -> None:
        """Put a work at the end, and start what may start."""
        self._engine.hold(work)
        self.queue.append(work)
        self.pump()

    def pump(self) -> None:
        """Start what may start."""
        to = self._engine.target(self.scope, self.target)
        limit = to.max_in_flight if to else self.in_flight + 1
        while self.queue and self.in_flight < limit:
            if self.queue[0].owner.closed or not self._engine.holds(self.queue[0]):
                self._engine.forget(self._pop())
                continue
            if self.queue[0].owner.expired(self.queue[0]):
                self._engine.close(self._pop(), PAYLOAD_EXPIRED)
                continue
            if to is None or to.status != ENABLED:
                code = TARGET_DELETED if to is None else TARGET_DISABLED
                self._engine.close(self._pop(), code)
                continue
            if not self.queue[0].owner.may_start() and self._pass_over():
                continue
            delay_s = self._wait_s(to)
            if delay_s > 0:
                self.pump_in(delay_s)
                break
            self.in_flight += 1
            self.queue[0].under_way = True
            self._engine.start(self, self._pop(), to)
        if self.spilled and self.low():
            self._engine.wants_refill(self)

    def _pass_over(self) -> bool:
        """The first route's shard may start nothing now: bring one of another to the front, if there is one.
        Those of one shard keep their order.
        """
        held_up: set[Owner] = set()
        for index, work in enumerate(self.queue):
            if work.owner not in held_up and work.owner.may_start():
                del self.queue[index]
                self.queue.appendleft(work)
                return True
            held_up.add(work.owner)
        return False

    def _wait_s(self, to: Target) -> float:
        if self._engine.draining or not self.queue[0].owner.may_start():
            return _STARVED_S
        if to.rate_limit_per_second is None:
            return 0.0
        now_s = self._engine.clock.monotonic_s()
        if now_s < self._next_start_s:
            return self._next_start_s - now_s
        self._next_start_s = max(now_s, self._next_start_s) + 1 / to.rate_limit_per_second
        return 0.0

    def _pop(self) -> Work:
        work = self.queue.popleft()
        self._engine.release(work)
        return work

    def pump_in(self, delay_s: float) -> None:
        """Pump again after a while."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._pump_again)

    def _pump_again(self) -> None:
        self._timer = None
        self.pump()


class Engine:
    """All lanes of a process.

    Attributes:
        queued: routes waiting in memory, over all lanes.
        lane_max, queued_max: routes waiting in memory for one target, and for all.
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
    ) -> None:
        self.clock = clock
        self.lane_max, self.queued_max = lane_max, queued_max
        self._queued_bytes = 0
        self.queued = 0
        self.draining = False
        self._registry, self._attempter, self._new_id = registry, attempter, new_id
        self._lanes: dict[LaneKey, Lane] = {}
        self._here: dict[WorkKey, Work] = {}
        self._orphans: dict[WorkKey, Outcome] = {}
        self._tasks: set[asyncio.Task[None]] = set()

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
        if lane.full() or (work.first and work.owner in lane.spilled):
            return False
        self._here[work.key] = work
        lane.push(work)
        return True

    def hold(self, work: Work) -> None:
        """Count a work that waits in memory, and its payload if there is room for it."""
        self.queued += 1
        if work.record is not None and self._queued_bytes + len(work.record.data) > QUEUED_BYTES_MAX:
            work.record = None
        self._queued_bytes += len(work.record.data) if work.record else 0

    def release(self, work: Work) -> None:
        """A work no longer waits."""
        self.queued -= 1
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
            lane.spilled.pop(owner, None)

    def target_changed(self, scope: Scope, target: str) -> None:
        """The control fold changed a target."""
        lane = self._lanes.get((*scope, target))
        if lane is not None:
            lane.pump()

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
            fact = await self._attempter.attempt(work, to)
        except Exception as error:  # nothing is known to have been sent: the same attempt again, later
            if not isinstance(error, LogError):
                log_line.error("attempt broke off", event_id=work.event_id, exc_info=error)
            lane.in_flight -= 1
            work.under_way = False
            lane.queue.append(work)
            self.hold(work)
            lane.pump_in(_AGAIN_S)
            return
        except asyncio.CancelledError:
            self.forget(work)
            lane.in_flight -= 1
            raise
        lane.in_flight -= 1
        self.forget(work)
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
