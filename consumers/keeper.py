"""Rebuilds and verifications of the read model, in the process that projects.

They are asked for by commands in `atlas.control`, and done one at a time, in that order. The store notes how
far it has come with them: one that a crash cut short is begun again by the next process, and a store that
was made anew owes none of those before it. Ingest and the projection go on meanwhile.

A read model that is ahead of the log, which has lost records, is made anew without being asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import structlog
from msgspec.structs import replace

from atlas.core.commands import Command
from atlas.core.control import Decision
from atlas.core.entities import REBUILD, Job
from atlas.core.errors import AtlasError, LogUnavailable
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.clock import Clock
from atlas.ports.log import Log, TopicPartition
from atlas.ports.read_model import Comparison, JobState, Progress, ReadModel
from atlas.ports.stores import Shadow, Stores
from atlas.runtime.patience import backoff_s, patiently
from atlas.runtime.registry import Registry
from atlas.runtime.telemetry import Metrics
from consumers.fold import Fold
from consumers.projector import Projector

#: A job that fails this often is given up...
TRIES: Final = 3
#: ...and one that could not read the log for this long.
AWAY_MAX_S: Final = 600.0
#: How often the progress of a job is noted.
NOTE_EVERY_S: Final = 0.5
#: Passes to the end of a log that grows meanwhile, before the projection is stopped for the rest.
PASSES: Final = 5
#: The projection stands still for no longer than this; the rebuild fails instead.
PAUSE_MAX_S: Final = 10.0
#: Without a record for this long, although there are more, a job fails.
STUCK_S: Final = 60.0
_POLL_S: Final = 0.5

RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"

log_line = structlog.get_logger()


class Keeper:
    """Runs under a supervisor, beside the projector it belongs to."""

    def __init__(
        self,
        log: Log,
        read_model: ReadModel,
        stores: Stores,
        projector: Projector,
        registry: Registry,
        clock: Clock,
    ) -> None:
        self._log, self._read_model, self._stores = log, read_model, stores
        self._projector, self._registry, self._clock = projector, registry, clock
        self._asked, self._ahead = asyncio.Event(), True
        projector.on_ahead = self._is_ahead

    async def run(self) -> None:
        """Do for ever what is asked for."""
        self._registry.subscribe(self._folded)
        try:
            await patiently(self._registry.stands_at_end)
            while True:
                self._asked.clear()
                if self._ahead:  # or may be: nobody has looked yet
                    await self._catch_down()
                job = await self._next()
                if job is None:
                    await self._asked.wait()
                else:
                    await self._do(job)
        finally:
            self._registry.unsubscribe(self._folded)

    def _folded(self, command: Command, decision: Decision) -> None:
        if isinstance(decision, Job):
            self._asked.set()

    def _is_ahead(self) -> None:
        self._ahead = True
        self._asked.set()

    async def _catch_down(self) -> None:
        """Make the read model anew if it holds more than the log."""
        positions = (await patiently(self._read_model.progress)).positions
        ends = await patiently(lambda: self._log.end_offsets(positions))
        self._ahead = False
        lost = {source: ends[source] for source in ends if positions[source] > ends[source]}
        if not lost:
            return
        log_line.error("the read model is ahead of the log, and is made anew", partitions=len(lost))
        work = _Work(
            self, JobState(id="", status=RUNNING, started_at_ms=self._clock.now_ms()), is_asked_for=False
        )
        for tries in count():
            try:
                await self._make_anew(work, None)
            except (AtlasError, TimeoutError) as error:
                log_line.warning("the read model was not made anew", tries=tries + 1, error=str(error))
                await asyncio.sleep(backoff_s(tries))
            else:
                return

    async def _next(self) -> Job | None:
        position = (await patiently(self._read_model.jobs)).position
        if position is None:  # made anew: it has all that a rebuild would give
            position = self._registry.position
            await self._read_model.note_jobs([], position)
        return next((job for job in self._registry.state.jobs.values() if job.offset >= position), None)

    async def _do(self, job: Job) -> None:
        state = begun = JobState(id=job.id, status=RUNNING, started_at_ms=self._clock.now_ms())
        log_line.info("job begins", job=job.id, kind=job.kind)
        since_s, tries, failures = self._clock.monotonic_s(), 0, 0
        while failures < TRIES:
            work = _Work(self, begun)
            try:
                await self._read_model.note_jobs([work.state])
                await (self._make_anew(work, job) if job.kind == REBUILD else self._verify(job, work))
            except (AtlasError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                log_line.warning("job failed", job=job.id, tries=tries + 1, error=reason)
                state = replace(work.state, status=FAILED, error=reason)
                is_away = isinstance(error, LogUnavailable)
                failures += not is_away or self._clock.monotonic_s() - since_s > AWAY_MAX_S
                await asyncio.sleep(backoff_s(tries))
                tries += 1
            else:
                log_line.info("job is done", job=job.id, records=work.state.records_folded)
                return
        state = replace(state, completed_at_ms=self._clock.now_ms())
        await patiently(lambda: self._read_model.note_jobs([state], job.offset + 1))

    # -- rebuild

    async def _make_anew(self, work: _Work, job: Job | None) -> None:
        """Fold the log into a store of its own, and go on with that."""
        async with self._shadow() as shadow:
            fold = self._fold_into(shadow)
            async with fold.of(range(self._log.shards)):
                for _ in range(PASSES):
                    await work.fold_to(fold, await self._log.end_offsets(self._sources()))
                async with self._projector.paused(), asyncio.timeout(PAUSE_MAX_S):
                    await work.fold_to(fold, await self._projected())
                    before = await self._read_model.jobs()
                    states = dict(before.states)
                    if job is not None:
                        now_ms = self._clock.now_ms()
                        states[job.id] = replace(work.state, status=COMPLETED, completed_at_ms=now_ms)
                    position = before.position if job is None else job.offset + 1
                    await shadow.store.note_jobs(list(states.values()), position)
                    await shadow.take_over()

    async def _projected(self) -> Mapping[TopicPartition, int]:
        """How far the read model is, as far as the log still goes there."""
        positions = (await self._read_model.progress()).positions
        ends = await self._log.end_offsets(positions)
        return {
            source: min(position, ends[source]) for source, position in positions.items() if source in ends
        }

    def _sources(self) -> list[TopicPartition]:
        streams = self._registry.state.streams.values()
        topics = [LIFECYCLE_TOPIC, *(stream.topic for named in streams for stream in named.values())]
        return [TopicPartition(topic, shard) for topic in topics for shard in range(self._log.shards)]

    # -- verification

    async def _verify(self, job: Job, work: _Work) -> None:
        comparison, whole = await self._compare(work)
        for tries in range(TRIES - 1):
            if whole or comparison.live_digest == comparison.rebuilt_digest:
                break
            await asyncio.sleep(backoff_s(tries))  # for the projection to come to the trim
            comparison, whole = await self._compare(work)
        done = replace(
            work.state, status=COMPLETED, completed_at_ms=self._clock.now_ms(), comparison=comparison
        )
        await patiently(lambda: self._read_model.note_jobs([done], job.offset + 1))

    async def _compare(self, work: _Work) -> tuple[Comparison, bool]:
        """Also whether the log still held all that the snapshot was made of."""
        snapshot = await self._stores.snapshot()
        try:
            limits = snapshot.progress.positions
            async with self._shadow() as shadow:
                fold = self._fold_into(shadow)
                async with fold.of(range(self._log.shards), limits):
                    await work.fold_to(fold, limits)
                comparison = await snapshot.compare(shadow)
            return comparison, await self._is_whole(snapshot.progress)
        finally:
            await snapshot.close()

    async def _is_whole(self, progress: Progress) -> bool:
        """A trim is in the log before its records go, and folded a moment after."""
        sources = [source for source in progress.positions if source.topic != LIFECYCLE_TOPIC]
        starts = await self._log.start_offsets(sources)
        return all(start <= progress.trimmed.get(source, 0) for source, start in starts.items())

    # -- both

    @asynccontextmanager
    async def _shadow(self) -> AsyncIterator[Shadow]:
        shadow = await self._stores.shadow()
        try:
            yield shadow
        finally:
            await shadow.discard()

    def _fold_into(self, shadow: Shadow) -> Fold:
        # What it meets was counted when the projector met it.
        return Fold(self._log, shadow.store, self._registry, self._clock, Metrics())

    async def note(self, state: JobState) -> None:
        """Progress, for whoever looks."""
        await self._read_model.note_jobs([state])

    async def starts(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Where the log begins."""
        return await self._log.start_offsets(positions)

    def now_s(self) -> float:
        """Monotonic."""
        return self._clock.monotonic_s()


class _Work:
    """One try at a job, and how far it has come."""

    def __init__(self, keeper: Keeper, state: JobState, *, is_asked_for: bool = True) -> None:
        self.state, self._is_asked_for = state, is_asked_for
        self._keeper = keeper
        self._noted_s = float("-inf")

    async def fold_to(self, fold: Fold, positions: Mapping[TopicPartition, int]) -> None:
        """Fold until all of these positions are passed, and applied.

        Raises:
            LogUnavailable: there ought to be more records, and none come.
        """
        starts = await self._keeper.starts(positions)
        total = sum(max(0, end - starts.get(source, 0)) for source, end in positions.items())
        came_s = self._keeper.now_s()
        while not fold.has_passed(positions):
            if await fold.step(_POLL_S):
                came_s = self._keeper.now_s()
            elif self._keeper.now_s() - came_s >= STUCK_S:
                raise LogUnavailable("the log does not give all of its records")
            folded = sum(max(0, at - starts.get(source, 0)) for source, at in fold.positions.items())
            self.state = replace(self.state, records_folded=folded, records_total=max(total, folded))
            if self._is_asked_for and self._keeper.now_s() - self._noted_s >= NOTE_EVERY_S:
                self._noted_s = self._keeper.now_s()
                await self._keeper.note(self.state)
        await fold.applied()
