"""Histories that break invariants 5 to 7: attempts, transitions, and what receivers got."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.invariants_breaks import (
    GOOD,
    LAST_FACT,
    Bad,
    altered,
    poll,
    with_arrivals,
    with_notices,
    with_polls,
    with_records,
    with_shown,
)
from tests.invariants_history import Rule
from tests.invariants_samples import LIFECYCLE, arrival, attempted, fact, made, notice, record, shown

BAD_DELIVERIES: Final[list[Bad]] = [
    (
        "a number left out in the API",
        Rule.ATTEMPTS_NOT_GAPLESS,
        with_shown(
            "evt_2",
            shown(2, "delivered", ("delivered", 1), ("delivered", 2)),
            made("wf_a", 1, "delivered"),
            made("wf_b", 2, "delivered"),
        ),
    ),
    (
        "a number twice in the API",
        Rule.ATTEMPTS_NOT_GAPLESS,
        with_shown(
            "evt_2",
            shown(2, "delivered", ("delivered", 1), ("delivered", 1)),
            made("wf_a", 1, "delivered"),
            made("wf_b", 1, "retry_scheduled"),
            made("wf_b", 1, "delivered"),
        ),
    ),
    (
        "falling numbers in the API",
        Rule.ATTEMPTS_NOT_GAPLESS,
        with_shown(
            "evt_1",
            shown(1, "delivered", ("delivered", 1), ("delivered", 2)),
            made("wf_a", 1, "delivered"),
            made("wf_b", 2, "delivered"),
            made("wf_b", 1, "retry_scheduled"),
        ),
    ),
    (
        "a number left out in the log",
        Rule.ATTEMPTS_NOT_GAPLESS,
        with_records(attempted(7, 5, 1, "wf_b", 3, "delivered"), without=(LAST_FACT,)),
    ),
    (
        "a started number left out in the log",
        Rule.ATTEMPTS_NOT_GAPLESS,
        with_records(fact(7, 5, "delivery.started", 1, "wf_b", attempt=3), without=(LAST_FACT,)),
    ),
    (
        "an attempt that only the API knows",
        Rule.ATTEMPTS_DISAGREE,
        with_shown(
            "evt_2",
            shown(2, "delivered", ("delivered", 1), ("delivered", 2)),
            made("wf_a", 1, "delivered"),
            made("wf_b", 1, "retry_scheduled"),
            made("wf_b", 2, "delivered"),
        ),
    ),
    (
        "the API tells another outcome than the log",
        Rule.ATTEMPTS_DISAGREE,
        with_shown(
            "evt_2",
            shown(2, "failed", ("delivered", 1), ("failed", 1)),
            made("wf_a", 1, "delivered"),
            made("wf_b", 1, "failed"),
        ),
    ),
    (
        "a zombie's fact counts in the API",
        Rule.ATTEMPTS_DISAGREE,
        with_records(attempted(7, 0, 1, "wf_b", 2, "delivered"), without=(LAST_FACT,)),
    ),
    (
        "an attempt recorded after the end",
        Rule.AFTER_TERMINAL,
        with_records(attempted(8, 5, 1, "wf_b", 3, "delivered")),
    ),
    (
        "an attempt started after the end",
        Rule.AFTER_TERMINAL,
        with_records(fact(8, 5, "delivery.started", 1, "wf_b", attempt=3)),
    ),
    (
        "an attempt after the end in the API",
        Rule.AFTER_TERMINAL,
        with_shown(
            "evt_2",
            shown(2, "delivered", ("delivered", 1), ("delivered", 2)),
            made("wf_a", 1, "delivered"),
            made("wf_b", 1, "delivered"),
            made("wf_b", 2, "delivered"),
        ),
    ),
    ("a request after the end", Rule.AFTER_TERMINAL, with_arrivals(arrival(2, "wf_b", 1, 200, 9.0))),
    (
        "a receiver sees a number fall",
        Rule.RECEIVED_OUT_OF_TURN,
        with_arrivals(arrival(1, "wf_b", 1, 503, 6.6)),
    ),
    ("a receiver sees a number skipped", Rule.RECEIVED_OUT_OF_TURN, with_arrivals(without=(1,))),
    (
        "a receiver sees an attempt that is not recorded",
        Rule.RECEIVED_UNRECORDED,
        with_arrivals(arrival(1, "wf_b", 3, 200, 6.6)),
    ),
    # 6
    (
        "delivered, then retried",
        Rule.ILLEGAL_MOVE,
        with_polls(
            poll(shown(2, "delivered", ("delivered", 1), ("delivered", 1))),
            poll(shown(2, "retried", ("delivered", 1), ("retry_scheduled", 1))),
        ),
    ),
    (
        "back to accepted",
        Rule.ILLEGAL_MOVE,
        with_polls(poll(shown(1, "accepted", ("queued", 0), ("queued", 0)))),
    ),
    (
        "what was seen last does not lead to the end",
        Rule.ILLEGAL_MOVE,
        with_polls(poll(shown(2, "failed", ("delivered", 1), ("failed", 1)))),
    ),
    (
        "a route goes back to the queue",
        Rule.ILLEGAL_ROUTE_MOVE,
        with_polls(poll(shown(1, "retried", ("queued", 0), ("retry_scheduled", 1)))),
    ),
    (
        "a route's attempt falls",
        Rule.ILLEGAL_ROUTE_MOVE,
        with_polls(poll(shown(1, "retried", ("delivered", 1), ("retry_scheduled", 0)))),
    ),
    (
        "a route is lost",
        Rule.ILLEGAL_ROUTE_MOVE,
        with_polls(
            poll(shown(1, "retried", ("retry_scheduled", 1), ("retry_scheduled", 1))),
            poll(shown(1, "delivered", ("delivered", 1))),
        ),
    ),
    (
        "delivered while a route waits",
        Rule.STATUS_NOT_OF_ROUTES,
        with_polls(poll(shown(2, "delivered", ("delivered", 1), ("queued", 0)))),
    ),
    (
        "failed in the end with all routes delivered",
        Rule.STATUS_NOT_OF_ROUTES,
        with_shown("evt_3", shown(3, "failed", bare=True)),
    ),
    (
        "closed after delivered",
        Rule.ILLEGAL_FACT,
        with_records(fact(8, 5, "delivery.closed", 1, "wf_b", error={"code": "target_deleted"})),
    ),
    (
        "parked after an attempt",
        Rule.ILLEGAL_FACT,
        with_records(
            fact(7, 5, "delivery.parked", 1, "wf_b", reason="backlog"),
            attempted(8, 5, 1, "wf_b", 2, "delivered"),
            without=(LAST_FACT,),
        ),
    ),
    (
        "an outcome that there is not",
        Rule.ILLEGAL_FACT,
        with_records(attempted(7, 5, 1, "wf_b", 2, "lost"), without=(LAST_FACT,)),
    ),
    (
        "a fact of a route that the event has not",
        Rule.ILLEGAL_FACT,
        with_records(attempted(8, 5, 1, "wf_c", 1, "delivered")),
    ),
    (
        "a fact that names another record",
        Rule.ILLEGAL_FACT,
        with_records(
            record(LIFECYCLE, 7, {**attempted(7, 5, 1, "wf_b", 2, "delivered").json, "offset": 1}),
            without=(LAST_FACT,),
        ),
    ),
    # 7
    ("delivered, and no receiver saw it", Rule.UNACKNOWLEDGED, with_arrivals(without=(0,))),
    (
        "delivered, and the receiver answered 503",
        Rule.UNACKNOWLEDGED,
        with_arrivals(arrival(1, "wf_b", 2, 503, 6.5), without=(5,)),
    ),
    (
        "delivered, and the receiver never answered",
        Rule.UNACKNOWLEDGED,
        with_arrivals(arrival(1, "wf_b", 2, None, 6.5), without=(5,)),
    ),
    (
        "delivered, and only another attempt was acknowledged",
        Rule.UNACKNOWLEDGED,
        with_arrivals(arrival(1, "wf_b", 1, 200, 6.5), without=(5,)),
    ),
    (
        "delivered, and the signature is by another secret",
        Rule.UNACKNOWLEDGED,
        lambda history: replace(history, secrets={**history.secrets, "wf_b": "whsec_c"}),
    ),
    (
        "a signature by another secret",
        Rule.FORGED,
        lambda history: replace(history, secrets={**history.secrets, "wf_a": "whsec_c"}),
    ),
    (
        "no signature",
        Rule.FORGED,
        with_arrivals(altered(arrival(1, "wf_a", 1, 200, 0.6), x_atlas_signature="")),
    ),
    (
        "a body that was changed on the way",
        Rule.FORGED,
        with_arrivals(replace(GOOD.arrivals[0], body=GOOD.arrivals[0].body + b" "), without=(0,)),
    ),
    (
        "a signature older than five minutes",
        Rule.FORGED,
        with_arrivals(replace(GOOD.arrivals[5], at_ms=GOOD.arrivals[5].at_ms + 301_000), without=(5,)),
    ),
    (
        "acknowledged, and not delivered nor tried again",
        Rule.FORGOTTEN,
        with_records(attempted(7, 5, 1, "wf_b", 2, "failed"), without=(LAST_FACT,)),
    ),
    (
        "another delivery id on the second attempt",
        Rule.DELIVERY_ID_CHANGED,
        with_arrivals(altered(GOOD.arrivals[5], x_atlas_delivery_id="whd_new"), without=(5,)),
    ),
    (
        "one delivery id for two events",
        Rule.DELIVERY_ID_SHARED,
        with_arrivals(altered(GOOD.arrivals[2], x_atlas_delivery_id="whd_1_wf_a"), without=(2,)),
    ),
    (
        "the receiver got other data",
        Rule.DELIVERED_OTHERWISE,
        with_arrivals(replace(GOOD.arrivals[0], body=GOOD.arrivals[0].body.replace(b'"n":1', b'"n":2'))),
    ),
    ("an event that is not in the log", Rule.STRANGER, with_arrivals(arrival(8, "wf_a", 1, 200, 1.0))),
    (
        "a target that the event does not name",
        Rule.STRANGER,
        with_arrivals(replace(GOOD.arrivals[0], target="wf_c")),
    ),
    ("an outcome that nobody was told of", Rule.UNTOLD, with_notices(without=(0,))),
    ("an outcome that no endpoint acknowledged", Rule.UNTOLD, with_notices(without=(3,))),
    (
        "an outcome told again as another one",
        Rule.TOLD_TWICE,
        with_notices(notice("event.delivered", 2, "wf_a", 1)),
    ),
    (
        "told of a failure that was none",
        Rule.TOLD_WRONGLY,
        with_notices(notice("event.failed", 2, "wf_b", 1)),
    ),
    (
        "a notification without a good signature",
        Rule.TOLD_WRONGLY,
        with_notices(
            altered(notice("event.delivered", 2, "wf_b", 1), **{"x-atlas-signature": "t=1779000007,v1=0"})
        ),
    ),
    (
        "a notification under its id with another body",
        Rule.TOLD_WRONGLY,
        with_notices(
            replace(
                notice("event.delivered", 2, "wf_b", 1),
                body=b'{"id":"","type":"event.delivered","data":{"event_id":"evt_2"}}',
            )
        ),
    ),
]
