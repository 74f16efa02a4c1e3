"""What the control fold decides of targets: workflows and webhook endpoints. Pure; see `control`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, Struct
from msgspec.structs import replace

from atlas.core.commands import (
    CreateTarget,
    DeleteTarget,
    DisableTarget,
    PatchTarget,
    ReactivateTarget,
    RotateSecret,
    Scoped,
)
from atlas.core.entities import (
    DISABLED,
    ENABLED,
    ApiKey,
    Endpoint,
    Scope,
    SealedSecret,
    Stream,
    Target,
    Workflow,
)
from atlas.core.errors import ApiError

if TYPE_CHECKING:
    from atlas.core.control import ControlState

AnyTarget = Workflow | Endpoint


def scope_named(command: Scoped | ApiKey | Stream | Target) -> Scope:
    """The workspace and environment that it names."""
    return (command.workspace_id, command.environment)


def present(command: Struct, *fields: str) -> dict[str, object]:
    """Those of the command's fields that were given."""
    values = ((field, getattr(command, field)) for field in fields)
    return {field: value for field, value in values if value is not UNSET}


def create(state: ControlState, command: CreateTarget, offset: int) -> AnyTarget:
    """A new target."""
    target, scope = command.target, scope_named(command.target)
    if state.find_target(scope, target.id) is not None:
        raise ApiError("already_exists", f"A target {target.id!r} exists.")
    if isinstance(target, Endpoint):
        if len(state.endpoints.get(scope, ())) >= command.endpoints_max:
            message = f"This environment has its {command.endpoints_max} webhook endpoints."
            raise ApiError("endpoint_limit_reached", message)
        state.check_streams(scope, target.streams)
    return _put(state, target, offset)


def _put(state: ControlState, target: AnyTarget, offset: int) -> AnyTarget:
    new = replace(target, revision=offset)
    if isinstance(new, Endpoint):
        state.endpoints.setdefault(new.scope, {})[new.id] = new
    else:
        state.workflows.setdefault(new.scope, {})[new.id] = new
    return new


def patch(state: ControlState, command: PatchTarget, offset: int) -> AnyTarget:
    """Fields of a target changed."""
    old = state.target(scope_named(command), command.target_id)
    fields = [
        "url",
        "description",
        "timeout_ms",
        "retry_schedule_seconds",
        "max_in_flight",
        "rate_limit_per_second",
        "headers",
    ]
    if isinstance(old, Endpoint):
        if command.streams is not UNSET:
            state.check_streams(old.scope, command.streams)
        fields += ["event_types", "streams"]
    else:
        fields += ["ordered", "filter"]
    return _put(state, replace(old, **present(command, *fields)), offset)


def rotate_secret(state: ControlState, command: RotateSecret, offset: int) -> AnyTarget:
    """A new secret beside or in place of the old one."""
    old = state.target(scope_named(command), command.target_id)
    before = SealedSecret(old.secrets[0].sealed, command.old_ends_at_ms)
    overlap = (before,) if command.old_ends_at_ms > command.at_ms else ()
    secrets = (SealedSecret(command.sealed), *overlap)
    return _put(state, replace(old, secrets=secrets), offset)


def disable(state: ControlState, command: DisableTarget, offset: int) -> AnyTarget:
    """Nothing is sent there from now on."""
    old = state.target(scope_named(command), command.target_id)
    if command.revision is not None and command.revision != old.revision:
        return old
    if old.status == DISABLED:
        return old
    new = replace(old, status=DISABLED, disabled_reason=command.reason, disabled_at_ms=command.at_ms)
    return _put(state, new, offset)


def reactivate(state: ControlState, command: ReactivateTarget, offset: int) -> AnyTarget:
    """Deliveries go on."""
    old = state.target(scope_named(command), command.target_id)
    if old.status == ENABLED:
        return old
    new = replace(old, status=ENABLED, disabled_reason=None, disabled_at_ms=None)
    return _put(state, new, offset)


def delete(state: ControlState, command: DeleteTarget, _: int) -> AnyTarget:
    """Gone, with the routes to it."""
    scope = scope_named(command)
    old = state.target(scope, command.target_id)
    if isinstance(old, Endpoint):
        del state.endpoints[scope][old.id]
        return old
    del state.workflows[scope][old.id]
    for name, stream in state.streams.get(scope, {}).items():
        if old.id in stream.default_routes:
            routes = tuple(target for target in stream.default_routes if target != old.id)
            state.streams[scope][name] = replace(stream, default_routes=routes)
    return old
