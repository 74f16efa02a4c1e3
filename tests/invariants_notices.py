"""Invariant 7 for webhook endpoints: each outcome is told, as one notification, and nothing else is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import orjson

from tests.invariants_history import Arrival, History, LogRecord, Rule, Shown, Violation
from tests.invariants_signature import is_signed_by


class Outcome(NamedTuple):
    """What is told once. Of an event that was delivered everywhere only that: the route does not count."""

    type: str
    event_id: str
    workflow_id: str = ""
    attempt: int = 0


def outcomes_are_told(history: History) -> Iterator[Violation]:
    """7, for notifications; every environment has an endpoint for everything."""
    if history.notices is None:
        return
    expected = outcomes(history.shown)
    gone = deleted_events(history.records, history.deleted)
    ids: dict[Outcome, set[str]] = defaultdict(set)
    acknowledged: set[Outcome] = set()
    bodies: dict[str, bytes] = {}
    for notice in history.notices:
        outcome = told(notice)
        ids[outcome].add(notice.delivery_id)
        if notice.acknowledged:
            acknowledged.add(outcome)
        if not is_signed_by(history, notice) or orjson.loads(notice.body)["id"] != notice.delivery_id:
            yield Violation(Rule.TOLD_WRONGLY, f"{outcome}: signature or id")
        if bodies.setdefault(notice.delivery_id, notice.body) != notice.body:
            yield Violation(Rule.TOLD_WRONGLY, f"{notice.delivery_id} had two bodies")
        if outcome.event_id in history.shown and outcome not in expected:
            yield Violation(Rule.TOLD_WRONGLY, f"{outcome} did not come about")
    for outcome, used in ids.items():
        if len(used) > 1:
            yield Violation(Rule.TOLD_TWICE, f"{outcome}: {sorted(used)}")
    for outcome in sorted(each for each in expected - acknowledged if each.event_id not in gone):
        yield Violation(Rule.UNTOLD, f"{outcome}")


def deleted_events(records: Iterable[LogRecord], deleted: Mapping[tuple[str, int], int]) -> set[str]:
    """The ids of events below the offsets up to which records were deleted: nobody is told of them."""
    return {
        record.json["id"]
        for record in records
        if record.is_event and record.offset < deleted.get((record.topic, record.partition), 0)
    }


def outcomes(shown: Mapping[str, Shown]) -> set[Outcome]:
    """All that there is to tell, by what the API says in the end."""
    found: set[Outcome] = set()
    for event_id, each in shown.items():
        for made in each.attempts:
            if made["status"] == "retry_scheduled":
                found.add(Outcome("event.retry_scheduled", event_id, made["workflow_id"], made["attempt"]))
        routes = each.event["attempts"]
        found |= {
            Outcome("event.failed", event_id, route["workflow_id"])
            for route in routes
            if route["status"] == "failed"
        }
        if routes and all(route["status"] == "delivered" for route in routes):
            found.add(Outcome("event.delivered", event_id))
    return found


def told(notice: Arrival) -> Outcome:
    """What a notification tells."""
    body = orjson.loads(notice.body)
    kind, data = body["type"], body["data"]
    if kind == "event.delivered":
        return Outcome(kind, data["event_id"])
    if kind == "event.failed":
        return Outcome(kind, data["event_id"], data["workflow_id"])
    return Outcome(kind, data["event_id"], data["workflow_id"], data["attempt"])
