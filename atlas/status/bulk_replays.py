"""`/v1/replays`: many events delivered again (API notes, "Bulk replay").

The gateway writes down what is asked for; the owner of the first shard carries it out, and the read model
tells how far it has come.
"""

from __future__ import annotations

from typing import Final

from atlas.core.commands import CancelReplay, StartReplay
from atlas.core.entities import BulkReplay
from atlas.core.errors import ApiError
from atlas.core.limits import REPLAYS_RUNNING_MAX
from atlas.core.replays import RUNNING, Replay, replay_view, status_of
from atlas.core.requests import BulkReplayCreate, Nothing, parse
from atlas.core.timestamps import parse_filter_time
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.pages import cursor_with, page
from atlas.gateway.parameters import refuse_parameters

PREFIX: Final = "rpl_"


class BulkReplays:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._clock, self._ids = services.clock, services.ids
        self._registry, self._read_model = services.registry, services.read_model

    async def create(self, call: Call) -> Reply:
        """`POST /v1/replays`: 202, and it begins.

        Raises:
            ApiError: invalid_request, stream_not_found, replay_limit_reached.
        """
        refuse_parameters(call)
        body = parse(BulkReplayCreate, await call.json_or_empty())
        scope, now_ms = call.principal.scope, self._clock.now_ms()
        await self._registry.catch_up()
        progress = await self._read_model.bulk_replays(scope)
        known = self._registry.state.replays.get(scope, {}).values()
        running = sum(status_of(each, progress.get(each.id), now_ms) == RUNNING for each in known)
        if running >= REPLAYS_RUNNING_MAX:
            message = f"This environment has {REPLAYS_RUNNING_MAX} replays running."
            raise ApiError("replay_limit_reached", message)
        replay = BulkReplay(
            id=self._ids.new(PREFIX),
            workspace_id=scope[0],
            environment=scope[1],
            stream=body.stream,
            type=body.type,
            status=body.status,
            workflow_ids=body.workflow_ids,
            received_from_ms=None if body.received_after is None else parse_filter_time(body.received_after),
            received_before_ms=None
            if body.received_before is None
            else parse_filter_time(body.received_before),
            rate_per_second=body.rate_per_second,
            created_at_ms=now_ms,
        )
        command = StartReplay(id=self._ids.new("cmd_"), at_ms=now_ms, replay=replay)
        decided = await self._registry.propose(command)
        assert isinstance(decided, BulkReplay)
        return json_reply(202, replay_view(decided, None, now_ms))

    async def list(self, call: Call) -> Reply:
        """`GET /v1/replays`: newest first."""
        await self._registry.catch_up()
        scope, now_ms = call.principal.scope, self._clock.now_ms()
        progress = await self._read_model.bulk_replays(scope)
        known = self._registry.state.replays.get(scope, {}).values()

        def view(replay: BulkReplay) -> Replay:
            return replay_view(replay, progress.get(replay.id), now_ms)

        return page(call, cursor_with(PREFIX), known, view, newest_first=True)

    async def retrieve(self, call: Call) -> Reply:
        """`GET /v1/replays/{replay_id}`."""
        refuse_parameters(call)
        await self._registry.catch_up()
        replay_id = call.path_params["replay_id"]
        return await self._shown(self._registry.state.replay(call.principal.scope, replay_id))

    async def cancel(self, call: Call) -> Reply:
        """`POST /v1/replays/{replay_id}/cancel`: 200; one that has ended stays as it is."""
        refuse_parameters(call)
        parse(Nothing, await call.json_or_empty())
        workspace_id, environment = call.principal.scope
        await self._registry.catch_up()
        replay = self._registry.state.replay((workspace_id, environment), call.path_params["replay_id"])
        command = CancelReplay(
            id=self._ids.new("cmd_"),
            at_ms=self._clock.now_ms(),
            workspace_id=workspace_id,
            environment=environment,
            replay_id=replay.id,
        )
        decided = await self._registry.propose(command)
        assert isinstance(decided, BulkReplay)
        return await self._shown(decided)

    async def _shown(self, replay: BulkReplay) -> Reply:
        progress = (await self._read_model.bulk_replays(replay.scope)).get(replay.id)
        return json_reply(200, replay_view(replay, progress, self._clock.now_ms()))
