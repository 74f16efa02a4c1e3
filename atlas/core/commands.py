"""What can be asked of the control plane: the records of `atlas.control`.

A command is what somebody asked for, with everything that chance and time decide already inside it
(ids, digests, ciphertexts, `at_ms`) and the limits it is judged by. `atlas.core.control` decides it.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct, UnsetType

from atlas.core.entities import ApiKey, Producer, Quota, Stream, Workflow, Workspace
from atlas.core.errors import AtlasError
from atlas.core.limits import TOPICS_MAX_DEFAULT


class UnknownControlFact(AtlasError):
    """A control record of a kind or version this process does not know: it must not go on."""


class _Command(Struct, frozen=True, kw_only=True, tag_field="command"):
    id: str
    at_ms: int


class Scoped(_Command, frozen=True, kw_only=True):
    """A command about something of one workspace and environment."""

    workspace_id: str
    environment: str


class CreateWorkspace(_Command, frozen=True, kw_only=True, tag="workspace.create"):
    """A new tenant and its first keys."""

    workspace: Workspace
    keys: tuple[ApiKey, ...]


class PatchWorkspace(_Command, frozen=True, kw_only=True, tag="workspace.patch"):
    """Quotas by environment (None: back to the default) and status."""

    workspace_id: str
    quotas: dict[str, Quota | None] = {}
    status: str | None = None


class CreateKey(_Command, frozen=True, kw_only=True, tag="key.create"):
    """A new key; with `replaces`, a rotation: the old key ends at `replaced_ends_at_ms`."""

    key: ApiKey
    replaces: str | None = None
    replaced_ends_at_ms: int | None = None


class RevokeKey(Scoped, frozen=True, kw_only=True, tag="key.revoke"):
    """Ends a key at once."""

    key_id: str


class CreateStream(_Command, frozen=True, kw_only=True, tag="stream.create"):
    """A new stream, judged by `streams_max` live ones beside it, and `topics_max` streams in all."""

    stream: Stream
    streams_max: int
    topics_max: int = TOPICS_MAX_DEFAULT


class PatchStream(Scoped, frozen=True, kw_only=True, tag="stream.patch"):
    """Only the fields present change."""

    name: str
    description: str | UnsetType | None = UNSET
    retention_days: int | UnsetType = UNSET
    default_routes: tuple[str, ...] | UnsetType = UNSET


class ArchiveStream(Scoped, frozen=True, kw_only=True, tag="stream.archive"):
    """No new events; its slot is free, its name is not."""

    name: str


class CreateWorkflow(_Command, frozen=True, kw_only=True, tag="workflow.create"):
    """A new delivery target."""

    workflow: Workflow


class PatchWorkflow(Scoped, frozen=True, kw_only=True, tag="workflow.patch"):
    """Only the fields present change."""

    workflow_id: str
    url: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    timeout_ms: int | UnsetType = UNSET
    retry_schedule_seconds: tuple[int, ...] | UnsetType = UNSET
    max_in_flight: int | UnsetType = UNSET
    rate_limit_per_second: int | UnsetType | None = UNSET
    headers: dict[str, str] | UnsetType = UNSET


class RotateWorkflowSecret(Scoped, frozen=True, kw_only=True, tag="workflow.rotate_secret"):
    """A new signing secret; the one before it lives on until `old_ends_at_ms`."""

    workflow_id: str
    sealed: str
    old_ends_at_ms: int


class DisableWorkflow(Scoped, frozen=True, kw_only=True, tag="workflow.disable"):
    """Stops deliveries. With `revision` it is ignored if the target has changed since (410)."""

    workflow_id: str
    reason: str
    revision: int | None = None


class ReactivateWorkflow(Scoped, frozen=True, kw_only=True, tag="workflow.reactivate"):
    """Deliveries go on."""

    workflow_id: str


class DeleteWorkflow(Scoped, frozen=True, kw_only=True, tag="workflow.delete"):
    """Gone, also from every `default_routes`."""

    workflow_id: str


class OpenProducer(_Command, frozen=True, kw_only=True, tag="producer.open"):
    """A producer is about to send keyed events; refused once another index was opened after its own."""

    producer: Producer


class RequestRebuild(_Command, frozen=True, kw_only=True, tag="rebuild.request"):
    """Fold the log into a new read model, and go on with that."""

    job_id: str


class RequestVerification(_Command, frozen=True, kw_only=True, tag="verification.request"):
    """Fold the log into a new read model, and tell whether the one in use is equal."""

    job_id: str


Command = (
    CreateWorkspace
    | PatchWorkspace
    | CreateKey
    | RevokeKey
    | CreateStream
    | PatchStream
    | ArchiveStream
    | CreateWorkflow
    | PatchWorkflow
    | RotateWorkflowSecret
    | DisableWorkflow
    | ReactivateWorkflow
    | DeleteWorkflow
    | OpenProducer
    | RequestRebuild
    | RequestVerification
)
encode_command = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Command).decode


def decode_command(value: bytes | None) -> Command:
    """Decode a control record.

    Raises:
        UnknownControlFact: it is none that this version knows.
    """
    try:
        command: Command = _decode(value or b"")
    except msgspec.DecodeError as error:
        raise UnknownControlFact(str(error)) from error
    return command
