"""What a new owner folds of its shard's facts: from the last checkpoint up to its own claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.core.reading import Poison, fact_in
from atlas.core.shard import ShardFold
from atlas.ports.log import Log, TopicPartition
from atlas.runtime.patience import patiently

GROUP: Final = "atlas-deliverer"
_RECORDS_MAX: Final = 500
_POLL_S: Final = 60.0


async def fold_up_to(
    log: Log, shard: int, epoch: int, quarantined: Callable[[], None]
) -> tuple[ShardFold, int]:
    """The fold, and where it began.

    Args:
        epoch: offset of the claim.
        quarantined: called for each record that is no fact.
    """
    fold, source = ShardFold(), TopicPartition(LIFECYCLE_TOPIC, shard)
    start = await patiently(lambda: log.committed(GROUP, source)) or 0
    if start > epoch:
        start = 0  # facts have been lost, up to somewhere below the claim
    reader = log.reader()
    reader.assign({source: start})
    try:
        while reader.position(source) <= epoch:
            for batch in await patiently(lambda: reader.poll(_RECORDS_MAX, _POLL_S)):
                for record in batch.records:
                    if record.offset > epoch:
                        break
                    try:
                        fold.apply(record.offset, fact_in(record.value, record.headers))
                    except Poison:
                        quarantined()
    finally:
        await reader.close()
    return fold, start
