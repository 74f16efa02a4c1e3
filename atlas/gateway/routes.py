"""Which of a stream's default routes take an event: the filters of the control fold, ready made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from atlas.core.acceptance import Routing
from atlas.core.entities import Stream
from atlas.core.event_requests import CheckedEvent
from atlas.core.filter_matching import Filters
from atlas.runtime.registry import Registry


class _Known(Struct, frozen=True):
    """What the control fold said of a stream at a position.

    Attributes:
        definitions: of the filters, in the order of the routes.
        filters: None: no route has one.
        ordered: routes that keep the order of a key.
    """

    position: int
    stream: Stream
    all: Routing
    definitions: tuple[Mapping[str, Any] | None, ...]
    filters: Filters | None
    ordered: frozenset[str]


class Routes:
    """Of one process. What is known of a stream is looked up when it is met, and when the fold has moved.

    Filters are made ready again only when they are others: that takes milliseconds for large ones, and the
    fold moves with every workspace's commands. An entity changed elsewhere keeps the very filter it had.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, _Known] = {}

    def of(self, event: CheckedEvent, stream: Stream) -> Routing:
        """The routes of an event about to be accepted, in the order of the stream's."""
        known = self._of(stream)
        routes = known.all.routes
        if known.filters is not None:
            passed = known.filters.passed(event.type, event.actor, event.metadata, event.data)
            routes = tuple(target for i, target in enumerate(routes) if passed >> i & 1)
        elif event.ordering_key is None or not known.ordered:
            return known.all
        if event.ordering_key is None:
            return Routing(routes)
        return Routing(routes, tuple(target for target in routes if target in known.ordered))

    def ready(self, stream: Stream) -> Filters | None:
        """The filters of the stream's routes; None if every route takes every event."""
        return self._of(stream).filters

    def _of(self, stream: Stream) -> _Known:
        known = self._known.get(stream.topic)
        if known is None or known.position != self._registry.position or known.stream is not stream:
            known = self._known[stream.topic] = self._look(stream, known)
        return known

    def _look(self, stream: Stream, before: _Known | None) -> _Known:
        scope, routes = (stream.workspace_id, stream.environment), stream.default_routes
        workflows = self._registry.state.workflows.get(scope, {})
        found = tuple(workflows[target].filter if target in workflows else None for target in routes)
        if before is not None and list(map(id, found)) == list(map(id, before.definitions)):
            filters = before.filters
        else:
            filters = Filters(found) if any(found) else None
        ordered = frozenset(target for target in routes if target in workflows and workflows[target].ordered)
        return _Known(self._registry.position, stream, Routing(routes), found, filters, ordered)
