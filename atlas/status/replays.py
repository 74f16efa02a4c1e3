"""`POST /v1/events/{event_id}/replay`: routes of one event delivered again (API notes, "Events").

The gateway only asks: a request goes into the shard's lifecycle partition, and the fold decides for each
route whether it may be begun anew. What a caller could know beforehand is refused without a record.
"""

from __future__ import annotations

from atlas.core.entities import ENABLED
from atlas.core.errors import ApiError, InvalidRequest, Unavailable
from atlas.core.facts import LIFECYCLE_TOPIC
from atlas.core.lifecycle import RETRY_SCHEDULED, TERMINAL, RouteState
from atlas.core.projection import EventState, replay_request
from atlas.core.requests import ReplayRequest, parse
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.parameters import refuse_parameters
from atlas.ports.log import TopicPartition
from atlas.runtime.replay_requests import ends_of_lines, replay_record, source_of
from atlas.status.barrier import BARRIER_MAX_S
from atlas.status.handlers import EventStatus


class EventReplays:
    """The handler of one process."""

    def __init__(self, services: Services, events: EventStatus) -> None:
        self._clock, self._registry = services.clock, services.registry
        self._log, self._read_model = services.log, services.read_model
        self._events = events

    async def replay(self, call: Call) -> Reply:
        """202 with the event, once its routes are begun anew.

        Raises:
            ApiError: event_not_found, not_replayable, payload_expired, and what reading the body raises.
        """
        refuse_parameters(call)
        body = parse(ReplayRequest, await call.json_or_empty())
        event = await self._events.named(call)
        targets = self._eligible(event, body.workflow_ids)
        await self._events.record(event)  # the payload is still there
        at_once = body.workflow_ids is not None
        end = (await ends_of_lines(self._log, [event])).get(source_of(event))
        fact = replay_request(event, targets, self._clock.now_ms(), end, at_once=at_once)
        offset = await self._log.append(LIFECYCLE_TOPIC, event.partition, [replay_record(fact)])
        past = {TopicPartition(LIFECYCLE_TOPIC, event.partition): offset + 1}
        if not await self._read_model.wait_past(past, BARRIER_MAX_S):
            raise Unavailable("The replay is asked for, but cannot be shown yet.")
        return json_reply(202, await self._events.view(await self._events.named(call)))

    def _eligible(self, event: EventState, named: tuple[str, ...] | None) -> tuple[str, ...]:
        """The routes to be begun anew, and of those named the retries to be made now."""
        routes = {route.target: route for route in event.routes}
        for index, target in enumerate(named or ()):
            if target not in routes:
                raise InvalidRequest(f"workflow_ids.{index}", f"the event has no route to {target!r}")
        chosen = routes.values() if named is None else [routes[target] for target in named]
        state = self._registry.state
        able, unable = [], []
        for route in chosen:
            workflow = state.find_target((event.workspace_id, event.environment), route.target)
            if not _may_go(route, named is not None):
                unable.append(f"{route.target} is {route.status}")
            elif workflow is None or workflow.status != ENABLED:
                unable.append(f"{route.target} is {'deleted' if workflow is None else 'disabled'}")
            else:
                able.append(route.target)
        if not able:
            reason = "; ".join(unable) or "it has no routes"
            raise ApiError("not_replayable", f"Nothing of this event can be replayed: {reason}.")
        return tuple(able)


def _may_go(route: RouteState, is_named: bool) -> bool:
    return route.status in TERMINAL or (is_named and route.status == RETRY_SCHEDULED)
