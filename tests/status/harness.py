"""The status handlers over the real log, read model and projector, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
from msgspec.structs import replace

from atlas.adapters.sqlite_read_model import open_read_model
from atlas.core.facts import (
    LIFECYCLE_SCHEMA,
    LIFECYCLE_TOPIC,
    SCHEMA_HEADER,
    BreakerChanged,
    DeliveryFact,
    LifecycleFact,
    ShardClaimed,
    encode,
    event_topic,
)
from atlas.core.murmur2 import partition_for
from atlas.gateway.call import Principal, Reply
from atlas.ports.log import NewRecord, TopicPartition
from atlas.ports.read_model import ReadModel
from atlas.status.handlers import EventStatus
from consumers.projector import Projector
from tests.ingest.harness import LIVE, SHARDS, FakeCall, Installation, installation
from tests.virtual_time import VirtualClock


class StatusInstallation:
    """An installation whose events can be looked at."""

    def __init__(self, atlas: Installation, read_model: ReadModel) -> None:
        self.atlas = atlas
        self.read_model = read_model
        self.handlers = EventStatus(atlas.services)
        self._projecting: asyncio.Task[None] | None = None
        self._epochs: dict[int, int] = {}

    def project(self) -> None:
        """Start the projector."""
        services = self.atlas.services
        projector = Projector(
            services.log, self.read_model, services.registry, services.clock, services.metrics
        )
        self._projecting = asyncio.create_task(projector.run(), name="projector")

    async def stop_projecting(self) -> None:
        """Everything is left as it is, as if the projector had died."""
        if self._projecting is not None:
            self._projecting.cancel()
            await asyncio.wait([self._projecting])

    async def accepted(self, event: object, key: str | None = None, principal: Principal = LIVE) -> str:
        """The id of an event that has just been accepted."""
        event_id: str = orjson.loads((await self.atlas.send(event, key, principal)).body)["id"]
        return event_id

    async def deliver(self, event_id: str, *facts: DeliveryFact, stream: str = "orders-prod") -> None:
        """Append facts of an event, as the owner of its shard would; it fills in epoch and place."""
        shard = partition_for(event_id.encode(), SHARDS)
        epoch = await self._epoch(shard)
        topic = event_topic(LIVE.key.environment, LIVE.key.workspace_id, stream)
        offset = next(
            record.offset
            for record in await self.atlas.records(stream)
            if orjson.loads(record.value or b"")["id"] == event_id
        )
        for fact in facts:
            placed = replace(fact, epoch=epoch, event_id=event_id, topic=topic, offset=offset)
            await self._append(shard, placed)

    async def tell(self, shard: int, target: str, **fields: Any) -> None:
        """Append a fact about a target's circuit breaker, as the owner of the shard would."""
        told = {
            "trips": 1,
            "reason": "down",
            "opened_at_ms": 1,
            "at_ms": 1,
            "epoch": await self._epoch(shard),
        }
        workspace_id, environment = LIVE.scope
        scoped = {"workspace_id": workspace_id, "environment": environment, "target": target}
        await self._append(shard, BreakerChanged(**{**told, **scoped, **fields}))

    async def _epoch(self, shard: int) -> int:
        if shard not in self._epochs:
            self._epochs[shard] = await self._append(shard, ShardClaimed(owner="test", at_ms=0))
        return self._epochs[shard]

    async def _append(self, shard: int, fact: LifecycleFact) -> int:
        record = NewRecord(encode(fact), headers=((SCHEMA_HEADER, LIFECYCLE_SCHEMA),))
        return await self.atlas.log.append(LIFECYCLE_TOPIC, shard, [record])

    async def projected(self) -> None:
        """Wait until everything in the log shows."""
        topics = [s.topic for streams in self.atlas.registry.state.streams.values() for s in streams.values()]
        sources = [TopicPartition(t, n) for t in (*topics, LIFECYCLE_TOPIC) for n in range(SHARDS)]
        assert await self.read_model.wait_past(await self.atlas.log.end_offsets(sources), 10)

    async def get(self, event_id: str, principal: Principal = LIVE, query: str = "") -> dict[str, Any]:
        return body(await self.handlers.retrieve(_of(event_id, principal, query)))

    async def payload(self, event_id: str, principal: Principal = LIVE, query: str = "") -> Reply:
        return await self.handlers.payload(_of(event_id, principal, query))

    async def attempts(self, event_id: str, principal: Principal = LIVE, query: str = "") -> dict[str, Any]:
        return body(await self.handlers.attempts(_of(event_id, principal, query)))

    async def page(self, principal: Principal = LIVE, query: str | None = None, **filters: str) -> Reply:
        """`filters`: `__` stands for the dot of `metadata.`."""
        text = urlencode({name.replace("__", "."): value for name, value in filters.items()})
        return await self.handlers.list(
            FakeCall(query_string=text if query is None else query, principal=principal)
        )

    async def ids(self, principal: Principal = LIVE, query: str | None = None, **filters: str) -> list[str]:
        """Ids on one page that is known to be whole."""
        reply = await self.page(principal, query, **filters)
        assert reply.headers == ()
        return [item["id"] for item in body(reply)["data"]]


def _of(event_id: str, principal: Principal, query: str) -> FakeCall:
    return FakeCall(path_params={"event_id": event_id}, principal=principal, query_string=query)


def body(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200
    decoded: dict[str, Any] = orjson.loads(reply.body)
    return decoded


@asynccontextmanager
async def status_installation(
    clock: VirtualClock, directory: Path, *, projecting: bool = True
) -> AsyncIterator[StatusInstallation]:
    read_model = await open_read_model(None, entropy=random.Random(2).randbytes)
    try:
        async with installation(clock, directory, read_model) as atlas:
            await atlas.log.create_topic(LIFECYCLE_TOPIC, SHARDS, None)
            made = StatusInstallation(atlas, read_model)
            if projecting:
                made.project()
            try:
                yield made
            finally:
                await made.stop_projecting()
    finally:
        await read_model.close()
