"""Topics of streams: made before a stream's 201, and reconciled from the fold after a crash in between.

The log drops records on its own only `BACKSTOP_DAYS` after a stream's retention: until then it is the
shard's owner that trims, and writes down what it trimmed (design section 5).
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from atlas.core.entities import Stream
from atlas.core.errors import TopicRefused
from atlas.ports.log import Log, TopicPartition
from atlas.runtime.registry import Registry

BACKSTOP_DAYS: Final = 3
#: How often the fold is compared with the topics there are.
RECONCILE_EVERY_S: Final = 5.0
_DAY_MS: Final = 86_400_000

log_line = structlog.get_logger()


async def provide_topic(log: Log, stream: Stream) -> None:
    """Create the stream's topic, or, if it is there, bring its retention up to date.

    Raises:
        LogUnavailable: nobody can tell whether that happened; do it again.
        TopicRefused: somebody else made it, otherwise than Atlas needs it.
    """
    retention_ms = stream.retention_ms + BACKSTOP_DAYS * _DAY_MS
    await log.create_topic(stream.topic, log.shards, retention_ms)


async def check_topic(log: Log, topic: str) -> None:
    """Before a stream is decided on: whether its topic is not there yet, or is as Atlas would make it.

    Raises:
        LogUnavailable: nobody can tell now.
        TopicRefused: somebody else made it, otherwise than Atlas needs it.
    """
    one_more = [TopicPartition(topic, partition) for partition in range(log.shards + 1)]
    there = await log.end_offsets(one_more)
    if there and there.keys() != set(one_more[:-1]):
        raise TopicRefused(
            f"A topic {topic} that Atlas did not make is there, with other than {log.shards} partitions."
        )


class TopicReconciler:
    """Makes the topics that streams lack, and at its start brings the retention of all up to date: whoever
    changed it may have crashed in between. `run` must be kept running by a supervisor.
    """

    def __init__(self, log: Log, registry: Registry) -> None:
        self._log, self._registry = log, registry

    async def run(self) -> None:
        """Reconcile for ever.

        Raises:
            LogUnavailable: a topic could not be made; start again later.
        """
        for stream in self._streams():
            await self._provide(stream)
        while True:
            await asyncio.sleep(RECONCILE_EVERY_S)
            await self.reconcile()

    async def reconcile(self) -> None:
        """Make every topic that is missing now."""
        first = {TopicPartition(stream.topic, 0): stream for stream in self._streams()}
        there = await self._log.end_offsets(first)
        for source in first.keys() - there.keys():
            stream = first[source]
            if await self._provide(stream):
                log_line.warning("topic made after a crash", topic=stream.topic)

    async def _provide(self, stream: Stream) -> bool:
        """False: what is wrong with this topic stays so; it is no reason to leave the others alone."""
        try:
            await provide_topic(self._log, stream)
        except TopicRefused as error:
            log_line.error("topic cannot be provided", topic=stream.topic, error=str(error))
            return False
        return True

    def _streams(self) -> list[Stream]:
        return [s for by_name in self._registry.state.streams.values() for s in by_name.values()]
