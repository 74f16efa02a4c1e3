"""Foreign bytes in an event topic: an event, or `Poison`, and nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from atlas.core.acceptance import Circumstances, accept
from atlas.core.event_requests import EventIn
from atlas.core.facts import (
    EVENT_SCHEMA,
    LIFECYCLE_SCHEMA,
    SCHEMA_HEADER,
    parse_event_topic,
)
from atlas.core.limits import DEFAULT_ROUTES_MAX, EVENT_TYPE_CHARS_MAX
from atlas.core.reading import Poison, event_in, fact_in
from tests.core.bodies import EVENT, read
from tests.core.test_acceptance import ENTROPY, STREAM

HEADERS = [(SCHEMA_HEADER, EVENT_SCHEMA)]
DEEP = b'{"a":' * 5_000 + b"1" + b"}" * 5_000


def record(**changes: Any) -> bytes:
    """As Atlas writes it, with these fields changed."""
    made = accept(read(EventIn, EVENT), STREAM, None, lambda: ENTROPY, Circumstances(1_000, 7, 4))
    return orjson.dumps({**orjson.loads(made.value), **changes})


def taken(value: bytes) -> bool:
    topic = parse_event_topic(STREAM.topic)
    assert topic is not None
    try:
        return event_in(value, HEADERS, topic) is not None
    except Poison:
        return False


@pytest.mark.parametrize(
    ("value", "is_event"),
    [
        (record(), True),
        (record(data={"é": "\u2603"}), True),
        (record(data={"a": "?"}).replace(b"?", b"\xff\xfe"), False),
        (record(routes=[f"wf_{n}" for n in range(DEFAULT_ROUTES_MAX)]), True),
        (record(routes=[f"wf_{n}" for n in range(DEFAULT_ROUTES_MAX + 1)]), False),
        (record(routes=["wf_a", "wf_a"]), False),
        (record(type="a." + "b" * (EVENT_TYPE_CHARS_MAX - 2)), True),
        (record(type="a." + "b" * (EVENT_TYPE_CHARS_MAX - 1)), False),
        (DEEP, False),
        (record(data=0).replace(b'"data":0', b'"data":' + DEEP), False),
        (record(actor=0).replace(b'"actor":0', b'"actor":' + DEEP), False),
    ],
)
def test_what_is_taken_for_an_event(value: bytes, is_event: bool) -> None:
    assert taken(value) == is_event


@pytest.mark.parametrize("value", [DEEP, b'{"fact":"delivery.started","epoch":' + DEEP + b"}"])
def test_brackets_without_end_are_no_fact(value: bytes) -> None:
    with pytest.raises(Poison):
        fact_in(value, [(SCHEMA_HEADER, LIFECYCLE_SCHEMA)])
