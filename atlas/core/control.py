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

from atlas.core import control_operations, control_targets
from atlas.core.commands import (
    ArchiveStream,
    CancelReplay,
    Command,
    CreateKey,
    CreateStream,
    CreateTarget,
    CreateWorkspace,
    DeleteTarget,
    DisableTarget,
    OpenProducer,
    PatchStream,
    PatchTarget,
    PatchWorkspace,
    ReactivateTarget,
    RequestRebuild,
    RequestVerification,
    RevokeKey,
    RotateSecret,
    Scoped,
    StartReplay,
)
from atlas.core.control_bounds import check_bounds
from atlas.core.control_targets import AnyTarget, present, scope_named
from atlas.core.entities import (
    ENDPOINT_PREFIX,
    ApiKey,
    BulkReplay,
    Endpoint,
    Job,
    Producer,
    Scope,
    Stream,
    Workflow,
    Workspace,
)
from atlas.core.errors import ApiError, InvalidRequest

#: Decisions kept for proposers that resend; one waits seconds, this is minutes of the busiest plane.
DECISIONS_KEPT: Final = 10_000
Entity = Workspace | ApiKey | Stream | Workflow | Endpoint | Producer | Job | BulkReplay
Decision = Entity | ApiError


class ControlState:
    """The fold. Look-ups are plain dictionaries: the hot path reads them directly."""

    def __init__(self) -> None:
        self.workspaces: MutableMapping[str, Workspace] = {}
        self.keys: MutableMapping[str, ApiKey] = {}
        self.keys_by_digest: MutableMapping[str, ApiKey] = {}
        self.streams: dict[Scope, dict[str, Stream]] = {}
        self.workflows: dict[Scope, dict[str, Workflow]] = {}
        self.endpoints: dict[Scope, dict[str, Endpoint]] = {}
        self.topics = 0
        self.producers: tuple[Producer, ...] = ()
        self.jobs: dict[str, Job] = {}
        self.replays: dict[Scope, dict[str, BulkReplay]] = {}
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
            check_bounds(command)
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
        trial.endpoints = {scope: dict(self.endpoints.get(scope, {}))}
        trial.topics = self.topics
        trial.producers = self.producers
        trial.jobs = dict(self.jobs)
        trial.replays = {scope: dict(self.replays.get(scope, {}))}
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

    def target(self, scope: Scope, target_id: str) -> AnyTarget:
        """A workflow or a webhook endpoint.

        Raises:
            ApiError: workflow_not_found, endpoint_not_found.
        """
        found = self.find_target(scope, target_id)
        if found is None:
            what = "endpoint" if target_id.startswith(ENDPOINT_PREFIX) else "workflow"
            raise ApiError(f"{what}_not_found", f"No {what} {target_id!r} exists here.")
        return found

    def find_target(self, scope: Scope, target_id: str) -> AnyTarget | None:
        """The same, or None."""
        if target_id.startswith(ENDPOINT_PREFIX):
            return self.endpoints.get(scope, {}).get(target_id)
        return self.workflows.get(scope, {}).get(target_id)

    def subscribers(self, scope: Scope, outcome_type: str, stream: str) -> tuple[str, ...]:
        """Ids of the webhook endpoints that are told of such an outcome there."""
        endpoints = self.endpoints.get(scope)
        if not endpoints:
            return ()
        return tuple(each.id for each in endpoints.values() if each.wants(outcome_type, stream))

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

    def check_streams(self, scope: Scope, streams: tuple[str, ...] | None) -> None:
        """Refuse to be scoped to streams that do not exist.

        Raises:
            InvalidRequest: with the path of the first one.
        """
        known = self.streams.get(scope, {})
        for index, name in enumerate(streams or ()):
            if name not in known:
                raise InvalidRequest(f"streams.{index}", f"no stream {name!r} exists here")

    def job(self, kind: str, job_id: str) -> Job:
        """A rebuild or a verification.

        Raises:
            ApiError: not_found.
        """
        found = self.jobs.get(job_id)
        if found is None or found.kind != kind:
            raise ApiError("not_found", f"No {kind} {job_id!r}.")
        return found

    def replay(self, scope: Scope, replay_id: str) -> BulkReplay:
        """A bulk replay.

        Raises:
            ApiError: replay_not_found.
        """
        found = self.replays.get(scope, {}).get(replay_id)
        if found is None:
            raise ApiError("replay_not_found", f"No replay {replay_id!r} here.")
        return found

    def check_routes(self, scope: Scope, routes: tuple[str, ...], field: str = "default_routes") -> None:
        """Refuse routes to workflows that do not exist.

        Raises:
            InvalidRequest: with the path of the first one.
        """
        known = self.workflows.get(scope, {})
        for index, target in enumerate(routes):
            if target not in known:
                raise InvalidRequest(f"{field}.{index}", f"no workflow {target!r} exists here")


def _scope_of(command: Command) -> Scope:
    """The workspace and environment that a command is about; of a workspace itself, none."""
    match command:
        case CreateKey():
            return scope_named(command.key)
        case CreateStream():
            return scope_named(command.stream)
        case CreateTarget():
            return scope_named(command.target)
        case StartReplay():
            return command.replay.scope
        case Scoped():
            return scope_named(command)
    return ("", "")


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
    scope = scope_named(command.key)
    state.check_streams(scope, command.key.streams)
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
    old = state.key(scope_named(command), command.key_id)
    if old.revoked_at_ms is not None:
        return old
    return state.put_key(replace(old, revoked_at_ms=command.at_ms))


def _create_stream(state: ControlState, command: CreateStream, _: int) -> Stream:
    stream, scope = command.stream, scope_named(command.stream)
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
    scope = scope_named(command)
    old = state.stream(scope, command.name)
    if command.default_routes is not UNSET:
        state.check_routes(scope, command.default_routes)
    new = replace(old, **present(command, "description", "retention_days", "default_routes"))
    state.streams[scope][new.name] = new
    return new


def _archive_stream(state: ControlState, command: ArchiveStream, _: int) -> Stream:
    scope = scope_named(command)
    new = replace(state.stream(scope, command.name), archived_at_ms=command.at_ms)
    state.streams[scope][new.name] = new
    return new


_HANDLERS: dict[type[Struct], Callable[..., Entity]] = {
    CreateWorkspace: _create_workspace,
    PatchWorkspace: _patch_workspace,
    CreateKey: _create_key,
    RevokeKey: _revoke_key,
    CreateStream: _create_stream,
    PatchStream: _patch_stream,
    ArchiveStream: _archive_stream,
    CreateTarget: control_targets.create,
    PatchTarget: control_targets.patch,
    RotateSecret: control_targets.rotate_secret,
    DisableTarget: control_targets.disable,
    ReactivateTarget: control_targets.reactivate,
    DeleteTarget: control_targets.delete,
    StartReplay: control_operations.start_replay,
    CancelReplay: control_operations.cancel_replay,
    OpenProducer: control_operations.open_producer,
    RequestRebuild: control_operations.request_rebuild,
    RequestVerification: control_operations.request_verification,
}
