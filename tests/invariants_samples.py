"""A run in which nothing is wrong, small enough to break in every way by hand.

Client `c1` sends K1 and K2 in order, both to `wf_a` and `wf_b`; it never hears the first answer to K2 and
asks again. It uses K1 once more with another payload. Client `c2` sends an event without key or route; the
connection is cut on another, which was not recorded. `wf_b` fails K1 once; Atlas is killed before the
answer to K2's first attempt there is recorded, so that attempt is made twice. An endpoint is told of all.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

import orjson

from tests.invariants_history import Arrival, History, LogRecord, Poll, Shown, Try, payload_text
from tests.invariants_log import reading_of

TOPIC: Final = "atlas.live.ws_1.orders"
BARE_TOPIC: Final = "atlas.live.ws_1.bare"
LIFECYCLE: Final = "atlas.lifecycle"
TARGETS: Final = ("wf_a", "wf_b")
ENDPOINT: Final = "we_all"
SECRETS: Final = {"wf_a": "whsec_a", "wf_b": "whsec_b", ENDPOINT: "whsec_e"}
START_MS: Final = 1_779_000_000_000


def sent(number: int, stream: str = "orders", ordering_key: str | None = "o") -> dict[str, Any]:
    """What a client sends."""
    event = {"stream": stream, "type": "a.b", "occurred_at": "2026-05-18T14:22:11Z", "data": {"n": number}}
    return event if ordering_key is None else {**event, "ordering_key": ordering_key}


def tried(sequence: int, outcome: str, at_s: float, number: int = 0, **more: Any) -> Try:
    """A try by `c1` of event `number` under the key of the same number, unless told otherwise."""
    given: dict[str, Any] = {
        "environment": "live",
        "client": "c1",
        "key": f"K{sequence}",
        "ordering_key": "o",
        "payload": payload_text(sent(number or sequence)),
        "status": {"ok": 202, "fail": 409, "info": None}[outcome],
    }
    if outcome == "ok":
        given |= {"event_id": f"evt_{sequence}", "answer": b"answer %d" % sequence}
    return Try(sequence=sequence, outcome=outcome, invoked_s=at_s, ended_s=at_s + 0.5, **{**given, **more})


def event_record(number: int, offset: int, key: str | None = "", **more: Any) -> LogRecord:
    """The record of event `number`."""
    bare = key is None
    value = {
        "id": f"evt_{number}",
        "workspace_id": "ws_1",
        "environment": "live",
        **sent(number, *(("bare", None) if bare else ())),
        "received_at": "2026-05-18T14:22:11.000Z",
        "actor": None,
        "metadata": None,
        "idempotency_key": f"K{number}" if key == "" else key,
        "routes": () if bare else TARGETS,
        **more,
    }
    topic = BARE_TOPIC if bare else TOPIC
    return record(topic, offset, value, "atlas.event/1")


def record(topic: str, offset: int, value: object, schema: str = "atlas.lifecycle/1") -> LogRecord:
    """A record of partition 0, appended `offset` seconds after the start."""
    return LogRecord(
        topic=topic,
        partition=0,
        offset=offset,
        timestamp_ms=START_MS + 1_000 * offset,
        schema=schema,
        value=orjson.dumps(value),
    )


def claim(offset: int) -> LogRecord:
    return record(LIFECYCLE, offset, {"fact": "shard.claimed", "owner": "m", "at_ms": START_MS})


def fact(offset: int, epoch: int, kind: str, number: int, target: str, **more: Any) -> LogRecord:
    """A delivery fact of event `number`, which lies at offset `number - 1`."""
    named = {"event_id": f"evt_{number}", "topic": TOPIC, "offset": number - 1, "target": target}
    return record(LIFECYCLE, offset, {"fact": kind, "epoch": epoch, **named, **more})


def attempted(offset: int, epoch: int, number: int, target: str, attempt: int, outcome: str) -> LogRecord:
    """The fact of an attempt that was answered."""
    status = 200 if outcome == "delivered" else 503
    more = {"attempt": attempt, "outcome": outcome, "http_status": status}
    return fact(offset, epoch, "delivery.attempted", number, target, **more)


def arrival(number: int, target: str, attempt: int, status: int | None, second: float) -> Arrival:
    """A request for event `number`, signed as the reference says, so many seconds after the start."""
    record_of_it = event_record(number, 0).json
    names = ("id", "stream", "type", "occurred_at", "received_at", "data", "actor", "metadata")
    body = {**{name: record_of_it[name] for name in names}, "object": "event"}
    return _request(target, f"whd_{number}_{target}", attempt, body, status, second)


def notice(kind: str, number: int, target: str, attempt: int, status: int | None = 200) -> Arrival:
    """A request that tells of an outcome of event `number`."""
    identifier = f"whd_{kind}_{number}_{target}_{attempt}"
    data = {"event_id": f"evt_{number}", "stream": "orders", "workflow_id": target, "attempt": attempt}
    return _request(ENDPOINT, identifier, 1, {"id": identifier, "type": kind, "data": data}, status, 7.0)


def _request(
    target: str, delivery_id: str, attempt: int, value: object, status: int | None, second: float
) -> Arrival:
    body = orjson.dumps(value)
    at_ms = START_MS + int(1_000 * second)
    signed = f"{at_ms // 1_000}.".encode() + body
    mac = hmac.new(SECRETS[target].encode(), signed, hashlib.sha256).hexdigest()
    headers = {
        "x-atlas-delivery-id": delivery_id,
        "x-atlas-attempt": str(attempt),
        "x-atlas-signature": f"t={at_ms // 1_000},v1={mac}",
    }
    return Arrival(target=target, at_ms=at_ms, headers=headers, body=body, status=status)


def shown(number: int, status: str, *routes: tuple[str, int], bare: bool = False) -> dict[str, Any]:
    """The API's view of event `number`, with status and last attempt for each target."""
    record_of_it = event_record(number, 0, None if bare else "").json
    names = ("id", "stream", "type", "received_at", "occurred_at")
    views = [
        {"workflow_id": target, "status": state, "attempt": attempt}
        for target, (state, attempt) in zip(TARGETS, routes, strict=False)
    ]
    return {**{name: record_of_it[name] for name in names}, "status": status, "attempts": views}


def made(target: str, attempt: int, status: str) -> dict[str, Any]:
    """An item of `/attempts`."""
    return {"workflow_id": target, "attempt": attempt, "status": status}


def good_history() -> History:
    """See the module docstring."""
    unkeyed: dict[str, Any] = {"client": "c2", "key": None, "ordering_key": None}
    tries = (
        tried(1, "ok", 1),
        tried(2, "info", 2),
        tried(2, "ok", 3),
        tried(1, "fail", 4, number=9),
        tried(3, "ok", 1, **unkeyed, payload=payload_text(sent(3, "bare", None))),
        tried(4, "info", 2, **unkeyed, payload=payload_text(sent(4, "bare", None))),
    )
    records = (
        event_record(1, 0),
        event_record(2, 1),
        event_record(3, 0, None),
        claim(0),
        attempted(1, 0, 1, "wf_a", 1, "delivered"),
        fact(2, 0, "delivery.started", 1, "wf_b", attempt=1),
        attempted(3, 0, 1, "wf_b", 1, "retry_scheduled"),
        attempted(4, 0, 2, "wf_a", 1, "delivered"),
        claim(5),
        attempted(6, 5, 2, "wf_b", 1, "delivered"),
        attempted(7, 5, 1, "wf_b", 2, "delivered"),
    )
    polls = (
        Poll("p1", "evt_1", 200, shown(1, "accepted", ("queued", 0), ("queued", 0))),
        Poll("p1", "evt_1", 200, shown(1, "processing", ("delivered", 1), ("queued", 0))),
        Poll("p1", "evt_1", 503),
        Poll("p1", "evt_1", 200, shown(1, "retried", ("delivered", 1), ("retry_scheduled", 1))),
    )
    both = (made("wf_a", 1, "delivered"), made("wf_b", 1, "delivered"))
    retried = (made("wf_a", 1, "delivered"), made("wf_b", 1, "retry_scheduled"), made("wf_b", 2, "delivered"))
    return History(
        tries=tries,
        polls=polls,
        readings=(reading_of(records[:1]), reading_of(records[:5])),
        records=records,
        shown={
            "evt_1": Shown(shown(1, "delivered", ("delivered", 1), ("delivered", 2)), retried),
            "evt_2": Shown(shown(2, "delivered", ("delivered", 1), ("delivered", 1)), both),
            "evt_3": Shown(shown(3, "delivered", bare=True), ()),
        },
        arrivals=(
            arrival(1, "wf_a", 1, 200, 0.5),
            arrival(1, "wf_b", 1, 503, 2.5),
            arrival(2, "wf_a", 1, 200, 3.5),
            arrival(2, "wf_b", 1, 200, 4.5),
            arrival(2, "wf_b", 1, 200, 5.5),
            arrival(1, "wf_b", 2, 200, 6.5),
        ),
        notices=(
            notice("event.retry_scheduled", 1, "wf_b", 1),
            notice("event.delivered", 2, "wf_b", 1),
            notice("event.delivered", 1, "wf_b", 2, None),
            notice("event.delivered", 1, "wf_b", 2),
        ),
        secrets=SECRETS,
        healed_s=1.0,
        heals_within_s=2.0,
    )
