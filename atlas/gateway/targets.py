"""`/v1/workflows` and `/v1/webhook-endpoints` (API notes): where Atlas sends to, and the signing secrets."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from atlas.core import breaker as breakers
from atlas.core.breaker import Breaker
from atlas.core.commands import (
    Command,
    CreateTarget,
    DeleteTarget,
    DisableTarget,
    PatchTarget,
    ReactivateTarget,
    RotateSecret,
)
from atlas.core.control import ControlState
from atlas.core.control_targets import AnyTarget
from atlas.core.entities import (
    BY_REQUEST,
    ENDPOINT_PREFIX,
    WORKFLOW_PREFIX,
    Endpoint,
    Scope,
    SealedSecret,
    Target,
    Workflow,
    secret_context,
)
from atlas.core.errors import InvalidRequest, StoreUnavailable
from atlas.core.limits import WORKFLOW_ID_PATTERN
from atlas.core.requests import (
    EndpointCreate,
    EndpointPatch,
    Nothing,
    RotateRequest,
    TargetCreate,
    TargetPatch,
    WorkflowCreate,
    WorkflowPatch,
    parse,
)
from atlas.core.targets import unmasked
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.pages import CursorOf, cursor_with, page
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.views import (
    endpoint_view,
    workflow_view,
)

#: What Standard Webhooks asks for is 24 to 64 random bytes.
SECRET_BYTES: Final = 32
_IS_WORKFLOW_ID: Final = re.compile(WORKFLOW_ID_PATTERN).match


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What is particular to workflows, or to webhook endpoints.

    Attributes:
        parameter: of the paths that name one.
        known: all there are in a scope.
        new_id: of one about to be made, of the body and a fresh ULID with `prefix`.
    """

    entity: type[AnyTarget]
    prefix: str
    parameter: str
    create: type[TargetCreate]
    patch: type[TargetPatch]
    cursor_of: CursorOf
    known: Callable[[ControlState, Scope], Iterable[AnyTarget]]
    new_id: Callable[[Any, str], str]
    view: Callable[[Any, Breaker | None], Mapping[str, Any]]


def _workflow_cursor(values: dict[str, str]) -> str | None:
    text = values.get("cursor")
    if text is not None and _IS_WORKFLOW_ID(text) is None:
        raise InvalidRequest("cursor", "must be the next_cursor of a page: a workflow's id")
    return text


WORKFLOWS: Final = Kind(
    entity=Workflow,
    prefix=WORKFLOW_PREFIX,
    parameter="workflow_id",
    create=WorkflowCreate,
    patch=WorkflowPatch,
    cursor_of=_workflow_cursor,
    known=lambda state, scope: state.workflows.get(scope, {}).values(),
    new_id=lambda body, fresh: body.id or fresh.lower(),
    view=workflow_view,
)
ENDPOINTS: Final = Kind(
    entity=Endpoint,
    prefix=ENDPOINT_PREFIX,
    parameter="endpoint_id",
    create=EndpointCreate,
    patch=EndpointPatch,
    cursor_of=cursor_with(ENDPOINT_PREFIX),
    known=lambda state, scope: state.endpoints.get(scope, {}).values(),
    new_id=lambda _, fresh: fresh,
    view=endpoint_view,
)


class Targets:
    """The handlers of one kind."""

    def __init__(self, services: Services, kind: Kind) -> None:
        self._kind = kind
        self._clock = services.clock
        self._ids = services.ids
        self._entropy = services.entropy
        self._registry = services.registry
        self._secret_box = services.secret_box
        self._read_model = services.read_model

    async def create(self, call: Call) -> Reply:
        """`POST`: 201 with the signing secret."""
        refuse_parameters(call)
        body = parse(self._kind.create, await call.json())
        now_ms = self._clock.now_ms()
        scope = call.principal.scope
        target_id = self._kind.new_id(body, self._ids.new(self._kind.prefix))
        secret, sealed = self._new_secret(scope, target_id)
        fields = msgspec.structs.asdict(body) | {
            "id": target_id,
            "workspace_id": scope[0],
            "environment": scope[1],
            "secrets": (SealedSecret(sealed),),
            "created_at_ms": now_ms,
        }
        target = self._kind.entity(**fields)
        command = CreateTarget(id=self._ids.new("cmd_"), at_ms=now_ms, target=target)
        return await self._propose(command, 201, secret)

    async def list(self, call: Call) -> Reply:
        """`GET`: a page of them."""
        await self._registry.catch_up()
        known = self._kind.known(self._registry.state, call.principal.scope)
        breaker_of = await self._breakers(call.principal.scope)
        view = self._kind.view
        return page(call, self._kind.cursor_of, known, lambda target: view(target, breaker_of(target)))

    async def retrieve(self, call: Call) -> Reply:
        """`GET .../{id}`."""
        refuse_parameters(call)
        await self._registry.catch_up()
        return json_reply(200, await self._shown(self.named(call)))

    async def patch(self, call: Call) -> Reply:
        """`PATCH .../{id}`: 200 with the target as it is now."""
        refuse_parameters(call)
        body = parse(self._kind.patch, await call.json_or_empty())
        about, fields = self._about(call), msgspec.structs.asdict(body)
        if isinstance(fields["headers"], dict):
            await self._registry.catch_up()
            old = self._registry.state.find_target(call.principal.scope, about["target_id"])
            fields["headers"] = unmasked(fields["headers"], old.headers if old is not None else {})
        return await self._propose(PatchTarget(**about, **fields))

    async def delete(self, call: Call) -> Reply:
        """`DELETE .../{id}`: 200 with the target as it was."""
        refuse_parameters(call)
        return await self._propose(DeleteTarget(**self._about(call)))

    async def rotate_secret(self, call: Call) -> Reply:
        """`POST .../rotate-secret`: 200 with the new secret; both sign until the overlap ends."""
        refuse_parameters(call)
        body = parse(RotateRequest, await call.json_or_empty())
        about = self._about(call)
        secret, sealed = self._new_secret(call.principal.scope, about["target_id"])
        old_ends_at_ms = about["at_ms"] + body.overlap_seconds * 1000
        command = RotateSecret(**about, sealed=sealed, old_ends_at_ms=old_ends_at_ms)
        return await self._propose(command, secret=secret)

    async def disable(self, call: Call) -> Reply:
        """`POST .../disable`: 200."""
        await _refuse_input(call)
        return await self._propose(DisableTarget(**self._about(call), reason=BY_REQUEST))

    async def reactivate(self, call: Call) -> Reply:
        """`POST .../reactivate`: 200."""
        await _refuse_input(call)
        return await self._propose(ReactivateTarget(**self._about(call)))

    def named(self, call: Call) -> AnyTarget:
        """The one that the path names.

        Raises:
            ApiError: there is none of this kind.
        """
        return self._registry.state.target(call.principal.scope, self._id(call))

    def _id(self, call: Call) -> str:
        """Of the other kind it is as unknown as one that never was."""
        text = call.path_params[self._kind.parameter]
        return text if text.startswith(self._kind.prefix) else self._kind.prefix

    async def _propose(self, command: Command, status: int = 200, secret: str | None = None) -> Reply:
        target = await self._registry.propose(command)
        assert isinstance(target, Workflow | Endpoint)
        shown = await self._shown(target)
        return json_reply(status, shown if secret is None else {**shown, "secret": secret})

    async def _shown(self, target: AnyTarget) -> Mapping[str, Any]:
        return self._kind.view(target, (await self._breakers(target.scope))(target))

    async def _breakers(self, scope: Scope) -> Callable[[Target], Breaker | None]:
        """The breaker of each target; None where nobody can tell now: the rest can be shown all the same."""
        try:
            found = await self._read_model.breakers(scope)
        except StoreUnavailable:
            return lambda _: None
        return lambda target: breakers.of(target, found)

    def _new_secret(self, scope: Scope, target_id: str) -> tuple[str, str]:
        """A signing secret, open and sealed."""
        secret = "whsec_" + base64.b64encode(self._entropy(SECRET_BYTES)).decode()
        return secret, self._secret_box.seal(secret, secret_context(*scope, target_id))

    def _about(self, call: Call) -> dict[str, Any]:
        workspace_id, environment = call.principal.scope
        return {
            "id": self._ids.new("cmd_"),
            "at_ms": self._clock.now_ms(),
            "workspace_id": workspace_id,
            "environment": environment,
            "target_id": self._id(call),
        }


async def _refuse_input(call: Call) -> None:
    """For a POST that says everything in its path."""
    refuse_parameters(call)
    parse(Nothing, await call.json_or_empty())
