"""Outcomes that webhook endpoints are told of (reference, "Webhooks"; API notes, "Webhook endpoints").

A fact about a route may name endpoints to be told (`notify`). Whether there is anything to tell is decided by
the fold, from the event's state after that fact: `event.retry_scheduled` for a failed attempt that will be
made again, `event.failed` for a route that ended so, `event.delivered` once the last route of the event has
acknowledged. So an outcome and what caused it are one record, and no owner that dies or is replaced can lose
or repeat one. A notice is delivered like an event to a workflow, by the same facts; its own outcome causes
no further one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from atlas.core.facts import (
    EVENT_DELIVERED,
    EVENT_FAILED,
    EVENT_RETRY_SCHEDULED,
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryFact,
)
from atlas.core.ids import notice_id
from atlas.core.lifecycle import DELIVERED, FAILED, RETRY_SCHEDULED, RouteState, evolve

#: `error.code` in the body of an `event.failed` (reference, "Error handling").
DELIVERY_FAILED: Final = "webhook_delivery_failed"
_TYPES: Final = {DELIVERED: EVENT_DELIVERED, FAILED: EVENT_FAILED, RETRY_SCHEDULED: EVENT_RETRY_SCHEDULED}


class Outcome(Struct, frozen=True, kw_only=True):
    """What a notice tells; all of its body but the delivery's id.

    Attributes:
        latency_ms: from `received_at` to the end of the attempt.
        message: why it failed; of an `event.failed` only.
    """

    type: str
    stream: str
    workflow_id: str
    attempt: int
    latency_ms: int
    created_at_ms: int
    message: str | None = None


class NoticeState(Struct, frozen=True, kw_only=True):
    """One outcome of one event on its way to one endpoint: `route` is the endpoint's."""

    id: str
    workspace_id: str
    environment: str
    event_id: str
    topic: str
    partition: int
    offset: int
    outcome: Outcome
    route: RouteState

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Workspace, environment, event id, delivery id: what the read model knows it by."""
        return (self.workspace_id, self.environment, self.event_id, self.id)


def outcome_type(fact: DeliveryFact) -> str | None:
    """The outcome that may follow from a fact about a workflow's route; None when none can."""
    match fact:
        case DeliveryAttempted():
            return _TYPES.get(fact.outcome)
        case DeliveryClosed():
            return EVENT_FAILED
        case _:
            return None


def outcome_of(
    fact: DeliveryAttempted | DeliveryClosed,
    stream: str,
    received_at_ms: int,
    routes: Sequence[RouteState],
) -> Outcome | None:
    """What there is to tell after a valid fact; None when it is not the last route's acknowledgement.

    Args:
        routes: of the event, after the fact.
    """
    kind = outcome_type(fact)
    if kind is None or (kind == EVENT_DELIVERED and any(route.status != DELIVERED for route in routes)):
        return None
    [route] = [each for each in routes if each.target == fact.target]
    at_ms = fact.completed_at_ms if isinstance(fact, DeliveryAttempted) else fact.at_ms
    return Outcome(
        type=kind,
        stream=stream,
        workflow_id=fact.target,
        attempt=route.attempt,
        latency_ms=max(0, at_ms - received_at_ms),
        created_at_ms=at_ms,
        message=(route.error_message or route.error_code) if kind == EVENT_FAILED else None,
    )


def notice(
    outcome: Outcome,
    scope: tuple[str, str],
    event_id: str,
    place: tuple[str, int, int],
    endpoint: str,
    replay: int,
) -> NoticeState:
    """A notice that has just been caused: it waits for its first attempt.

    Args:
        place: topic, partition and offset of the event's record.
        replay: of the route whose outcome it is.
    """
    topic, partition, offset = place
    return NoticeState(
        id=notice_id(
            outcome.created_at_ms,
            event_id,
            endpoint,
            outcome.type,
            outcome.workflow_id,
            outcome.attempt,
            replay,
        ),
        workspace_id=scope[0],
        environment=scope[1],
        event_id=event_id,
        topic=topic,
        partition=partition,
        offset=offset,
        outcome=outcome,
        route=RouteState(endpoint, due_at_ms=outcome.created_at_ms, parked=True),
    )


def told(state: NoticeState, fact: DeliveryFact) -> NoticeState:
    """The notice after a fact about it.

    Raises:
        IllegalTransition: the fact is void.
    """
    return replace(state, route=evolve(state.route, fact))
