"""`/v1/event-streams` (reference, "Create an event stream"; API notes, "Streams").

A stream's topic is made after the fold has accepted the stream and before the 201, so that whoever has
the answer can send.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET

from atlas.core.commands import ArchiveStream, CreateStream, PatchStream
from atlas.core.entities import ApiKey, Stream
from atlas.core.errors import ApiError, TopicRefused
from atlas.core.limits import STREAMS_MAX
from atlas.core.requests import StreamCreate, StreamPatch, parse
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.pages import cursor_with, page
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.views import stream_view
from atlas.gateway.visible_streams import stream_not_found, visible_streams
from atlas.runtime.topics import check_topic, provide_topic

ID_PREFIX: Final = "stm_"
_CURSOR: Final = cursor_with(ID_PREFIX)


class Streams:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock
        self._ids = services.ids
        self._log = services.log
        self._registry = services.registry
        self._topics_max = services.topics_max

    async def create(self, call: Call) -> Reply:
        """`POST /v1/event-streams`: 201."""
        refuse_parameters(call)
        body = parse(StreamCreate, await call.json())
        now_ms = self._clock.now_ms()
        workspace_id, environment = call.principal.scope
        stream = Stream(
            id=self._ids.new(ID_PREFIX),
            workspace_id=workspace_id,
            environment=environment,
            name=body.name,
            description=body.description,
            retention_days=body.retention_days,
            default_routes=body.default_routes,
            created_at_ms=now_ms,
        )
        command = CreateStream(
            id=self._ids.new("cmd_"),
            at_ms=now_ms,
            stream=stream,
            streams_max=STREAMS_MAX,
            topics_max=self._topics_max,
        )
        try:
            await check_topic(self._log, stream.topic)
        except TopicRefused as error:
            raise ApiError("already_exists", str(error)) from error
        await self._registry.propose(command)
        await provide_topic(self._log, stream)
        return json_reply(201, stream_view(stream))

    async def list(self, call: Call) -> Reply:
        """`GET /v1/event-streams`: those that take events and that the key's scope holds."""
        await self._registry.catch_up()
        caller = call.principal
        streams = self._registry.state.streams.get(caller.scope, {}).values()
        return page(call, _CURSOR, (s for s in streams if _is_listed(s, caller.key)), stream_view)

    async def retrieve(self, call: Call) -> Reply:
        """`GET /v1/event-streams/{name}`."""
        refuse_parameters(call)
        name = call.path_params["name"]
        await self._registry.catch_up()
        found = (await visible_streams(self._registry, call.principal, (name,))).get(name)
        if found is None or found.archived_at_ms is not None:
            raise stream_not_found(name)
        return json_reply(200, stream_view(found))

    async def patch(self, call: Call) -> Reply:
        """`PATCH /v1/event-streams/{name}`: 200 with the stream as it is now."""
        refuse_parameters(call)
        body = parse(StreamPatch, await call.json_or_empty())
        patched = await self._registry.propose(
            PatchStream(
                **self._about(call),
                description=body.description,
                retention_days=body.retention_days,
                default_routes=body.default_routes,
            )
        )
        assert isinstance(patched, Stream)
        if body.retention_days is not UNSET:
            await provide_topic(self._log, patched)
        return json_reply(200, stream_view(patched))

    async def archive(self, call: Call) -> Reply:
        """`DELETE /v1/event-streams/{name}`: 200 with the stream as it was."""
        refuse_parameters(call)
        archived = await self._registry.propose(ArchiveStream(**self._about(call)))
        assert isinstance(archived, Stream)
        return json_reply(200, stream_view(archived))

    def _about(self, call: Call) -> dict[str, Any]:
        workspace_id, environment = call.principal.scope
        return {
            "id": self._ids.new("cmd_"),
            "at_ms": self._clock.now_ms(),
            "workspace_id": workspace_id,
            "environment": environment,
            "name": call.path_params["name"],
        }


def _is_listed(stream: Stream, key: ApiKey) -> bool:
    return stream.archived_at_ms is None and key.allows(stream.name)
