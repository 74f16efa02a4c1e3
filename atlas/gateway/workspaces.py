"""`/admin/v1/workspaces`: the operator's (API notes, "Operators")."""

from __future__ import annotations

import re
from typing import Final

from msgspec import UNSET

from atlas.core import answers
from atlas.core.commands import CreateWorkspace, PatchWorkspace
from atlas.core.entities import Quota, Workspace
from atlas.core.errors import InvalidRequest
from atlas.core.facts import ENVIRONMENTS
from atlas.core.requests import QuotaPatch, WorkspaceCreate, WorkspacePatch, parse
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.keys import new_key
from atlas.gateway.pages import page
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.views import new_key_view, workspace_view

ID_PREFIX: Final = "ws_"
_IS_ID: Final = re.compile(r"ws_[0-9A-Z]{1,26}").fullmatch


class Workspaces:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._clock = services.clock
        self._ids = services.ids
        self._registry = services.registry
        self._default = services.quota_default

    async def create(self, call: Call) -> Reply:
        """`POST /admin/v1/workspaces`: 201 with the first secret key of each environment."""
        refuse_parameters(call)
        body = parse(WorkspaceCreate, await call.json())
        now_ms = self._clock.now_ms()
        workspace = Workspace(id=self._ids.new(ID_PREFIX), name=body.name, created_at_ms=now_ms)
        made = [
            new_key(self._services, (workspace.id, environment), "secret", now_ms)
            for environment in ENVIRONMENTS
        ]
        await self._registry.propose(
            CreateWorkspace(
                id=self._ids.new("cmd_"),
                at_ms=now_ms,
                workspace=workspace,
                keys=tuple(key for key, _ in made),
            )
        )
        keys = [new_key_view(key, secret) for key, secret in made]
        created: answers.NewWorkspace = {**self._view(workspace), "keys": keys}
        return json_reply(201, created)

    async def list(self, call: Call) -> Reply:
        """`GET /admin/v1/workspaces`."""
        await self._registry.catch_up()
        return page(call, _cursor, self._registry.state.workspaces.values(), self._view)

    async def retrieve(self, call: Call) -> Reply:
        """`GET /admin/v1/workspaces/{workspace_id}`."""
        refuse_parameters(call)
        await self._registry.catch_up()
        return json_reply(200, self._view(self._registry.state.workspace(call.path_params["workspace_id"])))

    async def patch(self, call: Call) -> Reply:
        """`PATCH /admin/v1/workspaces/{workspace_id}`: quotas and status, in force from the next request."""
        refuse_parameters(call)
        body = parse(WorkspacePatch, await call.json_or_empty())
        patched = await self._registry.propose(
            PatchWorkspace(
                id=self._ids.new("cmd_"),
                at_ms=self._clock.now_ms(),
                workspace_id=call.path_params["workspace_id"],
                quotas={} if body.quota is UNSET else _quotas(body.quota),
                status=None if body.status is UNSET else body.status,
            )
        )
        assert isinstance(patched, Workspace)
        return json_reply(200, self._view(patched))

    def _view(self, workspace: Workspace) -> answers.Workspace:
        return workspace_view(workspace, self._default)


def _quotas(patch: QuotaPatch) -> dict[str, Quota | None]:
    """What was given: a quota, or None for the platform's again."""
    given = {"live": patch.live, "test": patch.test}
    return {
        environment: None if quota is None else Quota(quota.requests_per_minute, quota.burst)
        for environment, quota in given.items()
        if quota is not UNSET
    }


def _cursor(values: dict[str, str]) -> str | None:
    text = values.get("cursor")
    if text is not None and _IS_ID(text) is None:
        raise InvalidRequest("cursor", "must be the next_cursor of a page: a workspace's id")
    return text
