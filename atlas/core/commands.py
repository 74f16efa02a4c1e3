"""What can be asked of the control plane: the records of `atlas.control`.

A command is what somebody asked for, with everything that chance and time decide already inside it
(ids, digests, ciphertexts, `at_ms`) and the limits it is judged by. `atlas.core.control` decides it.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct, UnsetType

from atlas.core import shapes
from atlas.core.entities import (
    ApiKey,
    BulkReplay,
    DisabledReason,
    Endpoint,
    Producer,
    Quota,
    Stream,
    Workflow,
    Workspace,
)
from atlas.core.errors import AtlasError
from atlas.core.facts import CONTROL_SCHEMA, Environment
from atlas.core.limits import ENDPOINTS_MAX, TOPICS_MAX_DEFAULT


class UnknownControlFact(AtlasError):
    """A control record of a kind or version this process does not know: it must not go on."""


class _Command(Struct, frozen=True, kw_only=True, tag_field="command"):
    id: shapes.CommandId
    at_ms: shapes.AtMs


class Scoped(_Command, frozen=True, kw_only=True):
    """A command about something of one workspace and environment."""

    workspace_id: shapes.WorkspaceId
    environment: Environment


class CreateWorkspace(_Command, frozen=True, kw_only=True, tag="workspace.create"):
    """A new tenant and its first keys."""

    workspace: Workspace
    keys: tuple[ApiKey, ...]


class PatchWorkspace(_Command, frozen=True, kw_only=True, tag="workspace.patch"):
    """Quotas by environment (None: back to the default) and status."""

    workspace_id: shapes.WorkspaceId
    quotas: dict[Environment, Quota | None] = {}
    status: shapes.WorkspaceStatus | None = None


class CreateKey(_Command, frozen=True, kw_only=True, tag="key.create"):
    """A new key; with `replaces`, a rotation: the old key ends at `replaced_ends_at_ms`."""

    key: ApiKey
    replaces: shapes.KeyId | None = None
    replaced_ends_at_ms: shapes.AtMs | None = None


class RevokeKey(Scoped, frozen=True, kw_only=True, tag="key.revoke"):
    """Ends a key at once."""

    key_id: shapes.KeyId


class CreateStream(_Command, frozen=True, kw_only=True, tag="stream.create"):
    """A new stream, judged by `streams_max` live ones beside it, and `topics_max` streams in all."""

    stream: Stream
    streams_max: shapes.Natural
    topics_max: shapes.Natural = TOPICS_MAX_DEFAULT


class PatchStream(Scoped, frozen=True, kw_only=True, tag="stream.patch"):
    """Only the fields present change."""

    name: shapes.StreamName
    description: shapes.Description | UnsetType | None = UNSET
    retention_days: shapes.RetentionDays | UnsetType = UNSET
    default_routes: shapes.Routes | UnsetType = UNSET


class ArchiveStream(Scoped, frozen=True, kw_only=True, tag="stream.archive"):
    """No new events; its slot is free, its name is not."""

    name: shapes.StreamName


class CreateTarget(_Command, frozen=True, kw_only=True, tag="target.create"):
    """A new workflow, or webhook endpoint, judged by `endpoints_max` of its environment."""

    target: Workflow | Endpoint
    endpoints_max: shapes.Natural = ENDPOINTS_MAX


class _ToTarget(Scoped, frozen=True, kw_only=True):
    """About one target, by its id."""

    target_id: shapes.Target


class PatchTarget(_ToTarget, frozen=True, kw_only=True, tag="target.patch"):
    """Only the fields present change; `ordered` and `filter` are a workflow's, the last two an endpoint's."""

    url: shapes.Url | UnsetType = UNSET
    description: shapes.Description | UnsetType | None = UNSET
    timeout_ms: shapes.TimeoutMs | UnsetType = UNSET
    retry_schedule_seconds: shapes.RetrySchedule | UnsetType = UNSET
    max_in_flight: shapes.InFlight | UnsetType = UNSET
    rate_limit_per_second: shapes.RatePerSecond | UnsetType | None = UNSET
    headers: dict[shapes.HeaderName, shapes.HeaderValue] | UnsetType = UNSET
    ordered: bool | UnsetType = UNSET
    filter: shapes.Filter | UnsetType | None = UNSET
    event_types: shapes.OutcomeTypes | UnsetType = UNSET
    streams: tuple[shapes.StreamName, ...] | UnsetType | None = UNSET


class RotateSecret(_ToTarget, frozen=True, kw_only=True, tag="target.rotate_secret"):
    """A new signing secret; the one before it lives on until `old_ends_at_ms`."""

    sealed: shapes.Sealed
    old_ends_at_ms: shapes.AtMs


class DisableTarget(_ToTarget, frozen=True, kw_only=True, tag="target.disable"):
    """Stops deliveries. With `revision` it is ignored if the target has changed since (410)."""

    reason: DisabledReason
    revision: shapes.Position | None = None


class ReactivateTarget(_ToTarget, frozen=True, kw_only=True, tag="target.reactivate"):
    """Deliveries go on."""


class DeleteTarget(_ToTarget, frozen=True, kw_only=True, tag="target.delete"):
    """Gone; a workflow also from every `default_routes`."""


class StartReplay(_Command, frozen=True, kw_only=True, tag="replay.start"):
    """Events delivered again, many at once."""

    replay: BulkReplay


class CancelReplay(Scoped, frozen=True, kw_only=True, tag="replay.cancel"):
    """A bulk replay goes no further."""

    replay_id: shapes.ReplayId


class OpenProducer(_Command, frozen=True, kw_only=True, tag="producer.open"):
    """A producer is about to send keyed events; refused once another index was opened after its own."""

    producer: Producer


class RequestRebuild(_Command, frozen=True, kw_only=True, tag="rebuild.request"):
    """Fold the log into a new read model, and go on with that."""

    job_id: shapes.RebuildId


class RequestVerification(_Command, frozen=True, kw_only=True, tag="verification.request"):
    """Fold the log into a new read model, and tell whether the one in use is equal."""

    job_id: shapes.VerificationId


Command = (
    CreateWorkspace
    | PatchWorkspace
    | CreateKey
    | RevokeKey
    | CreateStream
    | PatchStream
    | ArchiveStream
    | CreateTarget
    | PatchTarget
    | RotateSecret
    | DisableTarget
    | ReactivateTarget
    | DeleteTarget
    | StartReplay
    | CancelReplay
    | OpenProducer
    | RequestRebuild
    | RequestVerification
)
encode_command = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Command).decode


def decode_command(value: bytes | None, schema: bytes | None) -> Command:
    """Decode a control record.

    Args:
        schema: what its header names.

    Raises:
        UnknownControlFact: it is none that this version knows.
    """
    if schema != CONTROL_SCHEMA:
        raise UnknownControlFact(f"its schema is not {CONTROL_SCHEMA.decode()}")
    try:
        command: Command = _decode(value or b"")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UnknownControlFact(str(error)) from error
    return command
