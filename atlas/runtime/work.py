"""One route to be delivered, on its way through this process, and who it is settled with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from atlas.core.entities import Scope
from atlas.core.facts import BreakerChanged, DeliveryFact, EventRecord
from atlas.core.notices import Outcome

if TYPE_CHECKING:
    from atlas.runtime.lane import Lane

#: Identifies a route's delivery in this process: event, target (of a notice, its id), replay.
WorkKey = tuple[str, str, int]
#: Workspace, environment, target: what a route queues for.
LaneKey = tuple[str, str, str]


class Owner(Protocol):
    """The owner of a work's shard, as those who deliver see it."""

    @property
    def shard(self) -> int:
        """Partition number."""

    @property
    def epoch(self) -> int:
        """What facts must carry."""

    @property
    def closed(self) -> bool:
        """The shard was lost: nothing may be started or settled here."""

    def may_start(self) -> bool:
        """Whether an attempt may start now: heartbeat fresh, facts can be written."""

    def started(self, work: Work, fact: DeliveryFact) -> None:
        """Record something that decides nothing."""

    def expired(self, work: Work) -> bool:
        """Whether the work's record is past retention: it is closed, not attempted."""

    def refill(self, lane: Lane) -> None:
        """The lane has room, and routes of it wait in the store."""

    def park(self, work: Work, reason: str) -> None:
        """Have the route wait in the log."""

    def shed(self, work: Work) -> None:
        """It keeps order, and has lost its place in memory: the store has it."""

    def tell(self, fact: BreakerChanged) -> None:
        """Record how a target's breaker stands."""

    def settle(self, work: Work, *facts: DeliveryFact) -> None:
        """Record what decides the work's present step."""


class Work:
    """A route that wants its next attempt.

    Attributes:
        attempt: the number that attempt will carry.
        record: the event, when it is at hand; else it is fetched from the log.
        base: the last attempt before the last replay: the retry budget counts from there.
        notice: of an outcome on its way to a webhook endpoint, the delivery's id; `outcome` is what it tells.
        ordering_key: set where order is kept: it goes when those of the same key before it have ended.
        first: straight from the event topic, not from the store.
        under_way: its attempt has been started.
    """

    __slots__ = (
        "attempt",
        "base",
        "event_id",
        "first",
        "notice",
        "offset",
        "ordering_key",
        "outcome",
        "owner",
        "record",
        "replay",
        "scope",
        "target",
        "topic",
        "under_way",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        scope: Scope,
        event_id: str,
        topic: str,
        offset: int,
        target: str,
        attempt: int = 1,
        replay: int = 0,
        record: EventRecord | None = None,
        base: int = 0,
        notice: str | None = None,
        outcome: Outcome | None = None,
        ordering_key: str | None = None,
    ) -> None:
        self.owner = owner
        self.scope = scope
        self.event_id = event_id
        self.topic = topic
        self.offset = offset
        self.target = target
        self.attempt = attempt
        self.replay = replay
        self.record = record
        self.base = base
        self.notice = notice
        self.outcome = outcome
        self.ordering_key = ordering_key
        self.first = record is not None
        self.under_way = False

    def again(self, attempt: int) -> Work:
        """The same route wanting another attempt, its payload to be fetched."""
        return Work(
            self.owner,
            self.scope,
            self.event_id,
            self.topic,
            self.offset,
            self.target,
            attempt,
            self.replay,
            base=self.base,
            notice=self.notice,
            outcome=self.outcome,
            ordering_key=self.ordering_key,
        )

    @property
    def lane(self) -> tuple[str, str, str]:
        """Workspace, environment and target: what it queues for."""
        return (*self.scope, self.target)

    @property
    def key(self) -> WorkKey:
        """See `WorkKey`."""
        return (self.event_id, self.notice or self.target, self.replay)
