"""Time, as a port: wall time anchored to a monotonic clock (design section 6)."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall and monotonic time. Waiting is the event loop's: simulated loops run on virtual time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC. Never steps back within a process."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, for ages and deadlines."""
