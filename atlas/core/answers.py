"""What the API answers, as types: every object of every body, field for field in its order.

The views make plain dictionaries, which orjson writes fastest; these types make the type checker hold them
to what schemas/openapi.json says, which is generated from here (scripts/schemas).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NotRequired, TypedDict, TypeVar

from atlas.core import shapes
from atlas.core.entities import DisabledReason
from atlas.core.errors import FIELD_PATH_CHARS_MAX, HTTP_STATUS_BY_CODE
from atlas.core.facts import Environment, Outcome
from atlas.core.lifecycle import EVENT_STATUSES, ROUTE_STATUSES

EventStatus = Annotated[str, shapes.said(enum=list(EVENT_STATUSES))]
RouteStatus = Annotated[str, shapes.said(enum=list(ROUTE_STATUSES))]
ErrorCode = Annotated[str, shapes.said(enum=list(HTTP_STATUS_BY_CODE))]

Records = Annotated[int, shapes.said(minimum=0, maximum=shapes.WHOLE_MAX)]

Item = TypeVar("Item")


class Page(TypedDict, Generic[Item]):
    """A page of a list. `next_cursor` is null exactly when there is no more."""

    object: Literal["list"]
    data: Sequence[Item]
    has_more: bool
    next_cursor: Annotated[str, shapes.said("The `cursor` of the next page.", minLength=1)] | None


# --- errors


class ErrorObject(TypedDict):
    """What went wrong. `details` depends on the code."""

    code: ErrorCode
    message: shapes.Message
    request_id: shapes.RequestId
    details: Mapping[str, Any]


class InvalidDetails(TypedDict):
    """`details` of a 400.

    `field` is the dotted path of the first thing wrong, a header's or parameter's name, or null when the body
    as a whole is wrong.
    """

    field: Annotated[str, shapes.said(maxLength=FIELD_PATH_CHARS_MAX)] | None
    reason: shapes.Message


class RetryDetails(TypedDict):
    """`details` of a 429 and a 503: when to try again."""

    retry_after_ms: shapes.DurationMs


class ErrorAnswer(TypedDict):
    """The body of every answer other than success."""

    error: ErrorObject


# --- events


class QueuedRoute(TypedDict):
    """A workflow that the event will be delivered to."""

    workflow_id: shapes.WorkflowId
    status: Literal["queued"]


class AcceptedEvent(TypedDict):
    """An event that is durable in the log, with the routes resolved at its acceptance."""

    id: shapes.EventId
    object: Literal["event"]
    stream: shapes.StreamName
    type: shapes.EventType
    status: Literal["accepted"]
    received_at: shapes.Moment
    occurred_at: shapes.OccurredAt
    idempotency_key: shapes.IdempotencyKey | None
    routes: Annotated[Sequence[QueuedRoute], shapes.said(maxItems=20)]


class BatchItem(TypedDict):
    """What a single POST of this event would have answered: its status, and `event` or `error`."""

    status: Annotated[int, shapes.said(minimum=202, maximum=599)]
    event: NotRequired[AcceptedEvent]
    error: NotRequired[ErrorObject]


BatchResult = Annotated[BatchItem, shapes.said(oneOf=[{"required": ["event"]}, {"required": ["error"]}])]


class Batch(TypedDict):
    """A result for each event, in the order sent. `accepted` counts replays too."""

    object: Literal["batch"]
    accepted: shapes.Natural
    rejected: shapes.Natural
    data: Sequence[BatchResult]


class Failure(TypedDict):
    """Why an attempt, or a route, failed."""

    code: shapes.Code
    message: shapes.Message


class Route(TypedDict):
    """Where one route stands. `attempt` is the last one made, 0 before the first."""

    workflow_id: shapes.WorkflowId
    status: RouteStatus
    attempt: shapes.Natural
    completed_at: NotRequired[shapes.Moment]
    next_attempt_at: NotRequired[shapes.Moment]
    last_error: NotRequired[Failure]


class EventSummary(TypedDict):
    """What every answer about an event begins with."""

    id: shapes.EventId
    object: Literal["event"]
    stream: shapes.StreamName
    type: shapes.EventType
    status: EventStatus
    received_at: shapes.Moment
    occurred_at: shapes.OccurredAt


class Event(EventSummary):
    """An event and its routes, in the order of `routes` at its acceptance."""

    attempts: Sequence[Route]


class EventItem(EventSummary):
    """An event in a list."""

    actor: shapes.ActorShown | None
    metadata: shapes.MetadataShown | None


class EventPayload(TypedDict):
    """What was sent, from the log."""

    id: shapes.EventId
    object: Literal["event_payload"]
    data: shapes.Data
    actor: shapes.Actor | None
    metadata: shapes.Metadata | None


class AttemptTimings(TypedDict):
    """Where an attempt's time went, in milliseconds; null: that did not happen.

    A connection used before needs neither `connect_ms` (name look-up and TCP) nor `tls_ms`; `first_byte_ms`
    runs from the start to the end of the answer's header.
    """

    connect_ms: shapes.Share | None
    tls_ms: shapes.Share | None
    first_byte_ms: shapes.Share | None


class Attempt(TypedDict):
    """One attempt that was made, with its outcome and the evidence kept of it."""

    workflow_id: shapes.WorkflowId
    attempt: shapes.Natural
    status: Outcome
    started_at: shapes.Moment
    completed_at: shapes.Moment
    duration_ms: shapes.DurationMs
    http_status: shapes.HttpStatus | None
    error: Failure | None
    response_body: shapes.ResponseBody | None
    address: shapes.Address | None
    timings: AttemptTimings
    next_attempt_at: shapes.Moment | None


class Delivery(Attempt):
    """One attempt to tell a webhook endpoint of an outcome; `workflow_id` is the one whose outcome it is."""

    delivery_id: shapes.DeliveryId
    event_id: shapes.EventId
    type: shapes.OutcomeType


# --- what is set up


class EventStream(TypedDict):
    """An event stream."""

    id: shapes.StreamId
    object: Literal["event_stream"]
    name: shapes.StreamName
    description: shapes.Description | None
    retention_days: shapes.RetentionDays
    default_routes: shapes.Routes
    created_at: shapes.MomentSeconds
    workspace_id: shapes.WorkspaceId


class Key(TypedDict):
    """An API key, without its secret. `streams` is null when it is not scoped."""

    id: shapes.KeyId
    object: Literal["api_key"]
    kind: shapes.KeyKind
    name: shapes.Name | None
    environment: Environment
    streams: shapes.KeyStreams | None
    prefix: shapes.KeyPrefix
    created_at: shapes.Moment
    expires_at: shapes.Moment | None
    revoked_at: shapes.Moment | None


class NewKey(Key):
    """An API key as the answer to its creation shows it."""

    secret: shapes.KeySecret


class Breaker(TypedDict):
    """A target's circuit breaker. While it is `open` nothing is sent there before `next_probe_at`."""

    state: shapes.BreakerState
    reason: shapes.Message | None
    opened_at: shapes.Moment | None
    next_probe_at: shapes.Moment | None


class Target(TypedDict):
    """What workflows and webhook endpoints have in common.

    Attributes:
        breaker: None while the read model, which knows, cannot be asked.
    """

    url: shapes.Url
    description: shapes.Description | None
    timeout_ms: shapes.TimeoutMs
    retry_schedule_seconds: shapes.RetrySchedule
    max_in_flight: shapes.InFlight
    rate_limit_per_second: shapes.RatePerSecond | None
    headers: dict[shapes.HeaderName, shapes.MaskedValue]
    status: shapes.TargetStatus
    disabled_reason: DisabledReason | None
    disabled_at: shapes.Moment | None
    breaker: Breaker | None
    created_at: shapes.Moment


class Workflow(Target):
    """A target of events."""

    id: shapes.WorkflowId
    object: Literal["workflow"]
    ordered: bool
    filter: shapes.Filter | None


class WorkflowWithSecret(Workflow):
    """A target of events with its new signing secret."""

    secret: shapes.SigningSecret


class Endpoint(Target):
    """A target of outcomes; `streams` null: of all streams."""

    id: shapes.EndpointId
    object: Literal["webhook_endpoint"]
    event_types: shapes.OutcomeTypes
    streams: Sequence[shapes.StreamName] | None


class EndpointWithSecret(Endpoint):
    """A target of outcomes with its new signing secret."""

    secret: shapes.SigningSecret


class QuotaInForce(TypedDict):
    """A leaky bucket of `burst` requests, drained at `requests_per_minute`."""

    requests_per_minute: shapes.RequestsPerMinute
    burst: shapes.Burst


class Workspace(TypedDict):
    """A tenant, and the quotas that hold for it by environment: its own or the platform's."""

    id: shapes.WorkspaceId
    object: Literal["workspace"]
    name: shapes.Name
    status: shapes.WorkspaceStatus
    quota: dict[Environment, QuotaInForce]
    created_at: shapes.Moment


class NewWorkspace(Workspace):
    """A tenant with its first secret key of each environment."""

    keys: Sequence[NewKey]


# --- for those who run Atlas


class _Job(TypedDict):
    status: shapes.JobStatus
    created_at: shapes.Moment
    started_at: shapes.Moment | None
    completed_at: shapes.Moment | None
    records_folded: Records
    records_total: Records
    error: shapes.Message | None


class Rebuild(_Job):
    """Making the read model anew from the log, while Atlas runs.

    A store that was made anew for another reason completes those asked for before; it knows no times of them.
    """

    id: shapes.RebuildId
    object: Literal["rebuild"]


class RowDifference(TypedDict):
    """A row of the read model that is not as the log has it.

    `where` is `live` or `rebuilt` when only that store has it, `both` when it is not the same in both.
    """

    table: Annotated[str, shapes.said(pattern="^[a-z]+$")]
    scope: Annotated[str, shapes.said("Workspace and environment.", pattern="/")] | None
    key: Sequence[Any]
    where: Literal["live", "rebuilt", "both"]


class Verification(_Job):
    """Comparing the read model with one folded from the log up to the same positions.

    `equal` and the digests are null until it is completed. `differences` holds the first ten of each table.
    """

    id: shapes.VerificationId
    object: Literal["verification"]
    equal: bool | None
    live_digest: shapes.Digest | None
    rebuilt_digest: shapes.Digest | None
    differences: Sequence[RowDifference]


class Alive(TypedDict):
    """The process answers."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """Whether it can append and is making progress: each check is `ok`, or says what is wrong."""

    status: Annotated[str, shapes.said(enum=["ready", "unready"])]
    checks: dict[str, Annotated[str, shapes.said("`ok`, or what is wrong.")]]
