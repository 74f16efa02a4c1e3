"""Consumer groups of the embedded log: members in one process, partitions shared among the living.

A member's heartbeat is a task that runs on its owner's event loop. One that stops (a stalled loop, a
paused owner) lets the session run out, and the group gives its partitions to the others; when it
wakes up it joins again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from atlas.adapters.sole_member import SoleMember
from atlas.core.errors import LogUnavailable, StaleWriter
from atlas.ports.clock import Clock
from atlas.ports.log import Member

SESSION_TIMEOUT_S: Final = 10.0
BEAT_EVERY_S: Final = 2.0


class OffsetStore(Protocol):
    """Where a group's offsets are kept."""

    async def store_offsets(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Make them durable."""


class _Group:
    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.members: dict[str, EmbeddedMember] = {}
        self.heartbeats: dict[str, asyncio.Task[None]] = {}

    def rebalance(self) -> None:
        """Share the partitions evenly; a member keeps what it holds as far as that allows."""
        members = list(self.members.values())
        if not members:
            return
        share, extra = divmod(self.partitions, len(members))
        free = set(range(self.partitions))
        kept: dict[str, set[int]] = {}
        for index, member in enumerate(members):
            quota = share + (index < extra)
            kept[member.id] = set(sorted(member.assignment() & free)[:quota])
            free -= kept[member.id]
        for index, member in enumerate(members):
            quota = share + (index < extra)
            while len(kept[member.id]) < quota:
                kept[member.id].add(min(free))
                free.remove(min(free))
            member.give(frozenset(kept[member.id]))


class EmbeddedMember:
    """Adapter of the `Member` port. `beating` set to False is a fault: as if the owner were paused."""

    def __init__(self, group: _Group, name: str, topic: str, number: int, store: OffsetStore, clock: Clock):
        self.beating = True
        self._term = 0
        self._group, self._name, self._topic, self._store, self._clock = group, name, topic, store, clock
        self._id = f"{name}-{number}"
        self._assignment: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self._beat_s = clock.monotonic_s()
        group.heartbeats[self._id] = asyncio.create_task(self._beat(), name=f"heartbeat {self._id}")

    @property
    def id(self) -> str:
        return self._id

    @property
    def term(self) -> int:
        return self._term

    @property
    def session_timeout_s(self) -> float:
        return SESSION_TIMEOUT_S

    def assignment(self) -> frozenset[int]:
        return self._assignment

    async def assignment_changed(self, seen: frozenset[int]) -> frozenset[int]:
        while self._assignment == seen:
            self._changed.clear()
            await self._changed.wait()
        return self._assignment

    def heartbeat_age_s(self) -> float:
        return self._clock.monotonic_s() - self._beat_s

    async def commit(self, offsets: Mapping[int, int]) -> None:
        held = self._assignment if self._id in self._group.members else frozenset()
        if not held.issuperset(offsets):
            raise StaleWriter(f"{self._id} no longer holds all of {sorted(offsets)}")
        await self._store.store_offsets(self._name, self._topic, offsets)

    async def leave(self) -> None:
        if (heartbeat := self._group.heartbeats.pop(self._id, None)) is not None:
            heartbeat.cancel()
        if self._group.members.pop(self._id, None) is not None:
            self._group.rebalance()
        self.give(frozenset())

    def give(self, assignment: frozenset[int]) -> None:
        """Called by the group: these are the member's partitions now."""
        if assignment != self._assignment:
            self._term += not assignment.issuperset(self._assignment)
            self._assignment = assignment
            self._changed.set()

    async def _beat(self) -> None:
        while True:
            if self.beating:
                self._beat_s = self._clock.monotonic_s()
                self._expel_silent()
                if self._id not in self._group.members:
                    self._term += 1
                    self._assignment = frozenset()
                    self._group.members[self._id] = self
                    self._group.rebalance()
            await asyncio.sleep(BEAT_EVERY_S)

    def _expel_silent(self) -> None:
        silent = [m for m in self._group.members.values() if m.heartbeat_age_s() > SESSION_TIMEOUT_S]
        for member in silent:
            del self._group.members[member.id]
        if silent:
            self._group.rebalance()


class Coordinator:
    """All groups of one log."""

    def __init__(self, clock: Clock, partitions_of: Callable[[str], int]) -> None:
        self._clock = clock
        self._partitions_of = partitions_of
        self._groups: dict[tuple[str, str], _Group] = {}

    def join(self, group: str, topic: str, number: int, store: OffsetStore, alone: bool) -> Member:
        """A new member, with a number no other ever had; its first heartbeat gets it its partitions."""
        slot = self._groups.setdefault((group, topic), _Group(self._partitions_of(topic)))
        if not alone:
            return EmbeddedMember(slot, group, topic, number, store, self._clock)

        async def store_alone(offsets: Mapping[int, int]) -> None:
            if slot.members:
                raise LogUnavailable(f"the group {group} has members")
            await store.store_offsets(group, topic, offsets)

        return SoleMember(f"{group}-{number}", slot.partitions, store_alone)

    def close(self) -> None:
        """Stop all heartbeats."""
        for group in self._groups.values():
            for heartbeat in group.heartbeats.values():
                heartbeat.cancel()
