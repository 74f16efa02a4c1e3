"""Ending what waits for a target to which nothing may be sent any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from atlas.core.entities import ENABLED, Scope
from atlas.core.facts import TARGET_DELETED, TARGET_DISABLED
from atlas.ports.read_model import ReadModel, Waiting, WaitingRoute
from atlas.runtime.engine import Engine
from atlas.runtime.overlay import Overlay, covers
from atlas.runtime.patience import backoff_s, patiently
from atlas.runtime.work import LaneKey, Owner, Work

#: Rows asked of the store at once.
ROWS_MAX: Final = 1_000
FOREVER_MS: Final = 2**53


class Waits(Protocol):
    """What is needed of the owner's waiting routes."""

    def work(self, route: WaitingRoute) -> Work:
        """A stored route as a work of this owner."""

    def fresh(self, snapshot: Waiting) -> list[WaitingRoute]:
        """Rows that are as the owner knows them, and not already on their way."""


class Closing:
    """Of one shard."""

    def __init__(
        self, owner: Owner, read_model: ReadModel, engine: Engine, overlay: Overlay, waits: Waits
    ) -> None:
        self._owner, self._read_model, self._engine = owner, read_model, engine
        self._overlay, self._waits = overlay, waits
        self._under_way: set[LaneKey] = set()

    def is_due(self, scope: Scope, target: str) -> bool:
        """Whether to `close` now: nothing may be sent there, and nobody is at it."""
        to = self._engine.target(scope, target)
        if to is not None and to.status == ENABLED:
            return False
        # Before the claim: the first look does it.
        return self._owner.epoch >= 0 and (*scope, target) not in self._under_way

    async def close(self, scope: Scope, target: str) -> None:
        """End all that waits there, unless something may be sent again."""
        lane, tries = (*scope, target), 0
        self._under_way.add(lane)
        try:
            while not self._owner.closed:
                closed, whole = await self._close_some(scope, target)
                if whole:
                    return
                if closed:
                    tries = 0
                await asyncio.sleep(min(backoff_s(tries), 1.0))
                tries += 1
        finally:
            self._under_way.discard(lane)

    async def _close_some(self, scope: Scope, target: str) -> tuple[int, bool]:
        """How many routes were closed, and whether none is left to be."""
        shard, settled = self._owner.shard, self._overlay.settled((*scope, target))
        closed, whole = 0, False
        questions: list[Callable[[], Awaitable[Waiting]]] = [
            lambda: self._read_model.waiting_for(shard, scope, target, FOREVER_MS, ROWS_MAX),
            lambda: self._read_model.in_line(shard, scope, target, ROWS_MAX, heads=False),
        ]
        for ask in questions:
            snapshot = await patiently(ask)
            to = self._engine.target(scope, target)
            if to is not None and to.status == ENABLED:
                return 0, True
            if not self._overlay.admits(snapshot):
                return closed, False
            for route in self._waits.fresh(snapshot):
                self._engine.close(self._waits.work(route), TARGET_DISABLED if to else TARGET_DELETED)
                closed += 1
            if snapshot.routes:
                return closed, False
            whole = covers(snapshot, settled)
        return closed, whole
