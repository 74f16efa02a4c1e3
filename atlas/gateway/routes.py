"""Which of a stream's default routes take an event: the filters of the control fold, ready made."""

from __future__ import annotations

from atlas.core.entities import Scope, Stream, Workflow
from atlas.core.filters import Filter
from atlas.core.requests import CheckedEvent
from atlas.runtime.registry import Registry

_Filters = dict[str, tuple[Workflow, Filter]]


class Routes:
    """Of one process. A filter is made when its workflow is first met, and again when that has changed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._filters: dict[Scope, _Filters] = {}

    def of(self, event: CheckedEvent, stream: Stream) -> tuple[str, ...]:
        """The routes of an event about to be accepted, in the order of the stream's."""
        scope = (stream.workspace_id, stream.environment)
        workflows = self._registry.state.workflows.get(scope)
        if workflows is None:
            return stream.default_routes
        refused: list[str] = []
        for target in stream.default_routes:
            workflow = workflows.get(target)
            if workflow is None or workflow.filter is None:
                continue
            if not self._filter(scope, workflow).matches(event.type, event.actor, event.metadata, event.data):
                refused.append(target)
        if not refused:
            return stream.default_routes
        return tuple(target for target in stream.default_routes if target not in refused)

    def _filter(self, scope: Scope, workflow: Workflow) -> Filter:
        made = self._filters.setdefault(scope, {})
        known = made.get(workflow.id)
        if known is None or known[0] is not workflow:
            for gone in made.keys() - self._registry.state.workflows[scope].keys():
                del made[gone]
            known = made[workflow.id] = (workflow, Filter(workflow.filter or {}))
        return known[1]
