"""The newest time already written down: the floor of a process's clock at start (design section 6)."""

from __future__ import annotations

from atlas.core.errors import OffsetOutOfRange
from atlas.core.facts import CONTROL_TOPIC, LIFECYCLE_TOPIC
from atlas.ports.log import Log, TopicPartition


async def newest_timestamp_ms(log: Log) -> int:
    """Time of the newest record of the control and lifecycle topics; 0 when they are empty.

    Raises:
        LogUnavailable: they cannot be read now.
    """
    sources = [TopicPartition(CONTROL_TOPIC, 0)]
    sources += [TopicPartition(LIFECYCLE_TOPIC, shard) for shard in range(log.shards)]
    newest_ms = 0
    for source, end in (await log.end_offsets(sources)).items():
        if end > 0:
            try:
                newest_ms = max(newest_ms, (await log.fetch(source, end - 1)).timestamp_ms)
            except OffsetOutOfRange:  # trimmed, or no record but a marker
                continue
    return newest_ms
