"""The idempotency index brought up to the log: at every opening, before keyed events are taken.

Which index it is does not matter: the one of a clean stop, that of a crash, a new one, or one put back from a
copy. Each producer that the control log knows and the index does not know to be over may have sent what the
index lacks, and something of it may still be on the wire. So each is fenced in every partition of every event
topic; then all keyed records from the index's positions up to the ends are folded back into it. After a clean
stop there is nothing to fence and nothing to read.

Keys go where they would have been: to the keys of the time when their event was received.

A stream whose topic is not made yet is looked at again and again; until it has been dealt with in the same
way, its keyed events are refused, and no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Final

import structlog

from atlas.adapters.embedded_keys import KEY_LIFETIME_MS
from atlas.adapters.kafka_errors import within
from atlas.adapters.kafka_fence import fence
from atlas.adapters.kafka_index import KeyIndex, Restored, TakenKey
from atlas.adapters.kafka_index_thread import IndexThread
from atlas.adapters.kafka_log import READ_DEADLINE_S, KafkaLog
from atlas.adapters.kafka_offsets import list_offsets
from atlas.adapters.kafka_producer import Owner
from atlas.adapters.kafka_settings import REQUEST_TIMEOUT_S
from atlas.adapters.kafka_standing import ProducerLog, Standing
from atlas.core.acceptance import key_of, response_to
from atlas.core.errors import LogError, LogUnavailable
from atlas.core.facts import parse_event_topic
from atlas.core.ids import id_time_ms
from atlas.core.reading import Poison, event_in
from atlas.ports.clock import Clock
from atlas.ports.log import Batch, Reader, TopicPartition

#: The brokers' clocks and this one may be so far apart.
CLOCKS_APART_MS: Final = 3_600_000
#: Partitions fenced with one request to each broker.
FENCED_AT_ONCE: Final = 200
#: Records folded in one transaction; the event loop is held for some milliseconds.
RECORDS_MAX: Final = 500
#: Between two tries while the log is away.
AGAIN_S: Final = 1.0

log_line = structlog.get_logger()


class Recovery:
    """Brings the index of one opening up to the log."""

    def __init__(
        self, log: KafkaLog, index: IndexThread, control: ProducerLog, standing: Standing, clock: Clock
    ) -> None:
        self._log, self._index, self._clock = log, index, clock
        self._control, self._standing = control, standing
        self._late: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Do it, however long the log is away; `standing.lacking` tells how far it is.

        Ends without having done it when another index is opened meanwhile.
        """
        while not self._standing.superseded:
            try:
                await self._bring_up()
            except LogError as error:
                self._standing.lacking = f"the idempotency index cannot be compared with the log: {error}"
            except Exception as error:
                # Whatever it was, readiness has to say so, and the next try may do.
                log_line.exception("the idempotency index cannot be brought up to the log")
                self._standing.lacking = f"the idempotency index is not up to the log: {type(error).__name__}"
            else:
                self._standing.lacking = None
                return
            await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """Leave alone what is not made yet."""
        if self._late is not None:
            self._late.cancel()
            await asyncio.wait([self._late])

    async def _bring_up(self) -> None:
        while await self._index.run(KeyIndex.expire_step):
            pass  # a key whose time is over must not hide its successor
        own = await self._standing.announced()
        known = self._control.producers()
        before = [
            Owner(old.producer_id, old.epoch)
            for old in takewhile(lambda one: one.index != self._standing.name, known)
        ]
        over = await self._index.run(KeyIndex.owners_over)
        lost = [owner for owner in before if owner not in over and owner != own]
        topics = sorted(self._control.topics())
        fenced = await self._shut_out(lost, topics)
        restored = await self._fold_back(self._sources(topics), fenced, self._say)
        if lost:
            self._standing.unmade |= set(topics) - {source.topic for source in fenced}
        if self._standing.unmade:
            self._late = asyncio.create_task(self._deal_with_late(lost, before), name="topics made late")
        else:
            await self._index.run(partial(KeyIndex.end_owners, owners=before))
        log_line.info("idempotency index up to the log", producers_fenced=len(lost), keys_restored=restored)

    def _say(self, reason: str) -> None:
        self._standing.lacking = reason

    def _sources(self, topics: Iterable[str]) -> list[TopicPartition]:
        return [TopicPartition(topic, shard) for topic in topics for shard in range(self._log.shards)]

    async def _shut_out(self, lost: Sequence[Owner], topics: Sequence[str]) -> set[TopicPartition]:
        """Fence these producers everywhere; returns where that was, of each of them."""
        sources = self._sources(topics)
        fenced = set(sources)
        for number, owner in enumerate(lost, 1):
            for start in range(0, len(sources), FENCED_AT_ONCE):
                self._say(f"producers of another index are shut out: {number} of {len(lost)}")
                part = sources[start : start + FENCED_AT_ONCE]
                fenced -= set(part) - (await fence(self._log.cluster, owner, part)).keys()
        return fenced if lost else set()

    async def _deal_with_late(self, lost: Sequence[Owner], before: Sequence[Owner]) -> None:
        """Topics that were not there: once they are, earlier producers may have sent there.

        Until then these are not written down as over: the next opening has to deal with them too.
        """
        while unmade := self._standing.unmade:
            await asyncio.sleep(AGAIN_S)
            for topic in sorted(unmade):
                sources = self._sources([topic])
                try:
                    fenced = [await fence(self._log.cluster, owner, sources) for owner in lost]
                    if all(fenced):
                        await self._fold_back(sources, fenced[0].keys(), lambda _: None)
                        unmade.discard(topic)
                except LogError as error:
                    log_line.warning("a topic made late is not dealt with", topic=topic, error=str(error))
        with suppress(LogError):  # else they are fenced once more at the next opening
            await self._index.run(partial(KeyIndex.end_owners, owners=before))

    async def _fold_back(
        self,
        sources: Collection[TopicPartition],
        needed: Collection[TopicPartition],
        say: Callable[[str], None],
    ) -> int:
        """Fold in what the index lacks; returns the number of keys.

        Args:
            needed: partitions known to be there.
            say: called with how far it is.
        """
        starts, ends = await self._spans(sources, needed)
        if not starts:
            return 0
        reader = self._log.reader()
        reader.assign(starts)
        try:
            return await self._fold_from(reader, {source: ends[source] for source in starts}, say)
        finally:
            await reader.close()

    async def _spans(
        self, sources: Collection[TopicPartition], needed: Collection[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Where to begin in the partitions that are not whole in the index, and where all partitions end."""
        known = await self._index.run(KeyIndex.positions)
        ends = await self._log.end_offsets(sources)
        if not ends.keys() >= set(needed):
            raise LogUnavailable("a broker does not know of every topic")
        unread = [source for source, end in ends.items() if known.get(source) != end]
        young_ms = self._clock.now_ms() - KEY_LIFETIME_MS - CLOCKS_APART_MS
        async with within(READ_DEADLINE_S, "the offset of a time cannot be read"):
            found = await list_offsets(self._log.cluster, unread, max(0, young_ms))
        starts: dict[TopicPartition, int] = {}
        for source in unread:
            position, young = known.get(source, 0), found.get(source)
            # A position beyond the end belongs to a log that was lost.
            first = (young or 0) if position > ends[source] else max(position, young or 0)
            if young is not None and first < ends[source]:
                starts[source] = first
        whole = {source: ends[source] for source in unread if source not in starts}
        await self._index.run(partial(KeyIndex.advance, positions=whole))
        return starts, ends

    async def _fold_from(
        self, reader: Reader, ends: Mapping[TopicPartition, int], say: Callable[[str], None]
    ) -> int:
        restored = 0
        open_sources = set(ends)
        while open_sources:
            left = sum(ends[source] - reader.position(source) for source in open_sources)
            say(f"idempotency keys are brought back from the log: {left} records to read")
            at = {source: reader.position(source) for source in open_sources}
            batches = await reader.poll(RECORDS_MAX, REQUEST_TIMEOUT_S)
            moved = {source: now for source in at if (now := reader.position(source)) != at[source]}
            if not moved:
                raise LogUnavailable("event topics cannot be read")
            rows = [row for batch in batches for row in keys_in(batch, self._clock.now_ms())]
            restored += await self._index.run(partial(KeyIndex.restore, rows=rows, positions=moved))
            done = {source for source in moved if moved[source] >= ends[source]}
            reader.unassign(done)
            open_sources -= done
        return restored


def keys_in(batch: Batch, now_ms: int) -> Sequence[Restored]:
    """The keys that events in these records took less than a key's lifetime ago.

    Whatever else lies there, foreign, broken or of another version, took none.
    """
    name = parse_event_topic(batch.source.topic)
    found: list[Restored] = []
    for record in batch.records if name is not None else ():
        assert name is not None
        try:
            event = event_in(record.value, record.headers, name)
        except Poison:
            continue
        key = None if event is None else key_of(event)
        if event is None or key is None:
            continue
        received_ms = min(id_time_ms(event.id), now_ms)
        if received_ms > now_ms - KEY_LIFETIME_MS:
            taken = TakenKey(key.dedup_key, key.payload_hash, response_to(event))
            found.append(Restored(taken, received_ms))
    return found
