"""A shard whose log has lost records that were read of it: a broker's disk, or a log put back from a copy.

Its offsets are given anew, to other events. So what the facts say of a topic by its offsets holds no longer:
the topic is read from its start, and of each event up to where it had been read the read model tells, by its
id, which routes have had their fact. Facts may be lost as well: then it is waited for one that is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from atlas.core.facts import LIFECYCLE_TOPIC, EventRecord
from atlas.core.lifecycle import PROCESSING, QUEUED, RouteState
from atlas.core.shard import ShardFold
from atlas.ports.log import Log, Record, TopicPartition
from atlas.ports.read_model import ReadModel
from atlas.runtime.patience import patiently
from atlas.runtime.store_position import store_has

#: The end of a topic is believed when it has been looked at so often, so far apart.
LOOKS: Final = 3
LOOK_AGAIN_S: Final = 0.2
#: A read model that is made anew is waited for so long; without it an event may be delivered twice, or not.
MADE_ANEW_MAX_S: Final = 600.0

log_line = structlog.get_logger()

Decided = set[tuple[str, int, str]]


class LostRecords:
    """Of one owner's shard."""

    def __init__(self, log: Log, read_model: ReadModel, shard: int) -> None:
        self._log, self._read_model, self._shard = log, read_model, shard
        #: Of topics that have lost records, up to where they had been read before.
        self.read_before: dict[str, int] = {}
        self._facts = TopicPartition(LIFECYCLE_TOPIC, shard)
        self._epoch: int | None = None
        self._facts_ahead: int | None = None

    async def look(self, fold: ShardFold, epoch: int) -> bool:
        """Whether topics end below what the fold knows of them: it begins anew with these.

        Args:
            epoch: of the claim that the fold reaches up to.
        """
        self.read_before = dict(fold.read_before)  # an owner before was not done with these
        known = {TopicPartition(topic, self._shard): offset for topic, offset in fold.known().items()}
        lost = await self._ends_below(known)
        if not lost and not self.read_before:
            return False
        self._epoch, folded = epoch, await self._facts_folded()
        facts_end = (await self._ends([self._facts])).get(self._facts, folded)
        self._facts_ahead = folded if folded > facts_end else None
        starts = await patiently(lambda: self._log.start_offsets(lost))
        for source, end in lost.items():
            log_line.error("records are lost", **source._asdict(), end=end, read=known[source])
            self.read_before[source.topic] = max(known[source], self.read_before.get(source.topic, 0))
            fold.forget(source.topic, starts.get(source, 0))
        return bool(lost)

    async def _ends_below(self, known: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Those of these partitions that end below what is known of them, and where."""
        lost: dict[TopicPartition, int] = {}
        for looks in range(LOOKS):
            if looks:
                await asyncio.sleep(LOOK_AGAIN_S)
            ends = await self._ends(list(lost or known))
            lost = {source: end for source, end in ends.items() if end < known[source]}
            if not lost:
                break
        return lost

    async def _ends(self, sources: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return await patiently(lambda: self._log.end_offsets(sources))

    async def decided_in(self, topic: str, events: Sequence[tuple[Record, EventRecord]]) -> Decided:
        """Routes of these events that have had their fact."""
        before = self.read_before.get(topic)
        if before is None or not events:
            return set()
        if events[0][0].offset >= before:
            del self.read_before[topic]  # from here on nothing had been read
            return set()
        await self._is_of_this_log()
        keys = [(event.workspace_id, event.environment, event.id) for _, event in events]
        known = await patiently(lambda: self._read_model.load(keys))
        decided: Decided = set()
        for (record, _), key in zip(events, keys, strict=True):
            state = known.get(key)
            for route in state.routes if state is not None else ():
                if _has_its_fact(route):
                    decided.add((topic, record.offset, route.target))
        return decided

    async def _is_of_this_log(self) -> None:
        """Wait until the read model is not the one that held facts which the log has lost."""
        if self._epoch is None:
            return
        ends_s = asyncio.get_running_loop().time() + MADE_ANEW_MAX_S
        while self._facts_ahead is not None and asyncio.get_running_loop().time() < ends_s:
            if await self._facts_folded() < self._facts_ahead:
                self._facts_ahead = None
            else:
                await asyncio.sleep(LOOK_AGAIN_S)
        await store_has(self._read_model, self._shard, self._epoch)
        self._epoch = None

    async def _facts_folded(self) -> int:
        return (await patiently(self._read_model.progress)).positions.get(self._facts, 0)


def _has_its_fact(route: RouteState) -> bool:
    return route.parked or route.replay > 0 or route.status not in {QUEUED, PROCESSING}
