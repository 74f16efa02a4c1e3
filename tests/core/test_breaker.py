"""The rules of circuit breakers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.breaker import (
    CLOSED,
    FAILURES_MAX,
    FRESH,
    HALF_OPEN,
    JITTER,
    OPEN,
    PROBE_AFTER_MAX_MS,
    PROBE_AFTER_MS,
    Breaker,
    failed,
    of,
    probing,
    reopened,
    speaks_against,
)
from atlas.core.entities import Workflow
from atlas.core.facts import FactError

TIMEOUT = FactError("upstream_timeout", "Target did not respond within 5s")


TARGET = Workflow(
    id="wf_a",
    workspace_id="ws_a",
    environment="live",
    url="http://a",
    secrets=(),
    created_at_ms=0,
    revision=7,
)


def after_failures(count: int, breaker: Breaker = FRESH, now_ms: int = 0) -> Breaker:
    for _ in range(count):
        breaker = failed(breaker, TIMEOUT, now_ms, 0.0)
    return breaker


def test_it_opens_at_so_many_failures_and_not_one_before() -> None:
    assert after_failures(FAILURES_MAX - 1).state == CLOSED
    opened = after_failures(FAILURES_MAX, now_ms=5)
    assert (opened.state, opened.opened_at_ms) == (OPEN, 5)
    assert opened.next_probe_at_ms == 5 + PROBE_AFTER_MS
    assert opened.reason == (
        "20 attempts in a row failed, the last with upstream_timeout: Target did not respond within 5s"
    )
    assert failed(opened, TIMEOUT, 99, 0.0) == opened, "begun before it opened"


def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest() -> None:
    breaker, waits = after_failures(FAILURES_MAX), []
    for turn in range(40):
        breaker = failed(probing(breaker), TIMEOUT, turn, 0.0)
        assert breaker.next_probe_at_ms is not None
        waits.append(breaker.next_probe_at_ms - turn)
    assert waits[:4] == [2_000, 4_000, 8_000, 16_000]
    assert set(waits[4:]) == {PROBE_AFTER_MAX_MS}
    assert breaker.opened_at_ms == 0, "open since the first time"


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_shorter_than_its_step_nor_much_longer(trips: int, uniform01: float) -> None:
    before = Breaker(state=HALF_OPEN, failures=FAILURES_MAX, trips=trips, opened_at_ms=0)
    after = failed(before, TIMEOUT, 0, uniform01)
    step_ms = min(PROBE_AFTER_MS * 2**trips, PROBE_AFTER_MAX_MS)
    assert after.next_probe_at_ms is not None
    assert step_ms <= after.next_probe_at_ms <= step_ms * (1 + JITTER)


def test_while_a_probe_is_under_way_nobody_knows_when_the_next_will_be() -> None:
    assert probing(after_failures(FAILURES_MAX)).next_probe_at_ms is None
    again = reopened(probing(after_failures(FAILURES_MAX)), 7)
    assert (again.state, again.next_probe_at_ms, again.trips) == (OPEN, 7, 1)


@pytest.mark.parametrize(
    ("code", "http_status", "against"),
    [
        (None, 200, False),
        ("upstream_timeout", None, True),
        ("upstream_unreachable", None, True),
        ("upstream_tls", None, True),
        ("upstream_status", 500, True),
        ("upstream_status", 599, True),
        ("upstream_status", 429, True),
        ("upstream_status", 499, False),
        ("upstream_status", 302, False),
        ("upstream_status", 404, False),
        ("upstream_gone", 410, False),
        ("upstream_blocked", None, None),
    ],
)
def test_what_speaks_against_a_target(
    code: str | None, http_status: int | None, against: bool | None
) -> None:
    error = None if code is None else FactError(code, "")
    assert speaks_against(error, http_status) is against


@pytest.mark.parametrize(("revision", "holds"), [(6, False), (7, True), (8, True)])
def test_what_is_held_against_a_target_is_over_once_it_is_changed(revision: int, holds: bool) -> None:
    breaker = Breaker(state=OPEN, revision=revision)
    assert of(TARGET, {"wf_a": breaker, "wf_b": breaker}) == (breaker if holds else FRESH)
    assert of(TARGET, {"wf_b": breaker}) == FRESH


#: A step: what happens to a breaker, and after how long.
STEPS = st.lists(
    st.tuples(st.sampled_from(["failed", "answered", "probe", "unproved"]), st.integers(0, 60_000)),
    max_size=80,
)


@given(STEPS, st.floats(0, 1, exclude_max=True))
def test_whatever_happens_it_knows_when_the_next_probe_is_while_it_is_open(
    steps: list[tuple[str, int]], uniform01: float
) -> None:
    """Driven as a lane drives it: a probe only when its time has come, and one at a time."""
    breaker, now_ms, in_a_row = FRESH, 0, 0
    for what, after_ms in steps:
        now_ms += after_ms
        before = breaker
        if what == "failed":
            breaker, in_a_row = failed(breaker, TIMEOUT, now_ms, uniform01), in_a_row + 1
        elif what == "answered":
            breaker, in_a_row = FRESH, 0
        elif breaker.state == OPEN and what == "probe" and now_ms >= (breaker.next_probe_at_ms or 0):
            breaker = probing(breaker)
        elif breaker.state == HALF_OPEN and what == "unproved":
            breaker = reopened(breaker, now_ms + PROBE_AFTER_MS)
        assert (breaker.state == CLOSED) == (in_a_row < FAILURES_MAX)
        assert (breaker.next_probe_at_ms is not None) == (breaker.state == OPEN)
        assert (breaker.opened_at_ms is None) == (breaker.reason is None) == (breaker.state == CLOSED)
        if breaker.state == OPEN and before.state != OPEN:
            wait_ms = (breaker.next_probe_at_ms or 0) - now_ms
            assert PROBE_AFTER_MS <= wait_ms <= PROBE_AFTER_MAX_MS * (1 + JITTER)
        if before.state != CLOSED and breaker.state != CLOSED:
            assert breaker.opened_at_ms == before.opened_at_ms
            assert breaker.trips >= before.trips
