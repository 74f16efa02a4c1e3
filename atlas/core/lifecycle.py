"""The life of a route and of an event: one table, and the functions that follow from it.

A route is one (event, target). It is `queued` when the event is accepted and moves only as `MOVES` says:

    queued ──started──> processing ──attempted──> delivered | retry_scheduled | failed
    queued ──attempted──────────────────────────> (the same, when the attempt was quick)
    queued ──parked──> queued
    processing ──parked──> processing
    retry_scheduled ──started──> processing, ──attempted──> ...
    queued, processing, retry_scheduled ──closed──> failed
    delivered, failed ──replay requested──> processing
    retry_scheduled ──replay requested──> retry_scheduled, due now

Attempt numbers are gapless and rising: an attempt carries the number after the last one, except that
a `processing` attempt without an outcome (its owner crashed) is repeated under its own number, at once or,
where the next owner finds no room at the target, after it was parked. A fact that does not fit raises
`IllegalTransition` and changes nothing: in a fold it is void, so that the first
valid fact per (event, target, attempt) wins and nothing happens after a terminal state (guarantees G4,
G5). An event's status is a function of its routes (`event_status`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from atlas.core.errors import AtlasError
from atlas.core.facts import (
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryFact,
    DeliveryParked,
    DeliveryStarted,
)

QUEUED: Final = "queued"
PROCESSING: Final = "processing"
DELIVERED: Final = "delivered"
RETRY_SCHEDULED: Final = "retry_scheduled"
FAILED: Final = "failed"
ROUTE_STATUSES: Final = (QUEUED, PROCESSING, DELIVERED, RETRY_SCHEDULED, FAILED)

ACCEPTED: Final = "accepted"
RETRIED: Final = "retried"
EVENT_STATUSES: Final = (ACCEPTED, PROCESSING, DELIVERED, RETRIED, FAILED)

TERMINAL: Final = frozenset({DELIVERED, FAILED})
OUTCOMES: Final = frozenset({DELIVERED, RETRY_SCHEDULED, FAILED})

#: Why a route is parked that waits for another of its ordering key.
IN_LINE: Final = "order"

#: fact type -> statuses of a route in which it is valid.
MOVES: Final[Mapping[type[DeliveryFact], frozenset[str]]] = {
    DeliveryStarted: frozenset({QUEUED, PROCESSING, RETRY_SCHEDULED}),
    DeliveryAttempted: frozenset({QUEUED, PROCESSING, RETRY_SCHEDULED}),
    DeliveryParked: frozenset({QUEUED, PROCESSING}),
    DeliveryClosed: frozenset({QUEUED, PROCESSING, RETRY_SCHEDULED}),
}


class IllegalTransition(AtlasError):
    """The fact does not fit the route's state; the state is unchanged."""


class RouteState(msgspec.Struct, frozen=True, gc=False):
    """One (event, target).

    Attributes:
        attempt: number of the last attempt made or under way; 0 before the first.
        replay: how often it was begun anew; `base` is the number of its last attempt before that: the retry
            budget counts from there.
        due_at_ms: when an owner must take the route up again from the store (a retry, or a parked
            route); None when nothing waits, or the event topic still carries the first attempt.
        bulk: the bulk replay (`rpl_`) that asked for it last.
        ordering_key: of a route that keeps order: it waits for those of the same key before it in line.
        place: in that line.
    """

    target: str
    status: str = QUEUED
    attempt: int = 0
    replay: int = 0
    completed_at_ms: int | None = None
    next_attempt_at_ms: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    due_at_ms: int | None = None
    parked: bool = False
    base: int = 0
    bulk: str | None = None
    ordering_key: str | None = None
    place: int = 0


def place_of(offset: int) -> int:
    """The place in line of the event at an offset of its partition."""
    return 2 * offset + 1


def place_behind(offset: int) -> int:
    """The place of a replay: behind all events below this offset, before those that come next."""
    return 2 * offset


def evolve(route: RouteState, fact: DeliveryFact) -> RouteState:
    """The route after the fact.

    Raises:
        IllegalTransition: the fact is void for this route.
    """
    if route.status not in MOVES[type(fact)]:
        raise IllegalTransition(f"{type(fact).__name__} on a route that is {route.status}")
    if fact.replay != route.replay:
        raise IllegalTransition(f"replay {fact.replay} on a route at replay {route.replay}")
    match fact:
        case DeliveryStarted():
            return _started(route, fact)
        case DeliveryAttempted():
            return _attempted(route, fact)
        case DeliveryParked():
            if route.parked:
                raise IllegalTransition("a route is parked once")
            due_at_ms = None if fact.reason == IN_LINE and route.ordering_key is not None else fact.at_ms
            return msgspec.structs.replace(route, parked=True, due_at_ms=due_at_ms)
        case DeliveryClosed():
            return _ended(
                route,
                status=FAILED,
                # One under way without an outcome was never made: its number is the next one's.
                attempt=next_attempt(route) - 1,
                completed_at_ms=fact.at_ms,
                error_code=fact.error.code,
                error_message=fact.error.message,
            )


#: What a route waited for.
_GONE: Final[Mapping[str, Any]] = {
    "completed_at_ms": None,
    "next_attempt_at_ms": None,
    "error_code": None,
    "error_message": None,
    "due_at_ms": None,
    "parked": False,
}


def _ended(route: RouteState, **fields: Any) -> RouteState:
    """The route after an attempt, or its end: what it waited for before is gone."""
    return msgspec.structs.replace(route, **{**_GONE, **fields})


def replayed(route: RouteState, at_ms: int, bulk: str | None = None, behind: int | None = None) -> RouteState:
    """A route that has ended, begun anew: its next attempt goes on with the numbers, and waits for its owner.

    Args:
        behind: where order is kept: it waits for the events below this offset.

    Raises:
        IllegalTransition: it has not ended, or this bulk replay has had its turn.
    """
    if route.status not in TERMINAL:
        raise IllegalTransition(f"a replay of a route that is {route.status}")
    if bulk is not None and route.bulk == bulk:
        raise IllegalTransition("a bulk replay replays a route once")
    in_line = route.ordering_key is not None and behind is not None
    return RouteState(
        target=route.target,
        status=PROCESSING,
        attempt=route.attempt + 1,
        replay=route.replay + 1,
        due_at_ms=None if in_line else at_ms,
        parked=True,
        base=route.attempt,
        bulk=bulk or route.bulk,
        ordering_key=route.ordering_key,
        place=route.place if behind is None else place_behind(behind),
    )


def hastened(route: RouteState, at_ms: int) -> RouteState:
    """A route whose retry is made now instead of at its time.

    Raises:
        IllegalTransition: no retry is scheduled.
    """
    if route.status != RETRY_SCHEDULED:
        raise IllegalTransition(f"no retry is scheduled: the route is {route.status}")
    return msgspec.structs.replace(route, due_at_ms=at_ms, next_attempt_at_ms=at_ms)


def next_attempt(route: RouteState) -> int:
    """The number the next attempt carries."""
    return route.attempt if route.status == PROCESSING else route.attempt + 1


def _started(route: RouteState, fact: DeliveryStarted) -> RouteState:
    if fact.attempt != next_attempt(route):
        raise IllegalTransition(f"attempt {fact.attempt} after {route.attempt}")
    return msgspec.structs.replace(route, status=PROCESSING, attempt=fact.attempt, next_attempt_at_ms=None)


def _attempted(route: RouteState, fact: DeliveryAttempted) -> RouteState:
    if fact.attempt != next_attempt(route):
        raise IllegalTransition(f"attempt {fact.attempt} after {route.attempt}")
    if fact.outcome not in OUTCOMES:
        raise IllegalTransition(f"unknown outcome {fact.outcome}")
    retried = fact.outcome == RETRY_SCHEDULED
    if retried and fact.next_attempt_at_ms is None:
        raise IllegalTransition("a retry without its time")  # nobody would ever make it
    error = fact.error if fact.outcome != DELIVERED else None
    return _ended(
        route,
        status=fact.outcome,
        attempt=fact.attempt,
        completed_at_ms=None if retried else fact.completed_at_ms,
        next_attempt_at_ms=fact.next_attempt_at_ms if retried else None,
        error_code=error.code if error else None,
        error_message=error.message if error else None,
        due_at_ms=fact.next_attempt_at_ms if retried else None,
    )


def event_status(statuses: Iterable[str]) -> str:
    """An event's status from its routes' (API notes, "Status of the event": first match)."""
    return _event_status(frozenset(statuses))


@cache
def _event_status(seen: frozenset[str]) -> str:
    if PROCESSING in seen:
        return PROCESSING
    if RETRY_SCHEDULED in seen:
        return RETRIED
    if seen == {QUEUED}:
        return ACCEPTED
    if QUEUED in seen:
        return PROCESSING
    return FAILED if FAILED in seen else DELIVERED
