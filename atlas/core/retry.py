"""When a failed attempt is made again (reference, "Retry behavior"; API notes, "Retries")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: 30 s, 1 m, 5 m, 15 m, 1 h, 3 h, 6 h, 12 h: eight retries over a day.
DEFAULT_SCHEDULE_S: Final = (30, 60, 300, 900, 3_600, 10_800, 21_600, 43_200)

#: Each delay is multiplied by a factor drawn uniformly from [1, 1 + JITTER].
JITTER: Final = 0.1

#: `Retry-After` can lengthen a delay to at most this far beyond the schedule.
RETRY_AFTER_BEYOND_S: Final = 3_600


def retry_delay_ms(
    schedule_s: Sequence[int], attempt: int, uniform01: float, retry_after_s: float | None = None
) -> int | None:
    """Delay before the attempt that follows the failed one.

    Args:
        schedule_s: delay in seconds before each retry; its length is the retry budget.
        attempt: number of the failed attempt since acceptance (or since the last replay), from 1.
        uniform01: a random number in [0, 1).
        retry_after_s: what the target asked for on a 429 or 503, if it did.

    Returns:
        Milliseconds, or None when the budget is spent.
    """
    if attempt > len(schedule_s):
        return None
    delay_s = schedule_s[attempt - 1] * (1.0 + JITTER * uniform01)
    if retry_after_s is not None:
        delay_s = max(delay_s, min(retry_after_s, delay_s + RETRY_AFTER_BEYOND_S))
    return int(delay_s * 1000)
