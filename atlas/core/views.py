"""Events as the status API shows them: the reference's shapes, its field order included. Pure.

The objects are for orjson: JSON that is kept as text goes out as it is, in a `Fragment`.
"""

from __future__ import annotations

from typing import Any

import orjson

from atlas.core.entities import Stream
from atlas.core.facts import EventRecord
from atlas.core.lifecycle import RouteState
from atlas.core.projection import AttemptState, EventState
from atlas.core.timestamps import format_ms


def visible_from_ms(stream: Stream, now_ms: int) -> int:
    """`received_at_ms` from which on the stream's events are visible: received_at + retention > now."""
    return now_ms - stream.retention_ms + 1


def event_view(event: EventState) -> dict[str, Any]:
    """An event and where each of its routes stands (reference, "Retrieve event status")."""
    return {**_summary(event), "attempts": [_route(route) for route in event.routes]}


def event_item(event: EventState) -> dict[str, Any]:
    """An event in a list (API notes, "Events")."""
    return {
        **_summary(event),
        "actor": _embedded(event.actor_json),
        "metadata": _embedded(event.metadata_json),
    }


def payload_view(record: EventRecord) -> dict[str, Any]:
    """What was sent; `data` byte for byte as the log holds it."""
    return {
        "id": record.id,
        "object": "event_payload",
        "data": orjson.Fragment(bytes(record.data)),
        "actor": record.actor,
        "metadata": record.metadata,
    }


def attempt_view(attempt: AttemptState) -> dict[str, Any]:
    """One attempt that was made, with its outcome and the evidence kept of it."""
    return {
        "workflow_id": attempt.target,
        "attempt": attempt.attempt,
        "status": attempt.status,
        "started_at": format_ms(attempt.started_at_ms),
        "completed_at": format_ms(attempt.completed_at_ms),
        "duration_ms": attempt.duration_ms,
        "http_status": attempt.http_status,
        "error": _error(attempt.error_code, attempt.error_message),
        "response_body": attempt.response_body,
        "address": attempt.address,
        "timings": {
            "connect_ms": attempt.connect_ms,
            "tls_ms": attempt.tls_ms,
            "first_byte_ms": attempt.first_byte_ms,
        },
        "next_attempt_at": _time(attempt.next_attempt_at_ms),
    }


def _summary(event: EventState) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "event",
        "stream": event.stream,
        "type": event.type,
        "status": event.status,
        "received_at": format_ms(event.received_at_ms),
        "occurred_at": event.occurred_at,
    }


def _route(route: RouteState) -> dict[str, Any]:
    """The last three fields are left out where there is nothing to say, as in the reference."""
    view: dict[str, Any] = {"workflow_id": route.target, "status": route.status, "attempt": route.attempt}
    optional = {
        "completed_at": _time(route.completed_at_ms),
        "next_attempt_at": _time(route.next_attempt_at_ms),
        "last_error": _error(route.error_code, route.error_message),
    }
    view.update((name, value) for name, value in optional.items() if value is not None)
    return view


def _time(ms: int | None) -> str | None:
    return None if ms is None else format_ms(ms)


def _error(code: str | None, message: str | None) -> dict[str, str] | None:
    return None if code is None else {"code": code, "message": message or ""}


def _embedded(json: str | None) -> orjson.Fragment | None:
    return None if json is None else orjson.Fragment(json)
