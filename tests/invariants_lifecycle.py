"""Invariants 4 to 6: what the API showed, meanwhile and in the end, against the raw topics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from tests.invariants_history import OK, History, LogRecord, Rule, Shown, Violation
from tests.invariants_routes import TERMINAL, Route, Routes

#: A request may arrive this long after the outcome of another was recorded, and have left before: a process
#: that waits for a core between its last look and its send was seen half a second late on a busy machine.
IN_FLIGHT_MS: Final = 2_000

#: Where an event's status can get from each status, over any number of the graph's edges, without a replay.
EVENT_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "accepted": frozenset({"accepted", "processing", "retried", "delivered", "failed"}),
    "processing": frozenset({"processing", "retried", "delivered", "failed"}),
    "retried": frozenset({"processing", "retried", "delivered", "failed"}),
    "delivered": frozenset({"delivered"}),
    "failed": frozenset({"failed"}),
}
ROUTE_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "queued": frozenset({"queued", "processing", "retry_scheduled", "delivered", "failed"}),
    "processing": frozenset({"processing", "retry_scheduled", "delivered", "failed"}),
    "retry_scheduled": frozenset({"processing", "retry_scheduled", "delivered", "failed"}),
    "delivered": frozenset({"delivered"}),
    "failed": frozenset({"failed"}),
}


def everything_ends(history: History, routes: Routes) -> Iterator[Violation]:
    """4: after healing nothing is unseen, and every route is terminal."""
    if history.healed_s is None or history.healed_s > history.heals_within_s:
        yield Violation(Rule.NOT_HEALED, f"{history.healed_s} s of {history.heals_within_s} s")
    answered = {each.event_id for each in history.tries if each.outcome == OK}
    for poll in history.polls:
        if poll.status == 404 and poll.event_id in answered:
            yield Violation(Rule.HIDDEN, f"{poll.event_id} from {poll.poller}")
    logged = {record.json["id"]: record for record in reversed(history.records) if record.is_event}
    for event_id in history.shown.keys() - logged.keys():
        yield Violation(Rule.SHOWN_NOT_LOGGED, event_id)
    for event_id, record in logged.items():
        shown = history.shown.get(event_id)
        if shown is None:
            yield Violation(Rule.UNSEEN, f"{event_id} at {record.where}")
        else:
            yield from _shown_as_logged(record, shown)
    for route in routes.by_key.values():
        if route.status not in TERMINAL:
            yield Violation(Rule.NOT_TERMINAL, f"{route.name} is {route.status} in the log")


def _shown_as_logged(record: LogRecord, shown: Shown) -> Iterator[Violation]:
    fields = ("id", "stream", "type", "received_at", "occurred_at")
    event = record.json
    wrong = [name for name in fields if shown.event[name] != event[name]]
    if [route["workflow_id"] for route in shown.event["attempts"]] != event["routes"]:
        wrong.append("attempts")
    if wrong:
        yield Violation(Rule.SHOWN_OTHERWISE, f"{event['id']}: {wrong}")
    for route in shown.event["attempts"]:
        if route["status"] not in TERMINAL:
            about = f"{event['id']} to {route['workflow_id']} is {route['status']} in the API"
            yield Violation(Rule.NOT_TERMINAL, about)


def attempts_are_gapless(history: History, routes: Routes) -> Iterator[Violation]:
    """5: attempts are gapless and rising; none starts after terminal (nobody asks for a replay here)."""
    for event_id, shown in history.shown.items():
        made: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for attempt in shown.attempts:
            made[attempt["workflow_id"]].append(attempt)
        for view in shown.event["attempts"]:
            target = view["workflow_id"]
            name = f"{event_id} to {target}"
            numbers = [attempt["attempt"] for attempt in made[target]]
            if numbers != list(range(1, len(numbers) + 1)):
                yield Violation(Rule.ATTEMPTS_NOT_GAPLESS, f"{name}: {numbers}")
            if any(attempt["status"] in TERMINAL for attempt in made[target][:-1]):
                yield Violation(Rule.AFTER_TERMINAL, f"{name}, in the API")
            route = routes.by_key.get((event_id, target))
            if route is not None and not _agree(route, made[target], view):
                yield Violation(Rule.ATTEMPTS_DISAGREE, name)
    yield from _received_in_turn(history, routes)


def _agree(route: Route, made: Sequence[Mapping[str, Any]], view: Mapping[str, Any]) -> bool:
    """Whether the attempts listed, and the route's view, are what the facts say."""
    listed = [(attempt["attempt"], attempt["status"]) for attempt in made]
    logged = [(fact["attempt"], fact["outcome"]) for fact in route.attempts]
    return listed == logged and (view["attempt"], view["status"]) == (len(logged), route.status)


def _received_in_turn(history: History, routes: Routes) -> Iterator[Violation]:
    arrivals: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for arrival in history.arrivals:
        arrivals[arrival.event_id, arrival.target].append((arrival.attempt, arrival.at_ms))
    for key, seen in arrivals.items():
        route = routes.by_key.get(key)
        if route is None:
            continue  # invariant 7 speaks of it
        numbers = [number for number, _ in seen]
        unseen = {fact["attempt"] for fact in route.attempts if fact["http_status"] is None}
        for before, after in pairwise([0, *numbers]):
            if after < before or not unseen.issuperset(range(before + 1, after)):
                yield Violation(Rule.RECEIVED_OUT_OF_TURN, f"{route.name}: {numbers}")
                break
        if max(numbers) > len(route.attempts):
            yield Violation(Rule.RECEIVED_UNRECORDED, f"{route.name}: {numbers}")
        if route.ended_ms is not None and seen[-1][1] > route.ended_ms + IN_FLIGHT_MS:
            late_ms = seen[-1][1] - route.ended_ms
            yield Violation(Rule.AFTER_TERMINAL, f"{route.name}: received {late_ms} ms later")


def moves_follow_the_graph(history: History, routes: Routes) -> Iterator[Violation]:
    """6: transitions follow the declared graph; a poller may skip states."""
    yield from routes.violations
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for poll in history.polls:
        if poll.event is not None:
            yield from _looks_right(poll.event)
            before = last.get((poll.poller, poll.event_id))
            if before is not None:
                yield from _moved(before, poll.event)
            last[poll.poller, poll.event_id] = poll.event
    for (_, event_id), event in last.items():
        if event_id in history.shown:
            yield from _moved(event, history.shown[event_id].event)
    for shown in history.shown.values():
        yield from _looks_right(shown.event)


def _looks_right(event: Mapping[str, Any]) -> Iterator[Violation]:
    statuses = [route["status"] for route in event["attempts"]]
    possible = _status_of(statuses)
    if event["status"] != possible:
        yield Violation(Rule.STATUS_NOT_OF_ROUTES, f"{event['id']}: {event['status']} of {statuses}")


def _status_of(statuses: Sequence[str]) -> str:
    """By the API notes, "Status of the event": the first that matches."""
    for status, shows in (("processing", "processing"), ("retry_scheduled", "retried")):
        if status in statuses:
            return shows
    if "queued" in statuses:
        return "accepted" if set(statuses) == {"queued"} else "processing"
    return "failed" if "failed" in statuses else "delivered"


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Violation]:
    name = before["id"]
    if after["status"] not in EVENT_MOVES[before["status"]]:
        yield Violation(Rule.ILLEGAL_MOVE, f"{name}: {before['status']} to {after['status']}")
    later = {route["workflow_id"]: route for route in after["attempts"]}
    for route in before["attempts"]:
        now = later.get(route["workflow_id"], {"status": "nothing", "attempt": -1})
        legal = now["status"] in ROUTE_MOVES[route["status"]] and now["attempt"] >= route["attempt"]
        if not legal:
            about = f"{name} to {route['workflow_id']}: {route} to {now}"
            yield Violation(Rule.ILLEGAL_ROUTE_MOVE, about)
