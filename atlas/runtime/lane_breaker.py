"""The circuit breaker of a lane: the rules of `core.breaker` on this process's clock, and its facts.

Each process has its own, for all its shards, and learns from its own attempts. What it has learnt is told
in the log, in the shard whose attempt opened it, so that the API can show it and the next owner of that
shard begins with it. Times are told by the wall clock; what is waited for is measured by the monotonic one.

It is about one revision of the target: an attempt made to the target as it was before says nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from atlas.core import breaker as rules
from atlas.core.breaker import CLOSED, FRESH, HALF_OPEN, OPEN, Breaker
from atlas.core.facts import BreakerChanged, DeliveryAttempted, DeliveryClosed
from atlas.ports.clock import Clock
from atlas.runtime.work import Owner, Work

if TYPE_CHECKING:
    from atlas.runtime.lane import Lane

#: A probe that is due and not made for so long, though routes wait for it, has been forgotten.
FORGOTTEN_S: Final = 5.0

log_line = structlog.get_logger()


class LaneBreaker:
    """Of one lane."""

    def __init__(self, lane: Lane, clock: Clock, uniform01: Callable[[], float]) -> None:
        self._lane, self._clock, self._uniform01 = lane, clock, uniform01
        self._state = FRESH
        self._probe_at_s = 0.0
        self._probe: Work | None = None
        self._revision = 0
        #: Whether this process has had an answer from the target, and no failure since.
        self._answers = False
        #: Shards whose facts say that it is not closed.
        self._told: set[Owner] = set()

    @property
    def closed(self) -> bool:
        """Whether whatever the target's limits allow may be sent."""
        return self._state.state == CLOSED

    def probe_is_due(self) -> bool:
        """Whether it is open, and one attempt may be made now."""
        return self._state.state == OPEN and self._clock.monotonic_s() >= self._probe_at_s

    def probe_in_s(self) -> float | None:
        """How long until then; None while it is under way, or of a closed breaker."""
        if self._state.state != OPEN:
            return None
        return max(0.0, self._probe_at_s - self._clock.monotonic_s())

    def keeps(self) -> bool:
        """Whether it is for good reason that nothing is sent."""
        return self._state.state == OPEN and self._clock.monotonic_s() < self._probe_at_s + FORGOTTEN_S

    def about(self, revision: int) -> None:
        """The target is this one now. An older one than known is told by a control fold that lags."""
        if revision > self._revision:
            self._revision, self._answers = revision, False
            self.reset()

    def started(self, work: Work) -> None:
        """An attempt begins; of an open breaker it is the probe."""
        if self._state.state == OPEN:
            self._probe = work
            self._become(rules.probing(self._state), work.owner)

    def ended(self, work: Work, fact: DeliveryAttempted | DeliveryClosed, revision: int) -> None:
        """An attempt to this revision of the target came to this."""
        probed = self._was_probe(work)
        against = None
        if isinstance(fact, DeliveryAttempted) and revision >= self._revision:
            against = rules.speaks_against(fact.error, fact.http_status)
        if against is None:
            self._unproved(work, probed)
        elif not against:
            self._answers = True
            self.reset()
        elif probed or self._state.state != HALF_OPEN:
            assert isinstance(fact, DeliveryAttempted)
            assert fact.error is not None
            self._answers = False
            now_ms = self._clock.now_ms()
            self._become(rules.failed(self._state, fact.error, now_ms, self._uniform01()), work.owner)

    def broke_off(self, work: Work) -> None:
        """The attempt could not be made: nothing is known of the target."""
        self._unproved(work, self._was_probe(work))

    def _was_probe(self, work: Work) -> bool:
        """Whether the attempt was the probe, which is over."""
        probed = self._probe is work
        if probed:
            self._probe = None
        return probed

    def _unproved(self, work: Work, probed: bool) -> None:
        if probed and self._state.state == HALF_OPEN:
            self._become(rules.reopened(self._state, self._clock.now_ms() + rules.PROBE_AFTER_MS), work.owner)

    def reset(self) -> None:
        """Close it: the target answers, or is another one now."""
        if self.closed:
            self._state = FRESH
            return
        self._probe = None
        self._become(FRESH, None)

    def inherit(self, owner: Owner, before: Breaker, revision: int) -> None:
        """A new owner of a shard finds a breaker there that is not closed.

        Args:
            revision: of the target now.
        """
        if self.closed and not self._answers and before.revision >= revision:
            self._revision = max(self._revision, before.revision)
            self._told.add(owner)
            now_ms = self._clock.now_ms()
            left_ms = min(max(0, (before.next_probe_at_ms or 0) - now_ms), rules.PROBE_AFTER_MAX_MS)
            self._become(rules.reopened(before, now_ms + left_ms), owner)
            return
        if not self.closed:
            self._told.add(owner)
        self._tell(owner)  # this process knows better

    def holds_back(self, owner: Owner) -> None:
        """Routes of this shard wait: whoever owns it next has to know for what."""
        if not self.closed and owner not in self._told and not owner.closed:
            self._told.add(owner)
            self._tell(owner)

    def lost(self, owner: Owner) -> None:
        """The shard is another's now; a probe of it ends unheard."""
        self._told.discard(owner)

    def _become(self, state: Breaker, owner: Owner | None) -> None:
        changed = state.state != self._state.state
        self._state = state
        if self.closed:
            for told in self._told:
                self._tell(told)
            self._told.clear()
        elif changed:
            if owner is not None and not owner.closed:
                self._told.add(owner)
            for told in self._told:
                self._tell(told)
        if not changed:
            return
        lane = self._lane
        workspace_id, environment = lane.scope
        log_line.info(
            "breaker",
            workspace_id=workspace_id,
            environment=environment,
            target=lane.target,
            state=state.state,
            reason=state.reason,
        )
        if state.state == OPEN:
            after_s = max(0, (state.next_probe_at_ms or 0) - self._clock.now_ms()) / 1000
            self._probe_at_s = self._clock.monotonic_s() + after_s
            lane.pump_in(after_s)

    def _tell(self, owner: Owner) -> None:
        state, (workspace_id, environment) = self._state, self._lane.scope
        owner.tell(
            BreakerChanged(
                epoch=0,
                workspace_id=workspace_id,
                environment=environment,
                target=self._lane.target,
                revision=self._revision,
                state=state.state,
                trips=state.trips,
                reason=state.reason,
                opened_at_ms=state.opened_at_ms,
                next_probe_at_ms=state.next_probe_at_ms,
                at_ms=self._clock.now_ms(),
            )
        )
