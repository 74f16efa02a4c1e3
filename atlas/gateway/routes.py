"""Which of a stream's default routes take an event: the filters of the control fold, ready made."""

from __future__ import annotations

from msgspec import Struct

from atlas.core.entities import Stream
from atlas.core.filters import Filters
from atlas.core.requests import CheckedEvent
from atlas.runtime.registry import Registry


class _Known(Struct, frozen=True):
    """What the control fold said of a stream at a position; `filters` None: no route has one."""

    position: int
    stream: Stream
    filters: Filters | None


class Routes:
    """Of one process. Filters are made ready when a stream is met, and again when the fold has moved."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, _Known] = {}

    def of(self, event: CheckedEvent, stream: Stream) -> tuple[str, ...]:
        """The routes of an event about to be accepted, in the order of the stream's."""
        if not stream.default_routes:
            return ()
        known = self._known.get(stream.topic)
        if known is None or known.position != self._registry.position or known.stream is not stream:
            known = self._known[stream.topic] = self._look(stream)
        if known.filters is None:
            return stream.default_routes
        passed = known.filters.passed(event.type, event.actor, event.metadata, event.data)
        return tuple(target for i, target in enumerate(stream.default_routes) if passed >> i & 1)

    def _look(self, stream: Stream) -> _Known:
        scope = (stream.workspace_id, stream.environment)
        workflows = self._registry.state.workflows.get(scope, {})
        found = [
            workflows[target].filter if target in workflows else None for target in stream.default_routes
        ]
        filters = Filters(found) if any(each is not None for each in found) else None
        return _Known(self._registry.position, stream, filters)
