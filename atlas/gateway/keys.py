"""`/v1/api-keys` (API notes, "Keys"): made, listed, revoked, rotated; a secret is shown once, here."""

from __future__ import annotations

from typing import Final

from atlas.core.commands import CreateKey, RevokeKey
from atlas.core.entities import ApiKey, Scope
from atlas.core.requests import KeyCreate, RotateRequest, parse
from atlas.core.tokens import ENTROPY_BYTES, digest, display_prefix, make_key
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.pages import cursor_with, page
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.views import key_view, new_key_view

ID_PREFIX: Final = "key_"
_CURSOR: Final = cursor_with(ID_PREFIX)


def new_key(
    services: Services,
    scope: Scope,
    kind: str,
    at_ms: int,
    name: str | None = None,
    streams: tuple[str, ...] | None = None,
) -> tuple[ApiKey, str]:
    """A key that nobody knows yet, and its secret."""
    workspace_id, environment = scope
    secret = make_key(environment, kind, services.entropy(ENTROPY_BYTES))
    key = ApiKey(
        id=services.ids.new(ID_PREFIX),
        workspace_id=workspace_id,
        environment=environment,
        kind=kind,
        name=name,
        streams=streams,
        prefix=display_prefix(secret),
        digest=digest(secret),
        created_at_ms=at_ms,
    )
    return key, secret


class Keys:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._clock = services.clock
        self._ids = services.ids
        self._registry = services.registry

    async def create(self, call: Call) -> Reply:
        """`POST /v1/api-keys`: 201 with the secret."""
        refuse_parameters(call)
        body = parse(KeyCreate, await call.json())
        now_ms = self._clock.now_ms()
        scope = call.principal.scope
        key, secret = new_key(self._services, scope, body.kind, now_ms, body.name, body.streams)
        await self._registry.propose(CreateKey(id=self._ids.new("cmd_"), at_ms=now_ms, key=key))
        return json_reply(201, new_key_view(key, secret))

    async def list(self, call: Call) -> Reply:
        """`GET /v1/api-keys`: ended ones too."""
        await self._registry.catch_up()
        scope = call.principal.scope
        keys = self._registry.state.keys.values()
        mine = (key for key in keys if (key.workspace_id, key.environment) == scope)
        return page(call, _CURSOR, mine, key_view)

    async def revoke(self, call: Call) -> Reply:
        """`DELETE /v1/api-keys/{key_id}`: 200 with what is left of it."""
        refuse_parameters(call)
        workspace_id, environment = call.principal.scope
        revoked = await self._registry.propose(
            RevokeKey(
                id=self._ids.new("cmd_"),
                at_ms=self._clock.now_ms(),
                workspace_id=workspace_id,
                environment=environment,
                key_id=call.path_params["key_id"],
            )
        )
        assert isinstance(revoked, ApiKey)
        return json_reply(200, key_view(revoked))

    async def rotate(self, call: Call) -> Reply:
        """`POST /v1/api-keys/{key_id}/rotate`: 201 with a new key; the old one ends with the overlap."""
        refuse_parameters(call)
        body = parse(RotateRequest, await call.json_or_empty())
        scope = call.principal.scope
        await self._registry.catch_up()
        old = self._registry.state.key(scope, call.path_params["key_id"])
        now_ms = self._clock.now_ms()
        key, secret = new_key(self._services, scope, old.kind, now_ms, old.name, old.streams)
        await self._registry.propose(
            CreateKey(
                id=self._ids.new("cmd_"),
                at_ms=now_ms,
                key=key,
                replaces=old.id,
                replaced_ends_at_ms=now_ms + body.overlap_seconds * 1000,
            )
        )
        return json_reply(201, new_key_view(key, secret))
