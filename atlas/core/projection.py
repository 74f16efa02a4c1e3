"""What the read model holds of an event, and the pure step from log records to it.

The state of an event is a function of its record and of its valid facts in partition order. The
projector reads an event's record before it folds a fact of it (facts name the record's position), so
there is no order of arrival to tell apart. Duplicate event ids keep the first record.
"""

from __future__ import annotations

import orjson
from msgspec import Struct
from msgspec.structs import replace

from atlas.core.facts import DeliveryAttempted, DeliveryFact, EventRecord, ReplayRequested
from atlas.core.ids import id_time_ms
from atlas.core.lifecycle import (
    QUEUED,
    RETRY_SCHEDULED,
    IllegalTransition,
    RouteState,
    event_status,
    evolve,
    hastened,
    place_of,
    replayed,
)


class EventState(Struct, frozen=True, kw_only=True, gc=False):
    """One event in the read model. `actor_json` and `metadata_json` are compact JSON objects."""

    id: str
    workspace_id: str
    environment: str
    stream: str
    type: str
    received_at_ms: int
    occurred_at: str
    idempotency_key: str | None
    actor_json: str | None
    metadata_json: str | None
    topic: str
    partition: int
    offset: int
    status: str
    routes: tuple[RouteState, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """Workspace, environment, event id: what the read model knows it by."""
        return (self.workspace_id, self.environment, self.id)


class AttemptState(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt ever made. `offset` is its fact's, in the lifecycle partition `partition`."""

    workspace_id: str
    environment: str
    event_id: str
    partition: int
    offset: int
    target: str
    attempt: int
    replay: int
    status: str
    started_at_ms: int
    completed_at_ms: int
    duration_ms: int
    http_status: int | None
    error_code: str | None
    error_message: str | None
    response_body: str | None
    next_attempt_at_ms: int | None
    address: str | None
    connect_ms: float | None
    tls_ms: float | None
    first_byte_ms: float | None
    notice: str | None = None


def _compact(value: dict[str, str] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def accepted(record: EventRecord, topic: str, partition: int, offset: int) -> EventState:
    """The state of an event that has just been accepted."""
    return EventState(
        id=record.id,
        workspace_id=record.workspace_id,
        environment=record.environment,
        stream=record.stream,
        type=record.type,
        received_at_ms=id_time_ms(record.id),
        occurred_at=record.occurred_at,
        idempotency_key=record.idempotency_key,
        actor_json=_compact(record.actor),
        metadata_json=_compact(record.metadata),
        topic=topic,
        partition=partition,
        offset=offset,
        status=event_status([QUEUED] * len(record.routes)),
        routes=tuple([_first(record, target, offset) for target in record.routes]),
    )


def _first(record: EventRecord, target: str, offset: int) -> RouteState:
    if target not in record.ordered_routes:
        return RouteState(target)
    return RouteState(target, ordering_key=record.ordering_key, place=place_of(offset))


def replay_request(
    event: EventState,
    targets: tuple[str, ...],
    at_ms: int,
    end: int | None = None,
    *,
    at_once: bool = False,
    bulk: str | None = None,
) -> ReplayRequested:
    """What asks for these routes again (see the fact for `at_once` and `bulk`).

    Args:
        end: of the event's partition now; needed where order is kept (`keeps_order`).
    """
    return ReplayRequested(
        event_id=event.id,
        topic=event.topic,
        offset=event.offset,
        targets=targets,
        at_ms=at_ms,
        at_once=at_once,
        bulk=bulk,
        ordering_key=next((r.ordering_key for r in event.routes if r.ordering_key is not None), None),
        behind=end,
    )


def keeps_order(event: EventState) -> bool:
    """Whether a route of the event has a place in a line."""
    return any(route.ordering_key is not None for route in event.routes)


def advance(state: EventState, fact: DeliveryFact) -> EventState:
    """The event after a delivery fact.

    Raises:
        IllegalTransition: the fact is void: it names no route of the event, another record of the
            same id, or does not fit the route's state.
    """
    if (fact.topic, fact.offset) != (state.topic, state.offset):
        raise IllegalTransition("the fact names another record")
    for index, route in enumerate(state.routes):
        if route.target == fact.target:
            routes = (*state.routes[:index], evolve(route, fact), *state.routes[index + 1 :])
            return replace(state, routes=routes, status=event_status([each.status for each in routes]))
    raise IllegalTransition(f"no route to {fact.target}")


def replay(state: EventState, fact: ReplayRequested) -> EventState:
    """The event after a replay was asked for: of the routes named, those that may be are begun anew.

    Raises:
        IllegalTransition: none of them may, or the fact names another record of the same id.
    """
    if (fact.topic, fact.offset) != (state.topic, state.offset):
        raise IllegalTransition("the fact names another record")
    routes = tuple(_asked_again(route, fact) for route in state.routes)
    if routes == state.routes:
        raise IllegalTransition("nothing to replay")
    return replace(state, routes=routes, status=event_status(route.status for route in routes))


def _asked_again(route: RouteState, fact: ReplayRequested) -> RouteState:
    if route.target not in fact.targets:
        return route
    try:
        if fact.at_once and route.status == RETRY_SCHEDULED:
            return hastened(route, fact.at_ms)
        return replayed(route, fact.at_ms, fact.bulk, fact.behind)
    except IllegalTransition:
        return route


def attempt_made(
    scope: tuple[str, str], partition: int, fact: DeliveryAttempted, offset: int
) -> AttemptState:
    """The attempt that a valid `delivery.attempted` of this partition's lifecycle records."""
    return AttemptState(
        workspace_id=scope[0],
        environment=scope[1],
        event_id=fact.event_id,
        partition=partition,
        offset=offset,
        target=fact.target,
        attempt=fact.attempt,
        replay=fact.replay,
        status=fact.outcome,
        started_at_ms=fact.started_at_ms,
        completed_at_ms=fact.completed_at_ms,
        duration_ms=fact.duration_ms,
        http_status=fact.http_status,
        error_code=fact.error.code if fact.error else None,
        error_message=fact.error.message if fact.error else None,
        response_body=fact.response_body,
        next_attempt_at_ms=fact.next_attempt_at_ms,
        address=fact.address,
        connect_ms=fact.timings.connect_ms,
        tls_ms=fact.timings.tls_ms,
        first_byte_ms=fact.timings.first_byte_ms,
        notice=fact.notice,
    )
