"""Bulk replays, carried out by the owner of the first shard: one at a time for each of them.

Before each step its progress is written down, with how far the step goes: a new owner looks at that step's
events again, whatever has become of them, and finds in each whether it had its turn. A request that is
written twice is void in the fold, and so is one of an owner that has lost the shard. Where order is kept, a
step takes in the whole of its last millisecond, and asks in the order of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog
from msgspec.structs import replace

from atlas.core.commands import Command, StartReplay
from atlas.core.control import Decision
from atlas.core.entities import ENABLED, BulkReplay, Scope
from atlas.core.facts import LIFECYCLE_TOPIC, ReplayProgressed
from atlas.core.ids import id_time_ms
from atlas.core.lifecycle import TERMINAL
from atlas.core.projection import EventState, keeps_order, replay_request
from atlas.core.replays import BulkProgress, chosen, had_its_turn, is_past, of_event
from atlas.core.views import visible_from_ms
from atlas.ports.log import NewRecord
from atlas.ports.read_model import EventQuery
from atlas.runtime.owner_services import OwnerServices
from atlas.runtime.patience import patiently
from atlas.runtime.replay_requests import ends_of_lines, replay_record, source_of
from atlas.runtime.store_position import store_has

#: Events looked at in one step, at most; and how long a step's worth of the rate is.
STEP_EVENTS_MAX: Final = 500
STEP_S: Final = 0.2
#: Events counted in one look.
COUNT_EVENTS: Final = 1_000

#: Between two tries of one that failed.
AGAIN_S: Final = 30.0

log_line = structlog.get_logger()


class FirstShardOwner(Protocol):
    """The owner as this module needs it."""

    @property
    def shard(self) -> int:
        """Partition number."""

    @property
    def epoch(self) -> int:
        """What facts must carry."""

    async def write(self, fact: ReplayProgressed) -> int:
        """Append a fact; returns its offset."""


class BulkReplays:
    """All of an installation. `run` must be kept running by the owner."""

    def __init__(self, owner: FirstShardOwner, services: OwnerServices) -> None:
        self._owner, self._registry, self._clock = owner, services.registry, services.clock
        self._log, self._read_model = services.log, services.read_model
        self._begun: set[str] = set()
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Carry out what is asked for, for ever."""
        await store_has(self._read_model, self._owner.shard, self._owner.epoch)
        self._registry.subscribe(self._folded)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._more.clear()
                    for replay in self._asked_for():
                        self._begun.add(replay.id)
                        group.create_task(self._carry_out_at_last(replay))
                    await self._more.wait()
        finally:
            self._registry.unsubscribe(self._folded)

    def _folded(self, command: Command, _: Decision) -> None:
        if isinstance(command, StartReplay):
            self._more.set()

    def _asked_for(self) -> list[BulkReplay]:
        now_ms = self._clock.now_ms()
        return [
            replay
            for known in self._registry.state.replays.values()
            for replay in known.values()
            if replay.id not in self._begun and replay.cancelled_at_ms is None and not is_past(replay, now_ms)
        ]

    async def _carry_out_at_last(self, replay: BulkReplay) -> None:
        """One that fails is no reason to hold up the others, nor the shard."""
        while True:
            try:
                return await self._carry_out(replay)
            except Exception as error:  # it is written down, and tried again
                log_line.error("bulk replay failed", replay=replay.id, exc_info=error)
            await asyncio.sleep(AGAIN_S)

    async def _carry_out(self, replay: BulkReplay) -> None:
        known = (await patiently(lambda: self._read_model.bulk_replays(replay.scope))).get(replay.id)
        progress = known or BulkProgress(scope=replay.scope, id=replay.id)
        if progress.done_at_ms is not None:
            return
        log_line.info("bulk replay", replay=replay.id, after=progress.after)
        if known is None:
            progress = replace(progress, matched=await self._count(replay))
        elif progress.through is not None:
            progress = await self._again(replay, progress)
        while not self._is_cancelled(replay):
            started_s = self._clock.monotonic_s()
            events = await self._page(replay, progress.after, self._step_events(replay))
            if not events:
                await self._tell(replace(progress, skipped=progress.matched - progress.replayed), done=True)
                return
            if any(map(keeps_order, events)):
                events += await self._rest_of_moment(replay, events[-1].id)
            progress = replace(progress, through=events[-1].id)
            await self._tell(progress)
            progress = await self._step(replay, progress, _in_log_order(events), started_s)
        await self._tell(progress)

    async def _step(
        self, replay: BulkReplay, progress: BulkProgress, events: Sequence[EventState], started_s: float
    ) -> BulkProgress:
        """Ask for these, at the replay's rate, until it is cancelled."""
        size = self._step_events(replay)
        for start in range(0, len(events), size):
            if self._is_cancelled(replay):
                return progress
            share = events[start : start + size]
            if start:
                share = await self._loaded(share)  # a while has passed
            replayed = await self._request(replay, share)
            progress = replace(
                progress,
                replayed=progress.replayed + replayed,
                skipped=progress.skipped + len(share) - replayed,
                # What came late, by the clocks of gateways.
                matched=max(progress.matched, progress.replayed + progress.skipped + len(share)),
            )
            due_s = started_s + (start + len(share)) / replay.rate_per_second
            await asyncio.sleep(max(0.0, due_s - self._clock.monotonic_s()))
        return replace(progress, after=progress.through)

    def _is_cancelled(self, replay: BulkReplay) -> bool:
        now = self._registry.state.replays.get(replay.scope, {}).get(replay.id)
        return now is None or now.cancelled_at_ms is not None

    @staticmethod
    def _step_events(replay: BulkReplay) -> int:
        return max(1, min(STEP_EVENTS_MAX, int(replay.rate_per_second * STEP_S)))

    async def _again(self, replay: BulkReplay, progress: BulkProgress) -> BulkProgress:
        """The step in which the owner before was lost."""
        after, through = progress.after, progress.through
        assert through is not None
        events: list[EventState] = []
        while True:
            anyhow = replace(
                self._query(replay, after, STEP_EVENTS_MAX), status=None, workflow_id=None, route_status=None
            )
            listed = [event for event in await self._list(anyhow) if event.id <= through]
            events += [each for each in await self._loaded(listed) if self._means(replay, each)]
            if len(listed) < STEP_EVENTS_MAX:
                break
            after = listed[-1].id
        replayed = await self._request(replay, _in_log_order(events))
        return replace(
            progress,
            after=through,
            replayed=progress.replayed + replayed,
            skipped=progress.skipped + len(events) - replayed,
        )

    @staticmethod
    def _means(replay: BulkReplay, event: EventState) -> bool:
        if had_its_turn(replay, event):
            return True
        return of_event(replay) in (None, event.status) and any(chosen(replay, event))

    async def _request(self, replay: BulkReplay, events: Sequence[EventState]) -> int:
        """Ask for what may be begun anew; how many events that is, those that had their turn included."""
        by_shard: dict[int, list[NewRecord]] = {}
        ends = await patiently(lambda: ends_of_lines(self._log, events))
        count = 0
        for event in events:
            targets = self._eligible(replay, event)
            count += bool(targets) or had_its_turn(replay, event)
            if targets:
                end, at_ms = ends.get(source_of(event)), self._clock.now_ms()
                fact = replay_request(event, targets, at_ms, end, bulk=replay.id)
                by_shard.setdefault(event.partition, []).append(replay_record(fact))
        for shard, records in by_shard.items():
            await self._append(shard, records)
        return count

    async def _append(self, shard: int, records: list[NewRecord]) -> None:
        await patiently(lambda: self._log.append(LIFECYCLE_TOPIC, shard, records))

    def _eligible(self, replay: BulkReplay, event: EventState) -> tuple[str, ...]:
        able = []
        for route in chosen(replay, event):
            to = self._registry.state.find_target(replay.scope, route.target)
            if route.status in TERMINAL and route.bulk != replay.id and to and to.status == ENABLED:
                able.append(route.target)
        return tuple(able)

    # -- events -------------------------------------------------------------------------------

    async def _count(self, replay: BulkReplay) -> int:
        count, after = 0, None
        while listed := await self._list(self._query(replay, after, COUNT_EVENTS)):
            if _only_route(replay) is not None:  # the query has found those that are meant
                count += len(listed)
            else:
                count += sum(any(chosen(replay, each)) for each in await self._loaded(listed))
            after = listed[-1].id
        return count

    async def _page(self, replay: BulkReplay, after: str | None, limit: int) -> list[EventState]:
        """The next events that it means, at most so many; none at the end."""
        while True:
            listed = await self._list(self._query(replay, after, limit))
            found = [event for event in await self._loaded(listed) if any(chosen(replay, event))]
            if found or len(listed) < limit:
                return found
            after = listed[-1].id

    async def _rest_of_moment(self, replay: BulkReplay, after: str) -> list[EventState]:
        """What it means of the same millisecond's events: below that, ids do not tell which came first."""
        rest: list[EventState] = []
        before_ms = id_time_ms(after) + 1
        while True:
            query = self._query(replay, after, COUNT_EVENTS)
            listed = await self._list(replace(query, received_before_ms=before_ms))
            rest += [event for event in await self._loaded(listed) if any(chosen(replay, event))]
            if len(listed) < COUNT_EVENTS:
                return rest
            after = listed[-1].id

    async def _list(self, query: EventQuery) -> list[EventState]:
        return await patiently(lambda: self._read_model.list(query))

    async def _loaded(self, events: Sequence[EventState]) -> list[EventState]:
        """The same with their routes; a page has none."""
        keys = [event.key for event in events]
        found = await patiently(lambda: self._read_model.load(keys))
        return [found[key] for key in keys if key in found]

    def _query(self, replay: BulkReplay, after: str | None, limit: int) -> EventQuery:
        before_ms = replay.created_at_ms + 1
        if replay.received_before_ms is not None:
            before_ms = min(before_ms, replay.received_before_ms)
        only = _only_route(replay)
        return EventQuery(
            scope=replay.scope,
            visible_after_ms=self._visible(replay.scope, replay.stream),
            limit=limit,
            after_id=after,
            type=replay.type,
            status=of_event(replay),
            workflow_id=only,
            route_status=replay.status if replay.status in TERMINAL else None,
            received_from_ms=replay.received_from_ms,
            received_before_ms=before_ms,
        )

    def _visible(self, scope: Scope, stream: str | None) -> dict[str, int]:
        now_ms = self._clock.now_ms()
        streams = self._registry.state.streams.get(scope, {})
        return {
            name: visible_from_ms(each, now_ms) for name, each in streams.items() if stream in (None, name)
        }

    async def _tell(self, progress: BulkProgress, done: bool = False) -> None:
        workspace_id, environment = progress.scope
        await self._owner.write(
            ReplayProgressed(
                epoch=self._owner.epoch,
                workspace_id=workspace_id,
                environment=environment,
                replay=progress.id,
                after=progress.after,
                through=progress.through,
                matched=progress.matched,
                replayed=progress.replayed,
                skipped=progress.skipped,
                done=done,
                at_ms=self._clock.now_ms(),
            )
        )


def _in_log_order(events: Sequence[EventState]) -> list[EventState]:
    return sorted(events, key=lambda event: (event.topic, event.partition, event.offset))


def _only_route(replay: BulkReplay) -> str | None:
    """The one workflow whose routes are meant: a query can ask for one, but not for several."""
    return replay.workflow_ids[0] if replay.workflow_ids and len(replay.workflow_ids) == 1 else None
