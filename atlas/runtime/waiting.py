"""Routes of a shard that wait: retries for their time, parked ones for room at their target.

All of them are rows of the read model; memory holds only what is due soon. Two questions bring them
back: `upcoming` (retries due between the horizon and a little later) and `waiting_for` (whatever of one
target is overdue, when its lane has room again). A snapshot of the store is older than the owner's own
newest facts, so these overlay it: a row whose route got a fact at or after the snapshot's position is
passed over. What is due by the horizon and not in the store yet is in memory already.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, OrderedDict
from collections.abc import Coroutine
from typing import Final, Protocol

import structlog

from atlas.core.entities import ENABLED
from atlas.core.facts import (
    LIFECYCLE_TOPIC,
    DeliveryAttempted,
    DeliveryFact,
    DeliveryParked,
    DeliveryStarted,
)
from atlas.core.lifecycle import PROCESSING, RETRY_SCHEDULED
from atlas.ports.clock import Clock
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import ReadModel, Waiting, WaitingRoute
from atlas.runtime.attempt import TARGET_DELETED, TARGET_DISABLED
from atlas.runtime.engine import Engine, Lane, LaneKey
from atlas.runtime.work import Owner, Work, WorkKey

#: How far ahead retries are held in memory, and how often the store is asked for more.
LOOKAHEAD_MS: Final = 60_000
SCAN_EVERY_S: Final = 15.0
#: Timers in memory for one shard.
TIMERS_MAX: Final = 10_000
#: Rows asked of the store at once.
ROWS_MAX: Final = 1_000
FOREVER_MS: Final = 2**53
_BEHIND_S: Final = 0.05

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
        self._timers: list[tuple[int, int, Work]] = []
        self._timed: dict[WorkKey, int] = {}
        self._pushed = 0
        self._horizon_ms = 0
        self._scanned_s = float("-inf")
        self._changed = asyncio.Event()
        self._overlay: OrderedDict[WorkKey, int] = OrderedDict()
        self._unsettled: dict[WorkKey, int] = {}
        self._unsettled_in: Counter[LaneKey] = Counter()
        self._newest_in: dict[LaneKey, int] = {}
        self._refilling: set[tuple[str, str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the owner's own facts ----------------------------------------------------------------

    def queued(self, work: Work) -> None:
        """A fact about the route is on its way to the log: the store knows less than we do."""
        self._unsettled[work.key] = self._unsettled.get(work.key, 0) + 1
        self._unsettled_in[work.lane] += 1

    def recorded(self, work: Work, fact: DeliveryFact, offset: int) -> None:
        """The fact is durable at `offset`."""
        left = self._unsettled.get(work.key, 1) - 1
        if left:
            self._unsettled[work.key] = left
        else:
            self._unsettled.pop(work.key, None)
        self._unsettled_in[work.lane] -= 1
        self._newest_in[work.lane] = offset
        if not work.first or not isinstance(fact, DeliveryStarted):
            self._overlay[work.key] = offset
            self._overlay.move_to_end(work.key)
        if isinstance(fact, DeliveryAttempted) and fact.outcome == RETRY_SCHEDULED:
            self._schedule(work, fact.next_attempt_at_ms or 0, fact.attempt + 1)
        elif isinstance(fact, DeliveryParked):
            lane = self._engine.lane(work.scope, work.target)
            lane.spill(self._owner)
            lane.pump()
        elif not isinstance(fact, DeliveryStarted):
            self._timed.pop(work.key, None)

    def _schedule(self, work: Work, due_ms: int, attempt: int) -> None:
        if due_ms > self._horizon_ms:
            return  # the store will have it when the horizon comes to it
        if len(self._timers) >= TIMERS_MAX:
            self._horizon_ms = min(self._horizon_ms, due_ms - 1)
            return
        again = Work(
            self._owner, work.scope, work.event_id, work.topic, work.offset, work.target, attempt, work.replay
        )
        self._push(again, due_ms)

    def _push(self, work: Work, due_ms: int) -> None:
        if self._timed.get(work.key) == due_ms:
            return
        self._timed[work.key] = due_ms
        self._pushed += 1
        heapq.heappush(self._timers, (due_ms, self._pushed, work))
        self._changed.set()

    # -- the loop -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Take routes up when they are due, for ever."""
        await self._first_look()
        while True:
            now_ms = self._clock.now_ms()
            self._fire(now_ms)
            if self._scan_is_due(now_ms):
                await self._scan(now_ms)
                continue
            self._changed.clear()
            next_ms = self._timers[0][0] if self._timers else FOREVER_MS
            wait_s = min(max(0.0, (next_ms - now_ms) / 1000), SCAN_EVERY_S)
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Nothing is taken up any more."""
        for task in self._tasks:
            task.cancel()

    async def _first_look(self) -> None:
        """After the claim: which targets have routes waiting, and which of them may not be sent to."""
        await self._store_has(self._owner.last_offset)
        self._horizon_ms = self._clock.now_ms()
        for *scope, target in await self._read_model.targets_waiting(self._owner.shard, FOREVER_MS):
            workspace_id, environment = scope
            self.target_changed((workspace_id, environment), target)
        for *scope, target in await self._read_model.targets_waiting(self._owner.shard, self._horizon_ms):
            lane = self._engine.lane((scope[0], scope[1]), target)
            lane.spill(self._owner)
            lane.pump()

    async def _store_has(self, offset: int) -> None:
        """Wait until the read model has folded the shard's lifecycle up to this record."""
        lifecycle = TopicPartition(LIFECYCLE_TOPIC, self._owner.shard)
        while not await self._read_model.wait_past({lifecycle: offset + 1}, SCAN_EVERY_S):
            log_line.warning("the read model is behind", shard=self._owner.shard, offset=offset)

    def _fire(self, now_ms: int) -> None:
        while self._timers and self._timers[0][0] <= now_ms:
            due_ms, _, work = heapq.heappop(self._timers)
            if self._timed.get(work.key) != due_ms:
                continue
            del self._timed[work.key]
            if not self._engine.adopt(work) and not self._engine.offer(work):
                self._engine.lane(work.scope, work.target).spill(self._owner)

    def _scan_is_due(self, now_ms: int) -> bool:
        if len(self._timers) > TIMERS_MAX // 2 and self._horizon_ms > now_ms:
            return False
        near = self._horizon_ms - now_ms < LOOKAHEAD_MS // 2
        return near and (self._horizon_ms <= now_ms or self._since_scan_s() >= SCAN_EVERY_S)

    def _since_scan_s(self) -> float:
        return self._clock.monotonic_s() - self._scanned_s

    async def _scan(self, now_ms: int) -> None:
        """Move the horizon: take the retries due up to the new one into memory."""
        after_ms, until_ms = self._horizon_ms, now_ms + LOOKAHEAD_MS
        self._horizon_ms = until_ms  # own facts due by then go to memory from here on
        await self._store_has(self._owner.last_offset)
        limit = min(ROWS_MAX, TIMERS_MAX - len(self._timers))
        snapshot = await self._read_model.upcoming(self._owner.shard, after_ms, until_ms, limit)
        self._prune(snapshot)
        for route in self._fresh(snapshot):
            self._push(self.work(route), route.due_at_ms)
        if len(snapshot.routes) >= limit:
            last_ms = snapshot.routes[-1].due_at_ms
            if last_ms - 1 > after_ms:
                self._horizon_ms = last_ms - 1
            else:  # more rows of one moment than one look takes: their lanes will ask for them
                self._horizon_ms = last_ms
                for route in snapshot.routes:
                    self._engine.lane(self._scope(route), route.target).spill(self._owner)
        else:
            self._scanned_s = self._clock.monotonic_s()

    # -- lanes that have room again, targets that changed -------------------------------------

    def refill(self, lane: Lane) -> None:
        """Bring back what waits for this target in the store."""
        if lane.key not in self._refilling:
            self._refilling.add(lane.key)
            self._spawn(self._refill(lane))

    async def _refill(self, lane: Lane) -> None:
        try:
            while (
                not self._owner.closed
                and self._owner in lane.spilled
                and len(lane.queue) < self._engine.lane_max // 2
            ):
                spills, settled = lane.spilled[self._owner], self._settled(lane.key)
                snapshot = await self._read_model.waiting_for(
                    self._owner.shard, lane.scope, lane.target, self._clock.now_ms(), self._engine.lane_max
                )
                self._prune(snapshot)
                taken = [r for r in self._fresh(snapshot) if self._engine.offer(self.work(r))]
                whole = len(snapshot.routes) < self._engine.lane_max and self._covers(snapshot, settled)
                if whole and lane.spilled.get(self._owner) == spills:
                    lane.spilled.pop(self._owner, None)
                elif not taken:
                    await asyncio.sleep(_BEHIND_S)
        finally:
            self._refilling.discard(lane.key)

    def target_changed(self, scope: tuple[str, str], target: str) -> None:
        """If nothing may be sent there any more, close what waits for it."""
        workflow = self._engine.workflow(scope, target)
        if workflow is None or workflow.status != ENABLED:
            self._spawn(self._close_waiting(scope, target))

    async def _close_waiting(self, scope: tuple[str, str], target: str) -> None:
        while not self._owner.closed:
            workflow = self._engine.workflow(scope, target)
            if workflow is not None and workflow.status == ENABLED:
                return
            code = TARGET_DELETED if workflow is None else TARGET_DISABLED
            settled = self._settled((*scope, target))
            snapshot = await self._read_model.waiting_for(
                self._owner.shard, scope, target, FOREVER_MS, ROWS_MAX
            )
            self._prune(snapshot)
            fresh = self._fresh(snapshot)
            for route in fresh:
                self._engine.close(self.work(route), code)
            if not snapshot.routes and self._covers(snapshot, settled):
                return
            if not fresh:
                await asyncio.sleep(_BEHIND_S)

    # -- snapshots ----------------------------------------------------------------------------

    def _settled(self, lane: LaneKey) -> int | None:
        """Offset of the newest own fact about the target; None while one is on its way."""
        return None if self._unsettled_in[lane] else self._newest_in.get(lane, self._owner.epoch)

    @staticmethod
    def _covers(snapshot: Waiting, settled: int | None) -> bool:
        return settled is not None and snapshot.lifecycle_position > settled

    def _prune(self, snapshot: Waiting) -> None:
        while self._overlay:
            key, offset = next(iter(self._overlay.items()))
            if offset >= snapshot.lifecycle_position:
                break
            del self._overlay[key]

    def _fresh(self, snapshot: Waiting) -> list[WaitingRoute]:
        """Rows that are as we know them, and not already on their way."""
        found = []
        for route in snapshot.routes:
            work = self.work(route)
            known = work.key in self._overlay or work.key in self._unsettled
            if not known and not self._engine.adopt(work):
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
        )

    @staticmethod
    def _scope(route: WaitingRoute) -> tuple[str, str]:
        return (route.workspace_id, route.environment)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
