"""The owner of one shard: the only one who decides deliveries of its partition (design section 4).

    claim ──> fold from the last checkpoint to the claim ──> read the event topics from there

The claim's offset is the epoch that every fact of this owner carries. What is undecided below the claim
is attempted (again) under its own number; what is decided is skipped; what waits comes from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import structlog

from atlas.core.entities import Scope, Stream
from atlas.core.errors import LogUnavailable, StaleWriter
from atlas.core.facts import (
    BREAKER_KEY,
    PROGRESS_KEY,
    SHARD_KEY,
    BreakerChanged,
    DecidedRoute,
    DeliveryFact,
    DeliveryParked,
    EventRecord,
    RecordsTrimmed,
    ReplayProgressed,
    ShardCheckpoint,
    ShardClaimed,
    TopicName,
    parse_event_topic,
)
from atlas.core.lifecycle import IN_LINE
from atlas.core.notices import outcome_type
from atlas.core.shard import DECIDING, ShardFold, Undecided
from atlas.ports.log import Batch, Member, TopicPartition
from atlas.ports.read_model import WaitingRoute
from atlas.runtime.bulk_replays import BulkReplays
from atlas.runtime.claim_fold import GROUP, fold_up_to
from atlas.runtime.claim_watch import Claim, ClaimLost, ClaimWatch
from atlas.runtime.copies import FirstRecords
from atlas.runtime.fact_writer import FactWriter
from atlas.runtime.gaps import alarm
from atlas.runtime.lane import Lane
from atlas.runtime.lost_records import LostRecords
from atlas.runtime.owner_services import OwnerServices
from atlas.runtime.patience import patiently
from atlas.runtime.stream_topics import StreamTopics
from atlas.runtime.trimmer import Trimmer
from atlas.runtime.waiting import WaitingRoutes
from atlas.runtime.work import Work

RECORDS_MAX: Final = 500
#: Events read whose routes have no fact yet, of all shards together: past its share a shard reads no more.
OPEN_EVENTS_MAX: Final = 12_000
CHECKPOINT_EVERY_S: Final = 1.0
#: Why a route is parked that still waits in memory, or is under way.
SLOW: Final = "slow"
_POLL_S: Final = 60.0
_PAUSE_S: Final = 0.01

log_line = structlog.get_logger()


class ShardOwner:
    """One incarnation of ownership; `run` ends only with an exception or a cancellation.

    Attributes:
        owned: the shard is claimed, and what the owners before had decided is known.
    """

    def __init__(self, services: OwnerServices, member: Member, watch: ClaimWatch, shard: int) -> None:
        self.shard = shard
        self.epoch = -1
        self.closed = False
        self.owned = False
        self._services, self._member, self._watch = services, member, watch
        self._claimed: Claim | None = None
        self._log, self._registry = services.log, services.registry
        self._facts = FactWriter(services.log, shard)
        self._undecided = Undecided()
        self._fold = ShardFold()
        self._lost = LostRecords(services.log, services.read_model, shard)
        self._waiting = WaitingRoutes(self, services.read_model, services.engine, services.clock)
        self._expired: dict[str, int] = {}
        self._checkpointed: object = None
        self._to_commit: int | None = None
        self._read_before: dict[str, int] = {}
        self._moved, self._gap = asyncio.Event(), asyncio.Event()
        self._firsts = FirstRecords(services.read_model, shard, services.clock.now_ms())

    # -- what works and lanes ask -------------------------------------------------------------

    @property
    def waiting(self) -> WaitingRoutes:
        return self._waiting

    @property
    def last_offset(self) -> int:
        """Offset of the newest own fact known to be durable, or of the claim."""
        return max(self.epoch, self._facts.last_offset)

    def may_start(self) -> bool:
        """No attempt starts when another may own the shard, or while its fact could not be written."""
        certain = self._claimed is not None and self._watch.certain(self._claimed)
        return certain and not self.closed and self._facts.room()

    def expired(self, work: Work) -> bool:
        """Whether retention is taking the work's record."""
        return work.offset < self._expired.get(work.topic, 0)

    def started(self, work: Work, fact: DeliveryFact) -> None:
        """Record an attempt that takes its time."""
        if not self.closed:
            self._put(work, fact)

    def tell(self, fact: BreakerChanged) -> None:
        """Record how a target's breaker stands."""
        if not self.closed:
            self._facts.put(msgspec.structs.replace(fact, epoch=self.epoch), BREAKER_KEY)

    def settle(self, work: Work, *facts: DeliveryFact) -> None:
        """Record what became of the work's step."""
        for fact in facts:
            self._put(work, fact)

    def _put(self, work: Work, fact: DeliveryFact) -> None:
        fact = self._addressed(work, fact)
        self._waiting.queued(work)
        if work.notice is None and isinstance(fact, DECIDING):
            self._undecided.decide(work.topic, work.offset, work.target)
            self._moved.set()
        done = self._facts.put(fact, work.event_id.encode())
        done.add_done_callback(lambda future: self._recorded(work, fact, future))

    def _addressed(self, work: Work, fact: DeliveryFact) -> DeliveryFact:
        """With this owner's epoch, and with the webhook endpoints that are to be told of it now."""
        if fact.epoch != self.epoch:
            fact = msgspec.structs.replace(fact, epoch=self.epoch)
        outcome = None if work.notice is not None else outcome_type(fact)
        if outcome is None or not self._registry.state.endpoints.get(work.scope):
            return fact
        name = parse_event_topic(work.topic)
        stream = name.stream if name else ""
        return msgspec.structs.replace(
            fact, notify=self._registry.state.subscribers(work.scope, outcome, stream)
        )

    def _recorded(self, work: Work, fact: DeliveryFact, done: asyncio.Future[int]) -> None:
        if not done.cancelled() and not self.closed:
            self._waiting.recorded(work, fact, done.result())

    # -- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the shard until it is lost.

        Raises:
            ExceptionGroup: of whatever ended it: `ClaimLost`, `LogUnavailable`, ...
        """
        try:
            claim = await self._claim()
            services = self._services
            trimmer = Trimmer(self, self._log, services.read_model, services.clock, self._gap)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._facts.run())
                group.create_task(claim.run())
                group.create_task(self._read_events())
                group.create_task(self._waiting.run())
                group.create_task(self._checkpoints())
                group.create_task(trimmer.run())
                if self.shard == 0:
                    group.create_task(BulkReplays(self, services).run())
        finally:
            self.closed, self.owned = True, False
            if self._claimed is not None:
                self._watch.release(self._claimed)
            self._waiting.stop()
            self._facts.abandon()
            self._services.engine.lost(self)

    def refill(self, lane: Lane) -> None:
        """The lane has room, and routes of it wait in the store."""
        if not self.closed:
            self._waiting.refill(lane)

    async def flush(self) -> None:
        """Before a planned end: let the facts out, then a last checkpoint."""
        if self.owned:
            await self._facts.drained()
            await self._checkpoint()

    async def _claim(self) -> Claim:
        fact = ShardClaimed(owner=self._member.id, at_ms=self._services.clock.now_ms())
        term = self._watch.term(self.shard)
        self.epoch = await self._facts_claim(fact)
        told = self._waiting.replay_requested
        claim = self._claimed = self._watch.watch(self.shard, self.epoch, term, told)
        quarantined = self._services.metrics.quarantined.labels(GROUP).inc
        self._fold, start = await fold_up_to(self._log, self.shard, self.epoch, quarantined)
        has_lost = await self._lost.look(self._fold, self.epoch)
        self._undecided.take_over(self._fold)
        if has_lost:  # before all else that this owner writes
            self._facts.put(self._checkpoint_fact(*(self._undecided.checkpoint() or ({}, ()))), SHARD_KEY)
        self.owned = True
        log_line.info("shard claimed", shard=self.shard, epoch=self.epoch, folded_from=start)
        return claim

    async def _facts_claim(self, claim: ShardClaimed) -> int:
        done = self._facts.put(claim, SHARD_KEY)
        writing = asyncio.create_task(self._facts.run())
        try:
            either: set[asyncio.Future[Any]] = {done, writing}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                writing.result()  # raises: nobody writes any more
            return done.result()
        finally:
            writing.cancel()

    # -- first attempts -----------------------------------------------------------------------

    async def _read_events(self) -> None:
        reader, open_max = self._log.reader(), OPEN_EVENTS_MAX // self._log.shards

        def follow(topic: str) -> None:
            position = self._fold.next_offsets.get(topic, 0)
            self._undecided.start(topic, position)
            reader.assign({TopicPartition(topic, self.shard): position})

        try:
            with StreamTopics(self._registry, follow):
                while True:
                    if self._undecided.open_count() >= open_max or not self.may_start():
                        await asyncio.sleep(_PAUSE_S)
                        continue
                    for batch in await patiently(lambda: reader.poll(RECORDS_MAX, _POLL_S)):
                        await self._take(batch)
        finally:
            await reader.close()

    async def _take(self, batch: Batch) -> None:
        topic = batch.source.topic
        name = parse_event_topic(topic)
        if batch.gap_from is not None and topic in self._fold.next_offsets:
            alarm(batch, GROUP, self._services.metrics)
            self._gap.set()
        quarantined = self._services.metrics.quarantined.labels(GROUP).inc
        events = await self._firsts.among(batch, name or TopicName("", "", ""), quarantined)
        self._fold.decided |= await self._lost.decided_in(topic, events)
        for record, event in events:
            await self._control_at(event.control_offset)
            self._dispatch(topic, record.offset, event)
        self._undecided.skipped(topic, batch.next_offset)
        self._moved.set()

    async def _control_at(self, position: int) -> None:
        """An event is acted on with the control fold that its gateway had, or a later one."""
        if position > self._registry.position:
            await patiently(lambda: self._registry.stands_at(position))

    def _dispatch(self, topic: str, offset: int, event: EventRecord) -> None:
        done = [target for target in event.routes if (topic, offset, target) in self._fold.decided]
        todo = [target for target in event.routes if target not in done]
        self._undecided.read(topic, offset, todo, done)
        scope: Scope = (event.workspace_id, event.environment)
        engine = self._services.engine
        for target in todo:
            key = event.ordering_key if target in event.ordered_routes else None
            work = Work(self, scope, event.id, topic, offset, target, record=event, ordering_key=key)
            if engine.adopt(work):
                self._waiting.lines.adopted(work)
                continue
            if self._waiting.lines.joins(work):
                self.park(work, IN_LINE)
                continue
            if engine.offer(work):
                continue
            lane = engine.lane(scope, target)
            lane.spill(self)
            self.park(work, lane.why_full)

    def park(self, work: Work, reason: str) -> None:
        """Have the route wait in the log, and no longer here."""
        parked = DeliveryParked(
            epoch=self.epoch,
            event_id=work.event_id,
            topic=work.topic,
            offset=work.offset,
            target=work.target,
            reason=reason,
            at_ms=self._services.clock.now_ms(),
        )
        if reason not in (IN_LINE, SLOW):
            work.record = None  # it comes back from the store
        self.settle(work, parked)

    def shed(self, work: Work) -> None:
        self._waiting.lines.shed(work.lane)

    def position(self) -> int:
        """Events read, and decided upon or waiting."""
        return sum(self._undecided.positions().values())

    async def lag_records(self) -> int:
        """Events of the shard that are not read yet."""
        positions = {TopicPartition(t, self.shard): at for t, at in self._undecided.positions().items()}
        ends = await self._log.end_offsets(positions)
        return sum(max(0, end - positions[source]) for source, end in ends.items())

    # -- checkpoints --------------------------------------------------------------------------

    async def _checkpoints(self) -> None:
        while True:
            await self._moved.wait()
            await asyncio.sleep(CHECKPOINT_EVERY_S)
            self._moved.clear()
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        known = self._undecided.checkpoint()
        if known is None:
            self._park_slow()
        elif known != self._checkpointed:
            self._to_commit = await self._write_checkpoint(*known)
            self._checkpointed = known
        if self._to_commit is not None:
            await self._commit(self._to_commit)

    async def _write_checkpoint(self, next_offsets: dict[str, int], decided: tuple[DecidedRoute, ...]) -> int:
        offset = await self._facts.put(self._checkpoint_fact(next_offsets, decided), SHARD_KEY)
        if self._claimed is not None:
            await self._claimed.passed(offset)  # a fold must not begin with one that is void
        return offset

    def _checkpoint_fact(
        self, next_offsets: dict[str, int], decided: tuple[DecidedRoute, ...]
    ) -> ShardCheckpoint:
        return ShardCheckpoint(
            epoch=self.epoch,
            next_offsets=next_offsets,
            decided=decided,
            lost=self._lost.read_before,
            at_ms=self._services.clock.now_ms(),
        )

    async def _commit(self, offset: int) -> None:
        try:
            await self._member.commit({self.shard: offset})
            self._to_commit = None
        except LogUnavailable:
            self._moved.set()  # tried again, also when nothing comes
        except StaleWriter as error:
            raise ClaimLost(f"shard {self.shard} was taken away") from error

    def _park_slow(self) -> None:
        """Routes that wait, or are under way, for long hold the checkpoint back and let it grow: parked where
        they are, they are the store's to remember.
        """
        for work in self._services.engine.first_attempts(self):
            if work.offset < self._read_before.get(work.topic, 0):
                work.first = False
                self.park(work, SLOW)
        self._read_before = self._undecided.positions()

    async def write(self, fact: RecordsTrimmed | ReplayProgressed) -> int:
        """Append a fact that is about no event; returns its offset."""
        return await self._facts.put(fact, SHARD_KEY if isinstance(fact, RecordsTrimmed) else PROGRESS_KEY)

    async def expire(
        self, source: TopicPartition, before_offset: int, routes: Iterable[WaitingRoute]
    ) -> None:
        """See `Trimmer`."""
        self._expired[source.topic] = max(before_offset, self._expired.get(source.topic, 0))
        for work in map(self._waiting.work, routes):
            if not self._waiting.knows(work):
                self._services.engine.expire(work)
        await self._facts.drained()

    def renew(self) -> None:
        """See `Trimmer`."""
        raise ClaimLost(f"the claim of shard {self.shard} is old: claimed anew")

    def streams(self) -> Iterable[Stream]:
        """All streams there are, archived ones included."""
        return [s for by_name in self._registry.state.streams.values() for s in by_name.values()]
