"""The lifecycle table: exact moves by example, and what must always hold by a stateful search."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from atlas.core.facts import (
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryFact,
    DeliveryParked,
    DeliveryStarted,
    FactError,
)
from atlas.core.lifecycle import (
    ACCEPTED,
    DELIVERED,
    EVENT_STATUSES,
    FAILED,
    MOVES,
    PROCESSING,
    QUEUED,
    RETRIED,
    RETRY_SCHEDULED,
    ROUTE_STATUSES,
    TERMINAL,
    IllegalTransition,
    RouteState,
    event_status,
    evolve,
    next_attempt,
    replayed,
)

ERROR = FactError("upstream_status", "Target answered 503")
NAMED: dict[str, Any] = {
    "epoch": 0,
    "event_id": "evt_1",
    "topic": "atlas.live.ws_1.orders",
    "offset": 7,
    "target": "wf_a",
}


def started(attempt: int) -> DeliveryStarted:
    return DeliveryStarted(**NAMED, attempt=attempt, started_at_ms=1)


def attempted(attempt: int, outcome: str, *, replay: int = 0) -> DeliveryAttempted:
    return DeliveryAttempted(
        **NAMED,
        replay=replay,
        attempt=attempt,
        outcome=outcome,
        started_at_ms=1,
        completed_at_ms=2,
        duration_ms=1,
        next_attempt_at_ms=99 if outcome == RETRY_SCHEDULED else None,
        error=None if outcome == DELIVERED else ERROR,
    )


def closed() -> DeliveryClosed:
    return DeliveryClosed(**NAMED, error=FactError("target_disabled", "Disabled."), at_ms=5)


def parked() -> DeliveryParked:
    return DeliveryParked(**NAMED, reason="backlog", at_ms=3)


def fold(facts: Iterable[DeliveryFact]) -> RouteState:
    route = RouteState("wf_a")
    for fact in facts:
        route = evolve(route, fact)
    return route


def test_a_delivery_after_a_retry() -> None:
    retried = fold([attempted(1, RETRY_SCHEDULED)])
    assert retried == RouteState(
        "wf_a",
        RETRY_SCHEDULED,
        1,
        next_attempt_at_ms=99,
        error_code=ERROR.code,
        error_message=ERROR.message,
        due_at_ms=99,
    )
    assert evolve(retried, attempted(2, DELIVERED)) == RouteState("wf_a", DELIVERED, 2, completed_at_ms=2)


def test_an_attempt_whose_owner_crashed_is_repeated_under_its_number() -> None:
    under_way = fold([started(1)])
    assert under_way.status == PROCESSING
    assert next_attempt(under_way) == 1
    assert evolve(under_way, started(1)) == under_way
    assert evolve(under_way, attempted(1, DELIVERED)).status == DELIVERED


def test_an_attempt_whose_owner_crashed_can_be_parked_and_is_then_repeated_under_its_number() -> None:
    waiting = fold([started(1), parked()])
    assert (waiting.status, waiting.due_at_ms, next_attempt(waiting)) == (PROCESSING, 3, 1)
    assert fold([started(1), parked(), started(1), attempted(1, DELIVERED)]).status == DELIVERED


def test_a_retry_under_way_can_still_be_found_in_the_store() -> None:
    route = fold([attempted(1, RETRY_SCHEDULED), started(2)])
    assert (route.status, route.due_at_ms, route.next_attempt_at_ms) == (PROCESSING, 99, None)


@pytest.mark.parametrize(
    ("before", "fact"),
    [
        pytest.param([attempted(1, DELIVERED)], attempted(2, DELIVERED), id="after delivered"),
        pytest.param([attempted(1, FAILED)], attempted(2, DELIVERED), id="after failed"),
        pytest.param([attempted(1, DELIVERED)], closed(), id="closed after delivered"),
        pytest.param([closed()], closed(), id="closed twice"),
        pytest.param([], attempted(2, DELIVERED), id="a gap"),
        pytest.param([attempted(1, RETRY_SCHEDULED)], attempted(1, DELIVERED), id="a number twice"),
        pytest.param([started(1)], attempted(2, DELIVERED), id="another attempt while one is under way"),
        pytest.param([parked()], parked(), id="parked twice"),
        pytest.param([attempted(1, RETRY_SCHEDULED)], parked(), id="parked after an attempt"),
        pytest.param([], attempted(1, "vanished"), id="unknown outcome"),
        pytest.param([], attempted(1, DELIVERED, replay=1), id="a replay nobody asked for"),
        pytest.param(
            [], replace(attempted(1, RETRY_SCHEDULED), next_attempt_at_ms=None), id="a retry without its time"
        ),
    ],
)
def test_facts_that_do_not_fit_are_void(before: list[DeliveryFact], fact: DeliveryFact) -> None:
    route = fold(before)
    with pytest.raises(IllegalTransition):
        evolve(route, fact)


def test_the_table_names_every_fact_and_no_terminal_status() -> None:
    assert set(MOVES) == {DeliveryStarted, DeliveryAttempted, DeliveryParked, DeliveryClosed}
    assert all(statuses <= set(ROUTE_STATUSES) - TERMINAL for statuses in MOVES.values())


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], DELIVERED),
        ([QUEUED], ACCEPTED),
        ([QUEUED, QUEUED], ACCEPTED),
        ([QUEUED, DELIVERED], PROCESSING),
        ([PROCESSING, RETRY_SCHEDULED], PROCESSING),
        ([RETRY_SCHEDULED, QUEUED], RETRIED),
        ([RETRY_SCHEDULED, FAILED], RETRIED),
        ([FAILED, DELIVERED], FAILED),
        ([FAILED, QUEUED], PROCESSING),
        ([DELIVERED, DELIVERED], DELIVERED),
    ],
)
def test_an_events_status_is_the_first_match(statuses: list[str], expected: str) -> None:
    assert event_status(statuses) == expected


def test_an_events_status_does_not_depend_on_the_order_of_its_routes() -> None:
    for statuses in itertools.product(ROUTE_STATUSES, repeat=3):
        assert len({event_status(order) for order in itertools.permutations(statuses)}) == 1
        assert event_status(statuses) in EVENT_STATUSES


#: Where an event may be seen next, states in between included (API notes, "Edges").
REACHABLE = {
    ACCEPTED: {ACCEPTED, PROCESSING, RETRIED, DELIVERED, FAILED},
    PROCESSING: {PROCESSING, RETRIED, DELIVERED, FAILED},
    RETRIED: {RETRIED, PROCESSING, DELIVERED, FAILED},
    DELIVERED: {DELIVERED, PROCESSING},
    FAILED: {FAILED, PROCESSING},
}


class Lifecycle(RuleBasedStateMachine):
    """Any facts in any order: valid ones move the routes as declared, void ones change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = [RouteState("wf_a"), RouteState("wf_b")]
        self.outcomes: list[list[int]] = [[], []]
        self.seen = [event_status(QUEUED for _ in self.routes)]

    @rule(
        which=st.integers(0, 1),
        kind=st.sampled_from(["started", "attempted", "parked", "closed"]),
        attempt=st.integers(0, 6),
        outcome=st.sampled_from([DELIVERED, RETRY_SCHEDULED, FAILED, "vanished"]),
    )
    def fact(self, which: int, kind: str, attempt: int, outcome: str) -> None:
        facts: dict[str, DeliveryFact] = {
            "started": started(attempt),
            "attempted": attempted(attempt, outcome),
            "parked": parked(),
            "closed": closed(),
        }
        replay = self.routes[which].replay
        facts = {name: replace(fact, replay=replay) for name, fact in facts.items()}
        before = self.routes[which]
        try:
            after = evolve(before, facts[kind])
        except IllegalTransition:
            return
        assert before.status not in TERMINAL
        given_back = kind == "closed" and before.status == PROCESSING
        assert before.attempt - given_back <= after.attempt <= before.attempt + 1
        if kind == "attempted":
            self.outcomes[which].append(attempt)
        self.routes[which] = after
        self.seen.append(event_status(route.status for route in self.routes))

    @rule(which=st.integers(0, 1), bulk=st.sampled_from([None, "rpl_1", "rpl_2"]))
    def replay(self, which: int, bulk: str | None) -> None:
        before = self.routes[which]
        try:
            after = replayed(before, 1, bulk)
        except IllegalTransition:
            assert before.status not in TERMINAL or (bulk is not None and before.bulk == bulk)
            return
        assert (after.status, after.attempt, after.replay) == (
            PROCESSING,
            before.attempt + 1,
            before.replay + 1,
        )
        self.routes[which] = after
        self.seen.append(event_status(route.status for route in self.routes))

    @invariant()
    def attempts_are_gapless_and_rising(self) -> None:
        for numbers in self.outcomes:
            assert numbers == list(range(1, len(numbers) + 1))

    @invariant()
    def the_status_moves_along_the_graph(self) -> None:
        for before, after in itertools.pairwise(self.seen):
            assert after in REACHABLE[before], self.seen

    @invariant()
    def what_waits_is_due_and_what_is_over_is_not(self) -> None:
        for route in self.routes:
            assert (route.status != RETRY_SCHEDULED) or route.due_at_ms == route.next_attempt_at_ms
            assert (route.status not in TERMINAL) or (route.due_at_ms is None and route.completed_at_ms)


Lifecycle.TestCase.settings = settings(max_examples=150, stateful_step_count=25)
TestLifecycle = Lifecycle.TestCase
