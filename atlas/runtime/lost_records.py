"""A shard whose log has lost records that were read of it: a broker's disk, or a log put back from a copy.

Its offsets are given anew, to other events. So what the facts say of a topic by its offsets holds no longer:
the topic is read from its start, and of each event up to where it had been read the read model tells, by its
id, which routes have had their fact.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from atlas.core.facts import EventRecord
from atlas.core.lifecycle import PROCESSING, QUEUED, RouteState
from atlas.core.shard import ShardFold
from atlas.ports.log import Log, Record, TopicPartition
from atlas.ports.read_model import ReadModel
from atlas.runtime.patience import patiently

log_line = structlog.get_logger()

Decided = set[tuple[str, int, str]]


class LostRecords:
    """Of one owner's shard."""

    def __init__(self, log: Log, read_model: ReadModel, shard: int) -> None:
        self._log, self._read_model, self._shard = log, read_model, shard
        self._read_before: dict[str, int] = {}

    async def found_in(self, fold: ShardFold) -> tuple[str, ...]:
        """Topics that end below what the fold knows of them; the fold begins anew with these."""
        known = {TopicPartition(topic, self._shard): offset for topic, offset in fold.known().items()}
        ends = await patiently(lambda: self._log.end_offsets(known))
        lost = [source for source, offset in known.items() if offset > ends.get(source, offset)]
        starts = await patiently(lambda: self._log.start_offsets(lost))
        for source in lost:
            log_line.error(
                "records are lost that had been read",
                **source._asdict(),
                end=ends[source],
                read=known[source],
            )
            self._read_before[source.topic] = known[source]
            fold.forget(source.topic, starts.get(source, 0))
        return tuple(source.topic for source in lost)

    async def decided_in(self, topic: str, events: Sequence[tuple[Record, EventRecord]]) -> Decided:
        """Routes of these events that have had their fact."""
        before = self._read_before.get(topic)
        if before is None or not events:
            return set()
        if events[0][0].offset >= before:
            del self._read_before[topic]  # from here on nothing had been read
            return set()
        keys = [(event.workspace_id, event.environment, event.id) for _, event in events]
        known = await patiently(lambda: self._read_model.load(keys))
        decided: Decided = set()
        for (record, _), key in zip(events, keys, strict=True):
            state = known.get(key)
            for route in state.routes if state is not None else ():
                if _has_its_fact(route):
                    decided.add((topic, record.offset, route.target))
        return decided


def _has_its_fact(route: RouteState) -> bool:
    return route.parked or route.replay > 0 or route.status not in {QUEUED, PROCESSING}
