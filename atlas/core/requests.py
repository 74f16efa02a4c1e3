"""What request bodies may hold, and what is wrong with one that does not (reference; API notes).

`parse` turns decoded JSON into a model or raises `InvalidRequest`; `check_event` does what is left for
events and returns what the hot path goes on with.

Null. An optional input that is null is absent (API notes), in a PATCH too, where absent is `UNSET` and
changes nothing. The exceptions are PATCH fields whose type has None, because what they set can be
without a value: null takes it away. They are `description`, `rate_limit_per_second`, `filter`, an endpoint's
`streams`, and a quota's `live` and `test` (back to the platform's default).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_type_hints

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType

from atlas.core import limits, shapes
from atlas.core.entities import MAX_IN_FLIGHT_DEFAULT, TIMEOUT_MS_DEFAULT
from atlas.core.errors import InvalidRequest
from atlas.core.facts import OUTCOME_TYPES
from atlas.core.filters import check_filter
from atlas.core.refusals import explain, invalid_at
from atlas.core.retry import DEFAULT_SCHEDULE_S
from atlas.core.strict_json import find_nul
from atlas.core.targets import URL_CHARS_MAX, check_headers, check_url
from atlas.core.timestamps import parse_filter_time, parse_occurred_at

Url = Annotated[
    str,
    shapes.said(
        "http or https, a host, no user name or password, no fragment.",
        pattern="^https?://",
        maxLength=URL_CHARS_MAX,
    ),
]


class _Body(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class Actor(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Who or what triggered the event."""

    type: limits.ActorText | None = None
    id: limits.ActorText | None = None
    tenant_id: limits.ActorText | None = None
    ip: Annotated[limits.ActorText, shapes.said("An IPv4 or IPv6 address, without a zone.")] | None = None
    user_agent: limits.UserAgent | None = None


class EventIn(_Body, frozen=True, kw_only=True):
    """Body of `POST /v1/events`."""

    # `check_event` does what types cannot say.

    stream: limits.StreamName
    type: limits.EventType
    occurred_at: Annotated[
        str, shapes.said("RFC 3339 with `Z` or an offset, at most 9 fraction digits.", format="date-time")
    ]
    data: Annotated[
        dict[str, Any], shapes.said(f"Under {limits.DATA_BYTES:,} bytes when serialized compactly.")
    ]
    actor: Actor | None = None
    metadata: limits.Metadata | None = None
    ordering_key: limits.OrderingKey | None = None


class BatchEventIn(EventIn, frozen=True, kw_only=True):
    """One item of a batch."""

    idempotency_key: limits.IdempotencyKey | None = None


class BatchIn(_Body, frozen=True, kw_only=True):
    """Body of `POST /v1/events/batch`; items are parsed one by one, so that a bad one spoils no other."""

    # Nothing in them is looked at before: a NUL, which an item may hold in its `data`, least of all.
    events: Annotated[list[Any], Meta(min_length=1, max_length=limits.BATCH_EVENTS_MAX)]


class StreamCreate(_Body, frozen=True, kw_only=True):
    """Body of `POST /v1/event-streams`."""

    name: limits.StreamName
    description: limits.Description | None = None
    retention_days: limits.RetentionDays = limits.RETENTION_DAYS_DEFAULT
    default_routes: limits.DefaultRoutes = ()


class StreamPatch(_Body, frozen=True, kw_only=True):
    """Only the fields present change."""

    description: limits.Description | UnsetType | None = UNSET
    retention_days: limits.RetentionDays | UnsetType = UNSET
    default_routes: limits.DefaultRoutes | UnsetType = UNSET


class TargetCreate(_Body, frozen=True, kw_only=True):
    """What workflows and webhook endpoints have in common."""

    url: Url
    description: limits.Description | None = None
    timeout_ms: limits.TimeoutMs = TIMEOUT_MS_DEFAULT
    retry_schedule_seconds: limits.RetrySchedule = DEFAULT_SCHEDULE_S
    max_in_flight: limits.InFlight = MAX_IN_FLIGHT_DEFAULT
    rate_limit_per_second: limits.RatePerSecond | None = None
    headers: limits.Headers = {}


class WorkflowCreate(TargetCreate, frozen=True, kw_only=True):
    """Body of `POST /v1/workflows`."""

    id: limits.NewWorkflowId | None = None
    ordered: bool = False
    filter: shapes.Filter | None = None


class EndpointCreate(TargetCreate, frozen=True, kw_only=True):
    """Body of `POST /v1/webhook-endpoints`."""

    event_types: limits.OutcomeTypes = OUTCOME_TYPES
    streams: limits.KeyStreams | None = None


class TargetPatch(_Body, frozen=True, kw_only=True):
    """Only the fields present change."""

    url: Url | UnsetType = UNSET
    description: limits.Description | UnsetType | None = UNSET
    timeout_ms: limits.TimeoutMs | UnsetType = UNSET
    retry_schedule_seconds: limits.RetrySchedule | UnsetType = UNSET
    max_in_flight: limits.InFlight | UnsetType = UNSET
    rate_limit_per_second: limits.RatePerSecond | UnsetType | None = UNSET
    headers: limits.Headers | UnsetType = UNSET


class WorkflowPatch(TargetPatch, frozen=True, kw_only=True):
    """Body of `PATCH /v1/workflows/{id}`: only the fields present change."""

    ordered: bool | UnsetType = UNSET
    filter: shapes.Filter | UnsetType | None = UNSET


class EndpointPatch(TargetPatch, frozen=True, kw_only=True):
    """Body of `PATCH /v1/webhook-endpoints/{id}`: only the fields present change."""

    event_types: limits.OutcomeTypes | UnsetType = UNSET
    streams: limits.KeyStreams | UnsetType | None = UNSET


class ReplayRequest(_Body, frozen=True, kw_only=True):
    """Body of `POST /v1/events/{id}/replay`; `workflow_ids` absent: every route that has ended."""

    workflow_ids: Annotated[limits.DefaultRoutes, Meta(min_length=1)] | None = None


class BulkReplayCreate(_Body, frozen=True, kw_only=True):
    """Body of `POST /v1/replays`: which events, all of them where nothing is said.

    With `status` `delivered` or `failed` only routes that ended so; `received_after` is inclusive.
    """

    stream: limits.StreamName | None = None
    type: limits.EventType | None = None
    status: Literal["accepted", "processing", "delivered", "retried", "failed"] | None = None
    workflow_ids: Annotated[limits.DefaultRoutes, Meta(min_length=1)] | None = None
    received_after: shapes.GivenTime | None = None
    received_before: shapes.GivenTime | None = None
    rate_per_second: limits.ReplayRate = limits.REPLAY_RATE_DEFAULT


class KeyCreate(_Body, frozen=True, kw_only=True):
    """`streams` None: not scoped. A publishable key always is."""

    kind: Literal["secret", "publishable"]
    name: limits.Name | None = None
    streams: limits.KeyStreams | None = None


class RotateRequest(_Body, frozen=True, kw_only=True):
    """Body of a key's `rotate` and a target's `rotate-secret`."""

    overlap_seconds: limits.OverlapS = limits.OVERLAP_S_DEFAULT


class Nothing(_Body, frozen=True, kw_only=True):
    """For a POST that says everything in its path."""


class WorkspaceCreate(_Body, frozen=True, kw_only=True):
    """Body of `POST /admin/v1/workspaces`."""

    name: limits.Name


class QuotaIn(_Body, frozen=True, kw_only=True):
    """A leaky bucket of `burst` requests, drained at `requests_per_minute`."""

    requests_per_minute: limits.QuotaPerMinute
    burst: limits.QuotaBurst


class QuotaPatch(_Body, frozen=True, kw_only=True):
    """Quotas by environment; null is the platform's again."""

    live: QuotaIn | UnsetType | None = UNSET
    test: QuotaIn | UnsetType | None = UNSET


class WorkspacePatch(_Body, frozen=True, kw_only=True):
    """Only the fields present change."""

    quota: QuotaPatch | UnsetType = UNSET
    status: Literal["enabled", "suspended"] | UnsetType = UNSET


class CheckedEvent(Struct, frozen=True, kw_only=True):
    """An event that may be accepted.

    Attributes:
        occurred_at: RFC 3339 in UTC with `Z`, with the precision it was given.
        data: as decoded.
        data_json: the same, serialized compactly; always readable JSON.
        actor: only the fields that were given.
    """

    stream: str
    type: str
    occurred_at: str
    data: dict[str, Any]
    data_json: bytes
    actor: dict[str, str] | None
    metadata: dict[str, str] | None
    ordering_key: str | None


Model = TypeVar("Model", bound=_Body)


def parse(model: type[Model], value: object, at: str = "") -> Model:
    """Decoded JSON as a model, every rule of the model held; events need `check_event` too.

    Args:
        model: one of the classes above.
        value: as `strict_json.loads` returned it, or an item of a batch.
        at: dotted path of `value` within the body, put before the field in errors.

    Raises:
        InvalidRequest: with the dotted path of what is wrong.
    """
    droppable = _null_is_absent(model)
    if droppable and type(value) is dict and None in value.values():
        value = {k: v for k, v in value.items() if v is not None or k not in droppable}
    try:
        parsed = msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        raise explain(model, value, str(error), at) from None
    if not isinstance(parsed, (EventIn, BatchIn)):
        _check(parsed, value, at)
    return parsed


def check_event(event: EventIn, at: str = "") -> CheckedEvent:
    """The rules of events that types cannot say: times, addresses, the size of `data`, no NUL outside it.

    Raises:
        InvalidRequest: with the dotted path of what is wrong, `at` before it.
    """
    occurred_at = parse_occurred_at(event.occurred_at, _join(at, "occurred_at"))
    data_json = orjson.dumps(event.data)
    if len(data_json) >= limits.DATA_BYTES:
        raise InvalidRequest(_join(at, "data"), f"must serialize to under {limits.DATA_BYTES:,} bytes")
    actor: dict[str, str] | None = None
    if event.actor is not None:
        actor = msgspec.to_builtins(event.actor)
        if event.actor.ip is not None and not _is_address(event.actor.ip):
            raise InvalidRequest(_join(at, "actor.ip"), "must be an IPv4 or IPv6 address")
        _refuse_nul(actor, at, "actor")
    if event.metadata is not None:
        _refuse_nul(event.metadata, at, "metadata")
    if event.ordering_key is not None and "\0" in event.ordering_key:
        raise InvalidRequest(_join(at, "ordering_key"), _NUL)
    return CheckedEvent(
        stream=event.stream,
        type=event.type,
        occurred_at=occurred_at,
        data=event.data,
        data_json=data_json,
        actor=actor,
        metadata=event.metadata,
        ordering_key=event.ordering_key,
    )


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


_A_TIME: Final = "1970-01-01T00:00:00Z"
_NUL: Final = "must not hold U+0000"
_KEY_BYTES: Final = re.compile(rb"[ -~]+").fullmatch
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}").fullmatch


def _join(at: str, field: str) -> str:
    return f"{at}.{field}" if at else field


def _is_address(text: str) -> bool:
    if _IPV4(text) is not None:
        return True
    try:
        # An IPv6 zone (`fe80::1%eth0`) names an interface of one machine: not part of the address.
        return ":" in text and "%" not in text and ipaddress.IPv6Address(text) is not None
    except ValueError:
        return False


def _refuse_nul(texts: dict[str, str], at: str, field: str) -> None:
    if "\0" in "".join([*texts, *texts.values()]):
        raise InvalidRequest(find_nul(texts, _join(at, field)), _NUL)


def _check(body: _Body, value: object, at: str) -> None:
    """What types cannot say of the bodies that are not events."""
    nul_at = find_nul(value, at)
    if nul_at is not None:
        raise InvalidRequest(nul_at, _NUL)
    match body:
        case StreamCreate() | StreamPatch():
            _refuse_repeats(body.default_routes, _join(at, "default_routes"))
        case TargetCreate() | TargetPatch():
            _check_target(body, at)
            if isinstance(body, WorkflowCreate | WorkflowPatch) and isinstance(body.filter, dict):
                check_filter(body.filter, _join(at, "filter"))
            if isinstance(body, EndpointCreate | EndpointPatch):
                _refuse_repeats(body.event_types, _join(at, "event_types"))
                _refuse_repeats(body.streams or (), _join(at, "streams"))
        case KeyCreate():
            if body.kind == "publishable" and body.streams is None:
                raise InvalidRequest(_join(at, "streams"), "a publishable key must name its streams")
            _refuse_repeats(body.streams or (), _join(at, "streams"))
        case BulkReplayCreate():
            parse_filter_time(body.received_after or _A_TIME, _join(at, "received_after"))
            parse_filter_time(body.received_before or _A_TIME, _join(at, "received_before"))
            _refuse_repeats(body.workflow_ids or (), _join(at, "workflow_ids"))
        case ReplayRequest(workflow_ids=named):
            _refuse_repeats(named or (), _join(at, "workflow_ids"))


def _check_target(body: TargetCreate | TargetPatch, at: str) -> None:
    try:
        if body.url is not UNSET:
            check_url(body.url)
        if body.headers is not UNSET:
            check_headers(body.headers)
    except InvalidRequest as wrong:
        raise invalid_at([at, wrong.field or ""], wrong.reason) from None


def _refuse_repeats(items: Sequence[str] | UnsetType, at: str) -> None:
    if items is UNSET:
        return
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item in seen:
            raise InvalidRequest(f"{at}.{index}", "is named twice")
        seen.add(item)


@cache
def _null_is_absent(model: type[Struct]) -> frozenset[str]:
    """Optional fields whose type has no None: a null there is taken out before the types are held."""
    hints = get_type_hints(model)
    return frozenset(
        field.name
        for field in msgspec.structs.fields(model)
        if not field.required and type(None) not in get_args(hints[field.name])
    )
