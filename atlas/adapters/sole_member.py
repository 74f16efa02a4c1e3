"""A member that holds every partition without the group protocol: a lock sees to it that it is alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping

from atlas.core.errors import StaleWriter


class SoleMember:
    """Adapter of the `Member` port for `join(..., alone=True)`.

    Args:
        store: makes offsets durable; raises `LogUnavailable` when it cannot.
    """

    def __init__(
        self, name: str, partitions: int, store: Callable[[Mapping[int, int]], Awaitable[None]]
    ) -> None:
        self._id, self._store = name, store
        self._assignment = frozenset(range(partitions))
        self._left = asyncio.Event()

    @property
    def id(self) -> str:
        return self._id

    @property
    def term(self) -> int:
        return 0

    @property
    def session_timeout_s(self) -> float:
        return math.inf

    def assignment(self) -> frozenset[int]:
        return self._assignment

    async def assignment_changed(self, seen: frozenset[int]) -> frozenset[int]:
        if self._assignment == seen:
            # It changes once, when it is given up; after that, never.
            await (self._left.wait() if seen else asyncio.get_running_loop().create_future())
        return self._assignment

    def heartbeat_age_s(self) -> float:
        return 0.0

    async def commit(self, offsets: Mapping[int, int]) -> None:
        if not self._assignment.issuperset(offsets):
            raise StaleWriter(f"{self._id} does not hold all of {sorted(offsets)}")
        if offsets:
            await self._store(offsets)

    async def leave(self) -> None:
        self._assignment = frozenset()
        self._left.set()
