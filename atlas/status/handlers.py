"""What became of events: `GET /v1/events`, and one event's status, payload and attempts.

Answers come from the read model, payloads from the log. An event shows only within its workspace and
environment, to a key whose scope holds its stream, until `received_at` plus the stream's retention of now;
everything else looks as if it had never been (guarantee G9). A log or a store that cannot answer is raised
as it is: the front makes a 503 of it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from atlas.core import answers, breaker
from atlas.core.errors import ApiError, OffsetOutOfRange, Unavailable, UnknownTopic
from atlas.core.facts import EventRecord, decode_event
from atlas.core.ids import is_id
from atlas.core.projection import EventState
from atlas.core.views import (
    attempt_view,
    event_item,
    event_view,
    payload_view,
    visible_from_ms,
    waits_for_a_breaker,
)
from atlas.gateway.call import Call, Reply, Services, json_reply, list_reply
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.visible_streams import stream_not_found, visible_streams
from atlas.ports.log import TopicPartition
from atlas.status.barrier import Barrier
from atlas.status.event_filters import EventFilters, event_filters

LAG_HEADER: Final = b"x-atlas-lag-ms"


class EventStatus:
    """The handlers of one process."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock
        self._registry = services.registry
        self._log = services.log
        self._read_model = services.read_model
        self._barrier = Barrier(services)

    async def retrieve(self, call: Call) -> Reply:
        """`GET /v1/events/{event_id}`."""
        refuse_parameters(call)
        return json_reply(200, await self.view(await self.named(call)))

    async def view(self, event: EventState) -> answers.Event:
        """An event as it is shown, with what its targets' breakers, in its shard, say of its routes."""
        if not any(map(waits_for_a_breaker, event.routes)):
            return event_view(event, {})
        scope, state = event.key[:2], self._registry.state
        known = await self._read_model.breakers(scope, event.partition)
        targets = [state.find_target(scope, target) for target in known]
        return event_view(event, {to.id: breaker.of(to, known) for to in targets if to is not None})

    async def payload(self, call: Call) -> Reply:
        """`GET /v1/events/{event_id}/payload`."""
        refuse_parameters(call)
        return json_reply(200, payload_view(await self.record(await self.named(call))))

    async def attempts(self, call: Call) -> Reply:
        """`GET /v1/events/{event_id}/attempts`: all of them, in one page."""
        refuse_parameters(call)
        event = await self.named(call)
        made = await self._read_model.attempts(event.key)
        return list_reply([attempt_view(attempt) for attempt in made], limit=len(made))

    async def list(self, call: Call) -> Reply:
        """`GET /v1/events`: a page, oldest first."""
        filters = event_filters(call)
        if filters.stream is not None:
            await self._refuse_unknown(call, filters.stream)
        scope = call.principal.scope
        lag_ms = await self._barrier.lag_ms(scope) if filters.cursor is None else 0
        query = filters.query(scope, self._visible_from_ms(call, filters))
        events = await self._read_model.list(query)
        reply = list_reply([event_item(event) for event in events], filters.limit)
        if lag_ms:
            return msgspec.structs.replace(reply, headers=((LAG_HEADER, b"%d" % lag_ms),))
        return reply

    async def named(self, call: Call) -> EventState:
        """The event that the path names, if the caller may see it.

        Raises:
            ApiError: event_not_found.
            Unavailable: nobody can tell whether there is one.
        """
        event_id = call.path_params["event_id"]
        if not is_id("evt_", event_id):
            raise _event_not_found()
        event = await self._shown(call, event_id)
        if event is None:
            lag_ms = await self._barrier.lag_ms(call.principal.scope)
            event = await self._shown(call, event_id)
            if event is None and lag_ms:
                raise Unavailable("Events accepted lately cannot be shown yet; this may be one of them.")
        if event is None:
            raise _event_not_found()
        return event

    async def _shown(self, call: Call, event_id: str) -> EventState | None:
        """The event, if it is there and the caller may see it now."""
        event = await self._read_model.get((*call.principal.scope, event_id))
        if event is None:
            return None
        streams = await visible_streams(self._registry, call.principal, (event.stream,))
        stream = streams.get(event.stream)
        if stream is None or event.received_at_ms < visible_from_ms(stream, self._clock.now_ms()):
            return None
        return event

    async def record(self, event: EventState) -> EventRecord:
        """The event's record in the log.

        Raises:
            ApiError: payload_expired.
        """
        source = TopicPartition(event.topic, event.partition)
        try:
            found = decode_event((await self._log.fetch(source, event.offset)).value or b"")
        except (OffsetOutOfRange, UnknownTopic) as error:
            raise ApiError("payload_expired", "The log no longer holds this event's payload.") from error
        except msgspec.DecodeError as error:
            raise Unavailable(_OTHER_RECORD) from error
        if (found.workspace_id, found.environment, found.id) != event.key:
            raise Unavailable(_OTHER_RECORD)
        return found

    async def _refuse_unknown(self, call: Call, stream: str) -> None:
        if not await visible_streams(self._registry, call.principal, (stream,)):
            raise stream_not_found(stream)

    def _visible_from_ms(self, call: Call, filters: EventFilters) -> dict[str, int]:
        """Since when the events of each stream that is asked for and may be seen are visible."""
        key, now_ms = call.principal.key, self._clock.now_ms()
        streams = self._registry.state.streams.get(call.principal.scope, {})
        return {
            name: visible_from_ms(stream, now_ms)
            for name, stream in streams.items()
            if key.allows(name) and filters.stream in (None, name)
        }


#: Only a read model that was made from another log can be wrong here, and it must show nothing.
_OTHER_RECORD: Final = "The read model does not fit the log; it has to be rebuilt."


def _event_not_found() -> ApiError:
    return ApiError("event_not_found", "No event with this id in this workspace and environment.")
