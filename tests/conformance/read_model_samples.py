"""What the suite of the `ReadModel` port is fed with, and the naive model it is held against."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Final

from hypothesis import strategies as st
from msgspec.structs import replace

from atlas.adapters.sqlite_follower import follow_read_model
from atlas.adapters.sqlite_read_model import SqliteReadModel, open_read_model
from atlas.core.facts import LIFECYCLE_TOPIC, event_topic
from atlas.core.ids import event_id
from atlas.core.lifecycle import DELIVERED, RETRY_SCHEDULED, ROUTE_STATUSES, RouteState, event_status
from atlas.core.projection import AttemptState, EventState
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import Advance, Changes, EventQuery, Scope

NOW_MS: Final = 1_767_225_600_000
SCOPE: Final[Scope] = ("ws_acme", "live")
OTHER_SCOPES: Final[Sequence[Scope]] = (("ws_acme", "test"), ("ws_other", "live"))
STREAM: Final = "orders"
TARGET: Final = "wf_billing"


def lifecycle(shard: int) -> TopicPartition:
    return TopicPartition(LIFECYCLE_TOPIC, shard)


def event(
    number: int,
    *routes: RouteState,
    scope: Scope = SCOPE,
    stream: str = STREAM,
    kind: str = "order.created",
    partition: int = 0,
    received_at_ms: int | None = None,
    actor: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    idempotency_key: str | None = None,
) -> EventState:
    """The event at offset `number` of its partition, received `number` milliseconds after the start."""
    workspace_id, environment = scope
    received_ms = NOW_MS + number if received_at_ms is None else received_at_ms
    return EventState(
        id=event_id(received_ms, Random(f"{scope}{stream}{partition}{number}").randbytes(10)),
        workspace_id=workspace_id,
        environment=environment,
        stream=stream,
        type=kind,
        received_at_ms=received_ms,
        occurred_at="2026-01-01T00:00:00.000Z",
        idempotency_key=idempotency_key,
        actor_json=None if actor is None else json.dumps(actor, ensure_ascii=False),
        metadata_json=None if metadata is None else json.dumps(metadata, ensure_ascii=False),
        topic=event_topic(environment, workspace_id, stream),
        partition=partition,
        offset=number,
        status=event_status(route.status for route in routes),
        routes=routes,
    )


def with_routes(state: EventState, *routes: RouteState) -> EventState:
    """The event later on."""
    return replace(state, routes=routes, status=event_status(route.status for route in routes))


def source_of(state: EventState) -> TopicPartition:
    return TopicPartition(state.topic, state.partition)


def delivered(target: str = TARGET) -> RouteState:
    return RouteState(target, status=DELIVERED, attempt=1, completed_at_ms=NOW_MS)


def retrying(due_at_ms: int, target: str = TARGET) -> RouteState:
    return RouteState(
        target,
        status=RETRY_SCHEDULED,
        attempt=1,
        next_attempt_at_ms=due_at_ms,
        error_code="upstream_status",
        error_message="HTTP 500",
        due_at_ms=due_at_ms,
    )


def parked(due_at_ms: int, target: str = TARGET) -> RouteState:
    return RouteState(target, due_at_ms=due_at_ms, parked=True)


def attempt(of: EventState, number: int, offset: int, response_body: str | None = "ok") -> AttemptState:
    """Attempt `number` of the event's first route, recorded at `offset` of the lifecycle."""
    return AttemptState(
        workspace_id=of.workspace_id,
        environment=of.environment,
        event_id=of.id,
        partition=of.partition,
        offset=offset,
        target=of.routes[0].target,
        attempt=number,
        replay=0,
        status=DELIVERED,
        started_at_ms=NOW_MS,
        completed_at_ms=NOW_MS + 9,
        duration_ms=9,
        http_status=200,
        error_code=None,
        error_message=None,
        response_body=response_body,
        next_attempt_at_ms=None,
        address="192.0.2.1",
        connect_ms=1.5,
        tls_ms=None,
        first_byte_ms=12.25,
    )


def changes(events: Iterable[EventState], start: int = 0) -> Changes:
    """A batch that moves shard 0's lifecycle position on by one from `start`."""
    return Changes(events=tuple(events), advances=[Advance(lifecycle(0), start, start + 1)])


@asynccontextmanager
async def opened(path: Path | None, *, threads: bool = False) -> AsyncIterator[SqliteReadModel]:
    store = await open_read_model(path, inline=not threads)
    try:
        yield store
    finally:
        await store.close()


class Deployment(SqliteReadModel):
    """A projector's read model, and another process's that follows the file: one writes, one is read."""

    def __init__(self, writer: SqliteReadModel, reader: SqliteReadModel) -> None:
        super().__init__(reader._driver)
        self.writer = writer

    async def apply(self, changes: Changes) -> None:
        await self.writer.apply(changes)

    async def close(self) -> None:
        await super().close()
        await self.writer.close()


@asynccontextmanager
async def opened_as(kind: str, path: Path) -> AsyncIterator[SqliteReadModel]:
    """The adapters that the suite runs on: `memory`, `file`, `threads`, `followed`."""
    if kind != "followed":
        async with opened(None if kind == "memory" else path, threads=kind == "threads") as store:
            yield store
        return
    store = Deployment(await open_read_model(path), follow_read_model(path))
    try:
        yield store
    finally:
        await store.close()


# -- pages


def everything(limit: int = 100, scope: Scope = SCOPE, stream: str = STREAM) -> EventQuery:
    return EventQuery(scope=scope, visible_after_ms={stream: 0}, limit=limit)


def page_of(events: Iterable[EventState], query: EventQuery) -> list[EventState]:
    """What the page has to hold, read off the definitions."""
    found = [replace(event, routes=()) for event in events if _matches(event, query)]
    return sorted(found, key=lambda event: event.id.encode())[: query.limit]


def _matches(event: EventState, query: EventQuery) -> bool:
    actor = json.loads(event.actor_json or "{}")
    metadata = json.loads(event.metadata_json or "{}")
    visible_after_ms = query.visible_after_ms.get(event.stream)
    wanted = [
        (query.type, event.type),
        (query.status, event.status),
        (query.actor_id, actor.get("id")),
        (query.tenant_id, actor.get("tenant_id")),
        (query.idempotency_key, event.idempotency_key),
        *((value, metadata.get(key)) for key, value in query.metadata.items()),
    ]
    return (
        query.scope == (event.workspace_id, event.environment)
        and visible_after_ms is not None
        and event.received_at_ms >= visible_after_ms
        and (query.after_id is None or event.id > query.after_id)
        and (query.received_from_ms is None or event.received_at_ms >= query.received_from_ms)
        and (query.received_before_ms is None or event.received_at_ms < query.received_before_ms)
        and all(asked is None or asked == held for asked, held in wanted)
        and _has_route(event, query)
    )


def _has_route(event: EventState, query: EventQuery) -> bool:
    if query.workflow_id is None and query.route_status is None:
        return True
    return any(
        (query.workflow_id is None or route.target == query.workflow_id)
        and (query.route_status is None or route.status == query.route_status)
        for route in event.routes
    )


# Few values, so that filters meet events; some that could be taken for others if terms were careless.
STREAMS: Final = ("orders", "users", "a-b")
TYPES: Final = ("order.created", "order.paid")
TARGETS: Final = ("wf_a", "wf_b")
VALUES: Final = ("", "1", "11:", 'q"\\', "é\x01😀", "1:k")
KEYS: Final = ("k", "1", "1:", 'q"\\', "é😀", "k1")

_values = st.sampled_from(VALUES)
_metadata = st.dictionaries(st.sampled_from(KEYS), _values, max_size=3)
_actors = st.fixed_dictionaries({}, optional={"id": _values, "tenant_id": _values, "type": _values})
_routes = st.lists(
    st.builds(RouteState, st.sampled_from(TARGETS), st.sampled_from(ROUTE_STATUSES)),
    max_size=2,
    unique_by=lambda route: route.target,
)
_received = st.integers(NOW_MS, NOW_MS + 40)


@st.composite
def events(draw: st.DrawFn) -> list[EventState]:
    """Events of several scopes and streams, some of the same millisecond."""
    count = draw(st.integers(0, 30))
    return [
        event(
            number,
            *draw(_routes),
            scope=draw(st.sampled_from((SCOPE, SCOPE, *OTHER_SCOPES))),
            stream=draw(st.sampled_from(STREAMS)),
            kind=draw(st.sampled_from(TYPES)),
            received_at_ms=draw(_received),
            actor=draw(st.none() | _actors),
            metadata=draw(st.none() | _metadata),
            idempotency_key=draw(st.none() | _values.filter(bool)),
        )
        for number in range(count)
    ]


@st.composite
def queries(draw: st.DrawFn) -> EventQuery:
    """Any combination of filters."""

    def maybe(strategy: st.SearchStrategy[str]) -> str | None:
        return draw(strategy) if draw(st.integers(0, 3)) == 0 else None

    def maybe_time() -> int | None:
        return draw(_received) if draw(st.integers(0, 2)) == 0 else None

    return EventQuery(
        scope=draw(st.sampled_from((SCOPE, SCOPE, OTHER_SCOPES[0]))),
        visible_after_ms=draw(st.dictionaries(st.sampled_from(STREAMS), st.just(0) | _received)),
        limit=draw(st.integers(1, 30)),
        after_id=event_id(draw(_received), bytes(10)) if draw(st.booleans()) else None,
        type=maybe(st.sampled_from(TYPES)),
        status=maybe(st.sampled_from(("accepted", "processing", "delivered", "retried", "failed"))),
        workflow_id=maybe(st.sampled_from(TARGETS)),
        route_status=maybe(st.sampled_from(ROUTE_STATUSES)),
        actor_id=maybe(_values),
        tenant_id=maybe(_values),
        received_from_ms=maybe_time(),
        received_before_ms=maybe_time(),
        idempotency_key=maybe(_values),
        metadata=draw(_metadata) if draw(st.integers(0, 3)) == 0 else {},
    )
