"""The machine's clock: adapter of the `Clock` port (design section 6, "Time is a port").

Wall time is the wall clock as read at the start, carried on by a steady clock. The wall clock's own small
drift is followed, forwards at once and backwards by standing still. A step of more than `STEP_MAX_MS` is
refused: time goes on as if nothing had happened, and whoever asked to be told is told. A restart adopts it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

#: Wall time may move this far at once against the steady clock: more is somebody setting the clock.
STEP_MAX_MS: Final = 5_000
#: Unlike `time.monotonic`, this goes on while a laptop sleeps; else each sleep would look like a step.
_STEADY_ID: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _steady_ms() -> int:
    return time.clock_gettime_ns(_STEADY_ID) // 1_000_000


class SystemClock:
    """Thread-safe.

    Args:
        on_step: called with the seconds of each step refused, once for each, on whatever thread reads the
            clock just then; must not block.
        wall_ms: the wall clock, in milliseconds since the epoch.
        steady_ms: milliseconds since whenever, never set by anybody.
    """

    def __init__(
        self,
        on_step: Callable[[float], None] | None = None,
        *,
        wall_ms: Callable[[], int] = _wall_ms,
        steady_ms: Callable[[], int] = _steady_ms,
    ) -> None:
        self._on_step, self._wall_ms, self._steady_ms = on_step, wall_ms, steady_ms
        self._lock = threading.Lock()
        self._offset_ms = wall_ms() - steady_ms()
        self._newest_ms = 0
        self._refused_ms = 0

    def now_ms(self) -> int:
        with self._lock:
            steady_ms = self._steady_ms()
            step_ms = self._wall_ms() - steady_ms - self._offset_ms
            reported_ms = 0
            if abs(step_ms) <= STEP_MAX_MS:
                self._offset_ms += step_ms
                self._refused_ms = 0
            else:
                if abs(step_ms - self._refused_ms) > STEP_MAX_MS:
                    reported_ms = step_ms
                    self._refused_ms = step_ms
            self._newest_ms = now_ms = max(self._newest_ms, steady_ms + self._offset_ms)
        if reported_ms and self._on_step is not None:
            self._on_step(reported_ms / 1_000)
        return now_ms

    def monotonic_s(self) -> float:
        return time.monotonic()  # the event loop's own, so that ages and its timers agree

    def floor(self, ms: int) -> None:
        """Time is `ms` at least: the newest time already written down, from before a restart."""
        with self._lock:
            now_ms = self._steady_ms() + self._offset_ms
            self._newest_ms = max(self._newest_ms, ms)
            if ms - now_ms > STEP_MAX_MS:  # the wall clock was set back: go on from the floor
                self._offset_ms += ms - now_ms

    @property
    def refused_step_s(self) -> float:
        """How far the wall clock stands from this one, when that is a step refused; else 0."""
        return self._refused_ms / 1_000
