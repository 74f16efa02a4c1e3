"""Folding up to a point, on every log: a store rebuilt to where another stands equals it."""

from __future__ import annotations

import asyncio
import random

from atlas.adapters.sqlite_read_model import SqliteReadModel, open_read_model
from atlas.core.commands import CreateStream, CreateTarget, CreateWorkspace
from atlas.core.entities import SealedSecret, Stream, Workflow, Workspace
from atlas.core.facts import (
    CONTROL_TOPIC,
    EVENT_SCHEMA,
    LIFECYCLE_SCHEMA,
    LIFECYCLE_TOPIC,
    SCHEMA_HEADER,
    DeliveryAttempted,
    LifecycleFact,
    ShardClaimed,
    encode,
)
from atlas.core.ids import event_id
from atlas.core.timestamps import format_ms
from atlas.ports.log import NewRecord, TopicPartition
from atlas.runtime.registry import Registry
from atlas.runtime.telemetry import Metrics
from consumers.fold import Fold
from tests.conformance.log_deployments import AT_ONCE_S, Deployment, on_every_log
from tests.test_projector import event as event_record

SCOPE = ("ws_sim", "live")
STREAM = Stream(
    id="str_1",
    workspace_id=SCOPE[0],
    environment=SCOPE[1],
    name="orders",
    description=None,
    retention_days=14,
    default_routes=("wf_a",),
    created_at_ms=0,
)
EVENTS = 60


def fact(value: LifecycleFact) -> NewRecord:
    return NewRecord(encode(value), headers=((SCHEMA_HEADER, LIFECYCLE_SCHEMA),))


class Installation:
    """Topics, a stream, and who writes events and their facts."""

    def __init__(self, d: Deployment) -> None:
        self.log, self.clock = d.log, d.clock
        self.registry = Registry(d.log, d.clock)
        self.random = random.Random(7)
        self.epochs: dict[int, int] = {}

    async def make(self) -> None:
        await self.log.create_topic(CONTROL_TOPIC, 1, None)
        await self.log.create_topic(LIFECYCLE_TOPIC, self.log.shards, None)
        await self.log.create_topic(STREAM.topic, self.log.shards, None)
        self.folding = asyncio.create_task(self.registry.run())
        await self.registry.catch_up()
        workspace = Workspace(id=SCOPE[0], name="sim", created_at_ms=0)
        workflow = Workflow(
            id="wf_a",
            workspace_id=SCOPE[0],
            environment=SCOPE[1],
            url="http://wf_a",
            secrets=(SealedSecret("x"),),
            created_at_ms=0,
        )
        await self.registry.propose(CreateWorkspace(id="c1", at_ms=0, workspace=workspace, keys=()))
        await self.registry.propose(CreateTarget(id="c2", at_ms=0, target=workflow))
        await self.registry.propose(CreateStream(id="c3", at_ms=0, stream=STREAM, streams_max=9))
        for shard in range(self.log.shards):
            claim = ShardClaimed(owner="test", at_ms=0)
            self.epochs[shard] = await self.log.append(LIFECYCLE_TOPIC, shard, [fact(claim)])

    async def write(self, events: int) -> None:
        """Events in every shard, and of two in three an attempt."""
        now_ms, share = self.clock.now_ms(), events // self.log.shards
        for shard in range(self.log.shards):
            ids = [event_id(now_ms, self.random.randbytes(10)) for _ in range(share)]
            values = (event_record(id=i, received_at=format_ms(now_ms), routes=["wf_a"]) for i in ids)
            headers = ((SCHEMA_HEADER, EVENT_SCHEMA),)
            first = await self.log.append(STREAM.topic, shard, [NewRecord(v, None, headers) for v in values])
            attempts = [
                DeliveryAttempted(
                    epoch=self.epochs[shard],
                    event_id=made,
                    topic=STREAM.topic,
                    offset=first + number,
                    target="wf_a",
                    attempt=1,
                    outcome="delivered",
                    started_at_ms=now_ms,
                    completed_at_ms=now_ms,
                    duration_ms=0,
                )
                for number, made in enumerate(ids)
                if number % 3
            ]
            await self.log.append(LIFECYCLE_TOPIC, shard, [fact(each) for each in attempts])

    async def ends(self) -> dict[TopicPartition, int]:
        topics = (LIFECYCLE_TOPIC, STREAM.topic)
        return await self.log.end_offsets(
            TopicPartition(topic, shard) for topic in topics for shard in range(self.log.shards)
        )

    def fold(self, store: SqliteReadModel) -> Fold:
        return Fold(self.log, store, self.registry, self.clock, Metrics())

    async def close(self) -> None:
        self.folding.cancel()
        await asyncio.wait([self.folding])


async def until_passed(fold: Fold, positions: dict[TopicPartition, int]) -> None:
    async with asyncio.timeout(AT_ONCE_S * 3):
        while not fold.has_passed(positions):
            await fold.step(0.1)
    await fold.applied()


@on_every_log
async def test_a_fold_up_to_a_point_equals_the_store_that_stands_there(d: Deployment) -> None:
    made = Installation(d)
    await made.make()
    live, shadow, whole = [await open_read_model(None) for _ in range(3)]
    shards = range(d.log.shards)
    await made.write(EVENTS)
    fold = made.fold(live)
    async with fold.of(shards):
        await until_passed(fold, await made.ends())
    stands = dict((await live.progress()).positions)
    await made.write(EVENTS)  # the log goes on

    rebuilt = made.fold(shadow)
    async with rebuilt.of(shards, stands):
        await until_passed(rebuilt, stands)
        assert not await rebuilt.step(0)
    assert dict((await shadow.progress()).positions) == stands
    assert await shadow.digest() == await live.digest()
    counts = await shadow.counts()
    assert (counts["events"], counts["attempts"], counts["quarantine"]) == (EVENTS, EVENTS * 2 // 3, 0)

    for store in (live, whole):
        fold = made.fold(store)
        async with fold.of(shards):
            await until_passed(fold, await made.ends())
    assert await whole.digest() == await live.digest() != await shadow.digest()
    assert (await whole.counts())["events"] == 2 * EVENTS
    for store in (live, shadow, whole):
        await store.close()
    await made.close()


@on_every_log
async def test_a_fold_that_waits_is_cut_short(d: Deployment) -> None:
    made = Installation(d)
    await made.make()
    store = await open_read_model(None)
    fold = made.fold(store)
    async with fold.of(range(d.log.shards)):
        await until_passed(fold, await made.ends())
        waiting = asyncio.create_task(fold.step(AT_ONCE_S * 6))
        await asyncio.sleep(0)
        fold.stop.set()
        async with asyncio.timeout(AT_ONCE_S):
            assert not await waiting
    await store.close()
    await made.close()
