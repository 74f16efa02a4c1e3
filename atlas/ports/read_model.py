"""The read model: what the status API answers from, and where waiting routes are kept.

It is derived: it can be deleted and folded again from the log at any time, and then holds the same
rows (guarantee G6). Positions are stored with the data and fenced, so that a replayed or stale batch
changes nothing.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from atlas.core.breaker import Breaker
from atlas.core.health import TargetHealth
from atlas.core.notices import NoticeState, Outcome
from atlas.core.projection import AttemptState, EventState
from atlas.core.replays import BulkProgress
from atlas.ports.log import TopicPartition

#: Workspace id and environment: nothing is ever looked up without one.
Scope = tuple[str, str]
#: Workspace id, environment, event id.
EventKey = tuple[str, str, str]
#: The same, and a notice's id.
NoticeKey = tuple[str, str, str, str]


class Trim(Struct, frozen=True):
    """Event rows of this partition below `before_offset`, all received before `before_ms`, go."""

    source: TopicPartition
    before_offset: int
    before_ms: int


class ShardBreaker(Struct, frozen=True):
    """A target's circuit breaker, as the owner of a shard has it."""

    scope: Scope
    target: str
    shard: int
    breaker: Breaker


class Quarantined(Struct, frozen=True):
    """A record that no fold could take, kept by position for operators."""

    source: TopicPartition
    offset: int
    reason: str
    at_ms: int


class Advance(Struct, frozen=True):
    """Moves a stored position from `expected` (0 when there is none) to `next_offset`."""

    source: TopicPartition
    expected: int
    next_offset: int


class Changes(Struct, frozen=True, kw_only=True):
    """One projector batch, applied in one transaction.

    Attributes:
        events: new or changed events, the newest state of each. What comes from an event's record
            never changes and is kept as it was first; its status and its routes are replaced.
        notices: new or changed notices, the newest state of each.
        attempts: new attempts; one that is there already is kept.
        trims: applied after the above.
        bulk_replays: the newest state of each.
        breakers: the newest state of each; closed ones are forgotten.
        advances: one for each partition at most.
        epochs: newest claim seen, by shard; an older one than stored changes nothing.
    """

    events: Sequence[EventState] = ()
    notices: Sequence[NoticeState] = ()
    attempts: Sequence[AttemptState] = ()
    trims: Sequence[Trim] = ()
    breakers: Sequence[ShardBreaker] = ()
    bulk_replays: Sequence[BulkProgress] = ()
    quarantined: Sequence[Quarantined] = ()
    advances: Sequence[Advance] = ()
    epochs: Mapping[int, int] = {}


class Progress(Struct, frozen=True):
    """How far the read model has folded.

    Attributes:
        incarnation: changes whenever the store was made anew.
        positions: next offset by partition; a partition never folded is absent.
        epochs: newest claim folded, by shard.
        trimmed: highest `before_offset` of all trims, by event topic partition.
    """

    incarnation: str
    positions: Mapping[TopicPartition, int]
    epochs: Mapping[int, int]
    trimmed: Mapping[TopicPartition, int]


class WaitingRoute(Struct, frozen=True):
    """A route that an owner must take up again: a retry or a parked first attempt.

    `due_at_ms` is 0 for a route that waits for nothing (`open_below` only). `base` is the
    number of the last attempt before the last replay. `ordering_key` is set where order is kept, `in_line`
    where the route waits for nothing but those before it. Of a notice, `notice` is the delivery's id.
    """

    workspace_id: str
    environment: str
    event_id: str
    topic: str
    offset: int
    target: str
    attempt: int
    replay: int
    status: str
    due_at_ms: int
    base: int = 0
    notice: str | None = None
    outcome: Outcome | None = None
    ordering_key: str | None = None
    in_line: bool = False


class Line(Struct, frozen=True):
    """The routes of one ordering key of a stream to one target: they go one after another."""

    shard: int
    scope: Scope
    target: str
    topic: str
    ordering_key: str


class NoticeAttempt(Struct, frozen=True):
    """One attempt to tell a webhook endpoint of an outcome."""

    attempt: AttemptState
    outcome: Outcome


class Waiting(Struct, frozen=True):
    """Rows, with the shard's lifecycle position of the same snapshot (0 if never folded)."""

    incarnation: str
    lifecycle_position: int
    routes: Sequence[WaitingRoute]


class Difference(Struct, frozen=True):
    """A row that two stores do not agree on.

    Attributes:
        scope: workspace and environment; empty in tables that have none.
        where: `live` or `rebuilt`, the only store that has it; `both`, and it differs.
    """

    table: str
    scope: str
    key: Sequence[str | int]
    where: Literal["live", "rebuilt", "both"]


class Comparison(Struct, frozen=True):
    """Of the live store and one rebuilt from the log; `differences` holds the first of each table."""

    live_digest: str
    rebuilt_digest: str
    differences: Sequence[Difference] = ()


class JobState(Struct, frozen=True, kw_only=True):
    """How far a rebuild or a verification has come.

    Attributes:
        status: `running`, `completed` or `failed`.
        records_total: in the log when it began.
        error: why it failed.
        comparison: what a verification found.
    """

    id: str
    status: str
    started_at_ms: int
    completed_at_ms: int | None = None
    records_folded: int = 0
    records_total: int = 0
    error: str | None = None
    comparison: Comparison | None = None


class Jobs(Struct, frozen=True):
    """Rebuilds and verifications of this store: not from the log, and in no digest.

    Attributes:
        position: control offset up to which requests are done with; None in a new store.
        states: by id, of those begun.
    """

    position: int | None
    states: Mapping[str, JobState]


class EventQuery(Struct, frozen=True, kw_only=True):
    """One page of events, ascending by id.

    Attributes:
        visible_after_ms: for each stream the caller may see, the `received_at_ms` below which
            events are past retention; streams not named are invisible.
        after_id: the cursor: ids strictly greater.
        received_from_ms, received_before_ms: inclusive, exclusive.
        metadata: every pair must match.
        limit: rows wanted; the caller asks for one more than the page to learn whether there are.
    """

    scope: Scope
    visible_after_ms: Mapping[str, int]
    limit: int
    after_id: str | None = None
    type: str | None = None
    status: str | None = None
    workflow_id: str | None = None
    route_status: str | None = None
    actor_id: str | None = None
    tenant_id: str | None = None
    received_from_ms: int | None = None
    received_before_ms: int | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, str] = {}


class ReadModel(Protocol):
    """See the module docstring. Every method may raise `StoreUnavailable`."""

    async def progress(self) -> Progress:
        """Where the read model stands."""

    async def load(self, keys: Sequence[EventKey]) -> dict[EventKey, EventState]:
        """The states of those events that are there."""

    async def load_notices(self, keys: Sequence[NoticeKey]) -> dict[NoticeKey, NoticeState]:
        """The states of those notices that are there."""

    async def apply(self, changes: Changes) -> None:
        """Apply a batch in one durable-enough transaction: all of it or nothing.

        Raises:
            StaleWriter: a position was not where the batch expected it.
        """

    async def get(self, key: EventKey) -> EventState | None:
        """One event."""

    async def attempts(self, key: EventKey) -> list[AttemptState]:
        """Every attempt of an event, oldest first."""

    async def deliveries(
        self, scope: Scope, endpoint: str, after: str | None, limit: int
    ) -> builtins.list[NoticeAttempt]:
        """Attempts to tell an endpoint, by the notice's id (oldest first), those of one in their order.

        Args:
            after: only notices with an id after this one, whether or not it is there.
            limit: notices, of those attempted at least once.
        """

    async def target_health(
        self, scope: Scope, target: str, since_ms: int, errors_max: int, latencies_max: int
    ) -> TargetHealth:
        """How a workflow or a webhook endpoint is doing; what it costs does not grow with what is kept.

        Args:
            since_ms: latencies are of attempts that delivered at or after this, and were no replay's.
            latencies_max: of more, the newest.
        """

    async def bulk_replays(self, scope: Scope) -> dict[str, BulkProgress]:
        """By id, those that have begun."""

    async def breakers(self, scope: Scope, shard: int | None = None) -> dict[str, Breaker]:
        """By target, the breakers that are not closed; `breaker.of` says whether one still holds.

        Args:
            scope: whose.
            shard: as its owner has them. None: of all shards the worst: an open one, and of several the one
                that is probed last.
        """

    async def breakers_of(self, shard: int) -> builtins.list[ShardBreaker]:
        """The breakers of a shard that are not closed."""

    async def list(self, query: EventQuery) -> list[EventState]:
        """A page of events, ascending by id. `routes` may be left empty."""

    async def wait_past(self, positions: Mapping[TopicPartition, int], timeout_s: float) -> bool:
        """Wait until every position given has been reached; False after the timeout."""

    async def waiting_for(self, shard: int, scope: Scope, target: str, until_ms: int, limit: int) -> Waiting:
        """A target's routes due by `until_ms`, earliest due first, then by event offset."""

    async def upcoming(self, shard: int, after_ms: int, until_ms: int, limit: int) -> Waiting:
        """Retries of any target due in (after, until], earliest first."""

    async def targets_waiting(self, shard: int, until_ms: int) -> set[tuple[str, str, str]]:
        """(workspace, environment, target) of those with routes due by `until_ms`."""

    async def targets_in_line(self, shard: int) -> set[tuple[str, str, str]]:
        """(workspace, environment, target) of those with open routes that keep order."""

    async def lines(self, shard: int, limit: int) -> Waiting:
        """Open routes that keep order, of any target."""

    async def next_in_line(self, line: Line, limit: int) -> Waiting:
        """The open routes that are first in a line, in its order, whatever they wait for."""

    async def in_line(self, shard: int, scope: Scope, target: str, limit: int, heads: bool) -> Waiting:
        """A target's routes that wait for those before them; with `heads` those that have none."""

    async def open_below(self, source: TopicPartition, before_offset: int, limit: int) -> Waiting:
        """Routes that are not terminal, of events of this partition below the offset."""

    async def oldest_overdue_ms(self, now_ms: int) -> int:
        """Age of the oldest route that waits past its time, and for no breaker; 0 when there is none."""

    async def counts(self) -> dict[str, int]:
        """Rows by table, for metrics and `verify`."""

    async def digest(self) -> str:
        """Hash over every row that the log determines, in key order (guarantee G6)."""

    async def jobs(self) -> Jobs:
        """Rebuilds and verifications."""

    async def note_jobs(self, states: Sequence[JobState], position: int | None = None) -> None:
        """Replace these states, and move the position unless it is None, in one transaction."""

    async def close(self) -> None:
        """Release everything."""
