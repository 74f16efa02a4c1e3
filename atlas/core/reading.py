"""Taking records of the log apart: whatever a foreign client wrote, the answer is a fact or `Poison`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from atlas.core.errors import AtlasError
from atlas.core.facts import (
    EVENT_SCHEMA,
    FENCE_SCHEMA,
    LIFECYCLE_SCHEMA,
    SCHEMA_HEADER,
    EventRecord,
    LifecycleFact,
    TopicName,
    decode_event,
    decode_lifecycle,
)
from atlas.core.ids import id_time_ms, is_id
from atlas.core.limits import DEFAULT_ROUTES_MAX, EVENT_TYPE_CHARS_MAX
from atlas.core.timestamps import format_ms

Headers = Sequence[tuple[str, bytes]]

#: What reading foreign bytes may raise; msgspec recurses, so thousands of brackets are the third.
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)


class Poison(AtlasError):
    """A record that no fold can take; it is quarantined by position, and the position moves on."""


def _checked(value: bytes | None, found: bytes | None, schema: bytes) -> bytes:
    if value is None:
        raise Poison("tombstone")
    if found != schema:
        raise Poison("unknown schema")
    return value


def schema_in(headers: Headers) -> bytes | None:
    """Type and version of a record, as its header names them."""
    for name, text in headers:  # a generator costs ten times as much, for each record folded
        if name == SCHEMA_HEADER:
            return text
    return None


def event_in(value: bytes | None, headers: Headers, topic: TopicName) -> EventRecord | None:
    """The event that a record of `topic` holds; None for what lies there and is none of a reader's business.

    Raises:
        Poison: it holds none that this version can take, or one that belongs to another topic.
    """
    schema = schema_in(headers)
    if value is not None and schema == FENCE_SCHEMA:
        return None
    try:
        text = _checked(value, schema, EVENT_SCHEMA)
        event: EventRecord = decode_event(text)
        if not text.isascii():
            text.decode()  # nobody has looked into `data` yet
    except _UNREADABLE as error:
        raise Poison(f"not an event: {type(error).__name__}") from error
    if (event.environment, event.workspace_id, event.stream) != (
        topic.environment,
        topic.workspace_id,
        topic.stream,
    ):
        raise Poison("the record belongs to another topic")
    if not is_id("evt_", event.id):
        raise Poison("malformed event id")
    if event.received_at != _time_in(event.id):
        raise Poison("received_at is not the time in the id")
    if len(event.routes) > DEFAULT_ROUTES_MAX or len(set(event.routes)) < len(event.routes):
        raise Poison("more routes than there can be, or one twice")
    if len(event.type) > EVENT_TYPE_CHARS_MAX:
        raise Poison("a type longer than there can be")
    return event


def _time_in(event_id: str) -> str | None:
    try:
        return format_ms(id_time_ms(event_id))
    except ValueError:  # a year past 9999
        return None


def fact_in(value: bytes | None, headers: Headers) -> LifecycleFact:
    """The lifecycle fact that a record holds.

    Raises:
        Poison: it holds none that this version knows.
    """
    try:
        fact: LifecycleFact = decode_lifecycle(_checked(value, schema_in(headers), LIFECYCLE_SCHEMA))
    except _UNREADABLE as error:
        raise Poison(f"not a lifecycle fact: {type(error).__name__}") from error
    return fact
