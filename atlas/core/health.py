"""How a delivery target is doing: `GET /v1/workflows/{id}/health`, and of webhook endpoints the same. Pure.

Counts are of every route that is kept, by where it stands. Latency is what a subscriber feels: from the
moment the event was received (for an endpoint: from the outcome it is told of) to the end of the attempt
that delivered it. What a replay delivers says nothing about that, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, TypedDict

from msgspec import Struct

from atlas.core import breaker as breakers
from atlas.core import shapes
from atlas.core.answers import Breaker, Failure
from atlas.core.lifecycle import ROUTE_STATUSES
from atlas.core.timestamps import format_ms
from atlas.core.views import breaker_view

#: Latency is of attempts that ended within so long.
WINDOW_MS: Final = 3_600_000
#: Of more attempts than this the newest count: a target with 3,000 a second is asked about in 20 ms.
LATENCIES_MAX: Final = 10_000
#: Errors shown, the newest first.
ERRORS_MAX: Final = 10


class TargetError(Struct, frozen=True):
    """An attempt that failed, or a route that was closed without one: then it has no number."""

    code: str
    message: str
    at_ms: int
    event_id: str
    attempt: int | None
    http_status: int | None


class TargetHealth(Struct, frozen=True, kw_only=True):
    """What the read model knows of a target.

    Attributes:
        counts: routes by status; a status that none has may be missing.
        oldest_open_ms: since when the oldest route that is neither delivered nor failed waits.
        errors: the newest first.
        latencies_ms: of attempts that delivered, in no order.
    """

    counts: Mapping[str, int]
    oldest_open_ms: int | None
    errors: Sequence[TargetError]
    latencies_ms: Sequence[int]


Routes = Annotated[int, shapes.said(minimum=0, maximum=shapes.WHOLE_MAX)]


class RouteCounts(TypedDict):
    """How many deliveries to the target are kept, by where they stand."""

    queued: Routes
    processing: Routes
    delivered: Routes
    retry_scheduled: Routes
    failed: Routes


class HealthError(Failure):
    """An attempt that failed, or a delivery that was closed without one: then `attempt` is null."""

    at: shapes.Moment
    event_id: shapes.EventId
    attempt: shapes.Natural | None
    http_status: shapes.HttpStatus | None


class Latency(TypedDict):
    """Of the last hour's deliveries, replays left out; null when there were none."""

    p50: shapes.DurationMs | None
    p95: shapes.DurationMs | None


class Health(TypedDict):
    """How a target is doing.

    `oldest_undelivered_at` is when the oldest event (for an endpoint: outcome) came that is neither delivered
    nor failed; `last_errors` are the newest ten.
    """

    counts: RouteCounts
    oldest_undelivered_at: shapes.Moment | None
    last_errors: Annotated[Sequence[HealthError], shapes.said(maxItems=ERRORS_MAX)]
    breaker: Breaker
    latency_ms: Latency


def health_view(health: TargetHealth, breaker: breakers.Breaker) -> Health:
    """As it is shown."""
    counted = {status: health.counts.get(status, 0) for status in ROUTE_STATUSES}
    oldest_ms, latencies_ms = health.oldest_open_ms, sorted(health.latencies_ms)
    return {
        "counts": RouteCounts(**counted),  # type: ignore[typeddict-item]  # its fields are the statuses
        "oldest_undelivered_at": None if oldest_ms is None else format_ms(oldest_ms),
        "last_errors": [_error(error) for error in health.errors],
        "breaker": breaker_view(breaker),
        "latency_ms": {"p50": percentile(latencies_ms, 50), "p95": percentile(latencies_ms, 95)},
    }


def _error(error: TargetError) -> HealthError:
    return {
        "code": error.code,
        "message": error.message,
        "at": format_ms(error.at_ms),
        "event_id": error.event_id,
        "attempt": error.attempt,
        "http_status": error.http_status,
    }


def percentile(ascending: Sequence[int], percent: int) -> int | None:
    """The smallest value that so many percent of all do not exceed (nearest rank); None of nothing."""
    if not ascending:
        return None
    return ascending[max(1, math.ceil(len(ascending) * percent / 100)) - 1]
