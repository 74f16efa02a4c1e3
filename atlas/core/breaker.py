"""A target's circuit breaker: when nothing is sent there for a while, and when it is tried again. Pure.

    closed ──FAILURES_MAX attempts failed one after another──> open
    open ──the probe's time has come──> half_open: one attempt
    half_open ──it failed──> open, for twice as long, ──the target answered──> closed

An attempt speaks against the target if it looks down: no connection, no TLS, no answer in time, 5xx, or 429.
Any other answer closes the breaker, even one that fails the route: somebody is there. What Atlas itself
refused to dial says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from atlas.core import shapes
from atlas.core.entities import Target
from atlas.core.facts import FactError

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"

#: Attempts that fail one after another before a breaker opens.
FAILURES_MAX: Final = 20
#: The first probe comes after this, each further one after twice the time before, up to the longest.
PROBE_AFTER_MS: Final = 1_000
PROBE_AFTER_MAX_MS: Final = 30_000
#: Each of these times is multiplied by a factor drawn uniformly from [1, 1 + JITTER].
JITTER: Final = 0.1

_DOWN: Final = frozenset({"upstream_timeout", "upstream_unreachable", "upstream_tls"})
_STATUS: Final = "upstream_status"
_BLOCKED: Final = "upstream_blocked"
_TOO_MANY_REQUESTS: Final = 429


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """Where a breaker stands.

    Attributes:
        failures: attempts that failed one after another while it was closed.
        trips: how often it has opened since it was closed last.
        reason: why it is open, for people.
        next_probe_at_ms: nothing is sent before.
        revision: of the target that it is about; see `of`.
    """

    state: shapes.BreakerState = CLOSED
    failures: int = 0
    trips: int = 0
    reason: str | None = None
    opened_at_ms: int | None = None
    next_probe_at_ms: int | None = None
    revision: int = 0


#: As a target begins.
FRESH: Final = Breaker()


def of(target: Target, known: Mapping[str, Breaker]) -> Breaker:
    """The target's breaker. What was held against it before it was changed last is over.

    Args:
        known: by target, those that are not closed.
    """
    breaker = known.get(target.id, FRESH)
    return breaker if breaker.revision >= target.revision else FRESH


def speaks_against(error: FactError | None, http_status: int | None) -> bool | None:
    """Whether an attempt's outcome says that the target is down; None: it says nothing."""
    if error is None:
        return False
    if error.code == _BLOCKED:
        return None
    if error.code == _STATUS:
        return http_status is not None and (http_status >= 500 or http_status == _TOO_MANY_REQUESTS)
    return error.code in _DOWN


def failed(breaker: Breaker, error: FactError, now_ms: int, uniform01: float) -> Breaker:
    """After an attempt that speaks against the target; of an open breaker, one begun before it opened.

    Args:
        error: why it failed.
        now_ms: when.
        uniform01: a random number in [0, 1).
    """
    if breaker.state == OPEN:
        return breaker
    failures = breaker.failures + 1
    if breaker.state == CLOSED and failures < FAILURES_MAX:
        return msgspec.structs.replace(breaker, failures=failures)
    after_ms = min(PROBE_AFTER_MS << min(breaker.trips, 30), PROBE_AFTER_MAX_MS) * (1.0 + JITTER * uniform01)
    return Breaker(
        state=OPEN,
        failures=failures,
        trips=breaker.trips + 1,
        reason=f"{failures} attempts in a row failed, the last with {error.code}: {error.message}",
        opened_at_ms=now_ms if breaker.opened_at_ms is None else breaker.opened_at_ms,
        next_probe_at_ms=now_ms + int(after_ms),
    )


def probing(breaker: Breaker) -> Breaker:
    """An open breaker lets one attempt through."""
    return msgspec.structs.replace(breaker, state=HALF_OPEN, next_probe_at_ms=None)


def reopened(breaker: Breaker, next_probe_at_ms: int) -> Breaker:
    """A probe that came to nothing, or said nothing, is made up for by another."""
    return msgspec.structs.replace(breaker, state=OPEN, next_probe_at_ms=next_probe_at_ms)
