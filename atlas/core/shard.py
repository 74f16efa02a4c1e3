"""What a new owner of a shard must know, and what the owner keeps track of (design section 4).

`ShardFold` reads the shard's lifecycle partition from the last checkpoint to the owner's own claim: it
yields, per event topic, where to read on, and the routes above that position that already have their
fact. `Undecided` is the same knowledge kept by a living owner, from which it writes checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from atlas.core.facts import (
    DecidedRoute,
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryParked,
    LifecycleFact,
    ReplayRequested,
    ShardCheckpoint,
    ShardClaimed,
)

#: A checkpoint that would list more decided routes than this waits: a takeover then folds further back.
DECIDED_MAX: Final = 2_000

DECIDING: Final = (DeliveryAttempted, DeliveryParked, DeliveryClosed)


class ShardFold:
    """Folds one lifecycle partition in order.

    Attributes:
        epoch: newest claim; None before the first.
        next_offsets: by event topic, the offset below which every route has its fact.
        decided: routes at or above it that have theirs.
        read_before: of topics that have lost records, up to where they had been read before.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.next_offsets: dict[str, int] = {}
        self.decided: set[tuple[str, int, str]] = set()
        self.read_before: dict[str, int] = {}

    def apply(self, offset: int, fact: LifecycleFact) -> None:
        """Fold one fact; void ones change nothing."""
        if isinstance(fact, ReplayRequested):
            return  # of what has been decided before, and waits in the store
        if isinstance(fact, ShardClaimed):
            self.epoch = offset
            return
        if self.epoch is None and isinstance(fact, ShardCheckpoint):
            self.epoch = fact.epoch  # where folding began: it was valid, or it would not be committed
        if fact.epoch != self.epoch:
            return
        if isinstance(fact, ShardCheckpoint):
            self._checkpoint(fact)
        elif (
            isinstance(fact, DECIDING)
            and fact.notice is None
            and fact.offset >= self.next_offsets.get(fact.topic, 0)
        ):
            self.decided.add((fact.topic, fact.offset, fact.target))

    def _checkpoint(self, fact: ShardCheckpoint) -> None:
        """Only adds to what is known: one whose append was in doubt may land again, after newer facts."""
        for topic, read_before in fact.lost.items():
            self.forget(topic)
            self.read_before[topic] = read_before
        for topic, offset in fact.next_offsets.items():
            self.next_offsets[topic] = max(offset, self.next_offsets.get(topic, 0))
        self.decided.update((route.topic, route.offset, route.target) for route in fact.decided)
        below = self.next_offsets
        self.read_before = {t: offset for t, offset in self.read_before.items() if below.get(t, 0) < offset}
        self.decided = {route for route in self.decided if route[1] >= below.get(route[0], 0)}

    def known(self) -> dict[str, int]:
        """By topic, the offset that what is known of it reaches up to."""
        known = dict(self.next_offsets)
        for topic, offset, _ in self.decided:
            known[topic] = max(known.get(topic, 0), offset + 1)
        return known

    def forget(self, topic: str, start_offset: int = 0) -> None:
        """What was known of a topic is of records that it has lost: its reading begins at its start."""
        self.next_offsets[topic] = start_offset
        self.decided = {route for route in self.decided if route[0] != topic}


class _TopicProgress:
    def __init__(self, position: int) -> None:
        self.position = position
        self.open: dict[int, set[str]] = {}
        self.decided: dict[tuple[int, str], None] = {}

    @property
    def low(self) -> int:
        return next(iter(self.open), self.position)


class Undecided:
    """Which routes of the events read so far have no fact yet."""

    def __init__(self) -> None:
        self._topics: dict[str, _TopicProgress] = {}

    def take_over(self, fold: ShardFold) -> None:
        """Begin with what the owners before had decided, in topics that are not read yet too."""
        for topic, position in fold.next_offsets.items():
            self.start(topic, position)
        for topic, offset, target in fold.decided:
            self.start(topic, 0)
            self._topics[topic].decided[offset, target] = None

    def start(self, topic: str, position: int) -> None:
        """Reading of a topic starts here; everything below is decided. Known topics stay as they are."""
        if topic not in self._topics:
            self._topics[topic] = _TopicProgress(position)

    def positions(self) -> dict[str, int]:
        """Next offset to read, by topic."""
        return {topic: progress.position for topic, progress in self._topics.items()}

    def read(self, topic: str, offset: int, undecided: Iterable[str], decided: Iterable[str] = ()) -> None:
        """An event was read; `undecided` routes still need a fact, `decided` ones have theirs."""
        progress = self._topics[topic]
        progress.position = offset + 1
        waiting = set(undecided)
        if waiting:
            progress.open[offset] = waiting
        for target in decided:
            progress.decided[offset, target] = None

    def skipped(self, topic: str, next_offset: int) -> None:
        """Records up to here were trimmed, or were no events."""
        progress = self._topics[topic]
        progress.position = max(progress.position, next_offset)

    def decide(self, topic: str, offset: int, target: str) -> None:
        """A route has got its fact."""
        progress = self._topics.get(topic)
        waiting = progress.open.get(offset) if progress else None
        if progress is None or waiting is None or target not in waiting:
            return
        waiting.remove(target)
        progress.decided[offset, target] = None
        if not waiting:
            del progress.open[offset]

    def checkpoint(self) -> tuple[dict[str, int], tuple[DecidedRoute, ...]] | None:
        """What to write down now; None when it would be too long."""
        decided: list[DecidedRoute] = []
        for topic, progress in self._topics.items():
            low = progress.low
            for key in [key for key in progress.decided if key[0] < low]:
                del progress.decided[key]
            if len(decided) + len(progress.decided) > DECIDED_MAX:
                return None
            decided.extend(DecidedRoute(topic, offset, target) for offset, target in progress.decided)
        return {topic: progress.low for topic, progress in self._topics.items()}, tuple(decided)

    def open_count(self) -> int:
        """Events read that still wait for a fact."""
        return sum(len(progress.open) for progress in self._topics.values())
