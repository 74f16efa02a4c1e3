"""Events as they are sent: the hot path of reading requests (reference, "Send an event"; API notes).

An event is read from compact JSON: that is how its `data` is stored, and how its size is measured.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Final

import msgspec
import orjson
from msgspec import Meta, Struct

from atlas.core import limits, shapes
from atlas.core.errors import InvalidRequest
from atlas.core.refusals import converted, explain, holds_nul, not_an_object
from atlas.core.requests import Body
from atlas.core.strict_json import NUL, Text, find_nul
from atlas.core.timestamps import parse_occurred_at


class Actor(Body, frozen=True, kw_only=True, gc=False):
    """Who or what triggered the event."""

    type: limits.ActorText | None = None
    id: limits.ActorText | None = None
    tenant_id: limits.ActorText | None = None
    ip: Annotated[limits.ActorText, shapes.said("An IPv4 or IPv6 address, without a zone.")] | None = None
    user_agent: limits.UserAgent | None = None


class EventIn(Body, frozen=True, kw_only=True, gc=False):
    """Body of `POST /v1/events`."""

    # `_checked` does what types cannot say, that `data` is an object among it.

    stream: limits.StreamName
    type: limits.EventType
    occurred_at: Annotated[
        str, shapes.said("RFC 3339 with `Z` or an offset, at most 9 fraction digits.", format="date-time")
    ]
    data: Annotated[
        msgspec.Raw,
        shapes.said(f"Under {limits.DATA_BYTES:,} bytes when serialized compactly.", type="object"),
    ]
    actor: Actor | None = None
    metadata: limits.Metadata | None = None
    ordering_key: limits.OrderingKey | None = None


class BatchEventIn(EventIn, frozen=True, kw_only=True, gc=False):
    """One item of a batch."""

    idempotency_key: limits.IdempotencyKey | None = None


class BatchIn(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/events/batch`; a bad item spoils no other."""

    events: Annotated[list[Any], Meta(min_length=1, max_length=limits.BATCH_EVENTS_MAX)]


class _Items(Struct):
    events: list[BatchEventIn]


class CheckedEvent(Struct, frozen=True, kw_only=True, gc=False):
    """An event that may be accepted.

    Attributes:
        occurred_at: RFC 3339 in UTC with `Z`, with the precision it was given.
        data: as decoded.
        data_json: the same, serialized compactly; always readable JSON.
        actor: only the fields that were given.
        idempotency_key: of a batch's item.
    """

    stream: str
    type: str
    occurred_at: str
    data: dict[str, Any]
    data_json: bytes
    actor: dict[str, str] | None
    metadata: dict[str, str] | None
    ordering_key: str | None
    idempotency_key: str | None


def read_event(value: Mapping[str, Any], compact: bytes | None = None) -> CheckedEvent:
    """The event that a body is.

    Args:
        value: decoded.
        compact: the same, serialized compactly, if that is at hand.

    Raises:
        InvalidRequest: with the dotted path of what is wrong.
    """
    return _checked(_parsed(EventIn, value, compact), value)


def read_items(body: Text) -> list[CheckedEvent | InvalidRequest]:
    """The events of a batch, each as if it had been sent alone: so are the fields in its error.

    Raises:
        InvalidRequest: of the batch as a whole, with the dotted path of what is wrong.
    """
    items = converted(BatchIn, body.value).events
    may_hold_nul = NUL in body.compact
    try:
        parsed: _Items = _reader(_Items)(body.compact)
    except msgspec.ValidationError:
        return [_item(item) for item in items]
    pairs = zip(parsed.events, items, strict=True)
    return [_checked_or_not(event, item, may_hold_nul) for event, item in pairs]


def check_idempotency_key(raw: bytes, chars_max: int = limits.IDEMPOTENCY_KEY_CHARS_MAX) -> str:
    """The value of an `Idempotency-Key` header.

    Args:
        raw: as received.
        chars_max: `BATCH_IDEMPOTENCY_KEY_CHARS_MAX` on a batch.

    Raises:
        InvalidRequest: with field `Idempotency-Key`.
    """
    if len(raw) > chars_max or _KEY_BYTES(raw) is None:
        raise InvalidRequest("Idempotency-Key", f"must be 1 to {chars_max} printable ASCII characters")
    return raw.decode("ascii")


_KEY_BYTES: Final = re.compile(rb"[ -~]+").fullmatch
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}").fullmatch


def _item(value: object) -> CheckedEvent | InvalidRequest:
    try:
        event = _parsed(BatchEventIn, value)
    except InvalidRequest as refusal:
        return refusal
    assert isinstance(value, dict)  # it is the event
    return _checked_or_not(event, value, may_hold_nul=True)


def _parsed(model: type[EventIn], value: object, compact: bytes | None = None) -> EventIn:
    try:
        event: EventIn = _reader(model)(orjson.dumps(value) if compact is None else compact)
    except msgspec.ValidationError as error:
        raise explain(model, value, str(error)) from None
    return event


@cache
def _reader(model: type[Struct]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(model).decode


def _checked_or_not(
    event: EventIn, value: Mapping[str, Any], may_hold_nul: bool
) -> CheckedEvent | InvalidRequest:
    try:
        return _checked(event, value, may_hold_nul)
    except InvalidRequest as refusal:
        return refusal


def _checked(event: EventIn, value: Mapping[str, Any], may_hold_nul: bool = True) -> CheckedEvent:
    """The rules that types cannot say: times, addresses, what `data` is, no NUL outside it.

    Args:
        event: as parsed.
        value: what it was parsed from.
        may_hold_nul: False where somebody has seen that there is none.

    Raises:
        InvalidRequest: with the dotted path of what is wrong.
    """
    occurred_at = parse_occurred_at(event.occurred_at)
    data, data_json = value["data"], bytes(event.data)
    if type(data) is not dict:
        raise not_an_object("data", data)
    if len(data_json) >= limits.DATA_BYTES:
        raise InvalidRequest("data", f"must serialize to under {limits.DATA_BYTES:,} bytes")
    actor: dict[str, str] | None = None
    if event.actor is not None:
        actor = {name: text for name, text in value["actor"].items() if text is not None}
        if event.actor.ip is not None and not _is_address(event.actor.ip):
            raise InvalidRequest("actor.ip", "must be an IPv4 or IPv6 address")
    if may_hold_nul:
        _refuse_nul(event, actor)
    return CheckedEvent(
        stream=event.stream,
        type=event.type,
        occurred_at=occurred_at,
        data=data,
        data_json=data_json,
        actor=actor,
        metadata=event.metadata,
        ordering_key=event.ordering_key,
        idempotency_key=event.idempotency_key if isinstance(event, BatchEventIn) else None,
    )


def _refuse_nul(event: EventIn, actor: Mapping[str, str] | None) -> None:
    # The rest has patterns that leave no room for one.
    texts = {"actor": actor or {}, "metadata": event.metadata or {}, "ordering_key": event.ordering_key or ""}
    at = find_nul(texts)
    if at is not None:
        raise holds_nul(at)


def _is_address(text: str) -> bool:
    if _IPV4(text) is not None:
        return True
    try:
        # An IPv6 zone (`fe80::1%eth0`) names an interface of one machine: not part of the address.
        return ":" in text and "%" not in text and ipaddress.IPv6Address(text) is not None
    except ValueError:
        return False
