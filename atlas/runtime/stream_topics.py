"""Following which event topics there are, without a rebalance: from the control fold."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from atlas.core.commands import Command
from atlas.core.control import Decision
from atlas.core.entities import Stream
from atlas.runtime.registry import Registry


class StreamTopics:
    """Calls back once for each event topic: for those there are on entry, then for each new one at once."""

    def __init__(self, registry: Registry, on_topic: Callable[[str], None]) -> None:
        self._registry, self._on_topic = registry, on_topic
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        self._registry.subscribe(self._folded)
        for streams in self._registry.state.streams.values():
            for stream in streams.values():
                self._tell(stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry.unsubscribe(self._folded)

    def _folded(self, command: Command, decision: Decision) -> None:
        if isinstance(decision, Stream):
            self._tell(decision)

    def _tell(self, stream: Stream) -> None:
        if stream.topic not in self._seen:
            self._seen.add(stream.topic)
            self._on_topic(stream.topic)
