"""What request bodies may hold, and what is wrong with one that does not (reference; API notes).

`parse` turns decoded JSON into a model or raises `InvalidRequest`. Events have `event_requests`.

Null. An optional input that is null is absent (API notes), in a PATCH too, where absent is `UNSET` and
changes nothing. The exceptions are PATCH fields whose type has None, because what they set can be
without a value: null takes it away. They are `description`, `rate_limit_per_second`, `filter`, an endpoint's
`streams`, and a quota's `live` and `test` (back to the platform's default).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Final, Literal, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from atlas.core import limits, shapes
from atlas.core.entities import MAX_IN_FLIGHT_DEFAULT, TIMEOUT_MS_DEFAULT
from atlas.core.errors import InvalidRequest
from atlas.core.facts import OUTCOME_TYPES
from atlas.core.filters import check_filter
from atlas.core.refusals import converted, holds_nul
from atlas.core.retry import DEFAULT_SCHEDULE_S
from atlas.core.strict_json import find_nul
from atlas.core.targets import URL_CHARS_MAX, check_headers, check_url, normal_url
from atlas.core.timestamps import parse_filter_time

Url = Annotated[
    str,
    shapes.said(
        "http or https, a host, no user name or password, no fragment. The scheme is kept in lower case.",
        pattern="^[Hh][Tt][Tt][Pp][Ss]?://",
        maxLength=URL_CHARS_MAX,
    ),
]


class Body(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An object that holds nothing but what is known."""


class StreamCreate(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/event-streams`."""

    name: limits.StreamName
    description: limits.Description | None = None
    retention_days: limits.RetentionDays = limits.RETENTION_DAYS_DEFAULT
    default_routes: limits.DefaultRoutes = ()


class StreamPatch(Body, frozen=True, kw_only=True):
    """Only the fields present change."""

    description: limits.Description | UnsetType | None = UNSET
    retention_days: limits.RetentionDays | UnsetType = UNSET
    default_routes: limits.DefaultRoutes | UnsetType = UNSET


class TargetCreate(Body, frozen=True, kw_only=True):
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


class TargetPatch(Body, frozen=True, kw_only=True):
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


class ReplayRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/events/{id}/replay`; `workflow_ids` absent: every route that has ended."""

    workflow_ids: Annotated[limits.DefaultRoutes, Meta(min_length=1)] | None = None


class BulkReplayCreate(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/replays`: which events, all of them where nothing is said.

    With `status` `delivered` or `failed` the routes that ended so, whatever the event's others do;
    `received_after` is inclusive.
    """

    stream: limits.StreamName | None = None
    type: limits.EventType | None = None
    status: Literal["accepted", "processing", "delivered", "retried", "failed"] | None = None
    workflow_ids: Annotated[limits.DefaultRoutes, Meta(min_length=1)] | None = None
    received_after: shapes.GivenTime | None = None
    received_before: shapes.GivenTime | None = None
    rate_per_second: limits.ReplayRate = limits.REPLAY_RATE_DEFAULT


class KeyCreate(Body, frozen=True, kw_only=True):
    """`streams` None: not scoped. A publishable key always is."""

    kind: Literal["secret", "publishable"]
    name: limits.Name | None = None
    streams: limits.KeyStreams | None = None


class RotateRequest(Body, frozen=True, kw_only=True):
    """Body of a key's `rotate` and a target's `rotate-secret`."""

    overlap_seconds: limits.OverlapS = limits.OVERLAP_S_DEFAULT


class Nothing(Body, frozen=True, kw_only=True):
    """For a POST that says everything in its path."""


class WorkspaceCreate(Body, frozen=True, kw_only=True):
    """Body of `POST /admin/v1/workspaces`."""

    name: limits.Name


class QuotaIn(Body, frozen=True, kw_only=True):
    """A leaky bucket of `burst` requests, drained at `requests_per_minute`."""

    requests_per_minute: limits.QuotaPerMinute
    burst: limits.QuotaBurst


class QuotaPatch(Body, frozen=True, kw_only=True):
    """Quotas by environment; null is the platform's again."""

    live: QuotaIn | UnsetType | None = UNSET
    test: QuotaIn | UnsetType | None = UNSET


class WorkspacePatch(Body, frozen=True, kw_only=True):
    """Only the fields present change."""

    quota: QuotaPatch | UnsetType = UNSET
    status: Literal["enabled", "suspended"] | UnsetType = UNSET


Model = TypeVar("Model", bound=Body)


def parse(model: type[Model], value: object) -> Model:
    """Decoded JSON as a model, every rule of the model held, and a URL in its normal form.

    Args:
        model: one of the classes above.
        value: as `strict_json.read` returned it.

    Raises:
        InvalidRequest: with the dotted path of what is wrong.
    """
    droppable = _null_is_absent(model)
    if droppable and type(value) is dict and None in value.values():
        value = {k: v for k, v in value.items() if v is not None or k not in droppable}
    parsed = converted(model, value)
    _check(parsed, value)
    return _normal(parsed)


_A_TIME: Final = "1970-01-01T00:00:00Z"


def _check(body: Body, value: object) -> None:
    """What types cannot say."""
    nul_at = find_nul(value)
    if nul_at is not None:
        raise holds_nul(nul_at)
    match body:
        case StreamCreate() | StreamPatch():
            _refuse_repeats(body.default_routes, "default_routes")
        case TargetCreate() | TargetPatch():
            _check_target(body)
            if isinstance(body, WorkflowCreate | WorkflowPatch) and isinstance(body.filter, dict):
                check_filter(body.filter, "filter")
            if isinstance(body, EndpointCreate | EndpointPatch):
                _refuse_repeats(body.event_types, "event_types")
                _refuse_repeats(body.streams or (), "streams")
        case KeyCreate():
            if body.kind == "publishable" and body.streams is None:
                raise InvalidRequest("streams", "a publishable key must name its streams")
            _refuse_repeats(body.streams or (), "streams")
        case BulkReplayCreate():
            parse_filter_time(body.received_after or _A_TIME, "received_after")
            parse_filter_time(body.received_before or _A_TIME, "received_before")
            _refuse_repeats(body.workflow_ids or (), "workflow_ids")
        case ReplayRequest(workflow_ids=named):
            _refuse_repeats(named or (), "workflow_ids")


def _check_target(body: TargetCreate | TargetPatch) -> None:
    if body.url is not UNSET:
        check_url(body.url)
    if body.headers is not UNSET:
        check_headers(body.headers)


def _normal(body: Model) -> Model:
    if isinstance(body, TargetCreate | TargetPatch) and body.url is not UNSET:
        return msgspec.structs.replace(body, url=normal_url(body.url))
    return body


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
