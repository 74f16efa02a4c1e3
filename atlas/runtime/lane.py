"""What waits for one target in this process, in the order in which it comes.

A lane admits `max_in_flight` attempts at a time and `rate_limit_per_second` a second, and nothing but
probes while the target's circuit breaker is open. Then nothing waits in its memory either: first attempts
are parked, the others are in the store already, and all of them come back when the breaker has closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from atlas.core.breaker import Breaker
from atlas.core.entities import ENABLED, Scope, Target
from atlas.core.facts import PAYLOAD_EXPIRED, TARGET_DELETED, TARGET_DISABLED
from atlas.runtime.lane_breaker import LaneBreaker
from atlas.runtime.work import LaneKey, Owner, Work

if TYPE_CHECKING:
    from atlas.runtime.engine import Engine

#: A lane with next to nothing in a full process may always hold so many, and have so many under way.
LANE_MIN: Final = 16
UNDER_WAY_MIN: Final = 2
#: Rows looked at in the store for a lane that has room for few: a few rows cost as much as one.
ROWS_MIN: Final = 128
#: Why a route is parked that has no place in memory, or behind an open breaker.
BACKLOG: Final = "backlog"
BREAKER: Final = "breaker"
_STARVED_S: Final = 0.05


class Lane:
    """See the module.

    Attributes:
        spilled: shards that have routes of this target waiting in the store only.
        blocked: those of them whose fresh events must wait behind.
    """

    def __init__(self, engine: Engine, key: LaneKey) -> None:
        self.key = key
        self.queue: deque[Work] = deque()
        self.in_flight = 0
        self.spilled: dict[Owner, int] = {}
        self.blocked: set[Owner] = set()
        self.breaker = LaneBreaker(self, engine.clock, engine.uniform01)
        self._engine = engine
        self._next_start_s = 0.0
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0

    @property
    def scope(self) -> Scope:
        return (self.key[0], self.key[1])

    @property
    def target(self) -> str:
        return self.key[2]

    def idle(self) -> bool:
        return not self.queue and not self.in_flight and not self.spilled and self.breaker.closed

    def busy(self) -> bool:
        """Whether something waits in memory, or is under way, or has to wait for a probe's time."""
        return bool(self.queue or self.in_flight) or self.breaker.keeps()

    def full(self) -> bool:
        return len(self.queue) >= self._limit()

    def low(self) -> bool:
        """Whether it is time to bring back what waits in the store."""
        return (limit := self._limit()) > 0 and len(self.queue) <= (limit - 1) // 2

    @property
    def rows_wanted(self) -> int:
        """How many routes to look at in the store; of those under way the store may not know yet."""
        wanted = max(ROWS_MIN, self._limit()) if self.breaker.closed else LANE_MIN
        return wanted + len(self.queue) + self.in_flight

    @property
    def why_full(self) -> str:
        """What a route that finds no room is parked for."""
        return BACKLOG if self.breaker.closed else BREAKER

    def _limit(self) -> int:
        if not self.breaker.closed:
            return 1 if self.breaker.probe_is_due() else 0
        share = self._engine.memory.bound(self.key[0], len(self.queue))
        return min(self._engine.lane_max, max(LANE_MIN, share))

    def _under_way_limit(self, to: Target) -> int:
        share = self._engine.under_way.bound(self.key[0], self.in_flight)
        return min(to.max_in_flight, max(UNDER_WAY_MIN, share))

    def inherit(self, owner: Owner, before: Breaker) -> None:
        """A new owner of a shard finds that the one before it had the target's breaker not closed."""
        to = self._engine.target(self.scope, self.target)
        self.breaker.inherit(owner, before, to.revision if to is not None else before.revision)
        self.pump()

    def spill(self, owner: Owner, behind: bool = True) -> None:
        """Something of this shard now waits in the store only; with `behind`, what comes fresh behind it."""
        self.spilled[owner] = self.spilled.get(owner, 0) + 1
        if behind:
            self.blocked.add(owner)
        self.breaker.holds_back(owner)

    def unspill(self, owner: Owner) -> None:
        """Nothing of this shard waits in the store any more."""
        self.spilled.pop(owner, None)
        self.blocked.discard(owner)

    def push(self, work: Work) -> None:
        """Put a work at the end, and start what may start."""
        self._engine.hold(work)
        self.queue.append(work)
        self.pump()

    def changed(self) -> None:
        """The target has other settings now: what was held against it, or waited for, was the old one's."""
        self._next_start_s = 0.0
        self.pump()

    def pump(self) -> None:
        """Start what may start."""
        to = self._known()
        if not self.breaker.closed and not self.breaker.probe_is_due():
            self._shed()
            if (wait_s := self.breaker.probe_in_s()) is not None:
                self.pump_in(wait_s)
            return
        while self.queue and (to is None or self.in_flight < to.max_in_flight):
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
            delay_s = _STARVED_S if self.in_flight >= self._under_way_limit(to) else self._wait_s(to)
            if delay_s > 0:
                self.pump_in(delay_s)
                break
            self.in_flight += 1
            self._engine.under_way.take(self.key[0])
            self.queue[0].under_way = True
            self.breaker.started(self.queue[0])
            self._engine.start(self, self._pop(), to)
            if not self.breaker.closed:
                self._shed()
                return
        if self.spilled and self.low():
            self._engine.wants_refill(self)

    def _known(self) -> Target | None:
        """The target as it is now; the breaker is about that."""
        to = self._engine.target(self.scope, self.target)
        if to is not None:
            self.breaker.about(to.revision)
        if to is None or to.status != ENABLED:
            self.breaker.reset()  # nothing is sent there; and once something is, it is another target
        return to

    def ended(self) -> None:
        """An attempt is no longer under way."""
        self.in_flight -= 1
        self._engine.under_way.give_back(self.key[0])

    def _shed(self) -> None:
        """Nothing of it may be sent now: it waits in the log, and comes back from the store."""
        while self.queue:
            work = self._pop()
            self._engine.forget(work)
            if not work.owner.closed:
                self.spill(work.owner)
                if work.first:
                    work.owner.park(work, BREAKER)
                elif work.ordering_key is not None:
                    work.owner.shed(work)

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
        """Pump again after a while, at the latest."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + delay_s
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        # Of a delay under its resolution uvloop makes a handle that cannot say when it is due.
        self._timer, self._due_s = loop.call_later(delay_s, self._pump_again), due_s

    def _pump_again(self) -> None:
        self._timer = None
        self.pump()
