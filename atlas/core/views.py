"""Events as the status API shows them: the reference's shapes, its field order included. Pure.

The objects are for orjson: JSON that is kept as text goes out as it is, in a `Fragment`.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from atlas.core import answers
from atlas.core.breaker import FRESH, Breaker
from atlas.core.entities import Stream
from atlas.core.facts import EventRecord
from atlas.core.lifecycle import TERMINAL, RouteState
from atlas.core.notices import Outcome
from atlas.core.projection import AttemptState, EventState
from atlas.core.timestamps import format_ms


def visible_from_ms(stream: Stream, now_ms: int) -> int:
    """`received_at_ms` from which on the stream's events are visible: received_at + retention > now."""
    return now_ms - stream.retention_ms + 1


def event_view(event: EventState, breakers: Mapping[str, Breaker]) -> answers.Event:
    """An event and where each of its routes stands (reference, "Retrieve event status").

    Args:
        breakers: those of its targets that are not closed, by target.
    """
    routes = [_route(route, breakers.get(route.target, FRESH)) for route in event.routes]
    return {**_summary(event), "attempts": routes}


def event_item(event: EventState) -> answers.EventItem:
    """An event in a list (API notes, "Events")."""
    return {
        **_summary(event),
        "actor": _embedded(event.actor_json),
        "metadata": _embedded(event.metadata_json),
    }


def payload_view(record: EventRecord) -> answers.EventPayload:
    """What was sent; `data` byte for byte as the log holds it."""
    return {
        "id": record.id,
        "object": "event_payload",
        "data": orjson.Fragment(bytes(record.data)),
        "actor": record.actor,
        "metadata": record.metadata,
    }


def attempt_view(attempt: AttemptState) -> answers.Attempt:
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


def delivery_view(delivery_id: str, attempt: AttemptState, outcome: Outcome) -> answers.Delivery:
    """One attempt to tell a webhook endpoint of an outcome."""
    return {
        **attempt_view(attempt),
        "workflow_id": outcome.workflow_id,
        "delivery_id": delivery_id,
        "event_id": attempt.event_id,
        "type": outcome.type,
    }


def _summary(event: EventState) -> answers.EventSummary:
    return {
        "id": event.id,
        "object": "event",
        "stream": event.stream,
        "type": event.type,
        "status": event.status,
        "received_at": format_ms(event.received_at_ms),
        "occurred_at": event.occurred_at,
    }


def breaker_view(breaker: Breaker) -> answers.Breaker:
    """A target's circuit breaker."""
    return {
        "state": breaker.state,
        "reason": breaker.reason,
        "opened_at": _time(breaker.opened_at_ms),
        "next_probe_at": _time(breaker.next_probe_at_ms),
    }


def waits_for_a_breaker(route: RouteState) -> bool:
    """Whether it is an open breaker, if there is one, that decides when the route's next attempt is made."""
    return route.status not in TERMINAL and route.due_at_ms is not None


def _route(route: RouteState, breaker: Breaker) -> answers.Route:
    """The last three fields are left out where there is nothing to say, as in the reference."""
    view: answers.Route = {"workflow_id": route.target, "status": route.status, "attempt": route.attempt}
    if route.completed_at_ms is not None:
        view["completed_at"] = format_ms(route.completed_at_ms)
    next_ms = route.next_attempt_at_ms
    if breaker.next_probe_at_ms is not None and waits_for_a_breaker(route):
        next_ms = max(next_ms or 0, breaker.next_probe_at_ms)
    if next_ms is not None:
        view["next_attempt_at"] = format_ms(next_ms)
    error = _error(route.error_code, route.error_message)
    if error is not None:
        view["last_error"] = error
    return view


def _time(ms: int | None) -> str | None:
    return None if ms is None else format_ms(ms)


def _error(code: str | None, message: str | None) -> answers.Failure | None:
    return None if code is None else {"code": code, "message": message or ""}


def _embedded(json: str | None) -> orjson.Fragment | None:
    return None if json is None else orjson.Fragment(json)
