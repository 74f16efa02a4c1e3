"""The query of `GET /v1/events` (API notes, "Events")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from atlas.core.errors import InvalidRequest
from atlas.core.lifecycle import EVENT_STATUSES, ROUTE_STATUSES
from atlas.core.limits import METADATA_KEY_CHARS_MAX, METADATA_KEYS_MAX
from atlas.core.timestamps import parse_filter_time
from atlas.gateway.call import Call
from atlas.gateway.parameters import page_cursor, page_limit, parameters
from atlas.ports.read_model import EventQuery, Scope

#: Parameters that begin so name a metadata key.
METADATA_PREFIX: Final = "metadata."
PARAMETERS: Final = frozenset(
    {
        "limit",
        "cursor",
        "stream",
        "type",
        "status",
        "workflow_id",
        "route_status",
        "actor_id",
        "tenant_id",
        "received_after",
        "received_before",
        "idempotency_key",
    }
)


class EventFilters(Struct, frozen=True):
    """What a page of events was asked for.

    Attributes:
        limit: events on the page.
        cursor: None for a first page.
        stream: the one stream wanted, or None for all.
        values: the other parameters that match text, by name.
        metadata: every pair must match.
    """

    limit: int
    cursor: str | None
    stream: str | None
    values: Mapping[str, str]
    received_from_ms: int | None
    received_before_ms: int | None
    metadata: Mapping[str, str]

    def query(self, scope: Scope, visible_from_ms: Mapping[str, int]) -> EventQuery:
        """The query for this page and one event more, to learn whether there are more."""
        values = self.values
        return EventQuery(
            scope=scope,
            visible_after_ms=visible_from_ms,
            limit=self.limit + 1,
            after_id=self.cursor,
            type=values.get("type"),
            status=values.get("status"),
            workflow_id=values.get("workflow_id"),
            route_status=values.get("route_status"),
            actor_id=values.get("actor_id"),
            tenant_id=values.get("tenant_id"),
            received_from_ms=self.received_from_ms,
            received_before_ms=self.received_before_ms,
            idempotency_key=values.get("idempotency_key"),
            metadata=self.metadata,
        )


def event_filters(call: Call) -> EventFilters:
    """The request's query.

    Raises:
        InvalidRequest: naming the parameter.
    """
    values = parameters(call, PARAMETERS, METADATA_PREFIX)
    _one_of(values, "status", EVENT_STATUSES)
    _one_of(values, "route_status", ROUTE_STATUSES)
    return EventFilters(
        limit=page_limit(values),
        cursor=page_cursor(values, "evt_"),
        stream=values.get("stream"),
        values=values,
        received_from_ms=_time(values, "received_after"),
        received_before_ms=_time(values, "received_before"),
        metadata=_metadata(values),
    )


def _one_of(values: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> None:
    if name in values and values[name] not in allowed:
        raise InvalidRequest(name, f"must be one of {', '.join(allowed)}")


def _time(values: Mapping[str, str], name: str) -> int | None:
    return parse_filter_time(values[name], name) if name in values else None


def _metadata(values: Mapping[str, str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for name, value in values.items():
        if not name.startswith(METADATA_PREFIX):
            continue
        key = name.removeprefix(METADATA_PREFIX)
        if not 1 <= len(key) <= METADATA_KEY_CHARS_MAX:
            raise InvalidRequest(name, f"a metadata key has 1 to {METADATA_KEY_CHARS_MAX} characters")
        if len(pairs) == METADATA_KEYS_MAX:
            raise InvalidRequest(name, f"an event has at most {METADATA_KEYS_MAX} metadata keys")
        pairs[key] = value
    return pairs
