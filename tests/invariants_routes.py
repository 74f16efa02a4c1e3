"""The routes of a run as the raw lifecycle topic tells them: folded by the design's text, not by Atlas.

A fact is void unless its epoch is the newest claim before it in its partition. The valid facts of a route
must fit one after the other; where one does not, that is a violation: a shard's owner writes no such fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.invariants_history import LogRecord, Rule, Violation

TERMINAL: Final = frozenset({"delivered", "failed"})
OUTCOMES: Final = frozenset({"delivered", "failed", "retry_scheduled"})


@dataclass
class Route:
    """One (event, target).

    Attributes:
        attempts: the recorded ones, as their facts say.
        ended_ms: when its terminal fact was appended.
    """

    event: LogRecord
    target: str
    status: str = "queued"
    attempts: list[dict[str, Any]] = field(default_factory=list)
    ended_ms: int | None = None
    facts: set[bytes] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.event.json['id']} to {self.target}"


RouteKey = tuple[str, str]


class Routes:
    """Every route that the event records name, after every valid fact.

    Attributes:
        by_key: event id and target -> route; of an id in several records the first counts.
        violations: facts that did not fit.
    """

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self.by_key: dict[RouteKey, Route] = {}
        self.violations: list[Violation] = []
        for record in records:
            if record.is_event:
                for target in record.json["routes"]:
                    self.by_key.setdefault((record.json["id"], target), Route(record, target))
        for record in _valid(records):
            self.violations += self._fold(record)

    def of(self, event_id: str, targets: Sequence[str]) -> list[Route]:
        return [self.by_key[event_id, target] for target in targets]

    def _fold(self, record: LogRecord) -> Iterator[Violation]:
        fact = record.json
        if "target" not in fact or "event_id" not in fact or fact.get("notice") is not None:
            return  # of a shard, of a target, or of a notification: no route of an event
        name = f"{fact['fact']} at {record.where} for {fact['event_id']} to {fact['target']}"
        route = self.by_key.get((fact["event_id"], fact["target"]))
        if route is None or not _names(fact, record.partition, route.event):
            yield Violation(Rule.ILLEGAL_FACT, f"{name}: no such route")
            return
        if record.value in route.facts:
            return  # a repeat, with its whole batch, after an append whose answer was lost: void, and allowed
        route.facts.add(record.value)
        if route.status in TERMINAL:
            attempt = fact["fact"] in ("delivery.started", "delivery.attempted")
            yield Violation(Rule.AFTER_TERMINAL if attempt else Rule.ILLEGAL_FACT, name)
            return
        yield from _apply(route, fact, record.timestamp_ms, name)


def _apply(route: Route, fact: dict[str, Any], at_ms: int, name: str) -> Iterator[Violation]:
    kind = fact["fact"]
    if kind == "delivery.started":
        if fact["attempt"] != len(route.attempts) + 1:
            yield Violation(Rule.ATTEMPTS_NOT_GAPLESS, f"{name}: {fact['attempt']}")
        route.status = "processing"
    elif kind == "delivery.attempted":
        if fact["attempt"] != len(route.attempts) + 1:
            yield Violation(Rule.ATTEMPTS_NOT_GAPLESS, f"{name}: {fact['attempt']}")
        if fact["outcome"] not in OUTCOMES:
            yield Violation(Rule.ILLEGAL_FACT, f"{name}: {fact['outcome']}")
        route.attempts.append(fact)
        route.status = fact["outcome"]
    elif kind == "delivery.closed":
        route.status = "failed"
    elif kind != "delivery.parked" or route.status not in ("queued", "processing"):
        yield Violation(Rule.ILLEGAL_FACT, f"{name}: the route is {route.status}")
    if route.status in TERMINAL:
        route.ended_ms = at_ms


def _names(fact: dict[str, Any], partition: int, event: LogRecord) -> bool:
    return (fact["topic"], partition, fact["offset"]) == (event.topic, event.partition, event.offset)


def _valid(records: Sequence[LogRecord]) -> Iterator[LogRecord]:
    epochs: dict[int, int] = {}
    for record in records:
        if record.is_fact:
            if record.json["fact"] == "shard.claimed":
                epochs[record.partition] = record.offset
            elif record.json["epoch"] == epochs.get(record.partition):
                yield record
