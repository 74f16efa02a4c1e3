"""What an owner knows of its routes and a snapshot of the read model may not know yet.

A row is passed over while a fact about its route is on its way to the log, or lies at or after the
snapshot's position. A snapshot that has not folded the owner's claim, or less than one before it (the
store was made anew, or restored from a copy), tells nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from atlas.ports.read_model import Waiting
from atlas.runtime.work import LaneKey, Owner, Work, WorkKey


class Overlay:
    """Of one owner."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._seen = 0
        self._durable: OrderedDict[WorkKey, int] = OrderedDict()
        self._unsettled: dict[WorkKey, int] = {}
        self._unsettled_in: Counter[LaneKey] = Counter()
        self._newest_in: OrderedDict[LaneKey, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._durable) + len(self._unsettled) + len(self._unsettled_in) + len(self._newest_in)

    def queued(self, work: Work) -> None:
        """A fact about the route is on its way to the log."""
        self._unsettled[work.key] = self._unsettled.get(work.key, 0) + 1
        self._unsettled_in[work.lane] += 1

    def recorded(self, work: Work, offset: int) -> None:
        """The fact is durable at `offset`; offsets only rise."""
        if (left := self._unsettled.get(work.key, 1) - 1) > 0:
            self._unsettled[work.key] = left
        else:
            self._unsettled.pop(work.key, None)
        if self._unsettled_in[work.lane] <= 1:
            del self._unsettled_in[work.lane]
        else:
            self._unsettled_in[work.lane] -= 1
        self._newest_in[work.lane] = offset
        self._newest_in.move_to_end(work.lane)
        if not work.first:  # else the store never had it waiting before this fact
            self._durable[work.key] = offset
            self._durable.move_to_end(work.key)

    def told(self, lane: LaneKey, offset: int) -> None:
        """A fact at `offset` may have put something into this lane, though it is about another."""
        self._newest_in[lane] = max(offset, self._newest_in.get(lane, 0))
        self._newest_in.move_to_end(lane)

    def knows(self, key: WorkKey) -> bool:
        """Whether the row of this route, in the snapshot admitted last, is out of date."""
        return key in self._durable or key in self._unsettled

    def settled(self, lane: LaneKey) -> int | None:
        """Offset of the newest own fact about the target; None while one is on its way."""
        return None if lane in self._unsettled_in else self._newest_in.get(lane, self._owner.epoch)

    def admits(self, snapshot: Waiting) -> bool:
        """Whether the snapshot may be used; from then on none older is."""
        position = snapshot.lifecycle_position
        if position <= self._owner.epoch or position < self._seen:
            return False
        self._seen = position
        _drop_below(self._durable, position)
        _drop_below(self._newest_in, position)
        return True


def covers(snapshot: Waiting, settled: int | None) -> bool:
    """Whether the snapshot has all facts about a target, `settled` being the newest (see `Overlay`)."""
    return settled is not None and snapshot.lifecycle_position > settled


def _drop_below(offsets: OrderedDict[WorkKey, int] | OrderedDict[LaneKey, int], position: int) -> None:
    while offsets and next(iter(offsets.values())) < position:
        offsets.popitem(last=False)
