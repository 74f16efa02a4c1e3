"""The request quota: a leaky bucket (reference, "Rate limits": 200 at once, drained at 1,200 a minute). Pure.

Every accepted request adds one to the bucket's level; it drains all the time; a request that would make it
overflow is refused and adds nothing. So in any window, accepted <= burst + rate x time. Arithmetic is in
integers, so that no rounding ever adds up to a request.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from atlas.core.entities import Quota, Workspace

#: One request, in units of (requests per minute) x nanoseconds.
_REQUEST: Final = 60 * 10**9
_UNITS_PER_MS: Final = 10**6


class Taken(NamedTuple):
    """What became of one request. `retry_after_ms` is 0 when it was granted."""

    granted: bool
    remaining: int
    retry_after_ms: int


def effective_quota(workspace: Workspace, environment: str, default: Quota) -> Quota:
    """The quota that holds: the workspace's own, or the platform's."""
    return workspace.quotas.get(environment, default)


class LeakyBucket:
    """The bucket of one workspace and environment.

    Args:
        quota: its size and drain.
        now_s: monotonic seconds; time that runs backwards drains nothing.
    """

    __slots__ = ("_at_ns", "_drain_per_minute", "_level", "quota")

    def __init__(self, quota: Quota, now_s: float) -> None:
        self.quota = quota
        self._level = 0
        self._at_ns = int(now_s * 1e9)
        self._drain_per_minute = quota.requests_per_minute

    def change(self, quota: Quota) -> None:
        """Hold another quota from now on.

        What was accepted stays in the bucket. Since the bucket does not know when it was last looked
        at under the old quota, the time up to now drains at the slower of both: nothing is refunded.
        """
        self.quota = quota
        self._drain_per_minute = min(self._drain_per_minute, quota.requests_per_minute)

    def take(self, now_s: float) -> Taken:
        """Ask for one request."""
        self._drain(now_s)
        quota = self.quota
        level = self._level + _REQUEST
        capacity = quota.burst * _REQUEST
        if level <= capacity:
            self._level = level
            return Taken(True, (capacity - level) // _REQUEST, 0)
        units_per_ms = quota.requests_per_minute * _UNITS_PER_MS
        return Taken(False, 0, -((capacity - level) // units_per_ms))

    def remaining(self, now_s: float) -> int:
        """How many requests would be granted at once now."""
        self._drain(now_s)
        return max(0, self.quota.burst - -(-self._level // _REQUEST))

    def is_empty(self, now_s: float) -> bool:
        """Whether nothing is left of what was taken: a new bucket would do as well."""
        self._drain(now_s)
        return self._level == 0

    def _drain(self, now_s: float) -> None:
        now_ns = int(now_s * 1e9)
        elapsed_ns = now_ns - self._at_ns
        if elapsed_ns > 0:
            self._level = max(0, self._level - elapsed_ns * self._drain_per_minute)
            self._at_ns = now_ns
        self._drain_per_minute = self.quota.requests_per_minute
