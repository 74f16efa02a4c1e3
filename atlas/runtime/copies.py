"""Telling the first record of an event from the copies that others wrote: replicators, consoles, restores.

Every fold keeps the first record of an event id and voids later ones (design section 7). An owner knows
the first one by having read it; of an event older than what it has read, the read model knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import structlog

from atlas.core.errors import StoreUnavailable
from atlas.core.facts import EventRecord, TopicName
from atlas.core.ids import id_time_ms
from atlas.core.reading import Poison, event_in
from atlas.ports.log import Batch, Record
from atlas.ports.read_model import EventKey, ReadModel

#: Ids of the newest events that are remembered.
RECENT_IDS_MAX: Final = 5_000
#: An append that comes so long after its acceptance is seldom the first: a gateway gives up sooner.
LATE_MS: Final = 60_000

log_line = structlog.get_logger()


class FirstRecords:
    """Of one shard.

    Args:
        since_ms: events accepted before may have been read by an owner before this one.
    """

    def __init__(self, read_model: ReadModel, shard: int, since_ms: int) -> None:
        self._read_model, self._shard, self._since_ms = read_model, shard, since_ms
        self._recent: dict[str, tuple[str, int]] = {}

    async def among(
        self, batch: Batch, topic: TopicName, quarantined: Callable[[], None]
    ) -> list[tuple[Record, EventRecord]]:
        """The events of a batch, each the first of its id; `quarantined` is called for each other record."""
        events = []
        for record in batch.records:
            try:
                event = event_in(record.value, record.headers, topic)
            except Poison:
                quarantined()
                continue
            if event is not None:
                events.append((record, event))
        await self.learn(events)
        firsts = []
        for record, event in events:
            if self.is_first(event.id, batch.source.topic, record.offset):
                firsts.append((record, event))
            else:
                quarantined()
        return firsts

    async def learn(self, events: Iterable[tuple[Record, EventRecord]]) -> None:
        """Ask the read model about those among `events` that need it, before `is_first` is asked of them.

        What it has not folded yet, or cannot be asked about, counts as first: an attempt too many is
        better than first attempts that wait for a store.
        """
        doubtful: list[EventKey] = [
            (event.workspace_id, event.environment, event.id)
            for record, event in events
            if event.id not in self._recent and self._is_doubtful(record, event)
        ]
        if not doubtful:
            return
        try:
            known = await self._read_model.load(doubtful)
        except StoreUnavailable as error:
            log_line.warning("copies cannot be told from first records", shard=self._shard, error=str(error))
            return
        for state in known.values():
            elsewhere = state.partition != self._shard
            self._remember(state.id, (state.topic, -1 if elsewhere else state.offset))

    def is_first(self, event_id: str, topic: str, offset: int) -> bool:
        """Whether no other record with this id came before; it counts from now on."""
        first = self._remember(event_id, (topic, offset))
        while len(self._recent) > RECENT_IDS_MAX:
            del self._recent[next(iter(self._recent))]
        return first == (topic, offset)

    def _is_doubtful(self, record: Record, event: EventRecord) -> bool:
        accepted_ms = id_time_ms(event.id)
        return accepted_ms < self._since_ms or record.timestamp_ms - accepted_ms > LATE_MS

    def _remember(self, event_id: str, place: tuple[str, int]) -> tuple[str, int]:
        return self._recent.setdefault(event_id, place)
