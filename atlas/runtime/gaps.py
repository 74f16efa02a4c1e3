"""Records that went before their consumer had read them: Kafka's own retention, or an operator."""

from __future__ import annotations

import structlog

from atlas.ports.log import Batch
from atlas.runtime.telemetry import Metrics

log_line = structlog.get_logger()


def alarm(batch: Batch, group: str, metrics: Metrics) -> None:
    """Count and say what is missing before this batch, of a consumer that knew where it stood."""
    if batch.gap_from is None:
        return
    lost = (batch.records[0].offset if batch.records else batch.next_offset) - batch.gap_from
    metrics.lost_records.labels(group).inc(lost)
    topic, partition = batch.source
    log_line.error(
        "records trimmed unread",
        group=group,
        topic=topic,
        partition=partition,
        first=batch.gap_from,
        count=lost,
    )
