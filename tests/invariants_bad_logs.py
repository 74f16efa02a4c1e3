"""Histories that break invariants 1 to 4: what was accepted, where it lies, whether it is seen and ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.invariants_breaks import (
    LAST_FACT,
    Bad,
    arrivals_reversed,
    both,
    ordered_to_a,
    with_polls,
    with_records,
    with_shown,
    with_tries,
    without_shown,
)
from tests.invariants_history import Poll, Rule
from tests.invariants_log import reading_of
from tests.invariants_samples import claim, event_record, made, shown, tried

BAD_LOGS: Final[list[Bad]] = [
    (
        "a later event of a key first at an ordered workflow",
        Rule.RECEIVED_OUT_OF_ORDER,
        both(ordered_to_a, arrivals_reversed),
    ),
    # 1
    ("an answered event is not in the log", Rule.LOST, with_records(without=(2,))),
    ("an answered keyed event is not in the log", Rule.LOST, with_records(without=(1,))),
    ("an ok, two records of the key", Rule.DOUBLED, with_records(event_record(1, 2, id="evt_1b"))),
    ("an ok without key, two records", Rule.DOUBLED, with_records(event_record(3, 1, None, id="evt_3b"))),
    (
        "an info, two records of the key",
        Rule.DOUBLED,
        both(with_tries(without=(2,)), with_records(event_record(2, 2, id="evt_2b"))),
    ),
    (
        "an info without key, two records",
        Rule.DOUBLED,
        with_records(event_record(4, 1, None), event_record(4, 2, None, id="evt_4b")),
    ),
    (
        "one key, two payloads, two records",
        Rule.DOUBLED,
        with_records(event_record(9, 2, "K1")),
    ),
    (
        "a refused payload is in the log",
        Rule.REFUSED_YET_RECORDED,
        both(with_tries(without=(0,)), with_records(event_record(9, 0, "K1"), without=(0,))),
    ),
    (
        "a refused event is in the log",
        Rule.REFUSED_YET_RECORDED,
        both(
            with_tries(tried(5, "fail", 1, status=400)),
            with_records(event_record(5, 2)),
        ),
    ),
    ("nobody sent it", Rule.NEVER_SENT, with_records(event_record(7, 2))),
    (
        "its data are not what was sent",
        Rule.NEVER_SENT,
        with_records(event_record(3, 0, None, data={"n": 33}), without=(2,)),
    ),
    ("its key is not what was sent", Rule.NEVER_SENT, with_records(event_record(1, 0, "K7"), without=(0,))),
    (
        "answered with the id of no record",
        Rule.OTHER_ID,
        with_tries(tried(1, "ok", 1, event_id="evt_0"), without=(0,)),
    ),
    ("one id, two events", Rule.ID_TWICE, with_records(event_record(2, 2, id="evt_1"), without=(1,))),
    # 2
    (
        "another answer the second time",
        Rule.ANSWERS_DIFFER,
        with_tries(tried(1, "ok", 5, answer=b"answer 1 ")),
    ),
    (
        "another id the second time",
        Rule.ANSWERS_DIFFER,
        with_tries(tried(1, "ok", 5, event_id="evt_1b")),
    ),
    (
        "another payload accepted",
        Rule.KEY_TAKEN_TWICE,
        with_tries(tried(1, "ok", 5, number=9), without=(3,)),
    ),
    (
        "another payload refused for another reason",
        Rule.REUSE_NOT_REFUSED,
        with_tries(tried(1, "fail", 5, number=9, status=400)),
    ),
    ("a retry refused", Rule.REFUSED_FOR_NOTHING, with_tries(tried(2, "fail", 5))),
    (
        "refused before the other payload was sent",
        Rule.REFUSED_FOR_NOTHING,
        with_tries(tried(1, "fail", 0, number=8)),
    ),
    # 3
    (
        "an offset changed its value",
        Rule.VALUE_CHANGED,
        lambda history: replace(history, readings=(reading_of([event_record(2, 0)]),)),
    ),
    (
        "a record's end was cut off",
        Rule.VANISHED,
        lambda history: replace(
            history, readings=(reading_of(history.records),), records=history.records[:-1]
        ),
    ),
    (
        "a whole partition went away",
        Rule.VANISHED,
        lambda history: replace(history, readings=({("atlas.control", 0): [1]},)),
    ),
    ("two records at an offset", Rule.OFFSET_TWICE, with_records(claim(7))),
    ("an offset left out", Rule.OFFSET_LEFT_OUT, with_records(claim(9))),
    ("a log that starts late", Rule.OFFSET_LEFT_OUT, with_records(without=(0,))),
    (
        "a later event before an earlier one",
        Rule.OUT_OF_ORDER,
        with_records(event_record(2, 0), event_record(1, 1), without=(0, 1)),
    ),
    (
        "one ordering key in two partitions",
        Rule.KEY_SPLIT,
        with_records(replace(event_record(2, 0), partition=1), without=(1,)),
    ),
    # 4
    ("it healed too late", Rule.NOT_HEALED, lambda history: replace(history, healed_s=2.1)),
    ("it never healed", Rule.NOT_HEALED, lambda history: replace(history, healed_s=None)),
    ("a 404 after a 202", Rule.HIDDEN, with_polls(Poll("p1", "evt_2", 404))),
    ("an event that the API does not know", Rule.UNSEEN, without_shown("evt_2")),
    (
        "an event that only the API knows",
        Rule.SHOWN_NOT_LOGGED,
        with_shown("evt_8", shown(8, "delivered", bare=True)),
    ),
    (
        "another type in the API",
        Rule.SHOWN_OTHERWISE,
        with_shown("evt_3", {**shown(3, "delivered", bare=True), "type": "a.c"}),
    ),
    (
        "a route missing in the API",
        Rule.SHOWN_OTHERWISE,
        with_shown("evt_2", shown(2, "delivered", ("delivered", 1)), made("wf_a", 1, "delivered")),
    ),
    (
        "a route that waits for ever in the API",
        Rule.NOT_TERMINAL,
        with_shown(
            "evt_2",
            shown(2, "retried", ("delivered", 1), ("retry_scheduled", 1)),
            made("wf_a", 1, "delivered"),
            made("wf_b", 1, "retry_scheduled"),
        ),
    ),
    ("a route without an outcome in the log", Rule.NOT_TERMINAL, with_records(without=(LAST_FACT,))),
]
