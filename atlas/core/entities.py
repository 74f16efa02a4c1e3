"""What the control fold holds: workspaces, keys, streams, targets. Frozen; changed by replacement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Struct

from atlas.core import shapes
from atlas.core.facts import OUTCOME_TYPES, Environment, ProducerId, event_topic
from atlas.core.lifecycle import EVENT_STATUSES
from atlas.core.retry import DEFAULT_SCHEDULE_S

TIMEOUT_MS_DEFAULT: Final = 5_000
MAX_IN_FLIGHT_DEFAULT: Final = 32

ENABLED: Final = "enabled"
DISABLED: Final = "disabled"
SUSPENDED: Final = "suspended"

#: `disabled_reason` of a target that answered 410 Gone.
GONE: Final = "gone"
#: `disabled_reason` of a target that somebody disabled.
BY_REQUEST: Final = "requested"
DisabledReason = Annotated[str, shapes.said(enum=[GONE, BY_REQUEST])]

WORKFLOW_PREFIX: Final = "wf_"
ENDPOINT_PREFIX: Final = "we_"

Scope = tuple[str, str]


class Quota(Struct, frozen=True):
    """A leaky bucket of `burst` requests drained at `requests_per_minute`."""

    requests_per_minute: shapes.RequestsPerMinute
    burst: shapes.Burst


class Workspace(Struct, frozen=True, kw_only=True):
    """A tenant. `quotas` holds only what an operator set, by environment."""

    id: shapes.WorkspaceId
    name: shapes.Name
    status: shapes.WorkspaceStatus = ENABLED
    quotas: Mapping[Environment, Quota] = {}
    created_at_ms: shapes.AtMs


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key, without its secret. `streams` is None when it is not scoped."""

    id: shapes.KeyId
    workspace_id: shapes.WorkspaceId
    environment: Environment
    kind: shapes.KeyKind
    name: shapes.Name | None
    streams: shapes.KeyStreams | None
    prefix: shapes.KeyPrefix
    digest: shapes.Digest
    created_at_ms: shapes.AtMs
    expires_at_ms: shapes.AtMs | None = None
    revoked_at_ms: shapes.AtMs | None = None

    def is_live(self, now_ms: int) -> bool:
        """Whether it opens anything at this time."""
        return self.revoked_at_ms is None and (self.expires_at_ms is None or now_ms < self.expires_at_ms)

    def allows(self, stream: str) -> bool:
        """Whether the key's scope holds this stream."""
        return self.streams is None or stream in self.streams

    @property
    def publishable(self) -> bool:
        """A key for browsers: only sends."""
        return self.kind == "publishable"


class Stream(Struct, frozen=True, kw_only=True):
    """An event stream; `archived_at_ms` set means: no new events, history readable, name taken."""

    id: shapes.StreamId
    workspace_id: shapes.WorkspaceId
    environment: Environment
    name: shapes.StreamName
    description: shapes.Description | None
    retention_days: shapes.RetentionDays
    default_routes: shapes.Routes
    created_at_ms: shapes.AtMs
    archived_at_ms: shapes.AtMs | None = None

    @property
    def topic(self) -> str:
        """Where its events lie."""
        return event_topic(self.environment, self.workspace_id, self.name)

    @property
    def retention_ms(self) -> int:
        """How long its events are visible."""
        return self.retention_days * 86_400_000


class SealedSecret(Struct, frozen=True):
    """An encrypted signing secret; the older one of a rotation ends at `expires_at_ms`."""

    sealed: shapes.Sealed
    expires_at_ms: shapes.AtMs | None = None


class Target(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Where Atlas sends to. `revision` is the offset of the control record that last changed it."""

    id: shapes.Target
    workspace_id: shapes.WorkspaceId
    environment: Environment
    url: shapes.Url
    description: shapes.Description | None = None
    timeout_ms: shapes.TimeoutMs = TIMEOUT_MS_DEFAULT
    retry_schedule_seconds: shapes.RetrySchedule = DEFAULT_SCHEDULE_S
    max_in_flight: shapes.InFlight = MAX_IN_FLIGHT_DEFAULT
    rate_limit_per_second: shapes.RatePerSecond | None = None
    headers: Mapping[shapes.HeaderName, shapes.HeaderValue] = {}
    secrets: tuple[SealedSecret, ...]
    status: shapes.TargetStatus = ENABLED
    disabled_reason: DisabledReason | None = None
    disabled_at_ms: shapes.AtMs | None = None
    created_at_ms: shapes.AtMs
    revision: shapes.Position = 0

    @property
    def scope(self) -> Scope:
        """Workspace and environment."""
        return (self.workspace_id, self.environment)


class Workflow(Target, frozen=True, kw_only=True, tag="workflow"):
    """A target of events, named by streams' `default_routes`.

    Attributes:
        ordered: events of one stream with the same ordering key come one after another.
        filter: which events it takes (see `filters`); None: all.
    """

    ordered: bool = False
    filter: shapes.Filter | None = None


class Endpoint(Target, frozen=True, kw_only=True, tag="webhook_endpoint"):
    """A target of outcomes.

    Attributes:
        event_types: the outcomes it is told of.
        streams: only those of these streams; None: of all.
    """

    event_types: shapes.OutcomeTypes = OUTCOME_TYPES
    streams: tuple[shapes.StreamName, ...] | None = None

    def wants(self, outcome_type: str, stream: str) -> bool:
        """Whether it is told of such an outcome there."""
        return outcome_type in self.event_types and (self.streams is None or stream in self.streams)


class Producer(Struct, frozen=True, kw_only=True):
    """Who may send keyed events on Kafka: one incarnation of a producer, as the brokers know it.

    Attributes:
        index: the opening of the idempotency index in whose name it sends; another at every start.
        opened_at_ms: when it began, by its gateway's clock.
    """

    producer_id: ProducerId
    epoch: shapes.Natural
    index: Annotated[str, shapes.said(minLength=1)]
    opened_at_ms: shapes.AtMs


def secret_context(workspace_id: str, environment: str, target: str) -> str:
    """What a signing secret's ciphertext is bound to."""
    return f"{workspace_id}/{environment}/{target}"


class BulkReplay(Struct, frozen=True, kw_only=True):
    """Events of an environment that are to be delivered again.

    Attributes:
        stream, type, status: None: any.
        workflow_ids: only routes to these; None: to all.
        received_from_ms, received_before_ms: inclusive, exclusive.
        rate_per_second: events begun anew, at most.
    """

    id: shapes.ReplayId
    workspace_id: shapes.WorkspaceId
    environment: Environment
    stream: shapes.StreamName | None = None
    type: shapes.EventType | None = None
    status: Annotated[str, shapes.said(enum=list(EVENT_STATUSES))] | None = None
    workflow_ids: shapes.Routes | None = None
    received_from_ms: shapes.AtMs | None = None
    received_before_ms: shapes.AtMs | None = None
    rate_per_second: shapes.RatePerSecond
    created_at_ms: shapes.AtMs
    cancelled_at_ms: shapes.AtMs | None = None

    @property
    def scope(self) -> Scope:
        """Workspace and environment."""
        return (self.workspace_id, self.environment)


REBUILD = "rebuild"
VERIFICATION = "verification"


class Job(Struct, frozen=True):
    """Something asked of whoever writes the read model. `offset` is that of its control record."""

    id: str
    kind: str
    requested_at_ms: int
    offset: int
