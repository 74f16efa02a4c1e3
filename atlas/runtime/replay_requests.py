"""Records that ask for routes again, each for the lifecycle partition of its event's shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from atlas.core.facts import LIFECYCLE_SCHEMA, REPLAY_KEY, SCHEMA_HEADER, ReplayRequested, encode
from atlas.core.projection import EventState, keeps_order
from atlas.ports.log import Log, NewRecord, TopicPartition

_HEADERS: Final = ((SCHEMA_HEADER, LIFECYCLE_SCHEMA),)


def source_of(event: EventState) -> TopicPartition:
    """Where the event lies."""
    return TopicPartition(event.topic, event.partition)


async def ends_of_lines(log: Log, events: Iterable[EventState]) -> Mapping[TopicPartition, int]:
    """Where the partitions end now in which order is kept: a request has to say so.

    Raises:
        LogUnavailable: nobody can tell now.
    """
    lined = {source_of(event) for event in events if keeps_order(event)}
    return await log.end_offsets(lined) if lined else {}


def replay_record(fact: ReplayRequested) -> NewRecord:
    """The request as it is appended."""
    return NewRecord(encode(fact), REPLAY_KEY, _HEADERS)
