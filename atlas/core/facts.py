"""What is written to the log: event records and lifecycle facts (design sections 5 and 6).

The value of every record is UTF-8 JSON, readable by any Kafka client. The header `atlas-schema` names
the type and version. A reader skips records whose schema it does not know, and keeps the first record
of an event id.

Lifecycle facts of shard p lie in partition p of `atlas.lifecycle`. Delivery facts carry the epoch of
the owner that wrote them: the offset of its `shard.claimed`. A fact whose epoch is not the newest claim
before it is void in every fold.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final

import msgspec

from atlas.core import shapes
from atlas.core.limits import MS_MAX

LIFECYCLE_TOPIC: Final = "atlas.lifecycle"
CONTROL_TOPIC: Final = "atlas.control"
ENVIRONMENTS: Final = ("live", "test")

#: What webhook endpoints are told of (reference, "Webhooks").
EVENT_DELIVERED: Final = "event.delivered"
EVENT_FAILED: Final = "event.failed"
EVENT_RETRY_SCHEDULED: Final = "event.retry_scheduled"
OUTCOME_TYPES: Final = (EVENT_DELIVERED, EVENT_FAILED, EVENT_RETRY_SCHEDULED)

#: Why a route ends without an attempt: the `error.code` of a `delivery.closed`.
TARGET_DISABLED: Final = "target_disabled"
TARGET_DELETED: Final = "target_deleted"
PAYLOAD_EXPIRED: Final = "payload_expired"
CLOSING_CODES: Final = (TARGET_DISABLED, TARGET_DELETED, PAYLOAD_EXPIRED)

SCHEMA_HEADER: Final = "atlas-schema"
EVENT_SCHEMA: Final = b"atlas.event/1"
LIFECYCLE_SCHEMA: Final = b"atlas.lifecycle/1"
#: Between events: shuts a producer that is gone out of a partition. Nothing for readers.
FENCE_SCHEMA: Final = b"atlas.fence/1"
CONTROL_SCHEMA: Final = b"atlas.control/1"

#: Key of `shard.claimed` and `shard.checkpoint` records: lets an owner watch its partition for
#: another's claim without decoding every fact.
SHARD_KEY: Final = b"shard"
#: Key of `log.fence` records.
FENCE_KEY: Final = b"fence"

#: Key of `replay.requested` records: their owner looks for them as well.
REPLAY_KEY: Final = b"replay"

#: Key of `breaker.changed` records.
BREAKER_KEY: Final = b"breaker"

#: Key of `replay.progressed` records.
PROGRESS_KEY: Final = b"progress"

#: Bounds that every store can hold, so that no record written by others can stop a fold.
Millis = Annotated[int, msgspec.Meta(ge=0, le=MS_MAX)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=2**31 - 1)]

Environment = Annotated[str, shapes.said(enum=list(ENVIRONMENTS))]
Outcome = Annotated[str, shapes.said(enum=["delivered", "retry_scheduled", "failed"])]
TargetKind = Annotated[str, shapes.said(enum=["workflow", "webhook"])]
#: The brokers' own number for a producer.
ProducerId = Annotated[int, shapes.said(minimum=0, maximum=2**63 - 1)]
Owner = Annotated[str, shapes.said("Names a process for as long as it runs.", minLength=1)]


def event_topic(environment: str, workspace_id: str, stream: str) -> str:
    """`atlas.<env>.<workspace>.<stream>`; stream names hold no dot, so the parts can be told apart."""
    return f"atlas.{environment}.{workspace_id}.{stream}"


class TopicName(msgspec.Struct, frozen=True):
    """An event topic's name, taken apart."""

    environment: str
    workspace_id: str
    stream: str


@lru_cache(maxsize=4_096)
def parse_event_topic(topic: str) -> TopicName | None:
    """The parts of an event topic's name; None for any other topic."""
    parts = topic.split(".")
    if len(parts) != 4 or parts[0] != "atlas" or parts[1] not in ENVIRONMENTS:
        return None
    return TopicName(parts[1], parts[2], parts[3])


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One accepted event. The record is the acceptance: its routes are those resolved then.

    Times are RFC 3339 UTC. To `ordered_routes`, some of its routes, events with its `ordering_key` come one
    after another. `payload_hash` (hex) and `idempotency_key` are None for unkeyed events.
    `control_offset` is how far the gateway had folded `atlas.control` when it decided.
    """

    id: shapes.EventId
    workspace_id: shapes.WorkspaceId
    environment: Environment
    stream: shapes.StreamName
    type: shapes.EventType
    occurred_at: shapes.OccurredAt
    received_at: shapes.Moment
    data: shapes.RawData
    actor: shapes.Actor | None
    metadata: shapes.Metadata | None
    ordering_key: shapes.OrderingKey | None
    idempotency_key: shapes.IdempotencyKey | None
    payload_hash: shapes.PayloadHash | None
    routes: shapes.Routes
    ordered_routes: shapes.Routes = ()
    control_offset: shapes.Position


class _Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact", gc=False):
    epoch: Offset


class _DeliveryFact(_Fact, frozen=True, kw_only=True):
    """Names one (event, target): the event's id and where its record lies.

    `notice` is the delivery's id (`whd_`) when the target is a webhook endpoint: it is told of several
    outcomes of one event.
    """

    event_id: shapes.EventId
    topic: shapes.EventTopic
    offset: Offset
    target: shapes.Target
    replay: Count = 0
    notice: shapes.DeliveryId | None = None


class ShardClaimed(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact", tag="shard.claimed"):
    """A new owner of the shard; the record's own offset is its epoch."""

    owner: Owner
    at_ms: Millis


class DecidedRoute(msgspec.Struct, frozen=True, array_like=True):
    """A route above a checkpoint's position that already has its fact."""

    topic: shapes.EventTopic
    offset: Offset
    target: shapes.Target


class ShardCheckpoint(_Fact, frozen=True, kw_only=True, tag="shard.checkpoint"):
    """Every route of every event below `next_offsets` (by topic) has a fact, and those in `decided`.

    Of the topics in `lost` nothing holds that was said before: they have lost records that had been read, and
    their offsets count anew; below the offset given there may be events that have had their facts.
    """

    next_offsets: dict[shapes.EventTopic, shapes.Position]
    decided: tuple[DecidedRoute, ...]
    lost: dict[shapes.EventTopic, shapes.Position] = {}
    at_ms: Millis


class DeliveryStarted(_DeliveryFact, frozen=True, kw_only=True, tag="delivery.started"):
    """An attempt that has outlived 100 ms; lets readers see `processing`. Decides nothing."""

    attempt: Count
    started_at_ms: Millis


class FactError(msgspec.Struct, frozen=True, gc=False):
    """Why an attempt, or a route, failed."""

    code: shapes.Code
    message: shapes.Message


class Timings(msgspec.Struct, frozen=True, gc=False):
    """Where an attempt's time went, in milliseconds; None: that did not happen.

    `connect_ms` (name look-up and TCP) and `tls_ms` are None on a connection used before; `first_byte_ms`
    runs from the start to the end of the answer's header.
    """

    connect_ms: Share | None = None
    tls_ms: Share | None = None
    first_byte_ms: Share | None = None


class DeliveryAttempted(_DeliveryFact, frozen=True, kw_only=True, tag="delivery.attempted"):
    """One attempt and its outcome: `delivered`, `retry_scheduled` or `failed`.

    `next_attempt_at_ms` is decided here, once. `response_body` is the first 4 KiB answered, `address` the
    one dialled, or the one that was refused. `notify` names the webhook endpoints that are to be told, if
    the event's outcome follows from this: who they are is decided here, once, with the fact that causes
    it, so that no crash can come between.
    """

    attempt: Count
    outcome: Outcome
    started_at_ms: Millis
    completed_at_ms: Millis
    duration_ms: Millis
    next_attempt_at_ms: Millis | None = None
    http_status: Count | None = None
    error: FactError | None = None
    response_body: shapes.ResponseBody | None = None
    address: shapes.Address | None = None
    timings: Timings = Timings()
    notify: tuple[shapes.EndpointId, ...] = ()


class DeliveryParked(_DeliveryFact, frozen=True, kw_only=True, tag="delivery.parked"):
    """The route waits in the log for room at its target; not an attempt. Parked once."""

    reason: shapes.Code
    at_ms: Millis


class DeliveryClosed(_DeliveryFact, frozen=True, kw_only=True, tag="delivery.closed"):
    """The route ends `failed` without an attempt: target_disabled, target_deleted, payload_expired.

    `notify` as in `DeliveryAttempted`.
    """

    error: FactError
    at_ms: Millis
    notify: tuple[shapes.EndpointId, ...] = ()


class RecordsTrimmed(_Fact, frozen=True, kw_only=True, tag="records.trimmed"):
    """Records of this shard's partition of `topic` below `before_offset` are past retention.

    All of them were received before `before_ms`.
    """

    topic: shapes.EventTopic
    before_offset: Offset
    before_ms: Millis
    at_ms: Millis


class BreakerChanged(_Fact, frozen=True, kw_only=True, tag="breaker.changed"):
    """The circuit breaker of a target, as the deliverer that owns this shard has it from here on.

    `trips` is how often it has opened since it was closed last. `revision` is the target's then: once that
    is another, nothing of this holds any more. Of a closed one there is nothing to say.
    """

    workspace_id: shapes.WorkspaceId
    environment: Environment
    target: shapes.Target
    revision: Offset = 0
    state: shapes.BreakerState
    trips: Count = 0
    reason: shapes.Message | None = None
    opened_at_ms: Millis | None = None
    next_probe_at_ms: Millis | None = None
    at_ms: Millis


class ReplayProgressed(_Fact, frozen=True, kw_only=True, tag="replay.progressed"):
    """How far a bulk replay has come; written by the owner of shard 0 before each step.

    Events up to `after` are done with, those up to `through` are being asked for. `matched` are the events
    found before the first step; up to `after`, `replayed` were begun anew and `skipped` could not be.
    """

    workspace_id: shapes.WorkspaceId
    environment: Environment
    replay: shapes.ReplayId
    after: shapes.EventId | None = None
    through: shapes.EventId | None = None
    matched: Count = 0
    replayed: Count = 0
    skipped: Count = 0
    done: bool = False
    at_ms: Millis


class FenceRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="log.fence"):
    """Shuts an older incarnation of a producer out of the partition (design section 7). Not an event.

    `epoch` is the one that the leader accepts from here on; the batch that carries this record has it.
    """

    producer_id: ProducerId
    epoch: Count


class ReplayRequested(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact", tag="replay.requested"):
    """Somebody wants routes of an event delivered again; the fold decides for each whether it may be.

    Written by a gateway, and so without an epoch: it decides nothing that an owner could have decided.
    `at_once` has a retry that is scheduled made now. `bulk` is the bulk replay it is part of, which replays
    no route twice. Where order is kept, `ordering_key` names the line, and the routes join it behind the
    events below the offset `behind`.
    """

    event_id: shapes.EventId
    topic: shapes.EventTopic
    offset: Offset
    targets: tuple[shapes.WorkflowId, ...]
    at_ms: Millis
    at_once: bool = False
    bulk: shapes.ReplayId | None = None
    ordering_key: shapes.OrderingKey | None = None
    behind: Offset | None = None


DeliveryFact = DeliveryStarted | DeliveryAttempted | DeliveryParked | DeliveryClosed
LifecycleFact = (
    ShardClaimed
    | ShardCheckpoint
    | DeliveryStarted
    | DeliveryAttempted
    | DeliveryParked
    | DeliveryClosed
    | RecordsTrimmed
    | ReplayRequested
    | BreakerChanged
    | ReplayProgressed
)

#: Facts that are about no event.
OfNoEvent = ShardClaimed | ShardCheckpoint | RecordsTrimmed | BreakerChanged | ReplayProgressed

encode = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(EventRecord).decode
decode_lifecycle = msgspec.json.Decoder(LifecycleFact).decode
