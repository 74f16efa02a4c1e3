"""One batch of events and facts, folded: pure state between what was read and what is applied."""

from __future__ import annotations

from atlas.core.breaker import Breaker
from atlas.core.facts import (
    BreakerChanged,
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryFact,
    LifecycleFact,
    RecordsTrimmed,
    ReplayProgressed,
    ReplayRequested,
    ShardCheckpoint,
    ShardClaimed,
    parse_event_topic,
)
from atlas.core.lifecycle import IllegalTransition
from atlas.core.notices import NoticeState, notice, outcome_of, told
from atlas.core.projection import AttemptState, EventState, advance, attempt_made, replay
from atlas.core.reading import Poison
from atlas.core.replays import BulkProgress
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import EventKey, NoticeKey, ShardBreaker, Trim


class Folding:
    """One batch while it is folded: working states, and the changes that come of it."""

    def __init__(
        self,
        epochs: dict[int, int],
        known: dict[EventKey, EventState],
        notices: dict[NoticeKey, NoticeState],
    ) -> None:
        self.epochs = epochs
        self.known = known
        self.notices = notices
        self.changed: dict[EventKey, None] = {}
        self.changed_notices: dict[NoticeKey, None] = {}
        self.attempts: list[AttemptState] = []
        self.trims: list[Trim] = []
        self.bulk_replays: dict[tuple[str, str, str], BulkProgress] = {}
        self.breakers: dict[tuple[str, str, str, int], ShardBreaker] = {}
        self.void = 0

    def event(self, state: EventState) -> None:
        """A newly read event; the first record of an id stays, later ones are void."""
        key = state.key
        if key in self.known:
            raise Poison("duplicate event id")
        self.known[key] = state
        self.changed[key] = None

    def fact(self, shard: int, offset: int, fact: LifecycleFact) -> None:
        """A fact of the shard, in order."""
        if isinstance(fact, ShardClaimed):
            self.epochs[shard] = offset
        elif isinstance(fact, ReplayRequested):
            self._replay(shard, fact)
        elif fact.epoch != self.epochs.get(shard):
            self.void += 1
        elif isinstance(fact, RecordsTrimmed):
            source = TopicPartition(fact.topic, shard)
            self.trims.append(Trim(source, fact.before_offset, fact.before_ms))
        elif isinstance(fact, BreakerChanged):
            self._breaker(shard, fact)
        elif isinstance(fact, ReplayProgressed):
            self.bulk_replays[fact.workspace_id, fact.environment, fact.replay] = BulkProgress(
                scope=(fact.workspace_id, fact.environment),
                id=fact.replay,
                after=fact.after,
                through=fact.through,
                matched=fact.matched,
                replayed=fact.replayed,
                skipped=fact.skipped,
                done_at_ms=fact.at_ms if fact.done else None,
            )
        elif not isinstance(fact, ShardCheckpoint):
            try:
                if fact.notice is None:
                    self._route(shard, offset, fact)
                else:
                    self._notice(shard, offset, fact)
            except IllegalTransition:
                self.void += 1

    def _breaker(self, shard: int, fact: BreakerChanged) -> None:
        breaker = Breaker(
            state=fact.state,
            trips=fact.trips,
            reason=fact.reason,
            opened_at_ms=fact.opened_at_ms,
            next_probe_at_ms=fact.next_probe_at_ms,
            revision=fact.revision,
        )
        scope = (fact.workspace_id, fact.environment)
        self.breakers[(*scope, fact.target, shard)] = ShardBreaker(scope, fact.target, shard, breaker)

    def _replay(self, shard: int, fact: ReplayRequested) -> None:
        try:
            key, state = self._event_of(shard, fact)
            self.known[key] = replay(state, fact)
            self.changed[key] = None
        except IllegalTransition:
            self.void += 1

    def _event_of(self, shard: int, fact: DeliveryFact | ReplayRequested) -> tuple[EventKey, EventState]:
        key = event_key(fact)
        state = self.known.get(key) if key else None
        if key is None or state is None or state.partition != shard:
            raise IllegalTransition("no such event")
        return key, state

    def _route(self, shard: int, offset: int, fact: DeliveryFact) -> None:
        key, state = self._event_of(shard, fact)
        after = self.known[key] = advance(state, fact)
        self.changed[key] = None
        if isinstance(fact, DeliveryAttempted):
            self.attempts.append(attempt_made(key[:2], shard, fact, offset))
        if isinstance(fact, DeliveryAttempted | DeliveryClosed) and fact.notify:
            outcome = outcome_of(fact, state.stream, state.received_at_ms, after.routes)
            if outcome is None:
                return
            for endpoint in fact.notify:
                place = (state.topic, state.partition, state.offset)
                self._put(notice(outcome, key[:2], state.id, place, endpoint, fact.replay))

    def _notice(self, shard: int, offset: int, fact: DeliveryFact) -> None:
        key = notice_key(fact)
        state = self.notices.get(key) if key else None
        if state is None or state.partition != shard:
            raise IllegalTransition("no such notice")
        self._put(told(state, fact))
        if isinstance(fact, DeliveryAttempted):
            self.attempts.append(attempt_made(state.key[:2], shard, fact, offset))

    def _put(self, state: NoticeState) -> None:
        self.notices[state.key] = state
        self.changed_notices[state.key] = None


def event_key(fact: DeliveryFact | ReplayRequested) -> EventKey | None:
    """What the read model knows the fact's event by."""
    name = parse_event_topic(fact.topic)
    return None if name is None else (name.workspace_id, name.environment, fact.event_id)


def notice_key(fact: DeliveryFact) -> NoticeKey | None:
    """What the read model knows the fact's notice by; None when it is not about one."""
    key = event_key(fact)
    return None if key is None or fact.notice is None else (*key, fact.notice)
