"""The control plane as a fold over `atlas.control` (design section 6).

A record is a command: what somebody asked for, with everything chance and time decided already inside
it (ids, digests, ciphertexts, `at_ms`) and the limits it is judged by. Whether it holds is decided by
the fold, from the records before it: so two gateways that propose the same name agree who was first,
without a lock. `ControlState.apply` returns that decision; a refused command changes nothing. A command
id that was decided already gives the first decision again, so that a proposer may resend.
"""

from __future__ import annotations

from collections import ChainMap, OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from atlas.core import control_operations
from atlas.core.commands import (
    ArchiveStream,
    Command,
    CreateKey,
    CreateStream,
    CreateWorkflow,
    CreateWorkspace,
    DeleteWorkflow,
    DisableWorkflow,
    OpenProducer,
    PatchStream,
    PatchWorkflow,
    PatchWorkspace,
    ReactivateWorkflow,
    RequestRebuild,
    RequestVerification,
    RevokeKey,
    RotateWorkflowSecret,
    Scoped,
)
from atlas.core.entities import (
    DISABLED,
    ENABLED,
    ApiKey,
    Job,
    Producer,
    Scope,
    SealedSecret,
    Stream,
    Workflow,
    Workspace,
)
from atlas.core.errors import ApiError, InvalidRequest

#: Decisions kept for proposers that resend; one waits seconds, this is minutes of the busiest plane.
DECISIONS_KEPT: Final = 10_000
Entity = Workspace | ApiKey | Stream | Workflow | Producer | Job
Decision = Entity | ApiError


class ControlState:
    """The fold. Look-ups are plain dictionaries: the hot path reads them directly."""

    def __init__(self) -> None:
        self.workspaces: MutableMapping[str, Workspace] = {}
        self.keys: MutableMapping[str, ApiKey] = {}
        self.keys_by_digest: MutableMapping[str, ApiKey] = {}
        self.streams: dict[Scope, dict[str, Stream]] = {}
        self.workflows: dict[Scope, dict[str, Workflow]] = {}
        self.topics = 0
        self.producers: tuple[Producer, ...] = ()
        self.jobs: dict[str, Job] = {}
        self._decisions: OrderedDict[str, Decision] = OrderedDict()

    def decision(self, command_id: str) -> Decision | None:
        """What the fold decided about a command, if it has seen it."""
        return self._decisions.get(command_id)

    def apply(self, command: Command, offset: int) -> Decision:
        """Fold one command; returns the entity it leaves, or the error that refuses it."""
        known = self._decisions.get(command.id)
        if known is not None:
            return known
        try:
            decided: Decision = _HANDLERS[type(command)](self, command, offset)
        except ApiError as refusal:
            decided = refusal
        self._decisions[command.id] = decided
        if len(self._decisions) > DECISIONS_KEPT:
            self._decisions.popitem(last=False)
        return decided

    def refusal(self, command: Command) -> ApiError | None:
        """What `apply` would refuse the command with now; changes nothing.

        A proposer that knows the end of the topic asks first: a refused command is not kept for ever.
        """
        scope = _scope_of(command)
        trial = ControlState()
        trial.workspaces = ChainMap({}, self.workspaces)
        trial.keys = ChainMap({}, self.keys)
        trial.keys_by_digest = ChainMap({}, self.keys_by_digest)
        trial.streams = {scope: dict(self.streams.get(scope, {}))}
        trial.workflows = {scope: dict(self.workflows.get(scope, {}))}
        trial.topics = self.topics
        trial.producers = self.producers
        trial.jobs = dict(self.jobs)
        decided = trial.apply(command, 0)
        return decided if isinstance(decided, ApiError) else None

    def put_key(self, key: ApiKey) -> ApiKey:
        """Store a key under its id and its digest."""
        self.keys[key.id] = self.keys_by_digest[key.digest] = key
        return key

    def stream(self, scope: Scope, name: str) -> Stream:
        """A stream that takes events.

        Raises:
            ApiError: stream_not_found.
        """
        found = self.streams.get(scope, {}).get(name)
        if found is None or found.archived_at_ms is not None:
            raise ApiError("stream_not_found", f"No stream {name!r} in this workspace and environment.")
        return found

    def workflow(self, scope: Scope, workflow_id: str) -> Workflow:
        """A workflow.

        Raises:
            ApiError: workflow_not_found.
        """
        found = self.workflows.get(scope, {}).get(workflow_id)
        if found is None:
            raise ApiError("workflow_not_found", f"No workflow {workflow_id!r} here.")
        return found

    def key(self, scope: Scope, key_id: str) -> ApiKey:
        """A key, revoked ones included.

        Raises:
            ApiError: key_not_found.
        """
        found = self.keys.get(key_id)
        if found is None or (found.workspace_id, found.environment) != scope:
            raise ApiError("key_not_found", f"No API key {key_id!r} here.")
        return found

    def workspace(self, workspace_id: str) -> Workspace:
        """A workspace.

        Raises:
            ApiError: workspace_not_found.
        """
        found = self.workspaces.get(workspace_id)
        if found is None:
            raise ApiError("workspace_not_found", f"No workspace {workspace_id!r}.")
        return found

    def job(self, kind: str, job_id: str) -> Job:
        """A rebuild or a verification.

        Raises:
            ApiError: not_found.
        """
        found = self.jobs.get(job_id)
        if found is None or found.kind != kind:
            raise ApiError("not_found", f"No {kind} {job_id!r}.")
        return found

    def check_routes(self, scope: Scope, routes: tuple[str, ...]) -> None:
        """Refuse routes to workflows that do not exist.

        Raises:
            InvalidRequest: with the path of the first one.
        """
        known = self.workflows.get(scope, {})
        for index, target in enumerate(routes):
            if target not in known:
                raise InvalidRequest(f"default_routes.{index}", f"no workflow {target!r} exists here")


def _scope(command: Scoped | ApiKey | Stream | Workflow) -> Scope:
    return (command.workspace_id, command.environment)


def _scope_of(command: Command) -> Scope:
    """The workspace and environment that a command is about; of a workspace itself, none."""
    match command:
        case CreateKey():
            return _scope(command.key)
        case CreateStream():
            return _scope(command.stream)
        case CreateWorkflow():
            return _scope(command.workflow)
        case Scoped():
            return _scope(command)
    return ("", "")


def _present(command: Struct, *fields: str) -> dict[str, object]:
    values = ((field, getattr(command, field)) for field in fields)
    return {field: value for field, value in values if value is not UNSET}


def _create_workspace(state: ControlState, command: CreateWorkspace, _: int) -> Workspace:
    if command.workspace.id in state.workspaces:
        raise ApiError("already_exists", "A workspace with this id exists.")
    state.workspaces[command.workspace.id] = command.workspace
    for key in command.keys:
        state.put_key(key)
    return command.workspace


def _patch_workspace(state: ControlState, command: PatchWorkspace, _: int) -> Workspace:
    old = state.workspace(command.workspace_id)
    merged = {**old.quotas, **command.quotas}
    new = replace(
        old,
        quotas={env: quota for env, quota in merged.items() if quota is not None},
        status=command.status or old.status,
    )
    state.workspaces[new.id] = new
    return new


def _create_key(state: ControlState, command: CreateKey, _: int) -> ApiKey:
    scope = _scope(command.key)
    for index, name in enumerate(command.key.streams or ()):
        if name not in state.streams.get(scope, {}):
            raise InvalidRequest(f"streams.{index}", f"no stream {name!r} exists here")
    if command.replaces is not None:
        old = state.key(scope, command.replaces)
        if not old.is_live(command.at_ms):
            raise ApiError("key_not_found", f"API key {old.id!r} has ended.")
        ends_at_ms = command.replaced_ends_at_ms or command.at_ms
        if old.expires_at_ms is not None:
            ends_at_ms = min(ends_at_ms, old.expires_at_ms)
        state.put_key(replace(old, expires_at_ms=ends_at_ms))
    return state.put_key(command.key)


def _revoke_key(state: ControlState, command: RevokeKey, _: int) -> ApiKey:
    old = state.key(_scope(command), command.key_id)
    if old.revoked_at_ms is not None:
        return old
    return state.put_key(replace(old, revoked_at_ms=command.at_ms))


def _create_stream(state: ControlState, command: CreateStream, _: int) -> Stream:
    stream, scope = command.stream, _scope(command.stream)
    known = state.streams.setdefault(scope, {})
    if stream.name in known:
        raise ApiError("already_exists", f"A stream {stream.name!r} exists, or has been archived.")
    if sum(other.archived_at_ms is None for other in known.values()) >= command.streams_max:
        raise ApiError("stream_limit_reached", f"This environment has its {command.streams_max} streams.")
    if state.topics >= command.topics_max:
        message = f"This installation has its {command.topics_max} streams, archived ones included."
        raise ApiError("stream_limit_reached", message)
    state.check_routes(scope, stream.default_routes)
    known[stream.name] = stream
    state.topics += 1
    return stream


def _patch_stream(state: ControlState, command: PatchStream, _: int) -> Stream:
    scope = _scope(command)
    old = state.stream(scope, command.name)
    if command.default_routes is not UNSET:
        state.check_routes(scope, command.default_routes)
    new = replace(old, **_present(command, "description", "retention_days", "default_routes"))
    state.streams[scope][new.name] = new
    return new


def _archive_stream(state: ControlState, command: ArchiveStream, _: int) -> Stream:
    scope = _scope(command)
    new = replace(state.stream(scope, command.name), archived_at_ms=command.at_ms)
    state.streams[scope][new.name] = new
    return new


def _create_workflow(state: ControlState, command: CreateWorkflow, offset: int) -> Workflow:
    scope = _scope(command.workflow)
    known = state.workflows.setdefault(scope, {})
    if command.workflow.id in known:
        raise ApiError("already_exists", f"A workflow {command.workflow.id!r} exists.")
    return _put_workflow(state, command.workflow, offset)


def _put_workflow(state: ControlState, workflow: Workflow, offset: int) -> Workflow:
    new = replace(workflow, revision=offset)
    state.workflows[new.scope][new.id] = new
    return new


def _patch_workflow(state: ControlState, command: PatchWorkflow, offset: int) -> Workflow:
    old = state.workflow(_scope(command), command.workflow_id)
    fields = (
        "url",
        "description",
        "timeout_ms",
        "retry_schedule_seconds",
        "max_in_flight",
        "rate_limit_per_second",
        "headers",
    )
    return _put_workflow(state, replace(old, **_present(command, *fields)), offset)


def _rotate_secret(state: ControlState, command: RotateWorkflowSecret, offset: int) -> Workflow:
    old = state.workflow(_scope(command), command.workflow_id)
    before = SealedSecret(old.secrets[0].sealed, command.old_ends_at_ms)
    overlap = (before,) if command.old_ends_at_ms > command.at_ms else ()
    secrets = (SealedSecret(command.sealed), *overlap)
    return _put_workflow(state, replace(old, secrets=secrets), offset)


def _disable_workflow(state: ControlState, command: DisableWorkflow, offset: int) -> Workflow:
    old = state.workflow(_scope(command), command.workflow_id)
    if command.revision is not None and command.revision != old.revision:
        return old
    if old.status == DISABLED:
        return old
    new = replace(old, status=DISABLED, disabled_reason=command.reason, disabled_at_ms=command.at_ms)
    return _put_workflow(state, new, offset)


def _reactivate_workflow(state: ControlState, command: ReactivateWorkflow, offset: int) -> Workflow:
    old = state.workflow(_scope(command), command.workflow_id)
    if old.status == ENABLED:
        return old
    new = replace(old, status=ENABLED, disabled_reason=None, disabled_at_ms=None)
    return _put_workflow(state, new, offset)


def _delete_workflow(state: ControlState, command: DeleteWorkflow, _: int) -> Workflow:
    scope = _scope(command)
    old = state.workflow(scope, command.workflow_id)
    del state.workflows[scope][old.id]
    for name, stream in state.streams.get(scope, {}).items():
        if old.id in stream.default_routes:
            routes = tuple(target for target in stream.default_routes if target != old.id)
            state.streams[scope][name] = replace(stream, default_routes=routes)
    return old


_HANDLERS: dict[type[Struct], Callable[..., Entity]] = {
    CreateWorkspace: _create_workspace,
    PatchWorkspace: _patch_workspace,
    CreateKey: _create_key,
    RevokeKey: _revoke_key,
    CreateStream: _create_stream,
    PatchStream: _patch_stream,
    ArchiveStream: _archive_stream,
    CreateWorkflow: _create_workflow,
    PatchWorkflow: _patch_workflow,
    RotateWorkflowSecret: _rotate_secret,
    DisableWorkflow: _disable_workflow,
    ReactivateWorkflow: _reactivate_workflow,
    DeleteWorkflow: _delete_workflow,
    OpenProducer: control_operations.open_producer,
    RequestRebuild: control_operations.request_rebuild,
    RequestVerification: control_operations.request_verification,
}
