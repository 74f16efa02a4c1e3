"""The exact bytes that are POSTed: to a workflow an event, to a webhook endpoint an outcome."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from atlas.core.facts import EventRecord
from atlas.core.notices import DELIVERY_FAILED, Outcome
from atlas.core.timestamps import format_ms

_encode = msgspec.json.Encoder().encode


class _Body(msgspec.Struct, frozen=True):
    id: str
    object: str
    stream: str
    type: str
    occurred_at: str
    received_at: str
    data: msgspec.Raw
    actor: dict[str, str] | None
    metadata: dict[str, str] | None


def delivery_body(record: EventRecord) -> bytes:
    """The exact bytes POSTed to a workflow (API notes, "What Atlas sends")."""
    return _encode(
        _Body(
            record.id,
            "event",
            record.stream,
            record.type,
            record.occurred_at,
            record.received_at,
            record.data,
            record.actor,
            record.metadata,
        )
    )


def notice_body(delivery: str, event_id: str, outcome: Outcome) -> bytes:
    """The exact bytes POSTed to a webhook endpoint (reference, "Webhook payload")."""
    data: dict[str, Any] = {
        "event_id": event_id,
        "stream": outcome.stream,
        "workflow_id": outcome.workflow_id,
        "attempt": outcome.attempt,
        "latency_ms": outcome.latency_ms,
    }
    if outcome.message is not None:
        data["error"] = {"code": DELIVERY_FAILED, "message": outcome.message}
    return orjson.dumps(
        {
            "id": delivery,
            "type": outcome.type,
            "created_at": format_ms(outcome.created_at_ms),
            "data": data,
        }
    )
