"""Making read models beside the one in use: to take its place, or to be compared with it.

For whoever writes the read model, and nobody else.
"""

from __future__ import annotations

from typing import Protocol

from atlas.ports.read_model import Comparison, Progress, ReadModel


class Shadow(Protocol):
    """A store that nobody else sees yet. It must be ended, one way or the other."""

    @property
    def store(self) -> ReadModel:
        """The store, empty at first."""

    async def take_over(self) -> None:
        """Take the place of the store in use, at once and whole; reads under way end on that one.

        Raises:
            StoreUnavailable: it did not; the store in use still is.
        """

    async def discard(self) -> None:
        """Remove it; if it has taken over, what it replaced."""


class Snapshot(Protocol):
    """The store in use as it was at one moment, while it goes on."""

    @property
    def progress(self) -> Progress:
        """Where it stood."""

    async def compare(self, shadow: Shadow) -> Comparison:
        """Whether the shadow holds the same; where not, the first differences of each table."""

    async def close(self) -> None:
        """Let it go: what it keeps from being reclaimed is as much as was written since."""


class Stores(Protocol):
    """See the module. Every method may raise `StoreUnavailable`."""

    async def shadow(self) -> Shadow:
        """A new, empty store."""

    async def snapshot(self) -> Snapshot:
        """The store in use, now."""
