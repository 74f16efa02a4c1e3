"""An acceptance read back from the log: the same key, the same bytes of the 202."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.acceptance import (
    Circumstances,
    Key,
    Routing,
    accept,
    accept_all,
    derived_key,
    key_of,
    response_to,
    sent_key,
)
from atlas.core.entities import Stream
from atlas.core.event_requests import EventIn
from atlas.core.facts import EVENT_SCHEMA, SCHEMA_HEADER, EventRecord, parse_event_topic
from atlas.core.reading import event_in
from tests.core.bodies import EVENT, read

SCOPE = ("ws_4F9KQ2C7Z1", "live")
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=250)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
TIMES = st.sampled_from(
    ["2026-05-18T14:22:11Z", "2026-05-18T14:22:11.10z", "2026-05-18T23:22:11.123456789+09:30"]
)
BODIES = st.fixed_dictionaries(
    {name: st.just(value) for name, value in EVENT.items()}
    | {"occurred_at": TIMES, "metadata": st.dictionaries(TEXT, TEXT, max_size=3)},
    optional={"ordering_key": TEXT},
)
STREAM = Stream(
    id="stm_1",
    workspace_id=SCOPE[0],
    environment=SCOPE[1],
    name=EVENT["stream"],
    description=None,
    retention_days=14,
    default_routes=("wf_one", "wf_two"),
    created_at_ms=0,
)
ENTROPY = b"0123456789"


def written(body: dict[str, Any], key: Key | None, at_ms: int) -> tuple[EventRecord, bytes]:
    """The record as a reader finds it, and the response that was frozen with it."""
    made = accept(read(EventIn, body), STREAM, key, lambda: ENTROPY, Circumstances(at_ms, 7, 4))
    topic = parse_event_topic(STREAM.topic)
    assert topic is not None
    record = event_in(made.value, [(SCHEMA_HEADER, EVENT_SCHEMA)], topic)
    assert record is not None
    return record, made.response


@given(BODIES, PRINTABLE, st.none() | st.integers(0, 999), st.integers(0, 2**41))
def test_key_and_response_come_back(body: dict[str, Any], text: str, index: int | None, at_ms: int) -> None:
    key = sent_key(SCOPE, text, body) if index is None else derived_key(SCOPE, text, index, body)
    record, response = written(body, key, at_ms)
    assert key_of(record) == key
    assert response_to(record) == response
    assert orjson.loads(response)["idempotency_key"] == key.text


@given(BODIES)
def test_without_a_key_none_comes_back(body: dict[str, Any]) -> None:
    record, response = written(body, None, 0)
    assert key_of(record) is None
    assert response_to(record) == response


@given(BODIES, PRINTABLE, st.text(max_size=40) | st.binary(max_size=17).map(bytes.hex))
def test_a_key_that_the_record_was_not_accepted_with_is_none(
    body: dict[str, Any], text: str, other: str
) -> None:
    record, _ = written(body, sent_key(SCOPE, text, body), 0)
    if other != text:
        assert key_of(msgspec.structs.replace(record, idempotency_key=other)) is None
    assert key_of(msgspec.structs.replace(record, workspace_id="ws_other")) is None
    forged = key_of(msgspec.structs.replace(record, payload_hash=other))
    assert forged is None or forged.payload_hash == bytes.fromhex(other)


def test_ids_without_a_key_rise_in_the_order_sent() -> None:
    key = sent_key(SCOPE, "k", {})
    event = read(EventIn, EVENT)
    keys = [None, key, None, None, None]
    draws = iter([b"9" * 10, b"1" * 10, b"5" * 10, b"3" * 10])
    made = accept_all(
        [(event, STREAM, each, Routing(())) for each in keys], draws.__next__, Circumstances(5, 7, 4)
    )
    ids = [orjson.loads(one.response)["id"] for one in made]
    alone = accept(event, STREAM, key, bytes, Circumstances(5, 7, 4))
    assert orjson.loads(alone.response)["id"] == ids.pop(1), "a key's says which it is"
    assert ids == sorted(set(ids))
