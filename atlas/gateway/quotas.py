"""The request quota of every workspace and environment, in memory (reference, "Rate limits")."""

from __future__ import annotations

from typing import Final

from atlas.core.entities import Quota, Scope
from atlas.core.errors import ApiError
from atlas.core.quota import LeakyBucket, Taken, effective_quota
from atlas.gateway.call import Principal
from atlas.gateway.replies import Header
from atlas.ports.clock import Clock

#: Buckets that are kept before the first look for those that have run empty.
_KEPT_MIN: Final = 1_024


class Quotas:
    """One leaky bucket for each workspace and environment that asked lately.

    A bucket that has run empty is as good as none, and is dropped when there are many: memory is bounded
    by those that are in use.
    """

    def __init__(self, clock: Clock, default: Quota) -> None:
        self._clock = clock
        self._default = default
        self._buckets: dict[Scope, LeakyBucket] = {}
        self._sweep_at = _KEPT_MIN

    def take(self, caller: Principal, limits: list[Header]) -> None:
        """Count one request, and say in `limits` how many are left.

        Raises:
            ApiError: 429 `rate_limit_exceeded`; the request was not counted.
        """
        now_s = self._clock.monotonic_s()
        bucket = self._bucket(caller, now_s)
        taken = bucket.take(now_s)
        _tell(limits, bucket, taken.remaining)
        if not taken.granted:
            raise _exceeded(caller, taken)

    def peek(self, caller: Principal, limits: list[Header]) -> None:
        """Say in `limits` how many requests are left; count nothing."""
        now_s = self._clock.monotonic_s()
        bucket = self._bucket(caller, now_s)
        _tell(limits, bucket, bucket.remaining(now_s))

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, caller: Principal, now_s: float) -> LeakyBucket:
        scope = caller.scope
        quota = effective_quota(caller.workspace, scope[1], self._default)
        bucket = self._buckets.get(scope)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep(now_s)
            bucket = self._buckets[scope] = LeakyBucket(quota, now_s)
        elif bucket.quota is not quota:
            bucket.change(quota)
        return bucket

    def _sweep(self, now_s: float) -> None:
        self._buckets = {scope: b for scope, b in self._buckets.items() if not b.is_empty(now_s)}
        self._sweep_at = max(_KEPT_MIN, 2 * len(self._buckets))


def _tell(limits: list[Header], bucket: LeakyBucket, remaining: int) -> None:
    limits.append((b"x-ratelimit-limit", b"%d" % bucket.quota.burst))
    limits.append((b"x-ratelimit-remaining", b"%d" % remaining))


def _exceeded(caller: Principal, taken: Taken) -> ApiError:
    return ApiError(
        "rate_limit_exceeded",
        f"Request quota exceeded for workspace {caller.workspace.id}.",
        {"retry_after_ms": taken.retry_after_ms},
        {"retry-after": str(max(1, -(-taken.retry_after_ms // 1000)))},
    )
