"""`/v1/workflows` (API notes, "Workflows"): delivery targets and their signing secrets."""

from __future__ import annotations

import base64
import re
from typing import Any, Final

from atlas.core.commands import (
    Command,
    CreateWorkflow,
    DeleteWorkflow,
    DisableWorkflow,
    PatchWorkflow,
    ReactivateWorkflow,
    RotateWorkflowSecret,
)
from atlas.core.entities import BY_REQUEST, Scope, SealedSecret, Workflow, secret_context
from atlas.core.errors import InvalidRequest
from atlas.core.limits import WORKFLOW_ID_PATTERN
from atlas.core.requests import Nothing, RotateRequest, WorkflowCreate, WorkflowPatch, parse
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.pages import page
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.views import workflow_view, workflow_with_secret

ID_PREFIX: Final = "wf_"
#: What Standard Webhooks asks for is 24 to 64 random bytes.
SECRET_BYTES: Final = 32
_IS_ID: Final = re.compile(WORKFLOW_ID_PATTERN).match


class Workflows:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock
        self._ids = services.ids
        self._entropy = services.entropy
        self._registry = services.registry
        self._secret_box = services.secret_box

    async def create(self, call: Call) -> Reply:
        """`POST /v1/workflows`: 201 with the signing secret."""
        refuse_parameters(call)
        body = parse(WorkflowCreate, await call.json())
        now_ms = self._clock.now_ms()
        scope = call.principal.scope
        workflow_id = body.id or self._ids.new(ID_PREFIX).lower()
        secret, sealed = self._new_secret(scope, workflow_id)
        workflow = Workflow(
            id=workflow_id,
            workspace_id=scope[0],
            environment=scope[1],
            url=body.url,
            description=body.description,
            timeout_ms=body.timeout_ms,
            retry_schedule_seconds=body.retry_schedule_seconds,
            max_in_flight=body.max_in_flight,
            rate_limit_per_second=body.rate_limit_per_second,
            headers=body.headers,
            secrets=(SealedSecret(sealed),),
            created_at_ms=now_ms,
        )
        command = CreateWorkflow(id=self._ids.new("cmd_"), at_ms=now_ms, workflow=workflow)
        return await self._propose(command, 201, secret)

    async def list(self, call: Call) -> Reply:
        """`GET /v1/workflows`."""
        await self._registry.catch_up()
        workflows = self._registry.state.workflows.get(call.principal.scope, {}).values()
        return page(call, _cursor, workflows, workflow_view)

    async def retrieve(self, call: Call) -> Reply:
        """`GET /v1/workflows/{workflow_id}`."""
        refuse_parameters(call)
        await self._registry.catch_up()
        found = self._registry.state.workflow(call.principal.scope, call.path_params["workflow_id"])
        return json_reply(200, workflow_view(found))

    async def patch(self, call: Call) -> Reply:
        """`PATCH /v1/workflows/{workflow_id}`: 200 with the workflow as it is now."""
        refuse_parameters(call)
        body = parse(WorkflowPatch, await call.json_or_empty())
        command = PatchWorkflow(
            **self._about(call),
            url=body.url,
            description=body.description,
            timeout_ms=body.timeout_ms,
            retry_schedule_seconds=body.retry_schedule_seconds,
            max_in_flight=body.max_in_flight,
            rate_limit_per_second=body.rate_limit_per_second,
            headers=body.headers,
        )
        return await self._propose(command)

    async def delete(self, call: Call) -> Reply:
        """`DELETE /v1/workflows/{workflow_id}`: 200 with the workflow as it was."""
        refuse_parameters(call)
        return await self._propose(DeleteWorkflow(**self._about(call)))

    async def rotate_secret(self, call: Call) -> Reply:
        """`POST .../rotate-secret`: 200 with the new secret; both sign until the overlap ends."""
        refuse_parameters(call)
        body = parse(RotateRequest, await call.json_or_empty())
        about = self._about(call)
        secret, sealed = self._new_secret(call.principal.scope, about["workflow_id"])
        old_ends_at_ms = about["at_ms"] + body.overlap_seconds * 1000
        command = RotateWorkflowSecret(**about, sealed=sealed, old_ends_at_ms=old_ends_at_ms)
        return await self._propose(command, secret=secret)

    async def disable(self, call: Call) -> Reply:
        """`POST .../disable`: 200."""
        await _refuse_input(call)
        return await self._propose(DisableWorkflow(**self._about(call), reason=BY_REQUEST))

    async def reactivate(self, call: Call) -> Reply:
        """`POST .../reactivate`: 200."""
        await _refuse_input(call)
        return await self._propose(ReactivateWorkflow(**self._about(call)))

    async def _propose(self, command: Command, status: int = 200, secret: str | None = None) -> Reply:
        workflow = await self._registry.propose(command)
        assert isinstance(workflow, Workflow)
        shown = workflow_view(workflow) if secret is None else workflow_with_secret(workflow, secret)
        return json_reply(status, shown)

    def _new_secret(self, scope: Scope, workflow_id: str) -> tuple[str, str]:
        """A signing secret, open and sealed."""
        secret = "whsec_" + base64.b64encode(self._entropy(SECRET_BYTES)).decode()
        return secret, self._secret_box.seal(secret, secret_context(*scope, workflow_id))

    def _about(self, call: Call) -> dict[str, Any]:
        workspace_id, environment = call.principal.scope
        return {
            "id": self._ids.new("cmd_"),
            "at_ms": self._clock.now_ms(),
            "workspace_id": workspace_id,
            "environment": environment,
            "workflow_id": call.path_params["workflow_id"],
        }


def _cursor(values: dict[str, str]) -> str | None:
    text = values.get("cursor")
    if text is not None and _IS_ID(text) is None:
        raise InvalidRequest("cursor", "must be the next_cursor of a page: a workflow's id")
    return text


async def _refuse_input(call: Call) -> None:
    """For a POST that says everything in its path."""
    refuse_parameters(call)
    parse(Nothing, await call.json_or_empty())
