"""Folding shards of the log into a store: what the projector does for ever, and a rebuild up to a point.

Facts name the record of their event. Within a batch events are folded first, and a fact whose event
lies at or beyond the position of its topic waits for it: so a state never depends on how the topics
interleave. What no fold can take is quarantined by position.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import structlog

from atlas.core.facts import (
    LIFECYCLE_TOPIC,
    LifecycleFact,
    OfNoEvent,
    ReplayRequested,
    ShardClaimed,
    parse_event_topic,
)
from atlas.core.lifecycle import TERMINAL, RouteState
from atlas.core.notices import NoticeState
from atlas.core.projection import EventState, accepted
from atlas.core.reading import Poison, event_in, fact_in
from atlas.ports.clock import Clock
from atlas.ports.log import Batch, Log, Reader, TopicPartition
from atlas.ports.read_model import Advance, Changes, EventKey, NoticeKey, Quarantined, ReadModel
from atlas.runtime.gaps import alarm
from atlas.runtime.patience import patiently
from atlas.runtime.registry import Registry
from atlas.runtime.stream_topics import StreamTopics
from atlas.runtime.telemetry import Metrics
from consumers.folding import Folding, event_key, notice_key

GROUP: Final = "atlas-projector"

#: Records folded in one transaction, at most.
RECORDS_MAX: Final = 2_000
#: Open events, and open notices, kept in memory, so that their facts need no look-up.
CACHE_EVENTS_MAX: Final = 4_000
_STALLED_S: Final = 0.02

K = TypeVar("K")
S = TypeVar("S", EventState, NoticeState)

log_line = structlog.get_logger()


class Fold:
    """Folds into one store, from where that stands.

    Attributes:
        positions: next offset by partition, of what has been folded; replaced, never changed.
        stop: set it to cut a wait for records short.
    """

    def __init__(
        self, log: Log, read_model: ReadModel, registry: Registry, clock: Clock, metrics: Metrics
    ) -> None:
        self.positions: Mapping[TopicPartition, int] = {}
        self.stop = asyncio.Event()
        self._log, self._read_model, self._registry = log, read_model, registry
        self._clock, self._metrics = clock, metrics
        self._cache: OrderedDict[EventKey, EventState] = OrderedDict()
        self._epochs: dict[int, int] = {}
        self._followed: set[str] = set()
        self._limits: Mapping[TopicPartition, int] | None = None
        self._applying: asyncio.Task[None] | None = None
        self._in_flight: dict[EventKey, EventState] = {}
        self._notices: OrderedDict[NoticeKey, NoticeState] = OrderedDict()
        self._notices_in_flight: dict[NoticeKey, NoticeState] = {}

    @asynccontextmanager
    async def of(
        self, shards: Iterable[int], limits: Mapping[TopicPartition, int] | None = None
    ) -> AsyncIterator[None]:
        """Follow all topics of these shards, inside; `step` is to be called then.

        Args:
            shards: partitions of every topic.
            limits: with them, these partitions alone, and of each the records below its limit.
        """
        progress = await self._read_model.progress()
        self.positions, self._epochs = dict(progress.positions), dict(progress.epochs)
        self._cache.clear()
        self._notices.clear()
        self._in_flight, self._notices_in_flight, self._followed, self._limits = {}, {}, set(), limits
        self._reader = reader = self._log.reader()

        def follow(topic: str) -> None:
            self._followed.add(topic)
            sources = [TopicPartition(topic, shard) for shard in shards]
            reader.assign({s: self.positions.get(s, 0) for s in sources if not self._is_over(s)})

        try:
            follow(LIFECYCLE_TOPIC)
            with StreamTopics(self._registry, follow):
                yield
        finally:
            if self._applying is not None:
                self._applying.cancel()
                await asyncio.gather(self._applying, return_exceptions=True)
                self._applying = None
            await reader.close()

    @property
    def is_applying(self) -> bool:
        """Whether a batch is on its way to the store."""
        return self._applying is not None

    def has_passed(self, positions: Mapping[TopicPartition, int]) -> bool:
        """Whether all of this has been folded."""
        return all(self.positions.get(source, 0) >= offset for source, offset in positions.items())

    async def step(self, wait_s: float) -> int:
        """Fold what one poll finds, while the batch before is still being applied.

        Returns:
            Records read, at least 1; 0 when nothing came in time, or before that batch was applied.
        """
        batches = await self._poll(wait_s)
        if not batches:
            await self.applied()
        elif not await self._fold(self._reader, batches):
            await asyncio.sleep(_STALLED_S)  # a fact ran ahead of this process's control fold
        return max(1, sum(len(batch.records) for batch in batches)) if batches else 0

    async def _poll(self, wait_s: float) -> list[Batch]:
        polling = asyncio.ensure_future(self._reader.poll(RECORDS_MAX, wait_s))
        stopping = asyncio.ensure_future(self.stop.wait())
        awaited: set[asyncio.Future[Any]] = {polling, stopping}
        if self._applying is not None:
            awaited.add(self._applying)
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            return self._within_limits(polling.result() if polling.done() else [])
        finally:
            polling.cancel()
            stopping.cancel()
            await asyncio.gather(polling, stopping, return_exceptions=True)

    def _is_over(self, source: TopicPartition) -> bool:
        return self._limits is not None and self.positions.get(source, 0) >= self._limits.get(source, 0)

    def _within_limits(self, batches: list[Batch]) -> list[Batch]:
        if self._limits is None:
            return batches
        found = []
        for batch in batches:
            limit = self._limits[batch.source]
            if batch.next_offset >= limit:
                self._reader.unassign([batch.source])
                records = [record for record in batch.records if record.offset < limit]
                batch = Batch(batch.source, records, limit)
            found.append(batch)
        return found

    async def _fold(self, reader: Reader, batches: list[Batch]) -> bool:
        """False when nothing could be folded yet."""
        quarantined: list[Quarantined] = []
        events = self._read_events(batches, quarantined)
        positions = dict(self.positions)
        for batch in batches:
            if batch.source in self.positions:
                alarm(batch, GROUP, self._metrics)
            if batch.source.topic != LIFECYCLE_TOPIC:
                positions[batch.source] = batch.next_offset
        facts = await self._read_facts(reader, batches, positions, quarantined)
        moved = {s: p for s, p in positions.items() if p != self.positions.get(s, 0)}
        if not moved:
            return False
        folding = await self._working_set(events, facts)
        for state in events:
            try:
                folding.event(state)
            except Poison as poison:
                source = TopicPartition(state.topic, state.partition)
                quarantined.append(self._quarantine(source, state.offset, poison))
        for shard, offset, fact in facts:
            folding.fact(shard, offset, fact)
        await self.applied()
        self._apply(folding, moved, quarantined)
        self.positions = positions
        if folding.trims:
            await self.applied()  # what comes next must not find what has just been forgotten
        return True

    def _read_events(self, batches: list[Batch], quarantined: list[Quarantined]) -> list[EventState]:
        events: list[EventState] = []
        for batch in batches:
            name = parse_event_topic(batch.source.topic)
            if name is None:
                continue
            for record in batch.records:
                try:
                    event = event_in(record.value, record.headers, name)
                    if event is not None:
                        events.append(accepted(event, *batch.source, record.offset))
                except Poison as poison:
                    quarantined.append(self._quarantine(batch.source, record.offset, poison))
        return events

    async def _read_facts(
        self,
        reader: Reader,
        batches: list[Batch],
        positions: dict[TopicPartition, int],
        quarantined: list[Quarantined],
    ) -> list[tuple[int, int, LifecycleFact]]:
        """Facts up to the first, per shard, whose event has not been read yet."""
        facts: list[tuple[int, int, LifecycleFact]] = []
        for batch in batches:
            if batch.source.topic != LIFECYCLE_TOPIC:
                continue
            shard = batch.source.partition
            positions[batch.source] = batch.next_offset
            epoch = self._epochs.get(shard)
            for record in batch.records:
                try:
                    fact = fact_in(record.value, record.headers)
                except Poison as poison:
                    quarantined.append(self._quarantine(batch.source, record.offset, poison))
                    continue
                if isinstance(fact, ShardClaimed):
                    epoch = record.offset
                elif _counts(fact, epoch) and await self._ahead(fact, shard, positions):
                    positions[batch.source] = record.offset
                    reader.assign({batch.source: record.offset})
                    break
                facts.append((shard, record.offset, fact))
        return facts

    async def _ahead(self, fact: LifecycleFact, shard: int, positions: dict[TopicPartition, int]) -> bool:
        """Whether the fact's event is in the log but not read yet."""
        if isinstance(fact, OfNoEvent):
            return False
        source = TopicPartition(fact.topic, shard)
        if fact.offset < positions.get(source, 0) or parse_event_topic(fact.topic) is None:
            return False
        if fact.topic not in self._followed:
            await patiently(self._registry.stands_at_end)
            if fact.topic not in self._followed:
                return False  # no stream ever had it
        end = (await self._log.end_offsets([source])).get(source, 0)
        if self._limits is not None:
            end = min(end, self._limits.get(source, 0))
        return fact.offset < end  # else it is not ours: no event comes after its fact

    async def _working_set(
        self, events: list[EventState], facts: list[tuple[int, int, LifecycleFact]]
    ) -> Folding:
        keys = dict.fromkeys([state.key for state in events])
        fresh = set(keys)
        notices: dict[NoticeKey, None] = {}
        for _, _, fact in facts:
            if isinstance(fact, OfNoEvent):
                continue
            if not isinstance(fact, ReplayRequested) and fact.notice is not None:
                told_key = notice_key(fact)
                if told_key is not None:
                    notices[told_key] = None
                continue
            key = event_key(fact)
            if key is not None and key not in fresh:
                keys[key] = None
        known = _found(keys, self._in_flight, self._cache)
        missing = [key for key in keys if key not in known]
        if missing:
            known.update(await self._read_model.load(missing))
        noticed = _found(notices, self._notices_in_flight, self._notices)
        untold = [key for key in notices if key not in noticed]
        if untold:
            noticed.update(await self._read_model.load_notices(untold))
        return Folding(dict(self._epochs), known, noticed)

    async def applied(self) -> None:
        """Wait until the batch under way is in the read model.

        Raises:
            StaleWriter, StoreUnavailable: it is not, and nothing after it can be.
        """
        if self._applying is not None:
            applying, self._applying = self._applying, None
            await applying
            self._in_flight, self._notices_in_flight = {}, {}

    def _apply(
        self, folding: Folding, moved: dict[TopicPartition, int], quarantined: list[Quarantined]
    ) -> None:
        """Begin to apply what was folded; the next batch is folded meanwhile, on top of it."""
        states = [folding.known[key] for key in folding.changed]
        notices = [folding.notices[key] for key in folding.changed_notices]
        changes = Changes(
            events=states,
            notices=notices,
            attempts=folding.attempts,
            trims=folding.trims,
            breakers=list(folding.breakers.values()),
            bulk_replays=list(folding.bulk_replays.values()),
            quarantined=quarantined,
            advances=[Advance(s, self.positions.get(s, 0), p) for s, p in moved.items()],
            epochs={s: e for s, e in folding.epochs.items() if self._epochs.get(s) != e},
        )
        self._in_flight = dict(zip(folding.changed, states, strict=True))
        self._notices_in_flight = dict(zip(folding.changed_notices, notices, strict=True))
        self._applying = asyncio.create_task(self._read_model.apply(changes), name="projector apply")
        self._epochs = folding.epochs
        self._metrics.void_facts.inc(folding.void)
        if quarantined:
            self._metrics.quarantined.labels(GROUP).inc(len(quarantined))
        if folding.trims:
            self._cache.clear()
            self._notices.clear()
            return
        for key, state in self._in_flight.items():
            _remember(self._cache, key, state, state.routes)
        for notice_of, each in self._notices_in_flight.items():
            _remember(self._notices, notice_of, each, (each.route,))

    def _quarantine(self, source: TopicPartition, offset: int, poison: Poison) -> Quarantined:
        log_line.warning(
            "record quarantined",
            topic=source.topic,
            partition=source.partition,
            offset=offset,
            reason=str(poison),
        )
        return Quarantined(source, offset, str(poison), self._clock.now_ms())


def _counts(fact: LifecycleFact, epoch: int | None) -> bool:
    """Whether it is not void for its epoch."""
    return isinstance(fact, ReplayRequested) or (not isinstance(fact, ShardClaimed) and fact.epoch == epoch)


def _found(keys: Iterable[K], in_flight: Mapping[K, S], cache: Mapping[K, S]) -> dict[K, S]:
    """What memory knows of these; what is on its way to the store first."""
    return {key: state for key in keys if (state := in_flight.get(key) or cache.get(key)) is not None}


def _remember(cache: OrderedDict[K, S], key: K, state: S, routes: Iterable[RouteState]) -> None:
    """As long as something is to be expected of it."""
    if all(route.status in TERMINAL for route in routes):
        cache.pop(key, None)
        return
    cache[key] = state
    cache.move_to_end(key)
    if len(cache) > CACHE_EVENTS_MAX:
        cache.popitem(last=False)
