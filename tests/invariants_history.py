"""What four independent sources say of one run, as plain data, and what can be wrong with it.

The sources: the clients' log (`tries`, `polls`), the raw topics (`records`, and `readings` made earlier),
the API (`shown`), the receivers' log (`arrivals`). None of them is believed; invariants.py compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final, NamedTuple

import orjson

OK: Final = "ok"
FAIL: Final = "fail"
INFO: Final = "info"

#: The members of a request that make two events the same or not.
PAYLOAD_FIELDS: Final = ("stream", "type", "occurred_at", "data", "actor", "metadata", "ordering_key")


def payload_text(value: Mapping[str, Any]) -> str:
    """What an event says, as one text: equal exactly when the JSON values are. For requests and records."""
    said = {name: value[name] for name in PAYLOAD_FIELDS if value.get(name) is not None}
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One event as one request carried it: invoke -> ok | fail | info.

    Attributes:
        client: one after the other: its next event is invoked after the last try of this one ended.
        sequence: rises with a client's events; the items of a batch in the order sent.
        key: the idempotency key, as records show it.
        payload: see `payload_text`; no two logical events of a run have the same.
        outcome: ok: a 202. fail: refused for good. info: nobody knows (a cut, a timeout, a 503).
        answer: the body of the 202, or the event in a batch's answer.
    """

    environment: str
    client: str
    sequence: int
    key: str | None
    ordering_key: str | None
    payload: str
    invoked_s: float
    ended_s: float
    outcome: str
    status: int | None = None
    event_id: str | None = None
    answer: bytes | None = None

    @property
    def logical(self) -> Logical:
        return Logical(self.environment, self.key, self.payload)


class Logical(NamedTuple):
    """What is one event, however often it is sent."""

    environment: str
    key: str | None
    payload: str


@dataclass(frozen=True, kw_only=True)
class LogRecord:
    """One record, as it lies in the log's file."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    schema: str
    value: bytes

    @cached_property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = orjson.loads(self.value)
        return value

    @property
    def is_event(self) -> bool:
        return self.schema == "atlas.event/1"

    @property
    def is_fact(self) -> bool:
        return self.schema == "atlas.lifecycle/1"

    @property
    def where(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @cached_property
    def logical(self) -> Logical:
        return Logical(self.json["environment"], self.json["idempotency_key"], payload_text(self.json))


#: A log at an earlier time: by topic and partition, a fingerprint of each record from offset 0.
Reading = Mapping[tuple[str, int], Sequence[int]]


def fingerprint(record: LogRecord) -> int:
    """64 bits that no other value has."""
    return int.from_bytes(hashlib.sha256(record.schema.encode() + b"\n" + record.value).digest()[:8])


@dataclass(frozen=True, slots=True)
class Poll:
    """One look of a poller at an event, in its order; `event` is the body of a 200."""

    poller: str
    event_id: str
    status: int
    event: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What the API says of an event in the end: `GET /v1/events/{id}`, and the items of `/attempts`."""

    event: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request at a receiver: `headers` by lower-case name, `status` None when it was never answered."""

    target: str
    at_ms: int
    headers: Mapping[str, str]
    body: bytes
    status: int | None

    @property
    def delivery_id(self) -> str:
        return self.headers.get("x-atlas-delivery-id", "")

    @property
    def attempt(self) -> int:
        return int(self.headers.get("x-atlas-attempt", "0"))

    @property
    def event_id(self) -> str:
        return str(orjson.loads(self.body)["id"])

    @property
    def acknowledged(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, kw_only=True)
class History:
    """One run. Every sequence is in the order of time; `records` in the order of offsets.

    Attributes:
        notices: requests at webhook endpoints, which have an outcome to tell; None: there is no endpoint.
        deleted: records below these offsets, by topic and partition, are past retention, and with them goes
            whatever was still to be sent.
        secrets: signing secret by target, endpoints among them.
        healed_s: from the last fault until nothing was open any more; None: that was not waited to see.
        heals_within_s: the bound that was stated for it.
    """

    tries: Sequence[Try] = ()
    polls: Sequence[Poll] = ()
    readings: Sequence[Reading] = ()
    records: Sequence[LogRecord] = ()
    shown: Mapping[str, Shown] = field(default_factory=dict)
    arrivals: Sequence[Arrival] = ()
    notices: Sequence[Arrival] | None = None
    deleted: Mapping[tuple[str, int], int] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    healed_s: float | None = 0.0
    heals_within_s: float = 0.0


class Rule(Enum):
    """Every way a history can be bad: the number of the invariant, and what is wrong."""

    LOST = (1, "answered 202, and not in the log")
    DOUBLED = (1, "one logical event in several records")
    REFUSED_YET_RECORDED = (1, "refused, and in the log all the same")
    NEVER_SENT = (1, "in the log, and sent by nobody")
    OTHER_ID = (1, "the answer names another id than the record")
    ID_TWICE = (1, "one event id in several records")

    ANSWERS_DIFFER = (2, "one key and payload, and different answers")
    KEY_TAKEN_TWICE = (2, "one key accepted with two payloads")
    REUSE_NOT_REFUSED = (2, "a taken key with another payload was not answered 409")
    REFUSED_FOR_NOTHING = (2, "409, and the key was used with no other payload")

    VALUE_CHANGED = (3, "an offset showed two values")
    VANISHED = (3, "a record that was read is gone")
    OFFSET_TWICE = (3, "two records at one offset")
    OFFSET_LEFT_OUT = (3, "offsets with a gap")
    OUT_OF_ORDER = (3, "a client's events with one ordering key are out of order")
    RECEIVED_OUT_OF_ORDER = (3, "a receiver got events of a key out of order, where that is kept")
    KEY_SPLIT = (3, "one ordering key in several partitions")

    NOT_HEALED = (4, "not healed within the bound")
    HIDDEN = (4, "answered 202, and then 404")
    UNSEEN = (4, "in the log, and not in the API")
    SHOWN_NOT_LOGGED = (4, "in the API, and not in the log")
    SHOWN_OTHERWISE = (4, "the API shows another event than the log holds")
    NOT_TERMINAL = (4, "a route that has not ended")

    ATTEMPTS_NOT_GAPLESS = (5, "attempt numbers are not 1, 2, 3, ...")
    ATTEMPTS_DISAGREE = (5, "the API's attempts are not those in the log")
    AFTER_TERMINAL = (5, "an attempt after the route had ended")
    RECEIVED_OUT_OF_TURN = (5, "a receiver saw attempt numbers fall or skip")
    RECEIVED_UNRECORDED = (5, "a receiver saw an attempt that is recorded nowhere")

    ILLEGAL_MOVE = (6, "an event's status moved against the graph")
    ILLEGAL_ROUTE_MOVE = (6, "a route's status moved against the graph")
    STATUS_NOT_OF_ROUTES = (6, "an event's status does not follow from its routes")
    ILLEGAL_FACT = (6, "a fact by the shard's owner that does not fit its route")

    UNACKNOWLEDGED = (7, "delivered, and no receiver answered 2xx to that attempt with a good signature")
    FORGED = (7, "a request without a good signature")
    FORGOTTEN = (7, "a receiver answered 2xx, and the route is neither delivered nor was it tried again")
    DELIVERY_ID_CHANGED = (7, "one route with several delivery ids")
    DELIVERY_ID_SHARED = (7, "one delivery id on several routes")
    DELIVERED_OTHERWISE = (7, "a receiver got another event than the log holds")
    UNTOLD = (7, "an outcome, and no endpoint acknowledged that it was told")
    TOLD_TWICE = (7, "one outcome in several notifications")
    TOLD_WRONGLY = (7, "a notification of what did not come about, forged, or of one id and two bodies")
    STRANGER = (7, "a delivery of an event, or to a target, that the log does not name")

    @property
    def invariant(self) -> int:
        return self.value[0]


class Violation(NamedTuple):
    """A rule that was broken, and the ids involved."""

    rule: Rule
    about: str

    def __str__(self) -> str:
        return f"invariant {self.rule.invariant}: {self.rule.value[1]}: {self.about}"
