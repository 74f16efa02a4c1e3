"""The checker of the invariants finds every way there is to break one, and nothing in a run that is good."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import orjson
import pytest

from tests.invariants import check
from tests.invariants_bad_deliveries import BAD_DELIVERIES
from tests.invariants_bad_logs import BAD_LOGS
from tests.invariants_breaks import (
    GOOD,
    LAST_FACT,
    Break,
    both,
    ordered_to_a,
    poll,
    with_arrivals,
    with_notices,
    with_polls,
    with_records,
    with_shown,
    with_tries,
)
from tests.invariants_history import History, Rule, payload_text
from tests.invariants_samples import (
    LIFECYCLE,
    arrival,
    attempted,
    claim,
    event_record,
    made,
    notice,
    record,
    sent,
    shown,
    tried,
)

BROKEN: Final = [*BAD_LOGS, *BAD_DELIVERIES]


@pytest.mark.parametrize(("rule", "broken"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN])
def test_a_bad_history_is_found_out(rule: Rule, broken: Break) -> None:
    found = check(broken(GOOD))
    assert rule in {violation.rule for violation in found}, [str(violation) for violation in found]


def test_every_rule_has_a_bad_history() -> None:
    assert {rule for _, rule, _ in BROKEN} == set(Rule)


def test_every_invariant_has_rules() -> None:
    assert {rule.invariant for rule in Rule} == set(range(1, 8))


def test_a_violation_names_the_ids_involved() -> None:
    [lost, *_] = check(with_records(without=(2,))(GOOD))
    assert "evt_3" in str(lost)
    assert "invariant 1" in str(lost)


FINE: Final[list[tuple[str, Break]]] = [
    ("events of a key in order at an ordered workflow", ordered_to_a),
    ("nothing happened", lambda _: History()),
    ("the whole sample", lambda history: history),
    (
        "an info that was recorded",
        both(with_records(event_record(4, 1, None)), with_shown("evt_4", shown(4, "delivered", bare=True))),
    ),
    ("the same answer again", with_tries(tried(1, "ok", 9))),
    ("a refused event", with_tries(tried(5, "fail", 1, status=400))),
    ("a poller that skips states", with_polls(poll(shown(2, "accepted", ("queued", 0), ("queued", 0))))),
    (
        "another payload took the key first, and its answer was lost",
        with_tries(tried(1, "info", 0.5), tried(1, "fail", 0.9, number=9)),
    ),
    (
        "void: by an owner who lost the shard",
        with_records(attempted(8, 0, 1, "wf_b", 3, "delivered")),
    ),
    ("void: the same fact appended twice", with_records(attempted(8, 5, 1, "wf_b", 2, "delivered"))),
    (
        "a request that left before the outcome of another was recorded",
        with_arrivals(arrival(2, "wf_b", 1, 200, 6.05)),
    ),
    (
        "an attempt that reached nobody",
        both(
            with_arrivals(without=(1,)),
            lambda history: replace(
                history,
                readings=(),
                records=[
                    record(LIFECYCLE, each.offset, {**each.json, "http_status": None})
                    if each.topic == LIFECYCLE and each.offset == 3
                    else each
                    for each in history.records
                ],
            ),
        ),
    ),
    (
        "acknowledged and forgotten by a crash, tried again, failed in the end",
        both(
            both(
                with_arrivals(arrival(1, "wf_b", 2, 503, 6.6)),
                with_notices(notice("event.failed", 1, "wf_b", 2), without=(2, 3)),
            ),
            both(
                with_records(attempted(7, 5, 1, "wf_b", 2, "failed"), without=(LAST_FACT,)),
                with_shown(
                    "evt_1",
                    shown(1, "failed", ("delivered", 1), ("failed", 2)),
                    made("wf_a", 1, "delivered"),
                    made("wf_b", 1, "retry_scheduled"),
                    made("wf_b", 2, "failed"),
                ),
            ),
        ),
    ),
]


@pytest.mark.parametrize("fine", [each[1] for each in FINE], ids=[each[0] for each in FINE])
def test_a_good_history_passes(fine: Break) -> None:
    assert [str(violation) for violation in check(fine(GOOD))] == []


def test_clients_that_share_an_ordering_key_have_no_order_between_them() -> None:
    swapped = with_records(event_record(2, 0), event_record(1, 1), without=(0, 1))
    found = check(both(with_tries(tried(1, "ok", 1, client="c3"), without=(0,)), swapped)(GOOD))
    assert Rule.OUT_OF_ORDER not in {violation.rule for violation in found}


def test_payloads_are_equal_when_their_values_are() -> None:
    one, two = sent(1), dict(reversed(sent(1).items()))
    assert payload_text(one) == payload_text({**two, "actor": None, "idempotency_key": "K"})
    assert payload_text(one) != payload_text(sent(2))
    assert payload_text({"data": {"n": 1}}) != payload_text({"data": {"n": 1.0}})
    assert orjson.loads(payload_text(one)) == one


def test_a_topic_of_events_is_told_from_facts_by_its_schema() -> None:
    assert event_record(1, 0).is_event
    assert claim(0).is_fact
    assert event_record(1, 0).where == "atlas.live.ws_1.orders[0]@0"
