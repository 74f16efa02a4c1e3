"""How far the read model has folded a shard: what an owner needs to know before it relies on the store."""

from __future__ import annotations

from typing import Final

import structlog

from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import ReadModel
from atlas.runtime.patience import patiently

#: How often it is said that the read model is behind.
SAID_EVERY_S: Final = 15.0

log_line = structlog.get_logger()


async def store_has(read_model: ReadModel, shard: int, offset: int) -> None:
    """Wait until the read model has folded the shard's lifecycle up to this record."""
    past = {TopicPartition(LIFECYCLE_TOPIC, shard): offset + 1}
    while not await patiently(lambda: read_model.wait_past(past, SAID_EVERY_S)):
        log_line.warning("the read model is behind", shard=shard, offset=offset)
