"""Routes of a shard that wait: retries for their time, parked ones for room at their target.

All of them are rows of the read model; memory holds only what is due soon. Two questions bring them
back: `upcoming` (retries due between the horizon and a little later) and `waiting_for` (whatever of one
target is overdue, when its lane has room again). What the owner knows better than a snapshot of the store
is in `overlay`. What is due by the horizon and not in the store yet is in memory already, and fires
whether the store answers or not.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

import structlog

from atlas.core.facts import (
    LIFECYCLE_TOPIC,
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryFact,
    DeliveryParked,
    DeliveryStarted,
    ReplayRequested,
    parse_event_topic,
)
from atlas.core.lifecycle import PROCESSING, RETRY_SCHEDULED
from atlas.ports.clock import Clock
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import ReadModel, Waiting, WaitingRoute
from atlas.runtime.closing import FOREVER_MS, ROWS_MAX, Closing
from atlas.runtime.engine import Engine
from atlas.runtime.lane import BACKLOG, BREAKER, Lane
from atlas.runtime.lines import Lines
from atlas.runtime.overlay import Overlay, covers
from atlas.runtime.patience import backoff_s, patiently
from atlas.runtime.store_position import store_has
from atlas.runtime.work import LaneKey, Owner, Work, WorkKey

#: How far ahead retries are held in memory, and how often the store is asked for more.
LOOKAHEAD_MS: Final = 60_000
SCAN_EVERY_S: Final = 15.0
#: Timers in memory for one shard, and a look's rows on top of them.
TIMERS_MAX: Final = 10_000

log_line = structlog.get_logger()


class WaitingOwner(Owner, Protocol):
    """The owner as this module needs it."""

    @property
    def last_offset(self) -> int:
        """Offset of the newest own fact known to be durable, or of the claim."""


class WaitingRoutes:
    """The waiting routes of one shard. `run` must be kept running by the owner."""

    def __init__(self, owner: WaitingOwner, read_model: ReadModel, engine: Engine, clock: Clock) -> None:
        self._owner, self._read_model, self._engine, self._clock = owner, read_model, engine, clock
        self._overlay = Overlay(owner)
        self.lines = Lines(owner, read_model, engine, self._overlay, self)
        self._timers: list[tuple[int, int, Work]] = []
        self._timed: dict[WorkKey, int] = {}
        self._pushed = 0
        self._horizon_ms = 0
        self._scanned_s = float("-inf")
        self._changed = asyncio.Event()
        self._lowered = asyncio.Event()
        self._refilling: set[LaneKey] = set()
        self._closing = Closing(owner, read_model, engine, self._overlay, self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- the owner's own facts ----------------------------------------------------------------

    def queued(self, work: Work) -> None:
        """A fact about the route is on its way to the log: the store knows less than we do."""
        self._overlay.queued(work)

    def knows(self, work: Work) -> bool:
        """Whether a row of the store about this route is older than a fact of ours."""
        return self._overlay.knows(work.key)

    def recorded(self, work: Work, fact: DeliveryFact, offset: int) -> None:
        """The fact is durable at `offset`."""
        self._overlay.recorded(work, offset)
        self.lines.recorded(work, fact, offset)
        if isinstance(fact, DeliveryAttempted) and fact.outcome == RETRY_SCHEDULED:
            self._schedule(work, fact.next_attempt_at_ms or 0, fact.attempt + 1)
        elif isinstance(fact, DeliveryParked):
            if fact.reason in (BACKLOG, BREAKER):
                self.spill(work.scope, work.target)
        elif not isinstance(fact, DeliveryStarted):
            self._timed.pop(work.key, None)
        if isinstance(fact, DeliveryAttempted | DeliveryClosed):
            for endpoint in fact.notify:
                # Whether there is a notice, and what it says, is for the fold to decide.
                self._overlay.told((*work.scope, endpoint), offset)
                self.spill(work.scope, endpoint)

    def replay_requested(self, fact: ReplayRequested, offset: int) -> None:
        """Routes of these targets may have been begun anew: the store has them once it has folded this."""
        name = parse_event_topic(fact.topic)
        if name is not None:
            scope = (name.workspace_id, name.environment)
            self.lines.replay_requested(scope, fact, offset)
            for target in fact.targets:
                self._overlay.told((*scope, target), offset)
                self.spill(scope, target)

    def _schedule(self, work: Work, due_ms: int, attempt: int) -> None:
        if due_ms > self._horizon_ms:
            return  # the store will have it when the horizon comes to it
        if len(self._timers) >= TIMERS_MAX:
            self._horizon_ms = min(self._horizon_ms, due_ms - 1)
            self._lowered.set()
            return
        self._push(work.again(attempt), due_ms)

    def _push(self, work: Work, due_ms: int) -> None:
        if self._timed.get(work.key) == due_ms:
            return
        self._timed[work.key] = due_ms
        self._pushed += 1
        heapq.heappush(self._timers, (due_ms, self._pushed, work))
        self._changed.set()

    def spill(self, scope: tuple[str, str], target: str, behind: bool = True) -> None:
        """Something for this target is in the store only: its lane asks for it, now or with room."""
        lane = self._engine.lane(scope, target)
        lane.spill(self._owner, behind)
        lane.pump()

    # -- the loops ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Take routes up when they are due, for ever."""
        now_ms = self._clock.now_ms()
        self._horizon_ms = now_ms + LOOKAHEAD_MS  # own facts due by then go to memory from here on
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fire_in_time())
            group.create_task(self._look_ahead(now_ms))
            group.create_task(self._until_failure())
            group.create_task(self.lines.run())

    async def _until_failure(self) -> None:
        await self._failure

    async def _fire_in_time(self) -> None:
        while True:
            now_ms = self._clock.now_ms()
            self._fire(now_ms)
            self._changed.clear()
            next_ms = self._timers[0][0] if self._timers else FOREVER_MS
            await _wait(self._changed, min(max(0.0, (next_ms - now_ms) / 1000), SCAN_EVERY_S))

    async def _look_ahead(self, start_ms: int) -> None:
        await self._first_look(start_ms)
        await self.lines.load(self._owner.last_offset)
        await self.lines.find_heads()
        await self._scan(start_ms, start_ms + LOOKAHEAD_MS)
        while True:
            now_ms = self._clock.now_ms()
            if self._scan_is_due(now_ms):
                after_ms, self._horizon_ms = self._horizon_ms, now_ms + LOOKAHEAD_MS
                await self._scan(after_ms, self._horizon_ms)
                continue
            if not self.lines.loaded:
                await self.lines.load(self._owner.last_offset)
            self._lowered.clear()
            left_s = (self._horizon_ms - now_ms) / 1000
            await _wait(self._lowered, min(left_s, SCAN_EVERY_S) if left_s > 0 else SCAN_EVERY_S)

    def stop(self) -> None:
        """Nothing is taken up any more."""
        self._failure.cancel()
        for task in self._tasks:
            task.cancel()

    async def _first_look(self, start_ms: int) -> None:
        """After the claim: which targets have routes waiting, and which of them may not be sent to."""
        offset = self._owner.last_offset
        await self.store_has(offset)
        for each in await patiently(lambda: self._read_model.breakers_of(self._owner.shard)):
            self._engine.lane(each.scope, each.target).inherit(self._owner, each.breaker)
        lined = await patiently(lambda: self._read_model.targets_in_line(self._owner.shard))
        for *scope, target in lined | await self._targets_waiting(FOREVER_MS, offset):
            workspace_id, environment = scope
            self.target_changed((workspace_id, environment), target)
        for *scope, target in await self._targets_waiting(start_ms, offset):
            self.spill((scope[0], scope[1]), target)

    async def _targets_waiting(self, until_ms: int, offset: int) -> set[tuple[str, str, str]]:
        """By a store that has folded the shard up to `offset`."""
        shard = self._owner.shard
        while True:
            await self.store_has(offset)
            found = await patiently(lambda: self._read_model.targets_waiting(shard, until_ms))
            progress = await patiently(self._read_model.progress)
            if progress.positions.get(TopicPartition(LIFECYCLE_TOPIC, shard), 0) > offset:
                return found
            await asyncio.sleep(backoff_s(0))  # the store was exchanged for an older one

    async def store_has(self, offset: int) -> None:
        """Wait until the read model has folded the shard's lifecycle up to this record."""
        await store_has(self._read_model, self._owner.shard, offset)

    def _fire(self, now_ms: int) -> None:
        while self._timers and self._timers[0][0] <= now_ms:
            due_ms, _, work = heapq.heappop(self._timers)
            if self._timed.get(work.key) != due_ms:
                continue
            del self._timed[work.key]
            if not self._engine.adopt(work) and not self._engine.offer(work):
                self.spill(work.scope, work.target)

    def _scan_is_due(self, now_ms: int) -> bool:
        if self._horizon_ms <= now_ms:
            return True
        if len(self._timers) > TIMERS_MAX // 2 or self._horizon_ms - now_ms >= LOOKAHEAD_MS // 2:
            return False
        return self._clock.monotonic_s() - self._scanned_s >= SCAN_EVERY_S

    async def _scan(self, after_ms: int, until_ms: int) -> None:
        """Take the retries due up to the new horizon into memory."""
        shard, offset = self._owner.shard, self._owner.last_offset
        snapshot = await self._snapshot(
            lambda: self._read_model.upcoming(shard, after_ms, until_ms, ROWS_MAX), offset
        )
        for route in self.fresh(snapshot):
            self._push(self.work(route), route.due_at_ms)
        if len(snapshot.routes) < ROWS_MAX:
            self._scanned_s = self._clock.monotonic_s()
            return
        last_ms = snapshot.routes[-1].due_at_ms
        if last_ms - 1 > after_ms:
            self._horizon_ms = min(self._horizon_ms, last_ms - 1)
        else:  # more rows of one moment than one look takes: their lanes ask for them
            self._horizon_ms = min(self._horizon_ms, last_ms)
            for route in snapshot.routes:
                self.spill(self._scope(route), route.target)

    async def _snapshot(self, ask: Callable[[], Awaitable[Waiting]], offset: int) -> Waiting:
        """The answer of a store that has folded the shard up to `offset`."""
        tries = 0
        while True:
            await self.store_has(offset)
            snapshot = await patiently(ask)
            if snapshot.lifecycle_position > offset and self._overlay.admits(snapshot):
                return snapshot
            await asyncio.sleep(backoff_s(tries))
            tries += 1

    # -- lanes that have room again, targets that changed -------------------------------------

    def refill(self, lane: Lane) -> None:
        """Bring back what waits for this target in the store."""
        if lane.key not in self._refilling:
            self._refilling.add(lane.key)
            self._spawn(self._refill(lane))

    async def _refill(self, lane: Lane) -> None:
        tries = 0
        try:
            while not self._owner.closed and self._owner in lane.spilled and lane.low():
                spills = lane.spilled[self._owner]
                taken, whole = await self._take_back(lane)
                if whole and lane.spilled.get(self._owner) == spills:
                    lane.unspill(self._owner)
                elif taken:
                    tries = 0
                else:
                    await asyncio.sleep(min(backoff_s(tries), 1.0))
                    tries += 1
        finally:
            self._refilling.discard(lane.key)

    async def _take_back(self, lane: Lane) -> tuple[int, bool]:
        """Offer the lane what is overdue: how many it took, and whether that was all there is."""
        shard, settled = self._owner.shard, self._overlay.settled(lane.key)
        now_ms, limit = self._clock.now_ms(), lane.rows_wanted
        snapshot = await patiently(
            lambda: self._read_model.waiting_for(shard, lane.scope, lane.target, now_ms, limit)
        )
        if not self._overlay.admits(snapshot):
            return 0, False
        fresh = self.fresh(snapshot)
        taken = sum(self._engine.offer(self.work(route)) for route in fresh)
        all_of_it = len(snapshot.routes) < limit and taken == len(fresh)
        if all_of_it and self.lines.wants_heads(lane.key):
            taken += await self._take_heads(lane, limit)
        return taken, all_of_it and covers(snapshot, settled)

    async def _take_heads(self, lane: Lane, limit: int) -> int:
        """Offer the lane the first of its lines, where that waits for nothing else."""
        shard = self._owner.shard
        snapshot = await patiently(
            lambda: self._read_model.in_line(shard, lane.scope, lane.target, limit, heads=True)
        )
        if not self._overlay.admits(snapshot):
            self.lines.want_heads(lane.key)
            return 0
        fresh = self.fresh(snapshot)
        unsure = any(self._overlay.knows(self.work(route).key) for route in snapshot.routes)
        taken = sum(self.lines.offer(self.work(route)) for route in fresh)
        if taken < len(fresh) or unsure or len(snapshot.routes) >= limit:
            self.lines.want_heads(lane.key)
        return taken

    def target_changed(self, scope: tuple[str, str], target: str) -> None:
        """If nothing may be sent there any more, close what waits for it."""
        if self._closing.is_due(scope, target):
            self._spawn(self._closing.close(scope, target))

    # -- snapshots ----------------------------------------------------------------------------

    def fresh(self, snapshot: Waiting) -> list[WaitingRoute]:
        """Rows that are as we know them, and not already on their way."""
        found = []
        for route in snapshot.routes:
            work = self.work(route)
            if not self._overlay.knows(work.key) and not self._engine.adopt(work):
                found.append(route)
        return found

    def work(self, route: WaitingRoute) -> Work:
        """A stored route as a work of this owner."""
        attempt = route.attempt if route.status == PROCESSING else route.attempt + 1
        return Work(
            self._owner,
            self._scope(route),
            route.event_id,
            route.topic,
            route.offset,
            route.target,
            attempt,
            route.replay,
            base=route.base,
            notice=route.notice,
            outcome=route.outcome,
            ordering_key=route.ordering_key,
        )

    @staticmethod
    def _scope(route: WaitingRoute) -> tuple[str, str]:
        return (route.workspace_id, route.environment)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task that fails ends `run`, and with it the owner: nobody else would take its work up."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failure.done():
            self._failure.set_exception(error)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
