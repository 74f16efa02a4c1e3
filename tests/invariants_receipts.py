"""Invariant 7: what the API calls delivered against what receivers got, signed and answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import orjson

from tests.invariants_history import Arrival, History, Rule, Violation
from tests.invariants_routes import Route, RouteKey, Routes
from tests.invariants_signature import is_signed_by

_SENT_FIELDS: Final = ("id", "stream", "type", "occurred_at", "received_at", "data", "actor", "metadata")


def deliveries_are_real(history: History, routes: Routes) -> Iterator[Violation]:
    """7, and what a receiver relies on: good signatures, the event itself, one delivery id a route."""
    by_route: dict[RouteKey, list[Arrival]] = defaultdict(list)
    used_by: dict[str, RouteKey] = {}
    for arrival in history.arrivals:
        key = (arrival.event_id, arrival.target)
        by_route[key].append(arrival)
        if not is_signed_by(history, arrival):
            yield Violation(Rule.FORGED, f"{key}, attempt {arrival.attempt}")
        if used_by.setdefault(arrival.delivery_id, key) != key:
            yield Violation(
                Rule.DELIVERY_ID_SHARED, f"{arrival.delivery_id}: {used_by[arrival.delivery_id]}, {key}"
            )
    for key, arrivals in by_route.items():
        route = routes.by_key.get(key)
        if route is None:
            yield Violation(Rule.STRANGER, f"{key}")
        else:
            yield from _one_route(route, arrivals)
    for event_id, shown in history.shown.items():
        for view in shown.event["attempts"]:
            key = (event_id, view["workflow_id"])
            if view["status"] == "delivered" and not _acknowledged(history, by_route[key], view["attempt"]):
                yield Violation(Rule.UNACKNOWLEDGED, f"{key}, attempt {view['attempt']}")


def _one_route(route: Route, arrivals: Sequence[Arrival]) -> Iterator[Violation]:
    ids = {arrival.delivery_id for arrival in arrivals}
    if len(ids) > 1:
        yield Violation(Rule.DELIVERY_ID_CHANGED, f"{route.name}: {sorted(ids)}")
    sent = {name: route.event.json[name] for name in _SENT_FIELDS}
    for arrival in arrivals:
        if orjson.loads(arrival.body) != {**sent, "object": "event"}:
            yield Violation(Rule.DELIVERED_OTHERWISE, f"{route.name}, attempt {arrival.attempt}")
    if arrivals[-1].acknowledged and route.status != "delivered":
        yield Violation(Rule.FORGOTTEN, f"{route.name} is {route.status}")


def _acknowledged(history: History, arrivals: Sequence[Arrival], attempt: int) -> bool:
    return any(
        arrival.attempt == attempt and arrival.acknowledged and is_signed_by(history, arrival)
        for arrival in arrivals
    )
